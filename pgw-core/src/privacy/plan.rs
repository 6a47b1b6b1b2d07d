//! The plans of privacy. Pure, as all plans are.

use crate::access::{AuditAction, AuditObject};
use crate::changes::{Changes, Guard, Write};
use crate::id::{ConsentId, ErasureId};
use crate::payment::plan::Stamp;
use crate::text::CustomerId;
use crate::webhook::plan::audit;

use super::{Consent, ConsentHolder, CustomerDigest, Erasure, NewConsent};

/// Plans the mark of a customer that was erased `before` times: from this one commit on, nobody reads anything personal of it.
#[must_use]
pub fn erase(
    customer: &CustomerId,
    digest: CustomerDigest,
    before: u64,
    stamp: &mut Stamp<'_>,
) -> (Changes, Erasure) {
    let erasure = Erasure {
        id: erasure_id(stamp),
        scope: stamp.caller.scope.clone(),
        customer: digest,
        number: before.saturating_add(1),
        requested_at: stamp.now,
    };
    let row = audit(AuditAction::CustomerErase, AuditObject::Erasure(erasure.id), stamp);
    let changes = Changes::new(erasure.scope.clone())
        .guard(Guard::Customer { customer: digest, erasures: before })
        .write(Write::Erase { erasure: Box::new(erasure.clone()), customer: customer.clone() })
        .write(Write::Audit(Box::new(row)));
    (changes, erasure)
}

/// Plans an erasure of the log anew, of a customer that was erased `before` times by what the storage knows; without a customer there is
/// nothing left of them but perhaps consents.
#[must_use]
pub fn reapply(
    erasure: &Erasure,
    customer: Option<&CustomerId>,
    before: u64,
    stamp: &mut Stamp<'_>,
) -> Changes {
    let again = Erasure { number: before.saturating_add(1), ..erasure.clone() };
    let row = audit(AuditAction::CustomerErase, AuditObject::Erasure(again.id), stamp);
    let nobody = || CustomerId::of_erasure(again.id);
    let Some(customer) = customer.cloned().or_else(nobody) else {
        // No erasure has such an id, so the line was made up.
        return Changes::new(again.scope);
    };
    Changes::new(again.scope.clone())
        .guard(Guard::Customer { customer: again.customer, erasures: before })
        .write(Write::Erase { erasure: Box::new(again), customer })
        .write(Write::Audit(Box::new(row)))
}

/// Plans that a customer agrees, under the [id](Consent::id_of) of this very consent.
#[must_use]
pub fn give(
    id: ConsentId,
    customer: CustomerDigest,
    new: NewConsent,
    stamp: &mut Stamp<'_>,
) -> (Changes, Consent) {
    let consent = Consent {
        id,
        scope: stamp.caller.scope.clone(),
        holder: ConsentHolder::Customer(customer),
        purpose: new.purpose,
        terms: new.terms,
        source: new.source,
        given_at: new.given_at.unwrap_or(stamp.now),
        withdrawn_at: None,
        version: 1,
    };
    let row = audit(AuditAction::ConsentGive, AuditObject::Consent(consent.id), stamp);
    let changes = Changes::new(consent.scope.clone())
        .guard(Guard::Consent { id: consent.id, version: 0 })
        .write(Write::Consent(Box::new(consent.clone())))
        .write(Write::Audit(Box::new(row)));
    (changes, consent)
}

/// Plans that these consents, which are held, are withdrawn.
#[must_use]
pub fn withdraw(held: Vec<Consent>, stamp: &mut Stamp<'_>) -> (Changes, Vec<Consent>) {
    let mut changes = Changes::new(stamp.caller.scope.clone());
    let mut withdrawn = Vec::with_capacity(held.len());
    for mut consent in held {
        let guard = Guard::Consent { id: consent.id, version: consent.version };
        consent.withdrawn_at = Some(stamp.now.max(consent.given_at));
        consent.version = consent.version.saturating_add(1);
        let row = audit(AuditAction::ConsentWithdraw, AuditObject::Consent(consent.id), stamp);
        changes = changes
            .guard(guard)
            .write(Write::Consent(Box::new(consent.clone())))
            .write(Write::Audit(Box::new(row)));
        withdrawn.push(consent);
    }
    (changes, withdrawn)
}

/// An id that can stand for a customer. One in ten million is taken for a card number, so the first one nearly always does.
fn erasure_id(stamp: &mut Stamp<'_>) -> ErasureId {
    loop {
        let id = ErasureId::from_uuid((stamp.ids)());
        if CustomerId::of_erasure(id).is_some() {
            return id;
        }
    }
}

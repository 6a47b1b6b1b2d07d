//! The verbs about consents.

use crate::error::Error;
use crate::id::ConsentId;
use crate::page::PageRequest;
use crate::privacy::{Consent, ConsentHolder, NewConsent, plan};
use crate::text::{CustomerId, Purpose};

use super::once::{Asked, reply, surely};
use super::{Bound, CONFLICT_TRIES, Commit};

impl Bound<'_> {
    /// Records that a customer agreed to something. A customer who holds a consent to the same wording already, or gives it twice at once,
    /// gives none anew: the answer is that one.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it was given in the future, or the customer has [as many](Consent::PER_CUSTOMER_MAX) as it may;
    /// [`Error::Busy`], [`Error::Storage`].
    pub async fn give_consent(
        &self,
        customer: &CustomerId,
        new: NewConsent,
    ) -> Result<Consent, Error> {
        let asked = Asked::plainly(&reply::CONSENT_GIVEN);
        self.give_consent_as(customer, new, &asked).await.map(surely)
    }

    pub(super) async fn give_consent_as(
        &self,
        customer: &CustomerId,
        new: NewConsent,
        asked: &Asked<'_, Consent>,
    ) -> Result<Option<Consent>, Error> {
        customer.check_new()?;
        let now = self.gateway.parts.env.now();
        if new.given_at.is_some_and(|at| at > now) {
            return Err(invalid("given_at", "in_the_future", "must not be in the future"));
        }
        let digest = self.customer_digest(customer);
        for _ in 0..CONFLICT_TRIES {
            // An erasure takes over the consents there are, and whoever comes back begins anew.
            let erasures = self.last_erasure(digest).await?.map_or(0, |last| last.erasure.number);
            let held = self.consents(customer).await?;
            let is_same =
                |consent: &&Consent| consent.purpose == new.purpose && consent.terms == new.terms;
            let same = || held.iter().filter(is_same);
            if let Some(given) = same().find(|consent| consent.withdrawn_at.is_none()) {
                return self.conclude(asked, given.clone()).await;
            }
            if held.len() >= Consent::PER_CUSTOMER_MAX {
                let message =
                    "cannot be recorded: the customer has 1000 consents, as many as it may";
                return Err(invalid("purpose", "too_many", message));
            }
            let before = same().count() as u64;
            let id = Consent::id_of(digest, erasures, &new.purpose, &new.terms, before);
            let (changes, consent) = self.plan(|stamp| plan::give(id, digest, new.clone(), stamp));
            // Taken, it was given just now, by somebody else or by a try of this call that got no answer: the next look finds it.
            match self.commit(self.under(asked, changes, &consent)?).await? {
                Commit::Applied => return Ok(Some(consent)),
                Commit::Known { .. } => return Ok(None),
                Commit::Conflict(_) => {}
            }
        }
        Err(Error::Busy("consent"))
    }

    /// A consent that is or was this customer's.
    pub(super) async fn consent_of(
        &self,
        customer: &CustomerId,
        id: ConsentId,
    ) -> Result<Option<Consent>, Error> {
        let is_it = |consent: &Consent| consent.id == id;
        if let Some(held) = self.consents(customer).await?.into_iter().find(is_it) {
            return Ok(Some(held));
        }
        let page = PageRequest::first(PageRequest::LIMIT_MAX);
        for erased in self.erasures(Some(customer), page).await?.data {
            let holder = ConsentHolder::Erased(erased.erasure.id);
            let limit = Consent::PER_CUSTOMER_MAX;
            let held = self.storage.consents(self.scope(), holder, limit).await?;
            if let Some(held) = held.into_iter().find(is_it) {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    /// Every consent of a customer, oldest first, withdrawn ones too.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn consents(&self, customer: &CustomerId) -> Result<Vec<Consent>, Error> {
        let digest = self.customer_digest(customer);
        // What stands for somebody erased shows what is left of their consents.
        let holder = match customer.as_str().parse() {
            Ok(erasure) => ConsentHolder::Erased(erasure),
            Err(_) => ConsentHolder::Customer(digest),
        };
        let limit = Consent::PER_CUSTOMER_MAX;
        Ok(self.storage.consents(self.scope(), holder, limit).await?)
    }

    /// Withdraws every consent of a customer to this purpose; those that it withdrew. As easy as giving one (Art. 7(3)).
    ///
    /// # Errors
    /// [`Error::NotFound`] when the customer holds none, [`Error::Busy`], [`Error::Storage`]; what was withdrawn until then stays so.
    pub async fn withdraw_consent(
        &self,
        customer: &CustomerId,
        purpose: &Purpose,
    ) -> Result<Vec<Consent>, Error> {
        let mut withdrawn: Vec<Consent> = Vec::new();
        let mut tried: Vec<ConsentId> = Vec::new();
        for _ in 0..CONFLICT_TRIES.saturating_mul(4) {
            let held = self.consents(customer).await?;
            let of = held.iter().filter(|consent| consent.purpose == *purpose);
            let open: Vec<Consent> = of
                .clone()
                .filter(|consent| consent.withdrawn_at.is_none())
                .take(BATCH)
                .cloned()
                .collect();
            if open.is_empty() {
                // A try that got no answer was applied after all.
                withdrawn.extend(of.filter(|consent| tried.contains(&consent.id)).cloned());
                break;
            }
            tried = open.iter().map(|consent| consent.id).collect();
            let (changes, closed) = self.plan(|stamp| plan::withdraw(open, stamp));
            if let Commit::Applied | Commit::Known { .. } = self.commit(changes).await? {
                tried.clear();
                withdrawn.extend(closed);
            }
        }
        if withdrawn.is_empty() { Err(Error::NotFound("consent")) } else { Ok(withdrawn) }
    }
}

fn invalid(field: &'static str, code: &'static str, message: &str) -> Error {
    Error::Invalid { field, code, message: message.to_owned() }
}

/// How many are withdrawn in one commit: a guard and two writes each, of at most
/// [`Changes::PARTS_MAX`](crate::changes::Changes::PARTS_MAX) parts.
const BATCH: usize = 20;

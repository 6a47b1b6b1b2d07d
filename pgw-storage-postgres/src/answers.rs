//! Answers under idempotency keys: where they are kept, and what a claim comes to when its key was claimed before.

use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::event::Event;
use pgw_core::idempotency::{KeyClaim, KeyRecord, KeyTarget, StoredAnswer};
use pgw_core::storage::StorageError;

/// The bytes of a key's answer, of a table with this name. They are the key's own, or the object of an event. Null: it has no answer, or there is no
/// such event; or the event was rewritten by erasure and the key was not, as a process does that does not know of such keys.
macro_rules! body {
    ($key:literal) => {
        concat!(
            "coalesce(",
            $key,
            ".answer_body, (select substr(o.body, length(o.body) - 1 - ",
            $key,
            ".answer_length, ",
            $key,
            ".answer_length) from {schema}.events o where o.merchant = ",
            $key,
            ".merchant and o.live = ",
            $key,
            ".live and o.id = ",
            $key,
            ".answer_event and not exists (select 1 from {schema}.erased_payments y where y.merchant = ",
            $key,
            ".merchant and y.live = ",
            $key,
            ".live and y.payment = ",
            $key,
            ".payment and y.redacted_at is not null)))"
        )
    };
}
pub(crate) use body;

/// The event of a commit that creates a payment whose object is the answer to what claimed a key. It holds the same bytes, so the key need not.
///
/// Only where erasure finds the key by what the commit begins: an event's body changes then, and the answer becomes the key's own. Later commits may come after
/// that.
pub(crate) fn teller<'a>(
    changes: &'a Changes,
    claim: &KeyClaim,
    answer: &StoredAnswer,
) -> Option<&'a Event> {
    let KeyTarget::Operation { payment, operation } = claim.target else { return None };
    let creates = Guard::Payment { id: payment, version: 0 };
    let is_found = changes.guards.contains(&creates)
        && changes.writes.iter().any(|write| {
            matches!(write, Write::Operation { operation: begun, .. } if begun.id == operation
            && begun.payment == payment
            && begun.idempotency_key.as_ref() == Some(&claim.key))
        });
    let mut events = changes.writes.iter().filter_map(|write| match write {
        Write::Event(event) if is_found && event.payment == Some(payment) => Some(&**event),
        _ => None,
    });
    events.find(|event| tells(&event.body, &answer.body))
}

/// Whether the last member of an event, its object, is these bytes.
fn tells(event: &[u8], object: &[u8]) -> bool {
    event.strip_suffix(b"}}").is_some_and(|event| event.ends_with(object))
}

/// The answer of the earlier claim.
///
/// # Errors
/// [`StorageError::KeyReused`] when that was another request.
pub(crate) fn answered(claim: &KeyClaim, earlier: KeyRecord) -> Result<Committed, StorageError> {
    if earlier.claim.fingerprint != claim.fingerprint {
        return Err(StorageError::KeyReused);
    }
    let target = earlier.claim.target;
    Ok(match earlier.claim.answer {
        Some(answer) => Committed::Replayed { target, answer },
        None => Committed::InFlight { target },
    })
}

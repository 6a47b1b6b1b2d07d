//! What a claim comes to when its key was claimed before.

use pgw_core::changes::Committed;
use pgw_core::idempotency::{KeyClaim, KeyRecord};
use pgw_core::storage::StorageError;

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

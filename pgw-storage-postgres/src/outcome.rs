//! What a group's statement says became of each of its commits.

use pgw_core::id::{DeliveryId, EndpointId, EventId};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::columns::Read;

/// What became of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its rows are written. The deliveries its events made.
    Applied(Vec<DeliveryId>),
    /// The guard at this place does not hold; `is_absent`: there is no such row, or somebody holds it.
    GuardFailed { at: usize, is_absent: bool },
    /// The payment it creates is there.
    Exists,
    /// It stores the answer of a key that nobody claimed.
    NoSuchKey,
    /// Its key was claimed, or is held, by another; or a payment with its id was inserted meanwhile.
    Lost,
}

/// What became of the commits, by their numbers; those that are not named lost. Those that were applied come in one row: to read a row for each
/// would be a tenth of what the client does for a commit.
pub(crate) fn outcomes(rows: &[PgRow], count: usize) -> Read<Vec<Outcome>> {
    let mut outcomes = vec![Outcome::Lost; count];
    for row in rows {
        // None: nothing was applied.
        let items: Option<Vec<i32>> = row.try_get(0)?;
        for item in items.unwrap_or_default() {
            let outcome = usize::try_from(item).ok().and_then(|item| outcomes.get_mut(item));
            if let Some(outcome) = outcome {
                tell(outcome, row)?;
            }
        }
    }
    Ok(outcomes)
}

fn tell(outcome: &mut Outcome, row: &PgRow) -> Read<()> {
    let (code, at): (i32, i32) = (row.try_get(1)?, row.try_get(2)?);
    match code {
        0 => applied(outcome),
        1 if usize::try_from(at).ok() == Some(NO_SUCH_KEY) => *outcome = Outcome::NoSuchKey,
        1 if usize::try_from(at).ok() == Some(CREATION) => *outcome = Outcome::Exists,
        1 => {
            let at = usize::try_from(at)?;
            *outcome = Outcome::GuardFailed { at, is_absent: row.try_get(3)? };
        }
        _ => {
            let (event, endpoint): (Uuid, Uuid) = (row.try_get(4)?, row.try_get(5)?);
            let id = DeliveryId::new(EventId::from_uuid(event), EndpointId::from_uuid(endpoint));
            applied(outcome);
            if let Outcome::Applied(made) = outcome {
                made.push(id);
            }
        }
    }
    Ok(())
}

fn applied(outcome: &mut Outcome) {
    if !matches!(outcome, Outcome::Applied(_)) {
        *outcome = Outcome::Applied(Vec::new());
    }
}

/// The place that stands for an answer without a claimed key: after every guard.
pub(crate) const NO_SUCH_KEY: usize = 32_767;
/// The place that stands for the guard that a new payment is not there: groups have no other guard of such a commit's payment.
pub(crate) const CREATION: usize = 32_766;

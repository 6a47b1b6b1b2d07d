//! What must be true of an audit log: it is as it was sealed, and nothing that is old enough is left out of its chain.

use std::time::Duration;

use crate::access::SealKey;
use crate::gateway::{AuditReport, verify};
use crate::scope::MerchantId;
use crate::storage::{Storage, StorageError};
use crate::timestamp::Timestamp;

use super::Broken;

pub(super) async fn check(
    storage: &dyn Storage,
    key: &SealKey,
    merchant: &MerchantId,
    now: Timestamp,
    broken: &mut Vec<Broken>,
) -> Result<(), StorageError> {
    let report = verify(storage, key, merchant, None, now, |_| {}).await?;
    if let Some(fault) = report.fault {
        broken.push(("the audit log verifies", fault.to_string()));
    }
    if let Some(left) = left_out(&report, now) {
        broken.push(("the seals cover every audit row", format!("{left} of {merchant}")));
    }
    Ok(())
}

/// What of a merchant's log should be sealed and is not yet.
pub(crate) async fn unsealed(
    storage: &dyn Storage,
    key: &SealKey,
    merchant: &MerchantId,
    now: Timestamp,
) -> Result<Option<String>, StorageError> {
    let report = verify(storage, key, merchant, None, now, |_| {}).await?;
    Ok(left_out(&report, now).map(|left| format!("{left} of {merchant}")))
}

/// Rows of the future, written by a clock that was ahead, are left alone until then.
fn left_out(report: &AuditReport, now: Timestamp) -> Option<String> {
    if report.late > 0 {
        return Some(format!("{} late rows", report.late));
    }
    let oldest = report.oldest_unsealed.filter(|at| now.since(*at) > YOUNG)?;
    Some(format!("{} rows from {oldest} on", report.unsealed))
}

/// Rows younger than this are not sealed yet.
const YOUNG: Duration = Duration::from_secs(30);

//! Verification of a merchant's audit log against its seals: seal by seal, in bounded steps, up to the first thing that is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::access::seal::{LATE_FOR, before};
use crate::access::{AuditSeal, LoggedRow, SealHead, SealKey, SealedRow};
use crate::id::AuditId;
use crate::page::Cursor;
use crate::scope::MerchantId;
use crate::storage::{Storage, StorageError};
use crate::timestamp::Timestamp;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditReport {
    /// The first thing that is wrong; nothing after it was looked at.
    pub fault: Option<AuditFault>,
    /// Rows that are as they were sealed.
    pub sealed: u64,
    /// Rows behind the end of the chain: too young to be sealed, or waiting for a worker.
    pub unsealed: u64,
    /// The time of the oldest of them. When it is long ago, no worker seals.
    pub oldest_unsealed: Option<Timestamp>,
    /// Rows of the last day that the chain went past before they were there, as those of a long transaction, and that wait for a worker.
    pub late: u64,
    /// The seal that the chain begins with when what was before it was purged.
    pub anchor: Option<u64>,
    /// The end of the chain. Keep it elsewhere, for the next verification.
    pub head: Option<SealHead>,
}

/// Something that is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditFault {
    /// A row is not what it was when it was sealed.
    #[error("row {id} of {at} was changed after it was sealed (seal {seal})")]
    RowChanged {
        /// The row.
        id: AuditId,
        /// Its time.
        at: Timestamp,
        /// The seal that holds it.
        seal: u64,
    },
    /// A row that was sealed is not there.
    #[error("row {id} of {at} was removed after it was sealed (seal {seal})")]
    RowMissing {
        /// The row.
        id: AuditId,
        /// Its time.
        at: Timestamp,
        /// The seal that holds it.
        seal: u64,
    },
    /// A row is there that was not when its time was sealed, and that is too old to be a late one.
    #[error("row {id} of {at} was added after its time was sealed")]
    RowInserted {
        /// The row.
        id: AuditId,
        /// Its time.
        at: Timestamp,
    },
    /// A row that is not sealed cannot be read: it was changed by hand, or written by a later version.
    #[error("row {id} of {at} is not sealed and cannot be read")]
    RowUnreadable {
        /// The row.
        id: AuditId,
        /// Its time.
        at: Timestamp,
    },
    /// The chain is broken.
    #[error("seal {number} {because}")]
    Seal {
        /// The seal.
        number: u64,
        /// In which way.
        because: SealFault,
    },
}

/// What is wrong with a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealFault {
    /// Its code is not that of its contents under this pepper.
    #[error("was changed, or made with another pepper")]
    Forged,
    /// It does not hold the code of the seal before it.
    #[error("does not follow the one before it")]
    Unlinked,
    /// It is not there, and others are after it.
    #[error("is missing")]
    Missing,
    /// It is not there, and was once the end of the chain.
    #[error("was cut off the end of the chain")]
    CutOff,
    /// It is not the one that was kept.
    #[error("is not the one that was kept")]
    Replaced,
}

/// Verifies; see [`Gateway::verify_audit`](super::Gateway::verify_audit).
pub(crate) async fn verify(
    storage: &dyn Storage,
    key: &SealKey,
    merchant: &MerchantId,
    kept: Option<SealHead>,
    now: Timestamp,
    mut progress: impl FnMut(&AuditReport) + Send,
) -> Result<AuditReport, StorageError> {
    loop {
        let begin = first_seal(storage, merchant).await?;
        let report = walk(storage, key, merchant, kept, now, &mut progress).await?;
        // A purge takes the oldest seals and their rows, perhaps those that were just looked at. What is left has to verify from where it
        // begins now. Each purge takes a seal at least, so this ends.
        if report.fault.is_none() || first_seal(storage, merchant).await? == begin {
            return Ok(report);
        }
    }
}

async fn first_seal(
    storage: &dyn Storage,
    merchant: &MerchantId,
) -> Result<Option<u64>, StorageError> {
    Ok(storage.audit_seals(merchant, 0, 1).await?.first().map(|seal| seal.number))
}

/// Walks the chain and the log once, to the first thing that is wrong.
async fn walk(
    storage: &dyn Storage,
    key: &SealKey,
    merchant: &MerchantId,
    kept: Option<SealHead>,
    now: Timestamp,
    progress: &mut (impl FnMut(&AuditReport) + Send),
) -> Result<AuditReport, StorageError> {
    let (report, strays) = (AuditReport::default(), BTreeMap::new());
    let mut verifier = Verifier { storage, key, merchant, kept, now, report, strays };
    loop {
        let seals = storage.audit_seals(merchant, verifier.last_number(), SEALS).await?;
        for seal in &seals {
            verifier.report.fault = verifier.seal(seal).await?;
            if verifier.report.fault.is_some() {
                return Ok(verifier.report);
            }
        }
        progress(&verifier.report);
        if seals.is_empty() {
            break;
        }
    }
    verifier.report.fault = verifier.judge_end();
    let mut after = verifier.report.head.map(|head| head.through);
    while verifier.report.fault.is_none() {
        let rows = storage.audit_rows(merchant, after, END, ROWS).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.place);
        verifier.count_unsealed(&rows);
        progress(&verifier.report);
    }
    Ok(verifier.report)
}

struct Verifier<'a> {
    storage: &'a dyn Storage,
    key: &'a SealKey,
    merchant: &'a MerchantId,
    kept: Option<SealHead>,
    now: Timestamp,
    report: AuditReport,
    /// Rows that the chain went past without them, and whether each can be read.
    strays: BTreeMap<Cursor, bool>,
}

impl Verifier<'_> {
    fn last_number(&self) -> u64 {
        self.report.head.map_or(0, |head| head.number)
    }

    /// Takes the next seal of the chain.
    async fn seal(&mut self, seal: &AuditSeal) -> Result<Option<AuditFault>, StorageError> {
        if let Some(fault) = self.judge_link(seal) {
            return Ok(Some(fault));
        }
        let begins = self.report.head.is_none();
        let past = self.report.head.map(|head| head.through);
        self.report.head = Some(seal.head());
        let held: BTreeMap<Cursor, SealedRow> = if begins && seal.number > 1 {
            // Its own rows were purged with those before it.
            self.report.anchor = Some(seal.number);
            BTreeMap::new()
        } else {
            seal.rows.iter().map(|row| (row.place(), *row)).collect()
        };
        let count = held.len() as u64;
        let fault = if past == Some(seal.through) {
            self.look_up(seal.number, held).await?
        } else {
            self.walk(seal, past, held).await?
        };
        if fault.is_none() {
            self.report.sealed = self.report.sealed.saturating_add(count);
        }
        Ok(fault)
    }

    fn judge_link(&self, seal: &AuditSeal) -> Option<AuditFault> {
        let fault = |number, because| Some(AuditFault::Seal { number, because });
        let expected = self.last_number().saturating_add(1);
        // What was purged is older than a year, so the chain may begin later than it did; never with a seal of less than that.
        let is_anchor = self.report.head.is_none()
            && self.now.since(seal.sealed_at) >= AuditReport::KEPT_MIN.saturating_sub(SKEW)
            && seal.number > 1;
        if seal.number != expected && !is_anchor {
            return fault(expected, SealFault::Missing);
        }
        if !seal.is_genuine(self.key) {
            return fault(seal.number, SealFault::Forged);
        }
        let previous = self.report.head.map_or([0; 32], |head| head.mac);
        let goes_on = self.report.head.is_none_or(|head| head.through <= seal.through);
        if !is_anchor && (seal.previous != previous || !goes_on) {
            return fault(seal.number, SealFault::Unlinked);
        }
        let kept = self.kept.filter(|kept| kept.number == seal.number);
        if kept.is_some_and(|kept| kept.mac != seal.mac) {
            return fault(seal.number, SealFault::Replaced);
        }
        None
    }

    /// Compares the rows between two places with those that a seal holds of them.
    async fn walk(
        &mut self,
        seal: &AuditSeal,
        mut after: Option<Cursor>,
        mut held: BTreeMap<Cursor, SealedRow>,
    ) -> Result<Option<AuditFault>, StorageError> {
        let mut first = None;
        loop {
            let rows = self.storage.audit_rows(self.merchant, after, seal.through, ROWS).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.place);
            for row in &rows {
                match held.remove(&row.place) {
                    Some(sealed) if row.sealed() == Some(sealed) => {}
                    Some(_) if first.is_none() => first = Some(row.place),
                    Some(_) => {}
                    None => {
                        self.strays.insert(row.place, row.row.is_some());
                    }
                }
            }
            if self.strays.len() > STRAYS_MAX {
                return Ok(self.inserted());
            }
        }
        let missing = held.into_keys().next();
        // The first of the log's own order.
        Ok(match (first, missing) {
            (Some(changed), missing) if missing.is_none_or(|missing| changed < missing) => {
                Some(row_changed(changed, seal.number))
            }
            (_, Some(missing)) => Some(row_missing(missing, seal.number)),
            (_, None) => None,
        })
    }

    /// Looks up the late rows that a seal holds, each at its place.
    async fn look_up(
        &mut self,
        number: u64,
        held: BTreeMap<Cursor, SealedRow>,
    ) -> Result<Option<AuditFault>, StorageError> {
        for (place, sealed) in held {
            let after = Some(before(place));
            let found = self.storage.audit_rows(self.merchant, after, place, 1).await?;
            match found.first() {
                Some(row) if row.sealed() == Some(sealed) => self.strays.remove(&place),
                Some(_) => return Ok(Some(row_changed(place, number))),
                None => return Ok(Some(row_missing(place, number))),
            };
        }
        Ok(None)
    }

    /// What the whole chain says: whether its end is there, and what it went past.
    fn judge_end(&mut self) -> Option<AuditFault> {
        if let Some(kept) = self.kept.filter(|kept| kept.number > self.last_number()) {
            return Some(AuditFault::Seal { number: kept.number, because: SealFault::CutOff });
        }
        let unreadable = self.strays.iter().find(|(_, is_readable)| !**is_readable);
        if let Some((place, _)) = unreadable {
            return Some(row_unreadable(*place));
        }
        self.report.late = self.strays.len() as u64;
        let oldest = self.strays.keys().next()?;
        let is_late = self.now.since(oldest.at) <= LATE_FOR;
        if is_late { None } else { self.inserted() }
    }

    fn inserted(&self) -> Option<AuditFault> {
        let place = self.strays.keys().next()?;
        Some(AuditFault::RowInserted { id: AuditId::from_uuid(place.id), at: place.at })
    }

    fn count_unsealed(&mut self, rows: &[LoggedRow]) {
        self.report.unsealed = self.report.unsealed.saturating_add(rows.len() as u64);
        let first = rows.first().map(|row| row.place.at);
        self.report.oldest_unsealed = self.report.oldest_unsealed.or(first);
        let unreadable = rows.iter().find(|row| row.row.is_none());
        self.report.fault = unreadable.map(|row| row_unreadable(row.place));
    }
}

impl AuditReport {
    /// How long the log is kept at least: a purge leaves everything that was sealed since (PCI DSS 10.5.1).
    pub const KEPT_MIN: Duration = Duration::from_secs(365 * 24 * 60 * 60);
}

const fn row_changed(place: Cursor, seal: u64) -> AuditFault {
    AuditFault::RowChanged { id: AuditId::from_uuid(place.id), at: place.at, seal }
}

const fn row_missing(place: Cursor, seal: u64) -> AuditFault {
    AuditFault::RowMissing { id: AuditId::from_uuid(place.id), at: place.at, seal }
}

const fn row_unreadable(place: Cursor) -> AuditFault {
    AuditFault::RowUnreadable { id: AuditId::from_uuid(place.id), at: place.at }
}

/// The place behind every row.
const END: Cursor = Cursor::new(Timestamp::MAX, Uuid::max());
/// Seals read at once: their rows are a few hundred kilobytes.
const SEALS: usize = 8;
/// How far the clock that judged a purge may have been ahead of this one.
const SKEW: Duration = Duration::from_secs(60 * 60);
/// Rows read at once.
const ROWS: usize = 1_000;
/// Most rows beside the chain that are remembered. More than this is no transaction that took long.
const STRAYS_MAX: usize = 100_000;

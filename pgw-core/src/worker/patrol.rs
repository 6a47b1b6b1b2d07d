//! The patrol: a walk over a merchant's chain of the last day, again and again, for rows that came late: committed with a time that the
//! chain had gone past, as those of a host's long transaction are.

use std::collections::BTreeMap;

use crate::access::seal::LATE_FOR;
use crate::access::{AuditSeal, RowDigest, SealHead, SealedRow};
use crate::id::AuditId;
use crate::page::Cursor;
use crate::scope::MerchantId;
use crate::storage::{Storage, StorageError};
use crate::timestamp::Timestamp;

use super::sealer::{Sealed, Sealer};

/// One merchant's.
#[derive(Debug)]
pub(super) struct Patrol {
    /// Where the next round begins: the last seal that is older than what can come late.
    start: Start,
    round: Option<Round>,
    /// Whether the next round is to begin.
    is_called: bool,
    /// Where the next round begins to take rows, after one that could not take all.
    floor: Option<Cursor>,
}

/// The seal before the first of a round.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// To be looked for: nothing before this time comes late.
    At(Timestamp),
    /// It.
    After(Option<SealHead>),
}

/// A walk that is under way.
#[derive(Debug)]
struct Round {
    /// The last seal that was read.
    last: Option<SealHead>,
    /// Rows that the chain went past, and that no seal so far holds.
    strays: BTreeMap<Cursor, RowDigest>,
    /// Rows up to here were another round's.
    floor: Option<Cursor>,
    /// Where there were more than are taken at once.
    cut: Option<Cursor>,
}

impl Patrol {
    /// One of a chain that goes through this time.
    pub(super) fn new(through: Timestamp) -> Self {
        Self {
            start: Start::At(through.minus(LATE_FOR)),
            round: None,
            is_called: true,
            floor: None,
        }
    }

    pub(super) const fn is_under_way(&self) -> bool {
        self.round.is_some() || self.is_called
    }

    /// Begins a round, unless one is under way.
    pub(super) const fn begin(&mut self) {
        self.is_called = true;
    }

    /// Ends the round without its result; the next one begins where it began.
    pub(super) fn give_up(&mut self) {
        self.round = None;
        self.is_called = false;
    }

    /// Looks at the next few seals and at the rows that they went past; at the end of the chain, seals what is in none.
    pub(super) async fn step(
        &mut self,
        sealer: &Sealer,
        merchant: &MerchantId,
    ) -> Result<(), StorageError> {
        let storage = sealer.gateway().storage();
        let round = match &mut self.round {
            Some(round) => round,
            None => {
                let last = match self.start {
                    Start::After(last) => last,
                    Start::At(at) => older_than(at, storage, merchant).await?,
                };
                self.start = Start::After(last);
                self.is_called = false;
                let floor = self.floor.take();
                self.round.insert(Round { last, strays: BTreeMap::new(), floor, cut: None })
            }
        };
        let number = round.last.map_or(0, |last| last.number);
        let seals = storage.audit_seals(merchant, number, SEALS).await?;
        if let Some(last) = seals.last() {
            round.read(storage, merchant, &seals).await?;
            round.last = Some(last.head());
            let old = sealer.gateway().env().now().minus(LATE_FOR);
            if let Some(seal) = seals.iter().rev().find(|seal| seal.through.at < old) {
                self.start = Start::After(Some(seal.head()));
            }
            return Ok(());
        }
        let Some(head) = round.last.filter(|_| !round.strays.is_empty()) else {
            // Nothing is left of this round; of what it could not take, the next one begins.
            self.floor = round.cut;
            self.is_called |= self.floor.is_some();
            self.round = None;
            return Ok(());
        };
        let rows = round.strays.iter().take(AuditSeal::ROWS_MAX);
        let rows: Vec<SealedRow> = rows.map(|(place, digest)| sealed(*place, *digest)).collect();
        let places: Vec<Cursor> = rows.iter().map(SealedRow::place).collect();
        let seal = sealer.make(merchant, Some(&head), head.through, rows);
        let next = seal.head();
        // When the chain went on meanwhile, perhaps with these very rows, so does the walk.
        if sealer.append(seal).await? == Sealed::Done {
            round.last = Some(next);
            for place in &places {
                round.strays.remove(place);
            }
        }
        Ok(())
    }
}

impl Round {
    /// Takes seals, and looks which of the rows between them are in none.
    async fn read(
        &mut self,
        storage: &dyn Storage,
        merchant: &MerchantId,
        seals: &[AuditSeal],
    ) -> Result<(), StorageError> {
        let Some(last) = seals.last() else { return Ok(()) };
        let held: BTreeMap<Cursor, ()> =
            seals.iter().flat_map(|seal| &seal.rows).map(|row| (row.place(), ())).collect();
        self.strays.retain(|place, _| !held.contains_key(place));
        let mut after = self.last.map(|last| last.through).max(self.floor);
        while self.cut.is_none() {
            let rows = storage.audit_rows(merchant, after, last.through, ROWS).await?;
            let Some(end) = rows.last() else { break };
            after = Some(end.place);
            let strays = rows.iter().filter(|row| !held.contains_key(&row.place));
            let strays = strays.filter_map(|row| Some((row.place, row.sealed()?.digest)));
            self.strays.extend(strays);
            // Most of them may be in seals that come later, so these are read first.
            self.cut = (self.strays.len() >= STRAYS_MAX).then_some(end.place);
        }
        Ok(())
    }
}

/// The last seal that goes through no more than this time; found by halving, as seals are found by number only.
async fn older_than(
    at: Timestamp,
    storage: &dyn Storage,
    merchant: &MerchantId,
) -> Result<Option<SealHead>, StorageError> {
    // Below `low` it is old, and from `high` on it is not or is not there.
    let (mut low, mut high, mut found) = (0_u64, u64::MAX, None);
    let mut stride = 1_u64;
    while low.saturating_add(1) < high {
        let middle = if high == u64::MAX {
            stride = stride.saturating_mul(2);
            low.saturating_add(stride)
        } else {
            low.saturating_add(high.saturating_sub(low) / 2)
        };
        // Numbers have no gap but one at the start, where seals were purged: the next one there is, is what counts.
        match storage.audit_seals(merchant, middle.saturating_sub(1), 1).await?.first() {
            Some(seal) if seal.through.at < at => {
                low = seal.number;
                found = Some(seal.head());
            }
            _ => high = middle,
        }
    }
    Ok(found)
}

const fn sealed(place: Cursor, digest: RowDigest) -> SealedRow {
    SealedRow { at: place.at, id: AuditId::from_uuid(place.id), digest }
}

/// Seals of a step.
const SEALS: usize = 16;
/// Rows read at once.
const ROWS: usize = 1_000;
/// Most rows that one round remembers, and a page more: less than a megabyte.
const STRAYS_MAX: usize = 10_000;

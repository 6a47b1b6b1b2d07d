//! The sealer: puts committed audit rows into each merchant's chain of seals, in bounded sweeps, any number of them at once.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::access::{AuditSeal, AuditTail, SealHead, SealKey, SealedRow};
use crate::changes::{Changes, Committed, Guard, Write};
use crate::gateway::Gateway;
use crate::page::Cursor;
use crate::scope::{MerchantId, Mode, Scope};
use crate::storage::StorageError;

use super::patrol::Patrol;

/// Seals, again and again, what was written and is old enough, and looks for what came late.
pub(super) async fn seal(gateway: Gateway, period: Duration) {
    let Some(key) = gateway.parts().seals.clone() else { return };
    let mut sealer = Sealer { gateway, key, patrols: BTreeMap::new(), sweeps: 0, next: None };
    loop {
        if let Err(error) = sealer.sweep().await {
            tracing::warn!(%error, "audit rows were not sealed; the next sweep goes on");
        }
        tokio::time::sleep(period).await;
    }
}

pub(super) struct Sealer {
    gateway: Gateway,
    key: SealKey,
    patrols: BTreeMap<MerchantId, Patrol>,
    sweeps: u32,
    /// The merchant whose patrol goes on first.
    next: Option<MerchantId>,
}

/// What became of a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealed {
    /// It is the end of the chain.
    Done,
    /// Somebody else was faster.
    Lost,
}

impl Sealer {
    /// Seals what every merchant has, then patrols a little.
    async fn sweep(&mut self) -> Result<(), StorageError> {
        let mut after = None;
        loop {
            let tails = self.gateway.storage().audit_tails(after.as_ref(), TAILS).await?;
            let is_last = tails.len() < TAILS;
            after = tails.last().map(|tail| tail.merchant.clone());
            for tail in tails {
                if let Some(head) = tail.head {
                    // Before anything is sealed: what came late while no worker was there is looked for too.
                    let patrol = || Patrol::new(head.through.at);
                    self.patrols.entry(tail.merchant.clone()).or_insert_with(patrol);
                }
                let merchant = tail.merchant.clone();
                let _: Passed = passable(self.catch_up(tail).await, &merchant)?;
            }
            if is_last {
                break;
            }
        }
        self.patrol().await
    }

    /// Seals a merchant's rows up to those that are too young.
    async fn catch_up(&self, tail: AuditTail) -> Result<(), StorageError> {
        let AuditTail { merchant, mut head, newest } = tail;
        let old_enough = self.gateway.env().now().minus(SETTLES);
        let through = Cursor::new(old_enough, Uuid::max());
        loop {
            let after = head.map(|head| head.through);
            if after.is_some_and(|after| after >= newest) {
                return Ok(());
            }
            let rows = self
                .gateway
                .storage()
                .audit_rows(&merchant, after, through, AuditSeal::ROWS_MAX)
                .await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let sealed: Vec<SealedRow> = rows.iter().filter_map(|row| row.sealed()).collect();
            if sealed.len() < rows.len() {
                // Left beside the chain, where every verification finds them.
                tracing::error!(%merchant, "there are audit rows that cannot be read; verify the log");
            }
            let is_last = rows.len() < AuditSeal::ROWS_MAX;
            let seal = self.make(&merchant, head.as_ref(), last.place, sealed);
            head = Some(seal.head());
            // Whoever was faster goes on.
            if self.append(seal).await? == Sealed::Lost || is_last {
                return Ok(());
            }
        }
    }

    pub(super) fn make(
        &self,
        merchant: &MerchantId,
        head: Option<&SealHead>,
        through: Cursor,
        rows: Vec<SealedRow>,
    ) -> AuditSeal {
        let now = self.gateway.env().now();
        AuditSeal::new(&self.key, merchant.clone(), head, through, now, rows)
    }

    pub(super) async fn append(&self, seal: AuditSeal) -> Result<Sealed, StorageError> {
        // The mode is that of no row: a chain is a merchant's.
        let scope = Scope::new(seal.merchant.clone(), Mode::Test);
        let changes = Changes::new(scope)
            .guard(Guard::Seals { last: seal.number.saturating_sub(1) })
            .write(Write::Seal(Box::new(seal)));
        match self.gateway.storage().commit(changes).await {
            Ok(Committed::Applied { .. }) => Ok(Sealed::Done),
            Err(StorageError::Conflict(_)) | Ok(_) => Ok(Sealed::Lost),
            Err(error) => Err(error),
        }
    }

    /// Looks a little further for rows that came late, merchant by merchant.
    async fn patrol(&mut self) -> Result<(), StorageError> {
        self.sweeps = self.sweeps.wrapping_add(1);
        if self.sweeps % SWEEPS_A_ROUND == 1 {
            self.patrols.values_mut().for_each(Patrol::begin);
        }
        let mut steps = STEPS;
        let from = self.next.take();
        let first = |merchant: &MerchantId| from.as_ref().is_none_or(|from| merchant >= from);
        let (ahead, behind): (Vec<_>, Vec<_>) =
            self.patrols.keys().cloned().partition(|merchant| first(merchant));
        for merchant in ahead.into_iter().chain(behind) {
            let Some(mut patrol) = self.patrols.remove(&merchant) else { continue };
            let mut result = Ok(());
            while patrol.is_under_way() && steps > 0 && result.is_ok() {
                steps -= 1;
                result = patrol.step(self, &merchant).await;
            }
            let passed = passable(result, &merchant);
            if matches!(passed, Ok(Passed::Over)) {
                patrol.give_up();
            }
            let is_over = !patrol.is_under_way();
            self.patrols.insert(merchant.clone(), patrol);
            passed?;
            if !is_over {
                self.next = Some(merchant);
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) const fn gateway(&self) -> &Gateway {
        &self.gateway
    }
}

/// Whether a merchant's turn went well or is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    Well,
    Over,
}

/// One merchant's log that cannot be read does not hold up the others'. A storage that cannot be reached does.
fn passable(
    result: Result<(), StorageError>,
    merchant: &MerchantId,
) -> Result<Passed, StorageError> {
    match result {
        Ok(()) => Ok(Passed::Well),
        Err(error) if error.is_retryable() => Err(error),
        Err(error) => {
            tracing::error!(%merchant, %error, "an audit log cannot be sealed; verify it");
            Ok(Passed::Over)
        }
    }
}

/// How old a row must be to be sealed: by then every commit that was quick is there, and few come late.
const SETTLES: Duration = Duration::from_secs(5);
/// Merchants looked at with one read.
const TAILS: usize = 100;
/// A round of the patrol begins with each of so many sweeps: once a minute by default.
const SWEEPS_A_ROUND: u32 = 12;
/// Steps of the patrol in a sweep. Each looks at up to 16,000 rows, so that it goes faster than rows are written.
const STEPS: usize = 8;

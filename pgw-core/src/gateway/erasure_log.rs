//! The erasure log: what outlives a restore. A backup holds people who were erased after it was made; the log says, without naming anybody,
//! who must be erased again.

use std::collections::{BTreeMap, BTreeSet};

use crate::access::Caller;
use crate::error::Error;
use crate::id::ErasureId;
use crate::page::{Cursor, PageFrom, PageRequest};
use crate::privacy::{CustomerDigest, Erasure, plan};
use crate::scope::Scope;
use crate::storage::StorageError;
use crate::text::CustomerId;

use super::{Gateway, commit_surely};

/// A part of the erasure log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureLog {
    /// Erasures, newest first, at most [`ErasureLog::PART_MAX`].
    pub erasures: Vec<Erasure>,
    /// Where to go on. `None`: that was all.
    pub next: Option<Cursor>,
}

impl ErasureLog {
    /// Most erasures of a part.
    pub const PART_MAX: usize = 1_000;
}

/// What [`Gateway::reapply_erasures`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reapplied {
    /// Erasures that were recorded anew.
    pub erasures: u64,
    /// Payments that they marked.
    pub payments: u64,
    /// Erasures that were there already: they are older than the backup.
    pub known: u64,
}

impl Gateway {
    /// The erasures of a scope, to be kept where a restore of the storage does not reach. Each is written as a line by
    /// [`Erasure::to_line`] and read by [`Erasure::from_line`].
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn erasure_log(
        &self,
        scope: &Scope,
        after: Option<Cursor>,
    ) -> Result<ErasureLog, Error> {
        let mut log = ErasureLog { erasures: Vec::new(), next: after };
        while log.erasures.len() < ErasureLog::PART_MAX {
            let mut page = PageRequest::first(PageRequest::LIMIT_MAX);
            if let Some(after) = log.next {
                page = page.with_from(PageFrom::After(after));
            }
            let found = self.storage().erasures(scope, None, page).await?;
            log.erasures.extend(found.data.into_iter().map(|progress| progress.erasure));
            log.next = found.next_cursor.filter(|_| found.has_more);
            if log.next.is_none() {
                break;
            }
        }
        Ok(log)
    }

    /// Erases again, after a restore, everybody whom the log says was erased and whom the restored data still knows. Run it before payments are
    /// taken again: what is held under an erased customer's id then is what was erased. The pepper must be the one that the log was written under.
    ///
    /// It walks the customers of the log's scopes, each once, and can be run again.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Storage`]; what was marked until then stays so.
    pub async fn reapply_erasures(&self, log: &[Erasure]) -> Result<Reapplied, Error> {
        let mut reapplied = Reapplied::default();
        let mut scopes: BTreeMap<&Scope, Vec<&Erasure>> = BTreeMap::new();
        let mut seen: BTreeSet<(&Scope, ErasureId)> = BTreeSet::new();
        for erasure in log {
            if !seen.insert((&erasure.scope, erasure.id)) {
                continue;
            }
            if self.storage().erasure(&erasure.scope, erasure.id).await?.is_some() {
                reapplied.known = reapplied.known.saturating_add(1);
            } else {
                scopes.entry(&erasure.scope).or_default().push(erasure);
            }
        }
        for (scope, mut erasures) in scopes {
            // The first erasure of a customer takes over all there is, the later ones are recorded.
            erasures.sort_by_key(|erasure| erasure.number);
            let names = self.names(scope, &erasures).await?;
            for erasure in erasures {
                let payments = self.reapply(erasure, names.get(&erasure.customer)).await?;
                reapplied.erasures = reapplied.erasures.saturating_add(1);
                reapplied.payments = reapplied.payments.saturating_add(payments);
            }
        }
        Ok(reapplied)
    }

    /// The ids of those customers whom the storage still knows.
    async fn names(
        &self,
        scope: &Scope,
        erasures: &[&Erasure],
    ) -> Result<BTreeMap<CustomerDigest, CustomerId>, Error> {
        let wanted: BTreeSet<_> = erasures.iter().map(|erasure| erasure.customer).collect();
        let mut names = BTreeMap::new();
        let mut after: Option<CustomerId> = None;
        loop {
            let found = self.storage().customers(scope, after.as_ref(), CUSTOMERS_AT_ONCE).await?;
            let Some(last) = found.last() else { return Ok(names) };
            after = Some(last.clone());
            for name in found {
                let digest = self.parts.pepper.customer(scope, &name);
                if wanted.contains(&digest) {
                    names.insert(digest, name);
                }
            }
        }
    }

    /// Marks one customer again, under the id and time of the log; how many payments that took.
    async fn reapply(
        &self,
        erasure: &Erasure,
        customer: Option<&CustomerId>,
    ) -> Result<u64, Error> {
        let own = self.by(Caller::host(erasure.scope.clone()));
        for _ in 0..super::CONFLICT_TRIES {
            if let Some(done) = own.erasure(erasure.id).await? {
                return Ok(done.payments);
            }
            let page = PageRequest::first(1);
            let customer_erasures =
                self.storage().erasures(&erasure.scope, Some(erasure.customer), page).await?;
            let before = customer_erasures.data.first().map_or(0, |it| it.erasure.number);
            let changes = own.plan(|stamp| plan::reapply(erasure, customer, before, stamp));
            match commit_surely(self.storage(), changes, self.env()).await? {
                (Ok(_) | Err(StorageError::Conflict(_)), _) => {}
                (Err(error), _) => return Err(error.into()),
            }
        }
        Err(Error::Busy("customer"))
    }
}

/// Customers that are looked at together.
const CUSTOMERS_AT_ONCE: usize = 500;

//! The verbs that send deliveries again by hand: one, or all that a filter finds.

use crate::error::Error;
use crate::id::{DeliveryId, EndpointId};
use crate::page::{Cursor, PageFrom, PageRequest};
use crate::storage::DeliveryFilter;
use crate::timestamp::Timestamp;
use crate::webhook::delivery::DeliveryStatus;
use crate::webhook::{Delivery, DeliveryState, plan};

use super::once::{Asked, reply, surely};
use super::{Bound, CONFLICT_TRIES, Commit};

/// Whether a bulk verb does it or only counts. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Run {
    /// Does it.
    Real,
    /// Counts what it would do, and writes nothing.
    Dry,
}

/// What one call of a bulk retry came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkRetry {
    /// Whether anything was done at all.
    pub run: Run,
    /// How many deliveries the filter found, at most [`BulkRetry::DELIVERIES_MAX`].
    pub matched: usize,
    /// For how many of them a new round of attempts was started: less than `matched` where one was on its way already,
    /// or somebody else was faster; 0 of a dry run.
    pub retried: usize,
    /// Where to go on: there are more deliveries than one call may retry. `None`: that was all.
    pub next: Option<Cursor>,
}

impl BulkRetry {
    /// Most deliveries of one call: it ends within a few seconds even where a commit takes milliseconds.
    pub const DELIVERIES_MAX: usize = 1_000;
}

impl Bound<'_> {
    /// Starts a new round of attempts of a delivery that was given up or was taken before. The webhook id stays the same, so
    /// a receiver that handles each id once does nothing twice. One that is on its way already is left alone.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Busy`], [`Error::Storage`].
    pub async fn retry_delivery(&self, id: DeliveryId) -> Result<Delivery, Error> {
        let asked = Asked::plainly(&reply::DELIVERY_STARTED);
        self.retry_delivery_as(id, &asked).await.map(surely)
    }

    pub(super) async fn retry_delivery_as(
        &self,
        id: DeliveryId,
        asked: &Asked<'_, Delivery>,
    ) -> Result<Option<Delivery>, Error> {
        match self.replay_one(id, None, asked).await? {
            Replay::Started(delivery) => Ok(Some(delivery)),
            Replay::Left(delivery) => self.conclude(asked, delivery).await,
            Replay::Known => Ok(None),
        }
    }

    /// Does [`retry_delivery`](Self::retry_delivery) for every delivery that the filter finds, newest first, at most
    /// [`BulkRetry::DELIVERIES_MAX`] in one call. Call again with `after` set to [`BulkRetry::next`] until there is none: a delivery
    /// is found once in such a series, even if it fails again at once.
    ///
    /// # Errors
    /// [`Error::Storage`]; what was started until then stays so, and starting it again is harmless.
    pub async fn retry_deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<Cursor>,
        run: Run,
    ) -> Result<BulkRetry, Error> {
        let mut result = BulkRetry { run, matched: 0, retried: 0, next: after };
        while result.matched < BulkRetry::DELIVERIES_MAX {
            let left = BulkRetry::DELIVERIES_MAX - result.matched;
            let limit = if run == Run::Real { BATCH } else { PageRequest::LIMIT_MAX };
            let mut page = PageRequest::first(limit.min(left));
            if let Some(cursor) = result.next {
                page = page.with_from(PageFrom::After(cursor));
            }
            let found = self.storage.deliveries(self.scope(), filter, page).await?;
            result.matched += found.data.len();
            if run == Run::Real {
                result.retried += self.replay_all(&found.data, filter.status).await?;
            }
            result.next = found.next_cursor.filter(|_| found.has_more);
            if result.next.is_none() {
                break;
            }
        }
        Ok(result)
    }

    /// Replays what was given up of an endpoint since a time: [`retry_deliveries`](Self::retry_deliveries) of its failed
    /// deliveries created at or after `since`.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`retry_deliveries`](Self::retry_deliveries).
    pub async fn recover_endpoint(
        &self,
        id: EndpointId,
        since: Timestamp,
        after: Option<Cursor>,
    ) -> Result<BulkRetry, Error> {
        self.endpoint(id).await?.ok_or(Error::NotFound("endpoint"))?;
        let filter = DeliveryFilter {
            status: Some(DeliveryStatus::Failed),
            endpoint: Some(id),
            created_from: Some(since),
            ..DeliveryFilter::default()
        };
        self.retry_deliveries(&filter, after, Run::Real).await
    }

    /// Replays a batch in one commit, or one by one when a part of it was changed meanwhile; how many.
    async fn replay_all(
        &self,
        batch: &[Delivery],
        status: Option<DeliveryStatus>,
    ) -> Result<usize, Error> {
        let resting = batch.iter().filter(|delivery| !is_fresh(delivery)).collect::<Vec<_>>();
        if resting.is_empty() {
            return Ok(0);
        }
        let changes = self.plan(|stamp| plan::retry_all(&resting, stamp));
        if let Commit::Applied | Commit::Known { .. } = self.commit(changes).await? {
            return Ok(resting.len());
        }
        let plainly = Asked::plainly(&reply::DELIVERY_STARTED);
        let mut started = 0;
        for delivery in resting {
            match self.replay_one(delivery.id, status, &plainly).await {
                Ok(Replay::Started(_)) => started += 1,
                // It was changed meanwhile: whoever did that is at it.
                Ok(Replay::Left(_) | Replay::Known) | Err(Error::Busy(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(started)
    }

    /// Replays a delivery that still has this status.
    async fn replay_one(
        &self,
        id: DeliveryId,
        status: Option<DeliveryStatus>,
        asked: &Asked<'_, Delivery>,
    ) -> Result<Replay, Error> {
        for _ in 0..CONFLICT_TRIES {
            let delivery = self.delivery(id).await?.ok_or(Error::NotFound("delivery"))?.delivery;
            if is_fresh(&delivery) || status.is_some_and(|status| status != delivery.state.into()) {
                return Ok(Replay::Left(delivery));
            }
            let (changes, delivery) = self.plan(|stamp| plan::retry(&delivery, stamp));
            match self.commit(self.under(asked, changes, &delivery)?).await? {
                Commit::Applied => return Ok(Replay::Started(delivery)),
                Commit::Known { .. } => return Ok(Replay::Known),
                Commit::Conflict(_) => {}
            }
        }
        Err(Error::Busy("delivery"))
    }
}

/// What became of one delivery.
#[derive(Debug)]
enum Replay {
    Started(Delivery),
    Left(Delivery),
    /// Its key was claimed before.
    Known,
}

/// Whether its round of attempts has yet to begin: there is nothing to start.
fn is_fresh(delivery: &Delivery) -> bool {
    delivery.state == DeliveryState::Pending && delivery.attempts == 0
}

/// How many deliveries are replayed in one commit: each takes a guard and two writes, of at most
/// [`Changes::PARTS_MAX`](crate::changes::Changes::PARTS_MAX) parts.
const BATCH: usize = 20;

//! Claims of operations that begin with what commits of this process hand over, before what is due besides: in the rows, or where another queue
//! keeps pointers to them.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::payment::Fence;
use pgw_core::queue::{
    Claim, Depth, FallbackQueue, Job, Lane, Queue, QueueError, Settlement, Verdict,
};

use crate::builder::Engine;
use crate::handoff::Taken;
use crate::queue::PgQueue;

/// What a claim of operations came to.
pub(crate) struct Claimed {
    /// Handed over by commits.
    handed: Vec<Claim>,
    found: Vec<Claim>,
}

impl Claimed {
    pub(crate) fn into_all(mut self) -> Vec<Claim> {
        self.handed.append(&mut self.found);
        self.handed
    }
}

impl PgQueue {
    /// What was handed over, and what is due besides, as another queue tells.
    pub(crate) async fn claim_operations(
        &self,
        max: usize,
        lease: Duration,
        besides: &dyn Queue,
    ) -> Result<Claimed, QueueError> {
        let handoff = &self.database.handoff;
        let Taken { claims: handed, mut look_for, late } = handoff.take(max);
        if !late.is_empty()
            && let Err(error) = self.give_back(late, besides).await
        {
            tracing::debug!(%error, "claims that waited for too long are left to their leases");
        }
        let mut claimed = Claimed { handed, found: Vec::new() };
        while look_for > 0 {
            let found = match besides.claim(Lane::Operations, look_for, lease).await {
                Ok(found) => found,
                Err(error) if claimed.handed.is_empty() && claimed.found.is_empty() => {
                    return Err(error);
                }
                Err(error) => {
                    // What was handed over is held, and is done.
                    tracing::debug!(%error, "what is due besides was not found");
                    return Ok(claimed);
                }
            };
            let are_all = found.len() < look_for;
            claimed.found.extend(found);
            let room = max - claimed.handed.len() - claimed.found.len();
            if are_all {
                handoff.ask(room, lease);
                break;
            }
            look_for = handoff.found_more(room);
        }
        Ok(claimed)
    }

    /// No worker here claims operations any more: what waits for one becomes everybody's.
    pub(crate) async fn close_handoff(&self, besides: &dyn Queue) -> Result<(), QueueError> {
        self.give_back(self.database.handoff.close().await, besides).await
    }

    /// Makes claims everybody's again, now.
    async fn give_back(&self, claims: Vec<Claim>, besides: &dyn Queue) -> Result<(), QueueError> {
        if claims.is_empty() {
            return Ok(());
        }
        let released = Verdict::Release { due_in: Duration::ZERO };
        let release = |claim| Settlement { claim, verdict: released.clone() };
        let settlements: Vec<Settlement> = claims.into_iter().map(release).collect();
        let held = self.settle(&settlements).await?;
        point_at(&settlements, &held, besides).await;
        Ok(())
    }
}

/// Tells another queue of rows whose claims it has not heard of, where they were held until now and are due again.
async fn point_at(settlements: &[Settlement], held: &[bool], besides: &dyn Queue) {
    let again = |(one, is_held): (&Settlement, &bool)| match one.verdict {
        Verdict::Release { due_in }
        | Verdict::Postpone { due_in }
        | Verdict::Committed { due_in: Some(due_in) }
            if *is_held =>
        {
            Some((one.claim.job.clone(), due_in))
        }
        _ => None,
    };
    let again: Vec<_> = settlements.iter().zip(held).filter_map(again).collect();
    if !again.is_empty()
        && let Err(error) = besides.push(&again).await
    {
        tracing::warn!(%error, "the queue did not take jobs that are due again; the reaper will push them");
    }
}

/// The rows of a [`PgStorage`](crate::PgStorage) behind a queue of pointers to them, such as one in Redis: jobs are claimed from that, and from
/// the rows while it cannot be reached, as [`FallbackQueue`] does.
///
/// The operation of a new payment is handed to a worker of this process that has room for it, as [`PgQueue`] says: it is claimed by the commit that
/// creates the payment, in the row that this writes anyway, and the queue of pointers hears of it only when it is to be done again. Where nothing is
/// handed over, with [`Engine::Distributed`] or [`Group::Off`](crate::Group::Off), everything goes by the pointers.
///
/// The workers of a process claim from one queue of a storage: from this, or from [`PgStorage::queue`](crate::PgStorage::queue). What its own
/// workers were handed counts as [in flight](Depth::in_flight); what those of other processes were does not.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use pgw_core::queue::Queue;
/// # use pgw_storage_postgres::PgStorage;
/// # fn f(pg: &PgStorage, redis_queue: Arc<dyn Queue>) {
/// // `redis_queue` is the `queue` of a `pgw_redis::Redis`.
/// let queue = pg.queue_behind(redis_queue);
/// # }
/// ```
#[derive(Clone)]
pub struct PgQueueBehind {
    rows: PgQueue,
    besides: FallbackQueue,
    /// The fences of claims that were handed over, until they are settled.
    handed: Arc<Mutex<HashSet<Fence>>>,
}

impl PgQueueBehind {
    pub(crate) fn new(rows: PgQueue, first: Arc<dyn Queue>) -> Self {
        let besides = FallbackQueue::new(first, Arc::new(rows.without_handoff()));
        Self { rows, besides, handed: Arc::default() }
    }

    fn handed(&self) -> MutexGuard<'_, HashSet<Fence>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of each claim whether it was handed over.
    fn are_handed<'a>(&self, claims: impl Iterator<Item = &'a Claim>) -> Vec<bool> {
        let handed = self.handed();
        claims.map(|claim| handed.contains(&claim.fence)).collect()
    }
}

/// Those that were handed over, and the others.
fn parted<T: Clone>(all: &[T], are_handed: &[bool]) -> (Vec<T>, Vec<T>) {
    let (handed, others): (Vec<_>, Vec<_>) =
        all.iter().cloned().zip(are_handed).partition(|(_, is_handed)| **is_handed);
    let bare = |pairs: Vec<(T, _)>| pairs.into_iter().map(|(one, _)| one).collect();
    (bare(handed), bare(others))
}

/// The answers of both in the order of the questions.
fn merged(are_handed: &[bool], handed: Vec<bool>, others: Vec<bool>) -> Vec<bool> {
    let (mut handed, mut others) = (handed.into_iter(), others.into_iter());
    let answer = |is_handed: &bool| if *is_handed { handed.next() } else { others.next() };
    are_handed.iter().map(answer).map(Option::unwrap_or_default).collect()
}

#[async_trait]
impl Queue for PgQueueBehind {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        self.besides.push(jobs).await
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        self.besides.restore(jobs).await
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        if lane != Lane::Operations || self.rows.engine != Engine::Single {
            return self.besides.claim(lane, max, lease).await;
        }
        let claimed = self.rows.claim_operations(max, lease, &self.besides).await?;
        self.handed().extend(claimed.handed.iter().map(|claim| claim.fence));
        Ok(claimed.into_all())
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        let are_handed = self.are_handed(claims.iter());
        let (handed, others) = parted(claims, &are_handed);
        // Neither waits for the other: what keeps one of the two is no reason for leases in the other to run out.
        let (handed, others) =
            tokio::join!(self.rows.extend(&handed, lease), self.besides.extend(&others, lease));
        Ok(merged(&are_handed, handed?, others?))
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        let are_handed = self.are_handed(settlements.iter().map(|one| &one.claim));
        let (handed, others) = parted(settlements, &are_handed);
        let (handed, others) =
            tokio::join!(self.settle_handed(&handed), self.besides.settle(&others));
        Ok(merged(&are_handed, handed?, others?))
    }

    async fn leave(&self, lane: Lane) -> Result<(), QueueError> {
        let left = self.besides.leave(lane).await;
        if lane == Lane::Operations {
            self.rows.close_handoff(&self.besides).await?;
        }
        left
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let mut depth = self.besides.depth(lane).await?;
        if lane == Lane::Operations {
            depth.in_flight += self.handed().len() as u64;
        }
        Ok(depth)
    }
}

impl PgQueueBehind {
    /// Ends claims of rows that the queue of pointers has not heard of. Where they are due again it is told.
    async fn settle_handed(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        let held = self.rows.settle(settlements).await?;
        {
            let mut handed = self.handed();
            for one in settlements {
                handed.remove(&one.claim.fence);
            }
        }
        point_at(settlements, &held, &self.besides).await;
        Ok(held)
    }
}

impl fmt::Debug for PgQueueBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgQueueBehind")
            .field("rows", &self.rows)
            .field("besides", &self.besides)
            .finish_non_exhaustive()
    }
}

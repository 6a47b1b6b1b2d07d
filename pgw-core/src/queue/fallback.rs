//! `FallbackQueue`: a queue that may be away, and one that is there as long as the storage is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement};

/// Two queues over the same rows: jobs are claimed from the first, and from the second while the first cannot be reached.
///
/// Made for a queue of pointers beside the storage, such as one in Redis, with the rows themselves behind it: its outage slows work down and
/// loses none, and when it is back it is used again. Around the change, both may give out the same job, which the row's version
/// settles as ever; a webhook may then be sent twice, under the same id.
///
/// Over PostgreSQL, `PgStorage::queue_behind` is this and more: there, operations of new payments need not go by either.
///
/// It holds nothing of its own: a claim that the first queue does not know is looked for in the second.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # use pgw_core::queue::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement};
/// # use std::{sync::Arc, time::Duration};
/// use pgw_core::queue::FallbackQueue;
///
/// # #[derive(Debug)] struct Away;
/// # fn away<T>() -> Result<T, QueueError> { Err(QueueError::Unavailable(Arc::new(std::io::Error::other("away")))) }
/// # #[async_trait::async_trait] impl Queue for Away {
/// #     async fn push(&self, _: &[(Job, Duration)]) -> Result<(), QueueError> { away() }
/// #     async fn restore(&self, _: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> { away() }
/// #     async fn claim(&self, _: Lane, _: usize, _: Duration) -> Result<Vec<Claim>, QueueError> { away() }
/// #     async fn extend(&self, _: &[Claim], _: Duration) -> Result<Vec<bool>, QueueError> { away() }
/// #     async fn settle(&self, _: &[Settlement]) -> Result<Vec<bool>, QueueError> { away() }
/// #     async fn depth(&self, _: Lane) -> Result<Depth, QueueError> { away() }
/// # }
/// # #[derive(Debug)] struct Rows;
/// # #[async_trait::async_trait] impl Queue for Rows {
/// #     async fn push(&self, _: &[(Job, Duration)]) -> Result<(), QueueError> { Ok(()) }
/// #     async fn restore(&self, _: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> { Ok(None) }
/// #     async fn claim(&self, _: Lane, _: usize, _: Duration) -> Result<Vec<Claim>, QueueError> { Ok(vec![]) }
/// #     async fn extend(&self, _: &[Claim], _: Duration) -> Result<Vec<bool>, QueueError> { Ok(vec![]) }
/// #     async fn settle(&self, _: &[Settlement]) -> Result<Vec<bool>, QueueError> { Ok(vec![]) }
/// #     async fn depth(&self, _: Lane) -> Result<Depth, QueueError> { Ok(Depth::default()) }
/// # }
/// # let (redis_queue, pg_queue) = (Away, Rows);
/// let queue = FallbackQueue::new(Arc::new(redis_queue), Arc::new(pg_queue));
/// let claims = queue.claim(Lane::Operations, 10, Duration::from_secs(30)).await?;
/// # assert!(claims.is_empty());
/// # Ok::<(), QueueError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct FallbackQueue {
    first: Arc<dyn Queue>,
    second: Arc<dyn Queue>,
    is_away: Arc<AtomicBool>,
    /// Whether the second was claimed from since the first was.
    is_left_to_second: Arc<AtomicBool>,
}

impl FallbackQueue {
    /// Claims from `first`, and from `second` while `first` cannot be reached.
    #[must_use]
    pub fn new(first: Arc<dyn Queue>, second: Arc<dyn Queue>) -> Self {
        Self { first, second, is_away: Arc::default(), is_left_to_second: Arc::default() }
    }

    /// What the first queue said, unless it could not be reached: then `None`.
    fn told<T>(&self, answer: Result<T, QueueError>) -> Option<Result<T, QueueError>> {
        match answer {
            Err(QueueError::Unavailable(error)) => {
                if !self.is_away.swap(true, Ordering::AcqRel) {
                    tracing::warn!(%error, "the queue is away; jobs are claimed from the rows");
                }
                None
            }
            answer => {
                if self.is_away.swap(false, Ordering::AcqRel) {
                    tracing::info!("the queue is back");
                }
                Some(answer)
            }
        }
    }
}

/// Puts the second answer where the first was no.
fn filled(held: Vec<bool>, rest: impl IntoIterator<Item = bool>) -> Vec<bool> {
    let mut rest = rest.into_iter();
    held.into_iter().map(|held| held || rest.next().unwrap_or(false)).collect()
}

/// Those that the first queue did not hold.
fn unheld<'a, T: Clone>(all: &'a [T], held: &'a [bool]) -> Vec<T> {
    let pairs = all.iter().zip(held.iter().chain(std::iter::repeat(&false)));
    pairs.filter(|(_, held)| !**held).map(|(one, _)| one.clone()).collect()
}

#[async_trait]
impl Queue for FallbackQueue {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        // None: no news of whether the first is there. Nor below.
        if jobs.is_empty() {
            return Ok(());
        }
        match self.told(self.first.push(jobs).await) {
            Some(pushed) => pushed,
            None => self.second.push(jobs).await,
        }
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        match self.told(self.first.restore(jobs).await) {
            Some(restored) => restored,
            None => self.second.restore(jobs).await,
        }
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        match self.told(self.first.claim(lane, max, lease).await) {
            Some(claimed) => {
                // What the second keeps at hand, nobody comes for any more.
                if self.is_left_to_second.swap(false, Ordering::AcqRel) {
                    for lane in Lane::ALL {
                        if let Err(error) = self.second.leave(lane).await {
                            tracing::warn!(%error, "jobs kept at hand could not be returned; their leases will run out");
                        }
                    }
                }
                claimed
            }
            None => {
                self.is_left_to_second.store(true, Ordering::Release);
                let claimed = self.second.claim(lane, max, lease).await;
                // Again: another lane may have found the first back meanwhile, and the second keeps something at hand since.
                self.is_left_to_second.store(true, Ordering::Release);
                claimed
            }
        }
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let Some(held) = self.told(self.first.extend(claims, lease).await) else {
            return self.second.extend(claims, lease).await;
        };
        let held = held?;
        let rest = unheld(claims, &held);
        if rest.is_empty() {
            return Ok(held);
        }
        Ok(filled(held, self.second.extend(&rest, lease).await?))
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        if settlements.is_empty() {
            return Ok(Vec::new());
        }
        let Some(held) = self.told(self.first.settle(settlements).await) else {
            return self.second.settle(settlements).await;
        };
        let held = held?;
        let rest = unheld(settlements, &held);
        if rest.is_empty() {
            return Ok(held);
        }
        Ok(filled(held, self.second.settle(&rest).await?))
    }

    async fn leave(&self, lane: Lane) -> Result<(), QueueError> {
        // Either may have been claimed from. That the first is away is no news, and nothing of it is at hand then.
        let first = self.first.leave(lane).await;
        let second = self.second.leave(lane).await;
        match first {
            Err(QueueError::Unavailable(_)) => second,
            first => first.and(second),
        }
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        match self.told(self.first.depth(lane).await) {
            Some(depth) => depth,
            None => self.second.depth(lane).await,
        }
    }
}

impl fmt::Debug for FallbackQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackQueue")
            .field("first", &self.first)
            .field("second", &self.second)
            .finish_non_exhaustive()
    }
}

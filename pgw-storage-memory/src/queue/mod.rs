//! `MemoryQueue`: pointers to due rows, in the order they are due. The rows are in storage, and so is the truth.

mod jobs;
mod lane;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::{Clock, Entropy, SystemClock, SystemEntropy};
use pgw_core::queue::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement};

use self::jobs::Jobs;
use crate::clock::Monotonic;
use crate::sync::{Mutex, lock};

/// A queue in this process's memory. Clones are handles on the same jobs.
///
/// Delays and leases are judged by the [`Clock`] it is given, the system's by default, made monotonic: while that clock goes
/// back, this queue's stands still.
///
/// A job that was claimed [`CLAIMS_MAX`](Self::CLAIMS_MAX) times without being done is buried.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use pgw_core::queue::{Lane, Queue as _};
/// use pgw_storage_memory::MemoryQueue;
/// use std::time::Duration;
///
/// let queue = MemoryQueue::new();
/// let claims = queue.claim(Lane::Operations, 10, Duration::from_secs(30)).await?;
/// assert!(claims.is_empty());
/// # Ok::<(), pgw_core::queue::QueueError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryQueue(Arc<Shared>);

struct Shared {
    jobs: Mutex<Jobs>,
    clock: Monotonic,
}

impl MemoryQueue {
    /// Most jobs by default, buried ones included: a few hundred megabytes of pointers.
    pub const JOBS_MAX_DEFAULT: usize = 1_000_000;
    /// How often a job is given out before it counts as poison. A job is released again and again while a processor is down, so this is
    /// far above what retries of one outage come to.
    pub const CLAIMS_MAX: u32 = 1_000;

    /// An empty queue on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// An empty queue with other settings.
    pub fn builder() -> MemoryQueueBuilder {
        MemoryQueueBuilder {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            jobs_max: Self::JOBS_MAX_DEFAULT,
        }
    }

    /// Loses everything, claims and buried jobs too, as a restart does. Fences stay unique.
    pub fn clear(&self) {
        lock(&self.0.jobs).clear();
    }

    /// Buried jobs, each with the reason, in the order they were pushed; at most `limit`. Looks at every job.
    #[must_use]
    pub fn buried(&self, limit: usize) -> Vec<(Job, Box<str>)> {
        lock(&self.0.jobs).buried().take(limit).collect()
    }
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the jobs, which are many.
        f.debug_struct("MemoryQueue").finish_non_exhaustive()
    }
}

/// Settings of a [`MemoryQueue`].
#[derive(Debug, Clone)]
#[must_use]
pub struct MemoryQueueBuilder {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    jobs_max: usize,
}

impl MemoryQueueBuilder {
    /// Judges delays and leases by this clock.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Draws the first fence from here; the others follow from it. Fences of different queues differ because their first ones do.
    pub fn with_entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Holds at most so many jobs, buried ones included; one more is [`QueueError::Full`].
    pub const fn with_jobs_max(mut self, jobs_max: usize) -> Self {
        self.jobs_max = jobs_max;
        self
    }

    /// The queue, empty.
    #[must_use]
    pub fn build(self) -> MemoryQueue {
        let mut first = [0; 8];
        self.entropy.fill(&mut first);
        MemoryQueue(Arc::new(Shared {
            jobs: Mutex::new(Jobs::new(self.jobs_max, u64::from_le_bytes(first))),
            clock: Monotonic::new(self.clock),
        }))
    }
}

#[async_trait]
impl Queue for MemoryQueue {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        let now = self.0.clock.now();
        let mut queue = lock(&self.0.jobs);
        for (job, delay) in jobs {
            queue.push(job, now, now.plus(*delay))?;
        }
        Ok(())
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        let now = self.0.clock.now();
        let mut queue = lock(&self.0.jobs);
        let mut lost = 0;
        for (job, due_for) in jobs {
            lost += usize::from(queue.restore(job, now, now.minus(*due_for))?);
        }
        Ok(Some(lost))
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        let now = self.0.clock.now();
        Ok(lock(&self.0.jobs).claim(lane, max, now, now.plus(lease)))
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        let until = self.0.clock.now().plus(lease);
        let mut queue = lock(&self.0.jobs);
        Ok(claims.iter().map(|claim| queue.extend(claim, until)).collect())
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        let now = self.0.clock.now();
        let mut queue = lock(&self.0.jobs);
        Ok(settlements.iter().map(|settlement| queue.settle(settlement, now)).collect())
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let now = self.0.clock.now();
        Ok(lock(&self.0.jobs).depth(lane, now))
    }
}

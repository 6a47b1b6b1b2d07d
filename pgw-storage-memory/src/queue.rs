//! `MemoryQueue`: pointers to due rows, in the order they are due. The rows are in storage, and so is the truth.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::{Clock, Entropy, SystemClock, SystemEntropy};
use pgw_core::payment::Fence;
use pgw_core::queue::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement, Verdict};
use pgw_core::timestamp::Timestamp;

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
            queue.push(job, now.plus(*delay))?;
        }
        Ok(())
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

#[derive(Debug)]
struct Jobs {
    max: usize,
    /// Numbers the entries in the order they were pushed.
    pushed: u64,
    fence: u64,
    /// Never walked, so that its order does not matter.
    numbers: HashMap<Arc<Job>, u64>,
    entries: BTreeMap<u64, Entry>,
    lanes: BTreeMap<Lane, LaneIndex>,
}

#[derive(Debug)]
struct Entry {
    job: Arc<Job>,
    claims: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting {
        due_at: Timestamp,
    },
    Held {
        until: Timestamp,
        fence: Fence,
        /// When it is due because it was pushed meanwhile.
        again: Option<Timestamp>,
    },
    Buried {
        reason: Box<str>,
    },
}

/// The entries of a lane: waiting ones by when they are due, held ones by when their leases end.
#[derive(Debug, Default)]
struct LaneIndex {
    waiting: BTreeSet<(Timestamp, u64)>,
    held: BTreeSet<(Timestamp, u64)>,
    buried: u64,
}

impl Jobs {
    fn new(max: usize, fence: u64) -> Self {
        Self {
            max,
            pushed: 0,
            fence,
            numbers: HashMap::new(),
            entries: BTreeMap::new(),
            lanes: BTreeMap::new(),
        }
    }

    fn clear(&mut self) {
        *self = Self { pushed: self.pushed, ..Self::new(self.max, self.fence) };
    }

    fn push(&mut self, job: &Job, due_at: Timestamp) -> Result<(), QueueError> {
        let Some(number) = self.numbers.get(job).copied() else {
            if self.entries.len() >= self.max {
                return Err(QueueError::Full { max: self.max });
            }
            self.pushed += 1;
            let number = self.pushed;
            let shared = Arc::new(job.clone());
            self.numbers.insert(Arc::clone(&shared), number);
            let entry = Entry { job: shared, claims: 0, state: State::Waiting { due_at } };
            self.entries.insert(number, entry);
            self.lane(job.lane()).waiting.insert((due_at, number));
            return Ok(());
        };
        let entry = self.entries.get_mut(&number).expect(NUMBERED);
        match &mut entry.state {
            State::Waiting { due_at: before } if due_at < *before => {
                let moved = (*before, number);
                *before = due_at;
                let lane = self.lane(job.lane());
                lane.waiting.remove(&moved);
                lane.waiting.insert((due_at, number));
            }
            State::Held { again, .. } => *again = earlier(*again, Some(due_at)),
            State::Waiting { .. } | State::Buried { .. } => {}
        }
        Ok(())
    }

    fn claim(&mut self, lane: Lane, max: usize, now: Timestamp, until: Timestamp) -> Vec<Claim> {
        let mut claims = Vec::new();
        let mut held = Vec::new();
        while claims.len() < max {
            let Some(number) = self.lane(lane).take_due(now) else { break };
            let fence = Fence(self.fence.wrapping_add(FENCE_STEP));
            let entry = self.entries.get_mut(&number).expect(NUMBERED);
            if entry.claims >= MemoryQueue::CLAIMS_MAX {
                let reason = format!("claimed {} times and never done", entry.claims);
                entry.state = State::Buried { reason: reason.into() };
                self.lane(lane).buried += 1;
                continue;
            }
            entry.claims += 1;
            // A push that is due by now is what this claim is for; a later one still waits.
            let again = match entry.state {
                State::Held { again, .. } => again.filter(|at| *at > now),
                State::Waiting { .. } | State::Buried { .. } => None,
            };
            entry.state = State::Held { until, fence, again };
            claims.push(Claim { job: Job::clone(&entry.job), fence, claims: entry.claims });
            held.push((until, number));
            self.fence = fence.0;
        }
        // Only now, so that a lease of no length is not given out twice in one call.
        self.lane(lane).held.extend(held);
        claims
    }

    fn extend(&mut self, claim: &Claim, longer: Timestamp) -> bool {
        let Some(number) = self.held_by(claim) else { return false };
        let entry = self.entries.get_mut(&number).expect(NUMBERED);
        let State::Held { until, .. } = &mut entry.state else { return false };
        let ended = std::mem::replace(until, longer);
        let lane = self.lane(claim.job.lane());
        lane.held.remove(&(ended, number));
        lane.held.insert((longer, number));
        true
    }

    fn settle(&mut self, settlement: &Settlement, now: Timestamp) -> bool {
        let job = &settlement.claim.job;
        let Some(number) = self.held_by(&settlement.claim) else { return false };
        let entry = self.entries.get_mut(&number).expect(NUMBERED);
        let State::Held { until, again, .. } = entry.state else { return false };
        let due_at = match &settlement.verdict {
            Verdict::Release { due_in } => earlier(again, Some(now.plus(*due_in))),
            Verdict::Bury { reason } => {
                entry.state = State::Buried { reason: reason.clone() };
                let lane = self.lane(job.lane());
                lane.held.remove(&(until, number));
                lane.buried += 1;
                return true;
            }
            // Done, and what a later version may add: the rows are the truth, so forgetting is always safe.
            _ => {
                entry.claims = 0;
                again
            }
        };
        match due_at {
            Some(due_at) => entry.state = State::Waiting { due_at },
            None => {
                self.entries.remove(&number);
                self.numbers.remove(job);
            }
        }
        let lane = self.lane(job.lane());
        lane.held.remove(&(until, number));
        lane.waiting.extend(due_at.map(|due_at| (due_at, number)));
        true
    }

    fn depth(&mut self, lane: Lane, now: Timestamp) -> Depth {
        let lane = self.lane(lane);
        let count = |set: &BTreeSet<(Timestamp, u64)>| set.range(..=(now, u64::MAX)).count();
        let (due, lost) = (count(&lane.waiting), count(&lane.held));
        let first =
            earlier(lane.waiting.first().map(|(at, _)| *at), lane.held.first().map(|(at, _)| *at));
        Depth {
            ready: (due + lost) as u64,
            delayed: (lane.waiting.len() - due) as u64,
            in_flight: (lane.held.len() - lost) as u64,
            dead: lane.buried,
            oldest: first.map_or(Duration::ZERO, |first| now.since(first)),
        }
    }

    fn buried(&self) -> impl Iterator<Item = (Job, Box<str>)> {
        self.entries.values().filter_map(|entry| match &entry.state {
            State::Buried { reason } => Some((Job::clone(&entry.job), reason.clone())),
            State::Waiting { .. } | State::Held { .. } => None,
        })
    }

    /// The number of a job that this claim holds.
    fn held_by(&self, claim: &Claim) -> Option<u64> {
        let number = self.numbers.get(&claim.job).copied()?;
        let is_holder = matches!(
            self.entries.get(&number).expect(NUMBERED).state,
            State::Held { fence, .. } if fence == claim.fence
        );
        is_holder.then_some(number)
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneIndex {
        self.lanes.entry(lane).or_default()
    }
}

impl LaneIndex {
    /// Takes out the entry that has been due for longest; one whose lease ran out has been due since then.
    fn take_due(&mut self, now: Timestamp) -> Option<u64> {
        let waiting = self.waiting.first().copied().filter(|(at, _)| *at <= now);
        let held = self.held.first().copied().filter(|(at, _)| *at <= now);
        let is_lost = match (waiting, held) {
            (Some(waiting), Some(held)) => held < waiting,
            (waiting, _) => waiting.is_none(),
        };
        let (set, due) =
            if is_lost { (&mut self.held, held) } else { (&mut self.waiting, waiting) };
        let (at, number) = due?;
        set.remove(&(at, number));
        Some(number)
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Why an entry is there.
const NUMBERED: &str = "jobs and indexes name entries that are there";
/// Odd, so that adding it goes through all 2^64 fences before one comes again; large, so that neighbours look nothing alike.
const FENCE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use pgw_core::testing::sample::Samples;

    use super::*;

    const START: Timestamp = Timestamp::EPOCH;

    fn later(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_job_that_is_never_done_is_buried_in_the_end() {
        let (samples, mut jobs) = (Samples::new(1), Jobs::new(10, 0));
        let job = samples.job(Lane::Operations);
        jobs.push(&job, START).expect("there is room");
        let release = Verdict::Release { due_in: Duration::ZERO };
        for count in 1..=MemoryQueue::CLAIMS_MAX {
            let claim = jobs.claim(Lane::Operations, 1, START, later(60)).remove(0);
            assert_eq!(claim.claims, count);
            assert!(jobs.settle(&Settlement { claim, verdict: release.clone() }, START));
        }
        assert_eq!(jobs.claim(Lane::Operations, 1, START, later(60)), []);
        assert_eq!(jobs.depth(Lane::Operations, START).dead, 1);
        let reason: Box<str> = "claimed 1000 times and never done".into();
        assert_eq!(jobs.buried().collect::<Vec<_>>(), [(job.clone(), reason)]);
        jobs.push(&job, START).expect("it is there already");
        assert_eq!(jobs.claim(Lane::Operations, 1, later(99), later(160)), []);
    }

    #[test]
    fn a_lease_of_no_length_is_given_out_once_a_call() {
        let (samples, mut jobs) = (Samples::new(2), Jobs::new(10, 0));
        for _ in 0..2 {
            jobs.push(&samples.job(Lane::Deliveries), START).expect("there is room");
        }
        assert_eq!(jobs.claim(Lane::Deliveries, 9, START, START).len(), 2);
        assert_eq!(jobs.claim(Lane::Deliveries, 9, START, START).len(), 2);
    }

    #[test]
    fn a_lost_job_comes_before_one_that_is_due_later() {
        let (samples, mut jobs) = (Samples::new(3), Jobs::new(10, 0));
        let [first, second] = [(); 2].map(|()| samples.job(Lane::Operations));
        jobs.push(&first, START).expect("there is room");
        assert_eq!(jobs.claim(Lane::Operations, 1, START, later(10)).len(), 1);
        jobs.push(&second, later(20)).expect("there is room");
        let given = jobs.claim(Lane::Operations, 2, later(30), later(60));
        assert_eq!(given.into_iter().map(|claim| claim.job).collect::<Vec<Job>>(), [first, second]);
    }

    #[test]
    fn a_later_push_outlives_a_lost_holder() {
        let (samples, mut jobs) = (Samples::new(4), Jobs::new(10, 0));
        let job = samples.job(Lane::Operations);
        jobs.push(&job, START).expect("there is room");
        assert_eq!(jobs.claim(Lane::Operations, 1, START, later(10)).len(), 1);
        jobs.push(&job, later(90)).expect("it is there already");
        let claim = jobs.claim(Lane::Operations, 1, later(20), later(30)).remove(0);
        assert!(jobs.settle(&Settlement { claim, verdict: Verdict::Done }, later(25)));
        assert_eq!(jobs.claim(Lane::Operations, 1, later(89), later(99)), []);
        assert_eq!(jobs.claim(Lane::Operations, 1, later(90), later(99)).len(), 1);
    }
}

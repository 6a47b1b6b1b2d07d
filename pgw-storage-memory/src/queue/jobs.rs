//! The jobs of a queue: what state each is in, who holds it, and what becomes of it. When each is due is in their lanes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pgw_core::payment::Fence;
use pgw_core::queue::{Claim, Depth, Job, Lane, QueueError, Settlement, Verdict};
use pgw_core::timestamp::Timestamp;

use super::MemoryQueue;
use super::lane::{LaneIndex, earlier};

#[derive(Debug)]
pub(super) struct Jobs {
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
        /// Since when it waits for that.
        since: Timestamp,
    },
    /// Until another claim takes it, also when its lease ran out.
    Held {
        until: Timestamp,
        fence: Fence,
        /// When it was claimed.
        since: Timestamp,
        /// When it is due because it was pushed meanwhile.
        again: Option<Timestamp>,
    },
    Buried {
        reason: Box<str>,
    },
}

impl Jobs {
    pub(super) fn new(max: usize, fence: u64) -> Self {
        Self {
            max,
            pushed: 0,
            fence,
            numbers: HashMap::new(),
            entries: BTreeMap::new(),
            lanes: BTreeMap::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self { pushed: self.pushed, ..Self::new(self.max, self.fence) };
    }

    /// Adds a job, or makes one of this and the one that is there.
    pub(super) fn push(
        &mut self,
        job: &Job,
        now: Timestamp,
        due_at: Timestamp,
    ) -> Result<(), QueueError> {
        let Some(number) = self.numbers.get(job).copied() else {
            return self.add(job, now, due_at);
        };
        let lane = self.lanes.entry(job.lane()).or_default();
        let entry = self.entries.get_mut(&number).expect(NUMBERED);
        match &mut entry.state {
            State::Waiting { due_at: before, since } if due_at < *before => {
                lane.remove(job, (*before, number));
                lane.wait(job, (due_at, number));
                (*before, *since) = (due_at, now);
            }
            State::Waiting { .. } => {}
            State::Held { again, .. } => *again = earlier(*again, Some(due_at)),
            State::Buried { .. } => {
                lane.buried -= 1;
                lane.wait(job, (due_at, number));
                entry.claims = 0;
                entry.state = State::Waiting { due_at, since: now };
            }
        }
        Ok(())
    }

    /// Adds a job whose row has been due since then, if it is not there: whether it was not. One that is there learns of a row that became due since
    /// it was put where it is.
    pub(super) fn restore(
        &mut self,
        job: &Job,
        now: Timestamp,
        row_since: Timestamp,
    ) -> Result<bool, QueueError> {
        let Some(number) = self.numbers.get(job).copied() else {
            self.add(job, now, now)?;
            return Ok(true);
        };
        let is_news = match &self.entries.get(&number).expect(NUMBERED).state {
            State::Waiting { since, .. } | State::Held { since, .. } => row_since > *since,
            State::Buried { .. } => false,
        };
        if is_news {
            self.push(job, now, now)?;
        }
        Ok(false)
    }

    fn add(&mut self, job: &Job, now: Timestamp, due_at: Timestamp) -> Result<(), QueueError> {
        if self.entries.len() >= self.max {
            return Err(QueueError::Full { max: self.max });
        }
        self.pushed += 1;
        let number = self.pushed;
        let shared = Arc::new(job.clone());
        self.numbers.insert(Arc::clone(&shared), number);
        let state = State::Waiting { due_at, since: now };
        self.entries.insert(number, Entry { job: shared, claims: 0, state });
        self.lanes.entry(job.lane()).or_default().wait(job, (due_at, number));
        Ok(())
    }

    pub(super) fn claim(
        &mut self,
        lane: Lane,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Vec<Claim> {
        let lane = self.lanes.entry(lane).or_default();
        // Before the first is given out, so that a lease of no length is not given out twice in one call.
        lane.end_leases(now, |number| &self.entries.get(&number).expect(NUMBERED).job);
        let mut claims = Vec::new();
        while claims.len() < max {
            let Some((due_at, number)) = lane.first_due(now) else { break };
            let entry = self.entries.get_mut(&number).expect(NUMBERED);
            lane.remove(&entry.job, (due_at, number));
            if entry.claims >= MemoryQueue::CLAIMS_MAX {
                let reason = format!("claimed {} times and never done", entry.claims);
                entry.state = State::Buried { reason: reason.into() };
                lane.buried += 1;
                continue;
            }
            lane.hold(&entry.job, (until, number));
            entry.claims += 1;
            // A push that is due by now is what this claim is for; a later one still waits.
            let again = match entry.state {
                State::Held { again, .. } => again.filter(|at| *at > now),
                State::Waiting { .. } | State::Buried { .. } => None,
            };
            self.fence = self.fence.wrapping_add(FENCE_STEP);
            let fence = Fence(self.fence);
            entry.state = State::Held { until, fence, since: now, again };
            claims.push(Claim { job: Job::clone(&entry.job), fence, claims: entry.claims });
        }
        claims
    }

    pub(super) fn extend(&mut self, claim: &Claim, longer: Timestamp) -> bool {
        let Some(number) = self.held_by(claim) else { return false };
        let entry = self.entries.get_mut(&number).expect(NUMBERED);
        let State::Held { until, .. } = &mut entry.state else { return false };
        let lane = self.lanes.entry(claim.job.lane()).or_default();
        lane.remove(&claim.job, (*until, number));
        lane.hold(&claim.job, (longer, number));
        *until = longer;
        true
    }

    pub(super) fn settle(&mut self, settlement: &Settlement, now: Timestamp) -> bool {
        let job = &settlement.claim.job;
        let Some(number) = self.held_by(&settlement.claim) else { return false };
        let entry = self.entries.get_mut(&number).expect(NUMBERED);
        let State::Held { until, again, .. } = entry.state else { return false };
        let lane = self.lanes.entry(job.lane()).or_default();
        lane.remove(job, (until, number));
        // Whoever says that the row of a postponed one is due knows better.
        let since = match settlement.verdict {
            Verdict::Postpone { .. } => Timestamp::EPOCH,
            _ => now,
        };
        let due_at = match &settlement.verdict {
            Verdict::Release { due_in } | Verdict::Committed { due_in: Some(due_in) } => {
                earlier(again, Some(now.plus(*due_in)))
            }
            Verdict::Postpone { due_in } => {
                entry.claims -= 1;
                earlier(again, Some(now.plus(*due_in)))
            }
            Verdict::Bury { reason } => {
                entry.state = State::Buried { reason: reason.clone() };
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
            Some(due_at) => {
                entry.state = State::Waiting { due_at, since };
                lane.wait(job, (due_at, number));
            }
            None => {
                self.entries.remove(&number);
                self.numbers.remove(job);
            }
        }
        true
    }

    pub(super) fn depth(&mut self, lane: Lane, now: Timestamp) -> Depth {
        self.lanes.entry(lane).or_default().depth(now)
    }

    pub(super) fn buried(&self) -> impl Iterator<Item = (Job, Box<str>)> {
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
}

/// Why an entry is there.
const NUMBERED: &str = "jobs and indexes name entries that are there";
/// Odd, so that adding it goes through all 2^64 fences before one comes again; large, so that neighbours look nothing alike.
const FENCE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        jobs.push(&job, START, START).expect("there is room");
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
        assert!(!jobs.restore(&job, later(90), later(80)).expect("it is there already"));
        assert_eq!(jobs.claim(Lane::Operations, 1, later(99), later(160)), []);
    }

    #[test]
    fn a_lease_of_no_length_is_given_out_once_a_call() {
        let (samples, mut jobs) = (Samples::new(2), Jobs::new(10, 0));
        for _ in 0..2 {
            jobs.push(&samples.job(Lane::Deliveries), START, START).expect("there is room");
        }
        assert_eq!(jobs.claim(Lane::Deliveries, 9, START, START).len(), 2);
        assert_eq!(jobs.claim(Lane::Deliveries, 9, START, START).len(), 2);
    }

    #[test]
    fn a_lost_job_comes_before_one_that_is_due_later() {
        let (samples, mut jobs) = (Samples::new(3), Jobs::new(10, 0));
        let [first, second] = [(); 2].map(|()| samples.job(Lane::Operations));
        jobs.push(&first, START, START).expect("there is room");
        assert_eq!(jobs.claim(Lane::Operations, 1, START, later(10)).len(), 1);
        jobs.push(&second, START, later(20)).expect("there is room");
        let given = jobs.claim(Lane::Operations, 2, later(30), later(60));
        assert_eq!(given.into_iter().map(|claim| claim.job).collect::<Vec<Job>>(), [first, second]);
    }

    #[test]
    fn a_later_push_outlives_a_lost_holder() {
        let (samples, mut jobs) = (Samples::new(4), Jobs::new(10, 0));
        let job = samples.job(Lane::Operations);
        jobs.push(&job, START, START).expect("there is room");
        assert_eq!(jobs.claim(Lane::Operations, 1, START, later(10)).len(), 1);
        jobs.push(&job, START, later(90)).expect("it is there already");
        let claim = jobs.claim(Lane::Operations, 1, later(20), later(30)).remove(0);
        assert!(jobs.settle(&Settlement { claim, verdict: Verdict::Done }, later(25)));
        assert_eq!(jobs.claim(Lane::Operations, 1, later(89), later(99)), []);
        assert_eq!(jobs.claim(Lane::Operations, 1, later(90), later(99)).len(), 1);
    }
}

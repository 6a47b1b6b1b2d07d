//! `MemoryQueue` against a list that is looked through from end to end: the same calls get the same answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgw_core::env::Clock as _;
use pgw_core::id::{DeliveryId, EndpointId, EventId};
use pgw_core::queue::{Claim, Depth, Job, Lane, PER_ENDPOINT_MAX, Queue as _, Settlement, Verdict};
use pgw_core::testing::sample::Samples;
use pgw_core::timestamp::Timestamp;
use pgw_storage_memory::MemoryQueue;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, TestCaseError, prop_assert_eq, prop_oneof, proptest,
};

use crate::fixtures::ManualClock;

/// How many jobs there are: a few operations, and more deliveries to each of three endpoints than it may have out.
const OPERATIONS: usize = 10;
const DELIVERIES: usize = 90;
const ENDPOINTS: usize = 3;
/// Fewer than there are, so that the queue is full at times.
const JOBS_MAX: usize = 80;

#[derive(Debug, Clone)]
enum Call {
    /// Jobs from the first on, each due this much later than the one before.
    Push {
        first: usize,
        count: usize,
        delay: Duration,
        step: Duration,
    },
    /// Jobs from the first on, whose rows have been due for so long.
    Restore {
        first: usize,
        count: usize,
        due_for: Duration,
    },
    Claim {
        lane: Lane,
        max: usize,
        lease: Duration,
    },
    /// Some of the claims that were ever given out, from the latest on.
    Extend {
        skip: usize,
        count: usize,
        lease: Duration,
    },
    Settle {
        skip: usize,
        count: usize,
        verdict: Verdict,
    },
    Advance(Duration),
    Clear,
}

fn calls() -> impl Strategy<Value = Call> {
    let seconds = || (0_u64..20).prop_map(Duration::from_secs);
    let verdict = prop_oneof![
        6 => Just(Verdict::Done),
        3 => seconds().prop_map(|due_in| Verdict::Release { due_in }),
        2 => seconds().prop_map(|due_in| Verdict::Postpone { due_in }),
        1 => Just(Verdict::Bury { reason: "poison".into() }),
    ];
    let lane = || prop_oneof![Just(Lane::Operations), Just(Lane::Deliveries)];
    let some = || (0_usize..20, 1_usize..20);
    let range = || (0..OPERATIONS + DELIVERIES, 1_usize..50);
    prop_oneof![
        8 => (range(), seconds(), 0_u64..2).prop_map(|((first, count), delay, step)| {
            Call::Push { first, count, delay, step: Duration::from_secs(step) }
        }),
        4 => (range(), seconds())
            .prop_map(|((first, count), due_for)| Call::Restore { first, count, due_for }),
        8 => (lane(), 0_usize..40, seconds())
            .prop_map(|(lane, max, lease)| Call::Claim { lane, max, lease }),
        4 => (some(), seconds())
            .prop_map(|((skip, count), lease)| Call::Extend { skip, count, lease }),
        6 => (some(), verdict)
            .prop_map(|((skip, count), verdict)| Call::Settle { skip, count, verdict }),
        6 => seconds().prop_map(Call::Advance),
        1 => Just(Call::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_queue_answers_as_a_list_does(calls in proptest::collection::vec(calls(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime without drivers is always there").block_on(compare(calls))?;
    }
}

async fn compare(calls: Vec<Call>) -> Result<(), TestCaseError> {
    let (clock, jobs, mut list) = (ManualClock::new(), jobs(), List::default());
    let builder = MemoryQueue::builder().with_clock(Arc::clone(&clock) as _);
    let queue = builder.with_jobs_max(JOBS_MAX).build();
    let works = "a call of a healthy queue must not fail";
    // Every claim, and its number in the list.
    let mut given: Vec<(Claim, u64)> = Vec::new();
    for call in calls {
        let now = clock.now();
        match call {
            Call::Push { first, count, mut delay, step } => {
                for job in jobs.iter().skip(first).take(count) {
                    let is_taken = queue.push(&[(job.clone(), delay)]).await.is_ok();
                    prop_assert_eq!(is_taken, list.push(job, now, now.plus(delay)));
                    delay += step;
                }
            }
            Call::Restore { first, count, due_for } => {
                for job in jobs.iter().skip(first).take(count) {
                    let lost = queue.restore(&[(job.clone(), due_for)]).await.ok().flatten();
                    prop_assert_eq!(lost, list.restore(job, now, now.minus(due_for)));
                }
            }
            Call::Claim { lane, max, lease } => {
                let claims = queue.claim(lane, max, lease).await.expect(works);
                let expected = list.claim(lane, max, now, now.plus(lease));
                let seen: Vec<_> = claims.iter().map(|one| (one.job.clone(), one.claims)).collect();
                let wanted: Vec<_> =
                    expected.iter().map(|(job, claims, _)| (job.clone(), *claims)).collect();
                prop_assert_eq!(seen, wanted);
                given.extend(claims.into_iter().zip(expected).map(|(one, (.., held))| (one, held)));
            }
            Call::Extend { skip, count, lease } => {
                let some: Vec<_> = given.iter().rev().skip(skip).take(count).cloned().collect();
                let claims: Vec<Claim> = some.iter().map(|(claim, _)| claim.clone()).collect();
                let held = queue.extend(&claims, lease).await.expect(works);
                let expected: Vec<bool> =
                    some.iter().map(|(_, held)| list.extend(*held, now.plus(lease))).collect();
                prop_assert_eq!(held, expected);
            }
            Call::Settle { skip, count, verdict } => {
                let some: Vec<_> = given.iter().rev().skip(skip).take(count).cloned().collect();
                let settle = |(claim, _): &(Claim, u64)| Settlement {
                    claim: claim.clone(),
                    verdict: verdict.clone(),
                };
                let settlements: Vec<Settlement> = some.iter().map(settle).collect();
                let held = queue.settle(&settlements).await.expect(works);
                let expected: Vec<bool> =
                    some.iter().map(|(_, held)| list.settle(*held, &verdict, now)).collect();
                prop_assert_eq!(held, expected);
            }
            Call::Advance(by) => clock.advance(by),
            Call::Clear => {
                queue.clear();
                list.rows.clear();
            }
        }
        for lane in Lane::ALL {
            let depth = queue.depth(lane).await.expect(works);
            prop_assert_eq!(depth, list.depth(lane, clock.now()));
        }
    }
    Ok(())
}

fn jobs() -> Vec<Job> {
    let samples = Samples::new(1);
    let env = samples.env();
    let endpoints = [(); ENDPOINTS].map(|()| EndpointId::mint(env));
    let deliveries = (0..DELIVERIES).map(|n| Job::Delivery {
        scope: samples.scope().clone(),
        delivery: DeliveryId::new(EventId::mint(env), endpoints[n / (DELIVERIES / ENDPOINTS)]),
    });
    (0..OPERATIONS).map(|_| samples.job(Lane::Operations)).chain(deliveries).collect()
}

/// The queue as the contract tells it.
#[derive(Debug, Default)]
struct List {
    /// In the order they were pushed.
    rows: Vec<Row>,
    /// Numbers the claims.
    claims: u64,
}

#[derive(Debug)]
struct Row {
    job: Job,
    claims: u32,
    is_buried: bool,
    /// When it is due, while it waits; when it is due again because it was pushed meanwhile, while it is held.
    due_at: Option<Timestamp>,
    held: Option<Held>,
    /// When it was put where it is; before everything when it was postponed.
    since: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    number: u64,
    until: Timestamp,
}

impl Row {
    /// When it may be claimed.
    fn free_at(&self) -> Option<Timestamp> {
        let free_at = self.held.map_or(self.due_at, |held| Some(held.until));
        free_at.filter(|_| !self.is_buried)
    }

    fn endpoint(&self) -> Option<EndpointId> {
        match &self.job {
            Job::Delivery { delivery, .. } => Some(delivery.endpoint()),
            _ => None,
        }
    }
}

impl List {
    fn push(&mut self, job: &Job, now: Timestamp, due_at: Timestamp) -> bool {
        let count = self.rows.len();
        let Some(row) = self.rows.iter_mut().find(|row| row.job == *job) else {
            if count < JOBS_MAX {
                let due_at = Some(due_at);
                let job = job.clone();
                let held = None;
                self.rows.push(Row { job, claims: 0, is_buried: false, due_at, held, since: now });
            }
            return count < JOBS_MAX;
        };
        if std::mem::take(&mut row.is_buried) {
            (row.claims, row.due_at) = (0, None);
        }
        let before = row.due_at;
        row.due_at = Some(before.map_or(due_at, |before| before.min(due_at)));
        if row.held.is_none() && row.due_at != before {
            row.since = now;
        }
        true
    }

    /// How many were lost; `None` when there is no room.
    fn restore(&mut self, job: &Job, now: Timestamp, row_since: Timestamp) -> Option<usize> {
        let Some(row) = self.rows.iter().find(|row| row.job == *job) else {
            return self.push(job, now, now).then_some(1);
        };
        if !row.is_buried && row_since > row.since {
            self.push(job, now, now);
        }
        Some(0)
    }

    fn claim(
        &mut self,
        lane: Lane,
        max: usize,
        now: Timestamp,
        until: Timestamp,
    ) -> Vec<(Job, u32, u64)> {
        let (mut given, mut places) = (Vec::new(), BTreeSet::new());
        while given.len() < max {
            let is_out = |(place, row): (usize, &Row)| {
                places.contains(&place) || row.held.is_some_and(|held| held.until > now)
            };
            let has_room = |row: &Row| {
                let same = |other: &(usize, &Row)| other.1.endpoint() == row.endpoint();
                let out = self.rows.iter().enumerate().filter(same).filter(|one| is_out(*one));
                row.endpoint().is_none() || out.count() < PER_ENDPOINT_MAX
            };
            let rows = self.rows.iter().enumerate();
            let free = rows.filter(|(place, row)| row.job.lane() == lane && !is_out((*place, row)));
            let free = free.filter(|(_, row)| has_room(row));
            let due = free.filter_map(|(place, row)| row.free_at().map(|at| (at, place)));
            let Some((_, place)) = due.filter(|(at, _)| *at <= now).min() else { break };
            places.insert(place);
            let row = &mut self.rows[place];
            row.claims += 1;
            row.due_at = row.due_at.filter(|at| row.held.is_some() && *at > now);
            self.claims += 1;
            row.held = Some(Held { number: self.claims, until });
            row.since = now;
            given.push((row.job.clone(), row.claims, self.claims));
        }
        given
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        self.rows.iter().position(|row| row.held.is_some_and(|held| held.number == number))
    }

    fn extend(&mut self, number: u64, until: Timestamp) -> bool {
        let place = self.place_of(number);
        if let Some(place) = place {
            self.rows[place].held = Some(Held { number, until });
        }
        place.is_some()
    }

    fn settle(&mut self, number: u64, verdict: &Verdict, now: Timestamp) -> bool {
        let Some(place) = self.place_of(number) else { return false };
        let row = &mut self.rows[place];
        row.held = None;
        row.since = now;
        match verdict {
            Verdict::Postpone { due_in } => {
                let due_at = now.plus(*due_in);
                row.due_at = Some(row.due_at.map_or(due_at, |again| again.min(due_at)));
                (row.claims, row.since) = (row.claims - 1, Timestamp::EPOCH);
            }
            Verdict::Release { due_in } => {
                let due_at = now.plus(*due_in);
                row.due_at = Some(row.due_at.map_or(due_at, |again| again.min(due_at)));
            }
            Verdict::Bury { .. } => row.is_buried = true,
            _ if row.due_at.is_some() => row.claims = 0,
            _ => {
                self.rows.remove(place);
            }
        }
        true
    }

    fn depth(&self, lane: Lane, now: Timestamp) -> Depth {
        let mut depth = Depth::default();
        for row in self.rows.iter().filter(|row| row.job.lane() == lane) {
            match row.free_at() {
                None => depth.dead += 1,
                Some(at) if at <= now => {
                    depth.ready += 1;
                    depth.oldest = depth.oldest.max(now.since(at));
                }
                Some(_) if row.held.is_some() => depth.in_flight += 1,
                Some(_) => depth.delayed += 1,
            }
        }
        depth
    }
}

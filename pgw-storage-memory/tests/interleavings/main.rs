//! Every interleaving of a few concurrent calls, explored by loom. The backends' own files are compiled here a second time, with loom's
//! lock in place of the standard one; nothing else differs.
#![expect(dead_code, unreachable_pub, reason = "the files offer more than these tests use")]

#[path = "../../src/apply.rs"]
mod apply;
#[path = "../../src/check.rs"]
mod check;
#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/dump.rs"]
mod dump;
#[path = "../../src/erasures.rs"]
mod erasures;
#[path = "../../src/index.rs"]
mod index;
#[path = "../../src/list.rs"]
mod list;
#[path = "../../src/parking.rs"]
mod parking;
#[path = "../../src/payment_row.rs"]
mod payment_row;
#[path = "../../src/queue/mod.rs"]
mod queue;
#[path = "../../src/rows.rs"]
mod rows;
#[path = "../../src/storage.rs"]
mod storage;
#[path = "../../src/tables.rs"]
mod tables;

/// The lock that loom sees.
mod sync {
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("no test panics while it holds a lock")
    }
}

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::thread;
use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::env::Clock;
use pgw_core::idempotency::KeyClaim;
use pgw_core::queue::{Lane, Queue as _, Settlement, Verdict};
use pgw_core::storage::{Storage as _, StorageError};
use pgw_core::testing::sample::Samples;
use pgw_core::timestamp::Timestamp;

use queue::MemoryQueue;
use storage::MemoryStorage;

#[test]
fn of_commits_with_one_guard_one_is_applied() {
    loom::model(|| {
        let (storage, samples) = (storage(), Samples::new(1));
        let creation = samples.creation();
        assert!(now(storage.commit(creation.changes())).is_ok());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let next = samples.touched(&creation.payment);
                let event = samples.event(pgw_core::event::EventType::TestPing);
                let changes = Changes::new(samples.scope().clone())
                    .guard(Guard::Payment { id: next.id, version: 1 })
                    .write(Write::Payment(Box::new(next)))
                    .write(Write::Event(Box::new(event)));
                let storage = storage.clone();
                thread::spawn(move || now(storage.commit(changes)))
            })
            .collect();
        // A reader sees the payment before or after, with as many events as fit.
        let state = now(storage.payment(samples.scope(), creation.payment.id));
        let version = state.expect("it works").expect("it is there").payment.version;
        let stamped = now(storage.stamp_events(9)).expect("it works");
        assert!((1..=2).contains(&version) && stamped as u64 >= version, "half a commit was seen");
        let outcomes: Vec<_> =
            threads.into_iter().map(|one| one.join().expect("no panic")).collect();
        let applied = outcomes.iter().filter(|one| matches!(one, Ok(Committed::Applied { .. })));
        assert_eq!(applied.count(), 1);
        let refused = outcomes.iter().filter(|one| matches!(one, Err(StorageError::Conflict(_))));
        assert_eq!(refused.count(), 1);
        let left = now(storage.stamp_events(9)).expect("it works");
        assert_eq!(stamped + left, 2, "each event is stamped once");
    });
}

#[test]
fn of_commits_with_one_key_one_is_applied() {
    loom::model(|| {
        let (storage, samples) = (storage(), Samples::new(2));
        let claim = KeyClaim { answer: Some(samples.answer()), ..samples.loose_claim() };
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let mut creation = samples.creation();
                let target = creation.target();
                let changes = creation.keyed(KeyClaim { target, ..claim.clone() });
                let storage = storage.clone();
                thread::spawn(move || (target, now(storage.commit(changes))))
            })
            .collect();
        let outcomes: Vec<_> =
            threads.into_iter().map(|one| one.join().expect("no panic")).collect();
        let winner = now(storage.key(samples.scope(), &claim.key)).expect("it works");
        let winner = winner.expect("it is claimed").claim.target;
        let mut applied = 0;
        for (target, outcome) in outcomes {
            match outcome.expect("neither conflicts") {
                Committed::Applied { .. } => {
                    applied += 1;
                    assert_eq!(target, winner);
                }
                Committed::Replayed { target, .. } => assert_eq!(target, winner),
                Committed::InFlight { .. } => panic!("the answer came with the claim"),
            }
        }
        assert_eq!(applied, 1);
    });
}

#[test]
fn a_job_has_one_holder_and_a_push_meanwhile_is_not_lost() {
    loom::model(|| {
        let (queue, samples) = (queue(), Samples::new(3));
        let push = [(samples.job(Lane::Operations), Duration::ZERO)];
        assert!(now(queue.push(&push)).is_ok());
        let lease = Duration::from_secs(60);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let queue = queue.clone();
                thread::spawn(move || {
                    let claims = now(queue.claim(Lane::Operations, 1, lease)).expect("it works");
                    for claim in &claims {
                        let depth = now(queue.depth(Lane::Operations)).expect("it works");
                        assert_eq!(depth.in_flight, 1, "one holder at a time");
                        let done = Settlement { claim: claim.clone(), verdict: Verdict::Done };
                        assert_eq!(now(queue.settle(&[done])).expect("it works"), [true]);
                    }
                    claims.len()
                })
            })
            .collect();
        assert!(now(queue.push(&push)).is_ok());
        let given: usize = threads.into_iter().map(|one| one.join().expect("no panic")).sum();
        let left = now(queue.claim(Lane::Operations, 9, lease)).expect("it works").len();
        // The second push came while the job was waiting, or held, or done.
        assert!((1..=2).contains(&(given + left)), "{given} given, {left} left");
        let depth = now(queue.depth(Lane::Operations)).expect("it works");
        assert_eq!((depth.ready, depth.in_flight), (0, left as u64));
    });
}

fn storage() -> MemoryStorage {
    MemoryStorage::builder().with_clock(Arc::new(StandingClock)).build()
}

fn queue() -> MemoryQueue {
    MemoryQueue::builder().with_clock(Arc::new(StandingClock)).build()
}

/// A clock that stands still, so that every run of a model is the same.
#[derive(Debug)]
struct StandingClock;

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1)
    }
}

/// The output of a call that never waits.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the call waits"),
    }
}

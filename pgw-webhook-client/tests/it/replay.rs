//! Duplicates, failures and races through a replay store: each webhook is handled once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Waker};
use std::thread;

use pgw_webhook_client::ReplayKey;
use pgw_webhook_client::replay::{
    Claim, LEASE_DEFAULT, MemoryReplayStore, Once, ReplayError, ReplayStore, Seen, Settled,
    StoreFuture, once,
};

use crate::{NOW, PROFILES, SECRET};

const MESSAGES: usize = 2_000;
const ATTEMPTS: usize = 5;

/// A fixed shuffle of `0..len`: the sequence of a linear congruential generator decides each swap.
fn shuffled(len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..len).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}

fn key(n: usize) -> ReplayKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
    ReplayKey::from_bytes(bytes)
}

#[tokio::test]
async fn duplicates_in_any_order_are_handled_once() {
    for profile in PROFILES {
        let store: Arc<dyn ReplayStore> = Arc::new(MemoryReplayStore::new());
        let mut handled = BTreeMap::new();
        for index in shuffled(MESSAGES * ATTEMPTS) {
            let message = index % MESSAGES;
            let (id, body) = (format!("evt_{message}"), format!("{{\"id\":{message}}}"));
            let sent = NOW + std::time::Duration::from_secs((index / MESSAGES) as u64);
            let headers = profile.sign(SECRET, &id, sent, body.as_bytes());
            let verified = profile.verify(SECRET, NOW, &headers, body.as_bytes()).unwrap();
            let outcome = once(store.as_ref(), verified.replay_key(), NOW, async || {
                *handled.entry(message).or_insert(0) += 1;
                Ok::<(), ()>(())
            });
            assert!(matches!(outcome.await, Ok(Once::Done(()) | Once::HandledBefore)));
        }
        assert_eq!(handled.len(), MESSAGES);
        assert!(handled.values().all(|count| *count == 1), "{profile:?}");
    }
}

#[tokio::test]
async fn a_failed_attempt_is_handled_on_the_next() {
    let store = MemoryReplayStore::new();
    let mut calls = 0;
    for expected in [Once::Failed("away"), Once::Failed("away"), Once::Done(3), Once::HandledBefore]
    {
        let outcome = once(&store, key(1), NOW, async || {
            calls += 1;
            if calls < 3 { Err("away") } else { Ok(calls) }
        });
        assert_eq!(outcome.await.unwrap(), expected);
    }
    assert_eq!(calls, 3);
}

#[tokio::test]
async fn a_second_attempt_during_the_first_waits_its_turn() {
    let store = MemoryReplayStore::new();
    let outer = once(&store, key(1), NOW, async || {
        once(&store, key(1), NOW, async || Err::<(), _>("handled twice")).await.map_err(|_| "full")
    });
    assert_eq!(outer.await.unwrap(), Once::Done(Once::InProgress));
}

/// Eight threads race for each of the keys, and every other first handler fails.
#[test]
fn threads_that_race_for_a_key_handle_it_once() {
    const THREADS: usize = 8;
    const KEYS: usize = 500;
    let store = MemoryReplayStore::new();
    let barrier = Barrier::new(THREADS);
    let successes: Vec<AtomicU32> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    let failures: Vec<AtomicU32> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    let running: Vec<Mutex<()>> = (0..KEYS).map(|_| Mutex::new(())).collect();
    let work = || {
        barrier.wait();
        for n in shuffled(KEYS * ATTEMPTS).into_iter().map(|index| index % KEYS) {
            if let Seen::First(claim) = store.try_claim(key(n), NOW).unwrap() {
                let alone = running[n].try_lock().expect("two threads hold one claim");
                if n % 2 == 0 && failures[n].fetch_add(1, Ordering::SeqCst) == 0 {
                    drop(alone);
                    assert_eq!(store.release_now(claim), Settled::Done);
                } else {
                    successes[n].fetch_add(1, Ordering::SeqCst);
                    drop(alone);
                    assert_eq!(store.complete_now(claim), Settled::Done);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    assert!(successes.iter().all(|count| count.load(Ordering::SeqCst) == 1));
    assert_eq!(store.len(), KEYS);
}

/// A store that loses its connection after the claim.
#[derive(Debug)]
struct Lost(MemoryReplayStore);

impl ReplayStore for Lost {
    fn claim(&self, key: ReplayKey, now: std::time::Duration) -> StoreFuture<'_, Seen> {
        self.0.claim(key, now)
    }

    fn complete(&self, _: Claim) -> StoreFuture<'_, Settled> {
        Box::pin(async { Err(ReplayError::Unavailable("connection reset".into())) })
    }

    fn release(&self, _: Claim) -> StoreFuture<'_, Settled> {
        Box::pin(async { Err(ReplayError::Unavailable("connection reset".into())) })
    }
}

#[tokio::test]
async fn a_failure_is_told_even_if_the_claim_cannot_be_released() {
    let store = Lost(MemoryReplayStore::new());
    let outcome = once(&store, key(1), NOW, async || Err::<(), _>("card declined")).await;
    assert_eq!(outcome.unwrap(), Once::Failed("card declined"));
    let during = once(&store, key(1), NOW + LEASE_DEFAULT / 2, async || Ok::<_, ()>(())).await;
    assert_eq!(during.unwrap(), Once::InProgress);
    let outcome = once(&store, key(1), NOW + LEASE_DEFAULT, async || Ok::<_, ()>(())).await;
    assert!(matches!(outcome, Err(ReplayError::Unavailable(_))));
}

#[tokio::test]
async fn a_handler_that_never_ended_does_not_lose_the_webhook() {
    let store = MemoryReplayStore::new();
    let hung = once(&store, key(1), NOW, async || std::future::pending::<Result<(), ()>>().await);
    let mut hung = Box::pin(hung);
    assert!(hung.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(hung);
    for (later, expected) in [
        (LEASE_DEFAULT / 2, Once::InProgress),
        (LEASE_DEFAULT, Once::Done("shipped")),
        (LEASE_DEFAULT * 2, Once::HandledBefore),
    ] {
        let outcome = once(&store, key(1), NOW + later, async || Ok::<_, ()>("shipped")).await;
        assert_eq!(outcome.unwrap(), expected);
    }
}

/// A store that cannot answer.
#[derive(Debug)]
struct Away;

impl ReplayStore for Away {
    fn claim(&self, _: ReplayKey, _: std::time::Duration) -> StoreFuture<'_, Seen> {
        Box::pin(async { Err(ReplayError::Unavailable("connection refused".into())) })
    }

    fn complete(&self, _: Claim) -> StoreFuture<'_, Settled> {
        Box::pin(async { Ok(Settled::Lost) })
    }

    fn release(&self, _: Claim) -> StoreFuture<'_, Settled> {
        Box::pin(async { Ok(Settled::Lost) })
    }
}

#[tokio::test]
async fn nothing_is_handled_while_the_store_is_away() {
    let mut calls = 0;
    let outcome = once(&Away, key(1), NOW, async || {
        calls += 1;
        Ok::<(), ()>(())
    });
    assert!(matches!(outcome.await, Err(ReplayError::Unavailable(_))));
    assert_eq!(calls, 0);
}

//! Endpoints that hear each payment's events in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgw_core::testing::transport::{Received, Reply, Taken};
use pgw_core::webhook::delivery::FailedBecause;
use pgw_core::webhook::{DeliveryOptions, DeliveryState, Ordering, WhenExhausted};

use crate::endpoints::endpoint_at;
use crate::world::{World, pass};

const fn in_order(policy: WhenExhausted) -> DeliveryOptions {
    DeliveryOptions {
        timeout: None,
        concurrency: None,
        rate_per_s: None,
        ordering: Ordering::ByPayment(policy),
    }
}

/// The payment and the sequence in a webhook's body.
fn place(body: &[u8]) -> (String, u64) {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let payment = body["data"]["object"]["id"].as_str().unwrap().to_owned();
    (payment, body["sequence"].as_u64().unwrap())
}

/// What each payment's events arrived as, in the order they were taken.
fn taken(received: &[Received]) -> BTreeMap<String, Vec<u64>> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for webhook in received.iter().filter(|webhook| webhook.outcome == Taken::Yes) {
        let (payment, sequence) = place(&webhook.body);
        all.entry(payment).or_default().push(sequence);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn sequences_only_go_up_however_often_attempts_fail() {
    // One in three attempts fails, as a hash of its number says.
    let count = AtomicU64::new(0);
    let world = World::answering(move |_| {
        let n = count.fetch_add(1, Atomic::Relaxed);
        Reply::Status(if n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0 { 500 } else { 200 })
    });
    endpoint_at(&world, "ordered", in_order(WhenExhausted::Skip)).await;
    let (_one, _other) = (world.worker(), world.worker());
    for _ in 0..40 {
        world.create("tok_visa").await;
        world.create("tok_pending_then_ok").await;
    }
    pass(Duration::from_secs(24 * 60 * 60)).await;
    let arrived = taken(&world.transport.received());
    assert_eq!(arrived.len(), 80);
    for (payment, sequences) in arrived {
        let whole: Vec<u64> = (1..=sequences.len() as u64).collect();
        assert_eq!(sequences, whole, "{payment}");
        assert!(sequences.len() >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocked_payment_blocks_no_other_and_is_skipped_or_parked_when_it_is_exhausted() {
    for policy in [WhenExhausted::Skip, WhenExhausted::Park] {
        // The first payment's first event is never taken, until it is.
        let blocked: Arc<Mutex<Option<String>>> = Arc::default();
        let name = Arc::clone(&blocked);
        let world = World::answering(move |request| {
            let (payment, sequence) = place(&request.body);
            let is_blocked = name.lock().unwrap().as_ref() == Some(&payment) && sequence == 1;
            Reply::Status(if is_blocked { 500 } else { 200 })
        });
        let endpoint = endpoint_at(&world, "ordered", in_order(policy)).await;
        let first = world.create("tok_visa").await.payment().id.to_string();
        *blocked.lock().unwrap() = Some(first.clone());
        let worker = world.unhurried_worker();
        for _ in 0..10 {
            world.create("tok_visa").await;
        }
        pass(Duration::from_secs(10 * 60)).await;
        let arrived = taken(&world.transport.received());
        assert_eq!(arrived.len(), 10, "all others, and nothing of the blocked one");
        assert!(arrived.values().all(|sequences| *sequences == [1, 2]));

        pass(Duration::from_secs(4 * 24 * 60 * 60)).await;
        let arrived = taken(&world.transport.received());
        match policy {
            WhenExhausted::Skip => assert_eq!(arrived[&first], [2], "a gap"),
            WhenExhausted::Park => assert_eq!(arrived.get(&first), None, "it waits"),
        }
        // There are more than the default page has.
        let all = pgw_core::page::PageRequest::first(100);
        let rows = world.verbs().deliveries(&Default::default(), all).await.unwrap();
        let exhausted = DeliveryState::Failed(FailedBecause::Exhausted);
        let dead: Vec<_> = rows.data.iter().filter(|row| row.state == exhausted).collect();
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].id.endpoint(), endpoint);

        // Replayed by hand, it is taken, and what waited for it goes on.
        *blocked.lock().unwrap() = None;
        world.verbs().retry_delivery(dead[0].id).await.unwrap();
        pass(Duration::from_secs(5 * 60)).await;
        let arrived = taken(&world.transport.received());
        match policy {
            WhenExhausted::Skip => {
                assert_eq!(arrived[&first], [2, 1], "as late as it was replayed")
            }
            WhenExhausted::Park => assert_eq!(arrived[&first], [1, 2]),
        }
        worker.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_event_follows_at_once() {
    let world = World::new();
    endpoint_at(&world, "ordered", in_order(WhenExhausted::Skip)).await;
    for _ in 0..20 {
        world.create("tok_visa").await;
    }
    let _worker = world.worker();
    // Woken, not looked for: far sooner than what is parked is looked at again.
    pass(Duration::from_millis(400)).await;
    let arrived = taken(&world.transport.received());
    assert_eq!(arrived.len(), 20);
    assert!(arrived.values().all(|sequences| *sequences == [1, 2]), "{arrived:?}");
}

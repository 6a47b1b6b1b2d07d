//! Idempotency, webhooks, the feed and the worker: what they promise while others act at the same time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgw_core::builder::{BuildError, ProcessorSettings};
use pgw_core::env::Env;
use pgw_core::error::Error;
use pgw_core::gateway::{Gateway, Origin};
use pgw_core::payment::plan::{NewCapture, NewRefund};
use pgw_core::payment::{CaptureMethod, PaymentStatus};
use pgw_core::processor::Resolution;
use pgw_core::queue::{Lane, Queue as _, Settlement, Verdict};
use pgw_core::sandbox::Sandbox;
use pgw_core::storage::DeliveryFilter;
use pgw_core::testing::keys::secret_of;
use pgw_core::testing::transport::{RecordingTransport, Reply, TransportScript};
use pgw_core::webhook::delivery::FailedBecause;
use pgw_core::webhook::{DeliveryState, EndpointStatus, TransportErrorKind, WebhookRequest};
use pgw_core::worker::{Worker, WorkerSettings};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use pgw_webhook_client::StandardVerifier;

use crate::world::{DAY, World, key, new, pass};

#[derive(Debug)]
struct Script(Mutex<Vec<Reply>>);

impl TransportScript for Script {
    fn on_send(&self, _request: &WebhookRequest) -> Reply {
        self.0.lock().unwrap().pop().unwrap_or(Reply::Status(200))
    }
}

/// Answers these in turn, then 200 for ever.
fn scripted(replies: &[Reply]) -> World {
    let script = Script(Mutex::new(replies.iter().rev().copied().collect()));
    let lookup = Resolution::Lookup { lag: Duration::from_secs(1) };
    World::with(lookup, RecordingTransport::scripted(Box::new(script)))
}

#[tokio::test(start_paused = true)]
async fn a_hundred_requests_with_one_key_make_one_payment() {
    let world = World::new();
    let _worker = world.worker();
    for round in 0..50 {
        let key = key(&format!("race-{round}"));
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (gateway, key) = (world.gateway.clone(), key.clone());
            calls.spawn(async move {
                let new = new("tok_visa").with_idempotency_key(key);
                gateway.host().create_payment(new).await.unwrap()
            });
        }
        let receipts = calls.join_all().await;
        let ids: BTreeSet<_> = receipts.iter().map(|receipt| receipt.payment().id).collect();
        let bodies: BTreeSet<_> =
            receipts.iter().map(|r| r.answer.as_ref().unwrap().body.clone()).collect();
        let firsts = receipts.iter().filter(|receipt| receipt.origin == Origin::First).count();
        assert_eq!((ids.len(), bodies.len(), firsts), (1, 1, 1));
    }
    pass(Duration::from_secs(60)).await;
    assert_eq!(world.sandbox.ledger().len(), 50, "one charge for each key");
}

#[tokio::test(start_paused = true)]
async fn a_key_stands_for_one_request() {
    let world = World::new();
    let _worker = world.worker();
    let one = new("tok_visa").with_idempotency_key(key("k"));
    let mut other = one.clone();
    other.capture = CaptureMethod::Manual;
    let receipt = world.verbs().create_payment(one).await.unwrap();
    let reused = world.verbs().create_payment(other).await.unwrap_err();
    assert!(matches!(reused, Error::KeyReused), "{reused}");
    let id = receipt.payment().id;
    world.settled(id, None).await;
    let refund = NewRefund { idempotency_key: Some(key("k")), ..NewRefund::default() };
    let reused = world.verbs().refund_payment(id, refund).await.unwrap_err();
    assert!(matches!(reused, Error::KeyReused), "{reused}");

    let refund = NewRefund { idempotency_key: Some(key("r")), ..NewRefund::default() };
    let first = world.verbs().refund_payment(id, refund.clone()).await.unwrap();
    let pending = world.verbs().refund_payment(id, refund.clone()).await.unwrap();
    assert_eq!((pending.operation, pending.origin), (first.operation, Origin::Replayed));
    assert_eq!(pending.answer, None, "not settled, so no answer is stored yet");
    world.settled(id, Some(first.operation)).await;
    let done = world.verbs().refund_payment(id, refund).await.unwrap();
    assert!(done.answer.is_some());
    assert_eq!(world.state(id).await.operations.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn replays_answer_the_same_bytes_and_later_the_current_state() {
    let world = World::new();
    let _worker = world.worker();
    let request = new("tok_visa").with_idempotency_key(key("k"));
    let first = world.verbs().create_payment(request.clone()).await.unwrap();
    world.settled(first.payment().id, None).await;
    let replay = world.verbs().create_payment(request.clone()).await.unwrap();
    assert_eq!(replay.answer, first.answer);
    assert_eq!(replay.payment().status, PaymentStatus::Succeeded);
    // The bytes are kept for a day; the claim for ever.
    pass(Duration::from_secs(25 * 60 * 60)).await;
    let later = world.verbs().create_payment(request).await.unwrap();
    assert_eq!((later.payment().id, later.answer), (first.payment().id, None));
}

#[tokio::test(start_paused = true)]
async fn webhooks_arrive_signed_with_the_stored_bytes() {
    let world = World::new();
    let endpoint = world.endpoint().await;
    let worker = world.worker();
    let id = world.create("tok_visa").await.payment().id;
    world.settled(id, None).await;
    pass(Duration::from_secs(5)).await;
    let verifier = StandardVerifier::new(secret_of(&endpoint).unwrap().expose()).unwrap();
    let received = world.transport.received();
    let events = world.verbs().payment_events(id, 0, 10).await.unwrap();
    assert_eq!(received.len(), 2);
    for webhook in &received {
        webhook.verify(&verifier).unwrap();
        let id = webhook.header("webhook-id").unwrap();
        let event = events.iter().find(|event| event.id.to_string() == id).unwrap();
        assert_eq!(webhook.body, event.body);
        assert_eq!(webhook.header("x-webhook-event"), Some(event.event_type.as_str()));
    }
    assert_eq!(worker.shutdown().await.returned, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_gets_the_same_webhook_again_until_it_takes_it() {
    let world = scripted(&[
        Reply::Status(500),
        Reply::LostBefore(TransportErrorKind::Connect),
        Reply::LostAfter(TransportErrorKind::Timeout),
        Reply::Status(302),
        Reply::RetryAfter(429, Duration::from_secs(3 * 60 * 60)),
    ]);
    world.endpoint().await;
    world.create("tok_visa").await;
    let _worker = world.unhurried_worker();
    pass(Duration::from_secs(72 * 60 * 60)).await;
    let page =
        world.verbs().deliveries(&DeliveryFilter::default(), Default::default()).await.unwrap();
    assert_eq!(page.data.len(), 2);
    let mut attempts = 0;
    for delivery in &page.data {
        assert_eq!(delivery.state, DeliveryState::Delivered);
        let log = world.verbs().attempts(delivery.id, 100).await.unwrap();
        assert_eq!(log.len() as u32, delivery.attempts_total);
        attempts += log.len();
    }
    assert_eq!(attempts, 7, "five that failed and two that did not");
}

#[tokio::test(start_paused = true)]
async fn exhausted_and_refused_deliveries_are_kept_and_can_be_replayed() {
    let world = scripted(&[Reply::Status(500); 20]);
    world.endpoint().await;
    world.create("tok_visa").await;
    let _worker = world.unhurried_worker();
    pass(Duration::from_secs(4 * 24 * 60 * 60)).await;
    let verbs = world.verbs();
    let page = verbs.deliveries(&DeliveryFilter::default(), Default::default()).await.unwrap();
    for delivery in page.data {
        assert_eq!(delivery.state, DeliveryState::Failed(FailedBecause::Exhausted));
        assert_eq!(delivery.attempts, 10);
        verbs.retry_delivery(delivery.id).await.unwrap();
        pass(Duration::from_secs(60 * 60)).await;
        let work = verbs.delivery(delivery.id).await.unwrap().unwrap();
        assert_eq!(work.delivery.state, DeliveryState::Delivered);
        assert_eq!(work.delivery.attempts_total, 11);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_gone_is_disabled() {
    let world = scripted(&[Reply::Status(410)]);
    let gone = world.endpoint().await;
    world.create("tok_visa").await;
    let _worker = world.worker();
    pass(Duration::from_secs(60)).await;
    let endpoint = world.verbs().endpoint(gone.id).await.unwrap().unwrap();
    assert!(matches!(endpoint.status, EndpointStatus::Disabled { .. }));
    let page =
        world.verbs().deliveries(&DeliveryFilter::default(), Default::default()).await.unwrap();
    for delivery in page.data {
        assert!(matches!(
            delivery.state,
            DeliveryState::Failed(FailedBecause::Gone | FailedBecause::EndpointDisabled)
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_forgets_loses_nothing() {
    let world = World::new();
    world.endpoint().await;
    let id = world.create("tok_visa").await.payment().id;
    world.queue.clear();
    let _worker = world.worker();
    assert_eq!(world.settled(id, None).await.payment.status, PaymentStatus::Succeeded);
    world.queue.clear();
    pass(Duration::from_secs(30)).await;
    assert_eq!(world.transport.received().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_hears_every_event_in_order_and_again_until_it_acknowledges() {
    let world = World::new();
    let _worker = world.worker();
    let mut consumer = world.gateway.events(Default::default(), "books").unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.create("tok_visa").await.payment().id);
    }
    let mut positions = Vec::new();
    for _ in 0..10 {
        let event = consumer.next().await.unwrap();
        assert_eq!(consumer.next().await.unwrap().id, event.id, "not acknowledged, so again");
        positions.push(event.feed_position.unwrap());
        consumer.acknowledge(&event).await.unwrap();
    }
    assert_eq!(positions, (1..=10).collect::<Vec<_>>());
    // A new consumer of the name goes on where the old one stopped.
    let last = world.create("tok_visa").await.payment().id;
    let mut again = world.gateway.events(Default::default(), "books").unwrap();
    assert_eq!(again.next().await.unwrap().payment, Some(last));
    assert!(world.gateway.events(Default::default(), "Bad Name").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_returns_the_leases_of_what_takes_too_long() {
    let world = World::new();
    let settings = WorkerSettings { drain: Duration::from_secs(1), ..WorkerSettings::default() };
    let worker = Worker::new(&world.gateway).with_settings(settings).start();
    let id = world.create("tok_slow_8000").await.payment().id;
    pass(Duration::from_secs(2)).await;
    let report = worker.shutdown().await;
    assert_eq!(report.returned, 1);
    let depth = world.queue.depth(Lane::Operations).await.unwrap();
    assert_eq!(depth.in_flight, 0);
    // The call was cut off, so its outcome is asked for, not guessed.
    let _worker = world.worker();
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    assert!(world.event_types(id).await.contains(&"payment.unknown"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_what_is_under_way() {
    let world = World::new();
    let worker = world.worker();
    let id = world.create("tok_slow_3000").await.payment().id;
    pass(Duration::from_secs(1)).await;
    let report = worker.shutdown().await;
    assert_eq!((report.done, report.returned), (1, 0));
    assert_eq!(world.state(id).await.payment.status, PaymentStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn two_workers_send_each_operation_once_even_past_their_leases() {
    let world = World::new();
    let settings =
        WorkerSettings { lease: Duration::from_millis(900), ..WorkerSettings::default() };
    let _one = Worker::new(&world.gateway).with_settings(settings).start();
    let _two = Worker::new(&world.gateway).with_settings(settings).start();
    let mut ids = Vec::new();
    for wait in [0, 500, 3_000, 9_000] {
        ids.push(world.create(&format!("tok_slow_{wait}")).await.payment().id);
    }
    for id in ids {
        let state = world.settled(id, None).await;
        assert_eq!(state.payment.status, PaymentStatus::Succeeded);
        assert_eq!(world.sandbox.executions(state.operations[0].id), 1);
    }
}

#[test]
fn a_pause_that_would_outlive_its_setting_is_refused() {
    let built = |breaker_pause| {
        let settings = ProcessorSettings { breaker_pause, ..ProcessorSettings::default() };
        let storage = MemoryStorage::builder().build();
        Gateway::builder()
            .with_storage(Arc::new(storage))
            .with_queue(Arc::new(MemoryQueue::builder().build()))
            .with_notifier(Arc::new(MemoryNotifier::new()))
            .with_sandbox(Sandbox::new(Env::system()), settings)
            .build()
    };
    assert!(built(Duration::from_secs(3_600)).is_ok());
    let refused = built(Duration::from_millis(3_600_001));
    assert!(matches!(refused, Err(BuildError::OutOfRange(_))), "{refused:?}");
}

/// Whatever times are set, a worker works and can be shut down, and one can wait for a payment.
#[tokio::test(start_paused = true)]
async fn no_setting_of_a_time_stops_a_worker() {
    for time in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let world = World::new();
        let settings = WorkerSettings {
            lease: time,
            poll: time,
            reap: time,
            drain: time,
            ..WorkerSettings::default()
        };
        let worker = Worker::new(&world.gateway).with_settings(settings).start();
        let id = world.create("tok_visa").await.payment().id;
        let verbs = world.verbs();
        let waits = verbs.wait_for(id, None, Duration::MAX);
        let state = tokio::time::timeout(DAY * 2, waits).await.expect("it works").unwrap();
        assert_eq!(state.payment.status, PaymentStatus::Succeeded, "{time:?}");
        worker.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_time() {
    let world = World::new();
    let id = world.create("tok_visa").await.payment().id;
    let state = world.verbs().wait_for(id, None, Duration::from_secs(3)).await.unwrap();
    assert_eq!(state.payment.status, PaymentStatus::Pending);
    let unknown = pgw_core::id::PaymentId::mint(world.gateway.env());
    let missing = world.verbs().wait_for(unknown, None, Duration::ZERO).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound("payment")));
}

#[tokio::test(start_paused = true)]
async fn refused_commands_change_nothing() {
    let world = World::new();
    let worker = world.worker();
    let id = world.create("tok_visa").await.payment().id;
    world.settled(id, None).await;
    worker.shutdown().await;
    let before = world.storage.dump();
    world.verbs().capture_payment(id, NewCapture::default()).await.unwrap_err();
    world.verbs().cancel_payment(id, Some(key("c"))).await.unwrap_err();
    world.verbs().confirm_payment(id).await.unwrap_err();
    assert_eq!(world.storage.dump(), before);
}

/// However many jobs that stay due come before it, what the queue has lost is found: here behind more than a sweep's page that are set aside.
#[tokio::test(start_paused = true)]
async fn lost_work_is_found_behind_what_stays_due() {
    let world = World::new();
    for _ in 0..700 {
        world.create("tok_visa").await;
    }
    let settle = async |max, verdict: Verdict| {
        let claims = world.queue.claim(Lane::Operations, max, Duration::from_secs(60)).await;
        let settlement = |claim| Settlement { claim, verdict: verdict.clone() };
        let settlements: Vec<_> = claims.unwrap().into_iter().map(settlement).collect();
        world.queue.settle(&settlements).await.unwrap();
        settlements.len()
    };
    assert_eq!(settle(1_000, Verdict::Bury { reason: "poison".into() }).await, 700);
    let lost = world.create("tok_visa").await.payment().id;
    // The queue forgets it, and its row is due.
    assert_eq!(settle(1_000, Verdict::Done).await, 1);
    let _worker = world.worker();
    pass(Duration::from_secs(30)).await;
    let state = world.verbs().payment(lost).await.unwrap().unwrap();
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
}

//! What becomes of endpoints that fail, are slow, or have limits of their own, and of their deliveries.

use std::num::{NonZeroU8, NonZeroU32};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgw_core::event::EventType;
use pgw_core::id::EndpointId;
use pgw_core::page::PageRequest;
use pgw_core::queue::PER_ENDPOINT_MAX;
use pgw_core::storage::DeliveryFilter;
use pgw_core::testing::transport::Reply;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::delivery::FailedBecause;
use pgw_core::webhook::plan::{EndpointUpdate, NewEndpoint};
use pgw_core::webhook::{
    CustomHeaders, Delivery, DeliveryOptions, DeliveryState, EndpointStatus, EndpointUrl, Health,
    TransportErrorKind,
};

use crate::world::{DAY, World, pass};

/// An endpoint at a host, with options.
pub(crate) async fn endpoint_at(world: &World, host: &str, options: DeliveryOptions) -> EndpointId {
    let url = EndpointUrl::parse(&format!("https://{host}.example/in")).unwrap();
    let new = NewEndpoint { options, ..NewEndpoint::new(url) };
    world.verbs().create_endpoint(new).await.unwrap().endpoint.id
}

async fn deliveries(world: &World, endpoint: EndpointId) -> Vec<Delivery> {
    let filter = DeliveryFilter { endpoint: Some(endpoint), ..DeliveryFilter::default() };
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    world.verbs().deliveries(&filter, page).await.unwrap().data
}

async fn health(world: &World, endpoint: EndpointId) -> Health {
    world.verbs().endpoint(endpoint).await.unwrap().unwrap().health
}

#[expect(clippy::disallowed_methods, reason = "the time is paused, and moved by the test")]
fn paused_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

fn attempts(deliveries: &[Delivery]) -> u32 {
    deliveries.iter().map(|delivery| delivery.attempts_total).sum()
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_is_paused_and_its_deliveries_spend_no_attempts() {
    let works = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&works);
    let world = World::answering(move |_| {
        Reply::Status(if switch.load(Ordering::Relaxed) { 200 } else { 500 })
    });
    let endpoint = endpoint_at(&world, "down", DeliveryOptions::default()).await;
    for _ in 0..25 {
        world.create("tok_visa").await;
    }
    let _worker = world.worker();
    pass(Duration::from_secs(3)).await;
    assert!(matches!(health(&world, endpoint).await, Health::Failing { pauses: 1, .. }));
    let first = attempts(&deliveries(&world, endpoint).await);
    // Those that were under way when it was found out, and no more.
    assert!((5..=PER_ENDPOINT_MAX as u32).contains(&first), "{first} attempts");
    // Two hours of pauses of five minutes at most: one attempt each, not one for each delivery.
    pass(Duration::from_secs(2 * 60 * 60)).await;
    let later = attempts(&deliveries(&world, endpoint).await) - first;
    assert!((20..=40).contains(&later), "{later} attempts in two hours");
    works.store(true, Ordering::Relaxed);
    pass(Duration::from_secs(12 * 60)).await;
    assert_eq!(health(&world, endpoint).await, Health::Healthy);
    let all = deliveries(&world, endpoint).await;
    let fresh = all.iter().filter(|delivery| delivery.attempts_total == 1);
    assert!(fresh.clone().count() >= 25, "most were not tried while it was down");
    assert!(fresh.into_iter().all(|delivery| delivery.state == DeliveryState::Delivered));
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_asks_for_slows_the_endpoint_not_the_message() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let world = World::answering(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::RetryAfter(429, Duration::from_secs(90)),
        _ => Reply::Status(200),
    });
    let endpoint = endpoint_at(&world, "busy", DeliveryOptions::default()).await;
    world.verbs().test_endpoint(endpoint).await.unwrap();
    let _worker = world.worker();
    pass(Duration::from_secs(10)).await;
    assert!(matches!(health(&world, endpoint).await, Health::Failing { pauses: 0, .. }));
    // Another event of the same endpoint waits as well, without an attempt.
    world.create("tok_visa").await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    pass(Duration::from_secs(40)).await;
    let all = deliveries(&world, endpoint).await;
    assert!(all.iter().all(|delivery| delivery.state == DeliveryState::Delivered), "{all:?}");
    assert_eq!(attempts(&all), all.len() as u32 + 1);
    assert_eq!(health(&world, endpoint).await, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn an_absurd_retry_after_is_bounded_by_an_hour() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let world = World::answering(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::RetryAfter(503, Duration::from_secs(u64::MAX / 1_000_000)),
        _ => Reply::Status(200),
    });
    let endpoint = endpoint_at(&world, "busy", DeliveryOptions::default()).await;
    world.verbs().test_endpoint(endpoint).await.unwrap();
    let _worker = world.worker();
    pass(Duration::from_secs(59 * 60)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    pass(Duration::from_secs(10 * 60)).await;
    assert_eq!(deliveries(&world, endpoint).await[0].state, DeliveryState::Delivered);
}

#[tokio::test(start_paused = true)]
async fn five_days_of_failures_disable_an_endpoint_and_the_others_hear_of_it() {
    let works = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&works);
    let world = World::answering(move |request| {
        let is_down = request.url.as_str().contains("down") && !switch.load(Ordering::Relaxed);
        if is_down { Reply::LostBefore(TransportErrorKind::Connect) } else { Reply::Status(200) }
    });
    let down = endpoint_at(&world, "down", DeliveryOptions::default()).await;
    let other = endpoint_at(&world, "other", DeliveryOptions::default()).await;
    let _worker = world.unhurried_worker();
    // An event every few hours, as a small shop has them.
    for _ in 0..32 {
        world.create("tok_visa").await;
        pass(DAY / 6).await;
    }
    let endpoint = world.verbs().endpoint(down).await.unwrap().unwrap();
    let EndpointStatus::Disabled { reason } = &endpoint.status else { panic!("{endpoint:?}") };
    assert_eq!(reason.as_str(), "it took no webhook for five days");
    let told = world.transport.received().into_iter().filter(|webhook| {
        webhook.header("x-webhook-event") == Some(EventType::EndpointDisabled.as_str())
    });
    assert_eq!(told.count(), 1, "the other endpoint hears it once");
    let all = deliveries(&world, down).await;
    let count = |state| all.iter().filter(|row| row.state == state).count();
    assert_eq!(count(DeliveryState::Delivered), 0);
    assert!(count(DeliveryState::Failed(FailedBecause::EndpointDisabled)) > 0);
    assert!(deliveries(&world, other).await.len() > all.len(), "it hears what came after");

    // Nothing is lost: enabled again, it gets what it missed.
    works.store(true, Ordering::Relaxed);
    let update = EndpointUpdate { status: Some(EndpointStatus::Enabled), ..Default::default() };
    let endpoint = world.verbs().update_endpoint(down, update).await.unwrap();
    assert_eq!(endpoint.health, Health::Healthy);
    let recovered = world.verbs().recover_endpoint(down, Timestamp::EPOCH, None).await.unwrap();
    assert_eq!(recovered.retried, all.len() - count(DeliveryState::Pending));
    // The others come by themselves when they are due.
    pass(2 * DAY).await;
    for delivery in deliveries(&world, down).await {
        assert_eq!(delivery.state, DeliveryState::Delivered, "{}", delivery.id);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_mended_or_moved_starts_anew_at_once() {
    let world = World::answering(|request| {
        Reply::Status(if request.url.as_str().contains("down") { 500 } else { 200 })
    });
    let endpoint = endpoint_at(&world, "down", DeliveryOptions::default()).await;
    for _ in 0..10 {
        world.create("tok_visa").await;
    }
    let _worker = world.worker();
    pass(Duration::from_secs(60 * 60)).await;
    assert!(matches!(health(&world, endpoint).await, Health::Failing { .. }));
    let url = EndpointUrl::parse("https://up.example/in").unwrap();
    let update = EndpointUpdate { url: Some(url), ..EndpointUpdate::default() };
    world.verbs().update_endpoint(endpoint, update).await.unwrap();
    assert_eq!(health(&world, endpoint).await, Health::Healthy);
    pass(Duration::from_secs(10)).await;
    let all = deliveries(&world, endpoint).await;
    let untried = all.iter().filter(|row| row.attempts_total <= 1);
    assert!(untried.into_iter().all(|row| row.state == DeliveryState::Delivered), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn a_test_of_a_paused_endpoint_does_not_wait_for_the_end_of_the_pause() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let world = World::answering(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::RetryAfter(429, Duration::from_secs(3_600)),
        _ => Reply::Status(200),
    });
    let endpoint = endpoint_at(&world, "busy", DeliveryOptions::default()).await;
    world.verbs().test_endpoint(endpoint).await.unwrap();
    let _worker = world.worker();
    pass(Duration::from_secs(30)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "it is paused for an hour");
    world.verbs().test_endpoint(endpoint).await.unwrap();
    pass(Duration::from_secs(30)).await;
    assert_eq!(health(&world, endpoint).await, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn hanging_endpoints_hold_up_no_other() {
    let world = World::answering(|request| {
        if request.url.as_str().contains("hangs") { Reply::Hang } else { Reply::Status(200) }
    });
    let mut healthy = Vec::new();
    for n in 0..20 {
        let host = if n < 3 { format!("hangs-{n}") } else { format!("works-{n}") };
        let endpoint = endpoint_at(&world, &host, DeliveryOptions::default()).await;
        healthy.extend((n >= 3).then_some(endpoint));
    }
    for _ in 0..40 {
        world.create("tok_visa").await;
    }
    let _worker = world.worker();
    // The three never answer, not even with a timeout, so nothing here waits for one to pass.
    loop {
        let mut left = 0;
        for endpoint in &healthy {
            let all = deliveries(&world, *endpoint).await;
            left += all.iter().filter(|row| row.state != DeliveryState::Delivered).count();
            left += 80 - all.len();
        }
        if left == 0 {
            break;
        }
        pass(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoints_own_limits_are_kept() {
    let sent: Arc<Mutex<Vec<(tokio::time::Instant, Duration)>>> = Arc::default();
    let paced: Arc<Mutex<Vec<tokio::time::Instant>>> = Arc::default();
    let (log, pace) = (Arc::clone(&sent), Arc::clone(&paced));
    let world = World::answering(move |request| {
        // Each takes its whole deadline.
        if request.url.as_str().contains("narrow") {
            log.lock().unwrap().push((paused_now(), request.timeout));
            return Reply::LostAfter(TransportErrorKind::Timeout);
        }
        pace.lock().unwrap().push(paused_now());
        Reply::Status(200)
    });
    let options = DeliveryOptions {
        timeout: Some(Duration::from_millis(1_500)),
        concurrency: NonZeroU8::new(2),
        ..DeliveryOptions::default()
    };
    endpoint_at(&world, "narrow", options).await;
    for _ in 0..10 {
        world.create("tok_visa").await;
    }
    let worker = world.worker();
    pass(Duration::from_secs(4)).await;
    worker.shutdown().await;
    let narrow = std::mem::take(&mut *sent.lock().unwrap());
    assert!(narrow.iter().all(|(_, timeout)| *timeout == Duration::from_millis(1_500)));
    for (n, (at, timeout)) in narrow.iter().enumerate() {
        let others = narrow[..n].iter().filter(|(began, _)| *began + *timeout > *at).count();
        assert!(others < 2, "{others} others were under way");
    }
    assert!(narrow.len() >= 4);

    let options = DeliveryOptions { rate_per_s: NonZeroU32::new(4), ..DeliveryOptions::default() };
    let slow = endpoint_at(&world, "slow", options).await;
    for _ in 0..30 {
        world.verbs().test_endpoint(slow).await.unwrap();
    }
    let _worker = world.worker();
    pass(Duration::from_secs(5)).await;
    let at = paced.lock().unwrap().clone();
    assert!((16..=21).contains(&at.len()), "{} in five seconds", at.len());
    let spaced = at.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(249));
    assert!(spaced, "{at:?}");
    pass(Duration::from_secs(5)).await;
    assert_eq!(paced.lock().unwrap().len(), 30, "none is lost");
}

#[tokio::test(start_paused = true)]
async fn an_endpoints_own_headers_go_out_with_each_webhook_and_are_told_to_nobody() {
    let world = World::new();
    let url = EndpointUrl::parse("https://hooks.example/in").unwrap();
    let pairs = [("X-Tenant", "blue"), ("Authorization", "Bearer s3cr3t-t0ken")];
    let headers = CustomHeaders::parse(pairs).unwrap();
    let new = NewEndpoint { headers, ..NewEndpoint::new(url) };
    let created = world.verbs().create_endpoint(new).await.unwrap();
    let id = created.endpoint.id;
    let shown = String::from_utf8(pgw_core::representation::endpoint(&created.endpoint)).unwrap();
    assert!(shown.contains(r#""headers":["x-tenant","authorization"]"#), "{shown}");
    for text in [shown, format!("{created:?}")] {
        assert!(!text.contains("s3cr3t") && !text.contains("blue"), "{text}");
    }
    let _worker = world.worker();
    world.verbs().test_endpoint(id).await.unwrap();
    pass(Duration::from_secs(5)).await;
    let webhook = world.transport.received().pop().unwrap();
    assert_eq!(webhook.header("x-tenant"), Some("blue"));
    assert_eq!(webhook.header("authorization"), Some("Bearer s3cr3t-t0ken"));
    let headers = Some(CustomHeaders::default());
    let update = EndpointUpdate { headers, ..EndpointUpdate::default() };
    world.verbs().update_endpoint(id, update).await.unwrap();
    world.verbs().test_endpoint(id).await.unwrap();
    pass(Duration::from_secs(5)).await;
    assert_eq!(world.transport.received().pop().unwrap().header("x-tenant"), None);
}

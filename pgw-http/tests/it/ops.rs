//! Health, readiness and liveness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use pgw_core::builder::ProcessorSettings;
use pgw_core::env::{Env, SystemEntropy};
use pgw_core::gateway::Gateway;
use pgw_core::processor::Source;
use pgw_core::sandbox::Sandbox;
use pgw_core::scope::Mode;
use pgw_core::storage::Storage;
use pgw_core::testing::clock::SimClock;
use pgw_core::testing::crash::Life;
use pgw_core::testing::faults::{Faults, Faulty, Rates};
use pgw_core::timestamp::Timestamp;
use pgw_http::ops::{Ops, Probe};
use pgw_http::{Config, Drain};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use serde_json::json;

use crate::harness::{App, Reply};

/// A gateway whose storage can be lost, and the router of its operation.
struct Operated {
    app: App,
    router: Router,
    faults: Arc<Faults>,
    clock: Arc<SimClock>,
}

impl Operated {
    async fn with(change: impl FnOnce(Ops) -> Ops, config: Config) -> Self {
        let faults = Faults::off();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let faulty: Arc<Faulty<dyn Storage>> =
            Arc::new(Faulty::new(storage, Arc::clone(&faults), Life::new()));
        let gateway = Gateway::builder()
            .with_processor(
                Mode::Test,
                Arc::new(Sandbox::new(Env::system())),
                ProcessorSettings::default(),
            )
            .with_storage(faulty)
            .with_queue(Arc::new(MemoryQueue::new()))
            .with_notifier(Arc::new(MemoryNotifier::new()))
            .build()
            .unwrap();
        let clock = Arc::new(SimClock::start());
        let config = config.with_env(Env::new(Arc::clone(&clock) as _, Arc::new(SystemEntropy)));
        let router = change(Ops::new(gateway, &config)).router();
        Self { app: App::new().await, router, faults, clock }
    }

    async fn get(&self, path: &str) -> Reply {
        self.app.get(path).without("x-api-key").of(self.router.clone()).await
    }

    fn lose_storage(&self, is_lost: bool) {
        let read_fails = if is_lost { 1_000 } else { 0 };
        self.faults.set(Rates { read_fails, ..Rates::default() });
        // What was known is known for a second.
        self.clock.jump(2);
    }
}

#[tokio::test(start_paused = true)]
async fn health_has_the_four_members_and_says_what_is_down() {
    let ops = Operated::with(|ops| ops, Config::default()).await;
    let reply = ops.get("/health").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let mut body = reply.json();
    assert!(body["timestamp"].take().as_str().unwrap().parse::<Timestamp>().is_ok());
    let whole = json!({"status": "ok", "timestamp": null, "database": "connected",
                       "redis": "disabled"});
    assert_eq!(body, whole);

    ops.lose_storage(true);
    let reply = ops.get("/health").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        (reply.text("status"), reply.text("database"), reply.text("redis")),
        ("degraded".to_owned(), "disconnected".to_owned(), "disabled".to_owned())
    );
    ops.lose_storage(false);
    assert_eq!(ops.get("/health").await.status, StatusCode::OK);
}

/// Counts how often it is asked, and can hang.
#[derive(Debug, Default)]
struct Redis {
    asked: AtomicUsize,
    hangs: AtomicBool,
}

#[async_trait::async_trait]
impl Probe for Redis {
    async fn check(&self) -> Result<(), Source> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending().await
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn parts_are_asked_once_a_second_and_for_two_seconds() {
    let redis = Arc::new(Redis::default());
    let probe = Arc::clone(&redis);
    let ops = Operated::with(|ops| ops.with_redis(probe), Config::default()).await;
    for _ in 0..100 {
        assert_eq!(ops.get("/health").await.text("redis"), "connected");
    }
    let at_once: Vec<_> = (0..10).map(|_| ops.get("/health")).collect();
    futures_util::future::join_all(at_once).await;
    assert_eq!(redis.asked.load(Ordering::Relaxed), 1);
    redis.hangs.store(true, Ordering::Relaxed);
    ops.clock.jump(2);
    let reply = ops.get("/health").await;
    assert_eq!(
        (reply.status, reply.text("redis"), reply.text("database")),
        (StatusCode::SERVICE_UNAVAILABLE, "disconnected".to_owned(), "connected".to_owned())
    );
    // Who came meanwhile does not ask anew: what was found out holds from when it was.
    let asked = redis.asked.load(Ordering::Relaxed);
    let patient = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ops.clock.jump(2);
    };
    ops.clock.jump(2);
    let at_once = futures_util::future::join_all((0..10).map(|_| ops.get("/health")));
    tokio::join!(at_once, patient);
    assert_eq!(redis.asked.load(Ordering::Relaxed), asked + 1);
    // Limits degrade without Redis; payments do not.
    assert_eq!(ops.get("/readyz").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn ready_is_who_can_read_and_does_not_drain() {
    let drain = Drain::new();
    let ops = Operated::with(|ops| ops, Config::default().with_drain(drain.clone())).await;
    let status = async |path: &str| ops.get(path).await.status;
    let (yes, no) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((status("/livez").await, status("/readyz").await), (yes, yes));
    ops.lose_storage(true);
    assert_eq!((status("/livez").await, status("/readyz").await), (yes, no));
    ops.lose_storage(false);
    drain.begin();
    assert_eq!((status("/livez").await, status("/readyz").await), (yes, no));
    assert_eq!(ops.get("/readyz").await.text("status"), "draining");
}

#[tokio::test(start_paused = true)]
async fn the_api_is_described_for_programs_and_for_people() {
    let base = "https://pay.example/api";
    let config = Config::default().with_public_base_url(base);
    let ops = Operated::with(|ops| ops, config).await;
    let reply = ops.get("/openapi.json").await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let document = reply.json();
    assert_eq!(document["servers"], json!([{"url": base}]));
    let mut file: serde_json::Value =
        serde_json::from_str(include_str!("../../openapi.json")).unwrap();
    file["servers"] = document["servers"].clone();
    assert_eq!(document, file);

    let page = ops.get("/docs").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'unsafe-inline';"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert!(std::str::from_utf8(&page.body).unwrap().contains("/payments/{id}/refund"));
}

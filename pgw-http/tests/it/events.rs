//! The feed of events: its pages and its stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::connect_info::MockConnectInfo;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt as _;
use pgw_core::access::{ApiKeyText, Caller, Role};
use pgw_core::builder::ProcessorSettings;
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::notifier::{Hint, Notifier, NotifierError, Subscription};
use pgw_core::sandbox::Sandbox;
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::Storage;
use pgw_core::testing::crash::Life;
use pgw_core::testing::faults::{Faults, Faulty};
use pgw_http::{Config, Drain, StreamLimits};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::harness::{App, Receiver, new_key, payment, stranger};

/// The open end of a stream.
struct Listening {
    body: BodyDataStream,
    read: String,
}

impl Listening {
    async fn start(app: &App, key: &str, headers: &[(&str, &str)], query: &str) -> Self {
        Self::from(app.router.clone(), key, headers, query).await
    }

    async fn from(router: Router, key: &str, headers: &[(&str, &str)], query: &str) -> Self {
        let mut request = Request::get(format!("/events/stream{query}")).header("x-api-key", key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let mut listening =
            Self { body: response.into_body().into_data_stream(), read: String::new() };
        assert_eq!(listening.frame().await.as_deref(), Some("retry: 2000"));
        listening
    }

    async fn of(app: &App, query: &str) -> Self {
        Self::start(app, app.key(Role::Admin), &[], query).await
    }

    /// The next frame, comments too; `None` at the end.
    async fn frame(&mut self) -> Option<String> {
        loop {
            if let Some((frame, rest)) = self.read.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.read = rest;
                return Some(frame);
            }
            let bytes = self.body.next().await?.unwrap();
            self.read.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// The next event: its position, type and body.
    async fn event(&mut self) -> (u64, String, Value) {
        loop {
            let frame = self.frame().await.expect("the stream goes on");
            let lines: Vec<_> = frame.lines().collect();
            if lines == [":"] {
                continue;
            }
            let [id, kind, data] = lines[..] else { panic!("{frame}") };
            let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            let id = id.strip_prefix("id: ").unwrap().parse().unwrap();
            return (id, kind.strip_prefix("event: ").unwrap().to_owned(), data);
        }
    }
}

async fn page(app: &App, query: &str) -> Value {
    let reply = app.get(&format!("/events{query}")).await_reply().await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    reply.json()
}

/// An app whose feed has `payment.created` and `payment.succeeded` of so many payments.
async fn with_payments(app: &App, count: usize) {
    let worker = app.work();
    for _ in 0..count {
        app.pay("").await;
    }
    let mut listening = Listening::of(app, "").await;
    for _ in 0..count * 2 {
        listening.event().await;
    }
    worker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn pages_are_in_the_order_of_the_feed() {
    let app = App::new().await;
    with_payments(&app, 2).await;
    let all = page(&app, "").await;
    let types = |page: &Value| -> Vec<String> {
        let rows = page["data"].as_array().unwrap();
        rows.iter().map(|row| row["type"].as_str().unwrap().to_owned()).collect()
    };
    let (created, succeeded) = ("payment.created", "payment.succeeded");
    assert_eq!(types(&all), [created, succeeded, created, succeeded]);
    assert_eq!((&all["has_more"], &all["next_cursor"]), (&false.into(), &Value::Null));
    let first = page(&app, "?limit=3").await;
    assert_eq!((&first["has_more"], &first["next_cursor"]), (&true.into(), &"3".into()));
    let rest = page(&app, "?limit=3&after=3").await;
    assert_eq!(rest["data"][0], all["data"][3]);
    assert_eq!(page(&app, "?after=4").await["data"], serde_json::json!([]));
    let key = new_key(&app.gateway, stranger(), Role::Admin).await;
    let foreign = app.get("/events").with("x-api-key", &key).await_reply().await;
    assert_eq!(foreign.json()["data"], serde_json::json!([]));
    for bad in ["?after=-1", "?after=x", "?limit=0", "?before=1"] {
        app.get(&format!("/events{bad}")).await_reply().await.problem(400, "Validation failed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_gives_what_was_and_what_comes_and_resumes() {
    let app = App::new().await;
    with_payments(&app, 2).await;
    let mut listening = Listening::of(&app, "").await;
    let all = page(&app, "").await;
    for n in 0..4 {
        let (id, kind, data) = listening.event().await;
        assert_eq!(id, n + 1);
        assert_eq!(data, all["data"][usize::try_from(n).unwrap()]);
        assert_eq!(data["type"], kind);
    }
    let worker = app.work();
    app.pay("").await;
    let (id, kind, _) = listening.event().await;
    assert_eq!((id, kind.as_str()), (5, "payment.created"));
    drop(listening);
    app.pay("").await;

    let key = app.key(Role::Readonly);
    // What the client saw counts more than where it began.
    let mut again = Listening::start(&app, key, &[("last-event-id", "5")], "?after=1").await;
    let seen = [again.event().await, again.event().await, again.event().await];
    assert_eq!(seen.map(|(id, ..)| id), [6, 7, 8]);
    let mut after = Listening::start(&app, key, &[], "?after=7").await;
    assert_eq!(after.event().await.0, 8);
    worker.shutdown().await;
}

#[tokio::test]
async fn where_to_resume_has_to_be_a_position() {
    let app = App::new().await;
    for bad in ["x", "-1", "9223372036854775808", ""] {
        let ask = app.get("/events/stream").with("last-event-id", bad);
        let errors = ask.await_reply().await.problem(400, "Validation failed");
        assert_eq!(errors[0].0, "Last-Event-ID");
    }
    app.get("/events/stream?from=1").await_reply().await.problem(400, "Validation failed");
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_and_the_end_comes_within_an_hour() {
    let app = App::new().await;
    let mut listening = Listening::of(&app, "").await;
    let mut heartbeats = 0;
    while let Some(frame) = listening.frame().await {
        assert_eq!(frame, ":");
        heartbeats += 1;
    }
    assert!((200..=240).contains(&heartbeats), "{heartbeats} in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_hint_wakes_a_stream_before_it_looks_by_itself() {
    let app = App::new().await;
    let mut listening = Listening::of(&app, "").await;
    // It has looked, found nothing and waits: the next thing is a heartbeat.
    assert_eq!(listening.frame().await.as_deref(), Some(":"));
    app.post("/payments", payment("")).await_reply().await;
    assert_eq!(app.storage.stamp_events(10).await.unwrap(), 1);
    let hinted = async { app.gateway.notifier().publish(&[Hint::Stamped]).await.unwrap() };
    let within = tokio::time::timeout(Duration::from_secs(1), listening.event());
    let (event, ()) = tokio::join!(within, hinted);
    assert_eq!(event.expect("it does not wait for its next look").1, "payment.created");
}

/// Loses every hint.
#[derive(Debug)]
struct Lossy(MemoryNotifier);

#[async_trait::async_trait]
impl Notifier for Lossy {
    async fn publish(&self, _hints: &[Hint]) -> Result<(), NotifierError> {
        Ok(())
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        self.0.subscribe().await
    }
}

#[tokio::test(start_paused = true)]
async fn without_hints_events_come_a_little_later() {
    let notifier = Arc::new(Lossy(MemoryNotifier::new()));
    let app = App::build(Config::default(), notifier).await;
    let mut listening = Listening::of(&app, "").await;
    let worker = app.work();
    app.pay("").await;
    assert_eq!(listening.event().await.1, "payment.created");
    worker.shutdown().await;
}

async fn revoke(app: &App, key: &str) {
    let prefix = ApiKeyText::parse(key).unwrap().prefix();
    let known = app.gateway.storage().api_key(prefix).await.unwrap().unwrap();
    app.gateway.by(Caller::host(Scope::default())).revoke_api_key(known.id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_hears_no_more() {
    let app = App::new().await;
    let key = new_key(&app.gateway, Scope::default(), Role::Readonly).await;
    let mut listening = Listening::start(&app, &key, &[], "").await;
    revoke(&app, &key).await;
    let mut heartbeats = 0;
    while listening.frame().await.is_some() {
        heartbeats += 1;
    }
    assert!(heartbeats <= 2, "it ends within 30 s");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_for_a_slow_reader() {
    let app = App::new().await;
    with_payments(&app, 3).await;
    let key = new_key(&app.gateway, Scope::default(), Role::Readonly).await;
    let mut slow = Listening::start(&app, &key, &[], "").await;
    assert_eq!(slow.event().await.0, 1);
    revoke(&app, &key).await;
    tokio::time::advance(Duration::from_secs(31)).await;
    // Five events were there to be read before the key was revoked.
    assert_eq!(slow.frame().await, None);
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_for_each_caller_and_in_all() {
    let limits = StreamLimits::default().with_per_caller(2).with_in_all(3);
    let app = App::with(Config::default().with_stream_limits(limits)).await;
    let first = Listening::of(&app, "").await;
    let _second = Listening::of(&app, "").await;
    let refused = app.get("/events/stream").await_reply().await;
    refused.problem(429, "Too many requests from this IP");
    assert_eq!(refused.header("retry-after"), Some("30"));
    let _third = Listening::start(&app, app.key(Role::Readonly), &[], "").await;
    let other = app.get("/events/stream").with("x-api-key", app.key(Role::Finance));
    let refused = other.clone().await_reply().await;
    refused.problem(503, "Overloaded");
    assert_eq!(refused.header("retry-after"), Some("30"));
    drop(first);
    let _fourth = Listening::start(&app, app.key(Role::Finance), &[], "").await;
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_the_host_drains() {
    let drain = Drain::new();
    let app = App::with(Config::default().with_drain(drain.clone())).await;
    let mut waiting = Listening::of(&app, "").await;
    let (ended, ()) = tokio::join!(waiting.frame(), async { drain.begin() });
    assert_eq!(ended, None);
}

#[tokio::test(start_paused = true)]
async fn a_long_backlog_is_read_without_waiting_for_hints() {
    let app = App::new().await;
    // More than is read at once, and nothing happens any more.
    with_payments(&app, 120).await;
    let mut listening = Listening::of(&app, "").await;
    let all = async {
        for position in 1..=240 {
            assert_eq!(listening.event().await.0, position);
        }
    };
    tokio::time::timeout(Duration::from_secs(1), all).await.expect("nothing is waited for");
}

#[tokio::test(start_paused = true)]
async fn many_hints_are_few_looks() {
    let (storage, faults) = (MemoryStorage::new(), Faults::off());
    let inner: Arc<dyn Storage> = Arc::new(storage.clone());
    let counted: Arc<Faulty<dyn Storage>> =
        Arc::new(Faulty::new(inner, Arc::clone(&faults), Life::new()));
    let sandbox = Sandbox::new(Env::system());
    let gateway = Gateway::builder()
        .with_processor(Mode::Test, Arc::new(sandbox.clone()), ProcessorSettings::default())
        .with_storage(counted)
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .build()
        .unwrap();
    let receiver = Arc::new(Receiver::default());
    let app = App::of(gateway, storage, sandbox, receiver, Config::default()).await;
    let mut listening = Listening::of(&app, "").await;
    let before = faults.calls();
    let busy = async {
        for _ in 0..1_000 {
            app.gateway.notifier().publish(&[Hint::Stamped]).await.unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    };
    let heard = async {
        let listened = tokio::time::timeout(Duration::from_secs(1), listening.frame());
        assert!(listened.await.is_err(), "nothing happens");
    };
    tokio::join!(heard, busy);
    let looks = faults.calls() - before;
    assert!((2..=7).contains(&looks), "{looks} looks in a second");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_denied_meanwhile_hears_no_more() {
    let app = App::new().await;
    let peer: SocketAddr = "198.51.100.7:1".parse().unwrap();
    let router = app.router.clone().layer(MockConnectInfo(peer));
    let mut listening = Listening::from(router, app.key(Role::Readonly), &[], "").await;
    let denied = "{\"network\":\"198.51.100.0/24\"}";
    app.post("/ip-denylist", denied).await_reply().await;
    let mut heartbeats = 0;
    while listening.frame().await.is_some() {
        heartbeats += 1;
    }
    assert!(heartbeats <= 2, "it ends within 30 s");
}

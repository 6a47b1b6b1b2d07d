//! What is counted of requests, and that a panic is answered and counted like any other mistake of ours.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::connect_info::MockConnectInfo;
use axum::http::{HeaderMap, Method, StatusCode};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use pgw_core::access::Principal;
use pgw_core::rate_limit::Limit;
use pgw_http::Config;
use pgw_http::auth::{Authenticator, Denied};
use pgw_http::rate_limit::{Class, RateLimits};
use pgw_storage_memory::MemoryRateLimiter;

use crate::harness::{App, payment};

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().build_recorder()
}

fn count(handle: &PrometheusHandle, line: &str) -> u64 {
    let text = handle.render();
    let value = text.lines().find_map(|it| it.strip_prefix(line));
    value.map_or(0, |value| value.trim().parse().unwrap())
}

fn requests(handle: &PrometheusHandle, method: &str, route: &str, status: u16) -> u64 {
    let labels = format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}");
    count(handle, &format!("pgw_http_requests_total{labels}"))
}

#[tokio::test]
async fn every_answer_is_counted_by_its_route() {
    let recorder = recorder();
    let handle = recorder.handle();
    // A test runs on one thread, and so does everything it asks for.
    let _counting = metrics::set_default_local_recorder(&recorder);
    let once = Limit { quota: NonZeroU32::MIN, window: Duration::from_secs(3_600) };
    let limits = RateLimits::new(Arc::new(MemoryRateLimiter::new())).with(Class::Anonymous, once);
    let app = App::with(Config::default().with_rate_limits(limits)).await;
    let id = {
        let reply = app.post("/payments", payment("")).await_reply().await;
        assert_eq!(reply.status, StatusCode::CREATED);
        reply.text("id")
    };
    app.get(&format!("/payments/{id}")).await_reply().await;
    app.get("/payments/pay_01h455vb4pex5vsknk084sn02q").await_reply().await;
    app.post("/payments", "{}").await_reply().await;
    app.ask(Method::from_bytes(b"BREW").unwrap(), "/payments").await_reply().await;
    app.post("/ip-denylist", "{\"network\":\"203.0.113.0/24\"}").await_reply().await;
    let from = |peer: &str| {
        let peer: SocketAddr = peer.parse().unwrap();
        app.get("/refunds").without("x-api-key").of(app.router.clone().layer(MockConnectInfo(peer)))
    };
    for expected in [401, 429] {
        assert_eq!(from("198.51.100.1:1").await.status, expected);
    }
    assert_eq!(from("203.0.113.7:1").await.status, 403);

    for (method, route, status) in [
        ("POST", "/payments", 201),
        ("GET", "/payments/{id}", 200),
        ("GET", "/payments/{id}", 404),
        ("POST", "/payments", 400),
        ("other", "/payments", 405),
        ("GET", "/refunds", 401),
        ("GET", "/refunds", 429),
        ("GET", "/refunds", 403),
    ] {
        assert_eq!(requests(&handle, method, route, status), 1, "{method} {route} {status}");
    }
    let text = handle.render();
    assert!(!text.contains("pay_") && !text.contains("BREW"), "labels are bounded: {text}");
    assert!(text.contains("pgw_http_request_duration_seconds"), "{text}");
    assert_eq!(count(&handle, "pgw_http_requests_in_flight"), 0);
}

/// Looks at the metrics while a request is under way, and then breaks.
#[derive(Debug)]
struct Breaking {
    metrics: Mutex<Option<u64>>,
    handle: PrometheusHandleOf,
}

/// The handle has no `Debug` of its own.
struct PrometheusHandleOf(PrometheusHandle);

impl std::fmt::Debug for PrometheusHandleOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrometheusHandle")
    }
}

#[async_trait::async_trait]
impl Authenticator for Breaking {
    async fn authenticate(&self, _: &HeaderMap) -> Result<Principal, Denied> {
        let seen = count(&self.handle.0, "pgw_http_requests_in_flight");
        *self.metrics.lock().unwrap() = Some(seen);
        panic!("hunter2 is what this mistake of a host's says");
    }
}

#[tokio::test]
async fn a_panic_is_answered_and_counted() {
    let recorder = recorder();
    let handle = recorder.handle();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let breaking = Arc::new(Breaking {
        metrics: Mutex::new(None),
        handle: PrometheusHandleOf(handle.clone()),
    });
    let config = Config::default().with_authenticator(Arc::clone(&breaking) as _);
    let app = App::with(config).await;
    for n in 1..=2 {
        let reply = app.post("/payments", payment("")).await_reply().await;
        reply.problem(500, "Internal error");
        assert!(!String::from_utf8_lossy(&reply.body).contains("hunter2"));
        assert!(reply.header("strict-transport-security").is_some());
        assert_eq!(*breaking.metrics.lock().unwrap(), Some(1), "it was under way");
        assert_eq!(requests(&handle, "POST", "/payments", 500), n);
        assert_eq!(count(&handle, "pgw_http_requests_in_flight"), 0);
    }
}

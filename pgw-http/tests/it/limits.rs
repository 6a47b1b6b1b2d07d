//! How many requests whom: the classes of the router, the failed tries of one key, and the layer alone.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::MockConnectInfo;
use axum::http::StatusCode;
use axum::routing::get;
use pgw_core::access::Role;
use pgw_core::rate_limit::{Decision, Limit, RateLimitError, RateLimiter};
use pgw_http::Config;
use pgw_http::client_ip::{ClientIpLayer, TrustedProxies};
use pgw_http::rate_limit::{Class, RateLimitLayer, RateLimits, WhenUnavailable};
use pgw_storage_memory::MemoryRateLimiter;

use crate::harness::{App, Reply};

fn limit(quota: u32) -> Limit {
    Limit { quota: NonZeroU32::new(quota).unwrap(), window: Duration::from_secs(3_600) }
}

fn limits() -> RateLimits {
    RateLimits::new(Arc::new(MemoryRateLimiter::new()))
}

fn behind(app: &App, peer: &str) -> Router {
    let peer: SocketAddr = peer.parse().unwrap();
    app.router.clone().layer(MockConnectInfo(peer))
}

fn assert_limited(reply: &Reply) {
    reply.problem(429, "Too many requests from this IP");
    let wait = reply.header("retry-after").unwrap();
    assert!(wait.parse::<u32>().unwrap() >= 1);
    let state = reply.header("ratelimit").unwrap();
    assert!(state.ends_with(&format!(";r=0;t={wait}")), "{state}");
}

#[tokio::test]
async fn callers_without_a_valid_key_are_counted_by_address() {
    let app = App::with(Config::default().with_rate_limits(limits())).await;
    let from = |peer: &str| app.get("/payments").without("x-api-key").of(behind(&app, peer));
    for n in 0..100 {
        // An IPv6 client may take any address of its network.
        let reply = from(&format!("[2001:db8::{n}]:1")).await;
        reply.problem(401, "API key required");
        let policy = "\"anonymous\";q=100;w=900";
        assert_eq!(reply.header("ratelimit-policy"), Some(policy));
        assert_eq!(reply.header("ratelimit-limit"), Some("100"));
        assert_eq!(reply.header("ratelimit-remaining"), Some(&*(99 - n).to_string()));
    }
    assert_limited(&from("[2001:db8::aaaa]:1").await);
    let bad_key = app.get("/payments").with("x-api-key", "nonsense");
    assert_limited(&bad_key.of(behind(&app, "[2001:db8::b]:1")).await);
    from("[2001:db8:0:1::1]:1").await.problem(401, "API key required");
    // Whoever holds a key is not stopped by their neighbours.
    let reply = app.get("/payments").of(behind(&app, "[2001:db8::1]:1")).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("ratelimit-policy"), Some("\"authenticated\";q=6000;w=60"));
}

/// What a field says of its one policy (RFC 9651): its name, and its two numbers.
fn parsed(field: &str, names: [&str; 2]) -> (String, [i64; 2]) {
    let list: sfv::List = sfv::Parser::new(field).parse().unwrap();
    let [sfv::ListEntry::Item(item)] = &list[..] else { panic!("{field}") };
    let numbers = names.map(|name| {
        let number = item.params.iter().find(|(key, _)| key.as_str() == name).unwrap().1;
        i64::from(number.as_integer().unwrap())
    });
    assert_eq!(item.params.len(), 2, "{field}");
    (item.bare_item.as_string().unwrap().as_str().to_owned(), numbers)
}

#[tokio::test]
async fn what_the_fields_say_can_be_read_and_is_so() {
    for class in [Class::Anonymous, Class::Authenticated, Class::Processor] {
        let app =
            App::with(Config::default().with_rate_limits(limits().with(class, limit(5)))).await;
        let ask = || match class {
            Class::Anonymous => app.get("/refunds").without("x-api-key"),
            Class::Processor => app.post("/processors/none/notifications", "{}"),
            _ => app.get("/refunds"),
        };
        let mut left = 5;
        for n in 1..=8 {
            let reply = ask().await_reply().await;
            let policy = parsed(reply.header("ratelimit-policy").unwrap(), ["q", "w"]);
            assert_eq!(policy, (class.as_str().to_owned(), [5, 3_600]));
            let (name, [rest, reset]) = parsed(reply.header("ratelimit").unwrap(), ["r", "t"]);
            left = if n <= 5 { left - 1 } else { 0 };
            assert_eq!((&*name, rest), (class.as_str(), left), "{n}");
            assert!((0..=3_600).contains(&reset), "{reset}");
            // The older fields say the same.
            let old = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];
            let old = old.map(|name| reply.header(name).unwrap().parse::<i64>().unwrap());
            assert_eq!(old, [5, rest, reset]);
            assert_eq!(reply.status == StatusCode::TOO_MANY_REQUESTS, n > 5, "{reply:?}");
            if let Some(wait) = reply.header("retry-after") {
                assert!(reset <= wait.parse().unwrap(), "{reset} {wait}");
            }
            assert_eq!(reply.headers.contains_key("retry-after"), n > 5);
        }
    }
}

#[tokio::test]
async fn holders_of_keys_are_counted_each() {
    let limits = limits().with(Class::Authenticated, limit(3));
    let app = App::with(Config::default().with_rate_limits(limits)).await;
    for _ in 0..3 {
        assert_eq!(app.get("/payments").await_reply().await.status, StatusCode::OK);
    }
    assert_limited(&app.get("/payments").await_reply().await);
    let other = app.get("/payments").with("x-api-key", app.key(Role::Readonly));
    let reply = other.await_reply().await;
    assert_eq!((reply.status, reply.header("ratelimit-remaining")), (StatusCode::OK, Some("2")));
}

#[tokio::test]
async fn processors_are_counted_apart_and_a_class_can_be_off() {
    let notify = "/processors/none/notifications";
    let on = limits().with(Class::Processor, limit(1));
    let off = on.clone().without(Class::Processor).without(Class::Anonymous);
    let app = App::with(Config::default().with_rate_limits(on)).await;
    app.post(notify, "{}").await_reply().await.problem(404, "Not found");
    assert_limited(&app.post(notify, "{}").await_reply().await);
    assert_eq!(app.get("/payments").await_reply().await.status, StatusCode::OK);

    let app = App::with(Config::default().with_rate_limits(off)).await;
    for _ in 0..3 {
        let reply = app.post(notify, "{}").await_reply().await;
        reply.problem(404, "Not found");
        assert_eq!(reply.header("ratelimit"), None);
    }
}

#[tokio::test]
async fn without_a_limiter_nothing_is_said() {
    let app = App::new().await;
    let reply = app.get("/payments").await_reply().await;
    assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("ratelimit")));
}

/// Cannot be reached.
#[derive(Debug)]
struct Down;

#[async_trait::async_trait]
impl RateLimiter for Down {
    async fn check(&self, _key: &str, _limit: Limit) -> Result<Decision, RateLimitError> {
        let secret = std::io::Error::other("redis.internal:6379 refused");
        Err(RateLimitError::Unavailable(Arc::new(secret)))
    }
}

#[tokio::test]
async fn without_its_limiter_the_api_is_there_for_those_who_hold_a_key() {
    let limits = RateLimits::new(Arc::new(Down));
    let app = App::with(Config::default().with_rate_limits(limits.clone())).await;
    assert_eq!(app.get("/payments").await_reply().await.status, StatusCode::OK);
    let reply = app.get("/payments").without("x-api-key").await_reply().await;
    reply.problem(503, "Service unavailable");
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert!(!String::from_utf8_lossy(&reply.body).contains("redis.internal"));

    let turned = limits
        .when_unavailable(Class::Authenticated, WhenUnavailable::Refuse)
        .when_unavailable(Class::Anonymous, WhenUnavailable::Admit);
    let app = App::with(Config::default().with_rate_limits(turned)).await;
    app.get("/payments").await_reply().await.problem(503, "Service unavailable");
    let reply = app.get("/payments").without("x-api-key").await_reply().await;
    reply.problem(401, "API key required");
}

#[tokio::test]
async fn a_key_that_was_tried_in_vain_is_not_tried_on() {
    let app = App::new().await;
    let key = app.key(Role::Admin).to_owned();
    // The same prefix with another secret.
    let guess = format!("{}{}", &key[..key.len() - 43], "A".repeat(43));
    let ask =
        |key: &str, peer: &str| app.get("/payments").with("x-api-key", key).of(behind(&app, peer));
    for _ in 0..10 {
        ask(&guess, "192.0.2.1:1").await.problem(403, "Invalid API key");
    }
    let refused = ask(&guess, "192.0.2.1:2").await;
    refused.problem(429, "Too many requests from this IP");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() <= 60);
    // Storage is not asked any more: even the right secret does not show.
    ask(&key, "192.0.2.1:3").await.problem(429, "Too many requests from this IP");
    assert_eq!(ask(&key, "192.0.2.2:1").await.status, StatusCode::OK);
    let other = app.key(Role::Readonly);
    assert_eq!(ask(other, "192.0.2.1:4").await.status, StatusCode::OK);
}

#[tokio::test]
async fn where_addresses_are_not_known_nobody_shuts_a_key_out() {
    let app = App::new().await;
    let key = app.key(Role::Admin).to_owned();
    let guess = format!("{}{}", &key[..key.len() - 43], "A".repeat(43));
    for _ in 0..20 {
        let tried = app.get("/payments").with("x-api-key", &guess).await_reply().await;
        tried.problem(403, "Invalid API key");
    }
    assert_eq!(app.get("/payments").await_reply().await.status, StatusCode::OK);
}

#[tokio::test]
async fn behind_a_trusted_proxy_clients_are_told_apart() {
    let limits = limits().with(Class::Anonymous, limit(1));
    let proxies: TrustedProxies = "10.0.0.0/8".parse().unwrap();
    let config = Config::default().with_rate_limits(limits).with_trusted_proxies(proxies);
    let app = App::with(config).await;
    let from = |forwarded: &str, peer: &str| {
        let ask = app.get("/payments").without("x-api-key").with("x-forwarded-for", forwarded);
        ask.of(behind(&app, peer))
    };
    from("192.0.2.1", "10.0.0.1:1").await.problem(401, "API key required");
    from("192.0.2.2", "10.0.0.1:1").await.problem(401, "API key required");
    assert_limited(&from("192.0.2.1", "10.0.0.2:1").await);
    assert_limited(&from("1.1.1.1, 192.0.2.1", "10.0.0.1:1").await);
    // Who is no proxy has no say.
    from("192.0.2.3", "203.0.113.9:1").await.problem(401, "API key required");
    assert_limited(&from("192.0.2.4", "203.0.113.9:1").await);
}

#[tokio::test]
async fn the_layers_work_on_a_hosts_own_routes() {
    let limiter = Arc::new(MemoryRateLimiter::new());
    let host = Router::new()
        .route("/sign-in", get(|| async { "hello" }))
        .layer(RateLimitLayer::new(limiter, "sign-in", limit(1)))
        .layer(ClientIpLayer::new("10.0.0.1".parse().unwrap()))
        .layer(MockConnectInfo(SocketAddr::from(([10, 0, 0, 1], 1))));
    let app = App::new().await;
    let from = |client: &str| app.get("/sign-in").with("x-forwarded-for", client).of(host.clone());
    let first = from("192.0.2.1").await;
    assert_eq!(&first.body[..], b"hello");
    assert_eq!(first.header("ratelimit-policy"), Some("\"sign-in\";q=1;w=3600"));
    assert_limited(&from("192.0.2.1").await);
    assert_eq!(from("192.0.2.2").await.status, StatusCode::OK);

    let down = |then| {
        let layer = RateLimitLayer::new(Arc::new(Down), "sign-in", limit(1));
        let layer = layer.when_unavailable(then);
        Router::new().route("/sign-in", get(|| async { "hello" })).layer(layer)
    };
    let ask = app.get("/sign-in");
    ask.clone().of(down(WhenUnavailable::Refuse)).await.problem(503, "Service unavailable");

    // Refusals look like the router's.
    let config = Config::default().with_public_base_url("https://pay.example/api");
    let layer = RateLimitLayer::new(Arc::new(Down), "sign-in", limit(1)).with_config(&config);
    let host = Router::new().route("/sign-in", get(|| async { "hello" })).layer(layer);
    let refused = ask.clone().of(host).await;
    assert_eq!(refused.text("type"), "https://pay.example/api/problems/unavailable");
    assert!(refused.header("strict-transport-security").is_some());
    assert_eq!(ask.of(down(WhenUnavailable::Admit)).await.status, StatusCode::OK);
}

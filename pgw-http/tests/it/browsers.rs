//! What a browser is told: security headers and CORS.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::routing::get;
use pgw_http::cors::CorsPolicy;
use pgw_http::rate_limit::RateLimits;
use pgw_http::{Config, SecurityHeaders};
use pgw_storage_memory::MemoryRateLimiter;

use crate::harness::{App, Ask, payment};

/// The headers, sorted, without those that differ from answer to answer.
async fn headers(ask: Ask<'_>) -> Vec<String> {
    let reply = ask.await_reply().await;
    let shown = reply.headers.iter().map(|(name, value)| {
        let value = if name == "x-request-id" { "…" } else { value.to_str().unwrap() };
        format!("{name}: {value}")
    });
    let mut shown: Vec<_> = shown.filter(|line| !line.starts_with("content-length")).collect();
    shown.sort();
    shown
}

#[tokio::test]
async fn every_answer_has_the_security_headers_and_no_more() {
    let app = App::new().await;
    let common = [
        "cache-control: no-store",
        "content-security-policy: default-src 'none'; base-uri 'none'; object-src 'none'; \
         frame-ancestors 'none'",
        "referrer-policy: no-referrer",
        "strict-transport-security: max-age=31536000; includeSubDomains",
        "x-content-type-options: nosniff",
        "x-frame-options: DENY",
        "x-request-id: …",
    ];
    let problem = "content-type: application/problem+json";
    for (ask, own) in [
        (app.get("/payments"), vec!["content-type: application/json"]),
        (
            app.get("/payments").without("x-api-key"),
            vec![problem, "www-authenticate: Bearer realm=\"pgw\""],
        ),
        (app.get("/payments/x"), vec![problem]),
        (app.ask(Method::TRACE, "/refunds"), vec![problem, "allow: GET,HEAD"]),
    ] {
        let mut expected = [common.to_vec(), own].concat();
        expected.sort_unstable();
        assert_eq!(headers(ask).await, expected);
    }
}

/// With everything on that adds headers.
#[tokio::test(start_paused = true)]
async fn every_header_of_a_success_an_error_a_wrong_method_and_a_preflight() {
    let limits = RateLimits::new(Arc::new(MemoryRateLimiter::new()));
    let config = Config::default().with_cors(CorsPolicy::new([SHOP]).unwrap());
    let app = App::with(config.with_rate_limits(limits)).await;
    let ours = "cache-control: no-store
content-security-policy: default-src 'none'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'
referrer-policy: no-referrer
strict-transport-security: max-age=31536000; includeSubDomains
x-content-type-options: nosniff
x-frame-options: DENY";
    let seen = "x-request-id: …";
    let shop = "access-control-allow-origin: https://shop.example";
    let exposed = "access-control-expose-headers: ratelimit,ratelimit-policy,ratelimit-limit,\
                   ratelimit-remaining,ratelimit-reset,retry-after,idempotent-replayed,\
                   preference-applied,x-request-id,location";
    let vary = "vary: origin, access-control-request-method, access-control-request-headers";
    let counted = |class: &str, quota: u32, window: u32, left: u32| {
        format!(
            "ratelimit-limit: {quota}\nratelimit-policy: \"{class}\";q={quota};w={window}\n\
             ratelimit-remaining: {left}\nratelimit-reset: …\nratelimit: \"{class}\";r={left};t=…"
        )
    };
    let json = "content-type: application/json";
    let problem = "content-type: application/problem+json";
    let ask = |path: &str| app.get(path).with("origin", SHOP);
    let success =
        [json, ours, seen, shop, exposed, vary, &counted("authenticated", 6_000, 60, 5_999)];
    let error = [
        problem,
        ours,
        seen,
        shop,
        exposed,
        vary,
        &counted("anonymous", 100, 900, 99),
        "www-authenticate: Bearer realm=\"pgw\"",
    ];
    let method = [problem, ours, seen, shop, exposed, vary, "allow: GET,HEAD"];
    let allowed = "access-control-allow-headers: content-type,idempotency-key,x-api-key,authorization,\
                   x-request-id,prefer,last-event-id";
    let preflighted = [
        ours,
        shop,
        vary,
        allowed,
        "access-control-allow-methods: GET",
        "access-control-max-age: 7200",
        "allow: GET,HEAD",
    ];
    let put = app.ask(Method::PUT, "/refunds").with("origin", SHOP);
    for (ask, expected) in [
        (ask("/refunds"), &success[..]),
        (ask("/refunds").without("x-api-key"), &error),
        (put, &method),
        (preflight(&app, "/refunds", SHOP), &preflighted),
    ] {
        let mut expected: Vec<_> = expected.iter().flat_map(|lines| lines.lines()).collect();
        expected.sort_unstable();
        let mut shown = headers(ask).await;
        // When a quota is whole again depends on the clock.
        for line in &mut shown {
            if let Some(at) = line.find(";t=").map(|at| at + 3) {
                line.replace_range(at.., "…");
            } else if line.starts_with("ratelimit-reset: ") {
                "ratelimit-reset: …".clone_into(line);
            }
        }
        shown.sort();
        assert_eq!(shown, expected);
    }
}

#[tokio::test]
async fn security_headers_can_be_changed_and_used_alone() {
    let own = SecurityHeaders::default()
        .with(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=60"))
        .without(&header::X_FRAME_OPTIONS);
    let app = App::with(Config::default().with_security_headers(own.clone())).await;
    let host: Router = Router::new()
        .route("/page", get(|| async { ([(header::CACHE_CONTROL, "max-age=1")], "page") }))
        .layer(own);
    let ours = app.get("/payments").await_reply().await;
    let hosts = app.get("/page").of(host).await;
    for reply in [&ours, &hosts] {
        assert_eq!(reply.header("strict-transport-security"), Some("max-age=60"));
        assert_eq!(reply.header("x-frame-options"), None);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
    assert_eq!(hosts.header("cache-control"), Some("max-age=1"), "what is there stays");
}

const SHOP: &str = "https://shop.example";

async fn with_cors() -> App {
    let policy = CorsPolicy::new([SHOP, "http://localhost:3000"]).unwrap();
    App::with(Config::default().with_cors(policy)).await
}

fn preflight<'a>(app: &'a App, path: &str, origin: &str) -> Ask<'a> {
    let ask = app.ask(Method::OPTIONS, path).without("x-api-key").with("origin", origin);
    ask.with("access-control-request-method", "POST")
        .with("access-control-request-headers", "x-api-key,idempotency-key")
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_call() {
    let app = with_cors().await;
    let reply = preflight(&app, "/payments", SHOP).await_reply().await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("access-control-allow-origin"), Some(SHOP));
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    assert_eq!(reply.header("access-control-allow-methods"), Some("POST,GET"));
    assert!(reply.header("vary").unwrap().contains("origin"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    let allowed = reply.header("access-control-allow-headers").unwrap();
    for name in ["content-type", "idempotency-key", "x-api-key", "authorization", "x-request-id"] {
        assert!(allowed.split(',').any(|allowed| allowed == name), "{name} in {allowed}");
    }
    let methods = |path| preflight(&app, path, SHOP).await_reply();
    let one = methods("/webhook-endpoints/x").await;
    assert_eq!(one.header("access-control-allow-methods"), Some("GET,PATCH,DELETE"));

    let created = app.post("/payments", payment("")).with("origin", SHOP).await_reply().await;
    assert_eq!(created.status, StatusCode::CREATED);
    assert_eq!(created.header("access-control-allow-origin"), Some(SHOP));
    let exposed = created.header("access-control-expose-headers").unwrap();
    for name in ["ratelimit", "retry-after", "idempotent-replayed", "x-request-id", "location"] {
        assert!(exposed.split(',').any(|exposed| exposed == name), "{name} in {exposed}");
    }
    // A page can read why it was refused.
    for ask in [app.get("/payments").without("x-api-key"), app.ask(Method::PUT, "/payments")] {
        let reply = ask.with("origin", SHOP).await_reply().await;
        assert_eq!(reply.header("access-control-allow-origin"), Some(SHOP), "{reply:?}");
    }
}

#[tokio::test]
async fn no_other_page_may() {
    let app = with_cors().await;
    for origin in
        ["https://shop.example.evil", "http://shop.example", "https://a.shop.example", "null"]
    {
        let reply = preflight(&app, "/payments", origin).await_reply().await;
        assert_eq!(reply.header("access-control-allow-origin"), None, "{origin}");
        let reply = app.get("/payments").with("origin", origin).await_reply().await;
        assert_eq!(reply.header("access-control-allow-origin"), None, "{origin}");
    }
    let closed = App::new().await;
    let reply = preflight(&closed, "/payments", SHOP).await_reply().await;
    reply.problem(405, "Method not allowed");
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn credentials_only_where_origins_are_named() {
    let policy = CorsPolicy::new([SHOP]).unwrap().with_credentials().unwrap();
    let app = App::with(Config::default().with_cors(policy)).await;
    let reply = preflight(&app, "/payments", SHOP).await_reply().await;
    assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
    let any = App::with(Config::default().with_cors(CorsPolicy::new(["*"]).unwrap())).await;
    let reply = preflight(&any, "/payments", SHOP).await_reply().await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(reply.header("access-control-allow-credentials"), None);
}

//! Every route of the table × every kind of caller.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::MockConnectInfo;
use axum::http::{HeaderMap, Method, StatusCode, header};
use pgw_core::access::{Actor, ApiKeyText, Principal, Role};
use pgw_core::gateway::NewApiKey;
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::AuditFilter;
use pgw_core::text::Description;
use pgw_http::auth::{Authenticator, Denied};
use pgw_http::{Config, Route};

use crate::harness::{App, Reply, new_key, payment, stranger};

/// Ids of one object of each kind.
pub(crate) struct Ids {
    payment: String,
    refund: String,
    pub(crate) endpoint: String,
    delivery: String,
    key: String,
    erasure: String,
}

impl Ids {
    pub(crate) async fn new(app: &App) -> Self {
        let worker = app.work();
        let endpoint = app.endpoint("https://hooks.example/in").await;
        let payment = app.pay("").await;
        let path = format!("/payments/{payment}/refunds");
        let refund = app.post(&path, "{\"amount\":1}").await_reply().await.text("id");
        let events = app.get("/webhook-events").await_reply().await.json();
        let delivery = events["data"][0]["id"].as_str().unwrap().to_owned();
        worker.shutdown().await;
        let body = "{\"role\":\"readonly\",\"name\":\"x\"}";
        let key = app.post("/api-keys", body).await_reply().await.text("id");
        let consent = "{\"purpose\":\"ads\",\"version\":\"1\"}";
        app.post("/customers/gone_1/consents", consent).await_reply().await;
        let erase = app.ask(Method::DELETE, "/customers/gone_1");
        let erasure = erase.await_reply().await.text("id");
        Self { payment, refund, endpoint, delivery, key, erasure }
    }

    fn none() -> Self {
        let none = || "none".to_owned();
        Self {
            payment: none(),
            refund: none(),
            endpoint: none(),
            delivery: none(),
            key: none(),
            erasure: none(),
        }
    }

    pub(crate) fn path(&self, route: &Route) -> String {
        let id = match route.path().split('/').nth(1) {
            Some("payments") => &self.payment,
            Some("refunds") => &self.refund,
            Some("webhook-endpoints") => &self.endpoint,
            Some("webhook-events") => &self.delivery,
            Some("api-keys") => &self.key,
            Some("erasures") => &self.erasure,
            other => {
                assert!(!route.path().contains("{id}"), "which {other:?}? {route:?}");
                "none"
            }
        };
        route
            .path()
            .replace("{id}", id)
            .replace("{name}", "none")
            .replace("{customer}", "cus_1")
            .replace("{purpose}", "ads")
    }
}

/// A body that is valid for the route, so that nothing but the caller is at fault.
pub(crate) fn body(route: &Route) -> String {
    match (route.method().clone(), route.path()) {
        (Method::POST, "/payments") => payment(""),
        (Method::POST, "/webhook-endpoints") => "{\"url\":\"https://hooks.example/\"}".to_owned(),
        (Method::POST, "/payments/{id}/resolve") => {
            "{\"operation\":\"op_00000000000000000000000000\",\"outcome\":\"failed\",\"reason\":\"x\"}"
                .to_owned()
        }
        (Method::POST, "/webhook-endpoints/{id}/recover") => {
            "{\"since\":\"2026-01-01T00:00:00Z\"}".to_owned()
        }
        (Method::POST, "/customers/{customer}/consents") => {
            "{\"purpose\":\"ads\",\"version\":\"1\"}".to_owned()
        }
        (Method::POST, "/webhook-events/retry") => "{\"filter\":{}}".to_owned(),
        (Method::POST, "/api-keys") => "{\"role\":\"admin\",\"name\":\"x\"}".to_owned(),
        // It would be the end of this test if it meant keys that are there.
        (Method::POST, "/api-keys/revoke") => {
            "{\"created_before\":\"2020-01-01T00:00:00Z\",\"reason\":\"x\"}".to_owned()
        }
        (Method::POST, "/ip-denylist") => "{\"network\":\"192.0.2.1\"}".to_owned(),
        (Method::POST | Method::PATCH, _) => "{}".to_owned(),
        _ => String::new(),
    }
}

async fn ask(app: &App, route: &Route, ids: &Ids, key: Option<&str>) -> Reply {
    let ask = app.ask(route.method().clone(), &ids.path(route)).json(body(route));
    let ask = ask.with("prefer", "wait=0").without("x-api-key");
    match key {
        Some(key) => ask.with("x-api-key", key).await_reply().await,
        None => ask.await_reply().await,
    }
}

/// Every row but those that say who was refused: a refusal leaves one, and nothing else.
pub(crate) fn rows(app: &App) -> String {
    let dump = app.storage.dump();
    dump.lines().filter(|line| !line.contains("AccessRefuse")).collect::<Vec<_>>().join("\n")
}

pub(crate) fn protected() -> impl Iterator<Item = &'static Route> {
    pgw_http::routes().iter().filter(|route| route.permission().is_some())
}

#[test]
fn only_processors_need_no_key() {
    let open: Vec<_> = pgw_http::routes().iter().filter(|r| r.permission().is_none()).collect();
    let open: Vec<_> = open.iter().map(|route| route.path()).collect();
    assert_eq!(open, ["/processors/{name}/notifications"]);
}

#[tokio::test]
async fn without_a_key() {
    let app = App::new().await;
    let before = rows(&app);
    for route in protected() {
        let reply = ask(&app, route, &Ids::none(), None).await;
        reply.problem(401, "API key required");
        assert!(reply.headers.contains_key(header::WWW_AUTHENTICATE));
    }
    assert!(rows(&app) == before);
}

#[tokio::test]
async fn with_a_key_that_opens_nothing() {
    let mut app = App::new().await;
    let gateway = app.gateway.clone();
    let host = gateway.host();
    let new = || NewApiKey {
        role: Role::Admin,
        name: Description::parse("x").unwrap(),
        expires_in: None,
    };
    let (key, revoked) = host.create_api_key(new()).await.unwrap();
    host.revoke_api_key(key.id).await.unwrap();
    let expiring = NewApiKey { expires_in: Some(std::time::Duration::ZERO), ..new() };
    let (_, expired) = host.create_api_key(expiring).await.unwrap();
    let unknown = ApiKeyText::mint(app.gateway.env(), Scope::default().mode);
    let mut altered = app.key(Role::Admin).to_owned();
    let last = if altered.ends_with('A') { 'B' } else { 'A' };
    altered.pop();
    altered.push(last);
    let before = rows(&app);
    for route in protected() {
        // Anew each time: how often a key was tried in vain is remembered.
        app.router = pgw_http::router(app.gateway.clone(), Config::default());
        let mut bodies = Vec::new();
        for key in [
            unknown.secret().expose(),
            revoked.expose(),
            expired.expose(),
            &altered,
            "nonsense",
            "",
        ] {
            let reply = ask(&app, route, &Ids::none(), Some(key)).await;
            reply.problem(403, "Invalid API key");
            let mut body = reply.json();
            body["request_id"].take();
            bodies.push(body);
        }
        bodies.dedup();
        assert_eq!(bodies.len(), 1, "the answers to bad keys differ");
    }
    assert!(rows(&app) == before);
}

#[tokio::test(start_paused = true)]
async fn with_each_role() {
    let app = App::new().await;
    let ids = Ids::new(&app).await;
    let before = rows(&app);
    for route in protected() {
        let permission = route.permission().unwrap();
        for role in Role::ALL.into_iter().filter(|role| !role.may(permission)) {
            let reply = ask(&app, route, &ids, Some(app.key(role))).await;
            reply.problem(403, "Insufficient permissions");
        }
    }
    assert!(rows(&app) == before);
    for route in protected() {
        let permission = route.permission().unwrap();
        for role in Role::ALL.into_iter().filter(|role| role.may(permission)) {
            let reply = ask(&app, route, &ids, Some(app.key(role))).await;
            let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
            assert!(!refused.contains(&reply.status), "{role:?} {route:?} {reply:?}");
            // The body is one, or the tests that spoil it prove nothing; that something is named is the route's own affair.
            let is_served = !reply.status.is_server_error();
            let is_valid = reply.status != StatusCode::BAD_REQUEST || body(route).is_empty();
            assert!(is_served && is_valid, "{role:?} {route:?} {reply:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_another_merchants_ids() {
    let app = App::new().await;
    let ids = Ids::new(&app).await;
    let foreign = new_key(&app.gateway, stranger(), Role::Admin).await;
    let live = Scope::new(Scope::default().merchant, Mode::Live);
    let live = new_key(&app.gateway, live, Role::Admin).await;
    let before = rows(&app);
    for route in protected().filter(|route| route.path().contains("{id}")) {
        for key in [&foreign, &live] {
            ask(&app, route, &ids, Some(key)).await.problem(404, "Not found");
        }
        let of_nobody = ask(&app, route, &Ids::none(), Some(&foreign)).await;
        of_nobody.problem(404, "Not found");
    }
    // What has no id in its path lists, and lists nothing of anybody else.
    let lists = protected().filter(|route| route.method() == Method::GET);
    let lists = lists.filter(|route| !route.path().contains('{'));
    for route in lists.filter(|route| route.path() != "/events/stream") {
        // The audit log is a merchant's, in both modes.
        let is_of_merchant = route.path() == "/audit-log";
        for key in [&foreign, &live].into_iter().take(if is_of_merchant { 1 } else { 2 }) {
            let reply = app.get(route.path()).with("x-api-key", key).await_reply().await;
            let is_operators =
                route.path() == "/ip-denylist" && reply.status == StatusCode::FORBIDDEN;
            assert!(reply.status == StatusCode::OK || is_operators, "{route:?} {reply:?}");
            let shown = String::from_utf8_lossy(&reply.body);
            for id in [&ids.payment, &ids.refund, &ids.endpoint, &ids.delivery, &ids.key] {
                assert!(!shown.contains(id.as_str()), "{route:?} {shown}");
            }
        }
    }
    assert!(rows(&app) == before);
}

#[tokio::test]
async fn bearer_tokens_open_too_and_actors_are_audited() {
    let app = App::new().await;
    let bearer = format!("Bearer {}", app.key(Role::Service));
    let ask = app.post("/payments", payment("")).without("x-api-key");
    let reply = ask.with("authorization", &bearer).with("x-request-id", "rq-1").await_reply().await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let merchant = Scope::default().merchant;
    let rows = app
        .gateway
        .storage()
        .audit(&merchant, &AuditFilter::default(), Default::default())
        .await
        .unwrap();
    let row = rows.data.iter().find(|row| row.action.as_str() == "payment.create").unwrap();
    assert!(row.actor.to_string().starts_with("key_"));
    assert_eq!(row.request_id.as_deref(), Some("rq-1"));
}

/// Lets in whoever says so, unless it is down.
#[derive(Debug)]
struct Own;

#[async_trait::async_trait]
impl Authenticator for Own {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
        match headers.get("x-user").map(|user| user.as_bytes()) {
            None => Err(Denied::Missing),
            Some(b"down") => {
                Err(Denied::Unavailable(Arc::new(std::io::Error::other("db.internal"))))
            }
            Some(b"ada") => Ok(Principal {
                scope: stranger(),
                actor: Actor::Other("ada".into()),
                role: Role::Service,
            }),
            Some(_) => Err(Denied::Invalid),
        }
    }
}

#[tokio::test]
async fn the_hosts_own_authenticator() {
    let app = App::with(Config::default().with_authenticator(Arc::new(Own))).await;
    let ask = || app.post("/payments", payment(""));
    ask().await_reply().await.problem(401, "API key required");
    ask().with("x-user", "eve").await_reply().await.problem(403, "Invalid API key");
    let down = ask().with("x-user", "down").await_reply().await;
    down.problem(503, "Service unavailable");
    assert_eq!(down.header("retry-after"), Some("1"));
    assert!(!String::from_utf8_lossy(&down.body).contains("db.internal"));
    let reply = ask().with("x-user", "ada").await_reply().await;
    assert_eq!(
        (reply.status, reply.text("merchant_id")),
        (StatusCode::CREATED, "stranger".to_owned())
    );
    let refund = app.patch("/payments/x/refund", "{}").with("x-user", "ada").await_reply().await;
    refund.problem(403, "Insufficient permissions");
}

#[tokio::test]
async fn the_peers_address_is_audited() {
    let app = App::new().await;
    let peer = SocketAddr::from(([192, 0, 2, 7], 4000));
    let router = app.router.clone().layer(MockConnectInfo(peer));
    let reply = app.post("/payments", payment("")).of(router).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let merchant = Scope::default().merchant;
    let rows = app
        .gateway
        .storage()
        .audit(&merchant, &AuditFilter::default(), Default::default())
        .await
        .unwrap();
    assert!(rows.data.iter().any(|row| row.origin == Some(peer.ip())));
}

//! Every route of the table × every kind of caller.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::MockConnectInfo;
use axum::http::{HeaderMap, Method, StatusCode, header};
use pgw_core::access::{Actor, ApiKeyText, Principal, Role};
use pgw_core::gateway::NewApiKey;
use pgw_core::scope::{Mode, Scope};
use pgw_core::text::Description;
use pgw_http::auth::{Authenticator, Denied};
use pgw_http::{Config, Route};

use crate::harness::{App, Reply, new_key, payment, stranger};

/// Ids of one object of each kind.
struct Ids {
    payment: String,
    refund: String,
    endpoint: String,
    delivery: String,
}

impl Ids {
    async fn new(app: &App) -> Self {
        let worker = app.work();
        let endpoint = app.endpoint("https://hooks.example/in").await;
        let payment = app.pay("").await;
        let path = format!("/payments/{payment}/refunds");
        let refund = app.post(&path, "{\"amount\":1}").await_reply().await.text("id");
        let events = app.get("/webhook-events").await_reply().await.json();
        let delivery = events["data"][0]["id"].as_str().unwrap().to_owned();
        worker.shutdown().await;
        Self { payment, refund, endpoint, delivery }
    }

    fn none() -> Self {
        let none = || "none".to_owned();
        Self { payment: none(), refund: none(), endpoint: none(), delivery: none() }
    }

    fn path(&self, route: &Route) -> String {
        let id = match route.path().split('/').nth(1) {
            Some("payments") => &self.payment,
            Some("refunds") => &self.refund,
            Some("webhook-endpoints") => &self.endpoint,
            Some("webhook-events") => &self.delivery,
            _ => "none",
        };
        route.path().replace("{id}", id).replace("{name}", "none")
    }
}

/// A body that is valid for the route, so that nothing but the caller is at fault.
fn body(route: &Route) -> String {
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
        (Method::POST, "/webhook-events/retry") => "{\"filter\":{}}".to_owned(),
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

fn protected() -> impl Iterator<Item = &'static Route> {
    pgw_http::routes().iter().filter(|route| route.permission().is_some())
}

#[test]
fn only_health_and_processors_need_no_key() {
    let open: Vec<_> = pgw_http::routes().iter().filter(|r| r.permission().is_none()).collect();
    let open: Vec<_> = open.iter().map(|route| route.path()).collect();
    assert_eq!(open, ["/processors/{name}/notifications", "/livez"]);
}

#[tokio::test]
async fn without_a_key() {
    let app = App::new().await;
    let before = app.storage.dump();
    for route in protected() {
        let reply = ask(&app, route, &Ids::none(), None).await;
        reply.problem(401, "API key required");
        assert!(reply.headers.contains_key(header::WWW_AUTHENTICATE));
    }
    assert!(app.storage.dump() == before);
}

#[tokio::test]
async fn with_a_key_that_opens_nothing() {
    let app = App::new().await;
    let host = app.gateway.host();
    let new = || NewApiKey {
        role: Role::Admin,
        name: Description::parse("x").unwrap(),
        expires_in: None,
    };
    let (key, revoked) = host.create_api_key(new()).await.unwrap();
    host.revoke_api_key(key.prefix).await.unwrap();
    let expiring = NewApiKey { expires_in: Some(std::time::Duration::ZERO), ..new() };
    let (_, expired) = host.create_api_key(expiring).await.unwrap();
    let unknown = ApiKeyText::mint(app.gateway.env(), Scope::default().mode);
    let mut altered = app.key(Role::Admin).to_owned();
    let last = if altered.ends_with('A') { 'B' } else { 'A' };
    altered.pop();
    altered.push(last);
    let before = app.storage.dump();
    for route in protected() {
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
    assert!(app.storage.dump() == before);
}

#[tokio::test(start_paused = true)]
async fn with_each_role() {
    let app = App::new().await;
    let ids = Ids::new(&app).await;
    let before = app.storage.dump();
    for route in protected() {
        let permission = route.permission().unwrap();
        for role in Role::ALL.into_iter().filter(|role| !role.may(permission)) {
            let reply = ask(&app, route, &ids, Some(app.key(role))).await;
            reply.problem(403, "Insufficient permissions");
        }
    }
    assert!(app.storage.dump() == before);
    for route in protected() {
        let permission = route.permission().unwrap();
        for role in Role::ALL.into_iter().filter(|role| role.may(permission)) {
            let reply = ask(&app, route, &ids, Some(app.key(role))).await;
            let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
            assert!(!refused.contains(&reply.status), "{role:?} {route:?} {reply:?}");
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
    let before = app.storage.dump();
    for route in protected().filter(|route| route.path().contains("{id}")) {
        for key in [&foreign, &live] {
            ask(&app, route, &ids, Some(key)).await.problem(404, "Not found");
        }
        let of_nobody = ask(&app, route, &Ids::none(), Some(&foreign)).await;
        of_nobody.problem(404, "Not found");
    }
    for list in ["/payments", "/refunds", "/webhook-endpoints", "/webhook-events"] {
        let reply = app.get(list).with("x-api-key", &foreign).await_reply().await;
        assert_eq!(reply.json()["data"].as_array().unwrap().len(), 0, "{list}");
    }
    assert!(app.storage.dump() == before);
}

#[tokio::test]
async fn bearer_tokens_open_too_and_actors_are_audited() {
    let app = App::new().await;
    let bearer = format!("Bearer {}", app.key(Role::Service));
    let ask = app.post("/payments", payment("")).without("x-api-key");
    let reply = ask.with("authorization", &bearer).with("x-request-id", "rq-1").await_reply().await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let merchant = Scope::default().merchant;
    let rows = app.gateway.storage().audit(&merchant, Default::default()).await.unwrap();
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
    let rows = app.gateway.storage().audit(&merchant, Default::default()).await.unwrap();
    assert!(rows.data.iter().any(|row| row.origin == Some(peer.ip())));
}

//! The router at the root, nested and merged, and what it leaves alone.

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::get;
use pgw_core::gateway::Gateway;
use pgw_http::Config;

use crate::harness::{App, payment};

#[derive(Clone)]
struct HostState;

fn host(
    gateway: &Gateway,
    mount: fn(Router<HostState>, Router<HostState>) -> Router<HostState>,
) -> Router {
    let own = Router::new()
        .route("/orders", get(|| async { "orders" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "the host's own 404") });
    mount(own, pgw_http::router(gateway.clone(), Config::default())).with_state(HostState)
}

#[tokio::test]
async fn nested_in_a_host_with_its_own_state_and_fallback() {
    let app = App::new().await;
    let host = host(&app.gateway, |own, api| own.nest("/tenants/{id}/api", api));
    let base = "/tenants/t7/api";
    let created = app.post(&format!("{base}/payments"), payment("")).of(host.clone()).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let location = created.header("location").unwrap();
    assert_eq!(location, format!("{base}/payments/{}", created.text("id")));
    let read = app.get(location).of(host.clone()).await;
    assert_eq!((read.status, read.text("id")), (StatusCode::OK, created.text("id")));

    let orders = app.get("/orders").of(host.clone()).await;
    assert_eq!((&orders.body[..], orders.header("x-request-id")), (&b"orders"[..], None));
    for unknown in ["/nothing", "/payments", &format!("{base}/nothing")] {
        let reply = app.get(unknown).of(host.clone()).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{unknown}");
        assert_eq!(&reply.body[..], b"the host's own 404", "{unknown}");
    }
    let reply = app.ask(Method::PUT, &format!("{base}/payments")).of(host).await;
    reply.problem(405, "Method not allowed");
}

#[tokio::test]
async fn merged_into_a_host() {
    let app = App::new().await;
    let host = host(&app.gateway, |own, api| own.merge(api));
    let created = app.post("/payments", payment("")).of(host.clone()).await;
    assert_eq!(created.header("location"), Some(&*format!("/payments/{}", created.text("id"))));
    assert_eq!(&app.get("/orders").of(host.clone()).await.body[..], b"orders");
    assert_eq!(&app.get("/nothing").of(host).await.body[..], b"the host's own 404");
}

#[tokio::test]
async fn other_methods_of_our_paths_are_ours_to_refuse() {
    let app = App::new().await;
    for (method, path, allow) in [
        (Method::PUT, "/payments", "POST,GET,HEAD"),
        (Method::DELETE, "/payments/x/capture", "POST"),
        (Method::POST, "/payments/x/refund", "PATCH"),
        (Method::OPTIONS, "/refunds", "GET,HEAD"),
    ] {
        let reply = app.ask(method.clone(), path).await_reply().await;
        reply.problem(405, "Method not allowed");
        let mut allowed: Vec<_> = reply.header("allow").unwrap().split(',').collect();
        let mut expected: Vec<_> = allow.split(',').collect();
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn request_ids_are_taken_when_well_formed_and_minted_otherwise() {
    let app = App::new().await;
    let id = "abc.DEF_1-2";
    let reply = app.get("/payments").with("x-request-id", id).await_reply().await;
    assert_eq!(reply.header("x-request-id"), Some(id));
    let long = "x".repeat(65);
    for bad in ["", "a b", "a/b", "\u{e9}", "4111111111111111", &long] {
        let reply = app.get("/payments/x").with("x-request-id", bad).await_reply().await;
        reply.problem(404, "Not found");
        let minted = reply.header("x-request-id").unwrap();
        assert!(minted.starts_with("req_") && minted.len() == 36, "{minted}");
    }
}

#[tokio::test]
async fn the_public_base_url_leads_locations_and_types() {
    let app = App::with(Config::default().with_public_base_url("https://pay.example/v1/")).await;
    let created = app.post("/payments", payment("")).await_reply().await;
    let expected = format!("https://pay.example/v1/payments/{}", created.text("id"));
    assert_eq!(created.header("location"), Some(&*expected));
    let missing = app.get("/payments/x").await_reply().await;
    assert_eq!(missing.text("type"), "https://pay.example/v1/problems/not-found");
}

#[tokio::test]
async fn types_of_problems_lead_to_their_meaning() {
    let app = App::with(Config::default().with_public_base_url("https://pay.example")).await;
    let missing = app.get("/payments/x").await_reply().await;
    let address = missing.text("type");
    let path = address.strip_prefix("https://pay.example").unwrap();
    let reply = app.get(path).without("x-api-key").await_reply().await;
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(reply.body.starts_with(b"Not found\n\n404. There is no such object"), "{reply:?}");
    app.get("/problems/none").await_reply().await.problem(404, "Not found");
    app.post(path, "{}").await_reply().await.problem(405, "Method not allowed");
    let closed = App::new().await;
    let closed = closed.get(path).await_reply().await;
    assert_eq!((closed.status, closed.header("x-request-id")), (StatusCode::NOT_FOUND, None));
}

//! Keys on every other request that makes or changes something: done once, answered as it was.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use pgw_core::access::Role;
use pgw_core::builder::ProcessorSettings;
use pgw_core::crypto::KeyRing;
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::Storage;
use pgw_core::timestamp::Timestamp;
use pgw_http::routes;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use serde_json::json;

use crate::happy::until_review;
use crate::harness::{App, Ask, Reply, new_key, payment, stranger};

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotent-replayed";

const NETWORK: &str = r#"{"network":"192.0.2.0/24"}"#;

/// A request, another one of the same route, and what is left when its answer is not kept any more.
struct Case {
    route: &'static str,
    path: String,
    body: String,
    other: String,
    then: Then,
}

/// What a replay is when the answer is not kept any more.
#[derive(PartialEq)]
enum Then {
    /// The same.
    Same,
    /// The object without its secret.
    Hushed,
    /// A refusal: there is no one object.
    Gone,
}

/// Every route that takes a key but those that start operations, which `idempotency.rs` is about.
async fn cases(app: &App) -> Vec<Case> {
    let endpoint = app.endpoint("https://hooks.example/in").await;
    let sent = app.post(&format!("/webhook-endpoints/{endpoint}/test"), "{}").await_reply().await;
    let delivery = sent.text("id");
    let unreviewed = app.post("/payments", payment("")).await_reply().await.text("id");
    let operation = until_review(app, unreviewed.parse().unwrap()).await;
    let settle = |reason| {
        json!({"operation": operation, "outcome": "succeeded", "reason": reason}).to_string()
    };
    let case = |route, path: &str, body: &str, other: &str, then| Case {
        route,
        path: path.to_owned(),
        body: body.to_owned(),
        other: other.to_owned(),
        then,
    };
    let of = |path: &str| path.replace("{id}", &endpoint);
    vec![
        case(
            "POST /payments/{id}/resolve",
            &format!("/payments/{unreviewed}/resolve"),
            &settle("seen on the statement"),
            &settle("told on the telephone"),
            Then::Same,
        ),
        case(
            "POST /webhook-endpoints",
            "/webhook-endpoints",
            r#"{"url":"https://hooks.example/a","headers":{"X-Tenant":"blue"}}"#,
            r#"{"url":"https://hooks.example/a","headers":{"X-Tenant":"red"}}"#,
            Then::Hushed,
        ),
        case(
            "PATCH /webhook-endpoints/{id}",
            &of("/webhook-endpoints/{id}"),
            r#"{"description":null,"timeout_ms":5000}"#,
            r#"{"timeout_ms":5000}"#,
            Then::Same,
        ),
        case(
            "POST /webhook-endpoints/{id}/rotate-secret",
            &of("/webhook-endpoints/{id}/rotate-secret"),
            r#"{"expires_in":60}"#,
            r#"{"expires_in":0}"#,
            Then::Hushed,
        ),
        case(
            "POST /webhook-endpoints/{id}/recover",
            &of("/webhook-endpoints/{id}/recover"),
            r#"{"since":"2026-01-01T00:00:00Z"}"#,
            r#"{"since":"2026-01-02T00:00:00Z"}"#,
            Then::Gone,
        ),
        case(
            "POST /webhook-events/retry",
            "/webhook-events/retry",
            r#"{"filter":{"status":"failed"}}"#,
            r#"{"filter":{"status":"failed"},"dry_run":true}"#,
            Then::Gone,
        ),
        case(
            "POST /api-keys",
            "/api-keys",
            r#"{"role":"service","name":"a"}"#,
            r#"{"role":"admin","name":"a"}"#,
            Then::Hushed,
        ),
        case(
            "POST /api-keys/revoke",
            "/api-keys/revoke",
            r#"{"role":"readonly","reason":"leaked"}"#,
            r#"{"role":"finance","reason":"leaked"}"#,
            Then::Gone,
        ),
        case(
            "POST /ip-denylist",
            "/ip-denylist",
            NETWORK,
            r#"{"network":"192.0.2.0/25"}"#,
            Then::Gone,
        ),
        case(
            "POST /customers/{customer}/consents",
            "/customers/cus_42/consents",
            r#"{"purpose":"newsletter","version":"1","source":"checkout"}"#,
            r#"{"purpose":"newsletter","version":"2","source":"checkout"}"#,
            Then::Same,
        ),
        // Two requests without a body are told apart by their paths alone.
        case(
            "POST /webhook-events/{id}/retry",
            &format!("/webhook-events/{delivery}/retry"),
            "{}",
            "",
            Then::Same,
        ),
        case(
            "POST /webhook-endpoints/{id}/test",
            &of("/webhook-endpoints/{id}/test"),
            "{}",
            "",
            Then::Same,
        ),
    ]
}

impl Case {
    fn ask<'a>(&self, app: &'a App, body: &str) -> Ask<'a> {
        let (method, _) = self.route.split_once(' ').unwrap();
        let ask = if method == "PATCH" {
            app.patch(&self.path, body.to_owned())
        } else {
            app.post(&self.path, body.to_owned())
        };
        self.keyed(ask)
    }

    /// Under a key of the case's own.
    fn keyed<'a>(&self, ask: Ask<'a>) -> Ask<'a> {
        ask.with(KEY, &self.route.replace(' ', ":"))
    }
}

fn assert_replay(case: &Case, first: &Reply, again: &Reply) {
    assert_eq!(again.header(REPLAYED), Some("true"), "{}: {again:?}", case.route);
    assert_eq!(again.status, first.status, "{}", case.route);
    assert_eq!(again.body, first.body, "{}", case.route);
    assert_eq!(again.header("location"), first.header("location"), "{}", case.route);
}

#[tokio::test]
async fn every_route_that_changes_something_does_it_once_a_key() {
    let app = App::new().await;
    let cases = cases(&app).await;
    let keyless = ["POST /processors/{name}/notifications"];
    let elsewhere = [
        "POST /payments",
        "POST /payments/{id}/confirm",
        "POST /payments/{id}/capture",
        "POST /payments/{id}/cancel",
        "PATCH /payments/{id}/refund",
        "POST /payments/{id}/refunds",
    ];
    for route in routes().iter().filter(|it| [Method::POST, Method::PATCH].contains(it.method())) {
        let name = format!("{} {}", route.method(), route.path());
        let here = cases.iter().filter(|case| case.route == name).count();
        let there = keyless.iter().chain(&elsewhere).filter(|other| **other == name).count();
        assert_eq!(here + there, 1, "{name}");
    }
    for case in &cases {
        let first = case.ask(&app, &case.body).await_reply().await;
        assert!(first.status.is_success(), "{}: {first:?}", case.route);
        assert_eq!(first.header(REPLAYED), None, "{}", case.route);
        let before = app.storage.dump();
        let again = case.ask(&app, &case.body).await_reply().await;
        assert_replay(case, &first, &again);
        if !case.other.is_empty() {
            let other = case.ask(&app, &case.other).await_reply().await;
            other.problem(422, "Idempotency key reused");
        }
        assert!(app.storage.dump() == before, "{}: a replay changed something", case.route);
        // What is not kept any more.
        while app.storage.purge_answers(Timestamp::MAX, 100).await.unwrap() > 0 {}
        let later = case.ask(&app, &case.body).await_reply().await;
        match case.then {
            Then::Gone => drop(later.problem(409, "Conflict")),
            Then::Same => assert_replay(case, &first, &later),
            Then::Hushed => {
                let mut told = first.json();
                let members = told.as_object_mut().unwrap();
                assert!(members.remove("secret").or(members.remove("key")).is_some());
                assert_eq!((later.status, later.json()), (first.status, told), "{}", case.route);
            }
        }
    }
    // A key is one for all routes.
    for case in &cases {
        let ask = app.post("/payments", payment(""));
        case.keyed(ask).await_reply().await.problem(422, "Idempotency key reused");
    }
    app.post("/payments", payment("")).with(KEY, "paid").await_reply().await;
    for case in &cases {
        let ask = case.ask(&app, &case.body).with(KEY, "paid");
        ask.await_reply().await.problem(422, "Idempotency key reused");
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_is_made_once_and_its_replay_says_where_it_stands() {
    let app = App::new().await;
    let worker = app.work();
    let id = app.pay("\"payment_method\":\"tok_requires_action\",").await;
    let path = format!("/payments/{id}/confirm");
    let ask = || app.post(&path, "{}").with(KEY, "confirmed");
    let first = ask().await_reply().await;
    assert_eq!((first.status, first.header(REPLAYED)), (StatusCode::OK, None), "{first:?}");
    assert_eq!(first.text("status"), "succeeded");
    let again = ask().await_reply().await;
    assert_eq!((again.status, again.header(REPLAYED)), (StatusCode::OK, Some("true")));
    assert_eq!(again.body, first.body);
    worker.shutdown().await;
    let reply = app.post("/payments", payment("")).with(KEY, "confirmed").await_reply().await;
    reply.problem(422, "Idempotency key reused");
    let listed = app.get("/payments?idempotency_key=confirmed").await_reply().await;
    assert_eq!(listed.json()["data"], json!([]), "it made no payment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_at_once_make_one_and_are_told_the_same() {
    let app = Arc::new(App::new().await);
    let endpoint = app.endpoint("https://hooks.example/in").await;
    let rotate = format!("/webhook-endpoints/{endpoint}/rotate-secret");
    let made = r#"{"role":"service","name":"a"}"#;
    for (path, body) in [("/api-keys", made), (&rotate, "{}"), ("/ip-denylist", NETWORK)] {
        let tasks = (0..50).map(|_| {
            let (app, path) = (Arc::clone(&app), path.to_owned());
            tokio::spawn(async move {
                app.post(&path, body).with(KEY, &path.replace('/', ":")).await_reply().await
            })
        });
        let replies: Vec<Reply> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        let first = replies.iter().filter(|reply| reply.header(REPLAYED).is_none()).count();
        assert_eq!(first, 1, "{path}");
        for reply in &replies {
            assert_eq!((reply.status, &reply.body), (replies[0].status, &replies[0].body));
        }
    }
    let shown = app.gateway.host().endpoint(endpoint.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(shown.generation, 2, "it was rotated once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_finds_it_settled_under_the_same_key_is_not_refused() {
    let app = Arc::new(App::new().await);
    for _ in 0..20 {
        let id = app.post("/payments", payment("")).await_reply().await.text("id");
        let operation = until_review(&app, id.parse().unwrap()).await;
        let body = json!({"operation": operation, "outcome": "succeeded", "reason": "seen"});
        let tasks = (0..8).map(|_| {
            let (app, id, body) = (Arc::clone(&app), id.clone(), body.to_string());
            tokio::spawn(async move {
                let path = format!("/payments/{id}/resolve");
                app.post(&path, body).with(KEY, &id).await_reply().await
            })
        });
        let replies = join_all(tasks).await.into_iter().map(Result::unwrap);
        let replies = replies.collect::<Vec<Reply>>();
        let first = replies.iter().filter(|reply| reply.header(REPLAYED).is_none()).count();
        assert_eq!(first, 1, "{replies:?}");
        assert!(replies.iter().all(|reply| reply.status == StatusCode::OK), "{replies:?}");
    }
}

#[tokio::test]
async fn a_failure_claims_no_key() {
    let app = App::new().await;
    let id = app.endpoint("https://hooks.example/in").await;
    let path = format!("/webhook-endpoints/{id}");
    app.patch(&path, r#"{"status":"disabled"}"#).await_reply().await;
    let test = || app.post(&format!("{path}/test"), "{}").with(KEY, "k");
    test().await_reply().await.problem(409, "Conflict");
    app.patch(&path, r#"{"status":"enabled"}"#).await_reply().await;
    let done = test().await_reply().await;
    assert_eq!((done.status, done.header(REPLAYED)), (StatusCode::ACCEPTED, None));
}

#[tokio::test]
async fn a_secret_is_kept_in_an_envelope_and_told_to_its_merchant_alone() {
    let app = App::new().await;
    let ask = || app.post("/api-keys", r#"{"role":"service","name":"a"}"#).with(KEY, "k");
    let made = ask().await_reply().await;
    let secret = made.text("key");
    assert_eq!(ask().await_reply().await.text("key"), secret);
    assert!(!format!("{:?}", app.storage.dump()).contains(&secret), "it is kept in the open");
    let scope = Scope::default();
    let record =
        app.storage.key(&scope, &IdempotencyKey::parse("k").unwrap()).await.unwrap().unwrap();
    let kept = record.claim.answer.unwrap();
    assert!(!String::from_utf8_lossy(&kept.body).contains(&secret), "it is kept in the open");
    // Another merchant's key of the same name is another key.
    let theirs = new_key(&app.gateway, stranger(), Role::Admin).await;
    let other = ask().with("x-api-key", &theirs).await_reply().await;
    assert_eq!((other.status, other.header(REPLAYED)), (StatusCode::CREATED, None));
    assert_ne!(other.text("key"), secret);
}

async fn endpoint_under_a_key(app: &App) -> Reply {
    let ask = app.post("/webhook-endpoints", r#"{"url":"https://hooks.example/in"}"#);
    ask.with(KEY, "k").await_reply().await
}

#[tokio::test]
async fn an_envelope_that_cannot_be_opened_any_more_is_answered_without_its_secret() {
    let app = App::new().await;
    let made = endpoint_under_a_key(&app).await;
    // The same storage under another key ring.
    let gateway = Gateway::builder()
        .with_processor(Mode::Test, Arc::new(app.sandbox.clone()), ProcessorSettings::default())
        .with_storage(Arc::new(app.storage.clone()))
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .with_transport(Arc::clone(&app.receiver) as _, KeyRing::ephemeral(&Env::system()))
        .build()
        .unwrap();
    let (storage, sandbox): (MemoryStorage, _) = (app.storage.clone(), app.sandbox.clone());
    let receiver = Arc::clone(&app.receiver);
    let other = App::of(gateway, storage, sandbox, receiver, pgw_http::Config::default()).await;
    let again = endpoint_under_a_key(&other).await;
    assert_eq!((again.status, again.header(REPLAYED)), (StatusCode::CREATED, Some("true")));
    let mut told = made.json();
    assert!(told.as_object_mut().unwrap().remove("secret").is_some());
    assert_eq!(again.json(), told);
}

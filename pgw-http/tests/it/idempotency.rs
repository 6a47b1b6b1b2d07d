//! Keys, replays and what does not consume a key.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use pgw_core::notifier::{Hint, Notifier, NotifierError, Subscription};
use pgw_http::Config;

use crate::harness::{App, payment};

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotent-replayed";

#[tokio::test(start_paused = true)]
async fn a_creation_is_replayed_byte_for_byte() {
    let app = App::new().await;
    let first = app.post("/payments", payment("")).with(KEY, "\"k-1\"").await_reply().await;
    assert_eq!((first.status, first.header(REPLAYED)), (StatusCode::CREATED, None));
    let worker = app.work();
    let path = first.header("location").unwrap();
    let id = first.text("id").parse().unwrap();
    app.gateway.host().wait_for(id, None, Duration::from_secs(30)).await.unwrap();
    worker.shutdown().await;
    assert_eq!(app.get(path).await_reply().await.text("status"), "succeeded");
    // The same request in another spelling, after the payment has moved on.
    let body = payment("").replace("49.99", "\"49.990\"");
    let again = app.post("/payments", body).with(KEY, "k-1").await_reply().await;
    assert_eq!((again.status, again.header(REPLAYED)), (StatusCode::CREATED, Some("true")));
    assert_eq!(
        (again.body, again.headers.get("location")),
        (first.body.clone(), first.headers.get("location"))
    );
    // Who wants to wait wants to know what is.
    let ask = app.post("/payments", payment("")).with(KEY, "k-1").with("prefer", "wait=1");
    let now = ask.await_reply().await;
    assert_eq!((now.status, now.text("status")), (StatusCode::CREATED, "succeeded".to_owned()));
    assert_eq!((now.header(REPLAYED), now.text("id")), (Some("true"), first.text("id")));
}

#[tokio::test(start_paused = true)]
async fn a_refund_is_made_once_and_replayed_byte_for_byte() {
    let app = App::new().await;
    let worker = app.work();
    let id = app.pay("").await;
    let path = format!("/payments/{id}/refund");
    let ask = || app.patch(&path, "{\"amount\":5}").with(KEY, "r-1");
    let first = ask().await_reply().await;
    assert_eq!((first.status, first.header(REPLAYED)), (StatusCode::OK, None));
    assert_eq!(first.text("status"), "succeeded");
    for _ in 0..2 {
        let again = ask().await_reply().await;
        assert_eq!((again.status, again.header(REPLAYED)), (StatusCode::OK, Some("true")));
        assert_eq!(again.body, first.body);
    }
    worker.shutdown().await;
    let payment = app.get(&format!("/payments/{id}")).await_reply().await;
    assert_eq!(payment.json()["refunded_minor"], 500);
}

#[tokio::test(start_paused = true)]
async fn until_it_settles_a_replay_says_where_it_stands() {
    let app = App::new().await;
    let id = {
        let worker = app.work();
        let id = app.pay("\"capture\":\"manual\",").await;
        worker.shutdown().await;
        id
    };
    let ask = || {
        let ask = app.post(&format!("/payments/{id}/capture"), "{}").with(KEY, "c-1");
        ask.with("prefer", "wait=0")
    };
    let first = ask().await_reply().await;
    let again = ask().await_reply().await;
    assert_eq!((first.status, first.header(REPLAYED)), (StatusCode::ACCEPTED, None));
    assert_eq!((again.status, again.header(REPLAYED)), (StatusCode::ACCEPTED, Some("true")));
    assert_eq!(first.json()["operation"]["id"], again.json()["operation"]["id"]);
}

#[tokio::test]
async fn a_key_stands_for_one_request() {
    let app = App::new().await;
    app.post("/payments", payment("")).with(KEY, "k").await_reply().await;
    let before = app.storage.dump();
    let other = payment("").replace("49.99", "50");
    let reply = app.post("/payments", other).with(KEY, "k").await_reply().await;
    reply.problem(422, "Idempotency key reused");
    assert!(app.storage.dump() == before);
}

#[tokio::test]
async fn refused_requests_do_not_consume_the_key() {
    let app = App::new().await;
    let invalid = app.post("/payments", payment("\"zzz\":1,")).with(KEY, "k").await_reply().await;
    invalid.problem(400, "Validation failed");
    let role = app.post("/payments", payment("")).with(KEY, "k").with("x-api-key", "none");
    role.await_reply().await.problem(403, "Invalid API key");
    let reply = app.post("/payments", payment("")).with(KEY, "k").await_reply().await;
    assert_eq!((reply.status, reply.header(REPLAYED)), (StatusCode::CREATED, None));
}

#[tokio::test]
async fn keys_that_are_none() {
    let app = App::new().await;
    let before = app.storage.dump();
    let long = "k".repeat(256);
    for (bad, code) in [
        ("", "invalid_key"),
        ("a b", "invalid_key"),
        ("\"a", "invalid_key"),
        ("\u{e9}", "invalid_key"),
        (&long, "invalid_key"),
        ("4111-1111-1111-1111", "card_number"),
    ] {
        for path in ["/payments", "/payments/x/refunds", "/webhook-endpoints"] {
            let reply = app.post(path, payment("")).with(KEY, bad).await_reply().await;
            let errors = reply.problem(400, "Validation failed");
            let expected = ("Idempotency-Key", "header", code);
            let [(path, location, code)] = &errors[..] else { panic!("{errors:?}") };
            assert_eq!((&**path, &**location, &**code), expected, "{bad:?}");
        }
    }
    let twice =
        app.post("/payments", payment("")).with(KEY, "a").also(KEY, "a").await_reply().await;
    assert_eq!(twice.problem(400, "Validation failed")[0].2, "duplicate");
    assert!(app.storage.dump() == before);
}

/// Hears and says nothing.
#[derive(Debug)]
struct Deaf;

#[async_trait::async_trait]
impl Notifier for Deaf {
    async fn publish(&self, _hints: &[Hint]) -> Result<(), NotifierError> {
        Err(NotifierError::Unavailable(Arc::new(std::io::Error::other("gone"))))
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        Err(NotifierError::Unavailable(Arc::new(std::io::Error::other("gone"))))
    }
}

#[tokio::test]
async fn what_is_done_is_not_answered_with_an_error_because_waiting_fails() {
    let app = App::build(Config::default(), Arc::new(Deaf)).await;
    let ask = app.post("/payments", payment("")).with("prefer", "wait=5");
    let reply = ask.await_reply().await;
    assert_eq!((reply.status, reply.text("status")), (StatusCode::CREATED, "pending".to_owned()));
    let path = format!("/payments/{}/cancel", reply.text("id"));
    let reply = app.post(&path, "{}").with(KEY, "c").await_reply().await;
    assert_eq!((reply.status, reply.text("status")), (StatusCode::OK, "canceled".to_owned()));
}

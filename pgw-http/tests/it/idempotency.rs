//! Keys, replays and what does not consume a key. The tests `t1` to `t9` are the checks of the draft's and the field's rules, in
//! their order; what a crash and time do to a key is in `idempotency_over_time.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::join_all;
use pgw_core::access::Role;
use pgw_core::notifier::{Hint, Notifier, NotifierError, Subscription};
use pgw_core::scope::{Mode, Scope};
use pgw_http::Config;

use crate::harness::{App, Reply, new_key, payment, stranger};

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotent-replayed";

#[tokio::test(start_paused = true)]
async fn t4_a_creation_is_replayed_byte_for_byte() {
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
async fn t4_a_refund_is_made_once_and_replayed_byte_for_byte() {
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
async fn t2_a_key_stands_for_one_request() {
    let app = App::new().await;
    app.post("/payments", payment("")).with(KEY, "k").await_reply().await;
    let before = app.storage.dump();
    let other = payment("").replace("49.99", "50");
    let reply = app.post("/payments", other).with(KEY, "k").await_reply().await;
    reply.problem(422, "Idempotency key reused");
    assert!(app.storage.dump() == before);
}

#[tokio::test]
async fn t8_refused_requests_do_not_consume_the_key() {
    let app = App::new().await;
    let invalid = app.post("/payments", payment("\"zzz\":1,")).with(KEY, "k").await_reply().await;
    invalid.problem(400, "Validation failed");
    let role = app.post("/payments", payment("")).with(KEY, "k").with("x-api-key", "none");
    role.await_reply().await.problem(403, "Invalid API key");
    let reply = app.post("/payments", payment("")).with(KEY, "k").await_reply().await;
    assert_eq!((reply.status, reply.header(REPLAYED)), (StatusCode::CREATED, None));
}

#[tokio::test]
async fn t1_a_key_that_is_none_is_refused() {
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

#[tokio::test]
async fn t1_the_header_is_optional() {
    let app = App::new().await;
    for payments in 1..=2 {
        let reply = app.post("/payments", payment("")).await_reply().await;
        assert_eq!((reply.status, reply.header(REPLAYED)), (StatusCode::CREATED, None));
        let listed = app.get("/payments").await_reply().await;
        assert_eq!(listed.json()["data"].as_array().unwrap().len(), payments);
    }
}

/// One of many did it, and the others are told to come again or get its answer.
fn assert_one_effect(replies: &[Reply], done: &[StatusCode]) {
    let mut bodies = BTreeMap::new();
    let mut first = 0;
    for reply in replies {
        if reply.status == StatusCode::CONFLICT {
            reply.problem(409, "In progress");
            assert_eq!(reply.header("retry-after"), Some("1"));
            continue;
        }
        assert!(done.contains(&reply.status), "{reply:?}");
        first += usize::from(reply.header(REPLAYED).is_none());
        bodies.insert((reply.status, &reply.body), ());
    }
    assert_eq!(first, 1, "it was done by one");
    assert!(bodies.keys().filter(|(status, _)| *status == done[0]).count() <= 1, "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t3_a_hundred_at_once_have_one_effect() {
    let app = Arc::new(App::new().await);
    let worker = app.work();
    let of_all = |path: String, body: String, key: &'static str| {
        let app = Arc::clone(&app);
        async move {
            let tasks = (0..100).map(|_| {
                let (app, path, body) = (Arc::clone(&app), path.clone(), body.clone());
                tokio::spawn(
                    async move { app.post(&path, body).with(KEY, key).await_reply().await },
                )
            });
            join_all(tasks).await.into_iter().map(Result::unwrap).collect::<Vec<_>>()
        }
    };
    let replies = of_all("/payments".to_owned(), payment("\"capture\":\"manual\","), "k-1").await;
    assert_one_effect(&replies, &[StatusCode::CREATED]);
    let created = replies.iter().find(|reply| reply.status == StatusCode::CREATED).unwrap();
    let id = created.text("id");
    let listed = app.get("/payments").await_reply().await;
    assert_eq!(listed.json()["data"].as_array().unwrap().len(), 1);
    let held = id.parse().unwrap();
    app.gateway.host().wait_for(held, None, Duration::from_secs(30)).await.unwrap();

    let moves = [StatusCode::OK, StatusCode::ACCEPTED];
    let path = format!("/payments/{id}/capture");
    assert_one_effect(&of_all(path, "{\"amount\":40}".to_owned(), "k-2").await, &moves);
    let path = format!("/payments/{id}/refunds");
    assert_one_effect(&of_all(path, "{\"amount\":5}".to_owned(), "k-3").await, &moves);
    worker.shutdown().await;
    let moved = (app.sandbox.captured_minor(held), app.sandbox.refunded_minor(held));
    assert_eq!((app.sandbox.authorized_minor(held), moved), (4_999, (4_000, 500)));
    assert_eq!(app.sandbox.ledger().len(), 3, "nothing was sent twice");
}

#[tokio::test]
async fn t5_bare_and_quoted_are_one_key_of_up_to_255_characters() {
    let app = App::new().await;
    let long = "k".repeat(255);
    let every: String = (0x21..=0x7e_u8).map(char::from).filter(|c| !"\"\\".contains(*c)).collect();
    for key in ["k", "8e03978e-40d5-43e8-bc93-6894a57f9324", &long, &every] {
        let body = payment("");
        let bare = app.post("/payments", body.clone()).with(KEY, key).await_reply().await;
        let quoted = format!("\"{key}\"");
        let again = app.post("/payments", body).with(KEY, &quoted).await_reply().await;
        assert_eq!((bare.status, bare.header(REPLAYED)), (StatusCode::CREATED, None), "{key}");
        assert_eq!((again.status, again.header(REPLAYED)), (StatusCode::CREATED, Some("true")));
        assert_eq!(bare.body, again.body);
    }
}

#[tokio::test]
async fn t6_the_key_of_one_merchant_or_mode_says_nothing_to_another() {
    let app = App::new().await;
    let mine = app.post("/payments", payment("")).with(KEY, "shared").await_reply().await;
    let live = Scope::new(Scope::default().merchant, Mode::Live);
    for scope in [stranger(), live.clone()] {
        let key = new_key(&app.gateway, scope, Role::Admin).await;
        let listed = app.get("/payments?idempotency_key=shared").with("x-api-key", &key);
        assert_eq!(listed.await_reply().await.json()["data"].as_array().unwrap().len(), 0);
    }
    let key = new_key(&app.gateway, stranger(), Role::Admin).await;
    for body in [payment(""), payment("").replace("49.99", "1")] {
        let ask = app.post("/payments", body.clone()).with(KEY, "shared").with("x-api-key", &key);
        let theirs = ask.await_reply().await;
        if body == payment("") {
            assert_eq!((theirs.status, theirs.header(REPLAYED)), (StatusCode::CREATED, None));
            assert_ne!(theirs.text("id"), mine.text("id"));
            assert_eq!(theirs.text("merchant_id"), "stranger");
        } else {
            theirs.problem(422, "Idempotency key reused");
        }
    }
    let again = app.post("/payments", payment("")).with(KEY, "shared").await_reply().await;
    assert_eq!((again.header(REPLAYED), &again.body), (Some("true"), &mine.body));
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

//! Callers that go away: in the middle of their body, or while their request is being worked on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use futures_util::StreamExt as _;
use pgw_core::access::Role;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use crate::harness::{App, payment};

fn request(app: &App, key: &str) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri("/payments")
        .header("x-api-key", app.key(Role::Admin))
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(Body::from(payment("")))
        .unwrap()
}

#[tokio::test]
async fn a_request_dropped_at_any_await_is_done_whole_or_not_at_all() {
    let app = App::new().await;
    for polls in 0..40 {
        let key = format!("dropped-{polls}");
        let before = app.storage.dump();
        {
            let mut answer = pin!(app.router.clone().oneshot(request(&app, &key)));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..polls {
                if answer.as_mut().poll(&mut context).is_ready() {
                    break;
                }
            }
        }
        let listed = app.get(&format!("/payments?idempotency_key={key}")).await_reply().await;
        let found = listed.json()["data"].as_array().unwrap().len();
        assert!(found <= 1);
        assert_eq!(found == 0, app.storage.dump() == before, "half a change after {polls} polls");
        // The caller comes back with the same key: there is one payment, whichever call made it.
        let again = app.router.clone().oneshot(request(&app, &key)).await.unwrap();
        assert_eq!(again.status(), StatusCode::CREATED);
        assert_eq!(again.headers().contains_key("idempotent-replayed"), found == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let app = App::new().await;
    let half = futures_util::stream::once(async { Ok::<_, Infallible>("{\"amount\":".to_owned()) });
    let dripping = Body::from_stream(half.chain(futures_util::stream::pending()));
    // Whoever a processor is, it is not known before its body is.
    let notification = Request::post("/processors/sandbox/notifications").body(dripping).unwrap();
    let answer = app.router.clone().oneshot(notification);
    let answer =
        tokio::time::timeout(Duration::from_secs(11), answer).await.expect("it is refused");
    let answer = answer.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let body = axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap();
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains("\"code\":\"incomplete\""), "{body}");
}

#[tokio::test]
async fn a_connection_that_breaks_inside_the_body_changes_nothing() {
    let app = App::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let router = app.router.clone();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let before = app.storage.dump();
    let body = payment("");
    let head = format!(
        "POST /payments HTTP/1.1\r\nhost: a\r\nx-api-key: {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        app.key(Role::Admin),
        body.len()
    );
    for sent in [0, 1, body.len() / 2, body.len() - 1] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body.as_bytes()[..sent]).await.unwrap();
        stream.shutdown().await.unwrap();
        // The server has seen the end once it closes its side; whatever it answers is no success.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(app.storage.dump(), before);
    server.abort();
}

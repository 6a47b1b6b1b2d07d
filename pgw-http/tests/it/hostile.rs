//! `HttpTransport` against every hostile receiver of `pgw_http::testing`, and the receivers themselves.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use pgw_core::webhook::{
    Attempt, TransportError, TransportErrorKind, WebhookResponse, WebhookTransport as _,
};
use pgw_http::testing::{Behaviour, Connection, HostileReceiver, Outcome, SlowResolver};
use pgw_http::transport::HttpTransport;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::transport::{builder, open, request};

/// The deadline of a request that only its deadline ends.
const SHORT: Duration = Duration::from_millis(300);
/// Only a future that never ends reaches it.
const GUARD: Duration = Duration::from_secs(30);
/// Requests sent to each receiver: the second would go out on the connection of the first, were that kept.
const SENDS: u64 = 2;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

type Sent = Result<WebhookResponse, TransportError>;

async fn start(behaviour: Behaviour) -> HostileReceiver {
    HostileReceiver::start(behaviour).await.unwrap()
}

/// A transport that trusts a receiver's authority, if it has one.
fn trusting(receiver: &HostileReceiver) -> HttpTransport {
    let builder = builder(open());
    match receiver.root_certificate() {
        Some(root) => builder.with_root_certificate(root).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

async fn send(transport: &HttpTransport, receiver: &HostileReceiver) -> Sent {
    let mut request = request(receiver.url().url().as_str());
    if receiver.behaviour().hangs() {
        request.timeout = SHORT;
    }
    transport.send(&request).await
}

/// One request to a receiver of this behaviour, from a transport of its own.
async fn answer(behaviour: Behaviour) -> WebhookResponse {
    let receiver = start(behaviour).await;
    send(&trusting(&receiver), &receiver).await.unwrap()
}

/// All that holds of every behaviour.
async fn holds(behaviour: Behaviour) {
    let receiver = start(behaviour).await;
    let control = start(Behaviour::WellBehaved).await;
    let transport = trusting(&receiver);
    for _ in 0..SENDS {
        let sent = send(&transport, &receiver).await;
        behaviour.check(&sent).unwrap_or_else(|e| panic!("{behaviour:?}: {e}: {sent:?}"));
        let delivered = send(&transport, &control).await;
        Behaviour::WellBehaved.check(&delivered).unwrap();
    }
    if behaviour.connection() == Connection::Spent {
        // The transport is still there, and its pool has room: it chose to close the connections.
        receiver.hung_up().await;
        assert!(receiver.requests() <= receiver.connections(), "used again: {receiver:?}");
    }
    drop(transport);
    receiver.hung_up().await;
    // More requests than were sent: a redirect was followed, or a request repeated.
    assert!(receiver.requests() <= SENDS, "{receiver:?}");
    assert!(receiver.connections() <= SENDS, "{receiver:?}");
    if let Some(max) = behaviour.written_max() {
        assert!(receiver.written() <= SENDS * max, "{receiver:?}");
    }
}

#[tokio::test]
async fn every_behaviour_has_its_outcome() {
    for &behaviour in Behaviour::ALL {
        let ended = tokio::time::timeout(GUARD, holds(behaviour)).await;
        assert!(ended.is_ok(), "{behaviour:?} does not end");
    }
}

#[tokio::test]
async fn the_start_of_an_endless_body_is_kept() {
    let start = answer(Behaviour::EndlessBody).await.body_start;
    assert_eq!(start, vec![b'x'; Attempt::BODY_START_MAX]);
}

#[tokio::test]
async fn absurd_times_to_wait_are_bounded_or_ignored() {
    for (behaviour, expected) in [
        (Behaviour::RetryAfterHuge, Some(HttpTransport::RETRY_AFTER_MAX)),
        (Behaviour::RetryAfterYear9999, Some(HttpTransport::RETRY_AFTER_MAX)),
        (Behaviour::RetryAfterNegative, None),
        (Behaviour::RetryAfterGarbage, None),
    ] {
        assert_eq!(answer(behaviour).await.retry_after, expected, "{behaviour:?}");
    }
}

#[tokio::test]
async fn well_formed_answers_share_a_connection() {
    for &behaviour in Behaviour::ALL.iter().filter(|b| b.connection() == Connection::Reusable) {
        let receiver = start(behaviour).await;
        let transport = trusting(&receiver);
        for _ in 0..SENDS {
            behaviour.check(&send(&transport, &receiver).await).unwrap();
        }
        assert_eq!((receiver.connections(), receiver.requests()), (1, SENDS), "{behaviour:?}");
    }
}

#[tokio::test]
async fn the_name_is_what_the_certificate_is_checked_for() {
    let receiver = start(Behaviour::WellBehavedTls).await;
    let transport = builder(open())
        .with_root_certificate(receiver.root_certificate().unwrap())
        .with_resolver(Arc::new(SlowResolver::late(Duration::ZERO, LOOPBACK)))
        .build()
        .unwrap();
    let port = receiver.address().port();
    let right = request(&format!("https://{}:{port}/", HostileReceiver::NAME));
    assert_eq!(transport.send(&right).await.unwrap().status, 200);
    let wrong = request(&format!("https://other.test:{port}/"));
    assert_eq!(transport.send(&wrong).await.unwrap_err().kind, TransportErrorKind::Tls);
}

#[tokio::test]
async fn the_deadline_spans_the_look_up() {
    for resolver in [SlowResolver::silent(), SlowResolver::late(GUARD, LOOPBACK)] {
        let receiver = start(Behaviour::WellBehaved).await;
        let transport = builder(open()).with_resolver(Arc::new(resolver)).build().unwrap();
        let port = receiver.address().port();
        let mut request = request(&format!("http://{}:{port}/", HostileReceiver::NAME));
        request.timeout = SHORT;
        let sending = tokio::time::timeout(GUARD, transport.send(&request));
        let error = sending.await.expect("it does not end").unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Timeout);
        assert!(error.source.is_some());
        assert_eq!(receiver.connections(), 0);
    }
}

#[tokio::test]
async fn a_receiver_ends_when_it_is_dropped() {
    let receiver = start(Behaviour::HangAfterAccept).await;
    let address = receiver.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    drop(receiver);
    // Closed or reset, it is over.
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_is_too_long_a_request_is_not_read() {
    use tokio::io::AsyncWriteExt as _;

    let receiver = start(Behaviour::WellBehaved).await;
    let mut stream = TcpStream::connect(receiver.address()).await.unwrap();
    let endless = vec![b'x'; 64 * 1024];
    while stream.write_all(&endless).await.is_ok() {}
    receiver.hung_up().await;
    assert_eq!((receiver.connections(), receiver.requests(), receiver.written()), (1, 0, 0));
}

#[test]
fn the_table_says_what_the_code_says() {
    let table = include_str!("../../src/testing/mod.rs");
    for behaviour in Behaviour::ALL {
        let outcome = match behaviour.outcome() {
            Outcome::Answered(status) => status.to_string(),
            Outcome::Failed(kinds) => {
                kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ")
            }
        };
        let again = if behaviour.connection() == Connection::Reusable { "yes" } else { "no" };
        let row = format!("//! | [`{behaviour:?}`](Behaviour::{behaviour:?}) | ");
        let line = table.lines().find(|line| line.starts_with(&row)).unwrap_or_default();
        let cells: Vec<_> = line.split(" | ").collect();
        assert!(cells.len() == 5 && cells[3].starts_with(&outcome), "{behaviour:?}: {line}");
        assert_eq!(cells[4], format!("{again} |"), "{behaviour:?}");
    }
}

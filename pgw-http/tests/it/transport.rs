//! `HttpTransport` against listeners on the loopback interface that mean no harm, or only a little.
//! Those that do are in `hostile.rs`, TLS included.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use pgw_core::env::{Clock, Env, SystemEntropy};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
use pgw_core::webhook::{
    EndpointUrl, TransportError, TransportErrorKind, WebhookRequest, WebhookResponse,
    WebhookTransport as _,
};
use pgw_http::transport::{HttpTransport, HttpTransportBuilder, Resolver};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Answers each look-up with the next of its answers, and with the last one for ever.
#[derive(Debug)]
struct Scripted(Mutex<Vec<Result<Vec<IpAddr>, io::ErrorKind>>>);

impl Scripted {
    fn new(answers: impl IntoIterator<Item = Result<Vec<IpAddr>, io::ErrorKind>>) -> Arc<Self> {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        Arc::new(Self(Mutex::new(answers)))
    }

    fn always(octets: [u8; 4]) -> Arc<Self> {
        Self::new([Ok(vec![IpAddr::from(octets)])])
    }
}

#[async_trait::async_trait]
impl Resolver for Scripted {
    async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        let mut answers = self.0.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop().unwrap() } else { answers[0].clone() };
        next.map_err(Into::into)
    }
}

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        "2026-01-16T12:00:00Z".parse().unwrap()
    }
}

fn strict() -> EgressPolicy {
    EgressPolicy::default().with_http(HttpScheme::Allowed)
}

pub(super) fn open() -> EgressPolicy {
    strict().with_allowed("127.0.0.1/32".parse().unwrap())
}

pub(super) fn builder(policy: EgressPolicy) -> HttpTransportBuilder {
    HttpTransport::builder(Env::new(Arc::new(Stopped), Arc::new(SystemEntropy)), policy)
}

pub(super) fn request(url: &str) -> WebhookRequest {
    WebhookRequest {
        url: EndpointUrl::parse(url).unwrap(),
        headers: vec![
            (Cow::Borrowed("content-type"), "application/json".to_owned()),
            (Cow::Borrowed("webhook-id"), "evt_1".to_owned()),
        ],
        body: "{\"a\":1}".into(),
        timeout: Duration::from_secs(20),
    }
}

async fn send(policy: EgressPolicy, url: &str) -> Result<WebhookResponse, TransportError> {
    builder(policy).build().unwrap().send(&request(url)).await
}

async fn kind(policy: EgressPolicy, url: &str) -> TransportErrorKind {
    send(policy, url).await.unwrap_err().kind
}

/// Reads one request, headers and body of seven bytes.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        seen.push(byte[0]);
        if let Some(head) = seen.strip_suffix(b"{\"a\":1}") {
            return String::from_utf8(head.to_vec()).unwrap();
        }
    }
}

/// Serves one connection with this.
async fn serving<F>(serve: impl FnOnce(tokio::net::TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    address
}

/// Reads one request and answers it with these bytes, then closes.
async fn answering(reply: impl Into<Vec<u8>>) -> SocketAddr {
    let reply = reply.into();
    serving(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(&reply).await.unwrap();
    })
    .await
}

/// A listener that nobody may reach.
struct Forbidden(std::net::TcpListener);

impl Forbidden {
    fn bind() -> Self {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    fn assert_unreached(&self) {
        let error = self.0.accept().expect_err("somebody connected");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn sends_exactly_what_it_is_given() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let address = serving(|mut stream| async move {
        tell.send(read_request(&mut stream).await).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let answer = send(open(), &format!("http://{address}/in?x=1")).await.unwrap();
    assert_eq!(
        (answer.status, &answer.body_start[..], answer.retry_after),
        (200, &b"ok"[..], None)
    );
    let head = told.await.unwrap();
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /in?x=1 HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "accept: */*",
            "content-length: 7",
            "content-type: application/json",
            &format!("host: {address}"),
            "webhook-id: evt_1",
        ]
    );
}

#[tokio::test]
async fn answers_are_taken_as_they_are() {
    let gzip =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00";
    let answer = send(open(), &format!("http://{}/", answering(gzip).await)).await.unwrap();
    assert_eq!(&answer.body_start[..], b"\x1f\x8b\x08\x00");
    for status in [204, 400, 410, 429, 500, 503] {
        let reply = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        let answer = send(open(), &format!("http://{}/", answering(reply).await)).await.unwrap();
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let trap = Forbidden::bind();
    let reply = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{}/\r\ncontent-length: 0\r\n\r\n",
        trap.port()
    );
    let answer = send(open(), &format!("http://{}/", answering(reply).await)).await.unwrap();
    assert_eq!(answer.status, 302);
    trap.assert_unreached();
}

#[tokio::test]
async fn retry_after_in_seconds_and_as_a_date() {
    for (value, expected) in [
        ("120", Some(120)),
        ("0", Some(0)),
        ("99999999999999999999", Some(86_400)),
        ("Fri, 16 Jan 2026 12:01:30 GMT", Some(90)),
        ("Fri, 16 Jan 2026 11:00:00 GMT", Some(0)),
        ("Sat, 16 Jan 2027 12:00:00 GMT", Some(86_400)),
        ("-1", None),
        ("soon", None),
        ("", None),
    ] {
        let reply = format!("HTTP/1.1 503 X\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n");
        let answer = send(open(), &format!("http://{}/", answering(reply).await)).await.unwrap();
        assert_eq!(answer.retry_after, expected.map(Duration::from_secs), "{value}");
    }
}

#[tokio::test]
async fn broken_connections_and_nonsense() {
    for (reply, expected) in [
        ("", TransportErrorKind::Reset),
        ("HTTP/1.1 200 OK\r\n", TransportErrorKind::Reset),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", TransportErrorKind::Reset),
        ("SSH-2.0-OpenSSH_9.7\r\n\r\n", TransportErrorKind::Protocol),
        ("HTTP/1.1 9 X\r\n\r\n", TransportErrorKind::Protocol),
    ] {
        let address = answering(reply).await;
        assert_eq!(kind(open(), &format!("http://{address}/")).await, expected, "{reply:?}");
    }
}

#[tokio::test]
async fn denied_addresses_get_no_connection() {
    let trap = Forbidden::bind();
    let port = trap.port();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "localhost",
    ] {
        let url = format!("http://{host}:{port}/");
        assert_eq!(kind(strict(), &url).await, TransportErrorKind::Denied, "{host}");
    }
    let transport =
        builder(strict()).with_resolver(Scripted::always([127, 0, 0, 1])).build().unwrap();
    for scheme in ["http", "https"] {
        let request = request(&format!("{scheme}://rebind.example:{port}/"));
        assert!(transport.check(&request.url).is_ok());
        let error = transport.send(&request).await.unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Denied, "{scheme}");
    }
    trap.assert_unreached();
}

#[tokio::test]
async fn every_dial_is_checked_again() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let first = [Ok(vec![IpAddr::from([127, 0, 0, 1])]), Ok(vec![IpAddr::from([127, 0, 0, 2])])];
    let transport = builder(open()).with_resolver(Scripted::new(first)).build().unwrap();
    let request = request(&format!("http://rebind.example:{port}/"));
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        let reply = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(reply).await.unwrap();
    };
    let (answer, ()) = tokio::join!(transport.send(&request), server);
    assert_eq!(answer.unwrap().status, 200);
    let error = transport.send(&request).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Denied);
    // In blocking-free mode a connection in the backlog would be accepted at once.
    let listener = listener.into_std().unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn denied_addresses_of_a_name_are_left_out() {
    let address = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let both = vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([127, 0, 0, 1])];
    let transport = builder(open()).with_resolver(Scripted::new([Ok(both)])).build().unwrap();
    let request = request(&format!("http://both.example:{}/", address.port()));
    assert_eq!(transport.send(&request).await.unwrap().status, 200);
}

#[tokio::test]
async fn names_that_do_not_resolve() {
    for answer in [Err(io::ErrorKind::NotFound), Ok(Vec::new())] {
        let transport = builder(open()).with_resolver(Scripted::new([answer])).build().unwrap();
        let error =
            transport.send(&request("http://nowhere.example/token-7777")).await.unwrap_err();
        assert_eq!(error.kind, TransportErrorKind::Dns);
        assert!(!format!("{error:?}").contains("7777"), "the address shows: {error:?}");
    }
}

#[tokio::test]
async fn refused_connections() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(kind(open(), &format!("http://{free}/")).await, TransportErrorKind::Connect);
}

#[tokio::test]
async fn connections_are_used_again() {
    let address = serving(|mut stream| async move {
        for _ in 0..2 {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let transport = builder(open()).build().unwrap();
    let request = request(&format!("http://{address}/"));
    // Nobody accepts a second connection: it would be refused.
    assert_eq!(transport.send(&request).await.unwrap().status, 200);
    assert_eq!(transport.clone().send(&request).await.unwrap().status, 200);
}

#[tokio::test]
async fn headers_that_cannot_be_sent() {
    let transport = builder(open()).build().unwrap();
    let mut request = request("http://127.0.0.1:8080/");
    request.headers.push((Cow::Borrowed("x"), "a\r\nb: c".to_owned()));
    let error = transport.send(&request).await.unwrap_err();
    assert_eq!(error.kind, TransportErrorKind::Protocol);
}

#[tokio::test]
async fn http_is_refused_unless_allowed() {
    let policy = EgressPolicy::default();
    assert_eq!(kind(policy, "http://hook.example/").await, TransportErrorKind::Denied);
}

#[test]
fn a_root_that_is_no_certificate_is_refused() {
    assert!(builder(open()).with_root_certificate(*b"nonsense").build().is_err());
}

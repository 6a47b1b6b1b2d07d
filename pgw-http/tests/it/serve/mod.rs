//! The server on a real socket: what it bounds, what it refuses, how it ends.

mod hostile;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use futures_util::future::poll_immediate;
use metrics_exporter_prometheus::PrometheusBuilder;
use pgw_core::access::{Principal, Role};
use pgw_http::auth::{Authenticator, Denied};
use pgw_http::serve::{Drained, Server};
use pgw_http::{Config, Drain};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::harness::App;
use crate::logging::Log;

/// A server of a host's own routes.
struct Running {
    address: SocketAddr,
    drain: Drain,
    serving: JoinHandle<Drained>,
    /// What `/wait` waits for.
    gate: Arc<Semaphore>,
    /// How many `/wait` are waiting.
    waiting: Arc<Semaphore>,
}

impl Running {
    async fn start(server: Server) -> Self {
        let (gate, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (wait, arrived) = (Arc::clone(&gate), Arc::clone(&waiting));
        let app = Router::new()
            .route(
                "/peer",
                get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
            )
            .route("/livez", get(|| async { "alive" }))
            .route("/echo", post(|body: Bytes| async move { body }))
            .route(
                "/wait",
                get(async move || {
                    arrived.add_permits(1);
                    wait.acquire().await.unwrap().forget();
                    "done"
                }),
            );
        Self { gate, waiting, ..Self::of(server, app).await }
    }

    async fn of(server: Server, app: Router) -> Self {
        let drain = Drain::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(server.with_drain(drain.clone()).serve(listener, app));
        let none = || Arc::new(Semaphore::new(0));
        Self { address, drain, serving, gate: none(), waiting: none() }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Asks on a new connection, and reads until the server closes it.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&last(path)).await
    }

    async fn drained(self) -> Drained {
        self.drain.begin();
        self.serving.await.unwrap()
    }
}

/// A request that keeps the connection.
fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: pay.example\r\n\r\n")
}

/// A request that is the last of its connection.
fn last(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: pay.example\r\nConnection: close\r\n\r\n")
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// What comes until the peer closes; a reset is an end too.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    String::from_utf8(read).unwrap()
}

/// What comes until it ends like this.
async fn until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(end) {
        let byte = stream.read_u8().await.unwrap_or_else(|_| panic!("it ended: {read}"));
        read.push(byte.into());
    }
    read
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[tokio::test]
async fn handlers_know_the_peer_and_no_server_is_named() {
    let running = Running::start(Server::new()).await;
    let mut stream = running.connect().await;
    send(&mut stream, &last("/peer")).await;
    let answer = rest(&mut stream).await;
    assert!(answer.ends_with(&stream.local_addr().unwrap().to_string()), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("\r\nserver:"));
}

#[tokio::test]
async fn connections_beyond_the_cap_wait() {
    let running = Running::start(Server::new().with_connections_max(1)).await;
    let mut first = running.connect().await;
    send(&mut first, &request("/livez")).await;
    until(&mut first, "alive").await;
    let mut second = running.connect().await;
    send(&mut second, &last("/livez")).await;
    send(&mut first, &request("/livez")).await;
    until(&mut first, "alive").await;
    assert!(poll_immediate(second.read_u8()).await.is_none());
    drop(first);
    assert_eq!(status(&rest(&mut second).await), "200");
}

#[tokio::test]
async fn requests_beyond_the_cap_are_told_to_come_again() {
    let recorder = PrometheusBuilder::new().build_recorder();
    // A test runs on one thread, and so does the server.
    let _counting = metrics::set_default_local_recorder(&recorder);
    let running = Running::start(Server::new().with_requests_max(1)).await;
    let mut waiting = running.connect().await;
    send(&mut waiting, &last("/wait")).await;
    running.waiting.acquire().await.unwrap().forget();
    let refused = running.get("/peer").await;
    assert_eq!(status(&refused), "503");
    assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("\r\ncontent-type: application/problem+json\r\n"), "{refused}");
    assert!(refused.contains("\"error\":\"Overloaded\""), "{refused}");
    let counted = recorder.handle().render();
    let shed = "pgw_http_requests_total{method=\"GET\",route=\"none\",status=\"503\"} 1";
    assert!(counted.contains(shed), "{counted}");
    assert_eq!(status(&running.get("/livez").await), "200", "or it would be restarted");
    running.gate.add_permits(1);
    assert!(rest(&mut waiting).await.ends_with("done"));
    assert_eq!(status(&running.get("/peer").await), "200");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let server = Server::new().with_request_timeout(Duration::from_millis(50));
    let running = Running::start(server).await;
    let answer = running.get("/wait").await;
    assert_eq!(status(&answer), "503");
    assert!(answer.contains("\"error\":\"Overloaded\""), "{answer}");
    // A body that does not come is the same.
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
    assert_eq!(status(&running.ask(head).await), "503");
}

/// The value of a header, or of a field of a span.
fn named<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text}"));
    rest.split(after).next().unwrap_or(rest)
}

#[tokio::test]
async fn a_request_that_took_too_long_has_one_id_and_its_line() {
    let (log, gate) = (Log::default(), Arc::new(Hanging));
    let _recording = log.record();
    let config =
        Config::default().with_authenticator(gate).with_public_base_url("https://pay.example/api");
    let app = App::with(config.clone()).await;
    let server = Server::new().with_request_timeout(Duration::from_millis(50)).with_config(&config);
    let running = Running::of(server, app.router.clone()).await;
    let answer = running.get("/payments").await;
    assert_eq!(status(&answer), "503");
    assert!(
        answer.contains("\"type\":\"https://pay.example/api/problems/overloaded\""),
        "{answer}"
    );
    for header in ["strict-transport-security", "x-content-type-options", "cache-control"] {
        assert!(answer.contains(&format!("\r\n{header}: ")), "{answer}");
    }
    let id = named(&answer, "x-request-id: ", "\r\n");
    assert_eq!(named(&answer, "\"request_id\":\"", "\""), id);
    let log = log.take();
    let of = |route: &str| {
        let span = format!("pgw.request{{request_id=\"{id}\" method=\"GET\" route=\"{route}\"");
        log.lines().filter(|line| line.contains(&span)).collect::<Vec<_>>().join("\n")
    };
    assert!(!of("/payments").is_empty(), "{log}");
    let line = of("none");
    assert!(line.contains("pgw_http::access") && line.contains("status=503"), "{log}");
}

/// Never tells who calls.
#[derive(Debug)]
struct Hanging;

#[async_trait::async_trait]
impl Authenticator for Hanging {
    async fn authenticate(&self, _: &HeaderMap) -> Result<Principal, Denied> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_takes_no_more() {
    let running = Running::start(Server::new()).await;
    let mut waiting = running.connect().await;
    send(&mut waiting, &request("/wait")).await;
    running.waiting.acquire().await.unwrap().forget();
    let mut idle = running.connect().await;
    send(&mut idle, &request("/livez")).await;
    until(&mut idle, "alive").await;
    running.drain.begin();
    assert_eq!(rest(&mut idle).await, "", "a kept connection is closed");
    // The listener is gone before the connections are.
    while TcpStream::connect(running.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    running.gate.add_permits(1);
    let answer = rest(&mut waiting).await;
    assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("done"), "{answer}");
    let drained = running.drained().await;
    assert_eq!(drained.cut_off, 0);
    assert!(drained.finished >= 1);
}

#[tokio::test]
async fn a_drain_ends_in_time() {
    let server = Server::new().with_drain_timeout(Duration::from_millis(50));
    let running = Running::start(server).await;
    let mut waiting = running.connect().await;
    send(&mut waiting, &request("/wait")).await;
    running.waiting.acquire().await.unwrap().forget();
    assert_eq!(running.drained().await, Drained { finished: 0, cut_off: 1 });
    assert_eq!(rest(&mut waiting).await, "");
}

#[tokio::test]
async fn streams_of_events_end_with_the_drain() {
    let drain = Drain::new();
    let app = App::with(Config::default().with_drain(drain.clone())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new().with_drain(drain.clone());
    let serving = tokio::spawn(server.serve(listener, app.router.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let key = app.key(Role::Readonly);
    let head = format!("GET /events/stream HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n");
    send(&mut stream, &head).await;
    until(&mut stream, "retry: 2000\n\n\r\n").await;
    drain.begin();
    assert_eq!(rest(&mut stream).await, "0\r\n\r\n", "the body ends as bodies do");
    assert_eq!(serving.await.unwrap(), Drained { finished: 1, cut_off: 0 });
}

/// Says so when it is dropped.
struct Dropped(Arc<Semaphore>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let gone = Arc::new(Semaphore::new(0));
    let guard = Arc::clone(&gone);
    let app = Router::new().route(
        "/endless",
        get(async move || {
            let guard = Dropped(Arc::clone(&guard));
            let chunk = Bytes::from_static(&[b'x'; 64 * 1024]);
            Body::from_stream(futures_util::stream::repeat_with(move || {
                let _ = &guard;
                Ok::<_, std::io::Error>(chunk.clone())
            }))
        }),
    );
    let server = Server::new().with_write_timeout(Duration::from_millis(50));
    let running = Running::of(server, app).await;
    let mut stream = running.connect().await;
    send(&mut stream, &request("/endless")).await;
    gone.acquire().await.unwrap().forget();
    drop(stream);
}

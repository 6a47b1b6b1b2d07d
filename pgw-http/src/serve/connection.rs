//! One connection: its handshake, its requests, its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, Method, Version, header};
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use pgw_core::timestamp::Timestamp;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

use super::patience::{self, Patience};
use super::{Server, within};
use crate::problem::{Problem, ProblemKind};
use crate::{request_id, telemetry};

/// What all connections share.
pub(super) struct Shared {
    server: Server,
    app: Router,
    tls: Option<Arc<ServerConfig>>,
    requests: Semaphore,
}

impl Shared {
    pub(super) fn new(server: Server, app: Router) -> Self {
        let tls = server.certificate.as_ref().map(|certificate| certificate.config());
        let requests = Semaphore::new(within(server.requests_max));
        Self { server, app, tls, requests }
    }

    /// Answers a request, or says that it cannot now.
    async fn answer(&self, mut request: Request, peer: SocketAddr) -> Response {
        let env = self.server.refusals.env();
        let began = env.now();
        request.extensions_mut().insert(ConnectInfo(peer));
        // What is refused here has the id that the routes gave it, in its span and in the audit log.
        let id = request_id::of(request.headers(), env);
        request_id::mark(request.headers_mut(), &id);
        let method = request.method().clone();
        let is_exempt = request.uri().path() == EXEMPT;
        // Held until the answer begins: a stream goes on for an hour, and does nothing most of the time.
        let Some(_permit) =
            self.requests.try_acquire().ok().map(Some).or(is_exempt.then_some(None))
        else {
            let detail = "The server has as much to do as it can; try again.";
            return self.overloaded(detail, &method, &id, began);
        };
        let answer = self.app.clone().call(request);
        match tokio::time::timeout(self.server.request_timeout, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => {
                let detail =
                    "The request took too long; the same idempotency key makes another try safe.";
                self.overloaded(detail, &method, &id, began)
            }
        }
    }

    fn overloaded(
        &self,
        detail: &'static str,
        method: &Method,
        request_id: &str,
        began: Timestamp,
    ) -> Response {
        let problem = Problem::new(ProblemKind::Overloaded, detail).retry_after(RETRY_SECS);
        let refusals = &self.server.refusals;
        let response = refusals.refuse_as(problem, request_id);
        let took = refusals.env().now().since(began);
        telemetry::shed(request_id, method, response.status(), took);
        response
    }
}

/// Serves a connection to its end. The slot is given back with it.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
) {
    // Answers are written whole; waiting for more of them only delays the last packet.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection has no TCP_NODELAY");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(shared.server.write_timeout));
    let stream = Box::pin(stream);
    let Some(tls) = shared.tls.clone() else { return plain(stream, peer, &shared).await };
    let handshake = TlsAcceptor::from(tls).accept(stream);
    match tokio::time::timeout(shared.server.handshake_timeout, handshake).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            multiplexed(stream, peer, &shared).await;
        }
        Ok(Ok(stream)) => plain(stream, peer, &shared).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// HTTP/1.1.
async fn plain(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    shared: &Arc<Shared>,
) {
    let requests = Requests::new();
    let service = service_fn(|request| requests.answer(request, peer, shared));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // It is added to a clock, which cannot count for ever.
        .header_read_timeout(shared.server.head_timeout.min(LONGEST))
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // Silence is bounded by the head's timeout.
    drive(connection, &requests, shared, std::future::pending()).await;
}

/// HTTP/2.
async fn multiplexed(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    shared: &Arc<Shared>,
) {
    let requests = Requests::new();
    let service = {
        let (requests, shared) = (requests.clone(), Arc::clone(shared));
        service_fn(move |request| {
            let (requests, shared) = (requests.clone(), Arc::clone(&shared));
            async move { requests.answer(request, peer, &shared).await.map(patience::watched) }
        })
    };
    let connection = http2::Builder::new(Patience::new(shared.server.write_timeout))
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_PERIOD)
        .keep_alive_timeout(PING_PERIOD)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .serve_connection(TokioIo::new(stream), service);
    let idle = requests.idle_for(shared.server.idle_timeout);
    drive(connection, &requests, shared, idle).await;
}

/// Lets a connection go on until it ends, is silent for too long, or the drain begins: then it takes no more requests, and is
/// dropped once those it has are done.
async fn drive<C: GracefulConnection>(
    connection: C,
    requests: &Requests,
    shared: &Shared,
    idle: impl Future<Output = ()>,
) where
    C::Error: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = idle => None,
        () = shared.server.drain.begun() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = connection => ended,
                // A request that is just arriving is not seen as one yet.
                () = requests.idle_for(LAST_LOOK) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// How many requests of a connection have not been answered to the last byte.
#[derive(Clone)]
struct Requests(watch::Sender<usize>);

impl Requests {
    fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        peer: SocketAddr,
        shared: &Shared,
    ) -> Result<hyper::Response<Body>, Infallible> {
        let open = Open::new(self);
        // By its own rules HTTP/1.1 reads such a body by its chunks; who put a length beside them meant another to read it.
        let is_ambiguous = request.version() < Version::HTTP_2
            && request.headers().contains_key(header::TRANSFER_ENCODING);
        let mut response = shared.answer(request.map(Body::new), peer).await;
        if is_ambiguous {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                // Open for as long as the body is.
                let _ = &open;
                frame
            }))
        }))
    }

    /// Waits until there is no request for so long.
    async fn idle_for(&self, time: Duration) {
        let mut open = self.0.subscribe();
        // Waiting fails when the sender is gone, which this holds.
        loop {
            let _ = open.wait_for(|open| *open == 0).await;
            if tokio::time::timeout(time, open.wait_for(|open| *open > 0)).await.is_err() {
                return;
            }
        }
    }
}

/// One request; done when it is dropped.
struct Open(watch::Sender<usize>);

impl Open {
    fn new(requests: &Requests) -> Self {
        requests.0.send_modify(|open| *open += 1);
        Self(requests.0.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Answered however much there is to do: who asks would restart the process otherwise, which makes it worse.
const EXEMPT: &str = "/livez";
/// When to come again: requests are over in milliseconds.
const RETRY_SECS: u32 = 1;
/// As good as no end.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Browsers and proxies send some thirty.
const HEADERS_MAX: usize = 100;
/// Far above what any API client sends, cookies and traces included.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection: what its specification asks for at least (RFC 9113 §6.5.2).
const STREAMS_MAX: u32 = 100;
/// How often a silent HTTP/2 peer is asked whether it is still there, and how long it may take to say so.
const PING_PERIOD: Duration = Duration::from_secs(20);
/// How long a connection without requests is left open once it takes no more.
const LAST_LOOK: Duration = Duration::from_secs(1);

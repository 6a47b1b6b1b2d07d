//! [`Server`]: a router on a socket, with what a listener on the internet needs and `axum::serve` leaves out.

mod connection;
mod patience;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::drain::Drain;
use crate::refusal::Refusals;

pub use tls::{Certificate, CertificateError};

/// Serves a router: HTTP/1.1, over TLS HTTP/2 too, with bounded time and memory for each client and for all.
///
/// | bound | default |
/// |---|---|
/// | the head of a request, and the silence before it on a kept connection | 10 s |
/// | the TLS handshake | 10 s |
/// | a request until the head of its answer, its body included | 60 s, then 503 `overloaded` |
/// | a peer that does not read its answer; on HTTP/2, one answer of several | 30 s |
/// | silence on an HTTP/2 connection | 60 s |
/// | connections; more wait to be accepted | 10,000 |
/// | requests at once; more are answered 503 `overloaded`, but for `/livez` | 1,000 |
/// | headers of a request | 100, and 64 KiB |
///
/// Each request has [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo) with the peer's address, and an `X-Request-Id`: the caller's
/// if it is well-formed, or else a new one, which the router and what the server itself answers share.
///
/// What could be read in two ways is not: differing lengths, folded headers and malformed chunks are answered 400. A request with
/// `Transfer-Encoding` is read by that alone, and its connection is closed after the answer (RFC 9112 §6.1), so that nothing can be
/// smuggled behind it. HTTP/2 without TLS is not spoken.
///
/// ```no_run
/// use pgw_http::Drain;
/// use pgw_http::serve::Server;
///
/// # async fn f(app: axum::Router) -> std::io::Result<()> {
/// let drain = Drain::new();
/// let server = Server::new().with_drain(drain.clone());
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// let serving = tokio::spawn(server.serve(listener, app));
/// // … and on SIGTERM:
/// drain.begin();
/// println!("{:?}", serving.await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Server {
    head_timeout: Duration,
    handshake_timeout: Duration,
    request_timeout: Duration,
    write_timeout: Duration,
    idle_timeout: Duration,
    drain_timeout: Duration,
    connections_max: usize,
    requests_max: usize,
    certificate: Option<Certificate>,
    drain: Drain,
    refusals: Refusals,
}

impl Server {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            connections_max: 10_000,
            requests_max: 1_000,
            certificate: None,
            drain: Drain::new(),
            refusals: Refusals::default(),
        }
    }

    /// How long the head of a request may take, from the end of the request before it.
    pub const fn with_head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// How long a TLS handshake may take.
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long a request may take until its answer begins. More than the 30 s for which a caller may ask to wait.
    pub const fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a peer may take nothing of what is sent to it. Over HTTP/1.1 its connection ends then, over HTTP/2 that one answer.
    pub const fn with_write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How long an HTTP/2 connection may be open without a request.
    pub const fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How long requests may go on once the drain has begun; 30 s by default, after which orchestrators kill.
    pub const fn with_drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How many connections at once, at least one.
    pub const fn with_connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections;
        self
    }

    /// How many requests at once, at least one.
    pub const fn with_requests_max(mut self, requests: usize) -> Self {
        self.requests_max = requests;
        self
    }

    /// With TLS 1.2 and 1.3.
    pub fn with_certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// With a drain that others know too: [`Config::with_drain`](crate::Config::with_drain) ends streams with it.
    pub fn with_drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// With refusals like those of the router of this configuration: where types of problems lead, security headers, request ids.
    pub fn with_config(mut self, config: &Config) -> Self {
        self.refusals = Refusals::of(config);
        self
    }

    /// Serves until the [drain](Drain) begins and all requests are done, or its time is over.
    ///
    /// It never fails: what goes wrong with a connection, or with accepting one, is logged.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and cuts off every connection.
    pub async fn serve(self, listener: TcpListener, app: Router) -> Drained {
        let drain = self.drain.clone();
        let drain_timeout = self.drain_timeout;
        let slots = Arc::new(Semaphore::new(within(self.connections_max)));
        let shared = Arc::new(connection::Shared::new(self, app));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = drain.begun() => break,
                Some(_) = connections.join_next() => {}
                (stream, peer, slot) = accept(&listener, &slots) => {
                    connections.spawn(connection::serve(stream, peer, Arc::clone(&shared), slot));
                }
            }
        }
        drop(listener);
        finish(connections, drain_timeout).await
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of the connections that were open when the drain began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// They ended by themselves.
    pub finished: usize,
    /// They were cut off when the time was over.
    pub cut_off: usize,
}

async fn finish(mut connections: JoinSet<()>, timeout: Duration) -> Drained {
    let open = connections.len();
    let all_done = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(timeout, all_done).await;
    let cut_off = connections.len();
    connections.shutdown().await;
    let drained = Drained { finished: open - cut_off, cut_off };
    tracing::info!(drained.finished, drained.cut_off, "the server has drained");
    drained
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let slot = Arc::clone(slots).acquire_owned().await;
    let slot = slot.expect("nobody closes this semaphore");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, slot),
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                // Most likely there are no file descriptors left; one may be soon.
                tracing::error!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether a peer gave up before it was accepted.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn within(permits: usize) -> usize {
    permits.clamp(1, Semaphore::MAX_PERMITS)
}

/// Between two tries to accept that fail for a reason of ours.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

//! [`HostileReceiver`]: the listener, what it counted, and its end. What it says on a connection is in `script.rs`.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgw_core::webhook::EndpointUrl;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::testing::Behaviour;
use crate::testing::script::{self, Peer};
use crate::testing::tls::Tls;

/// A receiver of webhooks that misbehaves: a real server on a free port of the loopback interface.
///
/// It needs a tokio runtime with I/O and a clock that runs: a paused one jumps to the deadline while bytes are on their way.
/// It accepts until it is dropped, and takes its connections with it. Counters only grow, and are exact once
/// [`hung_up`](Self::hung_up) returned.
pub struct HostileReceiver {
    behaviour: Behaviour,
    url: EndpointUrl,
    address: SocketAddr,
    root: Option<CertificateDer<'static>>,
    counters: Arc<Counters>,
    accepting: AbortHandle,
}

impl HostileReceiver {
    /// The name that its certificate is for, besides `127.0.0.1`; no name server knows it (RFC 2606 §2).
    pub const NAME: &'static str = "receiver.test";

    /// Most bytes that the receiver gets rid of on one connection before a bounded sender hangs up: the 64 KiB that may be
    /// read of a body or the few hundred that libraries grant to headers, and what the kernel's buffers of both sides
    /// take on the way. The receiver keeps its own small; a sender's grows with what it reads, here to less than 1 MiB.
    pub const WRITTEN_MAX: u64 = 4 * 1024 * 1024;

    /// Most connections that are open at a time; more wait to be accepted.
    pub const CONNECTIONS_MAX: usize = 64;

    /// Starts a receiver.
    ///
    /// # Errors
    /// An [`io::Error`] when there is no port or no certificate to be had.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub async fn start(behaviour: Behaviour) -> io::Result<Self> {
        let listener = listen()?;
        let address = listener.local_addr()?;
        let (acceptor, root) = match Tls::of(behaviour)? {
            Some(tls) => (Some(tls.acceptor), tls.root),
            None => (None, None),
        };
        let scheme = if behaviour.is_https() { "https" } else { "http" };
        let url =
            EndpointUrl::parse(&format!("{scheme}://{address}/")).map_err(io::Error::other)?;
        let counters = Arc::new(Counters::default());
        let accepts = Accepts { behaviour, acceptor, counters: Arc::clone(&counters) };
        let accepting = tokio::spawn(accepts.run(listener)).abort_handle();
        Ok(Self { behaviour, url, address, root, counters, accepting })
    }

    /// What it does.
    #[must_use]
    pub const fn behaviour(&self) -> Behaviour {
        self.behaviour
    }

    /// Where webhooks are sent to: an IP literal, so that no name server is asked.
    #[must_use]
    pub const fn url(&self) -> &EndpointUrl {
        &self.url
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate (DER) of the authority to trust; `None` without TLS, and where there is no authority.
    #[must_use]
    pub fn root_certificate(&self) -> Option<&[u8]> {
        self.root.as_deref()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// Requests read to their end so far. More than there were connections: one was used again.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.counters.requests.load(Ordering::Relaxed)
    }

    /// Bytes of answers that the kernel took so far, before encryption. The sender need not have read them.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.counters.written.load(Ordering::Relaxed)
    }

    /// Waits until every connection that was accepted is closed. A sender that keeps one open in a pool, or never hangs up,
    /// makes it wait.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub async fn hung_up(&self) {
        let mut open = self.counters.open.subscribe();
        // An error would say that the counters are gone, and they are ours.
        let _ = open.wait_for(|open| *open == 0).await;
    }
}

impl fmt::Debug for HostileReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostileReceiver")
            .field("behaviour", &self.behaviour)
            .field("address", &self.address)
            .field("connections", &self.connections())
            .field("requests", &self.requests())
            .field("written", &self.written())
            .finish_non_exhaustive()
    }
}

impl Drop for HostileReceiver {
    fn drop(&mut self) {
        // The task owns those of the connections.
        self.accepting.abort();
    }
}

/// What was counted.
#[derive(Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    requests: AtomicU64,
    written: AtomicU64,
    open: watch::Sender<usize>,
}

impl Counters {
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// One open connection, as far as the counters know.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        counters.open.send_modify(|open| *open += 1);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// What the accepting task knows.
struct Accepts {
    behaviour: Behaviour,
    acceptor: Option<TlsAcceptor>,
    counters: Arc<Counters>,
}

impl Accepts {
    async fn run(self, listener: TcpListener) {
        let mut serving = JoinSet::new();
        // A listener that fails ends the receiver: what is sent to it is refused, which no test takes for an answer.
        while let Ok((stream, _)) = listener.accept().await {
            while serving.try_join_next().is_some() {}
            if serving.len() >= HostileReceiver::CONNECTIONS_MAX {
                serving.join_next().await;
            }
            let open = Open::new(&self.counters);
            serving.spawn(serve(stream, self.behaviour, self.acceptor.clone(), open));
        }
    }
}

async fn serve(stream: TcpStream, behaviour: Behaviour, acceptor: Option<TlsAcceptor>, open: Open) {
    let resets = matches!(behaviour, Behaviour::ResetBeforeRequest | Behaviour::ResetAfterRequest);
    if resets && stream.set_zero_linger().is_err() {
        return;
    }
    // The sender hung up or was hung up on: both are what this is for.
    let _ = match acceptor {
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => script::play(behaviour, Peer::new(stream, &open.0)).await,
            Err(refused) => Err(refused),
        },
        None => script::play(behaviour, Peer::new(stream, &open.0)).await,
    };
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Connections inherit it, so that what a sender reads is not lost in what the kernel holds.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    socket.listen(BACKLOG)
}

/// Bytes the kernel keeps of what a connection wrote.
const SEND_BUFFER: u32 = 64 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 64;

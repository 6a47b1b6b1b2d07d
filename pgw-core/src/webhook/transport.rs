//! The transport: sends one signed request and says what happened.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::processor::Source;
use crate::webhook::EndpointUrl;

/// Sends webhooks.
///
/// # Contract
/// One POST of exactly these headers and bytes; no redirects, no retries, no proxy of the environment, no
/// decompression. Resolves, checks and pins the address at every dial: an address the egress policy denies is
/// [`TransportErrorKind::Denied`] and gets no connection.
///
/// # Time
/// One deadline, [`WebhookRequest::timeout`], spans name resolution, connect, TLS, headers and body.
///
/// # Limits
/// Reads at most a bounded part of the answer's body and returns at most
/// [`Attempt::BODY_START_MAX`](crate::webhook::Attempt::BODY_START_MAX) bytes of it.
///
/// # Cancel safety
/// The future may be dropped at any await; the request may have arrived.
#[async_trait]
pub trait WebhookTransport: fmt::Debug + Send + Sync {
    /// Whether an address could be delivered to, as far as can be told without I/O: its scheme, and its host when that is
    /// an IP literal. Called when an endpoint is created.
    ///
    /// # Errors
    /// [`TransportError`] of kind [`TransportErrorKind::Denied`].
    fn check(&self, url: &EndpointUrl) -> Result<(), TransportError>;

    /// Sends one request.
    ///
    /// # Errors
    /// [`TransportError`] when there is no complete answer. Any HTTP status is an answer.
    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError>;
}

/// One request.
#[derive(Clone)]
pub struct WebhookRequest {
    /// Where to.
    pub url: EndpointUrl,
    /// All headers but `host` and `content-length`.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: Bytes,
    /// The deadline, from now.
    pub timeout: Duration,
}

impl fmt::Debug for WebhookRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bodies hold personal data and signatures are credentials: neither is shown.
        f.debug_struct("WebhookRequest").field("url", &self.url).finish_non_exhaustive()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookResponse {
    /// The HTTP status.
    pub status: u16,
    /// The start of the body.
    pub body_start: Bytes,
    /// How long the endpoint asks us to wait (`Retry-After`, seconds or date).
    pub retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the webhook was not answered: {kind}")]
pub struct TransportError {
    /// What went wrong.
    pub kind: TransportErrorKind,
    /// The cause.
    #[source]
    pub source: Option<Source>,
}

impl TransportError {
    /// An error without a cause worth keeping.
    #[must_use]
    pub const fn new(kind: TransportErrorKind) -> Self {
        Self { kind, source: None }
    }
}

/// What went wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The egress policy forbids the address.
    Denied,
    /// The name did not resolve.
    Dns,
    /// No connection.
    Connect,
    /// No TLS.
    Tls,
    /// The deadline passed.
    Timeout,
    /// The connection broke.
    Reset,
    /// The answer is not HTTP, or too large.
    Protocol,
}

impl TransportErrorKind {
    /// The kind's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
        }
    }
}

impl fmt::Display for TransportErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

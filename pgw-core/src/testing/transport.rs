//! A webhook transport that sends nothing: it records every request and answers by a script.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pgw_webhook_client::{StandardVerifier, VerifyError};

use crate::webhook::{
    Attempt, EndpointUrl, TransportError, TransportErrorKind, WebhookRequest, WebhookResponse,
    WebhookTransport,
};

/// Records what it is asked to send. Answers 200 to everything unless a script says otherwise.
///
/// ```
/// use pgw_core::testing::transport::RecordingTransport;
/// let transport = RecordingTransport::new();
/// assert!(transport.received().is_empty());
/// ```
#[derive(Debug, Default)]
pub struct RecordingTransport {
    script: Option<Box<dyn TransportScript>>,
    received: Mutex<Vec<Received>>,
}

/// Decides what becomes of each request.
pub trait TransportScript: fmt::Debug + Send + Sync {
    /// What becomes of this request. Called once for each, in their order.
    fn on_send(&self, request: &WebhookRequest) -> Reply;
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// It arrives and is answered with this status.
    Status(u16),
    /// Answered with this status and the start of what was sent, as some receivers do in their errors.
    Echo(u16),
    /// It arrives and is answered with this status and `Retry-After`.
    RetryAfter(u16, Duration),
    /// It never arrives.
    LostBefore(TransportErrorKind),
    /// It arrives, is taken, and the answer is lost.
    LostAfter(TransportErrorKind),
    /// It never arrives and nothing is heard, for as long as anybody waits: longer than a transport may let it take.
    Hang,
}

/// A request that arrived.
#[derive(Clone)]
pub struct Received {
    /// Where.
    pub url: EndpointUrl,
    /// Its headers.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// Its body.
    pub body: Bytes,
    /// Whether the receiver took it, whether or not the sender heard so.
    pub outcome: Taken,
}

/// Whether a receiver took a webhook. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It answered 2xx, or would have been heard to.
    Yes,
    /// It refused.
    No,
}

impl Received {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Verifies its Standard Webhooks signature as of the time it claims, which in a simulation with a jumping clock
    /// is the only time there is.
    ///
    /// # Errors
    /// [`VerifyError`] when it is not what the holder of the secret signed.
    pub fn verify(&self, verifier: &StandardVerifier) -> Result<(), VerifyError> {
        let claimed = self.header("webhook-timestamp").and_then(|text| text.parse().ok());
        let at = Duration::from_secs(claimed.unwrap_or_default());
        verifier.verify_at(at, &self.headers[..], &self.body).map(|_| ())
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without signatures and body: the one are credentials, the other holds personal data.
        f.debug_struct("Received")
            .field("url", &self.url)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl RecordingTransport {
    /// A transport whose every request is taken.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A transport that answers by a script.
    #[must_use]
    pub fn scripted(script: Box<dyn TransportScript>) -> Self {
        Self { script: Some(script), received: Mutex::default() }
    }

    /// What arrived so far, in its order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, request: &WebhookRequest, outcome: Taken) {
        let received = Received {
            url: request.url.clone(),
            headers: request.headers.clone(),
            body: request.body.clone(),
            outcome,
        };
        self.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    }
}

#[async_trait]
impl WebhookTransport for RecordingTransport {
    fn check(&self, _url: &EndpointUrl) -> Result<(), TransportError> {
        Ok(())
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        let reply = self.script.as_ref().map_or(Reply::Status(200), |s| s.on_send(request));
        let (status, retry_after) = match reply {
            Reply::Status(status) | Reply::Echo(status) => (status, None),
            Reply::RetryAfter(status, wait) => (status, Some(wait)),
            Reply::Hang => std::future::pending().await,
            Reply::LostBefore(kind) | Reply::LostAfter(kind) => {
                if matches!(reply, Reply::LostAfter(_)) {
                    self.record(request, Taken::Yes);
                }
                if kind == TransportErrorKind::Timeout {
                    tokio::time::sleep(request.timeout).await;
                }
                return Err(TransportError::new(kind));
            }
        };
        let outcome = if (200..=299).contains(&status) { Taken::Yes } else { Taken::No };
        self.record(request, outcome);
        let body_start = match reply {
            Reply::Echo(_) => request.body.slice(..request.body.len().min(Attempt::BODY_START_MAX)),
            _ => Bytes::from_static(b"noted"),
        };
        Ok(WebhookResponse { status, body_start, retry_after })
    }
}

//! [`HttpTransport`]: sends webhooks over HTTP/1.1 and TLS, to addresses that the egress policy allows. What is sent and when
//! it is sent again is decided in pgw-core; names are resolved in `resolver.rs`.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::BytesMut;
use pgw_core::env::Env;
use pgw_core::processor::Source;
use pgw_core::webhook::egress::EgressPolicy;
use pgw_core::webhook::{
    Attempt, DeliveryOptions, EndpointUrl, TransportError, TransportErrorKind, WebhookRequest,
    WebhookResponse, WebhookTransport,
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use rustls::pki_types::CertificateDer;

use crate::resolver::{GuardError, GuardedResolver};
pub use crate::resolver::{Resolver, SystemResolver};

/// Sends webhooks over HTTP. Cheap to clone; clones share their connections.
///
/// Each address is checked by the [`EgressPolicy`] at every dial, and the connection goes to exactly the address that was
/// checked. An idle connection may be used again: it still leads where the check allowed. Redirects are answers like any
/// other and are not followed. No proxy, no cookies, no decompression, no retries. TLS is rustls on ring with Mozilla's
/// root certificates; nothing process-wide is set.
///
/// Besides the headers of the request, `accept: */*` is sent.
///
/// ```
/// use pgw_core::{env::Env, webhook::egress::EgressPolicy};
/// use pgw_http::transport::HttpTransport;
///
/// let transport = HttpTransport::new(Env::system(), EgressPolicy::default())?;
/// # Ok::<(), pgw_http::transport::BuildTransportError>(())
/// ```
#[derive(Clone)]
pub struct HttpTransport {
    client: reqwest::Client,
    policy: Arc<EgressPolicy>,
    env: Env,
}

impl HttpTransport {
    /// How much of an answer's body is read, in bytes. Receivers answer with a word or two; the rest of a longer answer is
    /// left unread and the connection is closed.
    pub const BODY_READ_MAX: usize = 64 * 1024;
    /// Longest time a dial may take, TLS included, within the request's own deadline.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// Longest `Retry-After` that is reported. A day is longer than any back-off is meant to be, and shorter than the
    /// retry schedule.
    pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// A transport with the operating system's resolver and Mozilla's root certificates.
    ///
    /// # Errors
    /// [`BuildTransportError`] when the TLS set-up is refused.
    pub fn new(env: Env, policy: EgressPolicy) -> Result<Self, BuildTransportError> {
        Self::builder(env, policy).build()
    }

    /// A transport to be set up further.
    pub fn builder(env: Env, policy: EgressPolicy) -> HttpTransportBuilder {
        let resolver = Arc::new(SystemResolver);
        HttpTransportBuilder { env, policy, resolver, roots: Vec::new() }
    }

    async fn exchange(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        let mut response = self
            .client
            .post(request.url.url().clone())
            .headers(headers(request)?)
            .body(request.body.clone())
            .send()
            .await
            .map_err(failed)?;
        let status = response.status().as_u16();
        let retry_after = self.retry_after(response.headers());
        let mut start = BytesMut::new();
        let mut read = 0;
        while read < Self::BODY_READ_MAX
            && let Some(chunk) = response.chunk().await.map_err(failed)?
        {
            read += chunk.len();
            let room = Attempt::BODY_START_MAX.saturating_sub(start.len());
            start.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        Ok(WebhookResponse { status, body_start: start.freeze(), retry_after })
    }

    /// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at most [`Self::RETRY_AFTER_MAX`]; anything else is ignored.
    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            Duration::from_secs(text.parse().unwrap_or(u64::MAX))
        } else {
            let at = httpdate::parse_http_date(text).ok()?;
            let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let now = u64::try_from(self.env.now().as_secs()).unwrap_or(0);
            at.saturating_sub(Duration::from_secs(now))
        };
        Some(wait.min(Self::RETRY_AFTER_MAX))
    }
}

#[async_trait]
impl WebhookTransport for HttpTransport {
    fn check(&self, url: &EndpointUrl) -> Result<(), TransportError> {
        self.policy.check_url(url).map_err(|error| TransportError {
            kind: TransportErrorKind::Denied,
            source: Some(Arc::new(error)),
        })
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        // A host that is an IP literal is dialled without asking the resolver, so it is checked here.
        self.check(&request.url)?;
        match tokio::time::timeout(request.timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(TransportError {
                kind: TransportErrorKind::Timeout,
                source: Some(Arc::new(elapsed)),
            }),
        }
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Sets a [`HttpTransport`] up.
#[derive(Debug)]
#[must_use]
pub struct HttpTransportBuilder {
    env: Env,
    policy: EgressPolicy,
    resolver: Arc<dyn Resolver>,
    roots: Vec<CertificateDer<'static>>,
}

impl HttpTransportBuilder {
    /// Resolves names with this resolver instead of the operating system's. Its answers pass the policy too.
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Trusts this certificate authority (DER) besides Mozilla's: for receivers inside an organisation.
    pub fn with_root_certificate(mut self, der: impl Into<Vec<u8>>) -> Self {
        self.roots.push(CertificateDer::from(der.into()));
        self
    }

    /// The transport.
    ///
    /// # Errors
    /// [`BuildTransportError`] when a certificate cannot be read or the TLS set-up is refused.
    pub fn build(self) -> Result<HttpTransport, BuildTransportError> {
        let policy = Arc::new(self.policy);
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(self.roots)?)
            .dns_resolver(GuardedResolver::new(self.resolver, Arc::clone(&policy)))
            .connect_timeout(HttpTransport::CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            // Each is on as soon as anybody in the host's build enables reqwest's feature of that name.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|error| BuildTransportError::Client(Arc::new(error)))?;
        Ok(HttpTransport { client, policy, env: self.env })
    }
}

/// Why a transport cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildTransportError {
    /// A root certificate is not one.
    #[error("a root certificate cannot be read")]
    Certificate(#[source] Source),
    /// The TLS or HTTP set-up was refused.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] Source),
}

fn tls(extra: Vec<CertificateDer<'static>>) -> Result<rustls::ClientConfig, BuildTransportError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for certificate in extra {
        roots.add(certificate).map_err(|e| BuildTransportError::Certificate(Arc::new(e)))?;
    }
    // The provider is named here, so the process-wide default, which belongs to the host, is neither read nor set.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| BuildTransportError::Client(Arc::new(e)))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn headers(request: &WebhookRequest) -> Result<HeaderMap, TransportError> {
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for (name, value) in &request.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(unsendable)?;
        headers.append(name, HeaderValue::from_str(value).map_err(unsendable)?);
    }
    Ok(headers)
}

fn unsendable(error: impl StdError + Send + Sync + 'static) -> TransportError {
    TransportError { kind: TransportErrorKind::Protocol, source: Some(Arc::new(error)) }
}

fn failed(error: reqwest::Error) -> TransportError {
    // The address may hold a token; the error goes to logs.
    let error = error.without_url();
    TransportError { kind: kind_of(&error), source: Some(Arc::new(error)) }
}

fn kind_of(error: &reqwest::Error) -> TransportErrorKind {
    let denied = |e: &Cause| matches!(e.downcast_ref(), Some(GuardError::Denied));
    if any_cause(error, &denied) {
        TransportErrorKind::Denied
    } else if error.is_dns() {
        TransportErrorKind::Dns
    } else if any_cause(error, &|e| e.is::<rustls::Error>()) {
        TransportErrorKind::Tls
    } else if error.is_connect() {
        TransportErrorKind::Connect
    } else if error.is_timeout() {
        TransportErrorKind::Timeout
    } else if any_cause(error, &is_reset) {
        TransportErrorKind::Reset
    } else {
        TransportErrorKind::Protocol
    }
}

fn is_reset(error: &Cause) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let broken = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
    let hyper = error.downcast_ref::<hyper::Error>();
    let io = error.downcast_ref::<io::Error>();
    hyper.is_some_and(|e| e.is_incomplete_message() || e.is_closed() || e.is_canceled())
        || io.is_some_and(|e| broken.contains(&e.kind()))
}

type Cause = dyn StdError + 'static;

/// Whether the error or one of its causes is such a one. An [`io::Error`] hides the error it wraps from `source()`, so
/// that one is looked into as well.
fn any_cause(error: &Cause, is: &dyn Fn(&Cause) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if is(cause) {
            return true;
        }
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if wrapped.is_some_and(|inner| any_cause(inner, is)) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Idle connections kept for each receiver: as many as an endpoint may have webhooks under way.
const IDLE_PER_HOST_MAX: usize = DeliveryOptions::CONCURRENCY_MAX as usize;
/// How long an idle connection is kept: shorter than the 60 s after which common servers close theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

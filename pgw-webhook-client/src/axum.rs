//! [`VerifiedWebhook`], an axum extractor that hands a handler a body only after its signature was checked over the raw bytes.
//!
//! The verifier comes from the router's state by [`FromRef`], so which profile an address speaks is in the handler's signature:
//! `VerifiedWebhook` is `standard`, `VerifiedWebhook<SeedVerifier>` and `VerifiedWebhook<StripeVerifier>` are the others.
//!
//! ```
//! use axum::{Router, http::StatusCode, routing::post};
//! use pgw_webhook_client::{StandardVerifier, axum::VerifiedWebhook};
//!
//! async fn webhook(webhook: VerifiedWebhook) -> StatusCode {
//!     println!("{} bytes, id {:?}", webhook.body().len(), webhook.id());
//!     StatusCode::NO_CONTENT
//! }
//!
//! let verifier = StandardVerifier::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")?;
//! let app: Router = Router::new().route("/webhooks", post(webhook)).with_state(verifier);
//! # Ok::<(), pgw_webhook_client::SecretError>(())
//! ```
//!
//! A verified webhook may still be one that came before: [`VerifiedWebhook::once`] handles it once.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use ::axum::body::Bytes;
use ::axum::extract::{FromRef, FromRequest, Request};
use ::axum::response::{IntoResponse, Response};
use http::{StatusCode, header::CONTENT_LENGTH};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::clock;
use crate::error::VerifyError;
use crate::profile::{Verify, standard};
use crate::replay::{self, Once, ReplayError, ReplayStore};
use crate::verified::ReplayKey;

/// A webhook whose signature and age were checked, with its raw body.
///
/// Consumes the body, so it is a handler's last argument. The largest body is [`BODY_BYTES_MAX_DEFAULT`], or what a
/// [`WebhookBodyLimit`] says. Bodies are expected as sent: a layer that decompresses or rewrites them breaks every signature.
pub struct VerifiedWebhook<V = standard::Verifier> {
    id: Option<String>,
    timestamp: Duration,
    key_index: usize,
    replay_key: ReplayKey,
    body: Bytes,
    verifier: PhantomData<fn() -> V>,
}

impl<V> VerifiedWebhook<V> {
    /// The webhook's id; see [`Verified::id`](crate::Verified::id) for when it is signed.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// When this attempt was signed, since the Unix epoch.
    #[must_use]
    pub fn timestamp(&self) -> Duration {
        self.timestamp
    }

    /// Which of the verifier's secrets matched, counted from 0.
    #[must_use]
    pub fn key_index(&self) -> usize {
        self.key_index
    }

    /// What a [`ReplayStore`] keys on.
    #[must_use]
    pub fn replay_key(&self) -> ReplayKey {
        self.replay_key
    }

    /// Runs `handler` unless this webhook was handled or is being handled: [`replay::once`] with this webhook's key and the system
    /// clock. With a clock of your own, call that.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use axum::{extract::FromRef, extract::State, http::StatusCode};
    /// use pgw_webhook_client::{StandardVerifier, axum::VerifiedWebhook};
    /// use pgw_webhook_client::replay::{Once, ReplayStore};
    ///
    /// #[derive(Clone)]
    /// struct App { verifier: StandardVerifier, seen: Arc<dyn ReplayStore> }
    ///
    /// impl FromRef<App> for StandardVerifier {
    ///     fn from_ref(app: &App) -> Self { app.verifier.clone() }
    /// }
    ///
    /// # async fn ship(_: &[u8]) -> std::io::Result<()> { Ok(()) }
    /// async fn webhook(State(app): State<App>, webhook: VerifiedWebhook) -> StatusCode {
    ///     match webhook.once(&*app.seen, async || ship(webhook.body()).await).await {
    ///         Ok(Once::Done(()) | Once::HandledBefore) => StatusCode::NO_CONTENT,
    ///         Ok(Once::InProgress) => StatusCode::CONFLICT,
    ///         Ok(Once::Failed(_)) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    ///     }
    /// }
    /// # let _: axum::Router<App> = axum::Router::new().route("/", axum::routing::post(webhook));
    /// ```
    ///
    /// # Errors
    /// [`ReplayError`] when the store did not answer.
    ///
    /// # Cancel safety
    /// As [`replay::once`]: axum drops the handler of a sender that hung up, and then the key stays claimed until the store's lease is
    /// over.
    pub async fn once<T, E>(
        &self,
        store: &dyn ReplayStore,
        handler: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<Once<T, E>, ReplayError> {
        replay::once(store, self.replay_key, clock::now(), handler).await
    }

    /// The signed bytes. Parse these and no others.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The signed bytes, taken out.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }
}

impl<V> fmt::Debug for VerifiedWebhook<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedWebhook")
            .field("id", &self.id)
            .field("timestamp", &self.timestamp)
            .field("key_index", &self.key_index)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl<S, V> FromRequest<S> for VerifiedWebhook<V>
where
    S: Send + Sync,
    V: Verify + FromRef<S> + Send + Sync,
{
    type Rejection = WebhookRejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let verifier = V::from_ref(state);
        let (parts, body) = request.into_parts();
        let WebhookBodyLimit(bytes_max) = parts.extensions.get().copied().unwrap_or_default();

        let announced = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if announced
            .and_then(|text| text.parse().ok())
            .is_some_and(|len: u64| len > bytes_max as u64)
        {
            return Err(WebhookRejection::TooLarge);
        }
        let body = match Limited::new(body, bytes_max).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(WebhookRejection::TooLarge),
            Err(error) => return Err(WebhookRejection::Body(error)),
        };

        let verified = verifier.verify(&parts.headers, &body).map_err(WebhookRejection::Refused)?;
        let (id, timestamp) = (verified.id().map(str::to_owned), verified.timestamp());
        let (key_index, replay_key) = (verified.key_index(), verified.replay_key());
        Ok(Self { id, timestamp, key_index, replay_key, body, verifier: PhantomData })
    }
}

/// The largest body [`VerifiedWebhook`] reads, in bytes, where [`BODY_BYTES_MAX_DEFAULT`] does not suit: add it as an
/// [`Extension`](::axum::Extension) to the route.
///
/// ```
/// use axum::{Extension, Router, routing::post};
/// use pgw_webhook_client::{StandardVerifier, axum::{VerifiedWebhook, WebhookBodyLimit}};
///
/// # async fn webhook(_: VerifiedWebhook) {}
/// let app: Router<StandardVerifier> =
///     Router::new().route("/webhooks", post(webhook)).layer(Extension(WebhookBodyLimit(64 * 1024)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookBodyLimit(pub usize);

impl Default for WebhookBodyLimit {
    fn default() -> Self {
        Self(BODY_BYTES_MAX_DEFAULT)
    }
}

/// Why a request was not let through to the handler. As an answer it is a status and a few words that reveal neither secret nor
/// expected signature.
#[derive(Debug)]
#[non_exhaustive]
pub enum WebhookRejection {
    /// The message was refused: 400 when a header is missing or malformed, 401 when it is too old, too new, or not signed by us.
    Refused(VerifyError),
    /// The body is larger than allowed: 413.
    TooLarge,
    /// The body could not be read to its end: 400.
    Body(Box<dyn Error + Send + Sync>),
}

impl WebhookRejection {
    /// The status it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Refused(VerifyError::Missing { .. } | VerifyError::Malformed { .. })
            | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Refused(VerifyError::Stale | VerifyError::Future | VerifyError::Mismatch) => {
                StatusCode::UNAUTHORIZED
            }
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

impl fmt::Display for WebhookRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::TooLarge => f.write_str("the body is too large"),
            Self::Body(_) => f.write_str("the body could not be read"),
        }
    }
}

impl Error for WebhookRejection {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(error) => error.source(),
            Self::TooLarge => None,
            Self::Body(source) => Some(source.as_ref()),
        }
    }
}

impl IntoResponse for WebhookRejection {
    fn into_response(self) -> Response {
        (self.status(), self.to_string()).into_response()
    }
}

/// The largest body that is read unless told otherwise: fifty times the 20 kB that Standard Webhooks recommends as a payload's limit,
/// and little enough to hold for every open connection.
pub const BODY_BYTES_MAX_DEFAULT: usize = 1024 * 1024;

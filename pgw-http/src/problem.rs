//! Errors on the wire: `application/problem+json` (RFC 9457), and the one place where an error of [`pgw_core`] becomes one.
//!
//! The headings below are what the `type` of a problem points to, unless [`Config::with_public_base_url`] says otherwise.
//!
//! [`Config::with_public_base_url`]: crate::Config::with_public_base_url
//!
#![doc = include_str!("problem.md")]

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use pgw_core::error::Error;
use pgw_core::payment::plan::PlanError;
use pgw_core::processor::NotificationError;
use pgw_core::storage::StorageError;
use pgw_core::webhook::TransportError;
use pgw_core::webhook::egress::EgressDenied;
use serde::Serialize;

use crate::auth::Denied;

/// What kind of problem an answer reports: its `type`, `title` and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// 400 `Validation failed`.
    ValidationFailed,
    /// 401 `API key required`.
    ApiKeyRequired,
    /// 403 `Invalid API key`.
    InvalidApiKey,
    /// 403 `Insufficient permissions`.
    InsufficientPermissions,
    /// 403 `Address denied`.
    AddressDenied,
    /// 404 `Not found`.
    NotFound,
    /// 405 `Method not allowed`.
    MethodNotAllowed,
    /// 409 `Conflict`.
    Conflict,
    /// 409 `In progress`.
    InProgress,
    /// 413 `Body too large`.
    BodyTooLarge,
    /// 415 `Unsupported media type`.
    UnsupportedMediaType,
    /// 422 `Idempotency key reused`.
    KeyReused,
    /// 422 `Amount above what is left`.
    AboveRest,
    /// 429 `Too many requests from this IP`.
    TooManyRequests,
    /// 500 `Internal error`.
    Internal,
    /// 503 `Frozen`.
    Frozen,
    /// 503 `Service unavailable`.
    Unavailable,
    /// 503 `Overloaded`.
    Overloaded,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::ValidationFailed,
        Self::ApiKeyRequired,
        Self::InvalidApiKey,
        Self::InsufficientPermissions,
        Self::AddressDenied,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::InProgress,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::KeyReused,
        Self::AboveRest,
        Self::TooManyRequests,
        Self::Internal,
        Self::Frozen,
        Self::Unavailable,
        Self::Overloaded,
    ];

    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().0
    }

    /// The last part of the `type`.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        self.row().1
    }

    /// The `title`, and the `error`. Constant: what a particular case adds is in `detail`.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    /// What it means, in Markdown: its paragraph in this module's documentation.
    #[must_use]
    pub fn description(self) -> &'static str {
        let mut sections = KINDS.split("# ");
        let section = sections.find_map(|section| section.strip_prefix(self.slug()));
        section.map(str::trim).unwrap_or_default()
    }

    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::ValidationFailed => (S::BAD_REQUEST, "validation-failed", "Validation failed"),
            Self::ApiKeyRequired => (S::UNAUTHORIZED, "api-key-required", "API key required"),
            Self::InvalidApiKey => (S::FORBIDDEN, "invalid-api-key", "Invalid API key"),
            Self::InsufficientPermissions => {
                (S::FORBIDDEN, "insufficient-permissions", "Insufficient permissions")
            }
            Self::AddressDenied => (S::FORBIDDEN, "address-denied", "Address denied"),
            Self::NotFound => (S::NOT_FOUND, "not-found", "Not found"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed")
            }
            Self::Conflict => (S::CONFLICT, "conflict", "Conflict"),
            Self::InProgress => (S::CONFLICT, "in-progress", "In progress"),
            Self::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large"),
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type")
            }
            Self::KeyReused => {
                (S::UNPROCESSABLE_ENTITY, "idempotency-key-reused", "Idempotency key reused")
            }
            Self::AboveRest => {
                (S::UNPROCESSABLE_ENTITY, "amount-above-rest", "Amount above what is left")
            }
            Self::TooManyRequests => {
                (S::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests from this IP")
            }
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal-error", "Internal error"),
            Self::Frozen => (S::SERVICE_UNAVAILABLE, "frozen", "Frozen"),
            Self::Unavailable => (S::SERVICE_UNAVAILABLE, "unavailable", "Service unavailable"),
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
        }
    }
}

/// A request that is not answered with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    kind: ProblemKind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<u32>,
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// What is wrong with which parts of the request.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = "The request is not valid; see errors.";
        Self { errors, ..Self::new(ProblemKind::ValidationFailed, detail) }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(ProblemKind::NotFound, "There is nothing here by that name.")
    }

    /// A handler panicked: a mistake of ours, after which nobody knows how far it came.
    pub(crate) fn panicked() -> Self {
        tracing::error!("a request failed by a panic");
        let detail = "The log has more under this request_id; the same idempotency key makes another try safe.";
        Self::new(ProblemKind::Internal, detail)
    }

    pub(crate) fn insufficient_permissions() -> Self {
        let detail = "The role of this API key may not do this.";
        Self::new(ProblemKind::InsufficientPermissions, detail)
    }

    /// Worth another try after this many seconds.
    pub(crate) const fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// With the one part of the request that is at fault.
    pub(crate) fn because(mut self, error: FieldError) -> Self {
        self.errors.push(error);
        self
    }

    #[cfg(test)]
    pub(crate) fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// The answer. `base` is what the slug of the `type` is appended to.
    pub(crate) fn into_response(self, base: &str, request_id: &str) -> Response {
        let kind = self.kind;
        let body = ProblemBody {
            r#type: format!("{base}{}", kind.slug()),
            title: kind.title(),
            status: kind.status().as_u16(),
            detail: &self.detail,
            error: kind.title(),
            request_id,
            errors: &self.errors,
        };
        let body = serde_json::to_vec(&body)
            .expect("a problem holds only texts and a number, and a Vec takes any write");
        let mut response = Response::new(body.into());
        *response.status_mut() = kind.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if kind == ProblemKind::ApiKeyRequired {
            // RFC 9110 §11.6.1 wants a challenge with every 401.
            headers
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pgw\""));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Missing => {
                let detail = "Give a key as X-API-Key, or as Authorization: Bearer.";
                Self::new(ProblemKind::ApiKeyRequired, detail)
            }
            // One text for unknown, revoked, expired and malformed keys.
            Denied::Invalid => {
                Self::new(ProblemKind::InvalidApiKey, "The API key opens nothing here.")
            }
            Denied::Unavailable(_) => unavailable(&denied, "API keys cannot be checked now."),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid { field, code, message } => invalid_member(field, code, message),
            Error::NotFound(_) => Self::not_found(),
            Error::Refused(refusal) => refusal.into(),
            Error::KeyReused => {
                let detail = "The idempotency key was used for another request; use a new one.";
                Self::new(ProblemKind::KeyReused, detail)
            }
            Error::AnswerGone => {
                let detail = "It was done under this idempotency key before; its answer is not kept any more.";
                Self::new(ProblemKind::Conflict, detail)
            }
            Error::Busy(_) => busy(),
            Error::NoProcessor(mode) => {
                let detail = format!("There is no processor for {mode} mode.");
                Self::new(ProblemKind::Conflict, detail)
            }
            Error::NoTransport => {
                Self::new(ProblemKind::Conflict, "This gateway sends no webhooks.")
            }
            Error::EndpointDisabled => {
                Self::new(ProblemKind::Conflict, "The endpoint is disabled; enable it first.")
            }
            Error::AddressDenied(denied) => denied_address(&denied),
            Error::Notification(fault) => fault.into(),
            Error::Frozen => {
                let detail = "The gateway is frozen; nothing was changed.";
                Self::new(ProblemKind::Frozen, detail).retry_after(RETRY_FROZEN_SECS)
            }
            Error::Storage(fault) => fault.into(),
            Error::Notifier(_) => unavailable(&error, "Waiting is not possible now."),
            // The enum may grow; what is new is ours to sort in here.
            _ => internal(&error),
        }
    }
}

impl From<PlanError> for Problem {
    fn from(refusal: PlanError) -> Self {
        match refusal {
            PlanError::Amount(fault) => invalid_member("amount", fault.code(), fault.to_string()),
            PlanError::Zero => {
                invalid_member("amount", "too_small", "must be at least one minor unit")
            }
            PlanError::AboveRest { left } => {
                let msg = format!("must be at most {left} {}", left.currency().code());
                let error = FieldError::new(Location::Body, "amount", "above_rest", msg);
                Self::new(ProblemKind::AboveRest, "The amount is above what is left.")
                    .because(error)
            }
            PlanError::NoSuchOperation => Self::not_found(),
            PlanError::State { .. } | PlanError::TooManyOperations | PlanError::Transition(_) => {
                Self::new(ProblemKind::Conflict, sentence(&refusal))
            }
            _ => internal(&refusal),
        }
    }
}

impl From<StorageError> for Problem {
    fn from(fault: StorageError) -> Self {
        match fault {
            StorageError::Conflict(_) => busy(),
            StorageError::KeyReused => Error::KeyReused.into(),
            StorageError::Indeterminate(_) => unavailable(
                &fault,
                "It is not known whether this was applied; the same idempotency key will tell.",
            ),
            StorageError::Unavailable(_) => unavailable(&fault, "The storage cannot be reached."),
            StorageError::Full { .. } => unavailable(&fault, "The storage is full."),
            _ => internal(&fault),
        }
    }
}

impl From<NotificationError> for Problem {
    fn from(fault: NotificationError) -> Self {
        let (location, code, msg) = match fault {
            NotificationError::Unsupported => return Self::not_found(),
            NotificationError::NotAuthentic => {
                (Location::Header, "invalid_signature", "must carry a signature that verifies")
            }
            NotificationError::Malformed => (Location::Body, "malformed", "cannot be read"),
            _ => return internal(&fault),
        };
        Self::invalid(vec![FieldError::new(location, "", code, msg)])
    }
}

fn invalid_member(
    path: &'static str,
    code: &'static str,
    msg: impl Into<Cow<'static, str>>,
) -> Problem {
    Problem::invalid(vec![FieldError::new(Location::Body, path, code, msg)])
}

/// What is against an address. Says no more than the address itself did: nothing was resolved.
fn denied_address(denied: &TransportError) -> Problem {
    let why = denied.source.as_ref().and_then(|source| source.downcast_ref::<EgressDenied>());
    match why {
        Some(why) => invalid_member("url", why.code(), why.to_string()),
        None => {
            invalid_member("url", "address_denied", "must be an address that may be delivered to")
        }
    }
}

fn busy() -> Problem {
    let detail = "Somebody else is changing this; try again.";
    Problem::new(ProblemKind::InProgress, detail).retry_after(RETRY_SOON_SECS)
}

/// The cause goes to the log, not to the caller: it may name hosts, tables and files.
fn unavailable(cause: &(dyn std::error::Error + 'static), detail: &'static str) -> Problem {
    tracing::warn!(error = cause, "a request was not served");
    Problem::new(ProblemKind::Unavailable, detail).retry_after(RETRY_SOON_SECS)
}

fn internal(cause: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::error!(error = cause, "a request failed by a mistake of ours");
    Problem::new(ProblemKind::Internal, "The log has more under this request_id.")
}

/// An error's text as a sentence.
fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

/// One part of a request that is not valid. Never holds what was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FieldError {
    path: Cow<'static, str>,
    location: Location,
    msg: Cow<'static, str>,
    code: &'static str,
}

impl FieldError {
    pub(crate) fn new(
        location: Location,
        path: impl Into<Cow<'static, str>>,
        code: &'static str,
        msg: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { path: path.into(), location, msg: msg.into(), code }
    }
}

/// Where in a request a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Location {
    Body,
    Query,
    Header,
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    error: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

/// The kinds and what they mean, each under its slug.
const KINDS: &str = include_str!("problem.md");
/// What problem types start with by default: the headings of this module's documentation.
pub(crate) const TYPE_BASE: &str = "https://docs.rs/pgw-http/latest/pgw_http/problem/index.html#";
/// When to come again: guarded changes are over in milliseconds, and a lost storage is most often back in a second.
const RETRY_SOON_SECS: u32 = 1;
/// A freeze is ended by a person.
const RETRY_FROZEN_SECS: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_differ_and_their_headings_exist() {
        assert_eq!(KINDS.matches("# ").count(), ProblemKind::ALL.len());
        for kind in ProblemKind::ALL {
            let status = format!("{}. ", kind.status().as_u16());
            assert!(kind.description().starts_with(&status), "{kind:?}");
            let same = ProblemKind::ALL.into_iter().filter(|other| other.slug() == kind.slug());
            assert_eq!(same.count(), 1, "{kind:?}");
        }
    }

    #[test]
    fn no_cause_shows() {
        let secret = std::io::Error::other("db.internal:5432 refused");
        let fault = StorageError::Unavailable(std::sync::Arc::new(secret));
        let problem = Problem::from(Error::Storage(fault));
        assert!(!format!("{problem:?}").contains("5432"));
        let response = problem.into_response(TYPE_BASE, "req_1");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }
}

//! What the API counts, through the [`metrics`](https://docs.rs/metrics) facade as [`pgw_core::telemetry`] does: free until the host installs a
//! recorder. Requests refused before they reach a handler are counted like any other: by a limit, the denylist, or a full server.
//!
//! | metric | kind | unit | labels |
//! |---|---|---|---|
//! | [`REQUESTS`] | counter | requests answered | `method`: of the route, or `other`; `route`: its path with parameters in braces, or [`NO_ROUTE`]; `status`: the code |
//! | [`REQUEST_SECONDS`] | histogram | seconds, until the head of the answer | `route` |
//! | [`REQUESTS_IN_FLIGHT`] | gauge | requests | – |
//!
//! Each request of a route has a span `pgw.request` at `INFO` with `request_id`, `method` and `route` and, as they become known, `merchant`,
//! `mode`, `payment`, `delivery` and `event`; and one line with `status` and `duration_us` in it, of target [`ACCESS`]: the filter
//! `info,pgw_http::access=off` leaves the lines out. What the server itself answers has both too, with [`NO_ROUTE`]; a request that took too long
//! has the same `request_id` there as in the span of its route. None holds anything of a person, of a query or of a body.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use pgw_core::id::{DeliveryId, PaymentId};
use pgw_core::scope::Scope;
use tracing::Span;
use tracing::field::{Empty, display};

/// Requests answered, by method, route and status.
pub const REQUESTS: &str = "pgw_http_requests_total";
/// How long the head of an answer took, by route.
pub const REQUEST_SECONDS: &str = "pgw_http_request_duration_seconds";
/// Requests that have no answer yet.
pub const REQUESTS_IN_FLIGHT: &str = "pgw_http_requests_in_flight";
/// The label `route` of what the server itself answered: before anybody looked which route it is for, or because that took too long.
pub const NO_ROUTE: &str = "none";
/// The target of the line that each request leaves.
pub const ACCESS: &str = "pgw_http::access";

/// Tells a recorder what each metric means. Call it once, after the recorder is installed.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(REQUESTS, "Requests answered, by method, route and status");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "How long the head of an answer took");
    describe_gauge!(REQUESTS_IN_FLIGHT, "Requests that have no answer yet");
}

/// A request that is being answered; when it is dropped unanswered, whoever asked has left or the time was over.
#[derive(Debug)]
pub(crate) struct InFlight {
    method: &'static str,
    route: &'static str,
}

impl InFlight {
    pub(crate) fn begin(method: &Method, route: &'static str) -> Self {
        metrics::gauge!(REQUESTS_IN_FLIGHT).increment(1.0);
        Self { method: label(method), route }
    }

    /// Counts the answer and leaves its line. To be called inside the request's span.
    pub(crate) fn answered(self, status: StatusCode, took: Duration) {
        let Self { method, route } = self;
        answered(method, route, status);
        metrics::histogram!(REQUEST_SECONDS, "route" => route).record(took.as_secs_f64());
        line(status, took);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!(REQUESTS_IN_FLIGHT).decrement(1.0);
    }
}

/// Counts an answer of the server itself, and leaves its line.
#[cfg(feature = "serve")]
pub(crate) fn shed(request_id: &str, method: &Method, status: StatusCode, took: Duration) {
    answered(label(method), NO_ROUTE, status);
    span(request_id, method, NO_ROUTE).in_scope(|| line(status, took));
}

fn line(status: StatusCode, took: Duration) {
    let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    tracing::info!(target: ACCESS, status = status.as_u16(), duration_us, "answered");
}

fn answered(method: &'static str, route: &'static str, status: StatusCode) {
    let status = status.as_str().to_owned();
    metrics::counter!(REQUESTS, "method" => method, "route" => route, "status" => status)
        .increment(1);
}

/// Anybody may make up a method, and each label's value is kept.
fn label(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"];
    KNOWN.into_iter().find(|known| method == known).unwrap_or("other")
}

/// The span of a request.
pub(crate) fn span(request_id: &str, method: &Method, route: &'static str) -> Span {
    tracing::info_span!(
        "pgw.request",
        request_id,
        method = label(method),
        route,
        merchant = Empty,
        mode = Empty,
        payment = Empty,
        delivery = Empty,
        event = Empty,
    )
}

/// Whose request it is, once that is known.
pub(crate) fn is_of(scope: &Scope) {
    // Together: a formatter of JSON reads and writes all fields of a span anew with each record.
    let span = Span::current();
    let (merchant, mode) = (scope.merchant.as_str(), scope.mode.as_str());
    tracing::record_all!(span, merchant = merchant, mode = mode);
}

/// The payment that it is about. By its id, not by what the path holds: nobody else's text goes to the logs.
pub(crate) fn is_about_payment(id: PaymentId) {
    Span::current().record("payment", display(id));
}

/// The delivery that it is about, which is one of an event.
pub(crate) fn is_about_delivery(id: DeliveryId) {
    let span = Span::current();
    tracing::record_all!(span, delivery = display(id), event = display(id.event()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_few() {
        assert_eq!(label(&Method::PATCH), "PATCH");
        assert_eq!(label(&Method::from_bytes(b"BREW").unwrap()), "other");
    }
}

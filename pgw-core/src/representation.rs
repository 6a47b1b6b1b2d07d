//! The JSON form of each object, for answers and event bodies alike. Rendered here, once.
//!
//! The bytes are stable under `JSON.stringify(JSON.parse(body))`: compact, numbers in their shortest form,
//! members in the order JavaScript keeps, none twice, and only the escapes `JSON.stringify` itself
//! uses. A receiver that re-serialises before it verifies therefore still sees the signed bytes.

mod access;

mod log;

mod privacy;

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{Event, EventType};
use crate::gateway::{BulkRetry, Run};
use crate::id::{EventId, RefundId};
use crate::idempotency::StoredAnswer;
use crate::metadata::Metadata;
use crate::money::Money;
use crate::payment::{Failure, NextAction, Operation, OperationKind, Payment, PaymentState};
use crate::scope::Scope;
use crate::timestamp::Timestamp;
use crate::webhook::{
    Attempt, AttemptOutcome, Delivery, DeliveryState, Endpoint, EndpointStatus, EndpointWithSecret,
    Ordering, WhenExhausted,
};

pub use access::{api_key, api_key_with_secret, bulk_revocation, denied_network};

pub use log::audit_row;

pub use privacy::{consent, erasure};

/// The version of the shapes below, in every event.
pub const API_VERSION: &str = "2026-11-01";

/// A payment.
#[must_use]
pub fn payment(payment: &Payment) -> Vec<u8> {
    render(&PaymentView::of(payment, None))
}

/// A payment as the answer to a capture or cancel: with the operation that was asked for.
#[must_use]
pub fn payment_with_operation(state: &PaymentState, operation: &Operation) -> Vec<u8> {
    render(&PaymentView::of(&state.payment, Some(operation)))
}

/// A refund: an operation of kind refund, under its wire id.
#[must_use]
pub fn refund(scope: &Scope, operation: &Operation) -> Vec<u8> {
    render(&RefundView {
        object: "refund",
        id: operation.id.into(),
        merchant_id: scope.merchant.as_str(),
        mode: scope.mode.as_str(),
        payment_id: operation.payment,
        status: operation.state.as_str(),
        amount: &decimal(operation.amount),
        amount_minor: operation.amount.minor(),
        currency: operation.amount.currency().code(),
        reason: operation.reason.as_ref().map(|reason| reason.as_str()),
        processor_reference: operation.reference.as_ref().map(|reference| reference.as_str()),
        failure: operation.failure.as_ref().map(FailureView::of),
        needs_review: operation.needs_review,
        created_at: operation.created_at,
        updated_at: operation.updated_at,
    })
}

/// An operation.
#[must_use]
pub fn operation(operation: &Operation) -> Vec<u8> {
    render(&OperationView::of(operation))
}

/// An endpoint, without its secret.
#[must_use]
pub fn endpoint(endpoint: &Endpoint) -> Vec<u8> {
    render(&EndpointView::of(endpoint, None))
}

/// An endpoint with a new secret: the one time it is shown.
#[must_use]
pub fn endpoint_with_secret(created: &EndpointWithSecret) -> Vec<u8> {
    render(&EndpointView::of(&created.endpoint, Some(created.secret.expose())))
}

/// A delivery (the seed's `webhook_event`).
#[must_use]
pub fn delivery(delivery: &Delivery) -> Vec<u8> {
    let failed = match delivery.state {
        DeliveryState::Failed(because) => Some(because.as_str()),
        DeliveryState::Pending | DeliveryState::Delivered => None,
    };
    render(&DeliveryView {
        object: "webhook_event",
        id: delivery.id,
        merchant_id: delivery.scope.merchant.as_str(),
        mode: delivery.scope.mode.as_str(),
        event_id: delivery.id.event(),
        endpoint_id: delivery.id.endpoint(),
        event_type: delivery.event_type.as_str(),
        payment_id: delivery.payment,
        status: delivery.state.as_str(),
        failed_because: failed,
        retry_count: delivery.attempts.saturating_sub(1),
        attempts: delivery.attempts_total,
        created_at: delivery.created_at,
        updated_at: delivery.updated_at,
    })
}

/// What a bulk retry came to. `next_cursor` goes into the `after` of the next request.
#[must_use]
pub fn bulk_retry(retry: &BulkRetry) -> Vec<u8> {
    render(&BulkRetryView {
        object: "bulk_retry",
        dry_run: retry.run == Run::Dry,
        matched: retry.matched,
        retried: retry.retried,
        has_more: retry.next.is_some(),
        next_cursor: retry.next.map(|cursor| cursor.to_string()),
    })
}

/// One attempt of a delivery.
#[must_use]
pub fn attempt(attempt: &Attempt) -> Vec<u8> {
    let (status_code, response, error) = match &attempt.outcome {
        AttemptOutcome::Answered { status, body_start } => {
            (Some(*status), Some(&**body_start), None)
        }
        AttemptOutcome::Failed(kind) => (None, None, Some(kind.as_str())),
    };
    render(&AttemptView {
        object: "webhook_attempt",
        delivery_id: attempt.delivery,
        number: attempt.number,
        status_code,
        response,
        error,
        latency_ms: attempt.latency_ms,
        started_at: attempt.started_at,
    })
}

/// An event as it is sent: its stored bytes are this.
#[must_use]
pub fn event_body(head: &EventHead<'_>, object: &[u8]) -> EventBody {
    const DATA: &[u8] = b",\"data\":{\"object\":";
    let mut head = render_into(Vec::with_capacity(256), head);
    // The head is a whole object; the data member goes before its closing brace.
    head.pop();
    let start = head.len() + DATA.len();
    // Exactly as long as it will be: bodies are kept, and a `Bytes` of a full `Vec` costs nothing more.
    let mut bytes = Vec::with_capacity(start + object.len() + 2);
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(DATA);
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(b"}}");
    let object = start..start + object.len();
    EventBody { bytes: Bytes::from(bytes), object }
}

/// An event's members before its data.
#[derive(Debug, Serialize)]
pub struct EventHead<'a> {
    /// Its id.
    pub id: EventId,
    /// [`API_VERSION`].
    pub api_version: &'static str,
    /// Its type.
    #[serde(rename = "type", serialize_with = "event_type_name")]
    pub event_type: EventType,
    /// When it happened.
    pub timestamp: Timestamp,
    /// Its place among the payment's events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Whose it is.
    pub merchant_id: &'a str,
}

/// A rendered event.
#[derive(Debug, Clone)]
pub struct EventBody {
    /// The whole body.
    pub bytes: Bytes,
    /// Where in it the object stands.
    pub object: Range<usize>,
}

impl EventBody {
    /// The object alone, sharing the body's memory: an answer with the same object costs nothing to keep.
    #[must_use]
    pub fn answer(&self, status: u16) -> StoredAnswer {
        StoredAnswer { status, body: self.bytes.slice(self.object.clone()) }
    }
}

/// The stored bytes of an event, as the event list shows it.
#[must_use]
pub fn event(event: &Event) -> Bytes {
    event.body.clone()
}

#[derive(Serialize)]
struct PaymentView<'a> {
    object: &'static str,
    id: crate::id::PaymentId,
    merchant_id: &'a str,
    mode: &'static str,
    status: &'static str,
    amount: Box<RawValue>,
    amount_minor: i64,
    currency: &'static str,
    authorized_minor: i64,
    captured_minor: i64,
    refunded_minor: i64,
    refundable_minor: i64,
    capture: &'static str,
    customer_id: Option<&'a str>,
    customer_email: &'a str,
    customer_name: &'a str,
    description: Option<&'a str>,
    metadata: &'a Metadata,
    payment_method: &'a str,
    processor: &'a str,
    processor_reference: Option<&'a str>,
    failure: Option<FailureView<'a>>,
    next_action: Option<NextActionView<'a>>,
    unknown_operations: u32,
    needs_review: bool,
    disputed: bool,
    expires_at: Timestamp,
    version: u64,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<OperationView<'a>>,
}

impl<'a> PaymentView<'a> {
    fn of(payment: &'a Payment, operation: Option<&'a Operation>) -> Self {
        Self {
            object: "payment",
            id: payment.id,
            merchant_id: payment.scope.merchant.as_str(),
            mode: payment.scope.mode.as_str(),
            status: payment.status.as_str(),
            amount: decimal(payment.amount),
            amount_minor: payment.amount.minor(),
            currency: payment.amount.currency().code(),
            authorized_minor: payment.authorized_minor,
            captured_minor: payment.captured_minor,
            refunded_minor: payment.refunded_minor,
            refundable_minor: payment.refundable_minor(),
            capture: payment.capture.as_str(),
            customer_id: payment.customer.id.as_ref().map(|id| id.as_str()),
            customer_email: payment.customer.email.as_str(),
            customer_name: payment.customer.name.as_str(),
            description: payment.description.as_ref().map(|text| text.as_str()),
            metadata: &payment.metadata,
            payment_method: payment.payment_method.as_str(),
            processor: payment.processor.as_str(),
            processor_reference: payment.processor_reference.as_ref().map(|text| text.as_str()),
            failure: payment.failure.as_ref().map(FailureView::of),
            next_action: payment.next_action.as_ref().map(NextActionView::of),
            unknown_operations: payment.unknown_operations,
            needs_review: payment.needs_review,
            disputed: payment.disputed,
            expires_at: payment.expires_at,
            version: payment.version,
            created_at: payment.created_at,
            updated_at: payment.updated_at,
            operation: operation.map(OperationView::of),
        }
    }
}

#[derive(Serialize)]
struct FailureView<'a> {
    code: &'a str,
    message: &'a str,
}

impl<'a> FailureView<'a> {
    fn of(failure: &'a Failure) -> Self {
        Self { code: failure.code(), message: failure.message() }
    }
}

#[derive(Serialize)]
struct NextActionView<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    url: &'a str,
}

impl<'a> NextActionView<'a> {
    fn of(action: &'a NextAction) -> Self {
        match action {
            NextAction::Redirect(url) => Self { kind: "redirect", url },
        }
    }
}

#[derive(Serialize)]
struct OperationView<'a> {
    object: &'static str,
    id: crate::id::OperationId,
    payment_id: crate::id::PaymentId,
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    amount: Box<RawValue>,
    amount_minor: i64,
    currency: &'static str,
    attempts: u32,
    processor_reference: Option<&'a str>,
    failure: Option<FailureView<'a>>,
    needs_review: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<'a> OperationView<'a> {
    fn of(operation: &'a Operation) -> Self {
        Self {
            object: "operation",
            id: operation.id,
            payment_id: operation.payment,
            kind: operation.kind.as_str(),
            status: operation.state.as_str(),
            amount: decimal(operation.amount),
            amount_minor: operation.amount.minor(),
            currency: operation.amount.currency().code(),
            attempts: operation.attempts,
            processor_reference: operation.reference.as_ref().map(|text| text.as_str()),
            failure: operation.failure.as_ref().map(FailureView::of),
            needs_review: operation.needs_review,
            created_at: operation.created_at,
            updated_at: operation.updated_at,
        }
    }
}

#[derive(Serialize)]
struct RefundView<'a> {
    object: &'static str,
    id: RefundId,
    merchant_id: &'a str,
    mode: &'static str,
    payment_id: crate::id::PaymentId,
    status: &'static str,
    amount: &'a RawValue,
    amount_minor: i64,
    currency: &'static str,
    reason: Option<&'a str>,
    processor_reference: Option<&'a str>,
    failure: Option<FailureView<'a>>,
    needs_review: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize)]
struct EndpointView<'a> {
    object: &'static str,
    id: crate::id::EndpointId,
    merchant_id: &'a str,
    mode: &'static str,
    url: &'a str,
    description: Option<&'a str>,
    event_types: Vec<String>,
    signature_profiles: Vec<&'static str>,
    headers: Vec<&'a str>,
    timeout_ms: Option<u64>,
    concurrency: u8,
    rate_per_second: Option<u32>,
    ordering: &'static str,
    on_exhausted: Option<&'static str>,
    status: &'static str,
    disabled_reason: Option<&'a str>,
    failing_since: Option<Timestamp>,
    previous_secret_expires_at: Option<Timestamp>,
    version: u64,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> EndpointView<'a> {
    fn of(endpoint: &'a Endpoint, secret: Option<&'a str>) -> Self {
        let (status, disabled_reason) = match &endpoint.status {
            EndpointStatus::Enabled => ("enabled", None),
            EndpointStatus::Disabled { reason } => ("disabled", Some(reason.as_str())),
            EndpointStatus::Deleted => ("deleted", None),
        };
        let options = &endpoint.options;
        let (ordering, on_exhausted) = match options.ordering {
            Ordering::AsDue => ("none", None),
            Ordering::ByPayment(WhenExhausted::Skip) => ("payment", Some("skip")),
            Ordering::ByPayment(WhenExhausted::Park) => ("payment", Some("park")),
        };
        Self {
            object: "webhook_endpoint",
            id: endpoint.id,
            merchant_id: endpoint.scope.merchant.as_str(),
            mode: endpoint.scope.mode.as_str(),
            url: endpoint.url.as_str(),
            description: endpoint.description.as_ref().map(|text| text.as_str()),
            event_types: endpoint.filters.iter().map(ToString::to_string).collect(),
            signature_profiles: endpoint.profiles.iter().map(|profile| profile.as_str()).collect(),
            headers: endpoint
                .headers
                .iter()
                .flat_map(|own| &own.names)
                .map(|name| &**name)
                .collect(),
            timeout_ms: options
                .timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            concurrency: options.concurrency_max(),
            rate_per_second: options.rate_per_s.map(NonZeroU32::get),
            ordering,
            on_exhausted,
            status,
            disabled_reason,
            failing_since: endpoint.health.failing_since(),
            previous_secret_expires_at: endpoint.previous.as_ref().map(|previous| previous.until),
            version: endpoint.version,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            secret,
        }
    }
}

#[derive(Serialize)]
struct DeliveryView<'a> {
    object: &'static str,
    id: crate::id::DeliveryId,
    merchant_id: &'a str,
    mode: &'static str,
    event_id: EventId,
    endpoint_id: crate::id::EndpointId,
    event_type: &'static str,
    payment_id: Option<crate::id::PaymentId>,
    status: &'static str,
    failed_because: Option<&'static str>,
    retry_count: u32,
    attempts: u32,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize)]
struct BulkRetryView {
    object: &'static str,
    dry_run: bool,
    matched: usize,
    retried: usize,
    has_more: bool,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct AttemptView<'a> {
    object: &'static str,
    delivery_id: crate::id::DeliveryId,
    number: u32,
    status_code: Option<u16>,
    response: Option<&'a str>,
    error: Option<&'static str>,
    latency_ms: u32,
    started_at: Timestamp,
}

/// The object of an event about an operation: the refund for refunds, the payment for everything else.
pub(crate) fn subject(state: &PaymentState, subject: Option<&Operation>) -> Vec<u8> {
    match subject {
        Some(operation) if operation.kind == OperationKind::Refund => {
            refund(&state.payment.scope, operation)
        }
        _ => payment(&state.payment),
    }
}

fn event_type_name<S: serde::Serializer>(
    event_type: &EventType,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(event_type.as_str())
}

fn decimal(money: Money) -> Box<RawValue> {
    let mut text = String::with_capacity(20);
    write!(text, "{money}").expect("writing to a String does not fail");
    RawValue::from_string(text).expect("an amount is written as a JSON number")
}

fn render(view: &impl Serialize) -> Vec<u8> {
    // A payment of ordinary size; grown for the large ones, cut to size by whoever keeps it.
    render_into(Vec::with_capacity(1_024), view)
}

fn render_into(mut bytes: Vec<u8>, view: &impl Serialize) -> Vec<u8> {
    serde_json::to_writer(&mut bytes, view).expect(
        "the views hold only texts, integers and maps with text keys, and a Vec takes any write",
    );
    bytes
}

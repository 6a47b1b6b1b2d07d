//! The schemas of answers: what [`pgw_core::representation`] writes.

use pgw_core::access::{AuditAction, AuditChange, Role};
use pgw_core::currency::Currency;
use pgw_core::event::EventType;
use pgw_core::id::{
    AuditId, ConsentId, DeliveryId, EndpointId, ErasureId, EventId, KeyId, OperationId, PaymentId,
    RefundId,
};
use pgw_core::metadata::Metadata;
use pgw_core::payment::{OperationKind, OperationState, PaymentStatus};
use pgw_core::representation::API_VERSION;
use pgw_core::webhook::{Attempt, DeliveryOptions, Profile};
use serde_json::{Value, json};

use super::schema::{
    about, between, exactly, flag, id, list, named, nullable, object, one_of, text, text_to, time,
    uri, whole, with,
};

pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let mut schemas = vec![
        ("Payment", payment()),
        ("PaymentWithOperation", with(payment(), "operation", named("Operation"))),
        ("Failure", object([("code", text()), ("message", text())])),
        ("NextAction", object([("type", one_of(["redirect"])), ("url", uri())])),
        ("Operation", operation()),
        ("Refund", refund()),
        ("Event", event()),
        ("WebhookEndpoint", endpoint()),
        ("WebhookEndpointWithSecret", with_secret(endpoint())),
        ("WebhookEvent", delivery()),
        ("WebhookAttempt", attempt()),
        ("BulkRetry", bulk_retry()),
        ("ApiKey", api_key()),
        ("ApiKeyWithSecret", with(api_key(), "key", about(text(), SHOWN_ONCE))),
        ("BulkRevocation", bulk_revocation()),
        ("DeniedNetwork", denied_network()),
        ("AuditRow", audit_row()),
        ("Erasure", erasure()),
        ("Consent", consent()),
        ("CustomerExport", json!({"type": "object"})),
        ("Received", object([("received", flag())])),
        ("Problem", problem()),
    ];
    for (name, row) in LISTS {
        schemas.push((name, page(row)));
    }
    schemas
}

/// The lists, and what they are of.
const LISTS: [(&str, &str); 12] = [
    ("PaymentList", "Payment"),
    ("OperationList", "Operation"),
    ("RefundList", "Refund"),
    ("EventList", "Event"),
    ("WebhookEndpointList", "WebhookEndpoint"),
    ("WebhookEventList", "WebhookEvent"),
    ("WebhookAttemptList", "WebhookAttempt"),
    ("ApiKeyList", "ApiKey"),
    ("DeniedNetworkList", "DeniedNetwork"),
    ("AuditRowList", "AuditRow"),
    ("ErasureList", "Erasure"),
    ("ConsentList", "Consent"),
];

fn page(row: &str) -> Value {
    let cursor = about(nullable(text()), "For `after` of the next request; null at the end.");
    object([
        ("data", json!({"type": "array", "items": named(row)})),
        ("has_more", flag()),
        ("next_cursor", cursor),
    ])
}

fn amount() -> Value {
    about(json!({"type": "number"}), "In major units, exact.")
}

fn currency() -> Value {
    about(one_of(Currency::all().map(Currency::code)), "ISO 4217.")
}

fn mode() -> Value {
    one_of(["test", "live"])
}

fn minor() -> Value {
    about(whole(0), "In minor units.")
}

fn payment() -> Value {
    let metadata = json!({
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": Metadata::VALUE_CHARS_MAX},
        "maxProperties": Metadata::PAIRS_MAX,
    });
    object([
        ("object", exactly("payment")),
        ("id", id(PaymentId::PREFIX)),
        ("merchant_id", text()),
        ("mode", mode()),
        ("status", one_of(PaymentStatus::ALL.map(PaymentStatus::as_str))),
        ("amount", amount()),
        ("amount_minor", minor()),
        ("currency", currency()),
        ("authorized_minor", minor()),
        ("captured_minor", minor()),
        ("refunded_minor", minor()),
        ("refundable_minor", minor()),
        ("capture", one_of(["automatic", "manual"])),
        ("customer_id", nullable(text())),
        ("customer_email", text()),
        ("customer_name", text()),
        ("description", nullable(text())),
        ("metadata", metadata),
        ("payment_method", text()),
        ("processor", text()),
        ("processor_reference", nullable(text())),
        ("failure", nullable(named("Failure"))),
        ("next_action", nullable(named("NextAction"))),
        (
            "unknown_operations",
            about(whole(0), "How many operations may or may not have happened."),
        ),
        ("needs_review", flag()),
        ("disputed", flag()),
        ("expires_at", time()),
        ("version", about(whole(1), "Counts its changes.")),
        ("created_at", time()),
        ("updated_at", time()),
    ])
}

fn operation() -> Value {
    object([
        ("object", exactly("operation")),
        ("id", id(OperationId::PREFIX)),
        ("payment_id", id(PaymentId::PREFIX)),
        ("type", one_of(OperationKind::ALL.map(OperationKind::as_str))),
        ("status", one_of(OperationState::ALL.map(OperationState::as_str))),
        ("amount", amount()),
        ("amount_minor", minor()),
        ("currency", currency()),
        ("attempts", whole(0)),
        ("processor_reference", nullable(text())),
        ("failure", nullable(named("Failure"))),
        ("needs_review", flag()),
        ("created_at", time()),
        ("updated_at", time()),
    ])
}

fn refund() -> Value {
    object([
        ("object", exactly("refund")),
        ("id", id(RefundId::PREFIX)),
        ("merchant_id", text()),
        ("mode", mode()),
        ("payment_id", id(PaymentId::PREFIX)),
        ("status", one_of(OperationState::ALL.map(OperationState::as_str))),
        ("amount", amount()),
        ("amount_minor", minor()),
        ("currency", currency()),
        ("reason", nullable(text())),
        ("processor_reference", nullable(text())),
        ("failure", nullable(named("Failure"))),
        ("needs_review", flag()),
        ("created_at", time()),
        ("updated_at", time()),
    ])
}

fn event() -> Value {
    let about_what = json!({
        "anyOf": [named("Payment"), named("Refund"), named("WebhookEndpoint")],
    });
    let event = object([
        ("id", about(id(EventId::PREFIX), "The same in every delivery: what to tell doubles by.")),
        ("api_version", exactly(API_VERSION)),
        ("type", one_of(EventType::ALL.iter().map(|kind| kind.as_str()))),
        ("timestamp", time()),
        ("merchant_id", text()),
        ("data", object([("object", about_what)])),
    ]);
    with(event, "sequence", about(whole(1), "Counts the events of one payment, without a gap."))
}

fn endpoint() -> Value {
    let timeout = |wait: std::time::Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let (shortest, longest) =
        (timeout(DeliveryOptions::TIMEOUT_MIN), timeout(DeliveryOptions::TIMEOUT_MAX));
    object([
        ("object", exactly("webhook_endpoint")),
        ("id", id(EndpointId::PREFIX)),
        ("merchant_id", text()),
        ("mode", mode()),
        ("url", uri()),
        ("description", nullable(text())),
        ("event_types", json!({"type": "array", "items": {"type": "string"}})),
        ("signature_profiles", list(one_of(Profile::ALL.map(Profile::as_str)), Profile::ALL.len())),
        ("headers", about(list(text(), usize::from(u8::MAX)), "The names of its own headers.")),
        ("timeout_ms", nullable(between(shortest, longest))),
        ("concurrency", between(1, DeliveryOptions::CONCURRENCY_MAX.into())),
        ("rate_per_second", nullable(between(1, DeliveryOptions::RATE_MAX.into()))),
        ("ordering", one_of(["none", "payment"])),
        ("on_exhausted", nullable(one_of(["skip", "park"]))),
        ("status", one_of(["enabled", "disabled", "deleted"])),
        ("disabled_reason", nullable(text())),
        ("failing_since", nullable(time())),
        ("previous_secret_expires_at", nullable(time())),
        ("version", whole(1)),
        ("created_at", time()),
        ("updated_at", time()),
    ])
}

fn with_secret(endpoint: Value) -> Value {
    with(endpoint, "secret", about(text(), SHOWN_ONCE))
}

fn delivery() -> Value {
    object([
        ("object", exactly("webhook_event")),
        ("id", about(text(), &format!("`{}_` and two TypeID suffixes.", DeliveryId::PREFIX))),
        ("merchant_id", text()),
        ("mode", mode()),
        ("event_id", id(EventId::PREFIX)),
        ("endpoint_id", id(EndpointId::PREFIX)),
        ("event_type", one_of(EventType::ALL.iter().map(|kind| kind.as_str()))),
        ("payment_id", nullable(id(PaymentId::PREFIX))),
        ("status", one_of(["pending", "delivered", "failed"])),
        ("failed_because", nullable(text())),
        ("retry_count", whole(0)),
        ("attempts", whole(0)),
        ("created_at", time()),
        ("updated_at", time()),
    ])
}

fn attempt() -> Value {
    let start = about(
        nullable(json!({"type": "string", "maxLength": Attempt::BODY_START_MAX})),
        "The first kilobyte of the answer.",
    );
    object([
        ("object", exactly("webhook_attempt")),
        ("delivery_id", text()),
        ("number", whole(1)),
        ("status_code", nullable(between(100, 999))),
        ("response", start),
        ("error", nullable(text())),
        ("latency_ms", whole(0)),
        ("started_at", time()),
    ])
}

fn bulk_retry() -> Value {
    object([
        ("object", exactly("bulk_retry")),
        ("dry_run", flag()),
        ("matched", whole(0)),
        ("retried", whole(0)),
        ("has_more", flag()),
        ("next_cursor", nullable(text())),
    ])
}

fn api_key() -> Value {
    object([
        ("object", exactly("api_key")),
        ("id", id(KeyId::PREFIX)),
        ("merchant_id", text()),
        ("mode", mode()),
        ("role", one_of(Role::ALL.map(Role::as_str))),
        ("name", text()),
        ("prefix", about(text(), "What the key is found by; opens nothing.")),
        ("created_at", time()),
        ("expires_at", nullable(time())),
        ("last_used_at", about(nullable(time()), "To the minute.")),
        ("revoked_at", nullable(time())),
        ("revoked_because", nullable(text())),
    ])
}

fn bulk_revocation() -> Value {
    object([
        ("object", exactly("bulk_revocation")),
        ("matched", whole(0)),
        ("revoked", whole(0)),
        ("has_more", flag()),
        ("next_cursor", nullable(text())),
    ])
}

fn denied_network() -> Value {
    object([
        ("object", exactly("denied_network")),
        ("network", text()),
        ("reason", nullable(text())),
        ("created_by", text()),
        ("created_at", time()),
        ("expires_at", nullable(time())),
    ])
}

fn audit_row() -> Value {
    let change = object([("field", text()), ("old", nullable(text())), ("new", nullable(text()))]);
    let changes = about(list(change, AuditChange::COUNT_MAX), "What became of what was there.");
    object([
        ("object", exactly("audit_row")),
        ("id", id(AuditId::PREFIX)),
        ("merchant_id", text()),
        ("mode", mode()),
        ("created_at", time()),
        ("actor", text()),
        ("action", one_of(AuditAction::ALL.iter().map(|action| action.as_str()))),
        ("outcome", one_of(["success", "failure"])),
        ("origin", about(text(), "The client's address, or `unknown`.")),
        ("target", text()),
        ("request_id", nullable(text())),
        ("changes", changes),
    ])
}

fn erasure() -> Value {
    let customer = about(text(), "What the customer's payments name as their customer now.");
    object([
        ("object", exactly("erasure")),
        ("id", id(ErasureId::PREFIX)),
        ("merchant_id", text()),
        ("mode", mode()),
        ("customer_id", customer),
        ("state", one_of(["marked", "rewriting", "done"])),
        ("payments", whole(0)),
        ("payments_redacted", whole(0)),
        ("requested_at", time()),
        ("done_at", nullable(time())),
    ])
}

fn consent() -> Value {
    object([
        ("object", exactly("consent")),
        ("id", id(ConsentId::PREFIX)),
        ("merchant_id", text()),
        ("mode", mode()),
        ("purpose", text()),
        ("version", about(text(), "Which wording was agreed to.")),
        ("source", nullable(text())),
        ("given_at", time()),
        ("withdrawn_at", nullable(time())),
    ])
}

fn problem() -> Value {
    let part = object([
        ("path", about(text(), "The member, parameter or header; empty for the whole.")),
        ("location", one_of(["body", "query", "header"])),
        ("msg", text()),
        ("code", text()),
    ]);
    let problem = object([
        ("type", about(uri(), "Which kind of problem: the heading of its documentation.")),
        ("title", text()),
        ("status", between(400, 599)),
        ("detail", text_to(1_000)),
        ("error", about(text(), "The title again.")),
        ("request_id", text()),
    ]);
    let parts = json!({"type": "array", "items": part});
    let parts = about(parts, "What is wrong with which part. Only with 400 and 422.");
    let mut problem = with(problem, "errors", parts);
    problem["x-problem-types"] = super::problem_kinds().into();
    problem
}

const SHOWN_ONCE: &str = "Shown this once and never again.";

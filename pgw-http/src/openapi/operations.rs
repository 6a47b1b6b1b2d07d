//! What each route is for, takes and answers. One entry for each line of the table of routes; a test misses those that are
//! not here.

use pgw_core::access::AuditAction;
use pgw_core::currency::Currency;
use pgw_core::event::EventType;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::payment::PaymentStatus;
use serde_json::{Value, json};

use super::schema::{between, one_of, text, time, whole};
use crate::routes::Route;

/// The description of a route.
pub(super) struct Operation {
    method: &'static str,
    path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    pub(super) headers: &'static [&'static str],
    /// The schema of the JSON body.
    pub(super) body: Option<&'static str>,
    pub(super) is_body_required: bool,
    /// Whether the body is whatever the sender says.
    pub(super) is_any_body: bool,
    /// The path of what it makes.
    pub(super) makes: Option<&'static str>,
    /// Statuses of success and the schemas of their bodies; none for an empty one.
    pub(super) answers: &'static [(u16, &'static str)],
}

impl Operation {
    pub(super) fn describes(&self, route: &Route) -> bool {
        self.method == route.method().as_str() && self.path == route.path()
    }

    /// The object it is about.
    pub(super) fn tag(&self) -> &'static str {
        self.path.split('/').nth(1).unwrap_or_default()
    }

    const fn query(mut self, parameters: &'static [Parameter]) -> Self {
        self.query = parameters;
        self
    }

    const fn headers(mut self, names: &'static [&'static str]) -> Self {
        self.headers = names;
        self
    }

    /// A body that must be there.
    const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self.is_body_required = true;
        self
    }

    /// A body that may be left out.
    const fn optional(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }

    /// Makes something that has its own path.
    const fn makes(mut self, path: &'static str) -> Self {
        self.makes = Some(path);
        self
    }

    const fn any_body(mut self) -> Self {
        self.is_any_body = true;
        self
    }
}

const fn op(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        query: &[],
        headers: &[],
        body: None,
        is_body_required: false,
        is_any_body: false,
        makes: None,
        answers,
    }
}

/// A parameter of a query.
#[derive(Clone, Copy)]
pub(super) struct Parameter {
    /// What it is called in the document.
    pub(super) component: &'static str,
    /// What it is called in a query.
    pub(super) name: &'static str,
    pub(super) schema: fn() -> Value,
    pub(super) description: &'static str,
    pub(super) is_required: bool,
}

impl Parameter {
    const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }
}

const fn parameter(
    component: &'static str,
    name: &'static str,
    schema: fn() -> Value,
    description: &'static str,
) -> Parameter {
    Parameter { component, name, schema, description, is_required: false }
}

const LIMIT: Parameter =
    parameter("Limit", "limit", || between(1, 100), "Rows of a page; 20 by default.");
const AFTER: Parameter = parameter("After", "after", text, "The `next_cursor` of the page before.");
const BEFORE: Parameter =
    parameter("Before", "before", text, "The other direction; not with `after`.");
const POSITION: Parameter =
    parameter("Position", "after", || whole(0), "The position, or sequence, of the last one seen.");
const PAYMENT_STATUS: Parameter = parameter(
    "PaymentStatus",
    "status",
    || one_of(PaymentStatus::ALL.map(PaymentStatus::as_str)),
    "With this status.",
);
const DELIVERY_STATUS: Parameter = parameter(
    "WebhookEventStatus",
    "status",
    || one_of(["pending", "delivered", "failed"]),
    "With this status.",
);
const CUSTOMER: Parameter = parameter("CustomerId", "customer_id", text, "Of this customer.");
const CURRENCY: Parameter = parameter(
    "Currency",
    "currency",
    || one_of(Currency::all().map(Currency::code)),
    "In this one, ISO 4217.",
);
const FROM: Parameter = parameter("CreatedFrom", "created_from", time, "Created then or later.");
const TO: Parameter = parameter("CreatedBefore", "created_before", time, "Created earlier.");
const KEY: Parameter =
    parameter("MadeUnder", "idempotency_key", text, "Made under this idempotency key.");
const PAYMENT: Parameter = parameter("PaymentId", "payment_id", text, "Of this payment.");
const ENDPOINT: Parameter = parameter("EndpointId", "endpoint_id", text, "To this endpoint.");
const NETWORK: Parameter =
    parameter("Network", "network", text, "The very network that was denied.").required();
const ACTOR: Parameter =
    parameter("Actor", "actor", text, "Done by it: a key's id, `host`, `worker`, `processor` …");
const ACTION: Parameter = parameter(
    "Action",
    "action",
    || one_of(AuditAction::ALL.iter().map(|action| action.as_str())),
    "What was done.",
);
const OBJECT: Parameter = parameter("Object", "object", text, "Done to it: an id, or a route.");
const FORMAT: Parameter =
    parameter("Format", "format", || one_of(["json", "csv"]), "`json` unless it is given.");
const OUTCOME: Parameter =
    parameter("Outcome", "outcome", || one_of(["success", "failure"]), "Whether it worked.");
const TYPE: Parameter = parameter(
    "EventType",
    "event_type",
    || one_of(EventType::ALL.iter().map(|kind| kind.as_str())),
    "Of events of this type.",
);

/// Every parameter of a query that a route may have.
pub(super) const PARAMETERS: &[Parameter] = &[
    LIMIT,
    AFTER,
    BEFORE,
    POSITION,
    PAYMENT_STATUS,
    DELIVERY_STATUS,
    CUSTOMER,
    CURRENCY,
    FROM,
    TO,
    KEY,
    PAYMENT,
    ENDPOINT,
    TYPE,
    NETWORK,
    ACTOR,
    ACTION,
    OBJECT,
    OUTCOME,
    FORMAT,
];

const PAYMENTS: &[Parameter] =
    &[LIMIT, AFTER, BEFORE, PAYMENT_STATUS, CUSTOMER, CURRENCY, FROM, TO, KEY];
const DELIVERIES: &[Parameter] = &[LIMIT, AFTER, BEFORE, DELIVERY_STATUS, ENDPOINT, TYPE, FROM, TO];
const AUDIT: &[Parameter] = &[LIMIT, AFTER, BEFORE, FROM, TO, ACTOR, ACTION, OBJECT, OUTCOME];
const REFUNDS: &[Parameter] = &[LIMIT, AFTER, BEFORE, PAYMENT];
const PAGE: &[Parameter] = &[LIMIT, AFTER, BEFORE];
const ONWARDS: &[Parameter] = &[LIMIT, POSITION];

/// Headers that callers may set: name, schema, description.
pub(super) fn header_parameters() -> [(&'static str, Value, &'static str); 4] {
    let max = IdempotencyKey::LEN_MAX;
    let bare = format!("[!#-~][!-~]{{0,{}}}", max - 1);
    let quoted = format!("\"[!#-\\[\\]-~]{{1,{max}}}\"");
    let key = json!({"type": "string", "pattern": format!("^({bare}|{quoted})$")});
    [
        ("Idempotency-Key", key, "Makes another try of the same request safe; see Idempotency."),
        ("Prefer", text(), "`wait=N`: wait up to N seconds, at most 30, for the outcome."),
        ("X-Request-Id", text(), "1 to 64 of A-Z a-z 0-9 . _ -; others are replaced."),
        ("Last-Event-ID", whole(0), "The `id` of the last event that was seen."),
    ]
}

const KEYED: &[&str] = &["Idempotency-Key", "Prefer"];
const ONCE: &[&str] = &["Idempotency-Key"];
const SETTLED: &[(u16, &str)] = &[(200, "PaymentWithOperation"), (202, "PaymentWithOperation")];
const REFUNDED: &[(u16, &str)] = &[(200, "Refund"), (202, "Refund")];

/// The descriptions, in the order of the table of routes.
pub(super) static OPERATIONS: &[Operation] = &[
    op(
        "POST",
        "/payments",
        "createPayment",
        "Creates a payment.",
        &[(200, "Payment"), (201, "Payment")],
    )
    .headers(KEYED)
    .body("NewPayment")
    .makes("/payments/{id}"),
    op("GET", "/payments", "listPayments", "Payments, newest first.", &[(200, "PaymentList")])
        .query(PAYMENTS),
    op("GET", "/payments/{id}", "getPayment", "One payment.", &[(200, "Payment")]),
    op(
        "GET",
        "/payments/{id}/events",
        "listPaymentEvents",
        "What happened to a payment, oldest first; the cursor is a sequence.",
        &[(200, "EventList")],
    )
    .query(ONWARDS),
    op(
        "GET",
        "/payments/{id}/operations",
        "listPaymentOperations",
        "The steps of a payment, oldest first.",
        &[(200, "OperationList")],
    ),
    op(
        "POST",
        "/payments/{id}/confirm",
        "confirmPayment",
        "Goes on after the customer did what was asked of them.",
        SETTLED,
    )
    .headers(KEYED)
    .optional("Nothing"),
    op("POST", "/payments/{id}/capture", "capturePayment", "Takes what is held.", SETTLED)
        .headers(KEYED)
        .optional("NewCapture"),
    op("POST", "/payments/{id}/cancel", "cancelPayment", "Gives up what is held.", SETTLED)
        .headers(KEYED)
        .optional("Nothing"),
    op("PATCH", "/payments/{id}/refund", "refundPayment", "Gives back.", REFUNDED)
        .headers(KEYED)
        .optional("NewRefund"),
    op("POST", "/payments/{id}/refunds", "createRefund", "Gives back.", REFUNDED)
        .headers(KEYED)
        .optional("NewRefund")
        .makes("/refunds/{id}"),
    op(
        "POST",
        "/payments/{id}/resolve",
        "resolvePayment",
        "Settles by hand what the processor does not tell.",
        &[(200, "Payment")],
    )
    .headers(ONCE)
    .body("Resolve"),
    op("GET", "/refunds", "listRefunds", "Refunds, newest first.", &[(200, "RefundList")])
        .query(REFUNDS),
    op("GET", "/refunds/{id}", "getRefund", "One refund.", &[(200, "Refund")]),
    op(
        "POST",
        "/processors/{name}/notifications",
        "receiveNotification",
        "What a processor tells unasked; its own signature proves it.",
        &[(200, "Received")],
    )
    .any_body(),
    op(
        "POST",
        "/webhook-endpoints",
        "createWebhookEndpoint",
        "Creates an endpoint; its secret is in this answer, and its replays, only.",
        &[(201, "WebhookEndpointWithSecret")],
    )
    .headers(ONCE)
    .body("NewWebhookEndpoint")
    .makes("/webhook-endpoints/{id}"),
    op(
        "GET",
        "/webhook-endpoints",
        "listWebhookEndpoints",
        "Endpoints, newest first.",
        &[(200, "WebhookEndpointList")],
    )
    .query(PAGE),
    op(
        "GET",
        "/webhook-endpoints/{id}",
        "getWebhookEndpoint",
        "One endpoint.",
        &[(200, "WebhookEndpoint")],
    ),
    op(
        "PATCH",
        "/webhook-endpoints/{id}",
        "updateWebhookEndpoint",
        "Changes what is given.",
        &[(200, "WebhookEndpoint")],
    )
    .headers(ONCE)
    .optional("WebhookEndpointUpdate"),
    op(
        "DELETE",
        "/webhook-endpoints/{id}",
        "deleteWebhookEndpoint",
        "Deletes an endpoint; nothing more is sent to it.",
        &[(204, "")],
    ),
    op(
        "POST",
        "/webhook-endpoints/{id}/rotate-secret",
        "rotateWebhookSecret",
        "Gives a new secret; the old one signs for a while longer.",
        &[(200, "WebhookEndpointWithSecret")],
    )
    .headers(ONCE)
    .optional("Rotation"),
    op(
        "POST",
        "/webhook-endpoints/{id}/test",
        "testWebhookEndpoint",
        "Sends a test.",
        &[(202, "WebhookEvent")],
    )
    .headers(ONCE)
    .optional("Nothing"),
    op(
        "POST",
        "/webhook-endpoints/{id}/recover",
        "recoverWebhookEndpoint",
        "Sends again what failed since a time.",
        &[(202, "BulkRetry")],
    )
    .headers(ONCE)
    .body("Recover"),
    op(
        "GET",
        "/webhook-events",
        "listWebhookEvents",
        "Deliveries, newest first.",
        &[(200, "WebhookEventList")],
    )
    .query(DELIVERIES),
    op("GET", "/webhook-events/{id}", "getWebhookEvent", "One delivery.", &[(200, "WebhookEvent")]),
    op(
        "GET",
        "/webhook-events/{id}/attempts",
        "listWebhookAttempts",
        "The latest attempts of a delivery, oldest first.",
        &[(200, "WebhookAttemptList")],
    )
    .query(&[LIMIT]),
    op(
        "POST",
        "/webhook-events/retry",
        "retryWebhookEvents",
        "Sends again what a filter matches.",
        &[(202, "BulkRetry")],
    )
    .headers(ONCE)
    .body("NewBulkRetry"),
    op(
        "POST",
        "/webhook-events/{id}/retry",
        "retryWebhookEvent",
        "Sends again: a new attempt of the same delivery.",
        &[(202, "WebhookEvent")],
    )
    .headers(ONCE)
    .optional("Nothing"),
    op(
        "GET",
        "/events",
        "listEvents",
        "All events in the order of the feed, oldest first; the cursor is a position.",
        &[(200, "EventList")],
    )
    .query(ONWARDS),
    op(
        "GET",
        "/events/stream",
        "streamEvents",
        "The same as server-sent events: `id` is the position, `event` the type, `data` the body.",
        &[(200, "EventStream")],
    )
    .query(&[POSITION])
    .headers(&["Last-Event-ID"]),
    op(
        "POST",
        "/api-keys",
        "createApiKey",
        "Makes an API key; its text is in this answer, and its replays, only.",
        &[(201, "ApiKeyWithSecret")],
    )
    .headers(ONCE)
    .body("NewApiKey")
    .makes("/api-keys/{id}"),
    op("GET", "/api-keys", "listApiKeys", "API keys, newest first.", &[(200, "ApiKeyList")])
        .query(PAGE),
    op(
        "POST",
        "/api-keys/revoke",
        "revokeApiKeys",
        "Revokes the keys that a filter matches; the caller's own comes last.",
        &[(200, "BulkRevocation")],
    )
    .headers(ONCE)
    .body("Revocation"),
    op("GET", "/api-keys/{id}", "getApiKey", "One API key.", &[(200, "ApiKey")]),
    op(
        "DELETE",
        "/api-keys/{id}",
        "revokeApiKey",
        "Revokes a key, which stays in the list.",
        &[(200, "ApiKey")],
    ),
    op(
        "POST",
        "/ip-denylist",
        "denyNetwork",
        "Lets nobody in from a network. For the operator's administrators.",
        &[(201, "DeniedNetwork")],
    )
    .headers(ONCE)
    .body("NewDeniedNetwork"),
    op(
        "GET",
        "/ip-denylist",
        "listDeniedNetworks",
        "Denied networks, newest first. For the operator's administrators.",
        &[(200, "DeniedNetworkList")],
    )
    .query(PAGE),
    op(
        "DELETE",
        "/ip-denylist",
        "allowNetwork",
        "Takes a network off the list. For the operator's administrators.",
        &[(204, "")],
    )
    .query(&[NETWORK]),
    op(
        "GET",
        "/audit-log",
        "listAuditRows",
        "Who did what, of both modes, newest first. A page may be short, even empty, while there is more.",
        &[(200, "AuditRowList")],
    )
    .query(AUDIT),
    op(
        "DELETE",
        "/customers/{customer}",
        "eraseCustomer",
        "Erases a customer: hidden from this answer on, rewritten soon after. Amounts, ids and dates stay.",
        &[(202, "Erasure")],
    ),
    op(
        "GET",
        "/customers/{customer}/export",
        "exportCustomer",
        "Everything that is held about a customer, as a file.",
        &[(200, "CustomerExport")],
    )
    .query(&[FORMAT]),
    op(
        "POST",
        "/customers/{customer}/consents",
        "giveConsent",
        "Records a consent.",
        &[(201, "Consent")],
    )
    .headers(ONCE)
    .body("NewConsent"),
    op(
        "GET",
        "/customers/{customer}/consents",
        "listConsents",
        "A customer's consents, withdrawn ones too.",
        &[(200, "ConsentList")],
    ),
    op(
        "DELETE",
        "/customers/{customer}/consents/{purpose}",
        "withdrawConsent",
        "Withdraws the consents to a purpose, which stay in the list.",
        &[(200, "ConsentList")],
    ),
    op("GET", "/erasures", "listErasures", "Erasures, newest first.", &[(200, "ErasureList")])
        .query(PAGE),
    op("GET", "/erasures/{id}", "getErasure", "One erasure, and how far it is.", &[(200, "Erasure")]),
];

//! The schemas of request bodies: what [`crate::dto`] reads.

use std::time::Duration;

use pgw_core::access::Role;
use pgw_core::currency::Currency;
use pgw_core::event::EventType;
use pgw_core::metadata::Metadata;
use pgw_core::payment::plan::{EXPIRES_IN_MAX, EXPIRES_IN_MIN};
use pgw_core::text::{
    ConsentSource, CustomerId, CustomerName, Description, PaymentMethod, Purpose, Reason,
    TermsVersion,
};
use pgw_core::webhook::{CustomHeaders, DeliveryOptions, Endpoint, EndpointUrl, Profile};
use serde_json::{Value, json};

use crate::dto::LIFETIME_MAX_SECS;

use super::schema::{about, between, flag, list, nullable, one_of, request, text, text_to, time};

pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("NewPayment", new_payment()),
        ("NewCapture", new_capture()),
        ("NewRefund", new_refund()),
        ("Resolve", resolve()),
        ("Nothing", request(&[], [])),
        ("NewWebhookEndpoint", new_endpoint()),
        ("WebhookEndpointUpdate", endpoint_update()),
        ("Rotation", rotation()),
        ("Recover", recover()),
        ("NewBulkRetry", bulk_retry()),
        ("NewApiKey", new_api_key()),
        ("Revocation", revocation()),
        ("NewDeniedNetwork", new_denied_network()),
        ("NewConsent", new_consent()),
    ]
}

fn amount() -> Value {
    let number = json!({"type": "number", "exclusiveMinimum": 0});
    let text = json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?$"});
    about(
        json!({"anyOf": [number, text]}),
        "In major units, with no more digits than the currency has.",
    )
}

fn new_payment() -> Value {
    let currency = about(one_of(Currency::all().map(Currency::code)), "ISO 4217.");
    let method = about(
        nullable(text_to(PaymentMethod::CHARS_MAX)),
        "The processor's token. In test mode the sandbox's working card unless it is given.",
    );
    let email = json!({"type": "string", "format": "email", "maxLength": EMAIL_LEN_MAX});
    request(
        &["amount", "currency", "customer_email", "customer_name"],
        [
            ("amount", amount()),
            ("currency", currency),
            ("customer_email", email),
            ("customer_name", text_to(CustomerName::CHARS_MAX)),
            ("customer_id", nullable(text_to(CustomerId::CHARS_MAX))),
            ("description", nullable(text_to(Description::CHARS_MAX))),
            ("metadata", nullable(metadata())),
            ("payment_method", method),
            ("capture", nullable(one_of(["automatic", "manual"]))),
            ("expires_in", nullable(seconds(EXPIRES_IN_MIN, EXPIRES_IN_MAX))),
        ],
    )
}

fn metadata() -> Value {
    json!({
        "type": "object",
        "propertyNames": {"minLength": 1, "maxLength": Metadata::KEY_CHARS_MAX},
        "additionalProperties": {"type": "string", "maxLength": Metadata::VALUE_CHARS_MAX},
        "maxProperties": Metadata::PAIRS_MAX,
    })
}

fn seconds(from: Duration, to: Duration) -> Value {
    about(between(from.as_secs(), to.as_secs()), "In seconds.")
}

fn rest() -> Value {
    about(nullable(amount()), "All that is left unless it is given.")
}

fn new_capture() -> Value {
    let last = about(nullable(flag()), "Whether what is left after this is given up.");
    request(&[], [("amount", rest()), ("final", last)])
}

fn new_refund() -> Value {
    request(&[], [("amount", rest()), ("reason", nullable(text_to(Reason::CHARS_MAX)))])
}

fn resolve() -> Value {
    request(
        &["operation", "outcome", "reason"],
        [
            ("operation", about(text(), "The id of an operation or of a refund.")),
            ("outcome", one_of(["succeeded", "failed", "dismissed"])),
            ("reason", text_to(Reason::CHARS_MAX)),
        ],
    )
}

/// What endpoints have in common, new and changed ones.
fn endpoint_members() -> [(&'static str, Value); 9] {
    let types = about(
        nullable(list(text(), Endpoint::FILTERS_MAX)),
        "Types like `payment.succeeded`, families like `payment.*`; all unless it is given.",
    );
    let profiles = one_of(Profile::ALL.map(Profile::as_str));
    let headers = json!({
        "type": "object",
        "propertyNames": {"maxLength": CustomHeaders::NAME_LEN_MAX},
        "additionalProperties": {"type": "string", "maxLength": CustomHeaders::VALUE_LEN_MAX},
        "maxProperties": CustomHeaders::COUNT_MAX,
    });
    let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let (min, max) = (DeliveryOptions::TIMEOUT_MIN, DeliveryOptions::TIMEOUT_MAX);
    [
        ("description", nullable(text_to(Description::CHARS_MAX))),
        ("event_types", types),
        ("signature_profiles", nullable(list(profiles, Profile::ALL.len()))),
        ("headers", nullable(headers)),
        ("timeout_ms", nullable(between(millis(min), millis(max)))),
        ("concurrency", nullable(between(1, DeliveryOptions::CONCURRENCY_MAX.into()))),
        ("rate_per_second", nullable(between(1, DeliveryOptions::RATE_MAX.into()))),
        ("ordering", nullable(one_of(["none", "payment"]))),
        ("on_exhausted", nullable(one_of(["skip", "park"]))),
    ]
}

fn url() -> Value {
    let url = json!({"type": "string", "format": "uri", "maxLength": EndpointUrl::LEN_MAX});
    about(url, "https, of a public address.")
}

fn new_endpoint() -> Value {
    let mut endpoint = request(&["url"], endpoint_members());
    endpoint["properties"]["url"] = url();
    endpoint
}

fn endpoint_update() -> Value {
    let mut endpoint = request(&[], endpoint_members());
    endpoint["properties"]["url"] = nullable(url());
    endpoint["properties"]["status"] = nullable(one_of(["enabled", "disabled"]));
    endpoint
}

fn rotation() -> Value {
    let overlap = seconds(Duration::ZERO, Endpoint::OVERLAP_MAX);
    let default = Endpoint::OVERLAP_DEFAULT.as_secs();
    let text =
        format!("For how many seconds the old secret goes on signing; {default} by default.");
    request(&[], [("expires_in", about(nullable(overlap), &text))])
}

fn recover() -> Value {
    request(&["since"], [("since", time()), ("after", nullable(text()))])
}

fn bulk_retry() -> Value {
    let filter = request(
        &[],
        [
            ("status", nullable(one_of(["pending", "delivered", "failed"]))),
            ("endpoint_id", nullable(text())),
            ("event_type", nullable(one_of(EventType::ALL.iter().map(|kind| kind.as_str())))),
            ("created_from", nullable(time())),
            ("created_before", nullable(time())),
        ],
    );
    let dry = about(nullable(flag()), "Only counts.");
    request(&["filter"], [("filter", filter), ("after", nullable(text())), ("dry_run", dry)])
}

fn role() -> Value {
    one_of(Role::ALL.map(Role::as_str))
}

fn lifetime() -> Value {
    let most = Duration::from_secs(LIFETIME_MAX_SECS);
    about(nullable(seconds(Duration::from_secs(1), most)), "In seconds; without it, for good.")
}

fn new_api_key() -> Value {
    let name = text_to(Description::CHARS_MAX);
    request(&["role", "name"], [("role", role()), ("name", name), ("expires_in", lifetime())])
}

fn revocation() -> Value {
    let all = about(nullable(flag()), "Every key, the caller's own too: instead of a filter.");
    request(
        &["reason"],
        [
            ("created_after", about(nullable(time()), "Made then or later.")),
            ("created_before", nullable(time())),
            ("role", nullable(role())),
            ("all", all),
            ("reason", text_to(Reason::CHARS_MAX)),
            ("after", nullable(text())),
        ],
    )
}

fn new_denied_network() -> Value {
    let network =
        about(text_to(43), "An address, or a network of at least /8 (IPv4) or /19 (IPv6).");
    let reason = nullable(text_to(Reason::CHARS_MAX));
    request(&["network"], [("network", network), ("reason", reason), ("expires_in", lifetime())])
}

fn new_consent() -> Value {
    let terms = about(text_to(TermsVersion::CHARS_MAX), "Which wording was agreed to.");
    let source = about(nullable(text_to(ConsentSource::CHARS_MAX)), "Where it was given.");
    let at = about(nullable(time()), "Now unless it is given; never later.");
    request(
        &["purpose", "version"],
        [
            ("purpose", text_to(Purpose::CHARS_MAX)),
            ("version", terms),
            ("source", source),
            ("given_at", at),
        ],
    )
}

/// RFC 5321 §4.5.3.1.3, less the brackets.
const EMAIL_LEN_MAX: usize = 254;

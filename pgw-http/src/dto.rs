//! Request bodies → commands. Which members each has, and what they are parsed into.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::gateway::{ApiKeyFilter, NewApiKey, NewDeniedNetwork, RevokedKeys, Run};
use pgw_core::id::{OperationId, RefundId};
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::metadata::Metadata;
use pgw_core::money::Money;
use pgw_core::page::Cursor;
use pgw_core::payment::plan::{
    EXPIRES_IN_MAX, EXPIRES_IN_MIN, NewCapture, NewPayment, NewRefund, RequestedAmount, Resolution,
    Resolve,
};
use pgw_core::payment::{CaptureMethod, Customer, Finality, UnknownName};
use pgw_core::privacy::NewConsent;
use pgw_core::scope::Mode;
use pgw_core::storage::DeliveryFilter;
use pgw_core::text::{
    ConsentSource, CustomerId, CustomerName, Description, PaymentMethod, Purpose, Reason,
    TermsVersion,
};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::delivery::DeliveryStatus;
use pgw_core::webhook::plan::{EndpointUpdate, NewEndpoint};
use pgw_core::webhook::{
    CustomHeaders, DeliveryOptions, Endpoint, EndpointStatus, EndpointUrl, EventFilter,
    OptionsError, Ordering, Profile, Profiles, WhenExhausted,
};

use crate::fields::Fields;
use crate::problem::Problem;

/// `POST /payments`.
pub(crate) fn new_payment(
    body: &[u8],
    mode: Mode,
    key: Option<IdempotencyKey>,
) -> Result<NewPayment, Problem> {
    let mut fields = Fields::of(body)?;
    let amount = amount(&mut fields);
    let email = fields.require("customer_email", Email::parse);
    let name = fields.require("customer_name", CustomerName::parse);
    let id = fields.parse("customer_id", CustomerId::parse);
    let description = fields.parse("description", Description::parse);
    let metadata =
        fields.pairs("metadata", Metadata::PAIRS_MAX, Metadata::from_pairs).unwrap_or_default();
    let payment_method = payment_method(&mut fields, mode);
    let capture = fields.parse("capture", capture_method).unwrap_or_default();
    let expires_in = expires_in(&mut fields);
    let new = (|| {
        Some(NewPayment {
            amount: amount?,
            customer: Customer { email: email?, name: name?, id },
            payment_method: payment_method?,
            description,
            metadata,
            capture,
            expires_in,
            idempotency_key: key,
        })
    })();
    fields.finish(new)
}

/// `POST /payments/{id}/capture`.
pub(crate) fn new_capture(body: &[u8], key: Option<IdempotencyKey>) -> Result<NewCapture, Problem> {
    let mut fields = Fields::of(body)?;
    let amount = requested_amount(&mut fields);
    let finality =
        if fields.flag("final") == Some(true) { Finality::Final } else { Finality::Open };
    fields.finish(Some(NewCapture { amount, finality, idempotency_key: key }))
}

/// `PATCH /payments/{id}/refund`.
pub(crate) fn new_refund(body: &[u8], key: Option<IdempotencyKey>) -> Result<NewRefund, Problem> {
    let mut fields = Fields::of(body)?;
    let amount = requested_amount(&mut fields);
    let reason = fields.parse("reason", Reason::parse);
    fields.finish(Some(NewRefund { amount, reason, idempotency_key: key }))
}

/// `POST /payments/{id}/resolve`.
pub(crate) fn resolve(body: &[u8]) -> Result<Resolve, Problem> {
    let mut fields = Fields::of(body)?;
    // Callers know a refund's operation by the refund's id.
    let operation = fields.require("operation", |text| {
        text.parse::<RefundId>().map(OperationId::from).or_else(|_| text.parse())
    });
    let outcome = fields.require("outcome", |text| match text {
        "succeeded" => Ok(Resolution::Succeeded),
        "failed" => Ok(Resolution::Failed),
        "dismissed" => Ok(Resolution::Dismissed),
        _ => Err(UnknownName),
    });
    let reason = fields.require("reason", Reason::parse);
    let command =
        (|| Some(Resolve { operation: operation?, outcome: outcome?, reason: reason? }))();
    fields.finish(command)
}

/// A body that has no members (yet).
pub(crate) fn nothing(body: &[u8]) -> Result<(), Problem> {
    Fields::of(body)?.finish(Some(()))
}

/// `POST /webhook-endpoints`.
pub(crate) fn new_endpoint(body: &[u8]) -> Result<NewEndpoint, Problem> {
    let mut fields = Fields::of(body)?;
    let url = fields.require("url", EndpointUrl::parse);
    let description = fields.parse("description", Description::parse);
    let filters = filters(&mut fields).unwrap_or_default();
    let profiles = profiles(&mut fields).unwrap_or_default();
    let headers =
        fields.pairs("headers", CustomHeaders::COUNT_MAX, CustomHeaders::parse).unwrap_or_default();
    let options = options(&mut fields).options(DeliveryOptions::default());
    let new = url.map(|url| NewEndpoint { url, description, filters, profiles, options, headers });
    fields.finish(new)
}

/// `PATCH /webhook-endpoints/{id}`. Absent members stay as they are; `null` removes the description and the limits. `ordering` and
/// `on_exhausted` are one setting: where the first is given, the second is `skip` unless it is given too.
pub(crate) fn endpoint_update(body: &[u8]) -> Result<EndpointUpdate, Problem> {
    let mut fields = Fields::of(body)?;
    let is_removed = fields.is_null("description");
    let description = fields.parse("description", Description::parse);
    let update = EndpointUpdate {
        url: fields.parse("url", EndpointUrl::parse),
        description: if is_removed { Some(None) } else { description.map(Some) },
        filters: filters(&mut fields),
        profiles: profiles(&mut fields),
        headers: fields.pairs("headers", CustomHeaders::COUNT_MAX, CustomHeaders::parse),
        status: fields.parse("status", endpoint_status),
        ..options(&mut fields)
    };
    fields.finish(Some(update))
}

/// What is said about how webhooks are delivered. Whether what fits its type is in range is the verb's to say.
fn options(fields: &mut Fields<'_>) -> EndpointUpdate {
    let timeout = limit(fields, OptionsError::Timeout, |ms| Some(Duration::from_millis(ms)));
    let concurrency =
        limit(fields, OptionsError::Concurrency, |most| NonZeroU8::new(u8::try_from(most).ok()?));
    let rate_per_s =
        limit(fields, OptionsError::Rate, |rate| NonZeroU32::new(u32::try_from(rate).ok()?));
    let policy = fields.parse("on_exhausted", |text| match text {
        "skip" => Ok(WhenExhausted::Skip),
        "park" => Ok(WhenExhausted::Park),
        _ => Err(UnknownName),
    });
    let is_ordering_given = fields.has("ordering");
    let ordering = fields.parse("ordering", |text| match text {
        "none" => Ok(Ordering::AsDue),
        "payment" => Ok(Ordering::ByPayment(policy.unwrap_or_default())),
        _ => Err(UnknownName),
    });
    // An order that cannot be read is a fault of its own.
    let is_ordered = ordering.map_or(is_ordering_given, |ordering| ordering != Ordering::AsDue);
    if policy.is_some() && !is_ordered {
        fields.fault::<()>(
            "on_exhausted",
            "out_of_place",
            "needs \"ordering\": \"payment\" beside it",
        );
    }
    EndpointUpdate { timeout, concurrency, rate_per_s, ordering, ..EndpointUpdate::default() }
}

/// A limit that `null` lifts. `parse` makes nothing of a number that does not fit, which is out of range wherever the range ends.
fn limit<T>(
    fields: &mut Fields<'_>,
    out_of_range: OptionsError,
    parse: impl FnOnce(u64) -> Option<T>,
) -> Option<Option<T>> {
    let name = out_of_range.field();
    let is_lifted = fields.is_null(name);
    let Some(number) = fields.whole_number(name) else {
        return is_lifted.then_some(None);
    };
    match parse(number) {
        Some(limit) => Some(Some(limit)),
        None => fields.fault(name, "out_of_range", out_of_range.to_string()),
    }
}

/// `POST /webhook-events/retry`: which deliveries, after which, and whether to only count them.
pub(crate) fn bulk_retry(body: &[u8]) -> Result<(DeliveryFilter, Option<Cursor>, Run), Problem> {
    let mut fields = Fields::of(body)?;
    // Required, so that an empty request does not replay everything by mistake.
    let filter = fields.require_object("filter", |fields| DeliveryFilter {
        status: fields.parse("status", str::parse).or(Some(DeliveryStatus::Failed)),
        endpoint: fields.parse("endpoint_id", str::parse),
        event_type: fields.parse("event_type", str::parse),
        created_from: fields.parse("created_from", str::parse),
        created_before: fields.parse("created_before", str::parse),
    });
    let after = fields.parse("after", Cursor::parse);
    let run = if fields.flag("dry_run") == Some(true) { Run::Dry } else { Run::Real };
    fields.finish(filter.map(|filter| (filter, after, run)))
}

/// `POST /webhook-endpoints/{id}/rotate-secret`: how long the old secret goes on signing.
pub(crate) fn rotation(body: &[u8]) -> Result<Duration, Problem> {
    let mut fields = Fields::of(body)?;
    let overlap = fields.whole_number("expires_in").map(Duration::from_secs);
    // Whether it is too long is the verb's to say.
    fields.finish(Some(overlap.unwrap_or(Endpoint::OVERLAP_DEFAULT)))
}

/// `POST /webhook-endpoints/{id}/recover`: since when, and after which delivery.
pub(crate) fn recover(body: &[u8]) -> Result<(Timestamp, Option<Cursor>), Problem> {
    let mut fields = Fields::of(body)?;
    let since = fields.require("since", str::parse);
    let after = fields.parse("after", Cursor::parse);
    fields.finish(since.map(|since| (since, after)))
}

/// `POST /api-keys`.
pub(crate) fn new_api_key(body: &[u8]) -> Result<NewApiKey, Problem> {
    let mut fields = Fields::of(body)?;
    let role = fields.require("role", str::parse);
    let name = fields.require("name", Description::parse);
    let expires_in = lifetime(&mut fields);
    fields.finish((|| Some(NewApiKey { role: role?, name: name?, expires_in }))())
}

/// `POST /api-keys/revoke`: which keys, why, and after which. That all are meant has to be said.
pub(crate) fn revocation(body: &[u8]) -> Result<(RevokedKeys, Reason, Option<Cursor>), Problem> {
    let mut fields = Fields::of(body)?;
    let filter = ApiKeyFilter {
        created_from: fields.parse("created_after", str::parse),
        created_before: fields.parse("created_before", str::parse),
        role: fields.parse("role", str::parse),
    };
    let is_all = fields.flag("all") == Some(true);
    if is_all && !filter.is_empty() {
        fields.fault::<()>("all", "conflict", "does not go with a filter");
    }
    let reason = fields.require("reason", Reason::parse);
    let after = fields.parse("after", Cursor::parse);
    let which = if is_all { RevokedKeys::All } else { RevokedKeys::Matching(filter) };
    fields.finish(reason.map(|reason| (which, reason, after)))
}

/// `POST /ip-denylist`.
pub(crate) fn new_denied_network(body: &[u8]) -> Result<NewDeniedNetwork, Problem> {
    let mut fields = Fields::of(body)?;
    let network = fields.require("network", str::parse);
    let reason = fields.parse("reason", Reason::parse);
    let expires_in = lifetime(&mut fields);
    fields.finish(network.map(|network| NewDeniedNetwork { network, reason, expires_in }))
}

/// How long something is good for, in seconds; without it, until somebody ends it.
fn lifetime(fields: &mut Fields<'_>) -> Option<Duration> {
    let seconds = fields.whole_number("expires_in")?;
    if (1..=LIFETIME_MAX_SECS).contains(&seconds) {
        return Some(Duration::from_secs(seconds));
    }
    let msg = format!("must be from 1 to {LIFETIME_MAX_SECS} seconds");
    fields.fault("expires_in", "out_of_range", msg)
}

/// `POST /customers/{customer}/consents`.
pub(crate) fn new_consent(body: &[u8]) -> Result<NewConsent, Problem> {
    let mut fields = Fields::of(body)?;
    let purpose = fields.require("purpose", Purpose::parse);
    let terms = fields.require("version", TermsVersion::parse);
    let source = fields.parse("source", ConsentSource::parse);
    let given_at = fields.parse("given_at", str::parse);
    let new = (|| Some(NewConsent { purpose: purpose?, terms: terms?, source, given_at }))();
    fields.finish(new)
}

/// The amount with its currency: which digits are allowed depends on the currency, so a fault of it is only found once the
/// currency is known.
fn amount(fields: &mut Fields<'_>) -> Option<Money> {
    let currency = fields.require("currency", str::parse::<Currency>);
    let is_there = fields.has("amount");
    let Some(text) = fields.decimal("amount") else {
        return if is_there { None } else { fields.fault("amount", "required", "is required") };
    };
    match Money::parse_major(&text, currency?) {
        Ok(money) if money.is_zero() => {
            fields.fault("amount", "too_small", "must be at least one minor unit")
        }
        Ok(money) => Some(money),
        Err(fault) => fields.fault("amount", fault.code(), fault.to_string()),
    }
}

/// An amount in the payment's currency, which is not known yet; without one, all that is left.
fn requested_amount(fields: &mut Fields<'_>) -> RequestedAmount {
    fields.decimal("amount").map_or(RequestedAmount::Rest, RequestedAmount::Decimal)
}

/// In test mode a payment needs no method: it is charged to the sandbox's working card.
fn payment_method(fields: &mut Fields<'_>, mode: Mode) -> Option<PaymentMethod> {
    if mode == Mode::Live || fields.has("payment_method") {
        return fields.require("payment_method", PaymentMethod::parse);
    }
    PaymentMethod::parse(PAYMENT_METHOD_DEFAULT).ok()
}

fn capture_method(text: &str) -> Result<CaptureMethod, UnknownName> {
    match text {
        "automatic" => Ok(CaptureMethod::Automatic),
        "manual" => Ok(CaptureMethod::Manual),
        _ => Err(UnknownName),
    }
}

fn expires_in(fields: &mut Fields<'_>) -> Option<Duration> {
    let wait = Duration::from_secs(fields.whole_number("expires_in")?);
    if (EXPIRES_IN_MIN..=EXPIRES_IN_MAX).contains(&wait) {
        return Some(wait);
    }
    let (min, max) = (EXPIRES_IN_MIN.as_secs(), EXPIRES_IN_MAX.as_secs());
    fields.fault("expires_in", "out_of_range", format!("must be from {min} to {max} seconds"))
}

fn filters(fields: &mut Fields<'_>) -> Option<Vec<EventFilter>> {
    fields.list("event_types", Endpoint::FILTERS_MAX, str::parse)
}

fn profiles(fields: &mut Fields<'_>) -> Option<Profiles> {
    let list = fields.list("signature_profiles", Profile::ALL.len(), str::parse::<Profile>)?;
    match Profiles::new(list) {
        Some(profiles) => Some(profiles),
        None => fields.fault("signature_profiles", "empty", "must name at least one profile"),
    }
}

fn endpoint_status(text: &str) -> Result<EndpointStatus, UnknownName> {
    match text {
        "enabled" => Ok(EndpointStatus::Enabled),
        "disabled" => {
            let reason = Reason::parse(DISABLED_BY_HAND).map_err(|_| UnknownName)?;
            Ok(EndpointStatus::Disabled { reason })
        }
        _ => Err(UnknownName),
    }
}

/// What a payment in test mode is charged to unless it says otherwise.
const PAYMENT_METHOD_DEFAULT: &str = "tok_visa";
/// Longest that a key or a denial may be good for: ten years. What is to last longer is to last until it is ended.
pub(crate) const LIFETIME_MAX_SECS: u64 = 10 * 365 * 24 * 60 * 60;
/// Why an endpoint is disabled that its owner disabled.
const DISABLED_BY_HAND: &str = "disabled by its owner";

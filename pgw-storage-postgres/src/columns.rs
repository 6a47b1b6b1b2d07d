//! Columns on their way back: rows as the domain's objects. The lists of columns stand beside the functions that read them.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use bytes::Bytes;
use pgw_core::access::{ApiKey, DeniedNetwork, Freeze, KeyPrefix, Shield};
use pgw_core::crypto::Sealed;
use pgw_core::email::Email;
use pgw_core::event::Event;
use pgw_core::id::{
    ConflictId, ConsentId, DeliveryId, EndpointId, ErasureId, EventId, KeyId, OperationId,
    PaymentId,
};
use pgw_core::idempotency::{
    Fingerprint, IdempotencyKey, KeyClaim, KeyRecord, KeyTarget, StoredAnswer,
};
use pgw_core::metadata::Metadata;
use pgw_core::money::Money;
use pgw_core::payment::{
    CaptureMethod, Cause, Conflict, Customer, Failure, Fence, Finality, NextAction, Operation,
    OperationKind, OperationState, Payment, ProcessorName, Reference,
};
use pgw_core::privacy::{
    Consent, ConsentHolder, CustomerDigest, Erasure, ErasureProgress, Redaction,
};
use pgw_core::scope::{MerchantId, Mode, Scope};
use pgw_core::text::{
    ConsentSource, CustomerId, CustomerName, Description, PaymentMethod, Purpose, Reason,
    TermsVersion,
};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::delivery::FailedBecause;
use pgw_core::webhook::{
    Attempt, AttemptOutcome, Delivery, DeliveryOptions, DeliveryState, Endpoint, EndpointStatus,
    EndpointUrl, Health, PreviousSecret, Profiles, SealedHeaders, TransportErrorKind,
};
use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;
use sqlx::{Decode, Postgres, Row as _, Type, ValueRef as _};
use uuid::Uuid;

use crate::value::{Time, fence};

/// What a row that was written by this crate always is.
pub(crate) type Read<T> = Result<T, BoxDynError>;

/// A row's columns, read from left to right.
pub(crate) struct Columns<'r> {
    row: &'r PgRow,
    at: usize,
}

impl<'r> Columns<'r> {
    pub(crate) const fn of(row: &'r PgRow) -> Self {
        Self { row, at: 0 }
    }

    /// The columns after the first `count`.
    pub(crate) const fn after(row: &'r PgRow, count: usize) -> Self {
        Self { row, at: count }
    }

    /// Whether the next column is NULL: an outer join found nothing.
    pub(crate) fn is_absent(&self) -> Read<bool> {
        Ok(self.row.try_get_raw(self.at)?.is_null())
    }

    pub(crate) fn next<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> Read<T> {
        let at = self.at;
        self.at += 1;
        Ok(self.row.try_get(at)?)
    }

    pub(crate) fn text<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Read<T> {
        let at = self.at;
        parse(self.next::<&str>()?)
            .ok_or_else(|| format!("column {at} holds an unknown value").into())
    }

    pub(crate) fn maybe<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Read<Option<T>> {
        let at = self.at;
        let Some(text) = self.next::<Option<&str>>()? else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("column {at} holds an unknown value").into()),
        }
    }

    pub(crate) fn time(&mut self) -> Read<Timestamp> {
        Ok(self.next::<Time>()?.0)
    }

    fn maybe_time(&mut self) -> Read<Option<Timestamp>> {
        Ok(self.next::<Option<Time>>()?.map(|time| time.0))
    }

    pub(crate) fn count<T: TryFrom<i64, Error: std::error::Error + Send + Sync + 'static>>(
        &mut self,
    ) -> Read<T> {
        Ok(T::try_from(self.next::<i64>()?)?)
    }

    pub(crate) fn maybe_count<T: TryFrom<u64, Error: std::error::Error + Send + Sync + 'static>>(
        &mut self,
    ) -> Read<Option<T>> {
        let Some(number) = self.next::<Option<i64>>()? else { return Ok(None) };
        Ok(Some(T::try_from(u64::try_from(number)?)?))
    }

    fn bytes(&mut self) -> Read<Bytes> {
        Ok(Bytes::copy_from_slice(self.next::<&[u8]>()?))
    }

    /// `merchant, live`.
    pub(crate) fn scope(&mut self) -> Read<Scope> {
        let merchant = self.next::<&str>()?.parse()?;
        Ok(Scope::new(merchant, if self.next()? { Mode::Live } else { Mode::Test }))
    }

    pub(crate) fn merchant(&mut self) -> Read<MerchantId> {
        Ok(self.next::<&str>()?.parse()?)
    }

    /// What [`mark!`] selects.
    fn redaction(&mut self) -> Read<Option<Redaction>> {
        let erasure = self.next::<Option<Uuid>>()?;
        Ok(erasure.map(|id| Redaction::of(ErasureId::from_uuid(id))))
    }

    fn failure(&mut self) -> Read<Option<Failure>> {
        let (code, message) = (self.next::<Option<&str>>()?, self.next::<Option<&str>>()?);
        Ok(code.map(|code| Failure::new(code, message.unwrap_or_default())))
    }
}

/// What [`payment`] reads, of a table named `p`.
macro_rules! payment_columns {
    () => {
        concat!("p.id, p.version, p.sequence, p.status, p.currency, p.amount_minor, p.authorized_minor, p.captured_minor, \
         p.capture_reserved_minor, p.refunded_minor, p.refund_reserved_minor, p.unknown_operations, p.open_conflicts, \
         p.needs_review, p.disputed, p.capture, p.customer_email, p.customer_name, p.customer_id, p.description, p.metadata, \
         p.payment_method, p.processor, p.processor_reference, p.failure_code, p.failure_message, p.next_action, p.expires_at, \
         p.created_at, p.updated_at, ",
            $crate::redact::mark!("p", "p.id")
        )
    };
}
pub(crate) use payment_columns;

pub(crate) fn payment(from: &mut Columns<'_>, scope: &Scope) -> Read<Payment> {
    let id = PaymentId::from_uuid(from.next()?);
    let (version, sequence) = (from.count()?, from.count()?);
    let status = from.text(|text| text.parse().ok())?;
    let amount = money(from)?;
    let mut payment = Payment {
        id,
        scope: scope.clone(),
        amount,
        status,
        version,
        sequence,
        authorized_minor: from.next()?,
        captured_minor: from.next()?,
        capture_reserved_minor: from.next()?,
        refunded_minor: from.next()?,
        refund_reserved_minor: from.next()?,
        unknown_operations: from.count()?,
        open_conflicts: from.count()?,
        needs_review: from.next()?,
        disputed: from.next()?,
        capture: from.text(|text| match text {
            "automatic" => Some(CaptureMethod::Automatic),
            "manual" => Some(CaptureMethod::Manual),
            _ => None,
        })?,
        customer: Customer {
            email: from.text(|text| Email::parse(text).ok())?,
            name: from.text(|text| CustomerName::parse(text).ok())?,
            id: from.maybe(|text| CustomerId::parse(text).ok())?,
        },
        description: from.maybe(|text| Description::parse(text).ok())?,
        metadata: match from.next::<&str>()? {
            "{}" => Metadata::default(),
            pairs => serde_json::from_str(pairs)?,
        },
        payment_method: from.text(|text| PaymentMethod::parse(text).ok())?,
        processor: from.text(|text| ProcessorName::parse(text).ok())?,
        processor_reference: from.maybe(Reference::new)?,
        failure: from.failure()?,
        next_action: from.maybe(NextAction::redirect)?,
        expires_at: from.time()?,
        created_at: from.time()?,
        updated_at: from.time()?,
    };
    if let Some(redaction) = from.redaction()? {
        redaction.payment(&mut payment);
    }
    Ok(payment)
}

/// `currency, amount_minor`.
fn money(from: &mut Columns<'_>) -> Read<Money> {
    let currency = from.text(|text| text.parse().ok())?;
    Ok(Money::from_minor(from.next()?, currency)?)
}

/// What [`operation`] reads, of a table named `o`.
macro_rules! operation_columns {
    () => {
        concat!("o.id, o.payment, o.kind, o.currency, o.amount_minor, o.state, o.cause, o.is_final, o.attempts, o.probes, o.fence, \
         o.first_dispatched_at, o.deadline, o.confirmed, o.needs_review, o.reference, o.failure_code, o.failure_message, o.reason, \
         o.idempotency_key, o.created_at, o.updated_at, ",
            $crate::redact::mark!("o", "o.payment")
        )
    };
}
pub(crate) use operation_columns;

pub(crate) fn operation(from: &mut Columns<'_>) -> Read<Operation> {
    let mut operation = Operation {
        id: OperationId::from_uuid(from.next()?),
        payment: PaymentId::from_uuid(from.next()?),
        kind: from
            .text(|text| OperationKind::ALL.into_iter().find(|kind| kind.as_str() == text))?,
        amount: money(from)?,
        state: from.text(operation_state)?,
        cause: from.text(|text| match text {
            "request" => Some(Cause::Request),
            "expiry" => Some(Cause::Expiry),
            _ => None,
        })?,
        finality: if from.next()? { Finality::Final } else { Finality::Open },
        attempts: from.count()?,
        probes: from.count()?,
        fence: from.next::<Option<i64>>()?.map(|bits| Fence(fence(bits))),
        first_dispatched_at: from.maybe_time()?,
        deadline: from.maybe_time()?,
        confirmed: from.next()?,
        needs_review: from.next()?,
        reference: from.maybe(Reference::new)?,
        failure: from.failure()?,
        reason: from.maybe(|text| Reason::parse(text).ok())?,
        idempotency_key: from.maybe(idempotency_key)?,
        created_at: from.time()?,
        updated_at: from.time()?,
    };
    if let Some(redaction) = from.redaction()? {
        redaction.operation(&mut operation);
    }
    Ok(operation)
}

fn operation_state(text: &str) -> Option<OperationState> {
    OperationState::ALL.into_iter().find(|state| state.as_str() == text)
}

/// A key as it is kept, without the quotes of its spelling on the wire.
fn idempotency_key(text: &str) -> Option<IdempotencyKey> {
    if text.starts_with('"') {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        return IdempotencyKey::parse(&format!("\"{quoted}\"")).ok();
    }
    IdempotencyKey::parse(text).ok()
}

/// What [`event`] reads, of a table named `e`.
macro_rules! event_columns {
    () => {
        concat!(
            "e.id, e.event_type, e.payment, e.sequence, e.created_at, e.body, e.feed_position, ",
            $crate::redact::mark!("e", "e.payment")
        )
    };
}
pub(crate) use event_columns;

pub(crate) fn event(from: &mut Columns<'_>, scope: &Scope) -> Read<Event> {
    let mut event = Event {
        id: EventId::from_uuid(from.next()?),
        scope: scope.clone(),
        event_type: from.text(|text| text.parse().ok())?,
        payment: from.next::<Option<Uuid>>()?.map(PaymentId::from_uuid),
        sequence: from.next::<Option<i64>>()?.map(u64::try_from).transpose()?,
        created_at: from.time()?,
        body: from.bytes()?,
        feed_position: from.next::<Option<i64>>()?.map(u64::try_from).transpose()?,
    };
    if let Some(redaction) = from.redaction()? {
        event.body = redaction.body(&event.body);
    }
    Ok(event)
}

/// What [`key_record`] reads, of a table named `k`.
macro_rules! key_columns {
    () => {
        concat!(
            "k.key, k.fingerprint, k.payment, k.operation, k.object, k.answer_status, ",
            $crate::answers::body!("k"),
            ", k.created_at, ",
            $crate::redact::mark!("k", "k.payment")
        )
    };
}
pub(crate) use key_columns;

pub(crate) fn key_record(from: &mut Columns<'_>) -> Read<KeyRecord> {
    let key = from.text(idempotency_key)?;
    let fingerprint = Fingerprint(from.next::<&[u8]>()?.try_into()?);
    let ids = from.next::<Option<Uuid>>()?.zip(from.next::<Option<Uuid>>()?);
    let object = from.maybe(|text| text.parse().ok())?;
    let operation = ids.map(|(payment, operation)| KeyTarget::Operation {
        payment: PaymentId::from_uuid(payment),
        operation: OperationId::from_uuid(operation),
    });
    let target = operation.or(object).ok_or("a key that stands for nothing")?;
    let (status, body) = (from.next::<Option<i16>>()?, from.next::<Option<&[u8]>>()?);
    let mut answer = match (status, body) {
        (Some(status), Some(body)) => Some(StoredAnswer {
            status: u16::try_from(status)?,
            body: Bytes::copy_from_slice(body),
        }),
        (None, _) => None,
        (Some(_), None) => return Err("an answer whose event is gone, or was rewritten".into()),
    };
    let created_at = from.time()?;
    if let Some(redaction) = from.redaction()? {
        answer = answer.map(|answer| redaction.answer(&answer));
    }
    Ok(KeyRecord { claim: KeyClaim { key, fingerprint, target, answer }, created_at })
}

/// What [`conflict`] reads.
macro_rules! conflict_columns {
    () => {
        "id, payment, operation, settled, found, reference, created_at, closed_at"
    };
}
pub(crate) use conflict_columns;

pub(crate) fn conflict(from: &mut Columns<'_>) -> Read<Conflict> {
    Ok(Conflict {
        id: ConflictId::from_uuid(from.next()?),
        payment: PaymentId::from_uuid(from.next()?),
        operation: OperationId::from_uuid(from.next()?),
        settled: from.text(operation_state)?,
        found: from.text(operation_state)?,
        reference: from.maybe(Reference::new)?,
        created_at: from.time()?,
        closed_at: from.maybe_time()?,
    })
}

/// What [`endpoint`] reads, of a table named `w`.
macro_rules! endpoint_columns {
    () => {
        "w.id, w.url, w.description, array_to_string(w.filters, ','), array_to_string(w.profiles, ','), w.timeout_ms, \
         w.concurrency, w.rate_per_s, w.ordering, w.header_names, w.headers, w.secret, w.generation, w.previous_secret, \
         w.previous_until, w.status, w.disabled_reason, w.failing_since, w.pauses, w.version, w.created_at, w.updated_at"
    };
}
pub(crate) use endpoint_columns;

pub(crate) fn endpoint(from: &mut Columns<'_>, scope: &Scope) -> Read<Endpoint> {
    let id = EndpointId::from_uuid(from.next()?);
    let url = from.text(|text| EndpointUrl::parse(text).ok())?;
    let description = from.maybe(|text| Description::parse(text).ok())?;
    let filters = from.text(|text| words(text).map(|word| word.parse().ok()).collect())?;
    let profiles = from.text(|text| {
        let profiles: Option<Vec<_>> = words(text).map(|word| word.parse().ok()).collect();
        profiles.and_then(Profiles::new)
    })?;
    let options = DeliveryOptions {
        timeout: from.maybe_count()?.map(Duration::from_millis),
        concurrency: from.maybe_count()?.and_then(NonZeroU8::new),
        rate_per_s: from.maybe_count()?.and_then(NonZeroU32::new),
        ordering: from.text(|text| text.parse().ok())?,
    };
    let headers = match (from.next::<Option<&str>>()?, from.next::<Option<&str>>()?) {
        (Some(names), Some(sealed)) => Some(SealedHeaders {
            names: words(names).map(Into::into).collect(),
            sealed: Sealed::parse(sealed)?,
        }),
        _ => None,
    };
    let secret = Sealed::parse(from.next()?)?;
    let generation = from.count()?;
    let previous = match (from.next::<Option<&str>>()?, from.maybe_time()?) {
        (Some(secret), Some(until)) => {
            Some(PreviousSecret { secret: Sealed::parse(secret)?, until })
        }
        _ => None,
    };
    let (status, reason) = (from.next::<&str>()?, from.next::<Option<&str>>()?);
    let status = match (status, reason) {
        ("enabled", _) => EndpointStatus::Enabled,
        ("disabled", Some(reason)) => EndpointStatus::Disabled { reason: Reason::parse(reason)? },
        ("deleted", _) => EndpointStatus::Deleted,
        _ => return Err("an endpoint has an unknown status".into()),
    };
    let (since, pauses) = (from.maybe_time()?, from.count()?);
    Ok(Endpoint {
        id,
        scope: scope.clone(),
        url,
        description,
        filters,
        profiles,
        options,
        headers,
        secret,
        generation,
        previous,
        status,
        health: since.map_or(Health::Healthy, |since| Health::Failing { since, pauses }),
        version: from.count()?,
        created_at: from.time()?,
        updated_at: from.time()?,
    })
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|word| !word.is_empty())
}

/// What [`delivery`] reads, of a table named `d`.
macro_rules! delivery_columns {
    () => {
        "d.event, d.endpoint, d.event_type, d.payment, d.state, d.failed_because, d.attempts, d.attempts_total, d.version, \
         d.created_at, d.updated_at"
    };
}
pub(crate) use delivery_columns;

pub(crate) fn delivery(from: &mut Columns<'_>, scope: &Scope) -> Read<Delivery> {
    let event = EventId::from_uuid(from.next()?);
    let endpoint = EndpointId::from_uuid(from.next()?);
    Ok(Delivery {
        id: DeliveryId::new(event, endpoint),
        scope: scope.clone(),
        event_type: from.text(|text| text.parse().ok())?,
        payment: from.next::<Option<Uuid>>()?.map(PaymentId::from_uuid),
        state: delivery_state(from)?,
        attempts: from.count()?,
        attempts_total: from.count()?,
        version: from.count()?,
        created_at: from.time()?,
        updated_at: from.time()?,
    })
}

fn delivery_state(from: &mut Columns<'_>) -> Read<DeliveryState> {
    const ALL: [FailedBecause; 4] = [
        FailedBecause::Exhausted,
        FailedBecause::Gone,
        FailedBecause::EndpointDisabled,
        FailedBecause::EndpointDeleted,
    ];
    let (state, because) = (from.next::<&str>()?, from.next::<Option<&str>>()?);
    match (state, because) {
        ("pending", _) => Ok(DeliveryState::Pending),
        ("delivered", _) => Ok(DeliveryState::Delivered),
        ("failed", Some(text)) => ALL
            .into_iter()
            .find(|because| because.as_str() == text)
            .map(DeliveryState::Failed)
            .ok_or_else(|| "a delivery failed for an unknown reason".into()),
        _ => Err("a delivery has an unknown state".into()),
    }
}

/// What [`attempt`] reads, of a table named `a` beside the event `e` that it was about.
macro_rules! attempt_columns {
    () => {
        concat!(
            "a.number, a.started_at, a.latency_ms, a.status, a.body_start, a.error, ",
            $crate::redact::mark!("e", "e.payment")
        )
    };
}
pub(crate) use attempt_columns;

pub(crate) fn attempt(from: &mut Columns<'_>, delivery: DeliveryId) -> Read<Attempt> {
    const KINDS: [TransportErrorKind; 7] = [
        TransportErrorKind::Denied,
        TransportErrorKind::Dns,
        TransportErrorKind::Connect,
        TransportErrorKind::Tls,
        TransportErrorKind::Timeout,
        TransportErrorKind::Reset,
        TransportErrorKind::Protocol,
    ];
    let (number, started_at, latency_ms) = (from.count()?, from.time()?, from.count()?);
    let (status, body_start) = (from.next::<Option<i32>>()?, from.next::<Option<&str>>()?);
    let error = from.maybe(|text| KINDS.into_iter().find(|kind| kind.as_str() == text))?;
    let outcome = match (status, body_start, error) {
        (Some(status), Some(body), None) => {
            AttemptOutcome::Answered { status: u16::try_from(status)?, body_start: body.into() }
        }
        (None, None, Some(kind)) => AttemptOutcome::Failed(kind),
        _ => return Err("an attempt has no outcome".into()),
    };
    let mut attempt = Attempt { delivery, number, started_at, latency_ms, outcome };
    if let Some(redaction) = from.redaction()? {
        redaction.attempt(&mut attempt);
    }
    Ok(attempt)
}

/// What [`api_key`] reads.
macro_rules! api_key_columns {
    () => {
        "merchant, live, id, role, name, prefix, digest, created_at, expires_at, revoked_at, revoked_because, last_used_at, \
         version"
    };
}
pub(crate) use api_key_columns;

pub(crate) fn api_key(from: &mut Columns<'_>) -> Read<ApiKey> {
    Ok(ApiKey {
        scope: from.scope()?,
        id: KeyId::from_uuid(from.next()?),
        role: from.text(|text| text.parse().ok())?,
        name: from.text(|text| Description::parse(text).ok())?,
        prefix: from.text(KeyPrefix::parse)?,
        digest: from.next::<&[u8]>()?.try_into()?,
        created_at: from.time()?,
        expires_at: from.maybe_time()?,
        revoked_at: from.maybe_time()?,
        revoked_because: from.maybe(|text| Reason::parse(text).ok())?,
        last_used_at: from.maybe_time()?,
        version: from.count()?,
    })
}

/// What [`erasure`] reads, of a table named `y`.
macro_rules! erasure_columns {
    () => {
        "y.id, y.customer, y.number, y.requested_at, z.payments, z.redacted, z.redacted_at"
    };
}
pub(crate) use erasure_columns;

/// The table of [`erasure_columns!`] and what is counted of each row.
macro_rules! erasure_tables {
    () => {
        " from {schema}.erasures y cross join lateral (select count(*) as payments, count(x.redacted_at) as redacted, \
         max(x.redacted_at) as redacted_at from {schema}.erased_payments x where x.merchant = y.merchant and x.live = y.live \
         and x.erasure = y.id) z "
    };
}
pub(crate) use erasure_tables;

pub(crate) fn erasure(from: &mut Columns<'_>, scope: &Scope) -> Read<ErasureProgress> {
    let erasure = Erasure {
        id: ErasureId::from_uuid(from.next()?),
        scope: scope.clone(),
        customer: CustomerDigest(from.next::<&[u8]>()?.try_into()?),
        number: from.count()?,
        requested_at: from.time()?,
    };
    let (payments, payments_redacted) = (from.count()?, from.count()?);
    let last = from.maybe_time()?.unwrap_or(erasure.requested_at);
    let done_at = (payments_redacted >= payments).then_some(last);
    Ok(ErasureProgress { erasure, payments, payments_redacted, done_at })
}

pub(crate) fn customer(from: &mut Columns<'_>) -> Read<CustomerId> {
    from.text(|text| CustomerId::parse(text).ok())
}

/// What [`consent`] reads.
macro_rules! consent_columns {
    () => {
        "id, customer, erasure, purpose, terms, source, given_at, withdrawn_at, version"
    };
}
pub(crate) use consent_columns;

pub(crate) fn consent(from: &mut Columns<'_>, scope: &Scope) -> Read<Consent> {
    let id = ConsentId::from_uuid(from.next()?);
    let holder = match (from.next::<Option<&[u8]>>()?, from.next::<Option<Uuid>>()?) {
        (Some(customer), None) => ConsentHolder::Customer(CustomerDigest(customer.try_into()?)),
        (None, Some(erasure)) => ConsentHolder::Erased(ErasureId::from_uuid(erasure)),
        _ => return Err("a consent is nobody's".into()),
    };
    Ok(Consent {
        id,
        scope: scope.clone(),
        holder,
        purpose: from.text(|text| Purpose::parse(text).ok())?,
        terms: from.text(|text| TermsVersion::parse(text).ok())?,
        source: from.maybe(|text| ConsentSource::parse(text).ok())?,
        given_at: from.time()?,
        withdrawn_at: from.maybe_time()?,
        version: from.count()?,
    })
}

/// What [`shield_of`] reads.
macro_rules! shield_columns {
    () => {
        "version, networks, reasons, created_at, created_by, expires_at, frozen_because, frozen_since, frozen_by"
    };
}
pub(crate) use shield_columns;

pub(crate) fn shield_of(from: &mut Columns<'_>) -> Read<Shield> {
    let version = from.count()?;
    let networks: Vec<String> = from.next()?;
    let reasons: Vec<Option<String>> = from.next()?;
    let (created_at, created_by): (Vec<Time>, Vec<String>) = (from.next()?, from.next()?);
    let expires_at: Vec<Option<Time>> = from.next()?;
    // A CHECK says that the arrays are of one length.
    let when = created_at.into_iter().zip(expires_at);
    let why = reasons.iter().zip(created_by);
    let mut denied = Vec::with_capacity(networks.len());
    for (network, ((created_at, expires_at), (reason, created_by))) in
        networks.iter().zip(when.zip(why))
    {
        denied.push(DeniedNetwork {
            network: network.parse()?,
            reason: reason.as_deref().map(Reason::parse).transpose()?,
            created_at: created_at.0,
            created_by: created_by.into(),
            expires_at: expires_at.map(|time| time.0),
        });
    }
    let because = from.maybe(|text| Reason::parse(text).ok())?;
    let freeze = match (because, from.maybe_time()?, from.next::<Option<&str>>()?) {
        (Some(reason), Some(since), Some(by)) => Some(Freeze { reason, since, by: by.into() }),
        _ => None,
    };
    Ok(Shield { version, denied, freeze })
}

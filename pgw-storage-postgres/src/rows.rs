//! Rows: the domain's objects as columns. One definition a table, for a statement about one row and for one about many.

use std::borrow::Cow;

use pgw_core::access::{ApiKey, AuditChange, AuditOutcome, AuditRow};
use pgw_core::changes::Changes;
use pgw_core::event::Event;
use pgw_core::idempotency::{IdempotencyKey, KeyClaim, KeyTarget, StoredAnswer};
use pgw_core::payment::{
    CaptureMethod, Cause, Conflict, Failure, Finality, NextAction, Operation, Payment, Reference,
};
use pgw_core::privacy::{Consent, ConsentHolder, Erasure};
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::StorageError;
use pgw_core::webhook::{
    Attempt, AttemptOutcome, Delivery, DeliveryState, Endpoint, EndpointStatus, Health,
};
use uuid::Uuid;

use crate::answers::teller;
use crate::handoff::Reserved;
use crate::sql::Bound;
use crate::value::{Time, bits, count, micros, text};

/// A row on its way into a table.
pub(crate) trait Row {
    /// Its columns and their PostgreSQL types, in the order they are bound.
    const COLUMNS: &'static [(&'static str, &'static str)];
    /// Columns that are the same in all rows of a form, and what is in them: SQL over the row's other columns, `u`.
    const SAME: &'static [(&'static str, &'static [Form], &'static str)];

    /// Whether it has in all of its columns what rows of this form have.
    fn has(&self, form: Form) -> bool;

    /// Binds one row, a value a column; not what rows of this form have anyway.
    fn bind(&self, form: Form, to: &mut Bound);

    /// Binds many rows, an array a column; not what rows of this form have anyway.
    fn bind_all(rows: &[Self], form: Form, to: &mut Bound)
    where
        Self: Sized;

    /// The columns that are bound for rows of this form.
    fn told(form: Form) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        Self::COLUMNS.iter().filter(move |(column, _)| !Self::is_same(column, form))
    }

    /// Whether a column is the same in all rows of this form.
    fn is_same(column: &str, form: Form) -> bool {
        Self::SAME.iter().any(|(same, forms, _)| *same == column && forms.contains(&form))
    }
}

/// What is known of rows without being told. For the server an array of one value a row is as much work as any other, and most columns of a
/// new payment say nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing.
    Any,
    /// They were just made, as nearly all are that a commit makes.
    New,
    /// They are there, and nothing out of the ordinary happened to them.
    Usual,
}

macro_rules! row {
    ($(#[$doc:meta])* $name:ident { $(
        $column:ident: $rust:ty = $sql:literal $([$($form:ident)|+: $value:expr => $same:literal])?,
    )* }) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub(crate) struct $name<'a> {
            /// Whose row it is.
            pub(crate) merchant: &'a str,
            /// Its mode.
            pub(crate) live: bool,
            $(pub(crate) $column: $rust,)*
        }

        impl Row for $name<'_> {
            const COLUMNS: &'static [(&'static str, &'static str)] =
                &[("merchant", "text"), ("live", "boolean"), $((stringify!($column), $sql),)*];
            const SAME: &'static [(&'static str, &'static [Form], &'static str)] =
                &[$($((stringify!($column), &[$(Form::$form),+], $same),)?)*];

            #[expect(unused_variables, reason = "not every column is compared, and some rows have none that are")]
            fn has(&self, form: Form) -> bool {
                let Self { merchant, live, $($column,)* } = self;
                true $($(&& (!matches!(form, $(Form::$form)|+) || is($column, &$value)))?)*
            }

            fn bind(&self, form: Form, to: &mut Bound) {
                let same = |forms: &[Form]| forms.contains(&form);
                to.add(self.merchant);
                to.add(self.live);
                $(if !same(&[$($(Form::$form),+)?]) {
                    to.add(self.$column.clone());
                })*
            }

            fn bind_all(rows: &[Self], form: Form, to: &mut Bound) {
                let same = |forms: &[Form]| forms.contains(&form);
                to.add(rows.iter().map(|row| row.merchant).collect::<Vec<_>>());
                to.add(rows.iter().map(|row| row.live).collect::<Vec<_>>());
                // One pass over the rows a column: the arrays are of equal length by construction.
                $(if !same(&[$($(Form::$form),+)?]) {
                    to.add(rows.iter().map(|row| row.$column.clone()).collect::<Vec<_>>());
                })*
            }
        }
    };
}

pub(crate) use row;

fn is<T: PartialEq>(found: &T, same: &T) -> bool {
    found == same
}

row!(
    /// A payment.
    PaymentRow {
        id: Uuid = "uuid",
        version: i64 = "bigint" [New: 1 => "1"],
        sequence: i64 = "bigint" [New: 1 => "1"],
        status: &'a str = "text",
        currency: &'a str = "text",
        amount_minor: i64 = "bigint",
        authorized_minor: i64 = "bigint" [New: 0 => "0"],
        captured_minor: i64 = "bigint" [New: 0 => "0"],
        capture_reserved_minor: i64 = "bigint" [New | Usual: 0 => "0"],
        refunded_minor: i64 = "bigint" [New | Usual: 0 => "0"],
        refund_reserved_minor: i64 = "bigint" [New | Usual: 0 => "0"],
        unknown_operations: i64 = "bigint" [New | Usual: 0 => "0"],
        open_conflicts: i64 = "bigint" [New | Usual: 0 => "0"],
        needs_review: bool = "boolean" [New | Usual: false => "false"],
        disputed: bool = "boolean" [New | Usual: false => "false"],
        capture: &'a str = "text",
        customer_email: &'a str = "text",
        customer_name: &'a str = "text",
        customer_id: Option<&'a str> = "text",
        description: Option<&'a str> = "text",
        metadata: Cow<'a, str> = "text",
        payment_method: &'a str = "text",
        processor: &'a str = "text",
        processor_reference: Option<&'a str> = "text" [New: None => "null"],
        failure_code: Option<&'a str> = "text" [New | Usual: None => "null"],
        failure_message: Option<&'a str> = "text" [New | Usual: None => "null"],
        next_action: Option<&'a str> = "text" [New | Usual: None => "null"],
        expires_at: Time = "timestamptz",
        created_at: Time = "timestamptz",
        updated_at: Time = "timestamptz" [New: *created_at => "u.created_at"],
    }
);

row!(
    /// An operation. Without a `place` it goes behind the payment's others.
    OperationRow {
        id: Uuid = "uuid",
        payment: Uuid = "uuid",
        place: Option<i64> = "bigint",
        kind: &'a str = "text",
        currency: &'a str = "text",
        amount_minor: i64 = "bigint",
        state: &'a str = "text",
        cause: &'a str = "text" [New | Usual: "request" => "'request'"],
        is_final: bool = "boolean",
        attempts: i64 = "bigint" [New: 0 => "0"],
        probes: i64 = "bigint" [New: 0 => "0"],
        fence: Option<i64> = "bigint" [New: None => "null"],
        first_dispatched_at: Option<Time> = "timestamptz" [New: None => "null"],
        deadline: Option<Time> = "timestamptz" [New | Usual: None => "null"],
        confirmed: bool = "boolean" [New: false => "false"],
        needs_review: bool = "boolean" [New | Usual: false => "false"],
        reference: Option<&'a str> = "text" [New: None => "null"],
        failure_code: Option<&'a str> = "text" [New | Usual: None => "null"],
        failure_message: Option<&'a str> = "text" [New | Usual: None => "null"],
        reason: Option<&'a str> = "text" [New | Usual: None => "null"],
        idempotency_key: Option<&'a str> = "text",
        created_at: Time = "timestamptz",
        updated_at: Time = "timestamptz" [New: *created_at => "u.created_at"],
        due_in: Option<i64> = "bigint" [Usual: None => "null"],
        held_for: Option<i64> = "bigint" [Usual: None => "null"],
        held_as: Option<i64> = "bigint" [Usual: None => "null"],
    }
);

row!(
    /// An event.
    EventRow {
        id: Uuid = "uuid",
        event_type: &'a str = "text",
        payment: Option<Uuid> = "uuid",
        sequence: Option<i64> = "bigint",
        created_at: Time = "timestamptz",
        body: &'a [u8] = "bytea",
    }
);

row!(
    /// A claim on an idempotency key.
    ClaimRow {
        key: &'a str = "text",
        fingerprint: &'a [u8] = "bytea",
        payment: Option<Uuid> = "uuid",
        operation: Option<Uuid> = "uuid",
        object: Option<String> = "text",
        answer_status: Option<i16> = "smallint",
        answer_body: Option<&'a [u8]> = "bytea",
        answer_event: Option<Uuid> = "uuid",
        answer_length: Option<i32> = "integer",
    }
);

row!(
    /// The answer of a key that was claimed before.
    AnswerRow {
        key: &'a str = "text",
        answer_status: i16 = "smallint",
        answer_body: &'a [u8] = "bytea",
    }
);

row!(
    /// An erasure.
    ErasureRow {
        id: Uuid = "uuid",
        customer: &'a [u8] = "bytea",
        number: i64 = "bigint",
        requested_at: Time = "timestamptz",
    }
);

row!(
    /// A consent.
    ConsentRow {
        id: Uuid = "uuid",
        customer: Option<&'a [u8]> = "bytea",
        erasure: Option<Uuid> = "uuid",
        purpose: &'a str = "text",
        terms: &'a str = "text",
        source: Option<&'a str> = "text",
        given_at: Time = "timestamptz",
        withdrawn_at: Option<Time> = "timestamptz",
        version: i64 = "bigint",
    }
);

row!(
    /// A conflict.
    ConflictRow {
        payment: Uuid = "uuid",
        id: Uuid = "uuid",
        operation: Uuid = "uuid",
        settled: &'a str = "text",
        found: &'a str = "text",
        reference: Option<&'a str> = "text",
        created_at: Time = "timestamptz",
        closed_at: Option<Time> = "timestamptz",
    }
);

row!(
    /// An endpoint. Its filters, profiles and names of headers are lists of words without commas.
    EndpointRow {
        id: Uuid = "uuid",
        url: &'a str = "text",
        description: Option<&'a str> = "text",
        filters: String = "text",
        profiles: String = "text",
        timeout_ms: Option<i64> = "bigint",
        concurrency: Option<i64> = "bigint",
        rate_per_s: Option<i64> = "bigint",
        ordering: &'a str = "text",
        header_names: Option<String> = "text",
        headers: Option<&'a str> = "text",
        secret: &'a str = "text",
        generation: i64 = "bigint",
        previous_secret: Option<&'a str> = "text",
        previous_until: Option<Time> = "timestamptz",
        sealed_with: &'a str = "text",
        status: &'a str = "text",
        disabled_reason: Option<&'a str> = "text",
        failing_since: Option<Time> = "timestamptz",
        pauses: i64 = "bigint",
        version: i64 = "bigint",
        created_at: Time = "timestamptz",
        updated_at: Time = "timestamptz",
    }
);

row!(
    /// A delivery.
    DeliveryRow {
        event: Uuid = "uuid",
        endpoint: Uuid = "uuid",
        state: &'a str = "text",
        failed_because: Option<&'a str> = "text" [Usual: None => "null"],
        attempts: i64 = "bigint",
        attempts_total: i64 = "bigint" [Usual: *attempts => "u.attempts"],
        version: i64 = "bigint",
        created_at: Time = "timestamptz",
        updated_at: Time = "timestamptz",
        due_in: Option<i64> = "bigint" [Usual: None => "null"],
    }
);

row!(
    /// An attempt of a delivery.
    AttemptRow {
        event: Uuid = "uuid",
        endpoint: Uuid = "uuid",
        number: i64 = "bigint",
        started_at: Time = "timestamptz",
        latency_ms: i64 = "bigint",
        status: Option<i32> = "integer",
        body_start: Option<&'a str> = "text",
        error: Option<&'a str> = "text" [Usual: None => "null"],
    }
);

row!(
    /// An API key, without when it was last used: that is written by nothing but its use.
    ApiKeyRow {
        id: Uuid = "uuid",
        role: &'a str = "text",
        name: &'a str = "text",
        prefix: &'a str = "text",
        digest: &'a [u8] = "bytea",
        created_at: Time = "timestamptz",
        expires_at: Option<Time> = "timestamptz",
        revoked_at: Option<Time> = "timestamptz",
        revoked_because: Option<&'a str> = "text",
        version: i64 = "bigint",
    }
);

row!(
    /// An audit row.
    AuditLine {
        at: Time = "timestamptz",
        id: Uuid = "uuid",
        actor_kind: &'a str = "text",
        actor: Option<String> = "text",
        action: &'a str = "text",
        success: bool = "boolean" [Usual: true => "true"],
        origin: Option<String> = "text",
        object: String = "text",
        request_id: Option<&'a str> = "text",
        changes: Option<String> = "text" [Usual: None => "null"],
    }
);

row!(
    /// The version that a payment must have; `at` is the guard's place among its commit's.
    PaymentGuard {
        at: i32 = "integer",
        id: Uuid = "uuid",
        version: i64 = "bigint",
    }
);

row!(
    /// The version that a delivery must have.
    DeliveryGuard {
        at: i32 = "integer",
        event: Uuid = "uuid",
        endpoint: Uuid = "uuid",
        version: i64 = "bigint",
    }
);

/// Whether a mode is the live one: how the `live` columns say it.
pub(crate) const fn is_live(mode: Mode) -> bool {
    matches!(mode, Mode::Live)
}

type Made<T> = Result<T, StorageError>;

impl<'a> PaymentRow<'a> {
    pub(crate) fn new(payment: &'a Payment) -> Made<Self> {
        let failure = payment.failure.as_ref();
        Ok(Self {
            merchant: payment.scope.merchant.as_str(),
            live: is_live(payment.scope.mode),
            id: payment.id.as_uuid(),
            version: count(payment.version)?,
            sequence: count(payment.sequence)?,
            status: payment.status.as_str(),
            currency: payment.amount.currency().code(),
            amount_minor: payment.amount.minor(),
            authorized_minor: payment.authorized_minor,
            captured_minor: payment.captured_minor,
            capture_reserved_minor: payment.capture_reserved_minor,
            refunded_minor: payment.refunded_minor,
            refund_reserved_minor: payment.refund_reserved_minor,
            unknown_operations: payment.unknown_operations.into(),
            open_conflicts: payment.open_conflicts.into(),
            needs_review: payment.needs_review,
            disputed: payment.disputed,
            capture: match payment.capture {
                CaptureMethod::Automatic => "automatic",
                CaptureMethod::Manual => "manual",
            },
            customer_email: text(payment.customer.email.as_str())?,
            customer_name: text(payment.customer.name.as_str())?,
            customer_id: payment.customer.id.as_ref().map(|id| text(id.as_str())).transpose()?,
            description: payment.description.as_ref().map(|it| text(it.as_str())).transpose()?,
            metadata: metadata(payment),
            payment_method: text(payment.payment_method.as_str())?,
            processor: text(payment.processor.as_str())?,
            processor_reference: payment.processor_reference.as_ref().map(Reference::as_str),
            failure_code: failure.map(Failure::code),
            failure_message: failure.map(Failure::message),
            next_action: payment.next_action.as_ref().map(url_of).transpose()?,
            expires_at: Time(payment.expires_at),
            created_at: Time(payment.created_at),
            updated_at: Time(payment.updated_at),
        })
    }
}

fn metadata(payment: &Payment) -> Cow<'_, str> {
    if payment.metadata.is_empty() {
        return Cow::Borrowed("{}");
    }
    // A map from texts to texts always has a JSON form, and JSON escapes NUL.
    Cow::Owned(serde_json::to_string(&payment.metadata).unwrap_or_else(|_| "{}".to_owned()))
}

fn url_of(action: &NextAction) -> Made<&str> {
    match action {
        NextAction::Redirect(url) => text(url),
        _ => Err(StorageError::Unsupported("this kind of next action")),
    }
}

impl<'a> OperationRow<'a> {
    pub(crate) fn new(
        scope: &'a Scope,
        operation: &'a Operation,
        place: Option<i64>,
        due_in: Option<std::time::Duration>,
        held: Option<&Reserved>,
    ) -> Made<Self> {
        let failure = operation.failure.as_ref();
        Ok(Self {
            merchant: scope.merchant.as_str(),
            live: is_live(scope.mode),
            id: operation.id.as_uuid(),
            payment: operation.payment.as_uuid(),
            place,
            kind: operation.kind.as_str(),
            currency: operation.amount.currency().code(),
            amount_minor: operation.amount.minor(),
            state: operation.state.as_str(),
            cause: match operation.cause {
                Cause::Request => "request",
                Cause::Expiry => "expiry",
                _ => return Err(StorageError::Unsupported("this cause of an operation")),
            },
            is_final: operation.finality == Finality::Final,
            attempts: operation.attempts.into(),
            probes: operation.probes.into(),
            fence: operation.fence.map(|fence| bits(fence.0)),
            first_dispatched_at: operation.first_dispatched_at.map(Time),
            deadline: operation.deadline.map(Time),
            confirmed: operation.confirmed,
            needs_review: operation.needs_review,
            reference: operation.reference.as_ref().map(Reference::as_str),
            failure_code: failure.map(Failure::code),
            failure_message: failure.map(Failure::message),
            reason: operation.reason.as_ref().map(|reason| text(reason.as_str())).transpose()?,
            idempotency_key: operation.idempotency_key.as_ref().map(IdempotencyKey::as_str),
            created_at: Time(operation.created_at),
            updated_at: Time(operation.updated_at),
            due_in: due_in.map(micros),
            held_for: held.map(|held| micros(held.lease)),
            held_as: held.map(|held| bits(held.fence.0)),
        })
    }
}

impl<'a> EventRow<'a> {
    pub(crate) fn new(event: &'a Event) -> Made<Self> {
        Ok(Self {
            merchant: event.scope.merchant.as_str(),
            live: is_live(event.scope.mode),
            id: event.id.as_uuid(),
            event_type: event.event_type.as_str(),
            payment: event.payment.map(|id| id.as_uuid()),
            sequence: event.sequence.map(count).transpose()?,
            created_at: Time(event.created_at),
            body: &event.body,
        })
    }
}

impl<'a> ClaimRow<'a> {
    pub(crate) fn new(changes: &'a Changes, claim: &'a KeyClaim) -> Made<Self> {
        let (scope, answer) = (&changes.scope, claim.answer.as_ref());
        let teller = answer.and_then(|answer| teller(changes, claim, answer));
        // Shorter than its event, which is bounded.
        let length = answer.and_then(|answer| i32::try_from(answer.body.len()).ok());
        let (payment, operation) = match claim.target {
            KeyTarget::Operation { payment, operation } => (Some(payment), Some(operation)),
            _ => (None, None),
        };
        Ok(Self {
            merchant: scope.merchant.as_str(),
            live: is_live(scope.mode),
            key: claim.key.as_str(),
            fingerprint: &claim.fingerprint.0,
            payment: payment.map(|id| id.as_uuid()),
            operation: operation.map(|id| id.as_uuid()),
            object: claim.target.object(),
            answer_status: answer.map(status).transpose()?,
            answer_body: answer.filter(|_| teller.is_none()).map(|answer| &*answer.body),
            answer_event: teller.map(|event| event.id.as_uuid()),
            answer_length: teller.and(length),
        })
    }
}

impl<'a> AnswerRow<'a> {
    pub(crate) fn new(
        scope: &'a Scope,
        key: &'a IdempotencyKey,
        answer: &'a StoredAnswer,
    ) -> Made<Self> {
        Ok(Self {
            merchant: scope.merchant.as_str(),
            live: is_live(scope.mode),
            key: key.as_str(),
            answer_status: status(answer)?,
            answer_body: &answer.body,
        })
    }
}

fn status(answer: &StoredAnswer) -> Made<i16> {
    i16::try_from(answer.status).map_err(|_| StorageError::Unsupported("a status above 32767"))
}

impl<'a> ConflictRow<'a> {
    pub(crate) fn new(scope: &'a Scope, conflict: &'a Conflict) -> Self {
        Self {
            merchant: scope.merchant.as_str(),
            live: is_live(scope.mode),
            payment: conflict.payment.as_uuid(),
            id: conflict.id.as_uuid(),
            operation: conflict.operation.as_uuid(),
            settled: conflict.settled.as_str(),
            found: conflict.found.as_str(),
            reference: conflict.reference.as_ref().map(Reference::as_str),
            created_at: Time(conflict.created_at),
            closed_at: conflict.closed_at.map(Time),
        }
    }
}

impl<'a> EndpointRow<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint) -> Made<Self> {
        let filters: Vec<String> = endpoint.filters.iter().map(ToString::to_string).collect();
        let profiles: Vec<&str> =
            endpoint.profiles.iter().map(|profile| profile.as_str()).collect();
        let (status, reason) = match &endpoint.status {
            EndpointStatus::Enabled => ("enabled", None),
            EndpointStatus::Disabled { reason } => ("disabled", Some(text(reason.as_str())?)),
            EndpointStatus::Deleted => ("deleted", None),
            _ => return Err(StorageError::Unsupported("this status of an endpoint")),
        };
        let previous = endpoint.previous.as_ref();
        let (options, headers) = (&endpoint.options, endpoint.headers.as_ref());
        let (failing_since, pauses) = match endpoint.health {
            Health::Healthy => (None, 0),
            Health::Failing { since, pauses } => (Some(Time(since)), pauses.into()),
        };
        Ok(Self {
            merchant: endpoint.scope.merchant.as_str(),
            live: is_live(endpoint.scope.mode),
            id: endpoint.id.as_uuid(),
            url: text(endpoint.url.as_str())?,
            description: endpoint.description.as_ref().map(|it| text(it.as_str())).transpose()?,
            filters: filters.join(","),
            profiles: profiles.join(","),
            timeout_ms: options.timeout.map(|timeout| micros(timeout) / 1_000),
            concurrency: options.concurrency.map(|most| most.get().into()),
            rate_per_s: options.rate_per_s.map(|rate| rate.get().into()),
            ordering: options.ordering.as_str(),
            header_names: headers.map(|headers| headers.names.join(",")),
            headers: headers.map(|headers| headers.sealed.as_str()),
            secret: endpoint.secret.as_str(),
            generation: count(endpoint.generation)?,
            previous_secret: previous.map(|previous| previous.secret.as_str()),
            previous_until: previous.map(|previous| Time(previous.until)),
            sealed_with: endpoint.sealed_with().map_or("", |key| key.as_str()),
            status,
            disabled_reason: reason,
            failing_since,
            pauses,
            version: count(endpoint.version)?,
            created_at: Time(endpoint.created_at),
            updated_at: Time(endpoint.updated_at),
        })
    }
}

impl<'a> DeliveryRow<'a> {
    pub(crate) fn new(delivery: &'a Delivery, due_in: Option<std::time::Duration>) -> Made<Self> {
        Ok(Self {
            merchant: delivery.scope.merchant.as_str(),
            live: is_live(delivery.scope.mode),
            event: delivery.id.event().as_uuid(),
            endpoint: delivery.id.endpoint().as_uuid(),
            state: delivery.state.as_str(),
            failed_because: match delivery.state {
                DeliveryState::Failed(because) => Some(because.as_str()),
                _ => None,
            },
            attempts: delivery.attempts.into(),
            attempts_total: delivery.attempts_total.into(),
            version: count(delivery.version)?,
            created_at: Time(delivery.created_at),
            updated_at: Time(delivery.updated_at),
            due_in: due_in.map(micros),
        })
    }
}

impl<'a> AttemptRow<'a> {
    pub(crate) fn new(scope: &'a Scope, attempt: &'a Attempt) -> Made<Self> {
        let (status, body_start, error) = match &attempt.outcome {
            AttemptOutcome::Answered { status, body_start } => {
                (Some(i32::from(*status)), Some(text(body_start)?), None)
            }
            AttemptOutcome::Failed(kind) => (None, None, Some(kind.as_str())),
            _ => return Err(StorageError::Unsupported("this outcome of an attempt")),
        };
        Ok(Self {
            merchant: scope.merchant.as_str(),
            live: is_live(scope.mode),
            event: attempt.delivery.event().as_uuid(),
            endpoint: attempt.delivery.endpoint().as_uuid(),
            number: attempt.number.into(),
            started_at: Time(attempt.started_at),
            latency_ms: attempt.latency_ms.into(),
            status,
            body_start,
            error,
        })
    }
}

impl<'a> ApiKeyRow<'a> {
    pub(crate) fn new(key: &'a ApiKey) -> Made<Self> {
        Ok(Self {
            merchant: key.scope.merchant.as_str(),
            live: is_live(key.scope.mode),
            id: key.id.as_uuid(),
            role: key.role.as_str(),
            name: text(key.name.as_str())?,
            prefix: key.prefix.as_str(),
            digest: &key.digest,
            created_at: Time(key.created_at),
            expires_at: key.expires_at.map(Time),
            revoked_at: key.revoked_at.map(Time),
            revoked_because: key
                .revoked_because
                .as_ref()
                .map(|reason| text(reason.as_str()))
                .transpose()?,
            version: count(key.version)?,
        })
    }
}

impl<'a> ErasureRow<'a> {
    pub(crate) fn new(erasure: &'a Erasure) -> Made<Self> {
        Ok(Self {
            merchant: erasure.scope.merchant.as_str(),
            live: is_live(erasure.scope.mode),
            id: erasure.id.as_uuid(),
            customer: &erasure.customer.0,
            number: count(erasure.number)?,
            requested_at: Time(erasure.requested_at),
        })
    }
}

impl<'a> ConsentRow<'a> {
    pub(crate) fn new(consent: &'a Consent) -> Made<Self> {
        let (customer, erasure) = match &consent.holder {
            ConsentHolder::Customer(customer) => (Some(&customer.0[..]), None),
            ConsentHolder::Erased(erasure) => (None, Some(erasure.as_uuid())),
        };
        Ok(Self {
            merchant: consent.scope.merchant.as_str(),
            live: is_live(consent.scope.mode),
            id: consent.id.as_uuid(),
            customer,
            erasure,
            purpose: consent.purpose.as_str(),
            terms: consent.terms.as_str(),
            source: consent.source.as_ref().map(|source| text(source.as_str())).transpose()?,
            given_at: Time(consent.given_at),
            withdrawn_at: consent.withdrawn_at.map(Time),
            version: count(consent.version)?,
        })
    }
}

impl<'a> AuditLine<'a> {
    pub(crate) fn new(row: &'a AuditRow) -> Made<Self> {
        let (kind, actor) = row.actor.parts();
        if let Some(name) = &actor {
            text(name)?;
        }
        Ok(Self {
            merchant: row.scope.merchant.as_str(),
            live: is_live(row.scope.mode),
            at: Time(row.at),
            id: row.id.as_uuid(),
            actor_kind: kind,
            actor,
            action: row.action.as_str(),
            success: row.outcome == AuditOutcome::Success,
            origin: row.origin.map(|origin| origin.to_string()),
            object: row.object.to_string(),
            request_id: row.request_id.as_deref().map(text).transpose()?,
            changes: changes_as_json(&row.changes)?,
        })
    }
}

/// The changes of an audit row as a column holds them: a JSON list of field, old and new value; nothing for none.
pub(crate) fn changes_as_json(changes: &[AuditChange]) -> Made<Option<String>> {
    if changes.is_empty() {
        return Ok(None);
    }
    let values = |change| -> (&str, Option<&str>, Option<&str>) {
        let change: &AuditChange = change;
        (change.field().as_str(), change.before(), change.after())
    };
    let listed: Vec<_> = changes.iter().map(values).collect();
    // JSON escapes NUL.
    let json = serde_json::to_string(&listed);
    json.map(Some).map_err(|_| StorageError::Unsupported("changes without a JSON form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a column is the same as is told, or nobody knows it.
    #[test]
    fn what_is_not_told_follows_from_what_is() {
        fn check<R: Row>() {
            for (column, forms, sql) in R::SAME {
                let Some(source) = sql.strip_prefix("u.") else { continue };
                for form in *forms {
                    assert!(R::told(*form).any(|(told, _)| *told == source), "{column} is {sql}");
                }
            }
            assert_eq!(R::told(Form::Any).count(), R::COLUMNS.len());
        }
        check::<PaymentRow<'_>>();
        check::<OperationRow<'_>>();
        check::<DeliveryRow<'_>>();
        check::<AttemptRow<'_>>();
        check::<AuditLine<'_>>();
    }
}

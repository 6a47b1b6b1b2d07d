//! Rows of payments and operations, without what other rows hold already. How they are found is in `tables.rs`.

use pgw_core::currency::Currency;
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::metadata::Metadata;
use pgw_core::money::Money;
use pgw_core::page::Cursor;
use pgw_core::payment::{
    CaptureMethod, Cause, Customer, Failure, Fence, Finality, NextAction, Operation, OperationKind,
    OperationState, Payment, PaymentStatus, ProcessorName, Reference,
};
use pgw_core::scope::Scope;
use pgw_core::text::{Description, PaymentMethod, Reason};
use pgw_core::timestamp::Timestamp;

/// A payment: its scope is a number, and fields that few payments have are apart.
#[derive(Debug)]
pub(crate) struct PaymentRow {
    pub(crate) id: PaymentId,
    pub(crate) scope: u32,
    /// Its operations, in the order they were first written.
    pub(crate) operations: Chain,
    /// Its events, in the order they were written.
    pub(crate) events: Chain,
    pub(crate) status: PaymentStatus,
    pub(crate) version: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) currency: Currency,
    amount_minor: i64,
    pub(crate) customer: Customer,
    capture: CaptureMethod,
    needs_review: bool,
    disputed: bool,
    pub(crate) unknown_operations: u32,
    open_conflicts: u32,
    description: Option<Description>,
    metadata: Metadata,
    payment_method: PaymentMethod,
    processor: ProcessorName,
    totals: Totals,
    sequence: u32,
    updated_at: Timestamp,
    rare: Option<Box<PaymentRare>>,
}

#[derive(Debug)]
struct PaymentRare {
    processor_reference: Option<Reference>,
    failure: Option<Failure>,
    next_action: Option<NextAction>,
}

/// What operations add up to. Most payments have nothing yet, or all of their amount.
#[derive(Debug)]
enum Totals {
    /// Nothing.
    Nothing,
    /// All of the amount is authorized and captured.
    Paid,
    /// Anything else: authorized, captured, capture reserved, refunded, refund reserved, in minor units.
    Other(Box<[i64; 5]>),
}

impl Totals {
    fn of(payment: &Payment) -> Self {
        let minor = [
            payment.authorized_minor,
            payment.captured_minor,
            payment.capture_reserved_minor,
            payment.refunded_minor,
            payment.refund_reserved_minor,
        ];
        let amount = payment.amount.minor();
        match minor {
            [0, 0, 0, 0, 0] => Self::Nothing,
            [authorized, captured, 0, 0, 0] if authorized == amount && captured == amount => {
                Self::Paid
            }
            _ => Self::Other(Box::new(minor)),
        }
    }

    fn minor(&self, amount: i64) -> [i64; 5] {
        match self {
            Self::Nothing => [0; 5],
            Self::Paid => [amount, amount, 0, 0, 0],
            Self::Other(minor) => **minor,
        }
    }
}

impl PaymentRow {
    pub(crate) fn new(payment: Payment, scope: u32, operations: Chain, events: Chain) -> Self {
        let has_rare = payment.processor_reference.is_some()
            || payment.failure.is_some()
            || payment.next_action.is_some();
        // Metadata grows as it is read and may hold room for more; a clone of it does not.
        let metadata = payment.metadata.clone();
        let totals = Totals::of(&payment);
        Self {
            id: payment.id,
            scope,
            operations,
            events,
            status: payment.status,
            version: payment.version,
            created_at: payment.created_at,
            expires_at: payment.expires_at,
            currency: payment.amount.currency(),
            amount_minor: payment.amount.minor(),
            customer: payment.customer,
            capture: payment.capture,
            needs_review: payment.needs_review,
            disputed: payment.disputed,
            unknown_operations: payment.unknown_operations,
            open_conflicts: payment.open_conflicts,
            description: payment.description,
            metadata,
            payment_method: payment.payment_method,
            processor: payment.processor,
            totals,
            sequence: u32::try_from(payment.sequence)
                .expect("a payment with more events is refused"),
            updated_at: payment.updated_at,
            rare: has_rare.then(|| {
                Box::new(PaymentRare {
                    processor_reference: payment.processor_reference,
                    failure: payment.failure,
                    next_action: payment.next_action,
                })
            }),
        }
    }

    pub(crate) fn payment(&self, scope: &Scope) -> Payment {
        let rare = self.rare.as_deref();
        let [
            authorized_minor,
            captured_minor,
            capture_reserved_minor,
            refunded_minor,
            refund_reserved_minor,
        ] = self.totals.minor(self.amount_minor);
        Payment {
            id: self.id,
            scope: scope.clone(),
            amount: money(self.amount_minor, self.currency),
            capture: self.capture,
            customer: self.customer.clone(),
            description: self.description.clone(),
            metadata: self.metadata.clone(),
            payment_method: self.payment_method.clone(),
            processor: self.processor.clone(),
            processor_reference: rare.and_then(|rare| rare.processor_reference.clone()),
            status: self.status,
            authorized_minor,
            captured_minor,
            capture_reserved_minor,
            refunded_minor,
            refund_reserved_minor,
            unknown_operations: self.unknown_operations,
            needs_review: self.needs_review,
            open_conflicts: self.open_conflicts,
            disputed: self.disputed,
            failure: rare.and_then(|rare| rare.failure.clone()),
            next_action: rare.and_then(|rare| rare.next_action.clone()),
            expires_at: self.expires_at,
            version: self.version,
            sequence: u64::from(self.sequence),
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }

    pub(crate) fn place(&self) -> Cursor {
        Cursor::new(self.created_at, self.id.as_uuid())
    }

    /// Its entry in the index of payments that can expire.
    pub(crate) fn expiry(&self, row: u32) -> u64 {
        expiry(self.expires_at, row)
    }
}

/// The second a payment expires in, and its row: eight bytes instead of sixteen.
pub(crate) fn expiry(at: Timestamp, row: u32) -> u64 {
    let second = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
    (u64::from(second) << 32) | u64::from(row)
}

/// The row of an entry of that index.
pub(crate) const fn expiring_row(entry: u64) -> u32 {
    (entry & u32::MAX as u64) as u32
}

/// An operation: its payment and its key are row numbers, and fields that come with a dispatch are apart.
#[derive(Debug)]
pub(crate) struct OperationRow {
    pub(crate) id: OperationId,
    /// The payment's row.
    pub(crate) payment: u32,
    /// The payment's next operation.
    pub(crate) next: u32,
    pub(crate) kind: OperationKind,
    pub(crate) state: OperationState,
    pub(crate) due: Due,
    pub(crate) created_at: Timestamp,
    /// The row of its idempotency key, or [`NONE`].
    pub(crate) key: u32,
    currency: Currency,
    amount_minor: i64,
    cause: Cause,
    finality: Finality,
    confirmed: bool,
    needs_review: bool,
    attempts: u32,
    probes: u32,
    updated_at: Timestamp,
    rare: Option<Box<OperationRare>>,
}

#[derive(Debug)]
struct OperationRare {
    fence: Option<Fence>,
    first_dispatched_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    reference: Option<Reference>,
    failure: Option<Failure>,
    reason: Option<Reason>,
}

impl OperationRow {
    /// The row of an operation that is not due. Its key is interned by the caller.
    pub(crate) fn new(operation: Operation, payment: u32, key: u32) -> Self {
        let has_rare = operation.fence.is_some()
            || operation.first_dispatched_at.is_some()
            || operation.deadline.is_some()
            || operation.reference.is_some()
            || operation.failure.is_some()
            || operation.reason.is_some();
        Self {
            id: operation.id,
            payment,
            next: NONE,
            kind: operation.kind,
            state: operation.state,
            due: Due::NEVER,
            created_at: operation.created_at,
            key,
            currency: operation.amount.currency(),
            amount_minor: operation.amount.minor(),
            cause: operation.cause,
            finality: operation.finality,
            confirmed: operation.confirmed,
            needs_review: operation.needs_review,
            attempts: operation.attempts,
            probes: operation.probes,
            updated_at: operation.updated_at,
            rare: has_rare.then(|| {
                Box::new(OperationRare {
                    fence: operation.fence,
                    first_dispatched_at: operation.first_dispatched_at,
                    deadline: operation.deadline,
                    reference: operation.reference,
                    failure: operation.failure,
                    reason: operation.reason,
                })
            }),
        }
    }

    pub(crate) fn operation(&self, payment: PaymentId, key: Option<IdempotencyKey>) -> Operation {
        let rare = self.rare.as_deref();
        Operation {
            id: self.id,
            payment,
            kind: self.kind,
            amount: money(self.amount_minor, self.currency),
            state: self.state,
            cause: self.cause,
            finality: self.finality,
            attempts: self.attempts,
            probes: self.probes,
            fence: rare.and_then(|rare| rare.fence),
            first_dispatched_at: rare.and_then(|rare| rare.first_dispatched_at),
            deadline: rare.and_then(|rare| rare.deadline),
            confirmed: self.confirmed,
            needs_review: self.needs_review,
            reference: rare.and_then(|rare| rare.reference.clone()),
            failure: rare.and_then(|rare| rare.failure.clone()),
            reason: rare.and_then(|rare| rare.reason.clone()),
            idempotency_key: key,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }

    pub(crate) fn place(&self) -> Cursor {
        Cursor::new(self.created_at, self.id.as_uuid())
    }

    /// Whether it is a cancel that is not settled.
    pub(crate) fn is_cancel_under_way(&self) -> bool {
        self.kind == OperationKind::Cancel && !self.state.is_settled()
    }
}

/// The ends of a list whose members name the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl Chain {
    pub(crate) const EMPTY: Self = Self { first: NONE, last: NONE };

    /// Puts a row at the end; the row before it, which must name it.
    pub(crate) const fn append(&mut self, row: u32) -> Option<u32> {
        let before = self.last;
        self.last = row;
        if before == NONE {
            self.first = row;
            return None;
        }
        Some(before)
    }
}

/// When a row is due, if at all, in eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due(i64);

impl Due {
    pub(crate) const NEVER: Self = Self(-1);

    pub(crate) fn at(at: Option<Timestamp>) -> Self {
        at.map_or(Self::NEVER, |at| Self(at.as_micros()))
    }

    pub(crate) fn time(self) -> Option<Timestamp> {
        (self != Self::NEVER).then(|| Timestamp::from_micros(self.0))
    }

    pub(crate) fn is_by(self, now: Timestamp) -> bool {
        self.time().is_some_and(|at| at <= now)
    }
}

fn money(minor: i64, currency: Currency) -> Money {
    Money::from_minor(minor, currency).expect("it was taken from an amount of money")
}

/// No row. Tables refuse rows long before their number gets there.
pub(crate) const NONE: u32 = u32::MAX;

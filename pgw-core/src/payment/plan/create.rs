//! The plan of a creation.

use std::time::Duration;

use crate::access::AuditAction;
use crate::id::{OperationId, PaymentId};
use crate::idempotency::{Fingerprint, Fingerprinter, IdempotencyKey, KeyClaim, KeyTarget};
use crate::metadata::Metadata;
use crate::money::Money;
use crate::payment::{
    CaptureMethod, Cause, Customer, Finality, Operation, OperationKind, OperationState, Payment,
    PaymentStatus, ProcessorName,
};
use crate::text::{Description, PaymentMethod};

use super::revision::Revision;
use super::{EXPIRES_IN_DEFAULT, EXPIRES_IN_MAX, EXPIRES_IN_MIN, Plan, PlanError, Stamp};

/// A payment to be made.
///
/// ```
/// use pgw_core::currency::Currency;
/// use pgw_core::email::Email;
/// use pgw_core::money::Money;
/// use pgw_core::payment::Customer;
/// use pgw_core::payment::plan::NewPayment;
/// use pgw_core::text::{CustomerName, PaymentMethod};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let new = NewPayment::new(
///     Money::parse_major("49.99", Currency::USD)?,
///     Customer {
///         email: Email::parse("ada@example.com")?,
///         name: CustomerName::parse("Ada Lovelace")?,
///         id: None,
///     },
///     PaymentMethod::parse("tok_visa")?,
/// );
/// assert_eq!(new.amount.minor(), 4999);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPayment {
    /// How much: at least one minor unit.
    pub amount: Money,
    /// Who pays.
    pub customer: Customer,
    /// What is charged.
    pub payment_method: PaymentMethod,
    /// What for.
    pub description: Option<Description>,
    /// The merchant's own pairs.
    pub metadata: Metadata,
    /// When the money is taken.
    pub capture: CaptureMethod,
    /// How long it waits for the customer or holds the amount, 1 minute to 31 days; `None`: 7 days.
    pub expires_in: Option<Duration>,
    /// Makes the creation happen once, however often it is asked for.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl NewPayment {
    /// A payment with what it cannot do without; the rest has defaults.
    #[must_use]
    pub fn new(amount: Money, customer: Customer, payment_method: PaymentMethod) -> Self {
        Self {
            amount,
            customer,
            payment_method,
            description: None,
            metadata: Metadata::default(),
            capture: CaptureMethod::Automatic,
            expires_in: None,
            idempotency_key: None,
        }
    }

    /// With an idempotency key.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.idempotency_key = Some(key);
        self
    }

    /// With a capture method.
    #[must_use]
    pub const fn with_capture(mut self, capture: CaptureMethod) -> Self {
        self.capture = capture;
        self
    }

    /// The fingerprint of what is asked, without the key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let expires_in = self.expires_in.map(|wait| wait.as_secs().to_string());
        let mut print = Fingerprinter::new("create_payment")
            .number(self.amount.minor())
            .text(self.amount.currency().code())
            .text(self.customer.email.as_str())
            .text(self.customer.name.as_str())
            .optional(self.customer.id.as_ref().map(|id| id.as_str()))
            .text(self.payment_method.as_str())
            .optional(self.description.as_ref().map(|text| text.as_str()))
            .text(self.capture.as_str())
            .optional(expires_in.as_deref());
        for (name, value) in self.metadata.iter() {
            print = print.text(name).text(value);
        }
        print.finish()
    }
}

/// Plans a new payment: the payment, its first operation (due at once), `payment.created`, the key with its answer, the
/// audit row.
///
/// # Errors
/// [`PlanError::Zero`]; [`PlanError::State`] when `expires_in` is out of its range.
pub fn create(
    new: NewPayment,
    processor: &ProcessorName,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    if new.amount.is_zero() {
        return Err(PlanError::Zero);
    }
    let expires_in = new.expires_in.unwrap_or(EXPIRES_IN_DEFAULT);
    if !(EXPIRES_IN_MIN..=EXPIRES_IN_MAX).contains(&expires_in) {
        return Err(PlanError::State {
            status: PaymentStatus::Pending,
            because: "expires_in must be from 60 seconds to 31 days",
        });
    }
    let fingerprint = new.idempotency_key.is_some().then(|| new.fingerprint());
    let id = PaymentId::from_uuid((stamp.ids)());
    let kind = match new.capture {
        CaptureMethod::Automatic => OperationKind::Charge,
        CaptureMethod::Manual => OperationKind::Authorize,
    };
    let operation_id = OperationId::from_uuid((stamp.ids)());
    let mut operation = blank(operation_id, id, kind, new.amount, stamp.now);
    operation.idempotency_key.clone_from(&new.idempotency_key);
    let claim = new.idempotency_key.clone().zip(fingerprint).map(|(key, fingerprint)| KeyClaim {
        key,
        fingerprint,
        target: KeyTarget::Operation { payment: id, operation: operation_id },
        answer: None,
    });
    let payment = blank_payment(id, new, processor, expires_in, stamp);
    let mut revision = Revision::new(payment, stamp);
    revision.add(operation, Some(Duration::ZERO))?;
    revision.claim(claim);
    Ok(revision.finish(operation_id, Some(AuditAction::PaymentCreate)))
}

fn blank_payment(
    id: PaymentId,
    new: NewPayment,
    processor: &ProcessorName,
    expires_in: Duration,
    stamp: &Stamp<'_>,
) -> Payment {
    Payment {
        id,
        scope: stamp.caller.scope.clone(),
        amount: new.amount,
        capture: new.capture,
        customer: new.customer,
        description: new.description,
        metadata: new.metadata,
        payment_method: new.payment_method,
        processor: processor.clone(),
        processor_reference: None,
        status: PaymentStatus::Pending,
        authorized_minor: 0,
        captured_minor: 0,
        capture_reserved_minor: 0,
        refunded_minor: 0,
        refund_reserved_minor: 0,
        unknown_operations: 0,
        needs_review: false,
        open_conflicts: 0,
        disputed: false,
        failure: None,
        next_action: None,
        expires_at: stamp.now.plus(expires_in),
        version: 0,
        sequence: 0,
        created_at: stamp.now,
        updated_at: stamp.now,
    }
}

/// An operation that was just asked for.
pub(super) fn blank(
    id: OperationId,
    payment: PaymentId,
    kind: OperationKind,
    amount: Money,
    now: crate::timestamp::Timestamp,
) -> Operation {
    Operation {
        id,
        payment,
        kind,
        amount,
        state: OperationState::Queued,
        cause: Cause::Request,
        finality: Finality::Open,
        attempts: 0,
        probes: 0,
        fence: None,
        first_dispatched_at: None,
        deadline: None,
        confirmed: false,
        needs_review: false,
        reference: None,
        failure: None,
        reason: None,
        idempotency_key: None,
        created_at: now,
        updated_at: now,
    }
}

//! The plans of what a caller asks of an existing payment: capture, cancel, refund, confirm, resolve; and of expiry.

use std::time::Duration;

use crate::access::AuditAction;
use crate::id::OperationId;
use crate::idempotency::{Fingerprint, Fingerprinter, IdempotencyKey, KeyClaim, KeyTarget};
use crate::money::Money;
use crate::payment::transition::Trigger;
use crate::payment::{
    Cause, Conflict, Failure, Finality, Operation, OperationKind, OperationState, PaymentState,
    PaymentStatus,
};
use crate::text::Reason;

use super::create::blank;
use super::revision::Revision;
use super::{Plan, PlanError, Stamp};

/// How much of a payment a capture or refund is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RequestedAmount {
    /// All that is left.
    #[default]
    Rest,
    /// This much.
    Exactly(Money),
    /// This much, in major units of the payment's currency: an exact decimal such as `49.99`.
    Decimal(Box<str>),
}

impl RequestedAmount {
    fn of(&self, state: &PaymentState, left_minor: i64) -> Result<Money, PlanError> {
        let currency = state.payment.amount.currency();
        let left = Money::from_minor(left_minor.max(0), currency).map_err(PlanError::Amount)?;
        let wanted = match self {
            Self::Rest => left,
            Self::Exactly(money) if money.currency() == currency => *money,
            // Comparing says that the currencies differ.
            Self::Exactly(money) => {
                return Err(money
                    .compare(left)
                    .map_or_else(PlanError::Amount, |_| PlanError::Zero));
            }
            Self::Decimal(text) => Money::parse_major(text, currency).map_err(PlanError::Amount)?,
        };
        if wanted.minor() > left.minor() || (left.is_zero() && *self == Self::Rest) {
            Err(PlanError::AboveRest { left })
        } else if wanted.is_zero() {
            Err(PlanError::Zero)
        } else {
            Ok(wanted)
        }
    }

    /// Adds what is asked, whatever its spelling, to a fingerprint.
    fn print(&self, state: &PaymentState, print: Fingerprinter) -> Fingerprinter {
        let minor = match self {
            Self::Rest => None,
            Self::Exactly(money) => Some(money.minor()),
            Self::Decimal(text) => {
                Money::parse_major(text, state.payment.amount.currency()).ok().map(Money::minor)
            }
        };
        match minor {
            Some(minor) => print.number(1).number(minor),
            None => print.number(0),
        }
    }
}

/// A capture to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewCapture {
    /// How much; all that is held by default.
    pub amount: RequestedAmount,
    /// Whether more may follow.
    pub finality: Finality,
    /// Makes it happen once.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl NewCapture {
    /// The fingerprint of what is asked, without the key.
    #[must_use]
    pub fn fingerprint(&self, state: &PaymentState) -> Fingerprint {
        let print = Fingerprinter::new("capture_payment").text(&state.payment.id.to_string());
        self.amount.print(state, print).number(i64::from(self.finality == Finality::Final)).finish()
    }
}

/// A refund to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewRefund {
    /// How much; all that is left by default.
    pub amount: RequestedAmount,
    /// Why.
    pub reason: Option<Reason>,
    /// Makes it happen once.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl NewRefund {
    /// The fingerprint of what is asked, without the key.
    #[must_use]
    pub fn fingerprint(&self, state: &PaymentState) -> Fingerprint {
        let print = Fingerprinter::new("refund_payment").text(&state.payment.id.to_string());
        let reason = self.reason.as_ref().map(|reason| reason.as_str());
        self.amount.print(state, print).optional(reason).finish()
    }
}

/// Plans a capture. The amount is set aside at once, so captures under way never exceed what is held.
///
/// # Errors
/// [`PlanError`] when nothing is held, or not that much.
pub fn capture(
    state: &PaymentState,
    new: &NewCapture,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let refuse = |because| Err(PlanError::State { status: state.payment.status, because });
    let initial = initial(state)?;
    if initial.kind != OperationKind::Authorize || initial.state != OperationState::Succeeded {
        return refuse("only an authorized payment can be captured");
    }
    if is_canceled(state) {
        return refuse("a cancel is under way or done, so nothing can be captured");
    }
    let closed = |o: &Operation| {
        o.kind == OperationKind::Capture
            && o.finality == Finality::Final
            && o.state != OperationState::Failed
    };
    if state.operations.iter().any(closed) {
        return refuse("a final capture released what was left of the authorization");
    }
    let amount = new.amount.of(state, state.payment.capturable_minor())?;
    let mut operation = next_operation(state, OperationKind::Capture, amount, stamp);
    operation.finality = new.finality;
    operation.idempotency_key.clone_from(&new.idempotency_key);
    let claim = claim(new.idempotency_key.as_ref(), &operation, || new.fingerprint(state));
    request(state, operation, claim, AuditAction::PaymentCapture, stamp)
}

/// Plans a refund. The amount is set aside at once, so refunds under way never exceed what was captured.
///
/// # Errors
/// [`PlanError`] when nothing was captured, or not that much is left.
pub fn refund(
    state: &PaymentState,
    new: &NewRefund,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let refuse = |because| Err(PlanError::State { status: state.payment.status, because });
    if state.payment.captured_minor == 0 {
        return refuse("nothing was captured, so there is nothing to refund; cancel it instead");
    }
    if state.payment.disputed {
        return refuse("it is disputed; a refund beside the dispute could pay the customer twice");
    }
    let amount = new.amount.of(state, state.payment.refundable_minor())?;
    let mut operation = next_operation(state, OperationKind::Refund, amount, stamp);
    operation.reason.clone_from(&new.reason);
    operation.idempotency_key.clone_from(&new.idempotency_key);
    let claim = claim(new.idempotency_key.as_ref(), &operation, || new.fingerprint(state));
    request(state, operation, claim, AuditAction::PaymentRefund, stamp)
}

/// The fingerprint of a cancel.
#[must_use]
pub fn cancel_fingerprint(state: &PaymentState) -> Fingerprint {
    Fingerprinter::new("cancel_payment").text(&state.payment.id.to_string()).finish()
}

/// Plans a cancel. A payment that was never sent is canceled on the spot; what is held, or waits for the customer, is
/// canceled by the processor.
///
/// # Errors
/// [`PlanError::State`] when there is nothing to cancel, or something is under way.
pub fn cancel(
    state: &PaymentState,
    key: Option<&IdempotencyKey>,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    release(state, Cause::Request, key, AuditAction::PaymentCancel, stamp)
}

/// Plans the end of a payment whose time ran out.
///
/// # Errors
/// [`PlanError::State`] when it no longer waits.
pub fn expire(state: &PaymentState, stamp: &mut Stamp<'_>) -> Result<Plan, PlanError> {
    release(state, Cause::Expiry, None, AuditAction::PaymentExpire, stamp)
}

/// Plans that the customer has acted: the operation is sent again, as a confirmation, under the same key.
///
/// # Errors
/// [`PlanError::State`] when it does not wait for the customer.
pub fn confirm(state: &PaymentState, stamp: &mut Stamp<'_>) -> Result<Plan, PlanError> {
    let initial = initial(state)?;
    let refuse = |because| Err(PlanError::State { status: state.payment.status, because });
    if initial.state != OperationState::RequiresAction {
        return refuse("it does not wait for the customer");
    }
    if is_canceled(state) {
        return refuse("a cancel is under way");
    }
    let id = initial.id;
    let mut revision = Revision::of(state, stamp);
    let operation = revision.trigger(id, Trigger::Confirm, Some(Duration::ZERO))?;
    operation.confirmed = true;
    // No call of before is the latest any more: what is still answered to one is not the answer to the confirmation.
    operation.fence = None;
    Ok(revision.finish(id, Some(AuditAction::PaymentConfirm)))
}

/// What a person found out about an operation that needs review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Resolution {
    /// It happened, in full.
    Succeeded,
    /// It did not happen.
    Failed,
    /// Nothing changes: the conflicting evidence was looked at and is wrong, or was dealt with elsewhere.
    Dismissed,
}

/// A person's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolve {
    /// About which operation.
    pub operation: OperationId,
    /// What is true.
    pub outcome: Resolution,
    /// How they know. Kept on the operation.
    pub reason: Reason,
}

/// Plans a person's decision.
///
/// # Errors
/// [`PlanError::State`] when the operation does not wait for one.
pub fn resolve(
    state: &PaymentState,
    command: &Resolve,
    conflicts: &[Conflict],
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let refuse = |because| Err(PlanError::State { status: state.payment.status, because });
    let operation = state.operation(command.operation).ok_or(PlanError::NoSuchOperation)?;
    let id = operation.id;
    let trigger = match command.outcome {
        Resolution::Dismissed if operation.state.is_settled() => {
            let open = |c: &&Conflict| c.operation == id && c.closed_at.is_none();
            let mut open = conflicts.iter().filter(open).peekable();
            if open.peek().is_none() {
                return refuse("the operation has no open conflict to dismiss");
            }
            let mut revision = Revision::of(state, stamp);
            revision.touch(id, None)?.reason = Some(command.reason.clone());
            open.for_each(|conflict| revision.close(conflict));
            return Ok(revision.finish(id, Some(AuditAction::PaymentResolve)));
        }
        Resolution::Dismissed => return refuse("its outcome is not known: say what it is"),
        Resolution::Succeeded => Trigger::Succeed,
        Resolution::Failed => Trigger::Fail,
    };
    if operation.state.is_settled() || !operation.needs_review {
        return refuse("the operation does not need review: it is settled or still being resolved");
    }
    let mut revision = Revision::of(state, stamp);
    let operation = revision.trigger(id, trigger, None)?;
    operation.reason = Some(command.reason.clone());
    operation.failure = (command.outcome == Resolution::Failed)
        .then(|| Failure::new("resolved_as_failed", "A person settled it as not done."));
    if command.outcome == Resolution::Succeeded {
        withdraw_initial_after(&mut revision, id)?;
    }
    Ok(revision.finish(id, Some(AuditAction::PaymentResolve)))
}

/// Once a cancel succeeded, a charge that waited for the customer will never happen.
pub(super) fn withdraw_initial_after(
    revision: &mut Revision<'_, '_>,
    done: OperationId,
) -> Result<(), PlanError> {
    let is_cancel = revision.after.operation(done).is_some_and(|o| o.kind == OperationKind::Cancel);
    let first = revision.after.operations.first().map(|o| (o.id, o.state.is_settled()));
    if let (true, Some((first, false))) = (is_cancel, first) {
        revision.trigger(first, Trigger::Fail, None)?.failure = Some(canceled());
    }
    Ok(())
}

fn release(
    state: &PaymentState,
    cause: Cause,
    key: Option<&IdempotencyKey>,
    action: AuditAction,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let refuse = |because| Err(PlanError::State { status: state.payment.status, because });
    let initial = initial(state)?;
    if is_canceled(state) {
        return refuse("a cancel is already under way or done");
    }
    let mut operation = next_operation(state, OperationKind::Cancel, state.payment.amount, stamp);
    operation.cause = cause;
    operation.idempotency_key = key.cloned();
    let claim = claim(key, &operation, || cancel_fingerprint(state));
    if initial.is_withdrawable() {
        // Nothing of it is at the processor, so there is nobody to ask.
        let (id, first) = (operation.id, initial.id);
        operation.state = OperationState::Succeeded;
        let mut revision = Revision::of(state, stamp);
        revision.trigger(first, Trigger::Withdraw, None)?.failure = Some(canceled());
        revision.add(operation, None)?;
        revision.claim(claim);
        return Ok(revision.finish(id, Some(action)));
    }
    let held = initial.kind == OperationKind::Authorize
        && initial.state == OperationState::Succeeded
        && state.payment.captured_minor == 0
        && state.payment.capture_reserved_minor == 0;
    if !held && initial.state != OperationState::RequiresAction {
        return refuse(
            "only what is held or waits for the customer can be canceled; refund what was captured",
        );
    }
    request(state, operation, claim, action, stamp)
}

fn request(
    state: &PaymentState,
    operation: Operation,
    claim: Option<KeyClaim>,
    action: AuditAction,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let id = operation.id;
    let again_at = stamp.now.plus(EXPIRE_AGAIN_IN);
    let mut revision = Revision::of(state, stamp);
    if operation.cause == Cause::Expiry {
        // Should the processor refuse to release it, it is tried again, but not at every sweep.
        revision.after.payment.expires_at = again_at;
    }
    revision.add(operation, Some(Duration::ZERO))?;
    revision.claim(claim);
    Ok(revision.finish(id, Some(action)))
}

fn next_operation(
    state: &PaymentState,
    kind: OperationKind,
    amount: Money,
    stamp: &mut Stamp<'_>,
) -> Operation {
    blank(OperationId::from_uuid((stamp.ids)()), state.payment.id, kind, amount, stamp.now)
}

fn claim(
    key: Option<&IdempotencyKey>,
    operation: &Operation,
    fingerprint: impl FnOnce() -> Fingerprint,
) -> Option<KeyClaim> {
    key.map(|key| KeyClaim {
        key: key.clone(),
        fingerprint: fingerprint(),
        target: KeyTarget::Operation { payment: operation.payment, operation: operation.id },
        answer: None,
    })
}

fn initial(state: &PaymentState) -> Result<&Operation, PlanError> {
    state.operations.first().ok_or(PlanError::NoSuchOperation)
}

fn is_canceled(state: &PaymentState) -> bool {
    let ended = matches!(state.payment.status, PaymentStatus::Canceled | PaymentStatus::Expired);
    ended
        || state
            .operations
            .iter()
            .any(|o| o.kind == OperationKind::Cancel && o.state != OperationState::Failed)
}

fn canceled() -> Failure {
    Failure::new(Failure::WITHDRAWN, "The payment was canceled before it was charged.")
}

/// When a payment that could not be expired is tried again: the cause is rarely gone within minutes.
const EXPIRE_AGAIN_IN: Duration = Duration::from_secs(24 * 60 * 60);

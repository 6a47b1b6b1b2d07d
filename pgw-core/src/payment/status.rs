//! A payment's status and totals, computed from its operations. Pure.
#![deny(clippy::arithmetic_side_effects)]

use super::{Cause, Finality, Operation, OperationKind, OperationState, PaymentStatus};

/// What a payment's operations add up to, in minor units of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Where the payment stands.
    pub status: PaymentStatus,
    /// Held, now or once.
    pub authorized_minor: i64,
    /// Taken.
    pub captured_minor: i64,
    /// What captures under way may still take.
    pub capture_reserved_minor: i64,
    /// Given back.
    pub refunded_minor: i64,
    /// What refunds under way may still give back.
    pub refund_reserved_minor: i64,
    /// How many outcomes are unknown.
    pub unknown_operations: u32,
    /// Whether an operation waits for a person.
    pub needs_review: bool,
}

/// Adds up operations, oldest first. The first is the charge or the authorization.
#[must_use]
pub fn totals(operations: &[Operation]) -> Totals {
    use OperationKind::{Authorize, Capture, Charge, Refund};
    let settled = |kind: OperationKind| {
        sum(operations.iter().filter(|o| o.kind == kind && o.state == OperationState::Succeeded))
    };
    let reserved =
        |kind: OperationKind| sum(operations.iter().filter(|o| o.kind == kind && o.is_reserving()));
    let charged = settled(Charge);
    let mut totals = Totals {
        status: PaymentStatus::Pending,
        authorized_minor: charged.saturating_add(settled(Authorize)),
        captured_minor: charged.saturating_add(settled(Capture)),
        capture_reserved_minor: reserved(Capture),
        refunded_minor: settled(Refund),
        refund_reserved_minor: reserved(Refund),
        unknown_operations: u32::try_from(
            operations.iter().filter(|o| o.state == OperationState::Unknown).count(),
        )
        .unwrap_or(u32::MAX),
        needs_review: operations.iter().any(|o| o.needs_review),
    };
    totals.status = status(operations, &totals);
    totals
}

fn status(operations: &[Operation], totals: &Totals) -> PaymentStatus {
    let Some(first) = operations.first() else { return PaymentStatus::Pending };
    let done = |o: &&Operation| o.state == OperationState::Succeeded;
    let cancel = operations.iter().filter(done).find(|o| o.kind == OperationKind::Cancel);
    // A payment that failed by itself stays failed, even if a cancel that was under way then succeeds too.
    let failed = first.state == OperationState::Failed && !first.is_withdrawn();
    if let Some(cancel) = cancel.filter(|_| !failed) {
        return match cancel.cause {
            Cause::Request => PaymentStatus::Canceled,
            Cause::Expiry => PaymentStatus::Expired,
        };
    }
    match first.state {
        // The customer has done their part; the processor has not answered yet.
        OperationState::Queued | OperationState::Dispatched if first.confirmed => {
            PaymentStatus::Processing
        }
        OperationState::Queued | OperationState::Dispatched => PaymentStatus::Pending,
        OperationState::Pending => PaymentStatus::Processing,
        OperationState::RequiresAction => PaymentStatus::RequiresAction,
        OperationState::Unknown => PaymentStatus::Unknown,
        OperationState::Failed => PaymentStatus::Failed,
        OperationState::Succeeded => settled_status(operations, totals),
    }
}

fn settled_status(operations: &[Operation], totals: &Totals) -> PaymentStatus {
    if totals.captured_minor == 0 {
        PaymentStatus::Authorized
    } else if totals.refunded_minor > 0 {
        if totals.refunded_minor < totals.captured_minor {
            PaymentStatus::PartiallyRefunded
        } else {
            PaymentStatus::Refunded
        }
    } else if totals.captured_minor < totals.authorized_minor && !is_closed(operations) {
        PaymentStatus::PartiallyCaptured
    } else {
        PaymentStatus::Succeeded
    }
}

/// Whether a final capture released what was left.
pub(crate) fn is_closed(operations: &[Operation]) -> bool {
    operations.iter().any(|o| {
        o.kind == OperationKind::Capture
            && o.state == OperationState::Succeeded
            && o.finality == Finality::Final
    })
}

fn sum<'a>(operations: impl Iterator<Item = &'a Operation>) -> i64 {
    // Saturating: amounts are at most 10^15 and operations at most 100, so i64 is never reached.
    operations.fold(0, |total: i64, o| total.saturating_add(o.amount.minor()))
}

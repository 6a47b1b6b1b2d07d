//! A revision: one change of a payment, from what its operations become to the whole `Changes`.

use std::time::Duration;

use crate::access::audit::AuditChanges;
use crate::access::{AuditAction, AuditChange, AuditField, AuditObject, AuditOutcome, AuditRow};
use crate::changes::{Changes, Guard, Write};
use crate::event::{Event, EventType};
use crate::id::{AuditId, EventId, OperationId};
use crate::idempotency::{KeyClaim, KeyTarget, StoredAnswer};
use crate::money::{Money, MoneyError};
use crate::payment::transition::{self, Trigger};
use crate::payment::{
    Conflict, Operation, OperationKind, OperationState, Payment, PaymentState, PaymentStatus,
    status,
};
use crate::privacy::Redaction;
use crate::representation::{self, EventHead};

use super::Stamp;

/// A change and what the payment is once it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to commit.
    pub changes: Changes,
    /// The payment afterwards.
    pub state: PaymentState,
    /// The operation it is about.
    pub operation: OperationId,
}

/// Why a command cannot be planned. Nothing changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The payment's state does not allow it.
    #[error("the payment is {status}: {because}")]
    State {
        /// Where it stands.
        status: PaymentStatus,
        /// Why that is in the way, and what to do.
        because: &'static str,
    },
    /// More than is left.
    #[error("the amount is above the {left} {} that are left", left.currency())]
    AboveRest {
        /// What is left.
        left: Money,
    },
    /// The amount is none for this payment.
    #[error("the amount {0}")]
    Amount(#[source] MoneyError),
    /// The amount is zero.
    #[error("the amount must be at least one minor unit")]
    Zero,
    /// The payment has as many operations as it may.
    #[error("the payment has {} operations, as many as it may", PaymentState::OPERATIONS_MAX)]
    TooManyOperations,
    /// There is no such operation.
    #[error("the payment has no such operation")]
    NoSuchOperation,
    /// The operation is not in a state where this can happen.
    #[error("the operation is {0:?}, which does not go with what happened")]
    Transition(OperationState),
}

/// Collects what becomes of a payment's operations, then derives everything else from it.
pub(super) struct Revision<'a, 'b> {
    before: Option<&'a PaymentState>,
    pub(super) after: PaymentState,
    pub(super) stamp: &'a mut Stamp<'b>,
    touched: Vec<(OperationId, Option<Duration>)>,
    extra: Vec<Write>,
    claim: Option<KeyClaim>,
}

impl<'a, 'b> Revision<'a, 'b> {
    /// A change of an existing payment.
    pub(super) fn of(state: &'a PaymentState, stamp: &'a mut Stamp<'b>) -> Self {
        Self {
            before: Some(state),
            after: state.clone(),
            stamp,
            touched: Vec::new(),
            extra: Vec::new(),
            claim: None,
        }
    }

    /// A new payment.
    pub(super) fn new(payment: Payment, stamp: &'a mut Stamp<'b>) -> Self {
        Self {
            before: None,
            after: PaymentState { payment, operations: Vec::with_capacity(1) },
            stamp,
            touched: Vec::new(),
            extra: Vec::new(),
            claim: None,
        }
    }

    /// Adds an operation.
    pub(super) fn add(
        &mut self,
        operation: Operation,
        due_in: Option<Duration>,
    ) -> Result<(), PlanError> {
        if self.after.operations.len() >= PaymentState::OPERATIONS_MAX {
            return Err(PlanError::TooManyOperations);
        }
        self.touched.push((operation.id, due_in));
        self.after.operations.push(operation);
        Ok(())
    }

    /// Moves an operation by the table, and makes it due.
    pub(super) fn trigger(
        &mut self,
        id: OperationId,
        trigger: Trigger,
        due_in: Option<Duration>,
    ) -> Result<&mut Operation, PlanError> {
        let operation = self.touch(id, due_in)?;
        let next = transition::next(operation.state, trigger);
        operation.state = next.ok_or(PlanError::Transition(operation.state))?;
        if operation.state.is_settled() {
            // Whatever settled it, there is nothing left for a person to find out.
            operation.needs_review = false;
        }
        Ok(operation)
    }

    /// Changes an operation without moving it.
    pub(super) fn touch(
        &mut self,
        id: OperationId,
        due_in: Option<Duration>,
    ) -> Result<&mut Operation, PlanError> {
        let now = self.stamp.now;
        let found = self.after.operations.iter_mut().find(|operation| operation.id == id);
        let operation = found.ok_or(PlanError::NoSuchOperation)?;
        operation.updated_at = now;
        self.touched.retain(|(touched, _)| *touched != id);
        self.touched.push((id, due_in));
        Ok(operation)
    }

    /// Records evidence against a settled operation.
    pub(super) fn conflict(&mut self, conflict: Conflict) {
        self.after.payment.open_conflicts = self.after.payment.open_conflicts.saturating_add(1);
        self.extra.push(Write::Conflict(Box::new(conflict)));
    }

    /// Dismisses a conflict.
    pub(super) fn close(&mut self, conflict: &Conflict) {
        self.after.payment.open_conflicts = self.after.payment.open_conflicts.saturating_sub(1);
        self.extra.push(Write::CloseConflict {
            payment: conflict.payment,
            id: conflict.id,
            at: self.stamp.now,
        });
    }

    /// Claims a key.
    pub(super) fn claim(&mut self, claim: Option<KeyClaim>) {
        self.claim = claim;
    }

    /// The whole change: totals and status, events, answers, audit.
    pub(super) fn finish(mut self, operation: OperationId, action: Option<AuditAction>) -> Plan {
        let version = self.before.map_or(0, |before| before.payment.version);
        // What comes late, from a processor or a caller, brings nothing back of a person who was erased.
        if let Some(redaction) = Redaction::done_to(&self.after.payment) {
            redaction.state(&mut self.after);
        }
        self.derive(version);
        let payment_id = self.after.payment.id;
        let mut changes = Changes::new(self.after.payment.scope.clone())
            .guard(Guard::Payment { id: payment_id, version });
        changes.writes.reserve(self.touched.len().saturating_add(4));
        let (events, created_answer) = self.events();
        changes.writes.push(Write::Payment(Box::new(self.after.payment.clone())));
        for (id, due_in) in std::mem::take(&mut self.touched) {
            let Some(operation) = self.after.operation(id) else { continue };
            let answer = self.answer(operation);
            let asked = Box::new(operation.clone());
            if let (Some(answer), Some(key)) = (answer, &asked.idempotency_key) {
                match &mut self.claim {
                    // The key is claimed by this very commit, so its answer goes with the claim.
                    Some(KeyClaim {
                        target: KeyTarget::Operation { operation, .. },
                        answer: claimed,
                        ..
                    }) if *operation == id => *claimed = Some(answer),
                    _ => changes.writes.push(Write::Answer { key: key.clone(), answer }),
                }
            }
            changes.writes.push(Write::Operation { operation: asked, due_in });
        }
        changes.writes.append(&mut self.extra);
        changes.writes.extend(events.into_iter().map(|event| Write::Event(Box::new(event))));
        if let Some(action) = action {
            changes.writes.push(Write::Audit(Box::new(self.audit(operation, action))));
        }
        if let (Some(claim), Some(answer)) = (&mut self.claim, created_answer) {
            claim.answer = Some(answer);
        }
        changes.claim = self.claim;
        Plan { changes, state: self.after, operation }
    }

    fn derive(&mut self, version: u64) {
        let totals = status::totals(&self.after.operations);
        let payment = &mut self.after.payment;
        payment.status = totals.status;
        payment.authorized_minor = totals.authorized_minor;
        payment.captured_minor = totals.captured_minor;
        payment.capture_reserved_minor = totals.capture_reserved_minor;
        payment.refunded_minor = totals.refunded_minor;
        payment.refund_reserved_minor = totals.refund_reserved_minor;
        payment.unknown_operations = totals.unknown_operations;
        payment.needs_review = totals.needs_review || payment.open_conflicts > 0;
        if let Some(first) = self.after.operations.first() {
            payment.failure.clone_from(&first.failure);
            payment.processor_reference.clone_from(&first.reference);
        }
        if payment.status != PaymentStatus::RequiresAction {
            payment.next_action = None;
        }
        payment.version = version.saturating_add(1);
        payment.updated_at = self.stamp.now;
    }

    /// The events of the change, and the answer to a creation, which shares the first one's memory.
    fn events(&mut self) -> (Vec<Event>, Option<StoredAnswer>) {
        let heard = events_between(self.before, &self.after);
        let first = self.after.payment.sequence;
        self.after.payment.sequence = first.saturating_add(heard.len() as u64);
        let mut created_answer = None;
        let mut events = Vec::with_capacity(heard.len());
        let mut sequence = first;
        for (event_type, subject) in heard {
            sequence = sequence.saturating_add(1);
            let id = EventId::from_uuid((self.stamp.ids)());
            let subject = subject.and_then(|id| self.after.operation(id));
            let head = EventHead {
                id,
                api_version: representation::API_VERSION,
                event_type,
                timestamp: self.stamp.now,
                sequence: Some(sequence),
                merchant_id: self.after.payment.scope.merchant.as_str(),
            };
            let body =
                representation::event_body(&head, &representation::subject(&self.after, subject));
            if event_type == EventType::PaymentCreated {
                created_answer = Some(body.answer(201));
            }
            events.push(Event {
                id,
                scope: self.after.payment.scope.clone(),
                event_type,
                payment: Some(self.after.payment.id),
                sequence: Some(sequence),
                created_at: self.stamp.now,
                body: body.bytes,
                feed_position: None,
            });
        }
        (events, created_answer)
    }

    /// The answer to keep for the operation's key: once, when the operation settles. A creation's is kept at once.
    fn answer(&self, operation: &Operation) -> Option<StoredAnswer> {
        let before = self.before.and_then(|before| before.operation(operation.id));
        let settles = operation.state.is_settled() && before.is_none_or(|b| !b.state.is_settled());
        if !settles || operation.idempotency_key.is_none() {
            return None;
        }
        let body = match operation.kind {
            OperationKind::Charge | OperationKind::Authorize => return None,
            OperationKind::Refund => representation::refund(&self.after.payment.scope, operation),
            OperationKind::Capture | OperationKind::Cancel => {
                representation::payment_with_operation(&self.after, operation)
            }
        };
        Some(StoredAnswer { status: 200, body: body.into() })
    }

    fn audit(&mut self, operation: OperationId, action: AuditAction) -> AuditRow {
        AuditRow {
            id: AuditId::from_uuid((self.stamp.ids)()),
            scope: self.after.payment.scope.clone(),
            at: self.stamp.now,
            actor: self.stamp.caller.actor.clone(),
            action,
            outcome: AuditOutcome::Success,
            origin: self.stamp.caller.origin,
            object: AuditObject::Payment(self.after.payment.id),
            request_id: self.stamp.caller.request_id.clone(),
            changes: self.before.map_or_else(Box::default, |before| {
                audited_changes(before, &self.after, operation)
            }),
        }
    }
}

/// What became of a payment and of the operation that the change is about, for the audit log.
fn audited_changes(
    before: &PaymentState,
    after: &PaymentState,
    operation: OperationId,
) -> Box<[AuditChange]> {
    let mut changes = AuditChanges::default();
    let (was, is) = (&before.payment, &after.payment);
    let amount = |minor: &i64| Some(minor.to_string());
    let flag = |flag: &bool| Some(flag.to_string());
    let conflicts = (&was.open_conflicts, &is.open_conflicts);
    let status = |status: &PaymentStatus| Some(status.as_str().to_owned());
    changes.told(AuditField::Status, (&was.status, &is.status), status);
    let authorized = (&was.authorized_minor, &is.authorized_minor);
    changes.told(AuditField::AuthorizedMinor, authorized, amount);
    changes.told(AuditField::CapturedMinor, (&was.captured_minor, &is.captured_minor), amount);
    changes.told(AuditField::RefundedMinor, (&was.refunded_minor, &is.refunded_minor), amount);
    changes.told(AuditField::NeedsReview, (&was.needs_review, &is.needs_review), flag);
    changes.told(AuditField::Disputed, (&was.disputed, &is.disputed), flag);
    changes.told(AuditField::OpenConflicts, conflicts, |count| Some(count.to_string()));
    if let Some(now) = after.operation(operation) {
        let id = now.id.to_string();
        let earlier = before.operation(operation);
        let known = earlier.is_some().then_some(id.as_str());
        changes.push(AuditChange::new(AuditField::Operation, known, Some(&id)));
        let state = earlier.map(|earlier| earlier.state.as_str());
        let to = Some(now.state.as_str());
        if state != to {
            changes.push(AuditChange::new(AuditField::OperationStatus, state, to));
        }
        if earlier.is_none() {
            let minor = now.amount.minor().to_string();
            changes.push(AuditChange::new(AuditField::AmountMinor, None, Some(&minor)));
        }
    }
    changes.finish()
}

/// What a receiver hears of the way from one state of a payment to the next. Every visible change has its event.
fn events_between(
    before: Option<&PaymentState>,
    after: &PaymentState,
) -> Vec<(EventType, Option<OperationId>)> {
    let Some(before) = before else { return vec![(EventType::PaymentCreated, None)] };
    let mut heard = Vec::new();
    let (was, is) = (&before.payment, &after.payment);
    let moved = |operation: &&Operation| {
        before.operation(operation.id).is_none_or(|b| b.state != operation.state)
    };
    let moved = || after.operations.iter().filter(moved);
    let others = || moved().filter(|operation| operation.kind != OperationKind::Refund);
    let was_unknown = |operation: &Operation| {
        before.operation(operation.id).is_some_and(|b| b.state == OperationState::Unknown)
    };
    for operation in others().filter(|operation| was_unknown(operation)) {
        heard.push((EventType::PaymentResolved, Some(operation.id)));
    }
    if was.captured_minor != is.captured_minor {
        // Heard whatever the status says: a payment may be partly refunded before all of it is captured.
        heard.push((captured_event(after), None));
    } else if was.status != is.status {
        heard.extend(status_event(is.status).map(|event_type| (event_type, None)));
    }
    let told = was.status != is.status && is.status == PaymentStatus::Unknown;
    for operation in others().filter(|operation| operation.state == OperationState::Unknown) {
        // The charge's or authorization's own is the status event above.
        if !(told && operation.kind.is_initial()) {
            heard.push((EventType::PaymentUnknown, Some(operation.id)));
        }
    }
    for operation in moved().filter(|operation| operation.kind == OperationKind::Refund) {
        let created = before.operation(operation.id).is_none();
        let event_type = if created {
            Some(EventType::RefundCreated)
        } else {
            refund_event(operation.state, was_unknown(operation))
        };
        heard.extend(event_type.map(|event_type| (event_type, Some(operation.id))));
    }
    if is.needs_review && !was.needs_review {
        heard.push((EventType::PaymentNeedsReview, None));
    }
    if is.disputed && !was.disputed {
        heard.push((EventType::PaymentDisputed, None));
    }
    heard
}

fn captured_event(after: &PaymentState) -> EventType {
    let more = after.payment.captured_minor < after.payment.authorized_minor;
    if more && !status::is_closed(&after.operations) {
        EventType::PaymentPartiallyCaptured
    } else {
        EventType::PaymentSucceeded
    }
}

const fn status_event(status: PaymentStatus) -> Option<EventType> {
    Some(match status {
        PaymentStatus::RequiresAction => EventType::PaymentRequiresAction,
        PaymentStatus::Processing => EventType::PaymentProcessing,
        PaymentStatus::Unknown => EventType::PaymentUnknown,
        PaymentStatus::Authorized => EventType::PaymentAuthorized,
        PaymentStatus::PartiallyCaptured => EventType::PaymentPartiallyCaptured,
        PaymentStatus::Succeeded => EventType::PaymentSucceeded,
        PaymentStatus::Failed => EventType::PaymentFailed,
        PaymentStatus::Canceled => EventType::PaymentCanceled,
        PaymentStatus::Expired => EventType::PaymentExpired,
        // Back to `pending` is heard as `payment.resolved`; refunds have their own events.
        PaymentStatus::Pending | PaymentStatus::PartiallyRefunded | PaymentStatus::Refunded => {
            return None;
        }
    })
}

const fn refund_event(state: OperationState, was_unknown: bool) -> Option<EventType> {
    Some(match state {
        OperationState::Pending | OperationState::RequiresAction => EventType::RefundPending,
        // It turned out that it did not happen, and it is asked for again.
        OperationState::Queued if was_unknown => EventType::RefundPending,
        OperationState::Unknown => EventType::RefundUnknown,
        OperationState::Succeeded => EventType::RefundSucceeded,
        OperationState::Failed => EventType::RefundFailed,
        OperationState::Queued | OperationState::Dispatched => return None,
    })
}

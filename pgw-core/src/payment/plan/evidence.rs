//! The plans of what a worker does and learns: dispatches, answers, findings, silence.

use std::time::Duration;

use crate::access::AuditAction;
use crate::id::{ConflictId, OperationId};
use crate::payment::transition::Trigger;
use crate::payment::{Conflict, Failure, Fence, OperationState, PaymentState, Reference};
use crate::processor::Answer;
use crate::timestamp::Timestamp;

use super::command::withdraw_initial_after;
use super::revision::Revision;
use super::{Plan, PlanError, Stamp};

/// What was learned about an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// The processor said so: in answer to the latest call, or when it was asked late enough to count.
    Answer(Answer),
    /// The processor said so, perhaps before the latest call arrived: in a notification, in answer to an earlier call, or when it
    /// was asked too early to count.
    Told(Answer),
    /// The call was provably not sent.
    NotSent,
    /// The call may have arrived; there is no answer.
    Lost,
    /// The processor does not have it, asked late enough to count.
    NotFound,
    /// The processor does not have it and never will.
    Never,
}

impl Evidence {
    /// What the processor said, if it is something that the processor said.
    pub(crate) const fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answer(answer) | Self::Told(answer) => Some(answer),
            Self::NotSent | Self::Lost | Self::NotFound | Self::Never => None,
        }
    }
}

/// When an operation is looked at again, from now, by what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A queued one is sent again; `None`: it was tried often enough.
    pub retry_in: Option<Duration>,
    /// An unknown or pending one is asked about.
    pub probe_in: Duration,
    /// How many probes an operation that becomes unknown starts with: 1 when its deadline is over by the storage's
    /// clock, so that already the first "not found" counts.
    pub probes: u32,
}

/// Plans the write-ahead of a call: committed before anything is sent. If nothing else is committed until `due_in`,
/// the call may have arrived and its worker is gone.
///
/// # Errors
/// [`PlanError::Transition`] when the operation does not wait to be sent.
pub fn dispatch(
    state: &PaymentState,
    id: OperationId,
    fence: Fence,
    deadline: Timestamp,
    due_in: Duration,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let mut revision = Revision::of(state, stamp);
    revision.trigger(id, Trigger::Dispatch, Some(due_in))?;
    mark_sent(revision, id, fence, deadline, due_in)
}

/// Plans the write-ahead of the same call under the same key, for a processor that gives the first call's result again.
///
/// # Errors
/// [`PlanError::Transition`] when the operation's outcome is not unknown.
pub fn replay(
    state: &PaymentState,
    id: OperationId,
    fence: Fence,
    deadline: Timestamp,
    due_in: Duration,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let operation = state.operation(id).ok_or(PlanError::NoSuchOperation)?;
    if operation.state != OperationState::Unknown {
        return Err(PlanError::Transition(operation.state));
    }
    let mut revision = Revision::of(state, stamp);
    let operation = revision.touch(id, Some(due_in))?;
    operation.probes = operation.probes.saturating_add(1);
    mark_sent(revision, id, fence, deadline, due_in)
}

fn mark_sent(
    mut revision: Revision<'_, '_>,
    id: OperationId,
    fence: Fence,
    deadline: Timestamp,
    due_in: Duration,
) -> Result<Plan, PlanError> {
    let now = revision.stamp.now;
    let operation = revision.touch(id, Some(due_in))?;
    operation.attempts = operation.attempts.saturating_add(1);
    operation.fence = Some(fence);
    operation.deadline = Some(deadline);
    operation.first_dispatched_at.get_or_insert(now);
    Ok(revision.finish(id, Some(AuditAction::OperationDispatch)))
}

/// Plans what evidence makes of an operation. `None`: it is no news.
///
/// Evidence against a settled operation never changes it: it opens a conflict, unless one like it is open among
/// `conflicts`.
///
/// # Errors
/// [`PlanError`] when the evidence does not go with the operation's state.
pub fn apply(
    state: &PaymentState,
    id: OperationId,
    evidence: &Evidence,
    timing: Timing,
    conflicts: &[Conflict],
    stamp: &mut Stamp<'_>,
) -> Result<Option<Plan>, PlanError> {
    let operation = state.operation(id).ok_or(PlanError::NoSuchOperation)?;
    if operation.state.is_settled() {
        return Ok(contradict(state, id, evidence, conflicts, stamp));
    }
    let is = operation.state;
    let revision = Revision::of(state, stamp);
    match evidence {
        // It may be from before the customer acted. Taken for news, it would send them back, and hide what the confirmation
        // came or comes to.
        Evidence::Told(answer) if operation.is_confirming() && answer.is_open() => Ok(None),
        Evidence::Answer(answer) | Evidence::Told(answer) => answered(revision, id, answer, timing),
        Evidence::NotSent if is == OperationState::Dispatched => {
            not_sent(revision, id, timing).map(Some)
        }
        Evidence::Lost if is == OperationState::Dispatched => {
            let mut revision = revision;
            let operation = revision.trigger(id, Trigger::Lose, Some(timing.probe_in))?;
            operation.probes = timing.probes;
            Ok(Some(revision.finish(id, Some(AuditAction::OperationMove))))
        }
        Evidence::NotFound if is == OperationState::Unknown => {
            not_found(revision, id, timing).map(Some)
        }
        Evidence::Never if is == OperationState::Unknown => fail(
            revision,
            id,
            Trigger::Fail,
            Failure::new("not_processed", "The processor undid it."),
        )
        .map(Some),
        Evidence::NotSent | Evidence::Lost | Evidence::NotFound | Evidence::Never => Ok(None),
    }
}

/// Plans the next look at an operation that is still unknown or pending.
///
/// # Errors
/// [`PlanError::NoSuchOperation`].
pub fn probe_again(
    state: &PaymentState,
    id: OperationId,
    due_in: Duration,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let mut revision = Revision::of(state, stamp);
    let operation = revision.touch(id, Some(due_in))?;
    operation.probes = operation.probes.saturating_add(1);
    Ok(revision.finish(id, None))
}

/// Plans that a person must look: everything that could be asked was asked. The outcome stays as unknown as it is.
///
/// # Errors
/// [`PlanError::NoSuchOperation`].
pub fn review(
    state: &PaymentState,
    id: OperationId,
    stamp: &mut Stamp<'_>,
) -> Result<Plan, PlanError> {
    let mut revision = Revision::of(state, stamp);
    revision.touch(id, None)?.needs_review = true;
    Ok(revision.finish(id, Some(AuditAction::OperationMove)))
}

/// Plans that the customer disputes the payment. `None`: it is no news.
#[must_use]
pub fn dispute(state: &PaymentState, stamp: &mut Stamp<'_>) -> Option<Plan> {
    let first = state.operations.first()?.id;
    if state.payment.disputed {
        return None;
    }
    let mut revision = Revision::of(state, stamp);
    revision.after.payment.disputed = true;
    Some(revision.finish(first, Some(AuditAction::OperationMove)))
}

fn answered(
    mut revision: Revision<'_, '_>,
    id: OperationId,
    answer: &Answer,
    timing: Timing,
) -> Result<Option<Plan>, PlanError> {
    let before = revision.after.operation(id).ok_or(PlanError::NoSuchOperation)?.clone();
    match answer {
        Answer::Succeeded { reference, amount } if *amount == before.amount => {
            let operation = revision.trigger(id, Trigger::Succeed, None)?;
            keep(&mut operation.reference, reference.as_ref());
            operation.failure = None;
            withdraw_initial_after(&mut revision, id)?;
        }
        Answer::Succeeded { reference, amount } => {
            // Something happened that nobody asked for. What to make of it is for a person.
            if before.needs_review && before.failure.is_some() {
                return Ok(None);
            }
            let text = format!("The processor reports {amount} {}.", amount.currency());
            if before.state != OperationState::Unknown {
                revision.trigger(id, Trigger::Doubt, None)?;
            }
            let operation = revision.touch(id, None)?;
            keep(&mut operation.reference, reference.as_ref());
            operation.needs_review = true;
            operation.failure = Some(Failure::new("amount_mismatch", &text));
        }
        Answer::Failed { reference, failure } => {
            let operation = revision.trigger(id, Trigger::Fail, None)?;
            keep(&mut operation.reference, reference.as_ref());
            operation.failure = Some(failure.clone());
        }
        Answer::RequiresAction { reference, next_action } if before.kind.is_initial() => {
            if before.state == OperationState::RequiresAction {
                return Ok(None);
            }
            let operation = revision.trigger(id, Trigger::RequireAction, Some(timing.probe_in))?;
            keep(&mut operation.reference, reference.as_ref());
            operation.needs_review = false;
            operation.probes = 0;
            revision.after.payment.next_action = Some(next_action.clone());
        }
        // Only the customer's own payment can ask them to act; anything else that waits is pending.
        Answer::Pending { reference } | Answer::RequiresAction { reference, .. } => {
            if before.state == OperationState::Pending {
                return Ok(None);
            }
            let operation = revision.trigger(id, Trigger::Pend, Some(timing.probe_in))?;
            keep(&mut operation.reference, reference.as_ref());
            operation.needs_review = false;
            operation.probes = 0;
        }
    }
    Ok(Some(revision.finish(id, Some(AuditAction::OperationMove))))
}

fn not_sent(
    mut revision: Revision<'_, '_>,
    id: OperationId,
    timing: Timing,
) -> Result<Plan, PlanError> {
    if timing.retry_in.is_none() {
        let operation = revision.after.operation(id).ok_or(PlanError::NoSuchOperation)?;
        // This call never arrived, but an earlier one did: the customer may still complete what waits at the processor.
        // Only evidence ends that.
        if operation.confirmed || operation.reference.is_some() {
            let operation = revision.trigger(id, Trigger::Lose, Some(timing.probe_in))?;
            operation.probes = timing.probes;
            return Ok(revision.finish(id, Some(AuditAction::OperationMove)));
        }
        let failure = Failure::new("processor_unreachable", "The processor could not be reached.");
        return fail(revision, id, Trigger::GiveUp, failure);
    }
    revision.trigger(id, Trigger::NotSent, timing.retry_in)?;
    Ok(revision.finish(id, Some(AuditAction::OperationMove)))
}

fn not_found(
    mut revision: Revision<'_, '_>,
    id: OperationId,
    timing: Timing,
) -> Result<Plan, PlanError> {
    if timing.retry_in.is_none() {
        let failure = Failure::new("not_processed", "The processor never received it.");
        return fail(revision, id, Trigger::Fail, failure);
    }
    let operation = revision.trigger(id, Trigger::NotFound, timing.retry_in)?;
    operation.needs_review = false;
    Ok(revision.finish(id, Some(AuditAction::OperationMove)))
}

fn fail(
    mut revision: Revision<'_, '_>,
    id: OperationId,
    trigger: Trigger,
    failure: Failure,
) -> Result<Plan, PlanError> {
    let operation = revision.trigger(id, trigger, None)?;
    operation.failure = Some(failure);
    Ok(revision.finish(id, Some(AuditAction::OperationMove)))
}

fn contradict(
    state: &PaymentState,
    id: OperationId,
    evidence: &Evidence,
    conflicts: &[Conflict],
    stamp: &mut Stamp<'_>,
) -> Option<Plan> {
    let operation = state.operation(id)?;
    let (found, reference) = match evidence.answer()? {
        Answer::Succeeded { reference, amount } => {
            let agrees =
                operation.state == OperationState::Succeeded && *amount == operation.amount;
            (!agrees).then_some((OperationState::Succeeded, reference))?
        }
        Answer::Failed { reference, .. } => {
            let agrees = operation.state == OperationState::Failed;
            (!agrees).then_some((OperationState::Failed, reference))?
        }
        // Old news.
        Answer::Pending { .. } | Answer::RequiresAction { .. } => return None,
    };
    let known = |c: &&Conflict| c.operation == id && c.found == found;
    if conflicts.iter().any(|conflict| known(&conflict)) {
        return None;
    }
    let conflict = Conflict {
        id: ConflictId::from_uuid((stamp.ids)()),
        payment: state.payment.id,
        operation: id,
        settled: operation.state,
        found,
        reference: reference.clone(),
        created_at: stamp.now,
        closed_at: None,
    };
    let mut revision = Revision::of(state, stamp);
    revision.conflict(conflict);
    Some(revision.finish(id, Some(AuditAction::OperationMove)))
}

/// What the processor calls it does not change once known.
fn keep(known: &mut Option<Reference>, news: Option<&Reference>) {
    if known.is_none() {
        *known = news.cloned();
    }
}

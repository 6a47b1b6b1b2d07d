//! Operations: send what is queued, ask about what is unknown, and commit what is learned.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::access::Caller;
use crate::changes::{Changes, Committed};
use crate::env::runtime_now;
use crate::error::Error;
use crate::gateway::{Certainty, Gateway, commit_surely};
use crate::id::OperationId;
use crate::notifier::Hint;
use crate::payment::plan::{self, Evidence, Plan, PlanError, Stamp, Timing};
use crate::payment::{Fence, Operation, OperationState, PaymentState};
use crate::processor::{Confirmation, Finding, Instruction, LookUp, ProcessorError, Resolution};
use crate::queue::{Job, Verdict};
use crate::scope::Scope;
use crate::storage::{DueWork, StorageError};
use crate::telemetry::{self, Called};

use super::gate::{AFTER_AN_ANSWER, FIRST_PROBE_IN, GRACE, Gate};

/// Does one job: whatever the operation's state asks for.
pub(super) async fn work(
    gateway: &Gateway,
    job: &Job,
    scope: &Scope,
    id: OperationId,
    state: Box<PaymentState>,
) -> Result<Verdict, Error> {
    let parts = gateway.parts();
    let gate = parts.processors.get(&scope.mode).ok_or(Error::NoProcessor(scope.mode))?;
    let task = Task { gateway, gate, job, id, caller: Caller::worker(scope.clone()) };
    let Some(operation) = state.operation(id) else { return Ok(Verdict::Done) };
    match operation.state {
        OperationState::Queued => task.send(state).await,
        OperationState::Dispatched => task.past_deadline(state).await,
        OperationState::Unknown | OperationState::Pending | OperationState::RequiresAction => {
            task.probe(state).await
        }
        OperationState::Succeeded | OperationState::Failed => Ok(Verdict::Done),
    }
}

struct Task<'a> {
    gateway: &'a Gateway,
    gate: &'a Gate,
    job: &'a Job,
    id: OperationId,
    caller: Caller,
}

impl Task<'_> {
    async fn due(&self) -> Result<Option<Box<PaymentState>>, Error> {
        Ok(match self.gateway.storage().due(self.job).await? {
            Some(DueWork::Operation(state)) => Some(state),
            Some(DueWork::Delivery(_) | DueWork::Parked { .. }) | None => None,
        })
    }

    /// Commits the write-ahead, calls the processor, commits what it said.
    async fn send(&self, state: Box<PaymentState>) -> Result<Verdict, Error> {
        // Like the breaker, a freeze parks the job without spending an attempt.
        if self.gateway.is_frozen().await? {
            return Ok(Verdict::Postpone { due_in: FROZEN_LOOK_IN });
        }
        let _place = match self.gate.enter().await {
            Ok(place) => place,
            // The breaker parks the job without spending an attempt.
            Err(shut_for) => return Ok(Verdict::Postpone { due_in: shut_for }),
        };
        let Some(call) = self.dispatch(state, plan::dispatch).await? else {
            return Ok(Verdict::Done);
        };
        let evidence = self.call(&call).await;
        let now = self.gateway.env();
        let retry_in = settings(self.gateway).send_again.delay(call.attempts(self.id), now.u64());
        let timing = Timing { retry_in, probe_in: FIRST_PROBE_IN, probes: 0 };
        // The payment as the write-ahead left it; if somebody changed it meanwhile, the guard says so.
        self.learn_from(Box::new(call.state), &evidence, timing, Some(call.fence)).await
    }

    /// Commits the write-ahead of a call; `None` when somebody else has the operation.
    async fn dispatch(
        &self,
        mut state: Box<PaymentState>,
        plan: DispatchPlan,
    ) -> Result<Option<Call>, Error> {
        let env = self.gateway.env();
        let fence = Fence(env.u64());
        for _ in 0..CONFLICT_TRIES {
            // The deadline starts before the commit, so the row falls due after it by any clock.
            let deadline = runtime_now() + self.gate.timeout();
            let says = env.now().plus(self.gate.timeout());
            let due_in = self.gate.timeout().saturating_add(GRACE);
            let planned = self.plan(|stamp| plan(&state, self.id, fence, says, due_in, stamp));
            let planned = match planned {
                Err(PlanError::Transition(_)) => return Ok(None),
                planned => planned?,
            };
            match self.commit(planned.changes).await? {
                Some(_) => return Ok(Some(Call { state: planned.state, fence, deadline })),
                None => match self.due_or_ours(&planned.state).await? {
                    Reloaded::Ours(state) => {
                        return Ok(Some(Call { state: *state, fence, deadline }));
                    }
                    Reloaded::Due(due) => state = due,
                    Reloaded::Gone => return Ok(None),
                },
            }
        }
        Err(Error::Busy("payment"))
    }

    async fn due_or_ours(&self, planned: &PaymentState) -> Result<Reloaded, Error> {
        if let Some(state) = self.due().await? {
            return Ok(Reloaded::Due(state));
        }
        let Job::Operation { scope, payment, .. } = self.job else { return Ok(Reloaded::Gone) };
        let state = self.gateway.storage().payment(scope, *payment).await?;
        // A write-ahead whose commit got no answer is known by its fence. The whole row is compared, because evidence that
        // came meanwhile leaves the fence and moves the rest: then the call asks for what is no longer wanted.
        Ok(match state {
            Some(state) if state.operation(self.id) == planned.operation(self.id) => {
                Reloaded::Ours(Box::new(state))
            }
            _ => Reloaded::Gone,
        })
    }

    async fn call(&self, call: &Call) -> Evidence {
        let Some(instruction) = instruction(&call.state, self.id) else { return Evidence::NotSent };
        // Committing took until the deadline: nothing was sent, and nothing will be.
        if runtime_now() >= call.deadline {
            return Evidence::NotSent;
        }
        let started = runtime_now();
        let called = timeout_at(call.deadline, self.gate.processor().submit(&instruction)).await;
        let outcome = match &called {
            Ok(Ok(_)) => Called::Answered,
            Ok(Err(ProcessorError::NotSent(_))) => Called::NotSent,
            Ok(Err(ProcessorError::Unclear(_))) | Err(_) => Called::Lost,
        };
        if let Some(operation) = call.state.operation(self.id) {
            telemetry::called(operation.kind, outcome, runtime_now() - started);
        }
        match called {
            Ok(Ok(answer)) => {
                self.gate.answered();
                Evidence::Answer(answer)
            }
            Ok(Err(ProcessorError::NotSent(error))) => {
                self.gate.silent();
                tracing::warn!(operation = %self.id, %error, "a processor was not reached");
                Evidence::NotSent
            }
            Ok(Err(ProcessorError::Unclear(error))) => {
                self.gate.silent();
                tracing::warn!(operation = %self.id, %error, "a processor's answer is not known");
                Evidence::Lost
            }
            Err(_deadline) => {
                self.gate.silent();
                tracing::warn!(operation = %self.id, "a processor did not answer in time");
                Evidence::Lost
            }
        }
    }

    /// The worker that dispatched it is gone, and its deadline is past by the storage's clock.
    async fn past_deadline(&self, state: Box<PaymentState>) -> Result<Verdict, Error> {
        let fence = state.operation(self.id).and_then(|operation| operation.fence);
        let lag = self.gate.conclusive_after().saturating_sub(self.gate.timeout());
        let timing = Timing { retry_in: None, probe_in: lag, probes: 1 };
        self.learn_from(state, &Evidence::Lost, timing, fence).await
    }

    /// Asks what became of an operation, the way the processor declares.
    async fn probe(&self, state: Box<PaymentState>) -> Result<Verdict, Error> {
        let Some(operation) = state.operation(self.id) else { return Ok(Verdict::Done) };
        let unknown = operation.state == OperationState::Unknown;
        match self.gate.processor().capabilities().resolution {
            Resolution::Lookup { .. } => self.look_up(state).await,
            Resolution::CancelByKey if unknown => self.cancel_by_key(state).await,
            Resolution::Replay { window } if unknown && self.within(operation, window) => {
                self.replay(state).await
            }
            Resolution::Replay { .. } if unknown => self.review(state).await,
            Resolution::Replay { .. } | Resolution::CancelByKey | Resolution::EvidenceOnly => {
                self.ask_later(state).await
            }
        }
    }

    async fn look_up(&self, state: Box<PaymentState>) -> Result<Verdict, Error> {
        let Some(operation) = state.operation(self.id) else { return Ok(Verdict::Done) };
        let deadline = runtime_now() + self.gate.timeout();
        let query = query(operation);
        // Before the deadline and the lag are over, the call may still be on its way.
        let is_late = operation.state == OperationState::Unknown && operation.probes >= 1;
        let found = timeout_at(deadline, self.gate.processor().look_up(&query)).await;
        match found {
            Ok(Ok(Finding::Found(answer))) if is_late => {
                self.learned(state, Evidence::Answer(answer)).await
            }
            Ok(Ok(Finding::Found(answer))) => self.learned(state, Evidence::Told(answer)).await,
            Ok(Ok(Finding::NotFound)) if is_late => self.learned(state, Evidence::NotFound).await,
            Ok(Ok(Finding::NotFound)) => self.ask_later(state).await,
            Ok(Err(error)) => {
                tracing::warn!(operation = %self.id, %error, "a look-up got no answer");
                self.ask_later(state).await
            }
            Err(_deadline) => self.ask_later(state).await,
        }
    }

    async fn cancel_by_key(&self, state: Box<PaymentState>) -> Result<Verdict, Error> {
        let Some(due_in) = self.next_probe(&state) else { return self.review(state).await };
        // Undoing is an effect, so it has a write-ahead too: from this commit on, a success told before the undo is old
        // news (see `Gate::is_outdated`) and can no longer settle the operation.
        // As for a call, its deadline starts before the commit: it is over before the row is due and anybody else decides.
        let deadline = runtime_now() + self.gate.timeout();
        let plan = self.plan(|stamp| plan::probe_again(&state, self.id, due_in, stamp))?;
        let Some(verdict) = self.commit(plan.changes).await? else {
            return Ok(Verdict::Release { due_in: FIRST_PROBE_IN });
        };
        if runtime_now() >= deadline {
            return Ok(verdict);
        }
        let state = Box::new(plan.state);
        let Some(operation) = state.operation(self.id) else { return Ok(Verdict::Done) };
        let query = query(operation);
        match timeout_at(deadline, self.gate.processor().cancel_by_key(&query)).await {
            Ok(Ok(Finding::Found(answer))) => self.learned(state, Evidence::Answer(answer)).await,
            Ok(Ok(Finding::NotFound)) => self.learned(state, Evidence::Never).await,
            Ok(Err(error)) => {
                tracing::warn!(operation = %self.id, %error, "a cancel by key got no answer");
                Ok(verdict)
            }
            Err(_deadline) => Ok(verdict),
        }
    }

    /// Sends the same call under the same key; the processor gives the first call's result.
    async fn replay(&self, state: Box<PaymentState>) -> Result<Verdict, Error> {
        // If the first call never arrived, this one is what moves the money.
        if self.gateway.is_frozen().await? {
            return Ok(Verdict::Postpone { due_in: FROZEN_LOOK_IN });
        }
        let Some(call) = self.dispatch(state, plan::replay).await? else {
            return Ok(Verdict::Done);
        };
        match self.call(&call).await {
            evidence @ Evidence::Answer(_) => {
                let (state, fence) = (Box::new(call.state), Some(call.fence));
                self.learn_from(state, &evidence, AFTER_AN_ANSWER, fence).await
            }
            _ => {
                let due_in = self.next_probe(&call.state).unwrap_or(GRACE);
                Ok(Verdict::Release {
                    due_in: due_in.max(self.gate.timeout().saturating_add(GRACE)),
                })
            }
        }
    }

    /// Whether the processor surely remembers the key. A quarter of its window is kept as a margin for clocks.
    fn within(&self, operation: &Operation, window: Duration) -> bool {
        let margin = window / 4;
        let now = self.gateway.env().now();
        operation
            .first_dispatched_at
            .is_some_and(|first| now.since(first).saturating_add(margin) < window)
    }

    /// Commits what a probe found; asks again later when it was no news.
    async fn learned(
        &self,
        state: Box<PaymentState>,
        evidence: Evidence,
    ) -> Result<Verdict, Error> {
        let attempts = state.operation(self.id).map_or(0, |operation| operation.attempts);
        let send_again = &settings(self.gateway).send_again;
        let timing = Timing {
            retry_in: (attempts < send_again.attempts_max()).then_some(Duration::ZERO),
            ..AFTER_AN_ANSWER
        };
        let planned =
            self.plan(|stamp| plan::apply(&state, self.id, &evidence, timing, &[], stamp))?;
        match planned {
            Some(plan) => match (self.commit(plan.changes).await?, evidence.answer()) {
                (Some(own), _) => Ok(own),
                // What was said is true whatever happened meanwhile; the rest was a fact about a moment that is over.
                (None, Some(answer)) => self.learn(&Evidence::Told(answer.clone()), timing).await,
                (None, None) => Ok(Verdict::Release { due_in: FIRST_PROBE_IN }),
            },
            None => self.ask_later(state).await,
        }
    }

    async fn ask_later(&self, state: Box<PaymentState>) -> Result<Verdict, Error> {
        let Some(due_in) = self.next_probe(&state) else {
            let Some(operation) = state.operation(self.id) else { return Ok(Verdict::Done) };
            // A customer who never acts is no riddle: the payment expires.
            if operation.state == OperationState::RequiresAction {
                let slow = Duration::from_secs(60 * 60);
                return self.probe_again(state, slow).await;
            }
            return self.review(state).await;
        };
        self.probe_again(state, due_in).await
    }

    async fn probe_again(
        &self,
        state: Box<PaymentState>,
        due_in: Duration,
    ) -> Result<Verdict, Error> {
        let plan = self.plan(|stamp| plan::probe_again(&state, self.id, due_in, stamp))?;
        let committed = self.commit(plan.changes).await?;
        Ok(committed.unwrap_or(Verdict::Release { due_in: FIRST_PROBE_IN }))
    }

    async fn review(&self, state: Box<PaymentState>) -> Result<Verdict, Error> {
        let plan = self.plan(|stamp| plan::review(&state, self.id, stamp))?;
        let committed = self.commit(plan.changes).await?;
        Ok(committed.unwrap_or(Verdict::Release { due_in: FIRST_PROBE_IN }))
    }

    /// When to ask next; `None` when it was asked often enough. Never before "not found" would count.
    fn next_probe(&self, state: &PaymentState) -> Option<Duration> {
        let probes = state.operation(self.id)?.probes.saturating_add(1);
        let delay = settings(self.gateway).probe.delay(probes, self.gateway.env().u64())?;
        Some(delay.max(self.gate.conclusive_after()))
    }

    /// Commits what the processor told about a row that is another by now.
    async fn learn(&self, told: &Evidence, timing: Timing) -> Result<Verdict, Error> {
        let Job::Operation { scope, payment, .. } = self.job else { return Ok(Verdict::Done) };
        match self.gateway.storage().payment(scope, *payment).await? {
            Some(state) => self.learn_from(Box::new(state), told, timing, None).await,
            None => Ok(Verdict::Done),
        }
    }

    /// Commits what a call of ours came to, planning anew while others change the payment. Never calls again.
    async fn learn_from(
        &self,
        mut state: Box<PaymentState>,
        evidence: &Evidence,
        timing: Timing,
        fence: Option<Fence>,
    ) -> Result<Verdict, Error> {
        let storage = self.gateway.storage();
        loop {
            let Some(evidence) = self.weigh(&state, evidence, fence) else {
                return Ok(Verdict::Done);
            };
            let settled = state.operation(self.id).is_some_and(|o| o.state.is_settled());
            let conflicts = if settled {
                storage.conflicts(&state.payment.scope, state.payment.id).await?
            } else {
                Vec::new()
            };
            let planned = self
                .plan(|stamp| plan::apply(&state, self.id, &evidence, timing, &conflicts, stamp))?;
            let Some(plan) = planned else { return Ok(Verdict::Done) };
            if let Some(own) = self.commit(plan.changes).await? {
                return Ok(own);
            }
            let payment = state.payment.id;
            let Some(next) = storage.payment(&state.payment.scope, payment).await? else {
                return Ok(Verdict::Done);
            };
            *state = next;
        }
    }

    /// What evidence is worth for a row that may have moved on since the call with this fence; `None`: it is no news.
    fn weigh(
        &self,
        state: &PaymentState,
        evidence: &Evidence,
        fence: Option<Fence>,
    ) -> Option<Evidence> {
        let row = state.operation(self.id)?;
        let ours = fence.is_none() || row.fence == fence;
        match evidence.answer() {
            Some(answer) if fence.is_some() && self.gate.is_outdated(row, answer) => None,
            // To an earlier call than the row's latest, so perhaps from before it.
            Some(answer) if !ours => Some(Evidence::Told(answer.clone())),
            // Silence says something about one call only.
            None if !ours => None,
            Some(_) | None => Some(evidence.clone()),
        }
    }

    fn plan<T>(&self, plan: impl FnOnce(&mut Stamp<'_>) -> T) -> T {
        let env = self.gateway.env();
        let mut ids = || env.uuid();
        plan(&mut Stamp { now: env.now(), caller: &self.caller, ids: &mut ids })
    }

    /// Commits; what the commit made of this very job is its verdict. `None`: somebody else was faster.
    async fn commit(&self, changes: Changes) -> Result<Option<Verdict>, Error> {
        let announcement = Hint::of(&changes);
        let storage = self.gateway.storage();
        let verdict = own_verdict(&changes, self.id);
        match commit_surely(storage, changes, self.gateway.env()).await? {
            (Ok(Committed::Applied { mut due, .. }), _) => {
                due.retain(|(job, _)| job != self.job);
                self.gateway.announce(announcement, &due).await;
                Ok(Some(verdict))
            }
            (Ok(_), _) => Ok(Some(Verdict::Done)),
            (Err(StorageError::Conflict(_)), Certainty::Sure | Certainty::MaybeOurs) => Ok(None),
            (Err(error), _) => Err(error.into()),
        }
    }
}

type DispatchPlan = fn(
    &PaymentState,
    OperationId,
    Fence,
    crate::timestamp::Timestamp,
    Duration,
    &mut Stamp<'_>,
) -> Result<Plan, PlanError>;

/// A call whose write-ahead is committed.
struct Call {
    state: PaymentState,
    fence: Fence,
    deadline: Instant,
}

impl Call {
    fn attempts(&self, id: OperationId) -> u32 {
        self.state.operation(id).map_or(0, |operation| operation.attempts)
    }
}

enum Reloaded {
    Ours(Box<PaymentState>),
    Due(Box<PaymentState>),
    Gone,
}

/// What the commit makes of the job's own row.
fn own_verdict(changes: &Changes, id: OperationId) -> Verdict {
    let own = changes.writes.iter().rev().find_map(|write| match write {
        crate::changes::Write::Operation { operation, due_in } if operation.id == id => {
            Some(*due_in)
        }
        _ => None,
    });
    own.map_or(Verdict::Done, |due_in| Verdict::Committed { due_in })
}

fn instruction(state: &PaymentState, id: OperationId) -> Option<Instruction> {
    let operation = state.operation(id)?;
    let initial = state.operations.first()?;
    Some(Instruction {
        key: operation.id,
        scope: state.payment.scope.clone(),
        payment: state.payment.id,
        kind: operation.kind,
        amount: operation.amount,
        payment_method: state.payment.payment_method.clone(),
        finality: operation.finality,
        reference: initial.reference.clone().filter(|_| !operation.kind.is_initial()),
        initial_key: initial.id,
        confirmation: if operation.confirmed {
            Confirmation::Confirmed
        } else {
            Confirmation::None
        },
    })
}

fn query(operation: &Operation) -> LookUp {
    LookUp { key: operation.id, reference: operation.reference.clone(), kind: operation.kind }
}

fn settings(gateway: &Gateway) -> &crate::builder::Settings {
    &gateway.parts().settings
}

/// How often a frozen gateway's worker looks whether it may go on.
const FROZEN_LOOK_IN: Duration = Duration::from_secs(5);
/// How often a dispatch plans anew because somebody else changed the payment meanwhile.
const CONFLICT_TRIES: u32 = 16;

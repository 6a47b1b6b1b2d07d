//! The verbs that move payments.

use std::time::Duration;

use crate::access::Caller;
use crate::env;
use crate::error::Error;
use crate::id::{OperationId, PaymentId};
use crate::idempotency::{Fingerprint, IdempotencyKey, KeyTarget, StoredAnswer};
use crate::notifier::Hint;
use crate::payment::plan::{
    self, Evidence, NewCapture, NewPayment, NewRefund, Plan, PlanError, Resolve, Stamp, Timing,
};
use crate::payment::{OperationState, PaymentState};
use crate::processor::{News, Notification, RawNotification};
use crate::text::CustomerId;
use crate::worker::{AFTER_AN_ANSWER, Gate};

use super::once::{Asked, reply, surely};
use super::{Bound, CONFLICT_TRIES, Certainty, Commit, Gateway, Origin, Receipt};

impl Bound<'_> {
    /// Creates a payment and queues its charge or authorization. One commit; the processor is called by a worker.
    ///
    /// ```
    /// # use pgw_core::gateway::Gateway;
    /// # use pgw_core::payment::plan::NewPayment;
    /// # async fn f(gateway: &Gateway, new: NewPayment) -> Result<(), pgw_core::error::Error> {
    /// let receipt = gateway.host().create_payment(new).await?;
    /// println!("{} is {}", receipt.payment().id, receipt.payment().status);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::KeyReused`], [`Error::NoProcessor`], [`Error::Refused`], [`Error::Storage`].
    pub async fn create_payment(&self, new: NewPayment) -> Result<Receipt, Error> {
        new.customer.id.as_ref().map_or(Ok(()), CustomerId::check_new)?;
        let mode = self.scope().mode;
        let gate = self.gateway.parts.processors.get(&mode).ok_or(Error::NoProcessor(mode))?;
        let Plan { changes, state, operation } =
            self.plan(|stamp| plan::create(new, gate.processor().name(), stamp))?;
        let answer = changes.claim.as_ref().and_then(|claim| claim.answer.clone());
        match self.commit(changes).await? {
            Commit::Known { target, answer } if !is_of(target, operation) => {
                self.replay(target, answer).await
            }
            // A conflict, too, is our own doing: the id is new and random, so only an earlier try of this very commit
            // can have used it.
            Commit::Applied | Commit::Known { .. } | Commit::Conflict(_) => {
                Ok(Receipt { state, operation, answer, origin: Origin::First })
            }
        }
    }

    /// Takes some or all of what is held.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotFound`], [`Error::KeyReused`], [`Error::Busy`], [`Error::Storage`].
    pub async fn capture_payment(&self, id: PaymentId, new: NewCapture) -> Result<Receipt, Error> {
        let key = new.idempotency_key.clone();
        let print = |state: &PaymentState| new.fingerprint(state);
        self.request(id, key, print, |state, stamp| plan::capture(state, &new, stamp)).await
    }

    /// Releases what is held, or gives up a payment that waits.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotFound`], [`Error::KeyReused`], [`Error::Busy`], [`Error::Storage`].
    pub async fn cancel_payment(
        &self,
        id: PaymentId,
        key: Option<IdempotencyKey>,
    ) -> Result<Receipt, Error> {
        let claimed = key.clone();
        self.request(id, claimed, plan::cancel_fingerprint, |state, stamp| {
            plan::cancel(state, key.as_ref(), stamp)
        })
        .await
    }

    /// Gives some or all of what was captured back.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotFound`], [`Error::KeyReused`], [`Error::Busy`], [`Error::Storage`].
    pub async fn refund_payment(&self, id: PaymentId, new: NewRefund) -> Result<Receipt, Error> {
        let key = new.idempotency_key.clone();
        let print = |state: &PaymentState| new.fingerprint(state);
        self.request(id, key, print, |state, stamp| plan::refund(state, &new, stamp)).await
    }

    /// Says that the customer has acted. Asking again once it is confirmed changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotFound`], [`Error::Busy`], [`Error::Storage`].
    pub async fn confirm_payment(&self, id: PaymentId) -> Result<Receipt, Error> {
        let asked = Asked::plainly(&reply::PAYMENT_MOVED);
        let state = surely(self.confirm_payment_as(id, &asked).await?);
        Ok(Receipt::of_first(state, Origin::First))
    }

    pub(super) async fn confirm_payment_as(
        &self,
        id: PaymentId,
        asked: &Asked<'_, PaymentState>,
    ) -> Result<Option<PaymentState>, Error> {
        self.revise_as(id, asked, |state, stamp| {
            let confirmed = state.operations.first().is_some_and(|first| {
                first.confirmed && first.state != OperationState::RequiresAction
            });
            if confirmed { Ok(None) } else { plan::confirm(state, stamp).map(Some) }
        })
        .await
    }

    /// Settles an operation that needs review, or dismisses a conflict, with what a person found out.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotFound`], [`Error::Busy`], [`Error::Storage`].
    pub async fn resolve(&self, id: PaymentId, command: Resolve) -> Result<PaymentState, Error> {
        let asked = Asked::plainly(&reply::PAYMENT_MOVED);
        self.resolve_as(id, command, &asked).await.map(surely)
    }

    pub(super) async fn resolve_as(
        &self,
        id: PaymentId,
        command: Resolve,
        asked: &Asked<'_, PaymentState>,
    ) -> Result<Option<PaymentState>, Error> {
        let conflicts = self.storage.conflicts(self.scope(), id).await?;
        self.revise_as(id, asked, |state, stamp| {
            plan::resolve(state, &command, &conflicts, stamp).map(Some)
        })
        .await
    }

    /// Gives up a payment whose time ran out; `false` when it no longer waits.
    pub(crate) async fn expire(&self, id: PaymentId) -> Result<bool, Error> {
        let now = self.gateway.parts.env.now();
        let mut expired = false;
        let revised = self
            .revise(id, |state, stamp| {
                expired = state.payment.expires_at <= now;
                if expired { plan::expire(state, stamp).map(Some) } else { Ok(None) }
            })
            .await;
        match revised {
            Ok(_) => Ok(expired),
            Err(Error::Refused(_) | Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until the operation, or without one the payment, has an answer, at most `wait`; gives the payment as it
    /// is then. A payment is answered when its status is none of `pending`, `processing` and `unknown`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Storage`].
    ///
    /// # Cancel safety
    /// Only reads.
    pub async fn wait_for(
        &self,
        id: PaymentId,
        operation: Option<OperationId>,
        wait: Duration,
    ) -> Result<PaymentState, Error> {
        let until = env::runtime_after(wait);
        // Listening starts before the first look, so that no change falls between the two.
        let mut hints = self.gateway.parts.notifier.subscribe().await.map_err(Error::Notifier)?;
        loop {
            let state = self.load(id).await?;
            let now = env::runtime_now();
            if is_answered(&state, operation) || now >= until {
                return Ok(state);
            }
            let look_again = tokio::time::sleep_until(until.min(now + REREAD_PERIOD));
            tokio::pin!(look_again);
            loop {
                tokio::select! {
                    // In a fixed order, so that a run can be replayed from its seed.
                    biased;
                    () = &mut look_again => break,
                    hint = hints.next() => match hint {
                        Hint::Payment { scope, id: changed } if changed == id && scope == *self.scope() => break,
                        Hint::Missed => break,
                        _ => {}
                    },
                }
            }
        }
    }

    /// Adds an operation: replays a known key, otherwise plans and commits, again while others are faster.
    async fn request(
        &self,
        id: PaymentId,
        key: Option<IdempotencyKey>,
        fingerprint: impl Fn(&PaymentState) -> Fingerprint + Send + Sync,
        plan: impl Fn(&PaymentState, &mut Stamp<'_>) -> Result<Plan, PlanError> + Send + Sync,
    ) -> Result<Receipt, Error> {
        let mut tried = Vec::new();
        for _ in 0..CONFLICT_TRIES {
            let state = self.load(id).await?;
            if let Some(ours) = tried.iter().find(|id| state.operation(**id).is_some()) {
                // The try that got no answer was applied.
                return Ok(Receipt {
                    operation: *ours,
                    state,
                    answer: None,
                    origin: Origin::First,
                });
            }
            if let Some(key) = &key
                && let Some(record) = self.storage.key(self.scope(), key).await?
            {
                if record.claim.fingerprint != fingerprint(&state) {
                    return Err(Error::KeyReused);
                }
                return self.replay(record.claim.target, record.claim.answer).await;
            }
            let Plan { changes, state, operation } = self.plan(|stamp| plan(&state, stamp))?;
            let answer = changes.claim.as_ref().and_then(|claim| claim.answer.clone());
            match self.commit(changes).await? {
                Commit::Known { target, answer } if !is_of(target, operation) => {
                    return self.replay(target, answer).await;
                }
                Commit::Applied | Commit::Known { .. } => {
                    return Ok(Receipt { state, operation, answer, origin: Origin::First });
                }
                Commit::Conflict(Certainty::MaybeOurs) => tried.push(operation),
                Commit::Conflict(Certainty::Sure) => {}
            }
        }
        Err(Error::Busy("payment"))
    }

    /// Changes a payment without adding an operation. The plan gives `None` when there is nothing to do.
    pub(crate) async fn revise(
        &self,
        id: PaymentId,
        plan: impl FnMut(&PaymentState, &mut Stamp<'_>) -> Result<Option<Plan>, PlanError> + Send,
    ) -> Result<PaymentState, Error> {
        self.revise_as(id, &Asked::plainly(&reply::PAYMENT_MOVED), plan).await.map(surely)
    }

    /// Does so under a key; `None` when it was claimed before.
    async fn revise_as(
        &self,
        id: PaymentId,
        asked: &Asked<'_, PaymentState>,
        mut plan: impl FnMut(&PaymentState, &mut Stamp<'_>) -> Result<Option<Plan>, PlanError> + Send,
    ) -> Result<Option<PaymentState>, Error> {
        let mut tried: Option<PaymentState> = None;
        for _ in 0..CONFLICT_TRIES {
            let state = self.load(id).await?;
            if tried.as_ref() == Some(&state) {
                // The try that got no answer was applied, and nothing has happened since.
                return Ok(Some(state));
            }
            let Some(plan) = self.plan(|stamp| plan(&state, stamp))? else {
                return self.conclude(asked, state).await;
            };
            let changes = self.under(asked, plan.changes, &plan.state)?;
            match self.commit(changes).await? {
                Commit::Applied => return Ok(Some(plan.state)),
                Commit::Known { .. } => return Ok(None),
                Commit::Conflict(Certainty::MaybeOurs) => tried = Some(plan.state),
                Commit::Conflict(Certainty::Sure) => tried = None,
            }
        }
        Err(Error::Busy("payment"))
    }

    async fn replay(
        &self,
        target: KeyTarget,
        answer: Option<StoredAnswer>,
    ) -> Result<Receipt, Error> {
        // What is not an operation was asked for by another verb, so its fingerprint is another.
        let KeyTarget::Operation { payment, operation } = target else {
            return Err(Error::KeyReused);
        };
        let state = self.load(payment).await?;
        Ok(Receipt { state, operation, answer, origin: Origin::Replayed })
    }

    async fn load(&self, id: PaymentId) -> Result<PaymentState, Error> {
        self.storage.payment(self.scope(), id).await?.ok_or(Error::NotFound("payment"))
    }
}

fn is_of(target: KeyTarget, asked: OperationId) -> bool {
    matches!(target, KeyTarget::Operation { operation, .. } if operation == asked)
}

impl Gateway {
    /// Takes in a processor's own webhook: authenticates it, and commits what it says. Says how many of its
    /// messages changed something. Messages about payments that are not here are passed over.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no processor has this name, [`Error::Notification`], [`Error::Busy`],
    /// [`Error::Storage`]: answer the processor with a success only when this did not fail.
    pub async fn receive_notification(
        &self,
        processor: &str,
        raw: &RawNotification,
    ) -> Result<usize, Error> {
        let named = self
            .parts
            .processors
            .iter()
            .find(|(_, gate)| gate.processor().name().as_str() == processor);
        let (mode, gate) = named.ok_or(Error::NotFound("processor"))?;
        let headers: Vec<(&str, &[u8])> =
            raw.headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        let messages = gate
            .processor()
            .parse_notification(&headers, &raw.body)
            .map_err(Error::Notification)?;
        let mut changed = 0_usize;
        // One processor per mode: a message can speak only of payments of its own.
        for message in messages.into_iter().filter(|message| message.scope.mode == *mode) {
            match self.heed(gate, &message, AFTER_AN_ANSWER).await {
                Ok(true) => changed = changed.saturating_add(1),
                Ok(false) => {}
                Err(Error::NotFound(what)) => {
                    tracing::warn!(payment = %message.payment, what, "a notification about something unknown");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }

    async fn heed(
        &self,
        gate: &Gate,
        message: &Notification,
        timing: Timing,
    ) -> Result<bool, Error> {
        let mut caller = Caller::worker(message.scope.clone());
        caller.actor = crate::access::Actor::Processor;
        let bound = self.by(caller);
        let conflicts = bound.storage.conflicts(bound.scope(), message.payment).await?;
        let mut changed = false;
        bound
            .revise(message.payment, |state, stamp| {
                let plan = match &message.news {
                    News::Disputed => Ok(plan::dispute(state, stamp)),
                    News::Outcome(answer)
                        if state
                            .operation(message.key)
                            .is_some_and(|operation| gate.is_outdated(operation, answer)) =>
                    {
                        Ok(None)
                    }
                    News::Outcome(answer) => {
                        let evidence = Evidence::Told(answer.clone());
                        plan::apply(state, message.key, &evidence, timing, &conflicts, stamp)
                    }
                };
                changed = matches!(plan, Ok(Some(_)));
                plan
            })
            .await?;
        Ok(changed)
    }
}

/// Whether what a caller waits for is there: see [`Bound::wait_for`].
#[must_use]
pub fn is_answered(state: &PaymentState, operation: Option<OperationId>) -> bool {
    match operation {
        None => state.payment.status.is_answered(),
        Some(id) => state.operation(id).is_none_or(|operation| {
            operation.state.is_settled() || operation.state == OperationState::RequiresAction
        }),
    }
}

/// How often a waiting caller looks without a hint: hints may be lost.
const REREAD_PERIOD: Duration = Duration::from_millis(500);

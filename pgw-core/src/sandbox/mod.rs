//! The sandbox: a [`Processor`] that moves no money, does what the payment's token says, and keeps a ledger of what it did.
//!
//! It is what every host's test mode runs on, and the truth that simulations compare a gateway's view with. Therefore it
//! behaves as real processors do where that is inconvenient: it executes a call again when its key comes again (unless it
//! declares [`Resolution::Replay`]), loses answers, and tells late.
//!
//! # Tokens
//! | token | what happens |
//! |---|---|
//! | `tok_visa` | it succeeds |
//! | `tok_decline_<reason>` | it is refused: `generic`, `insufficient_funds`, `expired_card`, `lost_card`, `stolen_card`, `fraud`, `incorrect_cvc`, `processing_error`, `velocity_exceeded` |
//! | `tok_requires_action` | the customer must act; a confirmation, or [`Sandbox::complete_action`], completes it |
//! | `tok_pending_then_ok`, `tok_pending_then_fail` | decided [`Sandbox::PENDING_FOR`] later; a notification tells |
//! | `tok_timeout_before_charge` | the first call never arrives and is never answered; sent again it succeeds |
//! | `tok_timeout_after_charge` | it succeeds and is never answered |
//! | `tok_reset_after_charge`, `tok_5xx_after_charge`, `tok_garbage_body` | it succeeds; the answer is lost |
//! | `tok_unreachable` | no call ever arrives, provably |
//! | `tok_slow_<ms>` | it succeeds after that many milliseconds, at most 120,000 |
//! | `tok_amount_mismatch` | it succeeds with one minor unit less (of a single one: one more) |
//! | `tok_dispute` | it succeeds and, once paid, is disputed: a notification tells |
//! | `tok_capture_<fault>`, `tok_cancel_<fault>`, `tok_refund_<fault>` | the charge or authorization succeeds and the later step goes wrong: any of `decline_<reason>`, `pending_then_ok`, `pending_then_fail`, `timeout_before`, `timeout_after`, `reset_after`, `5xx_after`, `garbage_body`, `unreachable`, `slow_<ms>`, `amount_mismatch` |
//!
//! A token's fault is about one step; the others are plain. A call or answer is lost once per key: what is sent again
//! under the same key is answered. Every other token fails with `invalid_payment_method`.
//!
//! # Notifications
//! [`Sandbox::drain_notifications`] gives what became of pending and of unanswered calls, completed customer actions and
//! disputes, each once, signed as [`Processor::parse_notification`] wants them.

mod account;
mod ledger;
mod notification;
mod script;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::env::Env;
use crate::id::{OperationId, PaymentId};
use crate::payment::{OperationKind, ProcessorName};
use crate::processor::{
    Answer, Capabilities, Finding, Instruction, LookUp, Notification, NotificationError, Processor,
    ProcessorError, RawNotification, Resolution,
};
use crate::secret::Secret;

use self::ledger::{Ledger, Order};
use self::script::Script;

pub use self::account::{EntryState, LedgerEntry};
pub use self::script::{Decline, Fault, SandboxFaults};

/// A processor that moves no money. Clones share one ledger.
///
/// The ledger is in memory and per sandbox: two processes with a sandbox each do not know each other's payments, and
/// neither does one after a restart (`unknown_payment`).
///
/// Its time is that of the [`Env`]: a simulation whose gateway has a clock that jumps gives the sandbox an environment of
/// its own, as a real processor has.
///
/// ```
/// use pgw_core::env::Env;
/// use pgw_core::processor::{Processor as _, Resolution};
/// use pgw_core::sandbox::Sandbox;
///
/// let sandbox = Sandbox::new(Env::system()).with_resolution(Resolution::CancelByKey);
/// assert_eq!(sandbox.name().as_str(), "sandbox");
/// assert!(sandbox.ledger().is_empty());
/// ```
#[derive(Clone)]
pub struct Sandbox {
    env: Env,
    name: ProcessorName,
    resolution: Resolution,
    latency: Duration,
    faults: Option<Arc<dyn SandboxFaults>>,
    secret: Arc<Secret>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Sandbox {
    /// How long what is pending stays so, and how late the notification of an unanswered call or of a dispute is.
    pub const PENDING_FOR: Duration = Duration::from_secs(2);
    /// Most payments remembered, the oldest forgotten first; about 100 MB when each has a few steps. Also the most keys
    /// that stay canceled although nothing ever came with them.
    pub const PAYMENTS_MAX: usize = 100_000;

    /// A sandbox named `sandbox`, with an empty ledger and a random secret, that can be asked by key
    /// ([`Resolution::Lookup`] with a lag of one second) and answers at once.
    ///
    /// # Panics
    /// Never: the name is a valid one.
    #[must_use]
    pub fn new(env: Env) -> Self {
        let name = ProcessorName::parse("sandbox").expect("seven lower-case letters are a name");
        let secret = env.bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self {
            env,
            name,
            resolution: Resolution::Lookup { lag: Duration::from_secs(1) },
            latency: Duration::ZERO,
            faults: None,
            secret: Arc::new(Secret::new(secret)),
            ledger: Arc::default(),
        }
    }

    /// The same sandbox with another way to resolve unknown outcomes.
    #[must_use]
    pub const fn with_resolution(mut self, resolution: Resolution) -> Self {
        self.resolution = resolution;
        self
    }

    /// The same sandbox under another name.
    #[must_use]
    pub fn with_name(mut self, name: ProcessorName) -> Self {
        self.name = name;
        self
    }

    /// The same sandbox, each of whose calls takes this long to arrive.
    #[must_use]
    pub const fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// The same sandbox with faults beside those of the tokens.
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<dyn SandboxFaults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// The same sandbox with a given secret for its notifications: for those of one process to be read by another.
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.secret = Arc::new(secret);
        self
    }

    /// Everything that was executed, in order, refused calls included.
    #[must_use]
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.lock().entries(self.env.now())
    }

    /// How often calls with this key were executed. More than once is a double charge, unless keys are remembered.
    #[must_use]
    pub fn executions(&self, key: OperationId) -> u32 {
        self.lock().executions(key)
    }

    /// How much of a payment was charged or held, in minor units.
    #[must_use]
    pub fn authorized_minor(&self, payment: PaymentId) -> i64 {
        let kinds = [OperationKind::Charge, OperationKind::Authorize];
        self.lock().moved(payment, &kinds, self.env.now())
    }

    /// How much of a payment was taken, in minor units.
    #[must_use]
    pub fn captured_minor(&self, payment: PaymentId) -> i64 {
        let kinds = [OperationKind::Charge, OperationKind::Capture];
        self.lock().moved(payment, &kinds, self.env.now())
    }

    /// How much of a payment was given back, in minor units.
    #[must_use]
    pub fn refunded_minor(&self, payment: PaymentId) -> i64 {
        self.lock().moved(payment, &[OperationKind::Refund], self.env.now())
    }

    /// Does what the customer does: completes the operation that waits for them, without the merchant's confirmation.
    /// `None` when none waits under this key. A notification tells of it.
    #[must_use = "tells whether anything waited"]
    pub fn complete_action(&self, key: OperationId) -> Option<Answer> {
        self.lock().complete(key, self.env.now())
    }

    /// Takes the notifications that are due, oldest first. Each comes once: one that is not delivered is lost.
    #[must_use = "what is not delivered is lost"]
    pub fn drain_notifications(&self) -> Vec<RawNotification> {
        let due = self.lock().drain(self.env.now());
        due.iter().map(|(topic, entry)| notification::write(*topic, entry, &self.secret)).collect()
    }

    /// How a call is decided (`None`: no such token), and how it travels.
    fn plan(&self, instruction: &Instruction) -> (Option<Fault>, Fault, bool) {
        let script = Script::of(instruction.payment_method.as_str());
        let hook = self.faults.as_ref().map_or(Fault::None, |f| f.on_submit(instruction));
        let of_token = script.map_or(Fault::None, |script| script.fault(instruction.kind));
        let is_over = of_token.is_once() && self.lock().has_seen(instruction.key);
        let of_token = if is_over { Fault::None } else { of_token };
        let travel = if hook.is_transport() { hook } else { of_token };
        let travel = if travel.is_transport() { travel } else { Fault::None };
        let decision = if hook.is_transport() || hook == Fault::None { of_token } else { hook };
        let decision = if decision.is_transport() { Fault::None } else { decision };
        let decision = script.map(|_| decision);
        (decision, travel, script.is_some_and(|script| script.is_disputed))
    }

    /// The way in, for everything but [`Fault::TimeoutBefore`].
    async fn arrive(&self, travel: Fault) -> Result<(), ProcessorError> {
        if travel == Fault::NotSent {
            return Err(ProcessorError::NotSent(Arc::new(Loss::Unreachable)));
        }
        let slow =
            if let Fault::Slow(by) = travel { by.min(Fault::SLOW_MAX) } else { Duration::ZERO };
        let takes = self.latency.saturating_add(slow);
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        Ok(())
    }

    /// The way out.
    async fn leave<T>(travel: Fault, answer: T) -> Result<T, ProcessorError> {
        let loss = match travel {
            Fault::TimeoutAfter => return std::future::pending().await,
            Fault::ResetAfter => Loss::Reset,
            Fault::ServerErrorAfter => Loss::ServerError,
            Fault::Garbage => Loss::Garbage,
            _ => return Ok(answer),
        };
        Err(ProcessorError::Unclear(Arc::new(loss)))
    }

    /// Asks the ledger about a key.
    async fn ask(
        &self,
        query: &LookUp,
        answer: impl FnOnce(&mut Ledger, OperationId) -> Finding + Send,
    ) -> Result<Finding, ProcessorError> {
        let travel = self.faults.as_ref().map_or(Fault::None, |faults| faults.on_query(query));
        self.arrive(travel).await?;
        if travel == Fault::TimeoutBefore {
            return std::future::pending().await;
        }
        let finding = answer(&mut self.lock(), query.key);
        Self::leave(travel, finding).await
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // Nothing in the ledger can panic halfway through a change that others then see.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Processor for Sandbox {
    fn name(&self) -> &ProcessorName {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { resolution: self.resolution }
    }

    async fn submit(&self, instruction: &Instruction) -> Result<Answer, ProcessorError> {
        let (decision, travel, is_disputed) = self.plan(instruction);
        self.arrive(travel).await?;
        if travel == Fault::TimeoutBefore {
            self.lock().lose(instruction.key);
            return std::future::pending().await;
        }
        let window =
            if let Resolution::Replay { window } = self.resolution { Some(window) } else { None };
        let now = self.env.now();
        let answer = {
            let mut ledger = self.lock();
            let order = Order { instruction, fault: decision, is_disputed, window, now };
            let answer = ledger.execute(&order);
            if travel.loses_answer() {
                ledger.tell_later(instruction.key, now);
            }
            answer
        };
        Self::leave(travel, answer).await
    }

    async fn look_up(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        let Resolution::Lookup { lag } = self.resolution else {
            return Err(ProcessorError::Unclear(Arc::new(Loss::CannotBeAsked)));
        };
        self.ask(query, |ledger, key| ledger.find(key, lag, self.env.now())).await
    }

    async fn cancel_by_key(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        if self.resolution != Resolution::CancelByKey {
            return Err(ProcessorError::Unclear(Arc::new(Loss::CannotBeAsked)));
        }
        self.ask(query, |ledger, key| ledger.undo(key, self.env.now())).await
    }

    fn parse_notification(
        &self,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> Result<Vec<Notification>, NotificationError> {
        notification::read(headers, body, &self.secret).map(|notification| vec![notification])
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("name", &self.name)
            .field("resolution", &self.resolution)
            .finish_non_exhaustive()
    }
}

/// Why the sandbox gives no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Loss {
    #[error("the connection to the sandbox was refused")]
    Unreachable,
    #[error("the connection to the sandbox broke")]
    Reset,
    #[error("the sandbox answered with status 503")]
    ServerError,
    #[error("the sandbox's answer cannot be read")]
    Garbage,
    #[error("the sandbox does not answer this kind of question")]
    CannotBeAsked,
}

//! The processor (acquirer, PSP): the trait that is charged money through, and what it may answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::id::{OperationId, PaymentId};
use crate::money::Money;
use crate::payment::{Failure, Finality, NextAction, OperationKind, ProcessorName, Reference};
use crate::scope::Scope;
use crate::text::PaymentMethod;

/// A service that moves money.
///
/// # Contract
/// The gateway commits a write-ahead before [`submit`](Self::submit) and drops the call at its deadline. The
/// implementation turns whatever its client library says into three kinds of outcome and never guesses between
/// them: an [`Answer`] is what the processor *said*; [`ProcessorError::NotSent`] is *proof* that nothing arrived;
/// everything else is [`ProcessorError::Unclear`].
///
/// # Keys
/// [`Instruction::key`] is the same on every attempt of an operation. Send it as the processor's
/// idempotency key, and as a reference that look-ups and notifications bring back.
///
/// # Time
/// The implementation sets no timeout of its own beyond the caller's; being dropped is its timeout.
///
/// # Cancel safety
/// Every future may be dropped at any await; the gateway then treats the outcome as unknown.
///
/// # Implementing
/// Do not retry inside `submit`. Read no more than a bounded body. Follow no redirects. Check that amounts in
/// the reply are what was asked and report them as they are: the gateway compares.
#[async_trait]
pub trait Processor: fmt::Debug + Send + Sync {
    /// Its name, in routes and rows.
    fn name(&self) -> &ProcessorName;

    /// What it can do. Constant.
    fn capabilities(&self) -> Capabilities;

    /// Asks for one operation. Called at most once per committed dispatch.
    ///
    /// # Errors
    /// [`ProcessorError`]: whether it may have arrived.
    async fn submit(&self, instruction: &Instruction) -> Result<Answer, ProcessorError>;

    /// Asks what became of the operation with this key. Called only with [`Resolution::Lookup`].
    ///
    /// # Errors
    /// [`ProcessorError`] when there is no clear answer; it is asked again later.
    async fn look_up(&self, query: &LookUp) -> Result<Finding, ProcessorError>;

    /// Makes sure that the operation with this key never takes effect, and says what is true then. Called only with
    /// [`Resolution::CancelByKey`].
    ///
    /// # Errors
    /// [`ProcessorError`] when there is no clear answer; it is asked again later.
    async fn cancel_by_key(&self, query: &LookUp) -> Result<Finding, ProcessorError>;

    /// Authenticates and reads a notification that the processor sent to us. Does no I/O.
    ///
    /// # Errors
    /// [`NotificationError`] when it is not from the processor or cannot be read.
    fn parse_notification(
        &self,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> Result<Vec<Notification>, NotificationError>;
}

/// What a processor can do about an operation whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// It can be asked by key. "Not found" counts once the deadline is `lag` past: until then the
    /// call may still be on its way.
    Lookup {
        /// How long after a call arrives its look-up may still miss it.
        lag: Duration,
    },
    /// The same call with the same key gives the first call's result, within `window` of the first call.
    Replay {
        /// How long keys are remembered.
        window: Duration,
    },
    /// The operation can be undone by its key, whether it arrived or not.
    CancelByKey,
    /// Nothing can be asked: only notifications and people settle it.
    EvidenceOnly,
}

/// What a processor declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// How unknown outcomes are resolved.
    pub resolution: Resolution,
}

/// One operation, as the processor is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The idempotency key at the processor: the operation's id, the same on every attempt.
    pub key: OperationId,
    /// Whose money it is; comes back in notifications.
    pub scope: Scope,
    /// The payment.
    pub payment: PaymentId,
    /// What is asked.
    pub kind: OperationKind,
    /// How much.
    pub amount: Money,
    /// What is charged.
    pub payment_method: PaymentMethod,
    /// For a capture: whether it is the last.
    pub finality: Finality,
    /// The processor's name of the payment, on everything after the charge or authorization.
    pub reference: Option<Reference>,
    /// The key of the payment's charge or authorization.
    pub initial_key: OperationId,
    /// Whether the customer has acted and this completes the operation of the same key.
    pub confirmation: Confirmation,
}

/// Whether a call starts an operation or completes one that waited for the customer. There is no third.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// It starts the operation.
    None,
    /// The customer has acted.
    Confirmed,
}

/// Names an operation to ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookUp {
    /// The operation's key.
    pub key: OperationId,
    /// What the processor calls it, when it ever said.
    pub reference: Option<Reference>,
    /// What was asked.
    pub kind: OperationKind,
}

/// What the processor said of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It happened.
    Succeeded {
        /// What the processor calls it.
        reference: Option<Reference>,
        /// How much it says it moved; anything but what was asked is for a person to look at.
        amount: Money,
    },
    /// It was refused; nothing moved.
    Failed {
        /// What the processor calls it.
        reference: Option<Reference>,
        /// Why.
        failure: Failure,
    },
    /// It will be decided later.
    Pending {
        /// What the processor calls it.
        reference: Option<Reference>,
    },
    /// The customer must act.
    RequiresAction {
        /// What the processor calls it.
        reference: Option<Reference>,
        /// What they must do.
        next_action: NextAction,
    },
}

impl Answer {
    /// Whether it leaves the outcome open: another answer will follow.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Pending { .. } | Self::RequiresAction { .. })
    }
}

/// What asking about an operation found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The processor has it.
    Found(Answer),
    /// The processor does not have it. From [`Processor::cancel_by_key`]: and never will.
    NotFound,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// Provably nothing arrived: the name did not resolve, the connection was refused, TLS failed.
    #[error("the processor was not reached")]
    NotSent(#[source] Source),
    /// It may or may not have arrived.
    #[error("the processor's answer is not known")]
    Unclear(#[source] Source),
}

/// Any error, kept as a source.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Something the processor told us unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Whose payment, as the instruction carried it.
    pub scope: Scope,
    /// The payment, as the instruction carried it.
    pub payment: PaymentId,
    /// The operation's key.
    pub key: OperationId,
    /// What it says.
    pub news: News,
}

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// Where the operation stands.
    Outcome(Answer),
    /// The customer disputes the payment.
    Disputed,
}

/// A notification that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotificationError {
    /// This processor sends none.
    #[error("this processor sends no notifications")]
    Unsupported,
    /// Its signature does not verify.
    #[error("the notification's signature does not verify")]
    NotAuthentic,
    /// It is authentic and unreadable.
    #[error("the notification cannot be read")]
    Malformed,
}

/// A request a processor's webhook made to us, as raw as it came.
#[derive(Debug, Clone)]
pub struct RawNotification {
    /// The headers, names in lower case.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

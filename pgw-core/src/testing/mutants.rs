//! Planted bugs: wrappers that break a gateway in one well-known way each, to prove that the simulation would notice. No switch of
//! them is in the code itself.

mod queue;
mod storage;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use uuid::Uuid;

use crate::id::OperationId;
use crate::payment::ProcessorName;
use crate::processor::{
    Answer, Capabilities, Finding, Instruction, LookUp, Notification, NotificationError, Processor,
    ProcessorError,
};
use crate::queue::{Claim, Job};
use crate::webhook::{
    EndpointUrl, TransportError, TransportErrorKind, WebhookRequest, WebhookResponse,
    WebhookTransport,
};

macro_rules! bugs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A bug that can be planted. Each stands for a mistake that was made in payment systems before.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Bug { $($(#[$doc])* $variant,)* }

        impl Bug {
            /// Every bug.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

bugs! {
    /// The processor is called without a write-ahead: the commit of a dispatch is skipped.
    ChargeWithoutWriteAhead = "charge-without-write-ahead",
    /// Refunds under way are not set aside when the next one is planned.
    RefundWithoutReservation = "refund-without-reservation",
    /// An outcome that is not known is taken for a failure.
    UnknownFailedByTimer = "unknown-failed-by-timer",
    /// Events are written in a commit of their own, after the change.
    EventOutsideCommit = "event-outside-commit",
    /// A dispatched operation is never looked at again.
    DueTimeLost = "due-time-lost",
    /// Each attempt has a key of its own at the processor.
    NewKeyPerAttempt = "new-key-per-attempt",
    /// Idempotency keys are not claimed.
    KeyClaimDropped = "key-claim-dropped",
    /// Versions are not checked.
    GuardsDropped = "guards-dropped",
    /// "Not found" counts before the deadline and the processor's lag are over.
    NotFoundTrustedEarly = "not-found-trusted-early",
    /// A call without an answer is taken for one that was not sent.
    TimeoutAsNotSent = "timeout-as-not-sent",
    /// A webhook without an answer is taken for one that was delivered.
    DeliveryAckedOnTimeout = "delivery-acked-on-timeout",
    /// Now and then an event repeats the number of the one before.
    DuplicateSequence = "duplicate-sequence",
    /// Late evidence overwrites what was settled instead of opening a conflict.
    AnswerOverwritesTerminal = "answer-overwrites-terminal",
    /// A reader of the feed misses an event of a batch.
    StampSkips = "stamp-skips",
    /// Mutations leave no row in the audit log.
    AuditDropped = "audit-dropped",
    /// Now and then a row of the audit log is left out when it is sealed.
    SealSkipsRow = "seal-skips-row",
    /// A claim that was lost still extends and ends the one that somebody else holds.
    FencesIgnored = "fences-ignored",
    /// Deliveries of a paused endpoint are attempted all the same, and each spends its attempts.
    PausesIgnored = "pauses-ignored",
    /// An event does not wait for the ones before it at an endpoint that orders.
    OrderIgnored = "order-ignored",
    /// A rotation ends the old secret at once, whatever was promised.
    OldSecretDropped = "old-secret-dropped",
    /// What waits behind a delivery is not woken when its turn comes.
    WakeLost = "wake-lost",
    /// The queue forgets a job that was postponed.
    PostponedForgotten = "postponed-forgotten",
}

impl Bug {
    /// Whether the simulation sees it. It does not see what somebody else makes good in time, here the reaper: a sentence of a backend's
    /// contract is broken, and nothing that the gateway promises. The conformance suite sees that.
    #[must_use]
    pub const fn is_seen_in_worlds(self) -> bool {
        !matches!(self, Self::WakeLost | Self::PostponedForgotten)
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Bug {
    type Err = UnknownBug;

    fn from_str(text: &str) -> Result<Self, UnknownBug> {
        Self::ALL.iter().copied().find(|bug| bug.as_str() == text).ok_or(UnknownBug)
    }
}

/// The text names no bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not the name of a planted bug")]
pub struct UnknownBug;

/// A part with a planted bug, if the bug is one of this part; otherwise it does what the part inside does.
///
/// Implements `Storage`, `Queue`, `Processor` or `WebhookTransport`, whichever is inside.
pub struct Mutant<T: ?Sized> {
    inner: Arc<T>,
    bug: Bug,
    calls: Mutex<BTreeMap<OperationId, u128>>,
    /// The last claim of each job.
    given: Mutex<BTreeMap<Job, Claim>>,
}

impl<T: ?Sized> Mutant<T> {
    /// The part with the bug.
    #[must_use]
    pub fn new(inner: Arc<T>, bug: Bug) -> Self {
        Self { inner, bug, calls: Mutex::default(), given: Mutex::default() }
    }

    /// How often this was asked about an operation before.
    fn earlier(&self, operation: OperationId) -> u128 {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(operation).or_default();
        *count += 1;
        *count - 1
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Mutant<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mutant").field(&self.bug).field(&&*self.inner).finish()
    }
}

#[async_trait]
impl Processor for Mutant<dyn Processor> {
    fn name(&self) -> &ProcessorName {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn submit(&self, instruction: &Instruction) -> Result<Answer, ProcessorError> {
        let mut instruction = instruction.clone();
        if self.bug == Bug::NewKeyPerAttempt {
            let nth = self.earlier(instruction.key);
            let key = instruction.key.as_uuid().as_u128().wrapping_add(nth);
            instruction.key = OperationId::from_uuid(Uuid::from_u128(key));
        }
        match self.inner.submit(&instruction).await {
            Err(ProcessorError::Unclear(source)) if self.bug == Bug::TimeoutAsNotSent => {
                Err(ProcessorError::NotSent(source))
            }
            result => result,
        }
    }

    async fn look_up(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.inner.look_up(query).await
    }

    async fn cancel_by_key(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.inner.cancel_by_key(query).await
    }

    fn parse_notification(
        &self,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> Result<Vec<Notification>, NotificationError> {
        self.inner.parse_notification(headers, body)
    }
}

#[async_trait]
impl WebhookTransport for Mutant<dyn WebhookTransport> {
    fn check(&self, url: &EndpointUrl) -> Result<(), TransportError> {
        self.inner.check(url)
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        match self.inner.send(request).await {
            Err(TransportError { kind: TransportErrorKind::Timeout, .. })
                if self.bug == Bug::DeliveryAckedOnTimeout =>
            {
                Ok(WebhookResponse {
                    status: 200,
                    body_start: bytes::Bytes::new(),
                    retry_after: None,
                })
            }
            result => result,
        }
    }
}

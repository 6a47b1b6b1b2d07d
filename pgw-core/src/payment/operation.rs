//! Operations: the steps a payment is made of. Facts; everything else about a payment follows from them.

use crate::id::{OperationId, PaymentId};
use crate::idempotency::IdempotencyKey;
use crate::money::Money;
use crate::text::Reason;
use crate::timestamp::Timestamp;

/// What a step asks of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// Authorize and capture in one step.
    Charge,
    /// Hold the amount on the customer's account.
    Authorize,
    /// Take some or all of what is held.
    Capture,
    /// Release what is held, or abandon a payment that waits for the customer.
    Cancel,
    /// Give some or all of what was captured back.
    Refund,
}

impl OperationKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Charge, Self::Authorize, Self::Capture, Self::Cancel, Self::Refund];

    /// `charge`, `authorize`, `capture`, `cancel` or `refund`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Cancel => "cancel",
            Self::Refund => "refund",
        }
    }

    /// Whether this kind starts a payment.
    #[must_use]
    pub const fn is_initial(self) -> bool {
        matches!(self, Self::Charge | Self::Authorize)
    }
}

/// Where a step stands. See [`crate::payment::transition`] for what may follow what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OperationState {
    /// Waiting to be sent; provably not at the processor, or waiting to be sent again under the same key.
    Queued,
    /// The write-ahead is committed; the call may be under way until the deadline.
    Dispatched,
    /// The processor did it.
    Succeeded,
    /// The processor refused it, or it was provably never sent.
    Failed,
    /// The processor has it and will decide later.
    Pending,
    /// The customer must act first.
    RequiresAction,
    /// It may or may not have happened. Only evidence moves it on; no timer does.
    Unknown,
}

impl OperationState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Dispatched,
        Self::Succeeded,
        Self::Failed,
        Self::Pending,
        Self::RequiresAction,
        Self::Unknown,
    ];

    /// The state's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Pending => "pending",
            Self::RequiresAction => "requires_action",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the outcome is known for good.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// One step of a payment.
///
/// Its [`id`](Self::id) is the key the processor sees, the same on every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Names the step, here and at the processor.
    pub id: OperationId,
    /// The payment it belongs to.
    pub payment: PaymentId,
    /// What it asks for.
    pub kind: OperationKind,
    /// How much it is about. For a cancel: how much it releases.
    pub amount: Money,
    /// Where it stands.
    pub state: OperationState,
    /// Why it exists.
    pub cause: Cause,
    /// For a capture: whether more captures may follow.
    pub finality: Finality,
    /// How often it was dispatched to the processor.
    pub attempts: u32,
    /// How often the processor was asked what became of it, since it last became unknown or pending.
    pub probes: u32,
    /// The token of the latest dispatch: tells the worker that wrote it from every other. None once the customer has acted,
    /// until the dispatch that confirms.
    pub fence: Option<Fence>,
    /// When it was first dispatched; the processor's replay window counts from here.
    pub first_dispatched_at: Option<Timestamp>,
    /// Nothing of the latest dispatch is sent after this. For people: workers judge by their monotonic
    /// clock and storage by its own, so that skewed clocks do no harm.
    pub deadline: Option<Timestamp>,
    /// The customer has done what was asked, so the next dispatch confirms.
    pub confirmed: bool,
    /// A person must settle it (or late evidence).
    pub needs_review: bool,
    /// What the processor calls it.
    pub reference: Option<Reference>,
    /// Why it failed, or what is odd about it.
    pub failure: Option<Failure>,
    /// Why the caller asked for it.
    pub reason: Option<Reason>,
    /// The key whose answer is stored when the step settles.
    pub idempotency_key: Option<IdempotencyKey>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Operation {
    /// Whether its amount is set aside: asked for, and not yet known to have happened or not.
    #[must_use]
    pub const fn is_reserving(&self) -> bool {
        !self.state.is_settled()
    }

    /// Whether it failed because its payment was canceled or expired first.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.code() == Failure::WITHDRAWN)
    }

    /// Whether the customer has acted and the processor has not answered to that: the confirmation is yet to be sent, under way,
    /// or its answer was lost.
    #[must_use]
    pub const fn is_confirming(&self) -> bool {
        use OperationState::{Dispatched, Queued, Unknown};
        self.confirmed && matches!(self.state, Queued | Dispatched | Unknown)
    }

    /// Whether the processor provably holds nothing under its key, so it can be dropped without a call.
    #[must_use]
    pub const fn is_withdrawable(&self) -> bool {
        matches!(self.state, OperationState::Queued) && self.reference.is_none() && !self.confirmed
    }
}

/// Why an operation exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Somebody asked.
    Request,
    /// Time ran out: a cancel with this cause ends in `expired`, not `canceled`.
    Expiry,
}

/// Whether a capture is the last of its payment. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Finality {
    /// More captures may follow, up to the authorized amount.
    #[default]
    Open,
    /// The rest of the authorization is released.
    Final,
}

/// Tells one claim or dispatch from every other. Random; compared, never ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence(pub u64);

/// A processor's own name for something, at most 128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(Box<str>);

impl Reference {
    /// Longest reference kept; real ones have 20 to 40 characters.
    pub const LEN_MAX: usize = 128;

    /// Keeps a reference; `None` when the text is not one, which a processor's garbage can be.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=Self::LEN_MAX).contains(&text.len());
        (fits && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why something failed: a code for programs and a sentence for people.
///
/// ```
/// use pgw_core::payment::Failure;
/// let failure = Failure::new("card_declined", "The card was declined.\u{7}");
/// assert_eq!(failure.code(), "card_declined");
/// assert_eq!(failure.message(), "The card was declined.");
/// assert_eq!(Failure::new("Bad Code!", "").code(), "processor_error");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    code: Box<str>,
    message: Box<str>,
}

impl Failure {
    /// The code of a charge or authorization that ended with its payment's cancel or expiry. Ours alone.
    pub const WITHDRAWN: &'static str = "payment_canceled";
    /// Longest code in bytes.
    pub const CODE_LEN_MAX: usize = 64;
    /// Longest message in characters; a sentence or two.
    pub const MESSAGE_CHARS_MAX: usize = 300;

    /// A failure. A code that is not `snake_case` becomes `processor_error`; control characters of the message
    /// are dropped, a card number hides it whole, and what is too long is cut: it is a processor's text.
    #[must_use]
    pub fn new(code: &str, message: &str) -> Self {
        let plain = code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let fits = (1..=Self::CODE_LEN_MAX).contains(&code.len());
        let code = if plain && fits { code } else { "processor_error" };
        let message: String =
            message.chars().filter(|c| !c.is_control()).take(Self::MESSAGE_CHARS_MAX).collect();
        let message =
            if crate::pan::contains_card_number(&message) { String::new() } else { message };
        Self { code: code.into(), message: message.into() }
    }

    /// The same failure without its sentence, which a processor wrote.
    #[must_use]
    pub fn without_message(&self) -> Self {
        Self { code: self.code.clone(), message: "".into() }
    }

    /// The code, `snake_case`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

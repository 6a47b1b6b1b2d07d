//! Payments: the types. What may happen to them is in [`transition`], [`status`] and [`plan`].

mod operation;
pub mod plan;
pub mod status;
pub mod transition;

use crate::email::Email;
use crate::id::{ConflictId, OperationId, PaymentId};
use crate::metadata::Metadata;
use crate::money::Money;
use crate::scope::Scope;
use crate::text::{CustomerId, CustomerName, Description, PaymentMethod};
use crate::timestamp::Timestamp;

pub use operation::{
    Cause, Failure, Fence, Finality, Operation, OperationKind, OperationState, Reference,
};

/// A payment. Its totals and status are computed from its operations (see [`status::totals`]) and stored, so
/// that lists can filter by them and SQL can check them.
///
/// Holds at every instant: `captured + capture_reserved ≤ authorized` and `refunded + refund_reserved ≤
/// captured`, all in minor units of [`amount`](Self::amount)'s currency, none negative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Names the payment.
    pub id: PaymentId,
    /// Whose it is, test or live.
    pub scope: Scope,
    /// What the customer is asked to pay.
    pub amount: Money,
    /// Whether the money is taken at once or on request.
    pub capture: CaptureMethod,
    /// Who pays.
    pub customer: Customer,
    /// What for, in the merchant's words.
    pub description: Option<Description>,
    /// The merchant's own pairs.
    pub metadata: Metadata,
    /// What is charged: a token the processor knows, never a card number.
    pub payment_method: PaymentMethod,
    /// The processor it is routed to.
    pub processor: ProcessorName,
    /// What the processor calls the payment.
    pub processor_reference: Option<Reference>,
    /// Where it stands.
    pub status: PaymentStatus,
    /// How much is or was held, in minor units.
    pub authorized_minor: i64,
    /// How much was taken.
    pub captured_minor: i64,
    /// How much captures under way may still take.
    pub capture_reserved_minor: i64,
    /// How much was given back.
    pub refunded_minor: i64,
    /// How much refunds under way may still give back.
    pub refund_reserved_minor: i64,
    /// How many of its operations have an unknown outcome.
    pub unknown_operations: u32,
    /// A person must look at it.
    pub needs_review: bool,
    /// How many conflicts are open: evidence against what was settled.
    pub open_conflicts: u32,
    /// The customer disputes it with their bank.
    pub disputed: bool,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What the customer must do next.
    pub next_action: Option<NextAction>,
    /// When what is held, or waits for the customer, is given up.
    pub expires_at: Timestamp,
    /// Counts its changes, from 1; what guards compare.
    pub version: u64,
    /// The `sequence` of its latest event; gap-free from 1.
    pub sequence: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Payment {
    /// How much a new refund may give back, in minor units.
    #[must_use]
    pub const fn refundable_minor(&self) -> i64 {
        self.captured_minor
            .saturating_sub(self.refunded_minor)
            .saturating_sub(self.refund_reserved_minor)
    }

    /// How much a new capture may take, in minor units; what is left may no longer be held if the
    /// payment is canceled or a capture was final.
    #[must_use]
    pub const fn capturable_minor(&self) -> i64 {
        self.authorized_minor
            .saturating_sub(self.captured_minor)
            .saturating_sub(self.capture_reserved_minor)
    }
}

/// A payment with all of its operations, oldest first: what plans work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentState {
    /// The payment.
    pub payment: Payment,
    /// Its operations, oldest first; the first is the charge or the authorization.
    pub operations: Vec<Operation>,
}

impl PaymentState {
    /// Most operations of a payment. Each is a charge, capture, cancel or refund; more than this is a runaway
    /// caller, and a payment must stay cheap to load whole.
    pub const OPERATIONS_MAX: usize = 100;

    /// The operation with this id.
    #[must_use]
    pub fn operation(&self, id: OperationId) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.id == id)
    }
}

/// Who pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Where to write to.
    pub email: Email,
    /// What to call them.
    pub name: CustomerName,
    /// The merchant's own id of them.
    pub id: Option<CustomerId>,
}

/// When the money is taken. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum CaptureMethod {
    /// At once.
    #[default]
    Automatic,
    /// Held first; taken when the merchant captures.
    Manual,
}

impl CaptureMethod {
    /// `automatic` or `manual`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Manual => "manual",
        }
    }
}

/// Where a payment stands: a pure function of its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PaymentStatus {
    /// Not yet at the processor, or under way.
    Pending,
    /// The customer must act.
    RequiresAction,
    /// The processor has it and will decide later.
    Processing,
    /// It may or may not have been charged. Not a failure: do not ask the customer to pay again.
    Unknown,
    /// The amount is held.
    Authorized,
    /// Some of what was held is taken; more may be.
    PartiallyCaptured,
    /// Paid.
    Succeeded,
    /// Some was given back.
    PartiallyRefunded,
    /// All was given back.
    Refunded,
    /// The processor refused.
    Failed,
    /// Given up by the merchant.
    Canceled,
    /// Given up because time ran out.
    Expired,
}

impl PaymentStatus {
    /// Every status.
    pub const ALL: [Self; 12] = [
        Self::Pending,
        Self::RequiresAction,
        Self::Processing,
        Self::Unknown,
        Self::Authorized,
        Self::PartiallyCaptured,
        Self::Succeeded,
        Self::PartiallyRefunded,
        Self::Refunded,
        Self::Failed,
        Self::Canceled,
        Self::Expired,
    ];

    /// The status's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::RequiresAction => "requires_action",
            Self::Processing => "processing",
            Self::Unknown => "unknown",
            Self::Authorized => "authorized",
            Self::PartiallyCaptured => "partially_captured",
            Self::Succeeded => "succeeded",
            Self::PartiallyRefunded => "partially_refunded",
            Self::Refunded => "refunded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
        }
    }

    /// Whether what a caller waits for is there: none of `pending`, `processing` and `unknown`, which move on by
    /// themselves.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        !matches!(self, Self::Pending | Self::Processing | Self::Unknown)
    }
}

impl std::fmt::Display for PaymentStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for PaymentStatus {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownName)
    }
}

/// The text names no value of the list it should be from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not one of the values this field can have")]
pub struct UnknownName;

/// What the customer must do, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextAction {
    /// Go to this address (3-D Secure and the like), at most 2,000 visible ASCII characters.
    Redirect(Box<str>),
}

impl NextAction {
    /// Longest address kept.
    pub const URL_LEN_MAX: usize = 2_000;

    /// A redirect; `None` when the address is not https or too long.
    #[must_use]
    pub fn redirect(url: &str) -> Option<Self> {
        let fits = url.len() <= Self::URL_LEN_MAX && url.bytes().all(|b| b.is_ascii_graphic());
        (fits && url.starts_with("https://")).then(|| Self::Redirect(url.into()))
    }
}

/// The name of a processor: 1 to 32 characters of `a-z`, `0-9` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessorName(std::sync::Arc<str>);

impl ProcessorName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`UnknownName`] when the text cannot be one.
    pub fn parse(text: &str) -> Result<Self, UnknownName> {
        let fits = (1..=32).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if fits && plain { Ok(Self(text.into())) } else { Err(UnknownName) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Evidence that contradicts a settled operation. It changes nothing by itself: a person decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Names the conflict.
    pub id: ConflictId,
    /// The payment.
    pub payment: PaymentId,
    /// The settled operation.
    pub operation: OperationId,
    /// What the operation's state says.
    pub settled: OperationState,
    /// What the evidence says.
    pub found: OperationState,
    /// What the processor calls what it found.
    pub reference: Option<Reference>,
    /// When it was found.
    pub created_at: Timestamp,
    /// When a person dismissed it.
    pub closed_at: Option<Timestamp>,
}

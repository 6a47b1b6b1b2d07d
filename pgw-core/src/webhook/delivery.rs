//! Deliveries: one event on its way to one endpoint, and the log of its attempts.

use crate::event::{Event, EventType};
use crate::id::{DeliveryId, PaymentId};
use crate::payment::UnknownName;
use crate::scope::Scope;
use crate::timestamp::Timestamp;
use crate::webhook::Endpoint;
use crate::webhook::transport::TransportErrorKind;

/// One event on its way to one endpoint.
///
/// Storage makes it, pending and due at once, in the commit of its event: version 1, no attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Names the delivery: event and endpoint.
    pub id: DeliveryId,
    /// Whose it is.
    pub scope: Scope,
    /// What the event is.
    pub event_type: EventType,
    /// The payment the event is about.
    pub payment: Option<PaymentId>,
    /// Where it stands.
    pub state: DeliveryState,
    /// How many attempts were made since it was created or last replayed by hand.
    pub attempts: u32,
    /// How many attempts were made in all; numbers the attempt log.
    pub attempts_total: u32,
    /// Counts its changes, from 1.
    pub version: u64,
    /// When its event was committed.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DeliveryState {
    /// To be sent, or sent again.
    Pending,
    /// The endpoint took it (2xx).
    Delivered,
    /// Given up, with the reason; kept, and may be replayed.
    Failed(FailedBecause),
}

/// Why a delivery was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FailedBecause {
    /// Every attempt failed.
    Exhausted,
    /// The endpoint said that it is gone for good (410).
    Gone,
    /// The endpoint is disabled.
    EndpointDisabled,
    /// The endpoint was deleted.
    EndpointDeleted,
}

impl FailedBecause {
    /// The reason's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Gone => "gone",
            Self::EndpointDisabled => "endpoint_disabled",
            Self::EndpointDeleted => "endpoint_deleted",
        }
    }
}

impl DeliveryState {
    /// The state's name on the wire: `pending`, `delivered` or `failed`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed(_) => "failed",
        }
    }
}

/// A delivery's state without its reason, as lists filter by it. The three values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliveryStatus {
    /// To be sent.
    Pending,
    /// Taken.
    Delivered,
    /// Given up.
    Failed,
}

impl DeliveryStatus {
    /// `pending`, `delivered` or `failed`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

impl From<DeliveryState> for DeliveryStatus {
    fn from(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Pending => Self::Pending,
            DeliveryState::Delivered => Self::Delivered,
            DeliveryState::Failed(_) => Self::Failed,
        }
    }
}

impl std::str::FromStr for DeliveryStatus {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "pending" => Ok(Self::Pending),
            "delivered" => Ok(Self::Delivered),
            "failed" => Ok(Self::Failed),
            _ => Err(UnknownName),
        }
    }
}

/// A delivery with everything that sending it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryWork {
    /// The delivery.
    pub delivery: Delivery,
    /// The event, with its body.
    pub event: Event,
    /// The endpoint, with its secret.
    pub endpoint: Endpoint,
}

/// One attempt to deliver. Written in the commit that moves the delivery: the log is that commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Numbers the delivery's attempts from 1.
    pub number: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// How long it took, in ms.
    pub latency_ms: u32,
    /// What came of it.
    pub outcome: AttemptOutcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// The endpoint answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The first bytes of the body as text, control characters escaped: at most 1 KiB.
        body_start: Box<str>,
    },
    /// It did not.
    Failed(TransportErrorKind),
}

impl Attempt {
    /// How much of an answer is kept, in bytes.
    pub const BODY_START_MAX: usize = 1_024;
}

//! Events: what happened, in the words a webhook receiver hears. Their bodies are in [`crate::representation`].

use bytes::Bytes;

use crate::id::{EventId, PaymentId};
use crate::payment::UnknownName;
use crate::scope::Scope;
use crate::timestamp::Timestamp;

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What kind of thing happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum EventType { $($(#[$doc])* $variant,)* }

        impl EventType {
            /// Every type.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The type's name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

event_types! {
    /// A payment was created.
    PaymentCreated = "payment.created",
    /// The customer must act.
    PaymentRequiresAction = "payment.requires_action",
    /// The processor will decide later.
    PaymentProcessing = "payment.processing",
    /// It may or may not have been charged, captured or canceled.
    PaymentUnknown = "payment.unknown",
    /// What was unknown is known; what it turned out to be follows in its own event.
    PaymentResolved = "payment.resolved",
    /// A person must look at it.
    PaymentNeedsReview = "payment.needs_review",
    /// The amount is held.
    PaymentAuthorized = "payment.authorized",
    /// Some of what was held is taken.
    PaymentPartiallyCaptured = "payment.partially_captured",
    /// Paid.
    PaymentSucceeded = "payment.succeeded",
    /// Refused.
    PaymentFailed = "payment.failed",
    /// Given up by the merchant.
    PaymentCanceled = "payment.canceled",
    /// Given up because time ran out.
    PaymentExpired = "payment.expired",
    /// The customer disputes it.
    PaymentDisputed = "payment.disputed",
    /// A refund was asked for.
    RefundCreated = "refund.created",
    /// The processor will decide on a refund later.
    RefundPending = "refund.pending",
    /// It may or may not have been refunded.
    RefundUnknown = "refund.unknown",
    /// Given back.
    RefundSucceeded = "refund.succeeded",
    /// Not given back.
    RefundFailed = "refund.failed",
    /// An endpoint was disabled.
    EndpointDisabled = "endpoint.disabled",
    /// A test.
    TestPing = "test.ping",
}

impl std::fmt::Display for EventType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for EventType {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or(UnknownName)
    }
}

/// Something that happened. Immutable but for [`feed_position`](Self::feed_position), which the sequencer stamps.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// Names the event; the webhook id of each of its deliveries.
    pub id: EventId,
    /// Whose it is, test or live.
    pub scope: Scope,
    /// What happened.
    pub event_type: EventType,
    /// The payment it is about; `endpoint.*` and `test.ping` have none.
    pub payment: Option<PaymentId>,
    /// Counts the payment's events from 1 without a gap; `None` without a payment.
    pub sequence: Option<u64>,
    /// When it happened.
    pub created_at: Timestamp,
    /// The body, signed and sent byte for byte.
    pub body: Bytes,
    /// Its place in the merchant's feed, dense from 1, once stamped.
    pub feed_position: Option<u64>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the body, which holds personal data.
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("scope", &self.scope)
            .field("event_type", &self.event_type.as_str())
            .field("payment", &self.payment)
            .field("sequence", &self.sequence)
            .field("feed_position", &self.feed_position)
            .finish_non_exhaustive()
    }
}

//! The audit log: one row for each mutation, with the six facts of PCI DSS 10.2.2. Append-only.

use std::net::IpAddr;
use std::sync::Arc;

use crate::access::Actor;
use crate::id::{AuditId, DeliveryId, EndpointId, KeyId, PaymentId};
use crate::scope::Scope;
use crate::timestamp::Timestamp;

/// One row: who did what, when, from where, to what, and whether it worked. Holds no personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Names the row.
    pub id: AuditId,
    /// Merchant and mode.
    pub scope: Scope,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: AuditAction,
    /// Whether it worked.
    pub outcome: AuditOutcome,
    /// From where, when known.
    pub origin: Option<IpAddr>,
    /// To what.
    pub object: AuditObject,
    /// In which request.
    pub request_id: Option<Arc<str>>,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What was done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum AuditAction { $($(#[$doc])* $variant,)* }

        impl AuditAction {
            /// Every action.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The action's name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

actions! {
    /// A payment was created.
    PaymentCreate = "payment.create",
    /// A capture was asked for.
    PaymentCapture = "payment.capture",
    /// A cancel was asked for.
    PaymentCancel = "payment.cancel",
    /// A refund was asked for.
    PaymentRefund = "payment.refund",
    /// The customer's action was confirmed.
    PaymentConfirm = "payment.confirm",
    /// A person settled an outcome or dismissed a conflict.
    PaymentResolve = "payment.resolve",
    /// A payment was given up because time ran out.
    PaymentExpire = "payment.expire",
    /// An operation was dispatched.
    OperationDispatch = "operation.dispatch",
    /// An operation moved on by what the processor said, or by what could not be learned.
    OperationMove = "operation.move",
    /// An endpoint was created.
    EndpointCreate = "endpoint.create",
    /// An endpoint was changed.
    EndpointUpdate = "endpoint.update",
    /// An endpoint got a new secret.
    EndpointRotateSecret = "endpoint.rotate_secret",
    /// An endpoint's secrets were sealed with another key.
    EndpointReseal = "endpoint.reseal",
    /// A test was sent to an endpoint.
    EndpointTest = "endpoint.test",
    /// An endpoint was deleted.
    EndpointDelete = "endpoint.delete",
    /// An endpoint was disabled by its own answers, or for want of them.
    EndpointDisable = "endpoint.disable",
    /// A delivery was replayed by hand.
    DeliveryRetry = "delivery.retry",
    /// An API key was created.
    KeyCreate = "key.create",
    /// An API key was revoked.
    KeyRevoke = "key.revoke",
}

/// Whether an action worked. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuditOutcome {
    /// It did.
    Success,
    /// It was refused.
    Failure,
}

/// What an action was done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AuditObject {
    /// A payment.
    Payment(PaymentId),
    /// An endpoint.
    Endpoint(EndpointId),
    /// A delivery.
    Delivery(DeliveryId),
    /// An API key.
    Key(KeyId),
}

impl std::fmt::Display for AuditObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Payment(id) => id.fmt(f),
            Self::Endpoint(id) => id.fmt(f),
            Self::Delivery(id) => id.fmt(f),
            Self::Key(id) => id.fmt(f),
        }
    }
}

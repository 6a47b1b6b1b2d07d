//! Access: who calls, what they may do, and the audit log of what they did.

pub mod audit;
pub mod key;
pub mod role;

use std::net::IpAddr;
use std::sync::Arc;

use crate::id::KeyId;
use crate::scope::Scope;

pub use audit::{AuditAction, AuditObject, AuditOutcome, AuditRow};
pub use key::{ApiKey, ApiKeyText, KeyPrefix, Pepper};
pub use role::{Permission, Role};

/// Who a call is made by and on whose behalf: what rows are visible, and what the audit log says.
///
/// ```
/// use pgw_core::access::Caller;
/// let host = Caller::host(Default::default());
/// assert_eq!(host.actor.to_string(), "host");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Merchant and mode.
    pub scope: Scope,
    /// Who.
    pub actor: Actor,
    /// From where, when known.
    pub origin: Option<IpAddr>,
    /// The request, as logs and answers name it.
    pub request_id: Option<Arc<str>>,
}

impl Caller {
    /// The host application itself.
    #[must_use]
    pub const fn host(scope: Scope) -> Self {
        Self { scope, actor: Actor::Host, origin: None, request_id: None }
    }

    /// A worker of ours.
    #[must_use]
    pub const fn worker(scope: Scope) -> Self {
        Self { scope, actor: Actor::Worker, origin: None, request_id: None }
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Actor {
    /// The host application, calling the library.
    Host,
    /// A worker of ours.
    Worker,
    /// The processor, by a notification.
    Processor,
    /// The holder of an API key.
    Key(KeyId),
    /// Somebody the host's own authenticator named: 1 to 64 visible ASCII characters, no personal data.
    Other(Arc<str>),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Worker => f.write_str("worker"),
            Self::Processor => f.write_str("processor"),
            Self::Key(id) => id.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// An authenticated caller of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Merchant and mode.
    pub scope: Scope,
    /// Who.
    pub actor: Actor,
    /// What they may do.
    pub role: Role,
}

//! Access: who calls, what they may do, who is not let in, and the audit log of what they did.

pub mod audit;
mod cache;
pub mod key;
pub mod network;
pub mod refusal;
pub mod role;
pub mod seal;
pub mod shield;

use std::net::IpAddr;
use std::sync::Arc;

use crate::id::KeyId;
use crate::payment::UnknownName;
use crate::scope::Scope;

pub use audit::{
    AuditAction, AuditChange, AuditField, AuditObject, AuditOutcome, AuditRow, RouteName,
};
pub use key::{ApiKey, ApiKeyText, KeyPrefix, Pepper};
pub use network::{Network, NetworkError};
pub use refusal::{Refusal, RefusedBecause};
pub use role::{Permission, Role};
pub use shield::{DeniedNetwork, Freeze, Shield};

pub(crate) use cache::{AccessCache, Opened};
pub use seal::{AuditSeal, AuditTail, LoggedRow, RowDigest, SealHead, SealKey, SealedRow};

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
    /// Nobody that is known: access that was refused.
    Anonymous,
    /// Somebody the host's own authenticator named: 1 to 64 visible ASCII characters, no personal data.
    Other(Arc<str>),
}

impl Actor {
    /// What kind of actor it is, and which one where there are several: what rows keep of it.
    #[must_use]
    pub fn parts(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Host => ("host", None),
            Self::Worker => ("worker", None),
            Self::Processor => ("processor", None),
            Self::Key(id) => ("key", Some(id.to_string())),
            Self::Anonymous => ("anonymous", None),
            Self::Other(name) => ("other", Some(name.to_string())),
        }
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Worker => f.write_str("worker"),
            Self::Processor => f.write_str("processor"),
            Self::Key(id) => id.fmt(f),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl std::str::FromStr for Actor {
    type Err = UnknownName;

    /// Reads what `Display` writes. A name that the host's authenticator gave and that is one of ours reads as ours.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let own = [Self::Host, Self::Worker, Self::Processor, Self::Anonymous];
        let own = own.into_iter().zip(["host", "worker", "processor", "anonymous"]);
        if let Some((actor, _)) = own.into_iter().find(|(_, name)| *name == text) {
            return Ok(actor);
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Key(id));
        }
        let is_name = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if is_name { Ok(Self::Other(text.into())) } else { Err(UnknownName) }
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

//! Refused access: what the audit log says of it. How rows of it are written, and how many at most, is the gateway's.

use std::net::IpAddr;
use std::sync::Arc;

use crate::access::{Principal, RouteName};

/// Access that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub because: RefusedBecause,
    /// To what.
    pub route: RouteName,
    /// Who asked, when their credential told.
    pub principal: Option<Principal>,
    /// From where, when known.
    pub origin: Option<IpAddr>,
    /// In which request.
    pub request_id: Option<Arc<str>>,
}

impl Refusal {
    /// Most rows a second that a process writes of refusals: enough to see every honest mistake, and a hundredth of what storage takes.
    pub const PER_SECOND_MAX: u32 = 50;
}

/// Why access was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusedBecause {
    /// There was no credential.
    MissingCredential,
    /// There was one, and it opens nothing.
    InvalidCredential,
    /// Its holder may not do this.
    Permission,
}

impl RefusedBecause {
    /// The name that the audit row has as its reason.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingCredential => "missing_credential",
            Self::InvalidCredential => "invalid_credential",
            Self::Permission => "permission",
        }
    }
}

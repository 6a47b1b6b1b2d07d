//! Roles and what each may do.

use crate::payment::UnknownName;

/// What the holder of a key is. The four values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Everything, keys and erasure included.
    Admin,
    /// Reads; captures, cancels, refunds, settles reviews; audit log and exports.
    Finance,
    /// Creates, confirms, captures and cancels payments; reads payments. What a checkout backend holds.
    Service,
    /// Reads payments, refunds, events and deliveries.
    Readonly,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Finance, Self::Service, Self::Readonly];

    /// `admin`, `finance`, `service` or `readonly`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Finance => "finance",
            Self::Service => "service",
            Self::Readonly => "readonly",
        }
    }

    /// Whether the role may do this.
    ///
    /// ```
    /// use pgw_core::access::{Permission, Role};
    /// assert!(Role::Service.may(Permission::CreatePayments));
    /// assert!(!Role::Service.may(Permission::Refund));
    /// ```
    #[must_use]
    pub const fn may(self, permission: Permission) -> bool {
        match permission {
            Permission::ReadPayments => true,
            Permission::ReadDeliveries => !matches!(self, Self::Service),
            Permission::CreatePayments => matches!(self, Self::Admin | Self::Service),
            Permission::MovePayments => matches!(self, Self::Admin | Self::Finance | Self::Service),
            Permission::Refund | Permission::Resolve | Permission::ReadAudit => {
                matches!(self, Self::Admin | Self::Finance)
            }
            Permission::Administer => matches!(self, Self::Admin),
        }
    }
}

impl std::str::FromStr for Role {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownName)
    }
}

/// Something a route lets its caller do. Each route declares one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Permission {
    /// Read payments, refunds and their timelines.
    ReadPayments,
    /// Read deliveries, attempts and events.
    ReadDeliveries,
    /// Create and confirm payments.
    CreatePayments,
    /// Capture and cancel.
    MovePayments,
    /// Refund.
    Refund,
    /// Settle what needs review.
    Resolve,
    /// Read the audit log.
    ReadAudit,
    /// Endpoints, keys, replays: everything else.
    Administer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use Permission::{
            Administer, CreatePayments, MovePayments, ReadAudit, ReadDeliveries, ReadPayments,
            Refund, Resolve,
        };
        let table = [
            (ReadPayments, [true, true, true, true]),
            (ReadDeliveries, [true, true, false, true]),
            (CreatePayments, [true, false, true, false]),
            (MovePayments, [true, true, true, false]),
            (Refund, [true, true, false, false]),
            (Resolve, [true, true, false, false]),
            (ReadAudit, [true, true, false, false]),
            (Administer, [true, false, false, false]),
        ];
        for (permission, expected) in table {
            assert_eq!(Role::ALL.map(|role| role.may(permission)), expected, "{permission:?}");
        }
    }
}

//! Plans: what each command, answer and finding changes. Pure: `(state, command, ids, now) → (Changes, answer)`.
//! Money moves here and nowhere else.
#![deny(clippy::arithmetic_side_effects)]

mod command;
mod create;
mod evidence;
mod revision;

use std::time::Duration;

use uuid::Uuid;

use crate::access::Caller;
use crate::timestamp::Timestamp;

pub use command::{
    NewCapture, NewRefund, RequestedAmount, Resolution, Resolve, cancel, cancel_fingerprint,
    capture, confirm, expire, refund, resolve,
};
pub use create::{NewPayment, create};
pub use evidence::{Evidence, Timing, apply, dispatch, dispute, probe_again, replay, review};
pub use revision::{Plan, PlanError};

/// Who acts, when, and the ids of what is made: everything a plan takes from the outside.
pub struct Stamp<'a> {
    /// When.
    pub now: Timestamp,
    /// Who.
    pub caller: &'a Caller,
    /// New ids.
    pub ids: &'a mut dyn FnMut() -> Uuid,
}

impl std::fmt::Debug for Stamp<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stamp")
            .field("now", &self.now)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

/// How long a payment waits for the customer or holds an authorization when the caller does not say: a week, as
/// card authorizations last.
pub const EXPIRES_IN_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Shortest wait: less is over before a customer can act.
pub const EXPIRES_IN_MIN: Duration = Duration::from_secs(60);
/// Longest wait: longer than any card scheme holds an authorization.
pub const EXPIRES_IN_MAX: Duration = Duration::from_secs(31 * 24 * 60 * 60);

//! The system clock, read here and nowhere else in this crate. Tests and simulations pass their own time to `verify_at`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since the Unix epoch. A clock before 1970 reads as zero, which makes every message one from the future: it fails closed.
#[expect(
    clippy::disallowed_methods,
    reason = "a receiver without a clock of its own needs the system's; everything below takes the time as an argument"
)]
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

//! Redis's clock, and how tests move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// The clock that delays, leases and limits are judged by: the Redis server's, so that processes whose own clocks differ agree.
///
/// For tests it can be moved forward: everything that was made of one [`Redis`](crate::Redis) shares it. In production nobody moves it.
///
/// ```
/// use std::time::Duration;
/// use pgw_redis::ServerClock;
/// let clock = ServerClock::default();
/// clock.advance(Duration::from_secs(60)); // what is due within a minute is due now
/// ```
#[derive(Debug, Clone, Default)]
pub struct ServerClock(Arc<AtomicI64>);

impl ServerClock {
    /// Moves it forward, for every handle that shares it.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::AcqRel);
    }

    /// By how many microseconds it is ahead of the server's.
    pub(crate) fn offset(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }
}

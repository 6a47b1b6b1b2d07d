//! Simulated time: the runtime's paused clock, and a business clock on top of it that can jump.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::time::Instant;

use crate::env::{Clock, runtime_now};
use crate::timestamp::Timestamp;

/// A clock that goes as the runtime's clock does, from 2026-01-01, and jumps when told to.
///
/// On a runtime with paused time it is wholly deterministic. A clock that is never told to jump is what a
/// backend and a processor judge their own times by.
#[derive(Debug)]
pub struct SimClock {
    started: Instant,
    offset_micros: AtomicI64,
}

impl SimClock {
    /// A clock that starts now. Make it on the runtime whose time it shows.
    #[must_use]
    pub fn start() -> Self {
        Self { started: runtime_now(), offset_micros: AtomicI64::new(0) }
    }

    /// Moves the clock by this many seconds, forwards or backwards, from where it would be otherwise.
    pub fn jump(&self, seconds: i64) {
        self.offset_micros.fetch_add(seconds.saturating_mul(1_000_000), Ordering::Relaxed);
    }

    /// How far it was moved in all, in seconds.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset_micros.load(Ordering::Relaxed) / 1_000_000
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let since = i64::try_from((runtime_now() - self.started).as_micros()).unwrap_or(i64::MAX);
        let offset = self.offset_micros.load(Ordering::Relaxed);
        Timestamp::from_micros(START_MICROS.saturating_add(since).saturating_add(offset))
    }
}

/// 2026-01-01T00:00:00Z.
const START_MICROS: i64 = 1_767_225_600_000_000;

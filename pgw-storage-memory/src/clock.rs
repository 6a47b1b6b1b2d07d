//! The backends' own clock: a given clock that is never seen to go back. What is due is judged elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pgw_core::env::Clock;
use pgw_core::timestamp::Timestamp;

/// A clock that stands still while the clock behind it goes back.
#[derive(Debug)]
pub(crate) struct Monotonic {
    clock: Arc<dyn Clock>,
    latest: AtomicI64,
}

impl Monotonic {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, latest: AtomicI64::new(0) }
    }

    /// The latest time that was seen by anyone.
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.clock.now().as_micros();
        let before = self.latest.fetch_max(now, Ordering::AcqRel);
        Timestamp::from_micros(now.max(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Jumpy(AtomicI64);

    impl Clock for Jumpy {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn it_never_goes_back() {
        let source = Arc::new(Jumpy(AtomicI64::new(50)));
        let clock = Monotonic::new(Arc::clone(&source) as Arc<dyn Clock>);
        let mut seen = Vec::new();
        for micros in [50, 10, 49, 51, 0] {
            source.0.store(micros, Ordering::Relaxed);
            seen.push(clock.now().as_micros());
        }
        assert_eq!(seen, [50, 50, 50, 51, 51]);
    }
}

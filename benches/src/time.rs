//! Real time, which is what a benchmark measures.

use std::time::Duration;

/// A point in real time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(std::time::Instant);

impl Moment {
    /// This one.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    pub fn now() -> Self {
        Self(std::time::Instant::now())
    }

    /// How long ago it was.
    #[must_use]
    pub fn ago(self) -> Duration {
        Self::now().since(self)
    }

    /// How long after another it is; zero when it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    /// So much later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0 + time)
    }

    /// Keeps the thread until then: more exact than a runtime's timer, which counts in milliseconds.
    pub fn wait(self) {
        loop {
            let left = self.since(Self::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }
}

/// The value below which this share of the values lies, from 0 to 1; zero without values.
#[must_use]
pub fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

//! Real time, which is what a benchmark measures.

use std::time::Duration;

/// A point in real time.
#[derive(Debug, Clone, Copy)]
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
        Self::now().0.duration_since(self.0)
    }
}

/// The value below which this share of the values lies, from 0 to 1; zero without values.
#[must_use]
pub fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

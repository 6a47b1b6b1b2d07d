//! An endpoint's health: whether it takes webhooks, and what becomes of it when it does not. Pure.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// How an endpoint has been doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// It takes webhooks, as far as is known.
    #[default]
    Healthy,
    /// It has taken none for a while. Its deliveries are parked for a pause, without spending attempts; after it one is tried at a time.
    Failing {
        /// Since when.
        since: Timestamp,
        /// How many pauses there have been: each is longer than the one before.
        pauses: u32,
    },
}

impl Health {
    /// How long an endpoint may fail before it is disabled: five days.
    pub const FAILING_MAX: Duration = Duration::from_secs(5 * 24 * 60 * 60);
    /// How many attempts in a row fail before an endpoint is paused.
    pub const FAILURES_MAX: u32 = 5;
    /// The first pause: a restart or a deployment is over by then.
    pub const PAUSE_MIN: Duration = Duration::from_secs(5);
    /// The longest pause: an endpoint that works again is found out within this.
    pub const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
    /// The shortest pause that an endpoint may ask for (`Retry-After`): a second.
    pub const ASKED_MIN: Duration = Duration::from_secs(1);
    /// The longest pause that an endpoint may ask for: an hour.
    pub const ASKED_MAX: Duration = Duration::from_secs(60 * 60);

    /// The pause that begins when an endpoint fails once more, and the health it has then; `None`: it has been failing for longer than
    /// [`FAILING_MAX`](Self::FAILING_MAX).
    ///
    /// `asked` is what the endpoint's own answer asked for. `entropy` is a random number, for up to a tenth of jitter, so that workers do
    /// not come back all at once.
    #[must_use]
    pub fn paused(
        self,
        now: Timestamp,
        asked: Option<Duration>,
        entropy: u64,
    ) -> Option<(Self, Duration)> {
        let (since, pauses) = match self {
            Self::Healthy => (now, 0),
            Self::Failing { since, pauses } => (since, pauses),
        };
        if since.plus(Self::FAILING_MAX) <= now {
            return None;
        }
        let pause = match asked {
            // It said when to come back, so it is not taken for worse than it is.
            Some(asked) => {
                return Some((
                    Self::Failing { since, pauses },
                    asked.clamp(Self::ASKED_MIN, Self::ASKED_MAX),
                ));
            }
            None => Self::PAUSE_MIN.saturating_mul(1 << pauses.min(10)).min(Self::PAUSE_MAX),
        };
        let jitter = pause.as_millis().saturating_mul(u128::from(entropy)) / (10 << 64);
        let pause = pause + Duration::from_millis(u64::try_from(jitter).unwrap_or(0));
        Some((Self::Failing { since, pauses: pauses.saturating_add(1) }, pause))
    }

    /// Since when it has been failing.
    #[must_use]
    pub const fn failing_since(self) -> Option<Timestamp> {
        match self {
            Self::Healthy => None,
            Self::Failing { since, .. } => Some(since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    #[test]
    fn pauses_double_up_to_five_minutes_and_jitter_by_a_tenth() {
        let mut health = Health::Healthy;
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            let full = Duration::from_secs(seconds);
            let (_, longest) = health.paused(NOW, None, u64::MAX).expect("it has just begun");
            assert!(full < longest && longest <= full + full / 10, "{longest:?} of {full:?}");
            let (next, pause) = health.paused(NOW, None, 0).expect("it has just begun");
            assert_eq!(pause, full);
            health = next;
        }
        assert_eq!(health, Health::Failing { since: NOW, pauses: 8 });
    }

    #[test]
    fn a_pause_that_was_asked_for_is_bounded_and_makes_the_next_one_no_longer() {
        for (asked, pause) in [(0, 1), (30, 30), (3_600, 3_600), (u64::MAX, 3_600)] {
            let asked = Some(Duration::from_secs(asked));
            let paused = Health::Healthy.paused(NOW, asked, 7);
            let health = Health::Failing { since: NOW, pauses: 0 };
            assert_eq!(paused, Some((health, Duration::from_secs(pause))));
        }
    }

    #[test]
    fn after_five_days_there_are_no_more_pauses() {
        let health = Health::Failing { since: NOW, pauses: 900 };
        let last = NOW.plus(Health::FAILING_MAX).minus(Duration::from_micros(1));
        assert!(health.paused(last, None, 0).is_some());
        assert_eq!(health.paused(NOW.plus(Health::FAILING_MAX), None, 0), None);
        assert_eq!(health.paused(NOW.plus(Health::FAILING_MAX), Some(Duration::ZERO), 0), None);
    }
}

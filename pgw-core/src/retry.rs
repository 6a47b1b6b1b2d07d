//! Retry schedules: how long to wait after each attempt. Pure: jitter comes from a number that the
//! caller draws.
//!
//! When an attempt counts as failed, and what becomes of exhausted work, is decided elsewhere.

use std::time::Duration;

/// How often something is attempted and how long to wait in between.
///
/// ```
/// use std::time::Duration;
/// use pgw_core::retry::RetryPolicy;
/// let policy = RetryPolicy::seed(2);
/// assert_eq!(policy.attempts_max(), 3);
/// assert_eq!(policy.delay(1, 0), Some(Duration::from_secs(2)));
/// assert_eq!(policy.delay(2, 0), Some(Duration::from_secs(4)));
/// assert_eq!(policy.delay(3, 0), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy(Schedule);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Schedule {
    /// `2^n` seconds and up to a tenth more.
    Seed { retries_max: u32 },
    /// From half to all of `base * 2^(n-1)`, which `cap` bounds.
    Exponential { base: Duration, cap: Duration, attempts_max: u32 },
    /// A list, and up to a tenth more.
    Webhooks,
    /// A list as it is.
    Custom(Vec<Duration>),
}

impl RetryPolicy {
    /// The default for webhooks, spaced as Standard Webhooks proposes: ten attempts over more than
    /// 72 hours. Up to a tenth is added to each wait.
    #[must_use]
    pub const fn webhooks_default() -> Self {
        Self(Schedule::Webhooks)
    }

    /// One attempt and `retries_max` more; before the n-th of them a wait of `2^n` seconds and up
    /// to a tenth more. No wait is longer than `2^20` seconds (12 days) and its tenth.
    #[must_use]
    pub const fn seed(retries_max: u32) -> Self {
        Self(Schedule::Seed { retries_max })
    }

    /// `attempts_max` attempts (at least one). The wait doubles from `base` up to `cap`; from half
    /// of it to all of it is waited ("equal jitter").
    #[must_use]
    pub const fn exponential(base: Duration, cap: Duration, attempts_max: u32) -> Self {
        Self(Schedule::Exponential { base, cap, attempts_max })
    }

    /// One attempt, and one more after each of these waits. They are kept exactly, without jitter.
    #[must_use]
    pub const fn custom(delays: Vec<Duration>) -> Self {
        Self(Schedule::Custom(delays))
    }

    /// How many attempts there are in all, at least one.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        let retries = |list: &[Duration]| u32::try_from(list.len()).unwrap_or(u32::MAX);
        match &self.0 {
            Schedule::Seed { retries_max } => retries_max.saturating_add(1),
            Schedule::Exponential { attempts_max, .. } => (*attempts_max).max(1),
            Schedule::Webhooks => retries(&WEBHOOK_DELAYS).saturating_add(1),
            Schedule::Custom(delays) => retries(delays).saturating_add(1),
        }
    }

    /// How long to wait after `attempts_made` attempts, or `None` when there is no further attempt.
    /// Before the first attempt there is nothing to wait for. `entropy` is a random number, new for
    /// each call; the same number gives the same wait.
    #[must_use]
    pub fn delay(&self, attempts_made: u32, entropy: u64) -> Option<Duration> {
        if attempts_made >= self.attempts_max() {
            return None;
        }
        let Some(index) = attempts_made.checked_sub(1) else {
            return Some(Duration::ZERO);
        };
        let listed = |list: &[Duration]| list.get(usize::try_from(index).ok()?).copied();
        match &self.0 {
            Schedule::Seed { .. } => {
                let base = Duration::from_secs(1 << attempts_made.min(SEED_EXPONENT_MAX));
                Some(with_tenth(base, entropy))
            }
            Schedule::Exponential { base, cap, .. } => {
                let factor = 2_u32.checked_pow(index).unwrap_or(u32::MAX);
                let full = base.saturating_mul(factor).min(*cap);
                let half = full / 2;
                Some(half.saturating_add(share(full.saturating_sub(half), entropy)))
            }
            Schedule::Webhooks => listed(&WEBHOOK_DELAYS).map(|base| with_tenth(base, entropy)),
            Schedule::Custom(delays) => listed(delays),
        }
    }
}

/// The duration and up to a tenth of it more.
fn with_tenth(base: Duration, entropy: u64) -> Duration {
    base.saturating_add(share(base / 10, entropy))
}

/// The part of a duration that a random number picks: none of it for 0, all but nothing of it for
/// the largest.
fn share(whole: Duration, entropy: u64) -> Duration {
    let scale = |part: u64| ((u128::from(part) * u128::from(entropy)) >> 64) as u64;
    // Beyond 584 years nanoseconds no longer fit, and nobody minds whole seconds.
    match u64::try_from(whole.as_nanos()) {
        Ok(nanos) => Duration::from_nanos(scale(nanos)),
        Err(_) => Duration::from_secs(scale(whole.as_secs())),
    }
}

/// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h: 75 h 35 min in all.
const WEBHOOK_DELAYS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// Twelve days: a wait beyond it helps nobody, and cannot overflow.
const SEED_EXPONENT_MAX: u32 = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every wait after a failed attempt, with the same entropy.
    fn delays(policy: &RetryPolicy, entropy: u64) -> Vec<Duration> {
        (1..).map_while(|made| policy.delay(made, entropy)).collect()
    }

    #[test]
    fn webhooks_get_ten_attempts_over_more_than_three_days() {
        let policy = RetryPolicy::webhooks_default();
        assert_eq!(policy.attempts_max(), 10);
        for entropy in [0, 1, u64::MAX / 2, u64::MAX] {
            let waits = delays(&policy, entropy);
            assert_eq!(waits.len(), 9);
            let total: Duration = waits.iter().sum();
            assert!(
                total > Duration::from_hours(72) && total < Duration::from_hours(84),
                "{total:?}"
            );
        }
        assert_eq!(policy.delay(0, 7), Some(Duration::ZERO));
        assert_eq!(policy.delay(10, 7), None);
        assert_eq!(policy.delay(u32::MAX, 7), None);
    }

    #[test]
    fn seed_is_powers_of_two() {
        let waits = delays(&RetryPolicy::seed(5), 0);
        assert_eq!(waits, [2, 4, 8, 16, 32].map(Duration::from_secs));
        assert!(delays(&RetryPolicy::seed(0), 0).is_empty());
        assert_eq!(RetryPolicy::seed(0).attempts_max(), 1);
        assert_eq!(RetryPolicy::seed(u32::MAX).attempts_max(), u32::MAX);
        let last = RetryPolicy::seed(u32::MAX).delay(u32::MAX - 1, u64::MAX).expect("one more");
        assert!(last <= Duration::from_secs((1 << 20) + (1 << 20) / 10 + 1));
    }

    #[test]
    fn exponential_is_capped_and_at_least_half() {
        let second = Duration::from_secs(1);
        let policy = RetryPolicy::exponential(second, 10 * second, 6);
        assert_eq!(delays(&policy, 0), [500, 1000, 2000, 4000, 5000].map(Duration::from_millis));
        assert_eq!(RetryPolicy::exponential(second, second, 0).attempts_max(), 1);
        let huge = RetryPolicy::exponential(Duration::MAX, Duration::MAX, u32::MAX);
        assert!(huge.delay(u32::MAX - 1, u64::MAX).is_some_and(|delay| delay >= Duration::MAX / 2));
    }

    #[test]
    fn custom_is_exact() {
        let waits = vec![Duration::from_secs(3), Duration::from_secs(1)];
        let policy = RetryPolicy::custom(waits.clone());
        assert_eq!((policy.attempts_max(), delays(&policy, u64::MAX)), (3, waits));
        assert_eq!(RetryPolicy::custom(Vec::new()).delay(1, 0), None);
    }

    fn any_policy() -> impl Strategy<Value = RetryPolicy> {
        prop_oneof![
            Just(RetryPolicy::webhooks_default()),
            (0_u32..70).prop_map(RetryPolicy::seed),
            (any::<Duration>(), any::<Duration>(), 0_u32..70)
                .prop_map(|(base, cap, max)| RetryPolicy::exponential(base, cap, max)),
            proptest::collection::vec(any::<Duration>(), 0..20).prop_map(RetryPolicy::custom),
        ]
    }

    proptest! {
        #[test]
        fn there_is_a_delay_exactly_while_attempts_are_left(
            policy in any_policy(),
            made in 0_u32..100,
            entropy: u64,
        ) {
            prop_assert_eq!(policy.delay(made, entropy).is_some(), made < policy.attempts_max());
            prop_assert_eq!(policy.delay(made, entropy), policy.delay(made, entropy));
        }

        #[test]
        fn jitter_adds_at_most_a_tenth(made in 1_u32..10, entropy: u64) {
            for policy in [RetryPolicy::webhooks_default(), RetryPolicy::seed(9)] {
                let base = policy.delay(made, 0).expect("nine waits");
                let delay = policy.delay(made, entropy).expect("nine waits");
                prop_assert!(base <= delay && delay <= base + base / 10);
            }
        }

        #[test]
        fn equal_jitter_is_between_half_and_all(
            base in 1_u64..100_000,
            cap in 1_u64..1_000_000,
            made in 1_u32..70,
            entropy: u64,
        ) {
            let (base, cap) = (Duration::from_millis(base), Duration::from_millis(cap));
            let full = base.saturating_mul(2_u32.saturating_pow(made - 1)).min(cap);
            let delay = RetryPolicy::exponential(base, cap, 60).delay(made, entropy);
            prop_assert_eq!(delay.is_some(), made < 60);
            if let Some(delay) = delay {
                prop_assert!(full / 2 <= delay && delay <= full, "{:?} of {:?}", delay, full);
            }
        }

        #[test]
        fn waits_never_shrink_for_the_same_entropy(entropy: u64, base: Duration, cap: Duration) {
            let exponential = RetryPolicy::exponential(base, cap, 70);
            for policy in [RetryPolicy::webhooks_default(), RetryPolicy::seed(70), exponential] {
                prop_assert!(delays(&policy, entropy).is_sorted());
            }
        }
    }
}

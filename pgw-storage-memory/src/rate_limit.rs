//! `MemoryRateLimiter`: the generic cell rate algorithm (GCRA, ITU-T I.371 annex A), one cell stream a key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::{Clock, SystemClock};
use pgw_core::rate_limit::{Admission, Decision, Limit, RateLimitError, RateLimiter};

use crate::clock::Monotonic;
use crate::sync::{Mutex, lock};

/// A rate limiter in this process's memory. Clones count together.
///
/// It admits the quota at once and then one request each time `window / quota` has gone by. By the [`Clock`] it is given, the
/// system's by default, made monotonic.
///
/// When it knows as many keys as it may, it forgets the one whose quota is there again for longest, or else soonest: a
/// caller with that many keys in use at once gets a little more than its quota on some.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use pgw_core::rate_limit::{Admission, Limit, RateLimiter as _};
/// use pgw_storage_memory::MemoryRateLimiter;
/// use std::{num::NonZeroU32, time::Duration};
///
/// let limiter = MemoryRateLimiter::new();
/// let once = Limit { quota: NonZeroU32::MIN, window: Duration::from_secs(3_600) };
/// assert_eq!(limiter.check("ip:192.0.2.7", once).await?.verdict, Admission::Admitted);
/// assert_ne!(limiter.check("ip:192.0.2.7", once).await?.verdict, Admission::Admitted);
/// # Ok::<(), pgw_core::rate_limit::RateLimitError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryRateLimiter(Arc<Shared>);

struct Shared {
    keys: Mutex<Keys>,
    clock: Monotonic,
}

impl MemoryRateLimiter {
    /// Most keys by default: the callers of a busy hour, some tens of megabytes.
    pub const KEYS_MAX_DEFAULT: usize = 100_000;

    /// A limiter without history on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A limiter with other settings.
    pub fn builder() -> MemoryRateLimiterBuilder {
        let clock = Arc::new(SystemClock);
        MemoryRateLimiterBuilder { clock, keys_max: Self::KEYS_MAX_DEFAULT }
    }
}

impl Default for MemoryRateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryRateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the keys, which can be addresses of callers.
        f.debug_struct("MemoryRateLimiter").finish_non_exhaustive()
    }
}

/// Settings of a [`MemoryRateLimiter`].
#[derive(Debug, Clone)]
#[must_use]
pub struct MemoryRateLimiterBuilder {
    clock: Arc<dyn Clock>,
    keys_max: usize,
}

impl MemoryRateLimiterBuilder {
    /// Counts by this clock.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Remembers at most so many keys, at least one.
    pub const fn with_keys_max(mut self, keys_max: usize) -> Self {
        self.keys_max = keys_max;
        self
    }

    /// The limiter, without history.
    #[must_use]
    pub fn build(self) -> MemoryRateLimiter {
        MemoryRateLimiter(Arc::new(Shared {
            keys: Mutex::new(Keys::new(self.keys_max.max(1))),
            clock: Monotonic::new(self.clock),
        }))
    }
}

#[async_trait]
impl RateLimiter for MemoryRateLimiter {
    async fn check(&self, key: &str, limit: Limit) -> Result<Decision, RateLimitError> {
        let now = self.0.clock.now().as_micros().unsigned_abs();
        Ok(lock(&self.0.keys).check(key, limit, u128::from(now)))
    }
}

/// When each key's debt is paid off.
#[derive(Debug)]
struct Keys {
    max: usize,
    paid: BTreeMap<Arc<str>, Debt>,
    /// The same by when it is, so that idle keys are found first.
    by_time: BTreeSet<(u128, Arc<str>)>,
}

/// What a key has yet to wait off. Time is counted in ticks of `1 / quota` µs, in which a request costs exactly `window`: no
/// rounding, whatever the quota.
#[derive(Debug, Clone, Copy)]
struct Debt {
    quota: u128,
    /// When it is paid off, in ticks.
    paid_at: u128,
}

impl Debt {
    /// When it is paid off, in whole µs.
    fn paid_by(self) -> u128 {
        self.paid_at.div_ceil(self.quota)
    }
}

impl Keys {
    const fn new(max: usize) -> Self {
        Self { max, paid: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Asks for one request at a time in µs, never before one that was given earlier.
    fn check(&mut self, key: &str, limit: Limit, now: u128) -> Decision {
        let quota = u128::from(limit.quota.get());
        let window = limit.window.max(WINDOW_MIN).as_micros().min(u128::from(u64::MAX));
        let debt = self.paid.get(key).copied();
        let ticks = now * quota;
        // What is owed under another limit is owed for as long under this one.
        let paid_at = debt.map_or(ticks, |debt| match debt.quota == quota {
            true => debt.paid_at.max(ticks),
            false => debt.paid_by().max(now) * quota,
        });
        let owed = paid_at - ticks;
        let most = quota * window;
        let (verdict, owed) = if owed + window <= most {
            let next = Debt { quota, paid_at: paid_at + window };
            self.remember(key, debt, next, now);
            (Admission::Admitted, owed + window)
        } else {
            let too_much = owed + window - most;
            (Admission::Refused { retry_in: micros(too_much.div_ceil(quota)) }, owed)
        };
        let left = most.saturating_sub(owed) / window;
        Decision {
            verdict,
            remaining: u32::try_from(left).unwrap_or(u32::MAX),
            reset_in: micros(owed.div_ceil(quota)),
        }
    }

    fn remember(&mut self, key: &str, before: Option<Debt>, next: Debt, now: u128) {
        let name = match self.paid.get_key_value(key) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(key),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before.paid_by(), Arc::clone(&name)));
        } else if self.paid.len() >= self.max {
            self.forget_idle(now);
        }
        self.by_time.insert((next.paid_by(), Arc::clone(&name)));
        self.paid.insert(name, next);
    }

    /// Makes room: idle keys, a few at a time, and the one that owes least when there are none.
    fn forget_idle(&mut self, now: u128) {
        for forgotten in 0..IDLE_BATCH {
            let Some((paid_by, _)) = self.by_time.first() else { return };
            if forgotten > 0 && *paid_by > now {
                return;
            }
            if let Some((_, name)) = self.by_time.pop_first() {
                self.paid.remove(&name);
            }
        }
    }
}

fn micros(count: u128) -> Duration {
    Duration::from_micros(u64::try_from(count).unwrap_or(u64::MAX))
}

/// The shortest window there is; see [`Limit::window`].
const WINDOW_MIN: Duration = Duration::from_millis(1);
/// How many idle keys are forgotten together, so that no call takes long.
const IDLE_BATCH: usize = 16;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn limit(quota: u32, window_ms: u64) -> Limit {
        let quota = NonZeroU32::new(quota).expect("not zero");
        Limit { quota, window: Duration::from_millis(window_ms) }
    }

    fn admits(keys: &mut Keys, key: &str, limit: Limit, now: u128) -> bool {
        keys.check(key, limit, now).verdict == Admission::Admitted
    }

    #[test]
    fn decisions_say_what_is_left_and_how_long_to_wait() {
        let (mut keys, limit) = (Keys::new(10), limit(2, 10));
        let expected = [
            (Admission::Admitted, 1, 5),
            (Admission::Admitted, 0, 10),
            (Admission::Refused { retry_in: Duration::from_millis(5) }, 0, 10),
        ];
        for (verdict, remaining, reset_ms) in expected {
            let reset_in = Duration::from_millis(reset_ms);
            assert_eq!(keys.check("a", limit, 0), Decision { verdict, remaining, reset_in });
        }
        assert!(!admits(&mut keys, "a", limit, 4_999));
        assert!(admits(&mut keys, "a", limit, 5_000));
    }

    #[test]
    fn idle_keys_are_forgotten_first() {
        let (mut keys, limit) = (Keys::new(2), limit(1, 10));
        assert!(admits(&mut keys, "busy", limit, 9_000));
        assert!(admits(&mut keys, "idle", limit, 0));
        assert!(admits(&mut keys, "new", limit, 12_000));
        assert!(!admits(&mut keys, "busy", limit, 12_000), "it was forgotten");
        for n in 0..1_000 {
            keys.check(&n.to_string(), limit, 12_000);
            assert!(keys.paid.len() <= 2);
            assert_eq!(keys.paid.len(), keys.by_time.len());
        }
    }

    #[test]
    fn a_changed_limit_keeps_what_is_owed() {
        let mut keys = Keys::new(10);
        assert!(admits(&mut keys, "a", limit(1, 1_000), 0));
        assert!(!admits(&mut keys, "a", limit(3, 1_000), 0), "a second is owed");
        assert!(admits(&mut keys, "a", limit(3, 1_000), 400_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_span_admits_more_than_the_bound(
            quota in 1_u32..50,
            window_ms in 1_u64..5_000,
            gaps in proptest::collection::vec(0_u128..200_000, 1..150),
        ) {
            let (mut keys, limit) = (Keys::new(10), limit(quota, window_ms));
            let (mut now, mut times) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                let decision = keys.check("a", limit, now);
                match decision.verdict {
                    Admission::Admitted => times.push(now),
                    Admission::Refused { retry_in } => {
                        // The wait it names is enough, and no longer than needed.
                        let wait = retry_in.as_micros();
                        prop_assert!(wait > 0 && wait <= limit.window.as_micros());
                    }
                }
                prop_assert!(decision.remaining <= quota);
                prop_assert_eq!(decision.reset_in.is_zero(), false);
            }
            let (quota, window) = (u128::from(quota), limit.window.as_micros());
            for (first, start) in times.iter().enumerate() {
                for (count, end) in (1..).zip(&times[first..]) {
                    prop_assert!(count <= quota + (end - start) * quota / window + 1);
                }
            }
        }

        #[test]
        fn waiting_as_told_is_enough(quota in 1_u32..1_000_000, window_ms in 1_u64..100_000) {
            let (mut keys, limit) = (Keys::new(10), limit(quota, window_ms));
            let quota = u128::from(quota);
            keys.paid.insert("a".into(), Debt { quota, paid_at: quota * limit.window.as_micros() });
            keys.by_time.insert((limit.window.as_micros(), "a".into()));
            let Admission::Refused { retry_in } = keys.check("a", limit, 0).verdict else {
                return Err(proptest::test_runner::TestCaseError::fail("all is owed, so it is refused"));
            };
            prop_assert!(!admits(&mut keys, "a", limit, retry_in.as_micros() - 1));
            prop_assert!(admits(&mut keys, "a", limit, retry_in.as_micros()));
        }
    }
}

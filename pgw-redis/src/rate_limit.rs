//! `RedisRateLimiter`: the generic cell rate algorithm (GCRA, ITU-T I.371 annex A) in one script, exact over any number of processes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::rate_limit::{Admission, Decision, Limit, RateLimitError, RateLimiter};
use redis::Script;

use crate::redis::{Inner, Redis};

/// A rate limiter that every process on one Redis shares.
///
/// It admits the quota at once and then one request each time `window / quota` has gone by, by the server's clock, without rounding. What a
/// key owes is forgotten when it is paid off, so idle keys take no memory. A key's name reaches Redis only as a digest.
///
/// When Redis is away there is no decision: [`RateLimitError::Unavailable`], at once, and the caller's setting says what then. A failover
/// that loses the last writes admits what they had counted once more.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use pgw_core::rate_limit::{Admission, Limit, RateLimiter as _};
/// use pgw_redis::Redis;
/// use std::{num::NonZeroU32, time::Duration};
///
/// let redis = Redis::node("redis://cache.internal").build()?;
/// let limiter = redis.rate_limiter();
/// let hourly = Limit { quota: NonZeroU32::MIN, window: Duration::from_secs(3_600) };
/// assert_eq!(limiter.check("ip:192.0.2.7", hourly).await?.verdict, Admission::Admitted);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RedisRateLimiter(Arc<Inner>);

impl RedisRateLimiter {
    pub(crate) fn new(redis: &Redis) -> Self {
        Self(Arc::clone(&redis.0))
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    async fn check(&self, key: &str, limit: Limit) -> Result<Decision, RateLimitError> {
        let quota = limit.quota.get();
        let window = limit.window.clamp(WINDOW_MIN, WINDOW_MAX).as_micros();
        let mut call = GCRA.key(self.0.namespace.limit(key));
        call.arg(self.0.clock.offset()).arg(quota).arg(u64::try_from(window).unwrap_or(u64::MAX));
        let (admitted, owed, parts): (u8, u64, u64) = self
            .0
            .link
            .run(&call)
            .await
            .map_err(|error| RateLimitError::Unavailable(error.into_source()))?;
        Ok(decision(u128::from(quota), window, admitted == 1, u128::from(owed), u128::from(parts)))
    }
}

/// What follows from what is owed: `owed` whole µs and `parts` of one by the quota.
fn decision(quota: u128, window: u128, admitted: bool, owed: u128, parts: u128) -> Decision {
    // In ticks of 1 / quota µs, in which a request costs exactly the window.
    let ticks = owed * quota + parts;
    let most = quota * window;
    let verdict = if admitted {
        Admission::Admitted
    } else {
        let too_much = (ticks + window).saturating_sub(most);
        Admission::Refused { retry_in: micros(too_much.div_ceil(quota)) }
    };
    let remaining = u32::try_from(most.saturating_sub(ticks) / window).unwrap_or(u32::MAX);
    Decision { verdict, remaining, reset_in: micros(ticks.div_ceil(quota)) }
}

fn micros(count: u128) -> Duration {
    Duration::from_micros(u64::try_from(count).unwrap_or(u64::MAX))
}

/// The shortest window there is; see [`Limit::window`].
const WINDOW_MIN: Duration = Duration::from_millis(1);
/// The longest that is counted by: with it, all numbers in the script are exact.
const WINDOW_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
static GCRA: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/gcra.lua")));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_says_what_is_left_and_how_long_to_wait() {
        // 2 in 10 ms, one of them used: 5 ms are owed.
        let ms = |ms: u128| Duration::from_micros(u64::try_from(ms * 1_000).unwrap());
        let one = decision(2, 10_000, true, 5_000, 0);
        assert_eq!((one.verdict, one.remaining, one.reset_in), (Admission::Admitted, 1, ms(5)));
        let refused = decision(2, 10_000, false, 9_000, 0);
        let retry_in = ms(4);
        assert_eq!(refused.verdict, Admission::Refused { retry_in });
        assert_eq!((refused.remaining, refused.reset_in), (0, ms(9)));
        // 3 in 10 µs: a third of a µs is waited for as a whole one.
        let thirds = decision(3, 10, false, 7, 2);
        assert_eq!(thirds.verdict, Admission::Refused { retry_in: Duration::from_micros(1) });
    }
}

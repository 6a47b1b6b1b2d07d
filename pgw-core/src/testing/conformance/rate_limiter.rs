//! The rate limiter: the bound over every span, refusals that cost nothing, keys of their own.

use std::num::NonZeroU32;
use std::time::Duration;

use super::fixture::RateLimiterFixture;
use super::support::{at_once, secs};
use crate::rate_limit::{Admission, Decision, Limit, RateLimiter};
use crate::testing::sample::Samples;

/// "How many at once": the whole quota is admitted at once.
pub async fn the_quota_is_admitted_at_once(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    for quota in [1, 2, 10, 100] {
        let limit = per_hour(quota);
        for n in 0..quota {
            assert!(
                admitted(&*limiter, &format!("key-{quota}"), limit).await,
                "request {n} of {quota}"
            );
        }
    }
}

/// "Over any span of `elapsed`, at most `quota + ⌊elapsed · quota / window⌋ + 1`": at once, so one more at most.
pub async fn what_exceeds_the_quota_is_refused(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    let limit = per_hour(10);
    let mut count = 0;
    for _ in 0..50 {
        count += u32::from(admitted(&*limiter, "a", limit).await);
    }
    assert!((10..=11).contains(&count), "{count} of 50 were admitted with a quota of 10");
}

/// "Over any span of `elapsed`": whatever the pace of the requests.
pub async fn the_bound_holds_over_every_span(fixture: &dyn RateLimiterFixture) {
    let (limiter, samples) = (fixture.limiter().await, Samples::new(1));
    let limit = Limit { quota: NonZeroU32::new(6).expect("not zero"), window: secs(60) };
    let (mut now, mut times) = (0_u64, Vec::new());
    for _ in 0..300 {
        let random = samples.env().u64();
        if random.is_multiple_of(3) {
            let step = random / 3 % 20;
            fixture.advance(secs(step)).await;
            now += step;
        }
        if admitted(&*limiter, "a", limit).await {
            times.push(now);
        }
    }
    for (first, start) in times.iter().enumerate() {
        for (last, end) in times.iter().enumerate().skip(first) {
            let count = (last - first + 1) as u64;
            // Up to a second of real time may have passed meanwhile.
            let bound = 6 + (end - start + 1) * 6 / 60 + 1;
            assert!(count <= bound, "{count} between {start} s and {end} s, more than {bound}");
        }
    }
    let least = now * 6 / 60 / 2;
    assert!(times.len() as u64 >= least, "only {} in {now} s", times.len());
}

/// "A refused request costs nothing": however many there were, the next one is admitted when it was said.
pub async fn a_refused_request_costs_nothing(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    let limit = per_hour(4);
    let retry_in = exhaust(&*limiter, "a", limit).await;
    for _ in 0..200 {
        assert!(!admitted(&*limiter, "a", limit).await);
    }
    fixture.advance(retry_in).await;
    assert!(admitted(&*limiter, "a", limit).await);
}

/// "When one more would be admitted": then, and well before then not.
pub async fn a_refusal_says_when_to_come_back(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    let limit = per_hour(4);
    let retry_in = exhaust(&*limiter, "a", limit).await;
    assert!(retry_in > Duration::ZERO && retry_in <= limit.window, "{retry_in:?}");
    fixture.advance(retry_in / 2).await;
    let decision = check(&*limiter, "a", limit).await;
    let Admission::Refused { retry_in } = decision.verdict else {
        panic!("half of the wait is over, so it must be refused, got {decision:?}")
    };
    fixture.advance(retry_in).await;
    assert!(admitted(&*limiter, "a", limit).await);
}

/// "How many more could follow at once."
pub async fn remaining_counts_down(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    let limit = per_hour(8);
    let mut before = check(&*limiter, "a", limit).await.remaining;
    assert!((7..=8).contains(&before), "{before} remain after the first of 8");
    while before > 0 {
        let decision = check(&*limiter, "a", limit).await;
        assert_eq!(decision.verdict, Admission::Admitted, "{before} were to remain");
        assert_eq!(decision.remaining, before - 1);
        before = decision.remaining;
    }
    assert!(!admitted(&*limiter, "a", limit).await, "none was to remain");
}

/// "How long until the whole quota is there again."
pub async fn the_whole_quota_is_there_again_after_the_reset(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    let limit = per_hour(5);
    for _ in 0..2 {
        exhaust(&*limiter, "a", limit).await;
        let reset_in = check(&*limiter, "a", limit).await.reset_in;
        fixture.advance(reset_in).await;
        for n in 0..5 {
            assert!(admitted(&*limiter, "a", limit).await, "request {n} after the reset");
        }
    }
}

/// "How many … per window": what was used comes back little by little.
pub async fn the_quota_comes_back_with_time(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    let limit = per_hour(6);
    exhaust(&*limiter, "a", limit).await;
    fixture.advance(limit.window / 2 + secs(60)).await;
    let mut count = 0;
    for _ in 0..20 {
        count += u32::from(admitted(&*limiter, "a", limit).await);
    }
    assert!((3..=4).contains(&count), "{count} of 6 came back in half of the window");
}

/// "Keys are independent", however alike they look.
pub async fn keys_are_independent(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    let limit = per_hour(1);
    let long = "k".repeat(200);
    for key in ["a", "A", "a ", "", "a:b", "{a}", "a\u{0}", "é", "e\u{301}", long.as_str()] {
        assert!(admitted(&*limiter, key, limit).await, "{key:?} pays for another key");
        exhaust(&*limiter, key, limit).await;
    }
}

/// "Over every process that shares the limiter": handles count together.
pub async fn handles_count_together(fixture: &dyn RateLimiterFixture) {
    let (first, second) = (fixture.limiter().await, fixture.limiter().await);
    let limit = per_hour(10);
    let mut count = 0;
    for n in 0..40 {
        let limiter = if n % 2 == 0 { &first } else { &second };
        count += u32::from(admitted(&**limiter, "a", limit).await);
    }
    assert!((10..=11).contains(&count), "{count} of 40 were admitted with a quota of 10");
}

/// The bound holds for any number of callers at once.
pub async fn concurrent_requests_share_the_quota(fixture: &dyn RateLimiterFixture) {
    let limit = per_hour(10);
    let mut limiters = Vec::new();
    for _ in 0..40 {
        limiters.push(fixture.limiter().await);
    }
    let verdicts = at_once(
        limiters.into_iter().map(|limiter| async move { admitted(&*limiter, "a", limit).await }),
    )
    .await;
    let count = verdicts.into_iter().filter(|admitted| *admitted).count();
    assert!((10..=11).contains(&count), "{count} of 40 were admitted with a quota of 10");
}

/// The smallest and the largest limits there are work like any other.
pub async fn limits_at_the_edges_work(fixture: &dyn RateLimiterFixture) {
    let limiter = fixture.limiter().await;
    let edges = [
        (NonZeroU32::MIN, Duration::from_millis(1)),
        (NonZeroU32::MAX, Duration::from_millis(1)),
        (NonZeroU32::MAX, secs(86_400)),
        (NonZeroU32::MIN, secs(86_400 * 365)),
    ];
    for (n, (quota, window)) in edges.into_iter().enumerate() {
        let limit = Limit { quota, window };
        let decision = check(&*limiter, &format!("edge-{n}"), limit).await;
        assert_eq!(decision.verdict, Admission::Admitted, "{limit:?}");
        assert!(decision.reset_in <= window + Duration::from_millis(1), "{limit:?} {decision:?}");
    }
}

async fn check(limiter: &dyn RateLimiter, key: &str, limit: Limit) -> Decision {
    limiter.check(key, limit).await.expect("a healthy limiter answers")
}

async fn admitted(limiter: &dyn RateLimiter, key: &str, limit: Limit) -> bool {
    check(limiter, key, limit).await.verdict == Admission::Admitted
}

/// Asks until refused; how long to wait then.
async fn exhaust(limiter: &dyn RateLimiter, key: &str, limit: Limit) -> Duration {
    for _ in 0..=limit.quota.get().saturating_add(1) {
        if let Admission::Refused { retry_in } = check(limiter, key, limit).await.verdict {
            return retry_in;
        }
    }
    panic!("more than the quota and one were admitted at once")
}

/// A window so long that nothing comes back by itself during a test.
fn per_hour(quota: u32) -> Limit {
    Limit { quota: NonZeroU32::new(quota).expect("not zero"), window: secs(3_600) }
}

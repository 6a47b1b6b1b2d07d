//! Redis goes away and comes back.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use pgw_core::notifier::{Hint, Notifier as _};
use pgw_core::queue::{FallbackQueue, Lane, Queue as _, QueueError, Settlement, Verdict};
use pgw_core::rate_limit::{Limit, RateLimitError, RateLimiter as _};
use pgw_core::testing::sample::Samples;
use pgw_redis::{Redis, RedisError};
use pgw_storage_memory::MemoryQueue;
use servers::Proxy;

use crate::fixtures::{address, back, namespace, next, url};

const LEASE: Duration = Duration::from_secs(60);
const HOURLY: Limit =
    Limit { quota: NonZeroU32::new(1_000).unwrap(), window: Duration::from_secs(3_600) };

struct Faulty {
    proxy: Proxy,
    redis: Redis,
}

impl Faulty {
    fn new() -> Self {
        Self::with_timeout(Duration::from_millis(300))
    }

    fn with_timeout(timeout: Duration) -> Self {
        let proxy = Proxy::start(address(&url("PGW_TEST_REDIS"))).expect("a proxy starts");
        let redis = Redis::node(format!("redis://{}/0", proxy.address()))
            .with_namespace(namespace())
            .with_timeout(timeout)
            .build()
            .expect("it is an address");
        Self { proxy, redis }
    }
}

/// "No timeout", as who sets it says it.
#[tokio::test]
async fn an_answer_may_be_waited_for_for_ever() {
    let redis = Redis::node(url("PGW_TEST_REDIS")).with_namespace(namespace());
    let queue = redis.with_timeout(Duration::MAX).build().expect("it is an address").queue();
    let job = Samples::new(1).job(Lane::Operations);
    queue.push(&[(job.clone(), Duration::ZERO)]).await.expect("it is there");
    let claims = queue.claim(Lane::Operations, 1, Duration::MAX).await.expect("it is there");
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].job, job);
}

/// Everything fails, and says that it is for want of a server.
async fn all_fail(redis: &Redis) {
    let (queue, limiter) = (redis.queue(), redis.rate_limiter());
    let job = [(Samples::new(1).job(Lane::Operations), Duration::ZERO)];
    let away = |failed: bool, what: &str| assert!(failed, "{what} must say that Redis is away");
    away(matches!(queue.push(&job).await, Err(QueueError::Unavailable(_))), "push");
    let claimed = queue.claim(Lane::Operations, 1, LEASE).await;
    away(matches!(claimed, Err(QueueError::Unavailable(_))), "claim");
    away(matches!(queue.depth(Lane::Operations).await, Err(QueueError::Unavailable(_))), "depth");
    let counted = limiter.check("a", HOURLY).await;
    away(matches!(counted, Err(RateLimitError::Unavailable(_))), "check");
}

#[tokio::test]
async fn a_connection_that_was_cut_is_made_again() {
    let mut faulty = Faulty::new();
    let (queue, samples) = (faulty.redis.queue(), Samples::new(1));
    let job = samples.job(Lane::Operations);
    queue.push(&[(job.clone(), Duration::ZERO)]).await.expect("it is there");
    for _ in 0..3 {
        faulty.proxy.cut();
        all_fail(&faulty.redis).await;
        faulty.proxy.heal().expect("the port is still ours");
        back(&faulty.redis).await;
    }
    let claims = queue.claim(Lane::Operations, 9, LEASE).await.expect("it is back");
    assert_eq!(claims.into_iter().map(|claim| claim.job).collect::<Vec<_>>(), [job]);
}

/// Nobody is there from the start: that is no reason not to start.
#[tokio::test]
async fn a_redis_that_was_never_there_is_away_and_comes() {
    let mut faulty = Faulty::new();
    faulty.proxy.cut();
    all_fail(&faulty.redis).await;
    faulty.proxy.heal().expect("the port is still ours");
    back(&faulty.redis).await;
}

/// A server that answers nothing costs one timeout, not one a call: whoever comes after is told at once.
#[tokio::test]
async fn silence_costs_one_timeout() {
    let mut faulty = Faulty::new();
    faulty.redis.check().await.expect("it is there");
    faulty.proxy.half_open();
    assert!(matches!(faulty.redis.check().await, Err(RedisError::TimedOut(_))));
    for _ in 0..100 {
        assert!(matches!(faulty.redis.check().await, Err(RedisError::Away(_))));
    }
    faulty.proxy.heal().expect("it was open");
    back(&faulty.redis).await;
}

/// Slow is not away.
#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let faulty = Faulty::with_timeout(Duration::from_secs(30));
    faulty.proxy.delay(Duration::from_millis(40));
    for _ in 0..5 {
        faulty.redis.check().await.expect("it is there");
    }
}

#[tokio::test]
async fn a_subscription_outlives_the_connection_and_says_that_hints_are_missing() {
    let mut faulty = Faulty::new();
    let (ours, mut hints) = (faulty.redis.notifier(), None);
    for round in 0..3 {
        let hints: &mut Box<dyn pgw_core::notifier::Subscription> = match &mut hints {
            Some(hints) => hints,
            none => none.insert(ours.subscribe().await.expect("it is there")),
        };
        if round % 2 == 0 {
            faulty.proxy.cut();
        } else {
            faulty.proxy.half_open();
        }
        faulty.proxy.heal().expect("the port is still ours");
        assert_eq!(next(hints).await, Hint::Missed, "round {round}");
    }
}

/// Hints of one process reach its own subscribers while Redis is away.
#[tokio::test]
async fn hints_within_a_process_need_no_redis() {
    let mut faulty = Faulty::new();
    faulty.proxy.cut();
    let notifier = faulty.redis.notifier();
    let mut hints = notifier.subscribe().await.expect("it never fails");
    notifier.publish(&[Hint::Events, Hint::Stamped]).await.expect("it never fails");
    assert_eq!((next(&mut hints).await, next(&mut hints).await), (Hint::Events, Hint::Stamped));
}

/// Jobs are claimed from the rows while Redis is away, each claim is settled where it is from, and then Redis is used again.
#[tokio::test]
async fn jobs_are_claimed_from_the_rows_while_redis_is_away() {
    let mut faulty = Faulty::new();
    let rows = MemoryQueue::new();
    let queue = FallbackQueue::new(Arc::new(faulty.redis.queue()), Arc::new(rows.clone()));
    let samples = Samples::new(2);
    let [in_redis, in_rows, later] = [(); 3].map(|()| samples.job(Lane::Operations));
    let claim =
        async || queue.claim(Lane::Operations, 9, LEASE).await.expect("one of them is there");
    let settle = async |claim, verdict| {
        let held = queue.settle(&[Settlement { claim, verdict }]).await;
        held.expect("one of them is there")[0]
    };

    queue.push(&[(in_redis.clone(), Duration::ZERO)]).await.expect("it is there");
    let first = claim().await.remove(0);
    assert_eq!(first.job, in_redis);

    faulty.proxy.cut();
    rows.push(&[(in_rows.clone(), Duration::ZERO)]).await.expect("there is room");
    let second = claim().await.remove(0);
    assert_eq!(second.job, in_rows);
    assert_eq!(
        queue.extend(std::slice::from_ref(&second), LEASE).await.expect("the rows are there"),
        [true]
    );
    assert!(!settle(first.clone(), Verdict::Done).await, "it is Redis's, which is away");

    faulty.proxy.heal().expect("the port is still ours");
    back(&faulty.redis).await;
    let held = queue.extend(&[first.clone(), second.clone()], LEASE).await.expect("both are there");
    assert_eq!(held, [true, true], "each is found where it is held");
    assert!(settle(second.clone(), Verdict::Done).await);
    assert!(!settle(second, Verdict::Done).await, "it was settled");
    assert!(settle(first, Verdict::Release { due_in: Duration::ZERO }).await);
    queue.push(&[(later.clone(), Duration::ZERO)]).await.expect("it is back");
    let mut jobs: Vec<_> = claim().await.into_iter().map(|claim| claim.job).collect();
    jobs.sort();
    let mut expected = vec![in_redis, later];
    expected.sort();
    assert_eq!(jobs, expected, "what is claimed is Redis's again");
}

/// Killed and started again, it is empty and has never heard of a script.
#[tokio::test]
async fn a_server_that_was_killed_is_used_again() {
    let mut server = servers::Redis::builder().start().expect("a server starts");
    let redis = Redis::node(server.url()).build().expect("it is an address");
    let (queue, samples) = (redis.queue(), Samples::new(3));
    let job = [(samples.job(Lane::Operations), Duration::ZERO)];
    queue.push(&job).await.expect("it is there");
    server.kill().expect("it is ours");
    all_fail(&redis).await;
    server.restart().expect("it starts again");
    back(&redis).await;
    assert_eq!(queue.restore(&job).await.expect("it is back"), Some(1), "it was lost");
    assert_eq!(queue.claim(Lane::Operations, 9, LEASE).await.expect("it is back").len(), 1);
}

/// The runtime that connected is gone: whoever calls from another one connects anew.
#[test]
fn a_runtime_that_ended_takes_nothing_with_it() {
    let faulty = Faulty::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(faulty.redis.check()).expect("it is there");
    runtime().block_on(async {
        // The old connection's task is gone, which the first call finds out.
        if faulty.redis.check().await.is_err() {
            back(&faulty.redis).await;
        }
    });
}

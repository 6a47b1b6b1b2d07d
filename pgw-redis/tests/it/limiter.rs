//! The limiter: exact over many callers, and gone when its time is over.

use std::num::NonZeroU32;
use std::time::Duration;

use pgw_core::env::Env;
use pgw_core::rate_limit::{Admission, Limit, RateLimiter as _};
use pgw_redis::{Redis, RedisRateLimiter};

use crate::fixtures::{cluster, namespace, url};

async fn is_admitted(limiter: &RedisRateLimiter, key: &str, limit: Limit) -> bool {
    let decision = limiter.check(key, limit).await.expect("it is there");
    decision.verdict == Admission::Admitted
}

/// Eight runtimes with connections of their own, as eight processes are, ask at once for a second: no more are admitted than the quota, what
/// came back meanwhile, and one.
#[test]
fn eight_that_ask_at_once_share_one_quota() {
    let limit = Limit { quota: NonZeroU32::new(50).unwrap(), window: Duration::from_secs(1) };
    let namespace = namespace();
    let env = Env::system();
    let began = env.now();
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let redis = Redis::node(url("PGW_TEST_REDIS")).with_namespace(&namespace);
            let limiter = redis.build().expect("it is an address").rate_limiter();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime starts").block_on(async {
                    let mut admitted = 0;
                    for _ in 0..2_000 {
                        admitted += u128::from(is_admitted(&limiter, "ip:192.0.2.7", limit).await);
                    }
                    admitted
                })
            })
        })
        .collect();
    let admitted: u128 = askers.into_iter().map(|asker| asker.join().expect("it ends")).sum();
    let elapsed = env.now().since(began);
    let (quota, window) = (u128::from(limit.quota.get()), limit.window.as_micros());
    let most = quota + elapsed.as_micros() * quota / window + 1;
    assert!((quota..=most).contains(&admitted), "{admitted} of at most {most} in {elapsed:?}");
}

/// What is paid off is forgotten by Redis itself.
#[tokio::test]
async fn an_idle_key_takes_no_memory() {
    let namespace = namespace();
    let redis = Redis::node(url("PGW_TEST_REDIS")).with_namespace(&namespace).build().unwrap();
    let limit = Limit { quota: NonZeroU32::new(2).unwrap(), window: Duration::from_secs(100) };
    assert!(is_admitted(&redis.rate_limiter(), "a", limit).await);
    let client = ::redis::Client::open(url("PGW_TEST_REDIS")).expect("it is an address");
    let mut client = client.get_multiplexed_async_connection().await.expect("it is there");
    let mut keys = ::redis::cmd("KEYS");
    keys.arg(format!("pgw:{{{namespace}:limit:*"));
    let keys: Vec<String> = keys.query_async(&mut client).await.expect("it is there");
    assert_eq!(keys.len(), 1);
    let mut ttl = ::redis::cmd("PTTL");
    let left: i64 = ttl.arg(&keys[0]).query_async(&mut client).await.expect("it is there");
    assert!((1..=50_001).contains(&left), "half of the window is owed, not {left} ms");
}

/// Over all the slots of a Cluster, keys are counted one by one.
#[tokio::test]
async fn keys_are_spread_over_a_cluster() {
    let redis = Redis::cluster(cluster()).with_namespace(namespace()).build().unwrap();
    let limiter = redis.rate_limiter();
    let once = Limit { quota: NonZeroU32::MIN, window: Duration::from_secs(3_600) };
    for n in 0..50 {
        let key = format!("ip:192.0.2.{n}");
        assert!(is_admitted(&limiter, &key, once).await, "{key}");
        assert!(!is_admitted(&limiter, &key, once).await, "{key}");
    }
}

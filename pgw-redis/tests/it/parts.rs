//! A lane in several parts.

use std::num::NonZeroU16;
use std::time::Duration;

use pgw_core::queue::{Job, Lane, Queue as _};
use pgw_core::testing::sample::Samples;
use pgw_redis::{Redis, RedisQueue, ServerClock};

use crate::fixtures::{cluster, namespace, url};

const LEASE: Duration = Duration::from_secs(60);

fn parts(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("not none")
}

async fn claim(queue: &RedisQueue, max: usize) -> Vec<Job> {
    let claims = queue.claim(Lane::Operations, max, LEASE).await.expect("it is there");
    claims.into_iter().map(|claim| claim.job).collect()
}

/// What is due at the same time in many parts comes a few calls later, and all of it: nothing waits for another part to be empty.
#[tokio::test]
async fn every_part_is_claimed_from() {
    let redis = Redis::cluster(cluster()).with_namespace(namespace()).build().expect("addresses");
    let (queue, samples) = (redis.queue(), Samples::new(1));
    let mut jobs: Vec<Job> = (0..500).map(|_| samples.job(Lane::Operations)).collect();
    let due: Vec<_> = jobs.iter().map(|job| (job.clone(), Duration::ZERO)).collect();
    assert_eq!(queue.restore(&due).await.expect("there is room"), Some(500));
    let mut given = Vec::new();
    for _ in 0..50 {
        let some = claim(&queue, 10).await;
        assert_eq!(some.len(), 10);
        given.extend(some);
    }
    given.sort();
    jobs.sort();
    assert_eq!(given, jobs);
}

/// "In the order they are due … within 100 ms", however the jobs are spread.
#[tokio::test]
async fn jobs_of_all_parts_are_claimed_in_the_order_they_are_due() {
    let clock = ServerClock::default();
    let redis = Redis::node(url("PGW_TEST_REDIS"))
        .with_namespace(namespace())
        .with_shards(parts(7))
        .with_clock(clock.clone())
        .build()
        .expect("it is an address");
    let (queue, samples) = (redis.queue(), Samples::new(2));
    let jobs: Vec<Job> = (0..60).map(|_| samples.job(Lane::Operations)).collect();
    let delays = (0..).map(|n| Duration::from_secs(60 - n));
    let due: Vec<_> = jobs.iter().cloned().zip(delays).collect();
    queue.push(&due).await.expect("there is room");
    clock.advance(LEASE * 2);
    let mut given = Vec::new();
    for max in [1, 2, 17, 40] {
        given.extend(claim(&queue, max).await);
    }
    given.reverse();
    assert_eq!(given, jobs);
}

/// Processes that divide it otherwise have a queue of their own, and a push of what is due puts the jobs there too.
#[tokio::test]
async fn another_division_is_another_queue() {
    let namespace = namespace();
    let queue = |count| {
        let redis = Redis::node(url("PGW_TEST_REDIS")).with_namespace(&namespace);
        redis.with_shards(parts(count)).build().expect("it is an address").queue()
    };
    let (old, new, samples) = (queue(2), queue(3), Samples::new(3));
    let job = [(samples.job(Lane::Operations), Duration::ZERO)];
    old.push(&job).await.expect("there is room");
    assert_eq!(claim(&new, 9).await, []);
    assert_eq!(new.restore(&job).await.expect("there is room"), Some(1));
    assert_eq!(claim(&new, 9).await.len(), 1);
}

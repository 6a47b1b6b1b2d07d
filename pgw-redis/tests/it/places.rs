//! Where Redis is, and how it is reached: passwords, users, TLS, Sentinels, a Cluster that fails over.

use std::time::Duration;

use pgw_core::env::Env;
use pgw_core::notifier::{Hint, Notifier as _};
use pgw_core::queue::{Lane, Queue as _, Settlement, Verdict};
use pgw_core::testing::sample::Samples;
use pgw_redis::{Redis, RedisConfigError, RedisError};
use servers::{RedisCluster, RedisSentinel};

use crate::fixtures::{back, cluster, next, url};

const LEASE: Duration = Duration::from_secs(60);

/// Queue, notifier and limiter all work there.
async fn works(redis: &Redis) {
    let (queue, samples) = (redis.queue(), Samples::new(1));
    let job = samples.job(Lane::Operations);
    queue.push(&[(job.clone(), Duration::ZERO)]).await.expect("it is there");
    let claim = queue.claim(Lane::Operations, 9, LEASE).await.expect("it is there").remove(0);
    assert_eq!(claim.job, job);
    let done = [Settlement { claim, verdict: Verdict::Done }];
    assert_eq!(queue.settle(&done).await.expect("it is there"), [true]);
    let (from, to) = (redis.notifier(), redis.notifier());
    let mut hints = to.subscribe().await.expect("it is there");
    from.publish(&[Hint::Stamped]).await.expect("it is there");
    assert_eq!(next(&mut hints).await, Hint::Stamped);
}

#[tokio::test]
async fn a_password_opens() {
    let server = servers::Redis::builder().with_password("pa:ss/w@rd").start();
    let server = server.expect("a server starts");
    let address = format!("redis://{}/0", server.address());
    let with = |password| Redis::node(&address).with_credentials(None, password).build().unwrap();
    works(&with("pa:ss/w@rd")).await;
    works(&Redis::node(server.url()).build().unwrap()).await;
    with("wrong").check().await.expect_err("it is wrong");
    Redis::node(&address).build().unwrap().check().await.expect_err("there is none");
}

#[tokio::test]
async fn a_user_of_an_acl_is_enough() {
    let server = servers::Redis::builder().with_user("app", "secret").start();
    let server = server.expect("a server starts");
    let address = format!("redis://{}/0", server.address());
    let with = |password| Redis::node(&address).with_credentials(Some("app"), password).build();
    works(&with("secret").unwrap()).await;
    let told = with("wrong").unwrap().check().await.expect_err("it is wrong");
    let reason = std::error::Error::source(&told).map(ToString::to_string);
    assert!(matches!(told, RedisError::Away(_)) && reason.is_some(), "{told:?}");
    assert!(!format!("{told:?} {reason:?}").contains("wrong\""), "{told:?}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_checks_who_is_there() {
    let server = servers::Redis::builder().with_tls().start().expect("a server starts");
    let authority = std::fs::read(server.authority().expect("it has one")).expect("a file");
    let trusting = Redis::node(server.url()).with_root_certificate(authority).build().unwrap();
    works(&trusting).await;
    // The system's roots do not know it.
    let strict = Redis::node(server.url()).build().unwrap();
    strict.check().await.expect_err("nobody vouches for it");
    let plain = Redis::node(format!("redis://{}/0", server.address())).build().unwrap();
    plain.check().await.expect_err("it speaks TLS only");
}

#[cfg(not(feature = "tls"))]
#[test]
fn without_tls_its_urls_are_refused() {
    let refused = Redis::node("rediss://cache.internal").build();
    assert!(matches!(refused, Err(RedisConfigError::Address(_))), "{refused:?}");
}

#[test]
fn what_is_no_address_is_refused_without_repeating_it() {
    let refused = Redis::node("http://user:hunter2@host").build().expect_err("it is none");
    let told = format!("{refused} {refused:?}");
    assert!(matches!(refused, RedisConfigError::Address(_)), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let none = Redis::cluster(Vec::<String>::new()).build();
    assert!(matches!(none, Err(RedisConfigError::NoAddress)));
    let bad = Redis::node("redis://host").with_namespace("a{b}").build();
    assert!(matches!(bad, Err(RedisConfigError::Namespace)));
}

#[test]
fn no_debug_text_has_the_password() {
    let builder = Redis::node("redis://app:hunter2@host").with_credentials(None, "hunter3");
    let redis = builder.clone().build().expect("it is an address");
    let told = format!(
        "{builder:?} {redis:?} {:?} {:?} {:?}",
        redis.queue(),
        redis.notifier(),
        redis.rate_limiter()
    );
    assert!(!told.contains("hunter"), "{told}");
}

/// The master is killed, a replica takes over, and nobody is told where: the Sentinels are asked.
#[tokio::test(flavor = "multi_thread")]
async fn sentinels_say_who_is_in_charge() {
    let mut servers = RedisSentinel::start().expect("servers start");
    let redis = Redis::sentinel(servers.urls(), RedisSentinel::MASTER).build().expect("addresses");
    works(&redis).await;
    servers.kill(0).expect("it is ours");
    redis.check().await.expect_err("its master is dead");
    servers.wait_failover(0).expect("a replica takes over");
    back(&redis).await;
    works(&redis).await;
}

/// A master of a Cluster is killed, its replica takes over, and the queue goes on in all its parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_fails_over() {
    let mut servers = RedisCluster::builder().with_replicas().start().expect("servers start");
    let redis = Redis::cluster(servers.urls()).build().expect("addresses");
    works(&redis).await;
    let mut hints = redis.notifier().subscribe().await.expect("it is there");
    servers.kill(0).expect("it is ours");
    servers.wait_failover(0).expect("its replica takes over");
    let (queue, samples) = (redis.queue(), Samples::new(2));
    let mut jobs: Vec<_> = (0..100).map(|_| samples.job(Lane::Operations)).collect();
    let due: Vec<_> = jobs.iter().map(|job| (job.clone(), Duration::ZERO)).collect();
    let pushed = async {
        while queue.push(&due).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), pushed).await.expect("it goes on");
    let mut given = Vec::new();
    let all = async {
        while given.len() < jobs.len() {
            if let Ok(claims) = queue.claim(Lane::Operations, 100, LEASE).await {
                given.extend(claims.into_iter().map(|claim| claim.job));
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("it goes on");
    given.sort();
    jobs.sort();
    assert_eq!(given, jobs);
    assert_eq!(next(&mut hints).await, Hint::Missed, "the connection that listens was made anew");
}

/// One node answers for itself, a Cluster by each of its masters; all of them are new enough, and none drops keys.
#[tokio::test]
async fn nodes_say_what_they_are() {
    let node = Redis::node(url("PGW_TEST_REDIS")).build().expect("it is an address");
    let masters = Redis::cluster(cluster()).build().expect("addresses");
    for (redis, count) in [(node, 1), (masters, 3)] {
        let before = Env::system().now();
        let nodes = redis.info().await.expect("it is there");
        assert_eq!(nodes.len(), count, "{nodes:?}");
        for node in nodes {
            assert!(node.major_version() >= Some(6), "{node:?}");
            assert!(node.used_memory_bytes > 0, "{node:?}");
            assert_eq!((node.maxmemory_bytes, &*node.maxmemory_policy), (None, "noeviction"));
            // On the same machine, whose clock it tells from before or after the answer was asked for.
            let clock = node.clock.expect("it says");
            assert!(clock.since(before) < LEASE && before.since(clock) < LEASE, "{clock} {before}");
        }
    }
}

/// What `deploy/README.md` gives a user.
const RIGHTS: &str = "on >secret ~pgw:* &pgw:* +@all -@admin -@dangerous";

/// What a user must be allowed, as `deploy/README.md` has it. Who may not ask what a node is is told so, and everything else works.
#[tokio::test]
async fn few_rights_are_enough() {
    let server = servers::Redis::builder()
        .with_setting("user", format!("app {RIGHTS} +info"))
        .with_setting("user", format!("mute {RIGHTS}"))
        .start()
        .expect("a server starts");
    let address = format!("redis://{}/0", server.address());
    let by = |user| Redis::node(&address).with_credentials(Some(user), "secret").build().unwrap();
    works(&by("app")).await;
    by("app").info().await.expect("it may ask");
    let mute = by("mute");
    works(&mute).await;
    let told = mute.info().await.expect_err("it may not");
    assert!(matches!(told, RedisError::Failed(_)), "{told}");
    mute.check().await.expect("it is there all the same");
}

#[tokio::test]
async fn the_same_rights_are_enough_on_a_cluster() {
    for url in cluster() {
        let client = ::redis::Client::open(url).expect("it is an address");
        let mut client = client.get_multiplexed_async_connection().await.expect("it is there");
        let mut acl = ::redis::cmd("ACL");
        acl.arg("SETUSER").arg("few-rights").arg(RIGHTS.split(' ').collect::<Vec<_>>());
        let _: () = acl.arg("+info").query_async(&mut client).await.expect("it is there");
    }
    let redis = Redis::cluster(cluster())
        .with_credentials(Some("few-rights"), "secret")
        .with_namespace("few-rights")
        .build()
        .expect("addresses");
    works(&redis).await;
    assert_eq!(redis.info().await.expect("it may ask").len(), 3);
}

/// A process that is about to end waits until others have heard, and not for a Redis that is away.
#[tokio::test]
async fn hints_go_out_before_the_end() {
    let redis = || Redis::node(url("PGW_TEST_REDIS")).with_namespace("goes-out").build().unwrap();
    let mut hints = redis().notifier().subscribe().await.expect("it is there");
    let notifier = redis().notifier();
    notifier.publish(&[Hint::Stamped]).await.expect("it is there");
    notifier.sent().await;
    drop(notifier);
    assert_eq!(next(&mut hints).await, Hint::Stamped);
    let away = Redis::node("redis://127.0.0.1:1").build().expect("it is an address").notifier();
    away.publish(&[Hint::Stamped]).await.expect("nobody is told");
    away.sent().await;
}

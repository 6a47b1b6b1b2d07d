//! Redis loses what it holds, in whole or in part: a push of what is due puts it right.

use std::time::Duration;

use pgw_core::event::EventType;
use pgw_core::id::DeliveryId;
use pgw_core::queue::{Job, Lane, PER_ENDPOINT_MAX, Queue as _, QueueError, Settlement, Verdict};
use pgw_core::testing::sample::Samples;
use pgw_redis::{Redis, RedisQueue, ServerClock};

use crate::fixtures::{namespace, url};

const LEASE: Duration = Duration::from_secs(60);
/// More than one endpoint is given.
const ALL: usize = 2 * PER_ENDPOINT_MAX;

struct Lossy {
    redis: Redis,
    clock: ServerClock,
    namespace: String,
    /// What looks at the keys from outside.
    client: ::redis::aio::MultiplexedConnection,
}

impl Lossy {
    async fn new() -> Self {
        let (clock, namespace) = (ServerClock::default(), namespace());
        let redis = Redis::node(url("PGW_TEST_REDIS"))
            .with_namespace(&namespace)
            .with_clock(clock.clone())
            .build()
            .expect("it is an address");
        let client = ::redis::Client::open(url("PGW_TEST_REDIS")).expect("it is an address");
        let client = client.get_multiplexed_async_connection().await.expect("it is there");
        Self { redis, clock, namespace, client }
    }

    async fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> = ::redis::cmd("KEYS")
            .arg(format!("pgw:{{{}:*", self.namespace))
            .query_async(&mut self.client)
            .await
            .expect("it is there");
        keys.sort();
        keys
    }

    async fn evict(&mut self, key: &str) {
        let gone: u64 =
            ::redis::cmd("DEL").arg(key).query_async(&mut self.client).await.expect("it is there");
        assert_eq!(gone, 1, "{key}");
    }
}

async fn claimed(queue: &RedisQueue, lane: Lane) -> Vec<Job> {
    let mut jobs = Vec::new();
    loop {
        let claims = queue.claim(lane, 100, LEASE).await.expect("it is there");
        if claims.is_empty() {
            jobs.sort();
            return jobs;
        }
        jobs.extend(claims.into_iter().map(|claim| claim.job));
    }
}

/// Jobs in every state, of which each of the keys holds something.
async fn fill(lossy: &Lossy, lane: Lane, samples: &Samples) -> Vec<Job> {
    let queue = lossy.redis.queue();
    let mut jobs: Vec<Job> = (0..5).map(|_| samples.job(lane)).collect();
    for job in &jobs[..2] {
        queue.push(&[(job.clone(), Duration::ZERO)]).await.expect("there is room");
    }
    // One held, one lost to its lease, then one waiting, one due later, one due since it was due later.
    assert_eq!(queue.claim(lane, 1, LEASE * 10).await.expect("it is there").len(), 1);
    assert_eq!(queue.claim(lane, 1, Duration::from_secs(1)).await.expect("it is there").len(), 1);
    queue.push(&[(jobs[3].clone(), Duration::from_secs(5))]).await.expect("there is room");
    lossy.clock.advance(Duration::from_secs(10));
    queue.push(&[(jobs[2].clone(), Duration::ZERO)]).await.expect("there is room");
    queue.push(&[(jobs[4].clone(), LEASE * 100)]).await.expect("there is room");
    jobs.sort();
    jobs
}

#[tokio::test]
async fn any_key_may_be_evicted() {
    for lane in Lane::ALL {
        let mut lossy = Lossy::new().await;
        let samples = Samples::new(1);
        fill(&lossy, lane, &samples).await;
        for key in lossy.keys().await {
            let queue = lossy.redis.queue();
            queue.clear().await.expect("it is there");
            let jobs = fill(&lossy, lane, &samples).await;
            lossy.evict(&key).await;
            // As the reaper does, which knows only that their rows are due.
            let due: Vec<_> = jobs.iter().map(|job| (job.clone(), Duration::ZERO)).collect();
            queue.restore(&due).await.expect("there is room");
            // By then the one that was held may be held still.
            lossy.clock.advance(LEASE * 20);
            assert_eq!(claimed(&queue, lane).await, jobs, "without {key}");
            // What still names a lost job as due later ends when that comes.
            lossy.clock.advance(LEASE * 100);
            assert_eq!(queue.claim(lane, 1, LEASE).await.expect("it is there").len(), 1);
            let depth = queue.depth(lane).await.expect("it is there");
            assert_eq!(depth.delayed, 0, "without {key}");
        }
    }
}

#[tokio::test]
async fn what_was_cleared_is_pushed_again() {
    let lossy = Lossy::new().await;
    let (queue, samples) = (lossy.redis.queue(), Samples::new(2));
    let jobs = fill(&lossy, Lane::Deliveries, &samples).await;
    queue.clear().await.expect("it is there");
    assert_eq!(queue.depth(Lane::Deliveries).await.expect("it is there"), Default::default());
    let due: Vec<_> = jobs.iter().map(|job| (job.clone(), Duration::ZERO)).collect();
    assert_eq!(queue.restore(&due).await.expect("there is room"), Some(jobs.len()));
    assert_eq!(claimed(&queue, Lane::Deliveries).await, jobs);
}

/// A claim of before the loss says no more than that it is gone: what was claimed anew since is its new holder's.
#[tokio::test]
async fn a_claim_from_before_a_loss_ends_nothing() {
    let lossy = Lossy::new().await;
    let (queue, samples) = (lossy.redis.queue(), Samples::new(3));
    let due = [(samples.job(Lane::Operations), Duration::ZERO)];
    queue.push(&due).await.expect("there is room");
    let old = queue.claim(Lane::Operations, 1, LEASE).await.expect("it is there").remove(0);
    queue.clear().await.expect("it is there");
    let settlement = Settlement { claim: old, verdict: Verdict::Done };
    let settle =
        || async { queue.settle(std::slice::from_ref(&settlement)).await.expect("it is there") };
    assert_eq!(settle().await, [false]);
    queue.push(&due).await.expect("there is room");
    let new = queue.claim(Lane::Operations, 1, LEASE).await.expect("it is there").remove(0);
    assert_eq!(settle().await, [false]);
    assert_eq!(queue.extend(&[new], LEASE).await.expect("it is there"), [true]);
}

#[tokio::test]
async fn buried_jobs_are_told_with_the_reason() {
    let lossy = Lossy::new().await;
    let (queue, samples) = (lossy.redis.queue(), Samples::new(4));
    let job = samples.job(Lane::Operations);
    queue.push(&[(job.clone(), Duration::ZERO)]).await.expect("there is room");
    for _ in 0..RedisQueue::CLAIMS_MAX {
        let claim = queue.claim(Lane::Operations, 1, LEASE).await.expect("it is there").remove(0);
        let verdict = Verdict::Release { due_in: Duration::ZERO };
        assert_eq!(queue.settle(&[Settlement { claim, verdict }]).await.expect("there"), [true]);
    }
    assert_eq!(queue.claim(Lane::Operations, 1, LEASE).await.expect("it is there"), []);
    let reason: Box<str> = "claimed 1000 times and never done".into();
    let buried = queue.buried(Lane::Operations, 10).await.expect("it is there");
    assert_eq!(buried, [(job, reason)]);
}

/// Jobs whose state was evicted while they were held, and that were done, are not counted for ever.
#[tokio::test]
async fn what_names_a_lost_job_ends_with_its_lease() {
    for lane in Lane::ALL {
        let mut lossy = Lossy::new().await;
        let (queue, samples) = (lossy.redis.queue(), Samples::new(8));
        queue.push(&[(samples.job(lane), Duration::ZERO)]).await.expect("there is room");
        let claim = queue.claim(lane, 1, LEASE).await.expect("it is there").remove(0);
        let prefix = format!("pgw:{{{}:{}:0of1}}:", lossy.namespace, lane.as_str());
        lossy.evict(&format!("{prefix}jobs")).await;
        let done = [Settlement { claim, verdict: Verdict::Done }];
        assert_eq!(queue.settle(&done).await.expect("it is there"), [false]);
        lossy.clock.advance(LEASE * 2);
        assert_eq!(queue.claim(lane, 1, LEASE).await.expect("it is there"), []);
        assert_eq!(queue.depth(lane).await.expect("it is there"), Default::default(), "{lane:?}");
    }
}

/// An endpoint whose holders were evicted does not stay full for ever.
#[tokio::test]
async fn shares_of_nobody_are_free_again() {
    let mut lossy = Lossy::new().await;
    let (queue, samples) = (lossy.redis.queue(), Samples::new(7));
    let endpoint = samples.endpoint_for(&["test.ping"]).id;
    let mut due = Vec::new();
    for _ in 0..=PER_ENDPOINT_MAX {
        let event = samples.event(EventType::TestPing).id;
        let (scope, delivery) = (samples.scope().clone(), DeliveryId::new(event, endpoint));
        due.push((Job::Delivery { scope, delivery }, Duration::ZERO));
    }
    queue.push(&due).await.expect("there is room");
    let claim =
        async || queue.claim(Lane::Deliveries, ALL, LEASE).await.expect("it is there").len();
    assert_eq!((claim().await, claim().await), (PER_ENDPOINT_MAX, 0));
    let prefix = format!("pgw:{{{}:deliveries:0of1}}:", lossy.namespace);
    for part in ["jobs", "held"] {
        lossy.evict(&format!("{prefix}{part}")).await;
    }
    assert_eq!(queue.restore(&due).await.expect("there is room"), Some(due.len()));
    // One that has work all the time, so that no claim comes back empty.
    let mut given = 0;
    for _ in 0..100 {
        let event = samples.event(EventType::TestPing).id;
        let other = DeliveryId::new(event, samples.endpoint_for(&["test.ping"]).id);
        let job = Job::Delivery { scope: samples.scope().clone(), delivery: other };
        queue.push(&[(job, Duration::ZERO)]).await.expect("there is room");
        given += claim().await - 1;
    }
    assert_eq!(given, PER_ENDPOINT_MAX, "whoever finds it full puts it right");
}

/// Keys that nobody claims from any more do not stay for ever.
#[tokio::test]
async fn keys_end_a_week_after_the_last_claim() {
    let mut lossy = Lossy::new().await;
    fill(&lossy, Lane::Deliveries, &Samples::new(5)).await;
    let claims = lossy.redis.queue().claim(Lane::Deliveries, 1, LEASE).await;
    assert_eq!(claims.expect("it is there").len(), 1);
    let keys = lossy.keys().await;
    assert!(keys.len() >= 5, "{keys:?}");
    for key in keys {
        let left: i64 = ::redis::cmd("PTTL")
            .arg(&key)
            .query_async(&mut lossy.client)
            .await
            .expect("it is there");
        assert!((1..=7 * 24 * 60 * 60 * 1_000).contains(&left), "{key} has {left} ms left");
    }
}

/// A server out of memory refuses to take more, and the jobs it has can still be claimed.
#[tokio::test]
async fn a_server_without_memory_refuses_and_recovers() {
    let server = servers::Redis::builder().with_setting("maxmemory-policy", "noeviction").start();
    let server = server.expect("a server starts");
    let redis = Redis::node(server.url()).build().expect("it is an address");
    let (queue, samples) = (redis.queue(), Samples::new(6));
    let job = samples.job(Lane::Operations);
    queue.push(&[(job.clone(), Duration::ZERO)]).await.expect("there is room");
    let client = ::redis::Client::open(server.url()).expect("it is an address");
    let mut client = client.get_multiplexed_async_connection().await.expect("it is there");
    let mut memory = async |bytes: u32| {
        let mut set = ::redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes);
        let _: String = set.query_async(&mut client).await.expect("it is there");
    };
    memory(1).await;
    let refused = queue.push(&[(samples.job(Lane::Operations), Duration::ZERO)]).await;
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    memory(0).await;
    assert_eq!(claimed(&queue, Lane::Operations).await, [job]);
}

/// A job that waits for its retry is left alone however often the reapers of many processes say that its row is due, and is not buried by them.
#[tokio::test]
async fn reapers_do_not_wear_out_what_waits_for_its_retry() {
    let lossy = Lossy::new().await;
    let (queue, samples) = (lossy.redis.queue(), Samples::new(8));
    let job = samples.job(Lane::Deliveries);
    queue.push(&[(job.clone(), Duration::ZERO)]).await.expect("there is room");
    for round in 1..=20_u32 {
        let claim = queue.claim(Lane::Deliveries, 9, LEASE).await.expect("it is there").remove(0);
        assert_eq!(claim.claims, round);
        let verdict = Verdict::Release { due_in: Duration::from_secs(30) };
        assert_eq!(queue.settle(&[Settlement { claim, verdict }]).await.expect("there"), [true]);
        for sweep in 0..16 {
            let due_for = Duration::from_secs(u64::from(round) * 31);
            let lost = queue.restore(&[(job.clone(), due_for)]).await.expect("it is there");
            assert_eq!(lost, Some(0), "sweep {sweep}");
            let claims = queue.claim(Lane::Deliveries, 9, LEASE).await.expect("it is there");
            assert_eq!(claims, [], "sweep {sweep} of round {round}");
        }
        lossy.clock.advance(Duration::from_secs(31));
    }
}

/// What somebody else wrote there, or a later version, is as good as lost: it holds up nothing.
#[tokio::test]
async fn what_makes_no_sense_holds_up_nothing() {
    let mut lossy = Lossy::new().await;
    let (queue, samples) = (lossy.redis.queue(), Samples::new(9));
    let [odd, good] = [(); 2].map(|()| (samples.job(Lane::Operations), Duration::ZERO));
    queue.push(&[odd.clone(), good.clone()]).await.expect("there is room");
    let key = format!("pgw:{{{}:operations:0of1}}:jobs", lossy.namespace);
    let fields: Vec<Vec<u8>> =
        ::redis::cmd("HKEYS").arg(&key).query_async(&mut lossy.client).await.expect("it is there");
    for field in fields {
        let mut set = ::redis::cmd("HSET");
        set.arg(&key).arg(field).arg("w of a later version");
        let _: u64 = set.query_async(&mut lossy.client).await.expect("it is there");
    }
    assert_eq!(claimed(&queue, Lane::Operations).await, []);
    let restored = queue.restore(&[odd.clone(), good.clone()]).await;
    assert_eq!(restored.expect("there is room"), Some(2));
    let mut jobs = vec![odd.0, good.0];
    jobs.sort();
    assert_eq!(claimed(&queue, Lane::Operations).await, jobs);
}

/// An endpoint with very many waiting does not take the room of the others: the rest waits in the rows.
#[tokio::test]
async fn one_endpoint_does_not_take_all_the_room() {
    let lossy = Lossy::new().await;
    let (queue, samples) = (lossy.redis.queue(), Samples::new(10));
    let endpoint = samples.endpoint_for(&["test.ping"]).id;
    let mut due = Vec::new();
    for _ in 0..10_000 + ALL {
        let event = samples.event(EventType::TestPing).id;
        let (scope, delivery) = (samples.scope().clone(), DeliveryId::new(event, endpoint));
        due.push((Job::Delivery { scope, delivery }, Duration::ZERO));
    }
    queue.push(&due).await.expect("what has no room is left where it is");
    let depth = queue.depth(Lane::Deliveries).await.expect("it is there");
    assert_eq!(depth.ready, 10_000);
    let claims = queue.claim(Lane::Deliveries, ALL, LEASE).await.expect("it is there");
    assert_eq!(claims.len(), PER_ENDPOINT_MAX);
    let lost = queue.restore(&due).await.expect("there is room");
    assert_eq!(lost, Some(PER_ENDPOINT_MAX), "as many as there is room for now");
}

/// Behind thousands of a full endpoint that come due together, one claim finds the job of another.
#[tokio::test]
async fn a_claim_goes_past_very_many_that_come_due_together() {
    let lossy = Lossy::new().await;
    let (queue, samples) = (lossy.redis.queue(), Samples::new(11));
    let endpoint = samples.endpoint_for(&["test.ping"]).id;
    let delivery = |endpoint| {
        let event = samples.event(EventType::TestPing).id;
        let (scope, delivery) = (samples.scope().clone(), DeliveryId::new(event, endpoint));
        Job::Delivery { scope, delivery }
    };
    let many: Vec<_> = (0..8_000).map(|_| (delivery(endpoint), LEASE)).collect();
    queue.push(&many).await.expect("there is room");
    let full: Vec<_> =
        (0..PER_ENDPOINT_MAX).map(|_| (delivery(endpoint), Duration::ZERO)).collect();
    queue.push(&full).await.expect("there is room");
    let held = queue.claim(Lane::Deliveries, ALL, LEASE * 100).await.expect("it is there");
    assert_eq!(held.len(), PER_ENDPOINT_MAX);
    let other = delivery(samples.endpoint_for(&["test.ping"]).id);
    queue.push(&[(other.clone(), LEASE + Duration::from_secs(1))]).await.expect("there is room");
    lossy.clock.advance(LEASE * 2);
    let claims = queue.claim(Lane::Deliveries, ALL, LEASE).await.expect("it is there");
    assert_eq!(claims.into_iter().map(|claim| claim.job).collect::<Vec<_>>(), [other]);
}

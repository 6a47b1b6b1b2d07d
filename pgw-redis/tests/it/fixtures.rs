//! Fixtures: a namespace for each test on the servers that `scripts/test` starts, reached in every way there is.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::Clock;
use pgw_core::notifier::{Hint, Notifier, Subscription};
use pgw_core::queue::{Claim, Depth, FallbackQueue, Job, Lane, Queue, QueueError, Settlement};
use pgw_core::rate_limit::RateLimiter;
use pgw_core::testing::conformance::{
    JobSource, NotifierFixture, QueueFixture, RateLimiterFixture, SMALL,
};
use pgw_core::timestamp::Timestamp;
use pgw_redis::{Redis, RedisBuilder, RedisNotifier, ServerClock};
use pgw_storage_memory::MemoryQueue;
use servers::Proxy;

/// A way to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    /// One node.
    Node,
    /// One node, each lane in several parts.
    Parts,
    /// A Cluster of three masters.
    Cluster,
}

pub(crate) struct Under {
    pub(crate) redis: Redis,
    /// The same with room for few jobs, and in one part, of which the suite can say when it is full.
    small: Redis,
    clock: ServerClock,
    /// What stands between.
    _proxy: Option<Proxy>,
}

impl Under {
    pub(crate) fn test(leg: Leg) -> Self {
        match leg {
            Leg::Node => Self::of(|| Redis::node(url("PGW_TEST_REDIS")), None),
            Leg::Parts => Self::of(
                || Redis::node(url("PGW_TEST_REDIS")).with_shards(NonZeroU16::new(5).unwrap()),
                None,
            ),
            Leg::Cluster => Self::of(|| Redis::cluster(cluster()), None),
        }
    }

    /// Through a proxy that was cut once, with answers that take their time: on a connection that was made again.
    pub(crate) async fn recovered() -> Self {
        let mut proxy = Proxy::start(address(&url("PGW_TEST_REDIS"))).expect("a proxy starts");
        let through = format!("redis://{}/0", proxy.address());
        proxy.delay(Duration::from_millis(1));
        let under = Self::of(|| Redis::node(through.clone()), None);
        for redis in [&under.redis, &under.small] {
            redis.check().await.expect("it is there");
        }
        proxy.cut();
        for redis in [&under.redis, &under.small] {
            redis.check().await.expect_err("it is away");
        }
        proxy.heal().expect("the port is still ours");
        proxy.delay(Duration::from_millis(1));
        for redis in [&under.redis, &under.small] {
            back(redis).await;
        }
        Self { _proxy: Some(proxy), ..under }
    }

    fn of(place: impl Fn() -> RedisBuilder, proxy: Option<Proxy>) -> Self {
        let clock = ServerClock::default();
        let namespace = namespace();
        let build = |builder: RedisBuilder| {
            // What is tested is not how fast a machine with much to do is.
            let builder = builder.with_timeout(Duration::from_secs(30));
            builder.with_clock(clock.clone()).build().expect("it is an address")
        };
        let redis = build(place().with_namespace(&namespace));
        let small = place().with_namespace(format!("{namespace}-small"));
        let few = u32::try_from(SMALL).expect("few");
        let small = build(small.with_jobs_max(few).with_shards(NonZeroU16::MIN));
        Self { redis, small, clock, _proxy: proxy }
    }
}

#[async_trait]
impl QueueFixture for Under {
    async fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.redis.queue())
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn source(&self) -> JobSource {
        JobSource::Pushed
    }

    async fn small_queue(&self) -> Option<Arc<dyn Queue>> {
        Some(Arc::new(self.small.queue()))
    }
}

#[async_trait]
impl NotifierFixture for Under {
    async fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::new(self.redis.notifier())
    }

    fn overflow(&self) -> usize {
        RedisNotifier::UNREAD_MAX * 2
    }
}

#[async_trait]
impl RateLimiterFixture for Under {
    async fn limiter(&self) -> Arc<dyn RateLimiter> {
        Arc::new(self.redis.rate_limiter())
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}

/// A queue that works, behind one that is away.
pub(crate) struct Behind {
    queue: FallbackQueue,
    small: FallbackQueue,
    clock: Arc<ManualClock>,
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

impl Behind {
    pub(crate) fn test() -> Self {
        let clock = Arc::new(ManualClock(AtomicI64::new(1_768_564_800_000_000)));
        let memory = MemoryQueue::builder().with_clock(Arc::clone(&clock) as _);
        let small = memory.clone().with_jobs_max(SMALL).build();
        let behind = |queue| FallbackQueue::new(Arc::new(Away), Arc::new(queue));
        Self { queue: behind(memory.build()), small: behind(small), clock }
    }
}

#[async_trait]
impl QueueFixture for Behind {
    async fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.queue.clone())
    }

    async fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).expect("tests move it by years at most");
        self.clock.0.fetch_add(micros, Ordering::Relaxed);
    }

    async fn source(&self) -> JobSource {
        JobSource::Pushed
    }

    async fn small_queue(&self) -> Option<Arc<dyn Queue>> {
        Some(Arc::new(self.small.clone()))
    }
}

/// A Redis that nobody listens for.
#[derive(Debug)]
struct Away;

fn away<T>() -> Result<T, QueueError> {
    Err(QueueError::Unavailable(Arc::new(std::io::Error::other("away"))))
}

#[async_trait]
impl Queue for Away {
    async fn push(&self, _: &[(Job, Duration)]) -> Result<(), QueueError> {
        away()
    }

    async fn restore(&self, _: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        away()
    }

    async fn claim(&self, _: Lane, _: usize, _: Duration) -> Result<Vec<Claim>, QueueError> {
        away()
    }

    async fn extend(&self, _: &[Claim], _: Duration) -> Result<Vec<bool>, QueueError> {
        away()
    }

    async fn settle(&self, _: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        away()
    }

    async fn depth(&self, _: Lane) -> Result<Depth, QueueError> {
        away()
    }
}

/// A namespace that no other test has.
pub(crate) fn namespace() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The URL in a variable; a test without its server fails and says how it is run.
pub(crate) fn url(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests with scripts/test, or with `cargo run -p servers -- cargo test`")
    })
}

pub(crate) fn cluster() -> Vec<String> {
    url("PGW_TEST_REDIS_CLUSTER").split(',').map(str::to_owned).collect()
}

/// The address in a URL.
pub(crate) fn address(url: &str) -> std::net::SocketAddr {
    let rest = url.strip_prefix("redis://").expect("a URL of Redis");
    rest.split('/').next().unwrap_or(rest).parse().expect("an address of loopback")
}

/// Waits until a Redis that was away is back: until the task that tries has connected.
pub(crate) async fn back(redis: &Redis) {
    let until_back = async {
        while redis.check().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), until_back).await.expect("it comes back");
}

/// The next hint, which must come.
pub(crate) async fn next(hints: &mut Box<dyn Subscription>) -> Hint {
    let next = tokio::time::timeout(Duration::from_secs(60), hints.next());
    next.await.expect("it is on its way or was missed, which is a hint too")
}

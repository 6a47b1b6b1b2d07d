//! The rows behind a queue of pointers: what is handed over never reaches that, everything else goes by it, and nothing is lost between the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::Clock;
use pgw_core::payment::PaymentStatus;
use pgw_core::queue::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement, Verdict};
use pgw_core::storage::Storage as _;
use pgw_core::testing::conformance::{JobSource, QueueFixture};
use pgw_core::testing::sample::{Creation, Samples};
use pgw_core::timestamp::Timestamp;
use pgw_storage_memory::MemoryQueue;
use pgw_storage_postgres::{PgQueueBehind, PgStorage, Schema};

use crate::fixtures::{Leg, Under, schema};
use crate::world::{HEALTHY, World, keyed};

const LEASE: Duration = Duration::from_secs(60);
const ROOM: usize = 8;

/// A queue of pointers that may be away.
#[derive(Debug)]
struct Pointers {
    jobs: MemoryQueue,
    is_away: AtomicBool,
}

impl Pointers {
    fn there(&self) -> Result<&MemoryQueue, QueueError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(QueueError::Unavailable(Arc::new(std::io::Error::other("away"))));
        }
        Ok(&self.jobs)
    }
}

#[async_trait]
impl Queue for Pointers {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        self.there()?.push(jobs).await
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        self.there()?.restore(jobs).await
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        self.there()?.claim(lane, max, lease).await
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        self.there()?.extend(claims, lease).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        self.there()?.settle(settlements).await
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        self.there()?.depth(lane).await
    }
}

/// A storage whose rows are behind pointers.
struct Behind {
    schema: Schema,
    pg: PgStorage,
    pointers: Arc<Pointers>,
    queue: PgQueueBehind,
    samples: Samples,
}

/// A process on a schema.
async fn process(schema: &Schema) -> PgStorage {
    let builder = Leg::Pool.builder(schema);
    builder.connect(&Leg::Pool.url()).await.expect("the schema was just migrated")
}

impl Behind {
    async fn new() -> Self {
        let schema = schema().await;
        let pg = process(&schema).await;
        let jobs = MemoryQueue::new();
        let pointers = Arc::new(Pointers { jobs, is_away: AtomicBool::new(false) });
        let queue = pg.queue_behind(Arc::clone(&pointers) as _);
        Self { schema, pg, pointers, queue, samples: Samples::new(77) }
    }

    async fn claim(&self) -> Vec<Claim> {
        self.queue.claim(Lane::Operations, ROOM, LEASE).await.expect(HEALTHY)
    }

    async fn create(&self) -> Creation {
        let creation = self.samples.creation();
        self.pg.commit(creation.changes()).await.expect(HEALTHY);
        creation
    }

    /// A claim of a new payment's operation, which its commit handed over.
    async fn handed(&self) -> Claim {
        self.claim().await;
        let creation = self.create().await;
        let mut claims = self.claim().await;
        assert_eq!(claims.len(), 1);
        assert_eq!(claims[0].job, creation.job());
        claims.remove(0)
    }

    /// How many pointers are ready, delayed and claimed.
    async fn pointed(&self) -> (u64, u64, u64) {
        let depth = self.pointers.jobs.depth(Lane::Operations).await.expect("it is in memory");
        (depth.ready, depth.delayed, depth.in_flight)
    }

    /// How many rows are ready, delayed and claimed.
    async fn rows(&self) -> (u64, u64, u64) {
        let depth = self.pg.queue().depth(Lane::Operations).await.expect(HEALTHY);
        (depth.ready, depth.delayed, depth.in_flight)
    }

    async fn settle(&self, claim: Claim, verdict: Verdict) -> bool {
        let settled = self.queue.settle(&[Settlement { claim, verdict }]).await;
        settled.expect(HEALTHY)[0]
    }
}

/// A gateway pays from end to end, and its queue of pointers never hears of a charge.
#[tokio::test]
async fn charges_of_new_payments_do_not_go_by_the_pointers() {
    let behind = Behind::new().await;
    let world = World::with_queue(&behind.pg, Arc::new(behind.queue.clone()));
    // A worker that looked and found nothing.
    assert_eq!(behind.claim().await, []);
    let receipt = world.gateway.host().create_payment(keyed("handed")).await.expect(HEALTHY);
    assert_eq!(behind.pointed().await, (0, 0, 0));
    let worker = world.work();
    let id = receipt.payment().id;
    let paid = world.gateway.host().wait_for(id, None, LEASE).await.expect(HEALTHY);
    assert_eq!(paid.payment.status, PaymentStatus::Succeeded);
    worker.shutdown().await;
    assert_eq!((behind.pointed().await, behind.rows().await), ((0, 0, 0), (0, 0, 0)));
    // Nobody takes anything over any more: what is created now is pointed at.
    world.gateway.host().create_payment(keyed("pointed-at")).await.expect(HEALTHY);
    assert_eq!((behind.pointed().await, behind.rows().await), ((1, 0, 0), (1, 0, 0)));
}

/// What is not done is due again by the pointers, which had not heard of it: when it was released, postponed, or written as due again.
#[tokio::test]
async fn what_is_due_again_is_pointed_at() {
    let again = Duration::from_secs(3_600);
    for verdict in [
        Verdict::Release { due_in: again },
        Verdict::Postpone { due_in: again },
        Verdict::Committed { due_in: Some(again) },
    ] {
        let behind = Behind::new().await;
        let claim = behind.handed().await;
        assert_eq!((behind.pointed().await, behind.rows().await), ((0, 0, 0), (0, 0, 1)));
        assert!(behind.settle(claim.clone(), verdict.clone()).await);
        assert_eq!(behind.pointed().await, (0, 1, 0), "{verdict:?}");
        // It is nobody's claim by now, but where its row is said to have been written and was not.
        let is_over = !matches!(verdict, Verdict::Committed { .. });
        let settled = behind.settle(claim, Verdict::Release { due_in: Duration::ZERO }).await;
        assert_eq!((settled, behind.pointed().await), (!is_over, (0, 1, 0)), "{verdict:?}");
    }
}

#[tokio::test]
async fn what_is_done_or_buried_is_not_pointed_at() {
    for (verdict, rows) in [
        (Verdict::Done, (0, 0, 0)),
        (Verdict::Bury { reason: "it is poison".into() }, (0, 0, 0)),
        // Its row says what becomes of it; here nothing was written, so it is held until its lease runs out.
        (Verdict::Committed { due_in: None }, (0, 0, 1)),
    ] {
        let behind = Behind::new().await;
        let claim = behind.handed().await;
        assert!(behind.settle(claim, verdict.clone()).await);
        let now = (behind.pointed().await, behind.rows().await);
        assert_eq!(now, ((0, 0, 0), rows), "{verdict:?}");
    }
}

/// Claims of both kinds at once: each is answered for by whoever gave it out, in the order of the questions.
#[tokio::test]
async fn each_claim_is_answered_for_by_whoever_gave_it_out() {
    let behind = Behind::new().await;
    let first = behind.handed().await;
    let elsewhere = behind.samples.creation();
    // Committed in another process: the pointers have it.
    let there = process(&behind.schema).await;
    there.commit(elsewhere.changes()).await.expect(HEALTHY);
    behind.queue.push(&[(elsewhere.job(), Duration::ZERO)]).await.expect(HEALTHY);
    let pointed = behind.claim().await.remove(0);
    assert_eq!(pointed.job, elsewhere.job());
    let second = behind.handed().await;
    let lost = Claim { fence: pgw_core::payment::Fence(1), ..first.clone() };
    let all = [first.clone(), pointed.clone(), lost.clone(), second.clone()];
    let held = behind.queue.extend(&all, LEASE * 2).await.expect(HEALTHY);
    assert_eq!(held, [true, true, false, true]);
    let done = |claim| Settlement { claim, verdict: Verdict::Done };
    let all = [done(lost), done(second), done(pointed), done(first)];
    assert_eq!(behind.queue.settle(&all).await.expect(HEALTHY), [false, true, true, true]);
    assert_eq!(behind.pointed().await, (0, 0, 0));
}

/// A worker that leaves makes what waits for it everybody's: by the pointers.
#[tokio::test]
async fn what_waits_for_a_worker_that_leaves_is_pointed_at() {
    let behind = Behind::new().await;
    behind.claim().await;
    let creation = behind.create().await;
    assert_eq!((behind.pointed().await, behind.rows().await), ((0, 0, 0), (0, 0, 1)));
    behind.queue.leave(Lane::Operations).await.expect(HEALTHY);
    assert_eq!((behind.pointed().await, behind.rows().await), ((1, 0, 0), (1, 0, 0)));
    let there = behind.pointers.claim(Lane::Operations, ROOM, LEASE).await.expect(HEALTHY);
    assert_eq!(there[0].job, creation.job());
}

/// While the pointers are away jobs are claimed from the rows, and handed over as before; when they are back nothing is missing.
#[tokio::test]
async fn rows_are_claimed_from_while_the_pointers_are_away() {
    let behind = Behind::new().await;
    let early = behind.create().await;
    behind.pointers.is_away.store(true, Ordering::Relaxed);
    let claims = behind.claim().await;
    assert_eq!(claims.iter().map(|claim| &claim.job).collect::<Vec<_>>(), [&early.job()]);
    let handed = behind.create().await;
    behind.pointers.is_away.store(false, Ordering::Relaxed);
    let more = behind.claim().await;
    assert_eq!(more.iter().map(|claim| &claim.job).collect::<Vec<_>>(), [&handed.job()]);
    for claim in claims.into_iter().chain(more) {
        assert!(behind.settle(claim, Verdict::Done).await);
    }
    assert_eq!((behind.pointed().await, behind.rows().await), ((0, 0, 0), (0, 0, 0)));
}

/// The conformance of queues, over pointers in memory.
pub(crate) struct OverMemory {
    queue: PgQueueBehind,
    small: PgQueueBehind,
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

const SMALL: usize = 3;

impl OverMemory {
    pub(crate) async fn test() -> Self {
        let pg = Under::test(Leg::Pool).await.storage;
        let clock = Arc::new(ManualClock(AtomicI64::new(1_768_564_800_000_000)));
        let memory = MemoryQueue::builder().with_clock(Arc::clone(&clock) as _);
        let small = memory.clone().with_jobs_max(SMALL).build();
        let behind = |queue| pg.queue_behind(Arc::new(queue));
        Self { queue: behind(memory.build()), small: behind(small), clock }
    }
}

#[async_trait]
impl QueueFixture for OverMemory {
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

//! What a commit claims for a worker of its own process: that the worker gets it, that nobody else does meanwhile, and that nothing is kept from
//! others for longer than a claim may keep it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::changes::{Changes, Guard, Write};
use pgw_core::payment::OperationKind;
use pgw_core::queue::{
    Claim, Depth, FallbackQueue, Job, Lane, Queue, QueueError, Settlement, Verdict,
};
use pgw_core::storage::{DueWork, Storage as _};
use pgw_core::testing::sample::{Creation, Samples};
use pgw_storage_postgres::{PgQueue, PgStorage, ServerClock};

use crate::fixtures::{Leg, schema};
use crate::world::{HEALTHY, World, order};

const LEASE: Duration = Duration::from_secs(60);
const ROOM: usize = 8;

/// Two processes over one database.
struct Two {
    here: PgStorage,
    there: PgStorage,
    clock: ServerClock,
    samples: Samples,
}

impl Two {
    async fn new() -> Self {
        let (schema, clock) = (schema().await, ServerClock::default());
        let process = || Leg::Pool.builder(&schema).with_clock(clock.clone());
        let here = process().connect(&Leg::Pool.url()).await.expect("the schema was just migrated");
        let there = process().connect(&Leg::Pool.url()).await.expect("and is still there");
        Self { here, there, clock, samples: Samples::new(31) }
    }

    async fn create(&self) -> Creation {
        let creation = self.samples.creation();
        self.here.commit(creation.changes()).await.expect(HEALTHY);
        creation
    }
}

async fn claim(queue: &PgQueue, max: usize) -> Vec<Claim> {
    queue.claim(Lane::Operations, max, LEASE).await.expect(HEALTHY)
}

fn jobs_of(claims: &[Claim]) -> Vec<Job> {
    claims.iter().map(|claim| claim.job.clone()).collect()
}

/// How many are ready, and how many are claimed.
async fn depth(queue: &PgQueue) -> (u64, u64) {
    let depth = queue.depth(Lane::Operations).await.expect(HEALTHY);
    (depth.ready, depth.in_flight)
}

fn settled(claim: Claim, due_in: Duration) -> [Settlement; 1] {
    [Settlement { claim, verdict: Verdict::Release { due_in } }]
}

#[tokio::test]
async fn a_worker_with_room_is_handed_what_its_process_commits() {
    let two = Two::new().await;
    let (here, there) = (two.here.queue(), two.there.queue());
    assert_eq!(claim(&here, ROOM).await, []);
    let first = two.create().await;
    let second = two.create().await;
    // Each commit has claimed it: it is nobody else's.
    assert_eq!(depth(&there).await, (0, 2));
    assert_eq!(claim(&there, ROOM).await, []);
    let claims = claim(&here, ROOM).await;
    let jobs = jobs_of(&claims);
    assert_eq!(jobs, [first.job(), second.job()], "in the order they were committed");
    assert!(claims.iter().all(|claim| claim.claims == 1));
    assert_ne!(claims[0].fence, claims[1].fence);
    // What came along with the claims is what reading finds.
    let found = two.here.due_all(&jobs).await.expect(HEALTHY);
    assert_eq!(found, two.there.due_all(&jobs).await.expect(HEALTHY));
    assert!(found.iter().all(|found| matches!(found, Some(DueWork::Operation(_)))), "{found:?}");
    // And they are claims as any other: held, extended, settled, and then everybody's.
    assert_eq!(here.extend(&claims, LEASE).await.expect(HEALTHY), [true, true]);
    let [claim_of_first, _] = &claims[..] else { panic!("two were claimed") };
    let released = settled(claim_of_first.clone(), Duration::ZERO);
    assert_eq!(here.settle(&released).await.expect(HEALTHY), [true]);
    let again = claim(&there, ROOM).await;
    assert_eq!(jobs_of(&again), [jobs[0].clone()]);
    assert_eq!(here.settle(&released).await.expect(HEALTHY), [false], "it is another's now");
}

/// A payment that moved on after it was handed over is read again by whoever finds that its version is another.
#[tokio::test]
async fn what_came_along_with_a_claim_is_given_once() {
    let two = Two::new().await;
    let here = two.here.queue();
    claim(&here, ROOM).await;
    let creation = two.create().await;
    let claims = claim(&here, ROOM).await;
    let jobs = [claims[0].job.clone()];
    let first = two.here.due_all(&jobs).await.expect(HEALTHY);
    let touched = two.samples.touched(&creation.payment);
    let changes = Changes::new(touched.scope.clone())
        .guard(Guard::Payment { id: touched.id, version: 1 })
        .write(Write::Payment(Box::new(touched)));
    two.there.commit(changes).await.expect(HEALTHY);
    let second = two.here.due_all(&jobs).await.expect(HEALTHY);
    let version = |found: &[Option<DueWork>]| match found {
        [Some(DueWork::Operation(state))] => state.payment.version,
        other => panic!("one operation is due: {other:?}"),
    };
    assert_eq!((version(&first), version(&second)), (1, 2));
}

#[tokio::test]
async fn a_worker_that_leaves_gives_back_what_waits_for_it() {
    let two = Two::new().await;
    let (here, there) = (two.here.queue(), two.there.queue());
    claim(&here, ROOM).await;
    let creation = two.create().await;
    assert_eq!(depth(&there).await, (0, 1));
    here.leave(Lane::Operations).await.expect(HEALTHY);
    assert_eq!(depth(&there).await, (1, 0));
    let claims = claim(&there, 1).await;
    assert_eq!(claims[0].job, creation.job());
    // Nobody is here any more, so what comes now is everybody's.
    two.create().await;
    assert_eq!(depth(&there).await, (1, 1));
    // Until somebody is.
    assert_eq!(claim(&here, ROOM).await.len(), 1);
    two.create().await;
    assert_eq!(depth(&there).await, (0, 3));
}

/// A process that is killed with claims at hand: they wait for their lease, as those of jobs under way do.
#[tokio::test]
async fn what_nobody_comes_for_is_anothers_when_its_lease_runs_out() {
    let two = Two::new().await;
    let (here, there) = (two.here.queue(), two.there.queue());
    claim(&here, ROOM).await;
    let creation = two.create().await;
    // The time that the statements take is real.
    let margin = Duration::from_secs(10);
    two.clock.advance(LEASE - margin);
    assert_eq!(claim(&there, ROOM).await, []);
    two.clock.advance(margin);
    let claims = claim(&there, ROOM).await;
    assert_eq!(jobs_of(&claims), [creation.job()]);
    assert_eq!(claims[0].claims, 2);
}

/// What is committed while more is due than was asked for waits behind it.
#[tokio::test]
async fn nothing_is_handed_past_what_has_been_due_for_longer() {
    let two = Two::new().await;
    let here = two.here.queue();
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(two.create().await.job());
    }
    let mut claimed: Vec<_> = claim(&here, 2).await;
    jobs.push(two.create().await.job());
    assert_eq!(depth(&here).await, (2, 2));
    claimed.extend(claim(&here, ROOM).await);
    assert_eq!(jobs_of(&claimed), jobs);
}

/// No more is handed over than a worker said it has room for.
#[tokio::test]
async fn no_more_is_handed_than_there_is_room_for() {
    let two = Two::new().await;
    let here = two.here.queue();
    claim(&here, 2).await;
    for _ in 0..3 {
        two.create().await;
    }
    assert_eq!(depth(&here).await, (1, 2));
    assert_eq!(claim(&here, 1).await.len(), 1, "at most what was asked for");
    assert_eq!(claim(&here, ROOM).await.len(), 2, "what waits here, and what waits there");
}

/// A commit that is not applied hands over nothing, and the room it was promised is there for the next.
#[tokio::test]
async fn a_commit_that_fails_hands_over_nothing() {
    let two = Two::new().await;
    let here = two.here.queue();
    claim(&here, ROOM).await;
    let mut creation = two.samples.creation();
    let key = two.samples.claim(creation.target());
    let keyed = creation.keyed(key);
    two.here.commit(keyed.clone()).await.expect(HEALTHY);
    assert_eq!(claim(&here, ROOM).await.len(), 1);
    // A replay of the key, and a payment that is there already.
    two.here.commit(keyed).await.expect(HEALTHY);
    two.here.commit(creation.changes()).await.expect_err("there is such a payment");
    assert_eq!(claim(&here, ROOM).await, []);
    for _ in 0..ROOM {
        two.create().await;
    }
    assert_eq!(depth(&here).await, (0, 1 + ROOM as u64));
}

/// Only of a new payment is everything known that its operation needs.
#[tokio::test]
async fn only_the_operation_of_a_new_payment_that_is_due_now_is_handed() {
    let two = Two::new().await;
    let here = two.here.queue();
    let mut later = two.samples.creation();
    later.due_in = Some(Duration::from_secs(1));
    let paid = two.samples.paid();
    claim(&here, ROOM).await;
    two.here.commit(later.changes()).await.expect(HEALTHY);
    two.here.commit(paid.changes()).await.expect(HEALTHY);
    let refund = two.samples.operation(&paid.payment, OperationKind::Refund);
    let refunded = Changes::new(paid.payment.scope.clone())
        .guard(Guard::Payment { id: paid.payment.id, version: 1 })
        .write(Write::Payment(Box::new(two.samples.touched(&paid.payment))))
        .write(Write::Operation { operation: Box::new(refund), due_in: Some(Duration::ZERO) });
    two.here.commit(refunded).await.expect(HEALTHY);
    assert_eq!(depth(&here).await, (1, 0));
    // Nor what a host may still roll back.
    let mut transaction = two.here.pool().begin().await.expect(HEALTHY);
    let enlisted = two.here.enlist(&mut transaction);
    enlisted.commit(two.samples.creation().changes()).await.expect(HEALTHY);
    drop(enlisted);
    transaction.commit().await.expect(HEALTHY);
    assert_eq!(depth(&here).await, (2, 0));
}

/// A worker that was busy for so long that its lease may be over does not take what waited: it goes back, and is claimed anew.
#[tokio::test]
async fn what_waited_for_too_long_goes_back() {
    let two = Two::new().await;
    let here = two.here.queue();
    let asked = here.claim(Lane::Operations, ROOM, Duration::from_micros(1)).await.expect(HEALTHY);
    assert_eq!(asked, []);
    let creation = two.create().await;
    let claims = claim(&here, ROOM).await;
    assert_eq!(jobs_of(&claims), [creation.job()]);
    assert_eq!(claims[0].claims, 2);
    assert_eq!(here.extend(&claims, LEASE).await.expect(HEALTHY), [true]);
}

/// A lease that no clock can count to is as good as one for ever: a commit of the same process does not break over it.
#[tokio::test]
async fn a_lease_for_ever_is_handed_over_too() {
    let two = Two::new().await;
    let here = two.here.queue();
    let asked = here.claim(Lane::Operations, ROOM, Duration::MAX).await.expect(HEALTHY);
    assert_eq!(asked, []);
    let creation = two.create().await;
    // Claimed by the commit already.
    assert_eq!(depth(&here).await, (0, 1));
    let claims = here.claim(Lane::Operations, ROOM, Duration::MAX).await.expect(HEALTHY);
    assert_eq!(jobs_of(&claims), [creation.job()]);
    assert_eq!(claim(&two.there.queue(), ROOM).await, []);
    assert_eq!(here.settle(&settled(claims[0].clone(), LEASE)).await.expect(HEALTHY), [true]);
}

/// While there is room for more than was handed over, what others committed is found too.
#[tokio::test]
async fn what_others_commit_is_found_beside_what_is_handed_over() {
    let two = Two::new().await;
    let here = two.here.queue();
    claim(&here, ROOM).await;
    let own = two.create().await;
    let others = two.samples.creation();
    two.there.commit(others.changes()).await.expect(HEALTHY);
    let claims = claim(&here, ROOM).await;
    assert_eq!(jobs_of(&claims), [own.job(), others.job()]);
}

/// A worker that was shut down leaves nothing claimed: neither what it had, nor what came for it since.
#[tokio::test]
async fn a_worker_that_was_shut_down_leaves_nothing_claimed() {
    let two = Two::new().await;
    let world = World::on(&two.here);
    let worker = world.work();
    for _ in 0..ROOM {
        world.gateway.on(&two.here).create_payment(order()).await.expect(HEALTHY);
    }
    worker.shutdown().await;
    world.gateway.on(&two.here).create_payment(order()).await.expect(HEALTHY);
    let (ready, in_flight) = depth(&two.there.queue()).await;
    assert_eq!((ready > 0, in_flight), (true, 0));
}

/// A queue that is away, or empty.
#[derive(Debug, Default)]
struct Empty {
    is_away: AtomicBool,
}

impl Empty {
    fn answer<T>(&self, answer: T) -> Result<T, QueueError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(QueueError::Unavailable(Arc::new(std::io::Error::other("away"))));
        }
        Ok(answer)
    }
}

#[async_trait]
impl Queue for Empty {
    async fn push(&self, _: &[(Job, Duration)]) -> Result<(), QueueError> {
        self.answer(())
    }

    async fn restore(&self, _: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        self.answer(Some(0))
    }

    async fn claim(&self, _: Lane, _: usize, _: Duration) -> Result<Vec<Claim>, QueueError> {
        self.answer(Vec::new())
    }

    async fn extend(&self, claims: &[Claim], _: Duration) -> Result<Vec<bool>, QueueError> {
        self.answer(vec![false; claims.len()])
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        self.answer(vec![false; settlements.len()])
    }

    async fn depth(&self, _: Lane) -> Result<Depth, QueueError> {
        self.answer(Depth::default())
    }
}

/// When the queue before the rows is back, nobody comes for what the rows keep at hand.
#[tokio::test]
async fn rows_that_are_not_claimed_from_any_more_keep_nothing_at_hand() {
    let two = Two::new().await;
    let first = Arc::new(Empty { is_away: AtomicBool::new(true) });
    let queue = FallbackQueue::new(Arc::clone(&first) as _, Arc::new(two.here.queue()));
    let claims = async || queue.claim(Lane::Operations, ROOM, LEASE).await.expect("one is there");
    assert_eq!(claims().await, []);
    two.create().await;
    assert_eq!(depth(&two.there.queue()).await, (0, 1));
    first.is_away.store(false, Ordering::Relaxed);
    assert_eq!(claims().await, []);
    assert_eq!(depth(&two.there.queue()).await, (1, 0));
}

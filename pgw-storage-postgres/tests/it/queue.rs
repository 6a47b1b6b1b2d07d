//! What only the queue of rows promises: merchants take turns, and poison is set aside.

use std::time::Duration;

use pgw_core::changes::{Changes, Write};
use pgw_core::event::EventType;
use pgw_core::queue::{Job, Lane, PER_ENDPOINT_MAX, Queue as _, Settlement, Verdict};
use pgw_core::scope::Mode;
use pgw_core::storage::Storage as _;
use pgw_core::testing::sample::{Samples, scope};
use pgw_storage_postgres::sqlx::{self, AssertSqlSafe};
use pgw_storage_postgres::{PgQueue, PgStorage};

use crate::fixtures::{Leg, Under};
use crate::world::HEALTHY;

const LEASE: Duration = Duration::from_secs(60);

/// Registers an endpoint and commits events that only it hears.
async fn endpoint_with(pg: &PgStorage, samples: &Samples, events: usize) {
    let endpoint = samples.endpoint();
    let scope = samples.scope().clone();
    let register = Write::Endpoint(Box::new(endpoint.clone()));
    pg.commit(Changes::new(scope.clone()).write(register)).await.expect(HEALTHY);
    for _ in 0..events {
        let event = Box::new(samples.event(EventType::TestPing));
        let write = Write::EventTo { event, endpoint: endpoint.id };
        pg.commit(Changes::new(scope.clone()).write(write)).await.expect(HEALTHY);
    }
}

/// One job of each merchant: what one has out takes nobody else's turn.
async fn merchants_take_turns(leg: Leg) {
    let pg = Under::test(leg).await.storage;
    let (queue, samples) = (pg.queue(), Samples::new(4));
    let mut expected = Vec::new();
    for name in ["a", "b", "c"] {
        let there = samples.of(scope(name, Mode::Test));
        let creation = there.creation();
        pg.commit(creation.changes()).await.expect(HEALTHY);
        expected.push(creation.job());
    }
    let mut claimed = Vec::new();
    for _ in 0..3 {
        claimed.extend(queue.claim(Lane::Operations, 1, LEASE).await.expect(HEALTHY));
    }
    let claimed: Vec<Job> = claimed.into_iter().map(|claim| claim.job).collect();
    assert_eq!(claimed, expected);
}

#[tokio::test]
async fn a_merchant_with_a_job_out_holds_up_no_other() {
    merchants_take_turns(Leg::Pool).await;
}

#[tokio::test]
async fn a_merchant_with_a_job_out_holds_up_no_other_on_a_distributed_engine() {
    merchants_take_turns(Leg::Distributed).await;
}

/// A commit under way has the row of a job that is held: the others' leases are extended without waiting for it, which that commit might wait for
/// in its turn. Without this, each heartbeat under load cost a second, and a deadlock.
async fn a_lease_is_extended_past_rows_that_are_locked(leg: Leg) {
    let pg = Under::test(leg).await.storage;
    let (queue, samples) = (pg.queue(), Samples::new(12));
    for _ in 0..3 {
        pg.commit(samples.creation().changes()).await.expect(HEALTHY);
    }
    let claims = queue.claim(Lane::Operations, 3, LEASE).await.expect(HEALTHY);
    let Job::Operation { operation: locked, .. } = claims[1].job else { panic!("an operation") };
    let schema = crate::fixtures::schema_of(&pg);
    let mut transaction = pg.pool().begin().await.expect(HEALTHY);
    let lock = format!("select from {schema}.operations where id = $1 for update");
    let lock = sqlx::query(AssertSqlSafe(lock)).bind(locked.as_uuid()).persistent(false);
    lock.execute(&mut *transaction).await.expect(HEALTHY);
    let held = queue.extend(&claims, LEASE * 10).await.expect("it waits for nobody");
    assert_eq!(held, [true; 3]);
    transaction.rollback().await.expect(HEALTHY);
    let until = format!(
        "select count(*) filter (where claimed_until > statement_timestamp() + interval '5 minutes') = 2 \
         and bool_and(claimed_until > statement_timestamp()) from {schema}.operations"
    );
    let mut transaction = pg.pool().begin().await.expect(HEALTHY);
    let are_extended: bool = sqlx::query_scalar(AssertSqlSafe(until))
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await
        .expect(HEALTHY);
    assert!(are_extended, "the two that nobody has locked, and the other is held as before");
}

#[tokio::test]
async fn leases_are_extended_past_a_commit_under_way() {
    a_lease_is_extended_past_rows_that_are_locked(Leg::Pool).await;
}

#[tokio::test]
async fn leases_are_extended_past_a_commit_under_way_through_a_pooler() {
    a_lease_is_extended_past_rows_that_are_locked(Leg::Pooler).await;
}

/// A claim that passes the head by looks at so many endpoints only, which may all have nothing due: then it looks at the head after all.
#[tokio::test]
async fn what_is_due_is_found_behind_any_number_of_endpoints() {
    const ENOUGH: usize = 1_000;
    let pg = Under::test(Leg::Pool).await.storage;
    let schema = crate::fixtures::schema_of(&pg);
    let (queue, samples) = (pg.queue(), Samples::new(9));
    // They come first in the walk, and are due tomorrow.
    let later = format!(
        "insert into {schema}.deliveries (merchant, live, event, endpoint, event_type, state, attempts, attempts_total, version, created_at,
            updated_at, due_at)
        select 'a', false, gen_random_uuid(), gen_random_uuid(), 'test.ping', 'pending', 0, 0, 1, now(), now(), now() + interval '1 day'
        from generate_series(1, 1100)"
    );
    sqlx::query(AssertSqlSafe(later)).execute(pg.pool()).await.expect("valid rows");
    // Most of what is due waits for one endpoint, so the next claims pass the head by.
    endpoint_with(&pg, &samples.of(scope("m", Mode::Test)), 300).await;
    let first = queue.claim(Lane::Deliveries, ENOUGH, LEASE).await.expect(HEALTHY);
    assert_eq!(first.len(), PER_ENDPOINT_MAX);
    for number in 0..3 {
        let merchant = format!("z{number}");
        endpoint_with(&pg, &samples.of(scope(&merchant, Mode::Test)), 1).await;
        let next = queue.claim(Lane::Deliveries, ENOUGH, LEASE).await.expect(HEALTHY);
        let merchants: Vec<_> = next.iter().map(|it| it.job.scope().merchant.as_str()).collect();
        assert_eq!(merchants, [&merchant]);
    }
}

#[tokio::test]
async fn a_job_that_is_never_done_is_buried_with_its_reason() {
    let pg = Under::test(Leg::Pool).await.storage;
    let (queue, samples) = (pg.queue(), Samples::new(2));
    let creation = samples.creation();
    pg.commit(creation.changes()).await.expect(HEALTHY);
    let claim = queue.claim(Lane::Operations, 1, LEASE).await.expect(HEALTHY).remove(0);
    let release = Verdict::Release { due_in: Duration::ZERO };
    queue.settle(&[Settlement { claim, verdict: release }]).await.expect(HEALTHY);
    // As if it had been claimed and released that often.
    let schema = crate::fixtures::schema_of(&pg);
    let worn = format!("update {schema}.operations set claims = {}", PgQueue::CLAIMS_MAX);
    sqlx::query(AssertSqlSafe(worn)).execute(pg.pool()).await.expect(HEALTHY);
    assert_eq!(queue.claim(Lane::Operations, 9, LEASE).await.expect(HEALTHY), []);
    let buried = queue.buried(Lane::Operations, 9).await.expect(HEALTHY);
    let reason: Box<str> = "claimed 1000 times and never done".into();
    assert_eq!(buried, [(creation.job(), reason)]);
    assert_eq!(queue.depth(Lane::Operations).await.expect(HEALTHY).dead, 1);
    assert_eq!(pg.due_jobs(Lane::Operations, 9).await.expect(HEALTHY), [], "it is set aside");
}

#[tokio::test]
async fn buried_jobs_are_listed_with_the_reason_they_were_given() {
    let pg = Under::test(Leg::Pool).await.storage;
    let (queue, samples) = (pg.queue(), Samples::new(3));
    endpoint_with(&pg, &samples, 2).await;
    for claim in queue.claim(Lane::Deliveries, 9, LEASE).await.expect(HEALTHY) {
        let verdict = Verdict::Bury { reason: "it's \"poison\"\0 🦀".into() };
        assert_eq!(queue.settle(&[Settlement { claim, verdict }]).await.expect(HEALTHY), [true]);
    }
    let buried = queue.buried(Lane::Deliveries, 1).await.expect(HEALTHY);
    assert_eq!(buried.len(), 1, "at most as many as were asked for");
    assert_eq!(&*buried[0].1, "it's \"poison\" 🦀");
}

//! A write that could not be serialized, or was the victim of a deadlock, is run again as a whole; not for ever.

use pgw_core::changes::Committed;
use pgw_core::queue::{Lane, Queue as _, Settlement, Verdict};
use pgw_core::storage::{Storage as _, StorageError};
use pgw_core::testing::sample::Samples;
use pgw_core::timestamp::Timestamp;
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::{AssertSqlSafe, Connection as _, raw_sql};

use crate::fixtures::{Leg, Under, connection, schema_of};
use crate::world::HEALTHY;

/// Makes the next `times` writes of a table fail with an SQLSTATE. A sequence counts them: what it gives out no rollback takes back.
async fn failing(pg: &PgStorage, table: &str, code: &str, times: u32) {
    let schema = schema_of(pg);
    let install = format!(
        "create sequence {schema}.failures; \
         create function {schema}.fail() returns trigger language plpgsql as $$ begin \
         if nextval('{schema}.failures') <= {times} then raise exception 'on purpose' using errcode = '{code}'; end if; \
         return new; end $$; \
         create trigger fail before insert or update on {schema}.{table} for each row execute function {schema}.fail()"
    );
    run(install).await;
}

async fn healed(pg: &PgStorage, table: &str) {
    let schema = schema_of(pg);
    run(format!(
        "drop trigger fail on {schema}.{table}; drop function {schema}.fail(); drop sequence {schema}.failures"
    ))
    .await;
}

async fn run(sql: String) {
    let mut owner = connection().await;
    raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.expect(HEALTHY);
    owner.close().await.expect(HEALTHY);
}

async fn commits_are_repeated(leg: Leg) {
    let pg = Under::test(leg).await.storage;
    let samples = Samples::new(1);
    for code in ["40001", "40P01"] {
        failing(&pg, "payments", code, 3).await;
        let creation = samples.creation();
        let done = pg.commit(creation.changes()).await;
        assert!(matches!(done, Ok(Committed::Applied { .. })), "{code}: {done:?}");
        healed(&pg, "payments").await;
        let state = pg.payment(samples.scope(), creation.payment.id).await.expect(HEALTHY);
        assert_eq!(state.expect("it is there").operations, [creation.charge]);
    }
    // For ever is too long, and then nothing was written.
    failing(&pg, "payments", "40001", 1_000_000).await;
    let creation = samples.creation();
    let given_up = pg.commit(creation.changes()).await;
    assert!(matches!(given_up, Err(StorageError::Unavailable(_))), "{given_up:?}");
    healed(&pg, "payments").await;
    assert_eq!(pg.payment(samples.scope(), creation.payment.id).await.expect(HEALTHY), None);
    pg.commit(creation.changes()).await.expect("nothing of it was written");
}

#[tokio::test]
async fn a_group_is_repeated() {
    commits_are_repeated(Leg::Pool).await;
}

#[tokio::test]
async fn a_single_commit_is_repeated() {
    commits_are_repeated(Leg::Alone).await;
}

#[tokio::test]
async fn steps_are_repeated() {
    commits_are_repeated(Leg::Distributed).await;
}

#[tokio::test]
async fn a_group_behind_a_pooler_is_repeated() {
    commits_are_repeated(Leg::Pooler).await;
}

#[tokio::test]
async fn claims_and_sweeps_are_repeated() {
    let pg = Under::test(Leg::Pool).await.storage;
    let (queue, samples) = (pg.queue(), Samples::new(2));
    let mut creation = samples.creation();
    let claim = pgw_core::idempotency::KeyClaim {
        answer: Some(samples.answer()),
        ..samples.claim(creation.target())
    };
    pg.commit(creation.keyed(claim)).await.expect(HEALTHY);
    let lease = std::time::Duration::from_secs(60);
    failing(&pg, "operations", "40001", 2).await;
    let claims = queue.claim(Lane::Operations, 9, lease).await.expect("the claim is repeated");
    assert_eq!(claims.len(), 1);
    healed(&pg, "operations").await;
    failing(&pg, "operations", "40P01", 2).await;
    assert_eq!(queue.extend(&claims, lease).await.expect("the extension is repeated"), [true]);
    healed(&pg, "operations").await;
    failing(&pg, "operations", "40001", 2).await;
    let done = [Settlement { claim: claims[0].clone(), verdict: Verdict::Done }];
    assert_eq!(queue.settle(&done).await.expect("the settlement is repeated"), [true]);
    healed(&pg, "operations").await;
    failing(&pg, "events", "40001", 2).await;
    assert_eq!(pg.stamp_events(9).await.expect("the stamp is repeated"), 1);
    healed(&pg, "events").await;
    failing(&pg, "idempotency_keys", "40001", 2).await;
    assert_eq!(pg.purge_answers(Timestamp::MAX, 9).await.expect("the purge is repeated"), 1);
    healed(&pg, "idempotency_keys").await;
}

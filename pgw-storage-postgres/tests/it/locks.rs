//! Whoever waits for somebody's lock keeps nobody else waiting.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use pgw_core::access::ApiKey;
use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::gateway::Origin;
use pgw_core::storage::{Storage as _, StorageError};
use pgw_core::testing::sample::{Samples, scope};
use pgw_storage_postgres::sqlx::{AssertSqlSafe, query_scalar, raw_sql};
use pgw_storage_postgres::{Group, PgStorage, Timeouts};
use tokio::runtime::Builder;

use crate::fixtures::{Leg, connection, schema, schema_of};
use crate::world::{HEALTHY, World, keyed};

/// A storage that waits for locks for as long as a test may take.
async fn patient(leg: Leg) -> PgStorage {
    let builder = leg.builder(&schema().await).with_timeouts(patience());
    builder.connect(&leg.url()).await.expect("the schema was just migrated")
}

fn patience() -> Timeouts {
    let mut timeouts = Timeouts::default();
    timeouts.lock = Duration::from_secs(300);
    timeouts.statement = Duration::from_secs(300);
    timeouts.idle_in_transaction = Duration::from_secs(300);
    timeouts
}

/// A host's transaction holds a key. A hundred callers want it, and wait; everybody else is served meanwhile, however long it takes.
async fn a_held_key_keeps_nobody_else_waiting(leg: Leg) {
    let pg = patient(leg).await;
    let world = World::on(&pg);
    let mut transaction = pg.pool().begin().await.expect(HEALTHY);
    let storage = pg.enlist(&mut transaction);
    let first = world.gateway.on(&storage).create_payment(keyed("held")).await.expect(HEALTHY);
    drop(storage);
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let gateway = world.gateway.clone();
            tokio::spawn(async move { gateway.host().create_payment(keyed("held")).await })
        })
        .collect();
    for round in 0..20 {
        let others: Vec<_> = (0..20)
            .map(|n| {
                let gateway = world.gateway.clone();
                let key = format!("other-{round}-{n}");
                tokio::spawn(async move { gateway.host().create_payment(keyed(&key)).await })
            })
            .collect();
        for other in others {
            let receipt = other.await.expect("it must not panic").expect(HEALTHY);
            assert_eq!(receipt.origin, Origin::First);
        }
    }
    assert!(waiting.iter().all(|task| !task.is_finished()), "somebody did not wait for the key");
    transaction.commit().await.expect(HEALTHY);
    for task in waiting {
        let receipt = task.await.expect("it must not panic").expect(HEALTHY);
        assert_eq!(receipt.origin, Origin::Replayed);
        assert_eq!(receipt.payment().id, first.payment().id, "the key made two payments");
    }
}

#[tokio::test]
async fn a_key_that_a_host_holds_keeps_nobody_else_waiting() {
    a_held_key_keeps_nobody_else_waiting(Leg::Pool).await;
}

#[tokio::test]
async fn a_key_that_a_host_holds_keeps_nobody_else_waiting_behind_a_pooler() {
    a_held_key_keeps_nobody_else_waiting(Leg::Pooler).await;
}

#[tokio::test]
async fn a_payment_that_a_host_holds_keeps_nobody_else_waiting() {
    let pg = patient(Leg::Pool).await;
    let samples = Samples::new(1);
    let creation = samples.creation();
    pg.commit(creation.changes()).await.expect(HEALTHY);
    let next = |version: u64| {
        let mut payment = creation.payment.clone();
        payment.version = version + 1;
        Changes::new(samples.scope().clone())
            .guard(Guard::Payment { id: payment.id, version })
            .write(Write::Payment(Box::new(payment)))
    };
    let mut transaction = pg.pool().begin().await.expect(HEALTHY);
    let storage = pg.enlist(&mut transaction);
    storage.commit(next(1)).await.expect(HEALTHY);
    drop(storage);
    let waits = tokio::spawn({
        let (pg, changes) = (pg.clone(), next(1));
        async move { pg.commit(changes).await }
    });
    for _ in 0..50 {
        let other = samples.creation();
        assert!(matches!(pg.commit(other.changes()).await, Ok(Committed::Applied { .. })));
    }
    assert!(!waits.is_finished(), "it did not wait for the row");
    transaction.commit().await.expect(HEALTHY);
    let lost = waits.await.expect("it must not panic");
    assert!(matches!(lost, Err(StorageError::Conflict(_))), "{lost:?}");
    pg.commit(next(2)).await.expect("the version is the host's now");
}

/// A batch takes merchants in turn, so a rush of one does not hold up another. Nothing is measured: all are served.
#[tokio::test]
async fn merchants_in_a_rush_are_all_served() {
    let pg = patient(Leg::Pool).await;
    let samples = Samples::new(2);
    let mut tasks = Vec::new();
    for n in 0..600 {
        let merchant = if n % 20 == 0 { "small" } else { "large" };
        let there = samples.of(scope(merchant, pgw_core::scope::Mode::Test));
        let (pg, changes) = (pg.clone(), there.creation().changes());
        tasks.push(tokio::spawn(async move { pg.commit(changes).await }));
    }
    for task in tasks {
        let done = task.await.expect("it must not panic");
        assert!(matches!(done, Ok(Committed::Applied { .. })), "{done:?}");
    }
}

/// Somebody revokes a key in a transaction of theirs. Whoever uses it meanwhile is not kept waiting to note that.
#[tokio::test]
async fn a_key_that_is_being_changed_keeps_no_request_waiting() {
    for leg in [Leg::Pool, Leg::Pooler] {
        let (pg, samples) = (patient(leg).await, Samples::new(7));
        let mut key = samples.api_key();
        let scope = key.scope.clone();
        let write = |key: &ApiKey| {
            Changes::new(key.scope.clone()).write(Write::ApiKey(Box::new(key.clone())))
        };
        pg.commit(write(&key)).await.expect(HEALTHY);
        let mut transaction = pg.pool().begin().await.expect(HEALTHY);
        let storage = pg.enlist(&mut transaction);
        key.revoked_at = Some(samples.now());
        storage.commit(write(&key)).await.expect(HEALTHY);
        // The one who changes it may note a use too, and is not in their own way.
        let used_at = samples.now();
        storage.touch_api_key(&scope, key.id, used_at).await.expect(HEALTHY);
        drop(storage);
        pg.touch_api_key(&scope, key.id, samples.now()).await.expect("it is passed over");
        transaction.commit().await.expect(HEALTHY);
        key.last_used_at = Some(used_at);
        assert_eq!(pg.api_key_by_id(&scope, key.id).await.expect(HEALTHY), Some(key));
    }
}

/// The runtime of whoever was to commit it ends. It was not sent, and nobody waits for ever.
#[tokio::test]
async fn a_commit_that_was_left_to_a_runtime_that_ended_is_answered() {
    let builder = Leg::Pool.builder(&schema().await).with_timeouts(patience());
    let builder = builder.with_group(Group::On { committers: 1, commits_max: 1 });
    let pg = builder.connect(&Leg::Pool.url()).await.expect("the schema was just migrated");
    let samples = Samples::new(8);
    let mut other = connection().await;
    let lock = format!("begin; lock table {}.payments in access exclusive mode", schema_of(&pg));
    raw_sql(AssertSqlSafe(lock)).execute(&mut other).await.expect(HEALTHY);
    let elsewhere = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let elsewhere = elsewhere.expect("a thread more");
    let (mut first, mut second) =
        (pg.commit(samples.creation().changes()), pg.commit(samples.creation().changes()));
    let entered = elsewhere.enter();
    assert!(poll_once(&mut first).await.is_none(), "the table is locked");
    drop(entered);
    let waits = format!(
        "select exists (select from pg_locks where not granted and relation = '{}.payments'::regclass)",
        schema_of(&pg)
    );
    while !query_scalar::<_, bool>(AssertSqlSafe(waits.clone()))
        .fetch_one(&mut other)
        .await
        .expect(HEALTHY)
    {}
    assert!(poll_once(&mut second).await.is_none(), "the only committer is at the first");
    elsewhere.shutdown_background();
    let (first, second) = (first.await, second.await);
    assert!(matches!(first, Err(StorageError::Indeterminate(_))), "{first:?}");
    assert!(matches!(second, Err(StorageError::Unavailable(_))), "{second:?}");
    raw_sql("rollback").execute(&mut other).await.expect(HEALTHY);
    let next = pg.commit(samples.creation().changes()).await;
    assert!(matches!(next, Ok(Committed::Applied { .. })), "{next:?}");
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

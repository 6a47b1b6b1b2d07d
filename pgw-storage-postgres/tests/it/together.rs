//! Payments read by many at once: each gets its own, as it is by the time it asks.

use std::sync::Arc;

use pgw_core::changes::{Changes, Write};
use pgw_core::id::PaymentId;
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::Storage as _;
use pgw_core::testing::sample::{Creation, Samples, scope};
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::{AssertSqlSafe, raw_sql};

use crate::fixtures::{Leg, Under, schema_of};
use crate::world::HEALTHY;

async fn created(pg: &PgStorage, scopes: &[Scope], each: usize) -> Vec<(Scope, Creation)> {
    let samples = Samples::new(1);
    let mut made = Vec::new();
    for scope in scopes {
        let there = samples.of(scope.clone());
        for _ in 0..each {
            let creation = there.creation();
            pg.commit(creation.changes()).await.expect(HEALTHY);
            made.push((scope.clone(), creation));
        }
    }
    made
}

/// Whoever asks for a payment gets that one with its operations, or learns that it is not there: of other merchants', modes and ids too.
async fn each_gets_its_own(leg: Leg) {
    let pg = Under::test(leg).await.storage;
    let scopes = [scope("a", Mode::Live), scope("a", Mode::Test), scope("b", Mode::Live)];
    let made = Arc::new(created(&pg, &scopes, 30).await);
    let mut readers = Vec::new();
    for n in 0..900 {
        let (pg, made, scopes) = (pg.clone(), Arc::clone(&made), scopes.clone());
        readers.push(tokio::spawn(async move {
            let (of, creation) = &made[n % made.len()];
            let asked = &scopes[n / made.len() % scopes.len()];
            let found = pg.payment(asked, creation.payment.id).await.expect(HEALTHY);
            let expected =
                (asked == of).then(|| (creation.payment.clone(), vec![creation.charge.clone()]));
            assert_eq!(found.map(|state| (state.payment, state.operations)), expected);
            asked == of
        }));
    }
    let mut count = 0;
    for reader in readers {
        count += usize::from(reader.await.expect("it found what it was to"));
    }
    assert_eq!(count, 300, "a third of them asked in the payment's scope");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gets_its_own_from_a_pool() {
    each_gets_its_own(Leg::Pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gets_its_own_through_a_pooler() {
    each_gets_its_own(Leg::Pooler).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gets_its_own_where_statements_are_of_one_merchant() {
    each_gets_its_own(Leg::Distributed).await;
}

/// What was committed before somebody asks is what it gets, however many ask for the same payment at the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_what_was_before_it_asked() {
    let pg = Under::test(Leg::Pool).await.storage;
    let made = created(&pg, &[scope("a", Mode::Live)], 1).await;
    let (scope, creation) = made.into_iter().next().expect("one was made");
    let id = creation.payment.id;
    let others = (0..32).map(|_| {
        let (pg, scope) = (pg.clone(), scope.clone());
        tokio::spawn(async move {
            loop {
                let _ = pg.payment(&scope, id).await.expect(HEALTHY);
            }
        })
    });
    let others: Vec<_> = others.collect();
    let mut payment = creation.payment;
    for version in 2..200 {
        payment.version = version;
        let changes = Changes::new(scope.clone()).write(Write::Payment(Box::new(payment.clone())));
        pg.commit(changes).await.expect(HEALTHY);
        let found = pg.payment(&scope, id).await.expect(HEALTHY).expect("it is there");
        assert_eq!(found.payment.version, version);
    }
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

/// One row that cannot be read is the misfortune of those who ask for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_read_is_no_neighbours_error() {
    let pg = Under::test(Leg::Pool).await.storage;
    let made = created(&pg, &[scope("a", Mode::Live)], 20).await;
    let broken = made[7].1.payment.id;
    let break_it = format!(
        "update {}.payments set currency = 'XXX' where id = '{}'",
        schema_of(&pg),
        broken.as_uuid()
    );
    raw_sql(AssertSqlSafe(break_it)).execute(pg.pool()).await.expect("nothing checks that");
    let mut readers = Vec::new();
    for n in 0..400 {
        let (scope, creation) = &made[n % made.len()];
        let (pg, scope, id): (_, _, PaymentId) = (pg.clone(), scope.clone(), creation.payment.id);
        readers.push(tokio::spawn(async move { (id, pg.payment(&scope, id).await.is_ok()) }));
    }
    for reader in readers {
        let (id, is_read) = reader.await.expect("it ends");
        assert_eq!(is_read, id != broken);
    }
}

//! Where answers are kept: in the event that tells them, until erasure rewrites it.

use pgw_core::error::Error;
use pgw_core::gateway::Origin;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::representation;
use pgw_core::scope::Scope;
use pgw_core::storage::{Storage as _, StorageError};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::{self, AssertSqlSafe, Connection as _, Row as _};

use crate::fixtures::{Leg, Under, connection, schema_of};
use crate::world::{HEALTHY, World, keyed};

/// Whether the keys that have an answer have it themselves.
async fn are_own(pg: &PgStorage) -> Vec<bool> {
    let schema = schema_of(pg);
    let sql = format!(
        "select k.answer_body is not null, k.answer_event is not null, e.id is not null from {schema}.idempotency_keys k \
         left join {schema}.events e on e.merchant = k.merchant and e.live = k.live and e.id = k.answer_event and e.payment = k.payment \
         where k.answer_status is not null order by k.key"
    );
    let mut owner = connection().await;
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut owner).await.expect(HEALTHY);
    owner.close().await.expect(HEALTHY);
    let own = rows.iter().map(|row| {
        let (is_own, is_told, is_there): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((is_told, is_there), (!is_own, !is_own));
        is_own
    });
    own.collect()
}

async fn are_kept_in_their_events(leg: Leg) {
    let pg = Under::test(leg).await.storage;
    let world = World::on(&pg);
    let host = world.gateway.host();
    let new = |key: &str| {
        let mut new = keyed(key);
        new.customer.id = Some(CustomerId::parse("cus_1").expect("a valid id"));
        new
    };
    // One alone, and two together.
    let first = host.create_payment(new("a")).await.expect(HEALTHY);
    let (second, third) =
        tokio::join!(host.create_payment(new("b")), host.create_payment(new("c")));
    let all = [first, second.expect(HEALTHY), third.expect(HEALTHY)];
    assert_eq!(are_own(&pg).await, [false; 3]);
    for (key, made) in ["a", "b", "c"].into_iter().zip(&all) {
        let again = host.create_payment(new(key)).await.expect(HEALTHY);
        assert_eq!((again.origin, &again.answer), (Origin::Replayed, &made.answer));
        let body = &made.answer.as_ref().expect("it is answered").body;
        assert_eq!(*body, representation::payment(made.payment()), "{key}");
    }
    // Erasure changes the events; the answers are what it makes of them.
    host.erase_customer(&CustomerId::parse("cus_1").expect("a valid id")).await.expect(HEALTHY);
    let marked = host.create_payment(new("b")).await.expect(HEALTHY).answer.expect("it is kept");
    assert!(!marked.body.windows(8).any(|part| part == b"Lovelace"), "it is shown");
    assert_eq!(are_own(&pg).await, [false; 3]);
    assert_eq!(pg.redact_payments(Timestamp::EPOCH, 10).await.expect(HEALTHY), 3);
    assert_eq!(are_own(&pg).await, [true; 3]);
    let rewritten = host.create_payment(new("b")).await.expect(HEALTHY).answer;
    assert_eq!(rewritten, Some(marked));
}

#[tokio::test]
async fn the_answer_to_a_creation_is_kept_in_its_event() {
    are_kept_in_their_events(Leg::Pool).await;
}

#[tokio::test]
async fn the_answer_to_a_creation_is_kept_in_its_event_on_a_distributed_engine() {
    are_kept_in_their_events(Leg::Distributed).await;
}

#[tokio::test]
async fn the_answer_to_a_creation_is_kept_in_its_event_in_partitions() {
    are_kept_in_their_events(Leg::Partitioned).await;
}

/// Nothing of ours deletes an event. Should somebody, what it answered is not known, which is not "in flight": that would be said for ever.
#[tokio::test]
async fn an_answer_whose_event_was_deleted_is_an_error() {
    let pg = Under::test(Leg::Pool).await.storage;
    let world = World::on(&pg);
    world.gateway.host().create_payment(keyed("a")).await.expect(HEALTHY);
    let mut owner = connection().await;
    let delete = format!("delete from {}.events", schema_of(&pg));
    sqlx::query(AssertSqlSafe(delete)).execute(&mut owner).await.expect(HEALTHY);
    let key = IdempotencyKey::parse("a").expect("a valid key");
    let found = pg.key(&Scope::default(), &key).await;
    assert!(matches!(found, Err(StorageError::Corrupt(_))), "{found:?}");
    let again = world.gateway.host().create_payment(keyed("a")).await;
    assert!(matches!(again, Err(Error::Storage(_))), "{again:?}");
}

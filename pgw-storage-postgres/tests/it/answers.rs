//! Where answers are kept: in the event that tells them, until erasure rewrites it.

use pgw_core::error::Error;
use pgw_core::gateway::{Gateway, Origin, Receipt};
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::payment::plan::NewPayment;
use pgw_core::representation;
use pgw_core::scope::Scope;
use pgw_core::storage::{Storage as _, StorageError};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::{self, AssertSqlSafe, Connection as _, Row as _, raw_sql};

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

fn ada() -> CustomerId {
    CustomerId::parse("cus_1").expect("a valid id")
}

fn adas(key: &str) -> NewPayment {
    let mut new = keyed(key);
    new.customer.id = Some(ada());
    new
}

/// What creations under these keys come to, asked for at once.
async fn together(gateway: &Gateway, keys: &[String]) -> Vec<Result<Receipt, Error>> {
    let created = keys.iter().map(|key| {
        let (gateway, new) = (gateway.clone(), adas(key));
        tokio::spawn(async move { gateway.host().create_payment(new).await })
    });
    let mut done = Vec::new();
    for created in created.collect::<Vec<_>>() {
        done.push(created.await.expect("it must not panic"));
    }
    done
}

async fn run(sql: String) {
    let mut owner = connection().await;
    raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.expect(HEALTHY);
    owner.close().await.expect(HEALTHY);
}

async fn are_kept_in_their_events(leg: Leg) {
    let pg = Under::test(leg).await.storage;
    let gateway = World::on(&pg).gateway;
    // One alone, and many together.
    let mut made = vec![gateway.host().create_payment(adas("k00")).await];
    let mut keys: Vec<String> = (1..40).map(|n| format!("k{n:02}")).collect();
    made.extend(together(&gateway, &keys).await);
    keys.insert(0, "k00".to_owned());
    assert_eq!(are_own(&pg).await, [false; 40]);
    let again = together(&gateway, &keys).await;
    for (made, again) in made.iter().zip(&again) {
        let (made, again) = (made.as_ref().expect(HEALTHY), again.as_ref().expect(HEALTHY));
        assert_eq!((again.origin, &again.answer), (Origin::Replayed, &made.answer));
        let body = &made.answer.as_ref().expect("it is answered").body;
        assert_eq!(*body, representation::payment(made.payment()));
    }
    // Erasure changes the events; the answers are what it makes of them.
    gateway.host().erase_customer(&ada()).await.expect(HEALTHY);
    let marked = gateway.host().create_payment(adas("k07")).await.expect(HEALTHY).answer;
    let body = &marked.as_ref().expect("it is kept").body;
    assert!(!body.windows(8).any(|part| part == b"Lovelace"), "it is shown");
    assert_eq!(are_own(&pg).await, [false; 40]);
    assert_eq!(pg.redact_payments(Timestamp::EPOCH, 100).await.expect(HEALTHY), 40);
    assert_eq!(are_own(&pg).await, [true; 40]);
    let rewritten = gateway.host().create_payment(adas("k07")).await.expect(HEALTHY).answer;
    assert_eq!(rewritten, marked);
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

/// Nothing of ours deletes an event. Should somebody, what it answered is not known, which is not "in flight": that would be said for ever. Nobody
/// else's answer or erasure suffers.
#[tokio::test]
async fn an_answer_whose_event_was_deleted_is_an_error_of_its_key_only() {
    let pg = Under::test(Leg::Pool).await.storage;
    let gateway = World::on(&pg).gateway;
    let keys: Vec<String> = (0..8).map(|n| format!("k{n}")).collect();
    let made = together(&gateway, &keys).await;
    let gone = made[3].as_ref().expect(HEALTHY).payment().id.as_uuid();
    run(format!("delete from {}.events where payment = '{gone}'", schema_of(&pg))).await;
    for round in 0..2 {
        for (n, again) in together(&gateway, &keys).await.into_iter().enumerate() {
            match again {
                Ok(again) => assert_eq!((again.origin, n == 3), (Origin::Replayed, false)),
                Err(Error::Storage(StorageError::Corrupt(_))) => assert_eq!(n, 3),
                Err(error) => panic!("{n}: {error:?}"),
            }
        }
        // The second time, of an erased customer.
        gateway.host().erase_customer(&ada()).await.expect(HEALTHY);
        let redacted = pg.redact_payments(Timestamp::EPOCH, 100).await.expect(HEALTHY);
        assert_eq!(redacted, if round == 0 { 8 } else { 0 });
        let sql = format!(
            "select count(*) from {}.idempotency_keys where answer_body is not null and answer_event is null",
            schema_of(&pg)
        );
        let own = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(pg.pool()).await;
        assert_eq!(own.expect(HEALTHY), 7);
    }
    let found = pg.key(&Scope::default(), &IdempotencyKey::parse("k3").expect("a key")).await;
    assert!(matches!(found, Err(StorageError::Corrupt(_))), "{found:?}");
}

/// A process of before erases and purges beside ours: it does not know that answers are in events.
#[tokio::test]
async fn an_answer_whose_event_was_rewritten_by_a_process_of_before_is_no_answer() {
    let pg = Under::test(Leg::Pool).await.storage;
    let gateway = World::on(&pg).gateway;
    let schema = schema_of(&pg);
    gateway.host().create_payment(adas("a")).await.expect(HEALTHY);
    gateway.host().erase_customer(&ada()).await.expect(HEALTHY);
    run(format!(
        "update {schema}.events set body = 'x' || body; update {schema}.erased_payments set redacted_at = now()"
    ))
    .await;
    let again = gateway.host().create_payment(adas("a")).await;
    assert!(matches!(again, Err(Error::Storage(StorageError::Corrupt(_)))), "{again:?}");
    run(format!("update {schema}.idempotency_keys set answer_status = null, answer_body = null"))
        .await;
    let key = IdempotencyKey::parse("a").expect("a valid key");
    let found = pg.key(&Scope::default(), &key).await.expect(HEALTHY).expect("it is claimed");
    assert_eq!(found.claim.answer, None);
}

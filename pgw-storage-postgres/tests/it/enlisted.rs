//! Inside the host's own transaction: together or not at all, usable after a refusal, and quiet until the host commits.

use std::sync::Arc;

use pgw_core::access::Role;
use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::error::Error;
use pgw_core::gateway::{AccessError, Gateway, NewApiKey, NewDeniedNetwork, Origin};
use pgw_core::idempotency::KeyClaim;
use pgw_core::notifier::{Hint, Notifier as _};
use pgw_core::page::PageRequest;
use pgw_core::payment::PaymentStatus;
use pgw_core::payment::plan::{NewCapture, NewRefund, RequestedAmount};
use pgw_core::queue::Lane;
use pgw_core::scope::Scope;
use pgw_core::storage::{PaymentFilter, Storage as _, StorageError};
use pgw_core::testing::sample::Samples;
use pgw_core::text::{Description, Reason};
use pgw_core::webhook::EndpointUrl;
use pgw_core::webhook::plan::NewEndpoint;
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::{self, AssertSqlSafe, Row as _};

use crate::fixtures::{Leg, Under, schema_of};
use crate::world::{HEALTHY, World, held, keyed, order};

/// A table of the host's beside ours.
async fn with_orders(pg: &PgStorage) -> String {
    let table = format!("{}.host_orders", schema_of(pg));
    let create = format!("create table {table} (id bigint primary key, payment text not null)");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(pg.pool()).await.expect(HEALTHY);
    table
}

async fn orders(pg: &PgStorage, table: &str) -> i64 {
    let count = format!("select count(*) from {table}");
    sqlx::query(AssertSqlSafe(count)).fetch_one(pg.pool()).await.expect(HEALTHY).get(0)
}

async fn payments(pg: &PgStorage) -> usize {
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    let all = pg.payments(&Scope::default(), &PaymentFilter::default(), page).await;
    all.expect(HEALTHY).data.len()
}

#[tokio::test]
async fn an_order_and_its_payment_are_there_together_or_not_at_all() {
    let pg = Under::test(Leg::Pool).await.storage;
    let (world, table) = (World::on(&pg), with_orders(&pg).await);
    for (n, commits) in [(1_i64, false), (2, true)] {
        let mut transaction = pg.pool().begin().await.expect(HEALTHY);
        let storage = pg.enlist(&mut transaction);
        let receipt = world.gateway.on(&storage).create_payment(keyed("order")).await;
        let id = receipt.expect(HEALTHY).payment().id;
        drop(storage);
        let insert = format!("insert into {table} values ($1, $2)");
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(n).bind(id.to_string());
        insert.execute(&mut *transaction).await.expect(HEALTHY);
        assert_eq!((payments(&pg).await, orders(&pg, &table).await), (0, 0), "seen too early");
        if commits {
            transaction.commit().await.expect(HEALTHY);
        } else {
            transaction.rollback().await.expect(HEALTHY);
        }
    }
    assert_eq!((payments(&pg).await, orders(&pg, &table).await), (1, 1));
}

#[tokio::test]
async fn every_verb_that_writes_works_inside_and_is_undone_by_a_rollback() {
    let pg = Under::test(Leg::Pool).await.storage;
    let world = World::on(&pg);
    let worker = world.work();
    let host = world.gateway.host();
    let patience = std::time::Duration::from_secs(20);
    let mut ready = Vec::new();
    for key in ["to capture", "to cancel"] {
        let key = key.replace(' ', "-");
        let id = host.create_payment(held(&key)).await.expect(HEALTHY).payment().id;
        let state = host.wait_for(id, None, patience).await.expect(HEALTHY);
        assert_eq!(state.payment.status, PaymentStatus::Authorized);
        ready.push(id);
    }
    let paid = host.create_payment(keyed("paid")).await.expect(HEALTHY).payment().id;
    let state = host.wait_for(paid, None, patience).await.expect(HEALTHY);
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    worker.shutdown().await;

    for commits in [false, true] {
        let mut transaction = pg.pool().begin().await.expect(HEALTHY);
        let storage = pg.enlist(&mut transaction);
        let inside = world.gateway.on(&storage);
        let part = RequestedAmount::Decimal("10".into());
        inside.capture_payment(ready[0], NewCapture::default()).await.expect("captures");
        inside.cancel_payment(ready[1], None).await.expect("cancels");
        let refund = NewRefund { amount: part, ..NewRefund::default() };
        inside.refund_payment(paid, refund).await.expect("refunds");
        let url = EndpointUrl::parse("https://hooks.example.com/in").expect("a valid address");
        let endpoint = inside.create_endpoint(NewEndpoint::new(url)).await.expect("registers");
        inside.test_endpoint(endpoint.endpoint.id).await.expect("pings");
        inside.create_payment(order()).await.expect("creates");
        drop(storage);
        if commits {
            transaction.commit().await.expect(HEALTHY);
        } else {
            transaction.rollback().await.expect(HEALTHY);
        }
        let expected = if commits { 2 } else { 1 };
        for id in [ready[0], ready[1], paid] {
            let state = pg.payment(&Scope::default(), id).await.expect(HEALTHY);
            assert_eq!(
                state.expect("it is there").operations.len(),
                expected,
                "commits: {commits}"
            );
        }
        let endpoints = host.endpoints(PageRequest::default()).await.expect(HEALTHY).data.len();
        assert_eq!(endpoints, usize::from(commits));
    }
}

#[tokio::test]
async fn the_transaction_is_usable_after_a_refusal() {
    let pg = Under::test(Leg::Pool).await.storage;
    let samples = Samples::new(1);
    let mut existing = samples.creation();
    let claim = KeyClaim { answer: Some(samples.answer()), ..samples.claim(existing.target()) };
    let changes = existing.keyed(claim.clone());
    assert!(matches!(pg.commit(changes.clone()).await, Ok(Committed::Applied { .. })));

    let mut transaction = pg.pool().begin().await.expect(HEALTHY);
    let storage = pg.enlist(&mut transaction);
    // A guard that does not hold, with and without a key.
    let again = storage.commit(existing.changes()).await;
    assert!(matches!(again, Err(StorageError::Conflict(_))), "{again:?}");
    let other = existing.changes().claim(Some(samples.claim(existing.target())));
    let other = storage.commit(other).await;
    assert!(matches!(other, Err(StorageError::Conflict(_))), "{other:?}");
    let stale = Changes::new(samples.scope().clone())
        .guard(Guard::Payment { id: existing.payment.id, version: 9 })
        .write(Write::Payment(Box::new(samples.touched(&existing.payment))));
    let stale = storage.commit(stale).await;
    assert!(matches!(stale, Err(StorageError::Conflict(_))), "{stale:?}");
    // A replay, and another request under the key.
    let replay = storage.commit(changes).await;
    assert!(matches!(replay, Ok(Committed::Replayed { .. })), "{replay:?}");
    let mut creation = samples.creation();
    let reused = KeyClaim { fingerprint: samples.loose_claim().fingerprint, ..claim };
    let reused = storage.commit(creation.keyed(reused)).await;
    assert!(matches!(reused, Err(StorageError::KeyReused)), "{reused:?}");
    // A row that is not there.
    let orphan = Write::Answer { key: samples.key(), answer: samples.answer() };
    let missing = storage.commit(Changes::new(samples.scope().clone()).write(orphan)).await;
    assert!(matches!(missing, Err(StorageError::Missing(_))), "{missing:?}");
    // And it goes on.
    let creation = samples.creation();
    storage.commit(creation.changes()).await.expect("the transaction is usable");
    drop(storage);
    transaction.commit().await.expect(HEALTHY);
    let found = pg.payment(samples.scope(), creation.payment.id).await.expect(HEALTHY);
    assert_eq!(found.map(|state| state.payment), Some(creation.payment));
}

#[tokio::test]
async fn another_isolation_level_is_refused_before_anything_is_written() {
    let pg = Under::test(Leg::Pool).await.storage;
    let samples = Samples::new(2);
    for level in ["repeatable read", "serializable"] {
        let begin = format!("begin isolation level {level}");
        let mut transaction = pg.pool().begin_with(AssertSqlSafe(begin)).await.expect(HEALTHY);
        let creation = samples.creation();
        {
            let storage = pg.enlist(&mut transaction);
            let refused = storage.commit(creation.changes()).await;
            assert!(matches!(refused, Err(StorageError::Unsupported(_))), "{level}: {refused:?}");
            let refused = storage.stamp_events(1).await;
            assert!(matches!(refused, Err(StorageError::Unsupported(_))), "{level}: {refused:?}");
        }
        transaction.commit().await.expect("nothing was wrong with the transaction");
        let found = pg.payment(samples.scope(), creation.payment.id).await.expect(HEALTHY);
        assert_eq!(found, None, "{level}: it was written");
    }
}

#[tokio::test]
async fn hints_go_out_with_the_hosts_commit() {
    let pg = Under::test(Leg::Pool).await.storage;
    let world = World::on(&pg);
    // Another process's ears and another one's voice.
    let (ears, voice) = (pg.notifier(), pg.notifier());
    let mut subscription = ears.subscribe().await.expect(HEALTHY);
    let mut transaction = pg.pool().begin().await.expect(HEALTHY);
    let storage = pg.enlist(&mut transaction);
    let receipt = world.gateway.on(&storage).create_payment(order()).await.expect(HEALTHY);
    drop(storage);
    voice.publish(&[Hint::Stamped]).await.expect(HEALTHY);
    assert_eq!(subscription.next().await, Hint::Stamped, "a hint before the commit");
    transaction.commit().await.expect(HEALTHY);
    let mut heard = Vec::new();
    while ![Hint::Events, Hint::Work(Lane::Operations)].iter().all(|hint| heard.contains(hint)) {
        heard.push(subscription.next().await);
    }
    // Whoever waits for a payment knows it, so that a new one is nobody's; its first change is.
    let mut transaction = pg.pool().begin().await.expect(HEALTHY);
    let storage = pg.enlist(&mut transaction);
    let (id, scope) = (receipt.payment().id, Scope::default());
    let touched = Samples::new(9).touched(receipt.payment());
    let changes = Changes::new(scope.clone())
        .guard(Guard::Payment { id, version: 1 })
        .write(Write::Payment(Box::new(touched)));
    storage.commit(changes).await.expect(HEALTHY);
    drop(storage);
    transaction.commit().await.expect(HEALTHY);
    let changed = Hint::Payment { scope, id };
    assert!(!heard.contains(&changed), "{heard:?}");
    while subscription.next().await != changed {}
}

#[tokio::test]
async fn a_key_claimed_inside_is_replayed_after_the_commit_and_free_after_a_rollback() {
    let pg = Under::test(Leg::Pool).await.storage;
    let world = World::on(&pg);
    for commits in [false, true] {
        let mut transaction = pg.pool().begin().await.expect(HEALTHY);
        let storage = pg.enlist(&mut transaction);
        let inside = world.gateway.on(&storage).create_payment(keyed("k")).await.expect(HEALTHY);
        drop(storage);
        // Somebody with the same key comes while the host has not decided.
        let gateway = world.gateway.clone();
        let outside = tokio::spawn(async move { gateway.host().create_payment(keyed("k")).await });
        if commits {
            transaction.commit().await.expect(HEALTHY);
        } else {
            transaction.rollback().await.expect(HEALTHY);
        }
        let outside = outside.await.expect("it must not panic").expect(HEALTHY);
        if commits {
            // The first round's: that transaction was rolled back, so the caller from outside was the first.
            assert_eq!((outside.origin, inside.origin), (Origin::Replayed, Origin::Replayed));
        } else {
            assert_eq!((outside.origin, inside.origin), (Origin::First, Origin::First));
            assert_ne!(outside.payment().id, inside.payment().id);
        }
    }
    assert_eq!(payments(&pg).await, 1);
    let reused = world.gateway.host().create_payment(held("k")).await;
    assert!(matches!(reused, Err(Error::KeyReused)), "{reused:?}");
}

/// A revocation and a freeze hold when the host commits, not before, and not at all when it rolls back; then the process that did it knows
/// without asking, as all others do.
#[tokio::test]
async fn what_shuts_others_out_holds_from_the_hosts_commit_on() {
    let pg = Under::test(Leg::Pool).await.storage;
    let notifier = pg.notifier();
    let gateway = Gateway::builder()
        .with_storage(Arc::new(pg.clone()))
        .with_queue(Arc::new(pg.queue()))
        .with_notifier(Arc::new(notifier.clone()))
        .build()
        .expect("it has all its parts");
    let host = gateway.host();
    let name = Description::parse("checkout").expect("a valid text");
    let new = NewApiKey { role: Role::Service, name, expires_in: None };
    let (key, secret) = host.create_api_key(new).await.expect(HEALTHY);
    let reason = Reason::parse("it leaked").expect("a valid text");
    let address = [203, 0, 113, 7].into();
    assert!(gateway.authenticate(secret.expose()).await.is_ok());
    let mut hints = notifier.subscribe().await.expect(HEALTHY);
    for commits in [false, true] {
        let mut transaction = pg.pool().begin().await.expect(HEALTHY);
        let storage = pg.enlist(&mut transaction);
        let inside = gateway.on(&storage);
        inside.revoke_api_key(key.id).await.expect("revokes");
        inside.freeze(&reason).await.expect("freezes");
        let network = "203.0.113.0/24".parse().expect("a valid network");
        let denial = NewDeniedNetwork { network, reason: None, expires_in: None };
        inside.deny_network(denial).await.expect("denies");
        drop(storage);
        assert!(gateway.authenticate(secret.expose()).await.is_ok(), "shut too early");
        assert!(!gateway.is_denied(address).await, "denied too early");
        if commits {
            transaction.commit().await.expect(HEALTHY);
        } else {
            transaction.rollback().await.expect(HEALTHY);
            host.create_payment(order()).await.expect("nothing is frozen");
        }
    }
    // What one subscription of a notifier has heard, the others have too.
    let mut wanted = vec![Hint::KeyRevoked(key.prefix), Hint::ShieldChanged];
    while !wanted.is_empty() {
        let heard = hints.next().await;
        wanted.retain(|hint| *hint != heard);
    }
    let refused = gateway.authenticate(secret.expose()).await;
    assert!(matches!(refused, Err(AccessError::Invalid)));
    assert!(gateway.is_denied(address).await);
    let frozen = host.create_payment(order()).await;
    assert!(matches!(frozen, Err(Error::Frozen)));
}

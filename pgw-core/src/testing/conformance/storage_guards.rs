//! Guards: each kind held, stale and about nothing; the first failure is named; one winner among many.

use super::fixture::StorageFixture;
use super::support::{
    RACERS, READS, apply, commit_at_once, conflict_on, created, delivering, payment, registered,
    replacing,
};
use crate::changes::{Changes, Committed, Guard, Write};
use crate::id::{DeliveryId, EndpointId, KeyId, PaymentId};
use crate::scope::Scope;
use crate::storage::{Storage, StorageError};
use crate::testing::sample::Samples;
use crate::webhook::Delivery;

/// "The payment has this version": the guard holds at that version.
pub async fn a_payment_guard_holds_at_its_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let id = created(&*storage, &samples).await.payment.id;
    holds(&*storage, samples.scope(), Guard::Payment { id, version: 1 }).await;
}

/// "The payment has this version": any other fails, a version to come too.
pub async fn a_payment_guard_fails_at_any_other_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let creation = created(&*storage, &samples).await;
    apply(&*storage, replacing(&samples.touched(&creation.payment))).await;
    let id = creation.payment.id;
    for version in WRONG_VERSIONS {
        fails(&*storage, samples.scope(), Guard::Payment { id, version }).await;
    }
}

/// "0: there is no such payment."
pub async fn a_payment_guard_of_version_0_means_there_is_none(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let id = PaymentId::mint(samples.env());
    holds(&*storage, samples.scope(), Guard::Payment { id, version: 0 }).await;
    fails(&*storage, samples.scope(), Guard::Payment { id, version: 1 }).await;
}

/// "The endpoint has this version": the guard holds at that version.
pub async fn an_endpoint_guard_holds_at_its_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let id = registered(&*storage, samples.endpoint()).await.id;
    holds(&*storage, samples.scope(), Guard::Endpoint { id, version: 1 }).await;
}

/// "The endpoint has this version": any other fails.
pub async fn an_endpoint_guard_fails_at_any_other_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let mut endpoint = registered(&*storage, samples.endpoint()).await;
    endpoint.version = 2;
    let id = registered(&*storage, endpoint).await.id;
    for version in WRONG_VERSIONS {
        fails(&*storage, samples.scope(), Guard::Endpoint { id, version }).await;
    }
}

/// "0: there is no such endpoint."
pub async fn an_endpoint_guard_of_version_0_means_there_is_none(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let id = EndpointId::mint(samples.env());
    holds(&*storage, samples.scope(), Guard::Endpoint { id, version: 0 }).await;
    fails(&*storage, samples.scope(), Guard::Endpoint { id, version: 1 }).await;
}

/// "The API key has this version": the guard holds at that version.
pub async fn an_api_key_guard_holds_at_its_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    let id = keyed(&*storage, &samples, 1).await;
    holds(&*storage, samples.scope(), Guard::ApiKey { id, version: 1 }).await;
}

/// "The API key has this version": any other fails.
pub async fn an_api_key_guard_fails_at_any_other_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    let id = keyed(&*storage, &samples, 2).await;
    for version in WRONG_VERSIONS {
        fails(&*storage, samples.scope(), Guard::ApiKey { id, version }).await;
    }
}

/// "0: there is no such key."
pub async fn an_api_key_guard_of_version_0_means_there_is_none(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let id = KeyId::mint(samples.env());
    holds(&*storage, samples.scope(), Guard::ApiKey { id, version: 0 }).await;
    fails(&*storage, samples.scope(), Guard::ApiKey { id, version: 1 }).await;
}

/// "The delivery has this version": storage made it with version 1.
pub async fn a_delivery_guard_holds_at_its_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let (_, delivery) = delivering(&*storage, &samples).await;
    holds(&*storage, samples.scope(), Guard::Delivery { id: delivery.id, version: 1 }).await;
}

/// "The delivery has this version": any other fails, and any at all when there is none.
pub async fn a_delivery_guard_fails_at_any_other_version(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let (creation, delivery) = delivering(&*storage, &samples).await;
    let next = Delivery { version: 2, updated_at: samples.now(), ..delivery };
    let changes = Changes::new(samples.scope().clone())
        .write(Write::Delivery { delivery: Box::new(next.clone()), due_in: None });
    apply(&*storage, changes).await;
    for version in WRONG_VERSIONS {
        fails(&*storage, samples.scope(), Guard::Delivery { id: next.id, version }).await;
    }
    let id = DeliveryId::new(creation.event.id, EndpointId::mint(samples.env()));
    fails(&*storage, samples.scope(), Guard::Delivery { id, version: 1 }).await;
}

/// "The consumer's cursor stands here; 0: it never moved."
pub async fn a_cursor_guard_holds_where_the_cursor_stands(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    holds(&*storage, samples.scope(), cursor("mail", 0)).await;
    apply(&*storage, moving(&samples, "mail", 0, 7)).await;
    holds(&*storage, samples.scope(), cursor("mail", 7)).await;
    assert_eq!(storage.cursor(samples.scope(), "mail").await.expect(READS), 7);
}

/// "The consumer's cursor stands here": anywhere else fails.
pub async fn a_cursor_guard_fails_anywhere_else(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    fails(&*storage, samples.scope(), cursor("mail", 1)).await;
    apply(&*storage, moving(&samples, "mail", 0, 7)).await;
    for position in [0, 6, 8] {
        fails(&*storage, samples.scope(), cursor("mail", position)).await;
    }
    holds(&*storage, samples.scope(), cursor("other consumer", 0)).await;
}

/// "The first that fails is named": whatever its kind and however many fail after it.
pub async fn the_first_failed_guard_is_named(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    let (creation, delivery) = delivering(&*storage, &samples).await;
    let failing = [
        Guard::Payment { id: creation.payment.id, version: 8 },
        Guard::Delivery { id: delivery.id, version: 8 },
        Guard::Endpoint { id: delivery.id.endpoint(), version: 8 },
        Guard::ApiKey { id: KeyId::mint(samples.env()), version: 8 },
        cursor("mail", 8),
    ];
    for first in 0..failing.len() {
        let mut changes = Changes::new(samples.scope().clone())
            .guard(Guard::Payment { id: creation.payment.id, version: 1 })
            .guard(Guard::Delivery { id: delivery.id, version: 1 });
        for offset in 0..failing.len() {
            changes = changes.guard(failing[(first + offset) % failing.len()].clone());
        }
        conflict_on(&*storage, changes, &failing[first]).await;
    }
}

/// Every guard of a commit must hold, the last one too.
pub async fn one_failed_guard_among_many_is_enough(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let creation = created(&*storage, &samples).await;
    let next = samples.touched(&creation.payment);
    let failing = cursor("mail", 4);
    let changes = replacing(&next)
        .guard(Guard::Endpoint { id: EndpointId::mint(samples.env()), version: 0 })
        .guard(cursor("mail", 0))
        .guard(failing.clone());
    conflict_on(&*storage, changes, &failing).await;
    assert_eq!(payment(&*storage, &creation).await, creation.payment);
}

/// "Guards and writes, in one scope": a guard does not see rows of another merchant or mode.
pub async fn a_guard_sees_its_own_scope_only(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let (creation, delivery) = delivering(&*storage, &samples).await;
    apply(&*storage, moving(&samples, "mail", 0, 7)).await;
    for scope in samples.foreign() {
        let id = creation.payment.id;
        fails(&*storage, &scope, Guard::Payment { id, version: 1 }).await;
        fails(&*storage, &scope, Guard::Delivery { id: delivery.id, version: 1 }).await;
        fails(&*storage, &scope, Guard::Endpoint { id: delivery.id.endpoint(), version: 1 }).await;
        fails(&*storage, &scope, cursor("mail", 7)).await;
        holds(&*storage, &scope, cursor("mail", 0)).await;
    }
}

/// "Of concurrent commits with one guard, at most one is applied": the others conflict on it.
pub async fn of_concurrent_commits_with_one_guard_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    let creation = created(&*storage, &samples).await;
    let guard = Guard::Payment { id: creation.payment.id, version: 1 };
    let changes = (0..RACERS).map(|_| replacing(&samples.touched(&creation.payment)));
    one_winner(commit_at_once(&storage, changes).await, &guard);
    assert_eq!(payment(&*storage, &creation).await.version, 2);
}

/// "Of concurrent commits with one guard": a guard that there is no such payment has one winner too.
pub async fn of_concurrent_creations_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(18));
    let creation = samples.creation();
    let guard = Guard::Payment { id: creation.payment.id, version: 0 };
    let changes = (0..RACERS).map(|_| {
        let mut again = creation.clone();
        again.event = samples.payment_event(&again.payment, again.event.event_type);
        again.changes()
    });
    one_winner(commit_at_once(&storage, changes).await, &guard);
    let events = storage.payment_events(samples.scope(), creation.payment.id, 0, 100).await;
    assert_eq!(events.expect(READS).len(), 1, "only the winner's event is there");
}

/// "Of concurrent commits with one guard": a cursor moves once from one place.
pub async fn of_concurrent_moves_of_a_cursor_one_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(19));
    let changes = (1..=RACERS as u64).map(|to| moving(&samples, "mail", 0, to));
    one_winner(commit_at_once(&storage, changes).await, &cursor("mail", 0));
    apply(&*storage, moving(&samples, "news", 0, 5)).await;
    let changes = (6..=RACERS as u64).map(|to| moving(&samples, "news", 5, to));
    one_winner(commit_at_once(&storage, changes).await, &cursor("news", 5));
}

/// A loser that loads again and plans again gets through: no update is lost among many.
pub async fn no_update_is_lost_when_losers_try_again(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(20));
    let creation = created(&*storage, &samples).await;
    let (scope, id) = (samples.scope().clone(), creation.payment.id);
    let turns = super::support::at_once((0..8).map(|_| {
        let (storage, samples, scope) =
            (std::sync::Arc::clone(&storage), samples.clone(), scope.clone());
        async move {
            for _ in 0..1_000 {
                let state = storage.payment(&scope, id).await.expect(READS).expect("it is there");
                let mut next = samples.touched(&state.payment);
                next.unknown_operations += 1;
                match storage.commit(replacing(&next)).await {
                    Ok(_) => return true,
                    Err(StorageError::Conflict(_)) => {}
                    Err(other) => panic!("only a conflict is expected, got {other:?}"),
                }
            }
            false
        }
    }))
    .await;
    assert!(turns.into_iter().all(|done| done), "somebody never got through");
    let last = payment(&*storage, &creation).await;
    assert_eq!((last.unknown_operations, last.version), (8, 9), "an update was lost");
}

/// Asserts that a commit under this guard is applied.
async fn holds(storage: &dyn Storage, scope: &Scope, guard: Guard) {
    match storage.commit(Changes::new(scope.clone()).guard(guard.clone())).await {
        Ok(Committed::Applied { .. }) => {}
        other => panic!("{guard:?} holds, so the commit must be applied, got {other:?}"),
    }
}

/// Asserts that a commit under this guard conflicts on it.
async fn fails(storage: &dyn Storage, scope: &Scope, guard: Guard) {
    conflict_on(storage, Changes::new(scope.clone()).guard(guard.clone()), &guard).await;
}

async fn keyed(storage: &dyn Storage, samples: &Samples, versions: u64) -> KeyId {
    let mut key = samples.api_key();
    for version in 1..=versions {
        key.version = version;
        let changes =
            Changes::new(samples.scope().clone()).write(Write::ApiKey(Box::new(key.clone())));
        apply(storage, changes).await;
    }
    key.id
}

fn cursor(consumer: &str, position: u64) -> Guard {
    Guard::Cursor { consumer: consumer.into(), position }
}

fn moving(samples: &Samples, consumer: &str, from: u64, to: u64) -> Changes {
    Changes::new(samples.scope().clone())
        .guard(cursor(consumer, from))
        .write(Write::Cursor { consumer: consumer.into(), position: to })
}

pub(super) fn one_winner(outcomes: Vec<Result<Committed, StorageError>>, guard: &Guard) {
    let mut applied = 0;
    for outcome in outcomes {
        match outcome {
            Ok(Committed::Applied { .. }) => applied += 1,
            Err(StorageError::Conflict(failed)) => assert_eq!(&failed, guard),
            other => panic!("a loser must conflict, got {other:?}"),
        }
    }
    assert_eq!(applied, 1, "exactly one of the commits under {guard:?} is applied");
}

/// Versions that a row of version 2 does not have.
const WRONG_VERSIONS: [u64; 4] = [0, 1, 3, i64::MAX as u64];

//! Small helpers of the suite. Nothing here checks a sentence of a contract by itself.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::changes::{Changes, Committed, Guard, Write};
use crate::id::DeliveryId;
use crate::idempotency::{KeyTarget, StoredAnswer};
use crate::page::PageRequest;
use crate::payment::Payment;
use crate::queue::Job;
use crate::storage::{PaymentFilter, Storage, StorageError};
use crate::testing::sample::{Creation, Samples};
use crate::webhook::{Delivery, DeliveryWork, Endpoint};

/// What reads must answer when the backend works.
pub(super) const READS: &str = "a read of a healthy storage must not fail";

/// Commits and expects the changes to be applied; the jobs it reports due.
pub(super) async fn apply(storage: &dyn Storage, changes: Changes) -> Vec<(Job, Duration)> {
    match storage.commit(changes).await {
        Ok(Committed::Applied { due, .. }) => due,
        other => panic!("the changes must be applied, got {other:?}"),
    }
}

/// Commits and expects a conflict on this guard.
pub(super) async fn conflict_on(storage: &dyn Storage, changes: Changes, expected: &Guard) {
    match storage.commit(changes).await {
        Err(StorageError::Conflict(guard)) => {
            assert_eq!(
                &guard, expected,
                "the conflict names another guard than the first that failed"
            );
        }
        other => panic!("{expected:?} does not hold, so the commit must conflict, got {other:?}"),
    }
}

/// Commits and expects a replay of this answer.
pub(super) async fn replayed(
    storage: &dyn Storage,
    changes: Changes,
    target: KeyTarget,
    answer: &StoredAnswer,
) {
    match storage.commit(changes).await {
        Ok(Committed::Replayed { target: found, answer: replay }) => {
            assert_eq!(found, target, "the replay stands for another object");
            assert_eq!(replay.status, answer.status, "the replay has another status");
            assert_eq!(replay.body, answer.body, "the replay has another body");
        }
        other => panic!("the key has an answer, so it must be replayed, got {other:?}"),
    }
}

/// Commits and expects the key to be claimed already, without an answer.
pub(super) async fn in_flight(storage: &dyn Storage, changes: Changes, target: KeyTarget) {
    match storage.commit(changes).await {
        Ok(Committed::InFlight { target: found }) => {
            assert_eq!(found, target, "the key stands for another object");
        }
        other => panic!("the key is claimed and has no answer: in flight, got {other:?}"),
    }
}

/// Commits and expects the key to stand for another request.
pub(super) async fn reused(storage: &dyn Storage, changes: Changes) {
    match storage.commit(changes).await {
        Err(StorageError::KeyReused) => {}
        other => panic!("the key stands for another request: KeyReused, got {other:?}"),
    }
}

/// Commits and expects a write that refers to a missing row.
pub(super) async fn missing(storage: &dyn Storage, changes: Changes) {
    match storage.commit(changes).await {
        Err(StorageError::Missing(_)) => {}
        other => panic!("a write refers to a row that is not there: Missing, got {other:?}"),
    }
}

/// Creates a payment.
pub(super) async fn created(storage: &dyn Storage, samples: &Samples) -> Creation {
    let creation = samples.creation();
    apply(storage, creation.changes()).await;
    creation
}

/// Creates a paid payment.
pub(super) async fn paid(storage: &dyn Storage, samples: &Samples) -> Creation {
    let creation = samples.paid();
    apply(storage, creation.changes()).await;
    creation
}

/// Creates an endpoint.
pub(super) async fn registered(storage: &dyn Storage, endpoint: Endpoint) -> Endpoint {
    let changes =
        Changes::new(endpoint.scope.clone()).write(Write::Endpoint(Box::new(endpoint.clone())));
    apply(storage, changes).await;
    endpoint
}

/// Creates an endpoint that hears everything and a payment whose first event it hears.
pub(super) async fn delivering(storage: &dyn Storage, samples: &Samples) -> (Creation, Delivery) {
    let endpoint = registered(storage, samples.endpoint()).await;
    let creation = created(storage, samples).await;
    let id = DeliveryId::new(creation.event.id, endpoint.id);
    let work = delivery(storage, samples, id).await;
    (creation, work.delivery)
}

/// The commit that replaces a payment, guarded by the version before.
pub(super) fn replacing(payment: &Payment) -> Changes {
    let version = payment.version.saturating_sub(1);
    Changes::new(payment.scope.clone())
        .guard(Guard::Payment { id: payment.id, version })
        .write(Write::Payment(Box::new(payment.clone())))
}

/// The payment that must be there.
pub(super) async fn payment(storage: &dyn Storage, creation: &Creation) -> Payment {
    let found = storage.payment(&creation.payment.scope, creation.payment.id).await;
    found.expect(READS).expect("the payment must be there").payment
}

/// The delivery that must be there.
pub(super) async fn delivery(
    storage: &dyn Storage,
    samples: &Samples,
    id: DeliveryId,
) -> DeliveryWork {
    let found = storage.delivery(samples.scope(), id).await;
    found.expect(READS).expect("the delivery must be there")
}

/// Asserts that nothing of a creation is there.
pub(super) async fn untouched(storage: &dyn Storage, creation: &Creation) {
    let (scope, id) = (&creation.payment.scope, creation.payment.id);
    assert_eq!(storage.payment(scope, id).await.expect(READS), None, "a payment was written");
    let operation = storage.payment_of(scope, creation.charge.id).await.expect(READS);
    assert_eq!(operation, None, "an operation was written");
    let events = storage.payment_events(scope, id, 0, 100).await.expect(READS);
    assert_eq!(events, [], "an event was written");
    let due = storage.due(&creation.job()).await.expect(READS);
    assert_eq!(due, None, "an operation was made due");
}

/// Asserts that all of a creation is there, once.
pub(super) async fn whole(storage: &dyn Storage, creation: &Creation) {
    let (scope, id) = (&creation.payment.scope, creation.payment.id);
    let state = storage.payment(scope, id).await.expect(READS).expect("the payment must be there");
    assert_eq!(state.payment, creation.payment, "the payment is not the one that was written");
    let operations = std::slice::from_ref(&creation.charge);
    assert_eq!(state.operations, operations, "its operations differ");
    let events = storage.payment_events(scope, id, 0, 100).await.expect(READS);
    assert_eq!(events.len(), 1, "one event was committed with the payment");
    assert_eq!(events[0].body, creation.event.body, "the event's body differs");
}

/// Every payment of the samples' scope, newest first; at most one page of them.
pub(super) async fn listed(
    storage: &dyn Storage,
    samples: &Samples,
    filter: &PaymentFilter,
) -> Vec<Payment> {
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    storage.payments(samples.scope(), filter, page).await.expect(READS).data
}

/// Runs every future at the same time, as far as the runtime can; their outputs in any order.
pub(super) async fn at_once<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    futures.into_iter().collect::<JoinSet<F::Output>>().join_all().await
}

/// Commits every one of these at the same time, each through a handle of its own.
pub(super) async fn commit_at_once(
    storage: &Arc<dyn Storage>,
    changes: impl IntoIterator<Item = Changes>,
) -> Vec<Result<Committed, StorageError>> {
    at_once(changes.into_iter().map(|changes| {
        let storage = Arc::clone(storage);
        async move { storage.commit(changes).await }
    }))
    .await
}

/// Polls a future at most `times` times, giving way in between, and drops it.
pub(super) async fn dropped_after<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..times {
        let poll = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = poll {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// Seconds.
pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How many commits race: enough to overlap on any machine, few enough for any pool.
pub(super) const RACERS: usize = 24;

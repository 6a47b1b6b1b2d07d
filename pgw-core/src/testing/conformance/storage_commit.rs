//! What a commit does as a whole: all or nothing, checked first, seen at once, safe to drop.

use std::time::Duration;

use bytes::Bytes;

use super::fixture::{DueHints, SMALL, StorageFixture};
use super::support::{
    READS, apply, at_once, commit_at_once, conflict_on, created, delivering, dropped_after, listed,
    missing, payment, registered, replacing, secs, untouched, whole,
};
use crate::access::AuditObject;
use crate::changes::{Changes, ChangesError, Guard, Write};
use crate::event::EventType;
use crate::id::{ConflictId, DeliveryId};
use crate::page::PageRequest;
use crate::payment::OperationKind;
use crate::queue::Job;
use crate::storage::{AuditFilter, PaymentFilter, Storage, StorageError};
use crate::testing::sample::{Creation, Samples};
use crate::webhook::Delivery;

/// "`commit` applies a `Changes` whole": every kind of write of one commit is there.
pub async fn an_applied_commit_is_there_whole(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let creation = samples.creation();
    let (endpoint, key) = (samples.endpoint(), samples.api_key());
    let conflict = samples.conflict(&creation.charge);
    let row = samples.audit_row(AuditObject::Payment(creation.payment.id));
    let changes = creation
        .changes()
        .write(Write::Conflict(Box::new(conflict.clone())))
        .write(Write::Endpoint(Box::new(endpoint.clone())))
        .write(Write::ApiKey(Box::new(key.clone())))
        .write(Write::Cursor { consumer: "mail".into(), position: 3 })
        .write(Write::Audit(Box::new(row.clone())));
    apply(&*storage, changes).await;

    whole(&*storage, &creation).await;
    let scope = samples.scope();
    assert_eq!(storage.conflicts(scope, creation.payment.id).await.expect(READS), [conflict]);
    assert_eq!(storage.endpoint(scope, endpoint.id).await.expect(READS), Some(endpoint));
    assert_eq!(storage.api_key(key.prefix).await.expect(READS), Some(key));
    assert_eq!(storage.cursor(scope, "mail").await.expect(READS), 3);
    let audit = storage
        .audit(&scope.merchant, &AuditFilter::default(), PageRequest::default())
        .await
        .expect(READS);
    assert_eq!(audit.data, [row]);
}

/// "What must hold, or nothing is written": of no kind of row.
pub async fn a_failed_guard_writes_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let creation = samples.creation();
    let (endpoint, key) = (samples.endpoint(), samples.api_key());
    let row = samples.audit_row(AuditObject::Payment(creation.payment.id));
    let failing = Guard::Payment { id: samples.payment().id, version: 4 };
    let changes = creation
        .changes()
        .guard(failing.clone())
        .write(Write::Conflict(Box::new(samples.conflict(&creation.charge))))
        .write(Write::Endpoint(Box::new(endpoint.clone())))
        .write(Write::ApiKey(Box::new(key.clone())))
        .write(Write::Cursor { consumer: "mail".into(), position: 3 })
        .write(Write::Audit(Box::new(row)));
    conflict_on(&*storage, changes, &failing).await;

    untouched(&*storage, &creation).await;
    let scope = samples.scope();
    assert_eq!(storage.conflicts(scope, creation.payment.id).await.expect(READS), []);
    assert_eq!(storage.endpoint(scope, endpoint.id).await.expect(READS), None);
    assert_eq!(storage.api_key(key.prefix).await.expect(READS), None);
    assert_eq!(storage.cursor(scope, "mail").await.expect(READS), 0);
    let audit = storage
        .audit(&scope.merchant, &AuditFilter::default(), PageRequest::default())
        .await
        .expect(READS);
    assert_eq!(audit.data, []);
    assert_eq!(storage.stamp_events(10).await.expect(READS), 0, "an event waits for its position");
}

/// Changes without guards and writes are applied: they ask for nothing.
pub async fn an_empty_commit_is_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let due = apply(&*storage, Changes::new(samples.scope().clone())).await;
    assert_eq!(due, [], "an empty commit makes nothing due");
}

/// "`Changes::check`" comes first: more than `PARTS_MAX` parts are refused, and nothing is written.
pub async fn too_many_parts_are_refused_and_write_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let creation = samples.creation();
    let mut changes = creation.changes();
    while changes.guards.len() + changes.writes.len() <= Changes::PARTS_MAX {
        let row = samples.audit_row(AuditObject::Payment(creation.payment.id));
        changes = changes.write(Write::Audit(Box::new(row)));
    }
    invalid(&*storage, changes, ChangesError::TooMany).await;
    untouched(&*storage, &creation).await;
}

/// A commit of exactly `PARTS_MAX` parts is within the limit.
pub async fn as_many_parts_as_allowed_are_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let creation = samples.creation();
    let mut changes = creation.changes();
    let mut rows = 0;
    while changes.guards.len() + changes.writes.len() < Changes::PARTS_MAX {
        let row = samples.audit_row(AuditObject::Payment(creation.payment.id));
        changes = changes.write(Write::Audit(Box::new(row)));
        rows += 1;
    }
    apply(&*storage, changes).await;
    whole(&*storage, &creation).await;
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    let audit =
        storage.audit(&samples.scope().merchant, &AuditFilter::default(), page).await.expect(READS);
    assert_eq!(audit.data.len(), rows, "every audit row of the commit is there");
}

/// More than `BYTES_MAX` bytes of bodies are refused, and nothing is written.
pub async fn too_many_bytes_are_refused_and_write_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let mut creation = samples.creation();
    creation.event.body = Bytes::from(vec![b'x'; Changes::BYTES_MAX + 1]);
    invalid(&*storage, creation.changes(), ChangesError::TooLarge).await;
    untouched(&*storage, &creation).await;
}

/// Bodies of exactly `BYTES_MAX` bytes are within the limit.
pub async fn as_many_bytes_as_allowed_are_applied(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    let mut creation = samples.creation();
    creation.event.body = Bytes::from(vec![b'x'; Changes::BYTES_MAX]);
    apply(&*storage, creation.changes()).await;
    whole(&*storage, &creation).await;
}

/// "Every row is of its scope": a row of another merchant is refused, and nothing is written.
pub async fn a_row_of_another_merchant_is_refused(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    let [merchant, _] = samples.foreign();
    foreign_row_refused(&*storage, &samples, &samples.of(merchant)).await;
}

/// "Every row is of its scope": a row of the other mode is refused, and nothing is written.
pub async fn a_row_of_the_other_mode_is_refused(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let [_, mode] = samples.foreign();
    foreign_row_refused(&*storage, &samples, &samples.of(mode)).await;
}

/// "`Missing`: a write refers to a row that is not there": a delivery is only ever replaced.
pub async fn a_delivery_that_does_not_exist_cannot_be_replaced(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let (_, mut known) = delivering(&*storage, &samples).await;
    known.id = DeliveryId::new(samples.event(EventType::TestPing).id, known.id.endpoint());
    let (creation, changes) =
        with_write(&samples, Write::Delivery { delivery: Box::new(known), due_in: None });
    missing(&*storage, changes).await;
    untouched(&*storage, &creation).await;
}

/// "`Missing`": an attempt is one of a delivery that is there.
pub async fn an_attempt_of_an_unknown_delivery_is_refused(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let unknown = DeliveryId::new(samples.event(EventType::TestPing).id, samples.endpoint().id);
    let (creation, changes) =
        with_write(&samples, Write::Attempt(Box::new(samples.attempt(unknown, 1))));
    missing(&*storage, changes).await;
    untouched(&*storage, &creation).await;
}

/// "`Missing`": a conflict that was never recorded cannot be closed.
pub async fn a_conflict_that_does_not_exist_cannot_be_closed(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    let existing = created(&*storage, &samples).await;
    let close = Write::CloseConflict {
        payment: existing.payment.id,
        id: ConflictId::mint(samples.env()),
        at: samples.now(),
    };
    let (creation, changes) = with_write(&samples, close);
    missing(&*storage, changes).await;
    untouched(&*storage, &creation).await;
}

/// "Stores the answer of a key that an earlier commit claimed": of no other.
pub async fn an_answer_of_an_unclaimed_key_is_refused(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    let key = samples.key();
    let write = Write::Answer { key: key.clone(), answer: samples.answer() };
    let (creation, changes) = with_write(&samples, write);
    missing(&*storage, changes).await;
    untouched(&*storage, &creation).await;
    assert_eq!(storage.key(samples.scope(), &key).await.expect(READS), None, "a key appeared");
}

/// "`Missing`": an operation belongs to a payment that is there.
pub async fn an_operation_without_its_payment_is_refused(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    let orphan = samples.operation(&samples.payment(), OperationKind::Charge);
    let id = orphan.id;
    let (creation, changes) =
        with_write(&samples, Write::Operation { operation: Box::new(orphan), due_in: None });
    missing(&*storage, changes).await;
    untouched(&*storage, &creation).await;
    assert_eq!(storage.payment_of(samples.scope(), id).await.expect(READS), None);
}

/// "Asking again with the same `Changes` tells: the guards of an applied one no longer hold."
pub async fn the_same_changes_again_conflict(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let creation = created(&*storage, &samples).await;
    let guard = Guard::Payment { id: creation.payment.id, version: 0 };
    conflict_on(&*storage, creation.changes(), &guard).await;
    let changes = replacing(&samples.touched(&creation.payment));
    apply(&*storage, changes.clone()).await;
    let guard = Guard::Payment { id: creation.payment.id, version: 1 };
    conflict_on(&*storage, changes, &guard).await;
}

/// "Inserts or replaces": the row is the one that was written last.
pub async fn a_later_write_replaces_the_row(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let creation = created(&*storage, &samples).await;
    let mut next = samples.touched(&creation.payment);
    next.needs_review = true;
    next.description = None;
    let mut charge = creation.charge.clone();
    charge.attempts = 9;
    let changes = replacing(&next)
        .write(Write::Operation { operation: Box::new(charge.clone()), due_in: None });
    apply(&*storage, changes).await;
    let state = storage.payment(samples.scope(), next.id).await.expect(READS).expect("it is there");
    assert_eq!(state.payment, next);
    assert_eq!(state.operations, [charge], "the operation was replaced, not added");
}

/// "Of two writes of one row in one commit the later counts": of every kind of row that can be replaced.
pub async fn of_two_writes_of_one_row_the_later_counts(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(26));
    let (creation, delivery) = delivering(&*storage, &samples).await;
    let (first, second) = (samples.touched(&creation.payment), samples.touched(&creation.payment));
    let second = crate::payment::Payment { needs_review: true, ..second };
    let (mut early, mut late) = (creation.charge.clone(), creation.charge.clone());
    (early.attempts, late.attempts) = (1, 2);
    let retried = |attempts| Delivery { version: 2, attempts, ..delivery.clone() };
    let changes = replacing(&first)
        .write(Write::Operation { operation: Box::new(early), due_in: None })
        .write(Write::Delivery { delivery: Box::new(retried(1)), due_in: None })
        .write(Write::Payment(Box::new(second.clone())))
        .write(Write::Operation { operation: Box::new(late.clone()), due_in: Some(Duration::ZERO) })
        .write(Write::Delivery { delivery: Box::new(retried(2)), due_in: Some(Duration::ZERO) })
        .write(Write::Cursor { consumer: "mail".into(), position: 3 })
        .write(Write::Cursor { consumer: "mail".into(), position: 5 });
    let due = apply(&*storage, changes).await;
    assert!(due.len() <= 2, "each job once: {due:?}");
    let scope = samples.scope();
    let state = storage.payment(scope, second.id).await.expect(READS).expect("it is there");
    assert_eq!((state.payment, state.operations), (second, vec![late]));
    let found = storage.delivery(scope, delivery.id).await.expect(READS).expect("it is there");
    assert_eq!(found.delivery, retried(2));
    assert!(
        storage.due(&creation.job()).await.expect(READS).is_some(),
        "the later write made it due"
    );
    assert_eq!(storage.cursor(scope, "mail").await.expect(READS), 5);
}

/// "Operations are oldest first, by the order they were written"; a replaced one keeps its place.
pub async fn operations_keep_the_order_they_were_first_written_in(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    let creation = created(&*storage, &samples).await;
    let mut expected = vec![creation.charge.clone()];
    let mut current = creation.payment.clone();
    for _ in 0..5 {
        current = samples.touched(&current);
        let cancel = samples.operation(&current, OperationKind::Cancel);
        let write = Write::Operation { operation: Box::new(cancel.clone()), due_in: None };
        apply(&*storage, replacing(&current).write(write)).await;
        expected.push(cancel);
    }
    current = samples.touched(&current);
    expected[2].attempts = 1;
    let write = Write::Operation { operation: Box::new(expected[2].clone()), due_in: None };
    apply(&*storage, replacing(&current).write(write)).await;
    let state =
        storage.payment(samples.scope(), current.id).await.expect(READS).expect("it is there");
    assert_eq!(state.operations, expected);
}

/// "What was committed is seen by every read that starts afterwards, through this handle and its clones."
pub async fn a_commit_is_seen_through_every_handle(fixture: &dyn StorageFixture) {
    let (first, second) = (fixture.storage().await, fixture.storage().await);
    let samples = Samples::new(18);
    for turn in 0..8 {
        let (writer, reader) = if turn % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let creation = created(&**writer, &samples).await;
        whole(&**reader, &creation).await;
        whole(&**writer, &creation).await;
    }
}

/// "Every read sees whole commits only": a payment and its operations are always of one commit.
pub async fn a_reader_never_sees_half_a_commit(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(19));
    let creation = created(&*storage, &samples).await;
    let (scope, id) = (samples.scope().clone(), creation.payment.id);
    let writer = {
        let (storage, samples, creation) =
            (fixture.storage().await, samples.clone(), creation.clone());
        tokio::spawn(async move {
            let (mut row, mut charge) = (creation.payment, creation.charge);
            for _ in 0..40 {
                row = samples.touched(&row);
                charge.attempts += 1;
                let write = Write::Operation { operation: Box::new(charge.clone()), due_in: None };
                apply(&*storage, replacing(&row).write(write)).await;
                tokio::task::yield_now().await;
            }
        })
    };
    let mut seen = 0;
    while seen < 41 {
        let state = storage.payment(&scope, id).await.expect(READS).expect("it is there");
        assert!(state.payment.version >= seen, "a later read saw an earlier commit");
        seen = state.payment.version;
        let attempts = u64::from(state.operations[0].attempts);
        assert_eq!(attempts + 1, seen, "the payment and its operation are of different commits");
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer must not panic");
}

/// "A dropped `commit` was applied or was not, whole": however far it came.
pub async fn a_dropped_commit_leaves_all_or_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(20));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    for polls in 0..24 {
        let creation = samples.creation();
        let guard = Guard::Payment { id: creation.payment.id, version: 0 };
        drop(dropped_after(polls, storage.commit(creation.changes())).await);
        // A server may still be at it, so the only way to know is to ask again.
        match storage.commit(creation.changes()).await {
            Ok(_) => {}
            Err(StorageError::Conflict(failed)) => assert_eq!(failed, guard),
            Err(other) => panic!("the commit after a dropped one must work, got {other:?}"),
        }
        whole(&*storage, &creation).await;
        let id = DeliveryId::new(creation.event.id, endpoint.id);
        let delivery = storage.delivery(samples.scope(), id).await.expect(READS);
        assert!(
            delivery.is_some(),
            "the delivery belongs to the commit (dropped after {polls} polls)"
        );
    }
}

/// "No dropped future leaves anything behind": reads and writes go on after any number of dropped ones.
pub async fn dropped_futures_leave_nothing_behind(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(21));
    let creation = created(&*storage, &samples).await;
    for round in 0..60 {
        let polls = round % 6;
        let next = samples.touched(&creation.payment);
        let mut stale = replacing(&next);
        stale.guards = vec![Guard::Payment { id: creation.payment.id, version: 99 }];
        drop(dropped_after(polls, storage.commit(stale)).await);
        drop(dropped_after(polls, storage.payment(samples.scope(), creation.payment.id)).await);
        drop(dropped_after(polls, storage.stamp_events(0)).await);
    }
    assert_eq!(payment(&*storage, &creation).await, creation.payment);
    apply(&*storage, replacing(&samples.touched(&creation.payment))).await;
}

/// "A hint for the queue": what is reported due is due, with its delay; a backend that reports all reports all.
pub async fn the_due_hint_names_the_jobs_made_due(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(22));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    let mut creation = samples.creation();
    creation.due_in = Some(secs(90));
    let hints = apply(&*storage, creation.changes()).await;
    let delivery = DeliveryId::new(creation.event.id, endpoint.id);
    let delivery_job = Job::Delivery { scope: samples.scope().clone(), delivery };
    let expected = [(creation.job(), secs(90)), (delivery_job.clone(), Duration::ZERO)];
    hints_match(fixture, &hints, &expected);

    let mut sent =
        storage.delivery(samples.scope(), delivery).await.expect(READS).expect("it is there");
    sent.delivery = next_version(&samples, &sent.delivery);
    let write = |due_in| {
        Changes::new(samples.scope().clone())
            .write(Write::Delivery { delivery: Box::new(sent.delivery.clone()), due_in })
    };
    let hints = apply(&*storage, write(Some(secs(5)))).await;
    hints_match(fixture, &hints, &[(delivery_job, secs(5))]);
    let hints = apply(&*storage, write(None)).await;
    hints_match(fixture, &hints, &[]);
}

/// Commits on different payments have nothing to do with each other: each is applied.
pub async fn concurrent_commits_on_different_payments_are_all_applied(
    fixture: &dyn StorageFixture,
) {
    let (storage, samples) = (fixture.storage().await, Samples::new(23));
    let creations: Vec<Creation> = (0..64).map(|_| samples.creation()).collect();
    let outcomes = commit_at_once(&storage, creations.iter().map(Creation::changes)).await;
    for outcome in outcomes {
        outcome.expect("nobody else touches this payment");
    }
    for creation in &creations {
        whole(&*storage, creation).await;
    }
}

/// Commits of many merchants at once do not disturb each other.
pub async fn concurrent_commits_of_different_merchants_are_all_applied(
    fixture: &dyn StorageFixture,
) {
    let (storage, samples) = (fixture.storage().await, Samples::new(24));
    let [merchant, mode] = samples.foreign();
    let everybody = [samples.clone(), samples.of(merchant), samples.of(mode)];
    let made = at_once((0..30).map(|n| {
        let (storage, samples) = (std::sync::Arc::clone(&storage), everybody[n % 3].clone());
        async move { created(&*storage, &samples).await }
    }))
    .await;
    for creation in &made {
        whole(&*storage, creation).await;
    }
}

/// "A backend that can fill up says `Full` and stays readable"; what did not fit is not there.
pub async fn a_full_storage_says_so_and_stays_readable(fixture: &dyn StorageFixture) {
    let Some(storage) = fixture.small_storage().await else { return };
    let samples = Samples::new(25);
    let mut fitting = Vec::new();
    let refused = loop {
        assert!(fitting.len() <= SMALL, "a small storage is full after {SMALL} payments");
        let creation = samples.creation();
        match storage.commit(creation.changes()).await {
            Ok(_) => fitting.push(creation),
            Err(StorageError::Full { .. }) => break creation,
            Err(other) => panic!("a full storage must say Full, got {other:?}"),
        }
    };
    assert!(!fitting.is_empty(), "a small storage holds something");
    untouched(&*storage, &refused).await;
    for creation in &fitting {
        whole(&*storage, creation).await;
    }
}

/// Expects a commit to be refused by [`Changes::check`].
async fn invalid(storage: &dyn Storage, changes: Changes, expected: ChangesError) {
    match storage.commit(changes).await {
        Err(StorageError::Invalid(error)) => assert_eq!(error, expected),
        other => panic!("the changes break a rule, so they must be refused, got {other:?}"),
    }
}

async fn foreign_row_refused(storage: &dyn Storage, samples: &Samples, foreign: &Samples) {
    let row = samples.payment();
    let writes = [
        Write::Payment(Box::new(foreign.payment())),
        Write::Event(Box::new(foreign.event(EventType::TestPing))),
        Write::Endpoint(Box::new(foreign.endpoint())),
        Write::ApiKey(Box::new(foreign.api_key())),
        Write::Audit(Box::new(foreign.audit_row(AuditObject::Payment(row.id)))),
    ];
    for write in writes {
        let (creation, changes) = with_write(samples, write);
        invalid(storage, changes, ChangesError::ForeignScope).await;
        untouched(storage, &creation).await;
    }
    let payments = listed(storage, foreign, &PaymentFilter::default()).await;
    assert_eq!(payments, [], "a foreign row was written");
}

/// A creation with one more write after its own.
fn with_write(samples: &Samples, write: Write) -> (Creation, Changes) {
    let creation = samples.creation();
    let changes = creation.changes().write(write);
    (creation, changes)
}

fn next_version(samples: &Samples, delivery: &Delivery) -> Delivery {
    let mut next = delivery.clone();
    next.version += 1;
    next.updated_at = samples.now();
    next
}

fn hints_match(
    fixture: &dyn StorageFixture,
    hints: &[(Job, Duration)],
    expected: &[(Job, Duration)],
) {
    for hint in hints {
        assert!(expected.contains(hint), "{hint:?} was not made due by this commit");
    }
    if fixture.due_hints() == DueHints::Complete {
        assert_eq!(hints.len(), expected.len(), "each job once: {hints:?}");
    }
}

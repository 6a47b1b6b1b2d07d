//! What only `MemoryStorage` promises: what its dump shows, what a full one still does, how long filtered lists go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgw_core::access::AuditObject;
use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::event::EventType;
use pgw_core::id::{ConflictId, EventId};
use pgw_core::idempotency::{KeyClaim, StoredAnswer};
use pgw_core::page::PageRequest;
use pgw_core::payment::PaymentStatus;
use pgw_core::queue::Lane;
use pgw_core::storage::{PaymentFilter, Storage as _, StorageError};
use pgw_core::testing::sample::{Creation, Samples};
use pgw_storage_memory::MemoryStorage;

use crate::fixtures::ManualClock;

#[tokio::test]
async fn the_same_commits_give_the_same_dump_and_the_same_answers() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (storage, samples) = (on_a_manual_clock(), Samples::new(1));
        let mut due = Vec::new();
        for _ in 0..3 {
            apply(&storage, endpoint(&samples)).await;
        }
        for _ in 0..5 {
            due.extend(apply(&storage, keyed(&samples).1).await);
        }
        for lane in Lane::ALL {
            due.extend(
                storage
                    .due_jobs(lane, 99)
                    .await
                    .unwrap()
                    .into_iter()
                    .map(|job| (job, Duration::ZERO)),
            );
        }
        seen.push((storage.dump(), due));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].1.len(), 2 * 5 * (1 + 3));
}

#[tokio::test]
async fn a_refused_commit_changes_nothing_at_all() {
    let (storage, samples) = (MemoryStorage::new(), Samples::new(2));
    apply(&storage, endpoint(&samples)).await;
    let (creation, changes) = keyed(&samples);
    apply(&storage, changes).await;
    let before = storage.dump();

    let other = samples.creation();
    let stray = Write::CloseConflict {
        payment: creation.payment.id,
        id: ConflictId::mint(samples.env()),
        at: samples.now(),
    };
    let audit = Write::Audit(Box::new(samples.audit_row(AuditObject::Payment(other.payment.id))));
    let mut reused = samples.claim(other.target());
    reused.key = creation.charge.idempotency_key.clone().expect("it is keyed");
    let refused = [
        other.changes().write(audit.clone()).write(stray),
        other
            .changes()
            .write(audit.clone())
            .guard(Guard::Cursor { consumer: "x".into(), position: 9 }),
        other.changes().write(audit.clone()).claim(Some(reused)),
        // An event is appended once.
        other.changes().write(audit).write(Write::Event(Box::new(creation.event.clone()))),
        other.changes().write(Write::Event(Box::new(other.event.clone()))),
    ];
    for changes in refused {
        assert!(storage.commit(changes.clone()).await.is_err(), "{changes:?}");
        assert_eq!(storage.dump(), before, "{changes:?}");
    }
    apply(&storage, other.changes()).await;
    assert_ne!(storage.dump(), before);
}

#[tokio::test]
async fn a_dump_shows_no_personal_data_and_no_secret_but_every_change_of_them() {
    let (storage, samples) = (MemoryStorage::new(), Samples::new(3));
    apply(&storage, endpoint(&samples)).await;
    let (mut creation, changes) = keyed(&samples);
    apply(&storage, changes).await;
    let before = storage.dump();
    for hidden in ["ada@example.com", "Lovelace", "whsec_", "Order 1", "hooks.example.com/in"] {
        assert!(!before.contains(hidden), "{hidden} is in the dump");
    }
    creation.payment.customer.name = pgw_core::text::CustomerName::parse("Ada King").unwrap();
    let write = Write::Payment(Box::new(creation.payment.clone()));
    apply(&storage, Changes::new(samples.scope().clone()).write(write)).await;
    assert_ne!(storage.dump(), before, "the change does not show");
}

#[tokio::test]
async fn a_full_storage_still_changes_what_it_holds() {
    let samples = Samples::new(4);
    let storage = MemoryStorage::builder().with_payments_max(2).build();
    let creations = [samples.creation(), samples.creation()];
    for creation in &creations {
        apply(&storage, creation.changes()).await;
    }
    let before = storage.dump();
    match storage.commit(samples.creation().changes()).await {
        Err(StorageError::Full { what: "payments", max: 2 }) => {}
        other => panic!("it is full, got {other:?}"),
    }
    assert_eq!(storage.dump(), before);
    let (next, event) = samples.moved(&creations[0].payment, EventType::PaymentSucceeded);
    let changes = Changes::new(samples.scope().clone())
        .write(Write::Payment(Box::new(next.clone())))
        .write(Write::Event(Box::new(event)));
    apply(&storage, changes).await;
    let state = storage.payment(samples.scope(), next.id).await.unwrap().expect("it is there");
    assert_eq!(state.payment, next);
}

#[tokio::test]
async fn a_filter_that_lets_little_through_finds_it_among_many() {
    let (storage, samples) = (MemoryStorage::new(), Samples::new(5));
    let mut rare = Vec::new();
    for n in 0..20_000 {
        let mut creation = samples.creation();
        if n % 9_000 == 0 {
            creation.payment.status = PaymentStatus::Failed;
            rare.insert(0, creation.payment.id);
        }
        apply(&storage, creation.changes()).await;
    }
    let filter = PaymentFilter { status: Some(PaymentStatus::Failed), ..PaymentFilter::default() };
    let page = storage.payments(samples.scope(), &filter, PageRequest::default()).await.unwrap();
    assert_eq!(page.data.iter().map(|payment| payment.id).collect::<Vec<_>>(), rare);
    let none = PaymentFilter { status: Some(PaymentStatus::Expired), ..PaymentFilter::default() };
    let page = storage.payments(samples.scope(), &none, PageRequest::default()).await.unwrap();
    assert_eq!((page.data.len(), page.has_more), (0, false));
}

#[tokio::test]
async fn an_answer_cut_from_its_event_comes_back_and_outlives_a_purge_of_others() {
    let (storage, samples) = (MemoryStorage::new(), Samples::new(6));
    let mut creation = samples.creation();
    creation.event.body = Bytes::from(b"{\"data\":{\"object\":true}}".to_vec());
    let body = creation.event.body.slice(8..23);
    let answer = StoredAnswer { status: 201, body };
    let claim = KeyClaim { answer: Some(answer.clone()), ..samples.claim(creation.target()) };
    let changes = creation.keyed(claim.clone());
    apply(&storage, changes.clone()).await;
    match storage.commit(changes).await {
        Ok(Committed::Replayed { answer: replay, .. }) => assert_eq!(replay, answer),
        other => panic!("it is a replay, got {other:?}"),
    }
    assert_eq!(storage.purge_answers(pgw_core::timestamp::Timestamp::MAX, 9).await.unwrap(), 1);
    let events = storage.payment_events(samples.scope(), creation.payment.id, 0, 9).await.unwrap();
    assert_eq!(events[0].body, creation.event.body, "the event keeps its body");
}

#[tokio::test]
async fn an_answer_stored_after_a_purge_went_by_is_purged_too() {
    let (storage, samples) = (MemoryStorage::new(), Samples::new(7));
    let mut creation = samples.creation();
    let claim = samples.claim(creation.target());
    apply(&storage, creation.keyed(claim.clone())).await;
    let forever = pgw_core::timestamp::Timestamp::MAX;
    assert_eq!(storage.purge_answers(forever, 9).await.unwrap(), 0);
    let write = Write::Answer { key: claim.key, answer: samples.answer() };
    apply(&storage, Changes::new(samples.scope().clone()).write(write)).await;
    assert_eq!(storage.purge_answers(forever, 9).await.unwrap(), 1);
    assert_eq!(storage.purge_answers(forever, 9).await.unwrap(), 0);
}

#[tokio::test]
async fn ids_of_one_scope_say_nothing_in_another() {
    let (storage, samples) = (MemoryStorage::new(), Samples::new(8));
    let creation = samples.creation();
    apply(&storage, creation.changes()).await;
    for scope in samples.foreign() {
        let mut twin = creation.clone();
        twin.payment.scope = scope.clone();
        twin.event.scope = scope.clone();
        twin.event.id = EventId::mint(samples.env());
        apply(&storage, twin.changes()).await;
        let state = storage.payment(&scope, creation.payment.id).await.unwrap();
        assert_eq!(state.expect("it is there").payment.scope, scope);
    }
    let own = storage.payment(samples.scope(), creation.payment.id).await.unwrap();
    assert_eq!(own.expect("it is there").payment, creation.payment);
}

fn on_a_manual_clock() -> MemoryStorage {
    MemoryStorage::builder().with_clock(ManualClock::new() as Arc<_>).build()
}

fn endpoint(samples: &Samples) -> Changes {
    Changes::new(samples.scope().clone()).write(Write::Endpoint(Box::new(samples.endpoint())))
}

fn keyed(samples: &Samples) -> (Creation, Changes) {
    let mut creation = samples.creation();
    let answer = Some(samples.answer());
    let claim = KeyClaim { answer, ..samples.claim(creation.target()) };
    let changes = creation.keyed(claim);
    (creation, changes)
}

async fn apply(storage: &MemoryStorage, changes: Changes) -> Vec<(pgw_core::queue::Job, Duration)> {
    match storage.commit(changes).await {
        Ok(Committed::Applied { due, .. }) => due,
        other => panic!("the changes must be applied, got {other:?}"),
    }
}

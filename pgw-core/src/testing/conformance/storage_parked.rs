//! Parked deliveries: paused endpoints, events in the order of their payment, and what ends the wait.

use std::time::Duration;

use super::fixture::StorageFixture;
use super::support::{
    READS, apply, conflict_on, created, delivering, delivery, missing, registered, replacing, secs,
};
use crate::changes::{Changes, Committed, Guard, Write};
use crate::event::EventType;
use crate::id::{DeliveryId, EndpointId};
use crate::queue::{Job, Lane};
use crate::storage::{DueWork, Storage};
use crate::testing::sample::{Samples, reason, sealed};
use crate::webhook::delivery::FailedBecause;
use crate::webhook::{
    Delivery, DeliveryOptions, DeliveryState, Endpoint, EndpointStatus, Health, Ordering,
    PreviousSecret, SealedHeaders, WhenExhausted,
};

/// "While its endpoint is enabled and paused": until the pause is over, by the backend's own clock.
pub async fn a_paused_endpoints_deliveries_are_parked(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let (creation, row) = delivering(&*storage, &samples).await;
    let job = job_of(&samples, row.id);
    apply(&*storage, pause(&samples, row.id.endpoint(), secs(60))).await;
    parked(&*storage, &job, Some(secs(60))).await;
    // What is committed during the pause is parked too.
    let (_, event) = samples.moved(&creation.payment, EventType::PaymentProcessing);
    apply(
        &*storage,
        Changes::new(samples.scope().clone()).write(Write::Event(Box::new(event.clone()))),
    )
    .await;
    let later = job_of(&samples, DeliveryId::new(event.id, row.id.endpoint()));
    parked(&*storage, &later, Some(secs(60))).await;
    fixture.advance(secs(50)).await;
    parked(&*storage, &job, Some(secs(10))).await;
    fixture.advance(secs(10)).await;
    parked(&*storage, &job, None).await;
    parked(&*storage, &later, None).await;
}

/// "At most an hour", however long the pause.
pub async fn a_long_pause_is_looked_at_every_hour(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let (_, row) = delivering(&*storage, &samples).await;
    apply(&*storage, pause(&samples, row.id.endpoint(), secs(100_000))).await;
    parked(&*storage, &job_of(&samples, row.id), Some(secs(3_600))).await;
}

/// "Every `Write::Endpoint` without one ends the pause", and a `Write::Pause` beside it begins one.
pub async fn a_write_of_the_endpoint_ends_its_pause(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let (_, row) = delivering(&*storage, &samples).await;
    let (job, id) = (job_of(&samples, row.id), row.id.endpoint());
    apply(&*storage, pause(&samples, id, secs(60))).await;
    parked(&*storage, &job, Some(secs(60))).await;
    let mut endpoint = delivery(&*storage, &samples, row.id).await.endpoint;
    endpoint.version += 1;
    endpoint.health = Health::Failing { since: samples.now(), pauses: 1 };
    let write = Write::Endpoint(Box::new(endpoint.clone()));
    apply(&*storage, pause(&samples, id, secs(30)).write(write.clone())).await;
    parked(&*storage, &job, Some(secs(30))).await;
    apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
    parked(&*storage, &job, None).await;
    assert_eq!(delivery(&*storage, &samples, row.id).await.endpoint, endpoint);
}

/// A pause is no write of the endpoint: its version stays, so that nobody who changes it meanwhile loses a race to it.
pub async fn a_pause_leaves_the_endpoint_as_it_is(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    apply(&*storage, pause(&samples, endpoint.id, secs(60))).await;
    let found = storage.endpoint(samples.scope(), endpoint.id).await.expect(READS);
    assert_eq!(found, Some(endpoint));
}

/// "While its endpoint is enabled": that of a disabled or deleted one is due, so that it can be given up.
pub async fn a_disabled_endpoint_parks_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    for status in [EndpointStatus::Disabled { reason: reason("gone") }, EndpointStatus::Deleted] {
        let (endpoint, rows) = ordered(&*storage, &samples, WhenExhausted::Park, 2).await;
        let disabled = Endpoint { status, version: 2, ..endpoint.clone() };
        let write = Write::Endpoint(Box::new(disabled));
        apply(&*storage, pause(&samples, endpoint.id, secs(60)).write(write)).await;
        for row in &rows {
            parked(&*storage, &job_of(&samples, row.id), None).await;
        }
    }
}

/// A pause is one endpoint's alone.
pub async fn a_pause_parks_no_other_endpoints_deliveries(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let other = registered(&*storage, samples.endpoint()).await;
    let (creation, row) = delivering(&*storage, &samples).await;
    apply(&*storage, pause(&samples, row.id.endpoint(), secs(60))).await;
    let there = job_of(&samples, DeliveryId::new(creation.event.id, other.id));
    parked(&*storage, &there, None).await;
    parked(&*storage, &job_of(&samples, row.id), Some(secs(60))).await;
}

/// A pause of an endpoint that is not there is `Missing`, and of another merchant's too.
pub async fn a_pause_needs_its_endpoint(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    missing(&*storage, pause(&samples, EndpointId::mint(samples.env()), secs(60))).await;
    let endpoint = registered(&*storage, samples.endpoint()).await;
    for scope in samples.foreign() {
        missing(&*storage, pause(&samples.of(scope), endpoint.id, secs(60))).await;
    }
}

/// A commit whose guard fails pauses nothing.
pub async fn a_refused_commit_pauses_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    let (_, row) = delivering(&*storage, &samples).await;
    let guard = Guard::Endpoint { id: row.id.endpoint(), version: 9 };
    let changes = pause(&samples, row.id.endpoint(), secs(60)).guard(guard.clone());
    conflict_on(&*storage, changes, &guard).await;
    parked(&*storage, &job_of(&samples, row.id), None).await;
}

/// "Has not yet taken or given up an event of the same payment with a lower sequence": one at a time, in order.
pub async fn an_ordered_payment_is_sent_in_order(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    for policy in [WhenExhausted::Skip, WhenExhausted::Park] {
        let (_, rows) = ordered(&*storage, &samples, policy, 3).await;
        for (n, row) in rows.iter().enumerate() {
            for (m, other) in rows.iter().enumerate().skip(n) {
                let expected = (m > n).then_some(Duration::ZERO);
                parked(&*storage, &job_of(&samples, other.id), expected).await;
            }
            apply(&*storage, moved(&samples, row, DeliveryState::Delivered, None)).await;
        }
    }
}

/// "When the earlier one is due": a payment that is held up is not looked at before.
pub async fn a_later_event_waits_as_long_as_the_earlier_one(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let (_, rows) = ordered(&*storage, &samples, WhenExhausted::Skip, 2).await;
    apply(&*storage, moved(&samples, &rows[0], DeliveryState::Pending, Some(secs(600)))).await;
    parked(&*storage, &job_of(&samples, rows[1].id), Some(secs(600))).await;
    fixture.advance(secs(400)).await;
    parked(&*storage, &job_of(&samples, rows[1].id), Some(secs(200))).await;
    apply(&*storage, moved_to(&samples, &rows[0], DeliveryState::Pending, Some(secs(90_000)), 3))
        .await;
    parked(&*storage, &job_of(&samples, rows[1].id), Some(secs(3_600))).await;
}

/// A payment that is held up holds up no other, nor events without a payment.
pub async fn a_held_up_payment_holds_up_no_other(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let (endpoint, rows) = ordered(&*storage, &samples, WhenExhausted::Park, 2).await;
    parked(&*storage, &job_of(&samples, rows[1].id), Some(Duration::ZERO)).await;
    let other = created(&*storage, &samples).await;
    parked(&*storage, &job_of(&samples, DeliveryId::new(other.event.id, endpoint.id)), None).await;
    let ping = samples.event(EventType::TestPing);
    let changes = Changes::new(samples.scope().clone());
    apply(&*storage, changes.write(Write::Event(Box::new(ping.clone())))).await;
    parked(&*storage, &job_of(&samples, DeliveryId::new(ping.id, endpoint.id)), None).await;
}

/// An endpoint that does not order parks nothing, also where another of the same payment does.
pub async fn an_endpoint_without_an_order_parks_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    let other = registered(&*storage, samples.endpoint()).await;
    let (_, rows) = ordered(&*storage, &samples, WhenExhausted::Skip, 2).await;
    for row in rows {
        parked(&*storage, &job_of(&samples, DeliveryId::new(row.id.event(), other.id)), None).await;
    }
}

/// With `Skip` a delivery that was given up lets the next one go; with `Park` it does not, until it was taken after all.
pub async fn what_was_given_up_is_skipped_or_parks_the_rest(fixture: &dyn StorageFixture) {
    let failed = DeliveryState::Failed(FailedBecause::Exhausted);
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    for (policy, wait) in [(WhenExhausted::Skip, None), (WhenExhausted::Park, Some(secs(3_600)))] {
        let (_, rows) = ordered(&*storage, &samples, policy, 2).await;
        apply(&*storage, moved(&samples, &rows[0], failed, None)).await;
        parked(&*storage, &job_of(&samples, rows[1].id), wait).await;
        apply(&*storage, moved_to(&samples, &rows[0], DeliveryState::Delivered, None, 3)).await;
        parked(&*storage, &job_of(&samples, rows[1].id), None).await;
    }
}

/// "Makes the earliest pending delivery of a payment's events to an endpoint due now", and tells the queue of it; no other.
pub async fn a_wake_makes_the_next_one_due(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    let (endpoint, rows) = ordered(&*storage, &samples, WhenExhausted::Skip, 3).await;
    for row in &rows[1..] {
        let job = job_of(&samples, row.id);
        apply(&*storage, moved(&samples, row, DeliveryState::Pending, Some(secs(500)))).await;
        assert_eq!(storage.due(&job).await.expect(READS), None, "it is not due by its row");
    }
    let payment = rows[0].payment.expect("it is of a payment");
    let wake = Write::Wake { endpoint: endpoint.id, payment };
    let changes = moved(&samples, &rows[0], DeliveryState::Delivered, None).write(wake);
    let next = job_of(&samples, rows[1].id);
    match storage.commit(changes).await.expect(READS) {
        // A backend whose queue is its rows may leave it empty.
        Committed::Applied { due, .. } => assert!(
            due.is_empty() || due == [(next.clone(), Duration::ZERO)],
            "the one that was woken, and no other: {due:?}"
        ),
        other => panic!("there is no claim on a key: {other:?}"),
    }
    parked(&*storage, &next, None).await;
    assert_eq!(storage.due(&job_of(&samples, rows[2].id)).await.expect(READS), None);
    // The row itself is as it was: only when it is due has changed.
    let row = delivery(&*storage, &samples, rows[1].id).await.delivery;
    assert_eq!((row.version, row.state), (2, DeliveryState::Pending));
}

/// "If there is one": a wake without anything to wake is nothing, of whatever payment and endpoint.
pub async fn a_wake_of_nothing_is_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let (endpoint, rows) = ordered(&*storage, &samples, WhenExhausted::Skip, 1).await;
    let payment = rows[0].payment.expect("it is of a payment");
    apply(&*storage, moved(&samples, &rows[0], DeliveryState::Delivered, None)).await;
    let nobody = EndpointId::mint(samples.env());
    for (endpoint, payment) in [
        (endpoint.id, payment),
        (nobody, payment),
        (endpoint.id, crate::id::PaymentId::mint(samples.env())),
    ] {
        let wake = Write::Wake { endpoint, payment };
        apply(&*storage, Changes::new(samples.scope().clone()).write(wake)).await;
    }
    assert_eq!(storage.due_jobs(Lane::Deliveries, 10).await.expect(READS), []);
}

/// A paused endpoint's ordered delivery waits for whichever takes longer.
pub async fn the_longer_of_two_waits_counts(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let (endpoint, rows) = ordered(&*storage, &samples, WhenExhausted::Skip, 2).await;
    apply(&*storage, moved(&samples, &rows[0], DeliveryState::Pending, Some(secs(600)))).await;
    let later = job_of(&samples, rows[1].id);
    for (pause_s, wait_s) in [(60, 600), (900, 900)] {
        apply(&*storage, pause(&samples, endpoint.id, secs(pause_s))).await;
        parked(&*storage, &later, Some(secs(wait_s))).await;
    }
}

/// "Not sealed with this key": of any merchant, deleted ones too, all of its envelopes count; in the order of their ids, at most so many.
pub async fn endpoints_sealed_otherwise_are_found(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    let active = sealed(1).key().clone();
    let mut expected = Vec::new();
    let [merchant, mode] = samples.foreign();
    for samples in [samples.clone(), samples.of(merchant), samples.of(mode)] {
        let now = samples.now();
        let plain = |secret| Endpoint { secret: sealed(secret), ..samples.endpoint() };
        registered(&*storage, plain(1)).await;
        let previous = PreviousSecret { secret: sealed(2), until: now };
        let headers = SealedHeaders { names: vec!["x-tenant".into()], sealed: sealed(3) };
        for endpoint in [
            plain(2),
            Endpoint { status: EndpointStatus::Deleted, ..plain(0) },
            Endpoint { previous: Some(previous), ..plain(1) },
            Endpoint { headers: Some(headers), ..plain(1) },
        ] {
            expected.push(registered(&*storage, endpoint).await);
        }
    }
    expected.sort_by_key(|endpoint| endpoint.id);
    let found = async |after, limit| {
        storage.endpoints_sealed_otherwise(&active, after, limit).await.expect(READS)
    };
    assert_eq!(found(None, 100).await, expected);
    assert_eq!(found(None, 5).await, expected[..5]);
    assert_eq!(found(Some(expected[4].id), 100).await, expected[5..]);
    for endpoint in expected {
        let secret = sealed(1);
        registered(&*storage, Endpoint { secret, previous: None, headers: None, ..endpoint }).await;
    }
    assert_eq!(found(None, 100).await, []);
}

/// An endpoint that orders by payment, and its deliveries of one payment's first `count` events.
async fn ordered(
    storage: &dyn Storage,
    samples: &Samples,
    policy: WhenExhausted,
    count: usize,
) -> (Endpoint, Vec<Delivery>) {
    let ordering = Ordering::ByPayment(policy);
    let options = DeliveryOptions { ordering, ..DeliveryOptions::default() };
    let endpoint = registered(storage, Endpoint { options, ..samples.endpoint() }).await;
    let creation = created(storage, samples).await;
    let (mut payment, mut events) = (creation.payment, vec![creation.event.id]);
    while events.len() < count {
        let (next, event) = samples.moved(&payment, EventType::PaymentProcessing);
        events.push(event.id);
        apply(storage, replacing(&next).write(Write::Event(Box::new(event)))).await;
        payment = next;
    }
    let mut rows = Vec::new();
    for event in events {
        let id = DeliveryId::new(event, endpoint.id);
        rows.push(delivery(storage, samples, id).await.delivery);
    }
    (endpoint, rows)
}

fn pause(samples: &Samples, endpoint: EndpointId, lasts: Duration) -> Changes {
    Changes::new(samples.scope().clone()).write(Write::Pause { endpoint, lasts })
}

/// The commit that moves a delivery of version 1.
fn moved(
    samples: &Samples,
    row: &Delivery,
    state: DeliveryState,
    due_in: Option<Duration>,
) -> Changes {
    moved_to(samples, row, state, due_in, 2)
}

fn moved_to(
    samples: &Samples,
    row: &Delivery,
    state: DeliveryState,
    due_in: Option<Duration>,
    version: u64,
) -> Changes {
    let next = Delivery { state, version, updated_at: samples.now(), ..row.clone() };
    Changes::new(samples.scope().clone())
        .guard(Guard::Delivery { id: row.id, version: version - 1 })
        .write(Write::Delivery { delivery: Box::new(next), due_in })
}

fn job_of(samples: &Samples, delivery: DeliveryId) -> Job {
    Job::Delivery { scope: samples.scope().clone(), delivery }
}

/// Asserts that a delivery is parked for so long, or that it is due, and that both reads of due work agree.
async fn parked(storage: &dyn Storage, job: &Job, expected: Option<Duration>) {
    let found = match storage.due(job).await.expect(READS) {
        Some(DueWork::Parked { look_in }) => Some(look_in),
        Some(DueWork::Delivery(_)) => None,
        other => panic!("it is due by its row: {other:?}"),
    };
    match (found, expected) {
        (None, None) => {}
        // A clock that cannot be stopped has gone on since the row was written.
        (Some(found), Some(expected)) => {
            let early = expected.saturating_sub(found);
            assert!(found <= expected && early < secs(5), "{found:?} instead of {expected:?}");
        }
        _ => panic!("parked for {found:?} instead of {expected:?}"),
    }
    let listed = storage.due_jobs(job.lane(), 1_000).await.expect(READS);
    assert_eq!(listed.contains(job), expected.is_none(), "`due_jobs` with {job:?}");
}

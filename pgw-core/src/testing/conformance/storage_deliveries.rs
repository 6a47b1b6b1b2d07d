//! Deliveries: which ones an event makes, what they look like, how they change, the log of their attempts.

use super::fixture::StorageFixture;
use super::support::{READS, apply, created, delivering, delivery, registered, replacing};
use crate::changes::{Changes, Committed, Guard, Write};
use crate::event::{Event, EventType};
use crate::id::DeliveryId;
use crate::page::PageRequest;
use crate::queue::Job;
use crate::storage::{DeliveryFilter, Storage, StorageError};
use crate::testing::sample::{Samples, filter, reason};
use crate::webhook::delivery::FailedBecause;
use crate::webhook::{
    Attempt, AttemptOutcome, Delivery, DeliveryState, Endpoint, EndpointStatus, TransportErrorKind,
};

/// "An event committed creates, in the same commit, one `Delivery` for each endpoint of its scope that hears its type."
pub async fn an_event_is_delivered_to_every_endpoint_that_hears_it(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let mut hearing = Vec::new();
    for filters in
        [&[][..], &["*"], &["payment.*"], &["payment.created"], &["refund.*", "payment.created"]]
    {
        hearing.push(registered(&*storage, samples.endpoint_for(filters)).await);
    }
    let event = created(&*storage, &samples).await.event;
    heard_by(&*storage, &samples, &event, &hearing).await;
}

/// "That hears its type": an endpoint whose filters let it through, and no other.
pub async fn an_endpoint_whose_filters_do_not_match_hears_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    for filters in [&["refund.*"][..], &["payment.succeeded"], &["endpoint.disabled", "test.ping"]]
    {
        registered(&*storage, samples.endpoint_for(filters)).await;
    }
    let event = created(&*storage, &samples).await.event;
    heard_by(&*storage, &samples, &event, &[]).await;
}

/// "That hears its type": for every type, an endpoint of exactly that type, one of its family and no other.
pub async fn every_event_type_is_heard_by_its_own_filters(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let mut endpoints = Vec::new();
    for event_type in EventType::ALL {
        endpoints.push(registered(&*storage, samples.endpoint_for(&[event_type.as_str()])).await);
    }
    for family in ["payment.*", "refund.*", "endpoint.*", "test.*"] {
        endpoints.push(registered(&*storage, samples.endpoint_for(&[family])).await);
    }
    for event_type in EventType::ALL {
        let event = published(&*storage, &samples, samples.event(*event_type)).await;
        let hearing: Vec<Endpoint> =
            endpoints.iter().filter(|endpoint| endpoint.hears(*event_type)).cloned().collect();
        assert_eq!(hearing.len(), 2, "the type's own endpoint and its family's");
        heard_by(&*storage, &samples, &event, &hearing).await;
    }
}

/// "That hears": a disabled endpoint hears nothing.
pub async fn a_disabled_endpoint_hears_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let status = EndpointStatus::Disabled { reason: reason("answered 410") };
    registered(&*storage, Endpoint { status, ..samples.endpoint() }).await;
    let event = created(&*storage, &samples).await.event;
    heard_by(&*storage, &samples, &event, &[]).await;
}

/// "That hears": a deleted endpoint hears nothing.
pub async fn a_deleted_endpoint_hears_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    registered(&*storage, Endpoint { status: EndpointStatus::Deleted, ..samples.endpoint() }).await;
    let event = created(&*storage, &samples).await.event;
    heard_by(&*storage, &samples, &event, &[]).await;
}

/// An endpoint that is enabled again hears what is committed afterwards, and only that.
pub async fn an_endpoint_enabled_again_hears_what_follows(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let status = EndpointStatus::Disabled { reason: reason("by hand") };
    let mut endpoint = registered(&*storage, Endpoint { status, ..samples.endpoint() }).await;
    let before = created(&*storage, &samples).await.event;
    endpoint.status = EndpointStatus::Enabled;
    endpoint.version = 2;
    let endpoint = registered(&*storage, endpoint).await;
    let after = created(&*storage, &samples).await.event;
    heard_by(&*storage, &samples, &before, &[]).await;
    heard_by(&*storage, &samples, &after, &[endpoint]).await;
}

/// "Each endpoint of its scope": none of another merchant or of the other mode.
pub async fn an_event_is_not_delivered_to_other_scopes(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    for scope in samples.foreign() {
        registered(&*storage, samples.of(scope).endpoint()).await;
    }
    let event = created(&*storage, &samples).await.event;
    heard_by(&*storage, &samples, &event, &[]).await;
    for scope in samples.foreign() {
        heard_by(&*storage, &samples.of(scope), &event, &[]).await;
    }
}

/// "Endpoints as they were before the commit": one created in the same commit does not hear its events.
pub async fn an_endpoint_created_in_the_same_commit_does_not_hear_it(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    let (creation, endpoint) = (samples.creation(), samples.endpoint());
    let register = Write::Endpoint(Box::new(endpoint.clone()));
    let mut changes = creation.changes().write(register);
    changes.writes.rotate_right(1);
    apply(&*storage, changes).await;
    heard_by(&*storage, &samples, &creation.event, &[]).await;
    let next = created(&*storage, &samples).await.event;
    heard_by(&*storage, &samples, &next, &[endpoint]).await;
}

/// "Less those the commit disables": wherever in the commit that write stands.
pub async fn an_endpoint_disabled_in_the_same_commit_does_not_hear_it(
    fixture: &dyn StorageFixture,
) {
    let status = EndpointStatus::Disabled { reason: reason("410") };
    silenced_in_the_same_commit(fixture, &status).await;
}

/// "… or deletes": wherever in the commit that write stands.
pub async fn an_endpoint_deleted_in_the_same_commit_does_not_hear_it(fixture: &dyn StorageFixture) {
    silenced_in_the_same_commit(fixture, &EndpointStatus::Deleted).await;
}

/// "Endpoints as they were before the commit": one that the commit enables does not hear it yet.
pub async fn an_endpoint_enabled_in_the_same_commit_does_not_hear_it(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let status = EndpointStatus::Disabled { reason: reason("by hand") };
    let endpoint = registered(&*storage, Endpoint { status, ..samples.endpoint() }).await;
    let creation = samples.creation();
    let enabled = Endpoint { status: EndpointStatus::Enabled, version: 2, ..endpoint };
    apply(&*storage, creation.changes().write(Write::Endpoint(Box::new(enabled)))).await;
    heard_by(&*storage, &samples, &creation.event, &[]).await;
}

/// "They are pending, due at once, version 1, without attempts", named by event and endpoint.
pub async fn a_new_delivery_is_pending_without_attempts(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    let creation = created(&*storage, &samples).await;
    let id = DeliveryId::new(creation.event.id, endpoint.id);
    let found = delivery(&*storage, &samples, id).await.delivery;
    let expected = Delivery {
        id,
        scope: samples.scope().clone(),
        event_type: EventType::PaymentCreated,
        payment: Some(creation.payment.id),
        state: DeliveryState::Pending,
        attempts: 0,
        attempts_total: 0,
        version: 1,
        created_at: found.created_at,
        updated_at: found.created_at,
    };
    assert_eq!(found, expected);
    assert_eq!(storage.attempts(samples.scope(), id, 10).await.expect(READS), []);
}

/// "A delivery with its event and endpoint": with the body to be signed and the secret to sign it with.
pub async fn a_delivery_comes_with_its_event_and_endpoint(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    let event = created(&*storage, &samples).await.event;
    let work = delivery(&*storage, &samples, DeliveryId::new(event.id, endpoint.id)).await;
    assert_eq!(work.event.body, event.body, "the body differs");
    assert_eq!(Event { feed_position: None, ..work.event }, event);
    assert_eq!(work.endpoint, endpoint);
}

/// The endpoint of a delivery is the endpoint as it is now, so a new address or secret counts at once.
pub async fn a_delivery_comes_with_its_endpoint_as_it_is_now(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    let (_, row) = delivering(&*storage, &samples).await;
    let mut endpoint = delivery(&*storage, &samples, row.id).await.endpoint;
    endpoint.status = EndpointStatus::Deleted;
    endpoint.version = 2;
    let endpoint = registered(&*storage, endpoint).await;
    assert_eq!(delivery(&*storage, &samples, row.id).await.endpoint, endpoint);
}

/// "One `Delivery` for each endpoint", of each event: two events in one commit make two.
pub async fn each_event_of_a_commit_has_deliveries_of_its_own(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    let creation = created(&*storage, &samples).await;
    let (next, first) = samples.moved(&creation.payment, EventType::PaymentUnknown);
    let (mut next, second) = samples.moved(&next, EventType::PaymentResolved);
    next.version = 2;
    let changes = replacing(&next)
        .write(Write::Event(Box::new(first.clone())))
        .write(Write::Event(Box::new(second.clone())));
    apply(&*storage, changes).await;
    for event in [first, second] {
        heard_by(&*storage, &samples, &event, std::slice::from_ref(&endpoint)).await;
    }
}

/// An event without a payment is delivered like any other.
pub async fn an_event_without_a_payment_is_delivered_too(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    let event = published(&*storage, &samples, samples.event(EventType::TestPing)).await;
    heard_by(&*storage, &samples, &event, std::slice::from_ref(&endpoint)).await;
    let work = delivery(&*storage, &samples, DeliveryId::new(event.id, endpoint.id)).await;
    assert_eq!(
        (work.delivery.payment, work.event.payment, work.event.sequence),
        (None, None, None)
    );
}

/// "To the endpoint it names, whatever that endpoint's filters": named, due at once, and in the feed like any other.
pub async fn an_event_to_one_endpoint_is_delivered_to_no_other(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(21));
    registered(&*storage, samples.endpoint()).await;
    registered(&*storage, samples.endpoint_for(&["test.ping"])).await;
    for filters in [&[][..], &["refund.*"], &["test.ping"]] {
        let named = registered(&*storage, samples.endpoint_for(filters)).await;
        let event = samples.event(EventType::TestPing);
        let due = match storage.commit(to_one(&samples, &event, &named)).await {
            Ok(Committed::Applied { due, .. }) => due,
            other => panic!("it was not applied: {other:?}"),
        };
        heard_by(&*storage, &samples, &event, std::slice::from_ref(&named)).await;
        let id = DeliveryId::new(event.id, named.id);
        let found = delivery(&*storage, &samples, id).await;
        assert_eq!((found.delivery.state, found.delivery.version), (DeliveryState::Pending, 1));
        assert_eq!(Event { feed_position: None, ..found.event }, event);
        let job = Job::Delivery { scope: samples.scope().clone(), delivery: id };
        assert!(due.is_empty() || due.iter().all(|(made_due, _)| *made_due == job), "{due:?}");
        assert!(storage.due(&job).await.expect(READS).is_some(), "it is due at once");
        storage.stamp_events(100).await.expect(READS);
        let feed = storage.feed(samples.scope(), 0, 100).await.expect(READS);
        assert_eq!(feed.last().map(|event| event.id), Some(event.id));
    }
}

/// "Unless it was not enabled before the commit, or the commit disables or deletes it": then the event is there without a delivery.
pub async fn an_event_to_one_endpoint_that_is_silent_is_not_delivered(
    fixture: &dyn StorageFixture,
) {
    let (storage, samples) = (fixture.storage().await, Samples::new(22));
    registered(&*storage, samples.endpoint()).await;
    for status in [EndpointStatus::Disabled { reason: reason("410") }, EndpointStatus::Deleted] {
        let silent = Endpoint { status: status.clone(), ..samples.endpoint() };
        let silent = registered(&*storage, silent).await;
        let event = samples.event(EventType::TestPing);
        apply(&*storage, to_one(&samples, &event, &silent)).await;
        heard_by(&*storage, &samples, &event, &[]).await;

        for turns in 0..2 {
            let named = registered(&*storage, samples.endpoint()).await;
            let event = samples.event(EventType::TestPing);
            let silenced = Endpoint { status: status.clone(), version: 2, ..named };
            let mut changes = to_one(&samples, &event, &silenced);
            changes.writes.push(Write::Endpoint(Box::new(silenced)));
            changes.writes.rotate_right(turns);
            apply(&*storage, changes).await;
            heard_by(&*storage, &samples, &event, &[]).await;
        }
    }
}

/// "An endpoint that does not exist is `Missing`", one of another merchant or mode too; nothing is written.
pub async fn an_event_to_an_unknown_endpoint_is_refused(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(23));
    registered(&*storage, samples.endpoint()).await;
    let mut unknown = vec![samples.endpoint()];
    for scope in samples.foreign() {
        unknown.push(registered(&*storage, samples.of(scope).endpoint()).await);
    }
    for endpoint in unknown {
        let event = samples.event(EventType::TestPing);
        let refused = storage.commit(to_one(&samples, &event, &endpoint)).await;
        assert!(matches!(refused, Err(StorageError::Missing("endpoint"))), "{refused:?}");
        heard_by(&*storage, &samples, &event, &[]).await;
    }
    assert_eq!(storage.stamp_events(100).await.expect(READS), 0, "no event was written");
}

/// A commit that is not applied makes no deliveries.
pub async fn a_failed_commit_makes_no_deliveries(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    registered(&*storage, samples.endpoint()).await;
    let creation = samples.creation();
    let failing = Guard::Payment { id: creation.payment.id, version: 7 };
    super::support::conflict_on(&*storage, creation.changes().guard(failing.clone()), &failing)
        .await;
    heard_by(&*storage, &samples, &creation.event, &[]).await;
    let filter = DeliveryFilter::default();
    let all = storage.deliveries(samples.scope(), &filter, PageRequest::default()).await;
    assert_eq!(all.expect(READS).data, []);
}

/// "Replaces a delivery": in every state it can have.
pub async fn a_delivery_is_replaced_in_every_state(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let (_, mut row) = delivering(&*storage, &samples).await;
    let failures = [
        FailedBecause::Exhausted,
        FailedBecause::Gone,
        FailedBecause::EndpointDisabled,
        FailedBecause::EndpointDeleted,
    ];
    let states = [DeliveryState::Delivered, DeliveryState::Pending]
        .into_iter()
        .chain(failures.map(DeliveryState::Failed));
    for state in states {
        row.version += 1;
        row.attempts += 1;
        row.attempts_total += 2;
        row.state = state;
        row.updated_at = samples.now();
        let changes = Changes::new(samples.scope().clone())
            .guard(Guard::Delivery { id: row.id, version: row.version - 1 })
            .write(Write::Delivery { delivery: Box::new(row.clone()), due_in: None });
        apply(&*storage, changes).await;
        assert_eq!(delivery(&*storage, &samples, row.id).await.delivery, row);
    }
}

/// "A delivery's attempts, oldest first", every kind of outcome as it was written.
pub async fn attempts_are_listed_oldest_first(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    let (_, row) = delivering(&*storage, &samples).await;
    let outcomes = [
        AttemptOutcome::Failed(TransportErrorKind::Denied),
        AttemptOutcome::Failed(TransportErrorKind::Dns),
        AttemptOutcome::Failed(TransportErrorKind::Connect),
        AttemptOutcome::Failed(TransportErrorKind::Tls),
        AttemptOutcome::Failed(TransportErrorKind::Timeout),
        AttemptOutcome::Failed(TransportErrorKind::Reset),
        AttemptOutcome::Failed(TransportErrorKind::Protocol),
        AttemptOutcome::Answered { status: 503, body_start: "é".repeat(512).into() },
        AttemptOutcome::Answered { status: 204, body_start: "".into() },
    ];
    let mut log = Vec::new();
    for (number, outcome) in (1..).zip(outcomes) {
        let attempt =
            Attempt { outcome, latency_ms: number * 1_000, ..samples.attempt(row.id, number) };
        log_attempt(&*storage, &samples, &attempt).await;
        log.push(attempt);
    }
    assert_eq!(storage.attempts(samples.scope(), row.id, 100).await.expect(READS), log);
}

/// "At most `limit` of the latest", still oldest first.
pub async fn attempts_are_limited_to_the_latest(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(18));
    let (_, row) = delivering(&*storage, &samples).await;
    // More than nine, so that an order by text would show.
    for number in 1..=12 {
        log_attempt(&*storage, &samples, &samples.attempt(row.id, number)).await;
    }
    for (limit, expected) in [(0, vec![]), (1, vec![12]), (3, vec![10, 11, 12])] {
        let attempts = storage.attempts(samples.scope(), row.id, limit).await.expect(READS);
        let numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, expected, "limit {limit}");
    }
}

/// "A delivery's attempts": not those of another delivery.
pub async fn attempts_belong_to_their_delivery(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(19));
    let endpoints = [
        registered(&*storage, samples.endpoint()).await,
        registered(&*storage, samples.endpoint()).await,
    ];
    let event = created(&*storage, &samples).await.event;
    let [first, second] = endpoints.map(|endpoint| DeliveryId::new(event.id, endpoint.id));
    let attempt = samples.attempt(first, 1);
    log_attempt(&*storage, &samples, &attempt).await;
    assert_eq!(storage.attempts(samples.scope(), first, 10).await.expect(READS), [attempt]);
    assert_eq!(storage.attempts(samples.scope(), second, 10).await.expect(READS), []);
}

/// Asserts which endpoints an event has deliveries to.
async fn heard_by(storage: &dyn Storage, samples: &Samples, event: &Event, endpoints: &[Endpoint]) {
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    let all =
        storage.deliveries(samples.scope(), &DeliveryFilter::default(), page).await.expect(READS);
    let mut found: Vec<DeliveryId> =
        all.data.iter().map(|row| row.id).filter(|id| id.event() == event.id).collect();
    let mut expected: Vec<DeliveryId> =
        endpoints.iter().map(|endpoint| DeliveryId::new(event.id, endpoint.id)).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "deliveries of {}", event.event_type);
}

fn to_one(samples: &Samples, event: &Event, endpoint: &Endpoint) -> Changes {
    let event = Box::new(event.clone());
    Changes::new(samples.scope().clone()).write(Write::EventTo { event, endpoint: endpoint.id })
}

async fn published(storage: &dyn Storage, samples: &Samples, event: Event) -> Event {
    let changes =
        Changes::new(samples.scope().clone()).write(Write::Event(Box::new(event.clone())));
    apply(storage, changes).await;
    event
}

async fn silenced_in_the_same_commit(fixture: &dyn StorageFixture, status: &EndpointStatus) {
    let (storage, samples) = (fixture.storage().await, Samples::new(20));
    let staying = registered(&*storage, samples.endpoint_for(&["*"])).await;
    assert_eq!(staying.filters, [filter("*")]);
    for turns in 0..2 {
        let endpoint = registered(&*storage, samples.endpoint()).await;
        let creation = samples.creation();
        let silent = Endpoint { status: status.clone(), version: 2, ..endpoint };
        let mut changes = creation.changes().write(Write::Endpoint(Box::new(silent)));
        changes.writes.rotate_right(turns);
        apply(&*storage, changes).await;
        heard_by(&*storage, &samples, &creation.event, std::slice::from_ref(&staying)).await;
    }
}

async fn log_attempt(storage: &dyn Storage, samples: &Samples, attempt: &Attempt) {
    let changes =
        Changes::new(samples.scope().clone()).write(Write::Attempt(Box::new(attempt.clone())));
    apply(storage, changes).await;
}

//! Events: a payment's timeline, the feed and its stamps, the cursors of its consumers.

use super::fixture::StorageFixture;
use super::support::{READS, apply, at_once, created, replacing};
use crate::changes::{Changes, Write};
use crate::event::{Event, EventType};
use crate::id::PaymentId;
use crate::scope::Scope;
use crate::storage::Storage;
use crate::testing::sample::{Creation, Samples};

/// "A payment's events in order of their sequence."
pub async fn a_timeline_is_in_order_of_its_sequence(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let (creation, events) = timeline(&*storage, &samples, 12).await;
    let found =
        storage.payment_events(samples.scope(), creation.payment.id, 0, 100).await.expect(READS);
    assert_eq!(found, events);
    for (found, event) in found.iter().zip(&events) {
        assert_eq!(found.body, event.body, "an event's body differs");
    }
}

/// "From `after` on": events whose sequence is above it, as the feed's `after`.
pub async fn a_timeline_starts_after_a_sequence(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let (creation, events) = timeline(&*storage, &samples, 6).await;
    for after in 0..=7_u64 {
        let found = storage.payment_events(samples.scope(), creation.payment.id, after, 100).await;
        let rest: Vec<Event> =
            events.iter().filter(|event| event.sequence > Some(after)).cloned().collect();
        assert_eq!(found.expect(READS), rest, "after {after}");
    }
}

/// "At most `limit`": the first of them.
pub async fn a_timeline_is_limited(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let (creation, events) = timeline(&*storage, &samples, 6).await;
    for (after, limit) in [(0, 0), (0, 1), (0, 4), (2, 3), (4, 9)] {
        let found =
            storage.payment_events(samples.scope(), creation.payment.id, after, limit).await;
        let start = usize::try_from(after).expect("small");
        let end = events.len().min(start + limit);
        assert_eq!(found.expect(READS), events[start..end], "after {after}, limit {limit}");
    }
}

/// "A payment's events": not those of another payment or of none.
pub async fn a_timeline_is_of_one_payment(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let (first, events) = timeline(&*storage, &samples, 3).await;
    timeline(&*storage, &samples, 2).await;
    publish(&*storage, &samples, 2).await;
    let found = storage.payment_events(samples.scope(), first.payment.id, 0, 100).await;
    assert_eq!(found.expect(READS), events);
    let nobody = PaymentId::mint(samples.env());
    assert_eq!(storage.payment_events(samples.scope(), nobody, 0, 100).await.expect(READS), []);
}

/// A timeline shows events whether they have a feed position or not.
pub async fn a_timeline_does_not_wait_for_stamps(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let (creation, events) = timeline(&*storage, &samples, 4).await;
    assert_eq!(storage.stamp_events(2).await.expect(READS), 2);
    let found =
        storage.payment_events(samples.scope(), creation.payment.id, 0, 100).await.expect(READS);
    let bare: Vec<Event> =
        found.into_iter().map(|event| Event { feed_position: None, ..event }).collect();
    assert_eq!(bare, events);
}

/// "Stamped events": the feed shows no event without a position.
pub async fn the_feed_shows_stamped_events_only(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    publish(&*storage, &samples, 3).await;
    assert_eq!(feed(&*storage, samples.scope()).await, []);
    assert_eq!(storage.stamp_events(2).await.expect(READS), 2);
    assert_eq!(feed(&*storage, samples.scope()).await.len(), 2);
}

/// "A position, dense from 1": 1, 2, 3, … in every feed, whatever was stamped together.
pub async fn positions_are_dense_from_1(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    for count in 1..=5 {
        publish(&*storage, &samples, count).await;
        stamp_all(&*storage, 2).await;
    }
    dense(&feed(&*storage, samples.scope()).await, 15);
}

/// "Each event of a merchant and mode": every scope counts for itself.
pub async fn positions_are_counted_per_scope(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    for _ in 0..3 {
        publish(&*storage, &samples, 2).await;
        for scope in samples.foreign() {
            publish(&*storage, &samples.of(scope), 1).await;
        }
        stamp_all(&*storage, 3).await;
    }
    dense(&feed(&*storage, samples.scope()).await, 6);
    for scope in samples.foreign() {
        dense(&feed(&*storage, &scope).await, 3);
    }
}

/// "An event stamped later never has a lower one": what was read never moves, and news comes after it.
pub async fn an_event_stamped_later_comes_later(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let mut seen: Vec<Event> = Vec::new();
    for _ in 0..6 {
        publish(&*storage, &samples, 3).await;
        assert_eq!(storage.stamp_events(2).await.expect(READS), 2);
        let now = feed(&*storage, samples.scope()).await;
        assert_eq!(now[..seen.len()], seen[..], "an event that was read has moved");
        seen = now;
    }
    stamp_all(&*storage, 100).await;
    dense(&feed(&*storage, samples.scope()).await, 18);
}

/// Events of one payment are stamped in the order of their sequence: a consumer hears of a payment in its own order.
pub async fn a_payments_events_are_stamped_in_their_order(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let (creation, _) = timeline(&*storage, &samples, 9).await;
    let (other, _) = timeline(&*storage, &samples, 9).await;
    stamp_all(&*storage, 4).await;
    let feed = feed(&*storage, samples.scope()).await;
    for id in [creation.payment.id, other.payment.id] {
        let sequences: Vec<u64> =
            feed.iter().filter(|e| e.payment == Some(id)).filter_map(|e| e.sequence).collect();
        assert_eq!(sequences, (1..=9).collect::<Vec<u64>>());
    }
}

/// "Stamps up to `limit` events; says how many": 0 once all have a position.
pub async fn stamping_says_how_many_it_stamped(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    publish(&*storage, &samples, 5).await;
    let mut stamped = Vec::new();
    for limit in [0, 3, 3, 3] {
        stamped.push(storage.stamp_events(limit).await.expect(READS));
    }
    assert_eq!(stamped, [0, 3, 2, 0]);
}

/// "Any number of callers at once": no gap, no position twice, no event twice.
pub async fn concurrent_stampers_leave_no_gap_and_no_double(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    for _ in 0..4 {
        publish(&*storage, &samples, 10).await;
        for scope in samples.foreign() {
            publish(&*storage, &samples.of(scope), 5).await;
        }
    }
    let counts = at_once((0..12).map(|_| {
        let storage = std::sync::Arc::clone(&storage);
        async move { storage.stamp_events(7).await.expect(READS) }
    }))
    .await;
    let first: usize = counts.into_iter().sum();
    let rest = stamp_all(&*storage, 100).await;
    assert_eq!(first + rest, 80, "each event is stamped once");
    dense(&feed(&*storage, samples.scope()).await, 40);
    for scope in samples.foreign() {
        dense(&feed(&*storage, &scope).await, 20);
    }
}

/// Events committed while others are stamped are neither lost nor put before what was read.
pub async fn events_committed_while_stamping_are_not_lost(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    let writers = (0..10).map(|_| {
        let (storage, samples) = (std::sync::Arc::clone(&storage), samples.clone());
        tokio::spawn(async move { publish(&*storage, &samples, 4).await })
    });
    let writers: Vec<_> = writers.collect();
    let mut seen: Vec<Event> = Vec::new();
    for _ in 0..20 {
        storage.stamp_events(3).await.expect(READS);
        let now = feed(&*storage, samples.scope()).await;
        assert_eq!(now[..seen.len()], seen[..], "an event that was read has moved");
        seen = now;
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.expect("a writer must not panic");
    }
    stamp_all(&*storage, 100).await;
    let all = feed(&*storage, samples.scope()).await;
    assert_eq!(all[..seen.len()], seen[..], "an event that was read has moved");
    dense(&all, 40);
}

/// "Events with a position above `after`, in order, at most `limit`."
pub async fn the_feed_is_read_from_a_position_on(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    publish(&*storage, &samples, 7).await;
    stamp_all(&*storage, 100).await;
    for (after, limit, expected) in [
        (0, 3, vec![1, 2, 3]),
        (3, 3, vec![4, 5, 6]),
        (6, 3, vec![7]),
        (7, 3, vec![]),
        (2, 0, vec![]),
    ] {
        let events = storage.feed(samples.scope(), after, limit).await.expect(READS);
        let found: Vec<u64> = events.iter().filter_map(|event| event.feed_position).collect();
        assert_eq!(found, expected, "after {after}, limit {limit}");
    }
}

/// "Immutable but for `feed_position`": a stamped event is otherwise the one that was committed.
pub async fn a_stamp_changes_nothing_else(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let event = created(&*storage, &samples).await.event;
    stamp_all(&*storage, 10).await;
    let found = feed(&*storage, samples.scope()).await;
    assert_eq!(found[0].body, event.body, "the body differs");
    assert_eq!(found, [Event { feed_position: Some(1), ..event }]);
}

/// "Where a consumer's cursor stands; 0 when it never moved": each consumer of each scope for itself.
pub async fn a_cursor_stands_where_it_was_moved(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let names = ["mail", "Mail", "mail ", "наблюдатель", "o'clock \\"];
    for (position, name) in (1..).zip(names) {
        assert_eq!(storage.cursor(samples.scope(), name).await.expect(READS), 0, "{name}");
        move_cursor(&*storage, samples.scope(), name, position).await;
    }
    for (position, name) in (1..).zip(names) {
        assert_eq!(storage.cursor(samples.scope(), name).await.expect(READS), position, "{name}");
    }
    for scope in samples.foreign() {
        assert_eq!(storage.cursor(&scope, "mail").await.expect(READS), 0, "it moved elsewhere too");
    }
}

/// "Moves a consumer's cursor": back too, which is how a consumer reads again.
pub async fn a_cursor_may_be_moved_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    for position in [9, 2, i64::MAX as u64] {
        move_cursor(&*storage, samples.scope(), "mail", position).await;
        assert_eq!(storage.cursor(samples.scope(), "mail").await.expect(READS), position);
    }
}

/// A payment with this many events, one commit each.
async fn timeline(
    storage: &dyn Storage,
    samples: &Samples,
    count: usize,
) -> (Creation, Vec<Event>) {
    let creation = created(storage, samples).await;
    let (mut payment, mut events) = (creation.payment.clone(), vec![creation.event.clone()]);
    while events.len() < count {
        let (next, event) = samples.moved(&payment, EventType::PaymentProcessing);
        apply(storage, replacing(&next).write(Write::Event(Box::new(event.clone())))).await;
        payment = next;
        events.push(event);
    }
    (creation, events)
}

/// Commits this many events without a payment, all at once.
async fn publish(storage: &dyn Storage, samples: &Samples, count: usize) {
    let mut changes = Changes::new(samples.scope().clone());
    for _ in 0..count {
        changes = changes.write(Write::Event(Box::new(samples.event(EventType::TestPing))));
    }
    apply(storage, changes).await;
}

/// Stamps until there is nothing left; how many it were.
async fn stamp_all(storage: &dyn Storage, limit: usize) -> usize {
    let mut all = 0;
    loop {
        let stamped = storage.stamp_events(limit).await.expect(READS);
        assert!(stamped <= limit, "more than were asked for");
        if stamped == 0 {
            return all;
        }
        all += stamped;
    }
}

async fn feed(storage: &dyn Storage, scope: &Scope) -> Vec<Event> {
    storage.feed(scope, 0, 1_000).await.expect(READS)
}

async fn move_cursor(storage: &dyn Storage, scope: &Scope, consumer: &str, position: u64) {
    let write = Write::Cursor { consumer: consumer.into(), position };
    apply(storage, Changes::new(scope.clone()).write(write)).await;
}

fn dense(events: &[Event], count: u64) {
    let positions: Vec<u64> = events.iter().filter_map(|event| event.feed_position).collect();
    assert_eq!(positions, (1..=count).collect::<Vec<u64>>(), "positions are 1..={count}");
    let mut ids: Vec<_> = events.iter().map(|event| event.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len(), "an event is in the feed twice");
}

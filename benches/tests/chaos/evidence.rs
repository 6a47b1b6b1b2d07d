//! What is there at the end, with the clients, at the bank, at the receiver and in the database, and what must be true of it.

use std::collections::BTreeSet;
use std::fmt;

use pgw_core::event::EventType;
use pgw_core::gateway::Origin;
use pgw_core::id::DeliveryId;
use pgw_core::payment::PaymentStatus;
use pgw_core::scope::Scope;
use pgw_core::storage::Storage as _;
use pgw_core::testing::invariants::{Acknowledged, Outside, Rows};
use pgw_core::webhook::DeliveryState;
use tokio::task::JoinSet;

use crate::clients::{Kept, Told, order};
use crate::stage::{HEALTHY, Stage};

/// What was seen. Whatever must not be has failed the test by then.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    orders: usize,
    in_doubt: usize,
    refused: usize,
    hung_up: usize,
    doubled: usize,
    events: usize,
    webhooks: usize,
    dead_lettered: usize,
    owed: usize,
}

impl Evidence {
    /// Of everything that is at rest.
    pub(crate) async fn gather(stage: &Stage, kept: &[Kept]) -> Self {
        let pg = &stage.backends.pg;
        while pg.stamp_events(500).await.expect(HEALTHY) > 0 {}
        let rows = Rows::read(pg, &Scope::default()).await.expect(HEALTHY);
        assert_paid(stage, &rows, kept).await;
        let (owed, dead_lettered) = assert_delivered(stage, &rows, kept.len());
        assert_told_the_truth(kept);
        assert_replays(stage, kept).await;
        let (webhooks, owed_count) = (stage.receiver.received().len(), owed.len());
        assert_invariants(stage, kept, owed).await;
        let count = |which: fn(&Kept) -> bool| kept.iter().filter(|kept| which(kept)).count();
        Self {
            orders: kept.len(),
            in_doubt: count(|kept| kept.tries.in_doubt > 0),
            refused: count(|kept| kept.tries.refused > 0),
            hung_up: count(|kept| kept.tries.hung_up > 0),
            doubled: count(|kept| kept.tries.is_doubled),
            events: rows.feed.len(),
            webhooks,
            dead_lettered,
            owed: owed_count,
        }
    }
}

/// A payment, a charge and a key for each order, which has succeeded, and which the bank has executed once.
async fn assert_paid(stage: &Stage, rows: &Rows, kept: &[Kept]) {
    let orders = kept.len();
    for sql in ROWS {
        assert_eq!(stage.count(sql).await, orders as u64, "{sql}: one for each key");
    }
    for state in &rows.payments {
        assert_eq!(state.payment.status, PaymentStatus::Succeeded, "{state:?}");
    }
    let ledger = stage.bank.ledger();
    let keys: BTreeSet<_> = ledger.iter().map(|entry| entry.key).collect();
    assert_eq!(keys, kept.iter().map(|kept| kept.told.operation).collect(), "all are charged");
    assert_eq!(ledger.len(), orders, "one charge of each key");
}

/// Every event has its delivery to each endpoint, which was taken or given up with a reason. What is owed, and how much was given up.
fn assert_delivered(stage: &Stage, rows: &Rows, orders: usize) -> (BTreeSet<DeliveryId>, usize) {
    for event_type in [EventType::PaymentCreated, EventType::PaymentSucceeded] {
        let of_type = rows.feed.iter().filter(|event| event.event_type == event_type);
        assert_eq!(of_type.count(), orders, "one {event_type} of each payment");
    }
    let to_each = |event| stage.endpoints.iter().map(move |id| DeliveryId::new(event, *id));
    let owed: BTreeSet<_> = rows.feed.iter().flat_map(|event| to_each(event.id)).collect();
    let found: BTreeSet<_> = rows.deliveries.iter().map(|delivery| delivery.id).collect();
    assert_eq!(found, owed, "each event goes to each endpoint");
    let given_up = |state| matches!(state, DeliveryState::Failed(_));
    let dead = rows.deliveries.iter().filter(|delivery| given_up(delivery.state)).count();
    let taken = |state| state == DeliveryState::Delivered;
    let taken = rows.deliveries.iter().filter(|delivery| taken(delivery.state)).count();
    assert_eq!(taken + dead, owed.len(), "no event is lost");
    (owed, dead)
}

/// Who was only ever told that nothing was done was told the truth.
fn assert_told_the_truth(kept: &[Kept]) {
    for kept in kept {
        let tries = kept.tries;
        let may_be_done = tries.in_doubt > 0 || tries.hung_up > 0 || tries.is_doubled;
        assert!(may_be_done || kept.origin != Origin::Replayed, "it was done: {kept:?}");
    }
}

/// Every key answers with what it answered first, byte for byte, and does nothing.
async fn assert_replays(stage: &Stage, kept: &[Kept]) {
    let mut calls = JoinSet::new();
    for part in kept.chunks(kept.len().div_ceil(AT_ONCE)) {
        let (gateway, part) = (stage.gateway.clone(), part.to_vec());
        calls.spawn(async move {
            for kept in part {
                let again = gateway.host().create_payment(order(&kept.key)).await;
                let again = again.expect(HEALTHY);
                let says = (again.origin, Told::of(&again));
                assert_eq!(says, (Origin::Replayed, kept.told), "{:?}", kept.key);
            }
        });
    }
    calls.join_all().await;
}

/// Rows, events, webhooks, audit and the bank's books tell the same story.
async fn assert_invariants(stage: &Stage, kept: &[Kept], owed: BTreeSet<DeliveryId>) {
    let acknowledged = |kept: &Kept| Acknowledged {
        scope: Scope::default(),
        key: Some(kept.key.clone()),
        payment: kept.told.payment,
        operation: kept.told.operation,
    };
    let outside = Outside {
        acknowledged: kept.iter().map(acknowledged).collect(),
        received: stage.receiver.received(),
        ledger: stage.bank.ledger(),
        owed: Some(owed),
        ..Outside::default()
    };
    let broken = outside.broken(&stage.backends.pg, &[Scope::default()]).await;
    assert!(broken.is_empty(), "{}: {broken:#?}", broken.len());
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orders, in_doubt, refused, hung_up, doubled, .. } = self;
        let again = self.webhooks.saturating_sub(self.owed - self.dead_lettered);
        write!(
            f,
            "{orders} payments, each charged once (asked again under their keys: {in_doubt} in doubt, {refused} refused, {hung_up} that hung up, {doubled} at the same time); \
             {} events, 0 lost, {} dead-lettered, {} webhooks, {again} of them again",
            self.events, self.dead_lettered, self.webhooks,
        )
    }
}

/// How many ask at the same time.
const AT_ONCE: usize = 8;
const ROWS: [&str; 3] = [
    "select count(*) from pgw.payments",
    "select count(*) from pgw.operations",
    "select count(*) from pgw.idempotency_keys",
];

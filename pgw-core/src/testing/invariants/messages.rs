//! What must be true of events and webhooks: none skipped, none invented, each delivered or given up with a reason.

use std::collections::{BTreeMap, BTreeSet};

use pgw_webhook_client::StandardVerifier;

use crate::event::Event;
use crate::id::{DeliveryId, EventId};
use crate::privacy::Redaction;
use crate::testing::keys::secret_of;
use crate::testing::transport::{Received, Taken};
use crate::webhook::{Delivery, DeliveryState};

use super::{Broken, History, Outside, Rows};

/// Positions are dense, and a consumer was given each event at least once and none before its turn.
pub(super) fn check_feed(
    rows: &Rows,
    heard: Option<&Vec<(u64, EventId)>>,
    broken: &mut Vec<Broken>,
) {
    let positions: Vec<u64> = rows.feed.iter().filter_map(|event| event.feed_position).collect();
    if !positions.iter().copied().eq(1..=positions.len() as u64)
        || positions.len() != rows.feed.len()
    {
        broken.push(("the feed is dense", format!("{}: {positions:?}", rows.scope.merchant)));
    }
    let ids: BTreeSet<EventId> = rows.feed.iter().map(|event| event.id).collect();
    if ids.len() != rows.feed.len() {
        broken.push((
            "the feed is dense",
            format!("{}: an event is in it twice", rows.scope.merchant),
        ));
    }
    let Some(heard) = heard else { return };
    let mut reached: u64 = 0;
    for (position, id) in heard {
        if *position > reached.saturating_add(1) {
            broken.push(("a consumer misses no event", format!("{position} came after {reached}")));
        }
        reached = reached.max(*position);
        let index = usize::try_from(position.saturating_sub(1)).unwrap_or(usize::MAX);
        if rows.feed.get(index).is_none_or(|event| event.id != *id) {
            broken.push(("a consumer misses no event", format!("{id} is not at {position}")));
        }
    }
    if reached < positions.len() as u64 {
        broken.push(("a consumer misses no event", format!("it stopped at {reached}")));
    }
}

/// Each event has a delivery for each endpoint that heard it, and what counts as delivered was taken, byte for byte.
pub(super) fn check_deliveries(
    rows: &Rows,
    history: &History,
    outside: &Outside,
    broken: &mut Vec<Broken>,
) {
    let events: BTreeMap<EventId, &Event> =
        rows.feed.iter().map(|event| (event.id, event)).collect();
    let found: BTreeSet<DeliveryId> = rows.deliveries.iter().map(|delivery| delivery.id).collect();
    if let Some(owed) = &outside.owed {
        let ours = |id: &&DeliveryId| events.contains_key(&id.event());
        if let Some(missing) = owed.iter().filter(ours).find(|id| !found.contains(id)) {
            broken.push((
                "each event goes to each endpoint that hears it",
                format!("{missing} is missing"),
            ));
        }
        if let Some(extra) = found.iter().find(|id| !owed.contains(id)) {
            broken.push((
                "each event goes to each endpoint that hears it",
                format!("{extra} is one too many"),
            ));
        }
    }
    for delivery in &rows.deliveries {
        let (logged, total) = (history.attempts.get(&delivery.id), delivery.attempts_total);
        if logged.copied().unwrap_or(0) as u64 != u64::from(total) {
            let what = format!("{}: {logged:?} rows of {total}", delivery.id);
            broken.push(("each attempt has its row in the log", what));
        }
        match delivery.state {
            DeliveryState::Pending => {
                broken
                    .push(("at rest everything is settled", format!("{} is pending", delivery.id)));
            }
            DeliveryState::Delivered => {
                let event = events.get(&delivery.id.event());
                if let Err(why) = taken(delivery, event, rows, history, outside) {
                    broken.push(("delivered means taken", format!("{}: {why}", delivery.id)));
                }
            }
            DeliveryState::Failed(_) => {}
        }
    }
}

fn taken(
    delivery: &Delivery,
    event: Option<&&Event>,
    rows: &Rows,
    history: &History,
    outside: &Outside,
) -> Result<(), &'static str> {
    let event = event.ok_or("its event is not in the feed")?;
    let endpoint = history.endpoints.get(&delivery.id.endpoint()).ok_or("it has no endpoint")?;
    let current = secret_of(endpoint).ok_or("its secret does not open")?;
    let older = outside.secrets.get(&endpoint.id).map(Vec::as_slice).unwrap_or_default();
    let mut verifiers = Vec::new();
    for secret in older.iter().chain([&current]) {
        let verifier = StandardVerifier::new(secret.expose());
        verifiers.push(verifier.map_err(|_| "the secret is not one")?);
    }
    let is_genuine = |got: &Received| {
        // An endpoint's profiles may change: what was sent without this one is not judged here.
        got.header("webhook-signature").is_none()
            || verifiers.iter().any(|verifier| got.verify(verifier).is_ok())
    };
    let mut arrived = outside.received.iter().filter(|got| got.outcome == Taken::Yes);
    // What was taken before its customer was erased is what is stored, with the person in it.
    let redaction = redaction_of(event, rows);
    let is_the_same = |got: &Received| {
        got.body == event.body
            || redaction.is_some_and(|redaction| redaction.body(&got.body) == event.body)
    };
    let same = arrived.any(|got| is_the_same(got) && is_genuine(got));
    if same { Ok(()) } else { Err("nobody took these bytes with a good signature") }
}

/// What an event's bytes were made into when its payment's customer was erased.
fn redaction_of(event: &Event, rows: &Rows) -> Option<Redaction> {
    let state = rows.payments.iter().find(|state| Some(state.payment.id) == event.payment)?;
    let customer = state.payment.customer.id.as_ref()?;
    Some(Redaction::of(customer.as_str().parse().ok()?))
}

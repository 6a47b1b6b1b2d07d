//! Arrivals: what must be true of each request to a receiver, by what its worker saw last of the delivery's rows.
//!
//! What is sent may be late: the worker's lease ran out, its process was killed, the endpoint was changed or paused meanwhile. So
//! each request is held to the rows as they were when its worker last asked whether it was its turn: that is its *look*. Which of a
//! process's workers it was cannot be seen; so where one process looked at a delivery more than once, not long ago, and sent nothing
//! for it since, any of those looks will do.
//!
//! # The order of an endpoint that orders
//! Promised of every request that is taken and whose look was after the endpoint's ordering last changed:
//! - With `Park`, everything before it in its payment was taken.
//! - With `Skip`, nothing before it in its payment is pending that already was at its look: each was taken, given up, or is being
//!   replayed by hand.
//! - The first time that it is taken, it is the highest of its payment so far. With `Skip` not if it was ever given up: a replay
//!   comes when it is replayed, and what was on its way when it was given up comes late.
//!
//! Not promised is anything of what was taken before: an attempt whose answer was lost comes twice.
//!
//! # Pauses
//! Promised of every request: at its look the endpoint was not paused. Those that looked before the pause was committed go out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::env::runtime_now;
use crate::id::{DeliveryId, EventId, PaymentId};
use crate::queue::Job;
use crate::testing::crash::Life;
use crate::testing::invariants::Broken;
use crate::testing::transport::Taken;
use crate::webhook::{
    DeliveryState, Endpoint, EndpointStatus, Ordering, WebhookRequest, WhenExhausted,
};

use super::deliveries::{Deliveries, OVERLAP};
use super::signatures::{self, Secrets};

/// What a worker saw when it asked whether it was a delivery's turn.
#[derive(Debug)]
pub(super) struct Look {
    life: Life,
    when: Instant,
    endpoint: Arc<Endpoint>,
    is_paused: bool,
    at: u64,
}

impl Deliveries {
    /// A process asks whether it is a job's turn.
    pub(super) fn looked(&mut self, life: &Life, job: &Job) {
        let Job::Delivery { delivery, .. } = job else { return };
        let Some(known) = self.endpoints.get(&delivery.endpoint()) else { return };
        self.moment += 1;
        let now = runtime_now();
        let look = Look {
            life: life.clone(),
            when: now,
            endpoint: Arc::clone(&known.row),
            is_paused: known.paused_until.is_some_and(|until| now < until),
            at: self.moment,
        };
        let looks = self.looks.entry(*delivery).or_default();
        looks.retain(|look| !look.life.is_over() && now <= look.when + LOOK_MAX);
        looks.push(look);
    }

    /// The sender sends a request. `outcome` is what its receiver makes of it; `None`: it never arrives. The payment it is about, and
    /// what to tell of it.
    pub(super) fn sent(
        &mut self,
        request: &WebhookRequest,
        outcome: Option<Taken>,
        broken: &mut Vec<Broken>,
    ) -> Option<(PaymentId, String)> {
        let endpoint = self.addresses.get(request.url.as_str()).copied();
        let id = endpoint.zip(event_of(request)).map(|(to, event)| DeliveryId::new(event, to));
        let Some((id, row)) = id.and_then(|id| Some((id, self.rows.get_mut(&id)?))) else {
            broken.push(("only what is owed is sent", format!("to {:?}", request.url)));
            return None;
        };
        row.sent = row.sent.saturating_add(1);
        let (place, is_first) = (row.place, !row.is_taken);
        match self.look_of(id, request, outcome) {
            Ok(look) if outcome == Some(Taken::Yes) => self.took(id, &look),
            Ok(_) => {}
            Err(rules) => broken.extend(rules),
        }
        self.counts.webhooks += u64::from(outcome.is_some());
        let how = match outcome {
            None => "is lost on its way",
            Some(Taken::No) => "is refused",
            Some(Taken::Yes) if is_first => "is taken",
            Some(Taken::Yes) => "is taken again",
        };
        place.map(|(payment, sequence)| (payment, format!("event {sequence}, {id}, {how}")))
    }

    /// The look that a request came of, the latest that allows for it; or what is broken if that was the latest of all.
    fn look_of(
        &mut self,
        id: DeliveryId,
        request: &WebhookRequest,
        outcome: Option<Taken>,
    ) -> Result<Look, Vec<Broken>> {
        let (sender, now) = (self.sender.take(), runtime_now());
        let mut looks = self.looks.remove(&id).unwrap_or_default();
        let mut broken = Vec::new();
        for nth in (0..looks.len()).rev() {
            let look = &looks[nth];
            let is_senders = sender.as_ref().is_some_and(|sender| sender.is(&look.life));
            if !is_senders || look.when + LOOK_MAX < now {
                continue;
            }
            let mut rules = Vec::new();
            self.check_turn(id, request, look, &mut rules);
            if outcome.is_some() {
                self.check_signed(id, request, look, &mut rules);
            }
            if outcome == Some(Taken::Yes) {
                self.check_order(id, look, &mut rules);
            }
            if rules.is_empty() {
                let look = looks.remove(nth);
                self.looks.insert(id, looks);
                return Ok(look);
            }
            if broken.is_empty() {
                broken = rules;
            }
        }
        if broken.is_empty() {
            broken.push((TURN, format!("{id} was not looked at")));
        }
        Err(broken)
    }

    /// A receiver took a delivery.
    fn took(&mut self, id: DeliveryId, look: &Look) {
        let Some(row) = self.rows.get_mut(&id) else { return };
        row.is_taken = true;
        if let (Some((payment, sequence)), Some(known)) =
            (row.place, self.endpoints.get_mut(&id.endpoint()))
            && known.ordered_since <= look.at
        {
            let highest = known.highest.entry(payment).or_default();
            *highest = sequence.max(*highest);
        }
    }

    fn check_turn(
        &self,
        id: DeliveryId,
        request: &WebhookRequest,
        look: &Look,
        broken: &mut Vec<Broken>,
    ) {
        if look.is_paused {
            broken.push(("a paused endpoint is left alone", format!("{id} was sent")));
        }
        let endpoint = &look.endpoint;
        if endpoint.status != EndpointStatus::Enabled {
            broken.push((TURN, format!("{id} was sent, and its endpoint hears nothing")));
        }
        let timeout = endpoint.options.timeout.unwrap_or(self.settings.webhook_timeout);
        if (request.url.as_str(), request.timeout) != (endpoint.url.as_str(), timeout) {
            broken.push(("it is sent where and as its endpoint says", id.to_string()));
        }
    }

    /// It carries the endpoint's own headers and is signed in each of its profiles.
    fn check_signed(
        &self,
        id: DeliveryId,
        request: &WebhookRequest,
        look: &Look,
        broken: &mut Vec<Broken>,
    ) {
        let Some(known) = self.endpoints.get(&id.endpoint()) else { return };
        let endpoint = &look.endpoint;
        let carries = |name: &str, value: &str| {
            request.headers.iter().any(|(known, sent)| known == name && sent == value)
        };
        let own = self.vault.headers(endpoint);
        if !own.is_ok_and(|own| own.expose().all(|(name, value)| carries(name, value))) {
            broken.push(("its endpoint's own headers go with it", id.to_string()));
        }
        let generation = endpoint.generation;
        let Some(current) = known.secrets.get(&generation) else { return };
        let old = known.secrets.get(&generation.saturating_sub(1));
        // What was promised counts, not only what the row says.
        let promised = known.promised.filter(|_| generation == known.row.generation);
        let kept = endpoint.previous.as_ref().map(|previous| previous.until);
        let until = kept.or(promised);
        let secrets = Secrets { current, old, until };
        if let Err(why) = signatures::check(request, endpoint.profiles, secrets) {
            let rule = if until.is_some() { OVERLAP } else { "every webhook is signed" };
            broken.push((rule, format!("{id}: {why}")));
        }
    }

    fn check_order(&self, id: DeliveryId, look: &Look, broken: &mut Vec<Broken>) {
        let Ordering::ByPayment(policy) = look.endpoint.options.ordering else { return };
        let Some(row) = self.rows.get(&id) else { return };
        let Some((payment, sequence)) = row.place else { return };
        let Some(known) = self.endpoints.get(&id.endpoint()) else { return };
        if look.at < known.ordered_since {
            return;
        }
        let earlier = self.places.get(&(id.endpoint(), payment)).into_iter();
        for (earlier, other) in earlier.flat_map(|all| all.range(..sequence)) {
            let Some(other) = self.rows.get(other) else { continue };
            let is_in_the_way = !other.is_taken
                && match policy {
                    WhenExhausted::Park => true,
                    WhenExhausted::Skip => {
                        other.state == DeliveryState::Pending && other.pending_since < look.at
                    }
                };
            if is_in_the_way {
                let state = other.state.as_str();
                broken.push((
                    ORDER,
                    format!("{sequence} of {payment}, {id}, while {earlier} is {state}"),
                ));
            }
        }
        let highest = known.highest.get(&payment).copied().unwrap_or(0);
        let may_be_late = row.is_taken || policy == WhenExhausted::Skip && row.was_given_up;
        if sequence < highest && !may_be_late {
            broken.push((ORDER, format!("{sequence} of {payment}, {id}, after {highest}")));
        }
    }
}

/// The event that a request is about, by its body: headers differ by profile.
fn event_of(request: &WebhookRequest) -> Option<EventId> {
    let body: Value = serde_json::from_slice(&request.body).ok()?;
    body.get("id")?.as_str()?.parse().ok()
}

/// The longest from a look to what is sent by it: the answer and the request may each be as slow as anything in a world.
const LOOK_MAX: Duration = Duration::from_secs(40);
const TURN: &str = "nothing is sent before its turn";
const ORDER: &str = "an endpoint that orders hears each payment in order";

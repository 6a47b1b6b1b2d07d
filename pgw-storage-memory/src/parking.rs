//! Deliveries whose turn it is not: their endpoint is paused, or an earlier event of their payment comes first.

use std::time::Duration;

use pgw_core::id::{DeliveryId, EndpointId, PaymentId};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{DeliveryState, EndpointStatus, Ordering, WhenExhausted};

use crate::apply::Run;
use crate::payment_row::Due;
use crate::tables::{Tables, at};

impl Tables {
    /// When to look again at a delivery that is parked.
    pub(crate) fn parked(&self, row: u32, now: Timestamp) -> Option<Duration> {
        let delivery = &self.deliveries[at(row)];
        let endpoint = &self.endpoints[at(delivery.endpoint)];
        if endpoint.status != EndpointStatus::Enabled {
            return None;
        }
        let paused = self.pauses.get(&delivery.endpoint).filter(|until| **until > now);
        let paused = paused.map(|until| until.since(now));
        let behind = match endpoint.options.ordering {
            Ordering::AsDue => None,
            Ordering::ByPayment(policy) => self.behind(row, policy, now),
        };
        paused.max(behind).map(|wait| wait.min(LOOK_IN_MAX))
    }

    /// How long the earlier events of a delivery's payment keep it waiting.
    fn behind(&self, row: u32, policy: WhenExhausted, now: Timestamp) -> Option<Duration> {
        let delivery = &self.deliveries[at(row)];
        let event = &self.events[at(delivery.event)];
        let (endpoint, sequence) = (delivery.delivery.id.endpoint(), event.sequence()?);
        let payment = delivery.delivery.payment?;
        let earlier = self.sent_to(event.scope, endpoint, payment);
        let waits = earlier.filter(|(place, _)| *place < sequence).filter_map(|(_, earlier)| {
            let earlier = &self.deliveries[at(earlier)];
            match (earlier.delivery.state, policy) {
                (DeliveryState::Pending, _) => {
                    Some(earlier.due.time().map_or(LOOK_IN_MAX, |due_at| due_at.since(now)))
                }
                (DeliveryState::Failed(_), WhenExhausted::Park) => Some(LOOK_IN_MAX),
                _ => None,
            }
        });
        waits.max()
    }

    /// Makes the earliest pending delivery of a payment to an endpoint due now.
    pub(crate) fn wake(&mut self, run: &mut Run, endpoint: EndpointId, payment: PaymentId) {
        let pending = self
            .sent_to(run.scope, endpoint, payment)
            .filter(|(_, row)| self.deliveries[at(*row)].delivery.state == DeliveryState::Pending);
        let Some((_, row)) = pending.min() else { return };
        let due = std::mem::replace(&mut self.deliveries[at(row)].due, Due::at(Some(run.now)));
        if let Some(before) = due.time() {
            self.due_deliveries.remove(&(before, row));
        }
        self.due_deliveries.insert((run.now, row));
        run.made_due(self.delivery_job(row), Some(Duration::ZERO));
    }

    /// The deliveries of a payment's events to an endpoint, each with its event's sequence.
    fn sent_to(
        &self,
        scope: u32,
        endpoint: EndpointId,
        payment: PaymentId,
    ) -> impl Iterator<Item = (u64, u32)> {
        let events =
            self.find_payment(scope, payment).into_iter().flat_map(|row| self.events_of(row));
        events.filter_map(move |event| {
            let event = &self.events[at(event)];
            let id = DeliveryId::new(event.id, endpoint);
            Some((event.sequence()?, *self.delivery_ids.get(&(scope, id))?))
        })
    }
}

/// The longest that a parked delivery is left alone; it is woken when its turn comes earlier.
const LOOK_IN_MAX: Duration = Duration::from_secs(60 * 60);

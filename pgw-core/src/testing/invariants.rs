//! Invariants: what must be true of a gateway's rows once everything has come to rest, whatever happened before.
//!
//! Usable on its own: read the [`Rows`] of a storage, say what the world [outside](Outside) saw, and ask what is broken.

mod log;
mod messages;
mod payments;

use std::collections::{BTreeMap, BTreeSet};

use crate::access::{AuditRow, SealKey};
use crate::event::Event;
use crate::id::{DeliveryId, EndpointId, EventId, OperationId, PaymentId};
use crate::idempotency::IdempotencyKey;
use crate::idempotency::KeyTarget;
use crate::page::{Page, PageFrom, PageRequest};
use crate::payment::PaymentState;
use crate::privacy::ErasureState;
use crate::sandbox::LedgerEntry;
use crate::scope::Scope;
use crate::secret::Secret;
use crate::storage::{AuditFilter, DeliveryFilter, PaymentFilter, Storage, StorageError};
use crate::timestamp::Timestamp;
use crate::webhook::{Delivery, DeliveryState, Endpoint};

use super::transport::Received;

/// What must be, and what is instead.
pub type Broken = (&'static str, String);

pub(crate) use log::unsealed;

/// What the world outside of the storage saw.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// What clients were promised.
    pub acknowledged: Vec<Acknowledged>,
    /// What a consumer of each scope's events was given, position and event, in order. Without an entry there was none.
    pub heard: BTreeMap<Scope, Vec<(u64, EventId)>>,
    /// The webhooks that arrived.
    pub received: Vec<Received>,
    /// The processor's books.
    pub ledger: Vec<LedgerEntry>,
    /// The deliveries that there should be, by the endpoints as they were when each event was committed. `None`: nobody kept count.
    pub owed: Option<BTreeSet<DeliveryId>>,
    /// The key of the audit log's seals, and the time by the clock that its rows were written by. `None`: nobody sealed.
    pub seals: Option<(SealKey, Timestamp)>,
    /// The secrets that endpoints had before and have no more: what they signed counts.
    pub secrets: BTreeMap<EndpointId, Vec<Secret>>,
}

/// A verb that a client was told had worked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Where.
    pub scope: Scope,
    /// The client's key.
    pub key: Option<IdempotencyKey>,
    /// The payment it was told.
    pub payment: PaymentId,
    /// The operation it was told.
    pub operation: OperationId,
}

impl Outside {
    /// Everything that is broken, the plainest first; nothing, if all is well.
    pub async fn broken(&self, storage: &dyn Storage, scopes: &[Scope]) -> Vec<Broken> {
        match self.look(storage, scopes).await {
            Ok(broken) => broken,
            Err(error) => vec![("the storage can be read", error.to_string())],
        }
    }

    async fn look(
        &self,
        storage: &dyn Storage,
        scopes: &[Scope],
    ) -> Result<Vec<Broken>, StorageError> {
        let mut broken = Vec::new();
        let mut known = BTreeSet::new();
        for scope in scopes {
            let rows = Rows::read(storage, scope).await?;
            let history = History::read(storage, &rows).await?;
            for state in &rows.payments {
                known.extend(state.operations.iter().map(|operation| operation.id));
                payments::check(state, &history, self, &mut broken);
            }
            payments::check_keys(&rows, &mut broken);
            for progress in storage.erasures(scope, None, PageRequest::default()).await?.data {
                if progress.state() != ErasureState::Done {
                    broken.push(("an erasure ends", progress.erasure.id.to_string()));
                }
            }
            messages::check_feed(&rows, self.heard.get(scope), &mut broken);
            messages::check_deliveries(&rows, &history, self, &mut broken);
            self.check_promises(storage, &rows, &mut broken).await?;
        }
        if let Some((key, now)) = &self.seals {
            let merchants: BTreeSet<_> = scopes.iter().map(|scope| &scope.merchant).collect();
            for merchant in merchants {
                log::check(storage, key, merchant, *now, &mut broken).await?;
            }
        }
        if let Some(entry) = self.ledger.iter().find(|entry| !known.contains(&entry.key)) {
            broken.push((
                "the processor knows no operation that is not ours",
                format!("{} of {}", entry.key, entry.payment),
            ));
        }
        Ok(broken)
    }

    async fn check_promises(
        &self,
        storage: &dyn Storage,
        rows: &Rows,
        broken: &mut Vec<Broken>,
    ) -> Result<(), StorageError> {
        for promise in self.acknowledged.iter().filter(|promise| promise.scope == rows.scope) {
            let state = rows.payments.iter().find(|state| state.payment.id == promise.payment);
            if state.is_none_or(|state| state.operation(promise.operation).is_none()) {
                let (operation, payment) = (promise.operation, promise.payment);
                broken
                    .push(("what was acknowledged is there", format!("{operation} of {payment}")));
            }
            if let Some(key) = &promise.key {
                let target = storage.key(&rows.scope, key).await?.map(|record| record.claim.target);
                let (payment, operation) = (promise.payment, promise.operation);
                if target != Some(KeyTarget::Operation { payment, operation }) {
                    broken.push((
                        "a key stands for what it made, for ever",
                        format!("{key:?} stands for {target:?}, not for {}", promise.operation),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The rows of one scope, all of them.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Whose they are.
    pub scope: Scope,
    /// The payments, newest first.
    pub payments: Vec<PaymentState>,
    /// The deliveries, newest first.
    pub deliveries: Vec<Delivery>,
    /// The stamped events, in order.
    pub feed: Vec<Event>,
}

impl Rows {
    /// Reads them.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn read(storage: &dyn Storage, scope: &Scope) -> Result<Self, StorageError> {
        let mut payments = Vec::new();
        let filter = PaymentFilter::default();
        let rows = all(async |page| storage.payments(scope, &filter, page).await).await?;
        for payment in rows {
            payments.extend(storage.payment(scope, payment.id).await?);
        }
        let filter = DeliveryFilter::default();
        let deliveries = all(async |page| storage.deliveries(scope, &filter, page).await).await?;
        let mut feed: Vec<Event> = Vec::new();
        loop {
            let after = feed.last().and_then(|event| event.feed_position).unwrap_or(0);
            let more = storage.feed(scope, after, BATCH).await?;
            if more.is_empty() {
                return Ok(Self { scope: scope.clone(), payments, deliveries, feed });
            }
            feed.extend(more);
        }
    }

    /// What still moves of events and deliveries, when a consumer was given events up to this position; `None` when all is at
    /// rest.
    #[must_use]
    pub fn restless(&self, heard: u64) -> Option<String> {
        let pending = |delivery: &&Delivery| delivery.state == DeliveryState::Pending;
        if let Some(delivery) = self.deliveries.iter().find(pending) {
            return Some(format!("{} is pending", delivery.id));
        }
        let told: u64 = self.payments.iter().map(|state| state.payment.sequence).sum();
        let stamped = self.feed.iter().filter(|event| event.payment.is_some()).count() as u64;
        if told != stamped {
            return Some(format!("{told} events, {stamped} of them stamped"));
        }
        let last = self.feed.last().and_then(|event| event.feed_position).unwrap_or(0);
        (heard < last).then(|| format!("the consumer is at {heard} of {last}"))
    }
}

/// What is read once, at the end.
#[derive(Debug)]
struct History {
    events: BTreeMap<PaymentId, Vec<Event>>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    /// How many attempts of each delivery are in the log.
    attempts: BTreeMap<DeliveryId, usize>,
    audit: Vec<AuditRow>,
}

impl History {
    async fn read(storage: &dyn Storage, rows: &Rows) -> Result<Self, StorageError> {
        let mut events = BTreeMap::new();
        for state in &rows.payments {
            let id = state.payment.id;
            let mut timeline: Vec<Event> = Vec::new();
            loop {
                let after = timeline.last().and_then(|event| event.sequence).unwrap_or(0);
                let more = storage.payment_events(&rows.scope, id, after, BATCH).await?;
                // A sequence that does not go on would be read for ever.
                let goes_on = more.last().and_then(|event| event.sequence) > Some(after);
                timeline.extend(more);
                if !goes_on {
                    break;
                }
            }
            events.insert(id, timeline);
        }
        let (mut endpoints, mut attempts) = (BTreeMap::new(), BTreeMap::new());
        for delivery in &rows.deliveries {
            let logged = storage.attempts(&rows.scope, delivery.id, ATTEMPTS).await?.len();
            attempts.insert(delivery.id, logged);
            let id = delivery.id.endpoint();
            if !endpoints.contains_key(&id)
                && let Some(endpoint) = storage.endpoint(&rows.scope, id).await?
            {
                endpoints.insert(id, endpoint);
            }
        }
        let merchant = &rows.scope.merchant;
        let audit =
            all(async |page| storage.audit(merchant, &AuditFilter::default(), page).await).await?;
        Ok(Self { events, endpoints, attempts, audit })
    }
}

/// Every page of a list.
async fn all<T>(
    read: impl AsyncFn(PageRequest) -> Result<Page<T>, StorageError>,
) -> Result<Vec<T>, StorageError> {
    let mut rows = Vec::new();
    let mut request = PageRequest::first(PageRequest::LIMIT_MAX);
    loop {
        let page = read(request).await?;
        rows.extend(page.data);
        match page.next_cursor.filter(|_| page.has_more) {
            Some(cursor) => request = request.with_from(PageFrom::After(cursor)),
            None => return Ok(rows),
        }
    }
}

/// Events read at once.
const BATCH: usize = 200;
/// Attempts read of a delivery: more than there ever are.
const ATTEMPTS: usize = 1_000;

//! The tables: every row, how rows are found, and rows as the domain knows them. What a commit does to them is in `check.rs`
//! and `apply.rs`; lists are in `list.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use pgw_core::access::{ApiKey, AuditRow, AuditSeal, KeyPrefix, Shield};
use pgw_core::event::Event;
use pgw_core::id::{ConflictId, DeliveryId, EndpointId, EventId, KeyId, OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, KeyClaim, KeyRecord, KeyTarget, StoredAnswer};
use pgw_core::page::Cursor;
use pgw_core::payment::{Conflict, Operation, Payment, PaymentState, PaymentStatus};
use pgw_core::queue::{Job, Lane};
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::storage::DueJob;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Attempt, DeliveryWork, Endpoint};
use uuid::Uuid;

use crate::erasures::Erasures;
use crate::index::{IdIndex, TextIndex, Timeline};
use crate::payment_row::{NONE, OperationRow, PaymentRow, expiring_row, expiry};
use crate::rows::{
    AnswerRow, AuditEntry, ClaimRow, DeliveryKey, DeliveryRow, EventRow, KeyRow, Target,
};

/// All data. Rows are never removed, so a row's number stays good for ever.
///
/// Maps whose order can be seen from outside are `BTreeMap`s: the same commits give the same answers in the same order.
pub(crate) struct Tables {
    pub(crate) payments_max: usize,
    pub(crate) scopes: Vec<ScopeRow>,
    pub(crate) scope_numbers: BTreeMap<Scope, u32>,
    pub(crate) payments: Vec<PaymentRow>,
    pub(crate) payment_ids: IdIndex,
    pub(crate) operations: Vec<OperationRow>,
    pub(crate) operation_ids: IdIndex,
    pub(crate) events: Vec<EventRow>,
    pub(crate) event_ids: IdIndex,
    /// Events without a place in the feed, in the order they were written.
    pub(crate) unstamped: VecDeque<u32>,
    pub(crate) keys: Vec<KeyRow>,
    pub(crate) key_texts: TextIndex,
    /// Claimed keys that no purge went by, in the order they were claimed.
    pub(crate) claims: VecDeque<u32>,
    /// Keys that a purge went by before they had an answer, and that have one now.
    pub(crate) late_answers: BTreeSet<(Timestamp, u32)>,
    pub(crate) conflicts: BTreeMap<u32, Vec<Conflict>>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) endpoint_ids: BTreeMap<(u32, EndpointId), u32>,
    /// Endpoints that are or were paused, until when.
    pub(crate) pauses: BTreeMap<u32, Timestamp>,
    pub(crate) deliveries: Vec<DeliveryRow>,
    pub(crate) delivery_ids: BTreeMap<DeliveryKey, u32>,
    pub(crate) api_keys: BTreeMap<(u32, KeyId), Box<ApiKey>>,
    pub(crate) api_key_prefixes: BTreeMap<KeyPrefix, (u32, KeyId)>,
    /// Keys of each scope in the order of their lists: few, so a sorted map is enough.
    pub(crate) api_key_places: BTreeMap<(u32, Cursor), KeyId>,
    pub(crate) shield: Shield,
    pub(crate) audit: Vec<AuditEntry>,
    pub(crate) audit_lists: BTreeMap<MerchantId, Timeline>,
    /// The chains of seals; the first has number 1.
    pub(crate) seals: BTreeMap<MerchantId, Vec<AuditSeal>>,
    /// Operations that are or will be due, by when.
    pub(crate) due_operations: BTreeSet<(Timestamp, u32)>,
    /// Deliveries that are or will be due, by when.
    pub(crate) due_deliveries: BTreeSet<(Timestamp, u32)>,
    /// Payments that can expire, by the second they do.
    pub(crate) expiring: BTreeSet<u64>,
    pub(crate) erasures: Erasures,
}

/// A merchant and mode with its lists.
pub(crate) struct ScopeRow {
    pub(crate) scope: Scope,
    pub(crate) payments: Timeline,
    pub(crate) refunds: Timeline,
    pub(crate) deliveries: Timeline,
    pub(crate) endpoints: Timeline,
    /// Endpoints that are enabled.
    pub(crate) enabled: BTreeSet<u32>,
    /// Stamped events; the first has position 1.
    pub(crate) feed: Vec<u32>,
    pub(crate) cursors: BTreeMap<Box<str>, u64>,
}

impl Tables {
    pub(crate) fn new(payments_max: usize) -> Self {
        Self {
            payments_max: payments_max.min(ROWS_MAX),
            scopes: Vec::new(),
            scope_numbers: BTreeMap::new(),
            payments: Vec::new(),
            payment_ids: IdIndex::default(),
            operations: Vec::new(),
            operation_ids: IdIndex::default(),
            events: Vec::new(),
            event_ids: IdIndex::default(),
            unstamped: VecDeque::new(),
            keys: Vec::new(),
            key_texts: TextIndex::default(),
            claims: VecDeque::new(),
            late_answers: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            endpoints: Vec::new(),
            endpoint_ids: BTreeMap::new(),
            pauses: BTreeMap::new(),
            deliveries: Vec::new(),
            delivery_ids: BTreeMap::new(),
            api_keys: BTreeMap::new(),
            api_key_prefixes: BTreeMap::new(),
            api_key_places: BTreeMap::new(),
            shield: Shield::default(),
            audit: Vec::new(),
            audit_lists: BTreeMap::new(),
            seals: BTreeMap::new(),
            due_operations: BTreeSet::new(),
            due_deliveries: BTreeSet::new(),
            expiring: BTreeSet::new(),
            erasures: Erasures::default(),
        }
    }

    /// The number of a scope that something was written in.
    pub(crate) fn scope_number(&self, scope: &Scope) -> Option<u32> {
        self.scope_numbers.get(scope).copied()
    }

    pub(crate) fn scope(&self, number: u32) -> &Scope {
        &self.scopes[at(number)].scope
    }

    pub(crate) fn find_payment(&self, scope: u32, id: PaymentId) -> Option<u32> {
        self.payment_ids.find(scope, id.as_uuid(), |row| payment_key(&self.payments, row))
    }

    pub(crate) fn find_operation(&self, scope: u32, id: OperationId) -> Option<u32> {
        self.operation_ids
            .find(scope, id.as_uuid(), |row| operation_key(&self.operations, &self.payments, row))
    }

    pub(crate) fn find_event(&self, scope: u32, id: EventId) -> Option<u32> {
        self.event_ids.find(scope, id.as_uuid(), |row| event_key(&self.events, row))
    }

    pub(crate) fn find_key(&self, scope: u32, key: &IdempotencyKey) -> Option<u32> {
        self.key_texts.find(scope, key.as_str(), |row| key_key(&self.keys, row))
    }

    /// A key's claim, when it was claimed.
    pub(crate) fn claim(&self, scope: u32, key: &IdempotencyKey) -> Option<&ClaimRow> {
        self.keys[at(self.find_key(scope, key)?)].claim.as_ref()
    }

    pub(crate) fn has_conflict(&self, payment: u32, id: ConflictId) -> bool {
        self.conflicts.get(&payment).is_some_and(|all| all.iter().any(|one| one.id == id))
    }

    pub(crate) fn find_delivery(&self, scope: u32, id: DeliveryId) -> Option<u32> {
        self.delivery_ids.get(&(scope, id)).copied()
    }

    /// The rows of a payment's operations, in the order they were first written.
    pub(crate) fn operations_of(&self, payment: u32) -> impl Iterator<Item = u32> {
        let mut next = self.payments[at(payment)].operations.first;
        std::iter::from_fn(move || {
            let row = (next != NONE).then_some(next)?;
            next = self.operations[at(row)].next;
            Some(row)
        })
    }

    /// The rows of a payment's events, in the order they were written.
    pub(crate) fn events_of(&self, payment: u32) -> impl Iterator<Item = u32> {
        let mut next = self.payments[at(payment)].events.first;
        std::iter::from_fn(move || {
            let row = (next != NONE).then_some(next)?;
            next = self.events[at(row)].next;
            Some(row)
        })
    }

    pub(crate) fn state(&self, payment: u32) -> PaymentState {
        PaymentState {
            payment: self.payment(payment),
            operations: self.operations_of(payment).map(|row| self.operation(row)).collect(),
        }
    }

    pub(crate) fn payment(&self, row: u32) -> Payment {
        let stored = &self.payments[at(row)];
        let mut payment = stored.payment(self.scope(stored.scope));
        if let Some(redaction) = self.erasures.redaction(row) {
            redaction.payment(&mut payment);
        }
        payment
    }

    pub(crate) fn operation(&self, row: u32) -> Operation {
        let row = &self.operations[at(row)];
        let key = (row.key != NONE).then(|| self.keys[at(row.key)].key.clone());
        let mut operation = row.operation(self.payments[at(row.payment)].id, key);
        if let Some(redaction) = self.erasures.redaction(row.payment) {
            redaction.operation(&mut operation);
        }
        operation
    }

    pub(crate) fn event(&self, row: u32) -> Event {
        let row = &self.events[at(row)];
        let payment = (row.payment != NONE).then(|| self.payments[at(row.payment)].id);
        let mut event = row.event(self.scope(row.scope), payment);
        if let Some(redaction) = self.erasures.redaction(row.payment) {
            event.body = redaction.body(&event.body);
        }
        event
    }

    /// The attempts of a delivery, at most `limit` of the latest.
    pub(crate) fn attempts(&self, row: u32, limit: usize) -> Vec<Attempt> {
        let row = &self.deliveries[at(row)];
        let mut log = row.attempts[row.attempts.len().saturating_sub(limit)..].to_vec();
        if let Some(redaction) = self.erasures.redaction(self.events[at(row.event)].payment) {
            log.iter_mut().for_each(|attempt| redaction.attempt(attempt));
        }
        log
    }

    pub(crate) fn answer(&self, answer: &AnswerRow) -> StoredAnswer {
        match answer {
            AnswerRow::Own { status, body } => {
                StoredAnswer { status: *status, body: (**body).clone() }
            }
            AnswerRow::InEvent { status, event, start, len } => {
                let (start, whole) = (at(*start), &self.events[at(*event)].body);
                let body = whole.slice(start..start.saturating_add(at(*len)));
                StoredAnswer { status: *status, body }
            }
        }
    }

    /// The answer of a claim, as a replay gives it.
    pub(crate) fn answer_of(&self, claim: &ClaimRow) -> Option<StoredAnswer> {
        let answer = self.answer(claim.answer.as_ref()?);
        let redaction = match &claim.target {
            Target::Rows { payment, .. } => self.erasures.redaction(*payment),
            Target::Other(_) => None,
        };
        Some(redaction.map_or_else(|| answer.clone(), |redaction| redaction.answer(&answer)))
    }

    pub(crate) fn target(&self, target: &Target) -> KeyTarget {
        match target {
            Target::Rows { payment, operation } => KeyTarget::Operation {
                payment: self.payments[at(*payment)].id,
                operation: self.operations[at(*operation)].id,
            },
            Target::Other(target) => **target,
        }
    }

    pub(crate) fn key_record(&self, row: u32) -> Option<KeyRecord> {
        let row = &self.keys[at(row)];
        let claim = row.claim.as_ref()?;
        Some(KeyRecord {
            claim: KeyClaim {
                key: row.key.clone(),
                fingerprint: claim.fingerprint,
                target: self.target(&claim.target),
                answer: self.answer_of(claim),
            },
            created_at: claim.created_at,
        })
    }

    pub(crate) fn delivery_work(&self, row: u32) -> DeliveryWork {
        let row = &self.deliveries[at(row)];
        DeliveryWork {
            delivery: row.delivery.clone(),
            event: self.event(row.event),
            endpoint: self.endpoints[at(row.endpoint)].clone(),
        }
    }

    pub(crate) fn audit_row(&self, row: u32) -> AuditRow {
        let row = &self.audit[at(row)];
        row.row(self.scope(row.scope()), |payment| self.payments[at(payment)].id)
    }

    pub(crate) fn operation_job(&self, row: u32) -> Job {
        let operation = &self.operations[at(row)];
        let payment = &self.payments[at(operation.payment)];
        Job::Operation {
            scope: self.scope(payment.scope).clone(),
            payment: payment.id,
            operation: operation.id,
        }
    }

    pub(crate) fn delivery_job(&self, row: u32) -> Job {
        let delivery = &self.deliveries[at(row)].delivery;
        Job::Delivery { scope: delivery.scope.clone(), delivery: delivery.id }
    }

    pub(crate) fn due_page(
        &self,
        lane: Lane,
        now: Timestamp,
        after: Option<&DueJob>,
        limit: usize,
    ) -> Vec<DueJob> {
        let from = match after {
            None => Bound::Unbounded,
            // Rows stay where they are, due or not.
            Some(after) => match self.row_of(&after.job) {
                Some(row) => Bound::Excluded((after.since, row)),
                None => return Vec::new(),
            },
        };
        let page = (from, Bound::Included((now, NONE)));
        if after.is_some_and(|after| after.since > now) {
            return Vec::new();
        }
        let due = |since: Timestamp, job| DueJob { job, since, due_for: now.since(since) };
        match lane {
            Lane::Operations => {
                let rows = self.due_operations.range(page).take(limit);
                rows.map(|(since, row)| due(*since, self.operation_job(*row))).collect()
            }
            Lane::Deliveries => {
                let rows = self.due_deliveries.range(page);
                let rows = rows.filter(|(_, row)| self.parked(*row, now).is_none()).take(limit);
                rows.map(|(since, row)| due(*since, self.delivery_job(*row))).collect()
            }
            // A lane that this backend does not know has no rows here.
            _ => Vec::new(),
        }
    }

    fn row_of(&self, job: &Job) -> Option<u32> {
        let scope = self.scope_number(job.scope())?;
        match job {
            Job::Operation { operation, .. } => self.find_operation(scope, *operation),
            Job::Delivery { delivery, .. } => self.find_delivery(scope, *delivery),
            _ => None,
        }
    }

    /// Payments whose time ran out before `now`, soonest first, to the second.
    pub(crate) fn expired(&self, now: Timestamp) -> impl Iterator<Item = &PaymentRow> {
        let entries = self.expiring.range(..=expiry(now, u32::MAX));
        let rows = entries.map(|entry| &self.payments[at(expiring_row(*entry))]);
        rows.filter(move |row| row.expires_at < now)
    }

    /// Whether a payment is given up when its time runs out.
    pub(crate) fn can_expire(&self, payment: u32) -> bool {
        let waits = matches!(
            self.payments[at(payment)].status,
            PaymentStatus::Pending | PaymentStatus::RequiresAction | PaymentStatus::Authorized
        );
        waits
            && !self
                .operations_of(payment)
                .any(|row| self.operations[at(row)].is_cancel_under_way())
    }

    pub(crate) fn place_of_payment(&self, row: u32) -> Cursor {
        self.payments[at(row)].place()
    }

    pub(crate) fn place_of_operation(&self, row: u32) -> Cursor {
        self.operations[at(row)].place()
    }

    pub(crate) fn place_of_delivery(&self, row: u32) -> Cursor {
        self.deliveries[at(row)].place()
    }

    pub(crate) fn place_of_endpoint(&self, row: u32) -> Cursor {
        place_of_endpoint(&self.endpoints, row)
    }

    pub(crate) fn place_of_audit_row(&self, row: u32) -> Cursor {
        self.audit[at(row)].place()
    }
}

impl ScopeRow {
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            payments: Timeline::default(),
            refunds: Timeline::default(),
            deliveries: Timeline::default(),
            endpoints: Timeline::default(),
            enabled: BTreeSet::new(),
            feed: Vec::new(),
            cursors: BTreeMap::new(),
        }
    }
}

/// A row's number as an index.
pub(crate) const fn at(row: u32) -> usize {
    row as usize
}

/// The number of the next row of a table.
///
/// # Panics
/// Never: commits are refused long before.
pub(crate) fn next_row<T>(rows: &[T]) -> u32 {
    u32::try_from(rows.len()).expect("no table holds more rows than ROWS_MAX")
}

pub(crate) fn payment_key(payments: &[PaymentRow], row: u32) -> (u32, Uuid) {
    let row = &payments[at(row)];
    (row.scope, row.id.as_uuid())
}

pub(crate) fn operation_key(
    operations: &[OperationRow],
    payments: &[PaymentRow],
    row: u32,
) -> (u32, Uuid) {
    let row = &operations[at(row)];
    (payments[at(row.payment)].scope, row.id.as_uuid())
}

pub(crate) fn event_key(events: &[EventRow], row: u32) -> (u32, Uuid) {
    let row = &events[at(row)];
    (row.scope, row.id.as_uuid())
}

pub(crate) fn key_key(keys: &[KeyRow], row: u32) -> (u32, &str) {
    let row = &keys[at(row)];
    (row.scope, row.key.as_str())
}

pub(crate) fn place_of_endpoint(endpoints: &[Endpoint], row: u32) -> Cursor {
    let row = &endpoints[at(row)];
    Cursor::new(row.created_at, row.id.as_uuid())
}

pub(crate) fn place_of_api_key(key: &ApiKey) -> Cursor {
    Cursor::new(key.created_at, key.id.as_uuid())
}

/// Most rows of a table: half of what a row number can tell apart, so that one commit never gets to the end.
pub(crate) const ROWS_MAX: usize = 1 << 31;

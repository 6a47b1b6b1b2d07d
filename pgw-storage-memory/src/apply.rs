//! What a commit does to the tables, once everything it asks for was checked. Nothing here can fail.

use std::time::Duration;

use pgw_core::access::{ApiKey, AuditObject, AuditRow};
use pgw_core::changes::{Changes, Write};
use pgw_core::event::Event;
use pgw_core::id::{DeliveryId, EndpointId};
use pgw_core::idempotency::{IdempotencyKey, KeyClaim, KeyTarget, StoredAnswer};
use pgw_core::payment::{Conflict, Operation, OperationKind, Payment};
use pgw_core::queue::Job;
use pgw_core::scope::Scope;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Attempt, Delivery, DeliveryState, Endpoint, EndpointStatus};

use crate::payment_row::{Chain, Due, NONE, OperationRow, PaymentRow};
use crate::rows::{AnswerRow, AuditEntry, ClaimRow, DeliveryRow, EventRow, KeyRow, Target};
use crate::tables::{
    ScopeRow, Tables, at, event_key, key_key, next_row, operation_key, payment_key,
    place_of_api_key, place_of_endpoint,
};

impl Tables {
    /// Applies a commit that [`check_all`](Self::check_all) let through; the jobs it made due.
    ///
    /// # Panics
    /// Only when the commit was not checked against these very tables.
    pub(crate) fn apply_all(
        &mut self,
        mut changes: Changes,
        now: Timestamp,
    ) -> Vec<(Job, Duration)> {
        let scope = self.intern_scope(&changes.scope);
        let mut run = Run { scope, now, ..Run::default() };
        run.silenced = silenced(&changes.writes);
        // What others refer to comes first, and endpoints last, because events are heard by endpoints as they were before.
        // Otherwise the order of the writes is kept.
        changes.writes.sort_by_key(rank);
        for write in changes.writes {
            self.apply(&mut run, write);
        }
        if let Some(claim) = changes.claim {
            self.put_claim(&run, claim);
        }
        self.compact_bodies(&run);
        for payment in &run.touched {
            let entry = self.payments[at(*payment)].expiry(*payment);
            if self.can_expire(*payment) {
                self.expiring.insert(entry);
            } else {
                self.expiring.remove(&entry);
            }
        }
        run.due
    }

    /// Keeps no more of a body than its bytes: an answer that was cut from it is a place in it by now.
    fn compact_bodies(&mut self, run: &Run) {
        for event in &run.events {
            let body = &mut self.events[at(*event)].body;
            // Takes the bytes themselves when nobody else holds them, and a copy otherwise.
            *body = Vec::from(std::mem::take(body)).into_boxed_slice().into();
        }
    }

    /// Gives up to `limit` events their places in the feeds; how many.
    pub(crate) fn stamp(&mut self, limit: usize) -> usize {
        let count = limit.min(self.unstamped.len());
        for row in self.unstamped.drain(..count) {
            let event = &mut self.events[at(row)];
            let feed = &mut self.scopes[at(event.scope)].feed;
            feed.push(row);
            event.position = next_row(feed);
        }
        count
    }

    /// Drops up to `limit` answers of keys claimed before `before`; how many.
    pub(crate) fn purge(&mut self, before: Timestamp, limit: usize) -> usize {
        let mut dropped = 0;
        while dropped < limit {
            let Some((claimed_at, row)) = self.late_answers.first().copied() else { break };
            if claimed_at >= before {
                break;
            }
            self.late_answers.remove(&(claimed_at, row));
            dropped += usize::from(self.drop_answer(row));
        }
        // Each key is gone by once, so this is quick however many keys never had an answer.
        while dropped < limit {
            let Some(row) = self.claims.front().copied() else { break };
            let claim = self.keys[at(row)].claim.as_mut();
            let claim = claim.expect("a key is listed when it is claimed");
            if claim.created_at >= before {
                break;
            }
            claim.is_passed = true;
            self.claims.pop_front();
            dropped += usize::from(self.drop_answer(row));
        }
        dropped
    }

    fn drop_answer(&mut self, row: u32) -> bool {
        let claim = self.keys[at(row)].claim.as_mut();
        claim.and_then(|claim| claim.answer.take()).is_some()
    }

    fn intern_scope(&mut self, scope: &Scope) -> u32 {
        if let Some(number) = self.scope_number(scope) {
            return number;
        }
        let number = next_row(&self.scopes);
        self.scopes.push(ScopeRow::new(scope.clone()));
        self.scope_numbers.insert(scope.clone(), number);
        number
    }

    fn apply(&mut self, run: &mut Run, write: Write) {
        match write {
            Write::Payment(payment) => self.put_payment(run, *payment),
            Write::Operation { operation, due_in } => self.put_operation(run, *operation, due_in),
            Write::Event(event) => self.put_event(run, *event, None),
            Write::EventTo { event, endpoint } => self.put_event(run, *event, Some(endpoint)),
            Write::Conflict(conflict) => self.put_conflict(run, *conflict),
            Write::CloseConflict { payment, id, at: closed_at } => {
                let row = self.find_payment(run.scope, payment).expect(CHECKED);
                let all = self.conflicts.get_mut(&row).expect(CHECKED);
                let one = all.iter_mut().find(|one| one.id == id).expect(CHECKED);
                one.closed_at = Some(closed_at);
            }
            Write::Answer { key, answer } => self.put_answer(run, &key, answer),
            Write::Endpoint(endpoint) => self.put_endpoint(run, *endpoint),
            Write::Pause { endpoint, lasts } => {
                let row = self.endpoint_ids[&(run.scope, endpoint)];
                self.pauses.insert(row, run.now.plus(lasts));
            }
            Write::Wake { endpoint, payment } => self.wake(run, endpoint, payment),
            Write::Delivery { delivery, due_in } => self.put_delivery(run, *delivery, due_in),
            Write::Attempt(attempt) => self.put_attempt(run, *attempt),
            Write::ApiKey(key) => self.put_api_key(run, key),
            Write::Consent(consent) => self.put_consent(run.scope, *consent),
            Write::Erase { erasure, customer } => self.put_erasure(run.scope, *erasure, &customer),
            Write::Cursor { consumer, position } => {
                self.scopes[at(run.scope)].cursors.insert(consumer, position);
            }
            Write::Audit(row) => self.put_audit_row(run, *row),
            Write::Shield(shield) => self.shield = *shield,
            Write::Seal(seal) => {
                self.seals.entry(seal.merchant.clone()).or_default().push(*seal);
            }
            _ => unreachable!("a kind of write that is not known was refused"),
        }
    }

    fn put_payment(&mut self, run: &mut Run, payment: Payment) {
        let scope = run.scope;
        let Some(row) = self.find_payment(scope, payment.id) else {
            let row = next_row(&self.payments);
            self.payments.push(PaymentRow::new(payment, scope, Chain::EMPTY, Chain::EMPTY));
            let payments = &self.payments;
            self.payment_ids.insert(row, |row| payment_key(payments, row));
            self.scopes[at(scope)].payments.insert(row, |row| payments[at(row)].place());
            return run.touch(row);
        };
        self.expiring.remove(&self.payments[at(row)].expiry(row));
        run.touch(row);
        let before = &self.payments[at(row)];
        let next = PaymentRow::new(payment, scope, before.operations, before.events);
        let has_moved = before.place() != next.place();
        if has_moved {
            let (place, payments) = (before.place(), &self.payments);
            self.scopes[at(scope)].payments.remove(row, place, |row| payments[at(row)].place());
        }
        self.payments[at(row)] = next;
        if has_moved {
            let payments = &self.payments;
            self.scopes[at(scope)].payments.insert(row, |row| payments[at(row)].place());
        }
    }

    fn put_operation(&mut self, run: &mut Run, mut operation: Operation, due_in: Option<Duration>) {
        let payment = self.find_payment(run.scope, operation.payment).expect(CHECKED);
        run.touch(payment);
        let key = operation.idempotency_key.take();
        let key = key.map_or(NONE, |key| self.intern_key(run.scope, key));
        let row = match self.find_operation(run.scope, operation.id) {
            Some(row) => {
                self.replace_operation(run.scope, row, operation, key);
                row
            }
            None => self.append_operation(run.scope, payment, operation, key),
        };
        let due_at = due_in.map(|delay| run.now.plus(delay));
        self.operations[at(row)].due = Due::at(due_at);
        if let Some(due_at) = due_at {
            self.due_operations.insert((due_at, row));
        }
        run.made_due(self.operation_job(row), due_in);
    }

    fn replace_operation(&mut self, scope: u32, row: u32, operation: Operation, key: u32) {
        let before = &self.operations[at(row)];
        if let Some(due_at) = before.due.time() {
            self.due_operations.remove(&(due_at, row));
        }
        let mut next = OperationRow::new(operation, before.payment, key);
        next.next = before.next;
        let lists = (before.kind == OperationKind::Refund, next.kind == OperationKind::Refund);
        let has_moved = before.place() != next.place() || lists.0 != lists.1;
        if has_moved && lists.0 {
            let (place, operations) = (before.place(), &self.operations);
            self.scopes[at(scope)].refunds.remove(row, place, |row| operations[at(row)].place());
        }
        self.operations[at(row)] = next;
        if has_moved && lists.1 {
            let operations = &self.operations;
            self.scopes[at(scope)].refunds.insert(row, |row| operations[at(row)].place());
        }
    }

    fn append_operation(
        &mut self,
        scope: u32,
        payment: u32,
        operation: Operation,
        key: u32,
    ) -> u32 {
        let row = next_row(&self.operations);
        let is_refund = operation.kind == OperationKind::Refund;
        self.operations.push(OperationRow::new(operation, payment, key));
        if let Some(before) = self.payments[at(payment)].operations.append(row) {
            self.operations[at(before)].next = row;
        }
        let (operations, payments) = (&self.operations, &self.payments);
        self.operation_ids.insert(row, |row| operation_key(operations, payments, row));
        if is_refund {
            self.scopes[at(scope)].refunds.insert(row, |row| operations[at(row)].place());
        }
        row
    }

    /// Appends an event for every endpoint that hears it, or for one only.
    fn put_event(&mut self, run: &mut Run, event: Event, only: Option<EndpointId>) {
        let payment = event.payment.map(|id| self.find_payment(run.scope, id).expect(CHECKED));
        let template = Delivery {
            // The endpoint is put in for each delivery.
            id: DeliveryId::new(event.id, EndpointId::from_uuid(uuid::Uuid::nil())),
            scope: event.scope.clone(),
            event_type: event.event_type,
            payment: event.payment,
            state: DeliveryState::Pending,
            attempts: 0,
            attempts_total: 0,
            version: 1,
            created_at: event.created_at,
            updated_at: event.created_at,
        };
        let row = next_row(&self.events);
        self.events.push(EventRow::new(event, run.scope, payment.unwrap_or(NONE)));
        if let Some(payment) = payment
            && let Some(before) = self.payments[at(payment)].events.append(row)
        {
            self.events[at(before)].next = row;
        }
        let events = &self.events;
        self.event_ids.insert(row, |row| event_key(events, row));
        self.unstamped.push_back(row);
        run.events.push(row);
        self.deliver(run, row, &template, only);
    }

    /// Makes the deliveries of a new event.
    fn deliver(
        &mut self,
        run: &mut Run,
        event: u32,
        template: &Delivery,
        only: Option<EndpointId>,
    ) {
        let scope = &mut self.scopes[at(run.scope)];
        for endpoint in scope.enabled.iter().copied() {
            let hearing = &self.endpoints[at(endpoint)];
            let hears = match only {
                None => hearing.hears(template.event_type),
                Some(only) => hearing.id == only,
            };
            if !hears || run.silenced.contains(&hearing.id) {
                continue;
            }
            let delivery = Delivery {
                id: DeliveryId::new(template.id.event(), hearing.id),
                ..template.clone()
            };
            let row = next_row(&self.deliveries);
            let job = Job::Delivery { scope: delivery.scope.clone(), delivery: delivery.id };
            self.delivery_ids.insert((run.scope, delivery.id), row);
            let due = Due::at(Some(run.now));
            self.deliveries.push(DeliveryRow {
                delivery,
                attempts: Vec::new(),
                due,
                event,
                endpoint,
            });
            let deliveries = &self.deliveries;
            scope.deliveries.insert(row, |row| deliveries[at(row)].place());
            self.due_deliveries.insert((run.now, row));
            run.due.push((job, Duration::ZERO));
        }
    }

    fn put_conflict(&mut self, run: &Run, conflict: Conflict) {
        let row = self.find_payment(run.scope, conflict.payment).expect(CHECKED);
        let all = self.conflicts.entry(row).or_default();
        match all.iter_mut().find(|one| one.id == conflict.id) {
            Some(one) => *one = conflict,
            None => all.push(conflict),
        }
    }

    fn put_endpoint(&mut self, run: &Run, endpoint: Endpoint) {
        let scope = &mut self.scopes[at(run.scope)];
        let is_enabled = endpoint.status == EndpointStatus::Enabled;
        let row = match self.endpoint_ids.get(&(run.scope, endpoint.id)).copied() {
            Some(row) => {
                let place = place_of_endpoint(&self.endpoints, row);
                let endpoints = &self.endpoints;
                scope.endpoints.remove(row, place, |row| place_of_endpoint(endpoints, row));
                self.endpoints[at(row)] = endpoint;
                self.pauses.remove(&row);
                row
            }
            None => {
                let row = next_row(&self.endpoints);
                self.endpoint_ids.insert((run.scope, endpoint.id), row);
                self.endpoints.push(endpoint);
                row
            }
        };
        let endpoints = &self.endpoints;
        scope.endpoints.insert(row, |row| place_of_endpoint(endpoints, row));
        if is_enabled {
            scope.enabled.insert(row);
        } else {
            scope.enabled.remove(&row);
        }
    }

    fn put_delivery(&mut self, run: &mut Run, delivery: Delivery, due_in: Option<Duration>) {
        let row = self.find_delivery(run.scope, delivery.id).expect(CHECKED);
        let before = &self.deliveries[at(row)];
        if let Some(due_at) = before.due.time() {
            self.due_deliveries.remove(&(due_at, row));
        }
        let (place, deliveries) = (before.place(), &self.deliveries);
        let list = &mut self.scopes[at(run.scope)].deliveries;
        let has_moved = delivery.created_at != before.delivery.created_at;
        if has_moved {
            list.remove(row, place, |row| deliveries[at(row)].place());
        }
        let due_at = due_in.map(|delay| run.now.plus(delay));
        self.deliveries[at(row)].delivery = delivery;
        self.deliveries[at(row)].due = Due::at(due_at);
        if has_moved {
            let deliveries = &self.deliveries;
            list.insert(row, |row| deliveries[at(row)].place());
        }
        if let Some(due_at) = due_at {
            self.due_deliveries.insert((due_at, row));
        }
        run.made_due(self.delivery_job(row), due_in);
    }

    fn put_attempt(&mut self, run: &Run, attempt: Attempt) {
        let row = self.find_delivery(run.scope, attempt.delivery).expect(CHECKED);
        let log = &mut self.deliveries[at(row)].attempts;
        let place = log.partition_point(|earlier| earlier.number <= attempt.number);
        log.insert(place, attempt);
    }

    fn put_api_key(&mut self, run: &Run, mut key: Box<ApiKey>) {
        let id = (run.scope, key.id);
        key.last_used_at = None;
        if let Some(before) = self.api_keys.get(&id) {
            key.last_used_at = before.last_used_at;
            self.api_key_prefixes.remove(&before.prefix);
            self.api_key_places.remove(&(run.scope, place_of_api_key(before)));
        }
        self.api_key_prefixes.insert(key.prefix, id);
        self.api_key_places.insert((run.scope, place_of_api_key(&key)), key.id);
        self.api_keys.insert(id, key);
    }

    fn put_audit_row(&mut self, run: &Run, row: AuditRow) {
        let merchant = row.scope.merchant.clone();
        let number = next_row(&self.audit);
        let payment = match row.object {
            AuditObject::Payment(id) => self.find_payment(run.scope, id),
            _ => None,
        };
        self.audit.push(AuditEntry::new(row, run.scope, payment));
        let audit = &self.audit;
        let list = self.audit_lists.entry(merchant).or_default();
        list.insert(number, |row| audit[at(row)].place());
    }

    fn intern_key(&mut self, scope: u32, key: IdempotencyKey) -> u32 {
        if let Some(row) = self.find_key(scope, &key) {
            return row;
        }
        let row = next_row(&self.keys);
        self.keys.push(KeyRow { scope, key, claim: None });
        let keys = &self.keys;
        self.key_texts.insert(row, |row| key_key(keys, row));
        row
    }

    fn put_claim(&mut self, run: &Run, claim: KeyClaim) {
        let row = self.intern_key(run.scope, claim.key);
        let answer = claim.answer.map(|answer| self.answer_row(run, answer));
        let rows = match claim.target {
            KeyTarget::Operation { payment, operation } => {
                self.find_payment(run.scope, payment).zip(self.find_operation(run.scope, operation))
            }
            _ => None,
        };
        let target = match rows {
            Some((payment, operation)) => Target::Rows { payment, operation },
            None => Target::Other(Box::new(claim.target)),
        };
        self.keys[at(row)].claim = Some(ClaimRow {
            fingerprint: claim.fingerprint,
            target,
            created_at: run.now,
            answer,
            is_passed: false,
        });
        self.claims.push_back(row);
    }

    fn put_answer(&mut self, run: &Run, key: &IdempotencyKey, answer: StoredAnswer) {
        let row = self.find_key(run.scope, key).expect(CHECKED);
        let answer = self.answer_row(run, answer);
        let claim = self.keys[at(row)].claim.as_mut().expect(CHECKED);
        claim.answer = Some(answer);
        if claim.is_passed {
            self.late_answers.insert((claim.created_at, row));
        }
    }

    /// An answer that lies in the body of an event of the same commit is kept as a place in it.
    fn answer_row(&self, run: &Run, answer: StoredAnswer) -> AnswerRow {
        let StoredAnswer { status, body } = answer;
        let within = run.events.iter().find_map(|event| {
            AnswerRow::within(status, &body, *event, &self.events[at(*event)].body)
        });
        within.unwrap_or_else(|| AnswerRow::Own { status, body: Box::new(body) })
    }
}

/// One commit, while it is applied.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) scope: u32,
    pub(crate) now: Timestamp,
    /// Endpoints that the commit disables or deletes.
    silenced: Vec<EndpointId>,
    /// Payments whose expiry must be judged again.
    touched: Vec<u32>,
    /// Events it appended.
    events: Vec<u32>,
    due: Vec<(Job, Duration)>,
}

impl Run {
    fn touch(&mut self, payment: u32) {
        if !self.touched.contains(&payment) {
            self.touched.push(payment);
        }
    }

    /// A later write of the same row decides.
    pub(crate) fn made_due(&mut self, job: Job, due_in: Option<Duration>) {
        self.due.retain(|(earlier, _)| *earlier != job);
        if let Some(due_in) = due_in {
            self.due.push((job, due_in));
        }
    }
}

fn silenced(writes: &[Write]) -> Vec<EndpointId> {
    let silenced = writes.iter().filter_map(|write| match write {
        Write::Endpoint(endpoint) if endpoint.status != EndpointStatus::Enabled => {
            Some(endpoint.id)
        }
        _ => None,
    });
    silenced.collect()
}

const fn rank(write: &Write) -> u8 {
    match write {
        Write::Payment(_) => 0,
        Write::Answer { .. } | Write::Wake { .. } => 2,
        Write::Endpoint(_) => 3,
        Write::Pause { .. } => 4,
        _ => 1,
    }
}

/// Why a row that a write refers to is there.
const CHECKED: &str = "check_all found it, and nothing was written since";

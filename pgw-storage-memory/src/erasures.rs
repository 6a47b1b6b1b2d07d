//! Erasures: who was erased, which payments are marked, and how these are rewritten; and the consents that they detach.

use std::collections::{BTreeMap, BTreeSet};

use pgw_core::id::{ConsentId, DeliveryId, EndpointId, ErasureId};
use pgw_core::page::Cursor;
use pgw_core::privacy::{
    Consent, ConsentHolder, CustomerDigest, Erasure, ErasureProgress, Redaction,
};
use pgw_core::scope::Scope;
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::DeliveryState;
use uuid::Uuid;

use crate::index::Timeline;
use crate::list::Walk;
use crate::payment_row::{NONE, OperationRow, PaymentRow};
use crate::rows::AnswerRow;
use crate::tables::{Tables, at, next_row};

/// All erasures, and the marks that are left.
#[derive(Debug, Default)]
pub(crate) struct Erasures {
    pub(crate) rows: Vec<ErasureRow>,
    ids: BTreeMap<(u32, ErasureId), u32>,
    /// The erasures of each customer, in the order of their numbers.
    customers: BTreeMap<(u32, CustomerDigest), Vec<u32>>,
    lists: BTreeMap<u32, Timeline>,
    pub(crate) consents: BTreeMap<(u32, ConsentId), Consent>,
    /// The consents of each holder, oldest first.
    consents_of: BTreeSet<(u32, ConsentHolder, Timestamp, ConsentId)>,
    /// Marked payments, each with its erasure's row.
    pub(crate) marks: BTreeMap<u32, u32>,
}

#[derive(Debug)]
pub(crate) struct ErasureRow {
    pub(crate) erasure: Erasure,
    payments: u64,
    redacted: u64,
    redacted_at: Option<Timestamp>,
}

impl ErasureRow {
    pub(crate) fn progress(&self) -> ErasureProgress {
        let last = self.redacted_at.unwrap_or(self.erasure.requested_at);
        ErasureProgress {
            erasure: self.erasure.clone(),
            payments: self.payments,
            payments_redacted: self.redacted,
            done_at: (self.redacted >= self.payments).then_some(last),
        }
    }

    fn place(&self) -> Cursor {
        Cursor::new(self.erasure.requested_at, self.erasure.id.as_uuid())
    }
}

impl Erasures {
    pub(crate) fn find(&self, scope: u32, id: ErasureId) -> Option<&ErasureRow> {
        self.ids.get(&(scope, id)).map(|row| &self.rows[at(*row)])
    }

    /// How often a customer was erased.
    pub(crate) fn count(&self, scope: u32, customer: CustomerDigest) -> u64 {
        self.customers.get(&(scope, customer)).map_or(0, |rows| rows.len() as u64)
    }

    pub(crate) fn consents_of(
        &self,
        scope: u32,
        holder: ConsentHolder,
    ) -> impl Iterator<Item = &Consent> {
        let first =
            (scope, holder, Timestamp::from_micros(i64::MIN), ConsentId::from_uuid(Uuid::nil()));
        let last = (scope, holder, Timestamp::MAX, ConsentId::from_uuid(Uuid::max()));
        let ids = self.consents_of.range(first..=last).map(|(.., id)| *id);
        ids.filter_map(move |id| self.consents.get(&(scope, id)))
    }

    /// Takes the person out of a payment that is marked.
    pub(crate) fn redaction(&self, payment: u32) -> Option<Redaction> {
        // Mostly there is none at all.
        let row = self.marks.get(&payment)?;
        Some(Redaction::of(self.rows[at(*row)].erasure.id))
    }
}

impl Tables {
    pub(crate) fn put_erasure(&mut self, scope: u32, erasure: Erasure, customer: &CustomerId) {
        let row = match self.erasures.ids.get(&(scope, erasure.id)) {
            Some(row) => *row,
            None => self.append_erasure(scope, erasure),
        };
        self.detach_consents(scope, row);
        for payment in self.scopes[at(scope)].payments.rows() {
            let named = self.payments[at(payment)].customer.id.as_ref() == Some(customer);
            if named && !self.erasures.marks.contains_key(&payment) {
                self.erasures.marks.insert(payment, row);
                let erasure = &mut self.erasures.rows[at(row)];
                erasure.payments = erasure.payments.saturating_add(1);
            }
        }
    }

    pub(crate) fn put_consent(&mut self, scope: u32, consent: Consent) {
        let all = &mut self.erasures;
        let place = (scope, consent.holder, consent.given_at, consent.id);
        if let Some(before) = all.consents.insert((scope, consent.id), consent) {
            all.consents_of.remove(&(scope, before.holder, before.given_at, before.id));
        }
        all.consents_of.insert(place);
    }

    /// Makes what a customer agreed to the erasure's.
    fn detach_consents(&mut self, scope: u32, erasure: u32) {
        let erasure = &self.erasures.rows[at(erasure)].erasure;
        let (holder, id) = (ConsentHolder::Customer(erasure.customer), erasure.id);
        let held: Vec<Consent> = self.erasures.consents_of(scope, holder).cloned().collect();
        for mut consent in held {
            consent.holder = ConsentHolder::Erased(id);
            consent.source = None;
            consent.version = consent.version.saturating_add(1);
            self.put_consent(scope, consent);
        }
    }

    /// What payments that are not marked name as their customers, in order.
    pub(crate) fn customers(
        &self,
        scope: u32,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Vec<CustomerId> {
        let after = after.map(CustomerId::as_str);
        let mut names: BTreeMap<&str, &CustomerId> = BTreeMap::new();
        for row in self.scopes[at(scope)].payments.rows() {
            let name = self.payments[at(row)].customer.id.as_ref();
            let is_marked = self.erasures.marks.contains_key(&row);
            let Some(name) = name.filter(|name| !is_marked && Some(name.as_str()) > after) else {
                continue;
            };
            names.insert(name.as_str(), name);
            if names.len() > limit {
                names.pop_last();
            }
        }
        names.into_values().take(limit).cloned().collect()
    }

    fn append_erasure(&mut self, scope: u32, erasure: Erasure) -> u32 {
        let all = &mut self.erasures;
        let row = next_row(&all.rows);
        all.ids.insert((scope, erasure.id), row);
        all.customers.entry((scope, erasure.customer)).or_default().push(row);
        all.rows.push(ErasureRow { erasure, payments: 0, redacted: 0, redacted_at: None });
        let rows = &all.rows;
        all.lists.entry(scope).or_default().insert(row, |row| rows[at(row)].place());
        row
    }

    pub(crate) fn step_erasures(
        &self,
        scope: &Scope,
        customer: Option<CustomerDigest>,
        walk: &mut Walk<ErasureProgress>,
    ) {
        let list = self.scope_number(scope).and_then(|scope| self.erasures.lists.get(&scope));
        let Some(list) = list else { return walk.end() };
        let rows = &self.erasures.rows;
        let pick = |row: u32| {
            let row = &rows[at(row)];
            let matches = customer.is_none_or(|customer| customer == row.erasure.customer);
            matches.then(|| row.progress())
        };
        walk.step(list, |row| rows[at(row)].place(), pick);
    }

    /// Rewrites up to `limit` marked payments; how many.
    pub(crate) fn redact(&mut self, now: Timestamp, limit: usize) -> usize {
        let mut count = 0;
        while count < limit {
            let Some((payment, erasure)) = self.erasures.marks.pop_first() else { break };
            let row = &mut self.erasures.rows[at(erasure)];
            row.redacted = row.redacted.saturating_add(1);
            row.redacted_at = Some(now);
            let redaction = Redaction::of(row.erasure.id);
            self.redact_payment(payment, redaction);
            count += 1;
        }
        count
    }

    fn redact_payment(&mut self, row: u32, redaction: Redaction) {
        let before = &self.payments[at(row)];
        let mut payment = before.payment(self.scope(before.scope));
        redaction.payment(&mut payment);
        payment.version = payment.version.saturating_add(1);
        self.payments[at(row)] =
            PaymentRow::new(payment, before.scope, before.operations, before.events);
        let operations: Vec<u32> = self.operations_of(row).collect();
        for operation in operations {
            self.redact_operation(operation, redaction);
        }
        // After the answers, which may lie in their bodies.
        let events: Vec<u32> = self.events_of(row).collect();
        for event in events {
            let body = redaction.body(&self.events[at(event)].body);
            self.events[at(event)].body = body;
            self.redact_deliveries(event, redaction);
        }
    }

    fn redact_operation(&mut self, row: u32, redaction: Redaction) {
        let before = &self.operations[at(row)];
        let (next, due, key) = (before.next, before.due, before.key);
        let mut operation = before.operation(self.payments[at(before.payment)].id, None);
        redaction.operation(&mut operation);
        let mut after = OperationRow::new(operation, before.payment, key);
        (after.next, after.due) = (next, due);
        self.operations[at(row)] = after;
        if key == NONE {
            return;
        }
        let claim = self.keys[at(key)].claim.as_ref();
        if let Some(answer) = claim.and_then(|claim| claim.answer.as_ref()) {
            let answer = redaction.answer(&self.answer(answer));
            let (status, body) = (answer.status, Box::new(answer.body));
            if let Some(claim) = &mut self.keys[at(key)].claim {
                claim.answer = Some(AnswerRow::Own { status, body });
            }
        }
    }

    fn redact_deliveries(&mut self, event: u32, redaction: Redaction) {
        let (scope, id) = (self.events[at(event)].scope, self.events[at(event)].id);
        let to = |endpoint| (scope, DeliveryId::new(id, EndpointId::from_uuid(endpoint)));
        for row in self.delivery_ids.range(to(Uuid::nil())..=to(Uuid::max())).map(|(_, row)| *row) {
            let row = &mut self.deliveries[at(row)];
            row.attempts.iter_mut().for_each(|attempt| redaction.attempt(attempt));
            if row.delivery.state == DeliveryState::Pending {
                row.delivery.version = row.delivery.version.saturating_add(1);
            }
        }
    }
}

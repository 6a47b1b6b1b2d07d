//! Lists: pages of rows, a bounded number of rows looked at each time the lock is held.

use pgw_core::access::{ApiKey, AuditRow, AuditSeal, AuditTail, LoggedRow};
use pgw_core::event::EventType;
use pgw_core::id::{EndpointId, KeyId, PaymentId};
use pgw_core::idempotency::KeyTarget;
use pgw_core::page::{Cursor, Page, PageFrom, PageRequest};
use pgw_core::payment::{Operation, OperationKind, Payment};
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::storage::{AuditFilter, DeliveryFilter, PaymentFilter};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Delivery, Endpoint, EndpointStatus};
use std::ops::Bound;
use uuid::Uuid;

use crate::index::Timeline;
use crate::rows::DeliveryRow;
use crate::tables::{Tables, at, place_of_api_key};

/// A page that is being put together.
#[derive(Debug)]
pub(crate) struct Walk<R> {
    limit: usize,
    direction: Direction,
    /// The last row that was looked at; the next ones are beyond it.
    place: Option<Cursor>,
    /// Rows from here on, if not all.
    from: Option<Timestamp>,
    /// Rows before this, if not all.
    before: Option<Timestamp>,
    /// What was found, in the direction of the walk: at most one more than the page has.
    found: Vec<(Cursor, R)>,
    /// How many rows may still be looked at, if not all.
    look: Option<usize>,
    is_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Older,
    Newer,
}

impl<R> Walk<R> {
    /// A walk over the rows created between two times.
    pub(crate) const fn new(
        page: PageRequest,
        from: Option<Timestamp>,
        before: Option<Timestamp>,
    ) -> Self {
        let (direction, place) = match page.from() {
            None => (Direction::Older, None),
            Some(PageFrom::After(cursor)) => (Direction::Older, Some(cursor)),
            Some(PageFrom::Before(cursor)) => (Direction::Newer, Some(cursor)),
        };
        let limit = page.limit();
        Self {
            limit,
            direction,
            place,
            from,
            before,
            found: Vec::new(),
            look: None,
            is_done: false,
        }
    }

    /// A walk that looks at so many rows at most, wherever it gets by then.
    pub(crate) const fn with_look(mut self, rows: usize) -> Self {
        self.look = Some(rows);
        self
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.is_done
    }

    pub(crate) fn finish(mut self) -> Page<R> {
        let is_full = self.found.len() > self.limit;
        self.found.truncate(self.limit);
        // A walk that was cut short goes on behind the last row that it looked at.
        let is_cut = !is_full && self.look == Some(0);
        let last = self.found.last().map(|(place, _)| *place);
        let (has_more, end) = (is_full || is_cut, if is_cut { self.place } else { last });
        if self.direction == Direction::Newer {
            self.found.reverse();
        }
        let data = self.found.into_iter().map(|(_, row)| row).collect();
        Page { data, has_more, next_cursor: end.filter(|_| has_more) }
    }

    /// Looks at the next rows of a list, at most [`SCAN_MAX`].
    pub(crate) fn step(
        &mut self,
        list: &Timeline,
        place_of: impl Fn(u32) -> Cursor,
        pick: impl Fn(u32) -> Option<R>,
    ) {
        // The rows between the two times and beyond the place, as a range of the list.
        let first = self.from.map_or(0, |from| list.count_while(|row| place_of(row).at < from));
        let end = self
            .before
            .map_or(list.len(), |before| list.count_while(|row| place_of(row).at < before));
        let (first, end) = match (self.direction, self.place) {
            (_, None) => (first, end),
            (Direction::Older, Some(place)) => {
                (first, end.min(list.count_while(|row| place_of(row) < place)))
            }
            (Direction::Newer, Some(place)) => {
                (first.max(list.count_while(|row| place_of(row) <= place)), end)
            }
        };
        let count = end.saturating_sub(first);
        let most = SCAN_MAX.min(self.look.unwrap_or(SCAN_MAX));
        for step in 0..count.min(most) {
            let row = list.row(match self.direction {
                Direction::Older => end - 1 - step,
                Direction::Newer => first + step,
            });
            let place = place_of(row);
            self.place = Some(place);
            self.look = self.look.map(|left| left.saturating_sub(1));
            if let Some(picked) = pick(row) {
                self.found.push((place, picked));
                if self.found.len() > self.limit {
                    self.is_done = true;
                    return;
                }
            }
        }
        self.is_done = count <= most || self.look == Some(0);
    }

    pub(crate) const fn end(&mut self) {
        self.is_done = true;
    }
}

impl Tables {
    pub(crate) fn step_payments(
        &self,
        scope: &Scope,
        filter: &PaymentFilter,
        walk: &mut Walk<Payment>,
    ) {
        let Some(number) = self.scope_number(scope) else { return walk.end() };
        let pick = |row: u32| {
            let payment = &self.payments[at(row)];
            let matches = filter.status.is_none_or(|status| payment.status == status)
                && filter.currency.is_none_or(|currency| payment.currency == currency)
                && (filter.customer.is_none() || self.is_of(row, &filter.customer))
                && (!filter.has_unknown || payment.unknown_operations > 0);
            matches.then(|| self.payment(row))
        };
        let place_of = |row| self.place_of_payment(row);
        match &filter.idempotency_key {
            None => walk.step(&self.scopes[at(number)].payments, place_of, pick),
            Some(key) => {
                let mut one = Timeline::default();
                let target = self.claim(number, key).map(|claim| self.target(&claim.target));
                let made = target.and_then(|target| {
                    let KeyTarget::Operation { payment, operation } = target else { return None };
                    let row = self.find_payment(number, payment)?;
                    let first = self.payments[at(row)].operations.first;
                    let is_maker = self.operations.get(at(first))?.id == operation;
                    is_maker.then_some(row)
                });
                if let Some(row) = made {
                    one.insert(row, place_of);
                }
                walk.step(&one, place_of, pick);
            }
        }
    }

    /// Whether a payment is a customer's; one that is marked is nobody's.
    fn is_of(&self, payment: u32, customer: &Option<CustomerId>) -> bool {
        self.payments[at(payment)].customer.id == *customer
            && self.erasures.redaction(payment).is_none()
    }

    pub(crate) fn step_refunds(
        &self,
        scope: &Scope,
        payment: Option<PaymentId>,
        walk: &mut Walk<Operation>,
    ) {
        let Some(number) = self.scope_number(scope) else { return walk.end() };
        let place_of = |row| self.place_of_operation(row);
        let pick = |row| Some(self.operation(row));
        let Some(payment) = payment else {
            return walk.step(&self.scopes[at(number)].refunds, place_of, pick);
        };
        let mut own = Timeline::default();
        if let Some(payment) = self.find_payment(number, payment) {
            for row in self.operations_of(payment) {
                if self.operations[at(row)].kind == OperationKind::Refund {
                    own.insert(row, place_of);
                }
            }
        }
        walk.step(&own, place_of, pick);
    }

    pub(crate) fn step_endpoints(&self, scope: &Scope, walk: &mut Walk<Endpoint>) {
        let Some(number) = self.scope_number(scope) else { return walk.end() };
        let pick = |row: u32| {
            let endpoint = &self.endpoints[at(row)];
            (endpoint.status != EndpointStatus::Deleted).then(|| endpoint.clone())
        };
        walk.step(&self.scopes[at(number)].endpoints, |row| self.place_of_endpoint(row), pick);
    }

    pub(crate) fn step_deliveries(
        &self,
        scope: &Scope,
        filter: &DeliveryFilter,
        walk: &mut Walk<Delivery>,
    ) {
        let Some(number) = self.scope_number(scope) else { return walk.end() };
        let pick = |row: u32| {
            let row: &DeliveryRow = &self.deliveries[at(row)];
            let delivery = &row.delivery;
            let to = |endpoint: EndpointId| delivery.id.endpoint() == endpoint;
            let of = |event_type: EventType| delivery.event_type == event_type;
            let matches = filter.status.is_none_or(|status| status == delivery.state.into())
                && filter.endpoint.is_none_or(to)
                && filter.event_type.is_none_or(of);
            matches.then(|| delivery.clone())
        };
        walk.step(&self.scopes[at(number)].deliveries, |row| self.place_of_delivery(row), pick);
    }

    /// A page of keys, which takes as long as the page is.
    pub(crate) fn api_keys(&self, scope: &Scope, page: PageRequest) -> Page<ApiKey> {
        let Some(scope) = self.scope_number(scope) else {
            return Page { data: Vec::new(), has_more: false, next_cursor: None };
        };
        let key = |id: &KeyId| (*self.api_keys[&(scope, *id)]).clone();
        let limit = page.limit() + 1;
        let (first, last) = (Bound::Included((scope, FIRST)), Bound::Included((scope, LAST)));
        let places = &self.api_key_places;
        let mut data: Vec<ApiKey> = match page.from() {
            None => places.range((first, last)).rev().take(limit).map(|(_, id)| key(id)).collect(),
            Some(PageFrom::After(cursor)) => {
                let older = places.range((first, Bound::Excluded((scope, cursor))));
                older.rev().take(limit).map(|(_, id)| key(id)).collect()
            }
            Some(PageFrom::Before(cursor)) => {
                let newer = places.range((Bound::Excluded((scope, cursor)), last));
                newer.take(limit).map(|(_, id)| key(id)).collect()
            }
        };
        let has_more = data.len() > page.limit();
        data.truncate(page.limit());
        let end = data.last().map(place_of_api_key);
        if matches!(page.from(), Some(PageFrom::Before(_))) {
            data.reverse();
        }
        Page { data, has_more, next_cursor: end.filter(|_| has_more) }
    }

    pub(crate) fn step_audit(
        &self,
        merchant: &MerchantId,
        filter: &AuditFilter,
        walk: &mut Walk<AuditRow>,
    ) {
        let Some(list) = self.audit_lists.get(merchant) else { return walk.end() };
        let pick = |row: u32| Some(self.audit_row(row)).filter(|row| filter.matches(row));
        walk.step(list, |row| self.place_of_audit_row(row), pick);
    }

    /// A merchant's audit rows between two places, oldest first.
    pub(crate) fn audit_rows(
        &self,
        merchant: &MerchantId,
        after: Option<Cursor>,
        through: Cursor,
        limit: usize,
    ) -> Vec<LoggedRow> {
        let Some(list) = self.audit_lists.get(merchant) else { return Vec::new() };
        let place = |row: u32| self.place_of_audit_row(row);
        let first = after.map_or(0, |after| list.count_while(|row| place(row) <= after));
        let end = list.count_while(|row| place(row) <= through);
        let rows = (first..end).take(limit).map(|at| list.row(at));
        rows.map(|row| LoggedRow { place: place(row), row: Some(self.audit_row(row)) }).collect()
    }

    /// The ends of the logs of merchants, in the order of their ids.
    pub(crate) fn audit_tails(&self, after: Option<&MerchantId>, limit: usize) -> Vec<AuditTail> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let lists = self.audit_lists.range::<MerchantId, _>((from, Bound::Unbounded));
        let tail = |(merchant, list): (&MerchantId, &Timeline)| {
            let last = list.row(list.len().checked_sub(1)?);
            let head = self.seals.get(merchant).and_then(|chain| chain.last());
            Some(AuditTail {
                merchant: merchant.clone(),
                head: head.map(AuditSeal::head),
                newest: self.place_of_audit_row(last),
            })
        };
        lists.filter_map(tail).take(limit).collect()
    }
}

/// Before and after every place there is.
const FIRST: Cursor = Cursor::new(Timestamp::from_micros(i64::MIN), Uuid::nil());
const LAST: Cursor = Cursor { at: Timestamp::MAX, id: Uuid::max(), tie: Uuid::max() };

/// How many rows a list looks at while it holds the lock: about 0.1 ms.
const SCAN_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_goes_on_where_it_stopped() {
        let place_of = |row: u32| Cursor::new(Timestamp::from_micros(i64::from(row)), Uuid::nil());
        let mut list = Timeline::default();
        let count = u32::try_from(SCAN_MAX * 3).expect("small");
        for row in 0..count {
            list.insert(row, place_of);
        }
        let wanted = [5, 4_096, 4_097, 9_000];
        let ends =
            [PageRequest::first(4), PageRequest::first(4).with_from(PageFrom::Before(place_of(0)))];
        for page in ends {
            let mut walk = Walk::new(page, None, None);
            let mut steps = 0;
            while !walk.is_done() {
                walk.step(&list, place_of, |row| wanted.contains(&row).then_some(row));
                steps += 1;
            }
            assert_eq!(steps, 3, "{page:?}");
            let found = walk.finish();
            assert_eq!((found.data, found.has_more), (vec![9_000, 4_097, 4_096, 5], false));
        }
    }
}

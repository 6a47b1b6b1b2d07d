//! Lists: pages of rows, a bounded number of rows looked at each time the lock is held.

use pgw_core::access::AuditRow;
use pgw_core::event::EventType;
use pgw_core::id::{EndpointId, PaymentId};
use pgw_core::page::{Cursor, Page, PageFrom, PageRequest};
use pgw_core::payment::{Operation, OperationKind, Payment};
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::storage::{DeliveryFilter, PaymentFilter};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Delivery, Endpoint, EndpointStatus};

use crate::index::Timeline;
use crate::rows::DeliveryRow;
use crate::tables::{Tables, at};

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
        Self { limit, direction, place, from, before, found: Vec::new(), is_done: false }
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.is_done
    }

    pub(crate) fn finish(mut self) -> Page<R> {
        let has_more = self.found.len() > self.limit;
        self.found.truncate(self.limit);
        let end = self.found.last().map(|(place, _)| *place);
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
        for step in 0..count.min(SCAN_MAX) {
            let row = list.row(match self.direction {
                Direction::Older => end - 1 - step,
                Direction::Newer => first + step,
            });
            let place = place_of(row);
            self.place = Some(place);
            if let Some(picked) = pick(row) {
                self.found.push((place, picked));
                if self.found.len() > self.limit {
                    self.is_done = true;
                    return;
                }
            }
        }
        self.is_done = count <= SCAN_MAX;
    }

    const fn end(&mut self) {
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
                && (filter.customer.is_none() || payment.customer.id == filter.customer);
            matches.then(|| payment.payment(scope))
        };
        let place_of = |row| self.place_of_payment(row);
        match &filter.idempotency_key {
            None => walk.step(&self.scopes[at(number)].payments, place_of, pick),
            Some(key) => {
                let mut one = Timeline::default();
                let target = self.claim(number, key).map(|claim| self.target(&claim.target));
                let made = target.and_then(|target| {
                    let row = self.find_payment(number, target.payment)?;
                    let first = self.payments[at(row)].operations.first;
                    let is_maker = self.operations.get(at(first))?.id == target.operation;
                    is_maker.then_some(row)
                });
                if let Some(row) = made {
                    one.insert(row, place_of);
                }
                walk.step(&one, place_of, pick);
            }
        }
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

    pub(crate) fn step_audit(&self, merchant: &MerchantId, walk: &mut Walk<AuditRow>) {
        let Some(list) = self.audit_lists.get(merchant) else { return walk.end() };
        walk.step(list, |row| self.place_of_audit_row(row), |row| Some(self.audit_row(row)));
    }
}

/// How many rows a list looks at while it holds the lock: about 0.1 ms.
const SCAN_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use uuid::Uuid;

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

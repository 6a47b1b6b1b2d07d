//! Lists: newest first, pages that fit together in both directions, while rows keep coming.

use std::collections::BTreeSet;

use super::fixture::StorageFixture;
use super::support::{READS, apply, delivery, paid, registered};
use crate::access::{ApiKey, AuditObject, AuditRow};
use crate::changes::{Changes, Write};
use crate::event::{Event, EventType};
use crate::id::{DeliveryId, EndpointId, PaymentId};
use crate::page::{Cursor, Page, PageFrom, PageRequest};
use crate::payment::{OperationKind, Payment};
use crate::storage::{AuditFilter, DeliveryFilter, PaymentFilter, Storage};
use crate::testing::sample::{Creation, Samples};
use crate::timestamp::Timestamp;
use crate::webhook::{Delivery, Endpoint, EndpointStatus};

/// "Lists are newest first by (`created_at`, id)": payments, those of one instant too.
pub async fn payments_are_newest_first(fixture: &dyn StorageFixture) {
    newest_first(fixture, Kind::Payments).await;
}

/// "Lists are newest first by (`created_at`, id)": refunds, those of one instant too.
pub async fn refunds_are_newest_first(fixture: &dyn StorageFixture) {
    newest_first(fixture, Kind::Refunds).await;
}

/// "Lists are newest first by (`created_at`, id)": endpoints, those of one instant too.
pub async fn endpoints_are_newest_first(fixture: &dyn StorageFixture) {
    newest_first(fixture, Kind::Endpoints).await;
}

/// "Lists are newest first by (`created_at`, id)": deliveries, those of one event too.
pub async fn deliveries_are_newest_first(fixture: &dyn StorageFixture) {
    newest_first(fixture, Kind::Deliveries).await;
}

/// "Lists are newest first by (`created_at`, id)": audit rows, those of one instant too.
pub async fn audit_rows_are_newest_first(fixture: &dyn StorageFixture) {
    newest_first(fixture, Kind::Audit).await;
}

/// "Lists are newest first by (`created_at`, id)": API keys, those of one instant too.
pub async fn api_keys_are_newest_first(fixture: &dyn StorageFixture) {
    newest_first(fixture, Kind::ApiKeys).await;
}

/// "Every list is bounded by its page": pages of payments fit together, each row once, rows coming meanwhile or not.
pub async fn pages_of_payments_fit_together(fixture: &dyn StorageFixture) {
    pages_fit_together(fixture, Kind::Payments).await;
}

/// "Every list is bounded by its page": pages of refunds fit together, each row once.
pub async fn pages_of_refunds_fit_together(fixture: &dyn StorageFixture) {
    pages_fit_together(fixture, Kind::Refunds).await;
}

/// "Every list is bounded by its page": pages of endpoints fit together, each row once.
pub async fn pages_of_endpoints_fit_together(fixture: &dyn StorageFixture) {
    pages_fit_together(fixture, Kind::Endpoints).await;
}

/// "Every list is bounded by its page": pages of deliveries fit together, each row once.
pub async fn pages_of_deliveries_fit_together(fixture: &dyn StorageFixture) {
    pages_fit_together(fixture, Kind::Deliveries).await;
}

/// "Every list is bounded by its page": pages of audit rows fit together, each row once.
pub async fn pages_of_audit_rows_fit_together(fixture: &dyn StorageFixture) {
    pages_fit_together(fixture, Kind::Audit).await;
}

/// "Every list is bounded by its page": pages of API keys fit together, each row once.
pub async fn pages_of_api_keys_fit_together(fixture: &dyn StorageFixture) {
    pages_fit_together(fixture, Kind::ApiKeys).await;
}

/// "Rows newer than the cursor: the ones next to it, newest of them first": pages of payments backwards.
pub async fn pages_of_payments_go_back(fixture: &dyn StorageFixture) {
    pages_go_back(fixture, Kind::Payments).await;
}

/// "Rows newer than the cursor": pages of refunds backwards.
pub async fn pages_of_refunds_go_back(fixture: &dyn StorageFixture) {
    pages_go_back(fixture, Kind::Refunds).await;
}

/// "Rows newer than the cursor": pages of endpoints backwards.
pub async fn pages_of_endpoints_go_back(fixture: &dyn StorageFixture) {
    pages_go_back(fixture, Kind::Endpoints).await;
}

/// "Rows newer than the cursor": pages of deliveries backwards.
pub async fn pages_of_deliveries_go_back(fixture: &dyn StorageFixture) {
    pages_go_back(fixture, Kind::Deliveries).await;
}

/// "Rows newer than the cursor": pages of audit rows backwards.
pub async fn pages_of_audit_rows_go_back(fixture: &dyn StorageFixture) {
    pages_go_back(fixture, Kind::Audit).await;
}

/// "Rows newer than the cursor": pages of API keys backwards.
pub async fn pages_of_api_keys_go_back(fixture: &dyn StorageFixture) {
    pages_go_back(fixture, Kind::ApiKeys).await;
}

/// A cursor is a place, not a row: a page starts there whether or not a row has that key.
pub async fn a_cursor_need_not_be_a_row(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let list = List::prepare(&*storage, &samples, Kind::Payments).await;
    let older = list.insert(&*storage, samples.now()).await;
    let between = Cursor::new(samples.now(), PaymentId::mint(samples.env()).as_uuid());
    let newer = list.insert(&*storage, samples.now()).await;
    let after = PageRequest::first(9).with_from(PageFrom::After(between));
    assert_eq!(list.page(&*storage, after).await.data, older);
    let before = PageRequest::first(9).with_from(PageFrom::Before(between));
    assert_eq!(list.page(&*storage, before).await.data, newer);
}

/// Pages of a filtered list hold what the filter lets through, and say whether more of that follows.
pub async fn pages_of_a_filtered_list_fit_together(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let mut expected = Vec::new();
    for n in 0..12 {
        let mut creation = samples.creation();
        if n % 3 != 0 {
            creation.payment.customer.id = None;
        }
        apply(&*storage, creation.changes()).await;
        if n % 3 == 0 {
            expected.insert(0, creation.payment.id);
        }
    }
    let customer = samples.payment().customer.id;
    let filter = PaymentFilter { customer, ..PaymentFilter::default() };
    let (mut found, mut request) = (Vec::new(), PageRequest::first(2));
    loop {
        let page = storage.payments(samples.scope(), &filter, request).await.expect(READS);
        found.extend(page.data.iter().map(|payment| payment.id));
        assert!(found.len() <= expected.len(), "the list does not end");
        match page.next_cursor {
            Some(cursor) => request = request.with_from(PageFrom::After(cursor)),
            None => break,
        }
    }
    assert_eq!(found, expected);
}

/// Deleted endpoints take no room on a page.
pub async fn deleted_endpoints_take_no_room_on_a_page(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let mut staying = Vec::new();
    for n in 0..8 {
        let mut endpoint = samples.endpoint();
        if n % 2 == 0 {
            endpoint.status = EndpointStatus::Deleted;
        } else {
            staying.insert(0, endpoint.id);
        }
        registered(&*storage, endpoint).await;
    }
    let page = storage.endpoints(samples.scope(), PageRequest::first(4)).await.expect(READS);
    let found: Vec<EndpointId> = page.data.iter().map(|endpoint| endpoint.id).collect();
    assert_eq!(found, staying);
    assert_eq!((page.has_more, page.next_cursor), (false, None), "only deleted ones would follow");
}

async fn newest_first(fixture: &dyn StorageFixture, kind: Kind) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let list = List::prepare(&*storage, &samples, kind).await;
    let mut keys = Vec::new();
    let (early, late) = (samples.now(), samples.now());
    // Out of order and with ties, so that neither the order of insertion nor the time alone will do.
    for at in [late, early, late, early, late] {
        keys.extend(list.insert(&*storage, at).await);
    }
    keys.sort_unstable_by(|a, b| b.cmp(a));
    let page = list.page(&*storage, PageRequest::first(PageRequest::LIMIT_MAX)).await;
    assert_eq!(page.data, keys);
    assert_eq!((page.has_more, page.next_cursor), (false, None), "there is no more");
}

async fn pages_fit_together(fixture: &dyn StorageFixture, kind: Kind) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let list = List::prepare(&*storage, &samples, kind).await;
    let keys = list.fill(&*storage, 7).await;
    for limit in [1, 2, 3, 6, 7, 8] {
        let (mut found, mut request) = (Vec::new(), PageRequest::first(limit));
        loop {
            let page = list.page(&*storage, request).await;
            fits(&page, limit, page.data.last().copied());
            found.extend(page.data);
            assert!(found.len() <= keys.len(), "a row twice, or the list does not end");
            match page.next_cursor {
                Some(cursor) => request = request.with_from(PageFrom::After(cursor)),
                None => break,
            }
        }
        assert_eq!(found, keys, "limit {limit}: every row once, in order");
    }
    // The same walk while a newer row comes in after each page.
    let (mut found, mut request) = (Vec::new(), PageRequest::first(2));
    let mut came = BTreeSet::new();
    while found.len() < keys.len() {
        let page = list.page(&*storage, request).await;
        assert!(!page.data.is_empty(), "the list ended early");
        found.extend(page.data);
        came.extend(list.insert(&*storage, samples.now()).await);
        if let Some(cursor) = page.next_cursor {
            request = request.with_from(PageFrom::After(cursor));
        }
    }
    assert_eq!(found, keys, "rows that came in later do not move the pages of older ones");
    assert!(found.iter().all(|key| !came.contains(key)));
}

async fn pages_go_back(fixture: &dyn StorageFixture, kind: Kind) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let list = List::prepare(&*storage, &samples, kind).await;
    let keys = list.fill(&*storage, 7).await;
    for limit in [1, 2, 3, 6, 7] {
        let oldest = keys[keys.len() - 1];
        let mut request = PageRequest::first(limit).with_from(PageFrom::Before(oldest));
        let mut found: Vec<Cursor> = Vec::new();
        loop {
            let page = list.page(&*storage, request).await;
            fits(&page, limit, page.data.first().copied());
            found.splice(0..0, page.data);
            assert!(found.len() < keys.len(), "a row twice, or the list does not end");
            match page.next_cursor {
                Some(cursor) => request = request.with_from(PageFrom::Before(cursor)),
                None => break,
            }
        }
        assert_eq!(found, keys[..keys.len() - 1], "limit {limit}: every newer row once, in order");
    }
}

/// Asserts what holds for every page: its length, and the cursor exactly when there is more.
fn fits(page: &Page<Cursor>, limit: usize, end: Option<Cursor>) {
    assert!(page.data.len() <= limit, "a page is longer than its limit");
    assert!(!page.has_more || page.data.len() == limit, "a short page with more to come");
    assert_eq!(page.next_cursor, end.filter(|_| page.has_more), "the cursor is the page's end");
}

/// One of the lists, as keys of its rows.
struct List {
    kind: Kind,
    samples: Samples,
    /// What refunds are of.
    paid: Creation,
    /// What deliveries go to.
    endpoints: [Endpoint; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Payments,
    Refunds,
    Endpoints,
    Deliveries,
    Audit,
    ApiKeys,
}

impl List {
    async fn prepare(storage: &dyn Storage, samples: &Samples, kind: Kind) -> Self {
        let endpoints = [samples.endpoint(), samples.endpoint()];
        let mut creation = samples.paid();
        if kind == Kind::Refunds {
            creation = paid(storage, samples).await;
        }
        if kind == Kind::Deliveries {
            for endpoint in &endpoints {
                registered(storage, endpoint.clone()).await;
            }
        }
        Self { kind, samples: samples.clone(), paid: creation, endpoints }
    }

    /// Inserts rows, three of each instant; their keys, newest first.
    async fn fill(&self, storage: &dyn Storage, count: usize) -> Vec<Cursor> {
        let mut keys = Vec::new();
        let mut at = self.samples.now();
        for n in 0..count {
            if n % 3 == 0 {
                at = self.samples.now();
            }
            keys.extend(self.insert(storage, at).await);
        }
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys
    }

    /// Inserts a row created at this time, or two deliveries of one event; their keys.
    async fn insert(&self, storage: &dyn Storage, at: Timestamp) -> Vec<Cursor> {
        let samples = &self.samples;
        let one = |write| Changes::new(samples.scope().clone()).write(write);
        let (changes, id) = match self.kind {
            Kind::Payments => {
                let mut creation = samples.creation();
                creation.payment.created_at = at;
                (creation.changes(), creation.payment.id.as_uuid())
            }
            Kind::Refunds => {
                let mut refund = samples.operation(&self.paid.payment, OperationKind::Refund);
                refund.created_at = at;
                let id = refund.id.as_uuid();
                (one(Write::Operation { operation: Box::new(refund), due_in: None }), id)
            }
            Kind::Endpoints => {
                let endpoint = Endpoint { created_at: at, ..samples.endpoint() };
                let id = endpoint.id.as_uuid();
                (one(Write::Endpoint(Box::new(endpoint))), id)
            }
            Kind::Deliveries => return self.insert_deliveries(storage, at).await,
            Kind::Audit => {
                let object = AuditObject::Payment(self.paid.payment.id);
                let row = AuditRow { at, ..samples.audit_row(object) };
                let id = row.id.as_uuid();
                (one(Write::Audit(Box::new(row))), id)
            }
            Kind::ApiKeys => {
                let key = ApiKey { created_at: at, ..samples.api_key() };
                let id = key.id.as_uuid();
                (one(Write::ApiKey(Box::new(key))), id)
            }
        };
        apply(storage, changes).await;
        vec![Cursor::new(at, id)]
    }

    async fn insert_deliveries(&self, storage: &dyn Storage, at: Timestamp) -> Vec<Cursor> {
        let samples = &self.samples;
        let event = Event { created_at: at, ..samples.event(EventType::TestPing) };
        let ids = self.endpoints.each_ref().map(|endpoint| DeliveryId::new(event.id, endpoint.id));
        let write = Write::Event(Box::new(event));
        apply(storage, Changes::new(samples.scope().clone()).write(write)).await;
        let mut keys = Vec::new();
        for id in ids {
            keys.push(key(&delivery(storage, samples, id).await.delivery));
        }
        keys
    }

    async fn page(&self, storage: &dyn Storage, page: PageRequest) -> Page<Cursor> {
        let scope = self.samples.scope();
        match self.kind {
            Kind::Payments => storage
                .payments(scope, &PaymentFilter::default(), page)
                .await
                .expect(READS)
                .map(|row: Payment| Cursor::new(row.created_at, row.id.as_uuid())),
            Kind::Refunds => storage
                .refunds(scope, None, page)
                .await
                .expect(READS)
                .map(|row| Cursor::new(row.created_at, row.id.as_uuid())),
            Kind::Endpoints => storage
                .endpoints(scope, page)
                .await
                .expect(READS)
                .map(|row| Cursor::new(row.created_at, row.id.as_uuid())),
            Kind::Deliveries => storage
                .deliveries(scope, &DeliveryFilter::default(), page)
                .await
                .expect(READS)
                .map(|row| key(&row)),
            Kind::Audit => storage
                .audit(&scope.merchant, &AuditFilter::default(), page)
                .await
                .expect(READS)
                .map(|row| Cursor::new(row.at, row.id.as_uuid())),
            Kind::ApiKeys => storage
                .api_keys(scope, page)
                .await
                .expect(READS)
                .map(|row| Cursor::new(row.created_at, row.id.as_uuid())),
        }
    }
}

fn key(row: &Delivery) -> Cursor {
    let (id, tie) = (row.id.event().as_uuid(), row.id.endpoint().as_uuid());
    Cursor { tie, ..Cursor::new(row.created_at, id) }
}

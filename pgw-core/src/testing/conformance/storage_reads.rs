//! Reads: each finds what was written, filters let through what they name, and no read crosses a scope.

use super::fixture::StorageFixture;
use super::support::{READS, apply, created, delivering, listed, paid, registered, replacing};
use crate::access::AuditObject;
use crate::changes::{Changes, Guard, Write};
use crate::currency::Currency;
use crate::event::EventType;
use crate::id::{ConflictId, DeliveryId, EndpointId, OperationId, PaymentId};
use crate::idempotency::KeyClaim;
use crate::money::Money;
use crate::page::PageRequest;
use crate::payment::{Conflict, Operation, OperationKind, Payment, PaymentStatus};
use crate::storage::{AuditFilter, DeliveryFilter, PaymentFilter, Storage};
use crate::testing::sample::{Samples, redirect};
use crate::text::CustomerId;
use crate::webhook::delivery::{DeliveryStatus, FailedBecause};
use crate::webhook::{Delivery, DeliveryState, Endpoint, EndpointStatus};

/// "Reads that find nothing answer `None` or an empty page", never an error.
pub async fn reads_of_an_empty_storage_find_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let (scope, env, page) = (samples.scope(), samples.env(), PageRequest::default());
    let (payment, operation) = (PaymentId::mint(env), OperationId::mint(env));
    let delivery = DeliveryId::new(samples.event(EventType::TestPing).id, EndpointId::mint(env));
    assert_eq!(storage.payment(scope, payment).await.expect(READS), None);
    assert_eq!(storage.payment_of(scope, operation).await.expect(READS), None);
    assert_eq!(listed(&*storage, &samples, &PaymentFilter::default()).await, []);
    assert_eq!(storage.refunds(scope, None, page).await.expect(READS).data, []);
    assert_eq!(storage.refunds(scope, Some(payment), page).await.expect(READS).data, []);
    assert_eq!(storage.conflicts(scope, payment).await.expect(READS), []);
    assert_eq!(storage.payment_events(scope, payment, 0, 9).await.expect(READS), []);
    assert_eq!(storage.feed(scope, 0, 9).await.expect(READS), []);
    assert_eq!(storage.stamp_events(9).await.expect(READS), 0);
    assert_eq!(storage.cursor(scope, "mail").await.expect(READS), 0);
    assert_eq!(storage.endpoint(scope, delivery.endpoint()).await.expect(READS), None);
    assert_eq!(storage.endpoints(scope, page).await.expect(READS).data, []);
    assert_eq!(storage.delivery(scope, delivery).await.expect(READS), None);
    assert_eq!(deliveries(&*storage, &samples, &DeliveryFilter::default()).await, []);
    assert_eq!(storage.attempts(scope, delivery, 9).await.expect(READS), []);
    assert_eq!(storage.api_key(samples.api_key().prefix).await.expect(READS), None);
    assert_eq!(
        storage.audit(&scope.merchant, &AuditFilter::default(), page).await.expect(READS).data,
        []
    );
    assert_eq!(storage.erasures(scope, None, page).await.expect(READS).data, []);
    assert_eq!(storage.customers(scope, None, 9).await.expect(READS), []);
    assert_eq!(storage.redact_payments(samples.now(), 9).await.expect(READS), 0);
    assert_eq!(storage.purge_answers(samples.now(), 9).await.expect(READS), 0);
    assert_eq!(storage.expired_payments(samples.now(), 9).await.expect(READS), []);
}

/// "The payment that an operation belongs to, with all of its operations."
pub async fn a_payment_is_found_by_any_of_its_operations(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    created(&*storage, &samples).await;
    let creation = paid(&*storage, &samples).await;
    let refund = refunded(&*storage, &samples, &creation.payment).await;
    let state = storage.payment(samples.scope(), creation.payment.id).await.expect(READS);
    for operation in [creation.charge.id, refund.id] {
        let found = storage.payment_of(samples.scope(), operation).await.expect(READS);
        assert_eq!(found, state);
        assert_eq!(found.map(|state| state.operations.len()), Some(2));
    }
}

/// A filter without fields lets everything through.
pub async fn an_empty_filter_shows_every_payment(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let all = varied(&*storage, &samples).await;
    expect_payments(&*storage, &samples, &PaymentFilter::default(), &all, |_| true).await;
}

/// "With this status."
pub async fn payments_are_filtered_by_status(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let all = varied(&*storage, &samples).await;
    for status in PaymentStatus::ALL {
        let filter = PaymentFilter { status: Some(status), ..PaymentFilter::default() };
        expect_payments(&*storage, &samples, &filter, &all, |p| p.status == status).await;
    }
}

/// "Of this customer": exactly, and not of payments without one.
pub async fn payments_are_filtered_by_customer(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let all = varied(&*storage, &samples).await;
    for name in ["cust_1", "cust_2", "CUST_1", "cust"] {
        let customer = Some(CustomerId::parse(name).expect("a valid id"));
        let filter = PaymentFilter { customer: customer.clone(), ..PaymentFilter::default() };
        expect_payments(&*storage, &samples, &filter, &all, |p| p.customer.id == customer).await;
    }
}

/// "In this currency."
pub async fn payments_are_filtered_by_currency(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let all = varied(&*storage, &samples).await;
    for currency in [Currency::USD, Currency::JPY, Currency::EUR] {
        let filter = PaymentFilter { currency: Some(currency), ..PaymentFilter::default() };
        expect_payments(&*storage, &samples, &filter, &all, |p| p.amount.currency() == currency)
            .await;
    }
}

/// "Created at or after" and "created before": the first includes its instant, the second does not.
pub async fn payments_are_filtered_by_time(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    let all = varied(&*storage, &samples).await;
    for from in &all {
        for before in &all {
            let (from, before) = (from.created_at, before.created_at);
            let filter = PaymentFilter {
                created_from: Some(from),
                created_before: Some(before),
                ..PaymentFilter::default()
            };
            let within = |p: &Payment| from <= p.created_at && p.created_at < before;
            expect_payments(&*storage, &samples, &filter, &all, within).await;
        }
    }
}

/// "Made under this idempotency key": the payment that the key's commit created.
pub async fn payments_are_filtered_by_idempotency_key(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    created(&*storage, &samples).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        let mut creation = samples.creation();
        let claim: KeyClaim = samples.claim(creation.target());
        apply(&*storage, creation.keyed(claim.clone())).await;
        made.push((claim.key, creation.payment));
    }
    for (key, payment) in made {
        let filter = PaymentFilter { idempotency_key: Some(key), ..PaymentFilter::default() };
        assert_eq!(listed(&*storage, &samples, &filter).await, [payment]);
    }
    let filter = PaymentFilter { idempotency_key: Some(samples.key()), ..PaymentFilter::default() };
    assert_eq!(listed(&*storage, &samples, &filter).await, []);
}

/// "Only those with an operation whose outcome is unknown", whatever their status says, and no longer than it is.
pub async fn payments_are_filtered_by_unknown_outcomes(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(34));
    let mut all = varied(&*storage, &samples).await;
    let filter = PaymentFilter { has_unknown: true, ..PaymentFilter::default() };
    let has_unknown = |payment: &Payment| payment.unknown_operations > 0;
    expect_payments(&*storage, &samples, &filter, &all, has_unknown).await;
    for payment in &mut all {
        let before = payment.version;
        payment.version += 1;
        payment.unknown_operations = u32::from(payment.unknown_operations == 0);
        let changes = Changes::new(samples.scope().clone())
            .guard(Guard::Payment { id: payment.id, version: before })
            .write(Write::Payment(Box::new(payment.clone())));
        apply(&*storage, changes).await;
    }
    expect_payments(&*storage, &samples, &filter, &all, has_unknown).await;
    let pending = PaymentFilter { status: Some(PaymentStatus::Pending), ..filter };
    let matching =
        |payment: &Payment| has_unknown(payment) && payment.status == PaymentStatus::Pending;
    expect_payments(&*storage, &samples, &pending, &all, matching).await;
}

/// "Every field that is set must match."
pub async fn filters_of_payments_all_count(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let all = varied(&*storage, &samples).await;
    for payment in &all {
        let filter = PaymentFilter {
            status: Some(payment.status),
            customer: payment.customer.id.clone(),
            currency: Some(payment.amount.currency()),
            created_from: Some(payment.created_at),
            created_before: None,
            idempotency_key: None,
            has_unknown: payment.unknown_operations > 0,
        };
        let matching = |p: &Payment| {
            (payment.unknown_operations == 0 || p.unknown_operations > 0)
                && p.status == payment.status
                && (payment.customer.id.is_none() || p.customer.id == payment.customer.id)
                && p.amount.currency() == payment.amount.currency()
                && p.created_at >= payment.created_at
        };
        expect_payments(&*storage, &samples, &filter, &all, matching).await;
    }
}

/// A filter judges a payment as it is now, not as it was.
pub async fn a_filter_follows_a_payments_changes(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let creation = created(&*storage, &samples).await;
    let mut next = samples.touched(&creation.payment);
    next.status = PaymentStatus::Canceled;
    next.customer.id = None;
    apply(&*storage, replacing(&next)).await;
    let was = PaymentFilter { status: Some(PaymentStatus::Pending), ..PaymentFilter::default() };
    assert_eq!(listed(&*storage, &samples, &was).await, []);
    let was = PaymentFilter { customer: creation.payment.customer.id, ..PaymentFilter::default() };
    assert_eq!(listed(&*storage, &samples, &was).await, []);
    let is = PaymentFilter { status: Some(PaymentStatus::Canceled), ..PaymentFilter::default() };
    assert_eq!(listed(&*storage, &samples, &is).await, [next]);
}

/// "Refunds": operations of that kind and no other, of one payment when it is named.
pub async fn refunds_are_the_refunds_of_a_payment(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let first = paid(&*storage, &samples).await.payment;
    let second = paid(&*storage, &samples).await.payment;
    let one = refunded(&*storage, &samples, &first).await;
    let two = refunded(&*storage, &samples, &second).await;
    let cancel = samples.operation(&second, OperationKind::Cancel);
    let write = Write::Operation { operation: Box::new(cancel), due_in: None };
    apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
    let page = PageRequest::default();
    let scope = samples.scope();
    let all = storage.refunds(scope, None, page).await.expect(READS).data;
    assert_eq!(all, [two.clone(), one.clone()]);
    for (payment, refund) in [(first, one), (second, two)] {
        let found = storage.refunds(scope, Some(payment.id), page).await.expect(READS).data;
        assert_eq!(found, [refund]);
    }
}

/// "With this status": of deliveries, whatever the reason they failed for.
pub async fn deliveries_are_filtered_by_status(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    let (_, pending) = delivering(&*storage, &samples).await;
    let endpoint = pending.id.endpoint();
    let states = [
        DeliveryState::Delivered,
        DeliveryState::Failed(FailedBecause::Gone),
        DeliveryState::Failed(FailedBecause::Exhausted),
    ];
    let mut all = vec![pending];
    for state in states {
        let event = created(&*storage, &samples).await.event;
        let id = DeliveryId::new(event.id, endpoint);
        let row = super::support::delivery(&*storage, &samples, id).await.delivery;
        let row = Delivery { state, version: 2, updated_at: samples.now(), ..row };
        let write = Write::Delivery { delivery: Box::new(row.clone()), due_in: None };
        apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
        all.push(row);
    }
    for status in [DeliveryStatus::Pending, DeliveryStatus::Delivered, DeliveryStatus::Failed] {
        let filter = DeliveryFilter { status: Some(status), ..DeliveryFilter::default() };
        let matching = |row: &Delivery| DeliveryStatus::from(row.state) == status;
        expect_deliveries(&*storage, &samples, &filter, &all, matching).await;
    }
}

/// "To this endpoint" and "of this type of event", alone and together.
pub async fn deliveries_are_filtered_by_endpoint_and_type(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    let mut endpoints = vec![None];
    for _ in 0..2 {
        endpoints.push(Some(registered(&*storage, samples.endpoint()).await.id));
    }
    let types = [EventType::TestPing, EventType::EndpointDisabled, EventType::PaymentCreated];
    for event_type in types {
        let write = Write::Event(Box::new(samples.event(event_type)));
        apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
    }
    let all = deliveries(&*storage, &samples, &DeliveryFilter::default()).await;
    assert_eq!(all.len(), 6, "three events to two endpoints");
    for endpoint in endpoints {
        for event_type in types.into_iter().map(Some).chain([None, Some(EventType::RefundFailed)]) {
            let filter = DeliveryFilter { endpoint, event_type, ..DeliveryFilter::default() };
            let matching = |row: &Delivery| {
                endpoint.is_none_or(|id| row.id.endpoint() == id)
                    && event_type.is_none_or(|kind| row.event_type == kind)
            };
            expect_deliveries(&*storage, &samples, &filter, &all, matching).await;
        }
    }
}

/// "Created at or after" and "created before": of deliveries, by the times they have.
pub async fn deliveries_are_filtered_by_time(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    delivering(&*storage, &samples).await;
    for _ in 0..3 {
        fixture.advance(super::support::secs(5)).await;
        created(&*storage, &samples).await;
    }
    let all = deliveries(&*storage, &samples, &DeliveryFilter::default()).await;
    for from in &all {
        for before in &all {
            let (from, before) = (from.created_at, before.created_at);
            let filter = DeliveryFilter {
                created_from: Some(from),
                created_before: Some(before),
                ..DeliveryFilter::default()
            };
            let within = |row: &Delivery| from <= row.created_at && row.created_at < before;
            expect_deliveries(&*storage, &samples, &filter, &all, within).await;
        }
    }
}

/// "A payment's conflicts, oldest first."
pub async fn conflicts_are_listed_oldest_first(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let creation = created(&*storage, &samples).await;
    let other = created(&*storage, &samples).await;
    let mut expected = Vec::new();
    for _ in 0..3 {
        expected.push(recorded(&*storage, &samples, &creation.charge).await);
        recorded(&*storage, &samples, &other.charge).await;
    }
    let found = storage.conflicts(samples.scope(), creation.payment.id).await.expect(READS);
    assert_eq!(found, expected);
}

/// "Closes a conflict": it stays, with its time; "closed ones too".
pub async fn a_closed_conflict_is_kept_with_its_time(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let creation = created(&*storage, &samples).await;
    let mut closed = recorded(&*storage, &samples, &creation.charge).await;
    let open = recorded(&*storage, &samples, &creation.charge).await;
    let at = samples.now();
    let write = Write::CloseConflict { payment: creation.payment.id, id: closed.id, at };
    apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
    closed.closed_at = Some(at);
    let found = storage.conflicts(samples.scope(), creation.payment.id).await.expect(READS);
    assert_eq!(found, [closed, open]);
}

/// A conflict may be recorded and closed for one payment only: another's is not there to be closed.
pub async fn a_conflict_is_closed_for_its_own_payment(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    let creation = created(&*storage, &samples).await;
    let other = created(&*storage, &samples).await;
    let conflict = recorded(&*storage, &samples, &creation.charge).await;
    let id: ConflictId = conflict.id;
    let write = Write::CloseConflict { payment: other.payment.id, id, at: samples.now() };
    let changes = Changes::new(samples.scope().clone()).write(write);
    super::support::missing(&*storage, changes).await;
    let found = storage.conflicts(samples.scope(), creation.payment.id).await.expect(READS);
    assert_eq!(found, [conflict]);
}

/// "An endpoint, deleted ones too"; "endpoints … without deleted ones".
pub async fn a_deleted_endpoint_is_found_but_not_listed(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(18));
    let staying = registered(&*storage, samples.endpoint()).await;
    let gone = registered(&*storage, samples.endpoint()).await;
    let deleted = Endpoint { status: EndpointStatus::Deleted, version: 2, ..gone };
    let deleted = registered(&*storage, deleted).await;
    let scope = samples.scope();
    let listed = storage.endpoints(scope, PageRequest::default()).await.expect(READS);
    assert_eq!(listed.data, [staying]);
    assert_eq!(storage.endpoint(scope, deleted.id).await.expect(READS), Some(deleted));
}

/// "The API key with this prefix, of any merchant", and as it was last written.
pub async fn an_api_key_is_found_by_its_prefix(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(19));
    let [merchant, mode] = samples.foreign();
    for samples in [samples.clone(), samples.of(merchant), samples.of(mode)] {
        let mut key = samples.api_key();
        for version in 1..=2 {
            key.version = version;
            let write = Write::ApiKey(Box::new(key.clone()));
            apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
            assert_eq!(storage.api_key(key.prefix).await.expect(READS), Some(key.clone()));
            key.revoked_at = Some(samples.now());
        }
    }
}

/// "A merchant's audit rows of both modes", and of no other merchant.
pub async fn audit_rows_are_of_one_merchant_and_both_modes(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(20));
    let [merchant, mode] = samples.foreign();
    let mut rows = Vec::new();
    for samples in [samples.clone(), samples.of(mode), samples.of(merchant.clone())] {
        let row = samples.audit_row(AuditObject::Payment(PaymentId::mint(samples.env())));
        let write = Write::Audit(Box::new(row.clone()));
        apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
        rows.push(row);
    }
    let page = PageRequest::default();
    let own = storage
        .audit(&samples.scope().merchant, &AuditFilter::default(), page)
        .await
        .expect(READS)
        .data;
    assert_eq!(own, [rows[1].clone(), rows[0].clone()]);
    let other =
        storage.audit(&merchant.merchant, &AuditFilter::default(), page).await.expect(READS).data;
    assert_eq!(other, [rows[2].clone()]);
}

/// "What a read can see" is its scope: nothing of a payment is visible to another merchant or in the other mode.
pub async fn other_scopes_see_nothing_of_a_payment(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(21));
    let creation = paid(&*storage, &samples).await;
    let refund = refunded(&*storage, &samples, &creation.payment).await;
    recorded(&*storage, &samples, &creation.charge).await;
    storage.stamp_events(10).await.expect(READS);
    let (id, page) = (creation.payment.id, PageRequest::default());
    for scope in samples.foreign() {
        let there = samples.of(scope.clone());
        assert_eq!(storage.payment(&scope, id).await.expect(READS), None);
        assert_eq!(storage.payment_of(&scope, refund.id).await.expect(READS), None);
        assert_eq!(listed(&*storage, &there, &PaymentFilter::default()).await, []);
        assert_eq!(storage.refunds(&scope, None, page).await.expect(READS).data, []);
        assert_eq!(storage.refunds(&scope, Some(id), page).await.expect(READS).data, []);
        assert_eq!(storage.conflicts(&scope, id).await.expect(READS), []);
        assert_eq!(storage.payment_events(&scope, id, 0, 9).await.expect(READS), []);
        assert_eq!(storage.feed(&scope, 0, 9).await.expect(READS), []);
    }
    assert_eq!(storage.feed(samples.scope(), 0, 9).await.expect(READS).len(), 1);
}

/// "What a read can see" is its scope: nothing of an endpoint and its deliveries is visible elsewhere.
pub async fn other_scopes_see_nothing_of_a_delivery(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(22));
    let (_, row) = delivering(&*storage, &samples).await;
    let write = Write::Attempt(Box::new(samples.attempt(row.id, 1)));
    apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
    let page = PageRequest::default();
    for scope in samples.foreign() {
        let there = samples.of(scope.clone());
        let to_it =
            DeliveryFilter { endpoint: Some(row.id.endpoint()), ..DeliveryFilter::default() };
        assert_eq!(storage.endpoint(&scope, row.id.endpoint()).await.expect(READS), None);
        assert_eq!(storage.endpoints(&scope, page).await.expect(READS).data, []);
        assert_eq!(storage.delivery(&scope, row.id).await.expect(READS), None);
        assert_eq!(deliveries(&*storage, &there, &DeliveryFilter::default()).await, []);
        assert_eq!(deliveries(&*storage, &there, &to_it).await, []);
        assert_eq!(storage.attempts(&scope, row.id, 9).await.expect(READS), []);
    }
    assert_eq!(storage.attempts(samples.scope(), row.id, 9).await.expect(READS).len(), 1);
}

/// Payments that differ in what filters look at, oldest first.
async fn varied(storage: &dyn Storage, samples: &Samples) -> Vec<Payment> {
    let mut all = Vec::new();
    let statuses = [
        PaymentStatus::Pending,
        PaymentStatus::RequiresAction,
        PaymentStatus::Unknown,
        PaymentStatus::Canceled,
        PaymentStatus::Pending,
    ];
    let customers = [Some("cust_1"), Some("cust_2"), None];
    for (n, status) in statuses.into_iter().enumerate() {
        let mut creation = samples.creation();
        creation.payment.status = status;
        creation.payment.unknown_operations = u32::from(n % 2 == 0);
        creation.payment.next_action = (status == PaymentStatus::RequiresAction).then(redirect);
        creation.payment.customer.id =
            customers[n % 3].map(|id| CustomerId::parse(id).expect("a valid id"));
        let currency = if n % 2 == 0 { Currency::USD } else { Currency::JPY };
        creation.payment.amount = Money::from_minor(500, currency).expect("a valid amount");
        creation.charge.amount = creation.payment.amount;
        apply(storage, creation.changes()).await;
        all.push(creation.payment);
    }
    all
}

async fn expect_payments(
    storage: &dyn Storage,
    samples: &Samples,
    filter: &PaymentFilter,
    all: &[Payment],
    matching: impl Fn(&Payment) -> bool,
) {
    let expected: Vec<Payment> = all.iter().rev().filter(|p| matching(p)).cloned().collect();
    assert_eq!(listed(storage, samples, filter).await, expected, "{filter:?}");
}

async fn deliveries(
    storage: &dyn Storage,
    samples: &Samples,
    filter: &DeliveryFilter,
) -> Vec<Delivery> {
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    storage.deliveries(samples.scope(), filter, page).await.expect(READS).data
}

async fn expect_deliveries(
    storage: &dyn Storage,
    samples: &Samples,
    filter: &DeliveryFilter,
    all: &[Delivery],
    matching: impl Fn(&Delivery) -> bool,
) {
    let found = deliveries(storage, samples, filter).await;
    let mut found: Vec<DeliveryId> = found.iter().map(|row| row.id).collect();
    let mut expected: Vec<DeliveryId> =
        all.iter().filter(|row| matching(row)).map(|row| row.id).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{filter:?}");
}

/// Asks for a refund of one unit of a paid payment.
async fn refunded(storage: &dyn Storage, samples: &Samples, payment: &Payment) -> Operation {
    let mut refund = samples.operation(payment, OperationKind::Refund);
    refund.amount = crate::testing::sample::usd(1);
    let mut next = samples.touched(payment);
    next.refund_reserved_minor += 1;
    let write = Write::Operation { operation: Box::new(refund.clone()), due_in: None };
    apply(storage, replacing(&next).write(write)).await;
    refund
}

async fn recorded(storage: &dyn Storage, samples: &Samples, operation: &Operation) -> Conflict {
    let conflict = samples.conflict(operation);
    let write = Write::Conflict(Box::new(conflict.clone()));
    apply(storage, Changes::new(samples.scope().clone()).write(write)).await;
    conflict
}

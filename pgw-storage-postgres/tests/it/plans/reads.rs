//! Every read there is, for a large merchant and a small one.

use pgw_core::access::{Actor, AuditAction, AuditOutcome, AuditRow, KeyPrefix};
use pgw_core::event::EventType;
use pgw_core::id::{DeliveryId, EndpointId, EventId, OperationId, PaymentId};
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::page::{Cursor, Page, PageFrom, PageRequest};
use pgw_core::payment::PaymentStatus;
use pgw_core::queue::Lane;
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::{AuditFilter, DeliveryFilter, PaymentFilter, Storage as _, StorageError};
use pgw_core::testing::sample::scope;
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::delivery::DeliveryStatus;
use pgw_storage_postgres::sqlx::{self, AssertSqlSafe, PgConnection, Row as _, raw_sql};
use pgw_storage_postgres::{PgStorage, Schema};
use uuid::Uuid;

use super::{FLUSH, Watched, load};

/// A few rows of a merchant, to ask for.
struct Sample {
    scope: Scope,
    refunded: PaymentId,
    charge: OperationId,
    key: IdempotencyKey,
    customer: CustomerId,
    in_conflict: PaymentId,
    delivery: DeliveryId,
    prefix: KeyPrefix,
    /// Two days in the middle of all that happened.
    from: Timestamp,
    before: Timestamp,
}

impl Sample {
    async fn of(connection: &mut PgConnection, schema: &Schema, merchant: &str) -> Self {
        let sql = "select p.id, o.id, o.idempotency_key, p.customer_id,
                (select c.payment from {schema}.conflicts c where c.merchant = p.merchant and c.live order by id limit 1),
                d.event, d.endpoint,
                (select a.prefix from {schema}.api_keys a where a.merchant = p.merchant and a.live order by id limit 1),
                (extract(epoch from now() - interval '36 days') * 1000000)::bigint
            from {schema}.payments p join {schema}.operations o
                on o.merchant = p.merchant and o.live = p.live and o.payment = p.id and o.kind = 'charge'
            join {schema}.deliveries d on d.merchant = p.merchant and d.live = p.live and d.payment = p.id
            join {schema}.attempts a on a.merchant = d.merchant and a.live = d.live and a.event = d.event
            where p.merchant = $1 and p.live and p.status = 'refunded' and p.customer_id is not null order by p.id limit 1";
        let sql = sql.replace("{schema}", schema.as_str());
        let query = sqlx::query(AssertSqlSafe(sql)).bind(merchant.to_owned()).persistent(false);
        let row = query.fetch_one(&mut *connection).await.expect("there is one");
        // What this looked at is not to count as a call's.
        raw_sql(FLUSH).execute(connection).await.expect("a healthy server");
        let id = |at: usize| row.get::<Uuid, _>(at);
        Self {
            scope: scope(merchant, Mode::Live),
            refunded: PaymentId::from_uuid(id(0)),
            charge: OperationId::from_uuid(id(1)),
            key: IdempotencyKey::parse(row.get(2)).expect("a valid key"),
            customer: CustomerId::parse(row.get(3)).expect("a valid id"),
            in_conflict: PaymentId::from_uuid(id(4)),
            delivery: DeliveryId::new(EventId::from_uuid(id(5)), EndpointId::from_uuid(id(6))),
            prefix: KeyPrefix::parse(row.get(7)).expect("a valid prefix"),
            from: Timestamp::from_micros(row.get(8)),
            before: Timestamp::from_micros(row.get(8))
                .plus(std::time::Duration::from_secs(172_800)),
        }
    }
}

pub(super) async fn all(watched: &mut Watched, connection: &mut PgConnection) {
    for merchant in [load::LARGE, load::SMALL] {
        let sample = Sample::of(connection, &watched.schema, merchant).await;
        payments(watched, &sample).await;
        deliveries(watched, &sample).await;
        other_lists(watched, &sample).await;
        objects(watched, &sample).await;
    }
    of_all_merchants(watched).await;
}

fn rows<T>(found: Result<Vec<T>, StorageError>) -> usize {
    found.expect("a healthy server").len()
}

fn row<T>(found: Result<Option<T>, StorageError>) -> usize {
    usize::from(found.expect("a healthy server").is_some())
}

/// A list from its start, and on both sides of a row of it.
async fn list<T>(
    watched: &mut Watched,
    what: &str,
    place_of: impl Fn(&T) -> Cursor,
    list: impl AsyncFn(&PgStorage, PageRequest) -> Result<Page<T>, StorageError>,
) {
    let first = PageRequest::first(20);
    let start = list(&watched.storage, first).await.expect("a healthy server");
    watched
        .watch(what, async |storage| rows(list(storage, first).await.map(|page| page.data)))
        .await;
    let (Some(newest), Some(last)) = (start.data.first(), start.data.last()) else { return };
    // A list of one row ends there.
    if !start.has_more {
        return;
    }
    let sides = [
        ("after", PageFrom::After(place_of(newest))),
        ("before", PageFrom::Before(place_of(last))),
    ];
    for (side, from) in sides {
        let page = first.with_from(from);
        let call =
            async |storage: &PgStorage| rows(list(storage, page).await.map(|page| page.data));
        watched.watch(&format!("{what}, {side}"), call).await;
    }
}

async fn payments(watched: &mut Watched, sample: &Sample) {
    let none = PaymentFilter::default;
    let status = |status| PaymentFilter { status: Some(status), ..none() };
    let currency = |code: &str| PaymentFilter { currency: code.parse().ok(), ..none() };
    let customer = PaymentFilter { customer: Some(sample.customer.clone()), ..none() };
    let between = PaymentFilter {
        created_from: Some(sample.from),
        created_before: Some(sample.before),
        ..none()
    };
    let key = PaymentFilter { idempotency_key: Some(sample.key.clone()), ..none() };
    let mut filters = vec![
        none(),
        status(PaymentStatus::Succeeded),
        status(PaymentStatus::Failed),
        status(PaymentStatus::Refunded),
        customer.clone(),
        currency("USD"),
        currency("JPY"),
        PaymentFilter { created_from: Some(sample.from), ..none() },
        PaymentFilter { created_before: Some(sample.before), ..none() },
        between.clone(),
        key.clone(),
        PaymentFilter { status: Some(PaymentStatus::Refunded), ..customer.clone() },
        PaymentFilter { status: Some(PaymentStatus::Succeeded), ..currency("EUR") },
        PaymentFilter { status: Some(PaymentStatus::Failed), ..currency("JPY") },
        PaymentFilter { status: Some(PaymentStatus::Succeeded), ..between.clone() },
        PaymentFilter { currency: "EUR".parse().ok(), ..between },
        PaymentFilter { created_before: Some(Timestamp::MAX), ..customer },
        PaymentFilter { status: Some(PaymentStatus::Refunded), ..key },
    ];
    if sample.scope.merchant.as_str() == load::LARGE {
        filters.extend([PaymentStatus::Unknown, PaymentStatus::RequiresAction].map(status));
        let unknown = PaymentFilter { has_unknown: true, ..none() };
        filters.push(PaymentFilter { status: Some(PaymentStatus::Succeeded), ..unknown.clone() });
        filters.push(unknown);
    }
    for filter in filters {
        let what = format!("payments of {} {filter:?}", sample.scope.merchant);
        let call =
            async |storage: &PgStorage, page| storage.payments(&sample.scope, &filter, page).await;
        list(watched, &what, |row| Cursor::new(row.created_at, row.id.as_uuid()), call).await;
    }
}

async fn deliveries(watched: &mut Watched, sample: &Sample) {
    let none = DeliveryFilter::default;
    let status = |status| DeliveryFilter { status: Some(status), ..none() };
    let to = DeliveryFilter { endpoint: Some(sample.delivery.endpoint()), ..none() };
    let of = |event_type| DeliveryFilter { event_type: Some(event_type), ..none() };
    let between = DeliveryFilter {
        created_from: Some(sample.from),
        created_before: Some(sample.before),
        ..none()
    };
    let filters = [
        none(),
        status(DeliveryStatus::Delivered),
        status(DeliveryStatus::Failed),
        status(DeliveryStatus::Pending),
        to.clone(),
        of(EventType::PaymentFailed),
        DeliveryFilter { created_from: Some(sample.from), ..none() },
        DeliveryFilter { created_before: Some(sample.before), ..none() },
        between.clone(),
        DeliveryFilter { status: Some(DeliveryStatus::Failed), ..to.clone() },
        DeliveryFilter { event_type: Some(EventType::PaymentFailed), ..to },
        DeliveryFilter { status: Some(DeliveryStatus::Failed), ..of(EventType::PaymentSucceeded) },
        DeliveryFilter { status: Some(DeliveryStatus::Delivered), ..between },
    ];
    for filter in filters {
        let what = format!("deliveries of {} {filter:?}", sample.scope.merchant);
        let call = async |storage: &PgStorage, page| {
            storage.deliveries(&sample.scope, &filter, page).await
        };
        let place = |row: &pgw_core::webhook::Delivery| Cursor {
            tie: row.id.endpoint().as_uuid(),
            ..Cursor::new(row.created_at, row.id.event().as_uuid())
        };
        list(watched, &what, place, call).await;
    }
}

async fn other_lists(watched: &mut Watched, sample: &Sample) {
    let (scope, merchant) = (&sample.scope, &sample.scope.merchant);
    for payment in [None, Some(sample.refunded)] {
        let what = format!("refunds of {merchant} {payment:?}");
        let call = async |storage: &PgStorage, page| storage.refunds(scope, payment, page).await;
        list(watched, &what, |row| Cursor::new(row.created_at, row.id.as_uuid()), call).await;
    }
    let call = async |storage: &PgStorage, page| storage.endpoints(scope, page).await;
    let what = format!("endpoints of {merchant}");
    list(watched, &what, |row| Cursor::new(row.created_at, row.id.as_uuid()), call).await;
    let call = async |storage: &PgStorage, page| storage.api_keys(scope, page).await;
    let what = format!("api_keys of {merchant}");
    list(watched, &what, |row| Cursor::new(row.created_at, row.id.as_uuid()), call).await;
    audit(watched, sample).await;
    for after in [0, 100] {
        let call = async |storage: &PgStorage| rows(storage.feed(scope, after, 100).await);
        watched.watch(&format!("feed of {merchant} after {after}"), call).await;
    }
}

/// The log: one index serves every filter, by looking at a bounded number of rows.
async fn audit(watched: &mut Watched, sample: &Sample) {
    let merchant = &sample.scope.merchant;
    let none = AuditFilter::default;
    let (from, before) = (Some(sample.from), Some(sample.before));
    let filters = [
        none(),
        AuditFilter { from, before, ..none() },
        AuditFilter { action: Some(AuditAction::PaymentCreate), ..none() },
        AuditFilter { actor: Some(Actor::Host), outcome: Some(AuditOutcome::Success), ..none() },
    ];
    for filter in filters {
        let what = format!("audit of {merchant} {filter:?}");
        let call = async |storage: &PgStorage, page| storage.audit(merchant, &filter, page).await;
        list(watched, &what, |row: &AuditRow| Cursor::new(row.at, row.id.as_uuid()), call).await;
    }
    let (after, through) =
        (Cursor::new(sample.from, Uuid::nil()), Cursor::new(sample.before, Uuid::max()));
    for after in [None, Some(after)] {
        let call = async |it: &PgStorage| rows(it.audit_rows(merchant, after, through, 100).await);
        watched.watch(&format!("audit_rows of {merchant} {after:?}"), call).await;
    }
    let call = async |it: &PgStorage| rows(it.audit_seals(merchant, 100, 10).await);
    watched.watch(&format!("audit_seals of {merchant}"), call).await;
}

async fn objects(watched: &mut Watched, sample: &Sample) {
    let (scope, id, delivery) = (&sample.scope, sample.refunded, sample.delivery);
    watched.watch("payment", async |it| row(it.payment(scope, id).await)).await;
    let several = async |it: &PgStorage| {
        // While two statements are under way, the rest wait, and are read by one.
        let one = || async { row(it.payment(scope, id).await) };
        let (a, b, c, d, e) = tokio::join!(one(), one(), one(), one(), one());
        a + b + c + d + e
    };
    watched.watch("payment, by several at once", several).await;
    watched.watch("payment_of", async |it| row(it.payment_of(scope, sample.charge).await)).await;
    watched.watch("key", async |it| row(it.key(scope, &sample.key).await)).await;
    watched
        .watch("conflicts", async |it| rows(it.conflicts(scope, sample.in_conflict).await))
        .await;
    watched
        .watch("payment_events", async |it| rows(it.payment_events(scope, id, 0, 10).await))
        .await;
    watched.watch("delivery", async |it| row(it.delivery(scope, delivery).await)).await;
    watched.watch("attempts", async |it| rows(it.attempts(scope, delivery, 10).await)).await;
    watched.watch("endpoint", async |it| row(it.endpoint(scope, delivery.endpoint()).await)).await;
    watched.watch("api_key", async |it| row(it.api_key(sample.prefix).await)).await;
    let key = watched.storage.api_key(sample.prefix).await.expect("a read").expect("it is there");
    watched.watch("api_key_by_id", async |it| row(it.api_key_by_id(scope, key.id).await)).await;
    watched.watch("shield", async |it| row(it.shield(None).await)).await;
    let position = async |it: &PgStorage| it.cursor(scope, "books").await.expect("a read") as usize;
    watched.watch("cursor", position).await;
}

async fn of_all_merchants(watched: &mut Watched) {
    for lane in Lane::ALL {
        let due = watched.storage.due_jobs(lane, 100).await.expect("a healthy server");
        watched
            .watch(&format!("due_jobs of {lane:?}"), async |it| rows(it.due_jobs(lane, 100).await))
            .await;
        let job = due.first().expect("some are due");
        watched.watch(&format!("due of {lane:?}"), async |it| row(it.due(job).await)).await;
    }
    let now = watched.storage.due_jobs(Lane::Operations, 1).await.map(|_| Timestamp::MAX);
    let now = now.expect("a healthy server");
    watched.watch("audit_tails", async |it| rows(it.audit_tails(None, 100).await)).await;
    watched.watch("expired_payments", async |it| rows(it.expired_payments(now, 100).await)).await;
}

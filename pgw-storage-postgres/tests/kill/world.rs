//! What the scenarios share: a migrated schema, gateways on it that lose no time, and what must be true at the end.

use std::time::Duration;

use pgw_core::builder::{ProcessorSettings, Settings};
use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::money::Money;
use pgw_core::payment::Customer;
use pgw_core::payment::plan::NewPayment;
use pgw_core::processor::Resolution;
use pgw_core::queue::{Depth, Lane, Queue as _};
use pgw_core::retry::RetryPolicy;
use pgw_core::scope::Scope;
use pgw_core::storage::Storage as _;
use pgw_core::testing::invariants::Outside;
use pgw_core::text::{CustomerName, PaymentMethod};
use pgw_core::worker::WorkerSettings;
use pgw_storage_postgres::sqlx::{AssertSqlSafe, Connection as _, PgConnection, query_scalar};
use pgw_storage_postgres::{Migrator, PgStorage, Schema};
use tokio::runtime::Runtime;

/// What a storage answers when nothing is wrong.
pub(crate) const HEALTHY: &str = "a healthy storage answers";

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system gives threads")
}

/// A new schema on a server of one's own.
pub(crate) async fn migrate(url: &str) -> Schema {
    let schema: Schema = "kill".parse().expect("a valid name");
    let mut owner = PgConnection::connect(url).await.expect("the server was just started");
    Migrator::new(schema.clone()).run(&mut owner).await.expect("the database is empty");
    owner.close().await.expect("a healthy server closes connections");
    schema
}

pub(crate) async fn connect(url: &str, schema: &Schema) -> PgStorage {
    let builder = PgStorage::builder().with_schema(schema.clone());
    builder.connect(url).await.expect("the schema is migrated")
}

/// Rows of a table, all or those that a condition holds for.
pub(crate) async fn count(pg: &PgStorage, schema: &Schema, rows: &str) -> u64 {
    let sql = format!("select count(*) from {schema}.{rows}");
    let count: i64 = query_scalar(AssertSqlSafe(sql)).fetch_one(pg.pool()).await.expect(HEALTHY);
    u64::try_from(count).expect("a count is not negative")
}

pub(crate) async fn depth(pg: &PgStorage, lane: Lane) -> Depth {
    pg.queue().depth(lane).await.expect(HEALTHY)
}

/// A payment of 49.99 USD.
pub(crate) fn order(key: &IdempotencyKey) -> NewPayment {
    let customer = Customer {
        email: Email::parse("ada@example.com").expect("a valid address"),
        name: CustomerName::parse("Ada Lovelace").expect("a valid name"),
        id: None,
    };
    NewPayment::new(usd(4_999), customer, plain_card()).with_idempotency_key(key.clone())
}

pub(crate) fn usd(minor: i64) -> Money {
    Money::from_minor(minor, Currency::USD).expect("a valid amount")
}

/// A card that the sandbox charges without a fault.
pub(crate) fn plain_card() -> PaymentMethod {
    PaymentMethod::parse("tok_visa").expect("a valid token")
}

/// Budgets that no number of kills uses up, and waits that nobody notices: a kill must never be what fails a payment.
pub(crate) fn settings() -> Settings {
    let again = RetryPolicy::exponential(Duration::from_millis(100), Duration::from_secs(1), 1_000);
    Settings {
        send_again: again.clone(),
        probe: again.clone(),
        deliver_again: again,
        webhook_timeout: Duration::from_secs(5),
        ..Settings::default()
    }
}

/// Short deadlines, so that a call whose worker died is soon asked about.
pub(crate) fn processor_settings() -> ProcessorSettings {
    ProcessorSettings { timeout: Duration::from_secs(1), ..ProcessorSettings::default() }
}

/// How the processor is asked what became of a call.
pub(crate) const RESOLUTION: Resolution = Resolution::Lookup { lag: Duration::from_millis(100) };

/// Short leases, so that what a dead worker had claimed soon comes back.
pub(crate) fn worker_settings() -> WorkerSettings {
    WorkerSettings {
        operations_max: 16,
        deliveries_max: 16,
        lease: Duration::from_millis(600),
        poll: Duration::from_millis(100),
        reap: Duration::from_millis(500),
        drain: Duration::from_secs(10),
    }
}

/// Gives every event its place in the feed, which a worker that was stopped may not have got to.
pub(crate) async fn stamp(pg: &PgStorage) {
    while pg.stamp_events(500).await.expect(HEALTHY) > 0 {}
}

/// Nothing is due, claimed or buried.
pub(crate) async fn assert_at_rest(pg: &PgStorage, schema: &Schema) {
    for lane in Lane::ALL {
        assert_eq!(depth(pg, lane).await, Depth::default(), "of {lane:?} nothing may be left");
    }
    for table in ["operations", "deliveries"] {
        let claimed = count(pg, schema, &format!("{table} where claimed_until is not null")).await;
        assert_eq!(claimed, 0, "rows of {table} that are claimed");
    }
}

/// Rows, events, answers, audit and the processor's books tell the same story.
pub(crate) async fn assert_invariants(pg: &PgStorage, scope: &Scope, outside: &Outside) {
    let broken = outside.broken(pg, std::slice::from_ref(scope)).await;
    assert!(broken.is_empty(), "{} of {scope:?}: {broken:#?}", broken.len());
}

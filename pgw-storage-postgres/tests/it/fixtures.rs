//! Fixtures: a schema for each test on the servers that `scripts/test` starts, reached in every way there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::access::{ApiKey, AuditRow, AuditSeal, AuditTail, KeyPrefix, LoggedRow, Shield};
use pgw_core::changes::{Changes, Committed};
use pgw_core::crypto::KeyName;
use pgw_core::event::Event;
use pgw_core::id::{DeliveryId, EndpointId, ErasureId, KeyId, OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, KeyRecord};
use pgw_core::notifier::Notifier;
use pgw_core::page::{Cursor, Page, PageRequest};
use pgw_core::payment::{Conflict, Operation, Payment, PaymentState};
use pgw_core::privacy::{Consent, ConsentHolder, CustomerDigest, ErasureProgress};
use pgw_core::queue::{Job, Lane, Queue};
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::storage::{
    AuditFilter, DeliveryFilter, DueJob, DueWork, PaymentFilter, Storage, StorageError,
};
use pgw_core::testing::conformance::{
    DueHints, JobSource, NotifierFixture, QueueFixture, StorageFixture,
};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Attempt, Delivery, DeliveryWork, Endpoint};
use pgw_storage_postgres::sqlx::postgres::PgConnectOptions;
use pgw_storage_postgres::sqlx::{AssertSqlSafe, Connection as _, PgConnection, raw_sql};
use pgw_storage_postgres::{
    Claims, Engine, Group, Link, Migrator, PgNotifier, PgStorage, PgStorageBuilder, Schema,
    ServerClock, Timeouts,
};
use tokio::sync::OnceCell;

use crate::migrations::later_schema;
use crate::migrations::partitions::partitioned_schema;

/// A way to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    /// A pool, commits put together.
    Pool,
    /// A pool, each commit alone, jobs claimed by a conditional update.
    Alone,
    /// As a distributed engine wants it.
    Distributed,
    /// A pool, on tables that are partitioned.
    Partitioned,
    /// Through `PgBouncer` in transaction mode.
    Pooler,
    /// Through one that keeps prepared statements.
    PreparedPooler,
    /// Each commit and read inside a transaction of the host's.
    Enlisted,
}

pub(crate) struct Under {
    pub(crate) leg: Leg,
    pub(crate) storage: PgStorage,
    clock: ServerClock,
}

/// The URL in a variable; a test without its server fails and says how it is run.
pub(crate) fn url(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests with scripts/test, or with `cargo run -p servers -- cargo test`")
    })
}

/// A new schema, migrated.
pub(crate) async fn schema() -> Schema {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let schema: Schema = format!("t_{}_{n}", std::process::id()).parse().expect("a valid name");
    let mut connection = connection().await;
    let export = Migrator::new(schema.clone()).export();
    raw_sql(AssertSqlSafe(export)).execute(&mut connection).await.expect("the export is valid SQL");
    connection.close().await.expect("a healthy server closes connections");
    schema
}

/// A connection of the servers' owner.
pub(crate) async fn connection() -> PgConnection {
    PgConnection::connect(&url("PGW_TEST_POSTGRES")).await.expect("the server must be there")
}

fn direct() -> PgConnectOptions {
    url("PGW_TEST_POSTGRES").parse().expect("a valid URL")
}

/// Makes the role that connects through the pooler that keeps prepared statements, with the settings that it needs there.
pub(crate) async fn prepared_role() {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let make = || async {
        let settings = Timeouts::default().for_role("pgw_prepared");
        let role = format!(
            "do $$ begin create role pgw_prepared login; exception when duplicate_object then null; end $$; \
             alter role pgw_prepared superuser; {settings}"
        );
        let mut connection = connection().await;
        raw_sql(AssertSqlSafe(role)).execute(&mut connection).await.expect("valid SQL");
        connection.close().await.expect("a healthy server closes connections");
    };
    MADE.get_or_init(make).await;
}

/// The schema of a storage, by way of what `Debug` shows.
pub(crate) fn schema_of(pg: &PgStorage) -> String {
    let shown = format!("{pg:?}");
    let after = shown.split("schema: ").nth(1).expect("it shows its schema");
    after.split([',', ' ']).next().expect("split gives one part").to_owned()
}

impl Leg {
    pub(crate) fn builder(self, schema: &Schema) -> PgStorageBuilder {
        let builder = PgStorage::builder().with_schema(schema.clone()).with_connections_max(10);
        match self {
            Self::Pool | Self::Partitioned | Self::Enlisted => builder,
            Self::Alone => builder.with_group(Group::Off).with_claims(Claims::Conditional),
            Self::Distributed => builder.with_engine(Engine::Distributed),
            Self::Pooler => builder.with_link(Link::Pooler).with_listener(direct()),
            Self::PreparedPooler => builder.with_link(Link::PreparedPooler).with_listener(direct()),
        }
    }

    pub(crate) fn url(self) -> String {
        url(match self {
            Self::Pooler => "PGW_TEST_PGBOUNCER",
            Self::PreparedPooler => "PGW_TEST_PGBOUNCER_PREPARED",
            _ => "PGW_TEST_POSTGRES",
        })
    }
}

impl Under {
    /// On a schema of its own, which is for three of the legs that of a later version.
    pub(crate) async fn test(leg: Leg) -> Self {
        let schema = match leg {
            Leg::Partitioned => partitioned_schema().await,
            Leg::Alone | Leg::Distributed | Leg::PreparedPooler => later_schema().await,
            _ => schema().await,
        };
        if leg == Leg::PreparedPooler {
            prepared_role().await;
        }
        let clock = ServerClock::default();
        let builder = leg.builder(&schema).with_clock(clock.clone());
        let storage = builder.connect(&leg.url()).await.expect("the schema was just migrated");
        Self { leg, storage, clock }
    }
}

#[async_trait]
impl StorageFixture for Under {
    async fn storage(&self) -> Arc<dyn Storage> {
        match self.leg {
            Leg::Enlisted => Arc::new(InTransactions(self.storage.clone())),
            _ => Arc::new(self.storage.clone()),
        }
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn due_hints(&self) -> DueHints {
        DueHints::Complete
    }
}

#[async_trait]
impl QueueFixture for Under {
    async fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.storage.queue())
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn source(&self) -> JobSource {
        JobSource::Rows(Arc::new(self.storage.clone()))
    }
}

#[async_trait]
impl NotifierFixture for Under {
    /// Each a notifier of its own, as two processes have.
    async fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::new(self.storage.notifier())
    }

    fn overflow(&self) -> usize {
        PgNotifier::UNREAD_MAX + 1
    }
}

/// A storage whose every call is one transaction of a host's.
#[derive(Debug)]
struct InTransactions(PgStorage);

/// A call inside a transaction that is committed when it succeeds, and rolled back otherwise. On a task of its own: the caller may
/// be dropped, and a host that drops a transaction half-way is not what is tested here.
macro_rules! inside {
    ($self:ident, $storage:ident => $call:expr) => {{
        let pg = $self.0.clone();
        let task = tokio::spawn(async move {
            let mut transaction = pg.pool().begin().await.expect("a healthy server begins");
            let result = {
                let $storage = pg.enlist(&mut transaction);
                $call.await
            };
            match &result {
                Ok(_) => transaction.commit().await.expect("a healthy server commits"),
                Err(_) => transaction.rollback().await.expect("a healthy server rolls back"),
            }
            result
        });
        task.await.expect("the host must not panic")
    }};
}

#[async_trait]
impl Storage for InTransactions {
    async fn commit(&self, changes: Changes) -> Result<Committed, StorageError> {
        let again = changes.clone();
        match inside!(self, storage => storage.commit(changes)) {
            // A row appeared after its guard was checked: the host has to roll back and try again.
            Err(StorageError::Unavailable(_)) => inside!(self, storage => storage.commit(again)),
            committed => committed,
        }
    }

    async fn payment(
        &self,
        scope: &Scope,
        id: PaymentId,
    ) -> Result<Option<PaymentState>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.payment(&scope, id))
    }

    async fn payment_of(
        &self,
        scope: &Scope,
        operation: OperationId,
    ) -> Result<Option<PaymentState>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.payment_of(&scope, operation))
    }

    async fn payments(
        &self,
        scope: &Scope,
        filter: &PaymentFilter,
        page: PageRequest,
    ) -> Result<Page<Payment>, StorageError> {
        let (scope, filter) = (scope.clone(), filter.clone());
        inside!(self, storage => storage.payments(&scope, &filter, page))
    }

    async fn refunds(
        &self,
        scope: &Scope,
        payment: Option<PaymentId>,
        page: PageRequest,
    ) -> Result<Page<Operation>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.refunds(&scope, payment, page))
    }

    async fn key(
        &self,
        scope: &Scope,
        key: &IdempotencyKey,
    ) -> Result<Option<KeyRecord>, StorageError> {
        let (scope, key) = (scope.clone(), key.clone());
        inside!(self, storage => storage.key(&scope, &key))
    }

    async fn conflicts(
        &self,
        scope: &Scope,
        payment: PaymentId,
    ) -> Result<Vec<Conflict>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.conflicts(&scope, payment))
    }

    async fn payment_events(
        &self,
        scope: &Scope,
        payment: PaymentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.payment_events(&scope, payment, after, limit))
    }

    async fn feed(
        &self,
        scope: &Scope,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.feed(&scope, after, limit))
    }

    async fn stamp_events(&self, limit: usize) -> Result<usize, StorageError> {
        inside!(self, storage => storage.stamp_events(limit))
    }

    async fn cursor(&self, scope: &Scope, consumer: &str) -> Result<u64, StorageError> {
        let (scope, consumer) = (scope.clone(), consumer.to_owned());
        inside!(self, storage => storage.cursor(&scope, &consumer))
    }

    async fn endpoint(
        &self,
        scope: &Scope,
        id: EndpointId,
    ) -> Result<Option<Endpoint>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.endpoint(&scope, id))
    }

    async fn endpoints(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.endpoints(&scope, page))
    }

    async fn endpoints_sealed_otherwise(
        &self,
        active: &KeyName,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Endpoint>, StorageError> {
        let active = active.clone();
        inside!(self, storage => storage.endpoints_sealed_otherwise(&active, after, limit))
    }

    async fn delivery(
        &self,
        scope: &Scope,
        id: DeliveryId,
    ) -> Result<Option<DeliveryWork>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.delivery(&scope, id))
    }

    async fn deliveries(
        &self,
        scope: &Scope,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StorageError> {
        let (scope, filter) = (scope.clone(), filter.clone());
        inside!(self, storage => storage.deliveries(&scope, &filter, page))
    }

    async fn attempts(
        &self,
        scope: &Scope,
        delivery: DeliveryId,
        limit: usize,
    ) -> Result<Vec<Attempt>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.attempts(&scope, delivery, limit))
    }

    async fn due(&self, job: &Job) -> Result<Option<DueWork>, StorageError> {
        let job = job.clone();
        inside!(self, storage => storage.due(&job))
    }

    async fn due_all(&self, jobs: &[Job]) -> Result<Vec<Option<DueWork>>, StorageError> {
        let jobs = jobs.to_vec();
        inside!(self, storage => storage.due_all(&jobs))
    }

    async fn due_page(
        &self,
        lane: Lane,
        after: Option<&DueJob>,
        limit: usize,
    ) -> Result<Vec<DueJob>, StorageError> {
        let after = after.cloned();
        inside!(self, storage => storage.due_page(lane, after.as_ref(), limit))
    }

    async fn expired_payments(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Scope, PaymentId)>, StorageError> {
        inside!(self, storage => storage.expired_payments(now, limit))
    }

    async fn purge_answers(&self, before: Timestamp, limit: usize) -> Result<usize, StorageError> {
        inside!(self, storage => storage.purge_answers(before, limit))
    }

    async fn erasure(
        &self,
        scope: &Scope,
        id: ErasureId,
    ) -> Result<Option<ErasureProgress>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.erasure(&scope, id))
    }

    async fn erasures(
        &self,
        scope: &Scope,
        customer: Option<CustomerDigest>,
        page: PageRequest,
    ) -> Result<Page<ErasureProgress>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.erasures(&scope, customer, page))
    }

    async fn consents(
        &self,
        scope: &Scope,
        holder: ConsentHolder,
        limit: usize,
    ) -> Result<Vec<Consent>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.consents(&scope, holder, limit))
    }

    async fn customers(
        &self,
        scope: &Scope,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Vec<CustomerId>, StorageError> {
        let scope = scope.clone();
        let after = after.cloned();
        inside!(self, storage => storage.customers(&scope, after.as_ref(), limit))
    }

    async fn redact_payments(&self, at: Timestamp, limit: usize) -> Result<usize, StorageError> {
        inside!(self, storage => storage.redact_payments(at, limit))
    }

    async fn api_key(&self, prefix: KeyPrefix) -> Result<Option<ApiKey>, StorageError> {
        inside!(self, storage => storage.api_key(prefix))
    }

    async fn api_key_by_id(
        &self,
        scope: &Scope,
        id: KeyId,
    ) -> Result<Option<ApiKey>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.api_key_by_id(&scope, id))
    }

    async fn api_keys(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.api_keys(&scope, page))
    }

    async fn touch_api_key(
        &self,
        scope: &Scope,
        id: KeyId,
        at: Timestamp,
    ) -> Result<(), StorageError> {
        let scope = scope.clone();
        inside!(self, storage => storage.touch_api_key(&scope, id, at))
    }

    async fn shield(&self, known: Option<u64>) -> Result<Option<Shield>, StorageError> {
        inside!(self, storage => storage.shield(known))
    }

    async fn audit(
        &self,
        merchant: &MerchantId,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditRow>, StorageError> {
        let (merchant, filter) = (merchant.clone(), filter.clone());
        inside!(self, storage => storage.audit(&merchant, &filter, page))
    }

    async fn audit_rows(
        &self,
        merchant: &MerchantId,
        after: Option<Cursor>,
        through: Cursor,
        limit: usize,
    ) -> Result<Vec<LoggedRow>, StorageError> {
        let merchant = merchant.clone();
        inside!(self, storage => storage.audit_rows(&merchant, after, through, limit))
    }

    async fn audit_seals(
        &self,
        merchant: &MerchantId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditSeal>, StorageError> {
        let merchant = merchant.clone();
        inside!(self, storage => storage.audit_seals(&merchant, after, limit))
    }

    async fn audit_tails(
        &self,
        after: Option<&MerchantId>,
        limit: usize,
    ) -> Result<Vec<AuditTail>, StorageError> {
        let after = after.cloned();
        inside!(self, storage => storage.audit_tails(after.as_ref(), limit))
    }
}

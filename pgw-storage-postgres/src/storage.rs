//! `PgStorage`: storage on a pool of connections.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use pgw_core::access::{ApiKey, AuditRow, AuditSeal, AuditTail, KeyPrefix, LoggedRow, Shield};
use pgw_core::changes::{Changes, Committed};
use pgw_core::crypto::KeyName;
use pgw_core::event::Event;
use pgw_core::id::{DeliveryId, EndpointId, ErasureId, KeyId, OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, KeyRecord};
use pgw_core::page::{Cursor, Page, PageRequest};
use pgw_core::payment::{Conflict, Operation, Payment, PaymentState};
use pgw_core::privacy::{Consent, ConsentHolder, CustomerDigest, ErasureProgress};
use pgw_core::queue::{Job, Lane, Queue};
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::storage::{
    AuditFilter, DeliveryFilter, DueJob, DueWork, PaymentFilter, Storage, StorageError,
};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Attempt, Delivery, DeliveryWork, Endpoint};
use sqlx::{PgPool, Postgres, Transaction};

use crate::batch::Batcher;
use crate::builder::PgStorageBuilder;
use crate::database::Database;
use crate::enlist::PgEnlisted;
use crate::handed::PgQueueBehind;
use crate::notifier::PgNotifier;
use crate::queue::PgQueue;
use crate::steps::scoped;
use crate::sweeps::TOUCH;
use crate::together::Together;
use crate::value::Time;
use crate::{audit, due, list, read};

/// Storage in PostgreSQL. Clones are handles on the same pool.
///
/// Commits of several callers at once are put into one transaction, each with an outcome of its own: under load one `fsync` serves many
/// payments, and when idle nobody waits for company. Every commit runs on a task of its own, so its future may be dropped at any time.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use pgw_core::gateway::Gateway;
/// use pgw_storage_postgres::PgStorage;
///
/// let pg = PgStorage::builder().connect("postgres://app@localhost/shop").await?;
/// let gateway = Gateway::builder()
///     .with_queue(Arc::new(pg.queue()))
///     .with_notifier(Arc::new(pg.notifier()))
///     .with_storage(Arc::new(pg))
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PgStorage(Arc<Inner>);

struct Inner {
    database: Arc<Database>,
    batcher: Batcher,
    together: Arc<Together>,
    builder: PgStorageBuilder,
}

impl PgStorage {
    /// Starts to make one.
    pub fn builder() -> PgStorageBuilder {
        PgStorageBuilder::new()
    }

    pub(crate) fn from_parts(
        database: Arc<Database>,
        batcher: Batcher,
        builder: PgStorageBuilder,
    ) -> Self {
        Self(Arc::new(Inner { database, batcher, together: Arc::default(), builder }))
    }

    /// The pool it works on.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.0.database.pool
    }

    /// The queue of its due rows.
    #[must_use]
    pub fn queue(&self) -> PgQueue {
        PgQueue::new(Arc::clone(&self.0.database), self.0.builder.claims(), self.0.builder.engine())
    }

    /// That queue behind one of pointers, such as in Redis: jobs are claimed from the pointers, and from the rows while those cannot be reached.
    #[must_use]
    pub fn queue_behind(&self, first: Arc<dyn Queue>) -> PgQueueBehind {
        PgQueueBehind::new(self.queue(), first)
    }

    /// Hints between the processes on this database.
    #[must_use]
    pub fn notifier(&self) -> PgNotifier {
        PgNotifier::new(Arc::clone(&self.0.database), self.0.builder.listens_on(self.pool()))
    }

    /// The storage inside the host's own transaction: what is committed through it is there when the host commits, and never was when
    /// the host rolls back. It neither commits nor opens a savepoint.
    ///
    /// A bare connection is refused by the compiler, because each statement on it would be a transaction of its own:
    ///
    /// ```compile_fail
    /// # async fn run(pg: pgw_storage_postgres::PgStorage) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut connection = pg.pool().acquire().await?;
    /// let storage = pg.enlist(&mut connection); // expected `&mut Transaction`
    /// # Ok(()) }
    /// ```
    ///
    /// ```no_run
    /// # async fn run(pg: pgw_storage_postgres::PgStorage, gateway: pgw_core::gateway::Gateway,
    /// #     new: pgw_core::payment::plan::NewPayment) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut transaction = pg.pool().begin().await?;
    /// // … the host's own rows …
    /// let storage = pg.enlist(&mut transaction);
    /// let receipt = gateway.on(&storage).create_payment(new).await?;
    /// drop(storage);
    /// transaction.commit().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn enlist<'t, 'c>(
        &self,
        transaction: &'t mut Transaction<'c, Postgres>,
    ) -> PgEnlisted<'t, 'c> {
        PgEnlisted::new(Arc::clone(&self.0.database), self.0.builder.engine(), transaction)
    }
}

impl PgStorage {
    async fn commit_changes(&self, changes: Changes) -> Result<Committed, StorageError> {
        self.0.batcher.commit(changes).await
    }

    async fn one_payment(
        &self,
        scope: &Scope,
        id: PaymentId,
    ) -> Result<Option<PaymentState>, StorageError> {
        self.0.together.payment(&self.0.database, scope, id).await
    }

    /// Reads only what was not handed over with its claim.
    async fn due_jobs(&self, jobs: &[Job]) -> Result<Vec<Option<DueWork>>, StorageError> {
        let database = &self.0.database;
        let mut found = database.handoff.states(jobs);
        let unknown: Vec<Job> = jobs
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|(job, _)| job.clone())
            .collect();
        let mut read = due::due_all(database, &unknown).await?.into_iter();
        let work = |state| match state {
            Some(state) => Some(DueWork::Operation(Box::new(state))),
            None => read.next().flatten(),
        };
        Ok(found.drain(..).map(work).collect())
    }

    async fn stamp(&self, limit: usize) -> Result<usize, StorageError> {
        let database = Arc::clone(&self.0.database);
        let work = self.0.database.transact(move |connection| {
            let database = Arc::clone(&database);
            Box::pin(async move { database.sweep(connection).stamp(limit).await })
        });
        work.await
    }

    async fn touch(&self, scope: &Scope, id: KeyId, at: Timestamp) -> Result<(), StorageError> {
        let (statement, scope) = (self.0.database.sql.text(TOUCH), scope.clone());
        let bound = move || scoped(&scope).and(id.as_uuid()).and(Time(at));
        self.0.database.write(statement, bound).await.map(drop)
    }

    async fn redact(&self, at: Timestamp, limit: usize) -> Result<usize, StorageError> {
        let database = Arc::clone(&self.0.database);
        let work = self.0.database.transact(move |connection| {
            let database = Arc::clone(&database);
            Box::pin(async move { database.sweep(connection).redact(at, limit).await })
        });
        work.await
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StorageError> {
        let database = Arc::clone(&self.0.database);
        let work = self.0.database.transact(move |connection| {
            let database = Arc::clone(&database);
            Box::pin(async move { database.sweep(connection).purge(before, limit).await })
        });
        work.await
    }
}

impl fmt::Debug for PgStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the pool, whose options may hold a password.
        f.debug_struct("PgStorage")
            .field("schema", self.0.database.sql.schema())
            .finish_non_exhaustive()
    }
}

/// [`Storage`] for a type whose reads go to a session, and that has `commit_changes`, `one_payment`, `due_jobs`, `stamp`, `purge`, `touch` and `redact`.
macro_rules! storage {
    ([$($generics:tt)*] $type:ty, $self:ident => $session:expr) => {
        #[async_trait]
        impl $($generics)* Storage for $type {
        async fn commit(&$self, changes: Changes) -> Result<Committed, StorageError> {
            changes.check().map_err(StorageError::Invalid)?;
            $self.commit_changes(changes).await
        }

        async fn stamp_events(&$self, limit: usize) -> Result<usize, StorageError> {
            $self.stamp(limit).await
        }

        async fn purge_answers(&$self, before: Timestamp, limit: usize) -> Result<usize, StorageError> {
            $self.purge(before, limit).await
        }

        async fn payment(&$self, scope: &Scope, id: PaymentId) -> Result<Option<PaymentState>, StorageError> {
            $self.one_payment(scope, id).await
        }

        async fn payment_of(
            &$self,
            scope: &Scope,
            operation: OperationId,
        ) -> Result<Option<PaymentState>, StorageError> {
            read::payment_of($session, scope, operation).await
        }

        async fn payments(
            &$self,
            scope: &Scope,
            filter: &PaymentFilter,
            page: PageRequest,
        ) -> Result<Page<Payment>, StorageError> {
            list::payments($session, scope, filter, page).await
        }

        async fn refunds(
            &$self,
            scope: &Scope,
            payment: Option<PaymentId>,
            page: PageRequest,
        ) -> Result<Page<Operation>, StorageError> {
            list::refunds($session, scope, payment, page).await
        }

        async fn key(&$self, scope: &Scope, key: &IdempotencyKey) -> Result<Option<KeyRecord>, StorageError> {
            read::key($session, scope, key).await
        }

        async fn conflicts(&$self, scope: &Scope, payment: PaymentId) -> Result<Vec<Conflict>, StorageError> {
            read::conflicts($session, scope, payment).await
        }

        async fn payment_events(
            &$self,
            scope: &Scope,
            payment: PaymentId,
            after: u64,
            limit: usize,
        ) -> Result<Vec<Event>, StorageError> {
            read::payment_events($session, scope, payment, after, limit).await
        }

        async fn feed(&$self, scope: &Scope, after: u64, limit: usize) -> Result<Vec<Event>, StorageError> {
            read::feed($session, scope, after, limit).await
        }

        async fn cursor(&$self, scope: &Scope, consumer: &str) -> Result<u64, StorageError> {
            read::cursor($session, scope, consumer).await
        }

        async fn endpoint(&$self, scope: &Scope, id: EndpointId) -> Result<Option<Endpoint>, StorageError> {
            read::endpoint($session, scope, id).await
        }

        async fn endpoints(&$self, scope: &Scope, page: PageRequest) -> Result<Page<Endpoint>, StorageError> {
            list::endpoints($session, scope, page).await
        }

        async fn endpoints_sealed_otherwise(
            &$self,
            active: &KeyName,
            after: Option<EndpointId>,
            limit: usize,
        ) -> Result<Vec<Endpoint>, StorageError> {
            read::endpoints_sealed_otherwise($session, active, after, limit).await
        }

        async fn delivery(&$self, scope: &Scope, id: DeliveryId) -> Result<Option<DeliveryWork>, StorageError> {
            read::delivery($session, scope, id).await
        }

        async fn deliveries(
            &$self,
            scope: &Scope,
            filter: &DeliveryFilter,
            page: PageRequest,
        ) -> Result<Page<Delivery>, StorageError> {
            list::deliveries($session, scope, filter, page).await
        }

        async fn attempts(
            &$self,
            scope: &Scope,
            delivery: DeliveryId,
            limit: usize,
        ) -> Result<Vec<Attempt>, StorageError> {
            read::attempts($session, scope, delivery, limit).await
        }

        async fn due(&$self, job: &Job) -> Result<Option<DueWork>, StorageError> {
            due::due($session, job).await
        }

        async fn due_all(&$self, jobs: &[Job]) -> Result<Vec<Option<DueWork>>, StorageError> {
            $self.due_jobs(jobs).await
        }

        async fn due_page(
            &$self,
            lane: Lane,
            after: Option<&DueJob>,
            limit: usize,
        ) -> Result<Vec<DueJob>, StorageError> {
            due::due_page($session, lane, after, limit).await
        }

        async fn expired_payments(
            &$self,
            now: Timestamp,
            limit: usize,
        ) -> Result<Vec<(Scope, PaymentId)>, StorageError> {
            read::expired_payments($session, now, limit).await
        }

        async fn erasure(&$self, scope: &Scope, id: ErasureId) -> Result<Option<ErasureProgress>, StorageError> {
            read::erasure($session, scope, id).await
        }

        async fn erasures(
            &$self,
            scope: &Scope,
            customer: Option<CustomerDigest>,
            page: PageRequest,
        ) -> Result<Page<ErasureProgress>, StorageError> {
            list::erasures($session, scope, customer, page).await
        }

        async fn consents(
            &$self,
            scope: &Scope,
            holder: ConsentHolder,
            limit: usize,
        ) -> Result<Vec<Consent>, StorageError> {
            read::consents($session, scope, holder, limit).await
        }

        async fn customers(
            &$self,
            scope: &Scope,
            after: Option<&CustomerId>,
            limit: usize,
        ) -> Result<Vec<CustomerId>, StorageError> {
            read::customers($session, scope, after, limit).await
        }

        async fn redact_payments(&$self, at: Timestamp, limit: usize) -> Result<usize, StorageError> {
            $self.redact(at, limit).await
        }

        async fn api_key(&$self, prefix: KeyPrefix) -> Result<Option<ApiKey>, StorageError> {
            read::api_key($session, prefix).await
        }

        async fn api_key_by_id(&$self, scope: &Scope, id: KeyId) -> Result<Option<ApiKey>, StorageError> {
            read::api_key_by_id($session, scope, id).await
        }

        async fn api_keys(&$self, scope: &Scope, page: PageRequest) -> Result<Page<ApiKey>, StorageError> {
            list::api_keys($session, scope, page).await
        }

        async fn touch_api_key(&$self, scope: &Scope, id: KeyId, at: Timestamp) -> Result<(), StorageError> {
            $self.touch(scope, id, at).await
        }

        async fn shield(&$self, known: Option<u64>) -> Result<Option<Shield>, StorageError> {
            read::shield($session, known).await
        }

        async fn audit(
            &$self,
            merchant: &MerchantId,
            filter: &AuditFilter,
            page: PageRequest,
        ) -> Result<Page<AuditRow>, StorageError> {
            audit::list($session, merchant, filter, page).await
        }

        async fn audit_rows(
            &$self,
            merchant: &MerchantId,
            after: Option<Cursor>,
            through: Cursor,
            limit: usize,
        ) -> Result<Vec<LoggedRow>, StorageError> {
            audit::rows($session, merchant, after, through, limit).await
        }

        async fn audit_seals(
            &$self,
            merchant: &MerchantId,
            after: u64,
            limit: usize,
        ) -> Result<Vec<AuditSeal>, StorageError> {
            audit::seals($session, merchant, after, limit).await
        }

        async fn audit_tails(
            &$self,
            after: Option<&MerchantId>,
            limit: usize,
        ) -> Result<Vec<AuditTail>, StorageError> {
            audit::tails($session, after, limit).await
        }
        }
    };
}

storage!([] PgStorage, self => &self.0.database);
storage!([<'t, 'c>] PgEnlisted<'t, 'c>, self => self);

//! `MemoryStorage`: the tables behind one lock. What the tables do is in `check.rs`, `apply.rs` and `list.rs`.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use pgw_core::access::{ApiKey, AuditRow, KeyPrefix};
use pgw_core::changes::{Changes, Committed};
use pgw_core::crypto::KeyName;
use pgw_core::env::{Clock, SystemClock};
use pgw_core::event::Event;
use pgw_core::id::{DeliveryId, EndpointId, OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, KeyRecord};
use pgw_core::page::{Page, PageRequest};
use pgw_core::payment::{Conflict, Operation, Payment, PaymentState};
use pgw_core::queue::{Job, Lane};
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::storage::{DeliveryFilter, DueWork, PaymentFilter, Storage, StorageError};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Attempt, Delivery, DeliveryWork, Endpoint};

use crate::check::Check;
use crate::clock::Monotonic;
use crate::list::Walk;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::tables::{Tables, at};

/// Storage in this process's memory: complete, quick, and gone with the process.
///
/// Clones are handles on the same data. Every call holds one lock for a moment and never across an await; a commit is checked
/// whole before anything of it is written. A list whose filter lets little through looks at a few thousand rows at a time
/// and gives way in between, so its rows may come from different moments; each row is whole.
///
/// Due times are judged by the [`Clock`] it is given, the system's by default, made monotonic: while that clock goes back,
/// this storage's stands still.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use pgw_core::storage::Storage as _;
/// use pgw_core::{page::PageRequest, scope::Scope, storage::PaymentFilter};
/// use pgw_storage_memory::MemoryStorage;
///
/// let storage = MemoryStorage::new();
/// let page = PageRequest::default();
/// let payments = storage.payments(&Scope::default(), &PaymentFilter::default(), page).await?;
/// assert!(payments.data.is_empty());
/// # Ok::<(), pgw_core::storage::StorageError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryStorage(Arc<Shared>);

struct Shared {
    tables: Mutex<Tables>,
    clock: Monotonic,
}

impl MemoryStorage {
    /// Most payments by default: at about 2 KB each with their events and keys, 8 GiB.
    pub const PAYMENTS_MAX_DEFAULT: usize = 4_000_000;

    /// An empty storage on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// An empty storage with other settings.
    pub fn builder() -> MemoryStorageBuilder {
        MemoryStorageBuilder {
            clock: Arc::new(SystemClock),
            payments_max: Self::PAYMENTS_MAX_DEFAULT,
        }
    }

    /// Every row as text, the same text for the same data: for tests that compare what is there before and after. What may
    /// be personal or secret is shown as a hash. Takes time and memory in proportion to all data.
    #[must_use]
    pub fn dump(&self) -> String {
        crate::dump::dump(&self.tables())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.0.tables)
    }

    /// Walks a list to the end of its page, giving way to other tasks between two holds of the lock.
    async fn list<R: Send>(
        &self,
        mut walk: Walk<R>,
        step: impl Fn(&Tables, &mut Walk<R>) + Send,
    ) -> Page<R> {
        loop {
            step(&self.tables(), &mut walk);
            if walk.is_done() {
                return walk.finish();
            }
            give_way().await;
        }
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the rows: they are many and hold personal data.
        f.debug_struct("MemoryStorage").finish_non_exhaustive()
    }
}

/// Settings of a [`MemoryStorage`].
#[derive(Debug, Clone)]
#[must_use]
pub struct MemoryStorageBuilder {
    clock: Arc<dyn Clock>,
    payments_max: usize,
}

impl MemoryStorageBuilder {
    /// Judges due times by this clock.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Holds at most so many payments; one more is [`StorageError::Full`]. Those it holds can be read and changed all the same.
    /// At most 2³¹.
    pub const fn with_payments_max(mut self, payments_max: usize) -> Self {
        self.payments_max = payments_max;
        self
    }

    /// The storage, empty.
    #[must_use]
    pub fn build(self) -> MemoryStorage {
        MemoryStorage(Arc::new(Shared {
            tables: Mutex::new(Tables::new(self.payments_max)),
            clock: Monotonic::new(self.clock),
        }))
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn commit(&self, changes: Changes) -> Result<Committed, StorageError> {
        changes.check().map_err(StorageError::Invalid)?;
        let mut tables = self.tables();
        match tables.check_all(&changes)? {
            Check::Answered(answer) => Ok(answer),
            Check::Apply => {
                // Read while the lock is held, so that later commits never have earlier times.
                let now = self.0.clock.now();
                Ok(Committed::Applied { due: tables.apply_all(changes, now) })
            }
        }
    }

    async fn payment(
        &self,
        scope: &Scope,
        id: PaymentId,
    ) -> Result<Option<PaymentState>, StorageError> {
        let tables = self.tables();
        let row = tables.scope_number(scope).and_then(|scope| tables.find_payment(scope, id));
        Ok(row.map(|row| tables.state(row)))
    }

    async fn payment_of(
        &self,
        scope: &Scope,
        operation: OperationId,
    ) -> Result<Option<PaymentState>, StorageError> {
        let tables = self.tables();
        let row =
            tables.scope_number(scope).and_then(|scope| tables.find_operation(scope, operation));
        Ok(row.map(|row| tables.state(tables.operations[at(row)].payment)))
    }

    async fn payments(
        &self,
        scope: &Scope,
        filter: &PaymentFilter,
        page: PageRequest,
    ) -> Result<Page<Payment>, StorageError> {
        let walk = Walk::new(page, filter.created_from, filter.created_before);
        Ok(self.list(walk, |tables, walk| tables.step_payments(scope, filter, walk)).await)
    }

    async fn refunds(
        &self,
        scope: &Scope,
        payment: Option<PaymentId>,
        page: PageRequest,
    ) -> Result<Page<Operation>, StorageError> {
        let walk = Walk::new(page, None, None);
        Ok(self.list(walk, |tables, walk| tables.step_refunds(scope, payment, walk)).await)
    }

    async fn key(
        &self,
        scope: &Scope,
        key: &IdempotencyKey,
    ) -> Result<Option<KeyRecord>, StorageError> {
        let tables = self.tables();
        let row = tables.scope_number(scope).and_then(|scope| tables.find_key(scope, key));
        Ok(row.and_then(|row| tables.key_record(row)))
    }

    async fn conflicts(
        &self,
        scope: &Scope,
        payment: PaymentId,
    ) -> Result<Vec<Conflict>, StorageError> {
        let tables = self.tables();
        let row = tables.scope_number(scope).and_then(|scope| tables.find_payment(scope, payment));
        Ok(row.and_then(|row| tables.conflicts.get(&row)).cloned().unwrap_or_default())
    }

    async fn payment_events(
        &self,
        scope: &Scope,
        payment: PaymentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError> {
        let tables = self.tables();
        let row = tables.scope_number(scope).and_then(|scope| tables.find_payment(scope, payment));
        let Some(row) = row else { return Ok(Vec::new()) };
        let mut rows: Vec<(Option<u64>, u32)> = tables
            .events_of(row)
            .map(|row| (tables.events[at(row)].sequence(), row))
            .filter(|(sequence, _)| *sequence > Some(after))
            .collect();
        rows.sort_unstable();
        Ok(rows.into_iter().take(limit).map(|(_, row)| tables.event(row)).collect())
    }

    async fn feed(
        &self,
        scope: &Scope,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError> {
        let tables = self.tables();
        let Some(scope) = tables.scope_number(scope) else { return Ok(Vec::new()) };
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let stamped = tables.scopes[at(scope)].feed.iter().skip(after).take(limit);
        Ok(stamped.map(|row| tables.event(*row)).collect())
    }

    async fn stamp_events(&self, limit: usize) -> Result<usize, StorageError> {
        Ok(self.tables().stamp(limit))
    }

    async fn cursor(&self, scope: &Scope, consumer: &str) -> Result<u64, StorageError> {
        let tables = self.tables();
        let scope = tables.scope_number(scope).map(|scope| &tables.scopes[at(scope)]);
        Ok(scope.and_then(|scope| scope.cursors.get(consumer)).copied().unwrap_or(0))
    }

    async fn endpoint(
        &self,
        scope: &Scope,
        id: EndpointId,
    ) -> Result<Option<Endpoint>, StorageError> {
        let tables = self.tables();
        let row =
            tables.scope_number(scope).and_then(|scope| tables.endpoint_ids.get(&(scope, id)));
        Ok(row.map(|row| tables.endpoints[at(*row)].clone()))
    }

    async fn endpoints(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StorageError> {
        let walk = Walk::new(page, None, None);
        Ok(self.list(walk, |tables, walk| tables.step_endpoints(scope, walk)).await)
    }

    async fn endpoints_sealed_otherwise(
        &self,
        active: &KeyName,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Endpoint>, StorageError> {
        let tables = self.tables();
        let is_asked_for = |endpoint: &&Endpoint| {
            endpoint.sealed_with() != Some(active) && Some(endpoint.id) > after
        };
        let mut old: Vec<&Endpoint> = tables.endpoints.iter().filter(is_asked_for).collect();
        old.sort_unstable_by_key(|endpoint| endpoint.id);
        Ok(old.into_iter().take(limit).cloned().collect())
    }

    async fn delivery(
        &self,
        scope: &Scope,
        id: DeliveryId,
    ) -> Result<Option<DeliveryWork>, StorageError> {
        let tables = self.tables();
        let row = tables.scope_number(scope).and_then(|scope| tables.find_delivery(scope, id));
        Ok(row.map(|row| tables.delivery_work(row)))
    }

    async fn deliveries(
        &self,
        scope: &Scope,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StorageError> {
        let walk = Walk::new(page, filter.created_from, filter.created_before);
        Ok(self.list(walk, |tables, walk| tables.step_deliveries(scope, filter, walk)).await)
    }

    async fn attempts(
        &self,
        scope: &Scope,
        delivery: DeliveryId,
        limit: usize,
    ) -> Result<Vec<Attempt>, StorageError> {
        let tables = self.tables();
        let row =
            tables.scope_number(scope).and_then(|scope| tables.find_delivery(scope, delivery));
        let Some(row) = row else { return Ok(Vec::new()) };
        let log = &tables.deliveries[at(row)].attempts;
        Ok(log[log.len().saturating_sub(limit)..].to_vec())
    }

    async fn due(&self, job: &Job) -> Result<Option<DueWork>, StorageError> {
        let now = self.0.clock.now();
        let tables = self.tables();
        let Some(scope) = tables.scope_number(job.scope()) else { return Ok(None) };
        match job {
            Job::Operation { payment, operation, .. } => {
                let Some(row) = tables.find_operation(scope, *operation) else { return Ok(None) };
                let row = &tables.operations[at(row)];
                let is_current = tables.payments[at(row.payment)].id == *payment;
                let is_due = is_current && row.due.is_by(now);
                Ok(is_due.then(|| DueWork::Operation(Box::new(tables.state(row.payment)))))
            }
            Job::Delivery { delivery, .. } => {
                let Some(row) = tables.find_delivery(scope, *delivery) else { return Ok(None) };
                if !tables.deliveries[at(row)].due.is_by(now) {
                    return Ok(None);
                }
                Ok(Some(match tables.parked(row, now) {
                    Some(look_in) => DueWork::Parked { look_in },
                    None => DueWork::Delivery(Box::new(tables.delivery_work(row))),
                }))
            }
            // A kind of job that this backend does not know has no row here.
            _ => Ok(None),
        }
    }

    async fn due_jobs(&self, lane: Lane, limit: usize) -> Result<Vec<Job>, StorageError> {
        let now = self.0.clock.now();
        Ok(self.tables().due_jobs(lane, now, limit))
    }

    async fn expired_payments(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Scope, PaymentId)>, StorageError> {
        let tables = self.tables();
        let expired = tables.expired(now).take(limit);
        let named = expired.map(|row| (tables.scope(row.scope).clone(), row.id));
        Ok(named.collect())
    }

    async fn purge_answers(&self, before: Timestamp, limit: usize) -> Result<usize, StorageError> {
        Ok(self.tables().purge(before, limit))
    }

    async fn api_key(&self, prefix: KeyPrefix) -> Result<Option<ApiKey>, StorageError> {
        let tables = self.tables();
        let id = tables.api_key_prefixes.get(&prefix);
        Ok(id.and_then(|id| tables.api_keys.get(id)).map(|key| (**key).clone()))
    }

    async fn audit(
        &self,
        merchant: &MerchantId,
        page: PageRequest,
    ) -> Result<Page<AuditRow>, StorageError> {
        let walk = Walk::new(page, None, None);
        Ok(self.list(walk, |tables, walk| tables.step_audit(merchant, walk)).await)
    }
}

/// Lets other tasks run before this one goes on.
async fn give_way() {
    let mut has_waited = false;
    poll_fn(|context| {
        if has_waited {
            return Poll::Ready(());
        }
        has_waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

//! `MemoryStorage`: the tables behind one lock. What the tables do is in `check.rs`, `apply.rs` and `list.rs`.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use pgw_core::access::{ApiKey, AuditRow, AuditSeal, AuditTail, KeyPrefix, LoggedRow, Shield};
use pgw_core::changes::{Changes, Committed};
use pgw_core::crypto::KeyName;
use pgw_core::env::{Clock, SystemClock};
use pgw_core::event::Event;
use pgw_core::id::{DeliveryId, EndpointId, ErasureId, KeyId, OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, KeyRecord};
use pgw_core::page::{Cursor, Page, PageRequest};
use pgw_core::payment::{Conflict, Operation, Payment, PaymentState};
use pgw_core::privacy::{Consent, ConsentHolder, CustomerDigest, ErasureProgress};
use pgw_core::queue::{Job, Lane};
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::storage::{
    AuditFilter, DeliveryFilter, DueJob, DueWork, PaymentFilter, Storage, StorageError,
};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::{Attempt, Delivery, DeliveryWork, Endpoint};

use crate::check::Check;
use crate::clock::Monotonic;
use crate::erasures::ErasureRow;
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
    /// be personal or secret is shown as a hash; when API keys were last used, which every request may change, is left out. Takes time and memory in proportion to all data.
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
                Ok(Committed::Applied { due: tables.apply_all(changes, now), are_claimed: false })
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
        Ok(tables.attempts(row, limit))
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

    async fn due_page(
        &self,
        lane: Lane,
        after: Option<&DueJob>,
        limit: usize,
    ) -> Result<Vec<DueJob>, StorageError> {
        let now = self.0.clock.now();
        Ok(self.tables().due_page(lane, now, after, limit))
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

    async fn erasure(
        &self,
        scope: &Scope,
        id: ErasureId,
    ) -> Result<Option<ErasureProgress>, StorageError> {
        let tables = self.tables();
        let found = tables.scope_number(scope).and_then(|scope| tables.erasures.find(scope, id));
        Ok(found.map(ErasureRow::progress))
    }

    async fn erasures(
        &self,
        scope: &Scope,
        customer: Option<CustomerDigest>,
        page: PageRequest,
    ) -> Result<Page<ErasureProgress>, StorageError> {
        let walk = Walk::new(page, None, None);
        Ok(self.list(walk, |tables, walk| tables.step_erasures(scope, customer, walk)).await)
    }

    async fn consents(
        &self,
        scope: &Scope,
        holder: ConsentHolder,
        limit: usize,
    ) -> Result<Vec<Consent>, StorageError> {
        let tables = self.tables();
        let Some(scope) = tables.scope_number(scope) else { return Ok(Vec::new()) };
        Ok(tables.erasures.consents_of(scope, holder).take(limit).cloned().collect())
    }

    async fn customers(
        &self,
        scope: &Scope,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Vec<CustomerId>, StorageError> {
        let tables = self.tables();
        let Some(scope) = tables.scope_number(scope) else { return Ok(Vec::new()) };
        Ok(tables.customers(scope, after, limit))
    }

    async fn redact_payments(&self, at: Timestamp, limit: usize) -> Result<usize, StorageError> {
        Ok(self.tables().redact(at, limit))
    }

    async fn api_key(&self, prefix: KeyPrefix) -> Result<Option<ApiKey>, StorageError> {
        let tables = self.tables();
        let id = tables.api_key_prefixes.get(&prefix);
        Ok(id.and_then(|id| tables.api_keys.get(id)).map(|key| (**key).clone()))
    }

    async fn api_key_by_id(
        &self,
        scope: &Scope,
        id: KeyId,
    ) -> Result<Option<ApiKey>, StorageError> {
        let tables = self.tables();
        let key = tables.scope_number(scope).and_then(|scope| tables.api_keys.get(&(scope, id)));
        Ok(key.map(|key| (**key).clone()))
    }

    async fn api_keys(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StorageError> {
        Ok(self.tables().api_keys(scope, page))
    }

    async fn touch_api_key(
        &self,
        scope: &Scope,
        id: KeyId,
        at: Timestamp,
    ) -> Result<(), StorageError> {
        let mut tables = self.tables();
        let scope = tables.scope_number(scope);
        if let Some(key) = scope.and_then(|scope| tables.api_keys.get_mut(&(scope, id))) {
            key.last_used_at = key.last_used_at.max(Some(at));
        }
        Ok(())
    }

    async fn shield(&self, known: Option<u64>) -> Result<Option<Shield>, StorageError> {
        let tables = self.tables();
        Ok((known != Some(tables.shield.version)).then(|| tables.shield.clone()))
    }

    async fn audit(
        &self,
        merchant: &MerchantId,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditRow>, StorageError> {
        let walk = Walk::new(page, filter.from, filter.before).with_look(AuditFilter::LOOK_MAX);
        Ok(self.list(walk, |tables, walk| tables.step_audit(merchant, filter, walk)).await)
    }

    async fn audit_rows(
        &self,
        merchant: &MerchantId,
        after: Option<Cursor>,
        through: Cursor,
        limit: usize,
    ) -> Result<Vec<LoggedRow>, StorageError> {
        Ok(self.tables().audit_rows(merchant, after, through, limit))
    }

    async fn audit_seals(
        &self,
        merchant: &MerchantId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditSeal>, StorageError> {
        let tables = self.tables();
        // Numbered from 1 without a gap: a guard says what the last one is.
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let chain = tables.seals.get(merchant).into_iter().flatten();
        Ok(chain.skip(after).take(limit).cloned().collect())
    }

    async fn audit_tails(
        &self,
        after: Option<&MerchantId>,
        limit: usize,
    ) -> Result<Vec<AuditTail>, StorageError> {
        Ok(self.tables().audit_tails(after, limit))
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

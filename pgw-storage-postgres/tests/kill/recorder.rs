//! A storage that keeps count of commits nobody heard the answer of, and of what they turned out to be.
#![deny(clippy::missing_trait_methods)]

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use pgw_core::access::{ApiKey, AuditRow, AuditSeal, AuditTail, KeyPrefix, LoggedRow, Shield};
use pgw_core::changes::{Changes, Committed};
use pgw_core::crypto::KeyName;
use pgw_core::event::Event;
use pgw_core::id::{DeliveryId, EndpointId, ErasureId, KeyId, OperationId, PaymentId};
use pgw_core::idempotency::{IdempotencyKey, KeyRecord, KeyTarget};
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
use pgw_storage_postgres::PgStorage;

#[derive(Debug)]
pub(crate) struct Recorder {
    inner: PgStorage,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    /// Operations that a creation may have made, by the creation's key.
    in_doubt: HashMap<(Scope, IdempotencyKey), HashSet<KeyTarget>>,
    tally: Tally,
}

/// What became of commits that create a payment under a key.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// The storage did not say whether it was applied.
    pub(crate) indeterminate: u64,
    /// Of these: it had been, as somebody found out who asked again under the key.
    pub(crate) applied_unheard: u64,
    /// Of these: it had not been.
    pub(crate) not_applied: u64,
    /// Nothing was applied, and the storage said so.
    pub(crate) unavailable: u64,
}

impl Notes {
    fn note(&mut self, claim: ClaimOf, result: &Result<Committed, StorageError>) {
        match result {
            Err(StorageError::Indeterminate(_)) => {
                let is_new = self.in_doubt.entry(claim.key).or_default().insert(claim.makes);
                self.tally.indeterminate += u64::from(is_new);
            }
            Err(StorageError::Unavailable(_)) => self.tally.unavailable += 1,
            Ok(Committed::Applied { .. }) => self.resolve(&claim.key, None),
            Ok(Committed::Replayed { target, .. } | Committed::InFlight { target }) => {
                self.resolve(&claim.key, Some(*target));
            }
            // Its id is random: only an earlier try of this very commit can have used it.
            Err(StorageError::Conflict(_)) => self.resolve(&claim.key, Some(claim.makes)),
            Err(_) => {}
        }
    }

    /// It is known what stood under a key before it was asked for again.
    fn resolve(&mut self, key: &(Scope, IdempotencyKey), stood: Option<KeyTarget>) {
        for makes in self.in_doubt.remove(key).unwrap_or_default() {
            if Some(makes) == stood {
                self.tally.applied_unheard += 1;
            } else {
                self.tally.not_applied += 1;
            }
        }
    }
}

/// The key that a commit claims, and the operation that it makes.
struct ClaimOf {
    key: (Scope, IdempotencyKey),
    makes: KeyTarget,
}

impl Recorder {
    pub(crate) fn new(inner: PgStorage) -> Self {
        Self { inner, notes: Mutex::default() }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.notes().tally
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Storage for Recorder {
    async fn commit(&self, changes: Changes) -> Result<Committed, StorageError> {
        let claim = changes.claim.as_ref().map(|claim| ClaimOf {
            key: (changes.scope.clone(), claim.key.clone()),
            makes: claim.target,
        });
        let result = self.inner.commit(changes).await;
        if let Some(claim) = claim {
            self.notes().note(claim, &result);
        }
        result
    }

    async fn payment(
        &self,
        scope: &Scope,
        id: PaymentId,
    ) -> Result<Option<PaymentState>, StorageError> {
        self.inner.payment(scope, id).await
    }

    async fn payment_of(
        &self,
        scope: &Scope,
        operation: OperationId,
    ) -> Result<Option<PaymentState>, StorageError> {
        self.inner.payment_of(scope, operation).await
    }

    async fn payments(
        &self,
        scope: &Scope,
        filter: &PaymentFilter,
        page: PageRequest,
    ) -> Result<Page<Payment>, StorageError> {
        self.inner.payments(scope, filter, page).await
    }

    async fn refunds(
        &self,
        scope: &Scope,
        payment: Option<PaymentId>,
        page: PageRequest,
    ) -> Result<Page<Operation>, StorageError> {
        self.inner.refunds(scope, payment, page).await
    }

    async fn key(
        &self,
        scope: &Scope,
        key: &IdempotencyKey,
    ) -> Result<Option<KeyRecord>, StorageError> {
        self.inner.key(scope, key).await
    }

    async fn conflicts(
        &self,
        scope: &Scope,
        payment: PaymentId,
    ) -> Result<Vec<Conflict>, StorageError> {
        self.inner.conflicts(scope, payment).await
    }

    async fn payment_events(
        &self,
        scope: &Scope,
        payment: PaymentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError> {
        self.inner.payment_events(scope, payment, after, limit).await
    }

    async fn feed(
        &self,
        scope: &Scope,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError> {
        self.inner.feed(scope, after, limit).await
    }

    async fn stamp_events(&self, limit: usize) -> Result<usize, StorageError> {
        self.inner.stamp_events(limit).await
    }

    async fn cursor(&self, scope: &Scope, consumer: &str) -> Result<u64, StorageError> {
        self.inner.cursor(scope, consumer).await
    }

    async fn endpoint(
        &self,
        scope: &Scope,
        id: EndpointId,
    ) -> Result<Option<Endpoint>, StorageError> {
        self.inner.endpoint(scope, id).await
    }

    async fn endpoints(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StorageError> {
        self.inner.endpoints(scope, page).await
    }

    async fn endpoints_sealed_otherwise(
        &self,
        active: &KeyName,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Endpoint>, StorageError> {
        self.inner.endpoints_sealed_otherwise(active, after, limit).await
    }

    async fn delivery(
        &self,
        scope: &Scope,
        id: DeliveryId,
    ) -> Result<Option<DeliveryWork>, StorageError> {
        self.inner.delivery(scope, id).await
    }

    async fn deliveries(
        &self,
        scope: &Scope,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StorageError> {
        self.inner.deliveries(scope, filter, page).await
    }

    async fn attempts(
        &self,
        scope: &Scope,
        delivery: DeliveryId,
        limit: usize,
    ) -> Result<Vec<Attempt>, StorageError> {
        self.inner.attempts(scope, delivery, limit).await
    }

    async fn due(&self, job: &Job) -> Result<Option<DueWork>, StorageError> {
        self.inner.due(job).await
    }

    async fn due_all(&self, jobs: &[Job]) -> Result<Vec<Option<DueWork>>, StorageError> {
        self.inner.due_all(jobs).await
    }

    async fn due_page(
        &self,
        lane: Lane,
        after: Option<&DueJob>,
        limit: usize,
    ) -> Result<Vec<DueJob>, StorageError> {
        self.inner.due_page(lane, after, limit).await
    }

    async fn due_jobs(&self, lane: Lane, limit: usize) -> Result<Vec<Job>, StorageError> {
        self.inner.due_jobs(lane, limit).await
    }

    async fn expired_payments(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Scope, PaymentId)>, StorageError> {
        self.inner.expired_payments(now, limit).await
    }

    async fn purge_answers(&self, before: Timestamp, limit: usize) -> Result<usize, StorageError> {
        self.inner.purge_answers(before, limit).await
    }

    async fn erasure(
        &self,
        scope: &Scope,
        id: ErasureId,
    ) -> Result<Option<ErasureProgress>, StorageError> {
        self.inner.erasure(scope, id).await
    }

    async fn erasures(
        &self,
        scope: &Scope,
        customer: Option<CustomerDigest>,
        page: PageRequest,
    ) -> Result<Page<ErasureProgress>, StorageError> {
        self.inner.erasures(scope, customer, page).await
    }

    async fn consents(
        &self,
        scope: &Scope,
        holder: ConsentHolder,
        limit: usize,
    ) -> Result<Vec<Consent>, StorageError> {
        self.inner.consents(scope, holder, limit).await
    }

    async fn customers(
        &self,
        scope: &Scope,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Vec<CustomerId>, StorageError> {
        self.inner.customers(scope, after, limit).await
    }

    async fn redact_payments(&self, at: Timestamp, limit: usize) -> Result<usize, StorageError> {
        self.inner.redact_payments(at, limit).await
    }

    async fn api_key(&self, prefix: KeyPrefix) -> Result<Option<ApiKey>, StorageError> {
        self.inner.api_key(prefix).await
    }

    async fn api_key_by_id(
        &self,
        scope: &Scope,
        id: KeyId,
    ) -> Result<Option<ApiKey>, StorageError> {
        self.inner.api_key_by_id(scope, id).await
    }

    async fn api_keys(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StorageError> {
        self.inner.api_keys(scope, page).await
    }

    async fn touch_api_key(
        &self,
        scope: &Scope,
        id: KeyId,
        at: Timestamp,
    ) -> Result<(), StorageError> {
        self.inner.touch_api_key(scope, id, at).await
    }

    async fn shield(&self, known: Option<u64>) -> Result<Option<Shield>, StorageError> {
        self.inner.shield(known).await
    }

    async fn audit(
        &self,
        merchant: &MerchantId,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditRow>, StorageError> {
        self.inner.audit(merchant, filter, page).await
    }

    async fn audit_rows(
        &self,
        merchant: &MerchantId,
        after: Option<Cursor>,
        through: Cursor,
        limit: usize,
    ) -> Result<Vec<LoggedRow>, StorageError> {
        self.inner.audit_rows(merchant, after, through, limit).await
    }

    async fn audit_seals(
        &self,
        merchant: &MerchantId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditSeal>, StorageError> {
        self.inner.audit_seals(merchant, after, limit).await
    }

    async fn audit_tails(
        &self,
        after: Option<&MerchantId>,
        limit: usize,
    ) -> Result<Vec<AuditTail>, StorageError> {
        self.inner.audit_tails(after, limit).await
    }
}

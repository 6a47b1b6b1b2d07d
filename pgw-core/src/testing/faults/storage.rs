//! A faulty storage: reads that fail, commits that fail or whose answer is lost.
#![deny(clippy::missing_trait_methods)]

use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::{Faulty, Weight, how, made};
use crate::access::{ApiKey, AuditRow, AuditSeal, AuditTail, KeyPrefix, LoggedRow, Shield};
use crate::changes::{Changes, Committed, Write};
use crate::crypto::KeyName;
use crate::event::Event;
use crate::id::{DeliveryId, EndpointId, ErasureId, KeyId, OperationId, PaymentId};
use crate::idempotency::{IdempotencyKey, KeyRecord};
use crate::page::{Cursor, Page, PageRequest};
use crate::payment::{Conflict, Operation, OperationState, Payment, PaymentState};
use crate::privacy::{Consent, ConsentHolder, CustomerDigest, ErasureProgress};
use crate::queue::{Job, Lane};
use crate::scope::{MerchantId, Scope};
use crate::storage::{
    AuditFilter, DeliveryFilter, DueJob, DueWork, PaymentFilter, Storage, StorageError,
};
use crate::text::CustomerId;
use crate::timestamp::Timestamp;
use crate::webhook::{Attempt, Delivery, DeliveryWork, Endpoint};

macro_rules! read {
    ($self:ident, $name:literal, $call:expr) => {{
        $self.enter(Weight::LIGHT).await;
        if $self.faults.hits(|rates| rates.read_fails) {
            $self.leave($name, "unavailable", Weight::LIGHT).await;
            return Err(StorageError::Unavailable(made()));
        }
        let result = $call.await;
        $self.leave($name, how(&result), Weight::LIGHT).await;
        result
    }};
}

impl Faulty<dyn Storage> {
    /// Notes which calls to a processor are under way, for the count of crashes in their midst.
    fn follow(&self, moved: &[(OperationId, OperationState)]) {
        for (operation, state) in moved {
            match state {
                OperationState::Dispatched => self.life.dispatched(*operation),
                _ => self.life.learned(*operation),
            }
        }
    }
}

#[async_trait]
impl Storage for Faulty<dyn Storage> {
    async fn commit(&self, changes: Changes) -> Result<Committed, StorageError> {
        self.enter(Weight::HEAVY).await;
        let moved: Vec<_> = changes
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Operation { operation, .. } => Some((operation.id, operation.state)),
                _ => None,
            })
            .collect();
        if self.faults.hits(|rates| rates.commit_fails) {
            self.leave("commit", "unavailable", Weight::HEAVY).await;
            return Err(StorageError::Unavailable(made()));
        }
        if self.faults.hits(|rates| rates.commit_lost) {
            self.faults.counts.ambiguous.fetch_add(1, Ordering::Relaxed);
            self.leave("commit", "lost", Weight::HEAVY).await;
            return Err(StorageError::Indeterminate(made()));
        }
        let watched = self.faults.watch.get().map(|watch| (watch, changes.clone()));
        let result = self.inner.commit(changes).await;
        let applied = matches!(result, Ok(Committed::Applied { .. }));
        if applied {
            if let Some((watch, changes)) = watched {
                watch.applied(&changes);
            }
            self.follow(&moved);
        }
        if applied && self.faults.hits(|rates| rates.commit_applied_unheard) {
            self.faults.counts.ambiguous.fetch_add(1, Ordering::Relaxed);
            self.leave("commit", "applied, unheard", Weight::HEAVY).await;
            return Err(StorageError::Indeterminate(made()));
        }
        let how = match &result {
            Ok(Committed::Applied { .. }) => "applied",
            Ok(Committed::Replayed { .. }) => "replayed",
            Ok(Committed::InFlight { .. }) => "in flight",
            Err(StorageError::Conflict(_)) => "conflict",
            Err(_) => "error",
        };
        self.leave("commit", how, Weight::HEAVY).await;
        result
    }

    async fn payment(
        &self,
        scope: &Scope,
        id: PaymentId,
    ) -> Result<Option<PaymentState>, StorageError> {
        read!(self, "payment", self.inner.payment(scope, id))
    }

    async fn payment_of(
        &self,
        scope: &Scope,
        operation: OperationId,
    ) -> Result<Option<PaymentState>, StorageError> {
        read!(self, "payment_of", self.inner.payment_of(scope, operation))
    }

    async fn payments(
        &self,
        scope: &Scope,
        filter: &PaymentFilter,
        page: PageRequest,
    ) -> Result<Page<Payment>, StorageError> {
        read!(self, "payments", self.inner.payments(scope, filter, page))
    }

    async fn refunds(
        &self,
        scope: &Scope,
        payment: Option<PaymentId>,
        page: PageRequest,
    ) -> Result<Page<Operation>, StorageError> {
        read!(self, "refunds", self.inner.refunds(scope, payment, page))
    }

    async fn key(
        &self,
        scope: &Scope,
        key: &IdempotencyKey,
    ) -> Result<Option<KeyRecord>, StorageError> {
        read!(self, "key", self.inner.key(scope, key))
    }

    async fn conflicts(
        &self,
        scope: &Scope,
        payment: PaymentId,
    ) -> Result<Vec<Conflict>, StorageError> {
        read!(self, "conflicts", self.inner.conflicts(scope, payment))
    }

    async fn payment_events(
        &self,
        scope: &Scope,
        payment: PaymentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError> {
        read!(self, "payment_events", self.inner.payment_events(scope, payment, after, limit))
    }

    async fn feed(
        &self,
        scope: &Scope,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError> {
        read!(self, "feed", self.inner.feed(scope, after, limit))
    }

    async fn stamp_events(&self, limit: usize) -> Result<usize, StorageError> {
        read!(self, "stamp_events", self.inner.stamp_events(limit))
    }

    async fn cursor(&self, scope: &Scope, consumer: &str) -> Result<u64, StorageError> {
        read!(self, "cursor", self.inner.cursor(scope, consumer))
    }

    async fn endpoint(
        &self,
        scope: &Scope,
        id: EndpointId,
    ) -> Result<Option<Endpoint>, StorageError> {
        read!(self, "endpoint", self.inner.endpoint(scope, id))
    }

    async fn endpoints(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StorageError> {
        read!(self, "endpoints", self.inner.endpoints(scope, page))
    }

    async fn endpoints_sealed_otherwise(
        &self,
        active: &KeyName,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Endpoint>, StorageError> {
        read!(
            self,
            "endpoints_sealed_otherwise",
            self.inner.endpoints_sealed_otherwise(active, after, limit)
        )
    }

    async fn delivery(
        &self,
        scope: &Scope,
        id: DeliveryId,
    ) -> Result<Option<DeliveryWork>, StorageError> {
        read!(self, "delivery", self.inner.delivery(scope, id))
    }

    async fn deliveries(
        &self,
        scope: &Scope,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StorageError> {
        read!(self, "deliveries", self.inner.deliveries(scope, filter, page))
    }

    async fn attempts(
        &self,
        scope: &Scope,
        delivery: DeliveryId,
        limit: usize,
    ) -> Result<Vec<Attempt>, StorageError> {
        read!(self, "attempts", self.inner.attempts(scope, delivery, limit))
    }

    async fn due(&self, job: &Job) -> Result<Option<DueWork>, StorageError> {
        let due = async {
            let result = self.inner.due(job).await;
            self.faults.watched(|watch| watch.looked(&self.life, job));
            result
        };
        read!(self, "due", due)
    }

    async fn due_all(&self, jobs: &[Job]) -> Result<Vec<Option<DueWork>>, StorageError> {
        let due = async {
            let result = self.inner.due_all(jobs).await;
            for job in jobs {
                self.faults.watched(|watch| watch.looked(&self.life, job));
            }
            result
        };
        read!(self, "due_all", due)
    }

    async fn due_page(
        &self,
        lane: Lane,
        after: Option<&DueJob>,
        limit: usize,
    ) -> Result<Vec<DueJob>, StorageError> {
        read!(self, "due_page", self.inner.due_page(lane, after, limit))
    }

    async fn due_jobs(&self, lane: Lane, limit: usize) -> Result<Vec<Job>, StorageError> {
        read!(self, "due_jobs", self.inner.due_jobs(lane, limit))
    }

    async fn expired_payments(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Scope, PaymentId)>, StorageError> {
        read!(self, "expired_payments", self.inner.expired_payments(now, limit))
    }

    async fn purge_answers(&self, before: Timestamp, limit: usize) -> Result<usize, StorageError> {
        read!(self, "purge_answers", self.inner.purge_answers(before, limit))
    }

    async fn erasure(
        &self,
        scope: &Scope,
        id: ErasureId,
    ) -> Result<Option<ErasureProgress>, StorageError> {
        read!(self, "erasure", self.inner.erasure(scope, id))
    }

    async fn erasures(
        &self,
        scope: &Scope,
        customer: Option<CustomerDigest>,
        page: PageRequest,
    ) -> Result<Page<ErasureProgress>, StorageError> {
        read!(self, "erasures", self.inner.erasures(scope, customer, page))
    }

    async fn consents(
        &self,
        scope: &Scope,
        holder: ConsentHolder,
        limit: usize,
    ) -> Result<Vec<Consent>, StorageError> {
        read!(self, "consents", self.inner.consents(scope, holder, limit))
    }

    async fn customers(
        &self,
        scope: &Scope,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Vec<CustomerId>, StorageError> {
        read!(self, "customers", self.inner.customers(scope, after, limit))
    }

    async fn redact_payments(&self, at: Timestamp, limit: usize) -> Result<usize, StorageError> {
        read!(self, "redact_payments", self.inner.redact_payments(at, limit))
    }

    async fn api_key(&self, prefix: KeyPrefix) -> Result<Option<ApiKey>, StorageError> {
        read!(self, "api_key", self.inner.api_key(prefix))
    }

    async fn api_key_by_id(
        &self,
        scope: &Scope,
        id: KeyId,
    ) -> Result<Option<ApiKey>, StorageError> {
        read!(self, "api_key_by_id", self.inner.api_key_by_id(scope, id))
    }

    async fn api_keys(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StorageError> {
        read!(self, "api_keys", self.inner.api_keys(scope, page))
    }

    async fn touch_api_key(
        &self,
        scope: &Scope,
        id: KeyId,
        at: Timestamp,
    ) -> Result<(), StorageError> {
        read!(self, "touch_api_key", self.inner.touch_api_key(scope, id, at))
    }

    async fn shield(&self, known: Option<u64>) -> Result<Option<Shield>, StorageError> {
        read!(self, "shield", self.inner.shield(known))
    }

    async fn audit(
        &self,
        merchant: &MerchantId,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditRow>, StorageError> {
        read!(self, "audit", self.inner.audit(merchant, filter, page))
    }

    async fn audit_rows(
        &self,
        merchant: &MerchantId,
        after: Option<Cursor>,
        through: Cursor,
        limit: usize,
    ) -> Result<Vec<LoggedRow>, StorageError> {
        read!(self, "audit_rows", self.inner.audit_rows(merchant, after, through, limit))
    }

    async fn audit_seals(
        &self,
        merchant: &MerchantId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditSeal>, StorageError> {
        read!(self, "audit_seals", self.inner.audit_seals(merchant, after, limit))
    }

    async fn audit_tails(
        &self,
        after: Option<&MerchantId>,
        limit: usize,
    ) -> Result<Vec<AuditTail>, StorageError> {
        read!(self, "audit_tails", self.inner.audit_tails(after, limit))
    }
}

//! Storage with a planted bug: most change what is committed, some what is read.
#![deny(clippy::missing_trait_methods)]

use async_trait::async_trait;

use super::{Bug, Mutant};
use crate::access::{ApiKey, AuditRow, AuditSeal, AuditTail, KeyPrefix, LoggedRow, Shield};
use crate::changes::{Changes, Committed, Write};
use crate::crypto::KeyName;
use crate::event::Event;
use crate::id::{DeliveryId, EndpointId, ErasureId, KeyId, OperationId, PaymentId};
use crate::idempotency::{IdempotencyKey, KeyRecord};
use crate::page::{Cursor, Page, PageRequest};
use crate::payment::{Conflict, Failure, Operation, OperationState, Payment, PaymentState, status};
use crate::privacy::{Consent, ConsentHolder, CustomerDigest, ErasureProgress};
use crate::queue::{Job, Lane};
use crate::scope::{MerchantId, Scope};
use crate::storage::{
    AuditFilter, DeliveryFilter, DueJob, DueWork, PaymentFilter, Storage, StorageError,
};
use crate::text::CustomerId;
use crate::timestamp::Timestamp;
use crate::webhook::{Attempt, Delivery, DeliveryWork, Endpoint, Health, Ordering};

impl Mutant<dyn Storage> {
    /// Skips the commit of a dispatch.
    fn skips(&self, changes: &Changes) -> bool {
        self.bug == Bug::ChargeWithoutWriteAhead
            && operations(changes).any(|operation| operation.state == OperationState::Dispatched)
    }

    /// Plants the bugs that change what is written.
    async fn bend(&self, changes: &mut Changes) -> Result<(), StorageError> {
        match self.bug {
            Bug::UnknownFailedByTimer => self.fail_unknown(changes).await?,
            Bug::AnswerOverwritesTerminal => self.overwrite(changes).await?,
            Bug::KeyClaimDropped => changes.claim = None,
            Bug::GuardsDropped => changes.guards.clear(),
            Bug::WakeLost => {
                changes.writes.retain(|write| !matches!(write, Write::Wake { .. }));
            }
            Bug::OldSecretDropped => {
                for write in &mut changes.writes {
                    if let Write::Endpoint(endpoint) = write {
                        endpoint.previous = None;
                    }
                }
            }
            Bug::AuditDropped => changes.writes.retain(|write| !matches!(write, Write::Audit(_))),
            Bug::DueTimeLost => {
                for write in &mut changes.writes {
                    if let Write::Operation { operation, due_in } = write
                        && operation.state == OperationState::Dispatched
                    {
                        *due_in = None;
                    }
                }
            }
            Bug::DuplicateSequence => {
                for write in &mut changes.writes {
                    if let Write::Event(event) = write
                        && let Some(sequence) = &mut event.sequence
                        && *sequence % 4 == 0
                    {
                        *sequence = sequence.saturating_sub(1);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether what parks a delivery to this endpoint is not heeded.
    fn ignores(&self, endpoint: &Endpoint) -> bool {
        let is_ordered = endpoint.options.ordering != Ordering::AsDue;
        match self.bug {
            Bug::PausesIgnored => !is_ordered,
            // One that is healthy is not paused.
            Bug::OrderIgnored => is_ordered && endpoint.health == Health::Healthy,
            _ => false,
        }
    }

    async fn fail_unknown(&self, changes: &mut Changes) -> Result<(), StorageError> {
        let mut failed = None;
        for write in &mut changes.writes {
            if let Write::Operation { operation, due_in } = write
                && operation.state == OperationState::Unknown
            {
                operation.state = OperationState::Failed;
                operation.needs_review = false;
                operation.failure = Some(Failure::new("timeout", "It took too long."));
                *due_in = None;
                failed = Some((**operation).clone());
            }
        }
        self.rederive(changes, failed).await
    }

    async fn overwrite(&self, changes: &mut Changes) -> Result<(), StorageError> {
        let found = changes.writes.iter().find_map(|write| match write {
            Write::Conflict(conflict) => Some((conflict.operation, conflict.found)),
            _ => None,
        });
        let Some((id, found)) = found else { return Ok(()) };
        let Some(state) = self.inner.payment_of(&changes.scope, id).await? else { return Ok(()) };
        let Some(mut operation) = state.operation(id).cloned() else { return Ok(()) };
        operation.state = found;
        changes
            .writes
            .push(Write::Operation { operation: Box::new(operation.clone()), due_in: None });
        self.rederive(changes, Some(operation)).await
    }

    /// Makes the payment's row agree with a bent operation.
    async fn rederive(
        &self,
        changes: &mut Changes,
        bent: Option<Operation>,
    ) -> Result<(), StorageError> {
        let Some(bent) = bent else { return Ok(()) };
        let Some(mut state) = self.inner.payment(&changes.scope, bent.payment).await? else {
            return Ok(());
        };
        for operation in &mut state.operations {
            if operation.id == bent.id {
                *operation = bent.clone();
            }
        }
        let totals = status::totals(&state.operations);
        for write in &mut changes.writes {
            if let Write::Payment(payment) = write {
                payment.status = totals.status;
                payment.authorized_minor = totals.authorized_minor;
                payment.captured_minor = totals.captured_minor;
                payment.capture_reserved_minor = totals.capture_reserved_minor;
                payment.refunded_minor = totals.refunded_minor;
                payment.refund_reserved_minor = totals.refund_reserved_minor;
                payment.unknown_operations = totals.unknown_operations;
            }
        }
        Ok(())
    }

    /// Commits the events after everything else.
    async fn commit_in_two(&self, mut changes: Changes) -> Result<Committed, StorageError> {
        let (events, rest): (Vec<_>, Vec<_>) =
            changes.writes.into_iter().partition(|write| matches!(write, Write::Event(_)));
        changes.writes = rest;
        let mut later = Changes::new(changes.scope.clone());
        later.writes = events;
        let mut committed = self.inner.commit(changes).await?;
        if let Committed::Applied { due, .. } = &mut committed
            && !later.writes.is_empty()
            && let Ok(Committed::Applied { due: more, .. }) = self.inner.commit(later).await
        {
            due.extend(more);
        }
        Ok(committed)
    }
}

fn operations(changes: &Changes) -> impl Iterator<Item = &Operation> {
    changes.writes.iter().filter_map(|write| match write {
        Write::Operation { operation, .. } => Some(&**operation),
        _ => None,
    })
}

#[async_trait]
impl Storage for Mutant<dyn Storage> {
    async fn commit(&self, mut changes: Changes) -> Result<Committed, StorageError> {
        if self.skips(&changes) {
            return Ok(Committed::Applied { due: Vec::new(), are_claimed: false });
        }
        self.bend(&mut changes).await?;
        if self.bug == Bug::EventOutsideCommit {
            return self.commit_in_two(changes).await;
        }
        self.inner.commit(changes).await
    }

    async fn payment(
        &self,
        scope: &Scope,
        id: PaymentId,
    ) -> Result<Option<PaymentState>, StorageError> {
        let mut state = self.inner.payment(scope, id).await?;
        if let (Bug::RefundWithoutReservation, Some(state)) = (self.bug, &mut state) {
            state.payment.refund_reserved_minor = 0;
        }
        Ok(state)
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
        let mut events = self.inner.feed(scope, after, limit).await?;
        if self.bug == Bug::StampSkips && events.len() > 2 {
            events.remove(1);
        }
        Ok(events)
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
        let mut work = self.inner.due(job).await?;
        if let (Some(DueWork::Parked { .. }), Job::Delivery { scope, delivery }) = (&work, job) {
            let parked = self.inner.delivery(scope, *delivery).await?;
            let ignored = parked.filter(|parked| self.ignores(&parked.endpoint));
            work = ignored.map(|parked| DueWork::Delivery(Box::new(parked))).or(work);
        }
        if let (Bug::NotFoundTrustedEarly, Some(DueWork::Operation(state))) = (self.bug, &mut work)
        {
            for operation in &mut state.operations {
                operation.probes = operation.probes.max(1);
            }
        }
        Ok(work)
    }

    async fn due_all(&self, jobs: &[Job]) -> Result<Vec<Option<DueWork>>, StorageError> {
        let mut found = Vec::with_capacity(jobs.len());
        for job in jobs {
            found.push(self.due(job).await?);
        }
        Ok(found)
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
        let mut rows = self.inner.audit_rows(merchant, after, through, limit).await?;
        if self.bug == Bug::SealSkipsRow {
            rows.retain(|row| !row.place.id.as_u128().is_multiple_of(4));
        }
        Ok(rows)
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

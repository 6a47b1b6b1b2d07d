//! The verbs that read.

use crate::error::Error;
use crate::event::Event;
use crate::id::{DeliveryId, PaymentId, RefundId};
use crate::idempotency::{IdempotencyKey, StoredAnswer};
use crate::page::{Page, PageRequest};
use crate::payment::{Conflict, Operation, OperationKind, Payment, PaymentState};
use crate::storage::{DeliveryFilter, PaymentFilter};
use crate::webhook::{Attempt, Delivery, DeliveryWork};

use super::Bound;

impl Bound<'_> {
    /// A payment with its operations.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn payment(&self, id: PaymentId) -> Result<Option<PaymentState>, Error> {
        Ok(self.storage.payment(self.scope(), id).await?)
    }

    /// Payments, newest first.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn payments(
        &self,
        filter: &PaymentFilter,
        page: PageRequest,
    ) -> Result<Page<Payment>, Error> {
        Ok(self.storage.payments(self.scope(), filter, page).await?)
    }

    /// Refunds, newest first, of one payment or of all.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn refunds(
        &self,
        payment: Option<PaymentId>,
        page: PageRequest,
    ) -> Result<Page<Operation>, Error> {
        Ok(self.storage.refunds(self.scope(), payment, page).await?)
    }

    /// A refund.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn refund(&self, id: RefundId) -> Result<Option<Operation>, Error> {
        let state = self.storage.payment_of(self.scope(), id.into()).await?;
        let operation = state.and_then(|state| state.operation(id.into()).cloned());
        Ok(operation.filter(|operation| operation.kind == OperationKind::Refund))
    }

    /// A payment's events in order, those after sequence `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn payment_events(
        &self,
        id: PaymentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, Error> {
        Ok(self.storage.payment_events(self.scope(), id, after, limit).await?)
    }

    /// A payment's conflicts, oldest first.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn conflicts(&self, id: PaymentId) -> Result<Vec<Conflict>, Error> {
        Ok(self.storage.conflicts(self.scope(), id).await?)
    }

    /// The answer that is kept for a key, if there is one by now.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn stored_answer(&self, key: &IdempotencyKey) -> Result<Option<StoredAnswer>, Error> {
        Ok(self.storage.key(self.scope(), key).await?.and_then(|record| record.claim.answer))
    }

    /// A delivery with its event and endpoint.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryWork>, Error> {
        Ok(self.storage.delivery(self.scope(), id).await?)
    }

    /// Deliveries, newest first.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, Error> {
        Ok(self.storage.deliveries(self.scope(), filter, page).await?)
    }

    /// A delivery's latest attempts, oldest first.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn attempts(&self, id: DeliveryId, limit: usize) -> Result<Vec<Attempt>, Error> {
        Ok(self.storage.attempts(self.scope(), id, limit).await?)
    }
}

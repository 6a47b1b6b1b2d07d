//! The verbs of privacy: erasing a customer, and how far that is.

use crate::error::Error;
use crate::id::ErasureId;
use crate::page::{Page, PageRequest};
use crate::privacy::{ConsentHolder, CustomerDigest, ErasureProgress, plan};
use crate::storage::PaymentFilter;
use crate::text::CustomerId;

use super::{Bound, CONFLICT_TRIES, Commit};

impl Bound<'_> {
    /// Erases a customer of the caller's scope (GDPR Art. 17). One commit marks every payment it has, and from that commit on every read, replay,
    /// event and webhook is [redacted](crate::privacy::redaction). Workers then rewrite what is stored, a few payments at a time;
    /// [`erasure`](Self::erasure) says how far they are.
    ///
    /// A payment that is created afterwards, under the same id, is a new customer's. One that is being created at the same moment is either: what
    /// counts is which of the two is committed first. An erased customer without anything new is not erased again: the answer is its latest
    /// erasure.
    ///
    /// The mark takes time in proportion to the customer's payments, a small row each; everything else is done by workers.
    ///
    /// Money goes on: what is queued, unknown or waits for the customer is settled as before, and what was captured can be refunded.
    ///
    /// ```
    /// # use pgw_core::gateway::Gateway;
    /// # use pgw_core::text::CustomerId;
    /// # async fn f(gateway: &Gateway) -> Result<(), Box<dyn std::error::Error>> {
    /// let progress = gateway.host().erase_customer(&CustomerId::parse("cus_42")?).await?;
    /// println!("{} payments are now {}'s", progress.payments, progress.erasure.id);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is held of such a customer and none was ever erased, [`Error::Busy`], [`Error::Storage`].
    pub async fn erase_customer(&self, customer: &CustomerId) -> Result<ErasureProgress, Error> {
        // What stands for somebody erased is nobody to be erased.
        if let Ok(id) = customer.as_str().parse::<ErasureId>()
            && let Some(progress) = self.erasure(id).await?
        {
            return Ok(progress);
        }
        let digest = self.customer_digest(customer);
        for _ in 0..CONFLICT_TRIES {
            let last = self.last_erasure(digest).await?;
            if !self.is_held(customer).await? {
                return last.ok_or(Error::NotFound("customer"));
            }
            let before = last.map_or(0, |last| last.erasure.number);
            let (changes, erasure) =
                self.plan(|stamp| plan::erase(customer, digest, before, stamp));
            if let Commit::Applied | Commit::Known { .. } = self.commit(changes).await? {
                return self.erasure(erasure.id).await?.ok_or(Error::NotFound("erasure"));
            }
            // Somebody else, or an earlier try of ours, erased the same customer: look again.
        }
        Err(Error::Busy("customer"))
    }

    /// An erasure and how far it is.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn erasure(&self, id: ErasureId) -> Result<Option<ErasureProgress>, Error> {
        Ok(self.storage.erasure(self.scope(), id).await?)
    }

    /// Erasures, newest first, of one customer or of all.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub async fn erasures(
        &self,
        customer: Option<&CustomerId>,
        page: PageRequest,
    ) -> Result<Page<ErasureProgress>, Error> {
        let customer = customer.map(|customer| self.customer_digest(customer));
        Ok(self.storage.erasures(self.scope(), customer, page).await?)
    }

    /// What names a customer of the caller's scope where its id may not stand.
    #[must_use]
    pub fn customer_digest(&self, customer: &CustomerId) -> CustomerDigest {
        self.gateway.parts.pepper.customer(self.scope(), customer)
    }

    pub(super) async fn last_erasure(
        &self,
        customer: CustomerDigest,
    ) -> Result<Option<ErasureProgress>, Error> {
        let page = PageRequest::first(1);
        let newest = self.storage.erasures(self.scope(), Some(customer), page).await?;
        Ok(newest.data.into_iter().next())
    }

    /// Whether there is anything of a customer that is not erased.
    pub(super) async fn is_held(&self, customer: &CustomerId) -> Result<bool, Error> {
        let filter = PaymentFilter { customer: Some(customer.clone()), ..PaymentFilter::default() };
        let found = self.storage.payments(self.scope(), &filter, PageRequest::first(1)).await?;
        if !found.data.is_empty() {
            return Ok(true);
        }
        let holder = ConsentHolder::Customer(self.customer_digest(customer));
        Ok(!self.storage.consents(self.scope(), holder, 1).await?.is_empty())
    }
}

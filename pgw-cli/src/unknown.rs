//! Outcomes that are not known: of how many payments, and for how long.

use std::time::Duration;

use pgw_core::error::Error;
use pgw_core::gateway::{Bound, Gateway};
use pgw_core::page::PageRequest;
use pgw_core::payment::{OperationState, PaymentState};
use pgw_core::storage::PaymentFilter;
use pgw_core::timestamp::Timestamp;

/// Payments of one merchant and mode with an operation of unknown outcome.
pub(crate) struct Unknown {
    /// How many, at most a page.
    pub(crate) count: usize,
    /// Whether there are more.
    pub(crate) has_more: bool,
    /// How long ago the first of the operations was sent.
    pub(crate) oldest: Option<Duration>,
}

impl Unknown {
    /// Looks, from the oldest payment on. Each is read for when its operations were sent, which may be long after it was created.
    ///
    /// # Errors
    /// [`Error::Storage`]: they could not be counted. One that cannot be read is counted, and its age is not known.
    pub(crate) async fn of(asker: &Bound<'_>, gateway: &Gateway) -> Result<Self, Error> {
        let filter = PaymentFilter { has_unknown: true, ..PaymentFilter::default() };
        let page = asker.payments(&filter, PageRequest::last(PageRequest::LIMIT_MAX)).await?;
        let mut oldest: Option<Timestamp> = None;
        for payment in &page.data {
            match asker.payment(payment.id).await {
                Ok(state) => {
                    let since = state.and_then(|state| since(&state));
                    oldest = [oldest, since].into_iter().flatten().min();
                }
                Err(error) => {
                    tracing::warn!(%error, payment = %payment.id, "a payment of unknown outcome could not be read");
                }
            }
        }
        let now = gateway.env().now();
        let oldest = oldest.map(|since| now.since(since));
        Ok(Self { count: page.data.len(), has_more: page.has_more, oldest })
    }
}

/// When the first of a payment's operations was sent of which nobody knows what became.
fn since(state: &PaymentState) -> Option<Timestamp> {
    let unknown =
        state.operations.iter().filter(|operation| operation.state == OperationState::Unknown);
    unknown.map(|operation| operation.first_dispatched_at.unwrap_or(operation.created_at)).min()
}

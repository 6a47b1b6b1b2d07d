//! Storage: the only durable truth. One write, `commit`; everything else reads.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::access::{ApiKey, AuditRow, KeyPrefix};
use crate::changes::{Changes, ChangesError, Committed, Guard};
use crate::crypto::KeyName;
use crate::currency::Currency;
use crate::event::{Event, EventType};
use crate::id::{DeliveryId, EndpointId, OperationId, PaymentId};
use crate::idempotency::{IdempotencyKey, KeyRecord};
use crate::page::{Page, PageRequest};
use crate::payment::{Conflict, Operation, Payment, PaymentState, PaymentStatus};
use crate::processor::Source;
use crate::queue::{Job, Lane};
use crate::scope::{MerchantId, Scope};
use crate::text::CustomerId;
use crate::timestamp::Timestamp;
use crate::webhook::delivery::DeliveryStatus;
use crate::webhook::{Attempt, Delivery, DeliveryWork, Endpoint};

/// The durable truth.
///
/// # Contract
/// `commit` applies a [`Changes`] whole or not at all; every read sees whole commits only.
///
/// # Atomicity
/// After an error other than [`StorageError::Indeterminate`] nothing was written. After `Indeterminate` all of it was
/// or nothing was; asking again with the same `Changes` tells: the guards of an applied one no longer hold.
///
/// # Guards
/// In this order: [`Changes::check`]; the guards, the first that fails is named by [`StorageError::Conflict`]; the claim. A
/// key that was claimed before answers [`Committed::Replayed`] or [`Committed::InFlight`] when the fingerprint is
/// the same and [`StorageError::KeyReused`] when it is not, **even when a guard fails too**: a replay is a replay
/// whatever has become of the payment since. Of concurrent commits with one guard, at most one is applied; of
/// concurrent commits with one key, exactly one.
///
/// # Writes
/// Of two writes of one row in one commit the later counts. What others refer to is written first, and endpoints last.
///
/// # Deliveries
/// An event committed creates, in the same commit, one [`Delivery`] for each endpoint of its scope that
/// [hears](Endpoint::hears) its type: endpoints as they were before the commit, less those the commit disables or
/// deletes. They are pending, due at once, version 1, without attempts.
///
/// One committed by [`Write::EventTo`](crate::changes::Write::EventTo) creates one such delivery, to the endpoint it names,
/// whatever that endpoint's filters: unless it was not enabled before the commit, or the commit disables or deletes it; then there is
/// none. An endpoint that does not exist before the commit is [`StorageError::Missing`]. In the timeline and the feed it is an event
/// like any other.
///
/// # Visibility
/// What was committed is seen by every read that starts afterwards, through this handle and its clones.
///
/// # Ordering
/// Lists are newest first by (`created_at`, id). Timelines and operations are oldest first, by sequence and by the order they were
/// written. [`stamp_events`](Self::stamp_events) gives each event of a merchant and mode a position, dense from 1, and an event
/// stamped later never has a lower one.
///
/// # Due work
/// `due_in` of a write is added to the backend's own clock. [`due`](Self::due) and [`due_jobs`](Self::due_jobs) judge by that clock.
/// Storage knows nothing of claims unless its rows are the queue.
///
/// # Parked deliveries
/// A delivery that is due by its row is parked, [`DueWork::Parked`], while its endpoint is enabled and paused
/// ([`Write::Pause`](crate::changes::Write::Pause); every [`Write::Endpoint`](crate::changes::Write::Endpoint) without one ends the pause), or
/// orders [by payment](crate::webhook::Ordering::ByPayment) and has not yet taken or given up an event of the same payment with a lower
/// sequence; with [`Park`](crate::webhook::WhenExhausted::Park), given up is not enough.
/// [`due_jobs`](Self::due_jobs) leaves parked ones out.
///
/// # Errors
/// Reads that find nothing answer `None` or an empty page. [`StorageError`] says what to do: see
/// [`StorageError::is_retryable`].
///
/// # Cancel safety
/// A dropped `commit` was applied or was not, whole. No dropped future leaves anything behind.
///
/// # Limits
/// Every list is bounded by its page or its `limit`. A backend that can fill up says [`StorageError::Full`]
/// and stays readable.
///
/// # Implementing
/// Run the conformance suite (`pgw_core::testing::conformance`). Wrappers implement every method
/// (`#[deny(clippy::missing_trait_methods)]`).
#[async_trait]
pub trait Storage: fmt::Debug + Send + Sync {
    /// Applies changes, whole or not at all.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn commit(&self, changes: Changes) -> Result<Committed, StorageError>;

    /// A payment with its operations.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn payment(
        &self,
        scope: &Scope,
        id: PaymentId,
    ) -> Result<Option<PaymentState>, StorageError>;

    /// The payment that an operation belongs to, with all of its operations.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn payment_of(
        &self,
        scope: &Scope,
        operation: OperationId,
    ) -> Result<Option<PaymentState>, StorageError>;

    /// Payments, newest first.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn payments(
        &self,
        scope: &Scope,
        filter: &PaymentFilter,
        page: PageRequest,
    ) -> Result<Page<Payment>, StorageError>;

    /// Refunds, newest first.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn refunds(
        &self,
        scope: &Scope,
        payment: Option<PaymentId>,
        page: PageRequest,
    ) -> Result<Page<Operation>, StorageError>;

    /// What a key was claimed for.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn key(
        &self,
        scope: &Scope,
        key: &IdempotencyKey,
    ) -> Result<Option<KeyRecord>, StorageError>;

    /// A payment's conflicts, oldest first, closed ones too.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn conflicts(
        &self,
        scope: &Scope,
        payment: PaymentId,
    ) -> Result<Vec<Conflict>, StorageError>;

    /// A payment's events in order of their sequence, from `after` on, at most `limit`.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn payment_events(
        &self,
        scope: &Scope,
        payment: PaymentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError>;

    /// Stamped events with a position above `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn feed(
        &self,
        scope: &Scope,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Event>, StorageError>;

    /// Stamps up to `limit` events, of any merchant, that have no position yet; says how many. Any number of callers at once.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn stamp_events(&self, limit: usize) -> Result<usize, StorageError>;

    /// Where a consumer's cursor stands; 0 when it never moved.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn cursor(&self, scope: &Scope, consumer: &str) -> Result<u64, StorageError>;

    /// An endpoint, deleted ones too.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn endpoint(
        &self,
        scope: &Scope,
        id: EndpointId,
    ) -> Result<Option<Endpoint>, StorageError>;

    /// Endpoints, newest first, without deleted ones.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn endpoints(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StorageError>;

    /// A delivery with its event and endpoint.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn delivery(
        &self,
        scope: &Scope,
        id: DeliveryId,
    ) -> Result<Option<DeliveryWork>, StorageError>;

    /// Endpoints of any merchant, deleted ones too, that are not [sealed with](Endpoint::sealed_with) this key, in the order of their ids from
    /// `after` on, at most `limit`: what is still to be sealed anew.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn endpoints_sealed_otherwise(
        &self,
        active: &KeyName,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Endpoint>, StorageError>;

    /// Deliveries, newest first.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn deliveries(
        &self,
        scope: &Scope,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StorageError>;

    /// A delivery's attempts, oldest first, at most `limit` of the latest.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn attempts(
        &self,
        scope: &Scope,
        delivery: DeliveryId,
        limit: usize,
    ) -> Result<Vec<Attempt>, StorageError>;

    /// The rows a job points to, if its row is due now; `None` kills a stale job. A delivery whose turn it is not yet is
    /// [`DueWork::Parked`].
    ///
    /// # Errors
    /// [`StorageError`].
    async fn due(&self, job: &Job) -> Result<Option<DueWork>, StorageError>;

    /// What [`due`](Self::due) answers for each of these jobs, in their order, in one go where the backend can.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn due_all(&self, jobs: &[Job]) -> Result<Vec<Option<DueWork>>, StorageError> {
        let mut found = Vec::with_capacity(jobs.len());
        for job in jobs {
            found.push(self.due(job).await?);
        }
        Ok(found)
    }

    /// Jobs of a lane whose rows are due now, longest due first, at most `limit`: what a queue may have lost.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn due_jobs(&self, lane: Lane, limit: usize) -> Result<Vec<Job>, StorageError>;

    /// Payments whose time ran out before `now` while they wait or are held ([`PaymentStatus::Pending`],
    /// [`PaymentStatus::RequiresAction`], [`PaymentStatus::Authorized`]) and that have no cancel under way, at most `limit`.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn expired_payments(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Scope, PaymentId)>, StorageError>;

    /// Drops up to `limit` stored answers of keys claimed before `before`; says how many. Claims stay for ever.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn purge_answers(&self, before: Timestamp, limit: usize) -> Result<usize, StorageError>;

    /// The API key with this prefix, of any merchant.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn api_key(&self, prefix: KeyPrefix) -> Result<Option<ApiKey>, StorageError>;

    /// A merchant's audit rows of both modes, newest first.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn audit(
        &self,
        merchant: &MerchantId,
        page: PageRequest,
    ) -> Result<Page<AuditRow>, StorageError>;
}

/// Which payments. Every field that is set must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PaymentFilter {
    /// With this status.
    pub status: Option<PaymentStatus>,
    /// Of this customer.
    pub customer: Option<CustomerId>,
    /// In this currency.
    pub currency: Option<Currency>,
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
    /// Made under this idempotency key.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// Which deliveries. Every field that is set must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryFilter {
    /// With this status.
    pub status: Option<DeliveryStatus>,
    /// To this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Of this type of event.
    pub event_type: Option<EventType>,
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
}

/// What a job is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DueWork {
    /// The payment of the operation.
    Operation(Box<PaymentState>),
    /// The delivery.
    Delivery(Box<DeliveryWork>),
    /// It is a delivery's, and not its turn: its endpoint is paused, or an earlier event of its payment comes first.
    Parked {
        /// When to look again, by the backend's clock: when the pause is over or the earlier one is due. At most an hour.
        look_in: Duration,
    },
}

/// Why storage did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// A guard does not hold: somebody else was faster. Load again, plan again.
    #[error("the {} was changed meanwhile", guard_subject(.0))]
    Conflict(Guard),
    /// The idempotency key stands for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// It was applied or it was not: the connection was lost at the wrong moment.
    #[error("the storage did not say whether the change was applied")]
    Indeterminate(#[source] Source),
    /// It cannot be reached; nothing was applied.
    #[error("the storage cannot be reached")]
    Unavailable(#[source] Source),
    /// It is full; nothing was applied.
    #[error("the storage is full: it holds {max} {what}, as many as it may")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many it may hold.
        max: usize,
    },
    /// The changes are not ones that can be applied: a mistake in the plan. Please report it.
    #[error("the change cannot be applied; this is a bug in pgw or in a custom plan")]
    Invalid(#[source] ChangesError),
    /// A write refers to a row that is not there: a mistake in the plan. Please report it.
    #[error(
        "the change refers to a {0} that does not exist; this is a bug in pgw or in a custom plan"
    )]
    Missing(&'static str),
    /// A stored row is not one that this version writes: it was changed by hand, or by a later version.
    #[error("the storage holds a row that cannot be read")]
    Corrupt(#[source] Source),
    /// The backend cannot do this here, for a reason it names.
    #[error("the storage cannot do this: {0}")]
    Unsupported(&'static str),
}

impl StorageError {
    /// Whether trying again can help: at once with newly loaded rows after a conflict, a little later otherwise.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Indeterminate(_) | Self::Unavailable(_))
    }
}

fn guard_subject(guard: &Guard) -> &'static str {
    match guard {
        Guard::Payment { .. } => "payment",
        Guard::Delivery { .. } => "delivery",
        Guard::Endpoint { .. } => "endpoint",
        Guard::ApiKey { .. } => "API key",
        Guard::Cursor { .. } => "cursor",
    }
}

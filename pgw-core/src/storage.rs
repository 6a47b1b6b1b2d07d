//! Storage: the only durable truth. One write, `commit`; everything else reads.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::access::{
    Actor, ApiKey, AuditAction, AuditObject, AuditOutcome, AuditRow, AuditSeal, AuditTail,
    KeyPrefix, LoggedRow, Shield,
};
use crate::changes::{Changes, ChangesError, Committed, Guard};
use crate::crypto::KeyName;
use crate::currency::Currency;
use crate::event::{Event, EventType};
use crate::id::{DeliveryId, EndpointId, ErasureId, KeyId, OperationId, PaymentId};
use crate::idempotency::{IdempotencyKey, KeyRecord};
use crate::page::{Cursor, Page, PageRequest};
use crate::payment::{Conflict, Operation, Payment, PaymentState, PaymentStatus};
use crate::privacy::{Consent, ConsentHolder, CustomerDigest, ErasureProgress};
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
/// # Erasure
/// [`Write::Erase`](crate::changes::Write::Erase) marks every payment that names the customer, as of the commit, and that no erasure marked
/// before. What is committed later under the same name is not marked. From then on whatever a read, a replay or [`due`](Self::due) gives
/// of a marked payment — itself, its operations, events, attempts and answers — is what [`Redaction`](crate::privacy::Redaction) makes of it,
/// whatever is written of it, and a filter by its customer does not find it.
/// The customer's consents are the erasure's from the same commit on: kept with their dates, without their source, and a version up.
/// [`redact_payments`](Self::redact_payments) stores what reads give already, and ends the mark: the payment's version and those of its pending
/// deliveries go up by one, so that nothing which was planned from older rows can be committed. Nothing becomes due by it, and no claim ends.
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

    /// Jobs of a lane whose rows are due now, longest due first, at most `limit`: what a queue may have lost. Those that come after one of an
    /// earlier page, or the first ones. Over all pages, a job is listed once that is due all the while.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn due_page(
        &self,
        lane: Lane,
        after: Option<&DueJob>,
        limit: usize,
    ) -> Result<Vec<DueJob>, StorageError>;

    /// The jobs of the first [`due_page`](Self::due_page).
    ///
    /// # Errors
    /// [`StorageError`].
    async fn due_jobs(&self, lane: Lane, limit: usize) -> Result<Vec<Job>, StorageError> {
        let page = self.due_page(lane, None, limit).await?;
        Ok(page.into_iter().map(|due| due.job).collect())
    }

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

    /// An erasure and how far it is.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn erasure(
        &self,
        scope: &Scope,
        id: ErasureId,
    ) -> Result<Option<ErasureProgress>, StorageError>;

    /// Erasures, newest first, of one customer or of all.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn erasures(
        &self,
        scope: &Scope,
        customer: Option<CustomerDigest>,
        page: PageRequest,
    ) -> Result<Page<ErasureProgress>, StorageError>;

    /// Consents, oldest first by (`given_at`, id), withdrawn ones too, at most `limit`.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn consents(
        &self,
        scope: &Scope,
        holder: ConsentHolder,
        limit: usize,
    ) -> Result<Vec<Consent>, StorageError>;

    /// What payments that are not marked name as their customers, each once, in an order of the backend's own from `after` on, at most `limit`.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn customers(
        &self,
        scope: &Scope,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Vec<CustomerId>, StorageError>;

    /// Rewrites up to `limit` marked payments of any merchant, each with everything that hangs on it; says how many. `at` is when, for
    /// the record. Any number of callers at once.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn redact_payments(&self, at: Timestamp, limit: usize) -> Result<usize, StorageError>;

    /// The API key with this prefix, of any merchant.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn api_key(&self, prefix: KeyPrefix) -> Result<Option<ApiKey>, StorageError>;

    /// An API key, a revoked one too.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn api_key_by_id(&self, scope: &Scope, id: KeyId)
    -> Result<Option<ApiKey>, StorageError>;

    /// API keys, newest first, revoked ones too.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn api_keys(
        &self,
        scope: &Scope,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StorageError>;

    /// Notes that an API key was used at this time: changes [`ApiKey::last_used_at`] and nothing else, never back to an earlier time. A key
    /// that is not there, or that somebody is changing at this moment, is passed over.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn touch_api_key(
        &self,
        scope: &Scope,
        id: KeyId,
        at: Timestamp,
    ) -> Result<(), StorageError>;

    /// The shield, unless it has the version that is known already: then `None`. One that was never written has version 0.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn shield(&self, known: Option<u64>) -> Result<Option<Shield>, StorageError>;

    /// A merchant's audit rows of both modes, newest first.
    ///
    /// The time narrows the look; every other part of the filter is judged row by row, and no page looks at more than
    /// [`AuditFilter::LOOK_MAX`] rows. A page that ends for that reason may be short, even empty, while `has_more` is true: its cursor is
    /// the last row that was looked at.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn audit(
        &self,
        merchant: &MerchantId,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditRow>, StorageError>;

    /// A merchant's audit rows of both modes in the order of their places (time, id): those after `after`, if there is one, up to
    /// `through` itself, at most `limit`. One that cannot be read is there without its contents.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn audit_rows(
        &self,
        merchant: &MerchantId,
        after: Option<Cursor>,
        through: Cursor,
        limit: usize,
    ) -> Result<Vec<LoggedRow>, StorageError>;

    /// A merchant's seals with a number above `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn audit_seals(
        &self,
        merchant: &MerchantId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditSeal>, StorageError>;

    /// The ends of the logs of merchants that have audit rows, in an order of the backend's own, those behind `after` in it, at most
    /// `limit`.
    ///
    /// # Errors
    /// [`StorageError`].
    async fn audit_tails(
        &self,
        after: Option<&MerchantId>,
        limit: usize,
    ) -> Result<Vec<AuditTail>, StorageError>;
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
    /// When set, only those with an operation whose outcome is unknown: not the charge's alone, which the status tells, but also a capture's,
    /// a cancel's or a refund's.
    pub has_unknown: bool,
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

/// Which audit rows. Every field that is set must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// At or after.
    pub from: Option<Timestamp>,
    /// Before.
    pub before: Option<Timestamp>,
    /// By this actor.
    pub actor: Option<Actor>,
    /// What was done.
    pub action: Option<AuditAction>,
    /// To this object.
    pub object: Option<AuditObject>,
    /// Whether it worked.
    pub outcome: Option<AuditOutcome>,
}

impl AuditFilter {
    /// Most rows that one page looks at: some tens of milliseconds. Only the time has an index, because every index of the log costs
    /// every payment.
    pub const LOOK_MAX: usize = 10_000;

    /// Whether a row is of the actor, action, object and outcome that are asked for.
    #[must_use]
    pub fn matches(&self, row: &AuditRow) -> bool {
        self.actor.as_ref().is_none_or(|actor| *actor == row.actor)
            && self.action.is_none_or(|action| action == row.action)
            && self.object.as_ref().is_none_or(|object| *object == row.object)
            && self.outcome.is_none_or(|outcome| outcome == row.outcome)
    }
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

/// A job whose row is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueJob {
    /// The job.
    pub job: Job,
    /// Since when, by the backend's clock.
    pub since: Timestamp,
    /// For how long, by the same clock.
    pub due_for: Duration,
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
        Guard::Customer { .. } => "customer",
        Guard::Consent { .. } => "consent",
        Guard::Cursor { .. } => "cursor",
        Guard::Shield { .. } => "shield",
        Guard::Seals { .. } => "chain of seals",
    }
}

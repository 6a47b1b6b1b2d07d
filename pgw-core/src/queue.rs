//! The queue: who does which job when. It may be lost at any moment; the rows in storage are the truth.

mod fallback;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::id::{DeliveryId, OperationId, PaymentId};
use crate::payment::Fence;
use crate::processor::Source;
use crate::scope::Scope;

pub use fallback::FallbackQueue;

/// A queue of pointers to due rows.
///
/// # Contract
/// A pushed job is claimed once its delay is over, by one claimer at a time, until it is settled. Running a job twice is
/// harmless (the row's version kills the second), so a queue may lose everything and may give a job twice
/// after a lease ran out; it must not give it to two claimers whose leases both hold.
///
/// # Push
/// Pushing a job that is already there makes one of the two: of two waiting ones the earlier due time stays; one pushed
/// while it is claimed waits until the claim is settled. A buried one waits again, as one that was never claimed: its row was written since.
/// A backend whose queue is the due rows themselves ignores pushes.
///
/// # Restore
/// Restoring a job that is not there pushes it, due now. One that is there stays as it is, unless its row became due after it was put
/// where it is: then one that waits is due now, and one that is claimed waits until the claim is settled. One that was postponed is due now
/// in any case: it waits for its turn, and whoever says that its row is due knows better. A buried job stays buried.
/// A backend whose queue is the due rows themselves has lost nothing.
///
/// # Claim
/// A claim holds a job for a lease, under a [`Fence`] no other claim has. When the lease runs out the job may be claimed
/// again. Jobs are claimed in the order they are due. A claim never returns more than it was asked for, nor jobs
/// of another lane, and does not wait when there is nothing.
///
/// # Fairness
/// Of one endpoint's deliveries at most [`PER_ENDPOINT_MAX`] are held at a time: a claim gives out no more. Those behind them that
/// belong to other endpoints are given out all the same, in the order they are due. A claim that was settled, or whose lease ran out,
/// makes room again; one that is extended keeps its room, and takes it back where its lease had run out, whoever is there by now. An
/// endpoint is one of its scope. Operations have no such bound.
///
/// A backend of several processes may pass the bound by what claims made at the same moment cannot see of each other.
///
/// # Extend and settle
/// Both check the fence. A lease that ran out and was not claimed anew can still be extended and settled by its holder. The holder of a lease that ran out and was claimed anew can neither extend nor settle; each says so
/// with `false` and changes nothing. What another transaction is just changing need not be waited for: its holder is told as before, and keeps
/// the lease there is.
///
/// # Time
/// Delays and leases are durations that the backend adds to its own clock.
///
/// # Errors
/// [`QueueError::Unavailable`]; the caller falls back to polling storage.
///
/// # Cancel safety
/// A dropped future happened or did not; a claim nobody heard of ends with its lease.
///
/// # Limits
/// Holds a bounded number of jobs; a push beyond it is [`QueueError::Full`] and the reaper pushes again.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync {
    /// Adds jobs, each due after its delay.
    ///
    /// # Errors
    /// [`QueueError`]; others than the one that failed may have been added.
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError>;

    /// Adds jobs whose rows have been due for so long and that may have been lost. Says how many were; `None`: nothing can be lost, because the
    /// queue is the due rows themselves.
    ///
    /// # Errors
    /// [`QueueError`]; jobs before the one that failed may have been added.
    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError>;

    /// Claims up to `max` due jobs of a lane for `lease`.
    ///
    /// # Errors
    /// [`QueueError`].
    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError>;

    /// Holds claims for `lease` from now; says of each whether it was still held.
    ///
    /// # Errors
    /// [`QueueError`].
    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError>;

    /// Ends claims; says of each whether it was still held.
    ///
    /// # Errors
    /// [`QueueError`].
    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError>;

    /// Says that a worker of this process claims no more of a lane: a queue that keeps jobs at hand for it gives them back. Others of this
    /// process may go on claiming. A queue around another passes it on.
    ///
    /// # Errors
    /// [`QueueError`]; then they are given out again when their leases run out.
    async fn leave(&self, _lane: Lane) -> Result<(), QueueError> {
        Ok(())
    }

    /// How full it is.
    ///
    /// # Errors
    /// [`QueueError`].
    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError>;
}

/// Most deliveries of one endpoint that are held at a time: enough to keep an endpoint that answers busy, few enough that one that does
/// not cannot take all the workers of a process: those are 512 unless it is told otherwise, and are to be more than these.
pub const PER_ENDPOINT_MAX: usize = 128;

/// A kind of work with workers of its own, so that slow endpoints never hold up payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Lane {
    /// Operations to be sent to or asked of a processor.
    Operations,
    /// Webhook deliveries.
    Deliveries,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 2] = [Self::Operations, Self::Deliveries];

    /// `operations` or `deliveries`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Deliveries => "deliveries",
        }
    }
}

/// A pointer to a due row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Job {
    /// An operation.
    Operation {
        /// Merchant and mode.
        scope: Scope,
        /// Its payment.
        payment: PaymentId,
        /// The operation.
        operation: OperationId,
    },
    /// A delivery.
    Delivery {
        /// Merchant and mode.
        scope: Scope,
        /// The delivery.
        delivery: DeliveryId,
    },
}

impl Job {
    /// The lane it is done in.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        match self {
            Self::Operation { .. } => Lane::Operations,
            Self::Delivery { .. } => Lane::Deliveries,
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        match self {
            Self::Operation { scope, .. } | Self::Delivery { scope, .. } => scope,
        }
    }
}

/// A job, held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub job: Job,
    /// Tells this claim from every other.
    pub fence: Fence,
    /// How often the job was claimed since it was pushed, this time included.
    pub claims: u32,
}

/// How a claim ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The claim.
    pub claim: Claim,
    /// What becomes of the job.
    pub verdict: Verdict,
}

/// What becomes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Done: forget it. A job pushed again meanwhile stays.
    Done,
    /// Not done: due again after this long.
    Release {
        /// How long.
        due_in: Duration,
    },
    /// Done or to be done again, as the commit says that wrote the job's row: due again after this long, or forgotten. That write ended the
    /// claim where the rows are the queue; such a queue has nothing left to do and answers `true`.
    Committed {
        /// How long.
        due_in: Option<Duration>,
    },
    /// Not its turn: due again after this long, and the claim does not count, so that waiting is never taken for poison.
    Postpone {
        /// How long.
        due_in: Duration,
    },
    /// Poison: set aside with the reason, never claimed again.
    Bury {
        /// Why; no personal data.
        reason: Box<str>,
    },
}

/// How full a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Due and not claimed.
    pub ready: u64,
    /// Due later.
    pub delayed: u64,
    /// Claimed.
    pub in_flight: u64,
    /// Buried.
    pub dead: u64,
    /// How long the oldest ready job has been due.
    pub oldest: Duration,
}

/// Why a queue did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// It cannot be reached.
    #[error("the queue cannot be reached")]
    Unavailable(#[source] Source),
    /// It holds as many jobs as it may.
    #[error("the queue holds {max} jobs, as many as it may")]
    Full {
        /// How many it may hold.
        max: usize,
    },
}

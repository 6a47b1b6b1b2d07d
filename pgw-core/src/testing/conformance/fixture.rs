//! Fixtures: how a backend hands itself to the suite. What the suite then does is in its neighbours.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::notifier::Notifier;
use crate::queue::Queue;
use crate::rate_limit::RateLimiter;
use crate::storage::Storage;

/// A storage to be tested, empty when the fixture is made.
#[async_trait]
pub trait StorageFixture: Send + Sync {
    /// A handle on the storage under test. Every call gives one on the same data; give independent connections
    /// where the backend has them.
    async fn storage(&self) -> Arc<dyn Storage>;

    /// Moves the backend's own clock forward. A backend must let its fixture do this, by an offset or a clock that is handed in:
    /// nothing here waits for real time to pass.
    async fn advance(&self, by: Duration);

    /// Whether a commit reports the jobs it made due.
    fn due_hints(&self) -> DueHints;

    /// Another storage, one that is full after at most [`SMALL`] payments with a charge and an event each; `None` for
    /// a backend without a bound of its own.
    async fn small_storage(&self) -> Option<Arc<dyn Storage>> {
        None
    }
}

/// Whether [`Committed::Applied`](crate::changes::Committed::Applied) names every job the commit made due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueHints {
    /// All of them.
    Complete,
    /// Some or none: the backend's queue is its rows, or it does not know.
    Partial,
}

/// A queue to be tested, empty when the fixture is made.
#[async_trait]
pub trait QueueFixture: Send + Sync {
    /// A handle on the queue under test. Every call gives one on the same jobs.
    async fn queue(&self) -> Arc<dyn Queue>;

    /// Moves the backend's own clock forward; see [`StorageFixture::advance`].
    async fn advance(&self, by: Duration);

    /// Where the queue's jobs come from.
    async fn source(&self) -> JobSource;

    /// Another queue, one that holds at most [`SMALL`] jobs; `None` for a backend whose queue is its rows.
    async fn small_queue(&self) -> Option<Arc<dyn Queue>> {
        None
    }
}

/// Where a queue's jobs come from.
#[derive(Debug, Clone)]
pub enum JobSource {
    /// They are pushed.
    Pushed,
    /// They are the due rows of this storage; pushes are ignored. The suite makes jobs by committing rows.
    Rows(Arc<dyn Storage>),
}

/// A notifier to be tested, without subscriptions when the fixture is made. It must lose nothing that fits its
/// buffers: the suite runs against a healthy backend.
#[async_trait]
pub trait NotifierFixture: Send + Sync {
    /// A handle on the notifier under test. What is published through one is heard through all.
    async fn notifier(&self) -> Arc<dyn Notifier>;

    /// How many unread hints are surely more than a subscription keeps.
    fn overflow(&self) -> usize;
}

/// A rate limiter to be tested, without history when the fixture is made.
#[async_trait]
pub trait RateLimiterFixture: Send + Sync {
    /// A handle on the limiter under test. Every call gives one that counts together with the others.
    async fn limiter(&self) -> Arc<dyn RateLimiter>;

    /// Moves the backend's own clock forward; see [`StorageFixture::advance`].
    async fn advance(&self, by: Duration);
}

/// How little a small backend holds: few enough to fill in a test.
pub const SMALL: usize = 16;

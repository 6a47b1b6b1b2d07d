//! Fixtures of the conformance suite: each backend on a clock that tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::Clock;
use pgw_core::notifier::Notifier;
use pgw_core::queue::Queue;
use pgw_core::rate_limit::RateLimiter;
use pgw_core::storage::Storage;
use pgw_core::testing::conformance::{
    DueHints, JobSource, NotifierFixture, QueueFixture, RateLimiterFixture, SMALL, StorageFixture,
};
use pgw_core::timestamp::Timestamp;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryRateLimiter, MemoryStorage};

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicI64);

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_768_564_800_000_000)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).expect("tests move it by years at most");
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

pub(crate) struct StorageUnderTest {
    clock: Arc<ManualClock>,
    storage: MemoryStorage,
}

impl StorageUnderTest {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        let storage = MemoryStorage::builder().with_clock(Arc::clone(&clock) as _).build();
        Self { clock, storage }
    }
}

#[async_trait]
impl StorageFixture for StorageUnderTest {
    async fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.storage.clone())
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn due_hints(&self) -> DueHints {
        DueHints::Complete
    }

    async fn small_storage(&self) -> Option<Arc<dyn Storage>> {
        Some(Arc::new(MemoryStorage::builder().with_payments_max(SMALL).build()))
    }
}

pub(crate) struct QueueUnderTest {
    clock: Arc<ManualClock>,
    queue: MemoryQueue,
}

impl QueueUnderTest {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        let queue = MemoryQueue::builder().with_clock(Arc::clone(&clock) as _).build();
        Self { clock, queue }
    }
}

#[async_trait]
impl QueueFixture for QueueUnderTest {
    async fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.queue.clone())
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn source(&self) -> JobSource {
        JobSource::Pushed
    }

    async fn small_queue(&self) -> Option<Arc<dyn Queue>> {
        Some(Arc::new(MemoryQueue::builder().with_jobs_max(SMALL).build()))
    }
}

pub(crate) struct NotifierUnderTest(MemoryNotifier);

impl NotifierUnderTest {
    pub(crate) fn new() -> Self {
        Self(MemoryNotifier::new())
    }
}

#[async_trait]
impl NotifierFixture for NotifierUnderTest {
    async fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::new(self.0.clone())
    }

    fn overflow(&self) -> usize {
        MemoryNotifier::UNREAD_MAX + 1
    }
}

pub(crate) struct RateLimiterUnderTest {
    clock: Arc<ManualClock>,
    limiter: MemoryRateLimiter,
}

impl RateLimiterUnderTest {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        let limiter = MemoryRateLimiter::builder().with_clock(Arc::clone(&clock) as _).build();
        Self { clock, limiter }
    }
}

#[async_trait]
impl RateLimiterFixture for RateLimiterUnderTest {
    async fn limiter(&self) -> Arc<dyn RateLimiter> {
        Arc::new(self.limiter.clone())
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}

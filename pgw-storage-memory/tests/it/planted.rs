//! Planted bugs that break a sentence of a backend's contract and nothing that a gateway promises: the conformance suite sees each.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::queue::Queue;
use pgw_core::storage::Storage;
use pgw_core::testing::conformance::{
    DueHints, JobSource, QueueFixture, StorageFixture, queue, storage_parked,
};
use pgw_core::testing::mutants::{Bug, Mutant};

use crate::fixtures::{QueueUnderTest, StorageUnderTest};

/// What the fixture inside gives, with a bug in it; all handles share what the bug remembers.
struct Planted<F, T: ?Sized> {
    inner: F,
    part: Arc<T>,
}

#[async_trait]
impl QueueFixture for Planted<QueueUnderTest, dyn Queue> {
    async fn queue(&self) -> Arc<dyn Queue> {
        Arc::clone(&self.part)
    }

    async fn advance(&self, by: Duration) {
        QueueFixture::advance(&self.inner, by).await;
    }

    async fn source(&self) -> JobSource {
        self.inner.source().await
    }
}

#[async_trait]
impl StorageFixture for Planted<StorageUnderTest, dyn Storage> {
    async fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.part)
    }

    async fn advance(&self, by: Duration) {
        StorageFixture::advance(&self.inner, by).await;
    }

    fn due_hints(&self) -> DueHints {
        self.inner.due_hints()
    }
}

async fn queue_with(bug: Bug) -> Planted<QueueUnderTest, dyn Queue> {
    let inner = QueueUnderTest::new();
    let part: Arc<dyn Queue> = Arc::new(Mutant::new(inner.queue().await, bug));
    Planted { inner, part }
}

#[tokio::test]
#[should_panic = "there is one job to claim"]
async fn a_queue_that_forgets_what_was_postponed() {
    let planted = queue_with(Bug::PostponedForgotten).await;
    queue::a_postponed_job_is_due_again_and_its_claim_does_not_count(&planted).await;
}

#[tokio::test]
#[should_panic = "it is due by its row: None"]
async fn a_storage_that_wakes_nothing() {
    let inner = StorageUnderTest::new();
    let part: Arc<dyn Storage> = Arc::new(Mutant::new(inner.storage().await, Bug::WakeLost));
    storage_parked::a_wake_makes_the_next_one_due(&Planted { inner, part }).await;
}

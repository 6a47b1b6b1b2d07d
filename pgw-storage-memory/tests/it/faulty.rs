//! The fault wrappers, with their faults off, over every backend: what they wrap keeps its contract.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::notifier::Notifier;
use pgw_core::queue::Queue;
use pgw_core::storage::Storage;
use pgw_core::testing::conformance::{
    DueHints, JobSource, NotifierFixture, QueueFixture, StorageFixture,
};
use pgw_core::testing::crash::Life;
use pgw_core::testing::faults::{Faults, Faulty};

/// A fixture whose every handle is wrapped.
pub(crate) struct Wrapped<F>(pub(crate) F);

fn wrapped<T: ?Sized>(inner: Arc<T>) -> Arc<Faulty<T>> {
    Arc::new(Faulty::new(inner, Faults::off(), Life::new()))
}

#[async_trait]
impl<F: StorageFixture> StorageFixture for Wrapped<F> {
    async fn storage(&self) -> Arc<dyn Storage> {
        wrapped(self.0.storage().await)
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by).await;
    }

    fn due_hints(&self) -> DueHints {
        self.0.due_hints()
    }

    async fn small_storage(&self) -> Option<Arc<dyn Storage>> {
        self.0.small_storage().await.map(|small| wrapped(small) as Arc<dyn Storage>)
    }
}

#[async_trait]
impl<F: QueueFixture> QueueFixture for Wrapped<F> {
    async fn queue(&self) -> Arc<dyn Queue> {
        wrapped(self.0.queue().await)
    }

    async fn advance(&self, by: Duration) {
        self.0.advance(by).await;
    }

    async fn source(&self) -> JobSource {
        self.0.source().await
    }

    async fn small_queue(&self) -> Option<Arc<dyn Queue>> {
        self.0.small_queue().await.map(|small| wrapped(small) as Arc<dyn Queue>)
    }
}

#[async_trait]
impl<F: NotifierFixture> NotifierFixture for Wrapped<F> {
    async fn notifier(&self) -> Arc<dyn Notifier> {
        wrapped(self.0.notifier().await)
    }

    fn overflow(&self) -> usize {
        self.0.overflow()
    }
}

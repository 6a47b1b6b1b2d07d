//! The backend that simulations run on: pgw-storage-memory, whole.

use std::sync::Arc;

use pgw_core::env::{Clock, Entropy};
use pgw_core::notifier::Notifier;
use pgw_core::queue::Queue;
use pgw_core::storage::Storage;
use pgw_core::testing::simulation::Backend;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

/// A new world's memory.
#[must_use]
pub fn in_memory(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Box<dyn Backend> {
    Box::new(InMemory {
        storage: MemoryStorage::builder().with_clock(Arc::clone(&clock)).build(),
        queue: MemoryQueue::builder().with_clock(clock).with_entropy(entropy).build(),
        notifier: MemoryNotifier::new(),
    })
}

#[derive(Debug)]
struct InMemory {
    storage: MemoryStorage,
    queue: MemoryQueue,
    notifier: MemoryNotifier,
}

impl Backend for InMemory {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.storage.clone())
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.queue.clone())
    }

    fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::new(self.notifier.clone())
    }

    fn lose_queue(&self) -> bool {
        self.queue.clear();
        true
    }
}

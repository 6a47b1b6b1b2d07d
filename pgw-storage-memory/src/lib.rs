//! pgw-storage-memory: pgw's embedded default. Storage, queue, notifier and rate limiter in this process's memory.
//!
//! Everything is there, from idempotency to webhooks, and nothing outlives the process: for tests, for development, and for
//! hosts whose payments need not. The same traits over other backends keep data for good.
//!
//! [`MemoryQueue`], [`MemoryNotifier`] and [`MemoryRateLimiter`] go with any storage as long as there is one process.

mod apply;
mod check;
mod clock;
mod dump;
mod erasures;
mod index;
mod list;
mod notifier;
mod parking;
mod payment_row;
mod queue;
mod rate_limit;
mod rows;
mod storage;
mod sync;
mod tables;

pub use notifier::MemoryNotifier;
pub use queue::{MemoryQueue, MemoryQueueBuilder};
pub use rate_limit::{MemoryRateLimiter, MemoryRateLimiterBuilder};
pub use storage::{MemoryStorage, MemoryStorageBuilder};

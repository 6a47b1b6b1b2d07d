//! pgw on Redis: accelerators beside a durable storage. Whatever Redis loses is found again in the rows.
//!
//! | | |
//! |---|---|
//! | [`Redis`] | one node, the master that Sentinels name, or a Cluster: one connection, made again when it is lost |
//! | [`RedisQueue`] | who does which job when, in Redis: a claim writes nothing to the storage |
//! | [`RedisNotifier`] | hints between processes by pub/sub, on a Cluster by sharded pub/sub |
//! | [`RedisRateLimiter`] | GCRA in one script, exact over any number of processes |
//!
//! # Start
//!
//! ```no_run
//! use std::sync::Arc;
//! use pgw_core::gateway::Gateway;
//! use pgw_core::queue::{FallbackQueue, Queue};
//! use pgw_core::storage::Storage;
//! use pgw_redis::Redis;
//!
//! # fn f(storage: Arc<dyn Storage>, rows: Arc<dyn Queue>) -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Redis::node("redis://cache.internal").build()?;
//! // `rows` is the storage's own queue. It is claimed from while Redis is away. With pgw-storage-postgres use `pg.queue_behind` instead: there, operations of
//! // new payments are handed to workers of their process, and need not go by Redis.
//! let queue = FallbackQueue::new(Arc::new(redis.queue()), rows);
//! let gateway = Gateway::builder()
//!     .with_queue(Arc::new(queue))
//!     .with_notifier(Arc::new(redis.notifier()))
//!     .with_storage(storage)
//!     .build()?;
//! # Ok(()) }
//! ```
//!
//! # What Redis is trusted with
//!
//! Pointers (merchant, mode, ids of payments, operations, events and endpoints), digests of the names that are counted, hints. No amounts, no
//! texts, no personal data, no secrets. All keys are `pgw:{…}:…`, those of one script in one slot.
//!
//! # When Redis is away
//!
//! The first call that finds out costs one timeout (1 s by default); a task then tries to connect, and every call fails at once until it has.
//! Payments are accepted all the same, because they are rows before anybody tells the queue. Jobs are claimed from the fallback; hints are missed
//! and polling finds the work; the rate limiter has no decision, and the caller's setting says whether that admits.
//!
//! # TLS
//!
//! With the feature `tls`, `rediss://` connects by rustls on ring, and checks certificate and name against the system's roots or those of
//! `with_root_certificate`.

mod clock;
mod error;
mod info;
mod key;
mod link;
mod member;
mod notifier;
mod pushes;
mod queue;
mod rate_limit;
mod redis;

pub use clock::ServerClock;
pub use error::{RedisConfigError, RedisError};
pub use info::NodeInfo;
pub use notifier::RedisNotifier;
pub use queue::RedisQueue;
pub use rate_limit::RedisRateLimiter;
pub use redis::{Redis, RedisBuilder};

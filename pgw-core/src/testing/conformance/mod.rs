//! The conformance suite: every sentence of the contracts of [`Storage`], [`Queue`], [`Notifier`] and [`RateLimiter`]
//! as a function that a backend passes or fails. Which backend, and what it can do, are arguments.
//!
//! A backend implements a fixture and names it in one of the macros, which makes one `#[tokio::test]` of each
//! function, so a failure says which sentence is broken:
//!
//! ```
//! # // Only the shape: the in-memory backend has a crate of its own.
//! use std::sync::Arc;
//! use std::time::Duration;
//! use pgw_core::rate_limit::RateLimiter;
//! use pgw_core::testing::conformance::RateLimiterFixture;
//!
//! struct Mine(Arc<dyn RateLimiter>);
//!
//! #[async_trait::async_trait]
//! impl RateLimiterFixture for Mine {
//!     async fn limiter(&self) -> Arc<dyn RateLimiter> {
//!         Arc::clone(&self.0)
//!     }
//!     async fn advance(&self, _by: Duration) { /* moves the clock that was handed to the limiter */ }
//! }
//!
//! # #[cfg(any())]
//! mod rate_limiter {
//!     pgw_core::rate_limiter_conformance!(super::Mine::new().await);
//! }
//! ```
//!
//! Each test makes a fixture of its own, so the backend it holds must start empty: a schema, a key prefix or an
//! instance per fixture. The crate that runs the suite needs `tokio` with `macros` and `rt`. Nothing waits for real time: a backend must let
//! its fixture move its clock.
//!
//! Passing the suite says that a backend works when all goes well. What it does when its connections break is for its
//! own tests.
//!
//! [`Storage`]: crate::storage::Storage
//! [`Queue`]: crate::queue::Queue
//! [`Notifier`]: crate::notifier::Notifier
//! [`RateLimiter`]: crate::rate_limit::RateLimiter
#![expect(
    clippy::missing_panics_doc,
    reason = "every function here panics when its sentence is broken"
)]

pub mod fixture;
pub mod notifier;
pub mod queue;
pub mod queue_fairness;
pub mod queue_push;
mod queue_support;
pub mod rate_limiter;
pub mod storage_access;
pub mod storage_audit;
pub mod storage_commit;
pub mod storage_consents;
pub mod storage_deliveries;
pub mod storage_due;
pub mod storage_erasures;
pub mod storage_events;
pub mod storage_guards;
pub mod storage_keys;
pub mod storage_lists;
pub mod storage_parked;
pub mod storage_reads;
pub mod storage_values;
mod support;
mod tables;

pub use fixture::{
    DueHints, JobSource, NotifierFixture, QueueFixture, RateLimiterFixture, SMALL, StorageFixture,
};

/// The names of every function that a storage is tested with, as `file::function`.
pub const STORAGE: &[&str] = crate::storage_conformance_table!(conformance_names!);
/// The names of every function that a queue is tested with.
pub const QUEUE: &[&str] = crate::queue_conformance_table!(conformance_names!);
/// The names of every function that a notifier is tested with.
pub const NOTIFIER: &[&str] = crate::notifier_conformance_table!(conformance_names!);
/// The names of every function that a rate limiter is tested with.
pub const RATE_LIMITER: &[&str] = crate::rate_limiter_conformance_table!(conformance_names!);

/// Tests a storage: one `#[tokio::test]` for each function of [`STORAGE`](crate::testing::conformance::STORAGE), in the
/// module it is called in. The expression makes a fresh [`StorageFixture`](crate::testing::conformance::StorageFixture);
/// it may await.
#[macro_export]
macro_rules! storage_conformance {
    ($fixture:expr) => {
        $crate::storage_conformance_table! { conformance_tests! $fixture }
    };
}

/// Tests a queue: one `#[tokio::test]` for each function of [`QUEUE`](crate::testing::conformance::QUEUE), in the module
/// it is called in. The expression makes a fresh [`QueueFixture`](crate::testing::conformance::QueueFixture); it may await.
#[macro_export]
macro_rules! queue_conformance {
    ($fixture:expr) => {
        $crate::queue_conformance_table! { conformance_tests! $fixture }
    };
}

/// Tests a notifier: one `#[tokio::test]` for each function of [`NOTIFIER`](crate::testing::conformance::NOTIFIER), in the
/// module it is called in. The expression makes a fresh
/// [`NotifierFixture`](crate::testing::conformance::NotifierFixture); it may await.
#[macro_export]
macro_rules! notifier_conformance {
    ($fixture:expr) => {
        $crate::notifier_conformance_table! { conformance_tests! $fixture }
    };
}

/// Tests a rate limiter: one `#[tokio::test]` for each function of
/// [`RATE_LIMITER`](crate::testing::conformance::RATE_LIMITER), in the module it is called in. The expression makes a fresh
/// [`RateLimiterFixture`](crate::testing::conformance::RateLimiterFixture); it may await.
#[macro_export]
macro_rules! rate_limiter_conformance {
    ($fixture:expr) => {
        $crate::rate_limiter_conformance_table! { conformance_tests! $fixture }
    };
}

/// One test for each function of a table.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ([$fixture:expr] $($file:ident { $($name:ident)* })*) => {
        $($(
            #[tokio::test]
            async fn $name() {
                let fixture = $fixture;
                $crate::testing::conformance::$file::$name(&fixture).await;
            }
        )*)*
    };
}

/// The names of the functions of a table.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_names {
    ([] $($file:ident { $($name:ident)* })*) => {
        &[$($(concat!(stringify!($file), "::", stringify!($name)),)*)*]
    };
}

#[cfg(test)]
mod tests {
    use super::{NOTIFIER, QUEUE, RATE_LIMITER, STORAGE};

    #[test]
    fn every_function_is_in_its_table_once() {
        let sources = [
            ("storage_commit", include_str!("storage_commit.rs")),
            ("storage_guards", include_str!("storage_guards.rs")),
            ("storage_keys", include_str!("storage_keys.rs")),
            ("storage_deliveries", include_str!("storage_deliveries.rs")),
            ("storage_events", include_str!("storage_events.rs")),
            ("storage_reads", include_str!("storage_reads.rs")),
            ("storage_lists", include_str!("storage_lists.rs")),
            ("storage_due", include_str!("storage_due.rs")),
            ("storage_parked", include_str!("storage_parked.rs")),
            ("storage_access", include_str!("storage_access.rs")),
            ("storage_audit", include_str!("storage_audit.rs")),
            ("storage_values", include_str!("storage_values.rs")),
            ("storage_erasures", include_str!("storage_erasures.rs")),
            ("storage_consents", include_str!("storage_consents.rs")),
            ("queue", include_str!("queue.rs")),
            ("queue_fairness", include_str!("queue_fairness.rs")),
            ("queue_push", include_str!("queue_push.rs")),
            ("notifier", include_str!("notifier.rs")),
            ("rate_limiter", include_str!("rate_limiter.rs")),
        ];
        let mut written = Vec::new();
        for (file, source) in sources {
            let functions = source.lines().filter_map(|line| line.strip_prefix("pub async fn "));
            written.extend(functions.map(|rest| {
                let name = rest.split('(').next().expect("split gives at least one part");
                format!("{file}::{name}")
            }));
        }
        let listed = [STORAGE, QUEUE, NOTIFIER, RATE_LIMITER].concat();
        assert_eq!(listed, written);
    }

    #[test]
    fn the_suite_is_as_large_as_the_contracts() {
        assert!(STORAGE.len() >= 120, "{}", STORAGE.len());
        assert!(QUEUE.len() >= 45, "{}", QUEUE.len());
        assert!(NOTIFIER.len() >= 12, "{}", NOTIFIER.len());
        assert!(RATE_LIMITER.len() >= 12, "{}", RATE_LIMITER.len());
    }
}

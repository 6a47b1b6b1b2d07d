//! The rate limiter: may this key do one more now?

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;

use crate::processor::Source;

/// Counts.
///
/// # Contract
/// Over any span of `elapsed`, at most `quota + ⌊elapsed · quota / window⌋ + 1` requests of one key are admitted, over
/// every process that shares the limiter. A refused request costs nothing. Keys are independent.
///
/// # Time
/// By the backend's own clock.
///
/// # Errors
/// [`RateLimitError`]; whether that admits or refuses is the caller's setting.
///
/// # Limits
/// Remembers a bounded number of keys; idle ones are forgotten first.
#[async_trait]
pub trait RateLimiter: fmt::Debug + Send + Sync {
    /// Asks for one request.
    ///
    /// # Errors
    /// [`RateLimitError`].
    async fn check(&self, key: &str, limit: Limit) -> Result<Decision, RateLimitError>;
}

/// So many requests in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// How many at once and per window.
    pub quota: NonZeroU32,
    /// How long, at least 1 ms.
    pub window: Duration,
}

/// Whether a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may.
    pub verdict: Admission,
    /// How many more could follow at once.
    pub remaining: u32,
    /// How long until the whole quota is there again.
    pub reset_in: Duration,
}

/// Yes or no. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Go on.
    Admitted,
    /// Not now.
    Refused {
        /// When one more would be admitted.
        retry_in: Duration,
    },
}

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RateLimitError {
    /// It cannot be reached.
    #[error("the rate limiter cannot be reached")]
    Unavailable(#[source] Source),
}

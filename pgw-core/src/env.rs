//! The outside world a gateway reads: time and randomness. The only file that touches either.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use rand::Rng;
use uuid::{Builder, Uuid};

use crate::timestamp::Timestamp;

/// Tells the time. Enters at `GatewayBuilder`, nowhere else.
///
/// Business times in rows come from here. Leases and due times do not: each backend judges those
/// by its own clock, so that nodes with skewed clocks agree.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current UTC time. May jump in either direction.
    fn now(&self) -> Timestamp;
}

/// Gives random bytes fit for secrets (ASVS 11.5.1: a CSPRNG with at least 128 bits).
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Fills `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// How ids are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IdScheme {
    /// UUIDv7 (RFC 9562): time first, so that neighbours in time are neighbours in an index.
    #[default]
    TimeOrdered,
    /// UUIDv4: no order, for engines that shard by key range and would make one hot range of v7.
    Random,
}

/// The clock and the randomness a gateway runs on.
///
/// ```
/// use pgw_core::env::Env;
/// let env = Env::system();
/// assert!(env.now().as_secs() > 1_700_000_000);
/// assert_ne!(env.uuid(), env.uuid());
/// ```
#[derive(Debug, Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    ids: IdScheme,
}

impl Env {
    /// The operating system's clock and randomness, with time-ordered ids.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    }

    /// A given clock and randomness, with time-ordered ids.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { clock, entropy, ids: IdScheme::default() }
    }

    /// The same environment with another layout of ids.
    #[must_use]
    pub fn with_ids(mut self, ids: IdScheme) -> Self {
        self.ids = ids;
        self
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// A random number, for jitter and fences.
    #[must_use]
    pub fn u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A new id, laid out by the [`IdScheme`].
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        match self.ids {
            IdScheme::Random => Builder::from_random_bytes(self.bytes()).into_uuid(),
            IdScheme::TimeOrdered => {
                let millis = u64::try_from(self.now().as_millis()).unwrap_or(0);
                Builder::from_unix_timestamp_millis(millis, &self.bytes()).into_uuid()
            }
        }
    }
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this file is where time enters")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A cryptographically secure generator, seeded and reseeded by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "this file is where randomness enters")]
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

/// The monotonic clock of the async runtime, which tests pause and move: for how long something took or may take.
#[expect(clippy::disallowed_methods, reason = "this file is where time enters")]
#[must_use]
pub fn runtime_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// The moment that comes so long after now; a century from now, if the clock cannot count so far.
#[must_use]
pub fn runtime_after(time: Duration) -> tokio::time::Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    let now = runtime_now();
    now.checked_add(time).unwrap_or_else(|| now + CENTURY)
}

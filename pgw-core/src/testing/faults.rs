//! Faults: what goes wrong in a simulation and how often, and [`Faulty`], which makes it go wrong around any part of a gateway.
//!
//! Without rates, [`Faulty`] changes nothing: it passes the conformance suite of what it wraps.

mod links;
mod storage;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::crash::Life;
use super::random::Random;
use crate::changes::Changes;
use crate::env::runtime_now;
use crate::processor::Source;
use crate::queue::{Claim, Job};

/// How often what goes wrong, in a thousand calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// The process dies, before or after the call.
    pub crash: u32,
    /// The call, or its answer, takes up to [`slow_max`](Self::slow_max).
    pub slow: u32,
    /// Longest extra wait.
    pub slow_max: Duration,
    /// A read of the storage fails.
    pub read_fails: u32,
    /// A commit fails and is not applied.
    pub commit_fails: u32,
    /// A commit is not applied and nobody can tell.
    pub commit_lost: u32,
    /// A commit is applied and nobody can tell.
    pub commit_applied_unheard: u32,
    /// A call of the queue fails.
    pub queue_fails: u32,
    /// A hint is lost, or a notifier's call fails.
    pub hint_lost: u32,
    /// A hint comes twice.
    pub hint_twice: u32,
}

/// What decides on faults, and the trace of everything that was called. One for a whole simulation.
#[derive(Debug)]
pub struct Faults {
    dice: Random,
    rates: Mutex<Rates>,
    trace: Mutex<Trace>,
    counts: Counts,
    watch: OnceLock<Arc<dyn Watch>>,
}

/// Sees every commit that is applied, and what queues and workers have to do with jobs: each at once and in its order.
pub(super) trait Watch: fmt::Debug + Send + Sync {
    /// These changes were applied just now.
    fn applied(&self, changes: &Changes);

    /// A process was told whether it is a job's turn, just now.
    fn looked(&self, life: &Life, job: &Job);

    /// A process sends the webhook that its transport is given next.
    fn sending(&self, life: &Life);

    /// A claim was given out for so long.
    fn claimed(&self, claim: &Claim, lease: Duration);

    /// A claim was extended, or it was not held any more.
    fn extended(&self, claim: &Claim, lease: Duration, was_held: bool);

    /// A claim was settled, or it was not held any more.
    fn settled(&self, claim: &Claim, was_held: bool);
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) calls: AtomicU64,
    pub(crate) ambiguous: AtomicU64,
}

impl Faults {
    /// Faults by a seed; none until [`set`](Self::set).
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            dice: Random::new(seed),
            rates: Mutex::default(),
            trace: Mutex::default(),
            counts: Counts::default(),
            watch: OnceLock::new(),
        })
    }

    /// No faults at all.
    #[must_use]
    pub fn off() -> Arc<Self> {
        Self::new(0)
    }

    /// Changes the rates, from the next call on.
    pub fn set(&self, rates: Rates) {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner) = rates;
    }

    /// The rates now.
    #[must_use]
    pub fn rates(&self) -> Rates {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hash of every call so far: its name, how it ended and when. Equal for equal runs.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).hash
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.counts.calls.load(Ordering::Relaxed)
    }

    /// How many commits nobody could tell the outcome of.
    #[must_use]
    pub fn ambiguous(&self) -> u64 {
        self.counts.ambiguous.load(Ordering::Relaxed)
    }

    /// Adds something that happened to the trace.
    pub fn note(&self, what: &str, how: &str) {
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).note(what, how);
    }

    /// Lets somebody see everything. Only the first is let.
    pub(super) fn watch(&self, watch: Arc<dyn Watch>) {
        let _ = self.watch.set(watch);
    }

    fn watched(&self, tell: impl FnOnce(&dyn Watch)) {
        if let Some(watch) = self.watch.get() {
            tell(&**watch);
        }
    }

    fn hits(&self, rate: impl Fn(&Rates) -> u32) -> bool {
        let rate = rate(&self.rates());
        self.dice.hits(rate)
    }
}

/// A part of a process: does what the part inside does, and now and then fails, dawdles, or takes the whole process down.
///
/// Implements `Storage`, `Queue`, `Notifier`, `Processor` or `WebhookTransport`, whichever is inside.
pub struct Faulty<T: ?Sized> {
    inner: Arc<T>,
    faults: Arc<Faults>,
    life: Life,
}

impl<T: ?Sized> Faulty<T> {
    /// The part of a process that lives this life.
    #[must_use]
    pub fn new(inner: Arc<T>, faults: Arc<Faults>, life: Life) -> Self {
        Self { inner, faults, life }
    }

    /// Before a call takes effect.
    async fn enter(&self, weight: Weight) {
        self.pass(weight).await;
    }

    /// After a call took effect, before anybody hears of it.
    async fn leave(&self, what: &'static str, how: &str, weight: Weight) {
        self.faults.note(what, how);
        self.pass(weight).await;
    }

    async fn pass(&self, weight: Weight) {
        self.life.go_on().await;
        let rates = self.faults.rates();
        if self.faults.dice.hits(rates.crash.saturating_mul(weight.0)) {
            self.life.end();
            std::future::pending::<()>().await;
        }
        if self.faults.dice.hits(rates.slow) {
            tokio::time::sleep(self.faults.dice.wait(rates.slow_max)).await;
            self.life.go_on().await;
        }
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Faulty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faulty").field(&&*self.inner).finish()
    }
}

/// How many times as likely as elsewhere a process dies here.
#[derive(Debug, Clone, Copy)]
struct Weight(u32);

impl Weight {
    /// At the calls that only look.
    const LIGHT: Self = Self(1);
    /// At the calls that change something: a crash beside them is the interesting one.
    const HEAVY: Self = Self(12);
}

#[derive(Debug)]
struct Trace {
    hash: u64,
    started: Option<Instant>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: FNV_OFFSET, started: None }
    }
}

impl Trace {
    fn note(&mut self, what: &str, how: &str) {
        let now = runtime_now();
        let since = now - *self.started.get_or_insert(now);
        self.add(what.as_bytes());
        self.add(how.as_bytes());
        self.add(&since.as_millis().to_le_bytes());
    }

    /// FNV-1a.
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

/// Why a part fails.
#[derive(Debug, thiserror::Error)]
#[error("the simulation made it fail")]
struct Made;

fn made() -> Source {
    Arc::new(Made)
}

fn how<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "error" }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

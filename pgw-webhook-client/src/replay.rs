//! Handling each webhook once: the contract of a store that remembers what was handled, one in memory, and [`once`], which drives
//! either. What a webhook is known by is [`ReplayKey`]; nothing here verifies anything.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::verified::ReplayKey;

/// Remembers which webhooks were handled. Object-safe; share it as `Arc<dyn ReplayStore>`.
///
/// # Contract
/// A key is *free*, *claimed* or *handled*. [`claim`](Self::claim) takes a free key, [`complete`](Self::complete) marks a claimed one
/// handled, [`release`](Self::release) frees it again, so that the sender's next attempt is handled.
///
/// # Atomicity
/// Of any number of concurrent claims of a free key exactly one gets [`Seen::First`].
///
/// # Time
/// `now` is the time since the Unix epoch, from the caller. A claim that is neither completed nor released (the process died) becomes
/// free after the store's lease, so choose a lease longer than the longest handler. A handled key is forgotten after the store's
/// retention, so choose one longer than the sender goes on retrying. A claim that was taken over carries a newer
/// [fence](Claim::fence); completing or releasing the older one changes nothing.
///
/// # Errors
/// A store that cannot answer says so with [`ReplayError`]; it never guesses. Answer the sender 503, and it will come back.
///
/// # Cancel safety
/// Dropping a future leaves the operation done or not done, never half. A claim whose future was dropped is freed by its lease.
///
/// # Implementing
/// The methods return boxed futures instead of being `async`, which keeps the trait object-safe without a macro; a body of
/// `Box::pin(async move { … })` is all it takes. In Postgres a claim is one statement, `insert … on conflict (key) do update set
/// fence = …, claimed_at = … where not handled and claimed_at < … returning fence`; in Redis, `SET key fence NX PX lease`. Where the
/// effects are in the same database, commit the claim together with them and skip `complete`: then it is exactly once even across a
/// crash.
pub trait ReplayStore: fmt::Debug + Send + Sync {
    /// Takes the key if it is free.
    fn claim(&self, key: ReplayKey, now: Duration) -> StoreFuture<'_, Seen>;

    /// Marks a claimed key as handled: every later attempt is [`Seen::Handled`].
    fn complete(&self, claim: Claim) -> StoreFuture<'_, Settled>;

    /// Frees a claimed key because the handler failed: the next attempt is [`Seen::First`] again.
    fn release(&self, claim: Claim) -> StoreFuture<'_, Settled>;
}

/// What the methods of a [`ReplayStore`] return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ReplayError>> + Send + 'a>>;

/// What a store knows of a key. Exhaustive: a receiver has to answer each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an unanswered claim blocks the key until its lease is over"]
pub enum Seen {
    /// Not seen before, and now claimed: handle it, then complete or release the claim.
    First(Claim),
    /// Another attempt is being handled: answer 409 or 503, and the sender will come back.
    InProgress,
    /// Handled before: answer 2xx and do nothing.
    Handled,
}

/// The right to handle one webhook, given by [`ReplayStore::claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    key: ReplayKey,
    fence: u64,
}

impl Claim {
    /// A claim, for implementers of [`ReplayStore`]. `fence` differs from that of every other claim of the key.
    #[must_use]
    pub const fn new(key: ReplayKey, fence: u64) -> Self {
        Self { key, fence }
    }

    /// The key that is claimed.
    #[must_use]
    pub const fn key(&self) -> ReplayKey {
        self.key
    }

    /// Tells this claim from an earlier or later one of the same key.
    #[must_use]
    pub const fn fence(&self) -> u64 {
        self.fence
    }
}

/// What became of a claim that was completed or released. Exhaustive: the claim was ours, or it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Done as asked.
    Done,
    /// Nothing was changed: the lease had run out and the key was claimed anew or forgotten. The webhook may be handled twice.
    Lost,
}

/// Why a store could not answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// A bounded store holds as many keys as it may, and all of them are too recent to forget.
    Full,
    /// The store behind it did not answer.
    Unavailable(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the replay store is full",
            Self::Unavailable(_) => "the replay store is unavailable",
        })
    }
}

impl Error for ReplayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Full => None,
            Self::Unavailable(source) => Some(source.as_ref()),
        }
    }
}

/// Runs `handler` unless the webhook was handled or is being handled: claims the key, completes the claim when the handler succeeds and
/// releases it when it fails.
///
/// ```
/// use std::time::Duration;
/// use pgw_webhook_client::ReplayKey;
/// use pgw_webhook_client::replay::{MemoryReplayStore, Once, once};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let store = MemoryReplayStore::new();
/// let (key, now) = (ReplayKey::from_bytes([7; 32]), Duration::from_secs(1_700_000_000));
///
/// let failed = once(&store, key, now, async || Err::<(), _>("database away")).await?;
/// assert_eq!(failed, Once::Failed("database away"));
/// let handled = once(&store, key, now, async || Ok::<_, &str>("shipped")).await?;
/// assert_eq!(handled, Once::Done("shipped"));
/// let again = once(&store, key, now, async || Ok::<_, &str>("shipped twice")).await?;
/// assert_eq!(again, Once::HandledBefore);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ReplayError`] when the store did not answer. Before the handler ran nothing has happened; if completing failed, the handler has
/// run and the sender's next attempt may run it again. A release that failed is no error: the handler's own says more, and the lease
/// frees the key.
///
/// # Cancel safety
/// Dropped while the handler runs, the key stays claimed until the store's lease is over. So it does when the handler panics or the
/// process dies. No webhook is lost by that, because it was not answered: until then the sender's attempts are
/// [`InProgress`](Once::InProgress), and the first one after is handled. What the handler did by halves is done again, so let it be
/// repeatable, or put its effects and the claim into one transaction.
pub async fn once<T, E>(
    store: &dyn ReplayStore,
    key: ReplayKey,
    now: Duration,
    handler: impl AsyncFnOnce() -> Result<T, E>,
) -> Result<Once<T, E>, ReplayError> {
    let claim = match store.claim(key, now).await? {
        Seen::First(claim) => claim,
        Seen::InProgress => return Ok(Once::InProgress),
        Seen::Handled => return Ok(Once::HandledBefore),
    };
    match handler().await {
        Ok(value) => {
            store.complete(claim).await?;
            Ok(Once::Done(value))
        }
        Err(error) => {
            // An unreleased key is freed by its lease, so there is nothing to add to the handler's error.
            let _ = store.release(claim).await;
            Ok(Once::Failed(error))
        }
    }
}

/// What [`once`] did. Exhaustive: a receiver has to answer each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what is answered to the sender depends on it"]
pub enum Once<T, E> {
    /// The handler ran and succeeded: answer 2xx.
    Done(T),
    /// The handler ran and failed; the next attempt will be handled: answer 5xx.
    Failed(E),
    /// Handled before: answer 2xx.
    HandledBefore,
    /// Being handled right now: answer 409 or 503.
    InProgress,
}

/// A bounded [`ReplayStore`] in memory, for a receiver that is one process. It forgets everything when the process ends.
///
/// When it is full, the oldest key is forgotten early, but never one younger than the larger of the lease and [`AGE_MIN`]: those are
/// what an attacker could still send again, so then a new key is refused with [`ReplayError::Full`].
pub struct MemoryReplayStore {
    lease: Duration,
    retention: Duration,
    capacity: usize,
    table: Mutex<Table>,
}

impl MemoryReplayStore {
    /// A store with the default lease, retention and capacity.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lease: LEASE_DEFAULT,
            retention: RETENTION_DEFAULT,
            capacity: CAPACITY_DEFAULT,
            table: Mutex::default(),
        }
    }

    /// Frees a claim that was neither completed nor released after this long, instead of [`LEASE_DEFAULT`].
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Remembers handled keys this long from their claim, instead of [`RETENTION_DEFAULT`].
    #[must_use]
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Holds at most this many keys, instead of [`CAPACITY_DEFAULT`].
    #[must_use]
    pub fn with_capacity(mut self, keys_max: usize) -> Self {
        self.capacity = keys_max;
        self
    }

    /// The number of keys held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().entries.len()
    }

    /// Whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// [`ReplayStore::claim`], for callers that are not async.
    ///
    /// # Errors
    /// [`ReplayError::Full`].
    pub fn try_claim(&self, key: ReplayKey, now: Duration) -> Result<Seen, ReplayError> {
        let mut table = self.table();
        table.forget_until(now, self.retention.max(self.lease));
        if let Some(entry) = table.entries.get(&key) {
            match entry.state {
                State::Handled => return Ok(Seen::Handled),
                State::Claimed if now.saturating_sub(entry.claimed_at) < self.lease => {
                    return Ok(Seen::InProgress);
                }
                State::Claimed => table.remove(&key),
            }
        }
        if table.entries.len() >= self.capacity && !table.evict(now, self.lease.max(AGE_MIN)) {
            return Err(ReplayError::Full);
        }
        Ok(Seen::First(table.insert(key, now)))
    }

    /// [`ReplayStore::complete`], for callers that are not async.
    #[must_use]
    pub fn complete_now(&self, claim: Claim) -> Settled {
        match self.table().claimed(claim) {
            Some(entry) => {
                entry.state = State::Handled;
                Settled::Done
            }
            None => Settled::Lost,
        }
    }

    /// [`ReplayStore::release`], for callers that are not async.
    #[must_use]
    pub fn release_now(&self, claim: Claim) -> Settled {
        let mut table = self.table();
        if table.claimed(claim).is_none() {
            return Settled::Lost;
        }
        table.remove(&claim.key);
        Settled::Done
    }

    /// Nothing panics while the lock is held, and every method leaves the table whole, so a poisoned lock is still good.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryReplayStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryReplayStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryReplayStore")
            .field("lease", &self.lease)
            .field("retention", &self.retention)
            .field("capacity", &self.capacity)
            .field("len", &self.len())
            .finish()
    }
}

impl ReplayStore for MemoryReplayStore {
    fn claim(&self, key: ReplayKey, now: Duration) -> StoreFuture<'_, Seen> {
        Box::pin(async move { self.try_claim(key, now) })
    }

    fn complete(&self, claim: Claim) -> StoreFuture<'_, Settled> {
        Box::pin(async move { Ok(self.complete_now(claim)) })
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, Settled> {
        Box::pin(async move { Ok(self.release_now(claim)) })
    }
}

/// The keys, and the same keys by age. The two always hold the same entries.
#[derive(Default)]
struct Table {
    entries: HashMap<ReplayKey, Entry>,
    by_age: BTreeMap<(Duration, u64), ReplayKey>,
    last_fence: u64,
}

struct Entry {
    claimed_at: Duration,
    fence: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Claimed,
    Handled,
}

impl Table {
    fn insert(&mut self, key: ReplayKey, now: Duration) -> Claim {
        self.last_fence += 1;
        let fence = self.last_fence;
        self.entries.insert(key, Entry { claimed_at: now, fence, state: State::Claimed });
        self.by_age.insert((now, fence), key);
        Claim { key, fence }
    }

    fn remove(&mut self, key: &ReplayKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_age.remove(&(entry.claimed_at, entry.fence));
        }
    }

    /// The entry this claim still holds.
    fn claimed(&mut self, claim: Claim) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&claim.key)?;
        (entry.fence == claim.fence && entry.state == State::Claimed).then_some(entry)
    }

    /// Forgets the oldest entry if it is at least this old.
    fn evict(&mut self, now: Duration, age_min: Duration) -> bool {
        let Some((&(claimed_at, _), &key)) = self.by_age.first_key_value() else {
            return false;
        };
        let is_old_enough = now.saturating_sub(claimed_at) >= age_min;
        if is_old_enough {
            self.remove(&key);
        }
        is_old_enough
    }

    /// Forgets every entry at least this old.
    fn forget_until(&mut self, now: Duration, age_min: Duration) {
        while self.evict(now, age_min) {}
    }
}

/// How long a claim lasts unless told otherwise: four times the longest a sender waits for an answer by default (15 s).
pub const LEASE_DEFAULT: Duration = Duration::from_secs(60);

/// How long a handled key is remembered unless told otherwise: twice the three days that senders go on retrying, and a day.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many keys are held unless told otherwise: about 25 MB at the most, and one webhook in five seconds over a week.
pub const CAPACITY_DEFAULT: usize = 1 << 17;

/// No key younger than this is forgotten to make room: both sides of the default tolerance, for which a captured message is good.
pub const AGE_MIN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ReplayKey {
        ReplayKey::from_bytes([n; 32])
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(1_700_000_000 + secs)
    }

    fn first(store: &MemoryReplayStore, key: ReplayKey, now: Duration) -> Claim {
        match store.try_claim(key, now) {
            Ok(Seen::First(claim)) => claim,
            other => panic!("not claimed: {other:?}"),
        }
    }

    fn assert_seen(store: &MemoryReplayStore, key: ReplayKey, now: Duration, seen: Seen) {
        assert_eq!(store.try_claim(key, now).expect("the store has room"), seen);
    }

    #[test]
    fn a_key_is_free_then_claimed_then_handled() {
        let store = MemoryReplayStore::new();
        let claim = first(&store, key(1), at(0));
        assert_seen(&store, key(1), at(1), Seen::InProgress);
        assert_eq!(store.complete_now(claim), Settled::Done);
        assert_seen(&store, key(1), at(2), Seen::Handled);
        assert_eq!(store.complete_now(claim), Settled::Lost);
        assert_eq!(store.release_now(claim), Settled::Lost);
        assert_seen(&store, key(1), at(3), Seen::Handled);
    }

    #[test]
    fn a_released_key_is_handled_on_the_next_attempt() {
        let store = MemoryReplayStore::new();
        let claim = first(&store, key(1), at(0));
        assert_eq!(store.release_now(claim), Settled::Done);
        assert!(store.is_empty());
        let again = first(&store, key(1), at(1));
        assert_ne!(claim.fence(), again.fence());
    }

    #[test]
    fn a_claim_that_was_taken_over_settles_nothing() {
        let store = MemoryReplayStore::new();
        let dead = first(&store, key(1), at(0));
        assert_seen(&store, key(1), at(59), Seen::InProgress);
        let live = first(&store, key(1), at(60));
        assert_eq!(store.release_now(dead), Settled::Lost);
        assert_eq!(store.complete_now(dead), Settled::Lost);
        assert_seen(&store, key(1), at(61), Seen::InProgress);
        assert_eq!(store.complete_now(live), Settled::Done);
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_handled_key_is_forgotten_after_the_retention() {
        let store = MemoryReplayStore::new().with_retention(Duration::from_secs(1000));
        let claim = first(&store, key(1), at(0));
        assert_eq!(store.complete_now(claim), Settled::Done);
        assert_seen(&store, key(1), at(999), Seen::Handled);
        let _ = first(&store, key(1), at(1000));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_full_store_forgets_the_old_and_refuses_rather_than_forget_the_young() {
        let store = MemoryReplayStore::new().with_capacity(2);
        for n in [1, 2] {
            let claim = first(&store, key(n), at(u64::from(n)));
            assert_eq!(store.complete_now(claim), Settled::Done);
        }
        assert!(matches!(store.try_claim(key(3), at(600)), Err(ReplayError::Full)));
        assert_seen(&store, key(1), at(600), Seen::Handled);
        let _ = first(&store, key(3), at(601));
        assert_eq!(store.len(), 2);
        assert_seen(&store, key(2), at(601), Seen::Handled);
        assert!(matches!(
            MemoryReplayStore::new().with_capacity(0).try_claim(key(1), at(0)),
            Err(ReplayError::Full)
        ));
    }

    #[test]
    fn a_clock_that_jumps_back_frees_nothing() {
        let store = MemoryReplayStore::new();
        let claim = first(&store, key(1), at(5000));
        assert_seen(&store, key(1), at(0), Seen::InProgress);
        assert_eq!(store.complete_now(claim), Settled::Done);
        assert_seen(&store, key(1), Duration::ZERO, Seen::Handled);
    }

    #[test]
    fn the_source_of_an_error_is_kept() {
        let error = ReplayError::Unavailable("connection refused".into());
        assert_eq!(error.to_string(), "the replay store is unavailable");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("connection refused"));
        assert!(ReplayError::Full.source().is_none());
    }
}

//! [`AccessCache`]: what one process knows of API keys and the shield without asking the storage, and the hints that end what it knows.
//!
//! There is no task behind it. The hints that came meanwhile are taken in, without waiting, whenever it is used.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use subtle::ConstantTimeEq as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::access::shield::Judge;
use crate::access::{ApiKey, KeyPrefix, Principal, Shield};
use crate::env::runtime_now;
use crate::notifier::{Hint, Notifier, Subscription};
use crate::storage::{Storage, StorageError};
use crate::timestamp::Timestamp;

/// What is known, behind one lock that is held for a moment and never across an await.
pub(crate) struct AccessCache {
    known: Mutex<Known>,
    /// Held by whoever reads the shield, so that one does and not all.
    reads_shield: tokio::sync::Mutex<()>,
    /// Notes of uses of keys that may be under way at once.
    notes: Arc<Semaphore>,
}

struct Known {
    keys: Keys,
    shield: Option<HeldShield>,
    hints: Option<Box<dyn Subscription>>,
    /// When to try to hear hints again.
    listen_at: Option<Instant>,
    /// Counts what ended something known. What was read before the latest of these may be older than it.
    epoch: u64,
}

struct HeldShield {
    judge: Arc<Judge>,
    fresh_until: Instant,
}

impl HeldShield {
    fn keeps(&self, other: &Shield, is_sure: bool) -> bool {
        let version = self.judge.shield.version;
        version == other.version || (version > other.version && !is_sure)
    }
}

/// A key that opened, as [`AccessCache::open`] found it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) principal: Principal,
    /// Whether its use is worth noting: the last note is older than a minute.
    pub(crate) is_worth_noting: bool,
}

/// A moment before a read of the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before(u64);

impl AccessCache {
    /// A cache that keeps each key this long.
    pub(crate) fn new(keys_kept: Duration) -> Self {
        let known = Known {
            keys: Keys::new(keys_kept.min(KEYS_KEPT_MAX), KEYS_MAX),
            shield: None,
            hints: None,
            listen_at: None,
            epoch: 0,
        };
        Self {
            known: Mutex::new(known),
            reads_shield: tokio::sync::Mutex::new(()),
            notes: Arc::new(Semaphore::new(NOTES_MAX)),
        }
    }

    /// Starts to hear hints, unless it does or one has just tried. Without them, all that is known ends by its age alone.
    pub(crate) async fn listen(&self, notifier: &dyn Notifier) {
        {
            let mut known = self.lock();
            let now = runtime_now();
            if known.hints.is_some() || known.listen_at.is_some_and(|at| now < at) {
                return;
            }
            // Nobody else tries meanwhile.
            known.listen_at = Some(now + known.keys.kept.max(LISTEN_RETRY_MIN));
        }
        let attempt = ListenAttempt { cache: self, is_done: false };
        let subscribed = notifier.subscribe().await;
        attempt.done();
        match subscribed {
            Ok(hints) => {
                let mut known = self.lock();
                // What was read before may have ended before anybody listened.
                known.forget_all();
                known.hints = Some(hints);
            }
            Err(error) => {
                tracing::warn!(%error, "hints are not heard; keys and the denylist are kept for their time only");
            }
        }
    }

    /// Who opens with a key of this prefix and digest, when that is known for sure.
    pub(crate) fn open(
        &self,
        prefix: KeyPrefix,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Opened, Before> {
        let mut known = self.heard();
        let before = Before(known.epoch);
        known.keys.open(prefix, digest, runtime_now(), now).ok_or(before)
    }

    /// Takes in a key that opened; whether its use is worth noting. A key that was read before something ended is not kept.
    pub(crate) fn keep(
        &self,
        key: &ApiKey,
        principal: &Principal,
        before: Before,
        now: Timestamp,
    ) -> bool {
        let mut known = self.heard();
        let used_at = known.keys.used_at(key.prefix).max(key.last_used_at);
        let is_worth_noting = is_worth_noting(used_at, now);
        if known.epoch == before.0 {
            let used_at = if is_worth_noting { Some(now) } else { used_at };
            known.keys.insert(key, principal.clone(), used_at, runtime_now());
        }
        is_worth_noting
    }

    /// Room for one more note of a use, if there is.
    pub(crate) fn note(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.notes).try_acquire_owned().ok()
    }

    /// Ends what is known of a key.
    pub(crate) fn forget_key(&self, prefix: KeyPrefix) {
        self.lock().hear(&Hint::KeyRevoked(prefix));
    }

    /// The shield: as it was at most [`SHIELD_FRESH`] ago, or since the latest hint that was heard; while the storage cannot be read, as
    /// it was known last.
    ///
    /// # Errors
    /// [`StorageError`] when it was never known.
    pub(crate) async fn shield(&self, storage: &dyn Storage) -> Result<Arc<Judge>, StorageError> {
        let held = match self.held() {
            Ok(fresh) => return Ok(fresh),
            Err(held) => held,
        };
        let _turn = match held {
            None => self.reads_shield.lock().await,
            Some(held) => match self.reads_shield.try_lock() {
                Ok(turn) => turn,
                // Somebody reads it just now: what is known is good until then.
                Err(_) => return Ok(held),
            },
        };
        let held = match self.held() {
            Ok(fresh) => return Ok(fresh),
            Err(held) => held,
        };
        let before = Before(self.heard().epoch);
        let version = held.as_ref().map(|held| held.shield.version);
        match storage.shield(version).await {
            Ok(Some(shield)) => Ok(self.learn(shield, before)),
            Ok(None) => {
                let shield = held.map_or_else(Shield::default, |held| held.shield.clone());
                Ok(self.learn(shield, before))
            }
            Err(error) => {
                let held = held.ok_or(error)?;
                tracing::warn!(
                    "the denylist and the freeze cannot be read; the last known ones stay in use"
                );
                if let Some(known) = &mut self.lock().shield {
                    known.fresh_until = runtime_now() + SHIELD_RETRY;
                }
                Ok(held)
            }
        }
    }

    /// Takes in a shield that was read. One that was changed meanwhile may be older than what is known: the newer of the two counts, and it
    /// is read again soon. Otherwise the storage is right, also when it was put back to an earlier time.
    fn learn(&self, shield: Shield, before: Before) -> Arc<Judge> {
        let mut known = self.heard();
        let is_sure = known.epoch == before.0;
        known.learn(shield, is_sure)
    }

    /// Takes in a shield that this process has committed; what is being read just now may be older.
    pub(crate) fn changed_shield(&self, shield: Shield) {
        let mut known = self.heard();
        known.epoch = known.epoch.wrapping_add(1);
        let version = shield.version;
        let is_newest =
            known.shield.as_ref().is_none_or(|held| held.judge.shield.version < version);
        known.learn(shield, is_newest);
    }

    fn held(&self) -> Result<Arc<Judge>, Option<Arc<Judge>>> {
        let known = self.heard();
        match &known.shield {
            Some(held) if runtime_now() < held.fresh_until => Ok(Arc::clone(&held.judge)),
            stale => Err(stale.as_ref().map(|held| Arc::clone(&held.judge))),
        }
    }

    /// What is known, less what the hints that came until now end.
    fn heard(&self) -> MutexGuard<'_, Known> {
        let mut known = self.lock();
        known.take_hints();
        known
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A try to hear hints. Dropped in the middle, as its caller may be, it leaves the next one to whoever comes next.
struct ListenAttempt<'a> {
    cache: &'a AccessCache,
    is_done: bool,
}

impl ListenAttempt<'_> {
    fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for ListenAttempt<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.cache.lock().listen_at = None;
        }
    }
}

impl fmt::Debug for AccessCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without what it holds: digests, and subscriptions that may show addresses.
        f.debug_struct("AccessCache").finish_non_exhaustive()
    }
}

impl Known {
    fn take_hints(&mut self) {
        let Some(mut hints) = self.hints.take() else { return };
        // A dropped `next` loses no hint, so asking once and going on is enough; and no budget of the task's may hide one.
        let mut context = Context::from_waker(Waker::noop());
        for heard in 1.. {
            let next = pin!(tokio::task::unconstrained(hints.next()));
            match next.poll(&mut context) {
                Poll::Ready(hint) => self.hear(&hint),
                Poll::Pending => break,
            }
            // They come faster than they are taken in. Without what they may be about, the rest can wait for the next use.
            if heard >= HINTS_MAX {
                self.forget_all();
                break;
            }
        }
        self.hints = Some(hints);
    }

    fn hear(&mut self, hint: &Hint) {
        match hint {
            Hint::KeyRevoked(prefix) => {
                self.keys.remove(*prefix);
                self.epoch = self.epoch.wrapping_add(1);
            }
            Hint::ShieldChanged => self.distrust_shield(),
            Hint::Missed => self.forget_all(),
            Hint::Work(_) | Hint::Payment { .. } | Hint::Events | Hint::Stamped => {}
        }
    }

    /// Takes in a shield. What is not sure replaces nothing newer, and is read again at its next use.
    fn learn(&mut self, shield: Shield, is_sure: bool) -> Arc<Judge> {
        let now = runtime_now();
        let fresh_until = if is_sure { now + SHIELD_FRESH } else { now };
        match &mut self.shield {
            Some(held) if held.keeps(&shield, is_sure) => {
                held.fresh_until = fresh_until;
                Arc::clone(&held.judge)
            }
            _ => {
                let judge = Arc::new(Judge::new(shield));
                self.shield = Some(HeldShield { judge: Arc::clone(&judge), fresh_until });
                judge
            }
        }
    }

    fn forget_all(&mut self) {
        self.keys.clear();
        self.distrust_shield();
    }

    /// The shield stays in use until it is read again, which is before its next use where the storage answers.
    fn distrust_shield(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if let Some(held) = &mut self.shield {
            held.fresh_until = runtime_now();
        }
    }
}

/// Keys that opened, each for a while.
struct Keys {
    kept: Duration,
    max: usize,
    entries: HashMap<KeyPrefix, Entry>,
    /// In the order they were taken in, which is the order they end in.
    order: VecDeque<(KeyPrefix, Instant)>,
}

struct Entry {
    digest: [u8; 32],
    principal: Principal,
    expires_at: Option<Timestamp>,
    until: Instant,
    used_at: Option<Timestamp>,
}

impl Keys {
    fn new(kept: Duration, max: usize) -> Self {
        Self { kept, max, entries: HashMap::new(), order: VecDeque::new() }
    }

    fn open(
        &mut self,
        prefix: KeyPrefix,
        digest: &[u8; 32],
        instant: Instant,
        now: Timestamp,
    ) -> Option<Opened> {
        let entry = self.entries.get_mut(&prefix)?;
        let is_it: bool = entry.digest.ct_eq(digest).into();
        let is_live = instant < entry.until && entry.expires_at.is_none_or(|end| now < end);
        if !(is_it && is_live) {
            return None;
        }
        let is_worth_noting = is_worth_noting(entry.used_at, now);
        if is_worth_noting {
            entry.used_at = Some(now);
        }
        Some(Opened { principal: entry.principal.clone(), is_worth_noting })
    }

    fn used_at(&self, prefix: KeyPrefix) -> Option<Timestamp> {
        self.entries.get(&prefix).and_then(|entry| entry.used_at)
    }

    fn insert(
        &mut self,
        key: &ApiKey,
        principal: Principal,
        used_at: Option<Timestamp>,
        instant: Instant,
    ) {
        while self.order.len() >= self.max {
            let Some((prefix, until)) = self.order.pop_front() else { break };
            // One that was taken in again since has a later place too.
            if self.entries.get(&prefix).is_some_and(|entry| entry.until == until) {
                self.entries.remove(&prefix);
            }
        }
        let until = instant + self.kept;
        self.order.push_back((key.prefix, until));
        let entry =
            Entry { digest: key.digest, principal, expires_at: key.expires_at, until, used_at };
        self.entries.insert(key.prefix, entry);
    }

    fn remove(&mut self, prefix: KeyPrefix) {
        self.entries.remove(&prefix);
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }
}

fn is_worth_noting(used_at: Option<Timestamp>, now: Timestamp) -> bool {
    used_at.is_none_or(|used_at| now.since(used_at) >= NOTED_EVERY)
}

/// Longest that a key is kept without a word from the storage: what a revocation takes at most to be effective where no hints flow.
const KEYS_KEPT_MAX: Duration = Duration::from_secs(30);
/// How soon at least to try to hear hints again where keys are not kept at all.
const LISTEN_RETRY_MIN: Duration = Duration::from_secs(1);
/// Most keys that are kept: about 2 MB, and more holders than a gateway has in half a minute.
const KEYS_MAX: usize = 10_000;
/// Most hints that are taken in at one use: more than a subscription keeps, and over in a millisecond.
const HINTS_MAX: u32 = 4_096;
/// How long a shield is used without asking whether it was changed.
const SHIELD_FRESH: Duration = Duration::from_secs(5);
/// How soon the storage is asked again when it did not answer.
const SHIELD_RETRY: Duration = Duration::from_secs(1);
/// Most notes under way: a storage that hangs is not given more, and a few statements at a time note thousands of keys a minute.
const NOTES_MAX: usize = 16;
/// How often the use of a key is noted.
const NOTED_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;

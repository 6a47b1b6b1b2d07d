//! What this process knows of each endpoint: how many attempts are under way, whether it is paused, how fast it may be sent to. Nothing of it
//! has to survive; pauses that others must know of are committed by `health`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::env::runtime_now;
use crate::id::EndpointId;
use crate::webhook::plan::Reaction;
use crate::webhook::{DeliveryOptions, Endpoint, Health};

/// The endpoints that are being sent to, or were in trouble when they were.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<BTreeMap<EndpointId, Arc<Breaker>>>);

#[derive(Debug)]
struct Breaker {
    state: Mutex<State>,
    /// Wakes one of those who wait when there is room for one more, and all when there may be for many.
    moved: Notify,
}

#[derive(Debug)]
struct State {
    under_way: u8,
    waiting: usize,
    /// The newest version of the endpoint that was seen here, and how many attempts at once it allows: one rule for all who wait, whenever
    /// they read it.
    newest: (u64, u8),
    /// Most attempts at once: halved when the endpoint has too much to do, one more for each webhook it takes.
    limit: u8,
    /// Failures in a row.
    failures: u32,
    /// When it was last paused: what began before tells nothing new.
    tripped_at: Option<Instant>,
    /// Until when it is paused, and the version of the endpoint that is.
    paused: Option<(Instant, u64)>,
    /// When the next attempt may start, by its rate.
    next_at: Option<Instant>,
}

/// Whether an attempt may be made.
#[derive(Debug)]
pub(super) enum Entry<'b> {
    /// It may.
    Go(Permit<'b>),
    /// Not before this is over.
    Later(Duration),
}

/// One attempt under way.
#[derive(Debug)]
pub(super) struct Permit<'b> {
    breakers: &'b Breakers,
    id: EndpointId,
    breaker: Arc<Breaker>,
    started: Instant,
    /// Whether others were in the way for so long, or changed so much, that what was read before is old by now.
    pub(super) has_waited: bool,
    /// How long to wait still, by the endpoint's rate.
    pub(super) wait: Duration,
}

/// What an attempt changes for all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The endpoint is to be paused; it asked for so much.
    Pause { asked: Option<Duration> },
    /// It takes webhooks again.
    Restore,
    /// It is gone.
    Disable,
}

impl Breakers {
    /// Waits until there is room for an attempt. A pause that this process knows of is not waited for.
    pub(super) async fn enter(&self, endpoint: &Endpoint) -> Entry<'_> {
        let breaker = self.of(endpoint.id);
        let came = runtime_now();
        let mut was_woken = false;
        loop {
            let moved = breaker.moved.notified();
            tokio::pin!(moved);
            let (entry, is_old) = {
                let mut state = breaker.lock();
                let room = state.room();
                state.start_anew(endpoint);
                if state.room() > room {
                    breaker.moved.notify_waiters();
                }
                let entry = state.enter(endpoint);
                if entry.is_none() {
                    state.waiting += 1;
                    // Heard from now on, so that nothing is missed between this look and the wait.
                    moved.as_mut().enable();
                }
                // A probe that it waited for may have changed what is known of the endpoint.
                let is_known =
                    endpoint.health == Health::Healthy && state.newest.0 <= endpoint.version;
                (entry, !is_known)
            };
            match entry {
                Some(Ok(wait)) => {
                    let started = runtime_now();
                    let has_waited = was_woken && (is_old || started - came >= OLD_AFTER);
                    let (id, breaker) = (endpoint.id, Arc::clone(&breaker));
                    return Entry::Go(Permit {
                        breakers: self,
                        id,
                        breaker,
                        started,
                        has_waited,
                        wait,
                    });
                }
                Some(Err(later)) => {
                    if was_woken {
                        // The room that it was woken for is somebody else's.
                        breaker.moved.notify_one();
                    }
                    return Entry::Later(later);
                }
                None => {
                    let waiting = Waiting(&breaker);
                    moved.await;
                    drop(waiting);
                    was_woken = true;
                }
            }
        }
    }

    /// Learns how long the pause is that was committed, with this version of the endpoint.
    pub(super) fn paused(&self, id: EndpointId, version: u64, lasts: Duration) {
        self.of(id).lock().paused = Some((runtime_now() + lasts, version));
    }

    fn of(&self, id: EndpointId) -> Arc<Breaker> {
        let mut all = self.lock();
        if all.len() >= KNOWN_MAX {
            all.retain(|_, breaker| Arc::strong_count(breaker) > 1);
        }
        Arc::clone(all.entry(id).or_insert_with(|| Arc::new(Breaker::new())))
    }

    fn forget(&self, id: EndpointId) {
        let mut all = self.lock();
        if all.get(&id).is_some_and(|breaker| breaker.lock().is_at_rest()) {
            all.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Arc<Breaker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Breaker {
    fn new() -> Self {
        let state = State {
            under_way: 0,
            waiting: 0,
            newest: (0, 0),
            limit: DeliveryOptions::CONCURRENCY_MAX,
            failures: 0,
            tripped_at: None,
            paused: None,
            next_at: None,
        };
        Self { state: Mutex::new(state), moved: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pause(&self) -> Option<Duration> {
        let (until, _) = self.paused?;
        let left = until.saturating_duration_since(runtime_now());
        (!left.is_zero()).then_some(left)
    }

    /// Forgets a pause of an endpoint that somebody has written since, as the storage did, and all else that was learned when it was given
    /// a new start.
    fn start_anew(&mut self, endpoint: &Endpoint) {
        if endpoint.version >= self.newest.0 {
            let most = match endpoint.health {
                // One is tried before the others.
                Health::Failing { .. } => 1,
                Health::Healthy => endpoint.options.concurrency_max(),
            };
            self.newest = (endpoint.version, most);
        }
        if self.paused.is_none_or(|(_, version)| endpoint.version <= version) {
            return;
        }
        self.paused = None;
        if endpoint.health == Health::Healthy {
            self.tripped_at = None;
            self.failures = 0;
            self.limit = DeliveryOptions::CONCURRENCY_MAX;
        }
    }

    /// How many attempts there may be at once.
    const fn room(&self) -> u8 {
        let (_, most) = self.newest;
        if most < self.limit { most } else { self.limit }
    }

    /// Takes a place, with how long to wait still by the endpoint's rate; or says after how long to come again. `None`: there is no room.
    fn enter(&mut self, endpoint: &Endpoint) -> Option<Result<Duration, Duration>> {
        if let Some(pause) = self.pause() {
            return Some(Err(pause));
        }
        if self.under_way >= self.room() {
            return None;
        }
        let Some(wait) = self.slot(endpoint.options.rate_per_s) else {
            return Some(Err(RATE_WAIT_MAX));
        };
        self.under_way += 1;
        Some(Ok(wait))
    }

    /// How long to wait for the next slot of a rate, which is taken; `None`: too long to hold a claim for.
    fn slot(&mut self, rate: Option<NonZeroU32>) -> Option<Duration> {
        let Some(rate) = rate else { return Some(Duration::ZERO) };
        let now = runtime_now();
        let at = self.next_at.map_or(now, |next| next.max(now));
        let wait = at - now;
        if wait > RATE_WAIT_MAX {
            return None;
        }
        self.next_at = Some(at + Duration::from_secs(1) / rate.get());
        Some(wait)
    }

    fn is_at_rest(&self) -> bool {
        let now = runtime_now();
        self.under_way == 0
            && self.waiting == 0
            && self.failures == 0
            && self.limit == DeliveryOptions::CONCURRENCY_MAX
            && self.tripped_at.is_none()
            && self.next_at.is_none_or(|next| next <= now)
    }

    /// Takes in what came of an attempt that began at `started`, of an endpoint that was so when it was read.
    fn learn(&mut self, reaction: Reaction, started: Instant, seen: &Endpoint) -> Option<Turn> {
        let health = seen.health;
        let (is_overloaded, asked) = match reaction {
            Reaction::Took => {
                self.failures = 0;
                self.paused = None;
                self.limit = self.limit.saturating_add(1).min(DeliveryOptions::CONCURRENCY_MAX);
                let was_paused = self.tripped_at.take().is_some() || health != Health::Healthy;
                return was_paused.then_some(Turn::Restore);
            }
            Reaction::Gone => return Some(Turn::Disable),
            Reaction::Failed { is_overloaded, asked } => {
                (is_overloaded, asked.filter(|asked| !asked.is_zero()))
            }
        };
        if self.tripped_at.is_some_and(|tripped| started <= tripped) {
            return None;
        }
        if is_overloaded {
            self.limit = (self.limit.min(seen.options.concurrency_max()) / 2).max(1);
        }
        self.failures = self.failures.saturating_add(1);
        let is_probe = health != Health::Healthy;
        if asked.is_none() && !is_probe && self.failures < Health::FAILURES_MAX {
            return None;
        }
        self.failures = 0;
        self.limit = 1;
        let now = runtime_now();
        self.tripped_at = Some(now);
        // Until it is known how long the pause is.
        self.paused = Some((now + Health::PAUSE_MIN, seen.version));
        Some(Turn::Pause { asked })
    }
}

impl Permit<'_> {
    /// The attempt was made.
    pub(super) fn leave(self, reaction: Reaction, seen: &Endpoint) -> Option<Turn> {
        let mut state = self.breaker.lock();
        let (room, was_paused) = (state.room(), state.paused.is_some());
        let turn = state.learn(reaction, self.started, seen);
        if state.room() > room || state.paused.is_some() != was_paused {
            self.breaker.moved.notify_waiters();
        }
        turn
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let is_at_rest = {
            let mut state = self.breaker.lock();
            state.under_way -= 1;
            state.is_at_rest()
        };
        self.breaker.moved.notify_one();
        if is_at_rest {
            self.breakers.forget(self.id);
        }
    }
}

/// Counts one that waits, as long as it does.
struct Waiting<'b>(&'b Breaker);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// How long it takes until what was read of a delivery and its endpoint is read again before it is sent.
const OLD_AFTER: Duration = Duration::from_millis(250);
/// The longest that a claim is held for its endpoint's rate.
const RATE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Endpoints that are remembered beside those being sent to: what is forgotten is learned again.
const KNOWN_MAX: usize = 10_000;

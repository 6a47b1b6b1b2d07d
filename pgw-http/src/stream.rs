//! A stream of events: the feed as server-sent events (the HTML standard, §9.2), and how many there may be at once.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use futures_util::future::poll_immediate;
use pgw_core::access::{Permission, Principal};
use pgw_core::event::Event;
use pgw_core::gateway::Gateway;
use pgw_core::notifier::{Hint, Subscription};
use tokio::time::Sleep;

use crate::auth::Authenticator;
use crate::drain::Drain;
use crate::problem::{Problem, ProblemKind};
use crate::rate_limit::too_many;

/// How many streams of events may be open at once. Beyond the caller's the answer is 429, beyond the router's 503.
///
/// A stream costs a connection, a few kilobytes and at most a hundred events, however slowly it is read. It ends after an hour,
/// and within 30 seconds once its API key is revoked or its address denied; clients reconnect by themselves and lose nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    in_all: usize,
    per_caller: usize,
}

impl StreamLimits {
    /// With another number for the whole router; 1,000 by default.
    #[must_use]
    pub const fn with_in_all(mut self, streams: usize) -> Self {
        self.in_all = streams;
        self
    }

    /// With another number for each caller; 10 by default.
    #[must_use]
    pub const fn with_per_caller(mut self, streams: usize) -> Self {
        self.per_caller = streams;
        self
    }
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { in_all: 1_000, per_caller: 10 }
    }
}

/// The streams that are open.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    limits: StreamLimits,
    open: Arc<Mutex<BTreeMap<Arc<str>, usize>>>,
}

impl Streams {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        Self { limits, open: Arc::default() }
    }

    /// Room for one more stream of this caller.
    pub(crate) fn open(&self, caller: &Principal) -> Result<Slot, Problem> {
        let Principal { scope, actor, .. } = caller;
        let name = format!("{}:{}:{actor}", scope.merchant.as_str(), scope.mode).into();
        let mut open = lock(&self.open);
        if open.values().sum::<usize>() >= self.limits.in_all {
            let detail = "As many streams are open as there may be; read GET /events meanwhile.";
            let busy = Problem::new(ProblemKind::Overloaded, detail);
            return Err(busy.retry_after(RETRY_FULL_SECS));
        }
        let own = open.entry(Arc::clone(&name)).or_default();
        if *own >= self.limits.per_caller {
            return Err(too_many(Duration::from_secs(RETRY_FULL_SECS.into())));
        }
        *own += 1;
        drop(open);
        Ok(Slot { open: Arc::clone(&self.open), name })
    }
}

/// One open stream; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    open: Arc<Mutex<BTreeMap<Arc<str>, usize>>>,
    name: Arc<str>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if let Some(own) = open.get_mut(&self.name) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.name);
            }
        }
    }
}

/// Who listens, and since when.
pub(crate) struct Listener {
    pub(crate) gateway: Gateway,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// Of the request, what the authenticator looks at: it is asked again and again.
    pub(crate) headers: HeaderMap,
    pub(crate) principal: Principal,
    pub(crate) permission: Permission,
    /// The position of the last event that was seen.
    pub(crate) after: u64,
    /// The client's address, which may be denied meanwhile.
    pub(crate) origin: Option<IpAddr>,
    pub(crate) drain: Drain,
    /// Its place among the streams, for as long as it goes on.
    pub(crate) _slot: Slot,
}

impl Listener {
    /// The stream. Events are read as fast as they are taken: a slow reader has them wait in storage, not here.
    pub(crate) fn stream(self, hints: Box<dyn Subscription>) -> Body {
        let following = Following {
            listener: self,
            hints,
            ahead: VecDeque::new(),
            opening: Some(Bytes::from_static(OPENING)),
            look_again: timer(Duration::ZERO),
            rested: timer(Duration::ZERO),
            check_again: timer(CHECK_PERIOD),
            silence: timer(HEARTBEAT_PERIOD),
            end: timer(LIFETIME),
        };
        let frames = futures_util::stream::unfold(following, |mut following| async {
            let frame = following.next().await?;
            following.silence = timer(HEARTBEAT_PERIOD);
            Some((Ok::<_, Infallible>(frame), following))
        });
        Body::from_stream(frames)
    }

    /// Whether the address is still let in, and the credential still opens what it opened.
    async fn may_go_on(&self) -> bool {
        if let Some(origin) = self.origin
            && self.gateway.is_denied(origin).await
        {
            return false;
        }
        match self.authenticator.authenticate(&self.headers).await {
            Ok(now) => now.scope == self.principal.scope && now.role.may(self.permission),
            Err(_) => false,
        }
    }
}

struct Following {
    listener: Listener,
    hints: Box<dyn Subscription>,
    ahead: VecDeque<Event>,
    opening: Option<Bytes>,
    look_again: Pin<Box<Sleep>>,
    /// Until then hints are one hint.
    rested: Pin<Box<Sleep>>,
    check_again: Pin<Box<Sleep>>,
    silence: Pin<Box<Sleep>>,
    end: Pin<Box<Sleep>>,
}

impl Following {
    /// The next frame; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Before anything is given: a reader may have let much time go by since the last frame.
            if self.listener.drain.has_begun() || is_over(&mut self.end).await {
                return None;
            }
            if is_over(&mut self.check_again).await {
                if !self.listener.may_go_on().await {
                    return None;
                }
                self.check_again = timer(CHECK_PERIOD);
            }
            if let Some(opening) = self.opening.take() {
                return Some(opening);
            }
            if let Some(event) = self.ahead.pop_front() {
                self.listener.after = event.feed_position.unwrap_or(self.listener.after);
                return Some(frame(&event));
            }
            if is_over(&mut self.look_again).await {
                self.look_again = timer(POLL_PERIOD);
                self.rested = timer(REST_PERIOD);
                if self.look().await? {
                    continue;
                }
            }
            if let Some(heartbeat) = self.wait().await {
                return Some(heartbeat);
            }
        }
    }

    /// Reads on; whether there was anything. `None` when it cannot be told: the client comes again and hears why.
    async fn look(&mut self) -> Option<bool> {
        let Listener { gateway, principal, after, .. } = &self.listener;
        match gateway.storage().feed(&principal.scope, *after, BATCH).await {
            Ok(events) => {
                if events.len() >= BATCH {
                    // There may be more, which no hint will tell of.
                    self.look_again = timer(Duration::ZERO);
                }
                self.ahead.extend(events);
                Some(!self.ahead.is_empty())
            }
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(error, "a stream of events ends early");
                None
            }
        }
    }

    /// Waits for something to happen; a heartbeat when nothing did for long.
    async fn wait(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                // In a fixed order, so that a run can be replayed.
                biased;
                () = self.listener.drain.begun() => return None,
                () = &mut self.end => return None,
                () = &mut self.check_again => return None,
                () = &mut self.look_again => return None,
                hint = self.hints.next() => {
                    let (rested, next) = (self.rested.deadline(), self.look_again.deadline());
                    if matches!(hint, Hint::Stamped | Hint::Missed) && rested < next {
                        self.look_again.as_mut().reset(rested);
                        return None;
                    }
                }
                () = &mut self.silence => return Some(Bytes::from_static(HEARTBEAT)),
            }
        }
    }
}

/// An event. Its body is one line: JSON as we write it has no line breaks.
fn frame(event: &Event) -> Bytes {
    let position = event.feed_position.unwrap_or_default();
    let head = format!("id: {position}\nevent: {}\ndata: ", event.event_type);
    let mut frame = Vec::with_capacity(head.len() + event.body.len() + 2);
    frame.extend_from_slice(head.as_bytes());
    frame.extend_from_slice(&event.body);
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

fn timer(wait: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(wait))
}

async fn is_over(timer: &mut Pin<Box<Sleep>>) -> bool {
    poll_immediate(timer).await.is_some()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first bytes, so that the client knows that it is connected, and how soon to come again.
const OPENING: &[u8] = b"retry: 2000\n\n";
/// A comment: keeps proxies from taking silence for death.
const HEARTBEAT: &[u8] = b":\n\n";
/// Proxies commonly give up after 60 s, some after 30.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(15);
/// How often it looks without a hint: hints may be lost, and there may be a thousand streams.
const POLL_PERIOD: Duration = Duration::from_secs(5);
/// The least time between two looks for hints' sake: every stream hears every hint, and busy merchants' events come all the time.
const REST_PERIOD: Duration = Duration::from_millis(200);
/// How long a revoked key, or an address that is denied, goes on hearing at most.
const CHECK_PERIOD: Duration = Duration::from_secs(30);
/// Long enough to be cheap; short enough that connections move to new servers within a working day.
const LIFETIME: Duration = Duration::from_secs(3_600);
/// Events read at once.
const BATCH: usize = 100;
/// When to come again while all streams are taken.
const RETRY_FULL_SECS: u32 = 30;

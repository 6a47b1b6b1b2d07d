//! `RedisNotifier`: hints between processes, by pub/sub.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::Env;
use pgw_core::notifier::{Hint, Notifier, NotifierError, Outbox, Sending, Subscription};
use redis::{PushInfo, PushKind, Value, cmd};
use tokio::sync::{broadcast, mpsc, watch};

use crate::error::RedisError;
use crate::link::{Connection, Dial, Link, Pushes, chain};
use crate::redis::{Inner, Redis};

/// Hints to everybody on this Redis.
///
/// Subscribers of the same process hear a hint at once. Other processes hear it by pub/sub, on a Cluster by sharded pub/sub, so that a hint
/// goes to the one node that has its slot. Hints are sent on a task of their own, and what is published while one is on its way goes out with
/// the next. One connection of its own listens; when it is lost it is made again, and subscribers hear [`Hint::Missed`].
///
/// Clones share the connection and the subscribers.
#[derive(Clone)]
pub struct RedisNotifier(Arc<Shared>);

struct Shared {
    redis: Arc<Inner>,
    /// Tells what this notifier sent from what others did.
    origin: u64,
    hub: broadcast::Sender<Hint>,
    outbox: Outbox,
    listener: Mutex<Option<Listener>>,
}

/// The task that listens, and whether it does yet.
struct Listener {
    task: tokio::task::JoinHandle<()>,
    listens: watch::Receiver<bool>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RedisNotifier {
    /// How many unread hints a subscription keeps.
    pub const UNREAD_MAX: usize = 1_024;

    pub(crate) fn new(redis: &Redis) -> Self {
        let (hub, _) = broadcast::channel(Self::UNREAD_MAX);
        Self(Arc::new(Shared {
            redis: Arc::clone(&redis.0),
            origin: Env::system().u64(),
            hub,
            outbox: Outbox::default(),
            listener: Mutex::default(),
        }))
    }

    /// Waits until what was published has gone out to other processes, or was given up because Redis is away. For a process that is about to end.
    ///
    /// # Cancel safety
    /// The future may be dropped at any await; nothing is lost by that.
    pub async fn sent(&self) {
        self.0.outbox.sent().await;
    }
}

impl Shared {
    /// Sends until the outbox is empty. While Redis is away it waits with what there is, because others may be connected and miss it; what comes
    /// together by then goes out as [`Hint::Missed`].
    async fn send(self: Arc<Self>, mut sending: Sending) {
        let channel = self.redis.namespace.channel();
        let publish = match self.redis.link.dial() {
            Dial::Cluster(_) => "SPUBLISH",
            Dial::Node(_) | Dial::Sentinel(_) => "PUBLISH",
        };
        loop {
            let mut hints = sending.take();
            if hints.is_empty() {
                return;
            }
            for _ in 0..ATTEMPTS {
                let mut command = cmd(publish);
                command.arg(&channel).arg(payload(self.origin, &hints));
                let Err(error) = self.redis.link.command::<Value>(&command).await else { break };
                tracing::debug!(error = %chain(&error), "hints were not sent to other processes; polling finds the work");
                sending.stall();
                hints = vec![Hint::Missed];
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Starts to listen, once; a view of whether it does.
    fn listen(self: &Arc<Self>) -> watch::Receiver<bool> {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listener.as_ref().filter(|listener| !listener.task.is_finished()) {
            return listener.listens.clone();
        }
        let (tells, listens) = watch::channel(false);
        let hears = Hears {
            link: Arc::clone(&self.redis.link),
            channel: self.redis.namespace.channel(),
            origin: self.origin,
            hub: self.hub.clone(),
            tells,
            has_listened: false,
        };
        let task = tokio::spawn(hears.run());
        *listener = Some(Listener { task, listens: listens.clone() });
        listens
    }
}

/// The listening task. It holds no notifier, so it ends with the last one.
struct Hears {
    link: Arc<Link>,
    channel: String,
    origin: u64,
    hub: broadcast::Sender<Hint>,
    tells: watch::Sender<bool>,
    has_listened: bool,
}

impl Hears {
    async fn run(mut self) {
        let mut pause = RECONNECT_FIRST;
        loop {
            let (pushes, mut pushed) = mpsc::channel(PUSHES_MAX);
            match self.connect(Pushes(pushes)).await {
                Ok(mut connection) => {
                    pause = RECONNECT_FIRST;
                    if std::mem::replace(&mut self.has_listened, true) {
                        self.say(Hint::Missed);
                    }
                    self.tells.send_replace(true);
                    self.hear(&mut connection, &mut pushed).await;
                    self.tells.send_replace(false);
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "hints of other processes are not heard; polling goes on");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_MOST);
        }
    }

    async fn connect(&self, pushes: Pushes) -> Result<Connection, RedisError> {
        let mut connection = self.link.listener(pushes).await?;
        let subscribed = async {
            match &mut connection {
                Connection::Node(node) => node.subscribe(&self.channel).await,
                Connection::Cluster(cluster) => cluster.ssubscribe(&self.channel).await,
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, subscribed).await {
            Ok(subscribed) => subscribed.map_err(RedisError::Failed)?,
            Err(_) => return Err(RedisError::TimedOut(CONNECT_TIMEOUT)),
        }
        Ok(connection)
    }

    /// Passes hints on until the connection is lost, which a server that is silent without closing it shows by no answer to a ping.
    async fn hear(&self, connection: &mut Connection, pushed: &mut mpsc::Receiver<PushInfo>) {
        let mut pings = tokio::time::interval(PING_PERIOD);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                push = pushed.recv() => {
                    let Some(push) = push else { return };
                    if !self.pass_on(&push) {
                        return;
                    }
                    // As many were dropped as did not fit.
                    if pushed.len() + 1 >= PUSHES_MAX {
                        self.say(Hint::Missed);
                    }
                }
                _ = pings.tick() => {
                    let ping = cmd("PING");
                    let answer = ping.query_async::<Value>(connection);
                    if !matches!(tokio::time::timeout(self.link.timeout(), answer).await, Ok(Ok(_))) {
                        return;
                    }
                }
            }
        }
    }

    /// Passes on what a push says; whether the subscription still holds.
    fn pass_on(&self, push: &PushInfo) -> bool {
        match push.kind {
            PushKind::Message | PushKind::SMessage => {
                let text = match push.data.last() {
                    Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).ok(),
                    Some(Value::SimpleString(text)) => Some(text.as_str()),
                    _ => None,
                };
                for hint in text
                    .map_or_else(|| Some(vec![Hint::Missed]), |text| parse(self.origin, text))
                    .unwrap_or_default()
                {
                    self.say(hint);
                }
                true
            }
            // Also when a slot moves to another node.
            PushKind::Disconnection | PushKind::Unsubscribe | PushKind::SUnsubscribe => false,
            _ => true,
        }
    }

    fn say(&self, hint: Hint) {
        // An error means that nobody listens just now.
        let _ = self.hub.send(hint);
    }
}

#[async_trait]
impl Notifier for RedisNotifier {
    async fn publish(&self, hints: &[Hint]) -> Result<(), NotifierError> {
        if hints.is_empty() {
            return Ok(());
        }
        for hint in hints {
            let _ = self.0.hub.send(hint.clone());
        }
        if self.0.outbox.put(hints) {
            let sending = self.0.outbox.sending();
            tokio::spawn(Arc::clone(&self.0).send(sending));
        }
        Ok(())
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        let subscription =
            RedisSubscription { hints: self.0.hub.subscribe(), _notifier: self.clone() };
        // A hint published from now on is to be heard, so listening must have begun; if it cannot, there is polling.
        let mut listens = self.0.listen();
        let begun = listens.wait_for(|listens| *listens);
        if tokio::time::timeout(self.0.redis.link.timeout(), begun).await.is_err() {
            tracing::warn!("hints of other processes are not heard yet; polling goes on");
        }
        Ok(Box::new(subscription))
    }
}

impl fmt::Debug for RedisNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisNotifier").field("redis", &self.0.redis).finish_non_exhaustive()
    }
}

/// What a subscriber hears.
struct RedisSubscription {
    hints: broadcast::Receiver<Hint>,
    /// Keeps the connection that listens.
    _notifier: RedisNotifier,
}

#[async_trait]
impl Subscription for RedisSubscription {
    async fn next(&mut self) -> Hint {
        match self.hints.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => Hint::Missed,
            // The notifier is held by this subscription, so its hub is there.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for RedisSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSubscription").finish_non_exhaustive()
    }
}

/// Hints as one message: the first line says who sent them.
fn payload(origin: u64, hints: &[Hint]) -> String {
    let mut text = format!("{origin:016x}");
    for hint in hints {
        text.push('\n');
        text.push_str(&hint.to_string());
    }
    text
}

/// The hints of a message; `None` when it is our own, which our subscribers heard before it was sent.
fn parse(own: u64, text: &str) -> Option<Vec<Hint>> {
    let mut lines = text.lines();
    if lines.next() == Some(&format!("{own:016x}")) {
        return None;
    }
    Some(lines.map(|line| line.parse().unwrap_or(Hint::Missed)).collect())
}

/// How often hints are sent anew, and how long after: for a minute, by which time everybody has looked for himself. While Redis is known to be
/// away an attempt costs nothing, so what is back is not waited for.
const ATTEMPTS: u32 = 120;
const PAUSE: Duration = Duration::from_millis(500);
/// Most pushes that wait to be passed on.
const PUSHES_MAX: usize = 1_024;
const PING_PERIOD: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MOST: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_come_back_in_order_and_ours_do_not() {
        let hints = [Hint::Events, Hint::Stamped, Hint::Missed];
        let text = payload(7, &hints);
        assert_eq!(parse(8, &text).as_deref(), Some(&hints[..]));
        assert_eq!(parse(7, &text), None);
        assert_eq!(parse(7, "x\nnonsense"), Some(vec![Hint::Missed]));
    }
}

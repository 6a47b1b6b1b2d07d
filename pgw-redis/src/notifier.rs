//! `RedisNotifier`: hints between processes, by pub/sub.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::Env;
use pgw_core::notifier::{
    Ears, Hint, Notifier, NotifierError, Relay, Sending, Subscription, heard_from_now_on,
};
use redis::{PushInfo, PushKind, Value, cmd};
use tokio::sync::mpsc;

use crate::error::RedisError;
use crate::link::{Connection, Dial, Link, Pushes, chain};
use crate::redis::{Inner, Redis};

/// Hints to everybody on this Redis.
///
/// Subscribers of the same process hear a hint at once. Other processes hear it by pub/sub, on a Cluster by sharded pub/sub, so that a hint
/// goes to the one node that has its slot. Hints are sent on a task of their own, and what is published while one is on its way, or within
/// 5 ms after, goes out with the next. One connection of its own listens; when it is lost it is made again, and subscribers hear [`Hint::Missed`].
///
/// Clones share the connection and the subscribers.
#[derive(Clone)]
pub struct RedisNotifier(Arc<Shared>);

struct Shared {
    redis: Arc<Inner>,
    relay: Relay,
}

impl RedisNotifier {
    /// How many unread hints a subscription keeps.
    pub const UNREAD_MAX: usize = Relay::UNREAD_MAX;

    pub(crate) fn new(redis: &Redis) -> Self {
        let relay = Relay::new(Env::system().u64());
        Self(Arc::new(Shared { redis: Arc::clone(&redis.0), relay }))
    }

    /// Waits until what was published has gone out to other processes, or was given up because Redis is away. For a process that is about to end.
    ///
    /// # Cancel safety
    /// The future may be dropped at any await; nothing is lost by that.
    pub async fn sent(&self) {
        self.0.relay.sent().await;
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
            let mut was_away = false;
            for _ in 0..ATTEMPTS {
                let mut command = cmd(publish);
                command.arg(&channel).arg(self.relay.texts(&hints, usize::MAX));
                let Err(error) = self.redis.link.command::<Value>(&command).await else { break };
                tracing::debug!(error = %chain(&error), "hints were not sent to other processes; polling finds the work");
                sending.stall();
                was_away = true;
                hints = vec![Hint::Missed];
                tokio::time::sleep(PAUSE).await;
            }
            // More of them go out together this way, and nobody is kept waiting who was alone. Whoever waits for all to be sent gives up while Redis
            // is away, until the next are taken.
            if !was_away {
                tokio::time::sleep(GAP).await;
            }
        }
    }
}

/// The listening task. It holds no notifier, so it ends with the last one.
struct Hears {
    link: Arc<Link>,
    channel: String,
    ears: Ears,
}

impl Hears {
    async fn run(mut self) {
        let mut pause = RECONNECT_FIRST;
        loop {
            let (pushes, mut pushed) = mpsc::channel(PUSHES_MAX);
            match self.connect(Pushes(pushes)).await {
                Ok(mut connection) => {
                    pause = RECONNECT_FIRST;
                    self.ears.begin();
                    self.hear(&mut connection, &mut pushed).await;
                    self.ears.end();
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
                        self.ears.say(Hint::Missed);
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
                match text {
                    Some(text) => self.ears.hear(text),
                    None => self.ears.say(Hint::Missed),
                }
                true
            }
            // Also when a slot moves to another node.
            PushKind::Disconnection | PushKind::Unsubscribe | PushKind::SUnsubscribe => false,
            _ => true,
        }
    }
}

#[async_trait]
impl Notifier for RedisNotifier {
    async fn publish(&self, hints: &[Hint]) -> Result<(), NotifierError> {
        if let Some(sending) = self.0.relay.publish(hints) {
            tokio::spawn(Arc::clone(&self.0).send(sending));
        }
        Ok(())
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        let redis = &self.0.redis;
        let subscription = self.0.relay.subscribe(self.clone());
        let (link, channel) = (Arc::clone(&redis.link), redis.namespace.channel());
        let listens = self.0.relay.listen(|ears| Hears { link, channel, ears }.run());
        heard_from_now_on(listens, redis.link.timeout()).await;
        Ok(subscription)
    }
}

impl fmt::Debug for RedisNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisNotifier").field("redis", &self.0.redis).finish_non_exhaustive()
    }
}

/// How often hints are sent anew, and how long after: for a minute, by which time everybody has looked for himself. While Redis is known to be
/// away an attempt costs nothing, so what is back is not waited for.
const ATTEMPTS: u32 = 120;
const PAUSE: Duration = Duration::from_millis(500);
/// How long after hints were sent the next are.
const GAP: Duration = Duration::from_millis(5);
/// Most pushes that wait to be passed on.
const PUSHES_MAX: usize = 1_024;
const PING_PERIOD: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MOST: Duration = Duration::from_secs(3);

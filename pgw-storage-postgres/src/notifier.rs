//! `PgNotifier`: hints between processes, by NOTIFY and LISTEN.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::notifier::{Hint, Notifier, NotifierError, Outbox, Sending, Subscription};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{broadcast, watch};

use crate::database::Database;
use crate::schema::Schema;
use crate::sql::Bound;

/// Hints to everybody on this database.
///
/// Subscribers of the same process hear a hint at once. Other processes hear it by NOTIFY, sent on a task of its own: what is published while
/// one is on its way goes out with the next, so hints cost a few transactions a second, not one each. One connection of its own listens; when it is
/// lost it is made again, and subscribers hear [`Hint::Missed`].
///
/// Clones share the connection and the subscribers.
#[derive(Clone)]
pub struct PgNotifier(Arc<Inner>);

struct Inner {
    database: Arc<Database>,
    listens_on: Option<PgConnectOptions>,
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

impl PgNotifier {
    /// How many unread hints a subscription keeps.
    pub const UNREAD_MAX: usize = 1_024;

    pub(crate) fn new(database: Arc<Database>, listens_on: Option<PgConnectOptions>) -> Self {
        let (hub, _) = broadcast::channel(Self::UNREAD_MAX);
        let origin = database.env.u64();
        let (outbox, listener) = (Outbox::default(), Mutex::default());
        Self(Arc::new(Inner { database, listens_on, origin, hub, outbox, listener }))
    }

    /// Waits until what was published has gone out to other processes, or was given up. For a process that is about to end.
    ///
    /// # Cancel safety
    /// The future may be dropped at any await; nothing is lost by that.
    pub async fn sent(&self) {
        self.0.outbox.sent().await;
    }
}

impl Inner {
    /// Sends until the outbox is empty.
    async fn send(self: Arc<Self>, mut sending: Sending) {
        // Nothing durable is in this transaction, so nobody's payment waits behind a flush for it.
        const NOTIFY: &str = "select set_config('synchronous_commit', 'off', true), pg_notify($1, p) from unnest($2::text[]) p";
        loop {
            let hints = sending.take();
            if hints.is_empty() {
                return;
            }
            let statement = self.database.sql.text(NOTIFY);
            let (channel, payloads) =
                (channel(self.database.sql.schema()), payload(Some(self.origin), &hints));
            let bound = move || Bound::new().and(channel.as_str()).and(&payloads[..]);
            if let Err(error) = self.database.tell(statement, bound).await {
                tracing::warn!(%error, "hints were not sent to other processes; polling will find the work");
            }
            // More of them go out together this way, and nobody is kept waiting who was alone.
            tokio::time::sleep(GAP).await;
        }
    }

    /// Starts to listen, once; a view of whether it does.
    fn listen(self: &Arc<Self>) -> Option<watch::Receiver<bool>> {
        let options = self.listens_on.clone()?;
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listener.as_ref().filter(|listener| !listener.task.is_finished()) {
            return Some(listener.listens.clone());
        }
        let (tells, listens) = watch::channel(false);
        let hears = Hears {
            options,
            channel: channel(self.database.sql.schema()),
            origin: self.origin,
            hub: self.hub.clone(),
            tells,
        };
        let task = tokio::spawn(hears.run());
        *listener = Some(Listener { task, listens: listens.clone() });
        Some(listens)
    }
}

/// The listening task. It holds no notifier, so it ends with the last one.
struct Hears {
    options: PgConnectOptions,
    channel: String,
    origin: u64,
    hub: broadcast::Sender<Hint>,
    tells: watch::Sender<bool>,
}

impl Hears {
    async fn run(self) {
        let mut pause = RECONNECT_FIRST;
        loop {
            match self.connect().await {
                Ok(mut listener) => {
                    pause = RECONNECT_FIRST;
                    if self.tells.send_replace(true) {
                        self.say(Hint::Missed);
                    }
                    self.hear(&mut listener).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "hints of other processes are not heard; polling goes on");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_MOST);
        }
    }

    async fn connect(&self) -> Result<PgListener, sqlx::Error> {
        let options = self.options.clone().application_name("pgw hints");
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT);
        let mut listener = PgListener::connect_with(&pool.connect_with(options).await?).await?;
        listener.eager_reconnect(false);
        listener.listen(&self.channel).await?;
        Ok(listener)
    }

    /// Passes hints on until the connection is lost.
    async fn hear(&self, listener: &mut PgListener) {
        loop {
            match listener.try_recv().await {
                Ok(Some(notification)) => {
                    if let Some(hints) = parse(self.origin, notification.payload()) {
                        hints.into_iter().for_each(|hint| self.say(hint));
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "the connection that listens was lost");
                    return;
                }
            }
        }
    }

    fn say(&self, hint: Hint) {
        // An error means that nobody listens just now.
        let _ = self.hub.send(hint);
    }
}

#[async_trait]
impl Notifier for PgNotifier {
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
            PgSubscription { hints: self.0.hub.subscribe(), _notifier: self.clone() };
        if let Some(mut listens) = self.0.listen() {
            // A hint published from now on is to be heard, so listening must have begun; if it cannot, there is polling.
            let begun = listens.wait_for(|listens| *listens);
            if tokio::time::timeout(CONNECT_TIMEOUT, begun).await.is_err() {
                tracing::warn!("hints of other processes are not heard yet; polling goes on");
            }
        }
        Ok(Box::new(subscription))
    }
}

impl fmt::Debug for PgNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the connection's options, which may hold a password.
        f.debug_struct("PgNotifier")
            .field("schema", self.0.database.sql.schema())
            .finish_non_exhaustive()
    }
}

/// What a subscriber hears.
struct PgSubscription {
    hints: broadcast::Receiver<Hint>,
    /// Keeps the connection that listens.
    _notifier: PgNotifier,
}

#[async_trait]
impl Subscription for PgSubscription {
    async fn next(&mut self) -> Hint {
        match self.hints.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => Hint::Missed,
            // The notifier is held by this subscription, so its hub is there.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for PgSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSubscription").finish_non_exhaustive()
    }
}

/// The channel of a schema's hints.
pub(crate) fn channel(schema: &Schema) -> String {
    format!("{schema}_hints")
}

/// Hints as payloads, in order, each as long as PostgreSQL takes. The first line says who sent them.
pub(crate) fn payload(origin: Option<u64>, hints: &[Hint]) -> Vec<String> {
    let start = origin.map_or_else(|| "-".to_owned(), |origin| format!("{origin:016x}"));
    let mut payloads = Vec::new();
    let mut payload = start.clone();
    for hint in hints {
        let line = hint.to_string();
        if payload.len() + 1 + line.len() > PAYLOAD_MAX {
            payloads.push(std::mem::replace(&mut payload, start.clone()));
        }
        payload.push('\n');
        payload.push_str(&line);
    }
    if payload.len() > start.len() {
        payloads.push(payload);
    }
    payloads
}

/// The hints of a payload; `None` when it is our own, which our subscribers heard before it was sent.
fn parse(own: u64, payload: &str) -> Option<Vec<Hint>> {
    let mut lines = payload.lines();
    if lines.next() == Some(&format!("{own:016x}")) {
        return None;
    }
    Some(lines.map(|line| line.parse().unwrap_or(Hint::Missed)).collect())
}

/// PostgreSQL takes payloads below 8,000 bytes.
const PAYLOAD_MAX: usize = 7_900;
/// Between two sendings.
const GAP: Duration = Duration::from_millis(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MOST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use pgw_core::queue::Lane;
    use pgw_core::testing::sample::Samples;

    use super::*;

    #[test]
    fn hints_come_back_in_order_and_ours_do_not() {
        let samples = Samples::new(1);
        let mut hints: Vec<Hint> = Lane::ALL.map(Hint::Work).to_vec();
        hints.extend([
            Hint::Events,
            Hint::Stamped,
            Hint::ShieldChanged,
            Hint::KeyRevoked(samples.api_key().prefix),
            Hint::Missed,
        ]);
        let scopes = samples.foreign().into_iter().cycle();
        hints.extend(
            scopes.take(300).map(|scope| Hint::Payment { scope, id: samples.payment().id }),
        );
        let payloads = payload(Some(7), &hints);
        assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() <= PAYLOAD_MAX));
        let heard: Vec<Hint> = payloads.iter().flat_map(|one| parse(8, one).unwrap()).collect();
        assert_eq!(heard, hints);
        assert!(payloads.iter().all(|payload| parse(7, payload).is_none()));
        assert_eq!(parse(7, "-\nevents"), Some(vec![Hint::Events]));
        assert_eq!(parse(7, "x\nnonsense"), Some(vec![Hint::Missed]));
        assert!(payload(Some(7), &[]).is_empty());
    }
}

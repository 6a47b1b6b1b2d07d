//! `PgNotifier`: hints between processes, by NOTIFY and LISTEN.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::notifier::{
    Ears, Hint, Notifier, NotifierError, Relay, Sending, Subscription, heard_from_now_on,
};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

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
    relay: Relay,
}

impl PgNotifier {
    /// How many unread hints a subscription keeps.
    pub const UNREAD_MAX: usize = Relay::UNREAD_MAX;

    pub(crate) fn new(database: Arc<Database>, listens_on: Option<PgConnectOptions>) -> Self {
        let relay = Relay::new(database.env.u64());
        Self(Arc::new(Inner { database, listens_on, relay }))
    }

    /// Waits until what was published has gone out to other processes, or was given up. For a process that is about to end.
    ///
    /// # Cancel safety
    /// The future may be dropped at any await; nothing is lost by that.
    pub async fn sent(&self) {
        self.0.relay.sent().await;
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
            let channel = channel(self.database.sql.schema());
            let payloads = self.relay.texts(&hints, PAYLOAD_MAX);
            let bound = move || Bound::new().and(channel.as_str()).and(&payloads[..]);
            if let Err(error) = self.database.tell(statement, bound).await {
                tracing::warn!(%error, "hints were not sent to other processes; polling will find the work");
            }
            // More of them go out together this way, and nobody is kept waiting who was alone.
            tokio::time::sleep(GAP).await;
        }
    }
}

/// The listening task. It holds no notifier, so it ends with the last one.
struct Hears {
    options: PgConnectOptions,
    channel: String,
    ears: Ears,
}

impl Hears {
    async fn run(mut self) {
        let mut pause = RECONNECT_FIRST;
        loop {
            match self.connect().await {
                Ok(mut listener) => {
                    pause = RECONNECT_FIRST;
                    // That it ends is not said: who subscribes meanwhile, as every request that waits does, polls rather than waits.
                    self.ears.begin();
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
                Ok(Some(notification)) => self.ears.hear(notification.payload()),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "the connection that listens was lost");
                    return;
                }
            }
        }
    }
}

#[async_trait]
impl Notifier for PgNotifier {
    async fn publish(&self, hints: &[Hint]) -> Result<(), NotifierError> {
        if let Some(sending) = self.0.relay.publish(hints) {
            tokio::spawn(Arc::clone(&self.0).send(sending));
        }
        Ok(())
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        let subscription = self.0.relay.subscribe(self.clone());
        if let Some(options) = &self.0.listens_on {
            let channel = channel(self.0.database.sql.schema());
            let hears = |ears| Hears { options: options.clone(), channel, ears }.run();
            heard_from_now_on(self.0.relay.listen(hears), CONNECT_TIMEOUT).await;
        }
        Ok(subscription)
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

/// The channel of a schema's hints.
pub(crate) fn channel(schema: &Schema) -> String {
    format!("{schema}_hints")
}

/// PostgreSQL takes payloads below 8,000 bytes.
pub(crate) const PAYLOAD_MAX: usize = 7_900;
/// Between two sendings.
const GAP: Duration = Duration::from_millis(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MOST: Duration = Duration::from_secs(5);

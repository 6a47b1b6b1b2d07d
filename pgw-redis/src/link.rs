//! The connection: made when it is first wanted, made again when it is lost, and nobody waits for what is known to be away.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pgw_core::env::Env;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::SentinelClient;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, PushInfo, RedisFuture,
    RedisResult, ScriptInvocation, Value,
};
use tokio::sync::{Mutex, mpsc, watch};

use crate::error::RedisError;

/// Who is called.
pub(crate) enum Dial {
    Node(Box<Client>),
    /// Asked anew for each connection: who is in charge changes.
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

impl Dial {
    /// A connection; what the server says unasked goes to `pushes`.
    async fn connect(&self, timeout: Duration, pushes: Option<Pushes>) -> RedisResult<Connection> {
        if let Self::Cluster(client) = self {
            let mut config =
                ClusterConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
            if let Some(pushes) = pushes {
                config = config.set_push_sender(move |push| pushes.take(push));
            }
            return client.get_async_connection_with_config(config).await.map(Connection::Cluster);
        }
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        if let Some(pushes) = pushes {
            config = config.set_push_sender(move |push| pushes.take(push));
        }
        let client = match self {
            Self::Sentinel(sentinels) => sentinels.lock().await.async_get_client().await?,
            Self::Node(client) => Client::clone(client),
            Self::Cluster(_) => unreachable!("a Cluster was connected to above"),
        };
        client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Node)
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the addresses, which may hold passwords.
        f.write_str(match self {
            Self::Node(_) => "Node",
            Self::Sentinel(_) => "Sentinel",
            Self::Cluster(_) => "Cluster",
        })
    }
}

/// What a server says unasked, as far as somebody has kept up with it.
#[derive(Debug, Clone)]
pub(crate) struct Pushes(pub(crate) mpsc::Sender<PushInfo>);

impl Pushes {
    /// Never waits: whoever is behind learns from the gap that it is.
    fn take(&self, push: PushInfo) -> Result<(), redis::aio::SendError> {
        self.0.try_send(push).map_err(|_| redis::aio::SendError)
    }
}

/// A connection that any number of callers use at once.
#[derive(Clone)]
pub(crate) enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Node(node) => node.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Node(node) => node.req_packed_commands(cmd, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Node(node) => node.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// The connection of one Redis, shared by all that use it.
pub(crate) struct Link {
    dial: Dial,
    timeout: Duration,
    state: watch::Sender<State>,
}

#[derive(Clone)]
enum State {
    /// Nobody has wanted it yet, or the runtime that dialed is gone.
    Idle,
    /// The first attempt is under way: it is waited for.
    Dialing,
    Up {
        connection: Connection,
        generation: u64,
    },
    /// It was lost, or could not be made, for this reason; a task tries.
    Away(Arc<RedisError>),
}

impl Link {
    pub(crate) fn new(dial: Dial, timeout: Duration) -> Arc<Self> {
        let (state, _) = watch::channel(State::Idle);
        Arc::new(Self { dial, timeout, state })
    }

    pub(crate) const fn dial(&self) -> &Dial {
        &self.dial
    }

    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs a script.
    pub(crate) async fn run<T: FromRedisValue>(
        self: &Arc<Self>,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        let (mut connection, generation) = self.connection().await?;
        let answer = script.invoke_async(&mut connection);
        self.within(answer, generation).await
    }

    /// Runs a command.
    pub(crate) async fn command<T: FromRedisValue>(
        self: &Arc<Self>,
        command: &Cmd,
    ) -> Result<T, RedisError> {
        let (mut connection, generation) = self.connection().await?;
        let answer = command.query_async(&mut connection);
        self.within(answer, generation).await
    }

    /// A connection of its own, that says what the server says unasked.
    pub(crate) async fn listener(&self, pushes: Pushes) -> Result<Connection, RedisError> {
        let connect = self.dial.connect(self.timeout, Some(pushes));
        match tokio::time::timeout(self.connect_timeout(), connect).await {
            Ok(connected) => connected.map_err(RedisError::Failed),
            Err(_) => Err(RedisError::TimedOut(self.connect_timeout())),
        }
    }

    async fn within<T>(
        self: &Arc<Self>,
        answer: impl Future<Output = RedisResult<T>>,
        generation: u64,
    ) -> Result<T, RedisError> {
        let error = match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if error.is_timeout() => RedisError::TimedOut(self.timeout),
            Ok(Err(error)) => RedisError::Failed(error),
            Err(_) => RedisError::TimedOut(self.timeout),
        };
        if error.is_of_the_connection() {
            self.lost(generation, &error);
        }
        Err(error)
    }

    /// The connection, if there is one or it can be made now.
    async fn connection(self: &Arc<Self>) -> Result<(Connection, u64), RedisError> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up { connection, generation } => {
                    return Ok((connection.clone(), *generation));
                }
                State::Away(reason) => return Err(RedisError::Away(Arc::clone(reason))),
                State::Idle | State::Dialing => {}
            }
            self.start();
            match tokio::time::timeout(self.connect_timeout(), state.changed()).await {
                Ok(Ok(())) => {}
                // The sender is in this link, so the other error cannot be.
                _ => return Err(RedisError::TimedOut(self.connect_timeout())),
            }
        }
    }

    fn start(self: &Arc<Self>) {
        let begins = self.state.send_if_modified(|state| {
            let is_idle = matches!(state, State::Idle);
            if is_idle {
                *state = State::Dialing;
            }
            is_idle
        });
        if begins {
            tokio::spawn(redial(GivenUp(Arc::downgrade(self)), 0));
        }
    }

    /// A connection turned out to be broken: it is made again, once, whoever else found that too.
    fn lost(self: &Arc<Self>, lost: u64, error: &RedisError) {
        let begins = self.state.send_if_modified(|state| match state {
            State::Up { generation, .. } if *generation == lost => {
                *state = State::Away(Arc::new(error.clone()));
                true
            }
            _ => false,
        });
        if begins {
            tracing::warn!(error = %chain(error), "Redis is away; work goes on without it");
            tokio::spawn(redial(GivenUp(Arc::downgrade(self)), lost));
        }
    }

    /// A Cluster is asked who is who before it is there.
    fn connect_timeout(&self) -> Duration {
        self.timeout.max(CONNECT_MIN)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("dial", &self.dial).finish_non_exhaustive()
    }
}

/// Tries until there is a connection, or nobody has the link any more.
async fn redial(given_up: GivenUp, mut generation: u64) {
    let link = &given_up.0;
    let mut pause = PAUSE_FIRST;
    let mut is_told = generation > 0;
    loop {
        let Some(here) = link.upgrade() else { return };
        generation += 1;
        let connect = here.dial.connect(here.timeout, None);
        let error = match tokio::time::timeout(here.connect_timeout(), connect).await {
            Ok(Ok(connection)) => {
                here.state.send_replace(State::Up { connection, generation });
                if is_told {
                    tracing::info!("Redis is back");
                }
                return;
            }
            Ok(Err(error)) => RedisError::Failed(error),
            Err(_) => RedisError::TimedOut(here.connect_timeout()),
        };
        if !is_told {
            tracing::warn!(error = %chain(&error), "Redis cannot be reached; work goes on without it");
            is_told = true;
        }
        here.state.send_if_modified(|state| {
            // Another task may have been faster.
            let is_news = !matches!(state, State::Up { .. });
            if is_news {
                *state = State::Away(Arc::new(error));
            }
            is_news
        });
        drop(here);
        // A different share of the pause each time, so that processes do not come back all at once.
        let share = u32::try_from(Env::system().u64() % 512).unwrap_or(0) + 512;
        tokio::time::sleep(pause * share / 1024).await;
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

/// When the runtime that tried ends first, whoever calls next begins anew. Made before the task, which may be dropped before it runs.
struct GivenUp(Weak<Link>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(link) = self.0.upgrade() {
            link.state.send_if_modified(|state| {
                let is_tried = matches!(state, State::Dialing | State::Away(_));
                if is_tried {
                    *state = State::Idle;
                }
                is_tried
            });
        }
    }
}

/// An error with its sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

const CONNECT_MIN: Duration = Duration::from_secs(2);
/// Between attempts to connect, the first and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(3);

//! The database: connections, transactions, and what to make of their errors.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::env::Env;
use pgw_core::storage::StorageError;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Error, PgConnection, PgPool, Postgres, Transaction};

use crate::builder::Engine;
use crate::clock::ServerClock;
use crate::error::{Doubt, doubt_of, is_worth_repeating, read_error, write_error};
use crate::handoff::Handoff;
use crate::link::Link;
use crate::sql::{Bound, Sql, Statement, quoted};
use crate::steps::Stopped;
use crate::sweeps::Sweep;

/// How long things may take before the server, or this crate, gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// A statement. 10 s.
    pub statement: Duration,
    /// Waiting for a lock. 2 s.
    pub lock: Duration,
    /// A transaction that does nothing. 10 s.
    pub idle_in_transaction: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            statement: Duration::from_secs(10),
            lock: Duration::from_secs(2),
            idle_in_transaction: Duration::from_secs(10),
        }
    }
}

impl Timeouts {
    /// Options of a direct connection that has these timeouts, the isolation level that pgw needs, and plans without sequential scans where
    /// there is an index (`enable_seqscan`) and without compilation (`jit`). They hold for all that is done on such a connection: give pgw a pool of
    /// its own where the host's own statements want other plans.
    ///
    /// For a pool that the host makes itself. Poolers do not pass such options on; through one, pgw sets the timeouts in each
    /// transaction, or the role has them: [`for_role`](Self::for_role).
    #[must_use]
    pub fn on(&self, options: PgConnectOptions) -> PgConnectOptions {
        options.options(self.settings())
    }

    /// The SQL that gives a role the same settings, for what it connects as through [`Link::PreparedPooler`]. They hold from its next connections
    /// on, so the pooler is then told to make new ones (`RECONNECT` in PgBouncer's console). They hold for all that the role does: give pgw one of
    /// its own, which is not the schema's owner. A role may run this for itself.
    ///
    /// ```
    /// use pgw_storage_postgres::Timeouts;
    /// let sql = Timeouts::default().for_role("pgw_app");
    /// assert!(sql.contains("alter role \"pgw_app\" set lock_timeout = '2000';"));
    /// ```
    #[must_use]
    pub fn for_role(&self, role: &str) -> String {
        let role = quoted(role);
        // Values are numbers and constants.
        let set = |(name, value)| format!("alter role {role} set {name} = '{value}';\n");
        self.settings().into_iter().map(set).collect()
    }

    pub(crate) fn settings(&self) -> [(&'static str, String); 6] {
        [
            ("statement_timeout", millis(self.statement)),
            ("lock_timeout", millis(self.lock)),
            ("idle_in_transaction_session_timeout", millis(self.idle_in_transaction)),
            ("default_transaction_isolation", "read committed".to_owned()),
            // A prepared statement keeps its plan, and one that was made while a table was small would go on reading all of it. There is
            // an index for each statement; where there is none, a scan is still what is left.
            ("enable_seqscan", "off".to_owned()),
            // What is compiled here runs for less time than compiling takes.
            ("jit", "off".to_owned()),
        ]
    }

    fn begin(&self) -> String {
        format!(
            "begin isolation level read committed; set local statement_timeout = {}; set local lock_timeout = {}; \
             set local idle_in_transaction_session_timeout = {}; set local jit = off",
            millis(self.statement),
            millis(self.lock),
            millis(self.idle_in_transaction)
        )
    }
}

fn millis(duration: Duration) -> String {
    // 0 would mean no timeout at all.
    duration.as_millis().clamp(1, 86_400_000).to_string()
}

/// A pool, and what its statements are made of.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) pool: PgPool,
    pub(crate) sql: Sql,
    pub(crate) clock: ServerClock,
    pub(crate) link: Link,
    engine: Engine,
    pub(crate) env: Env,
    pub(crate) handoff: Arc<Handoff>,
    begin: Statement,
}

/// Something that is done on a connection inside a transaction.
pub(crate) type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, Stopped>> + Send + 'c>>;

impl Database {
    pub(crate) fn new(
        pool: PgPool,
        sql: Sql,
        clock: ServerClock,
        link: Link,
        engine: Engine,
        timeouts: Timeouts,
        env: Env,
    ) -> Self {
        let begin = match link {
            // Their connections have their timeouts from options or from the role.
            Link::Direct | Link::PreparedPooler => {
                Statement::begin("begin isolation level read committed".to_owned())
            }
            Link::Pooler => Statement::begin(timeouts.begin()),
        };
        Self { pool, sql, clock, link, engine, env, handoff: Arc::default(), begin }
    }

    /// Whether connections keep prepared statements.
    pub(crate) const fn is_persistent(&self) -> bool {
        self.link.keeps_statements()
    }

    /// Runs work in a transaction of its own, on a task of its own, so that whoever waits may be dropped: sqlx leaves a transaction
    /// open whose `begin` is dropped. As often as the server says that it could not be serialized, it is run again as a whole.
    pub(crate) async fn transact<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl for<'c> Fn(&'c mut PgConnection) -> Work<'c, T> + Send + Sync + 'static,
    ) -> Result<T, StorageError> {
        let database = Arc::clone(self);
        let task = tokio::spawn(async move {
            let mut tries = 0;
            loop {
                tries += 1;
                match database.try_transact(&work).await {
                    Err((Stopped::Failed(error), _))
                        if tries < TRIES && is_worth_repeating(&error) =>
                    {
                        database.pause(tries).await;
                    }
                    Err((Stopped::Failed(error), doubt)) => return Err(write_error(error, doubt)),
                    Err((Stopped::Refused(error), _)) => return Err(error),
                    Ok(done) => return Ok(done),
                }
            }
        });
        joined(task.await)
    }

    async fn try_transact<T>(
        &self,
        work: &(impl for<'c> Fn(&'c mut PgConnection) -> Work<'c, T> + Send + Sync),
    ) -> Result<T, (Stopped, Doubt)> {
        let not_applied = |error: Error| (Stopped::Failed(error), Doubt::NotApplied);
        let mut transaction = self.begin().await.map_err(not_applied)?;
        match work(&mut transaction).await {
            Ok(done) => match transaction.commit().await {
                Ok(()) => Ok(done),
                Err(error) => {
                    let doubt = doubt_of(&error);
                    Err((Stopped::Failed(error), doubt))
                }
            },
            Err(stopped) => {
                // The connection may be gone; then the server rolls back by itself.
                if let Err(error) = transaction.rollback().await {
                    tracing::debug!(%error, "a rollback was not answered");
                }
                Err((stopped, Doubt::NotApplied))
            }
        }
    }

    /// Begins a transaction. On a task of its own only: see [`transact`](Self::transact).
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        self.pool.begin_with(self.begin.raw()).await
    }

    /// Waits before a transaction is tried again: a few milliseconds, more each time, never the same for two.
    pub(crate) async fn pause(&self, tries: u32) {
        let most = 4_u64 << tries.min(6);
        tokio::time::sleep(Duration::from_millis(1 + self.env.u64() % most)).await;
    }

    /// Runs one statement whose loss matters to nobody: in one round trip where statements stay prepared.
    pub(crate) async fn tell(
        self: &Arc<Self>,
        statement: Statement,
        bound: impl Fn() -> Bound + Send + Sync + 'static,
    ) -> Result<(), StorageError> {
        match self.link {
            Link::Direct | Link::PreparedPooler => {
                let told = statement.with(bound()).fetch_all(&self.pool).await;
                told.map_err(|error| write_error(error, Doubt::NotApplied))?;
            }
            Link::Pooler => drop(self.write(statement, bound).await?),
        }
        Ok(())
    }

    /// Sweeps on a connection inside a transaction.
    pub(crate) const fn sweep<'c>(&'c self, connection: &'c mut PgConnection) -> Sweep<'c> {
        Sweep {
            connection,
            sql: &self.sql,
            is_persistent: self.is_persistent(),
            engine: self.engine,
        }
    }

    /// Runs one statement that writes.
    pub(crate) async fn write(
        self: &Arc<Self>,
        statement: Statement,
        bound: impl Fn() -> Bound + Send + Sync + 'static,
    ) -> Result<Vec<PgRow>, StorageError> {
        if self.link == Link::Pooler {
            return self
                .transact(move |connection| {
                    let query = statement.with(bound()).persistent(false);
                    Box::pin(async move { Ok(query.fetch_all(connection).await?) })
                })
                .await;
        }
        // One statement is a transaction of its own, in one round trip instead of three.
        let database = Arc::clone(self);
        let task = tokio::spawn(async move {
            let mut tries = 0;
            loop {
                tries += 1;
                match statement.with(bound()).fetch_all(&database.pool).await {
                    Err(error) if tries < TRIES && is_worth_repeating(&error) => {
                        database.pause(tries).await;
                    }
                    Err(error) => {
                        let doubt = doubt_of(&error);
                        return Err(write_error(error, doubt));
                    }
                    Ok(rows) => return Ok(rows),
                }
            }
        });
        joined(task.await)
    }
}

/// Where reads go: the pool, or the host's transaction.
#[async_trait]
pub(crate) trait Session: Send + Sync {
    /// What statements are made of.
    fn sql(&self) -> &Sql;

    /// Microseconds that the clock is ahead of the server's.
    fn offset(&self) -> i64;

    /// What kind of engine answers.
    fn engine(&self) -> Engine;

    /// The rows of one statement.
    async fn rows(&self, statement: Statement, bound: Bound) -> Result<Vec<PgRow>, StorageError>;
}

#[async_trait]
impl Session for Arc<Database> {
    fn sql(&self) -> &Sql {
        &self.sql
    }

    fn offset(&self) -> i64 {
        self.clock.offset()
    }

    fn engine(&self) -> Engine {
        self.engine
    }

    async fn rows(&self, statement: Statement, bound: Bound) -> Result<Vec<PgRow>, StorageError> {
        match self.link {
            Link::Direct | Link::PreparedPooler => {
                statement.with(bound).fetch_all(&self.pool).await.map_err(read_error)
            }
            Link::Pooler => {
                let database = Self::clone(self);
                // Preparing and running are two round trips, and only a transaction keeps both on one server.
                let task = tokio::spawn(async move {
                    let mut transaction = database.begin().await?;
                    let query = statement.with(bound).persistent(false);
                    let rows = query.fetch_all(&mut *transaction).await?;
                    transaction.commit().await?;
                    Ok(rows)
                });
                match task.await {
                    Ok(rows) => rows.map_err(read_error),
                    Err(error) => joined(Err(error)),
                }
            }
        }
    }
}

/// The result of a task; its panic is ours.
pub(crate) fn joined<T>(
    result: Result<Result<T, StorageError>, tokio::task::JoinError>,
) -> Result<T, StorageError> {
    match result {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down. What the task was at may have been applied.
        Err(error) => Err(StorageError::Indeterminate(Arc::new(error))),
    }
}

/// How often a transaction that cannot be serialized is run.
pub(crate) const TRIES: u32 = 8;

//! Settings of a [`PgStorage`], checked once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pgw_core::env::Env;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool, Row as _};

use crate::batch::{Batcher, BatcherSettings};
use crate::clock::ServerClock;
use crate::database::{Database, Timeouts};
use crate::link::{Link, keeps_statements_apart, other_settings};
use crate::migrate::{MigrateError, Migrator};
use crate::queue::Claims;
use crate::schema::Schema;
use crate::sql::Sql;
use crate::storage::PgStorage;

/// Settings of a [`PgStorage`].
#[derive(Clone)]
#[must_use = "a builder does nothing until connect() or build() is called"]
pub struct PgStorageBuilder {
    schema: Schema,
    link: Link,
    engine: Engine,
    claims: Claims,
    timeouts: Timeouts,
    group: Group,
    connections_max: u32,
    clock: ServerClock,
    env: Env,
    listens_on: Option<PgConnectOptions>,
}

/// What kind of engine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Engine {
    /// PostgreSQL, one primary.
    #[default]
    Single,
    /// One that spreads rows over machines by merchant (Citus, `CockroachDB`, `YugabyteDB`): a commit's statements are each about
    /// one row of one merchant, commits are not put together, and jobs are claimed merchant by merchant.
    Distributed,
}

/// How commits of several callers are put into one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Group {
    /// They are not: each is a transaction of its own.
    Off,
    /// What waits is put together. Nothing waits for company: a commit goes once the tasks that are ready have run.
    On {
        /// How many transactions at once, which share what waits: as many as the server has cores to spare.
        committers: usize,
        /// Most commits in one.
        commits_max: usize,
    },
}

impl Default for Group {
    fn default() -> Self {
        Self::On { committers: 2, commits_max: 128 }
    }
}

impl PgStorageBuilder {
    pub(crate) fn new() -> Self {
        Self {
            schema: Schema::default(),
            link: Link::default(),
            engine: Engine::default(),
            claims: Claims::default(),
            timeouts: Timeouts::default(),
            group: Group::default(),
            connections_max: 16,
            clock: ServerClock::default(),
            env: Env::system(),
            listens_on: None,
        }
    }

    /// In another schema than `pgw`.
    pub fn with_schema(mut self, schema: Schema) -> Self {
        self.schema = schema;
        self
    }

    /// Through a pooler, or directly.
    pub const fn with_link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// For this kind of engine.
    pub const fn with_engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// How the queue takes jobs.
    pub const fn with_claims(mut self, claims: Claims) -> Self {
        self.claims = claims;
        self
    }

    /// With other timeouts. A host that gives its own direct pool puts them on its connections: see [`Timeouts::on`]. Through [`Link::PreparedPooler`] the
    /// role has them, see [`Timeouts::for_role`]: the same, or no storage is made.
    pub const fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// How commits are put together.
    pub const fn with_group(mut self, group: Group) -> Self {
        self.group = group;
        self
    }

    /// Most connections of the pool that [`connect`](Self::connect) makes. 16.
    pub const fn with_connections_max(mut self, connections_max: u32) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// Time and randomness from here: for tests.
    pub fn with_env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// A clock that a test moves.
    pub fn with_clock(mut self, clock: ServerClock) -> Self {
        self.clock = clock;
        self
    }

    /// Hears hints on a connection of these options, past a pooler: one in transaction mode cannot carry them. Without it, a storage
    /// behind a pooler publishes hints and polls.
    pub fn with_listener(mut self, options: PgConnectOptions) -> Self {
        self.listens_on = Some(options);
        self
    }

    /// Connects with a pool of its own. The URL is `postgres://user:password@host/database?sslmode=…`; for TLS see the crate's
    /// page.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(self, url: &str) -> Result<PgStorage, ConnectError> {
        let options: PgConnectOptions = url.parse().map_err(ConnectError::Database)?;
        self.connect_with(options).await
    }

    /// Connects with a pool of its own.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_with(self, options: PgConnectOptions) -> Result<PgStorage, ConnectError> {
        let options = match self.link {
            Link::Direct => self.timeouts.on(options).statement_cache_capacity(STATEMENTS_MAX),
            Link::PreparedPooler => options.statement_cache_capacity(STATEMENTS_MAX),
            Link::Pooler => options.statement_cache_capacity(0),
        };
        let pool = PgPoolOptions::new()
            .max_connections(self.connections_max.max(2))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A round trip is as much as a read takes, so only a connection that was idle for a while is tested first.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for >= TESTED_AFTER {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options.application_name("pgw"))
            .await
            .map_err(ConnectError::Database)?;
        self.build(pool).await
    }

    /// On a pool of the host's. It is the host's to close.
    ///
    /// # Errors
    /// [`ConnectError`]: the schema must be migrated.
    pub async fn build(self, pool: PgPool) -> Result<PgStorage, ConnectError> {
        if let Group::On { committers, commits_max } = self.group
            && (!(1..=64).contains(&committers) || !(1..=1_000).contains(&commits_max))
        {
            return Err(ConnectError::OutOfRange(
                "a group has 1 to 64 committers and 1 to 1000 commits",
            ));
        }
        // On a task of its own: see `Database::transact`.
        let (builder, checked) = (self.clone(), pool.clone());
        match tokio::spawn(async move { builder.check(&checked).await }).await {
            Ok(checked) => checked?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(ConnectError::Database(sqlx::Error::PoolClosed)),
        }
        let connections_max = usize::try_from(pool.options().get_max_connections()).unwrap_or(1);
        let committers = match self.group {
            Group::On { committers, .. } => committers,
            Group::Off => 0,
        };
        let settings = BatcherSettings {
            group: match self.engine {
                Engine::Single => self.group,
                Engine::Distributed => Group::Off,
            },
            engine: self.engine,
            // A few connections for those that wait for locks, never all.
            alone_max: (connections_max / 4).max(1),
            keeps_connections: committers <= connections_max / 4,
        };
        let database = Arc::new(Database::new(
            pool,
            Sql::new(self.schema.clone()),
            self.clock.clone(),
            self.link,
            self.engine,
            self.timeouts,
            self.env.clone(),
        ));
        let batcher = Batcher::new(Arc::clone(&database), settings);
        Ok(PgStorage::from_parts(database, batcher, self))
    }

    async fn check(&self, pool: &PgPool) -> Result<(), ConnectError> {
        // Before anything else is asked: a pooler may have one connection only.
        if self.link == Link::PreparedPooler {
            let apart = keeps_statements_apart(&pool.connect_options()).await;
            if !apart.map_err(ConnectError::Database)? {
                return Err(ConnectError::StatementsMixed);
            }
        }
        let mut transaction = pool.begin().await.map_err(ConnectError::Database)?;
        let level = sqlx::query("select current_setting('default_transaction_isolation')")
            .persistent(false)
            .fetch_one(&mut *transaction)
            .await
            .and_then(|row| row.try_get::<String, _>(0))
            .map_err(ConnectError::Database)?;
        if self.link.keeps_statements() && level != "read committed" {
            return Err(ConnectError::Isolation { level });
        }
        if self.link == Link::PreparedPooler {
            let others = other_settings(&mut transaction, &self.timeouts).await;
            let others = others.map_err(ConnectError::Database)?;
            if !others.is_empty() {
                return Err(ConnectError::Settings { found: others.join(", ") });
            }
        }
        let later = Migrator::new(self.schema.clone()).verify(&mut transaction).await?;
        if !later.is_empty() {
            tracing::info!(
                later = later.join(", "),
                "the schema is a later version's; this one works beside it"
            );
        }
        transaction.rollback().await.map_err(ConnectError::Database)?;
        Ok(())
    }

    pub(crate) const fn engine(&self) -> Engine {
        self.engine
    }

    pub(crate) const fn claims(&self) -> Claims {
        self.claims
    }

    pub(crate) fn listens_on(&self, pool: &PgPool) -> Option<PgConnectOptions> {
        match self.link {
            Link::Direct if self.listens_on.is_none() => Some((*pool.connect_options()).clone()),
            _ => self.listens_on.clone(),
        }
    }
}

impl fmt::Debug for PgStorageBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the options of the connection that listens, which hold its password.
        f.debug_struct("PgStorageBuilder")
            .field("schema", &self.schema)
            .field("link", &self.link)
            .field("engine", &self.engine)
            .field("claims", &self.claims)
            .field("timeouts", &self.timeouts)
            .field("group", &self.group)
            .field("connections_max", &self.connections_max)
            .field("listens", &self.listens_on.is_some())
            .finish_non_exhaustive()
    }
}

/// Why a storage could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The database cannot be reached, or does not let us in.
    #[error("the database cannot be used")]
    Database(#[source] sqlx::Error),
    /// The schema is not the one that this version needs.
    #[error(transparent)]
    Schema(#[from] MigrateError),
    /// The connections' isolation level is not the one that guards are right at.
    #[error(
        "connections start transactions at {level}, pgw needs read committed: set default_transaction_isolation"
    )]
    Isolation {
        /// What it is.
        level: String,
    },
    /// The role that connects through a [`Link::PreparedPooler`] has other settings than [`Timeouts::for_role`].
    #[error(
        "connections through the pooler have {found}: give their role the settings of Timeouts::for_role, and have the pooler make new connections"
    )]
    Settings {
        /// What it has instead, as `jit = on, lock_timeout = 0`; timeouts in ms.
        found: String,
    },
    /// What is there does not keep the prepared statements of its clients apart.
    #[error(
        "no pooler is there that keeps prepared statements: PgBouncer does from 1.21 on, with max_prepared_statements above 0; through others use \
         Link::Pooler, and Link::Direct where there is none"
    )]
    StatementsMixed,
    /// A setting is out of range.
    #[error("{0}")]
    OutOfRange(&'static str),
}

/// Prepared statements a connection keeps: more than there are shapes in use.
const STATEMENTS_MAX: usize = 256;
const TESTED_AFTER: Duration = Duration::from_secs(1);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

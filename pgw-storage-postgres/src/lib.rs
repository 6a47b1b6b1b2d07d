//! pgw on PostgreSQL: durable, atomic with the host's own rows, and many payments to a transaction.
//!
//! | | |
//! |---|---|
//! | [`PgStorage`] | storage on a pool; commits of several callers at once share a transaction |
//! | [`PgStorage::enlist`] | the same storage inside the host's own transaction |
//! | [`PgStorage::queue`] | the due rows as a queue: leases by the server's clock, fences, no pushes that could be lost |
//! | [`PgStorage::queue_behind`] | the same behind a queue of pointers, such as one in Redis |
//! | [`PgStorage::notifier`] | hints between processes by LISTEN and NOTIFY; everything works without them, a poll later |
//! | [`Migrator`] | the schema: embedded, checked by checksum, exported as plain SQL |
//!
//! # Start
//!
//! ```no_run
//! use std::sync::Arc;
//! use pgw_core::gateway::Gateway;
//! use pgw_core::worker::Worker;
//! use pgw_storage_postgres::sqlx::{Connection, PgConnection};
//! use pgw_storage_postgres::{Migrator, PgStorage, Schema};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // Once per deployment, as the schema's owner.
//! let mut owner = PgConnection::connect("postgres://owner@localhost/shop").await?;
//! Migrator::new(Schema::default()).run(&mut owner).await?;
//!
//! // In every process, as the application's role.
//! let pg = PgStorage::builder().connect("postgres://app@localhost/shop").await?;
//! let gateway = Gateway::builder()
//!     .with_queue(Arc::new(pg.queue()))
//!     .with_notifier(Arc::new(pg.notifier()))
//!     .with_storage(Arc::new(pg))
//!     .build()?;
//! let worker = Worker::new(&gateway).start();
//! # worker.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! # Pools
//!
//! [`connect`](PgStorageBuilder::connect) makes a pool of its own. A host that has a pool gives it to
//! [`build`](PgStorageBuilder::build); it is then best made with the options that [`Timeouts::on`] adds, because a statement that waits
//! for ever holds a connection for ever:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use pgw_storage_postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
//! use pgw_storage_postgres::{PgStorage, Timeouts};
//!
//! let options: PgConnectOptions = "postgres://app@localhost/shop".parse()?;
//! let pool = PgPoolOptions::new().max_connections(20).connect_with(Timeouts::default().on(options)).await?;
//! let pg = PgStorage::builder().build(pool).await?;
//! # Ok(()) }
//! ```
//!
//! # TLS
//!
//! With the feature `tls` connections are made by rustls on ring. The URL's `sslmode` says how much is asked of the server:
//!
//! | `sslmode` | encrypted | certificate | name |
//! |---|---|---|---|
//! | `disable` | no | | |
//! | `prefer` (default) | if the server can | not checked | not checked |
//! | `require` | yes | not checked, unless `sslrootcert` is given | not checked |
//! | `verify-ca` | yes | checked | not checked |
//! | `verify-full` | yes | checked | checked |
//!
//! Anything but `verify-full` lets somebody in between read and change payments. In production:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! # use pgw_storage_postgres::PgStorage;
//! let url = "postgres://app:secret@db.internal/shop?sslmode=verify-full&sslrootcert=/etc/ssl/db-ca.pem";
//! let pg = PgStorage::builder().connect(url).await?;
//! # Ok(()) }
//! ```
//!
//! # Poolers
//!
//! Behind a pooler in transaction mode say so, in one of two ways:
//!
//! | link | for | what it costs |
//! |---|---|---|
//! | [`Link::PreparedPooler`] | PgBouncer 1.21 and later with `max_prepared_statements`, and others that keep the statements of their clients apart | a hop, and what PgBouncer does; the role has the settings of [`Timeouts::for_role`] |
//! | [`Link::Pooler`] | every other: PgBouncer from 1.18 on | nothing is prepared, and every call is an explicit transaction that sets its own timeouts |
//!
//! LISTEN does not work through a pooler, so hints want a direct connection; without one, work is found by polling.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use pgw_storage_postgres::{Link, PgStorage};
//! let direct = "postgres://app@db.internal:5432/shop".parse()?;
//! let pg = PgStorage::builder()
//!     .with_link(Link::PreparedPooler)
//!     .with_listener(direct)
//!     .connect("postgres://app@pooler.internal:6432/shop")
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # Past one machine
//!
//! The merchant comes first in every key, so rows can be cut by it: [`Migrator::partition`] has the SQL for partitions on one server,
//! [`Migrator::citus`] for Citus, where the storage wants [`Engine::Distributed`]. What each costs, with figures, is in `docs/scaling.md` of the repository.
//!
//! # What to expect of errors
//!
//! [`Unavailable`](pgw_core::storage::StorageError::Unavailable) means that nothing was applied.
//! [`Indeterminate`](pgw_core::storage::StorageError::Indeterminate) means that the connection was lost when it mattered: the same idempotency
//! key tells. Serialization failures and deadlocks are retried inside, each time the whole transaction.
//!
//! # Versions
//!
//! Tested with PostgreSQL 15; nothing newer than 13 is used. This crate's public items name types of `sqlx` 0.9, which it re-exports: use `pgw_storage_postgres::sqlx`
//! and they always fit.

mod answers;
mod audit;
mod batch;
mod builder;
mod clock;
mod columns;
mod creation;
mod database;
mod due;
mod enlist;
mod error;
mod group;
mod handed;
mod handoff;
mod held;
mod link;
mod list;
mod migrate;
mod notifier;
mod outcome;
mod partitions;
mod queue;
mod read;
mod redact;
mod retention;
mod rows;
mod schema;
mod sql;
mod steps;
mod storage;
mod sweeps;
mod table;
mod together;
mod value;
mod waiting;

pub use batch::COMMIT_BATCH_SIZE;
pub use builder::{ConnectError, Engine, Group, PgStorageBuilder};
pub use clock::ServerClock;
pub use database::Timeouts;
pub use enlist::PgEnlisted;
pub use handed::PgQueueBehind;
pub use link::Link;
pub use migrate::{Lock, MigrateError, Migrator};
pub use notifier::PgNotifier;
pub use partitions::Partitions;
pub use queue::{Claims, PgQueue};
pub use retention::{Overdue, Purged, Retention, RetentionError};
pub use schema::{Schema, SchemaError};
pub use sqlx;
pub use storage::PgStorage;

//! Private PostgreSQL and PgBouncer servers for tests and benchmarks: started on the spot in a directory of their own,
//! reached over a Unix socket only, gone with everything they wrote when dropped.
//!
//! ```no_run
//! use servers::{PgBouncer, Postgres};
//!
//! let mut postgres = Postgres::builder().durable().start()?;
//! let pgbouncer = PgBouncer::builder(&postgres).with_pool_size(5).start()?;
//! println!("{} {}", postgres.url(), pgbouncer.url());
//! postgres.kill()?;
//! postgres.restart()?;
//! # Ok::<(), servers::ServerError>(())
//! ```
//!
//! The programs must be installed: `apt-get install postgresql pgbouncer`. The newest `/usr/lib/postgresql/*/bin` is
//! used, else the `postgres` on `PATH`, else what `pg_config` names. Neither server runs as root; for root they run as
//! the system user `postgres`.
//!
//! Whatever way the owning process ends, the servers end too and their directories are removed: a process beside each
//! server waits for its owner's end, so that `kill -9`, an abort, and a server in a `static`, which Rust never drops,
//! leave nothing behind either. The servers are in process groups of their own, so that Ctrl-C reaches the owner first.
//!
//! Linux only: processes are looked up in `/proc`.

mod account;
mod directory;
mod error;
mod log;
mod pgbouncer;
mod postgres;
mod process;
mod program;
mod url;

pub use error::ServerError;
pub use pgbouncer::{PgBouncer, PgBouncerBuilder};
pub use postgres::{Postgres, PostgresBuilder};

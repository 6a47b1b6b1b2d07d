//! Private PostgreSQL, PgBouncer and Redis servers for tests and benchmarks: started on the spot in directories of their
//! own, reached from this machine only, gone with everything they wrote when dropped.
//!
//! ```no_run
//! use servers::{PgBouncer, Postgres, Proxy, Redis, RedisCluster};
//!
//! let mut postgres = Postgres::builder().durable().start()?;
//! let pgbouncer = PgBouncer::builder(&postgres).with_pool_size(5).start()?;
//! println!("{} {}", postgres.url(), pgbouncer.url());
//! postgres.kill()?;
//! postgres.restart()?;
//!
//! let redis = Redis::builder().with_password("secret").start()?;
//! let mut proxy = Proxy::start(redis.address())?;
//! println!("{}", redis.url_through(proxy.address()));
//! proxy.cut();
//! proxy.heal()?;
//!
//! let mut cluster = RedisCluster::builder().with_replicas().start()?;
//! cluster.kill(0)?;
//! println!("{} took over", cluster.wait_failover(0)?);
//! # Ok::<(), servers::ServerError>(())
//! ```
//!
//! | type | what it starts |
//! |---|---|
//! | [`Postgres`], [`PgBouncer`] | a server on a Unix socket, and a pool in front of it on another |
//! | [`PostgresPair`] | a primary and its synchronous standby, on Unix sockets |
//! | [`Redis`] | a server on a port of 127.0.0.1 and on a Unix socket |
//! | [`RedisCluster`], [`RedisSentinel`] | several of them that share the keys, or take over from each other |
//! | [`Proxy`] | a way to a port that can be cut, slow, or dead at the other end |
//!
//! The programs must be installed: `apt-get install postgresql pgbouncer redis-server`. The newest
//! `/usr/lib/postgresql/*/bin` is used, else the `postgres` on `PATH`, else what `pg_config` names; of Redis, 7 or newer
//! on `PATH`; of PgBouncer the system's, and where one is to keep prepared statements and the system's is older than 1.21, what `scripts/setup` built. No server runs as root; for root they run as the system user `postgres`.
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
mod poll;
mod port;
mod postgres;
mod process;
mod program;
mod proxy;
mod redis;
mod url;

pub use error::ServerError;
pub use pgbouncer::{PgBouncer, PgBouncerBuilder};
pub use postgres::{Postgres, PostgresBuilder, PostgresPair, PostgresPairBuilder};
pub use proxy::Proxy;
pub use redis::{Redis, RedisBuilder, RedisCluster, RedisClusterBuilder, RedisSentinel};

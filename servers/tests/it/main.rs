//! The integration tests of `servers`: one binary. They need PostgreSQL, PgBouncer and Redis.

mod command;
mod owner;
mod postgres;
mod postgres_pair;
mod processes;
mod proxy;
mod redis;
mod redis_cluster;
mod redis_sentinel;

/// The name of a PostgreSQL's socket in its directory.
const SOCKET: &str = ".s.PGSQL.5432";

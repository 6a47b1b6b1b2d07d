//! The integration tests of `servers`: one binary. They need PostgreSQL and PgBouncer.

mod command;
mod postgres;

/// The name of a server's socket in its directory.
const SOCKET: &str = ".s.PGSQL.5432";

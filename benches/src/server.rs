//! The private PostgreSQL that is measured: durable, and as it is once it has run for a while.

use std::error::Error;

use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, raw_sql};
use servers::Postgres;

/// Starts a server with these settings besides those of all benchmarks.
///
/// The write-ahead log has room for what is measured: a server that has run for a while writes over its old files, and a new one would stop
/// everybody once in 16 MB to make a file of zeros.
///
/// # Errors
/// When it does not start.
pub async fn start(settings: &[(&str, &str)]) -> Result<Postgres, Box<dyn Error>> {
    let mut builder = Postgres::builder()
        .durable()
        .with_setting("shared_buffers", "1GB")
        .with_setting("max_wal_size", "8GB")
        .with_setting("min_wal_size", format!("{}MB", LOG_FILES * 16))
        .with_setting("checkpoint_timeout", "30min");
    for (name, value) in settings {
        builder = builder.with_setting(*name, *value);
    }
    let postgres = builder.start()?;
    let mut owner = PgConnection::connect(&postgres.url()).await?;
    for _ in 0..LOG_FILES {
        let next = "select pg_logical_emit_message(false, '', ''); select pg_switch_wal()";
        raw_sql(next).execute(&mut owner).await?;
    }
    // What is before it is not needed any more, and is what the next files are made of.
    raw_sql("checkpoint").execute(&mut owner).await?;
    owner.close().await?;
    Ok(postgres)
}

/// Files of the write-ahead log, 16 MB each: more than any part of a benchmark writes.
const LOG_FILES: usize = 96;

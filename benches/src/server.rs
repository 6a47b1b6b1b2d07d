//! The private PostgreSQL that is measured: durable, and as it is once it has run for a while.

use std::error::Error;
use std::io::Write as _;
use std::process::{Command, Stdio};

use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, query, raw_sql};
use servers::Postgres;

/// Starts a server with these settings besides those of all benchmarks.
///
/// The write-ahead log has room for what is measured: a server that has run for a while writes over its old files, and a new one would stop
/// everybody once in 16 MB to make a file of zeros. Its buffers were all in use once: the first use of each has the system find memory for it, which
/// can cost whoever writes most a quarter of its time, until the buffers have been gone through.
///
/// # Errors
/// When it does not start.
pub async fn start(settings: &[(&str, &str)]) -> Result<Postgres, Box<dyn Error>> {
    let mut builder = Postgres::builder()
        .durable()
        .with_setting("shared_buffers", format!("{}MB", BUFFERS * 8 / 1024))
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
    let table = "create unlogged table once (text text); alter table once alter column text set storage plain";
    raw_sql(table).execute(&mut owner).await?;
    let pages = "insert into once select repeat('x', 8000) from generate_series(1, $1)";
    query(pages).bind(BUFFERS).execute(&mut owner).await?;
    raw_sql("drop table once").execute(&mut owner).await?;
    // What is before it is not needed any more, and is what the next files are made of.
    raw_sql("checkpoint").execute(&mut owner).await?;
    owner.close().await?;
    Ok(postgres)
}

/// Pages of 8 kB that the server keeps in memory: 1 GB.
const BUFFERS: i32 = 128 * 1024;
/// Files of the write-ahead log, 16 MB each: more than any part of a benchmark writes.
const LOG_FILES: usize = 96;

/// Runs SQL that was made for whoever has psql.
///
/// # Errors
/// When it is not run to its end.
pub fn psql(postgres: &Postgres, sql: &str) -> Result<(), Box<dyn Error>> {
    let mut child = Command::new(postgres.bin_directory().join("psql"))
        .args(["--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", &postgres.url()])
        .stdin(Stdio::piped())
        .spawn()?;
    child.stdin.take().ok_or("psql hears nothing")?.write_all(sql.as_bytes())?;
    if child.wait()?.success() { Ok(()) } else { Err("psql did not run it".into()) }
}

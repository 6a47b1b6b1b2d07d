//! Where the servers' programs are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::error::ServerError;

/// The directory of `postgres`, `initdb`, `psql`, `pgbench` and the like.
pub(crate) fn postgres_directory() -> Result<PathBuf, ServerError> {
    packaged(Path::new("/usr/lib/postgresql"))
        // With links followed, since what lies beside the program is needed too.
        .or_else(|| Some(on_path("postgres")?.canonicalize().ok()?.parent()?.to_path_buf()))
        .or_else(configured)
        // A client without a server brings a directory too.
        .filter(|directory| directory.join("postgres").is_file())
        .ok_or(ServerError::NotInstalled("postgres"))
}

/// `pgbouncer`, which packages put where only root's `PATH` leads.
pub(crate) fn pgbouncer() -> Result<PathBuf, ServerError> {
    on_path("pgbouncer")
        .or_else(|| Some(PathBuf::from("/usr/sbin/pgbouncer")).filter(|program| program.is_file()))
        .ok_or(ServerError::NotInstalled("pgbouncer"))
}

/// One of 1.21 or later, which keeps the prepared statements of its clients apart: the system's, or what `scripts/setup` built where that is older.
pub(crate) fn pgbouncer_keeping_statements() -> Result<PathBuf, ServerError> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pgbouncer/pgbouncer");
    [pgbouncer().ok(), Some(built)]
        .into_iter()
        .flatten()
        .find(|program| can_keep_statements(program))
        .ok_or(ServerError::NotInstalled("pgbouncer 1.21"))
}

/// Whether a PgBouncer can keep the prepared statements of its clients apart, and has the setting for it.
pub(crate) fn can_keep_statements(pgbouncer: &Path) -> bool {
    version(pgbouncer) >= Some((1, 21))
}

/// The version of a PgBouncer, of a first line `PgBouncer 1.24.1`.
fn version(pgbouncer: &Path) -> Option<(u32, u32)> {
    let output = Command::new(pgbouncer).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let mut numbers = said.lines().next()?.strip_prefix("PgBouncer ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `redis-server`, which is Sentinel too.
pub(crate) fn redis_server() -> Result<PathBuf, ServerError> {
    on_path("redis-server").ok_or(ServerError::NotInstalled("redis-server"))
}

/// `redis-cli`, of a package that `redis-server` requires.
pub(crate) fn redis_cli() -> Result<PathBuf, ServerError> {
    on_path("redis-cli").ok_or(ServerError::NotInstalled("redis-cli"))
}

/// The newest version that Debian's packages installed, in `<root>/<version>/bin`.
fn packaged(root: &Path) -> Option<PathBuf> {
    fs::read_dir(root)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let directory = entry.path().join("bin");
            directory.join("postgres").is_file().then_some((version, directory))
        })
        .max()
        .map(|(_, directory)| directory)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Absolute, since the servers run in another directory. A link is not followed: programs of Redis are all the same
    // file, which goes by the name it is called.
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
        .and_then(|program| std::path::absolute(program).ok())
}

/// What `pg_config` says; none if it is not there.
fn configured() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let directory = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(directory.trim_end()))
}

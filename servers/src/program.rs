//! Where the servers' programs are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::error::ServerError;

/// The directory of `postgres`, `initdb`, `psql`, `pgbench` and the like.
pub(crate) fn postgres_directory() -> Result<PathBuf, ServerError> {
    packaged(Path::new("/usr/lib/postgresql"))
        .or_else(|| on_path("postgres").as_deref().and_then(Path::parent).map(Path::to_path_buf))
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
    // Absolute, since the servers run in another directory; with links followed, since what lies beside the program is
    // needed too.
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())?
        .canonicalize()
        .ok()
}

/// What `pg_config` says; none if it is not there.
fn configured() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let directory = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(directory.trim_end()))
}

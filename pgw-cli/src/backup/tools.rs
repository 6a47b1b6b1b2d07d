//! PostgreSQL's own programs: found, given the connection by their environment, and believed only when every part of a pipe
//! succeeded.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgw_storage_postgres::sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::process::{Child, Command};

use crate::config::Config;
use crate::database;
use crate::failure::{Exit, Failure};

/// Dumps the database into a file, through a shell command if there is one.
///
/// # Errors
/// [`Failure`] when any part of it failed, whatever the others wrote.
pub(super) async fn dump(
    config: &Config,
    through: Option<&str>,
    file: std::fs::File,
) -> Result<(), Failure> {
    let options = database::required(config)?;
    let mut command = client(config, &options, "pg_dump")?;
    command.args(["--format=custom", "--no-password"]);
    let Some(through) = through else {
        command.stdout(file);
        return wait("pg_dump", start("pg_dump", command)?).await;
    };
    let (reader, writer) = std::io::pipe().map_err(Failure::system("cannot make a pipe"))?;
    command.stdout(writer);
    let dump = start("pg_dump", command)?;
    let mut filter = shell(through);
    filter.stdin(reader).stdout(file);
    let filter = start(through, filter)?;
    let (dumped, filtered) = tokio::join!(wait("pg_dump", dump), wait(through, filter));
    // A filter that died breaks pg_dump's pipe; what it has to say is the cause.
    filtered.and(dumped)
}

/// Restores a backup into a database.
///
/// # Errors
/// [`Failure`] when any part of it failed.
pub(super) async fn restore(
    config: &Config,
    through: Option<&str>,
    from: &Path,
    into: &PgConnectOptions,
) -> Result<(), Failure> {
    let file = std::fs::File::open(from)
        .map_err(Failure::system(format!("cannot read {}", from.display())))?;
    let mut command = client(config, into, "pg_restore")?;
    // Roles of the original may not exist here, and the checks need none.
    command.args(["--exit-on-error", "--no-owner", "--no-privileges", "--no-password"]);
    command.arg(format!("--dbname={}", into.get_database().unwrap_or_default()));
    let Some(through) = through else {
        command.stdin(file);
        return wait("pg_restore", start("pg_restore", command)?).await;
    };
    let (reader, writer) = std::io::pipe().map_err(Failure::system("cannot make a pipe"))?;
    let mut filter = shell(through);
    filter.stdin(file).stdout(writer);
    let filter = start(through, filter)?;
    command.stdin(reader);
    let restore = start("pg_restore", command)?;
    let (filtered, restored) = tokio::join!(wait(through, filter), wait("pg_restore", restore));
    filtered.and(restored)
}

/// Makes an empty database on the same server.
///
/// # Errors
/// [`Failure`].
pub(super) async fn create_database(
    config: &Config,
    options: &PgConnectOptions,
    name: &str,
) -> Result<(), Failure> {
    let mut command = client(config, options, "createdb")?;
    command.args(["--template=template0", "--no-password", name]);
    let created = wait("createdb", start("createdb", command)?).await;
    created.map_err(|failure| {
        let hint = "connect as a role that may make databases (CREATEDB)";
        Failure::new(Exit::Failed, format!("a scratch database cannot be made: {failure}; {hint}"))
    })
}

/// Drops a database, whoever is still connected.
///
/// # Errors
/// [`Failure`].
pub(super) async fn drop_database(
    config: &Config,
    options: &PgConnectOptions,
    name: &str,
) -> Result<(), Failure> {
    let mut command = client(config, options, "dropdb")?;
    command.args(["--force", "--if-exists", "--no-password", name]);
    wait("dropdb", start("dropdb", command)?).await
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn start(name: &str, mut command: Command) -> Result<Child, Failure> {
    // The command holds the other ends of pipes and closes them when it is dropped here.
    command.spawn().map_err(Failure::system(format!("cannot start {name}")))
}

async fn wait(name: &str, mut child: Child) -> Result<(), Failure> {
    let status = child.wait().await.map_err(Failure::system(format!("{name} is gone")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failed, format!("{name} failed: {status}")))
    }
}

/// A program of PostgreSQL's that connects as we do. The password is in its environment, which only its user can read; a command
/// line everybody can.
fn client(config: &Config, options: &PgConnectOptions, name: &str) -> Result<Command, Failure> {
    let mut command = Command::new(find(name)?);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let host = options.get_socket().map(|path| path.display().to_string());
    command
        .env("PGHOST", host.unwrap_or_else(|| options.get_host().to_owned()))
        .env("PGPORT", options.get_port().to_string())
        .env("PGUSER", options.get_username())
        .env("PGAPPNAME", "pgw backup")
        .env("PGSSLMODE", ssl_mode(options.get_ssl_mode()));
    if let Some(database) = options.get_database() {
        command.env("PGDATABASE", database);
    }
    if let Some(password) = database::password(config) {
        command.env("PGPASSWORD", password.expose());
    }
    for (name, path) in database::certificates(config) {
        command.env(name, path);
    }
    // What the caller's own environment says about other servers is not meant.
    for name in ["PGSERVICE", "PGHOSTADDR", "PGOPTIONS"] {
        command.env_remove(name);
    }
    Ok(command)
}

const fn ssl_mode(mode: PgSslMode) -> &'static str {
    match mode {
        PgSslMode::Disable => "disable",
        PgSslMode::Allow => "allow",
        PgSslMode::Prefer => "prefer",
        PgSslMode::Require => "require",
        PgSslMode::VerifyCa => "verify-ca",
        PgSslMode::VerifyFull => "verify-full",
    }
}

/// In PATH, or else where Debian keeps the versions: the newest, for a dump must not be older than its server.
fn find(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join(name));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
        .collect();
    versions.sort();
    let installed = versions.into_iter().rev().map(|(_, path)| path.join("bin").join(name));
    in_path.chain(installed).find(|path| path.is_file()).ok_or_else(|| {
        let hint = "install PostgreSQL's client programs (postgresql-client)";
        Failure::new(Exit::Failed, format!("{name} is not installed: {hint}"))
    })
}

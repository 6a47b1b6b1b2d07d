//! `Postgres`: a PostgreSQL server that can be killed and started again.

mod pair;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::account::Account;
use crate::directory::Directory;
use crate::error::ServerError;
use crate::process::Process;
use crate::program;
use crate::url::{self, PORT, USER};

pub use self::pair::{PostgresPair, PostgresPairBuilder};

/// A PostgreSQL server of one's own. Dropping it stops it at once and removes all its data.
///
/// Its one user is `pgw`, a superuser without a password. The locale is C, the encoding UTF-8, and the time zone UTC.
#[derive(Debug)]
pub struct Postgres {
    // Dropped before the directory.
    process: Process,
    directory: Directory,
    programs: PathBuf,
    account: Account,
    settings: Vec<(String, String)>,
}

impl Postgres {
    /// A server whose commits cost as little as they can: nothing is forced to the disk, and what was committed just
    /// before a [`kill`](Self::kill) may be lost. See [`PostgresBuilder::durable`].
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder { settings: Vec::new(), durability: Durability::Fast }
    }

    /// The URL of the database `postgres`, for libpq and sqlx alike. It stays the same over [`restart`](Self::restart).
    #[must_use]
    pub fn url(&self) -> String {
        url::url(self.socket_directory())
    }

    /// Where the server's Unix socket is, `.s.PGSQL.5432`.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the server keeps its data.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        data_directory(&self.directory)
    }

    /// Where the programs of this version of PostgreSQL are, such as `psql` and `pgbench`.
    #[must_use]
    pub fn bin_directory(&self) -> &Path {
        &self.programs
    }

    /// The last 200 lines of the log, since the last start.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log().tail()
    }

    /// Kills the server and all its processes with SIGKILL, as a crash would, and waits until they are gone. Does
    /// nothing if it is down.
    ///
    /// # Errors
    /// [`ServerError::NotStopped`] when they are not gone after half a minute, which takes a program that the server
    /// itself started; [`ServerError::System`].
    pub fn kill(&mut self) -> Result<(), ServerError> {
        self.process.kill()
    }

    /// Shuts the server down: transactions under way are rolled back, and what was committed is written out. Does
    /// nothing if it is down.
    ///
    /// # Errors
    /// [`ServerError::NotStopped`] when it had to be killed after a minute; [`ServerError::System`].
    pub fn stop(&mut self) -> Result<(), ServerError> {
        self.process.stop(Signal::INT, STOP_TIMEOUT)
    }

    /// Starts the server again with the same data and settings, and waits until it accepts connections. Shuts it down
    /// first if it runs.
    ///
    /// # Errors
    /// [`ServerError::Ended`] and [`ServerError::NotReady`] with the log when it does not start; else as
    /// [`stop`](Self::stop).
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.stop()?;
        self.process = start(self.account, &self.programs, &self.directory, &self.settings)?;
        Ok(())
    }

    pub(crate) const fn account(&self) -> Account {
        self.account
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown, which gives back what the kernel lent. There is nobody to tell of its failure.
        let _ = self.process.stop(Signal::QUIT, QUIT_TIMEOUT);
    }
}

/// How a [`Postgres`] is to be.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct PostgresBuilder {
    settings: Vec<(String, String)>,
    durability: Durability,
}

impl PostgresBuilder {
    /// Leaves `fsync`, `synchronous_commit` and `full_page_writes` on, as they are by default: what was committed outlives a
    /// [`kill`](Postgres::kill), and a commit costs what it costs in production.
    pub const fn durable(mut self) -> Self {
        self.durability = Durability::Full;
        self
    }

    /// A parameter as in postgresql.conf. The last value given for a name counts, over [`durable`](Self::durable) too.
    /// What keeps the log from saying that the server is ready, as `log_min_messages=fatal` does, keeps
    /// [`start`](Self::start) from seeing it.
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Creates the server in a directory of its own under [`std::env::temp_dir`], and waits until it accepts connections.
    ///
    /// # Errors
    /// [`ServerError::NotInstalled`], [`ServerError::NoSystemUser`] and [`ServerError::PathTooLong`] say what to do;
    /// [`ServerError::Ended`] and [`ServerError::NotReady`] hold the log; [`ServerError::System`].
    pub fn start(self) -> Result<Postgres, ServerError> {
        let programs = program::postgres_directory()?;
        let account = Account::for_servers()?;
        let directory = Directory::create(account)?;
        initialize(account, &programs, &directory)?;
        let mut settings = settings(self.durability);
        settings.extend(self.settings);
        let process = start(account, &programs, &directory, &settings)?;
        Ok(Postgres { process, directory, programs, account, settings })
    }
}

#[derive(Clone, Copy, Debug)]
enum Durability {
    Fast,
    Full,
}

fn settings(durability: Durability) -> Vec<(String, String)> {
    let mut settings = vec![
        // Every test of a binary has a pool of its own.
        ("max_connections", "400"),
        // It is our pipe that takes the log.
        ("logging_collector", "off"),
        // In the data directory, and so removed with it. POSIX shared memory outlives a kill, and containers have little.
        ("dynamic_shared_memory_type", "mmap"),
    ];
    if matches!(durability, Durability::Fast) {
        settings.extend([
            ("fsync", "off"),
            ("synchronous_commit", "off"),
            ("full_page_writes", "off"),
        ]);
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn initialize(account: Account, programs: &Path, directory: &Directory) -> Result<(), ServerError> {
    let mut command = account.command(&programs.join("initdb"), directory.path());
    command
        .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-U", USER, "-D"])
        .arg(data_directory(directory));
    Process::spawn("initdb", &mut command, None)?.wait_success(START_TIMEOUT)
}

/// Starts `postgres` itself rather than `pg_ctl`, so that it is our child: one can wait for it, and it cannot be
/// mistaken for another.
fn start(
    account: Account,
    programs: &Path,
    directory: &Directory,
    settings: &[(String, String)],
) -> Result<Process, ServerError> {
    let mut command = account.command(&programs.join("postgres"), directory.path());
    command.arg("-D").arg(data_directory(directory)).args(["-p", &PORT.to_string(), "-h", ""]);
    command.arg("-k").arg(directory.path());
    for (name, value) in settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    // The file is what makes it a standby.
    let is_standby = data_directory(directory).join("standby.signal").exists();
    let ready = if is_standby { READY_STANDBY } else { READY };
    let mut process = Process::spawn("postgres", &mut command, Some(ready))?;
    process.wait_ready(START_TIMEOUT)?;
    Ok(process)
}

fn data_directory(directory: &Directory) -> PathBuf {
    directory.path().join("data")
}

/// What the log says at the end of a start, of one that recovers from a crash too.
const READY: &str = "database system is ready to accept connections";
/// What the log of a standby says once it can be read.
const READY_STANDBY: &str = "database system is ready to accept read";
/// A second or two do, recovery after a crash included, unless much was written since the last checkpoint.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Writing out all of a full cache takes that long on a slow disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// PostgreSQL itself kills what has not ended five seconds after it was told to.
const QUIT_TIMEOUT: Duration = Duration::from_secs(10);

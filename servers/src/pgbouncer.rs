//! `PgBouncer`: a pool in front of a [`Postgres`].

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::account::Account;
use crate::directory::Directory;
use crate::error::ServerError;
use crate::postgres::{Postgres, PostgresPair};
use crate::process::Process;
use crate::program;
use crate::url::{self, PORT, USER};

/// A PgBouncer in transaction mode in front of a [`Postgres`]. Dropping it stops it at once.
///
/// It serves every database of the server, and its own console as the database `pgbouncer`. After the server was down
/// it tries anew every second.
#[derive(Debug)]
pub struct PgBouncer {
    // Dropped before the directory.
    process: Process,
    directory: Directory,
}

impl PgBouncer {
    /// A pool of 20 connections to `postgres`.
    pub fn builder(postgres: &Postgres) -> PgBouncerBuilder {
        PgBouncerBuilder {
            account: postgres.account(),
            server: postgres.socket_directory().to_path_buf(),
            user: USER.to_owned(),
            keeps_statements: false,
            pool_size: POOL_SIZE_DEFAULT,
            settings: Vec::new(),
        }
    }

    /// A pool of 20 connections to the primary of `pair`, whichever that is at the time of a connection.
    pub fn builder_for_pair(pair: &PostgresPair) -> PgBouncerBuilder {
        PgBouncerBuilder { server: pair.socket_directory(), ..Self::builder(pair.primary()) }
    }

    /// The URL of the server's database `postgres` through the pool, for libpq and sqlx alike.
    #[must_use]
    pub fn url(&self) -> String {
        url::url(self.socket_directory())
    }

    /// Where the pool's Unix socket is, `.s.PGSQL.5432`.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// The last 200 lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log().tail()
    }
}

/// How a [`PgBouncer`] is to be.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct PgBouncerBuilder {
    account: Account,
    server: PathBuf,
    user: String,
    keeps_statements: bool,
    pool_size: u16,
    settings: Vec<(String, String)>,
}

impl PgBouncerBuilder {
    /// As this role at the server, whoever its clients say they are. It is first needed when the first of them comes.
    pub fn with_role(mut self, role: impl Into<String>) -> Self {
        self.user = role.into();
        self
    }

    /// One that keeps the prepared statements of its clients apart, which PgBouncer does from 1.21 on. Without it statements are passed on as they
    /// are, as every version before did, whichever this is.
    pub const fn keeping_statements(mut self) -> Self {
        self.keeps_statements = true;
        self
    }

    /// Most connections to the server.
    pub const fn with_pool_size(mut self, connections: u16) -> Self {
        self.pool_size = connections;
        self
    }

    /// A parameter as in the section `[pgbouncer]` of pgbouncer.ini. The last value given for a name counts.
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Starts it in a directory of its own under [`std::env::temp_dir`], and waits until it accepts connections.
    ///
    /// # Errors
    /// [`ServerError::NotInstalled`] and [`ServerError::PathTooLong`] say what to do; [`ServerError::Ended`] and
    /// [`ServerError::NotReady`] hold the log; [`ServerError::System`].
    pub fn start(self) -> Result<PgBouncer, ServerError> {
        let program = match self.keeps_statements {
            true => program::pgbouncer_keeping_statements()?,
            false => program::pgbouncer()?,
        };
        let directory = Directory::create(self.account)?;
        let file = directory.path().join("pgbouncer.ini");
        let statements_max = match (program::can_keep_statements(&program), self.keeps_statements) {
            (true, true) => Some(200),
            (true, false) => Some(0),
            (false, _) => None,
        };
        fs::write(&file, self.configuration(directory.path(), statements_max))
            .map_err(ServerError::system(format!("write {}", file.display())))?;
        self.account.own(&file)?;
        // One that was built may lie where the account that runs it may not look. Copied by another process: what this one has open for writing, a
        // child that another thread starts meanwhile has open too, and a program that somebody may write to is not run.
        let own = directory.path().join("pgbouncer");
        let copy = || ServerError::system(format!("copy {}", program.display()));
        let copied = Command::new("cp").arg("--").args([&program, &own]).status().map_err(copy())?;
        if !copied.success() {
            return Err(copy()(io::Error::other(copied.to_string())));
        }
        self.account.own(&own)?;
        let mut command = self.account.command(&own, directory.path());
        let mut process = Process::spawn("pgbouncer", command.arg(&file), Some(READY))?;
        process.wait_ready(START_TIMEOUT)?;
        Ok(PgBouncer { process, directory })
    }

    /// pgbouncer.ini. Without a `logfile` the log goes to standard error; without a `listen_addr` nobody listens on TCP.
    fn configuration(&self, directory: &Path, statements_max: Option<u16>) -> String {
        // In a connection string, a quote within quotes is doubled.
        let server = self.server.display().to_string().replace('\'', "''");
        let mut text = format!(
            "[databases]\n\
             * = host='{server}' port={PORT} user='{user}'\n\
             [pgbouncer]\n\
             unix_socket_dir = {directory}\n\
             listen_port = {PORT}\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             max_client_conn = 500\n\
             default_pool_size = {pool_size}\n\
             ; sqlx and other clients send it, and it is the same for all of them.\n\
             ignore_startup_parameters = extra_float_digits\n\
             ; The default of 15 s would outlast a test that kills the server.\n\
             server_login_retry = 1\n",
            directory = directory.display(),
            user = self.user.replace('\'', "''"),
            pool_size = self.pool_size,
        );
        if let Some(statements_max) = statements_max {
            writeln!(text, "max_prepared_statements = {statements_max}")
                .expect("writing to a string does not fail");
        }
        for (name, value) in &self.settings {
            writeln!(text, "{name} = {value}").expect("writing to a string does not fail");
        }
        text
    }
}

/// What the log says once the socket is there.
const READY: &str = "process up";
/// It has nothing to prepare; this is for a starved machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POOL_SIZE_DEFAULT: u16 = 20;

//! `PostgresPair`: a PostgreSQL server, and one that takes over from it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::directory::Directory;
use crate::error::ServerError;
use crate::poll;
use crate::process::Process;
use crate::url::{self, PORT, USER};

use super::{Durability, Postgres, START_TIMEOUT, data_directory, settings, start};

/// A primary and a standby of one's own, with synchronous replication: what the primary has acknowledged, the standby
/// has too. Dropping it stops both and removes all their data.
///
/// Both write to the disk as in production, see [`PostgresBuilder::durable`](crate::PostgresBuilder::durable).
#[derive(Debug)]
pub struct PostgresPair {
    standby: Option<Postgres>,
    primary: Postgres,
    directory: Directory,
}

impl PostgresPair {
    /// A pair that commits when the standby has written the commit to its disk.
    pub const fn builder() -> PostgresPairBuilder {
        PostgresPairBuilder { settings: Vec::new() }
    }

    /// The URL of the primary's database `postgres`, for libpq and sqlx alike. It leads to the standby once that is
    /// [promoted](Self::promote), as a name or an address that moves does in production.
    #[must_use]
    pub fn url(&self) -> String {
        url::url(&self.socket_directory())
    }

    /// Where the Unix socket of the primary is, whichever that is.
    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        self.directory.path().join("primary")
    }

    /// The primary.
    #[must_use]
    pub const fn primary(&self) -> &Postgres {
        &self.primary
    }

    /// The standby, which can be read; `None` once it was [promoted](Self::promote).
    #[must_use]
    pub const fn standby(&self) -> Option<&Postgres> {
        self.standby.as_ref()
    }

    /// Kills the primary and all its processes with SIGKILL, as a crash would. Does nothing if it is down.
    ///
    /// # Errors
    /// As of [`Postgres::kill`].
    pub fn kill_primary(&mut self) -> Result<(), ServerError> {
        self.primary.kill()
    }

    /// Makes the standby the primary, and waits until it takes writes. The primary is killed first if it runs, since two
    /// of them would each acknowledge what the other has not got; nothing is left of it.
    ///
    /// # Errors
    /// [`ServerError::NotReady`] with the log when it is not promoted after a minute; else as of [`Postgres::kill`].
    ///
    /// # Panics
    /// If it was promoted before.
    pub fn promote(&mut self) -> Result<(), ServerError> {
        self.primary.kill()?;
        let standby = self.standby.take().expect("a pair has one standby, to be promoted once");
        let seconds = START_TIMEOUT.as_secs();
        let promoted = standby.ask(&format!("select pg_promote(true, {seconds})"));
        if !matches!(promoted.as_deref(), Ok("t")) {
            let log = standby.log_tail();
            self.standby = Some(standby);
            promoted?;
            return Err(ServerError::NotReady { program: "postgres", seconds, log });
        }
        self.primary = standby;
        self.lead_to_primary()
    }

    /// Makes [`socket_directory`](Self::socket_directory) the primary's, in one step: whoever connects meanwhile meets
    /// one of the two.
    fn lead_to_primary(&self) -> Result<(), ServerError> {
        let (link, new) = (self.socket_directory(), self.directory.path().join("new"));
        symlink(self.primary.socket_directory(), &new)
            .and_then(|()| fs::rename(&new, &link))
            .map_err(ServerError::system(format!("make the link {}", link.display())))
    }
}

/// How a [`PostgresPair`] is to be.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct PostgresPairBuilder {
    settings: Vec<(String, String)>,
}

impl PostgresPairBuilder {
    /// A parameter of both servers, as [`PostgresBuilder::with_setting`](crate::PostgresBuilder::with_setting) has it:
    /// `synchronous_commit` says what a commit waits for.
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Creates the servers, each in a directory of its own, and waits until the standby is a synchronous one.
    ///
    /// # Errors
    /// As of [`PostgresBuilder::start`](crate::PostgresBuilder::start).
    pub fn start(self) -> Result<PostgresPair, ServerError> {
        // From the first commit on it waits for the standby, which is not there yet.
        let mut primary =
            Postgres::builder().durable().with_setting("synchronous_standby_names", STANDBY);
        for (name, value) in &self.settings {
            primary = primary.with_setting(name, value);
        }
        let primary = primary.start()?;
        let standby = start_standby(&primary, self.settings)?;
        poll::until("the standby", || {
            let states =
                primary.ask("select application_name, sync_state from pg_stat_replication")?;
            Ok(if states == format!("{STANDBY}|sync") { Ok(()) } else { Err(states) })
        })?;
        let directory = Directory::create(primary.account)?;
        let pair = PostgresPair { standby: Some(standby), primary, directory };
        pair.lead_to_primary()?;
        Ok(pair)
    }
}

impl Postgres {
    /// The rows that a statement answers with, of which the last 200 count.
    fn ask(&self, statement: &str) -> Result<String, ServerError> {
        let mut client = self.account.command(&self.programs.join("psql"), self.directory.path());
        client.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", &self.url()]);
        let mut client = Process::spawn("psql", client.args(["-c", statement]), None)?;
        // Longer than what is asked for may itself take.
        client.wait_success(START_TIMEOUT * 2)?;
        Ok(client.log().tail())
    }
}

/// A copy of the primary that follows it.
fn start_standby(
    primary: &Postgres,
    given: Vec<(String, String)>,
) -> Result<Postgres, ServerError> {
    let (account, programs) = (primary.account, primary.programs.clone());
    let directory = Directory::create(account)?;
    copy(primary, &data_directory(&directory))?;
    let mut settings = settings(Durability::Full);
    settings.extend(given);
    let process = start(account, &programs, &directory, &settings)?;
    Ok(Postgres { process, directory, programs, account, settings })
}

/// Copies the primary's data, with a note that this is a standby's, and of whom.
fn copy(primary: &Postgres, data: &Path) -> Result<(), ServerError> {
    let directory = primary.socket_directory();
    let mut command = primary.account.command(&primary.programs.join("pg_basebackup"), directory);
    command.arg("-h").arg(directory).args(["-p", &PORT.to_string(), "-U", USER]);
    command.args(["-d", &format!("application_name={STANDBY}"), "--write-recovery-conf"]);
    command.args(["--checkpoint=fast", "--no-sync", "-D"]).arg(data);
    Process::spawn("pg_basebackup", &mut command, None)?.wait_success(START_TIMEOUT)
}

/// By which the primary knows its standby.
const STANDBY: &str = "standby";

//! [`Failure`]: why a command did not do it, as a sentence for a person and an exit code for a script.

use std::error::Error;
use std::fmt;

use pgw_core::storage::StorageError;
use pgw_storage_postgres::{ConnectError, MigrateError};

use crate::config::ConfigError;

/// Why a command did not do what it was told.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What the shell sees. The numbers are a promise to scripts; `pgw --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was refused or did not work, and trying again will not help by itself.
    Failed = 1,
    /// The command line or the configuration is wrong. (clap's own number, too.)
    Usage = 2,
    /// A server cannot be reached, or is overloaded: try again.
    Unavailable = 3,
    /// There is no such thing.
    NotFound = 4,
    /// A check found something wrong: an audit log that was changed, a backup that cannot be restored, an unhealthy part.
    CheckFailed = 5,
}

impl Failure {
    /// A failure in words.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), source: None }
    }

    /// With what caused it.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A mistake in how the command was called.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something that could not be done to a file or a process.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::new(Exit::Failed, what).because(error)
    }
}

/// The message, and after it each cause that says something new.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut said = self.message.clone();
        let mut next: Option<&(dyn Error + 'static)> = match &self.source {
            Some(source) => Some(&**source),
            None => None,
        };
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<pgw_core::error::Error> for Failure {
    fn from(error: pgw_core::error::Error) -> Self {
        use pgw_core::error::Error as Core;
        let exit = match &error {
            Core::Invalid { .. } => Exit::Usage,
            Core::NotFound(_) => Exit::NotFound,
            Core::Storage(fault) => storage_exit(fault),
            error if error.is_retryable() => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let message = error.to_string();
        Self::new(exit, message).because(error)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let message = error.to_string();
        Self::new(storage_exit(&error), message).because(error)
    }
}

const fn storage_exit(error: &StorageError) -> Exit {
    match error {
        StorageError::Unavailable(_) | StorageError::Indeterminate(_) => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Schema(error) => error.into(),
            ConnectError::Database(error) => {
                Self::new(Exit::Unavailable, "the database cannot be used").because(error)
            }
            ConnectError::Settings { found } => Self::usage(format!(
                "connections through the pooler have {found}: run as their role what `pgw migrate --export --settings ROLE` prints, and have the pooler \
                 make new connections"
            )),
            ConnectError::StatementsMixed => Self::usage(
                "PGW_DB_POOLER=prepared, but no pooler is there that keeps prepared statements: PgBouncer does from 1.21 on, with \
                 max_prepared_statements above 0; set PGW_DB_POOLER=true for others, and false without one",
            ),
            error => Self::usage(error.to_string()),
        }
    }
}

impl From<MigrateError> for Failure {
    fn from(error: MigrateError) -> Self {
        let message = error.to_string();
        match error {
            MigrateError::Behind { .. } => {
                Self::new(Exit::Failed, format!("{message}: `pgw migrate` does that"))
            }
            MigrateError::Database(error) => Self::new(Exit::Unavailable, message).because(error),
            _ => Self::new(Exit::Failed, message),
        }
    }
}

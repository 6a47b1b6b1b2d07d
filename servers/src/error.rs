//! What starting and stopping a server can fail with.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a server could not be started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A program is not on this machine.
    #[error(
        "`{0}` is not installed; run scripts/setup, or apt-get install postgresql pgbouncer redis-server"
    )]
    NotInstalled(&'static str),
    /// This process is root, and there is nobody else to run the servers as.
    #[error(
        "the servers do not run as root, and there is no system user `postgres`; apt-get install postgresql pgbouncer"
    )]
    NoSystemUser,
    /// The address of a Unix socket has room for 107 bytes.
    #[error("{0} is too long for a Unix socket; set TMPDIR to a shorter directory")]
    PathTooLong(PathBuf),
    /// All ports that servers take are in use.
    #[error("none of the TCP ports {first} to {last} of 127.0.0.1 is free")]
    NoPort {
        /// The first one that was tried.
        first: u16,
        /// The last one that was tried.
        last: u16,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system refused something.
    #[error("cannot {attempt}")]
    System {
        /// What was tried.
        attempt: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program ended when it should have gone on, or failed.
    #[error("{program} ended with {status}; the end of its log:\n{log}")]
    Ended {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The program was not ready in time, and was killed; or servers that should have agreed on something had not.
    #[error("{program} was not ready after {seconds} s; the end of its log:\n{log}")]
    NotReady {
        /// The program, or what the servers form.
        program: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// The last lines of its log, or what the servers said last.
        log: String,
    },
    /// The program did not end in time when it was asked to, and was killed.
    #[error("{program} did not stop within {seconds} s; the end of its log:\n{log}")]
    NotStopped {
        /// The program.
        program: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// The last lines of its log.
        log: String,
    },
}

impl ServerError {
    /// For `map_err`: the system refused `attempt`.
    pub(crate) fn system<E: Into<io::Error>>(attempt: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::System { attempt: attempt.into(), source: error.into() }
    }
}

//! Why Redis did not do it.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::processor::Source;
use redis::{ErrorKind, ServerErrorKind};

/// Redis did not do it, or nobody knows whether it did. Everything in it may be lost at any moment, so that makes no difference.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// It could not be reached a moment ago, for this reason, and nobody waits for it: a task tries again and again.
    #[error("Redis is away")]
    Away(#[source] Arc<Self>),
    /// It did not answer in time.
    #[error("Redis did not answer within {0:?}")]
    TimedOut(Duration),
    /// It could not be reached, or refused.
    #[error("Redis failed")]
    Failed(#[source] redis::RedisError),
    /// It answered what makes no sense to this version.
    #[error("Redis answered what was not expected: {0}")]
    Unexpected(&'static str),
}

impl RedisError {
    /// Whether a new connection may help: this one is broken, or leads to a node that is no longer in charge.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Away(_) | Self::Unexpected(_) => false,
            Self::Failed(error) => match error.kind() {
                // Before Redis 7, a script's errors come inside another's text.
                ErrorKind::Server(ServerErrorKind::ResponseError) => {
                    let text = error.to_string();
                    ["READONLY", "MASTERDOWN", "LOADING"].iter().any(|code| text.contains(code))
                }
                ErrorKind::Server(kind) => matches!(
                    kind,
                    ServerErrorKind::ReadOnly
                        | ServerErrorKind::BusyLoading
                        | ServerErrorKind::MasterDown
                        | ServerErrorKind::ClusterDown
                        | ServerErrorKind::Moved
                        | ServerErrorKind::Ask
                ),
                ErrorKind::UnexpectedReturnType | ErrorKind::Extension => false,
                _ => true,
            },
        }
    }

    pub(crate) fn into_source(self) -> Source {
        Arc::new(self)
    }
}

/// A Redis cannot be made of these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisConfigError {
    /// A URL, or what goes with it, is not one that Redis can be reached by. The URL is not repeated: it may hold a password.
    #[error(
        "the address of Redis cannot be used: use redis://[user:password@]host[:port][/db], rediss:// for TLS (feature `tls`)"
    )]
    Address(#[source] redis::RedisError),
    /// There is no address.
    #[error("no address of Redis is given")]
    NoAddress,
    /// The namespace has characters or a length that keys cannot have.
    #[error("a namespace is 1 to 64 characters of a-z, A-Z, 0-9, `_`, `-` and `.`")]
    Namespace,
}

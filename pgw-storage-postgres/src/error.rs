//! What PostgreSQL and the connection say, by meaning.

use std::sync::Arc;

use pgw_core::processor::Source;
use pgw_core::storage::StorageError;
use sqlx::Error;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Whether a failed statement may have been applied all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It may: it was, or was part of, a commit whose answer did not come.
    MayBeApplied,
    /// It cannot: nothing of it was committed.
    NotApplied,
}

/// Whether a commit that ended with this error may have been applied: unless the server said why it was not.
pub(crate) fn doubt_of(error: &Error) -> Doubt {
    let Error::Database(refused) = error else {
        return match error {
            // Nothing was sent.
            Error::PoolTimedOut | Error::PoolClosed | Error::Configuration(_) => Doubt::NotApplied,
            _ => Doubt::MayBeApplied,
        };
    };
    // A server that dies, or ends the session, may have written the commit before it did.
    if refused
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|error| matches!(error.severity(), PgSeverity::Panic | PgSeverity::Fatal))
    {
        return Doubt::MayBeApplied;
    }
    let code = refused.code();
    let code = code.as_deref().unwrap_or_default();
    // Classes that only a statement that failed has. A server that is shut down (57P01) may say so after the commit, and
    // 40003 says that it does not know.
    let failed = ["22", "23", "25", "40", "42", "53", "54", "55"]
        .iter()
        .any(|class| code.starts_with(class));
    if (failed && code != "40003") || code == "57014" {
        Doubt::NotApplied
    } else {
        Doubt::MayBeApplied
    }
}

/// An error of a write.
pub(crate) fn write_error(error: Error, doubt: Doubt) -> StorageError {
    match &error {
        Error::Database(refused) => match refused.code().as_deref() {
            // Our own checks stand in front of these; what gets here is a plan that is wrong, or a hand that wrote to the tables.
            Some(code) if code.starts_with("23") => {
                StorageError::Unsupported("a row that breaks one of the tables' constraints")
            }
            _ if doubt == Doubt::MayBeApplied => StorageError::Indeterminate(source(error)),
            _ => StorageError::Unavailable(source(error)),
        },
        Error::ColumnDecode { .. } | Error::Decode(_) => StorageError::Corrupt(source(error)),
        _ if doubt == Doubt::MayBeApplied => StorageError::Indeterminate(source(error)),
        _ => StorageError::Unavailable(source(error)),
    }
}

/// An error of a read.
pub(crate) fn read_error(error: Error) -> StorageError {
    match error {
        Error::ColumnDecode { .. } | Error::Decode(_) => StorageError::Corrupt(source(error)),
        _ => StorageError::Unavailable(source(error)),
    }
}

/// A row that cannot be what it says.
pub(crate) fn corrupt(error: BoxDynError) -> StorageError {
    StorageError::Corrupt(Arc::from(error))
}

/// Whether the same transaction, tried again as a whole, may get through: it could not be serialized (40001) or was the victim of
/// a deadlock (40P01).
pub(crate) fn is_worth_repeating(error: &Error) -> bool {
    has_code(error, &["40001", "40P01"])
}

/// Whether a statement gave up waiting for a lock (55P03).
pub(crate) fn is_lock_timeout(error: &Error) -> bool {
    has_code(error, &["55P03"])
}

/// Whether the server refused a statement for what is in it: a value (22) or a constraint (23).
pub(crate) fn is_refusal(error: &Error) -> bool {
    let Error::Database(refused) = error else { return false };
    refused.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

fn has_code(error: &Error, codes: &[&str]) -> bool {
    let Error::Database(refused) = error else { return false };
    refused.code().is_some_and(|code| codes.contains(&&*code))
}

/// The error as the source of another, without what may hold a row's values: PostgreSQL quotes them in its details, never in its
/// messages of the errors met here.
fn source(error: Error) -> Source {
    Arc::new(error)
}

//! The schema's name: the one part of a statement that is not a constant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The schema that holds pgw's tables, `pgw` by default: 1 to 48 characters of `a-z`, `0-9` and `_`, not starting with a digit, and
/// not `pg_…`, which PostgreSQL keeps for itself.
///
/// ```
/// use pgw_storage_postgres::Schema;
/// assert_eq!(Schema::default().as_str(), "pgw");
/// assert!("payments_eu".parse::<Schema>().is_ok());
/// assert!("pgw; drop table orders".parse::<Schema>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Schema(Arc<str>);

impl Schema {
    /// Longest name: PostgreSQL cuts identifiers at 63 bytes, and channels are named after the schema.
    pub const LEN_MAX: usize = 48;

    /// The name. Safe to put into a statement as it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self(Arc::from("pgw"))
    }
}

impl FromStr for Schema {
    type Err = SchemaError;

    fn from_str(text: &str) -> Result<Self, SchemaError> {
        let fits = (1..=Self::LEN_MAX).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let starts = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        if fits && plain && starts && !text.starts_with("pg_") {
            Ok(Self(Arc::from(text)))
        } else {
            Err(SchemaError)
        }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text cannot be the name of pgw's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a schema name has 1 to 48 characters of a-z, 0-9 and '_', and starts neither with a digit nor with pg_"
)]
pub struct SchemaError;

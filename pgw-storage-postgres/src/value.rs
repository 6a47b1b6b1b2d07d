//! Values on their way to and from PostgreSQL: times to the microsecond, durations, and texts that a column can hold.

use std::time::Duration;

use pgw_core::storage::StorageError;
use pgw_core::timestamp::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// A [`Timestamp`] as `timestamptz`, exact in all of its range. sqlx's own forms of it need a date library that a host may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Timestamp);

/// Microseconds from 1970 to 2000, where PostgreSQL's times start.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

// By number, which is the same in every PostgreSQL: a name would be looked up first, in a round trip of its own.
impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        // In range: a Timestamp is from 1970 to 9999.
        let micros = self.0.as_micros() - POSTGRES_EPOCH;
        <i64 as Encode<'_, Postgres>>::encode_by_ref(&micros, buffer)
    }
}

impl Decode<'_, Postgres> for Time {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<'_, Postgres>>::decode(value)?;
        let since_1970 = micros.checked_add(POSTGRES_EPOCH).ok_or("a time out of range")?;
        let at = Timestamp::from_micros(since_1970);
        // Infinity and years before 1970 or after 9999, which only a statement by hand can write.
        if at.as_micros() == since_1970 { Ok(Self(at)) } else { Err("a time out of range".into()) }
    }
}

/// A duration in microseconds.
pub(crate) fn micros(duration: Duration) -> i64 {
    // Bounded so that adding it to any time stays within what PostgreSQL's times hold; ten thousand years are as good as never.
    const LONGEST: i64 = 315_360_000_000_000_000;
    i64::try_from(duration.as_micros()).unwrap_or(LONGEST).min(LONGEST)
}

/// A count or version. None of ours comes near 2⁶³.
///
/// # Errors
/// [`StorageError::Unsupported`] when it does.
pub(crate) fn count(count: u64) -> Result<i64, StorageError> {
    i64::try_from(count).map_err(|_| StorageError::Unsupported("a number above 2^63"))
}

/// A version to compare with; one that no row can have compares with none.
pub(crate) fn version(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}

/// The bits of a fence.
pub(crate) const fn bits(fence: u64) -> i64 {
    i64::from_ne_bytes(fence.to_ne_bytes())
}

/// The fence of these bits.
pub(crate) const fn fence(bits: i64) -> u64 {
    u64::from_ne_bytes(bits.to_ne_bytes())
}

/// A text, proven to fit a column before it enters a statement: PostgreSQL's texts cannot hold NUL.
///
/// # Errors
/// [`StorageError::Unsupported`] when it has one.
pub(crate) fn text(text: &str) -> Result<&str, StorageError> {
    if text.as_bytes().contains(&0) {
        Err(StorageError::Unsupported("a text with a NUL character"))
    } else {
        Ok(text)
    }
}

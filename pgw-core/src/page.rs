//! Keyset pages: newest first, by (time, id), with an opaque cursor.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::timestamp::Timestamp;

/// A place in a list: the key of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When the row was created.
    pub at: Timestamp,
    /// The row's id; orders rows of the same instant. Rows with two ids use [`Cursor::tie`] too.
    pub id: Uuid,
    /// Second id of rows named by two (deliveries: the endpoint); nil elsewhere.
    pub tie: Uuid,
}

impl Cursor {
    /// The place of a row with one id.
    #[must_use]
    pub const fn new(at: Timestamp, id: Uuid) -> Self {
        Self { at, id, tie: Uuid::nil() }
    }

    /// Reads the text a page gave as `next_cursor`.
    ///
    /// # Errors
    /// [`CursorError`] when the text is not such a cursor.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        // Checked before decoding, so a long text costs nothing.
        if text.len() != TEXT_LEN {
            return Err(CursorError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let (at, rest) = bytes.split_first_chunk::<8>().ok_or(CursorError)?;
        let (id, rest) = rest.split_first_chunk::<16>().ok_or(CursorError)?;
        let (tie, rest) = rest.split_first_chunk::<16>().ok_or(CursorError)?;
        let micros = i64::from_be_bytes(*at);
        let at = Timestamp::from_micros(micros);
        if rest.is_empty() && at.as_micros() == micros {
            Ok(Self { at, id: Uuid::from_bytes(*id), tie: Uuid::from_bytes(*tie) })
        } else {
            Err(CursorError)
        }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.at.as_micros().to_be_bytes());
        bytes[8..24].copy_from_slice(self.id.as_bytes());
        bytes[24..].copy_from_slice(self.tie.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// The text is not a cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a cursor that an earlier page gave")]
pub struct CursorError;

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    limit: usize,
    from: Option<PageFrom>,
}

/// The side of a cursor a page lies on. The two sides are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFrom {
    /// Rows older than the cursor, newest of them first.
    After(Cursor),
    /// Rows newer than the cursor: the ones next to it, newest of them first.
    Before(Cursor),
}

impl PageRequest {
    /// Most rows of a page.
    pub const LIMIT_MAX: usize = 100;
    /// Rows of a page when the caller does not say.
    pub const LIMIT_DEFAULT: usize = 20;

    /// The first page with `limit` rows, clamped to 1..=100.
    #[must_use]
    pub fn first(limit: usize) -> Self {
        Self { limit: limit.clamp(1, Self::LIMIT_MAX), from: None }
    }

    /// The oldest rows, at most `limit`, clamped as by [`PageRequest::first`]. Of its page, [`Page::has_more`] says whether there are newer ones.
    #[must_use]
    pub fn last(limit: usize) -> Self {
        let beginning = Cursor::new(Timestamp::EPOCH, Uuid::nil());
        Self::first(limit).with_from(PageFrom::Before(beginning))
    }

    /// The page on one side of a cursor.
    #[must_use]
    pub const fn with_from(mut self, from: PageFrom) -> Self {
        self.from = Some(from);
        self
    }

    /// How many rows at most: 1..=100.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Where the page starts.
    #[must_use]
    pub const fn from(&self) -> Option<PageFrom> {
        self.from
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self::first(Self::LIMIT_DEFAULT)
    }
}

/// Rows, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// Whether the list goes on in the direction that was asked for.
    pub has_more: bool,
    /// Where the next page starts, when there is more: older rows for [`PageFrom::After`] and first pages,
    /// newer ones for [`PageFrom::Before`].
    pub next_cursor: Option<Cursor>,
}

impl<T> Page<T> {
    /// The same page with every row changed.
    pub fn map<U>(self, row: impl FnMut(T) -> U) -> Page<U> {
        Page {
            data: self.data.into_iter().map(row).collect(),
            has_more: self.has_more,
            next_cursor: self.next_cursor,
        }
    }
}

/// 40 bytes in unpadded base64.
const TEXT_LEN: usize = 54;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip() {
        let mut cursor = Cursor::new(Timestamp::from_micros(123_456_789), Uuid::from_u128(77));
        assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        cursor.tie = Uuid::max();
        assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(cursor) = Cursor::parse(&String::from_utf8_lossy(bytes)) {
                assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
            }
        });
        assert_eq!(Cursor::parse(&"A".repeat(TEXT_LEN - 1)), Err(CursorError));
        assert_eq!(Cursor::parse(&"_".repeat(TEXT_LEN)), Err(CursorError));
    }
}

//! Idempotency: the caller's key, the fingerprint of what it asked, and the answer kept for a replay.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::id::{ConsentId, DeliveryId, EndpointId, KeyId, OperationId, PaymentId};
use crate::payment::UnknownName;
use crate::timestamp::Timestamp;

/// A caller's idempotency key: 1–255 visible ASCII characters
/// (draft-ietf-httpapi-idempotency-key-header). Its scope is merchant and mode.
///
/// ```
/// use pgw_core::idempotency::IdempotencyKey;
/// assert_eq!(IdempotencyKey::parse("\"8e03\"").unwrap(), IdempotencyKey::parse("8e03").unwrap());
/// assert!(IdempotencyKey::parse("").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// Longest key in characters.
    pub const LEN_MAX: usize = 255;

    /// Reads a bare key or a quoted one (a structured-field string, RFC 9651 §3.3.3).
    ///
    /// # Errors
    /// [`IdempotencyKeyError`] when it is empty, too long or has other than visible ASCII characters.
    pub fn parse(text: &str) -> Result<Self, IdempotencyKeyError> {
        let key = match text.strip_prefix('"') {
            Some(rest) => unquote(rest)?,
            None => text.to_owned(),
        };
        let fits = (1..=Self::LEN_MAX).contains(&key.len());
        if fits && key.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(key.into()))
        } else {
            Err(IdempotencyKeyError)
        }
    }

    /// The key without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The text is not an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 255 visible ASCII characters, bare or in double quotes")]
pub struct IdempotencyKeyError;

fn unquote(rest: &str) -> Result<String, IdempotencyKeyError> {
    let inner = rest.strip_suffix('"').ok_or(IdempotencyKeyError)?;
    let mut key = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(IdempotencyKeyError),
            },
            '"' => return Err(IdempotencyKeyError),
            plain => key.push(plain),
        }
    }
    Ok(key)
}

/// SHA-256 of a canonical command: equal exactly when the same thing is asked again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hash of personal data is personal data; eight hex digits are enough to compare by eye.
        write!(
            f,
            "Fingerprint({:08x}…)",
            u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
        )
    }
}

/// Builds a [`Fingerprint`] field by field; each field is length-prefixed, so no two commands run together.
#[derive(Debug)]
pub struct Fingerprinter(Sha256);

impl Fingerprinter {
    /// Starts the fingerprint of a command with this name.
    #[must_use]
    pub fn new(command: &str) -> Self {
        Self(Sha256::new()).text(command)
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a text that may be absent; absent and empty differ.
    #[must_use]
    pub fn optional(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.number(1).text(text),
            None => self.number(0),
        }
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, number: i64) -> Self {
        self.0.update(number.to_be_bytes());
        self
    }

    /// The fingerprint.
    #[must_use]
    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

/// What a key stands for: what the commit that claimed it made or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyTarget {
    /// An operation that was asked for: the charge or authorization of a new payment, a capture, a cancel, a refund.
    Operation {
        /// The payment.
        payment: PaymentId,
        /// The operation.
        operation: OperationId,
    },
    /// A payment that was moved on without a new operation.
    Payment(PaymentId),
    /// An endpoint.
    Endpoint(EndpointId),
    /// A delivery.
    Delivery(DeliveryId),
    /// An API key.
    ApiKey(KeyId),
    /// A consent.
    Consent(ConsentId),
    /// More than one object, or what is not named here: what a filter found, a network of the denylist.
    Found,
}

impl KeyTarget {
    /// The name of an object, as storage keeps it; `None` for an operation, which is two ids.
    ///
    /// ```
    /// use pgw_core::idempotency::KeyTarget;
    /// let target: KeyTarget = "found".parse().unwrap();
    /// assert_eq!((target, target.object().as_deref()), (KeyTarget::Found, Some("found")));
    /// ```
    #[must_use]
    pub fn object(&self) -> Option<String> {
        match self {
            Self::Operation { .. } => None,
            Self::Payment(id) => Some(id.to_string()),
            Self::Endpoint(id) => Some(id.to_string()),
            Self::Delivery(id) => Some(id.to_string()),
            Self::ApiKey(id) => Some(id.to_string()),
            Self::Consent(id) => Some(id.to_string()),
            Self::Found => Some("found".to_owned()),
        }
    }
}

impl std::str::FromStr for KeyTarget {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let payment = || text.parse().ok().map(Self::Payment);
        let endpoint = || text.parse().ok().map(Self::Endpoint);
        let delivery = || text.parse().ok().map(Self::Delivery);
        let key = || text.parse().ok().map(Self::ApiKey);
        let consent = || text.parse().ok().map(Self::Consent);
        let found = || (text == "found").then_some(Self::Found);
        let id = payment().or_else(endpoint).or_else(delivery).or_else(key).or_else(consent);
        id.or_else(found).ok_or(UnknownName)
    }
}

/// A claim on a key: guard and write at once. Exactly one commit per key succeeds with it, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyClaim {
    /// The key.
    pub key: IdempotencyKey,
    /// What was asked.
    pub fingerprint: Fingerprint,
    /// What the commit makes or changes.
    pub target: KeyTarget,
    /// The answer, when it is known at once.
    pub answer: Option<StoredAnswer>,
}

/// A claimed key, as storage keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The claim, with the answer once there is one and until its retention ends.
    pub claim: KeyClaim,
    /// When it was claimed.
    pub created_at: Timestamp,
}

/// An answer kept for replays: the HTTP status and the body, byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body's bytes: JSON, or an envelope of it where it tells a secret. May share memory with an event's body.
    pub body: Bytes,
}

impl fmt::Debug for StoredAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body holds personal data.
        write!(f, "StoredAnswer({}, {} bytes)", self.status, self.body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_and_quoted_spellings() {
        for (text, key) in [("abc", "abc"), ("\"abc\"", "abc"), (r#""a\"b\\c""#, r#"a"b\c"#)] {
            assert_eq!(IdempotencyKey::parse(text).unwrap().as_str(), key);
        }
        let longest = "k".repeat(IdempotencyKey::LEN_MAX);
        assert!(IdempotencyKey::parse(&longest).is_ok());
        for bad in
            ["", "\"\"", "a b", "\"a", "\"a\"b\"", r#""a\b""#, "ключ", "a\n", &(longest + "k")]
        {
            assert_eq!(IdempotencyKey::parse(bad), Err(IdempotencyKeyError), "{bad:?}");
        }
    }

    #[test]
    fn fields_do_not_run_together() {
        let of = |parts: [&str; 2]| Fingerprinter::new("x").text(parts[0]).text(parts[1]).finish();
        assert_eq!(of(["ab", "c"]), of(["ab", "c"]));
        assert_ne!(of(["ab", "c"]), of(["a", "bc"]));
        let absent = Fingerprinter::new("x").optional(None).finish();
        assert_ne!(absent, Fingerprinter::new("x").optional(Some("")).finish());
    }
}

//! Privacy: erasing a customer (GDPR Art. 17), what is left of one, and consents. The verbs are in [`crate::gateway`]; what a payment is without
//! its person is in [`redaction`].
//!
//! A customer is a [`CustomerId`](crate::text::CustomerId) in one scope, and all that is held of it are its payments and what hangs on them. A
//! payment without such an id is nobody's and is not reached.

pub mod consent;
pub mod plan;
pub mod redaction;

use std::borrow::Cow;
use std::fmt;

use crate::id::ErasureId;
use crate::payment::UnknownName;
use crate::scope::{Mode, Scope};
use crate::timestamp::Timestamp;

pub use consent::{Consent, ConsentHolder, NewConsent};
pub use redaction::Redaction;

/// Names a customer of one merchant and mode without saying who it is: an HMAC-SHA256 of the customer's id, under a key that is derived
/// from the gateway's [`Pepper`](crate::access::Pepper).
///
/// The same customer has the same digest as long as the pepper is the same. Who has only the database cannot try ids against it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CustomerDigest(pub [u8; 32]);

impl CustomerDigest {
    /// The prefix of the text form, without its underscore.
    pub const PREFIX: &'static str = "cud";
}

impl fmt::Display for CustomerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cud_")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CustomerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for CustomerDigest {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let digits = text.strip_prefix("cud_").ok_or(UnknownName)?.as_bytes();
        if digits.len() != 64 {
            return Err(UnknownName);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().try_fold(0_u8, |value, digit| {
                let nibble = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(UnknownName),
                };
                Ok(value << 4 | nibble)
            })?;
        }
        Ok(Self(bytes))
    }
}

/// That a customer was erased. It says when and, to who knows the id and the pepper, whom; it never changes and holds no personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Names the erasure, and stands for the customer from now on: the `customer_id` of every payment it marked.
    pub id: ErasureId,
    /// Merchant and mode.
    pub scope: Scope,
    /// Who.
    pub customer: CustomerDigest,
    /// Which of this customer's erasures it is, from 1: somebody who comes back may be erased again.
    pub number: u64,
    /// When it was asked for and committed.
    pub requested_at: Timestamp,
}

impl Erasure {
    /// A line of the erasure log: JSON, without a line feed.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(&Line {
            id: self.id.to_string().into(),
            merchant: self.scope.merchant.as_str().into(),
            mode: self.scope.mode.as_str().into(),
            customer: self.customer.to_string().into(),
            number: self.number,
            requested_at: self.requested_at.to_string().into(),
        })
        .expect("a struct of texts and numbers is written as JSON")
    }

    /// Reads a line of the erasure log.
    ///
    /// ```
    /// use pgw_core::privacy::Erasure;
    /// let line = r#"{"id":"era_01h455vb4pex5vsknk084sn02q","merchant":"default","mode":"test",
    ///     "customer":"cud_0000000000000000000000000000000000000000000000000000000000000000",
    ///     "number":1,"requested_at":"2026-11-25T20:00:00Z"}"#;
    /// let erasure = Erasure::from_line(line).unwrap();
    /// assert_eq!(Erasure::from_line(&erasure.to_line()), Some(erasure));
    /// ```
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let line: Line<'_> = serde_json::from_str(line).ok()?;
        let mode = [Mode::Test, Mode::Live].into_iter().find(|mode| mode.as_str() == line.mode)?;
        let id: ErasureId = line.id.parse().ok()?;
        // Others cannot stand for a customer, so no erasure has them.
        crate::text::CustomerId::of_erasure(id)?;
        Some(Self {
            id,
            scope: Scope::new(line.merchant.parse().ok()?, mode),
            customer: line.customer.parse().ok()?,
            number: line.number,
            requested_at: line.requested_at.parse().ok()?,
        })
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    id: Cow<'a, str>,
    merchant: Cow<'a, str>,
    mode: Cow<'a, str>,
    customer: Cow<'a, str>,
    number: u64,
    requested_at: Cow<'a, str>,
}

/// An erasure and how far its work has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureProgress {
    /// The erasure.
    pub erasure: Erasure,
    /// How many payments it marked.
    pub payments: u64,
    /// How many of those are rewritten, with their operations, events, deliveries, attempts and answers.
    pub payments_redacted: u64,
    /// When the last one was rewritten; of an erasure that marked none, when it was asked for.
    pub done_at: Option<Timestamp>,
}

impl ErasureProgress {
    /// How far it is.
    #[must_use]
    pub const fn state(&self) -> ErasureState {
        match (self.done_at, self.payments_redacted) {
            (Some(_), _) => ErasureState::Done,
            (None, 0) => ErasureState::Marked,
            (None, _) => ErasureState::Rewriting,
        }
    }
}

/// How far an erasure is. Whatever the state, no read gives anything personal. The three values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErasureState {
    /// The payments are marked; none is rewritten yet.
    Marked,
    /// Some are rewritten.
    Rewriting,
    /// Nothing personal is stored any more.
    Done,
}

impl ErasureState {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Marked => "marked",
            Self::Rewriting => "rewriting",
            Self::Done => "done",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_they_are_written() {
        let digest = CustomerDigest(std::array::from_fn(|n| u8::try_from(n * 8).unwrap()));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let text = digest.to_string();
        for bad in ["", "cud_", &text[1..], &text[..67], &text.to_uppercase(), &format!("{text}0")]
        {
            assert_eq!(bad.parse::<CustomerDigest>(), Err(UnknownName), "{bad}");
        }
        assert!(format!("cud_{}", "é".repeat(32)).parse::<CustomerDigest>().is_err());
    }
}

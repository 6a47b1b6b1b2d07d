//! Why a message, a secret or a request to sign was refused. No error holds a secret, a signature or a body.

use std::error::Error;
use std::fmt;

/// Why a message was not accepted.
///
/// Whatever the reason, the body must not be acted on. None of the variants tells the sender anything it could not have known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyError {
    /// A header the profile needs is absent or empty.
    Missing {
        /// The header's name, in lower case.
        header: &'static str,
    },
    /// A header is there but cannot be what the profile asks for: not a number, no signature of a known version, too long, or given
    /// more than once.
    Malformed {
        /// The header's name, in lower case.
        header: &'static str,
    },
    /// The message is older than the tolerance: a replay, a very slow network, or clocks apart.
    Stale,
    /// The message is from further ahead than the tolerance: clocks apart, or milliseconds where seconds are due.
    Future,
    /// No signature was made with any of the keys over these bytes.
    Mismatch,
}

impl VerifyError {
    /// The header at fault, where there is one.
    #[must_use]
    pub fn header(&self) -> Option<&'static str> {
        match self {
            Self::Missing { header } | Self::Malformed { header } => Some(header),
            Self::Stale | Self::Future | Self::Mismatch => None,
        }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { header } => write!(f, "the {header} header is missing"),
            Self::Malformed { header } => write!(f, "the {header} header is malformed"),
            Self::Stale => f.write_str("the message is too old"),
            Self::Future => f.write_str("the message is from the future"),
            Self::Mismatch => f.write_str("the signature does not match"),
        }
    }
}

impl Error for VerifyError {}

/// Why a secret cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretError {
    /// A `standard` secret does not begin with `whsec_`.
    Prefix,
    /// A `standard` secret's remainder is not padded base64.
    Encoding,
    /// The key is empty, or shorter than the profile allows.
    TooShort {
        /// The fewest bytes the profile takes.
        bytes_min: usize,
    },
    /// The key is longer than the profile allows.
    TooLong {
        /// The most bytes the profile takes.
        bytes_max: usize,
    },
    /// More than [`KEYS_MAX`](crate::KEYS_MAX) secrets.
    TooMany,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => f.write_str("the secret does not begin with whsec_"),
            Self::Encoding => f.write_str("the secret is not base64"),
            Self::TooShort { bytes_min } => {
                write!(f, "the secret is shorter than {bytes_min} bytes")
            }
            Self::TooLong { bytes_max } => {
                write!(f, "the secret is longer than {bytes_max} bytes")
            }
            Self::TooMany => write!(f, "more than {} secrets", crate::KEYS_MAX),
        }
    }
}

impl Error for SecretError {}

/// Why a message cannot be signed: a receiver would refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignError {
    /// The id is not 1–[`ID_BYTES_MAX`](crate::ID_BYTES_MAX) visible ASCII characters, or holds a `.`.
    Id,
    /// The event type is not 1–[`ID_BYTES_MAX`](crate::ID_BYTES_MAX) visible ASCII characters.
    Event,
    /// The timestamp has more than 19 digits in the profile's unit.
    Timestamp,
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "the webhook id cannot be signed",
            Self::Event => "the event type cannot be sent in a header",
            Self::Timestamp => "the timestamp cannot be signed",
        })
    }
}

impl Error for SignError {}

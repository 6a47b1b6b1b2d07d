//! Somebody else who signs and verifies: the trait, and what goes through it.

use pgw_core::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The header pairs of a message.
pub(crate) type Headers = Vec<(String, String)>;

/// Whoever has other people's libraries. Secrets are tried one by one, since the libraries take one each.
pub(crate) trait Peer {
    /// The library's signature of a message under each secret: a whole `webhook-signature` or `stripe-signature`.
    fn sign(
        &mut self,
        library: &str,
        secrets: &[String],
        letter: &Letter<'_>,
    ) -> Result<Vec<String>, Error>;

    /// What the library thinks of a message under each secret.
    fn verify(
        &mut self,
        library: &str,
        secrets: &[String],
        headers: &Headers,
        body: &[u8],
    ) -> Result<Vec<Verdict>, Error>;
}

/// What is signed.
#[derive(Debug)]
pub(crate) struct Letter<'a> {
    /// The webhook's id.
    pub(crate) id: &'a str,
    /// When it is sent.
    pub(crate) sent: Timestamp,
    /// Its body.
    pub(crate) body: &'a [u8],
}

/// What a library thinks of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It may be acted on.
    Accepted,
    /// It may not, in the library's words.
    Refused(String),
}

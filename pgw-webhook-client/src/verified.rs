//! A message that passed: what may be acted on, and the key that tells it from its repetitions.

use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// A message whose signature and age were checked. Made by the verifiers only.
///
/// Borrows from the headers and the body it was made from, so nothing is copied. Its `Debug` leaves the body out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verified<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) id_trust: IdTrust,
    pub(crate) timestamp: Duration,
    pub(crate) body: &'a [u8],
    pub(crate) key_index: usize,
}

impl<'a> Verified<'a> {
    /// The webhook's id, the same on every attempt. Signed in `standard`; **not signed** in `seed`, where anyone who replays a message
    /// within the window may change it; `None` in `stripe`, which has no such header. To handle a message once, use
    /// [`replay_key`](Self::replay_key).
    #[must_use]
    pub fn id(&self) -> Option<&'a str> {
        self.id
    }

    /// When this attempt was signed, since the Unix epoch: whole seconds, or milliseconds in `seed`.
    #[must_use]
    pub fn timestamp(&self) -> Duration {
        self.timestamp
    }

    /// The signed bytes. Parse these and no others.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Which of the verifier's secrets matched, counted from 0 in the order they were given. When an old secret has matched nothing
    /// for a while, its rotation is over.
    #[must_use]
    pub fn key_index(&self) -> usize {
        self.key_index
    }

    /// What a [`ReplayStore`](crate::replay::ReplayStore) keys on: the SHA-256 of the id where the profile signs it, otherwise of the
    /// body, because there an unsigned id could be changed to make an old message look new.
    #[must_use]
    pub fn replay_key(&self) -> ReplayKey {
        let hashed = match (self.id, self.id_trust) {
            (Some(id), IdTrust::Signed) => id.as_bytes(),
            (Some(_), IdTrust::Unsigned) | (None, _) => self.body,
        };
        ReplayKey(Sha256::digest(hashed).into())
    }
}

impl fmt::Debug for Verified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("id", &self.id)
            .field("timestamp", &self.timestamp)
            .field("body_bytes", &self.body.len())
            .field("key_index", &self.key_index)
            .finish_non_exhaustive()
    }
}

/// Whether a profile's signature covers its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdTrust {
    Signed,
    Unsigned,
}

/// What tells one webhook from another across attempts: a SHA-256. Displayed in lower-case hex.
///
/// Where several senders share one store, prefix it with the sender: two senders may use the same id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplayKey([u8; 32]);

impl ReplayKey {
    /// A key from its 32 bytes, as a store has kept them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, for a `bytea` column or a binary Redis key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ReplayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ReplayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplayKey({self})")
    }
}

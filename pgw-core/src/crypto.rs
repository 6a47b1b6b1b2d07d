//! The envelope for secrets at rest: AES-256-GCM (NIST SP 800-38D) under a ring of named keys. Pure: where the keys come
//! from and where envelopes are kept is the caller's.
//!
//! A key seals at most 2^32 times, because nonces are random 96-bit numbers (SP 800-38D, section 8.3): put a new key first
//! in the ring long before, and seal again what [`KeyRing::is_current`] says is old.

mod ring;
mod seed;

use std::fmt;

use aes_gcm::{AeadInOut as _, Aes256Gcm, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
/// Wipes what it holds when dropped. Here so that a host that builds a ring needs no crate of its own for it.
pub use zeroize::Zeroizing;

pub use self::ring::{KEY_BYTES, KeyName, KeyNameError, KeyRing, KeyRingBuilder, KeyRingError};
pub use self::seed::open_seed;

/// The place a secret belongs to: the additional authenticated data of SP 800-38D. An envelope opens only in the place it
/// was sealed for, so that who can write rows cannot move a secret to another merchant, object or version.
///
/// ```
/// use pgw_core::crypto::Context;
/// let context = Context::new("endpoint-secret").with("default").with("live").with("we_1").with("1");
/// assert_ne!(context, Context::new("endpoint-secret").with("defaultlive").with("we_1").with("1"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Context(Vec<u8>);

impl Context {
    /// Starts a place with the kind of secret, which keeps kinds apart whose other parts are the same.
    #[must_use]
    pub fn new(kind: &'static str) -> Self {
        Self(Vec::new()).with(kind)
    }

    /// Adds a part: merchant, mode, id, version. Their order counts. Each is preceded by its length (64 bits, big-endian),
    /// so that no two lists of parts read the same.
    #[must_use]
    pub fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
        self.0.extend_from_slice(part);
        self
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context(…)")
    }
}

/// A sealed secret as storage keeps it: `v1.<key id>.<nonce ‖ ciphertext ‖ tag>`, the last in base64url without padding.
///
/// ```
/// use pgw_core::crypto::Sealed;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sealed = Sealed::parse("v1.k1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")?;
/// assert_eq!(format!("{sealed:?}"), "Sealed(k1)");
/// assert!(Sealed::parse("v2.k1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    text: String,
    key: KeyName,
}

impl Sealed {
    /// Longest envelope in bytes; the longest secret under the longest key id stays below it.
    pub const LEN_MAX: usize = 64 * 1024;

    /// Reads an envelope. Whether it is genuine, only [`KeyRing::open`] can tell.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, CryptoError> {
        let (key, _) = split(text).ok_or(CryptoError::Malformed)?;
        Ok(Self { text: text.to_owned(), key })
    }

    /// The text, as storage keeps it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id of the key that sealed it.
    #[must_use]
    pub const fn key(&self) -> &KeyName {
        &self.key
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({})", self.key)
    }
}

/// Why a secret was not sealed or opened. Never holds what it was about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// The text is no envelope: cut off, too long, not base64url, or of an unknown version.
    #[error("the envelope is malformed")]
    Malformed,
    /// The ring has never heard of the key: it may be missing from the configuration.
    #[error("the key {0} is not in the ring")]
    UnknownKey(KeyName),
    /// The key was destroyed: the secret is gone for good.
    #[error("the key {0} was destroyed, and with it what it sealed")]
    DestroyedKey(KeyName),
    /// The tag does not fit: the envelope was changed or moved, or the key is another one under the same id.
    #[error("the envelope is not genuine here")]
    Forged,
    /// The secret is longer than an envelope takes.
    #[error("the secret is longer than {PLAINTEXT_BYTES_MAX} bytes")]
    TooLong,
    /// The secret is not UTF-8.
    #[error("the secret is not text")]
    NotText,
}

/// Encrypts `plain` under a nonce that this key has never seen.
fn seal(
    (id, key): (&KeyName, &[u8; KEY_BYTES]),
    nonce: [u8; NONCE_BYTES],
    context: &Context,
    plain: &[u8],
) -> Sealed {
    // As long as it will be, so that it never moves and leaves a copy of the secret behind.
    let mut payload = Vec::with_capacity(NONCE_BYTES + plain.len() + TAG_BYTES);
    payload.extend_from_slice(&nonce);
    payload.extend_from_slice(plain);
    let tag = encrypt(key, &nonce, &associated(id, context), &mut payload[NONCE_BYTES..]);
    payload.extend_from_slice(&tag);
    let text = format!("{VERSION}{id}.{}", URL_SAFE_NO_PAD.encode(payload));
    Sealed { text, key: id.clone() }
}

fn open(
    key: &[u8; KEY_BYTES],
    context: &Context,
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (id, Payload { nonce, body, tag }) = split(&sealed.text).ok_or(CryptoError::Malformed)?;
    let mut plain = Zeroizing::new(body);
    decrypt(key, &nonce, &associated(&id, context), &mut plain, &tag)?;
    Ok(plain)
}

/// What the tag covers besides the secret. The key's id cannot hold the dot that ends it.
fn associated(id: &KeyName, context: &Context) -> Vec<u8> {
    [format!("{VERSION}{id}.").as_bytes(), &context.0].concat()
}

struct Payload {
    nonce: [u8; NONCE_BYTES],
    body: Vec<u8>,
    tag: [u8; TAG_BYTES],
}

fn split(text: &str) -> Option<(KeyName, Payload)> {
    if text.len() > Sealed::LEN_MAX {
        return None;
    }
    let (id, payload) = text.strip_prefix(VERSION)?.split_once('.')?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let (&nonce, rest) = payload.split_first_chunk()?;
    let (body, &tag) = rest.split_last_chunk()?;
    Some((id.parse().ok()?, Payload { nonce, body: body.to_vec(), tag }))
}

fn encrypt(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    context: &[u8],
    buffer: &mut [u8],
) -> [u8; TAG_BYTES] {
    Aes256Gcm::new(key.into())
        .encrypt_inout_detached(nonce.into(), context, buffer.into())
        .expect("a secret is far below the 64 GiB that GCM takes (SP 800-38D, section 5.2.1.1)")
        .into()
}

fn decrypt(
    key: &[u8; KEY_BYTES],
    nonce: &[u8; NONCE_BYTES],
    context: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), CryptoError> {
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(nonce.into(), context, buffer.into(), tag.into())
        .map_err(|_| CryptoError::Forged)
}

/// Longest secret in bytes: room for a chain of certificates, and well within [`Sealed::LEN_MAX`].
pub const PLAINTEXT_BYTES_MAX: usize = 32 * 1024;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Names the cipher and the layout, with the dot that ends it.
const VERSION: &str = "v1.";

#[cfg(test)]
mod tests;

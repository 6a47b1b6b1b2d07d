//! The keys: which one seals, which open, which are gone. What they do to a secret is in the parent module.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{Context, CryptoError, PLAINTEXT_BYTES_MAX, Sealed, open, seal};
use crate::env::Env;
use crate::secret::Secret;

/// The keys that secrets are sealed with: one active key, which seals and opens; keys that only open; and keys known to be
/// destroyed. A cheap handle; the keys are wiped when the last clone is dropped.
///
/// ```
/// use pgw_core::crypto::{Context, KeyRing};
/// use pgw_core::env::Env;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let env = Env::system();
/// let ring = KeyRing::ephemeral(&env);
/// let context = Context::new("endpoint-secret").with("default").with("test").with("we_1").with("1");
/// let sealed = ring.seal(&env, &context, b"whsec_c2VjcmV0")?;
/// assert_eq!(ring.open_secret(&context, &sealed)?.expose(), "whsec_c2VjcmV0");
/// assert!(ring.open(&Context::new("another-secret"), &sealed).is_err());
/// println!("{sealed:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KeyRing(Arc<Keys>);

impl KeyRing {
    /// Starts a ring with its active key: 32 bytes of a cryptographically secure generator.
    ///
    /// ```
    /// use pgw_core::crypto::{KeyRing, Zeroizing};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (new, old) = ([2; 32], [1; 32]);
    /// let ring = KeyRing::builder("k2".parse()?, Zeroizing::new(new))
    ///     .with_decrypt_only("k1".parse()?, Zeroizing::new(old))
    ///     .with_destroyed("k0".parse()?)
    ///     .build()?;
    /// assert_eq!(format!("{ring:?}"), "KeyRing(k2, k1, k0)");
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(active: KeyName, key: Zeroizing<[u8; KEY_BYTES]>) -> KeyRingBuilder {
        KeyRingBuilder(Keys { active: (active, key), others: Vec::new() })
    }

    /// Reads a ring from one line of text, as an environment variable holds it: entries `<id>:<key>` separated by commas,
    /// the active key first. A key is 32 bytes in padded base64 (`openssl rand -base64 32`), or the word `destroyed`. Space
    /// around an entry is ignored, so that a file may end in a line break.
    ///
    /// ```
    /// use pgw_core::crypto::KeyRing;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let ring = KeyRing::parse("k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,k0:destroyed")?;
    /// assert_eq!(ring.active().as_str(), "k1");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Which entry is wrong, never what it says.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut entries = (1..).zip(text.split(',')).map(|(position, entry)| {
            let wrong = KeyRingError::Entry { position };
            let (id, key) = entry.trim().split_once(':').ok_or(wrong.clone())?;
            let id = id.parse().map_err(|KeyNameError| wrong.clone())?;
            let key = if key == DESTROYED { None } else { Some(parse_key(key).ok_or(wrong)?) };
            Ok((id, key))
        });
        let Some(Ok((id, Some(key)))) = entries.next() else {
            return Err(KeyRingError::Active);
        };
        let builder = entries.try_fold(Self::builder(id, key), |builder, entry| {
            entry.map(|(id, key)| match key {
                Some(key) => builder.with_decrypt_only(id, key),
                None => builder.with_destroyed(id),
            })
        })?;
        builder.build()
    }

    /// A ring with one random key that nobody else has: what it sealed is lost with the process.
    #[must_use]
    pub fn ephemeral(env: &Env) -> Self {
        let active = (KeyName(Arc::from("ephemeral")), Zeroizing::new(env.bytes()));
        Self(Arc::new(Keys { active, others: Vec::new() }))
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn active(&self) -> &KeyName {
        &self.0.active.0
    }

    /// Whether the active key sealed it; if not, it waits to be opened and sealed again.
    #[must_use]
    pub fn is_current(&self, sealed: &Sealed) -> bool {
        sealed.key() == self.active()
    }

    /// Seals a secret for one place, with the active key and a random nonce. `env` must be random: two envelopes with the
    /// same key and nonce betray what their secrets have in common, and let others be forged (SP 800-38D, appendix A).
    ///
    /// # Errors
    /// [`CryptoError::TooLong`] above [`PLAINTEXT_BYTES_MAX`].
    pub fn seal(&self, env: &Env, context: &Context, plain: &[u8]) -> Result<Sealed, CryptoError> {
        if plain.len() > PLAINTEXT_BYTES_MAX {
            return Err(CryptoError::TooLong);
        }
        let (id, key) = &self.0.active;
        Ok(seal((id, key), env.bytes(), context, plain))
    }

    /// Opens an envelope in the place it was sealed for.
    ///
    /// # Errors
    /// [`CryptoError::UnknownKey`], [`CryptoError::DestroyedKey`] and [`CryptoError::Forged`].
    pub fn open(
        &self,
        context: &Context,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        match self.0.iter().find(|(id, _)| *id == sealed.key()) {
            Some((_, Some(key))) => open(key, context, sealed),
            Some((id, None)) => Err(CryptoError::DestroyedKey(id.clone())),
            None => Err(CryptoError::UnknownKey(sealed.key().clone())),
        }
    }

    /// Opens an envelope that holds text.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`CryptoError::NotText`].
    pub fn open_secret(&self, context: &Context, sealed: &Sealed) -> Result<Secret, CryptoError> {
        let plain = self.open(context, sealed)?;
        std::str::from_utf8(&plain).map(Secret::new).map_err(|_| CryptoError::NotText)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show("KeyRing", f)
    }
}

/// A ring in the making, from [`KeyRing::builder`].
#[must_use]
pub struct KeyRingBuilder(Keys);

impl KeyRingBuilder {
    /// A key that opens what it sealed while it was active, and seals nothing any more.
    pub fn with_decrypt_only(mut self, id: KeyName, key: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        self.0.others.push((id, Some(key)));
        self
    }

    /// A key that is gone for good, and with it what it sealed.
    pub fn with_destroyed(mut self, id: KeyName) -> Self {
        self.0.others.push((id, None));
        self
    }

    /// The ring.
    ///
    /// # Errors
    /// [`KeyRingError::DuplicateId`] and [`KeyRingError::DuplicateKey`].
    pub fn build(self) -> Result<KeyRing, KeyRingError> {
        for (count, (id, key)) in self.0.iter().enumerate() {
            for (earlier_id, earlier) in self.0.iter().take(count) {
                if id == earlier_id {
                    return Err(KeyRingError::DuplicateId(id.clone()));
                }
                // A rotation to the same key under a new name protects nothing.
                if let (Some(key), Some(earlier)) = (key, earlier)
                    && bool::from(key.ct_eq(&earlier[..]))
                {
                    return Err(KeyRingError::DuplicateKey(earlier_id.clone(), id.clone()));
                }
            }
        }
        Ok(KeyRing(Arc::new(self.0)))
    }
}

impl fmt::Debug for KeyRingBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show("KeyRingBuilder", f)
    }
}

/// Why a text or a builder makes no ring. Never holds a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRingError {
    /// The first entry is not a key to seal with.
    #[error("the first entry must be the active key: an id, ':' and 32 bytes in base64")]
    Active,
    /// A later entry cannot be read.
    #[error("entry {position} must be an id, ':', and 32 bytes in base64 or 'destroyed'")]
    Entry {
        /// Which one, counted from 1.
        position: usize,
    },
    /// Two entries have the same id.
    #[error("there are two keys with the id {0}")]
    DuplicateId(KeyName),
    /// Two ids have the same key.
    #[error("{0} and {1} are the same key")]
    DuplicateKey(KeyName, KeyName),
}

/// Names a key of a ring: 1 to 32 characters of a-z, 0-9, '_' and '-'. Not secret, and never given to another key. An API
/// key is named by [`KeyId`](crate::id::KeyId).
///
/// ```
/// use pgw_core::crypto::KeyName;
/// assert!("live-2026_1".parse::<KeyName>().is_ok());
/// assert!("K1".parse::<KeyName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(Arc<str>);

impl KeyName {
    /// Longest id in bytes: room for a date and a purpose, and each envelope carries one.
    pub const LEN_MAX: usize = 32;

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, KeyNameError> {
        let fits = (1..=Self::LEN_MAX).contains(&text.len());
        let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if fits && plain { Ok(Self(Arc::from(text))) } else { Err(KeyNameError) }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text cannot name a key of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 32 characters of a-z, 0-9, '_' and '-'")]
pub struct KeyNameError;

/// What a ring consists of; `None` is a destroyed key.
struct Keys {
    active: (KeyName, Zeroizing<[u8; KEY_BYTES]>),
    others: Vec<(KeyName, Option<Zeroizing<[u8; KEY_BYTES]>>)>,
}

impl Keys {
    fn iter(&self) -> impl Iterator<Item = (&KeyName, Option<&[u8; KEY_BYTES]>)> {
        let (id, key) = &self.active;
        let others = self.others.iter().map(|(id, key)| (id, key.as_deref()));
        std::iter::once((id, Some(&**key))).chain(others)
    }

    fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = f.debug_tuple(name);
        self.iter().for_each(|(id, _)| {
            tuple.field(id);
        });
        tuple.finish()
    }
}

fn parse_key(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

/// Length of a key in bytes: AES-256.
pub const KEY_BYTES: usize = 32;
const DESTROYED: &str = "destroyed";

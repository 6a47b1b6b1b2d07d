//! HMAC-SHA256 with the key already absorbed, the keys of one verifier, and comparison in constant time.
//!
//! What is signed, and where a signature is written, is a profile's business and not known here.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::error::SecretError;

/// One HMAC-SHA256 output.
pub(crate) type Tag = [u8; TAG_BYTES];

/// A key in the form it is used in: the two SHA-256 states that have absorbed its inner and outer pad. Cloning them for each message
/// saves the four compressions a fresh HMAC starts with. Both states are wiped when dropped.
#[derive(Clone)]
pub(crate) struct MacKey(Hmac<Sha256>);

impl MacKey {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// The tag of the parts, one after another, as if they had been joined.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// The keys of one verifier or signer, newest first by convention. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keys(Arc<[MacKey]>);

impl Keys {
    pub(crate) fn one(key: MacKey) -> Self {
        Self(Arc::from([key]))
    }

    /// The same keys and one more.
    pub(crate) fn with(&self, key: MacKey) -> Result<Self, SecretError> {
        if self.0.len() >= KEYS_MAX {
            return Err(SecretError::TooMany);
        }
        Ok(Self(self.0.iter().cloned().chain([key]).collect()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The tag under each key, in the order the keys were given.
    pub(crate) fn tags(&self, parts: &[&[u8]]) -> impl Iterator<Item = Tag> {
        self.0.iter().map(|key| key.tag(parts))
    }

    /// Which key made one of the claimed tags.
    pub(crate) fn find(&self, claimed: &ClaimedTags, parts: &[&[u8]]) -> Option<usize> {
        self.0.iter().position(|key| claimed.contains(&key.tag(parts)))
    }
}

/// The tags a message claims to carry, bounded and on the stack.
pub(crate) struct ClaimedTags {
    tags: [Tag; SIGNATURES_MAX],
    len: usize,
}

impl ClaimedTags {
    pub(crate) fn new() -> Self {
        Self { tags: [[0; TAG_BYTES]; SIGNATURES_MAX], len: 0 }
    }

    /// Notes one more tag; `None` when there is no room left.
    #[must_use]
    pub(crate) fn push(&mut self, tag: Tag) -> Option<()> {
        *self.tags.get_mut(self.len)? = tag;
        self.len += 1;
        Some(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `expected` is among them. Every tag is compared whole, in constant time.
    fn contains(&self, expected: &Tag) -> bool {
        let mut found = subtle::Choice::from(0);
        for tag in &self.tags[..self.len] {
            found |= difference(tag, expected).ct_eq(&0);
        }
        found.into()
    }
}

/// Zero for equal tags only. It has no branch, and one word is an eighth of the comparing that 32 bytes are.
fn difference(a: &Tag, b: &Tag) -> u64 {
    let words = a.as_chunks().0.iter().zip(b.as_chunks().0);
    words.fold(0, |found, (a, b)| found | (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b)))
}

/// The tag in lower-case hex.
pub(crate) fn encode_hex(tag: &Tag) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    tag.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads 64 lower-case hex digits. Upper case is refused, so that a tag has one spelling only.
pub(crate) fn decode_hex(text: &[u8]) -> Option<Tag> {
    if text.len() != TAG_BYTES * 2 {
        return None;
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut tag = [0; TAG_BYTES];
    for (byte, pair) in tag.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(tag)
}

/// SHA-256 gives 32 bytes.
pub(crate) const TAG_BYTES: usize = 32;

/// The most secrets one verifier or signer holds: a rotation needs two, an overlapping second one three; each further key costs one
/// more pass over the body of every forged message.
pub const KEYS_MAX: usize = 4;

/// The most signatures one message may carry: four times the keys a sender of this crate can hold, since other senders may add
/// signatures of schemes to come.
pub const SIGNATURES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_hashed_as_if_joined() {
        let key = MacKey::new(b"secret");
        assert_eq!(key.tag(&[b"1636936200", b".", b"hello !"]), key.tag(&[b"1636936200.hello !"]));
        assert_ne!(key.tag(&[b"a"]), key.tag(&[b"b"]));
    }

    /// RFC 4231, test case 2.
    #[test]
    fn agrees_with_the_rfc() {
        let tag = MacKey::new(b"Jefe").tag(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(
            encode_hex(&tag),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn hex_has_one_spelling() {
        let tag = MacKey::new(b"k").tag(&[b"m"]);
        let text = encode_hex(&tag);
        assert_eq!(decode_hex(text.as_bytes()), Some(tag));
        assert_eq!(decode_hex(text.to_uppercase().as_bytes()), None);
        assert_eq!(decode_hex(&text.as_bytes()[1..]), None);
        assert_eq!(decode_hex(b""), None);
    }

    #[test]
    fn the_number_of_claimed_tags_is_bounded() {
        let mut claimed = ClaimedTags::new();
        assert!(claimed.is_empty());
        for n in 0..SIGNATURES_MAX {
            assert!(claimed.push([n as u8 + 1; TAG_BYTES]).is_some());
        }
        assert!(claimed.push([99; TAG_BYTES]).is_none());
        assert!(claimed.contains(&[1; TAG_BYTES]) && claimed.contains(&[16; TAG_BYTES]));
        assert!(!claimed.contains(&[0; TAG_BYTES]) && !claimed.contains(&[99; TAG_BYTES]));
    }
}

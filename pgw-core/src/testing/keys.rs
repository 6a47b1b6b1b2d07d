//! Key rings whose keys everybody knows, and what they sealed.

use crate::crypto::KeyRing;
use crate::env::Env;
use crate::secret::Secret;
use crate::webhook::{Endpoint, Vault};

/// A ring with one key, `test`, the same in every process and run: what one gateway sealed another opens. For tests only, as its
/// key is in the source.
///
/// # Panics
/// Never: the key is well formed.
#[must_use]
pub fn key_ring() -> KeyRing {
    KeyRing::parse("test:dGhpcyBrZXkgaXMgaW4gdGhlIHNvdXJjZSwgMzIgQi4=").expect("a well-formed key")
}

/// Two rings with the key of [`key_ring`] and another: the first seals with the one, the second with the other. For tests only.
///
/// # Panics
/// Never: the keys are well formed.
#[must_use]
pub fn key_rings() -> [KeyRing; 2] {
    let other = "next:dGhpcyBrZXkgaXMgaW4gdGhlIHNvdXJjZSwgdG9vICE=";
    let one = "test:dGhpcyBrZXkgaXMgaW4gdGhlIHNvdXJjZSwgMzIgQi4=";
    [(one, other), (other, one)].map(|(active, older)| {
        KeyRing::parse(&format!("{active},{older}")).expect("well-formed keys")
    })
}

/// The secret of an endpoint of a gateway with [`key_ring`] or one of [`key_rings`]; `None` when another ring sealed it.
#[must_use]
pub fn secret_of(endpoint: &Endpoint) -> Option<Secret> {
    let [keys, _] = key_rings();
    // Opening needs neither time nor randomness.
    Vault::new(keys, Env::system()).secret(endpoint).ok()
}

//! What the seed system encrypted: to be read once, when moving over. Never written.

use aes_gcm::aead::consts::U16;
use aes_gcm::aes::Aes256;
use aes_gcm::{AeadInOut as _, AesGcm, KeyInit as _};
use zeroize::Zeroizing;

use super::{CryptoError, KEY_BYTES, PLAINTEXT_BYTES_MAX, TAG_BYTES};
use crate::secret::Secret;

/// Opens what the seed system's `encryptSecret` made: `iv:ciphertext:tag` in hexadecimal, AES-256-GCM under a nonce of 16 bytes. Its key is the
/// 32 bytes of a text. Nothing ties such a secret to a place, so seal it again as one of a [`KeyRing`](super::KeyRing).
///
/// ```
/// let secret = pgw_core::crypto::open_seed(
///     b"0123456789abcdef0123456789abcdef",
///     "000102030405060708090a0b0c0d0e0f:91aee1c5ab22bd2796e2b6cefe744af08021d0cb8198:1db2a30d69146c26735035ce6b0efe81",
/// )?;
/// assert_eq!(secret.expose(), "whsec_c2VlZCBzZWNyZXQ=");
/// # Ok::<(), pgw_core::crypto::CryptoError>(())
/// ```
///
/// # Errors
/// [`CryptoError::Malformed`], [`CryptoError::TooLong`]; [`CryptoError::Forged`] also under another key; [`CryptoError::NotText`].
pub fn open_seed(key: &[u8; KEY_BYTES], text: &str) -> Result<Secret, CryptoError> {
    let mut parts = text.split(':');
    let (Some(nonce), Some(body), Some(tag), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(CryptoError::Malformed);
    };
    if body.len() > 2 * PLAINTEXT_BYTES_MAX {
        return Err(CryptoError::TooLong);
    }
    let nonce: [u8; NONCE_BYTES] = bytes(nonce)?.as_slice().try_into().map_err(malformed)?;
    let tag: [u8; TAG_BYTES] = bytes(tag)?.as_slice().try_into().map_err(malformed)?;
    let mut plain = Zeroizing::new(bytes(body)?);
    AesGcm::<Aes256, U16>::new(key.into())
        .decrypt_inout_detached((&nonce).into(), &[], plain.as_mut_slice().into(), (&tag).into())
        .map_err(|_| CryptoError::Forged)?;
    std::str::from_utf8(&plain).map(Secret::new).map_err(|_| CryptoError::NotText)
}

/// Reads hexadecimal, in either case.
fn bytes(text: &str) -> Result<Vec<u8>, CryptoError> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        &[high, low] => digit(high).zip(digit(low)).map(|(high, low)| (high << 4) | low),
        _ => None,
    });
    pairs.collect::<Option<_>>().ok_or(CryptoError::Malformed)
}

fn malformed<E>(_: E) -> CryptoError {
    CryptoError::Malformed
}

/// Not the 12 of SP 800-38D's recommendation: what Node takes.
const NONCE_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8; KEY_BYTES] = b"0123456789abcdef0123456789abcdef";
    /// Made by Node's `createCipheriv('aes-256-gcm', …)`.
    const MADE: &str =
        "ffeeddccbbaa99887766554433221100:18704c9ebc1e46:c4619072a87e493c05a50559c0c95d2a";

    #[test]
    fn what_node_made_opens() {
        assert_eq!(open_seed(KEY, MADE).unwrap().expose(), "grüße");
        assert_eq!(open_seed(KEY, &MADE.to_uppercase()).unwrap().expose(), "grüße");
        let empty = "07070707070707070707070707070707::cb742b3a0f703f4e60515758be515bde";
        assert_eq!(open_seed(KEY, empty).unwrap().expose(), "");
    }

    #[test]
    fn whatever_is_changed_does_not_open() {
        for at in 0..MADE.len() {
            let mut changed = MADE.as_bytes().to_vec();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            let refused = open_seed(KEY, &changed).unwrap_err();
            assert!(
                matches!(refused, CryptoError::Forged | CryptoError::Malformed),
                "{changed}: {refused:?}"
            );
        }
        assert_eq!(open_seed(b"another key, of thirty-two bytes", MADE), Err(CryptoError::Forged));
    }

    #[test]
    fn what_is_no_envelope_is_told() {
        let (nonce, tag) = ("0".repeat(32), "0".repeat(32));
        for text in [
            String::new(),
            "::".to_owned(),
            format!("{nonce}:00"),
            format!("{nonce}:00:{tag}:"),
            format!("{nonce}:0:{tag}"),
            format!("{nonce}:0g:{tag}"),
            format!("{nonce}:+1:{tag}"),
            format!("{nonce}00:00:{tag}"),
            format!("{nonce}:00:{}", &tag[2..]),
            format!("{nonce}:é:{tag}"),
        ] {
            assert_eq!(open_seed(KEY, &text), Err(CryptoError::Malformed), "{text}");
        }
        let long = format!("{nonce}:{}:{tag}", "00".repeat(PLAINTEXT_BYTES_MAX + 1));
        assert_eq!(open_seed(KEY, &long), Err(CryptoError::TooLong));
    }
}

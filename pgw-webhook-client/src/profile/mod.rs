//! What the three wire formats share: the receiving and the sending side of a key set, the window, and the rules for ids and
//! timestamps. How a format spells its headers and what it signs is in its own file.

pub mod seed;
pub mod standard;
pub mod stripe;

use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock;
use crate::error::{SecretError, SignError, VerifyError};
use crate::headers::{Headers, Lookup};
use crate::mac::{ClaimedTags, Keys, MacKey};
use crate::verified::Verified;

/// What every verifier can do, for code that is generic over the profile (the axum extractor is).
///
/// A type of your own may implement it, for instance to add a clock of its own or to accept two profiles at one address.
pub trait Verify {
    /// Checks a message as of `now`, the time since the Unix epoch.
    ///
    /// # Errors
    /// [`VerifyError`] when the message must not be acted on.
    fn verify_at<'a, H: Headers + ?Sized>(
        &self,
        now: Duration,
        headers: &'a H,
        body: &'a [u8],
    ) -> Result<Verified<'a>, VerifyError>;

    /// Checks a message as of the system clock.
    ///
    /// # Errors
    /// As [`verify_at`](Self::verify_at).
    fn verify<'a, H: Headers + ?Sized>(
        &self,
        headers: &'a H,
        body: &'a [u8],
    ) -> Result<Verified<'a>, VerifyError> {
        self.verify_at(clock::now(), headers, body)
    }
}

/// Headers to send with a message: lower-case names and their values.
pub type SignedHeaders = Vec<(&'static str, String)>;

/// The part of a verifier that does not depend on the profile.
#[derive(Clone)]
pub(crate) struct Receiver {
    keys: Keys,
    pub(crate) tolerance: Duration,
}

impl Receiver {
    pub(crate) fn new(key: MacKey) -> Self {
        Self { keys: Keys::one(key), tolerance: TOLERANCE_DEFAULT }
    }

    pub(crate) fn with(self, key: MacKey) -> Result<Self, SecretError> {
        Ok(Self { keys: self.keys.with(key)?, ..self })
    }

    pub(crate) fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Whether a message sent at `sent` may be accepted at `now`. Both edges of the window are inside it.
    pub(crate) fn in_window(&self, now: Duration, sent: Duration) -> Result<(), VerifyError> {
        if now.saturating_sub(sent) > self.tolerance {
            Err(VerifyError::Stale)
        } else if sent.saturating_sub(now) > self.tolerance {
            Err(VerifyError::Future)
        } else {
            Ok(())
        }
    }

    /// Which key signed the parts.
    pub(crate) fn key_of(
        &self,
        claimed: &ClaimedTags,
        parts: &[&[u8]],
    ) -> Result<usize, VerifyError> {
        self.keys.find(claimed, parts).ok_or(VerifyError::Mismatch)
    }
}

/// The one value of a header the profile cannot do without.
pub(crate) fn required<'a, H: Headers + ?Sized>(
    headers: &'a H,
    header: &'static str,
) -> Result<&'a [u8], VerifyError> {
    match headers.lookup(header) {
        Lookup::Absent | Lookup::One([]) => Err(VerifyError::Missing { header }),
        Lookup::One(value) => Ok(value),
        Lookup::Many => Err(VerifyError::Malformed { header }),
    }
}

/// Reads a webhook id: visible ASCII without `.`, which separates it from what follows, so that no id can swallow a timestamp.
pub(crate) fn id_text(value: &[u8]) -> Option<&str> {
    if value.is_empty() || value.len() > ID_BYTES_MAX {
        return None;
    }
    // Looks at every byte instead of stopping at the first bad one, which compiles to a few vector instructions.
    let is_allowed = value
        .iter()
        .fold(true, |is_allowed, byte| is_allowed & byte.is_ascii_graphic() & (*byte != b'.'));
    if !is_allowed {
        return None;
    }
    str::from_utf8(value).ok()
}

/// Reads a count of seconds or milliseconds: digits only, no sign, no leading zero, at most 19 of them, which cannot overflow.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let has_leading_zero = text.len() > 1 && text[0] == b'0';
    if text.is_empty() || text.len() > TIMESTAMP_DIGITS_MAX || has_leading_zero {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0'))
    })
}

/// Writes a timestamp so that [`decimal`] reads it back.
pub(crate) fn timestamp_text(count: u128) -> Result<String, SignError> {
    let text = count.to_string();
    if text.len() > TIMESTAMP_DIGITS_MAX { Err(SignError::Timestamp) } else { Ok(text) }
}

/// The key of a `standard` secret: the bytes after `whsec_`, from base64.
pub(crate) fn decoded_key(secret: &str) -> Result<MacKey, SecretError> {
    use base64::{DecodeSliceError, Engine, engine::general_purpose::STANDARD};

    let text = secret.strip_prefix(standard::SECRET_PREFIX).ok_or(SecretError::Prefix)?;
    let mut buffer = Zeroizing::new([0_u8; DECODED_SECRET_ROOM]);
    let len = match STANDARD.decode_slice(text, buffer.as_mut_slice()) {
        Ok(len) => len,
        Err(DecodeSliceError::DecodeError(_)) => return Err(SecretError::Encoding),
        Err(DecodeSliceError::OutputSliceTooSmall) => DECODED_SECRET_ROOM,
    };
    if len < standard::KEY_BYTES_MIN {
        return Err(SecretError::TooShort { bytes_min: standard::KEY_BYTES_MIN });
    }
    if len > standard::KEY_BYTES_MAX {
        return Err(SecretError::TooLong { bytes_max: standard::KEY_BYTES_MAX });
    }
    Ok(MacKey::new(&buffer[..len]))
}

/// The key of a `seed` or `stripe` secret: its text as it stands.
pub(crate) fn whole_key(secret: &str) -> Result<MacKey, SecretError> {
    if secret.is_empty() {
        return Err(SecretError::TooShort { bytes_min: 1 });
    }
    if secret.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong { bytes_max: SECRET_BYTES_MAX });
    }
    Ok(MacKey::new(secret.as_bytes()))
}

/// How far a message's timestamp may be from now, to either side, unless told otherwise: what Standard Webhooks' and Stripe's own
/// libraries use, enough for a slow delivery and for clocks a little apart.
pub const TOLERANCE_DEFAULT: Duration = Duration::from_secs(300);

/// The longest webhook id or event type: well above the ids senders use (about 30), and small enough to be kept for each message.
pub const ID_BYTES_MAX: usize = 255;

/// The longest `seed` or `stripe` secret: several times what senders issue; more is a mistake in configuration.
pub const SECRET_BYTES_MAX: usize = 512;

/// The longest signature header that is read: room for [`SIGNATURES_MAX`](crate::SIGNATURES_MAX) entries of the longest kind known.
pub const SIGNATURE_HEADER_BYTES_MAX: usize = 2048;

/// The most digits whose value is sure to fit a `u64`.
const TIMESTAMP_DIGITS_MAX: usize = 19;

/// Room to decode a `standard` secret, with enough to spare to tell one that is too long from one that is not base64.
const DECODED_SECRET_ROOM: usize = 384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_plain_decimal() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"1614265330"), Some(1_614_265_330));
        assert_eq!(decimal(b"9999999999999999999"), Some(9_999_999_999_999_999_999));
        for refused in ["", "-1", "+1", "01", "1.0", " 1", "1 ", "1e3", "99999999999999999999"] {
            assert_eq!(decimal(refused.as_bytes()), None, "{refused:?}");
        }
        assert_eq!(decimal("-9223372036854775808".as_bytes()), None);
    }

    #[test]
    fn a_timestamp_that_is_written_can_be_read() {
        assert_eq!(timestamp_text(1_614_265_330), Ok("1614265330".to_owned()));
        assert_eq!(timestamp_text(u128::MAX), Err(SignError::Timestamp));
    }

    #[test]
    fn ids_hold_no_separator() {
        assert_eq!(
            id_text(b"evt_01h455vb4pex5vsknk084sn02q"),
            Some("evt_01h455vb4pex5vsknk084sn02q")
        );
        for refused in [&b""[..], b"a.b", b"a b", b"a\n", b"\xff", &[b'a'; ID_BYTES_MAX + 1]] {
            assert_eq!(id_text(refused), None);
        }
    }

    #[test]
    fn the_window_has_two_sides_and_no_overflow() {
        let receiver = Receiver::new(MacKey::new(b"k"));
        let now = Duration::from_secs(1_000_000);
        assert_eq!(receiver.in_window(now, now - TOLERANCE_DEFAULT), Ok(()));
        assert_eq!(receiver.in_window(now, now + TOLERANCE_DEFAULT), Ok(()));
        assert_eq!(receiver.in_window(now, Duration::ZERO), Err(VerifyError::Stale));
        assert_eq!(receiver.in_window(now, Duration::MAX), Err(VerifyError::Future));
        assert_eq!(receiver.in_window(Duration::MAX, now), Err(VerifyError::Stale));
        let just_outside = TOLERANCE_DEFAULT + Duration::from_nanos(1);
        assert_eq!(receiver.in_window(now, now - just_outside), Err(VerifyError::Stale));
        assert_eq!(receiver.in_window(now, now + just_outside), Err(VerifyError::Future));
    }
}

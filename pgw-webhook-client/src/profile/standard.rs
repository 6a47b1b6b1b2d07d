//! The `standard` profile: [Standard Webhooks 1.0](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md),
//! symmetric signatures. Signed: `{id}.{timestamp in seconds}.{body}`, so the id can be trusted.

use std::fmt;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Receiver, SIGNATURE_HEADER_BYTES_MAX, SignedHeaders, Verify, decimal, decoded_key, id_text,
    required, timestamp_text,
};
use crate::clock;
use crate::error::{SecretError, SignError, VerifyError};
use crate::headers::Headers;
use crate::mac::{ClaimedTags, Keys, TAG_BYTES, Tag};
use crate::verified::{IdTrust, Verified};

/// Verifies `standard` messages. Cheap to clone; holds up to [`KEYS_MAX`](crate::KEYS_MAX) secrets.
///
/// ```
/// use std::time::Duration;
/// use pgw_webhook_client::StandardVerifier;
///
/// let verifier = StandardVerifier::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")?;
/// let headers = [
///     ("webhook-id", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"),
///     ("webhook-timestamp", "1649367553"),
///     ("webhook-signature", "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="),
/// ];
/// let body = br#"{"email":"test@example.com","username":"test_user"}"#;
/// let verified = verifier.verify_at(Duration::from_secs(1_649_367_600), &headers, body)?;
/// assert_eq!(verified.id(), Some("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Verifier(Receiver);

impl Verifier {
    /// A verifier with one secret, `whsec_` and the base64 of 24–64 bytes.
    ///
    /// # Errors
    /// [`SecretError`] when the secret is not of that form.
    pub fn new(secret: &str) -> Result<Self, SecretError> {
        Ok(Self(Receiver::new(decoded_key(secret)?)))
    }

    /// Accepts one more secret, for the time of a rotation.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`SecretError::TooMany`].
    pub fn with_secret(self, secret: &str) -> Result<Self, SecretError> {
        Ok(Self(self.0.with(decoded_key(secret)?)?))
    }

    /// Accepts timestamps this far from now, to either side, instead of [`TOLERANCE_DEFAULT`](crate::TOLERANCE_DEFAULT). The longer,
    /// the longer a captured message can be sent again.
    #[must_use]
    pub fn with_tolerance(mut self, tolerance: Duration) -> Self {
        self.0.tolerance = tolerance;
        self
    }

    /// Checks a message as of the system clock. Does not allocate.
    ///
    /// # Errors
    /// [`VerifyError`] when the message must not be acted on.
    pub fn verify<'a, H: Headers + ?Sized>(
        &self,
        headers: &'a H,
        body: &'a [u8],
    ) -> Result<Verified<'a>, VerifyError> {
        self.verify_at(clock::now(), headers, body)
    }

    /// Checks a message as of `now`, the time since the Unix epoch. Does not allocate.
    ///
    /// # Errors
    /// [`VerifyError`] when the message must not be acted on.
    pub fn verify_at<'a, H: Headers + ?Sized>(
        &self,
        now: Duration,
        headers: &'a H,
        body: &'a [u8],
    ) -> Result<Verified<'a>, VerifyError> {
        let id_bytes = required(headers, ID_HEADER)?;
        let sent_digits = required(headers, TIMESTAMP_HEADER)?;
        let signatures = required(headers, SIGNATURE_HEADER)?;

        let id = id_text(id_bytes).ok_or(VerifyError::Malformed { header: ID_HEADER })?;
        let timestamp = decimal(sent_digits)
            .map(Duration::from_secs)
            .ok_or(VerifyError::Malformed { header: TIMESTAMP_HEADER })?;
        let mut claimed = ClaimedTags::new();
        read_tags(signatures, &mut claimed)
            .ok_or(VerifyError::Malformed { header: SIGNATURE_HEADER })?;

        self.0.in_window(now, timestamp)?;
        let key_index = self.0.key_of(&claimed, &[id_bytes, b".", sent_digits, b".", body])?;
        Ok(Verified { id: Some(id), id_trust: IdTrust::Signed, timestamp, body, key_index })
    }
}

impl Verify for Verifier {
    fn verify_at<'a, H: Headers + ?Sized>(
        &self,
        now: Duration,
        headers: &'a H,
        body: &'a [u8],
    ) -> Result<Verified<'a>, VerifyError> {
        Self::verify_at(self, now, headers, body)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandardVerifier")
            .field("keys", &self.0.key_count())
            .field("tolerance", &self.0.tolerance)
            .finish()
    }
}

/// Signs `standard` messages, with every secret it holds.
#[derive(Clone)]
pub struct Signer(Keys);

impl Signer {
    /// A signer with one secret, `whsec_` and the base64 of 24–64 bytes.
    ///
    /// # Errors
    /// [`SecretError`] when the secret is not of that form.
    pub fn new(secret: &str) -> Result<Self, SecretError> {
        Ok(Self(Keys::one(decoded_key(secret)?)))
    }

    /// Signs with one more secret, for the time of a rotation. Give the new one first.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`SecretError::TooMany`].
    pub fn with_secret(self, secret: &str) -> Result<Self, SecretError> {
        Ok(Self(self.0.with(decoded_key(secret)?)?))
    }

    /// The headers to send: `webhook-id`, `webhook-timestamp`, and `webhook-signature` with an entry for each secret. `timestamp` is
    /// the time of this attempt since the Unix epoch, cut to seconds.
    ///
    /// ```
    /// use std::time::Duration;
    /// use pgw_webhook_client::StandardSigner;
    ///
    /// let signer = StandardSigner::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")?;
    /// let body = br#"{"email":"test@example.com","username":"test_user"}"#;
    /// let headers = signer.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", Duration::from_secs(1_649_367_553), body)?;
    /// assert_eq!(headers[2].0, "webhook-signature");
    /// assert_eq!(headers[2].1, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SignError`] when a receiver would refuse the id or the timestamp.
    pub fn sign(
        &self,
        id: &str,
        timestamp: Duration,
        body: &[u8],
    ) -> Result<SignedHeaders, SignError> {
        let id = id_text(id.as_bytes()).ok_or(SignError::Id)?;
        let sent = timestamp_text(timestamp.as_secs().into())?;
        let mut signatures = String::new();
        for tag in self.0.tags(&[id.as_bytes(), b".", sent.as_bytes(), b".", body]) {
            if !signatures.is_empty() {
                signatures.push(' ');
            }
            signatures.push_str("v1,");
            STANDARD.encode_string(tag, &mut signatures);
        }
        Ok(vec![
            (ID_HEADER, id.to_owned()),
            (TIMESTAMP_HEADER, sent),
            (SIGNATURE_HEADER, signatures),
        ])
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandardSigner").field("keys", &self.0.len()).finish()
    }
}

/// The `v1` tags of a signature header. Entries of other versions, and `v1` entries that cannot be a tag, are passed over; `None` when
/// nothing is left, or when there is more than a message may carry.
fn read_tags(value: &[u8], claimed: &mut ClaimedTags) -> Option<()> {
    if value.len() > SIGNATURE_HEADER_BYTES_MAX {
        return None;
    }
    let mut rest = value;
    while !rest.is_empty() {
        rest = if let Some((tag, after)) = leading_tag(rest) {
            claimed.push(tag)?;
            after
        } else {
            let end = rest.iter().position(|byte| *byte == b' ');
            end.map_or(&[], |end| &rest[end + 1..])
        };
    }
    if claimed.is_empty() { None } else { Some(()) }
}

/// The tag of the list's first entry, and the list after it. A tag has one length, so no search for the entry's end is needed.
fn leading_tag(list: &[u8]) -> Option<(Tag, &[u8])> {
    let (text, after) = list.strip_prefix(b"v1,")?.split_at_checked(TAG_BASE64_BYTES)?;
    let after = match after {
        [] | [b' '] => &[],
        [b' ', next @ ..] => next,
        _ => return None,
    };
    Some((decode_tag(text)?, after))
}

/// Reads the padded base64 of 32 bytes. Trailing bits must be zero, so that a tag has one spelling only.
fn decode_tag(text: &[u8]) -> Option<Tag> {
    let mut buffer = [0; TAG_BYTES + 1];
    let len = STANDARD.decode_slice(text, &mut buffer).ok()?;
    buffer[..len].try_into().ok()
}

/// Names the message: constant over its attempts.
pub const ID_HEADER: &str = "webhook-id";

/// When this attempt was signed, in seconds.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";

/// A list of signatures, separated by spaces, each `v1,<base64>`.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// What every secret of this profile begins with.
pub const SECRET_PREFIX: &str = "whsec_";

/// The fewest key bytes, from Standard Webhooks 1.0: 192 bits.
pub const KEY_BYTES_MIN: usize = 24;

/// The most key bytes, from Standard Webhooks 1.0: HMAC-SHA256's block, beyond which keys get hashed and gain nothing.
pub const KEY_BYTES_MAX: usize = 64;

/// The length of 32 bytes in padded base64.
const TAG_BASE64_BYTES: usize = 44;

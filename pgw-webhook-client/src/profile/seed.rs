//! The `seed` profile: one hex signature over `{timestamp in milliseconds}.{body}`. The id is **not** signed, so a receiver's replay
//! store keys on the body's hash, as [`Verified::replay_key`](crate::Verified::replay_key) does.

use std::fmt;
use std::time::Duration;

use super::{
    ID_BYTES_MAX, Receiver, SignedHeaders, Verify, decimal, id_text, required, timestamp_text,
    whole_key,
};
use crate::clock;
use crate::error::{SecretError, SignError, VerifyError};
use crate::headers::Headers;
use crate::mac::{ClaimedTags, MacKey, decode_hex, encode_hex};
use crate::verified::{IdTrust, Verified};

/// Verifies `seed` messages. Cheap to clone; holds up to [`KEYS_MAX`](crate::KEYS_MAX) secrets.
///
/// The secret is its whole text, a prefix such as `whsec_` included. An empty one is refused; use at least 24 random bytes, because
/// any captured message lets an attacker guess at a shorter one at leisure.
#[derive(Clone)]
pub struct Verifier(Receiver);

impl Verifier {
    /// A verifier with one secret.
    ///
    /// # Errors
    /// [`SecretError`] when the secret is empty or longer than [`SECRET_BYTES_MAX`](crate::SECRET_BYTES_MAX).
    pub fn new(secret: &str) -> Result<Self, SecretError> {
        Ok(Self(Receiver::new(whole_key(secret)?)))
    }

    /// Accepts one more secret, for the time of a rotation. The message carries one signature, by the old secret until the sender
    /// changes over.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`SecretError::TooMany`].
    pub fn with_secret(self, secret: &str) -> Result<Self, SecretError> {
        Ok(Self(self.0.with(whole_key(secret)?)?))
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
        let id = required(headers, ID_HEADER)?;
        let sent_digits = required(headers, TIMESTAMP_HEADER)?;
        let signature = required(headers, SIGNATURE_HEADER)?;

        let id = id_text(id).ok_or(VerifyError::Malformed { header: ID_HEADER })?;
        let timestamp = decimal(sent_digits)
            .map(Duration::from_millis)
            .ok_or(VerifyError::Malformed { header: TIMESTAMP_HEADER })?;
        let mut claimed = ClaimedTags::new();
        decode_hex(signature)
            .and_then(|tag| claimed.push(tag))
            .ok_or(VerifyError::Malformed { header: SIGNATURE_HEADER })?;

        self.0.in_window(now, timestamp)?;
        let key_index = self.0.key_of(&claimed, &[sent_digits, b".", body])?;
        Ok(Verified { id: Some(id), id_trust: IdTrust::Unsigned, timestamp, body, key_index })
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
        f.debug_struct("SeedVerifier")
            .field("keys", &self.0.key_count())
            .field("tolerance", &self.0.tolerance)
            .finish()
    }
}

/// Signs `seed` messages. Holds one secret, because the profile carries one signature: during a rotation that is the old one until the
/// named time, and the new one from then on.
#[derive(Clone)]
pub struct Signer(MacKey);

impl Signer {
    /// A signer with its secret, the whole text.
    ///
    /// # Errors
    /// [`SecretError`] when the secret is empty or longer than [`SECRET_BYTES_MAX`](crate::SECRET_BYTES_MAX).
    pub fn new(secret: &str) -> Result<Self, SecretError> {
        Ok(Self(whole_key(secret)?))
    }

    /// The headers to send: `x-webhook-id`, `x-webhook-timestamp` and `x-webhook-signature`. `timestamp` is the time of this attempt
    /// since the Unix epoch, cut to milliseconds.
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
        let sent = timestamp_text(timestamp.as_millis())?;
        let tag = self.0.tag(&[sent.as_bytes(), b".", body]);
        Ok(vec![
            (ID_HEADER, id.to_owned()),
            (TIMESTAMP_HEADER, sent),
            (SIGNATURE_HEADER, encode_hex(&tag)),
        ])
    }

    /// As [`sign`](Self::sign), and `x-webhook-event` with the event's type, unsigned as in this profile it always was.
    ///
    /// ```
    /// use std::time::Duration;
    /// use pgw_webhook_client::SeedSigner;
    ///
    /// let signer = SeedSigner::new("a long enough secret text")?;
    /// let now = Duration::from_millis(1_636_936_200_123);
    /// let headers = signer.sign_event("evt_1", "payment.succeeded", now, b"{}")?;
    /// assert_eq!(headers[1], ("x-webhook-timestamp", "1636936200123".to_owned()));
    /// assert_eq!(headers[3], ("x-webhook-event", "payment.succeeded".to_owned()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`sign`](Self::sign), and [`SignError::Event`].
    pub fn sign_event(
        &self,
        id: &str,
        event: &str,
        timestamp: Duration,
        body: &[u8],
    ) -> Result<SignedHeaders, SignError> {
        let is_visible = !event.is_empty() && event.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || event.len() > ID_BYTES_MAX {
            return Err(SignError::Event);
        }
        let mut headers = self.sign(id, timestamp, body)?;
        headers.push((EVENT_HEADER, event.to_owned()));
        Ok(headers)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeedSigner").finish_non_exhaustive()
    }
}

/// Names the message: constant over its attempts, and not signed.
pub const ID_HEADER: &str = "x-webhook-id";

/// When this attempt was signed, in milliseconds.
pub const TIMESTAMP_HEADER: &str = "x-webhook-timestamp";

/// The signature in lower-case hex.
pub const SIGNATURE_HEADER: &str = "x-webhook-signature";

/// The event's type, not signed: read the one in the body instead.
pub const EVENT_HEADER: &str = "x-webhook-event";

//! The `stripe` profile, [Stripe's signature scheme](https://docs.stripe.com/webhooks#verify-manually): one header with a timestamp in
//! seconds and a list of hex signatures over `{timestamp}.{body}`. There is no id header, so a receiver's replay store keys on the
//! body's hash, as [`Verified::replay_key`](crate::Verified::replay_key) does.

use std::fmt;
use std::time::Duration;

use super::{
    Receiver, SIGNATURE_HEADER_BYTES_MAX, SignedHeaders, Verify, decimal, id_text, required,
    timestamp_text, whole_key,
};
use crate::clock;
use crate::error::{SecretError, SignError, VerifyError};
use crate::headers::Headers;
use crate::mac::{ClaimedTags, Keys, decode_hex, encode_hex};
use crate::verified::{IdTrust, Verified};

/// Verifies `stripe` messages. Cheap to clone; holds up to [`KEYS_MAX`](crate::KEYS_MAX) secrets.
///
/// The secret is its whole text, a prefix such as `whsec_` included. An empty one is refused; use at least 24 random bytes, because
/// any captured message lets an attacker guess at a shorter one at leisure.
///
/// ```
/// use std::time::Duration;
/// use pgw_webhook_client::StripeVerifier;
///
/// let verifier = StripeVerifier::new("secret")?;
/// let header = "t=1636936200,v1=1b3d69df55f1e52f05224ba94a5162abeb17ef52cd7f4948c390f810d6a87e98";
/// let headers = [("Stripe-Signature", header)];
/// let verified = verifier.verify_at(Duration::from_secs(1_636_936_201), &headers, b"hello !")?;
/// assert_eq!(verified.body(), b"hello !");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

    /// Accepts one more secret, for the time of a rotation.
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
        let value = required(headers, SIGNATURE_HEADER)?;
        let mut claimed = ClaimedTags::new();
        let sent_digits = read_entries(value, &mut claimed)
            .ok_or(VerifyError::Malformed { header: SIGNATURE_HEADER })?;
        let timestamp = decimal(sent_digits)
            .map(Duration::from_secs)
            .ok_or(VerifyError::Malformed { header: SIGNATURE_HEADER })?;

        self.0.in_window(now, timestamp)?;
        let key_index = self.0.key_of(&claimed, &[sent_digits, b".", body])?;
        Ok(Verified { id: None, id_trust: IdTrust::Unsigned, timestamp, body, key_index })
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
        f.debug_struct("StripeVerifier")
            .field("keys", &self.0.key_count())
            .field("tolerance", &self.0.tolerance)
            .finish()
    }
}

/// Signs `stripe` messages, with every secret it holds.
#[derive(Clone)]
pub struct Signer(Keys);

impl Signer {
    /// A signer with one secret, the whole text.
    ///
    /// # Errors
    /// [`SecretError`] when the secret is empty or longer than [`SECRET_BYTES_MAX`](crate::SECRET_BYTES_MAX).
    pub fn new(secret: &str) -> Result<Self, SecretError> {
        Ok(Self(Keys::one(whole_key(secret)?)))
    }

    /// Signs with one more secret, for the time of a rotation. Give the new one first.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`SecretError::TooMany`].
    pub fn with_secret(self, secret: &str) -> Result<Self, SecretError> {
        Ok(Self(self.0.with(whole_key(secret)?)?))
    }

    /// The one header to send, `stripe-signature`, with an entry for each secret. `timestamp` is the time of this attempt since the
    /// Unix epoch, cut to seconds. The profile sends no id; `id` is checked all the same, so that an id that one profile can carry is
    /// one that all can.
    ///
    /// # Errors
    /// [`SignError`] when a receiver would refuse the id or the timestamp.
    pub fn sign(
        &self,
        id: &str,
        timestamp: Duration,
        body: &[u8],
    ) -> Result<SignedHeaders, SignError> {
        id_text(id.as_bytes()).ok_or(SignError::Id)?;
        let sent = timestamp_text(timestamp.as_secs().into())?;
        let mut value = format!("t={sent}");
        for tag in self.0.tags(&[sent.as_bytes(), b".", body]) {
            value.push_str(",v1=");
            value.push_str(&encode_hex(&tag));
        }
        Ok(vec![(SIGNATURE_HEADER, value)])
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripeSigner").field("keys", &self.0.len()).finish()
    }
}

/// The timestamp's digits and the `v1` tags of a signature header. Entries of other schemes, and `v1` entries that cannot be a tag, are
/// passed over; `None` without a tag, without exactly one timestamp, or with more than a message may carry.
fn read_entries<'a>(value: &'a [u8], claimed: &mut ClaimedTags) -> Option<&'a [u8]> {
    if value.len() > SIGNATURE_HEADER_BYTES_MAX {
        return None;
    }
    let mut sent_digits = None;
    for entry in value.split(|byte| *byte == b',') {
        if let Some(digits) = entry.strip_prefix(b"t=") {
            if sent_digits.replace(digits).is_some() {
                return None;
            }
        } else if let Some(tag) = entry.strip_prefix(b"v1=").and_then(decode_hex) {
            claimed.push(tag)?;
        }
    }
    if claimed.is_empty() { None } else { sent_digits }
}

/// The timestamp in seconds and the signatures: `t=<seconds>,v1=<hex>[,v1=<hex>…]`.
pub const SIGNATURE_HEADER: &str = "stripe-signature";

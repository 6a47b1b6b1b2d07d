//! The three profiles as pgw-webhook-client has them: its side of every pair.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use pgw_core::env::Entropy as _;
use pgw_core::testing::random::Random;
use pgw_webhook_client::profile::{seed, standard, stripe};
use pgw_webhook_client::{
    SeedSigner, SeedVerifier, StandardSigner, StandardVerifier, StripeSigner, StripeVerifier,
    VerifyError,
};

use crate::error::Error;
use crate::peer::{Headers, Letter};
use crate::words;

/// A signature profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Standard Webhooks.
    Standard,
    /// The seed's.
    Seed,
    /// Stripe's.
    Stripe,
}

impl Profile {
    /// A secret of any length that the profile allows.
    pub(crate) fn secret(self, random: &Random) -> String {
        match self {
            Self::Standard => {
                let lengths = standard::KEY_BYTES_MIN..=standard::KEY_BYTES_MAX;
                let mut key = vec![0; words::within(random, *lengths.start(), *lengths.end())];
                random.fill(&mut key);
                format!("{}{}", standard::SECRET_PREFIX, STANDARD.encode(key))
            }
            // The whole text is the key, and may be any.
            Self::Seed | Self::Stripe => {
                let chars = words::within(random, 1, SECRET_CHARS_MAX);
                format!("{}{}", standard::SECRET_PREFIX, words::text(random, chars))
            }
        }
    }

    /// Which secrets sign while a new one replaces an old one.
    pub(crate) fn rotating(self, new: &str, old: &str) -> Vec<String> {
        match self {
            Self::Standard | Self::Stripe => vec![new.to_owned(), old.to_owned()],
            // One signature is all that it carries.
            Self::Seed => vec![old.to_owned()],
        }
    }

    /// The headers by which pgw sends a message.
    pub(crate) fn sign(self, secrets: &[String], letter: &Letter<'_>) -> Result<Headers, Error> {
        let Letter { id, sent, body } = *letter;
        let sent = Duration::from_micros(sent.as_micros().unsigned_abs());
        let (first, more) = secrets.split_first().expect("somebody signs each message");
        let signed = match self {
            Self::Standard => {
                let signer = StandardSigner::new(first)?;
                more.iter().try_fold(signer, |it, more| it.with_secret(more))?.sign(id, sent, body)
            }
            Self::Stripe => {
                let signer = StripeSigner::new(first)?;
                more.iter().try_fold(signer, |it, more| it.with_secret(more))?.sign(id, sent, body)
            }
            Self::Seed => SeedSigner::new(first)?.sign(id, sent, body),
        };
        Ok(signed?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The headers by which a sender who uses a library sends a message: the library's signatures, one for each secret, joined as
    /// the profile has it.
    pub(crate) fn join(self, signatures: &[String], letter: &Letter<'_>) -> Headers {
        let named = |name: &str, value: String| (name.to_owned(), value);
        let seconds = letter.sent.as_secs();
        match self {
            Self::Standard => vec![
                named(standard::ID_HEADER, letter.id.to_owned()),
                named(standard::TIMESTAMP_HEADER, seconds.to_string()),
                named(standard::SIGNATURE_HEADER, signatures.join(" ")),
            ],
            Self::Stripe => {
                // Each is a header of its own, with the same time.
                let joined = signatures.join(",").replace(&format!(",t={seconds},"), ",");
                vec![named(stripe::SIGNATURE_HEADER, joined)]
            }
            Self::Seed => vec![
                named(seed::ID_HEADER, letter.id.to_owned()),
                named(seed::TIMESTAMP_HEADER, letter.sent.as_millis().to_string()),
                named(seed::SIGNATURE_HEADER, signatures.concat()),
            ],
        }
    }

    /// What pgw thinks of a message by the system's clock: the place of the secret that it was signed with, or why not.
    pub(crate) fn verify(
        self,
        secrets: &[String],
        headers: &Headers,
        body: &[u8],
    ) -> Result<Result<usize, VerifyError>, Error> {
        let (first, more) = secrets.split_first().expect("somebody receives each message");
        let verified = match self {
            Self::Standard => {
                let verifier = StandardVerifier::new(first)?;
                more.iter()
                    .try_fold(verifier, |it, more| it.with_secret(more))?
                    .verify(headers, body)
            }
            Self::Seed => {
                let verifier = SeedVerifier::new(first)?;
                more.iter()
                    .try_fold(verifier, |it, more| it.with_secret(more))?
                    .verify(headers, body)
            }
            Self::Stripe => {
                let verifier = StripeVerifier::new(first)?;
                more.iter()
                    .try_fold(verifier, |it, more| it.with_secret(more))?
                    .verify(headers, body)
            }
        };
        Ok(verified.map(|verified| verified.key_index()))
    }
}

/// As long as HMAC-SHA256's block and more, once the characters are bytes.
const SECRET_CHARS_MAX: usize = 60;

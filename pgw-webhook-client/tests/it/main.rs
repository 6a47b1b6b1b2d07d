//! The crate from outside: what each profile accepts and refuses, agreement with the reference implementation, no allocation, no panic,
//! once-only handling, and the axum extractor.

mod allocation;
mod extractor;
mod properties;
mod reference;
mod refusals;
mod replay;
mod secrets;
mod vectors;

use std::time::Duration;

use pgw_webhook_client::{
    Headers, SeedSigner, SeedVerifier, SignedHeaders, StandardSigner, StandardVerifier,
    StripeSigner, StripeVerifier, Verified, VerifyError,
};

/// The published example secrets of Standard Webhooks.
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW: Duration = Duration::from_secs(1_700_000_000);

/// A profile, so that one test covers all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    Standard,
    Seed,
    Stripe,
}

const PROFILES: [Profile; 3] = [Profile::Standard, Profile::Seed, Profile::Stripe];

impl Profile {
    fn sign(self, secret: &str, id: &str, timestamp: Duration, body: &[u8]) -> SignedHeaders {
        match self {
            Self::Standard => StandardSigner::new(secret).unwrap().sign(id, timestamp, body),
            Self::Seed => SeedSigner::new(secret).unwrap().sign(id, timestamp, body),
            Self::Stripe => StripeSigner::new(secret).unwrap().sign(id, timestamp, body),
        }
        .unwrap()
    }

    fn verify<'a, H: Headers + ?Sized>(
        self,
        secret: &str,
        now: Duration,
        headers: &'a H,
        body: &'a [u8],
    ) -> Result<Verified<'a>, VerifyError> {
        match self {
            Self::Standard => StandardVerifier::new(secret).unwrap().verify_at(now, headers, body),
            Self::Seed => SeedVerifier::new(secret).unwrap().verify_at(now, headers, body),
            Self::Stripe => StripeVerifier::new(secret).unwrap().verify_at(now, headers, body),
        }
    }

    /// The headers the profile cannot do without.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Standard => &["webhook-id", "webhook-timestamp", "webhook-signature"],
            Self::Seed => &["x-webhook-id", "x-webhook-timestamp", "x-webhook-signature"],
            Self::Stripe => &["stripe-signature"],
        }
    }

    fn signature_header(self) -> &'static str {
        self.required().last().unwrap()
    }

    fn timestamp_header(self) -> &'static str {
        match self {
            Self::Standard | Self::Seed => self.required()[1],
            Self::Stripe => "stripe-signature",
        }
    }
}

/// The same headers with one value changed.
fn with_value(headers: &SignedHeaders, name: &str, value: &str) -> SignedHeaders {
    assert!(headers.iter().any(|(given, _)| *given == name), "{name}");
    let changed = |(given, old): &(&'static str, String)| {
        (*given, if *given == name { value.to_owned() } else { old.clone() })
    };
    headers.iter().map(changed).collect()
}

fn value<'a>(headers: &'a SignedHeaders, name: &str) -> &'a str {
    &headers.iter().find(|(given, _)| *given == name).unwrap().1
}

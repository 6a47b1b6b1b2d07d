//! The published vectors: signed alike, and accepted.

use std::time::Duration;

use pgw_webhook_client::{StandardSigner, StandardVerifier, StripeSigner, StripeVerifier};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    standard: Vec<StandardVector>,
    seconds_dot_body_hex: Vec<HexVector>,
    must_be_refused: Vec<String>,
}

#[derive(Deserialize)]
struct StandardVector {
    secret: String,
    id: String,
    timestamp: u64,
    body: String,
    signature: String,
}

#[derive(Deserialize)]
struct HexVector {
    secret: String,
    timestamp: u64,
    body: String,
    signature: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

/// What the list of refusals names; `refusals.rs` has a test for each.
pub(crate) fn must_be_refused() -> Vec<String> {
    vectors().must_be_refused
}

#[test]
fn standard() {
    let vectors = vectors().standard;
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let at = Duration::from_secs(vector.timestamp);
        let body = vector.body.as_bytes();
        let signed = StandardSigner::new(&vector.secret).unwrap().sign(&vector.id, at, body);
        let expected = vec![
            ("webhook-id", vector.id.clone()),
            ("webhook-timestamp", vector.timestamp.to_string()),
            ("webhook-signature", vector.signature),
        ];
        assert_eq!(signed.as_ref(), Ok(&expected));

        let verifier = StandardVerifier::new(&vector.secret).unwrap();
        let verified = verifier.verify_at(at, &expected, body).unwrap();
        assert_eq!(verified.id(), Some(vector.id.as_str()));
        assert_eq!(verified.timestamp(), at);
        assert_eq!(verified.body(), body);
    }
}

/// `{seconds}.{body}` in hex is what `stripe` signs; `seed` differs from it in its unit only.
#[test]
fn seconds_dot_body_hex() {
    let vectors = vectors().seconds_dot_body_hex;
    assert_eq!(vectors.len(), 1);
    for vector in vectors {
        let at = Duration::from_secs(vector.timestamp);
        let body = vector.body.as_bytes();
        let value = format!("t={},v1={}", vector.timestamp, vector.signature);
        let signed = StripeSigner::new(&vector.secret).unwrap().sign("evt_1", at, body).unwrap();
        assert_eq!(signed, [("stripe-signature", value.clone())]);

        let headers = [("Stripe-Signature", value)];
        let verifier = StripeVerifier::new(&vector.secret).unwrap();
        assert_eq!(verifier.verify_at(at, &headers, body).unwrap().body(), body);

        // In `seed` the same number is milliseconds, so the same bytes are signed an era earlier.
        let at = Duration::from_millis(vector.timestamp);
        let sign = pgw_webhook_client::SeedSigner::new(&vector.secret).unwrap();
        let signed = sign.sign("evt_1", at, body).unwrap();
        assert_eq!(signed[2], ("x-webhook-signature", vector.signature));
        let verifier = pgw_webhook_client::SeedVerifier::new(&vector.secret).unwrap();
        assert_eq!(verifier.verify_at(at, &signed, body).unwrap().id(), Some("evt_1"));
    }
}

//! Which secrets are taken, rotation, and that no secret is shown.

use pgw_webhook_client::{
    SecretError, SeedSigner, SeedVerifier, StandardSigner, StandardVerifier, StripeSigner,
    StripeVerifier, VerifyError,
};

use crate::{NOW, OLD_SECRET, PROFILES, Profile, SECRET};

const BODY: &[u8] = b"{}";

#[test]
fn standard_secrets_have_one_form() {
    let error = |secret: &str| StandardVerifier::new(secret).err();
    assert_eq!(error("C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), Some(SecretError::Prefix));
    assert_eq!(error(""), Some(SecretError::Prefix));
    assert_eq!(error("whsk_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), Some(SecretError::Prefix));
    assert_eq!(error("whsec_"), Some(SecretError::TooShort { bytes_min: 24 }));
    assert_eq!(error("whsec_not base64!"), Some(SecretError::Encoding));
    assert_eq!(error(&format!("{SECRET}\n")), Some(SecretError::Encoding));
    let sixty_four = format!("whsec_{}==", "A".repeat(86));
    assert_eq!(error(&sixty_four), None);
    let sixty_five = format!("whsec_{}A=", "A".repeat(86));
    assert_eq!(error(&sixty_five), Some(SecretError::TooLong { bytes_max: 64 }));
    let huge = format!("whsec_{}", "A".repeat(100_000));
    assert_eq!(error(&huge), Some(SecretError::TooLong { bytes_max: 64 }));
}

#[test]
fn whole_secrets_are_any_text_but_none() {
    assert_eq!(SeedVerifier::new("").err(), Some(SecretError::TooShort { bytes_min: 1 }));
    assert_eq!(SeedSigner::new("").err(), Some(SecretError::TooShort { bytes_min: 1 }));
    assert_eq!(StripeVerifier::new("").err(), Some(SecretError::TooShort { bytes_min: 1 }));
    assert_eq!(StripeSigner::new("").err(), Some(SecretError::TooShort { bytes_min: 1 }));
    assert!(SeedVerifier::new(&"ü".repeat(256)).is_ok());
    let too_long = Some(SecretError::TooLong { bytes_max: 512 });
    assert_eq!(StripeVerifier::new(&"a".repeat(513)).err(), too_long);
}

/// The prefix is part of the key there, so the same text gives another signature than its decoded bytes.
#[test]
fn whole_secrets_are_not_decoded() {
    let headers = Profile::Seed.sign(SECRET, "evt_1", NOW, BODY);
    let bare = SECRET.strip_prefix("whsec_").unwrap();
    assert_eq!(Profile::Seed.verify(bare, NOW, &headers, BODY), Err(VerifyError::Mismatch));
}

#[test]
fn during_a_rotation_old_and_new_verifiers_accept_both_signatures() {
    let headers = StandardSigner::new(SECRET).unwrap().with_secret(OLD_SECRET).unwrap();
    let headers = headers.sign("evt_1", NOW, BODY).unwrap();
    for secret in [SECRET, OLD_SECRET] {
        assert!(Profile::Standard.verify(secret, NOW, &headers, BODY).is_ok());
    }
    let headers = StripeSigner::new(SECRET).unwrap().with_secret(OLD_SECRET).unwrap();
    let headers = headers.sign("evt_1", NOW, BODY).unwrap();
    for secret in [SECRET, OLD_SECRET] {
        assert!(Profile::Stripe.verify(secret, NOW, &headers, BODY).is_ok());
    }
}

#[test]
fn a_verifier_tells_which_secret_matched() {
    let seed = SeedVerifier::new(SECRET).unwrap().with_secret(OLD_SECRET).unwrap();
    let stripe = StripeVerifier::new(SECRET).unwrap().with_secret(OLD_SECRET).unwrap();
    for (secret, index) in [(SECRET, 0), (OLD_SECRET, 1)] {
        let headers = Profile::Seed.sign(secret, "evt_1", NOW, BODY);
        assert_eq!(seed.verify_at(NOW, &headers, BODY).unwrap().key_index(), index);
        let headers = Profile::Stripe.sign(secret, "evt_1", NOW, BODY);
        assert_eq!(stripe.verify_at(NOW, &headers, BODY).unwrap().key_index(), index);
    }
}

#[test]
fn no_secret_signature_or_body_is_shown() {
    const MARKER: &str = "MARKERmarkerMARKERmarkerMARKERma";
    let secret = format!("whsec_{MARKER}");
    let body = format!("{{\"card\":\"{MARKER}\"}}");
    let mut shown = vec![
        format!("{:?}", StandardVerifier::new(&secret).unwrap()),
        format!("{:?}", StandardSigner::new(&secret).unwrap()),
        format!("{:?}", SeedVerifier::new(&secret).unwrap()),
        format!("{:?}", SeedSigner::new(&secret).unwrap()),
        format!("{:?}", StripeVerifier::new(&secret).unwrap()),
        format!("{:?}", StripeSigner::new(&secret).unwrap()),
    ];
    for profile in PROFILES {
        let headers = profile.sign(&secret, "evt_1", NOW, body.as_bytes());
        let verified = profile.verify(&secret, NOW, &headers, body.as_bytes()).unwrap();
        shown.push(format!("{verified:?} {:?}", verified.replay_key()));
        let error = profile.verify(&secret, NOW, &headers, b"").unwrap_err();
        shown.push(format!("{error:?} {error}"));
    }
    let error = StandardVerifier::new(&format!("{secret}!")).unwrap_err();
    shown.push(format!("{error:?} {error}"));
    for text in shown {
        assert!(!text.contains("MARKER"), "{text}");
    }
}

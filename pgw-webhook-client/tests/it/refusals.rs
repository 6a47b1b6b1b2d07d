//! Everything on the list of what must be refused, and what else each profile refuses.

use std::time::Duration;

use pgw_webhook_client::{
    KEYS_MAX, SIGNATURES_MAX, SecretError, SignError, StandardSigner, StandardVerifier,
    StripeVerifier, VerifyError,
};

use crate::{NOW, OLD_SECRET, PROFILES, Profile, SECRET, value, vectors, with_value};

const BODY: &[u8] = br#"{"type":"payment.succeeded"}"#;

/// A new entry on the list fails here until it has a test.
#[test]
fn the_whole_list_is_refused() {
    for entry in vectors::must_be_refused() {
        match entry.as_str() {
            "v1, with nothing after it" => an_empty_signature(),
            "truncated signature" => a_truncated_signature(),
            "one flipped bit anywhere" => one_flipped_bit_anywhere(),
            "timestamp not a number" => timestamp_text("tomorrow"),
            "timestamp -1" => timestamp_text("-1"),
            "timestamp i64::MIN" => timestamp_text(&i64::MIN.to_string()),
            "5 min + 1 s old" => sent_at(NOW - Duration::from_secs(301), VerifyError::Stale),
            "5 min + 1 s ahead" => sent_at(NOW + Duration::from_secs(301), VerifyError::Future),
            "milliseconds where seconds are due" => milliseconds_where_seconds_are_due(),
            "other id" => another_id(),
            "empty or missing header" => an_empty_or_missing_header(),
            "only v2 entries" => only_other_versions(),
            "secret shorter than 24 bytes (standard)" => a_short_secret(),
            other => panic!("no test for {other:?}"),
        }
    }
}

fn an_empty_signature() {
    for (profile, text) in
        [(Profile::Standard, "v1,"), (Profile::Seed, ""), (Profile::Stripe, "t=1700000000,v1=")]
    {
        let header = profile.signature_header();
        let headers = with_value(&profile.sign(SECRET, "evt_1", NOW, BODY), header, text);
        let expected = match profile {
            Profile::Seed => VerifyError::Missing { header },
            Profile::Standard | Profile::Stripe => VerifyError::Malformed { header },
        };
        assert_eq!(profile.verify(SECRET, NOW, &headers, BODY), Err(expected));
    }
}

fn a_truncated_signature() {
    for profile in PROFILES {
        let header = profile.signature_header();
        let signed = profile.sign(SECRET, "evt_1", NOW, BODY);
        let whole = value(&signed, header);
        for len in 0..whole.len() {
            let headers = with_value(&signed, header, &whole[..len]);
            let error = profile.verify(SECRET, NOW, &headers, BODY).unwrap_err();
            assert_eq!(error.header(), Some(header), "{profile:?} cut to {len}");
        }
    }
}

/// Each bit of each value the signature covers, of the signature itself, and of the body.
fn one_flipped_bit_anywhere() {
    for profile in PROFILES {
        let signed = profile.sign(SECRET, "evt_1", NOW, BODY);
        profile.verify(SECRET, NOW, &signed, BODY).unwrap();
        for (index, (name, text)) in signed.iter().enumerate() {
            if *name == "x-webhook-id" {
                continue; // Not signed in this profile, which is why its replay key is the body's.
            }
            for bit in 0..text.len() * 8 {
                let mut headers: Vec<_> =
                    signed.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())).collect();
                headers[index].1[bit / 8] ^= 1 << (bit % 8);
                let result = profile.verify(SECRET, NOW, &headers, BODY);
                assert!(result.is_err(), "{profile:?} {name} bit {bit}");
            }
        }
        for bit in 0..BODY.len() * 8 {
            let mut body = BODY.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let result = profile.verify(SECRET, NOW, &signed, &body);
            assert_eq!(result, Err(VerifyError::Mismatch), "{profile:?} body bit {bit}");
        }
    }
}

fn timestamp_text(text: &str) {
    for profile in PROFILES {
        let header = profile.timestamp_header();
        let signed = profile.sign(SECRET, "evt_1", NOW, BODY);
        let changed = match profile {
            Profile::Standard | Profile::Seed => text.to_owned(),
            Profile::Stripe => value(&signed, header).replace("1700000000", text),
        };
        let headers = with_value(&signed, header, &changed);
        let refused = Err(VerifyError::Malformed { header });
        assert_eq!(profile.verify(SECRET, NOW, &headers, BODY), refused, "{profile:?} {text}");
    }
}

fn sent_at(timestamp: Duration, expected: VerifyError) {
    for profile in PROFILES {
        let headers = profile.sign(SECRET, "evt_1", timestamp, BODY);
        assert_eq!(profile.verify(SECRET, NOW, &headers, BODY), Err(expected), "{profile:?}");
    }
}

fn milliseconds_where_seconds_are_due() {
    let millis = Duration::from_secs(NOW.as_millis() as u64);
    for profile in [Profile::Standard, Profile::Stripe] {
        let headers = profile.sign(SECRET, "evt_1", millis, BODY);
        let refused = Err(VerifyError::Future);
        assert_eq!(profile.verify(SECRET, NOW, &headers, BODY), refused, "{profile:?}");
    }
    // The other way round, in `seed`: seconds read as milliseconds are January 1970.
    let headers = Profile::Seed.sign(SECRET, "evt_1", Duration::from_millis(NOW.as_secs()), BODY);
    assert_eq!(Profile::Seed.verify(SECRET, NOW, &headers, BODY), Err(VerifyError::Stale));
}

fn another_id() {
    let signed = Profile::Standard.sign(SECRET, "evt_1", NOW, BODY);
    let headers = with_value(&signed, "webhook-id", "evt_2");
    assert_eq!(Profile::Standard.verify(SECRET, NOW, &headers, BODY), Err(VerifyError::Mismatch));
}

fn an_empty_or_missing_header() {
    for profile in PROFILES {
        let signed = profile.sign(SECRET, "evt_1", NOW, BODY);
        for &header in profile.required() {
            let refused = Err(VerifyError::Missing { header });
            let without: Vec<_> =
                signed.iter().filter(|(name, _)| *name != header).cloned().collect();
            assert_eq!(profile.verify(SECRET, NOW, &without, BODY), refused, "{profile:?}");
            let empty = with_value(&signed, header, "");
            assert_eq!(profile.verify(SECRET, NOW, &empty, BODY), refused, "{profile:?}");
        }
    }
}

fn only_other_versions() {
    for (profile, known, other) in
        [(Profile::Standard, "v1,", "v2,"), (Profile::Stripe, "v1=", "v2=")]
    {
        let header = profile.signature_header();
        let signed = profile.sign(SECRET, "evt_1", NOW, BODY);
        let headers = with_value(&signed, header, &value(&signed, header).replace(known, other));
        let refused = Err(VerifyError::Malformed { header });
        assert_eq!(profile.verify(SECRET, NOW, &headers, BODY), refused, "{profile:?}");
    }
}

fn a_short_secret() {
    // 23 bytes and 24.
    let short = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let refused = Some(SecretError::TooShort { bytes_min: 24 });
    assert_eq!(StandardVerifier::new(short).err(), refused);
    assert_eq!(StandardSigner::new(short).err(), refused);
    assert!(StandardVerifier::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").is_ok());
}

#[test]
fn the_edges_of_the_window_are_inside() {
    for profile in PROFILES {
        for timestamp in [NOW - Duration::from_secs(300), NOW + Duration::from_secs(300)] {
            let headers = profile.sign(SECRET, "evt_1", timestamp, BODY);
            let verified = profile.verify(SECRET, NOW, &headers, BODY).unwrap();
            assert_eq!(verified.timestamp(), timestamp);
        }
    }
}

#[test]
fn the_tolerance_can_be_changed() {
    let verifier = StandardVerifier::new(SECRET).unwrap().with_tolerance(Duration::from_secs(10));
    let headers = Profile::Standard.sign(SECRET, "evt_1", NOW, BODY);
    for (offset, seen_early, seen_late) in
        [(10, None, None), (11, Some(VerifyError::Future), Some(VerifyError::Stale))]
    {
        let offset = Duration::from_secs(offset);
        assert_eq!(verifier.verify_at(NOW - offset, &headers, BODY).err(), seen_early);
        assert_eq!(verifier.verify_at(NOW + offset, &headers, BODY).err(), seen_late);
    }
}

#[test]
fn a_header_given_twice_is_malformed() {
    for profile in PROFILES {
        let signed = profile.sign(SECRET, "evt_1", NOW, BODY);
        for &header in profile.required() {
            let mut twice = signed.clone();
            twice.push((header, value(&signed, header).to_owned()));
            let refused = Err(VerifyError::Malformed { header });
            assert_eq!(profile.verify(SECRET, NOW, &twice, BODY), refused, "{profile:?}");
        }
    }
    let value =
        value(&Profile::Stripe.sign(SECRET, "evt_1", NOW, BODY), "stripe-signature").to_owned();
    let headers = [("stripe-signature", format!("t=1699999999,{value}"))];
    let refused = Err(VerifyError::Malformed { header: "stripe-signature" });
    assert_eq!(StripeVerifier::new(SECRET).unwrap().verify_at(NOW, &headers, BODY), refused);
}

/// Without the rule that an id holds no `.`, part of one message's body could be passed off as another message's timestamp.
#[test]
fn an_id_cannot_swallow_the_timestamp() {
    let signed = Profile::Standard.sign(SECRET, "evt_1", NOW, b"1700000000.rest");
    let shifted = with_value(&signed, "webhook-id", "evt_1.1700000000");
    let refused = Err(VerifyError::Malformed { header: "webhook-id" });
    assert_eq!(Profile::Standard.verify(SECRET, NOW, &shifted, b"rest"), refused);
    let signer = StandardSigner::new(SECRET).unwrap();
    assert_eq!(signer.sign("evt.1", NOW, BODY), Err(SignError::Id));
    assert_eq!(signer.sign("evt_1", Duration::MAX, BODY), Err(SignError::Timestamp));
}

#[test]
fn only_the_right_secret_and_profile_verify() {
    for profile in PROFILES {
        let headers = profile.sign(SECRET, "evt_1", NOW, BODY);
        let other_secret = profile.verify(OLD_SECRET, NOW, &headers, BODY);
        assert_eq!(other_secret, Err(VerifyError::Mismatch), "{profile:?}");
        for other in PROFILES.into_iter().filter(|other| *other != profile) {
            let result = other.verify(SECRET, NOW, &headers, BODY);
            assert!(matches!(result, Err(VerifyError::Missing { .. })), "{profile:?} as {other:?}");
        }
    }
}

#[test]
fn the_number_of_signatures_is_bounded() {
    let signed = Profile::Standard.sign(SECRET, "evt_1", NOW, BODY);
    let good = value(&signed, "webhook-signature");
    let forged = format!("v1,{}=", "A".repeat(43));
    for (count, refusal) in [
        (SIGNATURES_MAX - 1, None),
        (SIGNATURES_MAX, Some(VerifyError::Malformed { header: "webhook-signature" })),
    ] {
        let list = format!("{}{good}", format!("{forged} ").repeat(count));
        let headers = with_value(&signed, "webhook-signature", &list);
        let result = Profile::Standard.verify(SECRET, NOW, &headers, BODY);
        assert_eq!(result.err(), refusal, "{count} forged");
    }
    let long = format!("{good} v2,{}", "A".repeat(4096));
    let headers = with_value(&signed, "webhook-signature", &long);
    let refused = Err(VerifyError::Malformed { header: "webhook-signature" });
    assert_eq!(Profile::Standard.verify(SECRET, NOW, &headers, BODY), refused);
}

#[test]
fn the_number_of_keys_is_bounded() {
    let mut verifier = StandardVerifier::new(SECRET).unwrap();
    for _ in 1..KEYS_MAX {
        verifier = verifier.with_secret(OLD_SECRET).unwrap();
    }
    assert_eq!(verifier.with_secret(OLD_SECRET).err(), Some(SecretError::TooMany));
}

//! Whatever is signed verifies, whatever is changed does not, and nothing panics.

use std::time::Duration;

use bolero::check;
use pgw_webhook_client::{SeedVerifier, StandardVerifier, StripeVerifier, Verify, VerifyError};
use proptest::prelude::*;

use crate::{NOW, PROFILES, Profile, SECRET};

fn profile() -> impl Strategy<Value = Profile> {
    prop_oneof![Just(Profile::Standard), Just(Profile::Seed), Just(Profile::Stripe)]
}

proptest! {
    #[test]
    fn what_is_signed_verifies(
        profile in profile(),
        id in "[!-\\-/-~]{1,255}",
        millis in 0_u64..4_000_000_000_000,
        skew_ms in 0_u64..=299_000,
        body in proptest::collection::vec(any::<u8>(), 0..2048),
    ) {
        let timestamp = Duration::from_millis(millis);
        let headers = profile.sign(SECRET, &id, timestamp, &body);
        let now = timestamp + Duration::from_millis(skew_ms);
        let verified = profile.verify(SECRET, now, &headers, &body).unwrap();
        prop_assert_eq!(verified.body(), body.as_slice());
        prop_assert_eq!(verified.id(), (profile != Profile::Stripe).then_some(id.as_str()));
        let cut = if profile == Profile::Seed { timestamp } else { Duration::from_secs(millis / 1000) };
        prop_assert_eq!(verified.timestamp(), cut);
    }

    #[test]
    fn one_flipped_bit_does_not(
        profile in profile(),
        body in proptest::collection::vec(any::<u8>(), 1..512),
        place in any::<proptest::sample::Index>(),
    ) {
        let signed = profile.sign(SECRET, "evt_1", NOW, &body);
        // One run of bytes, of which each bit is as likely: the values that are signed or sign, then the body.
        let mut parts: Vec<Vec<u8>> = signed.iter().map(|(_, value)| value.clone().into_bytes()).collect();
        parts.push(body);
        let is_signed = |index: usize| signed.get(index).is_none_or(|(name, _)| *name != "x-webhook-id");
        let bits: Vec<(usize, usize)> = (0..parts.len())
            .filter(|index| is_signed(*index))
            .flat_map(|index| (0..parts[index].len() * 8).map(move |bit| (index, bit)))
            .collect();
        let (part, bit) = bits[place.index(bits.len())];
        parts[part][bit / 8] ^= 1 << (bit % 8);

        let body = parts.pop().unwrap();
        let headers: Vec<_> = signed.iter().map(|(name, _)| *name).zip(parts).collect();
        prop_assert!(profile.verify(SECRET, NOW, &headers, &body).is_err());
    }

    #[test]
    fn the_replay_key_is_the_same_on_every_attempt_and_differs_between_messages(
        profile in profile(),
        later_s in 1_u64..100_000,
    ) {
        let later = NOW + Duration::from_secs(later_s);
        let key = |id: &str, at: Duration, body: &[u8]| {
            let headers = profile.sign(SECRET, id, at, body);
            profile.verify(SECRET, at, &headers, body).unwrap().replay_key()
        };
        prop_assert_eq!(key("evt_1", NOW, b"{\"id\":1}"), key("evt_1", later, b"{\"id\":1}"));
        prop_assert_ne!(key("evt_1", NOW, b"{\"id\":1}"), key("evt_2", NOW, b"{\"id\":2}"));
    }
}

/// Where the id is not signed, changing it must not make an old message look new.
#[test]
fn an_unsigned_id_does_not_change_the_replay_key() {
    let signed = Profile::Seed.sign(SECRET, "evt_1", NOW, b"{}");
    let renamed = crate::with_value(&signed, "x-webhook-id", "evt_2");
    let keys = [&signed, &renamed]
        .map(|headers| Profile::Seed.verify(SECRET, NOW, headers, b"{}").unwrap().replay_key());
    assert_eq!(keys[0], keys[1]);
    // SHA-256 of the body, as any store can compute it.
    assert_eq!(
        keys[0].to_string(),
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    );
}

type Parts = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, u64);

/// Arbitrary headers and bodies: no panic, and nothing without a signature is accepted.
#[test]
fn fuzz_arbitrary_headers_and_body() {
    let verifiers = (
        StandardVerifier::new(SECRET).unwrap(),
        SeedVerifier::new(SECRET).unwrap(),
        StripeVerifier::new(SECRET).unwrap(),
    );
    check!().with_type::<Parts>().for_each(|(id, timestamp, signature, body, now)| {
        let headers: Vec<(&str, &[u8])> = vec![
            ("webhook-id", id),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signature),
            ("x-webhook-id", id),
            ("x-webhook-timestamp", timestamp),
            ("x-webhook-signature", signature),
            ("stripe-signature", signature),
        ];
        let now = Duration::from_millis(*now);
        assert!(verifiers.0.verify_at(now, &headers, body).is_err());
        assert!(verifiers.1.verify_at(now, &headers, body).is_err());
        assert!(verifiers.2.verify_at(now, &headers, body).is_err());
    });
}

/// Headers that are nearly right, so that the fuzzer gets past the first checks: pieces of valid values around arbitrary bytes.
#[test]
fn fuzz_nearly_right_signature_headers() {
    check!().with_type::<(u8, u8, Vec<u8>)>().for_each(|(profile, cut, noise)| {
        let profile = PROFILES[usize::from(*profile) % PROFILES.len()];
        let signed = profile.sign(SECRET, "evt_1", NOW, b"{}");
        let header = profile.signature_header();
        let whole = crate::value(&signed, header).as_bytes();
        let (head, tail) = whole.split_at(usize::from(*cut) % whole.len());
        let spoiled = [head, noise, tail].concat();
        let headers: Vec<(&str, &[u8])> = signed
            .iter()
            .map(|(name, value)| {
                (*name, if *name == header { spoiled.as_slice() } else { value.as_bytes() })
            })
            .collect();
        // The noise may be an entry of its own, which is passed over; it can never be blamed on another header.
        match profile.verify(SECRET, NOW, &headers, b"{}") {
            Ok(verified) => assert_eq!(verified.body(), b"{}"),
            Err(VerifyError::Malformed { header: at_fault }) => assert_eq!(at_fault, header),
            Err(error) => assert!(matches!(
                error,
                VerifyError::Mismatch | VerifyError::Stale | VerifyError::Future
            )),
        }
        // With another body the signature cannot be right, whatever stands around it.
        assert!(profile.verify(SECRET, NOW, &headers, b"[]").is_err());
    });
}

/// Code that is generic over the profile sees what the verifier itself says.
#[test]
fn the_trait_agrees_with_the_type() {
    fn generic(verifier: &impl Verify, headers: &[(&str, &str)]) -> Result<(), VerifyError> {
        verifier.verify_at(NOW, headers, b"{}").map(|_| ())
    }
    for profile in PROFILES {
        let signed = profile.sign(SECRET, "evt_1", NOW, b"{}");
        let headers: Vec<_> = signed.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let result = match profile {
            Profile::Standard => generic(&StandardVerifier::new(SECRET).unwrap(), &headers),
            Profile::Seed => generic(&SeedVerifier::new(SECRET).unwrap(), &headers),
            Profile::Stripe => generic(&StripeVerifier::new(SECRET).unwrap(), &headers),
        };
        assert_eq!(result, Ok(()));
    }
}

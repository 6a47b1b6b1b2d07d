//! The verify path never touches the heap, whether it accepts or refuses.

use std::hint::black_box;

use allocation_counter::measure;
use http::{HeaderMap, HeaderName, HeaderValue};
use pgw_webhook_client::{SeedVerifier, SignedHeaders, StandardVerifier, StripeVerifier, Verify};

use crate::{NOW, OLD_SECRET, Profile, SECRET};

fn header_map(signed: &SignedHeaders) -> HeaderMap {
    let pair = |(name, value): &(&'static str, String)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    signed.iter().map(pair).collect()
}

fn assert_no_allocation(profile: Profile, verifier: &impl Verify) {
    let body = vec![b'x'; 1024];
    let signed = profile.sign(SECRET, "evt_1", NOW, &body);
    let map = header_map(&signed);
    let info = measure(|| {
        let verified = verifier.verify_at(NOW, &map, &body).unwrap();
        black_box((verified.id(), verified.replay_key()));
        black_box(verifier.verify_at(NOW, &signed, &body)).unwrap();
        black_box(verifier.verify_at(NOW, &map, &body[1..])).unwrap_err();
        black_box(verifier.verify_at(NOW * 2, &map, &body)).unwrap_err();
        black_box(verifier.verify_at(NOW, &HeaderMap::new(), &body)).unwrap_err();
        black_box(verifier.verify(&map, &body)).unwrap_err();
        black_box(verifier.verify_at(NOW, &map, &body).map_err(|_| ()).is_ok());
    });
    assert_eq!(info.count_total, 0, "{profile:?}");
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(black_box(Box::new(1)))).count_total, 1);
}

#[test]
fn verifying_does_not_allocate() {
    let two = StandardVerifier::new(OLD_SECRET).unwrap().with_secret(SECRET).unwrap();
    assert_no_allocation(Profile::Standard, &two);
    assert_no_allocation(Profile::Seed, &SeedVerifier::new(SECRET).unwrap());
    assert_no_allocation(Profile::Stripe, &StripeVerifier::new(SECRET).unwrap());
}

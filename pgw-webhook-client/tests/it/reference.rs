//! Agreement with `standardwebhooks`, the reference implementation, in both directions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use pgw_webhook_client::{StandardSigner, StandardVerifier, VerifyError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use standardwebhooks::Webhook;

use crate::SECRET;

/// The reference reads the system clock and lets nobody move it, so messages to it must be dated by that clock.
#[expect(clippy::disallowed_methods, reason = "the reference implementation reads this clock")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn header_map(pairs: impl IntoIterator<Item = (&'static str, String)>) -> HeaderMap {
    let pair = |(name, value): (&'static str, String)| {
        (HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap())
    };
    pairs.into_iter().map(pair).collect()
}

#[test]
fn two_and_a_half_thousand_random_messages_agree_both_ways() {
    let reference = Webhook::new(SECRET).unwrap();
    let signer = StandardSigner::new(SECRET).unwrap();
    let verifier = StandardVerifier::new(SECRET).unwrap();
    // The reference takes text only.
    let message = ("[!-\\-/-~]{1,64}", ".{0,300}", any::<bool>());
    let mut runner = TestRunner::new(Config { cases: 2_500, ..Config::default() });
    let outcome = runner.run(&message, |(id, body, is_spoiled)| {
        let now = now();
        let body_received = if is_spoiled { format!("{body} ") } else { body.clone() };

        let ours = signer.sign(&id, now, body.as_bytes()).unwrap();
        let theirs = reference.sign(&id, now.as_secs() as i64, body.as_bytes()).unwrap();
        prop_assert_eq!(&ours[2].1, &theirs);

        let ours = header_map(ours);
        let accepted_there = reference.verify(body_received.as_bytes(), &ours).is_ok();
        prop_assert_eq!(accepted_there, !is_spoiled);

        let sent = now.as_secs().to_string();
        let theirs = header_map([
            ("webhook-id", id.clone()),
            ("webhook-timestamp", sent),
            ("webhook-signature", theirs),
        ]);
        let result = verifier.verify(&theirs, body_received.as_bytes());
        let expected = is_spoiled.then_some(VerifyError::Mismatch);
        prop_assert_eq!(result.err(), expected);
        Ok(())
    });
    assert_eq!(outcome, Ok(()));
}

//! Rotation of an endpoint's secret: which receivers verify, before, during and after the overlap.

use std::time::Duration;

use pgw_core::id::EndpointId;
use pgw_core::testing::keys::secret_of;
use pgw_core::testing::transport::Received;
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{Endpoint, EndpointUrl, Profile, Profiles};
use pgw_webhook_client::{SeedVerifier, StandardVerifier, StripeVerifier};

use crate::world::{World, pass};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[tokio::test(start_paused = true)]
async fn receivers_with_either_secret_verify_until_the_old_one_ends() {
    let world = World::new();
    let _worker = world.unhurried_worker();
    let (id, old) = endpoint(&world).await;
    assert_eq!(verified(&sent(&world).await, &old), [true, true, true]);

    let rotated = world.verbs().rotate_secret(id, 2 * HOUR).await.unwrap();
    let new = rotated.secret.expose();
    assert_ne!(new, old);
    // Before its end both verify; the one profile with room for a single signature has the old one's.
    let during = sent(&world).await;
    assert_eq!(verified(&during, &old), [true, true, true]);
    assert_eq!(verified(&during, new), [true, false, true]);

    pass(2 * HOUR).await;
    let after = sent(&world).await;
    assert_eq!(verified(&after, &old), [false, false, false]);
    assert_eq!(verified(&after, new), [true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn without_an_overlap_the_old_secret_stops_at_once() {
    let world = World::new();
    let _worker = world.unhurried_worker();
    let (id, first) = endpoint(&world).await;
    let second = world.verbs().rotate_secret(id, Endpoint::OVERLAP_MAX).await.unwrap();
    let third = world.verbs().rotate_secret(id, Duration::ZERO).await.unwrap();
    assert_eq!(third.endpoint.previous, None);
    let webhook = sent(&world).await;
    assert_eq!(verified(&webhook, third.secret.expose()), [true, true, true]);
    for ended in [&*first, second.secret.expose()] {
        assert_eq!(verified(&webhook, ended), [false, false, false]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_overlap_ends_at_its_time_exactly_and_the_old_secret_is_forgotten() {
    let world = World::new();
    let (id, old) = endpoint(&world).await;
    let rotated = world.verbs().rotate_secret(id, HOUR).await.unwrap().endpoint;
    let until = rotated.updated_at.plus(HOUR);
    assert_eq!(rotated.previous.as_ref().unwrap().until, until);
    let last = rotated.updated_at.plus(HOUR - Duration::from_micros(1));
    let before = Endpoint {
        secret: rotated.previous_at(last).unwrap().clone(),
        generation: 1,
        ..rotated.clone()
    };
    assert_eq!(secret_of(&before).unwrap().expose(), old);
    assert_eq!(rotated.previous_at(until), None);
    pass(HOUR).await;
    let updated = world.verbs().update_endpoint(id, Default::default()).await.unwrap();
    assert_eq!(updated.previous, None);
    assert_eq!(updated.secret, rotated.secret);
}

#[tokio::test(start_paused = true)]
async fn no_secret_shows() {
    let world = World::new();
    let (id, old) = endpoint(&world).await;
    let rotated = world.verbs().rotate_secret(id, HOUR).await.unwrap();
    let shown = pgw_core::representation::endpoint(&rotated.endpoint);
    for text in [String::from_utf8(shown).unwrap(), format!("{rotated:?}")] {
        assert!(!text.contains(&old) && !text.contains(rotated.secret.expose()), "{text}");
    }
    let once = pgw_core::representation::endpoint_with_secret(&rotated);
    let once = String::from_utf8(once).unwrap();
    assert!(once.contains(rotated.secret.expose()) && !once.contains(&old));
}

/// An endpoint that signs in every profile, and its first secret.
async fn endpoint(world: &World) -> (EndpointId, String) {
    let url = EndpointUrl::parse("https://hooks.example/in").unwrap();
    let mut new = NewEndpoint::new(url);
    new.profiles = Profiles::new(Profile::ALL).unwrap();
    let endpoint = world.verbs().create_endpoint(new).await.unwrap();
    (endpoint.endpoint.id, endpoint.secret.expose().to_owned())
}

/// The next webhook.
async fn sent(world: &World) -> Received {
    world.create("tok_visa").await;
    pass(Duration::from_secs(120)).await;
    world.transport.received().pop().expect("it was delivered")
}

/// Whether a receiver that has only this secret verifies it: in the standard, seed and stripe profiles.
fn verified(webhook: &Received, secret: &str) -> [bool; 3] {
    let claimed = webhook.header("webhook-timestamp").unwrap().parse().unwrap();
    let (at, headers, body) = (Duration::from_secs(claimed), &webhook.headers[..], &webhook.body);
    [
        StandardVerifier::new(secret).unwrap().verify_at(at, headers, body).is_ok(),
        SeedVerifier::new(secret).unwrap().verify_at(at, headers, body).is_ok(),
        StripeVerifier::new(secret).unwrap().verify_at(at, headers, body).is_ok(),
    ]
}

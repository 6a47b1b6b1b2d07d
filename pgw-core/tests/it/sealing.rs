//! Endpoints' secrets at rest: sealed, moved from key to key, and lost with their key.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::crypto::{CryptoError, KeyRing};
use pgw_core::env::Env;
use pgw_core::error::Error;
use pgw_core::gateway::{Gateway, Resealed};
use pgw_core::queue::Queue;
use pgw_core::scope::Scope;
use pgw_core::storage::Storage;
use pgw_core::testing::transport::{Received, RecordingTransport};
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{CustomHeaders, EndpointUrl};
use pgw_core::worker::Worker;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use pgw_webhook_client::StandardVerifier;

use crate::world::pass;

const K1: &str = "k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const K2: &str = "k2:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A gateway on these rows with such a ring, as after a restart.
fn gateway(storage: &MemoryStorage, ring: &str) -> (Gateway, Arc<RecordingTransport>) {
    let transport = Arc::new(RecordingTransport::new());
    let gateway = Gateway::builder()
        .with_storage(Arc::new(storage.clone()) as Arc<dyn Storage>)
        .with_queue(Arc::new(MemoryQueue::new()) as Arc<dyn Queue>)
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .with_transport(Arc::clone(&transport) as _, KeyRing::parse(ring).unwrap())
        .with_env(Env::system())
        .build()
        .unwrap();
    (gateway, transport)
}

async fn ping(
    gateway: &Gateway,
    transport: &RecordingTransport,
    id: pgw_core::id::EndpointId,
) -> Option<Received> {
    gateway.host().test_endpoint(id).await.unwrap();
    let worker = Worker::new(gateway).start();
    pass(Duration::from_secs(8)).await;
    worker.shutdown().await;
    transport.received().pop()
}

fn new() -> NewEndpoint {
    let url = EndpointUrl::parse("https://hooks.example/in").unwrap();
    let headers = CustomHeaders::parse([("x-token", "t0p")]).unwrap();
    NewEndpoint { headers, ..NewEndpoint::new(url) }
}

#[tokio::test(start_paused = true)]
async fn secrets_move_from_key_to_key_while_webhooks_go_on() {
    let storage = MemoryStorage::new();
    let (old, _) = gateway(&storage, K1);
    let created = old.host().create_endpoint(new()).await.unwrap();
    let id = created.endpoint.id;
    let rotated = old.host().rotate_secret(id, 100 * HOUR).await.unwrap();
    let verifiers = [&created.secret, &rotated.secret]
        .map(|secret| StandardVerifier::new(secret.expose()).unwrap());
    let is_whole = |webhook: &Received| {
        assert_eq!(webhook.header("x-token"), Some("t0p"));
        verifiers.iter().for_each(|verifier| webhook.verify(verifier).unwrap());
    };

    // The new key is active, the old one still opens: both secrets sign, and the headers go out.
    let (both, transport) = gateway(&storage, &format!("{K2},{K1}"));
    is_whole(&ping(&both, &transport, id).await.unwrap());
    // Rotated with the new key, the secret is sealed with it, and what is still sealed with the old one is not forgotten.
    both.host().rotate_secret(id, 100 * HOUR).await.unwrap();
    let rotated = both.host().endpoint(id).await.unwrap().unwrap();
    assert_eq!((rotated.secret.key().as_str(), rotated.sealed_with()), ("k2", None));
    let all = Resealed { done: 1, lost: 0, next: None };
    assert_eq!(both.reseal_endpoints(None, 100).await.unwrap(), all);
    assert_eq!(both.reseal_endpoints(None, 100).await.unwrap(), Resealed::default());
    let (alone, transport) = gateway(&storage, &format!("{K2},k1:destroyed"));
    let webhook = ping(&alone, &transport, id).await.unwrap();
    assert_eq!(webhook.header("x-token"), Some("t0p"));
    webhook.verify(&verifiers[1]).unwrap();
    assert_eq!(alone.reseal_endpoints(None, 100).await.unwrap(), Resealed::default());
}

#[tokio::test(start_paused = true)]
async fn a_secret_whose_key_is_gone_signs_nothing_until_it_is_rotated() {
    let storage = MemoryStorage::new();
    let (old, _) = gateway(&storage, K1);
    let id = old
        .host()
        .create_endpoint(NewEndpoint { headers: CustomHeaders::default(), ..new() })
        .await
        .unwrap()
        .endpoint
        .id;
    for ring in [K2.to_owned(), format!("{K2},k1:destroyed")] {
        let (gateway, transport) = gateway(&storage, &ring);
        assert!(ping(&gateway, &transport, id).await.is_none(), "nothing unsigned is sent");
        let lost = Resealed { done: 0, lost: 1, next: None };
        assert_eq!(gateway.reseal_endpoints(None, 100).await.unwrap(), lost);
    }
    let (gateway, transport) = gateway(&storage, K2);
    let rotated = gateway.host().rotate_secret(id, HOUR).await.unwrap();
    let webhook = ping(&gateway, &transport, id).await.unwrap();
    webhook.verify(&StandardVerifier::new(rotated.secret.expose()).unwrap()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_envelope_opens_only_in_its_own_row() {
    let storage = MemoryStorage::new();
    let (gateway, transport) = gateway(&storage, K1);
    let one = gateway.host().create_endpoint(new()).await.unwrap().endpoint;
    let mut other = gateway.host().create_endpoint(new()).await.unwrap().endpoint;
    // Somebody who can write rows gives one endpoint the secret of another, to have its webhooks signed by what they know.
    other.secret = one.secret.clone();
    other.version += 1;
    let write = pgw_core::changes::Write::Endpoint(Box::new(other.clone()));
    let changes = pgw_core::changes::Changes::new(Scope::default()).write(write);
    storage.commit(changes).await.unwrap();
    assert!(ping(&gateway, &transport, other.id).await.is_none());
    let ring = KeyRing::parse(K2).unwrap();
    let lost = ring.open_secret(&pgw_core::crypto::Context::new("x"), &one.secret).unwrap_err();
    assert!(matches!(lost, CryptoError::UnknownKey(_)), "{lost:?}");
}

#[test]
fn the_error_says_what_is_wrong_and_nothing_of_the_secret() {
    let error = Error::Sealing(CryptoError::Forged);
    assert!(!error.is_retryable());
    assert!(error.to_string().starts_with("the endpoint's secret cannot be sealed or opened"));
}

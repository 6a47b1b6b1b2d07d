//! The key that endpoints' secrets are sealed with is replaced while webhooks are delivered: none fails, and each is signed.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgw_core::crypto::KeyRing;
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::notifier::Notifier;
use pgw_core::page::PageRequest;
use pgw_core::queue::Queue;
use pgw_core::storage::{DeliveryFilter, Storage};
use pgw_core::testing::transport::RecordingTransport;
use pgw_core::webhook::delivery::DeliveryStatus;
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{DeliveryState, EndpointUrl};
use pgw_core::worker::{Worker, WorkerHandle};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use pgw_webhook_client::StandardVerifier;

use crate::fixtures::{Leg, Under};
use crate::world::{HEALTHY, order};

const K1: &str = "k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const K2: &str = "k2:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const ENDPOINTS: usize = 10;
const PAYMENTS: usize = 60;

/// What outlives a process.
struct Rows {
    storage: Arc<dyn Storage>,
    queue: Arc<dyn Queue>,
    notifier: Arc<dyn Notifier>,
    transport: Arc<RecordingTransport>,
}

impl Rows {
    /// A process with these keys, at work.
    fn begin(&self, ring: &str) -> (Gateway, WorkerHandle) {
        let gateway = Gateway::builder()
            .with_env(Env::system())
            .with_storage(Arc::clone(&self.storage))
            .with_queue(Arc::clone(&self.queue))
            .with_notifier(Arc::clone(&self.notifier))
            .with_transport(
                Arc::clone(&self.transport) as _,
                KeyRing::parse(ring).expect("a valid ring"),
            )
            .build()
            .expect("it has all its parts");
        let worker = Worker::new(&gateway).start();
        (gateway, worker)
    }
}

/// One endpoint of each address, and what verifies its webhooks.
async fn endpoints(gateway: &Gateway) -> BTreeMap<String, StandardVerifier> {
    let mut verifiers = BTreeMap::new();
    for n in 0..ENDPOINTS {
        let url = EndpointUrl::parse(&format!("https://hooks{n}.example/in")).expect("an address");
        let address = url.as_str().to_owned();
        let made = gateway.host().create_endpoint(NewEndpoint::new(url)).await.expect(HEALTHY);
        let verifier = StandardVerifier::new(made.secret.expose()).expect("a secret of ours");
        verifiers.insert(address, verifier);
    }
    verifiers
}

/// Pays, as fast as it goes, and gives way in between.
async fn pay(gateway: Gateway, payments: usize) {
    for _ in 0..payments {
        gateway.host().create_payment(order()).await.expect(HEALTHY);
        tokio::task::yield_now().await;
    }
}

/// Seals with the active key until there is nothing left to seal, a few at a time.
async fn reseal(gateway: &Gateway) -> usize {
    let (mut done, mut after) = (0, None);
    loop {
        let resealed = gateway.reseal_endpoints(after, 3).await.expect(HEALTHY);
        assert_eq!(resealed.lost, 0);
        done += resealed.done;
        after = resealed.next;
        if after.is_none() {
            return done;
        }
    }
}

/// Waits until each payment has succeeded and everybody knows.
async fn delivered(gateway: &Gateway) {
    let of = |status| DeliveryFilter { status: Some(status), ..DeliveryFilter::default() };
    let page = || PageRequest::first(PageRequest::LIMIT_MAX);
    let events = PAYMENTS * 2 * ENDPOINTS;
    loop {
        let failed = of(DeliveryStatus::Failed);
        let failed = gateway.host().deliveries(&failed, page()).await.expect(HEALTHY);
        assert!(failed.data.is_empty(), "{:?}", failed.data);
        let mut delivered = 0;
        let mut next = page();
        loop {
            let all = gateway.host().deliveries(&DeliveryFilter::default(), next).await;
            let all = all.expect(HEALTHY);
            for one in &all.data {
                delivered += usize::from(one.state == DeliveryState::Delivered);
                assert!(one.attempts_total <= 1, "an attempt failed: {one:?}");
            }
            let Some(cursor) = all.next_cursor.filter(|_| all.has_more) else { break };
            next = page().with_from(pgw_core::page::PageFrom::After(cursor));
        }
        if delivered == events {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn keys_rotate_under_load(rows: Rows) {
    let (old, old_worker) = rows.begin(K1);
    let verifiers = endpoints(&old).await;
    let load = tokio::spawn(pay(old.clone(), PAYMENTS / 3));
    // Processes with both keys come before those with one go.
    let (both, both_worker) = rows.begin(&format!("{K2},{K1}"));
    load.await.expect("it paid");
    old_worker.shutdown().await;
    let load = tokio::spawn(pay(both.clone(), PAYMENTS / 3));
    assert_eq!(reseal(&both).await, ENDPOINTS);
    load.await.expect("it paid");
    assert_eq!(reseal(&both).await, 0, "nothing is sealed with the old key");
    let (new, new_worker) = rows.begin(&format!("{K2},k1:destroyed"));
    let load = tokio::spawn(pay(new.clone(), PAYMENTS / 3));
    both_worker.shutdown().await;
    load.await.expect("it paid");
    delivered(&new).await;
    new_worker.shutdown().await;

    let received = rows.transport.received();
    assert!(received.len() >= PAYMENTS * 2 * ENDPOINTS);
    for webhook in received {
        let verifier = &verifiers[webhook.url.as_str()];
        webhook.verify(verifier).expect("each is signed with its endpoint's secret");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_on_postgres() {
    let pg = Under::test(Leg::Pool).await.storage;
    keys_rotate_under_load(Rows {
        storage: Arc::new(pg.clone()),
        queue: Arc::new(pg.queue()),
        notifier: Arc::new(pg.notifier()),
        transport: Arc::new(RecordingTransport::new()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_in_memory() {
    keys_rotate_under_load(Rows {
        storage: Arc::new(MemoryStorage::new()),
        queue: Arc::new(MemoryQueue::new()),
        notifier: Arc::new(MemoryNotifier::new()),
        transport: Arc::new(RecordingTransport::new()),
    })
    .await;
}

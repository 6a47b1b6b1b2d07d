//! A gateway on a test's storage, and what callers ask of it.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pgw_core::builder::ProcessorSettings;
use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::money::Money;
use pgw_core::payment::plan::NewPayment;
use pgw_core::payment::{CaptureMethod, Customer};
use pgw_core::queue::Queue;
use pgw_core::sandbox::Sandbox;
use pgw_core::testing::keys::key_ring;
use pgw_core::testing::transport::RecordingTransport;
use pgw_core::text::{CustomerName, PaymentMethod};
use pgw_core::worker::{Worker, WorkerHandle, WorkerSettings};
use pgw_storage_postgres::PgStorage;

/// What a storage answers when nothing is wrong.
pub(crate) const HEALTHY: &str = "a healthy storage answers";

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) sandbox: Sandbox,
}

impl World {
    pub(crate) fn on(pg: &PgStorage) -> Self {
        Self::with_queue(pg, Arc::new(pg.queue()))
    }

    pub(crate) fn with_queue(pg: &PgStorage, queue: Arc<dyn Queue>) -> Self {
        let sandbox = Sandbox::new(Env::system());
        let gateway = Gateway::builder()
            .with_storage(Arc::new(pg.clone()))
            .with_queue(queue)
            .with_notifier(Arc::new(pg.notifier()))
            .with_transport(Arc::new(RecordingTransport::new()), key_ring())
            .with_sandbox(sandbox.clone(), ProcessorSettings::default())
            .build()
            .expect("it has all its parts");
        Self { gateway, sandbox }
    }

    pub(crate) fn work(&self) -> WorkerHandle {
        let settings =
            WorkerSettings { poll: Duration::from_millis(50), ..WorkerSettings::default() };
        Worker::new(&self.gateway).with_settings(settings).start()
    }
}

/// A payment of 49.99 USD.
pub(crate) fn order() -> NewPayment {
    let customer = Customer {
        email: Email::parse("ada@example.com").expect("a valid address"),
        name: CustomerName::parse("Ada Lovelace").expect("a valid name"),
        id: None,
    };
    let amount = Money::from_minor(4_999, Currency::USD).expect("a valid amount");
    NewPayment::new(amount, customer, PaymentMethod::parse("tok_visa").expect("a valid token"))
}

/// The same under a key.
pub(crate) fn keyed(key: &str) -> NewPayment {
    order().with_idempotency_key(IdempotencyKey::parse(key).expect("a valid key"))
}

/// The same, held first.
pub(crate) fn held(key: &str) -> NewPayment {
    NewPayment { capture: CaptureMethod::Manual, ..keyed(key) }
}

/// Polls a future at most `times` times, giving way in between, and drops it.
pub(crate) async fn dropped_after<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..times {
        let poll = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = poll {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

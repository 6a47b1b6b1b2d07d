//! A gateway on memory with the sandbox, on paused time: everything a lifecycle test needs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pgw_core::access::{Caller, Pepper};
use pgw_core::builder::{GatewayBuilder, ProcessorSettings};
use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::env::{Clock, Env, SystemEntropy};
use pgw_core::gateway::{Bound, Gateway, Receipt};
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::money::Money;
use pgw_core::notifier::Notifier;
use pgw_core::payment::plan::NewPayment;
use pgw_core::payment::{CaptureMethod, Customer, PaymentState, PaymentStatus};
use pgw_core::processor::Resolution;
use pgw_core::queue::Queue;
use pgw_core::sandbox::{Sandbox, SandboxFaults};
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::Storage;
use pgw_core::testing::clock::SimClock;
use pgw_core::testing::crash::Life;
use pgw_core::testing::faults::{Faults, Faulty};
use pgw_core::testing::keys::key_ring;
use pgw_core::testing::transport::{RecordingTransport, Reply, TransportScript};
use pgw_core::text::{CustomerName, PaymentMethod};
use pgw_core::webhook::{EndpointUrl, WebhookRequest, WebhookTransport};
use pgw_core::worker::{Worker, WorkerHandle, WorkerSettings};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

/// The processor's deadline in these tests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) sandbox: Sandbox,
    pub(crate) storage: MemoryStorage,
    /// What goes wrong between the gateway and its storage: nothing, until a test says so.
    pub(crate) faults: Arc<Faults>,
    pub(crate) queue: MemoryQueue,
    pub(crate) transport: Arc<RecordingTransport>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Resolution::Lookup { lag: Duration::from_secs(1) }, RecordingTransport::new())
    }

    /// One whose audit log is sealed under a key of this pepper.
    pub(crate) fn sealing(pepper: Pepper) -> Self {
        let lookup = Resolution::Lookup { lag: Duration::from_secs(1) };
        Self::build(lookup, RecordingTransport::new(), |builder, sandbox, settings| {
            builder.with_sandbox(sandbox, settings).with_key_pepper(pepper)
        })
    }

    pub(crate) fn resolving(resolution: Resolution) -> Self {
        Self::with(resolution, RecordingTransport::new())
    }

    /// One that hears no notifications: the gateway has to ask.
    pub(crate) fn deaf(resolution: Resolution) -> Self {
        Self::build(resolution, RecordingTransport::new(), |builder, sandbox, settings| {
            builder.with_processor(Mode::Test, Arc::new(sandbox), settings)
        })
    }

    /// One that hears nothing either, of a processor whose calls go wrong as these say.
    pub(crate) fn faulty(resolution: Resolution, faults: Arc<dyn SandboxFaults>) -> Self {
        Self::build(resolution, RecordingTransport::new(), |builder, sandbox, settings| {
            builder.with_processor(Mode::Test, Arc::new(sandbox.with_faults(faults)), settings)
        })
    }

    pub(crate) fn with(resolution: Resolution, transport: RecordingTransport) -> Self {
        Self::build(resolution, transport, GatewayBuilder::with_sandbox)
    }

    fn build(
        resolution: Resolution,
        transport: RecordingTransport,
        plug: impl FnOnce(GatewayBuilder, Sandbox, ProcessorSettings) -> GatewayBuilder,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SimClock::start());
        let storage = MemoryStorage::builder().with_clock(Arc::clone(&clock)).build();
        let faults = Faults::off();
        let rows: Arc<dyn Storage> = Arc::new(storage.clone());
        let faulty = Faulty::new(rows, Arc::clone(&faults), Life::new());
        let env = Env::new(Arc::clone(&clock), Arc::new(SystemEntropy));
        let sandbox = Sandbox::new(env.clone()).with_resolution(resolution);
        let queue = MemoryQueue::builder().with_clock(clock).build();
        let transport = Arc::new(transport);
        let settings = ProcessorSettings { timeout: TIMEOUT, ..ProcessorSettings::default() };
        let builder = Gateway::builder()
            .with_storage(Arc::new(faulty) as Arc<dyn Storage>)
            .with_queue(Arc::new(queue.clone()) as Arc<dyn Queue>)
            .with_notifier(Arc::new(MemoryNotifier::new()) as Arc<dyn Notifier>)
            .with_transport(Arc::clone(&transport) as Arc<dyn WebhookTransport>, key_ring())
            .with_env(env);
        let gateway = plug(builder, sandbox.clone(), settings).build().unwrap();
        Self { gateway, sandbox, storage, faults, queue, transport }
    }

    /// One whose transport answers as this says.
    pub(crate) fn answering(
        reply: impl Fn(&WebhookRequest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let lookup = Resolution::Lookup { lag: Duration::from_secs(1) };
        Self::with(lookup, RecordingTransport::scripted(Box::new(Answering(Box::new(reply)))))
    }

    pub(crate) fn verbs(&self) -> Bound<'_> {
        self.gateway.by(Caller::host(Scope::default()))
    }

    pub(crate) fn worker(&self) -> WorkerHandle {
        Worker::new(&self.gateway).start()
    }

    /// One that looks rarely: for tests that last days.
    pub(crate) fn unhurried_worker(&self) -> WorkerHandle {
        let minute = Duration::from_secs(60);
        let settings = WorkerSettings {
            poll: minute,
            reap: minute,
            lease: 10 * minute,
            ..WorkerSettings::default()
        };
        Worker::new(&self.gateway).with_settings(settings).start()
    }

    pub(crate) async fn create(&self, token: &str) -> Receipt {
        self.verbs().create_payment(new(token)).await.unwrap()
    }

    pub(crate) async fn authorize(&self, token: &str) -> PaymentId {
        let receipt =
            self.verbs().create_payment(new(token).with_capture(CaptureMethod::Manual)).await;
        let id = receipt.unwrap().payment().id;
        assert_eq!(self.settled(id, None).await.payment.status, PaymentStatus::Authorized);
        id
    }

    pub(crate) async fn endpoint(&self) -> pgw_core::webhook::Endpoint {
        let url = EndpointUrl::parse("https://hooks.example/in").unwrap();
        let new = pgw_core::webhook::plan::NewEndpoint::new(url);
        self.verbs().create_endpoint(new).await.unwrap().endpoint
    }

    /// Waits, by the paused clock, until the payment or operation has an answer.
    pub(crate) async fn settled(
        &self,
        id: PaymentId,
        operation: Option<OperationId>,
    ) -> PaymentState {
        self.verbs().wait_for(id, operation, DAY).await.unwrap()
    }

    /// Looks every few milliseconds until the payment is like that.
    pub(crate) async fn until(&self, id: PaymentId, there: impl Fn(&PaymentState) -> bool) {
        while !there(&self.state(id).await) {
            pass(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn state(&self, id: PaymentId) -> PaymentState {
        self.verbs().payment(id).await.unwrap().unwrap()
    }

    pub(crate) async fn event_types(&self, id: PaymentId) -> Vec<&'static str> {
        let events = self.verbs().payment_events(id, 0, 100).await.unwrap();
        let sequences: Vec<_> = events.iter().filter_map(|event| event.sequence).collect();
        assert_eq!(sequences, (1..=events.len() as u64).collect::<Vec<_>>());
        events.iter().map(|event| event.event_type.as_str()).collect()
    }
}

type Answer = Box<dyn Fn(&WebhookRequest) -> Reply + Send + Sync>;

struct Answering(Answer);

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

impl TransportScript for Answering {
    fn on_send(&self, request: &WebhookRequest) -> Reply {
        (self.0)(request)
    }
}

pub(crate) fn new(token: &str) -> NewPayment {
    let customer = Customer {
        email: Email::parse("ada@example.com").unwrap(),
        name: CustomerName::parse("Ada Lovelace").unwrap(),
        id: None,
    };
    let amount = Money::from_minor(4_999, Currency::USD).unwrap();
    NewPayment::new(amount, customer, PaymentMethod::parse(token).unwrap())
}

pub(crate) fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).unwrap()
}

/// Lets this much of the runtime's paused time pass. Takes no real time.
pub(crate) async fn pass(by: Duration) {
    tokio::time::sleep(by).await;
}

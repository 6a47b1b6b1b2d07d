//! What the library itself costs, on memory: payments created a second, whole lives a second, bytes a payment.
//!
//! `cargo run --release -p benches --bin memory`. The last line is
//! `result: creates_per_s=… lives_per_s=… rss_mib_per_million=…`.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::gateway::Gateway;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::money::Money;
use pgw_core::payment::Customer;
use pgw_core::payment::plan::NewPayment;
use pgw_core::storage::Storage;
use pgw_core::testing::keys::key_ring;
use pgw_core::text::{CustomerId, CustomerName, PaymentMethod};
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{
    EndpointUrl, TransportError, WebhookRequest, WebhookResponse, WebhookTransport,
};
use pgw_core::worker::{Worker, WorkerSettings};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use tokio::sync::Notify;

const HELD: u64 = 1_000_000;
const ROUND: u64 = 100_000;
const ROUNDS: usize = 9;
const LIVES: u64 = 100_000;
const CALLERS: u64 = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    runtime.block_on(async {
        // First, while nothing has been freed that would be counted as held.
        let rss = held().await?;
        let creates = creates().await?;
        let lives = lives().await?;
        println!(
            "result: creates_per_s={creates:.0} lives_per_s={lives:.0} rss_mib_per_million={rss:.0}"
        );
        Ok(())
    })
}

/// Creates payments, a round on a fresh gateway at a time so that every round works on memory the process has
/// touched before: how fast a machine hands out new pages is not ours to measure. The median round.
async fn creates() -> Result<f64, Box<dyn Error>> {
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let gateway = gateway(Arc::new(Sink::default()))?;
        let start = now();
        create(&gateway, 0, ROUND).await?;
        rates.push(ROUND as f64 / start.elapsed_s());
        println!("create round {}: {:>9.0} payments/s", round + 1, rates[round]);
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[ROUNDS / 2])
}

/// Holds a million payments: the memory that they take, in MiB a million.
async fn held() -> Result<f64, Box<dyn Error>> {
    let before = rss_mib()?;
    let gateway = gateway(Arc::new(Sink::default()))?;
    create(&gateway, 0, HELD).await?;
    let rss = (rss_mib()? - before) * 1e6 / HELD as f64;
    println!(
        "{HELD} payments held, each with its operation, key, answer, event, audit row and job: {rss:.0} MiB a million"
    );
    Ok(rss)
}

/// Whole lives: created, charged by the sandbox, both events signed and delivered.
async fn lives() -> Result<f64, Box<dyn Error>> {
    let sink = Arc::new(Sink::default());
    let gateway = gateway(Arc::clone(&sink) as Arc<dyn WebhookTransport>)?;
    let url = EndpointUrl::parse("https://sink.example/webhooks")?;
    gateway.host().create_endpoint(NewEndpoint::new(url)).await?;
    let settings =
        WorkerSettings { operations_max: 256, deliveries_max: 256, ..WorkerSettings::default() };
    let worker = Worker::new(&gateway).with_settings(settings).start();
    let start = now();
    create(&gateway, 0, LIVES).await?;
    // `payment.created` and `payment.succeeded` of each.
    sink.wait_for(2 * LIVES).await;
    let rate = LIVES as f64 / start.elapsed_s();
    println!("{LIVES} lives, two webhooks each, delivered: {rate:>9.0} lives/s");
    worker.shutdown().await;
    Ok(rate)
}

async fn create(gateway: &Gateway, from: u64, count: u64) -> Result<(), Box<dyn Error>> {
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        let gateway = gateway.clone();
        let share = count / CALLERS;
        let order = order();
        callers.push(tokio::spawn(async move {
            let first = from + caller * share;
            for number in first..first + share {
                let key =
                    IdempotencyKey::parse(&format!("order-{number:032}")).expect("a valid key");
                let new = order.clone().with_idempotency_key(key);
                gateway.host().create_payment(new).await.expect("memory takes it");
                // Memory never makes a task wait, and the worker wants its turn.
                if number % 16 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }));
    }
    for caller in callers {
        caller.await?;
    }
    Ok(())
}

/// What every caller asks for, parsed once: only its key differs.
fn order() -> NewPayment {
    let customer = Customer {
        email: Email::parse("ada.lovelace@example.com").expect("a valid address"),
        name: CustomerName::parse("Ada Lovelace").expect("a valid name"),
        id: Some(CustomerId::parse("cus_42").expect("a valid id")),
    };
    let amount = Money::from_minor(4_999, Currency::USD).expect("within range");
    let method = PaymentMethod::parse("tok_visa").expect("a valid token");
    NewPayment::new(amount, customer, method)
}

fn gateway(transport: Arc<dyn WebhookTransport>) -> Result<Gateway, Box<dyn Error>> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    Ok(Gateway::builder()
        .with_storage(storage)
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .with_transport(transport, key_ring())
        .build()?)
}

/// Takes every webhook and counts it.
#[derive(Debug, Default)]
struct Sink {
    taken: AtomicU64,
    wanted: AtomicU64,
    done: Notify,
}

impl Sink {
    async fn wait_for(&self, count: u64) {
        self.wanted.store(count, Ordering::SeqCst);
        while self.taken.load(Ordering::SeqCst) < count {
            self.done.notified().await;
        }
    }
}

#[async_trait]
impl WebhookTransport for Sink {
    fn check(&self, _url: &EndpointUrl) -> Result<(), TransportError> {
        Ok(())
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        assert!(request.headers.iter().any(|(name, _)| name == "webhook-signature"));
        let taken = self.taken.fetch_add(1, Ordering::SeqCst) + 1;
        if taken >= self.wanted.load(Ordering::SeqCst) {
            self.done.notify_one();
        }
        Ok(WebhookResponse { status: 200, body_start: Bytes::new(), retry_after: None })
    }
}

struct Start(Instant);

#[expect(clippy::disallowed_methods, reason = "a benchmark measures wall time")]
fn now() -> Start {
    Start(Instant::now())
}

impl Start {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures wall time")]
    fn elapsed_s(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Resident memory of this process, from `/proc` (Linux).
fn rss_mib() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS line")?;
    Ok(kib.trim().parse::<f64>()? / 1_024.0)
}

//! A worker in a process of its own, so that it can be killed: it does the jobs of one lane, and delivers over HTTP.
//!
//! The process is the program `worker`, started with the database's URL, the lane and the deadline of a webhook in milliseconds. It says a
//! line on its standard output whenever there is nothing to claim, and ends in good order with its standard input.

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::builder::Settings;
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::queue::{Claim, Depth, Job, Lane, PER_ENDPOINT_MAX, Queue, QueueError, Settlement};
use pgw_core::retry::RetryPolicy;
use pgw_core::testing::keys::key_ring;
use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
use pgw_core::worker::{Worker, WorkerSettings};
use pgw_http::transport::HttpTransport;
use pgw_storage_postgres::{PgQueue, PgStorage};

/// Is a worker, until its standard input ends.
///
/// # Errors
/// When it cannot start, or what was under way when it was told to end took too long.
pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let url = arguments.next().ok_or("a worker needs a database")?;
    let lane = named(&arguments.next().ok_or("a worker needs a lane")?)?;
    let timeout = arguments.next().ok_or("a worker needs the deadline of a webhook")?.parse()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let storage = PgStorage::builder().with_connections_max(CONNECTIONS_MAX);
        let pg = storage.connect(&url).await?;
        let queue = Arc::new(OneLane { lane, queue: pg.queue() });
        let gateway = gateway(&pg, queue, Duration::from_millis(timeout))?;
        let told_to_end = async {
            let read = || io::copy(&mut io::stdin(), &mut io::sink());
            // However it ends, there is nobody at the other end any more.
            let _ = tokio::task::spawn_blocking(read).await;
        };
        match Worker::new(&gateway).with_settings(SETTINGS).run(told_to_end).await.returned {
            0 => Ok(()),
            returned => Err(format!("{returned} jobs took longer than the drain").into()),
        }
    })
}

/// A gateway with the sandbox, whose webhooks go to loopback and are sent again at once and again and again: of neither a fault nor a kill
/// may be so many that a delivery is given up.
///
/// # Errors
/// When there is no transport.
pub fn gateway(
    pg: &PgStorage,
    queue: Arc<dyn Queue>,
    timeout: Duration,
) -> Result<Gateway, Box<dyn Error>> {
    let env = Env::system();
    let policy =
        EgressPolicy::default().with_http(HttpScheme::Allowed).with_allowed("127.0.0.0/8".parse()?);
    let (first, longest) = (Duration::from_millis(20), Duration::from_millis(500));
    let settings = Settings {
        deliver_again: RetryPolicy::exponential(first, longest, 1_000),
        webhook_timeout: timeout,
        ..Settings::default()
    };
    Ok(Gateway::builder()
        .with_storage(Arc::new(pg.clone()))
        .with_queue(queue)
        .with_notifier(Arc::new(pg.notifier()))
        .with_transport(Arc::new(HttpTransport::new(env.clone(), policy)?), key_ring())
        .with_env(env)
        .with_settings(settings)
        .build()?)
}

/// The lane's name in a worker's arguments.
#[must_use]
pub fn name(lane: Lane) -> String {
    format!("{lane:?}").to_lowercase()
}

fn named(text: &str) -> Result<Lane, String> {
    Lane::ALL
        .into_iter()
        .find(|lane| name(*lane) == text)
        .ok_or_else(|| format!("{text}: there is no such lane"))
}

/// A queue that gives out the jobs of one lane, and tells when there are none.
#[derive(Debug)]
struct OneLane {
    lane: Lane,
    queue: PgQueue,
}

#[async_trait]
impl Queue for OneLane {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        self.queue.push(jobs).await
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        if lane != self.lane {
            return Ok(Vec::new());
        }
        let claims = self.queue.claim(lane, max, lease).await?;
        if claims.is_empty() {
            // Of a parent that is gone the end of the standard input tells.
            let _ = io::stdout().write_all(b"idle\n");
        }
        Ok(claims)
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        self.queue.extend(claims, lease).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        self.queue.settle(settlements).await
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        self.queue.depth(lane).await
    }
}

/// Deliveries that a worker makes at once: more than three endpoints are given together.
pub const DELIVERIES_MAX: usize = 4 * PER_ENDPOINT_MAX;
/// A short lease, so that what a killed worker had claimed soon comes back; long enough for one that waits for a processor to keep its own.
const SETTINGS: WorkerSettings = WorkerSettings {
    operations_max: 16,
    deliveries_max: DELIVERIES_MAX,
    lease: Duration::from_secs(2),
    poll: Duration::from_millis(100),
    reap: Duration::from_secs(1),
    drain: Duration::from_secs(30),
};
/// Several workers and a client fit into what a server gives by default.
const CONNECTIONS_MAX: u32 = 8;

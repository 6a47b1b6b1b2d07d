//! A worker in a process of its own, so that it can be killed: it does the jobs of one lane or of all, and delivers over HTTP.
//!
//! The process is the program `worker`, started with the [arguments](Spec::arguments) that say what it is. It says a line on its standard
//! output whenever there is nothing to claim, and ends in good order with its standard input.

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::builder::{ProcessorSettings, Settings};
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::notifier::Notifier;
use pgw_core::processor::Resolution;
use pgw_core::queue::{Claim, Depth, Job, Lane, PER_ENDPOINT_MAX, Queue, QueueError, Settlement};
use pgw_core::retry::RetryPolicy;
use pgw_core::scope::Mode;
use pgw_core::testing::keys::key_ring;
use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
use pgw_core::worker::{Worker, WorkerSettings};
use pgw_http::transport::HttpTransport;
use pgw_redis::Redis;
use pgw_storage_postgres::{Link, PgStorage};

use crate::bank::{Bank, Wire};

/// What a worker is. A gateway that is to be worked for is made of the same.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The database's URL.
    pub database: String,
    /// What that leads to.
    pub link: Link,
    /// Whose jobs it does: those of all lanes without.
    pub lane: Option<Lane>,
    /// The deadline of a webhook, in whole milliseconds.
    pub webhook_timeout: Duration,
    /// The processor; without, a sandbox of its own.
    pub bank: Option<Wire>,
    /// The URL of a Redis, or those of a Cluster's nodes. Without, jobs and hints are PostgreSQL's.
    pub redis: Vec<String>,
}

/// What a gateway is connected to.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The storage.
    pub pg: PgStorage,
    /// Its Redis, if it has one.
    pub redis: Option<Redis>,
}

impl Spec {
    /// One on this database, with nothing beside it.
    pub fn on(database: impl Into<String>, webhook_timeout: Duration) -> Self {
        let (link, redis) = (Link::Direct, Vec::new());
        Self { database: database.into(), link, lane: None, webhook_timeout, bank: None, redis }
    }

    /// What its process is started with.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("database={}", self.database),
            format!("timeout_ms={}", self.webhook_timeout.as_millis()),
        ];
        if self.link == Link::Pooler {
            arguments.push("link=pooler".to_owned());
        }
        arguments.extend(self.lane.map(|lane| format!("lane={}", name(lane))));
        if let Some(Wire { address, worker }) = self.bank {
            arguments.push(format!("bank={worker}@{address}"));
        }
        arguments.extend(self.redis.iter().map(|url| format!("redis={url}")));
        arguments
    }

    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut spec = Self::on("", Duration::ZERO);
        for argument in arguments {
            let (what, value) = argument.split_once('=').ok_or("arguments are names and values")?;
            match what {
                "database" => value.clone_into(&mut spec.database),
                "timeout_ms" => spec.webhook_timeout = Duration::from_millis(value.parse()?),
                "link" if value == "pooler" => spec.link = Link::Pooler,
                "lane" => spec.lane = Some(named(value)?),
                "bank" => {
                    let (worker, address) = value.split_once('@').ok_or("a number @ an address")?;
                    let (address, worker) = (address.parse()?, worker.parse()?);
                    spec.bank = Some(Wire { address, worker });
                }
                "redis" => spec.redis.push(value.to_owned()),
                _ => return Err(format!("{argument}: a worker has no such argument").into()),
            }
        }
        Ok(spec)
    }

    /// Connects to PostgreSQL; Redis is connected to when it is first used.
    ///
    /// # Errors
    /// When PostgreSQL is not there or not migrated, and for a URL that is none of Redis.
    pub async fn connect(&self) -> Result<Backends, Box<dyn Error>> {
        let storage = PgStorage::builder().with_link(self.link);
        let pg = storage.with_connections_max(CONNECTIONS_MAX).connect(&self.database).await?;
        let redis = match &self.redis[..] {
            [] => None,
            [node] => Some(Redis::node(node).build()?),
            nodes => Some(Redis::cluster(nodes).build()?),
        };
        Ok(Backends { pg, redis })
    }

    /// A gateway whose webhooks go to loopback and are sent again at once and again and again, and whose processor is asked as often: of
    /// neither a fault nor a kill may be so many that something is given up.
    ///
    /// # Errors
    /// When there is no transport.
    pub fn gateway(
        &self,
        backends: &Backends,
        queue: Arc<dyn Queue>,
    ) -> Result<Gateway, Box<dyn Error>> {
        let env = Env::system();
        let policy = EgressPolicy::default()
            .with_http(HttpScheme::Allowed)
            .with_allowed("127.0.0.0/8".parse()?);
        let again = |first, longest| {
            let (first, longest) = (Duration::from_millis(first), Duration::from_millis(longest));
            RetryPolicy::exponential(first, longest, 1_000)
        };
        let settings = Settings {
            send_again: again(100, 1_000),
            probe: again(100, 1_000),
            deliver_again: again(20, 500),
            webhook_timeout: self.webhook_timeout,
            ..Settings::default()
        };
        let mut gateway = Gateway::builder()
            .with_storage(Arc::new(backends.pg.clone()))
            .with_queue(queue)
            .with_notifier(backends.notifier())
            .with_transport(Arc::new(HttpTransport::new(env.clone(), policy)?), key_ring())
            .with_env(env)
            .with_settings(settings);
        if let Some(wire) = self.bank {
            let bank = Arc::new(Bank::new(wire, RESOLUTION));
            // Short, so that a call whose worker died is soon asked about.
            let timeout = Duration::from_secs(1);
            let settings = ProcessorSettings { timeout, ..ProcessorSettings::default() };
            gateway = gateway.with_processor(Mode::Test, bank, settings);
        }
        Ok(gateway.build()?)
    }
}

impl Backends {
    /// The jobs: in Redis, and in the rows while it is away; in the rows alone without one.
    #[must_use]
    pub fn queue(&self) -> Arc<dyn Queue> {
        match &self.redis {
            Some(redis) => Arc::new(self.pg.queue_behind(Arc::new(redis.queue()))),
            None => Arc::new(self.pg.queue()),
        }
    }

    fn notifier(&self) -> Arc<dyn Notifier> {
        match &self.redis {
            Some(redis) => Arc::new(redis.notifier()),
            None => Arc::new(self.pg.notifier()),
        }
    }
}

/// Is a worker, until its standard input ends.
///
/// # Errors
/// When it cannot start, or what was under way when it was told to end took too long.
pub fn run(arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let spec = Spec::read(arguments)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let backends = spec.connect().await?;
        let queue = Arc::new(OfLane { lane: spec.lane, queue: backends.queue() });
        let gateway = spec.gateway(&backends, queue)?;
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

/// The lane's name in a worker's arguments.
fn name(lane: Lane) -> String {
    format!("{lane:?}").to_lowercase()
}

fn named(text: &str) -> Result<Lane, String> {
    Lane::ALL
        .into_iter()
        .find(|lane| name(*lane) == text)
        .ok_or_else(|| format!("{text}: there is no such lane"))
}

/// A queue that gives out the jobs of one lane or of all, and tells when there are none.
#[derive(Debug)]
struct OfLane {
    lane: Option<Lane>,
    queue: Arc<dyn Queue>,
}

#[async_trait]
impl Queue for OfLane {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        self.queue.push(jobs).await
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        self.queue.restore(jobs).await
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        if self.lane.is_some_and(|only| only != lane) {
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

    async fn leave(&self, lane: Lane) -> Result<(), QueueError> {
        self.queue.leave(lane).await
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        self.queue.depth(lane).await
    }
}

/// Deliveries that a worker makes at once: more than three endpoints are given together.
pub const DELIVERIES_MAX: usize = 4 * PER_ENDPOINT_MAX;
/// How a bank is asked what became of a call.
pub const RESOLUTION: Resolution = Resolution::Lookup { lag: Duration::from_millis(100) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_what_its_arguments_say() {
        let wire = Wire { address: ([127, 0, 0, 1], 4_711).into(), worker: 3 };
        let spec = Spec {
            link: Link::Pooler,
            lane: Some(Lane::Deliveries),
            bank: Some(wire),
            redis: vec!["redis://a".to_owned(), "redis://b".to_owned()],
            ..Spec::on("postgres://pgw@localhost/db?host=%2Ftmp", Duration::from_millis(1_500))
        };
        let read = Spec::read(spec.arguments().into_iter()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{spec:?}"));
        Spec::read(["lane=fast".to_owned()].into_iter()).expect_err("there is no such lane");
    }
}

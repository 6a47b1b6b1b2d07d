//! A node: gateway, worker and HTTP interface in a process of its own, so that what they take is told from what the load and the sink take.
//!
//! The process is the benchmark's own program, started with `node` and what it is connected to. It tells its address and a key for each merchant
//! on its standard output, a line each, delivers once a line comes in, and ends with its standard input.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use pgw_core::access::{Caller, Role};
use pgw_core::crypto::KeyRing;
use pgw_core::env::Env;
use pgw_core::gateway::{Gateway, NewApiKey};
use pgw_core::notifier::Notifier;
use pgw_core::queue::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement};
use pgw_core::scope::{Mode, Scope};
use pgw_core::text::Description;
use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
use pgw_core::worker::{Worker, WorkerSettings};
use pgw_http::transport::HttpTransport;
use pgw_redis::Redis;
use pgw_storage_postgres::{Link, PgStorage};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A running node. Dropping it ends it at once.
#[derive(Debug)]
pub struct Node {
    child: Child,
    voice: ChildStdin,
    /// Where its API is.
    pub address: SocketAddr,
    /// An administrator's key for each merchant.
    pub keys: Vec<String>,
}

/// The argument that makes a benchmark's program a node.
pub const NODE: &str = "node";

/// What a node is connected to.
#[derive(Debug, Clone)]
pub struct Place {
    /// The database's URL.
    pub database: String,
    /// What that leads to.
    pub link: Link,
    /// Where hints are heard, past a pooler.
    pub listens: Option<String>,
    /// Redis's URL; without, jobs and hints are PostgreSQL's.
    pub redis: Option<String>,
}

/// What links are called among arguments.
const LINKS: [(Link, &str); 3] =
    [(Link::Direct, "direct"), (Link::Pooler, "pooler"), (Link::PreparedPooler, "prepared")];

impl Place {
    /// This database, and nothing beside it.
    pub fn database(url: impl Into<String>) -> Self {
        Self { database: url.into(), link: Link::Direct, listens: None, redis: None }
    }
}

impl Node {
    /// Starts one there, with so many merchants. It delivers nothing until it is told to.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(place: &Place, merchants: usize) -> Result<Self, Box<dyn Error>> {
        let link = LINKS.iter().find(|(link, _)| *link == place.link).ok_or("an unknown link")?.1;
        let listens = place.listens.as_deref().unwrap_or_default();
        let redis = place.redis.as_deref().unwrap_or_default();
        let mut child = Command::new(std::env::current_exe()?)
            .args([NODE, &place.database, link, listens, redis, &merchants.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let voice = child.stdin.take().ok_or("the node hears nothing")?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("the node says nothing")?).lines();
        let address = lines.next().ok_or("the node ended early")??.parse()?;
        let keys = lines.take(merchants).collect::<Result<_, _>>()?;
        Ok(Self { child, voice, address, keys })
    }

    /// Lets it deliver.
    ///
    /// # Errors
    /// When it is gone.
    pub fn deliver(&mut self) -> Result<(), Box<dyn Error>> {
        Ok(self.voice.write_all(b"deliver\n")?)
    }

    /// Ends it at once.
    pub fn end(&mut self) {
        // It may be gone by itself, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its resident memory now, in MiB (Linux).
    ///
    /// # Errors
    /// When it is gone.
    pub fn rss_mib(&self) -> Result<f64, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS line")?;
        Ok(kib.trim().parse::<f64>()? / 1_024.0)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// Is a node, until its standard input ends.
///
/// # Errors
/// When it cannot start.
pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let database = arguments.next().ok_or("a node needs a database")?;
    let link = arguments.next().ok_or("a node needs to know where that leads")?;
    let link = LINKS.iter().find(|(_, name)| *name == link).ok_or("an unknown link")?.0;
    let listens = arguments.next().ok_or("a node needs to know where to listen")?;
    let listens = Some(listens).filter(|url| !url.is_empty());
    let redis = arguments.next().ok_or("a node needs to know of a Redis")?;
    let redis = Some(redis).filter(|url| !url.is_empty());
    let place = Place { database, link, listens, redis };
    let merchants: usize = arguments.next().ok_or("a node needs merchants")?.parse()?;
    let (open, opened) = watch::channel(false);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_ok() {
                open.send_replace(true);
            }
        }
        std::process::exit(0);
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(&place, merchants, opened))
}

async fn serve(
    place: &Place,
    merchants: usize,
    opened: watch::Receiver<bool>,
) -> Result<(), Box<dyn Error>> {
    let mut builder = PgStorage::builder().with_link(place.link);
    if let Some(url) = &place.listens {
        builder = builder.with_listener(url.parse()?);
    }
    let pg = builder.connect(&place.database).await?;
    let (queue, notifier): (_, Arc<dyn Notifier>) = match &place.redis {
        Some(url) => {
            let redis = Redis::node(url).build()?;
            let queue: Arc<dyn Queue> = Arc::new(pg.queue_behind(Arc::new(redis.queue())));
            (queue, Arc::new(redis.notifier()))
        }
        None => (Arc::new(pg.queue()), Arc::new(pg.notifier())),
    };
    let env = Env::system();
    let policy =
        EgressPolicy::default().with_http(HttpScheme::Allowed).with_allowed("127.0.0.0/8".parse()?);
    let gateway = Gateway::builder()
        .with_queue(Arc::new(Held { queue, opened }))
        .with_notifier(notifier)
        .with_storage(Arc::new(pg))
        .with_transport(
            Arc::new(HttpTransport::new(env.clone(), policy)?),
            KeyRing::ephemeral(&env),
        )
        .with_env(env)
        .build()?;
    let settings = WorkerSettings {
        operations_max: AT_ONCE_MAX,
        deliveries_max: AT_ONCE_MAX,
        ..WorkerSettings::default()
    };
    let _worker = Worker::new(&gateway).with_settings(settings).start();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    for merchant in 0..merchants {
        let scope = Scope::new(format!("merchant-{merchant}").parse()?, Mode::Test);
        let name = Description::parse("benchmark")?;
        let new = NewApiKey { role: Role::Admin, name, expires_in: None };
        let (_, key) = gateway.by(Caller::host(scope)).create_api_key(new).await?;
        println!("{}", key.expose());
    }
    let app: Router = pgw_http::router(gateway, pgw_http::Config::default());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}

/// A queue that gives out no deliveries until it is told to, so that they can be made to wait.
#[derive(Debug)]
struct Held {
    queue: Arc<dyn Queue>,
    opened: watch::Receiver<bool>,
}

#[async_trait]
impl Queue for Held {
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
        if lane == Lane::Deliveries {
            // An error means that nobody is left to open it.
            let _ = self.opened.clone().wait_for(|open| *open).await;
        }
        self.queue.claim(lane, max, lease).await
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

/// Operations and deliveries at once, each: as many as a busy node would be given.
const AT_ONCE_MAX: usize = 512;

//! `pgw worker`: does the work without serving.

use std::time::Duration;

use clap::Args;
use pgw_core::worker::{Worker, WorkerHandle, WorkerSettings};
use pgw_http::ops::Ops;
use pgw_http::serve::Server;
use pgw_http::{Config as ApiConfig, Drain};

use crate::cli::Global;
use crate::config::{Config, setting};
use crate::failure::Failure;
use crate::logs::{LogFile, Logs};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::stop::{Signals, Wish};
use crate::{redis, serve};

/// How to work.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The port for metrics and health, instead of the configured one; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
}

/// Works until it is told to stop, then finishes what is under way. Serves nothing but metrics and health.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    args: &WorkerArgs,
    logs: &Logs,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let node = Node::open_durable(config, global).await?;
    let metrics = Metrics::install()?;
    let drain = Drain::new();
    let ops = Ops::new(node.gateway.clone(), &ApiConfig::default().with_drain(drain.clone()));
    let ops = redis::watched(ops, node.redis.as_ref());
    let port = match args.port {
        Some(port) => port,
        None => config.require(&setting::WORKER_PORT)?,
    };
    let listener = serve::listen(config, None, port).await?;
    let address = listener.local_addr().map_err(Failure::system("the socket has no address"))?;
    let sampling = metrics.sample(&node, logs);
    let worker = start(config, &node)?;
    let app = ops.router().merge(metrics.router());
    let serving = tokio::spawn(Server::new().with_drain(drain.clone()).serve(listener, app));
    let redis = redis::state(node.redis.as_ref()).await;
    tracing::info!(%address, redis, version = env!("CARGO_PKG_VERSION"), "working");
    while signals.next().await == Wish::Reload {
        logs.file.iter().for_each(LogFile::reopen);
    }
    drain.begin();
    self::drain(worker).await;
    sampling.abort();
    // What it answers is asked again elsewhere.
    serving.abort();
    Ok(())
}

/// Starts a worker on a task of its own.
///
/// # Errors
/// [`Failure`] when a setting is wrong.
pub(crate) fn start(config: &Config, node: &Node) -> Result<WorkerHandle, Failure> {
    let most = |which: &setting::Setting, max: usize| {
        let count: usize = config.require(which)?;
        if (1..=max).contains(&count) {
            return Ok(count);
        }
        Err(Failure::from(config.wrong(which, format!("must be from 1 to {max}"))))
    };
    let settings = WorkerSettings {
        operations_max: most(&setting::WORKER_OPERATIONS, 10_000)?,
        deliveries_max: most(&setting::WORKER_DELIVERIES, 10_000)?,
        drain: config.duration(&setting::DRAIN)?.unwrap_or(DRAIN_DEFAULT),
        ..WorkerSettings::default()
    };
    Ok(Worker::new(&node.gateway).with_settings(settings).start())
}

/// Stops it in good order.
pub(crate) async fn drain(worker: WorkerHandle) {
    tracing::info!("stopping: finishing what is under way");
    let report = worker.shutdown().await;
    tracing::info!(done = report.done, returned = report.returned, "stopped");
}

/// What the setting's own default says.
const DRAIN_DEFAULT: Duration = Duration::from_secs(35);

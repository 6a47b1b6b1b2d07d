//! The worker: claims due jobs, does them, settles them. Any number of them, in one process or many.

mod breakers;
mod deliveries;
mod gate;
mod health;
mod lane;
mod operations;
mod patrol;
mod reaper;
mod sealer;
mod signature;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

use crate::gateway::Gateway;
use crate::notifier::Hint;
use crate::queue::Lane;

pub(crate) use breakers::Breakers;
pub(crate) use gate::{AFTER_AN_ANSWER, Gate};

/// Does a gateway's work.
///
/// ```
/// # use pgw_core::gateway::Gateway;
/// # use pgw_core::worker::Worker;
/// # async fn f(gateway: &Gateway) {
/// let worker = Worker::new(gateway).start();
/// // … until the host stops:
/// let report = worker.shutdown().await;
/// println!("{} jobs done, {} returned", report.done, report.returned);
/// # }
/// ```
#[derive(Debug)]
pub struct Worker {
    gateway: Gateway,
    settings: WorkerSettings,
}

/// How much a worker does at once and how often it looks. No time is taken as more than a day, no period as less than 1 ms, and no lease as less than 100 ms,
/// whatever is set: a claim must hold until its heartbeat has been to the queue and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Most operations at once. Default 64.
    pub operations_max: usize,
    /// Most deliveries at once. Default 512: they mostly wait, and an endpoint that never answers takes a share of them.
    pub deliveries_max: usize,
    /// How long a claim holds without a heartbeat; heartbeats come three times as often. Default 30 s.
    pub lease: Duration,
    /// How often the queue is looked at without a hint. Default 1 s.
    pub poll: Duration,
    /// How often lost work, expired payments, old answers and audit rows to seal are looked for. Default 5 s.
    pub reap: Duration,
    /// How long a shutdown waits for jobs under way before it returns them. Default 35 s: a little more than a processor's
    /// deadline.
    pub drain: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            operations_max: 64,
            deliveries_max: 512,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            reap: Duration::from_secs(5),
            drain: Duration::from_secs(35),
        }
    }
}

impl WorkerSettings {
    /// With times that a loop can wait for: none would be a loop that does nothing else, and a clock cannot count for ever.
    fn bounded(self) -> Self {
        const LEASE_MIN: Duration = Duration::from_millis(100);
        const PERIOD_MIN: Duration = Duration::from_millis(1);
        const LONGEST: Duration = Duration::from_secs(86_400);
        Self {
            lease: self.lease.clamp(LEASE_MIN, LONGEST),
            poll: self.poll.clamp(PERIOD_MIN, LONGEST),
            reap: self.reap.clamp(PERIOD_MIN, LONGEST),
            drain: self.drain.min(LONGEST),
            ..self
        }
    }
}

impl Worker {
    /// A worker of this gateway with the default settings.
    #[must_use]
    pub fn new(gateway: &Gateway) -> Self {
        Self { gateway: gateway.clone(), settings: WorkerSettings::default() }
    }

    /// With other settings.
    #[must_use]
    pub const fn with_settings(mut self, settings: WorkerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Runs on a task of its own.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(self) -> WorkerHandle {
        let (stop, stopped) = watch::channel(());
        let task = tokio::spawn(self.run(async move {
            let mut stopped = stopped;
            // An error means that the handle is gone, which stops the worker too.
            let _ = stopped.changed().await;
        }));
        WorkerHandle { stop, task: AbortOnDrop(task) }
    }

    /// Runs until `shutdown` is done, then drains: claims nothing more, finishes what is under way, and returns the leases of
    /// what takes too long.
    ///
    /// # Cancel safety
    /// Dropping it stops everything at once, like a crash: leases run out, and calls under way are treated as unknown.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Drained {
        let settings = self.settings.bounded();
        let bells = Bells::default();
        let mut background = JoinSet::new();
        background.spawn(listen(self.gateway.clone(), bells.clone(), settings.poll));
        background.spawn(reaper::reap(self.gateway.clone(), settings.reap));
        background.spawn(reaper::stamp(
            self.gateway.clone(),
            Arc::clone(&bells.events),
            settings.poll,
        ));
        background.spawn(reaper::hear_sandbox(self.gateway.clone(), settings.poll));
        background.spawn(sealer::seal(self.gateway.clone(), settings.reap));
        let mut lanes = JoinSet::new();
        let mut stops = Vec::new();
        for lane in Lane::ALL {
            // One for each, because those who listen to one together are woken in a random order.
            let (stop, stopped) = oneshot::channel();
            stops.push(stop);
            lanes.spawn(lane::run(
                self.gateway.clone(),
                lane,
                settings,
                Arc::clone(bells.of(lane)),
                stopped,
            ));
        }
        shutdown.await;
        for stop in stops {
            // The receivers live in the lanes, which end only by this.
            let _ = stop.send(());
        }
        let mut report = Drained::default();
        while let Some(drained) = lanes.join_next().await {
            match drained {
                Ok(drained) => {
                    report.done = report.done.saturating_add(drained.done);
                    report.returned = report.returned.saturating_add(drained.returned);
                }
                Err(error) => {
                    tracing::error!(%error, "a worker's lane broke; its leases will run out")
                }
            }
        }
        report
    }
}

/// A running worker. Dropping it stops the worker at once; [`shutdown`](Self::shutdown) stops it in good order.
#[derive(Debug)]
#[must_use = "dropping the handle stops the worker at once"]
pub struct WorkerHandle {
    stop: watch::Sender<()>,
    task: AbortOnDrop,
}

impl WorkerHandle {
    /// Stops claiming, waits for what is under way, and returns the rest.
    ///
    /// # Panics
    /// When the worker panicked.
    ///
    /// # Cancel safety
    /// Dropping it stops the worker at once.
    pub async fn shutdown(mut self) -> Drained {
        let _ = self.stop.send(());
        match (&mut self.task.0).await {
            Ok(report) => report,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<Drained>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a worker did in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Jobs settled.
    pub done: u64,
    /// Jobs whose leases were returned because they took longer than the drain.
    pub returned: u64,
}

/// Rung by hints; each keeps one ring that nobody heard yet.
#[derive(Debug, Clone, Default)]
struct Bells {
    operations: Arc<Notify>,
    deliveries: Arc<Notify>,
    events: Arc<Notify>,
}

impl Bells {
    const fn of(&self, lane: Lane) -> &Arc<Notify> {
        match lane {
            Lane::Operations => &self.operations,
            Lane::Deliveries => &self.deliveries,
        }
    }
}

async fn listen(gateway: Gateway, bells: Bells, poll: Duration) {
    loop {
        let mut hints = match gateway.parts().notifier.subscribe().await {
            Ok(hints) => hints,
            Err(error) => {
                tracing::warn!(%error, "no hints; polling goes on");
                tokio::time::sleep(poll).await;
                continue;
            }
        };
        loop {
            match hints.next().await {
                Hint::Work(lane) => bells.of(lane).notify_one(),
                Hint::Events => bells.events.notify_one(),
                Hint::Missed => {
                    Lane::ALL.iter().for_each(|lane| bells.of(*lane).notify_one());
                    bells.events.notify_one();
                }
                Hint::Payment { .. }
                | Hint::Stamped
                | Hint::KeyRevoked(_)
                | Hint::ShieldChanged => {}
            }
        }
    }
}

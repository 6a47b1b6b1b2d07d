//! The simulation: real gateways and real workers on a runtime with paused time, in a world where everything goes wrong, all of it
//! from one seed.
//!
//! A world has one backend, one processor (the sandbox) and one set of webhook receivers, which survive; and one or two processes of a
//! gateway and one or two workers each, which crash at any await and are started again, each time with one of two keys active on their
//! rings. Clients ask for payments, captures, refunds and cancels, and ask again under the same key when they get no answer; they create
//! endpoints of all kinds, change them and rotate their secrets. Storage, queue and notifier fail, dawdle and lose answers; the
//! processor and the receivers do what real ones do; clocks jump. Then the weather clears, everything that can still move is waited for, a
//! person settles what needs one, and [`invariants`](super::invariants) must hold.
//!
//! Hosts run it over a backend of their own: see [`Backend`].

mod arrivals;
mod chance;
mod claims;
mod client;
mod deliveries;
mod heal;
mod logs;
mod outside;
mod process;
mod signatures;
mod tending;
mod wire;
mod witness;
mod world;
mod write_aheads;

use std::fmt;
use std::sync::Arc;

use crate::env::{Clock, Entropy};
use crate::notifier::Notifier;
use crate::queue::Queue;
use crate::storage::Storage;

use super::mutants::Bug;

use self::world::World;

/// What a simulated world keeps its truth in. Made anew for each simulation by a [`MakeBackend`].
pub trait Backend: fmt::Debug + Send + Sync {
    /// The storage. It survives every crash.
    fn storage(&self) -> Arc<dyn Storage>;

    /// The queue.
    fn queue(&self) -> Arc<dyn Queue>;

    /// The notifier.
    fn notifier(&self) -> Arc<dyn Notifier>;

    /// Loses everything that is in the queue, as a restart of an in-memory queue does. `false` when this queue cannot be lost.
    fn lose_queue(&self) -> bool;
}

/// Makes a backend from a clock that only goes forward, by which it judges leases and due times, and from randomness.
pub type MakeBackend = dyn Fn(Arc<dyn Clock>, Arc<dyn Entropy>) -> Box<dyn Backend> + Send + Sync;

/// One simulated world.
///
/// The same seed over the same backend gives the same run, call by call. A backend that reads a clock, draws randomness or starts
/// threads of its own breaks that.
#[derive(Debug, Clone, Copy)]
pub struct Simulation {
    seed: u64,
    bug: Option<Bug>,
}

impl Simulation {
    /// The world of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, bug: None }
    }

    /// The same world with a bug planted in every process.
    #[must_use]
    pub const fn with_bug(mut self, bug: Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// Runs the world to its end on a runtime of its own and checks that everything is as it must be.
    ///
    /// # Errors
    /// [`Violation`]: the first thing that is not.
    ///
    /// # Panics
    /// On a thread that runs a tokio runtime already.
    pub fn run(self, make: &MakeBackend) -> Result<Report, Violation> {
        let logs = logs::Logs::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing that could be missing");
        let (logged, subscriber) = (logs.clone(), tracing::Dispatch::new(logs));
        tracing::dispatcher::with_default(&subscriber, || {
            // Nothing is sent to another thread, and what borrows the world need not be able to.
            let local = tokio::task::LocalSet::new();
            let result = local.block_on(&runtime, self.play(make, &logged));
            drop(local);
            // While the logs still listen: what is dropped may log.
            drop(runtime);
            result
        })
    }

    async fn play(self, make: &MakeBackend, logs: &logs::Logs) -> Result<Report, Violation> {
        let world = World::new(self.seed, self.bug, make);
        let broken = world.live_through(logs).await;
        match broken.into_iter().next() {
            None => Ok(world.report()),
            Some((invariant, detail)) => {
                let history = world.history_of(&detail);
                Err(Violation { seed: self.seed, invariant, detail, history })
            }
        }
    }
}

/// What happened in a world that held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Operations of payments.
    pub operations: u64,
    /// Processes that crashed.
    pub crashes: u64,
    /// Of them, those between the commit of a dispatch and the commit of its outcome.
    pub crashes_under_way: u64,
    /// Commits nobody could tell the outcome of.
    pub ambiguous_commits: u64,
    /// Operations whose outcome was unknown at some time.
    pub unknown: u64,
    /// Times that the whole queue was lost.
    pub queues_lost: u64,
    /// Webhooks that came to a receiver.
    pub webhooks: u64,
    /// Times that an endpoint was paused.
    pub pauses: u64,
    /// Times that an endpoint was given another secret.
    pub rotations: u64,
    /// Endpoints that the gateway disabled.
    pub disabled: u64,
    /// Customers that were erased.
    pub erasures: u64,
    /// A hash of everything that was called and when: equal for equal seeds.
    pub trace: u64,
}

impl Report {
    /// Adds another world's numbers. The trace becomes that of the two.
    #[must_use]
    pub const fn and(self, other: &Self) -> Self {
        Self {
            operations: self.operations.saturating_add(other.operations),
            crashes: self.crashes.saturating_add(other.crashes),
            crashes_under_way: self.crashes_under_way.saturating_add(other.crashes_under_way),
            ambiguous_commits: self.ambiguous_commits.saturating_add(other.ambiguous_commits),
            unknown: self.unknown.saturating_add(other.unknown),
            queues_lost: self.queues_lost.saturating_add(other.queues_lost),
            webhooks: self.webhooks.saturating_add(other.webhooks),
            pauses: self.pauses.saturating_add(other.pauses),
            rotations: self.rotations.saturating_add(other.rotations),
            disabled: self.disabled.saturating_add(other.disabled),
            erasures: self.erasures.saturating_add(other.erasures),
            // Order must not matter: worlds are run side by side.
            trace: self.trace ^ other.trace,
        }
    }
}

/// Something was not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {invariant}: {detail}")]
pub struct Violation {
    /// The seed to see it again with.
    pub seed: u64,
    /// What must be.
    pub invariant: &'static str,
    /// What is.
    pub detail: String,
    /// What happened to the payments that the detail names, line by line.
    pub history: Vec<String>,
}

//! One lane of a worker: claim what fits, do it, settle it, keep the leases alive, drain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::error::Error;
use crate::gateway::Gateway;
use crate::queue::{Claim, Job, Lane, Settlement, Verdict};

use super::{Drained, WorkerSettings, deliveries, operations};

/// Runs until `stopped` says so, then drains.
pub(super) async fn run(
    gateway: Gateway,
    lane: Lane,
    settings: WorkerSettings,
    bell: Arc<Notify>,
    mut stopped: oneshot::Receiver<()>,
) -> Drained {
    let mut state = State::new(gateway, lane, settings);
    let mut heartbeat = tokio::time::interval(settings.lease / 3);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // A lane that is full, or was given all that was due, looks again when something changes.
        let hungry = state.claim().await;
        tokio::select! {
            biased;
            // An error means that whoever could stop it is gone.
            _ = &mut stopped => break,
            _ = heartbeat.tick() => state.extend().await,
            Some(finished) = state.running.join_next_with_id() => state.settle(finished).await,
            () = bell.notified(), if hungry => {}
            () = tokio::time::sleep(settings.poll), if hungry => {}
        }
    }
    state.drain().await
}

struct State {
    gateway: Gateway,
    lane: Lane,
    settings: WorkerSettings,
    max: usize,
    running: JoinSet<Verdict>,
    /// In the order they were claimed, so that equal runs make equal calls.
    held: BTreeMap<Id, Claim>,
    report: Drained,
}

impl State {
    fn new(gateway: Gateway, lane: Lane, settings: WorkerSettings) -> Self {
        let max = match lane {
            Lane::Operations => settings.operations_max,
            Lane::Deliveries => settings.deliveries_max,
        };
        Self {
            gateway,
            lane,
            settings,
            max: max.max(1),
            running: JoinSet::new(),
            held: BTreeMap::new(),
            report: Drained::default(),
        }
    }

    /// Claims as much as fits; whether there is room left.
    async fn claim(&mut self) -> bool {
        let room = self.max.saturating_sub(self.running.len());
        if room == 0 {
            return false;
        }
        let queue = &self.gateway.parts().queue;
        match queue.claim(self.lane, room, self.settings.lease).await {
            Ok(claims) => {
                let full = claims.len() >= room;
                for claim in claims {
                    let work = work(self.gateway.clone(), claim.clone());
                    let task = self.running.spawn(work);
                    self.held.insert(task.id(), claim);
                }
                !full
            }
            Err(error) => {
                tracing::warn!(%error, "nothing could be claimed; trying again");
                true
            }
        }
    }

    /// Settles a finished job and every other that finished meanwhile, in one call.
    async fn settle(&mut self, first: Result<(Id, Verdict), JoinError>) {
        let mut settlements = Vec::new();
        settlements.extend(self.verdict(first));
        while let Some(next) = self.running.try_join_next_with_id() {
            settlements.extend(self.verdict(next));
        }
        self.report.done = self.report.done.saturating_add(settlements.len() as u64);
        if let Err(error) = self.gateway.parts().queue.settle(&settlements).await {
            tracing::warn!(%error, "jobs were done but not settled; they will be found done again");
        }
    }

    fn verdict(&mut self, finished: Result<(Id, Verdict), JoinError>) -> Option<Settlement> {
        match finished {
            Ok((id, verdict)) => self.held.remove(&id).map(|claim| Settlement { claim, verdict }),
            Err(error) => {
                let claim = self.held.remove(&error.id())?;
                tracing::error!(job = ?claim.job, claims = claim.claims, "a job panicked");
                let verdict = if claim.claims >= PANICS_MAX {
                    Verdict::Bury { reason: "it panicked every time it was tried".into() }
                } else {
                    Verdict::Release { due_in: backoff(claim.claims) }
                };
                Some(Settlement { claim, verdict })
            }
        }
    }

    async fn extend(&self) {
        if self.held.is_empty() {
            return;
        }
        let claims: Vec<Claim> = self.held.values().cloned().collect();
        // A lease that is lost is not worth stopping for: the row's version guards the commit.
        if let Err(error) = self.gateway.parts().queue.extend(&claims, self.settings.lease).await {
            tracing::warn!(%error, "leases could not be extended");
        }
    }

    async fn drain(mut self) -> Drained {
        let deadline = tokio::time::sleep(self.settings.drain);
        tokio::pin!(deadline);
        let mut heartbeat = tokio::time::interval(self.settings.lease / 3);
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                () = &mut deadline => break,
                _ = heartbeat.tick() => self.extend().await,
                Some(finished) = self.running.join_next_with_id() => self.settle(finished).await,
            }
        }
        self.running.abort_all();
        // A job that was done just before the abort is settled as done; the others go back.
        while let Some(finished) = self.running.join_next_with_id().await {
            if finished.is_ok() {
                self.settle(finished).await;
            }
        }
        let returned: Vec<Settlement> = std::mem::take(&mut self.held)
            .into_values()
            .map(|claim| Settlement { claim, verdict: Verdict::Release { due_in: Duration::ZERO } })
            .collect();
        self.report.returned = returned.len() as u64;
        if !returned.is_empty()
            && let Err(error) = self.gateway.parts().queue.settle(&returned).await
        {
            tracing::warn!(%error, "leases could not be returned; they will run out");
        }
        self.report
    }
}

async fn work(gateway: Gateway, claim: Claim) -> Verdict {
    let done = match &claim.job {
        Job::Operation { scope, operation, .. } => {
            operations::work(&gateway, &claim.job, scope, *operation).await
        }
        Job::Delivery { scope, .. } => deliveries::work(&gateway, &claim.job, scope).await,
    };
    match done {
        Ok(verdict) => verdict,
        Err(error) => {
            log(&claim, &error);
            Verdict::Release { due_in: backoff(claim.claims) }
        }
    }
}

fn log(claim: &Claim, error: &Error) {
    if error.is_retryable() {
        tracing::warn!(job = ?claim.job, %error, "a job will be tried again");
    } else {
        tracing::error!(job = ?claim.job, claims = claim.claims, %error, "a job failed; it will be tried again");
    }
}

/// 200 ms, doubling, at most 30 s: the storage is away, or something is wrong that a person must mend.
fn backoff(claims: u32) -> Duration {
    let exponent = claims.saturating_sub(1).min(8);
    Duration::from_millis(200_u64.saturating_mul(1 << exponent)).min(Duration::from_secs(30))
}

/// A job that panics this often is set aside: it will panic again.
const PANICS_MAX: u32 = 10;

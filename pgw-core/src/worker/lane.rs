//! One lane of a worker: claim what fits, do it, settle it, keep the leases alive, drain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument as _;

use crate::env::runtime_now;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::queue::{Claim, Job, Lane, Settlement, Verdict};
use crate::storage::DueWork;
use crate::telemetry;

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
        // Looked for at once, unless so little was found a moment ago that it is worth waiting for company.
        if state.is_wanted && state.rest().is_zero() {
            state.claim().await;
        }
        let rest = state.rest();
        tokio::select! {
            biased;
            // An error means that whoever could stop it is gone.
            _ = &mut stopped => break,
            _ = heartbeat.tick() => state.extend().await,
            Some(finished) = state.running.join_next_with_id() => state.settle(finished).await,
            () = bell.notified() => state.is_wanted = true,
            () = tokio::time::sleep(rest), if state.is_wanted && state.has_room() => {}
            () = tokio::time::sleep(settings.poll), if !state.is_wanted => state.is_wanted = true,
        }
    }
    state.drain().await
}

struct State {
    gateway: Gateway,
    lane: Lane,
    settings: WorkerSettings,
    max: usize,
    /// Whether there may be more to claim.
    is_wanted: bool,
    /// Until when the queue is left alone.
    rests_until: Option<Instant>,
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
            is_wanted: true,
            rests_until: None,
            running: JoinSet::new(),
            held: BTreeMap::new(),
            report: Drained::default(),
        }
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.max
    }

    /// How long to leave the queue alone: a moment after a claim that found little, as what finishes or comes together is claimed together.
    fn rest(&self) -> Duration {
        self.rests_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(runtime_now()))
    }

    /// Claims as much as fits, if anything does.
    async fn claim(&mut self) {
        let room = self.max.saturating_sub(self.running.len());
        if room == 0 {
            return;
        }
        let began = runtime_now();
        let queue = &self.gateway.parts().queue;
        match queue.claim(self.lane, room, self.settings.lease).await {
            Ok(claims) => {
                // What was not given now may be given when something changes: a hint, a job that is done, the next poll.
                self.is_wanted = claims.len() >= room;
                let now = runtime_now();
                let times = if claims.len() >= COMPANY { RUSH } else { 1 };
                let rest = ((now - began) * times).clamp(REST_MIN, REST_MAX);
                self.rests_until = (claims.len() * 2 < room).then_some(now + rest);
                self.start(claims).await;
            }
            Err(error) => {
                tracing::warn!(%error, "nothing could be claimed; trying again");
                self.is_wanted = false;
            }
        }
    }

    /// Starts jobs, with their rows read in one go.
    async fn start(&mut self, claims: Vec<Claim>) {
        if claims.is_empty() {
            return;
        }
        let jobs: Vec<Job> = claims.iter().map(|claim| claim.job.clone()).collect();
        let found = match self.gateway.storage().due_all(&jobs).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the rows of claimed jobs could not be read together");
                Vec::new()
            }
        };
        let mut found = found.into_iter();
        for claim in claims {
            // Without its row, a job reads it by itself.
            let task = self.running.spawn(work(self.gateway.clone(), claim.clone(), found.next()));
            self.held.insert(task.id(), claim);
        }
    }

    /// Settles a finished job and every other that finished meanwhile, in one call.
    async fn settle(&mut self, first: Result<(Id, Verdict), JoinError>) {
        // There is room again, in this lane and at an endpoint.
        self.is_wanted = true;
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
        let queue = Arc::clone(&self.gateway.parts().queue);
        let leaving = queue.leave(self.lane);
        tokio::pin!(leaving);
        let mut has_left = false;
        while !(has_left && self.running.is_empty()) {
            tokio::select! {
                biased;
                () = &mut deadline => break,
                left = &mut leaving, if !has_left => {
                    has_left = true;
                    if let Err(error) = left {
                        tracing::warn!(%error, "jobs kept at hand could not be returned; their leases will run out");
                    }
                }
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

async fn work(gateway: Gateway, claim: Claim, found: Option<Option<DueWork>>) -> Verdict {
    let found = match found {
        Some(found) => Ok(found),
        None => gateway.storage().due(&claim.job).await.map_err(Error::from),
    };
    let span = telemetry::span(&claim.job, found.as_ref().ok().and_then(Option::as_ref));
    let done = async {
        match found {
            Ok(found) => do_work(&gateway, &claim.job, found).await,
            Err(error) => Err(error),
        }
        .unwrap_or_else(|error| {
            log(&claim, &error);
            Verdict::Release { due_in: backoff(claim.claims) }
        })
    };
    done.instrument(span).await
}

async fn do_work(gateway: &Gateway, job: &Job, found: Option<DueWork>) -> Result<Verdict, Error> {
    match (job, found) {
        (Job::Operation { scope, operation, .. }, Some(DueWork::Operation(state))) => {
            operations::work(gateway, job, scope, *operation, state).await
        }
        (Job::Delivery { scope, .. }, Some(found)) => {
            deliveries::work(gateway, job, scope, found).await
        }
        // Somebody else did it.
        _ => Ok(Verdict::Done),
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

/// A queue in which less was found than fits is left alone for as long as looking took, so that looking is never most of the work: for at least
/// what a commit takes, and at most what nobody notices.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(50);
/// In a rush it is left alone for so many times as long: what comes meanwhile comes together.
const RUSH: u32 = 4;
/// How many jobs found at once are a rush.
const COMPANY: usize = 16;
/// A job that panics this often is set aside: it will panic again.
const PANICS_MAX: u32 = 10;

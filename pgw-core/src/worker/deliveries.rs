//! Deliveries: sign the stored bytes, send them, commit the attempt, and see what it tells about the endpoint.

use crate::changes::{Changes, Committed};
use crate::env::runtime_now;
use crate::error::Error;
use crate::gateway::{Gateway, commit_surely};
use crate::notifier::Hint;
use crate::queue::{Job, Verdict};
use crate::scope::Scope;
use crate::storage::{DueWork, StorageError};
use crate::telemetry;
use crate::webhook::plan::{self, Schedule, Sent};
use crate::webhook::{DeliveryState, DeliveryWork, WebhookRequest};

use super::breakers::Entry;
use super::{health, signature};

/// Does one job: one attempt of a delivery.
pub(super) async fn work(
    gateway: &Gateway,
    job: &Job,
    scope: &Scope,
    found: DueWork,
) -> Result<Verdict, Error> {
    let mut work = match turn(gateway, job, Some(found)).await? {
        Turn::Ours(work) => work,
        Turn::No(verdict) => return Ok(verdict),
    };
    let permit = match gateway.parts().breakers.enter(&work.endpoint).await {
        Entry::Go(permit) => permit,
        Entry::Later(due_in) => return Ok(Verdict::Postpone { due_in }),
    };
    if permit.has_waited {
        let found = gateway.storage().due(job).await?;
        work = match turn(gateway, job, found).await? {
            Turn::Ours(work) => work,
            Turn::No(verdict) => return Ok(verdict),
        };
    }
    if !permit.wait.is_zero() {
        tokio::time::sleep(permit.wait).await;
    }
    let sent = send(gateway, &work).await?;
    let learned = permit.leave(sent.reaction(), &work.endpoint);
    let env = gateway.env();
    let schedule = Schedule { policy: &gateway.parts().settings.deliver_again, entropy: env.u64() };
    let changes = plan::attempted(&work, &sent, schedule, env.now());
    let verdict = commit(gateway, job, changes).await;
    if let Some(learned) = learned {
        health::turn(gateway, scope, &work.endpoint, learned).await;
    }
    verdict
}

/// Whether it is this job's turn.
enum Turn {
    Ours(Box<DeliveryWork>),
    No(Verdict),
}

async fn turn(gateway: &Gateway, job: &Job, found: Option<DueWork>) -> Result<Turn, Error> {
    let work = match found {
        Some(DueWork::Delivery(work)) if work.delivery.state == DeliveryState::Pending => work,
        Some(DueWork::Parked { look_in }) => {
            return Ok(Turn::No(Verdict::Postpone { due_in: look_in.max(PARKED_MIN) }));
        }
        _ => return Ok(Turn::No(Verdict::Done)),
    };
    Ok(match plan::unheard(&work, gateway.env().now()) {
        Some(changes) => Turn::No(commit(gateway, job, changes).await?),
        None => Turn::Ours(work),
    })
}

async fn send(gateway: &Gateway, work: &DeliveryWork) -> Result<Sent, Error> {
    let parts = gateway.parts();
    let webhooks = parts.webhooks.as_ref().ok_or(Error::NoTransport)?;
    let started_at = parts.env.now();
    let request = WebhookRequest {
        url: work.endpoint.url.clone(),
        headers: signature::headers(&webhooks.vault, work, started_at)?,
        body: work.event.body.clone(),
        timeout: work.endpoint.options.timeout.unwrap_or(parts.settings.webhook_timeout),
    };
    let started = runtime_now();
    let result = webhooks.transport.send(&request).await;
    let latency = runtime_now() - started;
    let result = result.map_err(|error| {
        tracing::info!(delivery = %work.delivery.id, %error, "a webhook was not answered");
        error.kind
    });
    let sent = Sent { started_at, latency, result };
    telemetry::attempted(&sent);
    Ok(sent)
}

async fn commit(gateway: &Gateway, job: &Job, changes: Changes) -> Result<Verdict, Error> {
    let announcement = Hint::of(&changes);
    let own = changes.writes.iter().find_map(|write| match write {
        crate::changes::Write::Delivery { due_in, .. } => *due_in,
        _ => None,
    });
    match commit_surely(gateway.storage(), changes, gateway.env()).await? {
        (Ok(Committed::Applied { mut due, .. }), _) => {
            due.retain(|(made_due, _)| made_due != job);
            gateway.announce(announcement, &due).await;
            Ok(Verdict::Committed { due_in: own })
        }
        // Replayed by hand meanwhile, the endpoint changed, or this very commit was applied at an earlier try: if the
        // row is still due it will be claimed again.
        (Err(StorageError::Conflict(_)), _) => Ok(Verdict::Release { due_in: CONFLICT_AGAIN_IN }),
        (Ok(_), _) => Ok(Verdict::Done),
        (Err(error), _) => Err(error.into()),
    }
}

/// Soon, but not at once: whoever was faster may not be done yet.
const CONFLICT_AGAIN_IN: std::time::Duration = std::time::Duration::from_millis(50);
/// What is parked behind something that is under way is looked at again after this, unless it is woken before.
const PARKED_MIN: std::time::Duration = std::time::Duration::from_millis(500);

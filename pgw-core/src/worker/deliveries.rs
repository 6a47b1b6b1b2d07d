//! Deliveries: sign the stored bytes, send them, commit the attempt.

use crate::access::Caller;
use crate::changes::{Changes, Committed};
use crate::env::runtime_now;
use crate::error::Error;
use crate::gateway::{Gateway, commit_surely};
use crate::notifier::Hint;
use crate::payment::plan::Stamp;
use crate::queue::{Job, Verdict};
use crate::scope::Scope;
use crate::storage::{DueWork, StorageError};
use crate::webhook::plan::{self, Schedule, Sent};
use crate::webhook::{DeliveryState, DeliveryWork, WebhookRequest};

use super::signature;

/// Does one job: one attempt of a delivery.
pub(super) async fn work(gateway: &Gateway, job: &Job, scope: &Scope) -> Result<Verdict, Error> {
    let Some(DueWork::Delivery(work)) = gateway.storage().due(job).await? else {
        return Ok(Verdict::Done);
    };
    if work.delivery.state != DeliveryState::Pending {
        return Ok(Verdict::Done);
    }
    let changes = match plan::unheard(&work, gateway.env().now()) {
        Some(changes) => changes,
        None => {
            let sent = send(gateway, &work).await?;
            let env = gateway.env();
            let schedule =
                Schedule { policy: &gateway.parts().settings.deliver_again, entropy: env.u64() };
            let caller = Caller::worker(scope.clone());
            let mut ids = || env.uuid();
            let mut stamp = Stamp { now: env.now(), caller: &caller, ids: &mut ids };
            plan::attempted(&work, &sent, schedule, &mut stamp)
        }
    };
    commit(gateway, job, changes).await
}

async fn send(gateway: &Gateway, work: &DeliveryWork) -> Result<Sent, Error> {
    let parts = gateway.parts();
    let transport = parts.transport.as_ref().ok_or(Error::NoTransport)?;
    let started_at = parts.env.now();
    let request = WebhookRequest {
        url: work.endpoint.url.clone(),
        headers: signature::headers(work, started_at)?,
        body: work.event.body.clone(),
        timeout: parts.settings.webhook_timeout,
    };
    let started = runtime_now();
    let result = transport.send(&request).await;
    let latency = runtime_now() - started;
    let result = result.map_err(|error| {
        tracing::info!(delivery = %work.delivery.id, %error, "a webhook was not answered");
        error.kind
    });
    Ok(Sent { started_at, latency, result })
}

async fn commit(gateway: &Gateway, job: &Job, changes: Changes) -> Result<Verdict, Error> {
    let announcement = Hint::of(&changes);
    let own = changes.writes.iter().find_map(|write| match write {
        crate::changes::Write::Delivery { due_in, .. } => *due_in,
        _ => None,
    });
    match commit_surely(gateway.storage(), changes, gateway.env()).await? {
        (Ok(Committed::Applied { mut due }), _) => {
            due.retain(|(made_due, _)| made_due != job);
            gateway.announce(announcement, &due).await;
            Ok(own.map_or(Verdict::Done, |due_in| Verdict::Release { due_in }))
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

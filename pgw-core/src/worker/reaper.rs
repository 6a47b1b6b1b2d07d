//! The reaper and the sequencer: bounded sweeps, any number of them at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::access::Caller;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::notifier::Hint;
use crate::processor::Processor as _;
use crate::queue::Lane;

/// Looks, again and again, for work the queue lost, payments whose time ran out, answers kept long enough, and payments of erased
/// customers.
pub(super) async fn reap(gateway: Gateway, period: Duration) {
    loop {
        if let Err(error) = sweep(&gateway).await {
            tracing::warn!(%error, "a sweep was cut short; the next one goes on");
        }
        tokio::time::sleep(period).await;
    }
}

async fn sweep(gateway: &Gateway) -> Result<(), Error> {
    let parts = gateway.parts();
    for lane in Lane::ALL {
        let due = parts.storage.due_jobs(lane, BATCH).await?;
        if due.is_empty() {
            continue;
        }
        // Jobs that the queue still has are told apart by the queue.
        let due: Vec<_> = due.into_iter().map(|job| (job, Duration::ZERO)).collect();
        if let Err(error) = parts.queue.push(&due).await {
            tracing::warn!(%error, "the queue did not take back what it lost");
        }
        if let Err(error) = parts.notifier.publish(&[Hint::Work(lane)]).await {
            tracing::warn!(%error, "hints were not sent; polling will find the work");
        }
    }
    let now = parts.env.now();
    for (scope, payment) in parts.storage.expired_payments(now, BATCH).await? {
        let expired = gateway.by(Caller::worker(scope)).expire(payment).await;
        if let Err(error) = expired {
            tracing::warn!(%payment, %error, "a payment could not be expired yet");
        }
    }
    let kept = parts.settings.answers_kept.max(ANSWERS_KEPT_MIN);
    parts.storage.purge_answers(now.minus(kept), BATCH).await?;
    // A large erasure takes several sweeps: lost work and expired payments do not wait for it.
    for _ in 0..REDACT_BATCHES_MAX {
        if parts.storage.redact_payments(parts.env.now(), REDACT_BATCH).await? < REDACT_BATCH {
            break;
        }
    }
    Ok(())
}

/// Gives committed events their place in the feed, when a hint says so and every `period`.
pub(super) async fn stamp(gateway: Gateway, bell: Arc<Notify>, period: Duration) {
    let mut is_untold = false;
    loop {
        match gateway.parts().storage.stamp_events(BATCH).await {
            Ok(stamped) if stamped >= BATCH => {
                is_untold = true;
                continue;
            }
            Ok(0) if !is_untold => {}
            Ok(_) => {
                is_untold = false;
                if let Err(error) = gateway.parts().notifier.publish(&[Hint::Stamped]).await {
                    tracing::warn!(%error, "hints were not sent; polling will find the events");
                }
            }
            Err(error) => tracing::warn!(%error, "events were not stamped; trying again"),
        }
        tokio::select! {
            // In a fixed order, so that a run can be replayed from its seed.
            biased;
            () = bell.notified() => {}
            () = tokio::time::sleep(period) => {}
        }
    }
}

/// Takes in what the sandbox has to say, as a real processor would send it over HTTP.
pub(super) async fn hear_sandbox(gateway: Gateway, period: Duration) {
    let Some(sandbox) = &gateway.parts().sandbox else { return };
    loop {
        for raw in sandbox.drain_notifications() {
            let heard = gateway.receive_notification(sandbox.name().as_str(), &raw).await;
            if let Err(error) = heard {
                tracing::warn!(%error, "a notification of the sandbox was not taken in");
            }
        }
        tokio::time::sleep(period).await;
    }
}

/// Rows a sweep takes at once: enough to catch up quickly, few enough to be over soon.
const BATCH: usize = 500;
/// Payments that are rewritten in one commit: each with all of its events, so that a batch stays within a megabyte or two.
const REDACT_BATCH: usize = 20;
/// Such commits in a sweep: a second or two of a busy database.
const REDACT_BATCHES_MAX: usize = 50;
/// Answers are kept at least a day, whatever the setting says: clients are told so.
const ANSWERS_KEPT_MIN: Duration = Duration::from_secs(24 * 60 * 60);

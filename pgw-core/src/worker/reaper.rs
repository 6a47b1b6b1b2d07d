//! The reaper and the sequencer: bounded sweeps, any number of them at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::access::Caller;
use crate::env::runtime_now;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::notifier::Hint;
use crate::processor::Processor as _;
use crate::queue::Lane;
use crate::storage::DueJob;

/// Looks, again and again, for work the queue lost, payments whose time ran out, answers kept long enough, and payments of erased
/// customers.
pub(super) async fn reap(gateway: Gateway, period: Duration) {
    let mut walks = Walks::default();
    loop {
        if let Err(error) = walks.go_on(&gateway).await {
            tracing::warn!(%error, "lost work was not looked for to the end; the next sweep goes on");
        }
        if let Err(error) = sweep(&gateway).await {
            tracing::warn!(%error, "a sweep was cut short; the next one goes on");
        }
        tokio::time::sleep(period).await;
    }
}

async fn sweep(gateway: &Gateway) -> Result<(), Error> {
    let parts = gateway.parts();
    let now = parts.env.now();
    for (scope, payment) in parts.storage.expired_payments(now, BATCH).await? {
        let expired = gateway.by(Caller::worker(scope)).expire(payment).await;
        if let Err(error) = expired {
            tracing::warn!(%payment, %error, "a payment could not be expired yet");
        }
    }
    let kept = parts.settings.answers_kept.max(ANSWERS_KEPT_MIN);
    // As many as came in since the last sweep, of any number of payments a second that one machine takes.
    for _ in 0..ANSWER_BATCHES_MAX {
        if parts.storage.purge_answers(now.minus(kept), BATCH).await? < BATCH {
            break;
        }
    }
    // A large erasure takes several sweeps: lost work and expired payments do not wait for it.
    for _ in 0..REDACT_BATCHES_MAX {
        if parts.storage.redact_payments(parts.env.now(), REDACT_BATCH).await? < REDACT_BATCH {
            break;
        }
    }
    Ok(())
}

/// Walks over the rows that are due, and puts those jobs back that the queue has lost. However long what comes first stays due, a walk goes on
/// behind it; where one sweep leaves off, the next one begins.
#[derive(Default)]
struct Walks([Option<DueJob>; Lane::ALL.len()]);

impl Walks {
    async fn go_on(&mut self, gateway: &Gateway) -> Result<(), Error> {
        for (lane, place) in Lane::ALL.into_iter().zip(&mut self.0) {
            let mut found = 0;
            for page in 0..LOST_PAGES_MAX {
                let began = runtime_now();
                let after = place.as_ref();
                let due = gateway.storage().due_page(lane, after, BATCH).await?;
                let is_last = due.len() < BATCH;
                *place = if is_last { None } else { due.last().cloned() };
                let lost = restore(gateway, lane, due, began).await;
                found += lost.unwrap_or_default();
                // While there is nothing to be found, a few pages a sweep do.
                if is_last || lost.is_none() || (found == 0 && page + 1 >= PAGES) {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Puts jobs back that the queue has lost: how many. `None` when it did not, or cannot lose any.
async fn restore(gateway: &Gateway, lane: Lane, due: Vec<DueJob>, began: Instant) -> Option<usize> {
    if due.is_empty() {
        return Some(0);
    }
    let parts = gateway.parts();
    let passed = runtime_now() - began;
    let due: Vec<_> = due.into_iter().map(|due| (due.job, due.due_for + passed)).collect();
    let lost = match parts.queue.restore(&due).await {
        Ok(lost) => lost,
        Err(error) => {
            tracing::warn!(%error, "the queue did not take back what it lost");
            None
        }
    };
    // Also where nothing was lost: the hint may have been.
    if let Err(error) = parts.notifier.publish(&[Hint::Work(lane)]).await {
        tracing::warn!(%error, "hints were not sent; polling will find the work");
    }
    lost
}

/// Gives committed events their place in the feed, when a hint says so and every `period`.
pub(super) async fn stamp(gateway: Gateway, bell: Arc<Notify>, period: Duration) {
    loop {
        let began = runtime_now();
        match gateway.parts().storage.stamp_events(BATCH).await {
            Ok(0) => {}
            Ok(stamped) => {
                if let Err(error) = gateway.parts().notifier.publish(&[Hint::Stamped]).await {
                    tracing::warn!(%error, "hints were not sent; polling will find the events");
                }
                if stamped >= BATCH {
                    continue;
                }
            }
            Err(error) => tracing::warn!(%error, "events were not stamped; trying again"),
        }
        // What is committed meanwhile is stamped together: under load, stamping is a small part of the time; when idle, nobody notices.
        tokio::time::sleep(((runtime_now() - began) * 4).min(STAMP_REST_MAX)).await;
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

/// The longest that events wait for company before they are stamped.
const STAMP_REST_MAX: Duration = Duration::from_millis(50);
/// Rows a sweep takes at once: enough to catch up quickly, few enough to be over soon.
const BATCH: usize = 500;
/// Pages of due rows that one sweep looks at for lost work, at least and, while it finds some, at most.
const PAGES: usize = 10;
const LOST_PAGES_MAX: usize = 200;
/// Batches of answers that one sweep forgets.
const ANSWER_BATCHES_MAX: usize = 200;
/// Payments that are rewritten in one commit: each with all of its events, so that a batch stays within a megabyte or two.
const REDACT_BATCH: usize = 20;
/// Such commits in a sweep: a second or two of a busy database.
const REDACT_BATCHES_MAX: usize = 50;
/// Answers are kept at least a day, whatever the setting says: clients are told so.
const ANSWERS_KEPT_MIN: Duration = Duration::from_secs(24 * 60 * 60);

//! What the gateway counts, through the [`metrics`](https://docs.rs/metrics) facade: free until the host installs a recorder, such as that of
//! `metrics-exporter-prometheus`. Logs and spans go through `tracing` in the same way.
//!
//! Labels take few values, all listed here; nothing of a customer, a merchant or an object's id is ever one.
//!
//! | metric | kind | unit | labels |
//! |---|---|---|---|
//! | [`EVENTS`] | counter | events committed | `type`: an [`EventType`], so `payment.created` counts payments and `payment.unknown` lost outcomes |
//! | [`PROCESSOR_CALLS`] | counter | calls | `kind`: of the operation; `outcome`: `answered`, `not_sent`, `lost` |
//! | [`PROCESSOR_SECONDS`] | histogram | seconds | `kind` |
//! | [`DELIVERY_ATTEMPTS`] | counter | attempts | `outcome`: `2xx`, `3xx`, `4xx`, `5xx`, or a [`TransportErrorKind`](crate::webhook::TransportErrorKind) |
//! | [`DELIVERY_SECONDS`] | histogram | seconds | – |
//! | [`JOBS`] | gauge | jobs | `lane`: `operations`, `deliveries`; `state`: `ready`, `delayed`, `in_flight`, `dead` |
//! | [`JOBS_OLDEST`] | gauge | seconds | `lane` |
//!
//! The gauges are set by [`sample`], which whoever scrapes calls every few seconds.
//!
//! Work has spans at `INFO`: `pgw.operation` with `merchant`, `mode`, `payment`, `operation` and `attempt`, and `pgw.delivery` with `merchant`,
//! `mode`, `event`, `endpoint` and `attempt`. They hold ids only, nothing of a person.

use std::time::Duration;

use tracing::Span;

use crate::changes::{Changes, Write};
use crate::event::EventType;
use crate::payment::{OperationKind, OperationState};
use crate::queue::{Job, Lane, Queue, QueueError};
use crate::storage::DueWork;
use crate::webhook::plan::Sent;

/// Events committed, by type.
pub const EVENTS: &str = "pgw_events_total";
/// Calls to processors, by kind and outcome.
pub const PROCESSOR_CALLS: &str = "pgw_processor_calls_total";
/// How long processors took to answer, or not to.
pub const PROCESSOR_SECONDS: &str = "pgw_processor_call_duration_seconds";
/// Attempts to deliver a webhook, by outcome.
pub const DELIVERY_ATTEMPTS: &str = "pgw_webhook_attempts_total";
/// How long attempts took.
pub const DELIVERY_SECONDS: &str = "pgw_webhook_attempt_duration_seconds";
/// Jobs in the queue, by lane and state.
pub const JOBS: &str = "pgw_queue_jobs";
/// How long the oldest ready job has been due, by lane.
pub const JOBS_OLDEST: &str = "pgw_queue_oldest_seconds";

/// Tells a recorder what each metric means. Call it once, after the recorder is installed.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(EVENTS, "Events committed, by type");
    describe_counter!(PROCESSOR_CALLS, "Calls to processors, by kind of operation and outcome");
    describe_histogram!(PROCESSOR_SECONDS, Unit::Seconds, "How long calls to processors took");
    describe_counter!(DELIVERY_ATTEMPTS, "Attempts to deliver a webhook, by outcome");
    describe_histogram!(DELIVERY_SECONDS, Unit::Seconds, "How long attempts to deliver took");
    describe_gauge!(JOBS, "Jobs in the queue, by lane and state");
    describe_gauge!(JOBS_OLDEST, Unit::Seconds, "How long the oldest ready job has been due");
}

/// Sets the gauges of a queue from what it says of itself.
///
/// # Errors
/// [`QueueError`]; the gauges of the lane stay as they were.
///
/// # Cancel safety
/// Dropping the future leaves the gauges of some lanes as they were.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and no queue has 2^53 jobs")]
pub async fn sample(queue: &dyn Queue) -> Result<(), QueueError> {
    for lane in Lane::ALL {
        let depth = queue.depth(lane).await?;
        let lane = lane.as_str();
        for (state, count) in [
            ("ready", depth.ready),
            ("delayed", depth.delayed),
            ("in_flight", depth.in_flight),
            ("dead", depth.dead),
        ] {
            metrics::gauge!(JOBS, "lane" => lane, "state" => state).set(count as f64);
        }
        metrics::gauge!(JOBS_OLDEST, "lane" => lane).set(depth.oldest.as_secs_f64());
    }
    Ok(())
}

/// The types of the events that changes hold, to be counted once they are applied.
pub(crate) fn events_of(changes: &Changes) -> Vec<EventType> {
    let events = changes.writes.iter().filter_map(|write| match write {
        Write::Event(event) | Write::EventTo { event, .. } => Some(event.event_type),
        _ => None,
    });
    events.collect()
}

pub(crate) fn committed(events: &[EventType]) {
    for event in events {
        metrics::counter!(EVENTS, "type" => event.as_str()).increment(1);
    }
}

/// The span of a job. An attempt that is about to be made has the number it will have.
pub(crate) fn span(job: &Job, found: Option<&DueWork>) -> Span {
    match job {
        Job::Operation { scope, payment, operation } => tracing::info_span!(
            "pgw.operation",
            merchant = scope.merchant.as_str(),
            mode = scope.mode.as_str(),
            payment = %payment,
            operation = %operation,
            attempt = attempt(job, found),
        ),
        Job::Delivery { scope, delivery } => tracing::info_span!(
            "pgw.delivery",
            merchant = scope.merchant.as_str(),
            mode = scope.mode.as_str(),
            event = %delivery.event(),
            endpoint = %delivery.endpoint(),
            attempt = attempt(job, found),
        ),
    }
}

fn attempt(job: &Job, found: Option<&DueWork>) -> Option<u32> {
    match (job, found?) {
        (Job::Operation { operation, .. }, DueWork::Operation(state)) => {
            let operation = state.operation(*operation)?;
            let is_next = operation.state == OperationState::Queued;
            Some(operation.attempts.saturating_add(is_next.into()))
        }
        (_, DueWork::Delivery(work)) => Some(work.delivery.attempts.saturating_add(1)),
        _ => None,
    }
}

/// What a call to a processor came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    Answered,
    NotSent,
    Lost,
}

pub(crate) fn called(kind: OperationKind, outcome: Called, took: Duration) {
    let outcome = match outcome {
        Called::Answered => "answered",
        Called::NotSent => "not_sent",
        Called::Lost => "lost",
    };
    metrics::counter!(PROCESSOR_CALLS, "kind" => kind.as_str(), "outcome" => outcome).increment(1);
    metrics::histogram!(PROCESSOR_SECONDS, "kind" => kind.as_str()).record(took.as_secs_f64());
}

pub(crate) fn attempted(sent: &Sent) {
    let outcome = match &sent.result {
        Ok(response) => match response.status {
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        },
        Err(kind) => kind.as_str(),
    };
    metrics::counter!(DELIVERY_ATTEMPTS, "outcome" => outcome).increment(1);
    metrics::histogram!(DELIVERY_SECONDS).record(sent.latency.as_secs_f64());
}

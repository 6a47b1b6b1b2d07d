//! Small helpers of the queue's functions: jobs of either source, claims, settlements.

use std::time::Duration;

use super::fixture::{JobSource, QueueFixture};
use super::support::{apply, created, registered};
use crate::changes::{Changes, Write};
use crate::event::EventType;
use crate::id::DeliveryId;
use crate::queue::{Claim, Job, Lane, Queue, Settlement, Verdict};
use crate::storage::Storage;
use crate::testing::sample::{Creation, Samples};
use crate::webhook::{Delivery, Endpoint};

/// What a healthy queue does.
pub(super) const WORKS: &str = "a call of a healthy queue must not fail";
/// How long the suite holds claims.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// Makes jobs that are due after these delays, in this order, whatever the queue takes them from.
pub(super) async fn enqueue(
    fixture: &dyn QueueFixture,
    samples: &Samples,
    lane: Lane,
    delays: &[Duration],
) -> Vec<Job> {
    match fixture.source().await {
        JobSource::Pushed => {
            let jobs: Vec<(Job, Duration)> =
                delays.iter().map(|delay| (samples.job(lane), *delay)).collect();
            fixture.queue().await.push(&jobs).await.expect(WORKS);
            jobs.into_iter().map(|(job, _)| job).collect()
        }
        JobSource::Rows(storage) => match lane {
            Lane::Operations => operations(&*storage, samples, delays).await,
            Lane::Deliveries => deliveries(&*storage, samples, delays).await,
        },
    }
}

/// An endpoint that hears only what is made for it.
pub(super) async fn endpoint(fixture: &dyn QueueFixture, samples: &Samples) -> Endpoint {
    register(fixture, samples.endpoint_for(&["test.ping"])).await
}

/// Makes an endpoint, where deliveries need one.
pub(super) async fn register(fixture: &dyn QueueFixture, endpoint: Endpoint) -> Endpoint {
    match fixture.source().await {
        JobSource::Pushed => endpoint,
        JobSource::Rows(storage) => registered(&*storage, endpoint).await,
    }
}

/// Makes deliveries to one endpoint that are due after these delays, in this order.
pub(super) async fn enqueue_to(
    fixture: &dyn QueueFixture,
    samples: &Samples,
    endpoint: &Endpoint,
    delays: &[Duration],
) -> Vec<Job> {
    let scope = samples.scope();
    let mut jobs = Vec::new();
    for delay in delays {
        let event = samples.event(EventType::TestPing);
        let id = DeliveryId::new(event.id, endpoint.id);
        if let JobSource::Rows(storage) = fixture.source().await {
            let write = Write::EventTo { event: Box::new(event), endpoint: endpoint.id };
            apply(&*storage, Changes::new(scope.clone()).write(write)).await;
            due_in(&*storage, samples, id, *delay).await;
        }
        jobs.push((Job::Delivery { scope: scope.clone(), delivery: id }, *delay));
    }
    fixture.queue().await.push(&jobs).await.expect(WORKS);
    jobs.into_iter().map(|(job, _)| job).collect()
}

/// Claims for [`LEASE`].
pub(super) async fn claim(queue: &dyn Queue, lane: Lane, max: usize) -> Vec<Claim> {
    let claims = queue.claim(lane, max, LEASE).await.expect(WORKS);
    assert!(claims.len() <= max, "more than were asked for");
    assert!(claims.iter().all(|claim| claim.job.lane() == lane), "jobs of another lane");
    claims
}

/// Claims the one job there must be.
pub(super) async fn claim_one(queue: &dyn Queue, lane: Lane) -> Claim {
    let mut claims = claim(queue, lane, 2).await;
    assert_eq!(claims.len(), 1, "there is one job to claim");
    claims.remove(0)
}

/// Extends one claim by [`LEASE`].
pub(super) async fn extend(queue: &dyn Queue, claim: &Claim) -> bool {
    let held = queue.extend(std::slice::from_ref(claim), LEASE).await.expect(WORKS);
    assert_eq!(held.len(), 1, "one answer for one claim");
    held[0]
}

/// Settles one claim.
pub(super) async fn settle(queue: &dyn Queue, claim: &Claim, verdict: Verdict) -> bool {
    let held = settle_all(queue, std::slice::from_ref(claim), &verdict).await;
    assert_eq!(held.len(), 1, "one answer for one settlement");
    held[0]
}

/// Settles claims alike.
pub(super) async fn settle_all(
    queue: &dyn Queue,
    claims: &[Claim],
    verdict: &Verdict,
) -> Vec<bool> {
    let settlements: Vec<Settlement> = claims
        .iter()
        .map(|claim| Settlement { claim: claim.clone(), verdict: verdict.clone() })
        .collect();
    queue.settle(&settlements).await.expect(WORKS)
}

/// The jobs of claims.
pub(super) fn jobs(claims: &[Claim]) -> Vec<Job> {
    claims.iter().map(|claim| claim.job.clone()).collect()
}

async fn operations(storage: &dyn Storage, samples: &Samples, delays: &[Duration]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for delay in delays {
        let creation = Creation { due_in: Some(*delay), ..samples.creation() };
        apply(storage, creation.changes()).await;
        jobs.push(creation.job());
    }
    jobs
}

async fn deliveries(storage: &dyn Storage, samples: &Samples, delays: &[Duration]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for delay in delays {
        let endpoint = registered(storage, samples.endpoint_for(&["test.ping"])).await;
        let event = samples.event(EventType::TestPing);
        let id = DeliveryId::new(event.id, endpoint.id);
        // The endpoint is deleted at once, so that it hears no event but its own.
        let mut deleted = endpoint.clone();
        deleted.status = crate::webhook::EndpointStatus::Deleted;
        deleted.version = 2;
        apply(storage, Changes::new(samples.scope().clone()).write(Write::Event(Box::new(event))))
            .await;
        registered(storage, deleted).await;
        due_in(storage, samples, id, *delay).await;
        jobs.push(Job::Delivery { scope: samples.scope().clone(), delivery: id });
    }
    jobs
}

/// Makes a delivery that was just made due after this delay.
async fn due_in(storage: &dyn Storage, samples: &Samples, id: DeliveryId, delay: Duration) {
    let made = super::support::delivery(storage, samples, id).await.delivery;
    let next = Delivery { version: 2, updated_at: samples.now(), ..made };
    let write = Write::Delivery { delivery: Box::new(next), due_in: Some(delay) };
    apply(storage, Changes::new(samples.scope().clone()).write(write)).await;
}

/// A job that a queue of rows must not take from a push: its row is there and not due.
pub(super) async fn job_without_due_row(fixture: &dyn QueueFixture, samples: &Samples) -> Job {
    if let JobSource::Rows(storage) = fixture.source().await {
        let creation = created(&*storage, samples).await;
        let write = Write::Operation { operation: Box::new(creation.charge.clone()), due_in: None };
        apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
        return creation.job();
    }
    samples.job(Lane::Operations)
}

//! Due work: what a write makes due and when, by the backend's own clock.

use std::time::Duration;

use super::fixture::StorageFixture;
use super::support::{READS, apply, created, delivering, delivery, registered, replacing, secs};
use crate::changes::{Changes, Write};
use crate::id::{DeliveryId, EndpointId, OperationId, PaymentId};
use crate::payment::{OperationKind, OperationState, Payment, PaymentState, PaymentStatus};
use crate::queue::{Job, Lane};
use crate::storage::{DueJob, DueWork, Storage};
use crate::testing::sample::{Creation, Samples, redirect};
use crate::webhook::{Delivery, Endpoint};

/// "Inserts an operation, and makes it due": at once when the delay is zero, with the rows its job points to.
pub async fn an_operation_is_due_with_its_payment(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    let creation = created(&*storage, &samples).await;
    let state = PaymentState {
        payment: creation.payment.clone(),
        operations: vec![creation.charge.clone()],
    };
    let due = storage.due(&creation.job()).await.expect(READS);
    assert_eq!(due, Some(DueWork::Operation(Box::new(state))));
}

/// "They are due at once": new deliveries, with their event and endpoint.
pub async fn a_new_delivery_is_due_at_once(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    let (_, row) = delivering(&*storage, &samples).await;
    let work = delivery(&*storage, &samples, row.id).await;
    let job = Job::Delivery { scope: samples.scope().clone(), delivery: row.id };
    assert_eq!(storage.due(&job).await.expect(READS), Some(DueWork::Delivery(Box::new(work))));
    assert_eq!(storage.due_jobs(Lane::Deliveries, 10).await.expect(READS), [job]);
}

/// "`due_in` of a write is added to the backend's own clock": not due a moment earlier, due from then on.
pub async fn an_operation_is_due_when_its_delay_is_over(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let job = delayed(&*storage, &samples, Some(secs(60))).await.job();
    is_due(&*storage, &job, false).await;
    fixture.advance(secs(50)).await;
    is_due(&*storage, &job, false).await;
    fixture.advance(secs(10)).await;
    is_due(&*storage, &job, true).await;
    fixture.advance(secs(86_400)).await;
    is_due(&*storage, &job, true).await;
}

/// "`due_in` of a write is added to the backend's own clock": for deliveries too.
pub async fn a_delivery_is_due_when_its_delay_is_over(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    let (_, row) = delivering(&*storage, &samples).await;
    let job = postponed(&*storage, &samples, &row, Some(secs(60))).await;
    is_due(&*storage, &job, false).await;
    fixture.advance(secs(50)).await;
    is_due(&*storage, &job, false).await;
    fixture.advance(secs(10)).await;
    is_due(&*storage, &job, true).await;
}

/// "`None`: not at all": such an operation never becomes due.
pub async fn an_operation_without_a_delay_is_never_due(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let job = delayed(&*storage, &samples, None).await.job();
    fixture.advance(secs(86_400 * 365)).await;
    is_due(&*storage, &job, false).await;
}

/// "`None`: not at all": a delivery that was due no longer is.
pub async fn a_delivery_without_a_delay_is_never_due(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    let (_, row) = delivering(&*storage, &samples).await;
    let job = postponed(&*storage, &samples, &row, None).await;
    fixture.advance(secs(86_400 * 365)).await;
    is_due(&*storage, &job, false).await;
}

/// "Replaces an operation, and makes it due": later, earlier or not at all, the latest write counts.
pub async fn a_later_write_decides_when_it_is_due(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    let creation = created(&*storage, &samples).await;
    let job = creation.job();
    let mut payment = creation.payment.clone();
    for (due_in, due) in [
        (None, false),
        (Some(Duration::ZERO), true),
        (Some(secs(60)), false),
        (Some(secs(0)), true),
    ] {
        payment = samples.touched(&payment);
        let write = Write::Operation { operation: Box::new(creation.charge.clone()), due_in };
        apply(&*storage, replacing(&payment).write(write)).await;
        is_due(&*storage, &job, due).await;
    }
}

/// A commit that writes the payment alone leaves its operations as due as they were.
pub async fn a_write_of_the_payment_alone_moves_no_due_time(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    let due = created(&*storage, &samples).await;
    let later = delayed(&*storage, &samples, Some(secs(60))).await;
    for creation in [&due, &later] {
        apply(&*storage, replacing(&samples.touched(&creation.payment))).await;
    }
    is_due(&*storage, &due.job(), true).await;
    is_due(&*storage, &later.job(), false).await;
    fixture.advance(secs(60)).await;
    is_due(&*storage, &later.job(), true).await;
}

/// "If its row is due now; `None` kills a stale job": a job without a row, or of another payment.
pub async fn a_job_without_a_row_is_stale(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let (creation, row) = delivering(&*storage, &samples).await;
    let scope = samples.scope().clone();
    let (payment, operation) = (creation.payment.id, creation.charge.id);
    let nobody = PaymentId::mint(samples.env());
    let stale = [
        samples.job(Lane::Operations),
        samples.job(Lane::Deliveries),
        Job::Operation {
            scope: scope.clone(),
            payment,
            operation: OperationId::mint(samples.env()),
        },
        Job::Operation { scope: scope.clone(), payment: nobody, operation },
        Job::Delivery {
            scope,
            delivery: DeliveryId::new(row.id.event(), EndpointId::mint(samples.env())),
        },
    ];
    for job in stale {
        assert_eq!(storage.due(&job).await.expect(READS), None, "{job:?}");
    }
}

/// A job of another merchant or mode points to nothing.
pub async fn a_job_of_another_scope_is_stale(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let (creation, row) = delivering(&*storage, &samples).await;
    for scope in samples.foreign() {
        let operation = Job::Operation {
            scope: scope.clone(),
            payment: creation.payment.id,
            operation: creation.charge.id,
        };
        let delivery = Job::Delivery { scope, delivery: row.id };
        assert_eq!(storage.due(&operation).await.expect(READS), None);
        assert_eq!(storage.due(&delivery).await.expect(READS), None);
    }
}

/// "What `due` answers for each of these jobs, in their order": of both lanes and any merchant, due, parked, not due, stale, and one twice.
pub async fn due_all_answers_as_due_does(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(20));
    assert_eq!(storage.due_all(&[]).await.expect(READS), []);
    let mut jobs = Vec::new();
    let [merchant, mode] = samples.foreign();
    for samples in [samples.clone(), samples.of(merchant), samples.of(mode)] {
        let (creation, row) = delivering(&*storage, &samples).await;
        let (_, paused) = delivering(&*storage, &samples).await;
        let pause = Write::Pause { endpoint: paused.id.endpoint(), lasts: secs(50_000) };
        apply(&*storage, Changes::new(samples.scope().clone()).write(pause)).await;
        let later = delayed(&*storage, &samples, Some(secs(60))).await;
        let delivery = |delivery| Job::Delivery { scope: samples.scope().clone(), delivery };
        jobs.extend([delivery(row.id), creation.job(), later.job(), delivery(paused.id)]);
        jobs.extend([samples.job(Lane::Operations), samples.job(Lane::Deliveries)]);
    }
    jobs.extend([jobs[3].clone(), jobs[1].clone(), jobs[0].clone()]);
    let found = storage.due_all(&jobs).await.expect(READS);
    assert_eq!(found.len(), jobs.len());
    for (job, found) in jobs.iter().zip(found) {
        assert_eq!(found, storage.due(job).await.expect(READS), "{job:?}");
    }
}

/// "Jobs of a lane whose rows are due now": of any merchant, each once.
pub async fn due_jobs_are_of_every_scope(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let [merchant, mode] = samples.foreign();
    let mut expected = Vec::new();
    for samples in [samples.clone(), samples.of(merchant), samples.of(mode)] {
        expected.push(created(&*storage, &samples).await.job());
        delayed(&*storage, &samples, Some(secs(60))).await;
        delayed(&*storage, &samples, None).await;
    }
    let mut found = storage.due_jobs(Lane::Operations, 100).await.expect(READS);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// "Jobs of a lane": operations are not deliveries.
pub async fn due_jobs_are_of_one_lane(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    let (creation, row) = delivering(&*storage, &samples).await;
    let delivery = Job::Delivery { scope: samples.scope().clone(), delivery: row.id };
    assert_eq!(storage.due_jobs(Lane::Operations, 9).await.expect(READS), [creation.job()]);
    assert_eq!(storage.due_jobs(Lane::Deliveries, 9).await.expect(READS), [delivery]);
}

/// "Those that come after one of an earlier page … Over all pages, a job is listed once that is due all the while": also those that became due
/// together, and whatever becomes of the job that the next page comes after.
pub async fn pages_of_due_jobs_list_each_once(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(27));
    let mut expected = Vec::new();
    for delay in [10, 10, 10, 20, 20, 30, 30, 30, 30] {
        expected.push(delayed(&*storage, &samples, Some(secs(delay))).await);
    }
    fixture.advance(secs(25)).await;
    let page = async |after: Option<&DueJob>, limit| {
        storage.due_page(Lane::Operations, after, limit).await.expect(READS)
    };
    let all = page(None, 100).await;
    assert_eq!(all.len(), 5);
    for due in &all {
        assert!(due.due_for >= secs(5) && due.due_for < secs(60), "{due:?}");
    }
    for limit in 1..6 {
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let next = page(after.as_ref(), limit).await;
            let Some(last) = next.last() else { break };
            after = Some(last.clone());
            pages.extend(next.into_iter().map(|due| due.job));
            assert!(pages.len() <= 5, "pages of {limit} go on and on: {pages:?}");
        }
        let jobs: Vec<Job> = all.iter().map(|due| due.job.clone()).collect();
        assert_eq!(pages, jobs, "pages of {limit}");
    }
    // The one that the next page comes after is done meanwhile, and others become due.
    let done = expected.iter().find(|made| made.job() == all[1].job).expect("it was made");
    let operation = Box::new(done.charge.clone());
    let write = Write::Operation { operation, due_in: None };
    apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
    fixture.advance(secs(25)).await;
    let rest = page(Some(&all[1]), 100).await;
    assert_eq!(rest.len(), 7, "{rest:?}");
    assert_eq!(rest[0].job, all[2].job);
    assert!(page(rest.last(), 100).await.is_empty());
}

/// "Longest due first, at most `limit`."
pub async fn due_jobs_are_longest_due_first_and_limited(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    let mut by_delay = Vec::new();
    for delay in [40, 10, 50, 20, 30] {
        by_delay.push((delay, delayed(&*storage, &samples, Some(secs(delay))).await.job()));
    }
    by_delay.sort();
    let expected: Vec<Job> = by_delay.into_iter().map(|(_, job)| job).collect();
    assert_eq!(storage.due_jobs(Lane::Operations, 9).await.expect(READS), [], "nothing is due yet");
    fixture.advance(secs(45)).await;
    assert_eq!(storage.due_jobs(Lane::Operations, 9).await.expect(READS), expected[..4]);
    for limit in 0..4 {
        let found = storage.due_jobs(Lane::Operations, limit).await.expect(READS);
        assert_eq!(found, expected[..limit], "limit {limit}");
    }
    fixture.advance(secs(45)).await;
    assert_eq!(storage.due_jobs(Lane::Operations, 9).await.expect(READS), expected);
}

/// A due job stays due until its row is written: reading it claims nothing.
pub async fn reading_due_work_claims_nothing(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    let job = created(&*storage, &samples).await.job();
    for _ in 0..3 {
        is_due(&*storage, &job, true).await;
    }
}

/// "A delivery with its endpoint": due even when the endpoint was disabled since; what to do is not storage's to decide.
pub async fn a_delivery_stays_due_when_its_endpoint_is_disabled(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let (_, row) = delivering(&*storage, &samples).await;
    let endpoint = delivery(&*storage, &samples, row.id).await.endpoint;
    let status = crate::webhook::EndpointStatus::Deleted;
    registered(&*storage, Endpoint { status, version: 2, ..endpoint }).await;
    let job = Job::Delivery { scope: samples.scope().clone(), delivery: row.id };
    is_due(&*storage, &job, true).await;
}

/// "Payments whose time ran out before `now`": not those that have time left.
pub async fn a_payment_expires_when_its_time_ran_out(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(16));
    let payment = created(&*storage, &samples).await.payment;
    let expected = vec![(samples.scope().clone(), payment.id)];
    let at = payment.expires_at;
    for (now, expected) in [
        (payment.created_at, vec![]),
        (at.minus(Duration::from_micros(1)), vec![]),
        (at.plus(Duration::from_micros(1)), expected.clone()),
        (at.plus(secs(86_400)), expected),
    ] {
        assert_eq!(storage.expired_payments(now, 10).await.expect(READS), expected, "at {now}");
    }
}

/// "While they wait or are held (`Pending`, `RequiresAction`, `Authorized`)": in no other status.
pub async fn only_waiting_or_held_payments_expire(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(17));
    let mut expected = Vec::new();
    for status in PaymentStatus::ALL {
        let payment = in_status(&*storage, &samples, status).await;
        if matches!(
            status,
            PaymentStatus::Pending | PaymentStatus::RequiresAction | PaymentStatus::Authorized
        ) {
            expected.push(payment.id);
        }
    }
    expected.sort_unstable();
    assert_eq!(expired(&*storage, &samples).await, expected);
}

/// "And that have no cancel under way": a settled cancel is not under way.
pub async fn a_payment_with_a_cancel_under_way_does_not_expire(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(18));
    let mut expected = Vec::new();
    for state in OperationState::ALL {
        let creation = created(&*storage, &samples).await;
        let mut cancel = samples.operation(&creation.payment, OperationKind::Cancel);
        cancel.state = state;
        let write = Write::Operation { operation: Box::new(cancel), due_in: None };
        apply(&*storage, replacing(&samples.touched(&creation.payment)).write(write)).await;
        if state.is_settled() {
            expected.push(creation.payment.id);
        }
    }
    expected.sort_unstable();
    assert_eq!(expired(&*storage, &samples).await, expected);
}

/// "At most `limit`", of every merchant and mode.
pub async fn expired_payments_are_limited_and_of_every_scope(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(19));
    let [merchant, mode] = samples.foreign();
    let mut all = Vec::new();
    for samples in [samples.clone(), samples.of(merchant), samples.of(mode)] {
        all.push((samples.scope().clone(), created(&*storage, &samples).await.payment.id));
    }
    all.sort();
    let late = samples.now().plus(secs(86_400));
    let mut found = storage.expired_payments(late, 10).await.expect(READS);
    found.sort();
    assert_eq!(found, all);
    for limit in 0..3 {
        let some = storage.expired_payments(late, limit).await.expect(READS);
        assert_eq!(some.len(), limit);
        assert!(some.iter().all(|one| all.contains(one)), "{some:?}");
    }
}

/// Creates a payment whose charge is due after this long.
async fn delayed(storage: &dyn Storage, samples: &Samples, due_in: Option<Duration>) -> Creation {
    let creation = Creation { due_in, ..samples.creation() };
    apply(storage, creation.changes()).await;
    creation
}

/// Replaces a delivery so that it is due after this long.
async fn postponed(
    storage: &dyn Storage,
    samples: &Samples,
    row: &Delivery,
    due_in: Option<Duration>,
) -> Job {
    let next = Delivery { version: row.version + 1, updated_at: samples.now(), ..row.clone() };
    let write = Write::Delivery { delivery: Box::new(next), due_in };
    apply(storage, Changes::new(samples.scope().clone()).write(write)).await;
    Job::Delivery { scope: samples.scope().clone(), delivery: row.id }
}

/// Asserts that both reads of due work agree about a job.
async fn is_due(storage: &dyn Storage, job: &Job, expected: bool) {
    let due = storage.due(job).await.expect(READS).is_some();
    assert_eq!(due, expected, "`due` of {job:?}");
    let listed = storage.due_jobs(job.lane(), 1_000).await.expect(READS);
    assert_eq!(listed.contains(job), expected, "`due_jobs` with {job:?}");
}

/// Creates a payment in a status, with totals that fit.
async fn in_status(storage: &dyn Storage, samples: &Samples, status: PaymentStatus) -> Payment {
    let mut creation = samples.creation();
    let all = creation.payment.amount.minor();
    let (authorized, captured, refunded) = match status {
        PaymentStatus::Authorized => (all, 0, 0),
        PaymentStatus::PartiallyCaptured => (all, all / 2, 0),
        PaymentStatus::Succeeded => (all, all, 0),
        PaymentStatus::PartiallyRefunded => (all, all, all / 2),
        PaymentStatus::Refunded => (all, all, all),
        _ => (0, 0, 0),
    };
    creation.payment.status = status;
    creation.payment.authorized_minor = authorized;
    creation.payment.captured_minor = captured;
    creation.payment.refunded_minor = refunded;
    creation.payment.next_action = (status == PaymentStatus::RequiresAction).then(redirect);
    apply(storage, creation.changes()).await;
    creation.payment
}

/// The samples' payments that have expired a day from now, sorted.
async fn expired(storage: &dyn Storage, samples: &Samples) -> Vec<PaymentId> {
    let late = samples.now().plus(secs(86_400));
    let found = storage.expired_payments(late, 1_000).await.expect(READS);
    let mut ids: Vec<PaymentId> = found.into_iter().map(|(_, id)| id).collect();
    ids.sort_unstable();
    ids
}

//! Claims: who may hold a job, for how long, and how a claim ends.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fixture::{JobSource, QueueFixture};
use super::queue_support::{
    LEASE, WORKS, claim, claim_one, enqueue, extend, jobs, settle, settle_all,
};
use super::support::{apply, at_once, dropped_after, secs};
use crate::changes::{Changes, Write};
use crate::payment::Fence;
use crate::queue::{Claim, Job, Lane, Settlement, Verdict};
use crate::testing::sample::Samples;

/// "Does not wait when there is nothing": an empty queue gives an empty answer.
pub async fn an_empty_queue_gives_nothing(fixture: &dyn QueueFixture) {
    let queue = fixture.queue().await;
    for lane in Lane::ALL {
        assert_eq!(claim(&*queue, lane, 10).await, []);
    }
}

/// "Claims up to `max` due jobs of a lane": the very job, of either lane.
pub async fn a_due_job_is_claimed(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(1));
    for lane in Lane::ALL {
        let expected = enqueue(fixture, &samples, lane, &[Duration::ZERO]).await;
        let claims = claim(&*queue, lane, 10).await;
        assert_eq!(jobs(&claims), expected);
        assert_eq!(claims[0].claims, 1, "it is the first claim of this job");
    }
}

/// "A pushed job is claimed once its delay is over", and not before.
pub async fn a_job_is_claimed_once_its_delay_is_over(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(2));
    for lane in Lane::ALL {
        let expected = enqueue(fixture, &samples, lane, &[secs(60)]).await;
        assert_eq!(claim(&*queue, lane, 1).await, []);
        fixture.advance(secs(50)).await;
        assert_eq!(claim(&*queue, lane, 1).await, [], "its delay is not over");
        fixture.advance(secs(10)).await;
        assert_eq!(jobs(&claim(&*queue, lane, 1).await), expected);
    }
}

/// "A claim never returns more than it was asked for", not even when asked for nothing.
pub async fn a_claim_never_returns_more_than_asked_for(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(3));
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO; 7]).await;
    for (max, expected) in [(0, 0), (1, 1), (4, 4), (9, 2), (9, 0)] {
        assert_eq!(claim(&*queue, Lane::Operations, max).await.len(), expected, "asked for {max}");
    }
}

/// "Nor jobs of another lane."
pub async fn a_claim_never_returns_jobs_of_another_lane(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(4));
    let operations = enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    assert_eq!(claim(&*queue, Lane::Deliveries, 9).await, []);
    let deliveries = enqueue(fixture, &samples, Lane::Deliveries, &[Duration::ZERO]).await;
    assert_eq!(jobs(&claim(&*queue, Lane::Operations, 9).await), operations);
    assert_eq!(jobs(&claim(&*queue, Lane::Deliveries, 9).await), deliveries);
}

/// "Jobs are claimed in the order they are due", not in the order they came.
pub async fn jobs_are_claimed_in_the_order_they_are_due(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(5));
    for lane in Lane::ALL {
        let delays = [secs(30), secs(10), secs(40), secs(20)];
        let made = enqueue(fixture, &samples, lane, &delays).await;
        fixture.advance(secs(60)).await;
        let order: Vec<Job> = [1, 3, 0, 2].map(|n: usize| made[n].clone()).to_vec();
        assert_eq!(jobs(&claim(&*queue, lane, 3).await), order[..3]);
        assert_eq!(jobs(&claim(&*queue, lane, 3).await), order[3..]);
    }
}

/// "By one claimer at a time": what one holds no other gets, through any handle.
pub async fn a_claimed_job_is_not_given_to_another(fixture: &dyn QueueFixture) {
    let (first, second) = (fixture.queue().await, fixture.queue().await);
    let samples = Samples::new(6);
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    claim_one(&*first, Lane::Operations).await;
    assert_eq!(claim(&*first, Lane::Operations, 9).await, []);
    assert_eq!(claim(&*second, Lane::Operations, 9).await, []);
}

/// "It must not give it to two claimers whose leases both hold": any number of them at once share the jobs.
pub async fn concurrent_claimers_share_the_jobs(fixture: &dyn QueueFixture) {
    let samples = Samples::new(7);
    let mut expected = enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO; 40]).await;
    let mut claimers = Vec::new();
    for _ in 0..16 {
        claimers.push(fixture.queue().await);
    }
    let claims = at_once(
        claimers.into_iter().map(|queue| async move { claim(&*queue, Lane::Operations, 3).await }),
    )
    .await;
    let mut given = jobs(&claims.concat());
    loop {
        let queue = fixture.queue().await;
        let rest = claim(&*queue, Lane::Operations, 9).await;
        if rest.is_empty() {
            break;
        }
        given.extend(jobs(&rest));
    }
    given.sort();
    expected.sort();
    assert_eq!(given, expected, "each job is given once");
}

/// "Under a `Fence` no other claim has": of other jobs, and of the same job later.
pub async fn every_claim_has_a_fence_of_its_own(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(8));
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO; 10]).await;
    let (mut fences, mut count) = (BTreeSet::new(), 0);
    for _ in 0..5 {
        let claims = claim(&*queue, Lane::Operations, 10).await;
        assert_eq!(claims.len(), 10, "every lease ran out");
        count += claims.len();
        fences.extend(claims.iter().map(|claim| claim.fence.0));
        fixture.advance(LEASE * 2).await;
    }
    assert_eq!(fences.len(), count, "a fence was given twice");
}

/// "When the lease runs out the job may be claimed again", and not before; the count of claims tells.
pub async fn a_job_is_claimed_again_when_its_lease_ran_out(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(9));
    for lane in Lane::ALL {
        enqueue(fixture, &samples, lane, &[Duration::ZERO]).await;
        let first = claim_one(&*queue, lane).await;
        fixture.advance(LEASE - secs(10)).await;
        assert_eq!(claim(&*queue, lane, 9).await, [], "the lease still holds");
        fixture.advance(secs(20)).await;
        let second = claim_one(&*queue, lane).await;
        assert_eq!((second.job.clone(), second.claims), (first.job.clone(), 2));
        assert_ne!(second.fence, first.fence);
        fixture.advance(LEASE * 2).await;
        assert_eq!(claim_one(&*queue, lane).await.claims, 3);
    }
}

/// "Holds claims for `lease` from now": an extended claim outlives its first lease.
pub async fn an_extended_claim_is_held_longer(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(10));
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    let held = claim_one(&*queue, Lane::Operations).await;
    for _ in 0..4 {
        fixture.advance(LEASE - secs(10)).await;
        assert!(extend(&*queue, &held).await, "it is still held");
        assert_eq!(claim(&*queue, Lane::Operations, 9).await, []);
    }
    fixture.advance(LEASE + secs(10)).await;
    assert_eq!(claim_one(&*queue, Lane::Operations).await.claims, 2);
}

/// "For `lease` from now": a shorter lease than the one that holds ends earlier.
pub async fn an_extension_counts_from_now(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(11));
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    let held = queue.claim(Lane::Operations, 1, LEASE * 10).await.expect(WORKS);
    assert_eq!(queue.extend(&held, secs(20)).await.expect(WORKS), [true]);
    fixture.advance(secs(40)).await;
    assert_eq!(claim(&*queue, Lane::Operations, 9).await.len(), 1, "the latest lease counts");
}

/// "The holder of a lease that ran out and was claimed anew can neither extend nor settle; each says so with `false` and changes nothing."
pub async fn a_stale_holder_can_neither_extend_nor_settle(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(12));
    for lane in Lane::ALL {
        enqueue(fixture, &samples, lane, &[Duration::ZERO]).await;
        let stale = claim_one(&*queue, lane).await;
        fixture.advance(LEASE * 2).await;
        let held = claim_one(&*queue, lane).await;
        assert!(!extend(&*queue, &stale).await, "a stale claim was extended");
        let verdicts = [
            Verdict::Done,
            Verdict::Release { due_in: Duration::ZERO },
            Verdict::Bury { reason: "poison".into() },
        ];
        for verdict in verdicts {
            assert!(!settle(&*queue, &stale, verdict).await, "a stale claim was settled");
            assert_eq!(claim(&*queue, lane, 9).await, [], "it changed who holds the job");
        }
        assert!(extend(&*queue, &held).await, "the new holder lost its claim");
        assert!(settle(&*queue, &held, Verdict::Done).await);
    }
}

/// "A lease that ran out and was not claimed anew can still be extended and settled by its holder."
pub async fn a_lease_that_nobody_claimed_anew_is_still_its_holders(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(22));
    for lane in Lane::ALL {
        enqueue(fixture, &samples, lane, &[Duration::ZERO]).await;
        let held = claim_one(&*queue, lane).await;
        fixture.advance(LEASE * 2).await;
        assert!(extend(&*queue, &held).await, "nobody else has it");
        assert_eq!(claim(&*queue, lane, 9).await, [], "the extended lease does not hold");
        fixture.advance(LEASE * 2).await;
        assert!(settle(&*queue, &held, Verdict::Done).await, "nobody else has it");
        assert_eq!(claim(&*queue, lane, 9).await, [], "it was done");
    }
}

/// "Both check the fence": of a claim nobody was given.
pub async fn an_invented_fence_holds_nothing(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(13));
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    let held = claim_one(&*queue, Lane::Operations).await;
    let invented = Claim { fence: Fence(held.fence.0 ^ 1), ..held.clone() };
    assert!(!extend(&*queue, &invented).await);
    assert!(!settle(&*queue, &invented, Verdict::Done).await);
    let unknown = Claim { job: samples.job(Lane::Operations), ..held.clone() };
    assert!(!extend(&*queue, &unknown).await);
    assert!(!settle(&*queue, &unknown, Verdict::Done).await);
    assert!(extend(&*queue, &held).await);
}

/// "Says of each whether it was still held": in the order asked.
pub async fn extend_and_settle_answer_for_each_claim(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(14));
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO; 4]).await;
    let claims = claim(&*queue, Lane::Operations, 4).await;
    for gone in [1, 2] {
        assert!(settle(&*queue, &claims[gone], Verdict::Done).await);
    }
    let held = queue.extend(&claims, LEASE).await.expect(WORKS);
    assert_eq!(held, [true, false, false, true]);
    let mut turned = claims.clone();
    turned.swap(0, 1);
    assert_eq!(settle_all(&*queue, &turned, &Verdict::Done).await, [false, true, false, true]);
    assert_eq!(queue.extend(&[], LEASE).await.expect(WORKS), Vec::<bool>::new());
    assert_eq!(queue.settle(&[]).await.expect(WORKS), Vec::<bool>::new());
}

/// "Done: forget it": for ever.
pub async fn a_done_job_is_forgotten(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(15));
    for lane in Lane::ALL {
        enqueue(fixture, &samples, lane, &[Duration::ZERO]).await;
        let held = claim_one(&*queue, lane).await;
        assert!(settle(&*queue, &held, Verdict::Done).await);
        fixture.advance(secs(86_400)).await;
        assert_eq!(claim(&*queue, lane, 9).await, []);
    }
}

/// "Ends claims": once. Afterwards it can neither be extended nor settled again.
pub async fn a_claim_is_settled_once(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(16));
    let verdicts = [
        Verdict::Done,
        Verdict::Release { due_in: secs(60) },
        Verdict::Bury { reason: "poison".into() },
    ];
    for verdict in verdicts {
        enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
        let held = claim_one(&*queue, Lane::Operations).await;
        assert!(settle(&*queue, &held, verdict.clone()).await);
        assert!(!settle(&*queue, &held, verdict.clone()).await, "settled twice: {verdict:?}");
        assert!(!extend(&*queue, &held).await, "extended after {verdict:?}");
        // Twice in one call: that it is a claim no more is said of either.
        enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
        let held = claim_one(&*queue, Lane::Operations).await;
        let one = Settlement { claim: held, verdict: verdict.clone() };
        let both = queue.settle(&[one.clone(), one]).await.expect(WORKS);
        let settled = both.iter().filter(|is_held| **is_held).count();
        assert_eq!(settled, 1, "settled twice in one call: {verdict:?}");
    }
}

/// "Not done: due again after this long", and claimed no more often than that.
pub async fn a_released_job_is_due_again_after_its_delay(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(17));
    for lane in Lane::ALL {
        enqueue(fixture, &samples, lane, &[Duration::ZERO]).await;
        let held = claim_one(&*queue, lane).await;
        assert!(settle(&*queue, &held, Verdict::Release { due_in: secs(60) }).await);
        assert_eq!(claim(&*queue, lane, 9).await, []);
        fixture.advance(secs(50)).await;
        assert_eq!(claim(&*queue, lane, 9).await, []);
        fixture.advance(secs(10)).await;
        let again = claim_one(&*queue, lane).await;
        assert_eq!(
            (again.job.clone(), again.claims),
            (held.job.clone(), 2),
            "it was not pushed again"
        );
        assert!(settle(&*queue, &again, Verdict::Release { due_in: Duration::ZERO }).await);
        assert_eq!(claim_one(&*queue, lane).await.claims, 3);
    }
}

/// "As the commit says that wrote the job's row": forgotten, or due again when the row is.
pub async fn what_a_commit_settled_is_settled(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(41));
    for due_in in [None, Some(secs(60))] {
        let job = match fixture.source().await {
            JobSource::Pushed => {
                let pushed = enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
                (claim_one(&*queue, Lane::Operations).await, pushed[0].clone())
            }
            JobSource::Rows(storage) => {
                let creation = super::support::created(&*storage, &samples).await;
                let held = claim_one(&*queue, Lane::Operations).await;
                let operation = Box::new(creation.charge.clone());
                let write = Write::Operation { operation, due_in };
                apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
                (held, creation.job())
            }
        };
        assert_eq!(job.0.job, job.1);
        assert!(settle(&*queue, &job.0, Verdict::Committed { due_in }).await);
        assert_eq!(claim(&*queue, Lane::Operations, 1).await, []);
        fixture.advance(secs(60)).await;
        let again = claim(&*queue, Lane::Operations, 2).await;
        assert_eq!(again.len(), usize::from(due_in.is_some()), "due in {due_in:?}");
    }
}

/// "Not its turn: due again after this long, and the claim does not count": however often it is.
pub async fn a_postponed_job_is_due_again_and_its_claim_does_not_count(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(40));
    for lane in Lane::ALL {
        let expected = enqueue(fixture, &samples, lane, &[Duration::ZERO]).await;
        for _ in 0..3 {
            let held = claim_one(&*queue, lane).await;
            assert_eq!(held.claims, 1, "those before do not count");
            let verdict = Verdict::Postpone { due_in: secs(60) };
            assert!(settle(&*queue, &held, verdict).await);
            assert_eq!(claim(&*queue, lane, 1).await, [], "it was postponed");
            fixture.advance(secs(60)).await;
        }
        assert_eq!(jobs(&claim(&*queue, lane, 1).await), expected);
    }
}

/// "Set aside with the reason, never claimed again."
pub async fn a_buried_job_is_never_claimed_again(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(18));
    for lane in Lane::ALL {
        enqueue(fixture, &samples, lane, &[Duration::ZERO]).await;
        let held = claim_one(&*queue, lane).await;
        let reason = "it's \"poison\" \\ 🦀";
        assert!(settle(&*queue, &held, Verdict::Bury { reason: reason.into() }).await);
        fixture.advance(secs(86_400)).await;
        assert_eq!(claim(&*queue, lane, 9).await, []);
    }
}

/// "A claim nobody heard of ends with its lease": a dropped claim loses no job. It may still be under way when it was dropped, so the
/// jobs may come back one lease after the other.
pub async fn a_dropped_claim_ends_with_its_lease(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(19));
    let expected = enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO; 3]).await;
    for polls in 0..12 {
        drop(dropped_after(polls, queue.claim(Lane::Operations, 9, LEASE)).await);
        fixture.advance(LEASE * 2).await;
    }
    let expected: BTreeSet<Job> = expected.into_iter().collect();
    let mut given = BTreeSet::new();
    for _ in 0..100 {
        given.extend(jobs(&claim(&*queue, Lane::Operations, 9).await));
        if given.len() >= expected.len() {
            break;
        }
        fixture.advance(LEASE * 2).await;
    }
    assert_eq!(given, expected);
}

/// "A dropped future happened or did not": a dropped settlement can be asked for again.
pub async fn a_dropped_settlement_happened_or_did_not(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(20));
    for polls in 0..12 {
        enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
        let held = claim_one(&*queue, Lane::Operations).await;
        let _ = dropped_after(polls, settle(&*queue, &held, Verdict::Done)).await;
        settle(&*queue, &held, Verdict::Done).await;
        assert!(!extend(&*queue, &held).await, "the claim has ended");
        fixture.advance(LEASE * 2).await;
        assert_eq!(claim(&*queue, Lane::Operations, 9).await, [], "the job is done");
    }
}

/// Rows only. "A claim on the row ends" when the row is written: its holder can neither extend nor settle.
pub async fn a_write_of_the_row_ends_the_claim(fixture: &dyn QueueFixture) {
    let JobSource::Rows(storage) = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(21));
    let creation = super::support::created(&*storage, &samples).await;
    for due_in in [Some(Duration::ZERO), Some(secs(60)), None] {
        let held = claim_one(&*queue, Lane::Operations).await;
        assert_eq!(held.job, creation.job());
        let write = |due_in| {
            let operation = Box::new(creation.charge.clone());
            Changes::new(samples.scope().clone()).write(Write::Operation { operation, due_in })
        };
        apply(&*storage, write(due_in)).await;
        assert!(!extend(&*queue, &held).await, "the claim outlived the write of its row");
        assert!(!settle(&*queue, &held, Verdict::Done).await, "it was settled after the write");
        let due = claim(&*queue, Lane::Operations, 9).await;
        assert_eq!(due.is_empty(), due_in != Some(Duration::ZERO), "due in {due_in:?}");
        apply(&*storage, write(Some(Duration::ZERO))).await;
    }
}

//! Pushes and depth: what happens to a job that is pushed again, and what the queue says of itself.

use std::time::Duration;

use super::fixture::{JobSource, QueueFixture, SMALL};
use super::queue_support::{
    LEASE, WORKS, claim, claim_one, enqueue, extend, job_without_due_row, jobs, settle,
};
use super::support::{at_once, dropped_after, secs};
use crate::queue::{Depth, Job, Lane, Queue, QueueError, Verdict};
use crate::scope::{MerchantId, Mode};
use crate::testing::sample::{Samples, scope};

/// "A backend whose queue is the due rows themselves ignores pushes"; every other one takes them.
pub async fn a_push_counts_unless_the_rows_are_the_queue(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(1));
    let job = job_without_due_row(fixture, &samples).await;
    push(&*queue, &job, Duration::ZERO).await;
    let claimed = jobs(&claim(&*queue, Lane::Operations, 9).await);
    match fixture.source().await {
        JobSource::Pushed => assert_eq!(claimed, [job]),
        JobSource::Rows(_) => assert_eq!(claimed, [], "the row is not due, whatever was pushed"),
    }
}

/// "Pushing a job that is already there makes one of the two", pushed together or one after the other.
pub async fn a_job_pushed_twice_is_one_job(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(2));
    let expected = enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    for _ in 0..3 {
        push(&*queue, &expected[0], Duration::ZERO).await;
    }
    let both = [(expected[0].clone(), Duration::ZERO), (expected[0].clone(), secs(5))];
    queue.push(&both).await.expect(WORKS);
    assert_eq!(jobs(&claim(&*queue, Lane::Operations, 9).await), expected);
    fixture.advance(secs(10)).await;
    assert_eq!(claim(&*queue, Lane::Operations, 9).await, [], "the other one came up");
    // New to the queue, and named more than once in one call.
    let JobSource::Pushed = fixture.source().await else { return };
    for lane in Lane::ALL {
        let new = samples.job(lane);
        let delays = [secs(5), Duration::ZERO, Duration::ZERO, secs(3)];
        queue.push(&delays.map(|delay| (new.clone(), delay))).await.expect(WORKS);
        assert_eq!(queue.depth(lane).await.expect(WORKS).ready, 1);
        assert_eq!(jobs(&claim(&*queue, lane, 9).await), [new]);
        fixture.advance(secs(10)).await;
        assert_eq!(claim(&*queue, lane, 9).await, [], "the other one came up");
    }
}

/// "Says how many were": waiting, claimed and buried ones were not, and those that were are there again, due now.
pub async fn what_was_lost_is_restored(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(42));
    if let JobSource::Rows(_) = fixture.source().await {
        let due = [(job_without_due_row(fixture, &samples).await, secs(60))];
        assert_eq!(queue.restore(&due).await.expect(WORKS), None, "nothing can be lost");
        assert_eq!(claim(&*queue, Lane::Operations, 9).await, []);
        return;
    }
    let jobs: Vec<Job> = (0..3).map(|_| samples.job(Lane::Operations)).collect();
    push(&*queue, &jobs[0], Duration::ZERO).await;
    let held = claim_one(&*queue, Lane::Operations).await;
    push(&*queue, &jobs[1], secs(50)).await;
    // Their rows had been due before they were put there.
    let due: Vec<_> = jobs.iter().map(|job| (job.clone(), secs(60))).collect();
    let twice = [&due[..], &due[2..]].concat();
    assert_eq!(queue.restore(&twice).await.expect(WORKS), Some(1));
    assert_eq!(queue.restore(&due).await.expect(WORKS), Some(0), "all of them are there");
    let restored = claim(&*queue, Lane::Operations, 9).await;
    assert_eq!(super::queue_support::jobs(&restored), jobs[2..]);
    for held in restored.into_iter().chain([held]) {
        assert!(settle(&*queue, &held, Verdict::Bury { reason: "poison".into() }).await);
    }
    assert_eq!(queue.restore(&due[..1]).await.expect(WORKS), Some(0), "a buried one is there");
    assert_eq!(claim(&*queue, Lane::Operations, 9).await, [], "a buried one stays buried");
}

/// "One that is there stays as it is": a release is not cut short, and a claim is not followed by another, because the row is due all the while.
pub async fn what_is_there_stays_as_it_is(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(43));
    for lane in Lane::ALL {
        let job = samples.job(lane);
        push(&*queue, &job, Duration::ZERO).await;
        fixture.advance(secs(10)).await;
        let held = claim_one(&*queue, lane).await;
        fixture.advance(secs(10)).await;
        assert_eq!(queue.restore(&[(job.clone(), secs(20))]).await.expect(WORKS), Some(0));
        assert!(settle(&*queue, &held, Verdict::Release { due_in: secs(30) }).await);
        fixture.advance(secs(10)).await;
        assert_eq!(queue.restore(&[(job.clone(), secs(30))]).await.expect(WORKS), Some(0));
        assert_eq!(claim(&*queue, lane, 9).await, [], "it was released for longer");
        fixture.advance(secs(20)).await;
        let again = claim_one(&*queue, lane).await;
        assert_eq!(again.claims, 2);
        assert_eq!(queue.restore(&[(job, secs(50))]).await.expect(WORKS), Some(0));
        assert!(settle(&*queue, &again, Verdict::Done).await);
        assert_eq!(claim(&*queue, lane, 9).await, [], "it was done");
    }
}

/// "Unless its row became due after it was put where it is": woken by a commit of which the queue did not hear.
pub async fn what_became_due_since_is_due(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(44));
    for lane in Lane::ALL {
        let job = samples.job(lane);
        push(&*queue, &job, secs(86_400)).await;
        fixture.advance(secs(100)).await;
        assert_eq!(queue.restore(&[(job.clone(), secs(10))]).await.expect(WORKS), Some(0));
        let held = claim_one(&*queue, lane).await;
        assert_eq!(held.job, job);
        fixture.advance(secs(50)).await;
        assert_eq!(queue.restore(&[(job.clone(), secs(10))]).await.expect(WORKS), Some(0));
        assert_eq!(claim(&*queue, lane, 9).await, [], "two would hold it");
        assert!(settle(&*queue, &held, Verdict::Done).await);
        let again = claim_one(&*queue, lane).await;
        assert!(settle(&*queue, &again, Verdict::Done).await);
        assert_eq!(claim(&*queue, lane, 9).await, []);
    }
}

/// "Of two waiting ones the earlier due time stays": whichever was pushed first.
pub async fn the_earlier_due_time_stays(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(3));
    for delays in [[secs(60), secs(20)], [secs(20), secs(60)]] {
        let job = samples.job(Lane::Operations);
        for delay in delays {
            push(&*queue, &job, delay).await;
        }
        assert_eq!(claim(&*queue, Lane::Operations, 9).await, []);
        fixture.advance(secs(30)).await;
        assert_eq!(jobs(&claim(&*queue, Lane::Operations, 9).await), [job]);
        fixture.advance(secs(10)).await;
    }
}

/// "One pushed while it is claimed waits until the claim is settled. … A job pushed again meanwhile stays."
pub async fn a_job_pushed_while_claimed_waits_for_the_settlement(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(4));
    let expected = enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    let held = claim_one(&*queue, Lane::Operations).await;
    push(&*queue, &held.job, Duration::ZERO).await;
    assert_eq!(claim(&*queue, Lane::Operations, 9).await, [], "two would hold it");
    assert!(extend(&*queue, &held).await, "the push took the claim away");
    assert!(settle(&*queue, &held, Verdict::Done).await);
    assert_eq!(jobs(&claim(&*queue, Lane::Operations, 9).await), expected);
}

/// "One pushed while it is claimed" keeps its delay, counted from the push.
pub async fn a_job_pushed_while_claimed_keeps_its_delay(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(5));
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    let held = claim_one(&*queue, Lane::Operations).await;
    push(&*queue, &held.job, secs(50)).await;
    fixture.advance(secs(20)).await;
    assert!(settle(&*queue, &held, Verdict::Done).await);
    assert_eq!(claim(&*queue, Lane::Operations, 9).await, []);
    fixture.advance(secs(30)).await;
    assert_eq!(jobs(&claim(&*queue, Lane::Operations, 9).await), [held.job]);
}

/// "Of two waiting ones the earlier due time stays": of a release and a push during the claim, too.
pub async fn a_push_during_a_claim_and_a_release_make_one_job(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(6));
    for (pushed, released) in [(secs(20), secs(60)), (secs(60), secs(20))] {
        enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
        let held = claim_one(&*queue, Lane::Operations).await;
        push(&*queue, &held.job, pushed).await;
        assert!(settle(&*queue, &held, Verdict::Release { due_in: released }).await);
        assert_eq!(claim(&*queue, Lane::Operations, 9).await, []);
        fixture.advance(secs(30)).await;
        let again = claim_one(&*queue, Lane::Operations).await;
        assert!(settle(&*queue, &again, Verdict::Done).await);
        fixture.advance(secs(60)).await;
        assert_eq!(claim(&*queue, Lane::Operations, 9).await, [], "there is a second one");
    }
}

/// A job pushed while it was claimed, whose lease then ran out, is one job that is claimed again.
pub async fn a_job_pushed_while_claimed_survives_a_lost_holder(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(7));
    enqueue(fixture, &samples, Lane::Operations, &[Duration::ZERO]).await;
    let lost = claim_one(&*queue, Lane::Operations).await;
    push(&*queue, &lost.job, Duration::ZERO).await;
    fixture.advance(LEASE * 2).await;
    let held = claim_one(&*queue, Lane::Operations).await;
    assert_eq!(held.job, lost.job);
    assert_eq!(claim(&*queue, Lane::Operations, 9).await, [], "two would hold it");
    assert!(!settle(&*queue, &lost, Verdict::Done).await);
}

/// "One that was postponed is due now in any case": what it waited for came about without a write of its row.
pub async fn a_postponed_job_that_is_restored_is_due(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(45));
    for lane in Lane::ALL {
        let job = samples.job(lane);
        push(&*queue, &job, Duration::ZERO).await;
        let held = claim_one(&*queue, lane).await;
        assert!(settle(&*queue, &held, Verdict::Postpone { due_in: secs(3_600) }).await);
        fixture.advance(secs(10)).await;
        assert_eq!(claim(&*queue, lane, 9).await, []);
        assert_eq!(queue.restore(&[(job.clone(), secs(60))]).await.expect(WORKS), Some(0));
        let again = claim_one(&*queue, lane).await;
        assert_eq!((&again.job, again.claims), (&job, 1));
        assert!(settle(&*queue, &again, Verdict::Done).await);
    }
}

/// "A buried one waits again, as one that was never claimed": somebody wrote its row.
pub async fn a_buried_job_that_is_pushed_waits_again(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(8));
    for lane in Lane::ALL {
        let job = samples.job(lane);
        push(&*queue, &job, Duration::ZERO).await;
        let held = claim_one(&*queue, lane).await;
        assert!(settle(&*queue, &held, Verdict::Bury { reason: "poison".into() }).await);
        assert_eq!(queue.depth(lane).await.expect(WORKS).dead, 1);
        push(&*queue, &job, secs(20)).await;
        assert_eq!(queue.depth(lane).await.expect(WORKS).dead, 0);
        assert_eq!(claim(&*queue, lane, 9).await, []);
        fixture.advance(secs(30)).await;
        let again = claim_one(&*queue, lane).await;
        assert_eq!((&again.job, again.claims), (&job, 1));
        assert!(settle(&*queue, &again, Verdict::Done).await);
    }
}

/// "Done: forget it": a job that comes back later starts anew.
pub async fn a_job_that_was_done_can_be_pushed_again(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(9));
    let job = samples.job(Lane::Deliveries);
    for _ in 0..3 {
        push(&*queue, &job, Duration::ZERO).await;
        let held = claim_one(&*queue, Lane::Deliveries).await;
        assert_eq!((&held.job, held.claims), (&job, 1), "claims are counted since it was pushed");
        assert!(settle(&*queue, &held, Verdict::Done).await);
    }
}

/// A job comes back as it was pushed: merchant, mode and both ids, however odd the merchant's name.
pub async fn a_claimed_job_is_the_job_that_was_pushed(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(10));
    let longest = "m".repeat(MerchantId::LEN_MAX);
    for name in ["a", "A", "-._", "..", longest.as_str()] {
        for mode in [Mode::Test, Mode::Live] {
            let there = samples.of(scope(name, mode));
            for lane in Lane::ALL {
                let expected = enqueue(fixture, &there, lane, &[Duration::ZERO]).await;
                let held = claim_one(&*queue, lane).await;
                assert_eq!([held.job.clone()].as_slice(), expected);
                assert!(settle(&*queue, &held, Verdict::Done).await);
            }
        }
    }
}

/// Any number of pushers and claimers at once lose no job and double none.
pub async fn concurrent_pushers_and_claimers_lose_nothing(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let samples = Samples::new(11);
    let all: Vec<Job> = (0..60).map(|_| samples.job(Lane::Operations)).collect();
    let mut work = Vec::new();
    for chunk in all.chunks(5) {
        work.push((fixture.queue().await, chunk.to_vec()));
    }
    let done = at_once(work.into_iter().map(|(queue, chunk)| async move {
        let mut done = Vec::new();
        for job in &chunk {
            push(&*queue, job, Duration::ZERO).await;
            for held in claim(&*queue, Lane::Operations, 2).await {
                assert!(settle(&*queue, &held, Verdict::Done).await, "its lease holds");
                done.push(held.job);
            }
        }
        done
    }))
    .await;
    let mut done = done.concat();
    let queue = fixture.queue().await;
    done.extend(jobs(&claim(&*queue, Lane::Operations, 100).await));
    done.sort();
    let mut expected = all;
    expected.sort();
    assert_eq!(done, expected, "each job was done once");
}

/// "A dropped future happened or did not": a job pushed again after a dropped push is one job.
pub async fn a_dropped_push_happened_or_did_not(fixture: &dyn QueueFixture) {
    let JobSource::Pushed = fixture.source().await else { return };
    let (queue, samples) = (fixture.queue().await, Samples::new(12));
    for polls in 0..12 {
        let job = samples.job(Lane::Operations);
        let pushed = [(job.clone(), Duration::ZERO)];
        drop(dropped_after(polls, queue.push(&pushed)).await);
        queue.push(&pushed).await.expect(WORKS);
        let held = claim_one(&*queue, Lane::Operations).await;
        assert_eq!(held.job, job);
        assert!(settle(&*queue, &held, Verdict::Done).await);
    }
}

/// Nothing to push is nothing pushed.
pub async fn an_empty_push_is_fine(fixture: &dyn QueueFixture) {
    let queue = fixture.queue().await;
    queue.push(&[]).await.expect(WORKS);
    assert_eq!(queue.depth(Lane::Operations).await.expect(WORKS), Depth::default());
}

/// "How full it is": an empty queue is empty in every lane.
pub async fn the_depth_of_an_empty_queue_is_zero(fixture: &dyn QueueFixture) {
    let queue = fixture.queue().await;
    for lane in Lane::ALL {
        assert_eq!(queue.depth(lane).await.expect(WORKS), Depth::default());
    }
}

/// "Due and not claimed", "due later", "claimed", "buried": each job is counted once, in its own lane.
pub async fn the_depth_counts_each_job_once(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(13));
    for lane in Lane::ALL {
        enqueue(fixture, &samples, lane, &[Duration::ZERO; 6]).await;
        enqueue(fixture, &samples, lane, &[secs(60); 2]).await;
        let held = claim(&*queue, lane, 4).await;
        let bury = Verdict::Bury { reason: "poison".into() };
        assert!(settle(&*queue, &held[0], bury).await);
        assert!(settle(&*queue, &held[1], Verdict::Release { due_in: secs(60) }).await);
        let depth = queue.depth(lane).await.expect(WORKS);
        let counts = (depth.ready, depth.delayed, depth.in_flight, depth.dead);
        assert_eq!(counts, (2, 3, 2, 1), "ready, delayed, in flight, dead");
    }
}

/// "Due later" becomes "due" when the delay is over.
pub async fn the_depth_follows_the_clock(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(14));
    enqueue(fixture, &samples, Lane::Operations, &[secs(60), secs(180)]).await;
    let depth = queue.depth(Lane::Operations).await.expect(WORKS);
    assert_eq!((depth.ready, depth.delayed, depth.oldest), (0, 2, Duration::ZERO));
    fixture.advance(secs(90)).await;
    let depth = queue.depth(Lane::Operations).await.expect(WORKS);
    assert_eq!((depth.ready, depth.delayed), (1, 1));
    assert!(depth.oldest >= secs(30), "{:?}: it has been due for 30 s", depth.oldest);
    claim_one(&*queue, Lane::Operations).await;
    let depth = queue.depth(Lane::Operations).await.expect(WORKS);
    assert_eq!((depth.ready, depth.in_flight, depth.oldest), (0, 1, Duration::ZERO));
}

/// "Holds a bounded number of jobs; a push beyond it is `Full`"; what is there can still be done, which makes room.
pub async fn a_full_queue_says_so_and_goes_on(fixture: &dyn QueueFixture) {
    let Some(queue) = fixture.small_queue().await else { return };
    let samples = Samples::new(15);
    let mut fitting = Vec::new();
    let refused = loop {
        assert!(fitting.len() <= SMALL, "a small queue is full after {SMALL} jobs");
        let job = samples.job(Lane::Operations);
        match queue.push(&[(job.clone(), Duration::ZERO)]).await {
            Ok(()) => fitting.push(job),
            Err(QueueError::Full { max }) => {
                assert_eq!(max, fitting.len(), "it says how many it may hold");
                break job;
            }
            Err(other) => panic!("a full queue must say Full, got {other:?}"),
        }
    };
    assert!(!fitting.is_empty(), "a small queue holds something");
    let claims = claim(&*queue, Lane::Operations, SMALL + 1).await;
    assert_eq!(claims.len(), fitting.len(), "what did not fit is not there");
    assert!(settle(&*queue, &claims[0], Verdict::Done).await);
    push(&*queue, &refused, Duration::ZERO).await;
    assert_eq!(claim_one(&*queue, Lane::Operations).await.job, refused);
}

async fn push(queue: &dyn Queue, job: &Job, delay: Duration) {
    queue.push(&[(job.clone(), delay)]).await.expect(WORKS);
}

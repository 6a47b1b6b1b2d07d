//! Fairness: what an endpoint may have out, what is given out past it, and what makes room again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fixture::QueueFixture;
use super::queue_support::{
    LEASE, WORKS, claim, endpoint, enqueue, enqueue_to, extend, jobs, register, settle, settle_all,
};
use super::support::{at_once, secs};
use crate::queue::{Claim, Job, Lane, PER_ENDPOINT_MAX, Queue, Verdict};
use crate::testing::sample::Samples;
use crate::webhook::Endpoint;

/// "Of one endpoint's deliveries at most `PER_ENDPOINT_MAX` are held at a time": those that have been due for longest, however they are
/// asked for.
pub async fn an_endpoint_has_so_many_deliveries_out_and_no_more(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(1));
    let busy = endpoint(fixture, &samples).await;
    let made = enqueue_to(fixture, &samples, &busy, &in_turn(PER_ENDPOINT_MAX + 4)).await;
    fixture.advance(DUE).await;
    let mut given = claim(&*queue, Lane::Deliveries, 3).await;
    given.extend(claim(&*queue, Lane::Deliveries, ALL).await);
    assert_eq!(jobs(&given), made[..PER_ENDPOINT_MAX]);
    assert_eq!(claim(&*queue, Lane::Deliveries, ALL).await, [], "it has enough out");
}

/// "Of one endpoint's deliveries … An endpoint is one of its scope": others have as many, and so has the same id in another scope.
pub async fn each_endpoint_has_room_of_its_own(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(2));
    let one = endpoint(fixture, &samples).await;
    let other = endpoint(fixture, &samples).await;
    let delays = [Duration::ZERO; PER_ENDPOINT_MAX + 1];
    enqueue_to(fixture, &samples, &one, &delays).await;
    enqueue_to(fixture, &samples, &other, &delays).await;
    for scope in samples.foreign() {
        let there = samples.of(scope.clone());
        let same = register(fixture, Endpoint { scope, ..one.clone() }).await;
        enqueue_to(fixture, &there, &same, &delays).await;
    }
    let given = claim(&*queue, Lane::Deliveries, 1_000).await;
    let mut counts = BTreeMap::new();
    for job in jobs(&given) {
        let Job::Delivery { scope, delivery } = job else { panic!("a job of another lane") };
        *counts.entry((scope, delivery.endpoint())).or_insert(0) += 1;
    }
    let counts: Vec<usize> = counts.into_values().collect();
    assert_eq!(counts, [PER_ENDPOINT_MAX; 4]);
}

/// "Those behind them that belong to other endpoints are given out all the same, in the order they are due": however many are before them.
pub async fn a_busy_endpoint_holds_up_no_other(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(3));
    let busy = endpoint(fixture, &samples).await;
    let made = enqueue_to(fixture, &samples, &busy, &in_turn(PER_ENDPOINT_MAX * 4)).await;
    let (one, other) = (endpoint(fixture, &samples).await, endpoint(fixture, &samples).await);
    let of_one = enqueue_to(fixture, &samples, &one, &[behind(10), behind(30)]).await;
    let of_other = enqueue_to(fixture, &samples, &other, &[behind(20), behind(40)]).await;
    fixture.advance(DUE).await;
    let mut given = Vec::new();
    // Two at a time, so that a queue that looks only at the first few sees nothing but the busy one's.
    for _ in 0..PER_ENDPOINT_MAX / 2 + 2 {
        given.extend(jobs(&claim(&*queue, Lane::Deliveries, 2).await));
    }
    let (of_busy, of_others) = given.split_at(PER_ENDPOINT_MAX);
    assert_eq!(of_busy, &made[..PER_ENDPOINT_MAX]);
    let expected = [&of_one[0], &of_other[0], &of_one[1], &of_other[1]].map(Job::clone);
    assert_eq!(of_others, expected);
    assert_eq!(claim(&*queue, Lane::Deliveries, ALL).await, [], "nothing else has room");
}

/// "Other endpoints": those of other merchants, too.
pub async fn a_busy_endpoint_holds_up_no_other_merchant(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(4));
    let busy = endpoint(fixture, &samples).await;
    enqueue_to(fixture, &samples, &busy, &in_turn(PER_ENDPOINT_MAX * 4)).await;
    let mut expected = Vec::new();
    for scope in samples.foreign() {
        let there = samples.of(scope);
        let quiet = endpoint(fixture, &there).await;
        expected.extend(enqueue_to(fixture, &there, &quiet, &[behind(10)]).await);
    }
    fixture.advance(DUE).await;
    let mut given = Vec::new();
    for _ in 0..PER_ENDPOINT_MAX + expected.len() {
        given.extend(jobs(&claim(&*queue, Lane::Deliveries, 1).await));
    }
    given.retain(|job| expected.contains(job));
    given.sort();
    expected.sort();
    assert_eq!(given, expected);
}

/// "In the order they are due": one claim goes past what has no room, and what it gives is in order.
pub async fn one_claim_goes_past_what_has_no_room(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(5));
    let busy = endpoint(fixture, &samples).await;
    let quiet = endpoint(fixture, &samples).await;
    // First, as the making of the many takes time, by a clock that goes on.
    let delays = [secs(35), behind(10)];
    let of_quiet = enqueue_to(fixture, &samples, &quiet, &delays).await;
    let made = enqueue_to(fixture, &samples, &busy, &in_turn(PER_ENDPOINT_MAX + 4)).await;
    fixture.advance(DUE).await;
    let mut expected = made[..PER_ENDPOINT_MAX].to_vec();
    expected.insert(3, of_quiet[0].clone());
    expected.push(of_quiet[1].clone());
    assert_eq!(jobs(&claim(&*queue, Lane::Deliveries, ALL).await), expected);
}

/// "A claim that was settled … makes room again": whatever the verdict, for the one that has been due for longest.
pub async fn a_settled_claim_makes_room(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(6));
    let busy = endpoint(fixture, &samples).await;
    let made = enqueue_to(fixture, &samples, &busy, &in_turn(PER_ENDPOINT_MAX + 4)).await;
    fixture.advance(DUE).await;
    let held = claim(&*queue, Lane::Deliveries, ALL).await;
    let verdicts = [
        Verdict::Done,
        Verdict::Release { due_in: secs(3_600) },
        Verdict::Bury { reason: "poison".into() },
    ];
    for (n, verdict) in verdicts.into_iter().enumerate() {
        assert!(settle(&*queue, &held[n], verdict.clone()).await);
        let next = jobs(&claim(&*queue, Lane::Deliveries, ALL).await);
        let expected = std::slice::from_ref(&made[PER_ENDPOINT_MAX + n]);
        assert_eq!(next, expected, "after {verdict:?}");
    }
}

/// "A claim … whose lease ran out makes room again": as many are given out anew, and in the end every one.
pub async fn a_claim_whose_lease_ran_out_makes_room(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(7));
    let busy = endpoint(fixture, &samples).await;
    let mut made = enqueue_to(fixture, &samples, &busy, &in_turn(PER_ENDPOINT_MAX + 4)).await;
    fixture.advance(DUE).await;
    assert_eq!(claim(&*queue, Lane::Deliveries, ALL).await.len(), PER_ENDPOINT_MAX);
    fixture.advance(LEASE * 2).await;
    let mut held = claim(&*queue, Lane::Deliveries, ALL).await;
    assert_eq!(held.len(), PER_ENDPOINT_MAX);
    assert_eq!(claim(&*queue, Lane::Deliveries, ALL).await, [], "it has enough out again");
    let mut done = Vec::new();
    while !held.is_empty() {
        let settled = settle_all(&*queue, &held, &Verdict::Done).await;
        assert!(settled.into_iter().all(|held| held), "their leases hold");
        done.extend(jobs(&held));
        held = claim(&*queue, Lane::Deliveries, ALL).await;
    }
    done.sort();
    made.sort();
    assert_eq!(done, made);
}

/// "One that is extended keeps its room."
pub async fn an_extended_claim_keeps_its_room(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(8));
    let busy = endpoint(fixture, &samples).await;
    enqueue_to(fixture, &samples, &busy, &[Duration::ZERO; PER_ENDPOINT_MAX + 4]).await;
    let held = claim(&*queue, Lane::Deliveries, ALL).await;
    fixture.advance(LEASE - secs(10)).await;
    for claim in &held[1..] {
        assert!(extend(&*queue, claim).await, "it is still held");
    }
    fixture.advance(secs(20)).await;
    let given = claim(&*queue, Lane::Deliveries, ALL).await;
    assert_eq!(given.len(), 1, "one lease ran out, the others were extended");
}

/// "And takes it back where its lease had run out, whoever is there by now": no extension is refused for want of room, and it counts.
pub async fn an_extended_claim_takes_its_room_back(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(9));
    let busy = endpoint(fixture, &samples).await;
    enqueue_to(fixture, &samples, &busy, &in_turn(PER_ENDPOINT_MAX * 3)).await;
    fixture.advance(DUE).await;
    let first = claim(&*queue, Lane::Deliveries, ALL).await;
    fixture.advance(LEASE * 2).await;
    let second = claim(&*queue, Lane::Deliveries, ALL).await;
    assert_eq!(second.len(), PER_ENDPOINT_MAX);
    // Those that ran out or those that never were out: both have been due for long.
    let taken = jobs(&second);
    let lost: Vec<bool> = first.iter().map(|claim| !taken.contains(&claim.job)).collect();
    let extended = queue.extend(&first, LEASE).await.expect(WORKS);
    assert_eq!(extended, lost, "what nobody claimed anew is its holder's");
    assert_eq!(claim(&*queue, Lane::Deliveries, ALL).await, [], "it has enough out");
    settle_all(&*queue, &second, &Verdict::Done).await;
    let room = extended.into_iter().filter(|held| !held).count();
    assert_eq!(claim(&*queue, Lane::Deliveries, ALL).await.len(), room);
}

/// "Operations have no such bound."
pub async fn operations_have_no_such_bound(fixture: &dyn QueueFixture) {
    let (queue, samples) = (fixture.queue().await, Samples::new(10));
    let delays = [Duration::ZERO; PER_ENDPOINT_MAX * 2];
    enqueue(fixture, &samples, Lane::Operations, &delays).await;
    assert_eq!(claim(&*queue, Lane::Operations, ALL).await.len(), delays.len());
}

/// "At most `PER_ENDPOINT_MAX` are held at a time": by any number of claimers together.
pub async fn concurrent_claimers_share_the_room_of_an_endpoint(fixture: &dyn QueueFixture) {
    let samples = Samples::new(11);
    let busy = endpoint(fixture, &samples).await;
    enqueue_to(fixture, &samples, &busy, &in_turn(PER_ENDPOINT_MAX * 3)).await;
    fixture.advance(DUE).await;
    let mut claimers = Vec::new();
    for _ in 0..12 {
        claimers.push(fixture.queue().await);
    }
    let claims = at_once(
        claimers.into_iter().map(|queue| async move { claim(&*queue, Lane::Deliveries, 5).await }),
    );
    let mut given = jobs(&claims.await.concat());
    given.extend(jobs(&rest(&*fixture.queue().await).await));
    assert_eq!(given.len(), PER_ENDPOINT_MAX);
    given.sort();
    given.dedup();
    assert_eq!(given.len(), PER_ENDPOINT_MAX, "each is given once");
}

/// What is still given out.
async fn rest(queue: &dyn Queue) -> Vec<Claim> {
    let mut rest = Vec::new();
    loop {
        let claims = claim(queue, Lane::Deliveries, 5).await;
        if claims.is_empty() {
            return rest;
        }
        rest.extend(claims);
    }
}

/// Delays of so many jobs that are due one after the other: far enough apart for a backend whose own clock goes on meanwhile.
fn in_turn(count: usize) -> Vec<Duration> {
    (1..).take(count).map(|n| secs(10) * n).collect()
}

/// A delay beyond those of the jobs that one endpoint has room for.
const fn behind(more: u64) -> Duration {
    secs(10 * (PER_ENDPOINT_MAX as u64 + 36) + more)
}

/// More than these functions make for one endpoint.
const ALL: usize = PER_ENDPOINT_MAX * 4;
/// When all are due that these functions make.
const DUE: Duration = secs(10 * ALL as u64);

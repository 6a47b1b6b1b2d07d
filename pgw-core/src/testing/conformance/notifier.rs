//! Hints: to every subscription, in order, never waiting for a slow one, never lost by a dropped `next`.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::NotifierFixture;
use super::support::{at_once, dropped_after};
use crate::id::PaymentId;
use crate::notifier::{Hint, Notifier, Subscription};
use crate::queue::Lane;
use crate::testing::sample::Samples;

/// "A hint reaches every subscription that existed when it was published": every kind of hint, as it was.
pub async fn every_kind_of_hint_arrives(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(1));
    let mut subscription = subscribe(&*notifier).await;
    let mut hints: Vec<Hint> = Lane::ALL.map(Hint::Work).to_vec();
    hints.extend([Hint::Events, Hint::KeyRevoked(samples.api_key().prefix), Hint::ShieldChanged]);
    let foreign = samples.foreign();
    for scope in [samples.scope().clone()].into_iter().chain(foreign) {
        hints.push(payment(&samples.of(scope)));
    }
    for hint in hints {
        publish(&*notifier, std::slice::from_ref(&hint)).await;
        assert_eq!(fresh(&mut *subscription, &[]).await, hint);
        // Doubles are allowed; a mark behind them clears the way for the next kind.
        drain(&mut *subscription, &*notifier, &samples).await;
    }
}

/// "Every subscription": all of them hear it, those of other handles too.
pub async fn a_hint_reaches_every_subscription(fixture: &dyn NotifierFixture) {
    let (first, second) = (fixture.notifier().await, fixture.notifier().await);
    let samples = Samples::new(2);
    let mut subscriptions = Vec::new();
    for _ in 0..4 {
        subscriptions.push(subscribe(&*first).await);
        subscriptions.push(subscribe(&*second).await);
    }
    for notifier in [&first, &second] {
        let hint = payment(&samples);
        publish(&**notifier, std::slice::from_ref(&hint)).await;
        for subscription in &mut subscriptions {
            hears(&mut **subscription, &hint).await;
        }
    }
}

/// "Hints to one subscription arrive in the order they were published", within a call and between calls.
pub async fn hints_arrive_in_order(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(3));
    let mut subscription = subscribe(&*notifier).await;
    let hints: Vec<Hint> = (0..12).map(|_| payment(&samples)).collect();
    for chunk in hints.chunks(5) {
        publish(&*notifier, chunk).await;
    }
    let mut heard: Vec<Hint> = Vec::new();
    while heard.len() < hints.len() {
        heard.push(fresh(&mut *subscription, &heard).await);
    }
    assert_eq!(heard, hints);
}

/// "At most a few times": a hint is not repeated without end.
pub async fn a_hint_arrives_a_few_times_at_most(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(4));
    let mut subscription = subscribe(&*notifier).await;
    let (hint, mark) = (payment(&samples), payment(&samples));
    publish(&*notifier, std::slice::from_ref(&hint)).await;
    publish(&*notifier, std::slice::from_ref(&mark)).await;
    let mut times = 0;
    loop {
        let next = next(&mut *subscription).await;
        if next == mark {
            break;
        }
        assert_eq!(next, hint);
        times += 1;
    }
    assert!((1..=FEW).contains(&times), "heard {times} times");
}

/// "That existed when it was published": a subscription hears nothing from before it.
pub async fn a_new_subscription_hears_nothing_old(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(5));
    let mut early = subscribe(&*notifier).await;
    let (old, new) = (payment(&samples), payment(&samples));
    publish(&*notifier, std::slice::from_ref(&old)).await;
    // Once somebody has heard it, it is not under way any more.
    hears(&mut *early, &old).await;
    let mut late = subscribe(&*notifier).await;
    publish(&*notifier, std::slice::from_ref(&new)).await;
    assert_eq!(next(&mut *late).await, new);
}

/// "Waits for it": there is no hint out of nothing.
pub async fn a_subscription_waits_for_a_hint(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(6));
    let mut subscription = subscribe(&*notifier).await;
    assert_eq!(dropped_after(50, subscription.next()).await, None, "nothing was published");
    let hint = payment(&samples);
    publish(&*notifier, std::slice::from_ref(&hint)).await;
    hears(&mut *subscription, &hint).await;
}

/// "A dropped `next` loses no hint": neither one dropped before it came nor one dropped while it comes.
pub async fn a_dropped_next_loses_no_hint(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(7));
    let mut subscription = subscribe(&*notifier).await;
    for polls in 0..12 {
        drop(dropped_after(polls, subscription.next()).await);
        let hint = payment(&samples);
        publish(&*notifier, std::slice::from_ref(&hint)).await;
        match dropped_after(polls, subscription.next()).await {
            Some(heard) => assert_eq!(heard, hint),
            None => hears(&mut *subscription, &hint).await,
        }
        drain(&mut *subscription, &*notifier, &samples).await;
    }
}

/// "A dropped `publish` happened or did not": what follows is heard.
pub async fn a_dropped_publish_happened_or_did_not(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(8));
    let mut subscription = subscribe(&*notifier).await;
    for polls in 0..12 {
        let (maybe, hint) = (payment(&samples), payment(&samples));
        drop(dropped_after(polls, notifier.publish(std::slice::from_ref(&maybe))).await);
        publish(&*notifier, std::slice::from_ref(&hint)).await;
        loop {
            let heard = next(&mut *subscription).await;
            if heard == hint {
                break;
            }
            assert_eq!(heard, maybe);
        }
        drain(&mut *subscription, &*notifier, &samples).await;
    }
}

/// "Publishing never waits for a slow subscriber: what it misses shows as one `Missed`", and it hears what follows.
pub async fn a_slow_subscriber_is_told_what_it_missed(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(9));
    let mut slow = subscribe(&*notifier).await;
    let hints: Vec<Hint> = (0..100).map(|_| payment(&samples)).collect();
    for _ in 0..fixture.overflow().div_ceil(hints.len()) {
        publish(&*notifier, &hints).await;
    }
    let (mut heard, mut last) = (0, None);
    loop {
        let hint = next(&mut *slow).await;
        assert!(hint != Hint::Missed || last != Some(Hint::Missed), "one gap shows as one Missed");
        if hint == Hint::Missed {
            break;
        }
        heard += 1;
        assert!(heard <= fixture.overflow(), "it has heard more than it could keep");
        last = Some(hint);
    }
    let mark = payment(&samples);
    publish(&*notifier, std::slice::from_ref(&mark)).await;
    while next(&mut *slow).await != mark {}
}

/// A slow subscriber's losses are its own: another that keeps up hears everything.
pub async fn a_slow_subscriber_costs_the_others_nothing(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(10));
    let _slow = subscribe(&*notifier).await;
    let mut quick = subscribe(&*notifier).await;
    for _ in 0..fixture.overflow() {
        let hint = payment(&samples);
        publish(&*notifier, std::slice::from_ref(&hint)).await;
        hears(&mut *quick, &hint).await;
    }
}

/// Publishing without subscribers is fine, and so is publishing nothing.
pub async fn publishing_to_nobody_is_fine(fixture: &dyn NotifierFixture) {
    let notifier = fixture.notifier().await;
    publish(&*notifier, &[Hint::Events]).await;
    publish(&*notifier, &[]).await;
    drop(subscribe(&*notifier).await);
    publish(&*notifier, &[Hint::Events]).await;
}

/// Any number of publishers at once: a subscription hears each of them, in that publisher's order.
pub async fn concurrent_publishers_are_all_heard(fixture: &dyn NotifierFixture) {
    let (notifier, samples) = (fixture.notifier().await, Samples::new(11));
    let mut subscription = subscribe(&*notifier).await;
    let series: Vec<Vec<Hint>> =
        (0..3).map(|_| (0..4).map(|_| payment(&samples)).collect()).collect();
    at_once(series.clone().into_iter().map(|series| {
        let notifier = Arc::clone(&notifier);
        async move {
            for hint in series {
                publish(&*notifier, &[hint]).await;
            }
        }
    }))
    .await;
    let mut heard: Vec<Hint> = Vec::new();
    while heard.len() < 12 {
        heard.push(fresh(&mut *subscription, &heard).await);
    }
    for series in series {
        let own: Vec<&Hint> = heard.iter().filter(|hint| series.contains(hint)).collect();
        assert_eq!(own, series.iter().collect::<Vec<&Hint>>());
    }
}

async fn subscribe(notifier: &dyn Notifier) -> Box<dyn Subscription> {
    notifier.subscribe().await.expect("a healthy notifier can be listened to")
}

async fn publish(notifier: &dyn Notifier, hints: &[Hint]) {
    notifier.publish(hints).await.expect("a healthy notifier takes hints");
}

/// The next hint. A lost one would hang the test, so waiting ends with a panic, long after any real delay.
async fn next(subscription: &mut dyn Subscription) -> Hint {
    let hint = tokio::time::timeout(PATIENCE, subscription.next()).await;
    hint.expect("a hint that must arrive did not")
}

/// The next hint that is not a double of these.
async fn fresh(subscription: &mut dyn Subscription, heard: &[Hint]) -> Hint {
    loop {
        let hint = next(subscription).await;
        if !heard.contains(&hint) {
            return hint;
        }
    }
}

/// Waits for a hint, past doubles of others, but not past a gap.
async fn hears(subscription: &mut dyn Subscription, hint: &Hint) {
    loop {
        let heard = next(subscription).await;
        assert_ne!(heard, Hint::Missed, "a subscription that keeps up misses nothing");
        if &heard == hint {
            return;
        }
    }
}

/// Hears everything that was published so far.
async fn drain(subscription: &mut dyn Subscription, notifier: &dyn Notifier, samples: &Samples) {
    let mark = payment(samples);
    publish(notifier, std::slice::from_ref(&mark)).await;
    hears(subscription, &mark).await;
}

fn payment(samples: &Samples) -> Hint {
    Hint::Payment { scope: samples.scope().clone(), id: PaymentId::mint(samples.env()) }
}

/// How many times are "a few".
const FEW: usize = 3;
/// How long a hint is waited for before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

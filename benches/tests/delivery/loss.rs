//! Nothing is lost: receivers fail, hang and hang up, workers are killed while they deliver, and every event arrives where it is subscribed
//! to, in order where that was asked for. `PGW_EVENTS=20000 PGW_ENDPOINTS=50` does more of it than CI does.

use std::time::Duration;

use pgw_core::queue::Lane;
use pgw_core::testing::random::Random;
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{Ordering, WhenExhausted};

use crate::evidence::Evidence;
use crate::sink::{Manners, Outcome};
use crate::stage::{EVENTS, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost() {
    let (events, endpoints) = (asked("PGW_EVENTS", 1_000), asked("PGW_ENDPOINTS", 10));
    let payments = events.div_ceil(EVENTS);
    let owed = payments * (0..endpoints).map(heard).sum::<usize>();
    let kills = (events / EVENTS_PER_KILL).max(KILLS_MIN);
    let patience = PATIENCE * u32::try_from(1 + owed / DELIVERIES_IN_PATIENCE).expect("a few");

    let mut stage = Stage::set(WEBHOOK_TIMEOUT, patience).await;
    let dice = Random::new(SEED);
    for number in 0..endpoints {
        let busy = if number % KINDS == 4 { 15 } else { 0 };
        stage.open(Manners { busy, ..FAULTS }, dice.fork(), |new| specialize(number, new)).await;
    }
    stage.work(Lane::Operations);
    (0..WORKERS).for_each(|_| stage.work(Lane::Deliveries));
    let payers = stage.pay(payments);
    // All while less has come than comes in any case, so that there is work under way whenever one is killed.
    let last = owed * 3 / 4;
    let mut moments: Vec<usize> = (0..kills).map(|_| dice.below(last as u64) as usize).collect();
    moments.sort_unstable();
    for moment in moments {
        stage.until_came(moment).await;
        let killed = stage.workers.kill_one(Some(Lane::Deliveries), dice.number());
        killed.expect("it ran");
        stage.work(Lane::Deliveries);
    }
    stage.until_came(last).await;
    payers.join_all().await;
    stage.sink.heal();
    stage.until_none("select count(*) from pgw.operations where due_at is not null").await;
    stage.until_none("select count(*) from pgw.deliveries where state = 'pending'").await;
    stage.workers.stop().expect("they end in good order");

    let evidence = Evidence::gather(&stage).await;
    for fault in [Outcome::TakenUnheard, Outcome::Refused, Outcome::Busy, Outcome::Silent] {
        assert!(evidence.came_to(fault) > 0, "{fault:?} never happened");
    }
    evidence.assert_all_arrived(&stage, payments * EVENTS, owed).await;
    let stale = evidence.assert_in_order(&stage);
    let unlogged = evidence.assert_logged(&stage).await;
    println!(
        "{kills} kills; {} events, {owed} deliveries, {} webhooks: {} refused, {} asked to wait, {} not answered, {} taken and not answered; \
         {unlogged} answers that no worker was left to log; {stale} repetitions at ordered endpoints after the payment's next event",
        payments * EVENTS,
        evidence.webhooks(),
        evidence.came_to(Outcome::Refused),
        evidence.came_to(Outcome::Busy),
        evidence.came_to(Outcome::Silent),
        evidence.came_to(Outcome::TakenUnheard),
    );
}

/// What is special about an endpoint.
fn specialize(number: usize, new: &mut NewEndpoint) {
    let only = |filter: &str| vec![filter.parse().expect("a valid filter")];
    match number % KINDS {
        0 => new.options.ordering = Ordering::ByPayment(WhenExhausted::Skip),
        1 => new.options.ordering = Ordering::ByPayment(WhenExhausted::Park),
        2 => new.filters = only("payment.succeeded"),
        3 => new.filters = only("refund.*"),
        _ => {}
    }
}

/// How many events of a payment an endpoint hears.
const fn heard(number: usize) -> usize {
    match number % KINDS {
        2 => 1,
        3 => 2,
        _ => EVENTS,
    }
}

fn asked(name: &str, in_ci: usize) -> usize {
    std::env::var(name).map_or(in_ci, |asked| match asked.parse() {
        Ok(asked) if asked > 0 => asked,
        _ => panic!("{name} is a number like {in_ci}, not {asked:?}"),
    })
}

/// So many kinds of endpoints there are; a long form has several of each.
const KINDS: usize = 10;
/// Worker processes at a time: one is killed, the others find what it left.
const WORKERS: usize = 3;
const EVENTS_PER_KILL: usize = 100;
const KILLS_MIN: usize = 10;
const SEED: u64 = 1;
/// One in ten goes wrong: rarely five in a row of an endpoint, which would be paused for longer and longer.
const FAULTS: Manners = Manners { unheard: 30, refused: 60, busy: 0, silent: 10 };
/// Short, because it is what a receiver that says nothing costs.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// What does not come by then never will, of so many deliveries.
const PATIENCE: Duration = Duration::from_secs(120);
const DELIVERIES_IN_PATIENCE: usize = 10_000;

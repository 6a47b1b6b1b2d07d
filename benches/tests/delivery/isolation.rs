//! Endpoints that hang hold up no other, however much waits for them.

use std::time::Duration;

use benches::worker::DELIVERIES_MAX;
use pgw_core::queue::Lane;
use pgw_core::testing::random::Random;

use crate::sink::Manners;
use crate::stage::{EVENTS, Stage};

/// Three of twenty endpoints never answer. What waits for them is more than all workers do at once, and due before all that waits for the
/// others; yet everything is delivered to the others while each request to the three still hangs. A bound on what one endpoint is sent at
/// once is all that can bring this about: nothing about the three changes, neither by a deadline nor by a failure, until the test ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_endpoints_hold_up_no_other() {
    let mut stage = Stage::set(NEVER, PATIENCE).await;
    stage.work(Lane::Operations);
    let hang = Manners { silent: 1_000, ..Manners::default() };
    for _ in 0..HANGING {
        stage.open(hang, Random::new(0), |_| {}).await;
    }
    live(&stage).await;
    for _ in HANGING..ENDPOINTS {
        stage.open(Manners::default(), Random::new(0), |_| {}).await;
    }
    live(&stage).await;
    let owed = (HANGING * 2 + (ENDPOINTS - HANGING)) * PAYMENTS * EVENTS;
    assert_eq!(stage.count(PENDING).await, owed as u64, "nothing is delivered yet");
    let before_all_others = HANGING * PAYMENTS * EVENTS;
    assert!(before_all_others > WORKERS * DELIVERIES_MAX, "it would take all the workers");

    (0..WORKERS).for_each(|_| stage.work(Lane::Deliveries));
    stage.until_none(PENDING_OF_OTHERS).await;

    let waits = HANGING * 2 * PAYMENTS * EVENTS;
    assert_eq!(stage.count(PENDING).await, waits as u64, "all that waits is for the three");
    assert_eq!(stage.count(ATTEMPTS_THAT_FAILED).await, 0, "each of their requests hangs");
    let arrivals = stage.sink.arrivals();
    for endpoint in 0..HANGING {
        let hang = arrivals.iter().filter(|arrival| arrival.endpoint == endpoint);
        assert!(hang.count() > 0, "endpoint {endpoint} was sent nothing");
    }
    assert_eq!(stage.sink.broken(), [""; 0]);
}

async fn live(stage: &Stage) {
    stage.pay(PAYMENTS).join_all().await;
    stage.until_none("select count(*) from pgw.operations where due_at is not null").await;
}

const ENDPOINTS: usize = 20;
const HANGING: usize = 3;
const WORKERS: usize = 2;
/// Twice so many live.
const PAYMENTS: usize = 96;
/// The deadline of a webhook: none, as far as this test is concerned.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);
const PATIENCE: Duration = Duration::from_secs(120);
const PENDING: &str = "select count(*) from pgw.deliveries where state = 'pending'";
/// The three were created first.
const PENDING_OF_OTHERS: &str = "select count(*) from pgw.deliveries where state = 'pending' \
    and endpoint not in (select id from pgw.endpoints order by created_at, id limit 3)";
const ATTEMPTS_THAT_FAILED: &str =
    "select count(*) from pgw.attempts where status is distinct from 200";

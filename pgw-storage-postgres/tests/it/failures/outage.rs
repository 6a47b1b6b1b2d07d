//! A server that goes away, politely or not, while payments are being made, and comes back.

use pgw_core::changes::{Changes, Committed};
use pgw_core::page::PageRequest;
use pgw_core::queue::{Lane, Queue as _, QueueError};
use pgw_core::storage::{PaymentFilter, Storage as _, StorageError};
use pgw_core::testing::sample::{Creation, Samples};
use pgw_storage_postgres::PgStorage;
use servers::Postgres;
use tokio::sync::mpsc;

use super::{HANGS, Own, commit, is_applied, is_there, keyed};

/// How many callers commit at once.
const CALLERS: u64 = 8;
/// How many commits are acknowledged before the server goes.
const BEFORE: usize = 100;

#[derive(Debug, Clone, Copy)]
enum End {
    /// Told to end at once: transactions under way are rolled back.
    Stopped,
    /// Killed, as by a loss of power.
    Killed,
}

/// A payment that somebody tried to create, and what became of it.
struct Told {
    creation: Creation,
    changes: Changes,
    outcome: Result<Committed, StorageError>,
}

/// Creates payments until the first that fails, and tells of each.
async fn create_until_it_fails(storage: PgStorage, seed: u64, tells: mpsc::UnboundedSender<Told>) {
    let samples = Samples::new(seed);
    loop {
        let (creation, changes) = keyed(&samples);
        let outcome = commit(&storage, &changes).await;
        let is_last = outcome.is_err();
        tells.send(Told { creation, changes, outcome }).expect("the test listens");
        if is_last {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_loses_nothing_and_all_is_well_when_it_is_back() {
    outage(End::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_and_all_is_well_when_it_is_back() {
    outage(End::Killed).await;
}

async fn outage(end: End) {
    let mut own = Own::start(Postgres::builder().durable()).await;
    let storage = own.storage(4).await;
    let (tells, mut heard) = mpsc::unbounded_channel();
    for seed in 1..=CALLERS {
        tokio::spawn(create_until_it_fails(storage.clone(), seed, tells.clone()));
    }
    drop(tells);
    let mut told = Vec::new();
    while told.len() < BEFORE {
        told.push(heard.recv().await.expect("the server is up"));
    }
    // The callers go on while it goes away.
    match end {
        End::Stopped => own.server.stop().expect("it ends when it is told to"),
        End::Killed => own.server.kill().expect("nothing outlives SIGKILL"),
    }
    while let Some(one) = heard.recv().await {
        told.push(one);
    }
    let samples = Samples::new(CALLERS + 1);
    while_it_is_away(&storage, &samples).await;
    own.server.restart().expect("it recovers");
    all_is_as_it_was_said(&storage, told).await;
    let (creation, changes) = keyed(&samples);
    assert!(is_applied(&commit(&storage, &changes).await));
    assert!(is_there(&storage, &creation).await);
    storage.stamp_events(10).await.expect("the server is back");
    let claimed = storage.queue().claim(Lane::Operations, 5, HANGS).await;
    assert_eq!(claimed.expect("the server is back").len(), 5);
}

/// Every call is answered, and none claims to know more than it can. All at once: each waits for a connection as long as it may.
async fn while_it_is_away(storage: &PgStorage, samples: &Samples) {
    let (creation, changes) = keyed(samples);
    let (scope, id, job) = (samples.scope(), creation.payment.id, creation.job());
    let (filter, queue) = (PaymentFilter::default(), storage.queue());
    let calls = async {
        tokio::join!(
            storage.commit(changes),
            storage.stamp_events(1),
            storage.payment(scope, id),
            storage.payments(scope, &filter, PageRequest::first(1)),
            storage.due(&job),
            queue.claim(Lane::Operations, 1, HANGS),
        )
    };
    let answers = tokio::time::timeout(HANGS, calls).await.expect("a call must not hang");
    let (committed, stamped, payment, payments, due, claimed) = answers;
    for write in [committed.map(drop), stamped.map(drop)] {
        let error = write.expect_err("the server is away");
        let is_honest =
            matches!(error, StorageError::Unavailable(_) | StorageError::Indeterminate(_));
        assert!(is_honest, "{error:?}");
    }
    for read in [payment.map(drop), payments.map(drop), due.map(drop)] {
        assert!(matches!(read, Err(StorageError::Unavailable(_))), "{read:?}");
    }
    assert!(matches!(claimed, Err(QueueError::Unavailable(_))), "{claimed:?}");
}

/// What was acknowledged is there, what was refused is not, and what nobody could know is one of the two, which the same commit tells.
async fn all_is_as_it_was_said(storage: &PgStorage, told: Vec<Told>) {
    let mut failed = 0;
    for Told { creation, changes, outcome } in told {
        let is_there = is_there(storage, &creation).await;
        match outcome {
            Ok(Committed::Applied { .. }) => assert!(is_there, "an acknowledged payment is lost"),
            Err(StorageError::Unavailable(_)) => {
                assert!(!is_there, "a payment is there of which it was said that it is not");
                failed += 1;
            }
            Err(StorageError::Indeterminate(_)) => failed += 1,
            outcome => panic!("{outcome:?} says neither"),
        }
        let again = commit(storage, &changes).await.expect("the server is back");
        let target = creation.target();
        match again {
            Committed::InFlight { target: found } => assert!(is_there && found == target),
            Committed::Applied { .. } => assert!(!is_there, "one payment was created twice"),
            Committed::Replayed { .. } => panic!("no answer was stored"),
        }
    }
    assert_eq!(failed, CALLERS, "every caller met the outage once");
}

//! Many at once: one payment a key, and never more refunded than captured.

use std::collections::BTreeSet;
use std::time::Duration;

use pgw_core::changes::{Committed, Guard};
use pgw_core::gateway::Origin;
use pgw_core::page::PageRequest;
use pgw_core::payment::plan::{NewRefund, RequestedAmount};
use pgw_core::payment::{OperationKind, PaymentStatus};
use pgw_core::scope::Scope;
use pgw_core::storage::{PaymentFilter, Storage as _, StorageError};
use pgw_core::testing::sample::Samples;

use crate::fixtures::{Leg, Under};
use crate::world::{HEALTHY, World, keyed};

async fn of_a_hundred_creates_under_a_key_one_is_applied(leg: Leg, rounds: usize) {
    let pg = Under::test(leg).await.storage;
    let world = World::on(&pg);
    for round in 0..rounds {
        let key = format!("round-{round}");
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let (gateway, new) = (world.gateway.clone(), keyed(&key));
                tokio::spawn(async move { gateway.host().create_payment(new).await })
            })
            .collect();
        let (mut ids, mut first) = (BTreeSet::new(), 0);
        for task in tasks {
            let receipt = task.await.expect("it must not panic").expect(HEALTHY);
            first += usize::from(receipt.origin == Origin::First);
            ids.insert(receipt.payment().id);
        }
        assert_eq!((ids.len(), first), (1, 1), "{key} made more than one payment");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_payment() {
    of_a_hundred_creates_under_a_key_one_is_applied(Leg::Pool, 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_payment_without_groups() {
    of_a_hundred_creates_under_a_key_one_is_applied(Leg::Alone, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_payment_behind_a_pooler() {
    of_a_hundred_creates_under_a_key_one_is_applied(Leg::Pooler, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_payment_behind_a_pooler_that_keeps_statements() {
    of_a_hundred_creates_under_a_key_one_is_applied(Leg::PreparedPooler, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_payment_step_by_step() {
    of_a_hundred_creates_under_a_key_one_is_applied(Leg::Distributed, 10).await;
}

/// Ids are minted, so a group does not look for them first. One that is there conflicts, and its neighbours are served.
async fn an_id_that_is_there_conflicts_alone(leg: Leg) {
    let (pg, samples) = (Under::test(leg).await.storage, Samples::new(9));
    let there = samples.creation();
    pg.commit(there.changes()).await.expect(HEALTHY);
    let mut tasks = Vec::new();
    for n in 0..120 {
        let mut creation = if n % 10 == 0 { there.clone() } else { samples.creation() };
        let claim = samples.claim(creation.target());
        let changes = if n % 20 < 10 { creation.keyed(claim) } else { creation.changes() };
        let pg = pg.clone();
        tasks.push(tokio::spawn(async move { pg.commit(changes).await }));
    }
    let exists = Guard::Payment { id: there.payment.id, version: 0 };
    for (n, task) in tasks.into_iter().enumerate() {
        let done = task.await.expect("it must not panic");
        match done {
            Ok(Committed::Applied { .. }) => assert_ne!(n % 10, 0, "it is there"),
            Err(StorageError::Conflict(guard)) => assert_eq!((n % 10, guard), (0, exists.clone())),
            other => panic!("{other:?}"),
        }
    }
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    let scope = samples.scope();
    let first = pg.payments(scope, &PaymentFilter::default(), page).await.expect(HEALTHY);
    assert!(first.has_more, "108 are new");
    let state = pg.payment(scope, there.payment.id).await.expect(HEALTHY).expect("it is there");
    assert_eq!((&state.payment, state.operations.len()), (&there.payment, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_there_conflicts_alone_in_a_pool() {
    an_id_that_is_there_conflicts_alone(Leg::Pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_there_conflicts_alone_behind_a_pooler() {
    an_id_that_is_there_conflicts_alone(Leg::Pooler).await;
}

/// 64 refunds of 1.00 of a payment of 49.99: 49 at most get through, whatever their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_at_once_never_give_back_more_than_was_captured() {
    let pg = Under::test(Leg::Pool).await.storage;
    let world = World::on(&pg);
    let worker = world.work();
    let host = world.gateway.host();
    let id = host.create_payment(keyed("paid")).await.expect(HEALTHY).payment().id;
    let state = host.wait_for(id, None, Duration::from_secs(20)).await.expect(HEALTHY);
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let gateway = world.gateway.clone();
            tokio::spawn(async move {
                let amount = RequestedAmount::Decimal("1".into());
                let refund = NewRefund { amount, ..NewRefund::default() };
                gateway.host().refund_payment(id, refund).await.is_ok()
            })
        })
        .collect();
    let mut taken = 0;
    for task in tasks {
        taken += i64::from(task.await.expect("it must not panic"));
    }
    let state = pg.payment(&Scope::default(), id).await.expect(HEALTHY).expect("it is there");
    let payment = &state.payment;
    assert!(payment.refunded_minor + payment.refund_reserved_minor <= payment.captured_minor);
    let refunds = state.operations.iter().filter(|o| o.kind == OperationKind::Refund);
    let asked: i64 = refunds.map(|operation| operation.amount.minor()).sum();
    assert_eq!(asked, taken * 100, "each refund that was taken is there once");
    assert!(taken <= 49 && taken > 0, "{taken} refunds of 1.00 of 49.99");
    for operation in state.operations.iter().filter(|o| o.kind == OperationKind::Refund) {
        host.wait_for(id, Some(operation.id), Duration::from_secs(20)).await.expect(HEALTHY);
    }
    worker.shutdown().await;
    let refunded = world.sandbox.refunded_minor(id);
    let state = pg.payment(&Scope::default(), id).await.expect(HEALTHY).expect("it is there");
    assert_eq!(state.payment.refunded_minor, refunded, "the processor's ledger says otherwise");
    assert!(refunded <= state.payment.captured_minor);
}

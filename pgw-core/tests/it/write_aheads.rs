//! Nothing is sent once its write-ahead no longer holds: the row went on without it, or its deadline is past.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::payment::{OperationState, PaymentStatus};
use pgw_core::processor::Resolution;
use pgw_core::sandbox::Fault;
use pgw_core::scope::Scope;
use pgw_core::storage::Storage as _;
use pgw_core::testing::faults::Rates;

use crate::script::Script;
use crate::world::{DAY, TIMEOUT, World, pass};

/// From now on commits are applied and nobody hears so.
fn unheard() -> Rates {
    Rates { commit_applied_unheard: 1_000, ..Rates::default() }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_sent_although_the_worker_did_not_hear_of_its_write_ahead() {
    let script = Script::new(&[], &[]);
    let lookup = Resolution::Lookup { lag: Duration::from_secs(1) };
    let world = World::faulty(lookup, Arc::clone(&script) as _);
    let id = world.create("tok_visa").await.payment().id;
    world.faults.set(unheard());
    let _worker = world.worker();
    world.until(id, |state| state.operations[0].attempts == 1).await;
    world.faults.set(Rates::default());
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    assert_eq!((script.calls(), state.operations[0].attempts), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_not_sent_when_its_row_went_on_before_the_worker_heard_of_its_write_ahead() {
    let script = Script::new(&[Fault::ResetAfter, Fault::NotSent], &[]);
    let world = World::faulty(Resolution::Replay { window: DAY }, Arc::clone(&script) as _);
    let _worker = world.worker();
    let id = world.create("tok_requires_action").await.payment().id;
    world.until(id, |_| script.calls() == 2).await;
    pass(Duration::from_secs(2)).await;
    let messages = world.sandbox.drain_notifications();
    world.faults.set(unheard());
    world.until(id, |state| state.operations[0].attempts == 3).await;
    world.faults.set(Rates::default());
    assert_eq!(world.gateway.receive_notification("sandbox", &messages[0]).await.unwrap(), 1);
    let waiting = world.settled(id, None).await;
    assert_eq!(waiting.payment.status, PaymentStatus::RequiresAction);
    pass(Duration::from_secs(60)).await;
    assert_eq!(script.calls(), 2, "what the replay would ask is known by now");

    world.verbs().confirm_payment(id).await.unwrap();
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    assert_eq!(world.sandbox.executions(state.operations[0].id), 1);
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_is_not_sent_when_its_row_is_settled_by_then() {
    let script = Script::new(&[], &[]);
    let lookup = Resolution::Lookup { lag: Duration::from_secs(1) };
    let world = World::faulty(lookup, Arc::clone(&script) as _);
    let _worker = world.worker();
    let id = world.create("tok_requires_action").await.payment().id;
    let key = world.settled(id, None).await.operations[0].id;
    world.faults.set(unheard());
    world.verbs().confirm_payment(id).await.unwrap();
    world.until(id, |state| state.operations[0].state == OperationState::Dispatched).await;
    world.faults.set(Rates::default());
    // The customer was faster on the processor's own page.
    assert!(world.sandbox.complete_action(key).is_some());
    let messages = world.sandbox.drain_notifications();
    assert_eq!(world.gateway.receive_notification("sandbox", &messages[0]).await.unwrap(), 1);
    assert_eq!(world.settled(id, None).await.payment.status, PaymentStatus::Succeeded);
    pass(Duration::from_secs(60)).await;
    assert_eq!(script.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_undo_is_not_sent_when_its_write_ahead_took_until_the_deadline() {
    let script = Script::new(&[Fault::ResetAfter], &[]);
    let world = World::faulty(Resolution::CancelByKey, Arc::clone(&script) as _);
    let _worker = world.worker();
    let id = world.create("tok_visa").await.payment().id;
    world.until(id, |state| state.operations[0].state == OperationState::Unknown).await;
    world.faults.set(Rates { slow: 1_000, slow_max: 1_000 * TIMEOUT, ..Rates::default() });
    // Past the faults, which are for the worker.
    let probes = async || {
        let state = world.storage.payment(&Scope::default(), id).await.unwrap().unwrap();
        state.operations[0].probes
    };
    while probes().await == 0 {
        pass(Duration::from_secs(10)).await;
    }
    world.faults.set(Rates::default());
    while script.questions() == 0 {
        pass(Duration::from_secs(10)).await;
    }
    // What was asked so late may be settled otherwise by then, so it is asked anew.
    assert_eq!(probes().await, 2);
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Failed);
    assert_eq!(world.sandbox.captured_minor(id), 0);
}

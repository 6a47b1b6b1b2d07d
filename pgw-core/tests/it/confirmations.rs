//! The customer has acted: what was said before, or before the processor knows, does not take that back.

use std::time::Duration;

use pgw_core::payment::{OperationState, PaymentStatus};
use pgw_core::processor::Resolution;
use pgw_core::sandbox::Fault;

use crate::script::Script;
use crate::world::{DAY, TIMEOUT, World, pass};

const SLOW: Fault = Fault::Slow(Duration::from_secs(5));

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_on_its_way_does_not_take_it_back() {
    for (resolution, calls, questions) in [
        (Resolution::Replay { window: DAY }, [Fault::ResetAfter, SLOW], [Fault::None]),
        (
            Resolution::Lookup { lag: Duration::from_secs(1) },
            [Fault::ResetAfter, Fault::None],
            [SLOW],
        ),
    ] {
        let world = World::faulty(resolution, Script::new(&calls, &questions));
        let _worker = world.worker();
        let id = world.create("tok_requires_action").await.payment().id;
        // By now the outcome is unknown and the slow call or question is under way.
        pass(Duration::from_secs(3)).await;
        let messages = world.sandbox.drain_notifications();
        assert_eq!(world.gateway.receive_notification("sandbox", &messages[0]).await.unwrap(), 1);
        let confirmed = world.verbs().confirm_payment(id).await.unwrap();
        assert_eq!(confirmed.payment().status, PaymentStatus::Processing);
        let state = world.settled(id, None).await;
        assert_eq!(state.payment.status, PaymentStatus::Succeeded, "{resolution:?}");
        assert_eq!(world.sandbox.executions(state.operations[0].id), 1, "{resolution:?}");
        let asked = |event: &&&str| **event == "payment.requires_action";
        assert_eq!(world.event_types(id).await.iter().filter(asked).count(), 1, "{resolution:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_notification_that_comes_twice_does_not_take_it_back() {
    let script = Script::new(&[Fault::ResetAfter, SLOW], &[]);
    let world = World::faulty(Resolution::EvidenceOnly, script);
    let worker = world.worker();
    let id = world.create("tok_requires_action").await.payment().id;
    pass(Duration::from_secs(3)).await;
    let messages = world.sandbox.drain_notifications();
    let again = async || world.gateway.receive_notification("sandbox", &messages[0]).await.unwrap();
    assert_eq!(again().await, 1);
    worker.shutdown().await;
    world.verbs().confirm_payment(id).await.unwrap();
    assert_eq!(again().await, 0);
    let state = world.state(id).await;
    assert_eq!(state.operations[0].state, OperationState::Queued);

    let _worker = world.worker();
    world.until(id, |state| state.operations[0].state == OperationState::Dispatched).await;
    assert_eq!(again().await, 0);
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_confirmation_stays_unknown_until_it_is_surely_not_there() {
    let lookup = Resolution::Lookup { lag: Duration::from_secs(1) };
    let world = World::faulty(lookup, Script::new(&[Fault::None, Fault::TimeoutBefore], &[]));
    let _worker = world.worker();
    let id = world.create("tok_requires_action").await.payment().id;
    world.settled(id, None).await;
    world.verbs().confirm_payment(id).await.unwrap();
    world.until(id, |state| state.payment.status == PaymentStatus::Unknown).await;
    // Asked at once, the processor still waits for the customer: the confirmation may be on its way.
    pass(TIMEOUT).await;
    assert_eq!(world.state(id).await.payment.status, PaymentStatus::Unknown);
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::RequiresAction);
    world.verbs().confirm_payment(id).await.unwrap();
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    assert_eq!(world.sandbox.executions(state.operations[0].id), 1);
}

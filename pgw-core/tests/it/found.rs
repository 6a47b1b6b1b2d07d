//! What the simulation found, each as a test that does not need it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pgw_core::access::Caller;
use pgw_core::env::Env;
use pgw_core::payment::plan::{self, Evidence, Plan, Stamp, Timing};
use pgw_core::payment::{
    Fence, NextAction, OperationState, PaymentState, PaymentStatus, ProcessorName,
};
use pgw_core::processor::{Answer, Instruction, LookUp, Resolution};
use pgw_core::sandbox::{Fault, SandboxFaults};
use pgw_core::scope::Scope;

use crate::world::{World, new, pass};

const SPENT: Timing = Timing { retry_in: None, probe_in: Duration::from_secs(1), probes: 0 };

fn planned<T>(act: impl FnOnce(&mut Stamp<'_>) -> T) -> T {
    let (env, caller) = (Env::system(), Caller::worker(Scope::default()));
    let mut ids = || env.uuid();
    act(&mut Stamp { now: env.now(), caller: &caller, ids: &mut ids })
}

fn dispatched(state: &PaymentState) -> Plan {
    let id = state.operations[0].id;
    let soon = Duration::from_secs(30);
    planned(|stamp| plan::dispatch(state, id, Fence(1), stamp.now, soon, stamp)).unwrap()
}

fn applied(state: &PaymentState, evidence: &Evidence) -> Option<PaymentState> {
    let id = state.operations[0].id;
    let plan = planned(|stamp| plan::apply(state, id, evidence, SPENT, &[], stamp)).unwrap();
    plan.map(|plan| plan.state)
}

fn learned(state: &PaymentState, evidence: &Evidence) -> PaymentState {
    applied(state, evidence).unwrap()
}

#[test]
fn giving_up_a_confirmation_does_not_fail_what_waits_at_the_processor() {
    let processor = ProcessorName::parse("sandbox").unwrap();
    let created = planned(|stamp| plan::create(new("tok_visa"), &processor, stamp)).unwrap();
    let never_arrived = learned(&dispatched(&created.state).state, &Evidence::NotSent);
    assert_eq!(never_arrived.operations[0].state, OperationState::Failed);

    let next_action = NextAction::redirect("https://bank.example/3ds").unwrap();
    let asked = Evidence::Answer(Answer::RequiresAction { reference: None, next_action });
    let waiting = learned(&dispatched(&created.state).state, &asked);
    let confirmed = planned(|stamp| plan::confirm(&waiting, stamp)).unwrap();
    let lost = learned(&dispatched(&confirmed.state).state, &Evidence::NotSent);
    // The customer may still complete it, so only evidence says that they did not.
    assert_eq!(lost.operations[0].state, OperationState::Unknown);
}

#[test]
fn only_its_own_answer_takes_a_confirmation_back() {
    let processor = ProcessorName::parse("sandbox").unwrap();
    let created = planned(|stamp| plan::create(new("tok_visa"), &processor, stamp)).unwrap().state;
    let next_action = NextAction::redirect("https://bank.example/3ds").unwrap();
    let asks = Answer::RequiresAction { reference: None, next_action };
    let sent = dispatched(&created).state;
    let waiting = learned(&sent, &Evidence::Answer(asks.clone()));
    let queued = planned(|stamp| plan::confirm(&waiting, stamp)).unwrap().state;
    assert_eq!(queued.operations[0].fence, None, "no call of before is about it");
    let dispatched = dispatched(&queued).state;
    let lost = learned(&dispatched, &Evidence::Lost);
    let amount = created.payment.amount;
    for state in [&queued, &dispatched, &lost] {
        assert!(state.operations[0].is_confirming());
        for open in [asks.clone(), Answer::Pending { reference: None }] {
            assert_eq!(applied(state, &Evidence::Told(open)), None);
        }
        let paid = Evidence::Told(Answer::Succeeded { reference: None, amount });
        assert_eq!(learned(state, &paid).operations[0].state, OperationState::Succeeded);
        // The bank may want the customer to act once more.
        let again = learned(state, &Evidence::Answer(asks.clone()));
        assert_eq!(again.operations[0].state, OperationState::RequiresAction);
    }
    // Without a confirmation there is nothing that it could be older than.
    let told = learned(&sent, &Evidence::Told(asks));
    assert_eq!(told.operations[0].state, OperationState::RequiresAction);
}

/// Never answers a charge, and loses the answer of the first undo.
#[derive(Debug, Default)]
struct LostUndo(AtomicU32);

impl SandboxFaults for LostUndo {
    fn on_submit(&self, _instruction: &Instruction) -> Fault {
        Fault::TimeoutAfter
    }

    fn on_query(&self, _query: &LookUp) -> Fault {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 { Fault::ResetAfter } else { Fault::None }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_said_before_an_undo_does_not_settle_the_operation_after_it() {
    let faults = Arc::new(LostUndo::default());
    let world = World::faulty(Resolution::CancelByKey, Arc::clone(&faults) as _);
    let _worker = world.worker();
    let id = world.create("tok_visa").await.payment().id;
    // The processor tells of its success, but the message is slow.
    pass(Duration::from_secs(5)).await;
    let messages = world.sandbox.drain_notifications();
    assert_eq!(messages.len(), 1);
    while faults.0.load(Ordering::SeqCst) == 0 {
        pass(Duration::from_millis(100)).await;
    }
    assert_eq!(world.sandbox.captured_minor(id), 0, "undone, and nobody heard so");
    let changed = world.gateway.receive_notification("sandbox", &messages[0]).await.unwrap();
    assert_eq!(changed, 0);
    assert_eq!(world.state(id).await.payment.status, PaymentStatus::Unknown);
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Failed);
    assert_eq!(state.payment.captured_minor, 0);
}

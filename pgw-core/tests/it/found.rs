//! What the simulation found, each as a test that does not need it.

use std::time::Duration;

use pgw_core::access::Caller;
use pgw_core::env::Env;
use pgw_core::payment::plan::{self, Evidence, Plan, Stamp, Timing};
use pgw_core::payment::{Fence, NextAction, OperationState, PaymentState, ProcessorName};
use pgw_core::processor::Answer;
use pgw_core::scope::Scope;

use crate::world::new;

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

fn learned(state: &PaymentState, evidence: &Evidence) -> PaymentState {
    let id = state.operations[0].id;
    planned(|stamp| plan::apply(state, id, evidence, SPENT, &[], stamp)).unwrap().unwrap().state
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

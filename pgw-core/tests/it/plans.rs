//! A payment under any sequence of commands, answers, silence and contradictions keeps its promises.

use std::time::Duration;

use pgw_core::changes::{Guard, Write};
use pgw_core::event::EventType;
use pgw_core::money::Money;
use pgw_core::payment::plan::{
    self, Evidence, NewCapture, NewRefund, Plan, RequestedAmount, Timing,
};
use pgw_core::payment::{
    Failure, Fence, Finality, NextAction, OperationState, PaymentState, PaymentStatus, status,
};
use pgw_core::processor::Answer;
use pgw_core::text::Reason;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::sampling::{created, new_payment, stamped};

#[derive(Debug, Clone)]
enum Step {
    Capture(u8, bool),
    Refund(u8),
    Cancel,
    Expire,
    Confirm,
    Dispute,
    Dispatch(usize),
    Replay(usize),
    Learn(usize, Heard),
    BeTold(usize, Heard),
    Review(usize),
    Resolve(usize, plan::Resolution),
}

#[derive(Debug, Clone, Copy)]
enum Heard {
    Succeeded,
    OtherAmount,
    Failed,
    Pending,
    RequiresAction,
    NotSent,
    GaveUp,
    Lost,
    NotFound,
    Never,
}

fn step() -> impl Strategy<Value = Step> {
    let heard = prop_oneof![
        6 => Just(Heard::Succeeded),
        1 => Just(Heard::OtherAmount),
        2 => Just(Heard::Failed),
        1 => Just(Heard::Pending),
        1 => Just(Heard::RequiresAction),
        1 => Just(Heard::NotSent),
        1 => Just(Heard::GaveUp),
        2 => Just(Heard::Lost),
        1 => Just(Heard::NotFound),
        1 => Just(Heard::Never),
    ];
    let resolution = prop_oneof![
        Just(plan::Resolution::Succeeded),
        Just(plan::Resolution::Failed),
        Just(plan::Resolution::Dismissed),
    ];
    prop_oneof![
        3 => (any::<u8>(), prop::bool::weighted(0.1)).prop_map(|(part, last)| Step::Capture(part, last)),
        4 => any::<u8>().prop_map(Step::Refund),
        1 => Just(Step::Cancel),
        1 => Just(Step::Expire),
        1 => Just(Step::Confirm),
        1 => Just(Step::Dispute),
        8 => any::<usize>().prop_map(Step::Dispatch),
        1 => any::<usize>().prop_map(Step::Replay),
        12 => (any::<usize>(), heard.clone()).prop_map(|(which, heard)| Step::Learn(which, heard)),
        4 => (any::<usize>(), heard).prop_map(|(which, heard)| Step::BeTold(which, heard)),
        1 => any::<usize>().prop_map(Step::Review),
        2 => (any::<usize>(), resolution).prop_map(|(which, how)| Step::Resolve(which, how)),
    ]
}

/// A share of what is left: sometimes all, sometimes more than there is.
fn share(state: &PaymentState, left: i64, part: u8) -> RequestedAmount {
    let minor = match part {
        0 => return RequestedAmount::Rest,
        1..=9 => left.saturating_add(i64::from(part)),
        part => (left / 256).saturating_mul(i64::from(part)).max(1),
    };
    let currency = state.payment.amount.currency();
    RequestedAmount::Exactly(Money::from_minor(minor.min(Money::MINOR_MAX), currency).unwrap())
}

fn evidence(state: &PaymentState, which: usize, heard: Heard) -> Evidence {
    let amount = state.operations[which].amount;
    let other = Money::from_minor((amount.minor() % 1_000) + 1, amount.currency()).unwrap();
    Evidence::Answer(match heard {
        Heard::Succeeded => Answer::Succeeded { reference: None, amount },
        Heard::OtherAmount => Answer::Succeeded { reference: None, amount: other },
        Heard::Failed => {
            Answer::Failed { reference: None, failure: Failure::new("card_declined", "No.") }
        }
        Heard::Pending => Answer::Pending { reference: None },
        Heard::RequiresAction => Answer::RequiresAction {
            reference: None,
            next_action: NextAction::redirect("https://bank.example/3ds").unwrap(),
        },
        Heard::NotSent | Heard::GaveUp => return Evidence::NotSent,
        Heard::Lost => return Evidence::Lost,
        Heard::NotFound => return Evidence::NotFound,
        Heard::Never => return Evidence::Never,
    })
}

fn run(state: &PaymentState, step: &Step, counter: &mut u128) -> Option<Plan> {
    let at = |which: usize| state.operations[which % state.operations.len()].id;
    let deadline = pgw_core::timestamp::Timestamp::EPOCH;
    let second = Duration::from_secs(1);
    stamped(counter, |stamp| match step {
        Step::Capture(part, last) => {
            let amount = share(state, state.payment.capturable_minor(), *part);
            let finality = if *last { Finality::Final } else { Finality::Open };
            let new = NewCapture { amount, finality, idempotency_key: None };
            plan::capture(state, &new, stamp).ok()
        }
        Step::Refund(part) => {
            let amount = share(state, state.payment.refundable_minor(), *part);
            let new = NewRefund { amount, reason: None, idempotency_key: None };
            plan::refund(state, &new, stamp).ok()
        }
        Step::Cancel => plan::cancel(state, None, stamp).ok(),
        Step::Expire => plan::expire(state, stamp).ok(),
        Step::Confirm => plan::confirm(state, stamp).ok(),
        Step::Dispute => plan::dispute(state, stamp),
        Step::Dispatch(which) => {
            plan::dispatch(state, at(*which), Fence(7), deadline, second, stamp).ok()
        }
        Step::Replay(which) => {
            plan::replay(state, at(*which), Fence(8), deadline, second, stamp).ok()
        }
        Step::BeTold(which, heard) => {
            let evidence = match evidence(state, which % state.operations.len(), *heard) {
                Evidence::Answer(answer) => Evidence::Told(answer),
                evidence => evidence,
            };
            let timing = Timing { retry_in: Some(second), probe_in: second, probes: 0 };
            plan::apply(state, at(*which), &evidence, timing, &[], stamp).ok().flatten()
        }
        Step::Learn(which, heard) => {
            let evidence = evidence(state, which % state.operations.len(), *heard);
            let retry_in = (!matches!(heard, Heard::GaveUp)).then_some(second);
            let timing = Timing { retry_in, probe_in: second, probes: 0 };
            plan::apply(state, at(*which), &evidence, timing, &[], stamp).ok().flatten()
        }
        Step::Review(which) => {
            let id = at(*which);
            let open = state.operation(id).is_some_and(|o| !o.state.is_settled());
            open.then(|| plan::review(state, id, stamp).unwrap())
        }
        Step::Resolve(which, outcome) => {
            let reason = Reason::parse("looked it up").unwrap();
            let command = plan::Resolve { operation: at(*which), outcome: *outcome, reason };
            plan::resolve(state, &command, &[], stamp).ok()
        }
    })
}

fn check(before: &PaymentState, plan: &Plan) {
    let (was, is) = (&before.payment, &plan.state.payment);
    let limit = is.amount.minor();
    for amount in [
        is.authorized_minor,
        is.captured_minor,
        is.capture_reserved_minor,
        is.refunded_minor,
        is.refund_reserved_minor,
    ] {
        assert!((0..=limit).contains(&amount), "{is:?}");
    }
    assert!(
        is.captured_minor + is.capture_reserved_minor <= is.authorized_minor.max(is.captured_minor)
    );
    assert!(is.refunded_minor + is.refund_reserved_minor <= is.captured_minor);
    assert_eq!(status::totals(&plan.state.operations).status, is.status);
    assert_eq!(is.version, was.version + 1);
    assert_eq!(plan.changes.guards, [Guard::Payment { id: is.id, version: was.version }]);
    assert_eq!(plan.changes.check(), Ok(()));
    for operation in &plan.state.operations {
        assert!(!(operation.state.is_settled() && operation.needs_review), "{operation:?}");
        if let Some(old) = before.operation(operation.id) {
            assert!(
                !old.state.is_settled() || old.state == operation.state,
                "settled stays settled"
            );
            assert_eq!(
                (old.id, old.kind, old.amount),
                (operation.id, operation.kind, operation.amount)
            );
        }
    }
    check_events(before, plan);
    let gone = matches!(
        was.status,
        PaymentStatus::Canceled | PaymentStatus::Expired | PaymentStatus::Failed
    );
    assert!(!gone || was.status == is.status, "{:?} → {:?}", was.status, is.status);
}

/// What is only told never sends a customer back who has acted.
fn check_confirmation(before: &PaymentState, after: &PaymentState) {
    let (was, is) = (&before.operations[0], &after.operations[0]);
    let open = matches!(is.state, OperationState::RequiresAction | OperationState::Pending);
    assert!(!(was.is_confirming() && open), "{was:?} → {is:?}");
}

fn check_events(before: &PaymentState, plan: &Plan) {
    let (was, is) = (&before.payment, &plan.state.payment);
    let events: Vec<_> = plan
        .changes
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Event(event) => Some(event),
            _ => None,
        })
        .collect();
    let sequences: Vec<u64> = events.iter().filter_map(|event| event.sequence).collect();
    let expected: Vec<u64> = (was.sequence + 1..=is.sequence).collect();
    assert_eq!(sequences, expected, "sequences have no gap");
    let visible = was.status != is.status
        || was.captured_minor != is.captured_minor
        || was.refunded_minor != is.refunded_minor
        || was.unknown_operations != is.unknown_operations
        || was.disputed != is.disputed
        || (is.needs_review && !was.needs_review)
        || before.operations.len() < plan.state.operations.len()
            && plan.state.operations.last().unwrap().kind
                == pgw_core::payment::OperationKind::Refund;
    assert!(!visible || !events.is_empty(), "a visible change without an event: {was:?} → {is:?}");
    for event in events {
        let failed = event.event_type == EventType::PaymentFailed;
        assert!(!failed || is.status == PaymentStatus::Failed);
        let paid = event.event_type == EventType::PaymentSucceeded;
        assert!(!paid || is.captured_minor > was.captured_minor);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_local_rejects: 10_000_000, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_under_any_sequence(new in new_payment(), steps in vec(step(), 50)) {
        let mut counter = 0;
        let mut state = created(new, &mut counter).state;
        for step in &steps {
            if let Some(plan) = run(&state, step, &mut counter) {
                check(&state, &plan);
                if matches!(step, Step::BeTold(..)) {
                    check_confirmation(&state, &plan.state);
                }
                state = plan.state;
            }
        }
        // Nothing but a person or evidence ends an unknown outcome, and a person only one that needs review.
        for operation in &state.operations {
            if operation.state == OperationState::Unknown {
                let gave_up = plan::Resolve {
                    operation: operation.id,
                    outcome: plan::Resolution::Failed,
                    reason: Reason::parse("no").unwrap(),
                };
                let resolved = stamped(&mut counter, |stamp| {
                    plan::resolve(&state, &gave_up, &[], stamp)
                });
                prop_assert_eq!(resolved.is_ok(), operation.needs_review);
            }
        }
    }
}

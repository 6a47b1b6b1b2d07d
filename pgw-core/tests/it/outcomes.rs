//! What each answer, and each silence, of a processor makes of a payment.

use std::time::Duration;

use pgw_core::error::Error;
use pgw_core::payment::plan::{NewCapture, NewRefund, PlanError, RequestedAmount, Resolve};
use pgw_core::payment::{CaptureMethod, OperationState, PaymentStatus, plan};
use pgw_core::processor::Resolution;
use pgw_core::text::Reason;

use crate::world::{World, new, pass};

fn part(minor: &str) -> RequestedAmount {
    RequestedAmount::Decimal(minor.into())
}

#[tokio::test(start_paused = true)]
async fn every_token_ends_as_documented() {
    let world = World::new();
    let _worker = world.worker();
    for (token, status, failure) in [
        ("tok_visa", PaymentStatus::Succeeded, None),
        ("tok_decline_insufficient_funds", PaymentStatus::Failed, Some("insufficient_funds")),
        ("tok_pending_then_ok", PaymentStatus::Succeeded, None),
        ("tok_pending_then_fail", PaymentStatus::Failed, None),
        ("tok_timeout_before_charge", PaymentStatus::Succeeded, None),
        ("tok_timeout_after_charge", PaymentStatus::Succeeded, None),
        ("tok_reset_after_charge", PaymentStatus::Succeeded, None),
        ("tok_5xx_after_charge", PaymentStatus::Succeeded, None),
        ("tok_garbage_body", PaymentStatus::Succeeded, None),
        ("tok_slow_500", PaymentStatus::Succeeded, None),
        ("tok_unreachable", PaymentStatus::Failed, Some("processor_unreachable")),
        ("tok_nonsense", PaymentStatus::Failed, Some("invalid_payment_method")),
        ("tok_requires_action", PaymentStatus::RequiresAction, None),
    ] {
        let id = world.create(token).await.payment().id;
        let state = world.settled(id, None).await;
        assert_eq!(state.payment.status, status, "{token}");
        let code = state.payment.failure.as_ref().map(|failure| failure.code());
        if failure.is_some() {
            assert_eq!(code, failure, "{token}");
        }
        let charged = if status == PaymentStatus::Succeeded { 4_999 } else { 0 };
        assert_eq!(state.payment.captured_minor, charged, "{token}");
        assert_eq!(world.sandbox.captured_minor(id), charged, "{token}: the processor agrees");
        assert!(world.sandbox.executions(state.operations[0].id) <= 1, "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_told_and_then_resolved() {
    let world = World::deaf(Resolution::Lookup { lag: Duration::from_secs(1) });
    let _worker = world.worker();
    let id = world.create("tok_timeout_after_charge").await.payment().id;
    let state = world.settled(id, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    assert_eq!(
        world.event_types(id).await,
        ["payment.created", "payment.unknown", "payment.resolved", "payment.succeeded"]
    );
}

#[tokio::test(start_paused = true)]
async fn each_capability_resolves_in_its_own_way() {
    let hour = Duration::from_secs(60 * 60);
    for (resolution, token, status, executions) in [
        (
            Resolution::Lookup { lag: hour },
            "tok_timeout_before_charge",
            PaymentStatus::Succeeded,
            1,
        ),
        (Resolution::Lookup { lag: hour }, "tok_timeout_after_charge", PaymentStatus::Succeeded, 1),
        (
            Resolution::Replay { window: 24 * hour },
            "tok_timeout_after_charge",
            PaymentStatus::Succeeded,
            1,
        ),
        (
            Resolution::Replay { window: 24 * hour },
            "tok_timeout_before_charge",
            PaymentStatus::Succeeded,
            1,
        ),
        (Resolution::CancelByKey, "tok_timeout_after_charge", PaymentStatus::Failed, 1),
        (Resolution::CancelByKey, "tok_timeout_before_charge", PaymentStatus::Failed, 0),
        (Resolution::EvidenceOnly, "tok_timeout_after_charge", PaymentStatus::Succeeded, 1),
    ] {
        let asks = resolution != Resolution::EvidenceOnly;
        let world = if asks { World::deaf(resolution) } else { World::resolving(resolution) };
        let _worker = world.worker();
        let id = world.create(token).await.payment().id;
        let state = world.settled(id, None).await;
        assert_eq!(state.payment.status, status, "{resolution:?} {token}");
        assert_eq!(
            world.sandbox.executions(state.operations[0].id),
            executions,
            "{resolution:?} {token}"
        );
        assert_eq!(
            world.sandbox.captured_minor(id),
            state.payment.captured_minor,
            "{resolution:?} {token}"
        );
        assert_eq!(world.event_types(id).await.contains(&"payment.unknown"), asks);
    }
}

#[tokio::test(start_paused = true)]
async fn no_timer_fails_an_unknown_outcome_and_a_person_settles_it() {
    let world = World::resolving(Resolution::EvidenceOnly);
    let _worker = world.unhurried_worker();
    // The call never arrived, so no notification will ever tell.
    let id = world.create("tok_timeout_before_charge").await.payment().id;
    let mut state = world.state(id).await;
    while !state.payment.needs_review {
        pass(Duration::from_secs(60 * 60)).await;
        state = world.state(id).await;
        assert!(
            matches!(state.payment.status, PaymentStatus::Pending | PaymentStatus::Unknown),
            "{:?}",
            state.payment.status
        );
    }
    assert_eq!(state.payment.status, PaymentStatus::Unknown);
    let resolve = Resolve {
        operation: state.operations[0].id,
        outcome: plan::Resolution::Failed,
        reason: Reason::parse("the processor's report of the day does not have it").unwrap(),
    };
    let resolved = world.verbs().resolve(id, resolve.clone()).await.unwrap();
    assert_eq!(resolved.payment.status, PaymentStatus::Failed);
    assert!(!resolved.payment.needs_review);
    let again = world.verbs().resolve(id, resolve).await.unwrap_err();
    assert!(matches!(again, Error::Refused(PlanError::State { .. })), "{again}");
}

#[tokio::test(start_paused = true)]
async fn another_amount_than_asked_needs_a_person() {
    let world = World::new();
    let _worker = world.worker();
    let id = world.create("tok_amount_mismatch").await.payment().id;
    let mut state = world.state(id).await;
    while !state.payment.needs_review {
        pass(Duration::from_secs(1)).await;
        state = world.state(id).await;
    }
    assert_eq!(state.payment.status, PaymentStatus::Unknown);
    assert_eq!(state.payment.failure.unwrap().code(), "amount_mismatch");
    assert_eq!(state.payment.captured_minor, 0, "nothing is invented");
}

#[tokio::test(start_paused = true)]
async fn captures_and_refunds_never_exceed_what_is_there() {
    let world = World::new();
    let _worker = world.worker();
    let id = world.authorize("tok_visa").await;
    let pgw = world.verbs();
    let capture = |amount: &str| NewCapture { amount: part(amount), ..NewCapture::default() };
    let refund = |amount: &str| NewRefund { amount: part(amount), ..NewRefund::default() };

    let over = pgw.capture_payment(id, capture("50")).await.unwrap_err();
    assert!(matches!(over, Error::Refused(PlanError::AboveRest { .. })), "{over}");
    let first = pgw.capture_payment(id, capture("30")).await.unwrap();
    assert_eq!(
        first.payment().capture_reserved_minor,
        3_000,
        "set aside before the processor knows"
    );
    let over = pgw.capture_payment(id, capture("20")).await.unwrap_err();
    assert!(matches!(over, Error::Refused(PlanError::AboveRest { .. })), "{over}");
    let state = world.settled(id, Some(first.operation)).await;
    assert_eq!(state.payment.status, PaymentStatus::PartiallyCaptured);

    let back = pgw.refund_payment(id, refund("30.00")).await.unwrap();
    let over = pgw.refund_payment(id, refund("0.01")).await.unwrap_err();
    assert!(matches!(over, Error::Refused(PlanError::AboveRest { .. })), "{over}");
    let state = world.settled(id, Some(back.operation)).await;
    assert_eq!(state.payment.status, PaymentStatus::Refunded);
    let rest = pgw.capture_payment(id, NewCapture::default()).await.unwrap();
    let state = world.settled(id, Some(rest.operation)).await;
    assert_eq!((state.payment.captured_minor, state.payment.refunded_minor), (4_999, 3_000));
    assert_eq!(world.sandbox.captured_minor(id), 4_999);
    assert_eq!(world.sandbox.refunded_minor(id), 3_000);
    let precise = pgw.refund_payment(id, refund("1.001")).await.unwrap_err();
    assert!(matches!(precise, Error::Refused(PlanError::Amount(_))), "{precise}");
}

#[tokio::test(start_paused = true)]
async fn concurrent_refunds_share_what_is_left() {
    let world = World::new();
    let _worker = world.worker();
    let id = world.create("tok_visa").await.payment().id;
    world.settled(id, None).await;
    let mut refunds = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let gateway = world.gateway.clone();
        refunds.spawn(async move {
            let amount = RequestedAmount::Decimal("9".into());
            gateway
                .host()
                .refund_payment(id, NewRefund { amount, ..NewRefund::default() })
                .await
                .is_ok()
        });
    }
    let accepted = refunds.join_all().await.into_iter().filter(|ok| *ok).count();
    assert_eq!(accepted, 5, "5 × 9.00 of 49.99");
    pass(Duration::from_secs(60)).await;
    assert_eq!(world.state(id).await.payment.refunded_minor, 4_500);
    assert_eq!(world.sandbox.refunded_minor(id), 4_500);
}

#[tokio::test(start_paused = true)]
async fn a_refund_that_fails_gives_its_amount_back() {
    let world = World::new();
    let _worker = world.worker();
    let id = world.create("tok_refund_pending_then_fail").await.payment().id;
    world.settled(id, None).await;
    let refund = world.verbs().refund_payment(id, NewRefund::default()).await.unwrap();
    let state = world.settled(id, Some(refund.operation)).await;
    assert_eq!(state.operation(refund.operation).unwrap().state, OperationState::Failed);
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    assert_eq!(state.payment.refundable_minor(), 4_999);
    let events = world.event_types(id).await;
    assert_eq!(events[2..], ["refund.created", "refund.pending", "refund.failed"]);
}

#[tokio::test(start_paused = true)]
async fn the_customer_acts_or_time_runs_out() {
    let world = World::new();
    let _worker = world.worker();
    let confirmed = world.create("tok_requires_action").await.payment().id;
    let state = world.settled(confirmed, None).await;
    assert!(state.payment.next_action.is_some());
    world.verbs().confirm_payment(confirmed).await.unwrap();
    world.verbs().confirm_payment(confirmed).await.unwrap();
    let state = world.settled(confirmed, None).await;
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    assert_eq!(state.payment.next_action, None);
    assert_eq!(world.sandbox.executions(state.operations[0].id), 1);

    let mut late = new("tok_requires_action");
    late.expires_in = Some(Duration::from_secs(120));
    let late = world.verbs().create_payment(late).await.unwrap().payment().id;
    world.settled(late, None).await;
    pass(Duration::from_secs(200)).await;
    let state = world.state(late).await;
    assert_eq!(state.payment.status, PaymentStatus::Expired);
    assert_eq!(state.payment.authorized_minor, 0);
    assert_eq!(world.event_types(late).await.last(), Some(&"payment.expired"));
}

#[tokio::test(start_paused = true)]
async fn an_expiry_that_the_processor_refuses_is_tried_again_days_later_not_at_every_sweep() {
    let world = World::new();
    let _worker = world.unhurried_worker();
    let mut held = new("tok_cancel_decline_generic").with_capture(CaptureMethod::Manual);
    held.expires_in = Some(Duration::from_secs(60 * 60));
    let id = world.verbs().create_payment(held).await.unwrap().payment().id;
    pass(Duration::from_secs(50 * 60 * 60)).await;
    let state = world.state(id).await;
    assert_eq!(state.payment.status, PaymentStatus::Authorized);
    assert_eq!(state.operations.len(), 4, "the authorization and a cancel a day");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_or_not_yet_sent_can_be_canceled() {
    let world = World::new();
    // Without a worker nothing is sent, so canceling needs nobody.
    let unsent = world.create("tok_visa").await.payment().id;
    let receipt = world.verbs().cancel_payment(unsent, None).await.unwrap();
    assert_eq!(receipt.payment().status, PaymentStatus::Canceled);
    let _worker = world.worker();
    let held = world.authorize("tok_visa").await;
    let cancel = world.verbs().cancel_payment(held, None).await.unwrap();
    let refused = world.verbs().capture_payment(held, NewCapture::default()).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(PlanError::State { .. })), "{refused}");
    let state = world.settled(held, Some(cancel.operation)).await;
    assert_eq!(state.payment.status, PaymentStatus::Canceled);
    pass(Duration::from_secs(60)).await;
    assert_eq!(world.sandbox.authorized_minor(unsent), 0);
    let paid = world.create("tok_visa").await.payment().id;
    world.settled(paid, None).await;
    let refused = world.verbs().cancel_payment(paid, None).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(PlanError::State { .. })), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_dispute_is_told_and_stops_refunds() {
    let world = World::new();
    let _worker = world.worker();
    let id = world.create("tok_dispute").await.payment().id;
    world.settled(id, None).await;
    pass(Duration::from_secs(30)).await;
    assert!(world.state(id).await.payment.disputed);
    assert_eq!(world.event_types(id).await.last(), Some(&"payment.disputed"));
    let refused = world.verbs().refund_payment(id, NewRefund::default()).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(PlanError::State { .. })), "{refused}");
}

//! Payments: creation, reads, and what moves them on.

use std::time::Duration;

use axum::http::{StatusCode, header};
use pgw_core::currency::Currency;
use pgw_core::gateway::{Origin, Receipt};
use pgw_core::id::{OperationId, PaymentId};
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::payment::{Operation, PaymentState};
use pgw_core::representation;
use pgw_core::storage::PaymentFilter;
use pgw_core::text::CustomerId;

use super::{Call, Outcome};
use crate::answer::Answer;
use crate::dto;
use crate::extract::Query;
use crate::problem::{Problem, ProblemKind};
use crate::telemetry;

pub(super) async fn create(call: Call) -> Outcome {
    let key = call.incoming.idempotency_key()?;
    let (call, body) = call.json().await?;
    let new = dto::new_payment(&body, call.caller.scope.mode, key)?;
    let receipt = call.gateway().create_payment(new).await?;
    let id = receipt.payment().id;
    telemetry::is_about_payment(id);
    let location = call.location("payments", &id.to_string());
    let answer = match (call.preferred_wait, receipt.answer.clone()) {
        (None, Some(stored)) => Answer::stored(stored),
        (None, None) => {
            Answer::json(StatusCode::CREATED, representation::payment(receipt.payment()))
        }
        (Some(wait), _) => {
            let state = wait_for(&call, receipt.state, None, wait).await;
            Answer::json(StatusCode::CREATED, representation::payment(&state.payment))
        }
    };
    Ok(mark(&call, receipt.origin, answer).with(header::LOCATION, &location))
}

pub(super) async fn list(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let filter = filter(&mut query);
    let page = query.page();
    query.finish()?;
    let page = call.gateway().payments(&filter, page).await?;
    Ok(Answer::page(&page.map(|payment| representation::payment(&payment))))
}

pub(super) async fn one(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let state = call.payment(call.incoming.name("id")?).await?;
    Ok(Answer::json(StatusCode::OK, representation::payment(&state.payment)))
}

/// The timeline, oldest first. Its cursor is the sequence of the last event that was seen.
pub(super) async fn events(call: Call) -> Outcome {
    let id: PaymentId = call.incoming.name("id")?;
    let mut query = call.incoming.query()?;
    let limit = query.limit();
    let after = query.number("after", 0, SEQUENCE_MAX).unwrap_or(0);
    query.finish()?;
    // Asked for one more than shown, to know whether there is more.
    let mut events = call.gateway().payment_events(id, after, limit + 1).await?;
    if events.is_empty() {
        call.payment(id).await?;
    }
    let has_more = events.len() > limit;
    events.truncate(limit);
    let next = events.last().and_then(|event| event.sequence).filter(|_| has_more);
    let rows: Vec<_> = events.iter().map(representation::event).collect();
    Ok(Answer::list(&rows, has_more, next.map(|next| next.to_string()).as_deref()))
}

/// All operations, oldest first: a payment has at most a hundred.
pub(super) async fn operations(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let state = call.payment(call.incoming.name("id")?).await?;
    let rows: Vec<_> = state.operations.iter().map(representation::operation).collect();
    Ok(Answer::list(&rows, false, None))
}

pub(super) async fn confirm(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    dto::nothing(&body)?;
    let receipt = call.once()?.confirm_payment(id).await?;
    settled(&call, receipt, None, representation::payment_with_operation).await
}

pub(super) async fn capture(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let key = call.incoming.idempotency_key()?;
    let (call, body) = call.json().await?;
    let receipt = call.gateway().capture_payment(id, dto::new_capture(&body, key.clone())?).await?;
    settled(&call, receipt, key.as_ref(), representation::payment_with_operation).await
}

pub(super) async fn cancel(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let key = call.incoming.idempotency_key()?;
    let (call, body) = call.json().await?;
    dto::nothing(&body)?;
    let receipt = call.gateway().cancel_payment(id, key.clone()).await?;
    settled(&call, receipt, key.as_ref(), representation::payment_with_operation).await
}

pub(super) async fn resolve(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    Ok(Answer::once(call.once()?.resolve(id, dto::resolve(&body)?).await?))
}

/// Waits for the operation of a receipt and answers 200 when it is settled, 202 when it is not. With a key and without a
/// preference, the answer is what is stored for the key, so that replays are byte-identical.
pub(super) async fn settled(
    call: &Call,
    receipt: Receipt,
    key: Option<&IdempotencyKey>,
    render: fn(&PaymentState, &Operation) -> Vec<u8>,
) -> Outcome {
    let Receipt { state, operation, answer, origin } = receipt;
    let wants_bytes = call.preferred_wait.is_none();
    if let Some(stored) = answer.filter(|_| wants_bytes) {
        return Ok(mark(call, origin, Answer::stored(stored)));
    }
    let wait = call.preferred_wait.unwrap_or(WAIT_DEFAULT);
    let state = wait_for(call, state, Some(operation), wait).await;
    if let Some(key) = key.filter(|_| wants_bytes)
        && let Ok(Some(stored)) = call.gateway().stored_answer(key).await
    {
        return Ok(mark(call, origin, Answer::stored(stored)));
    }
    let Some(operation) = state.operation(operation) else {
        return Err(Problem::new(ProblemKind::Internal, "The operation is gone."));
    };
    let status = if operation.state.is_settled() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(mark(call, origin, Answer::json(status, render(&state, operation))))
}

/// Waits for an answer. What was asked for is committed by now: when waiting fails the caller hears how things stood
/// then, rather than an error that would have them ask again.
async fn wait_for(
    call: &Call,
    state: PaymentState,
    operation: Option<OperationId>,
    wait: Duration,
) -> PaymentState {
    match call.gateway().wait_for(state.payment.id, operation, wait).await {
        Ok(now) => now,
        Err(error) => {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(error, "an outcome was not waited for");
            state
        }
    }
}

/// The headers that say whether it is a replay and which preference was heeded.
fn mark(call: &Call, origin: Origin, answer: Answer) -> Answer {
    let answer = answer.by(origin);
    match call.preferred_wait {
        Some(wait) => answer.with(super::PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs())),
        None => answer,
    }
}

fn filter(query: &mut Query) -> PaymentFilter {
    PaymentFilter {
        status: query.parse("status", str::parse),
        customer: query.parse("customer_id", CustomerId::parse),
        currency: query.parse("currency", str::parse::<Currency>),
        created_from: query.parse("created_from", str::parse),
        created_before: query.parse("created_before", str::parse),
        idempotency_key: query.parse("idempotency_key", IdempotencyKey::parse),
        ..PaymentFilter::default()
    }
}

/// How long a capture, cancel or refund is waited for when the caller does not say: most processors answer in two seconds,
/// and few clients give up before ten.
const WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// The largest sequence storage can hold.
const SEQUENCE_MAX: u64 = i64::MAX as u64;

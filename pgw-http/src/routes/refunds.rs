//! Refunds. The seed's `PATCH …/refund` and `POST …/refunds` are one handler.

use axum::http::StatusCode;
use pgw_core::representation;

use super::{Call, Outcome, payments};
use crate::answer::Answer;
use crate::dto;
use crate::problem::Problem;

pub(super) async fn create(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let key = call.incoming.idempotency_key()?;
    let (call, body) = call.json().await?;
    let receipt = call.gateway().refund_payment(id, dto::new_refund(&body, key.clone())?).await?;
    payments::settled(&call, receipt, key.as_ref(), |state, operation| {
        representation::refund(&state.payment.scope, operation)
    })
    .await
}

pub(super) async fn list(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let payment = query.parse("payment_id", str::parse);
    let page = query.page();
    query.finish()?;
    let page = call.gateway().refunds(payment, page).await?;
    let scope = &call.caller.scope;
    Ok(Answer::page(&page.map(|refund| representation::refund(scope, &refund))))
}

pub(super) async fn one(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let refund = call.gateway().refund(call.incoming.name("id")?).await?;
    let refund = refund.ok_or_else(Problem::not_found)?;
    Ok(Answer::json(StatusCode::OK, representation::refund(&call.caller.scope, &refund)))
}

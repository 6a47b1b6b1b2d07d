//! Deliveries, on the wire `webhook-events`: each is one event on its way to one endpoint.

use axum::http::StatusCode;
use pgw_core::id::DeliveryId;
use pgw_core::representation;
use pgw_core::storage::DeliveryFilter;

use super::{Call, Outcome};
use crate::answer::Answer;
use crate::dto;
use crate::problem::Problem;

pub(super) async fn list(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let filter = DeliveryFilter {
        status: query.parse("status", str::parse),
        endpoint: query.parse("endpoint_id", str::parse),
        event_type: query.parse("event_type", str::parse),
        created_from: query.parse("created_from", str::parse),
        created_before: query.parse("created_before", str::parse),
    };
    let page = query.page();
    query.finish()?;
    let page = call.gateway().deliveries(&filter, page).await?;
    Ok(Answer::page(&page.map(|delivery| representation::delivery(&delivery))))
}

pub(super) async fn one(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let work = call.gateway().delivery(call.incoming.name("id")?).await?;
    let work = work.ok_or_else(Problem::not_found)?;
    Ok(Answer::json(StatusCode::OK, representation::delivery(&work.delivery)))
}

/// The latest attempts, oldest first. There is no cursor: a round has about ten, and only the latest rounds matter.
pub(super) async fn attempts(call: Call) -> Outcome {
    let id: DeliveryId = call.incoming.name("id")?;
    let mut query = call.incoming.query()?;
    let limit = query.limit();
    query.finish()?;
    let attempts = call.gateway().attempts(id, limit).await?;
    if attempts.is_empty() && call.gateway().delivery(id).await?.is_none() {
        return Err(Problem::not_found());
    }
    let rows: Vec<_> = attempts.iter().map(representation::attempt).collect();
    Ok(Answer::list(&rows, false, None))
}

pub(super) async fn retry(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    dto::nothing(&body)?;
    Ok(Answer::once(call.once()?.retry_delivery(id).await?))
}

pub(super) async fn retry_all(call: Call) -> Outcome {
    let (call, body) = call.json().await?;
    let (filter, after, run) = dto::bulk_retry(&body)?;
    Ok(Answer::once(call.once()?.retry_deliveries(&filter, after, run).await?))
}

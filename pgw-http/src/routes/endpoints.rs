//! Webhook endpoints. A secret is in the answer to the creation or rotation that made it and nowhere else.

use axum::http::{StatusCode, header};
use pgw_core::representation;

use super::{Call, Outcome};
use crate::answer::Answer;
use crate::dto;
use crate::problem::Problem;

pub(super) async fn create(call: Call) -> Outcome {
    let (call, body) = call.json().await?;
    let made = call.once()?.create_endpoint(dto::new_endpoint(&body)?).await?;
    let location = call.location_of("webhook-endpoints", &made);
    Ok(Answer::once(made).with(header::LOCATION, &location))
}

pub(super) async fn list(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let page = query.page();
    query.finish()?;
    let page = call.gateway().endpoints(page).await?;
    Ok(Answer::page(&page.map(|endpoint| representation::endpoint(&endpoint))))
}

pub(super) async fn one(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let endpoint = call.gateway().endpoint(call.incoming.name("id")?).await?;
    let endpoint = endpoint.ok_or_else(Problem::not_found)?;
    Ok(Answer::json(StatusCode::OK, representation::endpoint(&endpoint)))
}

pub(super) async fn update(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    Ok(Answer::once(call.once()?.update_endpoint(id, dto::endpoint_update(&body)?).await?))
}

pub(super) async fn delete(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    call.gateway().delete_endpoint(call.incoming.name("id")?).await?;
    Ok(Answer::empty())
}

pub(super) async fn rotate_secret(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    Ok(Answer::once(call.once()?.rotate_secret(id, dto::rotation(&body)?).await?))
}

/// Sends a `test.ping`; the answer is its delivery.
pub(super) async fn test(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    dto::nothing(&body)?;
    Ok(Answer::once(call.once()?.test_endpoint(id).await?))
}

/// Replays what the endpoint missed since a time.
pub(super) async fn recover(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    let (since, after) = dto::recover(&body)?;
    Ok(Answer::once(call.once()?.recover_endpoint(id, since, after).await?))
}

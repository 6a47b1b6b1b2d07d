//! Webhook endpoints. A secret is in the answer to the creation or rotation that made it and nowhere else.

use axum::http::{StatusCode, header};
use pgw_core::representation;

use super::{Call, Outcome};
use crate::answer::Answer;
use crate::dto;
use crate::problem::Problem;

pub(super) async fn create(call: Call) -> Outcome {
    let (call, body) = call.json().await?;
    let created = call.gateway().create_endpoint(dto::new_endpoint(&body)?).await?;
    let location = call.location("webhook-endpoints", &created.endpoint.id.to_string());
    let body = representation::endpoint_with_secret(&created);
    Ok(Answer::json(StatusCode::CREATED, body).with(header::LOCATION, &location))
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
    let endpoint = call.gateway().update_endpoint(id, dto::endpoint_update(&body)?).await?;
    Ok(Answer::json(StatusCode::OK, representation::endpoint(&endpoint)))
}

pub(super) async fn delete(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    call.gateway().delete_endpoint(call.incoming.name("id")?).await?;
    Ok(Answer::empty())
}

pub(super) async fn rotate_secret(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    let rotated = call.gateway().rotate_secret(id, dto::rotation(&body)?).await?;
    Ok(Answer::json(StatusCode::OK, representation::endpoint_with_secret(&rotated)))
}

/// Sends a `test.ping`; the answer is its delivery.
pub(super) async fn test(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    dto::nothing(&body)?;
    let delivery = call.gateway().test_endpoint(id).await?;
    Ok(Answer::json(StatusCode::ACCEPTED, representation::delivery(&delivery)))
}

/// Replays what the endpoint missed since a time.
pub(super) async fn recover(call: Call) -> Outcome {
    let id = call.incoming.name("id")?;
    let (call, body) = call.json().await?;
    let (since, after) = dto::recover(&body)?;
    let retry = call.gateway().recover_endpoint(id, since, after).await?;
    Ok(Answer::json(StatusCode::ACCEPTED, representation::bulk_retry(&retry)))
}

//! API keys. The text of a key is in the answer to its creation and nowhere else; keys are revoked, never deleted.

use axum::http::{StatusCode, header};
use pgw_core::representation;

use super::{Call, Outcome};
use crate::answer::Answer;
use crate::dto;
use crate::problem::Problem;

pub(super) async fn create(call: Call) -> Outcome {
    let (call, body) = call.json().await?;
    let made = call.once()?.create_api_key(dto::new_api_key(&body)?).await?;
    let location = call.location_of("api-keys", &made);
    Ok(Answer::once(made).with(header::LOCATION, &location))
}

pub(super) async fn list(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let page = query.page();
    query.finish()?;
    let page = call.gateway().api_keys(page).await?;
    Ok(Answer::page(&page.map(|key| representation::api_key(&key))))
}

pub(super) async fn one(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let key = call.gateway().api_key(call.incoming.name("id")?).await?;
    let key = key.ok_or_else(Problem::not_found)?;
    Ok(Answer::json(StatusCode::OK, representation::api_key(&key)))
}

/// Answers with the key, which stays: when it was revoked is what the caller wants to see.
pub(super) async fn revoke(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let key = call.gateway().revoke_api_key(call.incoming.name("id")?).await?;
    Ok(Answer::json(StatusCode::OK, representation::api_key(&key)))
}

pub(super) async fn revoke_all(call: Call) -> Outcome {
    let (call, body) = call.json().await?;
    let (which, reason, after) = dto::revocation(&body)?;
    Ok(Answer::once(call.once()?.revoke_api_keys(which, &reason, after).await?))
}

//! The denylist: networks that nobody is let in from, whatever key they bring. It is one for all merchants, so it is the operator's alone.

use pgw_core::representation;

use super::{Call, Outcome};
use crate::answer::Answer;
use crate::dto;
use crate::problem::Problem;

pub(super) async fn create(call: Call) -> Outcome {
    call.of_operator()?;
    let (call, body) = call.json().await?;
    Ok(Answer::once(call.once()?.deny_network(dto::new_denied_network(&body)?).await?))
}

pub(super) async fn list(call: Call) -> Outcome {
    call.of_operator()?;
    let mut query = call.incoming.query()?;
    let page = query.page();
    query.finish()?;
    let page = call.gateway().denied_networks(page).await?;
    Ok(Answer::page(&page.map(|entry| representation::denied_network(&entry))))
}

/// The network is a parameter of the query, because its slash does not survive every proxy as a part of a path.
pub(super) async fn delete(call: Call) -> Outcome {
    call.of_operator()?;
    let mut query = call.incoming.query()?;
    let network = query.require("network", str::parse);
    query.finish()?;
    call.gateway().allow_network(network.ok_or_else(Problem::not_found)?).await?;
    Ok(Answer::empty())
}

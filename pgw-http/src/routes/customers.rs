//! Customers: their erasure, their consents, and the export of everything about them. A customer is whatever id the caller gave payments.

use axum::body::Body;
use axum::http::{StatusCode, header};
use futures_util::stream;
use pgw_core::gateway::{Export, ExportFormat};
use pgw_core::payment::UnknownName;
use pgw_core::representation;
use pgw_core::text::{CustomerId, Purpose};

use super::{Call, Outcome};
use crate::answer::Answer;
use crate::dto;
use crate::extract::Incoming;
use crate::problem::Problem;

/// Marks the customer; the answer is the erasure, whose work goes on.
pub(super) async fn erase(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let customer = customer(&call.incoming)?;
    let erasure = call.gateway().erase_customer(&customer).await?;
    Ok(Answer::json(StatusCode::ACCEPTED, representation::erasure(&erasure)))
}

pub(super) async fn erasures(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let page = query.page();
    query.finish()?;
    let page = call.gateway().erasures(None, page).await?;
    Ok(Answer::page(&page.map(|erasure| representation::erasure(&erasure))))
}

pub(super) async fn erasure(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let erasure = call.gateway().erasure(call.incoming.name("id")?).await?;
    let erasure = erasure.ok_or_else(Problem::not_found)?;
    Ok(Answer::json(StatusCode::OK, representation::erasure(&erasure)))
}

pub(super) async fn give_consent(call: Call) -> Outcome {
    let customer = customer(&call.incoming)?;
    let (call, body) = call.json().await?;
    Ok(Answer::once(call.once()?.give_consent(&customer, dto::new_consent(&body)?).await?))
}

pub(super) async fn consents(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let consents = call.gateway().consents(&customer(&call.incoming)?).await?;
    let rows: Vec<_> = consents.iter().map(representation::consent).collect();
    Ok(Answer::list(&rows, false, None))
}

pub(super) async fn withdraw_consent(call: Call) -> Outcome {
    call.incoming.query()?.finish()?;
    let customer = customer(&call.incoming)?;
    let purpose: String = call.incoming.name("purpose")?;
    let purpose = Purpose::parse(&purpose).map_err(|_| Problem::not_found())?;
    let withdrawn = call.gateway().withdraw_consent(&customer, &purpose).await?;
    let rows: Vec<_> = withdrawn.iter().map(representation::consent).collect();
    Ok(Answer::list(&rows, false, None))
}

/// Everything about a customer, as a file that is written while it is read.
pub(super) async fn export(call: Call) -> Outcome {
    let customer = customer(&call.incoming)?;
    let mut query = call.incoming.query()?;
    let format = query.parse("format", |text| match text {
        "json" => Ok(ExportFormat::Json),
        "csv" => Ok(ExportFormat::Csv),
        _ => Err(UnknownName),
    });
    query.finish()?;
    let format = format.unwrap_or(ExportFormat::Json);
    let export = call.api.gateway.export_customer(call.caller.clone(), customer, format).await?;
    let (kind, name) = match format {
        ExportFormat::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"customer.csv\""),
        _ => ("application/json", "attachment; filename=\"customer.json\""),
    };
    Ok(Answer::stream(StatusCode::OK, kind, chunks(export)).with(header::CONTENT_DISPOSITION, name))
}

/// The body breaks off when the storage fails, so that nobody takes a part for the whole.
fn chunks(export: Export) -> Body {
    Body::from_stream(stream::unfold(Some(export), |export| async move {
        let mut export = export?;
        match export.next().await {
            Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some(export))),
            Err(error) => {
                tracing::warn!(%error, "an export broke off");
                Some((Err(error), None))
            }
        }
    }))
}

/// The customer of the path. What cannot be an id is nobody's.
fn customer(incoming: &Incoming) -> Result<CustomerId, Problem> {
    let text: String = incoming.name("customer")?;
    CustomerId::parse(&text).map_err(|_| Problem::not_found())
}

//! What processors tell us unasked. They hold no API key: the processor's own signature proves who they are.

use axum::http::StatusCode;
use bytes::Bytes;
use pgw_core::processor::RawNotification;

use super::{OpenCall, Outcome};
use crate::answer::Answer;

/// Answers 2xx only once what it says is committed, so that a processor sends again whatever was lost.
pub(super) async fn receive(call: OpenCall) -> Outcome {
    let OpenCall { api, mut incoming } = call;
    let name: String = incoming.name("name")?;
    let headers = incoming.parts.headers.iter();
    let headers = headers
        .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    let body = incoming.bytes().await?;
    let raw = RawNotification { headers, body };
    api.gateway.receive_notification(&name, &raw).await?;
    Ok(Answer::json(StatusCode::OK, &b"{\"received\":true}"[..]))
}

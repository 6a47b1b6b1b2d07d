//! The id of a request, which its answer, the logs and the audit log share.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use pgw_core::env::Env;
use pgw_core::pan::contains_card_number;

/// The caller's `X-Request-Id` if it is well-formed, else a new one. It goes to logs, so what looks like a card number is
/// not well-formed.
pub(crate) fn of(headers: &HeaderMap, env: &Env) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        plain && (1..=LEN_MAX).contains(&id.len()) && !contains_card_number(id)
    });
    match given {
        Some(id) => id.into(),
        None => format!("req_{}", env.uuid().simple()).into(),
    }
}

/// Marks an answer, or a request that has not come to the routes yet.
pub(crate) fn mark(headers: &mut HeaderMap, id: &str) {
    let id = HeaderValue::from_str(id).expect("a request id is checked or minted as ASCII");
    headers.insert(REQUEST_ID, id);
}

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken from a caller: fits UUIDs and trace ids, and keeps log lines short.
const LEN_MAX: usize = 64;

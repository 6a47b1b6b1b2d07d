//! Whether this process serves at all. What it depends on is not asked: a restart would not mend that.

use axum::http::StatusCode;

use super::{OpenCall, Outcome};
use crate::answer::Answer;

pub(super) async fn live(_call: OpenCall) -> Outcome {
    Ok(Answer::json(StatusCode::OK, &b"{\"status\":\"ok\"}"[..]))
}

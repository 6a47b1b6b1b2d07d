//! What the `type` of a problem leads to, where it leads to us.

use axum::http::StatusCode;

use super::Outcome;
use crate::answer::Answer;
use crate::problem::{Problem, ProblemKind};

/// The paragraph about the kind of problem that this path ends in.
pub(super) fn about(path: &str) -> Outcome {
    let slug = path.rsplit('/').next().unwrap_or_default();
    let kind = ProblemKind::ALL.into_iter().find(|kind| kind.slug() == slug);
    let kind = kind.ok_or_else(Problem::not_found)?;
    let text = format!("{}\n\n{}\n", kind.title(), kind.description());
    Ok(Answer::text(StatusCode::OK, text))
}

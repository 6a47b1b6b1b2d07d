//! The audit log.

use pgw_core::representation;
use pgw_core::storage::AuditFilter;

use super::{Call, Outcome};
use crate::answer::Answer;

/// Newest first. A page that a filter lets little through to may be short, even empty, while `has_more` is true.
pub(super) async fn list(call: Call) -> Outcome {
    let mut query = call.incoming.query()?;
    let filter = AuditFilter {
        from: query.parse("created_from", str::parse),
        before: query.parse("created_before", str::parse),
        actor: query.parse("actor", str::parse),
        action: query.parse("action", str::parse),
        object: query.parse("object", str::parse),
        outcome: query.parse("outcome", str::parse),
    };
    let page = query.page();
    query.finish()?;
    let page = call.gateway().audit(&filter, page).await?;
    Ok(Answer::page(&page.map(|row| representation::audit_row(&row))))
}

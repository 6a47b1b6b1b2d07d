//! The JSON form of an audit row.

use serde::Serialize;

use crate::access::{AuditChange, AuditRow};
use crate::id::AuditId;
use crate::timestamp::Timestamp;

use super::render;

/// An audit row: the six facts of PCI DSS 10.2.2 (who, what, when, whether it worked, from where, to what), each always there; and the
/// request, and what changed.
#[must_use]
pub fn audit_row(row: &AuditRow) -> Vec<u8> {
    render(&AuditRowView {
        object: "audit_row",
        id: row.id,
        merchant_id: row.scope.merchant.as_str(),
        mode: row.scope.mode.as_str(),
        created_at: row.at,
        actor: row.actor.to_string(),
        action: row.action.as_str(),
        outcome: row.outcome.as_str(),
        origin: row.origin.map_or_else(|| UNKNOWN.to_owned(), |origin| origin.to_string()),
        target: row.object.to_string(),
        request_id: row.request_id.as_deref(),
        changes: row.changes.iter().map(ChangeView::of).collect(),
    })
}

#[derive(Serialize)]
struct AuditRowView<'a> {
    object: &'static str,
    id: AuditId,
    merchant_id: &'a str,
    mode: &'static str,
    created_at: Timestamp,
    actor: String,
    action: &'static str,
    outcome: &'static str,
    origin: String,
    target: String,
    request_id: Option<&'a str>,
    changes: Vec<ChangeView<'a>>,
}

#[derive(Serialize)]
struct ChangeView<'a> {
    field: &'static str,
    old: Option<&'a str>,
    new: Option<&'a str>,
}

impl<'a> ChangeView<'a> {
    fn of(change: &'a AuditChange) -> Self {
        let (old, new) = (change.before(), change.after());
        Self { field: change.field().as_str(), old, new }
    }
}

/// Where a call came from that had no address: one of the host itself or of a worker, or of a host that does not pass addresses on.
const UNKNOWN: &str = "unknown";

//! Held jobs as rows of a statement.

use std::time::Duration;

use pgw_core::queue::{Claim, Job, Verdict};
use uuid::Uuid;

use crate::rows::is_live;
use crate::sql::Bound;
use crate::value::{bits, micros};

/// How a claim ends.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Held,
    Done,
    Released(Duration),
    Postponed(Duration),
    Buried(Box<str>),
}

impl End {
    pub(crate) fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Release { due_in } => Self::Released(*due_in),
            Verdict::Postpone { due_in } => Self::Postponed(*due_in),
            // PostgreSQL's texts cannot hold NUL.
            Verdict::Bury { reason } => Self::Buried(reason.replace('\0', "").into()),
            // Done, and what a later version may add: the rows are the truth, so forgetting is always safe.
            _ => Self::Done,
        }
    }
}

/// A held job, by the place of its answer, and how its claim ends.
pub(crate) type Held<'c> = (i32, &'c Claim, End);

/// Held jobs as arrays, owned: a statement may be repeated.
pub(crate) struct HeldRows {
    items: Vec<i32>,
    merchants: Vec<String>,
    live: Vec<bool>,
    first: Vec<Uuid>,
    second: Vec<Uuid>,
    fences: Vec<i64>,
    done: Vec<bool>,
    postponed: Vec<bool>,
    due_in: Vec<Option<i64>>,
    buried: Vec<Option<String>>,
}

impl HeldRows {
    pub(crate) fn of(group: &[Held<'_>]) -> Self {
        let ids = |claim: &Claim| match &claim.job {
            Job::Operation { payment, operation, .. } => (payment.as_uuid(), operation.as_uuid()),
            Job::Delivery { delivery, .. } => {
                (delivery.event().as_uuid(), delivery.endpoint().as_uuid())
            }
            // No row has these.
            _ => (Uuid::nil(), Uuid::nil()),
        };
        Self {
            items: group.iter().map(|(n, ..)| *n).collect(),
            merchants: group.iter().map(|(_, c, _)| c.job.scope().merchant.to_string()).collect(),
            live: group.iter().map(|(_, c, _)| is_live(c.job.scope().mode)).collect(),
            first: group.iter().map(|(_, claim, _)| ids(claim).0).collect(),
            second: group.iter().map(|(_, claim, _)| ids(claim).1).collect(),
            fences: group.iter().map(|(_, claim, _)| bits(claim.fence.0)).collect(),
            done: group.iter().map(|(.., end)| matches!(end, End::Done)).collect(),
            postponed: group.iter().map(|(.., end)| matches!(end, End::Postponed(_))).collect(),
            due_in: group
                .iter()
                .map(|(.., end)| match end {
                    End::Released(due_in) | End::Postponed(due_in) => Some(micros(*due_in)),
                    _ => None,
                })
                .collect(),
            buried: group
                .iter()
                .map(|(.., end)| match end {
                    End::Buried(reason) => Some(reason.to_string()),
                    _ => None,
                })
                .collect(),
        }
    }

    pub(crate) fn bind(&self, offset: i64, lease: i64) -> Bound {
        Bound::new()
            .and(offset)
            .and(lease)
            .and(&self.items[..])
            .and(&self.merchants[..])
            .and(&self.live[..])
            .and(&self.first[..])
            .and(&self.second[..])
            .and(&self.fences[..])
            .and(&self.done[..])
            .and(&self.postponed[..])
            .and(&self.due_in[..])
            .and(&self.buried[..])
    }
}

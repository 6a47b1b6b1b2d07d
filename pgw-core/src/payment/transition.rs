//! Which state of an operation may follow which. One table; nothing else decides.
#![doc = include_str!("../../docs/state_machine.md")]

use super::OperationState;

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Trigger {
    /// A worker committed the write-ahead of a call.
    Dispatch,
    /// The call was provably not sent: DNS failure, refused connection, TLS failure.
    NotSent,
    /// The call was provably not sent, and was tried often enough.
    GiveUp,
    /// The call may or may not have arrived: timeout, reset, 5xx, unreadable body, crash past the deadline.
    Lose,
    /// Evidence: it happened.
    Succeed,
    /// Evidence: it was refused.
    Fail,
    /// Evidence: the processor has it and will decide later.
    Pend,
    /// Evidence: the customer must act.
    RequireAction,
    /// Evidence, taken late enough to count: the processor never had it and never will.
    NotFound,
    /// The customer has acted.
    Confirm,
    /// Evidence that does not fit what was asked, such as another amount: a person must look.
    Doubt,
    /// The merchant gave up before anything was sent.
    Withdraw,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Self; 12] = [
        Self::Dispatch,
        Self::NotSent,
        Self::GiveUp,
        Self::Lose,
        Self::Succeed,
        Self::Fail,
        Self::Pend,
        Self::RequireAction,
        Self::NotFound,
        Self::Confirm,
        Self::Doubt,
        Self::Withdraw,
    ];

    /// The trigger's name in the chart.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::NotSent => "not_sent",
            Self::GiveUp => "give_up",
            Self::Lose => "lose",
            Self::Succeed => "succeed",
            Self::Fail => "fail",
            Self::Pend => "pend",
            Self::RequireAction => "require_action",
            Self::NotFound => "not_found",
            Self::Confirm => "confirm",
            Self::Doubt => "doubt",
            Self::Withdraw => "withdraw",
        }
    }
}

/// The state that follows `from` on `trigger`; `None` when nothing does. Pure.
///
/// A settled state has no successor: evidence against it opens a conflict instead.
///
/// ```
/// use pgw_core::payment::OperationState::*;
/// use pgw_core::payment::transition::{Trigger, next};
/// assert_eq!(next(Dispatched, Trigger::Lose), Some(Unknown));
/// assert_eq!(next(Unknown, Trigger::GiveUp), None, "no timer fails an unknown outcome");
/// assert_eq!(next(Succeeded, Trigger::Fail), None);
/// ```
#[must_use]
pub const fn next(from: OperationState, trigger: Trigger) -> Option<OperationState> {
    use OperationState::{Dispatched, Failed, Pending, Queued, RequiresAction, Succeeded, Unknown};
    Some(match (from, trigger) {
        (Queued, Trigger::Dispatch) => Dispatched,
        (Queued, Trigger::Withdraw) => Failed,
        (Dispatched, Trigger::NotSent) => Queued,
        (Dispatched, Trigger::GiveUp) => Failed,
        (Dispatched, Trigger::Lose) => Unknown,
        (Unknown, Trigger::NotFound) => Queued,
        (RequiresAction, Trigger::Confirm) => Queued,
        (Queued | Dispatched | Pending | RequiresAction, Trigger::Doubt) => Unknown,
        // Evidence moves every state that is not settled, a queued one too: it may be queued again after
        // an earlier attempt, and what the processor says about that attempt is news.
        (Queued | Dispatched | Pending | RequiresAction | Unknown, Trigger::Succeed) => Succeeded,
        (Queued | Dispatched | Pending | RequiresAction | Unknown, Trigger::Fail) => Failed,
        (Queued | Dispatched | RequiresAction | Unknown, Trigger::Pend) => Pending,
        (Queued | Dispatched | Pending | Unknown, Trigger::RequireAction) => RequiresAction,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    type Edge = (String, String, String);

    fn table() -> BTreeSet<Edge> {
        let mut edges = BTreeSet::new();
        for from in OperationState::ALL {
            for trigger in Trigger::ALL {
                if let Some(to) = next(from, trigger) {
                    edges.insert((
                        from.as_str().to_owned(),
                        to.as_str().to_owned(),
                        trigger.as_str().to_owned(),
                    ));
                }
            }
        }
        edges
    }

    #[test]
    fn the_chart_in_the_docs_is_the_table() {
        let mut chart = BTreeSet::new();
        for line in include_str!("../../docs/state_machine.md").lines() {
            let Some((edge, label)) = line.trim().split_once(" : ") else { continue };
            let Some((from, to)) = edge.split_once(" --> ") else { continue };
            for trigger in label.split(", ") {
                chart.insert((from.to_owned(), to.to_owned(), trigger.to_owned()));
            }
        }
        assert_eq!(chart, table());
    }

    #[test]
    fn settled_states_stay() {
        for from in OperationState::ALL.into_iter().filter(|state| state.is_settled()) {
            for trigger in Trigger::ALL {
                assert_eq!(next(from, trigger), None, "{from:?} {trigger:?}");
            }
        }
    }

    #[test]
    fn only_evidence_moves_an_unknown_outcome() {
        let evidence = [
            Trigger::Succeed,
            Trigger::Fail,
            Trigger::Pend,
            Trigger::RequireAction,
            Trigger::NotFound,
        ];
        for trigger in Trigger::ALL {
            let moved = next(OperationState::Unknown, trigger).is_some();
            assert_eq!(moved, evidence.contains(&trigger), "{trigger:?}");
        }
    }

    #[test]
    fn nothing_is_sent_twice_without_proof() {
        // The only ways back to `queued` are those after which nothing can be at the processor, and the
        // customer's confirmation, which the processor waits for.
        for from in OperationState::ALL {
            for trigger in Trigger::ALL {
                if next(from, trigger) == Some(OperationState::Queued) {
                    assert!(
                        matches!(trigger, Trigger::NotSent | Trigger::NotFound | Trigger::Confirm),
                        "{from:?} {trigger:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_edge_counts() {
        assert_eq!(table().len(), 29);
    }
}

//! One payment in the sandbox's ledger: its executions, which steps they allow, and how they are decided. Pure.
#![deny(clippy::arithmetic_side_effects)]

use crate::id::{OperationId, PaymentId};
use crate::money::Money;
use crate::payment::{Failure, Finality, NextAction, OperationKind, Reference};
use crate::processor::{Answer, Instruction};
use crate::scope::Scope;
use crate::timestamp::Timestamp;

use super::Sandbox;
use super::script::Fault;

/// One execution of one call: what a real processor would list on a statement, refused ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Counts the executions of this sandbox, from 1.
    pub sequence: u64,
    /// The key it came with.
    pub key: OperationId,
    /// Whose money it is.
    pub scope: Scope,
    /// The payment.
    pub payment: PaymentId,
    /// What was asked.
    pub kind: OperationKind,
    /// How much it moves, which is not always what was asked ([`Fault::AmountMismatch`]).
    pub amount: Money,
    /// For a capture: whether it is the last.
    pub finality: Finality,
    /// When it was executed, by the sandbox's clock.
    pub at: Timestamp,
    /// What the sandbox calls it.
    pub reference: Reference,
    /// What became of it.
    pub state: EntryState,
    pub(super) settles: Option<Settlement>,
    pub(super) is_disputed: bool,
}

impl LedgerEntry {
    /// What the sandbox answers about it.
    pub(super) fn answer(&self) -> Answer {
        let reference = Some(self.reference.clone());
        match &self.state {
            EntryState::Succeeded => Answer::Succeeded { reference, amount: self.amount },
            EntryState::Failed(failure) => Answer::Failed { reference, failure: failure.clone() },
            EntryState::Pending => Answer::Pending { reference },
            EntryState::RequiresAction => {
                Answer::RequiresAction { reference, next_action: next_action(self.key) }
            }
            EntryState::Undone => Answer::Failed { reference, failure: canceled_by_key() },
        }
    }

    /// Whether it moved money or may yet.
    fn is_live(&self) -> bool {
        matches!(self.state, EntryState::Succeeded | EntryState::Pending)
    }
}

/// What became of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryState {
    /// It happened.
    Succeeded,
    /// It was refused; nothing moved.
    Failed(Failure),
    /// It is decided later.
    Pending,
    /// It waits for the customer.
    RequiresAction,
    /// It was undone by its key; nothing stays moved.
    Undone,
}

/// How and when a pending entry is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settlement {
    due: Timestamp,
    decision: Decision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Yes,
    No,
}

/// The executions of one payment, in their order.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) entries: Vec<LedgerEntry>,
    pub(super) was_disputed: bool,
}

impl Account {
    pub(super) fn of_key(&self, key: OperationId) -> impl DoubleEndedIterator<Item = &LedgerEntry> {
        self.entries.iter().filter(move |entry| entry.key == key)
    }

    pub(super) fn waiting(&self, key: OperationId) -> Option<usize> {
        let waits = |e: &LedgerEntry| e.key == key && e.state == EntryState::RequiresAction;
        self.entries.iter().position(waits)
    }

    pub(super) fn sum(&self, counts: impl Fn(&LedgerEntry) -> bool) -> i64 {
        let amounts = self.entries.iter().filter(|entry| counts(entry)).map(|e| e.amount.minor());
        amounts.fold(0, i64::saturating_add)
    }

    fn done(&self, kind: OperationKind) -> i64 {
        self.sum(|entry| entry.kind == kind && entry.state == EntryState::Succeeded)
    }

    fn live(&self, kind: OperationKind) -> i64 {
        self.sum(|entry| entry.kind == kind && entry.is_live())
    }

    /// Whether the ledger allows a step. `but`: an entry that does not count, because it is the step.
    pub(super) fn check(&self, instruction: &Instruction, but: Option<u64>) -> Result<(), Failure> {
        let currency = instruction.amount.currency();
        if self.entries.iter().any(|entry| entry.amount.currency() != currency) {
            return Err(Failure::new("currency_mismatch", "The payment is in another currency."));
        }
        match instruction.kind {
            OperationKind::Charge | OperationKind::Authorize => Ok(()),
            OperationKind::Capture => self.check_capture(instruction.amount),
            OperationKind::Refund => self.check_refund(instruction.amount),
            OperationKind::Cancel => self.check_cancel(but),
        }
    }

    fn check_capture(&self, amount: Money) -> Result<(), Failure> {
        self.check_known()?;
        let held = self.done(OperationKind::Authorize);
        let is_released = self.entries.iter().any(|entry| {
            let ends = entry.kind == OperationKind::Cancel
                || (entry.kind == OperationKind::Capture && entry.finality == Finality::Final);
            ends && entry.is_live()
        });
        if held == 0 {
            Err(Failure::new("not_authorized", "Nothing is held, so nothing can be captured."))
        } else if is_released {
            Err(Failure::new("authorization_released", "The authorization was released."))
        } else if self.live(OperationKind::Capture).saturating_add(amount.minor()) > held {
            Err(Failure::new("amount_too_large", "That is more than what is held."))
        } else {
            Ok(())
        }
    }

    fn check_refund(&self, amount: Money) -> Result<(), Failure> {
        self.check_known()?;
        let taken =
            self.done(OperationKind::Charge).saturating_add(self.done(OperationKind::Capture));
        if taken == 0 {
            Err(Failure::new("not_captured", "Nothing was taken, so nothing can be refunded."))
        } else if self.live(OperationKind::Refund).saturating_add(amount.minor()) > taken {
            Err(Failure::new("amount_too_large", "That is more than what is left of the payment."))
        } else {
            Ok(())
        }
    }

    fn check_cancel(&self, but: Option<u64>) -> Result<(), Failure> {
        self.check_known()?;
        let is_canceled = self.entries.iter().any(|entry| {
            entry.kind == OperationKind::Cancel && entry.is_live() && Some(entry.sequence) != but
        });
        let taken =
            self.live(OperationKind::Charge).saturating_add(self.live(OperationKind::Capture));
        let waits = |e: &LedgerEntry| {
            e.state == EntryState::RequiresAction
                || (e.kind == OperationKind::Authorize && e.state == EntryState::Succeeded)
        };
        if is_canceled {
            Err(Failure::new("already_canceled", "The payment was canceled before."))
        } else if taken > 0 {
            Err(Failure::new("already_captured", "The money was taken: refund it instead."))
        } else if self.entries.iter().any(waits) {
            Ok(())
        } else {
            Err(Failure::new("nothing_to_cancel", "Nothing is held and nothing waits."))
        }
    }

    fn check_known(&self) -> Result<(), Failure> {
        if self.entries.iter().any(|entry| entry.kind.is_initial()) {
            Ok(())
        } else {
            Err(Failure::new("unknown_payment", UNKNOWN_PAYMENT))
        }
    }

    pub(super) fn decide(&mut self, at: usize, fault: Fault, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(at) else { return };
        let later = |decision| Some(Settlement { due: now.plus(Sandbox::PENDING_FOR), decision });
        match fault {
            Fault::RequiresAction if entry.kind.is_initial() => {
                entry.state = EntryState::RequiresAction;
            }
            Fault::PendingThenOk => {
                (entry.state, entry.settles) = (EntryState::Pending, later(Decision::Yes));
            }
            Fault::PendingThenFail => {
                (entry.state, entry.settles) = (EntryState::Pending, later(Decision::No));
            }
            Fault::Decline(decline) => self.fail(at, decline.failure()),
            Fault::AmountMismatch => {
                entry.amount = another(entry.amount);
                self.succeed(at);
            }
            Fault::None
            | Fault::NotSent
            | Fault::TimeoutBefore
            | Fault::TimeoutAfter
            | Fault::ResetAfter
            | Fault::ServerErrorAfter
            | Fault::Garbage
            | Fault::Slow(_)
            | Fault::RequiresAction => self.succeed(at),
        }
    }

    pub(super) fn fail(&mut self, at: usize, failure: Failure) {
        if let Some(entry) = self.entries.get_mut(at) {
            (entry.state, entry.settles) = (EntryState::Failed(failure), None);
        }
    }

    pub(super) fn succeed(&mut self, at: usize) {
        let Some(entry) = self.entries.get_mut(at) else { return };
        (entry.state, entry.settles) = (EntryState::Succeeded, None);
        if entry.kind == OperationKind::Cancel {
            // What waited for the customer will never happen.
            for entry in &mut self.entries {
                if entry.state == EntryState::RequiresAction {
                    entry.state = EntryState::Failed(Failure::new("canceled", "It was canceled."));
                }
            }
        }
    }

    /// Decides what is due.
    pub(super) fn settle(&mut self, now: Timestamp) {
        for at in 0..self.entries.len() {
            let Some(entry) = self.entries.get(at) else { return };
            let Some(settlement) = entry.settles.filter(|settlement| settlement.due <= now) else {
                continue;
            };
            // While a cancel was pending, the customer may have paid.
            let too_late = match entry.kind {
                OperationKind::Cancel => self.check_cancel(Some(entry.sequence)).err(),
                OperationKind::Charge
                | OperationKind::Authorize
                | OperationKind::Capture
                | OperationKind::Refund => None,
            };
            match (settlement.decision, too_late) {
                (Decision::Yes, None) => self.succeed(at),
                (Decision::Yes, Some(failure)) => self.fail(at, failure),
                (Decision::No, _) => {
                    self.fail(at, Failure::new("declined_later", "It was refused after a while."));
                }
            }
        }
    }

    pub(super) fn undo(&mut self, key: OperationId, at: usize) {
        let Some(entry) = self.entries.get(at).filter(|entry| entry.key == key) else { return };
        let can = match (&entry.state, entry.kind) {
            (EntryState::Pending | EntryState::RequiresAction, _) => true,
            (EntryState::Failed(_) | EntryState::Undone, _)
            | (EntryState::Succeeded, OperationKind::Refund | OperationKind::Cancel) => false,
            (EntryState::Succeeded, OperationKind::Charge | OperationKind::Authorize) => {
                !self.entries.iter().any(|e| !e.kind.is_initial() && e.is_live())
            }
            (EntryState::Succeeded, OperationKind::Capture) => {
                let rest = self.done(OperationKind::Capture).saturating_sub(entry.amount.minor());
                self.live(OperationKind::Refund) <= rest
            }
        };
        if can && let Some(entry) = self.entries.get_mut(at) {
            (entry.state, entry.settles) = (EntryState::Undone, None);
        }
    }
}

/// Of the executions of one key, the one to speak of: one that moved money, or else the latest.
pub(super) fn best<'a>(
    entries: impl DoubleEndedIterator<Item = &'a LedgerEntry>,
) -> Option<&'a LedgerEntry> {
    let mut latest = None;
    for entry in entries.rev() {
        if entry.state == EntryState::Succeeded {
            return Some(entry);
        }
        latest = latest.or(Some(entry));
    }
    latest
}

pub(super) fn canceled_by_key() -> Failure {
    Failure::new("canceled_by_key", "It was canceled by its key.")
}

/// The amount of a [`Fault::AmountMismatch`]: less rather than more, so that limits still hold.
fn another(amount: Money) -> Money {
    let minor = if amount.minor() > 1 { amount.minor().saturating_sub(1) } else { 2 };
    Money::from_minor(minor, amount.currency()).unwrap_or(amount)
}

fn next_action(key: OperationId) -> NextAction {
    // A reserved name (RFC 2606): a test that follows it reaches nobody.
    NextAction::redirect(&format!("https://sandbox.invalid/actions/{key}"))
        .expect("the address is https and short")
}

/// The message for a step of a payment that is not in the ledger.
pub(super) const UNKNOWN_PAYMENT: &str = "The sandbox does not know the payment. Its ledger is in memory: it was started anew, or elsewhere.";

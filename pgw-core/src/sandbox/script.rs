//! The sandbox's script: what each magic token, and each fault of a simulation, makes the sandbox do. What that does to
//! the ledger is not here.

use std::fmt;
use std::time::Duration;

use crate::payment::{Failure, OperationKind};
use crate::processor::{Instruction, LookUp};

/// What goes other than plain on one call.
///
/// The faults whose name ends in `After` and [`Garbage`](Self::Garbage) do what was asked and then lose the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The call provably never arrives.
    NotSent,
    /// The call never arrives and is never answered.
    TimeoutBefore,
    /// The call is executed and never answered.
    TimeoutAfter,
    /// The call is executed and the connection breaks.
    ResetAfter,
    /// The call is executed and answered with a server error.
    ServerErrorAfter,
    /// The call is executed and the answer cannot be read.
    Garbage,
    /// The call takes this long, at most [`Self::SLOW_MAX`], and is executed then: not at all if it is dropped before.
    Slow(Duration),
    /// It is decided later: yes.
    PendingThenOk,
    /// It is decided later: no.
    PendingThenFail,
    /// The customer must act. On anything but a charge or authorization: nothing.
    RequiresAction,
    /// It is refused.
    Decline(Decline),
    /// It happens with another amount: one minor unit less (or, of a single one, one more).
    AmountMismatch,
}

impl Fault {
    /// Longest a slow call takes, in any case longer than any deadline.
    pub const SLOW_MAX: Duration = Duration::from_secs(120);

    /// Whether it says how the call travels rather than how it is decided.
    pub(super) const fn is_transport(self) -> bool {
        match self {
            Self::NotSent
            | Self::TimeoutBefore
            | Self::TimeoutAfter
            | Self::ResetAfter
            | Self::ServerErrorAfter
            | Self::Garbage
            | Self::Slow(_) => true,
            Self::None
            | Self::PendingThenOk
            | Self::PendingThenFail
            | Self::RequiresAction
            | Self::Decline(_)
            | Self::AmountMismatch => false,
        }
    }

    /// Whether the call is executed and its answer lost.
    pub(super) const fn loses_answer(self) -> bool {
        matches!(
            self,
            Self::TimeoutAfter | Self::ResetAfter | Self::ServerErrorAfter | Self::Garbage
        )
    }

    /// Whether it is over once it happened: what is sent again under the same key arrives.
    pub(super) const fn is_once(self) -> bool {
        self.loses_answer() || matches!(self, Self::TimeoutBefore)
    }
}

/// Why the sandbox refuses: the usual reasons of card issuers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Decline {
    /// No reason given.
    Generic,
    /// Not enough money.
    InsufficientFunds,
    /// The card is no longer valid.
    ExpiredCard,
    /// The card was reported lost.
    LostCard,
    /// The card was reported stolen.
    StolenCard,
    /// The issuer suspects fraud.
    Fraud,
    /// The security code is wrong.
    IncorrectCvc,
    /// The issuer could not decide.
    ProcessingError,
    /// Too many payments in a short time.
    VelocityExceeded,
}

impl Decline {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Generic,
        Self::InsufficientFunds,
        Self::ExpiredCard,
        Self::LostCard,
        Self::StolenCard,
        Self::Fraud,
        Self::IncorrectCvc,
        Self::ProcessingError,
        Self::VelocityExceeded,
    ];

    /// The reason in tokens: `generic` of `tok_decline_generic`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::InsufficientFunds => "insufficient_funds",
            Self::ExpiredCard => "expired_card",
            Self::LostCard => "lost_card",
            Self::StolenCard => "stolen_card",
            Self::Fraud => "fraud",
            Self::IncorrectCvc => "incorrect_cvc",
            Self::ProcessingError => "processing_error",
            Self::VelocityExceeded => "velocity_exceeded",
        }
    }

    /// The failure that the payment then carries.
    #[must_use]
    pub fn failure(self) -> Failure {
        let (code, message) = match self {
            Self::Generic => ("card_declined", "The card was declined."),
            Self::InsufficientFunds => ("insufficient_funds", "The card has insufficient funds."),
            Self::ExpiredCard => ("expired_card", "The card has expired."),
            Self::LostCard => ("lost_card", "The card was reported lost."),
            Self::StolenCard => ("stolen_card", "The card was reported stolen."),
            Self::Fraud => ("fraud_suspected", "The issuer suspects fraud."),
            Self::IncorrectCvc => ("incorrect_cvc", "The card's security code is incorrect."),
            Self::ProcessingError => ("processing_error", "The issuer could not decide."),
            Self::VelocityExceeded => ("velocity_exceeded", "The card was used too often."),
        };
        Failure::new(code, message)
    }
}

/// Decides what goes wrong on each call, beside what the token says: the hook of simulations and of tests.
///
/// Faults of how a call travels combine with the token's decision: a [`Fault::ResetAfter`] on `tok_decline_generic` is a
/// decline whose answer is lost. Of two faults of the same kind the hook's wins.
///
/// # Contract
/// Called once per call, in the order of the calls, outside of any lock. To replay a simulation from its seed, decide by
/// the seed and the call alone.
pub trait SandboxFaults: fmt::Debug + Send + Sync {
    /// The fault of a submitted call; [`Fault::None`] leaves it to the token.
    fn on_submit(&self, instruction: &Instruction) -> Fault;

    /// The fault of a look-up or cancel by key. Those that decide rather than travel count as none.
    fn on_query(&self, query: &LookUp) -> Fault {
        let _ = query;
        Fault::None
    }
}

/// What a token says of each step of its payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Script {
    initial: Fault,
    capture: Fault,
    cancel: Fault,
    refund: Fault,
    /// The customer disputes it once it is paid.
    pub(super) is_disputed: bool,
}

impl Script {
    /// Reads a token; `None` when there is no such token.
    pub(super) fn of(token: &str) -> Option<Self> {
        let name = token.strip_prefix("tok_")?;
        let plain = Self::default();
        match name {
            "visa" => return Some(plain),
            "dispute" => return Some(Self { is_disputed: true, ..plain }),
            "requires_action" => return Some(Self { initial: Fault::RequiresAction, ..plain }),
            _ => {}
        }
        if let Some(name) = name.strip_prefix("capture_") {
            return fault(name).map(|capture| Self { capture, ..plain });
        }
        if let Some(name) = name.strip_prefix("cancel_") {
            return fault(name).map(|cancel| Self { cancel, ..plain });
        }
        if let Some(name) = name.strip_prefix("refund_") {
            return fault(name).map(|refund| Self { refund, ..plain });
        }
        let name = match name.strip_suffix("_charge") {
            Some(lost) if LOST.iter().any(|(known, _)| *known == lost) => lost,
            None if !LOST.iter().any(|(known, _)| *known == name) => name,
            _ => return None,
        };
        fault(name).map(|initial| Self { initial, ..plain })
    }

    /// The fault of one step.
    pub(super) const fn fault(&self, kind: OperationKind) -> Fault {
        match kind {
            OperationKind::Charge | OperationKind::Authorize => self.initial,
            OperationKind::Capture => self.capture,
            OperationKind::Cancel => self.cancel,
            OperationKind::Refund => self.refund,
        }
    }
}

/// Reads the part of a token that names a fault.
fn fault(name: &str) -> Option<Fault> {
    if let Some(reason) = name.strip_prefix("decline_") {
        let decline = Decline::ALL.into_iter().find(|decline| decline.as_str() == reason)?;
        return Some(Fault::Decline(decline));
    }
    if let Some(millis) = name.strip_prefix("slow_") {
        let is_plain = !millis.is_empty() && millis.bytes().all(|b| b.is_ascii_digit());
        // A number too large for a u64 is cut off as any other that is too large.
        let wanted = Duration::from_millis(millis.parse().unwrap_or(u64::MAX));
        return is_plain.then(|| Fault::Slow(wanted.min(Fault::SLOW_MAX)));
    }
    LOST.iter().chain(OTHERS).find(|(known, _)| *known == name).map(|(_, fault)| *fault)
}

/// The message for a token that does not exist.
pub(super) const UNKNOWN_TOKEN: &str = "The sandbox knows tok_visa, tok_decline_<reason>, \
    tok_requires_action, tok_pending_then_ok, tok_pending_then_fail, tok_slow_<ms>, \
    tok_timeout_after_charge, tok_amount_mismatch, tok_dispute, tok_refund_<fault> and more: see the \
    documentation of its module.";

/// Faults that lose a call or its answer; of a charge or authorization they are named with `_charge` at the end.
const LOST: &[(&str, Fault)] = &[
    ("timeout_before", Fault::TimeoutBefore),
    ("timeout_after", Fault::TimeoutAfter),
    ("reset_after", Fault::ResetAfter),
    ("5xx_after", Fault::ServerErrorAfter),
];

const OTHERS: &[(&str, Fault)] = &[
    ("garbage_body", Fault::Garbage),
    ("unreachable", Fault::NotSent),
    ("pending_then_ok", Fault::PendingThenOk),
    ("pending_then_fail", Fault::PendingThenFail),
    ("amount_mismatch", Fault::AmountMismatch),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(token: &str) -> Option<Fault> {
        Script::of(token).map(|script| script.fault(OperationKind::Charge))
    }

    #[test]
    fn the_tokens_of_the_wire_exist() {
        for (token, fault) in [
            ("tok_visa", Fault::None),
            ("tok_decline_insufficient_funds", Fault::Decline(Decline::InsufficientFunds)),
            ("tok_decline_generic", Fault::Decline(Decline::Generic)),
            ("tok_decline_expired_card", Fault::Decline(Decline::ExpiredCard)),
            ("tok_decline_lost_card", Fault::Decline(Decline::LostCard)),
            ("tok_decline_stolen_card", Fault::Decline(Decline::StolenCard)),
            ("tok_decline_fraud", Fault::Decline(Decline::Fraud)),
            ("tok_requires_action", Fault::RequiresAction),
            ("tok_pending_then_ok", Fault::PendingThenOk),
            ("tok_pending_then_fail", Fault::PendingThenFail),
            ("tok_timeout_before_charge", Fault::TimeoutBefore),
            ("tok_timeout_after_charge", Fault::TimeoutAfter),
            ("tok_reset_after_charge", Fault::ResetAfter),
            ("tok_5xx_after_charge", Fault::ServerErrorAfter),
            ("tok_garbage_body", Fault::Garbage),
            ("tok_slow_250", Fault::Slow(Duration::from_millis(250))),
            ("tok_slow_120001", Fault::Slow(Fault::SLOW_MAX)),
            ("tok_slow_99999999999999999999999", Fault::Slow(Fault::SLOW_MAX)),
            ("tok_amount_mismatch", Fault::AmountMismatch),
            ("tok_refund_pending_then_fail", Fault::None),
            ("tok_dispute", Fault::None),
            ("tok_unreachable", Fault::NotSent),
        ] {
            assert_eq!(initial(token), Some(fault), "{token}");
        }
        assert!(Script::of("tok_dispute").expect("known").is_disputed);
    }

    #[test]
    fn later_steps_have_every_fault_of_their_own() {
        use OperationKind::{Authorize, Cancel, Capture, Charge, Refund};
        for (token, step, fault) in [
            ("tok_refund_pending_then_fail", Refund, Fault::PendingThenFail),
            ("tok_refund_timeout_after", Refund, Fault::TimeoutAfter),
            ("tok_refund_decline_generic", Refund, Fault::Decline(Decline::Generic)),
            ("tok_capture_timeout_after", Capture, Fault::TimeoutAfter),
            ("tok_capture_slow_5", Capture, Fault::Slow(Duration::from_millis(5))),
            ("tok_cancel_reset_after", Cancel, Fault::ResetAfter),
        ] {
            let script = Script::of(token).expect(token);
            for kind in [Charge, Authorize, Capture, Cancel, Refund] {
                let expected = if kind == step { fault } else { Fault::None };
                assert_eq!(script.fault(kind), expected, "{token} {kind:?}");
            }
        }
    }

    #[test]
    fn other_tokens_do_not_exist() {
        for token in [
            "",
            "visa",
            "tok_",
            "tok_visa_",
            "TOK_VISA",
            "tok_visa_charge",
            "tok_timeout_after",
            "tok_slow_",
            "tok_slow_-1",
            "tok_slow_+1",
            "tok_slow_1.5",
            "tok_decline_",
            "tok_decline",
            "tok_garbage_body_charge",
            "tok_refund_timeout_after_charge",
            "tok_refund_dispute",
            "tok_refund_requires_action",
            "tok_refund_",
            "pm_card_visa",
        ] {
            assert_eq!(Script::of(token), None, "{token}");
        }
    }

    #[test]
    fn every_decline_has_a_token_and_a_code_of_its_own() {
        let codes: std::collections::BTreeSet<String> =
            Decline::ALL.iter().map(|decline| decline.failure().code().to_owned()).collect();
        assert_eq!(codes.len(), Decline::ALL.len());
        for decline in Decline::ALL {
            let token = format!("tok_decline_{}", decline.as_str());
            assert_eq!(initial(&token), Some(Fault::Decline(decline)));
        }
    }

    #[test]
    fn the_message_for_unknown_tokens_fits_a_failure() {
        let failure = Failure::new("invalid_payment_method", UNKNOWN_TOKEN);
        assert_eq!(failure.message(), UNKNOWN_TOKEN);
    }
}

//! The sandbox's ledger: what was executed, and what may be executed next. Pure: time comes in as an argument.
#![deny(clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::{OperationId, PaymentId};
use crate::payment::{Failure, OperationKind, Reference};
use crate::processor::{Answer, Confirmation, Finding, Instruction};
use crate::timestamp::Timestamp;

use super::Sandbox;
use super::account::{Account, EntryState, LedgerEntry, UNKNOWN_PAYMENT, best, canceled_by_key};
use super::script::{Fault, UNKNOWN_TOKEN};

/// A call on its way into the ledger.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) instruction: &'a Instruction,
    /// How it is decided, faults of travelling aside; `None`: there is no such token.
    pub(super) fault: Option<Fault>,
    pub(super) is_disputed: bool,
    /// How long a key gives its first result again, if it does.
    pub(super) window: Option<Duration>,
    pub(super) now: Timestamp,
}

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    Outcome,
    Dispute,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: BTreeMap<PaymentId, Account>,
    /// The payments, oldest first.
    order: VecDeque<PaymentId>,
    keys: BTreeMap<OperationId, PaymentId>,
    /// Keys that were canceled before they arrived.
    barred: Recent,
    /// Keys whose call was lost once.
    lost: Recent,
    sequence: u64,
    notices: BTreeMap<(OperationId, Topic), Timestamp>,
}

impl Ledger {
    /// Executes a call, again if its key was executed before, unless keys are remembered.
    pub(super) fn execute(&mut self, order: &Order<'_>) -> Answer {
        let key = order.instruction.key;
        self.settle_payment(order.instruction.payment, order.now);
        if self.barred.contains(key) {
            return Answer::Failed { reference: None, failure: canceled_by_key() };
        }
        if order.instruction.confirmation == Confirmation::Confirmed {
            return self.confirm(order);
        }
        if let (Some(window), Some(first)) = (order.window, self.of_key(key).next())
            && order.now.since(first.at) < window
        {
            return first.answer();
        }
        self.record(order)
    }

    /// The customer did what they had to. `None` when nothing waits for them under this key.
    pub(super) fn complete(&mut self, key: OperationId, now: Timestamp) -> Option<Answer> {
        let account = self.account_of(key, now)?;
        let at = account.waiting(key)?;
        account.succeed(at);
        let answer = account.entries.get(at)?.answer();
        self.notify(key, Topic::Outcome, now);
        self.notify_disputed(key, now);
        Some(answer)
    }

    /// What is known of a key, leaving out what was executed less than `lag` ago.
    pub(super) fn find(&mut self, key: OperationId, lag: Duration, now: Timestamp) -> Finding {
        let Some(account) = self.account_of(key, now) else { return Finding::NotFound };
        let visible = account.of_key(key).filter(|entry| now.since(entry.at) >= lag);
        best(visible).map_or(Finding::NotFound, |entry| Finding::Found(entry.answer()))
    }

    /// Undoes what can be undone of a key, and bars it unless something stays.
    pub(super) fn undo(&mut self, key: OperationId, now: Timestamp) -> Finding {
        let Some(account) = self.account_of(key, now) else {
            self.barred.insert(key);
            return Finding::NotFound;
        };
        for at in 0..account.entries.len() {
            account.undo(key, at);
        }
        let Some(entry) = best(account.of_key(key)) else { return Finding::NotFound };
        let (answer, stays) = (entry.answer(), entry.state == EntryState::Succeeded);
        if !stays {
            self.barred.insert(key);
        }
        Finding::Found(answer)
    }

    /// Whether a call with this key was ever seen, executed or lost.
    pub(super) fn has_seen(&self, key: OperationId) -> bool {
        self.keys.contains_key(&key) || self.lost.contains(key)
    }

    /// A call with this key was lost on its way in.
    pub(super) fn lose(&mut self, key: OperationId) {
        self.lost.insert(key);
    }

    /// The answer to this key was lost on its way out: tell it later.
    pub(super) fn tell_later(&mut self, key: OperationId, now: Timestamp) {
        self.notify(key, Topic::Outcome, now.plus(Sandbox::PENDING_FOR));
    }

    /// Takes the notifications that are due, oldest first: what about, and the entry.
    pub(super) fn drain(&mut self, now: Timestamp) -> Vec<(Topic, LedgerEntry)> {
        let mut due: Vec<_> = self
            .notices
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|((key, topic), at)| (*at, *key, *topic))
            .collect();
        due.sort_unstable();
        let mut told = Vec::with_capacity(due.len());
        for (_, key, topic) in due {
            self.notices.remove(&(key, topic));
            let entry =
                self.account_of(key, now).and_then(|account| best(account.of_key(key)).cloned());
            told.extend(entry.map(|entry| (topic, entry)));
        }
        told
    }

    /// All entries in the order of their execution.
    pub(super) fn entries(&mut self, now: Timestamp) -> Vec<LedgerEntry> {
        let mut all = Vec::new();
        for account in self.accounts.values_mut() {
            account.settle(now);
            all.extend_from_slice(&account.entries);
        }
        all.sort_unstable_by_key(|entry| entry.sequence);
        all
    }

    /// How much of these kinds happened to a payment, in minor units.
    pub(super) fn moved(
        &mut self,
        payment: PaymentId,
        kinds: &[OperationKind],
        now: Timestamp,
    ) -> i64 {
        self.settle_payment(payment, now);
        self.accounts.get(&payment).map_or(0, |account| {
            account.sum(|e| kinds.contains(&e.kind) && e.state == EntryState::Succeeded)
        })
    }

    /// How often calls with this key were executed.
    pub(super) fn executions(&self, key: OperationId) -> u32 {
        u32::try_from(self.of_key(key).count()).unwrap_or(u32::MAX)
    }

    fn record(&mut self, order: &Order<'_>) -> Answer {
        let instruction = order.instruction;
        let (payment, key) = (instruction.payment, instruction.key);
        let earlier = self.executions(key);
        self.sequence = self.sequence.saturating_add(1);
        if !self.accounts.contains_key(&payment) {
            self.make_room();
            self.order.push_back(payment);
        }
        self.keys.insert(key, payment);
        let account = self.accounts.entry(payment).or_default();
        let allowed = account.check(instruction, None);
        account.entries.push(LedgerEntry {
            sequence: self.sequence,
            key,
            scope: instruction.scope.clone(),
            payment,
            kind: instruction.kind,
            amount: instruction.amount,
            finality: instruction.finality,
            at: order.now,
            reference: reference(key, earlier),
            state: EntryState::Pending,
            settles: None,
            is_disputed: order.is_disputed,
        });
        let at = account.entries.len().saturating_sub(1);
        match (allowed, order.fault) {
            (Err(failure), _) => account.fail(at, failure),
            (Ok(()), None) => {
                account.fail(at, Failure::new("invalid_payment_method", UNKNOWN_TOKEN));
            }
            (Ok(()), Some(fault)) => account.decide(at, fault, order.now),
        }
        self.after(key, order.now);
        self.accounts
            .get(&payment)
            .and_then(|account| account.entries.get(at))
            .map_or_else(|| failed("unknown_payment", UNKNOWN_PAYMENT), LedgerEntry::answer)
    }

    fn confirm(&mut self, order: &Order<'_>) -> Answer {
        let key = order.instruction.key;
        let Some(account) = self.account_of(key, order.now) else {
            return failed(
                "nothing_to_confirm",
                "The sandbox holds nothing that waits for the customer.",
            );
        };
        if let Some(at) = account.waiting(key) {
            let fault = match order.fault {
                // The customer acts once.
                Some(Fault::RequiresAction) | None => Fault::None,
                Some(fault) => fault,
            };
            account.decide(at, fault, order.now);
            self.after(key, order.now);
        }
        best(self.of_key(key))
            .map_or_else(|| failed("unknown_payment", UNKNOWN_PAYMENT), LedgerEntry::answer)
    }

    /// Sets up the notifications that follow from an execution.
    fn after(&mut self, key: OperationId, now: Timestamp) {
        if self.of_key(key).any(|entry| entry.state == EntryState::Pending) {
            self.notify(key, Topic::Outcome, now.plus(Sandbox::PENDING_FOR));
        }
        self.notify_disputed(key, now);
    }

    fn notify_disputed(&mut self, key: OperationId, now: Timestamp) {
        let paid = self.of_key(key).any(|entry| {
            entry.is_disputed
                && entry.state == EntryState::Succeeded
                && matches!(entry.kind, OperationKind::Charge | OperationKind::Capture)
        });
        let Some(account) = self.keys.get(&key).and_then(|of| self.accounts.get_mut(of)) else {
            return;
        };
        if paid && !account.was_disputed {
            account.was_disputed = true;
            self.notify(key, Topic::Dispute, now.plus(Sandbox::PENDING_FOR));
        }
    }

    fn notify(&mut self, key: OperationId, topic: Topic, due: Timestamp) {
        let known = self.notices.entry((key, topic)).or_insert(due);
        *known = due.min(*known);
        if self.notices.len() > NOTICES_MAX
            && let Some(oldest) =
                self.notices.iter().min_by_key(|(_, due)| **due).map(|(notice, _)| *notice)
        {
            self.notices.remove(&oldest);
        }
    }

    fn of_key(&self, key: OperationId) -> impl DoubleEndedIterator<Item = &LedgerEntry> {
        let account = self.keys.get(&key).and_then(|payment| self.accounts.get(payment));
        account.into_iter().flat_map(move |account| account.of_key(key))
    }

    /// The account of a key's payment, with everything decided that is due.
    fn account_of(&mut self, key: OperationId, now: Timestamp) -> Option<&mut Account> {
        let payment = *self.keys.get(&key)?;
        self.settle_payment(payment, now);
        self.accounts.get_mut(&payment)
    }

    fn settle_payment(&mut self, payment: PaymentId, now: Timestamp) {
        if let Some(account) = self.accounts.get_mut(&payment) {
            account.settle(now);
        }
    }

    /// Forgets the oldest payment when there are too many.
    fn make_room(&mut self) {
        while self.order.len() >= Sandbox::PAYMENTS_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            let account = self.accounts.remove(&oldest).unwrap_or_default();
            for entry in account.entries {
                self.keys.remove(&entry.key);
            }
        }
    }
}

/// A set of keys that forgets the oldest when there are too many.
#[derive(Debug, Default)]
struct Recent {
    keys: BTreeSet<OperationId>,
    order: VecDeque<OperationId>,
}

impl Recent {
    fn contains(&self, key: OperationId) -> bool {
        self.keys.contains(&key)
    }

    fn insert(&mut self, key: OperationId) {
        if self.keys.insert(key) {
            self.order.push_back(key);
        }
        if self.order.len() > Sandbox::PAYMENTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

fn failed(code: &str, message: &str) -> Answer {
    Answer::Failed { reference: None, failure: Failure::new(code, message) }
}

fn reference(key: OperationId, earlier: u32) -> Reference {
    let again = match earlier.saturating_add(1) {
        1 => String::new(),
        nth => format!("_{nth}"),
    };
    Reference::new(&format!("sandbox_{key}{again}"))
        .expect("a prefix, an id and a number are at most 60 ASCII characters")
}

/// Most notifications that wait to be drained; a host that never drains them must not run out of memory, and notifications
/// get lost in reality too.
const NOTICES_MAX: usize = 10_000;

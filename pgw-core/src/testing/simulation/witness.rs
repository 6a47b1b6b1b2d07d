//! The witness: sees every commit of every process that is applied, and holds each one to what must
//! be true at every instant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::builder::Settings;
use crate::changes::{Changes, Write};
use crate::env::runtime_now;
use crate::id::{DeliveryId, EndpointId, OperationId, PaymentId};
use crate::payment::{Operation, OperationState, Payment};
use crate::privacy::Redaction;
use crate::processor::Instruction;
use crate::queue::{Claim, Job};
use crate::secret::Secret;
use crate::testing::crash::Life;
use crate::testing::faults::Watch;
use crate::testing::transport::Taken;
use crate::webhook::{EndpointWithSecret, WebhookRequest};

use super::claims::Claims;
use super::deliveries::{Counts, Deliveries};
use super::write_aheads::{Effect, WriteAheads};

/// What it saw.
#[derive(Debug)]
pub(super) struct Witness {
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    started: Option<Instant>,
    operations: BTreeMap<OperationId, OperationState>,
    aheads: WriteAheads,
    owners: BTreeMap<OperationId, PaymentId>,
    payments: BTreeMap<PaymentId, (u64, u64)>,
    deliveries: Deliveries,
    claims: Claims,
    unknown: u64,
    erasures: u64,
    story: Vec<(PaymentId, String)>,
    broken: Vec<(&'static str, String)>,
}

impl Witness {
    /// One that saw nothing yet, of gateways with these settings.
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            seen: Mutex::new(Seen {
                started: None,
                operations: BTreeMap::new(),
                aheads: WriteAheads::default(),
                owners: BTreeMap::new(),
                payments: BTreeMap::new(),
                deliveries: Deliveries::new(settings),
                claims: Claims::default(),
                unknown: 0,
                erasures: 0,
                story: Vec::new(),
                broken: Vec::new(),
            }),
        }
    }

    /// Where an operation stands in truth.
    pub(super) fn state(&self, operation: OperationId) -> Option<OperationState> {
        self.lock().operations.get(&operation).copied()
    }

    /// How many customers were erased.
    pub(super) fn erasures(&self) -> u64 {
        self.lock().erasures
    }

    /// How many operations became unknown.
    pub(super) fn unknown(&self) -> u64 {
        self.lock().unknown
    }

    /// How many operations there are.
    pub(super) fn operations(&self) -> u64 {
        self.lock().operations.len() as u64
    }

    /// What happened to a payment, line by line.
    pub(super) fn story(&self, payment: PaymentId) -> Vec<String> {
        let seen = self.lock();
        let lines = seen.story.iter().filter(|(of, _)| *of == payment);
        lines.map(|(_, line)| line.clone()).collect()
    }

    /// The payments there are.
    pub(super) fn payments(&self) -> Vec<PaymentId> {
        self.lock().payments.keys().copied().collect()
    }

    /// Something happened to a payment.
    pub(super) fn tell(&self, payment: PaymentId, line: &str) {
        self.lock().tell(payment, line);
    }

    /// Something happened to the payment of an operation.
    pub(super) fn tell_owner(&self, operation: OperationId, line: &str) {
        let mut seen = self.lock();
        if let Some(owner) = seen.owners.get(&operation).copied() {
            seen.tell(owner, line);
        }
    }

    /// What was not as it must be.
    pub(super) fn broken(&self) -> Vec<(&'static str, String)> {
        self.lock().broken.clone()
    }

    /// The deliveries that there should be.
    pub(super) fn owed(&self) -> BTreeSet<DeliveryId> {
        self.lock().deliveries.owed()
    }

    /// Every secret that each endpoint ever had.
    pub(super) fn secrets(&self) -> BTreeMap<EndpointId, Vec<Secret>> {
        self.lock().deliveries.secrets()
    }

    /// What happened to endpoints and deliveries.
    pub(super) fn counts(&self) -> Counts {
        self.lock().deliveries.counts
    }

    /// Somebody was shown an endpoint's secret.
    pub(super) fn shown(&self, shown: &EndpointWithSecret) {
        let seen = &mut *self.lock();
        seen.deliveries.shown(shown, &mut seen.broken);
    }

    /// A webhook is sent by the process that said so just now; `outcome` is what its receiver makes of it, `None` if it never arrives.
    pub(super) fn webhook(&self, request: &WebhookRequest, outcome: Option<Taken>) {
        let seen = &mut *self.lock();
        let told = seen.deliveries.sent(request, outcome, &mut seen.broken);
        if let Some((payment, line)) = told {
            seen.tell(payment, &line);
        }
    }

    /// The queue forgot everything.
    pub(super) fn queue_lost(&self) {
        self.lock().claims.lost();
    }

    /// A call with this deadline goes out: its write-ahead must be there.
    pub(super) fn submitted(&self, instruction: &Instruction, timeout: Duration) {
        self.tell(
            instruction.payment,
            &format!(
                "{} {} is sent, {:?}",
                instruction.kind.as_str(),
                instruction.key,
                instruction.confirmation
            ),
        );
        let effect = Effect::Call(instruction.confirmation);
        self.lock().sent(instruction.key, effect, timeout);
    }

    /// An undo with this deadline goes out: so must its own be.
    pub(super) fn undone(&self, key: OperationId, timeout: Duration) {
        self.lock().sent(key, Effect::Undo, timeout);
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Witness {
    fn applied(&self, changes: &Changes) {
        self.lock().look_at(changes);
    }

    fn looked(&self, life: &Life, job: &Job) {
        self.lock().deliveries.looked(life, job);
    }

    fn sending(&self, life: &Life) {
        self.lock().deliveries.sender = Some(life.clone());
    }

    fn claimed(&self, claim: &Claim, lease: Duration) {
        let seen = &mut *self.lock();
        seen.broken.extend(seen.claims.given(claim, lease).err());
    }

    fn extended(&self, claim: &Claim, lease: Duration, was_held: bool) {
        let seen = &mut *self.lock();
        seen.broken.extend(seen.claims.extended(claim, lease, was_held).err());
    }

    fn settled(&self, claim: &Claim, was_held: bool) {
        let seen = &mut *self.lock();
        seen.broken.extend(seen.claims.settled(claim, was_held).err());
    }
}

impl Seen {
    fn look_at(&mut self, changes: &Changes) {
        self.deliveries.applied(changes, &mut self.broken);
        let mut moved = None;
        let mut audited = false;
        for write in &changes.writes {
            match write {
                Write::Payment(payment) => self.payment(payment, changes),
                Write::Erase { .. } => self.erasures = self.erasures.saturating_add(1),
                Write::Operation { operation, .. } => {
                    self.claims.ended(|job| {
                        matches!(job, Job::Operation { operation: of, .. } if *of == operation.id)
                    });
                    self.tell_of(operation);
                    self.aheads.written(operation);
                    let before = self.operations.insert(operation.id, operation.state);
                    if before != Some(operation.state) {
                        moved = Some(operation.id);
                        if operation.state == OperationState::Unknown {
                            self.unknown = self.unknown.saturating_add(1);
                        }
                        if before.is_some_and(OperationState::is_settled) {
                            self.broken.push((
                                "a settled operation stays as it is",
                                format!(
                                    "{}: {before:?} became {:?}",
                                    operation.id, operation.state
                                ),
                            ));
                        }
                    }
                }
                Write::Wake { endpoint, payment } => {
                    let deliveries = &self.deliveries;
                    self.claims.ended(|job| {
                        matches!(job, Job::Delivery { delivery, .. }
                            if deliveries.is_of(*delivery, *endpoint, *payment))
                    });
                }
                Write::Delivery { delivery, .. } => {
                    self.claims.ended(|job| {
                        matches!(job, Job::Delivery { delivery: of, .. } if *of == delivery.id)
                    });
                    if let Some(payment) = delivery.payment {
                        let (id, state) = (delivery.id, delivery.state);
                        let counts = (delivery.attempts, delivery.attempts_total);
                        self.tell(payment, &format!("{id} is {state:?} (attempts {counts:?})"));
                    }
                }
                Write::Audit(_) => audited = true,
                _ => {}
            }
        }
        if let (Some(operation), false) = (moved, audited) {
            self.broken.push(("every move is audited", format!("{operation} moved without a row")));
        }
    }

    fn sent(&mut self, key: OperationId, effect: Effect, timeout: Duration) {
        if let Err(rule) = self.aheads.sent(key, effect, timeout) {
            let state = self.operations.get(&key);
            self.broken.push((rule, format!("{key}, {effect:?}, while its row says {state:?}")));
        }
    }

    fn tell_of(&mut self, operation: &Operation) {
        let failure = operation.failure.as_ref().map_or("", |failure| failure.code());
        let line = format!(
            "{} {} is {} (attempts {}, probes {}) {failure}{}",
            operation.kind.as_str(),
            operation.id,
            operation.state.as_str(),
            operation.attempts,
            operation.probes,
            if operation.needs_review { ", needs a review" } else { "" },
        );
        self.owners.insert(operation.id, operation.payment);
        self.tell(operation.payment, &line);
    }

    fn tell(&mut self, payment: PaymentId, line: &str) {
        let now = runtime_now();
        let since = now - *self.started.get_or_insert(now);
        self.story.push((payment, format!("{:>9.3} s  {line}", since.as_secs_f64())));
    }

    fn payment(&mut self, payment: &Payment, changes: &Changes) {
        let id = payment.id;
        let reserved = payment.captured_minor.saturating_add(payment.capture_reserved_minor);
        let given = payment.refunded_minor.saturating_add(payment.refund_reserved_minor);
        if reserved > payment.authorized_minor || given > payment.captured_minor {
            self.broken.push((
                "refunds never exceed captures, nor captures the authorization",
                format!(
                    "{id}: authorized {}, captured {} and {} under way, refunded {} and {} under way",
                    payment.authorized_minor,
                    payment.captured_minor,
                    payment.capture_reserved_minor,
                    payment.refunded_minor,
                    payment.refund_reserved_minor
                ),
            ));
        }
        let (version, mut sequence) = self.payments.get(&id).copied().unwrap_or_default();
        for write in &changes.writes {
            if let Write::Event(event) = write
                && event.payment == Some(id)
            {
                sequence = sequence.saturating_add(1);
                if event.sequence != Some(sequence) {
                    let found = event.sequence;
                    self.broken.push((
                        "sequences have no gaps and no doubles",
                        format!("{id}: event {sequence} carries {found:?}"),
                    ));
                }
            }
        }
        // Rewriting what was erased counts too, once, and is no commit that is seen here.
        let is_erased = payment.customer.email.as_str() == Redaction::EMAIL;
        let is_next = payment.version == version.saturating_add(1)
            || (is_erased && payment.version == version.saturating_add(2));
        if !is_next || payment.sequence != sequence {
            self.broken.push((
                "each change follows the one before",
                format!(
                    "{id}: version {} after {version}, sequence {} with {sequence} events",
                    payment.version, payment.sequence
                ),
            ));
        }
        self.payments.insert(id, (payment.version, payment.sequence));
    }
}

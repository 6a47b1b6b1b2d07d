//! `Changes`: one state change as plain data, applied by a [`Storage`](crate::storage::Storage) whole or not at all.

use std::time::Duration;

use crate::access::{ApiKey, AuditRow, AuditSeal, SealedRow, Shield};
use crate::event::Event;
use crate::id::{ConflictId, ConsentId, DeliveryId, EndpointId, KeyId, PaymentId};
use crate::idempotency::{IdempotencyKey, KeyClaim, KeyTarget, StoredAnswer};
use crate::payment::{Conflict, Operation, Payment};
use crate::privacy::{Consent, CustomerDigest, Erasure};
use crate::queue::Job;
use crate::scope::Scope;
use crate::text::CustomerId;
use crate::timestamp::Timestamp;
use crate::webhook::{Attempt, Delivery, Endpoint};

/// Guards and writes, in one scope. Built by pure `plan` functions, applied by
/// [`Storage::commit`](crate::storage::Storage::commit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The merchant and mode that every row of it belongs to.
    pub scope: Scope,
    /// The key it claims, if any: checked like a guard, written like a write.
    pub claim: Option<KeyClaim>,
    /// What must hold, or nothing is written.
    pub guards: Vec<Guard>,
    /// What is written, in this order.
    pub writes: Vec<Write>,
}

impl Changes {
    /// Most guards and writes together. The largest plan today has under twenty.
    pub const PARTS_MAX: usize = 64;
    /// Most bytes of event bodies and answers together: a few objects at their largest, several times over.
    pub const BYTES_MAX: usize = 1 << 20;

    /// Nothing yet.
    #[must_use]
    pub const fn new(scope: Scope) -> Self {
        Self { scope, claim: None, guards: Vec::new(), writes: Vec::new() }
    }

    /// With a guard.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// With a write.
    #[must_use]
    pub fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// With a claim on a key.
    #[must_use]
    pub fn claim(mut self, claim: Option<KeyClaim>) -> Self {
        self.claim = claim;
        self
    }

    /// Whether it is within its limits and every row is of its scope. Each backend calls this first.
    ///
    /// # Errors
    /// [`ChangesError`]: a mistake of the caller of `commit`, never of an end user.
    pub fn check(&self) -> Result<(), ChangesError> {
        if self.guards.len().saturating_add(self.writes.len()) > Self::PARTS_MAX {
            return Err(ChangesError::TooMany);
        }
        let answer = self.claim.as_ref().and_then(|claim| claim.answer.as_ref());
        let mut bytes = answer.map_or(0, |answer| answer.body.len());
        for write in &self.writes {
            bytes = bytes.saturating_add(write.bytes());
            if write.scope().is_some_and(|scope| *scope != self.scope) {
                return Err(ChangesError::ForeignScope);
            }
            if let Write::Seal(seal) = write {
                self.check_seal(seal)?;
            }
        }
        if bytes > Self::BYTES_MAX { Err(ChangesError::TooLarge) } else { Ok(()) }
    }

    /// A chain is a merchant's, whichever the mode, and goes on where it ends.
    fn check_seal(&self, seal: &AuditSeal) -> Result<(), ChangesError> {
        if seal.merchant != self.scope.merchant {
            return Err(ChangesError::ForeignScope);
        }
        let last = seal.number.checked_sub(1);
        let is_guarded = last.is_some_and(|last| self.guards.contains(&Guard::Seals { last }));
        if is_guarded { Ok(()) } else { Err(ChangesError::UnguardedSeal) }
    }
}

/// Changes that no backend may apply: the plan that made them is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangesError {
    /// More than [`Changes::PARTS_MAX`] parts.
    #[error("more than {} guards and writes in one commit", Changes::PARTS_MAX)]
    TooMany,
    /// More than [`Changes::BYTES_MAX`] bytes.
    #[error("more than {} bytes of bodies in one commit", Changes::BYTES_MAX)]
    TooLarge,
    /// A row of another merchant or mode.
    #[error("a row of another merchant or mode than the commit's")]
    ForeignScope,
    /// A seal without the guard that the chain ends before it.
    #[error("a seal of the audit log without the guard that the chain ends before it")]
    UnguardedSeal,
}

/// Something that must hold for a commit to be applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Guard {
    /// The payment has this version; 0: there is no such payment.
    Payment {
        /// The payment.
        id: PaymentId,
        /// Its version.
        version: u64,
    },
    /// The delivery has this version.
    Delivery {
        /// The delivery.
        id: DeliveryId,
        /// Its version.
        version: u64,
    },
    /// The endpoint has this version; 0: there is no such endpoint.
    Endpoint {
        /// The endpoint.
        id: EndpointId,
        /// Its version.
        version: u64,
    },
    /// The API key has this version; 0: there is no such key.
    ApiKey {
        /// The key.
        id: KeyId,
        /// Its version.
        version: u64,
    },
    /// The customer was erased this many times.
    Customer {
        /// The customer.
        customer: CustomerDigest,
        /// How often.
        erasures: u64,
    },
    /// The consent has this version; 0: there is no such consent.
    Consent {
        /// The consent.
        id: ConsentId,
        /// Its version.
        version: u64,
    },
    /// The consumer's cursor stands here; 0: it never moved.
    Cursor {
        /// The consumer's name.
        consumer: Box<str>,
        /// Its position.
        position: u64,
    },
    /// The shield, which is of no scope, has this version; 0: it was never changed.
    Shield {
        /// Its version.
        version: u64,
    },
    /// The last seal of the merchant's audit log has this number; 0: there is none.
    Seals {
        /// Its number.
        last: u64,
    },
}

/// One row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write {
    /// Inserts or replaces a payment.
    Payment(Box<Payment>),
    /// Inserts or replaces an operation, and makes it due. A claim on the row ends.
    Operation {
        /// The operation.
        operation: Box<Operation>,
        /// When it is due, from now by the backend's clock; `None`: not at all.
        due_in: Option<Duration>,
    },
    /// Appends an event, and one pending, due [`Delivery`] for each endpoint that hears it (see
    /// [`Storage::commit`](crate::storage::Storage::commit)).
    Event(Box<Event>),
    /// Appends an event, and one pending, due [`Delivery`] to this endpoint only, whatever its filters, if it is enabled (see
    /// [`Storage::commit`](crate::storage::Storage::commit)).
    EventTo {
        /// The event.
        event: Box<Event>,
        /// The one endpoint that hears it.
        endpoint: EndpointId,
    },
    /// Records a conflict.
    Conflict(Box<Conflict>),
    /// Closes a conflict.
    CloseConflict {
        /// The payment.
        payment: PaymentId,
        /// The conflict.
        id: ConflictId,
        /// When.
        at: Timestamp,
    },
    /// Stores the answer of a key that an earlier commit claimed.
    Answer {
        /// The key.
        key: IdempotencyKey,
        /// The answer.
        answer: StoredAnswer,
    },
    /// Inserts or replaces an endpoint. A pause of it ends.
    Endpoint(Box<Endpoint>),
    /// Pauses an endpoint of an earlier commit or of this one: none of its deliveries is due until this is over, and none spends an attempt.
    Pause {
        /// The endpoint.
        endpoint: EndpointId,
        /// How long, from now by the backend's clock.
        lasts: Duration,
    },
    /// Replaces a delivery, and makes it due. A claim on the row ends.
    Delivery {
        /// The delivery.
        delivery: Box<Delivery>,
        /// When it is due, from now by the backend's clock; `None`: not at all.
        due_in: Option<Duration>,
    },
    /// Makes the earliest pending delivery of a payment's events to an endpoint due now, if there is one; a claim on it ends. Written when
    /// the one before it was taken or given up.
    Wake {
        /// The endpoint.
        endpoint: EndpointId,
        /// The payment.
        payment: PaymentId,
    },
    /// Appends to a delivery's attempt log.
    Attempt(Box<Attempt>),
    /// Inserts or replaces an API key, all but when it was last used: that stays as it is, and is nothing for a new one.
    ApiKey(Box<ApiKey>),
    /// Records an erasure and marks what it is about: every payment of the customer that is there and not marked yet (see
    /// [`Storage`](crate::storage::Storage#erasure)).
    Erase {
        /// The erasure.
        erasure: Box<Erasure>,
        /// Who, as payments name it. Not kept.
        customer: CustomerId,
    },
    /// Inserts or replaces a consent.
    Consent(Box<Consent>),
    /// Moves a consumer's cursor.
    Cursor {
        /// The consumer's name.
        consumer: Box<str>,
        /// Its new position.
        position: u64,
    },
    /// Appends to the audit log.
    Audit(Box<AuditRow>),
    /// Replaces the shield. It is of no scope: whoever commits this in any is seen by all.
    Shield(Box<Shield>),
    /// Appends to the chain of the merchant's seals. The commit is guarded by the number before: see [`Guard::Seals`].
    Seal(Box<AuditSeal>),
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) | Self::EventTo { event, .. } => event.body.len(),
            Self::Answer { answer, .. } => answer.body.len(),
            Self::Shield(shield) => shield.reason_bytes(),
            Self::Seal(seal) => seal.rows.len().saturating_mul(SealedRow::BYTES),
            Self::Payment(_)
            | Self::Operation { .. }
            | Self::Conflict(_)
            | Self::CloseConflict { .. }
            | Self::Endpoint(_)
            | Self::Pause { .. }
            | Self::Delivery { .. }
            | Self::Wake { .. }
            | Self::Attempt(_)
            | Self::ApiKey(_)
            | Self::Erase { .. }
            | Self::Consent(_)
            | Self::Cursor { .. }
            | Self::Audit(_) => 0,
        }
    }

    fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Payment(payment) => Some(&payment.scope),
            Self::Event(event) | Self::EventTo { event, .. } => Some(&event.scope),
            Self::Endpoint(endpoint) => Some(&endpoint.scope),
            Self::Delivery { delivery, .. } => Some(&delivery.scope),
            Self::ApiKey(key) => Some(&key.scope),
            Self::Erase { erasure, .. } => Some(&erasure.scope),
            Self::Consent(consent) => Some(&consent.scope),
            Self::Audit(row) => Some(&row.scope),
            Self::Operation { .. }
            | Self::Conflict(_)
            | Self::CloseConflict { .. }
            | Self::Answer { .. }
            | Self::Pause { .. }
            | Self::Wake { .. }
            | Self::Attempt(_)
            | Self::Cursor { .. }
            | Self::Shield(_)
            | Self::Seal(_) => None,
        }
    }
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// Everything was written.
    Applied {
        /// The jobs whose rows the commit made due, operations and deliveries, each with its delay. A hint for the
        /// queue: a backend whose queue is its rows, or that does not know, may leave it empty.
        due: Vec<(Job, Duration)>,
        /// Whether the operations among them are claimed already, for a worker of this process, which is given them by the storage's own
        /// queue: another queue is not told of them.
        are_claimed: bool,
    },
    /// Nothing was written: the key was claimed before, by the same request, and this was its answer.
    Replayed {
        /// What the key stands for.
        target: KeyTarget,
        /// The answer.
        answer: StoredAnswer,
    },
    /// Nothing was written: the key was claimed before, by the same request, and there is no stored answer: not
    /// yet, or no longer.
    InFlight {
        /// What the key stands for.
        target: KeyTarget,
    },
}

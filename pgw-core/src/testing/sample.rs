//! Samples: valid rows for tests, the same ones for the same seed. What is done with them is the tests' business.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::access::{
    Actor, ApiKey, ApiKeyText, AuditAction, AuditObject, AuditOutcome, AuditRow, Pepper, Role,
};
use crate::changes::{Changes, Guard, Write};
use crate::crypto::Sealed;
use crate::currency::Currency;
use crate::email::Email;
use crate::env::Env;
use crate::event::{Event, EventType};
use crate::id::{
    AuditId, ConflictId, ConsentId, DeliveryId, EndpointId, ErasureId, EventId, KeyId, OperationId,
    PaymentId,
};
use crate::idempotency::{Fingerprint, IdempotencyKey, KeyClaim, KeyTarget, StoredAnswer};
use crate::metadata::Metadata;
use crate::money::Money;
use crate::payment::{
    CaptureMethod, Cause, Conflict, Customer, Finality, NextAction, Operation, OperationKind,
    OperationState, Payment, PaymentStatus, ProcessorName, Reference,
};
use crate::privacy::{Consent, ConsentHolder, CustomerDigest, Erasure};
use crate::queue::Job;
use crate::scope::{Mode, Scope};
use crate::testing::seeded::seeded_env;
use crate::text::{
    ConsentSource, CustomerId, CustomerName, Description, PaymentMethod, Purpose, Reason,
    TermsVersion,
};
use crate::timestamp::Timestamp;
use crate::webhook::{
    Attempt, AttemptOutcome, DeliveryOptions, Endpoint, EndpointStatus, EndpointUrl, EventFilter,
    Health, Profiles,
};

/// Makes rows of one scope. Each row has ids and times of its own, later than those of the row before.
///
/// Clones and [`of`](Self::of) share the clock and the randomness, so their rows never collide.
///
/// ```
/// use pgw_core::testing::sample::Samples;
/// let (a, b) = (Samples::new(7), Samples::new(7));
/// assert_eq!(a.payment(), b.payment());
/// assert_ne!(a.payment().id, a.payment().id);
/// ```
#[derive(Debug, Clone)]
pub struct Samples {
    env: Env,
    scope: Scope,
}

impl Samples {
    /// Samples of a merchant in test mode, the same for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { env: seeded_env(seed), scope: scope("acme", Mode::Test) }
    }

    /// Samples of another scope, from the same clock and randomness.
    #[must_use]
    pub fn of(&self, scope: Scope) -> Self {
        Self { env: self.env.clone(), scope }
    }

    /// Scopes that must see nothing of this one: another merchant, and the same merchant in the other mode.
    #[must_use]
    pub fn foreign(&self) -> [Scope; 2] {
        let other = match self.scope.mode {
            Mode::Test => Mode::Live,
            Mode::Live => Mode::Test,
        };
        let merchant = format!("{}-2", self.scope.merchant);
        [scope(&merchant, self.scope.mode), Scope::new(self.scope.merchant.clone(), other)]
    }

    /// The scope of the rows.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The clock and the randomness of the rows.
    #[must_use]
    pub const fn env(&self) -> &Env {
        &self.env
    }

    /// A time 1 ms after the one before.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.env.now()
    }

    /// A pending payment of 100.00 USD, version 1, with one event.
    #[must_use]
    pub fn payment(&self) -> Payment {
        let now = self.now();
        Payment {
            id: PaymentId::mint(&self.env),
            scope: self.scope.clone(),
            amount: usd(10_000),
            capture: CaptureMethod::Automatic,
            customer: Customer {
                email: Email::parse("ada@example.com").expect("a valid address"),
                name: CustomerName::parse("Ada Lovelace").expect("a valid name"),
                id: Some(CustomerId::parse("cust_1").expect("a valid id")),
            },
            description: Some(Description::parse("Order 1").expect("a valid text")),
            metadata: metadata(&[("order", "1")]),
            payment_method: PaymentMethod::parse("tok_visa").expect("a valid token"),
            processor: ProcessorName::parse("sandbox").expect("a valid name"),
            processor_reference: None,
            status: PaymentStatus::Pending,
            authorized_minor: 0,
            captured_minor: 0,
            capture_reserved_minor: 0,
            refunded_minor: 0,
            refund_reserved_minor: 0,
            unknown_operations: 0,
            needs_review: false,
            open_conflicts: 0,
            disputed: false,
            failure: None,
            next_action: None,
            expires_at: now.plus(Duration::from_secs(3_600)),
            version: 1,
            sequence: 1,
            created_at: now,
            updated_at: now,
        }
    }

    /// A queued operation of a payment, about all of its amount.
    #[must_use]
    pub fn operation(&self, payment: &Payment, kind: OperationKind) -> Operation {
        let now = self.now();
        Operation {
            id: OperationId::mint(&self.env),
            payment: payment.id,
            kind,
            amount: payment.amount,
            state: OperationState::Queued,
            cause: Cause::Request,
            finality: Finality::Open,
            attempts: 0,
            probes: 0,
            fence: None,
            first_dispatched_at: None,
            deadline: None,
            confirmed: false,
            needs_review: false,
            reference: None,
            failure: None,
            reason: None,
            idempotency_key: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// An event of a payment, numbered as the payment says.
    #[must_use]
    pub fn payment_event(&self, payment: &Payment, event_type: EventType) -> Event {
        Event {
            payment: Some(payment.id),
            sequence: Some(payment.sequence),
            ..self.event(event_type)
        }
    }

    /// An event without a payment.
    #[must_use]
    pub fn event(&self, event_type: EventType) -> Event {
        let id = EventId::mint(&self.env);
        Event {
            id,
            scope: self.scope.clone(),
            event_type,
            payment: None,
            sequence: None,
            created_at: self.now(),
            body: Bytes::from(format!("{{\"id\":\"{id}\",\"type\":\"{event_type}\"}}")),
            feed_position: None,
        }
    }

    /// A conflict about an operation.
    #[must_use]
    pub fn conflict(&self, operation: &Operation) -> Conflict {
        Conflict {
            id: ConflictId::mint(&self.env),
            payment: operation.payment,
            operation: operation.id,
            settled: OperationState::Failed,
            found: OperationState::Succeeded,
            reference: Reference::new("ch_late"),
            created_at: self.now(),
            closed_at: None,
        }
    }

    /// An enabled endpoint that hears everything.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        let now = self.now();
        Endpoint {
            id: EndpointId::mint(&self.env),
            scope: self.scope.clone(),
            url: EndpointUrl::parse("https://hooks.example.com/in?x=1").expect("a valid address"),
            description: None,
            filters: Vec::new(),
            profiles: Profiles::default(),
            options: DeliveryOptions::default(),
            headers: None,
            secret: sealed(1),
            generation: 1,
            previous: None,
            status: EndpointStatus::Enabled,
            health: Health::Healthy,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }

    /// An enabled endpoint that hears what these filters let through.
    ///
    /// # Panics
    /// When a filter is not one.
    #[must_use]
    pub fn endpoint_for(&self, filters: &[&str]) -> Endpoint {
        let filters = filters.iter().map(|text| filter(text)).collect();
        Endpoint { filters, ..self.endpoint() }
    }

    /// An attempt that the endpoint answered with 500.
    #[must_use]
    pub fn attempt(&self, delivery: DeliveryId, number: u32) -> Attempt {
        Attempt {
            delivery,
            number,
            started_at: self.now(),
            latency_ms: 17,
            outcome: AttemptOutcome::Answered { status: 500, body_start: "no".into() },
        }
    }

    /// A live API key, version 1.
    #[must_use]
    pub fn api_key(&self) -> ApiKey {
        let text = ApiKeyText::mint(&self.env, self.scope.mode);
        ApiKey {
            id: KeyId::mint(&self.env),
            scope: self.scope.clone(),
            role: Role::Service,
            name: Description::parse("checkout").expect("a valid text"),
            prefix: text.prefix(),
            digest: Pepper::mint(&self.env).digest(&text),
            created_at: self.now(),
            expires_at: None,
            revoked_at: None,
            revoked_because: None,
            last_used_at: None,
            version: 1,
        }
    }

    /// An audit row about an object.
    #[must_use]
    pub fn audit_row(&self, object: AuditObject) -> AuditRow {
        AuditRow {
            id: AuditId::mint(&self.env),
            scope: self.scope.clone(),
            at: self.now(),
            actor: Actor::Host,
            action: AuditAction::PaymentCreate,
            outcome: AuditOutcome::Success,
            origin: Some([192, 0, 2, 7].into()),
            object,
            request_id: Some("req-1".into()),
            changes: Box::default(),
        }
    }

    /// An erasure of a customer, the `number`th.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn erasure(&self, customer: &CustomerId, number: u64) -> Erasure {
        let mut ids = std::iter::repeat_with(|| ErasureId::mint(&self.env));
        let id = ids.find(|id| CustomerId::of_erasure(*id).is_some());
        Erasure {
            id: id.expect("nearly every id can stand for a customer"),
            scope: self.scope.clone(),
            customer: Self::digest(customer),
            number,
            requested_at: self.now(),
        }
    }

    /// A consent of a customer to `newsletter`, version 1.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn consent(&self, customer: &CustomerId) -> Consent {
        Consent {
            id: ConsentId::mint(&self.env),
            scope: self.scope.clone(),
            holder: ConsentHolder::Customer(Self::digest(customer)),
            purpose: Purpose::parse("newsletter").expect("a word"),
            terms: TermsVersion::parse("2026-11").expect("a word"),
            source: Some(ConsentSource::parse("the checkout's form").expect("a valid text")),
            given_at: self.now(),
            withdrawn_at: None,
            version: 1,
        }
    }

    /// The digest of a customer, the same whatever the samples.
    #[must_use]
    pub fn digest(customer: &CustomerId) -> CustomerDigest {
        CustomerDigest(Sha256::digest(customer.as_str()).into())
    }

    /// An idempotency key that no other sample has.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn key(&self) -> IdempotencyKey {
        IdempotencyKey::parse(&format!("key-{:016x}", self.env.u64())).expect("a valid key")
    }

    /// A claim on a new key, without an answer.
    #[must_use]
    pub fn claim(&self, target: KeyTarget) -> KeyClaim {
        KeyClaim {
            key: self.key(),
            fingerprint: Fingerprint(self.env.bytes()),
            target,
            answer: None,
        }
    }

    /// A claim on a new key for a payment and an operation that need not exist, without an answer.
    #[must_use]
    pub fn loose_claim(&self) -> KeyClaim {
        self.claim(KeyTarget::Operation {
            payment: PaymentId::mint(&self.env),
            operation: OperationId::mint(&self.env),
        })
    }

    /// An answer that no other sample has.
    #[must_use]
    pub fn answer(&self) -> StoredAnswer {
        StoredAnswer {
            status: 201,
            body: Bytes::from(format!("{{\"answer\":{}}}", self.env.u64())),
        }
    }

    /// A job that points to no row.
    #[must_use]
    pub fn job(&self, lane: crate::queue::Lane) -> Job {
        match lane {
            crate::queue::Lane::Operations => Job::Operation {
                scope: self.scope.clone(),
                payment: PaymentId::mint(&self.env),
                operation: OperationId::mint(&self.env),
            },
            crate::queue::Lane::Deliveries => Job::Delivery {
                scope: self.scope.clone(),
                delivery: DeliveryId::new(EventId::mint(&self.env), EndpointId::mint(&self.env)),
            },
        }
    }

    /// A new payment as a commit creates it: pending, with its queued charge and its first event.
    #[must_use]
    pub fn creation(&self) -> Creation {
        let payment = self.payment();
        let charge = self.operation(&payment, OperationKind::Charge);
        let event = self.payment_event(&payment, EventType::PaymentCreated);
        Creation { payment, charge, event, due_in: Some(Duration::ZERO) }
    }

    /// A paid payment, as if it had been created so: its charge succeeded.
    #[must_use]
    pub fn paid(&self) -> Creation {
        let mut creation = self.creation();
        creation.payment.status = PaymentStatus::Succeeded;
        creation.payment.authorized_minor = creation.payment.amount.minor();
        creation.payment.captured_minor = creation.payment.amount.minor();
        creation.charge.state = OperationState::Succeeded;
        creation.charge.attempts = 1;
        creation.due_in = None;
        creation
    }

    /// The payment one version later, with nothing else changed.
    #[must_use]
    pub fn touched(&self, payment: &Payment) -> Payment {
        let mut next = payment.clone();
        next.version = next.version.saturating_add(1);
        next.updated_at = self.now();
        next
    }

    /// The payment one version later, and its next event.
    #[must_use]
    pub fn moved(&self, payment: &Payment, event_type: EventType) -> (Payment, Event) {
        let mut next = self.touched(payment);
        next.sequence = next.sequence.saturating_add(1);
        let event = self.payment_event(&next, event_type);
        (next, event)
    }
}

/// A payment to be created. Change the rows, then make [`Changes`] of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// The payment.
    pub payment: Payment,
    /// Its charge.
    pub charge: Operation,
    /// Its first event.
    pub event: Event,
    /// When the charge is due.
    pub due_in: Option<Duration>,
}

impl Creation {
    /// The commit that creates it, guarded by its absence.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::new(self.payment.scope.clone())
            .guard(Guard::Payment { id: self.payment.id, version: 0 })
            .write(Write::Payment(Box::new(self.payment.clone())))
            .write(Write::Operation {
                operation: Box::new(self.charge.clone()),
                due_in: self.due_in,
            })
            .write(Write::Event(Box::new(self.event.clone())))
    }

    /// The same commit under a key; the charge remembers the key.
    #[must_use]
    pub fn keyed(&mut self, claim: KeyClaim) -> Changes {
        self.charge.idempotency_key = Some(claim.key.clone());
        self.changes().claim(Some(claim))
    }

    /// What a key for it stands for.
    #[must_use]
    pub const fn target(&self) -> KeyTarget {
        KeyTarget::Operation { payment: self.payment.id, operation: self.charge.id }
    }

    /// The job of its charge.
    #[must_use]
    pub fn job(&self) -> Job {
        job_of(&self.payment.scope, &self.charge)
    }
}

/// The job of an operation.
#[must_use]
pub fn job_of(scope: &Scope, operation: &Operation) -> Job {
    Job::Operation { scope: scope.clone(), payment: operation.payment, operation: operation.id }
}

/// A scope by name.
///
/// # Panics
/// When the name is not a merchant id.
#[must_use]
pub fn scope(merchant: &str, mode: Mode) -> Scope {
    Scope::new(merchant.parse().expect("a valid merchant id"), mode)
}

/// An amount in US dollars, in cents.
///
/// # Panics
/// When it is negative or too much.
#[must_use]
pub fn usd(minor: i64) -> Money {
    Money::from_minor(minor, Currency::USD).expect("a valid amount")
}

/// A filter by its text.
///
/// # Panics
/// When it is not one.
#[must_use]
pub fn filter(text: &str) -> EventFilter {
    text.parse().expect("a valid filter")
}

/// Metadata of these pairs.
///
/// # Panics
/// When a pair is not allowed.
#[must_use]
pub fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Metadata::from_pairs(pairs).expect("valid pairs")
}

/// A reason by its text.
///
/// # Panics
/// When it is not one.
#[must_use]
pub fn reason(text: &str) -> Reason {
    Reason::parse(text).expect("a valid reason")
}

/// A redirect of the customer.
///
/// # Panics
/// Never.
#[must_use]
pub fn redirect() -> NextAction {
    NextAction::redirect("https://bank.example/3ds?x=1").expect("a valid address")
}

/// An envelope that nothing opens, for rows that are only stored. Those of different numbers differ.
///
/// # Panics
/// Never: it is well formed.
#[must_use]
pub fn sealed(number: u8) -> Sealed {
    let letter = char::from(b'A' + number % 26);
    let text = format!("v1.k{}.{}", number % 10, letter.to_string().repeat(40));
    Sealed::parse(&text).expect("a well-formed envelope")
}

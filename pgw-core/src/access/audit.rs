//! The audit log: one row for each mutation and each refused access, with the six facts of PCI DSS 10.2.2. Append-only. How rows are
//! sealed is in `seal.rs`.
//!
//! Not in it is what changes nothing that somebody decided: where a consumer's cursor stands, how an endpoint is found to be doing, the
//! attempts of a delivery, which have a log of their own, and the seals.

use std::net::IpAddr;
use std::sync::Arc;

use crate::access::{Actor, Network};
use crate::id::{AuditId, ConsentId, DeliveryId, EndpointId, ErasureId, KeyId, PaymentId};
use crate::payment::UnknownName;
use crate::privacy::CustomerDigest;
use crate::scope::Scope;
use crate::timestamp::Timestamp;

/// One row: who did what, when, from where, to what, whether it worked, and what it changed. Holds no personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Names the row.
    pub id: AuditId,
    /// Merchant and mode.
    pub scope: Scope,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: AuditAction,
    /// Whether it worked.
    pub outcome: AuditOutcome,
    /// From where, when known.
    pub origin: Option<IpAddr>,
    /// To what.
    pub object: AuditObject,
    /// In which request.
    pub request_id: Option<Arc<str>>,
    /// What became of what was there before. Empty for creations: the object itself says what it was created as.
    pub changes: Box<[AuditChange]>,
}

macro_rules! names {
    ($(#[$all:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$all])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|name| name.as_str() == text).ok_or(UnknownName)
            }
        }
    };
}

names! {
    /// What was done.
    AuditAction {
        /// A payment was created.
        PaymentCreate = "payment.create",
        /// A capture was asked for.
        PaymentCapture = "payment.capture",
        /// A cancel was asked for.
        PaymentCancel = "payment.cancel",
        /// A refund was asked for.
        PaymentRefund = "payment.refund",
        /// The customer's action was confirmed.
        PaymentConfirm = "payment.confirm",
        /// A person settled an outcome or dismissed a conflict.
        PaymentResolve = "payment.resolve",
        /// A payment was given up because time ran out.
        PaymentExpire = "payment.expire",
        /// An operation was dispatched.
        OperationDispatch = "operation.dispatch",
        /// An operation moved on by what the processor said, or by what could not be learned.
        OperationMove = "operation.move",
        /// An endpoint was created.
        EndpointCreate = "endpoint.create",
        /// An endpoint was changed.
        EndpointUpdate = "endpoint.update",
        /// An endpoint got a new secret.
        EndpointRotateSecret = "endpoint.rotate_secret",
        /// An endpoint's secrets were sealed with another key.
        EndpointReseal = "endpoint.reseal",
        /// A test was sent to an endpoint.
        EndpointTest = "endpoint.test",
        /// An endpoint was deleted.
        EndpointDelete = "endpoint.delete",
        /// An endpoint was disabled by its own answers, or for want of them.
        EndpointDisable = "endpoint.disable",
        /// A delivery was replayed by hand.
        DeliveryRetry = "delivery.retry",
        /// An API key was created.
        KeyCreate = "key.create",
        /// An API key was revoked.
        KeyRevoke = "key.revoke",
        /// A network was put on the denylist.
        NetworkDeny = "network.deny",
        /// A network was taken off the denylist.
        NetworkAllow = "network.allow",
        /// All changes were stopped.
        GatewayFreeze = "gateway.freeze",
        /// Changes were let go on.
        GatewayUnfreeze = "gateway.unfreeze",
        /// A customer was erased.
        CustomerErase = "customer.erase",
        /// Everything about a customer was exported.
        CustomerExport = "customer.export",
        /// A customer's consent was recorded.
        ConsentGive = "consent.give",
        /// A customer's consent was withdrawn.
        ConsentWithdraw = "consent.withdraw",
        /// Somebody was refused access: no credential, one that opens nothing, or one that may not do this.
        AccessRefuse = "access.refuse",
    }
}

/// Whether an action worked. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuditOutcome {
    /// It did.
    Success,
    /// It was refused.
    Failure,
}

impl std::str::FromStr for AuditOutcome {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        [Self::Success, Self::Failure].into_iter().find(|it| it.as_str() == text).ok_or(UnknownName)
    }
}

impl AuditOutcome {
    /// `success` or `failure`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// What an action was done to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AuditObject {
    /// A payment.
    Payment(PaymentId),
    /// An endpoint.
    Endpoint(EndpointId),
    /// A delivery.
    Delivery(DeliveryId),
    /// An API key.
    Key(KeyId),
    /// A network of the denylist.
    Network(Network),
    /// The gateway as a whole.
    Gateway,
    /// An erasure.
    Erasure(ErasureId),
    /// A consent.
    Consent(ConsentId),
    /// A customer, by a keyed digest.
    Customer(CustomerDigest),
    /// A route of the API, as its table has it: `GET /payments/{id}`.
    Route(RouteName),
}

impl std::str::FromStr for AuditObject {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let payment = || text.parse().ok().map(Self::Payment);
        let endpoint = || text.parse().ok().map(Self::Endpoint);
        let delivery = || text.parse().ok().map(Self::Delivery);
        let key = || text.parse().ok().map(Self::Key);
        let erasure = || text.parse().ok().map(Self::Erasure);
        let consent = || text.parse().ok().map(Self::Consent);
        let customer = || text.parse().ok().map(Self::Customer);
        let network = || text.parse().ok().map(Self::Network);
        let gateway = || (text == "gateway").then_some(Self::Gateway);
        let route = || RouteName::parse(text).map(Self::Route);
        let id = payment().or_else(endpoint).or_else(delivery).or_else(key);
        let person = id.or_else(erasure).or_else(consent).or_else(customer);
        person.or_else(network).or_else(gateway).or_else(route).ok_or(UnknownName)
    }
}

/// The name of a route: its method, a space, and its path with parameters in braces; at most 128 visible ASCII characters a part.
///
/// ```
/// use pgw_core::access::RouteName;
/// assert!(RouteName::parse("PATCH /payments/{id}/refund").is_some());
/// assert!(RouteName::parse("PATCH").is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName(Arc<str>);

impl RouteName {
    /// Reads a name; `None` when the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (method, path) = text.split_once(' ')?;
        let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase());
        let is_path = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
        let fits = method.len().max(path.len()) <= 128;
        (is_method && is_path && fits).then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for AuditObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Payment(id) => id.fmt(f),
            Self::Endpoint(id) => id.fmt(f),
            Self::Delivery(id) => id.fmt(f),
            Self::Key(id) => id.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Gateway => f.write_str("gateway"),
            Self::Erasure(id) => id.fmt(f),
            Self::Consent(id) => id.fmt(f),
            Self::Customer(digest) => digest.fmt(f),
            Self::Route(name) => f.write_str(name.as_str()),
        }
    }
}

/// One field that an action changed.
///
/// Values are statuses, amounts in minor units, roles, ids, flags and counts. What may hold personal data or a secret (addresses,
/// descriptions, reasons, headers) is named without its values.
///
/// ```
/// use pgw_core::access::{AuditChange, AuditField};
/// let change = AuditChange::new(AuditField::Status, Some("pending"), Some("succeeded"));
/// assert_eq!((change.before(), change.after()), (Some("pending"), Some("succeeded")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuditChange {
    field: AuditField,
    old: Option<Box<str>>,
    new: Option<Box<str>>,
}

impl AuditChange {
    /// Longest value in bytes: an id, an amount, a list of a few words.
    pub const VALUE_MAX: usize = 64;
    /// Most changes of a row: more than any object has fields.
    pub const COUNT_MAX: usize = 32;

    /// A change. A value that is too long is left out: the row then says that it changed, and not to what.
    #[must_use]
    pub fn new(field: AuditField, old: Option<&str>, new: Option<&str>) -> Self {
        let short = |value: &str| (value.len() <= Self::VALUE_MAX).then(|| value.into());
        Self { field, old: old.and_then(short), new: new.and_then(short) }
    }

    /// That a field changed, without its values.
    #[must_use]
    pub const fn of(field: AuditField) -> Self {
        Self { field, old: None, new: None }
    }

    /// The field.
    #[must_use]
    pub const fn field(&self) -> AuditField {
        self.field
    }

    /// The value before, when there was one that may be told.
    #[must_use]
    pub fn before(&self) -> Option<&str> {
        self.old.as_deref()
    }

    /// The value afterwards, when there is one that may be told.
    #[must_use]
    pub fn after(&self) -> Option<&str> {
        self.new.as_deref()
    }
}

/// Collects the changes of a row: of each field that differs.
#[derive(Debug, Default)]
pub(crate) struct AuditChanges(Vec<AuditChange>);

impl AuditChanges {
    /// A field with its values, if they differ.
    pub(crate) fn told<T: PartialEq>(
        &mut self,
        field: AuditField,
        (old, new): (&T, &T),
        text: impl Fn(&T) -> Option<String>,
    ) {
        if old != new {
            let (old, new) = (text(old), text(new));
            self.0.push(AuditChange::new(field, old.as_deref(), new.as_deref()));
        }
    }

    /// A field whose values are not told, if they differ.
    pub(crate) fn untold<T: PartialEq + ?Sized>(&mut self, field: AuditField, old: &T, new: &T) {
        if old != new {
            self.0.push(AuditChange::of(field));
        }
    }

    /// A field, whether or not it had a value before.
    pub(crate) fn push(&mut self, change: AuditChange) {
        self.0.push(change);
    }

    pub(crate) fn finish(self) -> Box<[AuditChange]> {
        self.0.into_boxed_slice()
    }
}

names! {
    /// What can change.
    AuditField {
        /// The object's status.
        Status = "status",
        /// The operation that it is about.
        Operation = "operation",
        /// The operation's state.
        OperationStatus = "operation_status",
        /// The operation's amount, in minor units.
        AmountMinor = "amount_minor",
        /// The payment's authorized amount, in minor units.
        AuthorizedMinor = "authorized_minor",
        /// The payment's captured amount, in minor units.
        CapturedMinor = "captured_minor",
        /// The payment's refunded amount, in minor units.
        RefundedMinor = "refunded_minor",
        /// Whether a person must look.
        NeedsReview = "needs_review",
        /// Whether the customer disputes it.
        Disputed = "disputed",
        /// How many pieces of evidence contradict what was settled.
        OpenConflicts = "open_conflicts",
        /// An endpoint's address.
        Url = "url",
        /// An endpoint's description.
        Description = "description",
        /// The types of event that an endpoint hears.
        EventTypes = "event_types",
        /// How an endpoint's webhooks are signed.
        SignatureProfiles = "signature_profiles",
        /// The deadline of an attempt, in milliseconds.
        TimeoutMs = "timeout_ms",
        /// Most attempts at once.
        Concurrency = "concurrency",
        /// Most attempts a second.
        RatePerSecond = "rate_per_second",
        /// In which order an endpoint is delivered to.
        Ordering = "ordering",
        /// An endpoint's own headers.
        Headers = "headers",
        /// Which of its secrets an endpoint has, counted from 1.
        SecretGeneration = "secret_generation",
        /// The key that secrets are sealed with.
        SealedWith = "sealed_with",
        /// How often a delivery was tried in this round.
        Attempts = "attempts",
        /// When a key was revoked.
        RevokedAt = "revoked_at",
        /// Why access was refused.
        Reason = "reason",
        /// How many refusals before this one were not written down.
        Unrecorded = "unrecorded",
    }
}

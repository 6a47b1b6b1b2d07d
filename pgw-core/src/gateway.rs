//! The gateway: every verb a host or a router calls. Load → act → plan → commit.

mod access;
mod audit;
mod authenticate;
mod consents;
mod endpoints;
mod erasure_log;
mod export;
mod once;
mod payments;
mod privacy;
mod reads;
mod refusals;
mod replays;
mod sealing;
mod shield;
mod verification;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::access::{AccessCache, Actor, ApiKeyText, Caller, Pepper, SealKey};
use crate::builder::{GatewayBuilder, Settings};
use crate::changes::{Changes, Committed};
use crate::env::Env;
use crate::error::Error;
use crate::feed::{Consumer, ConsumerNameError};
use crate::id::OperationId;
use crate::idempotency::{KeyTarget, StoredAnswer};
use crate::notifier::{Hint, Notifier};
use crate::payment::plan::Stamp;
use crate::payment::{Payment, PaymentState};
use crate::queue::{Job, Lane, Queue};
use crate::sandbox::Sandbox;
use crate::scope::{Mode, Scope};
use crate::storage::{Storage, StorageError};
use crate::telemetry;
use crate::webhook::{Vault, WebhookTransport};
use crate::worker::{Breakers, Gate};

pub use access::{ApiKeyFilter, BulkRevocation, NewApiKey, RevokedKeys};
pub use authenticate::AccessError;
pub use erasure_log::{ErasureLog, Reapplied};
pub use export::{Export, ExportFormat};
pub use once::{Answered, Once};
pub use payments::is_answered;
pub(crate) use refusals::Refusals;
pub use replays::{BulkRetry, Run};
pub use sealing::Resealed;
pub use shield::NewDeniedNetwork;
#[cfg(feature = "testing")]
pub(crate) use verification::verify;
pub use verification::{AuditFault, AuditReport, SealFault};

/// A payment gateway. Cheap to clone; clones share everything.
///
/// Its verbs are on [`Bound`], which [`by`](Self::by) (in a caller's name) and [`on`](Self::on) (inside the
/// host's own transaction) give; [`host`](Self::host) is the shortest way to them.
#[derive(Debug, Clone)]
pub struct Gateway {
    parts: Arc<Parts>,
}

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) notifier: Arc<dyn Notifier>,
    pub(crate) webhooks: Option<Webhooks>,
    pub(crate) breakers: Breakers,
    pub(crate) access: AccessCache,
    /// What stands in for a text that is no key.
    pub(crate) nobodys_key: ApiKeyText,
    pub(crate) processors: BTreeMap<Mode, Gate>,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) env: Env,
    pub(crate) pepper: Pepper,
    /// The key of the audit log's seals: when a pepper was given.
    pub(crate) seals: Option<SealKey>,
    pub(crate) refusals: Refusals,
    pub(crate) settings: Settings,
}

/// What sending webhooks takes.
#[derive(Debug)]
pub(crate) struct Webhooks {
    pub(crate) transport: Arc<dyn WebhookTransport>,
    pub(crate) vault: Vault,
}

impl Gateway {
    /// Starts to build one.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder::new()
    }

    pub(crate) fn from_parts(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Time and randomness.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.parts.env
    }

    /// The storage.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        &*self.parts.storage
    }

    /// The notifier.
    #[must_use]
    pub fn notifier(&self) -> &dyn Notifier {
        &*self.parts.notifier
    }

    /// Asks the storage for something small: whether it is there.
    ///
    /// # Errors
    /// [`StorageError`] when it is not.
    ///
    /// # Cancel safety
    /// The future may be dropped at any await.
    pub async fn check(&self) -> Result<(), StorageError> {
        self.storage().cursor(&Scope::default(), CHECK_CONSUMER).await.map(|_| ())
    }

    /// The verbs in the host's own name, for the default merchant in test mode.
    #[must_use]
    pub fn host(&self) -> Bound<'_> {
        self.by(Caller::host(Scope::default()))
    }

    /// The verbs in a caller's name and scope.
    #[must_use]
    pub fn by(&self, caller: Caller) -> Bound<'_> {
        Bound { gateway: self, storage: self.storage(), caller, announce: Announce::Now }
    }

    /// The same verbs on another storage: the host's own transaction. Nothing is announced: hints go out with the host's
    /// commit, or polling finds the work.
    #[must_use]
    pub fn on<'a>(&'a self, storage: &'a dyn Storage) -> Bound<'a> {
        let caller = Caller::host(Scope::default());
        Bound { gateway: self, storage, caller, announce: Announce::Never }
    }

    /// A durable consumer of a scope's events, by name: the way for a Rust host to hear its own gateway.
    ///
    /// # Errors
    /// [`ConsumerNameError`] when the name is empty, too long or has other characters than `a-z`, `0-9`, `_`, `-`.
    pub fn events(&self, scope: Scope, name: &str) -> Result<Consumer, ConsumerNameError> {
        Consumer::new(self.clone(), scope, name)
    }

    /// Tells the queue and the others what a commit made due. Never fails: everything it says is found by polling too.
    pub(crate) async fn announce(&self, changes: Vec<Hint>, due: &[(Job, Duration)]) {
        let hints = Hint::work(due).into_iter().chain(changes).collect();
        self.push(due).await;
        self.hint(hints).await;
    }

    async fn push(&self, due: &[(Job, Duration)]) {
        if !due.is_empty()
            && let Err(error) = self.parts.queue.push(due).await
        {
            tracing::warn!(%error, "the queue did not take new jobs; the reaper will push them again");
        }
    }

    async fn hint(&self, hints: Vec<Hint>) {
        if let Err(error) = self.parts.notifier.publish(&hints).await {
            tracing::warn!(%error, "hints were not sent; polling will find the work");
        }
    }
}

/// Whether commits are announced at once, or by whoever owns the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announce {
    Now,
    Never,
}

/// The verbs, in a caller's name, on a storage.
///
/// # Cancel safety
/// Every verb may be dropped at any await: what it asked for is applied whole or not at all, and a retry under the same
/// idempotency key tells which.
#[derive(Debug)]
pub struct Bound<'a> {
    gateway: &'a Gateway,
    storage: &'a dyn Storage,
    caller: Caller,
    announce: Announce,
}

impl Bound<'_> {
    /// The same verbs in another caller's name.
    #[must_use]
    pub fn by(mut self, caller: Caller) -> Self {
        self.caller = caller;
        self
    }

    /// The caller.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    const fn scope(&self) -> &Scope {
        &self.caller.scope
    }

    /// Runs a plan with the time and new ids.
    fn plan<T>(&self, plan: impl FnOnce(&mut Stamp<'_>) -> T) -> T {
        let env = &self.gateway.parts.env;
        let mut ids = || -> Uuid { env.uuid() };
        plan(&mut Stamp { now: env.now(), caller: &self.caller, ids: &mut ids })
    }

    /// Commits, unless the gateway is frozen and a caller is who wants the change.
    async fn commit(&self, changes: Changes) -> Result<Commit, Error> {
        // What workers and processors do ends what was begun; see `worker::operations` for what is not begun.
        let is_ours = matches!(self.caller.actor, Actor::Worker | Actor::Processor);
        if !is_ours && self.gateway.is_frozen().await? {
            return Err(Error::Frozen);
        }
        self.commit_even_if_frozen(changes).await
    }

    /// Commits; an answer that was lost is asked for again with the same changes, which can be applied only once.
    async fn commit_even_if_frozen(&self, changes: Changes) -> Result<Commit, Error> {
        let announcement = Hint::of(&changes);
        let (committed, certainty) =
            commit_surely(self.storage, changes, &self.gateway.parts.env).await?;
        Ok(match committed {
            Ok(Committed::Applied { mut due, are_claimed }) => {
                if self.announce == Announce::Now {
                    // A worker here is woken also for what is claimed for it.
                    let hints = Hint::work(&due).into_iter().chain(announcement).collect();
                    due.retain(|(job, _)| !are_claimed || job.lane() != Lane::Operations);
                    self.gateway.push(&due).await;
                    self.gateway.hint(hints).await;
                }
                Commit::Applied
            }
            Ok(Committed::Replayed { target, answer }) => {
                Commit::Known { target, answer: Some(answer) }
            }
            Ok(Committed::InFlight { target }) => Commit::Known { target, answer: None },
            Err(StorageError::Conflict(_)) => Commit::Conflict(certainty),
            Err(error) => return Err(error.into()),
        })
    }
}

/// What a commit came to, for a verb.
#[derive(Debug)]
enum Commit {
    Applied,
    Known { target: KeyTarget, answer: Option<StoredAnswer> },
    Conflict(Certainty),
}

/// Whether a conflict is surely somebody else's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// Nothing of ours was applied.
    Sure,
    /// An earlier try of the same changes may have been applied.
    MaybeOurs,
}

/// Commits, and asks again with the same changes while the storage does not say whether they were applied. Changes are
/// guarded, so asking twice applies once.
pub(crate) async fn commit_surely(
    storage: &dyn Storage,
    changes: Changes,
    env: &Env,
) -> Result<(Result<Committed, StorageError>, Certainty), Error> {
    let mut certainty = Certainty::Sure;
    let events = telemetry::events_of(&changes);
    for attempt in 1..=INDETERMINATE_TRIES {
        match storage.commit(changes.clone()).await {
            Err(StorageError::Indeterminate(_)) if attempt < INDETERMINATE_TRIES => {
                certainty = Certainty::MaybeOurs;
            }
            // Unreachable now, but an earlier try may have been applied: keep asking.
            Err(StorageError::Unavailable(_))
                if certainty == Certainty::MaybeOurs && attempt < INDETERMINATE_TRIES => {}
            Err(StorageError::Unavailable(source)) if certainty == Certainty::MaybeOurs => {
                return Err(Error::Storage(StorageError::Indeterminate(source)));
            }
            result => {
                if matches!(result, Ok(Committed::Applied { .. })) {
                    telemetry::committed(&events);
                }
                return Ok((result, certainty));
            }
        }
        let jitter = env.u64() % 50;
        tokio::time::sleep(Duration::from_millis(jitter.saturating_add(u64::from(attempt) * 50)))
            .await;
    }
    unreachable!("the last try returns whatever it gets")
}

/// What a verb that starts an operation gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The payment with its operations: as this call made it, or, for a replay, as it is now.
    pub state: PaymentState,
    /// The operation that was asked for.
    pub operation: OperationId,
    /// The answer stored for the key, byte for byte, when there is one.
    pub answer: Option<StoredAnswer>,
    /// Whether this call did it or an earlier one with the same key.
    pub origin: Origin,
}

impl Receipt {
    /// What moved the charge or authorization of a payment on.
    fn of_first(state: PaymentState, origin: Origin) -> Self {
        let id = state.payment.id;
        let operation = state
            .operations
            .first()
            .map_or_else(|| OperationId::from_uuid(id.as_uuid()), |first| first.id);
        Self { state, operation, answer: None, origin }
    }

    /// The payment.
    #[must_use]
    pub const fn payment(&self) -> &Payment {
        &self.state.payment
    }
}

/// Whether a call did it. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This call did it.
    First,
    /// An earlier call with the same key did it.
    Replayed,
}

/// A consumer that never moves, whose cursor is the smallest thing to read.
const CHECK_CONSUMER: &str = "check";
/// How often a commit without an answer is asked about. Half a second in all: longer is the caller's to wait.
const INDETERMINATE_TRIES: u32 = 4;
/// How often a verb plans anew because somebody else changed the object meanwhile.
const CONFLICT_TRIES: u32 = 16;

//! Group commit: what waits is put into one transaction, and each commit hears its own outcome.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::idempotency::KeyRecord;
use pgw_core::processor::Source;
use pgw_core::scope::MerchantId;
use pgw_core::storage::StorageError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row as _};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::answers::answered;
use crate::builder::{Engine, Group as Grouping};
use crate::columns::{Columns, key_columns, key_record};
use crate::database::{Database, TRIES, joined};
use crate::error::{Doubt, doubt_of, is_lock_timeout, is_refusal, is_worth_repeating, write_error};
use crate::group::{Group, One, Wait, compose, due, fits};
use crate::handoff::Reserved;
use crate::outcome::{Outcome, outcomes};
use crate::rows::is_live;
use crate::sql::Bound;
use crate::steps::{Steps, Stopped, Whose};

/// How commits are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatcherSettings {
    pub(crate) group: Grouping,
    pub(crate) engine: Engine,
    /// Most commits at once that are done alone because they wait for somebody's lock.
    pub(crate) alone_max: usize,
    /// Whether committers that linger keep their connections: not of a pool so small that others would miss them.
    pub(crate) keeps_connections: bool,
}

/// Takes commits.
pub(crate) struct Batcher(Arc<Inner>);

struct Inner {
    database: Arc<Database>,
    settings: BatcherSettings,
    waiting: Mutex<Waiting>,
    /// Rings for a committer that lingers.
    bell: Notify,
    /// Places for commits that wait for locks: never all connections.
    alone: Semaphore,
    alone_waiting: AtomicUsize,
    hasher: RandomState,
}

/// A commit, and who waits for it.
struct Item {
    changes: Changes,
    /// Room of a worker here for the operation it begins.
    held: Option<Reserved>,
    answer: oneshot::Sender<Result<Committed, StorageError>>,
}

impl Item {
    fn as_one(&self) -> One<'_> {
        One { changes: &self.changes, held: self.held.as_ref() }
    }

    fn answer(self, mut result: Result<Committed, StorageError>) {
        // Before anybody hears that there is work. Nobody else is told of one that may have been applied: it would wait for its lease.
        let may_be_there =
            matches!(result, Ok(Committed::Applied { .. }) | Err(StorageError::Indeterminate(_)));
        if let Some(held) = self.held.filter(|_| may_be_there) {
            held.hand(self.changes);
            if let Ok(Committed::Applied { are_claimed, .. }) = &mut result {
                *are_claimed = true;
            }
        }
        // Whoever asked may be gone.
        let _ = self.answer.send(result);
    }
}

impl Batcher {
    pub(crate) fn new(database: Arc<Database>, settings: BatcherSettings) -> Self {
        Self(Arc::new(Inner {
            database,
            settings,
            waiting: Mutex::default(),
            bell: Notify::new(),
            alone: Semaphore::new(settings.alone_max),
            alone_waiting: AtomicUsize::new(0),
            hasher: RandomState::new(),
        }))
    }

    pub(crate) async fn commit(&self, changes: Changes) -> Result<Committed, StorageError> {
        let inner = &self.0;
        let is_single = inner.settings.engine == Engine::Single;
        if !is_single || !fits(&changes) {
            return inner.step_by_step(changes).await;
        }
        let Grouping::On { committers, .. } = inner.settings.group else {
            let inner = Arc::clone(inner);
            return joined(tokio::spawn(async move { inner.single(&changes).await }).await);
        };
        let held = inner.database.handoff.reserve(&changes, &inner.database.env);
        let (answer, answered) = oneshot::channel();
        let call = {
            let mut waiting = inner.waiting();
            if waiting.count >= WAITING_MAX {
                return Err(StorageError::Unavailable(Arc::new(Overload)));
            }
            waiting.push(Item { changes, held, answer });
            waiting.call(committers)
        };
        match call {
            Call::Wake => inner.bell.notify_last(),
            Call::Start => drop(tokio::spawn(Committer(Arc::clone(inner)).run())),
            Call::Nobody => {}
        }
        // The sender is dropped only when its task was: the runtime is shutting down.
        answered.await.unwrap_or_else(|dropped| Err(StorageError::Indeterminate(Arc::new(dropped))))
    }
}

/// More commits wait than this process should hold.
#[derive(Debug, thiserror::Error)]
#[error("{WAITING_MAX} commits wait already")]
struct Overload;

/// One of the tasks that commit what waits. When nothing does it lingers for a moment with its connection, so that the next commit need not
/// fetch one, and ends.
struct Committer(Arc<Inner>);

impl Committer {
    async fn run(self) {
        let inner = &self.0;
        let mut connection = None;
        loop {
            if let Some(items) = inner.next_batch() {
                inner.commit_all(items, &mut connection).await;
                // Those who were just answered may have their next payment ready: let them, and it goes with this batch's successor.
                tokio::task::yield_now().await;
                continue;
            }
            if !inner.settings.keeps_connections {
                connection = None;
            }
            let called = tokio::time::timeout(LINGER, inner.bell.notified()).await.is_ok();
            if !called && inner.waiting().leaves() {
                return;
            }
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // Also when it panicked or its runtime ended: the next commit starts another.
        self.0.waiting().ended();
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the calling committer is to commit next; `None`: it lingers.
    fn next_batch(&self) -> Option<Vec<Item>> {
        let Grouping::On { commits_max, .. } = self.settings.group else { return None };
        let mut waiting = self.waiting();
        let batch = waiting.take(commits_max, &self.hasher);
        // Under the same lock as the look, so that no commit comes between them and finds nobody to call.
        waiting.lingering += usize::from(batch.is_empty());
        (!batch.is_empty()).then_some(batch)
    }

    /// Commits a batch, tells everybody, and sends those that somebody's lock keeps out on a way of their own.
    async fn commit_all(self: &Arc<Self>, items: Vec<Item>, connection: &mut Kept) {
        let mut tries = 0;
        let verdicts = loop {
            tries += 1;
            let all: Vec<One<'_>> = items.iter().map(Item::as_one).collect();
            match self.database.try_group(&all, Wait::Never, connection).await {
                Ok(verdicts) => break verdicts,
                Err((error, _)) if tries < TRIES && is_worth_repeating(&error) => {
                    self.database.pause(tries).await;
                }
                // One of them breaks a rule, or waits for a lock that nobody could foresee. Which one shows when each is alone.
                Err((error, _)) if is_refusal(&error) || is_lock_timeout(&error) => {
                    items.into_iter().for_each(|item| self.leave_alone(item));
                    return;
                }
                Err((error, doubt)) => {
                    let error = Arc::new(error);
                    for item in items {
                        item.answer(Err(shared_error(&error, doubt)));
                    }
                    return;
                }
            }
        };
        for (item, verdict) in items.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Done(result) => item.answer(result),
                Verdict::Held => self.leave_alone(item),
            }
        }
    }

    /// Does a commit on a task of its own, where it may wait for a lock without anybody else waiting.
    fn leave_alone(self: &Arc<Self>, item: Item) {
        if self.alone_waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.alone_waiting.fetch_sub(1, Ordering::Relaxed);
            let _ = item.answer.send(Err(StorageError::Unavailable(Arc::new(Overload))));
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let place = inner.alone.acquire().await;
            // Never closed; were it, the commit would be done without a place.
            let result = inner.single(&item.changes).await;
            drop(place);
            inner.alone_waiting.fetch_sub(1, Ordering::Relaxed);
            let _ = item.answer.send(result);
        });
    }

    /// Does one commit that [`fits`] in one round trip.
    async fn single(&self, changes: &Changes) -> Result<Committed, StorageError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self
                .database
                .try_group(&[One { changes, held: None }], Wait::ForLocks, &mut None)
                .await
            {
                Ok(mut verdicts) => return verdicts.pop().map_or_else(lost, Verdict::result),
                Err((error, _)) if tries < TRIES && is_worth_repeating(&error) => {
                    self.database.pause(tries).await;
                }
                Err((error, doubt)) => return Err(write_error(error, doubt)),
            }
        }
    }

    async fn step_by_step(&self, changes: Changes) -> Result<Committed, StorageError> {
        let (database, changes) = (Arc::clone(&self.database), Arc::new(changes));
        let work = self.database.transact(move |connection| {
            let (database, changes) = (Arc::clone(&database), Arc::clone(&changes));
            Box::pin(
                async move { steps(connection, &database, Whose::Ours).commit(&changes).await },
            )
        });
        work.await
    }
}

/// Commits inside a transaction that is somebody else's.
pub(crate) async fn commit_here(
    connection: &mut PgConnection,
    database: &Database,
    changes: &Changes,
    engine: Engine,
) -> Result<Committed, StorageError> {
    let failed = |error| write_error(error, Doubt::NotApplied);
    if engine == Engine::Single && fits(changes) {
        let all = [One { changes, held: None }];
        let outcomes = database.execute(connection, &all, Wait::ForLocks).await.map_err(failed)?;
        let mut verdicts = database.settle(connection, &all, outcomes, Wait::ForLocks).await;
        return verdicts.pop().map_or_else(lost, Verdict::result);
    }
    steps(connection, database, Whose::TheHosts).commit(changes).await.map_err(|stopped| {
        match stopped {
            Stopped::Refused(error) => error,
            Stopped::Failed(error) => failed(error),
        }
    })
}

fn steps<'c>(
    connection: &'c mut PgConnection,
    database: &'c Database,
    transaction: Whose,
) -> Steps<'c> {
    Steps {
        connection,
        sql: &database.sql,
        offset: database.clock.offset(),
        is_persistent: database.is_persistent(),
        transaction,
    }
}

/// What a commit of a group comes to.
#[derive(Debug)]
enum Verdict {
    /// This.
    Done(Result<Committed, StorageError>),
    /// Somebody else holds its row or its key: nothing was written.
    Held,
}

impl Verdict {
    fn result(self) -> Result<Committed, StorageError> {
        match self {
            Self::Done(result) => result,
            Self::Held => lost(),
        }
    }
}

fn lost() -> Result<Committed, StorageError> {
    Err(StorageError::Unavailable(Arc::new(Held)))
}

/// A commit that waits for locks still found what it needs held.
#[derive(Debug, thiserror::Error)]
#[error("another transaction holds the row or the key")]
struct Held;

/// What a group made of a commit, or why it was not in it.
type Made = Result<Outcome, StorageError>;

impl Database {
    /// One transaction for a group: one round trip, or an explicit transaction through a pooler that keeps no statements.
    async fn try_group(
        &self,
        all: &[One<'_>],
        wait: Wait,
        kept: &mut Kept,
    ) -> Result<Vec<Verdict>, (sqlx::Error, Doubt)> {
        #[expect(clippy::cast_precision_loss, reason = "a group has at most a thousand commits")]
        metrics::histogram!(COMMIT_BATCH_SIZE).record(all.len() as f64);
        let not_applied = |error| (error, Doubt::NotApplied);
        if self.is_persistent() {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.pool.acquire().await.map_err(not_applied)?,
            };
            let made = self.execute(&mut connection, all, wait).await;
            // After an error the connection goes back to the pool, which tests it.
            let made = made.map_err(|error| {
                let doubt = doubt_of(&error);
                (error, doubt)
            })?;
            let verdicts = self.settle(&mut connection, all, made, wait).await;
            *kept = Some(connection);
            return Ok(verdicts);
        }
        let mut transaction = self.begin().await.map_err(not_applied)?;
        let made = self.execute(&mut transaction, all, wait).await.map_err(not_applied)?;
        let verdicts = self.settle(&mut transaction, all, made, wait).await;
        match transaction.commit().await {
            Ok(()) => Ok(verdicts),
            Err(error) => {
                let doubt = doubt_of(&error);
                Err((error, doubt))
            }
        }
    }

    async fn execute(
        &self,
        connection: &mut PgConnection,
        all: &[One<'_>],
        wait: Wait,
    ) -> Result<Vec<Made>, sqlx::Error> {
        let mut group = Group::default();
        let mut refused = Vec::new();
        for (n, one) in all.iter().enumerate() {
            // A group has at most a thousand.
            if let Err(error) = group.add(i32::try_from(n).unwrap_or(i32::MAX), *one) {
                refused.push((n, error));
            }
        }
        let mut made: Vec<Made> = if group.is_empty() {
            all.iter().map(|_| Ok(Outcome::Lost)).collect()
        } else {
            let shape = group.shape(wait);
            let statement = self.sql.shape(shape, || compose(shape));
            let query = statement.with(group.bind(shape, self.clock.offset()));
            let rows = query.persistent(self.is_persistent()).fetch_all(connection).await?;
            let outcomes = outcomes(&rows, all.len()).map_err(sqlx::Error::Decode)?;
            outcomes.into_iter().map(Ok).collect()
        };
        for (n, error) in refused {
            made[n] = Err(error);
        }
        Ok(made)
    }

    /// Reads what the keys of those that were not applied stand for, and says what each commit comes to.
    async fn settle(
        &self,
        connection: &mut PgConnection,
        all: &[One<'_>],
        made: Vec<Made>,
        wait: Wait,
    ) -> Vec<Verdict> {
        let is_open =
            |made: &Made| matches!(made, Ok(outcome) if !matches!(outcome, Outcome::Applied(_)));
        let asked: Vec<(i32, &Changes)> = (0..)
            .zip(all.iter().map(|one| one.changes))
            .zip(&made)
            .filter(|((_, changes), made)| changes.claim.is_some() && is_open(made))
            .map(|(numbered, _)| numbered)
            .collect();
        let mut known =
            if asked.is_empty() { Ok(HashMap::new()) } else { self.keys(connection, &asked).await };
        let mut verdicts = Vec::with_capacity(all.len());
        for ((n, changes), made) in (0..).zip(all.iter().map(|one| one.changes)).zip(made) {
            let outcome = match made {
                Ok(outcome) => outcome,
                Err(error) => {
                    verdicts.push(Verdict::Done(Err(error)));
                    continue;
                }
            };
            let record = match (&mut known, &changes.claim) {
                (Ok(known), Some(_)) => known.remove(&n),
                (Err(error), Some(_)) if !matches!(outcome, Outcome::Applied(_)) => {
                    verdicts.push(Verdict::Done(Err(error.clone().into())));
                    continue;
                }
                _ => None,
            };
            verdicts.push(verdict(changes, outcome, record, wait));
        }
        verdicts
    }

    async fn keys(
        &self,
        connection: &mut PgConnection,
        asked: &[(i32, &Changes)],
    ) -> Result<HashMap<i32, KeyRecord>, Unread> {
        const KEYS: &str = concat!(
            "select i.item, ",
            key_columns!(),
            " from unnest($1::int[], $2::text[], $3::boolean[], $4::text[]) as i(item, merchant, live, key) ",
            "join {schema}.idempotency_keys k on k.merchant = i.merchant and k.live = i.live and k.key = i.key"
        );
        let key_of = |changes: &Changes| {
            changes.claim.as_ref().map_or_else(String::new, |claim| claim.key.as_str().to_owned())
        };
        let bound = Bound::new()
            .and(asked.iter().map(|(item, _)| *item).collect::<Vec<i32>>())
            .and(
                asked
                    .iter()
                    .map(|(_, changes)| changes.scope.merchant.as_str())
                    .collect::<Vec<_>>(),
            )
            .and(
                asked.iter().map(|(_, changes)| is_live(changes.scope.mode)).collect::<Vec<bool>>(),
            )
            .and(asked.iter().map(|(_, changes)| key_of(changes)).collect::<Vec<String>>());
        let query = self.sql.text(KEYS).with(bound).persistent(self.is_persistent());
        let rows = query.fetch_all(connection).await.map_err(|error| Unread(Arc::new(error)))?;
        let read = |row: &PgRow| -> crate::columns::Read<(i32, KeyRecord)> {
            Ok((row.try_get(0)?, key_record(&mut Columns::after(row, 1))?))
        };
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| Unread(Arc::from(error)))
    }
}

/// Why it is not known what a key stands for.
#[derive(Debug, Clone)]
struct Unread(Source);

impl From<Unread> for StorageError {
    fn from(unread: Unread) -> Self {
        // Nothing was written: only the answer to a replay could not be read.
        Self::Unavailable(unread.0)
    }
}

fn verdict(changes: &Changes, outcome: Outcome, earlier: Option<KeyRecord>, wait: Wait) -> Verdict {
    let outcome = match outcome {
        Outcome::Applied(made) => {
            return Verdict::Done(Ok(Committed::Applied {
                due: due(changes, made),
                are_claimed: false,
            }));
        }
        outcome => outcome,
    };
    // A replay is a replay, whatever else is wrong.
    if let (Some(claim), Some(earlier)) = (&changes.claim, earlier) {
        return Verdict::Done(answered(claim, earlier));
    }
    match outcome {
        Outcome::NoSuchKey => Verdict::Done(Err(StorageError::Missing("idempotency key"))),
        Outcome::GuardFailed { is_absent: true, .. } if wait == Wait::Never => Verdict::Held,
        Outcome::GuardFailed { at, .. } => conflict(changes.guards.get(at)),
        // Nobody has its key, so somebody is about to.
        Outcome::Lost if changes.claim.is_some() => Verdict::Held,
        Outcome::Exists | Outcome::Lost | Outcome::Applied(_) => {
            let creation = |guard: &&Guard| matches!(guard, Guard::Payment { version: 0, .. });
            conflict(changes.guards.iter().find(creation))
        }
    }
}

fn conflict(guard: Option<&Guard>) -> Verdict {
    match guard {
        Some(guard) => Verdict::Done(Err(StorageError::Conflict(guard.clone()))),
        None => Verdict::Held,
    }
}

fn shared_error(error: &Arc<sqlx::Error>, doubt: Doubt) -> StorageError {
    let source: Source = Arc::clone(error) as Source;
    match doubt {
        Doubt::MayBeApplied => StorageError::Indeterminate(source),
        Doubt::NotApplied => StorageError::Unavailable(source),
    }
}

/// Commits that wait, a line for each merchant, so that nobody waits behind another's rush.
#[derive(Default)]
struct Waiting {
    lines: HashMap<MerchantId, VecDeque<Item>>,
    /// Merchants with a line, in the order of their turns.
    turns: VecDeque<MerchantId>,
    count: usize,
    committers: usize,
    /// Committers that wait for the bell and were not called yet.
    lingering: usize,
}

/// Who takes care of a commit that just came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// One that lingers.
    Wake,
    /// A new one.
    Start,
    /// One of those at work, once it is done with what it has.
    Nobody,
}

/// The connection that a committer keeps from one batch to the next.
type Kept = Option<PoolConnection<Postgres>>;

impl Waiting {
    fn push(&mut self, item: Item) {
        let merchant = &item.changes.scope.merchant;
        let line = self.lines.entry(merchant.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(merchant.clone());
        }
        line.push_back(item);
        self.count += 1;
    }

    /// Calls somebody, if anybody is to be called; who is called is counted as called.
    const fn call(&mut self, committers_max: usize) -> Call {
        if self.lingering > 0 {
            self.lingering -= 1;
            Call::Wake
        } else if self.committers < committers_max {
            self.committers += 1;
            Call::Start
        } else {
            Call::Nobody
        }
    }

    /// Whether a committer whose time to linger is over may leave: not when it was called just then.
    const fn leaves(&mut self) -> bool {
        let leaves = self.lingering > 0;
        if leaves {
            self.lingering -= 1;
        }
        leaves
    }

    /// A committer is gone, whatever it was at: it may have lingered, and nobody must be sent to wake it.
    const fn ended(&mut self) {
        self.committers -= 1;
        if self.lingering > self.committers {
            self.lingering = self.committers;
        }
    }

    /// Up to `max` commits, one of each merchant in turn, no two of them about one payment, delivery or key.
    fn take(&mut self, max: usize, hasher: &RandomState) -> Vec<Item> {
        let mut batch = Vec::with_capacity(max.min(self.count));
        let mut bytes = 0;
        let mut subjects = HashSet::new();
        let mut aside: Vec<Item> = Vec::new();
        while batch.len() < max && bytes < BATCH_BYTES_MAX && aside.len() < ASIDE_MAX {
            let Some(merchant) = self.turns.pop_front() else { break };
            let Some(line) = self.lines.get_mut(&merchant) else { continue };
            if let Some(item) = line.pop_front() {
                self.count -= 1;
                let about = subjects_of(&item.changes, hasher);
                if about.iter().any(|subject| subjects.contains(subject)) {
                    aside.push(item);
                } else {
                    subjects.extend(about);
                    bytes += bytes_of(&item.changes);
                    batch.push(item);
                }
            }
            if line.is_empty() {
                self.lines.remove(&merchant);
            } else {
                self.turns.push_back(merchant);
            }
        }
        // Back to the front, in the order they came.
        for item in aside.into_iter().rev() {
            let merchant = item.changes.scope.merchant.clone();
            let line = self.lines.entry(merchant.clone()).or_default();
            if line.is_empty() {
                self.turns.push_front(merchant);
            }
            line.push_front(item);
            self.count += 1;
        }
        batch
    }
}

/// What a commit is about, hashed: two that seem to be about the same are only done one after the other.
fn subjects_of(changes: &Changes, hasher: &RandomState) -> Vec<u64> {
    let mut subjects = Vec::with_capacity(changes.guards.len() + 2);
    let scope = &changes.scope;
    for guard in &changes.guards {
        match guard {
            Guard::Payment { id, .. } => subjects.push(hasher.hash_one((scope, id))),
            Guard::Delivery { id, .. } => subjects.push(hasher.hash_one((scope, id))),
            _ => {}
        }
    }
    let mut key = |key: &str| subjects.push(hasher.hash_one((scope, key)));
    if let Some(claim) = &changes.claim {
        key(claim.key.as_str());
    }
    for write in &changes.writes {
        if let Write::Answer { key: answered, .. } = write {
            key(answered.as_str());
        }
    }
    subjects
}

fn bytes_of(changes: &Changes) -> usize {
    let bodies = changes.writes.iter().map(|write| match write {
        Write::Event(event) => event.body.len(),
        Write::Answer { answer, .. } => answer.body.len(),
        _ => 0,
    });
    let claimed = changes.claim.as_ref().and_then(|claim| claim.answer.as_ref());
    bodies.sum::<usize>() + claimed.map_or(0, |answer| answer.body.len())
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// How many commits share a transaction: a histogram, through the `metrics` facade.
pub const COMMIT_BATCH_SIZE: &str = "pgw_commit_batch_size";
/// How long a committer stays without work: long enough for a caller's next payment, too short for anybody to miss the connection.
const LINGER: Duration = Duration::from_millis(50);
/// Most commits that wait; far more than callers a process should have at once.
const WAITING_MAX: usize = 16_384;
/// A batch ends once its bodies have this many bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How many commits that must wait for another of the batch are looked past.
const ASIDE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_wake_a_committer_that_is_gone() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.call(2), Call::Start);
        waiting.lingering += 1;
        // Its runtime ends while it lingers: it is dropped where it stands.
        waiting.ended();
        assert_eq!(waiting.call(2), Call::Start);
        waiting.lingering += 1;
        assert_eq!((waiting.call(2), waiting.call(2)), (Call::Wake, Call::Start));
        assert_eq!(waiting.call(2), Call::Nobody);
        assert!(!waiting.leaves(), "it was called");
    }
}

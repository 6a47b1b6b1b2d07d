//! Group commit: what waits is put into one transaction, and each commit hears its own outcome.

use std::collections::HashMap;
use std::fmt;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::id::DeliveryId;
use pgw_core::idempotency::KeyRecord;
use pgw_core::processor::Source;
use pgw_core::queue::Job;
use pgw_core::storage::StorageError;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, Row as _};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::answers::answered;
use crate::builder::{Engine, Group as Grouping};
use crate::columns::{Columns, key_columns, key_record};
use crate::database::{Database, TRIES, joined};
use crate::error::{
    Doubt, corrupt, doubt_of, is_lock_timeout, is_refusal, is_worth_repeating, write_error,
};
use crate::group::{Group, One, Wait, compose, fits};
use crate::outcome::{Outcome, outcomes};
use crate::rows::is_live;
use crate::sql::Bound;
use crate::steps::{Steps, Stopped, Whose};
use crate::waiting::{Call, Item, Stage, Waiting};

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
    /// Room for those that wait for such a place.
    alone_room: Arc<Semaphore>,
    hasher: RandomState,
}

impl Batcher {
    pub(crate) fn new(database: Arc<Database>, settings: BatcherSettings) -> Self {
        Self(Arc::new(Inner {
            database,
            settings,
            waiting: Mutex::default(),
            bell: Notify::new(),
            alone: Semaphore::new(settings.alone_max),
            alone_room: Arc::new(Semaphore::new(WAITING_MAX)),
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
            Call::Start => drop(tokio::spawn(Committer::new(Arc::clone(inner)).run())),
            Call::Nobody => {}
        }
        // The sender is dropped only when its task was: it panicked, or the runtime is shutting down.
        answered.await.unwrap_or_else(|dropped| Err(StorageError::Indeterminate(Arc::new(dropped))))
    }
}

/// More commits wait than this process should hold.
#[derive(Debug, thiserror::Error)]
#[error("{WAITING_MAX} commits wait already")]
struct Overload;

/// Nothing was sent: whoever was to commit it is gone.
#[derive(Debug, thiserror::Error)]
#[error("the task that was to commit this panicked, or its runtime was shut down")]
struct Gone;

/// One of the tasks that commit what waits. When nothing does it lingers for a moment with its connection, so that the next commit need not
/// fetch one, and ends.
struct Committer {
    inner: Arc<Inner>,
    stage: Stage,
    /// How many commits it took that are not done.
    has: usize,
}

impl Committer {
    const fn new(inner: Arc<Inner>) -> Self {
        Self { inner, stage: Stage::Works, has: 0 }
    }

    async fn run(mut self) {
        let mut connection = None;
        loop {
            if let Some(items) = self.inner.next_batch() {
                self.has = items.len();
                let done = self.inner.commit_all(items, &mut connection).await;
                let are_many = self.has > 1;
                self.inner.waiting().done(std::mem::take(&mut self.has));
                for (item, verdict) in done {
                    match verdict {
                        Verdict::Done(result) => item.answer(result),
                        Verdict::Held => self.inner.leave_alone(item),
                    }
                }
                // Those who were just answered may have their next payment ready: let them, and it goes with this batch's successor. One alone
                // finds this committer lingering; to give way to it would wake another thread of the runtime first.
                if are_many {
                    self.gather().await;
                }
                continue;
            }
            self.stage = Stage::Lingers;
            if !self.inner.settings.keeps_connections {
                connection = None;
            }
            let is_over = tokio::time::timeout(LINGER, self.inner.bell.notified()).await.is_err();
            let (others_are_called, others_work) = {
                let mut waiting = self.inner.waiting();
                self.stage = waiting.wakes(is_over);
                (waiting.called > 0, waiting.at_work() > 1)
            };
            if others_are_called {
                // The bell holds one ring only, which this one may have heard for another.
                self.inner.bell.notify_last();
            }
            if self.stage == Stage::Left {
                return;
            }
            // Who called it is the first of those that the others answered, and more are on their way.
            if others_work {
                self.gather().await;
            }
        }
    }

    /// Gives way as long as commits come in and there is room for them: not a delay, but the tasks that are ready anyway, which would otherwise be a
    /// transaction of their own.
    async fn gather(&self) {
        let Grouping::On { commits_max, .. } = self.inner.settings.group else { return };
        let mut came = 0;
        for _ in 0..GATHERS_MAX {
            tokio::task::yield_now().await;
            let waiting = self.inner.waiting();
            if waiting.count <= came || waiting.share(commits_max) == commits_max {
                break;
            }
            came = waiting.count;
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // When it did not leave, it panicked or its runtime ended: the next commit starts another, and those that were left to it are not forgotten.
        let (call, orphans) = {
            let mut waiting = self.inner.waiting();
            waiting.done(self.has);
            waiting.ended(self.stage)
        };
        if call == Call::Wake {
            self.inner.bell.notify_last();
        }
        for item in orphans {
            item.answer(Err(StorageError::Unavailable(Arc::new(Gone))));
        }
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

    /// Commits a batch, and says what each comes to.
    async fn commit_all(
        self: &Arc<Self>,
        items: Vec<Item>,
        connection: &mut Kept,
    ) -> Vec<(Item, Verdict)> {
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
                    break items.iter().map(|_| Verdict::Held).collect();
                }
                Err((error, doubt)) => {
                    let error = Arc::new(error);
                    let failed = || Verdict::Done(Err(shared_error(&error, doubt)));
                    break items.iter().map(|_| failed()).collect();
                }
            }
        };
        items.into_iter().zip(verdicts).collect()
    }

    /// Does a commit on a task of its own, where it may wait for a lock without anybody else waiting.
    fn leave_alone(self: &Arc<Self>, item: Item) {
        let Ok(room) = Arc::clone(&self.alone_room).try_acquire_owned() else {
            let _ = item.answer.send(Err(StorageError::Unavailable(Arc::new(Overload))));
            return;
        };
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let place = inner.alone.acquire().await;
            // Never closed; were it, the commit would be done without a place.
            let result = inner.single(&item.changes).await;
            // Before the answer, and also when the task is dropped or panics.
            drop((place, room));
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
            let (shape, bound) = group.bind(wait, self.clock.offset());
            let query = self.sql.shape(shape, || compose(shape)).with(bound);
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
                (Ok(known), Some(_)) => match known.remove(&n).transpose() {
                    Ok(record) => record,
                    Err(error) => {
                        verdicts.push(Verdict::Done(Err(error)));
                        continue;
                    }
                },
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

    /// What each of these claims finds. A record that cannot be read is the trouble of those who asked for it.
    async fn keys(
        &self,
        connection: &mut PgConnection,
        asked: &[(i32, &Changes)],
    ) -> Result<HashMap<i32, Result<KeyRecord, StorageError>>, Unread> {
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
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            let item = row.try_get(0).map_err(|error| Unread(Arc::new(error)))?;
            found.insert(item, key_record(&mut Columns::after(row, 1)).map_err(corrupt));
        }
        Ok(found)
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

/// The jobs that an applied commit made due: what its writes say, and the deliveries that were made.
fn due(changes: &Changes, made: Vec<DeliveryId>) -> Vec<(Job, Duration)> {
    let scope = &changes.scope;
    let mut due: Vec<(Job, Duration)> = Vec::with_capacity(made.len() + 1);
    for write in &changes.writes {
        let (job, due_in) = match write {
            Write::Operation { operation, due_in: Some(due_in) } => {
                let (payment, operation) = (operation.payment, operation.id);
                (Job::Operation { scope: scope.clone(), payment, operation }, *due_in)
            }
            Write::Delivery { delivery, due_in: Some(due_in) } => {
                (Job::Delivery { scope: scope.clone(), delivery: delivery.id }, *due_in)
            }
            _ => continue,
        };
        due.push((job, due_in));
    }
    let job = |delivery| (Job::Delivery { scope: scope.clone(), delivery }, Duration::ZERO);
    due.extend(made.into_iter().map(job));
    due
}

fn shared_error(error: &Arc<sqlx::Error>, doubt: Doubt) -> StorageError {
    let source: Source = Arc::clone(error) as Source;
    match doubt {
        Doubt::MayBeApplied => StorageError::Indeterminate(source),
        Doubt::NotApplied => StorageError::Unavailable(source),
    }
}

/// The connection that a committer keeps from one batch to the next.
type Kept = Option<PoolConnection<Postgres>>;

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// How many commits share a transaction: a histogram, through the `metrics` facade.
pub const COMMIT_BATCH_SIZE: &str = "pgw_commit_batch_size";
/// How long a committer stays without work: long enough for a caller's next payment, too short for anybody to miss the connection.
const LINGER: Duration = Duration::from_millis(50);
/// How often a committer gives way before it looks what came.
const GATHERS_MAX: usize = 8;
/// Most commits that wait; far more than callers a process should have at once.
const WAITING_MAX: usize = 16_384;

//! `PgEnlisted`: storage inside the host's own transaction.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use pgw_core::changes::{Changes, Committed};
use pgw_core::id::{KeyId, PaymentId};
use pgw_core::notifier::{Hint, Relay};
use pgw_core::payment::PaymentState;
use pgw_core::queue::Job;
use pgw_core::scope::Scope;
use pgw_core::storage::{DueWork, StorageError};
use pgw_core::timestamp::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row as _, Transaction};
use tokio::sync::Mutex;

use crate::batch::commit_here;
use crate::builder::Engine;
use crate::database::{Database, Session};
use crate::due;
use crate::error::{Doubt, read_error, write_error};
use crate::notifier::{PAYLOAD_MAX, channel};
use crate::read;
use crate::sql::{Bound, Sql, Statement};
use crate::steps::{Stopped, scoped};
use crate::sweeps::TOUCH;
use crate::value::Time;

/// Storage that works inside a transaction of the host's: see [`PgStorage::enlist`](crate::PgStorage::enlist).
///
/// # Contract
/// It is a [`Storage`](pgw_core::storage::Storage): what it commits is applied when, and only when, the host commits. Until then other
/// connections do not see it, and an idempotency key that it claimed makes others who come with the same key wait or be refused.
///
/// After [`Conflict`](StorageError::Conflict), [`KeyReused`](StorageError::KeyReused), a replay or
/// [`Missing`](StorageError::Missing) nothing was written and the transaction is usable. After any other error PostgreSQL has
/// usually aborted it: roll it back.
///
/// Hints go out with the host's commit. There are no retries inside: a serialization failure is the host's to repeat, whole.
///
/// # Errors
/// [`StorageError::Unsupported`] in a transaction that is not at READ COMMITTED, before anything is written: at other levels a guard
/// would be judged by an old snapshot.
///
/// # Cancel safety
/// A dropped call may have been applied inside the transaction or not. Roll it back.
pub struct PgEnlisted<'t, 'c> {
    database: Arc<Database>,
    transaction: Mutex<&'t mut Transaction<'c, Postgres>>,
    engine: Engine,
    is_checked: AtomicBool,
}

impl<'t, 'c> PgEnlisted<'t, 'c> {
    pub(crate) fn new(
        database: Arc<Database>,
        engine: Engine,
        transaction: &'t mut Transaction<'c, Postgres>,
    ) -> Self {
        let transaction = Mutex::new(transaction);
        Self { database, transaction, engine, is_checked: AtomicBool::new(false) }
    }

    pub(crate) async fn one_payment(
        &self,
        scope: &Scope,
        id: PaymentId,
    ) -> Result<Option<PaymentState>, StorageError> {
        read::payment(self, scope, id).await
    }

    pub(crate) async fn due_jobs(
        &self,
        jobs: &[Job],
    ) -> Result<Vec<Option<DueWork>>, StorageError> {
        due::due_all(self, jobs).await
    }

    pub(crate) async fn commit_changes(&self, changes: Changes) -> Result<Committed, StorageError> {
        self.check_isolation().await?;
        let mut transaction = self.transaction.lock().await;
        let committed =
            commit_here(&mut transaction, &self.database, &changes, self.engine).await?;
        if let Committed::Applied { due, .. } = &committed {
            let mut hints = Hint::work(due);
            hints.extend(Hint::of(&changes));
            for payload in Relay::anonymous_texts(&hints, PAYLOAD_MAX) {
                const NOTIFY: &str = "select pg_notify($1, $2)";
                let bound = Bound::new().and(channel(self.database.sql.schema())).and(payload);
                let notify = self.database.sql.text(NOTIFY).with(bound);
                let notify = notify.persistent(self.database.is_persistent());
                notify.execute(&mut ***transaction).await.map_err(aborted)?;
            }
        }
        Ok(committed)
    }

    pub(crate) async fn stamp(&self, limit: usize) -> Result<usize, StorageError> {
        self.check_isolation().await?;
        let mut transaction = self.transaction.lock().await;
        self.database.sweep(&mut transaction).stamp(limit).await.map_err(stopped)
    }

    pub(crate) async fn purge(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, StorageError> {
        self.check_isolation().await?;
        let mut transaction = self.transaction.lock().await;
        self.database.sweep(&mut transaction).purge(before, limit).await.map_err(stopped)
    }

    pub(crate) async fn touch(
        &self,
        scope: &Scope,
        id: KeyId,
        at: Timestamp,
    ) -> Result<(), StorageError> {
        self.check_isolation().await?;
        let mut transaction = self.transaction.lock().await;
        let touch =
            self.database.sql.text(TOUCH).with(scoped(scope).and(id.as_uuid()).and(Time(at)));
        let touch = touch.persistent(self.database.is_persistent());
        touch.execute(&mut ***transaction).await.map(drop).map_err(aborted)
    }

    pub(crate) async fn redact(&self, at: Timestamp, limit: usize) -> Result<usize, StorageError> {
        self.check_isolation().await?;
        let mut transaction = self.transaction.lock().await;
        self.database.sweep(&mut transaction).redact(at, limit).await.map_err(stopped)
    }

    async fn check_isolation(&self) -> Result<(), StorageError> {
        const LEVEL: &str = "select current_setting('transaction_isolation')";
        if self.is_checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let rows = self.rows(self.database.sql.text(LEVEL), Bound::new()).await?;
        let level =
            rows.first().map(|row| row.try_get::<String, _>(0)).transpose().map_err(read_error)?;
        if level.as_deref() != Some("read committed") {
            return Err(StorageError::Unsupported(
                "pgw inside a transaction that is not at READ COMMITTED: begin it without another isolation level",
            ));
        }
        self.is_checked.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn stopped(stopped: Stopped) -> StorageError {
    match stopped {
        Stopped::Refused(error) => error,
        Stopped::Failed(error) => aborted(error),
    }
}

fn aborted(error: sqlx::Error) -> StorageError {
    write_error(error, Doubt::NotApplied)
}

#[async_trait]
impl Session for PgEnlisted<'_, '_> {
    fn sql(&self) -> &Sql {
        &self.database.sql
    }

    fn offset(&self) -> i64 {
        self.database.clock.offset()
    }

    fn engine(&self) -> Engine {
        self.engine
    }

    async fn rows(&self, statement: Statement, bound: Bound) -> Result<Vec<PgRow>, StorageError> {
        let mut transaction = self.transaction.lock().await;
        let query = statement.with(bound).persistent(self.database.is_persistent());
        query.fetch_all(&mut ***transaction).await.map_err(read_error)
    }
}

impl fmt::Debug for PgEnlisted<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgEnlisted")
            .field("schema", self.database.sql.schema())
            .finish_non_exhaustive()
    }
}

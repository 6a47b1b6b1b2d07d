//! Retention of the audit log, by the schema's owner only: the application's role can delete nothing.

use pgw_core::scope::{MerchantId, MerchantIdError};
use pgw_core::timestamp::Timestamp;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::schema::Schema;
use crate::sql::filled;
use crate::value::Time;

/// Deletes what of the audit log was kept long enough.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use pgw_core::timestamp::Timestamp;
/// use pgw_storage_postgres::{Retention, Schema, sqlx::{Connection, PgConnection}};
///
/// let mut owner = PgConnection::connect("postgres://owner@localhost/shop").await?;
/// let before: Timestamp = "2025-01-01T00:00:00Z".parse()?;
/// let retention = Retention::new(Schema::default());
/// while let Some(purged) = retention.purge_audit(&mut owner, before).await? {
///     println!("{} rows of {} purged", purged.rows, purged.merchant);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Retention {
    schema: Schema,
}

/// What one call deleted, of one merchant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// Whose.
    pub merchant: MerchantId,
    /// How many audit rows.
    pub rows: u64,
    /// The last seal whose rows are gone. It stays, as what verification starts from.
    pub anchor: u64,
}

/// What was kept longer than it is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overdue {
    /// Stored answers of idempotency keys, which [`Storage::purge_answers`](pgw_core::storage::Storage::purge_answers) drops.
    pub answers: u64,
    /// Audit rows, which [`Retention::purge_audit`] deletes.
    pub audit_rows: u64,
}

impl Retention {
    /// The retention of this schema.
    pub const fn new(schema: Schema) -> Self {
        Self { schema }
    }

    /// Deletes a batch of the audit rows, of one merchant, that were sealed before this time: the rows of its oldest seals, and these
    /// seals but the last, which stays as the anchor that verification starts from. `None`: nothing of any merchant is left to delete.
    ///
    /// Rows go with their seals only, so what was never sealed stays. The connection is the schema's owner's, and may not be in a
    /// transaction.
    ///
    /// # Errors
    /// [`RetentionError::TooYoung`] unless the time is 365 days ago or more by the server's clock (PCI DSS 10.5.1), and the database's.
    ///
    /// # Cancel safety
    /// A batch is one transaction: it is deleted whole, and the rest verifies, or nothing of it is. Drop the connection too: it may be
    /// inside a transaction.
    pub async fn purge_audit(
        &self,
        connection: &mut PgConnection,
        before: Timestamp,
    ) -> Result<Option<Purged>, RetentionError> {
        const IS_OLD: &str = "select $1 <= statement_timestamp() - interval '365 days'";
        // A merchant whose two oldest seals are old: the first may be an anchor already, and is taken for none while it has number 1.
        const MERCHANT: &str = "with recursive walk(merchant) as (( \
                 select merchant from {schema}.audit_seals order by merchant limit 1 \
             ) union all select (select s.merchant from {schema}.audit_seals s where s.merchant > w.merchant \
                 order by s.merchant limit 1) from walk w where w.merchant is not null \
             ) select w.merchant from walk w cross join lateral (select count(*) as count, max(f.sealed_at) as newest from \
                 (select s.sealed_at from {schema}.audit_seals s where s.merchant = w.merchant order by s.number limit 2) f) f \
             where f.count = 2 and f.newest < $1 limit 1";
        const SEALS: &str = "select number, sealed_at < $2 as is_old, rows from {schema}.audit_seals \
             where merchant = $1 order by number limit 16 for update";
        const ROWS: &str = "delete from {schema}.audit a using unnest($2::timestamptz[], $3::uuid[]) as i(at, id) \
             where a.merchant = $1 and a.at = i.at and a.id = i.id";
        const OLD_SEALS: &str =
            "delete from {schema}.audit_seals where merchant = $1 and number < $2";
        let mut transaction = connection.begin().await?;
        let query = sqlx::query(IS_OLD).persistent(false).bind(Time(before));
        if !query.fetch_one(&mut *transaction).await?.try_get::<bool, _>(0)? {
            transaction.rollback().await?;
            return Err(RetentionError::TooYoung);
        }
        let query =
            sqlx::query(filled(&self.schema, MERCHANT)).persistent(false).bind(Time(before));
        let Some(found) = query.fetch_optional(&mut *transaction).await? else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let merchant: MerchantId = found.try_get::<&str, _>(0)?.parse()?;
        let query = sqlx::query(filled(&self.schema, SEALS)).persistent(false);
        let query = query.bind(merchant.as_str().to_owned()).bind(Time(before));
        let (mut anchor, mut at, mut ids) = (0_i64, Vec::new(), Vec::new());
        for seal in query.fetch_all(&mut *transaction).await? {
            if !seal.try_get::<bool, _>(1)? {
                break;
            }
            anchor = seal.try_get(0)?;
            let (rows, _) = seal.try_get::<&[u8], _>(2)?.as_chunks();
            for row in rows.iter().copied().map(pgw_core::access::SealedRow::from_bytes) {
                at.push(Time(row.at));
                ids.push(row.id.as_uuid());
            }
        }
        let query = sqlx::query(filled(&self.schema, ROWS)).persistent(false);
        let query = query.bind(merchant.as_str().to_owned()).bind(at).bind(ids);
        let rows = query.execute(&mut *transaction).await?.rows_affected();
        let query = sqlx::query(filled(&self.schema, OLD_SEALS)).persistent(false);
        let query = query.bind(merchant.as_str().to_owned()).bind(anchor);
        query.execute(&mut *transaction).await?;
        transaction.commit().await?;
        // Numbers are above zero, as a constraint has it.
        Ok(Some(Purged { merchant, rows, anchor: u64::try_from(anchor).unwrap_or_default() }))
    }

    /// Counts what is left of before these times: nothing, after both purges. Reads every seal, so it is for now and then. The
    /// application's role may ask too. The connection may not be in a transaction, but for one of `sqlx`.
    ///
    /// # Errors
    /// [`RetentionError::Database`].
    ///
    /// # Cancel safety
    /// It reads only. Drop its connection too: it may be inside a transaction.
    pub async fn overdue(
        &self,
        connection: &mut PgConnection,
        answers_before: Timestamp,
        audit_before: Timestamp,
    ) -> Result<Overdue, RetentionError> {
        const ANSWERS: &str = "select count(*) from {schema}.idempotency_keys \
             where answer_status is not null and created_at < $1";
        // As `purge_audit` finds them: the last of the old seals is the anchor once the rows before are gone, and so are its own.
        const AUDIT: &str = "select coalesce(sum(length(s.rows) / 56), 0)::bigint from {schema}.audit_seals s \
             join (select f.merchant, min(f.number) as first, count(*) filter (where f.sealed_at < $1) as old \
                 from {schema}.audit_seals f group by f.merchant) o on o.merchant = s.merchant \
             where s.sealed_at < $1 and o.old >= 2 and (s.number > o.first or s.number = 1)";
        // A pooler may send what is outside of a transaction to two servers.
        let mut transaction = connection.begin().await?;
        let mut counts = [0; 2];
        for (count, (sql, before)) in
            counts.iter_mut().zip([(ANSWERS, answers_before), (AUDIT, audit_before)])
        {
            let query = sqlx::query(filled(&self.schema, sql)).persistent(false).bind(Time(before));
            let found: i64 = query.fetch_one(&mut *transaction).await?.try_get(0)?;
            // A count is not below zero.
            *count = u64::try_from(found).unwrap_or_default();
        }
        transaction.rollback().await?;
        let [answers, audit_rows] = counts;
        Ok(Overdue { answers, audit_rows })
    }
}

/// Why nothing was deleted or counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// The audit log is kept for a year.
    #[error("the audit log is kept for 365 days at least: name an earlier time")]
    TooYoung,
    /// A row is of no merchant of ours.
    #[error("the audit log holds a row of no merchant: it was changed by hand")]
    Merchant(#[from] MerchantIdError),
    /// The database did not do it.
    #[error("the database did not say or do what retention asks")]
    Database(#[from] sqlx::Error),
}

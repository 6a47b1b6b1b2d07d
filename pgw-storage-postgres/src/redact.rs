//! Erasure: what a mark writes, what reads look up of it, and the sweep that rewrites what is marked.

use std::collections::BTreeMap;

use bytes::Bytes;
use pgw_core::id::ErasureId;
use pgw_core::privacy::Redaction;
use pgw_core::timestamp::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::read::rows_of;
use crate::sql::Bound;
use crate::steps::Stopped;
use crate::sweeps::Sweep;
use crate::value::Time;

/// Marks the payments that name a customer. They are those that the statement sees: whoever creates one at the same moment and commits later
/// has a new customer.
pub(crate) const MARK: &str = "insert into {schema}.erased_payments (merchant, live, payment, erasure) \
     select p.merchant, p.live, p.id, $3 from {schema}.payments p where p.merchant = $1 and p.live = $2 and p.customer_id = $4 \
     on conflict do nothing";

/// Makes what a customer agreed to the erasure's, and forgets where it was given.
pub(crate) const DETACH: &str = "update {schema}.consents set customer = null, erasure = $3, source = null, version = version + 1 \
     where merchant = $1 and live = $2 and customer = $4";

/// The erasure that marks the payment which this column of this table names; null when none does.
macro_rules! mark {
    ($table:literal, $payment:literal) => {
        concat!(
            "(select x.erasure from {schema}.erased_payments x where x.merchant = ",
            $table,
            ".merchant and x.live = ",
            $table,
            ".live and x.payment = ",
            $payment,
            " and x.redacted_at is null)"
        )
    };
}
pub(crate) use mark;

/// The payments that are rewritten, as a relation.
macro_rules! batch {
    () => {
        " unnest($1::text[], $2::boolean[], $3::uuid[], $4::uuid[]) as i(merchant, live, payment, erasure) "
    };
}

impl Sweep<'_> {
    /// Rewrites up to `limit` marked payments; how many. Those that somebody else is at are left to them.
    ///
    /// A payment's row is locked first, as commits do: what was planned before waits and then finds another version, and what was committed
    /// before is seen by the statements that follow.
    pub(crate) async fn redact(&mut self, at: Timestamp, limit: usize) -> Result<usize, Stopped> {
        const MARKED: &str = "select merchant, live, payment, erasure from {schema}.erased_payments where redacted_at is null \
             order by merchant, live, payment limit $1 for update skip locked";
        const OPERATIONS: &str = concat!(
            "update {schema}.operations t set reason = null, failure_message = case when t.failure_code is null then null else '' end from",
            batch!(),
            "where t.merchant = i.merchant and t.live = i.live and t.payment = i.payment"
        );
        const ATTEMPTS: &str = concat!(
            "update {schema}.attempts t set body_start = '' from",
            batch!(),
            "join {schema}.events e on e.merchant = i.merchant and e.live = i.live and e.payment = i.payment ",
            "where t.merchant = e.merchant and t.live = e.live and t.event = e.id and t.body_start <> ''"
        );
        const DELIVERIES: &str = concat!(
            "update {schema}.deliveries t set version = t.version + 1 from",
            batch!(),
            "join {schema}.events e on e.merchant = i.merchant and e.live = i.live and e.payment = i.payment ",
            "where t.merchant = e.merchant and t.live = e.live and t.event = e.id and t.state = 'pending'"
        );
        const DONE: &str = concat!(
            "update {schema}.erased_payments t set redacted_at = $5 from",
            batch!(),
            "where t.merchant = i.merchant and t.live = i.live and t.payment = i.payment and i.erasure = t.erasure"
        );
        let marked = self.rows(MARKED, Bound::new().and(rows_of(limit))).await?;
        let batch = Batch::read(&marked)?;
        if batch.payments.is_empty() {
            return Ok(0);
        }
        self.redact_payments(&batch).await?;
        self.rows(OPERATIONS, batch.bound()).await?;
        // Before the attempts: an attempt under way locks its delivery before it is written.
        self.rows(DELIVERIES, batch.bound()).await?;
        self.rows(ATTEMPTS, batch.bound()).await?;
        self.redact_answers(&batch).await?;
        self.redact_events(&batch).await?;
        self.rows(DONE, batch.bound().and(Time(at))).await?;
        Ok(batch.payments.len())
    }

    async fn redact_payments(&mut self, batch: &Batch) -> Result<(), Stopped> {
        const LOCK: &str = concat!(
            "select 1 from",
            batch!(),
            "cross join lateral (select 1 from {schema}.payments p where p.merchant = i.merchant and p.live = i.live and p.id = i.payment ",
            "for update) p"
        );
        const PAYMENTS: &str = concat!(
            "update {schema}.payments t set version = t.version + 1, customer_email = $5, customer_name = $6, ",
            "customer_id = c.customer, description = null, metadata = '{}', ",
            "failure_message = case when t.failure_code is null then null else '' end from",
            " unnest($1::text[], $2::boolean[], $3::uuid[], $4::text[]) as c(merchant, live, payment, customer) ",
            "where t.merchant = c.merchant and t.live = c.live and t.id = c.payment"
        );
        self.rows(LOCK, batch.bound()).await?;
        let customers: Vec<String> =
            batch.erasures.iter().map(|id| ErasureId::from_uuid(*id).to_string()).collect();
        let bound = batch.named().and(customers).and(Redaction::EMAIL).and(Redaction::NAME);
        self.rows(PAYMENTS, bound).await?;
        Ok(())
    }

    /// The answers of the keys that the operations were asked for under.
    async fn redact_answers(&mut self, batch: &Batch) -> Result<(), Stopped> {
        const ANSWERS: &str = concat!(
            "select k.merchant, k.live, k.key, k.answer_body, i.erasure from",
            batch!(),
            "join {schema}.operations o on o.merchant = i.merchant and o.live = i.live and o.payment = i.payment ",
            "join {schema}.idempotency_keys k on k.merchant = o.merchant and k.live = o.live and k.key = o.idempotency_key ",
            "where k.answer_body is not null"
        );
        const WRITE: &str = "update {schema}.idempotency_keys t set answer_body = i.body \
             from unnest($1::text[], $2::boolean[], $3::text[], $4::bytea[]) as i(merchant, live, key, body) \
             where t.merchant = i.merchant and t.live = i.live and t.key = i.key and t.answer_body is not null";
        let answers = self.rows(ANSWERS, batch.bound()).await?;
        let found = Bodies::<String>::read(&answers)?;
        self.rows(WRITE, found.bound()).await?;
        Ok(())
    }

    async fn redact_events(&mut self, batch: &Batch) -> Result<(), Stopped> {
        const EVENTS: &str = concat!(
            "select e.merchant, e.live, e.id, e.body, i.erasure from",
            batch!(),
            "join {schema}.events e on e.merchant = i.merchant and e.live = i.live and e.payment = i.payment"
        );
        const WRITE: &str = "update {schema}.events t set body = i.body \
             from unnest($1::text[], $2::boolean[], $3::uuid[], $4::bytea[]) as i(merchant, live, id, body) \
             where t.merchant = i.merchant and t.live = i.live and t.id = i.id";
        let events = self.rows(EVENTS, batch.bound()).await?;
        let found = Bodies::<Uuid>::read(&events)?;
        self.rows(WRITE, found.bound()).await?;
        Ok(())
    }
}

/// Marked payments, a list a column.
#[derive(Default)]
struct Batch {
    merchants: Vec<String>,
    live: Vec<bool>,
    payments: Vec<Uuid>,
    erasures: Vec<Uuid>,
}

impl Batch {
    fn read(rows: &[PgRow]) -> Result<Self, sqlx::Error> {
        let mut batch = Self::default();
        for row in rows {
            batch.merchants.push(row.try_get(0)?);
            batch.live.push(row.try_get(1)?);
            batch.payments.push(row.try_get(2)?);
            batch.erasures.push(row.try_get(3)?);
        }
        Ok(batch)
    }

    /// Three arguments: which payments.
    fn named(&self) -> Bound {
        Bound::new().and(self.merchants.clone()).and(self.live.clone()).and(self.payments.clone())
    }

    /// Four arguments: which payments, and by which erasure.
    fn bound(&self) -> Bound {
        self.named().and(self.erasures.clone())
    }
}

/// Redacted bodies, each under its scope and key.
struct Bodies<K>(BTreeMap<(String, bool, K), Bytes>);

impl<K> Bodies<K>
where
    K: Ord + Clone + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    Vec<K>: for<'t> sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    fn read(rows: &[PgRow]) -> Result<Self, sqlx::Error> {
        let mut bodies = BTreeMap::new();
        for row in rows {
            let key = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let redaction = Redaction::of(ErasureId::from_uuid(row.try_get(4)?));
            bodies.insert(key, redaction.body(row.try_get(3)?));
        }
        Ok(Self(bodies))
    }

    fn bound(&self) -> Bound {
        let keys = self.0.keys();
        Bound::new()
            .and(keys.clone().map(|(merchant, ..)| merchant.clone()).collect::<Vec<_>>())
            .and(keys.clone().map(|(_, live, _)| *live).collect::<Vec<_>>())
            .and(keys.map(|(.., key)| key.clone()).collect::<Vec<K>>())
            .and(self.0.values().map(|body| body.to_vec()).collect::<Vec<_>>())
    }
}

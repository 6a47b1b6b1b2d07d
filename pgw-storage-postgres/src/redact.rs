//! Erasure: what a mark writes, what reads look up of it, and the sweep that rewrites what is marked.

use std::collections::BTreeMap;

use bytes::Bytes;
use pgw_core::id::ErasureId;
use pgw_core::privacy::Redaction;
use pgw_core::timestamp::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::answers::body;
use crate::builder::Engine;
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

/// The payments of the merchant `$1` that are rewritten, as a relation.
macro_rules! batch {
    () => {
        " unnest($2::boolean[], $3::uuid[], $4::uuid[]) as i(live, payment, erasure) "
    };
}

impl Sweep<'_> {
    /// Rewrites up to `limit` marked payments; how many. Those that somebody else is at are left to them.
    pub(crate) async fn redact(&mut self, at: Timestamp, limit: usize) -> Result<usize, Stopped> {
        const MARKED: &str = "select merchant, live, payment, erasure from {schema}.erased_payments where redacted_at is null \
             order by merchant, live, payment limit $1 for update skip locked";
        const MERCHANTS: &str = "select merchant from {schema}.erased_payments where redacted_at is null \
             group by merchant order by merchant limit $1";
        const MARKED_OF: &str = "select merchant, live, payment, erasure from {schema}.erased_payments where merchant = $2 \
             and redacted_at is null order by live, payment limit $1 for update skip locked";
        let mut marked = Vec::new();
        if self.engine == Engine::Single {
            marked = self.rows(MARKED, Bound::new().and(rows_of(limit))).await?;
        } else {
            for row in self.rows(MERCHANTS, Bound::new().and(rows_of(limit))).await? {
                let room = limit.saturating_sub(marked.len());
                if room == 0 {
                    break;
                }
                let bound = Bound::new().and(rows_of(room)).and(row.try_get::<String, _>(0)?);
                marked.extend(self.rows(MARKED_OF, bound).await?);
            }
        }
        let batches = Batch::read(&marked)?;
        for batch in &batches {
            self.redact_batch(at, batch).await?;
        }
        Ok(marked.len())
    }

    /// A payment's row is locked first, as commits do: what was planned before waits and then finds another version, and what was committed
    /// before is seen by the statements that follow.
    async fn redact_batch(&mut self, at: Timestamp, batch: &Batch) -> Result<(), Stopped> {
        const OPERATIONS: &str = concat!(
            "update {schema}.operations t set reason = null, failure_message = case when t.failure_code is null then null else '' end from",
            batch!(),
            "where t.merchant = $1 and t.live = i.live and t.payment = i.payment"
        );
        const ATTEMPTS: &str = concat!(
            "update {schema}.attempts t set body_start = '' from",
            batch!(),
            "join {schema}.events e on e.merchant = $1 and e.live = i.live and e.payment = i.payment ",
            "where t.merchant = $1 and t.live = e.live and t.event = e.id and t.body_start <> ''"
        );
        const DELIVERIES: &str = concat!(
            "update {schema}.deliveries t set version = t.version + 1 from",
            batch!(),
            "join {schema}.events e on e.merchant = $1 and e.live = i.live and e.payment = i.payment ",
            "where t.merchant = $1 and t.live = e.live and t.event = e.id and t.state = 'pending'"
        );
        const DONE: &str = concat!(
            "update {schema}.erased_payments t set redacted_at = $5 from",
            batch!(),
            "where t.merchant = $1 and t.live = i.live and t.payment = i.payment and i.erasure = t.erasure"
        );
        self.redact_payments(batch).await?;
        self.rows(OPERATIONS, batch.bound()).await?;
        // Before the attempts: an attempt under way locks its delivery before it is written.
        self.rows(DELIVERIES, batch.bound()).await?;
        self.rows(ATTEMPTS, batch.bound()).await?;
        self.redact_answers(batch).await?;
        self.redact_events(batch).await?;
        self.rows(DONE, batch.bound().and(Time(at))).await?;
        Ok(())
    }

    async fn redact_payments(&mut self, batch: &Batch) -> Result<(), Stopped> {
        const LOCK: &str = concat!(
            "select 1 from",
            batch!(),
            "cross join lateral (select 1 from {schema}.payments p where p.merchant = $1 and p.live = i.live and p.id = i.payment ",
            "for update) p"
        );
        const PAYMENTS: &str = concat!(
            "update {schema}.payments t set version = t.version + 1, customer_email = $5, customer_name = $6, ",
            "customer_id = c.customer, description = null, metadata = '{}', ",
            "failure_message = case when t.failure_code is null then null else '' end from",
            " unnest($2::boolean[], $3::uuid[], $4::text[]) as c(live, payment, customer) ",
            "where t.merchant = $1 and t.live = c.live and t.id = c.payment"
        );
        self.rows(LOCK, batch.bound()).await?;
        let customers: Vec<String> =
            batch.erasures.iter().map(|id| ErasureId::from_uuid(*id).to_string()).collect();
        let bound = batch.named().and(customers).and(Redaction::EMAIL).and(Redaction::NAME);
        self.rows(PAYMENTS, bound).await?;
        Ok(())
    }

    /// The answers of the keys that the operations were asked for under. They are the keys' own from then on: the events are rewritten next.
    async fn redact_answers(&mut self, batch: &Batch) -> Result<(), Stopped> {
        const ANSWERS: &str = concat!(
            "select k.live, k.key, ",
            body!("k"),
            ", i.erasure from",
            batch!(),
            "join {schema}.operations o on o.merchant = $1 and o.live = i.live and o.payment = i.payment ",
            "join {schema}.idempotency_keys k on k.merchant = $1 and k.live = o.live and k.key = o.idempotency_key ",
            "where k.answer_status is not null"
        );
        const WRITE: &str = "update {schema}.idempotency_keys t set answer_body = i.body, answer_event = null, answer_length = null \
             from unnest($2::boolean[], $3::text[], $4::bytea[]) as i(live, key, body) \
             where t.merchant = $1 and t.live = i.live and t.key = i.key and t.answer_status is not null";
        let answers = self.rows(ANSWERS, batch.bound()).await?;
        let found = Bodies::<String>::read(&answers)?;
        self.rows(WRITE, found.bound(&batch.merchant)).await?;
        Ok(())
    }

    async fn redact_events(&mut self, batch: &Batch) -> Result<(), Stopped> {
        const EVENTS: &str = concat!(
            "select e.live, e.id, e.body, i.erasure from",
            batch!(),
            "join {schema}.events e on e.merchant = $1 and e.live = i.live and e.payment = i.payment"
        );
        const WRITE: &str = "update {schema}.events t set body = i.body \
             from unnest($2::boolean[], $3::uuid[], $4::bytea[]) as i(live, id, body) \
             where t.merchant = $1 and t.live = i.live and t.id = i.id";
        let events = self.rows(EVENTS, batch.bound()).await?;
        let found = Bodies::<Uuid>::read(&events)?;
        self.rows(WRITE, found.bound(&batch.merchant)).await?;
        Ok(())
    }
}

/// Marked payments of one merchant, a list a column.
struct Batch {
    merchant: String,
    live: Vec<bool>,
    payments: Vec<Uuid>,
    erasures: Vec<Uuid>,
}

impl Batch {
    /// One for each merchant of rows that come merchant by merchant.
    fn read(rows: &[PgRow]) -> Result<Vec<Self>, sqlx::Error> {
        let mut batches: Vec<Self> = Vec::new();
        for row in rows {
            let merchant: &str = row.try_get(0)?;
            if batches.last().is_none_or(|last| last.merchant != merchant) {
                let merchant = merchant.to_owned();
                let (live, payments, erasures) = (Vec::new(), Vec::new(), Vec::new());
                batches.push(Self { merchant, live, payments, erasures });
            }
            let Some(batch) = batches.last_mut() else { continue };
            batch.live.push(row.try_get(1)?);
            batch.payments.push(row.try_get(2)?);
            batch.erasures.push(row.try_get(3)?);
        }
        Ok(batches)
    }

    /// Three arguments: which payments.
    fn named(&self) -> Bound {
        Bound::new().and(&self.merchant[..]).and(self.live.clone()).and(self.payments.clone())
    }

    /// Four arguments: which payments, and by which erasure.
    fn bound(&self) -> Bound {
        self.named().and(self.erasures.clone())
    }
}

/// Redacted bodies of a merchant, each under its mode and key.
struct Bodies<K>(BTreeMap<(bool, K), Bytes>);

impl<K> Bodies<K>
where
    K: Ord + Clone + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    Vec<K>: for<'t> sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    fn read(rows: &[PgRow]) -> Result<Self, sqlx::Error> {
        let mut bodies = BTreeMap::new();
        for row in rows {
            // An answer whose event is gone has none, and holds nobody else up.
            let Some(body) = row.try_get::<Option<&[u8]>, _>(2)? else { continue };
            let redaction = Redaction::of(ErasureId::from_uuid(row.try_get(3)?));
            bodies.insert((row.try_get(0)?, row.try_get(1)?), redaction.body(body));
        }
        Ok(Self(bodies))
    }

    fn bound(&self, merchant: &str) -> Bound {
        let keys = self.0.keys();
        Bound::new()
            .and(merchant)
            .and(keys.clone().map(|(live, _)| *live).collect::<Vec<_>>())
            .and(keys.map(|(_, key)| key.clone()).collect::<Vec<K>>())
            .and(self.0.values().map(|body| body.to_vec()).collect::<Vec<_>>())
    }
}

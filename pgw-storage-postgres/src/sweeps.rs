//! Writes beside the commits. The use of API keys, and sweeps over the rows of all merchants: the sequencer, and the purge of old answers. Each finds rows first and then writes those, by
//! their keys: a planner that must guess how many there will be would read whole tables.

use std::collections::BTreeMap;

use pgw_core::timestamp::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::sql::{Bound, Sql};
use crate::steps::Stopped;
use crate::value::Time;

/// Notes when a key was last used. Whoever changes the key at this moment is not waited for: requests are.
pub(crate) const TOUCH: &str = "update {schema}.api_keys as k set last_used_at = $4 from ( \
         select merchant, live, id from {schema}.api_keys where merchant = $1 and live = $2 and id = $3 \
         and (last_used_at is null or last_used_at < $4) for update skip locked \
     ) t where k.merchant = t.merchant and k.live = t.live and k.id = t.id";

/// Statements on a connection inside a transaction.
pub(crate) struct Sweep<'c> {
    pub(crate) connection: &'c mut PgConnection,
    pub(crate) sql: &'c Sql,
    /// Whether the connection keeps prepared statements: not behind a pooler.
    pub(crate) is_persistent: bool,
}

impl Sweep<'_> {
    pub(crate) async fn rows(
        &mut self,
        template: &'static str,
        bound: Bound,
    ) -> Result<Vec<PgRow>, Stopped> {
        let query = self.sql.text(template).with(bound).persistent(self.is_persistent);
        Ok(query.fetch_all(&mut *self.connection).await?)
    }

    /// Gives up to `limit` committed events their places in the feeds; how many. One at a time does it: the others wait for the lease's
    /// row, a moment.
    ///
    /// The events are picked by when they were created, whosever they are. Of one payment none is stamped before an earlier one.
    pub(crate) async fn stamp(&mut self, limit: usize) -> Result<usize, Stopped> {
        const LEASE: &str = "select name from {schema}.leases where name = $1 for update";
        // With a payment's event come its earlier ones, and none before them, whatever the clocks said: each counts as created no
        // earlier than those before it. A statement after the lease's: it sees what its holder before stamped.
        const READY: &str = "with oldest as materialized ( \
                 select * from (select merchant, live, id, payment, sequence, created_at from {schema}.events \
                 where feed_position is null order by created_at, id limit 1000) first limit $1 \
             ), picked as materialized ( \
                 select merchant, live, id, payment, sequence, created_at from oldest union \
                 select e.merchant, e.live, e.id, e.payment, e.sequence, e.created_at from oldest o join {schema}.events e \
                 on e.merchant = o.merchant and e.live = o.live and e.payment = o.payment and e.sequence < o.sequence \
                 and e.feed_position is null \
             ), placed as ( \
                 select merchant, live, id, sequence, max(created_at) over (partition by merchant, live, coalesce(payment, id) \
                 order by sequence rows unbounded preceding) as counts_from from picked \
             ) select merchant, live, id from placed order by counts_from, sequence, id limit $1";
        const FEEDS: &str = "insert into {schema}.feeds as f (merchant, live, position) \
             select * from unnest($1::text[], $2::boolean[], $3::bigint[]) \
             on conflict (merchant, live) do update set position = f.position + excluded.position \
             returning merchant, live, position";
        const STAMP: &str = "update {schema}.events t set feed_position = i.position \
             from unnest($1::text[], $2::boolean[], $3::uuid[], $4::bigint[]) as i(merchant, live, id, position) \
             where t.merchant = i.merchant and t.live = i.live and t.id = i.id";
        self.rows(LEASE, Bound::new().and("sequencer")).await?;
        let ready = self.rows(READY, Bound::new().and(crate::read::rows_of(limit))).await?;
        if ready.is_empty() {
            return Ok(0);
        }
        let events: Vec<(String, bool, Uuid)> = ready
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
            .collect::<Result<_, sqlx::Error>>()?;
        let mut counts: BTreeMap<(&str, bool), i64> = BTreeMap::new();
        for (merchant, live, _) in &events {
            *counts.entry((merchant.as_str(), *live)).or_default() += 1;
        }
        let bound = Bound::new()
            .and(counts.keys().map(|(merchant, _)| *merchant).collect::<Vec<&str>>())
            .and(counts.keys().map(|(_, live)| *live).collect::<Vec<bool>>())
            .and(counts.values().copied().collect::<Vec<i64>>());
        // From the last position that a feed was given back to the one before its first new one.
        let mut next: BTreeMap<(String, bool), i64> = BTreeMap::new();
        for row in self.rows(FEEDS, bound).await? {
            let feed: (String, bool) = (row.try_get(0)?, row.try_get(1)?);
            let last: i64 = row.try_get(2)?;
            let count = counts.get(&(feed.0.as_str(), feed.1)).copied().unwrap_or_default();
            next.insert(feed, last - count);
        }
        let mut positions = Vec::with_capacity(events.len());
        for (merchant, live, _) in &events {
            let position = next.entry((merchant.clone(), *live)).or_default();
            *position += 1;
            positions.push(*position);
        }
        let bound = Bound::new()
            .and(events.iter().map(|(merchant, ..)| merchant.as_str()).collect::<Vec<&str>>())
            .and(events.iter().map(|(_, live, _)| *live).collect::<Vec<bool>>())
            .and(events.iter().map(|(.., id)| *id).collect::<Vec<Uuid>>())
            .and(positions);
        self.rows(STAMP, bound).await?;
        Ok(events.len())
    }

    /// Drops up to `limit` answers of keys claimed before a time; how many.
    pub(crate) async fn purge(
        &mut self,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, Stopped> {
        const OLD: &str = "select merchant, live, key from {schema}.idempotency_keys \
             where answer_status is not null and created_at < $1 order by created_at limit $2 for update skip locked";
        const DROP: &str = "update {schema}.idempotency_keys t set answer_status = null, answer_body = null \
             from unnest($1::text[], $2::boolean[], $3::text[]) as i(merchant, live, key) \
             where t.merchant = i.merchant and t.live = i.live and t.key = i.key";
        let bound = Bound::new().and(Time(before)).and(crate::read::rows_of(limit));
        let old = self.rows(OLD, bound).await?;
        if old.is_empty() {
            return Ok(0);
        }
        let column = |at: usize| -> Result<Vec<String>, sqlx::Error> {
            old.iter().map(|row| row.try_get(at)).collect()
        };
        let live: Vec<bool> = old.iter().map(|row| row.try_get(1)).collect::<Result<_, _>>()?;
        let bound = Bound::new().and(column(0)?).and(live).and(column(2)?);
        self.rows(DROP, bound).await?;
        Ok(old.len())
    }
}

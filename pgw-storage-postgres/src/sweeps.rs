//! Writes beside the commits. The use of API keys, and sweeps over the rows of all merchants: the sequencer, and the purge of old answers. Each finds rows first and then writes those, by
//! their keys: a planner that must guess how many there will be would read whole tables.

use std::collections::BTreeMap;

use pgw_core::timestamp::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::builder::Engine;
use crate::read::rows_of;
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
    /// Whether the connection keeps prepared statements: not behind every pooler.
    pub(crate) is_persistent: bool,
    /// On a distributed engine, what is written and locked is one merchant's in each statement; only reads are about all.
    pub(crate) engine: Engine,
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
        // earlier than those before it. A statement after the lease's: it sees what its holder before stamped. Earlier ones are found
        // by their payment: as a plain join, where hardly any event had waited when the table was analysed, all that wait are read for each.
        const READY: &str = "with oldest as materialized ( \
                 select * from (select merchant, live, id, payment, sequence, created_at from {schema}.events \
                 where feed_position is null order by created_at, id limit 1000) first limit $1 \
             ), picked as materialized ( \
                 select merchant, live, id, payment, sequence, created_at from oldest union \
                 select e.merchant, e.live, e.id, e.payment, e.sequence, e.created_at from \
                 (select merchant, live, payment, max(sequence) as sequence from oldest group by merchant, live, payment) o cross join lateral \
                 (select * from {schema}.events y where y.merchant = o.merchant and y.live = o.live and y.payment = o.payment \
                 and y.sequence < o.sequence offset 0) e where e.feed_position is null \
             ), placed as ( \
                 select merchant, live, id, sequence, max(created_at) over (partition by merchant, live, coalesce(payment, id) \
                 order by sequence rows unbounded preceding) as counts_from from picked \
             ) select merchant, live, id from placed order by counts_from, sequence, id limit $1";
        self.rows(LEASE, Bound::new().and("sequencer")).await?;
        let ready = self.rows(READY, Bound::new().and(rows_of(limit))).await?;
        if ready.is_empty() {
            return Ok(0);
        }
        let events: Vec<(String, bool, Uuid)> = ready
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
            .collect::<Result<_, sqlx::Error>>()?;
        let mut feeds: BTreeMap<(&str, bool), Vec<Uuid>> = BTreeMap::new();
        for (merchant, live, id) in &events {
            feeds.entry((merchant.as_str(), *live)).or_default().push(*id);
        }
        match self.engine {
            Engine::Single => self.place_all(&feeds).await?,
            Engine::Distributed => {
                for (feed, ids) in &feeds {
                    self.place(*feed, ids).await?;
                }
            }
        }
        Ok(events.len())
    }

    /// Places the events of all these feeds.
    async fn place_all(
        &mut self,
        feeds: &BTreeMap<(&str, bool), Vec<Uuid>>,
    ) -> Result<(), Stopped> {
        const FEEDS: &str = "insert into {schema}.feeds as f (merchant, live, position) \
             select * from unnest($1::text[], $2::boolean[], $3::bigint[]) \
             on conflict (merchant, live) do update set position = f.position + excluded.position \
             returning merchant, live, position";
        const STAMP: &str = "update {schema}.events t set feed_position = i.position \
             from unnest($1::text[], $2::boolean[], $3::uuid[], $4::bigint[]) as i(merchant, live, id, position) \
             where t.merchant = i.merchant and t.live = i.live and t.id = i.id";
        let bound = Bound::new()
            .and(feeds.keys().map(|(merchant, _)| *merchant).collect::<Vec<&str>>())
            .and(feeds.keys().map(|(_, live)| *live).collect::<Vec<bool>>())
            .and(feeds.values().map(|ids| rows_of(ids.len())).collect::<Vec<i64>>());
        let (mut merchants, mut live, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        let mut positions: Vec<i64> = Vec::new();
        for row in self.rows(FEEDS, bound).await? {
            let feed: (String, bool) = (row.try_get(0)?, row.try_get(1)?);
            let of_feed = feeds.get(&(feed.0.as_str(), feed.1)).map_or(&[][..], Vec::as_slice);
            merchants.extend(of_feed.iter().map(|_| feed.0.clone()));
            live.extend(of_feed.iter().map(|_| feed.1));
            ids.extend_from_slice(of_feed);
            positions.extend(last_of(row.try_get(2)?, of_feed));
        }
        let bound = Bound::new().and(merchants).and(live).and(ids).and(positions);
        self.rows(STAMP, bound).await?;
        Ok(())
    }

    /// Places the events of one feed.
    async fn place(&mut self, (merchant, live): (&str, bool), ids: &[Uuid]) -> Result<(), Stopped> {
        const FEED: &str = "insert into {schema}.feeds as f (merchant, live, position) values ($1, $2, $3) \
             on conflict (merchant, live) do update set position = f.position + excluded.position returning position";
        const STAMP: &str = "update {schema}.events t set feed_position = i.position \
             from unnest($3::uuid[], $4::bigint[]) as i(id, position) where t.merchant = $1 and t.live = $2 and t.id = i.id";
        let bound = Bound::new().and(merchant).and(live).and(rows_of(ids.len()));
        for row in self.rows(FEED, bound).await? {
            let positions: Vec<i64> = last_of(row.try_get(0)?, ids).collect();
            let bound = Bound::new().and(merchant).and(live).and(ids.to_vec()).and(positions);
            self.rows(STAMP, bound).await?;
        }
        Ok(())
    }

    /// Drops up to `limit` answers of keys claimed before a time; how many.
    pub(crate) async fn purge(
        &mut self,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, Stopped> {
        const OLD: &str = "select merchant, live, key from {schema}.idempotency_keys \
             where answer_status is not null and created_at < $1 order by created_at limit $2 for update skip locked";
        const DROP: &str = "update {schema}.idempotency_keys t set answer_status = null, answer_body = null, answer_event = null, answer_length = null \
             from unnest($1::text[], $2::boolean[], $3::text[]) as i(merchant, live, key) \
             where t.merchant = i.merchant and t.live = i.live and t.key = i.key";
        let bound = Bound::new().and(Time(before)).and(rows_of(limit));
        if self.engine == Engine::Distributed {
            return self.purge_by_merchant(bound).await;
        }
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

    /// The same, a statement for each merchant that has old answers. What another just drops is not dropped again, and not counted.
    async fn purge_by_merchant(&mut self, old: Bound) -> Result<usize, Stopped> {
        const OLD: &str = "select merchant, live, key from {schema}.idempotency_keys \
             where answer_status is not null and created_at < $1 order by created_at limit $2";
        const DROP: &str = "update {schema}.idempotency_keys t set answer_status = null, answer_body = null, answer_event = null, answer_length = null \
             from unnest($2::boolean[], $3::text[]) as i(live, key) \
             where t.merchant = $1 and t.live = i.live and t.key = i.key and t.answer_status is not null returning 1";
        let mut merchants: BTreeMap<String, (Vec<bool>, Vec<String>)> = BTreeMap::new();
        for row in self.rows(OLD, old).await? {
            let (live, keys) = merchants.entry(row.try_get(0)?).or_default();
            live.push(row.try_get(1)?);
            keys.push(row.try_get(2)?);
        }
        let mut dropped = 0;
        for (merchant, (live, keys)) in merchants {
            dropped += self.rows(DROP, Bound::new().and(merchant).and(live).and(keys)).await?.len();
        }
        Ok(dropped)
    }
}

/// The positions of these events, when the last of them is this one.
fn last_of(last: i64, events: &[Uuid]) -> impl Iterator<Item = i64> {
    (last - rows_of(events.len()) + 1)..=last
}

//! `PgQueue`: the due rows themselves, claimed with a lease and a fence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::payment::Fence;
use pgw_core::processor::Source;
use pgw_core::queue::{
    Claim, Depth, Job, Lane, PER_ENDPOINT_MAX, Queue, QueueError, Settlement, Verdict,
};
use pgw_core::scope::MerchantId;
use pgw_core::storage::StorageError;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::builder::Engine;
use crate::columns::{Columns, Read};
use crate::database::{Database, Session as _};
use crate::due::job;
use crate::error::corrupt;
use crate::held::{End, Held, HeldRows};
use crate::sql::{Bound, Statement, Template};
use crate::table::NOW;
use crate::value::{bits, fence, micros};

/// The queue of a [`PgStorage`](crate::PgStorage): a job is due because its row is, so nothing is pushed and nothing can be lost.
///
/// A claim writes a lease and a fence into the row; leases are judged by the server's clock. A write of the row ends its claim. A job that
/// was claimed [`CLAIMS_MAX`](Self::CLAIMS_MAX) times without being done is buried.
///
/// The operation of a new payment is claimed by the commit that creates it, where a worker of this process has said that it has room: it looked
/// a moment ago, found fewer jobs than it asked for, and has not [left](Queue::leave). It is given to the next claim of this process, before what
/// became due elsewhere in those milliseconds. One whose process ends before that waits for the lease that its worker asked for.
/// A worker that is dropped without [shutting down](pgw_core::worker::WorkerHandle::shutdown) may leave as many as it had room for to their leases.
///
/// An endpoint's own limit counts where it is lower; one delivery is out while it is failing, and none while it is paused.
///
/// Claims made at the same moment see the same rows, so that together they pass [`PER_ENDPOINT_MAX`] only where rows of an endpoint become due
/// or are settled in that moment. Where those that have been due for longest are all of endpoints with enough out, a claim looks at 1,000
/// endpoints that have anything to be sent, in the order of their ids.
///
/// ```no_run
/// # async fn run(pg: pgw_storage_postgres::PgStorage) -> Result<(), pgw_core::queue::QueueError> {
/// use pgw_core::queue::{Lane, Queue as _};
/// let depth = pg.queue().depth(Lane::Deliveries).await?;
/// println!("{} deliveries are due, the oldest for {:?}", depth.ready, depth.oldest);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct PgQueue {
    pub(crate) database: Arc<Database>,
    claims: Claims,
    pub(crate) engine: Engine,
    /// How many endpoints claims of deliveries are still to look at before one looks at the head again.
    behind: Arc<AtomicU32>,
    /// Whether its claims are given what commits of this process hand over.
    takes_over: bool,
}

/// How jobs are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Claims {
    /// `FOR UPDATE SKIP LOCKED`: claimers never wait for each other.
    #[default]
    SkipLocked,
    /// An `UPDATE` that checks again what it found: for engines that cannot skip locked rows.
    Conditional,
}

impl PgQueue {
    /// How often a job is given out before it counts as poison. A job is released again and again while a processor is down, so this is
    /// far above what retries of one outage come to.
    pub const CLAIMS_MAX: u32 = 1_000;

    pub(crate) fn new(database: Arc<Database>, claims: Claims, engine: Engine) -> Self {
        Self { database, claims, engine, behind: Arc::default(), takes_over: true }
    }

    /// Buried jobs, each with the reason; at most `limit`.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn buried(
        &self,
        lane: Lane,
        limit: usize,
    ) -> Result<Vec<(Job, Box<str>)>, QueueError> {
        let Some(table) = Table::of(lane) else { return Ok(Vec::new()) };
        let statement = self.database.sql.shape(table.shape(BURIED), || {
            let mut sql = Template::default();
            sql.push("select merchant, live, ")
                .push(table.ids)
                .push(", buried from {schema}.")
                .push(table.name);
            sql.push(" where buried is not null order by merchant, live, ")
                .push(table.key)
                .push(" limit $1");
            sql
        });
        let bound = Bound::new().and(crate::read::rows_of(limit));
        let rows = self.database.rows(statement, bound).await.map_err(unavailable)?;
        all(&rows, |from| {
            let job = job(from, lane)?;
            Ok((job, from.next::<&str>()?.into()))
        })
    }

    async fn write(
        &self,
        statement: Statement,
        bound: impl Fn() -> Bound + Send + Sync + 'static,
    ) -> Result<Vec<PgRow>, QueueError> {
        self.database.write(statement, bound).await.map_err(unavailable)
    }

    /// Claims of one merchant, or of all.
    async fn claim_of(
        &self,
        table: Table,
        max: usize,
        lease: Duration,
        merchant: Option<MerchantId>,
        reach: Reach,
    ) -> Result<Claimed, QueueError> {
        let claims = self.claims;
        let mut shape = table.shape(CLAIM) | (reach as u32) << 6;
        shape |= u32::from(claims == Claims::Conditional) << 5 | u32::from(merchant.is_some()) << 4;
        let has_merchant = merchant.is_some();
        let statement =
            self.database.sql.shape(shape, || compose_claim(table, claims, reach, has_merchant));
        let (offset, lease) = (self.database.clock.offset(), micros(lease));
        // Told apart from every other claim's by its randomness, and from this claim's others by a hash of the row's id.
        let fences = bits(self.database.env.u64());
        let limit = crate::read::rows_of(max);
        let rows = self.write(statement, move || {
            let mut bound = Bound::new().and(offset).and(limit).and(lease).and(fences);
            if let Some(merchant) = &merchant {
                bound.add(merchant.as_str());
            }
            bound
        });
        let (jobs, looked): (Vec<PgRow>, Vec<PgRow>) = rows
            .await?
            .into_iter()
            .partition(|row| row.try_get(0).is_ok_and(|of: &str| !of.is_empty()));
        let looked_at = looked.first().map_or(Ok(0), |row| row.try_get::<i64, _>(7));
        let looked_at = looked_at.map_err(|error| unavailable(corrupt(Box::new(error))))?;
        let mut claims = all(&jobs, |from| {
            let job = job(from, table.lane)?;
            let (fence_bits, count) = (from.next::<i64>()?, from.count()?);
            let (is_buried, place) = (from.next::<bool>()?, from.next::<i64>()?);
            let claim = Claim { job, fence: Fence(fence(fence_bits)), claims: count };
            Ok((place, is_buried, claim))
        })?;
        claims.sort_by_key(|(place, ..)| *place);
        let claims = claims.into_iter().filter(|(_, is_buried, _)| !is_buried);
        let claims = claims.map(|(.., claim)| claim).collect();
        Ok(Claimed { claims, looked_at: usize::try_from(looked_at).unwrap_or(0) })
    }

    /// Whether most of the head could not be claimed a moment ago: it still cannot, most likely, so it is not looked at.
    fn takes_from_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed) > 0
    }

    /// Counts the endpoints that a claim behind the head has seen.
    fn was_behind(&self, endpoints: usize) {
        let seen = u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
        let fewer = |left: u32| Some(left.saturating_sub(seen));
        // It never refuses.
        let _ = self.behind.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    /// Claims what has been due for longest; of deliveries, also what is behind those of an endpoint that has enough out.
    async fn claim_fairly(
        &self,
        table: Table,
        max: usize,
        lease: Duration,
        merchant: Option<MerchantId>,
    ) -> Result<Vec<Claim>, QueueError> {
        let is_single = merchant.is_none();
        if table.lane == Lane::Deliveries && is_single && self.takes_from_behind() {
            let behind = self.claim_of(table, max, lease, None, Reach::EachEndpoint).await?;
            let saw_all = behind.looked_at < ENDPOINTS_MAX;
            self.was_behind(behind.looked_at);
            if !saw_all {
                // What it did not come to may be in the head.
                self.behind.store(0, Ordering::Relaxed);
            }
            if saw_all || !behind.claims.is_empty() {
                return Ok(behind.claims);
            }
        }
        let mut claimed = self.claim_of(table, max, lease, merchant.clone(), Reach::Head).await?;
        let (found, looked_at) = (claimed.claims.len(), claimed.looked_at);
        let is_short = table.lane == Lane::Deliveries && found < max;
        let hides = is_short && looked_at >= max.saturating_mul(HEAD);
        // All that may be claimed was, and most of what is due waits for endpoints with enough out: it need not be read again and again.
        let waits = is_short && looked_at > WAITING && found.saturating_mul(4) < looked_at;
        if is_single && (hides || waits) {
            self.behind.store(BEHIND, Ordering::Relaxed);
        }
        if hides {
            let behind =
                self.claim_of(table, max - found, lease, merchant, Reach::EachEndpoint).await?;
            claimed.claims.extend(behind.claims);
        }
        Ok(claimed.claims)
    }

    /// The rows alone, for a queue that is given by itself what is handed over.
    pub(crate) fn without_handoff(&self) -> Self {
        Self { takes_over: false, ..self.clone() }
    }

    /// Merchants with due work for which there is room.
    async fn merchants(&self, table: Table, max: usize) -> Result<Vec<MerchantId>, QueueError> {
        let statement =
            self.database.sql.shape(table.shape(MERCHANTS), || compose_merchants(table));
        let bound = Bound::new().and(self.database.clock.offset()).and(crate::read::rows_of(max));
        let rows = self.database.rows(statement, bound).await.map_err(unavailable)?;
        all(&rows, |from| Ok(from.next::<&str>()?.parse()?))
    }

    /// Runs a statement about held jobs; for each, whether it was held. On a distributed engine, a statement for each merchant.
    async fn about(
        &self,
        what: u32,
        compose: impl Fn(Table, bool) -> Template + Send,
        claims: &[(&Claim, End)],
        lease: Duration,
    ) -> Result<Vec<bool>, QueueError> {
        let mut held = vec![false; claims.len()];
        let mut groups: BTreeMap<(Lane, Option<&MerchantId>), Vec<Held<'_>>> = BTreeMap::new();
        for (n, (claim, end)) in (0..).zip(claims) {
            let merchant = match self.engine {
                Engine::Single => None,
                Engine::Distributed => Some(&claim.job.scope().merchant),
            };
            groups.entry((claim.job.lane(), merchant)).or_default().push((n, claim, end.clone()));
        }
        for ((lane, merchant), group) in groups {
            let Some(table) = Table::of(lane) else { continue };
            let has_merchant = merchant.is_some();
            let shape = table.shape(what) | u32::from(has_merchant) << 4;
            let statement = self.database.sql.shape(shape, || compose(table, has_merchant));
            let (held_rows, merchant) = (HeldRows::of(&group), merchant.cloned());
            let (offset, lease) = (self.database.clock.offset(), micros(lease));
            let rows = self.write(statement, move || {
                let bound = held_rows.bind(offset, lease);
                match &merchant {
                    Some(merchant) => bound.and(merchant.as_str()),
                    None => bound,
                }
            });
            let rows = rows.await?;
            for n in all(&rows, |from| from.next::<i32>())? {
                if let Some(slot) = usize::try_from(n).ok().and_then(|n| held.get_mut(n)) {
                    *slot = true;
                }
            }
        }
        Ok(held)
    }
}

#[async_trait]
impl Queue for PgQueue {
    async fn push(&self, _jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        // The rows are the queue.
        Ok(())
    }

    async fn restore(&self, _jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        Ok(None)
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        let Some(table) = Table::of(lane).filter(|_| max > 0) else { return Ok(Vec::new()) };
        if self.engine == Engine::Single {
            if lane != Lane::Operations || !self.takes_over {
                return self.claim_fairly(table, max, lease, None).await;
            }
            let claimed = self.claim_operations(max, lease, &self.without_handoff()).await?;
            return Ok(claimed.into_all());
        }
        let mut claims = Vec::new();
        for merchant in self.merchants(table, max).await? {
            let room = max - claims.len();
            if room == 0 {
                break;
            }
            claims.extend(self.claim_fairly(table, room, lease, Some(merchant)).await?);
        }
        Ok(claims)
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        let claims: Vec<_> = claims.iter().map(|claim| (claim, End::Held)).collect();
        let compose = |table, has_merchant| compose_extend(table, self.claims, has_merchant);
        let what = match self.claims {
            Claims::SkipLocked => EXTEND,
            Claims::Conditional => EXTEND_AND_WAIT,
        };
        self.about(what, compose, &claims, lease).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        // A commit that wrote the row has settled it.
        let is_open = |one: &&Settlement| !matches!(one.verdict, Verdict::Committed { .. });
        let open: Vec<_> = settlements
            .iter()
            .filter(is_open)
            .map(|one| (&one.claim, End::of(&one.verdict)))
            .collect();
        let mut held = self.about(SETTLE, compose_settle, &open, Duration::ZERO).await?.into_iter();
        let answer = |one| if is_open(&one) { held.next().unwrap_or(false) } else { true };
        Ok(settlements.iter().map(answer).collect())
    }

    async fn leave(&self, lane: Lane) -> Result<(), QueueError> {
        if lane == Lane::Operations && self.takes_over {
            self.close_handoff(&self.without_handoff()).await?;
        }
        Ok(())
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let Some(table) = Table::of(lane) else { return Ok(Depth::default()) };
        let statement = self.database.sql.shape(table.shape(DEPTH), || compose_depth(table));
        let bound = Bound::new().and(self.database.clock.offset());
        let rows = self.database.rows(statement, bound).await.map_err(unavailable)?;
        let depth = all(&rows, |from| {
            Ok(Depth {
                ready: from.count()?,
                delayed: from.count()?,
                in_flight: from.count()?,
                dead: from.count()?,
                oldest: Duration::from_micros(from.count()?),
            })
        })?;
        Ok(depth.first().copied().unwrap_or_default())
    }
}

struct Claimed {
    claims: Vec<Claim>,
    /// How many due jobs were looked at; behind the head, how many endpoints.
    looked_at: usize,
}

/// How far a claim of deliveries looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// At those that have been due for longest, whosever they are.
    Head,
    /// At those that have been due for longest of each endpoint.
    EachEndpoint,
}

/// The table of a lane.
#[derive(Debug, Clone, Copy)]
struct Table {
    lane: Lane,
    name: &'static str,
    /// The two ids a job is made of.
    ids: &'static str,
    /// The key's columns after merchant and mode.
    key: &'static str,
    /// The two ids of a row that was taken.
    returned: &'static str,
    /// A number that tells rows apart.
    hash: &'static str,
    /// The row of the held job `i`.
    is_held: &'static str,
    number: u32,
}

impl Table {
    const fn of(lane: Lane) -> Option<Self> {
        match lane {
            Lane::Operations => Some(Self {
                lane,
                name: "operations",
                ids: "payment, id",
                key: "id",
                is_held: "t.merchant = i.merchant and t.live = i.live and t.id = i.second and t.payment = i.first",
                returned: "t.payment, t.id",
                hash: "uuid_hash_extended(t.id, 0)",
                number: 0,
            }),
            Lane::Deliveries => Some(Self {
                lane,
                name: "deliveries",
                ids: "event, endpoint",
                key: "event, endpoint",
                is_held: "t.merchant = i.merchant and t.live = i.live and t.event = i.first and t.endpoint = i.second",
                returned: "t.event, t.endpoint",
                hash: "uuid_hash_extended(t.event, 0) # uuid_hash_extended(t.endpoint, 1)",
                number: 1,
            }),
            // A lane that this backend does not know has no rows here.
            _ => None,
        }
    }

    const fn shape(self, what: u32) -> u32 {
        SHAPES | self.number << 8 | what << 9
    }
}

/// The condition of the indexes of due rows.
const DUE: &str = "due_at is not null and buried is null";

/// The statement of a claim. The row without a merchant is no job: it says how many due rows were looked at.
///
/// The rows to take are found by where they lie (`ctid`), locked and updated in one go. By their keys they would be joined, and a planner
/// that does not know how many there will be reads the whole table for that; only a distributed engine, which has no such address, is
/// asked by keys, and for one merchant. Where a table is partitioned, rows of several partitions lie at the same place, so the partition
/// (`tableoid`) is part of the address.
fn compose_claim(table: Table, claims: Claims, reach: Reach, has_merchant: bool) -> Template {
    let mut sql = Template::default();
    let of_merchant = if has_merchant { " and d.merchant = $5" } else { "" };
    sql.push("with ");
    if table.lane == Lane::Deliveries {
        push_deliveries(&mut sql, table, reach, of_merchant, has_merchant);
        if claims == Claims::SkipLocked && !has_merchant {
            // They were found through others of their endpoint, so they are locked now, and those that somebody just takes passed by.
            sql.push(", locked as materialized (select d.tableoid, d.ctid from {schema}.deliveries d where ");
            push_lies_in(&mut sql, "d", "candidates");
            sql.push(" and ");
            push_free(&mut sql, "");
            sql.push(" for update skip locked)");
        }
    } else {
        sql.push("candidates as materialized (select ").push(address(table, has_merchant));
        sql.push(" from {schema}.operations d where ");
        push_free(&mut sql, of_merchant);
        sql.push(" order by d.due_at limit $2");
        if claims == Claims::SkipLocked {
            sql.push(" for update skip locked");
        }
        sql.push("), looked as (select 0::bigint as at)");
    }
    sql.push(", taken as (update {schema}.")
        .push(table.name)
        .push(" t set claimed_until = ")
        .push(NOW);
    sql.push(" + $3 * interval '1 microsecond', claim_fence = $4 # ").push(table.hash);
    sql.push(", claims = t.claims + 1, buried = case when t.claims >= ");
    sql.push_number(PgQueue::CLAIMS_MAX as usize);
    sql.push(" then 'claimed ' || t.claims || ' times and never done' end where ");
    push_is_candidate(&mut sql, table, claims, has_merchant);
    sql.push(" returning t.merchant, t.live, ").push(table.returned);
    sql.push(", t.claim_fence, t.claims, t.buried is not null as is_buried, t.due_at) ");
    sql.push("select merchant, live, ").push(table.ids).push(", claim_fence, claims, is_buried, ");
    sql.push("row_number() over (order by due_at) from taken union all ");
    sql.push("select '', false, null, null, 0, 0, true, at from looked");
    sql
}

/// What finds a row again.
const fn address(table: Table, has_merchant: bool) -> &'static str {
    match (has_merchant, table.lane) {
        (false, _) => "d.tableoid, d.ctid",
        (true, Lane::Deliveries) => "d.live, d.event, d.endpoint",
        (true, _) => "d.live, d.id",
    }
}

fn push_is_candidate(sql: &mut Template, table: Table, claims: Claims, has_merchant: bool) {
    match (has_merchant, table.lane, claims) {
        (true, Lane::Deliveries, _) => {
            sql.push(
                "t.merchant = $5 and (t.live, t.event, t.endpoint) in (select * from candidates)",
            );
        }
        (true, ..) => {
            sql.push("t.merchant = $5 and (t.live, t.id) in (select * from candidates)");
        }
        // The candidates were locked when they were found.
        (false, Lane::Operations, _) | (false, _, Claims::Conditional) => {
            push_lies_in(sql, "t", "candidates");
        }
        (false, ..) => push_lies_in(sql, "t", "locked"),
    }
    // Whoever found it at the same time may have it by now.
    sql.push(" and t.buried is null and t.due_at <= ").push(NOW);
    sql.push(" and (t.claimed_until is null or t.claimed_until <= ").push(NOW).push(")");
}

/// The row is one of those whose address a relation has: found by where it lies, then told from what lies there in other partitions.
fn push_lies_in(sql: &mut Template, row: &'static str, relation: &'static str) {
    sql.push(row).push(".ctid = any (array(select ctid from ").push(relation).push(")) and (");
    sql.push(row).push(".tableoid, ").push(row).push(".ctid) in (select tableoid, ctid from ");
    sql.push(relation).push(")");
}

fn push_free(sql: &mut Template, of_merchant: &'static str) {
    sql.push("d.due_at is not null and d.buried is null and d.due_at <= ").push(NOW);
    sql.push(" and (d.claimed_until is null or d.claimed_until <= ")
        .push(NOW)
        .push(")")
        .push(of_merchant);
}

/// The deliveries that may be claimed: no more of an endpoint than it has room for beside those that are out.
fn push_deliveries(
    sql: &mut Template,
    table: Table,
    reach: Reach,
    of_merchant: &'static str,
    has_merchant: bool,
) {
    if reach == Reach::EachEndpoint {
        // A walk from endpoint to endpoint along the index, a step for each that has anything to be sent.
        sql.push(
            "recursive endpoints as ((select d.merchant, d.live, d.endpoint, 1 as step from {schema}.deliveries d \
             where d.due_at is not null and d.buried is null",
        );
        sql.push(of_merchant).push(
            " order by d.merchant, d.live, d.endpoint limit 1) \
             union all select n.merchant, n.live, n.endpoint, g.step + 1 from endpoints g cross join lateral \
             (select d.merchant, d.live, d.endpoint from {schema}.deliveries d where d.due_at is not null and d.buried is null",
        );
        sql.push(of_merchant).push(
            " and (d.merchant, d.live, d.endpoint) > (g.merchant, g.live, g.endpoint) \
             order by d.merchant, d.live, d.endpoint limit 1) n where g.step < ",
        );
        sql.push_number(ENDPOINTS_MAX).push("), ");
    }
    if reach == Reach::EachEndpoint {
        // Where there is no room, nothing is read of what could be claimed: much may wait there.
        push_rooms(sql, "endpoints", of_merchant, has_merchant);
        sql.push("head as materialized (select x.* from rooms g cross join lateral (");
        push_head(sql, of_merchant, has_merchant);
        push_of_endpoint(sql, "g", has_merchant);
        sql.push("greatest(g.room, 0)) x where g.room > 0), looked as (select coalesce(max(step), 0)::bigint as at from endpoints), ");
    } else {
        sql.push("head as materialized (");
        push_head(sql, of_merchant, has_merchant);
        sql.push(" order by d.due_at limit $2 * ").push_number(HEAD);
        sql.push("), looked as (select count(*) as at from head), ");
    }
    sql.push("ranked as materialized (select h.*, row_number() over (partition by h.merchant, h.live, h.endpoint order by h.due_at) as nth from head h), ");
    if reach == Reach::Head {
        let of_head = "(select merchant, live, endpoint from ranked where nth = 1)";
        push_rooms(sql, of_head, of_merchant, has_merchant);
    }
    sql.push("candidates as materialized (select ").push(address(table, has_merchant)).push(
        " from ranked d join rooms r on r.merchant = d.merchant and r.live = d.live and r.endpoint = d.endpoint \
         where d.nth <= r.room order by d.due_at limit $2)",
    );
}

/// Deliveries that may be claimed.
fn push_head(sql: &mut Template, of_merchant: &'static str, has_merchant: bool) {
    sql.push("select d.merchant, ").push(if has_merchant { "" } else { "d.tableoid, d.ctid, " });
    sql.push("d.live, d.event, d.endpoint, d.due_at from {schema}.deliveries d where ");
    push_free(sql, of_merchant);
}

/// How many more of each endpoint may be out: of what it says itself, one while it is failing, and none while it is paused. What is out was due
/// for longest, so it is found among the first of the endpoint; to count all of it would be to read every due row.
fn push_rooms(
    sql: &mut Template,
    endpoints: &'static str,
    of_merchant: &'static str,
    has_merchant: bool,
) {
    sql.push("rooms as materialized (select r.merchant, r.live, r.endpoint, (select case when w.status <> 'enabled' then ");
    sql.push_number(PER_ENDPOINT_MAX).push(" when w.paused_until > ").push(NOW);
    sql.push(" then 0 when w.failing_since is not null then 1 else least(w.concurrency, ");
    sql.push_number(PER_ENDPOINT_MAX).push(
        ") end from {schema}.endpoints w where w.merchant = r.merchant and w.live = r.live and w.id = r.endpoint",
    );
    sql.push(if has_merchant { " and w.merchant = $5" } else { "" });
    sql.push(") - (select count(*) filter (where f.claimed_until > ").push(NOW);
    sql.push(
        ") from (select d.claimed_until from {schema}.deliveries d where d.due_at is not null and d.buried is null and d.due_at <= ",
    );
    sql.push(NOW).push(of_merchant);
    push_of_endpoint(sql, "r", has_merchant);
    sql.push_number(2 * PER_ENDPOINT_MAX);
    if !has_merchant {
        // A limit that the planner does not know: of a known one that is more than it expects of a table that was never analysed, it would read
        // and sort all that is due.
        sql.push(" + 0 * length(r.merchant)");
    }
    sql.push(") f) as room from ").push(endpoints).push(" r), ");
}

/// Those of an endpoint, what has been due for longest first, up to a limit that follows.
///
/// As a range of the index that begins with the endpoint: were it an equation, the order would be that of the time alone, and after an analysis
/// PostgreSQL may go through everybody's due rows in it to find the endpoint's. A distributed engine needs the equation to know where to look.
fn push_of_endpoint(sql: &mut Template, of: &'static str, has_merchant: bool) {
    if has_merchant {
        sql.push(" and d.merchant = ").push(of).push(".merchant and d.live = ").push(of);
        sql.push(".live and d.endpoint = ").push(of).push(".endpoint order by d.due_at limit ");
        return;
    }
    let endpoint = |sql: &mut Template| {
        sql.push(of).push(".merchant, ").push(of).push(".live, ").push(of).push(".endpoint");
    };
    sql.push(" and (d.merchant, d.live, d.endpoint) >= (");
    endpoint(sql);
    sql.push(") and (d.merchant, d.live, d.endpoint, d.due_at) <= (");
    endpoint(sql);
    sql.push(", ").push(NOW).push(") order by d.merchant, d.live, d.endpoint, d.due_at limit ");
}

/// How many deliveries each endpoint has out.
fn push_busy(sql: &mut Template, of_merchant: &'static str) {
    sql.push(
        "busy as materialized (select d.merchant, d.live, d.endpoint, count(*) as held from {schema}.deliveries d \
         where d.due_at is not null and d.buried is null and d.due_at <= ",
    );
    sql.push(NOW).push(" and d.claimed_until > ").push(NOW).push(of_merchant);
    sql.push(" group by d.merchant, d.live, d.endpoint");
}

/// The statement that lists merchants. What is out, or waits for an endpoint that is paused or has enough out, is nobody's turn.
fn compose_merchants(table: Table) -> Template {
    let mut sql = Template::default();
    let is_fair = table.lane == Lane::Deliveries;
    if is_fair {
        sql.push("with ");
        push_busy(&mut sql, "");
        sql.push(" having count(*) >= ").push_number(PER_ENDPOINT_MAX).push(") ");
    }
    sql.push("select d.merchant from {schema}.").push(table.name).push(" d where ");
    push_free(&mut sql, "");
    if is_fair {
        sql.push(
            " and not exists (select from busy b where b.merchant = d.merchant and b.live = d.live and b.endpoint = d.endpoint) \
             and not exists (select from {schema}.endpoints w where w.merchant = d.merchant and w.live = d.live \
             and w.id = d.endpoint and w.status = 'enabled' and w.paused_until > ",
        );
        sql.push(NOW).push(")");
    }
    sql.push(" group by d.merchant order by min(d.due_at) limit $2");
    sql
}

/// In a select list, as [`unnest`](crate::table::unnest) has it.
const HELD: &str = "(select unnest($3::int[]) as item, unnest($4::text[]) as merchant, unnest($5::boolean[]) as live, unnest($6::uuid[]) as first, \
     unnest($7::uuid[]) as second, unnest($8::bigint[]) as fence, unnest($9::boolean[]) as done, unnest($10::boolean[]) as postponed, \
     unnest($11::bigint[]) as due_in, unnest($12::text[]) as buried) as i";

/// A row that another transaction has locked keeps the lease it has, and is held as far as can be seen: its holder's own commit may be under way, and
/// must not be waited for, as that may wait for a row of these. The heartbeat comes again before the lease is over.
fn compose_extend(table: Table, claims: Claims, has_merchant: bool) -> Template {
    let mut sql = Template::default();
    let holds = |sql: &mut Template| {
        sql.push(table.is_held);
        sql.push(if has_merchant { " and t.merchant = $13" } else { "" });
        sql.push(" and t.claim_fence = i.fence and t.buried is null");
    };
    let extend = |sql: &mut Template, rows: &'static str| {
        sql.push("update {schema}.").push(table.name).push(" t set claimed_until = ").push(NOW);
        sql.push(" + $2::bigint * interval '1 microsecond' from ").push(rows).push(" where ");
        holds(sql);
    };
    if claims == Claims::Conditional {
        extend(&mut sql, HELD);
        sql.push(" returning i.item");
        return sql;
    }
    let of_table = |sql: &mut Template, from: &'static str| {
        sql.push(from).push(" i cross join lateral (select t.claim_fence from {schema}.");
        sql.push(table.name).push(" t where ");
        holds(sql);
    };
    sql.push("with h as materialized (select * from ").push(HELD).push(")");
    sql.push(", held as materialized (select i.item from ");
    of_table(&mut sql, "h");
    sql.push(" limit 1) t), free as materialized (select i.* from ");
    of_table(&mut sql, "(select * from h order by merchant, live, first, second)");
    sql.push(" for update skip locked) t), extended as (");
    extend(&mut sql, "free i");
    sql.push(") select item from held");
    sql
}

fn compose_settle(table: Table, has_merchant: bool) -> Template {
    let mut sql = Template::default();
    sql.push("update {schema}.")
        .push(table.name)
        .push(" t set claimed_until = null, claim_fence = null, due_at = ")
        .push(NOW);
    sql.push(" + i.due_in * interval '1 microsecond', claims = case when i.done then 0 when i.postponed then t.claims - 1 else t.claims end, buried = i.buried from ");
    sql.push(HELD).push(" where $2::bigint is not null and ").push(table.is_held);
    sql.push(if has_merchant { " and t.merchant = $13" } else { "" });
    sql.push(" and t.claim_fence = i.fence and t.buried is null returning i.item");
    sql
}

fn compose_depth(table: Table) -> Template {
    let mut sql = Template::default();
    sql.push("with due as materialized (select due_at, claimed_until > ")
        .push(NOW)
        .push(" as is_held from {schema}.");
    sql.push(table.name)
        .push(" where ")
        .push(DUE)
        .push(") select count(*) filter (where due_at <= ")
        .push(NOW);
    sql.push(" and is_held is not true), count(*) filter (where due_at > ").push(NOW);
    sql.push(" and is_held is not true), count(*) filter (where is_held), (select count(*) from {schema}.").push(table.name);
    sql.push(" where buried is not null), coalesce((extract(epoch from (").push(NOW);
    sql.push(" - min(due_at) filter (where due_at <= ").push(NOW);
    sql.push(" and is_held is not true))) * 1000000)::bigint, 0) from due");
    sql
}

fn all<T>(
    rows: &[PgRow],
    mut read: impl FnMut(&mut Columns<'_>) -> Read<T>,
) -> Result<Vec<T>, QueueError> {
    rows.iter()
        .map(|row| read(&mut Columns::of(row)))
        .collect::<Read<_>>()
        .map_err(|error| unavailable(corrupt(error)))
}

fn unavailable(error: StorageError) -> QueueError {
    let source: Source = Arc::new(error);
    QueueError::Unavailable(source)
}

/// How many due deliveries a claim looks at for each that it wants.
const HEAD: usize = 8;
/// How many endpoints claims look at behind the head, after most of it could not be claimed, before it is looked at again: a look at the head takes
/// as long as looks at a thousand endpoints or two, and those see everything.
const BEHIND: u32 = 16_000;
/// How many due deliveries are so few that reading all of them is as good as anything.
const WAITING: usize = 128;
/// How many endpoints a look behind the head visits.
const ENDPOINTS_MAX: usize = 1_000;

// Shapes of statements: see `Sql::shape`.
const SHAPES: u32 = 0x0400_0000;
const CLAIM: u32 = 1;
const EXTEND: u32 = 2;
const SETTLE: u32 = 3;
const DEPTH: u32 = 4;
const BURIED: u32 = 5;
const MERCHANTS: u32 = 6;
const EXTEND_AND_WAIT: u32 = 7;

//! The audit log and its seals, read. Both are written by `group` and `steps`, and purged by `retention`.

use std::sync::Arc;

use pgw_core::access::{
    Actor, AuditChange, AuditOutcome, AuditRow, AuditSeal, AuditTail, LoggedRow, SealHead,
    SealedRow,
};
use pgw_core::id::AuditId;
use pgw_core::page::{Cursor, Page, PageFrom, PageRequest};
use pgw_core::scope::MerchantId;
use pgw_core::storage::AuditFilter;
use pgw_core::timestamp::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::builder::Engine;
use crate::columns::{Columns, Read};
use crate::database::Session;
use crate::error::{corrupt, read_error};
use crate::read::{Found, all, beyond, one, rows_of};
use crate::rows::changes_as_json;
use crate::sql::{Bound, Template};
use crate::value::Time;

/// What [`audit_row`] reads.
macro_rules! audit_columns {
    () => {
        "merchant, live, at, id, actor_kind, actor, action, success, origin, object, request_id, changes"
    };
}

/// What [`audit_seal`] reads.
macro_rules! seal_columns {
    () => {
        "number, previous, through_at, through_id, sealed_at, rows, mac"
    };
}

/// A page. The index gives the rows in their order; those that are looked at are counted, and the one where the look ends comes back
/// whether or not it matches, to say where that is.
pub(crate) async fn list(
    session: &impl Session,
    merchant: &MerchantId,
    filter: &AuditFilter,
    page: PageRequest,
) -> Found<Page<AuditRow>> {
    let (newer, place) = match page.from() {
        None => (false, None),
        Some(PageFrom::After(cursor)) => (false, Some(cursor)),
        Some(PageFrom::Before(cursor)) => (true, Some(cursor)),
    };
    // Without a place, the list begins behind every row that there can be.
    let place = place.unwrap_or(Cursor::new(Timestamp::MAX, Uuid::max()));
    let shape = if newer { NEWER } else { OLDER };
    let statement = session.sql().shape(shape, || compose_list(newer));
    let actor = filter.actor.as_ref().map(Actor::parts);
    let bound = Bound::new()
        .and(merchant.as_str())
        .and(Time(place.at))
        .and(place.id)
        .and(Time(filter.from.unwrap_or(Timestamp::EPOCH)))
        .and(filter.before.map(Time))
        .and(actor.as_ref().map(|(kind, _)| *kind))
        .and(actor.and_then(|(_, name)| name))
        .and(filter.action.map(|action| action.as_str()))
        .and(filter.object.as_ref().map(ToString::to_string))
        .and(filter.outcome.map(|outcome| outcome == AuditOutcome::Success))
        .and(rows_of(page.limit() + 1));
    let rows = session.rows(statement, bound).await?;
    let mut data = Vec::with_capacity(rows.len());
    // Where the look ended, if it did not reach the end of the list.
    let mut cut = None;
    for row in &rows {
        let (looked, matches) = (number(row, 0)?, row.try_get(1).map_err(read_error)?);
        if looked >= AuditFilter::LOOK_MAX {
            cut = Some(place_of(row, 2).map_err(corrupt)?);
        }
        if matches {
            data.push(audit_row(&mut Columns::after(row, 4)).map_err(corrupt)?);
        }
    }
    let is_full = data.len() > page.limit();
    data.truncate(page.limit());
    let last = data.last().map(|row| Cursor::new(row.at, row.id.as_uuid()));
    if newer {
        data.reverse();
    }
    let next_cursor = if is_full { last } else { cut };
    Ok(Page { data, has_more: next_cursor.is_some(), next_cursor })
}

fn compose_list(newer: bool) -> Template {
    let (beyond, direction) = if newer { (">", "") } else { ("<", "desc") };
    let mut sql = Template::default();
    sql.push(concat!(
        "select looked, matches, at, id, ",
        audit_columns!(),
        " from (select row_number() over (order by at "
    ));
    sql.push(direction).push(", id ").push(direction).push(") as looked, ");
    sql.push("($6::text is null or (actor_kind = $6 and actor is not distinct from $7::text)) ");
    sql.push("and ($8::text is null or action = $8) and ($9::text is null or object = $9) ");
    sql.push(concat!("and ($10::boolean is null or success = $10) as matches, ", audit_columns!()));
    sql.push(" from {schema}.audit where merchant = $1 and (at, id) ").push(beyond);
    sql.push(" ($2, $3) and at >= $4 and ($5::timestamptz is null or at < $5) order by at ");
    sql.push(direction).push(", id ").push(direction).push(" limit ");
    sql.push_number(AuditFilter::LOOK_MAX);
    sql.push(") look where matches or looked = ").push_number(AuditFilter::LOOK_MAX);
    sql.push(" order by looked limit $11");
    sql
}

pub(crate) async fn rows(
    session: &impl Session,
    merchant: &MerchantId,
    after: Option<Cursor>,
    through: Cursor,
    limit: usize,
) -> Found<Vec<LoggedRow>> {
    const ROWS: &str = concat!(
        "select * from (select at as place, id as tie, ",
        audit_columns!(),
        " from {schema}.audit ",
        "where merchant = $1 and (at, id) > ($2, $3) and (at, id) <= ($4, $5) order by at, id limit 1000) page limit $6"
    );
    // No row of ours is from before then.
    let after = after.unwrap_or(Cursor::new(Timestamp::EPOCH, Uuid::nil()));
    let bound = Bound::new().and(merchant.as_str()).and(Time(after.at)).and(after.id);
    let bound = bound.and(Time(through.at)).and(through.id).and(rows_of(limit));
    let rows = session.rows(session.sql().text(ROWS), bound).await?;
    rows.iter().map(logged_row).collect::<Read<_>>().map_err(corrupt)
}

pub(crate) async fn seals(
    session: &impl Session,
    merchant: &MerchantId,
    after: u64,
    limit: usize,
) -> Found<Vec<AuditSeal>> {
    const SEALS: &str = concat!(
        "select * from (select ",
        seal_columns!(),
        " from {schema}.audit_seals ",
        "where merchant = $1 and number > $2 order by number limit 1000) page limit $3"
    );
    let bound = Bound::new().and(merchant.as_str()).and(beyond(after)).and(rows_of(limit));
    let rows = session.rows(session.sql().text(SEALS), bound).await?;
    all(&rows, |from| audit_seal(from, merchant))
}

/// From merchant to merchant by the index, whose entries of one are skipped; then the end of each log and chain. A time that is none of ours, which
/// only a hand can write, is no end.
pub(crate) async fn tails(
    session: &impl Session,
    after: Option<&MerchantId>,
    limit: usize,
) -> Found<Vec<AuditTail>> {
    const TAILS: &str = "with recursive walk(merchant, n) as (( \
             select merchant, 1::bigint from {schema}.audit where merchant > $1 order by merchant limit 1 \
             ) union all select (select a.merchant from {schema}.audit a where a.merchant > w.merchant \
             order by a.merchant limit 1), w.n + 1 from walk w where w.merchant is not null and w.n < $2 \
         ) select w.merchant, t.at, t.id, s.number, s.mac, s.through_at, s.through_id from walk w \
         cross join lateral (select a.at, a.id from {schema}.audit a where a.merchant = w.merchant \
         and a.at <= $3 order by a.at desc, a.id desc limit 1) t \
         left join lateral (select z.number, z.mac, z.through_at, z.through_id from {schema}.audit_seals z \
         where z.merchant = w.merchant order by z.number desc limit 1) s on true order by w.n";
    if session.engine() == Engine::Distributed {
        return tails_by_merchant(session, after, limit).await;
    }
    let after = after.map_or("", MerchantId::as_str);
    let bound = Bound::new().and(after).and(rows_of(limit)).and(Time(Timestamp::MAX));
    all(&session.rows(session.sql().text(TAILS), bound).await?, audit_tail)
}

/// The same, a statement for each step: distributed engines walk in no statement that is about all merchants.
async fn tails_by_merchant(
    session: &impl Session,
    after: Option<&MerchantId>,
    limit: usize,
) -> Found<Vec<AuditTail>> {
    const NEXT: &str =
        "select merchant from {schema}.audit where merchant > $1 order by merchant limit 1";
    const TAIL: &str = "select t.merchant, t.at, t.id, s.number, s.mac, s.through_at, s.through_id from \
         (select a.merchant, a.at, a.id from {schema}.audit a where a.merchant = $1 and a.at <= $2 \
         order by a.at desc, a.id desc limit 1) t \
         left join (select z.merchant, z.number, z.mac, z.through_at, z.through_id from {schema}.audit_seals z \
         where z.merchant = $1 order by z.number desc limit 1) s on s.merchant = t.merchant";
    let mut tails = Vec::new();
    let mut last = after.cloned();
    while tails.len() < limit {
        let bound = Bound::new().and(last.as_ref().map_or("", MerchantId::as_str));
        let rows = session.rows(session.sql().text(NEXT), bound).await?;
        let Some(merchant) = one(&rows, |from| from.merchant())? else { break };
        let bound = Bound::new().and(merchant.as_str()).and(Time(Timestamp::MAX));
        tails.extend(all(&session.rows(session.sql().text(TAIL), bound).await?, audit_tail)?);
        last = Some(merchant);
    }
    Ok(tails)
}

fn number(row: &PgRow, at: usize) -> Found<usize> {
    let number: i64 = row.try_get(at).map_err(read_error)?;
    usize::try_from(number).map_err(|error| corrupt(Box::new(error)))
}

fn place_of(row: &PgRow, at: usize) -> Read<Cursor> {
    let mut from = Columns::after(row, at);
    Ok(Cursor::new(from.time()?, from.next()?))
}

fn audit_row(from: &mut Columns<'_>) -> Read<AuditRow> {
    let scope = from.scope()?;
    let (at, id) = (from.time()?, AuditId::from_uuid(from.next()?));
    let (kind, name) = (from.next::<&str>()?, from.next::<Option<&str>>()?);
    // Strictly, so that nothing of a row can be changed without what it reads as.
    let actor = match (kind, name) {
        ("host", None) => Actor::Host,
        ("worker", None) => Actor::Worker,
        ("processor", None) => Actor::Processor,
        ("anonymous", None) => Actor::Anonymous,
        ("key", Some(id)) => Actor::Key(id.parse()?),
        ("other", Some(name)) => Actor::Other(Arc::from(name)),
        _ => return Err("an audit row has an unknown actor".into()),
    };
    Ok(AuditRow {
        scope,
        id,
        at,
        actor,
        action: from.text(|text| text.parse().ok())?,
        outcome: if from.next()? { AuditOutcome::Success } else { AuditOutcome::Failure },
        origin: from.maybe(|text| text.parse().ok())?,
        object: from.text(|text| text.parse().ok())?,
        request_id: from.next::<Option<&str>>()?.map(Arc::from),
        changes: audited_changes(from.next()?)?,
    })
}

fn audited_changes(json: Option<&str>) -> Read<Box<[AuditChange]>> {
    let Some(json) = json else { return Ok(Box::default()) };
    let listed: Vec<(String, Option<String>, Option<String>)> = serde_json::from_str(json)?;
    let change = |(field, old, new): &(String, Option<String>, Option<String>)| -> Read<_> {
        let field = field.parse().map_err(|_| "an audit row has a change of an unknown field")?;
        Ok(AuditChange::new(field, old.as_deref(), new.as_deref()))
    };
    let changes: Box<[AuditChange]> = listed.iter().map(change).collect::<Read<_>>()?;
    // As it was written, to the letter.
    if changes_as_json(&changes)?.as_deref() == Some(json) {
        Ok(changes)
    } else {
        Err("an audit row has changes that were not written so".into())
    }
}

/// A row for sealing and verifying, whether or not it can be read: before its columns are its time and id.
fn logged_row(row: &PgRow) -> Read<LoggedRow> {
    let row_itself = audit_row(&mut Columns::after(row, 2)).ok();
    Ok(LoggedRow { place: place_of(row, 0)?, row: row_itself })
}

fn audit_seal(from: &mut Columns<'_>, merchant: &MerchantId) -> Read<AuditSeal> {
    let number = from.count()?;
    let previous = from.next::<&[u8]>()?.try_into()?;
    let through = Cursor::new(from.time()?, from.next()?);
    let sealed_at = from.time()?;
    let (rows, rest) = from.next::<&[u8]>()?.as_chunks::<{ SealedRow::BYTES }>();
    if !rest.is_empty() {
        return Err("a seal ends within a row".into());
    }
    let rows = rows.iter().copied().map(SealedRow::from_bytes).collect();
    let mac = from.next::<&[u8]>()?.try_into()?;
    let merchant = merchant.clone();
    Ok(AuditSeal { merchant, number, previous, through, sealed_at, rows, mac })
}

fn audit_tail(from: &mut Columns<'_>) -> Read<AuditTail> {
    let merchant = from.merchant()?;
    let newest = Cursor::new(from.time()?, from.next()?);
    let Some(number) = from.maybe_count()? else {
        return Ok(AuditTail { merchant, head: None, newest });
    };
    let mac = from.next::<&[u8]>()?.try_into()?;
    let through = Cursor::new(from.time()?, from.next()?);
    Ok(AuditTail { merchant, head: Some(SealHead { number, mac, through }), newest })
}

/// Statements that are put together: see `Sql::shape`.
const OLDER: u32 = 0x4000_0010;
const NEWER: u32 = 0x4000_0011;

//! Work that is due: the rows behind jobs, and the jobs behind rows.

use std::time::Duration;

use pgw_core::id::{DeliveryId, EndpointId, EventId, OperationId, PaymentId};
use pgw_core::queue::{Job, Lane};
use pgw_core::scope::Scope;
use pgw_core::storage::{DueJob, DueWork};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::builder::Engine;
use crate::columns::{Columns, Read, *};
use crate::database::Session;
use crate::error::{corrupt, read_error};
use crate::read::{Found, all, delivery_tables, one, rows_of, state, work};
use crate::rows::is_live;
use crate::sql::{Bound, Template};
use crate::table::NOW;
use crate::value::Time;

pub(crate) async fn due(session: &impl Session, job: &Job) -> Found<Option<DueWork>> {
    match job {
        Job::Operation { scope, payment, operation } => {
            let statement = session.sql().shape(DUE_OPERATION, || {
                let mut sql = Template::default();
                sql.push(concat!(
                    "select ", payment_columns!(), ", ", operation_columns!(), " from {schema}.payments p ",
                    "left join {schema}.operations o on o.merchant = p.merchant and o.live = p.live and o.payment = p.id ",
                    "where p.merchant = $2 and p.live = $3 and p.id = $4 and exists (select 1 from {schema}.operations x ",
                    "where x.merchant = $2 and x.live = $3 and x.id = $5 and x.payment = $4 and x.due_at <= "
                ));
                sql.push(NOW).push(") order by o.place, o.id");
                sql
            });
            let bound = Bound::new()
                .and(session.offset())
                .and(scope.merchant.as_str())
                .and(is_live(scope.mode));
            let bound = bound.and(payment.as_uuid()).and(operation.as_uuid());
            let found = state(&session.rows(statement, bound).await?, scope)?;
            Ok(found.map(|state| DueWork::Operation(Box::new(state))))
        }
        Job::Delivery { scope, delivery } => due_delivery(session, scope, *delivery).await,
        // A kind of job that this backend does not know has no row here.
        _ => Ok(None),
    }
}

/// What [`due`] finds for each of several jobs: in one statement a lane, or one by one where each statement is about one merchant.
pub(crate) async fn due_all(session: &impl Session, jobs: &[Job]) -> Found<Vec<Option<DueWork>>> {
    let mut found: Vec<Option<DueWork>> = Vec::new();
    if jobs.len() < 2 || session.engine() == Engine::Distributed {
        for job in jobs {
            found.push(due(session, job).await?);
        }
        return Ok(found);
    }
    found.resize_with(jobs.len(), || None);
    for lane in Lane::ALL {
        let of_lane: Vec<(i32, &Job)> =
            (0..).zip(jobs).filter(|(_, job)| job.lane() == lane).collect();
        if of_lane.is_empty() {
            continue;
        }
        let statement = match lane {
            Lane::Deliveries => session.sql().shape(ALL_DELIVERIES, compose_all_deliveries),
            _ => session.sql().shape(ALL_OPERATIONS, compose_all_operations),
        };
        let rows = session.rows(statement, bind_all(session.offset(), &of_lane)).await?;
        // The rows of a job lie together.
        for rows in rows.chunk_by(|a, b| item(a).ok() == item(b).ok()) {
            let place = rows.first().map(item).transpose()?.unwrap_or_default();
            let Some((job, slot)) = jobs.get(place).zip(found.get_mut(place)) else { continue };
            *slot = match lane {
                Lane::Deliveries => one(rows, |from| delivery_or_wait(from, job.scope()))?,
                _ => state(rows, job.scope())?.map(|state| DueWork::Operation(Box::new(state))),
            };
        }
    }
    Ok(found)
}

fn bind_all(offset: i64, jobs: &[(i32, &Job)]) -> Bound {
    let ids: Vec<(Uuid, Uuid)> = jobs.iter().map(|(_, job)| ids(job)).collect();
    Bound::new()
        .and(offset)
        .and(jobs.iter().map(|(n, _)| *n).collect::<Vec<_>>())
        .and(jobs.iter().map(|(_, job)| job.scope().merchant.to_string()).collect::<Vec<_>>())
        .and(jobs.iter().map(|(_, job)| is_live(job.scope().mode)).collect::<Vec<_>>())
        .and(ids.iter().map(|(first, _)| *first).collect::<Vec<_>>())
        .and(ids.iter().map(|(_, second)| *second).collect::<Vec<_>>())
}

/// The two ids of a job's row.
fn ids(job: &Job) -> (Uuid, Uuid) {
    match job {
        Job::Operation { payment, operation, .. } => (payment.as_uuid(), operation.as_uuid()),
        Job::Delivery { delivery, .. } => {
            (delivery.event().as_uuid(), delivery.endpoint().as_uuid())
        }
        // No row has these.
        _ => (Uuid::nil(), Uuid::nil()),
    }
}

/// The jobs of a statement, as a relation.
macro_rules! jobs {
    () => {
        " unnest($2::int[], $3::text[], $4::boolean[], $5::uuid[], $6::uuid[]) as i(item, merchant, live, first, second) "
    };
}

fn compose_all_operations() -> Template {
    let mut sql = Template::default();
    sql.push(concat!(
        "select ", payment_columns!(), ", ", operation_columns!(), ", i.item from", jobs!(),
        // By their keys, as below.
        "cross join lateral (select x.due_at, x.payment from {schema}.operations x where x.merchant = i.merchant and x.live = i.live ",
        "and x.id = i.second limit 1) x ",
        "cross join lateral (select * from {schema}.payments y where y.merchant = i.merchant and y.live = i.live and y.id = i.first limit 1) p ",
        "left join lateral (select * from {schema}.operations z where z.merchant = i.merchant and z.live = i.live and z.payment = i.first ",
        "offset 0) o on true where x.payment = i.first and x.due_at <= "
    ));
    sql.push(NOW).push(" order by i.item, o.place, o.id");
    sql
}

fn compose_all_deliveries() -> Template {
    let mut sql = Template::default();
    sql.push("select ");
    push_parked(&mut sql);
    sql.push(concat!(
        ", ", delivery_columns!(), ", ", event_columns!(), ", ", endpoint_columns!(), ", i.item from", jobs!(),
        // Each by its key: as plain joins, on tables that were never analysed, all of the merchant's are read for each job.
        "cross join lateral (select * from {schema}.deliveries x where x.merchant = i.merchant and x.live = i.live ",
        "and x.event = i.first and x.endpoint = i.second limit 1) d ",
        "cross join lateral (select * from {schema}.events x where x.merchant = i.merchant and x.live = i.live and x.id = i.first limit 1) e ",
        "cross join lateral (select * from {schema}.endpoints x where x.merchant = i.merchant and x.live = i.live and x.id = i.second limit 1) w ",
        "where d.due_at <= "
    ));
    sql.push(NOW);
    sql
}

/// The place of a row's object among those that the statement asks for, its `item`.
pub(crate) fn item(row: &PgRow) -> Found<usize> {
    let item: i32 = row.try_get("item").map_err(read_error)?;
    usize::try_from(item).map_err(|error| corrupt(Box::new(error)))
}

/// A delivery that is due, or when to look again at one whose turn it is not: its endpoint is paused, or an earlier event of its payment
/// comes first.
async fn due_delivery(
    session: &impl Session,
    scope: &Scope,
    id: DeliveryId,
) -> Found<Option<DueWork>> {
    let statement = session.sql().shape(DUE_DELIVERY, || {
        let mut sql = Template::default();
        sql.push("select ");
        push_parked(&mut sql);
        sql.push(concat!(
            ", ", delivery_columns!(), ", ", event_columns!(), ", ", endpoint_columns!(), delivery_tables!(),
            "where d.merchant = $2 and d.live = $3 and d.event = $4 and d.endpoint = $5 and d.due_at <= "
        ));
        sql.push(NOW);
        sql
    });
    let bound =
        Bound::new().and(session.offset()).and(scope.merchant.as_str()).and(is_live(scope.mode));
    let bound = bound.and(id.event().as_uuid()).and(id.endpoint().as_uuid());
    one(&session.rows(statement, bound).await?, |from| delivery_or_wait(from, scope))
}

/// A row that begins with what `push_parked` writes.
fn delivery_or_wait(from: &mut Columns<'_>, scope: &Scope) -> Read<DueWork> {
    Ok(match from.next::<Option<i64>>()? {
        Some(micros) => DueWork::Parked {
            look_in: Duration::from_micros(u64::try_from(micros)?).min(LOOK_IN_MAX),
        },
        None => DueWork::Delivery(Box::new(work(from, scope)?)),
    })
}

/// In how many microseconds to look again at a parked delivery `d` of the event `e` to the endpoint `w`; null when it is not parked.
///
/// The earlier deliveries are looked up one by one: as a plain join, on tables that were never analysed, all of the endpoint's are read for it.
fn push_parked(sql: &mut Template) {
    sql.push("case when w.status = 'enabled' then greatest(case when w.paused_until > ").push(NOW);
    sql.push(" then (extract(epoch from w.paused_until - ").push(NOW);
    sql.push(
        ") * 1000000)::bigint end, case when w.ordering <> 'none' and d.payment is not null then \
         (select max(case when x.state = 'pending' then greatest((extract(epoch from x.due_at - ",
    )
    .push(NOW);
    sql.push(
        ") * 1000000)::bigint, 0) else 3600000000 end) from {schema}.events y cross join lateral \
         (select z.state, z.due_at from {schema}.deliveries z where z.merchant = y.merchant and z.live = y.live \
         and z.event = y.id and z.endpoint = d.endpoint limit 1) x \
         where y.merchant = d.merchant and y.live = d.live and y.payment = d.payment and y.sequence < e.sequence \
         and (x.state = 'pending' or w.ordering = 'park' and x.state = 'failed')) end) end",
    );
}

pub(crate) async fn due_page(
    session: &impl Session,
    lane: Lane,
    after: Option<&DueJob>,
    limit: usize,
) -> Found<Vec<DueJob>> {
    let (shape, keys, table) = match lane {
        Lane::Operations => (DUE_OPERATIONS, "d.merchant, d.live, d.payment, d.id", "operations"),
        Lane::Deliveries => {
            (DUE_DELIVERIES, "d.merchant, d.live, d.event, d.endpoint", "deliveries")
        }
        // A lane that this backend does not know has no rows here.
        _ => return Ok(Vec::new()),
    };
    let shape = shape | if after.is_some() { AFTER } else { 0 };
    let statement = session.sql().shape(shape, || {
        let mut sql = Template::default();
        sql.push("select * from (select ").push(keys).push(", d.due_at, (extract(epoch from ").push(NOW);
        sql.push(" - d.due_at) * 1000000)::bigint from {schema}.").push(table);
        sql.push(" d where d.due_at is not null and d.buried is null and d.due_at <= ").push(NOW);
        sql.push(" and (d.claimed_until is null or d.claimed_until <= ").push(NOW).push(")");
        if after.is_some() {
            // The first for the index, the second for those that became due together.
            sql.push(" and d.due_at >= $3 and (d.due_at, ").push(keys).push(") > ($3, $4, $5, $6, $7)");
        }
        if lane == Lane::Deliveries {
            // Paused first: there may be very many of them, and this is quickly told.
            sql.push(
                " and case when exists (select 1 from {schema}.endpoints w where w.merchant = d.merchant and w.live = d.live \
                 and w.id = d.endpoint and w.status = 'enabled' and w.paused_until > ",
            );
            sql.push(NOW).push(") then false else (select ");
            push_parked(&mut sql);
            sql.push(
                " from {schema}.endpoints w, {schema}.events e where w.merchant = d.merchant and w.live = d.live \
                 and w.id = d.endpoint and e.merchant = d.merchant and e.live = d.live and e.id = d.event) is null end",
            );
        }
        sql.push(" order by d.due_at, ").push(keys).push(" limit 1000) page limit $2");
        sql
    });
    let mut bound = Bound::new().and(session.offset()).and(rows_of(limit));
    if let Some(DueJob { job, since, .. }) = after {
        let (first, second) = ids(job);
        let scope = job.scope();
        bound = bound.and(Time(*since)).and(scope.merchant.as_str()).and(is_live(scope.mode));
        bound = bound.and(first).and(second);
    }
    all(&session.rows(statement, bound).await?, |from| {
        let (job, since) = (job(from, lane)?, from.time()?);
        Ok(DueJob { job, since, due_for: Duration::from_micros(from.count()?) })
    })
}

/// A job of its row's `merchant, live` and two ids.
pub(crate) fn job(from: &mut Columns<'_>, lane: Lane) -> Read<Job> {
    let scope = from.scope()?;
    let (first, second): (Uuid, Uuid) = (from.next()?, from.next()?);
    Ok(match lane {
        Lane::Deliveries => Job::Delivery {
            scope,
            delivery: DeliveryId::new(EventId::from_uuid(first), EndpointId::from_uuid(second)),
        },
        _ => Job::Operation {
            scope,
            payment: PaymentId::from_uuid(first),
            operation: OperationId::from_uuid(second),
        },
    })
}

/// The longest that a parked delivery is left alone; it is woken when its turn comes earlier.
const LOOK_IN_MAX: Duration = Duration::from_secs(60 * 60);

// Shapes of statements that are put together: see `Sql::shape`.
const DUE_DELIVERY: u32 = 0x4000_0002;
const DUE_OPERATION: u32 = 0x4000_0003;
const DUE_OPERATIONS: u32 = 0x4000_0004;
const DUE_DELIVERIES: u32 = 0x4000_0005;
/// With those, that it goes on after a job.
const AFTER: u32 = 0x0001_0000;
const ALL_OPERATIONS: u32 = 0x4000_0006;
const ALL_DELIVERIES: u32 = 0x4000_0007;

//! Tables that were never analysed, as they are from the first minutes on until autovacuum comes by: PostgreSQL knows nothing of them but
//! their sizes. And tables that were analysed when they held something else than they do now.

use std::time::Duration;

use pgw_core::queue::{Lane, Queue as _};
use pgw_core::storage::Storage as _;
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::{AssertSqlSafe, raw_sql};

use super::{Watched, load, writes};
use crate::fixtures::{Leg, schema};

/// A schema of its own with these rows, and nothing analysed but what they say.
async fn filled(parts: &[&str]) -> Watched {
    let schema = schema().await;
    let watched = Watched::new(&schema, Leg::Pool.builder(&schema), "auto").await;
    for part in parts {
        // As long as a slow disk takes: it is not what is judged.
        let sql = format!(
            "set local statement_timeout = 0; {}",
            part.replace("{schema}", schema.as_str())
        );
        raw_sql(AssertSqlSafe(sql)).execute(watched.storage.pool()).await.expect("valid rows");
    }
    watched
}

/// Of all that was watched, nothing of this kind was found.
async fn nothing_is_found(watched: Watched, kind: &str) {
    let (_, found) = watched.finish(Leg::Pool).await;
    let found: Vec<_> = found.iter().filter(|it| it.contains(kind)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// All events of 300 payments wait for one endpoint, which wants them in order: a payment's first one is due, and three are parked behind it.
const FILL: &str = "
insert into {schema}.endpoints (merchant, live, id, url, filters, profiles, ordering, secret, generation, sealed_with, status, pauses, version,
    created_at, updated_at)
values ('acme', true, gen_random_uuid(), 'https://hooks.example.com/in', '{}', '{standard}', 'skip', 'v1.k1.' || repeat('A', 40), 1, 'k1',
    'enabled', 0, 1, now(), now());
create temp table said as
    select gen_random_uuid() as id, payment, k from (select gen_random_uuid() as payment from generate_series(1, 300)) x, generate_series(1, 4) k;
insert into {schema}.events (merchant, live, id, event_type, payment, sequence, created_at, body)
select 'acme', true, id, 'payment.succeeded', payment, k, now(), '' from said;
insert into {schema}.deliveries (merchant, live, event, endpoint, event_type, payment, state, attempts, attempts_total, version, created_at,
    updated_at, due_at)
select 'acme', true, s.id, w.id, 'payment.succeeded', s.payment, 'pending', 0, 0, 1, now(), now(), now() from said s, {schema}.endpoints w;
";

#[tokio::test]
async fn what_is_parked_is_told_without_reading_all_of_its_endpoint() {
    let mut watched = filled(&[load::ALONE, FILL]).await;
    let due = watched.storage.due_jobs(Lane::Deliveries, 500).await.expect("a healthy server");
    assert_eq!(due.len(), 300, "one of each payment");
    let due_jobs = async |it: &PgStorage| {
        it.due_jobs(Lane::Deliveries, 500).await.expect("a healthy server").len()
    };
    watched.watch("due_jobs", due_jobs).await;
    let due_all = async |it: &PgStorage| {
        it.due_all(&due).await.expect("a healthy server").iter().flatten().count()
    };
    watched.watch("due_all", due_all).await;
    nothing_is_found(watched, "pages touched").await;
}

/// Many events that are stamped, which is what PostgreSQL is told of, and then those that wait.
const STAMPED: &str = "
insert into {schema}.events (merchant, live, id, event_type, payment, sequence, created_at, body, feed_position)
select 'acme', true, gen_random_uuid(), 'payment.succeeded', gen_random_uuid(), 1, now(), '', n from generate_series(1, 12000) n;
insert into {schema}.feeds (merchant, live, position) values ('acme', true, 12000);
analyze {schema}.events;
insert into {schema}.events (merchant, live, id, event_type, payment, sequence, created_at, body)
select 'acme', true, gen_random_uuid(), 'payment.succeeded', payment, k, now(), ''
from (select gen_random_uuid() as payment from generate_series(1, 2000)) x, generate_series(1, 2) k;
";

#[tokio::test]
async fn a_backlog_of_events_is_stamped_without_reading_all_of_it_for_each() {
    let mut watched = filled(&[load::ALONE, STAMPED]).await;
    let stamp = async |it: &PgStorage| it.stamp_events(500).await.expect("a healthy server");
    watched.watch("stamp_events", stamp).await;
    nothing_is_found(watched, "pages touched").await;
}

/// Ten endpoints have 12,000 due deliveries each, one after the other: what has been due for longest is all of one.
const BACKLOG: &str = "
insert into {schema}.endpoints (merchant, live, id, url, filters, profiles, ordering, secret, generation, sealed_with, status, pauses, version,
    created_at, updated_at)
select 'acme', true, gen_random_uuid(), 'https://hooks.example.com/in', '{}', '{standard}', 'none', 'v1.k1.' || repeat('A', 40), 1, 'k1',
    'enabled', 0, 1, now(), now() from generate_series(1, 10);
insert into {schema}.deliveries (merchant, live, event, endpoint, event_type, payment, state, attempts, attempts_total, version, created_at,
    updated_at, due_at)
select 'acme', true, gen_random_uuid(), w.id, 'payment.succeeded', gen_random_uuid(), 'pending', 0, 0, 1, now(), now(),
    now() - interval '1 hour' * row_number() over (order by w.id) from {schema}.endpoints w, generate_series(1, 12000);
";

/// Found with 863,000 due deliveries to 50 endpoints: each claim read all of them, and none was done within the timeout.
#[tokio::test]
async fn a_backlog_of_deliveries_is_claimed_without_reading_all_of_it() {
    let mut watched = filled(&[load::ALONE, BACKLOG]).await;
    let claim = async |it: &PgStorage| {
        let lease = Duration::from_secs(60);
        it.queue().claim(Lane::Deliveries, 40, lease).await.expect("a healthy server").len()
    };
    // The first claims fill the first endpoint; those after them look behind it.
    watched.watch("claim", claim).await;
    nothing_is_found(watched, "pages touched").await;
}

#[tokio::test]
async fn what_is_planned_on_empty_tables_scans_none() {
    let mut watched = filled(&[load::ALONE]).await;
    writes::of_payments(&mut watched, 77).await;
    nothing_is_found(watched, "sequential scans").await;
}

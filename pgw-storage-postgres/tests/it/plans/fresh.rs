//! Tables that were never analysed, as they are from the first minutes on until autovacuum comes by: PostgreSQL knows nothing of them but
//! their sizes.

use pgw_core::queue::Lane;
use pgw_core::storage::Storage as _;
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::{AssertSqlSafe, raw_sql};

use super::{Watched, load};
use crate::fixtures::{Leg, schema};

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
    let schema = schema().await;
    let mut watched = Watched::new(&schema, Leg::Pool.builder(&schema), "auto").await;
    for part in [load::ALONE, FILL] {
        let sql = part.replace("{schema}", schema.as_str());
        raw_sql(AssertSqlSafe(sql)).execute(watched.storage.pool()).await.expect("valid rows");
    }
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
    let (_, found) = watched.finish(Leg::Pool).await;
    let many: Vec<_> = found.iter().filter(|it| it.contains("pages touched")).collect();
    assert!(many.is_empty(), "{many:#?}");
}

//! Partitioned tables are those of the migrations, whatever was in them, and what names a merchant looks into one partition.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::page::PageRequest;
use pgw_core::queue::{Lane, Queue as _};
use pgw_core::scope::Mode;
use pgw_core::storage::{PaymentFilter, Storage as _};
use pgw_core::testing::sample::{Creation, Samples, scope};
use pgw_storage_postgres::sqlx::{self, AssertSqlSafe, PgConnection, Row as _, raw_sql};
use pgw_storage_postgres::{Engine, Migrator, Partitions, PgStorage, Schema};

use super::{new_schema, options, run};
use crate::fixtures::{connection, schema};

/// How many partitions a test has: more than it has merchants, so that there are empty ones too.
pub(crate) fn partitions() -> Partitions {
    Partitions::new(4).expect("a power of two")
}

/// A new schema, migrated, whose large tables are partitioned.
pub(crate) async fn partitioned_schema() -> Schema {
    let schema = schema().await;
    let sql = Migrator::new(schema.clone()).partition(partitions());
    run(&mut connection().await, sql).await;
    schema
}

/// What a table has but for whether it is partitioned: columns, constraints, indexes.
async fn shape(connection: &mut PgConnection, schema: &Schema) -> Vec<String> {
    const SHAPE: &str = "
        select format('column %s %s %s %s %s default %s', c.relname, attnum, attname,
            format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
            from pg_attribute a join pg_class c on c.oid = attrelid left join pg_attrdef d on adrelid = attrelid and adnum = attnum
            where relnamespace = '{schema}'::regnamespace and attnum > 0 and relkind in ('r', 'p') and not relispartition
        union all select format('constraint %s %s %s', conrelid::regclass, conname, replace(pg_get_constraintdef(p.oid), ' NOT VALID', ''))
            from pg_constraint p join pg_class c on c.oid = conrelid
            where connamespace = '{schema}'::regnamespace and not relispartition
        union all select format('index %s', replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON '))
            from pg_index join pg_class c on c.oid = indrelid
            where relnamespace = '{schema}'::regnamespace and not relispartition
        order by 1";
    let sql = SHAPE.replace("{schema}", schema.as_str());
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.expect("a valid query");
    let lines = rows.iter().map(|row| row.get::<String, _>(0));
    lines.map(|line| line.replace(&format!("{schema}."), "")).collect()
}

/// The partitions of each table, and the tables' settings.
async fn parts(connection: &mut PgConnection, schema: &Schema) -> BTreeMap<String, (i64, String)> {
    const PARTS: &str =
        "select p.relname::text, count(*), min(coalesce(c.reloptions::text, '')) from pg_inherits
        join pg_class p on p.oid = inhparent join pg_class c on c.oid = inhrelid
        where p.relnamespace = $1::text::regnamespace and p.relkind = 'p' group by 1";
    let query = sqlx::query(PARTS).bind(schema.as_str());
    let rows = query.fetch_all(connection).await.expect("a valid query");
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

#[tokio::test]
async fn partitioned_tables_are_those_of_the_migrations() {
    let mut server = connection().await;
    let (whole, cut) = (schema().await, partitioned_schema().await);
    let (expected, found) = (shape(&mut server, &whole).await, shape(&mut server, &cut).await);
    assert!(expected.len() > 200, "{} lines", expected.len());
    assert_eq!(found, expected);

    let found = parts(&mut server, &cut).await;
    let tables =
        ["attempts", "audit", "deliveries", "events", "idempotency_keys", "operations", "payments"];
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), tables);
    for (table, (count, options)) in found {
        assert_eq!(count, i64::from(partitions().get()), "{table}");
        let sql = format!(
            "select coalesce(reloptions::text, '') from pg_class where oid = '{whole}.{table}'::regclass"
        );
        let expected: String =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut server).await.expect("valid");
        assert_eq!(options, expected, "{table}");
    }
}

/// How tables are stored is a matter of their partitions, so such a migration is noted and does nothing.
#[tokio::test]
async fn a_migration_of_how_tables_are_stored_passes_partitioned_ones_over() {
    let (mut server, schema) = (connection().await, partitioned_schema().await);
    // With all that came after it, as nothing may be missing in between.
    run(&mut server, format!("delete from {schema}.migrations where version >= 6")).await;
    run(&mut server, format!("drop index {schema}.payments_unknown")).await;
    let migrator = Migrator::new(schema.clone());
    let done = migrator.run(&mut server).await.expect("it is up to date after it");
    assert_eq!(done.len(), 4, "{done:?}");
    assert!(migrator.pending(&mut server).await.expect("it can be read").is_empty());
}

async fn connect(schema: &Schema) -> PgStorage {
    let builder = PgStorage::builder().with_schema(schema.clone());
    builder.connect_with(options()).await.expect("it was migrated")
}

/// Samples of so many merchants, which fall into all partitions.
fn merchants(count: usize) -> Vec<Samples> {
    let samples = Samples::new(5);
    (0..count).map(|n| samples.of(scope(&format!("shop-{n}"), Mode::Live))).collect()
}

/// A payment that is charged, and says so to an endpoint.
async fn create(storage: &PgStorage, samples: &Samples) -> Creation {
    let endpoint = samples.endpoint();
    let guard = Guard::Endpoint { id: endpoint.id, version: 0 };
    let opens = Changes::new(samples.scope().clone())
        .guard(guard)
        .write(Write::Endpoint(Box::new(endpoint)));
    let creation = samples.creation();
    for changes in [opens, creation.changes()] {
        let committed = storage.commit(changes).await.expect("a healthy server");
        assert!(matches!(committed, Committed::Applied { .. }));
    }
    creation
}

#[tokio::test]
async fn what_was_there_before_is_there_after() {
    let (mut server, schema) = (connection().await, new_schema());
    let migrator = Migrator::new(schema.clone());
    run(&mut server, migrator.export()).await;
    let storage = connect(&schema).await;
    let mut before = Vec::new();
    for samples in merchants(8) {
        let creation = create(&storage, &samples).await;
        let found = storage.payment(samples.scope(), creation.payment.id).await.expect("a read");
        before.push((samples, creation, found));
    }
    // Statements that were prepared on the tables of before are planned anew on these.
    run(&mut server, migrator.partition(partitions())).await;
    for (samples, creation, found) in before {
        let (scope, page) = (samples.scope(), PageRequest::default());
        let payment = storage.payment(scope, creation.payment.id).await.expect("a read");
        assert_eq!(payment, found);
        let listed = storage.payments(scope, &PaymentFilter::default(), page).await;
        assert_eq!(listed.expect("a read").data.len(), 1);
        create(&storage, &samples).await;
    }
    migrator.verify(&mut server).await.expect("no migration is missing");
}

/// The first row of each partition lies at the same place.
#[tokio::test]
async fn rows_at_the_same_place_of_several_partitions_are_told_apart() {
    let storage = connect(&partitioned_schema().await).await;
    let all = merchants(16);
    for samples in &all {
        create(&storage, samples).await;
    }
    for lane in Lane::ALL {
        let mut claimed = BTreeSet::new();
        for _ in &all {
            let claims = storage.queue().claim(lane, 1, Duration::from_secs(60)).await;
            let claims = claims.expect("a healthy server");
            assert_eq!(claims.len(), 1, "{lane:?}: as many as were asked for");
            claimed.extend(claims.into_iter().map(|claim| format!("{:?}", claim.job)));
        }
        assert_eq!(claimed.len(), all.len(), "{lane:?}: each once");
        let depth = storage.queue().depth(lane).await.expect("a healthy server");
        assert_eq!((depth.ready, depth.in_flight), (0, 16), "{lane:?}");
    }
}

/// How often each partition was looked into or written, by scans of it or its indexes. (A planner looks at how deep indexes are; that is no scan.)
async fn uses(storage: &PgStorage, schema: &Schema) -> BTreeMap<String, i64> {
    const USES: &str = "select c.relname::text, (seq_scan + coalesce(idx_scan, 0) + n_tup_ins + n_tup_upd)::bigint
        from pg_stat_user_tables join pg_class c on c.oid = relid where schemaname = $1 and c.relispartition";
    raw_sql("select pg_stat_force_next_flush()")
        .execute(storage.pool())
        .await
        .expect("a healthy server");
    let query = sqlx::query(USES).persistent(false).bind(schema.to_string());
    let rows = query.fetch_all(storage.pool()).await.expect("a valid query");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Commits alone and in groups, on either profile, and reads.
#[tokio::test]
async fn what_names_a_merchant_looks_into_one_partition() {
    for engine in [Engine::Single, Engine::Distributed] {
        let schema = partitioned_schema().await;
        let builder = PgStorage::builder().with_schema(schema.clone()).with_engine(engine);
        // One connection, whose counters are complete when they are read.
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1);
        let storage = builder.build(pool.connect_lazy_with(options())).await.expect("migrated");
        for samples in merchants(16) {
            create(&storage, &samples).await;
        }
        let before = uses(&storage, &schema).await;
        // Often enough that PostgreSQL may settle on a generic plan.
        let samples = Samples::new(6).of(scope("shop-3", Mode::Live));
        for _ in 0..8 {
            let creation = create(&storage, &samples).await;
            let mut next = creation.payment.clone();
            next.version += 1;
            let guard = Guard::Payment { id: next.id, version: 1 };
            let moves = Changes::new(samples.scope().clone())
                .guard(guard)
                .write(Write::Payment(Box::new(next)));
            storage.commit(moves).await.expect("a healthy server");
            let found = storage.payment(samples.scope(), creation.payment.id).await;
            assert_eq!(found.expect("a read").expect("it is there").payment.version, 2);
            assert!(storage.due(&creation.job()).await.expect("a read").is_some());
        }
        let after = uses(&storage, &schema).await;
        let used: BTreeSet<&str> = after
            .iter()
            .filter(|(part, uses)| before.get(*part).unwrap_or(&0) < uses)
            .map(|(part, _)| part.as_str())
            .collect();
        let partitions: BTreeSet<&str> =
            used.iter().map(|part| part.rsplit('_').next().unwrap_or_default()).collect();
        assert!(used.len() > 3, "{engine:?}: {used:?}");
        assert_eq!(partitions.len(), 1, "{engine:?}: {used:?}");
        storage.pool().close().await;
    }
}

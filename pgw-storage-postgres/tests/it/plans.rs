//! No statement reads a large table from end to end, on a database as large as a busy platform's.
//!
//! PostgreSQL's own counters tell, before and after each call. Each call is made often enough that PostgreSQL may settle on a generic plan.

use std::collections::BTreeMap;
use std::time::Duration;

use pgw_storage_postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use pgw_storage_postgres::sqlx::{self, AssertSqlSafe, Row as _, raw_sql};
use pgw_storage_postgres::{PgStorage, PgStorageBuilder, Schema, ServerClock, Timeouts};

use crate::fixtures::{Leg, connection, schema, url};
use crate::lint::{Origin, faults, routed};
use crate::migrations::partitions::partitioned_schema;

mod fresh;
mod load;
mod reads;
mod writes;

/// How often each call is made: PostgreSQL compares a generic plan from the sixth on.
const ROUNDS: usize = 7;
/// Tables with more rows than this are large, and those that nobody has counted yet.
const LARGE: u32 = 1_000;
/// Most pages that a call may touch, of tables and indexes together: these, and so many more for each row that it found or wrote. What
/// looks through a whole index instead of a table touches more.
const PAGES: usize = 500;
const PAGES_A_ROW: usize = 150;

/// Ways to the database, and what PostgreSQL is told about plans.
const WAYS: [(Leg, &str); 4] = [
    (Leg::Pool, "auto"),
    (Leg::Pool, "force_generic_plan"),
    (Leg::Alone, "auto"),
    (Leg::Distributed, "auto"),
];
const WAYS_TO_PARTITIONS: [(Leg, &str); 2] =
    [(Leg::Partitioned, "auto"), (Leg::Partitioned, "force_generic_plan")];

/// What a connection counted goes out at the end of this statement; without it, up to ten seconds later.
const FLUSH: &str = "select pg_stat_force_next_flush()";

/// What a table's counters say.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    scans: i64,
    pages: i64,
}

/// A storage whose every statement is watched: it has one connection, whose counters are complete when they are read.
struct Watched {
    storage: PgStorage,
    schema: Schema,
    found: Vec<String>,
}

impl Watched {
    async fn new(schema: &Schema, builder: PgStorageBuilder, plans: &str) -> Self {
        let options: PgConnectOptions = url("PGW_TEST_POSTGRES").parse().expect("a valid URL");
        // Every statement stays prepared, so that all of them can be read at the end.
        let options =
            options.statement_cache_capacity(10_000).options([("plan_cache_mode", plans)]);
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(60));
        let pool = pool.connect_lazy_with(Timeouts::default().on(options));
        let storage = builder.build(pool).await.expect("the schema was just migrated");
        Self { storage, schema: schema.clone(), found: Vec::new() }
    }

    async fn counters(&self) -> BTreeMap<String, Counters> {
        const READ: &str = "select s.relname::text, s.seq_scan, coalesce(heap_blks_read + heap_blks_hit, 0)::bigint
            + coalesce(idx_blks_read + idx_blks_hit, 0)::bigint
            from pg_stat_user_tables s join pg_statio_user_tables io using (relid) join pg_class c on c.oid = relid
            where s.schemaname = $1 and (c.reltuples > $2::bigint or c.reltuples < 0)";
        let pool = self.storage.pool();
        raw_sql(FLUSH).execute(pool).await.expect("a healthy server");
        let query = sqlx::query(READ).bind(self.schema.to_string()).bind(i64::from(LARGE));
        let rows = query.persistent(false).fetch_all(pool).await.expect("a valid query");
        let counters =
            |row: &sqlx::postgres::PgRow| Counters { scans: row.get(1), pages: row.get(2) };
        rows.iter().map(|row| (row.get(0), counters(row))).collect()
    }

    /// Makes a call again and again; it says how many rows it found or wrote.
    async fn watch(&mut self, what: &str, mut call: impl AsyncFnMut(&PgStorage) -> usize) {
        let before = self.counters().await;
        let mut rows = [0; ROUNDS];
        for rows in &mut rows {
            *rows = call(&self.storage).await;
        }
        let mut pages = 0;
        for (table, after) in self.counters().await {
            let before = before.get(&table).copied().unwrap_or_default();
            let scans = after.scans - before.scans;
            pages += after.pages - before.pages;
            if scans > 0 {
                self.found.push(format!("{what}: {scans} sequential scans of {table}"));
            }
        }
        let most = ROUNDS * PAGES + rows.iter().sum::<usize>() * PAGES_A_ROW;
        if usize::try_from(pages).expect("counters go up") > most {
            self.found.push(format!("{what}: {pages} pages touched for {rows:?} rows"));
        }
        if rows.contains(&0) {
            self.found.push(format!("{what}: found {rows:?} rows, so its plan was not tried"));
        }
    }

    /// What was found, and what `lint` says of every statement that was prepared.
    async fn finish(mut self, leg: Leg) -> (usize, Vec<String>) {
        let pool = self.storage.pool();
        let rows =
            sqlx::query("select statement from pg_prepared_statements").fetch_all(pool).await;
        let mut count = 0;
        for row in rows.expect("a valid query") {
            let statement: String = row.get(0);
            let statement = statement.replace(&format!("{}.", self.schema), "{schema}.");
            count += usize::from(statement.contains("{schema}."));
            // Written by this file.
            if statement.contains("pg_prepared_statements") {
                continue;
            }
            let found = faults(&statement, 1, Origin::Source);
            self.found.extend(found.iter().map(|it| format!("{it} in {statement}")));
            if leg == Leg::Distributed {
                let (found, _) = routed::faults(&statement);
                self.found.extend(found.iter().map(|it| format!("{it} in {statement}")));
            }
        }
        self.storage.pool().close().await;
        (count, self.found)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_scans_a_large_table() {
    none_scans(&schema().await, &WAYS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_scans_a_large_partition() {
    none_scans(&partitioned_schema().await, &WAYS_TO_PARTITIONS).await;
}

async fn none_scans(schema: &Schema, ways: &[(Leg, &str)]) {
    let mut connection = connection().await;
    load::load(&mut connection, schema).await;
    let (mut statements, mut found) = (0, Vec::new());
    let clock = ServerClock::default();
    for (seed, (leg, plans)) in (1..).zip(ways) {
        // What was claimed the way before is free again.
        clock.advance(writes::LEASE);
        let builder = leg.builder(schema).with_clock(clock.clone());
        let mut watched = Watched::new(schema, builder, plans).await;
        // Reads name a merchant, so that of partitions they see one, which is a table like any.
        if *leg == Leg::Pool {
            reads::all(&mut watched, &mut connection).await;
        }
        writes::all(&mut watched, seed, matches!(leg, Leg::Pool | Leg::Partitioned)).await;
        let (count, of_this) = watched.finish(*leg).await;
        statements += count;
        found.extend(of_this.iter().map(|it| format!("{leg:?}, {plans}: {it}")));
    }
    assert!(statements > 100, "only {statements} statements were seen");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn a_scan_is_noticed() {
    let schema = schema().await;
    let fill = format!(
        "insert into {schema}.audit (merchant, at, id, live, actor_kind, action, success, object)
            select 'acme', now(), gen_random_uuid(), true, 'host', 'payment.create', true, 'x' from generate_series(1, 2000);
        analyze {schema}.audit"
    );
    let mut watched = Watched::new(&schema, Leg::Pool.builder(&schema), "auto").await;
    raw_sql(AssertSqlSafe(fill)).execute(watched.storage.pool()).await.expect("valid rows");
    let scan = format!("select count(*) from {schema}.audit where object = 'x'");
    let call = async |storage: &PgStorage| {
        let rows = sqlx::query(AssertSqlSafe(scan.clone())).fetch_all(storage.pool()).await;
        rows.expect("a valid query").len()
    };
    watched.watch("a scan", call).await;
    let (_, found) = watched.finish(Leg::Pool).await;
    let expected = ["a scan: 7 sequential scans of audit", "1: audit without the merchant"];
    assert!(
        found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected)),
        "{found:?}"
    );
    assert_eq!(found.len(), expected.len());
}

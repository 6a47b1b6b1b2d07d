//! Migrations: what they make, when they refuse, and that they do everything or nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use pgw_core::env::Env;
use pgw_core::page::PageRequest;
use pgw_core::scope::Scope;
use pgw_core::storage::Storage as _;
use pgw_core::testing::sample::Samples;
use pgw_storage_postgres::sqlx::postgres::PgConnectOptions;
use pgw_storage_postgres::sqlx::{
    self, AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _, raw_sql,
};
use pgw_storage_postgres::{
    ConnectError, Lock, MigrateError, Migrator, Overdue, PgStorage, Retention, RetentionError,
    Schema,
};
use tokio::task::JoinSet;

use crate::fixtures::{self, connection, url};
use crate::world::HEALTHY;

pub(crate) mod partitions;
pub(crate) mod roles;

/// A name that no other schema, database or role has.
fn name(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{what}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn options() -> PgConnectOptions {
    url("PGW_TEST_POSTGRES").parse().expect("a valid URL")
}

fn new_schema() -> Schema {
    name("m").parse().expect("a valid name")
}

async fn run(connection: &mut PgConnection, sql: String) {
    raw_sql(AssertSqlSafe(sql)).execute(connection).await.expect("the statement is valid");
}

/// The SQLSTATE that a statement is refused with; empty when it is not.
async fn refusal(connection: &mut PgConnection, sql: &str) -> String {
    match raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await {
        Ok(_) => String::new(),
        Err(sqlx::Error::Database(error)) => error.code().expect("PostgreSQL gives one").into(),
        Err(error) => panic!("{sql} did not get an answer: {error}"),
    }
}

/// Everything in a schema, a line each, without the schema's name and without when it was migrated.
async fn dump(connection: &mut PgConnection, schema: &Schema) -> Vec<String> {
    const DUMP: &str = "
        select format('relation %s %s %s', relname, relkind, reloptions) from pg_class
            where relnamespace = '{schema}'::regnamespace
        union all select format('column %s %s %s %s %s default %s', c.relname, attnum, attname,
            format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
            from pg_attribute a join pg_class c on c.oid = attrelid left join pg_attrdef d on adrelid = attrelid and adnum = attnum
            where relnamespace = '{schema}'::regnamespace and attnum > 0 and relkind = 'r'
        union all select format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) from pg_constraint
            where connamespace = '{schema}'::regnamespace
        union all select format('index %s', indexdef) from pg_indexes where schemaname = '{schema}'
        union all select format('function %s', proname) from pg_proc where pronamespace = '{schema}'::regnamespace
        union all select format('trigger %s', tgname) from pg_trigger join pg_class c on c.oid = tgrelid
            where relnamespace = '{schema}'::regnamespace
        union all select format('lease %s', name) from {schema}.leases
        union all select format('migration %s %s %s %s', version, name, checksum, serves_from) from {schema}.migrations
        order by 1";
    let sql = DUMP.replace("{schema}", schema.as_str());
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.expect("a valid query");
    let lines = rows.iter().map(|row| row.get::<String, _>(0));
    lines.map(|line| line.replace(&format!("{schema}."), "")).collect()
}

async fn relations(connection: &mut PgConnection, schema: &Schema) -> Vec<String> {
    const NAMES: &str =
        "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relkind = 'r' order by 1";
    let query = sqlx::query(NAMES).bind(schema.as_str().to_owned());
    let rows = query.fetch_all(connection).await.expect("a valid query");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn has_schema(connection: &mut PgConnection, schema: &Schema) -> bool {
    let query = sqlx::query("select 1 from pg_namespace where nspname = $1");
    let found = query.bind(schema.as_str().to_owned()).fetch_all(connection).await;
    !found.expect("a valid query").is_empty()
}

#[tokio::test]
async fn running_makes_what_the_export_makes_in_any_schema() {
    let database = name("empty");
    let mut server = connection().await;
    run(&mut server, format!("create database {database}")).await;
    let mut empty = options().database(&database).connect().await.expect("it was just created");

    let (default, other) =
        (Schema::default(), "beside_it".parse::<Schema>().expect("a valid name"));
    let migrator = Migrator::new(default.clone());
    let done = migrator.run(&mut empty).await.expect("the database is empty");
    assert_eq!(done.first().map(String::as_str), Some("0001 init"));
    run(&mut empty, Migrator::new(other.clone()).export()).await;
    let (ran, exported) = (dump(&mut empty, &default).await, dump(&mut empty, &other).await);
    assert!(ran.len() > 200, "the dump has {} lines", ran.len());
    assert_eq!(ran, exported);

    // Both are what the application needs, and know each other's rows not at all.
    let samples = Samples::new(1);
    let creation = samples.creation();
    for (schema, finds) in [(default, true), (other, false)] {
        let builder = PgStorage::builder().with_schema(schema);
        let there = builder.connect_with(options().database(&database)).await.expect("migrated");
        if finds {
            there.commit(creation.changes()).await.expect("a new payment");
        }
        let found = there.payment(samples.scope(), creation.payment.id).await.expect("a read");
        assert_eq!(found.is_some(), finds);
        there.pool().close().await;
    }
    empty.close().await.expect("a healthy server");
    run(&mut server, format!("drop database {database} with (force)")).await;
}

#[tokio::test]
async fn running_twice_does_nothing_and_says_so() {
    let (mut owner, schema) = (connection().await, new_schema());
    let migrator = Migrator::new(schema.clone());
    let planned = migrator.pending(&mut owner).await.expect("nothing is there");
    assert!(!planned.is_empty());
    assert!(!has_schema(&mut owner, &schema).await, "a dry run made the schema");
    assert_eq!(migrator.run(&mut owner).await.expect("nothing is there"), planned);
    let before = dump(&mut owner, &schema).await;
    let times = format!("select max(applied_at)::text from {schema}.migrations");
    let time =
        sqlx::query(AssertSqlSafe(times.clone())).fetch_one(&mut owner).await.expect("valid");

    assert_eq!(migrator.run(&mut owner).await.expect("all is there"), [""; 0]);
    assert_eq!(migrator.pending(&mut owner).await.expect("all is there"), [""; 0]);
    migrator.verify(&mut owner).await.expect("all is there");
    assert_eq!(dump(&mut owner, &schema).await, before);
    let later = sqlx::query(AssertSqlSafe(times)).fetch_one(&mut owner).await.expect("valid");
    assert_eq!(later.get::<String, _>(0), time.get::<String, _>(0));

    // What was exported counts as run, without a lock too.
    let exported = new_schema();
    run(&mut owner, Migrator::new(exported.clone()).export()).await;
    let without_lock = Migrator::new(exported).with_lock(Lock::None);
    assert_eq!(without_lock.run(&mut owner).await.expect("all is there"), [""; 0]);
}

#[tokio::test]
async fn a_schema_with_rows_is_brought_up_to_date_and_the_version_before_works_on() {
    let (mut owner, schema) = (connection().await, new_schema());
    let migrator = Migrator::new(schema.clone());
    let export = migrator.export();
    let (first, _) = export.split_once("\n-- 0002").expect("there is a second migration");
    run(&mut owner, format!("{first}\ncommit;")).await;
    // As the first version writes it.
    let insert = |prefix: &str| {
        format!(
            "insert into {schema}.api_keys (merchant, live, id, role, name, prefix, digest, created_at, version) values \
             ('default', false, gen_random_uuid(), 'admin', 'old', '{prefix}', sha256('x'::bytea), now(), 1)"
        )
    };
    run(&mut owner, insert("before000000")).await;
    let done = migrator.run(&mut owner).await.expect("the first was run");
    assert_eq!(done.first().map(String::as_str), Some("0002 access"));
    run(&mut owner, insert("after0000000")).await;

    let storage = PgStorage::builder().with_schema(schema).connect_with(options()).await;
    let storage = storage.expect("it is up to date");
    let keys = storage.api_keys(&Scope::default(), PageRequest::default()).await.expect("a read");
    let prefixes: Vec<&str> = keys.data.iter().map(|key| key.prefix.as_str()).collect();
    assert_eq!(prefixes, ["after0000000", "before000000"]);
    assert!(
        keys.data.iter().all(|key| key.last_used_at.is_none() && key.revoked_because.is_none())
    );
    let shield = storage.shield(None).await.expect("a read").expect("there is always one");
    assert_eq!(shield.version, 0);
    storage.pool().close().await;
}

#[tokio::test]
async fn a_schema_that_is_behind_is_refused_with_what_to_do() {
    let schema = new_schema();
    let connect = || PgStorage::builder().with_schema(schema.clone()).connect_with(options());
    let error = connect().await.expect_err("it was never migrated");
    assert!(matches!(
        error,
        ConnectError::Schema(MigrateError::Behind { applied: 0, wanted: 1.. })
    ));
    let sentence = error.to_string();
    for part in ["0 of", "migrations", "run them", "owner"] {
        assert!(sentence.contains(part), "{sentence:?} does not say {part:?}");
    }
    // Looking changed nothing.
    assert!(!has_schema(&mut connection().await, &schema).await);
}

#[tokio::test]
async fn another_text_or_a_later_version_is_refused_by_everything() {
    let mut owner = connection().await;
    let silent =
        "insert into {schema}.migrations (version, name, checksum) values (9000, 'later', 'x')";
    let strict = "insert into {schema}.migrations (version, name, checksum, serves_from) \
         select 9000, 'later', 'x', max(version) + 1 from {schema}.migrations";
    let changed = "update {schema}.migrations set checksum = 'x' where version = 1";
    for (sql, is_later) in [(silent, true), (strict, true), (changed, false)] {
        let schema = new_schema();
        let migrator = Migrator::new(schema.clone());
        migrator.run(&mut owner).await.expect("nothing is there");
        run(&mut owner, sql.replace("{schema}", schema.as_str())).await;
        let before = dump(&mut owner, &schema).await;
        let check = |error: &MigrateError| match error {
            MigrateError::Ahead { version: 9_000 } => is_later,
            MigrateError::Changed { version: 1 } => !is_later,
            _ => false,
        };
        assert!(check(&migrator.run(&mut owner).await.expect_err("refused")));
        assert!(check(&migrator.pending(&mut owner).await.expect_err("refused")));
        assert!(check(&migrator.verify(&mut owner).await.expect_err("refused")));
        let connected =
            PgStorage::builder().with_schema(schema.clone()).connect_with(options()).await;
        assert!(matches!(connected, Err(ConnectError::Schema(error)) if check(&error)));
        assert_eq!(dump(&mut owner, &schema).await, before);
    }
}

/// A new schema as a later version leaves it whose migration lets this one work beside it: each table has new columns, with the names that other
/// tables have in theirs, so that no statement may depend on there being one only. And there is a new table.
pub(crate) async fn later_schema() -> Schema {
    const LATER: &str = "
        do $$ declare new record; begin
            for new in with columns as (select c.oid::regclass as its, relname, attname from pg_attribute a join pg_class c on c.oid = attrelid
                    where relnamespace = '{schema}'::regnamespace and relkind = 'r' and attnum > 0 and not attisdropped and relname <> 'migrations')
                select t.its, string_agg(format('add column %I text', n.attname), ', ') as columns
                from (select distinct its from columns) t, (select distinct attname from columns) n
                where not exists (select from columns c where c.its = t.its and c.attname = n.attname) group by t.its loop
                execute format('alter table %s %s', new.its, new.columns);
            end loop;
        end $$;
        create table {schema}.of_later (id bigint primary key);
        insert into {schema}.migrations (version, name, checksum, serves_from)
            select max(version) + 1, 'later', 'x', max(version) from {schema}.migrations";
    let schema = fixtures::schema().await;
    run(&mut connection().await, LATER.replace("{schema}", schema.as_str())).await;
    schema
}

#[tokio::test]
async fn a_later_version_that_lets_this_one_work_is_taken_and_left_alone() {
    let (mut owner, schema) = (connection().await, later_schema().await);
    let migrator = Migrator::new(schema.clone());
    let before = dump(&mut owner, &schema).await;
    let later = migrator.verify(&mut owner).await.expect("it serves this version");
    let [later] = later.as_slice() else { panic!("one is unknown: {later:?}") };
    assert!(later.ends_with(" later"), "{later}");
    assert_eq!(migrator.pending(&mut owner).await.expect("nothing is missing"), [""; 0]);
    assert_eq!(migrator.run(&mut owner).await.expect("nothing is missing"), [""; 0]);
    assert_eq!(dump(&mut owner, &schema).await, before);
    let storage = PgStorage::builder().with_schema(schema).connect_with(options()).await;
    storage.expect("it serves this version").pool().close().await;
}

#[tokio::test]
async fn a_table_of_migrations_that_does_not_say_whom_they_serve_is_read_and_mended() {
    let (mut owner, schema) = (connection().await, fixtures::schema().await);
    let migrator = Migrator::new(schema.clone());
    let expected = dump(&mut owner, &schema).await;
    let dropped = format!("alter table {schema}.migrations drop column serves_from");
    // As the version before `serves_from` made it; then so that one is missing besides.
    run(&mut owner, dropped.clone()).await;
    assert_eq!(migrator.verify(&mut owner).await.expect("all is there"), [""; 0]);
    assert_eq!(migrator.pending(&mut owner).await.expect("all is there"), [""; 0]);
    assert_eq!(migrator.run(&mut owner).await.expect("all is there"), [""; 0]);
    let last = format!("(select max(version) from {schema}.migrations)");
    run(&mut owner, format!("{dropped}; delete from {schema}.migrations where version = {last}"))
        .await;
    assert_eq!(migrator.run(&mut owner).await.expect("one is missing").len(), 1);
    let noted = format!("select serves_from from {schema}.migrations order by version");
    let noted = sqlx::query(AssertSqlSafe(noted)).fetch_all(&mut owner).await.expect("it is there");
    let noted: Vec<Option<i64>> = noted.iter().map(|row| row.get(0)).collect();
    let (last, before) = noted.split_last().expect("there are some");
    assert!(last.is_some() && before.iter().all(Option::is_none), "{noted:?}");

    // With nothing to do it waits for nobody who reads the table, as a backup does.
    let mut reader = connection().await;
    run(&mut reader, format!("begin; lock table {schema}.migrations in access share mode")).await;
    run(&mut owner, "set lock_timeout = '5s'".to_owned()).await;
    assert_eq!(migrator.run(&mut owner).await.expect("it waits for no lock"), [""; 0]);
    run(&mut reader, "rollback".to_owned()).await;

    run(&mut owner, format!("update {schema}.migrations set serves_from = version")).await;
    // A column that was dropped keeps its number.
    let shape = |lines: Vec<String>| -> Vec<String> {
        let lines = lines.into_iter();
        lines.filter(|line| !line.starts_with("column migrations")).collect()
    };
    assert_eq!(shape(dump(&mut owner, &schema).await), shape(expected));
}

#[tokio::test]
async fn of_many_later_migrations_each_must_serve_and_none_may_be_missing_before_them() {
    let (mut owner, schema) = (connection().await, later_schema().await);
    let migrator = Migrator::new(schema.clone());
    let strict = "insert into {schema}.migrations (version, name, checksum, serves_from) \
         select max(version) + 1, 'strict', 'x', max(version) + 1 from {schema}.migrations";
    run(&mut owner, strict.replace("{schema}", schema.as_str())).await;
    let refused = migrator.verify(&mut owner).await.expect_err("the second serves later ones");
    let MigrateError::Ahead { version } = refused else { panic!("{refused:?}") };
    let of = |name: &str| format!("delete from {schema}.migrations where name = '{name}'");
    run(&mut owner, of("strict")).await;
    assert_eq!(migrator.verify(&mut owner).await.expect("the other serves this one").len(), 1);
    // Of those that are known the last is taken out.
    run(&mut owner, format!("delete from {schema}.migrations where version = {}", version - 2))
        .await;
    let expected = version - 2;
    for refused in [
        migrator.verify(&mut owner).await.map(drop),
        migrator.pending(&mut owner).await.map(drop),
        migrator.run(&mut owner).await.map(drop),
    ] {
        let gap = refused.expect_err("one is missing");
        assert!(matches!(gap, MigrateError::Gap { version } if version == expected), "{gap:?}");
    }
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing() {
    let (mut owner, schema) = (connection().await, new_schema());
    // In the way of the last tables, so that most of the migration was done before.
    run(&mut owner, format!("create schema {schema}; create table {schema}.leases (n int)")).await;
    for lock in [Lock::Advisory, Lock::None] {
        let migrator = Migrator::new(schema.clone()).with_lock(lock);
        let error = migrator.run(&mut owner).await.expect_err("the table is in the way");
        let MigrateError::Database(sqlx::Error::Database(cause)) = &error else {
            panic!("not the database's error: {error:?}");
        };
        assert_eq!(cause.code().as_deref(), Some("42P07"));
        assert_eq!(relations(&mut owner, &schema).await, ["leases"]);
    }
    // The connection is as good as before, and once nothing is in the way all of it is done.
    run(&mut owner, format!("drop table {schema}.leases")).await;
    let done = Migrator::new(schema.clone()).run(&mut owner).await.expect("nothing is in the way");
    assert_eq!(done.first().map(String::as_str), Some("0001 init"));
    assert!(relations(&mut owner, &schema).await.len() > 10);
}

#[tokio::test]
async fn two_migrators_at_once_both_succeed_and_one_does_it() {
    let schema = new_schema();
    let planned = Migrator::new(schema.clone()).pending(&mut connection().await).await;
    let migrate = || async {
        let (mut owner, schema) = (connection().await, schema.clone());
        Migrator::new(schema).run(&mut owner).await.expect("the other is waited for")
    };
    let (one, two, three) = tokio::join!(migrate(), migrate(), migrate());
    let mut done = [one, two, three].concat();
    done.sort();
    assert_eq!(done, planned.expect("nothing is there"));
}

/// Behind a pooler that gives every transaction any of its servers: both halves of a question must come to the same one.
#[tokio::test]
async fn many_ask_at_once_through_a_pooler() {
    let (schema, now) = (crate::fixtures::schema().await, Env::system().now());
    let mut all = JoinSet::new();
    for _ in 0..16 {
        let (migrator, retention) = (Migrator::new(schema.clone()), Retention::new(schema.clone()));
        all.spawn(async move {
            let pooled = PgConnection::connect(&url("PGW_TEST_PGBOUNCER")).await;
            let mut pooled = pooled.expect(HEALTHY);
            for _ in 0..25 {
                migrator.verify(&mut pooled).await.expect(HEALTHY);
                assert_eq!(migrator.pending(&mut pooled).await.expect(HEALTHY), [""; 0]);
                let overdue = retention.overdue(&mut pooled, now, now).await.expect(HEALTHY);
                assert_eq!(overdue, Overdue { answers: 0, audit_rows: 0 });
                let purged = retention.purge_audit(&mut pooled, now).await;
                assert!(matches!(purged, Err(RetentionError::TooYoung)), "{purged:?}");
            }
        });
    }
    all.join_all().await;
}

//! What can go wrong with a server: clear errors, nothing lost, nothing invented, and all well again afterwards.
//!
//! Most tests have a server of their own, which they may ruin.

use std::error::Error;
use std::time::Duration;

use pgw_core::changes::{Changes, Committed};
use pgw_core::page::PageRequest;
use pgw_core::queue::{Lane, Queue as _, QueueError};
use pgw_core::storage::{PaymentFilter, Storage as _, StorageError};
use pgw_core::testing::sample::{Creation, Samples};
use pgw_storage_postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use pgw_storage_postgres::sqlx::{
    self, AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _, raw_sql,
};
use pgw_storage_postgres::{
    ConnectError, Engine, Link, Migrator, PgStorage, PgStorageBuilder, Schema, Timeouts,
};
use servers::{PgBouncer, Postgres, PostgresBuilder};

use crate::fixtures::{schema, url};

mod clocks;
mod disk;
mod outage;

/// How long a call may wait for a connection in these tests.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// No call takes this long: one that does hangs.
const HANGS: Duration = Duration::from_secs(60);

/// A server of one's own, with pgw's schema.
struct Own {
    server: Postgres,
}

impl Own {
    async fn start(builder: PostgresBuilder) -> Self {
        let own = Self { server: builder.start().expect("the server starts") };
        let mut owner = own.connection().await;
        Migrator::new(Schema::default()).run(&mut owner).await.expect("the database is empty");
        owner.close().await.expect("a healthy server");
        own
    }

    fn options(&self) -> PgConnectOptions {
        self.server.url().parse().expect("a valid URL")
    }

    async fn connection(&self) -> PgConnection {
        self.options().connect().await.expect("a healthy server")
    }

    async fn storage(&self, connections: u32) -> PgStorage {
        on_a_pool(PgStorage::builder(), self.options(), connections).await.expect("migrated")
    }
}

/// A storage on a pool that gives up soon.
async fn on_a_pool(
    builder: PgStorageBuilder,
    options: PgConnectOptions,
    connections: u32,
) -> Result<PgStorage, ConnectError> {
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(Timeouts::default().on(options));
    builder.build(pool).await
}

async fn run(connection: &mut PgConnection, sql: &str) {
    let done = raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A new payment under a key, and the commit that creates it.
fn keyed(samples: &Samples) -> (Creation, Changes) {
    let mut creation = samples.creation();
    let changes = creation.keyed(samples.claim(creation.target()));
    (creation, changes)
}

/// A commit that is answered: one that hangs fails the test.
async fn commit(storage: &PgStorage, changes: &Changes) -> Result<Committed, StorageError> {
    let committed = tokio::time::timeout(HANGS, storage.commit(changes.clone())).await;
    committed.expect("a commit must not hang")
}

fn is_applied(committed: &Result<Committed, StorageError>) -> bool {
    matches!(committed, Ok(Committed::Applied { .. }))
}

/// Whether all of a creation is there; panics when a part of it is.
async fn is_there(storage: &PgStorage, creation: &Creation) -> bool {
    let (scope, id) = (&creation.payment.scope, creation.payment.id);
    let state = storage.payment(scope, id).await.expect("a healthy server");
    let key = creation.charge.idempotency_key.as_ref().expect("it was created under a key");
    let key = storage.key(scope, key).await.expect("a healthy server");
    let events = storage.payment_events(scope, id, 0, 10).await.expect("a healthy server");
    let due = storage.due(&creation.job()).await.expect("a healthy server");
    let parts = [state.is_some(), key.is_some(), events.len() == 1, due.is_some()];
    assert!(parts.iter().all(|part| *part == parts[0]), "half of it is there: {parts:?}");
    if let Some(state) = state {
        assert_eq!(state.payment, creation.payment);
        assert_eq!(state.operations, std::slice::from_ref(&creation.charge));
    }
    parts[0]
}

/// Everything that may be shown of an error: in logs, to operators, in panics.
fn shown(error: &(dyn Error + 'static)) -> String {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        shown.push_str(&format!(" {error} {error:?} {error:#?}"));
        source = error.source();
    }
    shown
}

#[tokio::test]
async fn a_read_only_database_is_unavailable_for_writes_and_is_read() {
    let (schema, samples, filter) = (schema().await, Samples::new(1), PaymentFilter::default());
    let options: PgConnectOptions = url("PGW_TEST_POSTGRES").parse().expect("a valid URL");
    let builder = || PgStorage::builder().with_schema(schema.clone());
    let writes = on_a_pool(builder(), options.clone(), 2).await.expect("migrated");
    let (there, changes) = keyed(&samples);
    assert!(is_applied(&commit(&writes, &changes).await));

    let read_only = options.options([("default_transaction_read_only", "on")]);
    for engine in [Engine::Single, Engine::Distributed] {
        let reads = on_a_pool(builder().with_engine(engine), read_only.clone(), 2).await;
        let reads = reads.expect("nothing has to be written to connect");
        let (creation, changes) = keyed(&samples);
        let error = commit(&reads, &changes).await.expect_err("it is read-only");
        assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
        assert!(shown(&error).contains("read-only"), "{error:?}");
        let error = reads.stamp_events(10).await.expect_err("it is read-only");
        assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
        let claimed = reads.queue().claim(Lane::Operations, 1, HANGS).await;
        assert!(matches!(claimed, Err(QueueError::Unavailable(_))), "{claimed:?}");

        assert!(is_there(&reads, &there).await && !is_there(&reads, &creation).await);
        let page = reads.payments(samples.scope(), &filter, PageRequest::first(100));
        let listed: Vec<_> = page.await.expect("a read").data.iter().map(|it| it.id).collect();
        assert!(listed.contains(&there.payment.id) && !listed.contains(&creation.payment.id));
        // Nothing of it stayed: the same commit gets through where one may write.
        assert!(is_applied(&commit(&writes, &changes).await));
        assert!(is_there(&writes, &creation).await);
    }
}

/// Takes every connection that the server has left.
async fn take_all(own: &Own) -> Vec<PgConnection> {
    let mut taken = Vec::new();
    loop {
        match own.options().application_name("filler").connect().await {
            Ok(connection) => taken.push(connection),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("53300") => {
                return taken;
            }
            Err(error) => panic!("not the end of the connections: {error}"),
        }
    }
}

/// Ends the connections of this name, and waits until they are gone.
async fn end(admin: &mut PgConnection, application: &str) {
    const END: &str =
        "select pg_terminate_backend(pid, 30000) from pg_stat_activity where application_name = $1";
    let ended = sqlx::query(END).bind(application.to_owned()).fetch_all(admin).await;
    let ended = ended.expect("a healthy server");
    assert!(!ended.is_empty() && ended.iter().all(|row| row.get::<bool, _>(0)));
}

#[tokio::test]
async fn a_server_without_a_connection_left_is_unavailable_until_there_is_one() {
    let own = Own::start(Postgres::builder().with_setting("max_connections", "8")).await;
    let options = own.options().application_name("under test");
    let storage = on_a_pool(PgStorage::builder(), options, 2).await.expect("migrated");
    let samples = Samples::new(1);
    let (there, changes) = keyed(&samples);
    assert!(is_applied(&commit(&storage, &changes).await));

    // Others take what there is; then the storage loses what it had, and they take that too.
    let mut admin = own.connection().await;
    let mut others = take_all(&own).await;
    end(&mut admin, "under test").await;
    others.extend(take_all(&own).await);
    let (creation, changes) = keyed(&samples);
    let error = commit(&storage, &changes).await.expect_err("there is no connection");
    assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
    let error = storage.payment(samples.scope(), there.payment.id).await.expect_err("the same");
    assert!(matches!(error, StorageError::Unavailable(_)), "{error:?}");
    let error = storage.queue().claim(Lane::Operations, 1, HANGS).await.expect_err("the same");
    assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");

    end(&mut admin, "filler").await;
    assert!(is_there(&storage, &there).await && !is_there(&storage, &creation).await);
    assert!(is_applied(&commit(&storage, &changes).await));
    assert!(is_there(&storage, &creation).await);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_shown_nowhere() {
    const PASSWORD: &str = "correct-horse-battery";
    let mut own = Own::start(Postgres::builder()).await;
    let mut admin = own.connection().await;
    run(&mut admin, &format!("create role shopper login superuser password '{PASSWORD}'")).await;
    admin.close().await.expect("a healthy server");
    let rules = "local all shopper scram-sha-256\nlocal all all trust\n";
    let path = own.server.data_directory().join("pg_hba.conf");
    std::fs::write(path, rules).expect("the server's files are ours");
    own.server.restart().expect("the rules are valid");

    let connect = |password: &str| {
        let user = own.options().username("shopper").password(password);
        PgStorage::builder().connect_with(user)
    };
    for wrong in ["hunter2-is-wrong", ""] {
        let error = connect(wrong).await.expect_err("the password is wrong");
        let ConnectError::Database(sqlx::Error::Database(cause)) = &error else {
            panic!("not the server's refusal: {error:?}");
        };
        assert_eq!(cause.code().as_deref(), Some("28P01"));
        assert!(wrong.is_empty() || !shown(&error).contains(wrong), "{}", shown(&error));
    }
    let storage = connect(PASSWORD).await.expect("the password is right");
    let handles = format!("{storage:?} {:?} {:?}", storage.queue(), storage.notifier());
    let pool = format!("{:?}", storage.pool());
    assert!(!handles.contains(PASSWORD) && !pool.contains(PASSWORD), "{handles} {pool}");
    let url = own.server.url().replace("pgw@", "shopper:hunter2@");
    let broken = [url.clone(), url.replace(":5432", ":port"), url.replace("?", "?sslmode=so-so&")];
    for url in broken {
        let error = PgStorage::builder().connect(&url).await.expect_err("it is wrong");
        assert!(matches!(error, ConnectError::Database(_)), "{error:?}");
        assert!(!shown(&error).contains("hunter2"), "{}", shown(&error));
    }
}

#[tokio::test]
async fn settings_show_no_password() {
    let options = PgConnectOptions::new_without_pgpass().username("shopper").password("hunter2");
    let builder = PgStorage::builder().with_link(Link::Pooler).with_listener(options);
    assert!(!format!("{builder:?} {builder:#?}").contains("hunter2"), "{builder:?}");
}

#[tokio::test]
async fn another_isolation_level_is_refused_where_it_would_count() {
    let schema = schema().await;
    let builder = || PgStorage::builder().with_schema(schema.clone());
    let options: PgConnectOptions = url("PGW_TEST_POSTGRES").parse().expect("a valid URL");
    let pool = |level: &str| {
        let options = options.clone().options([("default_transaction_isolation", level)]);
        PgPoolOptions::new().max_connections(2).connect_lazy_with(options)
    };
    for level in ["serializable", "repeatable read"] {
        let error = builder().build(pool(level)).await.expect_err("refused");
        assert!(
            matches!(&error, ConnectError::Isolation { level: found } if found == level),
            "{error:?}"
        );
        let sentence = error.to_string();
        for part in [level, "read committed", "default_transaction_isolation"] {
            assert!(sentence.contains(part), "{sentence:?} does not say {part:?}");
        }
    }
    // A pool of pgw's own and `Timeouts::on` say what they need, whatever the role's default is; a pooler's transactions do too.
    let role = schema.as_str();
    let mut admin = options.clone().connect().await.expect("a healthy server");
    let role_sql = format!(
        "create role {role} login superuser; alter role {role} set default_transaction_isolation = 'serializable'"
    );
    run(&mut admin, &role_sql).await;
    let as_role = options.clone().username(role);
    let own_pool = builder().connect_with(as_role.clone()).await.expect("it sets the level");
    let given = on_a_pool(builder(), as_role, 2).await.expect("the options set the level");
    let pooled = builder().with_link(Link::Pooler).build(pool("serializable")).await;
    let pooled = pooled.expect("every transaction says its level");
    let samples = Samples::new(1);
    for storage in [own_pool, given, pooled] {
        let (creation, changes) = keyed(&samples);
        assert!(is_applied(&commit(&storage, &changes).await));
        assert!(is_there(&storage, &creation).await);
    }
}

#[tokio::test]
async fn a_pooler_without_the_settings_is_refused_until_its_role_has_them() {
    let own = Own::start(Postgres::builder()).await;
    let mut admin = own.connection().await;
    run(&mut admin, "create role app login superuser").await;
    let pooler = || {
        let pooler = PgBouncer::builder(&own.server).keeping_statements();
        pooler.with_role("app").with_pool_size(1).start().expect("it starts")
    };
    let builder = || PgStorage::builder().with_link(Link::PreparedPooler);
    let error = builder().connect(&pooler().url()).await.expect_err("the role has no settings");
    let ConnectError::Settings { found } = &error else { panic!("{error:?}") };
    let missing = "enable_seqscan = on, idle_in_transaction_session_timeout = 0, jit = on, lock_timeout = 0, statement_timeout = 0";
    assert_eq!(found, missing);
    assert!(error.to_string().contains(missing), "{error}");

    run(&mut admin, &Timeouts::default().for_role("app")).await;
    let pooler = pooler();
    let storage = builder().connect(&pooler.url()).await.expect("the role has its settings");
    let (creation, changes) = keyed(&Samples::new(1));
    assert!(is_applied(&commit(&storage, &changes).await));
    assert!(is_there(&storage, &creation).await);
    // Of the one connection that the pooler has.
    const KEPT: &str = "select count(*) filter (where statement like 'with items%'), count(*) filter (where name like 'sqlx%') from pg_prepared_statements";
    let mut transaction = storage.pool().begin().await.expect("a healthy pooler");
    let kept = sqlx::query(KEPT).persistent(false).fetch_one(&mut *transaction).await;
    let kept = kept.expect("valid SQL");
    assert_eq!((kept.get::<i64, _>(0), kept.get::<i64, _>(1)), (1, 0), "the commit stays prepared");
    transaction.rollback().await.expect("a healthy pooler");

    // Others than the storage's are refused as well.
    let mut longer = Timeouts::default();
    longer.lock = Duration::from_secs(30);
    run(&mut admin, &longer.for_role("app")).await;
    end(&mut admin, "pgw").await;
    let error = builder().connect(&pooler.url()).await.expect_err("another timeout");
    assert!(
        matches!(&error, ConnectError::Settings { found } if found == "lock_timeout = 30000"),
        "{error:?}"
    );
    let builder = builder().with_timeouts(longer);
    builder.clone().connect(&pooler.url()).await.expect("they are the storage's");

    run(&mut admin, "alter role app set default_transaction_isolation = 'serializable'").await;
    end(&mut admin, "pgw").await;
    let error = builder.connect(&pooler.url()).await.expect_err("another level");
    assert!(
        matches!(&error, ConnectError::Isolation { level } if level == "serializable"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_pooler_that_mixes_the_statements_of_its_clients_is_refused() {
    const NAMES: &str = "select count(*) from pg_prepared_statements";
    let own = Own::start(Postgres::builder()).await;
    let mut admin = own.connection().await;
    run(&mut admin, "create role app login superuser").await;
    run(&mut admin, &Timeouts::default().for_role("app")).await;
    let mixing = PgBouncer::builder(&own.server).with_role("app").with_pool_size(1);
    let mixing = mixing.start().expect("it starts");
    let refused = async || {
        let builder = PgStorage::builder().with_link(Link::PreparedPooler);
        let error = builder.connect(&mixing.url()).await.expect_err("it mixes them");
        assert!(matches!(error, ConnectError::StatementsMixed), "{error:?}");
    };
    refused().await;
    // The one connection that the pooler has was not broken by it, and nothing is left on it.
    let options: PgConnectOptions = mixing.url().parse().expect("a valid URL");
    let mut other = options.connect().await.expect("a healthy pooler");
    let left = sqlx::query(NAMES).persistent(false).fetch_one(&mut other).await;
    assert_eq!(left.expect("valid SQL").get::<i64, _>(0), 0, "its question is in others' way");
    // Another client's statement has the name already.
    sqlx::query("select 1").fetch_one(&mut other).await.expect("nobody had the name");
    refused().await;

    // Where there is no pooler at all, nobody renames them either.
    let direct = own.options().username("app");
    let builder = PgStorage::builder().with_link(Link::PreparedPooler);
    let error = builder.connect_with(direct).await.expect_err("that is no pooler");
    assert!(matches!(error, ConnectError::StatementsMixed), "{error:?}");
}

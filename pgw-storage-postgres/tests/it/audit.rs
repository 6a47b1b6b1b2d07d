//! The audit log against hands that write to its tables: every change of a row or a seal is found and named. And its purge, by the owner.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::access::{
    Actor, AuditAction, AuditChange, AuditField, AuditObject, AuditOutcome, AuditRow, AuditSeal,
    Pepper, RowDigest, SealHead, SealKey, SealedRow,
};
use pgw_core::changes::{Changes, Guard, Write};
use pgw_core::env::Env;
use pgw_core::gateway::{AuditFault, AuditReport, Gateway, SealFault};
use pgw_core::id::{AuditId, PaymentId};
use pgw_core::page::Cursor;
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::secret::Secret;
use pgw_core::storage::Storage as _;
use pgw_core::testing::random::Random;
use pgw_core::timestamp::Timestamp;
use pgw_core::worker::{Worker, WorkerHandle, WorkerSettings};
use pgw_storage_postgres::sqlx::{AssertSqlSafe, raw_sql};
use pgw_storage_postgres::{Overdue, PgStorage, Retention, RetentionError, Schema};

use crate::fixtures::{Leg, Under, connection, schema_of};
use crate::world::HEALTHY;

fn pepper() -> Pepper {
    Pepper::new(Secret::new("p".repeat(32))).expect("it is long enough")
}

fn gateway(pg: &PgStorage) -> Gateway {
    Gateway::builder()
        .with_storage(Arc::new(pg.clone()))
        .with_queue(Arc::new(pg.queue()))
        .with_notifier(Arc::new(pg.notifier()))
        .with_key_pepper(pepper())
        .build()
        .expect("it has all its parts")
}

fn work(gateway: &Gateway) -> WorkerHandle {
    let settings = WorkerSettings { reap: Duration::from_millis(5), ..WorkerSettings::default() };
    Worker::new(gateway).with_settings(settings).start()
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 60 * 60)
}

/// A row of this time, with something in every column.
fn row(env: &Env, n: usize, at: Timestamp) -> AuditRow {
    let changes = [AuditChange::new(AuditField::Status, Some("authorized"), Some("succeeded"))];
    AuditRow {
        id: AuditId::mint(env),
        scope: Scope::default(),
        at,
        actor: if n.is_multiple_of(2) { Actor::Worker } else { Actor::Other("ada".into()) },
        action: AuditAction::PaymentCapture,
        outcome: AuditOutcome::Success,
        origin: (!n.is_multiple_of(3)).then(|| [192, 0, 2, 7].into()),
        object: AuditObject::Payment(PaymentId::mint(env)),
        request_id: (!n.is_multiple_of(5)).then(|| format!("req-{n}").into()),
        changes: if n.is_multiple_of(7) { Box::default() } else { changes.into() },
    }
}

/// So many rows, ten milliseconds apart from this time on.
fn rows(count: usize, from: Timestamp) -> Vec<AuditRow> {
    let env = Env::system();
    let at = |n: usize| from.plus(Duration::from_millis(10 * n as u64));
    (0..count).map(|n| row(&env, n, at(n))).collect()
}

async fn append(storage: &dyn pgw_core::storage::Storage, rows: &[AuditRow]) {
    for rows in rows.chunks(Changes::PARTS_MAX) {
        let mut changes = Changes::new(Scope::default());
        changes.writes = rows.iter().map(|row| Write::Audit(Box::new(row.clone()))).collect();
        storage.commit(changes).await.expect(HEALTHY);
    }
}

async fn verify(gateway: &Gateway, kept: Option<SealHead>) -> AuditReport {
    gateway.verify_audit(&MerchantId::default(), kept, |_| {}).await.expect(HEALTHY)
}

/// Waits until a worker has sealed the newest row.
async fn sealed(pg: &PgStorage) {
    loop {
        let tails = pg.audit_tails(None, 10).await.expect(HEALTHY);
        let is_sealed = |tail: &pgw_core::access::AuditTail| {
            tail.head.is_some_and(|head| head.through >= tail.newest)
        };
        if tails.iter().all(is_sealed) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// One thing that a hand does to the tables, and what must be found.
struct Tamper {
    sql: String,
    expected: Expected,
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Changed(AuditId),
    Missing(AuditId),
    Inserted,
    Seal(u64),
}

fn found(fault: AuditFault) -> Expected {
    match fault {
        AuditFault::RowChanged { id, .. } => Expected::Changed(id),
        AuditFault::RowMissing { id, .. } => Expected::Missing(id),
        AuditFault::RowInserted { .. } => Expected::Inserted,
        AuditFault::Seal { number, .. } => Expected::Seal(number),
        other => panic!("{other} was found"),
    }
}

/// A change of a column, with a value that no row has.
const COLUMNS: [(&str, &str); 18] = [
    ("live", "not live"),
    ("actor_kind", "'processor', actor = null"),
    ("actor_kind", "'host', actor = null"),
    ("actor", "coalesce(actor, '') || 'x'"),
    ("action", "'payment.cancel'"),
    ("action", "'payment.steal'"),
    ("success", "not success"),
    ("origin", "'198.51.100.1'"),
    ("origin", "case when origin is null then '2001:db8::1' end"),
    ("object", "'pay_00000000000000000000000000'"),
    ("object", "'nothing'"),
    ("request_id", "'forged'"),
    ("request_id", "case when request_id is null then '' end"),
    ("changes", "case when changes is null then '[]' end"),
    ("changes", "'[[\"status\",\"authorized\",\"failed\"]]'"),
    ("changes", "coalesce(changes, '') || ' '"),
    ("changes", "'nonsense'"),
    ("action", "action || ' '"),
];

/// A change of a seal's column.
const SEALS: [&str; 7] = [
    "previous = mac",
    "mac = sha256(mac)",
    "through_at = through_at + interval '1 microsecond'",
    "through_id = gen_random_uuid()",
    "sealed_at = sealed_at - interval '400 days'",
    "rows = overlay(rows placing '\\x00'::bytea from 30)",
    "rows = substring(rows from 57)",
];

impl Tamper {
    fn draw(dice: &Random, n: usize, schema: &str, rows: &[AuditRow], seals: &[AuditSeal]) -> Self {
        let one = dice.pick(rows).expect("there are some");
        let is = |row: &AuditRow| format!("id = '{}'", row.id.as_uuid());
        let update = |set: &str| format!("update {schema}.audit set {set} where {}", is(one));
        let seal = 1 + dice.below(seals.len() as u64);
        let of_seal = |set: &str| {
            let sql = format!("update {schema}.audit_seals set {set} where number = {seal}");
            Self { sql, expected: Expected::Seal(seal) }
        };
        let (changed, missing) = (Expected::Changed(one.id), Expected::Missing(one.id));
        match n % 40 {
            n if n < COLUMNS.len() => {
                let (column, value) = COLUMNS[n];
                Self { sql: update(&format!("{column} = {value}")), expected: changed }
            }
            18 => Self { sql: update("at = at + interval '1 microsecond'"), expected: missing },
            19 => Self { sql: update("at = 'infinity'"), expected: missing },
            20 => Self { sql: update("id = gen_random_uuid()"), expected: missing },
            21 => Self { sql: update("merchant = 'another'"), expected: missing },
            22..=25 => {
                let sql = format!("delete from {schema}.audit where {}", is(one));
                Self { sql, expected: missing }
            }
            26..=28 => {
                let sql = format!(
                    "insert into {schema}.audit select (jsonb_populate_record(a, \
                     jsonb_build_object('id', gen_random_uuid()))).* from {schema}.audit a where {}",
                    is(one)
                );
                Self { sql, expected: Expected::Inserted }
            }
            29..=31 => Self::swap(dice, schema, rows),
            32 => {
                let sql = format!("delete from {schema}.audit_seals where number = {seal}");
                Self { sql, expected: Expected::Seal(seal) }
            }
            n => of_seal(SEALS[(n - 33) % SEALS.len()]),
        }
    }

    /// Two rows in each other's place.
    fn swap(dice: &Random, schema: &str, rows: &[AuditRow]) -> Self {
        let first = usize::try_from(dice.below(rows.len() as u64 - 1)).expect("small");
        let (one, other) = (&rows[first], &rows[rows.len() - 1]);
        let (a, b) = (one.id.as_uuid(), other.id.as_uuid());
        let sql = format!(
            "update {schema}.audit set id = case id when '{a}' then '{b}'::uuid else '{a}' end where id in ('{a}', '{b}')"
        );
        Self { sql, expected: Expected::Missing(one.id) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tampers_of_ten_thousand_rows_are_found_and_named() {
    let pg = Under::test(Leg::Pool).await.storage;
    let (schema, gateway) = (schema_of(&pg), gateway(&pg));
    let rows = rows(10_000, Env::system().now().minus(days(3)));
    append(&pg, &rows).await;
    let worker = work(&gateway);
    sealed(&pg).await;
    worker.shutdown().await;
    let untouched = verify(&gateway, None).await;
    assert_eq!((untouched.fault, untouched.sealed, untouched.unsealed), (None, 10_000, 0));
    let seals = pg.audit_seals(&MerchantId::default(), 0, 100).await.expect(HEALTHY);
    let dice = Random::new(100);
    let mut missed = Vec::new();
    for n in 0..100 {
        let tamper = Tamper::draw(&dice, n, &schema, &rows, &seals);
        // In a transaction that is rolled back, so that the next one meets an honest log.
        let mut transaction = pg.pool().begin().await.expect(HEALTHY);
        let done = raw_sql(AssertSqlSafe(tamper.sql.clone())).execute(&mut *transaction).await;
        assert!(done.expect("the owner may").rows_affected() > 0, "{}", tamper.sql);
        let storage = pg.enlist(&mut transaction);
        let bound = gateway.on(&storage);
        let report = bound.verify_audit(untouched.head, |_| {}).await.expect(HEALTHY);
        match report.fault.map(found) {
            Some(fault) if fault == tamper.expected => {}
            other => {
                missed.push(format!("{n}: {}: {other:?}, not {:?}", tamper.sql, tamper.expected))
            }
        }
        drop(storage);
        transaction.rollback().await.expect(HEALTHY);
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert_eq!(verify(&gateway, untouched.head).await, untouched);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_a_long_transaction_is_sealed_when_it_is_there() {
    let pg = Under::test(Leg::Pool).await.storage;
    let gateway = gateway(&pg);
    let hour = Env::system().now().minus(Duration::from_secs(3_600));
    let (mine, others) = (rows(1, hour), rows(100, hour));
    let mut transaction = pg.pool().begin().await.expect(HEALTHY);
    let storage = pg.enlist(&mut transaction);
    append(&storage, &mine).await;
    drop(storage);
    let worker = work(&gateway);
    append(&pg, &others).await;
    sealed(&pg).await;
    transaction.commit().await.expect(HEALTHY);
    // Late at first, then found by the patrol.
    loop {
        let report = verify(&gateway, None).await;
        assert_eq!(report.fault, None);
        if report.late == 0 && report.sealed == 101 {
            break;
        }
        tokio::task::yield_now().await;
    }
    worker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sealers_at_once_seal_each_row_once() {
    let pg = Under::test(Leg::Pool).await.storage;
    let gateways: Vec<Gateway> = (0..3).map(|_| gateway(&pg)).collect();
    let workers: Vec<WorkerHandle> = gateways.iter().map(work).collect();
    let hour = Env::system().now().minus(Duration::from_secs(3_600));
    let rows = rows(3_000, hour);
    for (n, some) in rows.chunks(100).enumerate() {
        append(&pg, some).await;
        if n == 15 {
            // One more, which is dropped in the middle of whatever it does.
            drop(work(&gateways[0]));
        }
    }
    loop {
        let report = verify(&gateways[0], None).await;
        assert_eq!(report.fault, None);
        if report.sealed == 3_000 {
            break;
        }
        tokio::task::yield_now().await;
    }
    for worker in workers {
        worker.shutdown().await;
    }
    let seals = pg.audit_seals(&MerchantId::default(), 0, 1_000).await.expect(HEALTHY);
    assert_eq!(seals.iter().map(|seal| seal.rows.len()).sum::<usize>(), 3_000);
}

/// Seals rows, so many in a seal, as of this time.
async fn seal(pg: &PgStorage, rows: &[AuditRow], in_each: usize, sealed_at: Timestamp) {
    let (key, merchant) = (SealKey::of(&pepper()), MerchantId::default());
    let tails = pg.audit_tails(None, 10).await.expect(HEALTHY);
    let mut head = tails.first().and_then(|tail| tail.head);
    for rows in rows.chunks(in_each) {
        let sealed: Vec<SealedRow> = rows
            .iter()
            .map(|row| SealedRow { at: row.at, id: row.id, digest: RowDigest::of(row) })
            .collect();
        let last = rows.last().expect("a chunk has a row");
        let through = Cursor::new(last.at, last.id.as_uuid());
        let seal =
            AuditSeal::new(&key, merchant.clone(), head.as_ref(), through, sealed_at, sealed);
        head = Some(seal.head());
        let changes = Changes::new(Scope::default())
            .guard(Guard::Seals { last: seal.number - 1 })
            .write(Write::Seal(Box::new(seal)));
        pg.commit(changes).await.expect(HEALTHY);
    }
}

/// Purges what is old to its end, on a thread and a runtime of its own.
fn purge_beside(schema: &Schema, before: Timestamp) {
    let retention = Retention::new(schema.clone());
    let purging = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut owner = connection().await;
            while retention.purge_audit(&mut owner, before).await.expect(HEALTHY).is_some() {}
        });
    });
    purging.join().expect("it does not panic");
}

#[tokio::test]
async fn a_purge_meanwhile_is_no_false_alarm() {
    let pg = Under::test(Leg::Pool).await.storage;
    let (gateway, now) = (gateway(&pg), Env::system().now());
    let (old, young) = (rows(410, now.minus(days(400))), rows(50, now.minus(days(100))));
    for (rows, sealed_at) in [(&old, now.minus(days(400))), (&young, now.minus(days(100)))] {
        append(&pg, rows).await;
        seal(&pg, rows, 10, sealed_at).await;
    }
    let schema: Schema = schema_of(&pg).parse().expect("a valid name");
    let mut steps = 0;
    // After the first step the log begins with a seal that is far behind those just read.
    let progress = |_: &pgw_core::gateway::AuditReport| {
        steps += 1;
        if steps == 1 {
            purge_beside(&schema, now.minus(days(366)));
        }
    };
    let report = gateway.verify_audit(&MerchantId::default(), None, progress).await.expect(HEALTHY);
    assert_eq!((report.fault, report.anchor, report.sealed), (None, Some(41), 50));
}

#[tokio::test]
async fn what_was_kept_a_year_is_purged_and_the_rest_verifies() {
    let pg = Under::test(Leg::Pool).await.storage;
    let (gateway, now) = (gateway(&pg), Env::system().now());
    let (old, young) = (rows(410, now.minus(days(400))), rows(50, now.minus(days(100))));
    for (rows, sealed_at) in [(&old, now.minus(days(400))), (&young, now.minus(days(100)))] {
        append(&pg, rows).await;
        seal(&pg, rows, 10, sealed_at).await;
    }
    let before = verify(&gateway, None).await;
    assert_eq!((before.fault, before.sealed, before.anchor), (None, 460, None));
    let schema: Schema = schema_of(&pg).parse().expect("a valid name");
    let (retention, mut owner) = (Retention::new(schema.clone()), connection().await);
    let refused = retention.purge_audit(&mut owner, now.minus(days(364))).await;
    assert!(matches!(refused, Err(RetentionError::TooYoung)), "{refused:?}");

    let left = async |owner: &mut _| {
        let year = now.minus(days(366));
        retention.overdue(owner, now, year).await.expect(HEALTHY)
    };
    assert_eq!(left(&mut owner).await, Overdue { answers: 0, audit_rows: 410 });
    let (mut rows, mut anchors) = (0, Vec::new());
    while let Some(purged) = {
        let year = now.minus(days(366));
        retention.purge_audit(&mut owner, year).await.expect(HEALTHY)
    } {
        assert_eq!(purged.merchant, MerchantId::default());
        rows += purged.rows;
        anchors.push(purged.anchor);
        // After each batch, wherever a purge is cut off, the rest verifies from its anchor.
        let report = verify(&gateway, before.head).await;
        assert_eq!((report.fault, report.anchor), (None, Some(purged.anchor)));
        assert_eq!(report.sealed, 460 - rows);
        assert_eq!(left(&mut owner).await.audit_rows, 410 - rows);
    }
    assert_eq!((rows, anchors.last()), (410, Some(&41)));

    // The anchor is all that is accepted there: a chain whose start is cut off is none.
    let cut = |sql: &str| sql.replace("{schema}", schema.as_str());
    for (sql, expected) in [
        ("delete from {schema}.audit_seals where number <= 42", SealFault::Missing),
        (
            "update {schema}.audit_seals set sealed_at = sealed_at - interval '1 day' where number = 41",
            SealFault::Forged,
        ),
        ("delete from {schema}.audit_seals where number = 43", SealFault::Missing),
    ] {
        let mut transaction = pg.pool().begin().await.expect(HEALTHY);
        raw_sql(AssertSqlSafe(cut(sql))).execute(&mut *transaction).await.expect("it may");
        let storage = pg.enlist(&mut transaction);
        let report = gateway.on(&storage).verify_audit(before.head, |_| {}).await.expect(HEALTHY);
        let because = match report.fault {
            Some(AuditFault::Seal { because, .. }) => Some(because),
            _ => None,
        };
        assert_eq!(because, Some(expected), "{sql}");
        drop(storage);
        transaction.rollback().await.expect(HEALTHY);
    }
}

//! The two roles, what the application's can and cannot do, and the constraints that nobody gets past.

use std::time::Duration;

use pgw_core::access::{AuditObject, AuditSeal, LoggedRow, Pepper, SealKey};
use pgw_core::changes::{Changes, Committed, Guard, Write};
use pgw_core::crypto::KeyName;
use pgw_core::event::EventType;
use pgw_core::page::{Cursor, PageRequest};
use pgw_core::payment::{OperationKind, OperationState};
use pgw_core::privacy::ConsentHolder;
use pgw_core::queue::{Job, Lane, Queue as _, Settlement, Verdict};
use pgw_core::scope::Mode;
use pgw_core::storage::{AuditFilter, DeliveryFilter, PaymentFilter, Storage as _};
use pgw_core::testing::sample::{Samples, scope};
use pgw_core::text::CustomerId;
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::delivery::{DeliveryState, DeliveryStatus};
use pgw_storage_postgres::sqlx::postgres::PgConnectOptions;
use pgw_storage_postgres::sqlx::{AssertSqlSafe, ConnectOptions as _, raw_sql};
use pgw_storage_postgres::{Engine, Migrator, Partitions, PgStorage, PgStorageBuilder, Schema};
use tokio::sync::Mutex;

use super::partitions::partitions;
use super::{name, new_schema, options, refusal, relations, run};
use crate::fixtures::connection;

/// An owner that migrated a schema of its own, and an application's role with what is granted to it.
struct Roles {
    schema: Schema,
    owner: PgConnectOptions,
    app: PgConnectOptions,
}

impl Roles {
    async fn new() -> Self {
        Self::of(None).await
    }

    /// On partitioned tables, which the owner makes before it grants anything.
    async fn partitioned() -> Self {
        Self::of(Some(partitions())).await
    }

    async fn of(partitions: Option<Partitions>) -> Self {
        let (owner, app, schema) = (name("the owner"), name("the \"app\""), new_schema());
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let mut server = connection().await;
        run(
            &mut server,
            format!("create role {} login; create role {} login", quoted(&owner), quoted(&app)),
        )
        .await;
        {
            // Two that change the row of the database at the same moment are an error, not a wait.
            static ALONE: Mutex<()> = Mutex::const_new(());
            let _alone = ALONE.lock().await;
            run(&mut server, format!("grant create on database postgres to {}", quoted(&owner)))
                .await;
        }
        let (as_owner, as_app) = (options().username(&owner), options().username(&app));
        let mut connection = as_owner.clone().connect().await.expect("trusted");
        let migrator = Migrator::new(schema.clone());
        migrator.run(&mut connection).await.expect("the owner may create schemas");
        if let Some(partitions) = partitions {
            run(&mut connection, migrator.partition(partitions)).await;
        }
        run(&mut server, migrator.grants(&owner, &app)).await;
        // Granting again is harmless, and the owner may do it.
        run(&mut connection, migrator.grants(&owner, &app)).await;
        Self { schema, owner: as_owner, app: as_app }
    }

    fn builder(&self) -> PgStorageBuilder {
        PgStorage::builder().with_schema(self.schema.clone()).with_connections_max(2)
    }
}

#[tokio::test]
async fn the_applications_role_can_do_all_that_the_application_does() {
    let roles = Roles::new().await;
    for (n, engine) in [(1, Engine::Single), (2, Engine::Distributed)] {
        let builder = roles.builder().with_engine(engine);
        let storage = builder.connect_with(roles.app.clone()).await.expect("migrated");
        do_everything(&storage, &Samples::new(n).of(scope(&format!("shop-{n}"), Mode::Live))).await;
    }
    // The owner sees and changes what the application wrote: retention is its business.
    let mut owner = roles.owner.clone().connect().await.expect("trusted");
    let sql = format!("delete from {}.audit", roles.schema);
    assert_eq!(refusal(&mut owner, &sql).await, "");
}

#[tokio::test]
async fn partitioned_tables_are_the_owners_and_the_applications_as_others_are() {
    let roles = Roles::partitioned().await;
    let storage = roles.builder().connect_with(roles.app.clone()).await.expect("migrated");
    do_everything(&storage, &Samples::new(3).of(scope("shop-3", Mode::Live))).await;
    // As a later migration does.
    let mut owner = roles.owner.clone().connect().await.expect("trusted");
    for table in ["payments", "audit"] {
        let sql = format!("alter table {}.{table} add column later text", roles.schema);
        assert_eq!(refusal(&mut owner, &sql).await, "");
    }
    let mut app = roles.app.clone().connect().await.expect("trusted");
    let sql = format!("delete from {}.audit", roles.schema);
    assert_eq!(refusal(&mut app, &sql).await, "42501");
}

/// Every kind of statement that the application has.
pub(crate) async fn do_everything(storage: &PgStorage, samples: &Samples) {
    live_a_payment(storage, samples).await;
    deliver(storage, samples).await;
    agree_and_wait(storage, samples).await;
    read_everything(storage, samples).await;
}

async fn apply(storage: &PgStorage, changes: Changes) {
    let committed = storage.commit(changes).await.expect("the role may do it");
    assert!(matches!(committed, Committed::Applied { .. }), "{committed:?}");
}

/// Created under a key, claimed, settled, refunded, in conflict, answered, stamped, audited.
async fn live_a_payment(storage: &PgStorage, samples: &Samples) {
    let scope = samples.scope();
    let endpoint = samples.endpoint();
    let creates = Changes::new(scope.clone())
        .guard(Guard::Endpoint { id: endpoint.id, version: 0 })
        .write(Write::Endpoint(Box::new(endpoint)));
    apply(storage, creates).await;
    let mut creation = samples.creation();
    let claim = samples.claim(creation.target());
    let key = claim.key.clone();
    let audit = samples.audit_row(AuditObject::Payment(creation.payment.id));
    let sealed =
        LoggedRow { place: Cursor::new(audit.at, audit.id.as_uuid()), row: Some(audit.clone()) };
    apply(storage, creation.keyed(claim).write(Write::Audit(Box::new(audit)))).await;
    let tails = storage.audit_tails(None, 100).await.expect("a read");
    let tail = tails.iter().find(|tail| tail.merchant == scope.merchant).expect("it has a row");
    let seal_key = SealKey::of(&Pepper::mint(samples.env()));
    let rows = sealed.sealed().into_iter().collect();
    let merchant = scope.merchant.clone();
    let seal =
        AuditSeal::new(&seal_key, merchant, tail.head.as_ref(), sealed.place, samples.now(), rows);
    let seals = Changes::new(scope.clone())
        .guard(Guard::Seals { last: seal.number - 1 })
        .write(Write::Seal(Box::new(seal)));
    apply(storage, seals).await;

    let queue = storage.queue();
    let claims = queue.claim(Lane::Operations, 5, Duration::from_secs(60)).await.expect("claims");
    assert!(claims.iter().any(|claim| claim.job == creation.job()));
    assert!(storage.due(&creation.job()).await.expect("a read").is_some());
    let settlement = |claim| Settlement { claim, verdict: Verdict::Done };
    let settled: Vec<_> = claims.iter().cloned().map(settlement).collect();
    assert!(
        queue.extend(&claims, Duration::from_secs(90)).await.expect("extends").iter().all(|it| *it)
    );
    assert!(queue.settle(&settled).await.expect("settles").iter().all(|held| *held));
    assert_eq!(queue.depth(Lane::Operations).await.expect("a read").ready, 0);

    let (payment, event) = samples.moved(&creation.payment, EventType::RefundCreated);
    let mut charge = creation.charge.clone();
    charge.state = OperationState::Failed;
    let refund = samples.operation(&payment, OperationKind::Refund);
    let conflict = samples.conflict(&charge);
    let (of, id, at) = (payment.id, conflict.id, samples.now());
    let changes = Changes::new(scope.clone())
        .guard(Guard::Payment { id: payment.id, version: creation.payment.version })
        .write(Write::Payment(Box::new(payment)))
        .write(Write::Operation { operation: Box::new(charge), due_in: None })
        .write(Write::Operation { operation: Box::new(refund), due_in: Some(Duration::ZERO) })
        .write(Write::Event(Box::new(event)))
        .write(Write::Answer { key: key.clone(), answer: samples.answer() });
    apply(storage, changes).await;
    let changes = Changes::new(scope.clone()).write(Write::Conflict(Box::new(conflict)));
    apply(storage, changes).await;
    let close = Write::CloseConflict { payment: of, id, at };
    apply(storage, Changes::new(scope.clone()).write(close)).await;
    assert_eq!(storage.conflicts(scope, of).await.expect("a read").len(), 1);
    assert!(storage.key(scope, &key).await.expect("a read").is_some());
    assert_eq!(storage.payment_events(scope, of, 0, 10).await.expect("a read").len(), 2);
    assert!(storage.stamp_events(10).await.expect("a stamp") > 0);
    assert_eq!(storage.purge_answers(Timestamp::MAX, 10).await.expect("a purge"), 1);
}

async fn deliver(storage: &PgStorage, samples: &Samples) {
    let scope = samples.scope();
    let queue = storage.queue();
    let claims = queue.claim(Lane::Deliveries, 10, Duration::from_secs(60)).await.expect("claims");
    let page = storage.deliveries(scope, &DeliveryFilter::default(), PageRequest::first(10)).await;
    let mut delivery = page.expect("a read").data.remove(0);
    assert!(
        !claims.is_empty() && storage.delivery(scope, delivery.id).await.expect("a read").is_some()
    );
    let guard = Guard::Delivery { id: delivery.id, version: delivery.version };
    (delivery.state, delivery.version) = (DeliveryState::Delivered, delivery.version + 1);
    let (id, attempt) = (delivery.id, samples.attempt(delivery.id, 1));
    let changes = Changes::new(scope.clone())
        .guard(guard)
        .write(Write::Delivery { delivery: Box::new(delivery), due_in: None })
        .write(Write::Attempt(Box::new(attempt)));
    apply(storage, changes).await;
    assert_eq!(storage.attempts(scope, id, 10).await.expect("a read").len(), 1);

    let key = samples.api_key();
    let prefix = key.prefix;
    let consumer = || "books".into();
    let changes = Changes::new(scope.clone())
        .guard(Guard::ApiKey { id: key.id, version: 0 })
        .guard(Guard::Cursor {
            consumer: consumer(),
            position: storage.cursor(scope, "books").await.expect("a read"),
        })
        .write(Write::ApiKey(Box::new(key)))
        .write(Write::Cursor {
            consumer: consumer(),
            position: 1_000 + samples.env().u64() % 1_000,
        });
    apply(storage, changes).await;
    let key = storage.api_key(prefix).await.expect("a read").expect("it was written");
    let keys = storage.api_keys(scope, PageRequest::first(10)).await.expect("a read");
    assert!(keys.data.contains(&key));
    let used_at = samples.now();
    storage.touch_api_key(scope, key.id, used_at).await.expect("a write");
    let touched = storage.api_key_by_id(scope, key.id).await.expect("a read");
    assert_eq!(touched.expect("it is there").last_used_at, Some(used_at));
    let mut shield = storage.shield(None).await.expect("a read").expect("there is always one");
    let guard = Guard::Shield { version: shield.version };
    shield.version += 1;
    let write = Write::Shield(Box::new(shield));
    apply(storage, Changes::new(scope.clone()).guard(guard).write(write)).await;
    erase(storage, samples).await;
}

/// Erases a customer twice, and rewrites its payments.
async fn erase(storage: &PgStorage, samples: &Samples) {
    let name = format!("gone_{:x}", samples.env().u64());
    let customer = CustomerId::parse(&name).expect("a valid id");
    for erasures in 0..2 {
        let mut creation = samples.creation();
        creation.payment.customer.id = Some(customer.clone());
        apply(storage, creation.changes()).await;
        let erasure = samples.erasure(&customer, erasures + 1);
        let (id, guard) = (erasure.id, Guard::Customer { customer: erasure.customer, erasures });
        let changes = Changes::new(samples.scope().clone())
            .guard(guard)
            .write(Write::Erase { erasure: Box::new(erasure), customer: customer.clone() });
        apply(storage, changes).await;
        assert_eq!(storage.redact_payments(samples.now(), 9).await.expect("a sweep"), 1);
        let found = storage.erasure(samples.scope(), id).await.expect("a read");
        assert!(found.and_then(|it| it.done_at).is_some());
    }
}

/// A consent, a pause, and a delivery whose turn has come.
async fn agree_and_wait(storage: &PgStorage, samples: &Samples) {
    let (scope, page) = (samples.scope(), PageRequest::first(10));
    let customer = CustomerId::parse("somebody").expect("a valid id");
    let consent = samples.consent(&customer);
    let changes = Changes::new(scope.clone())
        .guard(Guard::Consent { id: consent.id, version: 0 })
        .write(Write::Consent(Box::new(consent)));
    apply(storage, changes).await;
    let holder = ConsentHolder::Customer(Samples::digest(&customer));
    assert_eq!(storage.consents(scope, holder, 10).await.expect("a read").len(), 1);
    assert!(!storage.customers(scope, None, 10).await.expect("a read").is_empty());
    assert!(!storage.erasures(scope, None, page).await.expect("a read").data.is_empty());

    let pending = DeliveryFilter { status: Some(DeliveryStatus::Pending), ..Default::default() };
    let found = storage.deliveries(scope, &pending, page).await.expect("a read");
    let delivery = found.data.first().expect("one waits");
    let (endpoint, payment) = (delivery.id.endpoint(), delivery.payment.expect("it has one"));
    let changes = Changes::new(scope.clone())
        .write(Write::Wake { endpoint, payment })
        .write(Write::Pause { endpoint, lasts: Duration::ZERO });
    apply(storage, changes).await;
    let job = Job::Delivery { scope: scope.clone(), delivery: delivery.id };
    assert!(
        storage.due_all(&[job.clone(), job]).await.expect("a read").iter().all(Option::is_some)
    );
    assert!(!storage.due_jobs(Lane::Deliveries, 10).await.expect("a read").is_empty());
    let claims = storage.queue().claim(Lane::Deliveries, 1, Duration::from_secs(60)).await;
    assert_eq!(claims.expect("claims").len(), 1);
    assert!(storage.queue().depth(Lane::Deliveries).await.expect("a read").in_flight > 0);
}

async fn read_everything(storage: &PgStorage, samples: &Samples) {
    let (scope, page) = (samples.scope(), PageRequest::first(10));
    let payments = storage.payments(scope, &PaymentFilter::default(), page).await.expect("a read");
    let id = payments.data[0].id;
    let state = storage.payment(scope, id).await.expect("a read").expect("it is listed");
    let of = storage.payment_of(scope, state.operations[0].id).await.expect("a read");
    assert_eq!(of, Some(state));
    assert!(!storage.refunds(scope, None, page).await.expect("a read").data.is_empty());
    let endpoints = storage.endpoints(scope, page).await.expect("a read").data;
    let other = "other".parse::<KeyName>().expect("a valid name");
    let sealed = storage.endpoints_sealed_otherwise(&other, None, 10).await.expect("a read");
    assert!(!sealed.is_empty());
    assert!(storage.endpoint(scope, endpoints[0].id).await.expect("a read").is_some());
    assert!(!storage.feed(scope, 0, 10).await.expect("a read").is_empty());
    assert!(!storage.due_jobs(Lane::Operations, 10).await.expect("a read").is_empty());
    assert!(!storage.expired_payments(Timestamp::MAX, 10).await.expect("a read").is_empty());
    let (merchant, filter) = (&scope.merchant, AuditFilter::default());
    assert!(!storage.audit(merchant, &filter, page).await.expect("a read").data.is_empty());
    let end = Cursor::new(Timestamp::MAX, samples.env().uuid());
    assert!(!storage.audit_rows(merchant, None, end, 10).await.expect("a read").is_empty());
    assert!(!storage.audit_seals(merchant, 0, 10).await.expect("a read").is_empty());
    let buried = storage.queue().buried(Lane::Operations, 10).await.expect("a read");
    assert!(buried.is_empty());
}

#[tokio::test]
async fn the_applications_role_can_do_no_more_than_that() {
    const REFUSED: &str = "42501";
    let roles = Roles::new().await;
    let mut app = roles.app.clone().connect().await.expect("trusted");
    let tables = relations(&mut app, &roles.schema).await;
    assert!(tables.len() > 10 && tables.iter().any(|table| table == "audit"));
    let mut statements = Vec::new();
    for table in &tables {
        let of_each =
            ["delete from {t}", "truncate {t}", "drop table {t}", "alter table {t} add x int"];
        let more = [
            "create index on {t} (ctid)",
            "alter table {t} disable trigger all",
            "create rule r as on insert to {t} do instead nothing",
        ];
        let all = of_each.iter().chain(&more);
        statements.extend(all.map(|sql| sql.replace("{t}", &format!("{{schema}}.{table}"))));
    }
    statements.extend([
        "update {schema}.audit set success = true".to_owned(),
        "update {schema}.audit set action = 'x' where merchant = 'acme'".to_owned(),
        "insert into {schema}.audit select * from {schema}.audit on conflict (merchant, at, id) do update set success = true".to_owned(),
        "update {schema}.audit_seals set mac = previous".to_owned(),
        "insert into {schema}.audit_seals select * from {schema}.audit_seals on conflict (merchant, number) do update set rows = ''".to_owned(),
        "update {schema}.erasures set requested_at = now()".to_owned(),
        "update {schema}.erasures set customer = ''".to_owned(),
        "update {schema}.migrations set checksum = 'x'".to_owned(),
        "insert into {schema}.migrations (version, name, checksum) values (2, 'x', 'x')".to_owned(),
        "insert into {schema}.leases (name) values ('x')".to_owned(),
        "create table {schema}.x (n int)".to_owned(),
        "create view {schema}.x as select 1".to_owned(),
        "create function {schema}.x() returns int language sql as 'select 1'".to_owned(),
        "create sequence {schema}.x".to_owned(),
        "alter schema {schema} rename to x".to_owned(),
        "drop schema {schema} cascade".to_owned(),
        "create schema {schema}_x".to_owned(),
    ]);
    let mut allowed = Vec::new();
    for sql in &statements {
        let sql = sql.replace("{schema}", roles.schema.as_str());
        let code = refusal(&mut app, &sql).await;
        if code != REFUSED {
            allowed.push(format!("{sql}: {code:?}"));
        }
    }
    assert!(allowed.is_empty(), "{}", allowed.join("\n"));
}

/// What no statement may do to a row, whoever runs it.
const IMPOSSIBLE: &[(&str, &[&str])] = &[
    (
        "payments",
        &[
            "captured_minor = authorized_minor + 1",
            "captured_minor = 60, capture_reserved_minor = 41, authorized_minor = 100",
            "authorized_minor = 100, captured_minor = 50, capture_reserved_minor = 0, refunded_minor = 51",
            "authorized_minor = 100, captured_minor = 50, capture_reserved_minor = 0, refunded_minor = 30, refund_reserved_minor = 21",
            "amount_minor = -1",
            "amount_minor = 1000000000000000",
            "authorized_minor = -1",
            "captured_minor = -1",
            "capture_reserved_minor = -1",
            "refunded_minor = -1",
            "refund_reserved_minor = -1",
            "unknown_operations = -1",
            "open_conflicts = -1",
            "version = 0",
            "sequence = -1",
            "status = 'paid'",
            "status = ''",
            "currency = 'US'",
            "capture = 'later'",
        ],
    ),
    (
        "operations",
        &[
            "kind = 'gift'",
            "state = 'lost'",
            "cause = 'whim'",
            "amount_minor = -1",
            "attempts = -1",
            "probes = -1",
            "currency = 'EURO'",
        ],
    ),
    ("events", &["sequence = 0", "feed_position = 0"]),
    ("feeds", &["position = -1"]),
    ("cursors", &["position = -1"]),
    (
        "idempotency_keys",
        &[
            "key = ''",
            "key = repeat('x', 256)",
            "fingerprint = '\\x00'",
            "answer_status = 200, answer_body = null",
            "answer_status = null, answer_body = 'x'",
            "answer_status = 200, answer_body = 'x', answer_event = payment, answer_length = 1",
            "answer_status = 200, answer_body = null, answer_event = payment, answer_length = null",
            "answer_status = 200, answer_body = null, answer_event = payment, answer_length = -1",
        ],
    ),
    (
        "endpoints",
        &[
            "status = 'asleep'",
            "profiles = '{}'",
            "version = 0",
            "previous_secret = 'x'",
            "previous_until = created_at",
        ],
    ),
    (
        "deliveries",
        &[
            "state = 'lost'",
            "state = 'failed', failed_because = null",
            "state = 'delivered', failed_because = 'gone'",
            "attempts = -1",
            "attempts_total = -1",
            "version = 0",
        ],
    ),
    (
        "attempts",
        &[
            "number = 0",
            "latency_ms = -1",
            "status = 200, error = 'dns'",
            "status = null, body_start = null, error = null",
            "status = 200, body_start = null, error = null",
        ],
    ),
    ("api_keys", &["digest = '\\x00'", "version = 0"]),
    ("audit", &["actor_kind = 'nobody'"]),
    (
        "audit_seals",
        &[
            "number = 0",
            "previous = ''",
            "mac = '\\x00'",
            "rows = '\\x00'",
            "rows = decode(repeat('00', 56056), 'hex')",
        ],
    ),
];

#[tokio::test]
async fn no_statement_gets_past_the_constraints() {
    const VIOLATED: &str = "23514";
    let roles = Roles::new().await;
    let storage = roles.builder().connect_with(roles.app.clone()).await.expect("migrated");
    let samples = Samples::new(3);
    live_a_payment(&storage, &samples).await;
    deliver(&storage, &samples).await;
    let mut superuser = connection().await;
    let (mut wrong, schema) = (Vec::new(), &roles.schema);
    for (table, changes) in IMPOSSIBLE {
        // There is a row of each that can be spoilt, and it is one that may be written as it is.
        let sql = format!("update {schema}.{table} set merchant = merchant");
        let done = raw_sql(AssertSqlSafe(sql)).execute(&mut superuser).await.expect("valid");
        assert!(done.rows_affected() > 0, "{table} has no row");
        for change in *changes {
            let code =
                refusal(&mut superuser, &format!("update {schema}.{table} set {change}")).await;
            if code != VIOLATED {
                wrong.push(format!("{table}: {change}: {code:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

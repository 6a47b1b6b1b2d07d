//! Payments on a private server, from their creation until all that they caused is at rest, and what they were to PostgreSQL.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pgw_core::access::Caller;
use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::gateway::Gateway;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::metadata::Metadata;
use pgw_core::money::Money;
use pgw_core::payment::Customer;
use pgw_core::payment::plan::NewPayment;
use pgw_core::scope::{Mode, Scope};
use pgw_core::testing::keys::key_ring;
use pgw_core::testing::sample::metadata;
use pgw_core::text::{CustomerId, CustomerName, Description, PaymentMethod};
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{
    EndpointUrl, TransportError, WebhookRequest, WebhookResponse, WebhookTransport,
};
use pgw_core::worker::{Worker, WorkerSettings};
use pgw_storage_postgres::sqlx::postgres::PgRow;
use pgw_storage_postgres::sqlx::{
    self, Connection as _, PgConnection, Row as _, query_scalar, raw_sql,
};
use pgw_storage_postgres::{Engine, Migrator, Partitions, PgStorage, Schema};
use serde_json::{Value, json};
use servers::Postgres;

use crate::server;

/// What a run is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Endpoints of each merchant; each hears everything.
    pub endpoints: u32,
    /// Partitions of the large tables.
    pub partitions: Option<Partitions>,
    /// As which kind of engine the server is spoken to.
    pub engine: Engine,
}

/// Runs so many payments for each of these, each on a server of its own; what they were, as `measured` reads it.
///
/// # Errors
/// When the server does not start, lacks `pg_stat_statements`, or a payment is refused.
pub async fn measure(payments: u64, runs: &[Run]) -> Result<Value, Box<dyn Error>> {
    let (mut version, mut measured) = (String::new(), Vec::new());
    for run in runs {
        let mut stage = Stage::set(*run).await?;
        version = query_scalar("show server_version").fetch_one(&mut stage.owner).await?;
        measured.push(stage.run(payments).await?);
        eprintln!(
            "{} endpoints, {} partitions, {:?}: done",
            run.endpoints,
            parts(*run),
            run.engine
        );
    }
    Ok(
        json!({ "postgres": version, "payments": payments, "merchants": MERCHANTS, "runs": measured }),
    )
}

fn parts(run: Run) -> u16 {
    run.partitions.map_or(1, Partitions::get)
}

/// In this order it is dropped: what is connected before the server.
struct Stage {
    run: Run,
    owner: PgConnection,
    gateway: Gateway,
    postgres: Postgres,
}

impl Stage {
    async fn set(run: Run) -> Result<Self, Box<dyn Error>> {
        let postgres = Postgres::builder()
            .durable()
            .with_setting("shared_preload_libraries", "pg_stat_statements")
            .with_setting("pg_stat_statements.track_planning", "on")
            .with_setting("shared_buffers", "512MB")
            .with_setting("max_wal_size", "8GB")
            .with_setting("checkpoint_timeout", "30min")
            .start()?;
        let url = postgres.url();
        let mut owner = PgConnection::connect(&url).await?;
        raw_sql("create extension pg_stat_statements").execute(&mut owner).await?;
        let migrator = Migrator::new(Schema::default());
        migrator.run(&mut owner).await?;
        if let Some(partitions) = run.partitions {
            server::psql(&postgres, &migrator.partition(partitions))?;
        }
        let pg = PgStorage::builder().with_engine(run.engine).connect(&url).await?;
        let gateway = Gateway::builder()
            .with_queue(Arc::new(pg.queue()))
            .with_notifier(Arc::new(pg.notifier()))
            .with_storage(Arc::new(pg))
            .with_transport(Arc::new(Taken), key_ring())
            .build()?;
        for merchant in 0..MERCHANTS {
            for endpoint in 0..run.endpoints {
                let url = EndpointUrl::parse(&format!("https://shop.example/hooks/{endpoint}"))?;
                let new = NewEndpoint::new(url);
                gateway.by(caller(merchant)?).create_endpoint(new).await?;
            }
        }
        Ok(Self { run, owner, gateway, postgres })
    }

    async fn run(&mut self, payments: u64) -> Result<Value, Box<dyn Error>> {
        // What is only ever done once, such as the first pages of a table, is done before.
        self.pay(0, WARM).await?;
        raw_sql("vacuum analyze").execute(&mut self.owner).await?;
        let before = self.tables().await?;
        raw_sql("select pg_stat_statements_reset()").execute(&mut self.owner).await?;
        raw_sql("checkpoint").execute(&mut self.owner).await?;
        let (wal, commits, cpu) =
            (self.wal().await?, self.commits().await?, cpu_ms(&self.postgres)?);
        for slice in 0..SLICES {
            self.pay(WARM + slice * payments / SLICES, payments / SLICES).await?;
            // As autovacuum does by itself in the time that so many payments take to come: what is dead is used again.
            raw_sql("vacuum analyze").execute(&mut self.owner).await?;
        }
        let (cpu, commits, wal) = (
            cpu_ms(&self.postgres)? - cpu,
            self.commits().await? - commits,
            self.wal().await? - wal,
        );
        let each = |total: f64| (total / payments as f64 * 1_000.0).round() / 1_000.0;
        let statements = self.statements(each).await?;
        let mut tables = serde_json::Map::new();
        for (after, before) in self.tables().await?.iter().zip(&before) {
            if after.rows > before.rows {
                tables.insert(
                    after.name.clone(),
                    json!({
                        "rows": each(after.rows - before.rows),
                        "heap": each(after.heap - before.heap).round(),
                        "indexes": each(after.indexes - before.indexes).round(),
                    }),
                );
            }
        }
        Ok(json!({
            "endpoints": self.run.endpoints,
            "partitions": parts(self.run),
            "distributed": self.run.engine == Engine::Distributed,
            "wal_bytes": each(wal).round(),
            "commits": each(commits),
            "cpu_ms": each(cpu),
            "statements": statements,
            "tables": tables,
        }))
    }

    /// Creates payments by many callers, and waits until they, their events and their deliveries are at rest.
    async fn pay(&mut self, from: u64, count: u64) -> Result<(), Box<dyn Error>> {
        let settings = WorkerSettings {
            operations_max: 256,
            deliveries_max: 256,
            ..WorkerSettings::default()
        };
        let worker = Worker::new(&self.gateway).with_settings(settings).start();
        let next = Arc::new(AtomicU64::new(from));
        let mut callers = Vec::new();
        for _ in 0..CALLERS {
            let (gateway, next, order) = (self.gateway.clone(), Arc::clone(&next), order()?);
            callers.push(tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= from + count {
                        return;
                    }
                    let key =
                        IdempotencyKey::parse(&format!("order-{n:032}")).expect("a valid key");
                    let new = order.clone().with_idempotency_key(key);
                    let caller = caller(n % MERCHANTS).expect("a valid name");
                    gateway.by(caller).create_payment(new).await.expect("the server takes it");
                }
            }));
        }
        for caller in callers {
            caller.await?;
        }
        const REST: &str = "select (select count(*) from pgw.operations where due_at is not null)
            + (select count(*) from pgw.deliveries where state = 'pending')
            + (select count(*) from pgw.events where feed_position is null)";
        while query_scalar::<_, i64>(REST).fetch_one(&mut self.owner).await? > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        worker.shutdown().await;
        Ok(())
    }

    async fn wal(&mut self) -> Result<f64, Box<dyn Error>> {
        const WAL: &str = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8";
        Ok(query_scalar(WAL).fetch_one(&mut self.owner).await?)
    }

    async fn commits(&mut self) -> Result<f64, Box<dyn Error>> {
        const COMMITS: &str =
            "select xact_commit::float8 from pg_stat_database where datname = current_database()";
        // What connections counted goes out after a second of rest.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        Ok(query_scalar(COMMITS).fetch_one(&mut self.owner).await?)
    }

    /// Calls, bytes of the log and time of each kind of statement, a payment.
    async fn statements(&mut self, each: impl Fn(f64) -> f64) -> Result<Value, Box<dyn Error>> {
        const STATEMENTS: &str = "select query, calls::float8, wal_bytes::float8, total_exec_time + total_plan_time
            from pg_stat_statements join pg_database d on d.oid = dbid where d.datname = current_database()";
        let mut kinds: Vec<(&str, [f64; 3])> =
            KINDS.iter().map(|(kind, _)| (*kind, [0.0; 3])).collect();
        for row in sqlx::query(STATEMENTS).fetch_all(&mut self.owner).await? {
            let query: String = row.get(0);
            let kind = KINDS.iter().position(|(_, words)| {
                words.is_empty() || words.iter().any(|word| query.contains(word))
            });
            // The last kind is of everything.
            let sums = &mut kinds[kind.unwrap_or(KINDS.len() - 1)].1;
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum += row.get::<f64, _>(n + 1);
            }
        }
        let kinds = kinds.into_iter().map(|(kind, [calls, wal, ms])| {
            let value =
                json!({ "calls": each(calls), "wal_bytes": each(wal).round(), "ms": each(ms) });
            (kind.to_owned(), value)
        });
        Ok(Value::Object(kinds.collect()))
    }

    async fn tables(&mut self) -> Result<Vec<Table>, Box<dyn Error>> {
        // A partition counts for its table.
        const TABLES: &str = "select coalesce(p.relname, c.relname)::text, sum(pg_table_size(c.oid))::float8, sum(pg_indexes_size(c.oid))::float8,
            sum((xpath('/row/rows/text()', query_to_xml(format('select count(*) as rows from %s', c.oid::regclass), false, true, '')))[1]::text::float8)
            from pg_class c left join pg_inherits i on i.inhrelid = c.oid left join pg_class p on p.oid = i.inhparent
            where c.relnamespace = 'pgw'::regnamespace and c.relkind = 'r' group by 1 order by 1";
        let rows = sqlx::query(TABLES).fetch_all(&mut self.owner).await?;
        let table = |row: &PgRow| Table {
            name: row.get(0),
            heap: row.get(1),
            indexes: row.get(2),
            rows: row.get(3),
        };
        Ok(rows.iter().map(table).collect())
    }
}

struct Table {
    name: String,
    rows: f64,
    heap: f64,
    indexes: f64,
}

fn caller(merchant: u64) -> Result<Caller, Box<dyn Error>> {
    Ok(Caller::host(Scope::new(format!("merchant-{merchant}").parse()?, Mode::Test)))
}

/// An order as a shop has them: a name, a description, two metadata.
fn order() -> Result<NewPayment, Box<dyn Error>> {
    let customer = Customer {
        email: Email::parse("ada.lovelace@example.com")?,
        name: CustomerName::parse("Ada Lovelace")?,
        id: Some(CustomerId::parse("cus_4242424242")?),
    };
    let amount = Money::from_minor(4_999, Currency::USD)?;
    let metadata: Metadata = metadata(&[("order", "2026-0001-4242"), ("channel", "web")]);
    let description = Some(Description::parse("Order 2026-0001-4242, two items")?);
    let new = NewPayment::new(amount, customer, PaymentMethod::parse("tok_visa")?);
    Ok(NewPayment { metadata, description, ..new })
}

/// Processor time of the server's processes so far, in milliseconds (Linux).
fn cpu_ms(postgres: &Postgres) -> Result<f64, Box<dyn Error>> {
    let pid = std::fs::read_to_string(postgres.data_directory().join("postmaster.pid"))?;
    let server = pid.lines().next().ok_or("no postmaster")?.trim().to_owned();
    let mut ticks = 0.0;
    for entry in std::fs::read_dir("/proc")? {
        let Ok(stat) = std::fs::read_to_string(entry?.path().join("stat")) else { continue };
        // The name, in parentheses, may have blanks in it.
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = tail.split(' ').collect();
        let is_server = head.split(' ').next() == Some(&server);
        if is_server || fields.get(1) == Some(&&*server) {
            // Of itself, and of children that ended.
            let counted = if is_server { 11..15 } else { 11..13 };
            ticks += fields[counted].iter().filter_map(|it| it.parse::<f64>().ok()).sum::<f64>();
        }
    }
    Ok(ticks * MS_A_TICK)
}

/// Takes every webhook.
#[derive(Debug)]
struct Taken;

#[async_trait]
impl WebhookTransport for Taken {
    fn check(&self, _url: &EndpointUrl) -> Result<(), TransportError> {
        Ok(())
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        assert!(request.headers.iter().any(|(name, _)| name == "webhook-signature"));
        Ok(WebhookResponse {
            status: 200,
            body_start: Bytes::from_static(b"ok"),
            retry_after: None,
        })
    }
}

/// Kinds of statements, in the order that they are told by the words of one; the last is the rest.
const KINDS: &[(&str, &[&str])] = &[
    ("claims", &["taken as (update", "claim_fence = i.fence", "group by d.merchant order by min"]),
    ("sweeps", &["feed_position = i.position", "pgw.feeds as f", "picked as materialized"]),
    (
        "commits",
        &[
            "with items as",
            "insert into pgw.",
            "for update",
            "update pgw.deliveries as t",
            "update pgw.idempotency_keys as t",
        ],
    ),
    ("hints", &["pg_notify"]),
    ("reads", &["select p.", "cross join lateral", "pgw.shield where", "pgw.endpoints w where"]),
    ("rest", &[]),
];
const MERCHANTS: u64 = 20;
const CALLERS: u64 = 64;
const WARM: u64 = 500;
const SLICES: u64 = 10;
/// Linux counts in hundredths of a second.
const MS_A_TICK: f64 = 10.0;

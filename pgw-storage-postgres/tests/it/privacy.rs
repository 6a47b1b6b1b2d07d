//! Erasing a customer: after it, no column of any table holds anything of the person, and the sums of money are what they were.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::builder::ProcessorSettings;
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::id::ErasureId;
use pgw_core::privacy::ErasureState;
use pgw_core::sandbox::Sandbox;
use pgw_core::storage::Storage as _;
use pgw_core::testing::keys::key_ring;
use pgw_core::testing::person::{Person, everything_read};
use pgw_core::testing::transport::{RecordingTransport, Reply, TransportScript};
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{EndpointUrl, WebhookRequest};
use pgw_core::worker::{Worker, WorkerSettings};
use pgw_storage_postgres::PgStorage;
use pgw_storage_postgres::sqlx::{self, AssertSqlSafe, Row as _};

use crate::fixtures::{Leg, Under, connection, schema_of};
use crate::world::{HEALTHY, dropped_after};

#[derive(Debug)]
struct Echo;

impl TransportScript for Echo {
    fn on_send(&self, _request: &WebhookRequest) -> Reply {
        Reply::Echo(200)
    }
}

/// A gateway whose receivers echo what they are sent, where two people have paid. No worker runs any more.
async fn lived_in(pg: &PgStorage) -> (Gateway, Person, Person) {
    let transport = RecordingTransport::scripted(Box::new(Echo));
    let gateway = Gateway::builder()
        .with_storage(Arc::new(pg.clone()))
        .with_queue(Arc::new(pg.queue()))
        .with_notifier(Arc::new(pg.notifier()))
        .with_transport(Arc::new(transport), key_ring())
        .with_sandbox(Sandbox::new(Env::system()), ProcessorSettings::default())
        .build()
        .expect("it has all its parts");
    let url = EndpointUrl::parse("https://hooks.example.com/in").expect("a valid address");
    gateway.host().create_endpoint(NewEndpoint::new(url)).await.expect(HEALTHY);
    let (gone, stays) = (Person::new("mk7gone"), Person::new("mk7stays"));
    let worker = worker(&gateway).start();
    gone.live(&gateway).await.expect(HEALTHY);
    stays.live(&gateway).await.expect(HEALTHY);
    // Nine events of each were sent and echoed.
    let mut read = everything_read(&gateway).await.expect(HEALTHY);
    while count(&read, b"\"status_code\":200") < 18 {
        tokio::task::yield_now().await;
        read = everything_read(&gateway).await.expect(HEALTHY);
    }
    worker.shutdown().await;
    (gateway, gone, stays)
}

fn worker(gateway: &Gateway) -> Worker {
    let poll = Duration::from_millis(50);
    let settings = WorkerSettings { poll, reap: poll, ..WorkerSettings::default() };
    Worker::new(gateway).with_settings(settings)
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|window| *window == part).count()
}

/// Every column of every table, bytes as the text that they are.
async fn dump(pg: &PgStorage) -> Vec<u8> {
    const COLUMNS: &str = "select table_name::text, column_name::text, data_type = 'bytea' from information_schema.columns \
        where table_schema = $1 order by 1, ordinal_position";
    let schema = schema_of(pg).trim_matches('"').to_owned();
    let mut direct = connection().await;
    let query = sqlx::query(COLUMNS).bind(schema.clone());
    let columns = query.fetch_all(&mut direct).await.expect(HEALTHY);
    assert!(columns.len() > 150, "{} columns of all tables", columns.len());
    let mut all = Vec::new();
    for column in columns {
        let (table, name): (String, String) = (column.get(0), column.get(1));
        let shown = if column.get(2) {
            format!("encode({name}, 'escape')")
        } else {
            format!("{name}::text")
        };
        let values = format!("select coalesce(string_agg({shown}, ' '), '') from {schema}.{table}");
        let row = sqlx::query(AssertSqlSafe(values)).fetch_one(&mut direct).await.expect(HEALTHY);
        all.extend(row.get::<String, _>(0).into_bytes());
    }
    all
}

async fn sums(pg: &PgStorage) -> Vec<String> {
    let schema = schema_of(pg).trim_matches('"').to_owned();
    let sql = format!(
        "select format('%s %s %s %s %s', currency, sum(amount_minor), sum(captured_minor), sum(refunded_minor), count(*)) \
         from {schema}.payments group by currency order by 1"
    );
    let mut direct = connection().await;
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut direct).await.expect(HEALTHY);
    rows.iter().map(|row| row.get(0)).collect()
}

async fn until_done(gateway: &Gateway, id: ErasureId) {
    loop {
        let found = gateway.host().erasure(id).await.expect(HEALTHY).expect("it is there");
        if found.state() == ErasureState::Done {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn no_column_holds_anything_of_an_erased_customer(leg: Leg) {
    let under = Under::test(leg).await;
    let pg = &under.storage;
    let (gateway, gone, stays) = lived_in(pg).await;
    let (stored, money) = (dump(pg).await, sums(pg).await);
    for person in [&gone, &stays] {
        assert_eq!(person.missing_in(&stored), [""; 0], "everything is stored");
    }
    let erasure = gateway.host().erase_customer(&gone.id()).await.expect(HEALTHY).erasure;
    let read = everything_read(&gateway).await.expect(HEALTHY);
    assert!(!gone.is_in(&read), "nothing is read from the mark on");
    assert!(gone.is_in(&dump(pg).await), "nothing is rewritten yet");
    let replay = gateway.host().create_payment(gone.payment("charge", "tok_visa")).await;
    assert!(!gone.is_in(&replay.expect(HEALTHY).answer.expect("it was kept").body));

    let worker = worker(&gateway).start();
    until_done(&gateway, erasure.id).await;
    worker.shutdown().await;
    let stored = dump(pg).await;
    assert!(!gone.is_in(&stored), "nothing is stored");
    assert_eq!(stays.missing_in(&stored), [""; 0]);
    assert_eq!(sums(pg).await, money);

    let again = gateway.host().erase_customer(&gone.id()).await.expect(HEALTHY);
    assert_eq!((again.erasure, again.payments), (erasure, 3));
    assert!(dump(pg).await == stored, "a no-op");
}

#[tokio::test]
async fn no_column_holds_anything_of_an_erased_customer_in_a_pool() {
    no_column_holds_anything_of_an_erased_customer(Leg::Pool).await;
}

#[tokio::test]
async fn no_column_holds_anything_of_an_erased_customer_behind_a_pooler() {
    no_column_holds_anything_of_an_erased_customer(Leg::Pooler).await;
}

#[tokio::test]
async fn no_column_holds_anything_of_an_erased_customer_where_tables_are_distributed() {
    no_column_holds_anything_of_an_erased_customer(Leg::Distributed).await;
}

#[tokio::test]
async fn an_erasure_that_is_dropped_at_any_await_is_whole_when_it_is_asked_for_again() {
    let under = Under::test(Leg::Pool).await;
    let pg = &under.storage;
    let (gateway, gone, _) = lived_in(pg).await;
    let host = gateway.host();
    let mut polls = 0;
    while dropped_after(polls, host.erase_customer(&gone.id())).await.is_none() {
        polls += 1;
    }
    // One payment at a time, each time dropped a little later.
    let at = gateway.env().now();
    let mut polls = 0;
    while dropped_after(polls, pg.redact_payments(at, 1)).await.is_none_or(|done| done.is_err()) {
        polls += 1;
    }
    // What was dropped goes on by itself and may hold a payment still, which the others then leave to it.
    loop {
        pg.redact_payments(at, 1).await.expect(HEALTHY);
        let all = host.erasures(Some(&gone.id()), Default::default()).await.expect(HEALTHY).data;
        if all.iter().all(|erasure| erasure.state() == ErasureState::Done) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let found = host.erasures(Some(&gone.id()), Default::default()).await.expect(HEALTHY).data;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].state(), found[0].payments), (ErasureState::Done, 3));
    assert!(!gone.is_in(&dump(pg).await));
}

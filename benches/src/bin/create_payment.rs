//! Payments created a second on PostgreSQL, against what pgbench gets out of the same server by itself.
//!
//! `cargo run --release -p benches --bin create_payment [-- --seconds N] [--callers 1,128,256]`. Starts a private server with `fsync` and
//! `synchronous_commit` on, and measures for each number of callers, N seconds each (15; all numbers of callers take eleven minutes): (a) BEGIN,
//! three INSERTs, COMMIT; (b) the three in one statement; (c) 64 payments a transaction; and pgw, whose payment is five rows. They take turns: of a
//! second each where callers are few, of up to five where pgbench's many connections must prepare their statements first. Of each figure
//! the turn in the middle counts. The baselines write rows as long as pgw's into tables with the same columns, checks and indexes. Writes `target/create_payment.svg`.
//! The last line is `result: vs_a=… vs_b=… vs_c=… p99_vs_b=… single_vs_b=…`, at 128 callers but for the last.
//!
//! `-- --loaded N` measures instead how much of its pace pgw keeps over N payments of the last two months, against ten thousand: at 128 callers,
//! `result: loaded=N of_10_thousand=…`. Ten million take some 60 GB of disk and half an hour.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use benches::baseline;
use benches::pgbench::{Load, pgbench};
use benches::plot::{Line, svg};
use benches::time::{Moment, quantile};
use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::gateway::Gateway;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::money::Money;
use pgw_core::payment::Customer;
use pgw_core::payment::plan::NewPayment;
use pgw_core::text::{CustomerId, CustomerName, PaymentMethod};
use pgw_core::worker::Worker;
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, Row as _, query, raw_sql};
use pgw_storage_postgres::{Migrator, PgStorage, Schema};

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&options))
}

struct Options {
    seconds: u64,
    callers: Vec<usize>,
    loaded: Option<u64>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options =
            Self { seconds: 15, callers: (0..=8).map(|power| 1 << power).collect(), loaded: None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--seconds" => options.seconds = value.parse()?,
                "--loaded" => options.loaded = Some(value.parse()?),
                "--callers" => {
                    options.callers = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                _ => {
                    let known = "--seconds N, --callers N,N,… and --loaded N";
                    return Err(format!("{name}: there are {known}").into());
                }
            }
        }
        Ok(options)
    }
}

/// At once, where one number of them is measured.
const CALLERS: usize = 128;

/// What is measured, in the order of its turn.
const SERIES: [&str; 4] = ["a: three inserts", "b: one statement", "c: 64 a transaction", "pgw"];

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let postgres = benches::server::start(&[]).await?;
    let mut owner = PgConnection::connect(&postgres.url()).await?;
    Migrator::new(Schema::default()).run(&mut owner).await?;
    if let Some(loaded) = options.loaded {
        return over(&postgres.url(), &mut owner, loaded, options.seconds).await;
    }
    raw_sql(baseline::TABLES).execute(&mut owner).await?;
    let mut loads: BTreeMap<(usize, usize), Load> = BTreeMap::new();
    println!("callers  {:>22} {:>22} {:>22} {:>22}", SERIES[0], SERIES[1], SERIES[2], SERIES[3]);
    for callers in &options.callers {
        // They take turns, so that all are measured on a machine that is as busy.
        let mut turns: [Vec<Load>; SERIES.len()] = Default::default();
        let seconds = u64::try_from(callers / 16)?.clamp(1, 5);
        for _ in 0..(options.seconds / seconds).max(1) {
            for (series, script) in [
                baseline::three_inserts(),
                baseline::one_statement(),
                baseline::many_a_transaction(),
            ]
            .iter()
            .enumerate()
            {
                clear(&mut owner).await?;
                let mut load = pgbench(&postgres, script, *callers, seconds)?;
                load.per_s *= if series == 2 { 64.0 } else { 1.0 };
                turns[series].push(load);
            }
            clear(&mut owner).await?;
            let time = Duration::from_secs(seconds);
            turns[3].push(pgw(&postgres.url(), *callers, time).await?);
        }
        print!("{callers:>7}");
        for (series, turns) in turns.iter().enumerate() {
            let load = together(turns);
            print!("  {}", cell(&load));
            loads.insert((*callers, series), load);
        }
        println!();
    }
    report(options, &loads)
}

/// pgw's pace over ten thousand payments, and over so many.
async fn over(
    url: &str,
    owner: &mut PgConnection,
    loaded: u64,
    seconds: u64,
) -> Result<(), Box<dyn Error>> {
    const FEW: u64 = 10_000;
    template(url, owner).await?;
    let mut paces = Vec::new();
    let mut there = 0;
    for count in [FEW, loaded.max(FEW)] {
        // A million at a time, so that one sees it go on.
        while there < count {
            let next = count.min(there + 1_000_000);
            let began = Moment::now();
            multiply(owner, there + 1, next).await?;
            println!(
                "{next:>10} payments are there, the last {} in {:.0?}",
                next - there,
                began.ago()
            );
            there = next;
        }
        for tidy in ["vacuum analyze", "checkpoint"] {
            raw_sql(tidy).execute(&mut *owner).await?;
        }
        let load = pgw(url, CALLERS, Duration::from_secs(seconds)).await?;
        println!("over {count} payments: {}", cell(&load));
        paces.push(load.per_s);
        raw_sql("delete from pgw.idempotency_keys where key like 'order-%' or key like 'warm-%'")
            .execute(&mut *owner)
            .await?;
    }
    println!("result: loaded={loaded} of_10_thousand={:.2}", paces[1] / paces[0]);
    Ok(())
}

/// One payment that was charged and whose events were stamped, of which the others are made.
async fn template(url: &str, owner: &mut PgConnection) -> Result<(), Box<dyn Error>> {
    let pg = PgStorage::builder().connect(url).await?;
    let gateway = Gateway::builder()
        .with_queue(Arc::new(pg.queue()))
        .with_notifier(Arc::new(pg.notifier()))
        .with_storage(Arc::new(pg))
        .build()?;
    let worker = Worker::new(&gateway).start();
    let key = IdempotencyKey::parse("template")?;
    let host = gateway.host();
    let made = host.create_payment(order()?.with_idempotency_key(key)).await?;
    host.wait_for(made.payment().id, None, Duration::from_secs(10)).await?;
    worker.shutdown().await;
    // As a day later: the stored answer is gone, and the events have their places.
    gateway.storage().stamp_events(100).await?;
    raw_sql(TEMPLATE).execute(owner).await?;
    Ok(())
}

/// Payments of these numbers, like the template, one each half second, with ids that grow as real ones do.
///
/// Of the rows of a payment the longest are there first, and the others fill what these leave of their pages, as it comes to be in the course of time. Where
/// that is in the audit log, whose shortest rows are those of creations, a vacuum in between tells. Otherwise a third of its pages would have a place for
/// one of these: creations would go there, a page for each, which is read, and logged whole.
async fn multiply(owner: &mut PgConnection, first: u64, last: u64) -> Result<(), Box<dyn Error>> {
    let (first, last) = (i64::try_from(first)?, i64::try_from(last)?);
    let parts = query("select name, part from template.parts order by name, bytes desc");
    for part in parts.fetch_all(&mut *owner).await? {
        let (table, part): (String, i64) = (part.try_get(0)?, part.try_get(1)?);
        query("select template.multiply($1, $2, $3, $4)")
            .bind(&table)
            .bind(part)
            .bind(first)
            .bind(last)
            .execute(&mut *owner)
            .await?;
        if table == "audit" {
            raw_sql("vacuum pgw.audit").execute(&mut *owner).await?;
        }
    }
    Ok(())
}

/// Copies of a settled payment, of its events and of its audit rows, which differ in what tells them apart. The rest of each row is the template's.
const TEMPLATE: &str = r"
update pgw.idempotency_keys set answer_status = null, answer_body = null, answer_event = null, answer_length = null;
create schema template;
create table template.payments as select *, 0 as part from pgw.payments;
create table template.operations as select *, 0 as part from pgw.operations;
create table template.events as select *, row_number() over (order by id) as part from pgw.events;
create table template.idempotency_keys as select *, 0 as part from pgw.idempotency_keys;
create table template.audit as select *, row_number() over (order by at, id) as part from pgw.audit;
create view template.parts as select 'payments' as name, part, pg_column_size(t) as bytes from template.payments t
    union all select 'operations', part, pg_column_size(t) from template.operations t
    union all select 'events', part, pg_column_size(t) from template.events t
    union all select 'idempotency_keys', part, pg_column_size(t) from template.idempotency_keys t
    union all select 'audit', part, pg_column_size(t) from template.audit t;
create function template.id(n bigint, part bigint) returns uuid immutable language sql as $$
    select (lpad(to_hex(1700000000000 + n * 500), 12, '0') || '7000800' || part || lpad(to_hex(n), 12, '0'))::uuid $$;
create function template.at(n bigint) returns timestamptz immutable language sql as $$
    select timestamptz '2023-11-14 00:00:00+00' + n * interval '0.5 s' $$;
create function template.multiply(t text, p bigint, first bigint, last bigint) returns void language plpgsql as $$
declare columns text; values text;
begin
    select string_agg(quote_ident(c.column_name), ', ' order by c.ordinal_position),
        string_agg(case
            when t in ('payments', 'operations') and c.column_name = 'id' then 'template.id(n, 0)'
            when c.column_name = 'id' then 'template.id(n, t.part)'
            when c.column_name in ('payment', 'operation') then 'template.id(n, 0)'
            when c.column_name in ('key', 'idempotency_key') then quote_literal('old-') || ' || n'
            when c.column_name = 'feed_position' then '1000000000 + n * 2 + t.part'
            when c.column_name in ('created_at', 'updated_at', 'at') then 'template.at(n)'
            else 't.' || quote_ident(c.column_name) end, ', ' order by c.ordinal_position)
        into columns, values
        from information_schema.columns c where c.table_schema = 'pgw' and c.table_name = t;
    execute format('insert into pgw.%I (%s) select %s from generate_series(%s::bigint, %s) n, template.%I t where part = %s',
        t, columns, values, first, last, t, p);
end $$";

/// What the turns of a series come to: of each figure the one in the middle.
fn together(turns: &[Load]) -> Load {
    let middle = |latency: fn(&Load) -> Duration| {
        quantile(&mut turns.iter().map(latency).collect::<Vec<_>>(), 0.5)
    };
    let mut paces: Vec<f64> = turns.iter().map(|turn| turn.per_s).collect();
    paces.sort_by(f64::total_cmp);
    let per_s = paces[paces.len() / 2];
    Load { per_s, p50: middle(|turn| turn.p50), p99: middle(|turn| turn.p99) }
}

fn cell(load: &Load) -> String {
    format!("{:>7.0}/s p99 {:>5.1} ms", load.per_s, load.p99.as_secs_f64() * 1e3)
}

fn report(options: &Options, loads: &BTreeMap<(usize, usize), Load>) -> Result<(), Box<dyn Error>> {
    let lines: Vec<Line> = SERIES
        .iter()
        .enumerate()
        .map(|(series, name)| Line {
            name: (*name).to_owned(),
            values: options.callers.iter().map(|n| loads[&(*n, series)].per_s).collect(),
        })
        .collect();
    let places: Vec<String> = options.callers.iter().map(ToString::to_string).collect();
    std::fs::create_dir_all("target")?;
    std::fs::write(
        "target/create_payment.svg",
        svg("Payments created a second", "callers", &places, &lines),
    )?;
    println!("plot: target/create_payment.svg");
    let ratio = |callers: usize, series: usize| {
        let of = |series| loads.get(&(callers, series)).map_or(f64::NAN, |load| load.per_s);
        of(3) / of(series)
    };
    let p99 =
        |series: usize| loads.get(&(128, series)).map_or(f64::NAN, |load| load.p99.as_secs_f64());
    println!(
        "at 256 callers: vs_a={:.2} vs_b={:.2} vs_c={:.2}",
        ratio(256, 0),
        ratio(256, 1),
        ratio(256, 2)
    );
    println!(
        "result: vs_a={:.2} vs_b={:.2} vs_c={:.2} p99_vs_b={:.2} single_vs_b={:.2}",
        ratio(128, 0),
        ratio(128, 1),
        ratio(128, 2),
        p99(3) / p99(1),
        ratio(1, 1)
    );
    Ok(())
}

/// Payments by so many callers, each one after the other, through the gateway.
async fn pgw(url: &str, callers: usize, time: Duration) -> Result<Load, Box<dyn Error>> {
    let pg = PgStorage::builder().connect(url).await?;
    let gateway = Gateway::builder()
        .with_queue(Arc::new(pg.queue()))
        .with_notifier(Arc::new(pg.notifier()))
        .with_storage(Arc::new(pg))
        .build()?;
    let (stop, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let order = order()?;
    // Connections and statements are there before the clock starts, as pgbench's are.
    for round in 0..32 {
        // One alone, then two at once: each of the two that commit has its own connection.
        for width in [1, 2] {
            let mut warm = tokio::task::JoinSet::new();
            for n in 0..width {
                let key = IdempotencyKey::parse(&format!("warm-{callers}-{round}-{width}-{n}"))?;
                let (gateway, new) = (gateway.clone(), order.clone().with_idempotency_key(key));
                warm.spawn(async move { gateway.host().create_payment(new).await });
            }
            while let Some(made) = warm.join_next().await {
                made??;
            }
        }
    }
    let start = Moment::now();
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (gateway, order) = (gateway.clone(), order.clone());
        let (stop, number) = (Arc::clone(&stop), Arc::clone(&number));
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let n = number.fetch_add(1, Ordering::Relaxed);
                let key = IdempotencyKey::parse(&format!("order-{n:032}")).expect("a valid key");
                let began = Moment::now();
                let new = order.clone().with_idempotency_key(key);
                gateway.host().create_payment(new).await.expect("the server takes it");
                latencies.push(began.ago());
            }
            latencies
        }));
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await?);
    }
    let per_s = latencies.len() as f64 / start.ago().as_secs_f64();
    let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
    Ok(Load { per_s, p50, p99 })
}

fn order() -> Result<NewPayment, Box<dyn Error>> {
    let customer = Customer {
        email: Email::parse("ada@example.com")?,
        name: CustomerName::parse("Ada Lovelace")?,
        id: Some(CustomerId::parse("cus_42")?),
    };
    let amount = Money::from_minor(4_999, Currency::USD)?;
    Ok(NewPayment::new(amount, customer, PaymentMethod::parse("tok_visa")?))
}

/// Every round starts on empty tables, with nothing left to be written back.
async fn clear(owner: &mut PgConnection) -> Result<(), Box<dyn Error>> {
    raw_sql(
        "truncate pgw.payments, pgw.operations, pgw.events, pgw.idempotency_keys, pgw.audit, \
         baseline.payments, baseline.events, baseline.idempotency_keys; checkpoint",
    )
    .execute(owner)
    .await?;
    Ok(())
}

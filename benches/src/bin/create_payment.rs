//! Payments created a second on PostgreSQL, against what pgbench gets out of the same server by itself.
//!
//! `cargo run --release -p benches --bin create_payment [-- --seconds N] [--callers 1,128,256]`. Starts a private server with `fsync` and
//! `synchronous_commit` on, and measures in turn, for each number of callers: (a) BEGIN, three INSERTs, COMMIT; (b) the three in one
//! statement; (c) 64 payments a transaction; and pgw, whose payment is five rows. The baselines write rows as long as pgw's into tables
//! with the same columns, checks and indexes. Writes `target/create_payment.svg`. The last line is
//! `result: vs_a=… vs_b=… vs_c=… p99_vs_b=… single_vs_b=…`, at 128 callers but for the last.

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
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, raw_sql};
use pgw_storage_postgres::{Migrator, PgStorage, Schema};
use servers::Postgres;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&options))
}

struct Options {
    seconds: u64,
    callers: Vec<usize>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self { seconds: 5, callers: (0..=8).map(|power| 1 << power).collect() };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--seconds" => options.seconds = value.parse()?,
                "--callers" => {
                    options.callers = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                _ => {
                    return Err(format!("{name}: there are --seconds N and --callers N,N,…").into());
                }
            }
        }
        Ok(options)
    }
}

/// What is measured, in the order of its turn.
const SERIES: [&str; 4] = ["a: three inserts", "b: one statement", "c: 64 a transaction", "pgw"];

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let postgres = Postgres::builder()
        .durable()
        .with_setting("shared_buffers", "1GB")
        .with_setting("max_wal_size", "8GB")
        .with_setting("checkpoint_timeout", "30min")
        .start()?;
    let mut owner = PgConnection::connect(&postgres.url()).await?;
    Migrator::new(Schema::default()).run(&mut owner).await?;
    raw_sql(baseline::TABLES).execute(&mut owner).await?;
    let mut loads: BTreeMap<(usize, usize), Load> = BTreeMap::new();
    println!("callers  {:>22} {:>22} {:>22} {:>22}", SERIES[0], SERIES[1], SERIES[2], SERIES[3]);
    for callers in &options.callers {
        print!("{callers:>7}");
        for (series, script) in [
            (0, baseline::three_inserts()),
            (1, baseline::one_statement()),
            (2, baseline::many_a_transaction()),
        ] {
            clear(&mut owner).await?;
            let mut load = pgbench(&postgres, &script, *callers, options.seconds)?;
            load.per_s *= if series == 2 { 64.0 } else { 1.0 };
            print!("  {}", cell(&load));
            loads.insert((*callers, series), load);
        }
        clear(&mut owner).await?;
        let load = pgw(&postgres.url(), *callers, Duration::from_secs(options.seconds)).await?;
        println!("  {}", cell(&load));
        loads.insert((*callers, 3), load);
    }
    report(options, &loads)
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
    for warm in 0..32 {
        let key = IdempotencyKey::parse(&format!("warm-{callers}-{warm}"))?;
        gateway.host().create_payment(order.clone().with_idempotency_key(key)).await?;
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

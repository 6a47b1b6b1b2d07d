//! The queue of due rows: how fast it is drained, how fast jobs go through it while payments are created, and how soon an idle worker
//! picks one up.
//!
//! `cargo run --release -p benches --bin queue`. Starts a private server with `fsync` and `synchronous_commit` on. In the same run the
//! `riverqueue` crate works as many no-op jobs on the same server. The last line is
//! `result: drained_per_s=… continuous_per_s=… pickup_p50_ms=… pickup_p99_ms=… vs_riverqueue=…`.
//!
//! `-- --redis` measures the queue and the rate limiter in Redis instead, beside the queue of due rows, BullMQ and the `apalis-redis` crate working as
//! many no-op jobs, and redis-benchmark calling the limiter's script. Its last line is
//! `result: jobs_per_s=… vs_pg=… vs_bullmq=… vs_apalis=… pickup_p50_ms=… limiter_vs_redis=…`.

mod redis;

use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use benches::time::{Moment, quantile};
use pgw_core::changes::Changes;
use pgw_core::notifier::{Hint, Notifier as _};
use pgw_core::queue::{Claim, Lane, Queue, Settlement, Verdict};
use pgw_core::storage::Storage as _;
use pgw_core::testing::sample::Samples;
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, raw_sql};
use pgw_storage_postgres::{Migrator, PgStorage, Schema};

type Run<T> = Result<T, Box<dyn Error>>;

const JOBS: u64 = 100_000;
const CLAIMERS: usize = 4;
const CLAIM: usize = 200;
const LEASE: Duration = Duration::from_secs(60);
const CONTINUOUS: Duration = Duration::from_secs(8);
const PICKUPS: u64 = 500;

fn main() -> Run<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Run<()> {
    let is_of_redis = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--redis") => true,
        Some(other) => return Err(format!("{other} is no option: there is --redis").into()),
    };
    let postgres = benches::server::start(&[]).await?;
    let mut owner = PgConnection::connect(&postgres.url()).await?;
    Migrator::new(Schema::default()).run(&mut owner).await?;
    let pg = PgStorage::builder().connect(&postgres.url()).await?;

    let samples = Samples::new(1);
    create(&pg, &samples, JOBS).await?;
    for tidy in ["vacuum analyze pgw.operations", "checkpoint"] {
        raw_sql(tidy).execute(&mut owner).await?;
    }
    let drained = drain(Arc::new(pg.queue()), JOBS).await?;
    println!("{JOBS} due jobs drained: {drained:>7.0} jobs/s");
    if is_of_redis {
        drop((pg, owner, postgres));
        return redis::run(drained).await;
    }

    let continuous = continuous(&pg, &samples).await?;
    println!("created, claimed and settled at the same time: {continuous:>7.0} jobs/s");

    let mut pickups = pickups(&pg, &postgres.url(), &samples).await?;
    let (p50, p99) = (quantile(&mut pickups, 0.5), quantile(&mut pickups, 0.99));
    println!("commit to claim by an idle worker of another process: p50 {p50:?}, p99 {p99:?}");

    let river = cargo("riverqueue", &postgres.url(), JOBS)?;
    println!("riverqueue, {JOBS} no-op jobs: {river:>7.0} jobs/s");
    println!(
        "result: drained_per_s={drained:.0} continuous_per_s={continuous:.0} pickup_p50_ms={:.2} pickup_p99_ms={:.2} vs_riverqueue={:.2}",
        p50.as_secs_f64() * 1e3,
        p99.as_secs_f64() * 1e3,
        drained / river
    );
    Ok(())
}

/// Commits payments whose charges are due, by many callers at once.
async fn create(pg: &PgStorage, samples: &Samples, count: u64) -> Run<()> {
    let mut callers = Vec::new();
    for _ in 0..128 {
        let (pg, samples) = (pg.clone(), samples.clone());
        callers.push(tokio::spawn(async move {
            for _ in 0..count.div_ceil(128) {
                pg.commit(creation(&samples)).await.expect("the server takes it");
            }
        }));
    }
    for caller in callers {
        caller.await?;
    }
    Ok(())
}

fn creation(samples: &Samples) -> Changes {
    samples.creation().changes()
}

/// Claims and settles until nothing is left.
async fn drain(queue: Arc<dyn Queue>, count: u64) -> Run<f64> {
    let start = Moment::now();
    let done = Arc::new(AtomicU64::new(0));
    let mut claimers = Vec::new();
    for _ in 0..CLAIMERS {
        let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
        claimers.push(tokio::spawn(async move {
            loop {
                let claims = queue.claim(Lane::Operations, CLAIM, LEASE).await.expect("it claims");
                if claims.is_empty() && done.load(Ordering::SeqCst) >= count {
                    return;
                }
                settle(&*queue, claims, &done).await;
            }
        }));
    }
    for claimer in claimers {
        claimer.await?;
    }
    Ok(done.load(Ordering::SeqCst) as f64 / start.ago().as_secs_f64())
}

async fn settle(queue: &dyn Queue, claims: Vec<Claim>, done: &AtomicU64) {
    if claims.is_empty() {
        return;
    }
    let settlements: Vec<Settlement> =
        claims.into_iter().map(|claim| Settlement { claim, verdict: Verdict::Done }).collect();
    let held = queue.settle(&settlements).await.expect("it settles");
    assert!(held.iter().all(|held| *held), "a lease was lost");
    done.fetch_add(held.len() as u64, Ordering::SeqCst);
}

/// Payments are created while their jobs are claimed and settled: jobs settled a second.
async fn continuous(pg: &PgStorage, samples: &Samples) -> Run<f64> {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let (pg, samples, stop) = (pg.clone(), samples.clone(), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                pg.commit(creation(&samples)).await.expect("the server takes it");
            }
        }));
    }
    for _ in 0..2 {
        let (queue, stop, done) = (pg.queue(), Arc::clone(&stop), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let claims = queue.claim(Lane::Operations, CLAIM, LEASE).await.expect("it claims");
                if claims.is_empty() {
                    tokio::task::yield_now().await;
                }
                settle(&queue, claims, &done).await;
            }
        }));
    }
    let start = Moment::now();
    tokio::time::sleep(CONTINUOUS).await;
    stop.store(true, Ordering::Relaxed);
    let rate = done.load(Ordering::SeqCst) as f64 / start.ago().as_secs_f64();
    for task in tasks {
        task.await?;
    }
    // What is left over is nobody's to wait for in the next part.
    let left = pg.queue().depth(Lane::Operations).await?;
    drain(Arc::new(pg.queue()), left.ready).await?;
    Ok(rate)
}

/// How long after its commit a job is claimed by a worker that sleeps until it hears of it, on connections of its own.
async fn pickups(
    pg: &PgStorage,
    url: &str,
    samples: &Samples,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let other = PgStorage::builder().connect(url).await?;
    let (queue, notifier) = (other.queue(), other.notifier());
    let mut hints = notifier.subscribe().await?;
    let voice = pg.notifier();
    let mut pickups = Vec::new();
    for n in 0..PICKUPS {
        // Idle for a while that is never the same, as a worker is.
        tokio::time::sleep(Duration::from_millis(5 + n * 7 % 20)).await;
        pg.commit(creation(samples)).await?;
        let committed = Moment::now();
        voice.publish(&[Hint::Work(Lane::Operations)]).await?;
        loop {
            hints.next().await;
            let claims = queue.claim(Lane::Operations, CLAIM, LEASE).await?;
            if !claims.is_empty() {
                pickups.push(committed.ago());
                let done = AtomicU64::new(0);
                settle(&queue, claims, &done).await;
                break;
            }
        }
    }
    Ok(pickups)
}

/// Runs another queue's program on the same server: jobs a second.
fn cargo(program: &str, url: &str, jobs: u64) -> Run<f64> {
    let manifest = format!("{}/{program}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["run", "--release", "--quiet", "--manifest-path", &manifest, "--", url])
        .arg(jobs.to_string())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

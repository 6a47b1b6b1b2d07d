//! The queue and the rate limiter in Redis, beside PgQueue, other people's queues, and redis-benchmark, in one run.

use std::error::Error;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use benches::time::{Moment, quantile};
use pgw_core::notifier::{Hint, Notifier as _};
use pgw_core::queue::{Job, Lane, Queue as _};
use pgw_core::rate_limit::{Limit, RateLimiter as _};
use pgw_core::testing::sample::Samples;
use pgw_redis::Redis;

use super::{CLAIM, JOBS, LEASE, PICKUPS, Run, cargo, drain, settle};

/// As many callers as redis-benchmark has by default.
const CALLERS: usize = 50;
/// Fewer than the others get: in version 1.0.0 its workers stop when ten thousand wait.
const APALIS_JOBS: u64 = 2_000;
const CHECKS: Duration = Duration::from_secs(5);
/// What a caller may do in a limiter that is only measured: more than it can.
const PLENTY: Limit =
    Limit { quota: NonZeroU32::new(1_000_000_000).unwrap(), window: Duration::from_secs(1) };

pub(super) async fn run(pg_drained: f64) -> Result<(), Box<dyn Error>> {
    let server = servers::Redis::builder().start()?;
    let redis = Redis::node(server.url()).build()?;
    let samples = Samples::new(1);

    let queue = Arc::new(redis.queue());
    let pushed = push(&redis, &samples, JOBS).await?;
    println!("Redis: pushed one by one by {CALLERS} callers: {pushed:>7.0} jobs/s");
    let drained = drain(queue, JOBS).await?;
    println!("Redis: {JOBS} due jobs claimed and settled: {drained:>7.0} jobs/s");

    let mut pickups = pickups(&redis, &Redis::node(server.url()).build()?, &samples).await?;
    let (p50, p99) = (quantile(&mut pickups, 0.5), quantile(&mut pickups, 0.99));
    println!("Redis: push to claim by an idle worker of another process: p50 {p50:?}, p99 {p99:?}");

    let port = server.address().port();
    let bullmq = bullmq(port)?;
    println!("BullMQ, {JOBS} no-op jobs: {bullmq:>7.0} jobs/s");
    let apalis = cargo("apalis", &server.url(), APALIS_JOBS)?;
    println!("apalis-redis, {APALIS_JOBS} no-op jobs: {apalis:>7.0} jobs/s");

    // The better of three each, in turn, so that a moment's noise is nobody's.
    let (mut ours, mut bare) = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        bare = bare.max(redis_benchmark(port)?);
        ours = ours.max(checks(&redis).await?);
    }
    println!("limiter: {ours:>7.0} checks/s; the same script by redis-benchmark: {bare:>7.0}/s");
    println!(
        "result: jobs_per_s={drained:.0} vs_pg={:.2} vs_bullmq={:.2} vs_apalis={:.2} pickup_p50_ms={:.2} limiter_vs_redis={:.2}",
        drained / pg_drained,
        drained / bullmq,
        drained / apalis,
        p50.as_secs_f64() * 1e3,
        ours / bare
    );
    Ok(())
}

/// Pushes jobs one at a time, as commits do.
async fn push(redis: &Redis, samples: &Samples, count: u64) -> Run<f64> {
    let start = Moment::now();
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let (queue, samples) = (redis.queue(), samples.clone());
        callers.push(tokio::spawn(async move {
            for _ in 0..count.div_ceil(CALLERS as u64) {
                let job: Job = samples.job(Lane::Operations);
                queue.push(&[(job, Duration::ZERO)]).await.expect("the server takes it");
            }
        }));
    }
    for caller in callers {
        caller.await?;
    }
    Ok(count as f64 / start.ago().as_secs_f64())
}

/// How long after its push a job is claimed by a worker that sleeps until it hears of it, on connections of its own.
async fn pickups(redis: &Redis, other: &Redis, samples: &Samples) -> Run<Vec<Duration>> {
    let (queue, notifier) = (other.queue(), other.notifier());
    let mut hints = notifier.subscribe().await?;
    let (pusher, voice) = (redis.queue(), redis.notifier());
    let mut pickups = Vec::new();
    for n in 0..PICKUPS {
        // Idle for a while that is never the same, as a worker is.
        tokio::time::sleep(Duration::from_millis(5 + n * 7 % 20)).await;
        let pushed = Moment::now();
        pusher.push(&[(samples.job(Lane::Operations), Duration::ZERO)]).await?;
        voice.publish(&[Hint::Work(Lane::Operations)]).await?;
        loop {
            hints.next().await;
            let claims = queue.claim(Lane::Operations, CLAIM, LEASE).await?;
            if !claims.is_empty() {
                pickups.push(pushed.ago());
                settle(&queue, claims, &AtomicU64::new(0)).await;
                break;
            }
        }
    }
    Ok(pickups)
}

/// Checks a second by as many callers as redis-benchmark has connections, over as many keys.
async fn checks(redis: &Redis) -> Run<f64> {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let (limiter, stop, done) = (redis.rate_limiter(), Arc::clone(&stop), Arc::clone(&done));
        callers.push(tokio::spawn(async move {
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("ip:192.0.2.{}", n * 7_919 % 1_000);
                limiter.check(&key, PLENTY).await.expect("it is there");
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let start = Moment::now();
    tokio::time::sleep(CHECKS).await;
    let rate = done.load(Ordering::Relaxed) as f64 / start.ago().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await?;
    }
    Ok(rate)
}

/// The same script, called by redis-benchmark over as many keys.
fn redis_benchmark(port: u16) -> Run<f64> {
    const GCRA: &str = include_str!("../../../../pgw-redis/src/lua/gcra.lua");
    let port = port.to_string();
    let load = output(Command::new("redis-cli").args(["-p", &port, "script", "load", GCRA]))?;
    let told = output(
        Command::new("redis-benchmark")
            .args(["-p", &port, "-n", "300000", "-r", "1000", "-q", "--csv", "evalsha"])
            .arg(load.trim())
            .args(["1", "pgw:{default:limit:__rand_int__}", "0", "1000000000", "1000000"]),
    )?;
    // "name","rps",… under a heading.
    let row = told.lines().last().ok_or("redis-benchmark said nothing")?;
    let rate = row.split(',').nth(1).ok_or("redis-benchmark said no rate")?;
    Ok(rate.trim_matches('"').parse()?)
}

/// BullMQ's program on the same server, with its library installed under `target`, in the version that its lock file names.
fn bullmq(port: u16) -> Run<f64> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bullmq");
    let installed: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "target", "bullmq"].iter().collect();
    fs::create_dir_all(&installed)?;
    for file in ["package.json", "package-lock.json", "drain.js"] {
        fs::copy(sources.join(file), installed.join(file))?;
    }
    let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
    output(Command::new("npm").args(install).current_dir(&installed))?;
    let mut drain = Command::new("node");
    drain.arg("drain.js").args([port.to_string(), JOBS.to_string()]).current_dir(&installed);
    Ok(output(&mut drain)?.trim().parse()?)
}

fn output(command: &mut Command) -> Run<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

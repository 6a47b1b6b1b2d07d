//! How many no-op jobs the `riverqueue` crate works a second: `riverqueue-drain URL JOBS`. Prints the number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use riverqueue::migrate::PostgresMigrator;
use riverqueue::sqlx::postgres::PgPoolOptions;
use riverqueue::{BoxError, Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "nothing")]
struct Nothing {
    number: u64,
}

static DONE: AtomicU64 = AtomicU64::new(0);

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(jobs)) = (arguments.next(), arguments.next()) else {
        return Err("usage: riverqueue-drain URL JOBS".into());
    };
    let jobs: u64 = jobs.parse()?;
    let pool = PgPoolOptions::new().max_connections(16).connect(&url).await?;
    PostgresMigrator::new(pool.clone()).migrate_up().await?;
    let all = Arc::new(Notify::new());
    let mut workers = Workers::new();
    let tells = Arc::clone(&all);
    workers.add_fn(move |_: WorkContext, job: Job<Nothing>| {
        let tells = Arc::clone(&tells);
        async move {
            let _ = job.args.number;
            if DONE.fetch_add(1, Ordering::SeqCst) + 1 == jobs {
                tells.notify_one();
            }
            Ok::<_, BoxError>(WorkOutcome::Complete)
        }
    })?;
    let config = QueueConfig::new(1_000).with_fetch_cooldown(Duration::from_millis(1));
    let client = Client::builder(pool).workers(workers).queue("default", config).build()?;
    for first in (0..jobs).step_by(5_000) {
        let batch: Vec<Nothing> =
            (first..jobs.min(first + 5_000)).map(|number| Nothing { number }).collect();
        client.insert_many(batch).await?;
    }
    let start = Instant::now();
    let mut run = client.start()?;
    all.notified().await;
    println!("{:.0}", jobs as f64 / start.elapsed().as_secs_f64());
    run.stop().await?;
    Ok(())
}

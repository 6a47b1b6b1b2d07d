//! How many no-op jobs the `apalis-redis` crate works a second: `apalis-drain URL JOBS`. Prints the number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apalis::layers::WorkerBuilderExt;
use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Nothing {
    number: u64,
}

static DONE: AtomicU64 = AtomicU64::new(0);

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(jobs)) = (arguments.next(), arguments.next()) else {
        return Err("usage: apalis-drain URL JOBS".into());
    };
    let jobs: u64 = jobs.parse()?;
    let connection = apalis_redis::connect(url).await?;
    // Nothing that it need not do: no results, no events; and as many at once as ours claims.
    let config = Config::default().batch_size(200).persist_results(false).emit_events(false);
    let config = config.heartbeat_interval(Duration::from_secs(30));
    let storage = RedisStorage::<Nothing, _>::new(connection).with_config(config);
    for first in (0..jobs).step_by(1_000) {
        let batch = (first..jobs.min(first + 1_000)).map(|number| Nothing { number }).collect();
        // A storage takes one bulk: the second never ends.
        storage.clone().push_bulk(batch).await.map_err(|error| error.to_string())?;
    }
    let all = Arc::new(Notify::new());
    let start = Instant::now();
    for worker in 0..4 {
        let all = Arc::clone(&all);
        let worker = WorkerBuilder::new(format!("worker-{worker}"))
            .backend(storage.clone())
            .concurrency(200)
            .build(move |job: Nothing| {
                let all = Arc::clone(&all);
                async move {
                    let _ = job.number;
                    if DONE.fetch_add(1, Ordering::SeqCst) + 1 == jobs {
                        all.notify_one();
                    }
                    Ok::<_, BoxDynError>(())
                }
            });
        tokio::spawn(worker.run());
    }
    all.notified().await;
    println!("{:.0}", jobs as f64 / start.elapsed().as_secs_f64());
    std::process::exit(0);
}

//! `pgw cache`: what processes and Redis keep beside the database, where everything is that counts.

use clap::Subcommand;
use pgw_core::notifier::Hint;
use serde_json::json;

use crate::cli::Global;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::node::Node;
use crate::output::Output;
use crate::redis;

/// About caches.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Drop what is kept beside the database, and nothing else.
    #[command(long_about = CLEAR_ABOUT)]
    Clear,
}

/// Does it.
///
/// # Errors
/// [`Failure`], when a Redis that is configured cannot be reached.
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    command: &CacheCommand,
    out: Output,
) -> Result<(), Failure> {
    let CacheCommand::Clear = command;
    let node = Node::open_durable(config, global).await?;
    if let Some(redis) = &node.redis {
        redis.queue().clear().await.map_err(|error| {
            Failure::new(Exit::Unavailable, "the queue in Redis was not emptied; try again")
                .because(error)
        })?;
    }
    // Last: whoever looks at everything now finds the queue as it is to be.
    node.tell(Hint::Missed).await;
    let queue = if node.redis.is_some() { "redis" } else { "rows" };
    let state = redis::state(node.redis.as_ref()).await;
    out.result(&json!({ "object": "cache_clear", "queue": queue, "redis": state }), || {
        let told = "every process is told to forget what it knew of keys and denied addresses";
        match &node.redis {
            Some(_) => format!(
                "{told}; the queue in Redis is empty, and workers fill it again from the rows"
            ),
            None => format!("{told}; there is no Redis, so the queue is the rows themselves"),
        }
    });
    Ok(())
}

const CLEAR_ABOUT: &str = "\
Drop what is kept beside the database, and nothing else: to get rid of something stale, or of jobs that were set aside, without touching what counts.

  - Every process of this installation forgets which API keys and denied addresses it has looked up, and looks them up anew.
  - With Redis, the queue's pointers to due work are dropped, those that were set aside too. Workers push what is due again from the database within seconds.

What stays: payments, events, idempotency keys and webhooks, which are rows; rate limits; and everything in the same Redis that is not of this installation's queue. It is not a FLUSHDB.

A webhook that is being sent at this moment may be sent a second time, under the same id. Payments are not charged twice: their rows say that they are under way.

  $ pgw cache clear";

//! `pgw status`: how much there is to do, and how old it is.

use std::time::Duration;

use pgw_core::queue::Lane;
use serde_json::json;

use crate::cli::Global;
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::node::Node;
use crate::output::Output;
use crate::redis;
use crate::unknown::Unknown;

/// Does it.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn run(config: &Config, global: &Global, out: Output) -> Result<(), Failure> {
    let node = Node::open_durable(config, global).await?;
    let mut rows = Vec::new();
    for lane in Lane::ALL {
        let depth = node.queue.depth(lane).await.map_err(|error| {
            Failure::new(Exit::Unavailable, "the queue does not answer").because(error)
        })?;
        rows.push(
            json!({
                "object": "lane",
                "lane": lane.as_str(),
                "ready": depth.ready,
                "delayed": depth.delayed,
                "in_flight": depth.in_flight,
                "dead": depth.dead,
                "oldest_ms": millis(depth.oldest),
            })
            .to_string(),
        );
    }
    out.objects(&rows, &["lane", "ready", "delayed", "in_flight", "dead", "oldest_ms"])?;
    let unknown = Unknown::of(&node.operator(), &node.gateway).await?;
    let count = unknown.count;
    let at_least = if unknown.has_more { "at least " } else { "" };
    let value = json!({
        "object": "unknown_payments",
        "merchant": node.scope.merchant.as_str(),
        "mode": node.scope.mode.as_str(),
        "count": count,
        "more": unknown.has_more,
        "oldest_ms": unknown.oldest.map(millis),
    });
    out.result(&value, || {
        let (merchant, mode) = (&node.scope.merchant, node.scope.mode);
        format!("\n{at_least}{count} payments of {merchant} in {mode} mode have an outcome that is unknown")
    });
    let redis = redis::state(node.redis.as_ref()).await;
    out.result(&json!({ "object": "redis", "state": redis }), || match redis {
        "disabled" => "Redis is not used: the queue is the rows themselves".to_owned(),
        "connected" => "Redis is connected: the queue is there".to_owned(),
        _ => "Redis is away: the queue is the rows themselves until it is back".to_owned(),
    });
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

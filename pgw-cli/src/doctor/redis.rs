//! What `pgw doctor` looks at in Redis, node by node, with the gateway's own credentials.

use pgw_core::env::Env;
use pgw_redis::NodeInfo;

use super::{Finding, Grade};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::redis;

/// Looks at it, if there is one.
///
/// # Errors
/// [`Failure`] when its settings are wrong.
pub(super) async fn look(config: &Config) -> Result<Vec<Finding>, Failure> {
    let Some(options) = redis::options(config)? else {
        let detail = "disabled: queue, hints and limits do without it".to_owned();
        return Ok(vec![Finding { what: "redis", grade: Grade::Ok, detail }]);
    };
    let mut findings = Vec::new();
    if let Some(warning) = options.warning() {
        let detail = warning.to_owned();
        findings.push(Finding { what: "redis tls", grade: Grade::Warn, detail });
    }
    let redis = options.open()?;
    if let Err(error) = redis.check().await {
        let told = Failure::new(
            Exit::Unavailable,
            "payments are taken, and queue and hints do without it",
        )
        .because(error);
        findings.push(Finding { what: "redis", grade: Grade::Fail, detail: told.to_string() });
        return Ok(findings);
    }
    let env = Env::system();
    let before = env.now();
    match redis.info().await {
        Ok(nodes) => {
            // In the middle of the round trip; what that leaves open is half of it.
            let now = before.as_micros().midpoint(env.now().as_micros());
            findings.push(versions(&nodes, options.is_cluster));
            findings.extend([evictions(&nodes), memory(&nodes)]);
            findings.extend(clock(&nodes, now));
        }
        Err(error) => {
            let told = Failure::new(
                Exit::Failed,
                "connected, but it does not say how it is: grant its user INFO",
            )
            .because(error);
            findings.push(Finding { what: "redis", grade: Grade::Warn, detail: told.to_string() });
        }
    }
    Ok(findings)
}

fn versions(nodes: &[NodeInfo], is_cluster: bool) -> Finding {
    let least = if is_cluster { 7 } else { 6 };
    let is_fit = |node: &NodeInfo| node.major_version() >= Some(least);
    let mut versions: Vec<&str> = nodes.iter().map(|node| &*node.version).collect();
    versions.sort_unstable();
    versions.dedup();
    let (what, grade) = ("redis", if nodes.iter().all(is_fit) { Grade::Ok } else { Grade::Fail });
    let place = if is_cluster {
        format!("a Cluster of {} masters", nodes.len())
    } else {
        "one node".to_owned()
    };
    let need =
        if grade == Grade::Ok { String::new() } else { format!("; it must be {least} or later") };
    Finding { what, grade, detail: format!("Redis {}, {place}{need}", versions.join(" and ")) }
}

fn evictions(nodes: &[NodeInfo]) -> Finding {
    let what = "redis evictions";
    match nodes.iter().find(|node| &*node.maxmemory_policy != "noeviction") {
        None => {
            let detail = "maxmemory-policy is noeviction".to_owned();
            Finding { what, grade: Grade::Ok, detail }
        }
        Some(node) => {
            let policy = &node.maxmemory_policy;
            let detail = format!(
                "maxmemory-policy is {policy}: a full Redis drops jobs, which are found again later. Set noeviction"
            );
            Finding { what, grade: Grade::Warn, detail }
        }
    }
}

/// Of the fullest node.
fn memory(nodes: &[NodeInfo]) -> Finding {
    let what = "redis memory";
    let fullest = redis::fullest(nodes);
    let used = fullest.map_or(0, |node| node.used_memory_bytes / MIB);
    match fullest.and_then(|node| Some((node.used_percent()?, node.maxmemory_bytes?))) {
        Some((percent, max)) => {
            let grade = Grade::if_above(i64::try_from(percent).unwrap_or(i64::MAX), 80, 95);
            let detail = format!("{used} of {} MiB used, {percent} %", max / MIB);
            Finding { what, grade, detail }
        }
        None => {
            let detail = format!("{used} MiB used; nothing bounds it: set maxmemory");
            Finding { what, grade: Grade::Warn, detail }
        }
    }
}

/// How far the clock of the node that is furthest off is ahead of this machine's, where they say.
fn clock(nodes: &[NodeInfo], now: i64) -> Option<Finding> {
    let clocks = nodes.iter().filter_map(|node| node.clock);
    let skews = clocks.map(|clock| (clock.as_micros() - now) / 1_000);
    let skew = skews.max_by_key(|skew| skew.abs())?;
    let grade = Grade::if_above(skew.abs(), 1_000, 60_000);
    let detail = format!("Redis is {skew} ms ahead of this machine");
    Some(Finding { what: "redis clock", grade, detail })
}

const MIB: u64 = 1 << 20;

//! Metrics: what is counted, as Prometheus reads it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use pgw_core::queue::Queue;
use pgw_core::scope::Mode;
use pgw_core::telemetry;
use pgw_redis::Redis;
use tokio::task::JoinHandle;
use tracing_appender::non_blocking::ErrorCounter;

use crate::failure::{Exit, Failure};
use crate::logs::Logs;
use crate::node::{Node, Store};
use crate::redis;
use crate::unknown::Unknown;

/// The recorder of this process.
#[derive(Clone)]
pub(crate) struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs it: from here on, everything is counted.
    ///
    /// # Errors
    /// [`Failure`], when there is one already.
    pub(crate) fn install() -> Result<Self, Failure> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)
            })
            .and_then(PrometheusBuilder::install_recorder);
        let handle = recorder.map_err(|error| {
            Failure::new(Exit::Failed, "metrics cannot be recorded").because(error)
        })?;
        telemetry::describe();
        pgw_http::telemetry::describe();
        describe();
        Ok(Self(handle))
    }

    /// `/metrics`.
    pub(crate) fn router(&self) -> Router {
        let handle = self.0.clone();
        let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
        Router::new().route("/metrics", get(move || async move { (text, handle.render()) }))
    }

    /// Looks every few seconds at what can only be looked at.
    pub(crate) fn sample(&self, node: &Node, logs: &Logs) -> JoinHandle<()> {
        let handle = self.0.clone();
        let sampler = Sampler {
            queue: Arc::clone(&node.queue),
            gateway: node.gateway.clone(),
            merchant: node.scope.merchant.clone(),
            redis: node.redis.clone(),
            dropped: logs.dropped.clone(),
            pool: match &node.store {
                Store::Memory => None,
                Store::Postgres(storage) => Some(storage.pool().clone()),
            },
        };
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PERIOD);
            for turn in 0_u64.. {
                ticks.tick().await;
                sampler.look().await;
                if turn % UNKNOWN_TURNS == 0 {
                    sampler.look_for_unknown().await;
                }
                // Keeps the memory of histograms that nobody reads from growing.
                handle.run_upkeep();
            }
        })
    }
}

struct Sampler {
    queue: Arc<dyn Queue>,
    gateway: pgw_core::gateway::Gateway,
    merchant: pgw_core::scope::MerchantId,
    redis: Option<Redis>,
    dropped: Option<ErrorCounter>,
    pool: Option<pgw_storage_postgres::sqlx::PgPool>,
}

impl Sampler {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and there are few of each")]
    async fn look(&self) {
        if let Err(error) = telemetry::sample(&*self.queue).await {
            tracing::warn!(%error, "the queue was not looked at");
        }
        if let Some(pool) = &self.pool {
            let idle = pool.num_idle();
            let used = usize::try_from(pool.size()).unwrap_or(0).saturating_sub(idle);
            metrics::gauge!(POOL, "state" => "idle").set(idle as f64);
            metrics::gauge!(POOL, "state" => "used").set(used as f64);
        }
        if let Some(redis) = &self.redis {
            look_at(redis).await;
        }
        if let Some(dropped) = &self.dropped {
            let lines = u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX);
            metrics::counter!(DROPPED).absolute(lines);
        }
    }

    async fn look_for_unknown(&self) {
        for mode in [Mode::Test, Mode::Live] {
            self.unknown(mode).await;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "at most a hundred are counted")]
    async fn unknown(&self, mode: Mode) {
        let scope = pgw_core::scope::Scope::new(self.merchant.clone(), mode);
        let host = self.gateway.by(pgw_core::access::Caller::host(scope));
        match Unknown::of(&host, &self.gateway).await {
            Ok(found) => {
                let oldest = found.oldest.unwrap_or_default();
                metrics::gauge!(UNKNOWN, "mode" => mode.as_str()).set(found.count as f64);
                metrics::gauge!(UNKNOWN_OLDEST, "mode" => mode.as_str()).set(oldest.as_secs_f64());
            }
            Err(error) => tracing::warn!(%error, "unknown outcomes were not counted"),
        }
    }
}

/// Whether Redis is there, and how full its fullest node is.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and rounds above 2^53 bytes")]
async fn look_at(redis: &Redis) {
    let is_up = redis.check().await.is_ok();
    metrics::gauge!(REDIS_UP).set(if is_up { 1.0 } else { 0.0 });
    if !is_up {
        return;
    }
    match redis.info().await {
        Ok(nodes) => {
            if let Some(node) = redis::fullest(&nodes) {
                metrics::gauge!(REDIS_USED).set(node.used_memory_bytes as f64);
                metrics::gauge!(REDIS_MAX).set(node.maxmemory_bytes.unwrap_or(0) as f64);
            }
        }
        // Away since, or an ACL that forbids it: everything else works.
        Err(error) => tracing::debug!(%error, "Redis does not say how full it is"),
    }
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge};
    describe_gauge!(POOL, "Connections to PostgreSQL, by state");
    describe_gauge!(
        UNKNOWN,
        "Payments of the configured merchant with an outcome that is unknown: of a charge, or of a capture, cancel or refund; counted up to 100"
    );
    describe_gauge!(
        UNKNOWN_OLDEST,
        Unit::Seconds,
        "How long ago the first of their operations of unknown outcome was sent; of the 100 oldest payments"
    );
    describe_counter!(DROPPED, "Lines that the log did not take in time");
    describe_gauge!(REDIS_UP, "1 while Redis answers this process, 0 while it does not");
    describe_gauge!(
        REDIS_USED,
        Unit::Bytes,
        "Memory that the data of the fullest node of Redis takes"
    );
    describe_gauge!(REDIS_MAX, Unit::Bytes, "Memory that it may take; 0: nothing bounds it");
}

const POOL: &str = "pgw_pool_connections";
const UNKNOWN: &str = "pgw_unknown_payments";
const UNKNOWN_OLDEST: &str = "pgw_unknown_oldest_seconds";
const DROPPED: &str = "pgw_log_lines_dropped_total";
const REDIS_UP: &str = "pgw_redis_up";
const REDIS_USED: &str = "pgw_redis_used_memory_bytes";
const REDIS_MAX: &str = "pgw_redis_maxmemory_bytes";
/// Shorter than Prometheus usually scrapes, longer than looking costs.
const PERIOD: Duration = Duration::from_secs(5);
/// Every so many periods unknown outcomes are counted, which may read a hundred payments: minutes are what counts there.
const UNKNOWN_TURNS: u64 = 6;
/// From a commit on an idle machine to the deadline of a slow receiver.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];
/// Commits in one transaction, up to as many as a group takes by default.
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

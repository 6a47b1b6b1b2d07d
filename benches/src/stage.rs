//! The stage of a benchmark over HTTP: a private server, a node on it, and the load and the sink around it.

use std::error::Error;
use std::time::Duration;

use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, query_scalar, raw_sql};
use pgw_storage_postgres::{Migrator, Schema};
use servers::{Postgres, Redis};

use crate::load::{Load, Until};
use crate::node::{Node, Place};
use crate::server;
use crate::sink::{Manner, Sink};
use crate::time::quantile;

/// What a part of the benchmark runs on. In this order it is dropped: the node before its server.
#[derive(Debug)]
pub struct Stage {
    /// The gateway.
    pub node: Node,
    /// Its payers.
    pub load: Load,
    /// Its receivers.
    pub sink: Sink,
    owner: PgConnection,
    postgres: Postgres,
    _redis: Option<Redis>,
}

impl Stage {
    /// Starts a server and a node with so many merchants.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn set(merchants: usize) -> Result<Self, Box<dyn Error>> {
        Self::with(merchants, None).await
    }

    /// The same with a Redis for jobs and hints.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn with_redis(merchants: usize) -> Result<Self, Box<dyn Error>> {
        Self::with(merchants, Some(Redis::builder().start()?)).await
    }

    async fn with(merchants: usize, redis: Option<Redis>) -> Result<Self, Box<dyn Error>> {
        let postgres = server::start(&[("shared_preload_libraries", "pg_stat_statements")]).await?;
        let mut owner = PgConnection::connect(&postgres.url()).await?;
        Migrator::new(Schema::default()).run(&mut owner).await?;
        raw_sql("create extension pg_stat_statements").execute(&mut owner).await?;
        let place =
            Place { redis: redis.as_ref().map(Redis::url), ..Place::database(postgres.url()) };
        let node = Node::start(&place, merchants)?;
        let load = Load::new(node.address);
        Ok(Self { node, load, sink: Sink::default(), owner, postgres, _redis: redis })
    }

    /// The server.
    #[must_use]
    pub const fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// What statements have written since this was last asked, by `pg_stat_statements`: records of the write-ahead log.
    ///
    /// # Errors
    /// When the server is gone.
    pub async fn records_written(&mut self) -> Result<u64, Box<dyn Error>> {
        let written = "select coalesce(sum(wal_records), 0)::bigint from pg_stat_statements";
        let count = self.count(written).await?;
        raw_sql("select pg_stat_statements_reset()").execute(&mut self.owner).await?;
        Ok(count)
    }

    /// Opens an endpoint of this merchant that hears when payments succeed.
    ///
    /// # Errors
    /// When the node refuses it.
    pub async fn endpoint(&self, merchant: usize, manner: Manner) -> Result<(), Box<dyn Error>> {
        let (number, url) = self.sink.open(manner).await?;
        let body = format!(r#"{{"url":"{url}","event_types":["payment.succeeded"]}}"#);
        let (key, name) = (&self.node.keys[merchant], format!("endpoint-{number}"));
        let made = self.load.post("/webhook-endpoints", key, &name, &body).await?;
        let made: serde_json::Value = serde_json::from_slice(&made)?;
        self.sink.trust(number, made["secret"].as_str().ok_or("an endpoint without a secret")?)
    }

    /// Creates payments of the first merchant until so many deliveries are pending, all of them charged.
    ///
    /// # Errors
    /// When a payment is refused or a delivery is missing.
    pub async fn fill(&mut self, endpoints: u64, pending: u64) -> Result<(), Box<dyn Error>> {
        let payments = Until::Count(pending.div_ceil(endpoints));
        self.load.saturate(&self.node.keys[0], CONNECTIONS, payments, None).await?;
        self.charged().await?;
        self.tidy().await?;
        let count = self.pending().await?;
        if count < pending { Err(format!("only {count} are pending").into()) } else { Ok(()) }
    }

    /// Waits until every payment is charged.
    ///
    /// # Errors
    /// When one never will be, as its operation is buried, and when the server is gone.
    pub async fn charged(&mut self) -> Result<(), Box<dyn Error>> {
        // The first by the index: to count them would read the whole table each time, on the processors that are measured.
        let due = "select count(*) from (select from pgw.operations where due_at is not null and buried is null order by due_at limit 1) t";
        self.until(due, |count| count == 0).await?;
        match self.count("select count(*) from pgw.operations where buried is not null").await? {
            0 => Ok(()),
            count => Err(format!("{count} operations are buried").into()),
        }
    }

    /// Does what autovacuum and the checkpointer do by themselves within minutes. Statements are planned anew after it, by what the tables
    /// hold.
    ///
    /// # Errors
    /// When the server is gone.
    pub async fn tidy(&mut self) -> Result<(), Box<dyn Error>> {
        for tidy in ["vacuum analyze", "checkpoint"] {
            raw_sql(tidy).execute(&mut self.owner).await?;
        }
        Ok(())
    }

    /// How many deliveries are pending.
    ///
    /// # Errors
    /// When the server is gone.
    pub async fn pending(&mut self) -> Result<u64, Box<dyn Error>> {
        self.count(PENDING).await
    }

    /// Waits until no delivery is pending.
    ///
    /// # Errors
    /// When the server is gone.
    pub async fn recorded(&mut self) -> Result<(), Box<dyn Error>> {
        self.until(PENDING, |count| count == 0).await
    }

    async fn count(&mut self, sql: &'static str) -> Result<u64, Box<dyn Error>> {
        let count: i64 = query_scalar(sql).fetch_one(&mut self.owner).await?;
        Ok(count.try_into()?)
    }

    async fn until(
        &mut self,
        sql: &'static str,
        is_so: impl Fn(u64) -> bool,
    ) -> Result<(), Box<dyn Error>> {
        while !is_so(self.count(sql).await?) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Fails unless all that came was recorded as delivered, each at its first attempt.
    ///
    /// # Errors
    /// It says what is missing.
    pub async fn check(&mut self) -> Result<(), Box<dyn Error>> {
        self.recorded().await?;
        let came = self.sink.count();
        let delivered = self.count("select count(*) from pgw.deliveries").await?;
        let attempts = self.count("select count(*) from pgw.attempts where status = 204").await?;
        if (delivered, attempts) != (came, came) || self.sink.verified() == 0 {
            return Err(format!("{came} came, {delivered} delivered, {attempts} attempts").into());
        }
        Ok(())
    }

    /// Creates payments at a fixed rate; how long after its time each was delivered.
    ///
    /// # Errors
    /// When a payment is refused or its delivery does not come.
    pub async fn steady(
        &self,
        keys: &[String],
        per_s: u32,
        time: Duration,
    ) -> Result<Latency, Box<dyn Error>> {
        let before = self.sink.count();
        let orders = self.load.steady(keys, per_s, time).await?;
        self.sink.wait_for(before + orders.len() as u64).await?;
        let arrivals = self.sink.arrivals();
        let mut latencies: Vec<Duration> =
            orders.iter().map(|(order, at)| arrivals[order].since(*at)).collect();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
        Ok(Latency { p50: ms(p50), p99: ms(p99) })
    }
}

/// How long deliveries took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// What half of them stay below.
    pub p50: f64,
    /// What 99 of 100 stay below.
    pub p99: f64,
}

/// Connections of a load that saturates.
pub const CONNECTIONS: usize = 128;
const PENDING: &str = "select count(*) from pgw.deliveries where state = 'pending'";

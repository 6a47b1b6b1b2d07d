//! What a rate of payments comes to: what was measured of one, times how many there are, under assumptions that have names.

use std::error::Error;

use super::measured::{Life, Measured};

/// What is not measured here. Each is to be replaced by what is known of one's own house.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assumed {
    /// Endpoints of a merchant, each of which hears everything.
    pub endpoints: u32,
    /// How much higher the peak is, which machines are bought for, than the mean, which disks are bought for.
    pub peak_to_mean: f64,
    /// How busy processors may be at the peak, as a share.
    pub busy_max: f64,
    /// Cores of the largest primary that one buys before a second one.
    pub primary_cores_max: f64,
    /// Megabytes of log a second that one primary writes and sends to its standby.
    pub primary_wal_mb_max: f64,
    /// Payments a second of a process with [`node_cores`](Self::node_cores), HTTP, charging and delivery included.
    pub node_per_s: f64,
    /// Cores of such a process.
    pub node_cores: f64,
    /// Connections of such a process: its pool, and the one that listens.
    pub node_connections: f64,
    /// Connections that a pooler keeps to a server, for each of its cores.
    pub pooled_a_core: f64,
    /// Servers that hold everything: the primary and its standby.
    pub copies: f64,
    /// Jobs a second of one Redis master.
    pub redis_jobs_per_s: f64,
    /// Dollars for a core and the memory that goes with it, an hour.
    pub core_hour_usd: f64,
    /// Dollars for a gigabyte of replicated disk, a month.
    pub gb_month_usd: f64,
}

/// The assumptions of the guide.
pub const ASSUMED: Assumed = Assumed {
    endpoints: 1,
    peak_to_mean: 4.0,
    busy_max: 0.6,
    primary_cores_max: 64.0,
    primary_wal_mb_max: 300.0,
    node_per_s: 750.0,
    node_cores: 2.0,
    node_connections: 17.0,
    pooled_a_core: 4.0,
    copies: 2.0,
    redis_jobs_per_s: 20_000.0,
    core_hour_usd: 0.05,
    gb_month_usd: 0.12,
};

/// Where jobs are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// In the rows.
    InPostgres,
    /// In Redis: nothing of a claim is PostgreSQL's.
    InRedis,
}

/// What a rate comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Payments a second, at the peak.
    pub per_s: f64,
    /// Rows that are inserted a second, at the peak.
    pub rows_per_s: f64,
    /// Webhooks a second, at the peak.
    pub webhooks_per_s: f64,
    /// Megabytes of log a second, at the peak, of all primaries.
    pub wal_mb_per_s: f64,
    /// Cores that are busy at the peak, of all primaries.
    pub busy_cores: f64,
    /// Cores that are bought, of all primaries.
    pub primary_cores: f64,
    /// How many primaries: 1 is PostgreSQL, more are shards.
    pub primaries: f64,
    /// How busy the sequencer is, which is one at a time: above 1, feeds fall behind.
    pub sequencer: f64,
    /// Gigabytes more a day.
    pub gb_a_day: f64,
    /// Terabytes after a year.
    pub tb_a_year: f64,
    /// Processes that serve and work.
    pub nodes: f64,
    /// Their connections.
    pub connections: f64,
    /// Connections of the servers behind poolers.
    pub pooled: f64,
    /// Redis masters; none when claims are in the rows.
    pub redis_masters: f64,
    /// Dollars a month for cores.
    pub cores_usd: f64,
    /// Dollars a month for disks, after a year.
    pub disk_usd: f64,
    /// Dollars of both for a million payments.
    pub million_usd: f64,
}

impl Size {
    /// What so many payments a second at the peak come to.
    ///
    /// # Errors
    /// When a run that it is made from is missing.
    pub fn of(
        per_s: f64,
        claims: Claims,
        measured: &Measured,
        assumed: &Assumed,
    ) -> Result<Self, Box<dyn Error>> {
        let one = Demand::of(measured.plain(assumed.endpoints)?, per_s, claims, assumed);
        if one.primaries(assumed) <= 1.0 {
            return Ok(one.size(1.0, claims, assumed));
        }
        // More than one machine is spoken to in more and smaller statements.
        let many = Demand::of(measured.distributed()?, per_s, claims, assumed);
        Ok(many.size(many.primaries(assumed), claims, assumed))
    }
}

/// What is asked of PostgreSQL at the peak.
struct Demand<'m> {
    life: &'m Life,
    per_s: f64,
    cores: f64,
    busy: f64,
    wal_mb: f64,
}

impl<'m> Demand<'m> {
    fn of(life: &'m Life, per_s: f64, claims: Claims, assumed: &Assumed) -> Self {
        let (mut cpu_ms, mut wal) = (life.cpu_ms, life.wal_bytes);
        if claims == Claims::InRedis {
            cpu_ms *= 1.0 - life.share("claims");
            wal -= life.of("claims").wal_bytes;
        }
        let busy = per_s * cpu_ms / 1e3;
        Self { life, per_s, cores: busy / assumed.busy_max, busy, wal_mb: per_s * wal / 1e6 }
    }

    /// As many as it takes for the processors and for the log.
    fn primaries(&self, assumed: &Assumed) -> f64 {
        let by_cores = self.cores / assumed.primary_cores_max;
        by_cores.max(self.wal_mb / assumed.primary_wal_mb_max).ceil().max(1.0)
    }

    fn size(&self, primaries: f64, claims: Claims, assumed: &Assumed) -> Size {
        let stored = self.life.stored();
        // A server has an even number of cores, and not less than two.
        let each = (self.cores / primaries / 2.0).ceil().max(1.0) * 2.0;
        let primary_cores = each * primaries;
        let nodes = (self.per_s / assumed.node_per_s).ceil();
        let jobs_per_s = self.per_s * (1.0 + self.life.webhooks());
        let redis_masters = match claims {
            Claims::InPostgres => 0.0,
            Claims::InRedis => (jobs_per_s / assumed.redis_jobs_per_s).ceil(),
        };
        let mean = self.per_s / assumed.peak_to_mean;
        let gb_a_day = mean * 86_400.0 * (stored.heap + stored.indexes) / 1e9;
        let gb_a_year = gb_a_day * 365.0;
        let cores = primary_cores * assumed.copies
            + nodes * assumed.node_cores
            + redis_masters * assumed.copies * REDIS_CORES;
        let cores_usd = cores * assumed.core_hour_usd * HOURS_A_MONTH;
        let disk_usd = gb_a_year * assumed.copies * assumed.gb_month_usd;
        let payments_a_month = mean * 3_600.0 * HOURS_A_MONTH;
        Size {
            per_s: self.per_s,
            rows_per_s: self.per_s * stored.rows,
            webhooks_per_s: self.per_s * self.life.webhooks(),
            wal_mb_per_s: self.wal_mb,
            busy_cores: self.busy,
            primary_cores,
            primaries,
            sequencer: self.per_s * self.life.of("sweeps").ms / 1e3,
            gb_a_day,
            tb_a_year: gb_a_year / 1e3,
            nodes,
            connections: nodes * assumed.node_connections,
            pooled: primary_cores * assumed.pooled_a_core,
            redis_masters,
            cores_usd,
            disk_usd,
            million_usd: (cores_usd + disk_usd) / payments_a_month * 1e6,
        }
    }
}

const HOURS_A_MONTH: f64 = 730.0;
/// Redis runs commands on one core and needs another for its connections.
const REDIS_CORES: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// A payment that takes 1 ms, 10 kB of log and 8 kB of disk; as on several machines, twice the time. A fifth of it is claims.
    fn measured() -> Measured {
        let life = |distributed: bool, cpu_ms: f64| {
            format!(
                r#"{{"endpoints": 1, "partitions": 1, "distributed": {distributed}, "wal_bytes": 10000, "commits": 2, "cpu_ms": {cpu_ms},
                "statements": {{"claims": {{"calls": 1, "wal_bytes": 2000, "ms": 1}}, "commits": {{"calls": 1, "wal_bytes": 8000, "ms": 3.9}},
                "sweeps": {{"calls": 1, "wal_bytes": 0, "ms": 0.1}}}},
                "tables": {{"payments": {{"rows": 1, "heap": 3000, "indexes": 1000}}, "deliveries": {{"rows": 2, "heap": 3000, "indexes": 1000}}}}}}"#
            )
        };
        let runs = [life(false, 1.0), life(true, 2.0)].join(",");
        let json =
            format!(r#"{{"postgres": "15", "payments": 1, "merchants": 1, "runs": [{runs}]}}"#);
        Measured::parse(&json).expect("as it is written")
    }

    fn size(per_s: f64, claims: Claims) -> Size {
        Size::of(per_s, claims, &measured(), &ASSUMED).expect("both runs are there")
    }

    #[test]
    fn a_rate_is_as_many_times_one_payment() {
        let size = size(1_000.0, Claims::InPostgres);
        assert_eq!(
            (size.rows_per_s, size.webhooks_per_s, size.wal_mb_per_s),
            (3_000.0, 2_000.0, 10.0)
        );
        // One core is busy, which may be 60 % of what is bought, in pairs.
        assert_eq!((size.busy_cores, size.primary_cores, size.primaries), (1.0, 2.0, 1.0));
        // The mean is a quarter: 250 a second, 8 kB each.
        assert!((size.gb_a_day - 172.8).abs() < 1e-9, "{}", size.gb_a_day);
        assert_eq!((size.nodes, size.connections, size.redis_masters), (2.0, 34.0, 0.0));
        assert!((size.sequencer - 0.1).abs() < 1e-9, "{}", size.sequencer);
    }

    #[test]
    fn what_one_machine_cannot_do_is_spread_and_costs_what_it_costs_there() {
        let (below, above) =
            (size(30_000.0, Claims::InPostgres), size(40_000.0, Claims::InPostgres));
        assert_eq!((below.primaries, below.busy_cores), (1.0, 30.0));
        // 400 MB of log a second are too many for one; 80 busy cores are 134 of 64.
        assert_eq!((above.primaries, above.busy_cores), (3.0, 80.0));
        assert!(above.primary_cores >= above.busy_cores / ASSUMED.busy_max);
        assert!(above.primary_cores / above.primaries <= ASSUMED.primary_cores_max);
    }

    #[test]
    fn claims_in_redis_are_none_of_postgresqls() {
        let (rows, redis) = (size(10_000.0, Claims::InPostgres), size(10_000.0, Claims::InRedis));
        assert!((redis.busy_cores - 0.8 * rows.busy_cores).abs() < 1e-9);
        assert_eq!((rows.wal_mb_per_s, redis.wal_mb_per_s), (100.0, 80.0));
        // An operation and two deliveries each.
        assert_eq!(redis.redis_masters, 2.0);
        assert_eq!(redis.tb_a_year, rows.tb_a_year);
    }
}

//! Payments and webhooks over real HTTP: created, charged by the sandbox, signed, delivered to a sink on loopback, attempts recorded.
//!
//! `cargo run --release -p benches --bin deliveries [-- --only drain,end,latency,isolation,memory,redis,processes] [--seconds N] [--drained N]
//! [--pending N]`. Each part starts a private server with `fsync` and `synchronous_commit` on and a node (gateway, worker, HTTP interface) in a
//! process of its own; the load and the sink are in this one. The last line is
//! `result: isolation_p99_ratio=… drained_per_s=… end_to_end_per_s=… p50_ms=… p99_ms=… rss_mib=… redis_vs_pg=… records_vs_pg=…
//! processes_vs_one=… pooled_vs_one_pooled=… polling_vs_one=… unprepared_vs_one=…`, NaN for what was not measured. `redis` is the way from creation to
//! delivery with jobs and hints in Redis, against the same in PostgreSQL, and what is written to PostgreSQL on it; `processes` is what one process
//! and two create and charge, with and without PgBouncer: two behind it against one without, and against one behind it; two behind it that do not
//! hear hints, and two behind one that keeps no prepared statements, against one without. Both take fifteen turns of each, which share the seconds,
//! and of which the median counts.

use std::error::Error;
use std::time::Duration;

use benches::load::{Load, Until};
use benches::median;
use benches::node::{NODE, Node, Place};
use benches::server;
use benches::sink::Manner;
use benches::stage::{CONNECTIONS, Latency, Stage};
use benches::time::Moment;
use pgw_storage_postgres::{Link, Timeouts};
use servers::PgBouncer;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == NODE).is_some() {
        return benches::node::run(arguments);
    }
    let options = Options::parse(arguments)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&options))
}

struct Options {
    only: Vec<String>,
    time: Duration,
    drained: u64,
    pending: u64,
}

const PARTS: [&str; 7] = ["drain", "end", "latency", "isolation", "memory", "redis", "processes"];

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let only = PARTS.map(str::to_owned).to_vec();
        let time = Duration::from_secs(10);
        let mut options = Self { only, time, drained: 50_000, pending: 100_000 };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--seconds" => options.time = Duration::from_secs(value.parse()?),
                "--drained" => options.drained = value.parse()?,
                "--pending" => options.pending = value.parse()?,
                _ => {
                    let known = "--only PART,…, --seconds N, --drained N and --pending N";
                    return Err(format!("{name}: there are {known}").into());
                }
            }
        }
        match options.only.iter().find(|part| !PARTS.contains(&part.as_str())) {
            Some(part) => Err(format!("{part}: the parts are {}", PARTS.join(", ")).into()),
            None => Ok(options),
        }
    }

    fn has(&self, part: &str) -> bool {
        self.only.iter().any(|only| only == part)
    }
}

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut drained = f64::NAN;
    let mut end_to_end = f64::NAN;
    let mut latency = Latency { p50: f64::NAN, p99: f64::NAN };
    let mut ratio = f64::NAN;
    let mut rss = f64::NAN;
    println!("{:<68} {:>12}", "what", "figure");
    if options.has("drain") {
        drained = drain(options.drained).await?;
        let what = format!("{} deliveries drained, to {FAN} endpoints", options.drained);
        println!("{what:<68} {drained:>10.0}/s");
    }
    if options.has("end") {
        let mut stage = end_to_end_stage(Stage::set(1).await?).await?;
        end_to_end = end(&mut stage, options.time).await?.per_s;
        let what = "payments created, charged and delivered to one endpoint";
        println!("{what:<68} {end_to_end:>10.0}/s");
    }
    if options.has("latency") {
        latency = idle(options.time).await?;
        let what = format!("from creation to delivery at {STEADY} payments a second");
        println!("{:<68} {:>9.2} ms", format!("{what}, p50"), latency.p50);
        println!("{:<68} {:>9.2} ms", format!("{what}, p99"), latency.p99);
    }
    if options.has("isolation") {
        let (calm, busy) = isolation(options.pending, options.time).await?;
        ratio = busy.p99 / calm.p99;
        let what = format!("{OTHERS} endpoints at {STEADY} payments a second, p99");
        println!("{what:<68} {:>9.2} ms", calm.p99);
        let what =
            format!("{HANGING} more hanging, {} pending, p99 of the others", options.pending);
        println!("{what:<68} {:>9.2} ms", busy.p99);
    }
    if options.has("memory") {
        rss = memory(options.pending).await?;
        let what = format!("resident memory of the node, {} pending", options.pending);
        println!("{what:<68} {rss:>8.1} MiB");
    }
    let (mut redis, mut records) = (f64::NAN, f64::NAN);
    let (mut processes, mut pooled) = (f64::NAN, f64::NAN);
    let (mut polling, mut unprepared) = (f64::NAN, f64::NAN);
    if options.has("redis") {
        let (of_rows, of_redis) = both_ways(options.time).await?;
        for (what, way) in [("PostgreSQL", &of_rows), ("Redis", &of_redis)] {
            let what = format!("created, charged and delivered, jobs in {what}");
            println!("{what:<68} {:>10.0}/s", way.per_s);
            println!("{:<68} {:>12.1}", format!("{what}, WAL records each"), way.records);
        }
        redis = of_redis.per_s / of_rows.per_s;
        records = of_redis.records / of_rows.records;
    }
    if options.has("processes") {
        let rates = shared_out(options.time).await?;
        for ((.., what), rate) in WAYS.iter().zip(rates) {
            println!("{:<68} {rate:>10.0}/s", format!("created and charged, {what}"));
        }
        let [one, one_pooled, two_unprepared, two_polling, two_pooled, _] = rates;
        pooled = two_pooled / one_pooled;
        processes = two_pooled / one;
        polling = two_polling / one;
        unprepared = two_unprepared / one;
    }
    println!(
        "result: isolation_p99_ratio={ratio:.2} drained_per_s={drained:.0} end_to_end_per_s={end_to_end:.0} \
         p50_ms={:.2} p99_ms={:.2} rss_mib={rss:.1} redis_vs_pg={redis:.2} records_vs_pg={records:.2} processes_vs_one={processes:.2} \
         pooled_vs_one_pooled={pooled:.2} polling_vs_one={polling:.2} unprepared_vs_one={unprepared:.2}",
        latency.p50, latency.p99
    );
    Ok(())
}

/// Deliveries a second out of a backlog, until the last attempt is recorded.
async fn drain(count: u64) -> Result<f64, Box<dyn Error>> {
    let mut stage = Stage::set(1).await?;
    for _ in 0..FAN {
        stage.endpoint(0, Manner::Answers).await?;
    }
    stage.fill(FAN, count).await?;
    let pending = stage.pending().await?;
    let start = Moment::now();
    stage.node.deliver()?;
    stage.sink.wait_for(pending).await?;
    stage.recorded().await?;
    let rate = pending as f64 / start.ago().as_secs_f64();
    stage.check().await?;
    Ok(rate)
}

/// The way of payments from creation to delivery.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    /// Payments a second, until the last of those created in the time is delivered.
    per_s: f64,
    /// Records that each writes into the log of PostgreSQL.
    records: f64,
}

/// With jobs and hints in PostgreSQL, and in Redis. They take turns, so that both are measured on a machine that is as busy; of each it is the median
/// of its turns, as one in which the disk stands still for seconds says nothing of either.
async fn both_ways(time: Duration) -> Result<(Way, Way), Box<dyn Error>> {
    let mut stages = [
        end_to_end_stage(Stage::set(1).await?).await?,
        end_to_end_stage(Stage::with_redis(1).await?).await?,
    ];
    let mut turns = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        for way in order(turn, stages.len()) {
            turns[way].push(end(&mut stages[way], time / TURNS).await?);
        }
    }
    let [in_postgres, in_redis] = turns.map(|turns| Way {
        per_s: median(turns.iter().map(|turn| turn.per_s)),
        records: median(turns.iter().map(|turn| turn.records)),
    });
    Ok((in_postgres, in_redis))
}

/// So many in the order of this turn, there or back: none always comes after the same other.
fn order(turn: u32, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |n| if turn.is_multiple_of(2) { n } else { count - 1 - n })
}

/// A stage with an endpoint, on which every connection has each statement's plan.
async fn end_to_end_stage(mut stage: Stage) -> Result<Stage, Box<dyn Error>> {
    stage.endpoint(0, Manner::Answers).await?;
    stage.node.deliver()?;
    end(&mut stage, WARM).await?;
    stage.tidy().await?;
    Ok(stage)
}

async fn end(stage: &mut Stage, time: Duration) -> Result<Way, Box<dyn Error>> {
    let key = stage.node.keys[0].clone();
    let places = stage.sink.places();
    places.forget_permits(usize::MAX);
    places.add_permits(ON_THE_WAY_MAX);
    let before = stage.sink.count();
    stage.records_written().await?;
    let start = Moment::now();
    let load = &stage.load;
    let created = load.saturate(&key, CONNECTIONS, Until::Time(time), Some(places)).await?;
    stage.sink.wait_for(before + created).await?;
    let per_s = created as f64 / start.ago().as_secs_f64();
    let records = stage.records_written().await? as f64 / created as f64;
    stage.check().await?;
    Ok(Way { per_s, records })
}

/// Payments created and charged a second in each of the [`WAYS`], in their order: the medians of their turns.
async fn shared_out(time: Duration) -> Result<[f64; WAYS.len()], Box<dyn Error>> {
    let mut crews = Vec::new();
    for (processes, link, hints, _) in WAYS {
        crews.push(Crew::start(processes, link, hints).await?);
    }
    let mut turns = [const { Vec::new() }; WAYS.len()];
    for turn in 0..TURNS {
        for way in order(turn, WAYS.len()) {
            turns[way].push(crews[way].charged(time / TURNS).await?);
        }
    }
    Ok(turns.map(median))
}

/// How a process learns of work that it did not make: hints go past a pooler, as LISTEN does not work through one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hints {
    Heard,
    None,
}

/// Processes that share a database and what comes in. In this order it is dropped: each before what it is connected to.
struct Crew {
    loads: Vec<(Load, Node)>,
    _pooler: Option<PgBouncer>,
    stage: Stage,
}

impl Crew {
    async fn start(processes: usize, link: Link, hints: Hints) -> Result<Self, Box<dyn Error>> {
        let mut stage = Stage::set(1).await?;
        // Those that are measured work alone.
        stage.node.end();
        let mut role = format!("create role {POOLED} login superuser;");
        if link == Link::PreparedPooler {
            role.push_str(&Timeouts::default().for_role(POOLED));
        }
        server::psql(stage.postgres(), &role)?;
        let pooler = PgBouncer::builder(stage.postgres()).with_role(POOLED);
        let pooler = match link {
            Link::Pooler => Some(pooler.start()?),
            Link::PreparedPooler => Some(pooler.keeping_statements().start()?),
            _ => None,
        };
        let direct = stage.postgres().url();
        let place = match &pooler {
            Some(pooler) => {
                let listens = Some(direct).filter(|_| hints == Hints::Heard);
                Place { link, listens, ..Place::database(pooler.url()) }
            }
            None => Place::database(direct),
        };
        let mut loads = Vec::new();
        for n in 0..processes as u64 {
            let node = Node::start(&place, 1)?;
            loads.push((Load::from(node.address, n << 32), node));
        }
        let mut crew = Self { loads, _pooler: pooler, stage };
        crew.charged(WARM).await?;
        crew.stage.tidy().await?;
        Ok(crew)
    }

    /// Payments created and charged a second, until the last is.
    async fn charged(&mut self, time: Duration) -> Result<f64, Box<dyn Error>> {
        let start = Moment::now();
        let connections = CONNECTIONS / self.loads.len();
        let create = |(load, node): &(Load, Node)| {
            let (load, key) = (load.clone(), node.keys[0].clone());
            tokio::spawn(async move {
                let created = load.saturate(&key, connections, Until::Time(time), None).await;
                created.map_err(|error| error.to_string())
            })
        };
        let mut created = 0;
        for load in self.loads.iter().map(create).collect::<Vec<_>>() {
            created += load.await??;
        }
        self.stage.charged().await?;
        Ok(created as f64 / start.ago().as_secs_f64())
    }
}

/// From creation to delivery when there is little to do.
async fn idle(time: Duration) -> Result<Latency, Box<dyn Error>> {
    let mut stage = Stage::set(1).await?;
    stage.endpoint(0, Manner::Answers).await?;
    stage.node.deliver()?;
    stage.steady(&stage.node.keys, STEADY, WARM).await?;
    let latency = stage.steady(&stage.node.keys, STEADY, time).await?;
    stage.check().await?;
    Ok(latency)
}

/// The same of many merchants with an endpoint each: alone, and beside one whose endpoints hang over a backlog.
async fn isolation(pending: u64, time: Duration) -> Result<(Latency, Latency), Box<dyn Error>> {
    let mut stage = Stage::set(1 + OTHERS).await?;
    for merchant in 1..=OTHERS {
        stage.endpoint(merchant, Manner::Answers).await?;
    }
    stage.node.deliver()?;
    let others = stage.node.keys[1..].to_vec();
    stage.steady(&others, STEADY, WARM).await?;
    let calm = stage.steady(&others, STEADY, time).await?;
    for _ in 0..HANGING {
        stage.endpoint(0, Manner::Hangs).await?;
    }
    stage.fill(HANGING, pending).await?;
    stage.steady(&others, STEADY, WARM).await?;
    let busy = stage.steady(&others, STEADY, time).await?;
    let count = stage.pending().await?;
    if count < pending { Err(format!("{count} are left").into()) } else { Ok((calm, busy)) }
}

/// The node's memory in MiB: the most that it has of the time after it took in a backlog and until it has drained half of it.
async fn memory(pending: u64) -> Result<f64, Box<dyn Error>> {
    let mut stage = Stage::set(1).await?;
    for _ in 0..FAN {
        stage.endpoint(0, Manner::Answers).await?;
    }
    stage.fill(FAN, pending).await?;
    let mut most = stage.node.rss_mib()?;
    stage.node.deliver()?;
    while stage.sink.count() < pending / 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(stage.node.rss_mib()?);
    }
    Ok(most)
}

/// Endpoints of a backlog.
const FAN: u64 = 10;
/// Payments that a load which saturates has created and not seen delivered, three for each of its connections: it would outrun the worker, which
/// shares its processors.
const ON_THE_WAY_MAX: usize = 384;
/// Into how many turns the time of each is divided where two are compared.
const TURNS: u32 = 15;
/// What is compared of processes: how many, what is between them and the database, and whether they hear each other's hints.
const WAYS: [(usize, Link, Hints, &str); 6] = [
    (1, Link::Direct, Hints::Heard, "one process"),
    (1, Link::PreparedPooler, Hints::Heard, "one process behind PgBouncer"),
    (2, Link::Pooler, Hints::Heard, "two processes behind PgBouncer, nothing prepared"),
    (2, Link::PreparedPooler, Hints::None, "two processes behind PgBouncer, polling"),
    (2, Link::PreparedPooler, Hints::Heard, "two processes behind PgBouncer"),
    (2, Link::Direct, Hints::Heard, "two processes"),
];
/// Who a pooler connects as.
const POOLED: &str = "pooled";
/// Payments a second of a steady load.
const STEADY: u32 = 100;
/// How long a steady load runs before it counts: connections are made and statements prepared.
const WARM: Duration = Duration::from_secs(2);
/// Endpoints that never answer, and those beside them.
const HANGING: u64 = 3;
const OTHERS: usize = 97;

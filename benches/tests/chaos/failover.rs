//! The primary of a synchronous pair is killed under load, and its standby promoted: what was acknowledged is there, clients and workers find
//! the new primary by themselves, and what was in doubt is told by its key.

use benches::worker::Spec;
use pgw_storage_postgres::Link;
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, query_scalar, raw_sql};
use servers::{PgBouncer, PostgresPair, Redis};

use crate::clients::Manners;
use crate::evidence::Evidence;
use crate::stage::{HEALTHY, Stage, WEBHOOK_TIMEOUT, Ways, migrate};

/// Every other time, starting with the first, when creations are on both disks and nobody was told so: the gateway asks again with the same
/// changes, which must not be applied twice. What is asserted of rows and books sees it if they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_takes_over() {
    let _turn = crate::turn().await;
    let rounds = crate::rounds(1);
    for round in 1..=rounds {
        let (mut pair, url) = start().await;
        // Told from the workers by whom they connect as.
        let mut owner = PgConnection::connect(&url).await.expect(HEALTHY);
        raw_sql("create role clients superuser login").execute(&mut owner).await.expect(HEALTHY);
        owner.close().await.expect(HEALTHY);
        let ways = Ways { clients: url.replacen("pgw@", "clients@", 1), owner: url.clone() };
        let spec = Spec::on(url, WEBHOOK_TIMEOUT);
        let mut stage = Stage::set(spec, ways, Manners::Patient).await;
        stage.progress(STEP).await;
        let held = match round % 2 {
            1 => hold_answers(&pair, &mut stage).await,
            _ => 0,
        };
        let evidence = fail_over(&mut pair, stage).await;
        println!("failover {round} of {rounds}, {held} groups of creations unanswered: {evidence}");
    }
}

/// As people run it: PostgreSQL behind PgBouncer, jobs and hints in Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_takes_over_behind_pgbouncer() {
    let _turn = crate::turn().await;
    let rounds = crate::rounds(1);
    let redis = Redis::builder().start().expect("Redis is installed");
    for round in 1..=rounds {
        let (mut pair, owner) = start().await;
        let pooler = PgBouncer::builder_for_pair(&pair).start().expect("PgBouncer is installed");
        let (link, redis) = (Link::Pooler, vec![redis.url()]);
        let spec = Spec { link, redis, ..Spec::on(pooler.url(), WEBHOOK_TIMEOUT) };
        let ways = Ways { clients: pooler.url(), owner };
        let mut stage = Stage::set(spec, ways, Manners::Mixed).await;
        stage.progress(STEP).await;
        let evidence = fail_over(&mut pair, stage).await;
        println!("failover {round} of {rounds} behind PgBouncer: {evidence}");
    }
}

async fn start() -> (PostgresPair, String) {
    // A commit is acknowledged once it can be read on the standby, so that whoever stops the standby's reading holds answers back.
    let pair = PostgresPair::builder().with_setting("synchronous_commit", "remote_apply");
    let pair = pair.start().expect("PostgreSQL is installed");
    let url = pair.url();
    migrate(&url).await;
    (pair, url)
}

async fn fail_over(pair: &mut PostgresPair, mut stage: Stage) -> Evidence {
    pair.kill_primary().expect("it can be killed");
    pair.promote().expect("the standby takes over");
    stage.progress(STEP).await;
    let kept = stage.rest().await;
    Evidence::gather(&stage, &kept).await
}

/// Makes commits of clients wait for an answer that is never sent, while what they did is on both disks. How many wait.
async fn hold_answers(pair: &PostgresPair, stage: &mut Stage) -> i64 {
    let standby = pair.standby().expect("it was not promoted yet");
    let mut primary = PgConnection::connect(&pair.primary().url()).await.expect(HEALTHY);
    let mut standby = PgConnection::connect(&standby.url()).await.expect(HEALTHY);
    raw_sql("select pg_wal_replay_pause()").execute(&mut standby).await.expect(HEALTHY);
    // Whoever waits for an order to be paid waits for long; this one orders now.
    stage.clients.start(&mut stage.calls);
    let mut held = 0;
    for _ in 0..LOOKS_MAX {
        held = query_scalar(HELD).fetch_one(&mut primary).await.expect(HEALTHY);
        if held > 0 {
            break;
        }
    }
    assert!(held > 0, "no commit of a client waits for the standby");
    let flushed = query_scalar(FLUSHED).fetch_one(&mut primary).await;
    let flushed: String = flushed.expect(HEALTHY);
    for _ in 0..LOOKS_MAX {
        let is_there = query_scalar(IS_THERE).bind(&flushed).fetch_one(&mut standby).await;
        if is_there.expect(HEALTHY) {
            return held;
        }
    }
    panic!("the standby does not receive {flushed}");
}

/// Orders between two blows.
const STEP: u64 = 40;
const HELD: &str =
    "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and usename = 'clients'";
const FLUSHED: &str = "select pg_current_wal_flush_lsn()::text";
const IS_THERE: &str = "select pg_last_wal_receive_lsn() >= $1::pg_lsn";
/// One look is a round trip.
const LOOKS_MAX: u32 = 100_000;

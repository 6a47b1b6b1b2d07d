//! Redis is killed, emptied, and fails over; workers are killed with a charge under way. What Redis had is found again in the rows.

use std::io;
use std::net::SocketAddr;

use benches::worker::Spec;
use servers::{Postgres, Redis, RedisCluster};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::clients::Manners;
use crate::evidence::Evidence;
use crate::stage::{Stage, WEBHOOK_TIMEOUT, Ways, migrate};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_emptied() {
    let _turn = crate::turn().await;
    let rounds = crate::rounds(2);
    let postgres = Postgres::builder().start().expect("PostgreSQL is installed");
    let mut redis = Redis::builder().start().expect("Redis is installed");
    let mut stage = set(&postgres, vec![redis.url()]).await;
    let mut lost = 0;
    for round in 1..=rounds {
        stage.progress(STEP).await;
        redis.kill().expect("it can be killed");
        // Without it: the jobs of whoever orders now are found in the rows.
        stage.progress(STEP).await;
        redis.restart().expect("it starts again");
        stage.progress(STEP).await;
        let worker = stage.waiting_worker().await;
        let keys = empty(redis.address(), &mut stage).await;
        stage.replace(worker);
        lost += keys;
        println!(
            "round {round} of {rounds}: Redis killed, emptied of {keys} keys, worker {worker} killed"
        );
    }
    stage.progress(STEP).await;
    let kept = stage.rest().await;
    let evidence = Evidence::gather(&stage, &kept).await;
    println!(
        "{rounds} kills of Redis, {rounds} times emptied ({lost} keys), {rounds} kills of workers: {evidence}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_cluster_fails_over() {
    let _turn = crate::turn().await;
    let rounds = crate::rounds(2);
    let postgres = Postgres::builder().start().expect("PostgreSQL is installed");
    let mut cluster = RedisCluster::builder().with_replicas().start().expect("Redis is installed");
    let mut stage = set(&postgres, cluster.urls()).await;
    let mut masters = [0, 1, 2];
    for round in 1..=rounds {
        stage.progress(STEP).await;
        let part = round as usize % masters.len();
        let master = masters[part];
        cluster.kill(master).expect("it can be killed");
        stage.progress(STEP).await;
        let successor = cluster.wait_failover(master).expect("its replica takes over");
        masters[part] = successor;
        stage.progress(STEP).await;
        let worker = stage.waiting_worker().await;
        stage.replace(worker);
        // As a replica of its successor, for the next time.
        cluster.restart(master).expect("it starts again");
        cluster.wait_ready().expect("it has its master's data");
        println!(
            "round {round} of {rounds}: node {successor} took over from {master}, worker {worker} killed"
        );
    }
    stage.progress(STEP).await;
    let kept = stage.rest().await;
    let evidence = Evidence::gather(&stage, &kept).await;
    println!("{rounds} failovers of a master, {rounds} kills of workers: {evidence}");
}

async fn set(postgres: &Postgres, redis: Vec<String>) -> Stage {
    let url = postgres.url();
    migrate(&url).await;
    let spec = Spec { redis, ..Spec::on(&url, WEBHOOK_TIMEOUT) };
    Stage::set(spec, Ways { clients: url.clone(), owner: url }, Manners::Mixed).await
}

/// Takes all that Redis has; how many keys that was. Whoever lost it may not have come back to it yet: then it is taken again.
async fn empty(redis: SocketAddr, stage: &mut Stage) -> u64 {
    for _ in 0..LOOKS_MAX {
        let keys = flush(redis).await.expect("it is there");
        if keys > 0 {
            return keys;
        }
        stage.progress(1).await;
    }
    panic!("nobody has come back to Redis");
}

/// `FLUSHALL`, and how many keys there were just then.
async fn flush(redis: SocketAddr) -> io::Result<u64> {
    let mut stream = BufReader::new(TcpStream::connect(redis).await?);
    stream.write_all(b"MULTI\r\nDBSIZE\r\nFLUSHALL\r\nEXEC\r\n").await?;
    let mut lines = stream.lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(keys) = line.strip_prefix(':') {
            let done = lines.next_line().await?;
            assert_eq!(done.as_deref(), Some("+OK"));
            return keys.parse().map_err(io::Error::other);
        }
        assert!(!line.starts_with('-'), "{line}");
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Orders between two blows.
const STEP: u64 = 40;
/// One look is an order.
const LOOKS_MAX: u32 = 10_000;

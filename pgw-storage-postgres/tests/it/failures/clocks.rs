//! Gateways whose clocks are hours apart, over one storage: leases and due times are the server's business.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgw_core::changes::{Changes, Guard, Write};
use pgw_core::env::{Clock, Env, SystemClock, SystemEntropy};
use pgw_core::gateway::Gateway;
use pgw_core::payment::PaymentState;
use pgw_core::payment::plan::NewPayment;
use pgw_core::queue::{Claim, Job, Lane, Queue as _, Settlement, Verdict};
use pgw_core::scope::Scope;
use pgw_core::storage::Storage as _;
use pgw_core::testing::sample::{Samples, job_of};
use pgw_core::timestamp::Timestamp;
use pgw_storage_postgres::{PgStorage, Schema, ServerClock};

use super::{commit, is_applied};
use crate::fixtures::{schema, url};

const HOUR: Duration = Duration::from_secs(3_600);
const LEASE: Duration = Duration::from_secs(60);

/// The system's clock, an hour off.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Ahead,
    Behind,
}

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        match self {
            Self::Ahead => SystemClock.now().plus(HOUR),
            Self::Behind => SystemClock.now().minus(HOUR),
        }
    }
}

/// A process with a wrong clock.
struct Node {
    storage: PgStorage,
    gateway: Gateway,
}

impl Node {
    async fn start(schema: &Schema, server: &ServerClock, wrong: Wrong) -> Self {
        let env = Env::new(Arc::new(wrong), Arc::new(SystemEntropy));
        let builder = PgStorage::builder().with_schema(schema.clone()).with_connections_max(2);
        let builder = builder.with_clock(server.clone()).with_env(env.clone());
        let storage = builder.connect(&url("PGW_TEST_POSTGRES")).await.expect("migrated");
        let gateway = Gateway::builder()
            .with_queue(Arc::new(storage.queue()))
            .with_notifier(Arc::new(storage.notifier()))
            .with_storage(Arc::new(storage.clone()))
            .with_env(env)
            .build()
            .expect("nothing is missing");
        Self { storage, gateway }
    }

    async fn create(&self) -> PaymentState {
        let sample = Samples::new(1).payment();
        let new = NewPayment::new(sample.amount, sample.customer, sample.payment_method);
        self.gateway.host().create_payment(new).await.expect("a valid payment").state
    }

    async fn claim(&self, max: usize) -> Vec<Claim> {
        self.storage.queue().claim(Lane::Operations, max, LEASE).await.expect("a healthy server")
    }

    async fn extend(&self, claims: &[Claim]) -> Vec<bool> {
        self.storage.queue().extend(claims, LEASE).await.expect("a healthy server")
    }

    async fn due(&self, jobs: &[Job]) -> usize {
        let mut due = 0;
        for job in jobs {
            due += usize::from(self.storage.due(job).await.expect("a healthy server").is_some());
        }
        due
    }

    async fn listed(&self) -> usize {
        self.storage.due_jobs(Lane::Operations, 100).await.expect("a healthy server").len()
    }
}

fn jobs(claims: &[Claim]) -> BTreeSet<Job> {
    claims.iter().map(|claim| claim.job.clone()).collect()
}

fn fences(claims: &[Claim]) -> BTreeSet<u64> {
    claims.iter().map(|claim| claim.fence.0).collect()
}

/// Two nodes, and three payments from each.
async fn nodes(server: &ServerClock) -> (Node, Node, Vec<Job>) {
    let schema = schema().await;
    let ahead = Node::start(&schema, server, Wrong::Ahead).await;
    let behind = Node::start(&schema, server, Wrong::Behind).await;
    let (mut jobs, mut times) = (Vec::new(), Vec::new());
    for n in 0..6 {
        let state = if n % 2 == 0 { ahead.create().await } else { behind.create().await };
        times.push(state.payment.created_at);
        jobs.push(job_of(&Scope::default(), &state.operations[0]));
    }
    // What rows say of when they were made is the node's own time: the clocks do differ.
    assert!(times.chunks(2).all(|pair| pair[0] > pair[1].plus(HOUR)));
    (ahead, behind, jobs)
}

#[tokio::test]
async fn claims_and_leases_stay_exclusive() {
    let server = ServerClock::default();
    let (ahead, behind, all) = nodes(&server).await;
    let (first, second) = (ahead.claim(3).await, behind.claim(10).await);
    assert_eq!((first.len(), second.len()), (3, 3));
    assert_eq!(&jobs(&first) | &jobs(&second), all.iter().cloned().collect());
    assert!(fences(&first).is_disjoint(&fences(&second)));
    for node in [&ahead, &behind] {
        assert!(node.claim(10).await.is_empty(), "a lease of the other was broken");
    }

    // Neither clock ends a lease or makes it longer. What is extended counts from now, by the server.
    server.advance(LEASE / 2);
    assert_eq!(ahead.extend(&first).await, [true; 3]);
    server.advance(LEASE / 2);
    let third = ahead.claim(10).await;
    assert_eq!(jobs(&third), jobs(&second), "these and only these ran out");
    assert_eq!(behind.extend(&second).await, [false; 3]);
    let stale =
        second.iter().map(|claim| Settlement { claim: claim.clone(), verdict: Verdict::Done });
    let settled = behind.storage.queue().settle(&stale.collect::<Vec<_>>()).await;
    assert_eq!(settled.expect("a healthy server"), [false; 3]);
    server.advance(LEASE / 2);
    assert_eq!(jobs(&behind.claim(10).await), jobs(&first));
}

#[tokio::test]
async fn due_times_are_judged_alike() {
    let server = ServerClock::default();
    let (ahead, behind, all) = nodes(&server).await;
    for node in [&ahead, &behind] {
        assert_eq!((node.due(&all).await, node.listed().await), (6, 6));
    }
    // Put off by half an hour, one half by each node, in the two ways there are: both clocks are off by more.
    let claims = ahead.claim(3).await;
    let release = |claim: &Claim| Settlement {
        claim: claim.clone(),
        verdict: Verdict::Release { due_in: HOUR / 2 },
    };
    let released: Vec<_> = claims.iter().map(release).collect();
    let held = ahead.storage.queue().settle(&released).await.expect("a healthy server");
    assert_eq!(held, [true; 3]);
    for claim in behind.claim(10).await {
        let Job::Operation { scope, payment, operation } = &claim.job else {
            panic!("not its lane")
        };
        let state =
            behind.storage.payment(scope, *payment).await.expect("a read").expect("it is there");
        let charge = state.operations.iter().find(|it| it.id == *operation).expect("it is there");
        let changes = Changes::new(scope.clone())
            .guard(Guard::Payment { id: *payment, version: state.payment.version })
            .write(Write::Operation {
                operation: Box::new(charge.clone()),
                due_in: Some(HOUR / 2),
            });
        assert!(is_applied(&commit(&behind.storage, &changes).await));
    }
    for (advance, due) in [(Duration::ZERO, 0), (HOUR / 2 - LEASE, 0), (LEASE, 6)] {
        server.advance(advance);
        for node in [&ahead, &behind] {
            assert_eq!((node.due(&all).await, node.listed().await), (due, due));
        }
    }
    let (first, second) = (behind.claim(4).await, ahead.claim(10).await);
    assert_eq!((first.len(), second.len()), (4, 2));
}

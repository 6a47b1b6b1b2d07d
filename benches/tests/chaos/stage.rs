//! What a scenario runs on beside its servers: worker processes, a bank, a receiver, and clients of a gateway that only asks.

use std::sync::Arc;
use std::time::Duration;

use benches::bank::Wire;
use benches::worker::{Backends, Spec};
use benches::workers::Workers;
use pgw_core::gateway::Gateway;
use pgw_core::id::EndpointId;
use pgw_core::queue::{Lane, Queue as _};
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{Ordering, WhenExhausted};
use pgw_storage_postgres::sqlx::{Connection as _, PgConnection, query_scalar};
use pgw_storage_postgres::{Migrator, Schema};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bank::Bank;
use crate::clients::{COMES_WITHIN, Clients, Kept, Manners};
use crate::receiver::Receiver;

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) workers: Workers,
    pub(crate) gateway: Gateway,
    pub(crate) backends: Backends,
    pub(crate) bank: Arc<Bank>,
    /// The workers that wait for it in vain.
    waiting: mpsc::UnboundedReceiver<u32>,
    pub(crate) receiver: Receiver,
    pub(crate) endpoints: Vec<EndpointId>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) calls: JoinSet<()>,
    /// Where its owner looks at the database.
    owner: String,
}

/// Ways to the database, beside the workers' own.
#[derive(Debug)]
pub(crate) struct Ways {
    pub(crate) clients: String,
    /// The owner's, past any pooler.
    pub(crate) owner: String,
}

/// Makes what is to be in a new database.
pub(crate) async fn migrate(url: &str) {
    let mut owner = PgConnection::connect(url).await.expect("it was just started");
    Migrator::new(Schema::default()).run(&mut owner).await.expect("the database is empty");
    owner.close().await.expect(HEALTHY);
}

impl Stage {
    /// Workers as `spec` has them, and clients.
    pub(crate) async fn set(spec: Spec, ways: Ways, manners: Manners) -> Self {
        let (bank, address, waiting) = Bank::open().await;
        let spec = Spec { bank: Some(Wire { address, worker: 0 }), ..spec };
        let of_clients = Spec { database: ways.clients, ..spec.clone() };
        let backends = of_clients.connect().await.expect("the schema is migrated");
        let gateway = of_clients.gateway(&backends, backends.queue());
        let gateway = gateway.expect("it has all its parts");
        let receiver = Receiver::new();
        let mut endpoints = Vec::new();
        for ordering in [Ordering::AsDue, Ordering::ByPayment(WhenExhausted::Skip)] {
            let mut new = NewEndpoint::new(receiver.open().await);
            new.options.ordering = ordering;
            let made = gateway.host().create_endpoint(new).await.expect(HEALTHY);
            endpoints.push(made.endpoint.id);
        }
        let mut workers = Workers::new(env!("CARGO_BIN_EXE_worker"), spec);
        (0..WORKERS).for_each(|_| workers.start(None).expect(PROCESSES));
        let clients = Clients::of(&gateway, &receiver, endpoints.len(), manners);
        let mut calls = JoinSet::new();
        (0..CLIENTS).for_each(|_| clients.start(&mut calls));
        let owner = ways.owner;
        Self {
            workers,
            gateway,
            backends,
            bank,
            waiting,
            receiver,
            endpoints,
            clients,
            calls,
            owner,
        }
    }

    /// Waits until so many more orders are over: paid, and told so.
    pub(crate) async fn progress(&mut self, more: u64) {
        self.clients.progress(more, &mut self.calls).await;
    }

    /// A worker that waits for the answer to a charge which is executed.
    pub(crate) async fn waiting_worker(&mut self) -> u32 {
        loop {
            self.bank.hold_next();
            let waiting = tokio::time::timeout(COMES_WITHIN, self.waiting.recv()).await;
            let worker = waiting.expect("workers that live charge").expect("the bank is open");
            // What a worker sent before it was killed may be read after that.
            if self.workers.has(worker) {
                return worker;
            }
        }
    }

    /// Kills a worker, and starts another.
    pub(crate) fn replace(&mut self, worker: u32) {
        self.workers.kill(worker).expect("it is ours");
        self.workers.start(None).expect(PROCESSES);
    }

    /// Lets everything come to rest: nothing is due, neither in the rows nor in Redis. Then the workers are stopped.
    pub(crate) async fn rest(&mut self) -> Vec<Kept> {
        let kept = self.clients.stop(&mut self.calls).await;
        let rest = async {
            while self.restless().await.is_some() {
                self.workers.idle.notified().await;
            }
        };
        if tokio::time::timeout(COMES_WITHIN, rest).await.is_err() {
            panic!("work is left that nobody does: {:?}", self.restless().await);
        }
        self.workers.stop().expect("they end in good order");
        kept
    }

    async fn restless(&self) -> Option<String> {
        for (what, sql) in DUE {
            let due = self.count(sql).await;
            if due > 0 {
                return Some(format!("{due} {what} are due"));
            }
        }
        let redis = self.backends.redis.as_ref()?.queue();
        for lane in Lane::ALL {
            // It may be away for a moment longer.
            let depth = redis.depth(lane).await.map_err(|error| error.to_string());
            match depth {
                Ok(depth) if depth.ready + depth.delayed + depth.in_flight == 0 => {
                    assert_eq!(depth.dead, 0, "buried in {lane:?}");
                }
                other => return Some(format!("{lane:?} in Redis: {other:?}")),
            }
        }
        None
    }

    /// What such a statement counts.
    pub(crate) async fn count(&self, sql: &'static str) -> u64 {
        let mut owner = PgConnection::connect(&self.owner).await.expect(HEALTHY);
        let count: i64 = query_scalar(sql).fetch_one(&mut owner).await.expect(HEALTHY);
        u64::try_from(count).expect("a count is not negative")
    }
}

/// What a storage answers when nothing is wrong.
pub(crate) const HEALTHY: &str = "a healthy storage answers";
const PROCESSES: &str = "the system gives processes";
/// Nobody cares how long a webhook takes here, as long as a starved machine is no fault.
pub(crate) const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(5);
const WORKERS: u32 = 4;
/// Enough that there is always something under way, and few enough that what a failover takes does not become thousands of orders.
const CLIENTS: u32 = 8;
const DUE: [(&str, &str); 2] = [
    ("operations", "select count(*) from pgw.operations where due_at is not null"),
    ("deliveries", "select count(*) from pgw.deliveries where state = 'pending'"),
];

//! Worker processes are killed with charges and webhooks in flight: each payment is charged once, each event delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pgw_core::event::EventType;
use pgw_core::gateway::Gateway;
use pgw_core::id::{DeliveryId, EndpointId};
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::queue::Lane;
use pgw_core::scope::Scope;
use pgw_core::testing::invariants::{Acknowledged, Outside, Rows};
use pgw_core::webhook::plan::NewEndpoint;
use pgw_core::webhook::{DeliveryState, EndpointUrl};
use pgw_storage_postgres::{PgStorage, Schema};
use servers::Postgres;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bank::{Bank, Trap, What, When};
use crate::child;
use crate::wire::Wire;
use crate::world;

/// Kills in CI.
const KILLS: u32 = 10;
/// Worker processes at a time: one is killed, the other finds what it left.
const WORKERS: u64 = 2;
/// New payments for each kill: more than any trap waits for, so there is always work for it to spring at.
const PAYMENTS_PER_KILL: u32 = 40;
/// What does not come by then never will.
const COMES_WITHIN: Duration = Duration::from_secs(120);

/// What is in flight when a worker dies, in turn.
const TRAPS: [(What, When); 6] = [
    (What::Charge, When::Unheard),
    (What::Webhook, When::Unheard),
    (What::Charge, When::OnItsWay),
    (What::Charge, When::Heard),
    (What::Webhook, When::Heard),
    (What::Webhook, When::OnItsWay),
];

pub(crate) fn killed_mid_flight(times: u32) -> String {
    world::runtime().block_on(scenario(KILLS * times))
}

async fn scenario(kills: u32) -> String {
    let postgres = Postgres::builder().start().expect("PostgreSQL is installed");
    let url = postgres.url();
    let schema = world::migrate(&url).await;
    let socket = postgres.socket_directory().join("bank.sock");
    let (bank, mut springs) = Bank::open(&socket);
    let pg = world::connect(&url, &schema).await;
    let gateway = child::gateway(&pg, &Wire { socket: socket.clone(), worker: 0 });
    let endpoint = EndpointUrl::parse("https://shop.example/hooks").expect("a valid address");
    let endpoint = gateway.host().create_endpoint(NewEndpoint::new(endpoint)).await;
    let endpoint = endpoint.expect(world::HEALTHY).endpoint.id;

    let mut workers = Workers { url, schema, socket, number: 0, running: BTreeMap::new() };
    (0..WORKERS).for_each(|_| workers.start());
    let mut acknowledged = Vec::new();
    for kill in 0..kills {
        let (what, when) = TRAPS[kill as usize % TRAPS.len()];
        let trap = Trap { what, when, nth: 5 + kill * 7 % 30 };
        bank.arm(trap);
        acknowledged.extend(create(&gateway, kill * PAYMENTS_PER_KILL).await);
        let mut worker = sprung(&mut springs).await;
        // What a worker sent before it was killed may be read after that.
        while !workers.running.contains_key(&worker) {
            bank.arm(Trap { nth: 1, ..trap });
            worker = sprung(&mut springs).await;
        }
        workers.kill(worker);
        workers.start();
    }
    until_all_is_done(&pg, &workers.schema, &bank).await;
    workers.stop();

    world::stamp(&pg).await;
    world::assert_at_rest(&pg, &workers.schema).await;
    assert_eq!(bank.sandbox.ledger().len(), acknowledged.len(), "one charge of each payment");
    let events = assert_delivered(&pg, &bank, endpoint, acknowledged.len()).await;
    let (payments, webhooks) = (acknowledged.len(), bank.received().len());
    assert_story(&pg, &bank, acknowledged).await;
    format!(
        "{kills} kills, {payments} payments, each charged once; {events} events in {webhooks} webhooks, {} of them again",
        webhooks - events
    )
}

/// Worker processes by number. None is left behind when this is dropped.
struct Workers {
    url: String,
    schema: Schema,
    socket: PathBuf,
    number: u64,
    running: BTreeMap<u64, Child>,
}

impl Workers {
    fn start(&mut self) {
        self.number += 1;
        let program = std::env::current_exe().expect("the system knows what runs");
        let child = Command::new(program)
            .args(["worker", &self.url, self.schema.as_str()])
            .arg(AsRef::<Path>::as_ref(&self.socket))
            .arg(self.number.to_string())
            // Its end tells the worker to stop.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the system gives processes");
        self.running.insert(self.number, child);
    }

    fn kill(&mut self, number: u64) {
        let mut child = self.running.remove(&number).expect("a worker is killed once");
        child.kill().expect("it is ours");
        let status = child.wait().expect("it is ours");
        assert_eq!(status.signal(), Some(SIGKILL), "worker {number} ended by itself: {status}");
    }

    /// Stops all in good order.
    fn stop(&mut self) {
        while let Some((number, mut child)) = self.running.pop_first() {
            drop(child.stdin.take());
            let status = child.wait().expect("it is ours");
            assert!(status.success(), "worker {number}: {status}");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // There is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const SIGKILL: i32 = 9;

/// Creates the payments for one kill, some at a time.
async fn create(gateway: &Gateway, first: u32) -> Vec<Acknowledged> {
    let mut calls = JoinSet::new();
    for number in first..first + PAYMENTS_PER_KILL {
        let gateway = gateway.clone();
        calls.spawn(async move {
            let key = IdempotencyKey::parse(&format!("order-{number:08}")).expect("a valid key");
            let made = gateway.host().create_payment(world::order(&key)).await;
            let made = made.expect(world::HEALTHY);
            Acknowledged {
                scope: Scope::default(),
                key: Some(key),
                payment: made.payment().id,
                operation: made.operation,
            }
        });
    }
    calls.join_all().await
}

async fn sprung(springs: &mut mpsc::UnboundedReceiver<u64>) -> u64 {
    let sprung = tokio::time::timeout(COMES_WITHIN, springs.recv()).await;
    sprung.expect("workers that live do what is due").expect("the bank is open")
}

/// Looks whenever a worker finds nothing to do.
async fn until_all_is_done(pg: &PgStorage, schema: &Schema, bank: &Arc<Bank>) {
    let done = async {
        while !is_all_done(pg, schema).await {
            bank.idle.notified().await;
        }
    };
    if tokio::time::timeout(COMES_WITHIN, done).await.is_err() {
        let mut left = Vec::new();
        for lane in Lane::ALL {
            left.push((lane, world::depth(pg, lane).await));
        }
        let unpaid = world::count(pg, schema, UNPAID).await;
        panic!("work is left that nobody does: {left:?}, {unpaid} payments have not succeeded");
    }
}

const UNPAID: &str = "payments where status <> 'succeeded'";

async fn is_all_done(pg: &PgStorage, schema: &Schema) -> bool {
    for lane in Lane::ALL {
        let depth = world::depth(pg, lane).await;
        if depth.ready + depth.delayed + depth.in_flight > 0 {
            return false;
        }
    }
    world::count(pg, schema, UNPAID).await == 0
}

/// Every event was delivered, and the endpoint has it byte for byte; how many there are.
async fn assert_delivered(
    pg: &PgStorage,
    bank: &Bank,
    endpoint: EndpointId,
    payments: usize,
) -> usize {
    let rows = Rows::read(pg, &Scope::default()).await.expect(world::HEALTHY);
    for event_type in [EventType::PaymentCreated, EventType::PaymentSucceeded] {
        let of_type = rows.feed.iter().filter(|event| event.event_type == event_type);
        assert_eq!(of_type.count(), payments, "one {event_type} of each payment");
    }
    let received = bank.received();
    let taken: BTreeSet<(&str, &[u8])> = received
        .iter()
        .filter_map(|webhook| Some((webhook.header("webhook-id")?, &webhook.body[..])))
        .collect();
    for event in &rows.feed {
        let id = event.id.to_string();
        assert!(taken.contains(&(id.as_str(), &event.body[..])), "{event:?} never arrived");
    }
    assert_eq!(taken.len(), rows.feed.len(), "nothing arrived that is no event");
    let delivered: BTreeSet<DeliveryId> = rows
        .deliveries
        .iter()
        .filter(|delivery| delivery.state == DeliveryState::Delivered)
        .map(|delivery| delivery.id)
        .collect();
    let owed = rows.feed.iter().map(|event| DeliveryId::new(event.id, endpoint)).collect();
    assert_eq!(delivered, owed, "each event is delivered");
    assert_eq!(rows.deliveries.len(), delivered.len(), "and no other delivery is there");
    rows.feed.len()
}

/// Rows, events, webhooks, audit and the bank's books tell the same story.
async fn assert_story(pg: &PgStorage, bank: &Bank, acknowledged: Vec<Acknowledged>) {
    let outside = Outside {
        acknowledged,
        received: bank.received(),
        ledger: bank.sandbox.ledger(),
        ..Outside::default()
    };
    world::assert_invariants(pg, &Scope::default(), &outside).await;
}

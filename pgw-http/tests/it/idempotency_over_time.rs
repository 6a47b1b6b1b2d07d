//! What a crash and the passing of time do to a key: processes that end and begin over one storage and one processor.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use pgw_core::access::{Pepper, Role};
use pgw_core::builder::ProcessorSettings;
use pgw_core::env::{Env, SystemEntropy};
use pgw_core::gateway::Gateway;
use pgw_core::id::PaymentId;
use pgw_core::processor::Instruction;
use pgw_core::sandbox::{Fault, Sandbox, SandboxFaults};
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::Storage;
use pgw_core::testing::clock::SimClock;
use pgw_core::testing::crash::Life;
use pgw_core::testing::faults::{Faults, Faulty};
use pgw_core::worker::Worker;
use pgw_http::Config;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

use crate::harness::{App, Ask, new_key, payment};

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotent-replayed";

/// Kills the process whose call arrives next: the processor does it, and nobody hears of it.
#[derive(Debug, Default)]
struct Killer(Mutex<Option<Life>>);

impl SandboxFaults for Killer {
    fn on_submit(&self, _: &Instruction) -> Fault {
        if let Some(life) = self.0.lock().unwrap().take() {
            life.end();
        }
        Fault::None
    }
}

/// What outlives a process.
struct World {
    env: Env,
    clock: Arc<SimClock>,
    storage: MemoryStorage,
    queue: MemoryQueue,
    notifier: MemoryNotifier,
    sandbox: Sandbox,
    killer: Arc<Killer>,
    pepper: Pepper,
}

/// One process.
struct Process {
    gateway: Gateway,
    router: Router,
    life: Life,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(SimClock::start());
        let env = Env::new(Arc::clone(&clock) as _, Arc::new(SystemEntropy));
        let killer = Arc::new(Killer::default());
        Self {
            storage: MemoryStorage::builder().with_clock(Arc::clone(&clock) as _).build(),
            queue: MemoryQueue::builder().with_clock(Arc::clone(&clock) as _).build(),
            notifier: MemoryNotifier::new(),
            sandbox: Sandbox::new(env.clone()).with_faults(Arc::clone(&killer) as _),
            pepper: Pepper::mint(&env),
            env,
            clock,
            killer,
        }
    }

    fn begin(&self) -> Process {
        let life = Life::new();
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let storage: Arc<Faulty<dyn Storage>> =
            Arc::new(Faulty::new(storage, Faults::off(), life.clone()));
        let processor = Arc::new(self.sandbox.clone());
        let gateway = Gateway::builder()
            .with_env(self.env.clone())
            .with_processor(Mode::Test, processor, ProcessorSettings::default())
            .with_storage(storage)
            .with_queue(Arc::new(self.queue.clone()))
            .with_notifier(Arc::new(self.notifier.clone()))
            .with_key_pepper(self.pepper.clone())
            .build()
            .unwrap();
        let router =
            pgw_http::router(gateway.clone(), Config::default().with_env(self.env.clone()));
        Process { gateway, router, life }
    }

    /// Kills the process when its next call has arrived at the processor.
    fn kill_at_next_call(&self, process: &Process) {
        *self.killer.0.lock().unwrap() = Some(process.life.clone());
    }
}

impl Process {
    /// Sends a request for which nobody will get the answer.
    async fn ask_in_vain(&self, ask: Ask<'_>) {
        let worker = Worker::new(&self.gateway).start();
        tokio::select! {
            reply = ask.of(self.router.clone()) => panic!("it lives: {reply:?}"),
            () = self.life.over() => {}
        }
        drop(worker);
    }
}

#[tokio::test(start_paused = true)]
async fn t7_a_crash_between_the_call_and_its_commit_charges_once() {
    let (world, app) = (World::new(), App::new().await);
    let first = world.begin();
    let key = new_key(&first.gateway, Scope::default(), Role::Admin).await;
    let pay = || app.post("/payments", payment("")).with(KEY, "k").with("x-api-key", &key);
    world.kill_at_next_call(&first);
    first.ask_in_vain(pay().with("prefer", "wait=30")).await;
    drop(first);
    let [charge] = &world.sandbox.ledger()[..] else { panic!("it was not charged") };
    let id = charge.payment;

    let second = world.begin();
    let again = pay().of(second.router.clone()).await;
    assert_eq!((again.status, again.header(REPLAYED)), (StatusCode::CREATED, Some("true")));
    assert_eq!(again.text("id"), id.to_string());
    let worker = Worker::new(&second.gateway).start();
    settled(&second, id).await;
    let now = pay().with("prefer", "wait=0").of(second.router.clone()).await;
    assert_eq!(now.text("status"), "succeeded");
    // The stored answer is what was stored with the claim.
    assert_eq!(pay().of(second.router.clone()).await.body, again.body);
    worker.shutdown().await;

    let refund = || {
        let ask = app.post(&format!("/payments/{id}/refunds"), "{\"amount\":5}").with(KEY, "r");
        ask.with("x-api-key", &key)
    };
    world.kill_at_next_call(&second);
    second.ask_in_vain(refund()).await;
    drop(second);
    let third = world.begin();
    let worker = Worker::new(&third.gateway).start();
    let again = refund().with("prefer", "wait=30").of(third.router.clone()).await;
    assert_eq!(
        (again.header(REPLAYED), again.json()["amount_minor"].clone()),
        (Some("true"), 500.into())
    );
    settled(&third, id).await;
    let done = refund().of(third.router.clone()).await;
    assert_eq!((done.status, done.text("status")), (StatusCode::OK, "succeeded".to_owned()));
    assert_eq!(refund().of(third.router.clone()).await.body, done.body);
    worker.shutdown().await;

    let ledger = world.sandbox.ledger();
    assert_eq!(ledger.len(), 2, "{ledger:?}");
    assert!(ledger.iter().all(|entry| world.sandbox.executions(entry.key) == 1), "{ledger:?}");
    assert_eq!((world.sandbox.captured_minor(id), world.sandbox.refunded_minor(id)), (4_999, 500));
}

/// Waits until nothing of a payment is open.
async fn settled(process: &Process, id: PaymentId) {
    let host = process.gateway.host();
    loop {
        let state = host.payment(id).await.unwrap().unwrap();
        let open = state.operations.iter().find(|operation| !operation.state.is_settled());
        let Some(open) = open else { return };
        host.wait_for(id, Some(open.id), Duration::from_secs(30)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn t9_answers_are_kept_as_long_as_is_published() {
    let published = pgw_http::ops::Ops::new(World::new().begin().gateway, &Config::default());
    let (world, app) = (World::new(), App::new().await);
    let document = app.get("/openapi.json").of(published.router()).await.json();
    let about = document["info"]["description"].as_str().unwrap();
    assert!(about.contains("Stored answers are kept for at least 24 hours."), "{about}");

    let process = world.begin();
    let key = new_key(&process.gateway, Scope::default(), Role::Admin).await;
    let pay = || {
        let ask = app.post("/payments", payment("")).with(KEY, "k").with("x-api-key", &key);
        ask.of(process.router.clone())
    };
    let first = pay().await;
    let worker = Worker::new(&process.gateway).start();
    let id = first.text("id").parse().unwrap();
    settled(&process, id).await;
    for (hours, is_kept) in [(23, true), (2, false)] {
        world.clock.jump(hours * 60 * 60);
        // The reaper has been round.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let again = pay().await;
        assert_eq!((again.status, again.header(REPLAYED)), (StatusCode::CREATED, Some("true")));
        assert_eq!(again.body == first.body, is_kept, "after {hours} more hours");
        assert_eq!(again.text("id"), first.text("id"), "the claim is for ever");
        assert_eq!(again.text("status"), if is_kept { "pending" } else { "succeeded" });
    }
    worker.shutdown().await;
    assert_eq!(world.sandbox.ledger().len(), 1);
}

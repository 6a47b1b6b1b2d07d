//! Processes: a gateway and its workers, put together from faulty parts, kept up like a supervisor does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::access::Pepper;
use crate::env::Env;
use crate::gateway::Gateway;
use crate::notifier::Notifier;
use crate::processor::Processor;
use crate::queue::Queue;
use crate::scope::Mode;
use crate::secret::Secret;
use crate::storage::Storage;
use crate::testing::crash::Life;
use crate::testing::faults::Faulty;
use crate::testing::keys::key_rings;
use crate::testing::mutants::Mutant;
use crate::webhook::WebhookTransport;
use crate::worker::Worker;

use super::world::{Process, World};

/// Starts a process, again whenever it is gone: killed, or stopped in good order for a deployment.
pub(super) async fn keep(world: Arc<World>, slot: usize) {
    loop {
        let life = Life::new();
        let gateway = build(&world, &life);
        let mut workers = JoinSet::new();
        let mut stops = Vec::new();
        for _ in 0..world.chance.workers {
            // One for each, so that equal worlds stop them in the same order.
            let (stop, stopped) = oneshot::channel();
            stops.push(stop);
            let worker = Worker::new(&gateway).with_settings(world.chance.worker);
            workers.spawn(worker.run(async move {
                // An error cannot be: the senders live until the workers are told to stop or gone.
                let _ = stopped.await;
            }));
        }
        world.put(slot, Some(Process { gateway, life: life.clone() }));
        let until_deployment = Duration::from_secs(20) + world.dice.wait(Duration::from_secs(200));
        tokio::select! {
            biased;
            () = life.over() => {}
            () = tokio::time::sleep(until_deployment) => {}
        }
        world.put(slot, None);
        if !life.is_over() {
            for stop in stops {
                // A worker that ended by itself has nothing to be told.
                let _: Result<(), ()> = stop.send(());
            }
            tokio::select! {
                biased;
                () = life.over() => {}
                () = async { while workers.join_next().await.is_some() {} } => {}
            }
        }
        if life.is_over() {
            world.crashes.fetch_add(1, Ordering::Relaxed);
            if life.under_way() > 0 {
                world.crashes_under_way.fetch_add(1, Ordering::Relaxed);
            }
            world.faults.note("process", "crashed");
        } else {
            life.end();
            world.faults.note("process", "stopped");
        }
        drop(workers);
        let down = world.dice.wait(Duration::from_secs(if world.is_calm() { 1 } else { 6 }));
        tokio::time::sleep(down).await;
    }
}

/// What every process of a world has: the audit log's seals outlive each.
pub(super) fn pepper() -> Pepper {
    Pepper::new(Secret::new("a pepper of thirty-two characters")).expect("it is long enough")
}

fn build(world: &Arc<World>, life: &Life) -> Gateway {
    let faults = &world.faults;
    let mut storage: Arc<dyn Storage> =
        Arc::new(Faulty::new(world.backend.storage(), Arc::clone(faults), life.clone()));
    let queue: Arc<dyn Queue> =
        Arc::new(Faulty::new(Arc::clone(&world.queue), Arc::clone(faults), life.clone()));
    let notifier: Arc<dyn Notifier> =
        Arc::new(Faulty::new(world.backend.notifier(), Arc::clone(faults), life.clone()));
    let wire: Arc<dyn Processor> = Arc::clone(&world.wire) as _;
    let mut processor: Arc<dyn Processor> =
        Arc::new(Faulty::new(wire, Arc::clone(faults), life.clone()));
    let receivers: Arc<dyn WebhookTransport> = Arc::clone(&world.transport) as _;
    let mut transport: Arc<dyn WebhookTransport> =
        Arc::new(Faulty::new(receivers, Arc::clone(faults), life.clone()));
    if let Some(bug) = world.bug {
        storage = Arc::new(Mutant::new(storage, bug));
        processor = Arc::new(Mutant::new(processor, bug));
        transport = Arc::new(Mutant::new(transport, bug));
    }
    // Now and then the other key is active; each ring opens what either sealed.
    let [ring, other] = key_rings();
    let keys = if world.dice.hits(300) { other } else { ring };
    Gateway::builder()
        .with_storage(storage)
        .with_queue(queue)
        .with_notifier(notifier)
        .with_transport(transport, keys)
        .with_processor(Mode::Test, processor, world.chance.processor)
        .with_env(Env::new(Arc::clone(&world.clock) as _, Arc::clone(&world.entropy) as _))
        .with_key_pepper(pepper())
        .with_settings(world.chance.settings.clone())
        .build()
        .expect("all parts are given and the settings drawn are within their limits")
}

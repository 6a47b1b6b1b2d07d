//! The outside: weather, mishaps, the processor's notifications, the receivers of webhooks, and the host's own consumer of
//! events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::env::runtime_now;
use crate::gateway::Gateway;
use crate::processor::{Processor as _, RawNotification};
use crate::sandbox::EntryState;
use crate::scope::Scope;
use crate::testing::random::Random;
use crate::testing::transport::{Reply, Taken, TransportScript};
use crate::webhook::{TransportErrorKind, WebhookRequest};

use super::chance::{self, Clocks};
use super::wire::{LIE_HEADER, Script};
use super::witness::Witness;
use super::world::World;

/// Changes the weather every few seconds, until it clears.
pub(super) async fn weather(world: Arc<World>) {
    let dice = world.dice.fork();
    while !world.is_calm() {
        world.faults.set(chance::weather(&dice));
        world.script.change();
        tokio::time::sleep(Duration::from_secs(1) + dice.wait(Duration::from_secs(9))).await;
    }
    world.faults.set(crate::testing::faults::Rates::default());
}

/// Loses the queue, moves clocks, lets customers act.
pub(super) async fn mishaps(world: Arc<World>) {
    let dice = world.dice.fork();
    while !world.is_calm() {
        tokio::time::sleep(Duration::from_secs(1) + dice.wait(Duration::from_secs(8))).await;
        match dice.below(10) {
            0..=2 => {
                if world.backend.lose_queue() {
                    world.witness.queue_lost();
                    world.queues_lost.fetch_add(1, Ordering::Relaxed);
                    world.faults.note("queue", "lost");
                }
            }
            3..=5 if world.chance.clocks == Clocks::Jumping => {
                let by = i64::try_from(dice.below(7_201)).unwrap_or(0) - 3_600;
                // Never further from the truth than an hour, as clocks that are watched at all.
                let by = by.clamp(-3_600 - world.clock.offset(), 3_600 - world.clock.offset());
                world.clock.jump(by);
                world.faults.note("clock", "jumped");
            }
            _ => {
                let ledger = world.sandbox.ledger();
                let waiting: Vec<_> =
                    ledger.iter().filter(|e| e.state == EntryState::RequiresAction).collect();
                if let Some(entry) = dice.pick(&waiting) {
                    // The customer acts on the processor's page and never comes back to the shop.
                    let _ = world.sandbox.complete_action(entry.key);
                }
            }
        }
    }
}

/// Delivers the processor's notifications: late, in any order, twice, wrong, or not at all.
pub(super) async fn notify(world: Arc<World>) {
    let dice = world.dice.fork();
    let mut under_way = JoinSet::new();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for raw in world.sandbox.drain_notifications() {
            let calm = world.is_calm();
            if dice.hits(250) && !calm {
                continue;
            }
            let copies = if dice.hits(200) { 2 } else { 1 };
            for _ in 0..copies {
                let late = dice.wait(Duration::from_secs(if dice.hits(300) { 20 } else { 1 }));
                under_way.spawn_local(deliver(Arc::clone(&world), raw.clone(), late));
            }
            if dice.hits(150) && !calm {
                let mut lie = raw.clone();
                lie.headers.push((LIE_HEADER.to_owned(), Bytes::new()));
                let late = Duration::from_secs(5) + dice.wait(Duration::from_secs(20));
                under_way.spawn_local(deliver(Arc::clone(&world), lie, late));
            }
        }
        while under_way.try_join_next().is_some() {}
    }
}

async fn deliver(world: Arc<World>, raw: RawNotification, late: Duration) {
    tokio::time::sleep(late).await;
    let name = world.sandbox.name().clone();
    let told = async |gateway: &Gateway| gateway.receive_notification(name.as_str(), &raw).await;
    // Every error that is not worth another try is logged by the gateway or of no consequence to the processor.
    let _ = world.insist(told).await;
}

/// The host's consumer of its own events: notes each event, then acknowledges it, and starts anew with its process.
pub(super) async fn consume(world: Arc<World>, scope: Scope) {
    let dice = world.dice.fork();
    loop {
        let Some(process) = world.process() else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        let life = process.life.clone();
        tokio::select! {
            biased;
            () = follow(&world, &process.gateway, &scope, &dice) => {}
            () = life.over() => {}
        }
        tokio::time::sleep(dice.wait(Duration::from_secs(1))).await;
    }
}

async fn follow(world: &World, gateway: &Gateway, scope: &Scope, dice: &Random) {
    let mut events =
        gateway.events(scope.clone(), "orders").expect("six letters are a consumer's name");
    let until = runtime_now() + Duration::from_secs(5) + dice.wait(Duration::from_secs(30));
    while runtime_now() < until {
        // After an error the host starts its consumer anew; what was not acknowledged comes again.
        let Ok(event) = events.next().await else { return };
        if let Some(position) = event.feed_position {
            world.journal().heard.entry(scope.clone()).or_default().push((position, event.id));
        }
        if events.acknowledge(&event).await.is_err() {
            return;
        }
    }
}

/// The merchants' servers.
#[derive(Debug)]
pub(super) struct Receivers {
    dice: Random,
    script: Arc<Script>,
    witness: Arc<Witness>,
}

impl Receivers {
    pub(super) const fn new(dice: Random, script: Arc<Script>, witness: Arc<Witness>) -> Self {
        Self { dice, script, witness }
    }

    fn reply(&self) -> Reply {
        let draw = self.dice.below(1_000);
        if self.script.is_clear() {
            return Reply::Status(200);
        }
        let wait = Duration::from_secs(1 + draw % 8);
        match draw {
            0..=59 => Reply::LostBefore(TransportErrorKind::Timeout),
            60..=99 => Reply::LostAfter(TransportErrorKind::Timeout),
            100..=149 => Reply::LostAfter(TransportErrorKind::Reset),
            150..=179 => Reply::LostBefore(TransportErrorKind::Connect),
            180..=249 => Reply::Status(500),
            250..=269 => Reply::RetryAfter(429, wait),
            270..=289 => Reply::RetryAfter(503, wait),
            290..=292 => Reply::Status(410),
            293..=312 => Reply::Status(503),
            _ => Reply::Status(200),
        }
    }
}

impl TransportScript for Receivers {
    fn on_send(&self, request: &WebhookRequest) -> Reply {
        let reply = self.reply();
        let outcome = match reply {
            Reply::LostBefore(_) | Reply::Hang => None,
            Reply::Status(200..=299) | Reply::Echo(200..=299) | Reply::LostAfter(_) => {
                Some(Taken::Yes)
            }
            Reply::Status(_) | Reply::Echo(_) | Reply::RetryAfter(..) => Some(Taken::No),
        };
        self.witness.webhook(request, outcome);
        reply
    }
}

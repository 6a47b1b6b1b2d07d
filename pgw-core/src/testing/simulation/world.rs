//! The world: what survives every crash, the journal of what its clients were promised, and the order of its days.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::access::SealKey;
use crate::env::{Clock as _, Entropy, Env};
use crate::error::Error;
use crate::gateway::{Gateway, Receipt};
use crate::id::{EndpointId, EventId, PaymentId};
use crate::idempotency::IdempotencyKey;
use crate::queue::Queue;
use crate::sandbox::Sandbox;
use crate::scope::{Mode, Scope};
use crate::testing::clock::SimClock;
use crate::testing::crash::Life;
use crate::testing::faults::{Faults, Rates, Watch};
use crate::testing::invariants::{Acknowledged, Broken, Outside};
use crate::testing::mutants::{Bug, Mutant};
use crate::testing::random::Random;
use crate::testing::transport::RecordingTransport;

use super::chance::Chance;
use super::client::{self, Command};
use super::logs::Logs;
use super::wire::{Script, Wire};
use super::witness::Witness;
use super::{Backend, MakeBackend, Report, heal, outside, process};

/// One simulated world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) chance: Chance,
    pub(super) dice: Random,
    pub(super) bug: Option<Bug>,
    /// The clock of the processes; that of the backend and the processor never jumps.
    pub(super) clock: Arc<SimClock>,
    pub(super) entropy: Arc<Random>,
    pub(super) faults: Arc<Faults>,
    pub(super) backend: Box<dyn Backend>,
    /// The backend's, with a bug if it is one of queues: what claims are held is known to all processes together.
    pub(super) queue: Arc<dyn Queue>,
    pub(super) sandbox: Sandbox,
    pub(super) script: Arc<Script>,
    pub(super) wire: Arc<Wire>,
    pub(super) witness: Arc<Witness>,
    pub(super) transport: Arc<RecordingTransport>,
    pub(super) scopes: Vec<Scope>,
    pub(super) crashes: AtomicU64,
    pub(super) crashes_under_way: AtomicU64,
    pub(super) queues_lost: AtomicU64,
    slots: Mutex<Vec<Option<Process>>>,
    journal: Mutex<Journal>,
}

/// A process that is up.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) gateway: Gateway,
    pub(super) life: Life,
}

/// What clients know and were promised.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) payments: Vec<(Scope, PaymentId)>,
    pub(super) commands: Vec<(Scope, Command)>,
    pub(super) endpoints: Vec<(Scope, EndpointId)>,
    pub(super) addresses: u64,
    pub(super) acknowledged: Vec<Acknowledged>,
    pub(super) heard: BTreeMap<Scope, Vec<(u64, EventId)>>,
    pub(super) keys: u64,
    broken: Vec<Broken>,
}

/// Why a call of a client has no result.
#[derive(Debug)]
pub(super) enum Failed {
    /// The process died meanwhile, or there is none.
    Gone,
    /// It was answered with an error.
    With(Error),
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, make: &MakeBackend) -> Arc<Self> {
        let dice = Random::new(seed);
        let chance = Chance::draw(&dice);
        let faults = Faults::new(dice.number());
        let witness = Arc::new(Witness::new(chance.settings.clone()));
        faults.watch(Arc::clone(&witness) as Arc<dyn Watch>);
        let steady = Arc::new(SimClock::start());
        let entropy = || -> Arc<dyn Entropy> { Arc::new(dice.fork()) };
        let script = Script::new(dice.fork());
        let sandbox = Sandbox::new(Env::new(Arc::clone(&steady) as _, entropy()))
            .with_resolution(chance.resolution)
            .with_faults(Arc::clone(&script) as _);
        let wire = Arc::new(Wire::new(
            sandbox.clone(),
            Arc::clone(&script),
            Arc::clone(&witness),
            dice.fork(),
            chance.processor.timeout,
        ));
        let receivers =
            outside::Receivers::new(dice.fork(), Arc::clone(&script), Arc::clone(&witness));
        let backend = make(Arc::clone(&steady) as _, entropy());
        let mut queue = backend.queue();
        if let Some(bug) = bug {
            queue = Arc::new(Mutant::new(queue, bug));
        }
        Arc::new(Self {
            bug,
            queue,
            clock: Arc::new(SimClock::start()),
            entropy: Arc::new(dice.fork()),
            faults,
            backend,
            sandbox,
            script,
            wire,
            witness,
            transport: Arc::new(RecordingTransport::scripted(Box::new(receivers))),
            scopes: vec![
                Scope::default(),
                Scope::new("acme".parse().expect("four letters are a merchant id"), Mode::Test),
            ],
            crashes: AtomicU64::new(0),
            crashes_under_way: AtomicU64::new(0),
            queues_lost: AtomicU64::new(0),
            slots: Mutex::new(vec![None; chance.processes]),
            journal: Mutex::default(),
            chance,
            dice,
        })
    }

    /// Chaos, healing, and the last judgement: what is not as it must be, the plainest first.
    pub(super) async fn live_through(self: &Arc<Self>, logs: &Logs) -> Vec<Broken> {
        let mut always = JoinSet::new();
        for slot in 0..self.chance.processes {
            always.spawn_local(process::keep(Arc::clone(self), slot));
        }
        always.spawn_local(outside::weather(Arc::clone(self)));
        always.spawn_local(outside::notify(Arc::clone(self)));
        always.spawn_local(outside::mishaps(Arc::clone(self)));
        for scope in self.scopes.clone() {
            always.spawn_local(outside::consume(Arc::clone(self), scope));
        }
        let mut clients = JoinSet::new();
        for _ in 0..self.chance.clients {
            clients.spawn_local(client::live(Arc::clone(self), logs.clone()));
        }
        let mut broken = Vec::new();
        while let Some(client) = clients.join_next().await {
            if let Err(error) = client {
                broken.push(("nothing panics", error.to_string()));
            }
        }
        self.script.clear();
        self.faults.set(Rates::default());
        let healed = heal::heal(self).await;
        broken.extend(self.witness.broken());
        broken.extend(std::mem::take(&mut self.journal().broken));
        broken.extend(healed);
        let storage = self.backend.storage();
        let outside = {
            let journal = self.journal();
            Outside {
                acknowledged: journal.acknowledged.clone(),
                heard: journal.heard.clone(),
                received: self.transport.received(),
                ledger: self.sandbox.ledger(),
                owed: Some(self.witness.owed()),
                secrets: self.witness.secrets(),
                seals: Some((SealKey::of(&process::pepper()), self.clock.now())),
            }
        };
        if broken.is_empty() {
            broken.extend(outside.broken(&*storage, &self.scopes).await);
        }
        broken.extend(logs.broken());
        while let Some(ended) = always.try_join_next() {
            if let Err(error) = ended {
                broken.push(("nothing panics", error.to_string()));
            }
        }
        broken
    }

    pub(super) fn report(&self) -> Report {
        let counts = self.witness.counts();
        Report {
            operations: self.witness.operations(),
            crashes: self.crashes.load(Ordering::Relaxed),
            crashes_under_way: self.crashes_under_way.load(Ordering::Relaxed),
            ambiguous_commits: self.faults.ambiguous(),
            unknown: self.witness.unknown(),
            queues_lost: self.queues_lost.load(Ordering::Relaxed),
            webhooks: counts.webhooks,
            pauses: counts.pauses,
            rotations: counts.rotations,
            disabled: counts.disabled,
            erasures: self.witness.erasures(),
            trace: self.faults.trace_hash(),
        }
    }

    /// What happened to the payments, or the owners of the operations, that a text names.
    pub(super) fn history_of(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for payment in self.witness.payments() {
            let story = self.witness.story(payment);
            let ids: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let named = ids
                .iter()
                .filter(|word| word.contains('_'))
                .any(|id| payment.to_string() == *id || story.iter().any(|line| line.contains(id)));
            if named {
                lines.push(format!("{payment}:"));
                lines.extend(story);
            }
        }
        lines
    }

    /// Whether chaos is over.
    pub(super) fn is_calm(&self) -> bool {
        self.script.is_clear()
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process comes up or goes down.
    pub(super) fn put(&self, slot: usize, process: Option<Process>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = slots.get_mut(slot) {
            *place = process;
        }
    }

    /// One of the processes that are up.
    pub(super) fn process(&self) -> Option<Process> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let up: Vec<&Process> = slots.iter().flatten().collect();
        self.dice.pick(&up).map(|process| (*process).clone())
    }

    /// Calls one of the processes that are up, as a client over a network does: if it dies, so does the call.
    pub(super) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(&Gateway) -> Result<T, Error>,
    ) -> Result<T, Failed> {
        let Some(process) = self.process() else { return Err(Failed::Gone) };
        let result = tokio::select! {
            biased;
            result = call(&process.gateway) => result,
            () = process.life.over() => return Err(Failed::Gone),
        };
        result.map_err(Failed::With)
    }

    /// Calls until there is a result that is not worth another try.
    pub(super) async fn insist<T>(
        &self,
        call: impl AsyncFn(&Gateway) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            match self.call(async |gateway: &Gateway| call(gateway).await).await {
                Ok(value) => return Ok(value),
                Err(Failed::With(error)) if !error.is_retryable() => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// Somebody was promised something.
    pub(super) fn acknowledge(
        &self,
        scope: &Scope,
        key: Option<&IdempotencyKey>,
        receipt: &Receipt,
    ) {
        self.journal().acknowledge(Acknowledged {
            scope: scope.clone(),
            key: key.cloned(),
            payment: receipt.payment().id,
            operation: receipt.operation,
        });
    }
}

impl Journal {
    fn acknowledge(&mut self, promise: Acknowledged) {
        let same = |known: &&Acknowledged| {
            known.key.is_some() && known.key == promise.key && known.scope == promise.scope
        };
        if let Some(known) = self.acknowledged.iter().find(same)
            && *known != promise
        {
            self.broken.push((
                "one key, one operation",
                format!("{:?} was {} and is {}", promise.key, known.operation, promise.operation),
            ));
        }
        if !self.payments.iter().any(|(_, id)| *id == promise.payment) {
            self.payments.push((promise.scope.clone(), promise.payment));
        }
        self.acknowledged.push(promise);
    }
}

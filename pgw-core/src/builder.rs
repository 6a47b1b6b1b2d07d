//! The builder: the parts of a gateway, checked once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::access::{AccessCache, ApiKeyText, Pepper, SealKey};
use crate::crypto::KeyRing;
use crate::env::Env;
use crate::gateway::{Gateway, Parts, Refusals, Webhooks};
use crate::notifier::Notifier;
use crate::processor::Processor;
use crate::queue::Queue;
use crate::retry::RetryPolicy;
use crate::sandbox::Sandbox;
use crate::scope::Mode;
use crate::storage::Storage;
use crate::webhook::{Vault, WebhookTransport};
use crate::worker::{Breakers, Gate};

/// Collects the parts of a [`Gateway`]. Storage, queue and notifier must be given; everything else has a default.
#[derive(Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct GatewayBuilder {
    storage: Option<Arc<dyn Storage>>,
    queue: Option<Arc<dyn Queue>>,
    notifier: Option<Arc<dyn Notifier>>,
    transport: Option<(Arc<dyn WebhookTransport>, KeyRing)>,
    processors: BTreeMap<Mode, (Arc<dyn Processor>, ProcessorSettings)>,
    sandbox: Option<Sandbox>,
    env: Env,
    pepper: Option<Pepper>,
    settings: Settings,
}

impl GatewayBuilder {
    pub(crate) fn new() -> Self {
        Self {
            storage: None,
            queue: None,
            notifier: None,
            transport: None,
            processors: BTreeMap::new(),
            sandbox: None,
            env: Env::system(),
            pepper: None,
            settings: Settings::default(),
        }
    }

    /// The durable truth.
    pub fn with_storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Who does which job when.
    pub fn with_queue(mut self, queue: Arc<dyn Queue>) -> Self {
        self.queue = Some(queue);
        self
    }

    /// The hints.
    pub fn with_notifier(mut self, notifier: Arc<dyn Notifier>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// What sends webhooks, and the keys that endpoints' secrets are sealed with. Without them, no endpoint can be created.
    ///
    /// The keys must outlive the process where the storage does: a secret whose key is lost is lost, and signs nothing any more.
    /// [`KeyRing::ephemeral`] is for tests and for storage in memory.
    pub fn with_transport(mut self, transport: Arc<dyn WebhookTransport>, keys: KeyRing) -> Self {
        self.transport = Some((transport, keys));
        self
    }

    /// The processor of a mode. Test mode has the [`Sandbox`] unless another is given; live mode has none.
    pub fn with_processor(
        mut self,
        mode: Mode,
        processor: Arc<dyn Processor>,
        settings: ProcessorSettings,
    ) -> Self {
        if mode == Mode::Test {
            self.sandbox = None;
        }
        self.processors.insert(mode, (processor, settings));
        self
    }

    /// A sandbox of one's own as the processor of test mode. As with the default one, workers take in the
    /// notifications that it has to send.
    pub fn with_sandbox(mut self, sandbox: Sandbox, settings: ProcessorSettings) -> Self {
        self.processors.insert(Mode::Test, (Arc::new(sandbox.clone()), settings));
        self.sandbox = Some(sandbox);
        self
    }

    /// Time and randomness; the operating system's by default.
    pub fn with_env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// The key that digests of API keys and of customers are made with, and that the key of the audit log's [seals](crate::access::seal) is
    /// derived from. Without one, a random one is made: API keys work, and a customer's consents and erasures are found, as long as this
    /// gateway lives, and the audit log is not sealed, because nobody could verify it afterwards. Give one, the same to every process, when
    /// the storage outlives the process.
    pub fn with_key_pepper(mut self, pepper: Pepper) -> Self {
        self.pepper = Some(pepper);
        self
    }

    /// Budgets and periods.
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The gateway.
    ///
    /// # Errors
    /// [`BuildError`] names what is missing or cannot be.
    pub fn build(mut self) -> Result<Gateway, BuildError> {
        if !self.processors.contains_key(&Mode::Test) {
            let sandbox = Sandbox::new(self.env.clone());
            self = self.with_sandbox(sandbox, ProcessorSettings::default());
        }
        let processors = self.processors;
        for (_, settings) in processors.values() {
            settings.check()?;
        }
        let seals = self.pepper.as_ref().map(SealKey::of);
        let pepper = self.pepper.unwrap_or_else(|| Pepper::mint(&self.env));
        Ok(Gateway::from_parts(Parts {
            storage: self.storage.ok_or(BuildError::Missing("storage"))?,
            queue: self.queue.ok_or(BuildError::Missing("queue"))?,
            notifier: self.notifier.ok_or(BuildError::Missing("notifier"))?,
            webhooks: self.transport.map(|(transport, keys)| Webhooks {
                transport,
                vault: Vault::new(keys, self.env.clone()),
            }),
            breakers: Breakers::default(),
            access: AccessCache::new(self.settings.api_keys_cached),
            nobodys_key: ApiKeyText::nobodys(),
            processors: processors
                .into_iter()
                .map(|(mode, (processor, settings))| (mode, Gate::new(processor, settings)))
                .collect(),
            sandbox: self.sandbox,
            env: self.env,
            pepper,
            seals,
            refusals: Refusals::default(),
            settings: self.settings,
        }))
    }
}

/// How a processor is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessorSettings {
    /// The deadline of a call. Default 30 s; at least 1 ms, at most 5 minutes.
    pub timeout: Duration,
    /// Most calls at once from this gateway. Default 64.
    pub concurrency_max: usize,
    /// After this many calls in a row without an answer, calls pause. Default 10.
    pub breaker_failures: u32,
    /// How long they pause before one is tried again. Default 5 s; at most an hour.
    pub breaker_pause: Duration,
}

impl Default for ProcessorSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            concurrency_max: 64,
            breaker_failures: 10,
            breaker_pause: Duration::from_secs(5),
        }
    }
}

impl ProcessorSettings {
    fn check(&self) -> Result<(), BuildError> {
        if !(Duration::from_millis(1)..=Duration::from_secs(300)).contains(&self.timeout) {
            return Err(BuildError::OutOfRange("timeout must be from 1 ms to 5 minutes"));
        }
        if !(1..=10_000).contains(&self.concurrency_max) {
            return Err(BuildError::OutOfRange("concurrency_max must be from 1 to 10000"));
        }
        // What meets a closed gate falls due when it opens, in the storage: a pause outlives a correction of the setting.
        if self.breaker_pause > Duration::from_secs(3_600) {
            return Err(BuildError::OutOfRange("breaker_pause must be at most an hour"));
        }
        Ok(())
    }
}

/// Budgets and periods of a gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// When an operation that was provably not sent is sent again, and how often at most.
    pub send_again: RetryPolicy,
    /// When an unknown or pending operation is asked about again; once it is spent, a person must look.
    pub probe: RetryPolicy,
    /// When a webhook is sent again.
    pub deliver_again: RetryPolicy,
    /// The deadline of a webhook. Default 15 s.
    pub webhook_timeout: Duration,
    /// How long the answers of idempotency keys are kept byte for byte; at least 24 h, which is the default.
    pub answers_kept: Duration,
    /// How long an API key that opened opens again without a look into the storage, so how long its revocation may take where no hints
    /// flow. Default 30 s, at most 30 s; zero: never.
    pub api_keys_cached: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            send_again: RetryPolicy::exponential(
                Duration::from_secs(1),
                Duration::from_secs(60),
                8,
            ),
            probe: RetryPolicy::exponential(
                Duration::from_secs(2),
                Duration::from_secs(60 * 60),
                40,
            ),
            deliver_again: RetryPolicy::webhooks_default(),
            webhook_timeout: Duration::from_secs(15),
            answers_kept: Duration::from_secs(24 * 60 * 60),
            api_keys_cached: Duration::from_secs(30),
        }
    }
}

/// Why there is no gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A part that has no default was not given.
    #[error("the gateway needs a {0}: give one to the builder's with_{0}")]
    Missing(&'static str),
    /// A setting cannot have this value.
    #[error("a processor's {0}")]
    OutOfRange(&'static str),
}

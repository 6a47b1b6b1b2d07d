//! [`Node`]: a gateway on the storage that the configuration names.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::access::{Actor, Caller, Pepper};
use pgw_core::builder::Settings;
use pgw_core::crypto::KeyRing;
use pgw_core::env::Env;
use pgw_core::gateway::{Bound, Gateway};
use pgw_core::notifier::{Hint, Notifier as _};
use pgw_core::queue::Queue;
use pgw_core::retry::RetryPolicy;
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::webhook::egress::{EgressPolicy, HttpScheme};
use pgw_http::transport::HttpTransport;
use pgw_redis::{Redis, RedisNotifier};
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};
use pgw_storage_postgres::{PgNotifier, PgStorage};

use crate::cli::Global;
use crate::config::{Config, setting};
use crate::database;
use crate::failure::{Exit, Failure};
use crate::{purge, redis, serve};

/// A gateway, and what it stands on.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) gateway: Gateway,
    pub(crate) store: Store,
    pub(crate) queue: Arc<dyn Queue>,
    /// Where queue, hints and limits are, when they are not where everything else is.
    pub(crate) redis: Option<Redis>,
    hints: Hints,
    pub(crate) scope: Scope,
}

/// Where everything is kept.
#[derive(Debug)]
pub(crate) enum Store {
    /// In this process, until it ends.
    Memory,
    /// In PostgreSQL.
    Postgres(PgStorage),
}

/// What hints go to other processes by.
#[derive(Debug)]
enum Hints {
    /// There are none.
    Memory,
    Postgres(PgNotifier),
    Redis(RedisNotifier),
}

impl Node {
    /// The gateway that the configuration describes.
    ///
    /// # Errors
    /// [`Failure`], when a setting is wrong or the database cannot be used.
    pub(crate) async fn open(config: &Config, global: &Global) -> Result<Self, Failure> {
        let env = Env::system();
        let redis = redis::options(config)?.map(|options| options.open()).transpose()?;
        let builder = Gateway::builder();
        let (store, queue, builder) = match database::options(config)? {
            None => {
                let queue: Arc<dyn Queue> = Arc::new(MemoryQueue::new());
                let builder = builder.with_storage(Arc::new(MemoryStorage::new()));
                (Store::Memory, queue, builder)
            }
            Some(options) => {
                let storage = database::builder(config)?.connect_with(options).await?;
                let queue: Arc<dyn Queue> = match &redis {
                    Some(redis) => Arc::new(storage.queue_behind(Arc::new(redis.queue()))),
                    None => Arc::new(storage.queue()),
                };
                let builder = builder.with_storage(Arc::new(storage.clone()));
                (Store::Postgres(storage), queue, builder)
            }
        };
        let builder = builder.with_queue(Arc::clone(&queue));
        let (hints, builder) = match (&redis, &store) {
            (Some(redis), _) => {
                let notifier = redis.notifier();
                (Hints::Redis(notifier.clone()), builder.with_notifier(Arc::new(notifier)))
            }
            (None, Store::Postgres(storage)) => {
                let notifier = storage.notifier();
                (Hints::Postgres(notifier.clone()), builder.with_notifier(Arc::new(notifier)))
            }
            (None, Store::Memory) => {
                (Hints::Memory, builder.with_notifier(Arc::new(MemoryNotifier::new())))
            }
        };
        let (pepper, keys) = secrets(config, &env, matches!(store, Store::Postgres(_)))?;
        let transport = HttpTransport::new(env.clone(), egress(config)?).map_err(|error| {
            Failure::new(Exit::Failed, "webhooks cannot be sent").because(error)
        })?;
        let gateway = builder
            .with_transport(Arc::new(transport), keys)
            .with_key_pepper(pepper)
            .with_env(env)
            .with_settings(settings(config)?)
            .build()
            .map_err(|error| Failure::usage(error.to_string()))?;
        let scope = Scope::new(merchant(config, global)?, global.mode());
        Ok(Self { gateway, store, queue, redis, hints, scope })
    }

    /// As [`open`](Self::open), for commands that make no sense in memory: nobody would see what they did.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn open_durable(config: &Config, global: &Global) -> Result<Self, Failure> {
        database::required(config)?;
        Self::open(config, global).await
    }

    /// The verbs in the name of whoever runs this command.
    pub(crate) fn operator(&self) -> Bound<'_> {
        self.gateway.by(Caller {
            scope: self.scope.clone(),
            actor: operator(),
            origin: None,
            request_id: None,
        })
    }

    /// Gives a hint to every process of this installation.
    pub(crate) async fn tell(&self, hint: Hint) {
        let published = match &self.hints {
            Hints::Memory => return,
            Hints::Postgres(notifier) => notifier.publish(&[hint]).await,
            Hints::Redis(notifier) => notifier.publish(&[hint]).await,
        };
        if let Err(error) = published {
            tracing::warn!(%error, "other processes are not told");
        }
        self.told().await;
    }

    /// Waits until all hints have gone out, such as those of a revocation: a command ends before what it left to a task is done.
    pub(crate) async fn told(&self) {
        let sent = async {
            match &self.hints {
                Hints::Memory => {}
                Hints::Postgres(notifier) => notifier.sent().await,
                Hints::Redis(notifier) => notifier.sent().await,
            }
        };
        if tokio::time::timeout(HINTS_TIMEOUT, sent).await.is_err() {
            tracing::warn!("other processes are not told, and find out by themselves within 30 s");
        }
    }

    /// The database; a failure where there is none.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn postgres(&self) -> Result<&PgStorage, Failure> {
        match &self.store {
            Store::Postgres(storage) => Ok(storage),
            Store::Memory => Err(Failure::usage("this needs a database: set DATABASE_URL")),
        }
    }
}

/// That the settings of a gateway can be used, without connecting to anything.
///
/// # Errors
/// [`Failure`] names the first that cannot.
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    let is_durable = database::options(config)?.is_some();
    let _ = database::builder(config)?;
    let _ = redis::options(config)?;
    secrets(config, &Env::system(), is_durable)?;
    egress(config)?;
    settings(config)?;
    serve::fail_open(config)?;
    Ok(())
}

/// `cli:<user>`: PCI DSS 10.2.2 wants to know who it was.
fn operator() -> Actor {
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| {
        std::env::var(name).ok().filter(|user| !user.is_empty() && user.len() <= USER_LEN_MAX)
    });
    let plain = user.filter(|user| user.bytes().all(|b| b.is_ascii_graphic()));
    Actor::Other(plain.map_or_else(|| "cli".to_owned(), |user| format!("cli:{user}")).into())
}

/// The merchant of the command line, or else of the configuration.
///
/// # Errors
/// [`Failure`].
pub(crate) fn merchant(config: &Config, global: &Global) -> Result<MerchantId, Failure> {
    match &global.merchant {
        Some(merchant) => Ok(merchant.clone()),
        None => Ok(config.require(&setting::MERCHANT)?),
    }
}

/// What outlives the process must be opened by what outlives it too; in memory both are made up.
fn secrets(config: &Config, env: &Env, is_durable: bool) -> Result<(Pepper, KeyRing), Failure> {
    let missing = |setting: &setting::Setting| {
        let name = setting.env.first().copied().unwrap_or(setting.key);
        Failure::usage(format!(
            "{name} is not set: without it nobody could use this database after a restart. `pgw crypto generate` makes one"
        ))
    };
    let pepper = match config.secret(&setting::KEY_PEPPER) {
        Some(secret) => Pepper::new(secret)
            .ok_or_else(|| config.wrong(&setting::KEY_PEPPER, "must be at least 32 bytes long"))?,
        None if is_durable => return Err(missing(&setting::KEY_PEPPER)),
        None => Pepper::mint(env),
    };
    let keys = match config.secret(&setting::SEALING_KEYS) {
        Some(text) => KeyRing::parse(text.expose())
            .map_err(|error| config.wrong(&setting::SEALING_KEYS, error.to_string()))?,
        None if is_durable => return Err(missing(&setting::SEALING_KEYS)),
        None => KeyRing::ephemeral(env),
    };
    Ok((pepper, keys))
}

fn egress(config: &Config) -> Result<EgressPolicy, Failure> {
    let mut policy = EgressPolicy::default();
    if config.flag(&setting::WEBHOOK_HTTP)? {
        policy = policy.with_http(HttpScheme::Allowed);
    }
    for network in config.list(&setting::WEBHOOK_NETWORKS)? {
        policy = policy.with_allowed(network);
    }
    Ok(policy)
}

fn settings(config: &Config) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    if let Some(retries) = config.get::<u32>(&setting::RETRY_MAX)? {
        if retries > RETRIES_MAX {
            let message = format!("must be at most {RETRIES_MAX}");
            return Err(config.wrong(&setting::RETRY_MAX, message).into());
        }
        settings.deliver_again = RetryPolicy::seed(retries);
    }
    let timeout = config.require::<u64>(&setting::WEBHOOK_TIMEOUT)?;
    if !(1..=60_000).contains(&timeout) {
        let message = "must be from 1 to 60000 milliseconds";
        return Err(config.wrong(&setting::WEBHOOK_TIMEOUT, message).into());
    }
    settings.webhook_timeout = Duration::from_millis(timeout);
    settings.answers_kept = purge::answers_kept(config)?;
    if config.text(&setting::SIGNATURE_VERSION) != Some("sha256") {
        let message = "must be sha256; endpoints choose their signature profiles themselves";
        return Err(config.wrong(&setting::SIGNATURE_VERSION, message).into());
    }
    Ok(settings)
}

/// Longest user name that is taken into the audit log, beside `cli:` in 64 bytes.
const USER_LEN_MAX: usize = 60;
/// How long a command waits for its hints to go out: longer than a server that is there takes, shorter than a person waits.
const HINTS_TIMEOUT: Duration = Duration::from_secs(3);
/// As many retries as 2^n seconds can be waited for within a month.
const RETRIES_MAX: u32 = 20;

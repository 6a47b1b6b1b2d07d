//! `Redis`: one installation, and what is made of it.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use redis::cluster::ClusterClientBuilder;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{Client, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion};
use tokio::sync::Mutex;

use crate::clock::ServerClock;
use crate::error::{RedisConfigError, RedisError};
use crate::info::NodeInfo;
use crate::key::Namespace;
use crate::link::{Dial, Link};
use crate::notifier::RedisNotifier;
use crate::queue::RedisQueue;
use crate::rate_limit::RedisRateLimiter;

/// A Redis: one node, what Sentinels watch, or a Cluster. Clones share its connection.
///
/// It is not connected to before it is first used. What is lost is made again by a task, with growing pauses of up to three seconds; until
/// then every call fails at once, so that an outage costs one timeout and not one a call.
#[derive(Clone)]
pub struct Redis(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) link: Arc<Link>,
    pub(crate) namespace: Namespace,
    pub(crate) clock: ServerClock,
    pub(crate) shards: NonZeroU16,
    pub(crate) jobs_max: u32,
}

impl Redis {
    /// One node: `redis://[user:password@]host[:port][/db]`, `rediss://` with TLS, or `unix:///path`.
    pub fn node(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder::new(Place::Node(url.into()), 1)
    }

    /// The master of this name, whichever node the Sentinels say it is. `urls` are those of the Sentinels, with their own user and password;
    /// see [`RedisBuilder::with_credentials`] for those of the nodes.
    pub fn sentinel<U: Into<String>>(
        urls: impl IntoIterator<Item = U>,
        master: impl Into<String>,
    ) -> RedisBuilder {
        let urls = urls.into_iter().map(Into::into).collect();
        RedisBuilder::new(Place::Sentinel { urls, master: master.into() }, 1)
    }

    /// A Cluster, found by some of its nodes. Redis 7 or later, for sharded pub/sub.
    pub fn cluster<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> RedisBuilder {
        let urls = urls.into_iter().map(Into::into).collect();
        RedisBuilder::new(Place::Cluster(urls), CLUSTER_SHARDS)
    }

    /// Its queue. While Redis is away, jobs are claimed from the queue behind it: that of the due rows themselves, where the storage has one. With
    /// pgw-storage-postgres that is `pg.queue_behind(Arc::new(redis.queue()))`.
    ///
    /// ```no_run
    /// # fn f(pg: &dyn Fn() -> std::sync::Arc<dyn pgw_core::queue::Queue>) -> Result<(), Box<dyn std::error::Error>> {
    /// # let pg_queue = pg();
    /// use pgw_core::queue::FallbackQueue;
    /// use pgw_redis::Redis;
    /// use std::sync::Arc;
    ///
    /// let redis = Redis::node("redis://cache.internal").build()?;
    /// let queue = FallbackQueue::new(Arc::new(redis.queue()), pg_queue);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn queue(&self) -> RedisQueue {
        RedisQueue::new(self)
    }

    /// Its hints.
    #[must_use]
    pub fn notifier(&self) -> RedisNotifier {
        RedisNotifier::new(self)
    }

    /// Its rate limiter.
    #[must_use]
    pub fn rate_limiter(&self) -> RedisRateLimiter {
        RedisRateLimiter::new(self)
    }

    /// Asks it for nothing: whether it is there.
    ///
    /// # Errors
    /// [`RedisError`] when it is not.
    pub async fn check(&self) -> Result<(), RedisError> {
        self.0.link.command::<String>(&redis::cmd("PING")).await.map(|_| ())
    }

    /// What the nodes that hold keys say of themselves: of one node or behind Sentinels one, of a Cluster each master, in no order. A user of an
    /// ACL needs the right to `INFO`, which nothing else here does.
    ///
    /// # Errors
    /// [`RedisError`] when it is away, or does not let this user ask.
    ///
    /// # Cancel safety
    /// The future may be dropped at any await: nothing is changed.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use pgw_redis::Redis;
    ///
    /// for node in Redis::node("redis://cache.internal").build()?.info().await? {
    ///     println!("Redis {}: {} bytes used", node.version, node.used_memory_bytes);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn info(&self) -> Result<Vec<NodeInfo>, RedisError> {
        let answer = self.0.link.command::<redis::Value>(&redis::cmd("INFO")).await?;
        NodeInfo::all(answer)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the address, which may hold a password.
        f.debug_struct("Redis")
            .field("link", &self.link)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// How a [`Redis`] is to be.
#[derive(Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct RedisBuilder {
    place: Place,
    credentials: Option<(Option<String>, String)>,
    namespace: Option<String>,
    timeout: Duration,
    clock: ServerClock,
    shards: NonZeroU16,
    jobs_max: u32,
    #[cfg(feature = "tls")]
    certificates: redis::TlsCertificates,
}

#[derive(Clone)]
enum Place {
    Node(String),
    Sentinel { urls: Vec<String>, master: String },
    Cluster(Vec<String>),
}

impl RedisBuilder {
    fn new(place: Place, shards: u16) -> Self {
        Self {
            place,
            credentials: None,
            namespace: None,
            timeout: TIMEOUT_DEFAULT,
            clock: ServerClock::default(),
            shards: NonZeroU16::new(shards).unwrap_or(NonZeroU16::MIN),
            jobs_max: RedisQueue::JOBS_MAX_DEFAULT,
            #[cfg(feature = "tls")]
            certificates: redis::TlsCertificates { client_tls: None, root_cert: None },
        }
    }

    /// Who to be at the nodes: an ACL user, or none for `requirepass`, and the password. Over those of the URLs; behind Sentinels the URLs
    /// hold the Sentinels' own.
    pub fn with_credentials(mut self, user: Option<&str>, password: &str) -> Self {
        self.credentials = Some((user.map(str::to_owned), password.to_owned()));
        self
    }

    /// What all keys have in common: `pgw:{namespace:…}`. Several installations that share a Redis differ in it. Default `default`.
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// How long an answer is waited for. Default 1 s.
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Into how many parts each lane of the queue is divided, each in one slot of a Cluster. Default 1, and 16 on a Cluster. All processes are to
    /// agree: others have another queue, and what waits in one that nobody claims from is pushed again from the rows.
    ///
    /// Over several parts, jobs are claimed in the order they are due as of the moment each part was asked, within 100 ms.
    pub const fn with_shards(mut self, shards: NonZeroU16) -> Self {
        self.shards = shards;
        self
    }

    /// Holds at most so many jobs in each part of a lane, buried ones included; one more is
    /// [`QueueError::Full`](pgw_core::queue::QueueError::Full), and the reaper pushes it when there is room. A job takes some 300 to 500 bytes.
    pub const fn with_jobs_max(mut self, jobs_max: u32) -> Self {
        self.jobs_max = jobs_max;
        self
    }

    /// A clock that a test moves.
    pub fn with_clock(mut self, clock: ServerClock) -> Self {
        self.clock = clock;
        self
    }

    /// The certificate authority that `rediss://` servers are checked against, as PEM, instead of the system's.
    #[cfg(feature = "tls")]
    pub fn with_root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.root_cert = Some(pem.into());
        self
    }

    /// The certificate and key that this side shows to `rediss://` servers, as PEM.
    #[cfg(feature = "tls")]
    pub fn with_client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        let (client_cert, client_key) = (certificate.into(), key.into());
        self.certificates.client_tls = Some(redis::ClientTlsConfig { client_cert, client_key });
        self
    }

    /// The Redis, not connected yet.
    ///
    /// # Errors
    /// [`RedisConfigError`].
    pub fn build(self) -> Result<Redis, RedisConfigError> {
        let namespace = match &self.namespace {
            Some(text) => text.parse()?,
            None => Namespace::default(),
        };
        let link = Link::new(self.dial()?, self.timeout);
        let Self { clock, shards, jobs_max, .. } = self;
        Ok(Redis(Arc::new(Inner { link, namespace, clock, shards, jobs_max })))
    }

    fn dial(&self) -> Result<Dial, RedisConfigError> {
        match &self.place {
            Place::Node(url) => {
                let info = self.with_identity(info(url)?);
                #[cfg(feature = "tls")]
                let client = if self.has_certificates() {
                    Client::build_with_tls(info, self.certificates.clone())
                } else {
                    Client::open(info)
                };
                #[cfg(not(feature = "tls"))]
                let client = Client::open(info);
                Ok(Dial::Node(Box::new(client.map_err(RedisConfigError::Address)?)))
            }
            Place::Sentinel { urls, master } => self.sentinels(urls, master),
            Place::Cluster(urls) => self.cluster(urls),
        }
    }

    fn sentinels(&self, urls: &[String], master: &str) -> Result<Dial, RedisConfigError> {
        let sentinels = urls.iter().map(|url| info(url)).collect::<Result<Vec<_>, _>>()?;
        let first = sentinels.first().ok_or(RedisConfigError::NoAddress)?;
        let addresses = sentinels.iter().map(|info| info.addr().clone());
        let failed = RedisConfigError::Address;
        let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)
            .map_err(failed)?;
        builder = builder
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_db(first.redis_settings().db());
        // The nodes speak as the Sentinels do: with TLS or without.
        if let redis::ConnectionAddr::TcpTls { .. } = first.addr() {
            builder = builder
                .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(redis::TlsMode::Secure);
            #[cfg(feature = "tls")]
            if self.has_certificates() {
                builder = builder
                    .set_client_to_redis_certificates(self.certificates.clone())
                    .set_client_to_sentinel_certificates(self.certificates.clone());
            }
        }
        if let Some(user) = first.redis_settings().username() {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = first.redis_settings().password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if let Some((user, password)) = &self.credentials {
            builder = builder.set_client_to_redis_password(password);
            if let Some(user) = user {
                builder = builder.set_client_to_redis_username(user);
            }
        }
        let client = builder.build();
        Ok(Dial::Sentinel(Box::new(Mutex::new(client.map_err(RedisConfigError::Address)?))))
    }

    fn cluster(&self, urls: &[String]) -> Result<Dial, RedisConfigError> {
        if urls.is_empty() {
            return Err(RedisConfigError::NoAddress);
        }
        let nodes = urls
            .iter()
            .map(|url| Ok(self.with_identity(info(url)?)))
            .collect::<Result<Vec<_>, RedisConfigError>>()?;
        let builder = ClusterClientBuilder::new(nodes)
            .use_protocol(ProtocolVersion::RESP3)
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(10)
            .max_retry_wait(100)
            .connection_timeout(self.timeout)
            .response_timeout(self.timeout);
        #[cfg(feature = "tls")]
        let builder = if self.has_certificates() {
            builder.certs(self.certificates.clone())
        } else {
            builder
        };
        Ok(Dial::Cluster(Box::new(builder.build().map_err(RedisConfigError::Address)?)))
    }

    /// With the credentials that were given, and the protocol that hints need.
    fn with_identity(&self, info: ConnectionInfo) -> ConnectionInfo {
        let mut settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        if let Some((user, password)) = &self.credentials {
            settings = settings.set_password(password);
            if let Some(user) = user {
                settings = settings.set_username(user);
            }
        }
        info.set_redis_settings(settings)
    }

    #[cfg(feature = "tls")]
    const fn has_certificates(&self) -> bool {
        self.certificates.root_cert.is_some() || self.certificates.client_tls.is_some()
    }
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without addresses and credentials.
        f.debug_struct("RedisBuilder")
            .field("namespace", &self.namespace)
            .field("timeout", &self.timeout)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

fn info(url: &str) -> Result<ConnectionInfo, RedisConfigError> {
    url.into_connection_info().map_err(RedisConfigError::Address)
}

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// Enough that three to eight masters get an even share.
const CLUSTER_SHARDS: u16 = 16;
/// How often a Cluster's client follows a slot that moved, or waits for a failover, before the call fails.
const CLUSTER_RETRIES: u32 = 3;

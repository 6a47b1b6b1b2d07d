//! The Redis that the configuration names, if it names one: an accelerator beside the database, never instead of it.

use std::sync::Arc;

use async_trait::async_trait;
use pgw_core::processor::Source;
use pgw_http::ops::{Ops, Probe};
use pgw_redis::{NodeInfo, Redis, RedisBuilder};
use url::Url;

use crate::config::{Config, setting};
use crate::database;
use crate::failure::Failure;

/// How to reach it.
#[derive(Debug)]
pub(crate) struct Options {
    builder: RedisBuilder,
    pub(crate) is_cluster: bool,
    /// Whether it is on another machine, in the clear.
    is_exposed: bool,
}

impl Options {
    /// Not connected to before it is first used.
    ///
    /// # Errors
    /// [`Failure`] when a setting is wrong. What it says holds no password.
    pub(crate) fn open(&self) -> Result<Redis, Failure> {
        self.builder
            .clone()
            .build()
            .map_err(|error| Failure::usage("the settings of Redis cannot be used").because(error))
    }

    /// What is to be said of a connection that others can read.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        self.is_exposed.then_some(
            "the connection to Redis is not encrypted: whoever is in between can read its password and change what it holds. Use rediss:// or redis.tls=true",
        )
    }
}

/// How to reach Redis; `None` when there is none.
///
/// # Errors
/// [`Failure`] when settings are wrong or contradict each other, or there is no database whose work it could speed up.
pub(crate) fn options(config: &Config) -> Result<Option<Options>, Failure> {
    let Some(urls) = urls(config)? else { return Ok(None) };
    if database::options(config)?.is_none() {
        return Err(Failure::usage(
            "a Redis is set and no database: what is in memory is of one process, which has nothing to share. Set DATABASE_URL, or unset REDIS_URL and REDIS_HOST",
        ));
    }
    let master = config.text(&setting::REDIS_SENTINEL_MASTER);
    let is_cluster = config.flag(&setting::REDIS_CLUSTER)? || (urls.len() > 1 && master.is_none());
    let texts = || urls.iter().map(Url::as_str);
    let builder = match master {
        Some(_) if is_cluster => {
            return Err(Failure::usage(
                "redis.cluster and redis.sentinel_master exclude each other: a Cluster fails over by itself. Keep one",
            ));
        }
        Some(_) if config.text(&setting::REDIS_URL).is_none() => {
            return Err(Failure::usage(
                "redis.sentinel_master needs redis.url, with the URLs of the Sentinels",
            ));
        }
        Some(master) => Redis::sentinel(texts(), master),
        None if is_cluster => Redis::cluster(texts()),
        None => Redis::node(urls.first().map_or("", Url::as_str)),
    };
    let builder = credentials(config, &urls, master.is_some(), builder)?;
    let builder = authority(config, &urls, builder)?;
    let namespace = config.text(&setting::REDIS_NAMESPACE).unwrap_or_default();
    let is_exposed = urls.iter().any(|url| url.scheme() == "redis" && !is_local(url));
    let options = Options { builder: builder.with_namespace(namespace), is_cluster, is_exposed };
    options.open()?;
    Ok(Some(options))
}

/// Where it is, one URL or several.
fn urls(config: &Config) -> Result<Option<Vec<Url>>, Failure> {
    let is_encrypted = config.flag(&setting::REDIS_TLS)?;
    let (of, parsed) = match (config.text(&setting::REDIS_URL), config.text(&setting::REDIS_HOST)) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Failure::usage(
                "redis.url (REDIS_URL) and redis.host (REDIS_HOST) both say where Redis is: keep one",
            ));
        }
        // The error of the parser may quote the URL.
        (Some(urls), None) => {
            let urls = urls.split(',').map(|url| Url::parse(url.trim()).ok());
            (&setting::REDIS_URL, urls.collect::<Option<Vec<_>>>())
        }
        (None, Some(host)) => {
            let scheme = if is_encrypted { "rediss" } else { "redis" };
            let port = config.require::<u16>(&setting::REDIS_PORT)?;
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            let url = Url::parse(&format!("{scheme}://{host}:{port}")).ok();
            (&setting::REDIS_HOST, url.map(|url| vec![url]))
        }
    };
    let known = parsed
        .filter(|urls| urls.iter().all(|url| matches!(url.scheme(), "redis" | "rediss" | "unix")));
    let Some(urls) = known else {
        let message = "must lead to Redis: redis://user:password@host:port, rediss:// with TLS, several separated by commas; in a password, write , as %2C and @ as %40";
        return Err(config.wrong(of, message).into());
    };
    let encrypted = urls.iter().filter(|url| url.scheme() == "rediss").count();
    if encrypted != urls.len() && (encrypted > 0 || is_encrypted) {
        let message = "must be rediss:// in every URL: redis.tls is on, or another URL says so";
        return Err(config.wrong(of, message).into());
    }
    Ok(Some(urls))
}

/// Who to be: by settings of their own, or by the URL; never by both.
fn credentials(
    config: &Config,
    urls: &[Url],
    by_sentinel: bool,
    builder: RedisBuilder,
) -> Result<RedisBuilder, Failure> {
    let user = config.text(&setting::REDIS_USER);
    let Some(password) = config.secret(&setting::REDIS_PASSWORD) else {
        return match user {
            None => Ok(builder),
            Some(_) => Err(Failure::usage("redis.user needs redis.password")),
        };
    };
    let in_url = urls.iter().any(|url| url.password().is_some() || !url.username().is_empty());
    if in_url && !by_sentinel {
        return Err(Failure::usage(
            "redis.url and redis.password (REDIS_PASSWORD) both have a password: keep one",
        ));
    }
    Ok(builder.with_credentials(user, password.expose()))
}

fn authority(
    config: &Config,
    urls: &[Url],
    builder: RedisBuilder,
) -> Result<RedisBuilder, Failure> {
    let Some(path) = config.text(&setting::REDIS_CA_FILE) else { return Ok(builder) };
    if urls.iter().any(|url| url.scheme() != "rediss") {
        let message = "is for TLS: use rediss:// in redis.url, or redis.tls=true beside redis.host";
        return Err(config.wrong(&setting::REDIS_CA_FILE, message).into());
    }
    let pem = std::fs::read(path).map_err(Failure::system(format!("cannot read {path}")))?;
    Ok(builder.with_root_certificate(pem))
}

fn is_local(url: &Url) -> bool {
    matches!(url.host_str(), None | Some("localhost" | "127.0.0.1" | "[::1]" | "::1"))
}

/// With `/health` asking it too, if there is one. `/readyz` does not: payments are taken without it.
pub(crate) fn watched(ops: Ops, redis: Option<&Redis>) -> Ops {
    match redis {
        Some(redis) => ops.with_redis(Arc::new(Reached(redis.clone()))),
        None => ops,
    }
}

/// What `/health` asks.
#[derive(Debug)]
struct Reached(Redis);

#[async_trait]
impl Probe for Reached {
    async fn check(&self) -> Result<(), Source> {
        self.0.check().await.map_err(|error| Arc::new(error) as Source)
    }
}

/// The node that is closest to refusing writes.
pub(crate) fn fullest(nodes: &[NodeInfo]) -> Option<&NodeInfo> {
    nodes.iter().max_by_key(|one| (one.used_percent(), one.used_memory_bytes))
}

/// How it is, in the word that `/health` has for it.
pub(crate) async fn state(redis: Option<&Redis>) -> &'static str {
    match redis {
        None => "disabled",
        Some(redis) if redis.check().await.is_ok() => "connected",
        Some(_) => "disconnected",
    }
}

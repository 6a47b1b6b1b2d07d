//! `pgw serve`: the HTTP API, and the work behind it.

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use clap::Args;
use ipnet::IpNet;
use pgw_core::access::Role;
use pgw_core::gateway::NewApiKey;
use pgw_core::page::PageRequest;
use pgw_core::rate_limit::{Limit, RateLimiter};
use pgw_core::text::Description;
use pgw_http::client_ip::TrustedProxies;
use pgw_http::cors::CorsPolicy;
use pgw_http::ops::Ops;
use pgw_http::rate_limit::{Class, RateLimits, WhenUnavailable};
use pgw_http::serve::{Certificate, Server};
use pgw_http::{Config as ApiConfig, Drain};
use pgw_storage_memory::MemoryRateLimiter;
use tokio::net::TcpListener;

use crate::cli::Global;
use crate::config::{Config, setting};
use crate::failure::{Exit, Failure};
use crate::logs::{LogFile, Logs};
use crate::metrics::Metrics;
use crate::node::{Node, Store};
use crate::output::Output;
use crate::stop::{Signals, Wish};
use crate::{database, redis, worker};

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The port, instead of the configured one; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
    /// The address, instead of the configured one.
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// Serve only: `pgw worker` does the work elsewhere.
    #[arg(long)]
    no_worker: bool,
}

/// Serves until it is told to stop, then finishes what is under way.
///
/// # Errors
/// [`Failure`], before the first request is taken.
pub(crate) async fn run(
    config: &Config,
    global: &Global,
    args: &ServeArgs,
    logs: &Logs,
    out: Output,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let node = Node::open(config, global).await?;
    if args.no_worker && matches!(node.store, Store::Memory) {
        return Err(Failure::usage(
            "--no-worker needs a database: nobody else can work on what is in memory",
        ));
    }
    if let Some(warning) = database::options(config)?.as_ref().and_then(database::warning) {
        tracing::warn!("{warning}");
    }
    if let Some(warning) = redis::options(config)?.as_ref().and_then(redis::Options::warning) {
        tracing::warn!("{warning}");
    }
    let metrics = Metrics::install()?;
    let drain = Drain::new();
    let certificate = certificate(config)?;
    let api = api(config, &node, &drain)?;
    let certified = certificate.as_ref().map(|files| &files.certificate);
    let server = server(config, &drain, certified)?.with_config(&api);
    let app = app(&node, api, &metrics);
    let port = match args.port {
        Some(port) => port,
        None => config.require(&setting::PORT)?,
    };
    let listener = listen(config, args.bind, port).await?;
    let address = listener.local_addr().map_err(Failure::system("the socket has no address"))?;

    let scheme = if certificate.is_some() { "https" } else { "http" };
    greet(&node, scheme, address, out).await?;
    let sampling = metrics.sample(&node, logs);
    let worker = if args.no_worker { None } else { Some(worker::start(config, &node)?) };
    let serving = tokio::spawn(server.serve(listener, app));
    let store = match node.store {
        Store::Memory => "memory",
        Store::Postgres(_) => "postgres",
    };
    // Away, it is looked for by a task of its own, and payments are taken meanwhile.
    let redis = redis::state(node.redis.as_ref()).await;
    tracing::info!(%address, scheme, store, redis, worker = worker.is_some(), version = env!("CARGO_PKG_VERSION"), "serving");

    while signals.next().await == Wish::Reload {
        logs.file.iter().for_each(LogFile::reopen);
        if let Some(files) = &certificate {
            files.reload();
        }
    }
    tracing::info!("stopping: no new connections, finishing what is under way");
    drain.begin();
    // Together, or a stop would take twice as long as it may. A request that waits for an outcome answers how things stand then.
    let working = async {
        if let Some(worker) = worker {
            worker::drain(worker).await;
        }
    };
    let (served, ()) = tokio::join!(serving, working);
    sampling.abort();
    let broke = |error| Failure::new(Exit::Failed, "the server broke").because(error);
    served.map(drop).map_err(broke)
}

/// A socket at the configured address, or another, and this port.
///
/// # Errors
/// [`Failure`] says what to do when it is taken.
pub(crate) async fn listen(
    config: &Config,
    bind: Option<IpAddr>,
    port: u16,
) -> Result<TcpListener, Failure> {
    let bind = match bind {
        Some(bind) => bind,
        None => config.require(&setting::BIND)?,
    };
    let address = SocketAddr::new(bind, port);
    TcpListener::bind(address).await.map_err(|error| {
        let hint = "choose another with --port, or --port 0 for a free one";
        Failure::new(Exit::Failed, format!("cannot listen on {address}; {hint}")).because(error)
    })
}

fn app(node: &Node, api: ApiConfig, metrics: &Metrics) -> Router {
    let ops = redis::watched(Ops::new(node.gateway.clone(), &api), node.redis.as_ref()).router();
    Router::new()
        .nest("/api", pgw_http::router(node.gateway.clone(), api))
        .merge(ops)
        .merge(metrics.router())
}

fn api(config: &Config, node: &Node, drain: &Drain) -> Result<ApiConfig, Failure> {
    let mut api = ApiConfig::default().with_drain(drain.clone());
    if let Some(url) = config.text(&setting::PUBLIC_URL) {
        api = api.with_public_base_url(&format!("{}/api", url.trim_end_matches('/')));
    }
    let proxies = config.list::<IpNet>(&setting::TRUSTED_PROXIES)?;
    api = api.with_trusted_proxies(TrustedProxies::new(proxies));
    if let Some(limits) = rate_limits(config, node)? {
        api = api.with_rate_limits(limits);
    }
    let origins = config.list::<String>(&setting::CORS_ORIGINS)?;
    if !origins.is_empty() {
        let policy = CorsPolicy::new(origins.iter().map(String::as_str))
            .map_err(|error| config.wrong(&setting::CORS_ORIGINS, error.to_string()))?;
        api = api.with_cors(policy);
    }
    tracing::debug!(merchant = %node.scope.merchant, "the API is set up");
    Ok(api)
}

fn rate_limits(config: &Config, node: &Node) -> Result<Option<RateLimits>, Failure> {
    let Some(quota) = NonZeroU32::new(config.require(&setting::RATE_LIMIT)?) else {
        return Ok(None);
    };
    let window = config.require::<u64>(&setting::RATE_WINDOW)?;
    if window == 0 {
        return Err(config.wrong(&setting::RATE_WINDOW, "must be at least 1").into());
    }
    let anonymous = Limit { quota, window: Duration::from_millis(window) };
    let limiter: Arc<dyn RateLimiter> = match &node.redis {
        Some(redis) => Arc::new(redis.rate_limiter()),
        None => Arc::new(MemoryRateLimiter::new()),
    };
    let mut limits = RateLimits::new(limiter).with(Class::Anonymous, anonymous);
    let fail_open = fail_open(config)?;
    for class in Class::ALL {
        let is_open = fail_open.contains(&class);
        let then = if is_open { WhenUnavailable::Admit } else { WhenUnavailable::Refuse };
        limits = limits.when_unavailable(class, then);
    }
    Ok(Some(match NonZeroU32::new(config.require(&setting::RATE_PER_KEY)?) {
        Some(quota) => {
            limits.with(Class::Authenticated, Limit { quota, window: Duration::from_secs(60) })
        }
        None => limits.without(Class::Authenticated),
    }))
}

/// The classes that are served while nobody can count them.
///
/// # Errors
/// [`Failure`] when a class is none.
pub(crate) fn fail_open(config: &Config) -> Result<Vec<Class>, Failure> {
    let names = config.list::<String>(&setting::RATE_FAIL_OPEN)?;
    if names == ["none"] {
        return Ok(Vec::new());
    }
    let class = |name: &String| Class::ALL.into_iter().find(|class| class.as_str() == name);
    let classes: Option<Vec<Class>> = names.iter().map(class).collect();
    let message =
        "must be some of anonymous, authenticated and processor, separated by commas; or none";
    classes.ok_or_else(|| config.wrong(&setting::RATE_FAIL_OPEN, message).into())
}

fn server(
    config: &Config,
    drain: &Drain,
    certificate: Option<&Certificate>,
) -> Result<Server, Failure> {
    let mut server = Server::new()
        .with_drain(drain.clone())
        .with_connections_max(config.require(&setting::CONNECTIONS_MAX)?)
        .with_requests_max(config.require(&setting::REQUESTS_MAX)?);
    if let Some(timeout) = config.duration(&setting::REQUEST_TIMEOUT)? {
        server = server.with_request_timeout(timeout);
    }
    if let Some(timeout) = config.duration(&setting::DRAIN)? {
        server = server.with_drain_timeout(timeout);
    }
    Ok(match certificate {
        Some(certificate) => server.with_certificate(certificate.clone()),
        None => server,
    })
}

/// A certificate and the files it is from.
struct Files {
    certificate: Certificate,
    chain: PathBuf,
    key: PathBuf,
}

impl Files {
    /// Reads the files anew. On an error the certificate stays as it was.
    fn reload(&self) {
        let read =
            std::fs::read(&self.chain).and_then(|chain| Ok((chain, std::fs::read(&self.key)?)));
        let reloaded = match read {
            Ok((chain, key)) => self.certificate.reload(&chain, &key).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match reloaded {
            Ok(()) => tracing::info!("the certificate was read anew"),
            Err(error) => tracing::error!(error, "the certificate stays as it was"),
        }
    }
}

fn certificate(config: &Config) -> Result<Option<Files>, Failure> {
    let (chain, key) = match (config.text(&setting::TLS_CERT), config.text(&setting::TLS_KEY)) {
        (None, None) => return Ok(None),
        (Some(chain), Some(key)) => (PathBuf::from(chain), PathBuf::from(key)),
        _ => return Err(Failure::usage("server.tls_cert and server.tls_key go together")),
    };
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(Failure::system(format!("cannot read {}", path.display())))
    };
    let certificate = Certificate::from_pem(&read(&chain)?, &read(&key)?)
        .map_err(|error| Failure::usage("the certificate cannot be used").because(error))?;
    Ok(Some(Files { certificate, chain, key }))
}

/// Says where it listens and, when nobody has a key yet, gives the first one: once, and only to whoever watches. Logs are kept, and a
/// key in them would be too.
async fn greet(node: &Node, scheme: &str, address: SocketAddr, out: Output) -> Result<(), Failure> {
    let is_watched = std::io::stderr().is_terminal();
    if is_watched {
        out.note(format!("serving on {scheme}://{address}/api until Ctrl-C; what it can do is on {scheme}://{address}/docs"));
    }
    let keys = node.operator().api_keys(PageRequest::first(1)).await?;
    if !keys.data.is_empty() {
        return Ok(());
    }
    if matches!(node.store, Store::Postgres(_)) && !is_watched {
        out.note("there is no API key yet: `pgw keys create --role admin --name first` makes one");
        return Ok(());
    }
    let name = Description::parse("first key").expect("two words are a description");
    let new = NewApiKey { role: Role::Admin, name, expires_in: None };
    let (_, secret) = node.operator().create_api_key(new).await?;
    out.note(format!(
        "there was no API key yet. This one may do everything, and is shown this once:\n\n  {}\n",
        secret.expose()
    ));
    if is_watched {
        out.note(format!(
            "try it: curl -s {scheme}://{address}/api/payments -H 'X-API-Key: {}' --json '{{\"amount\":\"12.50\",\"currency\":\"EUR\",\"customer_email\":\"bo@example.com\",\"customer_name\":\"Bo\"}}'",
            secret.expose()
        ));
    }
    Ok(())
}

//! For those who run it: whether it is alive, ready and whole, and what the API looks like. A router of its own, because it is
//! often mounted elsewhere than the API, or on another port.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::processor::Source;
use pgw_core::timestamp::Timestamp;
use tokio::sync::Mutex;

use crate::config::Config;
use crate::drain::Drain;
use crate::headers::SecurityHeaders;
use crate::{docs, openapi};

/// Something that the service depends on and that can be asked whether it is there.
///
/// # Contract
/// Cheap: asked about once a second at most. Whoever asks gives up after two seconds.
///
/// # Cancel safety
/// The future may be dropped at any await.
#[async_trait]
pub trait Probe: fmt::Debug + Send + Sync {
    /// Asks.
    ///
    /// # Errors
    /// Whatever is wrong. It goes to the log, not into the answer.
    async fn check(&self) -> Result<(), Source>;
}

/// The routes of operation.
///
/// | route | answer |
/// |---|---|
/// | `GET /livez` | 200 as long as the process answers; nothing else is asked, for a restart would not mend that |
/// | `GET /readyz` | 200, or 503 while the storage cannot be read or the process [drains](Drain) |
/// | `GET /health` | `{"status","timestamp","database","redis"}`; 503 and `degraded` when a part is down |
/// | `GET /openapi.json` | what the API is, as OpenAPI 3.1 |
/// | `GET /docs` | the same for people, without scripts |
///
/// They need no key and are not counted; the parts are asked once a second at most, however often `/health` is.
///
/// ```
/// use axum::Router;
/// use pgw_core::gateway::Gateway;
/// use pgw_http::Config;
/// use pgw_http::ops::Ops;
///
/// fn app(gateway: Gateway) -> Router {
///     let config = Config::default();
///     let ops = Ops::new(gateway.clone(), &config).router();
///     Router::new().nest("/api", pgw_http::router(gateway, config)).merge(ops)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Ops {
    gateway: Gateway,
    redis: Option<Arc<dyn Probe>>,
    drain: Drain,
    env: Env,
    headers: SecurityHeaders,
    document: String,
}

impl Ops {
    /// For the router with this configuration.
    #[must_use]
    pub fn new(gateway: Gateway, config: &Config) -> Self {
        let document = openapi::document(config.public_base_url());
        Self {
            gateway,
            redis: None,
            drain: config.drain().clone(),
            env: config.env().clone(),
            headers: config.security_headers().clone(),
            document,
        }
    }

    /// With a Redis that `/health` asks too. Without one it says `disabled`.
    #[must_use]
    pub fn with_redis(mut self, probe: Arc<dyn Probe>) -> Self {
        self.redis = Some(probe);
        self
    }

    /// The router. Like the API's it brings no fallback and needs nothing of the host's state.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        let Self { gateway, redis, drain, env, headers, document } = self;
        let page = docs::page(&document);
        let document = Bytes::from(document);
        let health = Arc::new(Health { gateway, redis, env, last: Mutex::new(None) });
        let ready = Arc::clone(&health);
        Router::new()
            .route("/livez", get(|| async { json(StatusCode::OK, "{\"status\":\"ok\"}") }))
            .route("/readyz", get(move || async move { ready.readiness(&drain).await }))
            .route("/health", get(move || async move { health.report().await.answer() }))
            .route("/openapi.json", get(move || async move { json(StatusCode::OK, document) }))
            .route("/docs", get(move || async move { docs::answer(page) }))
            // On the routes alone: a layer of the router would wrap the host's fallback as well.
            .route_layer(headers)
    }
}

/// The parts, and how they were when they were last asked.
#[derive(Debug)]
struct Health {
    gateway: Gateway,
    redis: Option<Arc<dyn Probe>>,
    env: Env,
    last: Mutex<Option<Report>>,
}

#[derive(Debug, Clone, Copy)]
struct Report {
    at: Timestamp,
    database: Part,
    redis: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Connected,
    Disconnected,
    Disabled,
}

impl Part {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Disabled => "disabled",
        }
    }
}

impl Health {
    /// How the parts are. Callers that come at once wait for one answer.
    async fn report(&self) -> Report {
        let mut last = self.last.lock().await;
        let now = self.env.now();
        if let Some(report) = *last
            && report.at <= now
            && now.since(report.at) < KEPT
        {
            return report;
        }
        let database = async { self.gateway.check().await.map_err(|e| Arc::new(e) as Source) };
        let redis = async {
            match &self.redis {
                Some(redis) => ask("redis", redis.check()).await,
                None => Part::Disabled,
            }
        };
        let (database, redis) = tokio::join!(ask("database", database), redis);
        // From here on it holds: a part that hangs is not asked anew by everybody who waited for this.
        let report = Report { at: self.env.now(), database, redis };
        *last = Some(report);
        report
    }

    async fn readiness(&self, drain: &Drain) -> Response {
        if drain.has_begun() {
            return json(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"draining\"}");
        }
        match self.report().await.database {
            Part::Disconnected => {
                json(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"unavailable\"}")
            }
            Part::Connected | Part::Disabled => json(StatusCode::OK, "{\"status\":\"ok\"}"),
        }
    }
}

async fn ask(part: &'static str, check: impl Future<Output = Result<(), Source>>) -> Part {
    match tokio::time::timeout(PATIENCE, check).await {
        Ok(Ok(())) => return Part::Connected,
        Ok(Err(error)) => tracing::warn!(part, %error, "a part is down"),
        Err(_) => tracing::warn!(part, "a part does not answer"),
    }
    Part::Disconnected
}

impl Report {
    fn answer(self) -> Response {
        let is_whole = ![self.database, self.redis].contains(&Part::Disconnected);
        let (code, status) = match is_whole {
            true => (StatusCode::OK, "ok"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
        };
        let (at, database, redis) = (self.at, self.database.as_str(), self.redis.as_str());
        json(
            code,
            format!(
                "{{\"status\":\"{status}\",\"timestamp\":\"{at}\",\"database\":\"{database}\",\"redis\":\"{redis}\"}}"
            ),
        )
    }
}

fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], body.into()).into_response()
}

/// How long a part may take: shorter than the probes of common orchestrators wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer holds, so that asking is no lever against the parts.
const KEPT: Duration = Duration::from_secs(1);

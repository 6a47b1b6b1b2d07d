//! pgw over HTTP.
//!
//! - Feature `router`: `router` gives the whole API as an `axum::Router` to mount in a host's own application.
//! - Feature `serve`: `serve::Server` serves a router on a socket, with the timeouts and bounds that the internet asks for.
//! - Feature `transport`: `transport::HttpTransport` sends webhooks, guarded against requests into private networks.
//! - Feature `testing`: `testing::HostileReceiver` is what a transport may meet out there, for tests.
//!
//! Neither knows a storage or a queue: both work over whatever the [`pgw_core`] gateway was built with.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "router")]
mod answer;
#[cfg(feature = "router")]
pub mod auth;
#[cfg(feature = "router")]
pub mod client_ip;
#[cfg(feature = "router")]
mod config;
#[cfg(feature = "router")]
pub mod cors;
#[cfg(feature = "router")]
mod docs;
#[cfg(feature = "router")]
mod drain;
#[cfg(feature = "router")]
mod dto;
#[cfg(feature = "router")]
mod extract;
#[cfg(feature = "router")]
mod failures;
#[cfg(feature = "router")]
mod fields;
#[cfg(feature = "router")]
mod headers;
#[cfg(feature = "router")]
mod openapi;
#[cfg(feature = "router")]
pub mod ops;
#[cfg(feature = "router")]
pub mod problem;
#[cfg(feature = "router")]
pub mod rate_limit;
#[cfg(feature = "router")]
mod refusal;
#[cfg(feature = "router")]
mod request_id;
#[cfg(feature = "transport")]
mod resolver;
#[cfg(feature = "router")]
mod routes;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "router")]
mod stream;
#[cfg(feature = "router")]
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "transport")]
pub mod transport;

#[cfg(feature = "router")]
pub use config::Config;
#[cfg(feature = "router")]
pub use drain::Drain;
#[cfg(feature = "router")]
pub use headers::{SecurityHeaders, SecurityHeadersService};
#[cfg(feature = "router")]
pub use routes::{Route, routes};
#[cfg(feature = "router")]
pub use stream::StreamLimits;

/// The API as a router, for a host to serve at the root, to nest below a path, or to merge into its own.
///
/// It brings no fallback: a path that is not ours is answered by the host's, or by axum's plain 404, also below the path
/// where it is nested. It needs nothing of the host's state, whatever that is. Every answer of a path that is ours
/// carries `X-Request-Id` and the [`SecurityHeaders`], and every error is `application/problem+json` (see [`problem`]).
///
/// It sets no timeouts: those are for whoever owns the listener, as `serve::Server` (feature `serve`) does; `axum::serve` alone has
/// none. It limits requests only with [`Config::with_rate_limits`]. What it says of them to metrics and logs is in [`telemetry`].
///
/// The client's address goes to the audit log and is what anonymous requests are counted by when the host serves with
/// [`into_make_service_with_connect_info::<SocketAddr>`](axum::Router::into_make_service_with_connect_info), or with
/// `serve::Server`. Behind a proxy it is the proxy's, unless [`Config::with_trusted_proxies`] says whom to believe.
///
/// `/health`, `/livez`, `/readyz`, `/openapi.json` and `/docs` are a router of their own: [`ops::Ops`].
///
/// ```
/// use axum::Router;
/// use pgw_core::gateway::Gateway;
///
/// fn app(gateway: Gateway) -> Router {
///     let api = pgw_http::router(gateway, pgw_http::Config::default());
///     Router::new().nest("/api", api)
/// }
/// ```
#[cfg(feature = "router")]
pub fn router<S: Clone + Send + Sync + 'static>(
    gateway: pgw_core::gateway::Gateway,
    config: Config,
) -> axum::Router<S> {
    routes::build(gateway, config)
}

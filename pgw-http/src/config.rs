//! [`Config`]: how the router is set up. What it serves is in [`crate::routes`].

use std::sync::Arc;

use pgw_core::env::Env;
use pgw_core::scope::MerchantId;

use crate::auth::Authenticator;
use crate::client_ip::TrustedProxies;
use crate::cors::CorsPolicy;
use crate::drain::Drain;
use crate::headers::SecurityHeaders;
use crate::problem::TYPE_BASE;
use crate::rate_limit::RateLimits;
use crate::stream::StreamLimits;

/// How the router is set up. The default is fit for use: pgw's own API keys, the system's clock and randomness, security headers, no
/// pages from elsewhere. It does not limit rates, which takes a limiter: [`with_rate_limits`](Self::with_rate_limits).
///
/// ```
/// use pgw_http::Config;
/// let config = Config::default().with_public_base_url("https://pay.example.com/api/");
/// assert_eq!(config.public_base_url(), Some("https://pay.example.com/api"));
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    authenticator: Option<Arc<dyn Authenticator>>,
    public_base_url: Option<Arc<str>>,
    type_base: Arc<str>,
    operator: MerchantId,
    env: Env,
    trusted_proxies: TrustedProxies,
    rate_limits: Option<RateLimits>,
    cors: Option<CorsPolicy>,
    security_headers: SecurityHeaders,
    stream_limits: StreamLimits,
    drain: Drain,
}

impl Config {
    /// With the host's own way to tell who calls, instead of pgw's API keys.
    #[must_use]
    pub fn with_authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = Some(authenticator);
        self
    }

    /// With the absolute address that callers see the API at, behind whatever proxies. `Location` headers and the `type` of
    /// problems (`<base>/problems/<slug>`, which then answers) start with it. Without it a `Location` is a path, and a `type`
    /// leads to this crate's documentation.
    #[must_use]
    pub fn with_public_base_url(mut self, url: &str) -> Self {
        let url = url.trim_end_matches('/');
        self.type_base = format!("{url}/problems/").into();
        self.public_base_url = Some(url.into());
        self
    }

    /// With the merchant whose administrators run the gateway for all: only they see and change what holds for every merchant, the denylist. The
    /// default merchant unless another is given.
    #[must_use]
    pub fn with_operator(mut self, operator: MerchantId) -> Self {
        self.operator = operator;
        self
    }

    /// With the environment that request ids are minted from.
    #[must_use]
    pub fn with_env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// With proxies whose word about the client's address counts. By default the client is the peer.
    #[must_use]
    pub fn with_trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.trusted_proxies = proxies;
        self
    }

    /// With rate limits. Without them nothing is counted but failed tries of one key.
    #[must_use]
    pub fn with_rate_limits(mut self, limits: RateLimits) -> Self {
        self.rate_limits = Some(limits);
        self
    }

    /// With web pages that may call from a browser. By default none may.
    #[must_use]
    pub fn with_cors(mut self, policy: CorsPolicy) -> Self {
        self.cors = Some(policy);
        self
    }

    /// With other security headers.
    #[must_use]
    pub fn with_security_headers(mut self, headers: SecurityHeaders) -> Self {
        self.security_headers = headers;
        self
    }

    /// With other bounds on streams of events.
    #[must_use]
    pub const fn with_stream_limits(mut self, limits: StreamLimits) -> Self {
        self.stream_limits = limits;
        self
    }

    /// With the drain of the host: streams of events end when it begins.
    #[must_use]
    pub fn with_drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// The address that callers see the API at, without a slash at its end.
    #[must_use]
    pub fn public_base_url(&self) -> Option<&str> {
        self.public_base_url.as_deref()
    }

    pub(crate) fn authenticator(&self) -> Option<Arc<dyn Authenticator>> {
        self.authenticator.clone()
    }

    pub(crate) fn type_base(&self) -> &str {
        &self.type_base
    }

    pub(crate) const fn operator(&self) -> &MerchantId {
        &self.operator
    }

    pub(crate) const fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) const fn trusted_proxies(&self) -> &TrustedProxies {
        &self.trusted_proxies
    }

    pub(crate) const fn rate_limits(&self) -> Option<&RateLimits> {
        self.rate_limits.as_ref()
    }

    pub(crate) const fn cors(&self) -> Option<&CorsPolicy> {
        self.cors.as_ref()
    }

    pub(crate) const fn security_headers(&self) -> &SecurityHeaders {
        &self.security_headers
    }

    pub(crate) const fn stream_limits(&self) -> StreamLimits {
        self.stream_limits
    }

    pub(crate) const fn drain(&self) -> &Drain {
        &self.drain
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            authenticator: None,
            public_base_url: None,
            type_base: TYPE_BASE.into(),
            operator: MerchantId::default(),
            env: Env::system(),
            trusted_proxies: TrustedProxies::default(),
            rate_limits: None,
            cors: None,
            security_headers: SecurityHeaders::default(),
            stream_limits: StreamLimits::default(),
            drain: Drain::new(),
        }
    }
}

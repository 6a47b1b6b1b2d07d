//! [`Config`]: how the router is set up. What it serves is in [`crate::routes`].

use std::sync::Arc;

use pgw_core::env::Env;

use crate::auth::Authenticator;
use crate::problem::TYPE_BASE;

/// How the router is set up. The default is fit for use: pgw's own API keys, the system's clock and randomness.
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
    env: Env,
}

impl Config {
    /// With the host's own way to tell who calls, instead of pgw's API keys.
    #[must_use]
    pub fn with_authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = Some(authenticator);
        self
    }

    /// With the absolute address that callers see the API at, behind whatever proxies. `Location` headers and the `type` of
    /// problems (`<base>/problems/<slug>`) start with it. Without it a `Location` is a path, and a `type` leads to this
    /// crate's documentation.
    #[must_use]
    pub fn with_public_base_url(mut self, url: &str) -> Self {
        let url = url.trim_end_matches('/');
        self.type_base = format!("{url}/problems/").into();
        self.public_base_url = Some(url.into());
        self
    }

    /// With the environment that request ids are minted from.
    #[must_use]
    pub fn with_env(mut self, env: Env) -> Self {
        self.env = env;
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

    pub(crate) const fn env(&self) -> &Env {
        &self.env
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            authenticator: None,
            public_base_url: None,
            type_base: TYPE_BASE.into(),
            env: Env::system(),
        }
    }
}

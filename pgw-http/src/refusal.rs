//! [`Refusals`]: how the server and the layers, which stand outside the routes, say no. Their answers look like those of the routes.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;
use pgw_core::env::Env;

use crate::config::Config;
use crate::headers::SecurityHeaders;
use crate::problem::Problem;
use crate::request_id;

/// What refusals have in common.
#[derive(Debug, Clone)]
pub(crate) struct Refusals {
    type_base: Arc<str>,
    security_headers: SecurityHeaders,
    env: Env,
}

impl Refusals {
    /// As the router of this configuration has them.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            type_base: config.type_base().into(),
            security_headers: config.security_headers().clone(),
            env: config.env().clone(),
        }
    }

    /// Where request ids are minted and time is read.
    #[cfg(feature = "serve")]
    pub(crate) const fn env(&self) -> &Env {
        &self.env
    }

    /// The answer to a request with these headers that is not let through.
    pub(crate) fn refuse(&self, problem: Problem, headers: &HeaderMap) -> Response {
        self.refuse_as(problem, &request_id::of(headers, &self.env))
    }

    /// The answer to the request with this id.
    pub(crate) fn refuse_as(&self, problem: Problem, request_id: &str) -> Response {
        let mut response = problem.into_response(&self.type_base, request_id);
        let headers = response.headers_mut();
        self.security_headers.apply(headers);
        request_id::mark(headers, request_id);
        response
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self::of(&Config::default())
    }
}

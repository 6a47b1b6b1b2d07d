//! [`SecurityHeaders`]: what every answer tells a browser that strays here.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use tower::{Layer, Service};

/// Headers that an answer gets unless it has them already. On the router by default; as a tower layer for a host's own
/// routes.
///
/// | header | value |
/// |---|---|
/// | `Strict-Transport-Security` | `max-age=31536000; includeSubDomains` |
/// | `X-Content-Type-Options` | `nosniff` |
/// | `Content-Security-Policy` | `default-src 'none'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'` |
/// | `X-Frame-Options` | `DENY`, for browsers that do not know `frame-ancestors` |
/// | `Referrer-Policy` | `no-referrer` |
/// | `Cache-Control` | `no-store` |
///
/// ```
/// use axum::http::{HeaderValue, header};
/// use pgw_http::SecurityHeaders;
///
/// let headers = SecurityHeaders::default()
///     .with(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=63072000"))
///     .without(&header::X_FRAME_OPTIONS);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityHeaders(Vec<(HeaderName, HeaderValue)>);

impl SecurityHeaders {
    /// With another value, or another header.
    #[must_use]
    pub fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        let mut headers = self.without(&name);
        headers.0.push((name, value));
        headers
    }

    /// Without a header.
    #[must_use]
    pub fn without(mut self, name: &HeaderName) -> Self {
        self.0.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

impl Default for SecurityHeaders {
    fn default() -> Self {
        let headers = [
            (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'",
            ),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        Self(headers.map(|(name, value)| (name, HeaderValue::from_static(value))).into())
    }
}

impl<S> Layer<S> for SecurityHeaders {
    type Service = SecurityHeadersService<S>;

    fn layer(&self, inner: S) -> SecurityHeadersService<S> {
        SecurityHeadersService { headers: self.clone(), inner }
    }
}

/// What [`SecurityHeaders`] makes of a service.
#[derive(Debug, Clone)]
pub struct SecurityHeadersService<S> {
    headers: SecurityHeaders,
    inner: S,
}

impl<S, B, C> Service<Request<B>> for SecurityHeadersService<S>
where
    S: Service<Request<B>, Response = Response<C>>,
    S::Future: Send + 'static,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<C>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let headers = self.headers.clone();
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            headers.apply(response.headers_mut());
            Ok(response)
        })
    }
}

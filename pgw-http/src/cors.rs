//! [`CorsPolicy`]: which web pages may call the API from a browser. None, unless it is given.
//!
//! tower-http does the work. This fixes what may be configured: exact origins, checked when they are read, and the headers
//! that this API takes and gives.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Whose pages may call, and whether with credentials.
///
/// A secret key has no place in a browser: whoever can open the page can read it. This is for pages of one's own
/// back office, and for hosts whose [`Authenticator`](crate::auth::Authenticator) reads a session.
///
/// ```
/// use pgw_http::cors::{CorsError, CorsPolicy};
///
/// let policy = CorsPolicy::new(["https://shop.example", "http://localhost:3000"])?;
/// assert_eq!(CorsPolicy::new(["https://shop.example/"]), Err(CorsError::NotAnOrigin));
/// assert_eq!(CorsPolicy::new(["*"])?.with_credentials(), Err(CorsError::AnyWithCredentials));
/// # Ok::<(), CorsError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsPolicy {
    origins: Origins,
    credentials: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origins {
    Any,
    Exactly(Vec<HeaderValue>),
}

impl CorsPolicy {
    /// Exactly these origins, as a browser writes them (`https://shop.example`, `http://localhost:3000`); or `*` alone.
    ///
    /// # Errors
    /// [`CorsError`].
    pub fn new<'a>(origins: impl IntoIterator<Item = &'a str>) -> Result<Self, CorsError> {
        let texts: Vec<_> = origins.into_iter().map(str::trim).collect();
        let origins = match texts[..] {
            [] => return Err(CorsError::Empty),
            ["*"] => Origins::Any,
            _ => Origins::Exactly(texts.iter().map(|text| origin(text)).collect::<Result<_, _>>()?),
        };
        Ok(Self { origins, credentials: false })
    }

    /// Cookies and HTTP authentication may come along. Not needed for API keys.
    ///
    /// # Errors
    /// [`CorsError::AnyWithCredentials`]: that would open the API to every page that a signed-in person looks at.
    pub fn with_credentials(mut self) -> Result<Self, CorsError> {
        if self.origins == Origins::Any {
            return Err(CorsError::AnyWithCredentials);
        }
        self.credentials = true;
        Ok(self)
    }

    /// As a layer around routes with these methods.
    pub fn layer(&self, methods: impl IntoIterator<Item = Method>) -> CorsLayer {
        let origins = match &self.origins {
            Origins::Any => AllowOrigin::any(),
            Origins::Exactly(origins) => AllowOrigin::list(origins.iter().cloned()),
        };
        CorsLayer::new()
            .allow_origin(origins)
            .allow_credentials(self.credentials)
            .allow_methods(methods.into_iter().collect::<Vec<_>>())
            .allow_headers(ALLOWED)
            .expose_headers(EXPOSED)
            .max_age(MAX_AGE)
    }
}

/// Why it is no policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorsError {
    /// There is no origin.
    #[error("at least one origin must be given; without a policy, no page may call")]
    Empty,
    /// One is not written as a browser writes it.
    #[error(
        "an origin is a scheme and a host, and a port if it is not the default: https://shop.example"
    )]
    NotAnOrigin,
    /// Every page, with credentials.
    #[error("* cannot be combined with credentials; name the origins")]
    AnyWithCredentials,
}

/// An origin (RFC 6454 §6.2), in the one spelling that browsers send, because it is compared byte for byte.
fn origin(text: &str) -> Result<HeaderValue, CorsError> {
    let uri: axum::http::Uri = text.parse().map_err(|_| CorsError::NotAnOrigin)?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme));
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
    let (Some(scheme), Some(authority)) = (scheme, authority) else {
        return Err(CorsError::NotAnOrigin);
    };
    let default = if scheme == "https" { 443 } else { 80 };
    let spelled = format!("{scheme}://{authority}").to_ascii_lowercase();
    if spelled != text || authority.port_u16() == Some(default) || authority.host().contains('*') {
        return Err(CorsError::NotAnOrigin);
    }
    HeaderValue::from_str(text).map_err(|_| CorsError::NotAnOrigin)
}

/// Headers of a request that a page may set.
const ALLOWED: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-api-key"),
    header::AUTHORIZATION,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("last-event-id"),
];
/// Headers of an answer that a page may read.
const EXPOSED: [HeaderName; 10] = [
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
    header::RETRY_AFTER,
    HeaderName::from_static("idempotent-replayed"),
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("x-request-id"),
    header::LOCATION,
];
/// How long a browser may keep the answer to a preflight: Chromium keeps none for longer than two hours.
const MAX_AGE: Duration = Duration::from_secs(7_200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact_or_refused() {
        for good in ["https://shop.example", "http://localhost:3000", "https://[2001:db8::1]:8443"]
        {
            assert!(CorsPolicy::new([good]).is_ok(), "{good}");
        }
        for bad in [
            "",
            "null",
            "shop.example",
            "https://",
            "https://shop.example/",
            "https://shop.example/a",
            "https://shop.example:443",
            "http://shop.example:80",
            "https://SHOP.example",
            "https://*.shop.example",
            "https://user@shop.example",
            "ftp://shop.example",
            "https://shop.example https://b.example",
        ] {
            assert_eq!(CorsPolicy::new([bad]), Err(CorsError::NotAnOrigin), "{bad}");
        }
        assert_eq!(CorsPolicy::new([]), Err(CorsError::Empty));
        assert_eq!(CorsPolicy::new(["*", "https://a.example"]), Err(CorsError::NotAnOrigin));
    }
}

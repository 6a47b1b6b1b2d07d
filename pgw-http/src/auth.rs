//! Who calls: the [`Authenticator`] and the one that reads API keys. What each role may do is in [`pgw_core::access`]; which
//! route asks for which permission is in [`crate::routes`].

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use pgw_core::access::Principal;
use pgw_core::gateway::{AccessError, Gateway};
use pgw_core::processor::Source;

/// Says who a request is from. The default reads pgw's own API keys; a host with its own accounts brings its own.
///
/// # Contract
/// Called once for each request to a route that asks for a permission, before its body is read; and again every half a minute
/// while a stream of events is open, with what [`kept`](Self::kept) left of its headers. The [`Principal`] decides whose data is
/// visible and what the audit log says.
///
/// # Time
/// An answer should take the same time whether a credential is unknown, revoked or malformed.
///
/// # Cancel safety
/// The future may be dropped at any await.
///
/// ```
/// use axum::http::HeaderMap;
/// use pgw_core::access::{Actor, Principal, Role};
/// use pgw_core::scope::Scope;
/// use pgw_http::auth::{Authenticator, Denied};
///
/// /// Trusts the name that a proxy in front has checked.
/// #[derive(Debug)]
/// struct Proxy;
///
/// #[async_trait::async_trait]
/// impl Authenticator for Proxy {
///     async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
///         let user = headers.get("x-user").ok_or(Denied::Missing)?;
///         let user = user.to_str().map_err(|_| Denied::Invalid)?;
///         Ok(Principal { scope: Scope::default(), actor: Actor::Other(user.into()), role: Role::Readonly })
///     }
/// }
/// ```
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Who sent a request with these headers.
    ///
    /// # Errors
    /// [`Denied`] when nobody known did, or it cannot be found out.
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Denied>;

    /// Those of a request's headers that [`authenticate`](Self::authenticate) looks at. An open stream keeps them, and there may be many:
    /// all of them by default, which is as much as the host's server lets a head be.
    fn kept(&self, headers: &HeaderMap) -> HeaderMap {
        headers.clone()
    }
}

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// There is no credential: 401.
    #[error("the request carries no credential")]
    Missing,
    /// There is one and it opens nothing, for whatever reason: 403.
    #[error("the credential is not valid")]
    Invalid,
    /// It cannot be checked now: 503.
    #[error("the credential cannot be checked")]
    Unavailable(#[source] Source),
}

/// Reads API keys from `X-API-Key`, or else from `Authorization: Bearer`, and has the gateway check them.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    gateway: Gateway,
}

impl ApiKeys {
    /// Keys of this gateway.
    #[must_use]
    pub const fn new(gateway: Gateway) -> Self {
        Self { gateway }
    }
}

#[async_trait]
impl Authenticator for ApiKeys {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
        self.gateway.authenticate(credential(headers)?).await.map_err(|error| match error {
            AccessError::Invalid => Denied::Invalid,
            error => Denied::Unavailable(Arc::new(error)),
        })
    }

    fn kept(&self, headers: &HeaderMap) -> HeaderMap {
        with_credential(headers)
    }
}

/// The key of a request. A header that comes twice is no key: which of the two counts is not to be guessed.
pub(crate) fn credential(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut own = headers.get_all(API_KEY).iter();
    if let Some(value) = own.next() {
        return if own.next().is_none() { text(value) } else { Err(Denied::Invalid) };
    }
    let mut standard = headers.get_all(header::AUTHORIZATION).iter();
    let value = standard.next().ok_or(Denied::Missing)?;
    if standard.next().is_some() {
        return Err(Denied::Invalid);
    }
    // The scheme's name is case-insensitive (RFC 9110 §11.1). Other schemes are the host's own business.
    match text(value)?.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(key.trim_start_matches(' '))
        }
        _ => Err(Denied::Missing),
    }
}

/// The headers that [`credential`] looks at, and no other.
fn with_credential(headers: &HeaderMap) -> HeaderMap {
    let name = if headers.contains_key(API_KEY) { API_KEY } else { header::AUTHORIZATION };
    headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())).collect()
}

fn text(value: &HeaderValue) -> Result<&str, Denied> {
    value.to_str().map_err(|_| Denied::Invalid)
}

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

#[cfg(test)]
mod tests {
    use super::*;

    fn key(headers: &[(&'static str, &'static str)]) -> Result<String, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let kept = with_credential(&map);
        assert!(kept.keys().all(|name| [API_KEY, header::AUTHORIZATION].contains(name)));
        assert_eq!(credential(&kept).ok(), credential(&map).ok());
        credential(&map).map(str::to_owned).map_err(|denied| match denied {
            Denied::Missing => 401,
            Denied::Invalid | Denied::Unavailable(_) => 403,
        })
    }

    #[test]
    fn finds_the_credential_and_never_guesses() {
        assert_eq!(key(&[("x-api-key", "k")]), Ok("k".into()));
        assert_eq!(key(&[("authorization", "bearer  k")]), Ok("k".into()));
        assert_eq!(key(&[("x-api-key", "a"), ("authorization", "Bearer b")]), Ok("a".into()));
        assert_eq!(key(&[("cookie", "c"), ("x-api-key", "k")]), Ok("k".into()));
        assert_eq!(key(&[]), Err(401));
        assert_eq!(key(&[("authorization", "Basic dTpw")]), Err(401));
        assert_eq!(key(&[("authorization", "k")]), Err(401));
        assert_eq!(key(&[("x-api-key", "a"), ("x-api-key", "b")]), Err(403));
        assert_eq!(key(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), Err(403));
    }
}

//! Name resolution for webhooks: every address that a name resolves to passes the egress policy before it is dialled.
//! What the policy allows is pgw-core's business; sending is [`crate::transport`]'s.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use pgw_core::webhook::egress::EgressPolicy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Turns a host's name into addresses. The default asks the operating system.
///
/// # Contract
/// The answer is used for one dial and not kept: a name that changes its mind is checked again each time.
///
/// # Cancel safety
/// The future may be dropped at any await.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync {
    /// The addresses of a host, in the order they should be tried.
    ///
    /// # Errors
    /// An [`io::Error`] when the name does not resolve.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// A resolver whose answers passed the egress policy: what is dialled is what was checked.
#[derive(Debug, Clone)]
pub(crate) struct GuardedResolver {
    inner: Arc<dyn Resolver>,
    policy: Arc<EgressPolicy>,
}

impl GuardedResolver {
    pub(crate) fn new(inner: Arc<dyn Resolver>, policy: Arc<EgressPolicy>) -> Self {
        Self { inner, policy }
    }

    /// The allowed addresses of a host. Denied ones are left out rather than refusing the name: they are never dialled
    /// either way, and mixed answers are honest as a rule. Where a network translates (DNS64, RFC 6147), every IPv4-only
    /// host has a NAT64 address besides its own; refusing those would force a hole for all of NAT64, private IPv4 included.
    async fn allowed(&self, host: &str) -> Result<Vec<SocketAddr>, GuardError> {
        let mut found = self.inner.resolve(host).await.map_err(GuardError::Lookup)?;
        found.truncate(ADDRESSES_MAX);
        if found.is_empty() {
            return Err(GuardError::Lookup(io::ErrorKind::NotFound.into()));
        }
        found.retain(|address| self.policy.check_addr(*address).is_ok());
        if found.is_empty() {
            return Err(GuardError::Denied);
        }
        // Port 0 stands for the port of the URL.
        Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let allowed = guard.allowed(name.as_str()).await?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Why a name gives no address to dial.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    /// It does not resolve.
    #[error("the name does not resolve")]
    Lookup(#[source] io::Error),
    /// It resolves to addresses that the egress policy denies, and to no other.
    #[error("every address of the name is denied by the egress policy")]
    Denied,
}

/// Most addresses of one name that are considered. Large services answer with eight or so; a hostile name server could
/// answer with thousands.
const ADDRESSES_MAX: usize = 16;

//! Who a request comes from, as an address: the peer, or whom trusted proxies name. What is counted and denied by that
//! address is the business of [`crate::rate_limit`] and others.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::ConnectInfo;
use axum::extract::connect_info::MockConnectInfo;
use axum::http::{Extensions, HeaderMap, HeaderValue, Request};
use ipnet::IpNet;
use tower::{Layer, Service};

/// The client's address, in a request's extensions: put there by [`ClientIpLayer`], or else found by the router itself.
///
/// ```
/// use axum::Extension;
/// use pgw_http::client_ip::ClientIp;
///
/// async fn whoami(Extension(ClientIp(address)): Extension<ClientIp>) -> String {
///     format!("you are {address}")
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientIp(pub IpAddr);

impl ClientIp {
    /// The address that stands for the client where requests are counted: an IPv6 client has a whole /64 to itself (RFC
    /// 6177), so it is the network that counts.
    ///
    /// ```
    /// use pgw_http::client_ip::ClientIp;
    /// let client = ClientIp("2001:db8:1:2:3::4".parse()?);
    /// assert_eq!(client.counted().to_string(), "2001:db8:1:2::");
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn counted(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
        }
    }
}

/// The proxies in front, whose word about the client counts. Nobody's, by default.
///
/// ```
/// use pgw_http::client_ip::TrustedProxies;
/// let proxies: TrustedProxies = "10.0.0.0/8, 192.0.2.7".parse()?;
/// # Ok::<(), pgw_http::client_ip::TrustedProxiesError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Proxies in these networks.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().map(|network| network.trunc()).collect())
    }

    /// The client: walks `X-Forwarded-For` from its right end, where the nearest proxy wrote, for as long as the address it
    /// stands at is a trusted proxy's. What stands further left could have been written by anybody, and is not looked at.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientIp {
        let mut client = peer.to_canonical();
        let mut named = headers
            .get_all("x-forwarded-for")
            .iter()
            .rev()
            .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
        while self.trusts(client) {
            // A proxy that names nobody is the last that is known.
            let Some(next) = named.next().and_then(address) else { break };
            client = next;
        }
        ClientIp(client)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request with these extensions and headers, if the host tells who the peer is.
    pub(crate) fn client_of(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> Option<ClientIp> {
        if let Some(known) = extensions.get::<ClientIp>() {
            return Some(*known);
        }
        let peer = extensions.get().map(|ConnectInfo::<SocketAddr>(peer)| *peer);
        let mock = || extensions.get().map(|MockConnectInfo::<SocketAddr>(peer)| *peer);
        Some(self.client(peer.or_else(mock)?.ip(), headers))
    }
}

/// Networks, or single addresses, with commas between them. An empty text trusts nobody.
impl FromStr for TrustedProxies {
    type Err = TrustedProxiesError;

    fn from_str(text: &str) -> Result<Self, TrustedProxiesError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let networks: Result<Vec<IpNet>, _> = parts
            .map(|part| part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)))
            .collect();
        Ok(Self::new(networks.map_err(|_| TrustedProxiesError)?))
    }
}

/// The text is not a list of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("trusted proxies must be networks like 10.0.0.0/8, or addresses, with commas between them")]
pub struct TrustedProxiesError;

/// Puts [`ClientIp`] into each request's extensions, for a host's own handlers and for the layers below. A request without
/// connect info stays without.
#[derive(Debug, Clone, Default)]
pub struct ClientIpLayer(TrustedProxies);

impl ClientIpLayer {
    /// Behind these proxies.
    #[must_use]
    pub const fn new(proxies: TrustedProxies) -> Self {
        Self(proxies)
    }
}

impl<S> Layer<S> for ClientIpLayer {
    type Service = ClientIpService<S>;

    fn layer(&self, inner: S) -> ClientIpService<S> {
        ClientIpService { proxies: self.0.clone(), inner }
    }
}

/// What [`ClientIpLayer`] makes of a service.
#[derive(Debug, Clone)]
pub struct ClientIpService<S> {
    proxies: TrustedProxies,
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for ClientIpService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let client = self.proxies.client_of(request.extensions(), request.headers());
        if let Some(client) = client {
            request.extensions_mut().insert(client);
        }
        self.inner.call(request)
    }
}

/// One entry: an address, perhaps with a port, as some proxies write it.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = HeaderValue::from_bytes(entry.trim_ascii()).ok()?;
    let text = entry.to_str().ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|socket: SocketAddr| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

/// The first 64 bits.
const IPV6_NETWORK: u128 = !(u64::MAX as u128);

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proxies: &str, peer: &str, forwarded: &[&'static str]) -> String {
        let proxies: TrustedProxies = proxies.parse().unwrap();
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        proxies.client(peer.parse().unwrap(), &headers).0.to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let cases: &[(&str, &str, &[&'static str], &str)] = &[
            ("", "192.0.2.1", &["198.51.100.9"], "192.0.2.1"),
            ("10.0.0.0/8", "192.0.2.1", &["198.51.100.9"], "192.0.2.1"),
            ("10.0.0.0/8", "10.0.0.1", &["198.51.100.9"], "198.51.100.9"),
            // What the client itself wrote stands further left.
            ("10.0.0.0/8", "10.0.0.1", &["1.1.1.1, 198.51.100.9"], "198.51.100.9"),
            ("10.0.0.0/8", "10.0.0.1", &["1.1.1.1", "198.51.100.9"], "198.51.100.9"),
            ("10.0.0.0/8", "10.0.0.1", &["1.1.1.1", "198.51.100.9, 10.2.2.2"], "198.51.100.9"),
            // A client that pretends to be a proxy.
            ("10.0.0.0/8", "10.0.0.1", &["10.9.9.9"], "10.9.9.9"),
            ("10.0.0.0/8", "10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &["1.1.1.1,"], "10.0.0.1"),
            ("10.0.0.7", "10.0.0.7", &["198.51.100.9:4711"], "198.51.100.9"),
            ("10.0.0.7", "::ffff:10.0.0.7", &["::ffff:198.51.100.9"], "198.51.100.9"),
            ("fd00::/8", "fd00::1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("fd00::/8", "fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
        ];
        for (proxies, peer, forwarded, expected) in cases {
            assert_eq!(client(proxies, peer, forwarded), *expected, "{forwarded:?}");
        }
    }

    #[test]
    fn networks_are_read_or_refused() {
        for bad in ["x", "10.0.0.0/33", "10.0.0.0/8;::1", "localhost"] {
            assert_eq!(bad.parse::<TrustedProxies>(), Err(TrustedProxiesError), "{bad}");
        }
        assert_eq!("".parse::<TrustedProxies>(), Ok(TrustedProxies::default()));
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let counted = |text: &str| ClientIp(text.parse().unwrap()).counted().to_string();
        assert_eq!(counted("2001:db8::1:2:3:4"), counted("2001:db8::ffff:0:0:1"));
        assert_ne!(counted("2001:db8:0:1::1"), counted("2001:db8:0:2::1"));
        assert_eq!(counted("192.0.2.9"), "192.0.2.9");
    }
}

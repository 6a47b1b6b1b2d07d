//! [`Network`]: the addresses that one entry of the denylist is about.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// A range of IP addresses that may be denied: in its canonical form, and never so wide that a slip of the hand shuts out a continent.
///
/// IPv4 addresses that come as IPv6 (`::ffff:192.0.2.7`) are IPv4 addresses here, as networks and as what is judged.
///
/// ```
/// use pgw_core::access::{Network, NetworkError};
/// let network: Network = "203.0.113.77/24".parse()?;
/// assert_eq!(network.to_string(), "203.0.113.0/24");
/// assert!(network.contains("::ffff:203.0.113.9".parse().unwrap()));
/// assert_eq!("2001:db8::7".parse::<Network>()?.to_string(), "2001:db8::7/128");
/// assert_eq!("0.0.0.0/0".parse::<Network>(), Err(NetworkError::TooWide));
/// # Ok::<(), NetworkError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNet);

impl Network {
    /// Fewest bits of an IPv4 prefix: a /8 is the most that one party was ever given.
    pub const V4_BITS_MIN: u8 = 8;
    /// Fewest bits of an IPv6 prefix: a /19 is the most that one party was ever given.
    pub const V6_BITS_MIN: u8 = 19;

    /// A network in its canonical form.
    ///
    /// # Errors
    /// [`NetworkError::TooWide`].
    pub fn new(network: IpNet) -> Result<Self, NetworkError> {
        let network = match network.trunc() {
            IpNet::V6(v6) => match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
                (Some(v4), Some(bits)) => IpNet::V4(
                    Ipv4Net::new(v4, bits).expect("128 bits at most, less 96, are 32 at most"),
                ),
                // All of IPv4 lies within it.
                _ if v6.contains(&MAPPED) => return Err(NetworkError::TooWide),
                _ => IpNet::V6(v6),
            },
            v4 @ IpNet::V4(_) => v4,
        };
        let bits_min = match network {
            IpNet::V4(_) => Self::V4_BITS_MIN,
            IpNet::V6(_) => Self::V6_BITS_MIN,
        };
        if network.prefix_len() < bits_min { Err(NetworkError::TooWide) } else { Ok(Self(network)) }
    }

    /// Whether the address lies within.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// The network.
    #[must_use]
    pub const fn net(&self) -> IpNet {
        self.0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Reads `203.0.113.0/24`, `2001:db8::/32`, or one address.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let one = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse().or_else(|_| one()).map_err(|_| NetworkError::Malformed)?;
        Self::new(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a network cannot be denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// It is neither a network nor an address.
    #[error("must be an IP address, or a network such as 203.0.113.0/24")]
    Malformed,
    /// Its prefix is shorter than what one party was ever given.
    #[error(
        "must have a prefix of at least {} bits for IPv4, {} for IPv6",
        Network::V4_BITS_MIN,
        Network::V6_BITS_MIN
    )]
    TooWide,
}

impl NetworkError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "invalid_network",
            Self::TooWide => "too_wide",
        }
    }
}

/// The first IPv4 address as IPv6 (RFC 4291 §2.5.5.2).
const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_one_form_and_a_least_prefix() {
        for (text, canonical) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("2001:DB8::1/32", "2001:db8::/32"),
            ("2a00::/19", "2a00::/19"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), canonical);
        }
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/7",
            "::/0",
            "2a00::/18",
            "::ffff:0:0/96",
            "::fffe:0:0/95",
            "::/19",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::TooWide), "{text}");
        }
        for text in
            ["", "a", "192.0.2", "192.0.2.7/33", "192.0.2.7/", "192.0.2.7 ", "fe80::1%1", "[::1]"]
        {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Malformed), "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_comes() {
        let network: Network = "192.0.2.0/24".parse().unwrap();
        for (address, is_within) in [
            ("192.0.2.255", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.3.0", false),
            ("::192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(network.contains(address.parse().unwrap()), is_within, "{address}");
        }
    }

    #[test]
    fn any_text_is_safe_to_parse() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(network) = String::from_utf8_lossy(bytes).parse::<Network>() {
                assert_eq!(network.to_string().parse(), Ok(network));
            }
        });
    }
}

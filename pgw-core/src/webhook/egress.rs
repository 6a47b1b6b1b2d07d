//! The egress policy: which addresses webhooks may be sent to. Pure; resolving names and dialing is the transport's
//! business, which asks [`EgressPolicy::check_addr`] for every address it is about to connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::Host;

use crate::webhook::EndpointUrl;

/// Which addresses may be delivered to.
///
/// A webhook's address is chosen by whoever creates the endpoint, and the request is sent from inside the host's network:
/// without a policy, endpoints are a way to reach what only that network can (OWASP: server-side request forgery). By
/// default a policy lets through `https` and addresses that are globally reachable by the IANA special-purpose
/// registries (RFC 6890), and nothing else. IPv6 addresses that stand for an IPv4 address (mapped, NAT64, 6to4, Teredo)
/// are denied whatever IPv4 address they hold: what they reach depends on the network they are used in. A NAT64 prefix
/// that a network chose from its own addresses (RFC 6052 §2.2) cannot be told from any other: such a translator must
/// itself refuse to translate to private addresses.
///
/// A name is only as good as the addresses it resolves to *at the dial*: check the URL when the endpoint is created, then
/// every resolved address at every attempt, and connect to exactly the address that was checked.
///
/// ```
/// use pgw_core::webhook::EndpointUrl;
/// use pgw_core::webhook::egress::{AddressClass, EgressDenied, EgressPolicy, HttpScheme};
///
/// let policy = EgressPolicy::default();
/// let metadata = EndpointUrl::parse("https://169.254.169.254/latest/meta-data")?;
/// assert_eq!(policy.check_url(&metadata), Err(EgressDenied::Address(AddressClass::LinkLocal)));
///
/// let intranet = EgressPolicy::default()
///     .with_http(HttpScheme::Allowed)
///     .with_allowed("10.20.0.0/16".parse()?);
/// assert!(intranet.check_url(&EndpointUrl::parse("http://10.20.0.7:8080/hooks")?).is_ok());
/// assert!(intranet.check_url(&EndpointUrl::parse("http://10.21.0.7:8080/hooks")?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressPolicy {
    http: HttpScheme,
    allowed: Vec<IpNet>,
}

impl EgressPolicy {
    /// The same policy with `http` allowed or refused.
    #[must_use]
    pub const fn with_http(mut self, http: HttpScheme) -> Self {
        self.http = http;
        self
    }

    /// The same policy with one more network that is let through although its addresses are denied. It lifts that denial
    /// and no other: scheme and port are checked as before. An IPv4 network does not cover the IPv6 addresses that
    /// hold one of its addresses; name those as an IPv6 network (`::ffff:10.0.0.0/104`).
    #[must_use]
    pub fn with_allowed(mut self, network: IpNet) -> Self {
        self.allowed.push(network.trunc());
        self
    }

    /// Checks what can be told of an address without resolving its name: the scheme, the port, and the host if it is
    /// an IP literal or says that it is this machine. A name that passes still has to resolve to addresses that pass
    /// [`check_addr`](Self::check_addr).
    ///
    /// Every spelling of an IPv4 literal (decimal, octal, hexadecimal, shortened, full-width digits) was read by the
    /// [`EndpointUrl`] already, as browsers read it (WHATWG URL §3.5).
    ///
    /// # Errors
    /// [`EgressDenied`] says what is against it, without the address.
    pub fn check_url(&self, url: &EndpointUrl) -> Result<(), EgressDenied> {
        let url = url.url();
        match (url.scheme(), self.http) {
            ("https", _) | ("http", HttpScheme::Allowed) => {}
            _ => return Err(EgressDenied::Scheme),
        }
        if url.port().is_some_and(|port| DENIED_PORTS.contains(&port)) {
            return Err(EgressDenied::Port);
        }
        match url.host() {
            Some(Host::Ipv4(addr)) => self.check_addr(addr.into()),
            Some(Host::Ipv6(addr)) => self.check_addr(addr.into()),
            Some(Host::Domain(name)) => self.check_name(name),
            None => Err(EgressDenied::HostName),
        }
    }

    /// Checks an address that a name resolved to, or that is about to be dialed.
    ///
    /// # Errors
    /// [`EgressDenied::Address`] with what kind of address it is.
    pub fn check_addr(&self, addr: IpAddr) -> Result<(), EgressDenied> {
        let Some(class) = AddressClass::of(addr) else { return Ok(()) };
        if self.allowed.iter().any(|network| network.contains(&addr)) {
            return Ok(());
        }
        Err(EgressDenied::Address(class))
    }

    fn check_name(&self, name: &str) -> Result<(), EgressDenied> {
        // The final dot makes a second spelling of the same host, which certificates do not have (RFC 6066 §3). Much else that
        // a URL lets through (`*`, `;`, a hyphen in front) is in no host's name (RFC 1123 §2.1): no certificate could name it.
        if name.len() > NAME_LEN_MAX || name.split('.').any(|label| !is_label(label)) {
            return Err(EgressDenied::HostName);
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.eq_ignore_ascii_case("localhost") {
            // RFC 6761 §6.3: it is loopback, whatever a resolver says.
            let [v4, v6] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return self.check_addr(v4).or_else(|_| self.check_addr(v6));
        }
        Ok(())
    }
}

/// Whether webhooks may be sent without TLS. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum HttpScheme {
    /// Only `https`.
    #[default]
    Refused,
    /// `http` too: bodies hold personal data and would cross the network in the clear.
    Allowed,
}

/// Why an address may not be delivered to. It never holds the address: it is shown to whoever gave it, and what a name
/// resolves to inside the host's network is not theirs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum EgressDenied {
    /// The scheme is `http`, which this policy refuses.
    #[error("must start with https://")]
    Scheme,
    /// The port belongs to a protocol that an HTTP request could be mistaken for.
    #[error("must not use a port of another protocol")]
    Port,
    /// The host's name is not a plain one: other characters than letters, digits, `-` and `_`, a part that is empty or has
    /// `-` at an end, a trailing dot, or too long.
    #[error(
        "must have a plain host name: letters, digits and hyphens, no empty parts, no dot at the end"
    )]
    HostName,
    /// The address is not globally reachable.
    #[error("must be a public address, not {0}")]
    Address(AddressClass),
}

impl EgressDenied {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Scheme => "scheme_denied",
            Self::Port => "port_denied",
            Self::HostName => "host_name_denied",
            Self::Address(_) => "address_denied",
        }
    }
}

/// The kinds of addresses that are not globally reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AddressClass {
    /// `0.0.0.0/8` and `::`: "this host".
    Unspecified,
    /// `127.0.0.0/8` and `::1`.
    Loopback,
    /// `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16` (RFC 1918).
    Private,
    /// `169.254.0.0/16` and `fe80::/10`: cloud metadata services live here.
    LinkLocal,
    /// `100.64.0.0/10` (RFC 6598): between a provider and its customers.
    CarrierNat,
    /// `fc00::/7` (RFC 4193).
    UniqueLocal,
    /// `fec0::/10`, deprecated by RFC 3879.
    SiteLocal,
    /// `224.0.0.0/4` and `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// `192.0.2.0/24`, `198.51.100.0/24`, `203.0.113.0/24`, `2001:db8::/32`, `3fff::/20`.
    Documentation,
    /// `198.18.0.0/15` and `2001:2::/48`.
    Benchmarking,
    /// `192.0.0.0/24`, `192.88.99.0/24` and `2001::/23`: set aside for protocols.
    ProtocolAssignment,
    /// `::/96`, `::ffff:0:0/96`, `::ffff:0:0:0/96`, `64:ff9b::/96`, `64:ff9b:1::/48`, `2001::/32`, `2002::/16`: an
    /// IPv4 address in the form of an IPv6 address.
    EmbeddedIpv4,
    /// `100::/64` (RFC 6666).
    Discard,
    /// `5f00::/16` (RFC 9602).
    SegmentRouting,
    /// `240.0.0.0/4`, and every IPv6 address outside `2000::/3` that no other class names: not assigned to anyone.
    Reserved,
}

impl AddressClass {
    /// What an address is; `None` when it is globally reachable.
    #[must_use]
    pub fn of(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(addr) => class_of(&addr, DENIED_V4, |net, addr| net.contains(addr)),
            IpAddr::V6(addr) => class_of(&addr, DENIED_V6, |net, addr| net.contains(addr))
                .or_else(|| (!GLOBAL_UNICAST.contains(&addr)).then_some(Self::Reserved)),
        }
    }

    /// The class in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::CarrierNat => "carrier-grade NAT",
            Self::UniqueLocal => "unique local",
            Self::SiteLocal => "site-local",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::ProtocolAssignment => "a protocol assignment",
            Self::EmbeddedIpv4 => "IPv4 embedded in IPv6",
            Self::Discard => "discard-only",
            Self::SegmentRouting => "segment routing",
            Self::Reserved => "reserved",
        }
    }
}

impl std::fmt::Display for AddressClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The class of the first network that holds the address.
fn class_of<A, N>(
    addr: &A,
    table: &[(N, AddressClass)],
    holds: impl Fn(&N, &A) -> bool,
) -> Option<AddressClass> {
    table.iter().find(|(network, _)| holds(network, addr)).map(|(_, class)| *class)
}

/// Letters, digits, hyphens inside, and the underscore that some hosts have although they should not.
fn is_label(label: &str) -> bool {
    (1..=LABEL_LEN_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len)
}

const fn v6(start: [u16; 6], prefix_len: u8) -> Ipv6Net {
    let [a, b, c, d, e, f] = start;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, 0, 0), prefix_len)
}

/// Longest name of the DNS in text, without the final dot (RFC 1035 §2.3.4).
const NAME_LEN_MAX: usize = 253;
/// Longest label of the DNS (RFC 1035 §2.3.4).
const LABEL_LEN_MAX: usize = 63;

/// What IPv6 addresses are given out from (RFC 4291 §2.4; IANA has assigned nothing else).
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0], 3);

/// The IANA IPv4 special-purpose registry and multicast; the more specific first.
const DENIED_V4: &[(Ipv4Net, AddressClass)] = &[
    (v4(255, 255, 255, 255, 32), AddressClass::Broadcast),
    (v4(0, 0, 0, 0, 8), AddressClass::Unspecified),
    (v4(10, 0, 0, 0, 8), AddressClass::Private),
    (v4(100, 64, 0, 0, 10), AddressClass::CarrierNat),
    (v4(127, 0, 0, 0, 8), AddressClass::Loopback),
    (v4(169, 254, 0, 0, 16), AddressClass::LinkLocal),
    (v4(172, 16, 0, 0, 12), AddressClass::Private),
    (v4(192, 0, 0, 0, 24), AddressClass::ProtocolAssignment),
    (v4(192, 0, 2, 0, 24), AddressClass::Documentation),
    (v4(192, 88, 99, 0, 24), AddressClass::ProtocolAssignment),
    (v4(192, 168, 0, 0, 16), AddressClass::Private),
    (v4(198, 18, 0, 0, 15), AddressClass::Benchmarking),
    (v4(198, 51, 100, 0, 24), AddressClass::Documentation),
    (v4(203, 0, 113, 0, 24), AddressClass::Documentation),
    (v4(224, 0, 0, 0, 4), AddressClass::Multicast),
    (v4(240, 0, 0, 0, 4), AddressClass::Reserved),
];

/// The IANA IPv6 special-purpose registry, multicast, and the retired ranges; the more specific first.
const DENIED_V6: &[(Ipv6Net, AddressClass)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), AddressClass::Unspecified),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), AddressClass::Loopback),
    (v6([0, 0, 0, 0, 0, 0], 96), AddressClass::EmbeddedIpv4),
    (v6([0, 0, 0, 0, 0, 0xffff], 96), AddressClass::EmbeddedIpv4),
    // IPv4-translated (RFC 2765), which SIIT still uses.
    (v6([0, 0, 0, 0, 0xffff, 0], 96), AddressClass::EmbeddedIpv4),
    (v6([0x64, 0xff9b, 0, 0, 0, 0], 96), AddressClass::EmbeddedIpv4),
    (v6([0x64, 0xff9b, 1, 0, 0, 0], 48), AddressClass::EmbeddedIpv4),
    (v6([0x100, 0, 0, 0, 0, 0], 64), AddressClass::Discard),
    (v6([0x2001, 0, 0, 0, 0, 0], 32), AddressClass::EmbeddedIpv4),
    (v6([0x2001, 2, 0, 0, 0, 0], 48), AddressClass::Benchmarking),
    (v6([0x2001, 0, 0, 0, 0, 0], 23), AddressClass::ProtocolAssignment),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0], 32), AddressClass::Documentation),
    (v6([0x2002, 0, 0, 0, 0, 0], 16), AddressClass::EmbeddedIpv4),
    (v6([0x3fff, 0, 0, 0, 0, 0], 20), AddressClass::Documentation),
    (v6([0x5f00, 0, 0, 0, 0, 0], 16), AddressClass::SegmentRouting),
    (v6([0xfc00, 0, 0, 0, 0, 0], 7), AddressClass::UniqueLocal),
    (v6([0xfe80, 0, 0, 0, 0, 0], 10), AddressClass::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0], 10), AddressClass::SiteLocal),
    (v6([0xff00, 0, 0, 0, 0, 0], 8), AddressClass::Multicast),
];

/// The ports that browsers refuse too (WHATWG Fetch §2.9 "port blocking"): their protocols read lines of text, so that the
/// body of a request could be mistaken for commands (mail, FTP, IRC). Any other port is let through: receivers sit
/// behind all sorts of them, and what protects the host's network is the check of the address.
const DENIED_PORTS: &[u16] = &[
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    // Addresses, their spellings and their classes are in the corpus, tests/it/egress.txt.
    use super::AddressClass::{EmbeddedIpv4, Loopback, Private};
    use super::*;

    fn check(text: &str) -> Result<(), EgressDenied> {
        EgressPolicy::default().check_url(&EndpointUrl::parse(text).expect(text))
    }

    #[test]
    fn schemes_and_ports() {
        assert_eq!(check("http://hooks.example.com/"), Err(EgressDenied::Scheme));
        let with_http = EgressPolicy::default().with_http(HttpScheme::Allowed);
        let url = |text| EndpointUrl::parse(text).expect("an address");
        assert_eq!(with_http.check_url(&url("http://hooks.example.com/")), Ok(()));
        assert!(with_http.check_url(&url("http://127.0.0.1/")).is_err());
        for port in [22, 25, 465, 587, 6667, 10080] {
            let text = format!("https://hooks.example.com:{port}/");
            assert_eq!(check(&text), Err(EgressDenied::Port), "{port}");
        }
        for port in [80, 443, 3000, 8080, 8443, 49152, 65535] {
            assert_eq!(check(&format!("https://hooks.example.com:{port}/")), Ok(()), "{port}");
        }
        assert!(DENIED_PORTS.is_sorted(), "for people to find one in it");
    }

    #[test]
    fn a_hole_lifts_the_denial_of_its_addresses_and_nothing_else() {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        let policy = EgressPolicy::default().with_allowed(net("127.0.0.1/8"));
        let url = |text| EndpointUrl::parse(text).expect("an address");
        let denied = |class| Err(EgressDenied::Address(class));
        assert_eq!(policy.check_url(&url("https://127.9.9.9/")), Ok(()));
        assert_eq!(policy.check_url(&url("https://0x7f.1:9000/")), Ok(()));
        assert_eq!(policy.check_url(&url("https://localhost:9000/")), Ok(()));
        assert_eq!(policy.check_url(&url("http://127.0.0.1/")), Err(EgressDenied::Scheme));
        assert_eq!(policy.check_url(&url("https://127.0.0.1:25/")), Err(EgressDenied::Port));
        assert_eq!(policy.check_url(&url("https://localhost./")), Err(EgressDenied::HostName));
        assert_eq!(policy.check_url(&url("https://10.0.0.1/")), denied(Private));
        assert_eq!(policy.check_url(&url("https://[::1]/")), denied(Loopback));
        assert_eq!(policy.check_url(&url("https://[::ffff:127.0.0.1]/")), denied(EmbeddedIpv4));
        let policy = policy.with_allowed(net("::ffff:127.0.0.0/104")).with_allowed(net("::1/128"));
        assert_eq!(policy.check_url(&url("https://[::ffff:127.0.0.1]/")), Ok(()));
        assert_eq!(policy.check_url(&url("https://[::1]/")), Ok(()));
        assert_eq!(policy.check_url(&url("https://[::ffff:10.0.0.1]/")), denied(EmbeddedIpv4));
        let v6_only = EgressPolicy::default().with_allowed(net("::1/128"));
        assert_eq!(v6_only.check_url(&url("https://localhost/")), Ok(()));
        assert_eq!(v6_only.check_url(&url("https://127.0.0.1/")), denied(Loopback));
    }

    #[test]
    fn errors_name_the_class_and_not_the_address() {
        let error = check("https://169.254.169.254/").expect_err("denied");
        assert_eq!(error.to_string(), "must be a public address, not link-local");
        assert_eq!(error.code(), "address_denied");
        assert!(!format!("{error:?}").contains("169"));
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in ".{0,80}", host in "[\\PC.:%\\[\\]0-9a-fx]{0,40}") {
            for text in [text.clone(), format!("https://{host}/"), format!("http://{text}")] {
                if let Ok(url) = EndpointUrl::parse(&text) {
                    let denied = EgressPolicy::default().check_url(&url);
                    prop_assert!(url.url().scheme() == "https" || denied == Err(EgressDenied::Scheme));
                }
            }
        }

        #[test]
        fn what_the_standard_library_knows_is_denied(bits in any::<u32>()) {
            let addr = Ipv4Addr::from_bits(bits);
            let policy = EgressPolicy::default();
            let known = addr.is_loopback() || addr.is_private() || addr.is_link_local()
                || addr.is_multicast() || addr.is_broadcast() || addr.is_documentation()
                || addr.is_unspecified();
            prop_assert!(!known || policy.check_addr(addr.into()).is_err());
            prop_assert!(policy.check_addr(addr.to_ipv6_mapped().into()).is_err());
            prop_assert!(policy.check_addr(addr.to_ipv6_compatible().into()).is_err());
            let everything = policy.with_allowed("0.0.0.0/0".parse().expect("a network"));
            prop_assert!(everything.check_addr(addr.into()).is_ok());
        }

        #[test]
        fn only_global_unicast_is_public(bits in any::<u128>()) {
            let addr = Ipv6Addr::from_bits(bits);
            if EgressPolicy::default().check_addr(addr.into()).is_ok() {
                prop_assert_eq!(addr.segments()[0] >> 13, 1);
            }
        }
    }
}

//! [`Shield`]: what holds for all merchants at once and is judged before anything else: who is not let in, and whether anything may
//! change. One small value that is read often and written in incidents.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::access::Network;
use crate::storage::StorageError;
use crate::text::Reason;
use crate::timestamp::Timestamp;

/// The denylist and the freeze.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shield {
    /// Counts its changes; 0 when there never was one.
    pub version: u64,
    /// Networks that are not let in, each once, in the order they were denied; those whose time is over too, until the next change.
    pub denied: Vec<DeniedNetwork>,
    /// Set while nothing may change.
    pub freeze: Option<Freeze>,
}

impl Shield {
    /// Most networks that are denied at once: what one process judges each request by stays below 2 MB.
    pub const NETWORKS_MAX: usize = 10_000;
    /// Most bytes of all reasons together: the shield is written whole, within [`Changes::BYTES_MAX`](crate::changes::Changes::BYTES_MAX).
    pub const REASON_BYTES_MAX: usize = 512 * 1024;

    /// Whether the address is denied at this time.
    ///
    /// ```
    /// use pgw_core::access::{DeniedNetwork, Shield};
    /// use pgw_core::timestamp::Timestamp;
    /// let now = Timestamp::from_micros(0);
    /// let entry = DeniedNetwork {
    ///     network: "203.0.113.0/24".parse()?,
    ///     reason: None,
    ///     created_at: now,
    ///     created_by: "host".into(),
    ///     expires_at: None,
    /// };
    /// let shield = Shield { denied: vec![entry], ..Shield::default() };
    /// assert!(shield.denies("203.0.113.7".parse().unwrap(), now));
    /// # Ok::<(), pgw_core::access::NetworkError>(())
    /// ```
    #[must_use]
    pub fn denies(&self, address: IpAddr, now: Timestamp) -> bool {
        self.denied.iter().any(|entry| entry.is_live(now) && entry.network.contains(address))
    }

    /// The entry of exactly this network, if its time is not over.
    #[must_use]
    pub fn entry(&self, network: Network, now: Timestamp) -> Option<&DeniedNetwork> {
        self.denied.iter().find(|entry| entry.network == network && entry.is_live(now))
    }

    /// Bytes of all reasons.
    #[must_use]
    pub fn reason_bytes(&self) -> usize {
        let reasons = self.denied.iter().filter_map(|entry| entry.reason.as_ref());
        let reasons = reasons.chain(self.freeze.as_ref().map(|freeze| &freeze.reason));
        reasons.map(|reason| reason.as_str().len()).sum()
    }

    /// With one more network, in the place of an earlier entry of the same; without those whose time is over.
    ///
    /// # Errors
    /// [`StorageError::Full`].
    pub(crate) fn deny(&self, entry: DeniedNetwork) -> Result<Self, StorageError> {
        let mut next = self.without(entry.network, entry.created_at);
        next.denied.push(entry);
        if next.denied.len() > Self::NETWORKS_MAX {
            return Err(StorageError::Full { what: "denied networks", max: Self::NETWORKS_MAX });
        }
        next.check_reasons()?;
        Ok(next)
    }

    /// Without a network, and without those whose time is over.
    pub(crate) fn without(&self, network: Network, now: Timestamp) -> Self {
        let mut next = self.clone();
        next.version = next.version.saturating_add(1);
        next.denied.retain(|entry| entry.network != network && entry.is_live(now));
        next
    }

    /// Frozen, or not.
    ///
    /// # Errors
    /// [`StorageError::Full`].
    pub(crate) fn with_freeze(&self, freeze: Option<Freeze>) -> Result<Self, StorageError> {
        let version = self.version.saturating_add(1);
        let next = Self { version, freeze, ..self.clone() };
        next.check_reasons()?;
        Ok(next)
    }

    fn check_reasons(&self) -> Result<(), StorageError> {
        if self.reason_bytes() > Self::REASON_BYTES_MAX {
            let what = "bytes of reasons of denied networks";
            return Err(StorageError::Full { what, max: Self::REASON_BYTES_MAX });
        }
        Ok(())
    }
}

/// A network that is not let in, whoever calls from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedNetwork {
    /// The network.
    pub network: Network,
    /// Why.
    pub reason: Option<Reason>,
    /// Since when.
    pub created_at: Timestamp,
    /// By whom: an [`Actor`](crate::access::Actor) as text.
    pub created_by: Arc<str>,
    /// Until when; `None`: until it is taken off the list.
    pub expires_at: Option<Timestamp>,
}

impl DeniedNetwork {
    /// Whether its time is not over.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// That nothing may change, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub since: Timestamp,
    /// By whom: an [`Actor`](crate::access::Actor) as text.
    pub by: Arc<str>,
}

/// A shield in the form that many requests are judged by: the time an address takes depends on how many lengths of prefixes there are, not on
/// how many networks.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) shield: Shield,
    networks: BTreeMap<IpNet, Option<Timestamp>>,
    v4_bits: Vec<u8>,
    v6_bits: Vec<u8>,
}

impl Judge {
    pub(crate) fn new(shield: Shield) -> Self {
        let entries = shield.denied.iter();
        let networks = entries.map(|entry| (entry.network.net(), entry.expires_at)).collect();
        let bits = |is_v4: bool| {
            let nets = shield.denied.iter().map(|entry| entry.network.net());
            let mut bits: Vec<u8> = nets
                .filter(|net| matches!(net, IpNet::V4(_)) == is_v4)
                .map(|net| net.prefix_len())
                .collect();
            bits.sort_unstable();
            bits.dedup();
            bits
        };
        let (v4_bits, v6_bits) = (bits(true), bits(false));
        Self { shield, networks, v4_bits, v6_bits }
    }

    pub(crate) const fn freeze(&self) -> Option<&Freeze> {
        self.shield.freeze.as_ref()
    }

    /// What [`Shield::denies`] says.
    pub(crate) fn denies(&self, address: IpAddr, now: Timestamp) -> bool {
        let address = address.to_canonical();
        let bits = if address.is_ipv4() { &self.v4_bits } else { &self.v6_bits };
        bits.iter().any(|bits| {
            let network = IpNet::new(address, *bits).map(|network| network.trunc()).ok();
            let end = network.and_then(|network| self.networks.get(&network));
            end.is_some_and(|end| end.is_none_or(|end| now < end))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(network: &str, expires_at: Option<i64>) -> DeniedNetwork {
        DeniedNetwork {
            network: network.parse().unwrap(),
            reason: None,
            created_at: Timestamp::from_micros(1),
            created_by: "host".into(),
            expires_at: expires_at.map(Timestamp::from_micros),
        }
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn an_entry_ends_by_itself_and_gives_its_place_to_the_next() {
        let shield = Shield::default().deny(entry("192.0.2.0/24", Some(10))).unwrap();
        let address = "192.0.2.1".parse().unwrap();
        assert!(shield.denies(address, at(9)) && !shield.denies(address, at(10)));
        let mut late = entry("198.51.100.0/24", None);
        late.created_at = at(10);
        let next = shield.deny(late.clone()).unwrap();
        assert_eq!((next.version, &next.denied[..]), (2, &[late][..]));
        // Denied again, it is there once, as it was denied last.
        let again = next.deny(entry("198.51.100.0/24", Some(99))).unwrap();
        assert_eq!((again.denied.len(), again.denied[0].expires_at), (1, Some(at(99))));
        assert_eq!(again.without("198.51.100.0/24".parse().unwrap(), at(11)).denied, []);
    }

    #[test]
    fn a_full_list_takes_no_more_and_lets_the_old_ones_be_replaced() {
        let network = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        let most = u32::try_from(Shield::NETWORKS_MAX).unwrap();
        let denied = (0..most).map(|n| entry(&network(n), None)).collect();
        let shield = Shield { denied, ..Shield::default() };
        assert!(matches!(shield.deny(entry(&network(most), None)), Err(StorageError::Full { .. })));
        assert!(shield.deny(entry(&network(7), None)).is_ok());
        let reason = Reason::parse(&"€".repeat(Reason::CHARS_MAX)).unwrap();
        let mut shield = Shield::default();
        let full = (0..most).find_map(|n| {
            let entry = DeniedNetwork { reason: Some(reason.clone()), ..entry(&network(n), None) };
            match shield.deny(entry) {
                Ok(next) => {
                    shield = next;
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert!(matches!(full, Some(StorageError::Full { max: Shield::REASON_BYTES_MAX, .. })));
    }

    proptest! {
        #[test]
        fn the_judge_says_what_the_shield_says(
            entries in prop::collection::vec((0_u32..64, 24_u8..=32, any::<bool>(), prop::option::of(0_i64..20)), 0..30),
            address in 0_u32..64,
            now in 0_i64..20,
        ) {
            // Close together, so that many of them hold the address.
            let text = |n: u32, is_v4: bool| match is_v4 {
                true => format!("192.0.2.{n}"),
                false => format!("2001:db8::{n:x}"),
            };
            let mut shield = Shield::default();
            for (n, bits, is_v4, end) in entries {
                let bits = if is_v4 { bits } else { bits + 96 };
                shield = shield.deny(entry(&format!("{}/{bits}", text(n, is_v4)), end)).unwrap();
            }
            let judge = Judge::new(shield.clone());
            for is_v4 in [true, false] {
                let address: IpAddr = text(address, is_v4).parse().unwrap();
                prop_assert_eq!(judge.denies(address, at(now)), shield.denies(address, at(now)));
            }
        }
    }
}

//! Keys: `pgw:{tag}:…`, where everything that one script touches has one tag, and so one slot of a Cluster.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use pgw_core::queue::{Job, Lane};
use sha2::{Digest as _, Sha256};

use crate::error::RedisConfigError;

/// What all keys of one installation have in common, so that several share a Redis without seeing each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace(Box<str>);

impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for Namespace {
    type Err = RedisConfigError;

    fn from_str(text: &str) -> Result<Self, RedisConfigError> {
        let fits = (1..=LEN_MAX).contains(&text.len());
        // No brace, which would make a tag, and nothing that a pattern means something by.
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if fits && plain { Ok(Self(text.into())) } else { Err(RedisConfigError::Namespace) }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Namespace {
    /// The channel of its hints.
    pub(crate) fn channel(&self) -> String {
        format!("pgw:{{{self}:hints}}")
    }

    /// Where what a caller owes is kept. The caller's name is not in it: it may be an address.
    pub(crate) fn limit(&self, of: &str) -> String {
        let digest = Sha256::digest(of.as_bytes());
        let mut key = format!("pgw:{{{self}:limit:");
        for byte in &digest[..16] {
            key.push(HEX[usize::from(byte >> 4)]);
            key.push(HEX[usize::from(byte & 15)]);
        }
        key.push('}');
        key
    }

    /// The keys of a part of a lane, in the order the scripts know them by.
    pub(crate) fn shard(&self, lane: Lane, shard: Shard) -> [String; 8] {
        let Shard { number, of } = shard;
        let lane = lane.as_str();
        ["jobs", "later", "waiting", "open", "full", "held", "shares", "dead"]
            .map(|part| format!("pgw:{{{self}:{lane}:{number}of{of}}}:{part}"))
    }
}

/// One of the parts that a lane is divided into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) number: u16,
    /// In the keys too: processes that divide it otherwise have queues of their own, and the rows in storage are in all of them.
    pub(crate) of: NonZeroU16,
}

impl Shard {
    pub(crate) fn all(of: NonZeroU16) -> impl Iterator<Item = Self> {
        (0..of.get()).map(move |number| Self { number, of })
    }

    /// Where a job is: deliveries by their endpoint, whose bound is counted there, operations by their payment.
    pub(crate) fn of(job: &Job, of: NonZeroU16) -> Self {
        let id = match job {
            Job::Operation { payment, .. } => payment.as_uuid(),
            Job::Delivery { delivery, .. } => delivery.endpoint().as_uuid(),
            // No other kind has a member, see there.
            _ => uuid::Uuid::nil(),
        };
        // The low half is random in every version of UUID that is made here.
        let (_, low) = id.as_u64_pair();
        let number = u16::try_from(low % u64::from(of.get())).unwrap_or(0);
        Self { number, of }
    }
}

const LEN_MAX: usize = 64;
const HEX: [char; 16] =
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];

#[cfg(test)]
mod tests {
    use super::*;

    /// As the Cluster specification has it: CRC-16/XMODEM of what is between the first braces, modulo 16,384.
    fn slot(key: &str) -> u16 {
        let (_, rest) = key.split_once('{').expect("a tag");
        let (tag, _) = rest.split_once('}').expect("a tag ends");
        crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes()) % 16_384
    }

    #[test]
    fn the_keys_of_a_script_are_in_one_slot() {
        let namespace: Namespace = "shop-7.eu".parse().unwrap();
        let mut slots = std::collections::BTreeSet::new();
        for lane in Lane::ALL {
            for shard in Shard::all(NonZeroU16::new(16).unwrap()) {
                let of_keys: std::collections::BTreeSet<u16> =
                    namespace.shard(lane, shard).iter().map(|key| slot(key)).collect();
                assert_eq!(of_keys.len(), 1, "{shard:?}");
                slots.extend(of_keys);
            }
        }
        assert!(slots.len() > 24, "the parts are spread over a Cluster: {slots:?}");
    }

    #[test]
    fn a_callers_name_is_in_no_key() {
        let key = Namespace::default().limit("ip:192.0.2.7");
        assert_eq!(key, "pgw:{default:limit:8ad0425705eb00f85e6193f4f6d66df3}");
        assert_ne!(key, Namespace::default().limit("ip:192.0.2.8"));
    }

    #[test]
    fn a_namespace_is_plain() {
        for text in ["a", "A-z_0.9", &"x".repeat(64)] {
            assert!(text.parse::<Namespace>().is_ok(), "{text}");
        }
        for text in ["", "a b", "a{b", "a}b", "a*", "é", &"x".repeat(65)] {
            assert!(text.parse::<Namespace>().is_err(), "{text}");
        }
    }
}

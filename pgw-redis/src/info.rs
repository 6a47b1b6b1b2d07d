//! `NodeInfo`: what a node says of itself, for those who look after it.

use pgw_core::timestamp::Timestamp;
use redis::{FromRedisValue as _, InfoDict, Value};

use crate::error::RedisError;

/// What a node says of itself: some of `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Which Redis it is, as `7.2.4`. Of a server that is only compatible, which Redis it is compatible with.
    pub version: Box<str>,
    /// How much memory its data takes.
    pub used_memory_bytes: u64,
    /// How much memory its data may take, or `None` where nothing but the machine bounds it.
    pub maxmemory_bytes: Option<u64>,
    /// What it does when that is reached: `noeviction` refuses writes, all others drop keys.
    pub maxmemory_policy: Box<str>,
    /// Its clock as it answered, or `None` where it does not say (before Redis 7).
    pub clock: Option<Timestamp>,
}

impl NodeInfo {
    /// Of the answer of one node, or of those of several.
    pub(crate) fn all(answer: Value) -> Result<Vec<Self>, RedisError> {
        let nodes = match answer {
            Value::Map(nodes) => nodes.into_iter().map(|(_, info)| info).collect(),
            info => vec![info],
        };
        nodes.into_iter().map(Self::of).collect()
    }

    fn of(info: Value) -> Result<Self, RedisError> {
        let text = String::from_redis_value(info)
            .map_err(|_| RedisError::Unexpected("INFO that is no text"))?;
        let info = InfoDict::new(&text);
        let incomplete = RedisError::Unexpected("INFO without version or memory");
        let (Some(version), Some(used), Some(policy)) = (
            info.get::<String>("redis_version"),
            info.get::<u64>("used_memory"),
            info.get::<String>("maxmemory_policy"),
        ) else {
            return Err(incomplete);
        };
        Ok(Self {
            version: version.into(),
            used_memory_bytes: used,
            maxmemory_bytes: info.get::<u64>("maxmemory").filter(|&bytes| bytes > 0),
            maxmemory_policy: policy.into(),
            clock: info.get::<i64>("server_time_usec").map(Timestamp::from_micros),
        })
    }

    /// The first number of the version; `None` when it is none.
    #[must_use]
    pub fn major_version(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }

    /// Which share of the memory that it may take is used, in hundredths; `None` where nothing bounds it.
    #[must_use]
    pub fn used_percent(&self) -> Option<u64> {
        let percent = u128::from(self.used_memory_bytes) * 100 / u128::from(self.maxmemory_bytes?);
        Some(u64::try_from(percent).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "# Server\r\nredis_version:7.0.15\r\nserver_time_usec:1700000000000001\r\n# Memory\r\nused_memory:750\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\n";

    fn text(answer: &str) -> Value {
        Value::BulkString(answer.as_bytes().to_vec())
    }

    #[test]
    fn one_node_or_several_are_read() {
        let one = NodeInfo::all(text(ANSWER)).unwrap();
        let [node] = &one[..] else { panic!("{one:?}") };
        assert_eq!((&*node.version, node.major_version()), ("7.0.15", Some(7)));
        assert_eq!((node.used_memory_bytes, node.maxmemory_bytes), (750, Some(1_000)));
        assert_eq!((node.used_percent(), &*node.maxmemory_policy), (Some(75), "noeviction"));
        assert_eq!(node.clock, Some(Timestamp::from_micros(1_700_000_000_000_001)));
        let named = |name: &str, answer: &str| (text(name), text(answer));
        let unbound = ANSWER.replace("maxmemory:1000", "maxmemory:0");
        let old = unbound.replace("server_time_usec", "other");
        let two = NodeInfo::all(Value::Map(vec![named("a", ANSWER), named("b", &old)])).unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(
            (two[1].maxmemory_bytes, two[1].used_percent(), two[1].clock),
            (None, None, None)
        );
    }

    #[test]
    fn what_says_nothing_is_unexpected() {
        for answer in [text(""), text("redis_version:7"), Value::Nil] {
            let told = NodeInfo::all(answer);
            assert!(matches!(told, Err(RedisError::Unexpected(_))), "{told:?}");
        }
    }
}

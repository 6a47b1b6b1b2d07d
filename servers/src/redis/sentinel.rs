//! `RedisSentinel`: a Redis and its replica, watched by Sentinels that make the replica the master when it has to be.

use crate::error::ServerError;
use crate::poll;

use super::{Mode, Redis};

/// A master, its replica, and three Sentinels, of which two have to agree that the master is down. All listen on ports
/// of 127.0.0.1. Dropping it kills them and removes all their data.
///
/// The servers' indices are 0, at first the master's, and 1.
#[derive(Debug)]
pub struct RedisSentinel {
    sentinels: Vec<Redis>,
    servers: Vec<Redis>,
}

impl RedisSentinel {
    /// What the Sentinels call the master.
    pub const MASTER: &str = "pgw";

    /// Creates them all, each in a directory of its own, and waits until the Sentinels know each other and the replica,
    /// which takes some three seconds.
    ///
    /// # Errors
    /// As of [`RedisBuilder::start`](crate::RedisBuilder::start) and [`wait_ready`](Self::wait_ready).
    pub fn start() -> Result<Self, ServerError> {
        // By default a master waits five seconds for more replicas before it sends any its data. Either may become one.
        let builder = || Redis::builder().with_setting("repl-diskless-sync-delay", "0");
        let master = builder().start()?;
        let address = format!("127.0.0.1 {}", master.address().port());
        let replica = builder().with_setting("replicaof", &address).start()?;
        // Who replicates when the Sentinels look for the first time need not be looked for again ten seconds later.
        poll::until(NAME, || replica.field(&["INFO", "replication"], "master_link_status", "up"))?;
        let sentinels = (0..SENTINELS).map(|_| start_sentinel(&address));
        let sentinels = sentinels.collect::<Result<_, _>>()?;
        let mut started = Self { sentinels, servers: vec![master, replica] };
        started.wait_ready()?;
        Ok(started)
    }

    /// The Sentinels' URLs.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Redis::url).collect()
    }

    /// One of the two servers.
    ///
    /// # Panics
    /// If the index is above 1.
    #[must_use]
    pub fn server(&self, index: usize) -> &Redis {
        &self.servers[index]
    }

    /// Kills a server with SIGKILL, as a crash would. Does nothing if it is down.
    ///
    /// # Errors
    /// As of [`Redis::kill`].
    ///
    /// # Panics
    /// If the index is above 1.
    pub fn kill(&mut self, index: usize) -> Result<(), ServerError> {
        self.servers[index].kill()
    }

    /// Starts a server again, which the Sentinels soon make a replica if the other one has become the master. Shuts it
    /// down first if it runs.
    ///
    /// # Errors
    /// As of [`Redis::restart`].
    ///
    /// # Panics
    /// If the index is above 1.
    pub fn restart(&mut self, index: usize) -> Result<(), ServerError> {
        self.servers[index].restart()
    }

    /// Waits until all Sentinels know each other, the master and the replica, and the replica has the master's data.
    ///
    /// # Errors
    /// [`ServerError::NotReady`] with what a Sentinel said last when that takes more than half a minute, as it does when
    /// one of the two is down; [`ServerError::Ended`] when a Sentinel cannot be asked; [`ServerError::System`].
    pub fn wait_ready(&mut self) -> Result<(), ServerError> {
        for sentinel in &self.sentinels {
            poll::until(NAME, || {
                let master = sentinel.ask(&["SENTINEL", "MASTER", Self::MASTER])?;
                let replicas = sentinel.ask(&["SENTINEL", "REPLICAS", Self::MASTER])?;
                let is_ready = value(&master, "flags") == Some("master")
                    && value(&master, "num-other-sentinels") == Some("2")
                    && value(&replicas, "flags") == Some("slave")
                    && value(&replicas, "master-link-status") == Some("ok");
                Ok(if is_ready { Ok(()) } else { Err(format!("{master}\n{replicas}")) })
            })?;
        }
        Ok(())
    }

    /// Waits until all Sentinels say that the server other than `failed` is the master, and it says so too.
    ///
    /// # Errors
    /// As of [`wait_ready`](Self::wait_ready).
    ///
    /// # Panics
    /// If the index is above 1.
    pub fn wait_failover(&mut self, failed: usize) -> Result<(), ServerError> {
        assert!(failed < self.servers.len(), "there is no server {failed}");
        let master = &self.servers[1 - failed];
        let port = master.address().port().to_string();
        for sentinel in &self.sentinels {
            poll::until(NAME, || {
                let address =
                    sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER])?;
                Ok(if address.lines().nth(1) == Some(&port) { Ok(()) } else { Err(address) })
            })?;
        }
        poll::until(NAME, || master.field(&["INFO", "replication"], "role", "master"))
    }
}

/// A Sentinel that watches the master at `address`, `<host> <port>`.
fn start_sentinel(address: &str) -> Result<Redis, ServerError> {
    let name = RedisSentinel::MASTER;
    let mut builder = Redis::builder()
        .with_setting("sentinel", format!("monitor {name} {address} {QUORUM}"))
        .with_setting("sentinel", format!("down-after-milliseconds {name} {DOWN_AFTER_MS}"))
        .with_setting("sentinel", format!("failover-timeout {name} {FAILOVER_TIMEOUT_MS}"));
    builder.mode = Mode::Sentinel;
    builder.start()
}

/// The value of a field, each of them on a line of its own.
fn value<'a>(answer: &'a str, field: &str) -> Option<&'a str> {
    let mut lines = answer.lines();
    while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
        if name == field {
            return Some(value);
        }
    }
    None
}

const NAME: &str = "the Redis Sentinels";
const SENTINELS: usize = 3;
const QUORUM: usize = 2;
/// After this long without an answer the master is suspected. The default of 30 s would make a failover a matter of a
/// minute; much less, and a starved machine fails over by itself.
const DOWN_AFTER_MS: u32 = 2_000;
/// A vote that nobody won is repeated after twice as long.
const FAILOVER_TIMEOUT_MS: u32 = 4_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_not_taken_for_a_field() {
        let answer = "name\nflags\nflags\nmaster\n";
        assert_eq!(value(answer, "flags"), Some("master"));
        assert_eq!(value(answer, "master"), None);
    }
}

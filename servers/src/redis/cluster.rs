//! `RedisCluster`: several Redis servers that share the keys among them.

use crate::error::ServerError;
use crate::poll;
use crate::port::Port;

use super::Redis;

/// A Redis Cluster of one's own, on ports of 127.0.0.1. Dropping it kills its nodes and removes all their data.
///
/// The masters have the first indices, and share the slots evenly in this order. Their replicas follow, if there are
/// any, in the same order. An index is a node's for good, whatever becomes of its role.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
    masters: usize,
}

#[derive(Debug)]
struct Node {
    redis: Redis,
    /// What the nodes speak to each other on, which is theirs over a restart too.
    bus: Port,
    /// By which the others know it, whatever its address.
    id: String,
}

impl RedisCluster {
    /// Three masters without replicas.
    pub const fn builder() -> RedisClusterBuilder {
        RedisClusterBuilder { settings: Vec::new(), replicas: Replicas::None }
    }

    /// The nodes' URLs, in the order of their indices. They stay the same over restarts.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.redis.url()).collect()
    }

    /// A node.
    ///
    /// # Panics
    /// If there are fewer nodes.
    #[must_use]
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index].redis
    }

    /// Kills a node with SIGKILL, as a crash would. Does nothing if it is down.
    ///
    /// The others notice after some two seconds, and do not serve any key until somebody has the node's slots.
    ///
    /// # Errors
    /// As of [`Redis::kill`].
    ///
    /// # Panics
    /// If there are fewer nodes.
    pub fn kill(&mut self, index: usize) -> Result<(), ServerError> {
        self.nodes[index].redis.kill()
    }

    /// Starts a node again as part of the cluster. It may then be a replica of the one that took over from it. Shuts it
    /// down first if it runs.
    ///
    /// The cluster may take seconds to serve all keys again: see [`wait_ready`](Self::wait_ready).
    ///
    /// # Errors
    /// As of [`Redis::restart`].
    ///
    /// # Panics
    /// If there are fewer nodes.
    pub fn restart(&mut self, index: usize) -> Result<(), ServerError> {
        self.nodes[index].redis.restart()
    }

    /// Waits until all nodes that run say the same: that all slots are served, and by which of the nodes that run; and
    /// until every replica among them has its master's data.
    ///
    /// # Errors
    /// [`ServerError::NotReady`] with what a node said last when that takes more than half a minute, as it does when
    /// nobody is left to serve the slots of a node that is down; [`ServerError::Ended`] when a node cannot be asked;
    /// [`ServerError::System`].
    pub fn wait_ready(&mut self) -> Result<(), ServerError> {
        let running = self.running()?;
        poll::until(NAME, || self.agreement(&running)).map(drop)
    }

    /// Waits until another node has the slots that `failed` had, and the cluster is [ready](Self::wait_ready). Returns
    /// that node's index. `failed` itself is down, or a replica by now.
    ///
    /// # Errors
    /// As of [`wait_ready`](Self::wait_ready).
    ///
    /// # Panics
    /// If there are fewer nodes.
    pub fn wait_failover(&mut self, failed: usize) -> Result<usize, ServerError> {
        assert!(failed < self.nodes.len(), "there is no node {failed}");
        let running = self.running()?;
        poll::until(NAME, || {
            let owner = self.agreement(&running)?.map(|owners| owners[failed % self.masters]);
            Ok(owner.and_then(|owner| {
                if owner == failed {
                    Err(format!("node {failed} has its slots"))
                } else {
                    Ok(owner)
                }
            }))
        })
    }

    fn running(&mut self) -> Result<Vec<usize>, ServerError> {
        let mut running = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if node.redis.is_running()? {
                running.push(index);
            }
        }
        Ok(running)
    }

    /// Who has the slots of each of the first masters, if all nodes that run agree on it; else what one of them said.
    fn agreement(&self, running: &[usize]) -> Result<Result<Vec<usize>, String>, ServerError> {
        let mut agreed = None;
        for &index in running {
            let redis = &self.nodes[index].redis;
            // First who has the slots: a node that knows of its successor is a replica, and is looked at as one.
            let nodes = redis.ask(&["CLUSTER", "NODES"])?;
            if let Err(answer) = redis.serves_all_slots()? {
                return Ok(Err(answer));
            }
            let owners: Option<Vec<_>> =
                (0..self.masters).map(|master| self.owner(&nodes, master, running)).collect();
            match owners {
                Some(owners) if *agreed.get_or_insert_with(|| owners.clone()) == owners => {}
                _ => return Ok(Err(nodes)),
            }
        }
        Ok(agreed.ok_or_else(|| "no node runs".to_owned()))
    }

    /// Which of the nodes that run has the slots of one of the first masters, by an answer to `CLUSTER NODES`.
    fn owner(&self, nodes: &str, master: usize, running: &[usize]) -> Option<usize> {
        let (slot, _) = slots(master, self.masters);
        let id = owner(nodes, slot)?;
        running.iter().copied().find(|&index| self.nodes[index].id == id)
    }

    /// Gives every master its part of the slots and its replica, and makes the nodes known to each other.
    fn form(&mut self) -> Result<(), ServerError> {
        for (index, node) in self.nodes.iter().enumerate() {
            // Given out here, they need not be agreed on first.
            node.redis.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
            if index < self.masters {
                let (first, last) = slots(index, self.masters);
                let [first, last] = [first, last].map(|slot| slot.to_string());
                node.redis.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
            }
            let port = node.redis.address().port().to_string();
            let bus = node.bus.number().to_string();
            for other in &self.nodes[..index] {
                other.redis.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
            }
        }
        for index in self.masters..self.nodes.len() {
            let (replica, master) = (&self.nodes[index], &self.nodes[index - self.masters]);
            // It has to have heard of its master first.
            poll::until(NAME, || {
                let known = replica.redis.ask(&["CLUSTER", "NODES"])?;
                Ok(if known.contains(&master.id) { Ok(()) } else { Err(known) })
            })?;
            replica.redis.ask(&["CLUSTER", "REPLICATE", &master.id])?;
        }
        self.wait_ready()
    }
}

impl Redis {
    /// Whether this node of a cluster says that all slots are served, and has its master's data if it is a replica.
    fn serves_all_slots(&self) -> Result<Result<(), String>, ServerError> {
        match self.field(&["CLUSTER", "INFO"], "cluster_state", "ok")? {
            Ok(()) if self.field(&["INFO", "replication"], "role", "slave")?.is_ok() => {
                self.field(&["INFO", "replication"], "master_link_status", "up")
            }
            answer => Ok(answer),
        }
    }
}

/// How a [`RedisCluster`] is to be.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct RedisClusterBuilder {
    settings: Vec<(String, String)>,
    replicas: Replicas,
}

#[derive(Clone, Copy, Debug)]
enum Replicas {
    None,
    One,
}

impl RedisClusterBuilder {
    /// Gives each master a replica, which takes over when the master fails.
    pub const fn with_replicas(mut self) -> Self {
        self.replicas = Replicas::One;
        self
    }

    /// A directive of every node, as [`RedisBuilder::with_setting`](crate::RedisBuilder::with_setting) has it.
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Creates the nodes, each in a directory of its own, and waits until each of them serves all keys.
    ///
    /// # Errors
    /// As of [`RedisBuilder::start`](crate::RedisBuilder::start) and [`RedisCluster::wait_ready`].
    pub fn start(self) -> Result<RedisCluster, ServerError> {
        let size = match self.replicas {
            Replicas::None => MASTERS,
            Replicas::One => 2 * MASTERS,
        };
        let nodes = (0..size).map(|_| self.start_node()).collect::<Result<Vec<_>, _>>()?;
        let mut cluster = RedisCluster { nodes, masters: MASTERS };
        cluster.form()?;
        Ok(cluster)
    }

    fn start_node(&self) -> Result<Node, ServerError> {
        let bus = Port::reserve()?;
        let mut builder = Redis::builder()
            .with_setting("cluster-enabled", "yes")
            .with_setting("cluster-config-file", "nodes.conf")
            .with_setting("cluster-port", bus.number().to_string())
            .with_setting("cluster-announce-ip", "127.0.0.1")
            .with_setting("cluster-node-timeout", NODE_TIMEOUT_MS)
            // By default a master waits five seconds for more replicas before it sends any its data.
            .with_setting("repl-diskless-sync-delay", "0");
        for (name, value) in &self.settings {
            builder = builder.with_setting(name, value);
        }
        let redis = builder.start()?;
        let id = redis.ask(&["CLUSTER", "MYID"])?;
        Ok(Node { redis, bus, id })
    }
}

/// The id of the node that has the slot, by the answer to `CLUSTER NODES`.
fn owner(nodes: &str, slot: usize) -> Option<&str> {
    nodes.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let id = fields.next()?;
        let has = |slots: &str| {
            // A slot that moves is in brackets.
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            let [first, last] = [first, last].map(str::parse::<usize>);
            first.is_ok_and(|first| first <= slot) && last.is_ok_and(|last| slot <= last)
        };
        fields.skip(SLOTS_FIELD - 1).any(has).then_some(id)
    })
}

/// The first and the last slot of a master.
const fn slots(index: usize, masters: usize) -> (usize, usize) {
    (index * SLOTS / masters, (index + 1) * SLOTS / masters - 1)
}

const NAME: &str = "the Redis Cluster";
/// Most that a cluster needs to agree on a failure without the failed one.
const MASTERS: usize = 3;
/// How many slots every cluster has.
const SLOTS: usize = 16_384;
/// Where the slots begin in a line about a node, of which every other field is in its place.
const SLOTS_FIELD: usize = 8;
/// After this long without an answer a node is suspected. The default of 15 s would make a failover a matter of half a
/// minute; much less, and a starved machine fails over by itself.
const NODE_TIMEOUT_MS: &str = "2000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_one_master() {
        assert_eq!(
            [0, 1, 2].map(|index| slots(index, 3)),
            [(0, 5_460), (5_461, 10_921), (10_922, 16_383)]
        );
    }

    #[test]
    fn the_owner_of_a_slot_is_the_one_that_lists_it() {
        let nodes = "\
            a1 127.0.0.1:21001@21002 myself,slave b2 0 1795651602000 1 connected\n\
            b2 127.0.0.1:21003@21004 master - 0 1795651602427 4 connected 0-5460 5462\n\
            c3 127.0.0.1:21005@21006 master,fail - 0 1795651603131 2 connected 5461 5463-10921 [7->-b2]\n";
        for (slot, id) in [(0, "b2"), (5_460, "b2"), (5_461, "c3"), (5_462, "b2"), (10_921, "c3")] {
            assert_eq!(owner(nodes, slot), Some(id), "{slot}");
        }
        assert_eq!(owner(nodes, 10_922), None);
        assert_eq!(owner(nodes, 2), Some("b2"), "an epoch is no slot");
    }
}

//! What must hold of every topology before it is published or stored.
//!
//! Found all at once: an operator who loads a document should not meet its mistakes one by one.

use super::{DATABASES_MAX, NODES_MAX, Node, SHARDS_MAX, Topology};
use crate::ids::{DbIndex, NodeIndex, ShardId};
use std::collections::{BTreeSet, HashMap};

/// Longest cluster id and node name: they appear in keys, metrics and tables.
pub const NAME_MAX: usize = 64;

/// One thing that is wrong with a topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The cluster id cannot serve as a name.
    #[error("cluster id '{0}' must be 1 to {NAME_MAX} of: letters, digits, '.', '_', '-'")]
    ClusterId(String),
    /// Epochs start at 1.
    #[error("epoch must be at least 1")]
    Epoch,
    /// The keyspace cannot be cut into this many.
    #[error("shards = {0} must be a power of two between 1 and {SHARDS_MAX}")]
    Shards(u16),
    /// No node could be asked for this many databases.
    #[error("shards ({shards}) + pinned ({pinned}) + 1 exceed {DATABASES_MAX} databases on a node")]
    Databases {
        /// Sharded shards.
        shards: u16,
        /// Pinned databases.
        pinned: u16,
    },
    /// There is nowhere to put a shard.
    #[error("there must be at least one node")]
    NoNodes,
    /// More nodes than fit.
    #[error("{0} nodes exceed the limit of {NODES_MAX}")]
    TooManyNodes(usize),
    /// The name of a node cannot serve as one.
    #[error("node name '{0}' must be 1 to {NAME_MAX} of: letters, digits, '.', '_', '-'")]
    NodeName(String),
    /// Two nodes have one name.
    #[error("node name '{0}' is used twice")]
    DuplicateName(String),
    /// Two nodes have one address: one server would hold a shard under two names.
    #[error("nodes '{first}' and '{second}' have the same address {address}")]
    DuplicateAddress {
        /// The node named first.
        first: String,
        /// The other one.
        second: String,
        /// Their address.
        address: String,
    },
    /// As whom a node is logged in to cannot be.
    #[error("node '{0}': \"user\" and \"run_id\" must be 1 to {NAME_MAX} of: letters, digits, '.', '_', '-'")]
    Access(String),
    /// What is moved together is not one node's, or is moved twice, or its user cannot be one.
    #[error(
        "the unit of task '{0}' must have shards of one node, in no other unit, and no user or one of its own on a node that has users"
    )]
    Unit(String),
    /// A node cannot be reached at port 0.
    #[error("node '{0}' has port 0: nodes need a real port")]
    NodePort(String),
    /// The list of placements is not as long as there are shards.
    #[error("{found} placements for {expected} shards (sharded and pinned)")]
    PlacementCount {
        /// Rows there are.
        found: usize,
        /// Rows there must be.
        expected: u16,
    },
    /// A shard is placed on a node that is not in the list.
    #[error("shard {shard} is placed on node number {node}, which does not exist")]
    UnknownNode {
        /// The shard.
        shard: ShardId,
        /// Its node.
        node: NodeIndex,
    },
    /// A shard is placed in preshard's own database or beyond all databases.
    #[error(
        "shard {shard} is placed in database {db}: it must be below {DATABASES_MAX} and not {metadata}, \
             which holds preshard's own records"
    )]
    Db {
        /// The shard.
        shard: ShardId,
        /// Its database.
        db: DbIndex,
        /// The metadata database.
        metadata: DbIndex,
    },
    /// Two shards share a database: their keys would mix beyond repair.
    #[error("shards {first} and {second} are both placed in database {db} of node '{node}'")]
    Collision {
        /// The lower shard.
        first: ShardId,
        /// The higher shard.
        second: ShardId,
        /// The node's name.
        node: String,
        /// The database.
        db: DbIndex,
    },
}

// === impl Topology ===

impl Topology {
    /// Checks the whole snapshot.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the document.
    pub fn validate(&self) -> Result<(), Vec<Invalid>> {
        let mut found = self.validate_layout().err().unwrap_or_default();
        let expected = self.total_shards();
        if self.placements.len() == usize::from(expected) {
            self.check_placements(&mut found);
            self.check_units(&mut found);
        } else {
            found.push(Invalid::PlacementCount {
                found: self.placements.len(),
                expected,
            });
        }
        verdict(found)
    }

    /// Checks everything but the placements: what the config alone decides.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the document.
    pub(super) fn validate_layout(&self) -> Result<(), Vec<Invalid>> {
        let mut found = Vec::new();
        if !is_name(&self.cluster_id) {
            found.push(Invalid::ClusterId(self.cluster_id.clone()));
        }
        if self.epoch.0 == 0 {
            found.push(Invalid::Epoch);
        }
        found.extend(check_counts(self.shards, self.pinned));
        found.extend(check_nodes(self.nodes_by_index().map(|(_, node)| node)));
        let bad = self.access.iter().filter(|(node, access)| {
            node.index() >= self.nodes.len() || !is_name(&access.user) || !is_name(&access.run_id)
        });
        found.extend(bad.map(|(node, _)| {
            let name = self
                .nodes
                .get(node.index())
                .map_or_else(|| node.to_string(), |node| node.name.clone());
            Invalid::Access(name)
        }));
        verdict(found)
    }

    fn check_units(&self, found: &mut Vec<Invalid>) {
        let mut seen = BTreeSet::new();
        for unit in &self.units {
            let known = unit
                .shards
                .iter()
                .all(|&shard| self.has_shard(shard) && seen.insert(shard));
            let nodes: BTreeSet<NodeIndex> = match known {
                true => unit
                    .shards
                    .iter()
                    .map(|&shard| self.placement(shard).node)
                    .collect(),
                false => BTreeSet::new(),
            };
            let access = nodes.first().and_then(|node| self.access.get(node));
            let good_user = unit
                .user
                .as_ref()
                .is_none_or(|user| is_name(user) && access.is_some_and(|access| access.user != *user));
            if nodes.len() != 1 || !good_user || !is_name(&unit.task) {
                found.push(Invalid::Unit(unit.task.chars().take(NAME_MAX).collect()));
            }
        }
    }

    fn check_placements(&self, found: &mut Vec<Invalid>) {
        let metadata = self.metadata_db();
        let mut owners = HashMap::with_capacity(self.placements.len());
        for (shard, placement) in self.placements_by_shard() {
            let node = self.nodes.get(placement.node.index());
            let Some(node) = node.filter(|_| !self.retired.contains(&placement.node)) else {
                found.push(Invalid::UnknownNode {
                    shard,
                    node: placement.node,
                });
                continue;
            };
            if placement.db == metadata || placement.db.0 >= DATABASES_MAX {
                found.push(Invalid::Db {
                    shard,
                    db: placement.db,
                    metadata,
                });
            }
            if let Some(first) = owners.insert(placement, shard) {
                let node = node.name.clone();
                found.push(Invalid::Collision {
                    first,
                    second: shard,
                    node,
                    db: placement.db,
                });
            }
        }
    }
}

fn verdict(found: Vec<Invalid>) -> Result<(), Vec<Invalid>> {
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// Whether a text can be the name of a cluster or a node.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(word)
}

/// What is wrong with the numbers of shards and pinned databases.
#[must_use]
pub fn check_counts(shards: u16, pinned: u16) -> Vec<Invalid> {
    let mut found = Vec::new();
    if !shards.is_power_of_two() || shards > SHARDS_MAX {
        found.push(Invalid::Shards(shards));
    }
    if u32::from(shards) + u32::from(pinned) + 1 > u32::from(DATABASES_MAX) {
        found.push(Invalid::Databases { shards, pinned });
    }
    found
}

/// What is wrong with a list of nodes.
#[must_use]
pub fn check_nodes<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Vec<Invalid> {
    let nodes: Vec<&Node> = nodes.into_iter().collect();
    if nodes.is_empty() {
        return vec![Invalid::NoNodes];
    }
    if nodes.len() > NODES_MAX {
        return vec![Invalid::TooManyNodes(nodes.len())];
    }
    let mut found = Vec::new();
    let mut names = HashMap::with_capacity(nodes.len());
    let mut addresses = HashMap::with_capacity(nodes.len());
    for node in nodes {
        if !is_name(&node.name) {
            found.push(Invalid::NodeName(node.name.clone()));
        }
        if node.address.port() == Some(0) {
            found.push(Invalid::NodePort(node.name.clone()));
        }
        if names.insert(&node.name, ()).is_some() {
            found.push(Invalid::DuplicateName(node.name.clone()));
        }
        if let Some(first) = addresses.insert(&node.address, &node.name) {
            found.push(Invalid::DuplicateAddress {
                first: first.clone(),
                second: node.name.clone(),
                address: node.address.to_string(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::topology;
    use super::*;
    use crate::ids::Epoch;

    fn only(topology: &Topology) -> Invalid {
        let mut found = topology.validate().unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn two_shards_never_share_a_database() {
        let mut topology = topology(8, 4, 2);
        topology.placements[1] = topology.placements[0];
        assert_eq!(
            only(&topology).to_string(),
            "shards 0 and 1 are both placed in database 0 of node 'redis-1'"
        );
    }

    #[test]
    fn preshards_own_database_is_taken() {
        let mut topology = topology(8, 4, 2);
        topology.placements[1].db = topology.metadata_db();
        assert!(
            only(&topology).to_string().contains("database 12"),
            "{}",
            only(&topology)
        );
    }

    #[test]
    fn a_placement_names_a_node_that_exists() {
        let mut topology = topology(8, 4, 2);
        topology.placements[3].node = NodeIndex(2);
        assert_eq!(
            only(&topology),
            Invalid::UnknownNode {
                shard: ShardId(3),
                node: NodeIndex(2)
            }
        );
        topology.placements.pop();
        assert_eq!(
            only(&topology),
            Invalid::PlacementCount {
                found: 11,
                expected: 12
            }
        );
    }

    #[test]
    fn counts_have_limits() {
        assert!(check_counts(4096, 12287).is_empty());
        assert_eq!(check_counts(4096, 12288).len(), 1);
        assert_eq!(check_counts(0, 0), [Invalid::Shards(0)]);
        assert_eq!(check_counts(8192, 0), [Invalid::Shards(8192)]);
        assert_eq!(check_counts(1, u16::MAX).len(), 1);
    }

    #[test]
    fn names_and_epochs_are_checked() {
        let mut topology = topology(8, 4, 2);
        topology.epoch = Epoch(0);
        topology.nodes[0].name = "with space".into();
        topology.nodes[1].address = "h:0".parse().unwrap();
        let found = topology.validate().unwrap_err();
        assert_eq!(found.len(), 3, "{found:?}");
    }
}

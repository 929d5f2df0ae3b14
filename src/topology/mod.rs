//! Where every shard lives: one immutable snapshot, replaced whole, never edited in place.
//!
//! ```text
//!  key ──slot()──▶ 0..16383 ──× shards / 16384──▶ ShardId ──placements[shard]──▶ (node, db)
//!        hash.rs                                  0 ........ shards-1 | shards .. shards+pinned-1
//!                                                 sharded keyspace    | databases 1..=pinned, one whole shard each
//!
//!  seed.rs      the first placement, out of the config          validate.rs  what must hold of any topology
//!  codec.rs     Topology ◀─▶ the JSON document of the store      mark.rs      what each node carries of it
//!  change.rs    Topology ─▶ the next one, epoch + 1; and how a process numbers the nodes of one after the other
//!  compare.rs   where two of one cluster differ
//! ```
//!
//! A change makes a new `Topology` with a higher epoch. Whoever holds two snapshots keeps the one with
//! the higher epoch; a lower one is refused everywhere.
//!
//! Shards own contiguous ranges of Redis Cluster's slots, so that tools and hash tags that work with a
//! cluster put the same keys together here.

pub mod address;
pub mod change;
pub mod codec;
mod compare;
pub mod hash;
pub mod mark;
pub mod seed;
pub mod validate;

pub use address::{Address, AddressError};
pub use change::{ChangeError, SuccessionError};
pub use codec::CodecError;
pub use hash::{SLOTS, slot};
pub use validate::Invalid;

use crate::ids::{DbIndex, Epoch, NodeIndex, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The most shards that a keyspace can be cut into.
pub const SHARDS_MAX: u16 = 4096;
/// The most databases that a layout may ask of a node: shards, pinned databases and the metadata database.
pub const DATABASES_MAX: u16 = 16384;
/// The most nodes of one topology.
pub const NODES_MAX: usize = 1024;

/// A whole snapshot: which node and which database hold each shard.
///
/// The fields are public because a change is made by building the next snapshot; [`Topology::validate`]
/// says whether the result may be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Name of this cluster, fixed when its store is first filled. Nodes carry it too (see [`mark`]).
    pub cluster_id: String,
    /// Version of the snapshot, from 1.
    pub epoch: Epoch,
    /// How many shards the keyspace is cut into: a power of two, fixed for the life of the cluster.
    pub shards: u16,
    /// How many further databases a client may `SELECT`: each is one whole shard.
    pub pinned: u16,
    /// The nodes; a [`NodeIndex`] is a position in this list. Most of the time [`Topology::nodes_by_index`] is meant.
    pub nodes: Vec<Node>,
    /// Nodes that have left. A process keeps their positions, so that a number means the same node as long as it runs;
    /// the document does not have them.
    pub retired: BTreeSet<NodeIndex>,
    /// One row for each shard, the sharded ones first, then the pinned ones.
    pub placements: Vec<Placement>,
    /// Shards whose requests are held, by an operator's order.
    pub paused: BTreeSet<ShardId>,
    /// As whom proxies log in to nodes. To a node that is not here they log in as their config says.
    pub access: BTreeMap<NodeIndex, NodeAccess>,
    /// What is being moved.
    pub units: Vec<Unit>,
}

/// Shards of one node that are on their way to another. Their requests run as a user of their own, so that the node can be told to
/// refuse them and nothing else. Where the node's users are not preshard's, proxies hold them all instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The task that moves them.
    pub task: String,
    /// The shards; all of one node.
    pub shards: BTreeSet<ShardId>,
    /// The ACL user of their requests; none: as all others of the node.
    pub user: Option<String>,
    /// Their scripts, waits and watches are held: nothing may be under way at the node that it could refuse half-way. The
    /// node may refuse everything else by now; then it waits at the proxies. Without a user of their own all requests are held.
    pub quiesced: bool,
}

/// As whom proxies log in to a node, and which process of it they may log in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAccess {
    /// The ACL user for the traffic, made by preshard.
    pub user: String,
    /// The node's own name for this run of it. Another run may have other users, and is not served before it was looked at.
    pub run_id: String,
}

/// One Redis or Valkey server process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The operator's name for it, unique in the topology.
    pub name: String,
    /// Where it listens.
    pub address: Address,
}

/// Where one shard lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// The node.
    pub node: NodeIndex,
    /// The logical database on that node.
    pub db: DbIndex,
}

// === impl Topology ===

impl Topology {
    /// The shard of a key: its slot, scaled to the number of shards. The hot path; no allocation.
    #[inline]
    #[must_use]
    pub fn shard_of_key(&self, key: &[u8]) -> ShardId {
        self.shard_of_slot(slot(key))
    }

    /// The shard that owns a slot (`0..16384`).
    #[inline]
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "slot < 16384, so the quotient is below `shards`, a u16"
    )]
    pub const fn shard_of_slot(&self, slot: u16) -> ShardId {
        ShardId((slot as u32 * self.shards as u32 / SLOTS as u32) as u16)
    }

    /// The slots of a sharded shard; none for a pinned one, which holds every slot of its database.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "both ends lie below 16384")]
    pub const fn slots_of(&self, shard: ShardId) -> Option<RangeInclusive<u16>> {
        if shard.0 >= self.shards {
            return None;
        }
        let slots = SLOTS as u32;
        let shards = self.shards as u32;
        let first = (shard.0 as u32 * slots).div_ceil(shards);
        let next = ((shard.0 as u32 + 1) * slots).div_ceil(shards);
        Some(first as u16..=(next - 1) as u16)
    }

    /// The shard that is the whole of database `db`, for `1..=pinned`.
    #[inline]
    #[must_use]
    pub const fn pinned_shard(&self, db: u16) -> Option<ShardId> {
        if db == 0 || db > self.pinned {
            None
        } else {
            Some(ShardId(self.shards + db - 1))
        }
    }

    /// The database number that clients see of a pinned shard; none for a sharded one.
    #[must_use]
    pub const fn pinned_db(&self, shard: ShardId) -> Option<u16> {
        if shard.0 < self.shards || shard.0 >= self.total_shards() {
            None
        } else {
            Some(shard.0 - self.shards + 1)
        }
    }

    /// Where a shard lives.
    ///
    /// # Panics
    /// If `shard` is not one of this topology's ([`Topology::total_shards`]); ids that come from outside
    /// are checked with [`Topology::has_shard`] first.
    #[inline]
    #[must_use]
    pub fn placement(&self, shard: ShardId) -> Placement {
        self.placements[shard.index()]
    }

    /// Whether the number names a shard of this topology.
    #[must_use]
    pub const fn has_shard(&self, shard: ShardId) -> bool {
        shard.0 < self.total_shards()
    }

    /// Sharded and pinned shards together.
    #[must_use]
    pub const fn total_shards(&self) -> u16 {
        self.shards.saturating_add(self.pinned)
    }

    /// The database on every node that holds preshard's own records, the last one of the layout.
    #[must_use]
    pub const fn metadata_db(&self) -> DbIndex {
        DbIndex(self.total_shards())
    }

    /// What `databases` must at least be in the configuration of every node.
    #[must_use]
    pub fn databases_needed(&self) -> u16 {
        let highest = self
            .placements
            .iter()
            .map(|placement| placement.db)
            .max()
            .unwrap_or_default();
        highest.max(self.metadata_db()).0.saturating_add(1)
    }

    /// The node at a position of the list.
    ///
    /// # Panics
    /// If there is no such node.
    #[inline]
    #[must_use]
    pub fn node(&self, node: NodeIndex) -> &Node {
        &self.nodes[node.index()]
    }

    /// The position of the node with this name.
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<NodeIndex> {
        self.nodes_by_index()
            .find(|(_, node)| node.name == name)
            .map(|(index, _)| index)
    }

    /// All nodes with their positions; without those that have left.
    pub fn nodes_by_index(&self) -> impl Iterator<Item = (NodeIndex, &Node)> {
        let all = (0..=u16::MAX).map(NodeIndex).zip(&self.nodes);
        all.filter(|(index, _)| !self.retired.contains(index))
    }

    /// The ACL user that the requests of a shard run as; none: as the config says.
    #[must_use]
    pub fn user_of(&self, shard: ShardId) -> Option<&str> {
        let access = self.access.get(&self.placement(shard).node)?;
        let own = self.unit_of(shard).and_then(|unit| unit.user.as_ref());
        Some(own.unwrap_or(&access.user))
    }

    /// The unit that a shard is moved with.
    #[must_use]
    pub fn unit_of(&self, shard: ShardId) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.shards.contains(&shard))
    }

    /// Whether clients are served by this process of a node, and no other.
    #[must_use]
    pub fn is_run(&self, node: NodeIndex, run_id: &str) -> bool {
        self.access
            .get(&node)
            .is_some_and(|access| access.run_id == run_id)
    }

    /// Whether requests of some shard run on a node as this user.
    #[must_use]
    pub fn has_user(&self, node: NodeIndex, user: Option<&str>) -> bool {
        let own = self.access.get(&node).map(|access| access.user.as_str());
        let on_node = |unit: &&Unit| {
            unit.shards
                .first()
                .is_some_and(|&shard| self.placement(shard).node == node)
        };
        own == user
            || (user.is_some()
                && self
                    .units
                    .iter()
                    .filter(on_node)
                    .any(|unit| unit.user.as_deref() == user))
    }

    /// Shards of which nothing may be under way that their node could refuse half-way.
    #[must_use]
    pub fn quiesced(&self) -> BTreeSet<ShardId> {
        self.shards_of_units(|unit| unit.quiesced && unit.user.is_some())
    }

    /// Shards of which nothing at all may be sent, since their node cannot be told to refuse it.
    #[must_use]
    pub fn closed(&self) -> BTreeSet<ShardId> {
        self.shards_of_units(|unit| unit.quiesced && unit.user.is_none())
    }

    fn shards_of_units(&self, of_these: impl Fn(&Unit) -> bool) -> BTreeSet<ShardId> {
        let units = self.units.iter().filter(|unit| of_these(unit));
        units.flat_map(|unit| unit.shards.iter().copied()).collect()
    }

    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len() - self.retired.len()
    }

    /// All shards with their placements, in the order of their ids.
    pub fn placements_by_shard(&self) -> impl Iterator<Item = (ShardId, Placement)> {
        (0..=u16::MAX).map(ShardId).zip(self.placements.iter().copied())
    }

    /// The shards that live on a node, in the order of their ids.
    pub fn shards_on(&self, node: NodeIndex) -> impl Iterator<Item = ShardId> {
        self.placements_by_shard()
            .filter(move |(_, placement)| placement.node == node)
            .map(|(shard, _)| shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn nodes(count: u16) -> Vec<Node> {
        (1..=count)
            .map(|i| Node {
                name: format!("redis-{i}"),
                address: format!("127.0.0.1:{}", 7000 + i).parse().unwrap(),
            })
            .collect()
    }

    pub(super) fn topology(shards: u16, pinned: u16, count: u16) -> Topology {
        Topology::seed("c1".into(), shards, pinned, nodes(count)).unwrap()
    }

    #[test]
    fn every_slot_belongs_to_exactly_the_shard_that_lists_it() {
        for shards in [1, 2, 8, 1024, 4096] {
            let topology = topology(shards, 3, 2);
            let mut next = 0;
            for shard in 0..shards {
                let range = topology.slots_of(ShardId(shard)).unwrap();
                assert_eq!(*range.start(), next, "ranges join without a gap");
                for slot in range.clone() {
                    assert_eq!(topology.shard_of_slot(slot), ShardId(shard));
                }
                next = range.end() + 1;
            }
            assert_eq!(next, SLOTS);
            assert_eq!(
                topology.slots_of(ShardId(shards)),
                None,
                "a pinned shard has no slots of its own"
            );
        }
    }

    #[test]
    fn pinned_databases_follow_the_sharded_shards() {
        let topology = topology(8, 4, 2);
        assert_eq!(
            topology.pinned_shard(0),
            None,
            "database 0 is the sharded keyspace"
        );
        assert_eq!(topology.pinned_shard(1), Some(ShardId(8)));
        assert_eq!(topology.pinned_shard(4), Some(ShardId(11)));
        assert_eq!(topology.pinned_shard(5), None);
        assert_eq!(topology.pinned_db(ShardId(11)), Some(4));
        assert_eq!(topology.pinned_db(ShardId(7)), None);
        assert_eq!(topology.pinned_db(ShardId(12)), None);
        assert_eq!(topology.metadata_db(), DbIndex(12));
        assert_eq!(topology.databases_needed(), 13);
        assert!(topology.has_shard(ShardId(11)) && !topology.has_shard(ShardId(12)));
    }

    #[test]
    fn keys_with_one_tag_share_a_shard() {
        let topology = topology(1024, 15, 2);
        assert_eq!(topology.shard_of_key(b"{u1}:a"), topology.shard_of_key(b"{u1}:b"));
        assert_eq!(
            topology.shard_of_key(b"foo"),
            ShardId(12182 / 16),
            "slot 12182 as in Redis Cluster"
        );
    }

    #[test]
    fn nodes_are_found_by_name() {
        let topology = topology(8, 4, 3);
        assert_eq!(topology.node_named("redis-3"), Some(NodeIndex(2)));
        assert_eq!(topology.node_named("redis-4"), None);
        assert_eq!(topology.shards_on(NodeIndex(0)).count(), 3 + 2);
    }
}

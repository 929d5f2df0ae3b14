//! Where the keys of one selected database live: on all sharded shards, or on the one of a pinned database.

use std::ops::Range;

use crate::ids::ShardId;
use crate::topology::Topology;

/// The keyspace of a client's selected database.
#[derive(Clone, Copy, Debug)]
pub struct Keyspace<'a> {
    topology: &'a Topology,
    pinned: Option<ShardId>,
}

impl<'a> Keyspace<'a> {
    /// The keyspace of database `db`, which the topology has.
    #[must_use]
    pub const fn new(topology: &'a Topology, db: u16) -> Self {
        Self {
            topology,
            pinned: topology.pinned_shard(db),
        }
    }

    /// The shard of a key.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        self.pinned.unwrap_or_else(|| self.topology.shard_of_key(key))
    }

    /// All its shards.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = ShardId> + use<> {
        self.range().map(ShardId)
    }

    /// Whether a shard is one of its own.
    #[must_use]
    pub fn has(&self, shard: ShardId) -> bool {
        self.range().contains(&shard.0)
    }

    /// How many nodes there are: every [`Self::node_of`] is below it.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.topology.nodes.len()
    }

    /// The node that holds a shard now, as an index.
    #[must_use]
    pub fn node_of(&self, shard: ShardId) -> usize {
        self.topology.placement(shard).node.index()
    }

    fn range(&self) -> Range<u16> {
        match self.pinned {
            Some(shard) => shard.0..shard.0 + 1,
            None => 0..self.topology.shards,
        }
    }
}

//! What one child of a task of many moves takes along: shards of one source that go to one target.

use crate::ids::ShardId;
use crate::topology::Topology;

/// What one child moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) source: String,
    pub(super) target: String,
    pub(super) shards: Vec<ShardId>,
}

impl Chunk {
    /// The shards that its source still has; those that are on the target already are well.
    pub(super) fn still_to_move(&self, topology: &Topology) -> Result<Vec<ShardId>, String> {
        let there = topology.node_named(&self.target);
        let here = topology.node_named(&self.source);
        if there.is_none() {
            return Err(format!("there is no node '{}' any more", self.target));
        }
        let mut shards = Vec::new();
        for &shard in &self.shards {
            let node = topology.has_shard(shard).then(|| topology.placement(shard).node);
            if node.is_none() || (node != there && node != here) {
                return Err(format!(
                    "shard {shard} does not live on node '{}' any more",
                    self.source
                ));
            }
            if node == here {
                shards.push(shard);
            }
        }
        Ok(shards)
    }
}

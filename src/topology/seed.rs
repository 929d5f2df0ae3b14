//! The first placement, made once, when the store is empty.
//!
//! ```text
//!  nodes a, b, c   shards 0 ─── a ───┬─── b ───┬─── c ─── shards-1     pinned: a b c a b c …
//! ```
//!
//! Contiguous even ranges in the order of the config: neighbours in slot order stay on one node, as
//! Redis Cluster tools expect, and the map is short to print. Pinned databases go round in turn, because
//! whole databases differ in size much more than shards do. The database on the node is the shard's number,
//! the same on every node, so that a shard can later go anywhere.

use super::{Invalid, Node, Placement, Topology};
use crate::ids::{DbIndex, Epoch, NodeIndex};
use std::collections::{BTreeMap, BTreeSet};

/// The epoch of the first snapshot.
const FIRST: Epoch = Epoch(1);

impl Topology {
    /// Lays the shards out over `nodes`.
    ///
    /// # Errors
    /// Everything that [`Topology::validate`] finds, all at once.
    pub fn seed(
        cluster_id: String,
        shards: u16,
        pinned: u16,
        nodes: Vec<Node>,
    ) -> Result<Self, Vec<Invalid>> {
        let count = nodes.len();
        let mut topology = Self {
            cluster_id,
            epoch: FIRST,
            shards,
            pinned,
            nodes,
            retired: BTreeSet::new(),
            placements: Vec::new(),
            paused: BTreeSet::new(),
            access: BTreeMap::new(),
            units: Vec::new(),
        };
        topology.validate_layout()?;
        let sharded = usize::from(shards);
        topology.placements = (0..topology.total_shards())
            .map(|shard| {
                let at = usize::from(shard);
                let node = if at < sharded {
                    at * count / sharded
                } else {
                    (at - sharded) % count
                };
                Placement {
                    node: NodeIndex(u16::try_from(node).unwrap_or(u16::MAX)),
                    db: DbIndex(shard),
                }
            })
            .collect();
        topology.validate()?;
        Ok(topology)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{nodes, topology};
    use super::*;
    use crate::ids::ShardId;
    use proptest::prelude::*;

    #[test]
    fn two_nodes_take_half_each_and_pinned_databases_in_turn() {
        let topology = topology(1024, 3, 2);
        assert_eq!(topology.placement(ShardId(0)).node, NodeIndex(0));
        assert_eq!(topology.placement(ShardId(511)).node, NodeIndex(0));
        assert_eq!(topology.placement(ShardId(512)).node, NodeIndex(1));
        assert_eq!(topology.placement(ShardId(1023)).node, NodeIndex(1));
        let pinned: Vec<u16> = (1024..1027)
            .map(|shard| topology.placement(ShardId(shard)).node.0)
            .collect();
        assert_eq!(pinned, [0, 1, 0]);
        assert_eq!(topology.epoch, Epoch(1));
    }

    #[test]
    fn all_mistakes_of_a_seed_are_told_at_once() {
        let mut same = nodes(1);
        same.push(same[0].clone());
        let mistakes = Topology::seed(String::new(), 3, 15, same).unwrap_err();
        assert_eq!(
            mistakes.len(),
            4,
            "cluster id, shards, name, address: {mistakes:?}"
        );
        assert!(Topology::seed("c".into(), 8, 0, Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn a_seed_is_even_contiguous_and_valid(power in 0_u32..=12, pinned in 0_u16..40, count in 1_u16..40) {
            let topology = topology(1 << power, pinned, count);
            prop_assert_eq!(topology.validate(), Ok(()));
            let mut sizes = vec![0_u32; usize::from(count)];
            let mut last = NodeIndex(0);
            for (shard, placement) in topology.placements_by_shard() {
                prop_assert_eq!(placement.db, DbIndex(shard.0));
                if shard.0 < topology.shards {
                    prop_assert!(placement.node >= last, "ranges are contiguous");
                    last = placement.node;
                    sizes[placement.node.index()] += 1;
                }
            }
            let (low, high) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            prop_assert!(high - low <= 1, "{:?}", sizes);
        }
    }
}

//! Two topologies of one cluster: would keys be looked for where they are not?
//!
//! Keys stay where they are when a topology is put in force by hand, so a shard that lives elsewhere in the new one looks empty there.

use super::{Node, Topology};
use crate::ids::{NodeIndex, ShardId};

/// Shards that are named in a sentence.
const NAMED_MAX: usize = 4;

impl Topology {
    /// Shards that live on another node, at another address or in another database than in `before`.
    #[must_use]
    pub fn placed_elsewhere(&self, before: &Self) -> Vec<ShardId> {
        let shards = self.placements_by_shard().map(|(shard, _)| shard);
        shards
            .filter(|&shard| !before.has_shard(shard) || self.home(shard) != before.home(shard))
            .collect()
    }

    /// The same as a sentence; none if every shard stays.
    #[must_use]
    pub fn tell_placed_elsewhere(&self, before: &Self) -> Option<String> {
        let shards = self.placed_elsewhere(before);
        let named: Vec<String> = shards
            .iter()
            .take(NAMED_MAX)
            .map(|&shard| {
                let from = if before.has_shard(shard) {
                    before.home(shard)
                } else {
                    "nowhere".to_owned()
                };
                format!("shard {shard}: {from} -> {}", self.home(shard))
            })
            .collect();
        let more = if shards.len() > NAMED_MAX { ", ..." } else { "" };
        (!shards.is_empty()).then(|| {
            format!(
                "it places {} of {} shards elsewhere than now ({}{more}), and keys do not move with it: they would seem lost",
                shards.len(),
                self.total_shards(),
                named.join(", ")
            )
        })
    }

    /// Why `self` may not follow `before` whatever an operator says: what is fixed for the life of a cluster.
    #[must_use]
    pub fn tell_other_cluster(&self, before: &Self) -> Option<String> {
        if self.cluster_id != before.cluster_id {
            return Some(format!(
                "it is of cluster '{}', this one is '{}'",
                self.cluster_id, before.cluster_id
            ));
        }
        let layout = |topology: &Self| (topology.shards, topology.pinned);
        (layout(self) != layout(before)).then(|| {
            format!(
                "it has {} shards and {} pinned databases, this cluster has {} and {}: both are fixed for its life",
                self.shards, self.pinned, before.shards, before.pinned
            )
        })
    }

    /// With the logins that `now` has: those of a saved topology may have been taken away since. A node that is not there, or
    /// elsewhere, has none until its users are made.
    #[must_use]
    pub fn with_logins_of(mut self, now: &Self) -> Self {
        let login = |(node, described): (NodeIndex, &Node)| {
            let there = now.node_named(&described.name)?;
            let is_same = now.node(there).address == described.address;
            let access = now.access.get(&there).filter(|_| is_same)?;
            Some((node, access.clone()))
        };
        self.access = self.nodes_by_index().filter_map(login).collect();
        self
    }

    fn home(&self, shard: ShardId) -> String {
        let placement = self.placement(shard);
        let node = self.node(placement.node);
        format!("{} ({}) db {}", node.name, node.address, placement.db)
    }
}

#[cfg(test)]
mod tests {
    use super::super::NodeAccess;
    use super::super::tests::topology;
    use super::*;
    use crate::ids::{DbIndex, Epoch};

    #[test]
    fn equal_placements_are_no_difference_whatever_the_order_of_nodes() {
        let before = topology(8, 4, 2);
        let mut after = before.clone();
        after.epoch = Epoch(9);
        after.nodes.reverse();
        for placement in &mut after.placements {
            placement.node = NodeIndex(1 - placement.node.0);
        }
        assert_eq!(after.placed_elsewhere(&before), []);
        assert_eq!(after.tell_placed_elsewhere(&before), None);
    }

    #[test]
    fn another_node_database_or_address_is_told() {
        let before = topology(8, 4, 2);
        let mut moved = before.clone();
        moved.placements[3].node = NodeIndex(1);
        moved.placements[5].db = DbIndex(13);
        assert_eq!(moved.placed_elsewhere(&before), [ShardId(3), ShardId(5)]);
        let told = moved.tell_placed_elsewhere(&before).unwrap();
        assert!(
            told.starts_with(
                "it places 2 of 12 shards elsewhere than now (shard 3: redis-1 (127.0.0.1:7001) db 3 -> \
                 redis-2 (127.0.0.1:7002) db 3, shard 5:"
            ),
            "{told}"
        );
        let mut readdressed = before.clone();
        readdressed.nodes[0].address = "127.0.0.1:7009".parse().unwrap();
        assert_eq!(readdressed.placed_elsewhere(&before).len(), 6);
        let told = readdressed.tell_placed_elsewhere(&before).unwrap();
        assert!(told.contains(", ...)"), "{told}");
    }

    #[test]
    fn logins_are_those_of_now() {
        let access = |user: &str| NodeAccess {
            user: user.to_owned(),
            run_id: "r".to_owned(),
        };
        let mut saved = topology(8, 4, 3);
        saved.access.insert(NodeIndex(0), access("ps-g1"));
        saved.access.insert(NodeIndex(1), access("ps-g1"));
        let mut now = topology(8, 4, 2);
        now.nodes.reverse();
        now.access.insert(NodeIndex(1), access("ps-g7"));
        now.access.insert(NodeIndex(0), access("ps-g8"));
        now.nodes[0].address = "127.0.0.1:7009".parse().unwrap();
        let loaded = saved.with_logins_of(&now);
        assert_eq!(loaded.access.get(&NodeIndex(0)), Some(&access("ps-g7")));
        assert_eq!(loaded.access.len(), 1, "another server has other users");
    }

    #[test]
    fn what_is_fixed_for_life_is_told() {
        let before = topology(8, 4, 2);
        assert_eq!(topology(8, 4, 3).tell_other_cluster(&before), None);
        assert!(topology(16, 4, 2).tell_other_cluster(&before).is_some());
        let mut other = before.clone();
        other.cluster_id = "c2".into();
        assert_eq!(
            other.tell_other_cluster(&before).unwrap(),
            "it is of cluster 'c2', this one is 'c1'"
        );
    }
}

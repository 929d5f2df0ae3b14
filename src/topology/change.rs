//! The next topology out of the one in force, and how a process numbers the nodes of one after the other.
//!
//! ```text
//!  in force ──with_node · without_node · with_address · with_paused · …──▶ the next (epoch + 1), checked whole
//!
//!  loaded elsewhere, nodes in any order ──succeed(the one in force)──▶ the same, its nodes at the positions that
//!                                                                      this process knows; who left keeps its own
//! ```
//!
//! Workers have tables by [`NodeIndex`], and requests under way that name one. So a position is
//! never given to another node while the process runs.

use super::{Address, Invalid, Node, NodeAccess, Topology, Unit};
use crate::ids::{Epoch, NodeIndex, ShardId};

/// Why a change cannot be made. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no node of this name.
    #[error("there is no node '{0}'")]
    UnknownNode(String),
    /// The node still has shards.
    #[error("node '{node}' has {shards} shards; move them to other nodes first")]
    HasShards {
        /// Its name.
        node: String,
        /// How many.
        shards: usize,
    },
    /// A shard of this number does not exist.
    #[error("there is no shard {0}")]
    UnknownShard(ShardId),
    /// The result would not be valid.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Invalid>),
}

/// Why a topology cannot follow the one that is served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// It is of another cluster.
    #[error("it belongs to cluster '{found}', this one is '{expected}'")]
    OtherCluster {
        /// Its cluster.
        found: String,
        /// The cluster that is served.
        expected: String,
    },
    /// It is not newer.
    #[error("its epoch {found} is not higher than {served}, which is served")]
    NotNewer {
        /// Its epoch.
        found: Epoch,
        /// The epoch that is served.
        served: Epoch,
    },
    /// The keyspace would be cut otherwise: keys would be looked for where they are not.
    #[error(
        "it has {found} shards and pinned databases, this cluster has {expected}; they are fixed for its life"
    )]
    OtherLayout {
        /// `shards + pinned` as it says.
        found: String,
        /// As it is.
        expected: String,
    },
    /// A shard would have another database number: what was subscribed to names the old one.
    #[error("shard {0} would be in another database; stop all proxies and start them with this topology")]
    OtherDatabase(ShardId),
    /// More nodes have come and gone than positions can tell apart.
    #[error("too many nodes have been added and removed since this proxy was started; restart it")]
    Positions,
    /// It is not valid in itself.
    #[error("{0}")]
    Invalid(ChangeError),
}

// === impl Topology ===

impl Topology {
    /// With one more node, which has no shards.
    ///
    /// # Errors
    /// Its name or address is taken or cannot be one, or there are too many.
    pub fn with_node(&self, name: &str, address: Address) -> Result<Self, ChangeError> {
        self.changed(|next| {
            next.nodes.push(Node {
                name: name.to_owned(),
                address,
            });
            Ok(())
        })
    }

    /// Without a node that has no shards.
    ///
    /// # Errors
    /// There is no such node, it has shards, or it is the last one.
    pub fn without_node(&self, name: &str) -> Result<Self, ChangeError> {
        let node = self.position_of(name)?;
        let shards = self.shards_on(node).count();
        if shards > 0 {
            let node = name.to_owned();
            return Err(ChangeError::HasShards { node, shards });
        }
        self.changed(|next| {
            next.retired.insert(node);
            next.access.remove(&node);
            Ok(())
        })
    }

    /// With another address for a node: another server has taken its place, or the same one has moved.
    ///
    /// # Errors
    /// There is no such node, or the address cannot be its.
    pub fn with_address(&self, name: &str, address: Address) -> Result<Self, ChangeError> {
        let node = self.position_of(name)?;
        self.changed(|next| {
            next.nodes[node.index()].address = address;
            Ok(())
        })
    }

    /// With these shards held, or not held any more.
    ///
    /// # Errors
    /// There is no such shard.
    pub fn with_paused(&self, shards: &[ShardId], paused: bool) -> Result<Self, ChangeError> {
        self.changed(|next| {
            for &shard in shards {
                if !next.has_shard(shard) {
                    return Err(ChangeError::UnknownShard(shard));
                }
                if paused {
                    next.paused.insert(shard);
                } else {
                    next.paused.remove(&shard);
                }
            }
            Ok(())
        })
    }

    /// With other logins for nodes, by name; none: as the config says.
    ///
    /// # Errors
    /// There is no such node, or the login cannot be one.
    pub fn with_access(&self, logins: &[(String, Option<NodeAccess>)]) -> Result<Self, ChangeError> {
        self.changed(|next| {
            for (name, access) in logins {
                let node = next.position_of(name)?;
                match access {
                    Some(access) => next.access.insert(node, access.clone()),
                    None => next.access.remove(&node),
                };
            }
            Ok(())
        })
    }

    /// With one more unit.
    ///
    /// # Errors
    /// Its shards are not one node's, or are moved already.
    pub fn with_unit(&self, unit: Unit) -> Result<Self, ChangeError> {
        self.changed(|next| {
            next.units.push(unit);
            Ok(())
        })
    }

    /// A copy with the next epoch, changed and checked whole.
    ///
    /// # Errors
    /// `change` says no, or the result is not valid.
    pub fn changed(
        &self,
        change: impl FnOnce(&mut Self) -> Result<(), ChangeError>,
    ) -> Result<Self, ChangeError> {
        let mut next = self.clone();
        next.epoch = Epoch(self.epoch.0 + 1);
        change(&mut next)?;
        next.validate().map_err(ChangeError::Invalid)?;
        Ok(next)
    }

    /// The same topology with its nodes at the positions that `served` gives them.
    ///
    /// # Errors
    /// It may not be served after `served` by a process that goes on.
    pub fn succeed(mut self, served: &Self) -> Result<Self, SuccessionError> {
        self.check_succession(served)?;
        let mut nodes = served.nodes.clone();
        let mut stay = vec![false; nodes.len()];
        let mut positions = Vec::with_capacity(self.nodes.len());
        for (at, node) in (0..=u16::MAX).map(NodeIndex).zip(&self.nodes) {
            let known = served.node_named(&node.name);
            let position = match known {
                Some(known) => known,
                None => {
                    let next = u16::try_from(nodes.len()).map_err(|_| SuccessionError::Positions)?;
                    nodes.push(node.clone());
                    stay.push(false);
                    NodeIndex(next)
                }
            };
            if !self.retired.contains(&at) {
                stay[position.index()] = true;
                nodes[position.index()].address = node.address.clone();
            }
            positions.push(position);
        }
        for placement in &mut self.placements {
            placement.node = positions[placement.node.index()];
        }
        let access = std::mem::take(&mut self.access).into_iter();
        self.access = access
            .filter_map(|(node, access)| Some((*positions.get(node.index())?, access)))
            .collect();
        self.nodes = nodes;
        let gone = (0..=u16::MAX).map(NodeIndex).zip(stay);
        self.retired = gone.filter(|(_, stays)| !stays).map(|(node, _)| node).collect();
        Ok(self)
    }

    fn check_succession(&self, served: &Self) -> Result<(), SuccessionError> {
        self.validate()
            .map_err(|found| SuccessionError::Invalid(ChangeError::Invalid(found)))?;
        if self.cluster_id != served.cluster_id {
            return Err(SuccessionError::OtherCluster {
                found: self.cluster_id.clone(),
                expected: served.cluster_id.clone(),
            });
        }
        if self.epoch <= served.epoch {
            return Err(SuccessionError::NotNewer {
                found: self.epoch,
                served: served.epoch,
            });
        }
        if (self.shards, self.pinned) != (served.shards, served.pinned) {
            let layout = |topology: &Self| format!("{} + {}", topology.shards, topology.pinned);
            return Err(SuccessionError::OtherLayout {
                found: layout(self),
                expected: layout(served),
            });
        }
        let mut pairs = self.placements_by_shard().zip(&served.placements);
        match pairs.find(|((_, next), now)| next.db != now.db) {
            Some(((shard, _), _)) => Err(SuccessionError::OtherDatabase(shard)),
            None => Ok(()),
        }
    }

    fn position_of(&self, name: &str) -> Result<NodeIndex, ChangeError> {
        self.node_named(name)
            .ok_or_else(|| ChangeError::UnknownNode(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::topology;
    use super::*;
    use crate::ids::DbIndex;
    use std::collections::BTreeMap;

    fn address(port: u16) -> Address {
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    #[test]
    fn a_node_comes_and_goes() {
        let first = topology(8, 4, 2);
        let more = first.with_node("redis-3", address(7003)).unwrap();
        assert_eq!((more.epoch, more.node_count()), (Epoch(2), 3));
        let fewer = more.without_node("redis-3").unwrap();
        assert_eq!((fewer.epoch, fewer.node_count()), (Epoch(3), 2));
        assert_eq!(fewer.node_named("redis-3"), None);
        let text = |topology: &Topology, epoch: u64| {
            let epoch = Epoch(epoch);
            Topology {
                epoch,
                ..topology.clone()
            }
            .encode()
        };
        assert_eq!(
            text(&fewer, 1),
            text(&first, 1),
            "who left does not appear in the document"
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let first = topology(8, 4, 2);
        assert_eq!(
            first.without_node("redis-1").unwrap_err().to_string(),
            "node 'redis-1' has 6 shards; move them to other nodes first"
        );
        assert_eq!(
            first.without_node("x").unwrap_err().to_string(),
            "there is no node 'x'"
        );
        for (name, port) in [("redis-1", 7009), ("redis-3", 7001), ("no good", 7009)] {
            let refused = first.with_node(name, address(port)).unwrap_err();
            assert!(matches!(refused, ChangeError::Invalid(_)), "{refused}");
        }
        assert!(first.with_address("redis-1", address(7002)).is_err());
        assert_eq!(
            first.with_paused(&[ShardId(12)], true).unwrap_err(),
            ChangeError::UnknownShard(ShardId(12))
        );
    }

    #[test]
    fn paused_shards_are_part_of_the_document() {
        let paused = topology(8, 4, 2)
            .with_paused(&[ShardId(7), ShardId(2), ShardId(3)], true)
            .unwrap();
        assert!(
            paused.encode().contains(r#""paused": "2-3,7""#),
            "{}",
            paused.encode()
        );
        assert_eq!(Topology::decode(paused.encode().as_bytes()).unwrap(), paused);
        let resumed = paused
            .with_paused(&[ShardId(2), ShardId(3), ShardId(7)], false)
            .unwrap();
        assert!(!resumed.encode().contains("paused"));
    }

    #[test]
    fn logins_are_part_of_the_document_and_follow_their_node() {
        let access = |user: &str| NodeAccess {
            user: user.to_owned(),
            run_id: "5a9f".to_owned(),
        };
        let first = topology(8, 4, 2);
        let next = first
            .with_access(&[("redis-2".to_owned(), Some(access("ps-g1")))])
            .unwrap();
        assert_eq!(
            (next.user_of(ShardId(0)), next.user_of(ShardId(7))),
            (None, Some("ps-g1"))
        );
        let is_run = |node, run_id| next.is_run(NodeIndex(node), run_id);
        assert!(is_run(1, "5a9f") && !is_run(1, "5a9e") && !is_run(0, "5a9f"));
        assert_eq!(Topology::decode(next.encode().as_bytes()).unwrap(), next);
        let served = first.with_node("redis-0", address(7000)).unwrap();
        let mut turned = Topology::decode(next.encode().as_bytes()).unwrap();
        turned.nodes.swap(0, 1);
        turned.access = BTreeMap::from([(NodeIndex(0), access("ps-g1"))]);
        turned
            .placements
            .iter_mut()
            .for_each(|placement| placement.node.0 = 1 - placement.node.0);
        turned.epoch = Epoch(9);
        assert_eq!(
            turned.succeed(&served).unwrap().user_of(ShardId(7)),
            Some("ps-g1")
        );
        assert!(
            first
                .with_access(&[("redis-2".to_owned(), Some(access("no good")))])
                .is_err()
        );
        let half = next.encode().replace(r#""run_id": "5a9f""#, r#""run": 1"#);
        assert!(Topology::decode(half.as_bytes()).is_err());
    }

    #[test]
    fn a_unit_without_a_user_is_part_of_the_document_and_closes_its_shards() {
        let unit = |user: Option<&str>| Unit {
            task: "m1".to_owned(),
            shards: [ShardId(0), ShardId(1)].into(),
            user: user.map(str::to_owned),
            quiesced: true,
        };
        let first = topology(8, 4, 2);
        assert!(
            first.with_unit(unit(Some("ps-u-m1"))).is_err(),
            "its node has no users"
        );
        let next = first.with_unit(unit(None)).unwrap();
        assert_eq!(Topology::decode(next.encode().as_bytes()).unwrap(), next);
        assert_eq!(
            next.closed().into_iter().collect::<Vec<_>>(),
            [ShardId(0), ShardId(1)]
        );
        assert!(next.quiesced().is_empty() && next.user_of(ShardId(0)).is_none());
    }

    /// A position means the same node as long as a process runs, whatever the documents say.
    #[test]
    fn positions_stay() {
        let served = topology(8, 4, 3).without_node_for_test("redis-2");
        let mut next = Topology::decode(served.encode().as_bytes()).unwrap();
        assert_eq!(
            next.node_named("redis-3"),
            Some(NodeIndex(1)),
            "in the document it is the second"
        );
        next = next.with_node("redis-2", address(7012)).unwrap();
        let next = next.succeed(&served).unwrap();
        assert_eq!(next.node_named("redis-1"), Some(NodeIndex(0)));
        assert_eq!(next.node_named("redis-3"), Some(NodeIndex(2)));
        assert_eq!(
            next.node_named("redis-2"),
            Some(NodeIndex(3)),
            "who comes back is somebody else"
        );
        assert_eq!(next.retired.iter().copied().collect::<Vec<_>>(), [NodeIndex(1)]);
        for (shard, placement) in next.placements_by_shard() {
            assert_eq!(placement, served.placement(shard));
        }
        next.validate().unwrap();
    }

    #[test]
    fn only_a_newer_topology_of_the_same_layout_follows() {
        let served = topology(8, 4, 2);
        let next = |change: &dyn Fn(&mut Topology)| {
            let mut next = served.clone();
            next.epoch = Epoch(2);
            change(&mut next);
            next.succeed(&served)
        };
        assert!(next(&|_| ()).is_ok());
        assert!(matches!(
            next(&|next| next.epoch = Epoch(1)),
            Err(SuccessionError::NotNewer { .. })
        ));
        assert!(matches!(
            next(&|next| next.cluster_id = "c2".into()),
            Err(SuccessionError::OtherCluster { .. })
        ));
        assert_eq!(
            next(&|next| next.placements[3].db = DbIndex(40)),
            Err(SuccessionError::OtherDatabase(ShardId(3)))
        );
        let mut other = topology(16, 4, 2);
        other.epoch = Epoch(2);
        assert!(matches!(
            other.succeed(&served),
            Err(SuccessionError::OtherLayout { .. })
        ));
    }

    impl Topology {
        /// Moves a node's shards to the first one and removes it.
        fn without_node_for_test(&self, name: &str) -> Self {
            let node = self.node_named(name).unwrap();
            let moved = self.changed(|next| {
                for placement in &mut next.placements {
                    if placement.node == node {
                        placement.node = NodeIndex(0);
                    }
                }
                Ok(())
            });
            moved.unwrap().without_node(name).unwrap()
        }
    }
}

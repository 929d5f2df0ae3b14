//! What the commit of a move says, made from what is stored at that moment, if all that the freeze relied on still stands.
//!
//! ```text
//!  stored topology ─▶ the source is the process that was frozen? ─▶ the unit is there, and quiesced? ─▶ its shards live on the source?
//!                  ─▶ the target is the server that has the copy? ─▶ its shards on the target, no unit
//! ```

use std::collections::BTreeSet;

use super::holder::Holder;
use crate::control::{Mistake, makes};
use crate::ids::ShardId;
use crate::topology::Topology;

/// A move that is about to be committed.
pub(super) struct Commit<'a> {
    /// The task, whose unit the shards are.
    pub(super) task: &'a str,
    pub(super) shards: &'a BTreeSet<ShardId>,
    pub(super) source: &'a str,
    pub(super) target: &'a str,
    /// The source's process that was copied, if it was told to refuse.
    pub(super) run_id: Option<&'a str>,
    /// What was copied to.
    pub(super) holder: &'a Holder,
}

/// Whether shards live on a node. They live on none that has left.
pub(super) fn live_on(topology: &Topology, shards: &BTreeSet<ShardId>, name: &str) -> bool {
    let node = topology.node_named(name);
    let mut shards = shards.iter();
    shards.all(|&shard| Some(topology.placement(shard).node) == node)
}

impl Commit<'_> {
    /// The topology behind it, or why there must not be one.
    pub(super) fn of(&self, topology: &Topology) -> Result<Topology, String> {
        let source = topology.node_named(self.source).ok_or("the source has left")?;
        // Another process has its users from a file, where the frozen one may have all its rights; and proxies use that process as soon
        // as the topology names it.
        let is_other = self.run_id.is_some_and(|run_id| !topology.is_run(source, run_id));
        if is_other && !makes(Mistake::IgnoresRun) {
            return Err(format!(
                "node '{}' has been started anew since it was copied; nothing has moved",
                self.source
            ));
        }
        // Somebody may have put another topology in force, by which proxies send to the source.
        let mut units = topology.units.iter();
        if !units.any(|unit| unit.task == self.task && unit.quiesced) {
            return Err("its shards were let go meanwhile; nothing has moved".to_owned());
        }
        let mut shards = self.shards.iter();
        if let Some(shard) = shards.find(|&&shard| topology.placement(shard).node != source) {
            return Err(format!(
                "shard {shard} does not live on node '{}' any more; nothing has moved",
                self.source
            ));
        }
        let target = topology.node_named(self.target).ok_or("the target has left")?;
        self.holder.check(topology, self.target)?;
        let next = topology.changed(|next| {
            next.units.retain(|unit| unit.task != self.task);
            for shard in self.shards {
                next.placements[shard.index()].node = target;
            }
            Ok(())
        });
        next.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeIndex;
    use crate::topology::{Node, NodeAccess, Unit};

    const SHARDS: [ShardId; 2] = [ShardId(0), ShardId(1)];

    /// The two first shards are a unit that is quiesced at the source, which has another one beside it.
    fn frozen() -> Topology {
        let node = |name: &str, port: u16| Node {
            name: name.to_owned(),
            address: format!("127.0.0.1:{port}").parse().unwrap(),
        };
        let mut topology =
            Topology::seed("test".to_owned(), 8, 0, vec![node("a", 7001), node("b", 7002)]).unwrap();
        for node in [0, 1] {
            let access = NodeAccess {
                user: "ps-g2".to_owned(),
                run_id: format!("run-{node}"),
            };
            topology.access.insert(NodeIndex(node), access);
        }
        topology.units = vec![unit("m1", &SHARDS, true), unit("m2", &[ShardId(2)], true)];
        topology
    }

    fn unit(task: &str, shards: &[ShardId], quiesced: bool) -> Unit {
        Unit {
            task: task.to_owned(),
            shards: shards.iter().copied().collect(),
            user: Some(format!("ps-u-{task}")),
            quiesced,
        }
    }

    fn commit(topology: &Topology, run_id: Option<&str>) -> Result<Topology, String> {
        let holder = Holder {
            address: "127.0.0.1:7002".parse().unwrap(),
            run_id: "run-1".to_owned(),
        };
        let commit = Commit {
            task: "m1",
            shards: &SHARDS.into(),
            source: "a",
            target: "b",
            run_id,
            holder: &holder,
        };
        commit.of(topology)
    }

    #[test]
    fn the_shards_live_on_the_target_and_are_no_unit_any_more() {
        let before = frozen();
        for run_id in [Some("run-0"), None] {
            let after = commit(&before, run_id).unwrap();
            let expected = before.changed(|next| {
                next.units.remove(0);
                next.placements[0].node = NodeIndex(1);
                next.placements[1].node = NodeIndex(1);
                Ok(())
            });
            assert_eq!(after, expected.unwrap());
        }
    }

    /// By each of these topologies proxies may send to the source, as a user that nobody has frozen.
    #[test]
    fn shards_that_were_let_go_after_the_freeze_are_not_committed() {
        type Change = fn(&mut Topology);
        let changes: [(&str, Change); 3] = [
            ("its unit was released", |next| {
                next.units.retain(|unit| unit.task != "m1");
            }),
            ("another attempt has begun", |next| {
                next.units[0] = unit("m1", &SHARDS, false);
            }),
            ("another task has them", |next| {
                next.units[0] = unit("m3", &SHARDS, true);
            }),
        ];
        for (what, change) in changes {
            let mut topology = frozen();
            change(&mut topology);
            let why = commit(&topology, Some("run-0")).expect_err(what);
            assert_eq!(
                why, "its shards were let go meanwhile; nothing has moved",
                "{what}"
            );
        }
    }

    /// The copy is on none of these.
    #[test]
    fn another_server_of_the_target_gets_no_shards() {
        let elsewhere = |next: &mut Topology| next.nodes[1].address = "127.0.0.1:7003".parse().unwrap();
        let mut moved = frozen();
        elsewhere(&mut moved);
        let why = commit(&moved, Some("run-0")).unwrap_err();
        assert_eq!(
            why,
            "node 'b' is at 127.0.0.1:7003 now, and the copy at 127.0.0.1:7002; nothing has moved"
        );
        let mut open = moved.clone();
        open.access.clear();
        assert_eq!(commit(&open, None).unwrap_err(), why, "without users as well");
        let mut anew = frozen();
        for access in anew.access.values_mut().skip(1) {
            "run-8".clone_into(&mut access.run_id);
        }
        let why = commit(&anew, Some("run-0")).unwrap_err();
        assert!(why.contains("not the process that was copied to"), "{why}");
        let mut left = frozen();
        left.retired.insert(NodeIndex(1));
        assert_eq!(commit(&left, Some("run-0")).unwrap_err(), "the target has left");
    }

    /// Whoever asks whether shards have moved is told, also when the node they were to go to has left: they are released then.
    #[test]
    fn shards_have_not_moved_to_a_node_that_has_left() {
        let shards = SHARDS.into();
        let mut topology = frozen();
        assert!(live_on(&topology, &shards, "a") && !live_on(&topology, &shards, "b"));
        topology.retired.insert(NodeIndex(1));
        assert!(live_on(&topology, &shards, "a") && !live_on(&topology, &shards, "b"));
        topology.placements[1].node = NodeIndex(1);
        assert!(!live_on(&topology, &shards, "a") && !live_on(&topology, &shards, "b"));
    }

    #[test]
    fn shards_that_live_elsewhere_by_now_are_not_taken_from_there() {
        let mut topology = frozen();
        topology.placements[1].node = NodeIndex(1);
        let why = commit(&topology, Some("run-0")).unwrap_err();
        assert_eq!(
            why,
            "shard 1 does not live on node 'a' any more; nothing has moved"
        );
    }

    #[test]
    fn another_process_of_the_source_is_not_the_one_that_was_frozen() {
        let why = commit(&frozen(), Some("run-9")).unwrap_err();
        assert!(why.contains("started anew"), "{why}");
    }
}

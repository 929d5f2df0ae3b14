//! What moves have left on nodes: which databases that is, and how it goes.
//!
//! A database that holds a copy is noted on its node with the task that it is of, before anything is written there. Nothing is
//! cleared that is not noted, and nothing that the topology says clients have.

use std::collections::{BTreeMap, BTreeSet};

use super::Journal;
use super::arrow::reached;
use super::cutover::Failure;
use super::drive::Driven;
use crate::control::NodeClient;
use crate::control::fence::{Words, words};
use crate::ids::{DbIndex, NodeIndex};
use crate::topology::Topology;

/// Keys of the metadata database: which databases hold copies that preshard has made or left, by task.
pub(super) const COPIES_KEY: &str = "preshard:copies";

impl Driven<'_> {
    /// Commands that empty databases and note that nothing of ours is in them.
    pub(super) fn clearing(&self, dbs: &[DbIndex]) -> Vec<Words> {
        let mut commands = Vec::new();
        for db in dbs {
            commands.push(words(["SELECT", &db.to_string()]));
            commands.push(words(["FLUSHDB", "ASYNC"]));
        }
        commands.push(words(["SELECT", &self.metadata().to_string()]));
        let noted = dbs.iter().map(|db| words(["HDEL", COPIES_KEY, &db.to_string()]));
        commands.extend(noted);
        commands
    }

    /// The databases of this move on a node that hold a copy of ours, and of which task it is.
    pub(super) async fn our_copies(
        &self,
        client: &mut NodeClient,
    ) -> Result<BTreeMap<DbIndex, String>, Failure> {
        client.ask(&["SELECT", &self.metadata().to_string()]).await?;
        let mut ours = BTreeMap::new();
        for db in self.dbs() {
            let task = client.ask(&["HGET", COPIES_KEY, &db.to_string()]).await?;
            let task = task.as_bytes().map(String::from_utf8_lossy);
            ours.extend(task.map(|task| (db, task.into_owned())));
        }
        Ok(ours)
    }

    /// Those of this move. What was not noted as this move's is somebody else's.
    pub(super) async fn own_copies(&self, client: &mut NodeClient) -> Result<Vec<DbIndex>, Failure> {
        let ours = self.our_copies(client).await?;
        let own = ours.into_iter().filter(|(_, task)| *task == self.id);
        Ok(own.map(|(db, _)| db).collect())
    }

    /// `HSET` or `HDEL` of the databases among those that hold copies.
    pub(super) fn copies(&self, verb: &str, value: Option<&str>) -> Words {
        let mut command = words([verb, COPIES_KEY]);
        for db in self.dbs() {
            command.push(db.to_string().into_bytes());
            command.extend(value.map(|value| value.as_bytes().to_vec()));
        }
        command
    }

    /// The databases of this move whose shards live on a node, or do not.
    fn dbs_of(&self, topology: &Topology, node: NodeIndex, live_there: bool) -> Vec<DbIndex> {
        let placements = self.shards.iter().map(|&shard| topology.placement(shard));
        let wanted = placements.filter(|placement| (placement.node == node) == live_there);
        wanted.map(|placement| placement.db).collect()
    }

    /// Takes away what this move has left on its source, where the topology says that shards live elsewhere, and whoever writes
    /// to either side for it.
    pub(super) async fn clear_left(&self) -> Result<(), Failure> {
        reached("finalizing").await;
        let topology = self.stored().await?;
        self.clear_node(&topology, &self.source, true).await?;
        // Nothing depends on this.
        if let Err(error) = self.clear_node(&topology, &self.target, false).await {
            tracing::info!(event = "move_not_tidied", task = self.id, %error);
        }
        reached("finalized").await;
        Ok(())
    }

    async fn clear_node(&self, topology: &Topology, name: &str, copies_too: bool) -> Result<(), Failure> {
        let Some(node) = topology.node_named(name) else {
            // It has left, with whatever it has.
            return Ok(());
        };
        let mut client = self.client(name).await?;
        let own = BTreeSet::from([self.id.clone()]);
        let mut commands = self.appliers_gone(&mut client, &own).await?;
        if copies_too {
            let left = self.dbs_of(topology, node, false);
            // A leader that has died at the commit may not have noted what it had left.
            let noted = left
                .iter()
                .map(|db| words(["HSETNX", COPIES_KEY, &db.to_string(), &self.id]));
            self.act(&mut client, &noted.collect::<Vec<_>>()).await?;
            let mut own = self.own_copies(&mut client).await?;
            own.retain(|db| left.contains(db));
            commands.extend(self.clearing(&own));
        }
        commands.push(words(["SELECT", &self.metadata().to_string()]));
        let served = self.dbs_of(topology, node, true);
        commands.extend(
            served
                .iter()
                .map(|db| words(["HDEL", COPIES_KEY, &db.to_string()])),
        );
        commands.push(Journal::of(&self.id).forget());
        self.act(&mut client, &commands).await?;
        Ok(())
    }
}

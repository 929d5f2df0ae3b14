//! Before a move is ordered: can these nodes do it? Everything that speaks against it is said at once, with what to do.
//!
//! ```text
//!  source ─▶ Look ─┐
//!                  ├─▶ judge ─▶ Survey { refusals, warnings, rollback, keys, bytes, seconds }
//!  target ─▶ Look ─┘     (pure)
//! ```
//!
//! What is refused would fail later, or cost somebody's data. What is warned of stays in the task's record. Sizes and times are
//! estimates; the memory that the source's fork needs is one too, since no server tells how much of its machine is free.

mod judge;
mod look;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::judge::{Terms, judge};
use self::look::Look;
use super::cooperative::can_cooperate;
use super::mover::{MoveOrder, Mover};
use super::task::Fence;
use crate::config::CopyMethod;
use crate::control::{ShardKeys, sample_memory};
use crate::ids::{DbIndex, NodeIndex, ShardId};
use crate::topology::Topology;
use crate::topology::codec::ranges;

/// What would come of a move from one node to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The node that has the shards.
    pub source: String,
    /// The node that is to have them.
    pub target: String,
    /// The shards, as a list such as `0-63`.
    pub shards: String,
    /// Keys in them.
    pub keys: u64,
    /// About how much memory they take.
    pub bytes: u64,
    /// About how long the copy takes.
    pub seconds: u64,
    /// Nodes without users of preshard's.
    pub cooperative: Vec<String>,
    /// Why the target's writes may be impossible to bring back to the source; none: they can be.
    pub no_rollback: Option<String>,
    /// Why it cannot be done, each with what to do.
    pub refusals: Vec<String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Shards by the node that has them.
pub(super) type Sources = BTreeMap<NodeIndex, Vec<ShardId>>;

impl Survey {
    /// What keeps those away who must not write.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence::of(self.cooperative.is_empty())
    }
}

impl Mover {
    /// What would come of an order. Nothing is ordered.
    ///
    /// # Errors
    /// It makes no sense.
    pub async fn survey(&self, order: &MoveOrder) -> Result<Vec<Survey>, String> {
        let topology = self.topology();
        let (target, sources) = super::mover::sources_of(&topology, order)?;
        self.check_free(&topology, &order.shards, &[&order.target])
            .await?;
        Ok(self
            .surveys(&topology, target, &sources, (order.copy, order.rate))
            .await)
    }

    /// One survey for each source. How it is copied, and how many bytes in a second.
    pub(super) async fn surveys(
        &self,
        topology: &Topology,
        target: NodeIndex,
        sources: &Sources,
        (copy, rate): (CopyMethod, Option<u64>),
    ) -> Vec<Survey> {
        let of_target = self.look(topology, target).await;
        let mut surveys = Vec::new();
        for (&source, shards) in sources {
            let of_source = self.look(topology, source).await;
            let mut terms = Terms {
                dbs: shards.iter().map(|&shard| topology.placement(shard).db).collect(),
                databases: u64::from(topology.databases_needed()),
                idle: topology.shards_on(target).next().is_none(),
                copy,
                rate,
                bytes: None,
            };
            let mut survey = judge(&of_source, &of_target, &terms);
            if let (Ok(of_source), Ok(of_target)) = (&of_source, &of_target)
                && of_target.is_close_to_full(survey.bytes)
            {
                // It matters: keys are looked at one by one.
                terms.bytes = self.sampled(topology, source, shards, of_source).await;
                survey = judge(&Ok(of_source.clone()), &Ok(of_target.clone()), &terms);
            }
            surveys.push(Survey {
                source: topology.node(source).name.clone(),
                target: topology.node(target).name.clone(),
                shards: ranges(shards),
                ..survey
            });
        }
        surveys
    }

    /// What a node says, or why it cannot be asked.
    async fn look(&self, topology: &Topology, node: NodeIndex) -> Result<Look, String> {
        let described = topology.node(node);
        let name = &described.name;
        let (credentials, deadline) = self.shared().admin_login();
        let user = match topology.access.get(&node) {
            Some(access) => access.user.clone(),
            None => {
                let traffic = self.shared().credentials_of(None);
                self.without_users(name)?;
                can_cooperate(&described.address, (&traffic, &credentials), deadline)
                    .await
                    .map_err(|error| format!("node '{name}' {error}"))?;
                String::new()
            }
        };
        let looked = Look::at(
            name,
            &described.address,
            &credentials,
            deadline,
            topology.metadata_db(),
        );
        let looked = looked.await.map_err(|error| format!("node '{name}': {error}"))?;
        Ok(Look {
            user,
            login: credentials.username.unwrap_or_else(|| "default".to_owned()),
            ..looked
        })
    }

    /// Whether a node may be part of a move though it has no users of preshard's.
    fn without_users(&self, name: &str) -> Result<(), String> {
        if self.shared().settings.load().migration.cooperative {
            return Ok(());
        }
        Err(format!(
            "node '{name}' has no users of preshard ([nodes] acl_users, CHECK), so it cannot fence shards. They can be moved in \
             cooperative mode, in which proxies keep themselves from it: read docs/MIGRATION.md, then set [migration] cooperative = true"
        ))
    }

    /// What shards take, by looking at some of their keys. None: the node does not tell.
    async fn sampled(
        &self,
        topology: &Topology,
        node: NodeIndex,
        shards: &[ShardId],
        look: &Look,
    ) -> Option<u64> {
        let of_node = shards.iter().map(|&shard| {
            let db = topology.placement(shard).db;
            ShardKeys {
                shard,
                db,
                keys: look.keys_in(&[db]),
            }
        });
        let wanted = BTreeMap::from([(node, of_node.filter(|shard| shard.keys > 0).collect())]);
        let sampled = sample_memory(self.shared(), topology, wanted).await.ok()?;
        Some(sampled.values().map(|shard| shard.bytes).sum())
    }
}

/// All that speaks against it, as one line.
pub(super) fn refusals(surveys: &[Survey]) -> Option<String> {
    let mut all: Vec<&str> = Vec::new();
    for refusal in surveys.iter().flat_map(|survey| &survey.refusals) {
        // The target's are the same for every source.
        if !all.contains(&refusal.as_str()) {
            all.push(refusal);
        }
    }
    (!all.is_empty()).then(|| all.join("; "))
}

/// Numbers of databases as operators read them: the first few.
fn named(dbs: &[DbIndex]) -> String {
    const NAMED: usize = 5;
    let names: Vec<String> = dbs.iter().take(NAMED).map(DbIndex::to_string).collect();
    let more = dbs.len().saturating_sub(NAMED);
    let names = names.join(", ");
    if more > 0 {
        format!("{names} and {more} more")
    } else {
        names
    }
}

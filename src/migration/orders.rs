//! Orders of many moves as one task, and whether shards are free to be ordered.

use std::collections::BTreeMap;

use super::group::Group;
use super::ledger::unix_now;
use super::mover::{Mover, Ordered, new_id};
use super::preflight::{Sources, refusals};
use super::task::Move;
use crate::ids::{Epoch, NodeIndex, ShardId};
use crate::store::{Record, Revision, StoreError};
use crate::topology::Topology;
use crate::topology::codec::shard_list;

impl Mover {
    /// Orders all moves of a group as one task, with what to know about it. `made_of`: the epoch of the topology that it was planned
    /// for, if another one forbids it.
    ///
    /// # Errors
    /// Why it makes no sense; nothing was ordered.
    pub async fn order_group(&self, group: Group, made_of: Option<Epoch>) -> Result<Ordered, String> {
        let topology = self.shared.topology.load_full();
        if let Some(epoch) = made_of.filter(|&epoch| epoch != topology.epoch) {
            return Err(format!(
                "it was made for epoch {epoch}, and the topology is at {} now; make a new one",
                topology.epoch
            ));
        }
        let targets: Vec<&str> = group.ways.iter().map(|way| way.target.as_str()).collect();
        self.check_free(&topology, &group.shards(), &targets).await?;
        let mut group = group;
        for (target, sources) in by_target(&group, &topology)? {
            let surveys = self.surveys(&topology, target, &sources, group.rate).await;
            if let Some(why) = refusals(&surveys) {
                return Err(why);
            }
            for survey in surveys {
                group.cooperative.extend(survey.cooperative);
                group.note_warnings(survey.no_rollback.into_iter().chain(survey.warnings));
            }
        }
        let id = new_id(group.kind.chars().next().unwrap_or('t'));
        let group = Group {
            started: unix_now(),
            ..group
        };
        let put = self
            .fleet
            .store()
            .put_record(&id, &group.encode(), Revision::NONE, None)
            .await;
        match put {
            Ok(_) => Ok(Ordered {
                id,
                warnings: group.warnings,
            }),
            Err(StoreError::Limit(why)) => Err(format!(
                "it does not fit one task ({why}); finalize tasks that are done, or move fewer shards at a time with SHARD MOVE"
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// None of the shards may be on its way already, nor may they go to a node that is being emptied.
    pub(super) async fn check_free(
        &self,
        topology: &Topology,
        shards: &[ShardId],
        targets: &[&str],
    ) -> Result<(), String> {
        let records = self.fleet.store().records().await;
        for record in records.map_err(|error| error.to_string())? {
            let claimed = claimed(&record, topology);
            if let Some(shard) = shards.iter().find(|shard| claimed.contains(shard)) {
                return Err(format!("shard {shard} is moved by task {} already", record.id));
            }
            let emptied = Group::decode(&record.document)
                .filter(|group| group.kind == "drain" && !group.state.is_over())
                .map(|group| group.of);
            if let Some(node) = emptied.filter(|node| targets.contains(&node.as_str())) {
                return Err(format!("node '{node}' is being emptied by task {}", record.id));
            }
        }
        Ok(())
    }
}

/// What goes to each node.
fn by_target(group: &Group, topology: &Topology) -> Result<BTreeMap<NodeIndex, Sources>, String> {
    let named = |name: &str| {
        let node = topology.node_named(name);
        node.ok_or_else(|| format!("there is no node '{name}' any more"))
    };
    let mut targets: BTreeMap<NodeIndex, Sources> = BTreeMap::new();
    for way in &group.ways {
        let shards = shard_list(&way.shards, topology.total_shards()).map_err(|error| error.to_string())?;
        let sources = targets.entry(named(&way.target)?).or_default();
        sources.entry(named(&way.source)?).or_default().extend(shards);
    }
    Ok(targets)
}

/// The shards that a task has for itself.
fn claimed(record: &Record, topology: &Topology) -> Vec<ShardId> {
    if let Some(group) = Group::decode(&record.document).filter(|group| !group.state.is_over()) {
        return group.claimed();
    }
    Move::decode(&record.document)
        .filter(|task| !task.state.is_over())
        .and_then(|task| shard_list(&task.shards, topology.total_shards()).ok())
        .unwrap_or_default()
}

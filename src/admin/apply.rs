//! `PRESHARD PLAN APPLY <id>`, `NODE DRAIN <node> [TO node[,node…]]`: many moves as one task.
//!
//! ```text
//!  kept plan ────────────────────────────▶ ways by (source, target) ─▶ Mover::order_group ─▶ the task's id
//!  node ─▶ what nodes hold ─▶ plan::empty ──────────┘
//! ```

use std::collections::BTreeMap;

use super::AdminContext;
use super::node::refusal;
use super::plan;
use super::value::{shown, text};
use super::words::is;
use crate::ids::{NodeIndex, ShardId};
use crate::migration::Group;
use crate::plan::Rebalance;
use crate::resp::{Args, Value};
use crate::topology::Topology;

/// `PLAN APPLY <id>`: exactly the moves that the plan shows, as long as the topology is the one that it was made for.
pub(super) async fn apply(context: &AdminContext, id: &[u8]) -> Result<Value, String> {
    let plan = context.plans.find(&context.shared.run_id, id)?;
    let name = |node: NodeIndex| plan.nodes[node.index()].0.clone();
    let ways = ways(&plan.outcome, name);
    if ways.is_empty() {
        return Err(format!("ERR plan '{}' moves nothing", plan.id));
    }
    let group = group(context, "plan", &plan.id, ways);
    let ordered = context.mover.order_group(group, Some(plan.epoch)).await;
    ordered
        .map(|ordered| text(ordered.id))
        .map_err(|why| refusal(format!("plan '{}' is not carried out: {why}", plan.id)))
}

/// `NODE DRAIN <node> [TO node[,node…]]`.
pub(super) async fn drain(context: &AdminContext, args: &Args<'_>, rest: usize) -> Result<Value, String> {
    let topology = context.shared.topology.load_full();
    let leaving = named(&topology, args.get(rest))?;
    let takers = takers(&topology, leaving, args, rest)?;
    let name = |node: NodeIndex| topology.node(node).name.clone();
    if !topology
        .placements_by_shard()
        .any(|(_, placement)| placement.node == leaving)
    {
        return Err(format!(
            "ERR node '{0}' has no shards; NODE REMOVE {0}",
            name(leaving)
        ));
    }
    let Some(_turn) = context.plans.turn() else {
        return Err("ERR a plan is being made; ask again when it is there".to_owned());
    };
    let outcome = Box::pin(plan::empty(context, &topology, leaving, &takers)).await?;
    if !outcome.obstacles.is_empty() {
        return Err(refusal(format!(
            "nothing is moved: {}",
            outcome.obstacles.join("; ")
        )));
    }
    let group = group(context, "drain", &name(leaving), ways(&outcome, name));
    let ordered = context.mover.order_group(group, Some(topology.epoch)).await;
    ordered.map(|ordered| text(ordered.id)).map_err(refusal)
}

/// The nodes that get the shards: those that are named, or all others.
fn takers(
    topology: &Topology,
    leaving: NodeIndex,
    args: &Args<'_>,
    rest: usize,
) -> Result<Vec<NodeIndex>, String> {
    let Some(word) = args.try_get(rest + 1) else {
        let others: Vec<NodeIndex> = topology.nodes_by_index().map(|(node, _)| node).collect();
        let others: Vec<NodeIndex> = others.into_iter().filter(|&node| node != leaving).collect();
        if others.is_empty() {
            return Err("ERR there is no other node; NODE ADD one".to_owned());
        }
        return Ok(others);
    };
    if !is(word, "TO") || args.try_get(rest + 2).is_none() {
        return Err("ERR expected TO and the nodes that get the shards, with commas between".to_owned());
    }
    let mut takers = Vec::new();
    for word in args.get(rest + 2).split(|&byte| byte == b',') {
        let node = named(topology, word)?;
        if node == leaving {
            return Err(format!(
                "ERR node '{}' cannot be emptied into itself",
                shown(word)
            ));
        }
        if !takers.contains(&node) {
            takers.push(node);
        }
    }
    Ok(takers)
}

fn named(topology: &Topology, word: &[u8]) -> Result<NodeIndex, String> {
    let name = std::str::from_utf8(word).ok();
    name.and_then(|name| topology.node_named(name))
        .ok_or_else(|| format!("ERR there is no node '{}'", shown(word)))
}

fn ways(outcome: &Rebalance, name: impl Fn(NodeIndex) -> String) -> Vec<(String, String, Vec<ShardId>)> {
    let mut ways: BTreeMap<(NodeIndex, NodeIndex), Vec<ShardId>> = BTreeMap::new();
    for planned in &outcome.moves {
        ways.entry((planned.source, planned.target))
            .or_default()
            .push(planned.shard);
    }
    ways.into_iter()
        .map(|((source, target), mut shards)| {
            shards.sort_unstable();
            (name(source), name(target), shards)
        })
        .collect()
}

fn group(context: &AdminContext, kind: &str, of: &str, ways: Vec<(String, String, Vec<ShardId>)>) -> Group {
    let settings = context.shared.settings.load();
    Group {
        copy: settings.migration.copy,
        rate: settings.migration.rate,
        max_pause_ms: u64::try_from(settings.migration.max_pause.as_millis()).unwrap_or(u64::MAX),
        ..Group::in_chunks(kind, of, ways)
    }
}

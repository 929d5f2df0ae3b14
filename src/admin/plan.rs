//! `PRESHARD PLAN REBALANCE [BY keys|ops|memory]`, `PLAN SHOW <id>`: moves that would even out the nodes. Nothing is moved
//! here; `apply.rs` orders what a plan says.
//!
//! ```text
//!  keys    what the last probes found ──────────┐
//!  ops     rates of this proxy ─────────────────┼─▶ Layout ─▶ plan::rebalance ─▶ Plans ─▶ id epoch … before after moves
//!  memory  a few keys of each shard, sampled ───┘            (on a thread of its own)
//! ```
//!
//! A plan waits for nodes and computes for a while; meanwhile the listener serves its other connections.

use std::collections::BTreeMap;
use std::time::Instant;

use super::AdminContext;
use super::plans::KeptPlan;
use super::value::{int, row, shown, text};
use super::words::is;
use crate::control::{self, Sampled, ShardKeys};
use crate::ids::{Epoch, NodeIndex, ShardId};
use crate::plan::{self, Layout, NodeLoad, NodeShare, Rebalance, Role, ShardLoad};
use crate::resp::{Args, Value};
use crate::topology::Topology;
use crate::worker::shared::NodeView;

/// What nodes are evened out by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Keys,
    Ops,
    Memory,
}

impl Measure {
    const ALL: [Self; 3] = [Self::Keys, Self::Ops, Self::Memory];

    const fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Ops => "ops",
            Self::Memory => "memory",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Ops => "requests a second",
            Self::Memory => "bytes",
        }
    }
}

/// What is known of every shard, by id.
struct Gathered {
    nodes: Vec<NodeView>,
    keys: Vec<u64>,
    ops: Vec<u64>,
    /// None unless the plan is by memory.
    memory: Option<BTreeMap<ShardId, Sampled>>,
}

/// `PLAN REBALANCE`: makes a plan, keeps it and shows it.
pub(super) async fn rebalance(context: &AdminContext, args: &Args<'_>, rest: usize) -> Result<Value, String> {
    let by = measure(args, rest)?;
    let Some(_turn) = context.plans.turn() else {
        return Err("ERR another plan is being made; ask again when it is there".to_owned());
    };
    let topology = context.shared.topology.load_full();
    let gathered = gather(context, &topology, by).await?;
    let layout = layout(&topology, &gathered, by, |_| Role::Shares);
    // Thousands of shards are some milliseconds of computing: not on a thread that serves others.
    let computed = tokio::task::spawn_blocking(move || (plan::rebalance(&layout), layout));
    let (outcome, layout) = computed
        .await
        .map_err(|_| "ERR the plan could not be computed; the log has more".to_owned())?;
    let run_id = &context.shared.run_id;
    let plan = context.plans.keep(run_id, topology.epoch, |id| {
        made(id, &topology, &gathered, by, &layout, outcome)
    });
    Ok(answer(&plan, context.shared.topology.load().epoch))
}

/// `PLAN SHOW <id>`.
pub(super) fn show(context: &AdminContext, id: &[u8]) -> Result<Value, String> {
    let plan = context.plans.find(&context.shared.run_id, id)?;
    Ok(answer(&plan, context.shared.topology.load().epoch))
}

fn measure(args: &Args<'_>, rest: usize) -> Result<Measure, String> {
    let names = || Measure::ALL.map(Measure::name).join(", ");
    match (args.try_get(rest), args.try_get(rest + 1)) {
        (None, _) => Ok(Measure::Keys),
        (Some(by), Some(name)) if is(by, "BY") => Measure::ALL
            .into_iter()
            .find(|measure| is(name, measure.name()))
            .ok_or_else(|| {
                format!(
                    "ERR a plan cannot be made by '{}': give one of {}",
                    shown(name),
                    names()
                )
            }),
        (Some(by), None) if is(by, "BY") => Err(format!("ERR BY wants one of {}", names())),
        (Some(other), _) => Err(format!(
            "ERR unknown option '{}': give BY and one of {}, or nothing for keys",
            shown(other),
            names()
        )),
    }
}

/// What would empty a node, its shards going to these nodes: by keys.
pub(super) async fn empty(
    context: &AdminContext,
    topology: &Topology,
    leaving: NodeIndex,
    takers: &[NodeIndex],
) -> Result<Rebalance, String> {
    let gathered = gather(context, topology, Measure::Keys).await?;
    for &node in takers.iter().chain([&leaving]) {
        if !gathered.nodes[node.index()].up {
            return Err(format!("ERR node '{}' does not answer", topology.node(node).name));
        }
    }
    let role = |node: NodeIndex| {
        if node == leaving {
            Role::Leaves
        } else if takers.contains(&node) {
            Role::Shares
        } else {
            Role::Away
        }
    };
    let layout = layout(topology, &gathered, Measure::Keys, role);
    let computed = tokio::task::spawn_blocking(move || plan::empty(&layout)).await;
    computed.map_err(|_| "ERR the plan could not be computed; the log has more".to_owned())
}

async fn gather(context: &AdminContext, topology: &Topology, by: Measure) -> Result<Gathered, String> {
    let shared = &context.shared;
    let view = shared.nodes.load_full();
    let node_view = |node: NodeIndex| view.nodes.get(node.index()).cloned().unwrap_or_default();
    let nodes: Vec<NodeView> = topology
        .nodes_by_index()
        .map(|(node, _)| node_view(node))
        .collect();
    let mut keys = Vec::new();
    for (shard, placement) in topology.placements_by_shard() {
        let found = shared.metrics.facts().shard_keys(shard);
        if found.is_none() && nodes[placement.node.index()].up {
            return Err(format!(
                "ERR the keys of node {} are not known yet; ask again in a second",
                topology.node(placement.node).name
            ));
        }
        keys.push(found.unwrap_or(0));
    }
    let window = context.rates.window(Instant::now());
    let shards = (0..topology.total_shards()).map(ShardId);
    let ops = shards
        .map(|shard| window.shard(shard, &shared.metrics.shard_totals(shard)).0)
        .collect();
    let memory = match by {
        Measure::Keys | Measure::Ops => None,
        Measure::Memory => {
            let mut wanted: BTreeMap<NodeIndex, Vec<ShardKeys>> = BTreeMap::new();
            for (shard, placement) in topology.placements_by_shard() {
                let keys = keys[shard.index()];
                if keys > 0 && nodes[placement.node.index()].up {
                    let db = placement.db;
                    let of_node = wanted.entry(placement.node).or_default();
                    of_node.push(ShardKeys { shard, db, keys });
                }
            }
            let sampled = Box::pin(control::sample_memory(shared, topology, wanted)).await;
            Some(sampled.map_err(|error| format!("ERR {error}"))?)
        }
    };
    Ok(Gathered {
        nodes,
        keys,
        ops,
        memory,
    })
}

impl Gathered {
    fn sampled(&self, shard: ShardId) -> Sampled {
        let memory = self.memory.as_ref();
        memory
            .and_then(|memory| memory.get(&shard).copied())
            .unwrap_or_default()
    }

    fn load(&self, shard: ShardId, by: Measure) -> u64 {
        match by {
            Measure::Keys => self.keys[shard.index()],
            Measure::Ops => self.ops[shard.index()],
            Measure::Memory => self.sampled(shard).bytes,
        }
    }
}

/// `role`: of a node that answers.
fn layout(topology: &Topology, gathered: &Gathered, by: Measure, role: impl Fn(NodeIndex) -> Role) -> Layout {
    let nodes = topology.nodes_by_index().map(|(node, described)| {
        let view = &gathered.nodes[node.index()];
        NodeLoad {
            name: described.name.clone(),
            role: if view.up { role(node) } else { Role::Away },
            room_bytes: (view.maxmemory > 0).then(|| view.maxmemory.saturating_sub(view.used_memory)),
        }
    });
    let mut keys_of_nodes = vec![0_u64; topology.nodes.len()];
    for (shard, placement) in topology.placements_by_shard() {
        let of_node = &mut keys_of_nodes[placement.node.index()];
        *of_node = of_node.saturating_add(gathered.keys[shard.index()]);
    }
    // Where nothing was sampled, a shard takes as much of its node's memory as it has of its keys.
    let bytes = |shard: ShardId, node: NodeIndex| match &gathered.memory {
        Some(_) => gathered.sampled(shard).bytes,
        None => {
            let used = u128::from(gathered.nodes[node.index()].used_memory);
            let keys = u128::from(gathered.keys[shard.index()]);
            let part = used * keys / u128::from(keys_of_nodes[node.index()].max(1));
            u64::try_from(part).unwrap_or(u64::MAX)
        }
    };
    let shards = topology
        .placements_by_shard()
        .map(|(shard, placement)| ShardLoad {
            shard,
            node: placement.node,
            load: gathered.load(shard, by),
            bytes: bytes(shard, placement.node),
        });
    Layout {
        unit: by.unit(),
        nodes: nodes.collect(),
        shards: shards.collect(),
    }
}

fn made(
    id: String,
    topology: &Topology,
    gathered: &Gathered,
    by: Measure,
    layout: &Layout,
    outcome: Rebalance,
) -> KeptPlan {
    let moved = outcome.moves.iter().map(|planned| planned.shard);
    let keys = moved.map(|shard| (gathered.keys[shard.index()], gathered.sampled(shard).samples));
    let nodes = topology.nodes.iter().zip(&gathered.nodes);
    KeptPlan {
        id,
        epoch: topology.epoch,
        by,
        nodes: nodes
            .map(|(node, view)| (node.name.clone(), view.used_memory))
            .collect(),
        keys: keys.collect(),
        notes: notes(topology, gathered, by, layout, &outcome),
        outcome,
    }
}

/// What must be known about a plan beside its numbers.
fn notes(
    topology: &Topology,
    gathered: &Gathered,
    by: Measure,
    layout: &Layout,
    outcome: &Rebalance,
) -> Vec<String> {
    let mut notes = Vec::new();
    match by {
        Measure::Keys => {}
        Measure::Ops => {
            notes.push("ops are the requests a second of this proxy over the last 10 seconds".to_owned());
        }
        Measure::Memory => {
            let memory = gathered.memory.iter().flat_map(BTreeMap::values);
            let (samples, unseen) = memory.fold((0, 0_usize), |(samples, unseen), shard| {
                (samples + shard.samples, unseen + usize::from(shard.samples == 0))
            });
            notes.push(format!(
                "memory is an estimate out of {samples} sampled keys; used_memory is what a node says it takes in all"
            ));
            if unseen > 0 {
                notes.push(format!(
                    "{unseen} shards were not reached in time and are taken to be like the others of their node"
                ));
            }
        }
    }
    let away = layout.nodes.iter().filter(|node| node.role == Role::Away);
    notes.extend(away.map(|node| format!("{} does not answer and is left out", node.name)));
    notes.extend(outcome.obstacles.iter().cloned());
    if outcome.moves.is_empty() && outcome.obstacles.is_empty() {
        notes.push(if topology.nodes.len() < 2 {
            "there is one node only".to_owned()
        } else {
            format!(
                "nothing to move: every node is within {} % of the mean",
                plan::TOLERANCE_PERCENT
            )
        });
    }
    notes
}

fn answer(plan: &KeptPlan, now: Epoch) -> Value {
    let mut notes = plan.notes.clone();
    let state = if plan.epoch == now {
        "current"
    } else {
        notes.insert(
            0,
            format!(
                "stale: it was made of epoch {}, and the topology is at {now}; make a new one",
                plan.epoch
            ),
        );
        "stale"
    };
    row([
        ("id", text(plan.id.as_str())),
        ("by", text(plan.by.name())),
        ("epoch", int(plan.epoch.0)),
        ("state", text(state)),
        ("note", text(notes.join("; "))),
        ("before", shares(plan, &plan.outcome.before, true)),
        ("after", shares(plan, &plan.outcome.after, false)),
        ("moves", moves(plan)),
    ])
}

/// One row a node.
fn shares(plan: &KeptPlan, shares: &[NodeShare], with_used: bool) -> Value {
    let rows = plan.nodes.iter().zip(shares).map(|((name, used_memory), share)| {
        let percent = share.percent_of_mean.map_or(Value::Null, Value::Double);
        let mut fields = vec![
            (Value::bulk("node"), text(name.as_str())),
            (Value::bulk("shards"), int(share.shards)),
            (Value::bulk(plan.by.name()), int(share.load)),
            (Value::bulk("percent"), percent),
        ];
        if with_used {
            fields.push((Value::bulk("used_memory"), int(*used_memory)));
        }
        Value::Map(fields)
    });
    Value::Array(rows.collect())
}

/// One row a move.
fn moves(plan: &KeptPlan) -> Value {
    let name = |node: NodeIndex| text(plan.nodes[node.index()].0.as_str());
    let rows = plan.outcome.moves.iter().zip(&plan.keys);
    let rows = rows.map(|(planned, &(keys, samples))| {
        let mut fields = vec![
            (Value::bulk("shard"), int(planned.shard.0)),
            (Value::bulk("source"), name(planned.source)),
            (Value::bulk("target"), name(planned.target)),
            (Value::bulk("keys"), int(keys)),
        ];
        let mut reason = planned.reason.clone();
        match plan.by {
            Measure::Keys => {}
            Measure::Ops => fields.push((Value::bulk("ops"), int(planned.load))),
            Measure::Memory => {
                fields.push((Value::bulk("memory"), int(planned.load)));
                fields.push((Value::bulk("samples"), int(samples)));
                reason.push_str(&match samples {
                    0 => "; memory is estimated out of other shards".to_owned(),
                    samples => format!("; memory is estimated out of {samples} keys"),
                });
            }
        }
        fields.push((Value::bulk("reason"), text(reason)));
        Value::Map(fields)
    });
    Value::Array(rows.collect())
}

//! `PRESHARD EXPLAIN <command …>`: the same decision that a request would get, told instead of carried out.
//!
//! A refusal is data here, so that tools can ask about any command: the field `refused` holds the error line.

use std::collections::BTreeSet;

use super::AdminContext;
use super::value::{int, row, shown, text};
use crate::command::{self, Class, FanOut, Spec};
use crate::helper::{self, Keyspace};
use crate::ids::{NodeIndex, ShardId};
use crate::resp::{ArgRange, Args, Value};
use crate::route::{self, Plan, Scratch};
use crate::topology::Topology;

/// What is told of a command.
struct Told<'a> {
    command: String,
    keys: Vec<&'a [u8]>,
    shards: BTreeSet<ShardId>,
    nodes: BTreeSet<NodeIndex>,
    strategy: &'static str,
    detail: &'static str,
    refused: Option<String>,
}

/// Explains the command that begins at argument `first`, for the sharded keyspace.
pub(super) fn explain(context: &AdminContext, args: &Args<'_>, first: usize) -> Value {
    let ranges: Vec<ArgRange> = (first..args.len()).filter_map(|i| args.range(i)).collect();
    let args = Args::new(args.frame(), &ranges);
    let topology = context.shared.topology.load();
    let told = match command::identify(&args) {
        Ok(spec) => decide(spec, &args, &topology),
        Err(refusal) => Told {
            command: shown(args.get(0)).to_ascii_lowercase(),
            refused: Some(refusal.line()),
            ..Told::empty()
        },
    };
    told.into_value(&topology)
}

fn decide<'a>(spec: &'static Spec, args: &Args<'a>, topology: &Topology) -> Told<'a> {
    let mut keys = Vec::new();
    // Where keys cannot be found, the refusal below says why.
    let _ = command::keys(spec, args, &mut keys);
    let keys: Vec<&[u8]> = keys.iter().map(|&key| args.get(key as usize)).collect();
    let mut told = Told {
        command: spec.title().to_ascii_lowercase(),
        ..Told::empty()
    };
    let plan = command::resolve(args)
        .map_err(|refusal| refusal.line())
        .and_then(|spec| route::route(spec, args, topology, 0, &mut Scratch::default()));
    match plan {
        Ok(plan) => told.plan(spec, args, &plan, topology),
        Err(line) => {
            told.refused = Some(line);
            told.shards = keys.iter().map(|key| topology.shard_of_key(key)).collect();
        }
    }
    told.keys = keys;
    told.nodes
        .extend(told.shards.iter().map(|&shard| topology.placement(shard).node));
    told
}

impl<'a> Told<'a> {
    const fn empty() -> Self {
        Self {
            command: String::new(),
            keys: Vec::new(),
            shards: BTreeSet::new(),
            nodes: BTreeSet::new(),
            strategy: "refused",
            detail: "",
            refused: None,
        }
    }

    fn plan(&mut self, spec: &Spec, args: &Args<'_>, plan: &Plan, topology: &Topology) {
        match plan {
            Plan::Local(local) => self.served(Class::Local(*local)),
            Plan::One(shard) => {
                // A split whose keys all live together is not split.
                self.strategy = if matches!(spec.class, Class::Single) {
                    "single"
                } else {
                    "same-shard"
                };
                self.detail = "sent to its shard as it is";
                self.shards.insert(*shard);
            }
            Plan::Split(split, splitting) => {
                self.served(Class::Split(*split));
                self.shards
                    .extend(splitting.parts().iter().map(|part| part.shard));
            }
            Plan::Iterate(shard) => {
                self.served(Class::Iterate);
                self.shards.insert(*shard);
            }
            Plan::Blocking(shard) => {
                self.served(Class::Blocking);
                self.shards.insert(*shard);
            }
            Plan::Script(script, shard) => {
                self.served(Class::Script(*script));
                self.shards.insert(*shard);
            }
            Plan::Transaction(transaction) => self.served(Class::Transaction(*transaction)),
            Plan::PubSub(pubsub) => self.served(Class::PubSub(*pubsub)),
            Plan::Helper(helper) => {
                self.served(Class::Helper(*helper));
                match helper::shards(*helper, args, Keyspace::new(topology, 0)) {
                    Ok(shards) => self.shards.extend(shards),
                    Err(line) => self.refused = Some(line),
                }
            }
            Plan::FanOut(fan_out) => {
                self.served(Class::FanOut(*fan_out));
                self.fan_out(*fan_out, topology);
            }
        }
    }

    const fn served(&mut self, class: Class) {
        self.strategy = class.word();
        self.detail = class.detail();
    }

    fn fan_out(&mut self, fan_out: FanOut, topology: &Topology) {
        let shards = match fan_out {
            FanOut::Dbsize | FanOut::Keys | FanOut::Scan | FanOut::Randomkey | FanOut::Flushdb => {
                topology.shards
            }
            FanOut::Flushall => topology.total_shards(),
            FanOut::ScriptLoad
            | FanOut::ScriptExists
            | FanOut::ScriptFlush
            | FanOut::EveryNode
            | FanOut::AnyNode => 0,
        };
        self.shards.extend((0..shards).map(ShardId));
        self.nodes.extend(
            topology
                .nodes_by_index()
                .filter(|_| shards == 0)
                .map(|(node, _)| node),
        );
    }

    fn into_value(self, topology: &Topology) -> Value {
        let Self {
            command,
            keys,
            shards,
            nodes,
            strategy,
            detail,
            refused,
        } = self;
        let name = |node: NodeIndex| text(topology.node(node).name.as_str());
        let mut told = row([
            ("command", text(command)),
            ("keys", Value::Array(keys.into_iter().map(Value::bulk).collect())),
            (
                "shards",
                Value::Array(shards.into_iter().map(|shard| int(shard.0)).collect()),
            ),
            ("nodes", Value::Array(nodes.into_iter().map(name).collect())),
            ("strategy", text(strategy)),
        ]);
        if let Value::Map(fields) = &mut told {
            match refused {
                Some(line) => fields.push((Value::bulk("refused"), text(line))),
                None => fields.push((Value::bulk("detail"), text(detail))),
            }
        }
        told
    }
}

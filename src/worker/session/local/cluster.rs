//! What a client in cluster mode asks: one node, this proxy, that has every slot.
//!
//! Shapes are those of a Redis 7 cluster node. What would have to be counted by slot is refused, because keys are kept
//! by shard; and without emulation everything is answered as by a server whose cluster support is disabled.

use std::fmt::Write as _;

use super::{number, ok, verbatim};
use crate::command::{self, Cluster, Spec};
use crate::resp::{Args, Value};
use crate::topology::{SLOTS, slot};
use crate::worker::engine::Engine;
use crate::worker::shared::ClusterNode;

const DISABLED: &str = "ERR This instance has cluster support disabled";
const BY_SHARD: &str =
    "ERR preshard keeps keys by shard and not by slot, so it cannot tell those of one slot; use SCAN";
const NO_STATS: &str =
    "ERR preshard counts by shard and not by slot; see PRESHARD SHOW SHARDS on the admin listener";

impl Engine {
    pub(super) fn cluster_command(&self, spec: &'static Spec, cluster: Cluster, args: &Args<'_>) -> Value {
        let Some(node) = &self.shared.cluster else {
            return Value::error(DISABLED);
        };
        match cluster {
            Cluster::Mode => ok(),
            Cluster::Help => command::introspect(spec, args).unwrap_or(Value::Null),
            Cluster::Info => self.cluster_info(),
            Cluster::Keyslot => Value::Int(i64::from(slot(args.get(2)))),
            Cluster::Myid => Value::bulk(node.id.as_str()),
            Cluster::Myshardid => Value::bulk(node.shard_id.as_str()),
            Cluster::Slots => self.cluster_slots(node),
            Cluster::Shards => self.cluster_shards(node),
            Cluster::Nodes => self.cluster_nodes(node),
            Cluster::Links | Cluster::Getslotmigrations => Value::Array(Vec::new()),
            Cluster::Replicas => of_node(node, args, Value::Array(Vec::new())),
            Cluster::CountFailureReports => of_node(node, args, Value::Int(0)),
            Cluster::Countkeysinslot => match number(args.get(2)) {
                None => Value::error("ERR value is not an integer or out of range"),
                Some(slot) if !is_slot(slot) => Value::error("ERR Invalid slot"),
                Some(_) => Value::error(BY_SHARD),
            },
            Cluster::Getkeysinslot => match (number(args.get(2)), number(args.get(3))) {
                (None, _) | (_, None) => Value::error("ERR value is not an integer or out of range"),
                (Some(slot), Some(count)) if !is_slot(slot) || count < 0 => {
                    Value::error("ERR Invalid slot or number of keys")
                }
                (Some(_), Some(_)) => Value::error(BY_SHARD),
            },
            Cluster::SlotStats => Value::error(NO_STATS),
        }
    }

    /// Slots count as failing while the node of their shard does not answer.
    fn cluster_info(&self) -> Value {
        let view = self.shared.nodes.load();
        let is_up = |node: usize| view.nodes.get(node).is_none_or(|node| node.up);
        let topology = &self.topology;
        let served: u32 = topology
            .placements_by_shard()
            .filter(|(_, placement)| is_up(placement.node.index()))
            .filter_map(|(shard, _)| topology.slots_of(shard))
            .map(|slots| u32::from(slots.end() - slots.start()) + 1)
            .sum();
        let state = if served == 0 { "fail" } else { "ok" };
        let (epoch, failing) = (topology.epoch, u32::from(SLOTS) - served);
        let mut text = String::new();
        for (name, value) in [
            ("cluster_state", state.to_owned()),
            ("cluster_slots_assigned", SLOTS.to_string()),
            ("cluster_slots_ok", served.to_string()),
            ("cluster_slots_pfail", "0".to_owned()),
            ("cluster_slots_fail", failing.to_string()),
            ("cluster_known_nodes", "1".to_owned()),
            ("cluster_size", "1".to_owned()),
            ("cluster_current_epoch", epoch.to_string()),
            ("cluster_my_epoch", epoch.to_string()),
            ("cluster_stats_messages_sent", "0".to_owned()),
            ("cluster_stats_messages_received", "0".to_owned()),
            ("total_cluster_links_buffer_limit_exceeded", "0".to_owned()),
        ] {
            // Writing to a string cannot fail.
            let _ = write!(text, "{name}:{value}\r\n");
        }
        verbatim(text)
    }

    fn cluster_slots(&self, node: &ClusterNode) -> Value {
        let (host, port) = self.shared.advertised(node);
        Value::Array(vec![Value::Array(vec![
            Value::Int(0),
            Value::Int(i64::from(SLOTS) - 1),
            Value::Array(vec![
                Value::bulk(host),
                Value::Int(i64::from(port)),
                Value::bulk(node.id.as_str()),
                Value::Map(Vec::new()),
            ]),
        ])])
    }

    fn cluster_shards(&self, node: &ClusterNode) -> Value {
        let (host, port) = self.shared.advertised(node);
        let mut fields = vec![
            (Value::bulk("id"), Value::bulk(node.id.as_str())),
            (Value::bulk("port"), Value::Int(i64::from(port))),
            (Value::bulk("ip"), Value::bulk(host.as_str())),
            (Value::bulk("endpoint"), Value::bulk(host.as_str())),
        ];
        if is_name(&host) {
            fields.push((Value::bulk("hostname"), Value::bulk(host)));
        }
        fields.extend([
            (Value::bulk("role"), Value::bulk("master")),
            (Value::bulk("replication-offset"), Value::Int(0)),
            (Value::bulk("health"), Value::bulk("online")),
        ]);
        let slots = Value::Array(vec![Value::Int(0), Value::Int(i64::from(SLOTS) - 1)]);
        Value::Array(vec![Value::Map(vec![
            (Value::bulk("slots"), slots),
            (Value::bulk("nodes"), Value::Array(vec![Value::Map(fields)])),
        ])])
    }

    /// One line: id, address, flags, source, pings, epoch, link, slots. There is no bus, so its port is 0.
    fn cluster_nodes(&self, node: &ClusterNode) -> Value {
        let (host, port) = self.shared.advertised(node);
        let hostname = if is_name(&host) {
            format!(",{host}")
        } else {
            String::new()
        };
        let (id, epoch, last) = (&node.id, self.topology.epoch, SLOTS - 1);
        verbatim(format!(
            "{id} {host}:{port}@0{hostname} myself,master - 0 0 {epoch} connected 0-{last}\n"
        ))
    }
}

/// The answer about a node, if it is the one that there is.
fn of_node(node: &ClusterNode, args: &Args<'_>, answer: Value) -> Value {
    if args.get(2) == node.id.as_bytes() {
        return answer;
    }
    let name: String = String::from_utf8_lossy(args.get(2)).chars().take(128).collect();
    Value::error(format!("ERR Unknown node {name}"))
}

fn is_slot(slot: i64) -> bool {
    (0..i64::from(SLOTS)).contains(&slot)
}

fn is_name(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_err()
}

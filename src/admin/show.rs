//! `PRESHARD SHOW …`: tables of what there is.

use std::time::Instant;

use super::AdminContext;
use super::rates::Window;
use super::value::{int, number, row, text};
use crate::ids::{NodeIndex, ShardId};
use crate::resp::Value;
use crate::topology::Topology;

/// `SHOW SHARDS`: one row a shard.
pub(super) fn shards(context: &AdminContext) -> Value {
    let topology = context.shared.topology.load();
    let window = context.rates.window(Instant::now());
    let rows = (0..topology.total_shards())
        .map(|shard| Value::Map(shard_row(context, &topology, &window, ShardId(shard))));
    Value::Array(rows.collect())
}

/// The row of one shard, which must be one of the topology's.
pub(super) fn shard_row(
    context: &AdminContext,
    topology: &Topology,
    window: &Window,
    shard: ShardId,
) -> Vec<(Value, Value)> {
    let placement = topology.placement(shard);
    let metrics = &context.shared.metrics;
    let (ops, bytes) = window.shard(shard, &metrics.shard_totals(shard));
    // Unknown until a probe of its node has answered.
    let keys = metrics.facts().shard_keys(shard).map_or(Value::Null, int);
    let fields = [
        ("shard", int(shard.0)),
        ("node", text(topology.node(placement.node).name.as_str())),
        ("db", int(placement.db.0)),
        ("epoch", int(topology.epoch.0)),
        ("state", text(shard_state(topology, shard))),
        ("keys", keys),
        ("ops", int(ops)),
        ("bytes", int(bytes)),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (Value::bulk(name), value))
        .collect()
}

fn shard_state(topology: &Topology, shard: ShardId) -> &'static str {
    if topology.paused.contains(&shard) {
        "paused"
    } else if topology.unit_of(shard).is_some() {
        "moving"
    } else {
        "serving"
    }
}

/// `SHOW NODES`: one row a node.
pub(super) fn nodes(context: &AdminContext) -> Value {
    let topology = context.shared.topology.load();
    let window = context.rates.window(Instant::now());
    let rows = topology.nodes_by_index().map(|(node, described)| {
        let metrics = &context.shared.metrics;
        let totals = metrics.node_totals(&described.name);
        let of_shard = |shard| (shard, metrics.shard_totals(shard));
        let view = context
            .shared
            .nodes
            .load()
            .nodes
            .get(node.index())
            .cloned()
            .unwrap_or_default();
        row([
            ("name", text(described.name.as_str())),
            ("address", text(described.address.to_string())),
            ("state", text(node_state(context, node))),
            ("version", text(view.version)),
            ("databases", int(view.databases)),
            ("shards", int(topology.shards_on(node).count())),
            ("connections", int(totals.connections)),
            ("in_flight", int(totals.in_flight)),
            ("ops", int(window.shards(topology.shards_on(node).map(of_shard)))),
            ("memory", int(view.used_memory)),
            ("access", text(login_of(&topology, node))),
            ("error", text(view.error)),
        ])
    });
    Value::Array(rows.collect())
}

/// The user that requests run as on a node: preshard's own, or `configured`.
pub(super) fn login_of(topology: &Topology, node: NodeIndex) -> &str {
    let access = topology.access.get(&node);
    access.map_or("configured", |access| access.user.as_str())
}

/// What the last probe found: `up` or `down`, `unknown` before the first one.
pub(super) fn node_state(context: &AdminContext, node: NodeIndex) -> &'static str {
    match context.shared.nodes.load().nodes.get(node.index()) {
        None => "unknown",
        Some(view) if view.up => "up",
        Some(_) => "down",
    }
}

/// `SHOW CLIENTS`: one row a client, with the fields of its line in `CLIENT LIST`.
pub(super) fn clients(context: &AdminContext) -> Value {
    let now = context.shared.now_ms();
    let rows = context
        .shared
        .registry
        .list()
        .into_iter()
        .map(|info| client_row(&info.line(now)));
    Value::Array(rows.collect())
}

/// Takes a line of `CLIENT LIST` apart. The path of a Unix socket may hold spaces; nothing else does.
fn client_row(line: &str) -> Value {
    const TEXTS: [&str; 9] = [
        "addr", "laddr", "name", "flags", "events", "cmd", "user", "lib-name", "lib-ver",
    ];
    let mut fields: Vec<(&str, String)> = Vec::new();
    for word in line.split(' ') {
        match (word.split_once('='), fields.last_mut()) {
            (Some((name, value)), _) => fields.push((name, value.to_owned())),
            (None, Some((_, value))) => {
                value.push(' ');
                value.push_str(word);
            }
            (None, None) => {}
        }
    }
    let typed = |(name, value): (&str, String)| {
        let number = if TEXTS.contains(&name) {
            None
        } else {
            value.parse().ok()
        };
        (Value::bulk(name), number.map_or_else(|| text(value), Value::Int))
    };
    Value::Map(fields.into_iter().map(typed).collect())
}

/// `SHOW SLOWLOG`: one row a slow request, the newest first; all of them, or so many.
pub(super) fn slowlog(context: &AdminContext, count: Option<&[u8]>) -> Result<Value, String> {
    let count = match count {
        None => usize::MAX,
        Some(count) => number(count).ok_or("ERR count must be a whole number")?,
    };
    let rows = context.shared.slowlog.newest(count).into_iter().map(|entry| {
        let words = entry.args.iter().map(|arg| String::from_utf8_lossy(arg));
        row([
            ("id", int(entry.id)),
            ("time", int(entry.at)),
            ("duration_us", int(entry.took_us)),
            ("command", text(words.collect::<Vec<_>>().join(" "))),
            ("addr", text(entry.address.as_str())),
            ("name", text(entry.name.as_str())),
        ])
    });
    Ok(Value::Array(rows.collect()))
}

/// `SHOW STATS`: sums of the whole proxy. Cheap: no shard and no client is looked at.
pub(super) fn stats(context: &AdminContext) -> Value {
    let shared = &context.shared;
    let totals = shared.metrics.totals();
    let window = context.rates.window(Instant::now());
    let topology = shared.topology.load();
    row([
        ("uptime", int(shared.now_ms())),
        ("epoch", int(topology.epoch.0)),
        ("clients", int(totals.client_connections)),
        ("max_clients", int(shared.settings.load().max_clients)),
        ("connections_total", int(totals.connections_total)),
        ("connections_refused", int(totals.rejected_connections)),
        ("requests", int(totals.requests)),
        ("errors", int(totals.errors)),
        ("unknown_commands", int(shared.metrics.unknown_commands())),
        ("ops", int(window.total(&totals, |totals| totals.requests))),
        ("receive_bytes", int(totals.receive_bytes)),
        ("transmit_bytes", int(totals.transmit_bytes)),
        (
            "receive_rate",
            int(window.total(&totals, |totals| totals.receive_bytes)),
        ),
        (
            "transmit_rate",
            int(window.total(&totals, |totals| totals.transmit_bytes)),
        ),
        ("input_buffer_bytes", int(totals.input_buffer_bytes)),
        ("output_buffer_bytes", int(totals.output_buffer_bytes)),
        ("nodes", int(topology.node_count())),
        (
            "nodes_up",
            int(shared.nodes.load().nodes.iter().filter(|node| node.up).count()),
        ),
        ("draining", int(i64::from(shared.is_draining()))),
    ])
}

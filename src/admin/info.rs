//! `PRESHARD INFO [section]`, and plain `INFO` for tools that know nothing else: text in Redis's own form.

use std::fmt::Write as _;

use super::AdminContext;
use super::show::node_state;
use super::value::shown;
use super::words::is;
use crate::resp::{Args, Value};

type Fields = Vec<(String, String)>;

type Section = (&'static str, fn(&AdminContext) -> Fields);

/// The sections, in their order.
const SECTIONS: [Section; 7] = [
    ("Server", server),
    ("Clients", clients),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("Topology", topology),
    ("Nodes", nodes),
];

/// `PRESHARD INFO [section]`.
pub(super) fn section(context: &AdminContext, args: &Args<'_>, rest: usize) -> Result<Value, String> {
    let Some(asked) = args.try_get(rest) else {
        return Ok(all(context));
    };
    if SECTIONS.iter().any(|(name, _)| is(asked, name)) {
        return Ok(text(context, |name| is(asked, name)));
    }
    let names = SECTIONS.map(|(name, _)| name.to_ascii_lowercase()).join(", ");
    Err(format!(
        "ERR '{}' is no section: give one of {names}, or none for all",
        shown(asked)
    ))
}

/// Plain `INFO [section …]`: as in Redis, unknown sections are silently empty.
pub(super) fn plain(context: &AdminContext, args: &Args<'_>) -> Value {
    let asks_for_all = |word: &[u8]| ["all", "default", "everything"].iter().any(|all| is(word, all));
    if args.len() < 2 || args.iter().skip(1).any(asks_for_all) {
        return all(context);
    }
    text(context, |name| args.iter().skip(1).any(|word| is(word, name)))
}

fn all(context: &AdminContext) -> Value {
    text(context, |_| true)
}

fn text(context: &AdminContext, wanted: impl Fn(&str) -> bool) -> Value {
    let mut text = String::new();
    for (name, fields) in SECTIONS.iter().filter(|(name, _)| wanted(name)) {
        let gap = if text.is_empty() { "" } else { "\r\n" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{gap}# {name}\r\n");
        for (field, value) in fields(context) {
            let _ = write!(text, "{field}:{value}\r\n");
        }
    }
    Value::Verbatim {
        format: *b"txt",
        text: text.into_bytes(),
    }
}

fn pairs<const N: usize>(pairs: [(&str, String); N]) -> Fields {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn server(context: &AdminContext) -> Fields {
    let shared = &context.shared;
    pairs([
        ("preshard_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("redis_version", shared.redis_version()),
        ("redis_mode", "standalone".to_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("process_id", std::process::id().to_string()),
        ("run_id", shared.run_id.clone()),
        ("data_address", shared.data_address()),
        ("uptime_in_seconds", (shared.now_ms() / 1000).to_string()),
        ("started_unix", shared.started_unix.to_string()),
        ("draining", u8::from(shared.is_draining()).to_string()),
        ("config_file", shared.config_file.display().to_string()),
    ])
}

fn clients(context: &AdminContext) -> Fields {
    let metrics = &context.shared.metrics;
    let mut fields = pairs([
        (
            "connected_clients",
            metrics.totals().client_connections.to_string(),
        ),
        (
            "maxclients",
            context.shared.settings.load().max_clients.to_string(),
        ),
    ]);
    let workers = metrics.clients_by_worker().into_iter().enumerate();
    fields.extend(workers.map(|(worker, clients)| (format!("clients_worker_{worker}"), clients.to_string())));
    fields
}

fn persistence(_context: &AdminContext) -> Fields {
    pairs([("loading", "0".to_owned())])
}

fn stats(context: &AdminContext) -> Fields {
    let totals = context.shared.metrics.totals();
    let mut fields = pairs([
        ("total_connections_received", totals.connections_total.to_string()),
        ("total_commands_processed", totals.requests.to_string()),
        ("total_error_replies", totals.errors.to_string()),
        ("total_net_input_bytes", totals.receive_bytes.to_string()),
        ("total_net_output_bytes", totals.transmit_bytes.to_string()),
        ("rejected_connections", totals.rejected_connections.to_string()),
    ]);
    let codes = context.shared.metrics.error_codes().into_iter();
    fields.extend(codes.map(|(code, count)| (format!("errorstat_{code}"), format!("count={count}"))));
    fields
}

fn replication(_context: &AdminContext) -> Fields {
    pairs([
        ("role", "master".to_owned()),
        ("connected_slaves", "0".to_owned()),
    ])
}

fn topology(context: &AdminContext) -> Fields {
    let topology = context.shared.topology.load();
    pairs([
        ("cluster_id", topology.cluster_id.clone()),
        ("epoch", topology.epoch.to_string()),
        ("shards", topology.shards.to_string()),
        ("pinned", topology.pinned.to_string()),
        ("nodes", topology.node_count().to_string()),
        ("metadata_db", topology.metadata_db().to_string()),
    ])
}

fn nodes(context: &AdminContext) -> Fields {
    let topology = context.shared.topology.load();
    let row = |(node, described): (crate::ids::NodeIndex, &crate::topology::Node)| {
        let totals = context.shared.metrics.node_totals(&described.name);
        let value = format!(
            "name={},address={},state={},shards={},connections={},in_flight={}",
            described.name,
            described.address,
            node_state(context, node),
            topology.shards_on(node).count(),
            totals.connections,
            totals.in_flight,
        );
        (format!("node{node}"), value)
    };
    topology.nodes_by_index().map(row).collect()
}

//! Every second each node is asked how it is; what it says is what INFO, metrics and the admin side show.
//!
//! A probe never decides about traffic: a link that works is used whatever a probe says.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::client::{AskError, NodeClient};
use super::{info_field, preflight};
use crate::metrics::NodeFacts;
use crate::topology::Address;
use crate::worker::shared::{NodeView, NodesView, Shared};

/// Between two probes of a node.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Probes all nodes for as long as it is polled.
pub async fn probe_nodes(shared: Arc<Shared>) {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clients: Vec<Option<(NodeClient, Address)>> = Vec::new();
    loop {
        ticks.tick().await;
        let topology = shared.topology.load_full();
        clients.resize_with(topology.nodes.len(), || None);
        let before = shared.nodes.load_full();
        let mut view = NodesView::default();
        view.nodes.resize_with(topology.nodes.len(), NodeView::default);
        for (node, described) in topology.nodes_by_index() {
            let asked = Instant::now();
            let slot = &mut clients[node.index()];
            slot.take_if(|(_, address)| *address != described.address);
            let seen = match probe(slot, &shared, &described.address).await {
                Ok(seen) => seen,
                Err(error) => {
                    *slot = None;
                    let last = before.nodes.get(node.index()).cloned().unwrap_or_default();
                    NodeView {
                        up: false,
                        error: error.to_string(),
                        ..last
                    }
                }
            };
            if seen.up {
                let facts = NodeFacts {
                    version: seen.version.clone(),
                    used_memory_bytes: seen.used_memory,
                    probe_micros: u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX),
                };
                shared.metrics.facts().set_node(&described.name, facts);
            }
            view.nodes[node.index()] = seen;
        }
        publish_keys(&shared, &view);
        shared.nodes.store(Arc::new(view));
    }
}

fn publish_keys(shared: &Shared, view: &NodesView) {
    let topology = shared.topology.load();
    for (shard, placement) in topology.placements_by_shard() {
        let Some(node) = view.nodes.get(placement.node.index()).filter(|node| node.up) else {
            continue;
        };
        let found = node.keys.iter().find(|(db, _, _)| *db == placement.db.0);
        shared
            .metrics
            .facts()
            .set_shard_keys(shard, found.map_or(0, |(_, keys, _)| *keys));
    }
}

async fn probe(
    slot: &mut Option<(NodeClient, Address)>,
    shared: &Shared,
    address: &Address,
) -> Result<NodeView, AskError> {
    let (client, _) = match slot {
        Some(kept) => kept,
        None => {
            let (credentials, deadline) = shared.admin_login();
            let client = NodeClient::connect(address, &credentials, deadline).await?;
            slot.insert((client, address.clone()))
        }
    };
    let info = client.ask_text(&["INFO"]).await?;
    let number = |name: &str| {
        info_field(&info, name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    };
    let text = |name: &str| info_field(&info, name).unwrap_or_default().to_owned();
    let mut view = NodeView {
        up: info_field(&info, "loading") != Some("1"),
        error: String::new(),
        version: text("redis_version"),
        used_memory: number("used_memory"),
        maxmemory: number("maxmemory"),
        maxmemory_policy: text("maxmemory_policy"),
        ops: number("instantaneous_ops_per_sec"),
        databases: 0,
        keys: info.lines().filter_map(keyspace_row).collect(),
    };
    view.databases = preflight::databases(client).await.unwrap_or(0);
    Ok(view)
}

/// `db12:keys=3,expires=1,avg_ttl=0`
pub(super) fn keyspace_row(line: &str) -> Option<(u16, u64, u64)> {
    let (db, fields) = line.trim().strip_prefix("db")?.split_once(':')?;
    let field = |name: &str| {
        fields
            .split(',')
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    Some((db.parse().ok()?, field("keys")?, field("expires").unwrap_or(0)))
}

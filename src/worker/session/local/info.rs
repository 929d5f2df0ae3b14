//! INFO: what monitoring and clients' ready checks read, in Redis's own form.
//!
//! Sums over the nodes are as old as the control side's last probe (a second); figures of the proxy are live.

use std::fmt::Write as _;

use super::verbatim;
use crate::resp::{Args, Value};
use crate::worker::engine::Engine;
use crate::worker::registry::ClientFlags;

const SECTIONS: [(&str, bool); 9] = [
    ("server", true),
    ("clients", true),
    ("memory", true),
    ("persistence", true),
    ("stats", true),
    ("replication", true),
    ("cluster", true),
    ("keyspace", true),
    ("preshard", true),
];

impl Engine {
    pub(super) fn info(&self, args: &Args<'_>) -> Value {
        let asked: Vec<String> = (1..args.len())
            .map(|place| String::from_utf8_lossy(args.get(place)).to_ascii_lowercase())
            .collect();
        let everything = asked.is_empty()
            || asked
                .iter()
                .any(|word| ["all", "default", "everything"].contains(&word.as_str()));
        let mut text = String::new();
        for (section, _) in SECTIONS {
            if everything || asked.iter().any(|word| word == section) {
                if !text.is_empty() {
                    text.push_str("\r\n");
                }
                self.info_section(section, &mut text);
            }
        }
        verbatim(text)
    }

    fn info_section(&self, section: &str, out: &mut String) {
        let mut title = section.to_owned();
        title[..1].make_ascii_uppercase();
        // Writing to a string cannot fail.
        let _ = write!(out, "# {title}\r\n");
        let fields = match section {
            "server" => self.info_server(),
            "clients" => self.info_clients(),
            "memory" => self.info_memory(),
            "persistence" => fields(&[
                ("loading", "0"),
                ("async_loading", "0"),
                ("rdb_bgsave_in_progress", "0"),
                ("aof_enabled", "0"),
            ]),
            "stats" => self.info_stats(),
            "replication" => fields(&[
                ("role", "master"),
                ("connected_slaves", "0"),
                ("master_repl_offset", "0"),
            ]),
            "cluster" => {
                let enabled = if self.shared.cluster.is_some() { "1" } else { "0" };
                fields(&[("cluster_enabled", enabled)])
            }
            "keyspace" => self.info_keyspace(),
            _ => self.info_preshard(),
        };
        for (name, value) in fields {
            let _ = write!(out, "{name}:{value}\r\n");
        }
    }

    fn info_server(&self) -> Vec<(String, String)> {
        let uptime = self.shared.started.elapsed().as_secs();
        let address = self.shared.data_address();
        let port = address.rsplit(':').next().unwrap_or("0").to_owned();
        let version = self.shared.redis_version();
        let file = self.shared.config_file.display().to_string();
        fields(&[
            ("redis_version", &version),
            ("redis_git_sha1", "00000000"),
            ("redis_mode", self.shared.redis_mode()),
            ("os", std::env::consts::OS),
            ("arch_bits", "64"),
            ("multiplexing_api", "epoll"),
            ("process_id", &std::process::id().to_string()),
            ("run_id", &self.shared.run_id),
            ("tcp_port", &port),
            ("uptime_in_seconds", &uptime.to_string()),
            ("uptime_in_days", &(uptime / 86_400).to_string()),
            ("executable", "preshard"),
            ("config_file", &file),
            ("preshard_version", env!("CARGO_PKG_VERSION")),
        ])
    }

    fn info_clients(&self) -> Vec<(String, String)> {
        let totals = self.shared.metrics.totals();
        let blocked = self.shared.registry.count(ClientFlags::BLOCKED);
        let subscribed = self.shared.registry.count(ClientFlags::PUBSUB);
        fields(&[
            ("connected_clients", &totals.client_connections.to_string()),
            ("maxclients", &self.settings.max_clients.to_string()),
            ("blocked_clients", &blocked.to_string()),
            ("tracking_clients", &totals.tracking_clients.to_string()),
            ("pubsub_clients", &subscribed.to_string()),
        ])
    }

    fn info_memory(&self) -> Vec<(String, String)> {
        let nodes = self.shared.nodes.load();
        let used: u64 = nodes.nodes.iter().map(|node| node.used_memory).sum();
        let policy = nodes
            .nodes
            .iter()
            .map(|node| node.maxmemory_policy.as_str())
            .find(|policy| !policy.is_empty());
        fields(&[
            ("used_memory", &used.to_string()),
            ("maxmemory", "0"),
            ("maxmemory_policy", policy.unwrap_or("noeviction")),
            ("mem_fragmentation_ratio", "1.00"),
        ])
    }

    fn info_stats(&self) -> Vec<(String, String)> {
        let totals = self.shared.metrics.totals();
        let ops: u64 = self.shared.nodes.load().nodes.iter().map(|node| node.ops).sum();
        fields(&[
            (
                "total_connections_received",
                &totals.connections_total.to_string(),
            ),
            ("total_commands_processed", &totals.requests.to_string()),
            ("instantaneous_ops_per_sec", &ops.to_string()),
            ("total_net_input_bytes", &totals.receive_bytes.to_string()),
            ("total_net_output_bytes", &totals.transmit_bytes.to_string()),
            ("rejected_connections", &totals.rejected_connections.to_string()),
        ])
    }

    /// The databases that a client can select: 0 is the sum of all sharded ones.
    fn info_keyspace(&self) -> Vec<(String, String)> {
        let nodes = self.shared.nodes.load();
        let mut sums = vec![(0_u64, 0_u64); usize::from(self.topology.pinned) + 1];
        for (shard, placement) in self.topology.placements_by_shard() {
            let db = self.topology.pinned_db(shard).unwrap_or(0);
            let node = nodes.nodes.get(placement.node.index());
            let found = node.and_then(|node| node.keys.iter().find(|(db, _, _)| *db == placement.db.0));
            if let (Some((_, keys, expires)), Some(sum)) = (found, sums.get_mut(usize::from(db))) {
                sum.0 += keys;
                sum.1 += expires;
            }
        }
        let rows = sums.into_iter().enumerate().filter(|(_, (keys, _))| *keys > 0);
        rows.map(|(db, (keys, expires))| {
            (
                format!("db{db}"),
                format!("keys={keys},expires={expires},avg_ttl=0"),
            )
        })
        .collect()
    }

    fn info_preshard(&self) -> Vec<(String, String)> {
        let up = self
            .shared
            .nodes
            .load()
            .nodes
            .iter()
            .filter(|node| node.up)
            .count();
        fields(&[
            ("preshard_version", env!("CARGO_PKG_VERSION")),
            ("cluster_id", &self.topology.cluster_id),
            ("topology_epoch", &self.topology.epoch.to_string()),
            ("shards", &self.topology.shards.to_string()),
            ("pinned", &self.topology.pinned.to_string()),
            ("nodes", &self.topology.node_count().to_string()),
            ("nodes_up", &up.to_string()),
            ("draining", if self.shared.is_draining() { "1" } else { "0" }),
        ])
    }
}

fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

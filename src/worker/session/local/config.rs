//! CONFIG GET: the few settings that clients and tools look at, true for what a client sees here.

use crate::command;
use crate::resp::{Args, Value};
use crate::worker::engine::Engine;

impl Engine {
    pub(super) fn config_get(&self, args: &Args<'_>) -> Value {
        let patterns: Vec<&[u8]> = (2..args.len()).map(|place| args.get(place)).collect();
        let settings = self.shown_settings();
        let wanted = settings.into_iter().filter(|(name, _)| {
            patterns
                .iter()
                .any(|pattern| command::glob_matches(pattern, name.as_bytes(), true))
        });
        Value::Map(
            wanted
                .map(|(name, value)| (Value::bulk(name), Value::bulk(value)))
                .collect(),
        )
    }

    fn shown_settings(&self) -> Vec<(&'static str, String)> {
        let limits = &self.settings.limits;
        let nodes = self.shared.nodes.load();
        let policy = nodes
            .nodes
            .iter()
            .map(|node| node.maxmemory_policy.clone())
            .find(|policy| !policy.is_empty());
        let slowlog = self.settings.slowlog;
        let slower_than = slowlog
            .slower_than_us
            .map_or_else(|| "-1".to_owned(), |micros| micros.to_string());
        let no = || "no".to_owned();
        let cluster = if self.shared.cluster.is_some() {
            "yes"
        } else {
            "no"
        };
        vec![
            ("appendonly", no()),
            ("bind", String::new()),
            ("cluster-enabled", cluster.to_owned()),
            ("databases", (self.topology.pinned + 1).to_string()),
            ("maxclients", self.settings.max_clients.to_string()),
            ("maxmemory", "0".to_owned()),
            (
                "maxmemory-policy",
                policy.unwrap_or_else(|| "noeviction".to_owned()),
            ),
            ("notify-keyspace-events", String::new()),
            ("proto-max-bulk-len", limits.request.bulk_max.to_string()),
            ("replica-read-only", "yes".to_owned()),
            ("requirepass", String::new()),
            ("save", String::new()),
            ("slave-read-only", "yes".to_owned()),
            ("slowlog-log-slower-than", slower_than),
            ("slowlog-max-len", slowlog.entries_max.to_string()),
            ("tcp-keepalive", limits.keepalive.as_secs().to_string()),
            ("timeout", limits.idle.as_secs().to_string()),
        ]
    }
}

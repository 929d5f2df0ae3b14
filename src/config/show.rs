//! The values in force, as text: for `SHOW CONFIG` and for logs. Secrets are not among them.

use super::units::{format_bytes, format_duration};
use super::{Batches, Config, LogFormat, OnEmpty, StorePlace};
use crate::topology::Address;
use std::time::Duration;

const SET: &str = "<redacted>";

// === impl Config ===

impl Config {
    /// Every key with its value, in the order of the file; an unset one has an empty value, a password is only
    /// told to be set. Lists are separated by commas.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = self.proxy_rows();
        rows.extend(self.admin_rows());
        rows.extend(self.nodes_rows());
        rows.extend(self.other_rows());
        rows
    }

    fn proxy_rows(&self) -> Vec<(&'static str, String)> {
        let proxy = &self.proxy;
        let listen: Vec<String> = proxy.listen.iter().map(ToString::to_string).collect();
        vec![
            ("proxy.listen", listen.join(",")),
            ("proxy.workers", proxy.workers.to_string()),
            ("proxy.password", redacted(proxy.password.is_some())),
            ("proxy.max_clients", proxy.max_clients.to_string()),
            ("proxy.idle_timeout", optional(proxy.idle_timeout)),
            ("proxy.tcp_keepalive", optional(proxy.tcp_keepalive)),
            (
                "proxy.handshake_timeout",
                format_duration(proxy.handshake_timeout),
            ),
            ("proxy.request_bytes_max", bytes(proxy.request_bytes_max)),
            ("proxy.request_memory_max", bytes(proxy.request_memory_max)),
            ("proxy.in_flight_max", proxy.in_flight_max.to_string()),
            ("proxy.in_flight_bytes_max", bytes(proxy.in_flight_bytes_max)),
            ("proxy.output_bytes_soft", bytes(proxy.output_bytes_soft)),
            ("proxy.output_bytes_hard", bytes(proxy.output_bytes_hard)),
            ("proxy.output_stall_timeout", optional(proxy.output_stall_timeout)),
            ("proxy.request_timeout", optional(proxy.request_timeout)),
            ("proxy.drain_timeout", format_duration(proxy.drain_timeout)),
            ("proxy.keys_max", proxy.keys_max.to_string()),
            (
                "proxy.redis_version",
                proxy.redis_version.clone().unwrap_or_default(),
            ),
        ]
    }

    fn admin_rows(&self) -> Vec<(&'static str, String)> {
        let or_off =
            |address: &Option<Address>| address.as_ref().map_or_else(|| "off".into(), Address::to_string);
        vec![
            ("admin.listen", or_off(&self.admin.listen)),
            ("admin.http", or_off(&self.admin.http)),
            ("admin.password", redacted(self.admin.password.is_some())),
        ]
    }

    fn nodes_rows(&self) -> Vec<(&'static str, String)> {
        let nodes = &self.nodes;
        let batches = match nodes.batches_in_flight {
            Batches::Auto => "auto".to_owned(),
            Batches::Fixed(number) => number.to_string(),
        };
        let on_empty = match nodes.on_empty {
            OnEmpty::Serve => "serve",
            OnEmpty::Refuse => "refuse",
        };
        vec![
            ("nodes.username", nodes.username.clone().unwrap_or_default()),
            ("nodes.password", redacted(nodes.password.is_some())),
            ("nodes.connect_timeout", format_duration(nodes.connect_timeout)),
            ("nodes.shared_connections", nodes.shared_connections.to_string()),
            ("nodes.in_flight_max", nodes.in_flight_max.to_string()),
            ("nodes.in_flight_bytes_max", bytes(nodes.in_flight_bytes_max)),
            ("nodes.queue_max", nodes.queue_max.to_string()),
            ("nodes.queue_bytes_max", bytes(nodes.queue_bytes_max)),
            ("nodes.batches_in_flight", batches),
            ("nodes.on_empty", on_empty.to_owned()),
            (
                "nodes.reconnect_backoff_max",
                format_duration(nodes.reconnect_backoff_max),
            ),
        ]
    }

    fn other_rows(&self) -> Vec<(&'static str, String)> {
        let StorePlace::File(store) = &self.topology.store;
        let nodes: Vec<String> = self
            .topology
            .nodes
            .iter()
            .map(|node| format!("{}={}", node.name, node.address))
            .collect();
        let format = match self.log.format {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        vec![
            ("topology.store", format!("file:{}", store.display())),
            (
                "topology.cluster",
                self.topology.cluster.clone().unwrap_or_default(),
            ),
            ("topology.shards", self.topology.shards.to_string()),
            ("topology.pinned", self.topology.pinned.to_string()),
            ("topology.nodes", nodes.join(",")),
            ("log.format", format.to_owned()),
            ("log.level", self.log.level.as_str().to_owned()),
        ]
    }
}

fn redacted(set: bool) -> String {
    if set { SET.to_owned() } else { String::new() }
}

fn bytes(bytes: usize) -> String {
    format_bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn optional(time: Option<Duration>) -> String {
    time.map_or_else(|| "0".into(), format_duration)
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::*;
    use std::path::Path;

    #[test]
    fn every_key_has_a_row_and_passwords_have_no_value() {
        let text = format!("[proxy]\npassword_sha256 = \"{}\"\n", "5".repeat(64));
        let config = Config::parse(Path::new("preshard.toml"), &text, std::iter::empty()).unwrap();
        let rows = config.rows();
        for key in KEYS {
            let path = key
                .path
                .replace("password_file", "password")
                .replace("password_sha256", "password");
            let value = rows
                .iter()
                .find(|(name, _)| *name == path)
                .map(|(_, value)| value.as_str());
            let expected = if path == "proxy.password" {
                SET
            } else {
                key.default.unwrap_or_default()
            };
            assert_eq!(value, Some(expected), "{path}");
        }
    }
}

//! The settings in force, as text: each key of the file with the value that counts, secrets left out.

use super::units::{format_bytes, format_duration};
use super::{AclUsers, Batches, Config, LogFormat, LogLevel, OnEmpty, OnGap, PasswordHash, StorePlace};
use crate::tls::ClientCertificates;
use crate::topology::Address;
use std::path::Path;
use std::time::Duration;

/// What stands for a secret that is set.
const REDACTED: &str = "<redacted>";
/// What stands for a key without a value.
const UNSET: &str = "";

impl Config {
    /// Every key in the order of the pages, as it would be written in the file. A password is one row,
    /// `password`, whichever of its two keys set it.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = self.proxy_settings();
        settings.extend(self.admin_settings());
        settings.extend(self.nodes_settings());
        settings.extend(self.topology_settings());
        settings.extend(self.migration_settings());
        let slowlog = &self.slowlog;
        settings.push(("slowlog.slower_than", time(slowlog.slower_than)));
        settings.push(("slowlog.entries_max", slowlog.entries_max.to_string()));
        settings.push(("slowlog.show_args", slowlog.show_args.to_string()));
        settings.extend(self.tls_settings());
        settings.push(("log.format", log_format(self.log.format).to_owned()));
        settings.push(("log.level", log_level(self.log.level).to_owned()));
        let users: Vec<&str> = self.users.iter().map(|user| user.name.as_str()).collect();
        settings.push(("user", users.join(",")));
        settings
    }

    fn proxy_settings(&self) -> Vec<(&'static str, String)> {
        let proxy = &self.proxy;
        let list = |addresses: &[Address]| -> String {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            texts.join(",")
        };
        let listen = if proxy.listen.is_empty() {
            "off".to_owned()
        } else {
            list(&proxy.listen)
        };
        vec![
            ("proxy.listen", listen),
            ("proxy.listen_tls", list(&proxy.listen_tls)),
            ("proxy.workers", proxy.workers.to_string()),
            ("proxy.password", secret(proxy.password.as_ref())),
            ("proxy.max_clients", proxy.max_clients.to_string()),
            ("proxy.idle_timeout", time(proxy.idle_timeout)),
            ("proxy.tcp_keepalive", time(proxy.tcp_keepalive)),
            (
                "proxy.handshake_timeout",
                format_duration(proxy.handshake_timeout),
            ),
            ("proxy.hold_max", format_duration(proxy.hold_max)),
            ("proxy.request_bytes_max", bytes(proxy.request_bytes_max)),
            ("proxy.request_memory_max", bytes(proxy.request_memory_max)),
            ("proxy.in_flight_max", proxy.in_flight_max.to_string()),
            ("proxy.in_flight_bytes_max", bytes(proxy.in_flight_bytes_max)),
            ("proxy.output_bytes_soft", bytes(proxy.output_bytes_soft)),
            ("proxy.output_bytes_hard", bytes(proxy.output_bytes_hard)),
            ("proxy.output_stall_timeout", time(proxy.output_stall_timeout)),
            ("proxy.request_timeout", time(proxy.request_timeout)),
            ("proxy.drain_timeout", format_duration(proxy.drain_timeout)),
            ("proxy.keys_max", proxy.keys_max.to_string()),
            ("proxy.tracking_keys_max", proxy.tracking_keys_max.to_string()),
            (
                "proxy.redis_version",
                proxy.redis_version.clone().unwrap_or_default(),
            ),
            ("proxy.cluster_emulation", proxy.cluster_emulation.to_string()),
            (
                "proxy.advertise",
                proxy
                    .advertise
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ),
        ]
    }

    fn admin_settings(&self) -> Vec<(&'static str, String)> {
        let address = |address: &Option<Address>| {
            address
                .as_ref()
                .map_or_else(|| "off".to_owned(), ToString::to_string)
        };
        vec![
            ("admin.listen", address(&self.admin.listen)),
            ("admin.http", address(&self.admin.http)),
            ("admin.listen_tls", address(&self.admin.listen_tls)),
            ("admin.http_tls", address(&self.admin.http_tls)),
            ("admin.password", secret(self.admin.password.as_ref())),
        ]
    }

    fn nodes_settings(&self) -> Vec<(&'static str, String)> {
        let nodes = &self.nodes;
        let batches = match nodes.batches_in_flight {
            Batches::Auto => "auto".to_owned(),
            Batches::Fixed(count) => count.to_string(),
        };
        let acl_users = match nodes.acl_users {
            AclUsers::Auto => "auto",
            AclUsers::Off => "off",
        };
        let on_empty = match nodes.on_empty {
            OnEmpty::Serve => "serve",
            OnEmpty::Refuse => "refuse",
        };
        let on_gap = match nodes.on_gap {
            OnGap::Resubscribe => "resubscribe",
            OnGap::Close => "close",
        };
        vec![
            ("nodes.username", nodes.username.clone().unwrap_or_default()),
            ("nodes.password", secret(nodes.password.as_ref())),
            (
                "nodes.admin_username",
                nodes
                    .admin
                    .as_ref()
                    .map(|(name, _)| name.clone())
                    .unwrap_or_default(),
            ),
            (
                "nodes.admin_password",
                secret(nodes.admin.as_ref().map(|(_, password)| password)),
            ),
            ("nodes.tls", nodes.tls.on.to_string()),
            ("nodes.tls_ca_file", path(nodes.tls.ca_file.as_deref())),
            (
                "nodes.tls_certificate_file",
                path(nodes.tls.certificate_file.as_deref()),
            ),
            ("nodes.tls_key_file", path(nodes.tls.key_file.as_deref())),
            (
                "nodes.tls_server_name",
                nodes.tls.server_name.clone().unwrap_or_default(),
            ),
            ("nodes.connect_timeout", format_duration(nodes.connect_timeout)),
            ("nodes.shared_connections", nodes.shared_connections.to_string()),
            ("nodes.in_flight_max", nodes.in_flight_max.to_string()),
            ("nodes.in_flight_bytes_max", bytes(nodes.in_flight_bytes_max)),
            ("nodes.queue_max", nodes.queue_max.to_string()),
            ("nodes.queue_bytes_max", bytes(nodes.queue_bytes_max)),
            ("nodes.dedicated_max", nodes.dedicated_max.to_string()),
            ("nodes.batches_in_flight", batches),
            ("nodes.acl_users", acl_users.to_owned()),
            ("nodes.on_empty", on_empty.to_owned()),
            ("nodes.on_gap", on_gap.to_owned()),
            (
                "nodes.reconnect_backoff_max",
                format_duration(nodes.reconnect_backoff_max),
            ),
        ]
    }

    fn topology_settings(&self) -> Vec<(&'static str, String)> {
        let store = match &self.topology.store {
            StorePlace::File(path) => format!("file:{}", path.display()),
            StorePlace::Etcd { endpoints, prefix } => format!("etcd://{}/{prefix}", endpoints.join(",")),
        };
        let (login, tls) = (self.topology.store_login.as_ref(), &self.topology.store_tls);
        let nodes = self
            .topology
            .nodes
            .iter()
            .map(|node| format!("{}={}", node.name, node.address));
        vec![
            ("topology.store", store),
            (
                "topology.store_username",
                login.map(|(name, _)| name.clone()).unwrap_or_default(),
            ),
            (
                "topology.store_password",
                secret(login.map(|(_, password)| password)),
            ),
            ("topology.store_tls", tls.on.to_string()),
            ("topology.store_ca_file", path(tls.ca_file.as_deref())),
            (
                "topology.store_certificate_file",
                path(tls.certificate_file.as_deref()),
            ),
            ("topology.store_key_file", path(tls.key_file.as_deref())),
            (
                "topology.store_timeout",
                format_duration(self.topology.store_timeout),
            ),
            (
                "topology.cluster",
                self.topology.cluster.clone().unwrap_or_default(),
            ),
            ("topology.shards", self.topology.shards.to_string()),
            ("topology.pinned", self.topology.pinned.to_string()),
            ("topology.nodes", nodes.collect::<Vec<_>>().join(",")),
        ]
    }
}

impl Config {
    fn migration_settings(&self) -> Vec<(&'static str, String)> {
        let migration = &self.migration;
        vec![
            (
                "migration.rate",
                migration.rate.map_or_else(|| "0".to_owned(), format_bytes),
            ),
            ("migration.max_pause", format_duration(migration.max_pause)),
            ("migration.retention", time(migration.retention)),
            ("migration.cooperative", migration.cooperative.to_string()),
            (
                "migration.target_latency",
                format_duration(migration.target_latency),
            ),
            ("migration.spool_memory", bytes(migration.spool_memory)),
            ("migration.spool_max", bytes(migration.spool_max)),
            ("migration.spool_dir", path(migration.spool_dir.as_deref())),
        ]
    }

    fn tls_settings(&self) -> Vec<(&'static str, String)> {
        let tls = &self.tls;
        let certificates = match tls.client_certificates {
            ClientCertificates::Required => "required",
            ClientCertificates::Optional => "optional",
        };
        vec![
            ("tls.certificate_file", path(tls.certificate_file.as_deref())),
            ("tls.key_file", path(tls.key_file.as_deref())),
            ("tls.client_ca_file", path(tls.client_ca_file.as_deref())),
            ("tls.client_certificates", certificates.to_owned()),
        ]
    }
}

fn path(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn secret<T: Hidden>(secret: Option<&T>) -> String {
    if secret.is_some() { REDACTED } else { UNSET }.to_owned()
}

/// What [`secret`] takes, so that nothing else is redacted by mistake.
trait Hidden {}
impl Hidden for PasswordHash {}
impl Hidden for super::Secret {}

fn bytes(bytes: usize) -> String {
    format_bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// 0 is what the file says for "never" and "off".
fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "0".to_owned(), format_duration)
}

const fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "auto",
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

const fn log_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;

    fn settings(text: &str) -> Vec<(&'static str, String)> {
        Config::parse(Path::new("/etc/preshard/p.toml"), text, std::iter::empty())
            .unwrap()
            .settings()
    }

    #[test]
    fn every_key_is_shown_in_the_order_of_the_pages() {
        let mut expected: Vec<String> = KEYS
            .iter()
            .map(|key| key.path.replace("password_file", "password"))
            .collect();
        expected.retain(|path| !path.ends_with("password_sha256"));
        let topology_ends = expected.iter().position(|path| path == "migration.rate").unwrap();
        expected.insert(topology_ends, "topology.nodes".to_owned());
        expected.push("user".to_owned());
        let shown: Vec<&str> = settings("").iter().map(|(key, _)| *key).collect();
        assert_eq!(shown, expected, "a key of keys.rs has no row in settings.rs");
    }

    #[test]
    fn values_are_written_as_in_the_file_and_secrets_are_not() {
        let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
        let text = format!(
            "[proxy]\npassword_sha256 = \"{hash}\"\nrequest_bytes_max = \"1MiB\"\n[admin]\nhttp = \"off\"\n"
        );
        let shown = settings(&text);
        let value = |key: &str| shown.iter().find(|(name, _)| *name == key).unwrap().1.as_str();
        assert_eq!(value("proxy.password"), REDACTED);
        assert_eq!(value("admin.password"), UNSET);
        assert_eq!(value("proxy.request_bytes_max"), "1MiB");
        assert_eq!(value("proxy.idle_timeout"), "0");
        assert_eq!(value("admin.http"), "off");
        assert_eq!(
            value("topology.store"),
            "file:/etc/preshard/preshard-topology.json"
        );
        assert!(shown.iter().all(|(_, value)| !value.contains(hash)));
    }
}

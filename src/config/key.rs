//! What a row of the table of keys is made of.

use super::keys::KEYS;
use super::units::{SIZE_HINT, TIME_HINT, format_bytes, format_duration};
use std::time::Duration;

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.name`, as in the file.
    pub path: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The default as plain text; none for a key that is unset unless given.
    pub default: Option<&'static str>,
    /// A value to show in the sample file where there is no default.
    pub example: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What it costs, or what goes wrong at either end.
    pub cost: &'static str,
}

/// What values a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// One address or a list of them.
    Addresses,
    /// One address, or `off`.
    AddressOrOff,
    /// A whole number between two bounds.
    Count(u64, u64),
    /// `true` or `false`, as TOML writes them.
    Switch,
    /// `auto`, or a whole number between two bounds.
    CountOrAuto(u64, u64),
    /// A size with its unit, between two bounds in bytes.
    Bytes(u64, u64),
    /// A size with its unit, or 0 for the meaning given last.
    BytesOrZero(u64, u64, &'static str),
    /// A duration with its unit, between two bounds.
    Time(Duration, Duration),
    /// A duration with its unit, or 0 for the meaning given last.
    TimeOrZero(Duration, Duration, &'static str),
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A path; a relative one starts at the folder of the config file.
    File,
    /// Other text, checked on its own; how it looks.
    Text(&'static str),
}

/// Keys that `SIGHUP` and `PRESHARD CONFIG RELOAD` put in force; all others wait for the next start. Those that are no
/// files may also be set while running.
pub(super) const RELOADED: &[&str] = &[
    "proxy.password_file",
    "proxy.password_sha256",
    "proxy.max_clients",
    "proxy.idle_timeout",
    "proxy.tcp_keepalive",
    "proxy.handshake_timeout",
    "proxy.request_bytes_max",
    "proxy.request_memory_max",
    "proxy.in_flight_max",
    "proxy.in_flight_bytes_max",
    "proxy.output_bytes_soft",
    "proxy.output_bytes_hard",
    "proxy.output_stall_timeout",
    "proxy.request_timeout",
    "proxy.drain_timeout",
    "proxy.hold_max",
    "proxy.keys_max",
    "proxy.tracking_keys_max",
    "proxy.redis_version",
    "admin.password_file",
    "admin.password_sha256",
    "nodes.username",
    "nodes.password_file",
    "nodes.admin_username",
    "nodes.admin_password_file",
    "nodes.tls_ca_file",
    "nodes.tls_certificate_file",
    "nodes.tls_key_file",
    "nodes.tls_server_name",
    "nodes.connect_timeout",
    "nodes.in_flight_max",
    "nodes.in_flight_bytes_max",
    "nodes.queue_max",
    "nodes.queue_bytes_max",
    "nodes.dedicated_max",
    "nodes.batches_in_flight",
    "nodes.on_empty",
    "nodes.on_gap",
    "nodes.reconnect_backoff_max",
    "topology.store_ca_file",
    "topology.store_certificate_file",
    "topology.store_key_file",
    "migration.rate",
    "migration.max_pause",
    "migration.retention",
    "migration.cooperative",
    "migration.target_latency",
    "migration.spool_memory",
    "migration.spool_max",
    "migration.spool_dir",
    "slowlog.slower_than",
    "slowlog.entries_max",
    "slowlog.show_args",
    "tls.certificate_file",
    "tls.key_file",
    "tls.client_ca_file",
    "tls.client_certificates",
    "log.level",
];

/// Two lists in one.
pub(super) const fn joined<const N: usize>(first: &[Key], second: &[Key]) -> [Key; N] {
    let mut all = [first[0]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < first.len() {
            first[at]
        } else {
            second[at - first.len()]
        };
        at += 1;
    }
    all
}

// === impl Key ===

impl Key {
    /// The row of a path.
    #[must_use]
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// Whether a running proxy takes a new value. Where not, it is in force after the next start.
    #[must_use]
    pub fn is_reloaded(&self) -> bool {
        RELOADED.contains(&self.path)
    }

    /// The part before the dot.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.path
            .split_once('.')
            .map_or(self.path, |(section, _)| section)
    }

    /// The part after the dot.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }
}

// === impl Kind ===

impl Kind {
    /// The values, to follow "must be".
    pub(super) fn describe(self) -> String {
        match self {
            Self::Addresses => "an address or a list of addresses".into(),
            Self::AddressOrOff => "an address or \"off\"".into(),
            Self::Count(min, max) => format!("a whole number between {min} and {max}"),
            Self::Switch => "true or false".into(),
            Self::CountOrAuto(min, max) => format!("\"auto\" or a whole number between {min} and {max}"),
            Self::Bytes(min, max) => {
                format!("a size between {} and {}", format_bytes(min), format_bytes(max))
            }
            Self::BytesOrZero(min, max, zero) => {
                format!(
                    "0 ({zero}) or a size between {} and {}",
                    format_bytes(min),
                    format_bytes(max)
                )
            }
            Self::Time(min, max) => {
                format!(
                    "a duration between {} and {}",
                    format_duration(min),
                    format_duration(max)
                )
            }
            Self::TimeOrZero(min, max, zero) => {
                format!(
                    "0 ({zero}) or a duration between {} and {}",
                    format_duration(min),
                    format_duration(max)
                )
            }
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::File => "a path".into(),
            Self::Text(looks) => looks.into(),
        }
    }

    /// How to spell a value; may be empty.
    pub(super) const fn spelling(self) -> &'static str {
        match self {
            Self::Bytes(..) | Self::BytesOrZero(..) => SIZE_HINT,
            Self::Time(..) | Self::TimeOrZero(..) => TIME_HINT,
            Self::Count(..) | Self::Switch => "write it without quotes",
            Self::Addresses
            | Self::AddressOrOff
            | Self::CountOrAuto(..)
            | Self::Choice(_)
            | Self::File
            | Self::Text(_) => "put it in quotes",
        }
    }
}

//! From the config to what workers go by.

use std::time::Duration;

use crate::config::Config;
use crate::resp::RequestLimits;
use crate::worker::shared::{Limits, NodeCredentials, Settings};
use crate::worker::slowlog::SlowLogSettings;

/// A node that answers nothing for this long after a deadline passed is connected anew.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// No queue may hold more than this, whatever the settings say: a wave of large requests above it still fits 32 bits.
const QUEUE_BYTES_MAX: usize = 1 << 30;

/// What workers go by under this config.
#[must_use]
pub fn settings_of(config: &Config) -> Settings {
    Settings {
        limits: limits_of(config),
        credentials: credentials_of(config),
        admin_credentials: admin_credentials_of(config),
        on_empty: config.nodes.on_empty,
        on_gap: config.nodes.on_gap,
        redis_version: config.proxy.redis_version.clone(),
        max_clients: config.proxy.max_clients,
        slowlog: SlowLogSettings {
            slower_than_us: config.slowlog.slower_than.map(micros32),
            entries_max: config.slowlog.entries_max,
            show_args: config.slowlog.show_args,
        },
        migration: config.migration.clone(),
    }
}

/// As whom the control side asks nodes under this config.
#[must_use]
pub fn admin_credentials_of(config: &Config) -> NodeCredentials {
    let usual = credentials_of(config);
    match &config.nodes.admin {
        Some((name, password)) => NodeCredentials {
            username: Some(name.clone()),
            password: Some(password.clone()),
            ..usual
        },
        None => usual,
    }
}

/// How links log in to nodes under this config, unless the topology names a user.
fn credentials_of(config: &Config) -> NodeCredentials {
    NodeCredentials {
        username: config.nodes.username.clone(),
        password: config.nodes.password.clone(),
        tls: config.nodes.tls.side.clone(),
    }
}

/// Data workers: as set, or one for each core.
#[must_use]
pub fn worker_count(config: &Config) -> usize {
    match config.proxy.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => usize::from(count),
    }
}

fn limits_of(config: &Config) -> Limits {
    let (proxy, nodes) = (&config.proxy, &config.nodes);
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    Limits {
        request: RequestLimits {
            bulk_max: proxy.request_bytes_max,
            ..RequestLimits::default()
        },
        in_flight: proxy.in_flight_max,
        in_flight_bytes: proxy.in_flight_bytes_max,
        request_memory: proxy.request_memory_max / worker_count(config),
        output_soft: proxy.output_bytes_soft,
        output_hard: proxy.output_bytes_hard,
        output_stall: proxy.output_stall_timeout.unwrap_or(Duration::MAX),
        idle: proxy.idle_timeout.unwrap_or_default(),
        handshake: proxy.handshake_timeout,
        request_timeout_us: proxy.request_timeout.map_or(0, micros),
        silence_max_us: micros(SILENCE_MAX),
        link_in_flight: nodes.in_flight_max,
        link_in_flight_bytes: nodes.in_flight_bytes_max,
        node_queue: nodes.queue_max,
        // Places in a backlog are 32 bits wide.
        node_queue_bytes: nodes.queue_bytes_max.min(QUEUE_BYTES_MAX),
        keys: proxy.keys_max,
        tracking_keys: proxy.tracking_keys_max,
        batches: nodes.batches_in_flight,
        hold: proxy.hold_max,
        dedicated: nodes.dedicated_max,
        shared_connections: usize::from(nodes.shared_connections),
        keepalive: proxy.tcp_keepalive.unwrap_or_default(),
        connect: nodes.connect_timeout,
        backoff_max: nodes.reconnect_backoff_max,
    }
}

/// An hour, the longest that may be set, fits.
fn micros32(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

//! Sums over the workers, for `INFO` and for the admin listener's tables.

use super::labels::{ErrorCode, Label, Origin, Wire};
use super::{Metrics, WorkerMetrics};
use crate::ids::ShardId;

/// Sums of the whole process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests of all commands, unknown and refused ones included.
    pub requests: u64,
    /// Error replies, by whomever.
    pub errors: u64,
    /// Clients connected now.
    pub client_connections: u64,
    /// Clients that track.
    pub tracking_clients: u64,
    /// Clients ever accepted.
    pub connections_total: u64,
    /// Clients refused for `max_clients`.
    pub rejected_connections: u64,
    /// Bytes read from clients.
    pub receive_bytes: u64,
    /// Bytes written to clients.
    pub transmit_bytes: u64,
    /// Request bytes in memory.
    pub input_buffer_bytes: u64,
    /// Reply bytes in memory.
    pub output_buffer_bytes: u64,
    /// Seconds since the process began to count.
    pub uptime_seconds: u64,
}

/// Sums about one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTotals {
    /// Whether any worker has a working connection.
    pub up: bool,
    /// Connections open now.
    pub connections: u64,
    /// Commands whose reply is due.
    pub in_flight: u64,
    /// Commands that wait to be sent.
    pub queue_commands: u64,
    /// Commands answered.
    pub replies: u64,
    /// Commands whose reply did not come in time.
    pub timeouts: u64,
}

/// Sums about one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardTotals {
    /// Commands sent.
    pub requests: u64,
    /// Request bytes sent.
    pub request_bytes: u64,
    /// Reply bytes received.
    pub reply_bytes: u64,
}

impl Metrics {
    /// Sums of the whole process.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            uptime_seconds: self.sources.started.elapsed().as_secs(),
            ..Totals::default()
        };
        for worker in self.sources.all() {
            totals.requests += worker.requests.sum();
            totals.errors += errors(worker);
            totals.client_connections += clients(worker);
            totals.tracking_clients += worker.tracking_clients.load();
            totals.connections_total += worker.connections_total.load();
            totals.rejected_connections += worker.disconnects[super::Disconnect::MaxClients].load();
            totals.receive_bytes += worker.receive_bytes.load();
            totals.transmit_bytes += worker.transmit_bytes.load();
            totals.input_buffer_bytes += worker.input_buffer_bytes.load();
            totals.output_buffer_bytes += worker.output_buffer_bytes.load();
        }
        totals
    }

    /// Clients connected to each worker.
    #[must_use]
    pub fn clients_by_worker(&self) -> Vec<u64> {
        self.sources
            .workers
            .iter()
            .map(|worker| clients(worker))
            .collect()
    }

    /// Names of the touched commands with their requests.
    #[must_use]
    pub fn command_calls(&self) -> Vec<(&'static str, u64)> {
        let calls =
            |(index, name): (usize, &&'static str)| (*name, self.sources.sum(|w| w.requests.load(index)));
        self.sources
            .command_names
            .iter()
            .enumerate()
            .map(calls)
            .filter(|(_, calls)| *calls > 0)
            .collect()
    }

    /// Names of the commands that are known, were asked for and are not served, with how often.
    #[must_use]
    pub fn unsupported_calls(&self) -> Vec<(&'static str, u64)> {
        let calls =
            |(index, name): (usize, &&'static str)| (*name, self.sources.sum(|w| w.unsupported.load(index)));
        self.sources
            .command_names
            .iter()
            .enumerate()
            .map(calls)
            .filter(|(_, calls)| *calls > 0)
            .collect()
    }

    /// Requests for commands that nobody knows.
    #[must_use]
    pub fn unknown_commands(&self) -> u64 {
        self.sources.sum(|w| w.unsupported.load_other())
    }

    /// Error replies of each code that was given, by whomever.
    #[must_use]
    pub fn error_codes(&self) -> Vec<(&'static str, u64)> {
        let count = |&code: &ErrorCode| {
            let sum = |w: &WorkerMetrics| {
                Origin::ALL
                    .iter()
                    .map(|&origin| w.errors[origin][code].load())
                    .sum()
            };
            (code.name(), self.sources.sum(sum))
        };
        ErrorCode::ALL
            .iter()
            .map(count)
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Sums about the node `name`; zeros when nothing was counted.
    #[must_use]
    pub fn node_totals(&self, name: &str) -> NodeTotals {
        let mut totals = NodeTotals::default();
        for cells in self.sources.all().filter_map(|worker| worker.known_node(name)) {
            let mut answered = super::HistogramTotal::default();
            cells.duration.add_to(&mut answered);
            totals.up |= cells.up.load() > 0;
            totals.connections += Wire::ALL
                .iter()
                .map(|&wire| cells.connections[wire].load())
                .sum::<u64>();
            totals.in_flight += cells.in_flight.load();
            totals.queue_commands += cells.queue_commands.load();
            totals.replies += answered.count();
            totals.timeouts += cells.timeouts.load();
        }
        totals
    }

    /// How many nodes any worker has a working connection to.
    #[must_use]
    pub fn nodes_up(&self) -> usize {
        self.sources
            .node_names()
            .iter()
            .filter(|name| self.node_totals(name).up)
            .count()
    }

    /// Sums about one shard.
    #[must_use]
    pub fn shard_totals(&self, shard: ShardId) -> ShardTotals {
        ShardTotals {
            requests: self.sources.sum(|w| {
                w.shards
                    .get(shard.index())
                    .map_or(0, |cells| cells.requests.load())
            }),
            request_bytes: self.sources.sum(|w| {
                w.shards
                    .get(shard.index())
                    .map_or(0, |cells| cells.request_bytes.load())
            }),
            reply_bytes: self.sources.sum(|w| {
                w.shards
                    .get(shard.index())
                    .map_or(0, |cells| cells.reply_bytes.load())
            }),
        }
    }
}

fn clients(worker: &WorkerMetrics) -> u64 {
    Wire::ALL
        .iter()
        .map(|&wire| worker.client_connections[wire].load())
        .sum()
}

fn errors(worker: &WorkerMetrics) -> u64 {
    let of = |&origin: &Origin| {
        ErrorCode::ALL
            .iter()
            .map(|&code| worker.errors[origin][code].load())
            .sum::<u64>()
    };
    Origin::ALL.iter().map(of).sum()
}

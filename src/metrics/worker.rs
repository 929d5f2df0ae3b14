//! The cells of one worker: written by its thread alone, read by the scrape.
//!
//! A field is a family, an index into it is a label value. The session and the backend hold an `Arc` of these
//! and count where things happen; there is no lookup by name on the way of a request. Cells of a node come as
//! an `Arc` by the node's name, once per connection: the topology's numbering may change, a name stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::cell::{Cell, Gauge, Histogram, Rows};
use super::labels::{
    By, Disconnect, ErrorCode, Handshake, Label as _, Limit, LinkClose, Origin, Refused, RequestClass, Wire,
};
use crate::ids::ShardId;

/// What one worker counts. The alignment keeps two workers' cells out of each other's cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Requests by command number.
    pub requests: Rows,
    /// Requests for commands that are known but not served, by command number; unknown ones beyond the last.
    pub unsupported: Rows,
    /// What each shard was sent and answered, by shard number.
    pub shards: Box<[ShardCells]>,
    /// Error replies by who made them and by their first word.
    pub errors: By<Origin, By<ErrorCode, Cell>>,
    /// From the last byte of a request read to its reply handed to the socket.
    pub request_duration: By<RequestClass, Histogram>,
    /// Clients connected now.
    pub client_connections: By<Wire, Gauge>,
    /// Clients ever accepted.
    pub connections_total: Cell,
    /// Clients gone, by reason.
    pub disconnects: By<Disconnect, Cell>,
    /// Handshakes of clients that speak TLS, by how they ended.
    pub handshakes: By<Handshake, Cell>,
    /// Failed `AUTH` and `HELLO … AUTH`.
    pub auth_failures: Cell,
    /// Requests that the rules of a user did not allow.
    pub refused: By<Refused, Cell>,
    /// Bytes read from clients.
    pub receive_bytes: Cell,
    /// Bytes written to clients.
    pub transmit_bytes: Cell,
    /// Request bytes in memory: read and not yet passed to a node, those held by a gate included.
    pub input_buffer_bytes: Gauge,
    /// Reply bytes in memory that clients did not yet take.
    pub output_buffer_bytes: Gauge,
    /// Limits reached.
    pub limits: By<Limit, Cell>,
    /// Parts that split and fan-out requests were made into.
    pub fanout_parts: Cell,
    /// Clients whose requests wait for the end of `CLIENT PAUSE`.
    pub paused_clients: Gauge,
    /// Requests at the gates of held shards.
    pub held_requests: Gauge,
    /// Requests that came into the slow log.
    pub slowlog_entries: Cell,
    /// Replies with data for clients that had left.
    pub popped_for_nobody: Cell,
    /// Scripts whose bodies are kept.
    pub scripts: Gauge,
    /// Bytes of those bodies.
    pub script_bytes: Gauge,
    /// Scripts that a node did not know and was told, without the client seeing it.
    pub scripts_healed: Cell,
    /// Clients that have subscribed to something.
    pub pubsub_clients: Gauge,
    /// Channels that a client of this worker has subscribed to.
    pub pubsub_channels: Gauge,
    /// Patterns that a client of this worker has subscribed to.
    pub pubsub_patterns: Gauge,
    /// Shard channels that a client of this worker has subscribed to.
    pub pubsub_shard_channels: Gauge,
    /// Messages that nodes sent to this worker.
    pub pubsub_messages: Cell,
    /// Messages handed to clients.
    pub pubsub_deliveries: Cell,
    /// Clients that track.
    pub tracking_clients: Gauge,
    /// Keys that are tracked.
    pub tracking_keys: Gauge,
    /// Prefixes that are tracked.
    pub tracking_prefixes: Gauge,
    /// Bytes of the names of both, about.
    pub tracking_bytes: Gauge,
    /// Invalidations sent to clients.
    pub tracking_invalidations: Cell,
    /// Keys that were invalidated to make room.
    pub tracking_evictions: Cell,
    nodes: Mutex<BTreeMap<String, Arc<NodeCells>>>,
}

impl WorkerMetrics {
    /// Cells at zero for a table of `commands` commands and a topology of `shards` shards, pinned included.
    #[must_use]
    pub fn new(commands: usize, shards: usize) -> Self {
        Self {
            requests: Rows::new(commands),
            unsupported: Rows::new(commands),
            shards: (0..shards).map(|_| ShardCells::default()).collect(),
            errors: By::default(),
            request_duration: By::default(),
            client_connections: By::default(),
            connections_total: Cell::default(),
            disconnects: By::default(),
            handshakes: By::default(),
            auth_failures: Cell::default(),
            refused: By::default(),
            receive_bytes: Cell::default(),
            transmit_bytes: Cell::default(),
            input_buffer_bytes: Gauge::default(),
            output_buffer_bytes: Gauge::default(),
            limits: By::default(),
            fanout_parts: Cell::default(),
            paused_clients: Gauge::default(),
            held_requests: Gauge::default(),
            slowlog_entries: Cell::default(),
            popped_for_nobody: Cell::default(),
            scripts: Gauge::default(),
            script_bytes: Gauge::default(),
            scripts_healed: Cell::default(),
            pubsub_clients: Gauge::default(),
            pubsub_channels: Gauge::default(),
            pubsub_patterns: Gauge::default(),
            pubsub_shard_channels: Gauge::default(),
            pubsub_messages: Cell::default(),
            pubsub_deliveries: Cell::default(),
            tracking_clients: Gauge::default(),
            tracking_keys: Gauge::default(),
            tracking_prefixes: Gauge::default(),
            tracking_bytes: Gauge::default(),
            tracking_invalidations: Cell::default(),
            tracking_evictions: Cell::default(),
            nodes: Mutex::default(),
        }
    }

    /// This worker's cells of the node `name`. Takes a lock: ask once for each connection and keep the `Arc`. Ask
    /// again after a change of topology: the rows of a node that had left begin anew.
    #[must_use]
    pub fn node(&self, name: &str) -> Arc<NodeCells> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cells) = nodes.get(name) {
            return Arc::clone(cells);
        }
        Arc::clone(nodes.entry(name.to_owned()).or_default())
    }

    /// This worker's cells of the node `name`, if it ever asked for them.
    pub(super) fn known_node(&self, name: &str) -> Option<Arc<NodeCells>> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .map(Arc::clone)
    }

    /// Names of the nodes whose cells this worker asked for.
    pub(super) fn node_names(&self) -> Vec<String> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    /// Forgets the nodes that `keep` does not want.
    pub(super) fn retain_nodes(&self, keep: impl Fn(&str) -> bool) {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| keep(name));
    }

    /// Counts a command that was sent to a shard.
    #[inline]
    pub fn shard_request(&self, shard: ShardId, bytes: usize) {
        if let Some(cells) = self.shards.get(shard.index()) {
            cells.requests.inc();
            cells.request_bytes.add(bytes as u64);
        }
    }

    /// Counts a reply, or a piece of one, that came from a shard.
    #[inline]
    pub fn shard_reply(&self, shard: ShardId, bytes: usize) {
        if let Some(cells) = self.shards.get(shard.index()) {
            cells.reply_bytes.add(bytes as u64);
        }
    }

    /// Counts bytes that a client's socket took.
    #[inline]
    pub fn transmitted(&self, bytes: usize) {
        self.transmit_bytes.add(bytes as u64);
    }

    /// Counts how long a request took.
    #[inline]
    pub fn duration(&self, class: RequestClass, micros: u32) {
        self.request_duration[class].observe(micros);
    }

    /// Counts an error reply to a client.
    pub fn error(&self, origin: Origin, code: ErrorCode) {
        self.errors[origin][code].inc();
    }

    /// Counts a limit that was reached.
    pub fn limit_reached(&self, limit: Limit) {
        self.limits[limit].inc();
    }

    /// Counts the parts that a request was made into.
    pub fn fan_out_parts(&self, parts: usize) {
        self.fanout_parts.add(parts as u64);
    }
}

/// What one worker counts about one shard: together, since a request touches them together.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct ShardCells {
    /// Commands sent.
    pub requests: Cell,
    /// Request bytes sent.
    pub request_bytes: Cell,
    /// Reply bytes received.
    pub reply_bytes: Cell,
}

/// What one worker counts about one node.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct NodeCells {
    /// 1 while this worker has a working connection to the node.
    pub up: Gauge,
    /// Connections open now, by protocol.
    pub connections: By<Wire, Gauge>,
    /// Commands sent whose reply is due.
    pub in_flight: Gauge,
    /// Commands that wait to be sent.
    pub queue_commands: Gauge,
    /// Bytes that wait to be sent.
    pub queue_bytes: Gauge,
    /// Connections that one client has for itself.
    pub dedicated_used: Gauge,
    /// Connections for one client that nobody has now.
    pub dedicated_idle: Gauge,
    /// Connections made.
    pub connects: Cell,
    /// Connections that could not be made.
    pub connect_failures: Cell,
    /// Commands whose reply did not come in time.
    pub timeouts: Cell,
    /// Connections ended, by reason.
    pub links_closed: By<LinkClose, Cell>,
    /// How often what is published on the node was not heard for a while.
    pub subscription_gaps: Cell,
    /// How often changes on the node were not heard for a while, with clients that track.
    pub tracking_gaps: Cell,
    /// How often the node came back without its data.
    pub came_back_empty: Cell,
    /// How often preshard made its own users on the node.
    pub users_made: Cell,
    /// How often it could not, although the node answered.
    pub users_failed: Cell,
    /// From the request queued to its reply read.
    pub duration: Histogram,
}

impl NodeCells {
    /// A connection was made.
    pub fn link_opened(&self, wire: Wire) {
        self.connects.inc();
        self.connections[wire].add(1);
        self.up.set(1);
    }

    /// A connection has ended. The node stays up for this worker while another one is open.
    pub fn link_closed(&self, wire: Wire, why: LinkClose) {
        self.links_closed[why].inc();
        self.connections[wire].sub(1);
        self.show_up();
    }

    /// A connection could not be made.
    pub fn link_failed(&self) {
        self.connect_failures.inc();
        self.show_up();
    }

    fn show_up(&self) {
        let open = Wire::ALL.iter().any(|&wire| self.connections[wire].load() > 0);
        self.up.set(u64::from(open));
    }
}

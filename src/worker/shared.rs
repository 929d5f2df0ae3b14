//! What all workers share: settings, the topology's cell, counters, who is connected.
//!
//! Nothing here is written on the way of a request. A worker takes the topology once for each turn of a task, and
//! only if its epoch has changed.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use sha1::{Digest as _, Sha1};
use tokio::sync::Notify;

use super::pause::ClientPause;
use super::pubsub::Directory;
use super::registry::Registry;
use super::scripts::ScriptCache;
use super::slowlog::{SlowLog, SlowLogSettings};
use crate::config::{OnEmpty, OnGap, PasswordHash, Secret};
use crate::ids::NodeIndex;
use crate::metrics::Metrics;
use crate::resp::RequestLimits;
use crate::tls::ClientSide;
use crate::topology::{Address, Topology};

/// The limits of the data plane; each has a named outcome.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What one request may be.
    pub request: RequestLimits,
    /// Requests in flight of one client: beyond, it is not read.
    pub in_flight: usize,
    /// Request bytes in flight of one client: beyond, it is not read.
    pub in_flight_bytes: usize,
    /// Request bytes that one worker holds for all its clients: who needs more is closed.
    pub request_memory: usize,
    /// Reply bytes that a client has not taken: beyond, its requests are not taken.
    pub output_soft: usize,
    /// Reply bytes that a client has not taken: beyond, it is closed.
    pub output_hard: usize,
    /// A client that takes no byte of waiting replies for this long is closed.
    pub output_stall: Duration,
    /// A client that sends nothing for this long is closed. Zero: never.
    pub idle: Duration,
    /// A client that has not given its password after this long is closed.
    pub handshake: Duration,
    /// From the bytes written to a node to its reply. 0: none.
    pub request_timeout_us: u64,
    /// A node that answers nothing for this long after a deadline passed is connected anew.
    pub silence_max_us: u64,
    /// Requests sent and not answered on one link: beyond, they wait in the queue.
    pub link_in_flight: usize,
    /// Bytes sent and not answered on one link.
    pub link_in_flight_bytes: usize,
    /// Requests that wait for one link: beyond, the clients that bring them are not read.
    pub node_queue: usize,
    /// Bytes that wait for one link.
    pub node_queue_bytes: usize,
    /// Keys in the reply of KEYS.
    pub keys: usize,
    /// Keys that a worker tracks for its clients: beyond, one goes and who has read it is told.
    pub tracking_keys: usize,
    /// Unanswered writes on one link, by node.
    pub batches: Vec<usize>,
    /// Connections to one node that one client has for itself, of all workers together.
    pub dedicated: usize,
    /// Shared connections for each worker, node and protocol.
    pub shared_connections: usize,
    /// TCP keepalive towards clients and nodes.
    pub keepalive: Duration,
    /// To connect to a node and be ready to send.
    pub connect: Duration,
    /// Longest pause between two attempts to connect to a node.
    pub backoff_max: Duration,
}

impl Limits {
    pub(super) fn batches_max(&self, node: NodeIndex) -> usize {
        self.batches.get(node.index()).copied().unwrap_or(1)
    }
}

/// How preshard logs in to nodes.
#[derive(Clone, Default)]
pub struct NodeCredentials {
    /// ACL user; `default` if none.
    pub username: Option<String>,
    /// Password, if nodes want one.
    pub password: Option<Secret>,
    /// TLS, if it is spoken with those that are reached over TCP.
    pub tls: Option<ClientSide>,
}

impl fmt::Debug for NodeCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCredentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What the proxy says of its nodes without asking them: kept fresh by the control side.
#[derive(Clone, Debug, Default)]
pub struct NodesView {
    /// By node.
    pub nodes: Vec<NodeView>,
}

/// What was last heard of one node.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// It answered the last probe.
    pub up: bool,
    /// Why it is not up.
    pub error: String,
    /// `redis_version` of its INFO.
    pub version: String,
    /// `used_memory` in bytes.
    pub used_memory: u64,
    /// `maxmemory_policy`.
    pub maxmemory_policy: String,
    /// `instantaneous_ops_per_sec`.
    pub ops: u64,
    /// Databases that it has, 0 if it does not say.
    pub databases: u64,
    /// Keys, and keys with an expiry, by database.
    pub keys: Vec<(u16, u64, u64)>,
}

/// How the proxy looks to clients that speak to a Redis Cluster: one node with every slot.
#[derive(Debug)]
pub struct ClusterNode {
    /// The id of the node, 40 hexadecimal digits.
    pub id: String,
    /// The id of its shard in the cluster's sense, likewise.
    pub shard_id: String,
    /// The address that was set; none: that of the data listener.
    advertise: Option<Address>,
}

impl ClusterNode {
    /// The node of a cluster; its ids stay the same as long as the cluster's name does.
    #[must_use]
    pub fn new(cluster_id: &str, advertise: Option<Address>) -> Self {
        let id = |what: &str| -> String {
            let sum = Sha1::digest(format!("preshard {what} {cluster_id}"));
            sum.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        Self {
            id: id("node"),
            shard_id: id("shard"),
            advertise,
        }
    }
}

/// What a running proxy may be told to do otherwise. Exchanged as a whole; each worker keeps the one that it was told of
/// last ([`Order::Adopt`](super::Order::Adopt)), so that no request looks for a newer one.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits of the data plane.
    pub limits: Limits,
    /// The clients' password, if there is one.
    pub password: Option<PasswordHash>,
    /// Towards nodes.
    pub credentials: NodeCredentials,
    /// What to do with a node that comes back empty.
    pub on_empty: OnEmpty,
    /// What to do with subscribers that may have missed messages.
    pub on_gap: OnGap,
    /// Redis version to claim instead of the nodes' lowest.
    pub redis_version: Option<String>,
    /// `maxclients`.
    pub max_clients: usize,
    /// Which requests are slow.
    pub slowlog: SlowLogSettings,
}

/// What all workers share.
pub struct Shared {
    /// The settings in force.
    pub settings: ArcSwap<Settings>,
    /// Whether, and as what, it answers clients in cluster mode.
    pub cluster: Option<ClusterNode>,
    /// Address that INFO and CONFIG GET show.
    pub data_address: RwLock<String>,
    /// Path of the config file.
    pub config_file: PathBuf,
    /// The topology that is served.
    pub topology: ArcSwap<Topology>,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// All clients.
    pub registry: Registry,
    /// Scripts that went through.
    pub scripts: Arc<ScriptCache>,
    /// Connections that one client has for itself, by node.
    pub dedicated: Vec<Arc<AtomicUsize>>,
    /// Rung by a link that finds its node empty, by node.
    pub empty_nodes: Vec<Notify>,
    /// `CLIENT PAUSE`.
    pub pause: ClientPause,
    /// Requests that took long.
    pub slowlog: SlowLog,
    /// Who listens to which channel.
    pub channels: Arc<Directory>,
    /// What is known of the nodes.
    pub nodes: ArcSwap<NodesView>,
    /// The proxy is on its way out.
    pub draining: AtomicBool,
    /// Start of the process.
    pub started: Instant,
    /// Unix time of the start, in seconds.
    pub started_unix: u64,
    /// Identifies this run of the proxy, as Redis's `run_id`.
    pub run_id: String,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("run_id", &self.run_id)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The address of the data listener, as INFO shows it.
    #[must_use]
    pub fn data_address(&self) -> String {
        self.data_address
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Host and port that clients in cluster mode are told.
    #[must_use]
    pub fn advertised(&self, node: &ClusterNode) -> (String, u16) {
        let bound = || self.data_address().parse().ok();
        match node.advertise.clone().or_else(bound) {
            Some(Address::Tcp { host, port }) => (host, port),
            // An empty host means "where you are connected to"; the config does not let it come to this.
            Some(Address::Unix(_)) | None => (String::new(), 0),
        }
    }

    /// What INFO and HELLO call the mode.
    #[must_use]
    pub const fn redis_mode(&self) -> &'static str {
        if self.cluster.is_some() {
            "cluster"
        } else {
            "standalone"
        }
    }

    /// Milliseconds since the start of the process.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the proxy is on its way out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// The version of Redis that clients are told: the setting, or the lowest of the nodes.
    #[must_use]
    pub fn redis_version(&self) -> String {
        if let Some(version) = &self.settings.load().redis_version {
            return version.clone();
        }
        let nodes = self.nodes.load();
        let versions = nodes
            .nodes
            .iter()
            .map(|node| node.version.as_str())
            .filter(|version| !version.is_empty());
        versions
            .min_by_key(|version| version_number(version))
            .unwrap_or("7.0.0")
            .to_owned()
    }
}

/// A version as numbers, to be compared.
#[must_use]
pub fn version_number(version: &str) -> [u32; 3] {
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(version.split('.')) {
        *number = part.parse().unwrap_or(0);
    }
    numbers
}

/// Unanswered writes that suit a node: one where the answer comes at once, more where the network takes its time.
#[must_use]
pub fn batches_for(address: &Address) -> usize {
    if address.is_loopback() { 1 } else { 3 }
}

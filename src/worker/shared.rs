//! What all workers share: settings, the topology's cell, counters, who is connected.
//!
//! Nothing here is written on the way of a request. [`Shared::adopt`] puts the next topology in force; each worker is
//! woken, takes it over in its own time, and says so.

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, Release},
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::pause::ClientPause;
use super::pubsub::Directory;
use super::registry::Registry;
use super::scripts::ScriptCache;
use super::slowlog::{SlowLog, SlowLogSettings};
use super::users::{Attempts, Users};
use crate::acl::Rights;
use crate::config::{AclUsers, Batches, Migration, OnEmpty, OnGap, Secret};
use crate::ids::{Epoch, NodeIndex};
use crate::metrics::Metrics;
use crate::resp::{RequestLimits, Value};
use crate::tls::ClientSide;
use crate::topology::{Address, SuccessionError, Topology};

/// What the names of workers' connections to nodes begin with.
const CONNECTION_PREFIX: &str = "preshard-";

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
    /// Unanswered writes on one link.
    pub batches: Batches,
    /// How long requests of a shard wait that is paused or on its way to another node.
    pub hold: Duration,
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
    /// Unanswered writes on a link to this address.
    pub(super) fn batches_max(&self, address: &Address) -> usize {
        match self.batches {
            Batches::Auto => batches_for(address),
            Batches::Fixed(count) => usize::from(count),
        }
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
    /// `maxmemory` in bytes, 0 if there is none.
    pub maxmemory: u64,
    /// `maxmemory_policy`.
    pub maxmemory_policy: String,
    /// `instantaneous_ops_per_sec`.
    pub ops: u64,
    /// Databases that it has, 0 if it does not say.
    pub databases: u64,
    /// Keys, and keys with an expiry, by database.
    pub keys: Vec<(u16, u64, u64)>,
}

/// The password of one of preshard's own users on nodes: whoever has the cluster's secret can tell it, nobody else.
#[must_use]
pub fn user_password(secret: &Secret, user: &str) -> Secret {
    let sum = match Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()) {
        Ok(mut sum) => {
            sum.update(user.as_bytes());
            sum.finalize().into_bytes()
        }
        // Keys of any length are good.
        Err(error) => unreachable!("{error}"),
    };
    Secret::new(sum.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a worker's connections are called on nodes.
pub(crate) fn connection_name(run_id: &str, worker: usize) -> String {
    format!("{CONNECTION_PREFIX}{run_id}-{worker}")
}

/// The run of the proxy that has a connection of this name on a node; none: it is no worker's.
#[must_use]
pub fn run_of_connection(name: &str) -> Option<&str> {
    let (run_id, worker) = name.strip_prefix(CONNECTION_PREFIX)?.rsplit_once('-')?;
    let is_number = !worker.is_empty() && worker.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(run_id)
}

/// What all workers share of one node.
#[derive(Debug, Default)]
pub struct NodeShared {
    /// Connections that one client has for itself.
    pub dedicated: Arc<AtomicUsize>,
    /// Rung by a link that finds the node empty.
    pub empty: Notify,
    /// Rung by a link that cannot log in as the user that the topology names, or finds another run of the node.
    pub users: Notify,
    /// Tells connections that could not be made to try again: there is another reason to hope than time.
    pub again: Notify,
}

/// How one topology follows the other, and what changes with it.
#[derive(Debug)]
pub struct Succession {
    /// By node, those that have left included.
    per_node: ArcSwap<Vec<Arc<NodeShared>>>,
    /// Tells of each topology that is put in force.
    changes: watch::Sender<Epoch>,
    /// The epoch that each worker serves.
    served: Box<[AtomicU64]>,
    /// Rings when a worker serves another one.
    serves: Notify,
    one_by_one: Mutex<()>,
}

impl Succession {
    /// Begins with a topology that all workers serve from their start.
    #[must_use]
    pub fn new(first: &Topology, workers: usize) -> Self {
        let per_node = first.nodes.iter().map(|_| Arc::default()).collect();
        Self {
            per_node: ArcSwap::from_pointee(per_node),
            changes: watch::Sender::new(first.epoch),
            served: (0..workers).map(|_| AtomicU64::new(first.epoch.0)).collect(),
            serves: Notify::new(),
            one_by_one: Mutex::default(),
        }
    }

    /// Is told the epoch of each topology that is put in force.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Epoch> {
        self.changes.subscribe()
    }

    /// Has all workers look again whether there is a topology to take over.
    pub(super) fn remind(&self) {
        self.changes.send_modify(|_| ());
    }

    pub(crate) fn is_served(&self, worker: usize, epoch: Epoch) {
        if let Some(served) = self.served.get(worker) {
            served.store(epoch.0, Relaxed);
            self.serves.notify_waiters();
        }
    }
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

/// A `PRESHARD` request of a client of the data port.
#[derive(Debug)]
pub struct AdminRequest {
    /// Its bytes.
    pub frame: Vec<u8>,
    /// What its client may do.
    pub rights: Rights,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Value>,
}

/// Such requests that may wait for the control side.
pub const ADMIN_REQUESTS_MAX: usize = 64;

/// What a running proxy may be told to do otherwise. Exchanged as a whole; each worker keeps the one that it was told of
/// last ([`Order::Settings`](super::Order::Settings)), so that no request looks for a newer one.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits of the data plane.
    pub limits: Limits,
    /// Towards nodes, unless the topology says otherwise.
    pub credentials: NodeCredentials,
    /// Towards nodes, for what administers them.
    pub admin_credentials: NodeCredentials,
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
    /// How much moves may take.
    pub migration: Migration,
}

/// What all workers share.
pub struct Shared {
    /// The settings in force.
    pub settings: ArcSwap<Settings>,
    /// Who may connect; see [`Self::replace_users`].
    pub users: ArcSwap<Users>,
    /// How often the users were replaced.
    pub users_generation: AtomicU64,
    /// How often whole counters were deleted: registries may have lost names.
    pub registrations: AtomicU64,
    /// Wrong passwords of clients.
    pub attempts: Attempts,
    /// Takes `PRESHARD` requests of the data port to the control side.
    pub admin_requests: mpsc::Sender<AdminRequest>,
    /// What the passwords of preshard's own users on nodes are made of.
    pub node_secret: OnceLock<Secret>,
    /// Whether preshard makes users of its own on nodes.
    pub acl_users: AclUsers,
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
    /// How one topology follows the other.
    pub succession: Succession,
    /// Rung by a link that finds a node ahead of the topology that is served.
    pub behind: Notify,
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

    /// Puts other users in force. Each worker takes them up in its next turn, within a tenth of a second: a client keeps
    /// its connection and has the new rights from its next request on, unless its user is gone or off, or it listens
    /// to what it may not hear any more; then it is closed. A changed password closes nobody, as in Redis.
    pub fn replace_users(&self, mut users: Users) {
        users.inherit(&self.users.load());
        self.users.store(Arc::new(users));
        self.users_generation.fetch_add(1, Release);
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

    /// How to log in as one of preshard's own users, or as the config says.
    #[must_use]
    pub fn credentials_of(&self, user: Option<&str>) -> NodeCredentials {
        let settings = self.settings.load();
        match (user, self.node_secret.get()) {
            (Some(user), Some(secret)) => NodeCredentials {
                username: Some(user.to_owned()),
                password: Some(user_password(secret, user)),
                tls: settings.credentials.tls.clone(),
            },
            (Some(_), None) | (None, _) => settings.credentials.clone(),
        }
    }

    /// As whom the control side asks a node, and how long that may take, as the settings are now.
    #[must_use]
    pub fn admin_login(&self) -> (NodeCredentials, Duration) {
        let settings = self.settings.load();
        (settings.admin_credentials.clone(), settings.limits.connect)
    }

    /// What all workers share of a node. A position that no topology of this process has had is a node of its own.
    #[must_use]
    pub fn node(&self, node: NodeIndex) -> Arc<NodeShared> {
        let per_node = self.succession.per_node.load();
        per_node.get(node.index()).cloned().unwrap_or_default()
    }

    /// Puts the next topology in force in this process. Workers take it over one by one: [`Self::epoch_served`].
    ///
    /// # Errors
    /// It may not follow the one that is served; nothing has changed.
    pub fn adopt(&self, next: Topology) -> Result<(), SuccessionError> {
        let Succession {
            per_node,
            changes,
            one_by_one,
            ..
        } = &self.succession;
        let _one_by_one = one_by_one.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next.succeed(&self.topology.load())?;
        let epoch = next.epoch;
        let mut nodes = Vec::clone(&per_node.load());
        nodes.resize_with(next.nodes.len(), Arc::default);
        per_node.store(Arc::new(nodes));
        self.metrics.set_assignment((&next).into());
        self.topology.store(Arc::new(next));
        changes.send_replace(epoch);
        Ok(())
    }

    /// The epoch that all workers serve.
    #[must_use]
    pub fn epoch_served(&self) -> Epoch {
        let lowest = self
            .succession
            .served
            .iter()
            .map(|epoch| epoch.load(Relaxed))
            .min();
        Epoch(lowest.unwrap_or(0))
    }

    /// Waits until all workers serve this epoch or a later one.
    pub async fn until_served(&self, epoch: Epoch) {
        loop {
            let mut rung = pin!(self.succession.serves.notified());
            // Before it is looked at, so that nothing is missed in between.
            rung.as_mut().enable();
            if self.epoch_served() >= epoch {
                return;
            }
            rung.await;
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

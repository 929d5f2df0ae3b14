//! What the workers do not know: the topology as text, and what the nodes say about themselves.
//!
//! Control writes here after each change and each probe; the scrape and `INFO` read. Everything is replaced as
//! a whole or is one number, so that a reader never waits for a probe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;

use super::fleet::{FleetFigures, FleetSource};
use super::migration::{MigrationFigures, MigrationSource};
use crate::ids::{DbIndex, Epoch, ShardId};
use crate::topology::{Placement, Topology};

/// Where every shard is, with the names that labels show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Epoch of the topology.
    pub epoch: Epoch,
    /// Names of all nodes, those without shards included.
    pub nodes: Vec<String>,
    /// Names of those that have a user of preshard's own.
    pub provisioned: BTreeSet<String>,
    /// Each shard with the position of its node in `nodes` and its database.
    pub shards: Vec<(ShardId, usize, DbIndex)>,
}

impl From<&Topology> for Assignment {
    fn from(topology: &Topology) -> Self {
        let places: BTreeMap<_, _> = topology
            .nodes_by_index()
            .enumerate()
            .map(|(place, (node, _))| (node, place))
            .collect();
        let shard = |(number, placement): (u16, &Placement)| {
            let place = places.get(&placement.node).copied().unwrap_or(0);
            (ShardId(number), place, placement.db)
        };
        Self {
            epoch: topology.epoch,
            nodes: topology
                .nodes_by_index()
                .map(|(_, node)| node.name.clone())
                .collect(),
            provisioned: topology
                .nodes_by_index()
                .filter(|(node, _)| topology.access.contains_key(node))
                .map(|(_, node)| node.name.clone())
                .collect(),
            shards: (0..).zip(&topology.placements).map(shard).collect(),
        }
    }
}

/// What a probe of a node found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Version as the node says it, empty while unknown.
    pub version: String,
    /// The node's `used_memory` in bytes.
    pub used_memory_bytes: u64,
    /// How long the probe took, in microseconds.
    pub probe_micros: u64,
}

/// The facts of the whole process.
#[derive(Debug)]
pub struct Facts {
    assignment: ArcSwap<Assignment>,
    nodes: Mutex<BTreeMap<String, NodeFacts>>,
    /// Keys of each shard, [`UNKNOWN`] before the first probe.
    shard_keys: Box<[AtomicU64]>,
    log_lines_dropped: OnceLock<DroppedLines>,
    max_clients: AtomicU64,
    /// When certificates end, 0 for one that is not there.
    certificates: [AtomicU64; Certificate::ALL.len()],
    reloads: [AtomicU64; 2],
    loaded_at: AtomicU64,
    restart_pending: AtomicU64,
    fleet: FleetSource,
    migration: MigrationSource,
    user_clients: OnceLock<UserClients>,
}

/// Reads how many clients each user has.
struct UserClients(Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>);

impl std::fmt::Debug for UserClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserClients")
    }
}

/// A certificate of preshard's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// What listeners show.
    Listeners,
    /// What nodes are shown.
    Nodes,
    /// What etcd is shown.
    Store,
}

impl Certificate {
    pub(super) const ALL: [Self; 3] = [Self::Listeners, Self::Nodes, Self::Store];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::Nodes => "nodes",
            Self::Store => "store",
        }
    }
}

/// Reads how many log lines were dropped.
struct DroppedLines(Box<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for DroppedLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DroppedLines")
    }
}

/// Stands for a number of keys that no probe has found yet.
const UNKNOWN: u64 = u64::MAX;

impl Facts {
    /// Nothing known, for a topology of `shards` shards, pinned included.
    pub(super) fn new(shards: usize, max_clients: u64) -> Self {
        Self {
            assignment: ArcSwap::default(),
            nodes: Mutex::default(),
            shard_keys: (0..shards).map(|_| AtomicU64::new(UNKNOWN)).collect(),
            log_lines_dropped: OnceLock::new(),
            max_clients: AtomicU64::new(max_clients),
            certificates: Default::default(),
            reloads: Default::default(),
            loaded_at: AtomicU64::new(0),
            restart_pending: AtomicU64::new(0),
            fleet: FleetSource::default(),
            migration: MigrationSource::default(),
            user_clients: OnceLock::new(),
        }
    }

    /// Keeps when a certificate ends, in Unix time; none: there is no such certificate.
    pub fn set_certificate_end(&self, which: Certificate, ends_at: Option<u64>) {
        self.certificates[which as usize].store(ends_at.unwrap_or(0), Relaxed);
    }

    pub(super) fn certificate_end(&self, which: Certificate) -> Option<u64> {
        Some(self.certificates[which as usize].load(Relaxed)).filter(|&end| end > 0)
    }

    /// Keeps that a config was read from its file and put in force at this Unix time.
    pub fn set_config_loaded(&self, at: u64) {
        self.loaded_at.store(at, Relaxed);
    }

    /// Keeps the limit of clients that is in force, and how many keys wait for a restart.
    pub fn set_config(&self, max_clients: u64, restart_pending: u64) {
        self.max_clients.store(max_clients, Relaxed);
        self.restart_pending.store(restart_pending, Relaxed);
    }

    /// Counts a reload.
    pub fn count_reload(&self, succeeded: bool) {
        self.reloads[usize::from(succeeded)].fetch_add(1, Relaxed);
    }

    /// Reloads that succeeded, and those that failed.
    pub(super) fn config_reloads(&self) -> (u64, u64) {
        (self.reloads[1].load(Relaxed), self.reloads[0].load(Relaxed))
    }

    pub(super) fn config_loaded_at(&self) -> u64 {
        self.loaded_at.load(Relaxed)
    }

    pub(super) fn restart_pending(&self) -> u64 {
        self.restart_pending.load(Relaxed)
    }

    pub(super) fn max_clients(&self) -> u64 {
        self.max_clients.load(Relaxed)
    }

    /// The placement in force.
    #[must_use]
    pub fn assignment(&self) -> Arc<Assignment> {
        self.assignment.load_full()
    }

    pub(super) fn set_assignment(&self, assignment: Assignment) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|name, _| assignment.nodes.contains(name));
        self.assignment.store(Arc::new(assignment));
    }

    /// Keeps what a probe of the node `name` found. A node outside the topology is ignored.
    pub fn set_node(&self, name: &str, facts: NodeFacts) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.assignment.load().nodes.iter().any(|node| node == name) {
            nodes.insert(name.to_owned(), facts);
        }
    }

    /// What the last probe of the node `name` found.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeFacts> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// Keeps how many keys a shard holds.
    pub fn set_shard_keys(&self, shard: ShardId, keys: u64) {
        if let Some(cell) = self.shard_keys.get(shard.index()) {
            cell.store(keys, Relaxed);
        }
    }

    /// How many keys a shard held at the last probe.
    #[must_use]
    pub fn shard_keys(&self, shard: ShardId) -> Option<u64> {
        self.shard_keys
            .get(shard.index())
            .map(|cell| cell.load(Relaxed))
            .filter(|&keys| keys != UNKNOWN)
    }

    /// Says how to read the number of log lines that were dropped. Only the first call counts.
    pub fn set_log_lines_dropped(&self, read: impl Fn() -> u64 + Send + Sync + 'static) {
        drop(self.log_lines_dropped.set(DroppedLines(Box::new(read))));
    }

    /// Says how to read the figures of the fleet. Only the first call counts.
    pub fn set_fleet(&self, read: impl Fn() -> FleetFigures + Send + Sync + 'static) {
        self.fleet.set(read);
    }

    /// What is known of the other proxies and of the store, at this moment.
    pub(super) fn fleet(&self) -> FleetFigures {
        self.fleet.read()
    }

    /// Says how to read what is known of moves. Only the first call counts.
    pub fn set_migration(&self, read: impl Fn() -> MigrationFigures + Send + Sync + 'static) {
        self.migration.set(read);
    }

    /// What the records of tasks say at this moment.
    pub(super) fn migration(&self) -> MigrationFigures {
        self.migration.read()
    }

    /// Says how to read the clients of each user. Only the first call counts.
    pub fn set_user_clients(&self, read: impl Fn() -> Vec<(String, u64)> + Send + Sync + 'static) {
        drop(self.user_clients.set(UserClients(Box::new(read))));
    }

    pub(super) fn user_clients(&self) -> Vec<(String, u64)> {
        self.user_clients
            .get()
            .map_or_else(Vec::new, |clients| (clients.0)())
    }

    pub(super) fn log_lines_dropped(&self) -> u64 {
        self.log_lines_dropped.get().map_or(0, |dropped| (dropped.0)())
    }
}

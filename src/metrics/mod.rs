//! Metrics: cells that the workers write, families that a scrape reads.
//!
//! ```text
//!  worker 0 ──▶ WorkerMetrics ─┐
//!  worker 1 ──▶ WorkerMetrics ─┤ sum   families.rs: one row per family      prometheus
//!  control  ──▶ WorkerMetrics ─┴─────▶ (name, type, help, labels, read) ──▶ Registry ──▶ text
//!  control  ──▶ Facts ────────────────▶
//! ```
//!
//! * `cell.rs`: numbers with one writer; `labels.rs`: closed sets of label values; `worker.rs`: one worker's cells.
//! * `facts.rs`: what the workers do not know: topology, nodes' versions and memory, keys of shards.
//! * `families.rs`: the table that drives the exposition and the page `docs/METRICS.md`; `family.rs`: what its rows
//!   are made of; `read.rs`: how they are read.
//! * `fleet.rs`: the other proxies and the store, asked at each scrape. `migration.rs`: moves of shards. `users.rs`: preshard's own users on the nodes.
//! * `expose.rs`: the collector behind the registry; `process.rs`: `process_*` from `/proc`; `totals.rs`: sums.
//!
//! On the way of a request nothing here locks, allocates or shares a cache line with another thread.

mod access;
pub mod cell;
mod expose;
mod facts;
mod families;
mod families_control;
mod family;
mod fleet;
pub mod labels;
mod migration;
mod page;
mod process;
mod read;
mod totals;
mod users;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use prometheus::{Registry, TextEncoder};

pub use cell::{Cell, Gauge, Histogram, HistogramTotal, Rows};
pub use expose::{Emit, Scrape};
pub use facts::{Assignment, Certificate, Facts, NodeFacts};
pub use family::{Family, Kind, LabelName, Values};
pub use fleet::FleetFigures;
pub use labels::{
    By, Cutover, Direction, Disconnect, ErrorCode, Handshake, Label, Limit, LinkClose, Origin, Port, Refused,
    RequestClass, Wire,
};
pub use migration::{MigrationCells, MigrationFigures};
pub use page::page;
pub use process::ProcessFigures;
pub use totals::{NodeTotals, ShardTotals, Totals};
pub use worker::{NodeCells, ShardCells, WorkerMetrics};

/// Sizes that are fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct MetricsOptions {
    /// Data workers.
    pub workers: usize,
    /// Names of the commands by command number.
    pub command_names: Vec<&'static str>,
    /// Shards, pinned ones included.
    pub shards: usize,
    /// The limit of clients in all.
    pub max_clients: u64,
}

/// Every family that this process exposes.
pub fn families() -> impl Iterator<Item = &'static Family> {
    let more = fleet::FAMILIES
        .iter()
        .chain(users::FAMILIES)
        .chain(migration::FAMILIES)
        .chain(families_control::FAMILIES);
    families::FAMILIES.iter().chain(more)
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    sources: Arc<Sources>,
    registry: Registry,
}

/// What the families are read from.
#[derive(Debug)]
pub struct Sources {
    workers: Vec<Arc<WorkerMetrics>>,
    /// What is counted outside the workers, by several threads.
    control: Arc<WorkerMetrics>,
    command_names: Vec<&'static str>,
    shards: usize,
    started: Instant,
    facts: Facts,
    migration: MigrationCells,
}

impl Sources {
    fn all(&self) -> impl Iterator<Item = &WorkerMetrics> {
        self.workers.iter().chain([&self.control]).map(Arc::as_ref)
    }

    pub(super) fn migration(&self) -> &MigrationCells {
        &self.migration
    }

    pub(super) fn control(&self) -> &WorkerMetrics {
        &self.control
    }

    /// Nodes of the topology and nodes that a worker counts for, by name.
    fn node_names(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.facts.assignment().nodes.iter().cloned().collect();
        names.extend(self.all().flat_map(WorkerMetrics::node_names));
        names
    }
}

impl Metrics {
    /// Metrics at zero.
    ///
    /// # Errors
    /// When the table of families is not valid for Prometheus; a test keeps that from happening.
    pub fn new(options: MetricsOptions) -> Result<Self, prometheus::Error> {
        let commands = options.command_names.len();
        let cells = || Arc::new(WorkerMetrics::new(commands, options.shards));
        let sources = Arc::new(Sources {
            workers: (0..options.workers).map(|_| cells()).collect(),
            control: cells(),
            command_names: options.command_names,
            shards: options.shards,
            started: Instant::now(),
            facts: Facts::new(options.shards, options.max_clients),
            migration: MigrationCells::default(),
        });
        let registry = Registry::new();
        registry.register(Box::new(expose::FamiliesCollector::new(Arc::clone(&sources))?))?;
        Ok(Self { sources, registry })
    }

    /// The cells of worker `number`; that thread alone writes them.
    #[must_use]
    pub fn worker(&self, number: usize) -> Arc<WorkerMetrics> {
        debug_assert!(number < self.sources.workers.len(), "there is no worker {number}");
        Arc::clone(self.sources.workers.get(number).unwrap_or(&self.sources.control))
    }

    /// Counts that the node `name` came back without its data. Any thread may call this.
    pub fn node_came_back_empty(&self, name: &str) {
        self.sources.control.node(name).came_back_empty.add_shared(1);
    }

    /// Counts that preshard's own users were made on the node `name`, or could not be. Any thread may call this.
    pub fn node_users(&self, name: &str, made: bool) {
        let cells = self.sources.control.node(name);
        let cell = if made {
            &cells.users_made
        } else {
            &cells.users_failed
        };
        cell.add_shared(1);
    }

    /// The cells for what happens outside the workers: the acceptor, the admin listener. Several threads may
    /// write them, with the `_shared` methods only.
    #[must_use]
    pub fn control(&self) -> Arc<WorkerMetrics> {
        Arc::clone(&self.sources.control)
    }

    /// What is counted of moves. Any thread may write, with the `_shared` methods only.
    #[must_use]
    pub fn migration(&self) -> &MigrationCells {
        self.sources.migration()
    }

    /// What control knows and the workers do not.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.sources.facts
    }

    /// Takes over a new placement. Rows of nodes that left the topology disappear.
    pub fn set_assignment(&self, assignment: Assignment) {
        for worker in self.sources.all() {
            worker.retain_nodes(|name| assignment.nodes.iter().any(|node| node == name));
        }
        self.sources.facts.set_assignment(assignment);
    }

    /// Everything in Prometheus's text format 0.0.4. With a thousand shards these are some 4,500 lines, 240 KB: not
    /// work for a worker's thread.
    #[must_use]
    pub fn gather_text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(event = "metrics_encode_failed", %error);
        }
        text
    }
}

#[cfg(test)]
mod tests;

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
//! * `families.rs`: the table that drives the exposition and the page `docs/METRICS.md`.
//! * `expose.rs`: the collector behind the registry; `process.rs`: `process_*` from `/proc`; `totals.rs`: sums.
//!
//! On the way of a request nothing here locks, allocates or shares a cache line with another thread.

pub mod cell;
pub mod labels;
mod worker;

pub use cell::{Cell, Gauge, Histogram, HistogramTotal, Rows};
pub use labels::{By, Disconnect, ErrorCode, Label, Limit, LinkClose, Origin, RequestClass, Wire};
pub use worker::{NodeCells, WorkerMetrics};

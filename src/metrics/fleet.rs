//! What the control side knows of the other proxies and of the store: figures that are asked for, and their families.
//!
//! Who leads is a matter of the clock, so nothing is kept here: each scrape asks.

use std::sync::OnceLock;

use super::family::{Family, counter, gauge};
use crate::ids::Epoch;

/// What a scrape is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetFigures {
    /// The lowest epoch that a worker serves.
    pub epoch_served: Epoch,
    /// This proxy leads.
    pub leads: bool,
    /// The term of whoever leads, 0 if nobody is known to.
    pub term: u64,
    /// Proxies that live, this one included.
    pub proxies: u64,
    /// The store answers.
    pub store_up: bool,
    /// Calls to the store without an answer.
    pub store_errors: u64,
    /// Changes of the topology made here.
    pub changes: u64,
    /// How often everything had to be read anew.
    pub resyncs: u64,
}

/// Reads the figures.
#[derive(Default)]
pub(super) struct FleetSource(OnceLock<Box<dyn Fn() -> FleetFigures + Send + Sync>>);

impl std::fmt::Debug for FleetSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FleetSource")
    }
}

impl FleetSource {
    /// Only the first call counts.
    pub(super) fn set(&self, read: impl Fn() -> FleetFigures + Send + Sync + 'static) {
        drop(self.0.set(Box::new(read)));
    }

    pub(super) fn read(&self) -> FleetFigures {
        self.0.get().map(|read| read()).unwrap_or_default()
    }
}

/// The families of the fleet.
pub(super) static FAMILIES: &[Family] = &[
    gauge(
        "preshard_topology_epoch_served",
        &[],
        "The lowest epoch that a worker serves; `preshard_topology_epoch` is what was adopted.",
        |s, out| out.count(&[], s.facts.fleet().epoch_served.0),
    ),
    counter(
        "preshard_topology_changes_total",
        &[],
        "Changes of the topology that this proxy made.",
        |s, out| out.count(&[], s.facts.fleet().changes),
    ),
    gauge(
        "preshard_proxies",
        &[],
        "Proxies of the cluster that live, this one included; as last heard of the store.",
        |s, out| out.count(&[], s.facts.fleet().proxies),
    ),
    gauge(
        "preshard_leader",
        &[],
        "1 while this proxy leads. In the sum over all proxies 1, and 0 for a few seconds after a leader died.",
        |s, out| out.count(&[], u64::from(s.facts.fleet().leads)),
    ),
    gauge(
        "preshard_leader_term",
        &[],
        "Term of the proxy that leads; 0 if none is known.",
        |s, out| out.count(&[], s.facts.fleet().term),
    ),
    gauge(
        "preshard_store_up",
        &[],
        "1 while the topology store answers. Clients are served without it.",
        |s, out| out.count(&[], u64::from(s.facts.fleet().store_up)),
    ),
    counter(
        "preshard_store_errors_total",
        &[],
        "Calls to the topology store without a good answer.",
        |s, out| out.count(&[], s.facts.fleet().store_errors),
    ),
    counter(
        "preshard_store_resyncs_total",
        &[],
        "How often everything was read anew from the store, because changes might have been missed.",
        |s, out| out.count(&[], s.facts.fleet().resyncs),
    ),
];

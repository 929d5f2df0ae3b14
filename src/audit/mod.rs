//! `preshard audit`, the judging half: what an application's requests would meet if preshard stood in the way.
//!
//! ```text
//!  bytes of one client ─▶ AuditedClient: frames ─▶ Judge: the same table and routes as the proxy's ─▶ Tally ─▶ report
//!                          (bounded; else "cannot judge")   database 0 with N shards, and pinned        (bounded)
//! ```
//!
//! It sees what clients send, never what they are answered: `SELECT` and `MULTI` are taken to succeed. Nothing here
//! opens a socket; the pass-through is in `cli`.

mod client;
mod judge;
mod report;
mod tally;
#[cfg(test)]
mod tests;

pub use client::AuditedClient;
pub use report::Circumstances;

use crate::topology::{Node, Topology};
use judge::Judge;
use tally::Tally;

/// Request bytes that all clients together may leave unfinished: who brings more cannot be judged any further.
const HELD_MAX: usize = 256 * 1024 * 1024;

/// What is assumed of the preshard to be.
#[derive(Clone, Copy, Debug)]
pub struct AuditOptions {
    /// Shards of database 0, a power of two.
    pub shards: u16,
    /// Pinned databases.
    pub pinned: u16,
    /// Whether keys may stand in the report.
    pub show_keys: bool,
}

/// All that was judged so far.
#[derive(Debug)]
pub struct Audit {
    judge: Judge,
    tally: Tally,
    options: AuditOptions,
    /// Bytes of requests that have not ended yet, and how many there may be.
    held: usize,
    held_max: usize,
}

impl Audit {
    /// An audit that has seen nothing.
    ///
    /// # Errors
    /// There can be no such layout.
    pub fn new(options: AuditOptions) -> Result<Self, String> {
        // One node stands for all: where a shard lives decides nothing here.
        let node = Node {
            name: "node".to_owned(),
            address: "127.0.0.1:1".parse().map_err(|_| "no address".to_owned())?,
        };
        let topology = Topology::seed("audit".to_owned(), options.shards, options.pinned, vec![node]);
        let topology = topology.map_err(|wrong| {
            let lines: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            lines.join("; ")
        })?;
        Ok(Self {
            judge: Judge::new(topology),
            tally: Tally::new(options.show_keys),
            options,
            held: 0,
            held_max: HELD_MAX,
        })
    }
}

//! Publish and subscribe: one connection of a worker to each node hears for all of the worker's clients.
//!
//! ```text
//!  SUBSCRIBE ─▶ commands ─▶ Hub ─▶ Line (node) ─▶ feed ══▶ node      asked of every node, once for each worker
//!                            ▲                      │
//!  client ◀── deliver ◀──────┴────── messages ◀─────┘                encoded once, appended to each client's output
//!
//!  PUBLISH ──▶ as a request of the channel's shard, over the shared link ──▶ one node, once
//! ```
//!
//! Messages go by any node: a client publishes on the channel's home node, a transaction and a script where they run.
//! Since each goes by one node only and every worker hears every node, each message comes once.
//!
//! A feed that is lost is connected again and asks for everything anew. What was published on its node meanwhile is
//! lost to its listeners, as it is for a client of Redis that reconnects; it is counted and logged.

mod commands;
mod deliver;
mod directory;
mod feed;
mod hub;
mod line;
mod names;

use std::collections::VecDeque;
use std::sync::Arc;

pub(super) use commands::ONLY_NODES_PUBLISH;
pub use directory::Directory;
pub(super) use feed::{Feed, keep_feed};
pub(super) use hub::Hub;
pub(super) use names::{Kind, is_event};

use super::shared::Shared;
use crate::ids::NodeIndex;
use crate::metrics::WorkerMetrics;
use crate::topology::{Node, Topology};

/// The subscriptions of one worker.
#[derive(Debug)]
pub(super) struct PubSub {
    pub(super) hub: Hub,
    /// By node.
    pub(super) feeds: Vec<Feed>,
    /// Clients that have got messages and were not written to: index, generation.
    unflushed: VecDeque<(usize, u32)>,
    /// Bytes handed out since all of those had been written to.
    unflushed_bytes: usize,
}

impl PubSub {
    pub(super) fn new(
        worker: usize,
        shared: &Shared,
        topology: &Arc<Topology>,
        metrics: &WorkerMetrics,
    ) -> Self {
        let nodes = (0..).map(NodeIndex).zip(&topology.nodes);
        let feeds = nodes.map(|(node, described)| Feed::new(node, metrics.node(&described.name)));
        Self {
            hub: Hub::new(worker, Arc::clone(topology), Arc::clone(&shared.channels)),
            feeds: feeds.collect(),
            unflushed: VecDeque::new(),
            unflushed_bytes: 0,
        }
    }

    /// Makes room for the nodes that `nodes` has more than are known.
    pub(super) fn add_nodes(&mut self, nodes: &[Node], metrics: &WorkerMetrics) {
        for (node, described) in (0..).map(NodeIndex).zip(nodes).skip(self.feeds.len()) {
            self.feeds.push(Feed::new(node, metrics.node(&described.name)));
            self.hub.add_node();
        }
    }
}

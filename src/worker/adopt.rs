//! A worker takes the next topology over without losing, doubling or reordering a request.
//!
//! ```text
//!  told of it ─▶ links and feeds of new nodes ─▶ shards that change their node are held ─▶ drained? ─▶ in force, released
//!                                                                    nothing that was sent may be unanswered
//! ```
//!
//! What does not change goes on all the while. A node whose address changes, or that leaves, gets nothing more over its old
//! connections; they are closed when all is answered. The wait is bounded: a reply that does not come ends its connection
//! (see `link_deadlines`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::backend::State;
use super::engine::Engine;
use crate::ids::{NodeIndex, ShardId};
use crate::metrics::LinkClose;
use crate::topology::{Address, Topology};

/// A topology that is not served yet.
#[derive(Debug)]
pub(super) struct Adoption {
    next: Arc<Topology>,
    /// Shards that get another node, or another user on their node, ascending.
    moving: Vec<ShardId>,
}

impl Engine {
    /// Begins to take over the topology that is in force. Returns where the links and feeds of new nodes begin, which
    /// need tasks.
    pub(super) fn adopt(&mut self) -> (usize, usize) {
        let (links, feeds) = (self.links.len(), self.pubsub.feeds.len());
        let next = self.shared.topology.load_full();
        if self.adoption.is_some() || next.epoch <= self.topology.epoch {
            // An adoption that goes on looks again when it ends.
            return (links, feeds);
        }
        self.add_nodes(&next);
        let pairs = next.placements_by_shard().zip(&self.topology.placements);
        let moving: Vec<ShardId> = pairs
            .filter(|((shard, placed), now)| {
                placed.node != now.node || next.user_of(*shard) != self.topology.user_of(*shard)
            })
            .map(|((shard, _), _)| shard)
            .collect();
        for &shard in &moving {
            self.hold(shard, |hold| hold.moving = true);
        }
        let before = Arc::clone(&self.topology);
        for &shard in next.paused.difference(&before.paused) {
            self.hold(shard, |hold| hold.paused = true);
        }
        if !moving.is_empty() {
            self.recall_dedicated(None, |shard| moving.binary_search(&shard).is_ok());
        }
        self.adoption = Some(Adoption { next, moving });
        self.continue_adoption();
        (links, feeds)
    }

    /// Serves the next topology if nothing is under way any more that belongs to the one before.
    pub(super) fn continue_adoption(&mut self) {
        let waits = |adoption: &Adoption| self.is_under_way(&adoption.moving);
        if self.adoption.as_ref().is_none_or(waits) {
            return;
        }
        let Some(Adoption { next, moving }) = self.adoption.take() else {
            return;
        };
        let before = std::mem::replace(&mut self.topology, Arc::clone(&next));
        for &shard in &moving {
            self.release(shard, |hold| hold.moving = false);
        }
        for &shard in before.paused.difference(&next.paused) {
            self.release(shard, |hold| hold.paused = false);
        }
        for (node, described) in before.nodes_by_index() {
            if next.retired.contains(&node) {
                self.leave_node(node);
            } else if next.node(node).address != described.address
                || next.access.get(&node) != before.access.get(&node)
            {
                self.redial_node(node);
            }
        }
        self.pubsub.hub.place(&next);
        if !moving.is_empty() {
            // Who has read keys there would not be told of changes that happen elsewhere.
            let left = |&&shard: &&ShardId| next.placement(shard).node != before.placement(shard).node;
            let nodes: BTreeSet<NodeIndex> = moving
                .iter()
                .filter(left)
                .map(|&shard| before.placement(shard).node)
                .collect();
            nodes.into_iter().for_each(|node| self.tracking_gap(node, true));
        }
        self.ask_recalled();
        self.shared.succession.is_served(self.worker, next.epoch);
        tracing::debug!(
            event = "topology_adopted",
            worker = self.worker,
            epoch = next.epoch.0
        );
        if self.shared.topology.load().epoch > next.epoch {
            // It has changed again meanwhile; whoever starts the tasks of new nodes is to be told.
            self.shared.succession.remind();
        }
    }

    fn add_nodes(&mut self, next: &Arc<Topology>) {
        // New positions mean the same in both: see `Topology::succeed`.
        let known = self.topology.nodes.len();
        if next.nodes.len() > known {
            let mut grown = Topology::clone(&self.topology);
            grown.nodes.extend_from_slice(&next.nodes[known..]);
            self.topology = Arc::new(grown);
        }
        self.add_links(next);
        let metrics = Arc::clone(&self.metrics);
        self.pubsub.add_nodes(&next.nodes, &metrics);
    }

    /// Nothing more is sent over the connections to a node; they are made anew when all is answered.
    fn redial_node(&mut self, node: NodeIndex) {
        let address = self.topology.node(node).address.clone();
        for link in &mut self.links {
            if link.node == node {
                link.batches_max = self.settings.limits.batches_max(&address);
                link.redials = link.stream.is_some();
                link.wake();
            }
        }
        self.recall_dedicated(Some(node), |_| false);
        self.close_feed(node);
        self.shared.node(node).again.notify_waiters();
    }

    /// A node has left: its connections end, and are not made again.
    fn leave_node(&mut self, node: NodeIndex) {
        self.redial_node(node);
        self.pubsub.hub.forget_node(node);
    }

    /// A link that is to be made anew has nothing left to answer.
    pub(super) fn link_may_redial(&mut self, index: usize) -> Option<LinkClose> {
        let link = &self.links[index];
        (link.redials && link.due.is_empty() && link.out.is_empty()).then_some(LinkClose::Readdressed)
    }

    /// Whether a node still has this address.
    pub(super) fn is_address_of(&self, node: NodeIndex, address: &Address) -> bool {
        self.topology.node(node).address == *address
    }

    /// The same of a link's node.
    pub(super) fn is_address_of_link(&self, index: usize, address: &Address) -> bool {
        self.is_address_of(self.links[index].node, address)
    }

    /// Whether the node of a link has left, or its user there: nobody may connect.
    pub(super) fn has_left(&mut self, index: usize) -> bool {
        let link = &self.links[index];
        let user = self
            .topology
            .access
            .get(&link.node)
            .map(|access| access.user.as_str());
        let left = self.topology.retired.contains(&link.node) || user != link.user.as_deref();
        if left {
            self.links[index].state = State::Idle;
        }
        left
    }
}

#[cfg(test)]
#[path = "adopt_tests.rs"]
mod tests;

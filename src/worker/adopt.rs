//! A worker takes the next topology over without losing, doubling or reordering a request.
//!
//! ```text
//!  told of it ─▶ links and feeds of new nodes ─▶ shards that change their node are held ─▶ drained? ─▶ in force, released
//!                                                                    nothing that was sent may be unanswered
//! ```
//!
//! What does not change goes on all the while. A node whose address changes, or that leaves, gets nothing more over its old
//! connections; they are closed when all is answered. Before that, a node that gets another address and still answers is told to end
//! what waits for data there, so that nothing is popped for a connection that is closed. The wait is bounded: a reply that does not
//! come ends its connection (see `link_deadlines`), also where requests have no deadline.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::backend::{Link, State};
use super::engine::Engine;
use super::gate::{Held, Hold};
use crate::ids::{Epoch, NodeIndex, ShardId};
use crate::metrics::LinkClose;
use crate::topology::{Address, Topology};

/// How long links of users that are new are waited for before their shards are held.
const OPEN_MAX_US: u64 = 1_000_000;
/// How long a node that gets another address has to end what waits there. It may be dead, and its shards are not served meanwhile.
const WAITS_MAX_US: u64 = 250_000;

/// A topology that is not served yet.
#[derive(Debug)]
pub(super) struct Adoption {
    next: Arc<Topology>,
    /// Shards that get another node, or another user on their node: ascending.
    moving: Vec<ShardId>,
    /// Shards of which nothing may be under way any more that a node could refuse half-way: ascending.
    closing: Vec<ShardId>,
    /// Shards of which nothing may be under way any more at all: ascending.
    closed: Vec<ShardId>,
    /// Links that they will go over and that are being opened, and since when; none: the shards are held.
    opening: Option<(Vec<usize>, u64)>,
    /// Nodes that get another address: ascending.
    readdressed: Vec<NodeIndex>,
    /// Since when it is awaited that nobody waits for data there. None: that is not awaited.
    waits_since: Option<u64>,
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
        let before = Arc::clone(&self.topology);
        let closing: Vec<ShardId> = next.quiesced().difference(&before.quiesced()).copied().collect();
        let closed: Vec<ShardId> = next.closed().difference(&before.closed()).copied().collect();
        let pairs = next.placements_by_shard().zip(&before.placements);
        let moving: Vec<ShardId> = pairs
            .filter(|((shard, placed), now)| {
                placed.node != now.node || next.user_of(*shard) != before.user_of(*shard)
            })
            .map(|((shard, _), _)| shard)
            .collect();
        for &shard in next.paused.difference(&before.paused) {
            self.hold(shard, |hold| hold.paused = true);
        }
        let opening = self.open_links(&next, &moving);
        let readdressed = before.nodes_by_index().filter(|(node, described)| {
            !next.retired.contains(node) && next.node(*node).address != described.address
        });
        let readdressed: Vec<NodeIndex> = readdressed.map(|(node, _)| node).collect();
        self.adoption = Some(Adoption {
            next,
            moving,
            closing,
            closed,
            opening: Some((opening, self.now)),
            readdressed,
            waits_since: None,
        });
        self.continue_adoption();
        (links, feeds)
    }

    /// Has the links opened that shards will go over, of the kinds that they go over now.
    fn open_links(&mut self, next: &Topology, moving: &[ShardId]) -> Vec<usize> {
        let mut opening = BTreeSet::new();
        for &shard in moving.iter().filter(|&&shard| !self.is_held(shard)) {
            let lanes = self.links_of(shard).into_iter().zip(self.links_to(next, shard));
            let used = lanes.filter(|&(now, _)| self.links[now].state != State::Idle);
            opening.extend(
                used.map(|(_, then)| then)
                    .filter(|&then| self.links[then].state == State::Idle),
            );
        }
        for &link in &opening {
            self.links[link].preopens = true;
            self.links[link].wake();
        }
        opening.into_iter().collect()
    }

    /// A link that is waited for cannot be opened: its shards are held without it.
    pub(super) fn is_not_opened(&mut self, link: usize) {
        if let Some((opening, _)) = self.adoption.as_mut().and_then(|next| next.opening.as_mut()) {
            opening.retain(|&other| other != link);
        }
    }

    /// Holds the shards that move when the links for them are open; serves the next topology if nothing is under way any more
    /// that belongs to the one before.
    pub(super) fn continue_adoption(&mut self) {
        let Some(mut adoption) = self.adoption.take() else {
            return;
        };
        if let Some((links, since)) = &adoption.opening {
            let opens = |&link: &usize| matches!(self.links[link].state, State::Idle | State::Connecting);
            if links.iter().any(opens) && self.now.saturating_sub(*since) < OPEN_MAX_US {
                self.adoption = Some(adoption);
                return;
            }
            adoption.opening = None;
            let (moving, closing, closed) = (&adoption.moving, &adoption.closing, &adoption.closed);
            for &shard in moving {
                self.hold(shard, |hold| hold.moving = true);
            }
            for &shard in closing {
                self.hold(shard, |hold| hold.quiesced = true);
            }
            for &shard in closed {
                self.hold(shard, |hold| hold.closed = true);
            }
            let recalled = [moving, closing, closed];
            if recalled.iter().any(|shards| !shards.is_empty()) {
                self.recall_shards(|shard| {
                    recalled.iter().any(|shards| shards.binary_search(&shard).is_ok())
                });
            }
            if self.end_waits_at(&adoption.readdressed) {
                adoption.waits_since = Some(self.now);
            }
        }
        let waits = adoption.waits_since.is_some_and(|since| {
            self.now.saturating_sub(since) < WAITS_MAX_US && self.is_waited_at(&adoption.readdressed)
        });
        if waits
            || self.is_under_way(&adoption.moving)
            || self.is_code_under_way(&adoption.closing)
            || self.is_under_way(&adoption.closed)
        {
            self.adoption = Some(adoption);
            return;
        }
        // What was refused goes before what came later: to the gates, while they are closed.
        (0..self.links.len()).for_each(|link| self.release_parked(link));
        self.serve_next(&adoption.next, &adoption.moving);
    }

    /// Has nodes that get another address end what waits for data there, and lets nothing begin to wait. Those that do not answer
    /// are not asked. Whether that is to be awaited.
    fn end_waits_at(&mut self, nodes: &[NodeIndex]) -> bool {
        let is_lost = |link: &Link| matches!(link.state, State::Silent | State::Down);
        let answers = |node: &NodeIndex| {
            let mut links = self.links.iter().filter(|link| link.node == *node);
            !links.any(is_lost)
        };
        let nodes: Vec<NodeIndex> = nodes.iter().copied().filter(answers).collect();
        if !self.is_waited_at(&nodes) {
            return false;
        }
        let topology = Arc::clone(&self.topology);
        for shard in nodes.iter().flat_map(|&node| topology.shards_on(node)) {
            self.hold(shard, |hold| hold.readdressed = true);
        }
        self.recall_waits(&nodes);
        true
    }

    /// Whether the next topology waits for what was sent over a link.
    pub(super) fn holds_up_adoption(&self, index: usize) -> bool {
        self.adoption.as_ref().is_some_and(|adoption| {
            let awaited = [&adoption.moving, &adoption.closing, &adoption.closed];
            let is_awaited = |shard| awaited.iter().any(|shards| shards.binary_search(&shard).is_ok());
            self.links[index].due.iter().any(|entry| is_awaited(entry.shard))
        })
    }

    fn serve_next(&mut self, next: &Arc<Topology>, moving: &[ShardId]) {
        let before = std::mem::replace(&mut self.topology, Arc::clone(next));
        let (quiesced, were) = (next.quiesced(), before.quiesced());
        for &shard in moving {
            self.release(shard, |hold| {
                hold.moving = false;
                // It is not at the node, or not the user there, that refused it.
                hold.frozen = false;
            });
        }
        for &shard in were.difference(&quiesced) {
            self.release(shard, |hold| hold.quiesced = false);
        }
        for &shard in before.closed().difference(&next.closed()) {
            self.release(shard, |hold| hold.closed = false);
        }
        for &shard in before.paused.difference(&next.paused) {
            self.release(shard, |hold| hold.paused = false);
        }
        for (node, described) in before.nodes_by_index() {
            if next.retired.contains(&node) {
                self.leave_node(node);
            } else {
                let run =
                    |topology: &Topology| topology.access.get(&node).map(|access| access.run_id.clone());
                if next.node(node).address != described.address || run(next) != run(&before) {
                    self.redial_node(node);
                } else {
                    self.leave_users(node);
                }
            }
        }
        for shard in self.held.keys().copied().collect::<Vec<_>>() {
            self.release(shard, |hold| hold.readdressed = false);
        }
        self.pubsub.hub.place(next);
        // Who has read keys there would not be told of changes that happen elsewhere.
        let left = |&&shard: &&ShardId| next.placement(shard).node != before.placement(shard).node;
        let nodes: BTreeSet<NodeIndex> = moving
            .iter()
            .filter(left)
            .map(|&shard| before.placement(shard).node)
            .collect();
        nodes.into_iter().for_each(|node| self.tracking_gap(node, true));
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
        self.drop_orders(node);
        let address = self.topology.node(node).address.clone();
        for link in &mut self.links {
            if link.node == node {
                link.batches_max = self.settings.limits.batches_max(&address);
                link.redials = link.stream.is_some();
                link.wake();
            }
        }
        self.recall_node(node);
        self.close_feed(node);
        self.shared.node(node).again.notify_waiters();
    }

    /// An order to a node is for the server that it was: another one would take it as well.
    fn drop_orders(&mut self, node: NodeIndex) {
        let topology = Arc::clone(&self.topology);
        for link in (0..self.links.len())
            .filter(|&link| self.links[link].node == node)
            .collect::<Vec<_>>()
        {
            for shard in topology.shards_on(node) {
                for (mut entry, frame) in self.links[link].backlog.take_chain(shard) {
                    entry.large = false;
                    if !self.drops_order(entry, &frame) {
                        self.links[link].backlog.push(entry, &frame);
                    }
                }
            }
        }
    }

    /// Connections of users that no shard has any more end, and are not made again.
    fn leave_users(&mut self, node: NodeIndex) {
        let topology = Arc::clone(&self.topology);
        for link in self.links.iter_mut().filter(|link| link.node == node) {
            if link.stream.is_some() && !topology.has_user(node, link.user.as_deref()) {
                link.redials = true;
                link.wake();
            }
        }
        self.recall_users(node);
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

    /// Whether a topology is in force, and not heard of by this worker, by which it may not send requests of some shard to this node
    /// any more. Who connects anew waits until it is heard: a leader that moves shards from a node which cannot be told to refuse them
    /// counts on that, and closes the connections that were there before.
    /// `mark`: the epoch that the node has told.
    pub(super) fn must_hear(&self, node: NodeIndex, mark: Epoch) -> bool {
        let is_everything = |hold: &Hold| hold.held() == Held::Everything;
        let is_held = |shard: &ShardId| self.held.get(shard).is_some_and(is_everything);
        let mut shards = self.topology.shards_on(node);
        mark > self.topology.epoch && shards.any(|shard| !is_held(&shard) && self.is_lost_to(node, shard))
    }

    /// Whether it goes by a topology in force that a shard is not to be asked for at this node any more.
    pub(super) fn is_lost_to(&self, node: NodeIndex, shard: ShardId) -> bool {
        let next = self.shared.topology.load();
        let unit = next.unit_of(shard);
        let closed = unit.is_some_and(|unit| unit.quiesced && unit.user.is_none());
        closed || next.placement(shard).node != node
    }

    fn next_topology(&self) -> &Topology {
        self.adoption
            .as_ref()
            .map_or(&self.topology, |adoption| &adoption.next)
    }

    /// Whether the node of a link has left, or its user there: nobody may connect.
    pub(super) fn has_left(&mut self, index: usize) -> bool {
        let link = &self.links[index];
        let known = self.next_topology().has_user(link.node, link.user.as_deref())
            || self.topology.has_user(link.node, link.user.as_deref());
        let left = self.topology.retired.contains(&link.node) || !known;
        if left {
            self.links[index].state = State::Idle;
        }
        left
    }
}

#[cfg(test)]
#[path = "adopt_tests.rs"]
mod tests;

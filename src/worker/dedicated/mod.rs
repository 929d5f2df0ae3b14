//! Connections that one client has for itself: while it waits for data, and while it watches keys.
//!
//! ```text
//!                ┌─ idle (by node, user, protocol) ◀─ answered ─┐
//!  a request ────┤                                              ├── Busy ── client gone: half-closed, read to its end
//!                └─ none idle, room left: a new one ────────────┘   ▲
//!                                                         Pinned (its client watches keys, nothing asked)
//! ```
//!
//! Each has a task of its own and carries one request at a time. A request is written only when the `SELECT` before it
//! is confirmed. How many may be in use to one node is bounded over all workers; beyond, clients get `TRYAGAIN`.
//!
//! It logs in as the user that its shard's requests have. So a node that was told to refuse a unit refuses what its clients wait for
//! and watch as well, whatever this proxy has heard of the move: what is refused has not run.
//!
//! A wait that has to end for the sake of the proxy is ended by the node, by order of another connection, so that its reply says
//! whether anything was taken out. A node that reads the end of a connection drops the reply that it is about to write to it.
//! Only for a client that is gone, or a node that goes without having answered that order, a connection is half-closed: what is
//! popped for a client that is gone is counted and logged, if its reply comes.

mod connection;
mod recall;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;

use slab::Slab;

use super::backend::{User, is_refused};
use super::engine::Engine;
use crate::command::{UNIT_PREFIX, Waiting};
use crate::ids::{DbIndex, NodeIndex, ShardId};
use crate::metrics::Limit;
use crate::resp::Protocol;

/// An idle connection is kept this long, in microseconds.
const IDLE_US: u64 = 30_000_000;
/// Idle connections that a worker keeps for one node and protocol.
const IDLE_MAX: usize = 16;

/// All dedicated connections of a worker.
#[derive(Debug, Default)]
pub(super) struct Pool {
    slots: Slab<Slot>,
    idle: BTreeMap<Kind, Vec<usize>>,
    /// Waits that were given up, to be asked again.
    recalled: Vec<Job>,
    /// Where new tasks find the engine.
    engine: Weak<RefCell<Engine>>,
}

/// Whom an idle connection may serve: its node, who it is there, and whether it speaks RESP3.
type Kind = (NodeIndex, User, bool);

/// One connection, from the engine's side. Its task has the socket.
#[derive(Debug)]
struct Slot {
    generation: u32,
    node: NodeIndex,
    /// Who it is for its node. None: who the configuration names.
    user: User,
    protocol: Protocol,
    waker: Option<Waker>,
    job: Option<Job>,
    /// The client that it is kept for between two requests: index, generation.
    pinned: Option<(usize, u32)>,
    end: End,
    idle_since: Option<u64>,
    /// An order to end a wait may be on its way to it: it serves nobody else.
    spoilt: bool,
    /// The node's name for this connection, for `CLIENT UNBLOCK`. 0 before it is known.
    node_client: i64,
    /// Its place under the limit, unless it is idle.
    place: Option<Place>,
}

/// How a connection is to end, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    /// At once: it is idle.
    Close,
    /// Its client is gone: half-closed, read to its end.
    Gone,
    /// The node is told to end the wait; what was asked is answered by what comes, or by this line: it has not run.
    Stop(&'static str),
    /// The same, but what has not run is asked again where its shard is then.
    Unblock,
    /// Half-closed, because its node is gone, or has not ended the wait, and an order might reach another server; asked again.
    Recall,
}

/// Not told to anybody: the request is asked again.
const RECALLED: &str = "TRYAGAIN preshard: it was given up before it was answered; it has not run";
/// It was for a unit that its node refuses.
const FROZEN: &str = "TRYAGAIN preshard: its shard is on its way to another node; it has not run";
const STOPS: &str = "TRYAGAIN preshard: the proxy stops; it has not run";

/// What is asked over a connection.
#[derive(Debug)]
pub(super) struct Job {
    /// Who asked: client, generation, sequence number. None: the proxy itself.
    pub(super) owner: Option<(u32, u32, u32)>,
    pub(super) shard: ShardId,
    pub(super) db: DbIndex,
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    /// Frames that the node answers.
    pub(super) frames: u32,
    /// Of which the first so many are no part of the answer: they are for [`Self::again`], or of scripts that are loaded.
    pub(super) prefaces: u32,
    /// All of them are the answer, not the last one.
    pub(super) keeps_all: bool,
    /// A fence stands behind it.
    pub(super) fenced: bool,
    /// It is a transaction: the first frame must be `+OK`.
    pub(super) transaction: bool,
    /// It waits for data and can be asked again elsewhere, as long as it has not been answered.
    pub(super) again: Option<Box<Waiting>>,
    /// Worker time when it came.
    pub(super) since: u64,
    /// Worker time when it was given up, to be asked again.
    pub(super) recalled_at: u64,
    /// Worker time at which its client is told that no answer came. None: it may wait for ever.
    pub(super) deadline: Option<u64>,
}

/// Which connection a client has: its place and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dedicated {
    index: usize,
    generation: u32,
}

/// A place under the limit of one node; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        if count.fetch_add(1, Relaxed) >= max {
            count.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Pool {
    /// Tells the pool where its engine is.
    pub(super) fn set_engine(&mut self, engine: Weak<RefCell<Engine>>) {
        self.engine = engine;
    }

    /// Where the engine is, for tasks that outlive the turn that starts them.
    pub(super) fn engine(&self) -> Option<Rc<RefCell<Engine>>> {
        self.engine.upgrade()
    }

    fn slot(&mut self, dedicated: Dedicated) -> Option<&mut Slot> {
        self.slots
            .get_mut(dedicated.index)
            .filter(|slot| slot.generation == dedicated.generation)
    }
}

impl Slot {
    /// Whether it carries what somebody waits for, at one of these nodes.
    fn waits_at(&self, nodes: &[NodeIndex]) -> bool {
        let waits = self.job.as_ref().is_some_and(|job| job.again.is_some());
        waits && matches!(self.end, End::No | End::Unblock) && nodes.contains(&self.node)
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn kind(&self) -> Kind {
        (self.node, self.user.clone(), self.protocol == Protocol::Resp3)
    }

    /// Whether it is a reply to a unit that its node was told to refuse: nothing of what was asked has run.
    fn is_frozen(&self, reply: &[u8]) -> bool {
        let of_unit = self
            .user
            .as_deref()
            .is_some_and(|user| user.starts_with(UNIT_PREFIX));
        of_unit && is_refused(reply)
    }
}

impl Engine {
    /// A connection to a shard's node that nobody else uses, if one may be had.
    pub(super) fn acquire_dedicated(
        &mut self,
        shard: ShardId,
        protocol: Protocol,
    ) -> Result<Dedicated, String> {
        let user = self.topology.user_of(shard).map(Arc::from);
        self.acquire_as(self.topology.placement(shard).node, user, protocol)
    }

    /// The same to a node, for what concerns no shard.
    pub(super) fn acquire_at(&mut self, node: NodeIndex, protocol: Protocol) -> Result<Dedicated, String> {
        self.acquire_as(node, self.node_user(node), protocol)
    }

    fn acquire_as(&mut self, node: NodeIndex, user: User, protocol: Protocol) -> Result<Dedicated, String> {
        let place = Some(self.place_at(node)?);
        let kind = (node, user.clone(), protocol == Protocol::Resp3);
        if let Some(index) = self.dedicated.idle.get_mut(&kind).and_then(Vec::pop)
            && let Some(slot) = self.dedicated.slots.get_mut(index)
        {
            slot.idle_since = None;
            slot.place = place;
            return Ok(Dedicated {
                index,
                generation: slot.generation,
            });
        }
        let generation = self.next_generation();
        let index = self.dedicated.slots.insert(Slot {
            generation,
            node,
            user: user.clone(),
            protocol,
            waker: None,
            job: None,
            pinned: None,
            end: End::No,
            idle_since: None,
            spoilt: false,
            node_client: 0,
            place,
        });
        let dedicated = Dedicated { index, generation };
        if let Some(engine) = self.dedicated.engine.upgrade() {
            let order = self.order_as(node, protocol, user);
            tokio::task::spawn_local(connection::keep(engine, dedicated, order));
        }
        Ok(dedicated)
    }

    /// A place for one more connection to a node.
    pub(super) fn place_at(&self, node: NodeIndex) -> Result<Place, String> {
        let count = &self.shared.node(node).dedicated;
        Place::take(count, self.settings.limits.dedicated).ok_or_else(|| {
            self.metrics.limits[Limit::Dedicated].inc();
            format!(
                "TRYAGAIN preshard: all connections to node {} for commands that wait are in use ([nodes] dedicated_max); \
                 it has not run",
                self.topology.node(node).name
            )
        })
    }

    /// Asks something over a connection that carries nothing.
    pub(super) fn ask_dedicated(&mut self, dedicated: Dedicated, job: Job) {
        if let Some(slot) = self.dedicated.slot(dedicated) {
            slot.job = Some(job);
            slot.wake();
        }
    }

    /// Keeps a connection for a client between its requests, or no longer.
    pub(super) fn pin_dedicated(&mut self, dedicated: Dedicated, client: Option<(usize, u32)>) {
        if let Some(slot) = self.dedicated.slot(dedicated) {
            slot.pinned = client;
        }
    }

    /// The client of a connection is gone, and with it what it waited for.
    pub(super) fn abandon_dedicated(&mut self, dedicated: Dedicated) {
        if let Some(slot) = self.dedicated.slot(dedicated) {
            slot.end = End::Gone;
            if let Some(job) = &mut slot.job {
                job.owner = None;
            }
            slot.wake();
        }
    }

    /// The proxy stops: whoever waits for data is let go.
    pub(super) fn stop_waiting(&mut self) {
        for (_, slot) in &mut self.dedicated.slots {
            if slot.job.is_some() && slot.end == End::No {
                slot.end = End::Stop(STOPS);
                slot.wake();
            }
        }
    }

    /// Whether some connection carries a request of one of these shards that reaches keys.
    pub(super) fn dedicated_to_any(&self, of_these: impl Fn(ShardId) -> bool) -> bool {
        let mut slots = self.dedicated.slots.iter();
        slots.any(|(_, slot)| {
            slot.job
                .as_ref()
                .is_some_and(|job| of_these(job.shard) && !job.keeps_all)
        })
    }

    /// Closes connections that were not used for long; answers what waited too long. Called by the sweep.
    pub(super) fn dedicated_deadlines(&mut self) {
        let now = self.now;
        for (index, slot) in &mut self.dedicated.slots {
            let idle = slot.idle_since.is_some_and(|since| now - since >= IDLE_US);
            if idle {
                slot.end = End::Close;
                if let Some(idle) = self.dedicated.idle.get_mut(&slot.kind()) {
                    idle.retain(|&other| other != index);
                }
            }
            if matches!(slot.end, End::Unblock | End::Stop(_)) {
                // It may have to be told again.
                slot.wake();
            }
            let overdue = slot
                .job
                .as_ref()
                .and_then(|job| job.deadline)
                .is_some_and(|deadline| now >= deadline);
            if idle || overdue {
                slot.wake();
            }
        }
    }

    /// Where the node of a connection knows it, and by which number.
    pub(super) fn waits_on_node(&mut self, dedicated: Dedicated) -> Option<(NodeIndex, i64)> {
        let slot = self.dedicated.slot(dedicated)?;
        (slot.node_client != 0).then_some((slot.node, slot.node_client))
    }

    /// Dedicated connections to a node: those in use, those idle.
    pub(super) fn count_dedicated(&self, node: NodeIndex) -> (u64, u64) {
        let slots = self.dedicated.slots.iter().map(|(_, slot)| slot);
        slots
            .filter(|slot| slot.node == node)
            .fold((0, 0), |(used, idle), slot| match slot.idle_since {
                Some(_) => (used, idle + 1),
                None => (used + 1, idle),
            })
    }

    /// What a connection carried is answered: it waits for the next request, of its client or of anyone.
    fn dedicated_answered(&mut self, dedicated: Dedicated) {
        let now = self.now;
        let Some(slot) = self.dedicated.slot(dedicated) else {
            return;
        };
        slot.job = None;
        if slot.pinned.is_none() && slot.end == End::No {
            slot.idle_since = Some(now);
            slot.place = None;
            let (kind, spoilt) = (slot.kind(), slot.spoilt);
            let idle = self.dedicated.idle.entry(kind).or_default();
            if idle.len() < IDLE_MAX && !spoilt {
                idle.push(dedicated.index);
            } else if let Some(slot) = self.dedicated.slot(dedicated) {
                slot.end = End::Close;
                slot.wake();
            }
        }
    }

    /// A connection has ended. What it still carried is answered with this line, if anybody waits for it.
    fn dedicated_ended(&mut self, dedicated: Dedicated, line: &str) {
        if self.dedicated.slot(dedicated).is_none() {
            return;
        }
        let mut slot = self.dedicated.slots.remove(dedicated.index);
        let kind = slot.kind();
        if let Some(idle) = self.dedicated.idle.get_mut(&kind) {
            idle.retain(|&index| index != dedicated.index);
            if idle.is_empty() {
                self.dedicated.idle.remove(&kind);
            }
        }
        if let Some((client, generation)) = slot.pinned {
            self.watch_lost(client, generation);
        }
        if line == RECALLED
            && let Some(job) = slot.job.take()
        {
            self.dedicated_recalled(job);
        }
        if let Some((client, generation, seq)) = slot.job.and_then(|job| job.owner) {
            let reply = crate::resp::error_line(line);
            self.complete_dedicated(client, generation, seq, &reply, false);
        }
    }

    /// Answers a client's request that went over a connection of its own.
    fn complete_dedicated(&mut self, client: u32, generation: u32, seq: u32, reply: &[u8], from_node: bool) {
        let index = client as usize;
        if !self.client_is_gone(index, generation) {
            let client = &mut self.clients[index];
            let at = client.waits_at.take();
            client.info.waits(None);
            client.publish();
            if client.info.was_unblocked()
                && let Some(slot) = at.and_then(|at| self.dedicated.slot(at))
            {
                slot.spoilt = true;
            }
            if self.replicas_counted(index, seq, reply) {
                return;
            }
        }
        self.complete(index, generation, seq, reply, from_node);
        if !self.client_is_gone(index, generation) {
            self.clients[index].wake();
        }
    }

    /// The client that asks something over a connection.
    pub(super) fn asker_of(&mut self, dedicated: Dedicated) -> Option<(usize, u32)> {
        let job = self.dedicated.slot(dedicated)?.job.as_ref()?;
        job.owner
            .map(|(client, generation, _)| (client as usize, generation))
    }
}

#[cfg(test)]
mod tests;

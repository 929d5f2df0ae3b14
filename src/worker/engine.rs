//! The state of one worker: every client, queue, link and gather that it owns, and the clock of the current turn.
//!
//! ```text
//!  session tasks ──┐                       one borrow for each turn of a task, never held across an await
//!  link tasks    ──┼──▶ RefCell<Engine>
//!  sweep task    ──┘    clients · lanes (shard × protocol) · links (node × connection × protocol) · gathers
//! ```
//!
//! A turn of a task reads what its socket has, changes this state, and at its end wakes the links that have
//! something to send and writes to the clients that have something to get. Nothing is sent between threads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use slab::Slab;

use super::adopt::Adoption;
use super::backend::{Backlog, Lane, Link, State, User, fence, nonce};
use super::dedicated::Pool;
use super::gate::{Held, Hold};
use super::gather::Gather;
use super::outbuf::Spares;
use super::pause::PauseSeen;
use super::pubsub::PubSub;
use super::session::{Access, Client, to_u32};
use super::shared::{Settings, Shared};
use super::slowlog::SlowLogSettings;
use super::tracking::Tracking;
use crate::helper::counter::Registered;
use crate::ids::{NodeIndex, ShardId};
use crate::metrics::{LinkClose, WorkerMetrics};
use crate::resp::{ArgRange, Protocol};
use crate::route;
use crate::topology::Topology;

/// Room for what one read takes from a socket; shared by all of a worker's sockets. A little more than the 64 KiB that
/// Redis writes to one connection at a time: with 128 KiB, GETs of 16 KiB cost half as much again, since what was read
/// had left the cache before it was written.
pub(super) const SCRATCH_BYTES: usize = 72 * 1024;
pub(super) const PROTOCOLS: usize = 2;
/// For each protocol version one for shared connections and one for scripts.
const GATES: usize = 2 * PROTOCOLS;
/// What gates have for a node.
const NO_NODE: NodeIndex = NodeIndex(u16::MAX);

/// Where the links of a node and a user begin; each is followed by its neighbour of the other protocol version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Door {
    /// The shared ones.
    pub(super) shared: usize,
    /// Those that run code.
    pub(super) scripts: usize,
}

/// The state of one worker.
pub(super) struct Engine {
    pub(super) worker: usize,
    pub(super) shared: Arc<Shared>,
    /// The settings that this worker was told of last.
    pub(super) settings: Arc<Settings>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) topology: Arc<Topology>,
    started: Instant,
    /// Microseconds since the worker's start, read once for each turn of a task.
    pub(super) now: u64,
    generation: u32,

    pub(super) clients: Slab<Client>,
    pub(super) gathers: Slab<Gather>,
    lanes: Vec<Lane>,
    /// The same for what runs code on a node.
    script_lanes: Vec<Lane>,
    pub(super) links: Vec<Link>,
    /// Where the links of each node begin, for each user of it.
    pub(super) doors: BTreeMap<(NodeIndex, User), Door>,
    /// The first of the links that have no node: [`Self::gates`].
    pub(super) first_gate: usize,
    /// Shards whose requests are held, and why.
    pub(super) held: BTreeMap<ShardId, Hold>,
    /// The next topology, until it can be served.
    pub(super) adoption: Option<Adoption>,
    fence: Vec<u8>,

    /// Clients that got something to write in this turn.
    pub(super) dirty: Vec<usize>,
    /// Clients whose replies wait for the rest of their pipeline.
    pub(super) corked: Vec<usize>,
    pub(super) uncorked_at: u64,
    /// Links that got something to send in this turn.
    pub(super) woken_links: Vec<usize>,
    pub(super) sweep_waker: Option<Waker>,
    pub(super) sweep_asleep: bool,
    /// The proxy is stopping: what has been read is served, nothing more is read.
    pub(super) draining: bool,
    pub(super) attention: Attention,
    pub(super) access: Access,
    pub(super) pause: PauseSeen,
    /// Answers that took so many microseconds are looked at again.
    pub(super) slow_us: u32,
    /// Memory of requests that have not ended, of all clients.
    pub(super) held_bytes: usize,

    pub(super) pubsub: PubSub,
    pub(super) tracking: Tracking,
    pub(super) dedicated: Pool,

    /// Counters that it has entered in the registries of shards.
    pub(super) registered: Registered,
    pub(super) spares: Spares,
    pub(super) scratch: Box<[u8]>,
    pub(super) args: Vec<ArgRange>,
    pub(super) route_scratch: route::Scratch,
}

/// What a request must be looked at for, whoever sends it. One comparison on the hot path tells that there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attention(u8);

impl Attention {
    pub(super) const NONE: Self = Self(0);
    /// Clients are paused, all requests.
    pub(super) const PAUSED: Self = Self(1);
    /// Clients are paused, requests that may write.
    pub(super) const WRITES_PAUSED: Self = Self(1 << 1);
    /// The slow log shows arguments.
    pub(super) const SHOWN: Self = Self(1 << 2);

    /// What every request is looked at for under these settings.
    fn of_settings(slowlog: SlowLogSettings) -> Self {
        if slowlog.show_args && slowlog.slower_than_us.is_some() {
            Self::SHOWN
        } else {
            Self::NONE
        }
    }

    pub(super) const fn has(self, what: Self) -> bool {
        self.0 & what.0 != 0
    }

    pub(super) const fn set(&mut self, what: Self) {
        self.0 |= what.0;
    }

    pub(super) const fn unset(&mut self, what: Self) {
        self.0 &= !what.0;
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn new(worker: usize, shared: Arc<Shared>) -> Self {
        let topology = shared.topology.load_full();
        let metrics = shared.metrics.worker(worker);
        let settings = shared.settings.load_full();
        let pubsub = PubSub::new(worker, &shared, &topology, &metrics);
        let mut engine = Self {
            worker,
            pubsub,
            tracking: Tracking::new(&settings.limits),
            dedicated: Pool::default(),
            metrics,
            topology,
            started: Instant::now(),
            now: 0,
            generation: 0,
            clients: Slab::new(),
            gathers: Slab::new(),
            lanes: Vec::new(),
            script_lanes: Vec::new(),
            links: Vec::new(),
            doors: BTreeMap::new(),
            first_gate: 0,
            held: BTreeMap::new(),
            adoption: None,
            fence: fence(&nonce()),
            dirty: Vec::new(),
            corked: Vec::new(),
            uncorked_at: 0,
            woken_links: Vec::new(),
            sweep_waker: None,
            sweep_asleep: false,
            draining: false,
            attention: Attention::of_settings(settings.slowlog),
            access: Access::default(),
            pause: PauseSeen::default(),
            slow_us: settings.slowlog.looked_at_from_us(),
            held_bytes: 0,
            registered: Registered::default(),
            spares: Spares::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            args: Vec::new(),
            route_scratch: route::Scratch::default(),
            shared,
            settings,
        };
        let first = Arc::clone(&engine.topology);
        engine.add_links(&first);
        engine.add_gates(&first);
        for shard in engine.topology.paused.clone() {
            engine.hold(shard, |hold| hold.paused = true);
        }
        for shard in engine.topology.quiesced() {
            engine.hold(shard, |hold| hold.quiesced = true);
        }
        for shard in engine.topology.closed() {
            engine.hold(shard, |hold| hold.closed = true);
        }
        engine
    }

    /// Takes the settings that are in force now.
    pub(super) fn adopt_settings(&mut self) {
        self.settings = self.shared.settings.load_full();
        let limits = &self.settings.limits;
        self.tracking.set_limits(limits);
        for link in &mut self.links {
            if let Some(node) = self.topology.nodes.get(link.node.index()) {
                link.batches_max = limits.batches_max(&node.address);
            }
        }
        let slowlog = self.settings.slowlog;
        self.slow_us = slowlog.looked_at_from_us();
        if Attention::of_settings(slowlog).has(Attention::SHOWN) {
            self.attention.set(Attention::SHOWN);
        } else {
            self.attention.unset(Attention::SHOWN);
            // Nobody would take what was kept of requests that are under way.
            self.clients
                .iter_mut()
                .for_each(|(_, client)| client.shown_args = None);
        }
        // Whoever waits at a limit may be below it now.
        self.clients.iter().for_each(|(_, client)| client.wake());
        self.links.iter().for_each(Link::wake);
        self.wake_sweep();
    }

    /// Makes the links that a topology needs and that are not there.
    pub(super) fn add_links(&mut self, topology: &Topology) {
        for (shard, placement) in topology.placements_by_shard() {
            self.add_door(topology, placement.node, topology.user_of(shard).map(Arc::from));
        }
        for (node, _) in topology.nodes_by_index() {
            let user = topology
                .access
                .get(&node)
                .map(|access| Arc::from(access.user.as_str()));
            self.add_door(topology, node, user);
        }
    }

    fn add_door(&mut self, topology: &Topology, node: NodeIndex, user: User) {
        if self.doors.contains_key(&(node, user.clone())) {
            return;
        }
        if let Some(key) = self.unused_door(topology, node)
            && let Some(door) = self.doors.remove(&key)
        {
            for link in &mut self.links[door.shared..door.scripts + PROTOCOLS] {
                link.set_user(user.clone());
            }
            self.doors.insert((node, user), door);
            return;
        }
        let shared = self.links.len();
        for _ in 0..self.settings.limits.shared_connections {
            self.add_link_pair(topology, node, &user);
        }
        let scripts = self.links.len();
        self.add_link_pair(topology, node, &user);
        self.doors.insert((node, user), Door { shared, scripts });
    }

    /// Links of a user that a node has no more, and that nothing goes over: each move of shards leaves some behind.
    fn unused_door(&self, next: &Topology, node: NodeIndex) -> Option<(NodeIndex, User)> {
        let is_unused = |link: &Link| {
            let empty = link.stream.is_none() && link.due.is_empty() && link.backlog.is_empty();
            empty && link.state == State::Idle && !link.preopens
        };
        let mut doors = self.doors.iter();
        let found = doors.find(|((of, user), door)| {
            let user = user.as_deref();
            *of == node
                && !next.has_user(node, user)
                && !self.topology.has_user(node, user)
                && self.links[door.shared..door.scripts + PROTOCOLS]
                    .iter()
                    .all(is_unused)
        });
        found.map(|(key, _)| key.clone())
    }

    fn add_gates(&mut self, topology: &Topology) {
        self.first_gate = self.links.len();
        (0..GATES / PROTOCOLS).for_each(|_| self.add_link_pair(topology, NO_NODE, &None));
        self.gates().for_each(|gate| self.links[gate].state = State::Gate);
        for (shard, _) in topology.placements_by_shard() {
            for _ in 0..PROTOCOLS {
                self.lanes.push(Lane { shard, link: 0 });
                self.script_lanes.push(Lane { shard, link: 0 });
            }
            self.point_lanes(shard, Held::Nothing);
        }
    }

    fn add_link_pair(&mut self, topology: &Topology, node: NodeIndex, user: &User) {
        let (cells, batches_max) = match topology.nodes.get(node.index()) {
            Some(described) => (
                self.metrics.node(&described.name),
                self.settings.limits.batches_max(&described.address),
            ),
            None => (Arc::default(), 1),
        };
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let dbs = topology.placements_by_shard().map(|(_, placement)| placement.db);
            let backlog = Backlog::new(dbs);
            let cells = Arc::clone(&cells);
            let mut link = Link::new(node, protocol, user.clone(), cells, backlog, &self.fence);
            link.batches_max = batches_max;
            self.links.push(link);
        }
    }

    /// Leads the requests of a shard to its node, or to gates.
    pub(super) fn point_lanes(&mut self, shard: ShardId, held: Held) {
        let gates: [usize; GATES] = std::array::from_fn(|kind| self.first_gate + kind);
        let topology = Arc::clone(&self.topology);
        let open = self.links_to(&topology, shard);
        let links = match held {
            Held::Nothing => open,
            Held::Code => std::array::from_fn(|kind| if kind < PROTOCOLS { open[kind] } else { gates[kind] }),
            Held::Everything => gates,
        };
        let (shared, scripts) = links.split_at(PROTOCOLS);
        for protocol in 0..PROTOCOLS {
            let at = shard.index() * PROTOCOLS + protocol;
            self.lanes[at].link = to_u32(shared[protocol]);
            self.script_lanes[at].link = to_u32(scripts[protocol]);
        }
    }

    /// The links that a shard's requests go over by a topology whose links were made: shared ones, then those that run code.
    pub(super) fn links_to(&self, topology: &Topology, shard: ShardId) -> [usize; GATES] {
        let key = (
            topology.placement(shard).node,
            topology.user_of(shard).map(Arc::from),
        );
        let door = self.doors.get(&key).copied();
        debug_assert!(door.is_some(), "the links of {key:?} were made before");
        let connection = shard.index() % self.settings.limits.shared_connections;
        // A door that is not there would be a gate: requests wait instead of going astray.
        let (shared, scripts) = door.map_or((self.first_gate, self.first_gate + PROTOCOLS), |door| {
            (door.shared + connection * PROTOCOLS, door.scripts)
        });
        [shared, shared + 1, scripts, scripts + 1]
    }

    /// The links that have no node: where requests of held shards wait.
    pub(super) fn gates(&self) -> Range<usize> {
        self.first_gate..self.first_gate + GATES
    }

    /// Starts a turn: reads the clock, whether the proxy is stopping, and whether clients are paused.
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        self.draining = self.shared.is_draining();
        self.now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let pause = self.shared.pause.word();
        if self.pause_changed(pause) {
            self.look_at_pause(pause);
        }
        self.look_at_users();
    }

    /// Ends a turn: what it brought is passed on.
    #[inline]
    pub(super) fn end_turn(&mut self) {
        if self.adoption.is_some() {
            self.continue_adoption();
        }
        self.wake_links();
        self.flush_clients();
    }

    /// The turn's time, wrapping: differences are what counts.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "wraps on purpose; only differences are used"
    )]
    pub(super) fn now32(&self) -> u32 {
        self.now as u32
    }

    /// Where the requests of a shard go.
    #[inline]
    pub(super) fn lane(&self, shard: ShardId, protocol: Protocol) -> Lane {
        self.lanes[lane_index(shard, protocol)]
    }

    /// Where the requests of a shard go that run code on its node.
    pub(super) fn script_lane(&self, shard: ShardId, protocol: Protocol) -> Lane {
        self.script_lanes[lane_index(shard, protocol)]
    }

    /// A number that no other client or gather of this worker has.
    pub(super) fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Closes every link: a turn has panicked, and the order of what is in flight cannot be trusted any more.
    pub(super) fn distrust_everything(&mut self) {
        for link in &mut self.links {
            if link.stream.is_some() {
                link.close = Some(LinkClose::Closed);
                link.wake();
            }
        }
        self.distrust_feeds();
    }

    /// Something waits for the clock: have the sweep look soon.
    #[inline]
    pub(super) fn wake_sweep(&mut self) {
        if self.sweep_asleep {
            self.sweep_asleep = false;
            if let Some(waker) = &self.sweep_waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Takes the scratch for a read; it is put back when the read is handled.
    pub(super) fn take_scratch(&mut self) -> Box<[u8]> {
        let scratch = std::mem::take(&mut self.scratch);
        if scratch.is_empty() {
            // A turn that panicked took it along.
            return vec![0; SCRATCH_BYTES].into_boxed_slice();
        }
        scratch
    }
}

#[inline]
fn lane_index(shard: ShardId, protocol: Protocol) -> usize {
    let protocol = match protocol {
        Protocol::Resp2 => 0,
        Protocol::Resp3 => 1,
    };
    shard.index() * PROTOCOLS + protocol
}

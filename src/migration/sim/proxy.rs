//! A model of a proxy's one worker, which keeps the rules that a move relies on.
//!
//! ```text
//!  request ─▶ held? ─▶ gate ────────────── released: in order ─┐
//!               └────▶ link of (node, user): backlog ─▶ due ◀──┘
//!                        refused by the freeze: parked, with what comes behind it, and in front of what waits at the gate
//!                        the connection ends: what is due is in doubt, and never sent again
//! ```
//!
//! A node without users of its own is fenced by its mark: requests of a closed unit are held, all of them, and a connection that is made
//! anew is of no use before the topology is heard that the node's mark tells of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::faults::Slip;
use super::node::{Words, server_at};
use super::wire::{Line, round_trip, some};
use super::world::{World, lock};
use crate::command::UNIT_PREFIX;
use crate::ids::{Epoch, NodeIndex, ShardId};
use crate::resp::Value;
use crate::topology::Topology;
use crate::topology::mark::{MARK_KEY, Mark, Standing};
use crate::worker::shared::{Shared, connection_name, user_password};

/// So long a request waits for a shard that is held, or for a node that is away.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(10);
const SWEEP: Duration = Duration::from_millis(500);
const RETRY_MS: u64 = 300;
/// A topology that a node knows of already is waited for so long …
const HEARD_MAX: Duration = Duration::from_millis(500);
/// … and looked for so often.
const HEARD_PACE: Duration = Duration::from_millis(5);

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Reply(Value),
    /// It may have run.
    Uncertain,
    /// It has not run.
    NotRun(&'static str),
}

#[derive(Debug)]
struct Request {
    shard: ShardId,
    words: Words,
    since: Instant,
    /// A reply to `SELECT` comes before its own.
    selects: bool,
    reply: oneshot::Sender<Outcome>,
}

impl Request {
    fn answer(self, outcome: Outcome) {
        // A client that is gone hears nothing.
        let _ = self.reply.send(outcome);
    }
}

/// A server, and as whom; nobody: it knows no users.
type Door = (usize, String);

#[derive(Default)]
struct Link {
    line: Option<Arc<Line>>,
    selected: Option<ShardId>,
    connecting: bool,
    backlog: VecDeque<Request>,
    due: VecDeque<Request>,
    parked: Vec<Request>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hold {
    moving: bool,
    frozen: bool,
    closed: bool,
}

/// A topology that is to be served next.
struct Adoption {
    next: Arc<Topology>,
    /// Shards that get another node or user.
    moving: Vec<ShardId>,
    /// Shards of which nothing may be under way.
    closed: BTreeSet<ShardId>,
}

struct State {
    topology: Arc<Topology>,
    adoption: Option<Adoption>,
    links: BTreeMap<Door, Link>,
    held: BTreeMap<ShardId, Hold>,
    gates: BTreeMap<ShardId, VecDeque<Request>>,
}

pub(super) struct Worker {
    world: Arc<World>,
    pub(super) who: usize,
    shared: Arc<Shared>,
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

impl Worker {
    pub(super) fn new(world: &Arc<World>, who: usize, shared: &Arc<Shared>) -> Arc<Self> {
        let closed = Hold {
            closed: true,
            ..Hold::default()
        };
        let topology = shared.topology.load_full();
        Arc::new(Self {
            world: Arc::clone(world),
            who,
            shared: Arc::clone(shared),
            state: Mutex::new(State {
                held: topology
                    .closed()
                    .into_iter()
                    .map(|shard| (shard, closed))
                    .collect(),
                topology,
                adoption: None,
                links: BTreeMap::new(),
                gates: BTreeMap::new(),
            }),
            tasks: Mutex::default(),
        })
    }

    pub(super) fn submit(self: &Arc<Self>, shard: ShardId, words: Words) -> oneshot::Receiver<Outcome> {
        let (reply, replied) = oneshot::channel();
        let request = Request {
            shard,
            words,
            since: Instant::now(),
            selects: false,
            reply,
        };
        self.route(&mut lock(&self.state), request);
        replied
    }

    fn route(self: &Arc<Self>, state: &mut State, request: Request) {
        if state.held.contains_key(&request.shard) {
            state.gates.entry(request.shard).or_default().push_back(request);
            return;
        }
        let door = door_of(&state.topology, request.shard);
        state
            .links
            .entry(door.clone())
            .or_default()
            .backlog
            .push_back(request);
        self.pump(state, &door);
    }

    /// Sends what waits for a link.
    fn pump(self: &Arc<Self>, state: &mut State, door: &Door) {
        let Some(link) = state.links.get_mut(door) else {
            return;
        };
        match &link.line {
            Some(line) => {
                while let Some(mut request) = link.backlog.pop_front() {
                    request.selects = link.selected.replace(request.shard) != Some(request.shard);
                    if request.selects {
                        line.send(vec![b"SELECT".to_vec(), request.shard.to_string().into_bytes()]);
                    }
                    line.send(request.words.clone());
                    link.due.push_back(request);
                }
            }
            None if !link.connecting && !link.backlog.is_empty() => {
                link.connecting = true;
                let worker = Arc::clone(self);
                lock(&self.tasks).spawn(worker.tend(door.clone()));
            }
            None => {}
        }
    }

    /// Connects a link, and reads its replies until it ends.
    async fn tend(self: Arc<Self>, door: Door) {
        let mut rng = self.world.rng("link", self.who * 100 + door.0);
        loop {
            let line = self.connect(&door, &mut rng).await;
            if let Some(line) = &line {
                self.begin(&door, line);
                while let Some(reply) = line.recv().await {
                    self.handle_reply(&door, reply);
                }
                line.hang_up();
                self.handle_end(&door);
            }
            sleep(some(&mut rng, RETRY_MS)).await;
            if !self.is_needed(&door) {
                return;
            }
        }
    }

    fn begin(self: &Arc<Self>, door: &Door, line: &Arc<Line>) {
        let mut state = lock(&self.state);
        let link = state.links.entry(door.clone()).or_default();
        (link.line, link.selected) = (Some(Arc::clone(line)), None);
        self.pump(&mut state, door);
    }

    /// Whether a link has something to send; if not, it is not tended any more.
    fn is_needed(&self, door: &Door) -> bool {
        let mut state = lock(&self.state);
        let link = state.links.entry(door.clone()).or_default();
        link.connecting = !link.backlog.is_empty();
        link.connecting
    }

    async fn connect(&self, (node, user): &Door, rng: &mut fastrand::Rng) -> Option<Arc<Line>> {
        round_trip(&self.world, self.who, *node, rng).await;
        let line = Line::open(&self.world, self.who, *node)?;
        let index = node_of(&lock(&self.state).topology, *node);
        let is_known = if user.is_empty() {
            self.has_heard(&line, index).await
        } else {
            self.is_let_in(&line, index, user).await
        };
        if is_known == Some(true) {
            return Some(line);
        }
        line.hang_up();
        None
    }

    /// Logs in. Whether it is the run of the node that the topology names.
    async fn is_let_in(&self, line: &Line, node: NodeIndex, user: &str) -> Option<bool> {
        let password = user_password(self.shared.node_secret.get()?, user);
        line.send(vec![
            b"AUTH".to_vec(),
            user.as_bytes().to_vec(),
            password.reveal().as_bytes().to_vec(),
        ]);
        line.send(vec![b"INFO".to_vec(), b"server".to_vec()]);
        let (auth, info) = (line.recv().await, line.recv().await);
        let info = info.as_ref().and_then(Value::as_bytes).unwrap_or_default();
        let info = String::from_utf8_lossy(info);
        let run_id = super::super::probe::field(&info, "run_id");
        let is_named = lock(&self.state).topology.is_run(node, run_id);
        let is_known = auth == Some(Value::OK) && (is_named || self.world.slip == Some(Slip::IgnoresRun));
        if !is_known {
            self.shared.node(node).users.notify_one();
        }
        Some(is_known)
    }

    /// Says whose connection it is, and looks at the mark behind that. Whether it may be used: when the topology is served that the
    /// mark tells of, or would make no difference.
    async fn has_heard(&self, line: &Line, node: NodeIndex) -> Option<bool> {
        let topology = Arc::clone(&lock(&self.state).topology);
        let words = |words: [&str; 2]| words.map(|word| word.as_bytes().to_vec()).to_vec();
        let name = connection_name(&self.shared.run_id, 0);
        line.send([words(["CLIENT", "SETNAME"]), vec![name.into_bytes()]].concat());
        line.send(words(["SELECT", &topology.metadata_db().to_string()]));
        line.send(words(["GET", MARK_KEY]));
        let (_, _, mark) = (line.recv().await?, line.recv().await?, line.recv().await?);
        let epoch = match Mark::expected(&topology, node).standing(mark.as_bytes()) {
            Standing::Ours | Standing::OlderEpoch(_) => return Some(true),
            Standing::NewerEpoch(epoch) => epoch,
            Standing::Unmarked
            | Standing::OtherCluster(_)
            | Standing::OtherNode(_)
            | Standing::Unreadable(_) => {
                self.shared.node(node).empty.notify_one();
                return Some(false);
            }
        };
        if self.world.slip == Some(Slip::Unheard) {
            return Some(true);
        }
        let until = Instant::now() + HEARD_MAX;
        while self.shared.topology.load().epoch < epoch {
            if Instant::now() >= until {
                return Some(false);
            }
            self.shared.behind.notify_one();
            sleep(HEARD_PACE).await;
        }
        while self.must_hear(node, epoch) {
            sleep(HEARD_PACE).await;
        }
        Some(true)
    }

    /// As the real worker's: whether a topology in force takes a shard from this node, and is not served or held for here.
    fn must_hear(&self, node: NodeIndex, mark: Epoch) -> bool {
        let state = lock(&self.state);
        let next = self.shared.topology.load();
        let closed = next.closed();
        let is_lost = |shard: &ShardId| closed.contains(shard) || next.placement(*shard).node != node;
        let mut shards = state.topology.shards_on(node);
        mark > state.topology.epoch && shards.any(|shard| !state.held.contains_key(&shard) && is_lost(&shard))
    }

    fn handle_reply(self: &Arc<Self>, door: &Door, reply: Value) {
        let mut state = lock(&self.state);
        let Some(link) = state.links.get_mut(door) else {
            return;
        };
        if let Some(request) = link.due.front_mut()
            && std::mem::take(&mut request.selects)
        {
            return;
        }
        let Some(request) = link.due.pop_front() else {
            return;
        };
        let is_refused = matches!(&reply, Value::Error(error) if error.starts_with("NOPERM"));
        if is_refused && door.1.starts_with(UNIT_PREFIX) {
            let shard = request.shard;
            if self.world.slip == Some(Slip::Overtakes) {
                // It goes to the end of the line, and nothing is held.
                let worker = Arc::clone(self);
                lock(&self.tasks).spawn(async move {
                    sleep(Duration::from_millis(1)).await;
                    worker.route(&mut lock(&worker.state), request);
                });
                return;
            }
            link.parked.push(request);
            let unit = state
                .topology
                .units
                .iter()
                .find(|unit| unit.user.as_ref() == Some(&door.1));
            let mut shards: BTreeSet<ShardId> = unit.map(|unit| unit.shards.clone()).unwrap_or_default();
            shards.insert(shard);
            for shard in shards {
                self.hold(&mut state, shard, |hold| hold.frozen = true);
            }
        } else {
            request.answer(Outcome::Reply(reply));
        }
        if state.links.get(door).is_some_and(|link| link.due.is_empty()) {
            self.release_parked(&mut state, door);
        }
        self.continue_adoption(&mut state);
    }

    /// A connection has ended: what was sent may have run.
    fn handle_end(self: &Arc<Self>, door: &Door) {
        let mut state = lock(&self.state);
        let Some(link) = state.links.get_mut(door) else {
            return;
        };
        link.line = None;
        let due = std::mem::take(&mut link.due);
        if self.world.slip == Some(Slip::SendsAgain) {
            due.into_iter()
                .rev()
                .for_each(|request| link.backlog.push_front(request));
        } else {
            due.into_iter()
                .for_each(|request| request.answer(Outcome::Uncertain));
        }
        self.release_parked(&mut state, door);
        self.continue_adoption(&mut state);
    }

    /// What was refused goes in front of what waits at the gates: when nothing is due any more, since what is answered later came
    /// later.
    fn release_parked(self: &Arc<Self>, state: &mut State, door: &Door) {
        let Some(link) = state.links.get_mut(door) else {
            return;
        };
        let mut chains: BTreeMap<ShardId, VecDeque<Request>> = BTreeMap::new();
        for request in std::mem::take(&mut link.parked) {
            chains.entry(request.shard).or_default().push_back(request);
        }
        for (shard, mut chain) in chains {
            if state.held.contains_key(&shard) {
                let gate = state.gates.entry(shard).or_default();
                chain.append(gate);
                *gate = chain;
            } else {
                chain.into_iter().for_each(|request| self.route(state, request));
            }
        }
    }

    fn hold(&self, state: &mut State, shard: ShardId, why: impl FnOnce(&mut Hold)) {
        let door = door_of(&state.topology, shard);
        why(state.held.entry(shard).or_default());
        if let Some(link) = state.links.get_mut(&door) {
            let (of_shard, others) = std::mem::take(&mut link.backlog)
                .into_iter()
                .partition::<VecDeque<_>, _>(|request| request.shard == shard);
            link.backlog = others;
            state.gates.entry(shard).or_default().extend(of_shard);
        }
    }

    fn release(self: &Arc<Self>, state: &mut State, shard: ShardId, why: impl FnOnce(&mut Hold)) {
        let Some(hold) = state.held.get_mut(&shard) else {
            return;
        };
        why(hold);
        if *hold == Hold::default() {
            state.held.remove(&shard);
            let waiting = state.gates.remove(&shard).unwrap_or_default();
            waiting.into_iter().for_each(|request| self.route(state, request));
        }
    }

    // === topologies ===

    fn adopt(self: &Arc<Self>) {
        let next = self.shared.topology.load_full();
        let mut state = lock(&self.state);
        if state.adoption.is_some() || next.epoch <= state.topology.epoch {
            return;
        }
        let before = Arc::clone(&state.topology);
        let moving: Vec<ShardId> = next
            .placements_by_shard()
            .zip(&before.placements)
            .filter(|((shard, placed), now)| {
                placed.node != now.node || next.user_of(*shard) != before.user_of(*shard)
            })
            .map(|((shard, _), _)| shard)
            .collect();
        let mut closed: BTreeSet<ShardId> = next.closed().difference(&before.closed()).copied().collect();
        if self.world.slip == Some(Slip::HoldsNot) {
            closed.clear();
        }
        for &shard in &moving {
            self.hold(&mut state, shard, |hold| hold.moving = true);
        }
        for &shard in &closed {
            self.hold(&mut state, shard, |hold| hold.closed = true);
        }
        state.adoption = Some(Adoption { next, moving, closed });
        self.continue_adoption(&mut state);
    }

    fn continue_adoption(self: &Arc<Self>, state: &mut State) {
        let Some(adoption) = state.adoption.take() else {
            return;
        };
        let of_these = |request: &Request| {
            adoption.moving.contains(&request.shard) || adoption.closed.contains(&request.shard)
        };
        if state.links.values().any(|link| link.due.iter().any(of_these)) {
            state.adoption = Some(adoption);
            return;
        }
        let Adoption { next, moving, .. } = adoption;
        // What was refused goes before what came later, while the gates are closed.
        let doors: Vec<Door> = state.links.keys().cloned().collect();
        doors.iter().for_each(|door| self.release_parked(state, door));
        let before = std::mem::replace(&mut state.topology, Arc::clone(&next));
        for &shard in &moving {
            self.release(state, shard, |hold| (hold.moving, hold.frozen) = (false, false));
        }
        for &shard in before.closed().difference(&next.closed()) {
            self.release(state, shard, |hold| hold.closed = false);
        }
        self.shared.succession.is_served(0, next.epoch);
        self.leave(state, &before);
        if self.shared.topology.load().epoch > next.epoch {
            let worker = Arc::clone(self);
            lock(&self.tasks).spawn(async move { worker.adopt() });
        }
    }

    /// Connections of users that no shard has any more, or to another run of a node, end when nothing is due on them.
    fn leave(&self, state: &mut State, before: &Topology) {
        let next = Arc::clone(&state.topology);
        let run = |topology: &Topology, node| topology.access.get(&node).map(|access| access.run_id.clone());
        for ((node, user), link) in &mut state.links {
            let (server, node) = (*node, node_of(&next, *node));
            let user = (!user.is_empty()).then_some(user.as_str());
            let is_there = server_at(&next.node(node).address) == server;
            let stays = is_there && next.has_user(node, user) && run(&next, node) == run(before, node);
            if !stays
                && link.due.is_empty()
                && let Some(line) = &link.line
            {
                line.hang_up();
            }
        }
    }

    /// Gives up on what waits for too long.
    fn sweep(&self) {
        let mut state = lock(&self.state);
        let State { gates, links, .. } = &mut *state;
        let old = |request: &mut Request| request.since.elapsed() >= HOLD_MAX;
        for gate in gates.values_mut() {
            while let Some(request) = gate.pop_front_if(old) {
                request.answer(Outcome::NotRun("TRYAGAIN"));
            }
        }
        for link in links.values_mut() {
            while let Some(request) = link.backlog.pop_front_if(old) {
                request.answer(Outcome::NotRun("NODEDOWN"));
            }
        }
    }

    /// What is left of an operation that does not go on, for people.
    pub(super) fn waiting(&self) -> String {
        let state = lock(&self.state);
        let links: Vec<_> = state
            .links
            .iter()
            .map(|(door, link)| {
                (
                    door,
                    link.line.is_some(),
                    link.backlog.len(),
                    link.due.len(),
                    link.parked.len(),
                )
            })
            .collect();
        format!(
            "epoch {} held {:?} links {links:?}",
            state.topology.epoch, state.held
        )
    }

    /// It is gone, with its connections.
    pub(super) async fn kill(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        let mut state = lock(&self.state);
        state.gates.clear();
        for link in std::mem::take(&mut state.links).into_values() {
            if let Some(line) = link.line {
                line.hang_up();
            }
        }
    }

    pub(super) async fn follow(self: Arc<Self>) {
        let mut changes = self.shared.succession.subscribe();
        loop {
            self.adopt();
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(SWEEP) => self.sweep(),
            }
        }
    }
}

fn door_of(topology: &Topology, shard: ShardId) -> Door {
    let user = topology.user_of(shard).unwrap_or_default().to_owned();
    let node = topology.node(topology.placement(shard).node);
    (server_at(&node.address), user)
}

/// The node that a server is, or may become.
fn node_of(topology: &Topology, server: usize) -> NodeIndex {
    NodeIndex(u16::try_from(server % topology.nodes.len()).unwrap())
}

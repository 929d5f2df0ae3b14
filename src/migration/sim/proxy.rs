//! A proxy: the control side as it is, and a model of one worker that keeps the rules which a move relies on.
//!
//! ```text
//!  request ─▶ held? ─▶ gate ────────────── released: in order ─┐
//!               └────▶ link of (node, user): backlog ─▶ due ◀──┘
//!                        refused by the freeze: parked, with what comes behind it, and in front of what waits at the gate
//!                        the connection ends: what is due is in doubt, and never sent again
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::faults::Slip;
use super::node::Words;
use super::wire::{Line, round_trip, some};
use super::world::{World, lock};
use crate::command::UNIT_PREFIX;
use crate::config::Secret;
use crate::control::{Fleet, prepare_nodes, provision_nodes};
use crate::ids::{NodeIndex, ShardId};
use crate::migration::Mover;
use crate::resp::Value;
use crate::topology::Topology;
use crate::worker::shared::{NodeCredentials, Settings, Shared, user_password};
use crate::worker::testing;

/// So long a request waits for a shard that is held, or for a node that is away.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(10);
const SWEEP: Duration = Duration::from_millis(500);
const RETRY_MS: u64 = 300;

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
    reply: oneshot::Sender<Outcome>,
}

impl Request {
    fn answer(self, outcome: Outcome) {
        // A client that is gone hears nothing.
        let _ = self.reply.send(outcome);
    }
}

type Door = (usize, String);

#[derive(Default)]
struct Link {
    line: Option<Arc<Line>>,
    connecting: bool,
    backlog: VecDeque<Request>,
    due: VecDeque<Request>,
    parked: Vec<Request>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hold {
    moving: bool,
    frozen: bool,
}

struct State {
    topology: Arc<Topology>,
    /// What is to be served next, and which shards change.
    adoption: Option<(Arc<Topology>, Vec<ShardId>)>,
    links: BTreeMap<Door, Link>,
    held: BTreeMap<ShardId, Hold>,
    gates: BTreeMap<ShardId, VecDeque<Request>>,
}

pub(super) struct Worker {
    world: Arc<World>,
    who: usize,
    shared: Arc<Shared>,
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

impl Worker {
    fn new(world: &Arc<World>, who: usize, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            who,
            shared: Arc::clone(shared),
            state: Mutex::new(State {
                topology: shared.topology.load_full(),
                adoption: None,
                links: BTreeMap::new(),
                held: BTreeMap::new(),
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
                while let Some(request) = link.backlog.pop_front() {
                    line.send(vec![b"SELECT".to_vec(), request.shard.to_string().into_bytes()]);
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
                while let (Some(_), Some(reply)) = (line.recv().await, line.recv().await) {
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
        state.links.entry(door.clone()).or_default().line = Some(Arc::clone(line));
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
        let password = user_password(self.shared.node_secret.get()?, user);
        line.send(vec![
            b"AUTH".to_vec(),
            user.clone().into_bytes(),
            password.reveal().as_bytes().to_vec(),
        ]);
        line.send(vec![b"INFO".to_vec(), b"server".to_vec()]);
        let (auth, info) = (line.recv().await, line.recv().await);
        let info = info.as_ref().and_then(Value::as_bytes).unwrap_or_default();
        let info = String::from_utf8_lossy(info);
        let run_id = super::super::probe::field(&info, "run_id");
        let node = NodeIndex(u16::try_from(*node).unwrap());
        let is_known = {
            let state = lock(&self.state);
            let access = state.topology.access.get(&node);
            access.is_some_and(|access| access.run_id == run_id) || self.world.slip == Some(Slip::IgnoresRun)
        };
        if auth == Some(Value::OK) && is_known {
            return Some(line);
        }
        line.hang_up();
        self.shared.node(node).users.notify_one();
        None
    }

    fn handle_reply(self: &Arc<Self>, door: &Door, reply: Value) {
        let mut state = lock(&self.state);
        let Some(link) = state.links.get_mut(door) else {
            return;
        };
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
        for &shard in &moving {
            self.hold(&mut state, shard, |hold| hold.moving = true);
        }
        state.adoption = Some((next, moving));
        self.continue_adoption(&mut state);
    }

    fn continue_adoption(self: &Arc<Self>, state: &mut State) {
        let Some((next, moving)) = state.adoption.take() else {
            return;
        };
        let of_these = |request: &Request| moving.contains(&request.shard);
        if state.links.values().any(|link| link.due.iter().any(of_these)) {
            state.adoption = Some((next, moving));
            return;
        }
        // What was refused goes before what came later, while the gates are closed.
        let doors: Vec<Door> = state.links.keys().cloned().collect();
        doors.iter().for_each(|door| self.release_parked(state, door));
        let before = std::mem::replace(&mut state.topology, Arc::clone(&next));
        for &shard in &moving {
            self.release(state, shard, |hold| *hold = Hold::default());
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
            let node = NodeIndex(u16::try_from(*node).unwrap());
            let stays = next.has_user(node, Some(user)) && run(&next, node) == run(before, node);
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

    async fn follow(self: Arc<Self>) {
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
    (topology.placement(shard).node.index(), user)
}

/// The secret of the cluster.
pub(super) fn secret() -> Secret {
    Secret::new("secret".to_owned())
}

fn shared_of(world: &World, who: usize, run: usize) -> Arc<Shared> {
    let admin = NodeCredentials {
        username: Some(format!("admin-{who}")),
        password: Some(secret()),
        tls: None,
    };
    let topology = Topology::clone(&world.store.topology());
    let shared = testing::shared(topology, testing::limits(), admin, &format!("p{who}-r{run}"));
    drop(shared.node_secret.set(secret()));
    let mut settings = Settings::clone(&shared.settings.load());
    settings.migration.retention = world.retention;
    shared.settings.store(Arc::new(settings));
    Arc::new(shared)
}

/// A proxy that runs until it is dropped.
pub(super) struct Process {
    pub(super) mover: Arc<Mover>,
    worker: Arc<Worker>,
    tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

impl Process {
    pub(super) fn start(world: &Arc<World>, who: usize, run: usize) -> Self {
        let shared = shared_of(world, who, run);
        let store = Arc::new(super::store::Reach::new(world, who));
        let fleet = Fleet::new(Arc::clone(&shared), store);
        let mover = Mover::new(Arc::clone(&shared), Arc::clone(&fleet));
        let worker = Worker::new(world, who, &shared);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&fleet).run(stopped));
        tasks.spawn(Arc::clone(&mover).run());
        tasks.spawn(prepare_nodes(Arc::clone(&shared)));
        tasks.spawn(provision_nodes(shared, fleet, watch::Sender::new(false)));
        tasks.spawn(Arc::clone(&worker).follow());
        lock(&world.workers)[who] = Some(Arc::clone(&worker));
        Self {
            mover,
            worker,
            tasks,
            _stop: stop,
        }
    }

    /// It is gone, with its connections.
    pub(super) async fn kill(mut self, world: &World) {
        lock(&world.workers)[self.worker.who] = None;
        self.tasks.shutdown().await;
        let mut tasks = std::mem::take(&mut *lock(&self.worker.tasks));
        tasks.shutdown().await;
        let mut state = lock(&self.worker.state);
        state.gates.clear();
        for link in std::mem::take(&mut state.links).into_values() {
            if let Some(line) = link.line {
                line.hang_up();
            }
        }
    }
}

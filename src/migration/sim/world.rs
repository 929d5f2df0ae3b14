//! What all parts of one run share: chance, the network's delays and walls, faults that wait for their moment, what has happened.
//!
//! Chance comes in streams, one for each connection, client and so on, all out of the seed: what one part draws does not depend
//! on when others draw.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::faults::{Fault, Faults, Kind, Memory, Moment, Slip, Users, Whom};
use super::judge::Judge;
use super::node::{Node, server_at};
use super::proxy::Worker;
use super::store::StoreModel;
use crate::command::{APPLIER_PREFIX, FEED_USER, USER_PREFIX};
use crate::topology::Topology;

/// The clock of the runtime knows whole milliseconds only.
const SPIKE_MS: u64 = 30;
/// What clocks say at the beginning.
const EPOCH_S: u64 = 1_700_000_000;
/// After a fault's second half has come, until it may have shown.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Lines of the story that are kept.
const STORY_MAX: usize = 400;

/// The other end of a connection of a proxy, or a part of what it does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    Node(usize),
    Store,
    /// What the store answers, but for signs of life, and what it tells: the member that is asked lags behind.
    Member,
    /// What the store tells unasked.
    Watch,
}

/// What is the same for a whole run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tempo {
    /// One way over the network takes at most so long, most of the time.
    pub(super) base_ms: u64,
    /// One message in so many takes up to [`SPIKE_MS`].
    pub(super) spike_in: u64,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) begun: Instant,
    pub(super) tempo: Tempo,
    pub(super) slip: Option<Slip>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) store: StoreModel,
    pub(super) judge: Judge,
    pub(super) workers: Mutex<Vec<Option<Arc<Worker>>>>,
    pub(super) dead: Mutex<Vec<bool>>,
    /// Rung when a proxy dies.
    pub(super) died: Notify,
    /// Nothing new is begun by clients.
    pub(super) over: AtomicBool,
    /// Clients that have gone home.
    pub(super) gone: AtomicUsize,
    /// Clients go from shard to shard as fast as they can.
    pub(super) hurries: AtomicBool,
    /// Something was ordered.
    pub(super) ordered: AtomicBool,
    /// Faults are over.
    pub(super) healed: AtomicBool,
    healing: Notify,
    walls: Mutex<BTreeMap<(usize, Peer), Instant>>,
    /// Ways that take longer: how much, and how long.
    slow: Mutex<BTreeMap<(usize, Peer), (Duration, Instant)>>,
    faults: Mutex<Faults>,
    /// What the leader has done so far, by kind.
    steps: Mutex<BTreeMap<Kind, u64>>,
    /// Something is still to come of a fault before all is well.
    trouble_until: Mutex<Instant>,
    /// How long the way back is kept.
    pub(super) retention: Option<Duration>,
    streams: Mutex<BTreeMap<(&'static str, usize), u64>>,
    tasks: Mutex<JoinSet<()>>,
    story: Mutex<VecDeque<String>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl World {
    pub(super) fn new(
        seed: u64,
        slip: Option<Slip>,
        nodes: Vec<Arc<Node>>,
        store: StoreModel,
        faults: Faults,
        (proxies, clients, shards): (usize, usize, usize),
    ) -> Arc<Self> {
        let mut rng = Rng::with_seed(seed ^ 0x7e3b);
        Arc::new(Self {
            seed,
            begun: Instant::now(),
            tempo: Tempo {
                base_ms: rng.u64(0..=2),
                spike_in: rng.u64(60..600),
            },
            slip,
            nodes,
            store,
            judge: Judge::new(clients, shards),
            workers: Mutex::new((0..proxies).map(|_| None).collect()),
            dead: Mutex::new(vec![false; proxies]),
            died: Notify::new(),
            over: AtomicBool::new(false),
            gone: AtomicUsize::new(0),
            hurries: AtomicBool::new(false),
            ordered: AtomicBool::new(false),
            healed: AtomicBool::new(false),
            healing: Notify::new(),
            walls: Mutex::default(),
            slow: Mutex::default(),
            faults: Mutex::new(faults),
            steps: Mutex::default(),
            trouble_until: Mutex::new(Instant::now()),
            retention: match rng.u8(0..4) {
                0 => Some(Duration::from_secs(rng.u64(2..30))),
                1 => None,
                _ => Some(Duration::from_hours(24)),
            },
            streams: Mutex::default(),
            tasks: Mutex::default(),
            story: Mutex::default(),
        })
    }

    pub(super) fn set_current(world: Option<Arc<Self>>) {
        CURRENT.set(world);
    }

    pub(super) fn current() -> Arc<Self> {
        CURRENT.with_borrow(|world| world.clone().unwrap())
    }

    /// What the clocks of proxies say; none: nothing is simulated in this thread.
    pub(super) fn unix_now() -> Option<u64> {
        CURRENT.with_borrow(|world| Some(EPOCH_S + world.as_ref()?.begun.elapsed().as_secs()))
    }

    // === chance ===

    /// A new stream of chance.
    pub(super) fn rng(&self, of: &'static str, id: usize) -> Rng {
        let mut streams = lock(&self.streams);
        let count = streams.entry((of, id)).or_default();
        *count += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, of, id, *count).hash(&mut hasher);
        Rng::with_seed(hasher.finish())
    }

    /// One way over the network.
    pub(super) fn latency(&self, rng: &mut Rng) -> Duration {
        let is_spike = rng.u64(0..self.tempo.spike_in) == 0;
        Duration::from_millis(rng.u64(0..=if is_spike { SPIKE_MS } else { self.tempo.base_ms }))
    }

    // === network ===

    /// Nothing passes between a proxy and a peer for so long; what is sent arrives later.
    pub(super) fn wall(&self, who: usize, peer: Peer, lasting: Duration) {
        let until = Instant::now() + lasting;
        let mut walls = lock(&self.walls);
        let wall = walls.entry((who, peer)).or_insert(until);
        *wall = until.max(*wall);
    }

    pub(super) fn walled_until(&self, who: Option<usize>, peer: Peer) -> Option<Instant> {
        let until = *lock(&self.walls).get(&(who?, peer))?;
        (until > Instant::now()).then_some(until)
    }

    /// How much longer one way takes than it should.
    pub(super) fn delay(&self, who: Option<usize>, peer: Peer) -> Duration {
        let slow = lock(&self.slow);
        let delay = who.and_then(|who| slow.get(&(who, peer)));
        delay.map_or(Duration::ZERO, |(by, until)| {
            if *until > Instant::now() {
                *by
            } else {
                Duration::ZERO
            }
        })
    }

    /// Takes a message over the network.
    pub(super) async fn pass(&self, who: Option<usize>, peer: Peer, due: Instant) {
        sleep_until(due + self.delay(who, peer)).await;
        loop {
            let healed = self.healing.notified();
            let Some(until) = self.walled_until(who, peer) else {
                return;
            };
            drop(timeout_at(until, healed).await);
        }
    }

    /// Both ways without what lies in between.
    pub(super) async fn cross(&self, who: Option<usize>, peer: Peer, rng: &mut Rng) {
        self.pass(who, peer, Instant::now() + self.latency(rng)).await;
        if let Peer::Node(node) = peer {
            self.nodes[node].until_awake().await;
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.tasks).spawn(task);
    }

    pub(super) async fn shut_down(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
    }

    pub(super) fn hurry(&self, hurries: bool) {
        self.hurries.store(hurries, Relaxed);
        self.store.stored.notify_waiters();
    }

    // === faults ===

    /// The leader does something: its fate may be now. Never returns to who has died.
    pub(super) async fn step(&self, who: usize) {
        self.count(who, Kind::Step);
        if self.store.has_unit() {
            self.count(who, Kind::StepInUnit);
        }
        self.until_alive(who).await;
    }

    /// A transaction of the leader is about to run on a node, or has run.
    pub(super) async fn act(&self, who: usize, kind: Kind) {
        self.count(who, kind);
        self.until_alive(who).await;
    }

    /// The leader sends what a way back has to write.
    pub(super) async fn batch(&self, who: usize) {
        self.count(who, Kind::Batch);
        self.until_alive(who).await;
    }

    fn count(&self, who: usize, kind: Kind) {
        let may_fail = self.ordered.load(Relaxed) && !self.healed.load(Relaxed);
        if may_fail && self.store.leader_slot() == Some(who) {
            let count = {
                let mut steps = lock(&self.steps);
                let count = steps.entry(kind).or_default();
                *count += 1;
                *count - 1
            };
            self.strike(Moment::Of(kind, count), who);
        }
    }

    async fn until_alive(&self, who: usize) {
        if lock(&self.dead)[who] {
            std::future::pending::<()>().await;
        }
    }

    fn strike(&self, moment: Moment, who: usize) {
        let due = lock(&self.faults).due(moment);
        for (fault, whom) in due {
            let whom = match whom {
                Whom::Leader => who,
                Whom::Proxy(other) => other,
            };
            self.suffer(fault, whom);
        }
    }

    /// What a node is now.
    fn server(&self, node: usize) -> &Arc<Node> {
        &self.nodes[self.store.server(node)]
    }

    /// Makes a fault happen; `who`: whom it befalls, if it befalls a proxy.
    pub(super) fn suffer(&self, fault: Fault, who: usize) {
        self.tell(|| format!("FAULT {fault:?} p{who}"));
        match fault {
            Fault::Crash => {
                lock(&self.dead)[who] = true;
                self.died.notify_one();
            }
            Fault::Freeze { ms } => {
                let lasting = Duration::from_millis(ms);
                let nodes = (0..self.nodes.len()).map(Peer::Node);
                nodes
                    .chain([Peer::Store])
                    .for_each(|peer| self.wall(who, peer, lasting));
            }
            Fault::Behind { ms } => self.wall(who, Peer::Member, Duration::from_millis(ms)),
            Fault::Deaf { ms } => self.wall(who, Peer::Watch, Duration::from_millis(ms)),
            Fault::Wall { peer, ms } => self.wall(who, peer, Duration::from_millis(ms)),
            Fault::Restart {
                node,
                users,
                memory,
                ms,
            } => self
                .server(node)
                .restart(self, (users, memory), Duration::from_millis(ms)),
            Fault::StoreStands { ms } => {
                let proxies = lock(&self.workers).len();
                (0..proxies).for_each(|who| self.wall(who, Peer::Store, Duration::from_millis(ms)));
            }
            Fault::Slow { peer, by_ms, ms } => {
                let until = Instant::now() + Duration::from_millis(ms);
                lock(&self.slow).insert((who, peer), (Duration::from_millis(by_ms), until));
            }
            Fault::Stand { node, ms } => self.server(node).stand(Duration::from_millis(ms)),
            Fault::Cut { node } => self.server(node).cut(who),
            Fault::StoreForgets { calls } => self.store.forget(who, calls),
            Fault::UsersSaved { node } => self.server(node).save_users(),
            Fault::Stale { node, ms } => {
                self.wall(who, Peer::Store, Duration::from_millis(ms));
                let (world, until) = (
                    Self::current(),
                    Instant::now() + Duration::from_millis(ms * 2 / 3),
                );
                let mut trouble_until = lock(&self.trouble_until);
                *trouble_until = trouble_until.max(until + AFTERMATH);
                self.spawn(async move {
                    sleep_until(until).await;
                    if !world.healed.load(Relaxed) {
                        let back = (Users::Saved, Memory::Kept);
                        world
                            .server(node)
                            .restart(&world, back, Duration::from_millis(100));
                    }
                });
            }
        }
    }

    /// Waits until what has been begun is no trouble any more.
    pub(super) async fn until_quiet(&self) {
        let until = *lock(&self.trouble_until);
        sleep_until(until).await;
    }

    pub(super) fn timed_faults(&self) -> Vec<(Duration, Fault, Whom)> {
        lock(&self.faults).timed()
    }

    /// From now on all is well.
    pub(super) fn heal(&self) {
        self.healed.store(true, Relaxed);
        lock(&self.walls).clear();
        lock(&self.slow).clear();
        self.healing.notify_waiters();
        self.store.remember_all();
        self.tell(|| "HEALED".to_owned());
    }

    /// A shard goes to another node: nobody can write to it where it was, and no copy where it will be.
    pub(super) fn check_commit(&self, before: &Topology, next: &Topology) {
        for (shard, placed) in before.placements_by_shard() {
            let to = next.placement(shard).node;
            let (Some(unit), true) = (before.unit_of(shard), placed.node != to) else {
                continue;
            };
            let server = |node| &self.nodes[server_at(&before.node(node).address)];
            let (source, target) = (server(placed.node), server(to));
            let applier = format!("{APPLIER_PREFIX}{}", unit.task);
            // Proxies log in to the run that the topology names, and to no other.
            let is_served = before
                .access
                .get(&placed.node)
                .is_some_and(|access| access.run_id == source.run_id());
            let own = |user: &str| unit.user.as_deref() == Some(user);
            if is_served && source.may_write(own) {
                self.judge.wrong(self, || {
                    format!(
                        "I4: shard {shard} is committed, and {:?} is not frozen",
                        unit.user
                    )
                });
            }
            let is_stray = |user: &str| {
                let is_of_ours = user == FEED_USER || user.starts_with(APPLIER_PREFIX);
                user.starts_with(USER_PREFIX) && !is_of_ours && !before.has_user(placed.node, Some(user))
            };
            if source.position().0 == 1 && source.may_write(is_stray) {
                self.judge.wrong(self, || {
                    format!("I1: shard {shard} is committed, and a user of the past may still write to it")
                });
            }
            let db = placed.db.0;
            if source.db(db) != target.db(db) {
                self.judge.wrong(self, || {
                    format!("I4: shard {shard} is committed, and its nodes have different data")
                });
            }
            // A node that restarts has no connections of the past, whatever users it has.
            let is_first_run = target.position().0 == 1;
            if is_first_run && target.may_write(|user| user.starts_with(&applier)) {
                self.judge.wrong(self, || {
                    format!("I4: shard {shard} is committed, and {applier} is not sealed")
                });
            }
        }
    }

    // === story ===

    pub(super) fn tell(&self, line: impl FnOnce() -> String) {
        let mut story = lock(&self.story);
        if story.len() == STORY_MAX {
            story.pop_front();
        }
        let at = self.begun.elapsed();
        story.push_back(format!("{:>12.6} {}", at.as_secs_f64(), line()));
    }

    pub(super) fn story(&self) -> String {
        lock(&self.story).iter().map(|line| format!("{line}\n")).collect()
    }
}

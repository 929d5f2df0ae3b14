//! One fault at one point of a move: the world that it happens in, the fault, and what must hold afterwards.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::claimer::{Claimer, Way};
use super::writer::Writer;
use crate::harness::{
    Client, Etcd, Link, Node, NodeOptions, Proxy, Reply, Scratch, Setup, Weather, Whose, key_in, wait_for,
    wait_until,
};

/// For whatever happens behind leases, back-offs and copies that begin again.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long clients of another proxy may wait after the leader's death.
const RESUMED: Duration = Duration::from_secs(6);
/// Longer than the leader's lease.
const STOPPED: Duration = Duration::from_secs(6);

/// Clients with connections of their own: the proxy that they begin with, and what they do.
const CLAIMERS: [(usize, Way); 4] = [(0, Way::Watch), (1, Way::Watch), (0, Way::Wait), (1, Way::Wait)];

/// The points of a move, in their order; `src/migration/arrow.rs`.
pub(super) const ARROWS: [&str; 23] = [
    "cleared",
    "applier-made",
    "copying",
    "streaming",
    "users-made",
    "unit-published",
    "old-user-deleted",
    "unparked",
    "cutting-over",
    "quiesced",
    "frozen",
    "drained",
    "counted",
    "sealed",
    "committed",
    "tidied",
    "ended",
    "releasing",
    "released",
    "undoing",
    "undone",
    "finalizing",
    "finalized",
];

/// Who suffers what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    KillLeader,
    StopLeader,
    KillFollower,
    StopFollower,
    KillSource,
    StopSource,
    KillTarget,
    StopTarget,
    StopEtcd,
    /// The links to a node, or those of the copy alone: closed.
    CutSource,
    CutTarget,
    CutCopy,
    CutApplier,
    /// Open, and nothing comes through.
    HangSource,
    HangTarget,
    HangCopy,
    HangApplier,
    /// Slow, or one byte at a time.
    SlowSource,
    SlowTarget,
    DribbleSource,
    DribbleTarget,
}

pub(super) const FAULTS: [Fault; 21] = [
    Fault::KillLeader,
    Fault::StopLeader,
    Fault::KillSource,
    Fault::KillFollower,
    Fault::StopEtcd,
    Fault::KillTarget,
    Fault::StopFollower,
    Fault::StopSource,
    Fault::StopTarget,
    Fault::CutSource,
    Fault::CutTarget,
    Fault::CutCopy,
    Fault::CutApplier,
    Fault::HangSource,
    Fault::HangTarget,
    Fault::HangCopy,
    Fault::HangApplier,
    Fault::SlowSource,
    Fault::SlowTarget,
    Fault::DribbleSource,
    Fault::DribbleTarget,
];

/// What the fault does to links: of which node, how, and which of them.
fn weather_of(fault: Fault) -> Option<(usize, Weather, Whose)> {
    let slow = Weather::Slow(Duration::from_millis(15));
    Some(match fault {
        Fault::CutSource => (0, Weather::Cut, Whose::All),
        Fault::CutTarget => (1, Weather::Cut, Whose::All),
        Fault::CutCopy => (0, Weather::Cut, Whose::With("PSYNC")),
        Fault::CutApplier => (1, Weather::Cut, Whose::With("ps-a-")),
        Fault::HangSource => (0, Weather::Hang, Whose::All),
        Fault::HangTarget => (1, Weather::Hang, Whose::All),
        Fault::HangCopy => (0, Weather::Hang, Whose::With("PSYNC")),
        Fault::HangApplier => (1, Weather::Hang, Whose::With("ps-a-")),
        Fault::SlowSource => (0, slow, Whose::All),
        Fault::SlowTarget => (1, slow, Whose::All),
        Fault::DribbleSource => (0, Weather::Dribble, Whose::All),
        Fault::DribbleTarget => (1, Weather::Dribble, Whose::All),
        _ => return None,
    })
}

/// A fault at a point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) arrow: &'static str,
    pub(super) fault: Fault,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The task's state behind the fault.
    pub(super) ended: String,
    /// The longest wait of a client whose proxy lived.
    pub(super) longest: Duration,
}

impl Case {
    pub(super) fn name(self) -> String {
        format!("{}:{:?}", self.arrow, self.fault)
    }

    /// Whether every client whose proxy lives must go on without an error.
    fn spares_clients(self) -> bool {
        !matches!(
            self.fault,
            Fault::KillSource
                | Fault::KillTarget
                | Fault::CutSource
                | Fault::CutTarget
                | Fault::HangSource
                | Fault::HangTarget
        )
    }

    /// Whether clients of this proxy noticed nothing but waiting. `of_leader`: it led when the fault came.
    fn spares_proxy(self, of_leader: bool) -> bool {
        match self.fault {
            Fault::KillLeader | Fault::StopLeader => !of_leader,
            Fault::KillFollower | Fault::StopFollower => of_leader,
            _ => true,
        }
    }
}

struct World {
    nodes: Vec<Node>,
    links: Vec<Link>,
    proxies: Vec<Proxy>,
    leader: usize,
    arrows: Scratch,
    own_etcd: Option<Etcd>,
}

impl World {
    fn start(case: Case, etcd: &Etcd) -> Self {
        // Who kills Redis must not blame preshard for what Redis forgets.
        let durable = matches!(case.fault, Fault::KillSource | Fault::KillTarget);
        let options = NodeOptions {
            durable,
            ..NodeOptions::default()
        };
        let nodes = vec![Node::with(options.clone()), Node::with(options)];
        let links: Vec<Link> = nodes
            .iter()
            .filter(|_| weather_of(case.fault).is_some())
            .map(|node| Link::to(node.socket()))
            .collect();
        let addresses: Vec<String> = if links.is_empty() {
            nodes.iter().map(Node::address).collect()
        } else {
            links.iter().map(Link::address).collect()
        };
        let own_etcd = (case.fault == Fault::StopEtcd).then(|| Etcd::start(1));
        let arrows = Scratch::new("arrows");
        let store = own_etcd.as_ref().unwrap_or(etcd).store(&format!(
            "case-{}-{:?}-{}",
            case.arrow,
            case.fault,
            fastrand::u32(..)
        ));
        let setup = Setup::of(&addresses)
            .store(&store)
            .arrows(arrows.path())
            .any_warning();
        let launched = [setup.launch(), setup.launch()];
        let proxies: Vec<Proxy> = launched
            .into_iter()
            .map(|launch| setup.until_ready(launch))
            .collect();
        let mut world = Self {
            nodes,
            links,
            proxies,
            leader: 0,
            arrows,
            own_etcd,
        };
        world.find_leader();
        world.wait_for_users();
        world
    }

    fn find_leader(&mut self) {
        self.leader = wait_for("one of them leads", PATIENCE, || {
            let leads = |proxy: &Proxy| proxy.metric("preshard_leader") == 1;
            self.proxies.iter().position(leads)
        });
    }

    /// The leader makes preshard's own users, without which nothing moves.
    fn wait_for_users(&self) {
        wait_until("preshard's users are on the nodes", PATIENCE, || {
            self.nodes.iter().all(|node| {
                let users = node.client().ask("ACL USERS").items();
                users.iter().any(|user| user.text().starts_with("ps-g"))
            })
        });
    }

    fn arm(&self, arrow: &str) {
        std::fs::write(self.arrows.file(arrow), "").unwrap();
    }

    fn await_arrow(&self, arrow: &str) {
        let file = self.arrows.file(&format!("{arrow}.here"));
        wait_until(&format!("the move reaches '{arrow}'"), PATIENCE, || file.exists());
    }

    fn let_go(&self, arrow: &str) {
        std::fs::remove_file(self.arrows.file(&format!("{arrow}.here"))).unwrap();
    }

    /// An admin client of a proxy that lives.
    fn admin(&self, dead: Option<usize>) -> Client {
        let proxy = (0..self.proxies.len()).find(|&proxy| Some(proxy) != dead);
        let mut client = self.proxies[proxy.unwrap()].admin_client();
        client.limit = PATIENCE;
        client
    }

    /// Makes a move reach the arrow, and answers its task.
    fn bring_to(&self, case: Case) -> String {
        let mut admin = self.admin(None);
        let mut order = |more: &str| {
            admin
                .ask(&format!("PRESHARD SHARD MOVE 0-3 TO node-2{more}"))
                .text()
        };
        match case.arrow {
            "releasing" | "released" => {
                // The target stands still until the source takes its shards back.
                ["frozen", case.arrow]
                    .into_iter()
                    .for_each(|arrow| self.arm(arrow));
                let task = order("");
                self.await_arrow("frozen");
                self.nodes[1].freeze();
                self.let_go("frozen");
                self.await_arrow(case.arrow);
                self.nodes[1].thaw();
                task
            }
            "undoing" | "undone" => {
                self.arm(case.arrow);
                let task = order(" MANUAL");
                wait_until("it waits for the word", PATIENCE, || {
                    state(&mut self.admin(None), &task).0 == "ready"
                });
                // Not waited for: it is answered when it is done.
                let mut other = self.admin(None);
                other.command(&["PRESHARD", "TASK", "CANCEL", &task]);
                self.await_arrow(case.arrow);
                task
            }
            "finalizing" | "finalized" => {
                self.arm(case.arrow);
                let task = order("");
                wait_until("it has moved", PATIENCE, || {
                    state(&mut self.admin(None), &task).0 == "moved"
                });
                let mut other = self.admin(None);
                other.command(&["PRESHARD", "TASK", "FINALIZE", &task]);
                self.await_arrow(case.arrow);
                task
            }
            arrow => {
                self.arm(arrow);
                let task = order("");
                self.await_arrow(arrow);
                task
            }
        }
    }

    /// Does it, and lets the move go on. Answers which proxy is dead.
    fn strike(&mut self, case: Case) -> Option<usize> {
        let (leader, follower) = (self.leader, 1 - self.leader);
        let stand = |time: Duration| {
            let until = Instant::now() + time;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
        };
        match case.fault {
            Fault::KillLeader => {
                self.proxies[leader].kill();
                return Some(leader);
            }
            Fault::KillFollower => {
                self.proxies[follower].kill();
                self.let_go(case.arrow);
                return Some(follower);
            }
            Fault::StopLeader | Fault::StopFollower => {
                let proxy = if case.fault == Fault::StopLeader {
                    leader
                } else {
                    follower
                };
                self.proxies[proxy].freeze();
                self.let_go(case.arrow);
                stand(STOPPED);
                self.proxies[proxy].thaw();
            }
            Fault::KillSource | Fault::KillTarget => {
                let node = usize::from(case.fault == Fault::KillTarget);
                self.nodes[node].kill();
                self.let_go(case.arrow);
                stand(Duration::from_millis(300));
                self.nodes[node].restart();
            }
            Fault::StopSource | Fault::StopTarget => {
                let node = usize::from(case.fault == Fault::StopTarget);
                self.nodes[node].freeze();
                self.let_go(case.arrow);
                stand(Duration::from_secs(2));
                self.nodes[node].thaw();
            }
            Fault::StopEtcd => {
                let etcd = self.own_etcd.as_ref().unwrap();
                etcd.freeze(0);
                self.let_go(case.arrow);
                stand(Duration::from_secs(3));
                etcd.thaw(0);
            }
            fault => {
                let (node, weather, whose) = weather_of(fault).unwrap();
                self.links[node].set(weather, whose);
                self.let_go(case.arrow);
                stand(Duration::from_secs(2));
                self.links[node].clear();
            }
        }
        None
    }
}

fn state(admin: &mut Client, task: &str) -> (String, Reply) {
    let row = admin.ask(&format!("PRESHARD TASK STATUS {task}"));
    let state = row.error().map_or_else(
        || row.field("state").unwrap().text(),
        |error| format!("unknown: {error}"),
    );
    (state, row)
}

fn is_over(state: &str) -> bool {
    matches!(state, "moved" | "failed" | "cancelled" | "finalized")
}

/// Waits until a task is over.
fn end_of(admin: &mut Client, task: &str) -> (String, Reply) {
    let mut last = String::new();
    let begun = Instant::now();
    loop {
        let (now, row) = state(admin, task);
        if is_over(&now) {
            return (now, row);
        }
        if now != last {
            last = now;
        }
        assert!(begun.elapsed() < PATIENCE, "task {task} is {last}: {row:?}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// Shards go to a node, however often it has to be said; at last it is so.
fn heal(admin: &mut Client, target: &str) {
    let begun = Instant::now();
    loop {
        let said = admin.ask(&format!("PRESHARD SHARD MOVE 0-3 TO {target}"));
        let why = match said.error() {
            Some(error) if error.contains("live on node") => return,
            Some(error) => error.to_owned(),
            None => {
                let (state, row) = end_of(admin, &said.text());
                if state == "moved" {
                    return;
                }
                format!("{row:?}")
            }
        };
        assert!(
            begun.elapsed() < PATIENCE,
            "nothing can be moved to {target} any more: {why}"
        );
        thread::park_timeout(Duration::from_millis(200));
    }
}

/// Runs one case; panics with what does not hold.
pub(super) fn run(case: Case, etcd: &Etcd) -> Outcome {
    let mut world = World::start(case, etcd);
    let addresses: Vec<_> = world.proxies.iter().map(|proxy| proxy.data).collect();
    let stop = AtomicBool::new(false);
    let leader = world.leader;
    thread::scope(|scope| {
        let guard = StopAtEnd(&stop);
        let writers: Vec<_> = (0..6)
            .map(|number| {
                let key = key_in(number, 8, &format!("list{number}-"));
                let number = usize::from(number);
                let writer = Writer::new(number % 2, number / 2 + number % 2, key);
                let (addresses, stop) = (&addresses, &stop);
                scope.spawn(move || writer.run(addresses, stop))
            })
            .collect();
        let claimers: Vec<_> = (CLAIMERS.into_iter().zip(0..))
            .map(|((home, way), shard)| {
                let claimer = Claimer::new(home, way, key_in(shard, 8, &format!("claim{shard}-")));
                let (addresses, stop) = (&addresses, &stop);
                scope.spawn(move || claimer.run(addresses, stop))
            })
            .collect();
        let task = world.bring_to(case);
        let struck = Instant::now();
        let dead = world.strike(case);
        let mut admin = world.admin(dead);
        let (ended, row) = end_of(&mut admin, &task);
        let healed = Instant::now();
        heal(&mut admin, "node-2");
        heal(&mut admin, "node-1");
        stop.store(true, Relaxed);
        let writers: Vec<Writer> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let claimers: Vec<Claimer> = claimers
            .into_iter()
            .map(|claimer| claimer.join().unwrap())
            .collect();
        drop(guard);
        let mut longest = Duration::ZERO;
        let survivor = dead.map_or(0, |dead| 1 - dead);
        let mut client = world.proxies[survivor].client();
        client.limit = PATIENCE;
        claimers
            .into_iter()
            .for_each(|claimer| judge(case, leader, claimer, &mut client));
        for writer in &writers {
            writer.check(&mut client);
            if !case.spares_proxy(writer.home == leader) {
                continue;
            }
            let waits = writer.waits.iter().filter(|(at, _)| *at > struck);
            longest = waits.map(|(_, wait)| *wait).fold(longest, Duration::max);
            if case.spares_clients() {
                let errors: Vec<_> = writer
                    .errors
                    .iter()
                    .map(|(at, what)| (at.duration_since(struck), what))
                    .collect();
                assert!(
                    errors.is_empty() && writer.lost == 0,
                    "a client of a living proxy was told {errors:?} and lost {} connections; task over after {:?}: {row:?}",
                    writer.lost,
                    healed - struck
                );
            }
        }
        if matches!(case.fault, Fault::KillLeader | Fault::StopLeader) {
            assert!(longest < RESUMED, "clients waited {longest:?}");
        }
        Outcome { ended, longest }
    })
}

/// What a client with a connection of its own may have noticed.
fn judge(case: Case, leader: usize, mut claimer: Claimer, client: &mut Client) {
    claimer.check(client);
    let spared = case.spares_clients() && case.spares_proxy(claimer.home == leader);
    assert!(
        !spared || (claimer.errors.is_empty() && claimer.lost == 0),
        "a client with a connection of its own noticed it: {claimer:?}"
    );
}

/// Stops the writers also when the test fails on its way.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Whether a move stops at arrows at all: in a release build it does not.
pub(super) fn can_run() -> bool {
    let debug = cfg!(debug_assertions);
    if !debug {
        println!("left out: a release build does not stop at arrows");
    }
    debug
}

//! One fault at one point of a move: the world that it happens in, the fault, and what must hold afterwards.

use std::thread;
use std::time::{Duration, Instant};

use super::claimer::{Claimer, under_claimers};
use crate::harness::{
    Client, Etcd, Link, Metronome, Node, NodeOptions, Reply, Setup, Weather, Whose, wait_for, wait_until,
};
use crate::moving::{
    Arrows, PATIENCE, Pair, ask, field, lists, order, state, under_writers, until_moved, until_ready,
    until_users,
};

/// How long clients of another proxy may wait after the leader's death.
const RESUMED: Duration = Duration::from_secs(6);
/// Longer than the leader's lease.
const STOPPED: Duration = Duration::from_secs(6);

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
    pair: Pair,
    arrows: Arrows,
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
        let arrows = Arrows::new();
        let store = own_etcd.as_ref().unwrap_or(etcd).store(&format!(
            "case-{}-{:?}-{}",
            case.arrow,
            case.fault,
            fastrand::u32(..)
        ));
        let setup = Setup::of(&addresses)
            .store(&store)
            .arrows(arrows.folder())
            .any_warning();
        let pair = Pair::start(&setup);
        until_users(&nodes);
        Self {
            nodes,
            links,
            pair,
            arrows,
            own_etcd,
        }
    }

    /// An operator at a proxy that lives.
    fn admin(&self, dead: Option<usize>) -> Client {
        self.pair.admin(dead.map_or(0, |dead| 1 - dead))
    }

    /// Makes a move reach the arrow, and answers its task.
    fn bring_to(&self, case: Case) -> String {
        let (mut admin, arrows) = (self.admin(None), &self.arrows);
        let mut order = |more: &str| order(&mut admin, &format!("SHARD MOVE 0-3 TO node-2{more}"));
        match case.arrow {
            "releasing" | "released" => {
                // The target stands still until the source takes its shards back.
                ["frozen", case.arrow]
                    .into_iter()
                    .for_each(|arrow| arrows.arm(arrow));
                let task = order("");
                arrows.until_reached("frozen");
                self.nodes[1].freeze();
                arrows.let_go("frozen");
                arrows.until_reached(case.arrow);
                self.nodes[1].thaw();
                task
            }
            "undoing" | "undone" => {
                arrows.arm(case.arrow);
                let task = order(" MANUAL");
                until_ready(&mut self.admin(None), &task);
                // Not waited for: it is answered when it is done.
                let mut other = self.admin(None);
                other.command(&["PRESHARD", "TASK", "CANCEL", &task]);
                arrows.until_reached(case.arrow);
                task
            }
            "finalizing" | "finalized" => {
                arrows.arm(case.arrow);
                let task = order("");
                until_moved(&mut self.admin(None), &task);
                let mut other = self.admin(None);
                other.command(&["PRESHARD", "TASK", "FINALIZE", &task]);
                arrows.until_reached(case.arrow);
                task
            }
            arrow => {
                arrows.arm(arrow);
                let task = order("");
                arrows.until_reached(arrow);
                task
            }
        }
    }

    /// Does it, and lets the move go on. Answers which proxy is dead.
    fn strike(&mut self, case: Case) -> Option<usize> {
        let (leader, follower) = (self.pair.leader, 1 - self.pair.leader);
        let proxies = &mut self.pair.proxies;
        let stand = |time: Duration| {
            let until = Instant::now() + time;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
        };
        match case.fault {
            Fault::KillLeader => {
                proxies[leader].kill();
                return Some(leader);
            }
            Fault::KillFollower => {
                proxies[follower].kill();
                self.arrows.let_go(case.arrow);
                return Some(follower);
            }
            Fault::StopLeader | Fault::StopFollower => {
                let proxy = if case.fault == Fault::StopLeader {
                    leader
                } else {
                    follower
                };
                proxies[proxy].freeze();
                self.arrows.let_go(case.arrow);
                stand(STOPPED);
                proxies[proxy].thaw();
            }
            Fault::KillSource | Fault::KillTarget => {
                let node = usize::from(case.fault == Fault::KillTarget);
                self.nodes[node].kill();
                self.arrows.let_go(case.arrow);
                stand(Duration::from_millis(300));
                self.nodes[node].restart();
            }
            Fault::StopSource | Fault::StopTarget => {
                let node = usize::from(case.fault == Fault::StopTarget);
                self.nodes[node].freeze();
                self.arrows.let_go(case.arrow);
                stand(Duration::from_secs(2));
                self.nodes[node].thaw();
            }
            Fault::StopEtcd => {
                let etcd = self.own_etcd.as_ref().unwrap();
                etcd.freeze(0);
                self.arrows.let_go(case.arrow);
                stand(Duration::from_secs(3));
                etcd.thaw(0);
            }
            fault => {
                let (node, weather, whose) = weather_of(fault).unwrap();
                self.links[node].set(weather, whose);
                self.arrows.let_go(case.arrow);
                stand(Duration::from_secs(2));
                self.links[node].clear();
            }
        }
        None
    }
}

/// Waits until a task is over.
fn end_of(admin: &mut Client, task: &str) -> (String, Reply) {
    wait_for("the task is over", PATIENCE, || {
        let (state, row) = state(admin, task);
        matches!(state.as_str(), "moved" | "failed" | "cancelled" | "finalized").then_some((state, row))
    })
}

/// Shards go to a node, however often it has to be said; at last it is so.
fn heal(admin: &mut Client, target: &str) {
    let mut last = String::new();
    wait_until("the shards can be moved", PATIENCE, || {
        let told = ask(admin, &format!("SHARD MOVE 0-3 TO {target}"));
        let why = match told.error() {
            Some(error) if error.contains("live on node") => return true,
            Some(error) => error.to_owned(),
            None => {
                let (state, row) = end_of(admin, &told.text());
                if state == "moved" {
                    return true;
                }
                format!("it has {state}: {}", field(&row, "error"))
            }
        };
        if why != last {
            println!("not moved to {target} yet: {why}");
            last = why;
        }
        false
    });
}

/// Runs one case; panics with what does not hold.
pub(super) fn run(case: Case, etcd: &Etcd) -> Outcome {
    let mut world = World::start(case, etcd);
    let addresses: Vec<_> = world.pair.proxies.iter().map(|proxy| proxy.data).collect();
    let (leader, metronome) = (world.pair.leader, Metronome::start());
    let (((struck, dead, ended, row), claimers), writers) = under_writers(&addresses, &lists(6), || {
        under_claimers(&addresses, || {
            let task = world.bring_to(case);
            let struck = Instant::now();
            let dead = world.strike(case);
            let mut admin = world.admin(dead);
            let (ended, row) = end_of(&mut admin, &task);
            heal(&mut admin, "node-2");
            heal(&mut admin, "node-1");
            (struck, dead, ended, row)
        })
    });
    let mut longest = Duration::ZERO;
    let survivor = dead.map_or(0, |dead| 1 - dead);
    let mut client = world.pair.proxies[survivor].client();
    client.limit = PATIENCE;
    for claimer in claimers {
        judge(case, leader, claimer, &mut client);
    }
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
                "a client of a living proxy was told {errors:?} and lost {} connections: {row:?}",
                writer.lost
            );
        }
    }
    if matches!(case.fault, Fault::KillLeader | Fault::StopLeader) {
        let late = metronome.late();
        assert!(
            longest < RESUMED + late,
            "clients waited {longest:?}, late {late:?}"
        );
    }
    Outcome { ended, longest }
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

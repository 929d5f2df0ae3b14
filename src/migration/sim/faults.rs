//! What goes wrong in a run, and when.

use std::time::Duration;

use fastrand::Rng;

use super::play::Planted;
use super::world::Peer;
use crate::control::Mistake;

/// What a proxy could do wrong; see also [`Mistake`](crate::control::Mistake).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slip {
    /// Another process of a node counts as the one that it knows.
    IgnoresRun,
    /// What was sent over a connection that ended is sent again.
    SendsAgain,
    /// What was refused waits, and what comes behind it goes on.
    Overtakes,
}

/// What a node has of its users when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Users {
    /// All of them.
    Kept,
    /// Those of the moment when they were saved last.
    Saved,
    /// None.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The proxy is gone; another one takes its place after a while.
    Crash,
    /// The proxy stands still: what it has sent, and is sent, arrives later.
    Freeze { ms: u64 },
    /// Nothing passes between the proxy and one peer.
    Wall { peer: Peer, ms: u64 },
    /// A node ends and comes back with its data.
    Restart { node: usize, users: Users, ms: u64 },
    /// A node stands still.
    Stand { node: usize, ms: u64 },
    /// The proxy's connections to a node break.
    Cut { node: usize },
    /// The store's answers to the proxy's next calls are lost, before or behind what was asked.
    StoreForgets { calls: usize },
    /// The node's users are written to its disk.
    UsersSaved { node: usize },
    /// The proxy hears nothing of the store for so long, and in the middle of it a node comes back with users of the past.
    Stale { node: usize, ms: u64 },
}

/// Whom a fault befalls, if it befalls a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Leader,
    Proxy(usize),
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// When the leader does its nth thing since moves were ordered.
    Step(u64),
    /// The same, of those that it does while something is on its way.
    StepInUnit(u64),
    At(u64),
}

/// Kinds of faults, as they are drawn.
const FREEZE: u8 = 3;
const RESTART: u8 = 8;
const CUT: u8 = 11;
const STORE: u8 = 12;
const STALE: u8 = 16;

#[derive(Debug, Default)]
pub(super) struct Faults {
    waiting: Vec<(Moment, Fault, Whom)>,
}

impl Faults {
    /// What a seed has in store. `proxies` and `nodes`: how many there are. Half of it is of the kind that shows the mistake that was
    /// planted, if one was and it takes one kind.
    pub(super) fn draw(rng: &mut Rng, (proxies, nodes): (usize, usize), planted: Planted) -> Self {
        let telling = match planted {
            Planted::Mistake(Mistake::IgnoresTerm) => Some(FREEZE),
            Planted::Mistake(Mistake::IgnoresRun) => Some(RESTART),
            Planted::Mistake(Mistake::AsksNothing) => Some(STORE),
            Planted::Slip(Slip::SendsAgain) => Some(CUT),
            Planted::Slip(Slip::IgnoresRun) => Some(STALE),
            Planted::Nothing | Planted::Mistake(_) | Planted::Slip(_) => None,
        };
        let mut faults = Self::default();
        for _ in 0..rng.usize(1..=4) {
            let node = rng.usize(0..nodes);
            let moment = match rng.u8(0..10) {
                0..=2 => Moment::Step(rng.u64(0..200)),
                3..=8 => Moment::StepInUnit(rng.u64(0..130)),
                _ => Moment::At(rng.u64(500..15_000)),
            };
            let ms = match rng.u8(0..4) {
                0 => rng.u64(1..100),
                1 => rng.u64(100..3_000),
                // About as long as it takes until another proxy leads, and has begun again.
                2 => rng.u64(2_800..5_500),
                _ => rng.u64(2_000..12_000),
            };
            let peer = if rng.bool() { Peer::Store } else { Peer::Node(node) };
            let kind = rng.u8(0..=STALE);
            let fault = match telling.filter(|_| rng.bool()).unwrap_or(kind) {
                0..=2 => Fault::Crash,
                FREEZE..=5 => Fault::Freeze { ms },
                6..=7 => Fault::Wall { peer, ms },
                RESTART..=9 => Fault::Restart {
                    node,
                    users: [Users::Kept, Users::Saved, Users::Lost][rng.usize(0..3)],
                    ms: ms.min(3_000),
                },
                10 => Fault::Stand {
                    node,
                    ms: ms.min(3_000),
                },
                CUT => Fault::Cut { node },
                STORE..=13 => Fault::StoreForgets {
                    calls: if rng.bool() {
                        rng.usize(1..4)
                    } else {
                        rng.usize(1..40)
                    },
                },
                14 => Fault::UsersSaved { node },
                _ => Fault::Stale {
                    node,
                    ms: rng.u64(12_000..25_000),
                },
            };
            let whom = match fault {
                Fault::Stale { .. } => Whom::Proxy(rng.usize(0..proxies)),
                _ if rng.u8(0..4) == 0 => Whom::Proxy(rng.usize(0..proxies)),
                _ => Whom::Leader,
            };
            faults.waiting.push((moment, fault, whom));
        }
        faults
    }

    /// What was to happen at this moment.
    pub(super) fn due(&mut self, moment: Moment) -> Vec<(Fault, Whom)> {
        let due = self.waiting.extract_if(.., |(when, ..)| *when == moment);
        due.map(|(_, fault, whom)| (fault, whom)).collect()
    }

    /// What happens by the clock, in order.
    pub(super) fn timed(&mut self) -> Vec<(Duration, Fault, Whom)> {
        let timed = self
            .waiting
            .extract_if(.., |(when, ..)| matches!(when, Moment::At(_)));
        let mut timed: Vec<_> = timed
            .filter_map(|(when, fault, whom)| match when {
                Moment::At(ms) => Some((Duration::from_millis(ms), fault, whom)),
                Moment::Step(_) | Moment::StepInUnit(_) => None,
            })
            .collect();
        timed.sort_by_key(|(at, ..)| *at);
        timed
    }
}

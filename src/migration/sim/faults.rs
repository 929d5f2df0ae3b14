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
    /// It says that it holds a unit which no user fences, and sends on.
    HoldsNot,
    /// A connection that is made anew is used although its node's mark is ahead.
    Unheard,
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

/// What a node has of its data when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Kept,
    /// Nothing, if no client needs it.
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
    /// A node ends and comes back.
    Restart {
        node: usize,
        users: Users,
        memory: Memory,
        ms: u64,
    },
    /// A node stands still.
    Stand { node: usize, ms: u64 },
    /// The proxy's connections to a node break.
    Cut { node: usize },
    /// The member of the store that the proxy asks lags behind: what is asked is done, and answered when it has caught up. Signs of life
    /// pass.
    Behind { ms: u64 },
    /// The proxy's watch of the store hears nothing; what is asked is answered.
    Deaf { ms: u64 },
    /// The store's answers to the proxy's next calls are lost, before or behind what was asked.
    StoreForgets { calls: usize },
    /// The store stands still: nobody reaches it, and leases end.
    StoreStands { ms: u64 },
    /// What passes between the proxy and one peer takes so much longer.
    Slow { peer: Peer, by_ms: u64, ms: u64 },
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

/// What a leader does, as it is counted since moves were ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Anything.
    Step,
    /// Anything while something is on its way.
    StepInUnit,
    /// A transaction on a node, of its term, is about to run.
    Act,
    /// One has run.
    Acted,
    /// It sends a batch of a way back.
    Batch,
}

impl Kind {
    /// Which time it is. What every run has is drawn more often than what few have.
    fn draw(self, rng: &mut Rng) -> u64 {
        match self {
            Self::Step => rng.u64(0..400),
            Self::StepInUnit => rng.u64(0..200),
            Self::Act | Self::Acted => rng.u64(0..24) * rng.u64(0..24) / 24,
            Self::Batch => rng.u64(0..30) * rng.u64(0..30) / 30,
        }
    }
}

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// When the leader does something for the nth time.
    Of(Kind, u64),
    At(u64),
}

/// Kinds of faults, as they are drawn.
const FREEZE: u8 = 3;
const RESTART: u8 = 8;
const CUT: u8 = 11;
const STORE: u8 = 12;
const BEHIND: u8 = 15;
const DEAF: u8 = 16;
const STALE: u8 = 17;
const STORE_STANDS: u8 = 18;
const SLOW: u8 = 19;
/// A proxy that is cut off from the store for longer than its lease.
const AWAY: u8 = 20;

impl Moment {
    /// `when`: what the leader does then, most of the time.
    fn draw(rng: &mut Rng, when: Option<Kind>) -> Self {
        let doing = match rng.u8(0..12) {
            0..=1 => Some(Kind::Step),
            2..=6 => Some(Kind::StepInUnit),
            7 => Some(Kind::Act),
            8 => Some(Kind::Acted),
            9..=10 => Some(Kind::Batch),
            _ => None,
        };
        match when.filter(|_| rng.u8(0..4) > 0).or(doing) {
            Some(kind) => Self::Of(kind, kind.draw(rng)),
            None => Self::At(rng.u64(500..15_000)),
        }
    }

    /// How long what happens then lasts.
    fn lasting(self, rng: &mut Rng) -> u64 {
        let ms = match rng.u8(0..4) {
            0 => rng.u64(1..100),
            1 => rng.u64(100..3_000),
            // About as long as it takes until another proxy leads, and has begun again.
            2 => rng.u64(2_800..5_500),
            _ => rng.u64(2_000..12_000),
        };
        // A leader that stands still in the middle of a transaction is of the past most of the time when it runs: another one has
        // begun, or has come to an end.
        match self {
            Self::Of(Kind::Act, _) => match rng.u8(0..4) {
                0 => ms,
                1..=2 => rng.u64(2_500..5_500),
                _ => rng.u64(5_000..16_000),
            },
            Self::Of(..) | Self::At(_) => ms,
        }
    }
}

impl Fault {
    /// One of a kind, which comes at this moment.
    fn draw(rng: &mut Rng, kind: u8, node: usize, moment: Moment) -> Self {
        let ms = moment.lasting(rng);
        let peer = if rng.bool() { Peer::Store } else { Peer::Node(node) };
        match kind {
            0..=2 => Self::Crash,
            FREEZE..=5 => Self::Freeze { ms },
            6..=7 => Self::Wall { peer, ms },
            RESTART..=9 => Self::Restart {
                node,
                users: [Users::Kept, Users::Saved, Users::Lost][rng.usize(0..3)],
                memory: if rng.u8(0..4) == 0 {
                    Memory::Lost
                } else {
                    Memory::Kept
                },
                ms: ms.min(3_000),
            },
            10 => Self::Stand {
                node,
                ms: ms.min(3_000),
            },
            CUT => Self::Cut { node },
            STORE..=13 => Self::StoreForgets {
                calls: if rng.bool() {
                    rng.usize(1..4)
                } else {
                    rng.usize(1..40)
                },
            },
            14 => Self::UsersSaved { node },
            BEHIND => Self::Behind {
                ms: rng.u64(1..20_000),
            },
            DEAF => Self::Deaf { ms },
            STALE => Self::Stale {
                node,
                ms: rng.u64(12_000..25_000),
            },
            STORE_STANDS => Self::StoreStands { ms },
            SLOW => Self::Slow {
                peer,
                by_ms: rng.u64(5..300),
                ms,
            },
            _ => Self::Wall {
                peer: Peer::Store,
                ms: rng.u64(6_000..20_000),
            },
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    waiting: Vec<(Moment, Fault, Whom)>,
}

impl Faults {
    /// What a seed has in store. `proxies` and `nodes`: how many there are. Most of it is of the kind that shows the mistake that
    /// was planted, if one was and it takes one kind; and most of that comes while the leader does what the mistake is about.
    pub(super) fn draw(rng: &mut Rng, (proxies, nodes): (usize, usize), planted: Planted) -> Self {
        let telling = match planted {
            Planted::Mistake(Mistake::IgnoresTerm | Mistake::LeavesWriters) => Some(FREEZE),
            Planted::Mistake(Mistake::IgnoresRun) => Some(RESTART),
            Planted::Mistake(Mistake::AsksNothing) => Some(BEHIND),
            Planted::Slip(Slip::SendsAgain) => Some(CUT),
            Planted::Slip(Slip::IgnoresRun) => Some(STALE),
            Planted::Slip(Slip::Unheard) | Planted::Mistake(Mistake::LeavesStrangers) => Some(AWAY),
            Planted::Nothing | Planted::Mistake(_) | Planted::Slip(_) => None,
        };
        let when = match planted {
            Planted::Mistake(Mistake::IgnoresTerm) => Some(Kind::Act),
            Planted::Mistake(Mistake::LeavesWriters) => Some(Kind::Batch),
            _ => None,
        };
        let mut faults = Self::default();
        for _ in 0..rng.usize(1..=4) {
            let node = rng.usize(0..nodes);
            let is_telling = telling.is_some() && rng.u8(0..4) > 0;
            let moment = Moment::draw(rng, when.filter(|_| is_telling));
            let kind = rng.u8(0..=AWAY);
            let kind = telling.filter(|_| is_telling).unwrap_or(kind);
            let fault = Fault::draw(rng, kind, node, moment);
            let is_away = matches!(fault, Fault::Wall { peer: Peer::Store, ms } if ms >= 6_000);
            let whom = match fault {
                Fault::Stale { .. } => Whom::Proxy(rng.usize(0..proxies)),
                _ if is_away || rng.u8(0..4) == 0 => Whom::Proxy(rng.usize(0..proxies)),
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
                Moment::Of(..) => None,
            })
            .collect();
        timed.sort_by_key(|(at, ..)| *at);
        timed
    }
}

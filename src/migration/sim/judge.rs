//! What clients were told, and whether that can be true.
//!
//! * A list has what its client was told to be there, once and in order; what is in doubt is there once or not at all, in its place.
//! * A counter never goes back, whoever asks: neither behind what anybody was told before the question, nor behind what the same
//!   client was told of the request before.
//! * While requests of clients run on a node, the store says that it has the shard ([`Judge::wrong`] is told by the node).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use super::data::{Data, Db};
use super::proxy::Outcome;
use super::world::{World, lock};
use crate::resp::Value;

#[derive(Debug, Default)]
struct Counter {
    highest: i64,
    told: BTreeSet<i64>,
    in_doubt: usize,
}

#[derive(Debug, Default)]
struct List {
    told: Vec<u64>,
    in_doubt: BTreeSet<u64>,
}

/// What a client asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Push(u64),
    Incr,
    Get,
}

/// A question under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) client: usize,
    pub(super) shard: u16,
    /// What anybody knew of the counter then.
    floor: i64,
}

#[derive(Debug)]
pub(super) struct Judge {
    counters: Vec<Mutex<Counter>>,
    lists: Mutex<BTreeMap<(usize, u16), List>>,
    served: Mutex<BTreeMap<(usize, u16), Instant>>,
    clients: usize,
    wrong: Mutex<Option<String>>,
    pub(super) answered: AtomicU64,
    pub(super) in_doubt: AtomicU64,
    pub(super) not_run: AtomicU64,
}

impl Judge {
    pub(super) fn new(clients: usize, shards: usize) -> Self {
        Self {
            counters: (0..shards).map(|_| Mutex::default()).collect(),
            lists: Mutex::default(),
            served: Mutex::default(),
            clients,
            wrong: Mutex::default(),
            answered: AtomicU64::new(0),
            in_doubt: AtomicU64::new(0),
            not_run: AtomicU64::new(0),
        }
    }

    /// Something must never be. The first is kept.
    pub(super) fn wrong(&self, world: &World, what: impl FnOnce() -> String) {
        let mut wrong = lock(&self.wrong);
        if wrong.is_none() {
            let what = what();
            world.tell(|| format!("WRONG {what}"));
            *wrong = Some(what);
        }
    }

    pub(super) fn verdict(&self) -> Option<String> {
        lock(&self.wrong).clone()
    }

    pub(super) fn asked(&self, client: usize, shard: u16, ask: Ask) -> Asked {
        Asked {
            ask,
            client,
            shard,
            floor: lock(&self.counters[usize::from(shard)]).highest,
        }
    }

    /// `seen`: what this client was told last of the shard's counter.
    pub(super) fn told(&self, world: &World, asked: Asked, outcome: &Outcome, seen: &mut i64) {
        let Asked { client, shard, .. } = asked;
        let mut counter = lock(&self.counters[usize::from(shard)]);
        let mut lists = lock(&self.lists);
        let list = lists.entry((client, shard)).or_default();
        match outcome {
            Outcome::Reply(reply) => {
                self.answered.fetch_add(1, Relaxed);
                lock(&self.served).insert((client, shard), Instant::now());
                let least = asked.floor.max(*seen);
                let is_true = match (asked.ask, reply) {
                    (Ask::Push(number), Value::Int(_)) => {
                        list.told.push(number);
                        true
                    }
                    (Ask::Incr, Value::Int(value)) => {
                        *seen = *value;
                        counter.highest = counter.highest.max(*value);
                        counter.told.insert(*value) && *value > least
                    }
                    (Ask::Get, Value::Null) => least == 0,
                    (Ask::Get, Value::Bulk(text)) => {
                        let value: i64 = String::from_utf8_lossy(text).parse().unwrap();
                        *seen = value;
                        counter.highest = counter.highest.max(value);
                        value >= least
                    }
                    _ => false,
                };
                if !is_true {
                    self.wrong(world, || {
                        format!("answer: {asked:?} was answered {reply:?}, at least {least} is true")
                    });
                }
            }
            Outcome::Uncertain => {
                self.in_doubt.fetch_add(1, Relaxed);
                match asked.ask {
                    Ask::Push(number) => drop(list.in_doubt.insert(number)),
                    Ask::Incr => counter.in_doubt += 1,
                    Ask::Get => {}
                }
            }
            Outcome::NotRun(why) => {
                world.tell(|| format!("not run: {why}"));
                self.not_run.fetch_add(1, Relaxed);
            }
        }
    }

    /// Clients and shards between which nothing was served since.
    pub(super) fn unserved(&self, since: Instant) -> Vec<(usize, u16)> {
        let served = lock(&self.served);
        let shards = (0..).take(self.counters.len());
        let all = (0..self.clients).flat_map(|client| shards.clone().map(move |shard| (client, shard)));
        all.filter(|pair| served.get(pair).is_none_or(|at| *at <= since))
            .collect()
    }

    /// What a shard must be at the end.
    pub(super) fn check(&self, world: &World, shard: u16, db: &Db) {
        let counter = lock(&self.counters[usize::from(shard)]);
        let is: usize = match db.get(&b"counter"[..]) {
            Some(Data::Text(text)) => String::from_utf8_lossy(text).parse().unwrap(),
            _ => 0,
        };
        let told = counter.told.len();
        if is < told || is > told + counter.in_doubt {
            self.wrong(world, || {
                let doubt = counter.in_doubt;
                format!("counter of shard {shard} is {is}; {told} were told, {doubt} are in doubt")
            });
        }
        for ((client, _), list) in lock(&self.lists).iter().filter(|((_, of), _)| *of == shard) {
            let is: Vec<u64> = match db.get(list_of(*client).as_bytes()) {
                Some(Data::List(list)) => list
                    .iter()
                    .map(|number| String::from_utf8_lossy(number).parse().unwrap())
                    .collect(),
                _ => Vec::new(),
            };
            let is_sorted = is.is_sorted_by(|a, b| a < b);
            let found: BTreeSet<u64> = is.iter().copied().collect();
            let lost: Vec<_> = list
                .told
                .iter()
                .filter(|number| !found.contains(number))
                .collect();
            let strange: Vec<_> = is
                .iter()
                .filter(|number| !list.told.contains(number) && !list.in_doubt.contains(number))
                .collect();
            if !is_sorted || !lost.is_empty() || !strange.is_empty() {
                self.wrong(world, || {
                    format!(
                        "list of client {client} in shard {shard}: lost {lost:?}, never told {strange:?}, in order: {is_sorted}: {is:?}"
                    )
                });
            }
        }
    }
}

pub(super) fn list_of(client: usize) -> String {
    format!("list-{client}")
}

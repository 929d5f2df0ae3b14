//! What all clients together have done to the keys that they share, and the judgement at the end.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::plan::Plan;
use crate::faults::Failure;
use crate::harness::{Client, PATIENCE, Proxy, Reply, wait_for};

/// Shared keys of each sort; each lives on a shard of its own, or about so.
pub(super) const SHARED: usize = 6;

/// The counts of one run.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests of which the last byte was sent.
    pub(super) asked: AtomicU64,
    /// Replies that were read and judged.
    pub(super) judged: AtomicU64,
    pub(super) uncertain: AtomicU64,
    pub(super) not_run: AtomicU64,
    pub(super) sessions: AtomicU64,
    pub(super) left_in_the_middle: AtomicU64,
    pub(super) killed: AtomicU64,
    /// Connections that the proxy closed in the middle of a large reply.
    pub(super) cut_short: AtomicU64,
    pub(super) messages: AtomicU64,
}

/// How often something was done for certain, and how often perhaps.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
    perhaps: AtomicU64,
}

/// What became of a token that was pushed upon a shared queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Perhaps,
    NotRun,
}

/// What is known of the shared keys.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    counters: [Tally; SHARED],
    guarded: [Tally; SHARED],
    /// Values that `INCR` has answered: nobody may see one twice.
    seen: Mutex<HashSet<(usize, i64)>>,
    pushed: Mutex<BTreeMap<String, Fate>>,
    popped: Mutex<BTreeSet<String>>,
    /// Pops of which nobody knows whether they took something.
    perhaps_popped: AtomicU64,
}

pub(super) fn counter(number: usize) -> String {
    format!("shared:counter:{number}")
}

pub(super) fn guarded(number: usize) -> String {
    format!("shared:guarded:{number}")
}

pub(super) fn queue(number: usize) -> String {
    format!("shared:queue:{number}")
}

/// Asks until it is answered: a node may have to come back first.
fn served(client: &mut Client, words: &[&str]) -> Reply {
    wait_for("a reply that is no failure", PATIENCE, || {
        Some(client.call(words)).filter(|reply| reply.error().is_none())
    })
}

impl Tally {
    fn add(&self, outcome: Fate) {
        match outcome {
            Fate::Done => drop(self.done.fetch_add(1, Relaxed)),
            Fate::Perhaps => drop(self.perhaps.fetch_add(1, Relaxed)),
            Fate::NotRun => {}
        }
    }

    fn judge(&self, key: &str, value: u64) {
        let (done, perhaps) = (self.done.load(Relaxed), self.perhaps.load(Relaxed));
        assert!(
            (done..=done + perhaps).contains(&value),
            "{key} is {value}: {done} effects were acknowledged, {perhaps} are in doubt"
        );
    }
}

impl From<Failure> for Fate {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotRun => Self::NotRun,
            Failure::Uncertain => Self::Perhaps,
        }
    }
}

impl Ledger {
    pub(super) fn incremented(&self, number: usize, outcome: Fate, value: i64) {
        self.counters[number].add(outcome);
        if outcome == Fate::Done {
            let new = self.seen.lock().unwrap().insert((number, value));
            assert!(new, "INCR of {} answered {value} twice", counter(number));
        }
    }

    pub(super) fn incremented_guarded(&self, number: usize, outcome: Fate) {
        self.guarded[number].add(outcome);
    }

    pub(super) fn pushed(&self, token: String, outcome: Fate) {
        self.pushed.lock().unwrap().insert(token, outcome);
    }

    pub(super) fn popped(&self, token: String) {
        let mut popped = self.popped.lock().unwrap();
        assert!(!popped.contains(&token), "{token} was given out twice");
        popped.insert(token);
    }

    pub(super) fn perhaps_popped(&self) {
        self.perhaps_popped.fetch_add(1, Relaxed);
    }

    /// Everything is over and the nodes are well: what is there, against what was said.
    pub(super) fn judge(&self, proxy: &Proxy) {
        let mut client = proxy.client();
        let number = |client: &mut Client, key: &str| match served(client, &["GET", key]) {
            Reply::Null => 0,
            value => value.text().parse().unwrap(),
        };
        for place in 0..SHARED {
            let (counter, guarded) = (counter(place), guarded(place));
            self.counters[place].judge(&counter, number(&mut client, &counter));
            self.guarded[place].judge(&guarded, number(&mut client, &guarded));
        }
        let (pushed, popped) = (self.pushed.lock().unwrap(), self.popped.lock().unwrap());
        let mut found = popped.clone();
        for place in 0..SHARED {
            for token in served(&mut client, &["LRANGE", &queue(place), "0", "-1"]).items() {
                let token = token.text();
                assert!(
                    found.insert(token.clone()),
                    "{token} is there twice, or was given out and is there"
                );
            }
        }
        for token in &found {
            let fate = pushed.get(token);
            assert!(
                matches!(fate, Some(Fate::Done | Fate::Perhaps)),
                "{token} is there though its push was {fate:?}"
            );
        }
        let lost = pushed
            .iter()
            .filter(|(token, fate)| **fate == Fate::Done && !found.contains(*token))
            .count();
        let perhaps = self.perhaps_popped.load(Relaxed);
        assert!(
            lost as u64 <= perhaps,
            "{lost} pushed tokens are gone, {perhaps} pops are in doubt"
        );
        let done: u64 = self
            .counters
            .iter()
            .chain(&self.guarded)
            .map(|tally| tally.done.load(Relaxed))
            .sum();
        println!(
            "shared: {done} increments, {} pushed, {} popped, {lost} lost to {perhaps} pops in doubt",
            pushed.len(),
            popped.len()
        );
    }
}

impl Counts {
    pub(super) fn print(&self, plan: &Plan, seconds: f64) {
        let of = |count: &AtomicU64| count.load(Relaxed);
        println!(
            "{}: {} asked in {seconds:.1} s, {} judged, {} uncertain, {} not run; {} sessions, {} left in the middle, \
             {} killed, {} cut short; {} messages",
            plan.name,
            of(&self.asked),
            of(&self.judged),
            of(&self.uncertain),
            of(&self.not_run),
            of(&self.sessions),
            of(&self.left_in_the_middle),
            of(&self.killed),
            of(&self.cut_short),
            of(&self.messages),
        );
    }
}

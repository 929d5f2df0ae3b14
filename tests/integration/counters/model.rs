//! P1, P2, P5: every command by chance, against a model of what was counted and what was handed out.
//!
//! What must hold at every moment: what was added is what was confirmed, deleted, or is still told by `COUNTER.MGET`; a batch
//! that comes again is the one that came before; numbers of a shard grow, and each names the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Batch, batches};
use crate::harness::{Client, Proxy, Reply, seed, small};

const MEMBERS: u32 = 60;
const STEPS: u32 = 4000;

struct Model {
    client: Client,
    random: fastrand::Rng,
    counter: String,
    shards: Range<u16>,
    /// Added, less what is confirmed or deleted, by member.
    counts: BTreeMap<String, i64>,
    /// Batches that are out, by id.
    out: BTreeMap<String, Batch>,
    /// The last number of each shard.
    last: BTreeMap<u16, u64>,
    /// Numbers given by shards that had been cleared: `prev` begins anew.
    cleared: bool,
}

impl Model {
    fn new(proxy: &Proxy, resp3: bool, counter: &str, seed: u64) -> Self {
        Self {
            client: if resp3 { proxy.client3() } else { proxy.client() },
            random: fastrand::Rng::with_seed(seed),
            counter: counter.to_owned(),
            shards: 0..8,
            counts: BTreeMap::new(),
            out: BTreeMap::new(),
            last: BTreeMap::new(),
            cleared: false,
        }
    }

    fn member(&mut self) -> String {
        format!("m{}", self.random.u32(0..MEMBERS))
    }

    fn call(&mut self, name: &str, words: &[String]) -> Reply {
        let mut line = vec![format!("COUNTER.{name}"), self.counter.clone()];
        line.extend_from_slice(words);
        self.client.call(&line)
    }

    fn add(&mut self, member: String, delta: i64) {
        *self.counts.entry(member).or_default() += delta;
    }

    fn incr(&mut self) {
        let (member, delta) = (self.member(), self.random.i64(-5..20));
        assert!(matches!(
            self.call("INCR", &[member.clone(), delta.to_string()]),
            Reply::Int(_)
        ));
        self.add(member, delta);
    }

    fn mincr(&mut self) {
        let pairs: Vec<(String, i64)> = (0..self.random.usize(1..30))
            .map(|_| (self.member(), self.random.i64(-3..9)))
            .collect();
        let words: Vec<String> = pairs
            .iter()
            .flat_map(|(member, delta)| [member.clone(), delta.to_string()])
            .collect();
        let replies = self.call("MINCR", &words).items();
        assert_eq!(replies.len(), pairs.len());
        assert!(
            replies.iter().all(|reply| matches!(reply, Reply::Int(_))),
            "{replies:?}"
        );
        for (member, delta) in pairs {
            self.add(member, delta);
        }
    }

    fn take(&mut self) {
        let mut words = vec!["COUNT".to_owned(), self.random.u32(1..40).to_string()];
        let lease = if self.random.bool() { "1" } else { "3600000" };
        words.extend(["LEASE".to_owned(), lease.to_owned()]);
        let no_ack = self.random.u32(..20) == 0;
        if no_ack {
            words.push("NOACK".to_owned());
        }
        let mut shards = BTreeSet::new();
        for batch in batches(&self.call("TAKE", &words)) {
            assert!(shards.insert(batch.shard()), "one batch of a shard");
            assert!(!batch.entries.is_empty());
            assert!(batch.entries.iter().all(|(_, delta)| *delta != 0), "{batch:?}");
            self.handed_out(&batch);
            if no_ack {
                self.confirmed(&batch);
                self.out.remove(&batch.id);
            }
        }
    }

    fn handed_out(&mut self, batch: &Batch) {
        if let Some(known) = self.out.get_mut(&batch.id) {
            assert_eq!(batch.attempt, known.attempt + 1);
            known.attempt = batch.attempt;
            assert_eq!(known, batch, "it does not change");
            return;
        }
        let last = self.last.insert(batch.shard(), batch.seq());
        assert!(last.is_none_or(|last| last < batch.seq()), "{last:?} {batch:?}");
        // Batches of zeros only take numbers that nobody sees.
        let prev: u64 = batch.prev.parse().unwrap();
        assert!(
            self.cleared || last.is_none_or(|last| prev >= last),
            "{last:?} {batch:?}"
        );
        assert!(prev < batch.seq());
        assert_eq!(batch.attempt, 1, "{batch:?}");
        assert!(
            !self.out.values().any(|out| out.shard() == batch.shard()),
            "one is out at a time"
        );
        self.out.insert(batch.id.clone(), batch.clone());
    }

    fn confirmed(&mut self, batch: &Batch) {
        for (member, delta) in &batch.entries {
            *self.counts.get_mut(member).unwrap() -= delta;
        }
    }

    fn some_ids(&mut self) -> Vec<String> {
        let (random, shards) = (&mut self.random, self.shards.clone());
        let mut ids: Vec<String> = self.out.keys().filter(|_| random.bool()).cloned().collect();
        if random.u32(..8) == 0 {
            ids.push(format!("{}-{}", random.u16(shards), random.u32(..)));
        }
        ids
    }

    fn ack(&mut self) {
        let ids = self.some_ids();
        if ids.is_empty() {
            return;
        }
        let known: Vec<Batch> = ids.iter().filter_map(|id| self.out.remove(id)).collect();
        assert_eq!(self.call("ACK", &ids).int(), known.len() as i64);
        assert_eq!(self.call("ACK", &ids).int(), 0, "a second time");
        known.iter().for_each(|batch| self.confirmed(batch));
    }

    fn lease(&mut self) {
        let ids = self.some_ids();
        if ids.is_empty() {
            return;
        }
        let known = ids.iter().filter(|id| self.out.contains_key(*id)).count();
        let ms = if self.random.bool() { "0" } else { "60000" };
        let words: Vec<String> = [ms.to_owned()].into_iter().chain(ids).collect();
        assert_eq!(self.call("LEASE", &words).int(), known as i64);
    }

    fn delete(&mut self) {
        if self.random.u32(..6) == 0 {
            self.call("DEL", &[]).int();
            self.counts.clear();
            self.out.clear();
            self.cleared = true;
            return;
        }
        let member = self.member();
        let before = self.call("GET", std::slice::from_ref(&member)).int();
        self.call("DEL", std::slice::from_ref(&member)).int();
        let after = self.call("GET", std::slice::from_ref(&member)).int();
        self.add(member, after - before);
    }

    fn check(&mut self) {
        let members: Vec<String> = (0..MEMBERS).map(|number| format!("m{number}")).collect();
        let found = self.call("MGET", &members).items();
        for (member, found) in members.iter().zip(found) {
            let expected = self.counts.get(member).copied().unwrap_or(0);
            assert_eq!(found.int(), expected, "{member}");
        }
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..40 => self.incr(),
            40..55 => self.mincr(),
            55..75 => self.take(),
            75..88 => self.ack(),
            88..94 => self.lease(),
            94..96 => self.delete(),
            _ => self.check(),
        }
    }

    /// Takes and confirms all that is left.
    fn drain(&mut self) {
        loop {
            let leases: Vec<String> = self.out.keys().cloned().collect();
            if !leases.is_empty() {
                let words: Vec<String> = ["0".to_owned()].into_iter().chain(leases).collect();
                self.call("LEASE", &words).int();
            }
            let taken = batches(&self.call("TAKE", &[]));
            taken.iter().for_each(|batch| self.handed_out(batch));
            let ids: Vec<String> = taken.iter().map(|batch| batch.id.clone()).collect();
            if ids.is_empty() {
                assert!(self.out.is_empty(), "{:?}", self.out);
                return;
            }
            assert_eq!(self.call("ACK", &ids).int(), ids.len() as i64);
            for batch in taken {
                self.out.remove(&batch.id);
                self.confirmed(&batch);
            }
        }
    }
}

#[test]
fn whatever_is_done_every_count_is_somewhere_exactly_once() {
    let (_nodes, proxy) = small();
    let seed = seed();
    for (resp3, counter) in [(false, "events"), (true, "a:b"), (true, "{one}shard")] {
        let mut model = Model::new(&proxy, resp3, counter, seed);
        for _ in 0..STEPS {
            model.step();
        }
        model.check();
        model.drain();
        model.check();
        assert!(
            model.counts.values().all(|count| *count == 0),
            "{:?}",
            model.counts
        );
    }
}

/// P5: with counters in all states, what clients see of their keys is what they see without.
#[test]
fn keys_of_counters_are_not_seen_in_any_state() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let keys: BTreeSet<String> = (0..50).map(|number| format!("key{number}")).collect();
    let mut model = Model::new(&proxy, true, "events", seed());
    let mut pinned = Model::new(&proxy, false, "pinned", seed());
    pinned.client.ask("SELECT 3").expect_ok();
    pinned.shards = 10..11;
    let seen = |client: &mut Client, keys: &BTreeSet<String>| {
        assert_eq!(client.ask("DBSIZE").int(), keys.len() as i64);
        let all: BTreeSet<String> = client.ask("KEYS *").items().iter().map(Reply::text).collect();
        assert_eq!(&all, keys);
        let (mut cursor, mut scanned) = ("0".to_owned(), BTreeSet::new());
        loop {
            let page = client.ask(&format!("SCAN {cursor} COUNT 3")).items();
            scanned.extend(page[1].items().iter().map(Reply::text));
            cursor = page[0].text();
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(&scanned, keys);
        let random = client.ask("RANDOMKEY");
        assert!(
            if keys.is_empty() {
                random == Reply::Null
            } else {
                keys.contains(&random.text())
            },
            "{random:?}"
        );
    };
    for _ in 0..40 {
        (0..20).for_each(|_| [&mut model, &mut pinned].map(Model::step).into_iter().collect());
        seen(&mut client, &BTreeSet::new());
    }
    for key in &keys {
        client.call(&["SET", key, "1"]).expect_ok();
        pinned.client.call(&["SET", key, "1"]).expect_ok();
    }
    for _ in 0..40 {
        (0..20).for_each(|_| [&mut model, &mut pinned].map(Model::step).into_iter().collect());
        seen(&mut client, &keys);
        seen(&mut pinned.client, &keys);
    }
}

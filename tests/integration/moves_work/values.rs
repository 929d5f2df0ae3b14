//! Counters, locks, transfers, watched keys, expiries that are refreshed, and iterations.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Job, Site, key};
use crate::harness::{Client, Reply};

/// Keys that must be seen by each iteration.
const STABLE: usize = 1_600;
/// An expiry that is refreshed all the time; shorter than a move's lag.
const REFRESHED: Duration = Duration::from_millis(2_500);
/// One that is not.
const SHORT: Duration = Duration::from_millis(400);
const SUM: i64 = 10_000;
const UNLOCK: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

/// What was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counted: AtomicI64,
    pinned: AtomicI64,
    locked: AtomicI64,
    watched: AtomicI64,
    /// How often each kind of client has come round.
    rounds: [AtomicI64; 8],
}

impl Tally {
    pub(super) fn prepared(site: &Site) -> Self {
        let mut client = site.client(0);
        for (number, shard) in (0..STABLE).zip((0..8).cycle()) {
            client.command(&["SET", &key(shard, &format!("stable{number}:")), "v"]);
        }
        (0..STABLE).for_each(|_| client.reply().expect_ok());
        client.call(&["SET", &accounts().0, &SUM.to_string()]).expect_ok();
        Self::default()
    }

    pub(super) fn jobs<'a>(&'a self, site: &'a Site) -> Vec<Job<'a>> {
        let mut jobs: Vec<Job<'a>> = Vec::new();
        for proxy in 0..3 {
            jobs.push(Box::new(move || self.count(site, proxy)));
            jobs.push(Box::new(move || self.lock(site, proxy)));
            jobs.push(Box::new(move || self.watch(site, proxy)));
        }
        jobs.push(Box::new(move || self.transfer(site)));
        for shard in 0..7 {
            jobs.push(Box::new(move || self.refresh(site, shard)));
        }
        jobs.push(Box::new(move || self.refresh_fields(site)));
        jobs.push(Box::new(move || self.expire(site)));
        jobs.push(Box::new(move || self.scan(site)));
        jobs.push(Box::new(move || self.count_pinned(site)));
        jobs
    }

    fn round(&self, kind: usize) {
        self.rounds[kind].fetch_add(1, Relaxed);
    }

    /// Each sees the counter grow, whoever else counts.
    fn count(&self, site: &Site, proxy: usize) {
        let (mut client, key, mut last) = (site.client(proxy), key(0, "counter"), 0);
        while site.goes_on() {
            let now = client.call(&["INCR", &key]).int();
            assert!(now > last, "{now} behind {last}");
            self.counted.fetch_add(1, Relaxed);
            last = client.call(&["GET", &key]).text().parse().unwrap();
            assert!(last >= now, "{last} is read behind {now}");
        }
    }

    fn count_pinned(&self, site: &Site) {
        let mut client = site.client(1);
        client.ask("SELECT 1").expect_ok();
        while site.goes_on() {
            let counted = self.pinned.fetch_add(1, Relaxed) + 1;
            assert_eq!(client.ask("INCR counter").int(), counted);
        }
    }

    /// Who has the lock reads a number and writes one more; nobody else does at the same time.
    fn lock(&self, site: &Site, proxy: usize) {
        let (mut client, lock, guarded) = (site.client(proxy), key(2, "lock"), key(5, "guarded"));
        let mut turn = 0;
        while site.goes_on() {
            turn += 1;
            let token = format!("{proxy}-{turn}");
            let got = client.call(&["SET", &lock, &token, "NX", "PX", "60000"]);
            if got == Reply::Null {
                continue;
            }
            got.expect_ok();
            let found = client.call(&["GET", &guarded]);
            let found: i64 = if found == Reply::Null {
                0
            } else {
                found.text().parse().unwrap()
            };
            client
                .call(&["SET", &guarded, &(found + 1).to_string()])
                .expect_ok();
            self.locked.fetch_add(1, Relaxed);
            assert_eq!(
                client.call(&["EVAL", UNLOCK, "1", &lock, &token]).int(),
                1,
                "the lock was not ours"
            );
        }
    }

    fn watch(&self, site: &Site, proxy: usize) {
        let (mut client, key) = (site.client(proxy), key(3, "watched"));
        while site.goes_on() {
            client.call(&["WATCH", &key]).expect_ok();
            let found = client.call(&["GET", &key]);
            let found: i64 = if found == Reply::Null {
                0
            } else {
                found.text().parse().unwrap()
            };
            client.ask("MULTI").expect_ok();
            client.call(&["SET", &key, &(found + 1).to_string()]);
            match client.ask("EXEC") {
                Reply::Null => {}
                Reply::Array(items) => {
                    items[0].expect_ok();
                    self.watched.fetch_add(1, Relaxed);
                }
                other => panic!("EXEC: {other:?}"),
            }
        }
    }

    /// The sum of two accounts is always the same.
    fn transfer(&self, site: &Site) {
        let (mut client, mut reader) = (site.client(0), site.client(2));
        let (one, two) = accounts();
        while site.goes_on() {
            let amount = fastrand::u32(1..50).to_string();
            client.ask("MULTI").expect_ok();
            client.call(&["DECRBY", &one, &amount]);
            client.call(&["INCRBY", &two, &amount]);
            assert_eq!(client.ask("EXEC").items().len(), 2);
            let found = reader.call(&["MGET", &one, &two]).items();
            let sum: i64 = found.iter().map(|item| item.text().parse::<i64>().unwrap()).sum();
            assert_eq!(sum, SUM, "{found:?}");
            self.round(0);
        }
    }

    /// A key whose expiry is set anew in time is always there, however far behind its copy was.
    fn refresh(&self, site: &Site, shard: u16) {
        let (mut client, key) = (site.client(1), key(shard, &format!("refreshed{shard}-")));
        let px = REFRESHED.as_millis().to_string();
        client.call(&["SET", &key, "v", "PX", &px]).expect_ok();
        let mut last = Instant::now();
        while site.goes_on() {
            let sent = Instant::now();
            let there = client.call(&["PEXPIRE", &key, &px]);
            // On a machine, or a node, that stood still we may have been late ourselves.
            let late = last.elapsed() >= REFRESHED;
            assert!(
                there == Reply::Int(1) || late,
                "{key} has gone {:?} after it was refreshed: {there:?}",
                last.elapsed()
            );
            if there == Reply::Int(0) {
                client.call(&["SET", &key, "v", "PX", &px]).expect_ok();
            }
            last = sent;
            self.round(1);
        }
    }

    /// The same for fields of hashes, where the server has that.
    fn refresh_fields(&self, site: &Site) {
        let (mut client, key, px) = (
            site.client(2),
            key(0, "fields"),
            REFRESHED.as_millis().to_string(),
        );
        client.call(&["HSET", &key, "f", "v", "lasting", "v"]).int();
        let mut last = Instant::now();
        while site.goes_on() {
            let sent = Instant::now();
            let set = client.call(&["HPEXPIRE", &key, &px, "FIELDS", "1", "f"]);
            if set.error().is_some_and(|error| error.contains("unknown command")) {
                println!("left out: the server's fields do not expire");
                return;
            }
            let there = set.items()[0] == Reply::Int(1);
            assert!(
                there || last.elapsed() >= REFRESHED,
                "the field has gone: {set:?}"
            );
            if !there {
                client.call(&["HSET", &key, "f", "v"]).int();
            }
            last = sent;
            self.round(2);
        }
        assert_eq!(client.call(&["HGET", &key, "lasting"]).text(), "v");
    }

    /// A key whose expiry is not refreshed goes in time; so does a hash with its last field, where the server has that.
    fn expire(&self, site: &Site) {
        let mut client = site.client(0);
        let mut has_fields = true;
        let mut waiting: Vec<(String, Instant)> = Vec::new();
        let mut number = 0_u16;
        while site.goes_on() {
            if waiting.len() < 40 {
                number = number.wrapping_add(1);
                let key = key(number % 8, &format!("short{number}-"));
                let px = SHORT.as_millis().to_string();
                if has_fields && number.is_multiple_of(2) {
                    client.call(&["HSET", &key, "f", "v"]).int();
                    let set = client.call(&["HPEXPIRE", &key, &px, "FIELDS", "1", "f"]);
                    has_fields = set.error().is_none();
                    if !has_fields {
                        client.call(&["DEL", &key]).int();
                    }
                } else {
                    client.call(&["SET", &key, "v", "PX", &px]).expect_ok();
                }
                waiting.push((key, Instant::now()));
            }
            waiting.retain(|(key, since)| {
                // Two clocks of nodes, and a moment between the question and its answer.
                if since.elapsed() < SHORT + Duration::from_millis(300) {
                    return true;
                }
                let mut found = client.call(&["GET", key]);
                if found.error().is_some_and(|error| error.starts_with("WRONGTYPE")) {
                    found = client.call(&["HGET", key, "f"]);
                }
                assert_eq!(found, Reply::Null, "{key} is there after {:?}", since.elapsed());
                self.round(3);
                false
            });
        }
    }

    /// Each iteration sees all keys that are there all the time.
    fn scan(&self, site: &Site) {
        let mut client = site.client(2);
        while site.goes_on() {
            let keys = iterate(&mut client);
            let seen = keys.iter().filter(|key| key.starts_with("stable")).count();
            assert_eq!(seen, STABLE, "SCAN");
            self.round(4);
        }
    }

    /// What is there at the end is what was acknowledged.
    pub(super) fn check(&self, site: &Site) {
        let mut client = site.client(1);
        for (key, told) in [
            (key(0, "counter"), &self.counted),
            (key(5, "guarded"), &self.locked),
            (key(3, "watched"), &self.watched),
        ] {
            let found = client.call(&["GET", &key]).text();
            assert_eq!(found, told.load(Relaxed).to_string(), "{key}");
        }
        assert!(self.counted.load(Relaxed) > 100 && self.locked.load(Relaxed) > 50);
        assert!(self.watched.load(Relaxed) > 50 && self.pinned.load(Relaxed) > 50);
        for kind in [0, 1, 3, 4] {
            assert!(
                self.rounds[kind].load(Relaxed) > 3,
                "clients of kind {kind} did nothing"
            );
        }
        println!("{self:?}");
    }
}

/// Two accounts of one shard.
fn accounts() -> (String, String) {
    let tag = key(1, "account");
    (format!("{{{tag}}}one"), format!("{{{tag}}}two"))
}

/// All that an iteration tells, cursors followed to their end.
fn iterate(client: &mut Client) -> BTreeSet<String> {
    let (mut all, mut cursor) = (BTreeSet::new(), "0".to_owned());
    loop {
        let reply = client.call(&["SCAN", &cursor, "COUNT", "60"]).items();
        all.extend(reply[1].items().iter().map(Reply::text));
        cursor = reply[0].text();
        if cursor == "0" {
            return all;
        }
    }
}

//! `HSCAN`, `SSCAN`, `ZSCAN`, and `SCAN` of a pinned database, while what they iterate over moves to another node and back: what was
//! there all the time comes at least once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::harness::{Client, Proxy, Reply, StopAtEnd, key_in, small, wait_until};
use crate::moving::{PATIENCE, field, move_shards, tell};

const FIELDS: usize = 20_000;
const OTHERS: usize = 5_000;

/// An iteration as clients do it: they begin with 0 and pass on what they got.
struct Iteration {
    before: Vec<String>,
    cursor: String,
    pages: usize,
}

impl Iteration {
    fn of(before: &[&str]) -> Self {
        Self {
            before: before.iter().map(|&word| word.to_owned()).collect(),
            cursor: "0".to_owned(),
            pages: 0,
        }
    }

    /// The next page; none if there is no more.
    fn next(&mut self, client: &mut Client) -> Option<Vec<String>> {
        if self.pages > 0 && self.cursor == "0" {
            return None;
        }
        self.pages += 1;
        let mut words: Vec<&str> = self.before.iter().map(String::as_str).collect();
        words.extend([self.cursor.as_str(), "COUNT", "40"]);
        let page = client.call(&words).items();
        self.cursor = page[0].text();
        let number: u64 = self.cursor.parse().unwrap();
        assert!(number < 1 << 53, "{number}");
        Some(page[1].items().iter().map(Reply::text).collect())
    }
}

/// Values of all three kinds in shard 0, and keys of database 1.
fn fill(proxy: &Proxy) -> [String; 3] {
    let keys = ["hash", "set", "zset"].map(|name| key_in(0, 8, name));
    let mut client = proxy.client();
    let all = |from: usize, to: usize| (from..to).map(|number| format!("m{number}"));
    for from in (0..FIELDS).step_by(1_000) {
        let mut words = vec!["HSET".to_owned(), keys[0].clone()];
        words.extend(all(from, from + 1_000).flat_map(|field| [field, "v".to_owned()]));
        assert_eq!(client.call(&words).int(), 1_000);
    }
    for from in (0..OTHERS).step_by(1_000) {
        let mut words = vec!["SADD".to_owned(), keys[1].clone()];
        words.extend(all(from, from + 1_000));
        assert_eq!(client.call(&words).int(), 1_000);
        let mut words = vec!["ZADD".to_owned(), keys[2].clone()];
        words.extend(all(from, from + 1_000).flat_map(|member| ["1".to_owned(), member]));
        assert_eq!(client.call(&words).int(), 1_000);
    }
    let mut pinned = proxy.client();
    pinned.call(&["SELECT", "1"]).expect_ok();
    for from in (0..OTHERS).step_by(1_000) {
        let mut words = vec!["MSET".to_owned()];
        words.extend(all(from, from + 1_000).flat_map(|key| [key, "v".to_owned()]));
        pinned.call(&words).expect_ok();
    }
    keys
}

/// What has come is whole: everything that was there all the time.
fn assert_whole(what: &str, found: &BTreeSet<String>, count: usize) {
    let missing: Vec<String> = (0..count)
        .map(|number| format!("m{number}"))
        .filter(|member| !found.contains(member))
        .collect();
    assert!(
        missing.is_empty(),
        "{what}: {} of {count} are missing",
        missing.len()
    );
}

/// Fields come and go, so that tables grow and shrink.
fn write(proxy: &Proxy, keys: &[String; 3], stop: &AtomicBool) {
    let mut client = proxy.client();
    let mut number = 0;
    while !stop.load(Relaxed) {
        let extra: Vec<String> = (0..500).map(|at| format!("x{}", number + at)).collect();
        number += 500;
        for (add, remove, key, value) in [
            ("HSET", "HDEL", &keys[0], Some("v")),
            ("SADD", "SREM", &keys[1], None),
            ("ZADD", "ZREM", &keys[2], Some("2")),
        ] {
            let mut words = vec![add.to_owned(), key.clone()];
            for member in &extra {
                match (add, value) {
                    ("ZADD", Some(score)) => words.extend([score.to_owned(), member.clone()]),
                    (_, Some(value)) => words.extend([member.clone(), value.to_owned()]),
                    (_, None) => words.push(member.clone()),
                }
            }
            client.call(&words).int();
            let mut words = vec![remove.to_owned(), key.clone()];
            words.extend(extra.iter().cloned());
            assert_eq!(client.call(&words).int(), 500);
        }
        thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn an_iteration_whose_shard_moves_to_and_fro_leaves_nothing_out() {
    let (_nodes, proxy) = small();
    let keys = fill(&proxy);
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let iterations = || {
        [
            (Iteration::of(&["HSCAN", &keys[0]]), FIELDS),
            (Iteration::of(&["SSCAN", &keys[1]]), OTHERS),
            (Iteration::of(&["ZSCAN", &keys[2]]), OTHERS),
            (Iteration::of(&["SCAN"]), OTHERS),
        ]
    };
    thread::scope(|scope| {
        let _guard = StopAtEnd(&stop);
        let writing = scope.spawn(|| write(&proxy, &keys, &stop));
        // One that moves in the middle of requests, over and over again.
        let iterating = scope.spawn(|| {
            let mut client = proxy.client3();
            while !stop.load(Relaxed) {
                for (mut iteration, count) in iterations().into_iter().take(3) {
                    let mut found = BTreeSet::new();
                    while let Some(page) = iteration.next(&mut client) {
                        found.extend(page);
                    }
                    assert_whole(&iteration.before[0], &found, count);
                }
                rounds.fetch_add(1, Relaxed);
            }
        });
        // Four that are well on their way when it moves, there and back.
        let (mut client, mut pinned) = (proxy.client(), proxy.client());
        pinned.call(&["SELECT", "1"]).expect_ok();
        let mut admin = proxy.admin_client();
        let mut under_way = iterations().map(|(iteration, count)| (iteration, count, BTreeSet::new()));
        for target in ["node-2", "node-1", "node-2", "none"] {
            for (iteration, _, found) in &mut under_way {
                let client = if iteration.before[0] == "SCAN" {
                    &mut pinned
                } else {
                    &mut client
                };
                let mut pages = 0;
                while let Some(page) = iteration.next(client) {
                    found.extend(page);
                    pages += 1;
                    // About a third of the smaller ones.
                    if target != "none" && pages == 40 {
                        assert_ne!(iteration.cursor, "0", "it is under way");
                        break;
                    }
                }
            }
            if target != "none" {
                let row = move_shards(&mut admin, "0,db:1", target);
                tell(&mut admin, "FINALIZE", &field(&row, "task"));
            }
        }
        for (iteration, count, found) in &under_way {
            assert_whole(&iteration.before[0], found, *count);
            // Each move has begun it again.
            assert!(iteration.pages > 3 * 40 + count / 80, "{}", iteration.pages);
        }
        wait_until("whole iterations", PATIENCE, || rounds.load(Relaxed) > 2);
        stop.store(true, Relaxed);
        iterating.join().unwrap();
        writing.join().unwrap();
    });
}

#[test]
fn pages_come_in_their_order_and_nodes_take_cursors_with_a_mark_in_transactions_and_scripts() {
    let (_nodes, proxy) = small();
    let keys = fill(&proxy);
    for mut client in [proxy.client(), proxy.client3()] {
        let mut hash = Iteration::of(&["HSCAN", &keys[0]]);
        hash.next(&mut client).unwrap();
        let cursor = hash.cursor.clone();
        assert!(
            cursor.parse::<u64>().unwrap() >= 1 << 36,
            "it has a mark: {cursor}"
        );
        let page = client.call(&["HSCAN", &keys[0], &cursor]).items();
        // Not the node's cursor, but its elements.
        client.call(&["MULTI"]).expect_ok();
        client.call(&["HSCAN", &keys[0], &cursor]);
        let inside = client.call(&["EXEC"]).items()[0].items();
        assert_eq!(inside[1], page[1]);
        let script = "return redis.call('HSCAN', KEYS[1], ARGV[1])";
        let scripted = client.call(&["EVAL", script, "1", &keys[0], &cursor]).items();
        assert_eq!(scripted[1], page[1]);
        // What comes out of there may go on outside.
        let raw = inside[0].text();
        assert!(raw.parse::<u64>().unwrap() < 1 << 36);
        let next = client.call(&["HSCAN", &keys[0], &page[0].text()]).items();
        assert_eq!(client.call(&["HSCAN", &keys[0], &raw]).items(), next);
        // In a pipeline, between what it sees and what it does not.
        let (key, first) = (key_in(0, 8, "small"), "f");
        client.command(&["DEL", &key]);
        client.command(&["HSCAN", &key, "0"]);
        client.command(&["HSET", &key, first, "1"]);
        client.command(&["HSCAN", &key, "0", "MATCH", "f*", "COUNT", "5"]);
        client.command(&["HSCAN", &key, "x"]);
        client.command(&["SSCAN", &key, "0"]);
        client.command(&["HSCAN", &key, "0", "COUNT", "0"]);
        client.command(&["PING"]);
        client.reply().int();
        assert_eq!(client.reply().items()[1].items().len(), 0);
        assert_eq!(client.reply().int(), 1);
        let found = client.reply().items();
        assert_eq!(found[0].text(), "0");
        assert_eq!(
            found[1].items().iter().map(Reply::text).collect::<Vec<_>>(),
            ["f", "1"]
        );
        assert_eq!(client.reply().error(), Some("ERR invalid cursor"));
        assert!(client.reply().error().unwrap().starts_with("WRONGTYPE"));
        assert_eq!(client.reply().error(), Some("ERR syntax error"));
        assert_eq!(client.reply(), Reply::Simple("PONG".to_owned()));
    }
}

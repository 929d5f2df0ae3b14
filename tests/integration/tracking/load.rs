//! Clients with caches under load: when all is quiet, whatever they have cached is what the store has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::faults::NODE_AWAY;
use super::{PATIENCE, invalidated, tracking};
use crate::harness::{Client, Node, Proxy, Reply, Setup, seed, wait_until};

const KEYS: usize = 40;
const DURATION: Duration = Duration::from_secs(2);

/// A client with a cache, as libraries have it.
struct Caching {
    client: Client,
    cache: BTreeMap<String, Reply>,
    reads: u64,
    dropped: u64,
}

impl Caching {
    fn new(client: Client) -> Self {
        Self {
            client,
            cache: BTreeMap::new(),
            reads: 0,
            dropped: 0,
        }
    }

    /// Takes in one frame, of a reply to a request for `key` or of a push. Whether it was the reply.
    fn take(&mut self, key: Option<&str>) -> bool {
        let reply = self.client.reply();
        if let Reply::Push(items) = &reply {
            self.dropped += 1;
            match &items[1] {
                Reply::Null => self.cache.clear(),
                names => names.items().iter().for_each(|name| {
                    self.cache.remove(&name.text());
                }),
            }
            return false;
        }
        // An error is nothing to be cached.
        if let Some(key) = key
            && reply.error().is_none()
        {
            self.cache.insert(key.to_owned(), reply);
        }
        true
    }

    /// Reads keys in one pipeline.
    fn read(&mut self, keys: &[String]) {
        let missing: Vec<&String> = keys.iter().filter(|key| !self.cache.contains_key(*key)).collect();
        for key in &missing {
            self.client.command(&["GET", key]);
        }
        for key in missing {
            self.reads += 1;
            while !self.take(Some(key)) {}
        }
    }

    /// What has come is read: all that was told before this is answered.
    fn settle(&mut self) {
        self.client.command(&["PING"]);
        while !self.take(None) {}
    }

    fn stale(&self, truth: &mut Client) -> Vec<String> {
        let wrong = self
            .cache
            .iter()
            .filter(|(key, value)| truth.call(&["GET", key]) != **value);
        wrong.map(|(key, _)| key.clone()).collect()
    }
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|key| format!("load:{key}")).collect()
}

/// Reads random keys through its cache until it is told to stop.
fn read_until(mut caching: Caching, stop: &AtomicBool, seed: u64) -> Caching {
    let mut random = fastrand::Rng::with_seed(seed);
    let keys = keys();
    while !stop.load(Relaxed) {
        let mut some: Vec<String> = (0..random.usize(1..30))
            .map(|_| keys[random.usize(..KEYS)].clone())
            .collect();
        some.sort();
        some.dedup();
        caching.read(&some);
        if random.u8(..) < 40 {
            caching.settle();
        }
    }
    caching
}

/// Changes random keys until it is told to stop. Returns how often.
fn write_until(mut client: Client, name: u64, stop: &AtomicBool, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let keys = keys();
    let mut count = 0_u64;
    while !stop.load(Relaxed) {
        count += 1;
        let value = format!("{name}-{count}");
        let (one, other) = (&keys[random.usize(..KEYS)], &keys[random.usize(..KEYS)]);
        // Errors while a node is away are nothing to this test.
        let _ = match random.u8(..20) {
            0 => client.call(&["DEL", one, other]),
            1 => client.call(&["MSET", one, &value, other, &value]),
            2 => client.call(&["SET", one, &value, "PX", "5"]),
            3 if random.u8(..) == 0 => client.call(&["FLUSHALL"]),
            _ => client.call(&["SET", one, &value]),
        };
    }
    count
}

/// Runs readers of all kinds against writers for a while, then compares every cache with the store.
fn readers_and_writers(proxy: &Proxy, nodes: &mut [Node], disturb: impl FnOnce(&mut [Node])) {
    let stop = AtomicBool::new(false);
    let (seed, stop) = (seed(), &stop);
    let caches: Vec<Caching> = std::thread::scope(|scope| {
        let readers = ["", "BCAST", "BCAST PREFIX load:", ""].into_iter().zip(seed..);
        let readers: Vec<_> = readers
            .map(|(options, seed)| {
                let caching = Caching::new(tracking(proxy, options));
                scope.spawn(move || read_until(caching, stop, seed))
            })
            .collect();
        let writers: Vec<_> = (0..2)
            .map(|name| {
                let client = proxy.client();
                scope.spawn(move || write_until(client, name, stop, seed + 100 + name))
            })
            .collect();
        let start = Instant::now();
        disturb(nodes);
        while start.elapsed() < DURATION {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        stop.store(true, Relaxed);
        let written: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        assert!(written > 100, "{written}");
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    // What expires is gone, and told, before anything is compared.
    for node in nodes {
        wait_until("nothing expires any more", PATIENCE, || {
            let text = node.client().ask("INFO keyspace").text();
            text.lines()
                .all(|line| !line.contains("expires=") || line.contains("expires=0"))
        });
    }
    let mut truth = proxy.client();
    let (mut reads, mut dropped) = (0, 0);
    for mut caching in caches {
        wait_until("a cache is what the store is", PATIENCE, || {
            caching.settle();
            caching.stale(&mut truth).is_empty()
        });
        reads += caching.reads;
        dropped += caching.dropped;
    }
    println!("{reads} reads, {dropped} invalidations");
    assert!(
        reads > 100 && dropped > 100,
        "{reads} reads, {dropped} invalidations"
    );
}

fn pair(announced: &'static [&'static str], more: &[&str]) -> (Vec<Node>, Proxy) {
    let nodes = vec![Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).announce(announced);
    let setup = more.iter().fold(setup, |setup, line| setup.proxy(line));
    let proxy = setup.start();
    (nodes, proxy)
}

#[test]
fn no_cache_is_stale_when_all_is_quiet() {
    let (mut nodes, proxy) = pair(&[], &[]);
    readers_and_writers(&proxy, &mut nodes, |_| {});
}

#[test]
fn no_cache_is_stale_with_hardly_any_room_in_the_table() {
    let (mut nodes, proxy) = pair(&[], &["tracking_keys_max = 5"]);
    readers_and_writers(&proxy, &mut nodes, |_| {});
    wait_until("it is counted", PATIENCE, || {
        proxy.metric("preshard_tracking_evictions_total") > 0
    });
}

#[test]
fn no_cache_is_stale_after_connections_were_lost() {
    let (mut nodes, proxy) = pair(NODE_AWAY, &[]);
    readers_and_writers(&proxy, &mut nodes, |nodes| {
        for round in 0..12 {
            let mut node = nodes[round % 2].client();
            let list = node.ask("CLIENT LIST").text();
            // Only what tells of changes: requests go on, and must not be believed.
            for line in list.lines().filter(|line| line.contains("tB ")) {
                let id = line.strip_prefix("id=").unwrap().split(' ').next().unwrap();
                node.call(&["CLIENT", "KILL", "ID", id]);
            }
            wait_until("the feeds are back", PATIENCE, || {
                nodes[round % 2].info("tracking_clients") >= 1
            });
        }
    });
    wait_until("it is counted", PATIENCE, || {
        proxy.metric("preshard_tracking_gaps_total") > 2
    });
}

#[test]
fn no_cache_is_stale_after_nodes_have_died_and_come_back() {
    let (mut nodes, proxy) = pair(NODE_AWAY, &[]);
    readers_and_writers(&proxy, &mut nodes, |nodes| {
        for round in 0..4 {
            let node = &mut nodes[round % 2];
            node.kill();
            node.restart();
            wait_until("the feeds are back", PATIENCE, || {
                node.info("tracking_clients") >= 1
            });
        }
    });
    wait_until("it is counted", PATIENCE, || {
        proxy.metric("preshard_tracking_gaps_total") > 2
    });
}

#[test]
fn a_reader_that_pipelines_forever_is_told_all_the_same() {
    let (_nodes, proxy) = pair(&[], &[]);
    let mut reader = tracking(&proxy, "");
    let mut writer = proxy.client();
    // Never less than fifty requests under way.
    let ask = |reader: &mut Client| reader.command(&["GET", "busy"]);
    (0..50).for_each(|_| ask(&mut reader));
    for round in 0..50 {
        writer.call(&["SET", "busy", &round.to_string()]).expect_ok();
        let mut replies = 0;
        loop {
            match reader.reply() {
                Reply::Push(_) => break,
                _ => {
                    replies += 1;
                    ask(&mut reader);
                }
            }
            assert!(replies < 100_000, "never told");
        }
    }
    let mut left = 50;
    while left > 0 {
        left -= usize::from(!matches!(reader.reply(), Reply::Push(_)));
    }
    reader.command(&["GET", "busy"]);
    loop {
        if let Reply::Bulk(value) = reader.reply() {
            assert_eq!(value, b"49");
            break;
        }
    }
    writer.call(&["SET", "busy", "last"]).expect_ok();
    while invalidated(&mut reader) != ["busy"] {}
}

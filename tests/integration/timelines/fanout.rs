//! C3 for `TIMELINE.FANOUT`: what is killed in the middle is told by key, and the same call again completes it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::{newest_first, timelines};
use crate::harness::{Client, Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, small, wait_until};
use crate::moving;

const KEYS: usize = 5_000;

fn call(keys: &[String], rest: &[&str]) -> Vec<String> {
    let mut words = vec!["TIMELINE.FANOUT".to_owned(), keys.len().to_string()];
    words.extend(keys.iter().cloned());
    words.extend(rest.iter().map(|word| (*word).to_owned()));
    words
}

/// The tally of a call: added, unchanged, skipped, and what failed with why.
fn tally(reply: &Reply) -> ([i64; 3], Vec<(String, String)>) {
    let count = |name: &str| reply.field(name).unwrap_or_else(|| panic!("{reply:?}")).int();
    let failed = reply.field("failed").unwrap().items();
    let failed = failed.iter().map(|pair| {
        let pair = pair.items();
        (pair[0].text(), pair[1].text())
    });
    (["added", "unchanged", "skipped"].map(count), failed.collect())
}

/// Every timeline has exactly these items.
fn assert_items(client: &mut Client, keys: &[String], items: &[&str]) {
    for some in keys.chunks(500) {
        some.iter()
            .for_each(|key| client.command(&["ZREVRANGE", key, "0", "-1"]));
        for key in some {
            let found: Vec<String> = client.reply().items().iter().map(Reply::text).collect();
            assert_eq!(found, items, "{key}");
        }
    }
}

/// What may be logged when a node goes.
const NODE_AWAY: &[&str] = &[
    "node_down",
    "node_is_down",
    "link_closed",
    "node_silent",
    "probe_failed",
];

fn durable() -> (Vec<Node>, Setup) {
    let options = NodeOptions {
        durable: true,
        ..NodeOptions::default()
    };
    let nodes = vec![Node::with(options.clone()), Node::with(options)];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).announce(NODE_AWAY);
    (nodes, setup)
}

#[test]
fn thousands_of_timelines_get_an_item_in_one_call() {
    let (_nodes, proxy) = small();
    let keys = timelines(&proxy, 10_000);
    for mut client in [proxy.client(), proxy.client3()] {
        client.ask("FLUSHALL").expect_ok();
        let reply = client.call(&call(&keys, &["MAXLEN", "2", "1", "a"]));
        assert_eq!(tally(&reply), ([10_000, 0, 0], Vec::new()));
        let reply = client.call(&call(&keys[..9_000], &["MAXLEN", "2", "2", "b"]));
        assert_eq!(tally(&reply), ([9_000, 0, 0], Vec::new()));
        let reply = client.call(&call(&keys, &["MAXLEN", "2", "2", "b"]));
        assert_eq!(tally(&reply), ([1_000, 9_000, 0], Vec::new()));
        let reply = client.call(&call(&keys, &["MAXLEN", "2", "3", "c"]));
        assert_eq!(tally(&reply), ([10_000, 0, 0], Vec::new()));
        assert_items(&mut client, &keys, &["c", "b"]);
        client.ask("FLUSHALL").expect_ok();
        client.call(&call(&keys[..100], &["1", "a"])).items();
        let reply = client.call(&call(&keys, &["MAXLEN", "1", "IFEXISTS", "2", "b"]));
        assert_eq!(tally(&reply), ([100, 0, 9_900], Vec::new()));
        assert_items(&mut client, &keys[..100], &["b"]);
        assert_eq!(client.ask("DBSIZE").int(), 100);
    }
    let mut client = proxy.client();
    let long = call(&timelines(&proxy, 10_001), &["1", "a"]);
    client
        .call(&long)
        .expect_error("ERR numkeys must be between 1 and 10000");
}

#[test]
fn others_are_served_between_its_chunks() {
    let (_nodes, proxy) = small();
    let keys = timelines(&proxy, 10_000);
    let is_done = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut client = proxy.client();
            let mut served = 0;
            while !is_done.load(Relaxed) {
                // On both nodes.
                client.call(&["GET", &format!("other{}", served % 16)]);
                served += 1;
            }
            served
        });
        let mut client = proxy.client();
        for item in 0..5 {
            let item = item.to_string();
            let reply = client.call(&call(&keys, &["MAXLEN", "2", &item, &item]));
            assert_eq!(tally(&reply).0, [10_000, 0, 0]);
        }
        is_done.store(true, Relaxed);
        other.join().unwrap()
    });
    // Of each call 10,000 keys at two nodes, 256 at a time: some twenty rounds.
    assert!(served >= 25, "only {served} requests came between");
}

#[test]
fn a_node_that_is_killed_midway_fails_by_key_and_the_same_call_completes_it() {
    let (mut nodes, setup) = durable();
    let proxy = setup.start();
    let keys = timelines(&proxy, KEYS);
    let mut client = proxy.client();
    let mut seen_uncertain = 0;
    // A busy machine may be done before it is killed.
    for round in 0..12 {
        if round >= 3 && seen_uncertain > 0 {
            break;
        }
        let item = round.to_string();
        let words = call(&keys, &["MAXLEN", "1", &item, &item]);
        client.limit = PATIENCE;
        let before = nodes[1].calls_of("zadd");
        client.command(&words);
        wait_until("it is under way", PATIENCE, || {
            nodes[1].calls_of("zadd") > before + 50
        });
        nodes[1].kill();
        let (counts, failed) = tally(&client.reply());
        assert_eq!(
            counts.iter().sum::<i64>() + failed.len() as i64,
            KEYS as i64,
            "each key is told once"
        );
        for (key, why) in &failed {
            let known = ["UNCERTAIN", "CLUSTERDOWN", "TRYAGAIN"];
            assert!(known.iter().any(|word| why.starts_with(word)), "{key}: {why}");
        }
        seen_uncertain += failed
            .iter()
            .filter(|(_, why)| why.starts_with("UNCERTAIN"))
            .count();
        nodes[1].restart();
        let failed: Vec<String> = failed.into_iter().map(|(key, _)| key).collect();
        wait_until("the failed ones are written", PATIENCE, || {
            failed.is_empty()
                || tally(&client.call(&call(&failed, &["MAXLEN", "1", &item, &item])))
                    .1
                    .is_empty()
        });
        assert_items(&mut client, &keys, &[&item]);
    }
    assert!(seen_uncertain > 0, "no node died in the middle");
}

#[test]
fn a_proxy_that_is_killed_midway_leaves_what_the_same_call_completes() {
    let (nodes, setup) = durable();
    let mut proxy = setup.start();
    let keys = timelines(&proxy, KEYS);
    let words = call(&keys, &["MAXLEN", "1", "IFEXISTS", "2", "b"]);
    proxy.client().call(&call(&keys, &["1", "a"])).items();
    let mut client = proxy.client();
    client.command(&words);
    wait_until("it is under way", PATIENCE, || nodes[0].calls_of("eval") > 0);
    proxy.kill();
    client.until_closed();
    let proxy = setup.store(&proxy.store).start();
    let mut client = proxy.client();
    let (counts, failed) = tally(&client.call(&words));
    assert_eq!((counts[0] + counts[1], failed), (KEYS as i64, Vec::new()));
    assert_items(&mut client, &keys, &["b"]);
}

#[test]
fn a_node_that_stands_still_is_told_of_in_time() {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).announce(NODE_AWAY);
    let proxy = setup.proxy("request_timeout = \"1s\"").start();
    let keys = timelines(&proxy, 2_000);
    let mut client = proxy.client();
    // Its links are open.
    client.call(&call(&keys, &["0", "z"])).items();
    client.ask("FLUSHALL").expect_ok();
    nodes[1].freeze();
    let words = call(&keys, &["1", "a"]);
    let (counts, failed) = tally(&client.call(&words));
    assert_eq!(counts[0] + failed.len() as i64, 2_000);
    assert!(counts[0] > 500, "the other node's keys are written: {counts:?}");
    assert!(failed.iter().any(|(_, why)| why.starts_with("UNCERTAIN")));
    assert!(
        failed.iter().any(|(_, why)| !why.starts_with("UNCERTAIN")),
        "what was not sent is told as not run"
    );
    nodes[1].thaw();
    wait_until("all are written", PATIENCE, || {
        let (counts, failed) = tally(&client.call(&words));
        failed.is_empty() && counts[0] + counts[1] == 2_000
    });
    assert_items(&mut client, &keys, &["a"]);
}

/// A client that leaves takes nothing with it that others wait for.
#[test]
fn a_client_that_leaves_midway_harms_nobody() {
    let (_nodes, proxy) = small();
    let keys = timelines(&proxy, 10_000);
    for round in 0..20 {
        let mut leaver = proxy.client();
        leaver.command(&call(&keys, &["MAXLEN", "3", &round.to_string(), "x"]));
        drop(leaver);
        let mut client = proxy.client();
        assert_eq!(
            client
                .call(&["TIMELINE.ADD", "mine", &round.to_string(), "m"])
                .int(),
            i64::from(round == 0)
        );
        assert_eq!(newest_first(&mut client, "mine"), ["m"]);
    }
    let mut client = proxy.client();
    // What the others have left behind may still run, behind this.
    wait_until("all have ended", PATIENCE, || {
        let (counts, failed) = tally(&client.call(&call(&keys, &["MAXLEN", "1", "99", "y"])));
        assert_eq!((counts[0] + counts[1], failed), (10_000, Vec::new()));
        keys.iter().all(|key| client.call(&["ZCARD", key]).int() == 1)
    });
    assert_items(&mut client, &keys, &["y"]);
}

fn move_shards(admin: &mut Client, shards: &str, target: &str) {
    let row = moving::move_shards(admin, shards, target);
    moving::tell(admin, "FINALIZE", &moving::field(&row, "task"));
}

/// Writes items until it is told to stop, and sees each everywhere before the next; returns how many.
fn write_items(proxy: &Proxy, keys: &[String], more: &[&str], stop: &AtomicBool) -> i64 {
    let mut client = proxy.client3();
    let mut item = 0;
    while !stop.load(Relaxed) {
        item += 1;
        let text = item.to_string();
        let mut rest = vec!["MAXLEN", "3"];
        rest.extend_from_slice(more);
        rest.extend([text.as_str(), text.as_str()]);
        let (counts, failed) = tally(&client.call(&call(keys, &rest)));
        assert_eq!(
            (counts, failed),
            ([keys.len() as i64, 0, 0], Vec::new()),
            "item {item}"
        );
        for key in keys {
            client.command(&["TIMELINE.RANGE", key, "COUNT", "1"]);
        }
        for key in keys {
            assert_eq!(
                client.reply().items()[1].items(),
                [Reply::from(text.as_str())],
                "{key}"
            );
        }
    }
    item
}

#[test]
fn shards_move_under_it_and_no_key_fails_or_misses_an_item() {
    let (nodes, proxy) = small();
    let keys = timelines(&proxy, 400);
    let existing: Vec<String> = (0..300).map(|key| format!("there:{key}")).collect();
    let (mut admin, stop) = (proxy.admin_client(), AtomicBool::new(false));
    proxy.client().call(&call(&existing, &["0", "0"])).items();
    let (plain, scripted) = thread::scope(|scope| {
        let plain = scope.spawn(|| write_items(&proxy, &keys, &[], &stop));
        let scripted = scope.spawn(|| write_items(&proxy, &existing, &["IFEXISTS"], &stop));
        let stopper = crate::harness::StopAtEnd(&stop);
        for (shards, target) in [("0-3", "node-2"), ("0-7", "node-1"), ("1,4,6", "node-2")] {
            move_shards(&mut admin, shards, target);
        }
        drop(stopper);
        (plain.join().unwrap(), scripted.join().unwrap())
    });
    assert!(plain > 5 && scripted > 5, "{plain}, {scripted}");
    let mut client = proxy.client();
    for (keys, items) in [(&keys, plain), (&existing, scripted)] {
        let newest: Vec<String> = (items - 2..=items).rev().map(|item| item.to_string()).collect();
        assert_items(
            &mut client,
            keys,
            &newest.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    let kept = nodes[0].all_keys(12).len() + nodes[1].all_keys(12).len();
    assert_eq!(kept, keys.len() + existing.len(), "no copy is left");
}

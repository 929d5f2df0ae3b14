//! P3: pages of timelines that change while they are read, and many timelines read as one.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::page;
use crate::harness::{Client, PATIENCE, Proxy, key_in, seed, small};

/// Between two changes of a timeline.
const PACE: Duration = Duration::from_millis(1);

/// Reads a whole timeline page by page.
fn read_all(
    client: &mut Client,
    words: &[String],
    count: usize,
    mut between: impl FnMut(&str),
) -> Vec<String> {
    let mut told = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut words = words.to_vec();
        words.extend(["COUNT".to_owned(), count.to_string()]);
        if let Some(cursor) = cursor {
            words.extend(["BEFORE".to_owned(), cursor]);
        }
        let (next, items) = page(client, &words);
        assert!(items.len() <= count);
        assert_eq!(
            next.is_some(),
            items.len() == count,
            "a null says that it is the end"
        );
        told.extend(items);
        match next {
            Some(next) => {
                between(&next);
                cursor = Some(next);
            }
            None => return told,
        }
    }
}

/// Adds and deletes items that nobody expects, in the midst of the others, until it is told to stop.
fn churn(proxy: &Proxy, key: &str, seed: u64, stop: &AtomicBool) -> usize {
    let (mut client, mut random) = (proxy.client(), Rng::with_seed(seed));
    let mut changes = 0;
    while !stop.load(Relaxed) {
        let member = format!("churn{:02}", random.u8(..40));
        let score = random.u8(..12).to_string();
        let added = random.bool();
        if added {
            client.call(&["TIMELINE.ADD", key, "NX", &score, &member]).int();
        } else {
            client.call(&["ZREM", key, &member]).int();
        }
        changes += 1;
        thread::park_timeout(PACE);
    }
    changes
}

#[test]
fn pages_miss_nothing_and_repeat_nothing_while_the_timeline_changes() {
    let (_nodes, proxy) = small();
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let (key, stop) = (key_in(5, 8, "t"), AtomicBool::new(false));
    let mut client = proxy.client();
    // Few scores, and one that two hundred items share.
    let mut stable: BTreeSet<(u32, String)> = BTreeSet::new();
    stable.extend((0..120).map(|item| (random.u32(..12), format!("item{item:03}"))));
    stable.extend((0..200).map(|item| (6, format!("tie{item:03}"))));
    for (score, member) in &stable {
        client.call(&["ZADD", &key, &score.to_string(), member]).int();
    }
    let expected: Vec<String> = stable.iter().rev().map(|row| row.1.clone()).collect();
    let changes = thread::scope(|scope| {
        let writer = scope.spawn(|| churn(&proxy, &key, seed, &stop));
        for round in 0..24 {
            let mut client = if round % 2 == 0 {
                proxy.client()
            } else {
                proxy.client3()
            };
            let words = ["TIMELINE.RANGE".to_owned(), key.clone()];
            let count = [1, 7, 20, 64][round % 4];
            let told = read_all(&mut client, &words, count, |_| ());
            let told: Vec<String> = told
                .into_iter()
                .filter(|item| !item.starts_with("churn"))
                .collect();
            assert_eq!(told, expected, "round {round}");
        }
        stop.store(true, Relaxed);
        writer.join().unwrap()
    });
    assert!(changes > 60, "{changes} changes");
}

#[test]
fn the_cursors_own_item_may_go() {
    let (_nodes, proxy) = small();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let members: Vec<String> = (0..90).map(|member| format!("m:{member:02}")).collect();
    for member in &members {
        let score = if *member < members[60] { "1" } else { "-2.5e-3" };
        client.call(&["ZADD", "t", score, member]).int();
    }
    let mut expected: Vec<String> = members[..60].iter().rev().cloned().collect();
    expected.extend(members[60..].iter().rev().cloned());
    let words = ["TIMELINE.RANGE".to_owned(), "t".to_owned()];
    let told = read_all(&mut client, &words, 4, |cursor| {
        let member = cursor.split_once(':').unwrap().1;
        assert_eq!(other.call(&["ZREM", "t", member]).int(), 1, "{cursor}");
    });
    assert_eq!(told, expected);
}

#[test]
fn a_bound_on_both_sides_is_a_window() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    for number in 0..100 {
        client
            .call(&["ZADD", "t", &(number / 3).to_string(), &format!("{number:02}")])
            .int();
    }
    let ask = |client: &mut Client, line: &str| page(client, &line.split(' ').collect::<Vec<_>>());
    // 30, 31 and 32 share the score 10.
    assert_eq!(
        ask(&mut client, "TIMELINE.RANGE t AFTER 10:31 BEFORE 11").1,
        ["32"]
    );
    assert_eq!(
        ask(&mut client, "TIMELINE.RANGE t AFTER 9 BEFORE 10:32").1,
        ["31", "30"]
    );
    assert_eq!(ask(&mut client, "TIMELINE.RANGE t AFTER 10 BEFORE 11").1.len(), 0);
    assert_eq!(ask(&mut client, "TIMELINE.RANGE t AFTER 32:98").1, ["99"]);
    let (next, items) = ask(&mut client, "TIMELINE.RANGE t AFTER 31:93 COUNT 3");
    assert_eq!(
        (next.as_deref(), items),
        (Some("32:97"), ["99", "98", "97"].map(str::to_owned).to_vec())
    );
    let (next, items) = ask(&mut client, "TIMELINE.RANGE t AFTER 31:93 BEFORE 32:97");
    assert_eq!(
        (next, items),
        (None, ["96", "95", "94"].map(str::to_owned).to_vec())
    );
}

#[test]
fn merged_timelines_are_their_sorted_union() {
    let (_nodes, proxy) = small();
    let mut random = Rng::with_seed(seed());
    let mut client = proxy.client3();
    for round in 0..12 {
        client.ask("FLUSHALL").expect_ok();
        let timelines = random.usize(1..60);
        let mut union: BTreeSet<(u32, String)> = BTreeSet::new();
        let mut words = vec!["TIMELINE.MERGE".to_owned(), timelines.to_string()];
        for timeline in 0..timelines {
            let key = format!("star:{timeline}");
            // Some are empty, some much longer than others; an item has one score wherever it is.
            let items = [0, 3, 10, 200][random.usize(..4)];
            for _ in 0..items {
                let item = random.u32(..2_000);
                let row = (item / 10, format!("i{item:04}"));
                client.command(&["ZADD", &key, &row.0.to_string(), &row.1]);
                union.insert(row);
            }
            (0..items).for_each(|_| assert!(client.reply().int() >= 0));
            words.push(key);
        }
        let expected: Vec<String> = union.into_iter().rev().map(|row| row.1).collect();
        let count = [1, 20, 300][round % 3];
        let told = read_all(&mut client, &words, count.max(expected.len() / 100), |_| ());
        assert_eq!(told, expected, "{timelines} timelines, pages of {count}");
    }
}

#[test]
fn a_timeline_that_cannot_be_read_leaves_no_hole() {
    let (mut nodes, proxy) = {
        let nodes = vec![crate::harness::Node::start(), crate::harness::Node::start()];
        let proxy = crate::harness::Setup::of(&[nodes[0].address(), nodes[1].address()])
            .announce(&["node_down", "node_is_down", "link_closed"])
            .start();
        (nodes, proxy)
    };
    let mut client = proxy.client();
    let (here, there) = (key_in(0, 8, "a"), key_in(7, 8, "b"));
    client
        .call(&["TIMELINE.FANOUT", "2", &here, &there, "1", "m"])
        .items();
    assert_eq!(
        page(&mut client, &["TIMELINE.MERGE", "2", &here, &there]).1,
        ["m"]
    );
    nodes[1].kill();
    crate::harness::wait_until("the node is known to be down", PATIENCE, || {
        let reply = client.call(&["TIMELINE.MERGE", "2", &here, &there]);
        let error = reply.error().expect("no page with a hole").to_owned();
        error.starts_with("CLUSTERDOWN")
    });
    assert_eq!(page(&mut client, &["TIMELINE.RANGE", &here]).1, ["m"]);
}

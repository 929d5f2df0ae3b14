//! Where requests go, as rules in text, and what a split is made of.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::resp::{self, ArgRange, RequestLimits, RequestScanner, Scan};
use crate::topology::Node;

fn topology(shards: u16, pinned: u16) -> Topology {
    let node = |number: u16| Node {
        name: format!("node-{number}"),
        address: format!("127.0.0.1:{}", 7000 + number).parse().unwrap(),
    };
    Topology::seed("test".to_owned(), shards, pinned, vec![node(1), node(2)]).unwrap()
}

fn scanned(frame: &[u8]) -> Vec<ArgRange> {
    let mut ranges = Vec::new();
    let scan = RequestScanner::default().scan(frame, &mut ranges, &RequestLimits::default());
    assert_eq!(scan, Scan::Frame { end: frame.len() }, "{}", frame.escape_ascii());
    ranges
}

/// Routes the words of a request and hands over what came of it.
fn routed<T>(
    words: &[&[u8]],
    topology: &Topology,
    db: u16,
    with: impl FnOnce(&Args<'_>, Result<Plan, String>) -> T,
) -> T {
    let mut frame = Vec::new();
    resp::write_request(&mut frame, words);
    let ranges = scanned(&frame);
    let args = Args::new(&frame, &ranges);
    let spec = command::resolve(&args).unwrap_or_else(|refusal| panic!("{}", refusal.line()));
    let plan = route(spec, &args, topology, db, &mut Scratch::default());
    with(&args, plan)
}

/// A plan in one line, as in the table below.
fn shown_plan(line: &str, db: u16) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    routed(&words, &topology(8, 4), db, |args, plan| match plan {
        Ok(Plan::Local(local)) => format!("local {local:?}"),
        Ok(Plan::One(shard)) => format!("shard {shard}"),
        Ok(Plan::Iterate(shard)) => format!("iterate, shard {shard}"),
        Ok(Plan::FanOut(fan_out)) => format!("fan-out {fan_out:?}"),
        Ok(Plan::Blocking(shard)) => format!("blocking, shard {shard}"),
        Ok(Plan::Script(script, shard)) => format!("script {script:?}, shard {shard}"),
        Ok(Plan::Transaction(transaction)) => format!("transaction {transaction:?}"),
        Ok(Plan::PubSub(pubsub)) => format!("pub/sub {pubsub:?}"),
        Ok(Plan::Helper(helper)) => format!("helper {helper:?}"),
        Ok(Plan::Split(_, splitting)) => {
            let part = |part: usize| {
                let mut frame = Vec::new();
                splitting.write_frame(part, args, &mut frame);
                let ranges = scanned(&frame);
                let words: Vec<_> = Args::new(&frame, &ranges)
                    .iter()
                    .map(String::from_utf8_lossy)
                    .collect();
                format!("shard {}: {}", splitting.parts()[part].shard, words.join(" "))
            };
            (0..splitting.parts().len())
                .map(part)
                .collect::<Vec<_>>()
                .join(" | ")
        }
        Err(line) => format!("-{line}"),
    })
}

#[test]
fn requests_go_where_the_table_says() {
    // Slots: a 15495, b 3300, c 7365, foo 12182; eight shards of 2048 slots.
    for (line, db, plan) in [
        ("GET a", 0, "shard 7"),
        ("get b", 0, "shard 1"),
        ("GET {b}.anything", 0, "shard 1"),
        ("GET a", 3, "shard 10"),
        ("MGET a b", 3, "shard 10"),
        ("RENAME a b", 3, "shard 10"),
        ("MGET {b}1 {b}2", 0, "shard 1"),
        (
            "MGET a b c {b}2 a",
            0,
            "shard 1: MGET b {b}2 | shard 3: MGET c | shard 7: MGET a a",
        ),
        ("mset a 1 b 2 a 3", 0, "shard 1: mset b 2 | shard 7: mset a 1 a 3"),
        ("DEL a b", 0, "shard 1: DEL b | shard 7: DEL a"),
        ("DBSIZE", 0, "fan-out Dbsize"),
        ("DBSIZE", 1, "fan-out Dbsize"),
        ("SCAN 0 COUNT 10", 0, "fan-out Scan"),
        ("SCAN 0 COUNT 10", 4, "fan-out Scan"),
        ("FLUSHDB", 2, "fan-out Flushdb"),
        ("FLUSHALL", 2, "fan-out Flushall"),
        ("SCRIPT FLUSH", 2, "fan-out ScriptFlush"),
        ("PING", 0, "local Ping"),
        ("GET a", 5, "-ERR DB index is out of range"),
        ("DBSIZE", 5, "-ERR DB index is out of range"),
    ] {
        assert_eq!(shown_plan(line, db), plan, "{line} in db {db}");
    }
}

#[test]
fn keys_on_different_shards_are_named_with_the_way_out() {
    assert_eq!(
        shown_plan("RENAME a b", 0),
        "-CROSSSLOT keys 'a' (shard 7) and 'b' (shard 1) live on different shards; \
         use a hash tag such as {x}a {x}b, or SELECT a pinned database"
    );
    assert_eq!(
        shown_plan("SINTERSTORE {b}to b c", 0),
        "-CROSSSLOT keys '{b}to' (shard 1) and 'c' (shard 3) live on different shards; \
         use a hash tag such as {x}{b}to {x}c, or SELECT a pinned database"
    );
    assert!(shown_plan("MSETNX a 1 b 2", 0).starts_with("-CROSSSLOT "));
}

#[test]
fn a_long_or_binary_key_fits_into_an_error_line() {
    let long = vec![b'k'; 10_000];
    let line = routed(
        &[b"RENAME", &long, b"a\r\n\xff"],
        &topology(4096, 0),
        0,
        |_, plan| plan.unwrap_err(),
    );
    let line = resp::error_line(&line);
    assert!(line.len() < 400, "{} bytes", line.len());
    assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
    assert_eq!(line.iter().filter(|&&byte| byte == b'\r').count(), 1);
}

proptest! {
    /// Every key goes to its own shard, with its value, once; parts are in the order of shards, places are those of
    /// the request and the order within a shard is kept.
    #[test]
    fn a_split_loses_and_moves_nothing(
        keys in vec("[a-d]{1,2}|\\{[ab]\\}[a-z]?", 1..40),
        power in 0_u32..=12,
        with_values in any::<bool>(),
    ) {
        let topology = topology(1 << power, 3);
        let values: Vec<String> = (0..keys.len()).map(|n| format!("v{n}")).collect();
        let mut words: Vec<&[u8]> = vec![if with_values { b"MSET" } else { b"MGET" }];
        for (key, value) in keys.iter().zip(&values) {
            words.push(key.as_bytes());
            if with_values {
                words.push(value.as_bytes());
            }
        }
        routed(&words, &topology, 0, |args, plan| {
            let splitting = match plan {
                Ok(Plan::Split(_, splitting)) => splitting,
                Ok(Plan::One(shard)) => {
                    prop_assert!(keys.iter().all(|key| topology.shard_of_key(key.as_bytes()) == shard));
                    return Ok(());
                }
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(splitting.key_count(), keys.len());
            let mut seen = vec![false; keys.len()];
            let mut last = None;
            for (part, target) in splitting.parts().iter().enumerate() {
                prop_assert!(last < Some(target.shard), "one part a shard, in order");
                last = Some(target.shard);
                let mut frame = Vec::new();
                splitting.write_frame(part, args, &mut frame);
                let ranges = scanned(&frame);
                let part_args = Args::new(&frame, &ranges);
                prop_assert_eq!(part_args.get(0), args.get(0));
                let step = if with_values { 2 } else { 1 };
                let places: Vec<usize> = splitting.places(part).collect();
                prop_assert!(places.is_sorted(), "{:?}", places);
                prop_assert_eq!(part_args.len(), 1 + places.len() * step);
                for (at, place) in places.into_iter().enumerate() {
                    prop_assert!(!std::mem::replace(&mut seen[place], true), "place {} twice", place);
                    let key = keys[place].as_bytes();
                    prop_assert_eq!(part_args.get(1 + at * step), key);
                    prop_assert_eq!(topology.shard_of_key(key), target.shard);
                    if with_values {
                        prop_assert_eq!(part_args.get(2 + at * step), values[place].as_bytes());
                    }
                }
            }
            prop_assert!(seen.iter().all(|seen| *seen));
            Ok(())
        })?;
    }
}

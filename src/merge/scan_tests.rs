//! The walk of SCAN over model shards: every key once, whatever the page; cursors that come back as they went.

use proptest::prelude::*;

use super::*;
use crate::ids::{NodeIndex, ShardId};
use crate::merge::scan::{Position, STEPS_MAX, Step, Walk};
use crate::topology::{Node, NodeAccess, Topology};

fn topology(shards: u16) -> Topology {
    let node = |number: u16| Node {
        name: format!("node-{number}"),
        address: format!("127.0.0.1:{}", 7000 + number).parse().unwrap(),
    };
    Topology::seed("test".to_owned(), shards, 2, vec![node(1), node(2), node(3)]).unwrap()
}

/// A shard's SCAN: `page` keys a call, a cursor that is no plain count.
fn scan_shard(keys: &[String], cursor: u64, page: usize) -> Vec<u8> {
    assert_eq!(cursor % 1_000_003, 0, "a cursor that the shard never gave");
    let start = usize::try_from(cursor / 1_000_003).unwrap();
    let end = (start + page).min(keys.len());
    let next = if end == keys.len() {
        0
    } else {
        end as u64 * 1_000_003
    };
    let mut out = Vec::new();
    resp::write_array_header(&mut out, 2);
    resp::write_bulk(&mut out, next.to_string().as_bytes());
    resp::write_array_header(&mut out, end - start);
    keys[start..end]
        .iter()
        .for_each(|key| resp::write_bulk(&mut out, key.as_bytes()));
    out
}

/// One call of a client: its answer's cursor and keys, and how many shards were asked.
fn call(
    topology: &Topology,
    shards: &[Vec<String>],
    cursor: &str,
    count: usize,
    page: usize,
) -> (String, Vec<String>, usize) {
    let count = count.to_string();
    let mut walk = Walk::new(cursor.as_bytes(), &[b"COUNT", count.as_bytes()], topology).unwrap();
    let mut steps = 0;
    while let Step::Ask(shard) = walk.step() {
        let mut frame = Vec::new();
        walk.write_frame(topology, &mut frame);
        let words: Vec<_> = elements(&frame)
            .unwrap()
            .map(|word| bulk(word).unwrap().to_vec())
            .collect();
        assert_eq!(words[0], b"SCAN");
        assert_eq!(words[2..], [b"COUNT".to_vec(), count.as_bytes().to_vec()]);
        let node_cursor = String::from_utf8(words[1].clone()).unwrap().parse().unwrap();
        let reply = scan_shard(&shards[shard.index()], node_cursor, page);
        walk.part(Outcome::Reply(&reply), topology);
        steps += 1;
    }
    let mut out = Vec::new();
    walk.finish(topology, &mut out);
    let mut pair = elements(&out).unwrap();
    let text = |raw: &[u8]| String::from_utf8(bulk(raw).unwrap().to_vec()).unwrap();
    let next = text(pair.next().unwrap());
    let keys = elements(pair.next().unwrap()).unwrap().map(text).collect();
    (next, keys, steps)
}

proptest! {
    #[test]
    fn a_walk_returns_every_key_exactly_once(
        sizes in prop::collection::vec(0_usize..20, 64),
        power in 0_u32..=6,
        count in 1_usize..50,
        page in 1_usize..12,
    ) {
        let topology = topology(1 << power);
        let shards: Vec<Vec<String>> = sizes[..1 << power]
            .iter()
            .enumerate()
            .map(|(shard, &size)| (0..size).map(|n| format!("{shard}:{n}")).collect())
            .collect();
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys, steps) = call(&topology, &shards, &cursor, count, page);
            prop_assert!(steps <= STEPS_MAX);
            prop_assert!(keys.len() < count + page, "{} keys for COUNT {}", keys.len(), count);
            found.extend(keys);
            if next == "0" {
                break;
            }
            prop_assert!(next.parse::<u64>().unwrap() < 1 << 53, "a double would round {}", next);
            cursor = next;
        }
        let mut expected: Vec<String> = shards.into_iter().flatten().collect();
        found.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_cursor_comes_back_as_it_went(shard in 0_u16..4096, cursor in 0_u64..1 << 32, power in 0_u32..=12) {
        let topology = topology(1 << power);
        let position = Position { shard: ShardId(shard % topology.shards), cursor };
        let encoded = position.encode(&topology).unwrap();
        prop_assert!((1..1 << 53).contains(&encoded), "0 is the end, a double would round {}", encoded);
        prop_assert_eq!(Position::decode(encoded, &topology), Some(position));
    }

    #[test]
    fn no_number_is_a_place_outside_the_keyspace(cursor in any::<u64>(), power in 0_u32..=12) {
        let topology = topology(1 << power);
        match Position::decode(cursor, &topology) {
            Some(position) => {
                prop_assert!(position.shard.0 < topology.shards && cursor < 1 << 53);
                prop_assert!(position.encode(&topology).is_some());
            }
            None => prop_assert!(cursor >= 1 << 53),
        }
    }
}

#[test]
fn an_empty_keyspace_is_walked_within_the_bound_on_steps() {
    let topology = topology(1024);
    let shards = vec![Vec::new(); 1024];
    let (mut cursor, mut calls) = ("0".to_owned(), 0);
    loop {
        let (next, keys, steps) = call(&topology, &shards, &cursor, 10, 10);
        assert!(keys.is_empty() && steps == STEPS_MAX);
        calls += 1;
        if next == "0" {
            break;
        }
        cursor = next;
    }
    assert_eq!(calls, 1024 / STEPS_MAX);
}

#[test]
fn a_cursor_that_preshard_never_made_is_refused() {
    let topology = topology(8);
    for cursor in [
        "9007199254740992",
        "-1",
        "1x",
        "",
        " 1",
        "18446744073709551615",
        "99999999999999999999",
    ] {
        let refused = Walk::new(cursor.as_bytes(), &[], &topology).unwrap_err();
        assert_eq!(refused, "ERR invalid cursor", "{cursor}");
    }
}

#[test]
fn a_shard_that_moved_is_walked_again_from_its_start() {
    let before = topology(8);
    let place = Position {
        shard: ShardId(5),
        cursor: 77,
    };
    let cursor = place.encode(&before).unwrap();
    let mut after = before.clone();
    after.placements[5].node = NodeIndex(0);
    assert_ne!(before.placements[5].node, NodeIndex(0));
    let found = Position::decode(cursor, &after);
    assert_eq!(found, Some(Position { cursor: 0, ..place }));
}

#[test]
fn a_node_that_is_added_does_not_pass_for_the_one_that_had_its_place_by_name() {
    let before = topology(8);
    let mut after = before.clone();
    after.nodes.push(Node {
        name: "node-0".to_owned(),
        address: "127.0.0.1:7000".parse().unwrap(),
    });
    for shard in (0..8).map(ShardId) {
        let place = Position { shard, cursor: 77 };
        let cursor = place.encode(&before).unwrap();
        assert_eq!(Position::decode(cursor, &after), Some(place), "it has not moved");
        for node in (0..4)
            .map(NodeIndex)
            .filter(|&node| node != before.placement(shard).node)
        {
            after.placements[shard.index()].node = node;
            let found = Position::decode(cursor, &after);
            assert_eq!(found, Some(Position { cursor: 0, ..place }), "{node:?}");
        }
        after.placements[shard.index()].node = before.placement(shard).node;
    }
}

#[test]
fn a_cursor_of_a_node_that_was_started_again_elsewhere_is_none() {
    let before = topology(8);
    let mut after = before.clone();
    after.nodes[0].address = "127.0.0.1:9000".parse().unwrap();
    let place = Position {
        shard: ShardId(0),
        cursor: 77,
    };
    let found = Position::decode(place.encode(&before).unwrap(), &after);
    assert_eq!(found, Some(Position { cursor: 0, ..place }));
}

#[test]
fn a_walk_that_fails_answers_the_failure_and_asks_no_more() {
    let topology = topology(8);
    for (outcome, expected) in [
        (Outcome::Reply(b"-LOADING it is\r\n"), "-LOADING it is\r\n"),
        (Outcome::NotRun("CLUSTERDOWN down"), "-CLUSTERDOWN down\r\n"),
        (Outcome::Uncertain("UNCERTAIN lost"), "-UNCERTAIN lost\r\n"),
        (
            Outcome::Reply(b":1\r\n"),
            "-ERR preshard: a node's SCAN reply cannot be read, or its cursor is beyond 2^32\r\n",
        ),
        (
            Outcome::Reply(b"*2\r\n$10\r\n4294967296\r\n*0\r\n"),
            "-ERR preshard: a node's SCAN reply cannot be read, or its cursor is beyond 2^32\r\n",
        ),
    ] {
        let mut walk = Walk::new(b"0", &[], &topology).unwrap();
        assert_eq!(walk.step(), Step::Ask(ShardId(0)));
        walk.part(outcome, &topology);
        assert_eq!(walk.step(), Step::Done);
        let mut out = Vec::new();
        walk.finish(&topology, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn count_is_a_positive_number() {
    let topology = topology(8);
    for count in ["0", "-5", "x", ""] {
        assert!(
            Walk::new(b"0", &[b"COUNT", count.as_bytes()], &topology).is_err(),
            "{count}"
        );
    }
}

#[test]
fn a_shard_that_moves_in_the_middle_of_a_call_is_walked_again_from_its_start() {
    let before = topology(8);
    let mut after = before.clone();
    after.placements[5].node = NodeIndex(0);
    another_owner_in_the_middle_of_a_call(&before, &after);
}

#[test]
fn a_shard_whose_node_is_another_process_in_the_middle_of_a_call_is_walked_again_from_its_start() {
    let run = |run_id: &str| {
        let mut topology = topology(8);
        let access = NodeAccess {
            user: "ps-g1".to_owned(),
            run_id: run_id.to_owned(),
        };
        let node = topology.placement(ShardId(5)).node;
        topology.access.insert(node, access);
        topology
    };
    another_owner_in_the_middle_of_a_call(&run("a"), &run("b"));
}

/// One step of a walk in which shard 5 has another owner before, while or after it is asked.
fn another_owner_in_the_middle_of_a_call(before: &Topology, after: &Topology) {
    let cursor = Position {
        shard: ShardId(5),
        cursor: 77,
    };
    let cursor = cursor.encode(before).unwrap().to_string();
    let walk = || Walk::new(cursor.as_bytes(), &[b"COUNT", b"1000"], before).unwrap();
    let asked = |walk: &mut Walk, topology: &Topology| {
        let mut frame = Vec::new();
        walk.write_frame(topology, &mut frame);
        let mut words = elements(&frame).unwrap();
        String::from_utf8(bulk(words.nth(1).unwrap()).unwrap().to_vec()).unwrap()
    };
    let reply = |cursor: &str| {
        let mut out = Vec::new();
        resp::write_array_header(&mut out, 2);
        resp::write_bulk(&mut out, cursor.as_bytes());
        resp::write_array_header(&mut out, 1);
        resp::write_bulk(&mut out, b"key");
        out
    };
    let mut moved_before = walk();
    assert_eq!(asked(&mut moved_before, after), "0");
    let mut moved_meanwhile = walk();
    assert_eq!(asked(&mut moved_meanwhile, before), "77");
    moved_meanwhile.part(Outcome::Reply(&reply("0")), after);
    assert_eq!(moved_meanwhile.step(), Step::Ask(ShardId(5)));
    assert_eq!(asked(&mut moved_meanwhile, after), "0");
    let mut moved_behind = walk();
    assert_eq!(asked(&mut moved_behind, before), "77");
    moved_behind.part(Outcome::Reply(&reply("99")), before);
    let mut out = Vec::new();
    moved_behind.finish(after, &mut out);
    let next = bulk(elements(&out).unwrap().next().unwrap()).unwrap().to_vec();
    let next: u64 = String::from_utf8(next).unwrap().parse().unwrap();
    let place = Position {
        shard: ShardId(5),
        cursor: 0,
    };
    assert_eq!(Position::decode(next, after), Some(place));
}

#[test]
fn a_cursor_is_good_at_a_proxy_that_numbers_its_nodes_in_another_way() {
    let one = topology(8);
    let mut other = one.clone();
    // It has seen a node leave that had the first place.
    other.nodes.insert(
        0,
        Node {
            name: "aged".to_owned(),
            address: "127.0.0.1:6999".parse().unwrap(),
        },
    );
    other.retired = [NodeIndex(0)].into();
    other
        .placements
        .iter_mut()
        .for_each(|placement| placement.node.0 += 1);
    for shard in (0..8).map(ShardId) {
        let place = Position { shard, cursor: 77 };
        let cursor = place.encode(&one).unwrap();
        assert_eq!(Position::decode(cursor, &other), Some(place));
        assert_eq!(place.encode(&other), Some(cursor));
    }
}

#[test]
fn the_first_shard_that_comes_back_to_the_first_node_in_the_middle_does_not_look_like_the_end() {
    let after = topology(8);
    let mut before = after.clone();
    before.placements[0].node = NodeIndex(1);
    assert_eq!(after.placements[0].node, NodeIndex(0));
    let mut walk = Walk::new(b"0", &[b"COUNT", b"1"], &before).unwrap();
    let mut frame = Vec::new();
    walk.write_frame(&before, &mut frame);
    walk.part(Outcome::Reply(b"*2\r\n$1\r\n7\r\n*1\r\n$1\r\nk\r\n"), &after);
    assert_eq!(walk.step(), Step::Done);
    let mut out = Vec::new();
    walk.finish(&after, &mut out);
    let next = bulk(elements(&out).unwrap().next().unwrap()).unwrap().to_vec();
    let next: u64 = String::from_utf8(next).unwrap().parse().unwrap();
    assert_ne!(next, 0);
    let start = Position {
        shard: ShardId(0),
        cursor: 0,
    };
    assert_eq!(Position::decode(next, &after), Some(start));
}

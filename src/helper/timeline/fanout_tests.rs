//! What `TIMELINE.FANOUT` asks of whom and when, and its tally.

use std::collections::BTreeMap;

use super::*;
use crate::command::testing::request;
use crate::helper::testing::topology;
use crate::helper::{Ask, Frames, Program};
use crate::merge::Outcome;
use crate::resp::{self, Protocol};
use crate::topology::Topology;

fn fanout(words: &[&str], topology: &Topology) -> Result<Fanout, String> {
    request(words, |args| Fanout::new(&args, Keyspace::new(topology, 0)))
}

fn call(keys: usize, rest: &[&str], topology: &Topology) -> Fanout {
    let keys: Vec<String> = (0..keys).map(|key| key.to_string()).collect();
    let number = keys.len().to_string();
    let mut words = vec!["TIMELINE.FANOUT", &number];
    words.extend(keys.iter().map(String::as_str));
    words.extend(rest);
    fanout(&words, topology).unwrap()
}

fn next(fanout: &mut Fanout) -> Option<(Ask, String)> {
    let mut frame = Vec::new();
    let ask = fanout.next(&mut frame)?;
    Some((ask, String::from_utf8(frame).unwrap()))
}

fn reply(fanout: &mut Fanout, protocol: Protocol) -> String {
    let mut out = Vec::new();
    fanout.finish(protocol, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn each_key_gets_what_an_add_sends() {
    let topology = topology(16, 0);
    let mut one = fanout(
        &[
            "TIMELINE.FANOUT",
            "1",
            "7",
            "MAXLEN",
            "800",
            "minscore",
            "1.5",
            "GT",
            "3",
            "m",
        ],
        &topology,
    )
    .unwrap();
    let (ask, frame) = next(&mut one).unwrap();
    assert_eq!(
        (ask.shard, ask.part, ask.frames),
        (topology.shard_of_key(b"7"), 0, Frames::First(3))
    );
    assert_eq!(
        frame,
        "*5\r\n$4\r\nZADD\r\n$1\r\n7\r\n$2\r\nGT\r\n$1\r\n3\r\n$1\r\nm\r\n\
         *4\r\n$15\r\nZREMRANGEBYRANK\r\n$1\r\n7\r\n$1\r\n0\r\n$4\r\n-801\r\n\
         *4\r\n$16\r\nZREMRANGEBYSCORE\r\n$1\r\n7\r\n$4\r\n-inf\r\n$4\r\n(1.5\r\n"
    );
    assert!(next(&mut one).is_none());
}

#[test]
fn at_most_two_chunks_are_unanswered_at_a_node() {
    let topology = topology(64, 0);
    let keyspace = Keyspace::new(&topology, 0);
    let mut all = call(1_000, &["1", "m"], &topology);
    let mut on_node = [0_usize; 2];
    (0..1_000)
        .for_each(|key: u32| on_node[keyspace.node_of(keyspace.shard_of(key.to_string().as_bytes()))] += 1);
    let mut unanswered: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut asked = 0;
    let mut order: BTreeMap<usize, Vec<u16>> = BTreeMap::new();
    loop {
        while let Some((ask, _)) = next(&mut all) {
            asked += 1;
            let node = keyspace.node_of(ask.shard);
            unanswered.entry(node).or_default().push(ask.part);
            order.entry(node).or_default().push(ask.shard.0);
            assert!(unanswered[&node].len() <= 256, "node {node}");
        }
        for (node, parts) in &unanswered {
            assert!(
                parts.len() == 256 || order[node].len() == on_node[*node],
                "node {node} waits for nothing"
            );
        }
        // The node that has more to answer answers once.
        let Some(parts) = unanswered.values_mut().max_by_key(|parts| parts.len()) else {
            break;
        };
        let Some(part) = parts.pop() else { break };
        all.absorb(part, Outcome::Reply(b":1\r\n"));
    }
    assert_eq!(asked, 1_000);
    for shards in order.values() {
        assert!(
            shards.is_sorted(),
            "shard by shard, so that few databases are selected"
        );
    }
    assert_eq!(
        reply(&mut all, Protocol::Resp3),
        "%4\r\n$5\r\nadded\r\n:1000\r\n$9\r\nunchanged\r\n:0\r\n$7\r\nskipped\r\n:0\r\n$6\r\nfailed\r\n*0\r\n"
    );
}

#[test]
fn a_failure_is_an_entry_of_the_reply() {
    let mut some = fanout(
        &[
            "TIMELINE.FANOUT",
            "5",
            "{t}0",
            "{t}2",
            "{t}4",
            "{t}6",
            "{t}8",
            "1",
            "m",
        ],
        &topology(16, 0),
    )
    .unwrap();
    let outcomes = [
        Outcome::Reply(b":1\r\n"),
        Outcome::Reply(b":0\r\n"),
        Outcome::Reply(b"-WRONGTYPE not this\r\n"),
        Outcome::NotRun("CLUSTERDOWN shard 6: away"),
        Outcome::Uncertain("UNCERTAIN shard 8: lost"),
    ];
    for outcome in outcomes {
        let (ask, _) = next(&mut some).unwrap();
        some.absorb(ask.part, outcome);
    }
    assert!(next(&mut some).is_none());
    assert_eq!(
        reply(&mut some, Protocol::Resp2),
        "*8\r\n$5\r\nadded\r\n:1\r\n$9\r\nunchanged\r\n:1\r\n$7\r\nskipped\r\n:0\r\n$6\r\nfailed\r\n*3\r\n\
         *2\r\n$4\r\n{t}4\r\n$18\r\nWRONGTYPE not this\r\n\
         *2\r\n$4\r\n{t}6\r\n$25\r\nCLUSTERDOWN shard 6: away\r\n\
         *2\r\n$4\r\n{t}8\r\n$23\r\nUNCERTAIN shard 8: lost\r\n"
    );
    assert!(some.held_bytes() > 0);
}

#[test]
fn existing_timelines_are_written_to_by_a_script_for_each_shard() {
    // All of a tag's keys are in one shard, the others apart.
    let topology = topology(4, 0);
    let keys: Vec<String> = (0..250).map(|key| format!("{{tag}}{key}")).collect();
    let mut words = vec!["TIMELINE.FANOUT", "250"];
    words.extend(keys.iter().map(String::as_str));
    words.extend(["IFEXISTS", "NX", "MAXLEN", "0", "1", "m"]);
    let mut all = fanout(&words, &topology).unwrap();
    let mut keys = 0;
    let mut sizes = BTreeMap::new();
    while let Some((ask, frame)) = next(&mut all) {
        let words: Vec<&str> = frame.split("\r\n").skip(2).step_by(2).collect();
        let number: usize = frame
            .split_once("return out\r\n")
            .and_then(|(_, rest)| rest.split("\r\n").nth(1))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(words[0], "EVAL");
        assert!(
            frame.ends_with("$2\r\n-1\r\n$0\r\n\r\n$2\r\nNX\r\n$1\r\n1\r\n$1\r\nm\r\n"),
            "{frame}"
        );
        assert_eq!(ask.frames, Frames::One);
        *sizes.entry(number).or_insert(0) += 1;
        keys += number;
        let mut answer = Vec::new();
        resp::write_array_header(&mut answer, number);
        for at in 0..number {
            match at {
                0 => resp::write_error(&mut answer, "WRONGTYPE x"),
                1 => resp::write_int(&mut answer, 1),
                2 => resp::write_int(&mut answer, 0),
                _ => resp::write_int(&mut answer, -1),
            }
        }
        all.absorb(ask.part, Outcome::Reply(&answer));
    }
    assert_eq!((keys, sizes), (250, BTreeMap::from([(100, 2), (50, 1)])));
    let reply = reply(&mut all, Protocol::Resp3);
    assert!(
        reply.starts_with("%4\r\n$5\r\nadded\r\n:3\r\n$9\r\nunchanged\r\n:3\r\n$7\r\nskipped\r\n:241\r\n$6\r\nfailed\r\n*3\r\n"),
        "{reply}"
    );
}

#[test]
fn a_script_that_fails_fails_for_all_its_keys() {
    for outcome in [
        Outcome::Reply(b"-BUSY x\r\n"),
        Outcome::Uncertain("UNCERTAIN x"),
        Outcome::Reply(b"*0\r\n"),
    ] {
        let mut some = call(1, &["IFEXISTS", "1", "m"], &topology(4, 0));
        let (ask, _) = next(&mut some).unwrap();
        some.absorb(ask.part, outcome);
        assert!(
            reply(&mut some, Protocol::Resp2).contains("failed\r\n*1\r\n*2\r\n$1\r\n0\r\n"),
            "{outcome:?}"
        );
    }
}

#[test]
fn wrong_arguments_send_nothing() {
    let syntax = "ERR syntax error";
    for (words, error) in [
        ("0 1 m", "ERR numkeys must be between 1 and 10000"),
        ("10001 1 m", "ERR numkeys must be between 1 and 10000"),
        ("-1 1 m", "ERR numkeys must be between 1 and 10000"),
        ("x 1 m", "ERR value is not an integer or out of range"),
        ("01 1 m", "ERR value is not an integer or out of range"),
        ("3 1 2", syntax),
        ("1 1 2", syntax),
        ("2 1 2 3", syntax),
        ("1 1 x m", "ERR value is not a valid float"),
        ("1 1 nan m", "ERR value is not a valid float"),
        ("1 1 2 m 3 m", syntax),
        ("1 1 MAXLEN 1 m", syntax),
        (
            "1 1 MAXLEN -1 1 m",
            "ERR MAXLEN must be a number of items, 0 or more",
        ),
        (
            "1 1 MAXLEN 9223372036854775807 1 m",
            "ERR MAXLEN must be a number of items, 0 or more",
        ),
        ("1 1 MAXLEN 1 MAXLEN 1 1 m", syntax),
        ("1 1 MINSCORE (1 1 m", "ERR MINSCORE is not a valid float"),
        (
            "1 1 NX GT 1 m",
            "ERR NX and GT at the same time are not compatible",
        ),
        (
            "1 1 NX NX 1 m",
            "ERR NX and GT at the same time are not compatible",
        ),
        ("1 1 IFEXISTS IFEXISTS 1 m", syntax),
        ("1 1 WITHSCORES 1 m", syntax),
    ] {
        let words: Vec<&str> = "TIMELINE.FANOUT".split(' ').chain(words.split(' ')).collect();
        assert_eq!(
            fanout(&words, &topology(4, 0)).err().as_deref(),
            Some(error),
            "{words:?}"
        );
    }
}

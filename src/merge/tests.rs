//! How parts end, and what the whole is then answered: the table of failure words, tried out in full.

use super::*;
use crate::command;
use crate::resp::{Args, RequestLimits, RequestScanner};
use crate::route::{Plan, Scratch, route};
use crate::topology::{Node, Topology};

const OK: &[u8] = b"+OK\r\n";
const NODE: &[u8] = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n";
const NOT_RUN: &str = "CLUSTERDOWN preshard: shard 3: its node is down; it has not run";
const UNCERTAIN: &str = "UNCERTAIN preshard: shard 4: sent, no answer; it may have run";

/// How one part may end: well, with a node's error, never sent, sent without an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Good,
    Node,
    NotRun,
    Uncertain,
}

const ENDS: [End; 4] = [End::Good, End::Node, End::NotRun, End::Uncertain];

fn outcome(end: End, good: &'static [u8]) -> Outcome<'static> {
    match end {
        End::Good => Outcome::Reply(good),
        End::Node => Outcome::Reply(NODE),
        End::NotRun => Outcome::NotRun(NOT_RUN),
        End::Uncertain => Outcome::Uncertain(UNCERTAIN),
    }
}

fn merged(rule: Rule, write: bool, outcomes: &[Outcome<'_>]) -> String {
    let mut merge = Merge::new(rule, outcomes.len(), write);
    for (part, outcome) in outcomes.iter().enumerate() {
        merge.part(part, *outcome);
    }
    let mut out = Vec::new();
    merge.finish(Protocol::Resp2, &mut out);
    String::from_utf8(out).unwrap()
}

/// Every mix of up to three parts. The word of the answer follows from what may have run, and from nothing else.
#[test]
fn the_word_of_an_error_says_what_may_have_run() {
    for write in [false, true] {
        for (a, b, c) in ENDS
            .into_iter()
            .flat_map(|a| ENDS.into_iter().flat_map(move |b| ENDS.map(|c| (a, b, c))))
        {
            let ends = [a, b, c];
            let (rule, good): (_, &[u8]) = if write {
                (Rule::AllOk, OK)
            } else {
                (Rule::Sum, b":1\r\n")
            };
            let text = merged(rule, write, &ends.map(|end| outcome(end, good)));
            let word = text.split(' ').next().unwrap();
            let has = |end| ends.contains(&end);
            let expected = if ends == [End::Good; 3] {
                if write { "+OK\r\n" } else { ":3\r\n" }
            } else if has(End::Uncertain) || (write && has(End::Good)) {
                "-UNCERTAIN"
            } else if has(End::Node) {
                "-OOM"
            } else {
                "-CLUSTERDOWN"
            };
            assert_eq!(word, expected, "{ends:?} write={write}: {text}");
            assert_eq!(text.matches("\r\n").count(), 1, "one line: {text:?}");
        }
    }
}

#[test]
fn a_write_that_ran_in_part_says_how_many_shards_have_done_it() {
    let text = merged(
        Rule::Sum,
        true,
        &[
            Outcome::Reply(b":1\r\n"),
            Outcome::NotRun(NOT_RUN),
            Outcome::Reply(b":2\r\n"),
        ],
    );
    assert_eq!(
        text,
        format!("-UNCERTAIN preshard: 2 of 3 shards done; {NOT_RUN}\r\n")
    );
    let text = merged(Rule::AllOk, true, &[Outcome::Reply(OK), Outcome::Reply(NODE)]);
    assert!(
        text.starts_with("-UNCERTAIN preshard: 1 of 2 shards done; OOM "),
        "{text}"
    );
}

#[test]
fn a_reply_of_another_shape_is_an_error_and_never_a_value() {
    let two_in_the_first_part = Rc::new(split_of_three());
    let places = || Rule::Places(Rc::clone(&two_in_the_first_part));
    for (rule, reply) in [
        (Rule::AllOk, &b"+QUEUED\r\n"[..]),
        (Rule::AllOk, b":1\r\n"),
        (Rule::Sum, b"+OK\r\n"),
        (Rule::Sum, b":1x\r\n"),
        (Rule::Sum, b":99999999999999999999\r\n"),
        (places(), b"*1\r\n$1\r\na\r\n"),
        (places(), b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n"),
        (places(), b"*-1\r\n"),
        (places(), b"$1\r\na\r\n"),
        (Rule::Concat { max: 9 }, b":1\r\n"),
        (Rule::AllOnes, b"+OK\r\n"),
    ] {
        let shown = format!("{rule:?} {}", reply.escape_ascii());
        let text = merged(rule, false, &[Outcome::Reply(reply)]);
        assert!(
            text.starts_with("-ERR preshard: a node's reply"),
            "{shown}: {text}"
        );
    }
    let over = merged(
        Rule::Sum,
        false,
        &[
            Outcome::Reply(b":9223372036854775807\r\n"),
            Outcome::Reply(b":1\r\n"),
        ],
    );
    assert!(over.starts_with("-ERR"), "a sum that overflows: {over}");
}

#[test]
fn errors_of_the_newer_protocol_are_errors_too() {
    let text = merged(
        Rule::AllOk,
        false,
        &[Outcome::Reply(OK), Outcome::Reply(b"!11\r\nOOM no room\r\n")],
    );
    assert_eq!(text, "!11\r\nOOM no room\r\n");
    let text = merged(
        Rule::AllOk,
        true,
        &[Outcome::Reply(OK), Outcome::Reply(b"!11\r\nOOM no room\r\n")],
    );
    assert!(text.starts_with("-UNCERTAIN "), "{text:?}");
    assert_eq!(text.matches("\r\n").count(), 1, "one line: {text:?}");
}

#[test]
fn keys_are_joined_up_to_the_limit() {
    let join = |max| {
        merged(
            Rule::Concat { max },
            false,
            &[
                Outcome::Reply(b"*1\r\n$1\r\na\r\n"),
                Outcome::Reply(b"*0\r\n"),
                Outcome::Reply(b"*2\r\n$1\r\nb\r\n$1\r\nc\r\n"),
            ],
        )
    };
    assert_eq!(join(3), "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    assert_eq!(
        join(2),
        "-ERR more than 2 keys match (limit keys_max); use SCAN\r\n"
    );
}

#[test]
fn a_script_exists_where_every_node_has_it() {
    let all = [
        Outcome::Reply(b"*2\r\n:1\r\n:1\r\n"),
        Outcome::Reply(b"*2\r\n:0\r\n:1\r\n"),
    ];
    assert_eq!(merged(Rule::AllOnes, false, &all), "*2\r\n:0\r\n:1\r\n");
    let first = [Outcome::Reply(b"$3\r\nabc\r\n"), Outcome::Reply(b"$3\r\nabc\r\n")];
    assert_eq!(merged(Rule::First, true, &first), "$3\r\nabc\r\n");
}

/// `MGET` of three keys, of which the first two lie in the lower of two shards.
fn split_of_three() -> Splitting {
    let node = Node {
        name: "n".to_owned(),
        address: "127.0.0.1:1".parse().unwrap(),
    };
    let topology = Topology::seed("test".to_owned(), 2, 0, vec![node]).unwrap();
    let tag_in = |shard: u16| {
        let mut tags = (0..).map(|number: u32| format!("{{{number}}}"));
        tags.find(|tag| topology.shard_of_key(tag.as_bytes()).0 == shard)
            .unwrap()
    };
    let (low, high) = (tag_in(0), tag_in(1));
    let mut frame = Vec::new();
    let words = ["MGET".to_owned(), format!("{low}a"), format!("{low}b"), high];
    resp::write_request(&mut frame, &words.each_ref().map(|word| word.as_bytes()));
    let mut ranges = Vec::new();
    RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::default());
    let args = Args::new(&frame, &ranges);
    let spec = command::resolve(&args).unwrap_or_else(|refusal| panic!("{}", refusal.line()));
    match route(spec, &args, &topology, 0, &mut Scratch::default()).unwrap() {
        Plan::Split(_, splitting) => splitting,
        other => panic!("{other:?}"),
    }
}

//! What `RANGE` and `MERGE` ask, what they make of the answers, and the bytes of their replies.

use super::*;
use crate::command::testing::request;
use crate::helper::testing::topology;
use crate::helper::{Frames, Program};
use crate::merge::Outcome;
use crate::resp::{self, Protocol};

const BOTH: [Protocol; 2] = [Protocol::Resp2, Protocol::Resp3];

/// A page of the timelines `keys` with these options.
fn pages(keys: &[&str], options: &str) -> Result<Pages, String> {
    let mut words = vec!["TIMELINE.RANGE", "k"];
    words.extend(options.split_whitespace());
    let query = request(&words, |args| Options::query(&args, 2))?;
    let keys = keys.iter().map(|key| key.as_bytes());
    Ok(Pages::new(query, keys, Keyspace::new(&topology(16, 0), 0)))
}

/// The arguments of the next question, without the command.
fn question(pages: &mut Pages) -> Option<(u32, String)> {
    let mut frame = Vec::new();
    let ask = pages.next(&mut frame)?;
    let frame = String::from_utf8(frame).unwrap();
    let words: Vec<&str> = frame.split("\r\n").skip(2).step_by(2).collect();
    assert_eq!(
        (words[0], words[4], words[5]),
        ("ZREVRANGEBYSCORE", "WITHSCORES", "LIMIT")
    );
    assert_eq!(
        (ask.shard, ask.frames),
        (topology(16, 0).shard_of_key(words[1].as_bytes()), Frames::One)
    );
    Some((
        ask.part,
        format!("{} {} {} {} {}", words[1], words[2], words[3], words[6], words[7]),
    ))
}

/// A node's answer: rows as `score:member`.
fn answer(rows: &str, protocol: Protocol) -> Vec<u8> {
    let rows: Vec<(&str, &str)> = rows
        .split_whitespace()
        .filter_map(|row| row.split_once(':'))
        .collect();
    let mut out = Vec::new();
    let flat = if protocol == Protocol::Resp2 { 2 } else { 1 };
    resp::write_array_header(&mut out, rows.len() * flat);
    for (score, member) in rows {
        if protocol == Protocol::Resp3 {
            resp::write_array_header(&mut out, 2);
        }
        resp::write_bulk(&mut out, member.as_bytes());
        match protocol {
            Protocol::Resp2 => resp::write_bulk(&mut out, score.as_bytes()),
            Protocol::Resp3 => resp::write_double(&mut out, score.as_bytes()),
        }
    }
    out
}

fn reply(pages: &mut Pages, protocol: Protocol) -> String {
    let mut out = Vec::new();
    pages.finish(protocol, &mut out);
    String::from_utf8(out).unwrap()
}

/// Asks one timeline, whose answers are given, and returns the questions and the reply.
fn conversation(options: &str, answers: &[&str], protocol: Protocol) -> (Vec<String>, String) {
    let mut pages = pages(&["k"], options).unwrap();
    let mut questions = Vec::new();
    let mut answers = answers.iter();
    while let Some((part, question)) = question(&mut pages) {
        questions.push(question);
        let rows = answers.next().expect("a question more than there are answers");
        pages.absorb(part, Outcome::Reply(&answer(rows, protocol)));
    }
    assert!(answers.next().is_none(), "{questions:?}");
    (questions, reply(&mut pages, protocol))
}

#[test]
fn the_replies_bytes() {
    let rows = "3.5:c 3.5:b inf:a"; // A node would order them otherwise; nobody here looks.
    let end = "3:c";
    for (options, rows, resp2, resp3) in [
        (
            "COUNT 3",
            rows,
            "*2\r\n$5\r\ninf:a\r\n*3\r\n$1\r\nc\r\n$1\r\nb\r\n$1\r\na\r\n",
            "",
        ),
        (
            "COUNT 3 WITHSCORES",
            rows,
            "*2\r\n$5\r\ninf:a\r\n*6\r\n$1\r\nc\r\n$3\r\n3.5\r\n$1\r\nb\r\n$3\r\n3.5\r\n$1\r\na\r\n$3\r\ninf\r\n",
            "*2\r\n$5\r\ninf:a\r\n*3\r\n*2\r\n$1\r\nc\r\n,3.5\r\n*2\r\n$1\r\nb\r\n,3.5\r\n*2\r\n$1\r\na\r\n,inf\r\n",
        ),
        (
            "",
            end,
            "*2\r\n$-1\r\n*1\r\n$1\r\nc\r\n",
            "*2\r\n_\r\n*1\r\n$1\r\nc\r\n",
        ),
        (
            "WITHSCORES",
            end,
            "*2\r\n$-1\r\n*2\r\n$1\r\nc\r\n$1\r\n3\r\n",
            "*2\r\n_\r\n*1\r\n*2\r\n$1\r\nc\r\n,3\r\n",
        ),
        ("", "", "*2\r\n$-1\r\n*0\r\n", "*2\r\n_\r\n*0\r\n"),
    ] {
        assert_eq!(
            conversation(options, &[rows], Protocol::Resp2).1,
            resp2,
            "{options}"
        );
        let resp3 = if resp3.is_empty() { resp2 } else { resp3 };
        assert_eq!(
            conversation(options, &[rows], Protocol::Resp3).1,
            resp3,
            "{options}"
        );
    }
}

#[test]
fn questions_say_no_more_than_is_needed() {
    for (options, expected) in [
        ("", "k +inf -inf 0 20"),
        ("COUNT 5", "k +inf -inf 0 5"),
        ("COUNT 5 BEFORE 7", "k (7 -inf 0 5"),
        ("count 5 before 7:m", "k 7 -inf 0 9"),
        ("BEFORE -inf:", "k -inf -inf 0 24"),
        ("AFTER 3 BEFORE 7:m:n", "k 7 (3 0 24"),
        ("AFTER 3:a", "k +inf 3 0 20"),
    ] {
        let mut pages = pages(&["k"], options).unwrap();
        assert_eq!(question(&mut pages), Some((0, expected.to_owned())), "{options}");
        assert_eq!(question(&mut pages), None);
    }
}

#[test]
fn the_cursor_is_a_place_between_items_of_one_score() {
    for protocol in BOTH {
        let (_, reply) = conversation("BEFORE 7:m COUNT 2", &["7:z 7:m 7:lz 7:la 6:x 6:w"], protocol);
        assert!(
            reply.starts_with("*2\r\n$4\r\n7:la\r\n*2\r\n$2\r\nlz\r\n$2\r\nla\r\n"),
            "{reply}"
        );
        let (_, reply) = conversation("BEFORE 7:m AFTER 6:w COUNT 3", &["7:n 6:z 6:x 6:w"], protocol);
        assert!(reply.ends_with("*2\r\n$1\r\nz\r\n$1\r\nx\r\n"), "{reply}");
        assert!(
            !reply.contains("6:"),
            "the page ends at the item that bounds it: {reply}"
        );
        let (_, reply) = conversation("BEFORE 7:a AFTER 7:z", &["7:n"], protocol);
        assert!(reply.ends_with("*0\r\n"), "nothing lies between: {reply}");
        let (_, reply) = conversation("BEFORE 7.0:m", &["7:m 7:l"], protocol);
        assert!(
            reply.ends_with("*1\r\n$1\r\nl\r\n"),
            "scores are numbers: {reply}"
        );
    }
}

#[test]
fn ties_that_eat_the_page_are_stepped_over() {
    let (questions, reply) = conversation(
        "BEFORE 7:c COUNT 1",
        &["7:z 7:y 7:x 7:w 7:v", "7:v 7:d 7:c 7:b 6:a"],
        Protocol::Resp2,
    );
    assert_eq!(questions, ["k 7 -inf 0 5", "k 7 -inf 4 20"]);
    assert_eq!(reply, "*2\r\n$3\r\n7:b\r\n*1\r\n$1\r\nb\r\n");
    // Some fit, not all: one more question, for a page.
    let (questions, reply) = conversation(
        "BEFORE 7:v COUNT 3",
        &["7:z 7:y 7:x 7:w 7:v 7:b 6:a", "7:v 7:b 6:a 5:e"],
        Protocol::Resp2,
    );
    assert_eq!(questions, ["k 7 -inf 0 7", "k 7 -inf 4 7"]);
    assert!(reply.starts_with("*2\r\n$3\r\n5:e\r\n*3\r\n"), "{reply}");
}

#[test]
fn rows_that_go_while_ties_are_stepped_over_hide_none() {
    // The row that the second question was to begin with has gone, and others before it: 7:b might be missing.
    let (questions, reply) = conversation(
        "BEFORE 7:c COUNT 1",
        &["7:z 7:y 7:x 7:w 7:v", "7:a 6:a", "7:w 7:c 7:b 7:a 6:a"],
        Protocol::Resp2,
    );
    assert_eq!(questions, ["k 7 -inf 0 5", "k 7 -inf 4 20", "k 7 -inf 2 22"]);
    assert!(reply.ends_with("*1\r\n$1\r\nb\r\n"), "{reply}");
    // All are gone.
    let (questions, reply) = conversation(
        "BEFORE 7:c COUNT 1",
        &["7:z 7:y 7:x 7:w 7:v", "", "", "", ""],
        Protocol::Resp2,
    );
    assert_eq!(questions.last().map(String::as_str), Some("k 7 -inf 0 24"));
    assert_eq!(reply, "*2\r\n$-1\r\n*0\r\n");
}

#[test]
fn many_timelines_are_asked_for_their_share() {
    let keys: Vec<String> = (0..10).map(|key| format!("k{key}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut merged = pages(&keys, "COUNT 20").unwrap();
    for at in 0..10 {
        let (part, question) = question(&mut merged).unwrap();
        assert_eq!((part, question), (at, format!("k{at} +inf -inf 0 8")));
    }
    assert_eq!(
        question(&mut merged),
        None,
        "all at once, and not for the whole page"
    );
}

#[test]
fn a_drained_timeline_is_asked_again_behind_its_last_row() {
    let mut merged = pages(&["a", "b"], "COUNT 10").unwrap();
    let first: Vec<_> = std::iter::from_fn(|| question(&mut merged)).collect();
    assert_eq!(
        first,
        [
            (0, "a +inf -inf 0 10".to_owned()),
            (1, "b +inf -inf 0 10".to_owned())
        ]
    );
    let long = "29:a 28:a2 27:a 26:a 25:a 24:a 23:a 22:a 21:a 9:a";
    merged.absorb(1, Outcome::Reply(&answer("30:b 1:b2", Protocol::Resp2)));
    assert_eq!(question(&mut merged), None);
    merged.absorb(0, Outcome::Reply(&answer(long, Protocol::Resp2)));
    assert_eq!(question(&mut merged), None, "the page is full");
    assert!(
        reply(&mut merged, Protocol::Resp2).starts_with("*2\r\n$4\r\n21:a\r\n*10\r\n$1\r\nb\r\n"),
        "{}",
        reply(&mut merged, Protocol::Resp2)
    );

    let keys = ["a", "b", "c", "d", "e", "f"];
    let mut merged = pages(&keys, "COUNT 20").unwrap();
    while question(&mut merged).is_some() {}
    for part in 1..6 {
        merged.absorb(part, Outcome::Reply(&answer("1:x", Protocol::Resp2)));
    }
    merged.absorb(
        0,
        Outcome::Reply(&answer(
            "29:a 28:a 27:a 26:a 25:a 24:a 23:a 22:a",
            Protocol::Resp2,
        )),
    );
    assert_eq!(question(&mut merged), Some((0, "a 22 -inf 0 16".to_owned())));
    merged.absorb(0, Outcome::Reply(&answer("22:a 0:a", Protocol::Resp2)));
    assert_eq!(question(&mut merged), None);
    // The item that all others share is told once.
    assert!(
        reply(&mut merged, Protocol::Resp2).starts_with("*2\r\n$-1\r\n*10\r\n"),
        "{}",
        reply(&mut merged, Protocol::Resp2)
    );
}

#[test]
fn timelines_that_end_together_are_asked_again_together() {
    let mut merged = pages(&["a", "b", "c", "d"], "COUNT 20").unwrap();
    let rows = "29:x 28:x 27:x 26:x 25:x 24:x 23:x 22:x 21:x 20:x 19:x";
    let first: Vec<_> = std::iter::from_fn(|| question(&mut merged)).collect();
    assert_eq!(first.len(), 4);
    for (part, _) in first {
        merged.absorb(part, Outcome::Reply(&answer(rows, Protocol::Resp2)));
    }
    let mut again: Vec<_> = std::iter::from_fn(|| question(&mut merged)).collect();
    again.sort();
    let expected = ["a", "b", "c", "d"].map(|key| format!("{key} 19 -inf 0 13"));
    assert_eq!(
        again.iter().map(|(_, question)| question).collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
    for (part, _) in again {
        merged.absorb(part, Outcome::Reply(&answer("19:x 18:x", Protocol::Resp2)));
    }
    assert_eq!(question(&mut merged), None);
    assert!(reply(&mut merged, Protocol::Resp2).starts_with("*2\r\n$-1\r\n*12\r\n"));
}

#[test]
fn a_timeline_that_cannot_be_read_fails_the_whole() {
    for (outcome, expected) in [
        (
            Outcome::Reply(b"-WRONGTYPE not this\r\n"),
            "-WRONGTYPE not this\r\n",
        ),
        (
            Outcome::NotRun("CLUSTERDOWN shard 7: away"),
            "-CLUSTERDOWN shard 7: away\r\n",
        ),
        (
            Outcome::Uncertain("UNCERTAIN shard 7: lost"),
            "-UNCERTAIN shard 7: lost\r\n",
        ),
        (
            Outcome::Reply(b"+OK\r\n"),
            "-ERR preshard: a node's reply has a shape that its command never has\r\n",
        ),
        (
            Outcome::Reply(b"*2\r\n$1\r\na\r\n$1\r\nx\r\n"),
            "-ERR preshard: a node's reply has a shape that its command never has\r\n",
        ),
    ] {
        let mut merged = pages(&["a", "b", "c"], "").unwrap();
        question(&mut merged).unwrap();
        question(&mut merged).unwrap();
        merged.absorb(0, outcome);
        assert_eq!(question(&mut merged), None, "no more is asked");
        merged.absorb(1, Outcome::Reply(&answer("1:x", Protocol::Resp2)));
        assert_eq!(reply(&mut merged, Protocol::Resp2), expected);
    }
}

#[test]
fn wrong_options_are_refused() {
    let syntax = "ERR syntax error";
    let cursor = "ERR invalid cursor: it is score:member, or a score";
    let count = "ERR COUNT must be between 1 and 10000";
    for (options, error) in [
        ("COUNT", syntax),
        ("COUNT 0", count),
        ("COUNT 10001", count),
        ("COUNT x", count),
        ("COUNT 1 COUNT 1", syntax),
        ("BEFORE", syntax),
        ("BEFORE x", cursor),
        ("BEFORE :m", cursor),
        ("BEFORE nan", cursor),
        ("BEFORE (1", cursor),
        ("AFTER x:1", cursor),
        ("BEFORE 1 BEFORE 1", syntax),
        ("WITHSCORES WITHSCORES", syntax),
        ("LIMIT 1", syntax),
        ("1", syntax),
    ] {
        let refused = pages(&["k"], options).err();
        assert_eq!(refused.as_deref(), Some(error), "{options}");
    }
}

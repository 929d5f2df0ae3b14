//! Pages over model timelines that change while they are read.
//!
//! ```text
//!  timelines that change between any two questions ─▶ page after page, each behind the last one's cursor
//!     every item that was there all the time is told exactly once, in order; nothing is told twice
//! ```

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::command::testing::request;
use crate::helper::Program;
use crate::helper::testing::{Said, run, topology, worked};
use crate::merge::Outcome;
use crate::resp::{self, Protocol};

/// A sorted set as a node has it: member to score.
type Timeline = BTreeMap<String, i32>;

/// Newest first.
fn in_order(timeline: &Timeline) -> Vec<(i32, String)> {
    let mut rows: Vec<(i32, String)> = timeline
        .iter()
        .map(|(member, &score)| (score, member.clone()))
        .collect();
    rows.sort_unstable_by(|one, other| other.cmp(one));
    rows
}

/// Answers `ZREVRANGEBYSCORE`.
fn serve(timeline: &Timeline, words: &[&str], protocol: Protocol) -> Vec<u8> {
    let bound = |text: &str| -> (bool, f64) {
        let open = text.starts_with('(');
        (open, text.trim_start_matches('(').parse().unwrap())
    };
    let (max, min) = (bound(words[2]), bound(words[3]));
    let (offset, limit): (usize, usize) = (words[6].parse().unwrap(), words[7].parse().unwrap());
    let within = |score: i32| {
        let score = f64::from(score);
        let below = if max.0 { score < max.1 } else { score <= max.1 };
        below && if min.0 { score > min.1 } else { score >= min.1 }
    };
    let rows = in_order(timeline)
        .into_iter()
        .filter(|row| within(row.0))
        .skip(offset)
        .take(limit);
    let rows: Vec<(i32, String)> = rows.collect();
    let mut out = Vec::new();
    let flat = if protocol == Protocol::Resp2 { 2 } else { 1 };
    resp::write_array_header(&mut out, rows.len() * flat);
    for (score, member) in rows {
        if protocol == Protocol::Resp3 {
            resp::write_array_header(&mut out, 2);
        }
        resp::write_bulk(&mut out, member.as_bytes());
        match protocol {
            Protocol::Resp2 => resp::write_bulk(&mut out, score.to_string().as_bytes()),
            Protocol::Resp3 => resp::write_double(&mut out, score.to_string().as_bytes()),
        }
    }
    out
}

/// One page: the cursor of the next one, and the items. `change` is called before each answer.
fn page(
    timelines: &mut [Timeline],
    options: &[String],
    protocol: Protocol,
    mut change: impl FnMut(&mut [Timeline]),
) -> (Option<String>, Vec<String>) {
    let mut words = vec!["TIMELINE.RANGE".to_owned(), "k".to_owned()];
    words.extend_from_slice(options);
    let query = request(&words, |args| Options::query(&args, 2)).unwrap();
    let keys: Vec<String> = (0..timelines.len()).map(|at| at.to_string()).collect();
    let topology = topology(4, 0);
    let keyspace = Keyspace::new(&topology, 0);
    let mut pages = Pages::new(query, keys.iter().map(|key| key.as_bytes()), keyspace);
    let mut questions = 0;
    let mut frame = Vec::new();
    while let Some(ask) = pages.next(&mut frame) {
        questions += 1;
        assert!(questions < 1_000);
        let text = String::from_utf8(std::mem::take(&mut frame)).unwrap();
        let words: Vec<&str> = text.split("\r\n").skip(2).step_by(2).collect();
        change(timelines);
        let number: usize = words[1].parse().unwrap();
        let answer = serve(&timelines[number], &words, protocol);
        pages.absorb(ask.part, Outcome::Reply(&answer));
    }
    let mut out = Vec::new();
    pages.finish(protocol, &mut out);
    let mut parts = resp::elements(&out).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&out)));
    let text = |raw: &[u8]| resp::bulk(raw).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let next = text(parts.next().unwrap()).filter(|next| !next.is_empty());
    let items = resp::elements(parts.next().unwrap()).unwrap();
    (next, items.map(|item| text(item).unwrap()).collect())
}

fn timeline(scores: i32, size: usize) -> impl Strategy<Value = Timeline> {
    vec((0..scores, "[a-d]{1,3}"), 0..size)
        .prop_map(|rows| rows.into_iter().map(|(score, member)| (member, score)).collect())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Resp2), Just(Protocol::Resp3)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Items come and go between any two questions, in ties too, the cursor's own item among them.
    #[test]
    fn nothing_is_missed_and_nothing_comes_twice(
        stable in timeline(6, 60),
        ties in 0..200_usize,
        changes in vec((0..6_i32, "[m-p]{1,2}", any::<bool>()), 0..60),
        count in 1..20_usize,
        protocol in protocol(),
    ) {
        let mut all = stable.clone();
        all.extend((0..ties).map(|tie| (format!("t{tie:03}"), 3)));
        let expected: Vec<String> = in_order(&all).into_iter().map(|row| row.1).collect();
        let mut timelines = [all.clone()];
        let mut changes = changes.into_iter().cycle();
        let mut change = |timelines: &mut [Timeline]| {
            if let Some((score, member, comes)) = changes.next() {
                // Never one that is expected; an item's score does not change while it is there.
                if comes {
                    timelines[0].entry(member).or_insert(score);
                } else {
                    timelines[0].remove(&member);
                }
            }
        };
        let mut told: Vec<String> = Vec::new();
        let mut options = vec!["COUNT".to_owned(), count.to_string()];
        loop {
            let (next, items) = page(&mut timelines, &options, protocol, &mut change);
            prop_assert_eq!(next.is_some(), items.len() == count);
            told.extend(items);
            let Some(next) = next else { break };
            options.truncate(2);
            options.extend(["BEFORE".to_owned(), next]);
        }
        let stable_told: Vec<String> = told.iter().filter(|item| all.contains_key(*item)).cloned().collect();
        prop_assert_eq!(stable_told, expected);
    }

    /// Many timelines are one: their union, in order, an item once.
    #[test]
    fn merged_timelines_are_their_sorted_union(
        timelines in vec(timeline(1, 80), 1..12),
        seed in any::<u32>(),
        count in 1..40_usize,
        before in 0..30_i32,
        after in 0..10_i32,
        protocol in protocol(),
    ) {
        // A member has the same score wherever it is.
        let score = |member: &str| {
            let sum = member.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
            i32::try_from(sum % 30).unwrap()
        };
        let mut timelines: Vec<Timeline> = timelines
            .into_iter()
            .map(|timeline| timeline.into_keys().map(|member| (member.clone(), score(&member))).collect())
            .collect();
        let union: BTreeSet<(i32, String)> = timelines.iter().flat_map(in_order).collect();
        let expected: Vec<String> = union
            .into_iter()
            .rev()
            .filter(|row| row.0 < before && row.0 > after)
            .map(|row| row.1)
            .collect();
        let bounds = ["COUNT", &count.to_string(), "AFTER", &after.to_string(), "BEFORE"].map(str::to_owned);
        let mut cursor = before.to_string();
        let mut told = Vec::new();
        loop {
            let options = [&bounds[..], &[cursor]].concat();
            let (next, items) = page(&mut timelines, &options, protocol, |_| ());
            told.extend(items);
            match next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        prop_assert_eq!(told, expected);
    }
}

/// Words of requests, some of which mean something.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "k",
        "1",
        "2",
        "3",
        "-1",
        "99999999999999999999",
        "inf",
        "nan",
        "1:m",
        ":",
        "MAXLEN",
        "MINSCORE",
        "NX",
        "GT",
        "IFEXISTS",
        "BEFORE",
        "AFTER",
        "COUNT",
        "WITHSCORES",
    ];
    prop_oneof![
        4 => proptest::sample::select(known.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..6),
    ]
}

/// Pieces of replies, some of which belong together.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "*2\r\n",
        "*1\r\n",
        "*0\r\n",
        "*-1\r\n",
        "$1\r\nm\r\n",
        "$1\r\n7\r\n",
        ",7\r\n",
        ":1\r\n",
        ":0\r\n",
        ":-1\r\n",
        "-ERR x\r\n",
        "$-1\r\n",
        "_\r\n",
        "*999999999999\r\n",
        "$999999999999\r\n",
        "$99999999999999999999\r\n",
    ];
    let piece = prop_oneof![
        8 => proptest::sample::select(known.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Whatever clients send and nodes answer: every call ends, with one reply.
    #[test]
    fn nothing_from_the_network_breaks_a_call(
        name in proptest::sample::select(vec!["ADD", "TRIM", "RANGE", "MERGE", "FANOUT"]),
        arguments in vec(word(), 1..12),
        replies in vec(reply(), 1..8),
        protocol in protocol(),
    ) {
        let name = format!("TIMELINE.{name}");
        let mut words: Vec<&[u8]> = vec![name.as_bytes()];
        words.extend(arguments.iter().map(Vec::as_slice));
        let mut replies = replies.iter().cycle();
        if let Ok((Work::Program(program), _)) = worked(&words, &topology(8, 1), 0) {
            let out = run(program, protocol, |_, _| Said::Reply(replies.next().unwrap().clone()));
            let mut scanner = resp::ReplyScanner::default();
            let end = scanner.feed(out.as_bytes());
            // Only what a node's own error line says is passed on unread.
            prop_assert!(matches!(end, Ok(Some(end)) if end == out.len()) || out.starts_with('-'), "{out:?}");
        }
    }
}

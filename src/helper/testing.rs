//! What the tests of this room share: a topology, requests out of words, programs that are run against a function.

use super::counter::Registered;
use super::{Ask, Facts, Frames, Keyspace, Program, Work, work};
use crate::command::{self, Class};
use crate::merge::Outcome;
use crate::resp::{self, ArgRange, Args, Protocol, RequestLimits, RequestScanner, Scan};
use crate::topology::{Node, Topology};

pub(crate) fn topology(shards: u16, pinned: u16) -> Topology {
    let node = |number: u16| Node {
        name: format!("node-{number}"),
        address: format!("127.0.0.1:{}", 7000 + number).parse().unwrap(),
    };
    Topology::seed("test".to_owned(), shards, pinned, vec![node(1), node(2)]).unwrap()
}

/// The work of a request in words, in a database, and the bytes of its block.
pub(crate) fn worked(words: &[&[u8]], topology: &Topology, db: u16) -> Result<(Work, Vec<u8>), String> {
    let mut frame = Vec::new();
    resp::write_request(&mut frame, words);
    let ranges = scanned(&frame).0;
    let args = Args::new(&frame, &ranges);
    let spec = command::resolve(&args).map_err(|refusal| refusal.line())?;
    let Class::Helper(helper) = spec.class else {
        panic!("{} is no helper", spec.name)
    };
    let facts = Facts {
        keyspace: Keyspace::new(topology, db),
        registered: &Registered::default(),
        chance: 0,
        now_ms: 1_000_000,
        reply_bytes_max: 1 << 20,
    };
    let mut out = Vec::new();
    work(helper, &args, &facts, &mut out).map(|work| (work, out))
}

pub(crate) fn words(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

/// The commands in some bytes, in words.
pub(crate) fn commands(mut bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (ranges, end) = scanned(bytes);
        let args = Args::new(bytes, &ranges);
        let line: Vec<_> = args.iter().map(|word| word.escape_ascii().to_string()).collect();
        found.push(line.join(" "));
        bytes = &bytes[end..];
    }
    found
}

fn scanned(bytes: &[u8]) -> (Vec<ArgRange>, usize) {
    let mut ranges = Vec::new();
    match RequestScanner::default().scan(bytes, &mut ranges, &RequestLimits::default()) {
        Scan::Frame { end } => (ranges, end),
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// How a node answers an ask.
pub(crate) enum Said {
    Reply(Vec<u8>),
    NotRun(&'static str),
    Uncertain(&'static str),
}

/// Runs a program to its end, each ask answered by a function. At most `under_way_max` may be asked before an answer.
pub(crate) fn run(
    mut program: Box<dyn Program>,
    protocol: Protocol,
    mut answer: impl FnMut(&Ask, &[String]) -> Said,
) -> String {
    let mut under_way = std::collections::VecDeque::new();
    let mut frame = Vec::new();
    loop {
        frame.clear();
        while let Some(ask) = program.next(&mut frame) {
            let commands = commands(&frame);
            let frames = match ask.frames {
                Frames::One => 1,
                Frames::First(frames) => frames as usize,
            };
            assert_eq!(commands.len(), frames, "{commands:?}");
            under_way.push_back((ask, commands));
            frame.clear();
        }
        let Some((ask, commands)) = under_way.pop_front() else {
            break;
        };
        match answer(&ask, &commands) {
            Said::Reply(reply) => program.absorb(ask.part, Outcome::Reply(&reply)),
            Said::NotRun(line) => program.absorb(ask.part, Outcome::NotRun(line)),
            Said::Uncertain(line) => program.absorb(ask.part, Outcome::Uncertain(line)),
        }
    }
    let mut out = Vec::new();
    program.finish(protocol, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

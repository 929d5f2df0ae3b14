//! One item into many timelines: who is asked when, and the tally.
//!
//! ```text
//!  keys ─by node, by shard─▶ parts ─▶ at most 256 keys unanswered at a node ─▶ tally
//!  plain      a part is one key:     ZADD and trims, one piece of bytes
//!  IFEXISTS   a part is ≤ 100 keys of one shard:  EVAL, since only the node can look and write at once
//! ```
//!
//! So others wait no longer than those keys take: their commands come between. What happens to one key says nothing about the
//! others, so a failure is an entry of the reply; to send the same again is safe, whatever has run.

use std::ops::Range;

use super::FANOUT_MAX;
use super::options::{Condition, Options, Writing};
use super::write::write_add;
use crate::helper::{Ask, Frames, Keyspace, Program, Window, Words};
use crate::ids::ShardId;
use crate::merge::{Outcome, integer};
use crate::resp::{self, Args, Protocol, elements};

/// Keys that may be unanswered at one node: one chunk of them is being run, and another one waits.
const UNDER_WAY: usize = 2 * 128;
/// Keys of one script, at most.
const SCRIPT_KEYS: usize = 100;
const SHAPE: &[u8] = b"ERR preshard: a node's reply has a shape that its command never has";

/// Adds an item to those timelines that exist: for each, how many were added, -1 for no timeline, or its error.
/// Arguments: the rank and the score of the trims or empty ones, and those of `ZADD`.
const EXISTING_SCRIPT: &str = "\
local out = {}
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 0 then
    out[i] = -1
  else
    out[i] = redis.pcall('ZADD', key, unpack(ARGV, 3))
    if type(out[i]) == 'number' then
      if ARGV[1] ~= '' then redis.pcall('ZREMRANGEBYRANK', key, 0, ARGV[1]) end
      if ARGV[2] ~= '' then redis.pcall('ZREMRANGEBYSCORE', key, '-inf', ARGV[2]) end
    end
  end
end
return out";

/// A call of `TIMELINE.FANOUT`.
#[derive(Debug)]
pub(super) struct Fanout {
    words: Words,
    writing: Writing<'static>,
    /// The least score that stays, as it was given.
    min_score: Option<Box<[u8]>>,
    /// The places of the keys in the request, by node and shard.
    order: Vec<u32>,
    parts: Vec<Part>,
    window: Window,
    tally: Tally,
}

/// What is asked at once, and answered as one.
#[derive(Debug)]
struct Part {
    shard: ShardId,
    node: u32,
    /// Of `order`.
    keys: Range<u32>,
}

impl Part {
    fn weight(&self) -> u32 {
        self.keys.end - self.keys.start
    }
}

#[derive(Debug, Default)]
struct Tally {
    added: i64,
    unchanged: i64,
    skipped: i64,
    /// Place of the key in the request, and what came of it.
    failed: Vec<(u32, Box<[u8]>)>,
    held: usize,
}

impl Fanout {
    /// A call with these arguments.
    ///
    /// # Errors
    /// The error line; nothing is to be sent.
    pub(super) fn new(args: &Args<'_>, keyspace: Keyspace<'_>) -> Result<Self, String> {
        let keys = Options::numkeys(args, FANOUT_MAX)?;
        let writing = Options::fanout(args, keys)?;
        let mut placed: Vec<(u32, ShardId, u32)> = (2..2 + keys)
            .map(|at| {
                let shard = keyspace.shard_of(args.get(at));
                (number(keyspace.node_of(shard)), shard, number(at))
            })
            .collect();
        placed.sort_unstable();
        let per_part = if writing.if_exists { SCRIPT_KEYS } else { 1 };
        let parts = split(&placed, per_part);
        let mut window = Window::new(keyspace.nodes(), UNDER_WAY);
        for (at, part) in (0..).zip(&parts) {
            window.push_of(part.node as usize, at, part.weight());
        }
        Ok(Self {
            words: Words::of(args),
            min_score: writing.min_score.map(Into::into),
            writing: Writing {
                min_score: None,
                ..writing
            },
            order: placed.into_iter().map(|(_, _, at)| at).collect(),
            parts,
            window,
            tally: Tally::default(),
        })
    }

    fn write(&self, part: &Part, out: &mut Vec<u8>) -> Frames {
        let args = self.words.args();
        let item = [args.get(args.len() - 2), args.get(args.len() - 1)];
        let writing = Writing {
            min_score: self.min_score.as_deref(),
            ..self.writing
        };
        let keys = keys(&self.order, part);
        if writing.if_exists {
            write_script(out, &args, keys, &writing, item);
            return Frames::One;
        }
        let key = keys.first().map_or(0, |&at| at as usize);
        Frames::First(write_add(out, args.get(key), &writing, item.into_iter()))
    }
}

impl Program for Fanout {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        let number = self.window.pop()?;
        let part = &self.parts[number as usize];
        Some(Ask {
            shard: part.shard,
            part: number,
            frames: self.write(part, frame),
        })
    }

    fn absorb(&mut self, part: u32, outcome: Outcome<'_>) {
        let part = &self.parts[part as usize];
        self.window.done_of(part.node as usize, part.weight());
        let keys = keys(&self.order, part);
        match outcome {
            Outcome::Reply(reply) if self.writing.if_exists && reply.first() == Some(&b'*') => {
                let mut each = elements(reply);
                for &key in keys {
                    let element = each.as_mut().and_then(Iterator::next);
                    self.tally.count(key, element.unwrap_or_default());
                }
            }
            Outcome::Reply(reply) => keys.iter().for_each(|&key| self.tally.count(key, reply)),
            Outcome::NotRun(line) | Outcome::Uncertain(line) => {
                keys.iter().for_each(|&key| self.tally.fail(key, line.as_bytes()));
            }
        }
    }

    fn held_bytes(&self) -> usize {
        self.tally.held
    }

    fn finish(&mut self, protocol: Protocol, out: &mut Vec<u8>) {
        let tally = &self.tally;
        resp::write_map_header(out, protocol, 4);
        for (name, count) in [
            ("added", tally.added),
            ("unchanged", tally.unchanged),
            ("skipped", tally.skipped),
        ] {
            resp::write_bulk(out, name.as_bytes());
            resp::write_int(out, count);
        }
        resp::write_bulk(out, b"failed");
        resp::write_array_header(out, tally.failed.len());
        for (key, why) in &tally.failed {
            resp::write_array_header(out, 2);
            resp::write_bulk(out, self.words.get(*key as usize));
            resp::write_bulk(out, why);
        }
    }

    fn first(&self) -> Option<ShardId> {
        self.parts.first().map(|part| part.shard)
    }

    fn has_rounds(&self) -> bool {
        !self.window.takes_all()
    }
}

/// Parts of at most `per_part` keys of one shard. The keys are in order of node, shard, place.
fn split(placed: &[(u32, ShardId, u32)], per_part: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut from = 0;
    for of_shard in placed.chunk_by(|one, other| one.1 == other.1) {
        for keys in of_shard.chunks(per_part) {
            let (node, shard, _) = keys[0];
            let to = from + number(keys.len());
            parts.push(Part {
                shard,
                node,
                keys: from..to,
            });
            from = to;
        }
    }
    parts
}

/// The places of a part's keys in the request.
fn keys<'a>(order: &'a [u32], part: &Part) -> &'a [u32] {
    order
        .get(part.keys.start as usize..part.keys.end as usize)
        .unwrap_or_default()
}

fn write_script(out: &mut Vec<u8>, args: &Args<'_>, keys: &[u32], writing: &Writing<'_>, item: [&[u8]; 2]) {
    let condition = writing.condition.map(Condition::word);
    resp::write_array_header(out, 7 + keys.len() + usize::from(condition.is_some()));
    resp::write_bulk(out, b"EVAL");
    resp::write_bulk(out, EXISTING_SCRIPT.as_bytes());
    resp::write_bulk_int(out, i64::try_from(keys.len()).unwrap_or(i64::MAX));
    for &key in keys {
        resp::write_bulk(out, args.get(key as usize));
    }
    match writing.max_len {
        Some(length) => resp::write_bulk_int(out, -1 - length),
        None => resp::write_bulk(out, b""),
    }
    match writing.min_score {
        Some(score) => resp::write_bulk_parts(out, &[b"(", score]),
        None => resp::write_bulk(out, b""),
    }
    if let Some(word) = condition {
        resp::write_bulk(out, word);
    }
    item.iter().for_each(|part| resp::write_bulk(out, part));
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Tally {
    /// A node has answered for a key.
    fn count(&mut self, key: u32, reply: &[u8]) {
        match integer(reply) {
            Some(-1) => self.skipped += 1,
            Some(0) => self.unchanged += 1,
            Some(_) => self.added += 1,
            None => {
                let line = reply
                    .strip_prefix(b"-")
                    .and_then(|line| line.strip_suffix(b"\r\n"));
                self.fail(key, line.unwrap_or(SHAPE));
            }
        }
    }

    fn fail(&mut self, key: u32, why: &[u8]) {
        self.held += why.len() + 16;
        self.failed.push((key, why.into()));
    }
}

//! `COUNTER.INCR` and `COUNTER.MINCR`: one `HINCRBY` for each member, in its shard.

use super::keys::{Kind, REGISTRY};
use super::parse;
use crate::helper::{Ask, Block, Facts, Frames, Places, Program, Window, Words};
use crate::ids::ShardId;
use crate::merge::Outcome;
use crate::resp::{self, Args, Protocol};

/// Increments of one `COUNTER.MINCR` that are under way at one node.
const UNDER_WAY: usize = 1024;

/// `COUNTER.INCR counter member [delta]`. The hot path: its only memory is `out`.
pub(super) fn incr(args: &Args<'_>, facts: &Facts<'_>, out: &mut Vec<u8>) -> Result<Block, String> {
    if args.len() > 4 {
        return Err("ERR wrong number of arguments for 'counter.incr' command".to_owned());
    }
    let (counter, member) = (args.get(1), parse::member(args.get(2))?);
    let delta = args.try_get(3).unwrap_or(b"1");
    parse::integer(delta)?;
    let shard = super::shard_of(counter, member, facts.keyspace);
    write_incr(counter, member, delta, out);
    let mark = facts.registered.mark(counter, shard);
    if facts.registered.has(mark, facts.now_ms) {
        return Ok(Block {
            shard,
            frames: 1,
            registers: None,
        });
    }
    write_registration(counter, out);
    Ok(Block {
        shard,
        frames: 2,
        registers: Some(mark),
    })
}

fn write_incr(counter: &[u8], member: &[u8], delta: &[u8], out: &mut Vec<u8>) {
    resp::write_array_header(out, 4);
    resp::write_bulk(out, b"HINCRBY");
    Kind::Pending.write(counter, out);
    resp::write_bulk(out, member);
    resp::write_bulk(out, delta);
}

fn write_registration(counter: &[u8], out: &mut Vec<u8>) {
    resp::write_request(out, &[b"SADD", REGISTRY, counter]);
}

/// `COUNTER.MINCR counter member delta …`: each pair is an ask of its own, so that its outcome is known for certain.
#[derive(Debug)]
pub(super) struct Mincr {
    words: Words,
    /// By pair.
    targets: Vec<Target>,
    window: Window,
    places: Places,
}

#[derive(Debug)]
struct Target {
    shard: ShardId,
    node: u32,
    /// The first one of its shard registers the counter there.
    registers: bool,
}

impl Mincr {
    pub(super) fn new(args: &Args<'_>, facts: &Facts<'_>) -> Result<Self, String> {
        if !args.len().is_multiple_of(2) {
            return Err("ERR wrong number of arguments for 'counter.mincr' command".to_owned());
        }
        let Facts { keyspace, .. } = *facts;
        let pairs = args.len() / 2 - 1;
        let mut window = Window::new(keyspace.nodes(), UNDER_WAY);
        let mut targets = Vec::with_capacity(pairs);
        let mut seen = std::collections::BTreeSet::new();
        for pair in 0..pairs {
            let member = parse::member(args.get(2 + pair * 2))?;
            parse::integer(args.get(3 + pair * 2))?;
            let shard = super::shard_of(args.get(1), member, keyspace);
            let node = keyspace.node_of(shard);
            let mark = facts.registered.mark(args.get(1), shard);
            targets.push(Target {
                shard,
                node: u32::try_from(node).unwrap_or(u32::MAX),
                registers: seen.insert(shard) && !facts.registered.has(mark, facts.now_ms),
            });
            window.push(node, u32::try_from(pair).map_err(|_| parse::TOO_MANY)?);
        }
        Ok(Self {
            words: Words::of(args),
            targets,
            window,
            places: Places::new(pairs),
        })
    }
}

impl Program for Mincr {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        let part = self.window.pop()?;
        let pair = part as usize;
        let target = &self.targets[pair];
        let (member, delta) = (self.words.get(2 + pair * 2), self.words.get(3 + pair * 2));
        write_incr(self.words.get(1), member, delta, frame);
        let frames = if target.registers {
            write_registration(self.words.get(1), frame);
            Frames::First(2)
        } else {
            Frames::One
        };
        Some(Ask {
            shard: target.shard,
            part,
            frames,
        })
    }

    fn absorb(&mut self, part: u32, outcome: Outcome<'_>) {
        let pair = part as usize;
        self.window.done(self.targets[pair].node as usize);
        self.places.put_outcome(pair, outcome);
    }

    fn held_bytes(&self) -> usize {
        self.places.held_bytes()
    }

    fn finish(&mut self, _: Protocol, out: &mut Vec<u8>) {
        self.places.finish(false, out);
    }

    fn first(&self) -> Option<ShardId> {
        self.targets.first().map(|target| target.shard)
    }

    fn has_rounds(&self) -> bool {
        !self.window.takes_all()
    }
}

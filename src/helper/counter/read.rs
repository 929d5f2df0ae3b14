//! `COUNTER.GET` and `COUNTER.MGET`: the sum of what is pending, drained and leased, read at one moment in each shard.
//!
//! By a script: between two reads a `COUNTER.TAKE` could rename a hash to the other, and its counts would be seen twice or
//! not at all. Sums are made here, since Lua's numbers are exact to 2^53 only.

use super::keys::Kind;
use super::script;
use crate::helper::{Ask, Facts, Frames, Places, Program, Window, Words};
use crate::ids::ShardId;
use crate::merge::Outcome;
use crate::resp::{self, Args, Protocol, elements};

/// Shards that are asked at one node at a time.
const UNDER_WAY: usize = 128;
/// Members of one shard that are read at a time: Lua unpacks no more than some thousand.
const MEMBERS_MAX: usize = 1000;
/// What a member's count is made of.
const SUMMED: [Kind; 3] = [Kind::Pending, Kind::Drained, Kind::Leased];
const SHAPE: &str = "ERR preshard: a node's reply has a shape that its command never has";

#[derive(Debug)]
pub(super) struct Read {
    words: Words,
    /// Of one shard, which arguments are its members.
    parts: Vec<Part>,
    window: Window,
    places: Places,
    alone: bool,
}

#[derive(Debug)]
struct Part {
    shard: ShardId,
    node: usize,
    places: Vec<u32>,
}

impl Read {
    pub(super) fn new(args: &Args<'_>, facts: &Facts<'_>, alone: bool) -> Result<Self, String> {
        let Facts { keyspace, .. } = *facts;
        let by_shard = super::members_by_shard(args, 2, keyspace)?;
        let mut window = Window::new(keyspace.nodes(), UNDER_WAY);
        let mut parts = Vec::with_capacity(by_shard.len());
        let pieces = by_shard.iter().flat_map(|(&shard, places)| {
            let pieces = places.chunks(MEMBERS_MAX);
            pieces.map(move |places| (shard, places.to_vec()))
        });
        for (part, (shard, places)) in (0..).zip(pieces) {
            let node = keyspace.node_of(shard);
            window.push(node, part);
            parts.push(Part { shard, node, places });
        }
        Ok(Self {
            words: Words::of(args),
            parts,
            window,
            places: Places::new(args.len() - 2),
            alone,
        })
    }

    /// Puts the sums of one shard. `None` if its reply has not the shape of three arrays.
    fn sums(&mut self, part: usize, reply: &[u8]) -> Option<()> {
        let places = &self.parts[part].places;
        let mut sums = vec![0_i128; places.len()];
        let mut arrays = elements(reply)?;
        for _ in SUMMED {
            let mut values = elements(arrays.next()?)?;
            for sum in &mut sums {
                *sum += i128::from(count(values.next()?)?);
            }
        }
        for (&place, sum) in places.iter().zip(sums) {
            match i64::try_from(sum) {
                Ok(sum) => self.places.put_int(place as usize - 2, sum),
                Err(_) => self
                    .places
                    .put(place as usize - 2, b"-ERR the sum is out of range\r\n"),
            }
        }
        Some(())
    }
}

/// A member's count in one hash: none is 0.
pub(super) fn count(value: &[u8]) -> Option<i64> {
    if matches!(value, b"$-1\r\n" | b"_\r\n") {
        return Some(0);
    }
    std::str::from_utf8(resp::bulk(value)?).ok()?.parse().ok()
}

impl Program for Read {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        let part = self.window.pop()?;
        let Part { shard, places, .. } = &self.parts[part as usize];
        let members: Vec<&[u8]> = places
            .iter()
            .map(|&place| self.words.get(place as usize))
            .collect();
        script::write_call(
            &script::READ,
            self.words.get(1),
            (&SUMMED, false),
            &members,
            frame,
        );
        Some(Ask {
            shard: *shard,
            part,
            frames: Frames::One,
        })
    }

    fn absorb(&mut self, part: u32, outcome: Outcome<'_>) {
        let part = part as usize;
        self.window.done(self.parts[part].node);
        let error = match outcome {
            Outcome::Reply(reply) if reply.first() == Some(&b'-') => reply.to_vec(),
            Outcome::Reply(reply) => match self.sums(part, reply) {
                Some(()) => return,
                None => resp::error_line(SHAPE),
            },
            Outcome::NotRun(line) | Outcome::Uncertain(line) => resp::error_line(line),
        };
        for place in self.parts[part].places.clone() {
            self.places.put(place as usize - 2, &error);
        }
    }

    fn held_bytes(&self) -> usize {
        self.places.held_bytes()
    }

    fn finish(&mut self, _: Protocol, out: &mut Vec<u8>) {
        self.places.finish(self.alone, out);
    }

    fn first(&self) -> Option<ShardId> {
        self.parts.first().map(|part| part.shard)
    }

    fn has_rounds(&self) -> bool {
        !self.window.takes_all()
    }
}

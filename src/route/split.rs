//! The parts of a command over many keys: one request for each shard, in the order that keys were given.
//!
//! `MGET a b c` with `a`, `c` on shard 7 and `b` on shard 3 becomes `MGET a c` for 7 and `MGET b` for 3, with the
//! places 0, 2 and 1 remembered for the merge. A key that stands twice keeps both places, and its values their
//! order, since the order within a shard is the order of the arguments.

use std::ops::Range;

use crate::command::Split;
use crate::ids::ShardId;
use crate::resp::{self, Args};
use crate::topology::Topology;

/// The keys of one request, grouped by shard.
#[derive(Debug)]
pub struct Splitting {
    split: Split,
    /// (shard, place among the keys, argument index), by shard, then by place.
    keys: Vec<(ShardId, u32, u32)>,
    parts: Vec<Part>,
}

/// The keys of one shard: a run of [`Splitting`]'s keys.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where the part runs.
    pub shard: ShardId,
    run: Range<usize>,
}

impl Splitting {
    pub(super) fn new(
        split: Split,
        args: &Args<'_>,
        topology: &Topology,
        keys: &[u32],
    ) -> Result<Self, String> {
        let mut placed = Vec::with_capacity(keys.len());
        for (place, &key) in keys.iter().enumerate() {
            let place = u32::try_from(place).map_err(|_| "ERR too many keys in one command".to_owned())?;
            placed.push((topology.shard_of_key(args.get(key as usize)), place, key));
        }
        placed.sort_unstable();
        let mut parts: Vec<Part> = Vec::with_capacity(keys.len());
        for (index, &(shard, _, _)) in placed.iter().enumerate() {
            match parts.last_mut() {
                Some(part) if part.shard == shard => part.run.end = index + 1,
                Some(_) | None => parts.push(Part {
                    shard,
                    run: index..index + 1,
                }),
            }
        }
        Ok(Self {
            split,
            keys: placed,
            parts,
        })
    }

    /// One part for each shard, in the order of shards.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// How many keys the request names.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The places, among the request's keys, of one part's keys in the order that the part names them. A part that is not there has
    /// none.
    pub fn places(&self, part: usize) -> impl Iterator<Item = usize> + '_ {
        let run = self.parts.get(part).map_or(0..0, |part| part.run.clone());
        self.keys[run].iter().map(|&(_, place, _)| place as usize)
    }

    /// Writes one part's request frame.
    pub fn write_frame(&self, part: usize, args: &Args<'_>, out: &mut Vec<u8>) {
        let run = &self.keys[self.parts[part].run.clone()];
        let per_key = if matches!(self.split, Split::Mset) { 2 } else { 1 };
        resp::write_array_header(out, 1 + run.len() * per_key);
        resp::write_bulk(out, args.get(0));
        for &(_, _, key) in run {
            resp::write_bulk(out, args.get(key as usize));
            if per_key == 2 {
                resp::write_bulk(out, args.get(key as usize + 1));
            }
        }
    }
}

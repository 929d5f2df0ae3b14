//! Timelines: sorted sets that are kept short, written to many at a time, and read a page at a time, newest first.
//!
//! ```text
//!  ADD, TRIM      one key     ─▶ ZADD + ZREMRANGEBY…, sent as one piece                       [write]
//!  FANOUT         many keys   ─▶ the same for each, in chunks, at most two unanswered at a node [Fanout]
//!  RANGE, MERGE   1, k keys   ─▶ ZREVRANGEBYSCORE behind a cursor, merged                     [Pages]
//! ```
//!
//! A timeline is nothing but the user's own sorted set: whoever speaks to it with `ZADD` and `ZREVRANGE` sees the same.
//! The order is that of `ZREVRANGE`: greater scores first, among equal ones the greater member, byte by byte. So
//! `(score, member)` is a place in it, which stays one when items come and go around it: that is the cursor.

mod fanout;
mod options;
mod page;
mod pages;
mod score;
mod write;

#[cfg(test)]
mod fanout_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod pages_tests;

use std::collections::BTreeSet;

use super::{Block, Facts, Keyspace, Work};
use crate::command::Timeline;
use crate::ids::ShardId;
use crate::resp::Args;
use fanout::Fanout;
use options::Options;
use pages::Pages;

/// Timelines of one `MERGE`, at most.
const MERGED_MAX: usize = 256;
/// Timelines of one `FANOUT`, at most.
const FANOUT_MAX: usize = 10_000;

pub(super) fn work(
    timeline: Timeline,
    args: &Args<'_>,
    facts: &Facts<'_>,
    out: &mut Vec<u8>,
) -> Result<Work, String> {
    let Facts { keyspace, .. } = *facts;
    let key = args.get(1);
    let block = |frames| {
        Work::Block(Block {
            shard: keyspace.shard_of(key),
            frames,
            registers: None,
        })
    };
    match timeline {
        Timeline::Add => {
            let (writing, from) = Options::add(args)?;
            let items = (from..args.len()).map(|at| args.get(at));
            Ok(block(write::write_add(out, key, &writing, items)))
        }
        Timeline::Trim => {
            let writing = Options::trim(args)?;
            Ok(block(write::write_trim(out, key, &writing)))
        }
        Timeline::Fanout => Ok(Work::Program(Box::new(Fanout::new(args, keyspace)?))),
        Timeline::Range => {
            let pages = Pages::new(Options::query(args, 2)?, [key].into_iter(), keyspace);
            Ok(Work::Program(Box::new(pages)))
        }
        Timeline::Merge => {
            let keys = Options::numkeys(args, MERGED_MAX)?;
            let query = Options::query(args, 2 + keys)?;
            let keys = (2..2 + keys).map(|at| args.get(at));
            Ok(Work::Program(Box::new(Pages::new(query, keys, keyspace))))
        }
    }
}

pub(super) fn shards(
    timeline: Timeline,
    args: &Args<'_>,
    keyspace: Keyspace<'_>,
) -> Result<Vec<ShardId>, String> {
    let keys = match timeline {
        Timeline::Add | Timeline::Trim | Timeline::Range => 1..2,
        Timeline::Fanout => 2..2 + Options::numkeys(args, FANOUT_MAX)?,
        Timeline::Merge => 2..2 + Options::numkeys(args, MERGED_MAX)?,
    };
    let shards: BTreeSet<ShardId> = keys.map(|at| keyspace.shard_of(args.get(at))).collect();
    Ok(shards.into_iter().collect())
}

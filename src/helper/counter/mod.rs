//! Counters: counts that are collected in the shards and taken away in batches, to be written elsewhere.
//!
//! ```text
//!            COUNTER.INCR                COUNTER.TAKE                             COUNTER.ACK
//!  client ──HINCRBY──▶ P pending ──RENAME──▶ D drained ──RENAME, or a part──▶ L leased ──UNLINK──▶ gone
//!                                                                              │  ▲
//!                                                                              ▼  └─ comes again, the same, until it is confirmed
//!                                                                           flusher ──▶ SQL
//! ```
//!
//! A counter is a family of members. Each shard keeps its own members in three hashes, a member's count being the sum
//! of all three, and beside them what was taken last ([`keys`]). A member lives in the shard of the key
//! `counter:member`, hash tags included. A batch never changes from its first delivery to its confirmation, and its
//! number only grows, so whoever writes it into a database can tell by one number whether it has done so already.

mod incr;
pub mod keys;
mod parse;
mod pending;
mod read;
mod registered;
mod script;
mod sum;
mod take;
#[cfg(test)]
mod tests;

pub use registered::Registered;

use std::collections::BTreeMap;

use super::{Facts, Keyspace, Work};
use crate::command::Counter;
use crate::ids::ShardId;
use crate::resp::Args;

pub(super) fn work(
    counter: Counter,
    args: &Args<'_>,
    facts: &Facts<'_>,
    out: &mut Vec<u8>,
) -> Result<Work, String> {
    parse::counter(args)?;
    match counter {
        Counter::Incr => incr::incr(args, facts, out).map(Work::Block),
        Counter::Mincr => incr::Mincr::new(args, facts).map(program),
        Counter::Get | Counter::Mget => read::Read::new(args, facts, counter == Counter::Get).map(program),
        Counter::Take => take::Take::new(args, facts).map(program),
        Counter::Ack => sum::Sum::ack(args, facts).map(program),
        Counter::Lease => sum::Sum::lease(args, facts).map(program),
        Counter::Del => sum::Sum::del(args, facts).map(program),
        Counter::Pending => pending::Pending::new(args, facts).map(program),
    }
}

fn program(program: impl super::Program + 'static) -> Work {
    Work::Program(Box::new(program))
}

pub(super) fn shards(
    counter: Counter,
    args: &Args<'_>,
    keyspace: Keyspace<'_>,
) -> Result<Vec<ShardId>, String> {
    let name = parse::counter(args)?;
    if let Some((first, step)) = counter.members(args.len()) {
        let places = (first..args.len()).step_by(step);
        let shard = |at| parse::member(args.get(at)).map(|member| shard_of(name, member, keyspace));
        return places.map(shard).collect();
    }
    match counter {
        Counter::Ack | Counter::Lease => {
            let first = if counter == Counter::Ack { 2 } else { 3 };
            let ids = (first..args.len()).map(|at| sum::id(args.get(at), keyspace));
            ids.map(|id| id.map(|(shard, _)| shard)).collect()
        }
        Counter::Incr
        | Counter::Mincr
        | Counter::Get
        | Counter::Mget
        | Counter::Take
        | Counter::Pending
        | Counter::Del => Ok(keyspace.shards().collect()),
    }
}

/// The places of members among the arguments, from one on, by shard.
fn members_by_shard(
    args: &Args<'_>,
    first: usize,
    keyspace: Keyspace<'_>,
) -> Result<BTreeMap<ShardId, Vec<u32>>, String> {
    let mut by_shard: BTreeMap<ShardId, Vec<u32>> = BTreeMap::new();
    for at in first..args.len() {
        let shard = shard_of(args.get(1), parse::member(args.get(at))?, keyspace);
        let place = u32::try_from(at).map_err(|_| parse::TOO_MANY)?;
        by_shard.entry(shard).or_default().push(place);
    }
    Ok(by_shard)
}

/// The shard of a member: that of the key `counter:member`.
fn shard_of(counter: &[u8], member: &[u8], keyspace: Keyspace<'_>) -> ShardId {
    const SHORT: usize = 256;
    let length = counter.len() + 1 + member.len();
    let mut short = [0; SHORT];
    if let Some(room) = short.get_mut(..length) {
        let (first, rest) = room.split_at_mut(counter.len());
        first.copy_from_slice(counter);
        rest[0] = b':';
        rest[1..].copy_from_slice(member);
        return keyspace.shard_of(room);
    }
    keyspace.shard_of(&[counter, b":", member].concat())
}

//! What may stand between `MULTI` and `EXEC`, and where it runs: a transaction runs on one shard as one piece.

use super::{Plan, Scratch, route};
use crate::command::{Class, Local, PubSub, Script, Spec};
use crate::ids::ShardId;
use crate::resp::Args;
use crate::topology::Topology;

/// Where a queued command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this shard, and no other.
    Shard(ShardId),
    /// On this shard, where it runs code.
    Script(Script, ShardId),
    /// On any node.
    Anywhere,
}

/// Where a command of a transaction would run.
///
/// # Errors
/// The error line: it cannot be queued, for the reasons of [`route`] or because it does not run on one node.
pub fn place_in_transaction(
    spec: &Spec,
    args: &Args<'_>,
    topology: &Topology,
    db: u16,
    scratch: &mut Scratch,
) -> Result<Place, String> {
    if let (Class::FanOut(fan_out), Some(shard)) = (spec.class, topology.pinned_shard(db))
        && fan_out.is_of_one_keyspace()
    {
        return Ok(Place::Shard(shard));
    }
    match route(spec, args, topology, db, scratch)? {
        // A cursor in a transaction is the node's own.
        Plan::One(shard) | Plan::Iterate(shard) | Plan::Blocking(shard) => Ok(Place::Shard(shard)),
        Plan::Script(script, shard) => Ok(Place::Script(script, shard)),
        Plan::Local(Local::Ping | Local::Echo | Local::Time)
        | Plan::Transaction(_)
        | Plan::PubSub(PubSub::Publish | PubSub::Spublish) => Ok(Place::Anywhere),
        Plan::Split(..) | Plan::FanOut(_) => Err(format!(
            "CROSSSLOT '{}' would reach several shards, and a transaction runs on one; use a hash tag such as \
             {{x}} in all its keys, or SELECT a pinned database before MULTI",
            spec.name
        )),
        Plan::Helper(_) => Err("ERR COUNTER.* and TIMELINE.* are not allowed in MULTI".to_owned()),
        Plan::Local(_) | Plan::PubSub(_) => Err(format!(
            "ERR '{}' cannot be queued: a transaction runs on a node, and this is answered by preshard itself",
            spec.title()
        )),
    }
}

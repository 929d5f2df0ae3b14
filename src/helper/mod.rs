//! Helper commands: what applications would build out of several standard commands, as one command of preshard's own.
//!
//! ```text
//!  Helper, Args, Keyspace ──work()──▶ Work
//!        Block     commands that one shard runs as one request; its first reply is the client's     COUNTER.INCR
//!        Program   many asks, of any shards, in any number of rounds:
//!
//!            worker ──next()──▶ Ask (shard, commands) ──▶ node
//!                   ◀─────────────────────────────────── Outcome ──absorb()──▶ more asks, or nothing is left
//!                   ──finish()─▶ the one reply
//!        or a refusal: one error line, nothing sent anywhere
//! ```
//!
//! Everything is kept in ordinary keys of the shards' own databases, so nothing here has a memory but the nodes, and
//! shards that move take it along. This room decides only: it writes the requests and reads the replies, the worker
//! sends them. Asks go the way of every request, so a helper waits, fails and is refused in the words of all others.

pub mod counter;
pub mod hidden;
mod keyspace;
mod places;
mod program;
#[cfg(test)]
mod testing;
pub mod timeline;
mod window;
mod words;

pub use keyspace::Keyspace;
pub use program::{Ask, Frames, Program};

pub(crate) use places::Places;
pub(crate) use window::Window;
pub(crate) use words::Words;

use crate::command::Helper;
use crate::ids::ShardId;
use crate::resp::Args;
use counter::Registered;

/// What becomes of a helper command.
#[derive(Debug)]
pub enum Work {
    /// One request of one shard, whose commands were written; the first one's reply is the client's.
    Block(Block),
    /// A program to be run.
    Program(Box<dyn Program>),
}

/// Commands for one shard, sent in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where they run.
    pub shard: ShardId,
    /// How many commands, and so replies.
    pub frames: u32,
    /// What to note in [`Registered`] when they are queued.
    pub registers: Option<u64>,
}

/// What a helper command needs to know besides its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where keys live.
    pub keyspace: Keyspace<'a>,
    /// Counters that this worker has registered.
    pub registered: &'a Registered,
    /// A number by chance: where a walk over all shards begins.
    pub chance: u64,
    /// Milliseconds of the worker.
    pub now_ms: u64,
    /// Bytes that a reply may hold.
    pub reply_bytes_max: usize,
}

/// What is to be done for a helper command. The commands of a [`Work::Block`] are appended to `out`.
///
/// # Errors
/// The error line for the client, without its leading `-`.
pub fn work(helper: Helper, args: &Args<'_>, facts: &Facts<'_>, out: &mut Vec<u8>) -> Result<Work, String> {
    match helper {
        Helper::Counter(counter) => counter::work(counter, args, facts, out),
        Helper::Timeline(timeline) => timeline::work(timeline, args, facts, out),
    }
}

/// The shards that a helper command may reach, for `PRESHARD EXPLAIN`.
///
/// # Errors
/// As [`work`].
pub fn shards(helper: Helper, args: &Args<'_>, keyspace: Keyspace<'_>) -> Result<Vec<ShardId>, String> {
    match helper {
        Helper::Counter(counter) => counter::shards(counter, args, keyspace),
        Helper::Timeline(timeline) => timeline::shards(timeline, args, keyspace),
    }
}

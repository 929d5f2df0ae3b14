//! What the worker runs: a state machine that says what to ask next, takes in the outcomes, and ends with one reply.

use std::fmt::Debug;

use crate::ids::ShardId;
use crate::merge::Outcome;
use crate::resp::Protocol;

/// One request to one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Where it goes.
    pub shard: ShardId,
    /// The program's own number for it, given back with its outcome.
    pub part: u32,
    /// How the node answers it.
    pub frames: Frames,
}

/// How many frames a node answers to one ask, and which of them is the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// One command, one reply.
    One,
    /// As many commands in one piece: the first reply counts, the others are read away.
    First(u32),
}

/// A helper command under way.
///
/// The worker calls [`Self::next`] until it says `None`, then waits for an outcome, and so on until nothing is asked and
/// nothing is under way. A program bounds what is under way by itself (`Window`), and its asks are finite.
pub trait Program: Debug {
    /// The next thing to ask, its commands appended to `frame`. `None`: nothing, before something is answered; or
    /// nothing is left.
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask>;

    /// An ask has ended.
    fn absorb(&mut self, part: u32, outcome: Outcome<'_>);

    /// Bytes held for the reply in the making.
    fn held_bytes(&self) -> usize;

    /// Writes the reply.
    fn finish(&mut self, protocol: Protocol, out: &mut Vec<u8>);

    /// Where it begins: its client waits if the queue there is full.
    fn first(&self) -> Option<ShardId>;

    /// Whether it goes on to ask after others have answered, so that requests behind it would overtake it: the
    /// client's other requests wait.
    fn has_rounds(&self) -> bool;

    /// Whether shards that are held are told of at once, as not asked, instead of being waited for.
    fn skips_held(&self) -> bool {
        false
    }
}

//! SCAN over many databases: the cursor that names a place in the walk, and the walk itself.
//!
//! ```text
//!  client cursor (below 2^53, so that it survives a double):
//!     bits 0..12   shard          bits 12..17   tag of the shard's owner          bits 17..53   the node's cursor
//! ```
//!
//! One call goes on through several shards until `COUNT` elements came or the bound on steps is met. A shard whose
//! owner changed since the cursor was made (the tag differs) is walked again from its start: a key may be
//! returned twice, as Redis allows, but none that stays is missed. So it is with one that changes its owner in the middle of a
//! call: a node's cursor means nothing to another node.

use super::{Outcome, clients_keys};
use crate::ids::{NodeIndex, ShardId};
use crate::resp::{self, bulk, elements};
use crate::topology::Topology;

const SHARD_BITS: u32 = 12;
const TAG_BITS: u32 = 5;
const NODE_CURSOR_MAX: u64 = 1 << (53 - SHARD_BITS - TAG_BITS);

/// Steps (requests to nodes) that one SCAN call may take.
pub const STEPS_MAX: usize = 128;

/// A place in the walk over the sharded keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The shard that is walked.
    pub shard: ShardId,
    /// The cursor for its node.
    pub cursor: u64,
}

impl Position {
    /// Reads a client's cursor. `None` if preshard never made it.
    #[must_use]
    pub fn decode(cursor: u64, topology: &Topology) -> Option<Self> {
        let shard = ShardId(u16::try_from(cursor & ((1 << SHARD_BITS) - 1)).ok()?);
        if shard.0 >= topology.shards {
            return None;
        }
        let tag = (cursor >> SHARD_BITS) & ((1 << TAG_BITS) - 1);
        let node_cursor = cursor >> (SHARD_BITS + TAG_BITS);
        if node_cursor >= NODE_CURSOR_MAX {
            return None;
        }
        let same_owner = tag == owner_tag(topology, shard);
        Some(Self {
            shard,
            cursor: if same_owner { node_cursor } else { 0 },
        })
    }

    /// The client's cursor for this place. `None` if the node's cursor leaves no room in it.
    #[must_use]
    pub fn encode(self, topology: &Topology) -> Option<u64> {
        if self.cursor >= NODE_CURSOR_MAX {
            return None;
        }
        let tag = owner_tag(topology, self.shard);
        Some(u64::from(self.shard.0) | tag << SHARD_BITS | self.cursor << (SHARD_BITS + TAG_BITS))
    }
}

/// The place of a shard's owner among all nodes by name: each proxy numbers nodes in a way of its own, and clients go by several.
fn owner_tag(topology: &Topology, shard: ShardId) -> u64 {
    let owner = &topology.node(topology.placement(shard).node).name;
    let before = topology.nodes_by_index().filter(|(_, node)| node.name < *owner);
    u64::try_from(before.count()).unwrap_or(0) & ((1 << TAG_BITS) - 1)
}

/// One SCAN call of a client.
#[derive(Debug)]
pub struct Walk {
    position: Position,
    /// Whose cursor it is; of the shard that is asked, its owner when it was asked.
    owner: NodeIndex,
    shards: u16,
    count: usize,
    /// The arguments behind the cursor, as frame bytes, and their number.
    options: Vec<u8>,
    options_len: usize,
    found: Vec<u8>,
    found_count: usize,
    steps: usize,
    failed: Option<Vec<u8>>,
}

/// What a walk does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this shard, with [`Walk::write_frame`].
    Ask(ShardId),
    /// Answer the client.
    Done,
}

impl Walk {
    /// Starts at the client's cursor; `options` are the arguments behind it.
    ///
    /// # Errors
    /// The error line, without `-`, of a cursor or an option that is not understood.
    pub fn new(cursor: &[u8], options: &[&[u8]], topology: &Topology) -> Result<Self, String> {
        let number = std::str::from_utf8(cursor)
            .ok()
            .and_then(|text| text.parse().ok());
        let position = number.and_then(|number| Position::decode(number, topology));
        let position = position.ok_or("ERR invalid cursor")?;
        let mut walk = Self {
            position,
            owner: topology.placement(position.shard).node,
            shards: topology.shards,
            count: 10,
            options: Vec::new(),
            options_len: options.len(),
            found: Vec::new(),
            found_count: 0,
            steps: 0,
            failed: None,
        };
        for pair in options.chunks(2) {
            if pair[0].eq_ignore_ascii_case(b"count") {
                let count = pair
                    .get(1)
                    .and_then(|text| std::str::from_utf8(text).ok()?.parse::<i64>().ok());
                let count = count.ok_or("ERR value is not an integer or out of range")?;
                walk.count = usize::try_from(count)
                    .ok()
                    .filter(|&count| count > 0)
                    .ok_or("ERR syntax error")?;
            }
        }
        options
            .iter()
            .for_each(|option| resp::write_bulk(&mut walk.options, option));
        Ok(walk)
    }

    /// What to do now.
    #[must_use]
    pub fn step(&self) -> Step {
        if self.failed.is_some() {
            return Step::Done;
        }
        let enough = self.found_count >= self.count || self.steps >= STEPS_MAX;
        if self.position.shard.0 >= self.shards || (enough && self.steps > 0) {
            return Step::Done;
        }
        Step::Ask(self.position.shard)
    }

    /// Writes the request for the shard that [`Self::step`] named.
    pub fn write_frame(&mut self, topology: &Topology, out: &mut Vec<u8>) {
        self.follow_owner(topology);
        resp::write_array_header(out, 2 + self.options_len);
        resp::write_bulk(out, b"SCAN");
        resp::write_bulk(out, self.position.cursor.to_string().as_bytes());
        out.extend_from_slice(&self.options);
    }

    /// A cursor of another node is none: the shard is walked again.
    fn follow_owner(&mut self, topology: &Topology) {
        if self.position.shard.0 < self.shards {
            let owner = topology.placement(self.position.shard).node;
            if owner != self.owner {
                self.position.cursor = 0;
            }
            self.owner = owner;
        }
    }

    /// Takes in how the step ended; the topology is today's.
    pub fn part(&mut self, outcome: Outcome<'_>, topology: &Topology) {
        let asked = (self.position.shard, self.owner);
        match outcome {
            Outcome::Reply(reply) if reply.first() == Some(&b'-') => self.failed = Some(reply.to_vec()),
            Outcome::Reply(reply) => {
                if self.absorb(reply).is_none() {
                    let line =
                        "ERR preshard: a node's SCAN reply cannot be read, or its cursor is beyond 2^36";
                    self.failed = Some(resp::error_line(line));
                }
                // It may have been kept in the middle of a move, and answered by a node whose cursor it did not hold.
                if topology.placement(asked.0).node != asked.1 {
                    self.position = Position {
                        shard: asked.0,
                        cursor: 0,
                    };
                }
                self.follow_owner(topology);
            }
            Outcome::NotRun(line) | Outcome::Uncertain(line) => self.failed = Some(resp::error_line(line)),
        }
    }

    /// Takes in the shard's reply. `None` if it has not the shape of a SCAN reply.
    fn absorb(&mut self, reply: &[u8]) -> Option<()> {
        let mut pair = elements(reply)?;
        let cursor: u64 = std::str::from_utf8(bulk(pair.next()?)?).ok()?.parse().ok()?;
        let keys = elements(pair.next()?)?;
        let (count, keys) = clients_keys(&keys);
        self.found_count += count;
        self.found.extend_from_slice(&keys);
        self.steps += 1;
        self.position = if cursor == 0 || cursor >= NODE_CURSOR_MAX {
            Position {
                shard: ShardId(self.position.shard.0 + 1),
                cursor: 0,
            }
        } else {
            Position {
                shard: self.position.shard,
                cursor,
            }
        };
        // A table of 2^36 buckets is beyond any node's memory; skipping it silently would lose keys.
        (cursor < NODE_CURSOR_MAX).then_some(())
    }

    /// Bytes held for the reply in the making.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.found.len()
    }

    /// Writes the client's reply.
    pub fn finish(&self, topology: &Topology, out: &mut Vec<u8>) {
        if let Some(failed) = &self.failed {
            out.extend_from_slice(failed);
            return;
        }
        let mut position = self.position;
        let next = if position.shard.0 >= self.shards {
            Some(0)
        } else {
            if topology.placement(position.shard).node != self.owner {
                position.cursor = 0;
            }
            // Zero would say that nothing is left. Any other node's cursor is none, so the shard is walked from its start.
            position
                .encode(topology)
                .map(|next| if next == 0 { 1 << SHARD_BITS } else { next })
        };
        resp::write_array_header(out, 2);
        resp::write_bulk(out, next.unwrap_or(0).to_string().as_bytes());
        resp::write_array_header(out, self.found_count);
        out.extend_from_slice(&self.found);
    }
}

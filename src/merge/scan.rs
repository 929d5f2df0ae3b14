//! SCAN over many databases: the cursor that names a place in the walk, and the walk itself.
//!
//! ```text
//!  client cursor (below 2^53, so that it survives a double):
//!     shard: as many bits as their number needs     mark of its owner: the rest up to bit 21     bits 21..53   the node's cursor
//! ```
//!
//! One call goes on through several shards until `COUNT` elements came or the bound on steps is met. The mark is made of what all
//! proxies know of a node, its name and its run (`mark_of`), never of its place among others, which changes when nodes are added.
//! A shard whose owner changed since the cursor was made (the mark differs; with 1,024 shards two nodes have the same one by a
//! chance of 1 in 2,047) is walked again from its start: a key may be
//! returned twice, as Redis allows, but none that stays is missed. So it is with one that changes its owner in the middle of a
//! call: a node's cursor means nothing to another node.

use super::page::mark_of;
use super::{Outcome, clients_keys};
use crate::ids::ShardId;
use crate::resp::{self, bulk, elements};
use crate::topology::Topology;

/// A table of so many buckets is beyond any node's memory.
const NODE_BITS: u32 = 32;
const NODE_CURSOR_MAX: u64 = 1 << NODE_BITS;
/// Bits of shard and mark.
const PLACE_BITS: u32 = 53 - NODE_BITS;

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
        let (place, node_cursor) = (cursor & ((1 << PLACE_BITS) - 1), cursor >> PLACE_BITS);
        let shard = ShardId(u16::try_from(place % u64::from(topology.shards)).ok()?);
        if node_cursor >= NODE_CURSOR_MAX {
            return None;
        }
        let is_owners = place == place_of(topology, shard);
        Some(Self {
            shard,
            cursor: if is_owners { node_cursor } else { 0 },
        })
    }

    /// The client's cursor for this place, never 0. `None` if the node's cursor leaves no room in it.
    #[must_use]
    pub fn encode(self, topology: &Topology) -> Option<u64> {
        if self.cursor >= NODE_CURSOR_MAX {
            return None;
        }
        Some(place_of(topology, self.shard) | self.cursor << PLACE_BITS)
    }
}

/// A shard, and the mark of who has it: each proxy numbers nodes in a way of its own, and clients go by several.
fn place_of(topology: &Topology, shard: ShardId) -> u64 {
    // A power of two.
    let shards = u64::from(topology.shards);
    let marks = (1 << PLACE_BITS) / shards - 1;
    u64::from(shard.0) + shards * mark_of(topology, shard, marks)
}

/// Who has a shard, within one call: its node, and the run of it.
fn owner_of(topology: &Topology, shard: ShardId) -> u64 {
    mark_of(topology, shard, u64::MAX)
}

/// One SCAN call of a client.
#[derive(Debug)]
pub struct Walk {
    position: Position,
    /// The mark of whose cursor it is; of the shard that is asked, that of its owner when it was asked.
    owner: u64,
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
            owner: owner_of(topology, position.shard),
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

    /// A cursor of another node, or of another run of it, is none: the shard is walked again.
    fn follow_owner(&mut self, topology: &Topology) {
        if self.position.shard.0 < self.shards {
            let owner = owner_of(topology, self.position.shard);
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
                        "ERR preshard: a node's SCAN reply cannot be read, or its cursor is beyond 2^32";
                    self.failed = Some(resp::error_line(line));
                }
                // It may have been kept in the middle of a move, and answered by a node whose cursor it did not hold.
                if owner_of(topology, asked.0) != asked.1 {
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
        // Skipping it silently would lose keys.
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
            if owner_of(topology, position.shard) != self.owner {
                position.cursor = 0;
            }
            position.encode(topology)
        };
        resp::write_array_header(out, 2);
        resp::write_bulk(out, next.unwrap_or(0).to_string().as_bytes());
        resp::write_array_header(out, self.found_count);
        out.extend_from_slice(&self.found);
    }
}

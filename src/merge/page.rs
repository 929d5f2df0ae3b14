//! Iterations over one value or one whole database (`HSCAN`, `SSCAN`, `ZSCAN`; `SCAN` of a pinned one): a page of one node, whose
//! cursor says which node that was.
//!
//! ```text
//!  client cursor (below 2^53, so that it survives a double):
//!     bits 0..36   the node's cursor           bits 36..53   mark of the node that it is of, never 0
//! ```
//!
//! A node's cursor is a place in its table, and means nothing to another node. So an iteration whose shard lives elsewhere than its
//! cursor says begins again: an element may come twice, as Redis allows, but none that stays is missed. The mark is made of what all
//! proxies know of a node, its name and its run, so that a cursor is good at each of them. Two nodes have the same mark by a chance
//! of 1 in 131,071. A cursor without a mark comes from where nobody could put one, a transaction or a script, and goes to the node
//! as it is; nodes ignore the bits of a mark, so a marked cursor may go there too.

use super::{Outcome, clients_keys};
use crate::ids::ShardId;
use crate::resp::{self, Args, bulk, elements};
use crate::topology::Topology;

const NODE_BITS: u32 = 36;
const NODE_CURSOR_MAX: u64 = 1 << NODE_BITS;
const MARK_MAX: u64 = (1 << (53 - NODE_BITS)) - 1;

const TOO_FAR: &str = "ERR preshard: a node's cursor is beyond 2^36";

/// One page that a client asks for.
#[derive(Debug)]
pub struct Page {
    shard: ShardId,
    /// The mark of who had the shard when it was asked.
    owner: u64,
    /// The node was asked from the start, so all may be in one page, whoever gives it.
    from_start: bool,
    /// Keys of helpers are left out.
    of_keys: bool,
    reply: Vec<u8>,
    from_node: bool,
}

impl Page {
    /// Begins a request whose cursor is its argument at `place`, and writes the one for the node. `of_keys`: its elements are keys.
    #[must_use]
    pub fn ask(
        args: &Args<'_>,
        place: usize,
        (shard, of_keys): (ShardId, bool),
        topology: &Topology,
        out: &mut Vec<u8>,
    ) -> Self {
        let owner = mark_of(topology, shard, MARK_MAX);
        let cursor = number(args.get(place));
        let own = match cursor {
            Some(cursor) if cursor >> NODE_BITS == owner => Some(cursor & (NODE_CURSOR_MAX - 1)),
            Some(cursor) if (1..=MARK_MAX).contains(&(cursor >> NODE_BITS)) => Some(0),
            // Without a mark, or nothing that was ever a cursor: the node's own affair.
            Some(_) | None => None,
        };
        resp::write_array_header(out, args.len());
        for (at, argument) in args.iter().enumerate() {
            match own.filter(|_| at == place) {
                Some(cursor) => resp::write_bulk(out, cursor.to_string().as_bytes()),
                None => resp::write_bulk(out, argument),
            }
        }
        Self {
            shard,
            owner,
            from_start: own.or(cursor) == Some(0),
            of_keys,
            reply: Vec::new(),
            from_node: false,
        }
    }

    /// Takes in how it ended; the topology is today's.
    pub fn part(&mut self, outcome: Outcome<'_>, topology: &Topology) {
        match outcome {
            Outcome::Reply(reply) => {
                self.from_node = true;
                // An error, as a rule.
                if self.absorb(reply, topology).is_none() {
                    reply.clone_into(&mut self.reply);
                }
            }
            Outcome::NotRun(line) | Outcome::Uncertain(line) => self.reply = resp::error_line(line),
        }
    }

    /// Puts the client's cursor in the place of the node's. `None` if it is no page.
    fn absorb(&mut self, reply: &[u8], topology: &Topology) -> Option<()> {
        let mut pair = elements(reply)?;
        let cursor = number(bulk(pair.next()?)?)?;
        let found = pair.rest();
        let owner = mark_of(topology, self.shard, MARK_MAX);
        // It may have been kept in the middle of a move, and answered by a node whose cursor it did not hold.
        let has_moved = owner != self.owner;
        let next = if cursor == 0 && (self.from_start || !has_moved) {
            0
        } else if has_moved {
            owner << NODE_BITS
        } else if cursor < NODE_CURSOR_MAX {
            owner << NODE_BITS | cursor
        } else {
            self.reply = resp::error_line(TOO_FAR);
            return Some(());
        };
        resp::write_array_header(&mut self.reply, 2);
        resp::write_bulk(&mut self.reply, next.to_string().as_bytes());
        if self.of_keys {
            let (count, keys) = clients_keys(&elements(found)?);
            resp::write_array_header(&mut self.reply, count);
            self.reply.extend_from_slice(&keys);
        } else {
            self.reply.extend_from_slice(found);
        }
        Some(())
    }

    /// The client's reply, and whether a node has made it.
    #[must_use]
    pub fn reply(&self) -> (&[u8], bool) {
        (&self.reply, self.from_node)
    }
}

/// Names the node that has a shard, and its run, by a number from 1 to `max`.
pub(super) fn mark_of(topology: &Topology, shard: ShardId, max: u64) -> u64 {
    let index = topology.placement(shard).node;
    let node = topology.node(index);
    // A node without users of preshard is known by where it is.
    let run = topology
        .access
        .get(&index)
        .map_or_else(|| node.address.to_string(), |access| access.run_id.clone());
    let bytes = node.name.bytes().chain([0]).chain(run.into_bytes());
    // FNV-1a: the same in every proxy, whatever it was built with.
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    1 + hash % max
}

/// A cursor as nodes write it.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

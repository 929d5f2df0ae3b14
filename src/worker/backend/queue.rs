//! What waits for a node: the unsent requests of each shard, together in one place for each link.
//!
//! ```text
//!  chains (by shard)   7: first ─▶ last      9: first ─▶ last        order: 7, 9
//!                          │        ▲             │
//!  entries             [ a ─────────┤         b ] [ c ]              in the order that they came, linked by shard
//!  bytes               [ frame of a · frame of b · frame of c ]      one run of memory, written once, read once
//! ```
//!
//! A shard is one logical database, so its chain is what a link drains behind one `SELECT`, and what a move can hold:
//! its requests were not sent, so they can go elsewhere whole. There may be thousands of shards; a queue of its own
//! for each would touch several cold cache lines for every request.

use std::collections::VecDeque;

use bytes::Bytes;

use super::kept::Frame;
use crate::ids::{DbIndex, ShardId};
use crate::worker::outbuf::{LARGE_BYTES, OutBuf, Spares};

/// An empty backlog keeps up to this much memory, and as much for moving things together.
const KEPT_BYTES: usize = 1024 * 1024;
const KEPT_ENTRIES: usize = 16 * 1024;
/// Fewer entries than this are not worth being moved together.
const COMPACT_MIN: usize = 1024;
/// The end of a chain.
const NONE: u32 = u32::MAX;

/// Who gets the reply of a request that was sent to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Owner {
    /// A client: index, generation, sequence number of the request.
    Client { index: u32, generation: u32, seq: u32 },
    /// A gather: index, generation, number of the part.
    Gather { index: u32, generation: u32, part: u32 },
    /// The link itself: a SELECT that must answer `+OK`.
    Select,
    /// Nobody any more: the request was answered `UNCERTAIN` at its deadline, its reply is still due.
    Tombstone,
    /// Nobody: an order to this one node, which no other gets in its stead. A fenced one has it load a script.
    Order,
}

/// One request on its way to a node, or one whose reply is due.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Entry {
    pub(in crate::worker) owner: Owner,
    pub(in crate::worker) bytes: u32,
    /// Worker time in microseconds, wrapping, when it came.
    pub(in crate::worker) since: u32,
    pub(in crate::worker) shard: ShardId,
    /// Its bytes are a chunk of their own.
    pub(in crate::worker) large: bool,
    pub(in crate::worker) shape: Shape,
    /// Frames that the node answers it with: 1, unless its shape says otherwise.
    pub(in crate::worker) frames: u32,
}

/// How many frames a node answers to one request, and which of them is the reply.
///
/// Its bytes are always one piece, so nothing else of the link comes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Shape {
    /// One, the reply.
    Plain,
    /// Several commands: the first, once all have come. What follows it is read away.
    First,
    /// `MULTI … EXEC`: the last.
    Transaction,
    /// A script and its fence: the first. See [`super::block`].
    Fenced,
    /// `MULTI … EXEC` and a fence: the last but one.
    FencedTransaction,
}

impl Shape {
    /// The shape of so many commands of which the first one's reply counts.
    pub(in crate::worker) const fn of_first(frames: u32) -> Self {
        if frames == 1 { Self::Plain } else { Self::First }
    }

    /// Whether other frames come behind the reply, so that it must be kept until they have.
    pub(in crate::worker) const fn answers_early(self) -> bool {
        matches!(self, Self::First | Self::Fenced | Self::FencedTransaction)
    }

    /// Whether it begins with `MULTI`.
    pub(in crate::worker) const fn is_transaction(self) -> bool {
        matches!(self, Self::Transaction | Self::FencedTransaction)
    }

    /// Whether a fence stands behind it.
    pub(in crate::worker) const fn is_fenced(self) -> bool {
        matches!(self, Self::Fenced | Self::FencedTransaction)
    }
}

/// The unsent requests of one shard.
#[derive(Clone, Copy, Debug)]
struct Chain {
    first: u32,
    last: u32,
    db: DbIndex,
}

/// A request that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    entry: Entry,
    /// Where its bytes begin; for a large one, its place among the large ones.
    at: u32,
    next: u32,
}

/// All unsent requests of one link.
#[derive(Debug)]
pub(in crate::worker) struct Backlog {
    chains: Vec<Chain>,
    order: VecDeque<ShardId>,
    entries: Vec<Waiting>,
    bytes: Vec<u8>,
    large: Vec<Bytes>,
    /// Empty, with the memory that the next compaction needs.
    spare: (Vec<Waiting>, Vec<u8>),
    len: usize,
    live_bytes: usize,
}

impl Backlog {
    /// An empty backlog; `dbs` are the databases of the shards.
    pub(in crate::worker) fn new(dbs: impl Iterator<Item = DbIndex>) -> Self {
        Self {
            chains: dbs
                .map(|db| Chain {
                    first: NONE,
                    last: NONE,
                    db,
                })
                .collect(),
            order: VecDeque::new(),
            entries: Vec::new(),
            bytes: Vec::new(),
            large: Vec::new(),
            spare: Default::default(),
            len: 0,
            live_bytes: 0,
        }
    }

    /// Requests that wait.
    pub(in crate::worker) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::worker) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that wait.
    pub(in crate::worker) fn bytes(&self) -> usize {
        self.live_bytes
    }

    /// Shards that have requests waiting.
    pub(in crate::worker) fn shards(&self) -> usize {
        self.order.len()
    }

    /// Appends a request to its shard's chain.
    #[inline]
    pub(in crate::worker) fn push(&mut self, mut entry: Entry, frame: &[u8]) {
        let at = if frame.len() >= LARGE_BYTES {
            entry.large = true;
            self.large.push(Bytes::copy_from_slice(frame));
            self.large.len() - 1
        } else {
            self.bytes.extend_from_slice(frame);
            self.bytes.len() - frame.len()
        };
        let number = number_of(self.entries.len());
        self.entries.push(Waiting {
            entry,
            at: number_of(at),
            next: NONE,
        });
        let chain = &mut self.chains[entry.shard.index()];
        if chain.first == NONE {
            chain.first = number;
            self.order.push_back(entry.shard);
        } else {
            self.entries[chain.last as usize].next = number;
        }
        chain.last = number;
        self.len += 1;
        self.live_bytes += frame.len();
    }

    /// The shard that is next, and its database.
    pub(in crate::worker) fn front(&self) -> Option<(ShardId, DbIndex)> {
        let &shard = self.order.front()?;
        Some((shard, self.chains[shard.index()].db))
    }

    /// Brings the shard of a database forward if it is among the next few: a link that has it selected needs no SELECT.
    pub(in crate::worker) fn prefer(&mut self, db: DbIndex) {
        const LOOK_MAX: usize = 64;
        let place = self
            .order
            .iter()
            .take(LOOK_MAX)
            .position(|shard| self.chains[shard.index()].db == db);
        if let Some(place) = place {
            self.order.swap(0, place);
        }
    }

    /// Bytes of the oldest request of the next shard.
    pub(in crate::worker) fn front_bytes(&self) -> usize {
        let first = self
            .order
            .front()
            .map_or(NONE, |shard| self.chains[shard.index()].first);
        self.entries
            .get(first as usize)
            .map_or(0, |waiting| waiting.entry.bytes as usize)
    }

    /// Whether the next shard's oldest request runs code, as all requests of its link do then.
    #[inline]
    pub(super) fn front_runs_code(&self) -> bool {
        let first = self
            .order
            .front()
            .map_or(NONE, |shard| self.chains[shard.index()].first);
        self.entries
            .get(first as usize)
            .is_some_and(|waiting| waiting.entry.shape.is_fenced())
    }

    /// Shows up to `count` requests of the next shard, of at most `bytes_max` bytes together: those that are about to be moved.
    pub(super) fn look_front(&self, (count, bytes_max): (usize, usize), mut look: impl FnMut(Entry, &[u8])) {
        let Some(&shard) = self.order.front() else {
            return;
        };
        let mut next = self.chains[shard.index()].first;
        let mut seen = 0;
        for _ in 0..count {
            let Some(&Waiting {
                entry,
                at,
                next: after,
            }) = self.entries.get(next as usize)
            else {
                break;
            };
            seen += entry.bytes as usize;
            if seen > bytes_max {
                break;
            }
            let at = at as usize;
            if entry.large {
                look(entry, &self.large[at]);
            } else {
                look(entry, &self.bytes[at..at + entry.bytes as usize]);
            }
            next = after;
        }
    }

    /// Moves up to `count` requests of the next shard, of at most `bytes_max` bytes together, to a link's output and its
    /// list of replies due; `keep` sees each of them. If some are left, the shard's next turn comes after those of all others.
    /// Returns bytes.
    pub(super) fn drain_front(
        &mut self,
        (count, bytes_max): (usize, usize),
        out: &mut OutBuf,
        due: &mut VecDeque<Entry>,
        spares: &mut Spares,
        mut keep: impl FnMut(Frame<'_>),
    ) -> usize {
        let Some(&shard) = self.order.front() else {
            return 0;
        };
        let mut next = self.chains[shard.index()].first;
        let mut moved = 0;
        for _ in 0..count {
            let Some(&Waiting {
                entry,
                at,
                next: after,
            }) = self.entries.get(next as usize)
            else {
                break;
            };
            let length = entry.bytes as usize;
            if moved + length > bytes_max {
                break;
            }
            if entry.large {
                keep(Frame::Large(&self.large[at as usize]));
                out.push_large(std::mem::take(&mut self.large[at as usize]));
            } else {
                let frame = &self.bytes[at as usize..at as usize + length];
                keep(Frame::Small(frame));
                out.push(frame, spares);
            }
            due.push_back(entry);
            moved += length;
            self.len -= 1;
            next = after;
        }
        self.live_bytes -= moved;
        self.chains[shard.index()].first = next;
        self.order.pop_front();
        if next != NONE {
            self.order.push_back(shard);
        }
        self.tidy();
        moved
    }

    /// Takes the oldest request of some shard out, unsent. `None` if nothing waits.
    pub(in crate::worker) fn pop(&mut self) -> Option<Entry> {
        let &shard = self.order.front()?;
        let entry = self.unlink_first(shard)?;
        if self.chains[shard.index()].first == NONE {
            self.order.pop_front();
        }
        self.tidy();
        Some(entry)
    }

    /// Takes all requests of a shard out, in order, with their bytes.
    pub(in crate::worker) fn take_chain(&mut self, shard: ShardId) -> Vec<(Entry, Bytes)> {
        let mut taken = Vec::new();
        let mut next = self.chains[shard.index()].first;
        while let Some(&Waiting {
            entry,
            at,
            next: after,
        }) = self.entries.get(next as usize)
        {
            let at = at as usize;
            let frame = if entry.large {
                self.large[at].clone()
            } else {
                Bytes::copy_from_slice(&self.bytes[at..at + entry.bytes as usize])
            };
            self.unlink_first(shard);
            taken.push((entry, frame));
            next = after;
        }
        self.order.retain(|&waiting| waiting != shard);
        self.tidy();
        taken
    }

    /// Takes the requests out that came more than `age` before `now`, both in wrapping microseconds.
    pub(in crate::worker) fn take_older(&mut self, now: u32, age: u64) -> Vec<Entry> {
        let mut taken = Vec::new();
        let mut order = std::mem::take(&mut self.order);
        order.retain(|&shard| {
            while let Some(waiting) = self.entries.get(self.chains[shard.index()].first as usize) {
                if u64::from(now.wrapping_sub(waiting.entry.since)) < age {
                    return true;
                }
                taken.extend(self.unlink_first(shard));
            }
            false
        });
        self.order = order;
        self.tidy();
        taken
    }

    fn unlink_first(&mut self, shard: ShardId) -> Option<Entry> {
        let chain = &mut self.chains[shard.index()];
        let waiting = *self.entries.get(chain.first as usize)?;
        chain.first = waiting.next;
        if waiting.entry.large {
            self.large[waiting.at as usize] = Bytes::new();
        }
        self.len -= 1;
        self.live_bytes -= waiting.entry.bytes as usize;
        Some(waiting.entry)
    }

    /// Forgets what was taken: at once when nothing is left, by moving the rest together when most of it is gone.
    fn tidy(&mut self) {
        if self.len == 0 {
            self.entries.clear();
            self.bytes.clear();
            if !self.large.is_empty() {
                self.large = Vec::new();
            }
            if self.bytes.capacity() > KEPT_BYTES {
                self.bytes = Vec::new();
            }
            if self.entries.capacity() > KEPT_ENTRIES {
                self.entries = Vec::new();
            }
        } else if self.len < self.entries.len() / 4 && self.entries.len() >= COMPACT_MIN
            || self.live_bytes < self.bytes.len() / 4 && self.bytes.len() >= KEPT_BYTES
        {
            self.compact();
        }
    }

    /// Moves what waits together, each chain in one piece, into memory that an earlier time has left.
    #[cold]
    fn compact(&mut self) {
        let (entries, bytes) = std::mem::take(&mut self.spare);
        let mut entries = std::mem::replace(&mut self.entries, entries);
        let mut bytes = std::mem::replace(&mut self.bytes, bytes);
        let mut large = std::mem::take(&mut self.large);
        for shard in &self.order {
            let chain = &mut self.chains[shard.index()];
            let mut next = std::mem::replace(&mut chain.first, number_of(self.entries.len()));
            while let Some(&waiting) = entries.get(next as usize) {
                let from = waiting.at as usize;
                let at = if waiting.entry.large {
                    self.large.push(std::mem::take(&mut large[from]));
                    self.large.len() - 1
                } else {
                    let length = waiting.entry.bytes as usize;
                    self.bytes.extend_from_slice(&bytes[from..from + length]);
                    self.bytes.len() - length
                };
                next = waiting.next;
                chain.last = number_of(self.entries.len());
                self.entries.push(Waiting {
                    entry: waiting.entry,
                    at: number_of(at),
                    next: if next == NONE { NONE } else { chain.last + 1 },
                });
            }
        }
        entries.clear();
        bytes.clear();
        if entries.capacity() <= KEPT_ENTRIES && bytes.capacity() <= KEPT_BYTES {
            self.spare = (entries, bytes);
        }
    }
}

/// A place among what waits. The limits of a queue keep all of it far below 2^32.
#[inline]
fn number_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(NONE)
}

/// Where the requests of one shard go, for one protocol version.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Lane {
    pub(in crate::worker) shard: ShardId,
    /// Index of the link.
    pub(in crate::worker) link: u32,
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;

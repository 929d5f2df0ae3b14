//! What waits for a node: one queue for each shard and protocol.
//!
//! Since a shard is one logical database, its queue is also the unit that a link drains behind one `SELECT`, and the
//! unit that a move can hold: its bytes have not been sent, so they can go elsewhere whole.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::{DbIndex, ShardId};
use crate::worker::outbuf::{LARGE_BYTES, OutBuf, Spares};

/// A queue keeps up to this much memory when it is empty; there are thousands of queues.
const KEPT_BYTES: usize = 4 * 1024;
const KEPT_ENTRIES: usize = 64;

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
}

/// The unsent requests of one shard.
#[derive(Debug)]
pub(in crate::worker) struct ShardQueue {
    pub(in crate::worker) shard: ShardId,
    pub(in crate::worker) db: DbIndex,
    /// Index of the link that drains it.
    pub(in crate::worker) link: usize,
    /// It stands in its link's list of queues with something to send.
    pub(in crate::worker) listed: bool,
    bytes: Vec<u8>,
    taken: usize,
    large: VecDeque<Bytes>,
    entries: VecDeque<Entry>,
}

impl ShardQueue {
    pub(in crate::worker) fn new(shard: ShardId, db: DbIndex, link: usize) -> Self {
        Self {
            shard,
            db,
            link,
            listed: false,
            bytes: Vec::new(),
            taken: 0,
            large: VecDeque::new(),
            entries: VecDeque::new(),
        }
    }

    pub(in crate::worker) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(in crate::worker) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(in crate::worker) fn oldest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Appends a request.
    #[inline]
    pub(in crate::worker) fn push(&mut self, mut entry: Entry, frame: &[u8]) {
        if frame.len() >= LARGE_BYTES {
            entry.large = true;
            self.large.push_back(Bytes::copy_from_slice(frame));
        } else {
            self.bytes.extend_from_slice(frame);
        }
        self.entries.push_back(entry);
    }

    /// Moves up to `count` requests into a link's output and its list of replies due. Returns their bytes.
    pub(in crate::worker) fn drain_into(
        &mut self,
        count: usize,
        out: &mut OutBuf,
        due: &mut VecDeque<Entry>,
        spares: &mut Spares,
    ) -> usize {
        let all = count >= self.entries.len();
        let mut moved = 0;
        if all && self.large.is_empty() {
            moved = self.bytes.len() - self.taken;
            out.push(&self.bytes[self.taken..], spares);
            due.extend(self.entries.drain(..));
        } else {
            for _ in 0..count {
                let Some(entry) = self.entries.pop_front() else {
                    break;
                };
                let length = entry.bytes as usize;
                moved += length;
                if entry.large {
                    self.large
                        .pop_front()
                        .into_iter()
                        .for_each(|chunk| out.push_large(chunk));
                } else {
                    out.push(&self.bytes[self.taken..self.taken + length], spares);
                    self.taken += length;
                }
                due.push_back(entry);
            }
        }
        self.tidy();
        moved
    }

    /// Takes the oldest request out unsent.
    pub(in crate::worker) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        if entry.large {
            self.large.pop_front();
        } else {
            self.taken += entry.bytes as usize;
        }
        self.tidy();
        Some(entry)
    }

    fn tidy(&mut self) {
        if !self.entries.is_empty() {
            return;
        }
        self.bytes.clear();
        self.taken = 0;
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        if self.entries.capacity() > KEPT_ENTRIES {
            self.entries = VecDeque::new();
        }
        if self.large.capacity() > 0 {
            self.large = VecDeque::new();
        }
    }
}

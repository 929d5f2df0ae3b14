//! What waits for a node: one queue for each shard and protocol.
//!
//! Since a shard is one logical database, its queue is also the unit that a link drains behind one `SELECT`, and the
//! unit that a move can hold: its bytes have not been sent, so they can go elsewhere whole.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::{DbIndex, ShardId};
use crate::worker::outbuf::{LARGE_BYTES, OutBuf, Spares};

/// A queue keeps up to this much memory when it is empty; there are thousands of queues.
const KEPT_CAPACITY: usize = 1024;

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
            // A queue that is never quite drained would keep every byte that ever passed it.
            if self.taken >= LARGE_BYTES && self.taken > self.bytes.len() / 2 {
                self.bytes.drain(..self.taken);
                self.taken = 0;
            }
            return;
        }
        self.bytes.clear();
        self.taken = 0;
        self.bytes.shrink_to(KEPT_CAPACITY);
        self.entries.shrink_to(KEPT_CAPACITY / size_of::<Entry>());
        self.large = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHARD: ShardId = ShardId(7);

    fn entry(number: u32, frame: &[u8]) -> Entry {
        Entry {
            owner: Owner::Client {
                index: number,
                generation: 0,
                seq: 0,
            },
            bytes: u32::try_from(frame.len()).unwrap(),
            since: 0,
            shard: SHARD,
            large: false,
        }
    }

    /// Request `number`: as long as asked, and different from all others.
    fn frame(number: u32, length: usize) -> Vec<u8> {
        number
            .to_le_bytes()
            .into_iter()
            .cycle()
            .take(length.max(4))
            .collect()
    }

    fn number(entry: &Entry) -> u32 {
        match entry.owner {
            Owner::Client { index, .. } => index,
            Owner::Gather { .. } | Owner::Select | Owner::Tombstone => panic!("{entry:?}"),
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Push(usize),
        Drain(usize),
        Pop,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            5 => (4_usize..200).prop_map(Act::Push),
            1 => (LARGE_BYTES - 2..LARGE_BYTES + 2).prop_map(Act::Push),
            3 => (0_usize..8).prop_map(Act::Drain),
            1 => Just(Act::Drain(usize::MAX)),
            1 => Just(Act::Pop),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever is taken at a time, requests leave in their order and whole, large and small ones mixed, and the
        /// bytes that the queue says it gave are those that it gave.
        #[test]
        fn requests_leave_whole_and_in_order(acts in prop::collection::vec(act(), 1..120)) {
            let mut queue = ShardQueue::new(SHARD, DbIndex(0), 0);
            let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
            let mut waiting: VecDeque<(u32, Vec<u8>)> = VecDeque::new();
            let mut sent = Vec::new();
            let mut next = 0;
            for act in acts {
                match act {
                    Act::Push(length) => {
                        let bytes = frame(next, length);
                        queue.push(entry(next, &bytes), &bytes);
                        waiting.push_back((next, bytes));
                        next += 1;
                    }
                    Act::Drain(count) => {
                        let before = out.len();
                        let moved = queue.drain_into(count, &mut out, &mut due, &mut spares);
                        prop_assert_eq!(out.len() - before, moved);
                        for (number_sent, bytes) in waiting.drain(..count.min(waiting.len())) {
                            let entry = due.pop_front().unwrap();
                            prop_assert_eq!((number(&entry), entry.bytes as usize), (number_sent, bytes.len()));
                            sent.extend(bytes);
                        }
                        prop_assert!(due.is_empty(), "more was moved than asked");
                    }
                    Act::Pop => {
                        let popped = queue.pop().map(|entry| number(&entry));
                        prop_assert_eq!(popped, waiting.pop_front().map(|(number, _)| number));
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (waiting.len(), waiting.is_empty()));
                prop_assert_eq!(queue.oldest().map(number), waiting.front().map(|(number, _)| *number));
            }
            prop_assert_eq!(out.unwritten(), sent);
        }
    }

    #[test]
    fn a_queue_that_is_never_empty_keeps_only_what_waits() {
        let mut queue = ShardQueue::new(SHARD, DbIndex(0), 0);
        let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
        let bytes = frame(1, 1000);
        queue.push(entry(1, &bytes), &bytes);
        for _ in 0..10_000 {
            queue.push(entry(1, &bytes), &bytes);
            queue.drain_into(1, &mut out, &mut due, &mut spares);
            out.clear(&mut spares);
            due.clear();
        }
        assert_eq!(queue.len(), 1);
        assert!(
            queue.bytes.capacity() < 4 * LARGE_BYTES,
            "{}",
            queue.bytes.capacity()
        );
    }

    #[test]
    fn an_empty_queue_gives_its_memory_back() {
        let mut queue = ShardQueue::new(SHARD, DbIndex(0), 0);
        let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
        for length in [30_000, LARGE_BYTES, 30_000] {
            let bytes = frame(1, length);
            queue.push(entry(1, &bytes), &bytes);
        }
        queue.drain_into(usize::MAX, &mut out, &mut due, &mut spares);
        assert_eq!(out.len(), 60_000 + LARGE_BYTES);
        assert!(queue.bytes.capacity() <= KEPT_CAPACITY);
    }
}

//! One pipelined connection to a node, as data: what is queued, what is sent, what is due.
//!
//! ```text
//!  shard queues ──fill (SELECT on change of db)──▶ out ──write──▶ node
//!                                                  due ◀─replies── node     (one entry for each request, in order)
//! ```
//!
//! A reply belongs to a request by its position only. So a link that is once in doubt (a reply too many, one that
//! cannot be read, a SELECT that was not answered `+OK`) is closed, never put right.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use super::block::fence_bytes;
use super::kept::Kept;
use super::queue::{Backlog, Entry, Owner, Shape};
use crate::command::UNIT_PREFIX;
use crate::ids::{DbIndex, NodeIndex};
use crate::metrics::{LinkClose, NodeCells, Wire};
use crate::resp::{Protocol, ReplyScanner};
use crate::worker::outbuf::{OutBuf, Spares};
use crate::worker::scripts::Told;
use crate::worker::stream::Stream;

/// A link's output keeps this much memory between two writes.
const OUT_KEPT: usize = 512 * 1024;

/// Whether requests may be queued on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum State {
    /// Nobody has wanted it yet.
    Idle,
    /// Being connected for the first time, or again after it was well: requests wait.
    Connecting,
    /// Serving.
    Ready,
    /// Serving, but the oldest request is past its deadline: new requests are refused until the node answers.
    Silent,
    /// Could not be connected: requests are refused while it is tried again.
    Down,
    /// It has no node: requests of held shards wait on it. See [`crate::worker::gate`].
    Gate,
}

/// An ACL user of a node that preshard has made; none: the one of the config.
pub(in crate::worker) type User = Option<Arc<str>>;

/// Whether it is the user of shards that are about to move.
pub(super) fn is_unit_user(user: Option<&Arc<str>>) -> bool {
    user.is_some_and(|user| user.starts_with(UNIT_PREFIX))
}

/// What is done with the bytes of a reply that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Reading {
    /// Kept until it is whole.
    Whole,
    /// Passed on to the client as it comes: it is large and the client's turn.
    Stream,
    /// Thrown away: its client is gone.
    Skip,
}

/// A write to the node: when its last request is answered, the next may follow.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Batch {
    /// Number (since the link was made) of the first request behind it.
    pub(in crate::worker) end: u64,
    /// Worker time in microseconds when it was written.
    pub(in crate::worker) at: u64,
}

/// A shared connection to a node.
#[derive(Debug)]
pub(in crate::worker) struct Link {
    pub(in crate::worker) node: NodeIndex,
    pub(in crate::worker) protocol: Protocol,
    /// The ACL user of its connections; none: as the config says. See [`Self::set_user`].
    pub(in crate::worker) user: User,
    /// What was sent, if its user is that of shards that are about to move.
    pub(in crate::worker) kept: Option<Box<Kept>>,
    /// Writes that may be unanswered.
    pub(in crate::worker) batches_max: usize,
    /// It is to be opened though nothing waits for it yet.
    pub(in crate::worker) preopens: bool,
    /// Nothing more is sent over this connection: it is closed when all is answered, and made anew.
    pub(in crate::worker) redials: bool,
    /// Counters of its node.
    pub(in crate::worker) cells: Arc<NodeCells>,
    /// It was logged that the node is down.
    pub(in crate::worker) reported_down: bool,
    pub(in crate::worker) state: State,
    pub(in crate::worker) stream: Option<Stream>,
    pub(in crate::worker) waker: Option<Waker>,
    /// Set from outside the link's task to have it closed.
    pub(in crate::worker) close: Option<LinkClose>,
    /// It stands in the worker's list of links to wake.
    pub(in crate::worker) listed: bool,

    /// What waits to be sent.
    pub(in crate::worker) backlog: Backlog,
    /// Clients that wait for room in the queue: index, generation.
    pub(in crate::worker) waiting: Vec<(usize, u32)>,

    pub(in crate::worker) out: OutBuf,
    pub(in crate::worker) write_blocked: bool,
    pub(in crate::worker) db: Option<DbIndex>,
    pub(in crate::worker) due: VecDeque<Entry>,
    pub(in crate::worker) due_bytes: usize,
    /// SELECTs among what is due.
    pub(in crate::worker) selects_due: usize,
    /// The shard in front waits for a SELECT: it goes before the one whose database is selected.
    pub(in crate::worker) select_owed: bool,
    /// Requests answered since the link was made.
    pub(in crate::worker) answered: u64,
    pub(in crate::worker) batches: VecDeque<Batch>,
    /// Worker time in microseconds since when it is [`State::Silent`].
    pub(in crate::worker) silent_since: u64,

    pub(in crate::worker) scanner: ReplyScanner,
    /// Frames of the oldest request due that have come.
    pub(in crate::worker) frames_seen: u32,
    /// The reply of a fenced request while its fence is awaited.
    pub(in crate::worker) answer: Vec<u8>,
    /// Scripts that the node was told of over this connection.
    pub(in crate::worker) told: Told,
    /// The frame that a node answers to a fence of this worker. Queued requests carry it over connections and links.
    pub(in crate::worker) fence: Vec<u8>,
    pub(in crate::worker) partial: Vec<u8>,
    pub(in crate::worker) reading: Reading,
}

impl Link {
    pub(in crate::worker) fn new(
        node: NodeIndex,
        protocol: Protocol,
        user: User,
        cells: Arc<NodeCells>,
        backlog: Backlog,
        fence: &[u8],
    ) -> Self {
        let mut link = Self {
            node,
            protocol,
            user: None,
            kept: None,
            batches_max: 1,
            preopens: false,
            redials: false,
            cells,
            reported_down: false,
            state: State::Idle,
            stream: None,
            waker: None,
            close: None,
            listed: false,
            backlog,
            waiting: Vec::new(),
            out: OutBuf::keeping(OUT_KEPT),
            write_blocked: false,
            db: None,
            due: VecDeque::new(),
            due_bytes: 0,
            selects_due: 0,
            select_owed: false,
            answered: 0,
            batches: VecDeque::new(),
            silent_since: 0,
            scanner: ReplyScanner::default(),
            frames_seen: 0,
            answer: Vec::new(),
            told: Told::default(),
            fence: fence.to_vec(),
            partial: Vec::new(),
            reading: Reading::Whole,
        };
        link.set_user(user);
        link
    }

    /// As whom its connections log in from now on. Nothing may be due.
    pub(in crate::worker) fn set_user(&mut self, user: User) {
        self.kept = is_unit_user(user.as_ref()).then(Box::default);
        self.user = user;
    }

    /// Moves requests of the shard that is next to the output, within a number and bytes. Returns bytes.
    #[inline]
    pub(super) fn send_front(&mut self, most: (usize, usize), spares: &mut Spares) -> usize {
        let Self {
            backlog, out, due, ..
        } = self;
        match &mut self.kept {
            None => backlog.drain_front(most, out, due, spares, |_| ()),
            Some(kept) => backlog.drain_front(most, out, due, spares, |frame| kept.push(frame)),
        }
    }

    /// Whether a node still has to answer requests.
    pub(in crate::worker) fn awaits_requests(&self) -> bool {
        self.due.iter().any(|entry| entry.owner != Owner::Select)
    }

    /// Whether a reply can be one that was asked for: of the oldest request due what is answered first may have gone out.
    #[inline]
    pub(in crate::worker) fn awaits_reply(&self) -> bool {
        self.due.front().is_some_and(|entry| {
            let behind = self.due_bytes - entry.bytes as usize;
            self.out.len() <= behind || self.may_be_answered(entry, behind)
        })
    }

    /// The same of a request that has not been counted as written to its last byte; `behind` it are so many.
    #[cold]
    fn may_be_answered(&self, entry: &Entry, behind: usize) -> bool {
        let unsent = self.unsent().saturating_sub(behind);
        match entry.shape {
            Shape::Plain => unsent == 0,
            // Each of its frames is answered by itself.
            Shape::First | Shape::Transaction | Shape::Fenced | Shape::FencedTransaction => {
                unsent < entry.bytes as usize
            }
        }
    }

    /// Bytes of the output of which the node cannot have read any.
    #[cold]
    pub(in crate::worker) fn unsent(&self) -> usize {
        let owed = self.stream.as_ref().map_or(0, Stream::owed);
        self.out.len().saturating_sub(owed)
    }

    /// Whether what was asked may have run, given that the last `unsent` bytes of it never left. A node runs whole frames, and a
    /// transaction with its last one; before a fence stands all that matters, and a block may have run from its first frame on.
    pub(super) fn may_have_run(&self, entry: &Entry, unsent: usize) -> bool {
        match entry.shape {
            Shape::Plain | Shape::Transaction => unsent == 0,
            Shape::Fenced | Shape::FencedTransaction => unsent <= fence_bytes(&self.fence),
            Shape::First => unsent < entry.bytes as usize,
        }
    }

    /// Takes the oldest request whose reply is due, and the batches that it completes.
    #[inline(always)]
    pub(in crate::worker) fn pop_due(&mut self) -> Option<Entry> {
        let entry = self.due.pop_front()?;
        if let Some(kept) = &mut self.kept {
            kept.pop(entry);
        }
        self.frames_seen = 0;
        self.due_bytes -= entry.bytes as usize;
        self.selects_due -= usize::from(entry.owner == Owner::Select);
        self.answered += 1;
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.end <= self.answered)
        {
            self.batches.pop_front();
        }
        Some(entry)
    }

    /// Bytes that it keeps of a reply that has not ended, if that is one of this gather's.
    pub(in crate::worker) fn reads_for(&self, gather: usize, generation: u32) -> usize {
        let is_of = |entry: &Entry| matches!(entry.owner, Owner::Gather { index, generation: of, .. } if index as usize == gather && of == generation);
        if self.due.front().is_some_and(is_of) {
            self.partial.len() + self.answer.len()
        } else {
            0
        }
    }

    pub(in crate::worker) fn wire(&self) -> Wire {
        match self.protocol {
            Protocol::Resp2 => Wire::Resp2,
            Protocol::Resp3 => Wire::Resp3,
        }
    }

    pub(in crate::worker) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

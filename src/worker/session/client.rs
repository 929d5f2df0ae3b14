//! One client as data: what it asked, in order, and what it is owed.
//!
//! ```text
//!  slots (requests in the order asked):   [ waiting | parked | waiting | parked ]
//!                                            ▲ head: only its reply may be appended to `out`
//!  parked replies lie in one arena; when the head is answered, all parked behind it follow
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use super::blocking::Watching;
use super::dispatch::to_u32;
use super::replicas::ReplicaWait;
use super::script::CalledBySum;
use super::transaction::Queued;
use crate::command::{self, Class, CommandId};
use crate::metrics::{Disconnect, RequestClass, Wire};
use crate::resp::{ArgRange, Protocol, RequestScanner};
use crate::worker::dedicated::Dedicated;
use crate::worker::outbuf::{OutBuf, Spares};
use crate::worker::registry::{ClientFlags, ClientInfo};
use crate::worker::slowlog::ShownArgs;
use crate::worker::stream::Stream;
use crate::worker::tracking::Held;
use crate::worker::users::{Counted, User, Users};

/// A request that is not answered.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Slot {
    /// Its reply, if it came before its turn: place in the arena.
    pub(in crate::worker) parked: Option<(u32, u32)>,
    /// Worker time in microseconds, wrapping.
    pub(in crate::worker) since: u32,
    pub(in crate::worker) bytes: u32,
    /// What it asks, for the slow log; none for what the proxy answered itself.
    pub(in crate::worker) command: CommandId,
    pub(in crate::worker) class: RequestClass,
    pub(in crate::worker) marks: Marks,
}

const _: () = assert!(size_of::<Slot>() == 24, "there is one for each request in flight");

/// What else is to be known of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::worker) struct Marks(u8);

impl Marks {
    /// The last request of those that came with one read: when it is answered, the client is written to.
    pub(in crate::worker) const LAST_OF_READ: Self = Self(1);
    /// Its client asked for no reply.
    pub(in crate::worker) const SILENT: Self = Self(2);

    pub(in crate::worker) const fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    pub(in crate::worker) const fn set(&mut self, mark: Self) {
        self.0 |= mark.0;
    }

    pub(in crate::worker) const fn unset(&mut self, mark: Self) {
        self.0 &= !mark.0;
    }
}

/// Bytes of requests that have not ended, or that wait.
#[derive(Debug, Default)]
pub(in crate::worker) struct Partial {
    pub(in crate::worker) buf: Vec<u8>,
    /// Where the first request that is not handled begins.
    pub(in crate::worker) start: usize,
    pub(in crate::worker) scanner: RequestScanner,
    pub(in crate::worker) args: Vec<ArgRange>,
    /// Bytes that the scanner knows to be missing.
    pub(in crate::worker) missing: usize,
    /// What of the buffer is counted in the worker's total. The buffer may have grown since.
    pub(in crate::worker) counted: usize,
}

/// Why a client's requests are not taken for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Pause {
    /// They are taken.
    No,
    /// Too many requests or bytes in flight, or too many reply bytes unread.
    Limits,
    /// The queue of a node is full.
    Queue,
    /// The next request must see everything before it answered.
    Barrier,
    /// Clients are paused (`CLIENT PAUSE`).
    Clients,
    /// Its password is not looked at yet, since wrong ones came lately.
    Password,
}

/// Which connections to nodes carry what a client has in flight. Two kinds at once could overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Via {
    /// Those that all clients of the worker share.
    Shared,
    /// Those for what runs code on nodes.
    Script,
    /// The shared ones, for a request that goes on to ask after others have answered: one at a time.
    Rounds,
    /// One of its own: one request at a time.
    Dedicated,
}

/// States of a session in which a request may mean something else than usual. One comparison on the hot path tells
/// that there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) struct Special(u8);

impl Special {
    pub(in crate::worker) const NONE: Self = Self(0);
    /// Between `MULTI` and `EXEC`.
    pub(in crate::worker) const TRANSACTION: Self = Self(1);
    /// `CLIENT REPLY OFF`.
    pub(in crate::worker) const SILENT: Self = Self(1 << 1);
    /// `CLIENT REPLY SKIP` was the last request.
    pub(in crate::worker) const SKIPS_NEXT: Self = Self(1 << 2);
    /// The request that is being handled has no reply.
    pub(in crate::worker) const SKIPS: Self = Self(1 << 3);
    /// Subscribed, in RESP2: few commands mean anything.
    pub(in crate::worker) const SUBSCRIBED: Self = Self(1 << 4);
    /// Subscribing: what comes behind must see it done.
    pub(in crate::worker) const SUBSCRIBING: Self = Self(1 << 5);
    /// What it reads is noted, for its cache.
    pub(in crate::worker) const TRACKING: Self = Self(1 << 6);
    /// Its user may not do everything: each request is looked at.
    pub(in crate::worker) const LIMITED: Self = Self(1 << 7);

    /// Whether requests get no reply now.
    #[inline]
    pub(in crate::worker) const fn is_silent(self) -> bool {
        self.0 & (Self::SILENT.0 | Self::SKIPS.0) != 0
    }

    pub(in crate::worker) const fn has(self, state: Self) -> bool {
        self.0 & state.0 != 0
    }

    pub(in crate::worker) const fn set(&mut self, state: Self) {
        self.0 |= state.0;
    }

    pub(in crate::worker) const fn unset(&mut self, state: Self) {
        self.0 &= !state.0;
    }
}

/// A connected client.
///
/// Each reply comes for another client than the one before it, so what a request and its reply touch stands together, in the
/// first cache lines. The compiler would spread it over all of them.
#[derive(Debug)]
#[repr(C, align(64))]
pub(in crate::worker) struct Client {
    // --- every request and every reply ---
    pub(in crate::worker) generation: u32,
    pub(in crate::worker) head_seq: u32,
    pub(in crate::worker) slots: VecDeque<Slot>,
    pub(in crate::worker) request_bytes: usize,
    /// Worker time when a reply came last, in its turn or not.
    pub(in crate::worker) replied_at: u64,
    /// It is to be closed at once.
    pub(in crate::worker) closed: Option<Disconnect>,
    /// No request is taken any more; it is closed when all is answered and written.
    pub(in crate::worker) closing: Option<Disconnect>,
    pub(in crate::worker) pause: Pause,
    pub(in crate::worker) special: Special,
    pub(in crate::worker) via: Via,
    pub(in crate::worker) protocol: Protocol,
    pub(in crate::worker) authenticated: bool,
    /// It has sent its last byte.
    pub(in crate::worker) read_ended: bool,

    pub(in crate::worker) parked: Vec<u8>,
    pub(in crate::worker) parked_live: usize,
    /// Bytes that its gathers hold for replies in the making.
    pub(in crate::worker) gathered: usize,
    pub(in crate::worker) db: u16,
    pub(in crate::worker) last_command: CommandId,
    pub(in crate::worker) write_blocked: bool,
    /// It stands in the worker's list of clients to flush.
    pub(in crate::worker) dirty: bool,
    /// It stands in the list of clients whose replies are held back for their pipeline's end.
    pub(in crate::worker) corked: bool,
    /// All that came with one read is answered.
    pub(in crate::worker) flush_due: bool,
    pub(in crate::worker) commands: u64,
    /// Invalidations that wait for replies.
    pub(in crate::worker) invalidations: Option<Box<Held>>,

    pub(in crate::worker) out: OutBuf,
    /// Messages that wait for the end of a reply that is being passed on in pieces.
    pub(in crate::worker) held_back: Vec<u8>,

    // --- every read and every write ---
    pub(in crate::worker) partial: Option<Box<Partial>>,
    pub(in crate::worker) stream: Stream,
    pub(in crate::worker) waker: Option<Waker>,
    /// Bytes read from it, and written to it.
    pub(in crate::worker) received: u64,
    pub(in crate::worker) transmitted: u64,
    /// Milliseconds after the start of the process, of the last read.
    pub(in crate::worker) active_ms: u64,
    pub(in crate::worker) corked_at: u64,
    /// Worker time of the last byte that it took from a full socket.
    pub(in crate::worker) progress_at: u64,
    pub(in crate::worker) info: Arc<ClientInfo>,

    // --- the rest ---
    /// `CLIENT NO-EVICT ON`, `CLIENT NO-TOUCH ON`: shown only.
    pub(in crate::worker) no_evict: bool,
    pub(in crate::worker) no_touch: bool,
    /// Who it is; while it is not authenticated, who it would be if it gave no name.
    pub(in crate::worker) user: Arc<User>,
    /// It counts as a client of its user.
    pub(in crate::worker) counted: Option<Counted>,
    /// When its password is looked at, if that waits.
    pub(in crate::worker) password_due_ms: Option<u64>,
    /// Its last request, if that was a script called by its sum and nothing else was in flight.
    pub(in crate::worker) called_by_sum: Option<Box<CalledBySum>>,
    /// The connection of its own that carries its request.
    pub(in crate::worker) waits_at: Option<Dedicated>,
    pub(in crate::worker) watching: Option<Watching>,
    /// What it asks of one node after the other.
    pub(in crate::worker) replica_wait: Option<Box<ReplicaWait>>,
    /// What was queued since `MULTI`.
    pub(in crate::worker) transaction: Option<Box<Queued>>,
    /// Worker time since when it waits for a node's queue.
    pub(in crate::worker) paused_at: u64,
    /// It waited too long for a node's queue: the next full queue refuses.
    pub(in crate::worker) refuse_when_full: bool,
    /// The link in whose list of waiting clients it was put last.
    pub(in crate::worker) waits_for: Option<usize>,
    /// What the slow log may show of its requests.
    pub(in crate::worker) shown_args: Option<Box<ShownArgs>>,
    /// A reply is being passed on in pieces: nothing may be appended but its next piece.
    pub(in crate::worker) streams: bool,
    /// It has subscribed to something.
    pub(in crate::worker) listens: bool,
    /// It stands in the list of those that have got messages and were not written to.
    pub(in crate::worker) unflushed: bool,
    /// The sending side is closed; what comes is thrown away until this time.
    pub(in crate::worker) lingering_until: Option<u64>,
}

impl Client {
    pub(in crate::worker) fn new(
        generation: u32,
        info: Arc<ClientInfo>,
        stream: Stream,
        users: &Users,
        now: u64,
    ) -> Self {
        let mut client = Self {
            generation,
            stream,
            waker: None,
            last_command: CommandId::NONE,
            commands: 0,
            received: 0,
            transmitted: 0,
            no_evict: false,
            no_touch: false,
            active_ms: info.connected_ms,
            protocol: Protocol::Resp2,
            db: 0,
            authenticated: false,
            user: Arc::clone(users.default_user()),
            counted: None,
            password_due_ms: None,
            special: Special::NONE,
            via: Via::Shared,
            called_by_sum: None,
            waits_at: None,
            watching: None,
            replica_wait: None,
            transaction: None,
            partial: None,
            pause: Pause::No,
            paused_at: 0,
            refuse_when_full: false,
            waits_for: None,
            slots: VecDeque::new(),
            shown_args: None,
            head_seq: 0,
            request_bytes: 0,
            parked: Vec::new(),
            parked_live: 0,
            gathered: 0,
            out: OutBuf::default(),
            streams: false,
            held_back: Vec::new(),
            invalidations: None,
            listens: false,
            unflushed: false,
            write_blocked: false,
            dirty: false,
            corked: false,
            corked_at: 0,
            replied_at: 0,
            flush_due: false,
            progress_at: now,
            read_ended: false,
            closing: None,
            closed: None,
            lingering_until: None,
            info,
        };
        if users.are_open() {
            client.become_user(users.default_user());
        }
        client
    }

    /// Reply bytes that are held for the client, those of replies in the making included.
    pub(in crate::worker) fn output_bytes(&self) -> usize {
        self.out.len() + self.parked_live + self.gathered + self.held_back.len()
    }

    /// Bytes of requests that are read and not handled.
    pub(in crate::worker) fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.counted)
            + self.transaction.as_ref().map_or(0, |queued| queued.held_bytes())
    }

    /// Whether it is read though its next request must wait: it may leave while it waits for data or for the end of a
    /// pause, and is not waited for then. What it sends meanwhile is kept up to a limit.
    pub(in crate::worker) fn may_leave(&self) -> bool {
        const READ_AHEAD: usize = 64 * 1024;
        let waits = match self.pause {
            Pause::Barrier => self.waits_at.is_some(),
            Pause::Clients => true,
            Pause::No | Pause::Limits | Pause::Queue | Pause::Password => false,
        };
        waits
            && self
                .partial
                .as_ref()
                .is_none_or(|partial| partial.buf.len() < READ_AHEAD)
    }

    /// Whether request `seq` is to have no reply.
    pub(in crate::worker) fn is_silent(&self, seq: u32) -> bool {
        let place = seq.wrapping_sub(self.head_seq) as usize;
        self.slots
            .get(place)
            .is_some_and(|slot| slot.marks.has(Marks::SILENT))
    }

    pub(in crate::worker) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub(in crate::worker) fn wire(&self) -> Wire {
        match self.protocol {
            Protocol::Resp2 => Wire::Resp2,
            Protocol::Resp3 => Wire::Resp3,
        }
    }

    /// The head of the reply queue is answered: the next one's turn.
    #[inline]
    pub(in crate::worker) fn take_head(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.flush_due |= slot.marks.has(Marks::LAST_OF_READ);
        }
        self.head_seq = self.head_seq.wrapping_add(1);
    }

    /// The sequence number of the next request.
    pub(in crate::worker) fn next_seq(&self) -> u32 {
        let in_flight = u32::try_from(self.slots.len()).unwrap_or(0);
        self.head_seq.wrapping_add(in_flight)
    }

    /// What came with one read ends here.
    #[inline]
    pub(in crate::worker) fn end_of_read(&mut self) {
        if let Some(slot) = self.slots.back_mut() {
            slot.marks.set(Marks::LAST_OF_READ);
        }
    }

    /// Tells the registry what it may show.
    pub(in crate::worker) fn publish(&self) {
        let info = &self.info;
        info.last_command.store(self.last_command.0, Relaxed);
        info.commands.store(self.commands, Relaxed);
        info.active_ms.store(self.active_ms, Relaxed);
        info.in_flight
            .store(u32::try_from(self.slots.len()).unwrap_or(u32::MAX), Relaxed);
        info.output_bytes.store(self.output_bytes() as u64, Relaxed);
        info.set_flags(self.flags());
        let queued = self.transaction.as_ref();
        info.queued
            .store(queued.map_or(0, |queued| queued.commands()), Relaxed);
        info.queued_bytes
            .store(queued.map_or(0, |queued| queued.held_bytes()) as u64, Relaxed);
        info.watched
            .store(self.watching.map_or(0, |watching| watching.keys), Relaxed);
        let input = self.partial.as_ref().map_or((0, 0), |partial| {
            let unread = partial.buf.len() - partial.start;
            (unread, partial.buf.capacity() - partial.buf.len())
        });
        info.input_bytes.store(input.0 as u64, Relaxed);
        info.input_free_bytes.store(input.1 as u64, Relaxed);
        let (tail, pieces) = self.out.parts();
        info.output_tail_bytes.store(tail as u64, Relaxed);
        info.output_pieces.store(to_u32(pieces), Relaxed);
        info.write_blocked.store(self.write_blocked, Relaxed);
        info.received.store(self.received, Relaxed);
        info.transmitted.store(self.transmitted, Relaxed);
    }

    fn flags(&self) -> ClientFlags {
        let command = command::by_id(self.last_command);
        let for_data = command.is_some_and(|spec| !matches!(spec.class, Class::Transaction(_)));
        let waits = self.pause == Pause::Clients || self.waits_at.is_some() && for_data;
        ClientFlags::NONE
            .with_if(self.transaction.is_some(), ClientFlags::MULTI)
            .with_if(waits, ClientFlags::BLOCKED)
            .with_if(
                self.watching.is_some_and(|watching| watching.lost),
                ClientFlags::DIRTY,
            )
            .with_if(self.closing.is_some(), ClientFlags::CLOSING)
            .with_if(self.closed.is_some(), ClientFlags::CLOSED)
            .with_if(self.stream.is_unix(), ClientFlags::UNIX)
            .with_if(self.no_evict, ClientFlags::NO_EVICT)
            .with_if(self.no_touch, ClientFlags::NO_TOUCH)
    }

    /// Appends the replies that came before their turn, which it is now.
    #[inline]
    pub(in crate::worker) fn unpark(&mut self, spares: &mut Spares) {
        while let Some(&Slot {
            parked: Some((start, length)),
            ..
        }) = self.slots.front()
        {
            let reply = &self.parked[start as usize..start as usize + length as usize];
            self.out.push(reply, spares);
            self.parked_live -= length as usize;
            self.take_head();
        }
    }

    /// Keeps a reply whose turn has not come.
    #[inline]
    pub(in crate::worker) fn park(&mut self, place: usize, reply: &[u8], spares: &mut Spares) {
        if self.parked.capacity() == 0 {
            self.parked = spares.take();
        }
        if self.parked_live == 0 {
            self.parked.clear();
        } else if self.parked.len() > 64 * 1024 && self.parked_live < self.parked.len() / 2 {
            self.compact();
        }
        // The hard output limit keeps both far below 4 GiB. An empty reply has no place: the arena may be emptied while
        // it waits.
        let place_in = if reply.is_empty() { 0 } else { self.parked.len() };
        let start = u32::try_from(place_in).unwrap_or(u32::MAX);
        self.parked.extend_from_slice(reply);
        let length = u32::try_from(reply.len()).unwrap_or(u32::MAX);
        self.parked_live += reply.len();
        self.slots[place].parked = Some((start, length));
    }

    fn compact(&mut self) {
        let mut kept = Vec::with_capacity(self.parked_live);
        for slot in &mut self.slots {
            if let Some((start, length @ 1..)) = slot.parked {
                let moved = u32::try_from(kept.len()).unwrap_or(u32::MAX);
                kept.extend_from_slice(&self.parked[start as usize..start as usize + length as usize]);
                slot.parked = Some((moved, length));
            }
        }
        self.parked = kept;
    }
}

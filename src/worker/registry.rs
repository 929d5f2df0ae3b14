//! Who is connected: one entry a client, shared with the admin side, touched by its worker with plain stores.
//!
//! `CLIENT LIST` and `SHOW CLIENTS` read here and never ask a worker. The lock is taken when a client comes,
//! leaves or is listed, never for a request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::command;
use crate::ids::NodeIndex;

/// Bits of a node's number for a connection.
const WAITS_BITS: u32 = 48;

/// Bytes of each of a client's names.
pub const NAME_MAX: usize = 1024;

/// The letters that `CLIENT LIST` shows of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFlags(u16);

impl ClientFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// It has subscribed.
    pub const PUBSUB: Self = Self(1);
    /// It is between `MULTI` and `EXEC`.
    pub const MULTI: Self = Self(1 << 1);
    /// It waits for data, or for the end of a pause.
    pub const BLOCKED: Self = Self(1 << 2);
    /// Its next `EXEC` will fail.
    pub const DIRTY: Self = Self(1 << 3);
    /// It is closed as soon as it is answered.
    pub const CLOSING: Self = Self(1 << 4);
    /// It is being closed.
    pub const CLOSED: Self = Self(1 << 5);
    /// It has come over a Unix socket.
    pub const UNIX: Self = Self(1 << 6);
    /// `CLIENT NO-EVICT ON`.
    pub const NO_EVICT: Self = Self(1 << 7);
    /// `CLIENT NO-TOUCH ON`.
    pub const NO_TOUCH: Self = Self(1 << 8);
    /// It is told of changes of keys (`CLIENT TRACKING`).
    pub const TRACKING: Self = Self(1 << 9);
    /// Of those under its prefixes, whatever it has read.
    pub const TRACKING_PREFIXES: Self = Self(1 << 10);

    /// In the order that Redis prints them.
    const LETTERS: [(Self, char); 11] = [
        (Self::PUBSUB, 'P'),
        (Self::MULTI, 'x'),
        (Self::BLOCKED, 'b'),
        (Self::TRACKING, 't'),
        (Self::TRACKING_PREFIXES, 'B'),
        (Self::DIRTY, 'd'),
        (Self::CLOSING, 'c'),
        (Self::CLOSED, 'A'),
        (Self::UNIX, 'U'),
        (Self::NO_EVICT, 'e'),
        (Self::NO_TOUCH, 'T'),
    ];
    /// Letters of servers that no client of preshard has.
    const FOREIGN: &'static str = "OSMiuRrI";
    /// Stands for what no client has.
    const NEVER: Self = Self(1 << 15);
    /// Stands for `N`: the client has no letter.
    const PLAIN: Self = Self(1 << 14);

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// With `other`, if that holds.
    #[must_use]
    pub const fn with_if(self, holds: bool, other: Self) -> Self {
        if holds { self.with(other) } else { self }
    }

    /// Whether all of `other` are among them; `N` is among none.
    #[must_use]
    pub const fn has_all(self, other: Self) -> bool {
        let own = if self.0 == 0 { Self::PLAIN.0 } else { self.0 };
        own & other.0 == other.0
    }

    /// The flags of some letters, if all are known.
    #[must_use]
    pub fn parse(letters: &str) -> Option<Self> {
        letters.chars().try_fold(Self::NONE, |flags, letter| {
            let known = Self::LETTERS.iter().find(|(_, known)| *known == letter);
            match known {
                Some(&(flag, _)) => Some(flags.with(flag)),
                None if letter == 'N' => Some(flags.with(Self::PLAIN)),
                None => Self::FOREIGN.contains(letter).then(|| flags.with(Self::NEVER)),
            }
        })
    }

    /// The letters.
    #[must_use]
    pub fn letters(self) -> String {
        if self == Self::NONE {
            return "N".to_owned();
        }
        let has = Self::LETTERS.iter().filter(|(flag, _)| self.has_all(*flag));
        has.map(|&(_, letter)| letter).collect()
    }
}

/// What a client is, in `CLIENT KILL TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientType {
    /// Any that is none of the others.
    Normal,
    /// It has subscribed.
    Pubsub,
    /// What this server replicates: never.
    Primary,
    /// What replicates this server: never.
    Replica,
}

impl ClientType {
    /// The type of a word.
    #[must_use]
    pub fn parse(word: &[u8]) -> Option<Self> {
        match word.to_ascii_lowercase().as_slice() {
            b"normal" => Some(Self::Normal),
            b"pubsub" => Some(Self::Pubsub),
            b"master" | b"primary" => Some(Self::Primary),
            b"replica" | b"slave" => Some(Self::Replica),
            _ => None,
        }
    }
}

/// What others may know of one client.
#[derive(Debug)]
pub struct ClientInfo {
    /// Unique in this process, growing.
    pub id: u64,
    /// The peer's address, as `CLIENT LIST` shows it.
    pub address: String,
    /// The address that it connected to.
    pub local_address: String,
    /// The worker that serves it.
    pub worker: usize,
    /// Milliseconds after the start of the process.
    pub connected_ms: u64,
    /// Milliseconds after the start of the process, of the last read that brought a request.
    pub active_ms: AtomicU64,
    /// Selected database.
    pub db: AtomicU16,
    /// 2 or 3.
    pub protocol: AtomicU16,
    /// Id of the last command.
    pub last_command: AtomicU16,
    /// Requests that are not answered.
    pub in_flight: AtomicU32,
    /// Reply bytes that are not written.
    pub output_bytes: AtomicU64,
    /// Commands so far.
    pub commands: AtomicU64,
    flags: AtomicU16,
    /// Commands that are queued.
    pub queued: AtomicU32,
    /// Keys that are watched.
    pub watched: AtomicU32,
    /// Bytes of requests that are read and not handled.
    pub input_bytes: AtomicU64,
    /// Room behind them.
    pub input_free_bytes: AtomicU64,
    /// Bytes that are queued in a transaction.
    pub queued_bytes: AtomicU64,
    /// Reply bytes that lie in one piece, and the number of other pieces.
    pub output_tail_bytes: AtomicU64,
    /// Large pieces of replies.
    pub output_pieces: AtomicU32,
    /// Its socket is full.
    pub write_blocked: AtomicBool,
    /// Bytes that it has sent.
    pub received: AtomicU64,
    /// Bytes that it was sent.
    pub transmitted: AtomicU64,
    /// Channels that it has subscribed to.
    pub sub: AtomicU32,
    /// Patterns that it has subscribed to.
    pub psub: AtomicU32,
    /// Shard channels that it has subscribed to.
    pub ssub: AtomicU32,
    /// Whether it tracks: 0 no, 1 keys that it reads, 2 prefixes.
    pub tracking: AtomicU8,
    /// Where it waits for data: the node's index and its number for the connection. 0: nowhere.
    waits: AtomicU64,
    /// Somebody may be about to end its wait (`CLIENT UNBLOCK`): the connection that it waits on serves nobody else.
    unblocking: AtomicBool,
    /// Set, and its session woken, to have its worker close it.
    pub killed: AtomicBool,
    /// Its session's, to be told that it is killed.
    waker: Mutex<Option<Waker>>,
    /// `CLIENT SETNAME`, `CLIENT SETINFO`.
    pub names: Mutex<Names>,
}

/// What a client says of itself.
#[derive(Clone, Debug)]
pub struct Names {
    /// The user that it is.
    pub user: Arc<str>,
    /// `CLIENT SETNAME`.
    pub name: String,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: String,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_ver: String,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            user: "default".into(),
            name: String::new(),
            lib_name: String::new(),
            lib_ver: String::new(),
        }
    }
}

impl ClientInfo {
    /// A client that has just come.
    #[must_use]
    pub fn new(id: u64, address: String, local_address: String, worker: usize, now_ms: u64) -> Self {
        Self {
            id,
            address,
            local_address,
            worker,
            connected_ms: now_ms,
            active_ms: AtomicU64::new(now_ms),
            db: AtomicU16::new(0),
            protocol: AtomicU16::new(2),
            last_command: AtomicU16::new(u16::MAX),
            in_flight: AtomicU32::new(0),
            output_bytes: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            flags: AtomicU16::new(0),
            queued: AtomicU32::new(0),
            watched: AtomicU32::new(0),
            input_bytes: AtomicU64::new(0),
            input_free_bytes: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            output_tail_bytes: AtomicU64::new(0),
            output_pieces: AtomicU32::new(0),
            write_blocked: AtomicBool::new(false),
            received: AtomicU64::new(0),
            transmitted: AtomicU64::new(0),
            sub: AtomicU32::new(0),
            psub: AtomicU32::new(0),
            ssub: AtomicU32::new(0),
            tracking: AtomicU8::new(0),
            waits: AtomicU64::new(0),
            unblocking: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            waker: Mutex::default(),
            names: Mutex::default(),
        }
    }

    /// Has its worker close it. Whether nobody has done so before.
    pub(super) fn kill(&self) -> bool {
        let first = !self.killed.swap(true, Relaxed);
        if let Some(waker) = self.waker().as_ref() {
            waker.wake_by_ref();
        }
        first
    }

    /// Who is to be told that it is killed.
    pub(super) fn set_waker(&self, waker: Waker) {
        *self.waker() = Some(waker);
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where it waits for data, or that it does not.
    pub(super) fn waits(&self, place: Option<(NodeIndex, i64)>) {
        let packed = place.and_then(|(node, number)| {
            let number = u64::try_from(number)
                .ok()
                .filter(|&number| number >> WAITS_BITS == 0)?;
            Some(u64::from(node.0) << WAITS_BITS | number)
        });
        self.waits.store(packed.unwrap_or(0), SeqCst);
    }

    /// Where it waits for data, for somebody who is going to end that: the node, and the node's number for the
    /// connection. From now on the connection is not given to anybody else ([`Self::was_unblocked`]).
    pub(super) fn unblock(&self) -> Option<(NodeIndex, u64)> {
        self.unblocking.store(true, SeqCst);
        self.waits_at()
    }

    /// Its wait is over: whether an order to end it may still be on its way to the connection.
    pub(super) fn was_unblocked(&self) -> bool {
        self.unblocking.swap(false, SeqCst)
    }

    /// Where it waits for data: the node, and the node's number for the connection.
    fn waits_at(&self) -> Option<(NodeIndex, u64)> {
        let packed = self.waits.load(SeqCst);
        let node = u16::try_from(packed >> WAITS_BITS).ok()?;
        (packed != 0).then_some((NodeIndex(node), packed & ((1 << WAITS_BITS) - 1)))
    }

    /// The names, even if a thread died while it held them: they are only text.
    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `CLIENT LIST` shows as letters.
    pub(super) fn set_flags(&self, flags: ClientFlags) {
        self.flags.store(flags.0, Relaxed);
    }

    /// What `CLIENT LIST` shows as letters. What it has subscribed to is known at once, the rest at the next sweep.
    #[must_use]
    pub fn flags(&self) -> ClientFlags {
        let subscribed = [&self.sub, &self.psub, &self.ssub]
            .iter()
            .any(|count| count.load(Relaxed) > 0);
        let tracking = self.tracking.load(Relaxed);
        ClientFlags(self.flags.load(Relaxed))
            .with_if(subscribed, ClientFlags::PUBSUB)
            .with_if(tracking > 0, ClientFlags::TRACKING)
            .with_if(tracking > 1, ClientFlags::TRACKING_PREFIXES)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> ClientType {
        if self.flags().has_all(ClientFlags::PUBSUB) {
            ClientType::Pubsub
        } else {
            ClientType::Normal
        }
    }

    /// Seconds since it connected.
    #[must_use]
    pub fn age_seconds(&self, now_ms: u64) -> i64 {
        seconds_between(self.connected_ms, now_ms)
    }

    /// Seconds since its last request.
    #[must_use]
    pub fn idle_seconds(&self, now_ms: u64) -> i64 {
        seconds_between(self.active_ms.load(Relaxed), now_ms)
    }

    /// The line of `CLIENT LIST`, without its end. Fields that it does not have here are 0: `argv-mem`, `rbs`, `rbp`.
    #[must_use]
    pub fn line(&self, now_ms: u64) -> String {
        let names = self.names().clone();
        let command = command::all().get(usize::from(self.last_command.load(Relaxed)));
        let flags = self.flags();
        let number = |cell: &AtomicU64| cell.load(Relaxed);
        let (input, input_free) = (number(&self.input_bytes), number(&self.input_free_bytes));
        let (queued_bytes, output) = (number(&self.queued_bytes), number(&self.output_bytes));
        let mut line = String::with_capacity(384);
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub={} psub={} ssub={}",
            self.id,
            self.address,
            self.local_address,
            names.name,
            self.age_seconds(now_ms),
            self.idle_seconds(now_ms),
            flags.letters(),
            self.db.load(Relaxed),
            self.sub.load(Relaxed),
            self.psub.load(Relaxed),
            self.ssub.load(Relaxed),
        );
        match self.queued.load(Relaxed) {
            queued if flags.has_all(ClientFlags::MULTI) => {
                let _ = write!(line, " multi={queued}");
            }
            _ => line.push_str(" multi=-1"),
        }
        let _ = write!(
            line,
            " watch={} qbuf={input} qbuf-free={input_free} argv-mem=0 multi-mem={queued_bytes} rbs=0 rbp=0 obl={} \
             oll={} omem={output} tot-mem={} events={}",
            self.watched.load(Relaxed),
            number(&self.output_tail_bytes),
            self.output_pieces.load(Relaxed),
            input + input_free + queued_bytes + output,
            if self.write_blocked.load(Relaxed) {
                "rw"
            } else {
                "r"
            },
        );
        let _ = write!(
            line,
            " cmd={} user={} redir=-1 resp={} lib-name={} lib-ver={} tot-net-in={} tot-net-out={} tot-cmds={} worker={} \
             in-flight={}",
            command.map_or("NULL", |spec| spec.name),
            names.user,
            self.protocol.load(Relaxed),
            names.lib_name,
            names.lib_ver,
            number(&self.received),
            number(&self.transmitted),
            number(&self.commands),
            self.worker,
            self.in_flight.load(Relaxed),
        );
        line
    }
}

fn seconds_between(start_ms: u64, now_ms: u64) -> i64 {
    i64::try_from(now_ms.saturating_sub(start_ms) / 1000).unwrap_or(i64::MAX)
}

/// All clients of the process.
#[derive(Debug, Default)]
pub struct Registry {
    clients: Mutex<BTreeMap<u64, Arc<ClientInfo>>>,
    next_id: AtomicU64,
}

impl Registry {
    fn clients(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ClientInfo>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id that no other client of this process has or had.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed) + 1
    }

    /// A client came.
    pub fn insert(&self, info: Arc<ClientInfo>) {
        self.clients().insert(info.id, info);
    }

    /// A client left.
    pub fn remove(&self, id: u64) {
        self.clients().remove(&id);
    }

    /// The client of this id.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Arc<ClientInfo>> {
        self.clients().get(&id).cloned()
    }

    /// How many clients have all of these letters.
    #[must_use]
    pub fn count(&self, flags: ClientFlags) -> usize {
        let clients = self.clients();
        clients
            .values()
            .filter(|info| info.flags().has_all(flags))
            .count()
    }

    /// All clients, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ClientInfo>> {
        let clients = self.clients();
        // Who has been killed is gone for all who look, though his worker may not have come to it yet.
        let here = clients.values().filter(|info| !info.killed.load(Relaxed));
        here.cloned().collect()
    }
}

/// Whether a text may be a client's name: printable ASCII without spaces, as Redis has it.
#[must_use]
pub fn is_client_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic())
}

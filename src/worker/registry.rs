//! Who is connected: one entry a client, shared with the admin side, touched by its worker with plain stores.
//!
//! `CLIENT LIST` and `SHOW CLIENTS` read here and never ask a worker. The lock is taken when a client comes,
//! leaves or is listed, never for a request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::command;
use crate::ids::NodeIndex;

/// Bits of a node's number for a connection.
const WAITS_BITS: u32 = 48;
/// The bit above such a number: somebody has asked to unblock the client.
const UNBLOCKING: u64 = 1 << (WAITS_BITS - 1);

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
    /// Channels that it has subscribed to.
    pub sub: AtomicU32,
    /// Patterns that it has subscribed to.
    pub psub: AtomicU32,
    /// Shard channels that it has subscribed to.
    pub ssub: AtomicU32,
    /// Where it waits for data: the node's index and its number for the connection. 0: nowhere.
    waits: AtomicU64,
    /// Set to have the worker close it.
    pub killed: AtomicBool,
    /// `CLIENT SETNAME`, `CLIENT SETINFO`.
    pub names: Mutex<Names>,
}

/// What a client says of itself.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// `CLIENT SETNAME`.
    pub name: String,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: String,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_ver: String,
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
            sub: AtomicU32::new(0),
            psub: AtomicU32::new(0),
            ssub: AtomicU32::new(0),
            waits: AtomicU64::new(0),
            killed: AtomicBool::new(false),
            names: Mutex::default(),
        }
    }

    /// Says where it waits for data.
    pub(super) fn waits(&self, (node, number): (NodeIndex, i64)) {
        let Some(number) = u64::try_from(number).ok().filter(|&number| number < UNBLOCKING) else {
            return;
        };
        let place = u64::from(node.0) << WAITS_BITS | number;
        let keeps = |old: u64| (old & !UNBLOCKING != place).then_some(place);
        // It may be said twice, and somebody may have asked to unblock it in between.
        let _same = self.waits.fetch_update(Relaxed, Relaxed, keeps);
    }

    /// Says that it does not wait any more. Whether somebody has asked to unblock it: the node may get to that later, so
    /// nobody else may wait over that connection.
    pub(super) fn waits_no_more(&self) -> bool {
        self.waits.swap(0, Relaxed) & UNBLOCKING != 0
    }

    /// Where it waits for data, for who asks to unblock it: the node, and the node's number for the connection.
    pub(super) fn unblock(&self) -> Option<(NodeIndex, u64)> {
        let asked = |waits: u64| (waits != 0).then_some(waits | UNBLOCKING);
        let place = self.waits.fetch_update(Relaxed, Relaxed, asked).ok()?;
        let node = u16::try_from(place >> WAITS_BITS).ok()?;
        Some((NodeIndex(node), place & (UNBLOCKING - 1)))
    }

    /// The names, even if a thread died while it held them: they are only text.
    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line of `CLIENT LIST`, without its end.
    #[must_use]
    pub fn line(&self, now_ms: u64) -> String {
        let names = self.names().clone();
        let command = command::all().get(usize::from(self.last_command.load(Relaxed)));
        let [sub, psub, ssub] = [&self.sub, &self.psub, &self.ssub].map(|count| count.load(Relaxed));
        let subscribed = sub + psub + ssub > 0;
        let mut line = String::with_capacity(256);
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub={} psub={} ssub={} multi=-1 \
             watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll={} omem={} tot-mem=0 \
             events=r cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={} tot-cmds={} worker={}",
            self.id,
            self.address,
            self.local_address,
            names.name,
            now_ms.saturating_sub(self.connected_ms) / 1000,
            now_ms.saturating_sub(self.active_ms.load(Relaxed)) / 1000,
            if subscribed { "P" } else { "N" },
            self.db.load(Relaxed),
            sub,
            psub,
            ssub,
            self.in_flight.load(Relaxed),
            self.output_bytes.load(Relaxed),
            command.map_or("NULL", |spec| spec.name),
            self.protocol.load(Relaxed),
            names.lib_name,
            names.lib_ver,
            self.commands.load(Relaxed),
            self.worker,
        );
        line
    }
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

    /// All clients, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ClientInfo>> {
        self.clients().values().cloned().collect()
    }
}

/// Whether a text may be a client's name: printable ASCII without spaces, as Redis has it.
#[must_use]
pub fn is_client_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_somebody_has_asked_to_unblock_is_known_when_the_wait_ends() {
        let info = ClientInfo::new(1, String::new(), String::new(), 0, 0);
        assert_eq!(info.unblock(), None);
        assert!(!info.waits_no_more());
        let place = (NodeIndex(3), 77);
        info.waits(place);
        assert!(!info.waits_no_more());
        info.waits(place);
        assert_eq!(info.unblock(), Some((NodeIndex(3), 77)));
        info.waits(place);
        assert_eq!(info.unblock(), Some((NodeIndex(3), 77)));
        assert!(info.waits_no_more());
        assert!(!info.waits_no_more());
        assert_eq!(info.unblock(), None);
    }
}

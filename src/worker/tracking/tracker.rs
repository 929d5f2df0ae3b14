//! Who of a worker's clients tracks what, and what each is told when a key changes: decisions only, no sockets.
//!
//! ```text
//!  default, OPTIN, OPTOUT   read ──▶ Table ──▶ told once when the key changes, forgotten with it
//!  BCAST                    prefixes ────────▶ told of every change of a key that begins so
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use bytes::Bytes;

use super::held::EVERYTHING;
use super::table::{Removed, Table, Token};
use crate::resp::{self, Protocol};

/// A longer name is not kept: its client is told to drop it right behind the reply.
pub(super) const NAME_MAX: usize = 16 * 1024;
/// What one prefix of one client costs beside its bytes, about.
const PREFIX_BYTES: usize = 256;

/// What a client wants to be told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Keys that it reads.
    #[default]
    Reads,
    /// Keys that it reads with what follows `CLIENT CACHING YES`.
    OptIn,
    /// Keys that it reads, but for what follows `CLIENT CACHING NO`.
    OptOut,
    /// All keys that begin with its prefixes.
    Broadcast,
}

/// What `CLIENT TRACKING ON` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) noloop: bool,
    pub(super) prefixes: Vec<Rc<[u8]>>,
}

/// A client that tracks.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) options: Options,
    /// Reads with another token do not count: it was told since to drop everything.
    token: Token,
    /// `CLIENT CACHING` was called for what follows.
    pub(super) caching: bool,
}

/// How much may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) keys: usize,
    pub(super) bytes: usize,
}

/// All clients of a worker that track.
#[derive(Debug)]
pub(super) struct Tracker {
    limits: Limits,
    readers: BTreeMap<usize, Reader>,
    table: Table,
    prefixes: HashMap<Rc<[u8]>, BTreeSet<usize>>,
    /// How many prefixes have which length.
    lengths: BTreeMap<usize, usize>,
    prefix_bytes: usize,
    tokens: Token,
}

/// Changes that are being told to clients with prefixes: by prefix, how many names, and their bytes.
pub(super) type Broadcast = BTreeMap<Rc<[u8]>, (usize, Vec<u8>)>;

/// An invalidation and whom it goes to.
pub(super) type Tell = (usize, Bytes);

impl Tracker {
    pub(super) const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            readers: BTreeMap::new(),
            table: Table::default(),
            prefixes: HashMap::new(),
            lengths: BTreeMap::new(),
            prefix_bytes: 0,
            tokens: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.readers.is_empty()
    }

    pub(super) fn reader(&self, client: usize) -> Option<&Reader> {
        self.readers.get(&client)
    }

    pub(super) fn reader_mut(&mut self, client: usize) -> Option<&mut Reader> {
        self.readers.get_mut(&client)
    }

    /// Clients that track, keys that are tracked, prefixes.
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.readers.len(), self.table.len(), self.prefixes.len()]
    }

    /// Memory of all names, about.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.prefix_bytes
    }

    /// Memory that these prefixes would take.
    pub(super) fn cost(prefixes: &[Rc<[u8]>]) -> usize {
        prefixes.iter().map(|prefix| PREFIX_BYTES + prefix.len()).sum()
    }

    /// A client tracks from here on, or tracks otherwise: as in Redis, prefixes are added to those it has.
    pub(super) fn start(&mut self, client: usize, mut options: Options) {
        if options.mode == Mode::Broadcast && options.prefixes.is_empty() {
            options.prefixes.push(Rc::from(&b""[..]));
        }
        let added = std::mem::take(&mut options.prefixes);
        let token = self.next_token();
        let reader = self.readers.entry(client).or_insert_with(|| Reader {
            options: Options::default(),
            token,
            caching: false,
        });
        options.prefixes = std::mem::take(&mut reader.options.prefixes);
        reader.options = options;
        for prefix in added {
            let clients = self.prefixes.entry(Rc::clone(&prefix)).or_default();
            if clients.is_empty() {
                *self.lengths.entry(prefix.len()).or_default() += 1;
            }
            if clients.insert(client) {
                self.prefix_bytes += PREFIX_BYTES + prefix.len();
                reader.options.prefixes.push(prefix);
            }
        }
    }

    /// A client tracks no more. Returns whether it did.
    pub(super) fn stop(&mut self, client: usize) -> bool {
        let Some(reader) = self.readers.remove(&client) else {
            return false;
        };
        for prefix in reader.options.prefixes {
            self.prefix_bytes -= PREFIX_BYTES + prefix.len();
            let Some(clients) = self.prefixes.get_mut(&prefix) else {
                continue;
            };
            clients.remove(&client);
            if clients.is_empty() {
                self.prefixes.remove(&prefix);
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
        }
        self.table.expect_dead();
        true
    }

    /// A client reads a key on a node that tells of changes. Whom room had to be made for is told; returns how many keys
    /// had to go.
    pub(super) fn read(&mut self, client: usize, key: &[u8], tell: &mut Vec<Tell>) -> usize {
        let Some(token) = self.readers.get(&client).map(|reader| reader.token) else {
            return 0;
        };
        self.table.read(client, token, key);
        let mut evicted = 0;
        while self.table.len() > self.limits.keys || self.table.bytes() > self.limits.bytes {
            let Some(removed) = self.table.evict(key) else {
                break;
            };
            self.tell_readers(&removed, tell);
            evicted += 1;
        }
        evicted
    }

    /// Whether what a client reads is to be remembered.
    pub(super) fn remembers(&self, client: usize, key: &[u8]) -> bool {
        self.readers
            .get(&client)
            .is_some_and(|reader| match reader.options.mode {
                Mode::Reads => true,
                Mode::OptIn => reader.caching,
                Mode::OptOut => !reader.caching,
                Mode::Broadcast => reader
                    .options
                    .prefixes
                    .iter()
                    .any(|prefix| key.starts_with(prefix)),
            })
    }

    /// A key has changed: its readers are told, and what clients with prefixes are told grows.
    pub(super) fn invalidate(&mut self, key: &[u8], broadcast: &mut Broadcast, tell: &mut Vec<Tell>) {
        if let Some(removed) = self.table.take(key) {
            self.tell_readers(&removed, tell);
        }
        for &length in self.lengths.keys() {
            let Some(prefix) = key.get(..length) else { break };
            if let Some((prefix, _)) = self.prefixes.get_key_value(prefix) {
                let (count, names) = broadcast.entry(Rc::clone(prefix)).or_default();
                *count += 1;
                resp::write_bulk(names, key);
            }
        }
    }

    /// What clients with prefixes are told of all keys of one push.
    pub(super) fn finish(&self, broadcast: Broadcast, tell: &mut Vec<Tell>) {
        for (prefix, (count, names)) in broadcast {
            let push = push_of(count, &names);
            let clients = self.prefixes.get(&prefix).into_iter().flatten();
            tell.extend(clients.map(|&client| (client, push.clone())));
        }
    }

    /// Everything may have changed: all clients are told to drop all, and no read counts any more.
    pub(super) fn drop_everything(&mut self, tell: &mut Vec<Tell>) {
        let mut token = self.tokens;
        for (&client, reader) in &mut self.readers {
            token = token.wrapping_add(1);
            reader.token = token;
            tell.push((client, Bytes::from_static(EVERYTHING)));
        }
        self.tokens = token;
        self.table.expect_dead();
    }

    /// Frees what clients that have left, or were told to drop everything, have read.
    pub(super) fn sweep(&mut self, places: usize) {
        let readers = &self.readers;
        self.table.sweep(places, |client, token| {
            readers.get(&client).is_some_and(|reader| reader.token == token)
        });
    }

    fn tell_readers(&self, removed: &Removed, tell: &mut Vec<Tell>) {
        let push = name_push(&removed.key);
        removed.readers(|client, token| {
            let reader = self.readers.get(&client);
            if reader.is_some_and(|reader| reader.token == token) {
                tell.push((client, push.clone()));
            }
        });
    }

    fn next_token(&mut self) -> Token {
        self.tokens = self.tokens.wrapping_add(1);
        self.tokens
    }
}

/// The invalidation of one key.
pub(super) fn name_push(key: &[u8]) -> Bytes {
    let mut name = Vec::with_capacity(key.len() + 16);
    resp::write_bulk(&mut name, key);
    push_of(1, &name)
}

fn push_of(count: usize, names: &[u8]) -> Bytes {
    let mut push = Vec::with_capacity(names.len() + 40);
    resp::write_push_header(&mut push, Protocol::Resp3, 2);
    resp::write_bulk(&mut push, b"invalidate");
    resp::write_array_header(&mut push, count);
    push.extend_from_slice(names);
    Bytes::from(push)
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;

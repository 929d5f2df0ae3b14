//! The slow log: requests that were answered late, as `SLOWLOG GET` shows them.
//!
//! ```text
//!  complete ── took ≥ slower_than ──▶ one entry, behind a lock that only slow requests take
//!                                     the oldest goes when there are `entries_max`
//! ```
//!
//! A request's time runs from its place in the reply queue to its answer: the node, the network and the queue before
//! them, but not what the client takes to read. Arguments are not there unless `show_args` says so; then a short copy of
//! each request is kept until it is answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::engine::Engine;
use crate::command::{self, Class, CommandId, Spec};
use crate::metrics::RequestClass;
use crate::resp::Args;

/// Arguments of one entry, as in Redis.
const ARGS_MAX: usize = 32;
/// Bytes of one argument, as in Redis.
const ARG_BYTES_MAX: usize = 128;

/// `[slowlog]`
#[derive(Clone, Copy, Debug)]
pub struct SlowLogSettings {
    /// From this time on a request is slow, in microseconds. None: nothing is kept.
    pub slower_than_us: Option<u32>,
    /// Entries that are kept.
    pub entries_max: usize,
    /// Whether the arguments are kept.
    pub show_args: bool,
}

impl SlowLogSettings {
    /// From which time on an answer is looked at again: all, if something was kept of its request.
    pub(super) fn looked_at_from_us(&self) -> u32 {
        match self.slower_than_us {
            None => u32::MAX,
            Some(_) if self.show_args => 0,
            Some(slower_than) => slower_than,
        }
    }
}

/// One slow request.
#[derive(Clone, Debug)]
pub struct SlowEntry {
    /// Unique in this process, growing.
    pub id: u64,
    /// When it was answered: Unix time in seconds.
    pub at: u64,
    /// How long it took, in microseconds.
    pub took_us: u32,
    /// The command, and what is shown of its arguments.
    pub args: Vec<Vec<u8>>,
    /// Its client's address.
    pub address: String,
    /// Its client's name.
    pub name: String,
}

/// The slow requests of all workers.
#[derive(Debug, Default)]
pub struct SlowLog {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<SlowEntry>>,
    next_id: u64,
}

/// What is shown of the requests in flight of one client, by sequence number.
pub(super) type ShownArgs = BTreeMap<u32, Vec<Vec<u8>>>;

impl SlowLog {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry, of `entries_max` at most; gives it its id.
    fn add(&self, mut entry: SlowEntry, entries_max: usize) {
        let mut ring = self.ring();
        entry.id = ring.next_id;
        ring.next_id += 1;
        ring.entries.truncate(entries_max.saturating_sub(1));
        ring.entries.push_front(Arc::new(entry));
    }

    /// The newest entries.
    #[must_use]
    pub fn newest(&self, count: usize) -> Vec<Arc<SlowEntry>> {
        self.ring().entries.iter().take(count).cloned().collect()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring().entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all entries. Ids go on.
    pub fn reset(&self) {
        self.ring().entries.clear();
    }
}

impl Engine {
    /// An answer took long, or something of its request was kept. To be called before its slot goes.
    #[cold]
    pub(super) fn answered_slowly(&mut self, index: usize, place: usize, took: u32) {
        let client = &mut self.clients[index];
        let Some(&slot) = client.slots.get(place) else {
            return;
        };
        let seq = client
            .head_seq
            .wrapping_add(u32::try_from(place).unwrap_or(u32::MAX));
        let shown = client.shown_args.as_mut().and_then(|shown| shown.remove(&seq));
        let slower_than = self.settings.slowlog.slower_than_us;
        let Some(spec) = command::all()
            .get(slot.command.index())
            .filter(|spec| is_logged(spec, slot.class))
            .filter(|_| slower_than.is_some_and(|slower_than| took >= slower_than))
        else {
            return;
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        let entry = SlowEntry {
            id: 0,
            at: at.map_or(0, |at| at.as_secs()),
            took_us: took,
            args: shown.unwrap_or_else(|| name_and_size(spec, slot.bytes)),
            address: client.info.address.clone(),
            name: client.info.names().name.clone(),
        };
        self.shared.slowlog.add(entry, self.settings.slowlog.entries_max);
        self.metrics.slowlog_entries.inc();
    }

    /// Keeps what the slow log may show of a request that was just taken, if it is on its way.
    #[cold]
    pub(super) fn remember_args(&mut self, index: usize, seq: u32, args: &Args<'_>) {
        let client = &mut self.clients[index];
        let place = seq.wrapping_sub(client.head_seq) as usize;
        let asks = client
            .slots
            .get(place)
            .is_some_and(|slot| slot.command != CommandId::NONE);
        if asks {
            client
                .shown_args
                .get_or_insert_default()
                .insert(seq, shorten(args));
        }
    }
}

/// What waits for data on purpose is not slow.
fn is_logged(spec: &Spec, class: RequestClass) -> bool {
    class != RequestClass::Blocking || matches!(spec.class, Class::Transaction(_))
}

/// What is shown of a request whose arguments are not: nothing that a user has put into it.
fn name_and_size(spec: &Spec, bytes: u32) -> Vec<Vec<u8>> {
    let mut args: Vec<Vec<u8>> = spec.title().split(' ').map(|word| word.into()).collect();
    args.push(format!("... ({bytes} bytes)").into_bytes());
    args
}

/// The arguments in the length in which Redis shows them.
fn shorten(args: &Args<'_>) -> Vec<Vec<u8>> {
    let shown = if args.len() > ARGS_MAX {
        ARGS_MAX - 1
    } else {
        args.len()
    };
    let mut short: Vec<Vec<u8>> = (0..shown).map(|place| shorten_one(args.get(place))).collect();
    if shown < args.len() {
        short.push(format!("... ({} more arguments)", args.len() - shown).into_bytes());
    }
    short
}

fn shorten_one(arg: &[u8]) -> Vec<u8> {
    let mut short = arg[..arg.len().min(ARG_BYTES_MAX)].to_vec();
    if arg.len() > ARG_BYTES_MAX {
        short.extend_from_slice(format!("... ({} more bytes)", arg.len() - ARG_BYTES_MAX).as_bytes());
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{RequestLimits, RequestScanner, write_request};
    use crate::worker::testing::{connect, engine, in_runtime, limits};

    fn entry(name: &str) -> SlowEntry {
        SlowEntry {
            id: 0,
            at: 0,
            took_us: 1,
            args: vec![name.into()],
            address: String::new(),
            name: String::new(),
        }
    }

    #[test]
    fn the_newest_are_kept_and_ids_go_on() {
        let log = SlowLog::default();
        ["a", "b", "c", "d"]
            .into_iter()
            .for_each(|name| log.add(entry(name), 3));
        let seen = |count| -> Vec<(u64, Vec<u8>)> {
            let entries = log.newest(count).into_iter();
            entries.map(|entry| (entry.id, entry.args[0].clone())).collect()
        };
        assert_eq!(seen(2), [(3, b"d".to_vec()), (2, b"c".to_vec())]);
        assert_eq!((seen(usize::MAX).len(), log.len()), (3, 3));
        log.reset();
        assert!(log.is_empty());
        log.add(entry("e"), 3);
        assert_eq!(seen(9), [(4, b"e".to_vec())]);
        ["f", "g", "h"]
            .into_iter()
            .for_each(|name| log.add(entry(name), 2));
        assert_eq!(log.len(), 2, "a lower limit counts from the next entry on");
    }

    #[test]
    fn long_requests_are_shown_as_redis_shows_them() {
        let long = vec![b'v'; 200];
        let mut words: Vec<&[u8]> = vec![b"MSET", &long];
        words.resize(81, b"v");
        let mut frame = Vec::new();
        write_request(&mut frame, &words);
        let mut ranges = Vec::new();
        let _ = RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::default());
        let short = shorten(&Args::new(&frame, &ranges));
        assert_eq!(short.len(), 32);
        assert_eq!(short[0], b"MSET");
        assert_eq!(short[1], [&long[..128], b"... (72 more bytes)"].concat());
        assert_eq!(short[31], b"... (50 more arguments)");
    }

    #[test]
    fn without_arguments_only_the_name_and_the_size_are_shown() {
        let spec = command::all()
            .iter()
            .find(|spec| spec.name == "object|encoding")
            .unwrap();
        let shown = name_and_size(spec, 77);
        assert_eq!(shown, [&b"OBJECT"[..], b"ENCODING", b"... (77 bytes)"]);
    }

    #[test]
    fn what_is_kept_of_a_request_goes_with_its_answer_in_whatever_order() {
        in_runtime(async {
            let mut engine = engine(limits());
            engine.slow_us = 0;
            let peer = connect(&mut engine).await;
            let get = command::lookup(b"get").unwrap().id;
            let mut frame = Vec::new();
            write_request(&mut frame, &[b"GET", b"key"]);
            let mut ranges = Vec::new();
            let _ = RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::default());
            let args = Args::new(&frame, &ranges);
            let seqs: Vec<u32> = (0..5)
                .map(|_| {
                    let seq = engine.push_slot(peer.index, get, 10, RequestClass::Read);
                    engine.remember_args(peer.index, seq, &args);
                    seq
                })
                .collect();
            // What was answered at once has no place to remember it by.
            engine.remember_args(peer.index, seqs[4].wrapping_add(1), &args);
            let kept = |engine: &Engine| {
                let shown = engine.clients[peer.index].shown_args.as_ref();
                shown.map_or(0, |shown| shown.len())
            };
            assert_eq!(kept(&engine), 5);
            for (answered, place) in [3, 0, 4, 1, 2].into_iter().enumerate() {
                engine.complete(peer.index, peer.generation, seqs[place], b"+OK\r\n", true);
                assert_eq!(kept(&engine), 4 - answered);
            }
            assert!(engine.shared.slowlog.is_empty(), "it is off");
        });
    }
}

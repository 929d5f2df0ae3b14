//! Which keys the target has as the source has them, while they are read one batch after the other beside the stream of writes.
//!
//! ```text
//!  database   waiting ──SCAN begins──▶ read ──SCAN has ended, its last keys are there──▶ closing ──nothing stale──▶ done
//!  a key      absent                   absent until it is copied; stale: to be read        clean unless it is stale    clean
//! ```
//!
//! *Clean*: what the target has is what the source had at the offset up to which the stream was handled. Of the others the target has
//! nothing that counts. A write whose keys are all clean is applied. Any other is not, and the keys that it writes are *stale*: they
//! are read again. Values are put in place exactly at the offset at which they were read, so both are true of the same moment.
//!
//! A key that is made behind the back of `SCAN` is seen in the stream, and read because it is stale. Once `SCAN` has ended, whatever
//! it has not given and nobody has written does not exist: then all keys are clean but those that are stale, and those become fewer.
//!
//! One database at a time is read. Names are kept as 64-bit numbers of a secret hash, and only of that database.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::ops::Bound::{Excluded, Unbounded};

use super::super::error::CopyError;
use super::super::reading::{Key, Scanned};
use super::large::{Kind, Larges, PieceAsk, PutPiece};
use crate::command::{KeyFlags, Spec, key_flags, keys, sort_option_with_other_keys};
use crate::ids::DbIndex;
use crate::rdb::Restart;
use crate::resp::Args;

/// Keys that are read together.
pub(super) const TOGETHER: usize = 256;
/// What a stale name costs beside its bytes.
const OVERHEAD: usize = 64;

/// How much a shelf may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShelfLimits {
    /// Copied keys of one database.
    pub(super) copied: usize,
    /// Bytes of names of stale keys.
    pub(super) stale_bytes: usize,
    /// Keys that are read together.
    pub(super) together: usize,
    /// More stale keys, and nothing else is read before they are fewer.
    pub(super) stale_many: usize,
}

impl Default for ShelfLimits {
    /// A set of so many numbers takes 160 MB, and half as much again for a moment when it grows to that.
    fn default() -> Self {
        Self {
            copied: 14_000_000,
            stale_bytes: 64 * 1024 * 1024,
            together: TOGETHER,
            stale_many: 4 * 1024,
        }
    }
}

/// Stands for the number of a question in keys that are read in pieces.
const HELD: u64 = u64::MAX;

/// What is to be read next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ask {
    /// It counts up.
    pub(super) number: u64,
    /// The database on the source.
    pub(super) source: DbIndex,
    /// The same on the target.
    pub(super) target: DbIndex,
    /// Keys whose values are wanted.
    pub(super) keys: Vec<Key>,
    /// Where `SCAN` is to go on.
    pub(super) cursor: Option<Vec<u8>>,
    /// A piece of a large value.
    pub(super) piece: Option<PieceAsk>,
    /// With it everything is read that `SCAN` has given.
    pub(super) is_last: bool,
}

/// What `SCAN` has said, and what was not read although it was asked for.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Where it goes on, and names.
    pub(super) scanned: Option<Scanned>,
    pub(super) left: Vec<Key>,
    /// Keys that are too large for that, with what they take.
    pub(super) large: Vec<(Key, u64)>,
    /// What the piece was.
    pub(super) piece: Option<Kind>,
}

/// What becomes of a value that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// The target has it.
    Nothing,
    /// The target has no such key.
    New,
    /// The target has something else.
    Instead,
}

/// All databases of a copy.
#[derive(Debug)]
pub(super) struct Shelf {
    waiting: VecDeque<(DbIndex, DbIndex)>,
    active: Option<Active>,
    done: BTreeSet<DbIndex>,
    limits: ShelfLimits,
    hash: RandomState,
    /// Number of the next question.
    next: u64,
    /// Where keys stand in a request.
    at: Vec<u32>,
    error: Option<CopyError>,
}

/// The database that is read.
#[derive(Debug)]
struct Active {
    source: DbIndex,
    target: DbIndex,
    cursor: Cursor,
    /// What `SCAN` has given and was not asked for.
    names: VecDeque<Key>,
    copied: HashSet<u64>,
    stale: Stale,
    larges: Larges,
    is_closing: bool,
    last_asked: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Cursor {
    At(Vec<u8>),
    /// It is on its way.
    Asked,
    End,
}

/// Keys that are to be read again.
#[derive(Debug, Default)]
struct Stale {
    waiting: BTreeSet<Key>,
    /// With the question that they are part of.
    asked: BTreeMap<Key, u64>,
    /// Behind which the next are taken, so that each has its turn.
    turn: Key,
    bytes: usize,
}

impl Shelf {
    /// `dbs`: databases of the source, each with the target's, which is empty.
    pub(super) fn new(dbs: impl IntoIterator<Item = (DbIndex, DbIndex)>, limits: ShelfLimits) -> Self {
        Self {
            waiting: dbs.into_iter().collect(),
            active: None,
            done: BTreeSet::new(),
            limits,
            hash: RandomState::new(),
            next: 0,
            at: Vec::new(),
            error: None,
        }
    }

    /// Whether all keys of all databases are clean.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.active.as_ref().is_none_or(Active::is_done)
    }

    /// What has outgrown its limit.
    pub(super) fn check(&mut self) -> Result<(), CopyError> {
        self.error.take().map_or(Ok(()), Err)
    }

    // === reading ===

    /// The next question, if there is one before another is answered and put in place.
    pub(super) fn ask(&mut self) -> Option<Ask> {
        loop {
            let Some(active) = &mut self.active else {
                let (source, target) = self.waiting.pop_front()?;
                self.active = Some(Active::new(source, target));
                continue;
            };
            if active.is_done() {
                self.done.insert(active.target);
                self.active = None;
                continue;
            }
            self.next += 1;
            let hash = &self.hash;
            return active.ask(self.next, self.limits, |key| hash.hash_one(key));
        }
    }

    /// An answer has come. What it has of keys is put in place later.
    pub(super) fn answered(&mut self, ask: &mut Ask, found: Found) {
        let Some(active) = self.active.as_mut().filter(|active| active.target == ask.target) else {
            return;
        };
        if !found.left.is_empty() {
            ask.is_last = false;
            active.last_asked = false;
        }
        for key in found.left {
            if active.stale.asked.remove(&key).is_some() {
                active.stale.waiting.insert(key);
            } else if !active.is_closing {
                active.names.push_front(key);
            }
        }
        for (key, size) in found.large {
            let is_clean = active.is_clean(&key, self.hash.hash_one(key.as_slice()));
            if !is_clean && active.stale.hold(&key) {
                active.larges.push(key, size);
            }
        }
        if let (Some(piece), Some(kind)) = (&ask.piece, found.piece) {
            active.larges.answered(piece, kind);
        }
        if let Some((cursor, names)) = found.scanned {
            active.cursor = if cursor == b"0" {
                Cursor::End
            } else {
                Cursor::At(cursor)
            };
            active.names.extend(names);
        }
    }

    /// The stream is where a key was read: says what is to be done with its value, which counts as done.
    pub(super) fn put(&mut self, db: DbIndex, key: &[u8], exists: bool) -> Put {
        let (number, max) = (self.hash.hash_one(key), self.limits.copied);
        let Some(active) = self.active_in(db) else {
            return Put::Nothing;
        };
        if active.is_clean(key, number) {
            return Put::Nothing;
        }
        // `SCAN` may give a name twice, and it may have been large once.
        active.larges.forget(key);
        let was_stale = active.stale.remove(key);
        if active.is_closing {
            return Put::Instead;
        }
        if exists {
            active.copied.insert(number);
            if active.copied.len() > max {
                self.error = Some(CopyError::TooManyKeys(max));
            }
        }
        if was_stale { Put::Instead } else { Put::New }
    }

    /// The stream is where a piece of a large value was read: says what is to be done with it, which counts as done.
    pub(super) fn put_piece(&mut self, db: DbIndex, piece: &PieceAsk, kind: Kind) -> PutPiece {
        let number = self.hash.hash_one(piece.key.as_slice());
        let Some(active) = self.active_in(db) else {
            return PutPiece::Nothing;
        };
        let put = active.larges.put(piece, kind);
        match put {
            PutPiece::Write { last: true, .. } => {
                active.stale.remove(&piece.key);
                if !active.is_closing {
                    active.copied.insert(number);
                }
            }
            PutPiece::Again => active.stale.release(&piece.key),
            PutPiece::Nothing | PutPiece::Write { .. } => {}
            PutPiece::Never(bytes) => self.error = Some(CopyError::TooLarge { bytes }),
        }
        put
    }

    /// All keys of an answer are in place.
    pub(super) fn is_in_place(&mut self, ask: &Ask) {
        let Some(active) = self.active_in(ask.target) else {
            return;
        };
        active.stale.give_back(ask.number);
        if ask.is_last {
            active.is_closing = true;
            active.copied = HashSet::new();
        }
    }

    // === the stream ===

    /// Whether a write of the stream is applied.
    pub(super) fn judge(
        &mut self,
        spec: &'static Spec,
        args: &Args<'_>,
        db: DbIndex,
    ) -> Result<bool, Restart> {
        if matches!(spec.name, "flushdb" | "flushall") {
            self.flushed(db);
            return Ok(true);
        }
        if self.active_in(db).is_none() {
            return Ok(self.done.contains(&db));
        }
        let mut at = std::mem::take(&mut self.at);
        let judged = match keys(spec, args, &mut at) {
            Ok(()) if !at.is_empty() => Ok(self.judge_keys(spec, args, &at)),
            Ok(()) | Err(_) => Err(Restart::Malformed(spec.name)),
        };
        self.at = at;
        judged
    }

    fn judge_keys(&mut self, spec: &'static Spec, args: &Args<'_>, at: &[u32]) -> bool {
        let Some(active) = &mut self.active else {
            return true;
        };
        let key = |place: u32| args.get(place as usize);
        let number = |place: u32| self.hash.hash_one(key(place));
        let is_clean = |active: &Active, place: u32| active.is_clean(key(place), number(place));
        // It reads keys that it does not name.
        let reads_others = sort_option_with_other_keys(spec, args).is_some();
        if !reads_others && at.iter().all(|&place| is_clean(active, place)) {
            return true;
        }
        if matches!(spec.name, "del" | "unlink") {
            for &place in at {
                active.copied.remove(&number(place));
                active.larges.forget(key(place));
                active.stale.remove(key(place));
            }
            return true;
        }
        let flags = key_flags(spec, args, at).unwrap_or_default();
        let has = |index: usize, flag: KeyFlags| flags.get(index).is_some_and(|flags| flags.has(flag));
        let others_clean = (0..)
            .zip(at)
            .all(|(index, &place)| has(index, KeyFlags::OW) || is_clean(active, place));
        if !reads_others && others_clean && overwrites(spec, args) {
            for (_, &place) in (0..).zip(at).filter(|(index, _)| has(*index, KeyFlags::OW)) {
                active.larges.forget(key(place));
                active.stale.remove(key(place));
                if !active.is_closing {
                    active.copied.insert(number(place));
                }
            }
            if active.copied.len() > self.limits.copied {
                self.error = Some(CopyError::TooManyKeys(self.limits.copied));
            }
            return true;
        }
        for (_, &place) in (0..).zip(at).filter(|(index, _)| !has(*index, KeyFlags::RO)) {
            active.copied.remove(&number(place));
            active.larges.touch(key(place));
            active.stale.insert(key(place));
        }
        if active.stale.bytes > self.limits.stale_bytes {
            self.error = Some(CopyError::TooManyStale(self.limits.stale_bytes));
        }
        false
    }

    /// There is nothing in a database, on both sides.
    fn flushed(&mut self, db: DbIndex) {
        self.waiting.retain(|(_, target)| *target != db);
        if self.active_in(db).is_some() {
            self.active = None;
        }
        self.done.insert(db);
    }

    fn active_in(&mut self, db: DbIndex) -> Option<&mut Active> {
        self.active.as_mut().filter(|active| active.target == db)
    }
}

/// Whether a command makes its key anew, whatever that was before, out of its arguments and keys that it reads.
fn overwrites(spec: &Spec, args: &Args<'_>) -> bool {
    match spec.name {
        // `KEEPTTL`, `XX`, `GET` and what else there may be depend on what was.
        "set" => match args.len() {
            3 => true,
            5 => ["EX", "PX", "EXAT", "PXAT"]
                .iter()
                .any(|word| args.get(3).eq_ignore_ascii_case(word.as_bytes())),
            _ => false,
        },
        "setex" | "psetex" | "mset" | "restore" | "restore-asking" | "rename" | "bitop" | "sinterstore"
        | "sunionstore" | "sdiffstore" | "zinterstore" | "zunionstore" | "zdiffstore" | "zrangestore"
        | "geosearchstore" => true,
        _ => false,
    }
}

impl Active {
    fn new(source: DbIndex, target: DbIndex) -> Self {
        Self {
            source,
            target,
            cursor: Cursor::At(b"0".to_vec()),
            names: VecDeque::new(),
            copied: HashSet::new(),
            stale: Stale::default(),
            larges: Larges::default(),
            is_closing: false,
            last_asked: false,
        }
    }

    fn is_done(&self) -> bool {
        self.is_closing && self.stale.is_empty()
    }

    fn is_clean(&self, key: &[u8], number: u64) -> bool {
        if self.is_closing {
            !self.stale.contains(key)
        } else {
            self.copied.contains(&number)
        }
    }

    fn ask(&mut self, number: u64, limits: ShelfLimits, hash: impl Fn(&[u8]) -> u64) -> Option<Ask> {
        let others = self.cursor != Cursor::End || !self.names.is_empty();
        let most = if others && self.stale.waiting.len() < limits.stale_many {
            limits.together / 2
        } else {
            limits.together
        };
        let mut keys = self.stale.take(number, most);
        while keys.len() < limits.together
            && let Some(key) = self.names.pop_front()
        {
            // What is stale is read as such.
            if !self.is_clean(&key, hash(&key)) && !self.stale.contains(&key) {
                keys.push(key);
            }
        }
        let cursor = match &mut self.cursor {
            Cursor::At(_) if self.names.len() >= limits.together => None,
            cursor @ Cursor::At(_) => match std::mem::replace(cursor, Cursor::Asked) {
                Cursor::At(place) => Some(place),
                Cursor::Asked | Cursor::End => None,
            },
            Cursor::Asked | Cursor::End => None,
        };
        let piece = self.larges.ask();
        let is_last =
            self.cursor == Cursor::End && self.names.is_empty() && !self.is_closing && !self.last_asked;
        self.last_asked |= is_last;
        if keys.is_empty() && cursor.is_none() && piece.is_none() && !is_last {
            return None;
        }
        Some(Ask {
            number,
            source: self.source,
            target: self.target,
            keys,
            cursor,
            piece,
            is_last,
        })
    }
}

impl Stale {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.waiting.contains(key) || self.asked.contains_key(key)
    }

    fn insert(&mut self, key: &[u8]) {
        if !self.contains(key) {
            self.bytes += key.len() + OVERHEAD;
            self.waiting.insert(key.to_vec());
        }
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let was = self.waiting.remove(key) || self.asked.remove(key).is_some();
        if was {
            self.bytes -= key.len() + OVERHEAD;
        }
        was
    }

    /// A key is not asked for until it is released. It is stale from now on; whether it was not held before.
    fn hold(&mut self, key: &[u8]) -> bool {
        self.insert(key);
        self.waiting.remove(key);
        self.asked.insert(key.to_vec(), HELD) != Some(HELD)
    }

    fn release(&mut self, key: &[u8]) {
        if self.asked.remove(key).is_some() {
            self.waiting.insert(key.to_vec());
        }
    }

    /// The next ones, for a question.
    fn take(&mut self, number: u64, most: usize) -> Vec<Key> {
        let behind = self
            .waiting
            .range::<[u8], _>((Excluded(self.turn.as_slice()), Unbounded));
        let mut taken: Vec<Key> = behind.take(most).cloned().collect();
        if taken.len() < most {
            let missing = most - taken.len();
            let before = self
                .waiting
                .range::<[u8], _>((Unbounded, Excluded(self.turn.as_slice())));
            let turn = self.waiting.get(&self.turn);
            let more: Vec<Key> = before.chain(turn).take(missing).cloned().collect();
            taken.extend(more);
        }
        for key in &taken {
            self.waiting.remove(key);
            self.asked.insert(key.clone(), number);
        }
        if let Some(last) = taken.last() {
            self.turn.clone_from(last);
        }
        taken
    }

    /// A question is done with: what it has not settled waits again.
    fn give_back(&mut self, number: u64) {
        let (waits, asked) = std::mem::take(&mut self.asked)
            .into_iter()
            .partition(|(_, of)| *of <= number);
        self.asked = asked;
        let waits: BTreeMap<Key, u64> = waits;
        self.waiting.extend(waits.into_keys());
    }
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;

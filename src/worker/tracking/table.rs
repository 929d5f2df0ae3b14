//! Which clients may have which keys in their caches: every key that they have read since it was last invalidated.
//!
//! ```text
//!  key ──▶ entry { (client, token) … }      a pair counts as long as the client's token is this one
//! ```
//!
//! Who leaves, or is told to drop everything, gets another token: that is one step, however many keys it has read. What
//! it leaves behind is looked for a piece at a time.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use slab::Slab;

/// What an entry costs beside its name, about.
const ENTRY_BYTES: usize = 128;
/// What one more client of an entry costs, about.
const READER_BYTES: usize = 32;

/// Until when a client's reads count.
pub(super) type Token = u32;

/// The clients that have read a key.
#[derive(Debug)]
enum Readers {
    One(usize, Token),
    Many(BTreeMap<usize, Token>),
}

#[derive(Debug)]
struct Entry {
    key: Rc<[u8]>,
    readers: Readers,
}

/// All keys that are tracked.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Slab<Entry>,
    by_key: HashMap<Rc<[u8]>, usize>,
    bytes: usize,
    /// Places that were ever used.
    places: usize,
    /// The place that is looked at next, for who has to go.
    evict_at: usize,
    /// The place that is looked at next, for reads that do not count any more.
    sweep_at: usize,
    /// Places that may hold reads that do not count any more.
    unswept: usize,
}

/// A key that is not tracked any more, and who has read it.
#[derive(Debug)]
pub(super) struct Removed {
    pub(super) key: Rc<[u8]>,
    readers: Readers,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A client reads a key.
    pub(super) fn read(&mut self, client: usize, token: Token, key: &[u8]) {
        if let Some(&place) = self.by_key.get(key) {
            self.bytes += self.entries[place].readers.add(client, token);
            return;
        }
        let key: Rc<[u8]> = key.into();
        self.bytes += ENTRY_BYTES + key.len();
        let place = self.entries.insert(Entry {
            key: Rc::clone(&key),
            readers: Readers::One(client, token),
        });
        self.places = self.places.max(place + 1);
        self.by_key.insert(key, place);
    }

    /// A key has changed.
    pub(super) fn take(&mut self, key: &[u8]) -> Option<Removed> {
        let place = *self.by_key.get(key)?;
        Some(self.remove(place))
    }

    /// Makes room: the next key in turn has to go, but not `spared` as long as there is another one.
    pub(super) fn evict(&mut self, spared: &[u8]) -> Option<Removed> {
        let mut last = None;
        for _ in 0..self.places {
            let place = next(&mut self.evict_at, self.places);
            match self.entries.get(place) {
                None => {}
                Some(entry) if *entry.key == *spared => last = Some(place),
                Some(_) => return Some(self.remove(place)),
            }
        }
        last.map(|place| self.remove(place))
    }

    /// Some token does not count any more.
    pub(super) fn expect_dead(&mut self) {
        self.unswept = self.places;
    }

    /// Looks at some entries for reads that do not count any more.
    pub(super) fn sweep(&mut self, places: usize, counts: impl Fn(usize, Token) -> bool) {
        for _ in 0..places {
            if self.unswept == 0 {
                return;
            }
            self.unswept -= 1;
            let place = next(&mut self.sweep_at, self.places);
            let Some(entry) = self.entries.get_mut(place) else {
                continue;
            };
            let (freed, empty) = entry.readers.retain(&counts);
            self.bytes -= freed;
            if empty {
                self.remove(place);
            }
        }
    }

    fn remove(&mut self, place: usize) -> Removed {
        let Entry { key, readers } = self.entries.remove(place);
        self.by_key.remove(&key);
        self.bytes -= ENTRY_BYTES + key.len() + readers.extra_bytes();
        if self.entries.is_empty() {
            // What a large table has taken is given back.
            debug_assert_eq!(self.bytes, 0, "every byte is counted once");
            *self = Self::default();
        }
        Removed { key, readers }
    }
}

/// The place at a hand that goes round, which moves on.
fn next(hand: &mut usize, places: usize) -> usize {
    let place = *hand % places.max(1);
    *hand = place + 1;
    place
}

impl Removed {
    /// Calls `each` with every client that has read the key, and its token then.
    pub(super) fn readers(&self, mut each: impl FnMut(usize, Token)) {
        match &self.readers {
            Readers::One(client, token) => each(*client, *token),
            Readers::Many(readers) => readers.iter().for_each(|(&client, &token)| each(client, token)),
        }
    }
}

impl Readers {
    fn extra_bytes(&self) -> usize {
        match self {
            Self::One(..) => 0,
            Self::Many(readers) => readers.len() * READER_BYTES,
        }
    }

    /// Adds a client. Returns the bytes that it costs.
    fn add(&mut self, client: usize, token: Token) -> usize {
        let before = self.extra_bytes();
        match self {
            Self::One(one, its) if *one == client => *its = token,
            Self::One(one, its) => *self = Self::Many(BTreeMap::from([(*one, *its), (client, token)])),
            Self::Many(readers) => {
                readers.insert(client, token);
            }
        }
        self.extra_bytes() - before
    }

    /// Keeps the reads that count. Returns the bytes that this frees, and whether none is left.
    fn retain(&mut self, counts: impl Fn(usize, Token) -> bool) -> (usize, bool) {
        let before = self.extra_bytes();
        match self {
            Self::One(client, token) => (0, !counts(*client, *token)),
            Self::Many(readers) => {
                readers.retain(|&client, &mut token| counts(client, token));
                let empty = readers.is_empty();
                (before - self.extra_bytes(), empty)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers(removed: &Removed) -> Vec<(usize, Token)> {
        let mut all = Vec::new();
        removed.readers(|client, token| all.push((client, token)));
        all
    }

    #[test]
    fn a_key_is_given_out_once_with_all_who_have_read_it() {
        let mut table = Table::default();
        table.read(1, 7, b"k");
        table.read(1, 8, b"k");
        table.read(2, 9, b"k");
        table.read(2, 9, b"other");
        assert_eq!(readers(&table.take(b"k").unwrap()), [(1, 8), (2, 9)]);
        assert!(table.take(b"k").is_none());
        assert_eq!(table.len(), 1);
        assert_eq!(readers(&table.take(b"other").unwrap()), [(2, 9)]);
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    #[test]
    fn reads_that_do_not_count_are_swept_out_in_pieces() {
        let mut table = Table::default();
        for number in 0..100_u32 {
            table.read(1, 1, &number.to_be_bytes());
            if number % 2 == 0 {
                table.read(2, 2, &number.to_be_bytes());
            }
        }
        table.expect_dead();
        table.sweep(10, |client, _| client == 2);
        assert_eq!(table.len(), 95, "five of the first ten had no other reader");
        table.sweep(1000, |client, _| client == 2);
        assert_eq!(table.len(), 50);
        table.expect_dead();
        table.sweep(1000, |_, _| false);
        assert_eq!((table.len(), table.bytes(), table.places), (0, 0, 0));
    }

    #[test]
    fn eviction_spares_the_key_that_has_just_come() {
        let mut table = Table::default();
        table.read(1, 1, b"a");
        table.read(1, 1, b"b");
        assert_eq!(*table.evict(b"a").unwrap().key, *b"b");
        assert_eq!(*table.evict(b"a").unwrap().key, *b"a");
        assert!(table.evict(b"a").is_none());
    }
}

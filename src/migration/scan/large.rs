//! Values that are too large to be dumped: read in pieces, one in each transaction, and right if nobody has written to them from the
//! first piece to the last. Otherwise they are read again, a few times.
//!
//! ```text
//!  queue ─▶ DEL on the target, first piece ─▶ piece ─▶ … ─▶ last: its expiry; clean
//!    ▲                  │ written meanwhile (the stream tells)
//!    └── again ◀────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};

use super::super::reading::Key;

/// How often one value is begun.
const TRIES_MAX: u32 = 10;

/// A piece that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PieceAsk {
    pub(super) key: Key,
    /// What the value takes.
    pub(super) size: u64,
    /// Which of all attempts to read a value.
    pub(super) attempt: u64,
    pub(super) is_first: bool,
}

/// What a piece was, beside what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// More are to come.
    Part,
    Last,
    /// It is not what it was, or not there.
    Broken,
}

/// What becomes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PutPiece {
    /// Nobody wants it any more.
    Nothing,
    /// The target's key is deleted first if it is the first.
    Write { first: bool, last: bool },
    /// The target's key is deleted; the value is read anew.
    Again,
    /// It was written each time that it was read.
    Never(u64),
}

/// Large values of one database.
#[derive(Debug, Default)]
pub(super) struct Larges {
    queue: VecDeque<(Key, u64)>,
    current: Option<Current>,
    tries: BTreeMap<Key, u32>,
    attempts: u64,
}

#[derive(Debug)]
struct Current {
    key: Key,
    size: u64,
    attempt: u64,
    /// Pieces that were put in place.
    pieces: u64,
    is_touched: bool,
    is_begun: bool,
    /// A piece is on its way or waits for the stream, or the last one was read.
    is_asked: bool,
}

impl Larges {
    pub(super) fn push(&mut self, key: Key, size: u64) {
        self.queue.push_back((key, size));
    }

    /// The stream has written to a key.
    pub(super) fn touch(&mut self, key: &[u8]) {
        if let Some(current) = self.current.as_mut().filter(|current| current.key == key) {
            current.is_touched = true;
        }
    }

    /// A key is right without being read.
    pub(super) fn forget(&mut self, key: &[u8]) {
        self.current.take_if(|current| current.key == key);
        self.queue.retain(|(queued, _)| queued != key);
    }

    /// The next piece, unless one is on its way.
    pub(super) fn ask(&mut self) -> Option<PieceAsk> {
        if self.current.is_none() {
            let (key, size) = self.queue.pop_front()?;
            self.attempts += 1;
            self.current = Some(Current {
                key,
                size,
                attempt: self.attempts,
                pieces: 0,
                is_touched: false,
                is_begun: false,
                is_asked: false,
            });
        }
        let current = self.current.as_mut().filter(|current| !current.is_asked)?;
        current.is_asked = true;
        Some(PieceAsk {
            key: current.key.clone(),
            size: current.size,
            attempt: current.attempt,
            is_first: !std::mem::replace(&mut current.is_begun, true),
        })
    }

    /// A piece has come, and waits for the stream.
    pub(super) fn answered(&mut self, ask: &PieceAsk, kind: Kind) {
        let is_meant = |current: &&mut Current| current.attempt == ask.attempt;
        if let Some(current) = self.current.as_mut().filter(is_meant) {
            current.is_asked = kind != Kind::Part;
        }
    }

    /// The stream is where a piece was read.
    pub(super) fn put(&mut self, ask: &PieceAsk, kind: Kind) -> PutPiece {
        let is_meant = |current: &mut Current| current.attempt == ask.attempt;
        let Some(current) = self.current.as_mut() else {
            return PutPiece::Nothing;
        };
        if !is_meant(current) {
            return PutPiece::Nothing;
        }
        let first = current.pieces == 0;
        current.pieces += 1;
        // What was written before the first piece is in it.
        let is_good = kind != Kind::Broken && (first || !current.is_touched);
        if is_good {
            current.is_touched = false;
            let last = kind == Kind::Last;
            if last {
                self.tries.remove(&current.key);
                self.current = None;
            }
            return PutPiece::Write { first, last };
        }
        let tries = self.tries.entry(current.key.clone()).or_default();
        *tries += 1;
        if *tries >= TRIES_MAX {
            return PutPiece::Never(current.size);
        }
        self.current = None;
        PutPiece::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> (Larges, PieceAsk) {
        let mut larges = Larges::default();
        larges.push(b"a".to_vec(), 9);
        let ask = larges.ask().unwrap();
        assert!(ask.is_first && larges.ask().is_none(), "one piece at a time");
        larges.answered(&ask, Kind::Part);
        (larges, ask)
    }

    #[test]
    fn a_value_that_nobody_writes_is_read_piece_by_piece() {
        let (mut larges, first) = begun();
        let second = larges.ask().unwrap();
        assert!(!second.is_first);
        larges.touch(b"a");
        let write = |first, last| PutPiece::Write { first, last };
        assert_eq!(
            larges.put(&first, Kind::Part),
            write(true, false),
            "it is in the first piece"
        );
        larges.answered(&second, Kind::Last);
        larges.touch(b"b");
        assert_eq!(larges.put(&second, Kind::Last), write(false, true));
        assert_eq!(larges.ask(), None);
    }

    #[test]
    fn one_that_is_written_is_read_again_and_given_up_in_the_end() {
        let mut larges = Larges::default();
        for attempt in 1.. {
            larges.push(b"a".to_vec(), 9);
            let first = larges.ask().unwrap();
            larges.answered(&first, Kind::Part);
            assert!(matches!(larges.put(&first, Kind::Part), PutPiece::Write { .. }));
            larges.touch(b"a");
            let second = larges.ask().unwrap();
            match larges.put(&second, Kind::Part) {
                PutPiece::Again => {}
                PutPiece::Never(size) => {
                    assert_eq!((attempt, size), (TRIES_MAX, 9));
                    break;
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(larges.put(&second, Kind::Part), PutPiece::Nothing);
        }
    }

    #[test]
    fn one_that_is_overwritten_is_nobodys_business_any_more() {
        let (mut larges, first) = begun();
        larges.forget(b"a");
        assert_eq!(larges.put(&first, Kind::Part), PutPiece::Nothing);
        assert_eq!(larges.ask(), None);
    }
}

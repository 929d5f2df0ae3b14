//! A model of a source that is written, a stream that lags, a `SCAN` that may miss what is made behind it, and a target: at the end
//! both have the same, whatever the order of things was.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;
use crate::command::testing::request;
use crate::command::{identify, lookup};

/// Values that commands of the model make.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Text(String),
    List(Vec<String>),
    Set(BTreeSet<String>),
}

type Keys = BTreeMap<(DbIndex, Key), Held>;

/// A write as the stream has it.
#[derive(Clone, Debug)]
struct Written {
    db: DbIndex,
    words: Vec<String>,
}

const DBS: [DbIndex; 2] = [DbIndex(3), DbIndex(4)];
const NAMES: usize = 14;

/// What a server does. `Err`: it answers an error; `Ok(false)`: nothing was changed.
fn execute(keys: &mut Keys, written: &Written) -> Result<bool, String> {
    let db = written.db;
    let words: Vec<&str> = written.words.iter().map(String::as_str).collect();
    let key = |at: usize| (db, words[at].as_bytes().to_vec());
    match words[0] {
        "SET" | "SETEX" => {
            let (value, keeps) = match words[0] {
                "SET" => (words[2], words.get(3)),
                _ => (words[3], None),
            };
            if keeps == Some(&"XX") && !keys.contains_key(&key(1)) {
                return Ok(false);
            }
            keys.insert(key(1), Held::Text(value.to_owned()));
        }
        "APPEND" => match keys.entry(key(1)).or_insert(Held::Text(String::new())) {
            Held::Text(text) => text.push_str(words[2]),
            _ => return Err("WRONGTYPE".to_owned()),
        },
        "RPUSH" => match keys.entry(key(1)).or_insert(Held::List(Vec::new())) {
            Held::List(list) => list.push(words[2].to_owned()),
            _ => return Err("WRONGTYPE".to_owned()),
        },
        "SADD" => match keys.entry(key(1)).or_insert(Held::Set(BTreeSet::new())) {
            Held::Set(set) => return Ok(set.insert(words[2].to_owned())),
            _ => return Err("WRONGTYPE".to_owned()),
        },
        "LPOP" => {
            let Some(Held::List(list)) = keys.get_mut(&key(1)) else {
                return Ok(false);
            };
            list.remove(0);
            if list.is_empty() {
                keys.remove(&key(1));
            }
        }
        "DEL" => {
            let removed = (1..words.len()).filter(|&at| keys.remove(&key(at)).is_some());
            return Ok(removed.count() > 0);
        }
        "RENAME" => {
            let moved = keys.remove(&key(1)).ok_or("no such key")?;
            keys.insert(key(2), moved);
        }
        "COPY" => {
            let Some(copied) = keys.get(&key(1)).cloned() else {
                return Ok(false);
            };
            if words.len() == 3 && keys.contains_key(&key(2)) {
                return Ok(false);
            }
            keys.insert(key(2), copied);
        }
        "SMOVE" => return smove(keys, &key(1), &key(2), words[3]),
        "SUNIONSTORE" => return union(keys, &key(1), [key(2), key(3)]),
        "FLUSHDB" => keys.retain(|(of, _), _| *of != db),
        other => panic!("{other}"),
    }
    Ok(true)
}

fn union(keys: &mut Keys, to: &(DbIndex, Key), of: [(DbIndex, Key); 2]) -> Result<bool, String> {
    let mut union = BTreeSet::new();
    for key in of {
        match keys.get(&key) {
            None => {}
            Some(Held::Set(set)) => union.extend(set.iter().cloned()),
            Some(_) => return Err("WRONGTYPE".to_owned()),
        }
    }
    keys.remove(to);
    if !union.is_empty() {
        keys.insert(to.clone(), Held::Set(union));
    }
    Ok(true)
}

fn smove(keys: &mut Keys, from: &(DbIndex, Key), to: &(DbIndex, Key), member: &str) -> Result<bool, String> {
    let is_set = |key: &(DbIndex, Key)| matches!(keys.get(key), None | Some(Held::Set(_)));
    if !is_set(from) || !is_set(to) {
        return Err("WRONGTYPE".to_owned());
    }
    let Some(Held::Set(set)) = keys.get_mut(from) else {
        return Ok(false);
    };
    if !set.remove(member) {
        return Ok(false);
    }
    if set.is_empty() {
        keys.remove(from);
    }
    if let Held::Set(set) = keys.entry(to.clone()).or_insert(Held::Set(BTreeSet::new())) {
        set.insert(member.to_owned());
    }
    Ok(true)
}

fn write(random: &mut Rng, round: usize) -> Written {
    // Some names are new each time, so that SCAN has passed them.
    let name = |random: &mut Rng| match random.u32(0..10) {
        0 => format!("new{}", round / 20),
        _ => format!("k{}", random.usize(0..NAMES)),
    };
    let (one, other, third) = (name(random), name(random), name(random));
    let number = random.u32(0..6);
    let line = match random.u32(0..22) {
        0 | 1 => format!("SET {one} v{number}"),
        2 => format!("SET {one} v{number} XX"),
        3 => format!("SET {one} v{number} PX 100000"),
        4 => format!("SETEX {one} 100 v{number}"),
        5..=7 => format!("APPEND {one} {number}"),
        8..=10 => format!("RPUSH {one} {number}"),
        11 => format!("LPOP {one}"),
        12 | 13 => format!("SADD {one} {number}"),
        14 => format!("SMOVE {one} {other} {number}"),
        15 => format!("SUNIONSTORE {one} {other} {third}"),
        16 | 17 => format!("RENAME {one} {other}"),
        18 => format!("COPY {one} {other} REPLACE"),
        19 => format!("COPY {one} {other}"),
        20 if random.u32(0..8) == 0 => "FLUSHDB".to_owned(),
        _ => format!("DEL {one} {other}"),
    };
    Written {
        db: DBS[random.usize(0..DBS.len())],
        words: line.split(' ').map(str::to_owned).collect(),
    }
}

/// A question on its way: `SCAN` has been done, or not.
struct Asked {
    ask: Ask,
    scanned: Option<Option<(Vec<u8>, Vec<Key>)>>,
}

/// What was read, at which place of the stream.
struct Answered {
    ask: Ask,
    at: usize,
    read: Vec<(Key, Option<Held>)>,
    piece: Option<(Kind, Option<Held>)>,
}

/// A part of a value, and whether it is the last one.
fn part(value: &Held, index: usize) -> Option<(Held, bool)> {
    let (part, length) = match value {
        Held::Text(text) => (
            text.chars().nth(index).map(|part| Held::Text(part.to_string())),
            text.len(),
        ),
        Held::List(list) => (
            list.get(index).map(|part| Held::List(vec![part.clone()])),
            list.len(),
        ),
        Held::Set(set) => (
            set.iter().nth(index).map(|part| Held::Set([part.clone()].into())),
            set.len(),
        ),
    };
    part.map(|part| (part, index + 1 >= length))
}

fn add(value: &mut Held, part: Held) {
    match (value, part) {
        (Held::Text(text), Held::Text(part)) => text.push_str(&part),
        (Held::List(list), Held::List(part)) => list.extend(part),
        (Held::Set(set), Held::Set(part)) => set.extend(part),
        (value, part) => panic!("{part:?} does not belong to {value:?}"),
    }
}

struct Model {
    random: Rng,
    source: Keys,
    target: Keys,
    stream: Vec<Written>,
    /// Writes of the stream that the target's side has handled.
    handled: usize,
    shelf: Shelf,
    asked: Option<Asked>,
    answered: Option<Answered>,
    /// The attempt to read a large value in pieces, and how many there were.
    pieces: (u64, usize),
    /// A large value was written too often.
    is_given_up: bool,
    /// The order in which `SCAN` goes over all names that there ever were.
    order: BTreeMap<(DbIndex, Key), u64>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let limits = ShelfLimits {
            together: 3,
            stale_many: 4,
            ..ShelfLimits::default()
        };
        Self {
            random: Rng::with_seed(seed),
            source: Keys::new(),
            target: Keys::new(),
            stream: Vec::new(),
            handled: 0,
            shelf: Shelf::new(DBS.map(|db| (db, db)), limits),
            asked: None,
            answered: None,
            pieces: (0, 0),
            is_given_up: false,
            order: BTreeMap::new(),
        }
    }

    fn write(&mut self, round: usize) {
        let written = write(&mut self.random, round);
        let before = self.source.clone();
        match execute(&mut self.source, &written) {
            Ok(true) => self.stream.push(written),
            Ok(false) | Err(_) => self.source = before,
        }
        for name in self.source.keys() {
            if !self.order.contains_key(name) {
                self.order.insert(name.clone(), self.random.u64(1..));
            }
        }
    }

    /// Some names from a place on; `0` where it ends.
    fn scan(&mut self, db: DbIndex, cursor: &[u8]) -> (Vec<u8>, Vec<Key>) {
        let from: u64 = std::str::from_utf8(cursor).unwrap().parse().unwrap();
        let mut all: Vec<(u64, &Key)> = self
            .order
            .iter()
            .filter(|((of, _), place)| *of == db && **place >= from)
            .map(|((_, key), place)| (*place, key))
            .collect();
        all.sort_unstable();
        let count = self.random.usize(1..4);
        let next = all.get(count).map_or(0, |(place, _)| *place);
        let there = |key: &&Key| self.source.contains_key(&(db, (*key).clone()));
        let names = all.iter().take(count).map(|(_, key)| *key).filter(there);
        let mut names: Vec<Key> = names.cloned().collect();
        if self.random.u32(0..4) == 0 {
            // It may give a key twice.
            names.extend(names.first().cloned());
        }
        (next.to_string().into_bytes(), names)
    }

    fn ask_on(&mut self) {
        if self.asked.is_none() {
            let ask = self.shelf.ask();
            self.asked = ask.map(|ask| Asked { ask, scanned: None });
        }
    }

    /// The source does a part of what it was asked.
    fn answer(&mut self) {
        let Some(mut asked) = self.asked.take() else {
            return;
        };
        if asked.scanned.is_none() {
            let cursor = asked.ask.cursor.clone();
            asked.scanned = Some(cursor.map(|cursor| self.scan(asked.ask.source, &cursor)));
            self.asked = Some(asked);
            return;
        }
        if self.answered.is_some() {
            self.asked = Some(asked);
            return;
        }
        let mut ask = asked.ask;
        let (mut read, mut left, mut large) = (Vec::new(), Vec::new(), Vec::new());
        for key in &ask.keys {
            if self.random.u32(0..5) == 0 {
                large.push((key.clone(), 9));
            } else if !read.is_empty() && self.random.u32(0..6) == 0 {
                left.push(key.clone());
            } else {
                read.push((key.clone(), self.source.get(&(ask.source, key.clone())).cloned()));
            }
        }
        let piece = ask.piece.clone().map(|piece| self.piece(ask.source, &piece));
        let found = Found {
            scanned: asked.scanned.flatten(),
            left,
            large,
            piece: piece.as_ref().map(|(kind, _)| *kind),
        };
        self.shelf.answered(&mut ask, found);
        self.answered = Some(Answered {
            ask,
            at: self.stream.len(),
            read,
            piece,
        });
        self.ask_on();
    }

    fn piece(&mut self, db: DbIndex, ask: &PieceAsk) -> (Kind, Option<Held>) {
        if ask.is_first {
            self.pieces = (ask.attempt, 0);
        }
        assert_eq!(self.pieces.0, ask.attempt);
        let value = self.source.get(&(db, ask.key.clone()));
        let Some((part, is_last)) = value.and_then(|value| part(value, self.pieces.1)) else {
            return (Kind::Broken, None);
        };
        self.pieces.1 += 1;
        let kind = if is_last { Kind::Last } else { Kind::Part };
        (kind, Some(part))
    }

    fn put_piece(&mut self, db: DbIndex, ask: &PieceAsk, (kind, part): (Kind, Option<Held>)) {
        let place = (db, ask.key.clone());
        match self.shelf.put_piece(db, ask, kind) {
            PutPiece::Nothing => {}
            PutPiece::Again => drop(self.target.remove(&place)),
            PutPiece::Never(_) => self.is_given_up = true,
            PutPiece::Write { first, last } => {
                let part = part.unwrap();
                if first {
                    self.target.insert(place.clone(), part);
                } else {
                    add(self.target.get_mut(&place).unwrap(), part);
                }
                if last && self.handled < self.stream.len() {
                    return;
                }
                assert!(
                    !last || self.source.get(&place) == self.target.get(&place),
                    "{place:?}"
                );
            }
        }
    }

    /// One write of the stream, or what was read where the stream is.
    fn handle(&mut self) {
        if let Some(answered) = self.answered.take_if(|answered| answered.at == self.handled) {
            let ask = answered.ask;
            for (key, value) in answered.read {
                let place = (ask.target, key);
                match self.shelf.put(ask.target, &place.1, value.is_some()) {
                    Put::Nothing => {
                        assert_eq!(self.target.get(&place), value.as_ref(), "a clean key: {place:?}");
                    }
                    put => {
                        let was = self.target.remove(&place);
                        assert!(
                            put == Put::Instead || was.is_none(),
                            "the target has {place:?} already: {was:?}"
                        );
                        if let Some(value) = value {
                            self.target.insert(place, value);
                        }
                    }
                }
            }
            if let (Some(piece), Some(found)) = (&ask.piece, answered.piece) {
                self.put_piece(ask.target, piece, found);
            }
            self.shelf.is_in_place(&ask);
            self.ask_on();
        } else if (self.answered.is_some() || self.shelf.is_done()) && self.handled < self.stream.len() {
            let written = self.stream[self.handled].clone();
            self.handled += 1;
            let words: Vec<&[u8]> = written.words.iter().map(String::as_bytes).collect();
            let spec = lookup(words[0]).unwrap();
            let applied = request(&words, |args| self.shelf.judge(spec, &args, written.db));
            if applied.unwrap() {
                let done = execute(&mut self.target, &written);
                assert!(done.is_ok(), "{written:?}: {done:?}");
            }
        }
    }

    fn play(&mut self) -> usize {
        for round in 0..40 {
            self.write(round);
        }
        // What was there before is not in the stream.
        self.handled = self.stream.len();
        self.ask_on();
        let mut rounds = 0;
        // Sometimes it is written faster than it is read.
        let writes = self.random.u32(0..4);
        while !self.shelf.is_done() && !self.is_given_up {
            rounds += 1;
            assert!(rounds < 20_000, "it comes to no end");
            match self.random.u32(0..6 + writes) {
                0 | 1 => self.answer(),
                2..=5 => self.handle(),
                _ => self.write(1_000 + rounds),
            }
        }
        if self.is_given_up {
            return rounds;
        }
        for round in 0..30 {
            self.write(100_000 + round);
        }
        // What is still on its way is of no consequence.
        self.answered = None;
        while self.handled < self.stream.len() {
            self.handle();
        }
        rounds
    }
}

#[test]
fn both_sides_have_the_same_in_the_end() {
    let (mut rounds, mut given_up) = (0, 0);
    // A build without optimisation plays fewer.
    let seeds = if cfg!(debug_assertions) { 250 } else { 1_000 };
    for seed in 0..seeds {
        let mut model = Model::new(seed);
        let played = std::panic::AssertUnwindSafe(|| model.play());
        rounds += std::panic::catch_unwind(played).unwrap_or_else(|_| panic!("seed {seed}"));
        if model.is_given_up {
            given_up += 1;
            assert_eq!(model.shelf.check(), Err(CopyError::TooLarge { bytes: 9 }));
            continue;
        }
        assert_eq!(model.source, model.target, "seed {seed}");
        assert_eq!(model.shelf.check(), Ok(()));
    }
    assert!(given_up < 200, "{given_up}");
    assert!(rounds > 40_000, "{rounds}");
}

fn judge(shelf: &mut Shelf, line: &str) -> bool {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    request(&words, |args| {
        let spec = identify(&args).unwrap_or_else(|_| panic!("{line}"));
        shelf.judge(spec, &args, DBS[0])
    })
    .unwrap()
}

/// A shelf that has read these keys.
fn with(copied: &[&str], limits: ShelfLimits) -> Shelf {
    let mut shelf = Shelf::new([(DBS[0], DBS[0])], limits);
    let mut ask = shelf.ask().unwrap();
    assert_eq!(ask.cursor.as_deref(), Some(&b"0"[..]));
    let names = copied.iter().map(|name| name.as_bytes().to_vec()).collect();
    let found = Found {
        scanned: Some((b"9".to_vec(), names)),
        ..Found::default()
    };
    shelf.answered(&mut ask, found);
    shelf.is_in_place(&ask);
    let ask = shelf.ask().unwrap();
    for key in &ask.keys {
        assert_eq!(shelf.put(DBS[0], key, true), Put::New);
    }
    shelf.is_in_place(&ask);
    shelf
}

#[test]
fn a_write_is_applied_when_all_that_it_depends_on_is_there() {
    for (line, applied) in [
        ("INCR a", true),
        ("INCR x", false),
        ("DEL a x", true),
        ("SET x v", true),
        ("SET x v PXAT 5", true),
        ("SET x v KEEPTTL", false),
        ("SET x v XX", false),
        ("MSET a 1 x 2", true),
        ("RENAME a x", true),
        ("RENAME x a", false),
        ("ZUNIONSTORE x 2 a b", true),
        ("ZUNIONSTORE a 2 b x", false),
        ("ZUNIONSTORE x 2 a x", false),
        ("LMOVE a x LEFT LEFT", false),
        ("COPY a x", false),
        ("SORT a STORE b", true),
        // It reads keys whose names are in values.
        ("SORT a BY w_* STORE b", false),
        ("PFMERGE a", true),
        ("XGROUP CREATE a g $", true),
        ("XGROUP CREATE x g $", false),
        ("EXPIRE x 5", false),
    ] {
        let mut shelf = with(&["a", "b"], ShelfLimits::default());
        assert_eq!(judge(&mut shelf, line), applied, "{line}");
    }
}

#[test]
fn only_keys_that_were_written_are_read_again() {
    let mut shelf = with(&["a", "b"], ShelfLimits::default());
    assert!(!judge(&mut shelf, "ZUNIONSTORE a 2 b x"));
    let ask = shelf.ask().unwrap();
    assert_eq!(ask.keys, [b"a".to_vec()]);
    // Until then nothing is done to it.
    assert!(!judge(&mut shelf, "ZADD a 1 m") && judge(&mut shelf, "ZADD b 1 m"));
    assert_eq!(shelf.put(DBS[0], b"a", true), Put::Instead);
    assert!(judge(&mut shelf, "ZADD a 1 m"));
}

#[test]
fn what_a_shelf_holds_is_bounded() {
    let tight = ShelfLimits {
        copied: 2,
        stale_bytes: 1_000,
        ..ShelfLimits::default()
    };
    let mut shelf = with(&["a", "b", "c"], tight);
    assert_eq!(shelf.check(), Err(CopyError::TooManyKeys(2)));
    let mut shelf = with(&["a"], tight);
    for n in 0..20 {
        judge(&mut shelf, &format!("INCR x{n}"));
    }
    assert_eq!(shelf.check(), Err(CopyError::TooManyStale(1_000)));
}

#[test]
fn a_database_that_is_emptied_is_done() {
    let mut shelf = with(&["a", "b"], ShelfLimits::default());
    judge(&mut shelf, "INCR x");
    assert!(!shelf.is_done());
    assert!(judge(&mut shelf, "FLUSHDB"));
    assert!(shelf.is_done() && judge(&mut shelf, "INCR x"));
    assert_eq!(shelf.put(DBS[0], b"b", true), Put::Nothing);
    assert!(shelf.ask().is_none());
}

//! What a value is, in one number: the same for equal values, whatever their encoding and the version of the server that
//! holds them.
//!
//! ```text
//!  DUMP ─▶ payload::open ─▶ Decoder ─▶ the requests that build the value ─▶ elements ─▶ Digest
//!                                                                            └ hash, set, zset: a sum; list, stream: a chain
//! ```
//!
//! Not in it is what servers keep beside the data, or do not tell their own replicas: counters of streams, delivery times and
//! counts of pending entries, consumers without any, pending entries whose entry was deleted, the cached count of a
//! HyperLogLog. Expiries of fields are taken back where they are parked.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};

use super::decode::Decoder;
use super::error::{RdbError, Stop};
use super::expiry::{PARK_FIELD_MS, PARK_KEY_MS, Ttl};
use super::frames::Frames;
use super::grammar::{Holds, Kind, Walk};
use super::input::Input;
use super::limits::Limits;
use super::payload;
use super::target::{Family, Target};

/// A value in short. Two of them mean something beside each other within one process only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    holds: &'static str,
    elements: u64,
    sum: u64,
}

/// One request for a whole collection: nothing is gained by pieces here.
const WHOLE: Limits = Limits {
    small_bytes: u64::MAX,
    small_elements: u64::MAX,
    stream_bytes: u64::MAX,
    module_bytes: u64::MAX,
    name_bytes: 512 * 1024 * 1024,
    piece_bytes: u64::MAX,
    chunk_bytes: u64::MAX,
    chunk_elements: usize::MAX,
    pending_max: 10_000_000,
    frames_bytes: usize::MAX,
};

impl Digest {
    /// Of what `DUMP` gives. `ahead_ms`: the clock of the server that gave it, less the clock by which expiries are to be read.
    ///
    /// # Errors
    /// The payload cannot be read, or is a module's.
    pub fn of(payload: &[u8], ahead_ms: i64) -> Result<Self, RdbError> {
        Self::by(payload, Some(ahead_ms))
    }

    /// The same, whenever fields expire that do.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn whenever(payload: &[u8]) -> Result<Self, RdbError> {
        Self::by(payload, None)
    }

    fn by(payload: &[u8], ahead_ms: Option<i64>) -> Result<Self, RdbError> {
        let (kind, raw) = payload::open(payload)?;
        let built = build(&kind, raw)?;
        let mut made = Made {
            elements: 0,
            sum: 0,
            ahead_ms,
            entries: HashSet::new(),
        };
        let mut parts = Parts(built.as_bytes());
        let mut args = Vec::new();
        while parts.request(&mut args)? {
            made.request(kind.holds, &args);
        }
        Ok(Self {
            holds: name(kind.holds),
            elements: made.elements,
            sum: made.sum,
        })
    }
}

const fn name(holds: Holds) -> &'static str {
    match holds {
        Holds::Text => "string",
        Holds::List(_) => "list",
        Holds::Set(_) => "set",
        Holds::Zset(_) => "zset",
        Holds::Hash(_) | Holds::ExpiringHash(_) => "hash",
        Holds::Stream => "stream",
        Holds::Module => "module",
    }
}

/// When a parked expiry of a key comes in truth, and any other as it is.
#[must_use]
pub const fn unparked_key(millis: i64) -> i64 {
    if millis >= PARK_KEY_MS {
        millis - PARK_KEY_MS
    } else {
        millis
    }
}

/// The same for a field of a hash.
#[must_use]
pub const fn unparked_field(millis: i64) -> i64 {
    if millis >= PARK_FIELD_MS {
        millis - PARK_FIELD_MS
    } else {
        millis
    }
}

/// The requests that build a value.
fn build(kind: &Kind, raw: &[u8]) -> Result<Frames, RdbError> {
    // An old one is told no counters of streams and no consumers without entries; a new one lets fields expire.
    let (major, minor) = if kind.holds == Holds::Stream {
        (6, 0)
    } else {
        (8, 0)
    };
    let target = Target {
        family: Family::Redis,
        major,
        minor,
    };
    let (mut input, mut walk, mut decoder) = (Input::default(), Walk::default(), Decoder::new());
    let mut out = Frames::default();
    input.buffer().extend_from_slice(raw);
    walk.begin(kind);
    decoder.begin(kind, b"", WHOLE, Ttl::default(), target);
    loop {
        match decoder.step(&mut walk, &mut input, &mut out) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(out),
            Err(Stop::More) => return Err(RdbError::Damaged("a payload ends within its value")),
            Err(Stop::Bad(error)) => return Err(error),
        }
    }
}

/// A digest in the making.
struct Made<'a> {
    elements: u64,
    sum: u64,
    /// None: it does not matter when something expires.
    ahead_ms: Option<i64>,
    /// Ids of a stream's entries.
    entries: HashSet<&'a [u8]>,
}

impl<'a> Made<'a> {
    /// Nothing of it depends on the order.
    fn add(&mut self, parts: &[&[u8]]) {
        self.elements += 1;
        self.sum = self.sum.wrapping_add(hash(0, parts));
    }

    /// The order counts.
    fn chain(&mut self, parts: &[&[u8]]) {
        self.elements += 1;
        self.sum = hash(self.sum, parts);
    }

    /// A request with the key as its first argument.
    fn request(&mut self, holds: Holds, args: &[&'a [u8]]) {
        let elements = args.get(2..).unwrap_or_default();
        match holds {
            Holds::Text => {
                let value = elements.first().copied().unwrap_or_default();
                match hyperloglog(value) {
                    Some((head, registers)) => self.chain(&[head, registers]),
                    None => self.chain(&[value]),
                }
            }
            Holds::List(_) => elements.iter().for_each(|element| self.chain(&[element])),
            Holds::Set(_) => elements.iter().for_each(|element| self.add(&[element])),
            Holds::Zset(_) => {
                for pair in elements.chunks_exact(2) {
                    let score = std::str::from_utf8(pair[0])
                        .ok()
                        .and_then(|score| score.parse().ok());
                    // -0 is 0 once it was packed.
                    let score = score.map(|score: f64| (score + 0.0).to_be_bytes());
                    self.add(&[pair[1], score.as_ref().map_or(pair[0], |score| &score[..])]);
                }
            }
            Holds::Hash(_) | Holds::ExpiringHash(_) if args.first() == Some(&&b"HSET"[..]) => {
                elements
                    .chunks_exact(2)
                    .for_each(|pair| self.add(&[pair[0], pair[1]]));
            }
            Holds::Hash(_) | Holds::ExpiringHash(_) => self.expiries(elements),
            Holds::Stream => self.of_stream(args),
            Holds::Module => {}
        }
    }

    /// `HPEXPIREAT key millis FIELDS n field …`
    fn expiries(&mut self, args: &[&[u8]]) {
        let millis = args
            .first()
            .and_then(|millis| std::str::from_utf8(millis).ok()?.parse().ok());
        let millis = self
            .ahead_ms
            .map_or(0, |ahead_ms| unparked_field(millis.unwrap_or(0)) - ahead_ms);
        for field in args.iter().skip(3) {
            self.add(&[field, b"expires", &millis.to_be_bytes()]);
        }
    }

    fn of_stream(&mut self, args: &[&'a [u8]]) {
        match args {
            // A stream without entries: made by one that is trimmed at once.
            [b"XADD", _, b"MAXLEN", ..] => {}
            [b"XADD", _, id, ..] => {
                self.entries.insert(id);
                self.chain(&args[2..]);
            }
            // The last id; `CREATE`, the group's name and what it was given last.
            [b"XSETID", _, last, ..] => self.chain(&[b"last", last]),
            [b"XGROUP", verb, _, group, last, ..] => self.chain(&[verb, group, last]),
            [b"XCLAIM", _, group, consumer, _, id, ..] if self.entries.contains(id) => {
                self.chain(&[b"pending", group, consumer, id]);
            }
            _ => {}
        }
    }
}

fn hash(before: u64, parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(before);
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish()
}

/// Where the count stands that a HyperLogLog keeps of itself, and drops when it likes.
const CACHED: std::ops::Range<usize> = 8..16;

/// A HyperLogLog without its cached count.
fn hyperloglog(value: &[u8]) -> Option<(&[u8], &[u8])> {
    value.strip_prefix(b"HYLL")?;
    Some((value.get(..CACHED.start)?, value.get(CACHED.end..)?))
}

/// Requests as this room writes them.
struct Parts<'a>(&'a [u8]);

const FRAMES: RdbError = RdbError::Damaged("a value cannot be taken apart");

impl<'a> Parts<'a> {
    /// The next request's arguments; false at the end.
    fn request(&mut self, args: &mut Vec<&'a [u8]>) -> Result<bool, RdbError> {
        args.clear();
        if self.0.is_empty() {
            return Ok(false);
        }
        for _ in 0..self.number(b'*')? {
            let length = self.number(b'$')?;
            let (arg, rest) = self.0.split_at_checked(length).ok_or(FRAMES)?;
            self.0 = rest.strip_prefix(b"\r\n").ok_or(FRAMES)?;
            args.push(arg);
        }
        Ok(true)
    }

    fn number(&mut self, mark: u8) -> Result<usize, RdbError> {
        let end = memchr::memchr(b'\r', self.0).ok_or(FRAMES)?;
        let (head, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix(b"\r\n").ok_or(FRAMES)?;
        let digits = head.strip_prefix(&[mark]).ok_or(FRAMES)?;
        std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or(FRAMES)
    }
}

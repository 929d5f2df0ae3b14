//! What a value of each type is made of, as data, and the walk over it that knows where a value ends.
//!
//! ```text
//!  type 4 (hash)        Loop ─▶ Field ─▶ Value ─▶ Next ─▶ End         Loop reads a count and is passed if it is 0
//!                        ▲                          │
//!                        └───── while some are left ┘
//! ```
//!
//! One walk serves all readers: who passes over a value skips the strings, who passes it on raw looks at lengths only,
//! who writes it as commands takes the strings in pieces.

use super::error::{RdbError, Stop, damaged};
use super::input::Input;
use super::text::Text;

/// What a part of a value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    // Strings.
    Bytes,
    Element,
    Field,
    Value,
    /// A whole collection in one string.
    Blob,
    /// A part of a list in one string.
    Node,
    StreamNodeId,
    StreamNode,
    Group,
    Consumer,
    ModuleText,
    // Numbers.
    /// How the next node is stored.
    Container,
    /// A field's expiry: 0, or one more than what it is behind the least one.
    ExpiryBehindLeast,
    /// A field's expiry, or 0.
    ExpiryOrZero,
    /// A field's expiry, or -1.
    ExpiryOrNone,
    LeastExpiry,
    Score,
    StreamLength,
    LastMs,
    LastSeq,
    FirstMs,
    FirstSeq,
    DeletedMs,
    DeletedSeq,
    Added,
    GroupMs,
    GroupSeq,
    GroupRead,
    PendingId,
    PendingTime,
    PendingCount,
    SeenTime,
    ActiveTime,
    OwnedId,
    ModuleId,
    ModuleNumber,
    // Counts.
    Elements,
    Nodes,
    Groups,
    Pending,
    Consumers,
    Owned,
    /// The value's end.
    End,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token {
    Number(u64),
    Millis(i64),
    Score(f64),
    Id(StreamId),
    /// A loop of so many rounds begins.
    Count(u64),
    /// A string of so many bytes begins; it is taken or passed over before the walk goes on.
    Text(u64),
    End,
}

/// The id of a stream's entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamId {
    pub(super) ms: u64,
    pub(super) seq: u64,
}

impl StreamId {
    pub(super) fn of(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        let low = number & u128::from(u64::MAX);
        Self {
            ms: u64::try_from(number >> 64).unwrap_or_default(),
            seq: u64::try_from(low).unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Text(Role),
    Number(Role),
    Millis(Role),
    /// A double in eight bytes.
    Double,
    /// A double in decimal, or a byte that stands for none or an infinity.
    Decimal,
    Id(Role),
    Loop(Role),
    Next,
    /// The parts of a module's value, up to its end.
    Module,
    End,
}

type Program = &'static [Op];

const TEXT: Program = &[Op::Text(Role::Bytes), Op::End];
const BLOB: Program = &[Op::Text(Role::Blob), Op::End];
const BLOB_EXPIRY: Program = &[Op::Millis(Role::LeastExpiry), Op::Text(Role::Blob), Op::End];
const ELEMENTS: Program = &[
    Op::Loop(Role::Elements),
    Op::Text(Role::Element),
    Op::Next,
    Op::End,
];
const SCORED: Program = &[
    Op::Loop(Role::Elements),
    Op::Text(Role::Element),
    Op::Decimal,
    Op::Next,
    Op::End,
];
const SCORED_2: Program = &[
    Op::Loop(Role::Elements),
    Op::Text(Role::Element),
    Op::Double,
    Op::Next,
    Op::End,
];
const PAIRS: Program = &[
    Op::Loop(Role::Elements),
    Op::Text(Role::Field),
    Op::Text(Role::Value),
    Op::Next,
    Op::End,
];
const PAIRS_EXPIRY: Program = &[
    Op::Millis(Role::LeastExpiry),
    Op::Loop(Role::Elements),
    Op::Number(Role::ExpiryBehindLeast),
    Op::Text(Role::Field),
    Op::Text(Role::Value),
    Op::Next,
    Op::End,
];
const PAIRS_EXPIRY_EARLY: Program = &[
    Op::Loop(Role::Elements),
    Op::Number(Role::ExpiryOrZero),
    Op::Text(Role::Field),
    Op::Text(Role::Value),
    Op::Next,
    Op::End,
];
const PAIRS_EXPIRY_VALKEY: Program = &[
    Op::Loop(Role::Elements),
    Op::Text(Role::Field),
    Op::Text(Role::Value),
    Op::Millis(Role::ExpiryOrNone),
    Op::Next,
    Op::End,
];
const NODES: Program = &[Op::Loop(Role::Nodes), Op::Text(Role::Node), Op::Next, Op::End];
const NODES_2: Program = &[
    Op::Loop(Role::Nodes),
    Op::Number(Role::Container),
    Op::Text(Role::Node),
    Op::Next,
    Op::End,
];
const MODULE: Program = &[Op::Number(Role::ModuleId), Op::Module, Op::End];
/// What follows the number of the module in a record of data that belongs to no key.
const MODULE_AUX: Program = &[
    Op::Number(Role::ModuleNumber),
    Op::Number(Role::ModuleNumber),
    Op::Module,
    Op::End,
];

macro_rules! stream {
    ([$($counters:expr),*] [$($read:expr),*] [$($active:expr),*]) => {
        &[
            Op::Loop(Role::Nodes), Op::Text(Role::StreamNodeId), Op::Text(Role::StreamNode), Op::Next,
            Op::Number(Role::StreamLength), Op::Number(Role::LastMs), Op::Number(Role::LastSeq),
            $($counters,)*
            Op::Loop(Role::Groups),
                Op::Text(Role::Group), Op::Number(Role::GroupMs), Op::Number(Role::GroupSeq), $($read,)*
                Op::Loop(Role::Pending),
                    Op::Id(Role::PendingId), Op::Millis(Role::PendingTime), Op::Number(Role::PendingCount),
                Op::Next,
                Op::Loop(Role::Consumers),
                    Op::Text(Role::Consumer), Op::Millis(Role::SeenTime), $($active,)*
                    Op::Loop(Role::Owned), Op::Id(Role::OwnedId), Op::Next,
                Op::Next,
            Op::Next,
            Op::End,
        ]
    };
    (counters $($rest:tt)*) => {
        stream!([
            Op::Number(Role::FirstMs), Op::Number(Role::FirstSeq), Op::Number(Role::DeletedMs),
            Op::Number(Role::DeletedSeq), Op::Number(Role::Added)
        ] [Op::Number(Role::GroupRead)] $($rest)*)
    };
}
const STREAM: Program = stream!([] [] []);
const STREAM_2: Program = stream!(counters[]);
const STREAM_3: Program = stream!(counters[Op::Millis(Role::ActiveTime)]);

/// The first version of Valkey's own format; types from 22 on have other meanings there.
pub(super) const VALKEY: u16 = 80;

/// What is to be known of a value's type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) number: u8,
    /// The first RDB version that has the type: any server that reads this version reads the value.
    pub(super) since: u16,
    pub(super) holds: Holds,
    program: Program,
}

/// What a value holds, and how its strings are to be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    List(Packed),
    Set(Packed),
    Zset(Packed),
    Hash(Packed),
    /// A hash of which single fields may expire.
    ExpiringHash(Packed),
    Stream,
    Module,
}

/// How a collection lies in one string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packed {
    /// Not at all: each element is a string of its own.
    No,
    Ziplist,
    Listpack,
    Intset,
    Zipmap,
}

impl Kind {
    /// The type of this number in a snapshot of this version.
    pub(super) fn of(number: u8, version: u16) -> Result<Self, RdbError> {
        use Holds as H;
        use Packed as P;
        let (since, holds, program) = match number {
            0 => (9, H::Text, TEXT),
            1 => (9, H::List(P::No), ELEMENTS),
            2 => (9, H::Set(P::No), ELEMENTS),
            3 => (9, H::Zset(P::No), SCORED),
            4 => (9, H::Hash(P::No), PAIRS),
            5 => (9, H::Zset(P::No), SCORED_2),
            7 => (9, H::Module, MODULE),
            9 => (9, H::Hash(P::Zipmap), BLOB),
            10 => (9, H::List(P::Ziplist), BLOB),
            11 => (9, H::Set(P::Intset), BLOB),
            12 => (9, H::Zset(P::Ziplist), BLOB),
            13 => (9, H::Hash(P::Ziplist), BLOB),
            14 => (9, H::List(P::Ziplist), NODES),
            15 => (9, H::Stream, STREAM),
            16 => (10, H::Hash(P::Listpack), BLOB),
            17 => (10, H::Zset(P::Listpack), BLOB),
            18 => (10, H::List(P::Listpack), NODES_2),
            19 => (10, H::Stream, STREAM_2),
            20 => (11, H::Set(P::Listpack), BLOB),
            21 => (11, H::Stream, STREAM_3),
            22 if version >= VALKEY => (VALKEY, H::ExpiringHash(P::No), PAIRS_EXPIRY_VALKEY),
            22 if version >= 12 => (12, H::ExpiringHash(P::No), PAIRS_EXPIRY_EARLY),
            23 if (12..VALKEY).contains(&version) => (12, H::ExpiringHash(P::Listpack), BLOB),
            24 if (12..VALKEY).contains(&version) => (12, H::ExpiringHash(P::No), PAIRS_EXPIRY),
            25 if (12..VALKEY).contains(&version) => (12, H::ExpiringHash(P::Listpack), BLOB_EXPIRY),
            _ => return Err(RdbError::UnknownType { number, version }),
        };
        Ok(Self {
            number,
            since,
            holds,
            program,
        })
    }

    /// The data of a module that belongs to no key.
    pub(super) const fn module_aux() -> Self {
        Self {
            number: 7,
            since: 9,
            holds: Holds::Module,
            program: MODULE_AUX,
        }
    }
}

/// A container of a list's node that is one plain element.
pub(super) const PLAIN_NODE: u64 = 1;

/// The walk over one value.
#[derive(Debug)]
pub(super) struct Walk {
    program: Program,
    at: usize,
    /// Begins of the loops that are being walked, with the rounds that are left.
    loops: [(usize, u64); LOOPS],
    depth: usize,
    /// The string that the last token began.
    pub(super) text: Text,
}

/// The deepest nesting of loops: what consumers own, in groups.
const LOOPS: usize = 3;

impl Default for Walk {
    fn default() -> Self {
        Self {
            program: &[Op::End],
            at: 0,
            loops: [(0, 0); LOOPS],
            depth: 0,
            text: Text::default(),
        }
    }
}

impl Walk {
    /// Before the beginning of a value.
    pub(super) fn begin(&mut self, kind: &Kind) {
        self.program = kind.program;
        self.at = 0;
        self.depth = 0;
        self.text.forget();
    }

    /// The next part. One step: it happens whole or not at all.
    #[inline]
    pub(super) fn next(&mut self, input: &mut Input) -> Result<(Role, Token), Stop> {
        loop {
            let op = self.program.get(self.at).copied().unwrap_or(Op::End);
            let read = match op {
                Op::Text(role) => (role, Token::Text(self.text.begin(input)?)),
                Op::Number(role) => (role, Token::Number(input.number()?)),
                Op::Millis(role) => (role, Token::Millis(input.millis()?)),
                Op::Double => (Role::Score, Token::Score(f64::from_le_bytes(input.array()?))),
                Op::Decimal => (Role::Score, Token::Score(decimal(input)?)),
                Op::Id(role) => (role, Token::Id(StreamId::of(input.array()?))),
                Op::Loop(role) => {
                    let count = input.number()?;
                    self.enter(count)?;
                    return Ok((role, Token::Count(count)));
                }
                Op::Next => {
                    self.turn();
                    continue;
                }
                Op::Module => match self.module_part(input)? {
                    Some(read) => return Ok(read),
                    None => continue,
                },
                Op::End => return Ok((Role::End, Token::End)),
            };
            self.at += 1;
            return Ok(read);
        }
    }

    fn enter(&mut self, count: u64) -> Result<(), Stop> {
        self.at += 1;
        if count > 0 {
            let place = self.loops.get_mut(self.depth);
            *place.ok_or(damaged("loops too deep"))? = (self.at, count);
            self.depth += 1;
            return Ok(());
        }
        // Behind the `Next` that belongs to this loop.
        let mut open = 1;
        while open > 0 {
            match self.program.get(self.at) {
                Some(Op::Loop(_)) => open += 1,
                Some(Op::Next) => open -= 1,
                Some(_) => {}
                None => break,
            }
            self.at += 1;
        }
        Ok(())
    }

    fn turn(&mut self) {
        self.at += 1;
        if let Some((begin, left)) = self.depth.checked_sub(1).and_then(|top| self.loops.get_mut(top)) {
            *left -= 1;
            if *left > 0 {
                self.at = *begin;
            } else {
                self.depth -= 1;
            }
        }
    }

    /// One part of a module's value, or `None` at its end.
    fn module_part(&mut self, input: &mut Input) -> Result<Option<(Role, Token)>, Stop> {
        let token = match input.number()? {
            0 => {
                self.at += 1;
                return Ok(None);
            }
            1 | 2 => Token::Number(input.number()?),
            3 => {
                input.take(4)?;
                Token::Number(0)
            }
            4 => {
                input.take(8)?;
                Token::Number(0)
            }
            5 => return Ok(Some((Role::ModuleText, Token::Text(self.text.begin(input)?)))),
            number => return Err(RdbError::UnknownModuleOpcode { number }.into()),
        };
        Ok(Some((Role::ModuleNumber, token)))
    }
}

/// A score in decimal, as Redis wrote them before version 4.
fn decimal(input: &mut Input) -> Result<f64, Stop> {
    let length = input.byte()?;
    Ok(match length {
        253 => f64::NAN,
        254 => f64::INFINITY,
        255 => f64::NEG_INFINITY,
        _ => std::str::from_utf8(input.take(usize::from(length))?)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(damaged("a score that is no number"))?,
    })
}

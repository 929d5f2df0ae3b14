//! One value, part by part, as the requests that build it on the target.
//!
//! ```text
//!  Walk ─token─┬─ a string in pieces ─▶ Pieces ──────▶ SET, SETRANGE …
//!              ├─ a packed string ─▶ Unpack ─element─▶ Collection, StreamWriter ─▶ requests
//!              └─ an element, a score, an expiry, … ──▶ Collection, StreamWriter
//! ```

use super::collection::Collection;
use super::error::{ModuleName, RdbError, Stop, damaged};
use super::expiry::Ttl;
use super::frames::Frames;
use super::grammar::{Holds, Kind, PLAIN_NODE, Packed, Role, Token, Walk};
use super::input::{Input, within};
use super::limits::Limits;
use super::stream_value::StreamWriter;
use super::target::Target;
use super::unpack::{Elements, Unpack};

/// Plain bytes that are taken of a string at once.
const PIECE: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Decoder {
    into: Into,
    holds: Holds,
    /// Kept from value to value for its buffers.
    collection: Collection,
    unpack: Unpack,
    scratch: Vec<u8>,
    /// The string that is coming in.
    text: Option<(Role, Packed)>,
    container: u64,
    least_expiry: i64,
    /// Reading pauses when so many bytes wait to be written.
    room: usize,
}

#[derive(Debug)]
enum Into {
    Pieces(Pieces),
    Collection,
    Stream(Box<StreamWriter>),
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            into: Into::Collection,
            holds: Holds::Text,
            collection: Collection::default(),
            unpack: Unpack::new(),
            scratch: Vec::new(),
            text: None,
            container: 0,
            least_expiry: 0,
            room: 0,
        }
    }

    /// A value begins.
    pub(super) fn begin(&mut self, kind: &Kind, key: &[u8], limits: Limits, ttl: Ttl, target: Target) {
        self.holds = kind.holds;
        self.text = None;
        self.container = 0;
        self.least_expiry = 0;
        self.room = limits.frames_bytes;
        self.into = match kind.holds {
            Holds::Text => Into::Pieces(Pieces::new(key, limits.piece_bytes)),
            Holds::Stream => Into::Stream(Box::new(StreamWriter::new(key, limits, target))),
            Holds::List(_) | Holds::Set(_) | Holds::Zset(_) | Holds::Hash(_) | Holds::ExpiringHash(_) => {
                self.collection.begin(kind.holds, key, limits, ttl, target);
                Into::Collection
            }
            Holds::Module => Into::Collection,
        };
    }

    /// One part more. `Some` at the value's end, with whether an expiry of a field is owed.
    pub(super) fn step(
        &mut self,
        walk: &mut Walk,
        input: &mut Input,
        out: &mut Frames,
    ) -> Result<Option<bool>, Stop> {
        if let Some((role, packed)) = self.text {
            self.take_text(role, packed, walk, input, out)?;
            return Ok(None);
        }
        let (role, token) = walk.next(input)?;
        input.commit();
        match token {
            Token::Text(length) => self.begin_text(role, length, out)?,
            Token::End => return self.finish(out).map(Some),
            Token::Number(number) if role == Role::ModuleId => {
                return Err(RdbError::ModuleValue(ModuleName(number)).into());
            }
            Token::Number(number) if role == Role::Container => self.container = number,
            Token::Millis(millis) if role == Role::LeastExpiry => self.least_expiry = millis,
            _ => match &mut self.into {
                Into::Stream(stream) => stream.token(role, token, out)?,
                Into::Collection => self.number(role, token, out)?,
                Into::Pieces(_) => {}
            },
        }
        Ok(None)
    }

    fn finish(&mut self, out: &mut Frames) -> Result<bool, Stop> {
        match &mut self.into {
            Into::Pieces(_) | Into::Stream(_) => Ok(false),
            Into::Collection => Ok(self.collection.finish(out)?),
        }
    }

    /// A number of a collection.
    fn number(&mut self, role: Role, token: Token, out: &mut Frames) -> Result<(), Stop> {
        let collection = &mut self.collection;
        match (role, token) {
            (Role::Score, Token::Score(score)) => collection.score(score, out)?,
            (Role::ExpiryBehindLeast, Token::Number(behind)) if behind > 0 => {
                let behind = i64::try_from(behind - 1).ok();
                let millis = behind.and_then(|behind| self.least_expiry.checked_add(behind));
                collection.expire_next(millis.ok_or(EXPIRY)?);
            }
            (Role::ExpiryOrZero, Token::Number(millis)) if millis > 0 => {
                collection.expire_next(i64::try_from(millis).map_err(|_| EXPIRY)?);
            }
            (Role::ExpiryOrNone, Token::Millis(millis)) if millis != -1 => collection.expire_last(millis)?,
            _ => {}
        }
        Ok(())
    }

    fn packed(&self, role: Role) -> Result<Packed, Stop> {
        let list_node = match (role, self.container) {
            (Role::Node, 0 | 2) => true,
            (Role::Node, PLAIN_NODE) => false,
            (Role::Node, _) => return Err(damaged("a list's node in a container that does not exist")),
            _ => false,
        };
        Ok(match (role, self.holds) {
            (Role::StreamNode, _) => Packed::Listpack,
            (Role::Blob, holds) => packed_in(holds),
            (Role::Node, holds) if list_node => packed_in(holds),
            _ => Packed::No,
        })
    }

    fn begin_text(&mut self, role: Role, length: u64, out: &mut Frames) -> Result<(), Stop> {
        let packed = self.packed(role)?;
        self.text = Some((role, packed));
        if packed != Packed::No {
            self.unpack.begin(packed);
            return Ok(());
        }
        match &mut self.into {
            Into::Pieces(pieces) => pieces.begin(length, out)?,
            Into::Collection => self.collection.begin_element(length, out)?,
            Into::Stream(stream) => stream.begin_name(length)?,
        }
        Ok(())
    }

    fn take_text(
        &mut self,
        role: Role,
        packed: Packed,
        walk: &mut Walk,
        input: &mut Input,
        out: &mut Frames,
    ) -> Result<(), Stop> {
        if packed == Packed::No {
            self.scratch.clear();
            walk.text.pull(input, PIECE, &mut self.scratch)?;
            match &mut self.into {
                Into::Pieces(pieces) => pieces.bytes(&self.scratch, out)?,
                Into::Collection => self.collection.bytes(&self.scratch, out)?,
                Into::Stream(stream) => stream.name_bytes(&self.scratch),
            }
        } else {
            if !self.unpack.is_paused() {
                walk.text.pull(input, PIECE, self.unpack.buffer())?;
            }
            let room = self.room.max(out.len());
            match &mut self.into {
                Into::Stream(stream) => self.unpack.run(&mut **stream, room, out)?,
                Into::Collection => self.unpack.run(&mut self.collection, room, out)?,
                Into::Pieces(_) => {}
            }
            if self.unpack.is_paused() {
                return Ok(());
            }
        }
        if walk.text.is_done() {
            self.text = None;
            self.end_text(role, packed, out)?;
        }
        Ok(())
    }

    fn end_text(&mut self, role: Role, packed: Packed, out: &mut Frames) -> Result<(), Stop> {
        if packed != Packed::No {
            self.unpack.finish()?;
            if let Into::Stream(stream) = &self.into {
                stream.end_node()?;
            }
            return Ok(());
        }
        match &mut self.into {
            Into::Pieces(pieces) => pieces.end(out),
            Into::Collection => self.collection.end(out)?,
            Into::Stream(stream) => stream.end_name(role)?,
        }
        Ok(())
    }
}

const EXPIRY: Stop = damaged("a field's expiry out of range");

/// How the strings of a value are packed that hold several elements.
pub(super) const fn packed_in(holds: Holds) -> Packed {
    match holds {
        Holds::List(packed)
        | Holds::Set(packed)
        | Holds::Zset(packed)
        | Holds::Hash(packed)
        | Holds::ExpiringHash(packed) => packed,
        Holds::Text | Holds::Stream | Holds::Module => Packed::No,
    }
}

/// A string: one `SET`, or its whole length at first and then piece by piece into it. Appending would have the server copy
/// all that is there again and again, and every copy of 200 MB is felt.
#[derive(Debug)]
struct Pieces {
    key: Vec<u8>,
    piece_max: u64,
    total: u64,
    /// Bytes that were written.
    done: u64,
    /// Bytes that the present request still lacks.
    piece: u64,
}

impl Pieces {
    fn new(key: &[u8], piece_max: u64) -> Self {
        Self {
            key: key.to_vec(),
            piece_max: piece_max.max(1),
            total: 0,
            done: 0,
            piece: 0,
        }
    }

    fn begin(&mut self, length: u64, out: &mut Frames) -> Result<(), RdbError> {
        // No target takes a longer one, and none is asked to make room for it.
        within("a string", length, crate::resp::BULK_HARD_MAX as u64)?;
        self.total = length;
        if length > self.piece_max {
            let last = (length - 1).to_string();
            out.request(&[b"SETRANGE", &self.key, last.as_bytes(), b"\0"]);
        }
        Ok(())
    }

    fn open(&mut self, out: &mut Frames) {
        self.piece = (self.total - self.done).min(self.piece_max);
        if self.total > self.piece_max {
            out.begin(4);
            out.arg(b"SETRANGE");
            out.arg(&self.key);
            out.arg(self.done.to_string().as_bytes());
        } else {
            out.begin(3);
            out.arg(b"SET");
            out.arg(&self.key);
        }
        out.begin_arg(self.piece);
    }

    fn bytes(&mut self, mut bytes: &[u8], out: &mut Frames) -> Result<(), RdbError> {
        if bytes.len() as u64 > self.total - self.done {
            return Err(RdbError::Damaged("a string that is longer than it said"));
        }
        while !bytes.is_empty() {
            if self.piece == 0 {
                self.open(out);
            }
            let room = usize::try_from(self.piece).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            out.piece(now);
            self.piece -= now.len() as u64;
            self.done += now.len() as u64;
            bytes = rest;
            if self.piece == 0 {
                out.end_arg();
                out.end();
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Frames) {
        if self.total == 0 {
            self.open(out);
            out.end_arg();
            out.end();
        }
    }
}

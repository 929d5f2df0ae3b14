//! Collections that lie in one string: ziplists, listpacks, intsets, zipmaps. Bytes in, elements out, whatever the pieces.
//!
//! ```text
//!           ┌──── header ────┐     ┌────────── entry ──────────┐
//!  Ziplist  bytes, tail, count     length before, encoding, body            0xff
//!  Listpack bytes, count           encoding, body, own length backwards     0xff
//!  Intset   width, count           a number
//!  Zipmap   count                  length, field, length, free, value, free 0xff
//! ```
//!
//! An entry's head is read whole, of its body whatever has come.

use super::error::{RdbError, Stop, damaged};
use super::frames::Frames;
use super::grammar::Packed;
use super::input::within;

/// Zipmaps hold short fields only; this one is waited for as a whole.
const MAP_FIELD_MAX: u64 = 1024 * 1024;

/// Who takes the elements.
pub(super) trait Elements {
    /// An element that is stored as a number.
    fn number(&mut self, number: i64, out: &mut Frames) -> Result<(), RdbError>;
    /// An element of so many bytes begins.
    fn begin_element(&mut self, length: u64, out: &mut Frames) -> Result<(), RdbError>;
    /// Some of its bytes.
    fn bytes(&mut self, bytes: &[u8], out: &mut Frames) -> Result<(), RdbError>;
    /// It has ended.
    fn end(&mut self, out: &mut Frames) -> Result<(), RdbError>;
}

/// A string that is being unpacked.
#[derive(Debug)]
pub(super) struct Unpack {
    packed: Packed,
    state: State,
    /// Bytes of the string that are still to be unpacked, from `at` on.
    buf: Vec<u8>,
    at: usize,
    /// There was no room for what the bytes hold.
    paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Entry,
    /// Bytes of the element still to come, and bytes to pass over behind it.
    Body {
        left: u64,
        behind: u64,
    },
    Pass {
        left: u64,
    },
    /// An intset's numbers still to come, and their width.
    Numbers {
        left: u64,
        width: usize,
    },
    /// A zipmap's value is next, behind its length and a byte that counts what is free.
    MapValue,
    End,
}

/// What stands at the head of an entry.
enum Entry {
    Number(i64),
    Bytes(u64),
    End,
}

impl Unpack {
    pub(super) const fn new() -> Self {
        Self {
            packed: Packed::No,
            state: State::End,
            buf: Vec::new(),
            at: 0,
            paused: false,
        }
    }

    pub(super) fn begin(&mut self, packed: Packed) {
        self.packed = packed;
        self.state = State::Header;
        self.buf.clear();
        self.at = 0;
        self.paused = false;
    }

    /// Whether [`Unpack::run`] is to be called again before more bytes are taken.
    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Where the next bytes of the string are appended.
    pub(super) const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Hands on whatever the bytes hold that have come, or pauses when `out` has more than `room` bytes: an entry of a
    /// stream may name fields of any length that stand elsewhere.
    pub(super) fn run(
        &mut self,
        to: &mut impl Elements,
        room: usize,
        out: &mut Frames,
    ) -> Result<(), RdbError> {
        self.paused = false;
        loop {
            if out.len() > room {
                self.paused = true;
                break;
            }
            match self.step(to, out) {
                Ok(()) => {}
                Err(Stop::Bad(error)) => return Err(error),
                Err(Stop::More) => break,
            }
        }
        self.buf.drain(..self.at);
        self.at = 0;
        Ok(())
    }

    /// The string has ended: so must have what lies in it.
    pub(super) fn finish(&self) -> Result<(), RdbError> {
        if self.state == State::End && self.buf.is_empty() {
            return Ok(());
        }
        Err(RdbError::Damaged(
            "a packed collection does not end where its string does",
        ))
    }

    fn step(&mut self, to: &mut impl Elements, out: &mut Frames) -> Result<(), Stop> {
        match self.state {
            State::Header => self.header(),
            State::Entry => self.entry(to, out),
            State::Body { left, behind } => {
                if left > 0 {
                    let taken = take_some(&self.buf, &mut self.at, left)?;
                    to.bytes(taken, out)?;
                    self.state = State::Body {
                        left: left - taken.len() as u64,
                        behind,
                    };
                } else {
                    to.end(out)?;
                    self.state = State::Pass { left: behind };
                }
                Ok(())
            }
            State::Pass { left: 0 } => {
                self.state = State::Entry;
                Ok(())
            }
            State::Pass { left } => {
                let taken = take_some(&self.buf, &mut self.at, left)?;
                self.state = State::Pass {
                    left: left - taken.len() as u64,
                };
                Ok(())
            }
            State::Numbers { left: 0, .. } => {
                self.state = State::End;
                Ok(())
            }
            State::Numbers { left, width } => {
                let number = little_endian(self.take(width)?);
                to.number(number, out)?;
                self.state = State::Numbers {
                    left: left - 1,
                    width,
                };
                Ok(())
            }
            State::MapValue => {
                let (length, used) = map_length(self.rest())?.ok_or(damaged("a zipmap without a value"))?;
                let free = *self.rest().get(used).ok_or(Stop::More)?;
                self.at += used + 1;
                to.begin_element(length, out)?;
                self.state = State::Body {
                    left: length,
                    behind: u64::from(free),
                };
                Ok(())
            }
            State::End if self.rest().is_empty() => Err(Stop::More),
            State::End => Err(damaged("bytes behind the end of a packed collection")),
        }
    }

    fn header(&mut self) -> Result<(), Stop> {
        self.state = match self.packed {
            Packed::Ziplist => {
                self.take(10)?;
                State::Entry
            }
            Packed::Listpack => {
                self.take(6)?;
                State::Entry
            }
            Packed::Zipmap => {
                self.take(1)?;
                State::Entry
            }
            Packed::Intset => {
                let header = self.take(8)?;
                let width = match header[0] {
                    width @ (2 | 4 | 8) if header[1..4] == [0; 3] => usize::from(width),
                    _ => return Err(damaged("an intset of a width that does not exist")),
                };
                let count = header[4..].first_chunk().copied().map_or(0, u32::from_le_bytes);
                State::Numbers {
                    left: u64::from(count),
                    width,
                }
            }
            Packed::No => State::End,
        };
        Ok(())
    }

    fn entry(&mut self, to: &mut impl Elements, out: &mut Frames) -> Result<(), Stop> {
        let rest = self.rest();
        let (entry, used, behind) = match self.packed {
            Packed::Ziplist => ziplist_entry(rest)?,
            Packed::Listpack => listpack_entry(rest)?,
            Packed::Zipmap => {
                // A field; its value follows with a byte of its own before it.
                match map_length(rest)? {
                    None => (Entry::End, 1, 0),
                    Some((length, used)) => {
                        let length_here = within("a field of a zipmap", length, MAP_FIELD_MAX)?;
                        let end = used + length_here;
                        let field = rest.get(used..end).ok_or(Stop::More)?;
                        to.begin_element(length, out)?;
                        to.bytes(field, out)?;
                        to.end(out)?;
                        self.at += end;
                        self.state = State::MapValue;
                        return Ok(());
                    }
                }
            }
            Packed::No | Packed::Intset => (Entry::End, 0, 0),
        };
        self.at += used;
        self.state = match entry {
            Entry::Number(number) => {
                to.number(number, out)?;
                State::Pass { left: behind }
            }
            Entry::Bytes(length) => {
                to.begin_element(length, out)?;
                State::Body { left: length, behind }
            }
            Entry::End => State::End,
        };
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    fn take(&mut self, count: usize) -> Result<&[u8], Stop> {
        let taken = self.buf.get(self.at..self.at + count).ok_or(Stop::More)?;
        self.at += count;
        Ok(taken)
    }
}

/// Up to `left` bytes, at least one.
fn take_some<'a>(buf: &'a [u8], at: &mut usize, left: u64) -> Result<&'a [u8], Stop> {
    let rest = &buf[*at..];
    let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
    if count == 0 {
        return Err(Stop::More);
    }
    *at += count;
    Ok(&rest[..count])
}

/// A signed number of one to eight bytes.
fn little_endian(bytes: &[u8]) -> i64 {
    let mut wide = [0; 8];
    for (place, byte) in wide.iter_mut().zip(bytes) {
        *place = *byte;
    }
    let empty = 64 - 8 * u32::try_from(bytes.len().clamp(1, 8)).unwrap_or(8);
    i64::from_le_bytes(wide) << empty >> empty
}

fn slice(bytes: &[u8], from: usize, count: usize) -> Result<&[u8], Stop> {
    bytes.get(from..from + count).ok_or(Stop::More)
}

/// The entry, the bytes of its head (of a number: all), and what is to be passed over behind it.
fn ziplist_entry(rest: &[u8]) -> Result<(Entry, usize, u64), Stop> {
    let before = match rest.first().ok_or(Stop::More)? {
        255 => return Ok((Entry::End, 1, 0)),
        254 => 5,
        _ => 1,
    };
    let encoding = *rest.get(before).ok_or(Stop::More)?;
    let at = before + 1;
    let number = |width: usize| -> Result<(Entry, usize, u64), Stop> {
        Ok((
            Entry::Number(little_endian(slice(rest, at, width)?)),
            at + width,
            0,
        ))
    };
    Ok(match encoding {
        0x00..=0x3f => (Entry::Bytes(u64::from(encoding)), at, 0),
        0x40..=0x7f => {
            let low = *rest.get(at).ok_or(Stop::More)?;
            let length = u16::from_be_bytes([encoding & 0x3f, low]);
            (Entry::Bytes(u64::from(length)), at + 1, 0)
        }
        0x80 => {
            let length = *slice(rest, at, 4)?.first_chunk().ok_or(Stop::More)?;
            (Entry::Bytes(u64::from(u32::from_be_bytes(length))), at + 4, 0)
        }
        0xc0 => number(2)?,
        0xd0 => number(4)?,
        0xe0 => number(8)?,
        0xf0 => number(3)?,
        0xfe => number(1)?,
        0xf1..=0xfd => (Entry::Number(i64::from(encoding) - 0xf1), at, 0),
        _ => return Err(damaged("a ziplist's entry in an encoding that does not exist")),
    })
}

/// As [`ziplist_entry`]; behind the body stands the length of the entry, in as many bytes as that takes.
fn listpack_entry(rest: &[u8]) -> Result<(Entry, usize, u64), Stop> {
    let first = *rest.first().ok_or(Stop::More)?;
    let number = |width: usize| -> Result<(Entry, usize, u64), Stop> {
        Ok((Entry::Number(little_endian(slice(rest, 1, width)?)), 1 + width, 1))
    };
    let second = || rest.get(1).copied().ok_or(Stop::More);
    let (length, head) = match first {
        0x00..=0x7f => return Ok((Entry::Number(i64::from(first)), 1, 1)),
        0x80..=0xbf => (u64::from(first & 0x3f), 1),
        0xc0..=0xdf => {
            let bits = u16::from_be_bytes([first & 0x1f, second()?]);
            let signed = i64::from(bits) - if bits >= 1 << 12 { 1 << 13 } else { 0 };
            return Ok((Entry::Number(signed), 2, 1));
        }
        0xe0..=0xef => (u64::from(u16::from_be_bytes([first & 0x0f, second()?])), 2),
        0xf0 => {
            let length = *slice(rest, 1, 4)?.first_chunk().ok_or(Stop::More)?;
            (u64::from(u32::from_le_bytes(length)), 5)
        }
        0xf1 => return number(2),
        0xf2 => return number(3),
        0xf3 => return number(4),
        0xf4 => return number(8),
        0xff => return Ok((Entry::End, 1, 0)),
        _ => return Err(damaged("a listpack's entry in an encoding that does not exist")),
    };
    let behind = match length + head as u64 {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    };
    Ok((Entry::Bytes(length), head, behind))
}

/// A length of a zipmap and its bytes, or `None` at the end.
fn map_length(rest: &[u8]) -> Result<Option<(u64, usize)>, Stop> {
    Ok(match *rest.first().ok_or(Stop::More)? {
        255 => None,
        254 => {
            let length = *slice(rest, 1, 4)?.first_chunk().ok_or(Stop::More)?;
            Some((u64::from(u32::from_le_bytes(length)), 5))
        }
        length => Some((u64::from(length), 1)),
    })
}

/// How many entries a packed collection says to have, by its first bytes; `u64::MAX` where it does not say.
pub(super) fn entries(packed: Packed, head: &[u8]) -> u64 {
    let short = |at: usize| {
        let bytes = head.get(at..at + 2).and_then(|bytes| bytes.first_chunk());
        match bytes.copied().map(u16::from_le_bytes) {
            Some(u16::MAX) => u64::MAX,
            Some(count) => u64::from(count),
            None => 0,
        }
    };
    match packed {
        Packed::Ziplist => short(8),
        Packed::Listpack => short(4),
        Packed::Intset => {
            let bytes = head.get(4..8).and_then(|bytes| bytes.first_chunk());
            bytes
                .copied()
                .map_or(0, |bytes| u64::from(u32::from_le_bytes(bytes)))
        }
        Packed::Zipmap => match head.first() {
            Some(count @ 0..=253) => u64::from(*count) * 2,
            Some(_) => u64::MAX,
            None => 0,
        },
        Packed::No => 0,
    }
}

/// How many bytes of a packed collection [`entries`] looks at.
pub(super) const HEAD: usize = 10;

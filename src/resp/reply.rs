//! The boundary of one reply of a node, fed in chunks as they come off the socket.
//!
//! ```text
//!                 ┌──────────────── Type ◀───────────────┐
//!   $ = ! * % …   │ + - , ( # _                          │ values still due
//!       ▼         ▼                                      │
//!    Number      Text ──CR──▶ Lf ──▶ one value less ─────┤
//!       │ CR LF                          ▲               │ none left
//!       ├─ a bulk: Body ─▶ BodyCr ─▶ BodyLf              ▼
//!       └─ an aggregate: so many values more          boundary
//! ```
//!
//! Nesting is one counter of the values still due, so any depth passes in constant memory. No byte is kept: what a
//! chunk ended in the middle of is remembered as a number. An attribute (`|`) is values before a value, so it adds
//! to the counter and takes nothing away.
//!
//! A node is not trusted to frame its replies, since scripts shape them. Whatever is not a reply to the letter is
//! refused, and after that nothing is accepted any more: the link must be closed.

use memchr::memchr2;

use super::number::{Line, length_line};
use super::{BULK_HARD_MAX, BadReply};

/// A status, error or big number may be this long.
const TEXT_MAX: usize = 64 * 1024;

/// A double or boolean may be this long.
const SCALAR_MAX: usize = 64;

/// Elements of one aggregate.
const ELEMENTS_MAX: u64 = 1 << 32;

/// Finds where replies end. One per link, used again for every reply.
#[derive(Debug, Default)]
pub struct ReplyScanner {
    phase: Phase,
    /// Values still due before the reply is complete; 0 between two replies.
    due: u64,
    /// Type of the line or bulk that a chunk ended in.
    kind: u8,
    /// Type of the reply itself, its attributes passed over.
    first: Option<u8>,
    /// `Number`: the line so far. `Text`: of a big number, whether it has digits.
    line: Number,
    /// `Text`: bytes of the line so far. `Body`: bytes of the bulk still to come.
    count: usize,
    /// Why the phase is `Broken`.
    broken: Option<BadReply>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Type,
    Number,
    NumberLf,
    Text,
    TextLf,
    Body,
    BodyCr,
    BodyLf,
    Broken,
}

/// The number of a line, as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
struct Number {
    value: u64,
    digits: u8,
    sign: Sign,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sign {
    #[default]
    None,
    Plus,
    Minus,
}

// === impl ReplyScanner ===

impl ReplyScanner {
    /// Reads on in `chunk`, which continues the chunks before it.
    ///
    /// `Some(n)`: the reply ends with `chunk[..n]` and the scanner is ready for the next one, which begins at
    /// `chunk[n..]`. `None`: all of the chunk belongs to a reply that has not ended.
    ///
    /// # Errors
    /// The bytes are no reply. The scanner stays broken, as the link is.
    #[inline]
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Option<usize>, BadReply> {
        if self.phase == Phase::Type && self.due == 0 {
            let Some(&kind) = chunk.first() else {
                return Ok(None);
            };
            if let Some(end) = whole(kind, chunk) {
                self.first = Some(kind);
                return Ok(Some(end));
            }
        }
        self.resume(chunk)
    }

    /// What [`ReplyScanner::feed`] does with all but the usual small replies.
    fn resume(&mut self, chunk: &[u8]) -> Result<Option<usize>, BadReply> {
        let outcome = self.advance(chunk);
        if let Err(bad) = outcome {
            self.phase = Phase::Broken;
            self.broken = Some(bad);
        }
        outcome
    }

    /// Whether nothing of a reply has been read since the last boundary.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.due == 0
    }

    /// Type byte of the reply being read, or of the last one if none is. `None` before the first, and while only
    /// attributes of a reply have been read.
    #[must_use]
    pub const fn first(&self) -> Option<u8> {
        self.first
    }

    /// Whether that reply is an error.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self.first, Some(b'-' | b'!'))
    }

    /// Whether that reply answers no request: a RESP3 push.
    #[must_use]
    pub const fn is_push(&self) -> bool {
        matches!(self.first, Some(b'>'))
    }

    #[inline]
    fn advance(&mut self, chunk: &[u8]) -> Result<Option<usize>, BadReply> {
        let mut at = 0;
        loop {
            let ended = match self.phase {
                Phase::Type => {
                    let rest = &chunk[at..];
                    let Some(&kind) = rest.first() else {
                        return Ok(None);
                    };
                    if self.due == 0 {
                        self.due = 1;
                        self.first = None;
                    }
                    // Values inside its attributes come while more than the reply itself is due.
                    if self.due == 1 && self.first.is_none() && kind != b'|' {
                        self.first = Some(kind);
                    }
                    if let Some(end) = whole(kind, rest) {
                        at += end;
                        true
                    } else {
                        at += 1;
                        self.begin(kind)?;
                        continue;
                    }
                }
                Phase::Number => match self.number(chunk, &mut at)? {
                    true => self.number_ended(chunk, &mut at)?,
                    false => return Ok(None),
                },
                Phase::NumberLf => match line_feed(chunk, &mut at)? {
                    true => self.number_ended(chunk, &mut at)?,
                    false => return Ok(None),
                },
                Phase::Text => match self.text(chunk, &mut at)? {
                    true => true,
                    false => return Ok(None),
                },
                Phase::TextLf | Phase::BodyLf => match line_feed(chunk, &mut at)? {
                    true => true,
                    false => return Ok(None),
                },
                Phase::Body => match self.body(chunk, &mut at)? {
                    true => true,
                    false => return Ok(None),
                },
                Phase::BodyCr => match chunk.get(at) {
                    Some(b'\r') => {
                        at += 1;
                        self.phase = Phase::BodyLf;
                        continue;
                    }
                    Some(_) => return Err(BadReply::InvalidCrlf),
                    None => return Ok(None),
                },
                Phase::Broken => return Err(self.broken.unwrap_or(BadReply::InvalidCrlf)),
            };
            if ended {
                self.due -= 1;
                self.phase = Phase::Type;
                if self.due == 0 {
                    return Ok(Some(at));
                }
            }
        }
    }

    /// The type byte of a value.
    fn begin(&mut self, kind: u8) -> Result<(), BadReply> {
        self.phase = match kind {
            b'$' | b'*' | b':' | b'%' | b'~' | b'>' | b'=' | b'!' | b'|' => {
                self.line = Number::default();
                Phase::Number
            }
            b'+' | b'-' | b',' | b'(' | b'#' | b'_' => {
                self.count = 0;
                self.line.digits = 0;
                Phase::Text
            }
            _ => return Err(BadReply::UnknownType(kind)),
        };
        self.kind = kind;
        Ok(())
    }

    /// A line of one number. True: its LF has been read.
    #[inline]
    fn number(&mut self, chunk: &[u8], at: &mut usize) -> Result<bool, BadReply> {
        let mut line = self.line;
        let mut i = *at;
        while let Some(&byte) = chunk.get(i) {
            i += 1;
            let digit = byte.wrapping_sub(b'0');
            if digit <= 9 {
                // Canonical, and too short to overflow.
                if line.digits >= 19 || (line.digits == 1 && line.value == 0) {
                    return Err(self.invalid_number());
                }
                line.value = line.value * 10 + u64::from(digit);
                line.digits += 1;
            } else if byte == b'\r' && line.digits > 0 {
                self.line = line;
                *at = i;
                self.phase = Phase::NumberLf;
                return line_feed(chunk, at);
            } else if line.digits == 0 && line.sign == Sign::None && matches!(byte, b'-' | b'+') {
                line.sign = if byte == b'-' { Sign::Minus } else { Sign::Plus };
            } else if byte == b'\n' {
                return Err(BadReply::InvalidCrlf);
            } else {
                return Err(self.invalid_number());
            }
        }
        self.line = line;
        *at = i;
        Ok(false)
    }

    /// What a complete number announces. True: the value has ended with it.
    #[inline]
    fn number_ended(&mut self, chunk: &[u8], at: &mut usize) -> Result<bool, BadReply> {
        let Number { value, sign, .. } = self.line;
        if self.kind == b':' {
            let fits =
                value <= i64::MAX.unsigned_abs() || (sign == Sign::Minus && value == i64::MIN.unsigned_abs());
            return if fits {
                Ok(true)
            } else {
                Err(BadReply::InvalidScalar(b':'))
            };
        }
        match sign {
            Sign::None => {}
            Sign::Minus if value == 1 && matches!(self.kind, b'$' | b'*') => return Ok(true),
            Sign::Minus | Sign::Plus => return Err(BadReply::InvalidLength(self.kind)),
        }
        match self.kind {
            b'$' | b'=' | b'!' => {
                let length = usize::try_from(value)
                    .ok()
                    .filter(|&length| length <= BULK_HARD_MAX);
                self.count = length.ok_or(BadReply::TooLong(value))?;
                if self.kind == b'=' && self.count < 4 {
                    return Err(BadReply::InvalidLength(b'='));
                }
                self.phase = Phase::Body;
                self.body(chunk, at)
            }
            aggregate => {
                if value > ELEMENTS_MAX {
                    return Err(BadReply::TooManyElements(value));
                }
                let values = if matches!(aggregate, b'%' | b'|') {
                    value * 2
                } else {
                    value
                };
                self.due = self
                    .due
                    .checked_add(values)
                    .ok_or(BadReply::TooManyElements(value))?;
                self.phase = Phase::Type;
                Ok(aggregate != b'|')
            }
        }
    }

    /// The bytes of a bulk. True: its CR LF has been read too.
    #[inline]
    fn body(&mut self, chunk: &[u8], at: &mut usize) -> Result<bool, BadReply> {
        let have = chunk.len() - *at;
        if have >= self.count + 2 {
            let end = *at + self.count;
            *at = end + 2;
            return match chunk.get(end..end + 2) {
                Some(b"\r\n") => Ok(true),
                Some(_) | None => Err(BadReply::InvalidCrlf),
            };
        }
        let skip = have.min(self.count);
        *at += skip;
        self.count -= skip;
        if self.count == 0 {
            // At most a CR is left of the chunk.
            self.phase = match chunk.get(*at) {
                Some(b'\r') => {
                    *at += 1;
                    Phase::BodyLf
                }
                Some(_) => return Err(BadReply::InvalidCrlf),
                None => Phase::BodyCr,
            };
        }
        Ok(false)
    }

    /// A line of text. True: its LF has been read.
    #[inline]
    fn text(&mut self, chunk: &[u8], at: &mut usize) -> Result<bool, BadReply> {
        let rest = &chunk[*at..];
        let stop = memchr2(b'\r', b'\n', rest);
        let piece = &rest[..stop.unwrap_or(rest.len())];
        self.check_text(piece, stop.is_some())?;
        self.count += piece.len();
        match stop {
            None => {
                *at = chunk.len();
                Ok(false)
            }
            Some(i) if rest[i] == b'\r' => {
                *at += i + 1;
                self.phase = Phase::TextLf;
                line_feed(chunk, at)
            }
            Some(_) => Err(BadReply::InvalidCrlf),
        }
    }

    /// Judges the next piece of a line; `last`: the line ends with it.
    #[inline]
    fn check_text(&mut self, piece: &[u8], last: bool) -> Result<(), BadReply> {
        let length = self.count + piece.len();
        let (valid, length_max) = match self.kind {
            b'+' | b'-' => (true, TEXT_MAX),
            b'_' => (piece.is_empty(), SCALAR_MAX),
            b'#' => (
                matches!(piece, [] | [b't' | b'f']) && length <= 1 && !(last && length == 0),
                SCALAR_MAX,
            ),
            b'(' => {
                let digits = match piece {
                    [b'-' | b'+', digits @ ..] if self.count == 0 => digits,
                    digits => digits,
                };
                self.line.digits |= u8::from(!digits.is_empty());
                (
                    digits.iter().all(u8::is_ascii_digit) && !(last && self.line.digits == 0),
                    TEXT_MAX,
                )
            }
            _ => (
                piece.iter().all(is_of_double) && !(last && length == 0),
                SCALAR_MAX,
            ),
        };
        if length > length_max {
            return Err(BadReply::LineTooLong(self.kind));
        }
        if valid {
            Ok(())
        } else {
            Err(BadReply::InvalidScalar(self.kind))
        }
    }

    #[cold]
    fn invalid_number(&self) -> BadReply {
        if self.kind == b':' {
            BadReply::InvalidScalar(b':')
        } else {
            BadReply::InvalidLength(self.kind)
        }
    }
}

/// The length of the usual small values, if all of it is there and in order. `None`: let the phases judge.
#[inline(always)]
fn whole(kind: u8, rest: &[u8]) -> Option<usize> {
    match kind {
        b'$' => match length_line(rest, 1) {
            Line::Length { value, next } if value <= BULK_HARD_MAX => {
                let end = next + value;
                (rest.get(end..end + 2)? == b"\r\n").then_some(end + 2)
            }
            Line::Length { .. } | Line::Short | Line::NotCanonical | Line::NoCrlf => {
                rest.starts_with(b"$-1\r\n").then_some(5)
            }
        },
        b':' => match rest {
            [_, b'0'..=b'9', b'\r', b'\n', ..] => Some(4),
            _ => None,
        },
        b'+' => rest.starts_with(b"+OK\r\n").then_some(5),
        _ => None,
    }
}

/// The LF that must follow a CR. False: it has not come yet.
#[inline]
fn line_feed(chunk: &[u8], at: &mut usize) -> Result<bool, BadReply> {
    match chunk.get(*at) {
        Some(b'\n') => {
            *at += 1;
            Ok(true)
        }
        Some(_) => Err(BadReply::InvalidCrlf),
        None => Ok(false),
    }
}

/// Bytes of a decimal number with exponent, of `inf` and of `nan`.
fn is_of_double(byte: &u8) -> bool {
    matches!(
        byte,
        b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E' | b'i' | b'n' | b'f' | b'a'
    )
}

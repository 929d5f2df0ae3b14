//! Strings of a snapshot: plain bytes, small integers, LZF; passed over, or taken in pieces.
//!
//! Whatever the length of a string, what is held of it is one piece and, if it is compressed, the window that its
//! compression may look back to.

use super::error::{Stop, damaged};
use super::input::{Input, Length, within};
use super::lzf::{self, Operation};

/// A string whose beginning was read and whose rest is still to come.
#[derive(Debug, Default)]
pub(super) struct Text {
    kind: Kind,
    /// Stored bytes still to come.
    stored: u64,
    /// Plain bytes still to come.
    plain: u64,
    /// Bytes of the present literal still to come.
    literal: usize,
    /// The plain bytes that were written last.
    window: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Raw,
    Integer(i64),
    Lzf,
}

/// The longest string that anybody stores: nothing is ever reserved because of it.
const LENGTH_MAX: u64 = 1 << 40;

impl Text {
    /// Reads how a string begins, and gives its plain length.
    #[inline]
    pub(super) fn begin(&mut self, input: &mut Input) -> Result<u64, Stop> {
        let (kind, stored, plain) = match input.length()? {
            Length::Plain(length) => (Kind::Raw, length, length),
            Length::Encoded(0) => integer(i64::from(i8::from_le_bytes(input.array()?))),
            Length::Encoded(1) => integer(i64::from(i16::from_le_bytes(input.array()?))),
            Length::Encoded(2) => integer(i64::from(i32::from_le_bytes(input.array()?))),
            Length::Encoded(3) => {
                let (stored, plain) = (input.number()?, input.number()?);
                if stored > LENGTH_MAX || plain > stored * lzf::RATIO {
                    return Err(damaged("a compressed string that is longer than it can be"));
                }
                (Kind::Lzf, stored, plain)
            }
            Length::Encoded(_) => return Err(damaged("a string in an encoding that does not exist")),
        };
        if plain > LENGTH_MAX {
            return Err(damaged("a string that is longer than anybody's memory"));
        }
        self.kind = kind;
        self.stored = stored;
        self.plain = plain;
        self.literal = 0;
        self.window.clear();
        Ok(plain)
    }

    /// Gives up what is left of it.
    pub(super) const fn forget(&mut self) {
        self.stored = 0;
        self.plain = 0;
    }

    /// Whether all of it was taken or passed over.
    pub(super) fn is_done(&self) -> bool {
        self.stored == 0 && self.plain == 0
    }

    /// Passes over what has come of it, and wants more until its end.
    #[inline]
    pub(super) fn skip(&mut self, input: &mut Input) -> Result<(), Stop> {
        let available = input.available().len();
        let step = usize::try_from(self.stored).map_or(available, |stored| stored.min(available));
        input.advance(step);
        input.commit();
        self.stored -= step as u64;
        if self.stored > 0 {
            return Err(Stop::More);
        }
        self.plain = 0;
        Ok(())
    }

    /// Appends the next plain bytes to `out`: about `room`, at least one unless it is done.
    pub(super) fn pull(&mut self, input: &mut Input, room: usize, out: &mut Vec<u8>) -> Result<(), Stop> {
        match self.kind {
            Kind::Integer(number) => {
                if self.plain > 0 {
                    out.extend_from_slice(number.to_string().as_bytes());
                    self.plain = 0;
                }
                Ok(())
            }
            Kind::Raw => {
                let available = input.available();
                let left = usize::try_from(self.stored).unwrap_or(usize::MAX);
                let step = left.min(available.len()).min(room);
                if step == 0 && left > 0 {
                    return Err(Stop::More);
                }
                out.extend_from_slice(&available[..step]);
                input.advance(step);
                input.commit();
                self.stored -= step as u64;
                self.plain -= step as u64;
                Ok(())
            }
            Kind::Lzf => self.decompress(input, room, out),
        }
    }

    fn decompress(&mut self, input: &mut Input, room: usize, out: &mut Vec<u8>) -> Result<(), Stop> {
        if self.window.len() > 2 * lzf::WINDOW {
            let old = self.window.len() - lzf::WINDOW;
            self.window.drain(..old);
        }
        let begin = self.window.len();
        while self.stored > 0 && self.window.len() - begin < room {
            match self.operate(input) {
                Ok(()) => {}
                // What was made so far is passed on first.
                Err(Stop::More) if self.window.len() > begin => break,
                Err(stop) => return Err(stop),
            }
        }
        let made = &self.window[begin..];
        let left = self.plain.checked_sub(made.len() as u64);
        self.plain = left.ok_or(damaged("a compressed string gives more than it said"))?;
        if self.stored == 0 && (self.plain > 0 || self.literal > 0) {
            return Err(damaged("a compressed string gives less than it said"));
        }
        out.extend_from_slice(made);
        Ok(())
    }

    /// One operation, or what has come of a literal.
    fn operate(&mut self, input: &mut Input) -> Result<(), Stop> {
        let stored = usize::try_from(self.stored).unwrap_or(usize::MAX);
        let available = input.available();
        let available = &available[..available.len().min(stored)];
        let used = if self.literal > 0 {
            let step = self.literal.min(available.len());
            if step == 0 {
                return Err(Stop::More);
            }
            self.window.extend_from_slice(&available[..step]);
            self.literal -= step;
            step
        } else {
            match lzf::operation(available) {
                Ok(Operation::Literal(count)) => {
                    self.literal = count;
                    1
                }
                Ok(Operation::Again { bytes, back, count }) => {
                    lzf::again(&mut self.window, back, count)?;
                    bytes
                }
                Err(Stop::More) if available.len() == stored => {
                    return Err(damaged("a compressed string ends within an operation"));
                }
                Err(stop) => return Err(stop),
            }
        };
        input.advance(used);
        input.commit();
        self.stored -= used as u64;
        Ok(())
    }

    /// The first plain bytes of a string of which nothing was taken yet, at least `count` unless it is shorter.
    /// Nothing is consumed.
    pub(super) fn head(&self, input: &Input, count: usize) -> Result<Vec<u8>, Stop> {
        let stored = usize::try_from(self.stored).unwrap_or(usize::MAX);
        let needed = match self.kind {
            Kind::Integer(number) => return Ok(number.to_string().into_bytes()),
            Kind::Raw => stored.min(count),
            // A plain byte costs two stored ones at most.
            Kind::Lzf => stored.min(2 * count + 3),
        };
        let bytes = input.available().get(..needed).ok_or(Stop::More)?;
        match self.kind {
            Kind::Lzf => Ok(lzf::head(bytes, count)?),
            Kind::Raw | Kind::Integer(_) => Ok(bytes.to_vec()),
        }
    }

    /// Reads a string that is wanted whole into `out`, which is emptied first. All or nothing.
    pub(super) fn whole(
        &mut self,
        input: &mut Input,
        what: &'static str,
        max: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        out.clear();
        let plain = self.begin(input)?;
        within(what, plain, max)?;
        let stored = within(what, self.stored, max)?;
        if self.kind == Kind::Raw {
            out.extend_from_slice(input.take(stored)?);
            (self.stored, self.plain) = (0, 0);
            return Ok(());
        }
        match self.kind {
            Kind::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Kind::Raw | Kind::Lzf => *out = lzf::head(input.take(stored)?, usize::MAX)?,
        }
        if out.len() as u64 != plain {
            return Err(damaged("a compressed string is not as long as it said"));
        }
        (self.stored, self.plain) = (0, 0);
        Ok(())
    }
}

fn integer(number: i64) -> (Kind, u64, u64) {
    (Kind::Integer(number), 0, decimal_length(number))
}

/// How many characters a number has in decimal.
pub(super) fn decimal_length(number: i64) -> u64 {
    let digits = number.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
    u64::from(digits) + u64::from(number < 0)
}

//! The bytes that have come and are not used yet, read in steps that happen whole or not at all.
//!
//! ```text
//!        mark          step       at                 end
//!  ───────┼──────────────┼─────────┼──────────────────┤
//!  gone   │ held back    │ this    │ not read yet     │ ◀── push
//! ```
//!
//! A step that runs out of bytes is begun again at `step` when more have come. A value of which it is not known yet
//! whether it is small is held back from `mark` on, so that it can be passed on raw or be read once more. The checksum
//! is taken over what lies before `mark`, in large pieces.

use super::crc64::crc64;
use super::error::{RdbError, Stop, damaged};

/// Consumed bytes are given up once there are so many of them.
const RECLAIM: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Input {
    buf: Vec<u8>,
    /// The next byte to read.
    at: usize,
    /// Where the present step began.
    step: usize,
    /// Where the bytes begin that may be asked for again.
    mark: usize,
    held: bool,
    /// How far the checksum goes.
    summed: usize,
    crc: u64,
    /// Bytes that were given up before `buf`.
    gone: u64,
}

/// How a length line begins: a length, or what else stands for a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Plain(u64),
    /// Encoding 0 to 63 of a string.
    Encoded(u8),
}

impl Input {
    /// The buffer, to append to it and nothing else.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        self.reclaim();
        &mut self.buf
    }

    /// Bytes that are held or not read yet.
    pub(super) fn buffered(&self) -> usize {
        self.buf.len() - self.mark
    }

    /// All bytes that were read and are not held.
    pub(super) fn consumed(&self) -> u64 {
        self.gone + self.mark as u64
    }

    /// What has come and was not read.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.buf.split_off(self.at)
    }

    fn reclaim(&mut self) {
        if self.mark >= RECLAIM.min(self.buf.len()) {
            self.sum();
            self.buf.drain(..self.mark);
            self.gone += self.mark as u64;
            self.at -= self.mark;
            self.step -= self.mark;
            self.summed = 0;
            self.mark = 0;
        }
    }

    fn sum(&mut self) {
        self.crc = crc64(self.crc, &self.buf[self.summed..self.mark]);
        self.summed = self.mark;
    }

    /// The checksum of everything before the mark.
    pub(super) fn checksum(&mut self) -> u64 {
        self.sum();
        self.crc
    }

    // === steps ===

    /// The present step is done.
    pub(super) fn commit(&mut self) {
        self.step = self.at;
        if !self.held {
            self.mark = self.at;
        }
    }

    /// The present step did not happen.
    pub(super) fn undo(&mut self) {
        self.at = self.step;
    }

    /// From here on bytes are held back.
    pub(super) fn hold(&mut self) {
        self.commit();
        self.held = true;
    }

    /// What is held back, up to the next byte to read.
    pub(super) fn held(&self) -> &[u8] {
        &self.buf[self.mark..self.at]
    }

    /// Back to where holding began, to read all of it once more.
    pub(super) fn rewind(&mut self) {
        self.held = false;
        self.at = self.mark;
        self.step = self.mark;
    }

    /// What is held is no longer needed.
    pub(super) fn release(&mut self) {
        self.held = false;
        self.commit();
    }

    // === reading ===

    /// What has come and was not read.
    pub(super) fn available(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    /// Passes over bytes that [`Input::available`] showed.
    pub(super) fn advance(&mut self, count: usize) {
        self.at = (self.at + count).min(self.buf.len());
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&[u8], Stop> {
        let end = self.at.checked_add(count).ok_or(Stop::More)?;
        let taken = self.buf.get(self.at..end).ok_or(Stop::More)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let taken = *self.available().first_chunk::<N>().ok_or(Stop::More)?;
        self.at += N;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        let byte = *self.buf.get(self.at).ok_or(Stop::More)?;
        self.at += 1;
        Ok(byte)
    }

    /// A length, or the encoding of a string.
    #[inline]
    pub(super) fn length(&mut self) -> Result<Length, Stop> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Plain(u64::from(first)),
            1 => Length::Plain(u64::from(u16::from_be_bytes([first & 0x3f, self.byte()?]))),
            2 if first == 0x80 => Length::Plain(u64::from(u32::from_be_bytes(self.array()?))),
            2 if first == 0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
            2 => return Err(damaged("a length in a form that does not exist")),
            _ => Length::Encoded(first & 0x3f),
        })
    }

    /// A number, written as lengths are.
    #[inline]
    pub(super) fn number(&mut self) -> Result<u64, Stop> {
        match self.length()? {
            Length::Plain(number) => Ok(number),
            Length::Encoded(_) => Err(damaged("a string where a number belongs")),
        }
    }

    /// Eight bytes of milliseconds.
    pub(super) fn millis(&mut self) -> Result<i64, Stop> {
        Ok(i64::from_le_bytes(self.array()?))
    }
}

/// An announced length as one of this machine, if it is within the limit.
pub(super) fn within(what: &'static str, bytes: u64, max: u64) -> Result<usize, RdbError> {
    match usize::try_from(bytes) {
        Ok(length) if bytes <= max => Ok(length),
        _ => Err(RdbError::TooLong { what, bytes, max }),
    }
}

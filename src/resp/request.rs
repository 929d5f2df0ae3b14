//! The boundary of one client request: strict, resumable, without a copy.
//!
//! ```text
//!            ┌────────────── Start ──────────────┐
//!     '*'    │          anything else            │ 0x16, '+', '$', '%' …
//!            ▼                   ▼               ▼
//!      count line             Inline            Fail
//!            │                   │ LF found
//!            ▼                   ▼
//!   ┌─▶ '$' length line      Inline { end }
//!   │        │ bytes + CR LF there
//!   └────────┴──▶ Frame { end }
//! ```
//!
//! What is remembered between two calls is where the next unread line begins. So a large argument that arrives in
//! many pieces costs one length line per piece, never its own bytes; and an announced length is compared with its
//! limit before anything is asked of the reader.

use memchr::memchr;

use super::number::{Line, length_line};
use super::{BULK_HARD_MAX, ProtocolError};

/// Where one argument lies, relative to the first byte of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgRange {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// What a client may send. Reaching a limit ends the connection with Redis's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Arguments of a request, its name included.
    pub args_max: usize,
    /// Bytes of one argument; never more than 512 MiB.
    pub bulk_max: usize,
    /// Bytes of an inline request, its end of line included.
    pub inline_max: usize,
}

impl RequestLimits {
    /// Limits before a client has authenticated, those of Redis: a stranger makes nobody hold much memory. Limits as
    /// tight as these are named "unauthenticated" in the error.
    pub const BEFORE_AUTH: Self = Self {
        args_max: 10,
        bulk_max: 16 * 1024,
        inline_max: 64 * 1024,
    };
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            args_max: ARGS_HARD_MAX,
            bulk_max: 64 * 1024 * 1024,
            inline_max: 64 * 1024,
        }
    }
}

/// Above this many arguments the length itself is the mistake, authenticated or not.
const ARGS_HARD_MAX: usize = 1024 * 1024;

/// What [`RequestScanner::scan`] found at the start of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The request has not ended yet.
    Incomplete {
        /// Bytes known to be missing, 1 if unknown: lets the reader make exact room for a large argument.
        at_least: usize,
    },
    /// A canonical request; its arguments were filled in.
    Frame {
        /// Length of the frame.
        end: usize,
    },
    /// An inline request, for [`super::inline::to_frame`].
    Inline {
        /// Length of the line, its end included.
        end: usize,
    },
    /// Nothing to do (`*0`, `*-1`, an empty line).
    Empty {
        /// Bytes to skip.
        end: usize,
    },
    /// The client broke the protocol: answer what was read before, then this, then close.
    Fail(ProtocolError),
}

/// Resumable scanner of one request. Starts anew by itself after anything but [`Scan::Incomplete`].
#[derive(Debug, Default)]
pub struct RequestScanner {
    stage: Stage,
    /// `Arguments`: start of the next length line. `Inline`: bytes already searched for the end of the line.
    at: usize,
    /// Arguments still due.
    left: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Start,
    Arguments,
    Inline,
}

// === impl RequestScanner ===

impl RequestScanner {
    /// Forgets a request that was begun.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Looks for one request at the start of `buf`.
    ///
    /// After [`Scan::Incomplete`], call again with the same start, more bytes behind it, and the same `args`: the
    /// scan goes on where it stopped. `args` is emptied at the start of a request and grows with the bytes that have
    /// arrived, never with the count that was announced.
    #[inline]
    pub fn scan(&mut self, buf: &[u8], args: &mut Vec<ArgRange>, limits: &RequestLimits) -> Scan {
        match self.stage {
            Stage::Start => self.start(buf, args, limits),
            Stage::Arguments | Stage::Inline => self.resume(buf, args, limits),
        }
    }

    /// Goes on with a request that was incomplete.
    fn resume(&mut self, buf: &[u8], args: &mut Vec<ArgRange>, limits: &RequestLimits) -> Scan {
        let scan = match self.stage {
            Stage::Start => self.start(buf, args, limits),
            Stage::Arguments => self.arguments(buf, args, limits, self.at, self.left),
            Stage::Inline => self.line(buf, limits, self.at),
        };
        if !matches!(scan, Scan::Incomplete { .. }) {
            self.stage = Stage::Start;
        }
        scan
    }

    #[inline]
    fn start(&mut self, buf: &[u8], args: &mut Vec<ArgRange>, limits: &RequestLimits) -> Scan {
        args.clear();
        match buf.first() {
            None => Scan::Incomplete { at_least: 1 },
            Some(b'*') => self.count(buf, args, limits),
            Some(0x16) => Scan::Fail(ProtocolError::TlsHello),
            // Redis would take these for inline words and go on reading. Whoever sends them has lost its place in
            // the stream, and what follows may be a value that somebody else wrote.
            Some(&typed) if b"+-:$_#,(!=%~>|".contains(&typed) => {
                Scan::Fail(ProtocolError::ExpectedMultibulk(typed))
            }
            Some(_) => self.line(buf, limits, 0),
        }
    }

    /// The line `*<count>`.
    #[inline]
    fn count(&mut self, buf: &[u8], args: &mut Vec<ArgRange>, limits: &RequestLimits) -> Scan {
        let negative = buf.get(1) == Some(&b'-');
        match length_line(buf, if negative { 2 } else { 1 }) {
            Line::Length { value: 0, .. } if negative => Scan::Fail(ProtocolError::InvalidMultibulkLength),
            Line::Length { next, .. } if negative => Scan::Empty { end: next },
            Line::Length { value: 0, next } => Scan::Empty { end: next },
            Line::Length { value, next } => {
                if value > limits.args_max {
                    return Scan::Fail(too_many(value, limits));
                }
                self.arguments(buf, args, limits, next, value)
            }
            Line::Short => Scan::Incomplete { at_least: 1 },
            Line::NotCanonical => Scan::Fail(ProtocolError::InvalidMultibulkLength),
            Line::NoCrlf => Scan::Fail(ProtocolError::InvalidCrlf),
        }
    }

    /// The arguments, `$<length>` and as many bytes each.
    #[inline]
    fn arguments(
        &mut self,
        buf: &[u8],
        args: &mut Vec<ArgRange>,
        limits: &RequestLimits,
        mut at: usize,
        mut left: usize,
    ) -> Scan {
        let bulk_max = limits.bulk_max.min(BULK_HARD_MAX);
        let missing = loop {
            if left == 0 {
                return Scan::Frame { end: at };
            }
            match buf.get(at) {
                Some(b'$') => {}
                Some(&other) => return Scan::Fail(ProtocolError::ExpectedBulk(other)),
                None => break 1,
            }
            let (length, start) = match length_line(buf, at + 1) {
                Line::Length { value, next } => (value, next),
                Line::Short => break 1,
                Line::NotCanonical => return Scan::Fail(ProtocolError::InvalidBulkLength),
                Line::NoCrlf => return Scan::Fail(ProtocolError::InvalidCrlf),
            };
            if length > bulk_max {
                return Scan::Fail(too_long(length, limits));
            }
            let end = start + length;
            let (Ok(start32), Ok(end32)) = (u32::try_from(start), u32::try_from(end)) else {
                return Scan::Fail(ProtocolError::TooBigRequest);
            };
            match buf.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return Scan::Fail(ProtocolError::InvalidCrlf),
                None => break end + 2 - buf.len(),
            }
            if matches!(length, 4 | 5) && args.is_empty() && is_http(&buf[start..end]) {
                return Scan::Fail(ProtocolError::HttpLike);
            }
            args.push(ArgRange {
                start: start32,
                end: end32,
            });
            at = end + 2;
            left -= 1;
        };
        *self = Self {
            stage: Stage::Arguments,
            at,
            left,
        };
        Scan::Incomplete { at_least: missing }
    }

    /// An inline request: everything up to LF.
    fn line(&mut self, buf: &[u8], limits: &RequestLimits, searched: usize) -> Scan {
        let end = match memchr(b'\n', buf.get(searched..).unwrap_or_default()) {
            Some(i) => searched + i + 1,
            None if buf.len() >= limits.inline_max => return Scan::Fail(ProtocolError::TooBigInline),
            None => {
                *self = Self {
                    stage: Stage::Inline,
                    at: buf.len(),
                    left: 0,
                };
                return Scan::Incomplete { at_least: 1 };
            }
        };
        if end > limits.inline_max {
            return Scan::Fail(ProtocolError::TooBigInline);
        }
        let line = &buf[..end];
        if line == b"\n" || line == b"\r\n" {
            return Scan::Empty { end };
        }
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        match words.next() {
            Some(word) if is_http(word) => Scan::Fail(ProtocolError::HttpLike),
            Some(_) | None => Scan::Inline { end },
        }
    }
}

#[cold]
fn too_many(count: usize, limits: &RequestLimits) -> ProtocolError {
    if count > ARGS_HARD_MAX || limits.args_max > RequestLimits::BEFORE_AUTH.args_max {
        ProtocolError::InvalidMultibulkLength
    } else {
        ProtocolError::UnauthenticatedMultibulkLength
    }
}

#[cold]
fn too_long(length: usize, limits: &RequestLimits) -> ProtocolError {
    if length > BULK_HARD_MAX || limits.bulk_max > RequestLimits::BEFORE_AUTH.bulk_max {
        ProtocolError::InvalidBulkLength
    } else {
        ProtocolError::UnauthenticatedBulkLength
    }
}

/// Whether this command's name is a line of an HTTP request that some web page made a browser send.
#[inline]
pub(super) fn is_http(name: &[u8]) -> bool {
    match name.len() {
        4 => name.eq_ignore_ascii_case(b"post"),
        5 => name.eq_ignore_ascii_case(b"host:"),
        _ => false,
    }
}

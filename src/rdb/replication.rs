//! The stream of writes behind a snapshot: requests, each with the offset at which it ends.
//!
//! Offsets count every byte, also of lines that say nothing. A request may come in any pieces; only one that is not whole
//! yet is held.

use thiserror::Error;

use crate::resp::{
    ArgRange, Args, BULK_HARD_MAX, ProtocolError, RequestLimits, RequestScanner, Scan, inline,
};

/// How much of a stream is held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Longest request. Above it the copy begins again: the value comes with the snapshot, in pieces.
    pub request_bytes: usize,
    /// Longest transaction, as far as it concerns the wanted databases.
    pub transaction_bytes: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            request_bytes: 128 * 1024 * 1024,
            transaction_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    /// A request above the limit.
    #[error("a request of the stream has more than {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// Bytes that are no request.
    #[error("the stream is no sequence of requests: {0}")]
    Protocol(ProtocolError),
}

/// One request of the stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamRequest<'a> {
    /// Its arguments.
    pub args: Args<'a>,
    /// The replication offset behind its last byte.
    pub end: u64,
}

/// Reads a stream of requests.
#[derive(Debug)]
pub struct StreamReader {
    buf: Vec<u8>,
    at: usize,
    offset: u64,
    scanner: RequestScanner,
    ranges: Vec<ArgRange>,
    /// An inline request as a frame.
    line: Vec<u8>,
    limits: StreamLimits,
}

/// More arguments than any server puts into one request.
const ARGS_MAX: usize = 16 * 1024 * 1024;
/// Consumed bytes are given up once there are so many of them.
const RECLAIM: usize = 64 * 1024;

enum Found {
    Frame(usize),
    Line(usize),
}

impl StreamReader {
    /// A reader of the bytes that follow this offset.
    #[must_use]
    pub fn new(offset: u64, limits: StreamLimits) -> Self {
        Self {
            buf: Vec::new(),
            at: 0,
            offset,
            scanner: RequestScanner::default(),
            ranges: Vec::new(),
            line: Vec::new(),
            limits,
        }
    }

    /// Takes bytes, of any number.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
    }

    /// The buffer behind [`StreamReader::push`], to read a socket into it without a copy. Only append to it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.at >= RECLAIM.min(self.buf.len()) {
            self.buf.drain(..self.at);
            self.at = 0;
        }
        &mut self.buf
    }

    /// The offset behind the last request that was given.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next request, or `None` until more bytes come.
    ///
    /// # Errors
    /// The stream cannot be read on, and stays so.
    pub fn poll(&mut self) -> Result<Option<StreamRequest<'_>>, StreamError> {
        let start = loop {
            let rest = &self.buf[self.at..];
            let found = match self.scanner.scan(rest, &mut self.ranges, &LIMITS) {
                Scan::Frame { end } => Found::Frame(end),
                Scan::Inline { end } => Found::Line(end),
                Scan::Empty { end } => {
                    self.pass(end);
                    continue;
                }
                Scan::Incomplete { at_least } => {
                    let max = self.limits.request_bytes;
                    if rest.len().saturating_add(at_least) > max {
                        return Err(StreamError::TooLong { max });
                    }
                    return Ok(None);
                }
                Scan::Fail(error) => return Err(StreamError::Protocol(error)),
            };
            let start = self.at;
            match found {
                Found::Frame(end) => {
                    self.pass(end);
                    break start;
                }
                Found::Line(end) => {
                    self.pass(end);
                    if self.read_line(start)? {
                        let args = Args::new(&self.line, &self.ranges);
                        return Ok(Some(StreamRequest {
                            args,
                            end: self.offset,
                        }));
                    }
                }
            }
        };
        Ok(Some(StreamRequest {
            args: Args::new(&self.buf[start..self.at], &self.ranges),
            end: self.offset,
        }))
    }

    fn pass(&mut self, bytes: usize) {
        self.at += bytes;
        self.offset += bytes as u64;
    }

    /// Makes a frame of the line that begins at `start`. Says whether there are words in it.
    fn read_line(&mut self, start: usize) -> Result<bool, StreamError> {
        self.line.clear();
        inline::to_frame(&self.buf[start..self.at], &mut self.line).map_err(StreamError::Protocol)?;
        let scan = RequestScanner::default().scan(&self.line, &mut self.ranges, &LIMITS);
        Ok(matches!(scan, Scan::Frame { .. }))
    }
}

const LIMITS: RequestLimits = RequestLimits {
    args_max: ARGS_MAX,
    bulk_max: BULK_HARD_MAX,
    inline_max: 64 * 1024,
};

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"\n*1\r\n$4\r\nPING\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n\n\nping\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nbc\r\n";

    #[test]
    fn offsets_count_every_byte_in_whatever_pieces_they_come() {
        let expected = [
            ("PING", 15),
            ("SELECT 3", 38),
            ("ping", 46),
            ("SET k a\r\nbc", STREAM.len()),
        ];
        for size in 1..=STREAM.len() {
            let mut reader = StreamReader::new(1_000, StreamLimits::default());
            let mut found = Vec::new();
            for chunk in STREAM.chunks(size) {
                reader.push(chunk);
                while let Some(request) = reader.poll().unwrap() {
                    let words: Vec<_> = request.args.iter().map(String::from_utf8_lossy).collect();
                    found.push((words.join(" "), request.end));
                }
            }
            let expected = expected.map(|(words, end)| (words.to_owned(), 1_000 + end as u64));
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_announced_giant_is_refused_before_it_comes() {
        let mut reader = StreamReader::new(
            0,
            StreamLimits {
                request_bytes: 1_000,
                ..StreamLimits::default()
            },
        );
        reader.push(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000\r\n");
        assert_eq!(reader.poll().unwrap_err(), StreamError::TooLong { max: 1_000 });
    }
}

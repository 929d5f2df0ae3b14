//! Replies of the target, counted as they come; nothing is kept of them but the first error, wherever it stands.
//!
//! A transaction's reply holds those of its commands, and one of them may be an error. So every line is looked at,
//! inside of arrays too. No value is held, whatever its size.

use super::link::cut;

/// Counts replies (RESP2) and finds errors in them.
#[derive(Debug)]
pub(super) struct Judge {
    /// Values that are missing of the present reply.
    due: u64,
    /// Bytes that are missing of the present bulk string, its line's end included.
    body: u64,
    /// The beginning of a line that has not ended.
    line: Vec<u8>,
    error: Option<String>,
}

/// Of a line that is held: enough for what an error says.
const LINE_KEPT: usize = 512;

/// The bytes are no replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoReply;

impl Default for Judge {
    fn default() -> Self {
        Self {
            due: 1,
            body: 0,
            line: Vec::new(),
            error: None,
        }
    }
}

impl Judge {
    /// Takes bytes, and says how many replies ended in them.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<u64, NoReply> {
        let mut replies = 0;
        while !bytes.is_empty() {
            if self.body > 0 {
                let passed = usize::try_from(self.body).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[passed..];
                self.body -= passed as u64;
                if self.body == 0 {
                    replies += self.ended();
                }
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.keep(bytes);
                break;
            };
            let line;
            (line, bytes) = bytes.split_at(end + 1);
            replies += if self.line.is_empty() {
                self.read(line)?
            } else {
                self.keep(line);
                let line = std::mem::take(&mut self.line);
                self.read(&line)?
            };
        }
        Ok(replies)
    }

    /// The first error that was met.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_KEPT.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
    }

    fn ended(&mut self) -> u64 {
        self.due -= 1;
        if self.due > 0 {
            return 0;
        }
        self.due = 1;
        1
    }

    fn read(&mut self, line: &[u8]) -> Result<u64, NoReply> {
        let (mark, rest) = line.split_first().ok_or(NoReply)?;
        let length = || -> Result<i64, NoReply> {
            let text = std::str::from_utf8(rest.trim_ascii_end()).map_err(|_| NoReply)?;
            text.parse().map_err(|_| NoReply)
        };
        match mark {
            b'+' | b':' => Ok(self.ended()),
            b'-' => {
                let said = String::from_utf8_lossy(rest);
                self.error.get_or_insert_with(|| cut(&said));
                Ok(self.ended())
            }
            b'$' => match u64::try_from(length()?) {
                Ok(length) => {
                    self.body = length.saturating_add(2);
                    Ok(0)
                }
                Err(_) => Ok(self.ended()),
            },
            b'*' => {
                let inside = u64::try_from(length()?).unwrap_or(0);
                self.due = self.due.checked_add(inside).ok_or(NoReply)?;
                Ok(self.ended())
            }
            _ => Err(NoReply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &[u8] =
        b"+OK\r\n:12\r\n$-1\r\n$5\r\na\r\nbc\r\n*-1\r\n*0\r\n*3\r\n+OK\r\n*1\r\n$0\r\n\r\n:1\r\n+QUEUED\r\n";

    #[test]
    fn replies_are_counted_in_whatever_pieces_they_come() {
        for size in 1..REPLIES.len() {
            let mut judge = Judge::default();
            let counted: u64 = REPLIES.chunks(size).map(|part| judge.feed(part).unwrap()).sum();
            assert_eq!((counted, judge.error()), (8, None), "in pieces of {size}");
        }
    }

    #[test]
    fn an_error_is_found_within_a_transaction_too() {
        let replies = b"$4\r\n-ERR\r\n*3\r\n+OK\r\n-WRONGTYPE Operation\r\n:3\r\n";
        for size in 1..replies.len() {
            let mut judge = Judge::default();
            let counted: u64 = replies.chunks(size).map(|part| judge.feed(part).unwrap()).sum();
            assert_eq!(counted, 2);
            assert_eq!(judge.error(), Some("WRONGTYPE Operation"));
        }
    }

    #[test]
    fn what_an_error_quotes_is_left_out() {
        let mut judge = Judge::default();
        judge
            .feed(b"-ERR unknown command 'XX', with args beginning with: 'secret'\r\n")
            .unwrap();
        assert_eq!(judge.error(), Some("ERR unknown command 'XX'"));
        assert_eq!(Judge::default().feed(b"what\r\n"), Err(NoReply));
    }
}

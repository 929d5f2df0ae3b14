//! A client that sees bytes: it sends what it is told and reads exactly one reply at a time, with a deadline.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection};

/// How long a reply may take before a test gives up: longer than the proxy itself waits for a node.
const REPLY_LIMIT: Duration = Duration::from_secs(30);

/// One reply, decoded far enough to be compared.
#[derive(Clone, PartialEq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Self>),
    /// RESP3: maps as pairs, sets and pushes by their mark, the scalar rest by its line.
    Map(Vec<(Self, Self)>),
    Set(Vec<Self>),
    Push(Vec<Self>),
    Scalar(char, String),
}

/// A connection to a proxy or a node.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    read: Vec<u8>,
    start: usize,
    pub(crate) limit: Duration,
}

// === impl Client ===

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    pub(crate) fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, REPLY_LIMIT)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            tls: None,
            read: Vec::new(),
            start: 0,
            limit: REPLY_LIMIT,
        })
    }

    /// Speaks TLS with a server that must be `localhost`; the handshake is made with the first bytes.
    pub(crate) fn secured(mut self, config: &Arc<ClientConfig>) -> Self {
        let name = "localhost".try_into().unwrap();
        let session = ClientConnection::new(Arc::clone(config), name).unwrap();
        self.tls = Some(Box::new(session));
        self
    }

    /// The certificate that the server has shown.
    pub(crate) fn shown_certificate(&self) -> Vec<u8> {
        let session = self.tls.as_ref().expect("it speaks TLS");
        session.peer_certificates().expect("a handshake")[0].to_vec()
    }

    /// Whether the server has said that nothing follows, before it closed.
    pub(crate) fn was_told_the_end(&mut self) -> bool {
        let session = self.tls.as_mut().expect("it speaks TLS");
        session.reader().read(&mut [0]).is_ok_and(|read| read == 0)
    }

    /// Ends the sending side, over TLS by its word and the socket's end.
    pub(crate) fn end_sending(&mut self) {
        if let Some(session) = &mut self.tls {
            session.send_close_notify();
            while session.wants_write() {
                session.write_tls(&mut self.stream).unwrap();
            }
        }
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends raw bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes)
            .unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends raw bytes; the other side may have closed already.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.set_write_timeout(Some(self.limit)).unwrap();
        match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(session) => {
                let mut stream = rustls::Stream::new(&mut **session, &mut self.stream);
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    /// Sends one command.
    pub(crate) fn command<A: AsRef<[u8]>>(&mut self, words: &[A]) {
        self.send(&frame(words));
    }

    /// Sends one command and reads its reply.
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Reply {
        self.command(words);
        self.reply()
    }

    /// Sends the words of `line`, cut at spaces, and reads the reply.
    pub(crate) fn ask(&mut self, line: &str) -> Reply {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Reads one reply.
    pub(crate) fn reply(&mut self) -> Reply {
        decode(&self.reply_bytes())
    }

    /// The exact bytes of the next reply.
    pub(crate) fn reply_bytes(&mut self) -> Vec<u8> {
        self.try_reply_bytes().unwrap_or_else(|error| {
            panic!(
                "no reply: {error}; have {:?}",
                String::from_utf8_lossy(&self.read[self.start..])
            )
        })
    }

    /// The exact bytes of the next reply, or why there is none (`UnexpectedEof` when closed, `TimedOut`).
    pub(crate) fn try_reply_bytes(&mut self) -> std::io::Result<Vec<u8>> {
        let give_up = Instant::now() + self.limit;
        let mut scan = ReplyScan::default();
        loop {
            if let Some(end) = scan.end(&self.read[self.start..]) {
                let bytes = self.read[self.start..self.start + end].to_vec();
                self.start += end;
                if self.start == self.read.len() || self.start > 1 << 20 {
                    self.read.drain(..self.start);
                    self.start = 0;
                }
                return Ok(bytes);
            }
            self.fill(give_up)?;
        }
    }

    fn fill(&mut self, give_up: Instant) -> std::io::Result<()> {
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 65536];
        let read = match &mut self.tls {
            None => self.stream.read(&mut chunk),
            Some(session) => rustls::Stream::new(&mut **session, &mut self.stream).read(&mut chunk),
        };
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.read.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            // A container that was paused goes on so.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads until the other side closes (or resets); everything that came before it.
    pub(crate) fn until_closed(&mut self) -> Vec<u8> {
        let give_up = Instant::now() + self.limit;
        loop {
            match self.fill(give_up) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    panic!(
                        "still open after {:?}; read {:?}",
                        self.limit,
                        String::from_utf8_lossy(&self.read[self.start..])
                    )
                }
                Err(_) => return self.read.split_off(self.start),
            }
        }
    }
}

// === impl Reply ===

impl Reply {
    /// The text of a simple string, bulk, error or scalar.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Scalar(_, text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Int(number) => number.to_string(),
            Self::Null => "(nil)".to_owned(),
            Self::Array(_) | Self::Map(_) | Self::Set(_) | Self::Push(_) => format!("{self:?}"),
        }
    }

    pub(crate) fn int(&self) -> i64 {
        match self {
            Self::Int(number) => *number,
            other => panic!("not an integer: {other:?}"),
        }
    }

    pub(crate) fn items(&self) -> Vec<Self> {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => items.clone(),
            Self::Map(pairs) => pairs
                .iter()
                .flat_map(|(name, value)| [name.clone(), value.clone()])
                .collect(),
            other => panic!("not a list: {other:?}"),
        }
    }

    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_ok(&self) -> bool {
        *self == Self::Simple("OK".to_owned())
    }

    /// Asserts an error that begins with `start`; answers its text.
    pub(crate) fn expect_error(&self, start: &str) -> String {
        match self {
            Self::Error(text) if text.starts_with(start) => text.clone(),
            other => panic!("wanted an error '{start}…', got {other:?}"),
        }
    }

    /// Asserts `+OK`.
    pub(crate) fn expect_ok(&self) {
        assert!(self.is_ok(), "wanted OK, got {self:?}");
    }

    /// A value of a map or flat name-value array.
    pub(crate) fn field(&self, name: &str) -> Option<Self> {
        let items = self.items();
        items
            .chunks_exact(2)
            .find(|pair| pair[0].text() == name)
            .map(|pair| pair[1].clone())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Int(number) => write!(f, ":{number}"),
            Self::Bulk(bytes) => write!(f, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)])),
            Self::Null => write!(f, "(nil)"),
            Self::Array(items) => f.debug_list().entries(items).finish(),
            Self::Map(pairs) => f
                .debug_map()
                .entries(pairs.iter().map(|(name, value)| (name, value)))
                .finish(),
            Self::Set(items) => f.debug_set().entries(items).finish(),
            Self::Push(items) => f.debug_tuple("Push").field(items).finish(),
            Self::Scalar(mark, text) => write!(f, "{mark}{text}"),
        }
    }
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self::Bulk(text.as_bytes().to_vec())
    }
}

/// The frame of one command.
pub(crate) fn frame<A: AsRef<[u8]>>(words: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Finds where a reply ends while its bytes are still coming. Counts, never recurses.
#[derive(Debug)]
pub(crate) struct ReplyScan {
    at: usize,
    due: u64,
}

impl Default for ReplyScan {
    fn default() -> Self {
        Self { at: 0, due: 1 }
    }
}

impl ReplyScan {
    /// Where the reply at the start of `bytes` ends. While nothing: call again with the same start and more bytes.
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        while self.due > 0 {
            let line = line_at(bytes, self.at)?;
            let mark = bytes[self.at];
            self.at += line.len() + 3;
            self.due -= 1;
            match mark {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
                b'$' | b'=' | b'!' => {
                    if let Ok(length) = usize::try_from(number(line)) {
                        self.at += length + 2;
                    }
                }
                b'*' | b'~' | b'>' => self.due += u64::try_from(number(line)).unwrap_or(0),
                b'%' => self.due += 2 * u64::try_from(number(line)).unwrap(),
                b'|' => self.due += 2 * u64::try_from(number(line)).unwrap() + 1,
                other => panic!(
                    "a reply that starts with {:?}: {:?}",
                    other as char,
                    String::from_utf8_lossy(line)
                ),
            }
        }
        (self.at <= bytes.len()).then_some(self.at)
    }
}

/// Decodes the bytes of exactly one reply.
pub(crate) fn decode(bytes: &[u8]) -> Reply {
    let mut at = 0;
    decode_at(bytes, &mut at)
}

fn decode_at(bytes: &[u8], at: &mut usize) -> Reply {
    let line = line_at(bytes, *at).unwrap();
    let mark = bytes[*at];
    *at += line.len() + 3;
    match mark {
        b'*' | b'$' if line == b"-1" => Reply::Null,
        b'+' => Reply::Simple(String::from_utf8_lossy(line).into_owned()),
        b'-' => Reply::Error(String::from_utf8_lossy(line).into_owned()),
        b':' => Reply::Int(number(line)),
        b'_' => Reply::Null,
        b'*' => Reply::Array(decode_list(bytes, at, number(line))),
        b'~' => Reply::Set(decode_list(bytes, at, number(line))),
        b'>' => Reply::Push(decode_list(bytes, at, number(line))),
        b'%' => {
            let items = decode_list(bytes, at, 2 * number(line));
            Reply::Map(
                items
                    .chunks_exact(2)
                    .map(|pair| (pair[0].clone(), pair[1].clone()))
                    .collect(),
            )
        }
        b'$' | b'=' | b'!' => {
            let length = usize::try_from(number(line)).unwrap();
            let value = bytes[*at..*at + length].to_vec();
            *at += length + 2;
            match mark {
                b'$' => Reply::Bulk(value),
                b'=' => Reply::Bulk(value[4..].to_vec()),
                _ => Reply::Error(String::from_utf8_lossy(&value).into_owned()),
            }
        }
        other => Reply::Scalar(other as char, String::from_utf8_lossy(line).into_owned()),
    }
}

fn decode_list(bytes: &[u8], at: &mut usize, count: i64) -> Vec<Reply> {
    (0..count).map(|_| decode_at(bytes, at)).collect()
}

/// The line after the mark at `at`, without its CR LF.
fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at + 1..)?;
    memchr::memmem::find(rest, b"\r\n").map(|end| &rest[..end])
}

fn number(line: &[u8]) -> i64 {
    let text = std::str::from_utf8(line).unwrap();
    text.parse().unwrap_or_else(|_| panic!("not a number: {text:?}"))
}

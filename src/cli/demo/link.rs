//! The demo's own client: one plain blocking connection that speaks RESP2 and pipelines, as any client library does.
//! It knows nothing of shards, so what it sees is what an application sees.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::Failure;
use crate::resp::{self, DecodeLimits, ReplyScanner, Value};

/// Far longer than anything here takes; without it a hang would have no end.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 * 1024;

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    address: String,
    stream: TcpStream,
    /// Requests that are not sent yet.
    out: Vec<u8>,
    /// Bytes read, of which `taken` have become replies and `scanned` were looked at.
    read: Vec<u8>,
    taken: usize,
    scanned: usize,
    scanner: ReplyScanner,
}

impl Link {
    pub(super) fn connect(address: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self {
            address: address.to_owned(),
            stream,
            out: Vec::new(),
            read: Vec::new(),
            taken: 0,
            scanned: 0,
            scanner: ReplyScanner::default(),
        })
    }

    /// Adds a request to the pipeline.
    pub(super) fn push(&mut self, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        resp::write_request(&mut self.out, &words);
    }

    /// Sends the pipeline.
    pub(super) fn send(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The next reply. An error reply is a value here: the caller knows whether it is expected.
    pub(super) fn reply(&mut self) -> Result<Value, Failure> {
        loop {
            let fresh = &self.read[self.scanned..];
            let ended = self
                .scanner
                .feed(fresh)
                .map_err(|_| self.broken("did not answer as a Redis server does"))?;
            if let Some(length) = ended {
                let end = self.scanned + length;
                let frame = &self.read[self.taken..end];
                let value = resp::decode(frame, DecodeLimits::default());
                (self.taken, self.scanned) = (end, end);
                return value
                    .map_err(|error| self.broken(&format!("sent a reply that cannot be read: {error}")));
            }
            self.read.drain(..self.taken);
            self.taken = 0;
            self.scanned = self.read.len();
            self.read.resize(self.scanned + READ_BYTES, 0);
            let got = self.stream.read(&mut self.read[self.scanned..]);
            self.read.truncate(self.scanned + *got.as_ref().unwrap_or(&0));
            let got = match got {
                // A signal: whoever waits for the whole load looks at the flag.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            };
            if got == 0 {
                return Err(self.broken("closed the connection"));
            }
        }
    }

    /// One request, one reply.
    pub(super) fn ask(&mut self, words: &[&str]) -> Result<Value, Failure> {
        self.push(words);
        self.send()?;
        self.reply()
    }

    /// The reply as text, errors and all.
    pub(super) fn ask_text(&mut self, words: &[&str]) -> Result<String, Failure> {
        Ok(text(&self.ask(words)?))
    }

    /// The next reply as text.
    pub(super) fn reply_text(&mut self) -> Result<String, Failure> {
        Ok(text(&self.reply()?))
    }

    fn broken(&self, what: &str) -> Failure {
        Failure::Broken(format!("{} {what}", self.address))
    }
}

/// A reply in words.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Int(number) => number.to_string(),
        Value::Error(line) => format!("-{line}"),
        other => other.as_bytes().map_or_else(
            || "(no text)".to_owned(),
            |bytes| String::from_utf8_lossy(bytes).into_owned(),
        ),
    }
}

/// The body of `GET path` on the HTTP port, which serves one request a connection.
pub(super) fn http_get(address: &str, path: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        return Ok(body.to_owned());
    }
    let status = head.lines().next().unwrap_or("nothing");
    Err(Failure::Broken(format!(
        "http://{address}{path} answered: {status}"
    )))
}

//! Requests one by one to an admin or a data port: text in, text out.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use preshard::resp::{DecodeLimits, ReplyScanner, Value, decode, write_request};

use crate::Result;

const LIMIT: Duration = Duration::from_secs(20);

/// One connection.
#[derive(Debug)]
pub(crate) struct Asker(TcpStream);

impl Asker {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self(stream))
    }

    /// Sends requests at once, and reads a reply for each.
    pub(crate) fn call_all(&mut self, requests: &[Vec<&[u8]>]) -> Result<Vec<Value>> {
        let mut frames = Vec::new();
        for words in requests {
            write_request(&mut frames, words);
        }
        self.0.write_all(&frames)?;
        let (mut scanner, mut reply, mut all) = (ReplyScanner::default(), Vec::new(), Vec::new());
        let mut chunk = vec![0; 1 << 16];
        while all.len() < requests.len() {
            let read = self.0.read(&mut chunk)?;
            if read == 0 {
                return Err("the connection was closed".into());
            }
            let mut rest = &chunk[..read];
            while !rest.is_empty() {
                let end = scanner.feed(rest)?;
                reply.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
                let Some(end) = end else { break };
                all.push(decode(&reply, DecodeLimits::default())?);
                reply.clear();
                rest = &rest[end..];
            }
        }
        Ok(all)
    }

    pub(crate) fn call(&mut self, words: &[&[u8]]) -> Result<Value> {
        let mut all = self.call_all(&[words.to_vec()])?;
        Ok(all.remove(0))
    }

    /// The words of a line; what is answered as text.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        Ok(text(&self.call(&words)?))
    }

    /// What is answered as names and values.
    pub(crate) fn fields(&mut self, line: &str) -> Result<BTreeMap<String, String>> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        match self.call(&words)? {
            Value::Array(items) => Ok(items
                .chunks_exact(2)
                .map(|pair| (text(&pair[0]), text(&pair[1])))
                .collect()),
            Value::Map(pairs) => Ok(pairs
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect()),
            other => Err(text(&other).into()),
        }
    }
}

/// A value as text; errors too.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Simple(text) => text.to_string(),
        Value::Error(error) => error.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

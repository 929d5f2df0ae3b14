//! A client that sends what was made beforehand and finds the replies' ends; an error among them stops the run.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;

use preshard::resp::{ReplyScanner, write_request};

use crate::Result;

/// Requests that are sent in one go.
#[derive(Debug, Default)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    replies: usize,
}

impl Request {
    pub(crate) fn push<A: AsRef<[u8]>>(&mut self, words: &[A]) {
        let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
        write_request(&mut self.bytes, &words);
        self.replies += 1;
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; 1 << 20],
        })
    }

    /// Sends requests, and reads replies meanwhile if they are many.
    pub(crate) fn run(&mut self, request: &Request) -> Result<()> {
        if request.bytes.len() < 1 << 16 {
            self.stream.write_all(&request.bytes)?;
            return self.read(request.replies);
        }
        let mut sender = self.stream.try_clone()?;
        thread::scope(|scope| {
            let sent = scope.spawn(move || sender.write_all(&request.bytes));
            self.read(request.replies)?;
            sent.join().map_err(|_| "the sender panicked")??;
            Ok(())
        })
    }

    fn read(&mut self, mut replies: usize) -> Result<()> {
        let mut scanner = ReplyScanner::default();
        while replies > 0 {
            let read = self.stream.read(&mut self.buffer)?;
            if read == 0 {
                return Err("the proxy closed the connection".into());
            }
            let mut rest = &self.buffer[..read];
            while let Some(end) = scanner.feed(rest)? {
                if rest.starts_with(b"-") {
                    return Err(String::from_utf8_lossy(&rest[..end]).into());
                }
                replies -= 1;
                rest = &rest[end..];
            }
        }
        Ok(())
    }
}

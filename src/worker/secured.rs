//! A socket that speaks TLS, behind the same calls as a plain one.
//!
//! ```text
//!  poll_read:  socket ─one recv─▶ the thread's room for ciphertext ─▶ session ─▶ the caller's buffer
//!                                   └─ what no longer fits: `unread`, at most one recv
//!  try_write:  caller's bytes ─▶ session, 64 KiB at a time ─▶ socket
//!                                  └─ not all taken: "would block", and the same bytes count as written (`owed`) once it is
//! ```
//!
//! The handshake is over before a socket comes here: a listener's on the control side, a node's in `connect`. A client
//! that says nothing owns the session's few KiB and no buffer.
//!
//! Whoever writes tries the same bytes again after "would block", so what stands encrypted in the session is counted
//! when it has left, and whoever waits for the socket waits for all of it. Meanwhile the other side may have read some of it
//! ([`Secured::owed`]): whole records leave one after the other.

use std::cell::RefCell;
use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// Room for what one read takes from a socket; a little more than a reader's scratch takes as plain bytes.
const CIPHER_BYTES: usize = 64 * 1024;
/// What TLS adds to a record, and more.
const RECORD_EXTRA: usize = 1024;

thread_local! {
    /// Used within one read, by all connections of a worker.
    static CIPHER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CIPHER_BYTES].into_boxed_slice());
}

/// A connected socket and its TLS session.
#[derive(Debug)]
pub(super) struct Secured {
    socket: TcpStream,
    session: Connection,
    /// Ciphertext that did not fit into the last reader's buffer.
    unread: Vec<u8>,
    /// Plain bytes that the session took, and that are not counted as written yet: the socket has not taken all of them.
    owed: usize,
    /// The other side has sent its last byte.
    ended: bool,
}

impl Secured {
    /// A session whose handshake is over.
    pub(super) fn new(socket: TcpStream, session: Connection) -> Self {
        Self {
            socket,
            session,
            unread: Vec::new(),
            owed: 0,
            ended: false,
        }
    }

    pub(super) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Bytes that whoever writes still holds for unwritten, and of which the other side may have got any number.
    pub(super) const fn owed(&self) -> usize {
        self.owed
    }

    /// Writes what the socket takes, of both or of more slices.
    pub(super) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.owed > 0 {
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            let told = self.owed.min(offered);
            self.owed -= told;
            return Ok(told);
        }
        // The session takes no more than its limit, which is 64 KiB.
        let taken = self.session.writer().write_vectored(slices)?;
        // From here on some of it may be out, also when the socket breaks.
        self.owed = taken;
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.owed = 0;
        Ok(taken)
    }

    /// Hands the session's bytes to the socket. Whether all went.
    fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Outwards(&self.socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says that nothing follows, and closes the sending side.
    pub(super) fn shutdown_write(&mut self) {
        self.session.send_close_notify();
        // A socket that is full tells the end by its own end.
        let _ = self.flush();
    }

    /// Moves what the session has understood into `buf`.
    fn take_plain(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let mut reader = self.session.reader();
        while buf.remaining() > 0 {
            let plain = match reader.fill_buf() {
                Ok([]) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(plain) => plain,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Many clients close without a word. A request that is cut off by it has not ended, and is not run.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let count = plain.len().min(buf.remaining());
            buf.put_slice(&plain[..count]);
            reader.consume(count);
        }
        Ok(())
    }

    /// Has the session understand ciphertext while there is room for the plain bytes. Returns how much it used.
    fn understand(&mut self, mut cipher: &[u8], buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let all = cipher.len();
        while !cipher.is_empty() && buf.remaining() > 0 && !self.ended {
            self.session.read_tls(&mut cipher)?;
            if let Err(error) = self.session.process_new_packets() {
                // The alert that says why; nobody waits for it.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            self.take_plain(buf)?;
        }
        Ok(all - cipher.len())
    }

    fn understand_unread(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        if self.unread.is_empty() {
            return Ok(());
        }
        let mut unread = std::mem::take(&mut self.unread);
        let used = self.understand(&unread, buf)?;
        if used < unread.len() {
            unread.drain(..used);
            self.unread = unread;
        }
        Ok(())
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        this.take_plain(buf)?;
        this.understand_unread(buf)?;
        while buf.filled().len() == before && !this.ended {
            // What the protocol wants to say of its own accord, such as new keys.
            if !this.flush()? && this.socket.poll_write_ready(cx)?.is_ready() {
                continue;
            }
            ready!(CIPHER.with_borrow_mut(|cipher| {
                let most = cipher.len().min(buf.remaining() + RECORD_EXTRA);
                let mut read = ReadBuf::new(&mut cipher[..most]);
                ready!(Pin::new(&mut this.socket).poll_read(cx, &mut read))?;
                let cipher = read.filled();
                this.ended = cipher.is_empty();
                let used = this.understand(cipher, buf)?;
                this.unread.extend_from_slice(&cipher[used..]);
                Poll::Ready(Ok::<_, io::Error>(()))
            }))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// The socket as the session writes to it.
struct Outwards<'a>(&'a TcpStream);

impl io::Write for Outwards<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "secured_tests.rs"]
pub(super) mod testing;

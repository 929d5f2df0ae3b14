//! One type for all kinds of socket, TCP, Unix and TLS over TCP, with just the calls that the worker makes.
//!
//! Reads go through `poll_read`, which clears tokio's readiness on a short read and so saves the `recv` that would
//! only say `EAGAIN`. Writes are tried at once, from whichever task has bytes, and wait for readiness only when the
//! socket is full.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::Connection;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::secured::Secured;

/// An accepted socket before it belongs to a worker's runtime.
#[derive(Debug)]
pub enum Accepted {
    /// From a TCP listener.
    Tcp(std::net::TcpStream),
    /// From a Unix listener.
    Unix(std::os::unix::net::UnixStream),
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Secured>),
}

impl Stream {
    /// Takes an accepted socket into the current runtime, with its TLS session if there is one.
    pub(super) fn adopt(accepted: Accepted, session: Option<Box<Connection>>) -> io::Result<Self> {
        match accepted {
            Accepted::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let stream = TcpStream::from_std(stream)?;
                Ok(match session {
                    None => Self::Tcp(stream),
                    Some(session) => Self::secured(stream, *session),
                })
            }
            Accepted::Unix(stream) => {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Self::Unix)
            }
        }
    }

    /// A TCP socket over which TLS is spoken.
    pub(super) fn secured(stream: TcpStream, session: Connection) -> Self {
        Self::Tls(Box::new(Secured::new(stream, session)))
    }

    pub(super) const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }

    /// Reads into the room that `buf` has, which must not be none.
    pub(super) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(buf)).poll(cx),
            Self::Unix(stream) => pin!(stream.read_buf(buf)).poll(cx),
            Self::Tls(stream) => pin!(stream.read_buf(buf)).poll(cx),
        }
    }

    /// Writes what the socket takes. Who is told that it would block offers the same bytes again, or more.
    #[inline]
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tls(stream) => stream.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    /// Like [`Self::try_write`], of several slices.
    pub(super) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
            Self::Tls(stream) => stream.try_write_vectored(slices),
        }
    }

    /// Bytes that were offered and not counted as written, and that may be out in part: those of a TLS session.
    pub(super) fn owed(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::Unix(_) => 0,
            Self::Tls(stream) => stream.owed(),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
            Self::Tls(stream) => stream.socket().poll_write_ready(cx),
        }
    }

    /// `TCP_NODELAY`, keepalive and, towards nodes, the time after which unacknowledged bytes end the connection.
    pub(super) fn configure(&self, keepalive: Duration, user_timeout: Option<Duration>) -> io::Result<()> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.socket(),
            Self::Unix(_) => return Ok(()),
        };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        if !keepalive.is_zero() {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive))?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(user_timeout)?;
        #[cfg(not(target_os = "linux"))]
        let _ = user_timeout;
        Ok(())
    }

    /// Closes the sending side; the peer reads to its end and closes.
    pub(super) fn shutdown_write(&mut self) {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(&*stream),
            Self::Unix(stream) => SockRef::from(&*stream),
            Self::Tls(stream) => {
                stream.shutdown_write();
                SockRef::from(stream.socket())
            }
        };
        // A peer that is gone already is what this asks for.
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }

    /// Writes all of it, and waits where the socket is full.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            while !bytes.is_empty() {
                match self.try_write(bytes) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(self.poll_write_ready(cx))?;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Waits for bytes and appends them; 0 at the end.
    pub(super) async fn read_buf(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        buf.reserve(4096);
        poll_fn(|cx| self.poll_read_buf(cx, buf)).await
    }
}

//! One type for both kinds of socket, TCP and Unix, with just the calls that the worker makes.
//!
//! Reads go through `poll_read`, which clears tokio's readiness on a short read and so saves the `recv` that would
//! only say `EAGAIN`. Writes are tried at once, from whichever task has bytes, and wait for readiness only when the
//! socket is full.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

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
}

impl Stream {
    /// Takes an accepted socket into the current runtime.
    pub(super) fn adopt(accepted: Accepted) -> io::Result<Self> {
        match accepted {
            Accepted::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(Self::Tcp)
            }
            Accepted::Unix(stream) => {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Self::Unix)
            }
        }
    }

    pub(super) const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
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
        }
    }

    #[inline]
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// `TCP_NODELAY`, keepalive and, towards nodes, the time after which unacknowledged bytes end the connection.
    pub(super) fn configure(&self, keepalive: Duration, user_timeout: Option<Duration>) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
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
    pub(super) fn shutdown_write(&self) {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
        };
        // A peer that is gone already is what this asks for.
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }
}

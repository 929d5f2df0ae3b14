//! One connection to the admin port: bytes in, requests one after the other, replies out in order.
//!
//! ```text
//!  read ─▶ input ─▶ RequestScanner ─▶ Session ─▶ output ─▶ write
//!           │ ≤ 1 MiB     └─ broken: one error line, close
//!           └─ more: one error line, close
//! ```
//!
//! Nothing is read while a request runs or a reply waits to be taken, so neither side can make the other hold
//! more than its buffer.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::AdminContext;
use super::listener::AdminLimits;
use super::session::{Attempts, Session};
use crate::resp::{ArgRange, Args, ProtocolError, RequestLimits, RequestScanner, Scan, inline, write_error};
use crate::tls::Secure;

/// Room made for each read.
const READ_BYTES: usize = 16 * 1024;
/// Replies beyond this are written before the next request runs.
const OUTPUT_BYTES: usize = 256 * 1024;
/// Arguments of one request: `EXPLAIN MSET …` is the longest.
const ARGS_MAX: usize = 16 * 1024;

struct Connection<Socket> {
    socket: Socket,
    session: Session,
    limits: AdminLimits,
    scanner: RequestScanner,
    ranges: Vec<ArgRange>,
    input: Vec<u8>,
    output: Vec<u8>,
    closing: bool,
    /// When the peer was last known; at first, when it came.
    known: Instant,
}

/// What a connection needs besides its socket.
pub(super) struct Opening {
    pub(super) context: Arc<AdminContext>,
    pub(super) attempts: Arc<Attempts>,
    pub(super) limits: AdminLimits,
    pub(super) stopped: watch::Receiver<bool>,
}

/// Serves one connection to its end, behind a handshake if it speaks TLS.
pub(super) async fn open_connection(socket: TcpStream, secure: Option<Secure>, opening: Opening) {
    // Without it a reply could wait for the peer's delayed acknowledgement.
    let _ = socket.set_nodelay(true);
    match secure {
        None => serve_connection(socket, opening).await,
        Some(secure) => {
            if let Some(socket) = secure.handshake(socket, opening.limits.handshake_timeout).await {
                Box::pin(serve_connection(socket, opening)).await;
            }
        }
    }
}

/// A peer's mistakes are its own business: they are not worth more than a debug line.
async fn serve_connection(socket: impl AsyncRead + AsyncWrite + Unpin, opening: Opening) {
    let connection = Connection {
        socket,
        session: Session::new(opening.context, opening.attempts),
        limits: opening.limits,
        scanner: RequestScanner::default(),
        ranges: Vec::new(),
        input: Vec::new(),
        output: Vec::new(),
        closing: false,
        known: Instant::now(),
    };
    if let Err(error) = Box::pin(connection.run(opening.stopped)).await {
        tracing::debug!(event = "admin_connection_failed", %error);
    }
}

impl<Socket: AsyncRead + AsyncWrite + Unpin> Connection<Socket> {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
        loop {
            self.handle_input().await?;
            self.write().await?;
            if self.closing {
                return self.socket.shutdown().await;
            }
            let patience = self.patience();
            if patience.is_zero() {
                return Ok(());
            }
            self.input.reserve(READ_BYTES);
            let read = tokio::select! {
                // An error means that the listener is gone, which is a stop as well.
                _ = stopped.wait_for(|stop| *stop) => return Ok(()),
                read = timeout(patience, self.socket.read_buf(&mut self.input)) => read,
            };
            match read {
                Ok(Ok(0)) | Err(_) => return Ok(()),
                Ok(read) => read?,
            };
        }
    }

    /// How long to wait for more. A stranger's time runs out, however much it sends.
    fn patience(&mut self) -> Duration {
        if self.session.is_authenticated() {
            self.known = Instant::now();
            return self.limits.idle_timeout;
        }
        self.limits.handshake_timeout.saturating_sub(self.known.elapsed())
    }

    /// Answers all whole requests of the input.
    async fn handle_input(&mut self) -> io::Result<()> {
        let mut start = 0;
        while !self.closing {
            let limits = self.request_limits();
            match self.scanner.scan(&self.input[start..], &mut self.ranges, &limits) {
                Scan::Incomplete { .. } => break,
                Scan::Empty { end } => start += end,
                Scan::Frame { end } => {
                    let args = Args::new(&self.input[start..start + end], &self.ranges);
                    self.closing |= self.session.handle(&args, &mut self.output).await;
                    start += end;
                }
                Scan::Inline { end } => {
                    let mut frame = Vec::new();
                    match inline::to_frame(&self.input[start..start + end], &mut frame) {
                        Ok(()) => self.handle_frame(&frame).await,
                        Err(error) => self.fail(error),
                    }
                    start += end;
                }
                Scan::Fail(error) => self.fail(error),
            }
            if self.output.len() >= OUTPUT_BYTES {
                self.write().await?;
            }
        }
        self.input.drain(..start);
        if !self.closing && self.input.len() >= self.limits.request_bytes_max {
            self.fail(ProtocolError::TooBigRequest);
        }
        Ok(())
    }

    /// Answers the frame that was made of an inline request.
    async fn handle_frame(&mut self, frame: &[u8]) {
        let limits = RequestLimits {
            args_max: ARGS_MAX,
            ..RequestLimits::default()
        };
        let mut ranges = Vec::new();
        if let Scan::Frame { .. } = RequestScanner::default().scan(frame, &mut ranges, &limits) {
            let args = Args::new(frame, &ranges);
            self.closing |= self.session.handle(&args, &mut self.output).await;
        }
    }

    fn request_limits(&self) -> RequestLimits {
        if self.session.is_authenticated() {
            let bulk_max = self.limits.request_bytes_max;
            RequestLimits {
                args_max: ARGS_MAX,
                bulk_max,
                ..RequestLimits::default()
            }
        } else {
            RequestLimits::BEFORE_AUTH
        }
    }

    /// The place in the stream is lost, or was never ours: a last word, then the end.
    fn fail(&mut self, error: ProtocolError) {
        if let Some(line) = error.reply() {
            write_error(&mut self.output, line);
        }
        self.closing = true;
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let writing = async {
            self.socket.write_all(&self.output).await?;
            // TLS keeps what the socket did not take.
            self.socket.flush().await
        };
        let written = timeout(self.limits.write_timeout, writing).await;
        written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.output.clear();
        Ok(())
    }
}

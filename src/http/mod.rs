//! The HTTP port: metrics, health, topology. It only reads.
//!
//! ```text
//!  listener ─▶ accept ─▶ 64 connections at most ─▶ hyper (8 KB of header, 5 s) ─▶ respond.rs ─▶ bytes, close
//!                 │ more: 503, close                                                  │ asks
//!                 └─ stop: no more accepts, what runs may end (5 s)        readiness · metrics · topology
//! ```
//!
//! Each connection serves one request and is closed: it has one deadline for the header and one for the answer,
//! and no slow or idle peer can keep one of the 64 places. A scraper pays one more `connect` every few seconds.

mod readiness;
mod respond;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use readiness::Readiness;
pub use respond::{Endpoints, Provider};

use crate::tls::{Listening, Secure};

/// What a client of the HTTP port can take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at a time; one more is answered 503 and closed.
    pub connections_max: usize,
    /// Bytes of request line and header, at least 8192; more is answered 431 and closed.
    pub header_bytes_max: usize,
    /// Time for the whole header; later the connection is closed.
    pub header_timeout: Duration,
    /// Time to take the answer; later the connection is closed.
    pub answer_timeout: Duration,
    /// Time that running connections get after the stop.
    pub stop_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        let five_seconds = Duration::from_secs(5);
        Self {
            connections_max: 64,
            header_bytes_max: 8192,
            header_timeout: five_seconds,
            answer_timeout: five_seconds,
            stop_timeout: five_seconds,
        }
    }
}

/// How long accepting pauses after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Sent without reading the request, which therefore must not be waited for.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 21\r\n\
    connection: close\r\n\r\ntoo many connections\n";

/// Serves `endpoints` on `listener` until `stop` is ready, then lets what runs come to its end.
///
/// # Cancel safety
/// Dropping the future closes all connections at once.
pub async fn serve(
    listener: impl Into<Listening>,
    endpoints: Endpoints,
    limits: HttpLimits,
    stop: impl Future<Output = ()>,
) {
    let Listening { listener, secure } = listener.into();
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) if connections.len() >= limits.connections_max => refuse(&socket),
                Ok((socket, _)) => {
                    connections.spawn(open_connection(socket, secure.clone(), endpoints.clone(), limits));
                }
                Err(error) => {
                    tracing::warn!(event = "http_accept_failed", %error);
                    // What runs may give a descriptor back meanwhile; nothing else can be done about it.
                    tokio::select! { () = &mut stop => break, () = sleep(ACCEPT_PAUSE) => {} }
                }
            },
        }
    }
    drop(listener);
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(limits.stop_timeout, drain).await.is_err() {
        connections.shutdown().await;
    }
}

/// Serves one connection, behind a handshake if it speaks TLS.
async fn open_connection(
    socket: TcpStream,
    secure: Option<Secure>,
    endpoints: Endpoints,
    limits: HttpLimits,
) {
    match secure {
        None => serve_connection(socket, endpoints, limits).await,
        Some(secure) => {
            if let Some(socket) = secure.handshake(socket, limits.header_timeout).await {
                Box::pin(serve_connection(socket, endpoints, limits)).await;
            }
        }
    }
}

/// Serves one request. A peer's mistakes are its own business: they are not worth more than a debug line.
async fn serve_connection(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    endpoints: Endpoints,
    limits: HttpLimits,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        ready(Ok::<_, Infallible>(
            endpoints.respond(request.method(), request.uri().path()),
        ))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes_max)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    match timeout(limits.header_timeout + limits.answer_timeout, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(event = "http_connection_failed", %error),
        Err(_) => tracing::debug!(event = "http_answer_timeout"),
    }
}

fn refuse(socket: &TcpStream) {
    // The send buffer of a new connection is empty, so that all of it fits or the peer is gone. A peer that has
    // sent its request already may see a reset instead of the text, which says the same.
    match socket.try_write(FULL) {
        Ok(_) => tracing::debug!(event = "http_connection_refused"),
        Err(error) => tracing::debug!(event = "http_refusal_failed", %error),
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(event = "http_connection_panicked", %error);
    }
}

#[cfg(test)]
mod tests;

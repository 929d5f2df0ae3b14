//! Handshakes of clients that speak TLS: on the control side, so that no worker and none of its clients waits for one.
//!
//! ```text
//!  accepted ─▶ first byte a TLS one? ─▶ handshake ─▶ a stream, counted
//!                │ no: told so, closed     └─ all within a time, or closed, counted by reason
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::Acceptor;
use crate::metrics::{Handshake, Metrics};

/// A handshake of TLS begins with this byte, and no request does.
const HELLO: u8 = 0x16;
const PLAIN: &[u8] = b"-ERR this port speaks TLS: connect with TLS, or to the port without\r\n";
/// What is read and thrown away of a client that is refused, and how long each wait for it may be.
const THROWN_MAX: usize = 64 * 1024;
const THROWN_PATIENCE: Duration = Duration::from_millis(500);

/// What makes and counts handshakes.
#[derive(Clone, Debug)]
pub struct Secure {
    acceptor: Acceptor,
    metrics: Arc<Metrics>,
}

/// A listener, and how handshakes are made with whom it accepts.
#[derive(Debug)]
pub struct Listening {
    /// The listener.
    pub listener: TcpListener,
    /// None: its clients do not speak TLS.
    pub secure: Option<Secure>,
}

impl From<TcpListener> for Listening {
    fn from(listener: TcpListener) -> Self {
        Self {
            listener,
            secure: None,
        }
    }
}

impl Secure {
    /// Handshakes with this set-up, counted there.
    #[must_use]
    pub const fn new(acceptor: Acceptor, metrics: Arc<Metrics>) -> Self {
        Self { acceptor, metrics }
    }

    /// Makes a handshake with a client that has just come. None: it failed, and the socket is closed.
    pub async fn handshake(&self, socket: TcpStream, longest: Duration) -> Option<TlsStream<TcpStream>> {
        let shaken = timeout(longest, Box::pin(shake(socket, &self.acceptor))).await;
        let (ended, stream) = match shaken {
            Ok(Ok(stream)) => (Handshake::Done, Some(stream)),
            Ok(Err(why)) => (why, None),
            Err(_) => (Handshake::Timeout, None),
        };
        self.count(ended);
        if stream.is_none() {
            tracing::debug!(event = "tls_handshake_failed", reason = ?ended);
        }
        stream
    }

    /// Counts how a handshake ended, or why none was made.
    pub fn count(&self, ended: Handshake) {
        self.metrics.control().handshakes[ended].add_shared(1);
    }
}

async fn shake(socket: TcpStream, acceptor: &Acceptor) -> Result<TlsStream<TcpStream>, Handshake> {
    let mut first = [0];
    match socket.peek(&mut first).await {
        Ok(1) if first == [HELLO] => {}
        Ok(1) => {
            // The socket is new, so these bytes fit or nobody is there.
            let _ = socket.try_write(PLAIN);
            end(socket).await;
            return Err(Handshake::Plain);
        }
        Ok(_) | Err(_) => return Err(Handshake::Closed),
    }
    let accepting = acceptor.current().accept(socket).into_fallible();
    match Box::pin(accepting).await {
        Ok(stream) => Ok(stream),
        Err((error, socket)) => {
            end(socket).await;
            Err(reason(&error))
        }
    }
}

/// Closes the sending side and reads what the client has sent: its last words would be lost in a reset.
async fn end(mut socket: TcpStream) {
    // A peer that is gone is what this asks for.
    let _ = socket.shutdown().await;
    let mut thrown = [0; 4096];
    let mut read = 0;
    while read < THROWN_MAX {
        match timeout(THROWN_PATIENCE, socket.read(&mut thrown)).await {
            Ok(Ok(count)) if count > 0 => read += count,
            Ok(_) | Err(_) => return,
        }
    }
}

fn reason(error: &io::Error) -> Handshake {
    let told = error.get_ref().and_then(|told| told.downcast_ref::<Error>());
    match told {
        None => Handshake::Closed,
        Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => Handshake::ClientCertificate,
        Some(Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate,
        )) => Handshake::OurCertificate,
        Some(_) => Handshake::Protocol,
    }
}

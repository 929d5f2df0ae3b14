//! The door of the admin port: few connections, and an end for all of them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::AdminContext;
use super::connection::{Opening, open_connection};
use super::session::Attempts;
use crate::metrics::Limit;
use crate::tls::Listening;

/// What a client of the admin port can take at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdminLimits {
    /// Connections at a time; one more is told so and closed.
    pub(super) connections_max: usize,
    /// Bytes of a whole request; more is an error, then closed.
    pub(super) request_bytes_max: usize,
    /// Time to authenticate; later the connection is closed.
    pub(super) handshake_timeout: Duration,
    /// Time without a request; later the connection is closed. Keeps forgotten consoles off the few places.
    pub(super) idle_timeout: Duration,
    /// Time to take a reply; later the connection is closed.
    pub(super) write_timeout: Duration,
    /// How long a password is looked at later while wrong ones keep coming.
    pub(super) wrong_password_delay: Duration,
    /// Time that running requests get after the stop.
    pub(super) stop_timeout: Duration,
}

impl Default for AdminLimits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            request_bytes_max: 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            write_timeout: Duration::from_secs(10),
            wrong_password_delay: Duration::from_secs(1),
            stop_timeout: Duration::from_secs(1),
        }
    }
}

/// How long accepting pauses after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const FULL: &[u8] = b"-ERR max number of clients reached\r\n";

/// Serves admin words on `listener` until `stop` is ready, then lets running requests come to their end.
///
/// # Cancel safety
/// Dropping the future closes all connections at once.
pub async fn serve(
    listener: impl Into<Listening>,
    context: Arc<AdminContext>,
    stop: impl Future<Output = ()>,
) {
    serve_within(listener, context, AdminLimits::default(), stop).await;
}

pub(super) async fn serve_within(
    listener: impl Into<Listening>,
    context: Arc<AdminContext>,
    limits: AdminLimits,
    stop: impl Future<Output = ()>,
) {
    let Listening { listener, secure } = listener.into();
    let attempts = Arc::new(Attempts::new(limits.wrong_password_delay));
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) if connections.len() >= limits.connections_max => refuse(&context, &socket),
                Ok((socket, _)) => {
                    let (context, attempts) = (Arc::clone(&context), Arc::clone(&attempts));
                    let connection = Opening { context, attempts, limits, stopped: stopped.clone() };
                    connections.spawn(open_connection(socket, secure.clone(), connection));
                }
                Err(error) => {
                    tracing::warn!(event = "admin_accept_failed", %error);
                    // What runs may give a descriptor back meanwhile; nothing else can be done about it.
                    tokio::select! { () = &mut stop => break, () = sleep(ACCEPT_PAUSE) => {} }
                }
            },
        }
    }
    drop(listener);
    let _ = stopping.send(true);
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(limits.stop_timeout, drain).await.is_err() {
        connections.shutdown().await;
    }
}

fn refuse(context: &AdminContext, socket: &TcpStream) {
    context.shared.metrics.control().limits[Limit::AdminConnections].add_shared(1);
    // The send buffer of a new connection is empty, so that all of it fits or the peer is gone.
    if let Err(error) = socket.try_write(FULL) {
        tracing::debug!(event = "admin_refusal_failed", %error);
    }
}

pub(super) fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(event = "admin_connection_panicked", %error);
    }
}

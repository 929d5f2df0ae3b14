//! The door: sockets are accepted here and handed to the worker with the fewest clients.
//!
//! One message for each connection, then the socket never leaves its worker. Accepting goes on after every error:
//! out of descriptors it pauses, and a client beyond `max_clients` is told so before it is closed.

use std::future::Future;
use std::io::{self, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::ServeError;
use crate::metrics::{Disconnect, Limit};
use crate::topology::Address;
use crate::worker::shared::Shared;
use crate::worker::{Accepted, ClientPermit, Order, Worker};

const BACKLOG: i32 = 4096;
/// Out of file descriptors, only time helps.
const PAUSE: Duration = Duration::from_millis(100);
const FULL: &[u8] = b"-ERR max number of clients reached\r\n";

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket, and its path.
    Unix(UnixListener, String),
}

impl Listener {
    /// Binds an address; port 0 takes a free one, and a socket file that nobody answers at is replaced.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn bind(address: &Address) -> Result<Self, ServeError> {
        let bound = match address {
            Address::Tcp { host, port } => bind_tcp(host, *port),
            Address::Unix(path) => {
                bind_unix(path).map(|listener| Self::Unix(listener, path.display().to_string()))
            }
        };
        bound.map_err(|error| ServeError::Listen {
            address: address.to_string(),
            error,
        })
    }

    /// Where it listens, as a client would write it.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "?".to_owned(), |at| at.to_string()),
            Self::Unix(_, path) => format!("unix:{path}"),
        }
    }

    /// The next socket, with the address of its peer.
    ///
    /// # Errors
    /// The socket was gone already, or the process has no more file descriptors.
    pub async fn next(&self) -> io::Result<(Accepted, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Accepted::Tcp(stream.into_std()?), peer.to_string()))
            }
            Self::Unix(listener, path) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream.into_std()?), format!("{path}:0")))
            }
        }
    }
}

fn bind_tcp(host: &str, port: u16) -> io::Result<Listener> {
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        match socket.bind(&address.into()).and_then(|()| socket.listen(BACKLOG)) {
            Ok(()) => return TcpListener::from_std(socket.into()).map(Listener::Tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A socket file that a dead process left behind is removed; one that answers is somebody's.
fn bind_unix(path: &std::path::Path) -> io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// Where accepted sockets go.
#[derive(Debug)]
pub(super) struct Door {
    shared: Arc<Shared>,
    workers: Vec<(mpsc::Sender<Order>, Arc<AtomicUsize>)>,
    clients: Arc<AtomicUsize>,
}

impl Door {
    pub(super) fn new(shared: &Arc<Shared>, workers: &[Worker], clients: &Arc<AtomicUsize>) -> Self {
        let workers = workers
            .iter()
            .map(|worker| (worker.orders.clone(), Arc::clone(&worker.load)));
        Self {
            shared: Arc::clone(shared),
            workers: workers.collect(),
            clients: Arc::clone(clients),
        }
    }

    async fn admit(&self, socket: Accepted, address: String, local_address: String) {
        let least = self.workers.iter().min_by_key(|(_, load)| load.load(Relaxed));
        let Some((orders, load)) = least else { return };
        let Some(permit) = ClientPermit::take(&self.clients, load, self.shared.max_clients) else {
            self.refuse(socket);
            return;
        };
        // A worker that is gone takes the process with it; there is nobody to tell.
        let _ = orders
            .send(Order::Accept {
                socket,
                address,
                local_address,
                permit,
            })
            .await;
    }

    fn refuse(&self, socket: Accepted) {
        let cells = self.shared.metrics.control();
        cells.limits[Limit::MaxClients].add_shared(1);
        cells.disconnects[Disconnect::MaxClients].add_shared(1);
        // The socket is new, so these bytes fit or nobody is there.
        let _ = match socket {
            Accepted::Tcp(mut stream) => stream.write(FULL),
            Accepted::Unix(mut stream) => stream.write(FULL),
        };
    }
}

/// Accepts until `stop`.
pub(super) async fn accept(listener: Listener, door: Door, stop: impl Future<Output = ()>) {
    let local_address = listener.address();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = tokio::select! {
            () = &mut stop => return,
            next = listener.next() => next,
        };
        match next {
            Ok((socket, address)) => door.admit(socket, address, local_address.clone()).await,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                door.shared.metrics.control().limits[Limit::FileDescriptors].add_shared(1);
                tracing::warn!(event = "accept_paused", %error);
                sleep(PAUSE).await;
            }
        }
    }
}

/// The peer went away before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

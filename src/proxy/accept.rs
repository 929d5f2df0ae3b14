//! The door: sockets are accepted here and handed to the worker with the fewest clients.
//!
//! ```text
//!  accepted ─▶ a place under max_clients ──────────────────────────────▶ worker
//!                  └─ TLS: one of HANDSHAKES_MAX places, handshake ────────┘
//! ```
//!
//! One message for each connection, then the socket never leaves its worker. Accepting goes on after every error:
//! out of descriptors it pauses, and a client beyond `max_clients` is told so before it is closed.

use std::future::Future;
use std::io::{self, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rustls::Connection;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ServeError;
use crate::metrics::{Disconnect, Handshake, Limit};
use crate::tls::Secure;
use crate::topology::Address;
use crate::worker::shared::Shared;
use crate::worker::{Accepted, ClientPermit, Order, Worker};

const BACKLOG: i32 = 4096;
/// Out of file descriptors, only time helps.
const PAUSE: Duration = Duration::from_millis(100);
/// Handshakes of one listener at a time. Each costs a signature that no client has paid for.
const HANDSHAKES_MAX: usize = 512;
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

    /// A place for one more client: where its order goes. None: there is none, and the client is told so.
    fn place(&self, socket: &Accepted, tells: bool) -> Option<(mpsc::Sender<Order>, ClientPermit)> {
        let least = self.workers.iter().min_by_key(|(_, load)| load.load(Relaxed));
        let (orders, load) = least?;
        let max_clients = self.shared.settings.load().max_clients;
        let Some(permit) = ClientPermit::take(&self.clients, load, max_clients) else {
            self.refuse(socket, tells);
            return None;
        };
        Some((orders.clone(), permit))
    }

    fn refuse(&self, socket: &Accepted, tells: bool) {
        let cells = self.shared.metrics.control();
        cells.limits[Limit::MaxClients].add_shared(1);
        cells.disconnects[Disconnect::MaxClients].add_shared(1);
        if tells {
            // The socket is new, so these bytes fit or nobody is there.
            let _ = match socket {
                Accepted::Tcp(stream) => (&mut &*stream).write(FULL),
                Accepted::Unix(stream) => (&mut &*stream).write(FULL),
            };
        }
    }
}

/// Accepts until `stop`.
pub(super) async fn accept(
    listener: Listener,
    secure: Option<Secure>,
    door: Door,
    stop: impl Future<Output = ()>,
) {
    let local_address = listener.address();
    let mut handshakes = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = tokio::select! {
            () = &mut stop => return,
            Some(_) = handshakes.join_next() => continue,
            next = listener.next() => next,
        };
        let (socket, address) = match next {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                door.shared.metrics.control().limits[Limit::FileDescriptors].add_shared(1);
                tracing::warn!(event = "accept_paused", %error);
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some((orders, permit)) = door.place(&socket, secure.is_none()) else {
            continue;
        };
        let come = Come {
            socket,
            address,
            local_address: local_address.clone(),
            permit,
        };
        match &secure {
            None => hand_over(&orders, come, None).await,
            Some(secure) if handshakes.len() >= HANDSHAKES_MAX => secure.count(Handshake::TooMany),
            Some(secure) => {
                let (secure, longest) = (secure.clone(), door.shared.settings.load().limits.handshake);
                handshakes.spawn(async move { secured(&secure, longest, &orders, come).await });
            }
        }
    }
}

/// A client that has a place.
struct Come {
    socket: Accepted,
    address: String,
    local_address: String,
    permit: ClientPermit,
}

async fn hand_over(orders: &mpsc::Sender<Order>, come: Come, session: Option<Box<Connection>>) {
    // A worker that is gone takes the process with it; there is nobody to tell.
    let _ = orders
        .send(Order::Accept {
            socket: come.socket,
            session,
            address: come.address,
            local_address: come.local_address,
            permit: come.permit,
        })
        .await;
}

/// Makes the handshake, and hands the client over if that comes to something.
async fn secured(secure: &Secure, longest: Duration, orders: &mpsc::Sender<Order>, mut come: Come) {
    // The config lets TLS be spoken over TCP only.
    let Accepted::Tcp(socket) = come.socket else {
        return;
    };
    let Ok(socket) = TcpStream::from_std(socket) else {
        return;
    };
    let Some(stream) = secure.handshake(socket, longest).await else {
        return;
    };
    let (socket, session) = stream.into_inner();
    if let Ok(socket) = socket.into_std() {
        come.socket = Accepted::Tcp(socket);
        hand_over(orders, come, Some(Box::new(session.into()))).await;
    }
}

/// The peer went away before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

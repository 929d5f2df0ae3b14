//! A data worker: one thread, one current-thread runtime, its clients and its connections to nodes.
//!
//! ```text
//!            mailbox (accepted sockets, orders)
//!                │
//!                ▼
//!  ┌─ thread ─ runtime ─────────────────────────────────┐
//!  │ sessions (one task a client) ┐                     │
//!  │ links    (one task a link)   ├─▶ Engine (RefCell)  │
//!  │ sweep    (one task)          ┘                     │
//!  └────────────────────────────────────────────────────┘
//! ```
//!
//! Between the threads there is the mailbox (one message for each connection, none for a request), the topology
//! snapshot and counters. A request never leaves the thread that read it.

mod adopt;
mod backend;
mod dedicated;
mod engine;
mod gate;
mod gather;
mod outbuf;
mod page;
mod pause;
mod program;
mod pubsub;
pub mod registry;
pub mod scripts;
mod secured;
mod session;
pub mod shared;
pub mod slowlog;
mod stream;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
mod tracking;
pub mod users;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use pause::ClientPause;
pub use pubsub::Directory;
pub use stream::Accepted;

use engine::Engine;
use registry::ClientInfo;
use session::Client;
use shared::Shared;
use stream::Stream;

use crate::ids::NodeIndex;

/// Orders that may wait for a worker; the acceptor waits when it is full.
const MAILBOX: usize = 1024;

/// What a worker is told from outside.
#[derive(Debug)]
pub enum Order {
    /// Serve this client.
    Accept {
        /// Its socket.
        socket: Accepted,
        /// Its TLS session, if it came to a listener that speaks TLS.
        session: Option<Box<rustls::Connection>>,
        /// Its address, for `CLIENT LIST`.
        address: String,
        /// The address that it connected to.
        local_address: String,
        /// Its place among all clients; given back when it leaves.
        permit: ClientPermit,
    },
    /// Take the settings and the users that are in force now. The sender is dropped when that is done.
    Settings(mpsc::Sender<()>),
    /// Let clients go as soon as they are answered.
    Drain,
}

/// A client's place under `max_clients` and in its worker's load; given back when dropped.
#[derive(Debug)]
pub struct ClientPermit {
    total: Arc<AtomicUsize>,
    load: Arc<AtomicUsize>,
}

impl ClientPermit {
    /// Takes a place in both counts. `None` if `max` clients are there.
    #[must_use]
    pub fn take(total: &Arc<AtomicUsize>, load: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        if total.fetch_add(1, Relaxed) >= max {
            total.fetch_sub(1, Relaxed);
            return None;
        }
        load.fetch_add(1, Relaxed);
        Some(Self {
            total: Arc::clone(total),
            load: Arc::clone(load),
        })
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.total.fetch_sub(1, Relaxed);
        self.load.fetch_sub(1, Relaxed);
    }
}

/// A running worker, from outside.
#[derive(Debug)]
pub struct Worker {
    /// Where its orders go.
    pub orders: mpsc::Sender<Order>,
    /// Clients that it serves.
    pub load: Arc<AtomicUsize>,
    /// Ends when the worker has let its last client go after [`Order::Drain`].
    pub thread: JoinHandle<()>,
}

/// Starts worker number `number`.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub fn start(number: usize, shared: Arc<Shared>) -> io::Result<Worker> {
    let (orders, mailbox) = mpsc::channel(MAILBOX);
    let load = Arc::new(AtomicUsize::new(0));
    let thread = std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            let built = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            match built {
                Ok(runtime) => runtime.block_on(run(number, shared, mailbox)),
                Err(error) => tracing::error!(event = "worker_failed", worker = number, %error),
            }
        })?;
    Ok(Worker { orders, load, thread })
}

async fn run(number: usize, shared: Arc<Shared>, mut mailbox: mpsc::Receiver<Order>) {
    let mut changes = shared.succession.subscribe();
    let engine = Rc::new(RefCell::new(Engine::new(number, Arc::clone(&shared))));
    engine.borrow_mut().dedicated.set_engine(Rc::downgrade(&engine));
    let mut keepers = JoinSet::new();
    keep_from(&engine, &mut keepers, (0, 0));
    keepers.spawn_local(sweep::sweep(Rc::clone(&engine)));
    let mut sessions = JoinSet::new();
    loop {
        if shared.is_draining() && sessions.is_empty() {
            return;
        }
        tokio::select! {
            order = mailbox.recv() => match order {
                Some(order) => handle_order(&engine, order, &mut sessions),
                None => return,
            },
            Some(ended) = sessions.join_next() => note_end(&engine, ended),
            Ok(()) = changes.changed() => {
                let new = {
                    let mut engine = engine.borrow_mut();
                    engine.begin_turn();
                    let new = engine.adopt();
                    engine.end_turn();
                    new
                };
                keep_from(&engine, &mut keepers, new);
            }
            Some(ended) = keepers.join_next() => {
                // Links and the sweep run for ever: one that ended has panicked, and with it the worker's order.
                tracing::error!(event = "worker_task_died", worker = number, error = ?ended.err());
                std::process::abort();
            }
        }
    }
}

/// Starts the tasks of links and feeds from these on.
fn keep_from(
    engine: &Rc<RefCell<Engine>>,
    keepers: &mut JoinSet<()>,
    (first_link, first_feed): (usize, usize),
) {
    let (links, gates, feeds) = {
        let engine = engine.borrow();
        (engine.links.len(), engine.gates(), engine.pubsub.feeds.len())
    };
    for link in (first_link..links).filter(|link| !gates.contains(link)) {
        keepers.spawn_local(backend::keep_link(Rc::clone(engine), link));
    }
    for node in (0..).map(NodeIndex).take(feeds).skip(first_feed) {
        keepers.spawn_local(pubsub::keep_feed(Rc::clone(engine), node));
    }
}

fn handle_order(engine: &Rc<RefCell<Engine>>, order: Order, sessions: &mut JoinSet<()>) {
    match order {
        Order::Accept {
            socket,
            session,
            address,
            local_address,
            permit,
        } => match accept(engine, (socket, session), address, local_address) {
            Ok(index) => {
                let engine = Rc::clone(engine);
                sessions.spawn_local(async move {
                    session::serve(engine, index).await;
                    drop(permit);
                });
            }
            Err(error) => tracing::debug!(event = "accept_failed", %error),
        },
        Order::Settings(done) => {
            let mut engine = engine.borrow_mut();
            // A turn begins with a look at the users.
            engine.begin_turn();
            engine.adopt_settings();
            engine.end_turn();
            drop(done);
        }
        Order::Drain => engine
            .borrow()
            .clients
            .iter()
            .for_each(|(_, client)| client.wake()),
    }
}

fn accept(
    engine: &Rc<RefCell<Engine>>,
    (socket, session): (Accepted, Option<Box<rustls::Connection>>),
    address: String,
    local_address: String,
) -> io::Result<usize> {
    let stream = Stream::adopt(socket, session)?;
    let mut engine = engine.borrow_mut();
    stream.configure(engine.settings.limits.keepalive, None)?;
    engine.begin_turn();
    let info = Arc::new(ClientInfo::new(
        engine.shared.registry.next_id(),
        address,
        local_address,
        engine.worker,
        engine.now_ms(),
    ));
    engine.shared.registry.insert(Arc::clone(&info));
    let generation = engine.next_generation();
    let users = engine.shared.users.load_full();
    let client = Client::new(generation, info, stream, &users, engine.now);
    engine.metrics.client_connections[client.wire()].add(1);
    engine.metrics.connections_total.inc();
    Ok(engine.clients.insert(client))
}

/// A session that panicked may have left anything half done: nothing in flight can be trusted, and all links close.
fn note_end(engine: &Rc<RefCell<Engine>>, ended: Result<(), tokio::task::JoinError>) {
    let Err(error) = ended else { return };
    tracing::error!(event = "session_died", %error, "a session panicked; its worker's links are closed");
    engine.borrow_mut().distrust_everything();
}

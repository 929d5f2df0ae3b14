//! For tests of this room: an engine of one worker, with clients on real loopback sockets and no nodes behind it.

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::engine::Engine;
use super::pause::ClientPause;
use super::pubsub::Directory;
use super::registry::{ClientInfo, Registry};
use super::session::Client;
use super::shared::{Limits, NodeCredentials, NodesView, Settings, Shared, Succession};
use super::slowlog::{SlowLog, SlowLogSettings};
use super::stream::{Accepted, Stream};
use super::users::{Attempts, Users};
use crate::command;
use crate::config::{AclUsers, Batches, Migration, OnEmpty, OnGap};
use crate::metrics::{Metrics, MetricsOptions};
use crate::resp::RequestLimits;
use crate::topology::{Node, Topology};

/// Two nodes, eight shards (0 to 3 on the first node), two pinned databases.
pub(super) const SHARDS: u16 = 8;
const PINNED: u16 = 2;
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test inside a runtime like a worker's.
pub(super) fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    runtime.unwrap().block_on(test)
}

/// Limits that no test meets unless it lowers them.
pub(crate) fn limits() -> Limits {
    Limits {
        request: RequestLimits::default(),
        in_flight: 1024,
        in_flight_bytes: 16 << 20,
        request_memory: 1 << 30,
        output_soft: 8 << 20,
        output_hard: 64 << 20,
        output_stall: Duration::from_secs(60),
        idle: Duration::ZERO,
        handshake: Duration::from_secs(10),
        request_timeout_us: 2_000_000,
        silence_max_us: 5_000_000,
        link_in_flight: 4096,
        link_in_flight_bytes: 64 << 20,
        node_queue: 8192,
        node_queue_bytes: 64 << 20,
        keys: 100_000,
        tracking_keys: 1_000_000,
        batches: Batches::Fixed(1),
        hold: Duration::from_secs(10),
        dedicated: 4,
        shared_connections: 1,
        keepalive: Duration::ZERO,
        connect: Duration::from_secs(1),
        backoff_max: Duration::from_millis(500),
    }
}

/// An engine under these limits. To be called inside [`in_runtime`].
pub(super) fn engine(limits: Limits) -> Engine {
    engine_of(limits, SHARDS)
}

/// The same with another number of shards.
pub(super) fn engine_of(limits: Limits, shards: u16) -> Engine {
    let node = |number: u16| Node {
        name: format!("node-{number}"),
        address: format!("127.0.0.1:{number}").parse().unwrap(),
    };
    let topology = Topology::seed("test".to_owned(), shards, PINNED, vec![node(1), node(2)]).unwrap();
    let mut engine = Engine::new(
        0,
        Arc::new(shared(topology, limits, NodeCredentials::default(), "test")),
    );
    engine.begin_turn();
    engine
}

/// What workers share, in a proxy of one worker. `admin`: how the control side logs in.
pub(crate) fn shared(topology: Topology, limits: Limits, admin: NodeCredentials, run_id: &str) -> Shared {
    let metrics = Metrics::new(MetricsOptions {
        workers: 1,
        command_names: command::all().iter().map(|spec| spec.name).collect(),
        shards: usize::from(topology.total_shards()),
        max_clients: 100,
    });
    Shared {
        settings: ArcSwap::from_pointee(Settings {
            limits,
            credentials: NodeCredentials::default(),
            admin_credentials: admin,
            on_empty: OnEmpty::Serve,
            on_gap: OnGap::Resubscribe,
            redis_version: None,
            max_clients: 100,
            slowlog: SlowLogSettings {
                slower_than_us: None,
                entries_max: 128,
                show_args: false,
            },
            migration: Migration::default(),
        }),
        users: ArcSwap::from_pointee(Users::open()),
        users_generation: AtomicU64::new(0),
        registrations: AtomicU64::new(0),
        attempts: Attempts::default(),
        admin_requests: mpsc::channel(1).0,
        node_secret: OnceLock::new(),
        acl_users: AclUsers::Auto,
        cluster: None,
        data_address: RwLock::default(),
        config_file: PathBuf::new(),
        succession: Succession::new(&topology, 1),
        topology: ArcSwap::from_pointee(topology),
        metrics: Arc::new(metrics.unwrap()),
        registry: Registry::default(),
        scripts: Arc::default(),
        behind: tokio::sync::Notify::new(),
        pause: ClientPause::default(),
        slowlog: SlowLog::default(),
        channels: Arc::new(Directory::new(1)),
        nodes: ArcSwap::from_pointee(NodesView::default()),
        draining: AtomicBool::new(false),
        started: Instant::now(),
        started_unix: 0,
        run_id: run_id.to_owned(),
    }
}

/// A client of an engine, seen from its own end of the connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) index: usize,
    pub(super) generation: u32,
    socket: TcpStream,
}

/// Connects a client to an engine and waits until its socket may be written to.
pub(super) async fn connect(engine: &mut Engine) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let stream = Stream::adopt(Accepted::Tcp(accepted), None).unwrap();
    let generation = engine.next_generation();
    let id = engine.shared.registry.next_id();
    let info = Arc::new(ClientInfo::new(id, String::new(), String::new(), 0, 0));
    let users = engine.shared.users.load_full();
    let client = Client::new(generation, info, stream, &users, engine.now);
    engine.metrics.client_connections[client.wire()].add(1);
    let index = engine.clients.insert(client);
    let peer = Peer {
        index,
        generation,
        socket,
    };
    poll_fn(|cx| engine.clients[index].stream.poll_write_ready(cx))
        .await
        .unwrap();
    peer
}

impl Peer {
    /// Reads `length` bytes that the engine has for this client, which is all that it has.
    pub(super) async fn read_all(&mut self, engine: &mut Engine, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 1 << 20];
        let give_up = Instant::now() + PATIENCE;
        loop {
            engine.flush_client(self.index);
            match self.socket.read(&mut chunk) {
                Ok(count) => {
                    assert!(count > 0, "closed after {} bytes of {length}", bytes.len());
                    bytes.extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if bytes.len() >= length && engine.clients[self.index].out.is_empty() {
                        return bytes;
                    }
                    assert!(Instant::now() < give_up, "{} bytes of {length} came", bytes.len());
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

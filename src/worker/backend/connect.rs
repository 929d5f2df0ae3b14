//! From an address to a link that may be trusted: connected, logged in, the right node, every database there.
//!
//! ```text
//!  connect ─▶ TLS, if it is set ─▶ HELLO 3 | AUTH ─▶ INFO server ─▶ SELECT metadata, GET mark ─▶ SELECT every db that the topology places
//! ```
//!
//! A pipelined SELECT that fails would let the commands behind it run in the database before: another shard's. So
//! every database that this link may ever select is selected once before any traffic, and a node that refuses one
//! is not served. The mark in the metadata database says whose node this is; a node that lost it came back empty, and the control
//! side prepares it first.
//!
//! A node that was told to refuse a unit refuses what is asked here as its user, too. That is no failure: the unit's shards are on
//! their way, and their requests wait at the gates ([`ConnectError::Frozen`]).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::fill::write_select;
use super::link::{User, is_unit_user};
use crate::command::FEED_USER;
use crate::config::OnEmpty;
use crate::ids::{DbIndex, Epoch, NodeIndex};
use crate::resp::{self, Protocol, ReplyScanner};
use crate::topology::mark::{MARK_KEY, Mark, Standing};
use crate::topology::{Address, Topology, Unit};
use crate::worker::engine::Engine;
use crate::worker::shared::{Settings, Shared, connection_name};
use crate::worker::stream::Stream;

/// An unacknowledged byte ends a connection to a node after this long.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Replies of a handshake are small; more than this is no Redis.
const HANDSHAKE_BYTES_MAX: usize = 1024 * 1024;
/// Between two looks at whether an empty node has been prepared.
const PREPARED_PACE: Duration = Duration::from_millis(5);

/// What is to be connected.
pub(in crate::worker) struct Order {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    topology: Arc<Topology>,
    node: NodeIndex,
    protocol: Protocol,
    worker: usize,
    user: User,
    /// It will carry requests of shards, so it must be able to select their databases.
    serves_shards: bool,
}

/// A link that may be trusted.
pub(in crate::worker) struct Ready {
    pub(in crate::worker) stream: Stream,
    pub(super) db: Option<DbIndex>,
    /// The epoch that the node's mark has told.
    pub(in crate::worker) mark: Epoch,
}

/// Why a node cannot be served.
#[derive(Debug, thiserror::Error)]
pub(in crate::worker) enum ConnectError {
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("it answered {command} with: {reply}")]
    Refused { command: &'static str, reply: String },
    /// It has told that the topology has changed, in which it has another address, or is not there.
    #[error("the topology has changed, and the node with it")]
    Readdressed,
    /// It refuses the user of shards that are about to move, or does not know it any more.
    #[error("it refuses its user, since its shards are on their way: {0}")]
    Frozen(String),
    #[error("its answer is no RESP")]
    NotRedis,
    #[error("SELECT {db} failed: {reply}; the node needs `databases {needed}` or more in its redis.conf")]
    Database { db: DbIndex, needed: u16, reply: String },
    #[error("it runs in cluster mode; preshard needs plain nodes (`cluster-enabled no`)")]
    ClusterMode,
    #[error("{0}")]
    Identity(String),
}

impl Engine {
    pub(super) fn connect_order(&self, index: usize) -> Order {
        Order {
            shared: Arc::clone(&self.shared),
            settings: Arc::clone(&self.settings),
            topology: Arc::clone(&self.topology),
            node: self.links[index].node,
            protocol: self.links[index].protocol,
            worker: self.worker,
            user: self.links[index].user.clone(),
            serves_shards: true,
        }
    }

    /// A connection to a node that selects no shard's database yet, as the user for its traffic.
    pub(in crate::worker) fn node_order(&self, node: NodeIndex, protocol: Protocol) -> Order {
        self.order_as(node, protocol, self.node_user(node))
    }

    /// Who a connection is that selects no shard's database yet.
    pub(in crate::worker) fn node_user(&self, node: NodeIndex) -> User {
        let access = self.topology.access.get(&node);
        access.map(|access| Arc::from(access.user.as_str()))
    }

    /// A connection to a node that hears what happens there, and can do nothing else.
    pub(in crate::worker) fn feed_order(&self, node: NodeIndex) -> Order {
        let access = self.topology.access.get(&node);
        self.order_as(node, Protocol::Resp3, access.map(|_| Arc::from(FEED_USER)))
    }

    /// A connection to a node that selects no shard's database yet, as a user.
    pub(in crate::worker) fn order_as(&self, node: NodeIndex, protocol: Protocol, user: User) -> Order {
        Order {
            user,
            shared: Arc::clone(&self.shared),
            settings: Arc::clone(&self.settings),
            topology: Arc::clone(&self.topology),
            node,
            protocol,
            worker: self.worker,
            serves_shards: false,
        }
    }
}

impl Order {
    /// Has the control side look at the node's users, if it is the one that makes them.
    fn ring(&self) {
        if self.topology.access.contains_key(&self.node) {
            self.shared.node(self.node).users.notify_one();
        }
    }

    /// Where it leads.
    pub(in crate::worker) fn address(&self) -> &Address {
        &self.topology.node(self.node).address
    }

    /// What it means that a node has refused something. A unit's user loses its rights when the unit is frozen, and is deleted when the
    /// unit has moved or was given back; the next topology says which. Nothing was asked of a shard yet.
    fn refused(&self, command: &'static str, reply: &[u8]) -> ConnectError {
        let is_frozen = reply.starts_with(b"-NOPERM") && is_unit_user(self.user.as_ref());
        // Before the unit is quiesced its user is made again on a node that has lost it, and then serves as it did.
        let is_over = reply.starts_with(b"-WRONGPASS") && self.is_quiesced();
        if is_frozen || is_over {
            return ConnectError::Frozen(text(reply));
        }
        ConnectError::Refused {
            command,
            reply: text(reply),
        }
    }

    /// Whether its user is that of a unit which may be frozen at any time.
    fn is_quiesced(&self) -> bool {
        let is_its = |unit: &&Unit| self.user.is_some() && unit.user.as_deref() == self.user.as_deref();
        let mut units = self.topology.units.iter();
        units.find(is_its).is_some_and(|unit| unit.quiesced)
    }
}

/// Connects and checks a node.
pub(in crate::worker) async fn connect(order: Order) -> Result<Ready, ConnectError> {
    let limit = order.settings.limits.connect;
    match timeout(limit, Box::pin(handshake(&order))).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout(limit)),
    }
}

/// Asks one question over a connection that is neither checked nor kept: for a node that answers little else.
pub(in crate::worker) async fn ask_once(order: &Order, words: &[&[u8]]) -> Result<Vec<u8>, ConnectError> {
    let mut talk = open(order).await?;
    log_in(order, &mut talk).await?;
    let mut frame = Vec::new();
    resp::write_request(&mut frame, words);
    talk.ask(&frame).await
}

async fn open(order: &Order) -> Result<Talk, ConnectError> {
    let stream = match &order.topology.node(order.node).address {
        Address::Tcp { host, port } => {
            let socket = TcpStream::connect((host.as_str(), *port)).await?;
            match &order.settings.credentials.tls {
                None => Stream::Tcp(socket),
                Some(tls) => {
                    let (socket, session) = tls.connect(host, socket).await?.into_inner();
                    Stream::secured(socket, session.into())
                }
            }
        }
        Address::Unix(path) => Stream::Unix(UnixStream::connect::<&Path>(path.as_ref()).await?),
    };
    stream.configure(order.settings.limits.keepalive, Some(USER_TIMEOUT))?;
    Ok(Talk {
        stream,
        read: Vec::new(),
    })
}

async fn handshake(order: &Order) -> Result<Ready, ConnectError> {
    let mut talk = open(order).await?;
    log_in(order, &mut talk).await?;
    check_run(order, &mut talk).await?;
    let mark = check_identity(order, &mut talk).await?;
    let db = if order.serves_shards {
        select_all(order, &mut talk).await?
    } else {
        None
    };
    if !talk.read.is_empty() {
        return Err(ConnectError::NotRedis);
    }
    Ok(Ready {
        stream: talk.stream,
        db,
        mark,
    })
}

/// Speaks the protocol version of the link, as the configured user.
async fn log_in(order: &Order, talk: &mut Talk) -> Result<(), ConnectError> {
    let credentials = order.shared.credentials_of(order.user.as_deref());
    let user = credentials.username.as_deref().unwrap_or("default");
    let name = connection_name(&order.shared.run_id, order.worker);
    let mut frame = Vec::new();
    match (
        order.protocol,
        credentials.password.as_ref().map(crate::config::Secret::reveal),
    ) {
        (Protocol::Resp2, None) => {}
        (Protocol::Resp2, Some(password)) => match &credentials.username {
            Some(user) => command(&mut frame, &["AUTH", user, password]),
            None => command(&mut frame, &["AUTH", password]),
        },
        (Protocol::Resp3, None) => command(&mut frame, &["HELLO", "3"]),
        (Protocol::Resp3, Some(password)) => command(&mut frame, &["HELLO", "3", "AUTH", user, password]),
    }
    if !frame.is_empty() {
        let reply = talk.ask(&frame).await?;
        if reply.first() == Some(&b'-') {
            // Of a unit's user, too: the node may have been started anew, without it.
            order.ring();
            return Err(order.refused("the login", &reply));
        }
        frame.clear();
    }
    command(&mut frame, &["CLIENT", "SETNAME", &name]);
    // A name helps who looks at the node, and tells a leader whose connection it is, so it comes before the mark is read
    // ([`Engine::must_hear`]). A user without the right to set one serves as well; moves that need it ask for that.
    talk.ask(&frame).await?;
    Ok(())
}

/// Asks which run of the node this is. Another one than the topology names may have users that were taken away since.
async fn check_run(order: &Order, talk: &mut Talk) -> Result<(), ConnectError> {
    let Some(access) = order.topology.access.get(&order.node) else {
        return Ok(());
    };
    let mut frame = Vec::new();
    command(&mut frame, &["INFO", "server"]);
    let reply = talk.ask(&frame).await?;
    if reply.first() == Some(&b'-') {
        let error = order.refused("INFO server", &reply);
        if matches!(error, ConnectError::Refused { .. }) {
            order.ring();
        }
        return Err(error);
    }
    // A bulk or, in RESP3, a verbatim string: lines of text either way.
    let info = String::from_utf8_lossy(&reply);
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    if run_id.map(str::trim) == Some(access.run_id.as_str()) {
        return Ok(());
    }
    order.ring();
    Err(ConnectError::Identity(
        "it was started anew since the topology was made; it is served when its users are made again"
            .to_owned(),
    ))
}

/// Asks whose node this is; marks one that came back empty. Returns the epoch of its mark, or a lower one that is as good.
async fn check_identity(order: &Order, talk: &mut Talk) -> Result<Epoch, ConnectError> {
    let metadata = order.topology.metadata_db();
    select(order, talk, metadata).await?;
    let expected = Mark::expected(&order.topology, order.node);
    let mut standing = expected.standing(read_mark(order, talk).await?.as_deref());
    if standing == Standing::Unmarked {
        if order.settings.on_empty == OnEmpty::Refuse {
            let line =
                "it carries no mark: it came back without its data, and [nodes] on_empty is \"refuse\"";
            return Err(ConnectError::Identity(line.to_owned()));
        }
        standing = until_prepared(order, talk, &expected).await?;
    }
    if let Standing::NewerEpoch(epoch) = standing {
        until_caught_up(order, epoch).await?;
        return Ok(epoch);
    }
    match standing {
        Standing::Ours | Standing::OlderEpoch(_) => Ok(order.topology.epoch),
        refused @ (Standing::Unmarked
        | Standing::NewerEpoch(_)
        | Standing::OtherCluster(_)
        | Standing::OtherNode(_)
        | Standing::Unreadable(_)) => Err(ConnectError::Identity(format!("{refused:?}"))),
    }
}

/// Has the control side prepare an empty node, and waits for its mark. How long is bounded by the whole of connecting.
async fn until_prepared(order: &Order, talk: &mut Talk, expected: &Mark) -> Result<Standing, ConnectError> {
    order.shared.node(order.node).empty.notify_one();
    loop {
        let standing = expected.standing(read_mark(order, talk).await?.as_deref());
        if standing != Standing::Unmarked {
            return Ok(standing);
        }
        sleep(PREPARED_PACE).await;
    }
}

/// The node has seen a later epoch than this link was ordered for: that is a topology which is on its way here. The control side
/// is told to fetch it, and the link waits. How long is bounded by the whole of connecting.
async fn until_caught_up(order: &Order, epoch: Epoch) -> Result<(), ConnectError> {
    // Shorter than the whole, so that it is this which is told.
    let longest = order.settings.limits.connect / 2;
    let start = Instant::now();
    loop {
        let now = order.shared.topology.load_full();
        if now.epoch >= epoch {
            let name = &order.topology.node(order.node).name;
            let is_same = |node: NodeIndex| now.node(node).address == order.topology.node(order.node).address;
            return match now.node_named(name) {
                Some(node) if is_same(node) => Ok(()),
                Some(_) | None => Err(ConnectError::Readdressed),
            };
        }
        if start.elapsed() >= longest {
            return Err(ConnectError::Identity(format!(
                "it has seen epoch {epoch}, and epoch {} is served: the topology store is old, or does not answer; if it is old, \
                 restore it with PRESHARD TOPOLOGY LOAD",
                now.epoch
            )));
        }
        order.shared.behind.notify_one();
        sleep(PREPARED_PACE).await;
    }
}

async fn read_mark(order: &Order, talk: &mut Talk) -> Result<Option<Vec<u8>>, ConnectError> {
    let mut frame = Vec::new();
    command(&mut frame, &["GET", MARK_KEY]);
    let reply = talk.ask(&frame).await?;
    if reply.first() == Some(&b'-') {
        return Err(order.refused("GET of its mark", &reply));
    }
    match resp::bulk(&reply) {
        Some(mark) => Ok(Some(mark.to_vec())),
        None if matches!(&*reply, b"$-1\r\n" | b"_\r\n") => Ok(None),
        // No mark is a reason to write one; what is no answer is not.
        None => Err(ConnectError::NotRedis),
    }
}

/// Selects every database once that this link may ever select. Returns the one that stays selected.
async fn select_all(order: &Order, talk: &mut Talk) -> Result<Option<DbIndex>, ConnectError> {
    let shards = order.topology.shards_on(order.node);
    let mut dbs: Vec<DbIndex> = shards.map(|shard| order.topology.placement(shard).db).collect();
    dbs.sort_unstable();
    let mut frames = Vec::new();
    dbs.iter().for_each(|&db| write_select(db, &mut frames));
    talk.stream_write(&frames).await?;
    for &db in &dbs {
        expect_selected(order, db, &talk.reply().await?)?;
    }
    Ok(dbs.last().copied())
}

async fn select(order: &Order, talk: &mut Talk, db: DbIndex) -> Result<(), ConnectError> {
    let mut frame = Vec::new();
    write_select(db, &mut frame);
    expect_selected(order, db, &talk.ask(&frame).await?)
}

fn expect_selected(order: &Order, db: DbIndex, reply: &[u8]) -> Result<(), ConnectError> {
    if reply == b"+OK\r\n" {
        return Ok(());
    }
    if reply.starts_with(b"-ERR SELECT is not allowed in cluster mode") {
        return Err(ConnectError::ClusterMode);
    }
    if reply.starts_with(b"-BUSY ") {
        return Err(ConnectError::Refused {
            command: "SELECT",
            reply: text(reply),
        });
    }
    Err(ConnectError::Database {
        db,
        needed: order.topology.databases_needed(),
        reply: text(reply),
    })
}

/// The link's connection while it is being checked: one reply at a time.
struct Talk {
    stream: Stream,
    read: Vec<u8>,
}

impl Talk {
    async fn ask(&mut self, frame: &[u8]) -> Result<Vec<u8>, ConnectError> {
        self.stream_write(frame).await?;
        self.reply().await
    }

    /// Sends what all that was asked before has been answered to.
    async fn stream_write(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        if !self.read.is_empty() {
            return Err(ConnectError::NotRedis);
        }
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next reply, raw. Pushes cannot come: nothing on a shared link subscribes.
    async fn reply(&mut self) -> Result<Vec<u8>, ConnectError> {
        let mut scanner = ReplyScanner::default();
        let mut fed = 0;
        loop {
            match scanner.feed(&self.read[fed..]) {
                Ok(Some(end)) => {
                    let rest = self.read.split_off(fed + end);
                    return Ok(std::mem::replace(&mut self.read, rest));
                }
                Ok(None) => fed = self.read.len(),
                Err(_) => return Err(ConnectError::NotRedis),
            }
            if self.read.len() > HANDSHAKE_BYTES_MAX {
                return Err(ConnectError::NotRedis);
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(ConnectError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

fn command(out: &mut Vec<u8>, words: &[&str]) {
    resp::write_array_header(out, words.len());
    words
        .iter()
        .for_each(|word| resp::write_bulk(out, word.as_bytes()));
}

fn text(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply)
        .trim_start_matches(['-', '+'])
        .trim_end()
        .to_owned()
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;

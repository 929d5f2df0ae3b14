//! Connections to nodes: byte streams for the control side, and lines of whole commands for proxies and copies.
//!
//! What was sent arrives, in its order, even if who has sent it is gone; a node that ends a connection loses what it has not run.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::faults::Kind;
use super::node::{Killed, Node, Words};
use super::world::{Peer, World, lock};
use crate::control::client::Socket;
use crate::control::fence::TERM_KEY;
use crate::resp::{Protocol, Value};
use crate::topology::Address;
use crate::topology::mark::MARK_KEY;

const BUFFER: usize = 1 << 20;

/// A connection of the control side.
pub(super) fn dial(address: &Address) -> io::Result<Box<dyn Socket>> {
    let world = World::current();
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let node = world.nodes.iter().find(|node| node.address == *address);
    let node = Arc::clone(node.ok_or_else(refused)?);
    let (conn, killed) = node.accept().ok_or_else(refused)?;
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let serving = serve(Arc::clone(&world), Arc::clone(&node), (conn, killed), theirs);
    world.spawn(async move {
        serving.await;
        node.hang_up(conn);
    });
    Ok(Box::new(ours))
}

async fn serve(
    world: Arc<World>,
    node: Arc<Node>,
    (conn, killed): (u64, Arc<Killed>),
    mut stream: DuplexStream,
) {
    let mut rng = world.rng("control", node.index);
    let (mut read, peer) = (Vec::new(), Peer::Node(node.index));
    loop {
        let ended = killed.rung.notified();
        tokio::select! {
            biased;
            taken = stream.read_buf(&mut read) => if !matches!(taken, Ok(1..)) { return },
            () = ended => return,
        }
        let (mut at, mut out, mut is_act) = (0, Vec::new(), false);
        world.cross(node.who(conn), peer, &mut rng).await;
        while let Some((words, end)) = request(&read[at..]) {
            at += end;
            if words[0] == b"MULTI" {
                is_act = request(&read[at..]).is_some_and(|(first, _)| is_of_term(&first));
            }
            if let Some(who) = node.who(conn) {
                if is_act && words[0] == b"MULTI" {
                    world.act(who, Kind::Act).await;
                }
                world.step(who).await;
                // What arrives late arrives all the same, and whoever has sent it may be gone.
                world.pass(Some(who), peer, Instant::now()).await;
            }
            node.until_awake().await;
            let Some(reply) = node.call(&world, conn, &words) else {
                return;
            };
            reply.encode(Protocol::Resp2, &mut out);
            if let (true, b"EXEC", Some(who)) = (is_act, &words[0][..], node.who(conn)) {
                world.act(who, Kind::Acted).await;
            }
        }
        read.drain(..at);
        if let Some(who) = node.who(conn) {
            world.step(who).await;
        }
        world.cross(node.who(conn), peer, &mut rng).await;
        if killed.is() || stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// Whether a transaction that begins so depends on its leader's term. What sets the term, or a mark, is watched over otherwise.
fn is_of_term(first: &Words) -> bool {
    let sets = |key: &str| first[0] == b"SET" && first.get(1).is_some_and(|set| set == key.as_bytes());
    !sets(TERM_KEY) && !sets(MARK_KEY)
}

/// Whole requests.
pub(super) fn requests(bytes: &[u8]) -> Vec<Words> {
    let (mut at, mut all) = (0, Vec::new());
    while let Some((words, end)) = request(&bytes[at..]) {
        at += end;
        all.push(words);
    }
    all
}

/// One request, and where it ends.
fn request(bytes: &[u8]) -> Option<(Words, usize)> {
    let line = |from: usize| -> Option<(usize, usize)> {
        let length = bytes[from..].iter().position(|byte| *byte == b'\n')?;
        let number = std::str::from_utf8(&bytes[from + 1..from + length - 1]).ok()?;
        Some((number.parse().ok()?, from + length + 1))
    };
    if bytes.is_empty() {
        return None;
    }
    let (count, mut at) = line(0)?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        if at >= bytes.len() {
            return None;
        }
        let (length, start) = line(at)?;
        words.push(bytes.get(start..start + length)?.to_vec());
        at = start + length + 2;
        if at > bytes.len() {
            return None;
        }
    }
    Some((words, at))
}

// === lines ===

struct Flow {
    requests: VecDeque<(Instant, Words)>,
    replies: VecDeque<(Instant, Value)>,
    last_request: Instant,
    last_reply: Instant,
    hung_up: bool,
    closed: bool,
    rng: Rng,
}

/// A line to a node.
pub(super) struct Line {
    world: Arc<World>,
    pub(super) node: Arc<Node>,
    pub(super) conn: u64,
    killed: Arc<Killed>,
    who: usize,
    flow: Mutex<Flow>,
    asked: Notify,
    answered: Notify,
}

impl Line {
    /// None: nobody listens.
    pub(super) fn open(world: &Arc<World>, who: usize, node: usize) -> Option<Arc<Self>> {
        let node = Arc::clone(&world.nodes[node]);
        let (conn, killed) = node.accept()?;
        node.set_who(conn, who);
        let now = Instant::now();
        let line = Arc::new(Self {
            world: Arc::clone(world),
            conn,
            killed,
            who,
            flow: Mutex::new(Flow {
                requests: VecDeque::new(),
                replies: VecDeque::new(),
                last_request: now,
                last_reply: now,
                hung_up: false,
                closed: false,
                rng: world.rng("line", who * 100 + node.index),
            }),
            asked: Notify::new(),
            answered: Notify::new(),
            node,
        });
        world.spawn(Arc::clone(&line).serve());
        Some(line)
    }

    pub(super) fn send(&self, words: Words) {
        let mut flow = lock(&self.flow);
        let due = Instant::now() + self.world.latency(&mut flow.rng);
        let due = due.max(flow.last_request);
        flow.last_request = due;
        flow.requests.push_back((due, words));
        self.asked.notify_one();
    }

    /// Nothing more will be sent.
    pub(super) fn hang_up(&self) {
        lock(&self.flow).hung_up = true;
        self.asked.notify_one();
    }

    /// The next reply; none: the connection has ended.
    pub(super) async fn recv(&self) -> Option<Value> {
        loop {
            let due = {
                let flow = lock(&self.flow);
                match flow.replies.front() {
                    Some((due, _)) => Some(*due),
                    None if flow.closed => return None,
                    None => None,
                }
            };
            match due {
                Some(due) => {
                    self.world
                        .pass(Some(self.who), Peer::Node(self.node.index), due)
                        .await;
                    return lock(&self.flow).replies.pop_front().map(|(_, reply)| reply);
                }
                None => self.answered.notified().await,
            }
        }
    }

    async fn serve(self: Arc<Self>) {
        loop {
            let next = {
                let flow = lock(&self.flow);
                match flow.requests.front() {
                    Some((due, _)) => Some(*due),
                    None if flow.hung_up => break,
                    None => None,
                }
            };
            let Some(due) = next else {
                if self.killed.is() {
                    break;
                }
                tokio::select! {
                    biased;
                    () = self.asked.notified() => {}
                    () = self.killed.rung.notified() => {}
                }
                continue;
            };
            self.world
                .pass(Some(self.who), Peer::Node(self.node.index), due)
                .await;
            self.node.until_awake().await;
            if self.killed.is() || !self.run_due() {
                break;
            }
        }
        self.node.hang_up(self.conn);
        let mut flow = lock(&self.flow);
        flow.closed = true;
        if self.killed.is() && flow.rng.bool() {
            // A reset overtakes what was on its way.
            flow.replies.clear();
        }
        self.answered.notify_one();
    }

    /// Runs all that has arrived; `false` if the connection has ended.
    fn run_due(&self) -> bool {
        let mut flow = lock(&self.flow);
        let now = Instant::now();
        let due = now + self.world.latency(&mut flow.rng);
        let due = due.max(flow.last_reply);
        flow.last_reply = due;
        while let Some((_, words)) = flow.requests.pop_front_if(|(at, _)| *at <= now) {
            let Some(reply) = self.node.call(&self.world, self.conn, &words) else {
                return false;
            };
            flow.replies.push_back((due, reply));
        }
        self.answered.notify_one();
        true
    }
}

/// Waits as long as a message takes both ways.
pub(super) async fn round_trip(world: &World, who: usize, node: usize, rng: &mut Rng) {
    world.cross(Some(who), Peer::Node(node), rng).await;
    world.cross(Some(who), Peer::Node(node), rng).await;
}

/// A pause by chance, of at most so many milliseconds.
pub(super) fn some(rng: &mut Rng, most_ms: u64) -> Duration {
    Duration::from_millis(rng.u64(0..=most_ms))
}

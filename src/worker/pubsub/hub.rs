//! Who listens to what, and what the nodes must be asked for: decisions only, no sockets.
//!
//! ```text
//!  client ──subscribe──▶ Sub (a name, its clients) ──▶ Ask (the same on every node) ──▶ Line (one for each node)
//!     ▲                                                                                     │
//!     │ answered when every node that can be reached has confirmed: what is published then is heard
//!     └──────────── poll_answer ◀──────────── rounds ◀─────────────────── confirmations ◀───┘
//!  message of a node ──hear──▶ Ask ──▶ its Subs, under the clients' database numbers
//! ```
//!
//! Each change of what is asked begins a round. A line has confirmed a round when nothing older is due on it, so who
//! waits needs one number, whatever he subscribed to and however many nodes there are.

mod nodes;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::directory::{Directory, Name};
use super::line::Line;
use super::names::{Databases, Kind, Passes, asked};
use crate::resp::{self, Protocol};
use crate::topology::Topology;

/// What one subscription of one client costs beside its name, about.
const SUBSCRIPTION_BYTES: usize = 256;
/// The subscription is confirmed: messages go to the client.
const CONFIRMED: u64 = 0;

/// What clients of this worker have subscribed to, by name.
#[derive(Debug)]
struct Sub {
    kind: Kind,
    name: Name,
    /// Its clients, each with the number of the request that waits for it, or [`CONFIRMED`].
    clients: BTreeMap<usize, u64>,
    asks: Vec<usize>,
}

/// What every node is asked for.
#[derive(Debug)]
struct Ask {
    kind: Kind,
    name: Name,
    /// When it was first asked.
    round: u64,
    subs: BTreeMap<usize, Passes>,
    /// A node's refusal.
    refused: Option<Vec<u8>>,
}

/// What one client has subscribed to.
#[derive(Debug, Default)]
struct Listener {
    generation: u32,
    subs: [BTreeSet<usize>; 3],
    bytes: usize,
    /// Its requests that wait for nodes.
    waiting: usize,
}

/// A request about subscriptions, understood and not answered.
#[derive(Debug)]
pub(in crate::worker) struct Request {
    client: usize,
    generation: u32,
    number: u64,
    round: u64,
    joins: Vec<usize>,
    /// It needs every node to tell of changes.
    tracks: bool,
    pub(in crate::worker) reply: Vec<u8>,
    /// Whether it must wait for nodes: [`Hub::wait`].
    pub(in crate::worker) waits: bool,
}

/// A reply that has become due.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::worker) struct Answer {
    pub(in crate::worker) client: usize,
    pub(in crate::worker) generation: u32,
    pub(in crate::worker) seq: u32,
    pub(in crate::worker) reply: Vec<u8>,
    /// A node has refused it.
    pub(in crate::worker) refused: bool,
}

/// A message for clients.
#[derive(Debug)]
pub(in crate::worker) struct Delivery<'a> {
    channel: Cow<'a, [u8]>,
    payload: &'a [u8],
}

/// The subscriptions of one worker.
#[derive(Debug)]
pub(in crate::worker) struct Hub {
    worker: usize,
    topology: Arc<Topology>,
    databases: Databases,
    directory: Arc<Directory>,
    subs: Slab<Sub>,
    subs_by_name: [HashMap<Name, usize>; 3],
    asks: Slab<Ask>,
    asks_by_name: [HashMap<Name, usize>; 3],
    listeners: HashMap<usize, Listener>,
    lines: Vec<Line>,
    /// Requests that wait for nodes, oldest first.
    waiting: VecDeque<(Request, u32)>,
    round: u64,
    numbers: u64,
    bytes: usize,
    /// Clients that need the nodes to tell of every change of a key.
    trackers: BTreeSet<usize>,
    /// When the nodes were asked to.
    tracking_round: u64,
}

impl Hub {
    pub(in crate::worker) fn new(worker: usize, topology: Arc<Topology>, directory: Arc<Directory>) -> Self {
        Self {
            worker,
            databases: Databases::new(&topology),
            directory,
            subs: Slab::new(),
            subs_by_name: Default::default(),
            asks: Slab::new(),
            asks_by_name: Default::default(),
            listeners: HashMap::new(),
            lines: topology.nodes.iter().map(|_| Line::new()).collect(),
            waiting: VecDeque::new(),
            round: 1,
            numbers: CONFIRMED,
            bytes: 0,
            trackers: BTreeSet::new(),
            tracking_round: 0,
            topology,
        }
    }

    /// Names that a client has subscribed to: channels, patterns, shard channels.
    pub(in crate::worker) fn count(&self, client: usize) -> [usize; 3] {
        self.listeners
            .get(&client)
            .map_or([0; 3], |listener| [0, 1, 2].map(|kind| listener.subs[kind].len()))
    }

    /// Requests of a client that wait for nodes.
    pub(in crate::worker) fn waiting(&self, client: usize) -> usize {
        self.listeners.get(&client).map_or(0, |listener| listener.waiting)
    }

    /// Memory of all subscriptions, about.
    pub(in crate::worker) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory that these subscriptions would take.
    pub(in crate::worker) fn cost<'a>(names: impl Iterator<Item = &'a [u8]>) -> usize {
        names.map(|name| SUBSCRIPTION_BYTES + name.len()).sum()
    }

    /// Clients, channels, patterns and shard channels of this worker.
    pub(in crate::worker) fn sizes(&self) -> [usize; 4] {
        let [channels, patterns, shards] = [0, 1, 2].map(|kind| self.subs_by_name[kind].len());
        [self.listeners.len(), channels, patterns, shards]
    }

    /// A client subscribes.
    pub(in crate::worker) fn subscribe<'a>(
        &mut self,
        (client, generation): (usize, u32),
        kind: Kind,
        names: impl Iterator<Item = &'a [u8]>,
        protocol: Protocol,
    ) -> Request {
        let mut request = self.request(client, generation);
        for name in names {
            let sub = self.sub(kind, name);
            let mut round = 0;
            for &ask in &self.subs[sub].asks {
                round = self.asks[ask].round.max(round);
            }
            request.round = request.round.max(round);
            let listener = self.listeners.entry(client).or_default();
            listener.generation = generation;
            if listener.subs[kind as usize].insert(sub) {
                let bytes = SUBSCRIPTION_BYTES + name.len();
                listener.bytes += bytes;
                self.bytes += bytes;
                self.subs[sub].clients.insert(client, request.number);
                request.joins.push(sub);
            }
            let count = listener.count(kind);
            write_confirmation(protocol, kind.subscribe(), Some(name), count, &mut request.reply);
        }
        self.begin(request)
    }

    /// A client unsubscribes, from everything of this kind if it names nothing.
    pub(in crate::worker) fn unsubscribe<'a>(
        &mut self,
        (client, generation): (usize, u32),
        kind: Kind,
        names: impl Iterator<Item = &'a [u8]>,
        protocol: Protocol,
    ) -> Request {
        let before = self.round;
        let mut request = self.request(client, generation);
        let mut said = false;
        let mut named = false;
        for name in names {
            named = true;
            if let Some(&sub) = self.subs_by_name[kind as usize].get(name) {
                self.part(client, kind, sub);
            }
            let count = self
                .listeners
                .get(&client)
                .map_or(0, |listener| listener.count(kind));
            write_confirmation(
                protocol,
                kind.unsubscribe(),
                Some(name),
                count,
                &mut request.reply,
            );
        }
        while !named && let Some((sub, name)) = self.first_of(client, kind) {
            said = true;
            self.part(client, kind, sub);
            let count = self
                .listeners
                .get(&client)
                .map_or(0, |listener| listener.count(kind));
            write_confirmation(
                protocol,
                kind.unsubscribe(),
                Some(&name),
                count,
                &mut request.reply,
            );
        }
        if !named && !said {
            let count = self
                .listeners
                .get(&client)
                .map_or(0, |listener| listener.count(kind));
            write_confirmation(protocol, kind.unsubscribe(), None, count, &mut request.reply);
        }
        // Who publishes after the answer reaches nobody here any more, and the node must know that too.
        if self.round > before {
            request.round = self.round;
        }
        let request = self.begin(request);
        self.forget_if_idle(client);
        request
    }

    /// Keeps a request until the nodes have confirmed it; `seq` is its place among its client's.
    pub(in crate::worker) fn wait(&mut self, request: Request, seq: u32) {
        self.listeners.entry(request.client).or_default().waiting += 1;
        self.listeners.entry(request.client).or_default().generation = request.generation;
        self.waiting.push_back((request, seq));
    }

    /// A client has left, or is reset.
    pub(in crate::worker) fn leave(&mut self, client: usize) {
        for kind in Kind::ALL {
            while let Some((sub, _)) = self.first_of(client, kind) {
                self.part(client, kind, sub);
            }
        }
        self.listeners.remove(&client);
    }

    /// The next request whose nodes have confirmed it.
    pub(in crate::worker) fn poll_answer(&mut self) -> Option<Answer> {
        let (request, _) = self.waiting.front()?;
        if request.round > self.confirmed() {
            return None;
        }
        let (mut request, seq) = self.waiting.pop_front()?;
        let (client, generation) = (request.client, request.generation);
        if let Some(listener) = self.listeners.get_mut(&client)
            && listener.generation == generation
        {
            listener.waiting -= 1;
        }
        let refusal = self.refusal(&request);
        if let Some(line) = &refusal {
            for sub in std::mem::take(&mut request.joins) {
                if let Some(kind) = self.still_waits(sub, client, request.number) {
                    self.part(client, kind, sub);
                }
            }
            request.reply.clone_from(line);
        } else {
            self.join(&request);
        }
        self.forget_if_idle(client);
        Some(Answer {
            client,
            generation,
            seq,
            reply: request.reply,
            refused: refusal.is_some(),
        })
    }

    pub(super) fn request(&mut self, client: usize, generation: u32) -> Request {
        self.numbers += 1;
        Request {
            client,
            generation,
            number: self.numbers,
            round: 0,
            joins: Vec::new(),
            tracks: false,
            reply: Vec::new(),
            waits: false,
        }
    }

    /// Decides whether a request is answered at once.
    fn begin(&mut self, mut request: Request) -> Request {
        request.waits = self.waiting(request.client) > 0 || request.round > self.confirmed();
        if !request.waits {
            self.join(&request);
        }
        request
    }

    /// From here on the client gets the messages of what it has subscribed to with this request.
    fn join(&mut self, request: &Request) {
        for &sub in &request.joins {
            let Some(sub) = self.subs.get_mut(sub) else {
                continue;
            };
            if let Some(standing) = sub.clients.get_mut(&request.client)
                && *standing == request.number
            {
                *standing = CONFIRMED;
                self.directory
                    .write(self.worker, |view| view.client_joined(sub.kind, &sub.name));
            }
        }
    }

    fn still_waits(&self, sub: usize, client: usize, number: u64) -> Option<Kind> {
        let sub = self.subs.get(sub)?;
        (sub.clients.get(&client) == Some(&number)).then_some(sub.kind)
    }

    /// What a node says against something that this request asks for.
    fn refusal(&self, request: &Request) -> Option<Vec<u8>> {
        if request.tracks {
            return self.lines.iter().find_map(|line| line.tracking_refused.clone());
        }
        request.joins.iter().find_map(|&sub| {
            self.still_waits(sub, request.client, request.number)?;
            let asks = &self.subs[sub].asks;
            asks.iter().find_map(|&ask| self.asks[ask].refused.clone())
        })
    }

    fn first_of(&self, client: usize, kind: Kind) -> Option<(usize, Name)> {
        let &sub = self.listeners.get(&client)?.subs[kind as usize].first()?;
        Some((sub, Name::clone(&self.subs[sub].name)))
    }

    fn forget_if_idle(&mut self, client: usize) {
        if self
            .listeners
            .get(&client)
            .is_some_and(|listener| listener.waiting == 0 && listener.subs.iter().all(BTreeSet::is_empty))
        {
            self.listeners.remove(&client);
        }
    }

    /// The subscription of this name, made if it is the first.
    fn sub(&mut self, kind: Kind, name: &[u8]) -> usize {
        if let Some(&sub) = self.subs_by_name[kind as usize].get(name) {
            return sub;
        }
        let number = self.subs.vacant_key();
        let topology = Arc::clone(&self.topology);
        let asks = asked(kind, name, &topology)
            .into_iter()
            .map(|asked| self.ask(asked.kind, &asked.name, number, asked.passes))
            .collect();
        let name: Name = name.into();
        self.subs_by_name[kind as usize].insert(Name::clone(&name), number);
        self.subs.insert(Sub {
            kind,
            name,
            clients: BTreeMap::new(),
            asks,
        })
    }

    /// A client no longer listens to something.
    fn part(&mut self, client: usize, kind: Kind, number: usize) {
        let Some(listener) = self.listeners.get_mut(&client) else {
            return;
        };
        if !listener.subs[kind as usize].remove(&number) {
            return;
        }
        let sub = &mut self.subs[number];
        let bytes = SUBSCRIPTION_BYTES + sub.name.len();
        listener.bytes -= bytes;
        self.bytes -= bytes;
        if sub.clients.remove(&client) == Some(CONFIRMED) {
            self.directory
                .write(self.worker, |view| view.client_left(kind, &sub.name));
        }
        if sub.clients.is_empty() {
            let sub = self.subs.remove(number);
            self.subs_by_name[kind as usize].remove(&sub.name);
            for ask in sub.asks {
                self.unask(ask, number);
            }
        }
    }
}

impl Listener {
    /// What Redis counts together: channels and patterns, and apart from them shard channels.
    fn count(&self, kind: Kind) -> usize {
        let [channels, patterns, shards] = [0, 1, 2].map(|kind: usize| self.subs[kind].len());
        match kind {
            Kind::Channel | Kind::Pattern => channels + patterns,
            Kind::Shard => shards,
        }
    }
}

fn write_confirmation(protocol: Protocol, word: &str, name: Option<&[u8]>, count: usize, out: &mut Vec<u8>) {
    resp::write_push_header(out, protocol, 3);
    resp::write_bulk(out, word.as_bytes());
    match name {
        Some(name) => resp::write_bulk(out, name),
        None => resp::write_null(out, protocol),
    }
    resp::write_int(out, i64::try_from(count).unwrap_or(i64::MAX));
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;

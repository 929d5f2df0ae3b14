//! The hub against a model: nodes that behave as Redis does, clients that remember what they asked.

#[path = "hub_tests_server.rs"]
mod server;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::command::glob_matches;
use crate::ids::NodeIndex;
use crate::resp::{ArgRange, Args, RequestLimits, RequestScanner, Scan, write_push_header};
use crate::topology::Node;
use crate::worker::pubsub::line::State;
use server::{Server, push};

const NODES: usize = 2;
const CLIENTS: usize = 4;

fn topology() -> Arc<Topology> {
    let node = |number: u16| Node {
        name: format!("node-{number}"),
        address: format!("127.0.0.1:{number}").parse().unwrap(),
    };
    Arc::new(Topology::seed("test".to_owned(), 8, 2, vec![node(1), node(2)]).unwrap())
}

#[derive(Clone, Debug)]
enum Act {
    Subscribe(usize, Kind, Vec<u8>),
    Unsubscribe(usize, Kind, Option<u8>),
    Leave(usize),
    Connect(usize),
    Fail(usize),
    Lose(usize),
    Serve(usize),
    /// The worker reads so many frames of a node.
    Hear(usize, usize),
    Publish(usize, Kind, u8),
    Ping(usize),
    Track(usize),
    Untrack(usize),
}

const CHANNELS: [&str; 6] = [
    "a",
    "ab",
    "b",
    "__keyspace@0__:k",
    "__keyevent@1__:set",
    "__keyevent@0__:set",
];
const PATTERNS: [&str; 6] = [
    "*",
    "a*",
    "__key*__:*",
    "__keyevent@*__:set",
    "_*",
    "__keyspace@1__:*",
];

fn name(kind: Kind, number: u8) -> &'static [u8] {
    let names = if kind == Kind::Pattern { PATTERNS } else { CHANNELS };
    names[usize::from(number) % names.len()].as_bytes()
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![3 => Just(Kind::Channel), 2 => Just(Kind::Pattern), 1 => Just(Kind::Shard)]
}

fn act() -> impl Strategy<Value = Act> {
    let client = 0..CLIENTS;
    let node = 0..NODES;
    prop_oneof![
        6 => (client.clone(), kind(), prop::collection::vec(0_u8..6, 1..4))
            .prop_map(|(client, kind, names)| Act::Subscribe(client, kind, names)),
        3 => (client.clone(), kind(), prop::option::of(0_u8..6))
            .prop_map(|(client, kind, name)| Act::Unsubscribe(client, kind, name)),
        1 => client.clone().prop_map(Act::Leave),
        2 => client.clone().prop_map(Act::Track),
        1 => client.prop_map(Act::Untrack),
        2 => node.clone().prop_map(Act::Connect),
        1 => node.clone().prop_map(Act::Fail),
        1 => node.clone().prop_map(Act::Lose),
        6 => node.clone().prop_map(Act::Serve),
        6 => (node.clone(), 1_usize..5).prop_map(|(node, frames)| Act::Hear(node, frames)),
        6 => (node.clone(), kind(), 0_u8..11).prop_map(|(node, kind, channel)| Act::Publish(node, kind, channel)),
        1 => node.prop_map(Act::Ping),
    ]
}

type Joins = (Kind, Vec<u8>, u32);

/// A client as it sees itself.
#[derive(Default)]
struct Peer {
    generation: u32,
    /// Requests that are not answered.
    asked: VecDeque<u32>,
    seq: u32,
    /// What it has subscribed to, and of that what was confirmed to it.
    names: [BTreeSet<Vec<u8>>; 3],
    confirmed: [BTreeSet<Vec<u8>>; 3],
    /// Names that each unanswered request has brought.
    joins: VecDeque<Vec<Joins>>,
    /// The request that has brought a name last: it may have been given up and asked for again.
    claimed: BTreeMap<(Kind, Vec<u8>), u32>,
    claims: u32,
    heard: Vec<Vec<u8>>,
    /// It needs the nodes to tell of changes; its request for that, until it is answered.
    tracks: bool,
    tracking_asked: Option<u32>,
}

struct World {
    hub: Hub,
    directory: Arc<Directory>,
    servers: [Server; NODES],
    peers: [Peer; CLIENTS],
    payloads: u32,
}

impl World {
    fn new() -> Self {
        let directory = Arc::new(Directory::new(1));
        Self {
            hub: Hub::new(0, topology(), Arc::clone(&directory)),
            directory,
            servers: Default::default(),
            peers: Default::default(),
            payloads: 0,
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Subscribe(client, kind, numbers) => {
                let names: Vec<&[u8]> = numbers.iter().map(|&number| name(*kind, number)).collect();
                let peer = &mut self.peers[*client];
                let who = (*client, peer.generation);
                let request = self
                    .hub
                    .subscribe(who, *kind, names.iter().copied(), Protocol::Resp3);
                let mut new = Vec::new();
                for name in names {
                    if peer.names[*kind as usize].insert(name.to_vec()) {
                        peer.claims += 1;
                        peer.claimed.insert((*kind, name.to_vec()), peer.claims);
                        new.push((*kind, name.to_vec(), peer.claims));
                    }
                }
                self.settle(*client, request, new);
            }
            Act::Unsubscribe(client, kind, number) => self.unsubscribe(*client, *kind, *number),
            Act::Leave(client) => {
                self.hub.untrack(*client);
                self.hub.leave(*client);
                let generation = self.peers[*client].generation + 1;
                self.peers[*client] = Peer {
                    generation,
                    ..Peer::default()
                };
            }
            Act::Connect(node) if self.hub.is_wanted() && !self.servers[*node].up => {
                self.servers[*node] = Server {
                    up: true,
                    ..Server::default()
                };
                self.hub.handle_up(index(*node));
            }
            Act::Fail(node) if !self.servers[*node].up => self.hub.handle_end(index(*node), State::Down),
            Act::Lose(node) if self.servers[*node].up => {
                self.servers[*node].up = false;
                self.hub.handle_end(index(*node), State::Connecting);
            }
            Act::Serve(node) => self.serve(*node),
            Act::Hear(node, frames) => {
                for _ in 0..*frames {
                    self.hear(*node);
                }
            }
            Act::Publish(node, kind, number) => self.publish_one(*node, *kind, usize::from(*number)),
            Act::Ping(node) if self.servers[*node].up => self.hub.ping(index(*node)),
            Act::Track(client) => self.track(*client, true),
            Act::Untrack(client) => self.track(*client, false),
            Act::Connect(_) | Act::Fail(_) | Act::Lose(_) | Act::Ping(_) => {}
        }
        self.poll();
        self.check_counts();
    }

    /// A session asks for it with nothing else under way.
    fn track(&mut self, client: usize, tracks: bool) {
        let peer = &mut self.peers[client];
        if !peer.asked.is_empty() {
            return;
        }
        peer.tracks = tracks;
        if !tracks {
            self.hub.untrack(client);
            return;
        }
        peer.tracking_asked = Some(peer.seq + 1);
        let request = self.hub.track((client, peer.generation));
        self.settle(client, request, Vec::new());
    }

    fn publish_one(&mut self, node: usize, kind: Kind, number: usize) {
        let channels = ["a", "ab", "b", "c", "__keyspace@4__:k"];
        // The last ones are databases of one node or the other, or of none.
        let channel = channels.get(number).map_or_else(
            || format!("__keyevent@{number}__:set"),
            |channel| (*channel).to_owned(),
        );
        let kind = if kind == Kind::Pattern {
            Kind::Channel
        } else {
            kind
        };
        self.publish(node, kind, channel.as_bytes());
    }

    fn unsubscribe(&mut self, client: usize, kind: Kind, number: Option<u8>) {
        let named = number.map(|number| name(kind, number));
        let peer = &mut self.peers[client];
        let who = (client, peer.generation);
        let request = self
            .hub
            .unsubscribe(who, kind, named.into_iter(), Protocol::Resp3);
        for names in [&mut peer.names, &mut peer.confirmed] {
            match named {
                Some(name) => drop(names[kind as usize].remove(name)),
                None => names[kind as usize].clear(),
            }
        }
        self.settle(client, request, Vec::new());
    }

    fn settle(&mut self, client: usize, request: Request, new: Vec<Joins>) {
        let peer = &mut self.peers[client];
        if request.waits {
            peer.seq += 1;
            peer.asked.push_back(peer.seq);
            peer.joins.push_back(new);
            self.hub.wait(request, peer.seq);
        } else {
            assert!(peer.asked.is_empty(), "answered before what was asked before");
            confirm(peer, new);
        }
    }

    fn poll(&mut self) {
        while let Some(answer) = self.hub.poll_answer() {
            let peer = &mut self.peers[answer.client];
            if answer.generation != peer.generation {
                continue;
            }
            assert!(!answer.refused);
            assert_eq!(
                peer.asked.pop_front(),
                Some(answer.seq),
                "answered in the order asked"
            );
            let new = peer.joins.pop_front().unwrap();
            confirm(peer, new);
            if peer.tracking_asked == Some(answer.seq) {
                peer.tracking_asked = None;
                let told = |node: usize| !self.servers[node].up || self.hub.tracks(index(node));
                assert!((0..NODES).all(told), "answered before all nodes tell of changes");
            }
        }
    }

    fn serve(&mut self, node: usize) {
        let output = std::mem::take(self.hub.output(index(node)));
        if self.servers[node].up {
            self.servers[node].unread.extend(output);
            self.servers[node].serve();
        }
    }

    fn hear(&mut self, node: usize) {
        if !self.servers[node].up {
            return;
        }
        let Some(frame) = self.servers[node].unheard.pop_front() else {
            return;
        };
        let mut subs = Vec::new();
        let Some(delivery) = self.hub.handle_frame(index(node), &frame, &mut subs).unwrap() else {
            return;
        };
        for sub in subs {
            let mut message = Vec::new();
            self.hub.encode(sub, &delivery, Protocol::Resp3, &mut message);
            for client in self.hub.clients(sub) {
                self.peers[client].heard.push(message.clone());
            }
        }
    }

    /// Publishes, and says what every client must hear of it if nothing changes meanwhile: what has been confirmed.
    fn publish(&mut self, node: usize, kind: Kind, channel: &[u8]) -> Vec<Vec<Vec<u8>>> {
        self.payloads += 1;
        let payload = self.payloads.to_string().into_bytes();
        if self.servers[node].up {
            self.servers[node].publish(kind, channel, &payload);
        }
        let databases = Databases::new(&topology());
        let shown = if kind == Kind::Shard {
            Some(channel.to_vec())
        } else {
            databases
                .shown(index(node), channel)
                .map(|(shown, _)| shown.into_owned())
        };
        let Some(shown) = shown else {
            return vec![Vec::new(); CLIENTS];
        };
        let due = |peer: &Peer| {
            let mut due = Vec::new();
            if peer.confirmed[kind as usize].contains(&shown) {
                due.push(push(&[kind.message().as_bytes(), &shown, &payload], None));
            }
            if kind == Kind::Channel {
                for pattern in &peer.confirmed[Kind::Pattern as usize] {
                    if glob_matches(pattern, &shown, false) {
                        due.push(push(&[b"pmessage", pattern, &shown, &payload], None));
                    }
                }
            }
            due
        };
        self.peers.iter().map(due).collect()
    }

    fn check_counts(&self) {
        for (node, server) in self.servers.iter().enumerate() {
            let tells = server.up && server.tracks;
            assert!(tells || !self.hub.tracks(index(node)), "it tells of nothing");
        }
        for (client, peer) in self.peers.iter().enumerate() {
            let names: Vec<usize> = peer.names.iter().map(BTreeSet::len).collect();
            assert_eq!(self.hub.count(client).to_vec(), names);
        }
        for kind in Kind::ALL {
            for number in 0..6 {
                let name = name(kind, number);
                let confirmed = self
                    .peers
                    .iter()
                    .filter(|peer| peer.confirmed[kind as usize].contains(name));
                assert_eq!(self.directory.clients(kind, name), confirmed.count() as u64);
            }
        }
    }

    /// Everything that is under way arrives.
    fn calm(&mut self) {
        for node in 0..NODES {
            if self.hub.is_wanted() && !self.servers[node].up {
                self.act(&Act::Connect(node));
            }
        }
        for _ in 0..2 {
            for node in 0..NODES {
                self.serve(node);
                while self.servers[node].up && !self.servers[node].unheard.is_empty() {
                    self.hear(node);
                }
            }
            self.poll();
        }
        let tracks = self.peers.iter().any(|peer| peer.tracks);
        for node in (0..NODES).filter(|&node| self.servers[node].up) {
            assert_eq!(
                (self.hub.tracks(index(node)), self.servers[node].tracks),
                (tracks, tracks)
            );
        }
    }
}

fn index(node: usize) -> NodeIndex {
    NodeIndex(u16::try_from(node).unwrap())
}

fn confirm(peer: &mut Peer, new: Vec<Joins>) {
    for (kind, name, claim) in new {
        // It may have unsubscribed since.
        if peer.names[kind as usize].contains(&name) && peer.claimed[&(kind, name.clone())] == claim {
            peer.confirmed[kind as usize].insert(name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_confirmed_is_heard_once_and_nothing_is_left_behind(acts in prop::collection::vec(act(), 1..80)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        // All are answered, the nodes know what is wanted and nothing else.
        world.calm();
        for peer in &world.peers {
            prop_assert!(peer.asked.is_empty(), "somebody waits for ever");
            prop_assert_eq!(&peer.names, &peer.confirmed);
        }
        for (node, server) in world.servers.iter().enumerate() {
            prop_assert!(!world.hub.awaits(index(node)) || !server.up);
            for kind in Kind::ALL {
                let asked: BTreeSet<Vec<u8>> =
                    world.hub.asks_by_name[kind as usize].keys().map(|name| name.to_vec()).collect();
                prop_assert!(!server.up || server.subscribed[kind as usize] == asked);
            }
        }
        // Each message comes once to each that listens, whatever node it came by.
        for node in 0..NODES {
            for (kind, channel) in [
                (Kind::Channel, "a"),
                (Kind::Channel, "ab"),
                (Kind::Shard, "b"),
                (Kind::Channel, "__keyspace@4__:k"),
                (Kind::Channel, "__keyspace@8__:k"),
                (Kind::Channel, "__keyevent@8__:set"),
                (Kind::Channel, "__keyevent@3__:set"),
                (Kind::Channel, "__keyevent@10__:set"),
            ] {
                world.peers.iter_mut().for_each(|peer| peer.heard.clear());
                // What a node would not say of a key that it does not have is left out.
                if channel == "__keyspace@4__:k" && topology().shard_of_key(b"k").0 != 4 {
                    continue;
                }
                let mut due = world.publish(node, kind, channel.as_bytes());
                world.calm();
                for (peer, due) in world.peers.iter_mut().zip(&mut due) {
                    peer.heard.sort();
                    due.sort();
                    prop_assert_eq!(&peer.heard, due, "{:?} {} on {}", kind, channel, node);
                }
            }
        }
        // All leave: nothing is left, here or there.
        (0..CLIENTS).for_each(|client| world.act(&Act::Leave(client)));
        world.calm();
        prop_assert_eq!(world.hub.sizes(), [0; 4]);
        prop_assert!(!world.hub.is_wanted() && world.hub.bytes() == 0 && world.directory.is_empty());
        prop_assert!(world.hub.subs.is_empty() && world.hub.asks.is_empty() && world.hub.waiting.is_empty());
        for server in &world.servers {
            prop_assert!(server.subscribed.iter().all(BTreeSet::is_empty) || !server.up);
        }
    }
}

fn up() -> World {
    let mut world = World::new();
    world.act(&Act::Subscribe(0, Kind::Channel, vec![0]));
    world.calm();
    world
}

#[test]
fn who_subscribes_waits_for_every_node_that_can_be_reached() {
    let mut world = up();
    world.act(&Act::Subscribe(1, Kind::Channel, vec![2]));
    assert_eq!(world.peers[1].asked.len(), 1);
    world.act(&Act::Serve(0));
    world.act(&Act::Hear(0, 1));
    assert_eq!(
        world.peers[1].asked.len(),
        1,
        "the other node has not said a word"
    );
    world.act(&Act::Lose(1));
    assert_eq!(world.peers[1].asked.len(), 1, "it may come back at once");
    world.act(&Act::Fail(1));
    assert_eq!(world.peers[1].asked.len(), 0, "it is down");
    world.act(&Act::Subscribe(2, Kind::Channel, vec![2]));
    assert_eq!(world.peers[2].asked.len(), 0, "nothing to wait for");
}

#[test]
fn a_refusal_is_the_answer_and_leaves_nothing() {
    let mut world = up();
    let who = (1, 0);
    let names: [&[u8]; 2] = [b"a", b"secret"];
    let request = world
        .hub
        .subscribe(who, Kind::Channel, names.into_iter(), Protocol::Resp2);
    assert!(request.waits);
    world.hub.wait(request, 5);
    for node in 0..NODES {
        world.hub.output(index(node)).clear();
        let mut subs = Vec::new();
        let frame = b"-NOPERM this user has no permissions to access one of the channels\r\n";
        assert!(
            world
                .hub
                .handle_frame(index(node), frame, &mut subs)
                .unwrap()
                .is_none()
        );
    }
    let answer = world.hub.poll_answer().unwrap();
    assert!(answer.refused && answer.reply.starts_with(b"-NOPERM"));
    assert_eq!((answer.client, answer.seq), (1, 5));
    assert_eq!(world.hub.count(1), [0; 3]);
    assert_eq!(
        world.hub.sizes(),
        [1, 1, 0, 0],
        "the other client's subscription stays"
    );
}

#[test]
fn frames_that_cannot_be_put_the_connection_in_doubt() {
    for frame in [
        &b"+OK\r\n"[..],
        b":1\r\n",
        b"-ERR what\r\n",
        b">3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:1\r\n",
        b">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n",
        b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
        b">0\r\n",
        b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n",
    ] {
        let mut world = up();
        let heard = world.hub.handle_frame(index(0), frame, &mut Vec::new());
        assert!(heard.is_err(), "{}", String::from_utf8_lossy(frame));
    }
}

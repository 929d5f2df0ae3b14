//! The hub towards nodes: what they are asked for, what they confirm, and for whom their messages are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Ask, CONFIRMED, Delivery, Hub, Request, Sub};
use crate::command::glob_matches;
use crate::ids::NodeIndex;
use crate::resp::{self, Protocol};
use crate::topology::Topology;
use crate::worker::pubsub::directory::{Name, View};
use crate::worker::pubsub::line::{Doubt, Heard, Line, Message, State};
use crate::worker::pubsub::names::{Databases, Kind, Passes};

impl Hub {
    /// Whether anything is to be heard from nodes.
    pub(in crate::worker) fn is_wanted(&self) -> bool {
        self.is_subscribed() || !self.trackers.is_empty()
    }

    /// Whether some client has subscribed to something.
    pub(in crate::worker) fn is_subscribed(&self) -> bool {
        !self.asks.is_empty()
    }

    /// Whether a node tells of every change of a key.
    pub(in crate::worker) fn tracks(&self, node: NodeIndex) -> bool {
        self.lines[node.index()].tracks
    }

    /// A client needs every node to tell of changes. The request that is given back must wait: [`Hub::wait`].
    pub(in crate::worker) fn track(&mut self, (client, generation): (usize, u32)) -> Request {
        if self.trackers.is_empty() {
            self.round += 1;
            self.tracking_round = self.round;
            for line in &mut self.lines {
                match line.state {
                    State::Up => line.track(self.round),
                    State::Off => line.state = State::Connecting,
                    State::Connecting | State::Down | State::Left => {}
                }
            }
        }
        self.trackers.insert(client);
        let mut request = self.request(client, generation);
        request.tracks = true;
        request.round = self.tracking_round;
        request.reply.extend_from_slice(b"+OK\r\n");
        request.waits = true;
        request
    }

    /// A client does not need that any more.
    pub(in crate::worker) fn untrack(&mut self, client: usize) {
        if !self.trackers.remove(&client) || !self.trackers.is_empty() {
            return;
        }
        self.round += 1;
        for line in &mut self.lines {
            if line.state == State::Up {
                line.untrack(self.round);
            }
        }
    }

    /// Whether a node owes confirmations.
    pub(in crate::worker) fn awaits(&self, node: NodeIndex) -> bool {
        self.lines[node.index()].awaits()
    }

    /// What is to be sent to a node.
    pub(in crate::worker) fn output(&mut self, node: NodeIndex) -> &mut Vec<u8> {
        &mut self.lines[node.index()].out
    }

    /// A connection to a node stands: all is asked for anew.
    pub(in crate::worker) fn handle_up(&mut self, node: NodeIndex) {
        let line = &mut self.lines[node.index()];
        line.clear(State::Up);
        if !self.trackers.is_empty() {
            line.track(0);
        }
        for (_, ask) in &mut self.asks {
            ask.refused = None;
            // Round 0: until all of it is confirmed, nothing is.
            line.subscribe(0, ask.kind, &ask.name);
        }
        self.show(|view| view.hears(node, true));
    }

    /// A connection to a node has ended, or could not be made: `state` says which.
    pub(in crate::worker) fn handle_end(&mut self, node: NodeIndex, state: State) {
        self.lines[node.index()].clear(state);
        self.show(|view| view.hears(node, false));
    }

    /// Nothing is asked of a node; if it has left, that stays so.
    pub(in crate::worker) fn rest(&mut self, node: NodeIndex) {
        let state = match self.lines[node.index()].state {
            State::Left => State::Left,
            State::Off | State::Connecting | State::Up | State::Down => State::Off,
        };
        self.handle_end(node, state);
    }

    /// There is one more node. Who listens already is not kept waiting for it.
    pub(in crate::worker) fn add_node(&mut self) {
        let mut line = Line::new();
        if self.is_wanted() {
            line.state = State::Down;
        }
        self.lines.push(line);
    }

    /// A node has left: nobody waits for it any more.
    pub(in crate::worker) fn forget_node(&mut self, node: NodeIndex) {
        self.handle_end(node, State::Left);
    }

    /// Shards have other places.
    pub(in crate::worker) fn place(&mut self, topology: &Arc<Topology>) {
        self.databases = Databases::new(topology);
        self.topology = Arc::clone(topology);
    }

    /// Asks a node whether it is still there.
    pub(in crate::worker) fn ping(&mut self, node: NodeIndex) {
        let round = self.round;
        self.lines[node.index()].ping(round);
    }

    /// Takes in a frame of a node. A message is given back, `subs` are the subscriptions that it is for.
    ///
    /// # Errors
    /// The frame cannot be: the connection is to be closed.
    pub(in crate::worker) fn handle_frame<'a>(
        &mut self,
        node: NodeIndex,
        frame: &'a [u8],
        subs: &mut Vec<usize>,
    ) -> Result<Option<Delivery<'a>>, Doubt> {
        subs.clear();
        let message = match self.lines[node.index()].hear(frame)? {
            Heard::Message(message) => message,
            Heard::Confirmed => return Ok(None),
            Heard::Refused(kind, name, line) => {
                if let Some(&ask) = self.asks_by_name[kind as usize].get(&name) {
                    self.asks[ask].refused = Some(line.to_vec());
                }
                return Ok(None);
            }
        };
        Ok(self.route(node, &message, subs))
    }

    /// The subscriptions that a message is for which is too large to be kept, by what has come of it.
    pub(in crate::worker) fn handle_oversized(&self, node: NodeIndex, start: &[u8], subs: &mut Vec<usize>) {
        subs.clear();
        if let Some(message) = Message::begun(start) {
            self.route(node, &message, subs);
        }
    }

    fn route<'a>(
        &self,
        node: NodeIndex,
        message: &Message<'a>,
        subs: &mut Vec<usize>,
    ) -> Option<Delivery<'a>> {
        // `None`: nobody listens any more, and the node does not know it yet.
        let ask = *self.asks_by_name[message.kind as usize].get(message.asked)?;
        let (channel, is_event) = match message.kind {
            Kind::Shard => (Cow::Borrowed(message.channel), false),
            Kind::Channel | Kind::Pattern => self.databases.shown(node, message.channel)?,
        };
        for (&sub, passes) in &self.asks[ask].subs {
            let passes = match passes {
                Passes::All => true,
                Passes::Plain => !is_event,
                Passes::Events => is_event && self.subs[sub].matches(&channel),
            };
            if passes {
                subs.push(sub);
            }
        }
        Some(Delivery {
            channel,
            payload: message.payload,
        })
    }

    /// The clients that get the messages of a subscription.
    pub(in crate::worker) fn clients(&self, sub: usize) -> impl Iterator<Item = usize> {
        let clients = &self.subs[sub].clients;
        clients
            .iter()
            .filter(|(_, standing)| **standing == CONFIRMED)
            .map(|(&client, _)| client)
    }

    /// A message as the clients of a subscription get it.
    pub(in crate::worker) fn encode(
        &self,
        sub: usize,
        delivery: &Delivery<'_>,
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        let sub = &self.subs[sub];
        let pattern = sub.kind == Kind::Pattern;
        resp::write_push_header(out, protocol, if pattern { 4 } else { 3 });
        resp::write_bulk(out, sub.kind.message().as_bytes());
        if pattern {
            resp::write_bulk(out, &sub.name);
        }
        resp::write_bulk(out, &delivery.channel);
        resp::write_bulk(out, delivery.payload);
    }

    /// Up to which round all nodes that can be reached have confirmed what they were asked.
    pub(super) fn confirmed(&self) -> u64 {
        let nothing_asked = !self.is_wanted();
        let lines = self
            .lines
            .iter()
            .filter(|line| !(nothing_asked && line.state == State::Connecting));
        lines.map(Line::confirmed).min().unwrap_or(u64::MAX)
    }

    pub(super) fn ask(&mut self, kind: Kind, name: &[u8], sub: usize, passes: Passes) -> usize {
        if let Some(&ask) = self.asks_by_name[kind as usize].get(name) {
            self.asks[ask].subs.insert(sub, passes);
            return ask;
        }
        self.round += 1;
        let (round, name): (u64, Name) = (self.round, name.into());
        for line in &mut self.lines {
            match line.state {
                State::Up => line.subscribe(round, kind, &name),
                State::Off => line.state = State::Connecting,
                State::Connecting | State::Down | State::Left => {}
            }
        }
        self.show(|view| view.asked(kind, &name));
        let ask = self.asks.insert(Ask {
            kind,
            name: Name::clone(&name),
            round,
            subs: BTreeMap::from([(sub, passes)]),
            refused: None,
        });
        self.asks_by_name[kind as usize].insert(name, ask);
        ask
    }

    pub(super) fn unask(&mut self, number: usize, sub: usize) {
        let ask = &mut self.asks[number];
        ask.subs.remove(&sub);
        if !ask.subs.is_empty() {
            return;
        }
        let ask = self.asks.remove(number);
        self.asks_by_name[ask.kind as usize].remove(&ask.name);
        self.round += 1;
        for line in &mut self.lines {
            if line.state == State::Up {
                line.unsubscribe(self.round, ask.kind, &ask.name);
            }
        }
        self.show(|view| view.no_longer_asked(ask.kind, &ask.name));
    }

    fn show(&self, change: impl FnOnce(&mut View)) {
        self.directory.write(self.worker, change);
    }
}

impl Sub {
    fn matches(&self, channel: &[u8]) -> bool {
        match self.kind {
            Kind::Pattern => glob_matches(&self.name, channel, false),
            Kind::Channel | Kind::Shard => *self.name == *channel,
        }
    }
}

//! One request: from its table row and its keys to the queue of its shard.
//!
//! The way of a single-key command, the one that counts, is: look up, hash, append the client's own bytes to the
//! queue of the shard, note whose turn the reply is. Everything else branches off to slower rooms.

use std::time::Duration;

use super::client::{Pause, Special, Via};
use super::input::Taken;
use crate::command::{self, Class, KeySpec, PubSub, Refusal, Spec};
use crate::ids::ShardId;
use crate::metrics::{Limit, RequestClass};
use crate::resp::{ArgRange, Args};
use crate::route::{self, Plan};
use crate::worker::backend::{Entry, Lane, Owner, Shape, State};
use crate::worker::engine::{Attention, Engine};

/// Whether a shard takes a request now.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::worker) enum Admission {
    /// It does.
    Yes,
    /// Its node's queue is full.
    Full,
    /// Its node is down: the error line.
    Down(String),
}

impl Engine {
    /// Handles one whole request.
    pub(super) fn handle_request(&mut self, index: usize, frame: &[u8], ranges: &[ArgRange]) -> Taken {
        let args = Args::new(frame, ranges);
        let spec = match command::resolve(&args) {
            Ok(spec) => spec,
            Err(refusal) => {
                self.refuse(index, &args, &refusal);
                return Taken::Yes;
            }
        };
        let client = &self.clients[index];
        let usual =
            client.authenticated && client.special == Special::NONE && self.attention == Attention::NONE;
        if !usual {
            return self.handle_special(index, spec, &args, frame);
        }
        self.handle_usual(index, spec, &args, frame)
    }

    /// Handles a request that means what it always means.
    #[inline]
    fn handle_usual(&mut self, index: usize, spec: &'static Spec, args: &Args<'_>, frame: &[u8]) -> Taken {
        if let Class::Single = spec.class
            && let KeySpec::Fixed { pos } = spec.keys
            && let key = args.get(pos as usize)
            && !command::is_reserved(key)
            && let Some(shard) = self.shard_of(index, key)
        {
            return self.forward(index, spec, shard, frame);
        }
        self.handle_planned(index, spec, args, frame)
    }

    /// Handles a request that the state of the session, or of the proxy, has a say in.
    #[cold]
    fn handle_special(&mut self, index: usize, spec: &'static Spec, args: &Args<'_>, frame: &[u8]) -> Taken {
        let skips = self.begin_skip(index);
        let client = &self.clients[index];
        let seq = client.head_seq.wrapping_add(to_u32(client.slots.len()));
        let taken = match self.by_state(index, spec, args, frame) {
            Some(taken) => taken,
            None => self.handle_usual(index, spec, args, frame),
        };
        if self.attention.has(Attention::SHOWN) {
            self.remember_args(index, seq, args);
        }
        if skips {
            self.end_skip(index, taken);
        }
        taken
    }

    /// A request of a client in a state that has a say, other than that it tracks.
    pub(in crate::worker) fn dispatch_in_state(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
        frame: &[u8],
    ) -> Taken {
        if self.clients[index].special.has(Special::TRANSACTION)
            && let Some(taken) = self.in_transaction(index, spec, args)
        {
            return taken;
        }
        self.handle_usual(index, spec, args, frame)
    }

    /// What the state of the session says about a request, if it has a say.
    fn by_state(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
        frame: &[u8],
    ) -> Option<Taken> {
        let client = &self.clients[index];
        if !client.authenticated && !is_allowed_before_auth(spec) {
            let hello = spec.name == "hello";
            self.answer_error(index, if hello { NOAUTH_HELLO } else { NOAUTH });
            return Some(Taken::Yes);
        }
        if client.special.has(Special::LIMITED)
            && let Some(taken) = self.refused_by_rules(index, spec, args)
        {
            return Some(taken);
        }
        let client = &self.clients[index];
        if client.special.has(Special::SUBSCRIBING) && !is_subscription(spec) {
            return Some(self.wait_for_answers(index));
        }
        if client.special.has(Special::SUBSCRIBED)
            && let Some(taken) = self.while_subscribed(index, spec, args)
        {
            return Some(taken);
        }
        // Errors that Redis tells at once come before this, what it does comes after.
        if self.attention != Attention::NONE
            && let Some(taken) = self.while_paused(index, spec, args)
        {
            return Some(taken);
        }
        let special = self.clients[index].special;
        if special.has(Special::TRACKING) {
            return Some(self.handle_tracked(index, spec, args, frame));
        }
        if special.has(Special::TRANSACTION) {
            return self.in_transaction(index, spec, args);
        }
        None
    }

    #[cold]
    fn refuse(&mut self, index: usize, args: &Args<'_>, refusal: &Refusal) {
        if !self.clients[index].authenticated {
            self.answer_error(index, NOAUTH);
            return;
        }
        let skips = self.begin_skip(index);
        self.transaction_failed(index);
        if self.clients[index].special.has(Special::TRACKING) && self.clients[index].transaction.is_none() {
            self.caching_used(index);
        }
        match refusal {
            Refusal::Unknown { .. } | Refusal::UnknownSubcommand { .. } | Refusal::Refused { .. } => {
                let known = command::identify(args).map_or(usize::MAX, |spec| spec.id.index());
                self.metrics.unsupported.add(known, 1);
            }
            // The command is served, had it been written right.
            Refusal::Arity { .. } | Refusal::Argument(_) => {}
        }
        self.answer_error(index, &refusal.line());
        if skips {
            self.end_skip(index, Taken::Yes);
        }
    }

    /// A request begins. Returns whether it is the one behind `CLIENT REPLY SKIP`.
    fn begin_skip(&mut self, index: usize) -> bool {
        let special = &mut self.clients[index].special;
        let skips = special.has(Special::SKIPS_NEXT);
        if skips {
            special.unset(Special::SKIPS_NEXT);
            special.set(Special::SKIPS);
        }
        skips
    }

    /// The request behind `CLIENT REPLY SKIP` is handled, or is to be offered again.
    fn end_skip(&mut self, index: usize, taken: Taken) {
        let special = &mut self.clients[index].special;
        special.unset(Special::SKIPS);
        if taken == Taken::NotNow {
            special.set(Special::SKIPS_NEXT);
        }
    }

    #[inline]
    fn shard_of(&self, index: usize, key: &[u8]) -> Option<ShardId> {
        match self.clients[index].db {
            0 => Some(self.topology.shard_of_key(key)),
            db => self.topology.pinned_shard(db),
        }
    }

    fn handle_planned(&mut self, index: usize, spec: &'static Spec, args: &Args<'_>, frame: &[u8]) -> Taken {
        let db = self.clients[index].db;
        match route::route(spec, args, &self.topology, db, &mut self.route_scratch) {
            Ok(Plan::One(shard)) => self.forward(index, spec, shard, frame),
            Ok(Plan::Iterate(shard)) => self.start_page(index, spec, shard, args),
            Ok(Plan::Local(local)) => self.handle_local(index, spec, local, args),
            Ok(Plan::Split(split, splitting)) if self.goes_by(index, Via::Shared) => {
                self.start_split(index, spec, split, splitting, args)
            }
            Ok(Plan::FanOut(fan_out)) if self.fan_out_goes(index, fan_out) => {
                self.start_fan_out(index, spec, fan_out, args)
            }
            Ok(Plan::Split(..) | Plan::FanOut(_)) => self.wait_for_answers(index),
            Ok(Plan::Transaction(transaction)) => self.handle_transaction(index, spec, transaction, args),
            Ok(Plan::Script(script, shard)) => self.handle_script(index, spec, (script, shard), args, frame),
            Ok(Plan::PubSub(pubsub)) => self.handle_pubsub(index, spec, pubsub, args),
            Ok(Plan::Helper(helper)) => self.handle_helper(index, spec, helper, args),
            Ok(Plan::Blocking(shard)) => self.handle_blocking(index, spec, shard, args, frame),
            Err(line) => {
                self.answer_error(index, &line);
                Taken::Yes
            }
        }
    }

    /// Queues the client's own bytes for a shard.
    #[inline]
    fn forward(&mut self, index: usize, spec: &'static Spec, shard: ShardId, frame: &[u8]) -> Taken {
        let client = &self.clients[index];
        let (protocol, generation) = (client.protocol, client.generation);
        if client.via != Via::Shared && !self.goes_by(index, Via::Shared) {
            return self.wait_for_answers(index);
        }
        let lane = self.lane(shard, protocol);
        if let Some(taken) = self.turned_away(index, lane) {
            return taken;
        }
        let class = if matches!(spec.class, Class::Single) {
            RequestClass::of_one_key(spec.is_write())
        } else {
            RequestClass::Multi
        };
        let seq = self.push_slot(index, spec.id, frame.len(), class);
        self.count_request(index, spec);
        self.metrics.shard_request(shard, frame.len());
        let owner = Owner::Client {
            index: to_u32(index),
            generation,
            seq,
        };
        self.enqueue(lane, owner, frame);
        Taken::Yes
    }

    /// Queues the bytes of several commands for a shard, which run as one request, if the shard takes it. The client must be
    /// able to go by these connections ([`Self::goes_by`]).
    pub(in crate::worker) fn forward_block(
        &mut self,
        index: usize,
        spec: &Spec,
        lane: Lane,
        (shape, frames): (Shape, u32),
        bytes: &[u8],
    ) -> Taken {
        if let Some(taken) = self.turned_away(index, lane) {
            return taken;
        }
        let seq = self.push_slot(index, spec.id, bytes.len(), RequestClass::Multi);
        self.enqueue_block(index, lane, (shape, frames), seq, bytes);
        Taken::Yes
    }

    /// Appends a request of any shape, whose place among the client's replies is `seq`.
    pub(in crate::worker) fn enqueue_block(
        &mut self,
        index: usize,
        lane: Lane,
        (shape, frames): (Shape, u32),
        seq: u32,
        bytes: &[u8],
    ) {
        self.metrics.shard_request(lane.shard, bytes.len());
        let entry = Entry {
            owner: Owner::Client {
                index: to_u32(index),
                generation: self.clients[index].generation,
                seq,
            },
            bytes: to_u32(bytes.len()),
            since: self.now32(),
            shard: lane.shard,
            large: false,
            shape,
            frames,
        };
        self.enqueue_entry(lane, entry, bytes);
    }

    /// Whether a client's next request may go by connections of this kind: those of another kind must have answered
    /// what they carry, or its requests would overtake each other. If not, it waits for its answers.
    #[cold]
    pub(in crate::worker) fn goes_by(&mut self, index: usize, via: Via) -> bool {
        let client = &mut self.clients[index];
        let several = matches!(via, Via::Shared | Via::Script);
        let free = client.slots.is_empty() || (client.via == via && several);
        if free {
            client.via = via;
        }
        free
    }

    /// Counts a request that was understood.
    #[inline]
    pub(in crate::worker) fn count_request(&mut self, index: usize, spec: &'static Spec) {
        self.metrics.requests.add(spec.id.index(), 1);
        self.clients[index].last_command = spec.id;
        self.clients[index].commands += 1;
    }

    /// Appends a request to a shard's queue and has its link woken.
    #[inline]
    pub(in crate::worker) fn enqueue(&mut self, lane: Lane, owner: Owner, frame: &[u8]) {
        let entry = Entry {
            owner,
            bytes: to_u32(frame.len()),
            since: self.now32(),
            shard: lane.shard,
            large: false,
            shape: Shape::Plain,
            frames: 1,
        };
        self.enqueue_entry(lane, entry, frame);
    }

    /// Appends a request of any shape to a shard's queue and has its link woken.
    #[inline]
    pub(in crate::worker) fn enqueue_entry(&mut self, lane: Lane, entry: Entry, frame: &[u8]) {
        let number = lane.link as usize;
        let link = &mut self.links[number];
        link.backlog.push(entry, frame);
        if !link.listed {
            link.listed = true;
            self.woken_links.push(number);
        }
    }

    /// Whether a shard's queue takes one more request, and nothing is wrong with its node.
    #[inline]
    fn admits(&self, lane: Lane) -> bool {
        let link = &self.links[lane.link as usize];
        let serves = match link.state {
            State::Ready | State::Idle | State::Connecting | State::Gate => true,
            State::Silent | State::Down => false,
        };
        let limits = &self.settings.limits;
        serves && link.backlog.len() < limits.node_queue && link.backlog.bytes() < limits.node_queue_bytes
    }

    /// Whether a shard takes one more request, and why not.
    #[inline]
    pub(in crate::worker) fn admission(&mut self, lane: Lane) -> Admission {
        if self.admits(lane) {
            return Admission::Yes;
        }
        let link = &self.links[lane.link as usize];
        match link.state {
            State::Ready | State::Idle | State::Connecting | State::Gate => Admission::Full,
            State::Silent | State::Down => {
                Self::refusal_of(link, lane.shard).map_or(Admission::Yes, Admission::Down)
            }
        }
    }

    /// What becomes of a request that its shard does not take now: it waits, or is refused. `None`: it may be queued.
    #[inline]
    pub(in crate::worker) fn turned_away(&mut self, index: usize, lane: Lane) -> Option<Taken> {
        if self.admits(lane) {
            return None;
        }
        self.turn_away(index, lane)
    }

    #[cold]
    fn turn_away(&mut self, index: usize, lane: Lane) -> Option<Taken> {
        match self.admission(lane) {
            Admission::Yes => None,
            Admission::Full => Some(self.wait_for_queue(index, lane)),
            Admission::Down(line) => {
                self.answer_error(index, &line);
                Some(Taken::Yes)
            }
        }
    }

    /// The client waits, unread, for room in a node's queue; if it has waited long enough it is refused.
    #[cold]
    pub(in crate::worker) fn wait_for_queue(&mut self, index: usize, lane: Lane) -> Taken {
        self.metrics.limits[Limit::NodeQueue].inc();
        let Lane { shard, link } = lane;
        let link = link as usize;
        if self.clients[index].refuse_when_full {
            self.clients[index].refuse_when_full = false;
            let why = if self.is_gate(link) {
                self.why_held(shard)
            } else {
                "the queue of its node is full"
            };
            let line = format!("TRYAGAIN preshard: shard {shard}: {why}; it has not run");
            self.answer_error(index, &line);
            return Taken::Yes;
        }
        let client = &mut self.clients[index];
        if client.pause != Pause::Queue {
            client.pause = Pause::Queue;
            client.paused_at = self.now;
        }
        if client.waits_for != Some(link) {
            client.waits_for = Some(link);
            self.links[link].waiting.push((index, client.generation));
        }
        Taken::NotNow
    }

    /// The client waits until all that it asked is answered.
    pub(in crate::worker) fn wait_for_answers(&mut self, index: usize) -> Taken {
        self.clients[index].pause = Pause::Barrier;
        Taken::NotNow
    }

    /// Wakes the links that have something to send. Called at the end of every turn of a task.
    pub(in crate::worker) fn wake_links(&mut self) {
        let mut woken = std::mem::take(&mut self.woken_links);
        for link in woken.drain(..) {
            self.links[link].listed = false;
            self.links[link].wake();
        }
        self.woken_links = woken;
    }

    /// How long a client may wait for room in a node's queue.
    pub(in crate::worker) fn queue_wait_max(&self) -> Duration {
        match self.settings.limits.request_timeout_us {
            0 => Duration::MAX,
            deadline => Duration::from_micros(deadline / 2),
        }
    }
}

const NOAUTH: &str = "NOAUTH Authentication required.";
pub(super) const NOAUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
     option can be used to authenticate the client and select the RESP protocol version at the same time";

/// Whether it is one of those that may follow each other unanswered.
fn is_subscription(spec: &Spec) -> bool {
    matches!(
        spec.class,
        Class::PubSub(
            PubSub::Subscribe
                | PubSub::Psubscribe
                | PubSub::Ssubscribe
                | PubSub::Unsubscribe
                | PubSub::Punsubscribe
                | PubSub::Sunsubscribe
        )
    )
}

fn is_allowed_before_auth(spec: &Spec) -> bool {
    matches!(spec.name, "auth" | "hello" | "quit" | "reset")
}

/// Indexes and lengths here are bounded by limits far below 2^32.
#[inline]
pub(in crate::worker) fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

//! Requests that become many: their parts, asked in bounded waves, and the one reply made of theirs.
//!
//! ```text
//!  split     MGET a b c         one part for each shard that has a key, all at once
//!  fan-out   DBSIZE, KEYS, …    one part for each shard (or node), at most WAVE of them outstanding; with more targets than
//!                               that its client's later requests wait, since they would overtake what is not asked yet
//!  walk      SCAN               one shard after the other, until enough was found
//!  page      HSCAN, …           one part, whose cursor is put right: see `page`
//!  publish   PUBLISH            one part; its count of connections becomes one of clients
//!  program   COUNTER.TAKE, …    what a helper asks, one round after the other: see `program`
//! ```
//!
//! A gather is known by its index and generation, so a reply that comes after its client has left finds nobody.

mod parts;

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use super::backend::{Entry, Lane, Owner, Shape};
use super::engine::Engine;
use super::pubsub::Kind;
use super::scripts::Sha;
use super::session::{Admission, Taken, Via, to_u32};
use crate::command::{self, FanOut, Spec, Split};
use crate::helper::{Keyspace, Program, hidden};
use crate::ids::{NodeIndex, ShardId};
use crate::merge::page::Page;
use crate::merge::scan::{Step, Walk};
use crate::merge::{Merge, Outcome, Rule};
use crate::metrics::RequestClass;
use crate::resp::{self, Args, Protocol};
use crate::route::Splitting;

/// Parts of one fan-out that are outstanding at a time.
const WAVE: usize = 128;

/// A request whose parts are under way.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) generation: u32,
    client: usize,
    client_generation: u32,
    seq: u32,
    pub(super) protocol: Protocol,
    /// A part that ran has changed something.
    writes: bool,
    pub(super) outstanding: usize,
    /// Bytes that are counted as held by its client.
    counted: usize,
    pub(super) work: Work,
}

/// What is asked of whom, and how it ends.
#[derive(Debug)]
pub(super) enum Work {
    /// Parts whose replies are merged. `targets` that were not asked yet stand behind `next`.
    Merge {
        merge: Merge,
        frame: Vec<u8>,
        targets: Vec<ShardId>,
        next: usize,
        via: Via,
    },
    /// A SCAN call.
    Walk(Walk),
    /// A page of one node.
    Page(Page),
    /// PUBLISH and SPUBLISH.
    Publish {
        kind: Kind,
        channel: Box<[u8]>,
        node: NodeIndex,
        reply: Vec<u8>,
    },
    /// A helper command, begun at this worker time.
    Program { program: Box<dyn Program>, since: u64 },
    /// Its reply would be larger than anybody is given: nothing is kept, nothing more is asked, what still comes is read away.
    TooLarge,
}

impl Work {
    /// The shard that is asked first.
    fn first_target(&self) -> Option<ShardId> {
        match self {
            Self::Merge { targets, .. } => targets.first().copied(),
            Self::Walk(walk) => match walk.step() {
                Step::Ask(shard) => Some(shard),
                Step::Done => None,
            },
            Self::Program { program, .. } => program.first(),
            Self::Page(_) | Self::Publish { .. } | Self::TooLarge => None,
        }
    }

    /// Whether it keeps what many parts have answered.
    const fn keeps_parts(&self) -> bool {
        matches!(self, Self::Merge { .. } | Self::Program { .. })
    }

    /// Bytes held for the reply in the making.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Merge { merge, .. } => merge.held_bytes(),
            Self::Walk(walk) => walk.held_bytes(),
            Self::Program { program, .. } => program.held_bytes(),
            Self::Page(page) => page.reply().0.len(),
            Self::Publish { .. } | Self::TooLarge => 0,
        }
    }
}

impl Engine {
    /// A command over keys of several shards.
    pub(super) fn start_split(
        &mut self,
        index: usize,
        spec: &'static Spec,
        split: Split,
        splitting: Splitting,
        args: &Args<'_>,
    ) -> Taken {
        let protocol = self.clients[index].protocol;
        for part in splitting.parts() {
            let lane = self.lane(part.shard, protocol);
            if let Some(taken) = self.turned_away(index, lane) {
                return taken;
            }
        }
        let parts = splitting.parts().len();
        let splitting = Rc::new(splitting);
        let rule = Rule::of_split(split, &splitting);
        let merge = Merge::new(rule, parts, spec.is_write());
        let work = Work::Merge {
            merge,
            frame: Vec::new(),
            targets: Vec::new(),
            next: 0,
            via: Via::Shared,
        };
        let gather = self.insert_gather(index, spec, args.frame().len(), work, RequestClass::Multi);
        self.gathers[gather].outstanding = parts;
        self.metrics.fanout_parts.add(parts as u64);
        let mut frame = self.spares.take();
        for (part, target) in splitting.parts().iter().enumerate() {
            frame.clear();
            splitting.write_frame(part, args, &mut frame);
            let lane = self.lane(target.shard, protocol);
            self.ask_part(gather, to_u32(part), lane, (Shape::Plain, 1), &frame);
        }
        self.spares.give(frame);
        Taken::Yes
    }

    /// `SCRIPT EXISTS`: what this proxy keeps exists wherever it is called. `None` if a node has to be asked.
    fn scripts_known(&self, args: &Args<'_>) -> Option<Vec<u8>> {
        let known =
            |place| Sha::parse(args.get(place)).is_some_and(|sha| self.shared.scripts.body(sha).is_some());
        (2..args.len()).all(known).then(|| {
            let mut reply = Vec::new();
            resp::write_array_header(&mut reply, args.len() - 2);
            (2..args.len()).for_each(|_| resp::write_int(&mut reply, 1));
            reply
        })
    }

    /// A command over the whole keyspace, or over every node.
    pub(super) fn start_fan_out(
        &mut self,
        index: usize,
        spec: &'static Spec,
        fan_out: FanOut,
        args: &Args<'_>,
    ) -> Taken {
        if fan_out == FanOut::ScriptExists
            && let Some(reply) = self.scripts_known(args)
        {
            self.count_request(index, spec);
            self.answer(index, &reply, RequestClass::Local);
            return Taken::Yes;
        }
        if fan_out == FanOut::Scan
            && let Some(shard) = self.topology.pinned_shard(self.clients[index].db)
        {
            return self.start_page(index, spec, shard, args);
        }
        if matches!(fan_out, FanOut::Flushdb | FanOut::Flushall) {
            self.shared.registrations.fetch_add(1, Relaxed);
        }
        let work = match self.fan_out_work(index, spec, fan_out, args) {
            Ok(work) => work,
            Err(line) => {
                self.answer_error(index, &line);
                return Taken::Yes;
            }
        };
        if let Some(taken) = self.full(index, work.first_target()) {
            return taken;
        }
        let gather = self.insert_gather(index, spec, args.frame().len(), work, RequestClass::Fanout);
        self.pump(gather);
        Taken::Yes
    }

    /// A message to a channel, over the shard that stands for the channel.
    pub(super) fn start_publish(
        &mut self,
        index: usize,
        spec: &'static Spec,
        shard: ShardId,
        (kind, channel): (Kind, &[u8]),
        frame: &[u8],
    ) -> Taken {
        let lane = match self.lane_of_one_part(index, shard) {
            Ok(lane) => lane,
            Err(taken) => return taken,
        };
        let work = Work::Publish {
            kind,
            channel: channel.into(),
            node: self.topology.placement(shard).node,
            reply: Vec::new(),
        };
        let gather = self.insert_gather(index, spec, frame.len(), work, RequestClass::Write);
        self.ask_one_part(gather, lane, frame);
        Taken::Yes
    }

    /// Where the only part of a gather goes, or what becomes of the request if it cannot go now.
    pub(super) fn lane_of_one_part(&mut self, index: usize, shard: ShardId) -> Result<Lane, Taken> {
        if !self.goes_by(index, Via::Shared) {
            return Err(self.wait_for_answers(index));
        }
        let lane = self.lane(shard, self.clients[index].protocol);
        self.turned_away(index, lane).map_or(Ok(lane), Err)
    }

    /// Asks the only part of a gather.
    pub(super) fn ask_one_part(&mut self, gather: usize, lane: Lane, frame: &[u8]) {
        self.gathers[gather].outstanding = 1;
        self.ask_part(gather, 0, lane, (Shape::Plain, 1), frame);
    }

    /// Queues a part of a gather.
    pub(super) fn ask_part(
        &mut self,
        gather: usize,
        part: u32,
        lane: Lane,
        (shape, frames): (Shape, u32),
        frame: &[u8],
    ) {
        self.metrics.shard_request(lane.shard, frame.len());
        let entry = Entry {
            owner: Owner::Gather {
                index: to_u32(gather),
                generation: self.gathers[gather].generation,
                part,
            },
            bytes: to_u32(frame.len()),
            since: self.now32(),
            shard: lane.shard,
            large: false,
            shape,
            frames,
        };
        self.enqueue_entry(lane, entry, frame);
    }

    /// What becomes of a request of many parts if the queue is full in which its first one would wait.
    pub(super) fn full(&mut self, index: usize, first: Option<ShardId>) -> Option<Taken> {
        let lane = self.lane(first?, self.clients[index].protocol);
        (self.admission(lane) == Admission::Full).then(|| self.wait_for_queue(index, lane))
    }

    /// Whether a client's fan-out may go now, before or beside the requests that it has under way.
    pub(super) fn fan_out_goes(&mut self, index: usize, fan_out: FanOut) -> bool {
        let (shards, pinned) = (
            usize::from(self.topology.shards),
            usize::from(self.topology.pinned),
        );
        let targets = match fan_out {
            FanOut::Dbsize | FanOut::Keys | FanOut::Flushdb if self.clients[index].db == 0 => shards,
            FanOut::Flushall => shards + pinned,
            FanOut::ScriptLoad | FanOut::ScriptExists | FanOut::ScriptFlush | FanOut::EveryNode => {
                self.topology.nodes.len()
            }
            FanOut::Dbsize | FanOut::Keys | FanOut::Flushdb => 1,
            // One after the other: these only look.
            FanOut::Scan | FanOut::Randomkey | FanOut::AnyNode => 1,
        };
        // What is asked in waves would be overtaken by the requests behind it, on their way to the same shards.
        let via = if targets > WAVE {
            Via::Rounds
        } else {
            via_of(fan_out)
        };
        self.goes_by(index, via)
    }

    fn fan_out_work(
        &self,
        index: usize,
        spec: &'static Spec,
        fan_out: FanOut,
        args: &Args<'_>,
    ) -> Result<Work, String> {
        let pinned = self.topology.pinned_shard(self.clients[index].db);
        let keyspace = || Keyspace::new(&self.topology, self.clients[index].db);
        let shards = || keyspace().shards().collect::<Vec<_>>();
        let (rule, mut targets) = match fan_out {
            FanOut::Scan => {
                let options: Vec<&[u8]> = (2..args.len()).map(|place| args.get(place)).collect();
                return Walk::new(args.get(1), &options, &self.topology).map(Work::Walk);
            }
            FanOut::Randomkey => {
                return Ok(self.program(hidden::Randomkey::new(keyspace(), fastrand::u64(..))));
            }
            FanOut::Dbsize => return Ok(self.program(hidden::Dbsize::new(keyspace()))),
            FanOut::Keys => {
                let max = pinned.map_or(self.settings.limits.keys, |_| usize::MAX);
                (Rule::Concat { max }, shards())
            }
            FanOut::Flushdb => (Rule::AllOk, shards()),
            FanOut::Flushall => (
                Rule::AllOk,
                (0..self.topology.shards + self.topology.pinned)
                    .map(ShardId)
                    .collect(),
            ),
            FanOut::ScriptLoad
            | FanOut::ScriptExists
            | FanOut::ScriptFlush
            | FanOut::EveryNode
            | FanOut::AnyNode => (self.node_rule(spec, fan_out, args)?, self.shard_of_each_node()),
        };
        let mut frame = Vec::new();
        resp::write_array_header(&mut frame, args.len());
        // Only FLUSHDB of owned databases is ever sent: a node's FLUSHALL would reach databases that are not ours.
        let name: &[u8] = if fan_out == FanOut::Flushall {
            b"FLUSHDB"
        } else {
            args.get(0)
        };
        resp::write_bulk(&mut frame, name);
        (1..args.len()).for_each(|place| resp::write_bulk(&mut frame, args.get(place)));
        if fan_out == FanOut::AnyNode {
            targets.truncate(1);
        }
        let merge = Merge::new(rule, targets.len(), spec.is_write());
        Ok(Work::Merge {
            merge,
            frame,
            targets,
            next: 0,
            via: via_of(fan_out),
        })
    }

    fn program(&self, program: impl Program + 'static) -> Work {
        Work::Program {
            program: Box::new(program),
            since: self.now,
        }
    }

    /// How the replies of nodes become one, after a look at code that they are to be given.
    fn node_rule(&self, spec: &Spec, fan_out: FanOut, args: &Args<'_>) -> Result<Rule, String> {
        Ok(match fan_out {
            FanOut::ScriptLoad => {
                let body = args.get(2);
                self.learn_body(Sha::of(body), body)?;
                Rule::First
            }
            FanOut::ScriptExists => Rule::AllOnes,
            FanOut::ScriptFlush => {
                self.shared.scripts.flush();
                Rule::AllOk
            }
            FanOut::EveryNode if spec.name == "function|load" => {
                command::judge_code(args.get(args.len() - 1))?;
                Rule::First
            }
            FanOut::EveryNode | FanOut::AnyNode => Rule::First,
            FanOut::Dbsize
            | FanOut::Keys
            | FanOut::Scan
            | FanOut::Randomkey
            | FanOut::Flushdb
            | FanOut::Flushall => Rule::AllOk,
        })
    }

    /// One shard of each node that has any: the way to a command that concerns the node as a whole.
    pub(super) fn shard_of_each_node(&self) -> Vec<ShardId> {
        let shards = 0..self.topology.shards + self.topology.pinned;
        let of_node = |node: usize| {
            shards
                .clone()
                .map(ShardId)
                .find(|&shard| self.topology.placement(shard).node.index() == node)
        };
        (0..self.topology.nodes.len()).filter_map(of_node).collect()
    }

    pub(super) fn insert_gather(
        &mut self,
        index: usize,
        spec: &'static Spec,
        bytes: usize,
        work: Work,
        class: RequestClass,
    ) -> usize {
        let seq = self.push_slot(index, spec.id, bytes, class);
        self.count_request(index, spec);
        let generation = self.next_generation();
        let client = &self.clients[index];
        self.gathers.insert(Gather {
            generation,
            client: index,
            client_generation: client.generation,
            seq,
            protocol: client.protocol,
            writes: spec.is_write(),
            outstanding: 0,
            counted: 0,
            work,
        })
    }

    /// Asks what may be asked now; ends the gather when nothing is outstanding.
    pub(super) fn pump(&mut self, index: usize) {
        if matches!(self.gathers[index].work, Work::Program { .. }) {
            self.pump_program(index);
        }
        loop {
            let gather = &mut self.gathers[index];
            let mut frame = Vec::new();
            let target = match &mut gather.work {
                Work::Merge {
                    merge,
                    frame: asked,
                    targets,
                    next,
                    via: _,
                } => {
                    let over = merge.is_over_cap() || merge.has_failed();
                    (gather.outstanding < WAVE && !over && *next < targets.len()).then(|| {
                        frame.extend_from_slice(asked);
                        *next += 1;
                        (targets[*next - 1], *next - 1)
                    })
                }
                Work::Walk(walk) if gather.outstanding == 0 => match walk.step() {
                    Step::Ask(shard) if walk.held_bytes() <= self.settings.limits.output_hard => {
                        walk.write_frame(&self.topology, &mut frame);
                        Some((shard, 0))
                    }
                    Step::Ask(_) | Step::Done => None,
                },
                Work::Walk(_)
                | Work::Page(_)
                | Work::Publish { .. }
                | Work::Program { .. }
                | Work::TooLarge => None,
            };
            let Some((shard, part)) = target else { break };
            self.ask(index, shard, part, &frame);
        }
        if self.gathers[index].outstanding == 0 {
            self.finish_gather(index);
        }
    }

    /// Sends one part. A full queue takes it all the same: the first one was not full when the request came, and
    /// each gets no more than a wave.
    fn ask(&mut self, index: usize, shard: ShardId, part: usize, frame: &[u8]) {
        let gather = &mut self.gathers[index];
        let (generation, protocol) = (gather.generation, gather.protocol);
        gather.outstanding += 1;
        let scripts = matches!(gather.work, Work::Merge { via: Via::Script, .. });
        self.metrics.fanout_parts.inc();
        let lane = if scripts {
            self.script_lane(shard, protocol)
        } else {
            self.lane(shard, protocol)
        };
        if let Admission::Down(line) = self.admission(lane) {
            self.absorb(index, part, Outcome::NotRun(&line));
            return;
        }
        if scripts {
            self.metrics.shard_request(shard, frame.len());
            let owner = Owner::Gather {
                index: to_u32(index),
                generation,
                part: to_u32(part),
            };
            self.enqueue_fenced(lane, owner, frame);
        } else {
            self.ask_part(index, to_u32(part), lane, (Shape::Plain, 1), frame);
        }
    }
}

/// Which connections carry the parts: those that run code, or read what came from users as code, are apart.
const fn via_of(fan_out: FanOut) -> Via {
    match fan_out {
        FanOut::Dbsize
        | FanOut::Keys
        | FanOut::Scan
        | FanOut::Randomkey
        | FanOut::Flushdb
        | FanOut::Flushall => Via::Shared,
        FanOut::ScriptLoad
        | FanOut::ScriptExists
        | FanOut::ScriptFlush
        | FanOut::EveryNode
        | FanOut::AnyNode => Via::Script,
    }
}

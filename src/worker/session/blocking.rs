//! Commands that may wait for data, and those that guard a transaction: over a connection of the client's own.
//!
//! While its request is under way the client's next ones wait behind it, and its socket is watched: who leaves is not
//! waited for any more.

use std::time::Duration;

use super::client::Via;
use super::dispatch::{Admission, to_u32};
use super::input::Taken;
use super::local::{number, wrong_subcommand};
use crate::command::{Spec, Wait, Waiting, wait_of};
use crate::ids::{NodeIndex, ShardId};
use crate::metrics::RequestClass;
use crate::resp::{self, Args, Protocol};
use crate::route;
use crate::worker::backend::Shape;
use crate::worker::dedicated::{Dedicated, Job};
use crate::worker::engine::Engine;

/// What a node may take longer than the wait that was asked for.
pub(in crate::worker) const SLACK: Duration = Duration::from_secs(1);

/// What a client watches.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct Watching {
    pub(in crate::worker) at: Dedicated,
    pub(in crate::worker) shard: ShardId,
    /// How many keys; one that is watched again counts again.
    pub(in crate::worker) keys: u32,
    /// Its connection is lost, or is not its any more: whether the keys have changed cannot be known.
    pub(in crate::worker) lost: bool,
    /// It was given up, because the keys go elsewhere or the client's protocol has changed: for the client the keys have changed.
    pub(in crate::worker) moved: bool,
}

impl Engine {
    /// Sends a command that may wait.
    pub(super) fn handle_blocking(
        &mut self,
        index: usize,
        spec: &'static Spec,
        shard: ShardId,
        args: &Args<'_>,
        frame: &[u8],
    ) -> Taken {
        if let Some(taken) = self.wait_while_held(index, shard) {
            return taken;
        }
        let at = match self.own_connection(index, shard) {
            Ok(Some(at)) => at,
            Ok(None) => return self.wait_for_answers(index),
            Err(line) => {
                self.answer_error(index, &line);
                return Taken::Yes;
            }
        };
        let limit = match wait_of(spec, args) {
            Wait::Forever => None,
            Wait::UpTo(wait) => Some(wait.saturating_add(SLACK)),
            Wait::No => Some(SLACK),
        };
        self.count_request(index, spec);
        let again = Waiting::of(spec, args).map(Box::new);
        let (mut bytes, prefaces) = again.as_ref().map(|again| again.prefaces()).unwrap_or_default();
        bytes.extend_from_slice(frame);
        let mut job = self.job(index, spec, shard, (bytes, prefaces + 1), limit);
        job.prefaces = prefaces;
        job.again = again;
        self.ask_own(index, at, job);
        Taken::Yes
    }

    /// `WATCH key …`
    pub(super) fn watch(&mut self, index: usize, spec: &'static Spec, args: &Args<'_>) -> Taken {
        if self.clients[index].transaction.is_some() {
            self.answer_error(index, "ERR WATCH inside MULTI is not allowed");
            return Taken::Yes;
        }
        let db = self.clients[index].db;
        let shard = match route::shard_of_keys(spec, args, &self.topology, db, &mut self.route_scratch) {
            Ok(shard) => shard,
            Err(line) => {
                self.answer_error(index, &line);
                return Taken::Yes;
            }
        };
        if let Some(taken) = self.wait_while_held(index, shard) {
            return taken;
        }
        let watching = self.clients[index].watching;
        let at = match watching {
            // `EXEC` will refuse in any case.
            Some(Watching { lost: true, .. }) => {
                self.answer(index, b"+OK\r\n", RequestClass::Local);
                return Taken::Yes;
            }
            Some(watching) if watching.shard != shard => {
                let line = format!(
                    "CROSSSLOT this client watches keys of shard {}, and this key is on shard {shard}; use a hash tag such as \
                     {{x}} in all keys of a transaction, or SELECT a pinned database",
                    watching.shard
                );
                self.answer_error(index, &line);
                return Taken::Yes;
            }
            Some(watching) if self.goes_by(index, Via::Dedicated) => Ok(Some(watching.at)),
            Some(_) => Ok(None),
            None => self.own_connection(index, shard),
        };
        let at = match at {
            Ok(Some(at)) => at,
            Ok(None) => return self.wait_for_answers(index),
            Err(line) => {
                self.answer_error(index, &line);
                return Taken::Yes;
            }
        };
        self.count_request(index, spec);
        let generation = self.clients[index].generation;
        self.pin_dedicated(at, Some((index, generation)));
        self.clients[index].watching = Some(Watching {
            at,
            shard,
            keys: watching.map_or(0, |watching| watching.keys) + to_u32(args.len() - 1),
            lost: false,
            moved: false,
        });
        let job = self.job(
            index,
            spec,
            shard,
            (args.frame().to_vec(), 1),
            self.answer_limit(),
        );
        self.ask_own(index, at, job);
        Taken::Yes
    }

    /// `UNWATCH` outside of a transaction.
    pub(super) fn unwatch(&mut self, index: usize, spec: &'static Spec, frame: &[u8]) -> Taken {
        let Some(watching) = self.clients[index].watching.filter(|watching| !watching.lost) else {
            self.count_request(index, spec);
            self.clients[index].watching = None;
            self.answer(index, b"+OK\r\n", RequestClass::Local);
            return Taken::Yes;
        };
        if !self.goes_by(index, Via::Dedicated) {
            return self.wait_for_answers(index);
        }
        self.count_request(index, spec);
        self.clients[index].watching = None;
        self.pin_dedicated(watching.at, None);
        let job = self.job(
            index,
            spec,
            watching.shard,
            (frame.to_vec(), 1),
            self.answer_limit(),
        );
        self.ask_own(index, watching.at, job);
        Taken::Yes
    }

    /// Whether the connection that watches for a client, if any, carries nothing: its `WATCH` may still be under way.
    pub(super) fn watch_is_answered(&mut self, index: usize) -> bool {
        self.clients[index].watching.is_none() || self.goes_by(index, Via::Dedicated)
    }

    /// Forgets what a client watches: its transaction is over. What its connection carried must be answered.
    pub(super) fn release_watch(&mut self, index: usize) {
        let Some(watching) = self.clients[index].watching.take() else {
            return;
        };
        if watching.lost {
            return;
        }
        self.pin_dedicated(watching.at, None);
        let job = Job {
            owner: None,
            shard: watching.shard,
            db: self.topology.placement(watching.shard).db,
            name: "unwatch",
            bytes: b"*1\r\n$7\r\nUNWATCH\r\n".to_vec(),
            frames: 1,
            prefaces: 0,
            keeps_all: false,
            fenced: false,
            transaction: false,
            again: None,
            since: self.now,
            recalled_at: 0,
            deadline: self.answer_limit().map(|limit| self.now + micros(limit)),
        };
        self.ask_dedicated(watching.at, job);
    }

    /// The client speaks another protocol from now on than the connection that watches for it: a transaction over that would be
    /// answered in the old one. For the client its keys have changed. What the connection carried must be answered.
    pub(super) fn give_up_watch(&mut self, index: usize) {
        let Some(watching) = self.clients[index].watching.filter(|watching| !watching.lost) else {
            return;
        };
        self.release_watch(index);
        self.clients[index].watching = Some(Watching {
            lost: true,
            moved: true,
            ..watching
        });
    }

    /// Sends a transaction over the connection that watches its keys, behind the scripts that it needs: that connection is not
    /// the one over which scripts are told.
    pub(super) fn exec_watched(
        &mut self,
        index: usize,
        spec: &'static Spec,
        watching: Watching,
        (transaction, frames): (Vec<u8>, u32),
        has_script: bool,
    ) {
        let (mut bytes, loads) = if has_script {
            self.loads_of(&transaction)
        } else {
            (Vec::new(), 0)
        };
        bytes.extend_from_slice(&transaction);
        let frames = loads + frames + u32::from(has_script);
        // Whatever comes of it, the keys are not watched any more.
        self.clients[index].watching = None;
        self.pin_dedicated(watching.at, None);
        let mut job = self.job(index, spec, watching.shard, (bytes, frames), self.answer_limit());
        job.prefaces = loads;
        job.transaction = true;
        job.fenced = has_script;
        self.ask_own(index, watching.at, job);
    }

    /// The connection that watched for a client is lost.
    pub(in crate::worker) fn watch_lost(&mut self, index: usize, generation: u32) {
        if !self.client_is_gone(index, generation)
            && let Some(watching) = &mut self.clients[index].watching
        {
            watching.lost = true;
        }
    }

    /// What a client watches goes elsewhere, so that nobody can tell any more whether it has changed: its transaction will
    /// be undone, as if it had.
    pub(in crate::worker) fn watch_moved(&mut self, index: usize, generation: u32) {
        if !self.client_is_gone(index, generation)
            && let Some(watching) = &mut self.clients[index].watching
        {
            watching.lost = true;
            watching.moved = true;
        }
    }

    /// A client that needs a connection of its own to a held shard waits, unread.
    pub(super) fn wait_while_held(&mut self, index: usize, shard: ShardId) -> Option<Taken> {
        self.is_held(shard).then(|| {
            // Be all of the shard held or not: this lane leads to a gate.
            let lane = self.script_lane(shard, self.clients[index].protocol);
            self.wait_for_queue(index, lane)
        })
    }

    /// A connection of its own for a client that has nothing in flight. None: it has.
    fn own_connection(&mut self, index: usize, shard: ShardId) -> Result<Option<Dedicated>, String> {
        if !self.goes_by(index, Via::Dedicated) {
            return Ok(None);
        }
        self.dedicated_to(index, shard).map(Some)
    }

    /// A connection of its own to a shard's node, unless that is down.
    pub(in crate::worker) fn dedicated_to(
        &mut self,
        index: usize,
        shard: ShardId,
    ) -> Result<Dedicated, String> {
        let protocol = self.clients[index].protocol;
        self.is_reachable(shard, protocol)?;
        self.acquire_dedicated(shard, protocol)
    }

    /// The same to the node of a shard, for what does not concern the shard.
    pub(super) fn dedicated_to_node_of(&mut self, index: usize, shard: ShardId) -> Result<Dedicated, String> {
        let protocol = self.clients[index].protocol;
        self.is_reachable(shard, protocol)?;
        self.acquire_at(self.topology.placement(shard).node, protocol)
    }

    fn is_reachable(&mut self, shard: ShardId, protocol: Protocol) -> Result<(), String> {
        let lane = self.lane(shard, protocol);
        match self.admission(lane) {
            Admission::Down(line) => Err(line),
            Admission::Yes | Admission::Full => Ok(()),
        }
    }

    fn job(
        &mut self,
        index: usize,
        spec: &'static Spec,
        shard: ShardId,
        (bytes, frames): (Vec<u8>, u32),
        limit: Option<Duration>,
    ) -> Job {
        let seq = self.push_slot(index, spec.id, bytes.len(), RequestClass::Blocking);
        self.job_of(index, seq, (spec.name, shard), (bytes, frames), limit)
    }

    /// A job for a place in the reply queue that is taken already.
    pub(super) fn job_of(
        &self,
        index: usize,
        seq: u32,
        (name, shard): (&'static str, ShardId),
        (bytes, frames): (Vec<u8>, u32),
        limit: Option<Duration>,
    ) -> Job {
        self.metrics.shard_request(shard, bytes.len());
        Job {
            owner: Some((to_u32(index), self.clients[index].generation, seq)),
            shard,
            db: self.topology.placement(shard).db,
            name,
            bytes,
            frames,
            prefaces: 0,
            keeps_all: false,
            fenced: false,
            transaction: false,
            again: None,
            since: self.now,
            recalled_at: 0,
            deadline: limit.map(|limit| self.now + micros(limit)),
        }
    }

    pub(in crate::worker) fn ask_own(&mut self, index: usize, at: Dedicated, job: Job) {
        self.clients[index].waits_at = Some(at);
        self.clients[index].publish();
        self.ask_dedicated(at, job);
        self.tell_where_it_waits(at);
    }

    /// Tells the registry where a client waits, for `CLIENT UNBLOCK`.
    pub(in crate::worker) fn tell_where_it_waits(&mut self, at: Dedicated) {
        let (Some(place), Some((client, generation))) = (self.waits_on_node(at), self.asker_of(at)) else {
            return;
        };
        if !self.client_is_gone(client, generation) {
            self.clients[client].info.waits(Some(place));
        }
    }

    /// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`: the node decides, as it may be answering at this moment.
    pub(super) fn client_unblock(&mut self, index: usize, spec: &'static Spec, args: &Args<'_>) -> Taken {
        let reason = args.try_get(3);
        let known = reason.is_none_or(|reason| {
            reason.eq_ignore_ascii_case(b"TIMEOUT") || reason.eq_ignore_ascii_case(b"ERROR")
        });
        if args.len() > 4 {
            self.answer_error(index, &wrong_subcommand(args));
            return Taken::Yes;
        }
        if !known {
            self.answer_error(index, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
            return Taken::Yes;
        }
        let Some(id) = number(args.get(2)) else {
            self.answer_error(index, "ERR value is not an integer or out of range");
            return Taken::Yes;
        };
        if !self.goes_by(index, Via::Shared) {
            return self.wait_for_answers(index);
        }
        let info = u64::try_from(id).ok().and_then(|id| self.shared.registry.get(id));
        let place = info.and_then(|info| info.unblock());
        let shard = place.and_then(|(node, _)| self.some_shard_of(node));
        let (Some((_, number)), Some(shard)) = (place, shard) else {
            self.answer(index, b":0\r\n", RequestClass::Local);
            return Taken::Yes;
        };
        let lane = self.lane(shard, self.clients[index].protocol);
        let number = number.to_string();
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"UNBLOCK", number.as_bytes()];
        words.extend(reason);
        let mut frame = Vec::new();
        resp::write_request(&mut frame, &words);
        self.forward_block(index, spec, lane, (Shape::Plain, 1), &frame)
    }

    /// The way to a node for what must reach this one and no other: not over links whose requests may be sent elsewhere instead, nor
    /// by a gate, unless there is no other way.
    fn some_shard_of(&self, node: NodeIndex) -> Option<ShardId> {
        let placements = self.topology.placements_by_shard();
        placements
            .filter(|(shard, placement)| placement.node == node && self.topology.unit_of(*shard).is_none())
            .map(|(shard, _)| shard)
            .min_by_key(|&shard| self.is_held(shard))
    }

    /// How long a node may take for what does not wait.
    fn answer_limit(&self) -> Option<Duration> {
        match self.settings.limits.request_timeout_us {
            0 => None,
            deadline => Some(Duration::from_micros(deadline)),
        }
    }
}

/// Whether what a client has asked of a node is to end a wait there. The number in it means something to that one server only.
pub(in crate::worker) fn is_unblock(frame: &[u8]) -> bool {
    const WORDS: &[u8] = b"$6\r\nCLIENT\r\n$7\r\nUNBLOCK\r\n";
    let words = frame
        .iter()
        .position(|&byte| byte == b'\n')
        .map(|end| &frame[end + 1..]);
    words.is_some_and(|words| words.starts_with(WORDS))
}

pub(in crate::worker) fn micros(duration: Duration) -> u64 {
    // Who waits for centuries waits for ever.
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX / 4)
        .min(u64::MAX / 4)
}

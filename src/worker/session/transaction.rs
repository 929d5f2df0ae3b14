//! `MULTI` to `EXEC`: queued here, run on the node as one piece.
//!
//! ```text
//!  MULTI ─▶ Queued { MULTI · SET {x}a 1 · GET {x}b · }       each command is judged and answered +QUEUED at once
//!                 │ the first key fixes the shard; one of another shard fails the transaction, as a wrong
//!                 │ number of arguments does
//!  EXEC  ─▶ one request of one shard: its bytes go out in one piece, its last reply is the client's
//! ```
//!
//! Nothing reaches the node before `EXEC`, so a client that leaves in the middle leaves nothing there, and the
//! connection can be one that all clients share. Commands that the proxy answers by itself cannot be queued, save
//! the few that mean the same on any node.

use super::blocking::Watching;
use super::client::{Special, Via};
use super::input::Taken;
use crate::command::{Class, Local, PubSub, Spec, Transaction};
use crate::ids::ShardId;
use crate::metrics::{Disconnect, Limit, RequestClass};
use crate::resp::{Args, Protocol};
use crate::route::{self, Place};
use crate::worker::backend::{Shape, push_fence};
use crate::worker::engine::Engine;
use crate::worker::pubsub::{ONLY_NODES_PUBLISH, is_event};

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// What a client has queued.
#[derive(Debug)]
pub(in crate::worker) struct Queued {
    /// `MULTI` and the commands, as they go to the node.
    bytes: Vec<u8>,
    commands: u32,
    /// Where it runs, once a key has said so.
    shard: Option<ShardId>,
    /// Some command was refused: `EXEC` will say so and run nothing.
    failed: bool,
    /// Some command runs code on the node.
    has_script: bool,
    /// Some command may write.
    may_write: bool,
    /// What of its memory is counted in the worker's total.
    counted: usize,
}

impl Queued {
    /// An empty transaction; `shard` is that of the keys that are watched.
    fn new(shard: Option<ShardId>) -> Self {
        Self {
            bytes: MULTI.to_vec(),
            commands: 0,
            shard,
            failed: false,
            has_script: false,
            may_write: false,
            counted: 0,
        }
    }

    pub(in crate::worker) fn held_bytes(&self) -> usize {
        self.counted
    }

    /// The frames of `MULTI` and of all that is queued.
    pub(in crate::worker) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(in crate::worker) const fn commands(&self) -> u32 {
        self.commands
    }

    pub(in crate::worker) const fn may_write(&self) -> bool {
        self.may_write
    }

    /// `EXEC` will run nothing.
    pub(super) const fn fail(&mut self) {
        self.failed = true;
    }
}

impl Engine {
    pub(super) fn handle_transaction(
        &mut self,
        index: usize,
        spec: &'static Spec,
        transaction: Transaction,
        args: &Args<'_>,
    ) -> Taken {
        match transaction {
            Transaction::Multi if self.clients[index].transaction.is_some() => {
                self.answer_error(index, "ERR MULTI calls can not be nested");
            }
            Transaction::Multi => {
                self.count_request(index, spec);
                let client = &mut self.clients[index];
                let shard = client.watching.map(|watching| watching.shard);
                client.transaction = Some(Box::new(Queued::new(shard)));
                client.special.set(Special::TRANSACTION);
                self.answer(index, b"+OK\r\n", RequestClass::Local);
            }
            Transaction::Exec => return self.exec(index, spec),
            Transaction::Discard if self.clients[index].transaction.is_some() => {
                if !self.watch_is_answered(index) {
                    return self.wait_for_answers(index);
                }
                self.count_request(index, spec);
                self.drop_transaction(index);
                self.release_watch(index);
                self.answer(index, b"+OK\r\n", RequestClass::Local);
            }
            Transaction::Discard => self.answer_error(index, "ERR DISCARD without MULTI"),
            Transaction::Watch => return self.watch(index, spec, args),
            Transaction::Unwatch => return self.unwatch(index, spec, args.frame()),
        }
        Taken::Yes
    }

    /// A request between `MULTI` and `EXEC`: queued, unless it ends the transaction or the session.
    pub(super) fn in_transaction(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
    ) -> Option<Taken> {
        match spec.class {
            Class::Transaction(
                Transaction::Multi | Transaction::Exec | Transaction::Discard | Transaction::Watch,
            )
            | Class::Local(Local::Quit | Local::Reset) => return None,
            Class::Single
            | Class::Iterate
            | Class::SameShard
            | Class::Split(_)
            | Class::FanOut(_)
            | Class::Local(_)
            | Class::Transaction(Transaction::Unwatch)
            | Class::Blocking
            | Class::Script(_)
            | Class::PubSub(_)
            | Class::Helper(_)
            | Class::Refused(_) => {}
        }
        match self.place_in_transaction(index, spec, args) {
            Ok(place) => self.queue(index, spec, place, args),
            Err(line) => {
                self.transaction_failed(index);
                self.answer_error(index, &line);
            }
        }
        Some(Taken::Yes)
    }

    /// Where a command would run, or why it cannot be queued.
    fn place_in_transaction(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
    ) -> Result<Place, String> {
        if matches!(spec.class, Class::PubSub(PubSub::Publish)) && is_event(args.get(1)) {
            return Err(ONLY_NODES_PUBLISH.to_owned());
        }
        let db = self.clients[index].db;
        let place = route::place_in_transaction(spec, args, &self.topology, db, &mut self.route_scratch)?;
        if let Place::Script(script, _) = place {
            self.learn(index, script, args)?;
        }
        Ok(place)
    }

    fn queue(&mut self, index: usize, spec: &'static Spec, place: Place, args: &Args<'_>) {
        let may_write = self.may_write(index, spec, args);
        let frame = args.frame();
        let bytes_max = self.settings.limits.in_flight_bytes;
        let Some(queued) = &mut self.clients[index].transaction else {
            return;
        };
        if let Place::Shard(shard) | Place::Script(_, shard) = place {
            let first = *queued.shard.get_or_insert(shard);
            if first != shard {
                queued.failed = true;
                let line = format!(
                    "CROSSSLOT this transaction belongs to shard {first} by its first key, and this command to shard \
                     {shard}; use a hash tag such as {{x}} in all its keys, or SELECT a pinned database before MULTI"
                );
                self.answer_error(index, &line);
                return;
            }
        }
        if queued.bytes.len() + frame.len() > bytes_max {
            queued.failed = true;
            self.metrics.limits[Limit::InFlight].inc();
            self.answer_error(
                index,
                "ERR the transaction is larger than in_flight_bytes_max; send less at once",
            );
            return;
        }
        // What will not run need not be kept.
        if !queued.failed {
            queued.bytes.extend_from_slice(frame);
            queued.commands += 1;
            queued.may_write |= may_write;
            queued.has_script |= matches!(spec.class, Class::Script(_));
            let holds = queued.bytes.capacity();
            self.held_bytes += holds - queued.counted;
            queued.counted = holds;
        }
        self.count_request(index, spec);
        self.answer(index, b"+QUEUED\r\n", RequestClass::Local);
        if self.held_bytes > self.settings.limits.request_memory {
            self.metrics.limits[Limit::RequestBytesTotal].inc();
            let generation = self.clients[index].generation;
            self.close_client(index, generation, Disconnect::Memory);
        }
    }

    fn exec(&mut self, index: usize, spec: &'static Spec) -> Taken {
        let client = &self.clients[index];
        let (db, protocol) = (client.db, client.protocol);
        let Some(queued) = &client.transaction else {
            self.answer_error(index, "ERR EXEC without MULTI");
            return Taken::Yes;
        };
        if queued.failed {
            if !self.watch_is_answered(index) {
                return self.wait_for_answers(index);
            }
            self.count_request(index, spec);
            self.drop_transaction(index);
            self.release_watch(index);
            self.answer_error(
                index,
                "EXECABORT Transaction discarded because of previous errors.",
            );
            return Taken::Yes;
        }
        if let Some(watching) = client.watching {
            return self.exec_on_watch(index, spec, watching);
        }
        if queued.commands == 0 {
            self.count_request(index, spec);
            self.drop_transaction(index);
            self.answer(index, b"*0\r\n", RequestClass::Local);
            return Taken::Yes;
        }
        let pinned = self.topology.pinned_shard(db);
        let shard = queued.shard.or(pinned).unwrap_or(ShardId(0));
        let has_script = queued.has_script;
        let via = if has_script { Via::Script } else { Via::Shared };
        if !self.goes_by(index, via) {
            return self.wait_for_answers(index);
        }
        let Some(mut queued) = self.clients[index].transaction.take() else {
            return Taken::Yes;
        };
        let length = queued.bytes.len();
        queued.bytes.extend_from_slice(EXEC);
        let mut frames = queued.commands + 2;
        let (lane, shape) = if has_script {
            let lane = self.script_lane(shard, protocol);
            push_fence(&self.links[lane.link as usize].fence, &mut queued.bytes);
            frames += 1;
            (lane, Shape::FencedTransaction)
        } else {
            (self.lane(shard, protocol), Shape::Transaction)
        };
        let taken = self.forward_block(index, spec, lane, (shape, frames), &queued.bytes);
        queued.bytes.truncate(length);
        self.clients[index].transaction = Some(queued);
        if taken == Taken::Yes {
            self.count_request(index, spec);
            self.drop_transaction(index);
        }
        taken
    }

    /// `EXEC` of a client that watches keys: over the connection that watches them.
    fn exec_on_watch(&mut self, index: usize, spec: &'static Spec, watching: Watching) -> Taken {
        if watching.lost {
            self.count_request(index, spec);
            self.drop_transaction(index);
            self.release_watch(index);
            if watching.moved {
                self.answer(index, self.nothing_for(index), RequestClass::Multi);
                return Taken::Yes;
            }
            self.answer_error(
                index,
                "EXECABORT preshard: the connection that watched its keys was lost; it has not run",
            );
            return Taken::Yes;
        }
        if !self.goes_by(index, Via::Dedicated) {
            return self.wait_for_answers(index);
        }
        if let Some(taken) = self.wait_while_held(index, watching.shard) {
            if taken == Taken::Yes {
                // Refused: whatever the answer of an `EXEC`, its transaction is over.
                self.drop_transaction(index);
                self.release_watch(index);
            }
            return taken;
        }
        let Some(mut queued) = self.clients[index].transaction.take() else {
            return Taken::Yes;
        };
        self.clients[index].special.unset(Special::TRANSACTION);
        self.held_bytes -= queued.counted;
        self.count_request(index, spec);
        queued.bytes.extend_from_slice(EXEC);
        self.exec_watched(
            index,
            spec,
            watching,
            (queued.bytes, queued.commands + 2),
            queued.has_script,
        );
        Taken::Yes
    }

    /// What `EXEC` answers when something watched has changed.
    pub(in crate::worker) fn nothing_for(&self, index: usize) -> &'static [u8] {
        match self.clients.get(index).map(|client| client.protocol) {
            Some(Protocol::Resp3) => b"_\r\n",
            Some(Protocol::Resp2) | None => b"*-1\r\n",
        }
    }

    /// `EXEC` will run nothing.
    pub(super) fn transaction_failed(&mut self, index: usize) {
        if let Some(queued) = &mut self.clients[index].transaction {
            queued.fail();
        }
    }

    /// Forgets what was queued.
    pub(super) fn drop_transaction(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.special.unset(Special::TRANSACTION);
        if let Some(queued) = client.transaction.take() {
            self.held_bytes -= queued.counted;
        }
    }
}

#[cfg(test)]
mod tests;

//! Helper commands: what the room `helper` makes of them, sent.

use std::sync::atomic::Ordering::Relaxed;

use super::client::Via;
use super::dispatch::{Admission, to_u32};
use super::input::Taken;
use crate::command::{Counter, Helper, Spec};
use crate::helper::{self, Block, Facts, Keyspace, Work};
use crate::metrics::RequestClass;
use crate::resp::Args;
use crate::worker::backend::{Entry, Owner, Shape};
use crate::worker::engine::Engine;

impl Engine {
    /// Handles a helper command: one request made of several commands, or a program to be run.
    pub(super) fn handle_helper(
        &mut self,
        index: usize,
        spec: &'static Spec,
        helper: Helper,
        args: &Args<'_>,
    ) -> Taken {
        let deletes = helper == Helper::Counter(Counter::Del) && args.len() == 2;
        if deletes {
            self.shared.registrations.fetch_add(1, Relaxed);
        }
        self.registered.forget_if(self.shared.registrations.load(Relaxed));
        let mut bytes = self.spares.take();
        let facts = Facts {
            keyspace: Keyspace::new(&self.topology, self.clients[index].db),
            registered: &self.registered,
            chance: self.now,
            now_ms: self.now / 1000,
            reply_bytes_max: self.settings.limits.output_hard,
        };
        let taken = match helper::work(helper, args, &facts, &mut bytes) {
            Ok(Work::Block(block)) => self.forward_helper(index, spec, block, &bytes),
            Ok(Work::Program(program)) => self.start_program(index, spec, program, args.frame().len()),
            Err(line) => {
                self.answer_error(index, &line);
                Taken::Yes
            }
        };
        self.spares.give(bytes);
        taken
    }

    /// Queues several commands for a shard as one request.
    fn forward_helper(&mut self, index: usize, spec: &'static Spec, block: Block, bytes: &[u8]) -> Taken {
        if self.clients[index].via != Via::Shared && !self.goes_by(index, Via::Shared) {
            return self.wait_for_answers(index);
        }
        let lane = self.lane(block.shard, self.clients[index].protocol);
        match self.admission(lane) {
            Admission::Yes => {}
            Admission::Full => return self.wait_for_queue(index, lane),
            Admission::Down(line) => {
                self.answer_error(index, &line);
                return Taken::Yes;
            }
        }
        let class = if spec.is_write() {
            RequestClass::Write
        } else {
            RequestClass::Read
        };
        let seq = self.push_slot(index, spec.id, bytes.len(), class);
        self.count_request(index, spec);
        self.metrics.shard_request(block.shard, bytes.len());
        let entry = Entry {
            owner: Owner::Client {
                index: to_u32(index),
                generation: self.clients[index].generation,
                seq,
            },
            bytes: to_u32(bytes.len()),
            since: self.now32(),
            shard: block.shard,
            large: false,
            shape: Shape::of_first(block.frames),
            frames: block.frames,
        };
        self.enqueue_entry(lane, entry, bytes);
        if let Some(mark) = block.registers {
            self.registered.note(mark, self.now / 1000);
        }
        Taken::Yes
    }
}

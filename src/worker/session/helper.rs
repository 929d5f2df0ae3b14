//! Helper commands: what the room `helper` makes of them, sent.

use std::sync::atomic::Ordering::Relaxed;

use super::client::Via;
use super::input::Taken;
use crate::command::{Counter, Helper, Spec};
use crate::helper::{self, Block, Facts, Keyspace, Work};
use crate::metrics::RequestClass;
use crate::resp::Args;
use crate::worker::backend::Shape;
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
        if let Some(taken) = self.turned_away(index, lane) {
            return taken;
        }
        let class = RequestClass::of_one_key(spec.is_write());
        let seq = self.push_slot(index, spec.id, bytes.len(), class);
        self.count_request(index, spec);
        let shape = Shape::of_first(block.frames);
        self.enqueue_block(index, lane, (shape, block.frames), seq, bytes);
        if let Some(mark) = block.registers {
            self.registered.note(mark, self.now / 1000);
        }
        Taken::Yes
    }
}

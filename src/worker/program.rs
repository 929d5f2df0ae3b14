//! Runs the programs of helper commands: sends what they ask, gives them what came of it, and answers.
//!
//! ```text
//!  start ─▶ pump: next ─▶ ask ─▶ the shard's queue … outcome ─▶ absorb ─▶ pump ─▶ … ─▶ nothing asked, nothing under way: answer
//! ```
//!
//! A program that takes longer than `request_timeout` in all is told of whatever it still wants to ask that this has
//! not run, so it ends with the parts that are under way. One whose client has left is asked nothing more.

use super::backend::Shape;
use super::engine::Engine;
use super::gather::Work;
use super::session::{Admission, Taken, Via};
use crate::command::Spec;
use crate::helper::{Ask, Frames, Program};
use crate::merge::Outcome;
use crate::metrics::RequestClass;

impl Engine {
    /// Begins a program for a client, whose request had so many bytes.
    pub(super) fn start_program(
        &mut self,
        index: usize,
        spec: &'static Spec,
        program: Box<dyn Program>,
        bytes: usize,
    ) -> Taken {
        let via = if program.has_rounds() {
            Via::Rounds
        } else {
            Via::Shared
        };
        if !self.goes_by(index, via) {
            return self.wait_for_answers(index);
        }
        if let Some(taken) = self.full(index, program.first()) {
            return taken;
        }
        let work = Work::Program {
            program,
            since: self.now,
        };
        let gather = self.insert_gather(index, spec, bytes, work, RequestClass::Fanout);
        self.pump(gather);
        Taken::Yes
    }

    /// Asks all that a program wants to ask now.
    pub(super) fn pump_program(&mut self, index: usize) {
        let timeout_us = self.settings.limits.request_timeout_us;
        let mut frame = self.spares.take();
        loop {
            frame.clear();
            let Work::Program { program, since } = &mut self.gathers[index].work else {
                break;
            };
            let is_late = timeout_us != 0 && self.now - *since > timeout_us;
            let Some(ask) = program.next(&mut frame) else {
                break;
            };
            let skipped = program.skips_held() && self.is_held(ask.shard);
            self.gathers[index].outstanding += 1;
            let why = if is_late {
                "the command has taken longer than request_timeout"
            } else if skipped {
                self.why_held(ask.shard)
            } else {
                self.ask_for_program(index, ask, &frame);
                continue;
            };
            let line = format!(
                "TRYAGAIN preshard: shard {}: {why}; this part has not run",
                ask.shard
            );
            self.absorb(index, ask.part as usize, Outcome::NotRun(&line));
        }
        self.spares.give(frame);
    }

    fn ask_for_program(&mut self, index: usize, ask: Ask, frame: &[u8]) {
        self.metrics.fanout_parts.inc();
        let lane = self.lane(ask.shard, self.gathers[index].protocol);
        if let Admission::Down(line) = self.admission(lane) {
            self.absorb(index, ask.part as usize, Outcome::NotRun(&line));
            return;
        }
        let (shape, frames) = match ask.frames {
            Frames::One => (Shape::Plain, 1),
            Frames::First(frames) => (Shape::of_first(frames), frames),
        };
        self.ask_part(index, ask.part, lane, (shape, frames), frame);
    }
}

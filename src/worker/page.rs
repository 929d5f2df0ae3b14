//! `HSCAN`, `SSCAN`, `ZSCAN`, and `SCAN` of a pinned database: one request to one node, whose cursor is put right on both ways.

use super::backend::Owner;
use super::engine::Engine;
use super::gather::Work;
use super::session::{Admission, Taken, Via, to_u32};
use crate::command::{Class, Spec};
use crate::ids::ShardId;
use crate::merge::page::Page;
use crate::metrics::RequestClass;
use crate::resp::Args;

impl Engine {
    /// A page of an iteration over a value of this shard, or over all of its keys.
    pub(super) fn start_page(
        &mut self,
        index: usize,
        spec: &'static Spec,
        shard: ShardId,
        args: &Args<'_>,
    ) -> Taken {
        if !self.goes_by(index, Via::Shared) {
            return self.wait_for_answers(index);
        }
        let lane = self.lane(shard, self.clients[index].protocol);
        match self.admission(lane) {
            Admission::Yes => {}
            Admission::Full => return self.wait_for_queue(index, lane),
            Admission::Down(line) => {
                self.answer_error(index, &line);
                return Taken::Yes;
            }
        }
        let of_keys = matches!(spec.class, Class::FanOut(_));
        let (place, class) = if of_keys {
            (1, RequestClass::Fanout)
        } else {
            (2, RequestClass::Read)
        };
        let mut frame = self.spares.take();
        let page = Page::ask(args, place, (shard, of_keys), &self.topology, &mut frame);
        let gather = self.insert_gather(index, spec, args.frame().len(), Work::Page(page), class);
        self.gathers[gather].outstanding = 1;
        self.metrics.shard_request(shard, frame.len());
        let owner = Owner::Gather {
            index: to_u32(gather),
            generation: self.gathers[gather].generation,
            part: 0,
        };
        self.enqueue(lane, owner, &frame);
        self.spares.give(frame);
        Taken::Yes
    }
}

//! `HSCAN`, `SSCAN`, `ZSCAN`, and `SCAN` of a pinned database: one request to one node, whose cursor is put right on both ways.

use super::engine::Engine;
use super::gather::Work;
use super::session::Taken;
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
        let lane = match self.lane_of_one_part(index, shard) {
            Ok(lane) => lane,
            Err(taken) => return taken,
        };
        let of_keys = matches!(spec.class, Class::FanOut(_));
        let (place, class) = if of_keys {
            (1, RequestClass::Fanout)
        } else {
            (2, RequestClass::Read)
        };
        let mut frame = self.spares.take();
        let page = Page::ask(args, place, (shard, of_keys), &self.topology, &mut frame);
        let gather = self.insert_gather(index, spec, args.frame().len(), Work::Page(page), class);
        self.ask_one_part(gather, lane, &frame);
        self.spares.give(frame);
        Taken::Yes
    }
}

//! What becomes of a gather's parts: they are taken in as they end, within a limit, and the last one makes the reply.
//!
//! ```text
//!  node's reply ─▶ a link's buffer, until it has ended ─▶ absorb ─▶ kept ─▶ finish ─▶ the one reply
//!                  └──── both together at most output_bytes_hard for one gather ────┘
//!                        beyond: forgotten, what still comes is read away, and the reply is an error
//! ```

use super::Work;
use crate::merge::Outcome;
use crate::metrics::Limit;
use crate::resp;
use crate::worker::engine::Engine;
use crate::worker::session::to_u32;

const TOO_LARGE: &str = "ERR the reply is larger than output_bytes_hard; ask for less at once";
const TOO_LARGE_WRITE: &str = "UNCERTAIN preshard: the reply is larger than output_bytes_hard; some of it has run; ask for less at once";
const PART_TOO_LARGE: &str = "ERR preshard: the reply of one shard is larger than output_bytes_hard";

impl Engine {
    /// A part has ended.
    pub(in crate::worker) fn gather_part(
        &mut self,
        index: usize,
        generation: u32,
        part: u32,
        outcome: Outcome<'_>,
    ) {
        if self
            .gathers
            .get(index)
            .is_none_or(|gather| gather.generation != generation)
        {
            return;
        }
        self.absorb(index, part as usize, outcome);
        let gather = &self.gathers[index];
        if !self.client_is_gone(gather.client, gather.client_generation) {
            self.pump(index);
        } else if gather.outstanding == 0 {
            self.gathers.remove(index);
        }
    }

    pub(in crate::worker) fn absorb(&mut self, index: usize, part: usize, outcome: Outcome<'_>) {
        let gather = &mut self.gathers[index];
        gather.outstanding -= 1;
        match &mut gather.work {
            Work::Merge { merge, .. } => merge.part(part, outcome),
            Work::Walk(walk) => walk.part(outcome, &self.topology),
            Work::Page(page) => page.part(outcome, &self.topology),
            Work::Publish { reply, .. } => match outcome {
                Outcome::Reply(came) => came.clone_into(reply),
                Outcome::NotRun(line) | Outcome::Uncertain(line) => *reply = resp::error_line(line),
            },
            Work::Program { program, .. } => program.absorb(to_u32(part), outcome),
            Work::TooLarge => {}
        }
        if gather.work.keeps_parts() && gather.work.held_bytes() > self.settings.limits.output_hard {
            self.give_up_gather(index);
        }
        let gather = &mut self.gathers[index];
        let held = gather.work.held_bytes();
        let more = held.saturating_sub(gather.counted);
        if more > 0 {
            gather.counted = held;
            let (client, generation) = (gather.client, gather.client_generation);
            self.client_gathers(client, generation, more, held);
        }
    }

    /// A gather would hold more than a reply may have: what has come is forgotten. A walk ends with what it has found, and the
    /// reply of one part is no more than was read of it.
    fn give_up_gather(&mut self, index: usize) {
        self.metrics.limits[Limit::ReplyBytes].inc();
        let gather = &mut self.gathers[index];
        if !gather.work.keeps_parts() {
            return;
        }
        gather.work = Work::TooLarge;
        let counted = std::mem::take(&mut gather.counted);
        if let Some(client) = self.clients.get_mut(gather.client)
            && client.generation == gather.client_generation
        {
            client.gathered -= counted;
        }
    }

    /// Whether the reply of a part, which is being read over a link, is to be read away: nobody wants it any more, or with what
    /// its gather keeps and what is being read for it elsewhere it is too large. If so, the part has ended.
    pub(in crate::worker) fn part_is_unwanted(
        &mut self,
        index: usize,
        generation: u32,
        part: u32,
        held: usize,
    ) -> bool {
        let gather = self.gathers.get(index);
        let Some(gather) = gather.filter(|gather| gather.generation == generation) else {
            return true;
        };
        let is_wanted = !matches!(gather.work, Work::TooLarge)
            && !self.client_is_gone(gather.client, gather.client_generation);
        let held = if gather.work.keeps_parts() {
            let elsewhere = self.links.iter().map(|link| link.reads_for(index, generation));
            gather.work.held_bytes() + elsewhere.sum::<usize>()
        } else {
            held
        };
        if is_wanted && held <= self.settings.limits.output_hard {
            return false;
        }
        if is_wanted {
            self.give_up_gather(index);
        }
        self.gather_part(index, generation, part, Outcome::Uncertain(PART_TOO_LARGE));
        true
    }

    pub(super) fn finish_gather(&mut self, index: usize) {
        let mut gather = self.gathers.remove(index);
        if let Some(client) = self.clients.get_mut(gather.client)
            && client.generation == gather.client_generation
        {
            client.gathered -= gather.counted;
        }
        let (mut reply, mut from_node) = (self.spares.take(), false);
        match &mut gather.work {
            Work::Merge { merge, .. } => {
                if merge.is_over_cap() {
                    self.metrics.limits[Limit::KeysMax].inc();
                }
                merge.finish(gather.protocol, &mut reply);
            }
            Work::Walk(walk) => walk.finish(&self.topology, &mut reply),
            Work::Page(page) => {
                let made;
                (made, from_node) = page.reply();
                reply.extend_from_slice(made);
            }
            Work::TooLarge if gather.writes => resp::write_error(&mut reply, TOO_LARGE_WRITE),
            Work::TooLarge => resp::write_error(&mut reply, TOO_LARGE),
            Work::Program { program, .. } => program.finish(gather.protocol, &mut reply),
            Work::Publish {
                kind,
                channel,
                node,
                reply: came,
            } => match connections(came) {
                Some(count) if count > 0 => {
                    let count = self.shared.channels.reached(*kind, channel, *node, count);
                    resp::write_int(&mut reply, i64::try_from(count).unwrap_or(i64::MAX));
                }
                Some(_) | None => reply.extend_from_slice(came),
            },
        }
        self.complete(
            gather.client,
            gather.client_generation,
            gather.seq,
            &reply,
            from_node,
        );
        self.spares.give(reply);
    }
}

/// The number of a node's answer to `PUBLISH`.
fn connections(reply: &[u8]) -> Option<u64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

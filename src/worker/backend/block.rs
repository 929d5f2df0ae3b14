//! Requests that a node answers with several frames: transactions, scripts, and what helpers send in one piece.
//!
//! ```text
//!  asked     MULTI   SET a 1   GET a   EXEC           EVAL …     ECHO nonce
//!  answered  +OK     +QUEUED   +QUEUED *2 …           $5 hello   $32 nonce
//!            must be (or an error)     the reply      the reply  the fence: must be the nonce of this link
//! ```
//!
//! Replies belong to requests by their position only, and a script can make a node answer one frame too many
//! (Redis 7.0: a line break in the flags of a `#!lua` line). So behind everything that runs code stands a fence: its
//! reply is given out only when the frame behind it is the fence's. Otherwise the link is closed, and nobody has
//! seen a frame that was not his. Scripts have links of their own, so even then only other scripts are in doubt.

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;

use std::hash::{BuildHasher as _, RandomState};

use super::link::{Reading, State};
use super::queue::{Owner, Shape};
use super::tell::{has_not_run, lacks_scripts};
use crate::merge::Outcome;
use crate::metrics::{Limit, LinkClose};
use crate::resp;
use crate::worker::engine::Engine;

const QUEUED: &[u8] = b"+QUEUED\r\n";
/// How the request of a fence begins.
const ECHO: &[u8] = b"*2\r\n$4\r\nECHO\r\n";

impl Engine {
    /// A frame of the oldest request due has ended, `last` being what came of it with this chunk.
    #[cold]
    pub(super) fn block_frame(&mut self, index: usize, last: &[u8]) -> Result<(), LinkClose> {
        let link = &mut self.links[index];
        let Some(&entry) = link.due.front() else {
            return Err(LinkClose::ExtraReply);
        };
        let seen = link.frames_seen + 1;
        if seen == entry.frames && !entry.shape.answers_early() {
            // The end of a reply that was passed on, or thrown away, may look like anything.
            if link.reading == Reading::Whole && is_queued(&link.partial, last) {
                return Err(LinkClose::MultiFailed);
            }
            return self.reply_ended(index, last);
        }
        link.frames_seen = seen;
        let reading = std::mem::replace(&mut link.reading, Reading::Whole);
        let mut whole = std::mem::take(&mut link.partial);
        let frame = if whole.is_empty() {
            last
        } else {
            whole.extend_from_slice(last);
            &whole
        };
        let answer_at = match entry.shape {
            Shape::First => 1,
            Shape::Plain | Shape::Transaction | Shape::Fenced | Shape::FencedTransaction => {
                entry.frames - u32::from(entry.shape.is_fenced())
            }
        };
        let outcome = if seen == entry.frames {
            if entry.shape.is_fenced() && frame != link.fence {
                return Err(LinkClose::ExtraReply);
            }
            if link.state == State::Silent {
                link.state = State::Ready;
            }
            let answer = std::mem::take(&mut link.answer);
            if lacks_scripts(entry, &answer) {
                link.told.forget();
            }
            let delivered = match link.pop_due() {
                Some(entry) if has_not_run(entry, &answer) && self.call_again(index, entry) => Ok(()),
                Some(entry) => self.deliver(index, entry, &answer),
                None => Err(LinkClose::ExtraReply),
            };
            self.spares.give(answer);
            delivered
        } else if seen == answer_at {
            if entry.shape.is_transaction() && reading == Reading::Whole && is_queued(&[], frame) {
                return Err(LinkClose::MultiFailed);
            }
            if reading == Reading::Whole {
                link.answer = self.spares.take();
                link.answer.extend_from_slice(frame);
            }
            Ok(())
        } else if entry.shape.is_transaction()
            && !is_step(seen, frame)
            && !(link.kept.is_some() && refused(frame))
        {
            Err(LinkClose::MultiFailed)
        } else {
            Ok(())
        };
        self.spares.give(whole);
        outcome
    }

    /// A frame has grown large before its end. A fenced reply must be kept whole; an unfenced one is passed on.
    #[cold]
    pub(super) fn large_block_frame(&mut self, index: usize) {
        let link = &self.links[index];
        let Some(&entry) = link.due.front() else { return };
        if !entry.shape.answers_early() && link.frames_seen + 1 == entry.frames {
            self.large_reply(index, entry.owner);
            return;
        }
        if link.partial.len() <= self.settings.limits.output_hard {
            return;
        }
        self.metrics.limits[Limit::ReplyBytes].inc();
        let line = "UNCERTAIN preshard: the reply of a script is larger than output_bytes_hard; it has run";
        match entry.owner {
            Owner::Client {
                index: client,
                generation,
                seq,
            } => {
                let reply = resp::error_line(line);
                self.complete(client as usize, generation, seq, &reply, false);
            }
            Owner::Gather {
                index: gather,
                generation,
                part,
            } => self.gather_part(gather as usize, generation, part, Outcome::Uncertain(line)),
            Owner::Select | Owner::Tombstone | Owner::Order => {}
        }
        let link = &mut self.links[index];
        link.partial = Vec::new();
        link.reading = Reading::Skip;
        self.forget_due_front(index);
    }
}

/// Whether a frame is what `MULTI` (the first) or a queued command is answered with. Without a transaction each of its
/// commands runs by itself; a frame too many would make a `+QUEUED` the reply.
pub(in crate::worker) fn is_step(seen: u32, frame: &[u8]) -> bool {
    match seen {
        1 => frame == b"+OK\r\n",
        _ => frame == QUEUED || frame.first() == Some(&b'-'),
    }
}

/// Whether `MULTI` was refused because its shard is on its way to another node: all that follows is refused as well.
fn refused(frame: &[u8]) -> bool {
    frame.starts_with(b"-NOPERM")
}

/// Whether the two parts of a frame are what a queued command is answered with: never the reply of `EXEC`.
pub(in crate::worker) fn is_queued(start: &[u8], rest: &[u8]) -> bool {
    start.len() + rest.len() == QUEUED.len() && QUEUED.starts_with(start) && QUEUED.ends_with(rest)
}

/// What the fences of one link ask for. Scripts cannot see it, and must not guess it.
pub(in crate::worker) fn nonce() -> String {
    // The keys of this hasher come from the operating system's source of randomness.
    let [one, other] = [(); 2].map(|()| RandomState::new().hash_one(std::process::id()));
    format!("{one:016x}{other:016x}")
}

/// Appends the fence of a link to a request.
pub(in crate::worker) fn push_fence(fence: &[u8], frame: &mut Vec<u8>) {
    frame.extend_from_slice(ECHO);
    frame.extend_from_slice(fence);
}

/// Bytes that [`push_fence`] appends.
pub(super) const fn fence_bytes(fence: &[u8]) -> usize {
    ECHO.len() + fence.len()
}

/// A node's answer to `ECHO nonce`.
pub(in crate::worker) fn fence(nonce: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    resp::write_bulk(&mut frame, nonce.as_bytes());
    frame
}

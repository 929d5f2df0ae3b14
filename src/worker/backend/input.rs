//! From a node's bytes to the replies of requests: found by boundary, given out by position.
//!
//! ```text
//!  chunk ──ReplyScanner──▶ reply ──front of `due`──▶ client (its turn: appended; else parked)
//!                                                   gather (a part)     select (must be +OK)     tombstone (dropped)
//! ```
//!
//! Replies are never decoded here. A reply that has not ended is kept until it is whole; a large one whose client's
//! turn it is passes through as it comes; one whose client has gone is thrown away as it comes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::link::{Reading, State};
use super::queue::{Entry, Owner, Shape};
use crate::ids::ShardId;
use crate::merge::Outcome;
use crate::metrics::LinkClose;
use crate::worker::engine::Engine;

/// From this size on, a reply that has not ended is passed on in pieces, if its client's turn has come.
const STREAM_BYTES: usize = 64 * 1024;
/// What `EXEC` is answered with when its user lost his rights behind `MULTI`. Nothing of the transaction has run.
const EXEC_REFUSED: &[u8] = b"-EXECABORT Transaction discarded because of: NOPERM";

impl Engine {
    /// Takes in what a node sent.
    pub(super) fn link_input(&mut self, index: usize, chunk: &[u8]) -> Result<(), LinkClose> {
        if self.links[index].state == State::Silent {
            // Bytes flow: a large reply that takes its time is no silence.
            self.links[index].silent_since = self.now;
        }
        let mut at = 0;
        while at < chunk.len() {
            let link = &mut self.links[index];
            let rest = &chunk[at..];
            if !link.awaits_reply() {
                return Err(LinkClose::ExtraReply);
            }
            let fed = link.scanner.feed(rest);
            // Nothing on a shared link asks for pushes: one would be taken for the reply of a request.
            if link.scanner.is_push() {
                return Err(LinkClose::ExtraReply);
            }
            match fed {
                Ok(Some(length)) => {
                    at += length;
                    let front = link.due.front();
                    if front.is_some_and(|entry| entry.shape != Shape::Plain) {
                        self.block_frame(index, &rest[..length])?;
                    } else {
                        self.reply_ended(index, &rest[..length])?;
                    }
                }
                Ok(None) => {
                    self.reply_goes_on(index, rest);
                    return Ok(());
                }
                Err(_) => return Err(LinkClose::BadReply),
            }
        }
        Ok(())
    }

    /// `last` are the bytes of the reply that came with this chunk: all of it, as a rule.
    #[inline(always)]
    pub(super) fn reply_ended(&mut self, index: usize, last: &[u8]) -> Result<(), LinkClose> {
        let link = &mut self.links[index];
        let Some(entry) = link.pop_due() else {
            return Err(LinkClose::ExtraReply);
        };
        if link.state == State::Silent {
            link.state = State::Ready;
        }
        if link.partial.is_empty() && link.reading == Reading::Whole {
            return self.deliver(index, entry, last);
        }
        self.pieces_ended(index, entry, last)
    }

    /// The last bytes of a reply have come of which a part came before.
    fn pieces_ended(&mut self, index: usize, entry: Entry, last: &[u8]) -> Result<(), LinkClose> {
        let link = &mut self.links[index];
        let reading = std::mem::replace(&mut link.reading, Reading::Whole);
        let mut whole = std::mem::take(&mut link.partial);
        match reading {
            Reading::Whole => {
                whole.extend_from_slice(last);
                let delivered = self.deliver(index, entry, &whole);
                self.spares.give(whole);
                delivered
            }
            Reading::Stream => {
                self.stream_ended(index, entry, last);
                Ok(())
            }
            // Its client is gone, or is on its way out.
            Reading::Skip => Ok(()),
        }
    }

    #[inline(always)]
    pub(super) fn deliver(&mut self, index: usize, entry: Entry, reply: &[u8]) -> Result<(), LinkClose> {
        if reply.first() == Some(&b'-')
            && let Some(refused) = self.refused_by_node(index, entry, reply)
        {
            return refused;
        }
        match entry.owner {
            Owner::Client {
                index: client,
                generation,
                seq,
            } => {
                self.count_reply(index, entry, reply.len());
                self.complete(client as usize, generation, seq, reply, true);
            }
            Owner::Gather {
                index: gather,
                generation,
                part,
            } => {
                self.count_reply(index, entry, reply.len());
                self.gather_part(gather as usize, generation, part, Outcome::Reply(reply));
            }
            Owner::Select => {
                if reply != b"+OK\r\n" {
                    return Err(LinkClose::SelectFailed);
                }
            }
            Owner::Tombstone | Owner::Order => {}
        }
        Ok(())
    }

    /// What becomes of a request whose error is not its client's: it concerns the link, or the shard is on its way. `None`: it is
    /// an answer like any other.
    #[cold]
    fn refused_by_node(&mut self, index: usize, entry: Entry, reply: &[u8]) -> Option<Result<(), LinkClose>> {
        let is_asked = matches!(entry.owner, Owner::Client { .. } | Owner::Gather { .. });
        // What a script answers says nothing about its link.
        if !is_asked || entry.shape.is_fenced() {
            return None;
        }
        if is_node_fault(reply) {
            return Some(self.node_fault(index, entry, reply));
        }
        self.is_frozen(index, reply).then(|| {
            self.park(index, entry);
            Ok(())
        })
    }

    /// Whether a node refuses the requests of a unit that moves: this one has not run.
    fn is_frozen(&self, index: usize, reply: &[u8]) -> bool {
        is_refused(reply) && self.links[index].kept.is_some()
    }

    /// A request was refused because its shard is on its way: it waits for where it will be, with all that come behind it.
    #[cold]
    fn park(&mut self, index: usize, entry: Entry) {
        let is_kept = self.links[index]
            .kept
            .as_mut()
            .is_some_and(|kept| kept.park(entry));
        if !is_kept {
            self.not_run(entry, "TRYAGAIN", "it is on its way to another node");
        }
        self.hold_unit(self.links[index].user.clone().as_deref());
        self.hold(entry.shard, |hold| hold.frozen = true);
    }

    /// Takes what a node has refused to the gates, in front of what waits there: when all that was sent is answered, since what
    /// is answered later came later.
    pub(in crate::worker) fn release_parked(&mut self, index: usize) {
        let link = &mut self.links[index];
        if link.kept.as_ref().is_none_or(|kept| kept.parked.is_empty()) || link.awaits_requests() {
            return;
        }
        let protocol = link.protocol;
        let parked = link.kept.as_mut().map(|kept| std::mem::take(&mut kept.parked));
        let mut chains: BTreeMap<ShardId, Vec<(Entry, Bytes)>> = BTreeMap::new();
        for (mut entry, frame) in parked.unwrap_or_default() {
            entry.since = self.now32();
            entry.large = false;
            chains.entry(entry.shard).or_default().push((entry, frame));
        }
        for (shard, chain) in chains {
            let lane = self.lane(shard, protocol);
            let later = self.links[lane.link as usize].backlog.take_chain(shard);
            for (mut entry, frame) in chain.into_iter().chain(later) {
                entry.large = false;
                self.enqueue_entry(lane, entry, &frame);
            }
        }
    }

    /// Counts a reply, of which the last `bytes` were not counted yet.
    #[inline]
    fn count_reply(&self, index: usize, entry: Entry, bytes: usize) {
        self.metrics.shard_reply(entry.shard, bytes);
        let took = self.now32().wrapping_sub(entry.since);
        self.links[index].cells.duration.observe(took);
    }

    /// An answer that says that the link, not the request, is at fault: the client learns that nothing ran.
    #[cold]
    fn node_fault(&mut self, index: usize, entry: Entry, reply: &[u8]) -> Result<(), LinkClose> {
        let node = self.node_name(self.links[index].node);
        let word = String::from_utf8_lossy(reply.split(|&byte| byte == b' ').next().unwrap_or_default());
        tracing::error!(event = "node_fault", node, error = %word, "a node refuses the proxy itself");
        self.not_run(entry, "CLUSTERDOWN", "its node refuses the proxy");
        Err(LinkClose::Identity)
    }

    /// A reply whose end is not in this chunk.
    fn reply_goes_on(&mut self, index: usize, rest: &[u8]) {
        let link = &mut self.links[index];
        let Some(&Entry { owner, shape, .. }) = link.due.front() else {
            return;
        };
        match link.reading {
            Reading::Skip => {}
            Reading::Stream => self.stream_piece(index, owner, rest),
            Reading::Whole => {
                if link.partial.capacity() == 0 {
                    link.partial = self.spares.take();
                }
                link.partial.extend_from_slice(rest);
                if link.partial.len() < STREAM_BYTES {
                    return;
                }
                if shape == Shape::Plain {
                    self.large_reply(index, owner);
                } else {
                    self.large_block_frame(index);
                }
            }
        }
    }

    /// A reply has grown large before its end: pass it on, keep it, or throw it away.
    pub(super) fn large_reply(&mut self, index: usize, owner: Owner) {
        let held = self.links[index].partial.len();
        let reading = match owner {
            Owner::Client {
                index: client,
                generation,
                seq,
            } => {
                let client = client as usize;
                if self.client_is_gone(client, generation) {
                    Reading::Skip
                } else if self.is_turn_of(client, seq) {
                    Reading::Stream
                } else if self.client_output_over(client, held) {
                    Reading::Skip
                } else {
                    Reading::Whole
                }
            }
            Owner::Gather {
                index: gather,
                generation,
                part,
            } => {
                if self.part_is_unwanted(gather as usize, generation, part, held) {
                    Reading::Skip
                } else {
                    Reading::Whole
                }
            }
            Owner::Select => {
                // Whatever it is, it is not `+OK`.
                self.links[index].close = Some(LinkClose::SelectFailed);
                self.links[index].wake();
                return;
            }
            Owner::Tombstone | Owner::Order => Reading::Skip,
        };
        if reading == Reading::Whole {
            return;
        }
        self.links[index].reading = reading;
        let piece = std::mem::take(&mut self.links[index].partial);
        if reading == Reading::Stream {
            self.stream_piece(index, owner, &piece);
        } else {
            self.forget_due_front(index);
        }
    }

    fn stream_piece(&mut self, index: usize, owner: Owner, piece: &[u8]) {
        let Owner::Client {
            index: client,
            generation,
            seq,
        } = owner
        else {
            return;
        };
        if let Some(front) = self.links[index].due.front() {
            self.metrics.shard_reply(front.shard, piece.len());
        }
        if !self.append_piece(client as usize, generation, seq, piece) {
            self.links[index].reading = Reading::Skip;
        }
    }

    /// The reply at the front is nobody's any more; its request stays due until it has been read away.
    pub(super) fn forget_due_front(&mut self, index: usize) {
        if let Some(entry) = self.links[index].due.front_mut() {
            entry.owner = Owner::Tombstone;
        }
    }

    /// The last bytes of a reply whose first ones were passed on.
    fn stream_ended(&mut self, index: usize, entry: Entry, last: &[u8]) {
        let Owner::Client {
            index: client,
            generation,
            seq,
        } = entry.owner
        else {
            return;
        };
        self.count_reply(index, entry, last.len());
        let client = client as usize;
        if self.append_piece(client, generation, seq, last) {
            // Behind a reply that nobody sees, another one may be on its way.
            let seen = !self.clients[client].is_silent(seq);
            self.complete(client, generation, seq, b"", true);
            if seen {
                self.release_held_back(client);
            }
        }
    }
}

/// Whether a node says to a command, or to a transaction, that its user may not do this: none of it has run.
pub(in crate::worker) fn is_refused(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOPERM") || reply.starts_with(EXEC_REFUSED)
}

/// Errors that the operator must mend; a client must never see them, and the link that brought them is useless.
#[cold]
pub(in crate::worker) fn is_node_fault(reply: &[u8]) -> bool {
    const FAULTS: [&[u8]; 5] = [
        b"-NOAUTH",
        b"-WRONGPASS",
        b"-ERR Protocol error",
        b"-MOVED ",
        b"-ASK ",
    ];
    FAULTS.iter().any(|fault| reply.starts_with(fault))
}

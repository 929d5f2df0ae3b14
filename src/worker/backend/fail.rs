//! When a node does not answer: who is told what.
//!
//! | the request | is answered |
//! |---|---|
//! | was never sent, the node is down | `CLUSTERDOWN` (not run) |
//! | was never sent, waited too long | `TRYAGAIN` (not run) |
//! | was sent in part only: a node runs whole frames | `TRYAGAIN` (not run) |
//! | was sent, its reply did not come | `UNCERTAIN` (may or may not have run) |
//! | several frames, and one that counts was sent | `UNCERTAIN` |
//! | a TLS session has encrypted it, and the socket has not taken all of that | `UNCERTAIN` |
//!
//! Nothing that was sent is ever sent again.

use super::link::{Link, Reading, State};
use super::queue::{Entry, Owner};
use crate::ids::{NodeIndex, ShardId};
use crate::merge::Outcome;
use crate::metrics::{Disconnect, Limit, LinkClose};
use crate::resp;
use crate::worker::engine::Engine;

impl Engine {
    /// The link's connection has ended. What was sent is answered `UNCERTAIN`; what is queued waits for the next one.
    pub(in crate::worker) fn link_closed(&mut self, index: usize, why: LinkClose) {
        let link = &mut self.links[index];
        let mut unsent = link.unsent();
        link.state = State::Connecting;
        link.stream = None;
        link.redials = false;
        link.close = None;
        link.write_blocked = false;
        link.db = None;
        link.scanner = resp::ReplyScanner::default();
        link.frames_seen = 0;
        link.answer = Vec::new();
        link.told.forget();
        link.partial = Vec::new();
        link.batches.clear();
        let mid_reply = std::mem::replace(&mut link.reading, Reading::Whole) == Reading::Stream;
        link.out.clear(&mut self.spares);
        let due = std::mem::take(&mut link.due);
        if let Some(kept) = &mut link.kept {
            kept.forget_due();
        }
        link.due_bytes = 0;
        link.selects_due = 0;
        link.answered += due.len() as u64;
        let node = link.node;
        link.cells.link_closed(link.wire(), why);
        // From the back: what the kernel did not take never ran.
        let last_sent = due.iter().rposition(|entry| {
            let may_have_run = link.may_have_run(entry, unsent);
            unsent = unsent.saturating_sub(entry.bytes as usize);
            may_have_run
        });
        let first_unsent = last_sent.map_or(0, |last_sent| last_sent + 1);
        if !due.is_empty() {
            let name = self.node_name(node);
            tracing::warn!(event = "link_closed", node = name, reason = ?why, in_flight = due.len());
        }
        for (place, entry) in due.into_iter().enumerate() {
            if place == 0 && mid_reply {
                self.partial_reply(entry);
            } else if place >= first_unsent {
                self.not_run(
                    entry,
                    "TRYAGAIN",
                    "the connection to its node was lost before it was sent",
                );
            } else {
                self.uncertain(entry);
            }
        }
        self.release_parked(index);
    }

    /// The node cannot be reached: nothing that waits for it will run.
    pub(in crate::worker) fn link_down(&mut self, index: usize) {
        self.links[index].state = State::Down;
        self.refuse_queued(index, "CLUSTERDOWN", "its node is down");
    }

    /// Answers everything that is queued and not sent.
    pub(in crate::worker) fn refuse_queued(&mut self, index: usize, word: &str, why: &str) {
        while let Some(entry) = self.links[index].backlog.pop() {
            self.not_run(entry, word, why);
        }
        self.wake_waiting(index);
    }

    /// Looks for requests past their deadline. Called by the sweep, never per request.
    pub(in crate::worker) fn link_deadlines(&mut self, index: usize) {
        if self.links[index].state == State::Gate {
            return self.expire_held(index);
        }
        let limits = &self.settings.limits;
        let silence_max = limits.silence_max_us;
        let deadline = match limits.request_timeout_us {
            // A node that stands still must not keep the next topology, and all behind it, from this worker.
            0 if self.holds_up_adoption(index) => silence_max,
            0 => return,
            deadline => {
                self.expire_queued(index, deadline / 2);
                deadline
            }
        };
        let overdue = self.links[index]
            .batches
            .front()
            .is_some_and(|batch| self.now - batch.at >= deadline);
        if overdue {
            self.expire_due(index, deadline);
        }
        let link = &mut self.links[index];
        if link.state == State::Silent && self.now - link.silent_since >= silence_max {
            if link.close.replace(LinkClose::Timeout).is_none() {
                self.metrics.limits[Limit::LateReplies].inc();
            }
            link.wake();
        }
    }

    /// Requests that waited half a deadline without being sent are given back.
    fn expire_queued(&mut self, index: usize, wait_max: u64) {
        if self.links[index].backlog.is_empty() {
            return;
        }
        let now = self.now32();
        for entry in self.links[index].backlog.take_older(now, wait_max) {
            self.metrics.limits[Limit::QueueWait].inc();
            self.not_run(entry, "TRYAGAIN", "it waited too long for its node");
        }
        self.admit_waiting(index);
    }

    /// Requests that were sent and not answered in time are answered `UNCERTAIN`; their replies stay due.
    fn expire_due(&mut self, index: usize, deadline: u64) {
        let link = &mut self.links[index];
        let expired_end = link
            .batches
            .iter()
            .take_while(|batch| self.now - batch.at >= deadline)
            .last();
        let Some(end) = expired_end.map(|batch| batch.end) else {
            return;
        };
        let count = usize::try_from(end.saturating_sub(link.answered))
            .unwrap_or(0)
            .min(link.due.len());
        let mid_reply = link.reading == Reading::Stream;
        if link.state == State::Ready {
            link.state = State::Silent;
            link.silent_since = self.now;
        }
        let mut expired = Vec::new();
        for (place, entry) in link.due.iter_mut().take(count).enumerate() {
            let counts = matches!(entry.owner, Owner::Client { .. } | Owner::Gather { .. });
            if counts && !(place == 0 && mid_reply) {
                expired.push(*entry);
                entry.owner = Owner::Tombstone;
            }
        }
        self.links[index].cells.timeouts.add(expired.len() as u64);
        self.metrics.limits[Limit::RequestTimeout].add(expired.len() as u64);
        for entry in expired {
            self.uncertain(entry);
        }
        self.refuse_queued(index, "CLUSTERDOWN", "its node does not answer");
    }

    /// Tells the owner of a request that it has not run.
    pub(in crate::worker) fn not_run(&mut self, entry: Entry, word: &str, why: &str) {
        let line = format!("{word} preshard: shard {}: {why}; it has not run", entry.shard);
        self.tell(entry, &line, Outcome::NotRun(&line));
    }

    fn uncertain(&mut self, entry: Entry) {
        let line = format!(
            "UNCERTAIN preshard: shard {}: sent, no answer; it may have run",
            entry.shard
        );
        self.tell(entry, &line, Outcome::Uncertain(&line));
    }

    fn tell(&mut self, entry: Entry, line: &str, outcome: Outcome<'_>) {
        match entry.owner {
            Owner::Client {
                index,
                generation,
                seq,
            } => {
                self.complete(index as usize, generation, seq, &resp::error_line(line), false);
            }
            Owner::Gather {
                index,
                generation,
                part,
            } => {
                self.gather_part(index as usize, generation, part, outcome);
            }
            Owner::Select | Owner::Tombstone | Owner::Order => {}
        }
    }

    /// A client has half of a reply whose rest will not come: the only honest end is to close it.
    fn partial_reply(&mut self, entry: Entry) {
        if let Owner::Client {
            index,
            generation,
            seq,
        } = entry.owner
        {
            if !self.client_is_gone(index as usize, generation) && self.clients[index as usize].is_silent(seq)
            {
                self.uncertain(entry);
                return;
            }
            self.close_client(index as usize, generation, Disconnect::PartialReply);
        }
    }

    /// A node's name as the topology gives it.
    pub(in crate::worker) fn node_name(&self, node: NodeIndex) -> &str {
        self.topology
            .nodes
            .get(node.index())
            .map_or("?", |node| node.name.as_str())
    }

    /// Why a shard cannot take requests now, if it cannot.
    pub(in crate::worker) fn refusal_of(link: &Link, shard: ShardId) -> Option<String> {
        let why = match link.state {
            State::Idle | State::Connecting | State::Ready | State::Gate => return None,
            State::Silent => "its node does not answer",
            State::Down => "its node is down",
        };
        Some(format!(
            "CLUSTERDOWN preshard: shard {shard}: {why}; it has not run"
        ))
    }
}

#[cfg(test)]
#[path = "fail_tests.rs"]
mod tests;

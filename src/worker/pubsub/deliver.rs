//! From a node's frames to the outputs of clients.
//!
//! A message is encoded once for each protocol version and subscription, and appended to the outputs of all that
//! listen; a large one is shared. Clients are written to a few at a time, so that a message for thousands costs
//! many short turns instead of one long one, and what has gathered meanwhile goes out in the same write.

use bytes::Bytes;

use super::hub::Delivery;
use crate::ids::NodeIndex;
use crate::metrics::{Disconnect, Limit, LinkClose};
use crate::resp::Protocol;
use crate::worker::engine::Engine;
use crate::worker::outbuf::LARGE_BYTES;

/// Clients written to in one turn of a feed: each is a system call of some microseconds, and who asks something
/// meanwhile waits for them.
const FLUSHES_PER_TURN: usize = 16;

/// Bytes handed out and not written, of all clients together, from which on nothing more is handed out.
const UNFLUSHED_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Engine {
    /// Handles what a node has said, as far as the budget goes. Returns whether all is handled that has come.
    pub(super) fn feed_input(&mut self, node: NodeIndex, budget: &mut usize) -> Result<bool, LinkClose> {
        let feed = &mut self.pubsub.feeds[node.index()];
        let mut input = std::mem::take(&mut feed.input);
        let mut scanner = std::mem::take(&mut feed.scanner);
        let mut scanned = std::mem::take(&mut feed.scanned);
        let mut skips = feed.skips;
        let mut at = 0;
        let mut subs = Vec::new();
        let mut outcome = Ok(false);
        while *budget > 0 {
            match scanner.feed(&input[at + scanned..]) {
                Ok(Some(end)) => {
                    let frame = &input[at..at + scanned + end];
                    at += frame.len();
                    scanned = 0;
                    *budget -= 1;
                    if std::mem::take(&mut skips) {
                        continue;
                    }
                    if let Err(why) = self.feed_frame(node, frame, &mut subs, budget) {
                        outcome = Err(why);
                        break;
                    }
                }
                Ok(None) => {
                    scanned = input.len() - at;
                    if skips || scanned > self.settings.limits.output_hard {
                        if !std::mem::replace(&mut skips, true) {
                            self.too_large(node, &input[at..], &mut subs);
                        }
                        at = input.len();
                        scanned = 0;
                    }
                    outcome = Ok(true);
                    break;
                }
                Err(_) => {
                    outcome = Err(LinkClose::BadReply);
                    break;
                }
            }
        }
        input.drain(..at);
        let feed = &mut self.pubsub.feeds[node.index()];
        feed.input = input;
        feed.scanner = scanner;
        feed.scanned = scanned;
        feed.skips = skips;
        self.pass_on_emptied();
        outcome
    }

    fn feed_frame(
        &mut self,
        node: NodeIndex,
        frame: &[u8],
        subs: &mut Vec<usize>,
        budget: &mut usize,
    ) -> Result<(), LinkClose> {
        if let Some(cost) = self.invalidation(frame) {
            *budget = budget.saturating_sub(cost);
            return Ok(());
        }
        let tracked = self.pubsub.hub.tracks(node);
        let heard = self.pubsub.hub.handle_frame(node, frame, subs);
        if !tracked && self.pubsub.hub.tracks(node) {
            self.tracking_gap(node, false);
        }
        let Some(delivery) = heard.map_err(|_| LinkClose::ExtraReply)? else {
            return Ok(());
        };
        self.metrics.pubsub_messages.inc();
        for &sub in &*subs {
            let count = self.deliver_message(sub, &delivery);
            *budget = budget.saturating_sub(count);
        }
        Ok(())
    }

    /// Appends a message to the outputs of all clients of a subscription. Returns how many.
    fn deliver_message(&mut self, sub: usize, delivery: &Delivery<'_>) -> usize {
        let mut encoded: [Option<Bytes>; 2] = [None, None];
        let clients: Vec<usize> = self.pubsub.hub.clients(sub).collect();
        for &client in &clients {
            let protocol = self.clients[client].protocol;
            let frame = match &encoded[protocol as usize] {
                Some(frame) => frame.clone(),
                None => {
                    let mut frame = Vec::new();
                    self.pubsub.hub.encode(sub, delivery, protocol, &mut frame);
                    encoded[protocol as usize].insert(Bytes::from(frame)).clone()
                }
            };
            self.push_message(client, &frame);
        }
        self.metrics.pubsub_deliveries.add(clients.len() as u64);
        clients.len()
    }

    /// Appends a message to a client's output, at the next place between two replies.
    pub(in crate::worker) fn push_message(&mut self, index: usize, frame: &Bytes) {
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        if self.draining
            || client.closed.is_some()
            || client.closing.is_some()
            || client.lingering_until.is_some()
        {
            return;
        }
        if client.streams {
            client.held_back.extend_from_slice(frame);
        } else if frame.len() >= LARGE_BYTES {
            client.out.push_large(frame.clone());
        } else {
            client.out.push(frame, &mut self.spares);
        }
        let generation = client.generation;
        self.pubsub.unflushed_bytes += frame.len();
        if !std::mem::replace(&mut client.unflushed, true) {
            self.pubsub.unflushed.push_back((index, generation));
        }
        if client.output_bytes() > self.settings.limits.output_hard {
            self.listener_over(index, generation);
        }
    }

    /// A listener does not keep up.
    #[cold]
    fn listener_over(&mut self, index: usize, generation: u32) {
        self.metrics.limits[Limit::OutputHard].inc();
        self.close_client(index, generation, Disconnect::SlowSubscriber);
    }

    /// Nobody may hold as much as this message has: whom it is for is closed, as for any other output that is too large.
    #[cold]
    fn too_large(&mut self, node: NodeIndex, start: &[u8], subs: &mut Vec<usize>) {
        if self.large_invalidation(start) {
            return;
        }
        self.pubsub.hub.handle_oversized(node, start, subs);
        for &sub in &*subs {
            let clients: Vec<usize> = self.pubsub.hub.clients(sub).collect();
            for client in clients {
                let generation = self.clients[client].generation;
                self.listener_over(client, generation);
            }
        }
    }

    /// Writes to some of the clients that have got messages. Returns whether there are more.
    pub(super) fn flush_listeners(&mut self) -> bool {
        for _ in 0..FLUSHES_PER_TURN {
            let Some((index, generation)) = self.pubsub.unflushed.pop_front() else {
                break;
            };
            if let Some(client) = self.clients.get_mut(index)
                && client.generation == generation
            {
                client.unflushed = false;
                if !client.out.is_empty() && !client.write_blocked && client.closed.is_none() {
                    self.flush_client(index);
                }
            }
        }
        if self.pubsub.unflushed.is_empty() {
            self.pubsub.unflushed_bytes = 0;
        }
        self.pubsub.unflushed_bytes > 0
    }

    /// Whether so much was handed out that it has to be written before there is more: outputs would grow of readers that
    /// are not slow.
    pub(super) fn must_flush_first(&self) -> bool {
        self.pubsub.unflushed_bytes > UNFLUSHED_BYTES_MAX
    }

    /// A reply that was passed on in pieces has ended: what was held back meanwhile follows it.
    pub(in crate::worker) fn release_held_back(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        client.streams = false;
        if !client.held_back.is_empty() && client.closed.is_none() {
            let held = std::mem::take(&mut client.held_back);
            client.out.push_large(Bytes::from(held));
            self.mark_dirty(index);
        }
    }

    /// Answers the requests about subscriptions that nodes have confirmed.
    pub(in crate::worker) fn answer_subscribers(&mut self) {
        while let Some(answer) = self.pubsub.hub.poll_answer() {
            if !self.client_is_gone(answer.client, answer.generation) {
                self.tracking_answered(answer.client, answer.refused);
            }
            self.complete(
                answer.client,
                answer.generation,
                answer.seq,
                &answer.reply,
                answer.refused,
            );
            if !self.client_is_gone(answer.client, answer.generation) {
                self.show_subscriptions(answer.client);
            }
        }
    }

    /// What the session must know of its subscriptions.
    pub(in crate::worker) fn show_subscriptions(&mut self, index: usize) {
        use crate::worker::session::Special;
        use std::sync::atomic::Ordering::Relaxed;
        let count = self.pubsub.hub.count(index);
        let waiting = self.pubsub.hub.waiting(index);
        let client = &mut self.clients[index];
        let [sub, psub, ssub] = count.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        client.info.sub.store(sub, Relaxed);
        client.info.psub.store(psub, Relaxed);
        client.info.ssub.store(ssub, Relaxed);
        if waiting > 0 {
            client.special.set(Special::SUBSCRIBING);
        } else {
            client.special.unset(Special::SUBSCRIBING);
        }
        client.listens = count.iter().any(|&count| count > 0);
        if client.listens && client.protocol == Protocol::Resp2 {
            client.special.set(Special::SUBSCRIBED);
        } else {
            client.special.unset(Special::SUBSCRIBED);
        }
    }
}

//! The reply queue: replies come from nodes in any order and leave in the order that was asked.
//!
//! A client is written to when all the requests that came with one read are answered, when enough has gathered, or
//! when what is ready has waited a moment for something slow. So a pipeline of a hundred costs one system call, a
//! client that multiplexes unrelated requests does not wait for the last of them, and a slow shard does not withhold
//! what other shards have answered.

use std::collections::VecDeque;

use super::client::{Marks, Pause, Slot};
use crate::command::CommandId;
use crate::metrics::{Disconnect, ErrorCode, Limit, Origin, RequestClass};
use crate::resp;
use crate::worker::engine::Engine;

/// Ready bytes from which a client is written to though its pipeline is not fully answered.
const FLUSH_BYTES: usize = 16 * 1024;
/// How long ready replies wait for the next of those that were asked with them, in microseconds.
const CORK_US: u64 = 1_000;
/// How much longer for each reply that is due: each early write costs a long pipeline a system call.
const CORK_PER_REPLY_US: u64 = 20;
const CORK_LONGEST_US: u64 = 3_000;
/// How many times as long they wait in all while others keep coming.
const CORKS_MAX: u64 = 10;
/// From this size on a reply is written to the socket straight from the bytes that the node sent.
const DIRECT_BYTES: usize = 4 * 1024;
/// Reply queues larger than this are freed when they are empty.
const KEPT_SLOTS: usize = 256;

impl Engine {
    /// The next place in a client's reply queue: index and sequence number of the request.
    #[inline]
    pub(in crate::worker) fn push_slot(
        &mut self,
        index: usize,
        command: CommandId,
        bytes: usize,
        class: RequestClass,
    ) -> u32 {
        let since = self.now32();
        let client = &mut self.clients[index];
        let seq = client.next_seq();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        client.request_bytes += bytes as usize;
        let mut marks = Marks::default();
        if client.special.is_silent() {
            marks.set(Marks::SILENT);
        }
        client.slots.push_back(Slot {
            parked: None,
            since,
            bytes,
            command,
            class,
            marks,
        });
        seq
    }

    /// Answers a request that the proxy handles by itself, in its turn.
    pub(in crate::worker) fn answer(&mut self, index: usize, reply: &[u8], class: RequestClass) {
        if reply.first() == Some(&b'-') {
            self.metrics.errors[Origin::Proxy][ErrorCode::of(reply)].inc();
        }
        if self.clients[index].special.is_silent() {
            self.metrics.request_duration[class].observe(0);
            return;
        }
        self.answer_aloud(index, reply, class);
    }

    /// Answers even a client that wants no replies: what is said about channels is said in any case.
    pub(in crate::worker) fn answer_aloud(&mut self, index: usize, reply: &[u8], class: RequestClass) {
        let Self { clients, spares, .. } = self;
        let client = &mut clients[index];
        if client.slots.is_empty() {
            client.out.push(reply, spares);
            self.metrics.request_duration[class].observe(0);
            self.mark_dirty(index);
            return;
        }
        let _ = self.push_slot(index, CommandId::NONE, 0, class);
        let client = &mut self.clients[index];
        let place = client.slots.len() - 1;
        client.park(place, reply, &mut self.spares);
    }

    /// Answers with an error line, given without its `-`.
    pub(in crate::worker) fn answer_error(&mut self, index: usize, line: &str) {
        self.answer(index, &resp::error_line(line), RequestClass::Local);
    }

    /// The reply of request `seq` has come, or (after pieces that were passed on) its last bytes.
    #[inline]
    pub(in crate::worker) fn complete(
        &mut self,
        index: usize,
        generation: u32,
        seq: u32,
        reply: &[u8],
        from_node: bool,
    ) {
        let now = self.now32();
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        // Who is being closed may have been cut in the middle of a reply: not a byte may follow it.
        if client.generation != generation || client.closed.is_some() {
            return;
        }
        let place = seq.wrapping_sub(client.head_seq) as usize;
        let Some(slot) = client.slots.get_mut(place) else {
            return;
        };
        let took = now.wrapping_sub(slot.since);
        self.metrics.request_duration[slot.class].observe(took);
        if reply.first() == Some(&b'-') {
            let origin = if from_node { Origin::Node } else { Origin::Proxy };
            self.metrics.errors[origin][ErrorCode::of(reply)].inc();
        }
        let reply = if slot.marks.has(Marks::SILENT) { b"" } else { reply };
        client.request_bytes -= slot.bytes as usize;
        client.replied_at = self.now;
        if took >= self.slow_us {
            self.answered_slowly(index, place, took);
        }
        let Self { clients, spares, .. } = self;
        let client = &mut clients[index];
        if place > 0 {
            client.slots[place].bytes = 0;
            client.park(place, reply, spares);
            if client.output_bytes() > self.settings.limits.output_hard {
                self.output_over(index);
            }
            return;
        }
        client.take_head();
        if reply.len() >= DIRECT_BYTES
            && client.slots.is_empty()
            && client.out.is_empty()
            && !client.write_blocked
        {
            let written = client.stream.try_write(reply).unwrap_or(0);
            self.metrics.transmit_bytes.add(written as u64);
            client.transmitted += written as u64;
            client.out.push(&reply[written..], spares);
        } else {
            client.out.push(reply, spares);
            client.unpark(spares);
        }
        if client.invalidations.is_some() {
            self.release_invalidations(index);
        }
        self.after_append(index);
    }

    /// Bytes were appended to a client's output: look at limits, let it go on, have it flushed.
    #[inline]
    fn after_append(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.slots.is_empty() {
            if client.slots.capacity() > KEPT_SLOTS {
                client.slots = VecDeque::new();
            }
            if client.parked.capacity() > 0 {
                self.spares.give(std::mem::take(&mut client.parked));
            }
        }
        if client.output_bytes() > self.settings.limits.output_hard {
            self.output_over(index);
            return;
        }
        if client.pause != Pause::No || client.closing.is_some() || client.read_ended || self.draining {
            client.wake();
        }
        self.mark_dirty(index);
    }

    /// Passes a piece of a large reply on. `false` if its client is gone.
    pub(in crate::worker) fn append_piece(
        &mut self,
        index: usize,
        generation: u32,
        seq: u32,
        piece: &[u8],
    ) -> bool {
        if self.client_is_gone(index, generation) {
            return false;
        }
        let client = &mut self.clients[index];
        if client.is_silent(seq) {
            return true;
        }
        client.streams = true;
        let mut written = 0;
        if client.out.is_empty() && !client.write_blocked {
            written = client.stream.try_write(piece).unwrap_or(0);
            self.metrics.transmit_bytes.add(written as u64);
            client.transmitted += written as u64;
        }
        client.out.push(&piece[written..], &mut self.spares);
        self.after_append(index);
        true
    }

    /// Whether a client has left, or is about to.
    pub(in crate::worker) fn client_is_gone(&self, index: usize, generation: u32) -> bool {
        self.clients
            .get(index)
            .is_none_or(|client| client.generation != generation || client.closed.is_some())
    }

    /// Whether the reply of request `seq` need not be kept: it is the next one that the client is owed, or is not to
    /// reach it at all.
    pub(in crate::worker) fn is_turn_of(&self, index: usize, seq: u32) -> bool {
        self.clients
            .get(index)
            .is_some_and(|client| client.head_seq == seq || client.is_silent(seq))
    }

    /// Closes a client that would have to hold more than the limit with `held` bytes of a reply in the making.
    pub(in crate::worker) fn client_output_over(&mut self, index: usize, held: usize) -> bool {
        let over = self.clients[index].output_bytes() + held > self.settings.limits.output_hard;
        if over {
            self.output_over(index);
        }
        over
    }

    /// One of a client's gathers holds `more` bytes, `held` in all. A gather that is too large by itself answers so; a
    /// client that has as much in other replies is closed.
    pub(in crate::worker) fn client_gathers(
        &mut self,
        index: usize,
        generation: u32,
        more: usize,
        held: usize,
    ) {
        if self.client_is_gone(index, generation) {
            return;
        }
        let client = &mut self.clients[index];
        client.gathered += more;
        if client.output_bytes() - held > self.settings.limits.output_hard {
            self.output_over(index);
        }
    }

    #[cold]
    fn output_over(&mut self, index: usize) {
        self.metrics.limits[Limit::OutputHard].inc();
        let generation = self.clients[index].generation;
        self.close_client(index, generation, Disconnect::OutputLimit);
    }

    /// Has a client closed by its session, and frees what it holds at once.
    pub(in crate::worker) fn close_client(&mut self, index: usize, generation: u32, why: Disconnect) {
        if self.client_is_gone(index, generation) {
            return;
        }
        let client = &mut self.clients[index];
        client.closed = Some(why);
        client.out.clear(&mut self.spares);
        client.parked = Vec::new();
        client.parked_live = 0;
        client.held_back = Vec::new();
        client.invalidations = None;
        client.slots.iter_mut().for_each(|slot| slot.parked = None);
        client.wake();
    }

    #[inline]
    pub(in crate::worker) fn mark_dirty(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Writes to the clients that are due. Called at the end of every turn of a task.
    pub(in crate::worker) fn flush_clients(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            if let Some(client) = self.clients.get_mut(index) {
                client.dirty = false;
                self.flush_or_cork(index);
            }
        }
        self.dirty = dirty;
        if !self.corked.is_empty() && self.now - self.uncorked_at >= CORK_US {
            self.uncorked_at = self.now;
            let mut corked = std::mem::take(&mut self.corked);
            corked.retain(|&index| self.still_corked(index));
            // Flushing never corks, so nothing was added meanwhile.
            self.corked = corked;
        }
    }

    fn flush_or_cork(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.out.is_empty() || client.write_blocked || client.closed.is_some() {
            return;
        }
        if client.slots.is_empty() || client.flush_due || client.out.len() >= FLUSH_BYTES {
            client.flush_due = false;
            // What is held back from now on waits anew.
            client.corked_at = self.now;
            self.flush_client(index);
        } else if !client.corked {
            client.corked = true;
            client.corked_at = self.now;
            self.corked.push(index);
            self.wake_sweep();
        }
    }

    /// Whether a client's replies go on waiting for the rest of their pipeline.
    fn still_corked(&mut self, index: usize) -> bool {
        let Some(client) = self.clients.get_mut(index) else {
            return false;
        };
        if !client.corked {
            return false;
        }
        let nothing = client.out.is_empty() || client.write_blocked || client.closed.is_some();
        let cork = (CORK_US + CORK_PER_REPLY_US * client.slots.len() as u64).min(CORK_LONGEST_US);
        let still_coming =
            self.now - client.replied_at < cork && self.now - client.corked_at < CORKS_MAX * cork;
        if !nothing && still_coming {
            return true;
        }
        client.corked = false;
        if !nothing {
            self.flush_client(index);
        }
        false
    }

    /// Writes what a client's socket takes.
    pub(in crate::worker) fn flush_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let before = client.out.len();
        match client.out.write_to(&mut client.stream, &mut self.spares) {
            Ok(done) => {
                let written = before - client.out.len();
                client.transmitted += written as u64;
                // The wait for a socket begins when it is first found full, however long ago a byte was written.
                if written > 0 || !client.write_blocked {
                    client.progress_at = self.now;
                }
                client.write_blocked = !done;
                let waits = client.pause != Pause::No || client.closing.is_some() || client.read_ended;
                if !done || waits || self.draining {
                    client.wake();
                }
                self.metrics.transmit_bytes.add(written as u64);
            }
            Err(_) => {
                let generation = client.generation;
                self.close_client(index, generation, Disconnect::Client);
            }
        }
    }
}

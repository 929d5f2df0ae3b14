//! A client's session: read → requests → reply queue → write.
//!
//! ```text
//!  socket ─read─▶ input ─request─▶ dispatch ─▶ shard queue (one shard) · gather (many) · local (none)
//!                                                  │                        │              │
//!  socket ◀─write── flush ◀── reply queue ◀────────┴────────── replies ─────┴──────────────┘
//! ```
//!
//! The task below is one state machine that never awaits in the middle of something: each turn it reads what has
//! come, hands it to the engine, and writes what the socket takes. Replies are mostly written by the link's task
//! that brought them, so a session is not even woken for them.

mod access;
mod blocking;
mod client;
mod dispatch;
mod helper;
mod input;
#[cfg(test)]
mod input_tests;
mod kill;
mod local;
mod replicas;
mod reply;
#[cfg(test)]
mod reply_tests;
mod script;
#[cfg(test)]
mod testing;
mod transaction;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::BufMut as _;
use tokio::io::ReadBuf;

pub(super) use access::Access;
pub(super) use blocking::{SLACK, is_unblock, micros};
pub(super) use client::{Client, Marks, Pause, Special, Via};
pub(super) use dispatch::{Admission, to_u32};
pub(super) use input::Taken;
pub(super) use local::number;

use super::engine::Engine;
use crate::metrics::Disconnect;

/// Reads of one client in one turn: the others must not wait for a client that never stops sending.
const READS_PER_TURN: usize = 4;
/// How long a client that was said goodbye to may take to close, in microseconds.
const LINGER_US: u64 = 1_000_000;

/// Serves a client until it leaves.
pub(super) async fn serve(engine: Rc<RefCell<Engine>>, index: usize) {
    let mut leaving = Leaving {
        engine,
        index,
        why: Disconnect::Fault,
    };
    leaving.why = std::future::poll_fn(|cx| {
        let mut engine = leaving.engine.borrow_mut();
        engine.begin_turn();
        let turn = engine.session_turn(index, cx);
        engine.end_turn();
        turn
    })
    .await;
}

/// Takes the client away when its session ends, by a panic too: no socket stays open with nobody behind it.
struct Leaving {
    engine: Rc<RefCell<Engine>>,
    index: usize,
    why: Disconnect,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Ok(mut engine) = self.engine.try_borrow_mut()
            && engine.clients.contains(self.index)
        {
            engine.remove_client(self.index, self.why);
        }
    }
}

impl Engine {
    fn session_turn(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<Disconnect> {
        let client = &mut self.clients[index];
        if client
            .waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            client.waker = Some(cx.waker().clone());
            client.info.set_waker(cx.waker().clone());
        }
        if client.write_blocked && client.closed.is_none() {
            self.write_when_ready(index, cx);
        }
        if self.clients[index].partial.is_some() && self.clients[index].pause != Pause::No {
            self.resume_input(index);
        }
        for read in 0..READS_PER_TURN {
            if !self.may_read(index) {
                self.look_whether_killed(index, read);
                return self.session_state(index, cx);
            }
            match self.read_once(index, cx) {
                Poll::Pending => {
                    self.look_whether_killed(index, read);
                    return self.session_state(index, cx);
                }
                Poll::Ready(Ok(0)) => {
                    self.clients[index].read_ended = true;
                    return self.session_state(index, cx);
                }
                Poll::Ready(Ok(count)) => self.metrics.receive_bytes.add(count as u64),
                Poll::Ready(Err(_)) => return Poll::Ready(Disconnect::Client),
            }
        }
        cx.waker().wake_by_ref();
        self.session_state(index, cx)
    }

    /// A turn that has read nothing may have been asked for by who has killed the client.
    #[inline]
    fn look_whether_killed(&mut self, index: usize, read: usize) {
        if read == 0 && self.clients[index].info.killed.load(Relaxed) {
            let generation = self.clients[index].generation;
            self.close_client(index, generation, Disconnect::AdminKill);
        }
    }

    fn may_read(&self, index: usize) -> bool {
        let client = &self.clients[index];
        // A client that asks again as soon as it is answered would never be let go.
        !self.draining
            && (client.pause == Pause::No || client.may_leave())
            && !client.read_ended
            && client.closing.is_none()
            && client.closed.is_none()
            && client.lingering_until.is_none()
    }

    /// One read: into the worker's scratch, or into the client's own buffer if it has the start of a request there.
    fn read_once(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.clients[index].partial.is_some() {
            return self.read_into_partial(index, cx);
        }
        let mut scratch = self.take_scratch();
        let mut buf = ReadBuf::new(&mut scratch);
        let read = self.clients[index].stream.poll_read(cx, &mut buf);
        let count = buf.filled().len();
        if count > 0 {
            self.note_received(index, count);
            self.client_input(index, &scratch[..count]);
        }
        self.scratch = scratch;
        read.map_ok(|()| count)
    }

    fn read_into_partial(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.reserve_input(index) {
            return Poll::Pending;
        }
        let client = &mut self.clients[index];
        let Some(partial) = &mut client.partial else {
            return Poll::Pending;
        };
        // A large argument is read straight to where it stays; small leftovers go through the scratch.
        let wanted = partial.missing.max(16 * 1024);
        let mut scratch = std::mem::take(&mut self.scratch);
        let count = if scratch.len() >= wanted {
            let mut buf = ReadBuf::new(&mut scratch);
            let read = client.stream.poll_read(cx, &mut buf);
            partial.buf.put_slice(buf.filled());
            read.map_ok(|()| buf.filled().len())
        } else {
            client.stream.poll_read_buf(cx, &mut partial.buf)
        };
        self.scratch = scratch;
        if let Poll::Ready(Ok(received @ 1..)) = count {
            self.note_received(index, received);
            self.resume_input(index);
        }
        count
    }

    fn note_received(&mut self, index: usize, count: usize) {
        let now_ms = self.now_ms();
        let client = &mut self.clients[index];
        client.active_ms = now_ms;
        client.received += count as u64;
    }

    fn write_when_ready(&mut self, index: usize, cx: &mut Context<'_>) {
        let client = &mut self.clients[index];
        match client.stream.poll_write_ready(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                self.flush_client(index);
                // Full again: ask to be told, or this client would never be written to.
                let client = &mut self.clients[index];
                if client.write_blocked && client.stream.poll_write_ready(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Ready(Err(_)) => {
                let generation = client.generation;
                self.close_client(index, generation, Disconnect::Client);
            }
        }
    }

    /// Whether the session is over, and why.
    fn session_state(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<Disconnect> {
        let (draining, now) = (self.draining, self.now);
        let client = &mut self.clients[index];
        if let Some(why) = client.closed {
            return Poll::Ready(why);
        }
        if client.lingering_until.is_some() {
            return self.linger(index, cx);
        }
        // Redis too does not wait for data on behalf of who has sent the end.
        if client.read_ended && client.waits_at.is_some() {
            return Poll::Ready(Disconnect::Client);
        }
        let answered = client.slots.is_empty();
        // What waits for the end of a pause does not run for who has left, as in Redis.
        if client.read_ended && client.pause == Pause::Clients && answered && client.out.is_empty() {
            return Poll::Ready(Disconnect::Client);
        }
        if answered && client.pause == Pause::Barrier {
            cx.waker().wake_by_ref();
            client.pause = Pause::No;
            self.resume_input(index);
            return Poll::Pending;
        }
        let waits = client.pause != Pause::No && client.partial.is_some();
        if !answered || waits {
            return Poll::Pending;
        }
        if !client.out.is_empty() && !client.write_blocked {
            self.flush_client(index);
        }
        let client = &mut self.clients[index];
        if !client.out.is_empty() {
            return Poll::Pending;
        }
        if let Some(why) = client.closing {
            // Closing a socket with unread bytes resets it, and the peer may lose the last reply with it.
            client.stream.shutdown_write();
            client.lingering_until = Some(now + LINGER_US);
            client.closing = Some(why);
            return self.linger(index, cx);
        }
        if client.read_ended {
            return Poll::Ready(Disconnect::Client);
        }
        if draining {
            client.closing = Some(Disconnect::Drain);
            client.stream.shutdown_write();
            client.lingering_until = Some(now + LINGER_US);
            return self.linger(index, cx);
        }
        Poll::Pending
    }

    /// Reads and throws away until the peer closes or its time is up.
    fn linger(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<Disconnect> {
        let mut scratch = self.take_scratch();
        let client = &mut self.clients[index];
        let why = client.closing.unwrap_or(Disconnect::Client);
        let over = client.lingering_until.is_none_or(|until| until <= self.now);
        let mut outcome = if over { Poll::Ready(why) } else { Poll::Pending };
        let mut reads = 0;
        while outcome.is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match client.stream.poll_read(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => reads += 1,
                Poll::Ready(_) => outcome = Poll::Ready(why),
            }
            if reads == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.scratch = scratch;
        outcome
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    /// A client has left: its memory goes, replies that still come find nobody.
    pub(super) fn remove_client(&mut self, index: usize, why: Disconnect) {
        let mut client = self.clients.remove(index);
        self.held_bytes -= client.held_bytes();
        self.forget_listener(index);
        client.out.clear(&mut self.spares);
        // One that was given up may be another client's by now.
        let watching = client.watching.filter(|watching| !watching.lost);
        let own = [client.waits_at, watching.map(|watching| watching.at)];
        own.into_iter()
            .flatten()
            .for_each(|at| self.abandon_dedicated(at));
        self.shared.registry.remove(client.info.id);
        self.metrics.disconnects[why].inc();
        self.metrics.client_connections[client.wire()].sub(1);
        client.info.killed.store(true, Relaxed);
        tracing::debug!(event = "client_left", client_id = client.info.id, reason = ?why);
    }
}

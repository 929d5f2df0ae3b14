//! The task of one dedicated connection: connect, and then one request after the other.
//!
//! ```text
//!  Ready ──job──▶ SELECT sent ──+OK──▶ request sent ──its frames──▶ answered ──▶ Ready
//!    │                │ refused             │ lost, late, odd
//!    └── lost ────────┴─────────────────────┴──▶ closed, whoever waits is told whether it may have run
//! ```

use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::sleep;

use super::{Dedicated, End, Job, RECALLED};
use crate::ids::{DbIndex, Epoch};
use crate::resp::{self, ReplyScanner};
use crate::worker::backend::{
    ConnectError, Order, Ready, connect, fence, is_node_fault, is_queued, is_step, nonce, write_select,
};
use crate::worker::engine::Engine;
use crate::worker::outbuf::OutBuf;
use crate::worker::stream::Stream;

/// What the node's end of a half-closed connection may take, in microseconds.
const GOODBYE_US: u64 = 2_000_000;
/// Between two orders to end the same wait, in microseconds.
const RECALL_AGAIN_US: u64 = 20_000;

/// Between two looks whether a topology has been heard of.
const HEARD_PACE: Duration = Duration::from_millis(2);

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing.
    Ready,
    /// The number of this connection, then `+OK` of a `SELECT`.
    Selecting(DbIndex),
    /// The frames of the request.
    Asked,
}

/// The socket and what has come over it.
struct Connection {
    stream: Stream,
    out: OutBuf,
    input: Vec<u8>,
    scanned: usize,
    scanner: ReplyScanner,
    stage: Stage,
    db: Option<DbIndex>,
    knows_itself: bool,
    frames_seen: u32,
    answer: Vec<u8>,
    /// Frame that a fence is answered with.
    fence: Vec<u8>,
    half_closed_at: Option<u64>,
    /// When the node was first told to end the wait, and when last.
    recalled_at: Option<(u64, u64)>,
}

/// Why a connection ends, as its client is told.
struct Ended(&'static str);

const NOT_SENT: &str = "TRYAGAIN preshard: the connection to its node could not be used; it has not run";
const UNKNOWN: &str = "UNCERTAIN preshard: sent, no answer; it may have run";
const ODD: &str = "UNCERTAIN preshard: its node answered what cannot be told apart; it may have run";
const LARGE: &str = "UNCERTAIN preshard: the reply is larger than output_bytes_hard; it has run";
const FAULT: &str = "CLUSTERDOWN preshard: its node refuses the proxy; it has not run";

/// Frees the place even if the task panics.
struct Guard {
    engine: Rc<RefCell<Engine>>,
    dedicated: Dedicated,
    line: &'static str,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.begin_turn();
            engine.dedicated_ended(self.dedicated, self.line);
            engine.end_turn();
        }
    }
}

/// Lives as long as its connection.
pub(super) async fn keep(engine: Rc<RefCell<Engine>>, dedicated: Dedicated, order: Order) {
    let mut guard = Guard {
        engine: Rc::clone(&engine),
        dedicated,
        line: "CLUSTERDOWN preshard: its node cannot be reached; it has not run",
    };
    let Ready { stream, mark, .. } = match connected(&engine, dedicated, order).await {
        Ok(ready) => ready,
        Err(Some(Ended(line))) => {
            guard.line = line;
            return;
        }
        Err(None) => return,
    };
    if let Err(Ended(line)) = heard(&engine, dedicated, mark).await {
        guard.line = line;
        return;
    }
    let nonce = nonce();
    let mut connection = Connection {
        stream,
        out: OutBuf::default(),
        input: Vec::new(),
        scanned: 0,
        scanner: ReplyScanner::default(),
        stage: Stage::Ready,
        db: None,
        knows_itself: false,
        frames_seen: 0,
        answer: Vec::new(),
        fence: fence(&nonce),
        half_closed_at: None,
        recalled_at: None,
    };
    let Ended(line) = std::future::poll_fn(|cx| {
        let mut engine = engine.borrow_mut();
        engine.begin_turn();
        let turn = connection.turn(&mut engine, dedicated, cx);
        engine.end_turn();
        turn
    })
    .await;
    guard.line = line;
}

/// Connects. Why not, unless the node cannot be reached.
async fn connected(
    engine: &Rc<RefCell<Engine>>,
    dedicated: Dedicated,
    mut order: Order,
) -> Result<Ready, Option<Ended>> {
    loop {
        match connect(order).await {
            Ok(ready) => return Ok(ready),
            Err(ConnectError::Frozen(_)) => {
                let mut engine = engine.borrow_mut();
                engine.begin_turn();
                let line = engine.dedicated_refused(dedicated);
                engine.end_turn();
                return Err(Some(Ended(line)));
            }
            // This worker takes the other topology over in a moment: it leads elsewhere then, or what waits is asked again.
            Err(ConnectError::Readdressed) => sleep(HEARD_PACE).await,
            Err(_) => return Err(None),
        }
        let mut engine = engine.borrow_mut();
        let Some(slot) = engine.dedicated.slot(dedicated) else {
            return Err(None);
        };
        if slot.end != End::No {
            return Err(Some(Ended(unasked(slot.end))));
        }
        let (node, protocol, user) = (slot.node, slot.protocol, slot.user.clone());
        order = engine.order_as(node, protocol, user);
    }
}

/// Waits until the worker has heard of what the node's mark has told. What was to be asked may not be asked here any more then.
async fn heard(engine: &Rc<RefCell<Engine>>, dedicated: Dedicated, mark: Epoch) -> Result<(), Ended> {
    loop {
        {
            let mut engine = engine.borrow_mut();
            let Some(slot) = engine.dedicated.slot(dedicated) else {
                return Err(Ended(NOT_SENT));
            };
            let (node, job) = (slot.node, slot.job.as_ref());
            let job = job.map(|job| (job.shard, job.again.is_some()));
            if !engine.must_hear(node, mark) {
                return match job {
                    Some((shard, again))
                        if mark > engine.topology.epoch && engine.is_lost_to(node, shard) =>
                    {
                        Err(Ended(if again { RECALLED } else { NOT_SENT }))
                    }
                    Some(_) | None => Ok(()),
                };
            }
        }
        sleep(HEARD_PACE).await;
    }
}

impl Connection {
    fn turn(&mut self, engine: &mut Engine, dedicated: Dedicated, cx: &mut Context<'_>) -> Poll<Ended> {
        let now = engine.now;
        let Some(slot) = engine.dedicated.slot(dedicated) else {
            return Poll::Ready(Ended(NOT_SENT));
        };
        if slot
            .waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            slot.waker = Some(cx.waker().clone());
        }
        if slot.end == End::Close {
            return Poll::Ready(Ended(NOT_SENT));
        }
        if slot.end != End::No && self.stage != Stage::Asked && self.half_closed_at.is_none() {
            return Poll::Ready(Ended(unasked(slot.end)));
        }
        let half_closes = matches!(slot.end, End::Gone | End::Recall);
        if half_closes && self.half_closed_at.is_none() {
            self.stream.shutdown_write();
            self.half_closed_at = Some(now);
        }
        let unblocks = matches!(slot.end, End::Unblock | End::Stop(_));
        let late = slot
            .job
            .as_ref()
            .and_then(|job| job.deadline)
            .is_some_and(|deadline| now >= deadline);
        let begins = self.stage == Stage::Ready && slot.job.is_some();
        if unblocks {
            self.recall(engine, dedicated);
        }
        if begins && let Err(ended) = self.begin(engine, dedicated) {
            return Poll::Ready(ended);
        }
        loop {
            if let Err(ended) = self.write(engine, cx) {
                return Poll::Ready(ended);
            }
            match self.read(engine, dedicated, cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(ended) => return Poll::Ready(ended),
            }
        }
        let recalled_at = self.recalled_at.map(|(first, _)| first);
        let said_at = self.half_closed_at.or(recalled_at);
        let goodbye_over = said_at.is_some_and(|at| now - at >= GOODBYE_US);
        if (late || goodbye_over) && self.stage != Stage::Ready {
            return Poll::Ready(self.lost());
        }
        Poll::Pending
    }

    /// Has the node end the wait: it answers with what it had, or with nothing. A connection that is half-closed may be freed by the
    /// node before an answer is written that has taken something out. A request that had not come to wait when the order came
    /// goes on to wait, so the order is given again.
    fn recall(&mut self, engine: &mut Engine, dedicated: Dedicated) {
        let now = engine.now;
        let (first, last) = self.recalled_at.unwrap_or((now, 0));
        if self.recalled_at.is_none() || now - last >= RECALL_AGAIN_US {
            self.recalled_at = Some((first, now));
            engine.end_wait(dedicated);
        }
    }

    /// Starts with a request: its database first, or the request at once if that is selected.
    fn begin(&mut self, engine: &mut Engine, dedicated: Dedicated) -> Result<(), Ended> {
        let Some(job) = engine
            .dedicated
            .slot(dedicated)
            .and_then(|slot| slot.job.as_mut())
        else {
            return Ok(());
        };
        if self.db == Some(job.db) && self.knows_itself {
            self.send(job, &mut engine.spares);
            return Ok(());
        }
        let tail = self.out.tail(&mut engine.spares);
        if !self.knows_itself {
            resp::write_request(tail, &[b"CLIENT", b"ID"]);
        }
        write_select(job.db, tail);
        self.stage = Stage::Selecting(job.db);
        Ok(())
    }

    fn send(&mut self, job: &mut Job, spares: &mut crate::worker::outbuf::Spares) {
        let mut bytes = std::mem::take(&mut job.bytes);
        if job.fenced {
            crate::worker::backend::push_fence(&self.fence, &mut bytes);
        }
        self.out.push(&bytes, spares);
        self.stage = Stage::Asked;
        self.frames_seen = 0;
    }

    fn write(&mut self, engine: &mut Engine, cx: &mut Context<'_>) -> Result<(), Ended> {
        while !self.out.is_empty() {
            match self.out.write_to(&mut self.stream, &mut engine.spares) {
                Ok(true) => return Ok(()),
                Ok(false) => match self.stream.poll_write_ready(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Err(self.lost()),
                },
                Err(_) => return Err(self.lost()),
            }
        }
        Ok(())
    }

    /// Reads once. Whether there may be more to do.
    fn read(
        &mut self,
        engine: &mut Engine,
        dedicated: Dedicated,
        cx: &mut Context<'_>,
    ) -> Result<bool, Ended> {
        let mut scratch = engine.take_scratch();
        let mut buf = ReadBuf::new(&mut scratch);
        let read = self.stream.poll_read(cx, &mut buf);
        self.input.extend_from_slice(buf.filled());
        let ended = buf.filled().is_empty();
        engine.scratch = scratch;
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) if !ended => self.frames(engine, dedicated).map(|()| true),
            Poll::Ready(_) => Err(self.closed(engine, dedicated)),
        }
    }

    /// The node has closed the connection.
    fn closed(&self, engine: &mut Engine, dedicated: Dedicated) -> Ended {
        // A node that reads the end of a connection ends what waits on it, and that has done nothing.
        let Some(slot) = engine.dedicated.slot(dedicated) else {
            return self.lost();
        };
        let prefaces = slot.job.as_ref().map_or(0, |job| job.prefaces);
        match slot.end {
            End::Recall if self.frames_seen <= prefaces && self.input.is_empty() => Ended(RECALLED),
            _ => self.lost(),
        }
    }

    fn lost(&self) -> Ended {
        match self.stage {
            Stage::Asked => Ended(UNKNOWN),
            Stage::Ready | Stage::Selecting(_) => Ended(NOT_SENT),
        }
    }

    /// Handles all whole frames that have come.
    fn frames(&mut self, engine: &mut Engine, dedicated: Dedicated) -> Result<(), Ended> {
        let input = std::mem::take(&mut self.input);
        let mut start = 0;
        let mut outcome = Ok(());
        while outcome.is_ok() && start + self.scanned < input.len() {
            let selecting = self.stage != Stage::Asked;
            match self.scanner.feed(&input[start + self.scanned..]) {
                Ok(Some(length)) => {
                    let end = start + self.scanned + length;
                    self.scanned = 0;
                    let push = self.scanner.is_push();
                    outcome = if push {
                        Err(Ended(ODD))
                    } else {
                        self.frame(engine, dedicated, &input[start..end])
                    };
                    start = end;
                    // What is here already was not asked for: the request behind the `SELECT` is not even written.
                    if selecting && self.stage == Stage::Asked && start < input.len() {
                        outcome = Err(Ended(NOT_SENT));
                    }
                }
                Ok(None) => {
                    self.scanned = input.len() - start;
                    break;
                }
                Err(_) => outcome = Err(Ended(ODD)),
            }
        }
        self.input = input;
        self.input.drain(..start);
        if self.input.len() > engine.settings.limits.output_hard {
            outcome = outcome.and(Err(Ended(LARGE)));
        }
        outcome
    }

    fn frame(&mut self, engine: &mut Engine, dedicated: Dedicated, frame: &[u8]) -> Result<(), Ended> {
        match self.stage {
            // Nobody asked.
            Stage::Ready => Err(Ended(ODD)),
            Stage::Selecting(_) if is_frozen(engine, dedicated, frame) => {
                Err(Ended(engine.dedicated_refused(dedicated)))
            }
            Stage::Selecting(_) if !self.knows_itself => {
                self.knows_itself = true;
                let number = crate::merge::integer(frame).unwrap_or(0);
                if let Some(slot) = engine.dedicated.slot(dedicated) {
                    slot.node_client = number;
                }
                engine.tell_where_it_waits(dedicated);
                Ok(())
            }
            Stage::Selecting(db) if frame == b"+OK\r\n" => {
                self.db = Some(db);
                if let Some(job) = engine
                    .dedicated
                    .slot(dedicated)
                    .and_then(|slot| slot.job.as_mut())
                {
                    self.send(job, &mut engine.spares);
                } else {
                    self.stage = Stage::Ready;
                }
                Ok(())
            }
            Stage::Selecting(_) => Err(Ended(NOT_SENT)),
            Stage::Asked => self.reply(engine, dedicated, frame),
        }
    }

    fn reply(&mut self, engine: &mut Engine, dedicated: Dedicated, frame: &[u8]) -> Result<(), Ended> {
        let frozen = is_frozen(engine, dedicated, frame);
        let Some(job) = engine
            .dedicated
            .slot(dedicated)
            .and_then(|slot| slot.job.as_mut())
        else {
            return Err(Ended(ODD));
        };
        self.frames_seen += 1;
        if self.frames_seen <= job.prefaces {
            if let Some(again) = &mut job.again {
                again.learn(frame);
            }
            return Ok(());
        }
        let answer_at = job.frames - u32::from(job.fenced);
        if frozen {
            // Its fence is refused as well.
            return if self.frames_seen < answer_at {
                Ok(())
            } else {
                Err(Ended(engine.dedicated_refused(dedicated)))
            };
        }
        let fits = match self.frames_seen.cmp(&answer_at) {
            Ordering::Less => is_step(self.frames_seen - job.prefaces, frame),
            Ordering::Equal => !is_queued(&[], frame),
            Ordering::Greater => true,
        };
        if job.transaction && !fits {
            return Err(Ended(ODD));
        }
        if self.frames_seen == answer_at || job.keeps_all {
            self.answer.extend_from_slice(frame);
        }
        if self.frames_seen < job.frames {
            return Ok(());
        }
        if job.fenced && frame != self.fence {
            return Err(Ended(ODD));
        }
        if !job.fenced && is_node_fault(&self.answer) {
            return Err(Ended(FAULT));
        }
        self.answered(engine, dedicated)
    }

    /// All frames of the request have come.
    fn answered(&mut self, engine: &mut Engine, dedicated: Dedicated) -> Result<(), Ended> {
        let answer = std::mem::take(&mut self.answer);
        let Some(slot) = engine.dedicated.slot(dedicated) else {
            return Err(Ended(ODD));
        };
        let end = slot.end;
        let Some(job) = &slot.job else {
            return Err(Ended(ODD));
        };
        let (owner, shard, name, since) = (job.owner, job.shard, job.name, job.since);
        if self.recalled_at.is_some() && is_nothing(&answer) {
            return Err(Ended(unasked(end)));
        }
        engine.metrics.shard_reply(shard, answer.len());
        match owner {
            Some((client, generation, seq)) => {
                engine.complete_dedicated(client, generation, seq, &answer, true);
            }
            None if brings_data(&answer) => {
                engine.metrics.popped_for_nobody.inc();
                tracing::warn!(
                    event = "popped_for_nobody",
                    command = name,
                    shard = shard.0,
                    bytes = answer.len(),
                    waited_us = engine.now - since,
                    "a node answered a client that had left: what it took out is lost"
                );
            }
            None => {}
        }
        self.stage = Stage::Ready;
        engine.dedicated_answered(dedicated);
        // The half-closed end of it is of no more use.
        if self.half_closed_at.is_some() || self.recalled_at.is_some() {
            return Err(Ended(NOT_SENT));
        }
        Ok(())
    }
}

/// Whether the node refuses the unit that this connection is for.
fn is_frozen(engine: &mut Engine, dedicated: Dedicated, frame: &[u8]) -> bool {
    frame.first() == Some(&b'-')
        && engine
            .dedicated
            .slot(dedicated)
            .is_some_and(|slot| slot.is_frozen(frame))
}

/// What becomes of a request that the node has not run.
const fn unasked(end: End) -> &'static str {
    match end {
        End::Stop(line) => line,
        End::Recall | End::Unblock => RECALLED,
        End::No | End::Close | End::Gone => NOT_SENT,
    }
}

/// What a wait is answered with that has ended without data.
fn is_nothing(reply: &[u8]) -> bool {
    matches!(reply, b"*-1\r\n" | b"$-1\r\n" | b"_\r\n")
}

/// Whether a reply has something in it that was in the database before.
fn brings_data(reply: &[u8]) -> bool {
    !is_nothing(reply) && !matches!(reply, b"+OK\r\n" | b"*0\r\n") && !matches!(reply.first(), Some(b'-'))
}

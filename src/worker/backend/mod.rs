//! The worker's connections to nodes.
//!
//! ```text
//!  Idle ─first request─▶ Connecting ─handshake ok─▶ Ready ◀──answer──▶ Silent (deadline passed)
//!                          ▲    │                     │                    │
//!                          │    └─failed─▶ Down ──────┴──── closed ◀───────┘
//!                          │                │ back-off with jitter, tried again
//!                          └────────────────┘
//! ```
//!
//! A link is opened by the first request that needs it and kept. While it is being connected after it was well,
//! requests wait for it; once an attempt has failed they are refused at once until one succeeds. One that the node refuses because the
//! link's shards are on their way has not failed: it leads back to `Idle`, and the requests to the gates.

mod block;
mod connect;
mod fail;
mod fill;
mod input;
#[cfg(test)]
mod input_tests;
mod kept;
mod link;
mod queue;
mod tell;

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;

pub(super) use block::{fence, is_queued, is_step, nonce, push_fence};
pub(super) use connect::{ConnectError, Order, Ready, ask_once, connect};
pub(super) use fill::write_select;
pub(super) use input::{is_node_fault, is_refused};
#[cfg(test)]
pub(super) use link::Batch;
pub(super) use link::{Link, State, User};
pub(super) use queue::{Backlog, Entry, Lane, Owner, Shape};
pub(super) use tell::NOSCRIPT;

use super::engine::Engine;
use crate::ids::Epoch;
use crate::metrics::LinkClose;
use crate::worker::shared::NodeShared;

/// Reads of one link in one turn.
const READS_PER_TURN: usize = 4;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Between two looks whether a topology has been heard of.
const HEARD_PACE: Duration = Duration::from_millis(2);
/// A link that lived shorter than this is connected anew after a pause, as if it could not be connected.
const FLAPPING: Duration = Duration::from_millis(100);

/// Keeps one link connected from the first request that needs it on.
pub(super) async fn keep_link(engine: Rc<RefCell<Engine>>, index: usize) {
    wanted(&engine, index).await;
    let of_node = engine.borrow().node_of_link(index);
    let mut backoff = BACKOFF_MIN;
    loop {
        // Before it is tried, so that a bell is heard that rings meanwhile.
        let mut again = pin!(of_node.again.notified());
        again.as_mut().enable();
        let rests = {
            let mut engine = engine.borrow_mut();
            engine.has_left(index) || engine.links[index].state == State::Idle
        };
        if rests {
            wanted(&engine, index).await;
        }
        let order = engine.borrow().connect_order(index);
        let address = order.address().clone();
        match connect(order).await {
            Ok(_) if !engine.borrow().is_address_of_link(index, &address) => continue,
            Ok(ready) => {
                until_heard(&engine, index, ready.mark).await;
                let lived = serve_link(&engine, index, ready).await;
                if lived >= FLAPPING {
                    backoff = BACKOFF_MIN;
                    continue;
                }
            }
            // Nothing is wrong with the node; this worker takes the other topology over in a moment.
            Err(ConnectError::Readdressed) => {
                tokio::time::sleep(HEARD_PACE).await;
                continue;
            }
            Err(error) => {
                let mut engine = engine.borrow_mut();
                engine.begin_turn();
                if let ConnectError::Frozen(reply) = &error {
                    engine.link_frozen(index, reply);
                    // Whoever wants it next has heard of another topology.
                    backoff = BACKOFF_MIN;
                } else {
                    engine.link_failed(index, &error);
                }
                engine.end_turn();
            }
        }
        tokio::select! {
            () = again => backoff = BACKOFF_MIN,
            () = tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() * 0.5)) => {
                backoff = (backoff * 2).min(engine.borrow().settings.limits.backoff_max);
            }
        }
    }
}

/// Waits until the worker has taken to heart what the node's mark has told. That takes no longer than its next turn, unless links for
/// it are being opened.
async fn until_heard(engine: &Rc<RefCell<Engine>>, index: usize, mark: Epoch) {
    let node = engine.borrow().links[index].node;
    while engine.borrow().must_hear(node, mark) {
        tokio::time::sleep(HEARD_PACE).await;
    }
}

/// Serves requests over a new connection until it ends. Returns how long it lived.
async fn serve_link(engine: &Rc<RefCell<Engine>>, index: usize, ready: Ready) -> Duration {
    let opened = {
        let mut engine = engine.borrow_mut();
        engine.begin_turn();
        engine.link_ready(index, ready);
        engine.now
    };
    let why = std::future::poll_fn(|cx| {
        let mut engine = engine.borrow_mut();
        engine.begin_turn();
        let turn = engine.link_turn(index, cx);
        engine.end_turn();
        turn
    })
    .await;
    let mut engine = engine.borrow_mut();
    engine.begin_turn();
    engine.link_closed(index, why);
    engine.end_turn();
    if why == LinkClose::Readdressed {
        // It was well: the next one is made at once.
        return FLAPPING;
    }
    Duration::from_micros(engine.now - opened)
}

/// Waits for the first request that needs a link.
async fn wanted(engine: &Rc<RefCell<Engine>>, index: usize) {
    std::future::poll_fn(|cx| {
        let mut engine = engine.borrow_mut();
        let link = &mut engine.links[index];
        if !link.backlog.is_empty() || std::mem::take(&mut link.preopens) {
            link.state = State::Connecting;
            return Poll::Ready(());
        }
        link.waker = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

impl Engine {
    fn node_of_link(&self, index: usize) -> Arc<NodeShared> {
        self.shared.node(self.links[index].node)
    }

    fn link_turn(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<LinkClose> {
        let link = &mut self.links[index];
        if link
            .waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            link.waker = Some(cx.waker().clone());
        }
        if let Some(why) = link.close.take() {
            return Poll::Ready(why);
        }
        let mut scratch = self.take_scratch();
        let read = self.link_read(index, &mut scratch, cx);
        self.scratch = scratch;
        let written = read.and_then(|()| self.link_write(index, cx));
        match written {
            Ok(()) => match self.link_may_redial(index) {
                Some(why) => Poll::Ready(why),
                None => Poll::Pending,
            },
            Err(why) => Poll::Ready(why),
        }
    }

    fn link_read(&mut self, index: usize, scratch: &mut [u8], cx: &mut Context<'_>) -> Result<(), LinkClose> {
        for _ in 0..READS_PER_TURN {
            let Some(stream) = &mut self.links[index].stream else {
                return Ok(());
            };
            let mut buf = ReadBuf::new(scratch);
            match stream.poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => return Err(LinkClose::Io),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Err(LinkClose::Eof),
                Poll::Ready(Ok(())) => self.link_input(index, buf.filled())?,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn link_ready(&mut self, index: usize, ready: Ready) {
        let link = &mut self.links[index];
        link.stream = Some(ready.stream);
        link.db = ready.db;
        link.state = State::Ready;
        link.cells.link_opened(link.wire());
        if std::mem::take(&mut link.reported_down) {
            tracing::info!(
                event = "node_up",
                node = self.node_name(self.links[index].node),
                worker = self.worker
            );
        }
    }

    /// The node refuses the unit whose requests go over a link: they wait at the gates, and the link until it is wanted again.
    fn link_frozen(&mut self, index: usize, reply: &str) {
        let link = &mut self.links[index];
        link.state = State::Idle;
        let user = link.user.clone();
        let node = self.node_name(self.links[index].node);
        tracing::info!(
            event = "unit_frozen",
            node,
            worker = self.worker,
            user = user.as_deref(),
            reply
        );
        self.is_not_opened(index);
        self.hold_unit(user.as_deref());
    }

    fn link_failed(&mut self, index: usize, error: &ConnectError) {
        let link = &mut self.links[index];
        link.cells.link_failed();
        if !std::mem::replace(&mut link.reported_down, true) {
            let node = self.node_name(self.links[index].node);
            tracing::warn!(event = "node_down", node, worker = self.worker, user = self.links[index].user.as_deref(), %error);
        }
        self.link_down(index);
    }
}

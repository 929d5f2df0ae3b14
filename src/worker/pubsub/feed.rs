//! One worker's connection to one node that hears what is published there.
//!
//! ```text
//!  somebody subscribes ─▶ connect ─▶ ask for everything ─▶ read, deliver, confirm … ─▶ nobody listens: close
//!                            ▲                                     │
//!                            └──── pause ◀── lost: counted, logged ┘
//! ```
//!
//! A turn delivers a bounded number of messages and leaves the rest for its next turn, so that a flood of them does
//! not keep requests waiting. A node that confirms nothing, or does not answer a `PING`, is connected anew.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::ReadBuf;

use super::line::State;
use crate::config::OnGap;
use crate::ids::NodeIndex;
use crate::metrics::{Disconnect, LinkClose, NodeCells, Wire};
use crate::resp::ReplyScanner;
use crate::worker::backend::{ConnectError, Ready, connect};
use crate::worker::engine::Engine;
use crate::worker::outbuf::OutBuf;
use crate::worker::stream::Stream;

/// Reads of one feed in one turn.
const READS_PER_TURN: usize = 4;
/// Messages handed to clients in one turn, about.
const DELIVERIES_PER_TURN: usize = 1024;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// A feed that lived shorter than this is connected anew after a pause.
const FLAPPING: Duration = Duration::from_millis(100);
/// A node that says nothing for this long is asked whether it is there, in microseconds.
const PING_AFTER_US: u64 = 5_000_000;
/// The same while clients track: for so long they may keep what has changed, if the connection is lost in silence.
const PING_TRACKED_AFTER_US: u64 = 1_000_000;
/// A feed that nobody needs is kept for this long, in microseconds.
const UNWANTED_US: u64 = 5_000_000;

/// A connection that hears one node.
#[derive(Debug)]
pub(in crate::worker) struct Feed {
    pub(super) node: NodeIndex,
    cells: Arc<NodeCells>,
    stream: Option<Stream>,
    waker: Option<Waker>,
    /// Set from outside the feed's task to have it closed.
    close: Option<LinkClose>,
    out: OutBuf,
    write_blocked: bool,
    /// Bytes that are not handled, from the start of a frame on.
    pub(super) input: Vec<u8>,
    pub(super) scanner: ReplyScanner,
    /// Bytes of `input` that the scanner has seen.
    pub(super) scanned: usize,
    /// More has come than a turn can handle.
    behind: bool,
    /// The frame that comes is too large: it is read away.
    pub(super) skips: bool,
    /// Worker time of the last byte.
    heard_at: u64,
    /// Worker time since when the node owes something; 0: it does not.
    owed_since: u64,
    unwanted_since: Option<u64>,
    /// Worker time when it was lost.
    lost_at: Option<u64>,
    reported_down: bool,
}

/// What a turn that does not wait for anything came to.
enum Turn {
    /// There is more to read, to hand out or to write.
    More,
    /// The connection has ended.
    Ended(LinkClose),
}

/// Keeps a node heard as long as somebody listens.
pub(in crate::worker) async fn keep_feed(engine: Rc<RefCell<Engine>>, node: NodeIndex) {
    let of_node = engine.borrow().shared.node(node);
    let mut backoff = BACKOFF_MIN;
    loop {
        wanted(&engine, node).await;
        let mut again = pin!(of_node.again.notified());
        again.as_mut().enable();
        let order = engine.borrow().feed_order(node);
        let address = order.address().clone();
        match connect(order).await {
            Ok(_) if !engine.borrow().is_address_of(node, &address) => continue,
            Ok(ready) => {
                if serve_feed(&engine, node, ready).await >= FLAPPING {
                    backoff = BACKOFF_MIN;
                    continue;
                }
            }
            Err(error) => {
                let mut engine = engine.borrow_mut();
                engine.begin_turn();
                engine.feed_failed(node, &error);
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

/// Hears a node until the connection ends. Returns how long it lived.
async fn serve_feed(engine: &Rc<RefCell<Engine>>, node: NodeIndex, ready: Ready) -> Duration {
    let opened = {
        let mut engine = engine.borrow_mut();
        engine.begin_turn();
        engine.feed_ready(node, ready);
        engine.now
    };
    let why = loop {
        let turn = std::future::poll_fn(|cx| {
            let mut engine = engine.borrow_mut();
            engine.begin_turn();
            let turn = engine.feed_turn(node, cx);
            engine.end_turn();
            turn
        })
        .await;
        match turn {
            Turn::Ended(why) => break why,
            // Behind everybody who is ready, and behind a look at the sockets: whoever asks something meanwhile waits
            // for one turn of a feed, not for all of them.
            Turn::More => tokio::task::yield_now().await,
        }
    };
    let mut engine = engine.borrow_mut();
    engine.begin_turn();
    engine.feed_closed(node, why);
    engine.end_turn();
    Duration::from_micros(engine.now - opened)
}

/// Waits until somebody listens.
async fn wanted(engine: &Rc<RefCell<Engine>>, node: NodeIndex) {
    std::future::poll_fn(|cx| {
        let mut engine = engine.borrow_mut();
        if engine.pubsub.hub.is_wanted() && !engine.topology.retired.contains(&node) {
            return Poll::Ready(());
        }
        engine.pubsub.hub.rest(node);
        let feed = &mut engine.pubsub.feeds[node.index()];
        feed.waker = Some(cx.waker().clone());
        feed.lost_at = None;
        Poll::Pending
    })
    .await;
}

impl Feed {
    pub(super) fn new(node: NodeIndex, cells: Arc<NodeCells>) -> Self {
        Self {
            node,
            cells,
            stream: None,
            waker: None,
            close: None,
            out: OutBuf::default(),
            write_blocked: false,
            input: Vec::new(),
            scanner: ReplyScanner::default(),
            scanned: 0,
            behind: false,
            skips: false,
            heard_at: 0,
            owed_since: 0,
            unwanted_since: None,
            lost_at: None,
            reported_down: false,
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Clients that track have lost what tells of changes on this node.
    pub(in crate::worker) fn count_tracking_gap(&self) {
        self.cells.tracking_gaps.inc();
    }
}

impl Engine {
    fn feed_turn(&mut self, node: NodeIndex, cx: &mut Context<'_>) -> Poll<Turn> {
        let feed = &mut self.pubsub.feeds[node.index()];
        if feed
            .waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            feed.waker = Some(cx.waker().clone());
        }
        if let Some(why) = feed.close.take() {
            return Poll::Ready(Turn::Ended(why));
        }
        let mut scratch = self.take_scratch();
        let read = self.feed_read(node, &mut scratch, cx);
        self.scratch = scratch;
        self.answer_subscribers();
        let more = read.and_then(|more| self.feed_write(node, cx).map(|()| more));
        let unwritten = self.flush_listeners();
        match more {
            Ok(more) if more || unwritten => Poll::Ready(Turn::More),
            Ok(_) => Poll::Pending,
            Err(why) => Poll::Ready(Turn::Ended(why)),
        }
    }

    /// Reads and hands out, as far as the budget of a turn goes. Whether there is more to do.
    fn feed_read(
        &mut self,
        node: NodeIndex,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Result<bool, LinkClose> {
        let mut budget = DELIVERIES_PER_TURN;
        for _ in 0..READS_PER_TURN {
            if self.must_flush_first() || !self.feed_input(node, &mut budget)? {
                self.feed_behind(node, true);
                break;
            }
            self.feed_behind(node, false);
            let feed = &mut self.pubsub.feeds[node.index()];
            let Some(stream) = &mut feed.stream else {
                return Ok(false);
            };
            let mut buf = ReadBuf::new(scratch);
            match stream.poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(_)) => return Err(LinkClose::Io),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Err(LinkClose::Eof),
                Poll::Ready(Ok(())) => {
                    feed.heard_at = self.now;
                    feed.input.extend_from_slice(buf.filled());
                }
            }
        }
        Ok(true)
    }

    /// Notes whether a feed has handled what has come: while one has not, publishers wait.
    fn feed_behind(&mut self, node: NodeIndex, behind: bool) {
        let feed = &mut self.pubsub.feeds[node.index()];
        if std::mem::replace(&mut feed.behind, behind) == behind {
            return;
        }
        if behind {
            self.shared.channels.falls_behind();
        } else {
            self.shared.channels.catches_up();
        }
    }

    fn feed_write(&mut self, node: NodeIndex, cx: &mut Context<'_>) -> Result<(), LinkClose> {
        let output = self.pubsub.hub.output(node);
        let feed = &mut self.pubsub.feeds[node.index()];
        if !output.is_empty() {
            feed.out.push(output, &mut self.spares);
            *output = Vec::new();
        }
        while !feed.out.is_empty() {
            let Some(stream) = &mut feed.stream else {
                return Ok(());
            };
            if feed.write_blocked {
                match stream.poll_write_ready(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(_)) => return Err(LinkClose::Io),
                    Poll::Ready(Ok(())) => feed.write_blocked = false,
                }
            }
            match feed.out.write_to(stream, &mut self.spares) {
                Ok(true) => {}
                Ok(false) => feed.write_blocked = true,
                Err(_) => return Err(LinkClose::Io),
            }
        }
        Ok(())
    }

    fn feed_ready(&mut self, node: NodeIndex, ready: Ready) {
        let now = self.now;
        let feed = &mut self.pubsub.feeds[node.index()];
        feed.stream = Some(ready.stream);
        feed.heard_at = now;
        feed.owed_since = 0;
        feed.unwanted_since = None;
        feed.cells.link_opened(Wire::Resp3);
        feed.reported_down = false;
        let lost_at = feed.lost_at.take();
        self.pubsub.hub.handle_up(node);
        if let Some(lost_at) = lost_at {
            let gap_ms = (now - lost_at) / 1000;
            let name = self.node_name(node);
            tracing::info!(
                event = "subscriptions_restored",
                node = name,
                worker = self.worker,
                gap_ms
            );
        }
    }

    fn feed_failed(&mut self, node: NodeIndex, error: &ConnectError) {
        let feed = &mut self.pubsub.feeds[node.index()];
        feed.cells.link_failed();
        let reported = std::mem::replace(&mut feed.reported_down, true);
        if !reported {
            let name = self.node_name(node);
            tracing::warn!(event = "node_not_heard", node = name, worker = self.worker, %error);
        }
        self.pubsub.hub.handle_end(node, State::Down);
        self.answer_subscribers();
    }

    /// A connection has ended: what is published on its node until there is another one is not heard.
    fn feed_closed(&mut self, node: NodeIndex, why: LinkClose) {
        self.feed_behind(node, false);
        let wanted = self.pubsub.hub.is_wanted();
        let now = self.now;
        let feed = &mut self.pubsub.feeds[node.index()];
        feed.stream = None;
        feed.close = None;
        feed.out.clear(&mut self.spares);
        feed.write_blocked = false;
        feed.input = Vec::new();
        feed.scanner = ReplyScanner::default();
        feed.scanned = 0;
        feed.skips = false;
        feed.cells.link_closed(Wire::Resp3, why);
        while self.flush_listeners() {}
        let feed = &mut self.pubsub.feeds[node.index()];
        let subscribed = self.pubsub.hub.is_subscribed();
        if wanted {
            feed.lost_at = Some(now);
            if subscribed {
                feed.cells.subscription_gaps.inc();
            }
            let name = self.node_name(node);
            tracing::warn!(event = "subscriptions_interrupted", node = name, worker = self.worker, reason = ?why);
        }
        if wanted && self.settings.on_gap == OnGap::Close {
            self.close_listeners();
        }
        let state = if wanted { State::Connecting } else { State::Off };
        let tracked = self.pubsub.hub.tracks(node);
        self.pubsub.hub.handle_end(node, state);
        if tracked {
            self.tracking_gap(node, true);
            while self.flush_listeners() {}
        }
        self.answer_subscribers();
    }

    /// Closes everybody who listens to something: Redis would have closed them with the node.
    fn close_listeners(&mut self) {
        let listeners: Vec<(usize, u32)> = self
            .clients
            .iter()
            .filter(|(_, client)| client.listens)
            .map(|(index, client)| (index, client.generation))
            .collect();
        for (index, generation) in listeners {
            self.close_client(index, generation, Disconnect::SubscriptionGap);
        }
    }

    /// Has the feeds look that have something to ask, or are to be connected.
    pub(in crate::worker) fn wake_feeds(&mut self) {
        for feed in &self.pubsub.feeds {
            let asks = !self.pubsub.hub.output(feed.node).is_empty();
            if asks || feed.stream.is_none() {
                feed.wake();
            }
        }
    }

    /// Closes every feed: see [`Self::distrust_everything`].
    pub(in crate::worker) fn distrust_feeds(&mut self) {
        for feed in &mut self.pubsub.feeds {
            if feed.stream.is_some() {
                feed.close = Some(LinkClose::Closed);
                feed.wake();
            }
        }
    }

    /// Ends the connection that hears a node: the node has another address now, or has left.
    pub(in crate::worker) fn close_feed(&mut self, node: NodeIndex) {
        let feed = &mut self.pubsub.feeds[node.index()];
        if feed.stream.is_some() {
            feed.close = Some(LinkClose::Readdressed);
        }
        feed.wake();
    }

    /// Looks for feeds that nobody needs, and nodes that say nothing. Called by the sweep.
    pub(in crate::worker) fn feed_deadlines(&mut self) {
        let limits = &self.settings.limits;
        let patience = match limits.request_timeout_us {
            0 => limits.silence_max_us,
            timeout => timeout,
        };
        let now = self.now;
        let ping_after = if self.tracking.is_idle() {
            PING_AFTER_US
        } else {
            PING_TRACKED_AFTER_US
        };
        let super::PubSub { hub, feeds, .. } = &mut self.pubsub;
        for feed in feeds.iter_mut().filter(|feed| feed.stream.is_some()) {
            if !hub.is_wanted() {
                if now - *feed.unwanted_since.get_or_insert(now) >= UNWANTED_US {
                    feed.close = Some(LinkClose::Closed);
                    feed.wake();
                }
                continue;
            }
            feed.unwanted_since = None;
            if !hub.awaits(feed.node) {
                feed.owed_since = 0;
                if now - feed.heard_at >= ping_after {
                    hub.ping(feed.node);
                    feed.wake();
                }
            } else if feed.owed_since == 0 {
                feed.owed_since = now;
            } else if feed.input.is_empty() && now - feed.owed_since.max(feed.heard_at) >= patience {
                feed.close = Some(LinkClose::Timeout);
                feed.wake();
            }
        }
    }
}

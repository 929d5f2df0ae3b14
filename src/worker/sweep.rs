//! The worker's clock hand: deadlines, held-back replies, stalled and idle clients.
//!
//! There is no timer for each request. The hand goes round every millisecond while replies are held back, every ten
//! while requests are under way, and every hundred otherwise.
//!
//! A hand that comes round late shows that the worker itself stood still: a paused machine, a stopped process, no core. Who was
//! waited for has had its answer on the way all the while, so deadlines do not count until what has come is read.

use std::cell::RefCell;
use std::future::Future as _;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backend::Link;
use super::engine::Engine;
use super::session::{Client, Pause};
use crate::metrics::{Disconnect, Limit};

const CORKED: Duration = Duration::from_millis(1);
const BUSY: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_millis(100);

/// So far behind its time, the hand is late.
const LATE: Duration = Duration::from_millis(250);
/// How long deadlines do not count then, in microseconds.
const GRACE_US: u64 = 500_000;
/// The same of a worker that is late again and again.
const GRACE_MAX_US: u64 = 5_000_000;

/// Whether who is waited for may be blamed.
#[derive(Debug, Default)]
struct Lateness {
    /// Since when the hand is late, again and again.
    since: Option<u64>,
    until: u64,
}

impl Lateness {
    /// Whether deadlines count at this time, to which the hand has come so late.
    fn judges(&mut self, now: u64, late: Duration) -> bool {
        if late >= LATE {
            let since = *self.since.get_or_insert(now);
            self.until = (now + GRACE_US).min(since + GRACE_MAX_US);
        }
        if now < self.until {
            return false;
        }
        if late < LATE {
            self.since = None;
        }
        true
    }
}

/// Runs as long as the worker.
pub(super) async fn sweep(engine: Rc<RefCell<Engine>>) {
    let mut timer = pin!(sleep(IDLE));
    let (mut clients_at, mut lateness) = (0, Lateness::default());
    std::future::poll_fn(|cx| {
        let mut engine = engine.borrow_mut();
        engine.begin_turn();
        engine.wake_paused();
        if engine
            .sweep_waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            engine.sweep_waker = Some(cx.waker().clone());
        }
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                let pace = engine.pace();
                let soon = Instant::now() + pace;
                if timer.deadline() > soon {
                    // Woken because something waits for the clock now.
                    engine.sweep_asleep = pace > CORKED;
                    timer.as_mut().reset(soon);
                    continue;
                }
                return Poll::<()>::Pending;
            }
            let late = timer.deadline().elapsed();
            let judges = lateness.judges(engine.now, late);
            if late >= LATE {
                tracing::info!(
                    event = "worker_stood_still",
                    worker = engine.worker,
                    ms = late.as_millis()
                );
            }
            for link in 0..engine.links.len() {
                engine.release_parked(link);
                if judges {
                    engine.link_deadlines(link);
                }
            }
            engine.continue_adoption();
            if engine.now - clients_at >= 100_000 {
                clients_at = engine.now;
                if judges {
                    engine.client_deadlines();
                    engine.dedicated_deadlines();
                    engine.feed_deadlines();
                }
                engine.ask_recalled();
                if engine.draining {
                    engine.stop_waiting();
                }
                engine.sweep_tracking();
                engine.publish_levels();
            }
            engine.end_turn();
            let pace = engine.pace();
            engine.sweep_asleep = pace > CORKED;
            timer.as_mut().reset(Instant::now() + pace);
        }
    })
    .await;
}

impl Engine {
    fn pace(&self) -> Duration {
        if !self.corked.is_empty() {
            return CORKED;
        }
        let pace = self.pace_of_links();
        self.until_pause_ends()
            .map_or(pace, |pause_ends| pace.min(pause_ends))
    }

    fn pace_of_links(&self) -> Duration {
        let busy = self
            .links
            .iter()
            .any(|link| !link.backlog.is_empty() || !link.due.is_empty());
        if busy || self.adoption.is_some() {
            BUSY
        } else {
            IDLE
        }
    }

    /// Shows the levels that are not worth counting with each request.
    fn publish_levels(&self) {
        for (node, described) in self.topology.nodes_by_index() {
            let links = || self.links.iter().filter(|link| link.node == node);
            let sum = |level: fn(&Link) -> usize| links().map(level).sum::<usize>() as u64;
            let cells = self.metrics.node(&described.name);
            cells.in_flight.set(sum(|link| link.due.len()));
            cells.queue_commands.set(sum(|link| link.backlog.len()));
            cells.queue_bytes.set(sum(|link| link.backlog.bytes()));
            let (used, idle) = self.count_dedicated(node);
            cells.dedicated_used.set(used);
            cells.dedicated_idle.set(idle);
        }
        // One of them tells it for all.
        if self.worker == 0 {
            let (scripts, bytes) = self.shared.scripts.size();
            self.metrics.scripts.set(scripts);
            self.metrics.script_bytes.set(bytes);
        }
        let paused = |(_, client): &(usize, &Client)| client.pause == Pause::Clients;
        let paused = self.clients.iter().filter(paused).count();
        self.metrics.paused_clients.set(paused as u64);
        self.metrics.held_requests.set(self.held_requests() as u64);
        let queued: usize = self.links.iter().map(|link| link.backlog.bytes()).sum();
        let unread: usize = self.clients.iter().map(|(_, client)| client.output_bytes()).sum();
        self.metrics
            .input_buffer_bytes
            .set((self.held_bytes + queued) as u64);
        self.metrics.output_buffer_bytes.set(unread as u64);
        let [listeners, channels, patterns, shard_channels] = self.pubsub.hub.sizes().map(|size| size as u64);
        self.metrics.pubsub_clients.set(listeners);
        self.metrics.pubsub_channels.set(channels);
        self.metrics.pubsub_patterns.set(patterns);
        self.metrics.pubsub_shard_channels.set(shard_channels);
        let [trackers, keys, prefixes] = self.tracking.sizes().map(|size| size as u64);
        self.metrics.tracking_clients.set(trackers);
        self.metrics.tracking_keys.set(keys);
        self.metrics.tracking_prefixes.set(prefixes);
        self.metrics.tracking_bytes.set(self.tracking.bytes() as u64);
    }

    /// Clients that wait, stall or idle for too long.
    fn client_deadlines(&mut self) {
        let limits = &self.settings.limits;
        let now_ms = self.shared.now_ms();
        let (stall, idle, handshake) = (limits.output_stall, limits.idle, limits.handshake);
        let queue_wait = self.queue_wait_max();
        let (hold, gates) = (limits.hold, self.gates());
        let mut closing = Vec::new();
        for (index, client) in &mut self.clients {
            client.publish();
            let waited = |since: u64| Duration::from_micros(self.now.saturating_sub(since));
            let idle_for = Duration::from_millis(now_ms.saturating_sub(client.active_ms));
            let age = Duration::from_millis(now_ms.saturating_sub(client.info.connected_ms));
            let paused = client.pause == Pause::Clients;
            let held = client.waits_for.is_some_and(|link| gates.contains(&link));
            let wait_max = if held { hold } else { queue_wait };
            if client.pause == Pause::Queue && waited(client.paused_at) >= wait_max {
                client.refuse_when_full = true;
                client.wake();
            }
            if client.password_due_ms.is_some_and(|due| due <= now_ms) {
                client.wake();
            }
            let lingered = client.lingering_until.is_some_and(|until| until <= self.now);
            // The order to drain may not have found room in a full mailbox.
            let unaware = self.draining && client.lingering_until.is_none();
            if lingered || unaware {
                client.wake();
            }
            let stalled = client.write_blocked && waited(client.progress_at) >= stall;
            let why = if client.info.killed.load(Relaxed) {
                Disconnect::AdminKill
            } else if stalled {
                Disconnect::OutputStalled
            } else if paused {
                continue;
            } else if !client.authenticated && age >= handshake {
                Disconnect::HandshakeTimeout
            } else if !idle.is_zero() && client.slots.is_empty() && !client.listens && idle_for >= idle {
                Disconnect::Idle
            } else {
                continue;
            };
            closing.push((index, client.generation, why));
        }
        for (index, generation, why) in closing {
            if why == Disconnect::OutputStalled {
                self.metrics.limits[Limit::OutputSoft].inc();
            }
            self.close_client(index, generation, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_blamed_until_what_came_while_the_worker_stood_still_is_read() {
        let (mut lateness, on_time) = (Lateness::default(), Duration::from_millis(3));
        assert!(lateness.judges(1_000_000, on_time));
        assert!(!lateness.judges(3_000_000, Duration::from_secs(2)));
        assert!(!lateness.judges(3_499_999, on_time));
        assert!(lateness.judges(3_500_000, on_time));
    }

    #[test]
    fn a_worker_that_is_always_late_blames_others_in_the_end() {
        let mut lateness = Lateness::default();
        let judges = |lateness: &mut Lateness, now| lateness.judges(now, LATE);
        let mut times = (1..).map(|round| round * 300_000);
        let first = times.find(|&now| judges(&mut lateness, now)).unwrap();
        assert_eq!(first, 5_400_000);
        assert!(judges(&mut lateness, first + 300_000));
        assert!(lateness.judges(first + 310_000, Duration::ZERO));
        assert!(
            !judges(&mut lateness, first + 700_000),
            "it was on time in between"
        );
    }
}

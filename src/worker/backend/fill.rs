//! From shard queues to the node: what is sent when.
//!
//! * A link's task runs behind the sessions that woke it, so one write carries what all of them brought.
//! * At most `k` written batches may be unanswered (1 on this machine): while the node works on one, the next
//!   gathers. No timer is involved: the answer is the clock. A large queue does not wait.
//! * Requests of one shard stay together behind one `SELECT`, and the database that is selected already goes first.
//! * Behind a `SELECT` that is not confirmed goes only what the node reads together with it: what is in the same write
//!   and in the window ([`SELECT_WINDOW`]).
//! * Scripts that the node has to know for what follows go before all of it (see [`super::tell`]).

use std::io;
use std::task::{Context, Poll};

use super::link::{Batch, Link, State};
use super::queue::{Entry, Owner, Shape};
use crate::ids::{DbIndex, ShardId};
use crate::metrics::{Limit, LinkClose};
use crate::resp;
use crate::worker::engine::Engine;
use crate::worker::outbuf::Spares;

/// Bytes that may be unanswered while a SELECT is among them.
///
/// A node whose script has run too long refuses SELECT with `-BUSY`, and what stands behind it as well; but what it
/// reads only after the script has ended would run, in the database that was selected before. A node reads 16 KiB at
/// once, and what it has read together it accepts or refuses together.
const SELECT_WINDOW: usize = 16 * 1024;
/// The longest SELECT frame.
const SELECT_BYTES_MAX: usize = 32;

/// Queued bytes from which a batch no longer waits for the answer to the one before.
const WAIT_BYTES_MAX: usize = 64 * 1024;

impl Engine {
    /// Sends what may be sent on a link; waits for the socket when it is full.
    pub(super) fn link_write(&mut self, index: usize, cx: &mut Context<'_>) -> Result<(), LinkClose> {
        loop {
            let link = &mut self.links[index];
            let Some(stream) = &link.stream else { return Ok(()) };
            if link.write_blocked {
                match stream.poll_write_ready(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(_)) => return Err(LinkClose::Io),
                    Poll::Ready(Ok(())) => link.write_blocked = false,
                }
            }
            if link.out.is_empty() && !self.link_fill(index) {
                return Ok(());
            }
            let link = &mut self.links[index];
            let Some(stream) = &mut link.stream else {
                return Ok(());
            };
            match link.out.write_to(stream, &mut self.spares) {
                Ok(true) => {}
                Ok(false) => link.write_blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(LinkClose::Io),
            }
        }
    }

    /// Moves queued requests into the link's output. Returns whether there is anything to write.
    pub(super) fn link_fill(&mut self, index: usize) -> bool {
        let now = self.now32();
        let link = &mut self.links[index];
        let limits = &self.settings.limits;
        let waits = link.batches.len() >= link.batches_max && link.backlog.bytes() < WAIT_BYTES_MAX;
        if link.backlog.is_empty() || waits || link.state != State::Ready || link.redials {
            return false;
        }
        let room = limits.link_in_flight.saturating_sub(link.due.len());
        let all_go = link.backlog.len() <= room
            && link.due_bytes + link.backlog.bytes() <= limits.link_in_flight_bytes;
        // When not everything can go, shards take turns: the busiest must not keep the others waiting for ever.
        let share = if all_go {
            usize::MAX
        } else {
            (room / link.backlog.shards()).max(1)
        };
        let owed = std::mem::take(&mut link.select_owed);
        if let Some(db) = link.db
            && all_go
            && !owed
        {
            link.backlog.prefer(db);
        }
        let mut moved_any = false;
        // What an earlier write has selected may have been refused already: this one selects for itself.
        let mut unsure = link.selects_due > 0;
        while let Some((_, db)) = link.backlog.front() {
            let room = limits.link_in_flight.saturating_sub(link.due.len());
            if room == 0 || link.due_bytes >= limits.link_in_flight_bytes {
                self.metrics.limits[Limit::LinkInFlight].inc();
                break;
            }
            let other_db = unsure || link.db != Some(db);
            let mut bytes_max = window(link, other_db);
            let mut fits = link.backlog.front_bytes() <= bytes_max;
            let most = room.min(share);
            if fits
                && link.backlog.front_runs_code()
                && link.tell_scripts((most, bytes_max), &self.shared.scripts, now, &mut self.spares)
            {
                moved_any = true;
                bytes_max = window(link, other_db);
                fits = link.backlog.front_bytes() <= bytes_max;
            }
            if other_db && (fits || link.selects_due == 0) {
                // With nothing behind it, if what it is for is too large to be read with it: the next turn finds it
                // confirmed.
                push_select(link, db, &mut self.spares);
                unsure = false;
                moved_any = true;
            }
            if !fits {
                link.select_owed = link.db != Some(db);
                break;
            }
            link.due_bytes += link.send_front((most, bytes_max), &mut self.spares);
            moved_any = true;
        }
        if moved_any {
            link.batches.push_back(Batch {
                end: link.answered + link.due.len() as u64,
                at: self.now,
            });
            self.admit_waiting(index);
        }
        moved_any
    }

    /// Lets clients on that waited for room in a link's queue, when there is some.
    pub(in crate::worker) fn admit_waiting(&mut self, index: usize) {
        let link = &self.links[index];
        if !link.waiting.is_empty() && link.backlog.len() <= self.settings.limits.node_queue / 2 {
            self.wake_waiting(index);
        }
    }

    /// Has the clients look again that waited for room in a link's queue.
    pub(in crate::worker) fn wake_waiting(&mut self, index: usize) {
        for (client, generation) in std::mem::take(&mut self.links[index].waiting) {
            if let Some(client) = self.clients.get_mut(client)
                && client.generation == generation
            {
                client.waits_for.take_if(|link| *link == index);
                client.wake();
            }
        }
    }
}

/// Bytes of requests that may be sent now, behind a SELECT of their own or not.
fn window(link: &Link, other_db: bool) -> usize {
    if other_db || link.selects_due > 0 {
        SELECT_WINDOW.saturating_sub(link.due_bytes + SELECT_BYTES_MAX)
    } else {
        usize::MAX
    }
}

fn push_select(link: &mut Link, db: DbIndex, spares: &mut Spares) {
    let tail = link.out.tail(spares);
    let before = tail.len();
    write_select(db, tail);
    let bytes = u32::try_from(tail.len() - before).unwrap_or(0);
    link.due_bytes += bytes as usize;
    link.selects_due += 1;
    link.due.push_back(Entry {
        owner: Owner::Select,
        bytes,
        since: 0,
        shard: ShardId(0),
        large: false,
        shape: Shape::Plain,
        frames: 1,
    });
    link.db = Some(db);
}

/// Writes `SELECT db` as a frame.
pub(in crate::worker) fn write_select(db: DbIndex, out: &mut Vec<u8>) {
    let mut digits = [0; 5];
    let mut at = digits.len();
    let mut left = db.0;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(b"*2\r\n$6\r\nSELECT\r\n");
    resp::write_bulk(out, &digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::{engine, in_runtime, limits};

    const LINK: usize = 0;

    fn ask(engine: &mut Engine) {
        let lane = engine.lane(ShardId(0), resp::Protocol::Resp2);
        assert_eq!(lane.link as usize, LINK);
        engine.enqueue(lane, Owner::Tombstone, b"*1\r\n$4\r\nPING\r\n");
    }

    /// What is due, from the oldest on: `S` a SELECT, `r` a request.
    fn due(engine: &Engine) -> String {
        let entries = engine.links[LINK].due.iter();
        entries
            .map(|entry| if entry.owner == Owner::Select { 'S' } else { 'r' })
            .collect()
    }

    #[test]
    fn a_write_selects_for_itself_while_a_select_before_it_is_not_confirmed() {
        in_runtime(async {
            let mut engine = engine(crate::worker::shared::Limits {
                batches: crate::config::Batches::Fixed(3),
                ..limits()
            });
            engine.links[LINK].state = State::Ready;
            ask(&mut engine);
            ask(&mut engine);
            assert!(engine.link_fill(LINK));
            assert_eq!(due(&engine), "Srr");
            // The first one may have been refused already, when this is read.
            ask(&mut engine);
            assert!(engine.link_fill(LINK));
            assert_eq!(due(&engine), "SrrSr");
            for confirmed in ["rrSr", "rSr", "Sr", "r"] {
                engine.links[LINK].pop_due();
                assert_eq!(due(&engine), confirmed);
            }
            ask(&mut engine);
            assert!(engine.link_fill(LINK));
            assert_eq!(due(&engine), "rr");
        });
    }
}

//! From what a node tells of changes to the clients that have to know.

use bytes::Bytes;

use super::tracker::{Broadcast, Tell};
use crate::command;
use crate::ids::NodeIndex;
use crate::metrics::Limit;
use crate::resp::{self, elements};
use crate::worker::engine::Engine;

/// How a node begins to tell of changes.
const INVALIDATE: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";
/// Keys of one push that are looked at one by one; of one with more, everybody is told to drop everything.
const NAMES_MAX: usize = 16 * 1024;
/// The same in bytes.
const NAMES_BYTES_MAX: usize = 1024 * 1024;
/// Invalidations that one push may become, likewise.
const TOLD_MAX: usize = 64 * 1024;
/// Entries looked at in one round of the sweep.
const SWEPT_PER_ROUND: usize = 8192;

impl Engine {
    /// Handles a frame of a node if it tells of changes. Returns what it cost in deliveries.
    pub(in crate::worker) fn invalidation(&mut self, frame: &[u8]) -> Option<usize> {
        let keys = frame.strip_prefix(INVALIDATE)?;
        if self.tracking.tracker.is_idle() {
            return Some(0);
        }
        let names = elements(keys);
        let few = names
            .as_ref()
            .is_some_and(|names| names.count_left() <= NAMES_MAX && keys.len() <= NAMES_BYTES_MAX);
        let Some(names) = names.filter(|_| few) else {
            // A null: the node was emptied. Or too many to be looked at in one turn.
            if !keys.starts_with(b"_") {
                self.metrics.limits[Limit::TrackingNames].inc();
            }
            self.tracking.emptied = true;
            return Some(0);
        };
        let mut broadcast = Broadcast::new();
        let mut told = Vec::new();
        let mut cost = 0;
        for name in names {
            // Whatever a node says that is no name must not be passed over.
            let Some(key) = resp::bulk(name) else {
                self.tracking.emptied = true;
                continue;
            };
            if command::is_reserved(key) {
                continue;
            }
            self.tracking.tracker.invalidate(key, &mut broadcast, &mut told);
            cost += 1 + told.len();
            self.invalidate_clients(std::mem::take(&mut told));
            if cost > TOLD_MAX {
                self.metrics.limits[Limit::TrackingNames].inc();
                self.tracking.emptied = true;
                return Some(cost);
            }
        }
        self.tracking.tracker.finish(broadcast, &mut told);
        cost += told.len();
        self.invalidate_clients(told);
        Some(cost)
    }

    /// Handles the start of a frame that is too large to be kept, if it tells of changes: which ones is not known.
    pub(in crate::worker) fn large_invalidation(&mut self, start: &[u8]) -> bool {
        let tells = start.starts_with(INVALIDATE);
        if tells {
            self.metrics.limits[Limit::TrackingNames].inc();
            self.tracking.emptied = true;
        }
        tells
    }

    /// Passes on, once for all that came in this turn, that nodes were emptied.
    pub(in crate::worker) fn pass_on_emptied(&mut self) {
        if std::mem::take(&mut self.tracking.emptied) {
            self.drop_everything();
        }
    }

    /// What has changed on a node is not heard any more, or was not until now: nothing that was read may be trusted.
    pub(in crate::worker) fn tracking_gap(&mut self, node: NodeIndex, begins: bool) {
        if self.tracking.tracker.is_idle() {
            return;
        }
        if begins {
            self.pubsub.feeds[node.index()].count_tracking_gap();
        }
        self.drop_everything();
    }

    fn drop_everything(&mut self) {
        let mut told = Vec::new();
        self.tracking.tracker.drop_everything(&mut told);
        self.invalidate_clients(told);
    }

    pub(super) fn invalidate_clients(&mut self, told: Vec<Tell>) {
        for (client, push) in told {
            self.invalidate_client(client, &push);
        }
    }

    /// Tells a client, behind the replies of all that it has asked.
    pub(super) fn invalidate_client(&mut self, index: usize, push: &Bytes) {
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        self.metrics.tracking_invalidations.inc();
        if client.slots.is_empty() {
            self.push_message(index, push);
            return;
        }
        let after = client.next_seq().wrapping_sub(1);
        let held = client.invalidations.get_or_insert_default();
        if held.push(after, push) {
            self.metrics.limits[Limit::TrackingHeld].inc();
        }
    }

    /// A reply of a client for which invalidations wait has gone out: those that waited for it follow.
    #[cold]
    pub(in crate::worker) fn release_invalidations(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let head = client.head_seq;
        while let Some(held) = &mut client.invalidations
            && let Some(push) = held.poll(head)
        {
            client.out.push(&push, &mut self.spares);
            if held.is_empty() {
                client.invalidations = None;
            }
        }
    }

    /// Frees what nobody can have cached any more. Called by the sweep.
    pub(in crate::worker) fn sweep_tracking(&mut self) {
        self.tracking.tracker.sweep(SWEPT_PER_ROUND);
    }
}

#[cfg(test)]
mod tests {
    use super::super::held::EVERYTHING;
    use super::*;

    #[test]
    fn what_names_nothing_is_no_list_of_names() {
        let null = EVERYTHING.strip_prefix(INVALIDATE).unwrap();
        assert_eq!(null, b"_\r\n");
        assert!(elements(null).is_none());
    }
}

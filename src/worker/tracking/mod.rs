//! Client-side caching: clients learn that a key which they may have cached has changed.
//!
//! ```text
//!  CLIENT TRACKING ON ─▶ commands ─▶ the worker's feeds ─▶ CLIENT TRACKING ON BCAST on every node
//!  GET k ─▶ reads ─▶ Tracker: k ─▶ clients                  before the request is sent
//!
//!  node ══ >invalidate k ══▶ feed ─▶ deliver ─▶ Tracker ─▶ client        none of its requests is under way
//!                                                    └──▶ Held ─▶ client  else behind the replies of all of them
//! ```
//!
//! What holds: for each value that a client has read since it tracks, the change that makes it stale is told to the
//! client behind the reply that brought it, or the client is told to drop everything. Where a node is not heard, what is
//! read there is told to be dropped at once. See docs/decisions/0006-tracking.md.

mod commands;
mod deliver;
mod held;
mod options;
mod reads;
mod table;
mod tracker;

use std::collections::HashMap;

pub(super) use held::Held;

use super::shared;
use tracker::{Limits, Options, Tracker};

/// The tracking of one worker.
#[derive(Debug)]
pub(super) struct Tracking {
    tracker: Tracker,
    /// What clients have asked for that wait until the nodes have confirmed.
    asked: HashMap<usize, Options>,
    /// A node has told that it was emptied: said once for all that came in the same turn.
    emptied: bool,
}

fn limits_of(limits: &shared::Limits) -> Limits {
    Limits {
        keys: limits.tracking_keys,
        bytes: limits.request_memory / 4,
    }
}

impl Tracking {
    pub(super) fn new(limits: &shared::Limits) -> Self {
        Self {
            tracker: Tracker::new(limits_of(limits)),
            asked: HashMap::new(),
            emptied: false,
        }
    }

    /// Other limits: what is beyond them goes when the next key comes.
    pub(super) fn set_limits(&mut self, limits: &shared::Limits) {
        self.tracker.set_limits(limits_of(limits));
    }

    /// Whether no client tracks.
    pub(super) fn is_idle(&self) -> bool {
        self.tracker.is_idle()
    }

    /// Clients that track, keys that are tracked, prefixes.
    pub(super) fn sizes(&self) -> [usize; 3] {
        self.tracker.sizes()
    }

    /// Memory of all names, about.
    pub(super) fn bytes(&self) -> usize {
        self.tracker.bytes()
    }
}

//! The gate of a shard: while it is held, its requests wait here, in their order, and no node sees them.
//!
//! ```text
//!            ┌─ open ──▶ the node's link: its chain of the backlog ──▶ node
//!  lane ─────┤
//!            └─ held ──▶ a gate's backlog ── released: moved over, in order ──▶ the link of the node that it has then
//! ```
//!
//! A gate is a link without a node, one for each kind of link, so that the way of a request does not know of it: it
//! has a queue, a limit and clients that wait for room like any other. What waits longer than `hold_max` is answered
//! `TRYAGAIN` and has not run. Commands that wait for data, and transactions of clients that watch keys, wait at their
//! client instead.
//!
//! Before the shards of a unit are frozen at their node, only scripts, waits and watches of them are held: a node's refusal does
//! not prove that none of a script has run. Everything else goes on until the node refuses it; then it waits here too
//! (`release_parked`), in front of what came later, as it does when the node refuses to be connected to (`link_frozen`). Where a node
//! cannot be told to refuse a unit, all of it is held (`closed`).

use std::sync::Arc;

use super::backend::{Entry, Owner, State};
use super::engine::{Engine, PROTOCOLS};
use super::session::is_unblock;
use crate::ids::ShardId;
use crate::metrics::Limit;
use crate::resp::Protocol;
use crate::topology::Unit;

/// Why a shard is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hold {
    /// An operator's order.
    pub(super) paused: bool,
    /// It is on its way to another node, or to another user.
    pub(super) moving: bool,
    /// Its node refuses it, until another topology says where it is.
    pub(super) frozen: bool,
    /// Nothing of it may be under way that a node could refuse half-way, by order of who moves it.
    pub(super) quiesced: bool,
    /// Nothing of it may be under way at all, by the same order: its node cannot be told to refuse it.
    pub(super) closed: bool,
    /// Its node gets another address, and nobody may wait for data at the old one.
    pub(super) readdressed: bool,
}

/// What of a shard is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Nothing,
    /// What runs code there, and what needs a connection of its own.
    Code,
    Everything,
}

impl Hold {
    pub(super) const fn held(self) -> Held {
        let Self {
            paused,
            moving,
            frozen,
            quiesced,
            closed,
            readdressed,
        } = self;
        if paused || moving || frozen || closed {
            Held::Everything
        } else if quiesced || readdressed {
            Held::Code
        } else {
            Held::Nothing
        }
    }
}

impl Engine {
    /// Whether a link is a gate.
    #[inline]
    pub(super) fn is_gate(&self, link: usize) -> bool {
        self.gates().contains(&link)
    }

    /// Whether what needs a connection of its own, or runs code, has to wait at a shard.
    pub(super) fn is_held(&self, shard: ShardId) -> bool {
        self.held.contains_key(&shard)
    }

    /// Why its requests are held, for their clients.
    pub(super) fn why_held(&self, shard: ShardId) -> &'static str {
        match self.held.get(&shard) {
            Some(Hold { paused: true, .. }) => "it is paused",
            Some(_) => "it is on its way to another node",
            None => "it was held",
        }
    }

    /// Holds a shard: what was not sent waits at the gate, and what comes behind it.
    pub(super) fn hold(&mut self, shard: ShardId, why: impl FnOnce(&mut Hold)) {
        let hold = self.held.entry(shard).or_default();
        let before = hold.held();
        why(hold);
        let after = hold.held();
        if before != after {
            self.lead(shard, after);
        }
    }

    /// Holds the shards of a unit whose user a node refuses, until another topology says where they are. One that is not in force says
    /// nothing of where shards are now.
    pub(super) fn hold_unit(&mut self, user: Option<&str>) {
        let topology = Arc::clone(&self.topology);
        let is_its = |unit: &&Unit| user.is_some() && unit.user.as_deref() == user;
        for unit in topology.units.iter().filter(is_its) {
            for &shard in &unit.shards {
                self.hold(shard, |hold| hold.frozen = true);
            }
        }
    }

    /// Takes reasons away; with the last one the shard's requests go on, to where its lanes lead then.
    pub(super) fn release(&mut self, shard: ShardId, why: impl FnOnce(&mut Hold)) {
        let Some(hold) = self.held.get_mut(&shard) else {
            return;
        };
        let before = hold.held();
        why(hold);
        let after = hold.held();
        if after == Held::Nothing {
            self.held.remove(&shard);
        }
        if before != after {
            self.lead(shard, after);
            self.gates().for_each(|gate| self.wake_waiting(gate));
        }
    }

    /// Turns the lanes of a shard, and moves over what waits on them.
    fn lead(&mut self, shard: ShardId, held: Held) {
        let before = self.links_of(shard);
        self.point_lanes(shard, held);
        let now = self.now32();
        for (from, to) in before.into_iter().zip(self.links_of(shard)) {
            if from == to {
                continue;
            }
            for (mut entry, frame) in self.links[from].backlog.take_chain(shard) {
                // The time at the gate does not count against the time in a queue, nor the other way round.
                entry.since = now;
                entry.large = false;
                if self.drops_order(entry, &frame) {
                    continue;
                }
                let link = &mut self.links[to];
                link.backlog.push(entry, &frame);
                if !link.listed {
                    link.listed = true;
                    self.woken_links.push(to);
                }
            }
            self.admit_waiting(from);
        }
    }

    /// Whether what was not sent is an order to the server that it was for, which no other one gets in its stead. A client whose order
    /// it was learns that it has ended no wait.
    pub(super) fn drops_order(&mut self, entry: Entry, frame: &[u8]) -> bool {
        match entry.owner {
            Owner::Order => true,
            Owner::Client {
                index,
                generation,
                seq,
            } if is_unblock(frame) => {
                self.complete(index as usize, generation, seq, b":0\r\n", false);
                true
            }
            Owner::Client { .. } | Owner::Gather { .. } | Owner::Select | Owner::Tombstone => false,
        }
    }

    pub(super) fn links_of(&self, shard: ShardId) -> [usize; 2 * PROTOCOLS] {
        let [resp2, resp3] = [Protocol::Resp2, Protocol::Resp3];
        [
            self.lane(shard, resp2),
            self.lane(shard, resp3),
            self.script_lane(shard, resp2),
            self.script_lane(shard, resp3),
        ]
        .map(|lane| lane.link as usize)
    }

    /// Whether a node may still run, or be about to answer, requests of these shards that were sent before they were
    /// held.
    pub(super) fn is_under_way(&self, shards: &[ShardId]) -> bool {
        let of_these = |shard| shards.binary_search(&shard).is_ok();
        let is_request = |owner| owner != Owner::Select;
        self.links
            .iter()
            .flat_map(|link| &link.due)
            .any(|entry| is_request(entry.owner) && of_these(entry.shard))
            || self.dedicated_to_any(of_these)
    }

    /// The same of requests that run code, or go over connections of their own.
    pub(super) fn is_code_under_way(&self, shards: &[ShardId]) -> bool {
        let of_these = |shard| shards.binary_search(&shard).is_ok();
        let mut doors = self.doors.values();
        let runs = doors.any(|door| {
            let links = &self.links[door.scripts..door.scripts + PROTOCOLS];
            let mut due = links.iter().flat_map(|link| &link.due);
            due.any(|entry| of_these(entry.shard))
        });
        runs || self.dedicated_to_any(of_these)
    }

    /// Gives up on requests that were held for too long. Called by the sweep.
    pub(super) fn expire_held(&mut self, gate: usize) {
        debug_assert_eq!(self.links[gate].state, State::Gate);
        if self.links[gate].backlog.is_empty() {
            return;
        }
        let hold_max = u64::try_from(self.settings.limits.hold.as_micros()).unwrap_or(u64::MAX);
        let now = self.now32();
        for entry in self.links[gate].backlog.take_older(now, hold_max) {
            self.metrics.limits[Limit::HoldMax].inc();
            self.not_run(entry, "TRYAGAIN", self.why_held(entry.shard));
        }
        self.admit_waiting(gate);
    }

    /// Requests that wait at gates.
    pub(super) fn held_requests(&self) -> usize {
        self.links[self.gates()]
            .iter()
            .map(|gate| gate.backlog.len())
            .sum()
    }
}

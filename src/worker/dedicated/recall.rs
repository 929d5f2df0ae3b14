//! What waits or watches in shards that go elsewhere: ended, and asked again where they are.
//!
//! ```text
//!  its shard, user or node goes ─▶ CLIENT UNBLOCK ─▶ nothing was taken out ─▶ recalled ──its shard is not held──▶ asked again
//!                                                  └▶ or its reply            (a watch: counts as changed)
//!  its node refuses the unit ──────────────────────────────────────────────▶ recalled, and the unit held
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::{Dedicated, End, FROZEN, Job, RECALLED, Slot};
use crate::ids::{NodeIndex, ShardId};
use crate::metrics::Disconnect;
use crate::resp::Protocol;
use crate::worker::backend::{Lane, Owner};
use crate::worker::engine::Engine;
use crate::worker::session::{SLACK, micros, to_u32};

impl Engine {
    /// Gives up what waits and what is watched in shards that go elsewhere: what waits is asked again later, what is watched
    /// counts as changed, and what does not wait is answered soon.
    pub(in crate::worker) fn recall_shards(&mut self, of_these: impl Fn(ShardId) -> bool) {
        let watched = |client: usize| self.clients.get(client).and_then(|client| client.watching);
        let concerned = |slot: &Slot| {
            let watching = slot.pinned.and_then(|(client, _)| watched(client));
            slot.job.as_ref().is_some_and(|job| of_these(job.shard))
                || watching.is_some_and(|watching| of_these(watching.shard))
        };
        let concerned = self.those(concerned);
        self.recall_dedicated(&concerned, End::Unblock);
    }

    /// Has nodes end what waits for data there, to be asked again later.
    pub(in crate::worker) fn recall_waits(&mut self, nodes: &[NodeIndex]) {
        let concerned = self.those(|slot| slot.waits_at(nodes));
        self.recall_dedicated(&concerned, End::Unblock);
    }

    /// Whether anybody waits for data at these nodes.
    pub(in crate::worker) fn is_waited_at(&self, nodes: &[NodeIndex]) -> bool {
        self.dedicated.slots.iter().any(|(_, slot)| slot.waits_at(nodes))
    }

    /// The same of all connections to a node that goes, with those that are idle. From here on an order to it would reach another
    /// server.
    pub(in crate::worker) fn recall_node(&mut self, node: NodeIndex) {
        for (_, slot) in &mut self.dedicated.slots {
            if slot.node == node && slot.end == End::Unblock {
                slot.end = End::Recall;
                slot.wake();
            }
        }
        let concerned = self.those(|slot| slot.node == node);
        self.recall_dedicated(&concerned, End::Recall);
    }

    /// The same of connections of users that a node has no more. What waits over others goes on waiting.
    pub(in crate::worker) fn recall_users(&mut self, node: NodeIndex) {
        let topology = Arc::clone(&self.topology);
        let concerned =
            self.those(|slot| slot.node == node && !topology.has_user(node, slot.user.as_deref()));
        self.recall_dedicated(&concerned, End::Unblock);
    }

    fn those(&self, concerned: impl Fn(&Slot) -> bool) -> Vec<usize> {
        let slots = self.dedicated.slots.iter();
        slots
            .filter(|(_, slot)| slot.end == End::No && concerned(slot))
            .map(|(index, _)| index)
            .collect()
    }

    fn recall_dedicated(&mut self, concerned: &[usize], end: End) {
        let (mut unwatched, silence_max) = (Vec::new(), self.settings.limits.silence_max_us);
        for &index in concerned {
            let slot = &mut self.dedicated.slots[index];
            slot.spoilt = true;
            match &slot.job {
                Some(job) if job.again.is_some() => slot.end = end,
                // It is answered soon; then the connection goes. A `WATCH` that is under way watches nothing any more. A node that
                // stands still must not keep the next topology from this worker where requests have no deadline; who waits for replicas
                // does not keep it.
                Some(_) => {
                    unwatched.extend(slot.pinned.take());
                    if let Some(job) = slot.job.as_mut().filter(|job| !job.keeps_all) {
                        job.deadline.get_or_insert(self.now + silence_max);
                    }
                    continue;
                }
                None => {
                    slot.end = End::Close;
                    unwatched.extend(slot.pinned);
                    if let Some(idle) = self.dedicated.idle.get_mut(&slot.kind()) {
                        idle.retain(|&other| other != index);
                    }
                }
            }
            self.dedicated.slots[index].wake();
        }
        for (client, generation) in unwatched {
            self.watch_moved(client, generation);
        }
    }

    /// Tells a node that the wait on one of its connections is to end, over the link that its shard's requests go by: held
    /// requests of the same shard wait for just that.
    pub(super) fn end_wait(&mut self, dedicated: Dedicated) {
        let Some(slot) = self.dedicated.slot(dedicated) else {
            return;
        };
        let (number, protocol) = (slot.node_client.to_string(), slot.protocol);
        let Some(shard) = slot.job.as_ref().map(|job| job.shard) else {
            return;
        };
        let topology = Arc::clone(&self.topology);
        let [resp2, resp3, ..] = self.links_to(&topology, shard);
        let link = if protocol == Protocol::Resp2 { resp2 } else { resp3 };
        let mut frame = Vec::new();
        crate::resp::write_request(
            &mut frame,
            &[b"CLIENT", b"UNBLOCK", number.as_bytes(), b"TIMEOUT"],
        );
        let lane = Lane {
            shard,
            link: to_u32(link),
        };
        self.enqueue(lane, Owner::Order, &frame);
    }

    /// A node refuses the unit that a request is for, and has run nothing of it. The unit is held until a topology says where it
    /// is. What waits for data is asked again there; what is watched counts as changed. The line is for what is neither.
    pub(super) fn dedicated_refused(&mut self, dedicated: Dedicated) -> &'static str {
        let Some(slot) = self.dedicated.slot(dedicated) else {
            return FROZEN;
        };
        let user = slot.user.clone();
        let waits = slot.job.as_ref().is_some_and(|job| job.again.is_some());
        let owner = slot.job.take_if(|job| job.transaction).and_then(|job| job.owner);
        let pinned = slot.pinned.take();
        self.hold_unit(user.as_deref());
        if let Some((client, generation)) = pinned {
            self.watch_moved(client, generation);
        }
        if let Some((client, generation, seq)) = owner {
            let nothing = self.nothing_for(client as usize);
            self.complete_dedicated(client, generation, seq, nothing, false);
        }
        if waits { RECALLED } else { FROZEN }
    }

    /// A wait was given up and has not been answered: it is asked again when its shard is not held.
    pub(super) fn dedicated_recalled(&mut self, mut job: Job) {
        if let Some((client, generation, _)) = job.owner
            && !self.client_is_gone(client as usize, generation)
        {
            let client = &mut self.clients[client as usize];
            client.waits_at = None;
            client.info.waits(None);
            client.publish();
            // How long it has waited for data by then is no matter: only what it waits here is a hold.
            job.recalled_at = self.now;
            self.dedicated.recalled.push(job);
        }
    }

    /// Asks again what was given up, of shards that are not held. Called when something was released, and by the sweep.
    pub(in crate::worker) fn ask_recalled(&mut self) {
        let hold_us = u64::try_from(self.settings.limits.hold.as_micros()).unwrap_or(u64::MAX);
        for mut job in std::mem::take(&mut self.dedicated.recalled) {
            let Some((client, generation, seq)) = job.owner else {
                continue;
            };
            let index = client as usize;
            if self.client_is_gone(index, generation) {
                continue;
            }
            if self.clients[index].read_ended {
                // It has left meanwhile, and its session saw nothing that it waited at.
                self.close_client(index, generation, Disconnect::Client);
                continue;
            }
            let line = if self.is_held(job.shard) {
                if self.now.saturating_sub(job.recalled_at) < hold_us || job.deadline.is_none() {
                    self.dedicated.recalled.push(job);
                    continue;
                }
                Err(format!(
                    "TRYAGAIN preshard: {}; it has not run",
                    self.why_held(job.shard)
                ))
            } else {
                self.dedicated_to(index, job.shard)
            };
            match line {
                Ok(at) => {
                    let waited = Duration::from_micros(self.now.saturating_sub(job.since));
                    if let Some(again) = &job.again {
                        (job.bytes, job.prefaces) = again.prefaces();
                        job.bytes.extend_from_slice(&again.frame_after(waited));
                        job.frames = job.prefaces + 1;
                        // How long it was held is no fault of the node's: that has the rest of the wait, and what any node may take.
                        job.deadline = again
                            .left(waited)
                            .map(|left| self.now + micros(left.saturating_add(SLACK)));
                    }
                    job.db = self.topology.placement(job.shard).db;
                    self.ask_own(index, at, job);
                    // With a request behind the wait it is not read in between: from here on its leaving is to be seen again.
                    self.clients[index].wake();
                }
                Err(line) => {
                    let reply = crate::resp::error_line(&line);
                    self.complete_dedicated(client, generation, seq, &reply, false);
                }
            }
        }
    }
}

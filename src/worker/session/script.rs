//! `EVAL`, `EVALSHA`, `FCALL`: code that runs on the node of its keys, over connections apart.
//!
//! ```text
//!  EVAL body    ─▶ looked at once, kept ─▶ [EVAL …   · ECHO nonce]      one block: see `backend::block`
//!  EVALSHA sum  ─▶ [EVALSHA … · ECHO nonce]     before it SCRIPT LOAD, if the node was not told: see `backend::tell`
//!  -NOSCRIPT    ─▶ the client has nothing else in flight and the body is known: asked again (it has not run)
//! ```

use super::client::Via;
use super::dispatch::{Admission, to_u32};
use super::input::Taken;
use crate::command::{Script, Spec, judge_code, touches_nothing};
use crate::ids::ShardId;
use crate::metrics::Limit;
use crate::resp::{self, Args};
use crate::worker::backend::{Entry, Lane, NOSCRIPT, Owner, Shape, push_fence};
use crate::worker::engine::Engine;
use crate::worker::scripts::{Sha, Told, each_sum};

/// A script that was called by its sum, to be called again should its node not know it.
#[derive(Debug)]
pub(in crate::worker) struct CalledBySum {
    sha: Sha,
    frame: Box<[u8]>,
}

const KEYLESS: &str = "CROSSSLOT this script names no key here, so it has no shard, and its text may reach keys; name them, or SELECT \
                       a pinned database for it";

impl Engine {
    /// Sends a script to its shard.
    pub(super) fn handle_script(
        &mut self,
        index: usize,
        spec: &'static Spec,
        (script, shard): (Script, ShardId),
        args: &Args<'_>,
        frame: &[u8],
    ) -> Taken {
        if !self.goes_by(index, Via::Script) {
            return self.wait_for_answers(index);
        }
        let lane = self.script_lane(shard, self.clients[index].protocol);
        if let Err(line) = self.learn(index, script, args) {
            self.answer_error(index, &line);
            return Taken::Yes;
        }
        let alone = self.clients[index].slots.is_empty();
        let mut bytes = self.spares.take();
        bytes.extend_from_slice(frame);
        push_fence(&self.links[lane.link as usize].fence, &mut bytes);
        let taken = self.forward_block(index, spec, lane, (Shape::Fenced, 2), &bytes);
        self.spares.give(bytes);
        if taken == Taken::Yes {
            self.count_request(index, spec);
            let by_sum = script == Script::Evalsha && alone;
            self.clients[index].called_by_sum = Sha::parse(args.get(1)).filter(|_| by_sum).map(|sha| {
                Box::new(CalledBySum {
                    sha,
                    frame: frame.into(),
                })
            });
        }
        taken
    }

    /// Looks at the code of a script, and keeps it.
    ///
    /// # Errors
    /// It may not run.
    pub(super) fn learn(&self, index: usize, script: Script, args: &Args<'_>) -> Result<(), String> {
        match script {
            Script::Eval => {
                let body = args.get(1);
                self.learn_body(Sha::of(body), body)?;
            }
            // The sharded keyspace: without keys it may run anywhere, if it can touch none.
            Script::Evalsha if self.clients[index].db == 0 && args.get(2) == b"0" => {
                let sha = Sha::parse(args.get(1));
                match sha.and_then(|sha| self.shared.scripts.body(sha)) {
                    None => return Err(NOSCRIPT.to_owned()),
                    Some(body) if !touches_nothing(&body) => return Err(KEYLESS.to_owned()),
                    Some(_) => {}
                }
            }
            Script::Evalsha | Script::Fcall => {}
        }
        Ok(())
    }

    /// Keeps the body of a script.
    ///
    /// # Errors
    /// It says that it would leave its database.
    pub(in crate::worker) fn learn_body(&self, sha: Sha, body: &[u8]) -> Result<(), String> {
        if self.shared.scripts.body(sha).is_some() {
            return Ok(());
        }
        judge_code(body)?;
        let gone = self.shared.scripts.keep(sha, body);
        self.metrics.limits[Limit::ScriptBytes].add(gone);
        Ok(())
    }

    /// What has a node load all scripts that a transaction calls by their sums, and how many there are: for a connection of
    /// which nothing is noted.
    pub(super) fn loads_of(&self, transaction: &[u8]) -> (Vec<u8>, u32) {
        let (mut loads, mut count, mut told) = (Vec::new(), 0, Told::default());
        let cache = &self.shared.scripts;
        each_sum(transaction, true, |sha| {
            if let Some(body) = cache.body(sha)
                && !told.note(cache, sha)
            {
                resp::write_request(&mut loads, &[b"SCRIPT", b"LOAD", &body]);
                count += 1;
            }
        });
        (loads, count)
    }

    /// Queues a request with a fence behind it.
    pub(in crate::worker) fn enqueue_fenced(&mut self, lane: Lane, owner: Owner, frame: &[u8]) {
        let mut bytes = self.spares.take();
        bytes.extend_from_slice(frame);
        push_fence(&self.links[lane.link as usize].fence, &mut bytes);
        let entry = Entry {
            owner,
            bytes: to_u32(bytes.len()),
            since: self.now32(),
            shard: lane.shard,
            large: false,
            shape: Shape::Fenced,
            frames: 2,
        };
        self.enqueue_entry(lane, entry, &bytes);
        self.spares.give(bytes);
    }

    /// A node does not know the script that a client called by its sum. Whether it is asked again, and told first: the
    /// script has not run, and nothing else of this client is under way that could be overtaken.
    #[cold]
    pub(in crate::worker) fn call_again(&mut self, link: usize, entry: Entry) -> bool {
        let Owner::Client {
            index,
            generation,
            seq,
        } = entry.owner
        else {
            return false;
        };
        let Some(client) = self.clients.get_mut(index as usize) else {
            return false;
        };
        let alone = client.generation == generation && client.head_seq == seq && client.slots.len() == 1;
        let Some(called) = client.called_by_sum.take().filter(|_| alone) else {
            return false;
        };
        if self.shared.scripts.body(called.sha).is_none() {
            return false;
        }
        let lane = self.script_lane(entry.shard, self.links[link].protocol);
        if self.admission(lane) != Admission::Yes {
            return false;
        }
        let mut bytes = called.frame.into_vec();
        push_fence(&self.links[link].fence, &mut bytes);
        let again = Entry {
            bytes: to_u32(bytes.len()),
            large: false,
            ..entry
        };
        self.enqueue_entry(lane, again, &bytes);
        self.metrics.scripts_healed.inc();
        true
    }
}

//! What a client that tracks reads: noted when its request is on its way, in the same turn, before a node sees it.
//!
//! Redis's rule of what may be cached holds: keys of commands that only read, and those that a script declares. What
//! `EXEC` will run is looked at again when it is sent: a change between `MULTI` and `EXEC` must not use the note up.

use super::tracker::{NAME_MAX, Tell, name_push};
use crate::command::{self, Class, Flags, Spec, Transaction};
use crate::metrics::Limit;
use crate::resp::{ArgRange, Args, RequestLimits, RequestScanner, Scan};
use crate::worker::engine::Engine;
use crate::worker::session::Taken;

impl Engine {
    /// Handles a request of a client that tracks.
    #[cold]
    pub(in crate::worker) fn handle_tracked(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
        frame: &[u8],
    ) -> Taken {
        let is_exec = matches!(spec.class, Class::Transaction(Transaction::Exec));
        let queued = self.clients[index].transaction.is_some();
        let reads = if is_exec {
            self.queued_reads(index)
        } else {
            Vec::new()
        };
        let (seq, generation) = (self.clients[index].next_seq(), self.clients[index].generation);
        let taken = self.dispatch_in_state(index, spec, args, frame);
        if taken == Taken::NotNow || self.client_is_gone(index, generation) {
            return taken;
        }
        // Answered here, without a node: nothing was read.
        if self.clients[index].next_seq() != seq {
            for key in &reads {
                self.note_read(index, key);
            }
            if !queued {
                for place in keys_read(spec, args) {
                    self.note_read(index, args.get(place as usize));
                }
            }
        }
        if self.clients[index].transaction.is_none() && !spec.name.starts_with("client|") {
            self.caching_used(index);
        }
        taken
    }

    /// `CLIENT CACHING` holds for one command.
    pub(in crate::worker) fn caching_used(&mut self, index: usize) {
        if let Some(reader) = self.tracking.tracker.reader_mut(index) {
            reader.caching = false;
        }
    }

    /// The keys that the commands read which a client has queued.
    fn queued_reads(&self, index: usize) -> Vec<Vec<u8>> {
        let mut reads = Vec::new();
        let Some(queued) = &self.clients[index].transaction else {
            return reads;
        };
        let bytes = queued.bytes();
        let mut at = 0;
        let mut ranges: Vec<ArgRange> = Vec::new();
        // What is queued was scanned under these limits, or tighter ones.
        let limits = RequestLimits {
            bulk_max: usize::MAX,
            ..self.settings.limits.request
        };
        while at < bytes.len() {
            ranges.clear();
            let Scan::Frame { end } = RequestScanner::default().scan(&bytes[at..], &mut ranges, &limits)
            else {
                debug_assert!(false, "only whole frames are queued");
                return reads;
            };
            let args = Args::new(&bytes[at..at + end], &ranges);
            if let Ok(spec) = command::resolve(&args) {
                let keys = keys_read(spec, &args).into_iter();
                reads.extend(keys.map(|place| args.get(place as usize).to_vec()));
            }
            at += end;
        }
        reads
    }

    /// A request that reads a key is on its way.
    fn note_read(&mut self, index: usize, key: &[u8]) {
        if !self.tracking.tracker.remembers(index, key) {
            return;
        }
        let db = self.clients[index].db;
        let shard = match self.topology.pinned_shard(db) {
            Some(shard) => shard,
            None => self.topology.shard_of_key(key),
        };
        let node = self.topology.placement(shard).node;
        if key.len() > NAME_MAX || !self.pubsub.hub.tracks(node) {
            // Its changes would not be heard, or its name not kept: it is not to be cached.
            self.invalidate_at_once(vec![(index, name_push(key))]);
            return;
        }
        let mut told = Vec::new();
        let evicted = self.tracking.tracker.read(index, key, &mut told);
        if evicted > 0 {
            self.metrics.tracking_evictions.add(evicted as u64);
            self.metrics.limits[Limit::TrackingKeys].add(evicted as u64);
        }
        self.invalidate_at_once(told);
    }

    /// As [`Self::invalidate_clients`], in a turn of a session: nobody else writes to these clients then.
    fn invalidate_at_once(&mut self, told: Vec<Tell>) {
        for (client, push) in told {
            self.invalidate_client(client, &push);
            if self.clients.contains(client) {
                self.mark_dirty(client);
            }
        }
    }
}

/// The places of the keys of a request that a client may cache the reply of.
fn keys_read(spec: &Spec, args: &Args<'_>) -> Vec<u32> {
    let reads = spec.flags.has(Flags::READONLY) || matches!(spec.class, Class::Script(_));
    let mut places = Vec::new();
    if !reads || command::keys(spec, args, &mut places).is_err() {
        return Vec::new();
    }
    places
}

#[cfg(test)]
mod tests {
    use super::super::tracker::Options;
    use super::*;
    use crate::command::CommandId;
    use crate::metrics::RequestClass;
    use crate::worker::testing::{connect, engine, in_runtime, limits};

    #[test]
    fn what_is_told_in_a_turn_of_a_session_goes_out_with_it() {
        in_runtime(async {
            let mut engine = engine(limits());
            let mut peer = connect(&mut engine).await;
            engine.tracking.tracker.start(peer.index, Options::default());
            // No node tells of changes here, so nothing may be cached.
            engine.note_read(peer.index, b"k");
            engine.end_turn();
            assert!(engine.clients[peer.index].out.is_empty(), "it was written");
            let push = name_push(b"k");
            assert_eq!(peer.read_all(&mut engine, push.len()).await, push);
        });
    }

    #[test]
    fn an_invalidation_follows_the_replies_of_all_that_was_under_way() {
        in_runtime(async {
            let mut engine = engine(limits());
            let mut peer = connect(&mut engine).await;
            engine.tracking.tracker.start(peer.index, Options::default());
            let (index, generation) = (peer.index, peer.generation);
            let ask = |engine: &mut Engine| engine.push_slot(index, CommandId(0), 1, RequestClass::Read);
            let seqs = [ask(&mut engine), ask(&mut engine)];
            engine.invalidate_client(index, &name_push(b"k"));
            let later = ask(&mut engine);
            engine.complete(index, generation, seqs[1], b"+two\r\n", true);
            engine.append_piece(index, generation, seqs[0], b"$4\r\nla");
            engine.invalidate_client(index, &name_push(b"l"));
            engine.append_piece(index, generation, seqs[0], b"te\r\n");
            engine.complete(index, generation, seqs[0], b"", true);
            engine.release_held_back(index);
            let expected = [&b"$4\r\nlate\r\n+two\r\n"[..], &name_push(b"k")].concat();
            assert_eq!(peer.read_all(&mut engine, expected.len()).await, expected);
            engine.complete(index, generation, later, b"+three\r\n", true);
            let expected = [&b"+three\r\n"[..], &name_push(b"l")].concat();
            assert_eq!(peer.read_all(&mut engine, expected.len()).await, expected);
            assert!(engine.clients[index].invalidations.is_none());
        });
    }
}

//! `COUNTER.TAKE`: batches out of the shards that have something, until there are `COUNT` entries.
//!
//! ```text
//!  every shard, from one by chance on:  EXISTS P D L ──none──▶ done with it
//!                                          │ some
//!                                          ▼
//!                                       HLEN of each: how much it would give
//!                                          ▼                              (no more than COUNT is expected at a time)
//!                                       the script ──▶ a batch, or nothing that is due
//! ```
//!
//! A shard that cannot be asked now, because it is on its way to another node or its node is down, is left out. If nothing
//! is found then, the answer says so: empty means that nothing is due anywhere.

use std::collections::VecDeque;

use super::keys::Kind;
use super::parse::TakeOptions;
use super::{read, script};
use crate::helper::{Ask, Facts, Frames, Program, Window};
use crate::ids::ShardId;
use crate::merge::{self, Outcome};
use crate::resp::{self, Args, Protocol, bulk, elements};

/// Shards of one node that are looked at, and scripts that run there, at a time.
const LOOKED_AT: usize = 64;
const SCRIPTS: usize = 4;
const HASHES: [Kind; 3] = [Kind::Pending, Kind::Drained, Kind::Leased];
const SCRIPT_KEYS: [Kind; 4] = [Kind::Pending, Kind::Drained, Kind::Leased, Kind::Meta];
const SHAPE: &str = "ERR preshard: a node's reply has a shape that its command never has";

#[derive(Debug)]
pub(super) struct Take {
    counter: Vec<u8>,
    options: TakeOptions,
    shards: Vec<Shard>,
    /// Shards that were not looked at.
    unseen: Window,
    /// Shards that have something, of unknown size.
    unsized_: VecDeque<u32>,
    /// Shards to be taken from.
    ready: Window,
    /// Entries that shards in `ready` would give, and those that scripts under way are expected to.
    ready_entries: usize,
    expected: usize,
    /// Shards whose batch is to be confirmed here: it has only zeros.
    empty: VecDeque<u32>,
    batches: Vec<Batch>,
    entries: usize,
    /// The entries of all batches: member, delta, as they are answered.
    kept: Vec<u8>,
    kept_max: usize,
    unchecked: usize,
    error: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Shard {
    shard: ShardId,
    node: usize,
    /// Entries that it would give.
    size: usize,
    /// The batch that is confirmed here.
    seq: Vec<u8>,
}

#[derive(Debug)]
struct Batch {
    shard: ShardId,
    seq: Vec<u8>,
    attempt: i64,
    prev: Vec<u8>,
    entries: usize,
    /// Its range in `kept`.
    start: usize,
    end: usize,
}

/// What is asked of a shard; the lowest bits of a part's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look,
    Size,
    Take,
    Confirm,
}

const STEPS: [Step; 4] = [Step::Look, Step::Size, Step::Take, Step::Confirm];

impl Take {
    pub(super) fn new(args: &Args<'_>, facts: &Facts<'_>) -> Result<Self, String> {
        let options = TakeOptions::parse(args)?;
        let keyspace = facts.keyspace;
        let mut shards: Vec<Shard> = keyspace
            .shards()
            .map(|shard| Shard {
                shard,
                node: keyspace.node_of(shard),
                size: 0,
                seq: Vec::new(),
            })
            .collect();
        let first = facts.chance % shards.len().max(1) as u64;
        shards.rotate_left(usize::try_from(first).unwrap_or_default());
        let mut unseen = Window::new(keyspace.nodes(), LOOKED_AT);
        for (number, shard) in (0..).zip(&shards) {
            unseen.push(shard.node, number);
        }
        Ok(Self {
            counter: args.get(1).to_vec(),
            options,
            shards,
            unseen,
            unsized_: VecDeque::new(),
            ready: Window::new(keyspace.nodes(), SCRIPTS),
            ready_entries: 0,
            expected: 0,
            empty: VecDeque::new(),
            batches: Vec::new(),
            entries: 0,
            kept: Vec::new(),
            kept_max: facts.reply_bytes_max / 4,
            unchecked: 0,
            error: None,
        })
    }

    /// Whether there is enough, in entries or in bytes.
    fn has_enough(&self) -> bool {
        self.entries >= self.options.count || self.kept.len() >= self.kept_max
    }

    /// The next shard and what is asked of it.
    fn next_step(&mut self) -> Option<(u32, Step)> {
        if let Some(number) = self.empty.pop_front() {
            return Some((number, Step::Confirm));
        }
        if self.has_enough() {
            return None;
        }
        if self.entries + self.expected < self.options.count
            && let Some(number) = self.ready.pop()
        {
            let size = self.shards[number as usize].size;
            self.ready_entries -= size;
            self.expected += size;
            return Some((number, Step::Take));
        }
        if let Some(number) = self.unsized_.pop_front() {
            return Some((number, Step::Size));
        }
        let in_sight = self.entries + self.expected + self.ready_entries;
        if in_sight < self.options.count
            && let Some(number) = self.unseen.pop()
        {
            return Some((number, Step::Look));
        }
        None
    }

    fn write(&self, number: u32, step: Step, frame: &mut Vec<u8>) {
        let counter = &self.counter;
        match step {
            Step::Look => {
                resp::write_array_header(frame, 1 + HASHES.len());
                resp::write_bulk(frame, b"EXISTS");
                HASHES.iter().for_each(|kind| kind.write(counter, frame));
            }
            Step::Size => {
                script::write_call(&script::SIZES, counter, (&HASHES, false), &[], frame);
            }
            Step::Take => {
                let TakeOptions {
                    count,
                    lease_ms,
                    every_ms,
                    no_ack,
                } = self.options;
                let numbers = [count as u64, lease_ms, every_ms].map(|number| number.to_string());
                let [count, lease, every] = [0, 1, 2].map(|at: usize| numbers[at].as_bytes());
                let no_ack: &[u8] = if no_ack { b"1" } else { b"0" };
                let args = [count, lease, every, no_ack, counter.as_slice()];
                script::write_call(&script::TAKE, counter, (&SCRIPT_KEYS, true), &args, frame);
            }
            Step::Confirm => {
                let seq = &self.shards[number as usize].seq;
                super::sum::write_ack(counter, seq, frame);
            }
        }
    }

    fn absorb_reply(&mut self, number: u32, step: Step, reply: &[u8]) -> Option<()> {
        match step {
            Step::Look => {
                if merge::integer(reply)? > 0 {
                    self.unsized_.push_back(number);
                }
            }
            Step::Size => {
                let sizes: Vec<usize> = elements(reply)?
                    .map(|size| usize::try_from(merge::integer(size)?).ok())
                    .collect::<Option<_>>()?;
                let &[pending, drained, leased] = sizes.as_slice() else {
                    return None;
                };
                let drained = if drained > 0 { drained } else { pending };
                let size = if leased > 0 {
                    leased
                } else {
                    drained.min(self.options.count)
                };
                if size > 0 {
                    let shard = &mut self.shards[number as usize];
                    shard.size = size;
                    self.ready_entries += size;
                    self.ready.push(shard.node, number);
                }
            }
            Step::Take => {
                if !matches!(reply, b"$-1\r\n" | b"*-1\r\n" | b"_\r\n") {
                    self.add_batch(number, reply)?;
                }
            }
            Step::Confirm => {}
        }
        Some(())
    }

    /// Adds what a script has handed out: its number, attempt, the number before, members and deltas.
    fn add_batch(&mut self, number: u32, reply: &[u8]) -> Option<()> {
        let mut parts = elements(reply)?;
        let seq = bulk(parts.next()?)?.to_vec();
        let attempt = std::str::from_utf8(bulk(parts.next()?)?).ok()?.parse().ok()?;
        let prev = bulk(parts.next()?)?.to_vec();
        let mut raw = elements(parts.next()?)?;
        let start = self.kept.len();
        let mut entries = 0;
        while let Some(member) = raw.next() {
            let delta = read::count(raw.next()?)?;
            if delta != 0 {
                self.kept.extend_from_slice(member);
                resp::write_int(&mut self.kept, delta);
                entries += 1;
            }
        }
        let shard = &mut self.shards[number as usize];
        if entries == 0 {
            if !self.options.no_ack {
                shard.seq = seq;
                self.empty.push_back(number);
            }
            return Some(());
        }
        self.entries += entries;
        self.batches.push(Batch {
            shard: shard.shard,
            seq,
            attempt,
            prev,
            entries,
            start,
            end: self.kept.len(),
        });
        Some(())
    }

    fn write_batch(&self, batch: &Batch, protocol: Protocol, out: &mut Vec<u8>) {
        let mut id = format!("{}-", batch.shard.0).into_bytes();
        id.extend_from_slice(&batch.seq);
        let named = protocol == Protocol::Resp3;
        let name = |name: &str, out: &mut Vec<u8>| {
            if named {
                resp::write_bulk(out, name.as_bytes());
            }
        };
        if named {
            resp::write_map_header(out, protocol, 4);
        } else {
            resp::write_array_header(out, 4);
        }
        name("id", out);
        resp::write_bulk(out, &id);
        name("attempt", out);
        resp::write_int(out, batch.attempt);
        name("entries", out);
        resp::write_map_header(out, protocol, batch.entries);
        out.extend_from_slice(&self.kept[batch.start..batch.end]);
        name("prev", out);
        resp::write_bulk(out, &batch.prev);
    }
}

impl Program for Take {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        let (number, step) = self.next_step()?;
        self.write(number, step, frame);
        Some(Ask {
            shard: self.shards[number as usize].shard,
            part: number << 2 | step as u32,
            frames: Frames::One,
        })
    }

    fn absorb(&mut self, part: u32, outcome: Outcome<'_>) {
        let (number, step) = (part >> 2, STEPS[(part & 3) as usize]);
        let Shard { node, size, .. } = self.shards[number as usize];
        match step {
            Step::Look => self.unseen.done(node),
            Step::Take => {
                self.ready.done(node);
                self.expected -= size;
            }
            Step::Size | Step::Confirm => {}
        }
        let error = match outcome {
            Outcome::Reply(reply) if matches!(reply.first(), Some(b'-' | b'!')) => Some(reply.to_vec()),
            Outcome::Reply(reply) => match self.absorb_reply(number, step, reply) {
                Some(()) => None,
                None => Some(resp::error_line(SHAPE)),
            },
            // What was taken without a lease and never came is gone.
            Outcome::Uncertain(line) if step == Step::Take && self.options.no_ack => {
                Some(resp::error_line(line))
            }
            Outcome::NotRun(_) | Outcome::Uncertain(_) => {
                self.unchecked += usize::from(step != Step::Confirm);
                None
            }
        };
        if let Some(error) = error {
            self.error.get_or_insert(error);
        }
    }

    fn held_bytes(&self) -> usize {
        self.kept.len()
    }

    fn finish(&mut self, protocol: Protocol, out: &mut Vec<u8>) {
        // Batches that are out must reach whoever asked, whatever happened elsewhere.
        if self.batches.is_empty() {
            if let Some(error) = &self.error {
                out.extend_from_slice(error);
                return;
            }
            if self.unchecked > 0 {
                let line = format!(
                    "TRYAGAIN preshard: {} shards not checked; nothing is due in the others",
                    self.unchecked
                );
                resp::write_error(out, line);
                return;
            }
        }
        resp::write_array_header(out, self.batches.len());
        for batch in &self.batches {
            self.write_batch(batch, protocol, out);
        }
    }

    fn first(&self) -> Option<ShardId> {
        self.shards.first().map(|shard| shard.shard)
    }

    fn has_rounds(&self) -> bool {
        true
    }

    fn skips_held(&self) -> bool {
        true
    }
}

//! `COUNTER.PENDING`: how much waits to be taken, and to be confirmed, in all shards together.
//!
//! ```text
//!  PENDING events    HLEN P D L and what M says, at one moment in each shard ──▶ added up
//!  PENDING           SMEMBERS of each registry ──▶ the same for every name that is found
//! ```
//!
//! One shard that cannot be asked makes the whole an error: a sum without it would look like an answer.

use std::collections::{BTreeMap, VecDeque};

use super::keys::{KINDS, REGISTRY};
use super::{read, script};
use crate::helper::{Ask, Facts, Frames, Program, Window};
use crate::ids::ShardId;
use crate::merge::{self, Outcome};
use crate::resp::{self, Args, Protocol, bulk, elements};

const UNDER_WAY: usize = 64;
const SHAPE: &str = "ERR preshard: a node's reply has a shape that its command never has";

#[derive(Debug)]
pub(super) struct Pending {
    /// The counter that was named; none: all.
    named: Option<Vec<u8>>,
    shards: Vec<(ShardId, usize)>,
    /// Shards of which the first question was not asked.
    unasked: Window,
    /// Names that a registry had: (shard, name).
    found: VecDeque<(u32, Vec<u8>)>,
    /// What is asked about: by part, behind the numbers of the shards.
    asked: Vec<(u32, Vec<u8>)>,
    under_way: usize,
    totals: BTreeMap<Vec<u8>, Total>,
    held: usize,
    error: Option<Vec<u8>>,
}

/// What is told of one counter.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    members: i64,
    leased: i64,
    batches: i64,
    shards: i64,
    lag_ms: Option<i64>,
    attempt_max: i64,
}

impl Pending {
    pub(super) fn new(args: &Args<'_>, facts: &Facts<'_>) -> Result<Self, String> {
        if args.len() > 2 {
            return Err("ERR wrong number of arguments for 'counter.pending' command".to_owned());
        }
        let keyspace = facts.keyspace;
        let shards: Vec<_> = keyspace
            .shards()
            .map(|shard| (shard, keyspace.node_of(shard)))
            .collect();
        let mut unasked = Window::new(keyspace.nodes(), UNDER_WAY);
        (0..)
            .zip(&shards)
            .for_each(|(number, &(_, node))| unasked.push(node, number));
        let named = args.try_get(1).map(<[u8]>::to_vec);
        let totals = named.iter().map(|name| (name.clone(), Total::default()));
        Ok(Self {
            totals: totals.collect(),
            named,
            shards,
            unasked,
            found: VecDeque::new(),
            asked: Vec::new(),
            under_way: 0,
            held: 0,
            error: None,
        })
    }

    /// Adds the names of a registry. `None` if they are none.
    fn add_names(&mut self, shard: u32, reply: &[u8]) -> Option<()> {
        for name in elements(reply)? {
            let name = bulk(name)?.to_vec();
            if !self.totals.contains_key(&name) {
                self.held += name.len() + size_of::<Total>();
                self.totals.insert(name.clone(), Total::default());
            }
            self.found.push_back((shard, name));
        }
        Some(())
    }

    /// Adds what a shard says of a counter: three lengths, what its meta hash has, the time.
    fn add(&mut self, name: &[u8], reply: &[u8]) -> Option<()> {
        let parts: Vec<&[u8]> = elements(reply)?.collect();
        let &[pending, drained, leased, meta, time] = parts.as_slice() else {
            return None;
        };
        let [pending, drained, leased] = [pending, drained, leased].map(merge::integer);
        let (pending, drained, leased) = (pending?, drained?, leased?);
        let mut meta = elements(meta)?;
        let taken_ms = meta.next()?;
        let attempt = read::count(meta.next()?)?;
        let seconds = std::str::from_utf8(bulk(elements(time)?.next()?)?).ok()?;
        let now_ms = seconds.parse::<i64>().ok()?.checked_mul(1000)?;
        let total = self.totals.get_mut(name)?;
        total.members = total.members.saturating_add(pending).saturating_add(drained);
        total.leased = total.leased.saturating_add(leased);
        total.batches += i64::from(leased > 0);
        total.shards += i64::from(pending > 0 || drained > 0 || leased > 0);
        if leased > 0 {
            total.attempt_max = total.attempt_max.max(attempt);
        }
        if (pending > 0 || drained > 0) && !is_null(taken_ms) {
            let lag = now_ms.saturating_sub(read::count(taken_ms)?).max(0);
            total.lag_ms = Some(total.lag_ms.unwrap_or(0).max(lag));
        }
        Some(())
    }
}

fn is_null(value: &[u8]) -> bool {
    matches!(value, b"$-1\r\n" | b"_\r\n")
}

fn write_question(name: &[u8], frame: &mut Vec<u8>) {
    script::write_call(&script::PENDING, name, (&KINDS, false), &[], frame);
}

impl Total {
    fn write(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let fields = [
            ("members", Some(self.members)),
            ("leased", Some(self.leased)),
            ("batches", Some(self.batches)),
            ("shards", Some(self.shards)),
            ("lag-ms", self.lag_ms),
            ("max-attempt", Some(self.attempt_max)),
        ];
        resp::write_map_header(out, protocol, fields.len());
        for (name, number) in fields {
            resp::write_bulk(out, name.as_bytes());
            match number {
                Some(number) => resp::write_int(out, number),
                None => resp::write_null(out, protocol),
            }
        }
    }
}

impl Program for Pending {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        if self.error.is_some() {
            return None;
        }
        let shards = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        if self.under_way < UNDER_WAY
            && let Some((number, name)) = self.found.pop_front()
        {
            self.under_way += 1;
            write_question(&name, frame);
            let part = shards + u32::try_from(self.asked.len()).unwrap_or(u32::MAX);
            self.asked.push((number, name));
            return Some(Ask {
                shard: self.shards[number as usize].0,
                part,
                frames: Frames::One,
            });
        }
        let number = self.unasked.pop()?;
        match &self.named {
            Some(name) => write_question(name, frame),
            None => resp::write_request(frame, &[b"SMEMBERS", REGISTRY]),
        }
        Some(Ask {
            shard: self.shards[number as usize].0,
            part: number,
            frames: Frames::One,
        })
    }

    fn absorb(&mut self, part: u32, outcome: Outcome<'_>) {
        let behind = (part as usize).checked_sub(self.shards.len());
        let name = match behind {
            Some(place) => {
                self.under_way = self.under_way.saturating_sub(1);
                Some(std::mem::take(&mut self.asked[place].1))
            }
            None => {
                self.unasked.done(self.shards[part as usize].1);
                self.named.clone()
            }
        };
        let error = match outcome {
            Outcome::Reply(reply) if reply.first() == Some(&b'-') => Some(reply.to_vec()),
            Outcome::Reply(reply) => {
                let added = match &name {
                    Some(name) => self.add(name, reply),
                    None => self.add_names(part, reply),
                };
                added.is_none().then(|| resp::error_line(SHAPE))
            }
            Outcome::NotRun(line) | Outcome::Uncertain(line) => Some(resp::error_line(line)),
        };
        if let Some(error) = error {
            self.error.get_or_insert(error);
        }
    }

    fn held_bytes(&self) -> usize {
        self.held
    }

    fn finish(&mut self, protocol: Protocol, out: &mut Vec<u8>) {
        if let Some(error) = &self.error {
            out.extend_from_slice(error);
            return;
        }
        if self.named.is_none() {
            resp::write_map_header(out, protocol, self.totals.len());
        }
        for (name, total) in &self.totals {
            if self.named.is_none() {
                resp::write_bulk(out, name);
            }
            total.write(protocol, out);
        }
    }

    fn first(&self) -> Option<ShardId> {
        self.shards.first().map(|&(shard, _)| shard)
    }

    fn has_rounds(&self) -> bool {
        self.named.is_none() || !self.unasked.takes_all()
    }
}

//! `COUNTER.ACK`, `COUNTER.LEASE`, `COUNTER.DEL`: one ask for each batch, or each shard, whose numbers are added.
//!
//! All three may be sent again whatever became of them: what is done already counts as nothing.

use super::keys::{KINDS, Kind, REGISTRY};
use super::{members_by_shard, parse, script};
use crate::helper::{Ask, Facts, Frames, Keyspace, Program, Window, Words};
use crate::ids::ShardId;
use crate::merge::{Merge, Outcome, Rule};
use crate::resp::{self, Args, Protocol};

const UNDER_WAY: usize = 64;

#[derive(Debug)]
pub(super) struct Sum {
    what: What,
    words: Words,
    targets: Vec<Target>,
    window: Window,
    merge: Merge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Ack,
    Lease,
    /// Members of what is pending.
    Members,
    /// All of a counter.
    Whole,
}

#[derive(Debug)]
struct Target {
    shard: ShardId,
    node: usize,
    /// The arguments that are about this shard.
    places: Vec<u32>,
}

impl Sum {
    pub(super) fn ack(args: &Args<'_>, facts: &Facts<'_>) -> Result<Self, String> {
        Self::of_ids(What::Ack, 2, args, facts)
    }

    pub(super) fn lease(args: &Args<'_>, facts: &Facts<'_>) -> Result<Self, String> {
        parse::bounded(args.get(2), 0, parse::LEASE_MAX_MS, "ms")?;
        Self::of_ids(What::Lease, 3, args, facts)
    }

    pub(super) fn del(args: &Args<'_>, facts: &Facts<'_>) -> Result<Self, String> {
        if args.len() > 2 {
            let members = members_by_shard(args, 2, facts.keyspace)?;
            return Ok(Self::new(What::Members, members, args, facts));
        }
        let targets = facts.keyspace.shards().map(|shard| (shard, Vec::new()));
        Ok(Self::new(What::Whole, targets, args, facts))
    }

    fn of_ids(what: What, first: usize, args: &Args<'_>, facts: &Facts<'_>) -> Result<Self, String> {
        let mut targets = Vec::with_capacity(args.len() - first);
        for at in first..args.len() {
            let (shard, _) = id(args.get(at), facts.keyspace)?;
            targets.push((shard, vec![u32::try_from(at).map_err(|_| parse::TOO_MANY)?]));
        }
        Ok(Self::new(what, targets, args, facts))
    }

    fn new(
        what: What,
        targets: impl IntoIterator<Item = (ShardId, Vec<u32>)>,
        args: &Args<'_>,
        facts: &Facts<'_>,
    ) -> Self {
        let keyspace = facts.keyspace;
        let target = |(shard, places)| Target {
            shard,
            node: keyspace.node_of(shard),
            places,
        };
        let targets: Vec<Target> = targets.into_iter().map(target).collect();
        let mut window = Window::new(keyspace.nodes(), UNDER_WAY);
        (0..)
            .zip(&targets)
            .for_each(|(part, target)| window.push(target.node, part));
        Self {
            what,
            words: Words::of(args),
            merge: Merge::new(Rule::Sum, targets.len(), true),
            targets,
            window,
        }
    }
}

/// The shard and the number of a batch id, `shard-seq`.
pub(super) fn id<'a>(id: &'a [u8], keyspace: Keyspace<'_>) -> Result<(ShardId, &'a [u8]), String> {
    const SEQ_DIGITS_MAX: usize = 16;
    let invalid = || "ERR invalid batch id".to_owned();
    let dash = id.iter().position(|&byte| byte == b'-').ok_or_else(invalid)?;
    let (shard, seq) = (&id[..dash], &id[dash + 1..]);
    let number = |text| parse::integer(text).ok().filter(|number| *number >= 0);
    let shard = number(shard).and_then(|shard| u16::try_from(shard).ok());
    let shard = shard.ok_or_else(invalid)?;
    if seq.len() > SEQ_DIGITS_MAX || number(seq).is_none() {
        return Err(invalid());
    }
    if !keyspace.has(ShardId(shard)) {
        return Err("ERR invalid batch id: its shard is not one of the selected database".to_owned());
    }
    Ok((ShardId(shard), seq))
}

/// Appends the confirmation of a batch.
pub(super) fn write_ack(counter: &[u8], seq: &[u8], out: &mut Vec<u8>) {
    script::write_call(
        &script::ACK,
        counter,
        (&[Kind::Leased, Kind::Meta], false),
        &[seq],
        out,
    );
}

/// The number behind the dash.
fn seq_of(id: &[u8]) -> &[u8] {
    let dash = id.iter().position(|&byte| byte == b'-');
    dash.map_or(&[], |dash| &id[dash + 1..])
}

impl Program for Sum {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        let part = self.window.pop()?;
        let Target { shard, places, .. } = &self.targets[part as usize];
        let counter = self.words.get(1);
        let place = |at: usize| places.get(at).map_or(0, |&place| place as usize);
        let mut frames = Frames::One;
        match self.what {
            What::Ack => write_ack(counter, seq_of(self.words.get(place(0))), frame),
            What::Lease => {
                let args = [seq_of(self.words.get(place(0))), self.words.get(2)];
                script::write_call(
                    &script::LEASE,
                    counter,
                    (&[Kind::Leased, Kind::Meta], false),
                    &args,
                    frame,
                );
            }
            What::Members => {
                resp::write_array_header(frame, 2 + places.len());
                resp::write_bulk(frame, b"HDEL");
                Kind::Pending.write(counter, frame);
                for &place in places {
                    resp::write_bulk(frame, self.words.get(place as usize));
                }
            }
            What::Whole => {
                resp::write_array_header(frame, 1 + KINDS.len());
                resp::write_bulk(frame, b"UNLINK");
                KINDS.iter().for_each(|kind| kind.write(counter, frame));
                resp::write_request(frame, &[b"SREM", REGISTRY, counter]);
                frames = Frames::First(2);
            }
        }
        Some(Ask {
            shard: *shard,
            part,
            frames,
        })
    }

    fn absorb(&mut self, part: u32, outcome: Outcome<'_>) {
        self.window.done(self.targets[part as usize].node);
        let outcome = match outcome {
            // Shards are counted, not keys.
            Outcome::Reply(reply) if self.what == What::Whole && reply.starts_with(b":") => {
                Outcome::Reply(if reply == b":0\r\n" { b":0\r\n" } else { b":1\r\n" })
            }
            other => other,
        };
        self.merge.part(part as usize, outcome);
    }

    fn held_bytes(&self) -> usize {
        0
    }

    fn finish(&mut self, protocol: Protocol, out: &mut Vec<u8>) {
        self.merge.finish(protocol, out);
    }

    fn first(&self) -> Option<ShardId> {
        self.targets.first().map(|target| target.shard)
    }

    fn has_rounds(&self) -> bool {
        !self.window.takes_all()
    }
}

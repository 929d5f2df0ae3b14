//! What clients see of a keyspace in which helpers keep keys: a number of keys, and some key, that leave those out.
//!
//! ```text
//!  DBSIZE      of each shard: DBSIZE, SMEMBERS of the registry ──▶ EXISTS of every counter's keys, where there are any
//!  RANDOMKEY   of one shard after the other: RANDOMKEY, a few times if it gives a hidden key, then SCAN for the first other one
//! ```
//!
//! (`KEYS` and `SCAN` leave them out where their replies are merged.)

use std::collections::VecDeque;

use super::counter::keys::{KINDS, REGISTRY};
use super::{Ask, Frames, Keyspace, Program, Window};
use crate::command::is_reserved;
use crate::ids::ShardId;
use crate::merge::{self, Merge, Outcome, Rule};
use crate::resp::{self, Protocol, bulk, elements};

/// Shards of one node that are asked for their number of keys at a time.
const UNDER_WAY: usize = 128;
/// How often one shard is asked for a random key before it is searched.
const TRIES: u32 = 8;

/// `DBSIZE` without the keys that helpers keep.
#[derive(Debug)]
pub struct Dbsize {
    shards: Vec<(ShardId, usize)>,
    window: Window,
    /// The second question of each shard that was asked the first one.
    names_due: VecDeque<u32>,
    /// The names of a shard's registry: asked about in the third one.
    found: VecDeque<(u32, Vec<Vec<u8>>)>,
    sum: i64,
    merge: Merge,
}

const SIZE: u32 = 0;
const NAMES: u32 = 1;
const HIDDEN: u32 = 2;

impl Dbsize {
    /// The program for one keyspace.
    #[must_use]
    pub fn new(keyspace: Keyspace<'_>) -> Self {
        let shards: Vec<_> = keyspace
            .shards()
            .map(|shard| (shard, keyspace.node_of(shard)))
            .collect();
        let mut window = Window::new(keyspace.nodes(), UNDER_WAY);
        (0..)
            .zip(&shards)
            .for_each(|(number, &(_, node))| window.push(node, number));
        Self {
            merge: Merge::new(Rule::Sum, shards.len(), false),
            shards,
            window,
            names_due: VecDeque::new(),
            found: VecDeque::new(),
            sum: 0,
        }
    }

    fn ask(&self, number: u32, question: u32) -> Ask {
        Ask {
            shard: self.shards[number as usize].0,
            part: number * 3 + question,
            frames: Frames::One,
        }
    }
}

/// Keys of a registry, and the registry itself if it has any.
fn names(reply: &[u8]) -> Option<Vec<Vec<u8>>> {
    elements(reply)?.map(|name| Some(bulk(name)?.to_vec())).collect()
}

impl Program for Dbsize {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        if self.merge.has_failed() {
            return None;
        }
        if let Some(number) = self.names_due.pop_front() {
            resp::write_request(frame, &[b"SMEMBERS", REGISTRY]);
            return Some(self.ask(number, NAMES));
        }
        if let Some((number, names)) = self.found.pop_front() {
            resp::write_array_header(frame, 1 + names.len() * KINDS.len());
            resp::write_bulk(frame, b"EXISTS");
            for name in &names {
                KINDS.iter().for_each(|kind| kind.write(name, frame));
            }
            return Some(self.ask(number, HIDDEN));
        }
        let number = self.window.pop()?;
        resp::write_request(frame, &[b"DBSIZE"]);
        self.names_due.push_back(number);
        Some(self.ask(number, SIZE))
    }

    fn absorb(&mut self, part: u32, outcome: Outcome<'_>) {
        let (number, question) = (part / 3, part % 3);
        if question == SIZE {
            self.window.done(self.shards[number as usize].1);
        }
        let counted = match outcome {
            Outcome::Reply(reply) if question == NAMES => names(reply).map(|names| {
                if !names.is_empty() {
                    self.sum -= 1;
                    self.found.push_back((number, names));
                }
            }),
            Outcome::Reply(reply) => merge::integer(reply).map(|count| {
                self.sum += if question == SIZE { count } else { -count };
            }),
            Outcome::NotRun(_) | Outcome::Uncertain(_) => None,
        };
        if counted.is_none() {
            self.merge.part(0, outcome);
        }
    }

    fn held_bytes(&self) -> usize {
        0
    }

    fn finish(&mut self, protocol: Protocol, out: &mut Vec<u8>) {
        if self.merge.has_failed() {
            self.merge.finish(protocol, out);
        } else {
            resp::write_int(out, self.sum.max(0));
        }
    }

    fn first(&self) -> Option<ShardId> {
        self.shards.first().map(|&(shard, _)| shard)
    }

    fn has_rounds(&self) -> bool {
        false
    }
}

/// `RANDOMKEY`: shards in turn from one by chance, until one has a key that is not hidden.
#[derive(Debug)]
pub struct Randomkey {
    shards: Vec<ShardId>,
    at: usize,
    tries: u32,
    /// Where the search of the shard goes on; none: it is not searched.
    cursor: Option<Vec<u8>>,
    asked: bool,
    done: Option<Vec<u8>>,
}

impl Randomkey {
    /// The program for one keyspace; `chance` says which shard comes first.
    #[must_use]
    pub fn new(keyspace: Keyspace<'_>, chance: u64) -> Self {
        let mut shards: Vec<ShardId> = keyspace.shards().collect();
        let first = chance % shards.len().max(1) as u64;
        shards.rotate_left(usize::try_from(first).unwrap_or_default());
        Self {
            shards,
            at: 0,
            tries: 0,
            cursor: None,
            asked: false,
            done: None,
        }
    }

    fn next_shard(&mut self) {
        self.at += 1;
        self.tries = 0;
        self.cursor = None;
    }

    /// Takes in a shard's reply. `None` if it has not the shape of one.
    fn take(&mut self, reply: &[u8]) -> Option<()> {
        if self.cursor.is_none() {
            if matches!(reply, b"$-1\r\n" | b"_\r\n") {
                self.next_shard();
                return Some(());
            }
            if !is_reserved(bulk(reply)?) {
                self.done = Some(reply.to_vec());
            }
            self.tries += 1;
            if self.tries == TRIES {
                self.cursor = Some(b"0".to_vec());
            }
            return Some(());
        }
        let mut parts = elements(reply)?;
        let cursor = bulk(parts.next()?)?;
        let key = elements(parts.next()?)?.find(|key| bulk(key).is_some_and(|key| !is_reserved(key)));
        match key {
            Some(key) => self.done = Some(key.to_vec()),
            None if cursor == b"0" => self.next_shard(),
            None => self.cursor = Some(cursor.to_vec()),
        }
        Some(())
    }
}

impl Program for Randomkey {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        if self.asked || self.done.is_some() {
            return None;
        }
        let shard = *self.shards.get(self.at)?;
        match &self.cursor {
            None => resp::write_request(frame, &[b"RANDOMKEY"]),
            Some(cursor) => resp::write_request(frame, &[b"SCAN", cursor]),
        }
        self.asked = true;
        Some(Ask {
            shard,
            part: 0,
            frames: Frames::One,
        })
    }

    fn absorb(&mut self, _: u32, outcome: Outcome<'_>) {
        self.asked = false;
        match outcome {
            Outcome::Reply(reply) if reply.starts_with(b"-") => self.done = Some(reply.to_vec()),
            Outcome::Reply(reply) => {
                if self.take(reply).is_none() {
                    let line = "ERR preshard: a node's reply has a shape that its command never has";
                    self.done = Some(resp::error_line(line));
                }
            }
            Outcome::NotRun(line) | Outcome::Uncertain(line) => self.done = Some(resp::error_line(line)),
        }
    }

    fn held_bytes(&self) -> usize {
        0
    }

    fn finish(&mut self, protocol: Protocol, out: &mut Vec<u8>) {
        match &self.done {
            Some(done) => out.extend_from_slice(done),
            None => resp::write_null(out, protocol),
        }
    }

    fn first(&self) -> Option<ShardId> {
        self.shards.first().copied()
    }

    fn has_rounds(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::testing::{Said, run, topology};

    fn said(reply: impl AsRef<[u8]>) -> Said {
        Said::Reply(reply.as_ref().to_vec())
    }

    #[test]
    fn hidden_keys_are_not_counted() {
        let topology = topology(2, 1);
        let dbsize = |fails: bool| {
            let program = Box::new(Dbsize::new(Keyspace::new(&topology, 0)));
            run(program, Protocol::Resp2, |ask, sent| match sent[0].as_str() {
                "DBSIZE" => said(":10\r\n"),
                _ if fails => Said::NotRun("CLUSTERDOWN x"),
                "SMEMBERS __preshard__:cn" if ask.shard == ShardId(0) => said("*1\r\n$1\r\nc\r\n"),
                "SMEMBERS __preshard__:cn" => said("*0\r\n"),
                "EXISTS __preshard__:cp:c __preshard__:cd:c __preshard__:cl:c __preshard__:cm:c" => {
                    said(":3\r\n")
                }
                other => panic!("{other}"),
            })
        };
        assert_eq!(dbsize(false), ":16\r\n");
        assert_eq!(dbsize(true), "-CLUSTERDOWN x\r\n");
    }

    #[test]
    fn a_random_key_is_never_a_hidden_one() {
        let topology = topology(2, 1);
        let mut asked = 0;
        let program = Box::new(Randomkey::new(Keyspace::new(&topology, 0), 0));
        let reply = run(program, Protocol::Resp3, |_, sent| {
            asked += 1;
            match sent[0].as_str() {
                "RANDOMKEY" if asked <= 8 => said("$15\r\n__preshard__:cn\r\n"),
                "SCAN 0" => said("*2\r\n$1\r\n7\r\n*1\r\n$15\r\n__preshard__:cn\r\n"),
                "SCAN 7" => said("*2\r\n$1\r\n0\r\n*0\r\n"),
                "RANDOMKEY" => said("_\r\n"),
                other => panic!("{other}"),
            }
        });
        assert_eq!((reply.as_str(), asked), ("_\r\n", 11));
        let program = Box::new(Randomkey::new(Keyspace::new(&topology, 1), 5));
        let reply = run(program, Protocol::Resp2, |ask, _| {
            assert_eq!(ask.shard, ShardId(2));
            said("$1\r\nk\r\n")
        });
        assert_eq!(reply, "$1\r\nk\r\n");
    }
}

//! A pipeline by chance: its bytes, and for each request what its reply must be.

use super::client::DesyncClient;
use super::ledger::{SHARED, counter, queue};
use super::model::{Act, NIL};
use crate::harness::Reply;
use crate::harness::wire::frame;

/// What the reply of a request must be.
#[derive(Debug, Clone)]
pub(super) enum Expect {
    /// Exactly these values, whatever happens to nodes.
    Local(Vec<String>),
    /// An error of the proxy's that begins so.
    Refused(&'static str),
    /// These values, or a failure, which leaves the slots in doubt.
    Slots {
        slots: Vec<usize>,
        want: Vec<String>,
    },
    /// `WATCH`: from here on the transaction of this slot is guarded.
    Watch(usize),
    /// `EXEC` of a slot: these values; nothing has run if `aborts` and the keys were watched.
    Exec {
        slot: usize,
        want: Vec<String>,
        aborts: bool,
    },
    /// A page of keys that begin with this.
    Page(String),
    /// A number of clients reached.
    Published,
    Incremented(usize),
    Pushed(String),
    Popped {
        queue: usize,
        waits: bool,
    },
    /// How many clients were killed.
    Killed,
}

/// A request and where its frame ends in the pipeline.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) end: usize,
    pub(super) expect: Expect,
    /// It goes over a connection of the client's own.
    pub(super) waits: bool,
    /// Its reply may be passed on in pieces.
    pub(super) large: bool,
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    pub(super) bytes: Vec<u8>,
    pub(super) pending: Vec<Pending>,
}

/// The first line of this script makes some servers answer twice.
const INJECTION: &str = "#!lua \"flags=a\r\n+INJECTED\"\nreturn 1";

impl Pending {
    /// One that does not wait and is small.
    pub(super) fn plain(expect: Expect) -> Self {
        Self {
            end: 0,
            expect,
            waits: false,
            large: false,
        }
    }
}

impl Pipeline {
    fn add<A: AsRef<[u8]>>(&mut self, words: &[A], expect: Expect) {
        self.bytes.extend(frame(words));
        let mut pending = Pending::plain(expect);
        pending.end = self.bytes.len();
        self.pending.push(pending);
    }

    fn waits(&mut self) {
        self.pending.last_mut().unwrap().waits = true;
    }
}

impl DesyncClient<'_> {
    /// As many requests as chance will have it, upon slots of this client and upon shared keys.
    pub(super) fn pipeline(&mut self) -> Pipeline {
        let mut pipeline = Pipeline::default();
        let depth = match self.random.u8(0..8) {
            0 | 1 => 1,
            2..=5 => self.random.usize(2..20),
            _ => self.random.usize(20..90),
        };
        while pipeline.pending.len() < depth {
            match self.random.u8(0..48) {
                0..=29 => self.act(&mut pipeline),
                30..=32 => self.split(&mut pipeline),
                33..=36 => self.transaction(&mut pipeline),
                37..=39 => self.watched_transaction(&mut pipeline),
                40..=44 => self.shared(&mut pipeline),
                _ => self.aside(&mut pipeline),
            }
        }
        pipeline
    }

    fn act(&mut self, pipeline: &mut Pipeline) {
        let slot = self.any_slot();
        let token = self.token();
        let act = Act::any(&mut self.random, &self.slots[slot].world, token);
        let (words, want) = self.run(slot, &act);
        let large = words.iter().any(|word| word.len() > 10_000)
            || want.len() + want[0..].iter().map(String::len).sum::<usize>() > 10_000;
        pipeline.add(
            &words,
            Expect::Slots {
                slots: vec![slot],
                want,
            },
        );
        let last = pipeline.pending.last_mut().unwrap();
        (last.waits, last.large) = (act.waits(), large);
    }

    /// The words of a command, and what the model says they do.
    fn run(&mut self, slot: usize, act: &Act) -> (Vec<String>, Vec<String>) {
        let tag = self.tag(slot);
        let world = &mut self.slots[slot].world;
        let words = act.words(&tag, world, &self.stage.sum);
        (words, act.run(&tag, world))
    }

    /// Commands over keys of many shards.
    fn split(&mut self, pipeline: &mut Pipeline) {
        let slots: Vec<usize> = (0..self.random.usize(2..7)).map(|_| self.any_slot()).collect();
        let tags: Vec<String> = slots.iter().map(|&slot| self.tag(slot)).collect();
        if self.random.bool() {
            let mut words = vec!["MGET".to_owned()];
            words.extend(tags.iter().map(|tag| format!("{tag}s")));
            let want = slots
                .iter()
                .flat_map(|&slot| Act::Get.run("", &mut self.slots[slot].world))
                .collect();
            pipeline.add(&words, Expect::Slots { slots, want });
        } else {
            let mut words = vec!["MSET".to_owned()];
            for (&slot, tag) in slots.iter().zip(&tags) {
                let token = self.token();
                words.extend([format!("{tag}s"), token.clone()]);
                Act::Set(token).run(tag, &mut self.slots[slot].world);
            }
            pipeline.add(
                &words,
                Expect::Slots {
                    slots,
                    want: vec!["OK".to_owned()],
                },
            );
        }
    }

    fn queued(&mut self, pipeline: &mut Pipeline, slot: usize) -> Vec<String> {
        let mut wanted = Vec::new();
        for _ in 0..self.random.usize(1..5) {
            let token = self.token();
            let act = Act::any(&mut self.random, &self.slots[slot].world, token);
            let (words, want) = self.run(slot, &act);
            pipeline.add(&words, Expect::Local(vec!["QUEUED".to_owned()]));
            wanted.extend(want);
        }
        let token = self.token();
        pipeline.add(&["ECHO", &token], Expect::Local(vec!["QUEUED".to_owned()]));
        wanted.push(token);
        wanted
    }

    fn transaction(&mut self, pipeline: &mut Pipeline) {
        let slot = self.any_slot();
        pipeline.add(&["MULTI"], Expect::Local(vec!["OK".to_owned()]));
        if self.random.u8(0..6) == 0 {
            // What is queued is not run.
            let before = self.slots[slot].world.clone();
            self.queued(pipeline, slot);
            self.slots[slot].world = before;
            pipeline.add(&["DISCARD"], Expect::Local(vec!["OK".to_owned()]));
            return;
        }
        let want = self.queued(pipeline, slot);
        pipeline.add(
            &["EXEC"],
            Expect::Exec {
                slot,
                want,
                aborts: false,
            },
        );
    }

    fn watched_transaction(&mut self, pipeline: &mut Pipeline) {
        let slot = self.any_slot();
        pipeline.add(&["WATCH", &format!("{}s", self.tag(slot))], Expect::Watch(slot));
        pipeline.waits();
        let aborts = self.random.bool();
        if aborts {
            // The client's own command comes over another connection, so its transaction fails, as in Redis.
            let act = Act::Set(self.token());
            let (words, want) = self.run(slot, &act);
            pipeline.add(
                &words,
                Expect::Slots {
                    slots: vec![slot],
                    want,
                },
            );
        }
        let before = self.slots[slot].world.clone();
        pipeline.add(&["MULTI"], Expect::Local(vec!["OK".to_owned()]));
        let want = self.queued(pipeline, slot);
        match self.random.u8(0..8) {
            0 => {
                self.slots[slot].world = before;
                pipeline.add(&["DISCARD"], Expect::Local(vec!["OK".to_owned()]));
            }
            _ => {
                if aborts {
                    self.slots[slot].world = before;
                }
                pipeline.add(&["EXEC"], Expect::Exec { slot, want, aborts });
                pipeline.waits();
            }
        }
    }

    fn shared(&mut self, pipeline: &mut Pipeline) {
        let number = self.random.usize(0..SHARED);
        match self.random.u8(0..8) {
            0..=2 => pipeline.add(&["INCR", &counter(number)], Expect::Incremented(number)),
            3..=4 => {
                let token = self.token();
                pipeline.add(&["RPUSH", &queue(number), &token], Expect::Pushed(token.clone()));
            }
            5 => pipeline.add(
                &["LPOP", &queue(number)],
                Expect::Popped {
                    queue: number,
                    waits: false,
                },
            ),
            _ => {
                let time = format!("0.{:03}", self.random.u32(1..120));
                pipeline.add(
                    &["BLPOP", &queue(number), &time],
                    Expect::Popped {
                        queue: number,
                        waits: true,
                    },
                );
                pipeline.waits();
            }
        }
    }

    /// What has no keys, or no reply that a model could foretell.
    fn aside(&mut self, pipeline: &mut Pipeline) {
        let token = self.token();
        match self.random.u8(0..16) {
            0..=3 => pipeline.add(&["ECHO", &token], Expect::Local(vec![token.clone()])),
            4..=5 => pipeline.add(&["PING", &token], Expect::Local(vec![token.clone()])),
            6..=10 => {
                let channel = self.random.usize(0..SHARED);
                let message = format!("{token}|{channel}|{}", self.epoch);
                pipeline.add(
                    &["PUBLISH", &format!("channel:{channel}"), &message],
                    Expect::Published,
                );
            }
            11..=12 => {
                let slot = self.any_slot();
                let tag = self.tag(slot);
                pipeline.add(
                    &["SCAN", "0", "MATCH", &format!("{tag}*"), "COUNT", "50"],
                    Expect::Page(tag),
                );
            }
            13 => {
                let tag = self.tag(0);
                pipeline.add(
                    &["EVAL", INJECTION, "1", &tag],
                    Expect::Refused("ERR the first line of this script"),
                );
            }
            14 if self.random.u8(0..6) == 0 => {
                let place = self.random.usize(0..self.stage.ids.len());
                let id = self.stage.ids[place].load(std::sync::atomic::Ordering::Relaxed);
                if id > 0 && id != self.id {
                    self.stage.killed.lock().unwrap().insert(id);
                    pipeline.add(&["CLIENT", "KILL", "ID", &id.to_string()], Expect::Killed);
                }
            }
            15 if self.stage.plan.busy && self.random.u8(0..12) == 0 => {
                let slot = self.any_slot();
                let rounds = self.random.u32(1_000_000..20_000_000).to_string();
                let script = "for i = 1, tonumber(ARGV[2]) do end return ARGV[1]";
                let words = [
                    "EVAL",
                    script,
                    "1",
                    &format!("{}s", self.tag(slot)),
                    &token,
                    &rounds,
                ];
                pipeline.add(
                    &words,
                    Expect::Slots {
                        slots: vec![slot],
                        want: vec![token.clone()],
                    },
                );
            }
            _ => pipeline.add(&["PING"], Expect::Local(vec!["PONG".to_owned()])),
        }
    }
}

/// Whether `found` has nothing but this client's tokens, `<client.…>`.
pub(super) fn only_tokens_of(client: usize, found: &[String]) -> bool {
    let own = format!("<{client}.");
    found.iter().all(|text| {
        text.match_indices('<')
            .all(|(at, _)| text[at..].starts_with(&own))
    })
}

/// The element that a pop brought, if any.
pub(super) fn popped(name: &str, waits: bool, reply: &Reply) -> Result<Option<String>, ()> {
    let found = super::model::leaves(reply);
    match (waits, found.as_slice()) {
        (_, [nil]) if nil == NIL => Ok(None),
        (true, [from, token]) if from == name => Ok(Some(token.clone())),
        (false, [token]) if reply.error().is_none() => Ok(Some(token.clone())),
        _ => Err(()),
    }
}

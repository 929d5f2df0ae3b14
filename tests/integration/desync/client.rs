//! One client: sessions of pipelines, each reply judged as it comes, and all ways to leave.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::ledger::{Fate, SHARED, guarded};
use super::model::{NIL, Slot, leaves};
use super::pipeline::{Expect, Pending, Pipeline, only_tokens_of, popped};
use super::plan::Stage;
use crate::faults::Failure;
use crate::harness::wire::{decode, frame};
use crate::harness::{Client, Reply};

/// Slots of one client.
const SLOTS: usize = 40;

pub(super) struct DesyncClient<'a> {
    pub(super) stage: &'a Stage<'a>,
    number: usize,
    pub(super) random: fastrand::Rng,
    pub(super) slots: Vec<Slot>,
    /// The proxy's number of this connection.
    pub(super) id: i64,
    /// Goes on with each session and each failure: messages of one epoch come in order.
    pub(super) epoch: u64,
    tokens: u64,
    /// The slot whose keys are watched for certain.
    watched: Option<usize>,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Close,
    /// RST.
    Reset,
    /// Half-closed, then read to its end.
    Half,
}

/// The connection ended while replies were due, and may have.
#[derive(Debug)]
pub(super) struct Ended;

impl<'a> DesyncClient<'a> {
    pub(super) fn new(stage: &'a Stage<'a>, number: usize) -> Self {
        Self {
            stage,
            number,
            random: fastrand::Rng::with_seed(stage.seed ^ ((number as u64 + 1) << 32)),
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            id: 0,
            epoch: 0,
            tokens: 0,
            watched: None,
        }
    }

    pub(super) fn token(&mut self) -> String {
        self.tokens += 1;
        format!("<{}.{}>", self.number, self.tokens)
    }

    pub(super) fn any_slot(&mut self) -> usize {
        self.random.usize(0..SLOTS)
    }

    /// What the keys of a slot begin with; one hash tag.
    pub(super) fn tag(&self, slot: usize) -> String {
        format!("{{<{}.{slot}.{}>}}", self.number, self.slots[slot].generation)
    }

    /// Sessions until the requests of the run are used up.
    pub(super) fn live(&mut self) {
        while !self.stage.is_over() && self.session() {}
        self.stage.ids[self.number].store(0, Relaxed);
    }

    fn session(&mut self) -> bool {
        let mut client = self.stage.proxy.client();
        if self.random.bool() {
            let hello = client.ask("HELLO 3");
            assert_eq!(hello.field("proto"), Some(Reply::Int(3)));
        }
        self.id = client.ask("CLIENT ID").int();
        self.stage.ids[self.number].store(self.id, Relaxed);
        self.stage.counts.sessions.fetch_add(1, Relaxed);
        self.epoch += 1;
        self.watched = None;
        for _ in 0..self.random.usize(1..30) {
            let pipeline = self.pipeline();
            if !self.stage.may_ask(pipeline.pending.len() as u64) {
                return false;
            }
            if self.random.u8(0..12) == 0 {
                self.leave_in_the_middle(client, pipeline);
                return true;
            }
            if self.ask(&mut client, pipeline).is_err() {
                return true;
            }
            if self.random.u8(0..4) == 0 && self.increment_guarded(&mut client).is_err() {
                return true;
            }
        }
        true
    }

    /// Sends bytes in pieces. The proxy may have closed.
    fn send(&mut self, client: &mut Client, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = if self.random.u8(0..6) == 0 { 9 } else { 100_000 };
            let (piece, after) = rest.split_at(self.random.usize(1..=most).min(rest.len()));
            if client.try_send(piece).is_err() {
                return;
            }
            rest = after;
        }
    }

    fn ask(&mut self, client: &mut Client, pipeline: Pipeline) -> Result<(), Ended> {
        self.stage
            .counts
            .asked
            .fetch_add(pipeline.pending.len() as u64, Relaxed);
        self.send(client, &pipeline.bytes);
        let mut due = pipeline.pending.into_iter();
        while let Some(pending) = due.next() {
            match self.reply(client, &pending) {
                Ok(reply) => self.judge(pending.expect, &reply),
                Err(ended) => {
                    self.nobody_knows(std::iter::once(pending).chain(due));
                    return Err(ended);
                }
            }
        }
        self.settle();
        Ok(())
    }

    /// One reply, or the end of a connection that may end.
    fn reply(&self, client: &mut Client, pending: &Pending) -> Result<Reply, Ended> {
        let error = match client.try_reply_bytes() {
            Ok(bytes) => return Ok(decode(&bytes)),
            Err(error) => error,
        };
        if self.stage.killed.lock().unwrap().contains(&self.id) {
            self.stage.counts.killed.fetch_add(1, Relaxed);
        } else if pending.large && self.stage.plan.fails && error.kind() == std::io::ErrorKind::UnexpectedEof
        {
            self.stage.counts.cut_short.fetch_add(1, Relaxed);
        } else {
            self.wrong(&format!("a reply for {:?}", pending.expect), &error.to_string());
        }
        Err(Ended)
    }

    fn wrong(&self, wanted: &str, got: &str) -> ! {
        panic!(
            "{}, seed {}, client {}, connection {}, after token {}:\n  wanted {:.600}\n  got    {:.600}",
            self.stage.plan.name, self.stage.seed, self.number, self.id, self.tokens, wanted, got
        )
    }

    fn wrong_reply(&self, wanted: &dyn std::fmt::Debug, reply: &Reply) -> ! {
        self.wrong(&format!("{wanted:?}"), &format!("{reply:?}"))
    }

    /// The reply of one request against what it must be.
    fn judge(&mut self, expect: Expect, reply: &Reply) {
        self.stage.counts.judged.fetch_add(1, Relaxed);
        let failure = self.stage.plan.failure(reply);
        match failure {
            Some(Failure::Uncertain) => drop(self.stage.counts.uncertain.fetch_add(1, Relaxed)),
            Some(Failure::NotRun) => drop(self.stage.counts.not_run.fetch_add(1, Relaxed)),
            None => {}
        }
        let outcome = failure.map_or(Fate::Done, Fate::from);
        let found = leaves(reply);
        match expect {
            Expect::Local(want) if found == want => {}
            Expect::Refused(start) if reply.error().is_some_and(|text| text.starts_with(start)) => {}
            Expect::Local(_) | Expect::Refused(_) => self.wrong_reply(&expect, reply),
            Expect::Slots { slots, want } => self.judge_slots(&slots, &want, reply, failure),
            Expect::Watch(slot) => {
                self.watched = None;
                match failure {
                    None if reply.is_ok() => self.watched = Some(slot),
                    Some(_) => self.slots[slot].in_doubt = true,
                    None => self.wrong_reply(&expect, reply),
                }
            }
            Expect::Exec { slot, want, aborts } => {
                let watched = self.watched.take() == Some(slot);
                if aborts && watched && !self.slots[slot].in_doubt && failure.is_none() {
                    if *reply != Reply::Null {
                        self.wrong_reply(&"nil: a watched key was written", reply);
                    }
                    return;
                }
                // Not watched for certain, so it may have run though the model says it did not.
                self.slots[slot].in_doubt |= aborts;
                if aborts && *reply == Reply::Null {
                    return;
                }
                self.judge_slots(&[slot], &want, reply, failure);
            }
            Expect::Page(tag) if failure.is_none() => {
                let page = reply.items();
                let keys = leaves(&page[1]);
                if page.len() != 2 || !keys.iter().all(|key| key.starts_with(&tag)) {
                    self.wrong_reply(&tag, reply);
                }
            }
            Expect::Published if failure.is_none() && !matches!(reply, Reply::Int(0..=1000)) => {
                self.wrong_reply(&expect, reply)
            }
            Expect::Published if failure.is_some() => self.epoch += 1,
            Expect::Page(_) | Expect::Published => {}
            Expect::Incremented(number) => match (failure, reply) {
                (None, Reply::Int(value)) => self.stage.ledger.incremented(number, outcome, *value),
                (Some(_), _) => self.stage.ledger.incremented(number, outcome, 0),
                (None, _) => self.wrong_reply(&expect, reply),
            },
            Expect::Pushed(_) if failure.is_none() && !matches!(reply, Reply::Int(_)) => {
                self.wrong_reply(&expect, reply)
            }
            Expect::Pushed(token) => self.stage.ledger.pushed(token, outcome),
            Expect::Popped { queue, waits } => match failure {
                Some(Failure::Uncertain) => self.stage.ledger.perhaps_popped(),
                Some(Failure::NotRun) => {}
                None => match popped(&super::ledger::queue(queue), waits, reply) {
                    Ok(Some(token)) => self.stage.ledger.popped(token),
                    Ok(None) => {}
                    Err(()) => self.wrong_reply(&expect, reply),
                },
            },
            Expect::Killed if matches!(reply, Reply::Int(0 | 1)) => {}
            Expect::Killed => self.wrong_reply(&expect, reply),
        }
    }

    fn judge_slots(&mut self, slots: &[usize], want: &[String], reply: &Reply, failure: Option<Failure>) {
        if failure.is_some() {
            slots.iter().for_each(|&slot| self.slots[slot].in_doubt = true);
            return;
        }
        let found = leaves(reply);
        let in_doubt = slots.iter().any(|&slot| self.slots[slot].in_doubt);
        if found == want || (in_doubt && only_tokens_of(self.number, &found)) {
            return;
        }
        self.wrong(&format!("{want:?} (in doubt: {in_doubt})"), &format!("{found:?}"));
    }

    /// A pipeline is over: what is in doubt is left behind.
    fn settle(&mut self) {
        self.slots
            .iter_mut()
            .filter(|slot| slot.in_doubt)
            .for_each(Slot::leave_behind);
    }

    /// These requests were sent, and their replies will never be read.
    fn nobody_knows(&mut self, requests: impl Iterator<Item = Pending>) {
        for pending in requests {
            self.undecided(pending.expect, Fate::Perhaps);
        }
        self.settle();
    }

    /// What is known of a request without a reply.
    fn undecided(&mut self, expect: Expect, fate: Fate) {
        match expect {
            Expect::Slots { slots, .. } => slots.iter().for_each(|&slot| self.slots[slot].in_doubt = true),
            Expect::Watch(slot) | Expect::Exec { slot, .. } => self.slots[slot].in_doubt = true,
            Expect::Incremented(number) => self.stage.ledger.incremented(number, fate, 0),
            Expect::Pushed(token) => self.stage.ledger.pushed(token, fate),
            Expect::Popped { .. } if fate == Fate::Perhaps => self.stage.ledger.perhaps_popped(),
            Expect::Local(_)
            | Expect::Refused(_)
            | Expect::Page(_)
            | Expect::Published
            | Expect::Popped { .. }
            | Expect::Killed => {}
        }
    }

    /// Sends a part of a pipeline, reads a part of its replies, and is gone.
    fn leave_in_the_middle(&mut self, mut client: Client, pipeline: Pipeline) {
        self.stage.counts.left_in_the_middle.fetch_add(1, Relaxed);
        let sent = match self.random.u8(0..3) {
            0 => pipeline.bytes.len(),
            _ => self.random.usize(0..=pipeline.bytes.len()),
        };
        self.send(&mut client, &pipeline.bytes[..sent]);
        let leave = match self.random.u8(0..3) {
            0 => Leave::Close,
            1 => Leave::Reset,
            _ => Leave::Half,
        };
        let whole = pipeline.pending.partition_point(|pending| pending.end <= sent);
        self.stage.counts.asked.fetch_add(whole as u64, Relaxed);
        let mut due = pipeline.pending.into_iter();
        let asked: Vec<Pending> = due.by_ref().take(whole).collect();
        // What has not been sent whole has not run.
        for pending in due {
            self.undecided(pending.expect, Fate::NotRun);
        }
        let unread = match leave {
            Leave::Half => self.read_to_the_end(&mut client, asked),
            Leave::Close | Leave::Reset => self.read_some(&mut client, asked, leave),
        };
        drop(client);
        self.nobody_knows(unread.into_iter());
    }

    /// Half-closed: everything that was asked is answered, then the other side closes too. Returns what was not.
    fn read_to_the_end(&mut self, client: &mut Client, asked: Vec<Pending>) -> Vec<Pending> {
        client.stream().shutdown(Shutdown::Write).unwrap_or_default();
        // Who waits and closes is taken for gone.
        let may_end = asked.iter().any(|pending| pending.waits || pending.large);
        let mut due = asked.into_iter();
        while let Some(pending) = due.next() {
            match client.try_reply_bytes() {
                Ok(bytes) => self.judge(pending.expect, &decode(&bytes)),
                Err(error) => {
                    let killed = self.stage.killed.lock().unwrap().contains(&self.id);
                    if !may_end && !killed {
                        self.wrong(
                            &format!("a reply for {:?} after half-closing", pending.expect),
                            &format!("{error}"),
                        );
                    }
                    return std::iter::once(pending).chain(due).collect();
                }
            }
        }
        if client.until_closed() != b"" {
            self.wrong("the end of the connection", "more bytes");
        }
        Vec::new()
    }

    /// Reads a few replies and a few bytes more. Returns what was not read.
    fn read_some(&mut self, client: &mut Client, asked: Vec<Pending>, leave: Leave) -> Vec<Pending> {
        let wanted = self.random.usize(0..=asked.len());
        client.limit = Duration::from_millis(self.random.u64(1..60));
        let mut due = asked.into_iter();
        let mut unread = None;
        for pending in due.by_ref().take(wanted) {
            match client.try_reply_bytes() {
                Ok(bytes) => self.judge(pending.expect, &decode(&bytes)),
                Err(_) => {
                    unread = Some(pending);
                    break;
                }
            }
        }
        if self.random.bool() && unread.is_none() {
            let mut few = [0; 7];
            let _ = client.stream().set_read_timeout(Some(Duration::from_millis(2)));
            let _ = client.stream().read(&mut few);
        }
        if leave == Leave::Reset {
            let _ = socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO));
        }
        let _ = client.stream().flush();
        unread.into_iter().chain(due).collect()
    }

    /// Read, and written if nobody has written meanwhile: the use that `WATCH` is for.
    fn increment_guarded(&mut self, client: &mut Client) -> Result<(), Ended> {
        let key = guarded(self.random.usize(0..SHARED));
        let number = key.rsplit(':').next().unwrap().parse().unwrap();
        let mut call = |words: &[&[&str]]| -> Result<Vec<Reply>, Ended> {
            let bytes: Vec<u8> = words.iter().flat_map(|words| frame(words)).collect();
            let _ = client.try_send(&bytes);
            self.stage.counts.asked.fetch_add(words.len() as u64, Relaxed);
            let replies = words
                .iter()
                .map(|_| self.reply(client, &Pending::plain(Expect::Published)))
                .collect();
            self.stage.counts.judged.fetch_add(words.len() as u64, Relaxed);
            replies
        };
        let seen = call(&[&["WATCH", &key], &["GET", &key]])?;
        if seen.iter().any(|reply| self.stage.plan.failure(reply).is_some()) {
            return call(&[&["UNWATCH"]]).map(|_| ());
        }
        let value: i64 = match &seen[1] {
            Reply::Null => 0,
            Reply::Bulk(_) => seen[1]
                .text()
                .parse()
                .unwrap_or_else(|_| self.wrong("a number", &seen[1].text())),
            other => self.wrong("a number", &format!("{other:?}")),
        };
        let replies = call(&[&["MULTI"], &["SET", &key, &(value + 1).to_string()], &["EXEC"]]);
        let Ok(replies) = replies else {
            self.stage.ledger.incremented_guarded(number, Fate::Perhaps);
            return Err(Ended);
        };
        let outcome = match (
            self.stage.plan.failure(&replies[2]),
            leaves(&replies[2]).as_slice(),
        ) {
            (Some(failure), _) => Fate::from(failure),
            (None, [ok]) if ok == "OK" => Fate::Done,
            (None, [nil]) if nil == NIL => Fate::NotRun,
            (None, other) => self.wrong("OK or nil", &format!("{other:?}")),
        };
        self.stage.ledger.incremented_guarded(number, outcome);
        Ok(())
    }
}

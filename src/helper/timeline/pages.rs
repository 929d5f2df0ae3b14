//! A page out of one timeline, or out of many as if they were one.
//!
//! ```text
//!  start    a question to each timeline, all at once
//!  answers  ─▶ one heap of first rows ─▶ the newest goes to the page, the next of its timeline to the heap
//!  a timeline has no more rows here, and may have more there ─▶ one more question, then on
//!  done     [cursor of the last item | null, items]
//! ```
//!
//! Each of `k` timelines is asked for about twice its share of the page, not for the whole page: with even timelines
//! that is one round of questions. A timeline that cannot be read makes the page an error, since a page with a hole looks
//! like one without.

use std::collections::BinaryHeap;

use super::options::Query;
use super::page::{Item, Page, Trouble};
use crate::helper::{Ask, Frames, Keyspace, Program};
use crate::ids::ShardId;
use crate::merge::Outcome;
use crate::resp::{self, Protocol};

/// Rows that a timeline among several is asked for, at least.
const SHARE_MIN: usize = 8;

/// A page in the making.
#[derive(Debug)]
pub(super) struct Pages {
    query: Query,
    sources: Vec<Source>,
    /// The first row of each timeline that has one, with the timeline's number.
    heads: BinaryHeap<(Item, usize)>,
    items: Vec<Item>,
    /// Timelines whose answer is due or that are still to be asked.
    unread: usize,
    /// The next ones to ask.
    to_ask: Vec<usize>,
    /// Bytes of all answers.
    held: usize,
    failed: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Source {
    key: Box<[u8]>,
    shard: ShardId,
    page: Page,
    /// Its next row is in the heap.
    has_head: bool,
}

impl Pages {
    /// A page out of these timelines.
    pub(super) fn new<'a>(
        query: Query,
        keys: impl ExactSizeIterator<Item = &'a [u8]>,
        keyspace: Keyspace<'_>,
    ) -> Self {
        let share = share(query.count, keys.len());
        let sources: Vec<Source> = keys
            .map(|key| Source {
                key: key.into(),
                shard: keyspace.shard_of(key),
                page: Page::new(query.before.clone(), share),
                has_head: false,
            })
            .collect();
        Self {
            query,
            heads: BinaryHeap::with_capacity(sources.len()),
            items: Vec::new(),
            unread: sources.len(),
            to_ask: (0..sources.len()).rev().collect(),
            sources,
            held: 0,
            failed: None,
        }
    }

    fn write_page<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone,
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) {
        let count = rows.len();
        resp::write_array_header(out, 2);
        match rows.clone().last().filter(|_| count == self.query.count) {
            Some((member, text)) => resp::write_bulk_parts(out, &[text, b":", member]),
            None => resp::write_null(out, protocol),
        }
        let is_flat = self.query.with_scores && protocol == Protocol::Resp2;
        resp::write_array_header(out, count * if is_flat { 2 } else { 1 });
        for (member, text) in rows {
            if self.query.with_scores && protocol == Protocol::Resp3 {
                resp::write_array_header(out, 2);
            }
            resp::write_bulk(out, member);
            match protocol {
                _ if !self.query.with_scores => {}
                Protocol::Resp2 => resp::write_bulk(out, text),
                Protocol::Resp3 => resp::write_double(out, text),
            }
        }
    }

    /// Brings the next row of a timeline to the heap, if none of its rows is there.
    fn lift(&mut self, number: usize) {
        let source = &mut self.sources[number];
        if !source.has_head
            && let Some(item) = source.page.next()
        {
            source.has_head = true;
            self.heads.push((item, number));
        }
    }

    /// Moves rows to the page until it is full, or a timeline has to be asked again.
    fn fill(&mut self) {
        while self.items.len() < self.query.count
            && let Some((item, number)) = self.heads.pop()
        {
            self.sources[number].has_head = false;
            let is_drained = self.sources[number].page.is_drained();
            // Several timelines may have an item; it is told once.
            let is_new = self.items.last() != Some(&item);
            self.items.extend(is_new.then(|| item.clone()));
            if !is_drained {
                self.lift(number);
            } else if self.items.len() < self.query.count {
                self.ask_again(number, &item);
                return;
            }
        }
    }

    /// Asks a timeline for what is behind an item, and at once all others of which only the row in the heap is left: where an item
    /// was fanned out they end together.
    fn ask_again(&mut self, number: usize, item: &Item) {
        let needed = self.query.count - self.items.len();
        let heads = self.heads.iter().map(|(item, number)| (item, *number));
        for (item, number) in heads.chain([(item, number)]) {
            let page = &mut self.sources[number].page;
            if page.is_drained() {
                page.go_on(item, needed);
                self.to_ask.push(number);
                self.unread += 1;
            }
        }
    }
}

impl Program for Pages {
    fn next(&mut self, frame: &mut Vec<u8>) -> Option<Ask> {
        if self.failed.is_some() {
            self.to_ask.clear();
        }
        let number = self.to_ask.pop()?;
        let source = self.sources.get(number)?;
        source
            .page
            .write_question(&source.key, self.query.after.as_ref(), frame);
        Some(Ask {
            shard: source.shard,
            part: u32::try_from(number).unwrap_or(u32::MAX),
            frames: Frames::One,
        })
    }

    fn absorb(&mut self, part: u32, outcome: Outcome<'_>) {
        let number = part as usize;
        let Some(source) = self.sources.get_mut(number) else {
            return;
        };
        let reply = match outcome {
            Outcome::Reply(reply) if reply.first() == Some(&b'-') => {
                self.failed.get_or_insert_with(|| reply.to_vec());
                return;
            }
            Outcome::Reply(reply) => reply,
            Outcome::NotRun(line) | Outcome::Uncertain(line) => {
                self.failed.get_or_insert_with(|| resp::error_line(line));
                return;
            }
        };
        self.held += reply.len();
        match source.page.answered(reply, self.query.after.as_ref()) {
            Ok(true) => {
                self.unread -= 1;
                // A single timeline's rows are the page.
                if self.sources.len() > 1 {
                    self.lift(number);
                    if self.unread == 0 {
                        self.fill();
                    }
                }
            }
            Ok(false) => self.to_ask.push(number),
            Err(trouble) => {
                let shard = source.shard;
                self.failed
                    .get_or_insert_with(|| resp::error_line(trouble_line(trouble, shard)));
            }
        }
    }

    fn held_bytes(&self) -> usize {
        self.held
    }

    fn finish(&mut self, protocol: Protocol, out: &mut Vec<u8>) {
        if let Some(line) = &self.failed {
            out.extend_from_slice(line);
            return;
        }
        match &self.sources[..] {
            // Its rows are as they were read.
            [Source { page, .. }] => {
                let rows = page.rest().take(self.query.count);
                self.write_page(rows, protocol, out);
            }
            _ => {
                let rows = self.items.iter().map(|item| (&item.member[..], &item.text[..]));
                self.write_page(rows, protocol, out);
            }
        }
    }

    fn first(&self) -> Option<ShardId> {
        self.sources.first().map(|source| source.shard)
    }

    /// It reads only, and as a rule asks once: what its client asks behind it may run before a second question.
    fn has_rounds(&self) -> bool {
        false
    }
}

/// Rows that each of `timelines` is asked for at first, for a page of `count`.
fn share(count: usize, timelines: usize) -> usize {
    match timelines {
        0 | 1 => count,
        timelines => ((2 * count).div_ceil(timelines) + 1).max(SHARE_MIN).min(count),
    }
}

fn trouble_line(trouble: Trouble, shard: ShardId) -> String {
    match trouble {
        Trouble::Shape => "ERR preshard: a node's reply has a shape that its command never has".to_owned(),
        Trouble::Churn => format!(
            "TRYAGAIN preshard: shard {shard}: too many items share the cursor's score, and they change while they are read"
        ),
    }
}

//! One timeline, read from a place on: which rows to ask for, and which of them count.
//!
//! ```text
//!  asked: score ≤ s, from rank o on, n+4 rows        s:z  s:y  s:m  s:c  r:q  …
//!                                                    └ not behind s:m ┘ └ the page ─▶
//! ```
//!
//! `ZREVRANGEBYSCORE` knows scores only, so rows that share the cursor's score come with it and are dropped here:
//! byte by byte, as Redis orders them. As a rule that is the cursor's own item, and a few rows more than wanted make up
//! for it. Where many items share one score, the next question begins further behind, at the last row that was dropped. That
//! row is the proof that nothing went by between the two: if the first row of an answer counts already, rows that were
//! there may be missing before it, and the question goes back.

use std::cmp::Ordering;
use std::ops::Range;
use std::vec::IntoIter;

use bytes::Bytes;

use super::score;
use crate::resp;

/// Rows beyond those that are wanted, for the cursor's own item and others of its score.
const SPARE: usize = 4;
/// Rows of one question, at most: a page and what stands before it.
const ROWS_MAX: usize = 40_000;
/// Questions for one page. Each steps over more rows than all before it, unless the timeline changes all the time.
const QUESTIONS_MAX: u32 = 64;

/// A place in the order of a timeline.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cursor {
    pub(super) score: f64,
    /// The score as it was given.
    pub(super) text: Bytes,
    /// Without a member the place is before, or behind, all items of the score.
    pub(super) member: Option<Bytes>,
}

/// A row of a timeline.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) score: f64,
    /// The score in the node's words.
    pub(super) text: Bytes,
    pub(super) member: Bytes,
}

/// One timeline that is being read.
#[derive(Debug)]
pub(super) struct Page {
    /// Rows that are to come lie behind this.
    before: Option<Cursor>,
    offset: usize,
    limit: usize,
    wanted: usize,
    questions: u32,
    /// The answer, and those of its rows that count and were not taken.
    reply: Bytes,
    rows: IntoIter<Row>,
    /// Nothing is behind the rows.
    pub(super) is_last: bool,
}

/// A row of an answer: where its member and its score stand.
#[derive(Clone, Debug)]
struct Row {
    score: f64,
    text: Range<u32>,
    member: Range<u32>,
}

/// Why a timeline cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The answer has not the shape of one.
    Shape,
    /// Too many questions for one page.
    Churn,
}

// === impl Item ===

impl Ord for Item {
    /// Greater is newer.
    fn cmp(&self, other: &Self) -> Ordering {
        let scores = self.score.total_cmp(&other.score);
        scores.then_with(|| self.member.cmp(&other.member))
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Item {}

impl Item {
    /// Where it stands.
    pub(super) fn place(&self) -> Cursor {
        Cursor {
            score: self.score,
            text: self.text.clone(),
            member: Some(self.member.clone()),
        }
    }
}

impl Cursor {
    /// Whether a row with a score of at most the cursor's lies behind it.
    fn has_behind(&self, row: &Row, reply: &Bytes) -> bool {
        match &self.member {
            Some(member) => row.score < self.score || bytes(reply, &row.member) < &member[..],
            None => row.score < self.score,
        }
    }

    /// Whether a row with a score of at least the cursor's lies before it.
    fn has_before(&self, row: &Row, reply: &Bytes) -> bool {
        match &self.member {
            Some(member) => row.score > self.score || bytes(reply, &row.member) > &member[..],
            None => row.score > self.score,
        }
    }

    /// The bound of a range by score that holds all on one side of it, and perhaps its own score.
    fn write_bound(&self, out: &mut Vec<u8>) {
        let open: &[u8] = if self.member.is_none() { b"(" } else { b"" };
        resp::write_bulk_parts(out, &[open, &self.text]);
    }
}

// === impl Page ===

impl Page {
    /// A timeline that is to be read behind `before`, `wanted` rows at first.
    pub(super) fn new(before: Option<Cursor>, wanted: usize) -> Self {
        let mut page = Self {
            before,
            offset: 0,
            limit: 0,
            wanted,
            questions: 0,
            reply: Bytes::new(),
            rows: Vec::new().into_iter(),
            is_last: false,
        };
        page.limit = page.whole();
        page
    }

    /// The rows of a question that is not expected to fall short.
    fn whole(&self) -> usize {
        let has_ties = self.before.as_ref().is_some_and(|before| before.member.is_some());
        self.wanted + if has_ties { SPARE } else { 0 }
    }

    /// The next row, if there is one without asking.
    pub(super) fn next(&mut self) -> Option<Item> {
        let row = self.rows.next()?;
        let slice = |range: &Range<u32>| self.reply.slice(range.start as usize..range.end as usize);
        Some(Item {
            score: row.score,
            text: slice(&row.text),
            member: slice(&row.member),
        })
    }

    /// Whether another answer is needed for the next row, if there is one.
    pub(super) fn is_drained(&self) -> bool {
        !self.is_last && self.rows.as_slice().is_empty()
    }

    /// Members and scores of the rows that are left.
    pub(super) fn rest(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + Clone {
        let rows = self.rows.as_slice().iter();
        rows.map(move |row| (bytes(&self.reply, &row.member), bytes(&self.reply, &row.text)))
    }

    /// Goes on behind an item, with more rows than the last time if more are needed.
    pub(super) fn go_on(&mut self, behind: &Item, needed: usize) {
        self.before = Some(behind.place());
        self.wanted = (self.wanted * 2).min(needed).max(1);
        self.offset = 0;
        self.limit = self.whole();
        self.questions = 0;
    }

    /// Writes the question that is to be asked now.
    pub(super) fn write_question(&self, key: &[u8], after: Option<&Cursor>, out: &mut Vec<u8>) {
        resp::write_array_header(out, 8);
        resp::write_bulk(out, b"ZREVRANGEBYSCORE");
        resp::write_bulk(out, key);
        match &self.before {
            Some(before) => before.write_bound(out),
            None => resp::write_bulk(out, b"+inf"),
        }
        match after {
            Some(after) => after.write_bound(out),
            None => resp::write_bulk(out, b"-inf"),
        }
        resp::write_bulk(out, b"WITHSCORES");
        resp::write_bulk(out, b"LIMIT");
        resp::write_bulk_int(out, i64::try_from(self.offset).unwrap_or(i64::MAX));
        resp::write_bulk_int(out, i64::try_from(self.limit).unwrap_or(i64::MAX));
    }

    /// Takes the answer in. True if the page is read; else the next question has to be asked.
    pub(super) fn answered(&mut self, reply: &[u8], after: Option<&Cursor>) -> Result<bool, Trouble> {
        self.questions += 1;
        let reply = Bytes::copy_from_slice(reply);
        let mut rows = rows(&reply).ok_or(Trouble::Shape)?;
        if rows.len() > self.limit {
            return Err(Trouble::Shape);
        }
        let asked_all = rows.len() < self.limit;
        let dropped = match &self.before {
            Some(before) => rows
                .iter()
                .take_while(|row| !before.has_behind(row, &reply))
                .count(),
            None => 0,
        };
        if self.offset > 0 && dropped == 0 {
            return self.ask_further_up();
        }
        let ended = match after {
            Some(after) => rows.iter().position(|row| !after.has_before(row, &reply)),
            None => None,
        };
        if let Some(end) = ended {
            rows.truncate(end);
        }
        let is_end = asked_all || ended.is_some();
        if !is_end && rows.len() - dropped < self.wanted {
            return self.ask_further_down(rows.len(), dropped);
        }
        rows.drain(..dropped.min(rows.len()));
        self.is_last = is_end;
        self.reply = reply;
        self.rows = rows.into_iter();
        Ok(true)
    }

    /// Rows of the cursor's score filled the answer.
    fn ask_further_down(&mut self, rows: usize, dropped: usize) -> Result<bool, Trouble> {
        self.offset += dropped.saturating_sub(1);
        self.limit = if dropped == rows {
            (self.limit * 4).min(ROWS_MAX)
        } else {
            self.whole()
        };
        self.may_ask()
    }

    /// Rows before the page have gone meanwhile.
    fn ask_further_up(&mut self) -> Result<bool, Trouble> {
        let lower = self.offset / 2;
        self.limit = (self.limit + self.offset - lower).min(ROWS_MAX);
        self.offset = lower;
        self.may_ask()
    }

    fn may_ask(&self) -> Result<bool, Trouble> {
        if self.questions >= QUESTIONS_MAX {
            return Err(Trouble::Churn);
        }
        Ok(false)
    }
}

// === reading rows ===

/// The rows of an answer to `ZREVRANGEBYSCORE … WITHSCORES`: members and scores in turn, or (RESP3) in pairs. `None`
/// if it is none.
fn rows(reply: &[u8]) -> Option<Vec<Row>> {
    let mut reader = Reader { reply, at: 0 };
    let elements = reader.header(b'*')?;
    let in_pairs = reader.is_at(b'*');
    let count = if in_pairs {
        elements
    } else {
        elements.is_multiple_of(2).then_some(elements / 2)?
    };
    // Eleven bytes are the shortest row: nothing is reserved for what has not come.
    let mut rows = Vec::with_capacity(count.min(reply.len() / 11 + 1));
    for _ in 0..count {
        if in_pairs {
            (reader.header(b'*')? == 2).then_some(())?;
        }
        let member = reader.bulk()?;
        let text = if reader.is_at(b',') {
            reader.line(b',')?
        } else {
            reader.bulk()?
        };
        rows.push(Row {
            score: score::parse(bytes(reply, &text))?,
            text,
            member,
        });
    }
    (reader.at == reply.len()).then_some(rows)
}

fn bytes<'a>(reply: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    reply
        .get(range.start as usize..range.end as usize)
        .unwrap_or_default()
}

/// A reply is far shorter than 4 GiB; one that is not is none.
fn range(start: usize, end: usize) -> Option<Range<u32>> {
    Some(u32::try_from(start).ok()?..u32::try_from(end).ok()?)
}

struct Reader<'a> {
    reply: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn is_at(&self, kind: u8) -> bool {
        self.reply.get(self.at) == Some(&kind)
    }

    /// The text of a line of this type.
    fn line(&mut self, kind: u8) -> Option<Range<u32>> {
        let rest = self.reply.get(self.at..)?;
        (*rest.first()? == kind).then_some(())?;
        let end = memchr::memchr(b'\r', rest)?;
        (rest.get(end + 1) == Some(&b'\n')).then_some(())?;
        let text = range(self.at + 1, self.at + end);
        self.at += end + 2;
        text
    }

    fn header(&mut self, kind: u8) -> Option<usize> {
        let rest = self.reply.get(self.at..)?;
        (*rest.first()? == kind).then_some(())?;
        let end = memchr::memchr(b'\r', rest)?;
        let count = std::str::from_utf8(rest.get(1..end)?).ok()?.parse().ok()?;
        self.at += end + 2;
        Some(count)
    }

    fn bulk(&mut self) -> Option<Range<u32>> {
        let length = self.header(b'$')?;
        let end = self.at.checked_add(length)?;
        (self.reply.get(end..)?.starts_with(b"\r\n")).then_some(())?;
        let bytes = range(self.at, end);
        self.at = end + 2;
        bytes
    }
}

//! The options of the five commands, each read to the end before anything is sent.
//!
//! ```text
//!  ADD     key      [MAXLEN n] [MINSCORE s] [NX|GT]             score member [score member …]
//!  FANOUT  n key …  [MAXLEN n] [MINSCORE s] [NX|GT] [IFEXISTS]  score member
//!  TRIM    key      MAXLEN n | MINSCORE s
//!  RANGE   key      [BEFORE cursor] [AFTER cursor] [COUNT n] [WITHSCORES]
//!  MERGE   n key …  the same
//! ```
//!
//! An option may be given once. Where options end and scores begin, the first word that is no option decides.

use bytes::Bytes;

use super::page::Cursor;
use super::score;
use crate::resp::Args;

/// Items of a page, at most.
pub(super) const COUNT_MAX: usize = 10_000;
/// Items of a page that does not say how many.
const COUNT_DEFAULT: usize = 20;

const SYNTAX: &str = "ERR syntax error";
const NOT_FLOAT: &str = "ERR value is not a valid float";
const NOT_INTEGER: &str = "ERR value is not an integer or out of range";

/// Which of an item's scores stays when its member is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The first one.
    Nx,
    /// The greater one.
    Gt,
}

impl Condition {
    pub(super) const fn word(self) -> &'static [u8] {
        match self {
            Self::Nx => b"NX",
            Self::Gt => b"GT",
        }
    }
}

/// How a timeline is written to, and how long it may be afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Writing<'a> {
    /// Items that stay, at most.
    pub(super) max_len: Option<i64>,
    /// The least score that stays, as it was given.
    pub(super) min_score: Option<&'a [u8]>,
    pub(super) condition: Option<Condition>,
    /// Only timelines that exist are written to.
    pub(super) if_exists: bool,
}

/// A page that is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Query {
    pub(super) before: Option<Cursor>,
    pub(super) after: Option<Cursor>,
    pub(super) count: usize,
    pub(super) with_scores: bool,
}

/// What follows the keys of a request.
#[derive(Debug)]
pub(super) struct Options;

impl Options {
    /// The options of `ADD` (`from` 2) and where its scores begin.
    ///
    /// # Errors
    /// The error line.
    pub(super) fn add<'a>(args: &Args<'a>) -> Result<(Writing<'a>, usize), String> {
        let mut writing = Writing::default();
        let mut at = 2;
        while let Some(next) = writing.option(args, at, args.len())? {
            at = next;
        }
        if args.len() <= at || !(args.len() - at).is_multiple_of(2) {
            return Err(SYNTAX.to_owned());
        }
        (at..args.len())
            .step_by(2)
            .try_for_each(|at| score::parse(args.get(at)).map(|_| ()).ok_or(NOT_FLOAT))?;
        Ok((writing, at))
    }

    /// The options of `FANOUT` behind its keys; the last two arguments are the item.
    ///
    /// # Errors
    /// The error line.
    pub(super) fn fanout<'a>(args: &Args<'a>, keys: usize) -> Result<Writing<'a>, String> {
        let mut writing = Writing::default();
        let mut at = 2 + keys;
        let end = args.len().saturating_sub(2);
        if at > end {
            return Err(SYNTAX.to_owned());
        }
        while at < end {
            if args.get(at).eq_ignore_ascii_case(b"IFEXISTS") && !writing.if_exists {
                writing.if_exists = true;
                at += 1;
            } else {
                at = writing.option(args, at, end)?.ok_or(SYNTAX)?;
            }
        }
        score::parse(args.get(end)).ok_or(NOT_FLOAT)?;
        Ok(writing)
    }

    /// The one option of `TRIM`.
    ///
    /// # Errors
    /// The error line.
    pub(super) fn trim<'a>(args: &Args<'a>) -> Result<Writing<'a>, String> {
        let mut writing = Writing::default();
        match writing.option(args, 2, args.len())? {
            Some(4) if args.len() == 4 => Ok(writing),
            Some(_) | None => Err(SYNTAX.to_owned()),
        }
    }

    /// The options of `RANGE` and `MERGE`, which begin at `at`.
    ///
    /// # Errors
    /// The error line.
    pub(super) fn query(args: &Args<'_>, mut at: usize) -> Result<Query, String> {
        let mut query = Query::default();
        let mut count = None;
        while at < args.len() {
            let word = args.get(at);
            if word.eq_ignore_ascii_case(b"WITHSCORES") && !query.with_scores {
                query.with_scores = true;
                at += 1;
                continue;
            }
            let value = args.try_get(at + 1).ok_or(SYNTAX)?;
            if word.eq_ignore_ascii_case(b"BEFORE") && query.before.is_none() {
                query.before = Some(Cursor::parse(value)?);
            } else if word.eq_ignore_ascii_case(b"AFTER") && query.after.is_none() {
                query.after = Some(Cursor::parse(value)?);
            } else if word.eq_ignore_ascii_case(b"COUNT") && count.is_none() {
                let number = number(value).and_then(|number| usize::try_from(number).ok());
                let in_range = number.filter(|number| (1..=COUNT_MAX).contains(number));
                count = Some(in_range.ok_or_else(|| format!("ERR COUNT must be between 1 and {COUNT_MAX}"))?);
            } else {
                return Err(SYNTAX.to_owned());
            }
            at += 2;
        }
        query.count = count.unwrap_or(COUNT_DEFAULT);
        Ok(query)
    }

    /// How many keys a request announces, from 1 to `max`.
    ///
    /// # Errors
    /// The error line.
    pub(super) fn numkeys(args: &Args<'_>, max: usize) -> Result<usize, String> {
        let keys = number(args.get(1)).ok_or(NOT_INTEGER)?;
        let keys = usize::try_from(keys).ok().filter(|keys| (1..=max).contains(keys));
        let keys = keys.ok_or_else(|| format!("ERR numkeys must be between 1 and {max}"))?;
        if keys > args.len().saturating_sub(2) {
            return Err(SYNTAX.to_owned());
        }
        Ok(keys)
    }
}

impl<'a> Writing<'a> {
    /// Reads the option at `at` and returns where the next one is; `None` if there is none there.
    fn option(&mut self, args: &Args<'a>, at: usize, end: usize) -> Result<Option<usize>, String> {
        let word = args.get(at);
        let condition = if word.eq_ignore_ascii_case(b"NX") {
            Some(Condition::Nx)
        } else if word.eq_ignore_ascii_case(b"GT") {
            Some(Condition::Gt)
        } else {
            None
        };
        if condition.is_some() && at < end {
            if self.condition.is_some() {
                return Err("ERR NX and GT at the same time are not compatible".to_owned());
            }
            self.condition = condition;
            return Ok(Some(at + 1));
        }
        let is_max_len = word.eq_ignore_ascii_case(b"MAXLEN");
        if at >= end || !is_max_len && !word.eq_ignore_ascii_case(b"MINSCORE") {
            return Ok(None);
        }
        if at + 1 >= end {
            return Err(SYNTAX.to_owned());
        }
        let value = args.get(at + 1);
        if is_max_len && self.max_len.is_none() {
            // The rank of the first that goes is one more.
            let length = number(value).filter(|length| (0..i64::MAX).contains(length));
            self.max_len = Some(length.ok_or("ERR MAXLEN must be a number of items, 0 or more")?);
        } else if !is_max_len && self.min_score.is_none() {
            score::parse(value).ok_or("ERR MINSCORE is not a valid float")?;
            self.min_score = Some(value);
        } else {
            return Err(SYNTAX.to_owned());
        }
        Ok(Some(at + 2))
    }
}

impl Cursor {
    /// Reads `score:member`, or a score alone.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let colon = memchr::memchr(b':', text);
        let (score, member) = match colon {
            Some(colon) => (&text[..colon], Some(Bytes::copy_from_slice(&text[colon + 1..]))),
            None => (text, None),
        };
        let value = score::parse(score).ok_or("ERR invalid cursor: it is score:member, or a score")?;
        Ok(Self {
            score: value,
            text: Bytes::copy_from_slice(score),
            member,
        })
    }
}

/// A whole number as Redis takes it: no sign but `-`, no leading zero.
fn number(text: &[u8]) -> Option<i64> {
    let canonical = match text.strip_prefix(b"-").unwrap_or(text) {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let text = std::str::from_utf8(text).ok().filter(|_| canonical)?;
    text.parse().ok()
}

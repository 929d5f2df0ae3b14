//! One reply out of many: the replies of a request's parts, merged by the rule of the command.
//!
//! ```text
//!  part 0 ─reply─▶ ┌───────┐
//!  part 1 ─reply─▶ │ Merge │ ─▶ one reply, or one error that says whether anything ran
//!  part 2 ─ lost ─▶└───────┘
//! ```
//!
//! There is no partial truth: a part that failed makes the whole command an error, never a `nil` for a key that
//! could not be read and never a short count. If a part of a write may have run, the error is `UNCERTAIN`.

#[cfg(test)]
mod model_tests;
pub mod page;
#[cfg(test)]
mod page_tests;
pub mod scan;
#[cfg(test)]
mod scan_tests;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::rc::Rc;

use crate::command::{RESERVED_PREFIX, Split, is_reserved};
use crate::resp::{self, Elements, Protocol, bulk, elements};
use crate::route::Splitting;

/// Up to so large a first part, and for so many, room is made for all of them at once.
const LIKELY_BYTES_MAX: usize = 1024;
const LIKELY_PARTS_MAX: usize = 64;

/// How one part of a request ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// The node's reply, whole; it may be an error.
    Reply(&'a [u8]),
    /// Never sent; the line says why, without its leading `-`.
    NotRun(&'a str),
    /// Sent, and no reply came; the line without its leading `-`.
    Uncertain(&'a str),
}

/// The rule by which replies become one.
#[derive(Debug)]
pub enum Rule {
    /// Every part answers `+OK`, and so does the whole.
    AllOk,
    /// Integers are added.
    Sum,
    /// Arrays of one element for each key, put back at the keys' places.
    Places(Rc<Splitting>),
    /// Arrays of keys are joined, up to `max` elements, without the keys of helpers.
    Concat {
        /// More elements than this make the command an error.
        max: usize,
    },
    /// The first part's reply stands for all (they are the same everywhere).
    First,
    /// Arrays of 0 and 1, the same length everywhere: 1 where every part says 1.
    AllOnes,
}

/// The replies of one request's parts on their way to one reply.
#[derive(Debug)]
pub struct Merge {
    rule: Rule,
    write: bool,
    parts: usize,
    answered: usize,
    failed: usize,
    sum: i64,
    kept: Vec<u8>,
    kept_count: usize,
    /// For [`Rule::Places`]: the range in `kept` of each key's element.
    spans: Vec<(u32, u32)>,
    ones: Vec<bool>,
    first_error: Option<Vec<u8>>,
    not_run: Option<String>,
    uncertain: Option<String>,
}

impl Rule {
    /// The rule of a command that was split.
    #[must_use]
    pub fn of_split(split: Split, splitting: &Rc<Splitting>) -> Self {
        match split {
            Split::Mget => Self::Places(Rc::clone(splitting)),
            Split::Mset => Self::AllOk,
            Split::Del | Split::Unlink | Split::Exists | Split::Touch => Self::Sum,
        }
    }
}

impl Merge {
    /// A merge of `parts` replies. `write` says whether a part that ran has changed something.
    #[must_use]
    pub fn new(rule: Rule, parts: usize, write: bool) -> Self {
        let spans = match &rule {
            Rule::Places(splitting) => vec![(0, 0); splitting.key_count()],
            Rule::AllOk | Rule::Sum | Rule::Concat { .. } | Rule::First | Rule::AllOnes => Vec::new(),
        };
        Self {
            rule,
            write,
            parts,
            answered: 0,
            failed: 0,
            sum: 0,
            kept: Vec::new(),
            kept_count: 0,
            spans,
            ones: Vec::new(),
            first_error: None,
            not_run: None,
            uncertain: None,
        }
    }

    /// Bytes held for the reply in the making.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.kept.len()
    }

    /// Whether some part failed, so that the rest cannot make the command succeed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// Takes in how one part ended.
    pub fn part(&mut self, part: usize, outcome: Outcome<'_>) {
        self.answered += 1;
        match outcome {
            Outcome::Reply(reply) if reply.first() == Some(&b'-') || reply.first() == Some(&b'!') => {
                self.failed += 1;
                self.first_error.get_or_insert_with(|| reply.to_vec());
            }
            Outcome::Reply(reply) => {
                if self.absorb(part, reply).is_none() {
                    self.failed += 1;
                    self.first_error.get_or_insert_with(|| {
                        resp::error_line(
                            "ERR preshard: a node's reply has a shape that its command never has",
                        )
                    });
                }
            }
            Outcome::NotRun(line) => {
                self.failed += 1;
                self.not_run.get_or_insert_with(|| line.to_owned());
            }
            Outcome::Uncertain(line) => {
                self.failed += 1;
                self.uncertain.get_or_insert_with(|| line.to_owned());
            }
        }
    }

    /// Folds a good reply in. `None` if it is not of the rule's shape.
    fn absorb(&mut self, part: usize, reply: &[u8]) -> Option<()> {
        match &self.rule {
            Rule::AllOk => (reply == b"+OK\r\n").then_some(()),
            Rule::Sum => {
                self.sum = self.sum.checked_add(integer(reply)?)?;
                Some(())
            }
            Rule::Places(splitting) => {
                let mut all = elements(reply)?;
                if self.kept.is_empty() && reply.len() < LIKELY_BYTES_MAX {
                    // The others are likely to be as large.
                    self.kept.reserve(reply.len() * self.parts.min(LIKELY_PARTS_MAX));
                }
                for place in splitting.places(part) {
                    let element = all.next()?;
                    let start = u32::try_from(self.kept.len()).ok()?;
                    self.kept.extend_from_slice(element);
                    let end = u32::try_from(self.kept.len()).ok()?;
                    *self.spans.get_mut(place)? = (start, end);
                }
                all.next().is_none().then_some(())
            }
            Rule::Concat { .. } => {
                let all = elements(reply)?;
                let (count, keys) = clients_keys(&all);
                self.kept_count += count;
                self.kept.extend_from_slice(&keys);
                Some(())
            }
            Rule::First => {
                if self.kept.is_empty() {
                    self.kept.extend_from_slice(reply);
                }
                Some(())
            }
            Rule::AllOnes => {
                let ones: Vec<bool> = elements(reply)?.map(|one| one == b":1\r\n").collect();
                if self.ones.is_empty() {
                    self.ones = ones;
                } else {
                    self.ones.iter_mut().zip(ones).for_each(|(all, one)| *all &= one);
                }
                Some(())
            }
        }
    }

    /// Whether more elements were joined than the rule allows: the rest need not be asked.
    #[must_use]
    pub fn is_over_cap(&self) -> bool {
        matches!(self.rule, Rule::Concat { max } if self.kept_count > max)
    }

    /// Writes the one reply.
    pub fn finish(&self, protocol: Protocol, out: &mut Vec<u8>) {
        if self.failed > 0 {
            out.extend_from_slice(&self.error());
            return;
        }
        match &self.rule {
            Rule::AllOk => resp::write_simple(out, "OK"),
            Rule::Sum => resp::write_int(out, self.sum),
            Rule::Places(_) => {
                resp::write_array_header(out, self.spans.len());
                for &(start, end) in &self.spans {
                    out.extend_from_slice(&self.kept[start as usize..end as usize]);
                }
            }
            Rule::Concat { max } if self.kept_count > *max => {
                let line = format!("ERR more than {max} keys match (limit keys_max); use SCAN");
                out.extend_from_slice(&resp::error_line(&line));
            }
            Rule::Concat { .. } => {
                resp::write_array_header(out, self.kept_count);
                out.extend_from_slice(&self.kept);
            }
            Rule::First if self.kept.is_empty() => resp::write_null(out, protocol),
            Rule::First => out.extend_from_slice(&self.kept),
            Rule::AllOnes => {
                resp::write_array_header(out, self.ones.len());
                self.ones
                    .iter()
                    .for_each(|&one| resp::write_int(out, i64::from(one)));
            }
        }
    }

    /// The one error: what may have run outranks the node's word, which outranks what never ran.
    fn error(&self) -> Vec<u8> {
        let succeeded = self.answered - self.failed;
        let partly = self.write && succeeded > 0;
        if partly || (self.write && self.uncertain.is_some()) {
            let why = self
                .uncertain
                .as_deref()
                .or(self.not_run.as_deref())
                .map(str::to_owned);
            let why = why.or_else(|| self.first_error.as_deref().map(error_text));
            return resp::error_line(format!(
                "UNCERTAIN preshard: {succeeded} of {} shards done; {}",
                self.parts,
                why.unwrap_or_default()
            ));
        }
        if let Some(line) = &self.uncertain {
            return resp::error_line(line);
        }
        if let Some(error) = &self.first_error {
            return error.clone();
        }
        resp::error_line(
            self.not_run
                .as_deref()
                .unwrap_or("ERR preshard: no part answered"),
        )
    }
}

fn error_text(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .trim_start_matches('-')
        .trim_end()
        .to_owned()
}

/// The elements of an array of keys, and how many, without those that helpers keep. Most replies have none of these.
fn clients_keys<'a>(keys: &Elements<'a>) -> (usize, Cow<'a, [u8]>) {
    if memchr::memmem::find(keys.rest(), RESERVED_PREFIX).is_none() {
        return (keys.count_left(), Cow::Borrowed(keys.rest()));
    }
    let mut kept = Vec::new();
    let mut count = 0;
    for key in keys.clone() {
        if !bulk(key).is_some_and(is_reserved) {
            kept.extend_from_slice(key);
            count += 1;
        }
    }
    (count, Cow::Owned(kept))
}

/// The number of an integer reply, canonical or not at all.
#[must_use]
pub fn integer(reply: &[u8]) -> Option<i64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

//! Keys of commands whose options must be read: `SORT`, `XREAD`, `GEORADIUS`, `MIGRATE`.
//!
//! Each is read as the command itself reads its arguments. An option that the command would not understand is an error
//! here too, so that no node sees a request of which we do not know what it touches.

use super::keys::{index, push};
use super::refusal::KeyError;
use super::spec::{Spec, Special};
use crate::resp::Args;

pub(super) fn read_options(
    spec: &Spec,
    special: Special,
    args: &Args<'_>,
    out: &mut Vec<u32>,
) -> Result<(), KeyError> {
    match special {
        Special::Sort => sort(spec, args, out),
        Special::Xread => streams(spec, args, out),
        Special::Xreadgroup => streams(spec, args, out),
        Special::Georadius => georadius(spec, args, 6, out),
        Special::Georadiusbymember => georadius(spec, args, 5, out),
        Special::Migrate => migrate(spec, args, out),
    }
}

/// An option of `SORT` that has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortOption {
    Limit,
    By,
    Get,
    Store,
}

impl SortOption {
    pub(super) const fn is_pattern(self) -> bool {
        matches!(self, Self::By | Self::Get)
    }
}

/// Calls `each` with every option that has a value, and the index of its (first) value. False: a syntax error.
pub(super) fn sort_options(args: &Args<'_>, mut each: impl FnMut(SortOption, usize)) -> bool {
    let mut at = 2;
    while at < args.len() {
        let word = args.get(at).to_ascii_uppercase();
        let (option, values) = match word.as_slice() {
            b"ASC" | b"DESC" | b"ALPHA" => (None, 0),
            b"LIMIT" => (Some(SortOption::Limit), 2),
            b"BY" => (Some(SortOption::By), 1),
            b"GET" => (Some(SortOption::Get), 1),
            b"STORE" => (Some(SortOption::Store), 1),
            _ => return false,
        };
        if at + values >= args.len() {
            return false;
        }
        if let Some(option) = option {
            each(option, at + 1);
        }
        at += 1 + values;
    }
    true
}

fn sort(spec: &Spec, args: &Args<'_>, out: &mut Vec<u32>) -> Result<(), KeyError> {
    push(spec, args, 1, out)?;
    let mut destination = None;
    let understood = sort_options(args, |option, at| {
        if option == SortOption::Store {
            // Given twice, the last one counts.
            destination = Some(index(at));
        }
    });
    if !understood || destination.is_some() && spec.name == "sort_ro" {
        return Err(KeyError::Syntax);
    }
    out.extend(destination);
    Ok(())
}

/// Where the keys lie that a pattern of `SORT` leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// There are none: no `*`, and so nothing to put an element in.
    Nowhere,
    /// All in the slot of the pattern's own hash tag.
    OneSlot,
    /// The element decides.
    Anywhere,
}

pub(super) fn reach(pattern: &[u8]) -> Reach {
    let Some(star) = pattern.iter().position(|&byte| byte == b'*') else {
        return Reach::Nowhere;
    };
    let prefix = &pattern[..star];
    let open = prefix.iter().position(|&byte| byte == b'{');
    let close = open.and_then(|open| prefix[open..].iter().position(|&byte| byte == b'}'));
    // An empty tag does not count: the whole key is hashed, the element included.
    if close.is_some_and(|length| length > 1) {
        Reach::OneSlot
    } else {
        Reach::Anywhere
    }
}

/// `XREAD` and `XREADGROUP`: what stands before `STREAMS` is read option by option, because a group, a consumer or a
/// stream may be called `STREAMS` too.
fn streams(spec: &Spec, args: &Args<'_>, out: &mut Vec<u32>) -> Result<(), KeyError> {
    let mut at = 1;
    loop {
        let Some(word) = args.try_get(at) else {
            return Err(KeyError::Syntax);
        };
        at += match word.to_ascii_uppercase().as_slice() {
            b"STREAMS" => break,
            b"NOACK" => 1,
            b"COUNT" | b"BLOCK" | b"CLAIM" => 2,
            b"GROUP" if spec.name == "xreadgroup" => 3,
            _ => return Err(KeyError::Syntax),
        };
    }
    let rest = args.len() - at - 1;
    if rest == 0 || !rest.is_multiple_of(2) {
        return Err(KeyError::UnbalancedStreams);
    }
    out.extend((at + 1..=at + rest / 2).map(index));
    Ok(())
}

/// The key, and the last destination: given twice, the last one counts.
fn georadius(spec: &Spec, args: &Args<'_>, options_at: usize, out: &mut Vec<u32>) -> Result<(), KeyError> {
    push(spec, args, 1, out)?;
    let mut destination = None;
    let mut at = options_at;
    while at < args.len() {
        let values = match args.get(at).to_ascii_uppercase().as_slice() {
            b"WITHDIST" | b"WITHHASH" | b"WITHCOORD" | b"ANY" | b"ASC" | b"DESC" => 0,
            b"COUNT" => 1,
            b"STORE" | b"STOREDIST" => {
                destination = Some(index(at + 1));
                1
            }
            _ => return Err(KeyError::Syntax),
        };
        at += 1 + values;
    }
    if at > args.len() {
        return Err(KeyError::Syntax);
    }
    out.extend(destination);
    Ok(())
}

/// One key, or with an empty one all that follow `KEYS`.
fn migrate(spec: &Spec, args: &Args<'_>, out: &mut Vec<u32>) -> Result<(), KeyError> {
    let mut at = 6;
    while at < args.len() {
        at += match args.get(at).to_ascii_uppercase().as_slice() {
            b"COPY" | b"REPLACE" => 1,
            b"AUTH" => 2,
            b"AUTH2" => 3,
            b"KEYS" if args.get(3).is_empty() => {
                out.extend((at + 1..args.len()).map(index));
                return if out.is_empty() {
                    Err(KeyError::Syntax)
                } else {
                    Ok(())
                };
            }
            _ => return Err(KeyError::Syntax),
        };
    }
    push(spec, args, 3, out)
}

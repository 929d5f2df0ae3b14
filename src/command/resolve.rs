//! From a request to its row of the table: subcommand, arity, and arguments that change the meaning.

use super::policy;
use super::refusal::{KeyError, Refusal};
use super::spec::{Class, Spec};
use super::table::{lookup, subcommand};
use crate::resp::Args;

/// The command that a request means. Its arity fits and, where an argument changes the meaning, that was judged too:
/// a command that is given back may be run as its class says.
///
/// # Errors
/// What to tell the client, who goes on using the connection.
#[inline]
pub fn resolve(args: &Args<'_>) -> Result<&'static Spec, Refusal> {
    if let Some(spec) = lookup(args.get(0))
        && !spec.container
        && !spec.rules
        && !matches!(spec.class, Class::Refused(_))
        && has_arity(spec, args)
    {
        return Ok(spec);
    }
    resolve_closely(args)
}

/// The same for requests that have more to be looked at, or that are to be refused.
fn resolve_closely(args: &Args<'_>) -> Result<&'static Spec, Refusal> {
    let spec = identify(args)?;
    match spec.class {
        Class::Refused(reason) => Err(Refusal::refused(spec, reason)),
        Class::Single
        | Class::Iterate
        | Class::SameShard
        | Class::Split(_)
        | Class::FanOut(_)
        | Class::Local(_)
        | Class::Transaction(_)
        | Class::Blocking
        | Class::Script(_)
        | Class::PubSub(_)
        | Class::Helper(_) => {
            if spec.rules {
                judge_arguments(spec, args)?;
            }
            Ok(spec)
        }
    }
}

/// As [`resolve`], but refused commands are given back too: for `COMMAND GETKEYS` and `EXPLAIN`.
///
/// # Errors
/// Unknown names and a wrong number of arguments.
pub fn identify(args: &Args<'_>) -> Result<&'static Spec, Refusal> {
    let spec = name(args)?;
    if !has_arity(spec, args) {
        return Err(Refusal::arity(spec));
    }
    Ok(spec)
}

#[inline]
fn has_arity(spec: &Spec, args: &Args<'_>) -> bool {
    let len = u32::try_from(args.len()).unwrap_or(u32::MAX);
    (spec.args_min..=spec.args_max).contains(&len)
}

/// The row alone, whatever the number of arguments.
pub(super) fn name(args: &Args<'_>) -> Result<&'static Spec, Refusal> {
    let spec = lookup(args.get(0)).ok_or_else(|| Refusal::unknown(args))?;
    if !spec.container || args.len() < 2 {
        return Ok(spec);
    }
    subcommand(spec, args.get(1)).ok_or_else(|| Refusal::unknown_subcommand(spec, args.get(1)))
}

/// Arguments that make another command of it, or none.
fn judge_arguments(spec: &'static Spec, args: &Args<'_>) -> Result<(), Refusal> {
    match spec.name {
        "copy" if copies_to_other_database(args) => Err(Refusal::refused(spec, policy::OTHER_DATABASE)),
        // The arity says "at least one pair"; what pairs mean is left to the command.
        "mset" | "msetnx" if args.len().is_multiple_of(2) => Err(Refusal::arity(spec)),
        _ => Ok(()),
    }
}

/// Whether `COPY source destination …` names a database. Any `DB` counts, also where the command would find a
/// syntax error.
#[must_use]
pub fn copies_to_other_database(args: &Args<'_>) -> bool {
    args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"DB"))
}

/// Whether `XREAD` or `XREADGROUP` would block.
#[must_use]
pub fn blocks(args: &Args<'_>) -> bool {
    block_at(args).is_some()
}

/// Where the `BLOCK` of an `XREAD` or `XREADGROUP` stands, given twice the last one. Options are read as the command reads them, so
/// that a stream, a group or a consumer may be called `BLOCK`.
pub(super) fn block_at(args: &Args<'_>) -> Option<usize> {
    let (mut at, mut block) = (1, None);
    while at < args.len() {
        let is = |option: &str| args.get(at).eq_ignore_ascii_case(option.as_bytes());
        if is("STREAMS") {
            break;
        }
        if is("BLOCK") {
            block = Some(at);
        }
        at += if is("GROUP") {
            3
        } else if is("BLOCK") || is("COUNT") || is("CLAIM") {
            2
        } else {
            1
        };
    }
    block
}

/// Whether this request of a command that need not wait would wait all the same.
#[must_use]
pub fn may_wait(spec: &Spec, args: &Args<'_>) -> bool {
    matches!(spec.name, "xread" | "xreadgroup") && blocks(args)
}

/// How `FLUSHDB` and `FLUSHALL` free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// As the node is configured.
    Default,
    /// In the background.
    Async,
    /// Before the reply.
    Sync,
}

/// The mode of `FLUSHDB [ASYNC|SYNC]` or `FLUSHALL [ASYNC|SYNC]`.
///
/// # Errors
/// [`KeyError::Syntax`] for anything else.
pub fn flush_mode(args: &Args<'_>) -> Result<FlushMode, KeyError> {
    match (args.len(), args.get(1)) {
        (1, _) => Ok(FlushMode::Default),
        (2, word) if word.eq_ignore_ascii_case(b"ASYNC") => Ok(FlushMode::Async),
        (2, word) if word.eq_ignore_ascii_case(b"SYNC") => Ok(FlushMode::Sync),
        _ => Err(KeyError::Syntax),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::request;

    fn kind(words: &[&[u8]]) -> &'static str {
        request(words, |args| {
            resolve(&args).map_or_else(|refusal| refusal.kind(), |spec| spec.name)
        })
    }

    #[test]
    fn copy_into_another_database_is_refused() {
        assert_eq!(kind(&[b"COPY", b"a", b"b"]), "copy");
        assert_eq!(kind(&[b"COPY", b"db", b"DB", b"REPLACE"]), "copy");
        assert_eq!(kind(&[b"COPY", b"a", b"b", b"replace", b"dB", b"3"]), "refused");
    }

    #[test]
    fn only_reads_with_a_block_option_may_wait() {
        let waits = |line: &str| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            request(&words, |args| may_wait(resolve(&args).unwrap(), &args))
        };
        assert!(!waits("XREAD COUNT 1 STREAMS BLOCK 0"));
        assert!(waits("XREAD COUNT 1 block 0 STREAMS s 0"));
        assert!(!waits("XREADGROUP GROUP BLOCK block STREAMS s >"));
        assert!(waits("XREADGROUP GROUP streams c BLOCK 0 STREAMS s >"));
        assert!(waits("XREADGROUP GROUP g c BLOCK 0 STREAMS s >"));
    }

    #[test]
    fn pairs_must_pair() {
        assert_eq!(kind(&[b"MSET", b"a", b"1"]), "mset");
        assert_eq!(kind(&[b"MSET", b"a", b"1", b"b"]), "arity");
    }

    #[test]
    fn flush_takes_one_word() {
        let mode = |words: &[&[u8]]| request(words, |args| flush_mode(&args));
        assert_eq!(mode(&[b"FLUSHALL"]), Ok(FlushMode::Default));
        assert_eq!(mode(&[b"FLUSHALL", b"async"]), Ok(FlushMode::Async));
        assert_eq!(mode(&[b"FLUSHDB", b"SYNC"]), Ok(FlushMode::Sync));
        assert_eq!(mode(&[b"FLUSHDB", b"SYNC", b"SYNC"]), Err(KeyError::Syntax));
        assert_eq!(mode(&[b"FLUSHDB", b"now"]), Err(KeyError::Syntax));
    }
}

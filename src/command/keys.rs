//! Which arguments of a request are keys.
//!
//! ```text
//!  Fixed{pos} ─────────────────────────▶ one index, no reading
//!  Walk ───▶ begin_search ─▶ find_keys ─▶ indices, every number checked against the arguments that are there
//!  Special ▶ the options, read as the command itself reads them
//! ```
//!
//! A number that a client sends (`EVAL … 99`) is compared with the arguments that came before anything is done with
//! it. Where Redis's own key specification and the command disagree about which argument is a key (a consumer called
//! `STREAMS`), the command is right, because the command is what touches the key.

use super::flags::KeyFlags;
use super::options::{Reach, SortOption, reach, read_options, sort_options};
use super::refusal::KeyError;
use super::spec::{BeginSearch, FindKeys, KeyFact, KeySpec, Spec, Special};
use crate::resp::Args;

/// Fills `out` with the indices of all keys that the request declares, in the order in which Redis's
/// `COMMAND GETKEYS` gives them. `out` is emptied first; it is empty for a command without keys.
///
/// # Errors
/// The arguments cannot be right, so that no key is known. Nothing may be sent to a node then.
pub fn keys(spec: &Spec, args: &Args<'_>, out: &mut Vec<u32>) -> Result<(), KeyError> {
    out.clear();
    let found = match spec.keys {
        KeySpec::None => Ok(()),
        KeySpec::Fixed { pos } => push(spec, args, i64::from(pos), out),
        KeySpec::Walk => walk(spec, args, out),
        KeySpec::Special(special) => read_options(spec, special, args, out),
    };
    if found.is_err() {
        out.clear();
    }
    found
}

/// As [`keys`], and also the patterns of `SORT` that reach only keys of one slot, because their hash tag stands
/// before the `*`: hashed like a key, such a pattern gives the slot of every key that it reaches. These are the
/// arguments that must share a shard.
///
/// # Errors
/// As [`keys`].
pub fn routing_keys(spec: &Spec, args: &Args<'_>, out: &mut Vec<u32>) -> Result<(), KeyError> {
    keys(spec, args, out)?;
    if spec.keys == KeySpec::Special(Special::Sort) {
        sort_options(args, |option, at| {
            if option.is_pattern() && reach(args.get(at)) == Reach::OneSlot {
                out.push(index(at));
            }
        });
    }
    Ok(())
}

/// Whether the command may read keys that it does not declare and whose shard cannot be known: `SORT … BY weight_*`.
/// Such a command runs on a pinned database only. (Scripts may too, and no argument tells; they are classed apart.)
#[must_use]
pub fn reaches_undeclared_keys(spec: &Spec, args: &Args<'_>) -> bool {
    let mut anywhere = false;
    if spec.keys == KeySpec::Special(Special::Sort) {
        sort_options(args, |option, at| {
            anywhere |= option.is_pattern() && reach(args.get(at)) == Reach::Anywhere
        });
    }
    anywhere
}

/// The first option of `SORT` that reads keys which the request does not name: `BY` with a `*`, any `GET`.
#[must_use]
pub fn sort_option_with_other_keys(spec: &Spec, args: &Args<'_>) -> Option<&'static str> {
    let mut found = None;
    if spec.keys == KeySpec::Special(Special::Sort) {
        sort_options(args, |option, at| {
            let word = match option {
                SortOption::By if args.get(at).contains(&b'*') => "BY",
                SortOption::Get => "GET",
                SortOption::By | SortOption::Limit | SortOption::Store => return,
            };
            found = found.or(Some(word));
        });
    }
    found
}

pub(super) fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

pub(super) fn push(spec: &Spec, args: &Args<'_>, at: i64, out: &mut Vec<u32>) -> Result<(), KeyError> {
    push_range(spec, args, [at, at, 1], out)
}

/// Keys from `first` to `last`, both meant inclusively; either may be nonsense.
fn push_range(
    spec: &Spec,
    args: &Args<'_>,
    [first, last, step]: [i64; 3],
    out: &mut Vec<u32>,
) -> Result<(), KeyError> {
    let missing = KeyError::Missing { name: spec.name };
    let (Ok(first), Ok(last), Ok(step)) = (
        usize::try_from(first),
        usize::try_from(last),
        usize::try_from(step),
    ) else {
        return Err(missing);
    };
    if first == 0 || last >= args.len() || last < first || step == 0 {
        return Err(missing);
    }
    out.extend((first..=last).step_by(step).map(index));
    Ok(())
}

// === Walk: Redis's key specifications ===

fn walk(spec: &Spec, args: &Args<'_>, out: &mut Vec<u32>) -> Result<(), KeyError> {
    let facts = spec
        .facts
        .keys
        .iter()
        .filter(|fact| !fact.flags.has(KeyFlags::NOT_KEY));
    facts
        .into_iter()
        .try_for_each(|fact| follow(spec, fact, args, out))
}

/// Adds the keys of one specification.
pub(super) fn follow(
    spec: &Spec,
    fact: &KeyFact,
    args: &Args<'_>,
    out: &mut Vec<u32>,
) -> Result<(), KeyError> {
    let begin = begin(fact.begin, args).ok_or(KeyError::Missing { name: spec.name })?;
    match fact.find {
        FindKeys::Range { last, step, limit } => {
            // `PFMERGE key`: the keys of a further specification may be left out, as far as the arity allows.
            if !out.is_empty() && usize::try_from(begin) == Ok(args.len()) {
                return Ok(());
            }
            let range = [begin, range_end(begin, last, limit, args), i64::from(step)];
            push_range(spec, args, range, out)
        }
        FindKeys::Keynum {
            number_at,
            first,
            step,
        } => {
            let rest = [begin + i64::from(first), i64::from(step)];
            numbered(spec, args, begin + i64::from(number_at), rest, out)
        }
        FindKeys::Unknown => Err(KeyError::Syntax),
    }
}

/// Index of the first argument of interest.
fn begin(search: BeginSearch, args: &Args<'_>) -> Option<i64> {
    match search {
        BeginSearch::Index(at) => Some(i64::from(at)),
        BeginSearch::Keyword { word, start_from } => {
            let is_word = |at: &usize| args.get(*at).eq_ignore_ascii_case(word.as_bytes());
            let distance = usize::try_from(start_from.unsigned_abs()).unwrap_or(usize::MAX);
            let found = if start_from >= 0 {
                (distance..args.len()).find(is_word)
            } else {
                (1..=args.len().saturating_sub(distance)).rev().find(is_word)
            };
            found.and_then(|at| i64::try_from(at + 1).ok())
        }
        BeginSearch::Unknown => None,
    }
}

fn range_end(begin: i64, last: i32, limit: i32, args: &Args<'_>) -> i64 {
    let len = i64::try_from(args.len()).unwrap_or(i64::MAX);
    match (last, limit) {
        (0.., _) => begin + i64::from(last),
        (_, ..=1) => len + i64::from(last),
        _ => begin + (len - begin) / i64::from(limit) + i64::from(last),
    }
}

/// Keys whose number is an argument.
fn numbered(
    spec: &Spec,
    args: &Args<'_>,
    number_at: i64,
    [first, step]: [i64; 2],
    out: &mut Vec<u32>,
) -> Result<(), KeyError> {
    let words = Words::of(spec);
    let text = usize::try_from(number_at).ok().and_then(|at| args.try_get(at));
    let number =
        integer(text.ok_or(KeyError::Missing { name: spec.name })?).ok_or_else(|| words.not_integer())?;
    if number < 0 || number == 0 && !matches!(words, Words::Script | Words::Function) {
        return Err(words.too_few(spec));
    }
    if number == 0 {
        return Ok(());
    }
    let there = i64::try_from(args.len()).unwrap_or(i64::MAX) - first;
    if number > there / step.max(1) + i64::from(there % step.max(1) != 0) {
        return Err(words.too_many());
    }
    push_range(spec, args, [first, first + (number - 1) * step, step], out)
}

/// The families of commands that take a number of keys differ in their words for a wrong one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    Script,
    Function,
    SortedSets,
    Pop,
    Sets,
}

impl Words {
    fn of(spec: &Spec) -> Self {
        match spec.name {
            "sintercard" => Self::Sets,
            "lmpop" | "blmpop" | "zmpop" | "bzmpop" | "msetex" => Self::Pop,
            name if name.starts_with("fcall") => Self::Function,
            name if name.starts_with("eval") => Self::Script,
            _ => Self::SortedSets,
        }
    }

    const fn not_integer(self) -> KeyError {
        match self {
            Self::Script | Self::SortedSets => KeyError::NotInteger,
            Self::Function => KeyError::BadNumber,
            Self::Pop | Self::Sets => KeyError::NumkeysNotPositive,
        }
    }

    const fn too_few(self, spec: &Spec) -> KeyError {
        match self {
            Self::Script | Self::Function => KeyError::NegativeKeys,
            Self::SortedSets => KeyError::NoInputKey { name: spec.name },
            Self::Pop | Self::Sets => KeyError::NumkeysNotPositive,
        }
    }

    const fn too_many(self) -> KeyError {
        match self {
            Self::Script | Self::Function | Self::Sets => KeyError::TooManyKeys,
            Self::SortedSets | Self::Pop => KeyError::Syntax,
        }
    }
}

/// A 64-bit number as Redis takes it from a client: no sign but `-`, no leading zero, no spaces.
fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [] => return None,
        [b'0'] => return (digits.len() == text.len()).then_some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {}
        _ => return None,
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::request;
    use crate::command::{identify, lookup};

    fn split(line: &str) -> Vec<&[u8]> {
        line.split(' ')
            .map(|word| if word == "''" { b"" } else { word.as_bytes() })
            .collect()
    }

    fn found(line: &str) -> Result<Vec<u32>, String> {
        request(&split(line), |args| {
            let spec = identify(&args).map_err(|refusal| refusal.line())?;
            let mut out = vec![7];
            keys(spec, &args, &mut out).map_err(|error| error.line())?;
            Ok(out)
        })
    }

    #[test]
    fn keys_are_where_the_specifications_say() {
        for (line, expected) in [
            ("GET k", &[1][..]),
            ("PING", &[]),
            ("OBJECT ENCODING k", &[2]),
            ("XGROUP CREATE s g $", &[2]),
            ("MEMORY USAGE k SAMPLES 5", &[2]),
            ("MSET a 1 b 2", &[1, 3]),
            ("BITOP AND d a b", &[2, 3, 4]),
            ("RENAME a b", &[1, 2]),
            ("EVAL s 0", &[]),
            ("EVAL s 2 a b c", &[3, 4]),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", &[1, 3, 4]),
            ("ZDIFF 1 a WITHSCORES", &[2]),
            ("LMPOP 2 a b LEFT", &[2, 3]),
            ("SINTERCARD 2 a b LIMIT 1", &[2, 3]),
            ("MSETEX 2 a 1 b 2 NX", &[2, 4]),
            ("LCS a b LEN", &[1, 2]),
        ] {
            assert_eq!(found(line), Ok(expected.to_vec()), "{line}");
        }
    }

    #[test]
    fn options_are_read_as_the_commands_read_them() {
        for (line, expected) in [
            ("XREAD COUNT 1 STREAMS a b 0 0", &[4, 5][..]),
            ("XREADGROUP GROUP g STREAMS STREAMS a >", &[5]),
            ("XREADGROUP COUNT 1 GROUP g STREAMS STREAMS a >", &[7]),
            ("SORT k BY nosort GET # LIMIT 0 1 STORE a STORE b", &[1, 12]),
            ("SORT k BY STORE ASC", &[1]),
            ("SORT_RO k ALPHA", &[1]),
            ("PFMERGE k", &[1]),
            ("PFMERGE k a b", &[1, 2, 3]),
            ("GEORADIUS k 1 2 3 m STORE a STOREDIST b", &[1, 9]),
            ("GEORADIUSBYMEMBER k STORE 3 m COUNT 1 ANY STORE a", &[1, 9]),
            ("MIGRATE h 1 k 0 9", &[3]),
            ("MIGRATE h 1 '' 0 9 COPY AUTH KEYS KEYS a b", &[10, 11]),
        ] {
            let expected = if line.contains("STOREDIST b") {
                vec![1, 9]
            } else {
                expected.to_vec()
            };
            assert_eq!(found(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn numbers_from_clients_are_not_trusted() {
        let greater = "ERR Number of keys can't be greater than number of args";
        for (line, expected) in [
            ("EVAL s 3 a b", greater),
            ("EVAL s -1 a", "ERR Number of keys can't be negative"),
            ("EVAL s 9223372036854775807 a", greater),
            (
                "EVAL s 9223372036854775808 a",
                "ERR value is not an integer or out of range",
            ),
            ("EVAL s 01 a", "ERR value is not an integer or out of range"),
            ("EVAL s +1 a", "ERR value is not an integer or out of range"),
            ("FCALL f +1 a", "ERR Bad number of keys provided"),
            ("FCALL f -1 a", "ERR Number of keys can't be negative"),
            ("FCALL_RO f 2 a", greater),
            (
                "ZUNION 0 a",
                "ERR at least 1 input key is needed for 'zunion' command",
            ),
            ("ZUNION 2 a", "ERR syntax error"),
            ("LMPOP 0 a LEFT", "ERR numkeys should be greater than 0"),
            ("LMPOP 9 a LEFT", "ERR syntax error"),
            ("SINTERCARD 3 a b", greater),
            ("SINTERCARD x a b", "ERR numkeys should be greater than 0"),
            (
                "XREAD STREAMS a b 0",
                "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
            ),
            ("XREAD COUNT 1 a", "ERR syntax error"),
            ("SORT k GET", "ERR syntax error"),
            ("SORT_RO k STORE a", "ERR syntax error"),
            ("MIGRATE h 1 k 0 9 KEYS a", "ERR syntax error"),
        ] {
            assert_eq!(found(line), Err(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn patterns_that_reach_other_keys_are_seen() {
        let reaches = |line: &str| {
            request(&split(line), |args| {
                reaches_undeclared_keys(lookup(args.get(0)).unwrap(), &args)
            })
        };
        let routing = |line: &str| {
            request(&split(line), |args| {
                let mut out = Vec::new();
                routing_keys(lookup(args.get(0)).unwrap(), &args, &mut out)
                    .map(|()| out)
                    .unwrap()
            })
        };
        for line in [
            "SORT k",
            "SORT k BY nosort",
            "SORT k GET # GET plain",
            "SORT k BY {k}w_* GET {k}*->f",
            "GET w_*",
        ] {
            assert!(!reaches(line), "{line}");
        }
        for line in [
            "SORT k BY w_*",
            "SORT k GET *",
            "SORT_RO k GET {}*",
            "SORT k BY {*}",
            "SORT k BY *{k}",
            "SORT k GET # GET }{*}",
        ] {
            assert!(reaches(line), "{line}");
        }
        assert_eq!(routing("SORT k BY {k}w_* GET # GET {k}o_* STORE d"), [1, 9, 3, 7]);
        assert_eq!(routing("MGET a b"), [1, 2]);
    }
}

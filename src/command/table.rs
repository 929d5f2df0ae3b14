//! The table in memory, built once, and the lookup that every request pays for.
//!
//! ```text
//!  name ─▶ first 8 bytes, upper-cased, as one number ─┐
//!        └▶ length ────────────────────────────────────┴▶ hash ─▶ row ─▶ compare number, length, rest
//! ```
//!
//! Nothing is allocated by a lookup. Most names are no longer than eight bytes, so that comparing the number and the
//! length compares the whole name.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::flags::{Categories, Flags, KeyFlags};
use super::policy;
use super::spec::{BeginSearch, CommandId, Facts, FindKeys, KeyFact, KeySpec, Spec, Special};

const TABLE: &str = include_str!("table.tsv");
/// Commands that preshard makes out of standard ones.
const HELPERS: &str = include_str!("helpers.tsv");
/// Power of two, well above the number of commands: about one place in four is taken.
const PLACES: usize = 1024;
/// Admin commands have a line here, in the columns of the data file, because no server tells of them.
const OWN: &str = "preshard\t-2\tadmin loading noscript stale\tadmin dangerous slow\t\t0\t0\t0\t\tserver\t\tAdministers \
                   preshard: shards, nodes, plans, tasks.\tDepends on the subcommand.\tpreshard\t\t";

static BUILT: LazyLock<Built> = LazyLock::new(Built::new);

struct Built {
    specs: Vec<Spec>,
    places: Box<[Place; PLACES]>,
}

/// A place of the hash table; `length` 0 is an empty one.
#[derive(Clone, Copy, Default)]
struct Place {
    head: u64,
    length: u16,
    row: u16,
}

/// All commands and subcommands, by [`CommandId`], in the order of their names.
#[must_use]
pub fn all() -> &'static [Spec] {
    &BUILT.specs
}

/// The command of this name, case-insensitively and byte by byte. A container is given as such: see
/// [`super::resolve()`].
#[must_use]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    let built = &*BUILT;
    let head = head(name);
    let mut at = place_of(head, name.len());
    loop {
        let place = built.places[at % PLACES];
        if place.length == 0 {
            return None;
        }
        if place.head == head && usize::from(place.length) == name.len() {
            let spec = &built.specs[usize::from(place.row)];
            if name.len() <= 8 || name[8..].eq_ignore_ascii_case(&spec.name.as_bytes()[8..]) {
                return Some(spec);
            }
        }
        at += 1;
    }
}

/// The subcommand of a container, case-insensitively.
#[must_use]
pub fn subcommand(container: &Spec, name: &[u8]) -> Option<&'static Spec> {
    let specs = all();
    let rows = container.facts.subcommands.iter().map(|id| &specs[id.index()]);
    let skip = container.name.len() + 1;
    rows.into_iter()
        .find(|spec| spec.name.as_bytes()[skip..].eq_ignore_ascii_case(name))
}

/// The row of an id.
#[must_use]
pub fn by_id(id: CommandId) -> Option<&'static Spec> {
    all().get(id.index())
}

/// The first eight bytes, upper-cased, as a number; zeros where the name is shorter. Short names are read as two words
/// that overlap: the bytes they share are the same, at the same place.
fn head(name: &[u8]) -> u64 {
    let len = name.len();
    upper(if let Some(first) = name.first_chunk() {
        u64::from_le_bytes(*first)
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4))
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        u64::from(u16::from_le_bytes(*first)) | u64::from(u16::from_le_bytes(*last)) << (8 * (len - 2))
    } else {
        name.first().copied().map_or(0, u64::from)
    })
}

/// Upper-cases the ASCII letters among eight bytes at once.
const fn upper(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * EACH);
    let from_a = low + (0x80 - b'a' as u64) * EACH;
    let above_z = low + (0x7f - b'z' as u64) * EACH;
    let letter = !word & (from_a ^ above_z) & (0x80 * EACH);
    word ^ (letter >> 2)
}

const fn place_of(head: u64, length: usize) -> usize {
    let mixed = (head ^ (length as u64) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 54) as usize
}

// === impl Built ===

impl Built {
    fn new() -> Self {
        let specs = specs();
        let mut places = Box::new([Place::default(); PLACES]);
        for spec in specs.iter().filter(|spec| spec.facts.parent.is_none()) {
            let name = spec.name.as_bytes();
            let head = head(name);
            let mut at = place_of(head, name.len());
            while places[at % PLACES].length != 0 {
                at += 1;
            }
            let length = u16::try_from(name.len()).expect("a command's name is short");
            places[at % PLACES] = Place {
                head,
                length,
                row: spec.id.0,
            };
        }
        Self { specs, places }
    }
}

// === reading the data file ===
//
// The file is part of the program: what is wrong with it stops the first test, and names the line.

/// The lines of commands, sorted by name.
fn rows() -> Vec<&'static str> {
    let lines = TABLE
        .lines()
        .chain(HELPERS.lines())
        .filter(|line| !line.starts_with('#') && !line.starts_with("name\t"));
    let mut rows: Vec<_> = lines.chain([OWN]).collect();
    rows.sort_unstable_by_key(|row| row.split('\t').next());
    rows
}

fn specs() -> Vec<Spec> {
    let rows = rows();
    let name_of = |row: &'static str| row.split('\t').next().unwrap_or_default();
    let ids: BTreeMap<&'static str, CommandId> = (0u16..)
        .zip(&rows)
        .map(|(row, line)| (name_of(line), CommandId(row)))
        .collect();
    rows.iter().map(|row| spec(row, &ids)).collect()
}

fn spec(row: &'static str, ids: &BTreeMap<&'static str, CommandId>) -> Spec {
    let columns: Vec<&'static str> = row.split('\t').collect();
    let &[
        name,
        arity,
        flags,
        acl,
        keys,
        first,
        last,
        step,
        tips,
        group,
        since,
        summary,
        complexity,
        servers,
        older,
        docs,
    ] = columns.as_slice()
    else {
        unreachable!("table.tsv: {} columns in: {row}", columns.len())
    };
    let arity: i32 = number(arity, row);
    let keys: Vec<KeyFact> = keys
        .split(';')
        .filter(|spec| !spec.is_empty())
        .map(key_fact)
        .collect();
    let key_spec = key_spec(name, &keys);
    let needed = if let KeySpec::Fixed { pos } = key_spec {
        pos + 1
    } else {
        1
    };
    let prefix = format!("{name}|");
    let subcommands: Vec<_> = ids
        .iter()
        .filter(|(other, _)| other.starts_with(&prefix))
        .map(|(_, &id)| id)
        .collect();
    let parent = name
        .split_once('|')
        .and_then(|(parent, _)| ids.get(parent).copied());
    Spec {
        id: ids[name],
        name,
        class: policy::class_of(name),
        keys: key_spec,
        flags: Flags::parse(flags).expect("a flag of table.tsv is known to flags.rs"),
        arity,
        args_min: arity.unsigned_abs().max(needed),
        args_max: if arity < 0 { u32::MAX } else { arity.unsigned_abs() },
        rules: policy::has_rules(name),
        container: !subcommands.is_empty(),
        facts: Box::leak(Box::new(Facts {
            categories: Categories::parse(acl).expect("a category of table.tsv is known to flags.rs"),
            keys,
            positions: [first, last, step].map(|position| number(position, row)),
            tips,
            group,
            since,
            summary,
            complexity,
            servers,
            older,
            docs,
            parent,
            subcommands,
        })),
    }
}

fn number(text: &str, row: &str) -> i32 {
    text.parse()
        .unwrap_or_else(|_| unreachable!("table.tsv: {text:?} is no number in: {row}"))
}

/// Which way of finding keys is right for a command: the simplest that is.
fn key_spec(name: &str, facts: &[KeyFact]) -> KeySpec {
    match name {
        "sort" | "sort_ro" => return KeySpec::Special(Special::Sort),
        "xread" => return KeySpec::Special(Special::Xread),
        "xreadgroup" => return KeySpec::Special(Special::Xreadgroup),
        "georadius" => return KeySpec::Special(Special::Georadius),
        "georadiusbymember" => return KeySpec::Special(Special::Georadiusbymember),
        "migrate" => return KeySpec::Special(Special::Migrate),
        _ => {}
    }
    let mut keys = facts.iter().filter(|fact| !fact.flags.has(KeyFlags::NOT_KEY));
    match (keys.next(), keys.next()) {
        (None, _) => KeySpec::None,
        (
            Some(KeyFact {
                begin: BeginSearch::Index(at),
                find: FindKeys::Range { last: 0, .. },
                ..
            }),
            None,
        ) => KeySpec::Fixed {
            pos: at.unsigned_abs(),
        },
        _ => KeySpec::Walk,
    }
}

/// One key specification: `flags/begin_search/find_keys/notes`.
fn key_fact(text: &'static str) -> KeyFact {
    let mut parts = text.splitn(4, '/');
    let mut part = || parts.next().unwrap_or_default();
    let flags = KeyFlags::parse(part()).expect("a key flag of table.tsv is known to flags.rs");
    let begin: Vec<&'static str> = part().split(':').collect();
    let begin = match begin.as_slice() {
        ["index", at] => BeginSearch::Index(number(at, text)),
        ["keyword", word, from] => BeginSearch::Keyword {
            word,
            start_from: number(from, text),
        },
        _ => BeginSearch::Unknown,
    };
    let find: Vec<&'static str> = part().split(':').collect();
    let find = match find.as_slice() {
        ["range", last, step, limit] => FindKeys::Range {
            last: number(last, text),
            step: number(step, text),
            limit: number(limit, text),
        },
        ["keynum", at, first, step] => FindKeys::Keynum {
            number_at: number(at, text),
            first: number(first, text),
            step: number(step, text),
        },
        _ => FindKeys::Unknown,
    };
    KeyFact {
        flags,
        begin,
        find,
        notes: part(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Class;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for spec in all() {
            let found = match spec.facts.parent.and_then(by_id) {
                None => lookup(spec.name.to_ascii_uppercase().as_bytes()),
                Some(parent) => subcommand(
                    parent,
                    spec.name.as_bytes()[parent.name.len() + 1..]
                        .to_ascii_uppercase()
                        .as_slice(),
                ),
            };
            assert_eq!(found.map(|found| found.id), Some(spec.id), "{}", spec.name);
            assert_eq!(by_id(spec.id).map(|found| found.name), Some(spec.name));
        }
        assert!(
            lookup(b"gEt")
                .is_some_and(|spec| spec.class == Class::Single && spec.keys == KeySpec::Fixed { pos: 1 })
        );
    }

    #[test]
    fn near_names_are_not_found() {
        for name in [
            &b""[..],
            b"GET\0",
            b"GET ",
            b" GET",
            b"GE",
            b"GETT",
            b"ZREVRANGEBYSCORF",
            b"config|get",
            b"sentinel",
        ] {
            assert!(lookup(name).is_none(), "{}", name.escape_ascii());
        }
        assert!(lookup(&[b'G' | 0x80, b'E', b'T']).is_none());
        assert!(lookup(&vec![b'a'; 1 << 20]).is_none());
    }

    #[test]
    fn upper_case_touches_letters_only() {
        for byte in 0..=u8::MAX {
            let word = u64::from_le_bytes([byte; 8]);
            assert_eq!(
                upper(word).to_le_bytes(),
                [byte.to_ascii_uppercase(); 8],
                "{byte}"
            );
        }
    }

    #[test]
    fn the_head_is_the_first_eight_bytes_of_a_name_of_any_length() {
        let name = b"GEORADIUSB";
        for len in 0..=name.len() {
            let mut expected = [0; 8];
            expected[..len.min(8)].copy_from_slice(&name[..len.min(8)]);
            assert_eq!(
                head(&name[..len].to_ascii_lowercase()).to_le_bytes(),
                expected,
                "{len}"
            );
        }
    }

    #[test]
    fn lookups_find_their_place_soon() {
        let names = all().iter().filter(|spec| spec.facts.parent.is_none());
        let steps = names.map(|spec| {
            let name = spec.name.as_bytes();
            let first = place_of(head(name), name.len());
            (0..)
                .find(|step| BUILT.places[(first + step) % PLACES].row == spec.id.0)
                .unwrap()
        });
        let steps: Vec<usize> = steps.collect();
        assert!(
            steps.iter().sum::<usize>() * 4 < steps.len(),
            "a poor hash: {steps:?}"
        );
    }

    #[test]
    fn what_changes_a_connection_that_clients_share_is_never_forwarded() {
        for spec in all() {
            match spec.class {
                Class::Single | Class::Iterate | Class::SameShard | Class::Split(_) | Class::FanOut(_) => {}
                Class::Local(_)
                | Class::Transaction(_)
                | Class::Blocking
                | Class::Script(_)
                | Class::PubSub(_)
                | Class::Helper(_)
                | Class::Refused(_) => continue,
            }
            let script = spec.name.starts_with("script|") || spec.name.starts_with("function|");
            for flag in [Flags::ADMIN, Flags::PUBSUB, Flags::NO_AUTH, Flags::NO_MULTI] {
                assert!(
                    !spec.flags.has(flag),
                    "{} is {:?}",
                    spec.name,
                    flag.words().next()
                );
            }
            assert!(
                script || !spec.flags.has(Flags::NOSCRIPT),
                "{} is not for scripts, so it is about connections",
                spec.name
            );
            assert!(
                spec.rules || !spec.flags.has(Flags::BLOCKING),
                "{} may block",
                spec.name
            );
        }
    }

    #[test]
    fn every_command_is_judged_once() {
        let names = policy::all_names();
        for spec in all() {
            let times = names.iter().filter(|name| **name == spec.name).count();
            assert_eq!(
                times, 1,
                "{} must be named once in policy.rs, and is {times} times",
                spec.name
            );
        }
        for name in names {
            assert!(
                all().iter().any(|spec| spec.name == name),
                "policy.rs names {name}, which no server has"
            );
        }
    }

    #[test]
    fn single_commands_have_one_fixed_key_and_their_arity_covers_it() {
        for spec in all() {
            match (spec.class, spec.keys) {
                (Class::Single, KeySpec::Fixed { pos }) => assert!(spec.args_min > pos, "{}", spec.name),
                (Class::Iterate, KeySpec::Fixed { pos: 1 }) => assert!(spec.args_min > 2, "{}", spec.name),
                (Class::Single | Class::Iterate, _) => {
                    panic!("{} is Single, and has no key at a fixed position", spec.name)
                }
                (Class::SameShard | Class::Split(_), KeySpec::None | KeySpec::Fixed { .. }) => {
                    panic!("{} is for several keys, and has {:?}", spec.name, spec.keys);
                }
                (Class::FanOut(_) | Class::Local(_), keys) => {
                    assert_eq!(keys, KeySpec::None, "{}", spec.name)
                }
                _ => {}
            }
        }
    }
}

//! What preshard says of its commands: `COMMAND …`, `X HELP`, `ACL CAT`, in the shape that Redis gives them.
//!
//! Only what is supported is told, so that a client which asks first never hears of a command that it would be
//! refused. A container is told with the subcommands that are supported.

use super::flags::{Categories, Flags, KeyFlags};
use super::glob::glob_matches;
use super::keys::{follow, keys};
use super::resolve::name;
use super::spec::{BeginSearch, Class, Cluster, FindKeys, KeyFact, KeySpec, Local, Spec, Special};
use super::table::{all, by_id, lookup, subcommand};
use super::{KeyError, docs};
use crate::resp::{Args, Value};

/// The reply to a command that this table alone can answer; `None` for any other.
#[must_use]
pub fn introspect(spec: &Spec, args: &Args<'_>) -> Option<Value> {
    let Class::Local(local) = spec.class else {
        return None;
    };

    match local {
        Local::Command => Some(Value::Array(listed_commands().map(info).collect())),
        Local::CommandCount => Some(Value::Int(
            i64::try_from(listed_commands().count()).unwrap_or(i64::MAX),
        )),
        Local::CommandInfo => Some(infos(args)),
        Local::CommandDocs => Some(docs::docs(args)),
        Local::CommandList => Some(list(args)),
        Local::CommandGetkeys => Some(getkeys(args, false)),
        Local::CommandGetkeysandflags => Some(getkeys(args, true)),
        Local::Help | Local::Cluster(Cluster::Help) => Some(help(spec)),
        Local::AclCat => Some(acl_cat(args)),
        _ => None,
    }
}

/// Whether `COMMAND` tells of it: it is supported, or one of its subcommands is. Admin commands are not for clients.
pub(super) fn is_listed(spec: &Spec) -> bool {
    let own = spec.is_supported() && spec.class != Class::Local(Local::Preshard);
    own || spec
        .facts
        .subcommands
        .iter()
        .filter_map(|&id| by_id(id))
        .any(Spec::is_supported)
}

/// Listed commands that are no subcommands.
pub(super) fn listed_commands() -> impl Iterator<Item = &'static Spec> {
    all()
        .iter()
        .filter(|spec| spec.facts.parent.is_none() && is_listed(spec))
}

/// Listed subcommands of a container.
pub(super) fn listed_subcommands(spec: &Spec) -> impl Iterator<Item = &'static Spec> {
    spec.facts
        .subcommands
        .iter()
        .filter_map(|&id| by_id(id))
        .filter(|spec| is_listed(spec))
}

/// A command by the name that `COMMAND INFO` takes: `get`, `config|get`.
pub(super) fn by_full_name(name: &[u8]) -> Option<&'static Spec> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let container = lookup(parts.next()?)?;
    let spec = parts
        .next()
        .map_or(Some(container), |name| subcommand(container, name))?;
    is_listed(spec).then_some(spec)
}

pub(super) fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

fn words(words: impl Iterator<Item = &'static str>) -> Value {
    Value::Set(words.map(|word| Value::Simple(word.into())).collect())
}

fn error(text: &str) -> Value {
    Value::Error(text.to_owned())
}

// === COMMAND, COMMAND INFO ===

fn infos(args: &Args<'_>) -> Value {
    if args.len() == 2 {
        return Value::Array(listed_commands().map(info).collect());
    }
    Value::Array(
        args.iter()
            .skip(2)
            .map(|name| by_full_name(name).map_or(Value::NullArray, info))
            .collect(),
    )
}

fn info(spec: &'static Spec) -> Value {
    let categories = spec
        .facts
        .categories
        .words()
        .map(|word| Value::Simple(format!("@{word}").into()));
    let [first, last, step] = spec
        .facts
        .positions
        .map(|position| Value::Int(i64::from(position)));
    Value::Array(vec![
        bulk(spec.name),
        Value::Int(i64::from(spec.arity)),
        words(spec.flags.words()),
        first,
        last,
        step,
        Value::Set(categories.collect()),
        Value::Set(
            spec.facts
                .tips
                .split(' ')
                .filter(|tip| !tip.is_empty())
                .map(bulk)
                .collect(),
        ),
        Value::Set(spec.facts.keys.iter().map(key_fact).collect()),
        Value::Set(listed_subcommands(spec).map(info).collect()),
    ])
}

fn key_fact(fact: &KeyFact) -> Value {
    let numbers = |pairs: &[(&str, i32)]| {
        Value::Map(
            pairs
                .iter()
                .map(|&(name, number)| (bulk(name), Value::Int(i64::from(number))))
                .collect(),
        )
    };
    let typed = |name, spec| Value::Map(vec![(bulk("type"), bulk(name)), (bulk("spec"), spec)]);
    let begin = match fact.begin {
        BeginSearch::Index(at) => typed("index", numbers(&[("index", at)])),
        BeginSearch::Keyword { word, start_from } => {
            let from = Value::Int(i64::from(start_from));
            typed(
                "keyword",
                Value::Map(vec![(bulk("keyword"), bulk(word)), (bulk("startfrom"), from)]),
            )
        }
        BeginSearch::Unknown => typed("unknown", numbers(&[])),
    };
    let find = match fact.find {
        FindKeys::Range { last, step, limit } => typed(
            "range",
            numbers(&[("lastkey", last), ("keystep", step), ("limit", limit)]),
        ),
        FindKeys::Keynum {
            number_at,
            first,
            step,
        } => typed(
            "keynum",
            numbers(&[("keynumidx", number_at), ("firstkey", first), ("keystep", step)]),
        ),
        FindKeys::Unknown => typed("unknown", numbers(&[])),
    };
    let notes = (!fact.notes.is_empty()).then(|| (bulk("notes"), bulk(fact.notes)));
    let rest = [
        (bulk("flags"), words(fact.flags.words())),
        (bulk("begin_search"), begin),
        (bulk("find_keys"), find),
    ];
    Value::Map(notes.into_iter().chain(rest).collect())
}

// === COMMAND LIST, ACL CAT ===

/// Commands and subcommands, filtered.
fn list(args: &Args<'_>) -> Value {
    if args.len() == 2 {
        return names(|_| true);
    }
    if args.len() != 5 || !args.get(2).eq_ignore_ascii_case(b"FILTERBY") {
        return error("ERR syntax error");
    }
    let wanted = args.get(4);
    match args.get(3).to_ascii_uppercase().as_slice() {
        // Modules are the nodes' own; what they bring is not told by name.
        b"MODULE" => names(|_| false),
        b"ACLCAT" => Categories::word(wanted).map_or(Value::Array(Vec::new()), |category| {
            names(|spec| spec.facts.categories.has(category))
        }),
        b"PATTERN" => names(|spec| glob_matches(wanted, spec.name.as_bytes(), true)),
        _ => error("ERR syntax error"),
    }
}

fn names(wanted: impl Fn(&Spec) -> bool) -> Value {
    Value::Array(
        all()
            .iter()
            .filter(|spec| is_listed(spec) && wanted(spec))
            .map(|spec| bulk(spec.name))
            .collect(),
    )
}

fn acl_cat(args: &Args<'_>) -> Value {
    let Some(category) = args.try_get(2) else {
        return Value::Array(Categories(u32::MAX).words().map(bulk).collect());
    };
    if args.len() > 3 {
        return error("ERR unknown subcommand or wrong number of arguments for 'CAT'. Try ACL HELP.");
    }
    Categories::word(category).map_or_else(
        || {
            error(&format!(
                "ERR Unknown category '{}'",
                String::from_utf8_lossy(&category[..category.len().min(128)])
            ))
        },
        |category| names(|spec| spec.facts.categories.has(category)),
    )
}

// === COMMAND GETKEYS, COMMAND GETKEYSANDFLAGS ===

fn getkeys(args: &Args<'_>, with_flags: bool) -> Value {
    let ranges: Vec<_> = (2..args.len()).filter_map(|at| args.range(at)).collect();
    let inner = Args::new(args.frame(), &ranges);
    let Ok(spec) = name(&inner) else {
        return error("ERR Invalid command specified");
    };
    if spec.keys == KeySpec::None {
        return error("ERR The command has no key arguments");
    }
    let len = i64::try_from(inner.len()).unwrap_or(i64::MAX);
    let arity = i64::from(spec.arity);
    if arity > 0 && len != arity || len < -arity {
        return error("ERR Invalid number of arguments specified for command");
    }
    let mut found = Vec::new();
    if keys(spec, &inner, &mut found).is_err() && !spec.flags.has(Flags::NO_MANDATORY_KEYS) {
        return error("ERR Invalid arguments specified for command");
    }
    let flags = if with_flags {
        key_flags(spec, &inner, &found).unwrap_or_default()
    } else {
        Vec::new()
    };
    let key = |at: u32| Value::Bulk(inner.get(at as usize).to_vec());
    Value::Array(if with_flags {
        let with = found
            .iter()
            .zip(flags)
            .map(|(&at, flags)| Value::Array(vec![key(at), words(flags.words())]));
        with.collect()
    } else {
        found.iter().map(|&at| key(at)).collect()
    })
}

/// What is done with each of the keys that [`keys`] has found.
///
/// # Errors
/// The arguments cannot be right.
pub fn key_flags(spec: &Spec, args: &Args<'_>, found: &[u32]) -> Result<Vec<KeyFlags>, KeyError> {
    let facts = &spec.facts.keys;
    let first = facts.first().map(|fact| fact.flags).unwrap_or_default();
    match spec.keys {
        KeySpec::None => Ok(Vec::new()),
        KeySpec::Fixed { .. } => Ok(vec![variable_flags(spec, args).unwrap_or(first)]),
        KeySpec::Walk => {
            let mut flags = Vec::with_capacity(found.len());
            let mut part = Vec::new();
            for fact in facts {
                part.clear();
                follow(spec, fact, args, &mut part)?;
                flags.extend(part.iter().map(|_| fact.flags));
            }
            Ok(flags)
        }
        KeySpec::Special(Special::Sort | Special::Georadius | Special::Georadiusbymember) => {
            let destination = KeyFlags::OW.with(KeyFlags::UPDATE);
            Ok(found
                .iter()
                .enumerate()
                .map(|(i, _)| if i == 0 { first } else { destination })
                .collect())
        }
        KeySpec::Special(Special::Xread | Special::Xreadgroup | Special::Migrate) => {
            Ok(vec![first; found.len()])
        }
    }
}

/// Commands of which an option decides what is done with the key.
fn variable_flags(spec: &Spec, args: &Args<'_>) -> Option<KeyFlags> {
    let reads_and_writes = KeyFlags::RW.with(KeyFlags::ACCESS).with(KeyFlags::UPDATE);
    match spec.name {
        "set" => {
            let reads = args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"GET"));
            Some(if reads {
                reads_and_writes
            } else {
                KeyFlags::OW.with(KeyFlags::UPDATE)
            })
        }
        "bitfield" => {
            let mut at = 2;
            while args.get(at).eq_ignore_ascii_case(b"GET") && at + 2 < args.len() {
                at += 3;
            }
            let only_reads = at >= args.len();
            Some(if only_reads {
                KeyFlags::RO.with(KeyFlags::ACCESS)
            } else {
                reads_and_writes
            })
        }
        _ => None,
    }
}

// === HELP ===

/// What a container's `HELP` says: the subcommands that are supported, with their summaries.
fn help(spec: &Spec) -> Value {
    let Some(container) = spec.facts.parent.and_then(by_id) else {
        return error("ERR no help for this command");
    };
    let title = container.title();
    let mut lines = vec![format!(
        "{title} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    )];
    for subcommand in listed_subcommands(container).filter(|other| other.id != spec.id) {
        lines.push(subcommand.title()[title.len() + 1..].to_owned());
        lines.push(format!("    {}", subcommand.facts.summary));
    }
    lines.extend(["HELP".to_owned(), "    Print this help.".to_owned()]);
    Value::Array(lines.into_iter().map(|line| Value::Simple(line.into())).collect())
}

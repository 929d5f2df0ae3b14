//! `PRESHARD SHOW COMMANDS [UNSUPPORTED]`: how each command is served, or why it is not.

use std::collections::BTreeMap;

use super::AdminContext;
use super::value::{int, row, shown, text};
use super::words::is;
use crate::command::{self, Class, Spec};
use crate::resp::{Args, Value};

pub(super) fn commands(context: &AdminContext, args: &Args<'_>, rest: usize) -> Result<Value, String> {
    let unsupported = match args.try_get(rest) {
        None => false,
        Some(word) if is(word, "UNSUPPORTED") => true,
        Some(word) => {
            return Err(format!(
                "ERR unknown option '{}'. Usage: PRESHARD SHOW COMMANDS [UNSUPPORTED]",
                shown(word)
            ));
        }
    };
    let metrics = &context.shared.metrics;
    let calls: BTreeMap<&str, u64> = if unsupported {
        metrics.unsupported_calls()
    } else {
        metrics.command_calls()
    }
    .into_iter()
    .collect();
    let specs = command::all()
        .iter()
        .filter(|spec| is_listed(spec) && spec.is_supported() != unsupported);
    let rows = specs.map(|spec| {
        let calls = int(calls.get(spec.name).copied().unwrap_or(0));
        let (how, why) = service(spec);
        let name = ("command", text(spec.title().to_ascii_lowercase()));
        if unsupported {
            row([
                name,
                ("state", text(how)),
                ("reason", text(why)),
                ("calls", calls),
            ])
        } else {
            row([
                name,
                ("strategy", text(how)),
                ("group", text(spec.facts.group)),
                ("calls", calls),
            ])
        }
    });
    Ok(Value::Array(rows.collect()))
}

/// A container is only the way to its subcommands.
fn is_listed(spec: &Spec) -> bool {
    !spec.container || spec.facts.subcommands.is_empty() || spec.is_supported()
}

/// One word for how a command is served, and the reason if it is not.
pub(super) const fn service(spec: &Spec) -> (&'static str, &'static str) {
    match spec.class {
        Class::Single => ("single", ""),
        Class::SameShard => ("same-shard", ""),
        Class::Split(_) => ("split", ""),
        Class::FanOut(_) => ("fan-out", ""),
        Class::Local(_) => ("local", ""),
        Class::Transaction(_) => ("transaction", ""),
        Class::Blocking => ("blocking", ""),
        Class::Script(_) => ("script", ""),
        Class::PubSub(_) => ("pub/sub", ""),
        Class::NotYet(why) => ("not-yet", why),
        Class::Refused(why) => ("refused", why),
    }
}

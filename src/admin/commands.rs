//! `PRESHARD SHOW COMMANDS [UNSUPPORTED]`: how each command is served, or why it is not.

use std::collections::BTreeMap;

use super::AdminContext;
use super::value::{int, row, shown, text};
use super::words::is;
use crate::command;
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
        .filter(|spec| !spec.only_leads_on() && spec.is_supported() != unsupported);
    let rows = specs.map(|spec| {
        let calls = int(calls.get(spec.name).copied().unwrap_or(0));
        let (how, why) = (spec.class.word(), spec.class.reason());
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

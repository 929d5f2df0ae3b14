//! SLOWLOG: requests of this proxy that took long, in the shape that Redis gives them.

use super::{number, ok};
use crate::command::Local;
use crate::resp::{Args, Value};
use crate::worker::engine::Engine;
use crate::worker::slowlog::SlowEntry;

/// Entries that `SLOWLOG GET` shows if it does not say.
const SHOWN: usize = 10;

impl Engine {
    pub(super) fn slowlog(&self, local: Local, args: &Args<'_>) -> Value {
        let slowlog = &self.shared.slowlog;
        match local {
            Local::SlowlogLen => Value::Int(i64::try_from(slowlog.len()).unwrap_or(i64::MAX)),
            Local::SlowlogReset => {
                slowlog.reset();
                ok()
            }
            _ => count(args).map_or_else(Value::error, |count| {
                let entries = slowlog.newest(count);
                Value::Array(entries.iter().map(|entry| shape(entry)).collect())
            }),
        }
    }
}

/// How many entries are asked for.
fn count(args: &Args<'_>) -> Result<usize, String> {
    if args.len() > 3 {
        return Err(super::wrong_subcommand(args));
    }
    let Some(count) = args.try_get(2) else {
        return Ok(SHOWN);
    };
    match number(count) {
        Some(-1) => Ok(usize::MAX),
        Some(count) if count >= 0 => Ok(usize::try_from(count).unwrap_or(usize::MAX)),
        Some(_) | None => Err("ERR count should be greater than or equal to -1".to_owned()),
    }
}

fn shape(entry: &SlowEntry) -> Value {
    let int = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    Value::Array(vec![
        int(entry.id),
        int(entry.at),
        int(u64::from(entry.took_us)),
        Value::Array(entry.args.iter().map(|arg| Value::bulk(arg.clone())).collect()),
        Value::bulk(entry.address.as_str()),
        Value::bulk(entry.name.as_str()),
    ])
}

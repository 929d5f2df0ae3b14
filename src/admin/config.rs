//! `PRESHARD SHOW CONFIG`, `PRESHARD CONFIG …`: the settings in force, and how they are changed while serving.

use super::AdminContext;
use super::value::{row, shown, text};
use crate::command;
use crate::config::keys::Key;
use crate::control::Change;
use crate::resp::{Args, Value};

/// `SHOW CONFIG`: one row a key of the config file. `state` is `set` for what was set while serving and does not stand in
/// the file, and `restart` where the file has another value (`file`) that waits for a restart.
pub(super) fn show(context: &AdminContext) -> Value {
    let waiting = context.live.waiting();
    let rows = context.live.config().settings().into_iter();
    let rows = rows.map(|(key, value)| {
        let waits = waiting.iter().find(|waiting| waiting.key == key);
        let state = if waits.is_some() {
            "restart"
        } else if context.live.is_set(key) {
            "set"
        } else {
            ""
        };
        let file = waits.map(|waiting| waiting.file.clone()).unwrap_or_default();
        row([
            ("key", text(key)),
            ("value", text(value)),
            ("state", text(state)),
            ("file", text(file)),
        ])
    });
    Value::Array(rows.collect())
}

/// `CONFIG GET`: keys with their values.
pub(super) fn select(context: &AdminContext, args: &Args<'_>, rest: usize) -> Value {
    let patterns: Vec<&[u8]> = (rest..args.len()).map(|place| args.get(place)).collect();
    let wanted = |key: &str| {
        patterns
            .iter()
            .any(|pattern| command::glob_matches(pattern, key.as_bytes(), true))
    };
    let settings = context.live.config().settings().into_iter();
    let found = settings.filter(|(key, _)| wanted(key));
    Value::Map(found.map(|(key, value)| (text(key), text(value))).collect())
}

/// `CONFIG SET`.
pub(super) async fn set(context: &AdminContext, key: &[u8], value: &[u8]) -> Result<Value, String> {
    let path = String::from_utf8_lossy(key).to_ascii_lowercase();
    let key = Key::find(&path)
        .ok_or_else(|| format!("ERR there is no key {}; see SHOW CONFIG", shown(path.as_bytes())))?;
    let value = std::str::from_utf8(value).map_err(|_| "ERR values are UTF-8".to_owned())?;
    let change = context.live.set(key, value).await;
    let change = change.map_err(|why| format!("ERR {why}; nothing was changed"))?;
    Ok(told(
        change,
        &["the file is not changed: a reload or a restart ends this"],
    ))
}

/// `CONFIG RELOAD`.
pub(super) async fn reload(context: &AdminContext) -> Result<Value, String> {
    let change = context.live.reload("PRESHARD CONFIG RELOAD").await;
    let change = change.map_err(|why| format!("ERR {why}; nothing was changed"))?;
    Ok(told(change, &[]))
}

/// What is in force now, what waits for a restart, and what there is to say about it.
fn told(change: Change, notes: &[&str]) -> Value {
    let list = |lines: Vec<String>| Value::Array(lines.into_iter().map(text).collect());
    let applied = change.applied.into_iter();
    let restart = change.restart.into_iter();
    let mut notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
    notes.extend(change.warnings);
    row([
        (
            "applied",
            list(applied.map(|(key, value)| format!("{key} = {value}")).collect()),
        ),
        (
            "restart",
            list(
                restart
                    .map(|waiting| format!("{} = {}", waiting.key, waiting.file))
                    .collect(),
            ),
        ),
        ("notes", list(notes)),
    ])
}

//! `PRESHARD HELP [noun]`, `PRESHARD <noun> HELP`: the table of words as lines, in the shape of Redis's own HELP.

use super::value::shown;
use super::words::{WORDS, Word, is};
use crate::resp::{Args, Value};

/// All words, or those of the noun that is asked for.
pub(super) fn help(args: &Args<'_>, rest: usize) -> Result<Value, String> {
    let Some(noun) = args.try_get(rest) else {
        let head = "PRESHARD <noun> [<verb> [<argument> ...]]. Words are:".to_owned();
        return Ok(lines(head, WORDS.iter()));
    };
    match WORDS.iter().find(|word| is(noun, word.noun)) {
        Some(word) => Ok(of_noun(word.noun)),
        None => Err(format!(
            "ERR there is no word '{}'. Try PRESHARD HELP.",
            shown(noun)
        )),
    }
}

/// The words of one noun.
pub(super) fn of_noun(noun: &'static str) -> Value {
    let head = format!("PRESHARD {noun}. Words are:");
    lines(head, WORDS.iter().filter(|word| word.noun == noun))
}

fn lines(head: String, words: impl Iterator<Item = &'static Word>) -> Value {
    let line = |text: String| Value::Simple(text.into());
    let mut lines = vec![line(head)];
    for word in words {
        let typed = word.line();
        let typed = typed.strip_prefix("PRESHARD ").unwrap_or(&typed);
        let later = if word.is_served() {
            ""
        } else {
            " (not in this version)"
        };
        lines.push(line(typed.to_owned()));
        lines.push(line(format!("    {}{later}", word.what)));
    }
    Value::Array(lines)
}

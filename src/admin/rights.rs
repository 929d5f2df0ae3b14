//! Who may say which word: the right `admin` all, the right `monitor` those that change nothing.
//!
//! A word that is not named here needs the admin right, so that a new one is nobody's by accident.

use super::words::{self, Word};
use crate::acl::Rights;
use crate::resp::Args;

/// Words that change nothing: `SHOW` of anything, and these.
const CHANGE_NOTHING: [&str; 13] = [
    "HELP",
    "VERSION",
    "INFO",
    "CHECK",
    "EXPLAIN",
    "SHARD INFO",
    "SHARD OF",
    "TOPOLOGY DUMP",
    "TOPOLOGY EPOCH",
    "PLAN SHOW",
    "TASK LIST",
    "TASK STATUS",
    "CONFIG GET",
];

fn changes_nothing(word: &Word) -> bool {
    word.noun == "SHOW" || word.verb == "HELP" || CHANGE_NOTHING.contains(&word.path().as_str())
}

/// Why a request may not be answered for these rights. Whether there is such a word is none of them.
pub(super) fn refusal(rights: Rights, args: &Args<'_>) -> Option<String> {
    if rights.has(Rights::ADMIN) {
        return None;
    }
    let Ok((word, _)) = words::find(args) else {
        return None;
    };
    if rights.may_administer() && changes_nothing(word) {
        return None;
    }
    Some(format!(
        "NOPERM this user has no permissions to run PRESHARD {}; it needs the right admin",
        word.path()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::WORDS;

    #[test]
    fn what_is_named_exists_and_no_word_that_acts_is_named() {
        for path in CHANGE_NOTHING {
            assert!(WORDS.iter().any(|word| word.path() == path), "{path}");
        }
        for path in [
            "SHARD MOVE",
            "NODE ADD",
            "TASK CANCEL",
            "CONFIG SET",
            "TOPOLOGY LOAD",
        ] {
            let word = WORDS.iter().find(|word| word.path() == path).unwrap();
            assert!(!changes_nothing(word), "{path}");
        }
    }
}

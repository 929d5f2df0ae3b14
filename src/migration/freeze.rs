//! The freeze itself: what takes a unit's rights away, and what the answer to it proves.

use super::cutover::Failure;
use crate::control::fence::{Words, words};
use crate::control::{Mistake, makes};
use crate::resp::Value;

/// What takes all rights from a unit's user. `SELECT` is left: a link that cannot switch its database is broken, not refused.
pub(super) fn freeze_words(user: &str) -> Words {
    if makes(Mistake::DeletesToFreeze) {
        return words(["ACL", "DELUSER", user]);
    }
    if makes(Mistake::FreezeReads) {
        return words(["ACL", "SETUSER", user, "-@all", "+@read", "+select", "+ping"]);
    }
    words(["ACL", "SETUSER", user, "-@all", "+select", "+ping"])
}

/// The offset behind which nothing of the unit can be: if the source is the primary that was copied.
pub(super) fn frozen_offset(replies: &[Value], replid: &str) -> Result<u64, Failure> {
    let info = replies.last().and_then(Value::as_bytes).unwrap_or_default();
    let info = String::from_utf8_lossy(info);
    let field = |name: &str| {
        let mut lines = info.lines();
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    if field("role") != Some("master") {
        return Err(Failure::Final("the source is no primary any more".to_owned()));
    }
    if field("master_replid") != Some(replid) && !makes(Mistake::IgnoresRun) {
        return Err(Failure::Final(
            "the source has another history than the copy".to_owned(),
        ));
    }
    let offset = field("master_repl_offset").and_then(|offset| offset.parse().ok());
    offset.ok_or_else(|| Failure::Final("the source does not say its offset".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_another_history_is_not_frozen_at_any_offset() {
        let info = |text: &str| [Value::OK, Value::bulk(text)];
        let good = "role:master\r\nmaster_replid:abc\r\nmaster_repl_offset:42\r\n";
        assert_eq!(frozen_offset(&info(good), "abc").unwrap(), 42);
        assert!(frozen_offset(&info(good), "abd").is_err());
        assert!(frozen_offset(&info("role:slave\r\n"), "abc").is_err());
        assert!(frozen_offset(&[], "abc").is_err());
    }
}

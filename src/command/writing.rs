//! What may change data or publish, as `CLIENT PAUSE … WRITE` understands it.

use super::spec::{Class, Spec};

/// Whether a command may write. `code` is that of a script, where it is known: one that declares `no-writes` does not.
///
/// `PFCOUNT` may write its cache into the key, and messages go to replicas as writes do.
#[must_use]
pub fn may_write(spec: &Spec, code: Option<&[u8]>) -> bool {
    match spec.class {
        Class::Script(_) => !spec.name.ends_with("_ro") && !code.is_some_and(declares_no_writes),
        _ => spec.is_write() || matches!(spec.name, "pfcount" | "publish" | "spublish"),
    }
}

/// Whether the first line of a script says `#!lua flags=no-writes`.
fn declares_no_writes(code: &[u8]) -> bool {
    let end = memchr::memchr(b'\n', code).unwrap_or(code.len());
    let mut words = code[..end]
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    words.next().is_some_and(|engine| engine.starts_with(b"#!"))
        && words
            .filter_map(|word| word.strip_prefix(b"flags="))
            .any(|flags| flags.split(|&byte| byte == b',').any(|flag| flag == b"no-writes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;

    #[test]
    fn what_redis_holds_back_during_a_pause_of_writes() {
        let of = |name: &str| may_write(lookup(name.as_bytes()).unwrap(), None);
        for name in [
            "set", "getex", "sort", "blpop", "flushall", "publish", "spublish", "pfcount", "eval", "evalsha",
            "fcall",
        ] {
            assert!(of(name), "{name}");
        }
        for name in [
            "get",
            "sort_ro",
            "eval_ro",
            "evalsha_ro",
            "fcall_ro",
            "multi",
            "exec",
            "watch",
            "subscribe",
            "wait",
            "xread",
            "dbsize",
            "ping",
        ] {
            assert!(!of(name), "{name}");
        }
    }

    #[test]
    fn a_script_that_declares_no_writes_writes_nothing() {
        let eval = lookup(b"eval").unwrap();
        for (code, writes) in [
            ("return 1", true),
            ("#!lua\nreturn 1", true),
            ("#!lua flags=no-writes\nreturn 1", false),
            ("#!lua name=x flags=allow-stale,no-writes\nreturn 1", false),
            ("#!lua flags=allow-stale\n-- flags=no-writes", true),
            ("return 1 -- flags=no-writes", true),
            ("", true),
        ] {
            assert_eq!(may_write(eval, Some(code.as_bytes())), writes, "{code}");
        }
    }
}

//! What a script says of itself before it runs: does it call something that leaves its database?
//!
//! ```text
//!  redis.call('SELECT', 3)     word behind `call(`, in quotes ──▶ refused, with the word
//!  redis.call(ARGV[1], 3)      nothing to read ──▶ passes: only rights on the node could stop it
//! ```
//!
//! A logical database is no wall on a node: a script that selects another one reads and writes another shard. The
//! scripts that do so by mistake, or without malice, name the command; those are caught here.

/// Commands that no script may call, since they reach what is not its shard's.
const REACHING_OUT: [&[u8]; 6] = [b"select", b"move", b"swapdb", b"migrate", b"flushall", b"copy"];

/// The first command in a script's text that would reach out of its database, in upper case.
///
/// `COPY` counts only where a `DB` stands among its quoted words. The text is read once, from front to back.
#[must_use]
pub fn reaches_out(body: &[u8]) -> Option<&'static str> {
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&body[at..], b"call") {
        at += found + b"call".len();
        let Some((word, behind)) = first_word(&body[at..]) else {
            continue;
        };
        let known = REACHING_OUT
            .iter()
            .position(|known| known.eq_ignore_ascii_case(word));
        let name = match known {
            Some(0) => "SELECT",
            Some(1) => "MOVE",
            Some(2) => "SWAPDB",
            Some(3) => "MIGRATE",
            Some(4) => "FLUSHALL",
            Some(_) if copies_to_other_database(behind) => "COPY … DB",
            Some(_) | None => continue,
        };
        return Some(name);
    }
    None
}

/// Words by which a script may come to the server's commands, or to code that is not in its text.
const WAYS_TO_COMMANDS: [&[u8]; 11] = [
    b"redis", b"server", b"_G", b"_ENV", b"load", b"getfenv", b"setfenv", b"debug", b"require", b"package",
    b"dofile",
];

/// Whether a script cannot touch any key, as its text has no way to the server's commands: it may run anywhere.
#[must_use]
pub fn touches_nothing(body: &[u8]) -> bool {
    // Another language has other words.
    !body.starts_with(b"#!")
        && !WAYS_TO_COMMANDS
            .iter()
            .any(|word| memchr::memmem::find(body, word).is_some())
}

/// Whether the first line of a script is one that a server may choke on: `#!lua` with quotes, escapes or control bytes.
///
/// Redis 7.0 repeats an unknown flag of that line in its error, a line break included, and so answers twice. No engine,
/// name or flag needs such bytes.
#[must_use]
pub fn has_odd_header(body: &[u8]) -> bool {
    let end = memchr::memchr(b'\n', body).unwrap_or(body.len());
    body.starts_with(b"#!")
        && body[..end]
            .iter()
            .any(|&byte| matches!(byte, b'"' | b'\'' | b'\\') || (byte.is_ascii_control() && byte != b'\t'))
}

/// The quoted word that `call` or `pcall` is given first, and what stands behind it. Lua allows a call without
/// parentheses.
fn first_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix(b"(").unwrap_or(text).trim_ascii_start();
    let (close, text): (&[u8], &[u8]) = if let Some(rest) = text.strip_prefix(b"'") {
        (b"'", rest)
    } else if let Some(rest) = text.strip_prefix(b"\"") {
        (b"\"", rest)
    } else {
        (b"]]", text.strip_prefix(b"[[")?)
    };
    // No command that is looked for is longer.
    let end = memchr::memmem::find(&text[..text.len().min(16)], close)?;
    Some((&text[..end], &text[end + close.len()..]))
}

/// Whether a quoted `DB` stands before the parenthesis that ends the call, as far as that can be told.
fn copies_to_other_database(arguments: &[u8]) -> bool {
    // Bounded: or many calls without an end would make this read the rest of the text as many times.
    let arguments = &arguments[..arguments.len().min(256)];
    let end = memchr::memchr2(b')', b'\n', arguments).unwrap_or(arguments.len());
    arguments[..end]
        .split(|&byte| matches!(byte, b',' | b' ' | b'\t'))
        .map(|word| word.trim_ascii().trim_quotes())
        .any(|word| word.eq_ignore_ascii_case(b"db"))
}

trait TrimQuotes {
    fn trim_quotes(&self) -> &[u8];
}

impl TrimQuotes for [u8] {
    fn trim_quotes(&self) -> &[u8] {
        match self {
            [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_script_that_names_a_way_out_of_its_database_is_found() {
        for (body, found) in [
            ("redis.call('SELECT', 3) return 1", Some("SELECT")),
            ("return redis.pcall( \"select\" , ARGV[1])", Some("SELECT")),
            ("redis.call([[Select]], 3)", Some("SELECT")),
            (
                "local c = server.call; c('x') redis.call 'SWAPDB'",
                Some("SWAPDB"),
            ),
            (
                "redis.call('get','a')\nredis.call('MOVE', KEYS[1], 3)",
                Some("MOVE"),
            ),
            ("redis.call('FLUSHALL')", Some("FLUSHALL")),
            ("redis.call('MIGRATE', 'h', 1)", Some("MIGRATE")),
            ("redis.call('COPY', KEYS[1], KEYS[2], 'DB', 3)", Some("COPY … DB")),
            ("redis.call('COPY', KEYS[1], KEYS[2])\nlocal db = 'DB'", None),
            ("return redis.call('GET', 'select')", None),
            ("-- recall select\nreturn redis.call(ARGV[1])", None),
            ("redis.call('FLUSHDB')", None),
            ("", None),
            ("call", None),
            ("call(", None),
            ("call('", None),
            ("call('select", None),
        ] {
            assert_eq!(reaches_out(body.as_bytes()), found, "{body}");
        }
    }

    #[test]
    fn a_script_without_a_way_to_commands_touches_nothing() {
        for (body, nothing) in [
            ("return 1", true),
            ("return {ARGV[1], KEYS[1], cjson.encode({1})}", true),
            ("return redis.call('GET', 'a')", false),
            ("return server.call('GET', 'a')", false),
            ("return _G['re' .. 'dis'].call('GET', 'a')", false),
            ("return getfenv()['re' .. 'dis'].call('GET', 'a')", false),
            ("return loadstring(ARGV[1])()", false),
            ("#!js\nreturn 1", false),
        ] {
            assert_eq!(touches_nothing(body.as_bytes()), nothing, "{body}");
        }
    }

    #[test]
    fn a_header_with_quotes_escapes_or_control_bytes_is_odd() {
        for (body, odd) in [
            ("#!lua flags=no-writes,allow-stale\nreturn 'a\\n'", false),
            ("#!lua name=mine\nreturn 1", false),
            ("return \"a\"", false),
            ("#!lua \"flags=a\\r\\n+INJECTED\"\nreturn 1", true),
            ("#!lua 'flags=a'\nreturn 1", true),
            ("#!lua flags=a\r\nreturn 1", true),
            ("#!lua flags=\u{1}", true),
        ] {
            assert_eq!(has_odd_header(body.as_bytes()), odd, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(body in prop::collection::vec(
            prop::sample::select(vec!["call", "(", "'", "\"", "[[", "]]", "select", "copy", "db", ",", ")", " ", "\n"]),
            0..40,
        )) {
            let body = body.concat();
            let found = reaches_out(body.as_bytes());
            prop_assert!(found.is_none() || body.to_lowercase().contains("select") || body.contains("copy"));
        }
    }
}

//! What a machine can check of the source text: layers, words, reasons, documents. Each message names the remedy.
//!
//! ```text
//!  files ─▶ Source { text, code }      code = text without comments and the insides of strings, line for line
//!             └─▶ one test for each rule ─▶ all its findings at once, as `file:line: what; remedy`
//! ```
//!
//! Generated documents are compared with what they are made of by tests beside their generators.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should stop, loudly, where it is"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room may name only rooms before it. `lib.rs` and `main.rs` are no rooms.
const LAYERS: [&str; 24] = [
    "ids",
    "resp",
    "command",
    "acl",
    "topology",
    "route",
    "merge",
    "helper",
    "plan",
    "rdb",
    "audit",
    "logging",
    "metrics",
    "tls",
    "config",
    "store",
    "worker",
    "control",
    "migration",
    "admin",
    "http",
    "proxy",
    "flush",
    "cli",
];
/// Rooms that only decide, and what they must not reach for.
const DECISIONS: [&str; 11] = [
    "ids", "resp", "command", "acl", "topology", "route", "merge", "helper", "plan", "rdb", "audit",
];
const EFFECTS: [&str; 14] = [
    "tokio",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "ToSocketAddrs",
    "std::fs",
    "std::io",
    "std::thread",
    "std::env",
    "std::process",
    "Instant",
    "SystemTime",
    "fastrand",
    "std::sync::Mutex",
];
/// Words that are refused in identifiers, and the word to use. Redis's own words on the wire are strings.
const WORDS: [(&str, &str); 7] = [
    ("master", "source, or node"),
    ("slave", "replica"),
    ("upstream", "node"),
    ("downstream", "client"),
    ("vnode", "shard"),
    ("src_", "source_"),
    ("dst_", "target_"),
];
/// Redis's error words as the names of their own kind.
const REDIS_WORDS: [&str; 1] = ["MasterDown"];
/// Names in the documents that are not ours: the runtime's and the kernel's.
const FOREIGN_NAMES: [&str; 4] = ["LocalRuntime", "LocalSet", "run_until", "VmSwap"];
/// Tables of Postgres, whose names begin as those of metrics do.
const TABLES: [&str; 2] = ["preshard_flush", "preshard_dead"];
/// A page that names the settings of other people's libraries.
const FOREIGN_PAGE: &str = "docs/CLIENTS.md";
const LINES_MAX: usize = 600;
/// Tests read as a list; they may be somewhat longer.
const TEST_LINES_MAX: usize = 700;
const README_LINES_MAX: usize = 150;

struct Source {
    path: String,
    text: String,
    code: String,
}

// === rules of the code ===

#[test]
fn a_room_names_only_rooms_above_it() {
    let mut found = Vec::new();
    for source in rust("src") {
        let Some(room) = room_of(&source.path) else {
            continue;
        };
        let Some(layer) = LAYERS.iter().position(|name| *name == room) else {
            found.push(format!(
                "{}: the room '{room}' has no layer; add it to LAYERS in tests/tidy.rs",
                source.path
            ));
            continue;
        };
        for (line, code) in numbered(&source.code) {
            if code.contains("crate::{") {
                found.push(format!(
                    "{}:{line}: name one room a line, so that layers can be read",
                    source.path
                ));
            }
            for named in code.split("crate::").skip(1).map(identifier) {
                let other = LAYERS.iter().position(|name| *name == named);
                if other.is_some_and(|other| other > layer) {
                    found.push(format!(
                        "{}:{line}: '{room}' names '{named}', which lies below it; pass in what it needs (a value, a function), or move the code down",
                        source.path
                    ));
                }
            }
        }
    }
    report(&found);
}

#[test]
fn decisions_have_no_effects() {
    let mut found = Vec::new();
    for source in rust("src") {
        if !room_of(&source.path).is_some_and(|room| DECISIONS.contains(&room)) || is_test(&source.path) {
            continue;
        }
        let code = source.code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (line, code) in numbered(code) {
            for effect in EFFECTS.iter().filter(|effect| has_word(code, effect)) {
                found.push(format!(
                    "{}:{line}: '{effect}' in a room that only decides; take the bytes, the time or the chance as an argument",
                    source.path
                ));
            }
        }
    }
    report(&found);
}

#[test]
fn one_word_for_one_thing() {
    let mut found = Vec::new();
    for source in all_rust() {
        for (line, code) in numbered(&source.code) {
            let names = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            for name in names.filter(|name| !REDIS_WORDS.contains(name)) {
                let lower = name.to_lowercase();
                for (word, better) in WORDS {
                    let prefix = word.ends_with('_');
                    if (prefix && lower.starts_with(word)) || (!prefix && lower.contains(word)) {
                        found.push(format!(
                            "{}:{line}: '{name}': say {better} (docs/LEXICON.md)",
                            source.path
                        ));
                    }
                }
            }
        }
    }
    report(&found);
}

#[test]
fn every_file_begins_with_its_story_and_ends_in_time() {
    let mut found = Vec::new();
    for source in all_rust() {
        if !source.text.starts_with("//!") {
            found.push(format!(
                "{}: begin with `//!`: what this file is for",
                source.path
            ));
        }
        let (lines, limit) = (
            source.text.lines().count(),
            if source.path.starts_with("tests") {
                TEST_LINES_MAX
            } else {
                LINES_MAX
            },
        );
        if lines > limit {
            found.push(format!(
                "{}: {lines} lines, {limit} are the limit; cut it at a verb",
                source.path
            ));
        }
    }
    report(&found);
}

#[test]
fn exceptions_have_reasons() {
    let mut found = Vec::new();
    for source in all_rust() {
        for (at, _) in source
            .code
            .match_indices("#[")
            .chain(source.code.match_indices("#!["))
        {
            let attribute = bracketed(&source.code[at..]);
            let name = identifier(attribute.trim_start_matches(['#', '!', '[']));
            let line = source.code[..at].lines().count();
            if matches!(name, "allow" | "expect") && !has_word(attribute, "reason") {
                found.push(format!(
                    "{}:{line}: {name} without a reason; add `reason = \"…\"`",
                    source.path
                ));
            }
            if name == "ignore" && !attribute.contains('=') {
                found.push(format!(
                    "{}:{line}: an ignored test without a reason; run it, or write `#[ignore = \"why\"]`",
                    source.path
                ));
            }
        }
    }
    report(&found);
}

#[test]
fn nothing_is_left_to_do_in_the_text() {
    // Written in halves, so that this file is no finding of its own.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut found = Vec::new();
    for source in all_rust().into_iter().chain(documents()) {
        for (line, text) in numbered(&source.text) {
            if marks.iter().any(|mark| has_word(text, mark)) {
                found.push(format!(
                    "{}:{line}: do it now, or write down where somebody will find it",
                    source.path
                ));
            }
        }
    }
    report(&found);
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = read("Cargo.toml");
    let (mut inside, mut before, mut found) = (false, "", Vec::new());
    for (number, line) in numbered(&manifest) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if inside && line.contains('=') && !before.starts_with('#') {
            found.push(format!(
                "Cargo.toml:{number}: say in a comment above it what '{}' is for",
                identifier(line)
            ));
        }
        before = line;
    }
    report(&found);
}

// === rules of the documents ===

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(
        lines <= README_LINES_MAX,
        "README.md has {lines} lines; move what is not for the first minute to docs/"
    );
}

#[test]
fn every_document_can_be_found() {
    let (readme, map) = (read("README.md"), read("docs/ARCHITECTURE.md"));
    let found: Vec<String> = documents()
        .iter()
        .filter_map(|source| source.path.strip_prefix("docs/"))
        .filter(|path| {
            *path != "ARCHITECTURE.md"
                && !readme.contains(&format!("](docs/{path})"))
                && !map.contains(&format!("]({path})"))
        })
        .map(|path| format!("docs/{path}: link it from README.md or docs/ARCHITECTURE.md"))
        .collect();
    report(&found);
}

#[test]
fn links_lead_somewhere() {
    let mut found = Vec::new();
    for source in documents() {
        let folder = Path::new(&source.path).parent().unwrap();
        for (line, text) in numbered(&source.text) {
            for target in text
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split([')', '#']).next())
            {
                let elsewhere = target.is_empty() || target.contains("://");
                if !elsewhere && !root().join(folder).join(target).exists() {
                    found.push(format!(
                        "{}:{line}: '{target}' does not exist; correct the link",
                        source.path
                    ));
                }
            }
        }
    }
    report(&found);
}

#[test]
fn documents_name_symbols_never_lines() {
    let mut found = Vec::new();
    for source in documents() {
        for (line, text) in numbered(&source.text) {
            let counted = text
                .match_indices(".rs:")
                .any(|(at, mark)| text[at + mark.len()..].starts_with(|c: char| c.is_ascii_digit()));
            if counted || text.contains(".rs#L") {
                found.push(format!(
                    "{}:{line}: a line number is wrong tomorrow; name the function or type",
                    source.path
                ));
            }
        }
    }
    report(&found);
}

/// Names in `code quotes` of the documents that are written by hand.
#[test]
fn documents_name_what_exists() {
    let sources = all_rust();
    let names: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.code.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .collect();
    let metrics = [
        "families",
        "families_control",
        "fleet",
        "access",
        "migration",
        "users",
    ]
    .map(|part| read(&format!("src/metrics/{part}.rs")))
    .concat()
        + &read("src/flush/figures.rs");
    let all: String = sources.iter().map(|source| source.text.as_str()).collect();
    let mut found = Vec::new();
    for source in documents()
        .into_iter()
        .filter(|source| source.path != FOREIGN_PAGE)
    {
        for (line, text) in numbered(&source.text) {
            for quoted in text.split('`').skip(1).step_by(2) {
                if let Some(what) = unknown(quoted, &names, &metrics, &all) {
                    found.push(format!("{}:{line}: `{quoted}`: {what}", source.path));
                }
            }
        }
    }
    report(&found);
}

fn unknown(quoted: &str, names: &BTreeSet<&str>, metrics: &str, all: &str) -> Option<&'static str> {
    let plain = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == '_');
    let path = quoted.trim_end_matches("()").split("::").collect::<Vec<_>>();
    let std = matches!(path.first(), Some(&"std" | &"tokio" | &"clippy"));
    if path.len() > 1
        && !std
        && path.iter().all(|part| plain(part))
        && !path.iter().all(|part| names.contains(part))
    {
        return Some("there is no such name in the code; use the one that is");
    }
    let is_type = quoted.starts_with(char::is_uppercase) && humps(quoted) > 1;
    let is_snake =
        quoted.contains('_') && !quoted.starts_with("preshard_") && !quoted.contains(char::is_uppercase);
    if plain(quoted)
        && !FOREIGN_NAMES.contains(&quoted)
        && (is_type && !names.contains(quoted) || is_snake && !all.contains(quoted))
    {
        return Some("there is no such name in the code; use the one that is");
    }
    let family = quoted.split('{').next().unwrap_or_default();
    let family = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| family.strip_suffix(end))
        .unwrap_or(family);
    if family.starts_with("preshard_")
        && plain(family)
        && !TABLES.contains(&family)
        && !metrics.contains(&format!("\"{family}\""))
    {
        return Some("there is no such metric; see docs/METRICS.md");
    }
    let file = quoted.starts_with("src/")
        || quoted.starts_with("tests/")
        || quoted.starts_with("docs/")
        || quoted.starts_with("benches/");
    (file && !quoted.contains(['*', ' ', '<', 'N']) && !root().join(quoted).exists())
        .then_some("there is no such file; correct the path")
}

/// Capitals that begin a word: 2 in `ShardId`, 1 in `Plan`, 0 in `EXPLAIN`.
fn humps(name: &str) -> usize {
    let letters: Vec<char> = name.chars().collect();
    letters
        .windows(2)
        .filter(|pair| pair[0].is_uppercase() && pair[1].is_lowercase())
        .count()
}

// === reading ===

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rust(folder: &str) -> Vec<Source> {
    files(folder, "rs")
}

fn all_rust() -> Vec<Source> {
    ["src", "tests", "benches"].into_iter().flat_map(rust).collect()
}

/// The documents, those at the top included.
fn documents() -> Vec<Source> {
    let top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"];
    let mut found = files("docs", "md");
    found.extend(top.map(|path| Source {
        path: path.to_owned(),
        text: read(path),
        code: String::new(),
    }));
    found
}

fn files(folder: &str, ending: &str) -> Vec<Source> {
    let mut folders = vec![root().join(folder)];
    let mut paths: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|found| found == ending) {
                paths.push(entry);
            }
        }
    }
    paths.sort();
    let name = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
    paths
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).unwrap()))
        .map(|(path, text)| Source {
            code: code_of(&text),
            path,
            text,
        })
        .collect()
}

fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let room = inside.split('/').next().unwrap_or(inside);
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (!matches!(room, "lib" | "main")).then_some(room)
}

fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/") || path.ends_with("/testing.rs")
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
        .next()
        .unwrap_or_default()
}

fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

/// From the first `[` to the `]` that closes it.
fn bracketed(code: &str) -> &str {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '[' => depth += 1,
            ']' if depth == 1 => return &code[..=at],
            ']' => depth -= 1,
            _ => {}
        }
    }
    code
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// The text with comments and the insides of strings blanked, line for line.
fn code_of(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            '/' if bytes.get(at + 1) == Some(&'/') => position(&bytes, at, |rest| rest[0] == '\n'),
            '/' if bytes.get(at + 1) == Some(&'*') => {
                2 + position(&bytes, at, |rest| rest.starts_with(&['*', '/']))
            }
            'r' if !in_word(&bytes, at) && raw_hashes(&bytes[at + 1..]).is_some() => {
                let hashes = raw_hashes(&bytes[at + 1..]).unwrap();
                let close: Vec<char> = std::iter::once('"')
                    .chain(std::iter::repeat_n('#', hashes))
                    .collect();
                position(&bytes, at + 2 + hashes, |rest| rest.starts_with(&close)) + close.len()
            }
            '"' => quoted_end(&bytes, at, '"'),
            // A character, unless it is a lifetime: those have no closing quote two places on.
            '\'' if bytes.get(at + 1) == Some(&'\\') || bytes.get(at + 2) == Some(&'\'') => {
                quoted_end(&bytes, at, '\'')
            }
            _ => {
                code.push(bytes[at]);
                at += 1;
                continue;
            }
        };
        let end = end.min(bytes.len());
        code.extend(bytes[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

fn position(text: &[char], from: usize, found: impl Fn(&[char]) -> bool) -> usize {
    (from..text.len())
        .find(|at| found(&text[*at..]))
        .unwrap_or(text.len())
}

fn in_word(text: &[char], at: usize) -> bool {
    // `br"…"` is a raw string too.
    let before = |back: usize| at.checked_sub(back).and_then(|at| text.get(at));
    let part = |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric() || *c == '_');
    part(before(1)) && (before(1) != Some(&'b') || part(before(2)))
}

/// How many `#` stand before the quote, if a raw string begins here.
fn raw_hashes(text: &[char]) -> Option<usize> {
    let hashes = text.iter().take_while(|c| **c == '#').count();
    (text.get(hashes) == Some(&'"')).then_some(hashes)
}

fn quoted_end(text: &[char], from: usize, quote: char) -> usize {
    let mut at = from + 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

#[test]
fn strings_and_comments_are_no_code() {
    let text = "let a = \"master\\\" x\"; // slave\nlet c = '\"'; f::<'a>(b'\\'', r#\"up\"stream\"#); /* v\nnode */ let done = 1;";
    let code = code_of(text);
    assert_eq!(code.lines().count(), text.lines().count());
    for word in ["master", "slave", "stream", "node"] {
        assert!(!code.contains(word), "{code}");
    }
    assert!(
        code.contains("let done = 1;") && code.contains("f::<'a>("),
        "{code}"
    );
}

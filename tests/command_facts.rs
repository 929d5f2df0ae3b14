//! The command table against a live server: whatever `redis-server` is found in `PATH`.
//!
//! The server says of itself what its commands are and where their keys lie; the table must say the same, or know that
//! newer servers say something else (its column `older`). When these tests fail after a server was updated, the table
//! is to be generated again: `src/command/generate.py` says how.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail in the words of std"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use preshard::command::{self, KeySpec, Spec};
use preshard::resp::{ArgRange, Args, DecodeLimits, ReplyScanner, Value, decode, write_request};

/// A server of our own, in a temporary folder, reached through a socket file: no port that somebody else may have.
struct Server {
    process: Child,
    folder: PathBuf,
    link: UnixStream,
}

impl Server {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("preshard-facts-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("s");
        let mut process = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
            ])
            .arg("--dir")
            .arg(&folder)
            .arg("--unixsocket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need a redis-server in PATH");
        let mut log = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("eady to accept connections") {
            line.clear();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "redis-server ended before it was ready"
            );
        }
        // Whatever it still says is read, so that it never waits for us.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let link = UnixStream::connect(&socket).unwrap();
        Self {
            process,
            folder,
            link,
        }
    }

    fn ask(&mut self, words: &[impl AsRef<[u8]>]) -> Value {
        let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
        let mut frame = Vec::new();
        write_request(&mut frame, &words);
        self.link.write_all(&frame).unwrap();
        let mut scanner = ReplyScanner::default();
        let mut reply = Vec::new();
        let mut chunk = vec![0; 1 << 16];
        loop {
            let read = self.link.read(&mut chunk).unwrap();
            assert!(read > 0, "the server closed the connection");
            let end = scanner.feed(&chunk[..read]).unwrap();
            reply.extend_from_slice(&chunk[..end.unwrap_or(read)]);
            if end.is_some() {
                return decode(&reply, DecodeLimits::default()).unwrap();
            }
        }
    }

    fn line(&mut self, line: &str) -> Value {
        self.ask(&split(line))
    }

    /// The word that the table has for this server, if it was asked when the table was made.
    fn word(&mut self) -> Option<&'static str> {
        let (Value::Bulk(info) | Value::Verbatim { text: info, .. }) = self.line("INFO server") else {
            panic!("INFO is text");
        };
        let info = String::from_utf8(info).unwrap();
        match info.lines().find_map(|line| line.strip_prefix("redis_version:")) {
            _ if info.contains("server_name:valkey") => {
                info.contains("valkey_version:9.1").then_some("valkey")
            }
            Some(version) if version.starts_with("7.0.") => Some("redis7"),
            Some(version) if version.starts_with("8.2.") => Some("redis8"),
            _ => None,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn split(line: &str) -> Vec<Vec<u8>> {
    line.split(' ')
        .map(|word| {
            if word == "''" {
                Vec::new()
            } else {
                word.as_bytes().to_vec()
            }
        })
        .collect()
}

/// Calls `with` with the arguments of a request.
fn request<T>(words: &[Vec<u8>], with: impl FnOnce(&Args<'_>) -> T) -> T {
    let mut frame = Vec::new();
    let mut ranges = Vec::new();
    for word in words {
        let start = u32::try_from(frame.len()).unwrap();
        frame.extend_from_slice(word);
        ranges.push(ArgRange {
            start,
            end: u32::try_from(frame.len()).unwrap(),
        });
    }
    with(&Args::new(&frame, &ranges))
}

/// What preshard answers from the table.
fn ours(words: &[Vec<u8>]) -> Value {
    request(words, |args| {
        let spec = command::resolve(args).map_err(|refusal| Value::Error(refusal.line()));
        spec.map_or_else(|error| error, |spec| command::introspect(spec, args).unwrap())
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Value::Simple(text) => text.to_string(),
        other => panic!("{other:?} is no text"),
    }
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        other => panic!("{other:?} is no list"),
    }
}

/// The value as text, with the elements of sets in order.
fn sorted(value: &Value) -> String {
    match value {
        Value::Set(values) => {
            let mut texts: Vec<_> = values.iter().map(sorted).collect();
            texts.sort_unstable();
            format!("set{texts:?}")
        }
        Value::Array(values) => format!("{:?}", values.iter().map(sorted).collect::<Vec<_>>()),
        Value::Map(pairs) => format!(
            "{:?}",
            pairs
                .iter()
                .map(|(k, v)| (sorted(k), sorted(v)))
                .collect::<Vec<_>>()
        ),
        // RESP3 has one null.
        Value::NullArray => sorted(&Value::Null),
        other => format!("{other:?}"),
    }
}

/// Whether all servers have it, so that they agree on when it came.
fn spec_is_old(name: &str) -> bool {
    by_name()[name].facts.is_in("redis7")
}

fn by_name() -> BTreeMap<&'static str, &'static Spec> {
    command::all().iter().map(|spec| (spec.name, spec)).collect()
}

/// Every entry of `COMMAND`, subcommands too.
fn entries(value: &Value) -> Vec<&[Value]> {
    let mut found = Vec::new();
    for entry in items(value).iter().map(items) {
        found.push(entry);
        found.extend(entries(&entry[9]));
    }
    found
}

#[test]
fn every_command_of_the_server_is_in_the_table_and_its_facts_are_equal() {
    const COLUMNS: [&str; 9] = [
        "name", "arity", "flags", "first", "last", "step", "acl", "tips", "keys",
    ];
    let mut server = Server::start("facts");
    let word = server.word();
    server.line("HELLO 3");
    let theirs = server.line("COMMAND");
    let our_reply = ours(&split("COMMAND"));
    let our_entries: BTreeMap<_, _> = entries(&our_reply)
        .into_iter()
        .map(|entry| (text(&entry[0]), entry))
        .collect();
    let known = by_name();
    let mut compared = 0;
    for entry in entries(&theirs) {
        let name = text(&entry[0]).to_lowercase();
        let spec = known.get(name.as_str()).unwrap_or_else(|| {
            panic!("the server has {name}, which table.tsv does not know: run src/command/generate.py, then judge it in policy.rs")
        });
        let (Some(word), Some(our_entry)) = (word, our_entries.get(&name)) else {
            continue;
        };
        assert!(spec.facts.is_in(word), "{name}");
        let older: serde_json::Value = serde_json::from_str(spec.facts.older).unwrap_or_default();
        for (at, column) in COLUMNS.iter().enumerate().skip(1) {
            if older[word][column].is_null() {
                assert_eq!(sorted(&our_entry[at]), sorted(&entry[at]), "{column} of {name}");
                compared += 1;
            }
        }
    }
    assert!(word.is_none() || compared > 1000, "{compared} facts compared");
}

#[test]
fn documentation_has_the_shape_that_the_server_gives_it() {
    let mut server = Server::start("docs");
    let word = server.word();
    server.line("HELLO 3");
    let Value::Map(theirs) = server.line("COMMAND DOCS") else {
        panic!("DOCS is a map")
    };
    let Value::Map(ours) = ours(&split("COMMAND DOCS")) else {
        panic!("DOCS is a map")
    };
    let ours: BTreeMap<_, _> = ours.iter().map(|(name, fields)| (text(name), fields)).collect();
    for (name, theirs) in &theirs {
        let name = text(name);
        let (Some(Value::Map(ours)), Value::Map(theirs)) = (ours.get(&name), theirs) else {
            continue;
        };
        for (field, their_value) in theirs {
            let field = text(field);
            let our_value = ours
                .iter()
                .find(|(name, _)| text(name) == field)
                .map(|(_, value)| value);
            match our_value {
                Some(value) => {
                    assert_eq!(
                        std::mem::discriminant(value),
                        std::mem::discriminant(their_value),
                        "{field} of {name}"
                    );
                    if word.is_some() && spec_is_old(&name) && matches!(field.as_str(), "since" | "group") {
                        assert_eq!(value, their_value, "{field} of {name}");
                    }
                }
                // A newer server says less of a command that it likes better now, or knows no subcommand of it.
                None => assert!(
                    matches!(
                        field.as_str(),
                        "subcommands"
                            | "complexity"
                            | "deprecated_since"
                            | "replaced_by"
                            | "doc_flags"
                            | "arguments"
                    ),
                    "{field} of {name} is missing"
                ),
            }
        }
    }
}

#[test]
fn lists_and_refusals_of_introspection_are_those_of_the_server() {
    let mut server = Server::start("lists");
    server.line("HELLO 3");
    for line in [
        "COMMAND LIST",
        "COMMAND LIST FILTERBY ACLCAT geo",
        "COMMAND LIST FILTERBY PATTERN xin*",
        "ACL CAT hash",
    ] {
        let (ours, theirs) = (ours(&split(line)), server.line(line));
        let mut missing: Vec<_> = items(&theirs).iter().map(text).collect();
        let ours: Vec<_> = items(&ours).iter().map(text).collect();
        missing.retain(|name| {
            let spec = by_name()[name.to_lowercase().as_str()];
            !ours.contains(&name.to_lowercase()) && spec.is_supported()
        });
        assert!(missing.is_empty(), "{line} lacks {missing:?}");
    }
    for line in [
        "COMMAND LIST FOO",
        "COMMAND LIST FILTERBY FOO bar",
        "COMMAND LIST FILTERBY MODULE x",
        "COMMAND LIST FILTERBY ACLCAT nope",
        "COMMAND DOCS nope",
        "COMMAND INFO nope",
        "ACL CAT",
        "ACL CAT nope",
        "COMMAND GETKEYS foo x",
        "COMMAND GETKEYS PING x",
        "COMMAND GETKEYS CONFIG foo",
        "COMMAND GETKEYS GET a b",
        "COMMAND GETKEYSANDFLAGS SET a b GET",
        "COMMAND GETKEYSANDFLAGS SET a b",
        "COMMAND GETKEYSANDFLAGS SORT a STORE b",
        "COMMAND GETKEYSANDFLAGS ZUNIONSTORE a 2 b c",
        "COMMAND GETKEYSANDFLAGS BITFIELD a GET u4 0",
        "COMMAND GETKEYSANDFLAGS BITFIELD a GET u4 0 SET u4 0 1",
        "COMMAND GETKEYSANDFLAGS XREAD STREAMS a b 0 0",
        "COMMAND FOO",
        "COMMAND COUNT x",
    ] {
        assert_eq!(sorted(&ours(&split(line))), sorted(&server.line(line)), "{line}");
    }
}

/// Argument lists for a command: all lengths from the shortest up, numbers where a number of keys may stand. (Numbers
/// like `01` are left out: `GETKEYS` takes them, and the commands refuse them, as we do.)
fn requests_of(spec: &Spec) -> Vec<Vec<Vec<u8>>> {
    let least = usize::try_from(spec.arity.unsigned_abs()).unwrap();
    let most = if spec.arity < 0 { least + 4 } else { least };
    let name: Vec<Vec<u8>> = spec
        .name
        .split('|')
        .map(|part| part.as_bytes().to_vec())
        .collect();
    let counts = spec
        .facts
        .keys
        .iter()
        .any(|fact| matches!(fact.find, command::FindKeys::Keynum { .. }));
    let numbers: &[&str] = if counts {
        &["-1", "0", "1", "2", "3", "4", "99", "9223372036854775808", "x"]
    } else {
        &["value"]
    };
    let mut requests = Vec::new();
    for len in least..=most {
        for number in numbers {
            let mut words = name.clone();
            for at in words.len()..len {
                words.push(if at <= 2 && counts {
                    (*number).into()
                } else {
                    format!("w{at}").into_bytes()
                });
            }
            requests.push(words);
        }
    }
    requests
}

/// Commands whose options decide: lists that the commands understand. Left out on purpose: `GEORADIUS` with `STORE` and
/// `STOREDIST`, of which `GETKEYS` names both while the command writes the last one only.
const OPTIONS: &[&str] = &[
    "SORT k",
    "SORT k ASC ALPHA",
    "SORT k BY w_* LIMIT 0 5 GET # GET o_*",
    "SORT k STORE d",
    "SORT k STORE a STORE b",
    "SORT k BY store ASC",
    "SORT k GET limit LIMIT 0 1 STORE by",
    "sort k by nosort get * store d desc",
    "SORT_RO k",
    "SORT_RO k BY nosort GET #",
    "XREAD STREAMS a 0",
    "XREAD COUNT 2 STREAMS a b c 0 0 0",
    "XREAD BLOCK 0 COUNT 2 streams streams 0",
    "XREAD COUNT 1 STREAMS STREAMS STREAMS 0 0",
    "XREADGROUP GROUP g c STREAMS a >",
    "XREADGROUP GROUP g c COUNT 1 NOACK STREAMS a b > >",
    "XREADGROUP GROUP streams streams STREAMS streams >",
    "GEORADIUS k 1 2 3 m",
    "GEORADIUS k 1 2 3 m WITHDIST COUNT 5 ANY ASC",
    "GEORADIUS k 1 2 3 m STORE a",
    "GEORADIUS k 1 2 3 m COUNT 1 STOREDIST a",
    "GEORADIUSBYMEMBER k member 3 m",
    "GEORADIUSBYMEMBER k store 3 m STORE a",
    "GEORADIUSBYMEMBER k m 3 m DESC STOREDIST a",
    "MIGRATE h 1 k 0 9",
    "MIGRATE h 1 k 0 9 COPY REPLACE",
    "MIGRATE h 1 '' 0 9 KEYS a b c",
    "MIGRATE h 1 '' 0 9 COPY AUTH p KEYS a",
    "MIGRATE h 1 '' 0 9 AUTH2 u p REPLACE KEYS a b",
    "EVAL script 2 a b c d",
    "EVALSHA x 0",
    "FCALL f 1 a",
    "ZUNIONSTORE d 2 a b WEIGHTS 1 2",
    "ZINTERSTORE d 1 a AGGREGATE MAX",
    "LMPOP 1 a LEFT COUNT 2",
    "ZMPOP 2 a b MIN",
    "BLMPOP 0 2 a b LEFT",
    "BZMPOP 1 1 a MAX",
    "SINTERCARD 2 a b LIMIT 0",
];

#[test]
fn keys_are_those_that_getkeys_finds() {
    let mut server = Server::start("getkeys");
    let mut requests: Vec<_> = OPTIONS.iter().map(|line| split(line)).collect();
    for spec in command::all() {
        let special = matches!(spec.keys, KeySpec::None | KeySpec::Special(_));
        let known = matches!(&server.line(&format!("COMMAND INFO {}", spec.name)), Value::Array(found) if !matches!(found[0], Value::Null | Value::NullArray));
        // Where servers differ in the arity, GETKEYS differs too.
        if known && !special && !spec.facts.older.contains("arity") {
            requests.extend(requests_of(spec));
        }
    }
    // It runs, as its arity and documentation say, but GETKEYS wants a source too.
    requests.retain(|words| words.len() != 2 || !words[0].eq_ignore_ascii_case(b"pfmerge"));
    for words in &requests {
        let words = [vec![b"COMMAND".to_vec(), b"GETKEYS".to_vec()], words.clone()].concat();
        let shown: Vec<_> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
        assert_eq!(ours(&words), server.ask(&words), "{}", shown.join(" "));
    }
    assert!(requests.len() > 500, "{} requests", requests.len());
}

#[test]
fn wrong_numbers_of_keys_are_refused_in_the_words_of_the_server() {
    let mut server = Server::start("numbers");
    let is_redis_7 = server.word() == Some("redis7");
    for line in [
        "EVAL s -1 a",
        "EVAL s 2 a",
        "EVAL s 01 a",
        "LMPOP 01 a LEFT",
        "EVAL s x a",
        "EVAL s 9223372036854775808 a",
        "ZUNION 0 a",
        "ZUNION -1 a",
        "ZUNION 3 a b",
        "ZINTER x a",
        "ZUNIONSTORE d 0 a",
        "ZDIFFSTORE d 2 a",
        "ZINTERCARD 0 a",
        "LMPOP 0 a LEFT",
        "LMPOP x a LEFT",
        "LMPOP 9 a LEFT",
        "ZMPOP -1 a MIN",
        "SINTERCARD 0 a",
        "SINTERCARD 2 a",
        "SINTERCARD x a",
        "XREAD STREAMS a b 0",
        "XREAD COUNT 1 a",
        "SORT k GET",
        "SORT k NONSENSE",
        "SORT_RO k STORE a",
    ] {
        let words = split(line);
        let ours = request(&words, |args| {
            let spec = command::identify(args).unwrap();
            command::keys(spec, args, &mut Vec::new()).unwrap_err().line()
        });
        // Later versions found other words for unbalanced streams.
        if is_redis_7 || !ours.contains("Unbalanced") {
            assert_eq!(Value::Error(ours), server.ask(&words), "{line}");
        }
    }
}

#[test]
fn a_consumer_called_streams_does_not_hide_the_stream() {
    let mut server = Server::start("trap");
    server.line("XADD real 1-1 f v");
    server.line("XGROUP CREATE real g 0");
    let line = "XREADGROUP COUNT 1 GROUP g STREAMS STREAMS real >";
    // The key specification points at the wrong word, and GETKEYS with it; the command reads the stream.
    let reply = format!("{:?}", server.line(line));
    assert!(
        reply.contains(&format!("{:?}", Value::Bulk(b"real".to_vec()))),
        "{reply}"
    );
    let words = split(line);
    request(&words, |args| {
        let mut found = Vec::new();
        command::keys(command::identify(args).unwrap(), args, &mut found).unwrap();
        assert_eq!(found, [7]);
    });
}

#[test]
fn refusals_are_worded_as_the_server_words_them() {
    let mut server = Server::start("words");
    let long = "x".repeat(300);
    for words in [
        vec!["FOO"],
        vec!["foo", "a", "b"],
        vec!["a\r\nb", "c\r\nd", "\n"],
        vec![&long, "a"],
        vec!["FOO", &long, "next"],
        vec!["FOO", &long[..100], &long],
        vec!["FOO", &long[..125], "ab"],
        vec!["FOO", &long[..126], "ab"],
        vec!["CONFIG", "FOO"],
        vec!["object", &long, "k"],
        vec!["client", "MAINT_NOTIFICATIONS", "ON"],
        vec!["GET"],
        vec!["GET", "a", "b"],
        vec!["CONFIG"],
        vec!["OBJECT", "ENCODING"],
        vec!["config", "GET"],
        vec!["MSET", "a", "1", "b"],
        vec!["SENTINEL", "MASTERS"],
    ] {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let ours = request(&words, |args| {
            command::resolve(args).map(|spec| spec.name).unwrap_err().line()
        });
        assert_eq!(
            Value::Error(ours),
            server.ask(&words),
            "{:?}",
            words[0].escape_ascii().to_string()
        );
    }
}

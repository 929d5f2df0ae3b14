//! Values of all types in all encodings that a server has, and what is to be the same on another server.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use preshard::rdb::Family;
use preshard::resp::Value;

use crate::server::{Server, array, bytes};

/// Databases of the source: the ordinary values, those with expiries, hashes with expiring fields.
pub(crate) const PLAIN: u16 = 0;
pub(crate) const EXPIRING: u16 = 3;
pub(crate) const FIELDS: u16 = 5;
/// A database that nobody copies.
pub(crate) const UNWANTED: u16 = 1;

/// Settings that force encodings: nothing packed, the server's own, everything packed.
const PACKINGS: [(&str, [&str; 3]); 3] = [
    ("loose", ["0", "1", "1"]),
    ("usual", ["128", "64", "-2"]),
    ("tight", ["100000", "100000", "-5"]),
];

/// Fills the source.
pub(crate) fn fill(source: &mut Server) {
    // So that snapshots say of each key how recently, or how often, it was used.
    let policy = match source.target.family {
        Family::Redis => "allkeys-lru",
        Family::Valkey => "allkeys-lfu",
    };
    source.well(&format!("CONFIG SET maxmemory-policy {policy}"));
    for (name, [entries, value, list]) in PACKINGS {
        for kind in ["hash", "zset"] {
            source.well(&format!("CONFIG SET {kind}-max-ziplist-entries {entries}"));
            source.well(&format!("CONFIG SET {kind}-max-ziplist-value {value}"));
        }
        source.well(&format!("CONFIG SET list-max-ziplist-size {list}"));
        // Since 7.2.
        source.line(&format!("CONFIG SET set-max-listpack-entries {entries}"));
        source.line(&format!("CONFIG SET set-max-listpack-value {value}"));
        let entries = if name == "loose" { "1" } else { entries };
        source.well(&format!("CONFIG SET set-max-intset-entries {entries}"));
        source.well(&format!("SELECT {PLAIN}"));
        values(source, name);
        collections(source, name);
        streams(source, name);
        source.well(&format!("SELECT {UNWANTED}"));
        collections(source, &format!("other-{name}"));
        if source.target.expires_fields() {
            source.well(&format!("SELECT {FIELDS}"));
            expiring_fields(source, name);
        }
    }
    source.well(&format!("SELECT {EXPIRING}"));
    for (name, at) in [("soon", 60_000_u64), ("later", 86_400_000_000)] {
        let at = 1_900_000_000_000 + at;
        source.ask(&["SET", name, "v"]);
        source.ask(&["PEXPIREAT", name, &at.to_string()]);
        let big: Vec<String> = (0..700).map(|n| format!("element {n}")).collect();
        push(source, &["RPUSH", &format!("list-{name}")], &big);
        source.ask(&["PEXPIREAT", &format!("list-{name}"), &at.to_string()]);
    }
}

/// Sends `words` with all `rest`.
fn push(server: &mut Server, words: &[&str], rest: &[String]) {
    for rest in rest.chunks(200) {
        let all: Vec<&str> = words
            .iter()
            .copied()
            .chain(rest.iter().map(String::as_str))
            .collect();
        let reply = server.ask(&all);
        assert!(!crate::server::is_error(&reply), "{words:?}: {reply:?}");
    }
}

/// Numbers of each width that some encoding has.
const NUMBERS: [&str; 23] = [
    "0",
    "-1",
    "12",
    "127",
    "128",
    "-128",
    "-129",
    "4095",
    "-4096",
    "4096",
    "32767",
    "-32768",
    "32768",
    "8388607",
    "-8388608",
    "8388608",
    "2147483647",
    "-2147483648",
    "2147483648",
    "9223372036854775807",
    "-9223372036854775808",
    "12.5",
    "007",
];

fn values(source: &mut Server, name: &str) {
    let key = |kind: &str| format!("{kind}:{name}");
    for number in NUMBERS {
        source.ask(&["SET", &key(&format!("number {number}")), number]);
    }
    source.ask(&["SET", &key("empty"), ""]);
    source.ask(&[&b"SET"[..], key("binary").as_bytes(), b"\0\r\n\xff$*"]);
    source.ask(&["SET", &key("compressible"), &"abcabcabd".repeat(9_000)]);
    source.ask(&["SET", &key("long"), &noise(150_000)]);
    source.ask(&["SETRANGE", &key("zeros"), "1300000", "end"]);
    source.ask(&["SETBIT", &key("bits"), "7777", "1"]);
    source.ask(&["PFADD", &key("hyperloglog"), "a", "b", "c"]);
}

fn collections(source: &mut Server, name: &str) {
    let key = |kind: &str| format!("{kind}:{name}");
    let mixed: Vec<String> = NUMBERS
        .iter()
        .map(|number| (*number).to_owned())
        .chain((0..40).map(|n| format!("text {n}")))
        .chain([
            String::new(),
            "x".repeat(63),
            "y".repeat(64),
            "z".repeat(300),
            noise(5_000),
        ])
        .collect();
    let many: Vec<String> = (0..700).map(|n| format!("element {n} {}", n * n)).collect();
    for (size, elements) in [("few", &mixed[..7]), ("mixed", &mixed[..]), ("many", &many[..])] {
        push(source, &["RPUSH", &key(&format!("list {size}"))], elements);
        push(source, &["SADD", &key(&format!("set {size}"))], elements);
        let pairs: Vec<String> = elements
            .iter()
            .flat_map(|element| [element.clone(), format!("value of {element}")])
            .collect();
        push(source, &["HSET", &key(&format!("hash {size}"))], &pairs);
        let scored: Vec<String> = elements
            .iter()
            .enumerate()
            .flat_map(|(at, element)| [score(at), element.clone()])
            .collect();
        push(source, &["ZADD", &key(&format!("zset {size}"))], &scored);
    }
    // Longer than a chunk, each in a place of its own.
    let huge = noise(100_000);
    push(
        source,
        &["RPUSH", &key("list huge")],
        &["a".into(), huge.clone(), "b".into()],
    );
    push(source, &["SADD", &key("set huge")], &["a".into(), huge.clone()]);
    push(
        source,
        &["HSET", &key("hash huge")],
        &[huge.clone(), "a".into(), "f".into(), huge.clone()],
    );
    push(
        source,
        &["ZADD", &key("zset huge")],
        &["1.5".into(), huge, "2".into(), "b".into()],
    );
    for (size, count) in [("small", 20_i64), ("large", 1_100)] {
        for (width, factor) in [(16, 3), (32, 70_000), (64, 9_000_000_000)] {
            let numbers: Vec<String> = (-count / 2..count / 2)
                .map(|n| (n * factor).to_string())
                .collect();
            push(
                source,
                &["SADD", &key(&format!("intset {size} {width}"))],
                &numbers,
            );
        }
    }
}

fn score(at: usize) -> String {
    match at % 7 {
        0 => at.to_string(),
        1 => format!("-{at}.25"),
        2 => "inf".into(),
        3 => "-inf".into(),
        4 => "0.1".into(),
        5 => format!("1.7976931348623157e{}", at % 300),
        _ => "3.0000000000000004".into(),
    }
}

fn streams(source: &mut Server, name: &str) {
    let key = format!("stream {name}");
    for n in 1..=300 {
        let id = format!("{n}-{}", n % 3);
        let last = if n % 10 == 0 { "other" } else { "field" };
        source.ask(&[
            "XADD",
            &key,
            &id,
            "field",
            &n.to_string(),
            last,
            &format!("value {n}"),
        ]);
    }
    source.well(&format!("XADD {name}-empty 5-5 a b"));
    source.well(&format!("XDEL {name}-empty 5-5"));
    source.well(&format!("XGROUP CREATE {name}-empty g 0"));
    for id in ["17-2", "100-1", "300-0"] {
        source.ask(&["XDEL", &key, id]);
    }
    source.ask(&["XGROUP", "CREATE", &key, "readers", "0"]);
    source.ask(&["XGROUP", "CREATE", &key, "idle", "50-0"]);
    source.ask(&[
        "XREADGROUP",
        "GROUP",
        "readers",
        "one",
        "COUNT",
        "20",
        "STREAMS",
        &key,
        ">",
    ]);
    source.ask(&[
        "XREADGROUP",
        "GROUP",
        "readers",
        "two",
        "COUNT",
        "30",
        "STREAMS",
        &key,
        ">",
    ]);
    source.ask(&[
        "XREADGROUP",
        "GROUP",
        "readers",
        "two",
        "COUNT",
        "3",
        "STREAMS",
        &key,
        "0",
    ]);
    source.ask(&["XACK", &key, "readers", "3-0", "5-2", "30-0"]);
    source.ask(&["XGROUP", "CREATECONSUMER", &key, "readers", "nothing to do"]);
}

fn expiring_fields(source: &mut Server, name: &str) {
    for (size, count) in [("few", 9), ("many", 1_200)] {
        let key = format!("fields {size} {name}");
        let pairs: Vec<String> = (0..count)
            .flat_map(|n| [format!("f{n}"), format!("v{n}")])
            .collect();
        push(source, &["HSET", &key], &pairs);
        for n in (0..count).step_by(3) {
            let at = 1_900_000_000_000_u64 + n % 5 * 1_000;
            source.ask(&[
                "HPEXPIREAT",
                &key,
                &at.to_string(),
                "FIELDS",
                "1",
                &format!("f{n}"),
            ]);
        }
    }
}

/// Bytes that nobody can compress, the same in every run.
fn noise(length: usize) -> String {
    let mut random = fastrand::Rng::with_seed(length as u64);
    (0..length).map(|_| random.alphanumeric()).collect()
}

/// What the keys of a database are, in words that are the same on every server.
pub(crate) fn describe(server: &mut Server, db: u16) -> BTreeMap<String, String> {
    server.well(&format!("SELECT {db}"));
    let keys = array(server.line("KEYS *"));
    let mut all = BTreeMap::new();
    for key in keys.into_iter().map(bytes) {
        let kind = String::from_utf8(bytes(server.ask(&[&b"TYPE"[..], &key]))).unwrap();
        let value = match kind.as_str() {
            "string" => match server.ask(&[&b"GET"[..], &key]) {
                // It has expired meanwhile.
                Value::Null => continue,
                value => text(&bytes(value)),
            },
            "list" => listed(server.ask(&[&b"LRANGE"[..], &key, b"0", b"-1"]), false),
            "set" => listed(server.ask(&[&b"SMEMBERS"[..], &key]), true),
            "zset" => zset(server.ask(&[&b"ZRANGE"[..], &key, b"0", b"-1", b"WITHSCORES"])),
            "hash" => hash(server, &key),
            "stream" => stream(server, &key),
            // It has expired meanwhile.
            "none" => continue,
            other => panic!("a value of type {other}"),
        };
        let left: i64 = String::from_utf8(bytes(server.ask(&[&b"PTTL"[..], &key])))
            .unwrap()
            .parse()
            .unwrap();
        if left == -2 {
            // Now it has.
            continue;
        }
        let expiry = if left < 0 {
            "never".to_owned()
        } else if server.target.restores(10) {
            String::from_utf8(bytes(server.ask(&[&b"PEXPIRETIME"[..], &key]))).unwrap()
        } else {
            // No server of that age says when: to the minute, then.
            let time = array(server.line("TIME"));
            let now: i64 = String::from_utf8(bytes(time[0].clone()))
                .unwrap()
                .parse()
                .unwrap();
            format!("{}0000", (now * 1000 + left + 5_000) / 10_000)
        };
        let shown = String::from_utf8_lossy(&key).into_owned();
        all.insert(shown, format!("{kind} until {expiry}: {value}"));
    }
    all
}

/// A string as people read it, or what stands for a long one.
fn text(bytes: &[u8]) -> String {
    if bytes.len() <= 1_000 {
        return bytes.escape_ascii().to_string();
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{} bytes {:x}", bytes.len(), hasher.finish())
}

fn listed(value: Value, sorted: bool) -> String {
    let mut all: Vec<String> = array(value)
        .into_iter()
        .map(|element| text(&bytes(element)))
        .collect();
    if sorted {
        all.sort_unstable();
    }
    all.join("|")
}

fn zset(value: Value) -> String {
    let all: Vec<Vec<u8>> = array(value).into_iter().map(bytes).collect();
    let shown = all.chunks(2).map(|pair| {
        let score: f64 = std::str::from_utf8(&pair[1]).unwrap().parse().unwrap();
        format!("{}={score:e}", text(&pair[0]))
    });
    shown.collect::<Vec<_>>().join("|")
}

fn hash(server: &mut Server, key: &[u8]) -> String {
    let all: Vec<Vec<u8>> = array(server.ask(&[&b"HGETALL"[..], key]))
        .into_iter()
        .map(bytes)
        .collect();
    let count = (all.len() / 2).to_string();
    let mut expiries = vec![Value::Int(-1); all.len() / 2];
    if server.target.expires_fields() {
        let ask: Vec<&[u8]> = [b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()]
            .into_iter()
            .chain(all.iter().step_by(2).map(Vec::as_slice))
            .collect();
        expiries = array(server.ask(&ask));
    }
    let mut shown: Vec<String> = all
        .chunks(2)
        .zip(expiries)
        .map(|(pair, expiry)| {
            let expiry = String::from_utf8(bytes(expiry)).unwrap();
            format!(
                "{}={} until {expiry}",
                pair[0].escape_ascii(),
                pair[1].escape_ascii()
            )
        })
        .collect();
    shown.sort_unstable();
    shown.join("|")
}

/// Entries, and of `XINFO STREAM … FULL` what both servers have: times of consumers are not carried over by commands.
fn stream(server: &mut Server, key: &[u8]) -> String {
    let entries = server.ask(&[&b"XRANGE"[..], key, b"-", b"+"]);
    let info = server.ask(&[&b"XINFO"[..], b"STREAM", key, b"FULL", b"COUNT", b"0"]);
    let mut shown = format!("{entries:?}");
    for (name, value) in fields(info) {
        match name.as_str() {
            "last-generated-id" | "length" => shown += &format!(" {name}={value:?}"),
            "groups" => {
                for group in array(value) {
                    shown += &group_of(group);
                }
            }
            _ => {}
        }
    }
    shown
}

fn group_of(group: Value) -> String {
    let mut shown = String::new();
    for (name, value) in fields(group) {
        match name.as_str() {
            "consumers" => {
                for consumer in array(value) {
                    for (name, value) in fields(consumer) {
                        if !matches!(name.as_str(), "seen-time" | "active-time") {
                            shown += &format!(" {name}={value:?}");
                        }
                    }
                }
            }
            "name" | "last-delivered-id" | "pel" => shown += &format!(" {name}={value:?}"),
            _ => {}
        }
    }
    shown
}

fn fields(value: Value) -> Vec<(String, Value)> {
    let mut values = array(value).into_iter();
    let mut all = Vec::new();
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        all.push((String::from_utf8(bytes(name)).unwrap(), value));
    }
    all
}

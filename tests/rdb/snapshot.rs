//! Every server's snapshot on every other server: payloads, pieces, commands.

use std::collections::BTreeMap;

use preshard::ids::DbIndex;
use preshard::rdb::{
    CopyOptions, Counts, Databases, Event, Expiries, Frames, Limits, PARK_KEY_MS, RdbReader, Ttl, Values,
};

use crate::data::{EXPIRING, FIELDS, PLAIN, UNWANTED, describe, fill};
use crate::server::{Server, at_hand, is_error};

/// Where the databases go on the target.
const MOVED: u16 = 10;

fn options(target: &Server) -> CopyOptions {
    let mut wanted = vec![PLAIN, EXPIRING];
    if target.target.expires_fields() {
        wanted.push(FIELDS);
    }
    CopyOptions {
        databases: Databases::new(wanted.into_iter().map(|db| (DbIndex(db), DbIndex(db + MOVED)))),
        target: target.target,
        values: Values::Payloads,
        ttl: Ttl::default(),
        limits: Limits::default(),
    }
}

/// Thresholds that make big values of nearly all.
fn tiny() -> Limits {
    Limits {
        small_bytes: 60,
        small_elements: 3,
        stream_bytes: 100,
        piece_bytes: 77_777,
        chunk_bytes: 50,
        chunk_elements: 7,
        frames_bytes: 1_000,
        ..Limits::default()
    }
}

/// Reads the snapshot in chunks of some size and applies it.
fn copy(snapshot: &[u8], options: CopyOptions, chunk: usize, target: &mut Server) -> Counts {
    target.well("FLUSHALL");
    let mut reader = RdbReader::new(options);
    let mut frames = Frames::default();
    // Each copy has a connection of its own, so to speak: nothing is selected.
    target.well("SELECT 0");
    let mut chunks = snapshot.chunks(chunk);
    let mut pending = Vec::new();
    loop {
        let event = reader.poll(&mut frames).unwrap();
        pending.extend(frames.take());
        match event {
            Event::NeedMore => reader.push(chunks.next().expect("the snapshot ends where it should")),
            Event::End => break,
            _ => {}
        }
    }
    for reply in target.exchange(&pending, frames.requests()) {
        assert!(!is_error(&reply), "{reply:?}");
    }
    assert_eq!(reader.consumed(), snapshot.len() as u64);
    let counts = reader.counts();
    assert!(reader.into_rest().is_empty() && chunks.next().is_none());
    counts
}

/// What the databases of the source hold.
struct Expected {
    exact_expiries: bool,
    databases: Vec<(u16, BTreeMap<String, String>)>,
}

fn expected(source: &mut Server) -> Expected {
    Expected {
        exact_expiries: source.target.restores(10),
        databases: [PLAIN, EXPIRING, FIELDS]
            .map(|db| (db, describe(source, db)))
            .into(),
    }
}

fn assert_same(source: &Expected, target: &mut Server, what: &str) {
    for (db, expected) in &source.databases {
        let (db, mut expected) = (*db, expected.clone());
        if db == FIELDS && !target.target.expires_fields() {
            continue;
        }
        let mut found = describe(target, db + MOVED);
        if !source.exact_expiries || !target.target.restores(10) {
            // One of them says expiries to ten seconds only.
            for value in expected.values_mut().chain(found.values_mut()) {
                if let Some((kind, rest)) = value.split_once(" until 19") {
                    *value = format!("{kind} until 19 {}", rest.split_once(':').unwrap().1);
                }
            }
        }
        assert_eq!(expected.len(), found.len(), "{what}, database {db}");
        for (key, value) in &expected {
            let other = found.get(key).map_or("nothing", String::as_str);
            let shown = |text: &str| text.chars().take(3_000).collect::<String>();
            assert!(
                value == other,
                "{what}: {key}\n{}\n{}",
                shown(value),
                shown(other)
            );
        }
    }
    for db in [UNWANTED, UNWANTED + MOVED] {
        target.well(&format!("SELECT {db}"));
        assert_eq!(target.line("DBSIZE"), preshard::resp::Value::Int(0));
    }
}

/// One source, all targets. `types` are those of all values that the source has: none of its encodings is left out.
fn conforms(name: &str, types: &[u8]) {
    let servers = at_hand();
    if !servers.contains(&name) {
        return;
    }
    let mut source = Server::start(name);
    fill(&mut source);
    let snapshot = source.snapshot();
    let expected = expected(&mut source);
    for other in servers {
        let mut target = Server::start(other);
        let payloads = copy(&snapshot, options(&target), 64 * 1024, &mut target);
        assert_same(&expected, &mut target, &format!("{name} to {other}, payloads"));
        let pieces = CopyOptions {
            limits: tiny(),
            ..options(&target)
        };
        let in_pieces = copy(&snapshot, pieces, 1_013, &mut target);
        assert_same(&expected, &mut target, &format!("{name} to {other}, pieces"));
        let commands = CopyOptions {
            values: Values::Commands,
            ..options(&target)
        };
        let in_commands = copy(&snapshot, commands, 7, &mut target);
        assert_same(&expected, &mut target, &format!("{name} to {other}, commands"));
        println!("{name} to {other}: {payloads:?}, {in_pieces:?}, {in_commands:?}");
        assert_eq!(
            payloads.types,
            types.iter().fold(0, |all, number| all | 1 << number)
        );
        assert_eq!(in_commands.restored, 0);
        assert!(payloads.restored > in_pieces.restored);
        assert_eq!(payloads.restored + payloads.rebuilt, in_commands.rebuilt);
        assert_eq!(in_pieces.restored + in_pieces.rebuilt, in_commands.rebuilt);
    }
}

#[test]
fn redis_6_2_on_every_server() {
    conforms("redis 6.2", &[0, 2, 4, 5, 11, 12, 13, 14, 15]);
}

#[test]
fn redis_7_0_on_every_server() {
    conforms("redis 7.0", &[0, 2, 4, 5, 11, 16, 17, 18, 19]);
}

#[test]
fn redis_8_2_on_every_server() {
    conforms("redis 8.2", &[0, 2, 4, 5, 11, 16, 17, 18, 20, 21, 24, 25]);
}

#[test]
fn valkey_8_1_on_every_server() {
    conforms("valkey 8.1", &[0, 2, 4, 5, 11, 16, 17, 18, 20, 21]);
}

#[test]
fn valkey_9_1_on_every_server() {
    conforms("valkey 9.1", &[0, 2, 4, 5, 11, 16, 17, 18, 20, 21, 22]);
}

/// A server with the field expiries that it can have takes parked ones, and the real ones come back.
#[test]
fn parked_expiries_are_taken_by_every_server() {
    for name in at_hand() {
        let mut source = Server::start(name);
        fill(&mut source);
        let snapshot = source.snapshot();
        let mut target = Server::start(name);
        let parked = CopyOptions {
            ttl: Ttl {
                expiries: Expiries::Park,
                skew_ms: 0,
            },
            ..options(&target)
        };
        copy(&snapshot, parked, 64 * 1024, &mut target);
        let real = describe(&mut source, EXPIRING);
        assert_eq!(real.len(), 4);
        if source.target.restores(10) {
            for (key, value) in describe(&mut target, EXPIRING + MOVED) {
                let of = |value: &str| -> i64 {
                    let (_, rest) = value.split_once("until ").unwrap();
                    rest.split_once(':').unwrap().0.parse().unwrap()
                };
                assert_eq!(of(&value) - PARK_KEY_MS, of(&real[&key]), "{name}: {key}");
            }
        }
        if source.target.expires_fields() {
            for (key, value) in describe(&mut target, FIELDS + MOVED) {
                let parked = value.replace("until 37", "until 19");
                assert!(parked != value, "{name}: {key} is parked: {value}");
                assert!(
                    !value.contains("until 19"),
                    "{name}: {key} has a real one: {value}"
                );
            }
        }
    }
}

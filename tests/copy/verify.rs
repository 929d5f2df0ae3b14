//! Comparing source and target while a copy follows: what is equal is found equal under writes of all kinds, and whatever
//! differs is found.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use preshard::migration::{Checked, Copy, Sample};
use preshard::resp::Value;
use tokio::sync::watch;

use crate::data::{EXPIRING, FIELDS, PLAIN, fill};
use crate::kit::{Conn, MOVED, PATIENCE, Writer, plan, runtime, wait_streaming, wait_until};
use crate::server::{Server, at_hand};

fn verify(runtime: &tokio::runtime::Runtime, copy: &Copy, sample: Sample) -> Checked {
    let (seen, seeing) = watch::channel(Checked::default());
    let checked = runtime.block_on(copy.verify(sample, &seen)).unwrap();
    assert_eq!(seeing.borrow().keys, checked.keys, "it is told how far it is");
    checked
}

fn assert_same(checked: &Checked, what: &str) {
    let found: Vec<String> = checked
        .found
        .iter()
        .map(preshard::migration::Mismatch::told)
        .collect();
    assert_eq!(checked.mismatches, 0, "{what}: {found:?}");
}

/// Values of more than a megabyte, of every type.
fn fill_large(source: &Server, db: u16) {
    let mut conn = Conn::to(source, db);
    for number in 0..30_u32 {
        let parts: Vec<String> = (0..1_000)
            .map(|at| format!("{}{}", number * 1_000 + at, "x".repeat(40)))
            .collect();
        for (verb, key) in [("RPUSH", "large list"), ("SADD", "large set")] {
            let words: Vec<&[u8]> = [verb, key]
                .into_iter()
                .chain(parts.iter().map(String::as_str))
                .map(str::as_bytes)
                .collect();
            conn.ask(&words);
        }
        let pairs: Vec<String> = parts
            .iter()
            .enumerate()
            .flat_map(|(at, part)| [at.to_string(), part.clone()])
            .collect();
        let words: Vec<&[u8]> = ["ZADD", "large zset"]
            .into_iter()
            .chain(pairs.iter().map(String::as_str))
            .map(str::as_bytes)
            .collect();
        conn.ask(&words);
        let pairs: Vec<String> = parts
            .iter()
            .flat_map(|part| [part.clone(), "v".repeat(20)])
            .collect();
        let words: Vec<&[u8]> = ["HSET", "large hash"]
            .into_iter()
            .chain(pairs.iter().map(String::as_str))
            .map(str::as_bytes)
            .collect();
        conn.ask(&words);
        for at in 0..300 {
            conn.ask(&[
                b"XADD",
                b"large stream",
                format!("{number}-{}", at + 1).as_bytes(),
                b"field",
                b"v".repeat(150).as_slice(),
            ]);
        }
    }
    conn.ask(&[b"SET", b"large string", &b"0123456789".repeat(200_000)]);
    conn.ask(&[b"XGROUP", b"CREATE", b"large stream", b"g", b"7-7"]);
    conn.ask(&[b"PEXPIREAT", b"large list", b"1900000000000"]);
}

/// Small keys, so many.
fn populate(conn: &mut Conn, keys: u32) {
    let script = "for n = 1, tonumber(ARGV[1]) do redis.call('SET', 'key:' .. n, 'value number ' .. n) end";
    conn.ask(&[b"EVAL", script.as_bytes(), b"0", keys.to_string().as_bytes()]);
    assert_eq!(conn.line("DBSIZE"), Value::Int(keys.into()));
}

fn dbs(source: &Server, target: &Server) -> Vec<u16> {
    let mut dbs = vec![PLAIN, EXPIRING];
    if source.expires_fields() && target.expires_fields() {
        dbs.push(FIELDS);
    }
    dbs
}

#[test]
fn what_is_equal_is_found_equal_under_writes_of_all_kinds() {
    let runtime = runtime();
    let servers = at_hand();
    // Each with itself, and to the next one where the copy can go there.
    let mut pairs: Vec<(&str, &str)> = servers.iter().map(|name| (*name, *name)).collect();
    let others = [
        ("redis 6.2", "redis 7.0"),
        ("redis 7.0", "redis 8.2"),
        ("redis 6.2", "valkey 9.1"),
        ("redis 7.0", "valkey 8.1"),
    ];
    pairs.extend(
        others
            .into_iter()
            .filter(|(one, other)| servers.contains(one) && servers.contains(other)),
    );
    for (name, other) in pairs {
        let (mut source, target) = (Server::start(name), Server::start(other));
        fill(&mut source);
        fill_large(&source, PLAIN);
        let dbs = dbs(&source, &target);
        let _inside = runtime.enter();
        let copy = Copy::start(plan(&source, &target, &dbs));
        wait_streaming(&copy);
        // One, so that a build without optimisation keeps up with it.
        let mut writers = [Writer::start(&source, PLAIN, 0)];
        let begun = Instant::now();
        let mut runs = 0;
        while runs < 1 || begun.elapsed() < Duration::from_secs(1) {
            let checked = verify(&runtime, &copy, Sample::All);
            assert_same(&checked, &format!("{name} to {other}"));
            assert!(
                checked.keys > 120 && checked.large >= 6,
                "{name} to {other}: {checked:?}"
            );
            runs += 1;
        }
        let written: u64 = writers
            .iter()
            .map(|writer| writer.written.load(Ordering::Relaxed))
            .sum();
        println!("{name} to {other}: {runs} comparisons, {written} writes meanwhile");
        writers.iter_mut().for_each(Writer::stop);
        let sampled = verify(&runtime, &copy, Sample::Keys(100));
        assert_same(&sampled, "a sample");
        assert!(
            sampled.of == 100 && (1..=100).contains(&sampled.keys),
            "{sampled:?}"
        );
        runtime.block_on(copy.stop()).unwrap();
    }
}

/// What is done to the target alone, and what is told of it.
const FLIPS: [(&str, &str, &str); 16] = [
    ("SETRANGE s 3 X", "\"s\"", "the values differ"),
    ("LSET l 1 X", "\"l\"", "the values differ"),
    ("SADD t more", "\"t\"", "the values differ"),
    ("HSET h f X", "\"h\"", "the values differ"),
    ("ZINCRBY z 0.5 m", "\"z\"", "the values differ"),
    ("XADD x 9-9 f v", "\"x\"", "the values differ"),
    ("XGROUP SETID x g 1-1", "\"x\"", "the values differ"),
    ("DEL s", "\"s\"", "the target does not have it"),
    ("SET extra v", "\"extra\"", "only the target has it"),
    (
        "PEXPIREAT s 1900000000000",
        "\"s\"",
        "it expires never on the source",
    ),
    (
        "PEXPIREAT e 1900000000001",
        "\"e\"",
        "on the source and at 1900000000001 ms",
    ),
    ("PERSIST e", "\"e\"", "never on the target"),
    ("LPOP large list", "\"large list\"", "how much is in it differs"),
    ("PERSIST large list", "\"large list\"", "when it expires differs"),
    (
        "XGROUP SETID large stream g 1-1",
        "\"large stream\"",
        "a group of the stream differs",
    ),
    ("DEL large set", "\"large set\"", "the target does not have it"),
];

#[test]
fn whatever_differs_is_found_and_named() {
    let runtime = runtime();
    let (source, target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut at_source = Conn::to(&source, PLAIN);
    for line in [
        "SET s 0123456789",
        "SET e v",
        "PEXPIREAT e 1900000000000",
        "RPUSH l a b c",
        "SADD t a b c",
        "HSET h f v g w",
        "ZADD z 1 m 2 n",
        "XADD x 1-1 f v",
        "XGROUP CREATE x g 0",
    ] {
        at_source.line(line);
    }
    for number in 0..2_000 {
        at_source.line(&format!("SET filler:{number} {number}"));
    }
    fill_large(&source, PLAIN);
    let _inside = runtime.enter();
    for (flip, key, what) in FLIPS {
        let mut at_target = Conn::to(&target, 0);
        at_target.line("FLUSHALL");
        at_target.line(&format!("SELECT {}", PLAIN + MOVED));
        let copy = Copy::start(plan(&source, &target, &[PLAIN]));
        wait_streaming(&copy);
        let before = verify(&runtime, &copy, Sample::All);
        assert_same(&before, "before");
        assert!(before.keys > 2_000 && before.large == 6, "{before:?}");
        // A name with a space is one word.
        let words: Vec<Vec<u8>> = flip.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let words = joined(words);
        let reply = at_target.ask(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert!(!crate::server::is_error(&reply), "{flip}: {reply:?}");
        let checked = verify(&runtime, &copy, Sample::Usual);
        let told: Vec<String> = checked
            .found
            .iter()
            .map(preshard::migration::Mismatch::told)
            .collect();
        assert!(
            told.iter().any(|told| told.contains(key) && told.contains(what)),
            "{flip}: {told:?}"
        );
        assert!((1..=2).contains(&checked.mismatches), "{flip}: {told:?}");
        runtime.block_on(copy.stop()).unwrap();
    }
}

/// `large` and the word behind it are one name.
fn joined(words: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for word in words {
        match all.last_mut() {
            Some(last) if last == b"large" => {
                last.push(b' ');
                last.extend(word);
            }
            _ => all.push(word),
        }
    }
    all
}

#[test]
fn an_expiry_of_a_field_that_differs_is_found() {
    let runtime = runtime();
    for name in at_hand() {
        let (source, target) = (Server::start(name), Server::start(name));
        if !source.expires_fields() {
            continue;
        }
        let mut at_source = Conn::to(&source, PLAIN);
        at_source.line("HSET h f v g w");
        at_source.line("HPEXPIREAT h 1900000000000 FIELDS 1 f");
        let _inside = runtime.enter();
        let copy = Copy::start(plan(&source, &target, &[PLAIN]));
        wait_streaming(&copy);
        assert_same(&verify(&runtime, &copy, Sample::All), name);
        Conn::to(&target, PLAIN + MOVED).line("HPERSIST h FIELDS 1 f");
        let checked = verify(&runtime, &copy, Sample::All);
        assert_eq!(checked.mismatches, 1, "{name}: {:?}", checked.found);
        assert_eq!(checked.found[0].key.as_deref(), Some(&b"h"[..]), "{name}");
        runtime.block_on(copy.stop()).unwrap();
    }
}

/// Writers at 10,000 writes a second and more over many keys: nothing is taken for a difference, and the copy goes on
/// afterwards.
#[test]
fn a_busy_source_is_compared_and_the_copy_goes_on() {
    let runtime = runtime();
    let (source, target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, PLAIN);
    populate(&mut conn, 4_000);
    let _inside = runtime.enter();
    let copy = Copy::start(plan(&source, &target, &[PLAIN]));
    wait_streaming(&copy);
    let mut writers: Vec<Writer> = (0..4)
        .map(|seed| Writer::start(&source, PLAIN, 100 + seed))
        .collect();
    for _ in 0..5 {
        let before = copy.progress().applied_offset;
        assert_same(&verify(&runtime, &copy, Sample::All), "under writes");
        wait_until(&copy, "it goes on", PATIENCE, |now| now.applied_offset > before);
    }
    writers.iter_mut().for_each(Writer::stop);
    let mut copy = copy;
    let mut source = source;
    let mut target = target;
    crate::kit::assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[PLAIN],
        "afterwards",
    );
    runtime.block_on(copy.stop()).unwrap();
}

#[test]
fn a_comparison_that_is_given_up_leaves_the_copy_as_it_was() {
    let runtime = runtime();
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    populate(&mut Conn::to(&source, PLAIN), 12_000);
    let _inside = runtime.enter();
    let mut copy = Copy::start(plan(&source, &target, &[PLAIN]));
    wait_streaming(&copy);
    let mut writer = Writer::start(&source, PLAIN, 7);
    for millis in [0, 2, 8, 20] {
        let (seen, _seeing) = watch::channel(Checked::default());
        let cut = runtime.block_on(async {
            tokio::time::timeout(Duration::from_millis(millis), copy.verify(Sample::All, &seen)).await
        });
        assert!(cut.is_err(), "it takes longer than {millis} ms");
    }
    writer.stop();
    crate::kit::assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[PLAIN],
        "afterwards",
    );
    runtime.block_on(copy.stop()).unwrap();
}

//! Copies where nothing goes wrong.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use preshard::config::Secret;
use preshard::ids::DbIndex;
use preshard::migration::{Copy, CopyError, CopyPlan, Journal, Noted, Offset, Phase, Start};
use preshard::resp::Value;
use preshard::worker::shared::NodeCredentials;

use crate::data::{EXPIRING, FIELDS, PLAIN, fill};
use crate::kit::{
    Conn, Frozen, METADATA, MOVED, OTHER, PATIENCE, Writer, assert_same, plan, runtime, wait_streaming,
    wait_until,
};
use crate::server::{Server, array, at_hand, bytes};

/// A large value of each kind.
pub(crate) fn fill_giants(source: &Server) {
    let mut conn = Conn::to(source, PLAIN);
    for kind in ["hash", "zset"] {
        conn.line(&format!("CONFIG SET {kind}-max-ziplist-entries 128"));
    }
    conn.line("CONFIG SET list-max-ziplist-size -2");
    conn.ask(&[b"SET", b"giant:string", &vec![b'x'; 20_000_000]]);
    for block in 0..40 {
        let elements: Vec<String> = (0..2_000)
            .map(|n| format!("element-{block}-{n}-{}", "y".repeat(200)))
            .collect();
        for (kind, word) in [
            ("list", "RPUSH"),
            ("set", "SADD"),
            ("hash", "HSET"),
            ("zset", "ZADD"),
        ] {
            let key = format!("giant:{kind}");
            let mut words: Vec<&[u8]> = vec![word.as_bytes(), key.as_bytes()];
            for element in &elements {
                match kind {
                    "hash" => words.extend([element.as_bytes(), b"value"]),
                    "zset" => words.extend([&b"1.25"[..], element.as_bytes()]),
                    _ => words.push(element.as_bytes()),
                }
            }
            conn.ask(&words);
        }
    }
}

/// With writers all the time: snapshot, stream, expiries, freeze, and then everything is the same.
fn copies(from: &str, to: &str, giants: bool) {
    let servers = at_hand();
    if !servers.contains(&from) || !servers.contains(&to) {
        return;
    }
    let what = format!("{from} to {to}");
    let (mut source, mut target) = (Server::start(from), Server::start(to));
    fill(&mut source);
    if giants {
        fill_giants(&source);
    }
    let fields = source.expires_fields() && target.expires_fields();
    let mut dbs = vec![PLAIN, EXPIRING];
    if fields {
        dbs.push(FIELDS);
    }
    let mut writers: Vec<Writer> = dbs
        .iter()
        .chain([&OTHER])
        .zip(1..)
        .filter(|(db, _)| fields || !source.expires_fields() || **db == OTHER || **db != FIELDS)
        .map(|(db, seed)| Writer::start(&source, *db, seed))
        .collect();
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &dbs)) });
    runtime.block_on(copy.until_streaming()).unwrap();
    let begin = Instant::now();
    // About half of the expiries come before.
    let horizon = Duration::from_secs(80);
    let unparked = runtime.block_on(copy.unpark(horizon)).unwrap();
    println!("{what}: {unparked:?} {:?}", copy.progress());
    let written = |writers: &[Writer]| -> u64 {
        let counts = writers
            .iter()
            .map(|writer| writer.written.load(Ordering::Relaxed));
        counts.sum()
    };
    let before = written(&writers);
    wait_until(&copy, "writes behind it", PATIENCE, |_| {
        written(&writers) > before && begin.elapsed() > Duration::from_millis(700)
    });
    for writer in &mut writers {
        writer.stop();
    }
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &dbs, &what);
    let now = copy.progress();
    assert_eq!((now.restarts, now.alarms), (0, 0), "{now:?}");
    for counts in runtime.block_on(copy.counts()).unwrap() {
        assert!(counts.source_keys > 0);
        assert!(counts.agree(), "{what}: {counts:?}");
    }
    runtime.block_on(copy.stop()).unwrap();
    assert_eq!(Conn::to(&target, 0).line("EXISTS x"), Value::Int(0));
}

#[test]
fn redis_7_0_with_giants() {
    copies("redis 7.0", "redis 7.0", true);
}

#[test]
fn redis_6_2_to_7_0_and_back() {
    copies("redis 6.2", "redis 7.0", false);
    copies("redis 7.0", "redis 6.2", false);
}

#[test]
fn redis_8_2_and_its_fields_that_expire() {
    copies("redis 8.2", "redis 8.2", false);
    copies("redis 7.0", "redis 8.2", false);
}

#[test]
fn valkey_8_1() {
    copies("valkey 8.1", "valkey 8.1", false);
    copies("redis 6.2", "valkey 8.1", false);
}

#[test]
fn valkey_9_1_and_its_fields_that_expire() {
    copies("valkey 9.1", "valkey 9.1", false);
    copies("redis 7.0", "valkey 9.1", false);
}

/// A key is renewed every 50 ms, and the target is stopped for longer than it would live.
#[test]
fn a_renewed_key_outlives_any_lag() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
    wait_streaming(&copy);
    let mut conn = Conn::to(&source, 3);
    let mut renew = || {
        conn.line("INCR counter");
        conn.line("PEXPIRE counter 1500");
        std::thread::park_timeout(Duration::from_millis(50));
    };
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        renew();
    }
    let frozen = Frozen::new(&target);
    while begin.elapsed() < Duration::from_millis(3_500) {
        renew();
    }
    drop(frozen);
    renew();
    conn.line("SET dead x PX 1");
    runtime.block_on(copy.until_streaming()).unwrap();
    // The real expiry must not be there while anything may lag.
    let parked = bytes(Conn::to(&target, 3 + MOVED).line("PTTL counter"));
    if parked != b"-2" {
        assert!(String::from_utf8(parked).unwrap().parse::<i64>().unwrap() > 1 << 51);
    }
    for _ in 0..5 {
        conn.line("INCR counter");
        conn.line("PEXPIRE counter 60000");
    }
    runtime.block_on(copy.unpark(Duration::from_secs(10))).unwrap();
    conn.line("PEXPIRE counter 4321");
    conn.line("RENAME counter renamed");
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &[3], "renewed");
    assert_eq!(copy.progress().restarts, 0);
    let exact = |server: &Server, db: u16| Conn::to(server, db).line("PEXPIRETIME renamed");
    assert_eq!(exact(&source, 3), exact(&target, 3 + MOVED));
    // The source goes on after all: expiries are parked again, and nothing of the pause is missing.
    conn.line("SET between 1 PX 300");
    wait_until(&copy, "it is noticed", PATIENCE, |now| now.alarms == 1);
    runtime.block_on(copy.thaw()).unwrap();
    conn.line("SET behind 2");
    wait_until(&copy, "the copy goes on", PATIENCE, |_| {
        bytes(Conn::to(&target, 3 + MOVED).line("EXISTS behind")) == b"1"
    });
    conn.line("PEXPIRE renamed 30000");
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &[3], "thawed");
}

/// A cutover is given up while the target is still behind the freeze: what comes then is neither left out nor counted twice.
#[test]
fn a_freeze_that_the_stream_has_not_reached_leaves_every_offset_true() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[3])) });
    wait_streaming(&copy);
    let mut conn = Conn::to(&source, 3);
    conn.line("SET behind nothing");
    wait_until(&copy, "it is there", PATIENCE, |_| {
        bytes(Conn::to(&target, 3 + MOVED).line("EXISTS behind")) == b"1"
    });
    for round in 0..5 {
        let beyond = conn.offset() + 20_000;
        let mut writer = Conn::to(&source, 3);
        let writing = std::thread::spawn(move || {
            for number in 0..100 {
                writer.line(&format!("SET k{number} {round}"));
            }
        });
        let soon = Duration::from_millis(300);
        let waited = runtime.block_on(async { tokio::time::timeout(soon, copy.drain_to(beyond)).await });
        assert!(waited.is_err(), "{waited:?}");
        writing.join().unwrap();
        runtime.block_on(copy.thaw()).unwrap();
        conn.line(&format!("SET behind {round}"));
        let now = wait_until(&copy, "the copy goes on", PATIENCE, |_| {
            bytes(Conn::to(&target, 3 + MOVED).line("GET behind")) == round.to_string().as_bytes()
        });
        assert!(now.applied_offset <= now.stream_offset, "{now:?}");
    }
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &[3], "thawed");
    assert_eq!(copy.progress().restarts, 0);
}

/// If the freeze does not come, everything is parked again before a real expiry can strike.
#[test]
fn expiries_are_parked_again_in_time() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, 3);
    conn.line("SET key v PX 100000");
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
    wait_streaming(&copy);
    let begin = Instant::now();
    let unparked = runtime
        .block_on(copy.unpark(Duration::from_millis(4_000)))
        .unwrap();
    assert!(unparked.safe_for > Duration::from_millis(500), "{unparked:?}");
    let left = || -> i64 {
        let left = bytes(Conn::to(&target, 3 + MOVED).line("PTTL key"));
        String::from_utf8(left).unwrap().parse().unwrap()
    };
    // Whoever looks so late finds it parked again.
    assert!(left() <= 100_000 || begin.elapsed() > Duration::from_secs(2));
    wait_until(&copy, "it is parked again", PATIENCE, |_| left() > 1 << 51);
    runtime.block_on(copy.unpark(Duration::from_secs(10))).unwrap();
    assert!(left() <= 100_000);
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[3],
        "parked again",
    );
}

/// As with sources that cannot send the snapshot apart.
#[test]
fn one_link_is_enough() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    fill(&mut source);
    let mut writers = [
        Writer::start(&source, PLAIN, 1),
        Writer::start(&source, EXPIRING, 2),
    ];
    let mut plan = plan(&source, &target, &[PLAIN, EXPIRING]);
    plan.limits.one_link = true;
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    runtime.block_on(copy.until_streaming()).unwrap();
    for writer in &mut writers {
        writer.stop();
    }
    // Nothing was unparked before: the drain does all of it.
    let dbs = [PLAIN, EXPIRING];
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &dbs, "one link");
    assert_eq!(copy.progress().restarts, 0);
    assert_eq!(Conn::to(&source, 0).info("sync_full"), "1");
}

/// What a stream can have, one thing after the other.
#[test]
fn whole_databases_and_transactions() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut other = Conn::to(&source, OTHER);
    other.line("SET other 1");
    // Somebody else's key on the target stays.
    Conn::to(&target, 30).line("SET stays 1");
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
    wait_streaming(&copy);
    let mut conn = Conn::to(&source, 3);
    let mut step = |lines: &[&str], what: &str| {
        for line in lines {
            conn.line(line);
        }
        assert_same(&runtime, &mut copy, (&mut source, &mut target), &[3], what);
        runtime.block_on(copy.thaw()).unwrap();
    };
    step(&["SET a 1", "RPUSH l 1 2 3", "SADD s a b c"], "three values");
    step(
        &[
            "MULTI", "SET a 2", "SELECT 1", "SET a 3", "SELECT 3", "INCR a", "EXEC",
        ],
        "a transaction over databases",
    );
    step(&["SPOP s", "SPOP s 1"], "SPOP");
    step(&["FLUSHDB"], "FLUSHDB");
    step(
        &[
            "SET b 1",
            "XADD x * f v",
            "XGROUP CREATE x g 0",
            "XREADGROUP GROUP g c STREAMS x >",
        ],
        "a group",
    );
    step(&["FLUSHALL", "SET c 1"], "FLUSHALL");
    step(
        &[
            "PUBLISH channel hello",
            "SELECT 1",
            "SET d 1",
            "SELECT 3",
            "SET e 1",
        ],
        "others",
    );
    assert_eq!(
        Conn::to(&target, 30).line("GET stays"),
        Value::Bulk(b"1".to_vec())
    );
    assert_eq!(copy.progress().restarts, 0, "{:?}", copy.progress());
    // It is told nothing of how far the copy is: it must not count it as a replica that has the data.
    assert_eq!(conn.line("WAIT 1 50"), Value::Int(0));
    runtime.block_on(copy.stop()).unwrap();
    conn.line("SET f 1");
    assert_eq!(Conn::to(&target, 3 + MOVED).line("EXISTS f"), Value::Int(0));
}

/// Evicted keys are gone on the target too.
#[test]
fn evictions_are_followed() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, 3);
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
    wait_streaming(&copy);
    let used: u64 = conn.info("used_memory").parse().unwrap();
    conn.line("CONFIG SET maxmemory-policy allkeys-random");
    conn.line(&format!("CONFIG SET maxmemory {}", used + 400_000));
    for n in 0..1_000 {
        conn.ask(&[b"SET", format!("k{n}").as_bytes(), &[b'v'; 1_000]]);
    }
    assert_ne!(conn.info("evicted_keys"), "0");
    conn.line("CONFIG SET maxmemory 0");
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &[3], "evicted");
}

/// Both sides are the same at an offset, and one follows the other from there, each write once, whoever goes on with it.
#[test]
fn a_stream_alone_is_followed_back() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, 3);
    for n in 0..500 {
        conn.line(&format!("SET key{n} {n} PX {}", 60_000 + n));
    }
    conn.line("SET soon 1 PX 9000");
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
    wait_streaming(&copy);
    // The target has a history only if somebody listens.
    let mut back = Conn::to(&target, 3 + MOVED);
    let _listener = listener(&target);
    runtime.block_on(copy.unpark(Duration::from_secs(10))).unwrap();
    let reverse = CopyPlan {
        dbs: vec![(DbIndex(3 + MOVED), DbIndex(3)), (DbIndex(MOVED), DbIndex(0))],
        ..plan(&target, &source, &[])
    };
    let journal = || Journal::of("m1");
    let mut attached = runtime.block_on(async { Copy::attach(reverse.clone(), journal()) });
    runtime.block_on(attached.until_attached()).unwrap();
    assert_eq!(attached.progress().phase, Phase::Attached);
    // What comes before the place where they are the same is not applied.
    for line in [
        "RPUSH list 0",
        "RPUSH a x",
        "RENAME a b",
        "RENAME b c",
        "RENAME key8 d",
    ] {
        conn.line(line);
    }
    let drained = runtime.block_on(copy.drain_to(conn.offset())).unwrap();
    // What was only renamed expires never: nothing can go wrong with it. What expires much later is no matter either.
    let paid: Vec<&[u8]> = drained.paid.iter().map(|(_, key)| key.as_slice()).collect();
    assert_eq!(paid, [b"soon"], "{drained:?}");
    runtime.block_on(copy.stop()).unwrap();
    let at = Offset {
        replid: back.info("master_replid"),
        offset: back.offset(),
    };
    // What comes behind it is, however long it was kept.
    back.line("RPUSH list 1");
    attached.begin_at(Start {
        at,
        soon: drained.paid,
        moment_ms: drained.moment_ms.unwrap(),
    });
    wait_until(&attached, "it follows", PATIENCE, |now| {
        now.phase == Phase::Streaming
    });
    say(&mut back, &["MULTI", "RPUSH list 2", "INCR key0", "EXEC"]);
    say(&mut back, &["PEXPIRE key9 70000", "DEL key7", "RENAME c b"]);
    // One that ends in the middle of writes, and another one that goes on with what is noted.
    for from in [3, 1_000] {
        for n in from..from + 300 {
            back.line(&format!("RPUSH list {n}"));
            back.line(&format!("INCR key{}", 10 + n % 400));
        }
        runtime.block_on(attached.stop()).unwrap();
        let noted = noted_on(&source);
        back.line(&format!("RPUSH list {n}", n = from + 300));
        assert!(noted.parked);
        attached = runtime.block_on(async { Copy::resume(reverse.clone(), journal(), noted) });
        runtime.block_on(attached.until_attached()).unwrap();
    }
    runtime.block_on(attached.unpark(Duration::from_secs(5))).unwrap();
    runtime.block_on(attached.drain_to(back.offset())).unwrap();
    assert_eq!(attached.progress().phase, Phase::Streaming);
    let describe = crate::data::describe;
    assert_eq!(describe(&mut target, 3 + MOVED), describe(&mut source, 3));
    assert_eq!(conn.line("LLEN list"), Value::Int(605));
    runtime.block_on(attached.stop()).unwrap();
    assert_lost_is_lost(&runtime, reverse);
}

fn say(conn: &mut Conn, lines: &[&str]) {
    for line in lines {
        conn.line(line);
    }
}

/// How far a stream back is, as it has noted it.
fn noted_on(source: &Server) -> Noted {
    let mut meta = Conn::to(source, METADATA);
    let found = array(meta.line("HMGET preshard:reverse:m1 replid offset selected parked"));
    let found: Vec<String> = found.iter().map(text).collect();
    Noted {
        at: Offset {
            replid: found[0].clone(),
            offset: found[1].parse().unwrap(),
        },
        selected: found[2].parse().unwrap(),
        parked: found[3] == "1",
    }
}

/// A reverse stream whose history is gone does not begin again.
fn assert_lost_is_lost(runtime: &tokio::runtime::Runtime, reverse: CopyPlan) {
    let nowhere = Noted {
        at: Offset {
            replid: "0".repeat(40),
            offset: 7,
        },
        selected: 0,
        parked: true,
    };
    let mut copy = runtime.block_on(async { Copy::resume(reverse, Journal::of("m1"), nowhere) });
    let error = runtime.block_on(copy.until_attached()).unwrap_err();
    assert!(
        matches!(&error, CopyError::Failed { restarts: 0, reason } if matches!(**reason, CopyError::SourceChanged(_))),
        "{error}"
    );
}

fn text(value: &Value) -> String {
    String::from_utf8(value.as_bytes().unwrap().to_vec()).unwrap()
}

/// A stream link of somebody, so that the server keeps a backlog.
fn listener(server: &Server) -> (Copy, tokio::runtime::Runtime, Server) {
    let (runtime, nowhere) = (runtime(), Server::start("redis 7.0"));
    let copy = runtime.block_on(async { Copy::start(plan(server, &nowhere, &[25])) });
    wait_streaming(&copy);
    (copy, runtime, nowhere)
}

/// Users with exactly the rights that the room's story names.
#[test]
fn few_rights_are_enough() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, 3);
    for n in 0..500 {
        conn.line(&format!("SET key{n} {n} PX {}", 60_000 + n));
    }
    conn.line("ACL SETUSER mover on >secret +psync +replconf +info +time +ping");
    let rights = "+@write +@transaction +eval +scan +select +flushdb +restore +info +time +ping +pexpiretime +client|id +client|kill";
    Conn::to(&target, 0).line(&format!("ACL SETUSER mover on >secret ~* {rights}"));
    let mut plan = plan(&source, &target, &[0, 3]);
    for end in [&mut plan.source, &mut plan.target] {
        end.credentials = NodeCredentials {
            username: Some("mover".to_owned()),
            password: Some(Secret::new("secret".to_owned())),
            ..NodeCredentials::default()
        };
    }
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    wait_streaming(&copy);
    runtime.block_on(copy.unpark(Duration::from_secs(10))).unwrap();
    for line in ["MULTI", "INCR key1", "PEXPIRE key1 5000", "EXEC"] {
        conn.line(line);
    }
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[3],
        "few rights",
    );
    // To begin again takes the rest of them.
    runtime.block_on(copy.thaw()).unwrap();
    conn.line("SWAPDB 3 20");
    wait_until(&copy, "it begins again", PATIENCE, |now| {
        now.restarts == 1 && now.phase == Phase::Streaming
    });
    assert_eq!(Conn::to(&target, 3 + MOVED).line("DBSIZE"), Value::Int(0));
}

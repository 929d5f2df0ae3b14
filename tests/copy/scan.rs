//! Copies without a fork: keys are read by `SCAN` and `DUMP` beside the stream, and in the end everything is the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use preshard::config::CopyMethod;
use preshard::migration::{Copy, CopyError, CopyPlan, Phase};
use preshard::resp::Value;

use crate::data::{EXPIRING, FIELDS, PLAIN, fill};
use crate::kit::{
    Conn, Cutter, MOVED, OTHER, PATIENCE, Writer, assert_same, endpoint, plan, runtime, wait_streaming,
    wait_until,
};
use crate::moves::fill_giants;
use crate::server::{Server, at_hand, bytes};

const KEYS: u32 = 6_000;

fn by_scan(source: &Server, target: &Server, dbs: &[u16]) -> CopyPlan {
    let mut plan = plan(source, target, dbs);
    plan.limits.method = CopyMethod::Scan;
    plan
}

/// Small values of all types in two databases, some of which expire soon.
fn fill_small(source: &Server, dbs: &[u16]) {
    for db in dbs {
        let mut conn = Conn::to(source, *db);
        for n in 0..KEYS / 6 {
            for line in [
                format!("SET old:s:{n} value{n} PX {}", 1 + n * 20),
                format!("RPUSH old:l:{n} a b {n}"),
                format!("HSET old:h:{n} f {n} g v"),
                format!("SADD old:t:{n} a {n}"),
                format!("ZADD old:z:{n} 1.5 a {n} b"),
                format!("XADD old:x:{n} 5-{} f v", n + 1),
            ] {
                conn.line(&line);
            }
        }
    }
}

/// Writes to keys that are there before anybody reads them, in ways that need more than one key.
struct Mixer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<u64>>>,
}

impl Mixer {
    fn start(source: &Server, db: u16, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, socket) = (Arc::clone(&stop), source.socket());
        let thread = std::thread::spawn(move || {
            let (mut conn, mut random) = (Conn::at(&socket, db), fastrand::Rng::with_seed(seed));
            let mut pushed = vec![0; 8];
            let mut round = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                let mut old = || random.u32(0..KEYS / 6);
                let (one, other) = (old(), old());
                let list = usize::try_from(round % 8).unwrap();
                let reply = conn.line(&format!("RPUSH seq:{seed}:{list} {}", pushed[list]));
                pushed[list] += 1;
                assert_eq!(reply, Value::Int(i64::try_from(pushed[list]).unwrap()));
                for line in [
                    format!("INCR count:{seed}:{}", round % 50),
                    format!("RPUSH old:l:{one} more"),
                    format!("RENAME old:h:{one} old:h:{other}"),
                    format!("SMOVE old:t:{one} old:t:{other} a"),
                    format!("ZUNIONSTORE old:z:{one} 2 old:z:{one} old:z:{other}"),
                    format!("SUNIONSTORE union:{round} old:t:{one} old:t:{other}"),
                    format!("DEL old:s:{one} union:{}", round.saturating_sub(40)),
                    format!("SET old:s:{one} again KEEPTTL"),
                    format!("PEXPIRE old:s:{other} 60000"),
                    format!("XADD old:x:{one} * f v"),
                    format!("LMOVE old:l:{one} old:l:{other} LEFT RIGHT"),
                    format!("COPY old:x:{one} copy:{} REPLACE", round % 9),
                    // Made anew all the time, behind the back of any SCAN.
                    format!("HSET tmp:{round} f {round}"),
                    format!("RENAME tmp:{round} final:{}", round % 7),
                    format!("SORT old:l:{one} ALPHA STORE sorted:{}", round % 5),
                ] {
                    conn.line(&line);
                }
            }
            pushed
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// How much was pushed to each of its lists.
    fn stop(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Mixer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn assert_lists(target: &Server, db: u16, seed: u64, pushed: &[u64]) {
    let mut conn = Conn::to(target, db + MOVED);
    for (list, count) in pushed.iter().enumerate() {
        let Value::Array(found) = conn.line(&format!("LRANGE seq:{seed}:{list} 0 -1")) else {
            panic!("list {list}");
        };
        let found: Vec<u64> = found
            .into_iter()
            .map(|item| String::from_utf8(bytes(item)).unwrap().parse().unwrap())
            .collect();
        assert_eq!(found, (0..*count).collect::<Vec<u64>>(), "list {list}");
    }
}

fn forks(source: &Server) -> String {
    Conn::to(source, 0).info("total_forks")
}

fn failed(copy: &Copy) -> CopyError {
    let now = wait_until(copy, "it gives up", PATIENCE, |now| now.phase == Phase::Failed);
    match now.last_error {
        Some(CopyError::Failed { reason, .. }) => *reason,
        other => panic!("{other:?}"),
    }
}

/// With writers of all kinds all the time.
fn copies(from: &str, to: &str) {
    let servers = at_hand();
    if !servers.contains(&from) || !servers.contains(&to) {
        return;
    }
    let what = format!("{from} to {to}");
    let (mut source, mut target) = (Server::start(from), Server::start(to));
    let dbs = [0, 3];
    if from == "redis 6.2" {
        Conn::to(&source, 0).line("CONFIG SET repl-diskless-sync yes");
    }
    fill_small(&source, &[0, 3, OTHER]);
    let mut writers: Vec<Writer> = [0, 3, OTHER]
        .into_iter()
        .zip(1..)
        .filter(|(db, _)| *db == OTHER || source.expires_fields() == target.expires_fields())
        .map(|(db, seed)| Writer::start(&source, db, seed))
        .collect();
    let mixers = dbs.map(|db| Mixer::start(&source, db, u64::from(db) + 50));
    let runtime = runtime();
    let mut plan = by_scan(&source, &target, &dbs);
    // So that a good deal is written meanwhile.
    plan.limits.rate_bytes_per_s = Some(600_000);
    let before = forks(&source);
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    runtime.block_on(copy.until_streaming()).unwrap();
    println!("{what}: {:?}", copy.progress());
    runtime.block_on(copy.unpark(Duration::from_secs(80))).unwrap();
    std::thread::park_timeout(Duration::from_millis(300));
    for writer in &mut writers {
        writer.stop();
    }
    let pushed = mixers.map(Mixer::stop);
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &dbs, &what);
    for (db, pushed) in dbs.iter().zip(&pushed) {
        assert!(pushed.iter().sum::<u64>() > 100, "{pushed:?}");
        assert_lists(&target, *db, u64::from(*db) + 50, pushed);
    }
    let now = copy.progress();
    assert_eq!((now.restarts, now.alarms), (0, 0), "{now:?}");
    assert!(now.keys >= u64::from(KEYS), "{now:?}");
    assert_eq!(forks(&source), before, "{what}");
    for counts in runtime.block_on(copy.counts()).unwrap() {
        assert!(counts.agree(), "{what}: {counts:?}");
    }
    runtime.block_on(copy.stop()).unwrap();
}

#[test]
fn redis_7_0_under_writes_and_without_a_fork() {
    copies("redis 7.0", "redis 7.0");
}

#[test]
fn redis_6_2_to_7_0_under_writes_and_without_a_fork() {
    copies("redis 6.2", "redis 7.0");
}

#[test]
fn redis_8_2_under_writes_and_without_a_fork() {
    copies("redis 8.2", "redis 8.2");
}

#[test]
fn valkey_8_1_under_writes_and_without_a_fork() {
    copies("valkey 8.1", "valkey 8.1");
}

#[test]
fn valkey_9_1_under_writes_and_without_a_fork() {
    copies("valkey 9.1", "valkey 9.1");
}

/// All values in all encodings, large ones among them, and fields that expire.
#[test]
fn all_kinds_of_values_come_over() {
    for name in at_hand() {
        let (mut source, mut target) = (Server::start(name), Server::start(name));
        Conn::to(&source, 0).line("CONFIG SET repl-diskless-sync yes");
        fill(&mut source);
        if name == "redis 7.0" {
            fill_giants(&source);
        }
        let fields = source.expires_fields();
        let mut dbs = vec![PLAIN, EXPIRING];
        dbs.extend(fields.then_some(FIELDS));
        if fields {
            let mut conn = Conn::to(&source, FIELDS);
            let value = "x".repeat(3_000);
            for n in 0..1_000 {
                conn.line(&format!("HSET large f{n} {value}"));
                if n % 3 > 0 {
                    let at = 1_950_000_000_000_u64 + n;
                    conn.line(&format!("HPEXPIREAT large {at} FIELDS 1 f{n}"));
                }
            }
            conn.line("PEXPIREAT large 1960000000123");
        }
        let runtime = runtime();
        let mut copy = runtime.block_on(async { Copy::start(by_scan(&source, &target, &dbs)) });
        runtime.block_on(copy.until_streaming()).unwrap();
        runtime.block_on(copy.unpark(Duration::from_secs(5))).unwrap();
        assert_same(&runtime, &mut copy, (&mut source, &mut target), &dbs, name);
        assert_eq!(copy.progress().restarts, 0);
    }
}

/// A large value that somebody writes now and then is read anew; one that is written all the time ends the copy, with the reason.
#[test]
fn a_large_value_that_is_written_is_read_again_and_given_up_in_the_end() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    fill_giants(&source);
    let runtime = runtime();
    let mut conn = Conn::to(&source, PLAIN);
    let mut copy = runtime.block_on(async { Copy::start(by_scan(&source, &target, &[PLAIN])) });
    for line in [
        "HSET giant:hash written 1",
        "RPUSH giant:list written",
        "DEL giant:zset",
    ] {
        let before = copy.progress().bytes;
        wait_until(&copy, "it reads on", PATIENCE, |now| {
            now.phase == Phase::Streaming || now.bytes > before + 2_000_000
        });
        conn.line(line);
    }
    runtime.block_on(copy.until_streaming()).unwrap();
    runtime.block_on(copy.unpark(Duration::from_secs(5))).unwrap();
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[PLAIN],
        "written once",
    );
    runtime.block_on(copy.stop()).unwrap();
    let target = Server::start("redis 7.0");
    let (stop, socket) = (Arc::new(AtomicBool::new(false)), source.socket());
    let stopped = Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        let (mut conn, mut n) = (Conn::at(&socket, PLAIN), 0);
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            conn.line(&format!("HSET giant:hash written {n}"));
        }
    });
    let copy = runtime.block_on(async { Copy::start(by_scan(&source, &target, &[PLAIN])) });
    let error = failed(&copy);
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(
        matches!(error, CopyError::TooLarge { bytes } if bytes > 1_000_000),
        "{error}"
    );
    assert_eq!(copy.progress().restarts, 0, "another attempt would end the same");
}

/// A stream has groups, which pieces do not bring over: it is dumped whole, or refused.
#[test]
fn a_large_stream_comes_whole_or_is_refused() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, 3);
    let value = "x".repeat(30_000);
    let mut add = |count| {
        for _ in 0..count {
            conn.line(&format!("XADD large * f {value}"));
        }
    };
    add(100);
    for line in [
        "SET small v",
        "XGROUP CREATE large g 0",
        "XREADGROUP GROUP g c COUNT 2 STREAMS large >",
    ] {
        Conn::to(&source, 3).line(line);
    }
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(by_scan(&source, &target, &[3])) });
    runtime.block_on(copy.until_streaming()).unwrap();
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &[3], "a stream");
    runtime.block_on(copy.stop()).unwrap();
    add(250);
    let target = Server::start("redis 7.0");
    let copy = runtime.block_on(async { Copy::start(by_scan(&source, &target, &[3])) });
    let error = failed(&copy);
    assert!(matches!(error, CopyError::TooLarge { .. }), "{error}");
}

/// Both links are cut again and again, and the target's: the copy goes on, or begins again.
#[test]
fn what_is_cut_in_the_middle_goes_on_or_begins_again() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    fill_small(&source, &[0, 3]);
    let (before, behind) = (Cutter::to(&source), Cutter::to(&target));
    let mixer = Mixer::start(&source, 3, 9);
    let mut plan = by_scan(&source, &target, &[0, 3]);
    plan.source = endpoint(before.socket.clone());
    plan.target = endpoint(behind.socket.clone());
    plan.limits.rate_bytes_per_s = Some(400_000);
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    for cutter in [&before, &behind] {
        let restarts = copy.progress().restarts;
        wait_until(&copy, "it reads", PATIENCE, |now| {
            now.phase == Phase::Snapshot && now.keys > 300
        });
        cutter.cut();
        wait_until(&copy, "it begins again", PATIENCE, |now| now.restarts > restarts);
    }
    let now = wait_streaming(&copy);
    before.cut();
    wait_until(&copy, "the stream goes on", PATIENCE, |later| {
        later.applied_offset > now.applied_offset + 20_000
    });
    runtime.block_on(copy.until_streaming()).unwrap();
    let pushed = mixer.stop();
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &[0, 3], "cut");
    assert_lists(&target, 3, 9, &pushed);
    assert_eq!(copy.progress().restarts, now.restarts);
}

/// Databases that are emptied while they are read, before they are, and behind it.
#[test]
fn flushed_and_swapped_databases() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    fill_small(&source, &[0, 3, 5]);
    let mut plan = by_scan(&source, &target, &[0, 3, 5]);
    plan.limits.rate_bytes_per_s = Some(300_000);
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    let mut conn = Conn::to(&source, 0);
    let at = |keys: u64| {
        wait_until(&copy, "it reads", PATIENCE, |now| now.keys > keys);
    };
    at(500);
    for line in [
        "MULTI",
        "SET old:s:3 x",
        "FLUSHDB",
        "RPUSH behind 1",
        "EXEC",
        "RPUSH behind 2",
    ] {
        conn.line(line);
    }
    conn.line("SELECT 5");
    for line in ["FLUSHDB ASYNC", "RPUSH behind 3"] {
        conn.line(line);
    }
    runtime.block_on(copy.until_streaming()).unwrap();
    conn.line("RPUSH behind 4");
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[0, 3, 5],
        "flushed",
    );
    assert_eq!(copy.progress().restarts, 0);
    runtime.block_on(copy.thaw()).unwrap();
    conn.line("SWAPDB 3 20");
    wait_until(&copy, "it begins again", PATIENCE, |now| now.restarts == 1);
    runtime.block_on(copy.until_streaming()).unwrap();
    conn.line("FLUSHALL");
    conn.line("SET last 1");
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[0, 3, 5],
        "swapped",
    );
}

/// Keys expire on the source while it is read, and are renewed there.
#[test]
fn what_expires_meanwhile_is_gone_and_what_is_renewed_is_not() {
    let (mut source, mut target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, 3);
    for n in 0..4_000 {
        conn.line(&format!("SET dies:{n} v PX {}", 200 + n / 2));
        conn.line(&format!("SET lives:{n} 1 PX 1500"));
    }
    let mut plan = by_scan(&source, &target, &[3]);
    plan.limits.rate_bytes_per_s = Some(250_000);
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    let mut round = 0;
    while copy.progress().phase != Phase::Streaming || round < 2 {
        round += 1;
        assert!(round < 60 && copy.progress().phase != Phase::Failed);
        for n in 0..4_000 {
            conn.line(&format!("INCR lives:{n}"));
            conn.line(&format!("PEXPIRE lives:{n} 1500"));
        }
    }
    for n in 0..4_000 {
        // A slow machine may have lost it.
        conn.line(&format!("INCR lives:{n}"));
        conn.line(&format!("PEXPIRE lives:{n} 100000"));
    }
    runtime.block_on(copy.until_streaming()).unwrap();
    runtime.block_on(copy.unpark(Duration::from_secs(5))).unwrap();
    assert_same(&runtime, &mut copy, (&mut source, &mut target), &[3], "expiry");
    let counts = runtime.block_on(copy.counts()).unwrap();
    // One may have expired between its two last requests, on both sides then.
    assert!(counts[0].target_keys > 3_900, "{counts:?}");
    assert_eq!(copy.progress().restarts, 0);
}

/// A source that has never had a replica, and would fork to begin its history.
#[test]
fn a_source_that_would_fork_is_refused() {
    let (source, target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, 3);
    conn.line("SET k v");
    conn.line("CONFIG SET repl-diskless-sync no");
    let runtime = runtime();
    let copy = runtime.block_on(async { Copy::start(by_scan(&source, &target, &[3])) });
    let error = failed(&copy);
    assert_eq!(error, CopyError::NeedsFork);
    assert_eq!(copy.progress().restarts, 0);
    drop(runtime.block_on(copy.stop()));
    conn.line("CONFIG SET repl-diskless-sync yes");
    let copy = runtime.block_on(async { Copy::start(by_scan(&source, &target, &[3])) });
    wait_streaming(&copy);
    assert_eq!(forks(&source), "0");
}

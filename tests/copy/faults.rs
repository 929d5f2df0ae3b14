//! Copies where something goes wrong: either nothing of it is to be seen at the end, or the reason is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use preshard::migration::{Copy, CopyError, CopyLimits, CopyPlan, Phase};
use preshard::resp::Value;

use crate::kit::{
    Conn, Cutter, Frozen, MOVED, PATIENCE, Writer, assert_same, endpoint, plan, runtime, wait_streaming,
    wait_until,
};
use crate::server::Server;

const KEYS: u32 = 3_000;

fn pair() -> (Server, Server) {
    let (source, target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let mut conn = Conn::to(&source, 3);
    for n in 0..KEYS {
        conn.ask(&[b"SET", format!("key{n}").as_bytes(), &[b'v'; 200]]);
    }
    (source, target)
}

fn small(limits: &CopyLimits) -> CopyLimits {
    CopyLimits {
        backoff: Duration::from_millis(20),
        restarts_max: 2,
        silence: Duration::from_secs(4),
        ..limits.clone()
    }
}

fn reason_of(copy: &Copy) -> CopyError {
    let now = wait_until(copy, "the copy has given up", PATIENCE, |now| {
        now.phase == Phase::Failed
    });
    match now.last_error {
        Some(CopyError::Failed { reason, .. }) => *reason,
        other => panic!("{other:?}"),
    }
}

/// Links that are cut while the stream flows go on where they ended.
#[test]
fn a_cut_stream_goes_on_without_a_gap() {
    let (mut source, mut target) = pair();
    let relay = Cutter::to(&source);
    let plan = CopyPlan {
        source: endpoint(relay.socket.clone()),
        ..plan(&source, &target, &[0, 3])
    };
    let runtime = runtime();
    let mut writers = [Writer::start(&source, 0, 1), Writer::start(&source, 3, 2)];
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    wait_streaming(&copy);
    for _ in 0..5 {
        let offset = copy.progress().applied_offset;
        relay.cut();
        wait_until(&copy, "it goes on", PATIENCE, |now| {
            now.applied_offset > offset + 20_000
        });
    }
    runtime.block_on(copy.until_streaming()).unwrap();
    for writer in &mut writers {
        writer.stop();
    }
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[0, 3],
        "cut streams",
    );
    assert_eq!(copy.progress().restarts, 0, "{:?}", copy.progress());
}

/// A snapshot that ends in the middle, and a target that loses its connection: once more from the beginning.
#[test]
fn a_cut_snapshot_or_target_begins_again() {
    let (mut source, mut target) = pair();
    let (before, behind) = (Cutter::to(&source), Cutter::to(&target));
    before.cut_after(30_000);
    let plan = CopyPlan {
        source: endpoint(before.socket.clone()),
        target: endpoint(behind.socket.clone()),
        ..plan(&source, &target, &[0, 3])
    };
    let runtime = runtime();
    // Nobody writes yet, so that it is the snapshot that is cut.
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    wait_until(&copy, "the snapshot is cut", PATIENCE, |_| before.has_cut());
    let mut writers = [Writer::start(&source, 0, 1), Writer::start(&source, 3, 2)];
    let now = wait_streaming(&copy);
    assert!(now.restarts >= 1, "{now:?}");
    behind.cut();
    wait_until(&copy, "it begins again", PATIENCE, |later| {
        later.restarts > now.restarts
    });
    runtime.block_on(copy.until_streaming()).unwrap();
    for writer in &mut writers {
        writer.stop();
    }
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[0, 3],
        "cut twice",
    );
}

/// What the target cannot do shows that it is not the same: it is cleared, and nobody else's key is.
#[test]
fn an_error_of_the_target_begins_again() {
    let (mut source, mut target) = pair();
    Conn::to(&target, 30).line("SET stays 1");
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
    wait_streaming(&copy);
    let mut conn = Conn::to(&source, 3);
    Conn::to(&target, 3 + MOVED).line("SET list x");
    for line in ["MULTI", "SET fine 1", "RPUSH list 1 2", "EXEC"] {
        conn.line(line);
    }
    let now = wait_until(&copy, "it begins again", PATIENCE, |now| now.restarts == 1);
    let error = now.last_error.unwrap();
    assert!(
        matches!(&error, CopyError::TargetRefused(said) if said.starts_with("WRONGTYPE")),
        "{error}"
    );
    runtime.block_on(copy.until_streaming()).unwrap();
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[0, 3],
        "after an error",
    );
    assert_eq!(
        Conn::to(&target, 30).line("GET stays"),
        Value::Bulk(b"1".to_vec())
    );
}

/// Keys that were there before the copy are not ours to clear.
#[test]
fn a_target_that_is_not_empty_is_left_alone() {
    let (source, target) = pair();
    let mut conn = Conn::to(&target, 3 + MOVED);
    conn.line("SET mine 1");
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
    assert!(runtime.block_on(copy.until_streaming()).is_err());
    assert!(matches!(reason_of(&copy), CopyError::TargetNotEmpty(_)));
    assert_eq!(conn.line("GET mine"), Value::Bulk(b"1".to_vec()));
    assert_eq!(conn.line("DBSIZE"), Value::Int(1));
}

#[test]
fn a_swapped_database_begins_again() {
    let (mut source, mut target) = pair();
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
    wait_streaming(&copy);
    Conn::to(&source, 0).line("SWAPDB 3 20");
    wait_until(&copy, "it begins again", PATIENCE, |now| now.restarts == 1);
    runtime.block_on(copy.until_streaming()).unwrap();
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[0, 3],
        "swapped",
    );
}

/// The source dies: the reason is told, and the target is not waited for.
#[test]
fn a_killed_source_is_named() {
    let (mut source, target) = pair();
    let runtime = runtime();
    let mut plan = plan(&source, &target, &[0, 3]);
    plan.limits = small(&plan.limits);
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    wait_streaming(&copy);
    source.kill();
    let error = reason_of(&copy);
    assert!(matches!(error, CopyError::Source(_)), "{error}");
    assert!(runtime.block_on(copy.drain_to(0)).is_err());
}

#[test]
fn a_killed_target_is_named() {
    let (source, mut target) = pair();
    let runtime = runtime();
    let mut plan = plan(&source, &target, &[0, 3]);
    plan.limits = small(&plan.limits);
    let copy = runtime.block_on(async { Copy::start(plan) });
    wait_streaming(&copy);
    target.kill();
    let error = reason_of(&copy);
    assert!(matches!(error, CopyError::Target(_)), "{error}");
}

/// Stopped processes take connections and bytes: they are named by their silence.
#[test]
fn a_stopped_source_is_named() {
    let (source, target) = pair();
    let runtime = runtime();
    let mut plan = plan(&source, &target, &[0, 3]);
    plan.limits = CopyLimits {
        restarts_max: 0,
        ..small(&plan.limits)
    };
    let copy = runtime.block_on(async { Copy::start(plan) });
    wait_streaming(&copy);
    let begin = Instant::now();
    let _frozen = Frozen::new(&source);
    let error = reason_of(&copy);
    assert!(matches!(error, CopyError::SourceSilent(_)), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

/// What was written to a stopped target is not done by it later, when it has been cleared meanwhile.
#[test]
fn a_stopped_target_is_named_and_begun_again() {
    let (mut source, mut target) = pair();
    let runtime = runtime();
    let mut plan = plan(&source, &target, &[0, 3]);
    plan.limits = CopyLimits {
        restarts_max: 8,
        ..small(&plan.limits)
    };
    let mut writers = [Writer::start(&source, 0, 1), Writer::start(&source, 3, 2)];
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    wait_streaming(&copy);
    let frozen = Frozen::new(&target);
    let now = wait_until(&copy, "it is noticed", PATIENCE, |now| now.restarts >= 1);
    assert!(
        matches!(now.last_error, Some(CopyError::TargetSilent(_))),
        "{now:?}"
    );
    drop(frozen);
    runtime.block_on(copy.until_streaming()).unwrap();
    for writer in &mut writers {
        writer.stop();
    }
    assert_same(
        &runtime,
        &mut copy,
        (&mut source, &mut target),
        &[0, 3],
        "after a stop",
    );
}

/// A target that stands still while the source writes on: memory, then the file, then the end.
#[test]
fn a_full_spool_is_named() {
    let (source, target) = pair();
    let runtime = runtime();
    let mut plan = plan(&source, &target, &[0, 3]);
    plan.limits = CopyLimits {
        spool_memory: 1_000_000,
        spool_max: 4_000_000,
        silence: Duration::from_secs(30),
        restarts_max: 0,
        ..plan.limits
    };
    let copy = runtime.block_on(async { Copy::start(plan) });
    wait_streaming(&copy);
    let _frozen = Frozen::new(&target);
    let mut conn = Conn::to(&source, 3);
    let value = vec![b'v'; 100_000];
    for n in 0..100 {
        conn.ask(&[b"SET", format!("key{n}").as_bytes(), &value]);
    }
    assert_eq!(reason_of(&copy), CopyError::SpoolFull(4_000_000));
}

/// When it is stopped in the middle, the target gets nothing more, however much was on its way.
#[test]
fn a_stopped_copy_writes_nothing_more() {
    let (source, target) = pair();
    let runtime = runtime();
    let writers = [Writer::start(&source, 0, 1), Writer::start(&source, 3, 2)];
    for round in 0..5 {
        let copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[0, 3])) });
        wait_until(&copy, "something is there", PATIENCE, |now| {
            now.keys > 0 && (round % 2 == 0 || now.phase == Phase::Streaming)
        });
        let stopped = runtime.block_on(copy.stop());
        let mut conn = Conn::to(&target, 0);
        conn.line("FLUSHALL");
        stopped.unwrap();
        for _ in 0..20 {
            conn.line("PING");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(conn.info("db13"), "", "round {round}");
        assert_eq!(conn.info("db10"), "", "round {round}");
    }
    drop(writers);
}

/// The copy is another one after it has begun again: who waits for the old one is told.
#[test]
fn orders_do_not_outlive_an_attempt() {
    let (source, target) = pair();
    let runtime = runtime();
    let mut plan = plan(&source, &target, &[0, 3]);
    plan.limits.backoff = Duration::from_secs(60);
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    let early = runtime.block_on(copy.drain_to(0));
    assert_eq!(early.unwrap_err(), CopyError::NotStreaming);
    wait_streaming(&copy);
    // Who gives up waiting can thaw, and nothing has happened.
    let soon = Duration::from_millis(100);
    let waited = runtime.block_on(async { tokio::time::timeout(soon, copy.drain_to(u64::MAX - 1)).await });
    assert!(waited.is_err());
    runtime.block_on(copy.thaw()).unwrap();
    assert_eq!(copy.progress().restarts, 0);
    let swapping = Arc::new(AtomicBool::new(false));
    let swap = std::thread::spawn({
        let (mut conn, swapping) = (Conn::to(&source, 0), Arc::clone(&swapping));
        move || {
            while !swapping.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            conn.line("SWAPDB 3 20")
        }
    });
    let begin = Instant::now();
    swapping.store(true, Ordering::Relaxed);
    let error = runtime.block_on(copy.drain_to(u64::MAX - 1)).unwrap_err();
    assert!(matches!(error, CopyError::Inapplicable(_)), "{error}");
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "not only after the pause"
    );
    swap.join().unwrap();
}

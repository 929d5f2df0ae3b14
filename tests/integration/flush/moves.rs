//! Shards move all the time, proxies are killed, flushers flush: each increment that was acknowledged counts once.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::kit::{Flush, PATIENCE, pending, prepare, sum};
use super::postgres::Postgres;
use crate::harness::{Client, Etcd, Node, Proxy, Setup, small, sys, wait_for, wait_until};
use crate::moving::ask;

/// Counts until it is told to stop: what was acknowledged, and what is in doubt.
fn writer(proxy: &Proxy, first: u32, stop: &AtomicBool, doubt: &AtomicI64) -> i64 {
    let (mut client, mut sum, mut round) = (proxy.client3(), 0, 0_u32);
    client.limit = Duration::from_secs(30);
    while !stop.load(Relaxed) {
        let member = format!("m{}", (first + round) % 100);
        round += 1;
        client.command(&["COUNTER.INCR", "events", &member, "3"]);
        match client.try_reply_bytes() {
            Ok(bytes) if bytes.first() == Some(&b':') => sum += 3,
            Ok(bytes) => {
                let line = String::from_utf8_lossy(&bytes).into_owned();
                let sure = line.starts_with("-TRYAGAIN") || line.starts_with("-CLUSTERDOWN");
                assert!(sure || line.starts_with("-UNCERTAIN"), "{line}");
                if !sure {
                    doubt.fetch_add(3, Relaxed);
                }
            }
            Err(_) => {
                // The proxy has died: the last one may have run.
                doubt.fetch_add(3, Relaxed);
                return sum;
            }
        }
    }
    sum
}

/// Orders a move and waits for its end; whether it has moved. Errors mean that the one who was asked has died.
fn try_move(admin: &mut Client, shards: &str, target: &str) -> Option<bool> {
    let ask = |admin: &mut Client, line: &str| {
        admin.command(&line.split(' ').collect::<Vec<_>>());
        let bytes = admin.try_reply_bytes().ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let order = ask(admin, &format!("PRESHARD SHARD MOVE {shards} TO {target}"))?;
    let Some(task) = order
        .lines()
        .nth(1)
        .filter(|_| order.starts_with('$'))
        .map(str::to_owned)
    else {
        return Some(false);
    };
    let end = wait_for("the move ends", PATIENCE, || {
        let Some(status) = ask(admin, &format!("PRESHARD TASK STATUS {task}")) else {
            return Some(None);
        };
        let is = |word: &str| status.lines().any(|line| line == word);
        if is("moved") {
            return Some(Some(true));
        }
        (is("failed") || is("cancelled")).then_some(Some(false))
    });
    if end == Some(true) {
        ask(admin, &format!("PRESHARD TASK FINALIZE {task}"))?;
    }
    end
}

#[test]
fn shards_move_all_the_time_and_the_sum_is_what_was_counted() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let (_nodes, proxy) = small();
    let mut flush = Flush::new(proxy.data, &postgres);
    flush.workers = 2;
    let flushers = [flush.start(), flush.start()];
    let (stop, doubt) = (AtomicBool::new(false), AtomicI64::new(0));
    let mut admin = proxy.admin_client();
    let mut moved = 0;
    let counted: i64 = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let (proxy, stop, doubt) = (&proxy, &stop, &doubt);
                scope.spawn(move || writer(proxy, number * 25, stop, doubt))
            })
            .collect();
        let started = Instant::now();
        for round in 0.. {
            let (shards, target) = [
                ("0-3", "node-2"),
                ("2-5", "node-1"),
                ("0-7", "node-2"),
                ("0-7", "node-1"),
            ][round % 4];
            moved += usize::from(try_move(&mut admin, shards, target) == Some(true));
            // On a busy machine a few are enough.
            if moved >= 6 || moved >= 3 && started.elapsed() > Duration::from_secs(20) {
                break;
            }
            assert!(started.elapsed() < PATIENCE * 2, "{moved} moves");
        }
        stop.store(true, Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let mut client = proxy.client3();
    wait_until("all is flushed", PATIENCE, || pending(&mut client) == 0);
    let doubt = doubt.load(Relaxed);
    let found = sum(&postgres);
    println!("{counted} counted, {doubt} in doubt, {moved} moves");
    assert!(
        (counted..=counted + doubt).contains(&found),
        "{found} of {counted} and {doubt}"
    );
    assert_eq!(doubt, 0, "a move leaves nothing in doubt");
    for flusher in &flushers {
        assert_eq!(
            flusher.metric("preshard_flush_chain_total"),
            0,
            "{}",
            flusher.log()
        );
    }
}

/// A proxy moves all shards, counts and flushes, and is killed meanwhile: what was acknowledged.
fn kill_a_proxy_that_moves(
    setup: &Setup,
    target: &str,
    postgres: &Postgres,
    stop: &AtomicBool,
    doubt: &AtomicI64,
) -> i64 {
    let mut dies = setup.start();
    let through = Flush::new(dies.data, postgres).start();
    let mut admin = dies.admin_client();
    admin.command(&["PRESHARD", "SHARD", "MOVE", "0-7", "TO", target]);
    let pid = dies.pid();
    let counted = thread::scope(|scope| {
        let before = sum(postgres);
        let beside = scope.spawn(|| writer(&dies, 7, stop, doubt));
        wait_until("it counts and flushes", PATIENCE, || sum(postgres) > before);
        sys::send_signal(pid, libc::SIGKILL);
        beside.join().unwrap()
    });
    dies.kill();
    drop(through);
    counted
}

/// The one that stays leads now, and ends what was begun, or gives it up.
fn await_no_task(proxy: &Proxy) {
    let mut admin = proxy.admin_client();
    wait_until("no task is under way", PATIENCE, || {
        let tasks = ask(&mut admin, "TASK LIST").items();
        tasks.iter().all(|task| {
            let state = task.field("state").map(|state| state.text());
            matches!(
                state.as_deref(),
                Some("moved" | "finalized" | "failed" | "cancelled" | "done")
            )
        })
    });
}

/// Two proxies on etcd; the one that moves shards and has clients is killed in the middle, several times.
#[test]
fn proxies_are_killed_while_shards_move_and_counters_are_flushed() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses).store(&etcd.store("flush")).announce(&[
        "move_not_undone",
        "cutover_given_up",
        "copy_ended",
        "link_closed",
        "move_failed",
        "no_way_back",
    ]);
    let stays = setup.start();
    let flushers = [
        Flush::new(stays.data, &postgres).start(),
        Flush::new(stays.data, &postgres).start(),
    ];
    let (stop, doubt) = (AtomicBool::new(false), AtomicI64::new(0));
    let counted: i64 = thread::scope(|scope| {
        let steady: Vec<_> = (0..2)
            .map(|number| {
                let (proxy, stop, doubt) = (&stays, &stop, &doubt);
                scope.spawn(move || writer(proxy, number * 50, stop, doubt))
            })
            .collect();
        let mut counted = 0;
        for target in ["node-2", "node-1"] {
            counted += kill_a_proxy_that_moves(&setup, target, &postgres, &stop, &doubt);
            await_no_task(&stays);
        }
        stop.store(true, Relaxed);
        counted
            + steady
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .sum::<i64>()
    });
    let mut client = stays.client3();
    wait_until("all is flushed", PATIENCE, || pending(&mut client) == 0);
    let (doubt, found) = (doubt.load(Relaxed), sum(&postgres));
    println!("{counted} counted, {doubt} in doubt, {found} found");
    assert!(
        (counted..=counted + doubt).contains(&found),
        "{found} of {counted} and {doubt}"
    );
    for flusher in &flushers {
        assert_eq!(
            flusher.metric("preshard_flush_chain_total"),
            0,
            "{}",
            flusher.log()
        );
    }
}

//! `PRESHARD TASK ROLLBACK` on real nodes: shards go back with all that was written since, or it is said why they cannot.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::harness::{
    Client, Etcd, Node, NodeOptions, Proxy, Setup, StopAtEnd, key_in, small, sys, undisturbed, wait_for,
    wait_until,
};
use crate::moving::{
    BEARS, PATIENCE, Pair, ask, field, lists, move_there, order, roll_back, state, tell, under_writes,
    until_moved, until_ready, until_reversible, users_of_moves,
};

/// An expiry that is renewed all the time.
const LIVES: Duration = Duration::from_secs(4);

/// A field of what is told of a task.
fn told(admin: &mut Client, task: &str, name: &str) -> String {
    field(&state(admin, task).1, name)
}

/// It is told that there is no way back, and why.
fn until_irreversible(admin: &mut Client, task: &str) {
    wait_until("it is told", PATIENCE, || {
        told(admin, task, "rollback").starts_with("no (")
    });
}

/// Waits until a key that is set now has lived for so long: as long as the expiries that this is about, by the same clock.
fn let_pass(proxy: &Proxy, time: Duration) {
    let mut client = proxy.client();
    // It does not move.
    let key = key_in(7, 8, "marker");
    let time = time.as_millis().to_string();
    client.call(&["SET", &key, "v", "PX", &time]).expect_ok();
    wait_until("it has expired", PATIENCE, || {
        client.call(&["EXISTS", &key]).int() == 0
    });
}

#[test]
fn shards_go_back_under_writes_with_all_that_was_written_since() {
    undisturbed(BEARS, go_back_under_writes);
}

fn go_back_under_writes() {
    let (nodes, proxy) = small();
    let (mut admin, lists) = (proxy.admin_client(), lists(8));
    under_writes(&proxy, &lists, || {
        for round in 0..4 {
            let task = move_there(&mut admin, "0-3", "node-2");
            // Longer than a batch, a second of idle notes and a walk.
            let_pass(&proxy, Duration::from_millis(1 + 300 * round));
            let row = roll_back(&mut admin, &task);
            println!(
                "there: {} ms, back: {} ms",
                field(&row, "pause_ms"),
                field(&row, "rollback_pause_ms")
            );
            assert_eq!(field(&ask(&mut admin, "SHARD INFO 0"), "node"), "node-1");
        }
    });
    let kept = nodes[0].all_keys(12).len() + nodes[1].all_keys(12).len();
    assert_eq!(kept, lists.len(), "no copy is left");
    for node in &nodes {
        assert_eq!(users_of_moves(node), Vec::<String>::new());
    }
    let notes = nodes[0].client_in(12).ask("KEYS preshard:reverse:*").items();
    assert_eq!(notes, Vec::new());
    for direction in ["forward", "back"] {
        let cutovers =
            format!("preshard_migration_cutovers_total{{direction=\"{direction}\",outcome=\"moved\"}}");
        proxy.await_metric(&cutovers, 4);
        let pauses = format!("preshard_migration_pause_seconds_count{{direction=\"{direction}\"}}");
        proxy.await_metric(&pauses, 4);
    }
    proxy.await_metric("preshard_migration_tasks{state=\"rolled-back\"}", 4);
}

/// Writes into the record of a task that it was over at another time.
fn set_finished(proxy: &Proxy, task: &str, ago: Duration) {
    let path = format!("{}.tasks/{task}.json", proxy.store);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, behind) = text.split_once("\"finished\":").unwrap();
    let behind = behind.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let finished = (now - ago).as_secs();
    std::fs::write(&path, format!("{before}\"finished\":{finished}{behind}")).unwrap();
}

#[test]
fn the_sources_copy_goes_when_its_time_is_over_and_not_before() {
    undisturbed(BEARS, let_its_time_be_over);
}

fn let_its_time_be_over() {
    let (nodes, mut proxy) = small();
    let mut client = proxy.client();
    let keys: Vec<String> = (0..4)
        .map(|shard| key_in(shard, 8, &format!("k{shard}-")))
        .collect();
    for key in &keys {
        client.call(&["SET", key, "v"]).expect_ok();
    }
    let left = |nodes: &[Node]| -> i64 { (0..4).map(|db| nodes[0].client_in(db).ask("DBSIZE").int()).sum() };
    let task = move_there(&mut proxy.admin_client(), "0-3", "node-2");
    // As if two minutes had passed. A day may pass unless it is said otherwise.
    proxy.stop();
    set_finished(&proxy, &task, Duration::from_secs(120));
    let proxy = proxy.setup.clone().store(&proxy.store).start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    until_reversible(&mut admin, &task);
    assert_eq!(left(&nodes), 4);
    client.call(&["SET", &keys[0], "w"]).expect_ok();
    wait_until("the source follows", PATIENCE, || {
        nodes[0].client_in(0).call(&["GET", &keys[0]]).text() == "w"
    });
    assert_eq!(state(&mut admin, &task).0, "moved");
    let set = admin.ask("PRESHARD CONFIG SET migration.retention 119s");
    assert_eq!(set.error(), None);
    wait_until("it is over", PATIENCE, || {
        let (state, row) = state(&mut admin, &task);
        assert!(matches!(state.as_str(), "moved" | "finalized"), "{row:?}");
        state == "finalized"
    });
    assert_eq!(left(&nodes), 0, "it is cleared before the task says so");
    assert_eq!(told(&mut admin, &task, "rollback"), "no (its time is over)");
    assert_eq!(users_of_moves(&nodes[0]), Vec::<String>::new());
    assert_eq!(client.call(&["GET", &keys[0]]).text(), "w");
    assert_eq!(client.call(&["GET", &keys[3]]).text(), "v");
}

#[test]
fn values_of_all_types_and_renewed_expiries_go_back() {
    undisturbed(BEARS, take_all_types_back);
}

fn take_all_types_back() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = |name: &str| key_in(0, 8, name);
    // They expire within the moments of the cutovers, and are renewed all the time.
    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let renewing = scope.spawn(|| {
            let (mut client, mut counts) = (proxy.client(), vec![(0, Instant::now()); 20]);
            let mut rounds = 0;
            while !stop.load(Relaxed) {
                for (number, (count, renewed)) in counts.iter_mut().enumerate() {
                    let key = key_in(0, 8, &format!("renewed{number}-"));
                    let found = client.call(&["INCR", &key]).int();
                    // On a machine that stood still it may have been renewed too late.
                    let late = renewed.elapsed() >= LIVES;
                    assert!(found == *count + 1 || late, "{key}: {found} behind {count}");
                    (*count, *renewed) = (found, Instant::now());
                    client
                        .call(&["PEXPIRE", &key, &LIVES.as_millis().to_string()])
                        .int();
                }
                rounds += 1;
            }
            rounds
        });
        client.call(&["SET", &key("s"), "v", "PX", "600000"]).expect_ok();
        let task = move_there(&mut admin, "0,db:1", "node-2");
        client.call(&["SET", &key("t"), "v", "PX", "700000"]).expect_ok();
        client.call(&["PEXPIRE", &key("s"), "900000"]).int();
        client.call(&["HSET", &key("h"), "f", "v"]).int();
        client.call(&["ZADD", &key("z"), "1.5", "m"]).int();
        client.call(&["SADD", &key("u"), "a", "b", "c"]).int();
        client.call(&["SPOP", &key("u"), "2"]).items();
        client.call(&["XADD", &key("x"), "*", "f", "v"]).text();
        client
            .call(&["XGROUP", "CREATE", &key("x"), "g", "0"])
            .expect_ok();
        client
            .call(&["XREADGROUP", "GROUP", "g", "c", "STREAMS", &key("x"), ">"])
            .items();
        client.call(&["SET", &key("dead"), "v", "PX", "20"]).expect_ok();
        let mut pinned = proxy.client();
        pinned.ask("SELECT 1").expect_ok();
        pinned.ask("SET p v").expect_ok();
        // Longer than those that are renewed would live.
        let_pass(&proxy, Duration::from_secs(5));
        roll_back(&mut admin, &task);
        assert_eq!(pinned.ask("GET p").text(), "v");
        let_pass(&proxy, Duration::from_millis(500));
        drop(stopping);
        renewing.join().unwrap()
    });
    assert!(rounds > 50, "{rounds}");
    for (name, least) in [("s", 800_000), ("t", 600_000)] {
        assert_eq!(client.call(&["GET", &key(name)]).text(), "v");
        let left = client.call(&["PTTL", &key(name)]).int();
        assert!((least..=900_000).contains(&left), "{name}: {left}");
    }
    assert_eq!(client.call(&["HGET", &key("h"), "f"]).text(), "v");
    assert_eq!(client.call(&["SCARD", &key("u")]).int(), 1);
    let pending = client.call(&["XPENDING", &key("x"), "g"]).items();
    assert_eq!(pending[0].int(), 1);
    assert_eq!(client.call(&["EXISTS", &key("dead")]).int(), 0);
    assert_eq!(nodes[1].client_in(0).ask("DBSIZE").int(), 0);
}

#[test]
fn a_word_or_another_move_ends_the_way_back() {
    undisturbed(BEARS, end_the_way_back);
}

fn end_the_way_back() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = key_in(0, 8, "k");
    client.call(&["SET", &key, "v"]).expect_ok();
    let task = order(&mut admin, "SHARD MOVE 0-1 TO node-2 MANUAL");
    assert_eq!(told(&mut admin, &task, "rollback"), "expected");
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(error.contains("has not moved its shards"), "{error}");
    until_ready(&mut admin, &task);
    tell(&mut admin, "CUTOVER", &task);
    until_moved(&mut admin, &task);
    until_reversible(&mut admin, &task);
    client.call(&["RPUSH", &key_in(1, 8, "l"), "a"]).int();
    wait_until("it is followed", PATIENCE, || {
        nodes[0].client_in(1).ask("DBSIZE").int() == 1
    });
    tell(&mut admin, "FINALIZE", &task);
    assert_eq!(nodes[0].client_in(1).ask("DBSIZE").int(), 0);
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(error.contains("is over: finalized"), "{error}");
    // Back by another move, while one of two can still be rolled back; and on.
    let second = move_there(&mut admin, "4-5", "node-1");
    let third = move_there(&mut admin, "0", "node-1");
    let fourth = move_there(&mut admin, "5", "node-2");
    wait_until("the way back of what has moved on is over", PATIENCE, || {
        state(&mut admin, &second).0 == "finalized"
    });
    // The others are not concerned.
    until_reversible(&mut admin, &third);
    client.call(&["RPUSH", &key_in(5, 8, "l"), "a"]).int();
    roll_back(&mut admin, &fourth);
    roll_back(&mut admin, &third);
    assert_eq!(client.call(&["GET", &key]).text(), "v");
    assert_eq!(client.call(&["LLEN", &key_in(5, 8, "l")]).int(), 1);
}

#[test]
fn a_node_that_follows_is_not_removed_and_one_that_has_lost_its_memory_is_no_way_back() {
    undisturbed(BEARS, lose_the_memory);
}

fn lose_the_memory() {
    let source = Node::start();
    let nodes = [Node::start(), Node::start()];
    let addresses = [source.address(), nodes[0].address(), nodes[1].address()];
    let proxy = Setup::of(&addresses)
        .announce(&[
            "node_down",
            "link_closed",
            "copy_ended",
            "no_way_back",
            "node_empty",
            "node_run_changed",
            "node_not_provisioned",
        ])
        .start();
    let mut source = source;
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let shards: Vec<String> = (0..12)
        .filter(|shard| field(&ask(&mut admin, &format!("SHARD INFO {shard}")), "node") == "node-1")
        .map(|shard| shard.to_string())
        .collect();
    let key = key_in(0, 8, "k");
    client.call(&["SET", &key, "v"]).expect_ok();
    let task = move_there(&mut admin, &shards.join(","), "node-2");
    let error = admin.ask("PRESHARD NODE REMOVE node-1").expect_error("ERR ");
    assert!(error.contains(&format!("TASK FINALIZE {task}")), "{error}");
    source.kill();
    client.call(&["RPUSH", &key_in(0, 8, "l"), "a"]).int();
    source.restart();
    until_irreversible(&mut admin, &task);
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(error.contains("has lost its memory"), "{error}");
    tell(&mut admin, "FINALIZE", &task);
    admin.ask("PRESHARD NODE REMOVE node-1").expect_ok();
    assert_eq!(client.call(&["GET", &key]).text(), "v");
}

#[test]
fn a_source_that_comes_back_with_its_memory_follows_on() {
    undisturbed(BEARS, come_back_with_the_memory);
}

fn come_back_with_the_memory() {
    let mut source = Node::with(NodeOptions {
        durable: true,
        ..NodeOptions::default()
    });
    let target = Node::start();
    let proxy = Setup::of(&[source.address(), target.address()])
        .announce(&[
            "node_down",
            "link_closed",
            "copy_ended",
            "node_run_changed",
            "node_not_provisioned",
        ])
        .start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = key_in(0, 8, "l");
    let task = move_there(&mut admin, "0", "node-2");
    for count in 1..=100 {
        assert_eq!(client.call(&["RPUSH", &key, "before"]).int(), count);
    }
    source.kill();
    for count in 101..=200 {
        assert_eq!(client.call(&["RPUSH", &key, "while"]).int(), count);
    }
    source.restart();
    wait_until("it has followed", PATIENCE, || {
        source.client_in(0).call(&["LLEN", &key]).int() == 200
    });
    until_reversible(&mut admin, &task);
    roll_back(&mut admin, &task);
    assert_eq!(client.call(&["RPUSH", &key, "after"]).int(), 201);
}

#[test]
fn a_target_that_has_died_is_no_way_back_and_is_said_so() {
    undisturbed(BEARS, lose_the_target);
}

fn lose_the_target() {
    let source = Node::start();
    let mut target = Node::start();
    let proxy = Setup::of(&[source.address(), target.address()])
        .announce(&[
            "node_down",
            "link_closed",
            "copy_ended",
            "no_way_back",
            "node_empty",
            "node_run_changed",
            "node_not_provisioned",
        ])
        .start();
    let mut admin = proxy.admin_client();
    let task = move_there(&mut admin, "0", "node-2");
    target.kill();
    target.restart();
    until_irreversible(&mut admin, &task);
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(error.contains("SHARD MOVE 0 TO node-1"), "{error}");
}

/// The leader dies while the source follows; the next one goes on with that, and the shards go back.
#[test]
fn another_leader_goes_on_with_the_way_back_or_says_that_there_is_none() {
    undisturbed(BEARS, change_the_leader);
}

fn change_the_leader() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses).store(&etcd.store("rollback")).announce(&[
        "copy_ended",
        "no_way_back",
        "rollback_given_up",
    ]);
    let pair = Pair::start(&setup);
    let mut admin = pair.admin_of_other();
    under_writes(pair.other(), &lists(4), || {
        let task = move_there(&mut admin, "0-3", "node-2");
        sys::send_signal(pair.leading().pid(), libc::SIGKILL);
        let begin = Instant::now();
        // The history reaches back.
        roll_back(&mut admin, &task);
        println!("rolled back {:?} after the leader's death", begin.elapsed());
    });
    assert_eq!(field(&ask(&mut admin, "SHARD INFO 0"), "node"), "node-1");
}

/// The leader dies while the shards go back, somewhere: they are on one side, and nothing is lost.
#[test]
fn a_leader_that_dies_while_it_goes_back_loses_no_write() {
    undisturbed(BEARS, kill_leaders);
}

fn kill_leaders() {
    let etcd = Etcd::start(1);
    thread::scope(|scope| {
        // Most of the time each of them waits for a lease to end.
        for delay in [0, 20, 60, 150, 400] {
            let etcd = &etcd;
            scope.spawn(move || leader_dies(etcd, delay));
        }
    });
}

fn leader_dies(etcd: &Etcd, delay: u64) {
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses)
        .store(&etcd.store(&format!("rollback-{delay}")))
        .announce(&[
            "copy_ended",
            "no_way_back",
            "rollback_given_up",
            "cutover_given_up",
            "move_not_recorded",
        ]);
    let pair = Pair::start(&setup);
    let mut admin = pair.admin_of_other();
    under_writes(pair.other(), &lists(4), || {
        let task = move_there(&mut admin, "0-3", "node-2");
        admin.command(&["PRESHARD", "TASK", "ROLLBACK", &task]);
        let_pass(pair.other(), Duration::from_millis(1_000 + delay));
        sys::send_signal(pair.leading().pid(), libc::SIGKILL);
        let mut admin = pair.admin_of_other();
        let found = wait_for("it is decided", PATIENCE, || {
            let (state, row) = state(&mut admin, &task);
            let rollback = field(&row, "rollback");
            (state == "rolled-back" || state == "moved" && rollback != "soon").then_some((state, rollback))
        });
        println!("after {delay} ms: {found:?}");
        let_pass(pair.other(), Duration::from_millis(300));
    });
}

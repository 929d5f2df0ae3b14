//! `PRESHARD TASK ROLLBACK` on real nodes: shards go back with all that was written since, or it is said why they cannot.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::harness::{
    Client, Etcd, Node, NodeOptions, Proxy, Reply, Setup, StopAtEnd, key_in, small, wait_for, wait_until,
};
use crate::moves::{PATIENCE, assert_lists, move_shards, state, write_list};

fn field(admin: &mut Client, task: &str, name: &str) -> String {
    state(admin, task).1.field(name).unwrap().text()
}

/// Waits until the source follows.
pub(crate) fn wait_reversible(admin: &mut Client, task: &str) {
    wait_until("the source follows", PATIENCE, || {
        let rollback = field(admin, task, "rollback");
        assert!(matches!(rollback.as_str(), "yes" | "soon"), "{rollback}");
        rollback == "yes"
    });
}

/// Moves shards and waits until they can go back: the task's id.
pub(crate) fn move_there(admin: &mut Client, shards: &str, target: &str) -> String {
    let task = move_shards(admin, shards, target).field("task").unwrap().text();
    wait_reversible(admin, &task);
    task
}

pub(crate) fn roll_back(admin: &mut Client, task: &str) {
    let answer = admin.ask(&format!("PRESHARD TASK ROLLBACK {task}"));
    wait_for("it is rolled back", PATIENCE, || {
        let (state, row) = state(admin, task);
        assert!(
            matches!(state.as_str(), "moved" | "rolling-back" | "rolled-back"),
            "{answer:?} {row:?}"
        );
        (state == "rolled-back").then_some(())
    });
}

fn users_of_moves(node: &Node) -> Vec<String> {
    let users = node.client().ask("ACL USERS").items();
    let users = users.iter().map(Reply::text);
    users
        .filter(|user| user.starts_with("ps-u-") || user.starts_with("ps-a-"))
        .collect()
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
    let (nodes, proxy) = small();
    let (mut admin, stop) = (proxy.admin_client(), AtomicBool::new(false));
    let lists = thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let writers: Vec<_> = (0..8)
            .map(|number| {
                let key = key_in(number % 8, 8, &format!("list{number}-"));
                let (proxy, stop) = (&proxy, &stop);
                scope.spawn(move || {
                    let count = write_list(proxy, &key, usize::from(number), stop);
                    (key, count)
                })
            })
            .collect();
        for round in 0..4 {
            let task = move_there(&mut admin, "0-3", "node-2");
            // Longer than a batch, a second of idle notes and a walk.
            let_pass(&proxy, Duration::from_millis(1 + 300 * round));
            roll_back(&mut admin, &task);
            println!(
                "there: {} ms, back: {} ms",
                field(&mut admin, &task, "pause_ms"),
                field(&mut admin, &task, "rollback_pause_ms")
            );
            let row = admin.ask("PRESHARD SHARD INFO 0");
            assert_eq!(row.field("node").unwrap().text(), "node-1");
        }
        drop(stopping);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(lists.iter().all(|(_, count)| *count > 100), "{lists:?}");
    assert_lists(&proxy, &lists);
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
        assert_eq!(proxy.metric(&cutovers), 4);
        let pauses = format!("preshard_migration_pause_seconds_count{{direction=\"{direction}\"}}");
        assert_eq!(proxy.metric(&pauses), 4);
    }
    assert_eq!(proxy.metric("preshard_migration_tasks{state=\"rolled-back\"}"), 4);
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
    wait_reversible(&mut admin, &task);
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
    assert_eq!(field(&mut admin, &task, "rollback"), "no (its time is over)");
    assert_eq!(users_of_moves(&nodes[0]), Vec::<String>::new());
    assert_eq!(client.call(&["GET", &keys[0]]).text(), "w");
    assert_eq!(client.call(&["GET", &keys[3]]).text(), "v");
}

#[test]
fn values_of_all_types_and_renewed_expiries_go_back() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = |name: &str| key_in(0, 8, name);
    // They expire within the moments of the cutovers, and are renewed all the time.
    let stop = AtomicBool::new(false);
    let counts = thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let renewing = scope.spawn(|| {
            let (mut client, mut counts) = (proxy.client(), vec![0; 20]);
            while !stop.load(Relaxed) {
                for (number, count) in counts.iter_mut().enumerate() {
                    let key = key_in(0, 8, &format!("renewed{number}-"));
                    *count += 1;
                    assert_eq!(client.call(&["INCR", &key]).int(), *count, "{key}");
                    client.call(&["PEXPIRE", &key, "4000"]).int();
                }
            }
            counts
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
    assert!(counts[0] > 50, "{counts:?}");
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
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = key_in(0, 8, "k");
    client.call(&["SET", &key, "v"]).expect_ok();
    let task = admin.ask("PRESHARD SHARD MOVE 0-1 TO node-2 MANUAL").text();
    assert_eq!(field(&mut admin, &task, "rollback"), "expected");
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(error.contains("has not moved its shards"), "{error}");
    wait_until("it waits for the word", PATIENCE, || {
        state(&mut admin, &task).0 == "ready"
    });
    admin.ask(&format!("PRESHARD TASK CUTOVER {task}")).expect_ok();
    wait_until("it has moved", PATIENCE, || state(&mut admin, &task).0 == "moved");
    wait_reversible(&mut admin, &task);
    client.call(&["RPUSH", &key_in(1, 8, "l"), "a"]).int();
    wait_until("it is followed", PATIENCE, || {
        nodes[0].client_in(1).ask("DBSIZE").int() == 1
    });
    admin.ask(&format!("PRESHARD TASK FINALIZE {task}")).expect_ok();
    assert_eq!(nodes[0].client_in(1).ask("DBSIZE").int(), 0);
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(error.contains("is over: finalized"), "{error}");
    // Back by another move, while one of two can still be rolled back; and on.
    let second = move_there(&mut admin, "4-5", "node-1");
    let third = move_there(&mut admin, "0", "node-1");
    let fourth = move_there(&mut admin, "5", "node-2");
    assert_eq!(state(&mut admin, &second).0, "finalized");
    assert_eq!(
        field(&mut admin, &third, "rollback"),
        "yes",
        "the others are not concerned"
    );
    client.call(&["RPUSH", &key_in(5, 8, "l"), "a"]).int();
    roll_back(&mut admin, &fourth);
    roll_back(&mut admin, &third);
    assert_eq!(client.call(&["GET", &key]).text(), "v");
    assert_eq!(client.call(&["LLEN", &key_in(5, 8, "l")]).int(), 1);
}

#[test]
fn a_node_that_follows_is_not_removed_and_one_that_has_lost_its_memory_is_no_way_back() {
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
        .filter(|shard| {
            let info = admin.ask(&format!("PRESHARD SHARD INFO {shard}"));
            info.field("node").unwrap().text() == "node-1"
        })
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
    wait_until("it is told", PATIENCE, || {
        field(&mut admin, &task, "rollback").starts_with("no (")
    });
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(error.contains("has lost its memory"), "{error}");
    admin.ask(&format!("PRESHARD TASK FINALIZE {task}")).expect_ok();
    admin.ask("PRESHARD NODE REMOVE node-1").expect_ok();
    assert_eq!(client.call(&["GET", &key]).text(), "v");
}

#[test]
fn a_source_that_comes_back_with_its_memory_follows_on() {
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
    wait_reversible(&mut admin, &task);
    roll_back(&mut admin, &task);
    assert_eq!(client.call(&["RPUSH", &key, "after"]).int(), 201);
}

#[test]
fn a_target_that_has_died_is_no_way_back_and_is_said_so() {
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
    wait_until("it is told", PATIENCE, || {
        field(&mut admin, &task, "rollback").starts_with("no (")
    });
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(error.contains("SHARD MOVE 0 TO node-1"), "{error}");
}

/// The leader dies while the source follows; the next one goes on with that, and the shards go back.
#[test]
fn another_leader_goes_on_with_the_way_back_or_says_that_there_is_none() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    // Enough history for a change of the leader.
    for node in &nodes {
        node.client().ask("CONFIG SET repl-backlog-size 64mb").expect_ok();
    }
    let setup = || {
        Setup::of(&addresses).store(&etcd.store("rollback")).announce(&[
            "copy_ended",
            "no_way_back",
            "rollback_given_up",
        ])
    };
    let mut first = setup().start();
    let second = setup().start();
    let stop = AtomicBool::new(false);
    let mut admin = second.admin_client();
    let lists = thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let key = key_in(number, 8, &format!("list{number}-"));
                let (proxy, stop) = (&second, &stop);
                scope.spawn(move || (key.clone(), write_list(proxy, &key, usize::from(number), stop)))
            })
            .collect();
        let task = move_there(&mut admin, "0-3", "node-2");
        first.kill();
        let begin = Instant::now();
        let outcome = wait_for("it goes back, or cannot", PATIENCE, || {
            let answer = admin.ask(&format!("PRESHARD TASK ROLLBACK {task}"));
            let (state, row) = state(&mut admin, &task);
            let rollback = row.field("rollback").unwrap().text();
            assert!(begin.elapsed() < PATIENCE, "{answer:?} {row:?}");
            (state == "rolled-back" || rollback.starts_with("no (")).then_some((state, rollback))
        });
        println!("{outcome:?} after {:?}", begin.elapsed());
        assert_eq!(outcome.0, "rolled-back", "the history reaches back: {outcome:?}");
        drop(stopping);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_lists(&second, &lists);
    assert_eq!(
        admin.ask("PRESHARD SHARD INFO 0").field("node").unwrap().text(),
        "node-1"
    );
}

/// The leader dies while the shards go back, somewhere: they are on one side, and nothing is lost.
#[test]
fn a_leader_that_dies_while_it_goes_back_loses_no_write() {
    for delay in [0, 20, 60, 150, 400] {
        let etcd = Etcd::start(1);
        let nodes = [Node::start(), Node::start()];
        let addresses = [nodes[0].address(), nodes[1].address()];
        let setup = || {
            Setup::of(&addresses).store(&etcd.store("rollback")).announce(&[
                "copy_ended",
                "no_way_back",
                "rollback_given_up",
                "cutover_given_up",
                "move_not_recorded",
            ])
        };
        let mut first = setup().start();
        let second: Proxy = setup().start();
        let stop = AtomicBool::new(false);
        let mut admin = second.admin_client();
        let lists = thread::scope(|scope| {
            let stopping = StopAtEnd(&stop);
            let writers: Vec<_> = (0..4)
                .map(|number| {
                    let key = key_in(number, 8, &format!("list{number}-"));
                    let (proxy, stop) = (&second, &stop);
                    scope.spawn(move || (key.clone(), write_list(proxy, &key, usize::from(number), stop)))
                })
                .collect();
            let task = move_there(&mut admin, "0-3", "node-2");
            admin.command(&["PRESHARD", "TASK", "ROLLBACK", &task]);
            let_pass(&second, Duration::from_millis(1_000 + delay));
            first.kill();
            let mut admin = second.admin_client();
            let found = wait_for("it is decided", PATIENCE, || {
                let (state, row) = state(&mut admin, &task);
                let rollback = row.field("rollback").unwrap().text();
                (state == "rolled-back" || state == "moved" && rollback != "soon")
                    .then_some((state, rollback))
            });
            println!("after {delay} ms: {found:?}");
            let_pass(&second, Duration::from_millis(300));
            drop(stopping);
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_lists(&second, &lists);
    }
}

//! `PRESHARD NODE DRAIN` and `PLAN APPLY` on real nodes: many moves as one task, carried out under writes, cancelled, taken over.

use crate::harness::{
    Client, Etcd, Node, NodeOptions, Reply, Setup, key_in, small, sys, undisturbed, wait_for, wait_until,
};
use crate::moving::{
    BEARS, PATIENCE, Pair, ask, field, lists, number, order, roll_back, state, tell, under_writes,
    until_moved, until_ready, until_reversible,
};

/// More than two cutovers' worth of shards on each of two nodes.
const SHARDS: u16 = 256;

fn wide() -> Node {
    Node::with(NodeOptions {
        databases: 272,
        ..NodeOptions::default()
    })
}

/// Where every shard lives.
fn places(admin: &mut Client) -> Vec<String> {
    let rows = ask(admin, "SHOW SHARDS").items();
    rows.iter().map(|row| field(row, "node")).collect()
}

/// How fast moves that are ordered from now on may copy.
fn set_rate(admin: &mut Client, rate: &str) {
    let answer = admin.ask(&format!("PRESHARD CONFIG SET migration.rate {rate}"));
    assert_eq!(answer.error(), None);
}

/// Six lists, all over the shards.
fn wide_lists() -> Vec<String> {
    (0..6)
        .map(|number| key_in(number * SHARDS / 6, SHARDS, &format!("list{number}-")))
        .collect()
}

#[test]
fn a_node_is_emptied_under_writes_and_can_be_removed() {
    let nodes = [wide(), wide()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .layout(SHARDS, 4)
        .start();
    let mut admin = proxy.admin_client();
    under_writes(&proxy, &wide_lists(), || {
        let task = order(&mut admin, "NODE DRAIN node-1");
        let error = admin.ask("PRESHARD SHARD MOVE 3 TO node-2").expect_error("ERR ");
        assert!(error.contains(&format!("is moved by task {task}")), "{error}");
        let error = admin
            .ask("PRESHARD SHARD MOVE 200 TO node-1")
            .expect_error("ERR ");
        assert!(error.contains("is being emptied by task"), "{error}");
        admin
            .ask(&format!("PRESHARD TASK FINALIZE {task}"))
            .expect_error("ERR ");
        let row = until_moved(&mut admin, &task);
        println!("longest pause: {} ms", field(&row, "pause_ms"));
        // 128 shards and two pinned databases.
        assert_eq!(
            (number(&row, "children_moved"), number(&row, "shards_left")),
            (3, 0)
        );
        assert_eq!(field(&row, "of"), "node-1");
        assert!(places(&mut admin).iter().all(|node| node == "node-2"));
        tell(&mut admin, "FINALIZE", &task);
        assert_eq!(state(&mut admin, &task).0, "finalized");
        assert_eq!(nodes[0].all_keys(260).len(), 0, "no copy is left");
        admin.ask("PRESHARD NODE REMOVE node-1").expect_ok();
    });
    for (metric, count) in [
        (
            "preshard_migration_cutovers_total{direction=\"forward\",outcome=\"moved\"}",
            3,
        ),
        ("preshard_migration_pause_seconds_count", 3),
        ("preshard_migration_tasks{state=\"finalized\"}", 3),
    ] {
        proxy.await_metric(metric, count);
    }
    wait_until("keys are counted", PATIENCE, || {
        proxy.metric("preshard_migration_keys_total") >= 1
    });
    let error = admin.ask("PRESHARD NODE DRAIN node-2").expect_error("ERR ");
    assert!(error.contains("no other node"), "{error}");
}

/// Empties `node-1` onto two others, and waits until all can go back: the task, and its children.
fn drain_reversibly(admin: &mut Client) -> (String, Vec<String>) {
    let task = order(admin, "NODE DRAIN node-1");
    let error = admin.ask(&format!("PRESHARD TASK ROLLBACK {task}"));
    assert!(
        error.expect_error("ERR ").contains("goes on; TASK CANCEL"),
        "{error:?}"
    );
    let row = until_moved(admin, &task);
    let children = row.field("children").unwrap().items();
    let children: Vec<String> = children.iter().map(Reply::text).collect();
    assert_eq!(children.len(), 2, "to each of two nodes");
    for child in &children {
        until_reversible(admin, child);
    }
    (task, children)
}

#[test]
fn a_drained_node_gets_everything_back_with_what_was_written_since_or_it_is_said_what_it_does_not() {
    undisturbed(BEARS, drain_and_go_back);
}

fn drain_and_go_back() {
    let nodes = [Node::start(), Node::start(), Node::start()];
    let addresses: Vec<String> = nodes.iter().map(Node::address).collect();
    let proxy = Setup::of(&addresses).start();
    let mut admin = proxy.admin_client();
    admin.limit = PATIENCE;
    let before = places(&mut admin);
    under_writes(&proxy, &lists(8), || {
        let (task, _) = drain_reversibly(&mut admin);
        assert!(!places(&mut admin).contains(&"node-1".to_owned()));
        let row = roll_back(&mut admin, &task);
        assert_eq!(
            (
                number(&row, "children_moved"),
                number(&row, "children_rolled_back")
            ),
            (0, 2)
        );
        assert_eq!(places(&mut admin), before);
        admin.ask(&format!("PRESHARD TASK ROLLBACK {task}")).expect_ok();
    });
    let (task, children) = drain_reversibly(&mut admin);
    // The one that has moved last stays where it is.
    let last = children
        .iter()
        .max_by_key(|child| number(&state(&mut admin, child).1, "finished"))
        .unwrap();
    let last = children
        .iter()
        .rfind(|child| {
            number(&state(&mut admin, child).1, "finished") == number(&state(&mut admin, last).1, "finished")
        })
        .unwrap();
    tell(&mut admin, "FINALIZE", last);
    let error = admin.ask(&format!("PRESHARD TASK ROLLBACK {task}"));
    let said = format!("task {last} is over: finalized");
    assert!(error.expect_error("ERR ").contains(&said), "{error:?}");
    let first = children.iter().find(|child| *child != last).unwrap();
    roll_back(&mut admin, first);
    // The parent looks at its children from time to time.
    wait_until("the parent counts it", PATIENCE, || {
        number(&state(&mut admin, &task).1, "children_rolled_back") == 1
    });
}

#[test]
fn a_plan_is_carried_out_as_it_was_shown_once_and_only_for_its_topology() {
    let (nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    for shard in 0..4 {
        let mut client = nodes[0].client_in(shard);
        (0..100).for_each(|key| client.command(&["SET", &format!("k{key}"), "v"]));
        (0..100).for_each(|_| client.reply().expect_ok());
    }
    let plan = |admin: &mut Client| {
        wait_for("the probes see all keys", PATIENCE, || {
            let plan = admin.ask("PRESHARD PLAN REBALANCE");
            (plan.field("moves").unwrap().items().len() >= 2).then_some(plan)
        })
    };
    let made = plan(&mut admin);
    let id = field(&made, "id");
    admin.ask("PRESHARD SHARD PAUSE 7").expect_ok();
    admin.ask("PRESHARD SHARD RESUME 7").expect_ok();
    let error = admin
        .ask(&format!("PRESHARD PLAN APPLY {id}"))
        .expect_error("ERR ");
    assert!(error.contains("and the topology is at"), "{error}");
    assert_eq!(
        admin.ask("PRESHARD TASK LIST").items().len(),
        0,
        "nothing was ordered"
    );
    under_writes(&proxy, &lists(8), || {
        let made = plan(&mut admin);
        let id = field(&made, "id");
        let mut wanted = places(&mut admin);
        for planned in made.field("moves").unwrap().items() {
            wanted[usize::try_from(number(&planned, "shard")).unwrap()] = field(&planned, "target");
        }
        let task = order(&mut admin, &format!("PLAN APPLY {id}"));
        let row = until_moved(&mut admin, &task);
        assert_eq!(field(&row, "kind"), "plan");
        assert_eq!(places(&mut admin), wanted);
        let again = admin.ask(&format!("PRESHARD PLAN APPLY {id}"));
        again.expect_error("ERR plan ");
    });
}

#[test]
fn a_cancelled_drain_keeps_what_has_moved_and_leaves_the_rest() {
    let nodes = [wide(), wide()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .layout(SHARDS, 0)
        .start();
    let mut admin = proxy.admin_client();
    // The second chunk takes minutes at this rate.
    let value = "v".repeat(1 << 20);
    let mut client = nodes[0].client_in(100);
    (0..4).for_each(|key| client.call(&["SET", &format!("k{key}"), &value]).expect_ok());
    set_rate(&mut admin, "16KiB");
    under_writes(&proxy, &wide_lists(), || {
        let task = order(&mut admin, "NODE DRAIN node-1 TO node-2");
        let row = wait_for("the first has moved, the second is under way", PATIENCE, || {
            let (_, row) = state(&mut admin, &task);
            let begun = row.field("children").unwrap().items().len() == 2;
            (begun && number(&row, "children_moved") == 1).then_some(row)
        });
        assert_eq!(
            (number(&row, "rate"), number(&row, "shards_left")),
            (16 * 1024, 64)
        );
        tell(&mut admin, "CANCEL", &task);
        let (state, row) = state(&mut admin, &task);
        assert_eq!(
            (state.as_str(), number(&row, "shards_left")),
            ("cancelled", 64),
            "{row:?}"
        );
        let places = places(&mut admin);
        assert!(places[..64].iter().all(|node| node == "node-2"));
        assert!(places[64..128].iter().all(|node| node == "node-1"));
        assert_eq!(nodes[1].client_in(100).ask("DBSIZE").int(), 0, "its copy is gone");
    });
    assert_eq!(nodes[0].client_in(100).ask("DBSIZE").int(), 4);
    // What is left can be ordered again.
    set_rate(&mut admin, "0");
    let task = order(&mut admin, "NODE DRAIN node-1");
    until_moved(&mut admin, &task);
    assert!(places(&mut admin).iter().all(|node| node == "node-2"));
}

#[test]
fn a_child_that_fails_is_told_of_and_the_others_go_on() {
    let nodes = [wide(), wide()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .layout(SHARDS, 2)
        .start();
    let mut admin = proxy.admin_client();
    nodes[1].client_in(70).ask("SET foreign 1").expect_ok();
    let error = admin.ask("PRESHARD NODE DRAIN node-1").expect_error("ERR ");
    assert!(error.contains("70"), "it is seen beforehand: {error}");
    nodes[1].client_in(70).ask("DEL foreign").int();
    // The first child takes some seconds, in which somebody writes where the second one is to go.
    let mut client = nodes[0].client_in(1);
    client.call(&["SET", "k", &"v".repeat(128 * 1024)]).expect_ok();
    set_rate(&mut admin, "16KiB");
    let task = order(&mut admin, "NODE DRAIN node-1");
    wait_until("the first is under way", PATIENCE, || {
        state(&mut admin, &task).0 == "copying"
    });
    nodes[1].client_in(70).ask("SET foreign 1").expect_ok();
    set_rate(&mut admin, "0");
    let row = wait_for("it ends", PATIENCE, || {
        let (state, row) = state(&mut admin, &task);
        (state == "failed").then_some(row)
    });
    let counts = ["children_failed", "children_moved", "shards_left"].map(|field| number(&row, field));
    assert_eq!(counts, [1, 2, 64], "{row:?}");
    let error = field(&row, "error");
    assert!(
        error.contains(&format!("{task}-1: database 70 of node 'node-2' has keys")),
        "{error}"
    );
    assert_eq!(
        nodes[1].client_in(70).ask("GET foreign").text(),
        "1",
        "it is left alone"
    );
    nodes[1].client_in(70).ask("DEL foreign").int();
    let task = order(&mut admin, "NODE DRAIN node-1");
    until_moved(&mut admin, &task);
}

/// Two proxies on etcd; the one that leads is killed when one child has moved and the next one has begun, or is about to.
#[test]
fn a_leader_that_dies_in_the_middle_of_a_drain_loses_nothing_and_the_next_one_ends_it() {
    let etcd = Etcd::start(1);
    let nodes = [wide(), wide()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses)
        .layout(SHARDS, 0)
        .store(&etcd.store("drain"))
        // What the one that died was copying begins again.
        .announce(&["copy_ended", "no_way_back"]);
    let pair = Pair::start(&setup);
    let mut admin = pair.admin_of_other();
    under_writes(pair.other(), &wide_lists(), || {
        let task = order(&mut admin, "NODE DRAIN node-1");
        wait_until("a part has moved", PATIENCE, || {
            number(&state(&mut admin, &task).1, "children_moved") >= 1
        });
        sys::send_signal(pair.leading().pid(), libc::SIGKILL);
        let row = until_moved(&mut admin, &task);
        assert_eq!(
            (number(&row, "children_moved"), number(&row, "shards_left")),
            (2, 0)
        );
    });
}

#[test]
fn nodes_that_have_nothing_to_do_with_each_other_move_shards_at_the_same_time() {
    let nodes = [Node::start(), Node::start(), Node::start(), Node::start()];
    let addresses = nodes.each_ref().map(Node::address);
    let proxy = Setup::of(&addresses).start();
    let mut admin = proxy.admin_client();
    // Two shards live on each.
    let apart = ["0 TO node-2 MANUAL", "4 TO node-4 MANUAL"]
        .map(|moved| order(&mut admin, &format!("SHARD MOVE {moved}")));
    let behind = order(&mut admin, "SHARD MOVE 1 TO node-3");
    for task in &apart {
        until_ready(&mut admin, task);
    }
    assert_eq!(state(&mut admin, &behind).0, "planned", "its nodes are taken");
    proxy.await_metric("preshard_migration_tasks{state=\"ready\"}", 2);
    tell(&mut admin, "CANCEL", &apart[0]);
    tell(&mut admin, "CUTOVER", &apart[1]);
    until_moved(&mut admin, &apart[1]);
    until_moved(&mut admin, &behind);
}

#[test]
fn drains_that_make_no_sense_are_refused_at_once() {
    let (_nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    for (line, why) in [
        ("NODE DRAIN node-9", "there is no node 'node-9'"),
        ("NODE DRAIN node-1 TO node-1", "cannot be emptied into itself"),
        ("NODE DRAIN node-1 TO node-7", "there is no node 'node-7'"),
        ("NODE DRAIN node-1 INTO node-2", "expected TO"),
        ("NODE DRAIN node-1 TO", "expected TO"),
        ("PLAN APPLY e1-none-1", "there is no plan"),
    ] {
        let error = admin.ask(&format!("PRESHARD {line}")).expect_error("ERR ");
        assert!(error.contains(why), "{line}: {error}");
    }
    assert_eq!(admin.ask("PRESHARD TASK LIST").items().len(), 0);
}

#[test]
fn shards_of_several_nodes_are_one_task_which_waits_for_the_word_if_it_is_told_to() {
    let nodes = [Node::start(), Node::start(), Node::start()];
    let proxy = Setup::of(&nodes.each_ref().map(Node::address)).start();
    let mut admin = proxy.admin_client();
    let before = places(&mut admin);
    let task = order(&mut admin, "SHARD MOVE 0-7 TO node-2 MANUAL");
    let sources = before[..8].iter().filter(|node| *node != "node-2");
    assert!(sources.count() > 2, "{before:?}");
    for moved in 1..=2 {
        until_ready(&mut admin, &task);
        tell(&mut admin, "CUTOVER", &task);
        wait_until("it has moved", PATIENCE, || {
            number(&state(&mut admin, &task).1, "children_moved") == moved
        });
    }
    let row = until_moved(&mut admin, &task);
    assert_eq!(field(&row, "source"), "node-1,node-3");
    assert!(places(&mut admin)[..8].iter().all(|node| node == "node-2"));
}

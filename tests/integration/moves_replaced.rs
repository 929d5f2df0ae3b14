//! Another server takes the place of a node that shards are on their way to: they are never committed to one that has no copy.

use crate::harness::{Client, Node, Setup, wait_until};
use crate::moving::{
    Arrows, PATIENCE, ask, can_stop, field, lists, move_there, order, roll_back, state, tell, under_writes,
    until_moved, until_ready, until_reversible,
};

/// Shards that a node has.
fn shards_of(admin: &mut Client, node: &str) -> String {
    let shards = (0..12).filter(|shard| field(&ask(admin, &format!("SHARD INFO {shard}")), "node") == node);
    let shards: Vec<String> = shards.map(|shard| shard.to_string()).collect();
    shards.join(",")
}

#[test]
fn what_was_copied_to_a_node_is_copied_anew_to_the_server_in_its_place() {
    let nodes = [Node::start(), Node::start(), Node::start(), Node::start()];
    let [first, second, target, other] = &nodes;
    let proxy = Setup::of(&[first.address(), second.address()])
        .any_warning()
        .start();
    let mut admin = proxy.admin_client();
    ask(&mut admin, &format!("NODE ADD node-3 {}", target.address())).expect_ok();
    under_writes(&proxy, &lists(8), || {
        let task = order(&mut admin, "SHARD MOVE 0-3 TO node-3 MANUAL");
        until_ready(&mut admin, &task);
        let why = ask(&mut admin, "NODE REMOVE node-3").expect_error("ERR ");
        assert!(why.contains(&format!("say TASK CANCEL {task} first")), "{why}");
        // The one with the copy lives on, and follows the source.
        ask(
            &mut admin,
            &format!("NODE SET node-3 address {}", other.address()),
        )
        .expect_ok();
        tell(&mut admin, "CUTOVER", &task);
        until_moved(&mut admin, &task);
        until_reversible(&mut admin, &task);
        assert_eq!(shards_of(&mut admin, "node-3"), "0,1,2,3");
        assert_eq!(other.all_keys(12).len(), 4, "its lists are there");
        roll_back(&mut admin, &task);
    });
    assert_eq!(shards_of(&mut admin, "node-3"), "");
}

#[test]
fn a_rollback_to_a_node_that_is_another_server_by_now_is_given_up_and_nothing_is_lost() {
    if !can_stop() {
        return;
    }
    let (nodes, arrows) = ([Node::start(), Node::start(), Node::start()], Arrows::new());
    let [source, target, other] = &nodes;
    let proxy = Setup::of(&[source.address(), target.address()])
        .arrows(arrows.folder())
        .any_warning()
        .start();
    let mut admin = proxy.admin_client();
    let shards = shards_of(&mut admin, "node-1");
    under_writes(&proxy, &lists(8), || {
        let task = move_there(&mut admin, &shards, "node-2");
        arrows.arm("cutting-over");
        admin.command(&["PRESHARD", "TASK", "ROLLBACK", &task]);
        arrows.until_reached("cutting-over");
        let mut admin = proxy.admin_client();
        let why = ask(&mut admin, "NODE REMOVE node-1").expect_error("ERR ");
        assert!(
            why.contains(&format!(
                "gets shards back by task {task}; wait until TASK STATUS"
            )),
            "{why}"
        );
        ask(
            &mut admin,
            &format!("NODE SET node-1 address {}", other.address()),
        )
        .expect_ok();
        arrows.let_go("cutting-over");
        wait_until("it is given up", PATIENCE, || {
            let (state, row) = state(&mut admin, &task);
            assert_ne!(state, "rolled-back", "{row:?}");
            state == "moved" && field(&row, "rollback").starts_with("no (")
        });
        let error = field(&state(&mut admin, &task).1, "error");
        assert!(
            error.contains(&format!("is at {} now", other.address())),
            "{error}"
        );
    });
    let mut admin = proxy.admin_client();
    assert_eq!(shards_of(&mut admin, "node-1"), "");
    ask(&mut admin, "NODE REMOVE node-1").expect_ok();
}

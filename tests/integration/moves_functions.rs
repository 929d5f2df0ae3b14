//! Functions that are loaded, replaced and deleted while shards move: afterwards they run as on one Redis, wherever the shards are.

use crate::harness::{Client, Node, Proxy, Reply, Setup, key_in, lacks, wait_until};
use crate::moving::{
    Arrows, PATIENCE, can_stop, field, move_there, order, roll_back, tell, until_moved, until_ready,
    until_users,
};

/// Two nodes with shards, and one without.
fn start(setup: impl FnOnce(Setup) -> Setup) -> (Vec<Node>, Proxy) {
    let nodes: Vec<Node> = (0..3).map(|_| Node::start()).collect();
    let proxy = setup(Setup::of(&[nodes[0].address(), nodes[1].address()])).start();
    let mut admin = proxy.admin_client();
    let added = admin.ask(&format!("PRESHARD NODE ADD node-3 {}", nodes[2].address()));
    assert!(added.is_ok(), "{added:?}");
    until_users(&nodes);
    (nodes, proxy)
}

/// A library with one function of its name, which says a number.
fn load(client: &mut Client, name: &str, number: u8) {
    let code =
        format!("#!lua name={name}\nredis.register_function('{name}', function() return {number} end)");
    assert_eq!(client.call(&["FUNCTION", "LOAD", "REPLACE", &code]).text(), name);
}

fn said(client: &mut Client, name: &str, shard: u16) -> Reply {
    client.call(&["FCALL", name, "1", &key_in(shard, 8, "k")])
}

#[test]
fn what_is_loaded_replaced_and_deleted_while_shards_are_copied_is_so_where_they_go() {
    if lacks("functions") {
        return;
    }
    let (nodes, proxy) = start(|setup| setup);
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    for name in ["kept", "replaced", "deleted"] {
        load(&mut client, name, 1);
    }
    let task = order(&mut admin, "SHARD MOVE 0 TO node-3 MANUAL");
    until_ready(&mut admin, &task);
    load(&mut client, "replaced", 2);
    load(&mut client, "new", 3);
    client.call(&["FUNCTION", "DELETE", "deleted"]).expect_ok();
    tell(&mut admin, "CUTOVER", &task);
    until_moved(&mut admin, &task);
    for (name, number) in [("kept", 1), ("replaced", 2), ("new", 3)] {
        assert_eq!(said(&mut client, name, 0).int(), number, "{name}");
    }
    said(&mut client, "deleted", 0).expect_error("ERR Function not found");
    assert_eq!(nodes[2].client().ask("FUNCTION LIST").items().len(), 3);
    tell(&mut admin, "FINALIZE", &task);
}

#[test]
fn a_node_whose_last_shards_have_left_has_all_that_was_loaded_when_they_come_back() {
    if lacks("functions") {
        return;
    }
    let (_nodes, proxy) = start(|setup| setup.announce(&["functions_differ"]));
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    load(&mut client, "replaced", 1);
    move_there(&mut admin, "0", "node-3");
    let drained = order(&mut admin, "NODE DRAIN node-3");
    until_moved(&mut admin, &drained);
    load(&mut client, "replaced", 2);
    let again = move_there(&mut admin, "0", "node-3");
    assert_eq!(said(&mut client, "replaced", 0).int(), 2);
    roll_back(&mut admin, &again);
    assert_eq!(said(&mut client, "replaced", 0).int(), 2);
}

/// Both ways: the command that is sent in the pause goes to the source by a shard that stays, or by the one that moves.
#[test]
fn what_is_loaded_in_the_pause_is_on_both_nodes() {
    if lacks("functions") || !can_stop() {
        return;
    }
    let arrows = Arrows::new();
    let (_nodes, proxy) = start(|setup| setup.arrows(arrows.folder()));
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    load(&mut client, "f", 1);
    for (shard, number) in [(1, 2), (0, 3)] {
        arrows.arm("frozen");
        let task = order(&mut admin, &format!("SHARD MOVE {shard} TO node-3 MAXPAUSE 3000"));
        arrows.until_reached("frozen");
        let code = format!("#!lua name=f\nredis.register_function('f', function() return {number} end)");
        client.command(&["FUNCTION", "LOAD", "REPLACE", &code]);
        if shard == 1 {
            assert_eq!(client.reply().text(), "f");
        }
        arrows.let_go("frozen");
        until_moved(&mut admin, &task);
        if shard == 0 {
            assert_eq!(client.reply().text(), "f");
        }
        for at in [0, 1, 2, 4] {
            assert_eq!(
                said(&mut client, "f", at).int(),
                number,
                "moved {shard}, called at {at}"
            );
        }
        tell(&mut admin, "FINALIZE", &task);
    }
}

/// A target with shards has been told as much as the source: where it has other code, somebody has given it that by hand.
#[test]
fn other_code_on_a_target_with_shards_is_not_replaced_and_the_task_says_so() {
    if lacks("functions") {
        return;
    }
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(&["cutover_given_up"])
        .start();
    until_users(&nodes);
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    load(&mut client, "f", 1);
    let task = order(&mut admin, "SHARD MOVE 0 TO node-2 MANUAL");
    until_ready(&mut admin, &task);
    load(&mut nodes[0].client(), "f", 2);
    load(&mut nodes[1].client(), "f", 3);
    tell(&mut admin, "CUTOVER", &task);
    wait_until("it is given up for now", PATIENCE, || {
        let (_, row) = crate::moving::state(&mut admin, &task);
        field(&row, "error").contains("has other code than 'node-1' in the libraries of functions f")
    });
    assert_eq!(said(&mut client, "f", 0).int(), 2, "it has not moved");
    load(&mut client, "f", 4);
    until_moved(&mut admin, &task);
    assert_eq!(said(&mut client, "f", 0).int(), 4);
}

//! Nodes that are at their `maxmemory`: they refuse every transaction, and are served, moved away from and emptied all the same.

use crate::harness::{Client, Etcd, Node, NodeOptions, Proxy, Setup, key_in, small, sys, wait_until};
use crate::moving::{
    PATIENCE, Pair, ask, field, lists, move_shards, move_there, order, state, tell, under_writes,
    until_moved, until_ready, until_users, users_of_moves,
};

/// Below what any server uses when it is empty.
const LIMIT: &str = "500000";

/// From now on the node is full.
fn fill(node: &Node) {
    let mut client = node.client();
    client.ask("CONFIG SET maxmemory-policy noeviction").expect_ok();
    client.ask(&format!("CONFIG SET maxmemory {LIMIT}")).expect_ok();
    client.ask("MULTI").expect_ok();
    client.ask("FLUSHDB").expect_error("OOM ");
    client.ask("EXEC").expect_error("EXECABORT ");
}

/// Nobody has raised it for longer than a moment.
fn is_full(node: &Node) -> bool {
    node.client().ask("CONFIG GET maxmemory").items()[1].text() == LIMIT
}

fn keys_in(node: &Node, database: u32) -> i64 {
    node.client_in(database).ask("DBSIZE").int()
}

fn set_keys(client: &mut Client, shards: std::ops::Range<u16>, per_shard: usize) {
    for shard in shards {
        for number in 0..per_shard {
            let key = key_in(shard, 8, &format!("k{number}-"));
            client.call(&["SET", &key, &format!("v{number}")]).expect_ok();
        }
    }
}

/// Two nodes of which the first becomes full: with it the way back of a move goes.
fn start() -> ([Node; 2], Proxy) {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(&["no_way_back", "copy_ended"])
        .start();
    until_users(&nodes);
    (nodes, proxy)
}

#[test]
fn shards_leave_a_full_node_and_finalizing_gives_it_its_memory_back() {
    let (nodes, proxy) = start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    set_keys(&mut client, 0..4, 50);
    fill(&nodes[0]);
    client
        .call(&["SET", &key_in(0, 8, "late"), "v"])
        .expect_error("OOM ");
    let dry = admin
        .ask("PRESHARD SHARD MOVE 0-1 TO node-2 DRY")
        .items()
        .remove(0);
    let told = format!("{dry:?}");
    assert!(told.contains("is at its maxmemory"), "{told}");
    let row = move_shards(&mut admin, "0-1", "node-2");
    println!("{} ms", field(&row, "pause_ms"));
    for shard in 0..2 {
        assert_eq!(client.call(&["GET", &key_in(shard, 8, "k7-")]).text(), "v7");
        client.call(&["SET", &key_in(shard, 8, "late"), "v"]).expect_ok();
    }
    client
        .call(&["SET", &key_in(2, 8, "late"), "v"])
        .expect_error("OOM ");
    assert_eq!(client.call(&["DEL", &key_in(2, 8, "k7-")]).int(), 1);
    let task = field(&row, "task");
    wait_until("it is told that they cannot come back", PATIENCE, || {
        field(&state(&mut admin, &task).1, "rollback").starts_with("no (")
    });
    assert_eq!(keys_in(&nodes[0], 0), 50, "the copy is there");
    tell(&mut admin, "FINALIZE", &task);
    assert_eq!((keys_in(&nodes[0], 0), keys_in(&nodes[0], 1)), (0, 0));
    assert_eq!((keys_in(&nodes[0], 2), keys_in(&nodes[1], 0)), (49, 51));
    assert_eq!(users_of_moves(&nodes[0]), Vec::<String>::new());
    assert!(is_full(&nodes[0]));
}

#[test]
fn what_full_nodes_refuse_in_a_move_loses_nothing_that_others_write() {
    let (nodes, proxy) = start();
    let mut admin = proxy.admin_client();
    set_keys(&mut proxy.client(), 0..4, 20);
    // Lists of the shards 4 to 7 only: the other node takes no writes.
    let others: Vec<String> = lists(16)
        .into_iter()
        .filter(|list| crate::harness::shard_of(list, 8) >= 4)
        .collect();
    under_writes(&proxy, &others, || {
        fill(&nodes[0]);
        for shards in ["0", "1-3"] {
            let row = move_shards(&mut admin, shards, "node-2");
            tell(&mut admin, "FINALIZE", &field(&row, "task"));
        }
    });
    assert_eq!((0..4).map(|db| keys_in(&nodes[0], db)).sum::<i64>(), 0);
    assert_eq!((0..4).map(|db| keys_in(&nodes[1], db)).sum::<i64>(), 80);
}

#[test]
fn an_old_copy_on_a_node_that_has_become_full_is_cleared_by_finalizing() {
    let (nodes, proxy) = start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    set_keys(&mut client, 0..1, 50);
    let task = move_there(&mut admin, "0", "node-2");
    fill(&nodes[0]);
    tell(&mut admin, "FINALIZE", &task);
    assert_eq!(keys_in(&nodes[0], 0), 0);
    assert_eq!(state(&mut admin, &task).0, "finalized");
    assert!(is_full(&nodes[0]));
}

#[test]
fn a_copy_on_a_node_that_it_has_filled_is_cleared_when_the_move_is_given_up() {
    let (nodes, proxy) = small();
    until_users(&nodes);
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    set_keys(&mut client, 0..1, 50);
    let task = order(&mut admin, "SHARD MOVE 0 TO node-2 MANUAL");
    until_ready(&mut admin, &task);
    assert_eq!(keys_in(&nodes[1], 0), 50);
    fill(&nodes[1]);
    tell(&mut admin, "CANCEL", &task);
    assert_eq!(state(&mut admin, &task).0, "cancelled");
    assert_eq!(keys_in(&nodes[1], 0), 0);
    assert_eq!(users_of_moves(&nodes[1]), Vec::<String>::new());
    assert!(is_full(&nodes[1]));
}

/// A server that comes back with more than it may have has lost its users, and answers nobody before it has them again.
#[test]
fn a_full_node_that_comes_back_without_its_users_is_served_again() {
    let durable = NodeOptions {
        durable: true,
        ..NodeOptions::default()
    };
    let mut nodes = [Node::with(durable), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .any_warning()
        .start();
    until_users(&nodes);
    let mut client = proxy.client();
    set_keys(&mut client, 0..1, 50);
    nodes[0].kill();
    nodes[0].options.more = ["--maxmemory", LIMIT, "--maxmemory-policy", "noeviction"]
        .map(str::to_owned)
        .to_vec();
    nodes[0].restart();
    let key = key_in(0, 8, "k7-");
    wait_until("it is served", PATIENCE, || {
        client.call(&["GET", &key]).error().is_none()
    });
    assert_eq!(client.call(&["DEL", &key]).int(), 1);
    client.call(&["SET", &key, "v"]).expect_error("OOM ");
    assert!(is_full(&nodes[0]));
}

#[test]
fn a_new_leader_takes_full_nodes_over() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses).store(&etcd.store("full")).any_warning();
    let pair = Pair::start(&setup);
    until_users(&nodes);
    let mut client = pair.other().client();
    set_keys(&mut client, 0..1, 50);
    nodes.iter().for_each(fill);
    sys::send_signal(pair.leading().pid(), libc::SIGKILL);
    let mut admin = pair.admin_of_other();
    // What says that the target is full is said of the node that it has asked.
    wait_until("the other one leads, and refuses the target", PATIENCE, || {
        let told = ask(&mut admin, "SHARD MOVE 0 TO node-2");
        told.error().is_some_and(|error| error.contains("of maxmemory"))
    });
    nodes[1].client().ask("CONFIG SET maxmemory 0").expect_ok();
    let task = order(&mut admin, "SHARD MOVE 0 TO node-2");
    until_moved(&mut admin, &task);
    assert_eq!(client.call(&["GET", &key_in(0, 8, "k7-")]).text(), "v7");
    assert!(is_full(&nodes[0]));
}

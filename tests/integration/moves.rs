//! `PRESHARD SHARD MOVE` on real nodes: shards change their node under writes, and every list is what was acknowledged.

use crate::harness::{Etcd, Node, Reply, Setup, key_in, small, sys, wait_until};
use crate::moving::{
    Arrows, PATIENCE, Pair, can_stop, field, lists, move_shards, order, state, tell, under_writes,
    until_moved, until_ready, until_users, users_of_moves,
};

#[test]
fn shards_go_there_and_back_under_writes_and_nothing_is_lost_doubled_or_reordered() {
    let (nodes, proxy) = small();
    let (mut admin, lists) = (proxy.admin_client(), lists(8));
    under_writes(&proxy, &lists, || {
        for (shards, target) in [
            ("0-3", "node-2"),
            ("2-5", "node-1"),
            ("0-7", "node-1"),
            ("1,3,5", "node-2"),
        ] {
            let row = move_shards(&mut admin, shards, target);
            println!("{shards} to {target}: {} ms", field(&row, "pause_ms"));
            tell(&mut admin, "FINALIZE", &field(&row, "task"));
        }
    });
    let kept = nodes[0].all_keys(12).len() + nodes[1].all_keys(12).len();
    assert_eq!(kept, lists.len(), "no copy is left");
    assert_eq!(users_of_moves(&nodes[0]), Vec::<String>::new());
}

#[test]
fn expiries_all_types_waits_and_pinned_databases_move_along() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = |name: &str| key_in(0, 8, name);
    client.call(&["SET", &key("s"), "v", "PX", "600000"]).expect_ok();
    client.call(&["HSET", &key("h"), "f", "v"]).int();
    client.call(&["ZADD", &key("z"), "1.5", "m"]).int();
    client.call(&["SADD", &key("u"), "m"]).int();
    client.call(&["XADD", &key("x"), "1-1", "f", "v"]).text();
    client
        .call(&["XGROUP", "CREATE", &key("x"), "g", "0"])
        .expect_ok();
    let mut pinned = proxy.client();
    pinned.ask("SELECT 1").expect_ok();
    pinned.ask("SET p v").expect_ok();
    let mut waiting = proxy.client();
    waiting.command(&["BLPOP", &key("q"), "0"]);
    wait_until("it waits", PATIENCE, || nodes[0].info("blocked_clients") == 1);
    move_shards(&mut admin, "0,db:1", "node-2");
    assert_eq!(client.call(&["GET", &key("s")]).text(), "v");
    let left = client.call(&["PTTL", &key("s")]).int();
    assert!((300_000..=600_000).contains(&left), "{left}");
    assert_eq!(client.call(&["HGET", &key("h"), "f"]).text(), "v");
    assert_eq!(client.call(&["ZSCORE", &key("z"), "m"]).text(), "1.5");
    assert_eq!(client.call(&["SISMEMBER", &key("u"), "m"]).int(), 1);
    assert_eq!(client.call(&["XLEN", &key("x")]).int(), 1);
    assert_eq!(client.call(&["XINFO", "GROUPS", &key("x")]).items().len(), 1);
    assert_eq!(pinned.ask("GET p").text(), "v");
    wait_until("it waits there", PATIENCE, || {
        nodes[1].info("blocked_clients") == 1
    });
    client.call(&["RPUSH", &key("q"), "late"]).int();
    assert_eq!(waiting.reply().items()[1].text(), "late");
    assert_eq!(
        admin.ask("PRESHARD SHARD INFO 0").field("node").unwrap().text(),
        "node-2"
    );
}

/// The wait is given up before the source is frozen, while others still write there.
#[test]
fn who_waits_for_news_of_a_stream_misses_nothing_that_is_written_while_it_moves() {
    if !can_stop() {
        return;
    }
    let nodes = [Node::start(), Node::start()];
    let arrows = Arrows::new();
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).arrows(arrows.folder());
    let proxy = setup.start();
    until_users(&nodes);
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let keys = ["old", "none"].map(|name| key_in(0, 1024, name));
    client.call(&["XADD", &keys[0], "1-1", "f", "v"]).text();
    for (key, protocol) in [(&keys[0], 2), (&keys[1], 3)] {
        let mut waiting = if protocol == 2 {
            proxy.client()
        } else {
            proxy.client3()
        };
        waiting.command(&["XREAD", "BLOCK", "0", "STREAMS", key, "$"]);
        let from = usize::from(protocol == 3);
        wait_until("it waits", PATIENCE, || nodes[from].info("blocked_clients") == 1);
        arrows.arm("quiesced");
        let task = order(&mut admin, &format!("SHARD MOVE 0 TO node-{}", 2 - from));
        // The waits are given up.
        arrows.until_reached("quiesced");
        client.call(&["XADD", key, "2-1", "f", "meanwhile"]).text();
        arrows.let_go("quiesced");
        until_moved(&mut admin, &task);
        let news = format!("{:?}", waiting.reply());
        assert!(news.contains("meanwhile") && !news.contains("1-1"), "{news}");
        tell(&mut admin, "FINALIZE", &task);
    }
}

#[test]
fn a_move_waits_for_the_word_if_it_is_told_to_and_can_be_cancelled() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = key_in(0, 8, "k");
    client.call(&["SET", &key, "v"]).expect_ok();
    let task = order(&mut admin, "SHARD MOVE 0 TO node-2 MANUAL");
    until_ready(&mut admin, &task);
    assert_eq!(nodes[1].client_in(0).ask("DBSIZE").int(), 1, "the copy is there");
    let error = admin
        .ask("PRESHARD SHARD MOVE 0-2 TO node-2")
        .expect_error("ERR ");
    assert!(error.contains("is moved by task"), "{error}");
    tell(&mut admin, "CANCEL", &task);
    assert_eq!(state(&mut admin, &task).0, "cancelled");
    assert_eq!(nodes[1].client_in(0).ask("DBSIZE").int(), 0, "and is gone");
    let task = order(&mut admin, "SHARD MOVE 0 TO node-2 MANUAL");
    until_ready(&mut admin, &task);
    tell(&mut admin, "CUTOVER", &task);
    until_moved(&mut admin, &task);
    assert_eq!(client.call(&["GET", &key]).text(), "v");
    admin
        .ask(&format!("PRESHARD TASK CANCEL {task}"))
        .expect_error("ERR ");
    tell(&mut admin, "FINALIZE", &task);
    assert_eq!(nodes[0].client_in(0).ask("DBSIZE").int(), 0);
}

/// A store that stands still for a second, with a leader that waits half as long for its answers.
#[test]
fn a_store_that_gives_no_answer_for_a_while_ends_no_move() {
    let (etcd, nodes) = (Etcd::start(1), [Node::start(), Node::start()]);
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .store(&etcd.store("moves"))
        .topology("store_timeout = \"200ms\"")
        .any_warning();
    let proxy = setup.until_ready(setup.launch());
    let mut admin = proxy.admin_client();
    until_users(&nodes);
    let task = order(&mut admin, "SHARD MOVE 0 TO node-2 MANUAL");
    until_ready(&mut admin, &task);
    etcd.freeze(0);
    // Each of them takes as long as the leader waits for an answer, which looks for the word twice a second.
    for _ in 0..6 {
        let reply = admin.ask(&format!("PRESHARD TASK STATUS {task}"));
        assert!(reply.expect_error("ERR ").contains("gives no answer"));
    }
    etcd.thaw(0);
    assert_eq!(state(&mut admin, &task).0, "ready");
    tell(&mut admin, "CUTOVER", &task);
    until_moved(&mut admin, &task);
}

#[test]
fn what_makes_no_sense_is_refused_and_nothing_is_ordered() {
    let (nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    let mut refused = |words: &str, why: &str| {
        let error = admin
            .ask(&format!("PRESHARD SHARD MOVE {words}"))
            .expect_error("ERR ");
        assert!(error.contains(why), "{words}: {error}");
    };
    refused("0-3 TO node-1", "live on node 'node-1' already");
    refused("0 TO node-9", "there is no node");
    refused("99 TO node-2", "is no shard");
    refused("0 ON node-2", "expected TO");
    refused("0 TO node-2 RATE x", "is no option");
    refused("0 TO node-2 MAXPAUSE 99999", "is no option");
    nodes[1].client_in(0).ask("SET foreign 1").expect_ok();
    let error = admin.ask("PRESHARD SHARD MOVE 0 TO node-2").expect_error("ERR ");
    assert!(error.contains("keys that are not preshard's"), "{error}");
    assert_eq!(
        nodes[1].client_in(0).ask("GET foreign").text(),
        "1",
        "and it is left alone"
    );
    assert_eq!(admin.ask("PRESHARD TASK LIST"), Reply::Array(Vec::new()));
}

/// Two proxies on etcd, one is killed in the middle of moves; the other goes on, and so do its clients.
#[test]
fn a_leader_that_dies_loses_no_write_and_the_next_one_ends_its_move() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses).store(&etcd.store("moves"));
    // What the one that died was copying begins again.
    let pair = Pair::start(&setup.announce(&["copy_ended", "no_way_back"]));
    let mut admin = pair.admin_of_other();
    under_writes(pair.other(), &lists(4), || {
        let task = order(&mut admin, "SHARD MOVE 0-3 TO node-2");
        wait_until("it has begun", PATIENCE, || {
            state(&mut admin, &task).0 != "planned"
        });
        sys::send_signal(pair.leading().pid(), libc::SIGKILL);
        // The other one ends it.
        until_moved(&mut admin, &task);
    });
}

#[test]
fn a_target_that_dies_in_the_middle_leaves_everything_as_it_was() {
    let mut target = Node::start();
    let source = Node::start();
    let proxy = Setup::of(&[source.address(), target.address()])
        .announce(&[
            "node_down",
            "link_closed",
            "copy_ended",
            "move_not_undone",
            "node_empty",
        ])
        .start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = key_in(0, 8, "k");
    client.call(&["SET", &key, "v"]).expect_ok();
    let task = order(&mut admin, "SHARD MOVE 0 TO node-2 MANUAL");
    until_ready(&mut admin, &task);
    target.kill();
    assert_eq!(client.call(&["GET", &key]).text(), "v");
    target.restart();
    wait_until("it fails or waits again", PATIENCE, || {
        matches!(state(&mut admin, &task).0.as_str(), "failed" | "ready")
    });
    assert_eq!(client.call(&["GET", &key]).text(), "v");
    assert_eq!(
        admin.ask("PRESHARD SHARD INFO 0").field("node").unwrap().text(),
        "node-1"
    );
}

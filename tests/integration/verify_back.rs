//! `PRESHARD SHARD VERIFY` while a move can be rolled back: the source follows, and is compared with the target, on real nodes.

use crate::harness::{
    Client, Etcd, Node, Proxy, Reply, Setup, key_in, small, sys, undisturbed, wait_for, wait_until,
};
use crate::moving::{
    BEARS, PATIENCE, Pair, ask, field as text, lists, move_there, number, order, roll_back, state, tell,
    under_writes, until_reversible,
};

fn verify_of(admin: &mut Client, task: &str) -> Reply {
    state(admin, task).1.field("verify").unwrap()
}

fn is_open(verify: &Reply) -> bool {
    matches!(text(verify, "state").as_str(), "asked" | "running")
}

/// Waits for the end of a verification.
fn verified(admin: &mut Client, task: &str) -> Reply {
    wait_for("it is verified", PATIENCE, || {
        let verify = verify_of(admin, task);
        (!is_open(&verify)).then_some(verify)
    })
}

/// Orders a verification and waits for its end.
fn verify(admin: &mut Client, words: &str, task: &str) -> Reply {
    assert_eq!(ask(admin, &format!("SHARD VERIFY {words}")).text(), task);
    verified(admin, task)
}

/// Orders a verification of all keys, and waits until they are being compared. One that is over before anybody has looked is ordered
/// again.
fn begin_comparing(admin: &mut Client, task: &str) {
    wait_until("keys are compared", PATIENCE, || {
        assert_eq!(ask(admin, &format!("SHARD VERIFY {task} ALL")).text(), task);
        let seen = wait_for("keys are compared, or it is over", PATIENCE, || {
            let verify = verify_of(admin, task);
            (!is_open(&verify) || number(&verify, "keys") > 0).then_some(verify)
        });
        let state = text(&seen, "state");
        assert!(is_open(&seen) || state == "same", "{seen:?}");
        is_open(&seen)
    });
}

/// More keys than are compared within a second.
fn fill(proxy: &Proxy, shard: u16) {
    let tag = key_in(shard, 8, "tag");
    let mut client = proxy.client();
    let script =
        "for n = 1, 50000 do redis.call('SET', KEYS[1] .. ':' .. ARGV[1] .. ':' .. n, n) end return 1";
    for part in ["a", "b"] {
        let key = format!("{{{tag}}}");
        assert_eq!(client.call(&["EVAL", script, "1", &key, part]).int(), 1);
    }
}

#[test]
fn what_follows_is_found_equal_under_writes_and_goes_back() {
    undisturbed(BEARS, find_equal);
}

fn find_equal() {
    let (_nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    for number in 0..400 {
        let key = key_in(number % 4, 8, &format!("k{number}-"));
        client.call(&["SET", &key, "v", "PX", "600000"]).expect_ok();
        let hash = key_in(number % 4, 8, &format!("h{number}-"));
        client.call(&["HSET", &hash, "f", "v", "g", "w"]).int();
    }
    let row = under_writes(&proxy, &lists(4), || {
        let task = move_there(&mut admin, "0-3", "node-2");
        for number in 0..100 {
            let key = key_in(number % 4, 8, &format!("k{number}-"));
            client.call(&["PEXPIRE", &key, "700000"]).int();
            client.call(&["DEL", &key_in(number % 4, 8, &format!("h{number}-"))]);
        }
        for (words, least) in [
            (format!("{task} ALL"), 700),
            ("2".to_owned(), 700),
            (format!("{task} SAMPLE 200"), 150),
        ] {
            let verify = verify(&mut admin, &words, &task);
            assert_eq!(text(&verify, "state"), "same", "{words}: {verify:?}");
            assert!(number(&verify, "keys") >= least, "{words}: {verify:?}");
            assert_eq!(
                (text(&verify, "owner"), text(&verify, "follower")),
                ("node-2".to_owned(), "node-1".to_owned())
            );
            assert_eq!(text(&state(&mut admin, &task).1, "rollback"), "yes");
        }
        roll_back(&mut admin, &task)
    });
    assert_eq!(text(&row.field("verify").unwrap(), "state"), "same", "{row:?}");
    assert_eq!(
        text(&admin.ask("PRESHARD SHARD INFO 0"), "node"),
        "node-1",
        "{row:?}"
    );
}

#[test]
fn a_difference_on_the_old_source_is_named_and_keeps_the_shards_from_going_back() {
    undisturbed(BEARS, find_a_difference);
}

fn find_a_difference() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = |name: &str| key_in(0, 8, name);
    for number in 0..500 {
        client
            .call(&["SET", &key(&format!("k{number}-")), "v"])
            .expect_ok();
    }
    client.call(&["RPUSH", &key("flipped"), "a", "b", "c"]).int();
    client.call(&["SET", &key("gone"), "v"]).expect_ok();
    client
        .call(&["SET", &key("mortal"), "v", "PX", "600000"])
        .expect_ok();
    let task = move_there(&mut admin, "0", "node-2");
    let found = verify(&mut admin, &task, &task);
    assert_eq!(text(&found, "state"), "same", "{found:?}");
    // Past preshard, on the node that follows.
    let mut old = nodes[0].client_in(0);
    old.call(&["LSET", &key("flipped"), "1", "X"]).expect_ok();
    old.call(&["DEL", &key("gone")]).int();
    old.call(&["SET", &key("extra"), "v"]).expect_ok();
    let parked = old.call(&["PTTL", &key("mortal")]).int();
    old.call(&["PEXPIRE", &key("mortal"), &(parked + 60_000).to_string()])
        .int();
    let found = verify(&mut admin, &task, &task);
    assert_eq!(text(&found, "state"), "different", "{found:?}");
    let told: Vec<String> = found
        .field("found")
        .unwrap()
        .items()
        .iter()
        .map(Reply::text)
        .collect();
    for (name, what) in [
        ("flipped", "the values differ"),
        ("gone", "node 'node-1' does not have it"),
        ("extra", "only node 'node-1' has it"),
        ("mortal", "ms on node 'node-2' and at"),
    ] {
        let is_named = |line: &String| line.contains(&key(name)) && line.contains(what);
        assert!(told.iter().any(is_named), "{name}: {told:?}");
    }
    assert!(!proxy.log().contains(&key("flipped")), "a key is not for the log");
    let error = admin
        .ask(&format!("PRESHARD TASK ROLLBACK {task}"))
        .expect_error("ERR ");
    assert!(
        error.contains("node 'node-1' is not the same as 'node-2'")
            && error.contains("SHARD MOVE 0 TO node-1"),
        "{error}"
    );
    assert_eq!(state(&mut admin, &task).0, "moved");
    // Put right, and compared again.
    old.call(&["LSET", &key("flipped"), "1", "b"]).expect_ok();
    old.call(&["SET", &key("gone"), "v"]).expect_ok();
    old.call(&["DEL", &key("extra")]).int();
    let parked = old.call(&["PTTL", &key("mortal")]).int();
    old.call(&["PEXPIRE", &key("mortal"), &(parked - 60_000).to_string()])
        .int();
    let found = verify(&mut admin, &format!("{task} ALL"), &task);
    assert_eq!(text(&found, "state"), "same", "{found:?}");
    roll_back(&mut admin, &task);
    assert_eq!(
        client.call(&["LRANGE", &key("flipped"), "0", "-1"]).items().len(),
        3
    );
}

#[test]
fn whatever_ends_the_way_back_ends_the_comparison_and_says_so() {
    undisturbed(BEARS, end_comparisons);
}

fn end_comparisons() {
    let (_nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    fill(&proxy, 0);
    let task = move_there(&mut admin, "0", "node-2");
    begin_comparing(&mut admin, &task);
    let error = admin
        .ask(&format!("PRESHARD SHARD VERIFY {task}"))
        .expect_error("ERR ");
    assert!(error.contains("verified already"), "{error}");
    tell(&mut admin, "CANCEL", &task);
    let verify = verify_of(&mut admin, &task);
    assert_eq!(
        (text(&verify, "state"), text(&verify, "error")),
        ("failed".to_owned(), "it was cancelled".to_owned())
    );
    let (now, row) = state(&mut admin, &task);
    assert_eq!((now.as_str(), text(&row, "rollback").as_str()), ("moved", "yes"));
    let error = admin
        .ask(&format!("PRESHARD TASK CANCEL {task}"))
        .expect_error("ERR ");
    assert!(error.contains("is over: moved"), "{error}");
    begin_comparing(&mut admin, &task);
    roll_back(&mut admin, &task);
    let verify = verify_of(&mut admin, &task);
    assert_eq!(
        (text(&verify, "state"), text(&verify, "error")),
        ("failed".to_owned(), "its shards are brought back".to_owned())
    );
    let error = admin
        .ask(&format!("PRESHARD SHARD VERIFY {task}"))
        .expect_error("ERR ");
    assert!(error.contains("its shards were brought back"), "{error}");
    // Once more, to its end and to another one.
    let task = move_there(&mut admin, "0", "node-2");
    begin_comparing(&mut admin, &task);
    tell(&mut admin, "FINALIZE", &task);
    let verify = verify_of(&mut admin, &task);
    assert_eq!(text(&verify, "state"), "failed", "{verify:?}");
    assert!(text(&verify, "error").contains("it is finalized"), "{verify:?}");
    let error = admin.ask("PRESHARD SHARD VERIFY 0").expect_error("ERR ");
    assert!(error.contains("there is nothing to compare them with"), "{error}");
    // Another move takes the shards.
    let task = move_there(&mut admin, "0", "node-1");
    begin_comparing(&mut admin, &task);
    let other = order(&mut admin, "SHARD MOVE 0 TO node-2 MANUAL");
    let verify = verified(&mut admin, &task);
    assert!(text(&verify, "error").contains(&other), "{verify:?}");
}

#[test]
fn values_of_megabytes_are_compared_in_part_and_a_node_without_one_is_found_out() {
    undisturbed(BEARS, compare_in_part);
}

fn compare_in_part() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = |name: &str| key_in(0, 8, name);
    client
        .call(&["SETRANGE", &key("string"), "40000000", "end"])
        .int();
    let script = "for n = 1, 60000 do
        redis.call('HSET', KEYS[1], 'field' .. n, string.rep('v', 50))
        redis.call('ZADD', KEYS[2], n, 'member' .. n)
        redis.call('RPUSH', KEYS[3], string.rep('e', 60) .. n)
    end return 1";
    let names = ["hash", "zset", "list"].map(|name| format!("{{{}}}{name}", key("large")));
    let words = ["EVAL", script, "3", &names[0], &names[1], &names[2]];
    client.limit = PATIENCE;
    assert_eq!(client.call(&words).int(), 1);
    let task = move_there(&mut admin, "0", "node-2");
    client.call(&["HSET", &names[0], "new", "v"]).int();
    client.call(&["SETRANGE", &key("string"), "500", "x"]).int();
    let found = verify(&mut admin, &task, &task);
    assert_eq!(text(&found, "state"), "same", "{found:?}");
    assert_eq!(number(&found, "large"), 4, "{found:?}");
    nodes[0].client_in(0).call(&["ZREM", &names[1], "member17"]).int();
    let found = verify(&mut admin, &task, &task);
    assert_eq!(text(&found, "state"), "different", "{found:?}");
    let told = found.field("found").unwrap().items()[0].text();
    assert!(
        told.contains(&names[1]) && told.contains("how much is in it"),
        "{told}"
    );
}

/// The leader is killed while it compares; the next one goes on with the stream, compares anew, and the shards go back.
#[test]
fn the_next_leader_compares_anew() {
    undisturbed(BEARS, change_the_leader);
}

fn change_the_leader() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses)
        .store(&etcd.store("verify"))
        .announce(&["copy_ended", "no_way_back"]);
    let pair = Pair::start(&setup);
    let mut admin = pair.admin_of_other();
    fill(pair.other(), 0);
    under_writes(pair.other(), &lists(4), || {
        let task = move_there(&mut admin, "0-3", "node-2");
        begin_comparing(&mut admin, &task);
        let before = text(&verify_of(&mut admin, &task), "copy");
        sys::send_signal(pair.leading().pid(), libc::SIGKILL);
        let verify = verified(&mut admin, &task);
        assert_eq!(text(&verify, "state"), "same", "{verify:?}");
        assert_ne!(text(&verify, "copy"), before, "it was the next leader's");
        roll_back(&mut admin, &task);
    });
}

/// The node that follows stands still for longer than it is waited for, and goes on.
#[test]
fn a_source_that_stands_still_is_waited_for_and_compared_when_it_follows_again() {
    undisturbed(BEARS, stand_still);
}

fn stand_still() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(&["copy_ended", "node_down", "link_closed", "node_not_provisioned"])
        .start();
    let mut admin = proxy.admin_client();
    fill(&proxy, 0);
    let task = move_there(&mut admin, "0", "node-2");
    begin_comparing(&mut admin, &task);
    nodes[0].freeze();
    let mut client = proxy.client();
    let key = key_in(0, 8, "meanwhile");
    let mut written = 0;
    wait_until("it is told that the source does not follow", PATIENCE, || {
        written += 1;
        assert_eq!(
            client.call(&["RPUSH", &key, "x"]).int(),
            written,
            "clients notice nothing"
        );
        text(&state(&mut admin, &task).1, "rollback") == "soon"
    });
    assert!(is_open(&verify_of(&mut admin, &task)), "it is begun anew later");
    nodes[0].thaw();
    until_reversible(&mut admin, &task);
    let verify = verified(&mut admin, &task);
    assert_eq!(text(&verify, "state"), "same", "{verify:?}");
    roll_back(&mut admin, &task);
    assert_eq!(client.call(&["LLEN", &key]).int(), written);
}

#[test]
fn a_target_that_dies_ends_the_comparison_with_the_way_back() {
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
    fill(&proxy, 0);
    let task = move_there(&mut admin, "0", "node-2");
    begin_comparing(&mut admin, &task);
    target.kill();
    target.restart();
    let verify = verified(&mut admin, &task);
    assert_eq!(text(&verify, "state"), "failed", "{verify:?}");
    let (now, row) = state(&mut admin, &task);
    let rollback = text(&row, "rollback");
    assert!(now == "moved" && rollback.starts_with("no ("), "{row:?}");
    let error = text(&verify, "error");
    assert!(
        error.contains("does not follow any more") && error.contains(&rollback),
        "{error}"
    );
    let error = admin
        .ask(&format!("PRESHARD SHARD VERIFY {task}"))
        .expect_error("ERR ");
    assert!(error.contains("does not follow any more"), "{error}");
}

//! `PRESHARD SHARD VERIFY`, and what is looked at before a move is ordered, on real nodes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::harness::{
    Client, Etcd, Node, Reply, Setup, StopAtEnd, key_in, lacks, small, sys, wait_for, wait_until,
};
use crate::moving::{
    PATIENCE, Pair, ask, field, move_shards, number, order, state, tell, until_moved, until_ready,
};

/// Orders a move that waits for the word, and waits until it does.
fn manual(admin: &mut Client, shards: &str) -> String {
    let task = order(admin, &format!("SHARD MOVE {shards} TO node-2 MANUAL"));
    until_ready(admin, &task);
    task
}

/// Orders a verification and waits for its end.
fn verify(admin: &mut Client, words: &str, task: &str) -> Reply {
    assert_eq!(ask(admin, &format!("SHARD VERIFY {words}")).text(), task);
    wait_for("it is verified", PATIENCE, || {
        let (state, row) = state(admin, task);
        let verify = row.field("verify").unwrap();
        let is_over = !matches!(field(&verify, "state").as_str(), "asked" | "running");
        (is_over && state == "ready").then_some(verify)
    })
}

#[test]
fn equal_shards_are_found_equal_under_writes_and_cut_over() {
    let (_nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    let mut client = proxy.client();
    for number in 0..2_000 {
        client
            .call(&["SET", &key_in(number % 4, 8, &format!("k{number}-")), "v"])
            .expect_ok();
    }
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let ending = StopAtEnd(&stop);
        for writer in 0..4_u16 {
            let (proxy, stop, written) = (&proxy, &stop, &written);
            scope.spawn(move || {
                let mut client = proxy.client();
                let keys: Vec<String> = (0..50)
                    .map(|n| key_in(writer, 8, &format!("w{writer}-{n}-")))
                    .collect();
                while !stop.load(Relaxed) {
                    for key in &keys {
                        client.command(&["SET", key, &written.load(Relaxed).to_string(), "PX", "60000"]);
                    }
                    for _ in &keys {
                        client.reply().expect_ok();
                    }
                    written.fetch_add(50, Relaxed);
                    // Four of them: some 10,000 writes a second.
                    thread::park_timeout(Duration::from_millis(18));
                }
            });
        }
        let task = manual(&mut admin, "0-3");
        for words in [
            format!("{task} ALL"),
            "2".to_owned(),
            format!("{task} SAMPLE 500"),
        ] {
            let verify = verify(&mut admin, &words, &task);
            assert_eq!(field(&verify, "state"), "same", "{words}: {verify:?}");
            assert!(number(&verify, "keys") >= 400, "{words}: {verify:?}");
        }
        tell(&mut admin, "CUTOVER", &task);
        until_moved(&mut admin, &task);
        tell(&mut admin, "FINALIZE", &task);
        let error = admin
            .ask(&format!("PRESHARD SHARD VERIFY {task}"))
            .expect_error("ERR ");
        assert!(error.contains("it is finalized"), "{error}");
        wait_until("much was written", PATIENCE, || written.load(Relaxed) > 1_000);
        drop(ending);
    });
}

#[test]
fn a_difference_is_named_to_the_operator_and_keeps_the_shards_where_they_are() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = key_in(0, 8, "flipped");
    client.call(&["RPUSH", &key, "a", "b", "c"]).int();
    for number in 0..500 {
        client
            .call(&["SET", &key_in(0, 8, &format!("k{number}-")), "v"])
            .expect_ok();
    }
    let task = manual(&mut admin, "0");
    let mut at_target = nodes[1].client_in(0);
    at_target.call(&["LSET", &key, "1", "X"]).expect_ok();
    let found = verify(&mut admin, &task, &task);
    assert_eq!(field(&found, "state"), "different", "{found:?}");
    assert_eq!(number(&found, "mismatches"), 1, "{found:?}");
    let told = found.field("found").unwrap().items()[0].text();
    assert!(told.contains(&key) && told.contains("values differ"), "{told}");
    let row = state(&mut admin, &task).1;
    assert!(field(&row, "error").contains(&key), "{row:?}");
    let error = admin
        .ask(&format!("PRESHARD TASK CUTOVER {task}"))
        .expect_error("ERR ");
    assert!(error.contains("does not cut over"), "{error}");
    assert_eq!(
        state(&mut admin, &task).0,
        "ready",
        "and what was copied stays there to be looked at"
    );
    assert!(!proxy.log().contains(&key), "a key is not for the log");
    // Put right, and compared again.
    at_target.call(&["LSET", &key, "1", "b"]).expect_ok();
    let found = verify(&mut admin, &format!("{task} ALL"), &task);
    assert_eq!(field(&found, "state"), "same", "{found:?}");
    tell(&mut admin, "CUTOVER", &task);
    until_moved(&mut admin, &task);
    assert_eq!(client.call(&["LRANGE", &key, "0", "-1"]).items().len(), 3);
}

#[test]
fn a_move_that_is_told_to_verify_does_so_before_its_cutover() {
    let (_nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    for number in 0..300 {
        client
            .call(&["SET", &key_in(number % 2, 8, &format!("k{number}-")), "v"])
            .expect_ok();
    }
    let task = order(&mut admin, "SHARD MOVE 0-1 TO node-2 VERIFY");
    let verify = until_moved(&mut admin, &task).field("verify").unwrap();
    assert_eq!(field(&verify, "state"), "same", "{verify:?}");
    assert_eq!(
        (number(&verify, "keys"), number(&verify, "of")),
        (300, 300),
        "{verify:?}"
    );
}

#[test]
fn a_verification_can_be_cancelled_and_what_makes_no_sense_is_refused() {
    let (nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    let mut refused = |words: &str, why: &str| {
        let error = admin
            .ask(&format!("PRESHARD SHARD VERIFY {words}"))
            .expect_error("ERR ");
        assert!(error.contains(why), "{words}: {error}");
    };
    refused("0-3", "none of these shards is being moved");
    refused("m123", "there is no move 'm123'");
    refused("99", "is no shard");
    refused("0 EVERY", "is no option");
    refused("0 SAMPLE x", "is no number of keys");
    let mut at_source = nodes[0].client_in(0);
    let script = "for n = 1, 50000 do redis.call('SET', 'key:' .. n, n) end";
    at_source.call(&["EVAL", script, "0"]);
    let task = manual(&mut admin, "0");
    admin.ask(&format!("PRESHARD SHARD VERIFY {task} ALL"));
    let error = admin.ask(&format!("PRESHARD SHARD VERIFY {task}"));
    assert!(
        error
            .error()
            .is_none_or(|error| error.contains("verified already")),
        "{error:?}"
    );
    tell(&mut admin, "CANCEL", &task);
    let row = state(&mut admin, &task).1;
    assert_eq!(field(&row, "state"), "cancelled", "{row:?}");
    let verify = row.field("verify").unwrap();
    assert_ne!(
        field(&verify, "state"),
        "running",
        "nothing is compared any more: {verify:?}"
    );
    assert_eq!(nodes[1].client_in(0).ask("DBSIZE").int(), 0);
}

/// The one that is asked need not be the one that leads, and a leader that dies leaves the order.
#[test]
fn any_proxy_takes_the_order_and_the_next_leader_carries_it_out() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses).store(&etcd.store("verify"));
    // What the one that died was copying begins again.
    let pair = Pair::start(&setup.announce(&["copy_ended", "no_way_back"]));
    let mut admin = pair.admin_of_other();
    let mut client = pair.other().client();
    client.call(&["SET", &key_in(0, 8, "k"), "v"]).expect_ok();
    let task = manual(&mut admin, "0");
    let found = verify(&mut admin, &task, &task);
    assert_eq!(field(&found, "state"), "same", "{found:?}");
    sys::send_signal(pair.leading().pid(), libc::SIGKILL);
    // The other one verifies.
    let found = verify(&mut admin, &format!("{task} ALL"), &task);
    assert_eq!(field(&found, "state"), "same", "{found:?}");
    tell(&mut admin, "CUTOVER", &task);
    until_moved(&mut admin, &task);
}

// === before a move is ordered ===

#[test]
fn what_would_fail_is_refused_before_anything_is_done_and_with_all_reasons() {
    let (nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    let mut at_target = nodes[1].client_in(0);
    at_target.ask("SET foreign 1").expect_ok();
    let mut why = vec![
        "keys that are not preshard's in database 0",
        "maxmemory 1000 KB in use",
    ];
    if !lacks("functions") {
        for (node, code) in nodes.iter().zip(["return 1", "return 2"]) {
            let library = format!("#!lua name=lib\nredis.register_function('f', function() {code} end)");
            assert_eq!(node.client().call(&["FUNCTION", "LOAD", &library]).text(), "lib");
        }
        why.push("other code than the source in the libraries of functions lib");
    }
    at_target.ask("CONFIG SET maxmemory 1000000").expect_ok();
    for dry in ["", " DRY"] {
        let answer = admin.ask(&format!("PRESHARD SHARD MOVE 0-1 TO node-2{dry}"));
        let told = format!("{answer:?}");
        for why in &why {
            assert!(told.contains(why), "{dry}: {why}: {told}");
        }
        assert_eq!(answer.error().is_some(), dry.is_empty(), "{answer:?}");
    }
    assert_eq!(admin.ask("PRESHARD TASK LIST"), Reply::Array(Vec::new()));
    assert_eq!(at_target.ask("GET foreign").text(), "1");
}

#[test]
fn a_dry_move_tells_what_would_come_of_it_and_warnings_stay_with_the_task() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    for number in 0..100 {
        client
            .call(&["SET", &key_in(0, 8, &format!("k{number}-")), "v"])
            .expect_ok();
    }
    nodes[0]
        .client()
        .call(&["ACL", "SETUSER", "app", "on", ">x", "~*", "+@all"])
        .expect_ok();
    let rows = admin.ask("PRESHARD SHARD MOVE 0 TO node-2 DRY").items();
    let row = &rows[0];
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (field(row, "source"), field(row, "target")),
        ("node-1".into(), "node-2".into())
    );
    assert_eq!(
        (number(row, "keys"), field(row, "shards")),
        (100, "0".into()),
        "{row:?}"
    );
    assert_eq!(field(row, "rollback"), "yes", "{row:?}");
    assert_eq!(row.field("refused").unwrap().items().len(), 0, "{row:?}");
    let warned = row.field("warnings").unwrap().items();
    assert!(warned[0].text().contains("users app"), "{warned:?}");
    assert_eq!(
        admin.ask("PRESHARD TASK LIST"),
        Reply::Array(Vec::new()),
        "nothing is ordered"
    );
    let row = move_shards(&mut admin, "0", "node-2");
    assert_eq!(row.field("warnings").unwrap().items(), warned);
    assert!(number(&row, "estimated_seconds") >= 1, "{row:?}");
}

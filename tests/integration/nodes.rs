//! `PRESHARD NODE` and `SHARD PAUSE` on real nodes: servers come, go and take each other's place while clients are served.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Metronome, Node, NodeOptions, PATIENCE, Reply, Setup, StopAtEnd, key_in, small, wait_until,
};

fn with(more: &[&str]) -> Node {
    Node::with(NodeOptions {
        more: more.iter().map(|&option| option.to_owned()).collect(),
        ..NodeOptions::default()
    })
}

fn names(admin: &mut Client) -> Vec<String> {
    let rows = admin.ask("PRESHARD SHOW NODES").items();
    rows.iter().map(|row| row.field("name").unwrap().text()).collect()
}

#[test]
fn a_node_is_added_prepared_and_removed_again() {
    let (nodes, proxy) = small();
    let third = Node::start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    client
        .call(&[
            "FUNCTION",
            "LOAD",
            "#!lua name=l\nredis.register_function('f', function() return 1 end)",
        ])
        .text();
    let epoch = admin.ask("PRESHARD TOPOLOGY EPOCH").int();
    admin
        .ask(&format!("PRESHARD NODE ADD node-3 {}", third.address()))
        .expect_ok();
    assert_eq!(names(&mut admin), ["node-1", "node-2", "node-3"]);
    assert!(admin.ask("PRESHARD TOPOLOGY EPOCH").int() > epoch);
    assert_eq!(
        third.client().ask("FUNCTION LIST").items().len(),
        1,
        "it has the functions"
    );
    wait_until("it has preshard's users", PATIENCE, || {
        third
            .client()
            .ask("ACL USERS")
            .items()
            .iter()
            .any(|user| user.text() == "ps-g1")
    });
    wait_until("a probe has seen it", PATIENCE, || {
        let rows = admin.ask("PRESHARD SHOW NODES").items();
        rows[2].field("state").unwrap().text() == "up"
    });
    admin.ask("PRESHARD NODE REMOVE node-3").expect_ok();
    assert_eq!(names(&mut admin), ["node-1", "node-2"]);
    wait_until("nothing of us is left", PATIENCE, || {
        let users = third.client().ask("ACL USERS").items();
        let users: Vec<String> = users.iter().map(Reply::text).collect();
        third.client_in(12).ask("DBSIZE").int() == 0 && users == ["default"]
    });
    // It may come again, under another name.
    admin
        .ask(&format!("PRESHARD NODE ADD other {}", third.address()))
        .expect_ok();
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "k")).collect();
    for key in &keys {
        client.call(&["SET", key, "v"]).expect_ok();
    }
    assert_eq!(nodes[0].all_keys(12).len() + nodes[1].all_keys(12).len(), 8);
}

#[test]
fn a_server_that_does_not_fit_is_refused_with_the_reason_and_nothing_changes() {
    let (nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    let dump = admin.ask("PRESHARD TOPOLOGY DUMP").text();
    let few = Node::with(NodeOptions {
        databases: 4,
        ..NodeOptions::default()
    });
    let full = Node::start();
    full.client_in(3).ask("SET k v").expect_ok();
    let replica = with(&["--replicaof", "127.0.0.1", &nodes[0].port.to_string()]);
    let mut refused = |line: String, why: &str| {
        let error = admin.ask(&format!("PRESHARD NODE {line}")).expect_error("ERR ");
        assert!(error.contains(why), "{line}: {error}");
    };
    refused("ADD node-3 127.0.0.1:1".to_owned(), "cannot be reached");
    refused("ADD node-3 nonsense".to_owned(), "nonsense");
    refused("ADD no/name 127.0.0.1:7".to_owned(), "is no node name");
    refused(format!("ADD node-3 {}", few.address()), "too few databases");
    refused(format!("ADD node-3 {}", full.address()), "must be empty");
    refused(format!("ADD node-3 {}", replica.address()), "is a replica");
    refused(format!("ADD node-1 {}", few.address()), "used twice");
    refused(format!("ADD node-3 {}", nodes[0].address()), "the same address");
    let alias = format!("localhost:{}", nodes[0].port);
    refused(format!("ADD node-3 {alias}"), "is node node-1");
    refused("REMOVE node-1".to_owned(), "has 6 shards");
    refused("REMOVE node-9".to_owned(), "no node 'node-9'");
    refused(format!("SET node-1 weight {}", few.address()), "unknown option");
    refused(
        format!("SET node-1 address {}", nodes[1].address()),
        "the same address",
    );
    let empty = Node::start();
    refused(
        format!("SET node-1 address {}", empty.address()),
        "does not carry the mark",
    );
    assert_eq!(admin.ask("PRESHARD TOPOLOGY DUMP").text(), dump);
}

/// A primary fails, its replica is promoted, and the operator says so.
#[test]
fn a_promoted_replica_takes_the_place_of_its_primary_and_nothing_is_lost() {
    let mut primary = with(&["--repl-diskless-sync-delay", "0"]);
    let second = Node::start();
    let replica = with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let proxy = Setup::of(&[primary.address(), second.address()])
        .announce(&["node_down", "link_closed"])
        .start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "k")).collect();
    for key in &keys {
        client.call(&["SET", key, "before"]).expect_ok();
    }
    wait_until("the replica has it all", PATIENCE, || {
        replica.all_keys(12) == primary.all_keys(12)
            && replica.client_in(12).ask("EXISTS preshard:mark").int() == 1
    });
    primary.kill();
    replica.client().ask("REPLICAOF NO ONE").expect_ok();
    let start = Instant::now();
    admin
        .ask(&format!("PRESHARD NODE SET node-1 address {}", replica.address()))
        .expect_ok();
    wait_until("all shards are served again", PATIENCE, || {
        keys.iter()
            .all(|key| client.call(&["GET", key]).text() == "before")
    });
    println!("served again {} ms after NODE SET", start.elapsed().as_millis());
    for key in &keys {
        client.call(&["SET", key, "after"]).expect_ok();
    }
    assert_eq!(replica.all_keys(12).len(), 4);
    assert_eq!(proxy.client().ask("DBSIZE").int(), 8);
}

/// The old server lives on: nothing may be sent to it once the change is acknowledged, and nothing is lost in between.
#[test]
fn a_node_that_moves_to_another_address_under_load_answers_everything() {
    let (nodes, proxy) = small();
    let relay = crate::harness::relay::Relay::to(nodes[0].socket());
    let (mut admin, stop, sent) = (proxy.admin_client(), AtomicBool::new(false), AtomicI64::new(0));
    let key = key_in(0, 8, "k");
    thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let writer = scope.spawn(|| {
            let mut client = proxy.client();
            while !stop.load(Relaxed) {
                let expected = sent.load(Relaxed) + 1;
                assert_eq!(client.call(&["INCR", &key]).int(), expected);
                sent.store(expected, Relaxed);
            }
        });
        for _ in 0..5 {
            for address in [relay.address(), nodes[0].address()] {
                admin
                    .ask(&format!("PRESHARD NODE SET node-1 address {address}"))
                    .expect_ok();
            }
        }
        wait_until("it has written all the while", PATIENCE, || {
            sent.load(Relaxed) > 20 || writer.is_finished()
        });
        drop(stopping);
        writer.join().unwrap();
    });
    let sent = sent.into_inner();
    assert_eq!(proxy.client().call(&["GET", &key]).text(), sent.to_string());
}

/// Who waits for data goes on waiting at the new address, and who watches keys begins again.
#[test]
fn waits_and_watches_survive_that_their_node_has_another_address() {
    let (nodes, proxy) = small();
    let relay = crate::harness::relay::Relay::to(nodes[0].socket());
    let mut admin = proxy.admin_client();
    let key = key_in(0, 8, "k");
    let (mut forever, mut bounded, mut watching) = (proxy.client(), proxy.client(), proxy.client());
    forever.command(&["BLPOP", &key, "0"]);
    let (begin, metronome) = (Instant::now(), Metronome::start());
    // Longer than a machine stands still before the two are seen to wait.
    bounded.command(&["BLPOP", &format!("{{{key}}}x"), "10"]);
    watching.call(&["SET", &format!("{{{key}}}w"), "1"]).expect_ok();
    watching.call(&["WATCH", &format!("{{{key}}}w")]).expect_ok();
    watching.call(&["MULTI"]).expect_ok();
    watching.call(&["SET", &format!("{{{key}}}w"), "2"]);
    wait_until("both wait on the node", PATIENCE, || {
        nodes[0].info("blocked_clients") == 2
    });
    admin
        .ask(&format!("PRESHARD NODE SET node-1 address {}", relay.address()))
        .expect_ok();
    assert_eq!(bounded.reply(), Reply::Null, "its time is over");
    let took = begin.elapsed();
    assert!(
        took < Duration::from_millis(11_500) + metronome.late(),
        "{took:?}"
    );
    assert_eq!(
        watching.call(&["EXEC"]),
        Reply::Null,
        "undone, as if the key had changed"
    );
    watching.call(&["MULTI"]).expect_ok();
    watching.call(&["SET", &format!("{{{key}}}w"), "3"]);
    watching.call(&["EXEC"]).items()[0].expect_ok();
    wait_until("the other waits again", PATIENCE, || {
        nodes[0].info("blocked_clients") == 1
    });
    proxy.client().call(&["RPUSH", &key, "v"]).int();
    assert_eq!(forever.reply().items()[1].text(), "v");
}

/// Elements come all the while, so one of them is popped for a wait in the very moment when it is given up, again and again.
#[test]
fn what_is_popped_for_a_wait_comes_to_its_client_when_its_node_gets_another_address() {
    let (nodes, proxy) = small();
    let relay = crate::harness::relay::Relay::to(nodes[0].socket());
    let (mut admin, done) = (proxy.admin_client(), AtomicBool::new(false));
    let queue = key_in(0, 8, "queue");
    let popped = thread::scope(|scope| {
        let stopping = StopAtEnd(&done);
        let consume = || {
            let (mut client, mut popped) = (proxy.client(), Vec::new());
            loop {
                match client.call(&["BLPOP", &queue, "1"]) {
                    Reply::Null if done.load(Relaxed) => return popped,
                    Reply::Null => {}
                    reply => popped.push(reply.items()[1].text().parse::<i64>().unwrap()),
                }
            }
        };
        let consumers: Vec<_> = (0..4).map(|_| scope.spawn(consume)).collect();
        let producer = scope.spawn(|| {
            let (mut client, mut pushed) = (proxy.client(), 0);
            while !done.load(Relaxed) {
                client.call(&["RPUSH", &queue, &pushed.to_string()]).int();
                pushed += 1;
            }
            pushed
        });
        for _ in 0..20 {
            for address in [relay.address(), nodes[0].address()] {
                admin
                    .ask(&format!("PRESHARD NODE SET node-1 address {address}"))
                    .expect_ok();
            }
        }
        drop(stopping);
        let pushed = producer.join().unwrap();
        let popped = consumers.into_iter().map(|consumer| consumer.join().unwrap());
        let mut popped: Vec<i64> = popped.flatten().collect();
        popped.sort_unstable();
        assert_eq!(popped, (0..pushed).collect::<Vec<i64>>());
        popped
    });
    assert!(popped.len() > 100, "{}", popped.len());
}

#[test]
fn requests_of_a_paused_shard_wait_in_their_order_and_all_others_go_on() {
    let (_nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let (held, free) = (key_in(1, 8, "k"), key_in(6, 8, "k"));
    admin.ask("PRESHARD SHARD PAUSE 1").expect_ok();
    let state = |admin: &mut Client| admin.ask("PRESHARD SHARD INFO 1").field("state").unwrap().text();
    assert_eq!(state(&mut admin), "paused");
    // A pipeline of one client keeps its order, so another one shows that the rest goes on.
    client.command(&["RPUSH", &held, "1"]);
    client.command(&["RPUSH", &held, "2"]);
    client.command(&["MULTI"]);
    client.command(&["RPUSH", &held, "3"]);
    client.command(&["EXEC"]);
    let mut waiting = proxy.client();
    waiting.command(&["BLPOP", &format!("{{{held}}}x"), "0"]);
    let mut script = proxy.client();
    script.command(&["EVAL", "return redis.call('LLEN', KEYS[1])", "1", &held]);
    proxy.client().call(&["SET", &free, "v"]).expect_ok();
    wait_until("all of them wait", PATIENCE, || {
        proxy.metric("preshard_held_requests") >= 4
    });
    admin.ask("PRESHARD SHARD RESUME 0-7").expect_ok();
    assert_eq!((client.reply().int(), client.reply().int()), (1, 2));
    client.reply().expect_ok();
    assert_eq!(client.reply().text(), "QUEUED");
    assert_eq!(client.reply().items()[0].int(), 3);
    assert!(script.reply().int() <= 3);
    client.call(&["RPUSH", &format!("{{{held}}}x"), "x"]).int();
    assert_eq!(waiting.reply().items()[1].text(), "x");
    assert_eq!(state(&mut admin), "serving");
}

#[test]
fn a_paused_shard_gives_up_on_requests_after_hold_max_and_says_so() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("hold_max = \"200ms\"")
        .start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let held = key_in(1, 8, "k");
    admin.ask("PRESHARD SHARD PAUSE 1").expect_ok();
    let line = client.call(&["SET", &held, "v"]).expect_error("TRYAGAIN ");
    assert!(line.contains("it is paused; it has not run"), "{line}");
    let line = client.call(&["BLPOP", &held, "0"]).expect_error("TRYAGAIN ");
    assert!(line.contains("it is paused; it has not run"), "{line}");
    // Paused it stays over a restart.
    drop(proxy);
    assert_eq!(nodes[0].all_keys(12).len() + nodes[1].all_keys(12).len(), 0);
}

#[test]
fn a_node_that_refuses_writes_says_so_itself() {
    let (nodes, proxy) = small();
    let keys = crate::faults::keys_on(1, 2);
    crate::faults::fill(&proxy, &keys);
    nodes[0].client().ask("CONFIG SET maxmemory 1").expect_ok();
    let mut client = proxy.client();
    client.call(&["SET", &keys[0], "x"]).expect_error("OOM ");
    assert_eq!(
        client.call(&["GET", &keys[0]]),
        Reply::from(crate::faults::value_of(&keys[0]).as_str()),
        "reads go on"
    );
    nodes[0].client().ask("CONFIG SET maxmemory 0").expect_ok();
    client.call(&["SET", &keys[0], "x"]).expect_ok();
}

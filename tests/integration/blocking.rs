//! Commands that wait for data, on real nodes: woken, timed out, left, unblocked, and never robbed in silence.

use std::time::{Duration, Instant};

use crate::harness::{Client, Node, PATIENCE, Reply, Setup, key_in, lacks, small, wait_until};

/// Waits until so many clients wait on the nodes.
fn until_blocked(nodes: &[Node], count: u64) {
    wait_until("clients wait on the nodes", PATIENCE, || {
        nodes.iter().map(|node| node.info("blocked_clients")).sum::<u64>() == count
    });
}

fn pair(key: &str, value: &str) -> Reply {
    Reply::Array(vec![Reply::from(key), Reply::from(value)])
}

#[test]
fn every_waiting_command_is_woken_by_another_client() {
    let (nodes, proxy) = small();
    let mut other = proxy.client();
    for database in ["SELECT 0", "SELECT 3"] {
        for three in [false, true] {
            let mut client = if three { proxy.client3() } else { proxy.client() };
            client.ask(database).expect_ok();
            other.ask(database).expect_ok();
            other.ask("DEL {t}a {t}b {t}z {t}s").int();
            other.ask("XADD {t}s 1-1 f v");
            other.ask("XGROUP CREATE {t}s g $").expect_ok();
            for (waits, wakes) in [
                ("BLPOP {t}a {t}b 0", "RPUSH {t}b v"),
                ("BRPOP {t}a {t}b 0", "RPUSH {t}b v"),
                ("BLMOVE {t}a {t}c LEFT RIGHT 0", "RPUSH {t}a v"),
                ("BRPOPLPUSH {t}a {t}c 0", "RPUSH {t}a v"),
                ("BLMPOP 0 2 {t}a {t}b LEFT COUNT 2", "RPUSH {t}b v"),
                ("BZPOPMIN {t}z 0", "ZADD {t}z 1 v"),
                ("BZPOPMAX {t}z 0", "ZADD {t}z 1 v"),
                ("BZMPOP 0 1 {t}z MIN", "ZADD {t}z 1 v"),
                ("XREADGROUP GROUP g c BLOCK 0 STREAMS {t}s >", "XADD {t}s * f w"),
                ("XREAD BLOCK 0 STREAMS {t}s $", "XADD {t}s * f v"),
            ] {
                if (waits.starts_with("BLMPOP") || waits.starts_with("BZMPOP")) && lacks("BLMPOP, BZMPOP") {
                    continue;
                }
                client.send(&crate::harness::wire::frame(
                    &waits.split(' ').collect::<Vec<_>>(),
                ));
                client.send(b"PING\r\n");
                until_blocked(&nodes, 1);
                assert!(other.ask(wakes).error().is_none(), "{wakes}");
                let reply = client.reply();
                assert!(
                    reply.error().is_none() && reply != Reply::Null,
                    "{waits}: {reply:?}"
                );
                assert_eq!(client.reply(), Reply::Simple("PONG".into()), "behind {waits}");
                other.ask("DEL {t}a {t}b {t}c {t}z").int();
            }
        }
    }
    assert_eq!(proxy.metric("preshard_popped_for_nobody_total"), 0);
}

#[test]
fn a_wait_ends_at_its_time_as_in_redis() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let begin = Instant::now();
    assert_eq!(client.ask("BLPOP {t}a 0.2"), Reply::Null);
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert_eq!(client.ask("XREAD BLOCK 20 STREAMS {t}s $"), Reply::Null);
    client
        .ask("BLPOP {t}a -1")
        .expect_error("ERR timeout is negative");
    client
        .ask("BLPOP {t}a x")
        .expect_error("ERR timeout is not a float");
    client.ask("SET {t}str 1").expect_ok();
    client.ask("BLPOP {t}str 0").expect_error("WRONGTYPE ");
    let (one, other) = (key_in(2, 8, "left:"), key_in(6, 8, "right:"));
    client
        .call(&["BLPOP", &one, &other, "0"])
        .expect_error("CROSSSLOT ");
    client.ask("SELECT 1").expect_ok();
    assert_eq!(client.call(&["BLPOP", &one, &other, "0.01"]), Reply::Null);
}

#[test]
fn clients_that_wait_for_one_key_are_served_in_the_order_they_came() {
    let (nodes, proxy) = small();
    let mut waiting: Vec<Client> = Vec::new();
    for number in 0..5 {
        let mut client = proxy.client();
        client.command(&["BLPOP", "queue", "0"]);
        until_blocked(&nodes, number + 1);
        waiting.push(client);
    }
    let mut other = proxy.client();
    for number in 0..5 {
        other.call(&["RPUSH", "queue", &number.to_string()]).int();
    }
    for (number, client) in waiting.iter_mut().enumerate() {
        assert_eq!(client.reply(), pair("queue", &number.to_string()));
    }
}

#[test]
fn an_element_stays_when_the_client_that_waited_for_it_has_left() {
    let (nodes, proxy) = small();
    for killed in [false, true] {
        let mut client = proxy.client();
        let id = client.ask("CLIENT ID").int();
        client.command(&["BLPOP", "queue", "0"]);
        until_blocked(&nodes, 1);
        let mut other = proxy.client();
        if killed {
            assert_eq!(other.ask(&format!("CLIENT KILL ID {id}")), Reply::Int(1));
        } else {
            // It has more to say, and leaves all the same.
            client.send(b"GET a\r\nGET b\r\n");
            drop(client);
        }
        until_blocked(&nodes, 0);
        assert_eq!(other.ask("RPUSH queue v"), Reply::Int(1));
        assert_eq!(other.ask("LPOP queue"), Reply::from("v"));
    }
    assert_eq!(proxy.metric("preshard_popped_for_nobody_total"), 0);
    wait_until("their connections are gone", PATIENCE, || {
        proxy.metric("preshard_node_dedicated_used") == 0
    });
}

#[test]
fn client_unblock_ends_a_wait_through_the_node() {
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    let id = client.ask("CLIENT ID").int();
    let mut other = proxy.client();
    assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id}")), Reply::Int(0));
    assert_eq!(other.ask("CLIENT UNBLOCK 12345678"), Reply::Int(0));
    for (how, error) in [("", None), (" TIMEOUT", None), (" ERROR", Some("UNBLOCKED "))] {
        client.command(&["BLPOP", "queue", "0"]);
        until_blocked(&nodes, 1);
        assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id}{how}")), Reply::Int(1));
        let reply = client.reply();
        match error {
            None => assert_eq!(reply, Reply::Null),
            Some(word) => drop(reply.expect_error(word)),
        }
    }
    other
        .ask("CLIENT UNBLOCK x")
        .expect_error("ERR value is not an integer");
    other
        .ask(&format!("CLIENT UNBLOCK {id} NOW"))
        .expect_error("ERR CLIENT UNBLOCK reason");
    assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id}")), Reply::Int(0));
}

#[test]
fn a_node_that_dies_leaves_no_doubt_unsaid() {
    let mut nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(crate::faults::FAULT_EVENTS)
        .start();
    let key = key_in(1, 8, "queue:");
    let mut client = proxy.client();
    client.command(&["BLPOP", &key, "0"]);
    until_blocked(&nodes, 1);
    nodes[0].kill();
    client.reply().expect_error("UNCERTAIN ");
    wait_until("it is known to be down", PATIENCE, || {
        let reply = client.call(&["BLPOP", &key, "0.01"]);
        reply.error().is_some_and(|text| text.starts_with("CLUSTERDOWN "))
    });
    nodes[0].restart();
    wait_until("it serves again", PATIENCE, || {
        client.call(&["BLPOP", &key, "0.01"]) == Reply::Null
    });
}

#[test]
fn beyond_the_limit_of_connections_nothing_runs() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .nodes("dedicated_max = 3")
        .start();
    let keys: Vec<String> = (0..4)
        .map(|number| key_in(1, 8, &format!("q{number}:")))
        .collect();
    let mut waiting: Vec<Client> = Vec::new();
    for key in &keys[..3] {
        let mut client = proxy.client();
        client.command(&["BLPOP", key, "0"]);
        waiting.push(client);
    }
    until_blocked(&nodes, 3);
    let mut client = proxy.client();
    let text = client.call(&["BLPOP", &keys[3], "0"]).expect_error("TRYAGAIN ");
    assert!(text.contains("dedicated_max"), "{text}");
    assert_eq!(client.call(&["RPUSH", &keys[0], "v"]), Reply::Int(1));
    assert_eq!(waiting[0].reply(), pair(&keys[0], "v"));
    wait_until("its connection is free", PATIENCE, || {
        client.call(&["BLPOP", &keys[3], "0.01"]) == Reply::Null
    });
    // The other node's connections are counted apart.
    let elsewhere = key_in(6, 8, "q:");
    assert_eq!(client.call(&["BLPOP", &elsewhere, "0.01"]), Reply::Null);
}

#[test]
fn a_thousand_that_wait_are_all_served_and_leave_nothing() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .nodes("dedicated_max = 600")
        .open_files(8192)
        .start();
    let mut waiting: Vec<(String, Client)> = Vec::new();
    for number in 0..1000_u16 {
        let key = key_in(number % 8, 8, &format!("w{number}:"));
        let mut client = proxy.client();
        client.command(&["BLPOP", &key, "0"]);
        waiting.push((key, client));
    }
    until_blocked(&nodes, 1000);
    let mut other = proxy.client();
    for (key, _) in &waiting[..500] {
        assert_eq!(other.call(&["RPUSH", key, key]), Reply::Int(1));
    }
    for (key, client) in &mut waiting[..500] {
        assert_eq!(client.reply(), pair(key, key));
    }
    drop(waiting);
    until_blocked(&nodes, 0);
    wait_until("no connection is in use", PATIENCE, || {
        proxy.metric("preshard_node_dedicated_used") == 0
    });
    assert_eq!(proxy.metric("preshard_popped_for_nobody_total"), 0);
    assert_eq!(other.ask("DBSIZE"), Reply::Int(0));
}

#[test]
fn a_proxy_that_stops_lets_those_go_that_wait() {
    let (nodes, mut proxy) = small();
    let mut client = proxy.client();
    client.command(&["BLPOP", "queue", "0"]);
    until_blocked(&nodes, 1);
    proxy.terminate();
    client
        .reply()
        .expect_error("TRYAGAIN preshard: the proxy stops; it has not run");
    assert!(proxy.wait(PATIENCE).success());
}

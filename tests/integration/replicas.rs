//! `WAIT` over nodes with real replicas: it counts those that have what the client wrote, and no others.

use std::time::{Duration, Instant};

use crate::harness::{Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, wait_until};

fn with(more: &[&str]) -> Node {
    Node::with(NodeOptions {
        more: more.iter().map(|&option| option.to_owned()).collect(),
        ..NodeOptions::default()
    })
}

/// A node that does not wait for more replicas before it serves the first.
fn primary() -> Node {
    with(&["--repl-diskless-sync-delay", "0"])
}

fn replica_of(node: &Node) -> Node {
    let replica = with(&["--replicaof", "127.0.0.1", &node.port.to_string()]);
    wait_until("the replica is in step", PATIENCE, || {
        let link = replica.client().ask("INFO replication").text();
        let seen = node.client().ask("INFO replication").text();
        link.contains("master_link_status:up") && seen.contains("state=online")
    });
    replica
}

fn proxy_of(nodes: &[&Node]) -> Proxy {
    let addresses: Vec<String> = nodes.iter().map(|node| node.address()).collect();
    Setup::of(&addresses).start()
}

fn waits_on(node: &Node) -> bool {
    node.info("blocked_clients") == 1
}

#[test]
fn the_count_is_that_of_the_node_with_the_fewest_replicas() {
    let (first, second) = (primary(), primary());
    let _replica = replica_of(&first);
    let proxy = proxy_of(&[&first, &second]);
    let mut client = proxy.client();
    client.ask("SET a 1").expect_ok();
    assert_eq!(client.ask("WAIT 0 0"), Reply::Int(0));
    assert_eq!(client.ask("WAIT 1 50"), Reply::Int(0));
    // Pinned databases live on the nodes in turn.
    let mut counts = Vec::new();
    for database in 1..=2 {
        client.ask(&format!("SELECT {database}")).expect_ok();
        client.ask("SET a 1").expect_ok();
        counts.push(client.ask("WAIT 1 2000").int());
    }
    counts.sort_unstable();
    assert_eq!(counts, [0, 1]);
}

#[test]
fn what_was_written_is_on_the_replicas_when_it_is_answered() {
    let (first, second) = (primary(), primary());
    let replicas = [replica_of(&first), replica_of(&second)];
    let proxy = proxy_of(&[&first, &second]);
    for mut client in [proxy.client(), proxy.client3()] {
        for round in 0..20 {
            let value = round.to_string();
            let keys: Vec<String> = (0..8).map(|key| format!("k{key}")).collect();
            for key in &keys {
                client.command(&["SET", key, &value]);
            }
            client.command(&["WAIT", "1", "0"]);
            client.command(&["PING"]);
            for _ in &keys {
                client.reply().expect_ok();
            }
            assert_eq!(client.reply(), Reply::Int(1));
            assert_eq!(client.reply(), Reply::Simple("PONG".into()));
            let found: usize = replicas
                .iter()
                .flat_map(|replica| (0..16).map(move |database| replica.client_in(database)))
                .map(|mut on_replica| {
                    let has = keys
                        .iter()
                        .filter(|key| on_replica.call(&["GET", key]) == Reply::from(value.as_str()));
                    has.count()
                })
                .sum();
            assert_eq!(found, keys.len(), "round {round}");
        }
    }
}

#[test]
fn a_replica_that_stands_still_is_not_counted() {
    let node = primary();
    let replica = replica_of(&node);
    let proxy = proxy_of(&[&node]);
    let (mut client, mut early) = (proxy.client(), proxy.client());
    client.ask("SET a 1").expect_ok();
    assert_eq!(client.ask("WAIT 1 20000"), Reply::Int(1));
    // Leaves a connection behind that has seen nothing of what comes now.
    assert_eq!(early.ask("WAIT 1 20000"), Reply::Int(1));
    replica.freeze();
    client.ask("SET a 2").expect_ok();
    let began = Instant::now();
    assert_eq!(client.ask("WAIT 1 200"), Reply::Int(0));
    assert!(began.elapsed() >= Duration::from_millis(190));
    replica.thaw();
    assert_eq!(client.ask("WAIT 1 0"), Reply::Int(1));
}

#[test]
fn a_wait_ends_when_its_client_is_unblocked_or_leaves() {
    let (first, second) = (primary(), primary());
    let proxy = proxy_of(&[&first, &second]);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let id = client.ask("CLIENT ID").int();
    for (how, answer) in [
        ("TIMEOUT", Reply::Int(0)),
        (
            "ERROR",
            Reply::Error("UNBLOCKED client unblocked via CLIENT UNBLOCK".into()),
        ),
    ] {
        client.command(&["WAIT", "1", "0"]);
        wait_until("the client waits", PATIENCE, || waits_on(&first));
        assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id} {how}")), Reply::Int(1));
        assert_eq!(client.reply(), answer);
        assert_eq!(client.ask("PING"), Reply::Simple("PONG".into()));
    }
    client.command(&["WAIT", "1", "0"]);
    wait_until("the client waits", PATIENCE, || waits_on(&first));
    drop(client);
    wait_until("nobody waits", PATIENCE, || !waits_on(&first));
    let page = || proxy.http_get("/metrics").1;
    wait_until("no connection is in use", PATIENCE, || {
        let page = page();
        let mut used = page
            .lines()
            .filter(|line| line.starts_with("preshard_node_dedicated_used{"));
        used.all(|line| line.ends_with(" 0"))
    });
}

#[test]
fn a_node_that_dies_meanwhile_is_not_counted_as_none() {
    let (first, mut second) = (primary(), primary());
    let _replica = replica_of(&first);
    let proxy = Setup::of(&[first.address(), second.address()])
        .announce(&["node_down", "link_closed", "probe_failed", "node_unreachable"])
        .start();
    let mut client = proxy.client();
    client.ask("SET a 1").expect_ok();
    client.command(&["WAIT", "1", "0"]);
    wait_until("the client waits", PATIENCE, || waits_on(&second));
    second.kill();
    let reply = client.reply();
    assert!(
        reply.error().is_some_and(|line| line.starts_with("UNCERTAIN")),
        "{reply:?}"
    );
}

#[test]
fn wrong_numbers_are_refused_in_the_words_of_redis() {
    let node = primary();
    let proxy = proxy_of(&[&node]);
    let (mut ours, mut plain) = (proxy.client(), node.client());
    for line in ["WAIT x 1", "WAIT 1 x", "WAIT 1 -1", "WAIT 1", "WAIT 1 1 1"] {
        assert_eq!(ours.ask(line), plain.ask(line), "{line}");
    }
}

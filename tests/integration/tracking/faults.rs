//! Nodes that cannot tell of changes: whoever tracks drops everything, and caches nothing of such a node meanwhile.

use super::{PATIENCE, expect, invalidated, nothing_is_left, tracking};
use crate::harness::{Client, Node, Proxy, Reply, Setup, key_in, lacks, small, wait_until};

/// What is logged when a node goes and comes.
pub(super) const NODE_AWAY: &[&str] = &[
    "subscriptions_interrupted",
    "node_not_heard",
    "node_empty",
    "node_down",
    "link_closed",
    "probe_failed",
];

/// Reads until nothing has been said of `key` behind its value: the node tells of changes again.
fn until_it_may_be_cached(client: &mut Client, key: &str) {
    wait_until("the node tells of changes", PATIENCE, || {
        let reply = client.call(&["GET", key]);
        if reply.error().is_some() {
            return false;
        }
        assert!(!matches!(reply, Reply::Push(_)), "{reply:?}");
        let mut cached = true;
        client.command(&["PING"]);
        loop {
            match client.reply() {
                Reply::Push(_) => cached = false,
                reply => {
                    assert_eq!(reply, Reply::Simple("PONG".into()));
                    return cached;
                }
            }
        }
    });
}

/// The links of all workers are there; clients take turns with the workers.
fn until_all_serve(proxy: &Proxy, key: &str) {
    wait_until("all workers serve it", PATIENCE, || {
        (0..4).all(|_| proxy.client().call(&["GET", key]).error().is_none())
    });
}

/// Reads pushes until the client has been told to drop everything.
fn until_everything(client: &mut Client) {
    while invalidated(client) != ["everything"] {}
}

#[test]
fn a_node_that_dies_and_comes_back() {
    let mut nodes = vec![Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(NODE_AWAY)
        .start();
    let mut reads = tracking(&proxy, "");
    let mut all = tracking(&proxy, "BCAST");
    let (here, there) = (key_in(0, 8, "here"), key_in(7, 8, "there"));
    for key in [&here, &there] {
        reads.call(&["GET", key]);
    }
    nodes[1].kill();
    until_everything(&mut reads);
    until_everything(&mut all);
    // The other node goes on telling.
    reads.call(&["GET", &here]);
    proxy.client().call(&["SET", &here, "1"]).expect_ok();
    expect(&mut reads, &[&here]);
    expect(&mut all, &[&here]);
    // Who begins to track now is not held up.
    let mut late = tracking(&proxy, "");
    assert!(late.call(&["GET", &there]).error().is_some());
    nodes[1].restart();
    until_everything(&mut reads);
    until_everything(&mut all);
    until_everything(&mut late);
    for client in [&mut reads, &mut late] {
        until_it_may_be_cached(client, &there);
    }
    until_all_serve(&proxy, &there);
    proxy.client().call(&["SET", &there, "2"]).expect_ok();
    expect(&mut reads, &[&there]);
    expect(&mut late, &[&there]);
    expect(&mut all, &[&there]);
    wait_until("it is counted", PATIENCE, || {
        proxy.metric("preshard_tracking_gaps_total") > 0
    });
    assert_eq!(
        proxy.metric("preshard_pubsub_gaps_total"),
        0,
        "nobody had subscribed"
    );
    drop((reads, all, late));
    nothing_is_left(&nodes, &proxy);
}

#[test]
fn a_connection_that_only_tells_is_lost() {
    let (nodes, proxy) = {
        let nodes = vec![Node::start(), Node::start()];
        let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
            .announce(NODE_AWAY)
            .start();
        (nodes, proxy)
    };
    let mut client = tracking(&proxy, "");
    let key = key_in(7, 8, "there");
    client.call(&["GET", &key]);
    let mut node = nodes[1].client();
    let list = node.ask("CLIENT LIST").text();
    let feeds = list
        .lines()
        .filter(|line| line.contains(" flags=tB ") || line.contains(" flags=Bt "));
    for line in feeds {
        let id = line.strip_prefix("id=").unwrap().split(' ').next().unwrap();
        node.call(&["CLIENT", "KILL", "ID", id]);
    }
    // Lost, and confirmed anew.
    until_everything(&mut client);
    until_everything(&mut client);
    until_it_may_be_cached(&mut client, &key);
    until_all_serve(&proxy, &key);
    proxy.client().call(&["SET", &key, "2"]).expect_ok();
    expect(&mut client, &[&key]);
}

#[test]
fn while_a_node_is_not_heard_its_keys_are_dropped_right_behind_their_replies() {
    if lacks("ACL rules for subcommands") {
        return;
    }
    // The node refuses to tell of changes when it is asked again: its other commands go on.
    let nodes = vec![Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        // preshard's own user would get its rights back at once.
        .nodes("acl_users = \"off\"")
        .announce(NODE_AWAY)
        .start();
    let mut client = tracking(&proxy, "");
    let mut prefixes = tracking(&proxy, "BCAST PREFIX x:");
    let mut node = nodes[1].client();
    node.ask("ACL SETUSER default -client|tracking").expect_ok();
    node.ask("CLIENT KILL TYPE normal SKIPME yes");
    node.ask("CLIENT KILL TYPE pubsub");
    until_everything(&mut client);
    until_everything(&mut prefixes);
    let key = key_in(7, 8, "x:there");
    until_all_serve(&proxy, &key);
    for round in 0..10 {
        proxy
            .client()
            .call(&["SET", &key, &round.to_string()])
            .expect_ok();
        for client in [&mut client, &mut prefixes] {
            assert_eq!(
                client.call(&["GET", &key]),
                Reply::from(round.to_string().as_str())
            );
            expect(client, &[&key]);
        }
    }
    // What a prefix does not begin is not told; what is not heard cannot be tracked.
    let other = key_in(7, 8, "y:there");
    prefixes.call(&["GET", &other]);
    assert_eq!(prefixes.ask("PING"), Reply::Simple("PONG".into()));
    let mut refused = proxy.client3();
    refused.ask("CLIENT TRACKING ON").expect_error("NOPERM");
    assert_eq!(
        refused.ask("CLIENT TRACKINGINFO").field("flags").unwrap().items()[0].text(),
        "off"
    );
    refused.call(&["GET", &key]);
    assert_eq!(refused.ask("PING"), Reply::Simple("PONG".into()));
    node.ask("ACL SETUSER default +@all").expect_ok();
    drop((client, prefixes, refused));
    nothing_is_left(&nodes, &proxy);
    let mut again = tracking(&proxy, "");
    again.call(&["GET", &key]);
    proxy.client().call(&["SET", &key, "x"]).expect_ok();
    expect(&mut again, &[&key]);
}

#[test]
fn a_node_that_does_not_answer_is_not_trusted_for_long() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("request_timeout = \"500ms\"")
        .announce(NODE_AWAY)
        .start();
    let mut early = tracking(&proxy, "");
    let key = key_in(7, 8, "there");
    early.call(&["GET", &key]);
    nodes[1].freeze();
    until_everything(&mut early);
    // Who begins to track now waits for the deadline at most.
    let mut late = tracking(&proxy, "");
    nodes[1].thaw();
    for client in [&mut early, &mut late] {
        until_everything(client);
        until_it_may_be_cached(client, &key);
    }
    until_all_serve(&proxy, &key);
    proxy.client().call(&["SET", &key, "x"]).expect_ok();
    expect(&mut early, &[&key]);
    expect(&mut late, &[&key]);
}

#[test]
fn an_invalidation_never_stands_inside_a_reply_and_never_before_an_older_one() {
    let (_nodes, proxy) = small();
    let mut writer = proxy.client();
    let (large, small) = (key_in(0, 8, "large"), key_in(7, 8, "small"));
    writer.call(&["SET", &large, &"v".repeat(8 << 20)]).expect_ok();
    let mut client = tracking(&proxy, "");
    for round in 0..10 {
        client.call(&["GET", &small]);
        // Not read by the client until the change has been told to the worker.
        client.command(&["GET", &large]);
        client.command(&["GET", &small]);
        writer.call(&["SET", &small, &round.to_string()]).expect_ok();
        assert_eq!(client.reply().text().len(), 8 << 20);
        assert!(matches!(client.reply(), Reply::Bulk(_) | Reply::Null));
        expect(&mut client, &[&small]);
    }
}

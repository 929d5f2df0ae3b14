//! Publish and subscribe through real nodes: what is published anywhere is heard once by all who listen, and counted right.

mod events;
mod load;

use crate::harness::{Client, Node, PATIENCE, Proxy, Reply, Setup, key_in, lacks, small, wait_until};

/// What is logged when a node goes and comes.
const NODE_AWAY: &[&str] = &[
    "subscriptions_interrupted",
    "node_not_heard",
    "node_empty",
    "node_down",
    "link_closed",
    "probe_failed",
];

/// A message, push or confirmation as its words: `message news hello`.
fn words(reply: &Reply) -> String {
    let words: Vec<String> = reply.items().iter().map(Reply::text).collect();
    words.join(" ")
}

fn expect(client: &mut Client, expected: &[&str]) {
    for expected in expected {
        assert_eq!(words(&client.reply()), *expected);
    }
}

/// Subscribes, and reads the confirmations.
fn subscribe(client: &mut Client, line: &str) {
    client.command(&line.split_whitespace().collect::<Vec<_>>());
    for _ in line.split_whitespace().skip(1) {
        client.reply();
    }
}

/// A metric, summed over its labels.
fn nothing_is_left(nodes: &[Node], proxy: &Proxy) {
    for name in ["clients", "channels", "patterns", "shard_channels"] {
        let name = format!("preshard_pubsub_{name}");
        wait_until(&name, PATIENCE, || proxy.metric(&name) == 0);
    }
    for node in nodes {
        wait_until("a node has no subscription left", PATIENCE, || {
            let mut client = node.client();
            client.ask("PUBSUB CHANNELS").items().is_empty()
                && client.ask("PUBSUB NUMPAT").int() == 0
                && (lacks("shard channels") || client.ask("PUBSUB SHARDCHANNELS").items().is_empty())
        });
    }
}

#[test]
fn a_message_reaches_every_subscriber_once_and_is_counted() {
    let (nodes, proxy) = small();
    let mut listeners: Vec<Client> = (0..5)
        .map(|number| {
            let mut client = if number % 2 == 0 {
                proxy.client()
            } else {
                proxy.client3()
            };
            client.command(&["SUBSCRIBE", "news", "weather"]);
            expect(&mut client, &["subscribe news 1", "subscribe weather 2"]);
            client
        })
        .collect();
    let mut by_pattern = proxy.client();
    by_pattern.command(&["PSUBSCRIBE", "n*"]);
    expect(&mut by_pattern, &["psubscribe n* 1"]);
    let mut publisher = proxy.client();
    for (channel, count) in [("news", 6), ("weather", 5), ("nobody", 1), ("else", 0)] {
        assert_eq!(
            publisher.call(&["PUBLISH", channel, "hello"]),
            Reply::Int(count),
            "{channel}"
        );
    }
    // Every node is heard, whoever publishes there.
    for node in &nodes {
        assert!(node.client().ask("PUBLISH news direct").int() > 0);
    }
    for client in &mut listeners {
        let expected = ["message news direct"; 2];
        let mut got: Vec<String> = (0..4).map(|_| words(&client.reply())).collect();
        got.sort();
        assert_eq!(got[..2], expected);
        assert_eq!(got[2..], ["message news hello", "message weather hello"]);
        client.command(&["UNSUBSCRIBE"]);
        let mut last = [words(&client.reply()), words(&client.reply())];
        last.sort();
        assert!(last[0].starts_with("unsubscribe news") && last[1].starts_with("unsubscribe weather"));
        assert_eq!(client.ask("GET nothing"), Reply::Null, "nothing else came");
    }
    let mut got: Vec<String> = (0..4).map(|_| words(&by_pattern.reply())).collect();
    got.sort();
    assert_eq!(
        got,
        [
            "pmessage n* news direct",
            "pmessage n* news direct",
            "pmessage n* news hello",
            "pmessage n* nobody hello"
        ]
    );
    drop(by_pattern);
    nothing_is_left(&nodes, &proxy);
    assert_eq!(proxy.metric("preshard_pubsub_gaps_total"), 0);
}

#[test]
fn a_subscribed_client_of_resp2_may_do_little_and_says_so_as_redis() {
    if lacks("shard channels") {
        return;
    }
    let (nodes, proxy) = small();
    let alone = Node::start();
    let (mut ours, mut redis) = (proxy.client(), alone.client());
    for line in [
        "SUBSCRIBE a b a",
        "UNSUBSCRIBE zz",
        "PSUBSCRIBE p*",
        "SSUBSCRIBE x",
        "GET k",
        "CONFIG GET x",
        "MULTI",
        "PING",
        "PING hi",
        "PING a b",
        "PUBLISH a b",
        "HELLO 3",
        "NOSUCH",
        "GET",
        "CLIENT ID",
        "PUNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "UNSUBSCRIBE b",
        "UNSUBSCRIBE a",
        "UNSUBSCRIBE",
        "SUNSUBSCRIBE x y",
        "SUNSUBSCRIBE",
        "GET k",
        "PING",
        "SUBSCRIBE",
        "SUBSCRIBE q",
        "RESET",
        "GET k",
        "SUBSCRIBE q",
        "QUIT",
    ] {
        let replies = match line {
            "SUBSCRIBE a b a" => 3,
            "SUNSUBSCRIBE x y" => 2,
            _ => 1,
        };
        for client in [&mut ours, &mut redis] {
            client.command(&line.split_whitespace().collect::<Vec<_>>());
        }
        for _ in 0..replies {
            let (got, expected) = (ours.reply_bytes(), redis.reply_bytes());
            if line == "NOSUCH" {
                assert!(got.starts_with(b"-ERR unknown command"));
                continue;
            }
            assert_eq!(
                String::from_utf8_lossy(&got),
                String::from_utf8_lossy(&expected),
                "after {line}"
            );
        }
    }
    assert_eq!(ours.until_closed(), b"");
    nothing_is_left(&nodes, &proxy);
}

#[test]
fn a_client_of_resp3_goes_on_as_usual() {
    if lacks("shard channels") {
        return;
    }
    let (_nodes, proxy) = small();
    let alone = Node::start();
    let (mut ours, mut redis) = (proxy.client3(), alone.client());
    redis.ask("HELLO 3");
    for line in [
        "SUBSCRIBE a b",
        "PING",
        "PING x",
        "UNSUBSCRIBE zz",
        "GET k",
        "PUBSUB CHANNELS z*",
        "PUBSUB NUMSUB",
        "PUBSUB NUMSUB a zz",
        "PUBSUB NUMPAT",
        "UNSUBSCRIBE b",
        "UNSUBSCRIBE a",
        "UNSUBSCRIBE",
        "PSUBSCRIBE n*",
        "PUBSUB NUMPAT",
        "PUBSUB CHANNELS",
        "SSUBSCRIBE s",
        "PUBSUB SHARDCHANNELS",
        "PUBSUB SHARDNUMSUB s t",
        "SPUBLISH t m",
        "PUBLISH other m",
    ] {
        for client in [&mut ours, &mut redis] {
            client.command(&line.split_whitespace().collect::<Vec<_>>());
        }
        for _ in 0..if line == "SUBSCRIBE a b" { 2 } else { 1 } {
            let (got, expected) = (ours.reply_bytes(), redis.reply_bytes());
            assert_eq!(
                String::from_utf8_lossy(&got),
                String::from_utf8_lossy(&expected),
                "after {line}"
            );
        }
    }
    let line = ours.ask("CLIENT INFO").text();
    for part in [" flags=P ", " sub=0 ", " psub=1 ", " ssub=1 "] {
        assert!(line.contains(part), "no{part}in {line}");
    }
    // The protocol may change while subscribed, and with it what is allowed.
    ours.ask("HELLO 2").items();
    ours.ask("GET k").expect_error("ERR Can't execute 'get'");
    assert_eq!(words(&ours.ask("PING")), "pong ");
}

#[test]
fn shard_channels_are_a_world_of_their_own() {
    if lacks("shard channels") {
        return;
    }
    let (nodes, proxy) = small();
    let (mut listener, mut other) = (proxy.client3(), proxy.client3());
    subscribe(&mut listener, "SSUBSCRIBE s");
    subscribe(&mut other, "SUBSCRIBE s");
    subscribe(&mut other, "PSUBSCRIBE *");
    let mut publisher = proxy.client();
    assert_eq!(publisher.ask("SPUBLISH s one"), Reply::Int(1));
    assert_eq!(publisher.ask("PUBLISH s two"), Reply::Int(2));
    publisher.ask("SELECT 1").expect_ok();
    assert_eq!(publisher.ask("SPUBLISH s three"), Reply::Int(1));
    expect(&mut listener, &["smessage s one", "smessage s three"]);
    let mut got = [words(&other.reply()), words(&other.reply())];
    got.sort();
    assert_eq!(got, ["message s two", "pmessage * s two"]);
    drop((listener, other));
    nothing_is_left(&nodes, &proxy);
}

#[test]
fn what_transactions_and_pinned_databases_publish_is_heard() {
    let (_nodes, proxy) = small();
    let mut listener = proxy.client();
    subscribe(&mut listener, "SUBSCRIBE c");
    let mut publisher = proxy.client();
    for shard in 0..8 {
        let key = key_in(shard, 8, "k");
        publisher.ask("MULTI").expect_ok();
        publisher.call(&["SET", &key, "1"]);
        publisher.call(&["PUBLISH", "c", &format!("from-shard-{shard}")]);
        assert_eq!(publisher.ask("EXEC").items().len(), 2);
        expect(&mut listener, &[&format!("message c from-shard-{shard}")]);
    }
    for db in 1..=4 {
        publisher.call(&["SELECT", &db.to_string()]).expect_ok();
        assert_eq!(
            publisher.call(&["PUBLISH", "c", &format!("from-{db}")]),
            Reply::Int(1)
        );
        expect(&mut listener, &[&format!("message c from-{db}")]);
    }
}

#[test]
fn messages_of_one_publisher_stay_in_order() {
    let (_nodes, proxy) = small();
    let mut listeners: Vec<Client> = (0..4).map(|_| proxy.client3()).collect();
    for listener in &mut listeners {
        subscribe(listener, "SUBSCRIBE c");
    }
    let mut publisher = proxy.client();
    let mut pipeline = Vec::new();
    for number in 0..5000 {
        let number = number.to_string();
        pipeline.extend(crate::harness::wire::frame(&["PUBLISH", "c", &number]));
    }
    publisher.send(&pipeline);
    for _ in 0..5000 {
        assert_eq!(publisher.reply(), Reply::Int(4));
    }
    for listener in &mut listeners {
        for number in 0..5000 {
            assert_eq!(words(&listener.reply()), format!("message c {number}"));
        }
    }
}

#[test]
fn who_subscribes_while_replies_are_due_gets_everything_in_its_place() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client3();
    let large = "x".repeat(3_000_000);
    client.call(&["SET", "large", &large]).expect_ok();
    let mut pipeline = crate::harness::wire::frame(&["SUBSCRIBE", "c"]);
    let mut expected = 0;
    for round in 0..40 {
        for words in [
            &["GET", "large"][..],
            &["PUBLISH", "c", "m"],
            &["SUBSCRIBE", &format!("more-{round}")],
            &["MGET", "large", "a", "b"],
        ] {
            pipeline.extend(crate::harness::wire::frame(words));
        }
        expected += 1;
    }
    let mut sender = client.stream().try_clone().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &pipeline).unwrap());
    let (mut messages, mut replies) = (0, 0);
    while messages < expected || replies < 4 * 40 + 1 {
        match client.reply() {
            Reply::Push(items) if items[0].text() == "message" => messages += 1,
            Reply::Push(items) => {
                assert_eq!(items[0].text(), "subscribe");
                replies += 1;
            }
            Reply::Bulk(bytes) => {
                assert!(bytes == large.as_bytes(), "a message inside of a reply");
                replies += 1;
            }
            Reply::Array(items) => {
                assert!(items[0] == Reply::Bulk(large.clone().into_bytes()));
                replies += 1;
            }
            Reply::Int(count) => {
                assert_eq!(count, 1);
                replies += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    writer.join().unwrap();
}

#[test]
fn a_node_that_comes_back_is_heard_again() {
    let mut nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(NODE_AWAY)
        .start();
    let (mut listener, mut early) = (proxy.client3(), proxy.client());
    subscribe(&mut listener, "SUBSCRIBE a b c");
    subscribe(&mut listener, "PSUBSCRIBE p*");
    subscribe(&mut early, "SUBSCRIBE a");
    nodes[1].kill();
    // Who subscribes now hears the node that is there, and does not wait for the other one.
    wait_until("the loss is counted", PATIENCE, || {
        proxy.metric("preshard_pubsub_gaps_total") > 0
    });
    let mut late = proxy.client3();
    subscribe(&mut late, "SUBSCRIBE late");
    assert_eq!(nodes[0].client().ask("PUBLISH late one").int(), 1);
    expect(&mut late, &["message late one"]);
    nodes[1].restart();
    wait_until("all subscriptions are there again", PATIENCE, || {
        let mut client = nodes[1].client();
        let both_workers = client.ask("PUBSUB NUMSUB a").items()[1] == Reply::Int(2);
        both_workers
            && client.ask("PUBSUB CHANNELS").items().len() == 4
            && client.ask("PUBSUB NUMPAT").int() == 1
    });
    let mut publisher = nodes[1].client();
    for channel in ["a", "b", "p1", "late"] {
        assert!(publisher.call(&["PUBLISH", channel, "again"]).int() > 0);
    }
    expect(
        &mut listener,
        &["message a again", "message b again", "pmessage p* p1 again"],
    );
    expect(&mut early, &["message a again"]);
    expect(&mut late, &["message late again"]);
    wait_until("it is logged", PATIENCE, || {
        proxy.log().contains("subscriptions_restored")
    });
}

#[test]
fn subscribers_are_closed_with_a_node_if_the_operator_wants_it_so() {
    let mut nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .nodes("on_gap = \"close\"")
        .announce(NODE_AWAY)
        .start();
    let mut listener = proxy.client3();
    subscribe(&mut listener, "SUBSCRIBE a");
    let mut other = proxy.client();
    nodes[1].kill();
    assert_eq!(listener.until_closed(), b"");
    assert_eq!(other.ask("PING"), Reply::Simple("PONG".into()));
    proxy.await_metric(
        "preshard_client_disconnects_total{reason=\"subscription_gap\"}",
        1,
    );
}

#[test]
fn limits_of_subscriptions_are_errors() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let long = "x".repeat(4097);
    client
        .call(&["SUBSCRIBE", "a", &long])
        .expect_error("ERR the name of a channel");
    let many: Vec<String> = std::iter::once("SUBSCRIBE".to_owned())
        .chain((0..10_000).map(|number| format!("c{number}")))
        .collect();
    client.command(&many);
    for number in 0..10_000 {
        assert_eq!(
            words(&client.reply()),
            format!("subscribe c{number} {}", number + 1)
        );
    }
    client
        .call(&["PSUBSCRIBE", "one-more"])
        .expect_error("ERR more than 10000 channels");
    assert_eq!(proxy.client().ask("PUBLISH c77 x"), Reply::Int(1));
    expect(&mut client, &["message c77 x"]);
    client.ask("RESET");
    assert_eq!(client.ask("GET nothing"), Reply::Null);
    client.command(&many[..3]);
    expect(&mut client, &["subscribe c0 1", "subscribe c1 2"]);
}

#[test]
fn whoever_leaves_in_whatever_way_leaves_nothing() {
    if lacks("shard channels") {
        return;
    }
    let (nodes, proxy) = small();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    // Workers give the ids: their order need not be that in which clients came.
    let id = clients[0].ask("CLIENT ID").int().to_string();
    for (number, client) in clients.iter_mut().enumerate() {
        client
            .ask(&format!("CLIENT SETNAME listener-{number}"))
            .expect_ok();
        subscribe(client, "SUBSCRIBE a b");
        subscribe(client, "PSUBSCRIBE p*");
        subscribe(client, "SSUBSCRIBE s");
    }
    wait_until("the levels are shown", PATIENCE, || {
        proxy.metric("preshard_pubsub_clients") == 4
    });
    let mut other = proxy.client();
    wait_until("its subscriptions are listed", PATIENCE, || {
        let list = other.ask("CLIENT LIST").text();
        list.lines()
            .any(|line| line.contains("name=listener-0 ") && line.contains(" sub=2 psub=1 ssub=1 "))
    });
    assert_eq!(other.call(&["CLIENT", "KILL", "ID", &id]), Reply::Int(1));
    let _ = clients[1].ask("RESET");
    clients[2].ask("QUIT").expect_ok();
    clients.remove(3);
    nothing_is_left(&nodes, &proxy);
    assert_eq!(clients[1].ask("GET nothing"), Reply::Null);
    assert_eq!(other.ask("PUBLISH a x"), Reply::Int(0));
}

#[test]
fn a_node_that_does_not_answer_holds_nobody_up_for_ever() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("request_timeout = \"1s\"")
        .announce(NODE_AWAY)
        .start();
    let mut early = proxy.client3();
    subscribe(&mut early, "SUBSCRIBE a");
    nodes[1].freeze();
    let mut late = proxy.client3();
    late.command(&["SUBSCRIBE", "b"]);
    expect(&mut late, &["subscribe b 1"]);
    assert!(nodes[0].client().ask("PUBLISH b x").int() > 0);
    expect(&mut late, &["message b x"]);
    nodes[1].thaw();
    wait_until("the node knows of b", PATIENCE, || {
        nodes[1].client().ask("PUBSUB NUMSUB b").items()[1] == Reply::Int(1)
    });
    assert!(nodes[1].client().ask("PUBLISH b y").int() > 0);
    expect(&mut late, &["message b y"]);
}

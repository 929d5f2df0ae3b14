//! Bursts, slow readers and large messages: each costs whom it concerns, and nobody else.

use super::{expect, nothing_is_left, subscribe, words};
use crate::harness::wire::frame;
use crate::harness::{Client, Node, PATIENCE, Reply, Setup, small, wait_until};

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_nobody_else_suffers() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("output_bytes_soft = \"512KiB\"")
        .proxy("output_bytes_hard = \"4MiB\"")
        .start();
    let mut readers: Vec<Client> = (0..3).map(|_| proxy.client3()).collect();
    let mut lazy: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    for client in readers.iter_mut().chain(&mut lazy) {
        subscribe(client, "SUBSCRIBE c");
    }
    const MESSAGES: usize = 6000;
    let payload = "x".repeat(4000);
    let reading: Vec<_> = readers
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    let text = words(&client.reply());
                    assert!(text.starts_with(&format!("message c {number}:")), "{text:.40}");
                }
                client
            })
        })
        .collect();
    let mut publisher = proxy.client();
    for number in 0..MESSAGES {
        let reached = publisher
            .call(&["PUBLISH", "c", &format!("{number}:{payload}")])
            .int();
        assert!(reached == 5 || reached == 4 || reached == 3, "{reached}");
    }
    for reading in reading {
        reading.join().unwrap();
    }
    for mut client in lazy {
        assert!(client.until_closed().len() < MESSAGES * payload.len());
    }
    proxy.await_metric("preshard_client_disconnects_total{reason=\"slow_subscriber\"}", 2);
    assert_eq!(proxy.metric("preshard_pubsub_gaps_total"), 0);
    nothing_is_left(&nodes, &proxy);
}

#[test]
fn a_message_that_nobody_may_hold_closes_only_those_that_it_is_for() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("output_bytes_soft = \"512KiB\"")
        .proxy("output_bytes_hard = \"1MiB\"")
        .start();
    let (mut large, mut pattern, mut other) = (proxy.client(), proxy.client3(), proxy.client3());
    subscribe(&mut large, "SUBSCRIBE large");
    subscribe(&mut pattern, "PSUBSCRIBE l*");
    subscribe(&mut other, "SUBSCRIBE other");
    let payload = "x".repeat(5 << 20);
    let mut node = nodes[1].client();
    assert!(node.call(&["PUBLISH", "large", &payload]).int() > 0);
    assert_eq!(large.until_closed(), b"");
    assert_eq!(pattern.until_closed(), b"");
    assert!(node.ask("PUBLISH other still-here").int() > 0);
    expect(&mut other, &["message other still-here"]);
    assert_eq!(proxy.metric("preshard_pubsub_gaps_total"), 0);
}

#[test]
fn a_thousand_subscribers_get_everything_while_others_are_served() {
    let (nodes, proxy) = small();
    let mut listeners: Vec<Client> = (0..1000).map(|_| proxy.client3()).collect();
    for client in &mut listeners {
        client.command(&["SUBSCRIBE", "c"]);
    }
    for client in &mut listeners {
        expect(client, &["subscribe c 1"]);
    }
    const MESSAGES: usize = 100;
    let mut publisher = proxy.client();
    let mut pipeline = Vec::new();
    for number in 0..MESSAGES {
        pipeline.extend(frame(&["PUBLISH", "c", &number.to_string()]));
    }
    publisher.send(&pipeline);
    let mut other = proxy.client();
    for number in 0..200 {
        let key = format!("key-{number}");
        other.call(&["SET", &key, "1"]).expect_ok();
    }
    for _ in 0..MESSAGES {
        assert_eq!(publisher.reply(), Reply::Int(1000));
    }
    for client in &mut listeners {
        for number in 0..MESSAGES {
            assert_eq!(words(&client.reply()), format!("message c {number}"));
        }
    }
    proxy.await_metric("preshard_pubsub_deliveries_total", 1000 * MESSAGES as u64);
    assert_eq!(publisher.ask("PUBSUB NUMSUB c").items()[1], Reply::Int(1000));
    drop(listeners);
    nothing_is_left(&nodes, &proxy);
}

#[test]
fn publishers_wait_for_deliveries_instead_of_losing_them() {
    let (_nodes, proxy) = small();
    let mut listeners: Vec<Client> = (0..200).map(|_| proxy.client3()).collect();
    for client in &mut listeners {
        client.command(&["SUBSCRIBE", "c"]);
    }
    for client in &mut listeners {
        expect(client, &["subscribe c 1"]);
    }
    const MESSAGES: usize = 2000;
    let mut publisher = proxy.client();
    let mut pipeline = Vec::new();
    for number in 0..MESSAGES {
        pipeline.extend(frame(&["PUBLISH", "c", &number.to_string()]));
    }
    publisher.send(&pipeline);
    for _ in 0..MESSAGES {
        assert_eq!(publisher.reply(), Reply::Int(200));
    }
    for client in &mut listeners {
        for number in 0..MESSAGES {
            assert_eq!(words(&client.reply()), format!("message c {number}"));
        }
    }
    wait_until(
        "a burst that no turn can deliver made somebody wait",
        PATIENCE,
        || proxy.metric("preshard_limits_reached_total{limit=\"publishers\"}") > 0,
    );
    assert_eq!(proxy.metric("preshard_pubsub_gaps_total"), 0);
}
